"""How the engine and its child talk: JSON messages over a socket pair, voxels in memory handed over by descriptor.

No pickle, no named shared memory: an anonymous memory file has no name to leak, needs no room in /dev/shm, and is gone
with the last process that holds it, however that ends. Standard library only; both sides import this.
"""

from __future__ import annotations

import json
import os
import socket
import struct
import time
from collections.abc import Mapping
from typing import Any, Final

MESSAGE_BYTES_MAX: Final = 1 << 20
"""Largest JSON message in bytes; voxels do not travel in messages."""

_LENGTH: Final = struct.Struct("!I")


class ChannelClosed(Exception):
    """The other side is gone, or does not speak this protocol."""


class Channel:
    """One end. Messages are JSON objects, each with at most one file descriptor. Used by one thread at a time."""

    def __init__(self, end: socket.socket) -> None:
        self._socket = end

    def send(self, message: Mapping[str, Any], descriptor: int | None = None) -> None:
        """Send one message; the descriptor is duplicated into the other process. Raises ChannelClosed."""
        body = json.dumps(message).encode()
        data = _LENGTH.pack(len(body)) + body
        try:
            self._socket.settimeout(None)
            # The descriptor rides on the first byte that is sent; the rest may need several sends.
            sent = socket.send_fds(self._socket, [data], [] if descriptor is None else [descriptor])
            self._socket.sendall(data[sent:])
        except OSError as error:
            raise ChannelClosed(type(error).__name__) from error

    def receive(self, timeout_s: float | None = None) -> tuple[dict[str, Any], int | None]:
        """The next message and the descriptor that came with it, which the caller must close.

        Raises TimeoutError after `timeout_s` seconds, ChannelClosed if the other side is gone.
        """
        until = None if timeout_s is None else time.monotonic() + timeout_s
        descriptors: list[int] = []
        try:
            (length,) = _LENGTH.unpack(self._read(_LENGTH.size, until, descriptors))
            if length > MESSAGE_BYTES_MAX:
                raise ChannelClosed("message too long")
            message = json.loads(self._read(length, until, descriptors))
            if not isinstance(message, dict) or len(descriptors) > 1:
                raise ChannelClosed("malformed message")
        except BaseException as error:
            for descriptor in descriptors:
                os.close(descriptor)
            if isinstance(error, ValueError):
                raise ChannelClosed("malformed message") from error
            raise
        return message, descriptors[0] if descriptors else None

    def close(self) -> None:
        """Close this end; the other side sees the end of the stream."""
        self._socket.close()

    def _read(self, count: int, until: float | None, descriptors: list[int]) -> bytes:
        data = b""
        while len(data) < count:
            left = None if until is None else until - time.monotonic()
            if left is not None and left <= 0:
                raise TimeoutError
            try:
                self._socket.settimeout(left)
                chunk, received, _, _ = socket.recv_fds(self._socket, count - len(data), 1)
            except TimeoutError:
                raise
            except OSError as error:
                raise ChannelClosed(type(error).__name__) from error
            descriptors.extend(received)
            if not chunk:
                raise ChannelClosed("end of stream")
            data += chunk
        return data
