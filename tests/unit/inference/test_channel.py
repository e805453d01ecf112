"""Messages arrive whole, in order and in time, or the channel is closed."""

from __future__ import annotations

import os
import socket
import struct
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from inference.channel import MESSAGE_BYTES_MAX, Channel, ChannelClosed


@pytest.fixture
def ends() -> Iterator[tuple[Channel, Channel]]:
    """Both ends of one channel."""
    left, right = (Channel(end) for end in socket.socketpair())
    yield left, right
    left.close()
    right.close()


@pytest.fixture
def raw() -> Iterator[tuple[socket.socket, Channel]]:
    """A bare socket, for bytes that no channel would send, and a channel."""
    left, right = socket.socketpair()
    channel = Channel(right)
    yield left, channel
    left.close()
    channel.close()


def test_messages_arrive_in_order(ends: tuple[Channel, Channel]) -> None:
    """What is sent is received, one message at a time, both ways."""
    left, right = ends
    left.send({"n": 1, "text": "影"})
    left.send({"n": 2})
    assert right.receive(5) == ({"n": 1, "text": "影"}, None)
    right.send({"back": True})
    assert right.receive(5) == ({"n": 2}, None)
    assert left.receive(5) == ({"back": True}, None)


def test_a_long_message_arrives_whole(ends: tuple[Channel, Channel]) -> None:
    """A message larger than the socket's buffer is put together again."""
    left, right = ends
    text = "x" * 900_000
    sender = threading.Thread(target=left.send, args=({"text": text},))
    sender.start()
    assert right.receive(10) == ({"text": text}, None)
    sender.join()


def test_a_descriptor_travels_with_its_message(ends: tuple[Channel, Channel]) -> None:
    """The receiver gets its own descriptor of the very same memory."""
    left, right = ends
    memory = os.memfd_create("test")
    os.write(memory, b"voxels")
    left.send({"n": 1}, memory)
    left.send({"n": 2})
    message, received = right.receive(5)
    assert message == {"n": 1}
    assert received is not None
    assert received != memory
    assert os.pread(received, 6, 0) == b"voxels"
    assert right.receive(5) == ({"n": 2}, None)
    os.close(received)
    os.close(memory)


def test_silence_is_a_timeout(ends: tuple[Channel, Channel]) -> None:
    """Waiting ends when it should, also when bytes trickle in."""
    started = time.monotonic()
    with pytest.raises(TimeoutError):
        ends[1].receive(0.1)
    assert 0.09 < time.monotonic() - started < 10


def test_a_trickle_does_not_extend_the_deadline(raw: tuple[socket.socket, Channel]) -> None:
    """The time is for the whole message, not for each byte."""
    bare, channel = raw
    stop = threading.Event()

    def trickle() -> None:
        bare.sendall(struct.pack("!I", 1000))
        while not stop.wait(0.02):
            bare.send(b" ")

    sender = threading.Thread(target=trickle)
    sender.start()
    started = time.monotonic()
    with pytest.raises(TimeoutError):
        channel.receive(0.3)
    assert time.monotonic() - started < 10
    stop.set()
    sender.join()


def test_the_other_end_gone_is_closed(ends: tuple[Channel, Channel]) -> None:
    """End of stream, at once or in the middle of a message, and a broken pipe: ChannelClosed."""
    left, right = ends
    left.close()
    with pytest.raises(ChannelClosed):
        right.receive(5)
    with pytest.raises(ChannelClosed):
        right.send({"n": 1})


@pytest.mark.parametrize(
    "data",
    [
        struct.pack("!I", MESSAGE_BYTES_MAX + 1) + b"{}",
        struct.pack("!I", 4) + b"[1]\n",
        struct.pack("!I", 3) + b"{\xff}",
        struct.pack("!I", 3) + b"abc",
        struct.pack("!I", 100) + b"{}",
    ],
)
def test_noise_is_not_a_message(raw: tuple[socket.socket, Channel], data: bytes) -> None:
    """Too long, no object, not UTF-8, not JSON, cut short: ChannelClosed, never a guess."""
    bare, channel = raw
    bare.sendall(data)
    bare.shutdown(socket.SHUT_WR)
    with pytest.raises(ChannelClosed):
        channel.receive(5)


def test_a_refused_message_leaks_no_descriptor(raw: tuple[socket.socket, Channel]) -> None:
    """A descriptor that came with noise is closed."""
    bare, channel = raw
    before = len(list(Path("/proc/self/fd").iterdir()))
    socket.send_fds(bare, [struct.pack("!I", 3) + b"abc"], [bare.fileno()])
    with pytest.raises(ChannelClosed):
        channel.receive(5)
    assert len(list(Path("/proc/self/fd").iterdir())) == before
