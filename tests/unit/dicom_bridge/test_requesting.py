"""Associations that we open: whatever the peer does, they end in bounded time, with a code, and leave no socket."""

from __future__ import annotations

import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import pytest
from pydicom.dataset import Dataset
from pynetdicom.sop_class import Verification

from dicom_bridge.calling import keep_answers
from dicom_bridge.errors import BridgeError
from dicom_bridge.finding import find_series
from dicom_bridge.patience import Patience, RetrieveLimits
from dicom_bridge.peers import Peer
from dicom_bridge.requesting import requested
from dicom_bridge.tls import client_context, server_context
from tests.simulators.certificates import Authority
from tests.simulators.pulling import OURS, QUICK, STUDY, small
from tests.simulators.query_pacs import FIND, GET, QueryPacs, serving

pytestmark = pytest.mark.slow  # each opens connections of its own

SHORT = RetrieveLimits(connect_s=1, acse_s=1, stall_s=1, whole_s=3600)

# An A-ASSOCIATE-AC (PS3.8 section 9.3.3) for one context, number 1, in implicit VR; and the first bytes of a P-DATA.
_TITLES = b"QUERYPACS".ljust(16) + b"ZHIYING".ljust(16)
_APPLICATION = b"\x10\x00\x00\x151.2.840.10008.3.1.1.1"
_CONTEXT = b"\x21\x00\x00\x19\x01\x00\x00\x00\x40\x00\x00\x111.2.840.10008.1.2"
_USER = b"\x50\x00\x00\x08\x51\x00\x00\x04\x00\x00\x40\x00"
_BODY = b"\x00\x01\x00\x00" + _TITLES + b"\x00" * 32 + _APPLICATION + _CONTEXT + _USER
ACCEPT = b"\x02\x00" + len(_BODY).to_bytes(4, "big") + _BODY
HALF_A_PDU = b"\x04\x00\x00\x00\x10\x00\x00\x00"


@contextmanager
def peer_that(behaves: Callable[[socket.socket, threading.Event], None]) -> Iterator[Peer]:
    """Serve each connection by `behaves`, which ends when the event is set."""
    over = threading.Event()
    server = socket.create_server(("127.0.0.1", 0))
    server.settimeout(0.1)

    def accept() -> None:
        while not over.is_set():
            try:
                connection, _ = server.accept()
            except TimeoutError:
                continue
            with connection:
                connection.settimeout(5)
                behaves(connection, over)

    thread = threading.Thread(target=accept)
    thread.start()
    try:
        yield Peer("broken", "BROKEN", "127.0.0.1", server.getsockname()[1])
    finally:
        over.set()
        thread.join()
        server.close()


def silent(_connection: socket.socket, over: threading.Event) -> None:
    """Accept the connection and say nothing."""
    over.wait(600)


def half_an_acceptance(connection: socket.socket, over: threading.Event) -> None:
    """Stop in the middle of the answer to the association request."""
    connection.recv(65536)
    connection.sendall(ACCEPT[:30])
    over.wait(600)


def half_an_answer(connection: socket.socket, over: threading.Event) -> None:
    """Accept the association, and stop in the middle of the first PDU after the question."""
    connection.recv(65536)
    connection.sendall(ACCEPT)
    connection.recv(65536)
    connection.sendall(HALF_A_PDU)
    over.wait(600)


def no_answer(connection: socket.socket, over: threading.Event) -> None:
    """Accept the association, and never answer the question, nor the end."""
    connection.recv(65536)
    connection.sendall(ACCEPT)
    over.wait(600)


def rubbish(connection: socket.socket, over: threading.Event) -> None:
    """Answer as another protocol does."""
    connection.recv(65536)
    connection.sendall(b"HTTP/1.0 400 Bad Request\r\n\r\n")


def gone(connection: socket.socket, _over: threading.Event) -> None:
    """Accept the association, and go when asked."""
    connection.recv(65536)
    connection.sendall(ACCEPT)
    connection.recv(65536)


def threads() -> set[str]:
    """Names of the threads that run, but those of the test's own peer."""
    return {one.name for one in threading.enumerate() if "Requestor" in one.name or one.name == "watchdog"}


