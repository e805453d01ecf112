"""An audit repository: mutual TLS, and a parser of RFC 5425 frames that forgives nothing."""

from __future__ import annotations

import re
import socket
import ssl
import struct
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass

from dicom_bridge.tls import TlsFiles, server_context

LOOPBACK = "127.0.0.1"
WAIT_S = 30.0
_MESSAGE = re.compile(
    rb"<(0|[1-9][0-9]{0,2})>1 ([0-9T:.Z+-]{20,32}) ([!-~]{1,255}) ([!-~]{1,48}) ([!-~]{1,128}) ([!-~]{1,32}) - "
    rb"\xef\xbb\xbf(.*)",
    re.DOTALL,
)


class FrameBroken(Exception):
    """Not RFC 5425, to the octet."""


@dataclass(frozen=True, slots=True)
class Message:
    """One that came whole, over which connection (counted from 0)."""

    priority: int
    time: str
    host: str
    app: str
    process: str
    msgid: str
    text: str
    connection: int = 0


def split(data: bytes) -> tuple[list[bytes], bytes]:
    """The whole frames of the stream so far, and the rest. Raises FrameBroken as soon as it can be known."""
    found = []
    while data:
        head = re.match(rb"([1-9][0-9]{0,4}) ", data)
        if head is None:
            if not re.fullmatch(rb"[1-9][0-9]{0,4}", data):
                raise FrameBroken(data[:20])
            break
        length = int(head[1])
        if len(data) < head.end() + length:
            break
        found.append(data[head.end() : head.end() + length])
        data = data[head.end() + length :]
    return found, data


def parsed(line: bytes, connection: int = 0) -> Message:
    """An RFC 5424 message as DICOM sends it. Raises FrameBroken."""
    match = _MESSAGE.fullmatch(line)
    if match is None or int(match[1]) > 191:
        raise FrameBroken(line[:80])
    priority, at, host, app, process, msgid = (part.decode("ascii") for part in match.groups()[:6])
    return Message(int(priority), at, host, app, process, msgid, match[7].decode("utf-8"), connection)


class Repository:
    """Listens on loopback until `stop`. `messages` came whole; `broken` is what breaks the protocol; `cut` was cut off.

    `dies_after`: octets in all after which it resets every connection and listens no more, in the middle of a frame or
    not. `deaf`: accepts, and never reads. `buffer`: octets that its machine takes in for it, about.
    """

    def __init__(
        self,
        files: TlsFiles,
        port: int = 0,
        *,
        dies_after: int | None = None,
        deaf: bool = False,
        buffer: int | None = None,
    ) -> None:
        self.messages: list[Message] = []
        self.broken: list[str] = []
        self.refused: list[str] = []
        self.cut = 0
        self.octets = 0
        self.connections = 0
        self._dies_after, self._deaf = dies_after, deaf
        self._context = server_context(files)
        self._open: list[socket.socket] = []
        self._threads: list[threading.Thread] = []
        self._listener = socket.create_server((LOOPBACK, port))
        if buffer is not None:
            self._listener.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, buffer)
        self.port = int(self._listener.getsockname()[1])
        self.dead = threading.Event()
        self._acceptor = threading.Thread(target=self._accept, daemon=True)
        self._acceptor.start()

    @property
    def texts(self) -> list[str]:
        """Of the messages, in the order in which they came."""
        return [one.text for one in self.messages]

    def wait(self, enough: Callable[[], bool], seconds: float = WAIT_S) -> None:
        """Until it is so."""
        until = time.monotonic() + seconds
        while not enough():
            assert time.monotonic() < until, (len(self.messages), self.broken, self.refused)
            time.sleep(0.01)

    def die(self) -> None:
        """As a crash does: nothing more is read, every connection is reset."""
        self.dead.set()
        with suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        for one in list(self._open):
            with suppress(OSError):
                one.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
                socket.socket.shutdown(one, socket.SHUT_RD)  # wakes whoever reads, and tells the peer nothing yet
                socket.socket.close(one)

    def stop(self) -> None:
        """At the end of a test."""
        self.die()
        for thread in (self._acceptor, *self._threads):
            thread.join(5)

    def _accept(self) -> None:
        while not self.dead.is_set():
            try:
                raw, _ = self._listener.accept()
            except OSError:
                return
            thread = threading.Thread(target=self._talk, args=(raw,), daemon=True)
            self._threads.append(thread)
            thread.start()

    def _talk(self, raw: socket.socket) -> None:
        raw.settimeout(WAIT_S)
        try:
            link = self._context.wrap_socket(raw, server_side=True)
        except OSError as error:
            self.refused.append(str(getattr(error, "reason", error)))
            raw.close()
            return
        number, self.connections = self.connections, self.connections + 1
        self._open.append(link)
        if self._deaf:
            self.dead.wait()
            return
        rest = b""
        try:
            while data := self._received(link):
                frames, rest = split(rest + data)
                self.messages += [parsed(one, number) for one in frames]
            if not self.dead.is_set():
                with suppress(OSError, ValueError):
                    link.unwrap()
        except FrameBroken as error:
            self.broken.append(str(error))
        except OSError:
            pass
        self.cut += bool(rest)
        self._open.remove(link)
        link.close()

    def _received(self, link: ssl.SSLSocket) -> bytes:
        # Few octets at a time, so that a death falls into frames and not only between them.
        data = link.recv(1000)
        self.octets += len(data)
        if self._dies_after is not None and self.octets >= self._dies_after:
            self.die()
            raise ConnectionResetError
        return data
