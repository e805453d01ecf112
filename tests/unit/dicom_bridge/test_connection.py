"""Exact reads and bounded waits, on a plain socket pair."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Iterator

import pytest

from dicom_bridge.connection import AssociationEnded, Connection

NEVER = float("inf")


@pytest.fixture
def pair() -> Iterator[tuple[Connection, socket.socket]]:
    """Our end and the peer's, over TCP on loopback."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        peer = socket.create_connection(server.getsockname())
        ours, _ = server.accept()
    yield Connection(ours, 0.05, 0.5), peer
    ours.close()
    peer.close()


def read(connection: Connection, size: int, silence_s: float = 30.0, deadline: float = NEVER) -> bytes:
    """Read exactly so many bytes."""
    buffer = bytearray(size)
    connection.fill(memoryview(buffer), silence_s, deadline)
    return bytes(buffer)


def code(connection: Connection, size: int, silence_s: float, deadline: float = NEVER) -> str:
    """The code with which reading ends."""
    with pytest.raises(AssociationEnded) as caught:
        read(connection, size, silence_s, deadline)
    return caught.value.code


def test_a_read_is_as_long_as_it_was_asked_for(pair: tuple[Connection, socket.socket]) -> None:
    """Neither less nor a byte of what follows."""
    ours, peer = pair
    peer.sendall(b"abcdef")
    assert [read(ours, 2), read(ours, 3)] == [b"ab", b"cde"]


def test_a_read_waits_for_its_last_byte_across_many_ticks(pair: tuple[Connection, socket.socket]) -> None:
    """Slow is not silent."""
    ours, peer = pair

    def trickle() -> None:
        for byte in b"abcd":
            time.sleep(0.1)
            peer.sendall(bytes((byte,)))

    thread = threading.Thread(target=trickle)
    thread.start()
    assert read(ours, 4) == b"abcd"
    thread.join()


def test_a_megabyte_arrives_whole(pair: tuple[Connection, socket.socket]) -> None:
    """More than any buffer of the system between."""
    ours, peer = pair
    sent = bytes(range(256)) * 40_000
    thread = threading.Thread(target=peer.sendall, args=(sent,))
    thread.start()
    assert read(ours, len(sent)) == sent
    thread.join()


def test_silence_ends_it(pair: tuple[Connection, socket.socket]) -> None:
    """With nothing at all, and in the middle of what is read."""
    ours, peer = pair
    assert code(ours, 4, 0.2) == "PEER_SILENT"
    peer.sendall(b"ab")
    assert code(ours, 4, 0.2) == "PEER_SILENT"


def test_the_deadline_ends_it_though_something_comes(pair: tuple[Connection, socket.socket]) -> None:
    """A byte now and then does not help."""
    ours, peer = pair
    stop = threading.Event()

    def trickle() -> None:
        while not stop.wait(0.02):
            peer.sendall(b"x")

    thread = threading.Thread(target=trickle)
    thread.start()
    assert code(ours, 10**6, 30.0, time.monotonic() + 0.3) == "PEER_SLOW"
    stop.set()
    thread.join()


def test_a_close_ends_it(pair: tuple[Connection, socket.socket]) -> None:
    """Before, and in the middle; what was sent before it is read first."""
    ours, peer = pair
    peer.sendall(b"abc")
    peer.close()
    assert read(ours, 2) == b"ab"
    assert code(ours, 4, 30.0) == "PEER_CLOSED"
    assert code(ours, 4, 30.0) == "PEER_CLOSED"


def test_another_thread_can_end_the_wait(pair: tuple[Connection, socket.socket]) -> None:
    """And what is to be sent still is."""
    ours, peer = pair
    timer = threading.Timer(0.2, ours.stop_reading)
    timer.start()
    assert code(ours, 4, 30.0) == "PEER_CLOSED"
    ours.send(b"last word")
    assert peer.recv(100) == b"last word"
    timer.join()


def test_a_peer_that_takes_nothing_ends_it(pair: tuple[Connection, socket.socket]) -> None:
    """When all buffers are full, after the limit for sending."""
    ours, _ = pair
    with pytest.raises(AssociationEnded) as caught:
        ours.send(bytes(1 << 28))
    assert caught.value.code == "PEER_CLOSED"


def test_a_farewell_arrives_though_the_peer_still_sends(pair: tuple[Connection, socket.socket]) -> None:
    """Closing with unread bytes would reset the connection, and take our last PDU with it."""
    ours, peer = pair
    peer.sendall(bytes(300_000))
    thread = threading.Thread(target=ours.farewell, args=(b"goodbye",))
    thread.start()
    assert peer.recv(100) == b"goodbye"
    assert peer.recv(100) == b""
    peer.close()
    thread.join(30)
    assert not thread.is_alive()
    ours.close()


def test_a_farewell_does_not_wait_for_ever_and_never_raises(pair: tuple[Connection, socket.socket]) -> None:
    """A peer that stays: after some seconds we go. One that is gone: at once."""
    ours, peer = pair
    peer.close()
    ours.farewell(b"goodbye")
    ours.farewell(b"goodbye")
    ours.close()
    ours.farewell(b"goodbye")