@pytest.mark.parametrize(
    ("behaves", "code"),
    [
        (silent, "PEER_NO_ANSWER"),
        (half_an_acceptance, "PEER_NO_ANSWER"),
        (rubbish, "PEER_NO_ANSWER"),
        (half_an_answer, "PULL_STALLED"),
        (no_answer, "PULL_STALLED"),
        (gone, "PEER_NO_ANSWER"),
    ],
    ids=lambda one: getattr(one, "__name__", str(one)),
)
def test_no_peer_can_hold_us(behaves: Callable[[socket.socket, threading.Event], None], code: str) -> None:
    """Silence at any point, half a PDU, rubbish: an error with a code, and no thread is left behind."""
    with peer_that(behaves) as peer:
        with pytest.raises(BridgeError) as caught:
            find_series(peer, STUDY, OURS, Patience(SHORT))
        assert caught.value.code == code
        assert not threads()


def test_called_off_while_it_waits() -> None:
    """The event ends a question that nobody answers."""
    stop = threading.Event()

    def asked(connection: socket.socket, over: threading.Event) -> None:
        connection.recv(65536)
        connection.sendall(ACCEPT)
        connection.recv(65536)
        stop.set()
        over.wait(600)

    with peer_that(asked) as peer:
        with pytest.raises(BridgeError) as caught:
            find_series(peer, STUDY, OURS, Patience(replace(SHORT, stall_s=60), stop))
        assert caught.value.code == "PULL_CANCELLED"


def test_nobody_there() -> None:
    """A closed port, and a name without an address, are PEER_UNREACHABLE."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    for host in ("127.0.0.1", "no-such-host.invalid"):
        with pytest.raises(BridgeError) as caught:
            find_series(Peer("away", "AWAY", host, port), STUDY, OURS, Patience(SHORT))
        assert caught.value.code == "PEER_UNREACHABLE"


def test_a_wrong_title_and_a_missing_service_are_told_apart() -> None:
    """So that whoever reads the code knows which side's configuration to look at."""
    with serving(QueryPacs(), models=(FIND,)) as peer:
        with pytest.raises(BridgeError) as caught, requested(peer, OURS, [(GET, ())], Patience(QUICK)):
            pass
        assert caught.value.code == "PEER_NO_CONTEXT"
        with pytest.raises(BridgeError) as caught:
            find_series(replace(peer, ae_title="OTHER"), STUDY, OURS, Patience(QUICK))
        assert caught.value.code == "PEER_REJECTED"


def test_the_association_is_released() -> None:
    """A peer sees a proper end, not an abort."""
    pacs = QueryPacs(small())
    with serving(pacs) as peer:
        find_series(peer, STUDY, OURS, Patience(QUICK))
        assert pacs.released.wait(30)


def test_tls_when_the_configuration_says_so(tmp_path: Path) -> None:
    """Both sides show certificates of the site's authority; a peer of another one is not spoken to."""
    ours = Authority(tmp_path / "ours")
    theirs = Authority(tmp_path / "theirs", "TEST Other CA")
    pacs = QueryPacs(small())
    files = ours.issue("zhiying")
    with serving(pacs, tls=server_context(ours.issue("pacs"))) as plain:
        peer = replace(plain, tls=files)
        assert find_series(peer, STUDY, OURS, Patience(QUICK))
        with pytest.raises(BridgeError) as caught:
            find_series(plain, STUDY, OURS, Patience(SHORT))
        assert caught.value.code == "PEER_NO_ANSWER"
    with serving(pacs, tls=server_context(theirs.issue("pacs"))) as plain:
        with pytest.raises(BridgeError) as caught:
            find_series(replace(plain, tls=files), STUDY, OURS, Patience(QUICK))
        assert caught.value.code == "PEER_UNREACHABLE"
    assert client_context(files).check_hostname


def test_what_the_library_takes_from_us_is_put_back() -> None:
    """Its own loop sometimes takes an answer for a request; the answer is then the next that is read."""
    echo = str(Verification)
    with (
        serving(QueryPacs(), models=(FIND, echo)) as peer,
        requested(peer, OURS, [(echo, ())], Patience(QUICK)) as call,
    ):
        association = call.association
        first, second = object(), object()
        association._reactor_checkpoint.clear()
        association.dimse.msg_queue.put((1, second))
        # What the loop does with what it takes; here it is seen to do it.
        association._serve_request(first, 1)
        taken = [association.dimse.msg_queue.get_nowait() for _ in range(2)]
        association._reactor_checkpoint.set()
        assert taken == [(1, first), (1, second)]
        keep_answers(association)
        assert association.send_c_echo().Status == 0x0000


def test_an_answer_without_a_status_is_no_success() -> None:
    """What ended the association is said, never a number that was not sent."""
    with serving(QueryPacs()) as peer, requested(peer, OURS, [(FIND, ())], Patience(QUICK)) as call:
        with pytest.raises(BridgeError) as caught:
            call.status(Dataset())
        assert caught.value.code == "PEER_NO_ANSWER"
