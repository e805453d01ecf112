"""Our calls: over TLS where the peer has it, bounded in time, and nothing left open afterwards."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from pynetdicom import AE, evt
from pynetdicom.sop_class import StudyRootQueryRetrieveInformationModelFind, Verification

from dicom_bridge.calling import CallLimits, called, hold
from dicom_bridge.errors import PeerFailed
from dicom_bridge.peers import Peer
from dicom_bridge.query import echo, find_instances
from dicom_bridge.store_scu import send
from dicom_bridge.tls import TlsFiles, TlsUnusable, server_context
from tests.simulators import series
from tests.simulators.certificates import Authority, pin
from tests.simulators.pacs import quick_server

LIMITS = CallLimits(connect_s=5, acse_s=5, dimse_s=5)
MR = "1.2.840.10008.5.1.4.1.1.4"
COMMITMENT = "1.2.840.10008.1.20.1"


@contextmanager
def serving(files: TlsFiles | None = None, title: str = "TESTPACS", **roles: Any) -> Iterator[tuple[int, list[Any]]]:
    """A PACS on stock pynetdicom; gives its port and the associations that were accepted."""
    entity = AE(ae_title=title)
    entity.require_called_aet = True
    for sop_class in (str(Verification), MR, str(StudyRootQueryRetrieveInformationModelFind)):
        entity.add_supported_context(sop_class, ["1.2.840.10008.1.2.1", "1.2.840.10008.1.2"])
    entity.add_supported_context(COMMITMENT, **roles)
    accepted: list[Any] = []
    handlers: list[Any] = [
        (evt.EVT_ACCEPTED, lambda event: accepted.append(event.assoc)),
        (evt.EVT_C_STORE, lambda _event: 0x0000),
        (evt.EVT_C_FIND, lambda _event: iter(())),
    ]
    context = None if files is None else server_context(files)
    server = quick_server(entity, 0, handlers, context)
    try:
        yield server.server_address[1], accepted
    finally:
        server.shutdown()


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    """The hospital's own."""
    return Authority(tmp_path_factory.mktemp("authority"))


@pytest.fixture(scope="module")
def ours(authority: Authority) -> TlsFiles:
    """Our certificate."""
    return authority.issue("ZHIYING")


def peer_at(port: int, tls: TlsFiles | None = None, certificate: str | None = None) -> Peer:
    """A peer on loopback."""
    return Peer("pacs", "TESTPACS", "127.0.0.1", port, tls=tls, certificate=certificate)


@pytest.mark.parametrize("pinned", [False, True])
def test_each_service_goes_over_tls_where_the_peer_has_it(authority, ours, tmp_path, pinned) -> None:
    """C-ECHO, C-FIND and C-STORE, all by the same call; pinned, the name in the certificate does not matter."""
    theirs = authority.issue("PACS", hosts=("pacs.invalid",) if pinned else ("127.0.0.1",))
    (path,) = series.write_series(tmp_path, 1, shape=(4, 4))
    with serving(theirs) as (port, accepted):
        peer = peer_at(port, ours, pin(theirs.certificate) if pinned else None)
        echo(peer, "ZHIYING", LIMITS)
        assert find_instances(peer, "1.2.3", "1.2.3.4", "ZHIYING", LIMITS) == frozenset()
        assert send([path], peer, "ZHIYING", LIMITS).statuses == (0,)
        assert len(accepted) == 3


@pytest.mark.parametrize("who", ["stranger", "wrong name", "wrong pin", "in the clear"])
def test_nothing_is_said_to_whom_we_do_not_believe(authority, ours, tmp_path, who) -> None:
    """Another authority, name or certificate, or no TLS at all: unreachable, and no association."""
    issuer = Authority(tmp_path) if who == "stranger" else authority
    theirs = issuer.issue("PACS", hosts=("pacs.invalid",) if who == "wrong name" else ("127.0.0.1",))
    with serving(None if who == "in the clear" else theirs) as (port, accepted):
        peer = peer_at(port, ours, pin(ours.certificate) if who == "wrong pin" else None)
        with pytest.raises(PeerFailed) as caught:
            echo(peer, "ZHIYING", CallLimits(connect_s=2, acse_s=2, dimse_s=2))
        assert caught.value.code == "PEER_UNREACHABLE"
        assert accepted == []


def test_a_peer_in_the_clear_is_not_asked_for_a_certificate(authority, ours) -> None:
    """A TLS port called without TLS is a failure in bounded time, not a wait."""
    with serving(authority.issue("PACS")) as (port, accepted):
        with pytest.raises(PeerFailed):
            echo(peer_at(port), "ZHIYING", CallLimits(connect_s=2, acse_s=1, dimse_s=1))
        assert accepted == []


def test_tls_files_that_cannot_be_read_are_said(tmp_path) -> None:
    """The sender gives their code; nobody is called."""
    gone = TlsFiles(tmp_path / "gone.pem", tmp_path / "gone.key", tmp_path / "gone.ca")
    (path,) = series.write_series(tmp_path, 1, shape=(4, 4))
    with serving() as (port, accepted):
        with pytest.raises(TlsUnusable, match="TLS_FILE_UNREADABLE"):
            echo(peer_at(port, gone), "ZHIYING", LIMITS)
        result = send([path], peer_at(port, gone), "ZHIYING", LIMITS)
        assert (result.statuses, result.error, result.hopeless) == ((None,), "TLS_FILE_UNREADABLE", False)
        assert accepted == []


@pytest.mark.parametrize("secure", [False, True])
def test_a_port_where_nobody_listens_leaves_no_socket(ours, secure) -> None:
    """Asked every second for a weekend, a descriptor each time would be the end (unclosed sockets are errors here)."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
    for _ in range(3):
        with pytest.raises(PeerFailed, match="PEER_UNREACHABLE"):
            echo(peer_at(port, ours if secure else None), "ZHIYING", LIMITS)


def test_the_role_is_asked_for(authority) -> None:
    """As SCP for one class, as SCU for the others; whoever ignores the request gets the class all the same."""
    for roles, as_scp in (({"scu_role": True, "scp_role": True}, True), ({}, False)):
        with serving(**roles) as (port, _accepted):
            contexts = [(COMMITMENT, ("1.2.840.10008.1.2.1",)), (str(Verification), ())]
            with called(peer_at(port), "ZHIYING", contexts, LIMITS, as_scp=[COMMITMENT]) as association:
                context = next(c for c in association.accepted_contexts if c.abstract_syntax == COMMITMENT)
                assert (context.as_scp, context.as_scu) == (as_scp, not as_scp)


@contextmanager
def raw_server(behave: Callable[[socket.socket], None]) -> Iterator[int]:
    """A peer that does with a connection what `behave` does."""
    with socket.create_server(("127.0.0.1", 0)) as server:

        def serve() -> None:
            connection, _ = server.accept()
            with connection:
                behave(connection)

        threading.Thread(target=serve, daemon=True).start()
        yield server.getsockname()[1]


@pytest.mark.slow
@pytest.mark.parametrize("says", [b"", b"\x02\x00\x00\x00\x10\x00half a PDU"], ids=["nothing", "half a PDU"])
def test_a_peer_that_stops_in_the_middle_costs_bounded_time(says) -> None:
    """It accepts the connection and then is silent, or stops inside a PDU: no answer, in the time allowed."""
    done = threading.Event()

    def behave(connection: socket.socket) -> None:
        connection.recv(1 << 16)
        connection.sendall(says)
        done.wait(30)

    began = time.monotonic()
    with raw_server(behave) as port, pytest.raises(PeerFailed) as caught:
        echo(peer_at(port), "ZHIYING", CallLimits(connect_s=2, acse_s=1, dimse_s=1))
    done.set()
    assert caught.value.code == "PEER_NO_ANSWER"
    assert time.monotonic() - began < 20


class Alive:
    """A thread."""

    def __init__(self, lives: bool) -> None:
        self._lives = lives

    def is_alive(self) -> bool:
        """As said."""
        return self._lives


class Stuck(Alive):
    """An association whose thread never says that it pauses."""

    def __init__(self, *, lives: bool, connected: bool) -> None:
        super().__init__(lives)
        self.dul = Alive(connected)
        self._is_paused = False
        self._reactor_checkpoint = threading.Event()


@pytest.mark.parametrize(
    ("lives", "connected", "limit_s"), [(True, True, 0.05), (True, False, 3600.0), (False, True, 3600.0)]
)
def test_a_thread_that_never_pauses_is_no_wait_for_ever(lives: bool, connected: bool, limit_s: float) -> None:
    """Neither one that says nothing, nor one that has ended or lost its connection; and it may go on to its end."""
    association = Stuck(lives=lives, connected=connected)
    with pytest.raises(PeerFailed, match="PEER_NO_ANSWER"):
        hold(association, limit_s)
    assert association._reactor_checkpoint.is_set()


@pytest.mark.slow
def test_an_association_that_the_peer_aborts_is_no_wait_for_ever() -> None:
    """pynetdicom's own request would wait for a thread that has ended; `hold` says so instead."""
    with serving() as (port, accepted):
        with called(peer_at(port), "ZHIYING", [(str(Verification), ())], LIMITS) as association:
            accepted[0].abort()
            association.join(10)
            with pytest.raises(PeerFailed, match="PEER_NO_ANSWER"):
                hold(association)
        began = time.monotonic()
        with called(peer_at(port), "ZHIYING", [(str(Verification), ())], LIMITS) as association:
            hold(association)
            assert association.send_c_echo().Status == 0x0000
        assert time.monotonic() - began < 20
