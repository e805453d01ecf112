"""DICOM TLS with those who did not read our code: stock pynetdicom and DCMTK, as callers and as called."""

from __future__ import annotations

import os
import shutil
import socket
import ssl
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from io import BytesIO
from pathlib import Path
from typing import Any

import pytest
from pydicom import dcmread
from pydicom.uid import ExplicitVRLittleEndian, MRImageStorage
from pynetdicom import evt
from pynetdicom.sop_class import Verification

from dicom_bridge.access import Access
from dicom_bridge.fastlane import ListenerLimits
from dicom_bridge.inbox import Inbox
from dicom_bridge.listener import Denial, Listener
from dicom_bridge.network import new_entity
from dicom_bridge.peers import Peer
from dicom_bridge.tls import TlsFiles, client_context, server_context
from service.demo.pacs import quick_network
from service.demo.servers import free_port
from tests.simulators.certificates import Authority, der, pin
from tests.simulators.received import Clock
from tests.simulators.series import make_slice, part10, write_file

WAIT_S = 60
OURS, LOOPBACK = "ZHIYING", "127.0.0.1"


class House:
    """The certificates of a hospital."""

    def __init__(self, folder: Path) -> None:
        self.site = Authority(folder / "site")
        self.ours, self.peer = self.site.issue("zhiying"), self.site.issue("peer")
        self.expired = self.site.issue("expired", until=-0.01)
        stranger = Authority(folder / "elsewhere", "TEST Elsewhere CA").issue("stranger")
        self.stranger = TlsFiles(stranger.certificate, stranger.key, self.site.file)
        self.image = write_file(make_slice(0), folder / "image.dcm")


@pytest.fixture(scope="module")
def house(tmp_path_factory: pytest.TempPathFactory) -> House:
    """Made once."""
    return House(tmp_path_factory.mktemp("tls"))


class Server:
    """Stock pynetdicom behind our server's context: what it took, and the certificates that it was shown."""

    def __init__(self, context: ssl.SSLContext) -> None:
        self.stored = 0
        self.shown: list[bytes | None] = []
        self.entity = new_entity(OURS)
        self.entity.acse_timeout = self.entity.network_timeout = self.entity.dimse_timeout = 10
        self.entity.add_supported_context(Verification)
        self.entity.add_supported_context(MRImageStorage, ExplicitVRLittleEndian)
        handlers = [(evt.EVT_C_STORE, self._store), (evt.EVT_REQUESTED, self._requested)]
        server = self.entity.start_server((LOOPBACK, 0), block=False, evt_handlers=handlers, ssl_context=context)
        self.port = int(server.server_address[1])

    def _store(self, event: Any) -> int:
        self.stored += 1
        return 0

    def _requested(self, event: Any) -> None:
        self.shown.append(event.assoc.dul.socket.socket.getpeercert(binary_form=True))


@contextmanager
def serving(context: ssl.SSLContext) -> Iterator[Server]:
    """Runs until the end of the block."""
    server = Server(context)
    try:
        yield server
    finally:
        server.entity.shutdown()


@contextmanager
def storescp(files: TlsFiles, folder: Path) -> Iterator[int]:
    """DCMTK's receiver behind TLS, which asks for a certificate."""
    port = free_port()
    command = [program("storescp"), *secured(files), "-od", str(folder), str(port)]
    with subprocess.Popen(command, env=quick_network(os.environ), stderr=subprocess.DEVNULL) as process:
        try:
            deadline = time.monotonic() + WAIT_S
            while True:
                try:
                    socket.create_connection((LOOPBACK, port), 1).close()
                    break
                except OSError:
                    assert time.monotonic() < deadline, "storescp does not listen"
                    time.sleep(0.05)
            yield port
        finally:
            process.terminate()


def program(name: str) -> str:
    """DCMTK's own, not that of the same name which pynetdicom puts beside the interpreter."""
    found = shutil.which(name, path=os.defpath)
    assert found is not None, f"{name} is not installed"
    return found


def secured(files: TlsFiles) -> list[str]:
    """How DCMTK's programs are told."""
    return ["+tls", str(files.key), str(files.certificate), "+cf", str(files.authority)]


def dcmtk(name: str, port: int, *options: str, last: tuple[str, ...] = ()) -> int:
    """Run a caller of DCMTK's against our port, to its end; its exit status."""
    command = [program(name), *options, "-aec", OURS, "-to", "10", LOOPBACK, str(port), *last]
    return subprocess.run(
        command, capture_output=True, timeout=WAIT_S, check=False, env=quick_network(os.environ)
    ).returncode


def pynetdicom(port: int, context: ssl.SSLContext | None, host: str = LOOPBACK) -> bool:
    """Associate as stock pynetdicom does, C-ECHO and C-STORE; whether both were answered with success."""
    entity = new_entity("TESTMODALITY")
    entity.acse_timeout = entity.dimse_timeout = entity.network_timeout = entity.connection_timeout = 10
    entity.add_requested_context(Verification)
    entity.add_requested_context(MRImageStorage, ExplicitVRLittleEndian)
    tls_args = None if context is None else (context, host)
    made = entity.associate(LOOPBACK, port, ae_title=OURS, tls_args=tls_args)
    try:
        if not made.is_established:
            return False
        answers = [made.send_c_echo(), made.send_c_store(_dataset())]
        return [getattr(answer, "Status", None) for answer in answers] == [0, 0]
    finally:
        if made.is_established:
            made.release()
        if made.ident is not None:
            made.join(10)
        entity.close_socket()


def _dataset() -> Any:
    return dcmread(BytesIO(part10(make_slice(0))))


@pytest.mark.slow
def test_pynetdicom_on_both_sides(house: House) -> None:
    """Our two contexts understand each other, and the server sees whose certificate it is."""
    with serving(server_context(house.ours)) as server:
        assert pynetdicom(server.port, client_context(house.peer))
        assert pynetdicom(server.port, client_context(house.peer, pin(house.ours.certificate)), "any.invalid")

    assert server.stored == 2
    assert server.shown == [der(house.peer.certificate)] * 2


@pytest.mark.slow
def test_dcmtk_calls(house: House) -> None:
    """DCMTK's echoscu and storescu reach us by mutual TLS."""
    with serving(server_context(house.ours)) as server:
        assert dcmtk("echoscu", server.port, *secured(house.peer)) == 0
        assert dcmtk("storescu", server.port, *secured(house.peer), last=(str(house.image),)) == 0

    assert server.stored == 1
    assert server.shown == [der(house.peer.certificate)] * 2


@pytest.mark.slow
@pytest.mark.parametrize("who", ["plain", "anonymous", "stranger", "expired"])
def test_dcmtk_is_refused_without_proof(house: House, who: str) -> None:
    """In plain, without a certificate, with one of another authority or an expired one: no association."""
    options = {
        "plain": [],
        "anonymous": ["+tla", "+cf", str(house.site.file)],
        "stranger": secured(house.stranger),
        "expired": secured(house.expired),
    }[who]
    with serving(server_context(house.ours)) as server:
        assert dcmtk("echoscu", server.port, *options) != 0
        # The refusal harms nobody else.
        assert dcmtk("echoscu", server.port, *secured(house.peer)) == 0

    assert server.shown == [der(house.peer.certificate)]


@pytest.mark.slow
def test_we_call_dcmtk(house: House, tmp_path: Path) -> None:
    """We store to DCMTK's storescp by mutual TLS, by its address in the certificate and by its pin."""
    with storescp(house.peer, tmp_path) as port:
        assert pynetdicom(port, client_context(house.ours))
        assert pynetdicom(port, client_context(house.ours, pin(house.peer.certificate)), "pacs.invalid")

    assert len(list(tmp_path.iterdir())) == 1


@pytest.mark.slow
@pytest.mark.parametrize("who", ["plain", "stranger", "expired", "wrong name", "wrong pin"])
def test_we_do_not_call_who_is_not_the_peer(house: House, tmp_path: Path, who: str) -> None:
    """What is not the configured peer gets nothing from us; and DCMTK takes nothing without our certificate."""
    theirs = {"stranger": house.stranger, "expired": house.expired}.get(who, house.peer)
    context = client_context(house.ours, pin(house.ours.certificate) if who == "wrong pin" else None)
    with storescp(theirs, tmp_path) as port:
        host = "pacs.invalid" if who == "wrong name" else LOOPBACK
        assert not pynetdicom(port, None if who == "plain" else context, host)

    assert not list(tmp_path.iterdir())


# -- our own listener, with everything in front of it -----------------------------------------------------------


@contextmanager
def listening(
    house: House, folder: Path, *peers: Peer, acse_s: float = 30.0, told: Callable[[Denial], None] | None = None
) -> Iterator[tuple[int, Inbox]]:
    """Our listener behind TLS, for these peers only."""
    inbox = Inbox(folder / "spool", Clock())
    listener = Listener(
        OURS,
        LOOPBACK,
        0,
        inbox,
        limits=ListenerLimits(acse_s=acse_s),
        access=Access(OURS, peers, known_only=True),
        tls=server_context(house.ours),
        on_denied=told,
    )
    listener.start()
    try:
        yield listener.port, inbox
    finally:
        listener.stop()
        inbox.close()


def modality(house: House, **fields: Any) -> Peer:
    """The caller of these tests, as the configuration has it."""
    given = {"addresses": ("127.0.0.0/8",), "certificate": pin(house.peer.certificate), **fields}
    return Peer("modality", "TESTMODALITY", LOOPBACK, 104, tls=house.ours, **given)


def held(inbox: Inbox) -> int:
    """How many instances."""
    return len(inbox.instances(make_slice(0).StudyInstanceUID))


@pytest.mark.slow
def test_the_listener_serves_its_peer(house: House, tmp_path: Path) -> None:
    """DCMTK and pynetdicom, under the configured title, certificate and address, store to us by TLS."""
    with listening(house, tmp_path, modality(house)) as (port, inbox):
        as_peer = ["-aet", "TESTMODALITY", *secured(house.peer)]
        assert dcmtk("storescu", port, *as_peer, last=(str(house.image),)) == 0
        assert held(inbox) == 1
        assert pynetdicom(port, client_context(house.peer, pin(house.ours.certificate)), "any.invalid")


@pytest.mark.slow
@pytest.mark.parametrize("who", ["another certificate", "another title", "another address", "called by another name"])
def test_the_listener_refuses_who_is_not_its_peer(house: House, tmp_path: Path, who: str) -> None:
    """A good certificate of the site is not enough: title, address and certificate must be one peer's, and the
    called title ours.
    """
    peer = modality(house, **({"addresses": ("192.0.2.0/24",)} if who == "another address" else {}))
    title = "NOBODY" if who == "another title" else "TESTMODALITY"
    options = ["-aet", title, *secured(house.ours if who == "another certificate" else house.peer)]
    if who == "called by another name":
        options += ["-aec", "OTHER"]
    denials: list[Denial] = []
    with listening(house, tmp_path, peer, told=denials.append) as (port, inbox):
        command = [program("storescu"), "-aec", OURS, *options, "-to", "10", LOOPBACK, str(port), str(house.image)]
        done = subprocess.run(command, capture_output=True, timeout=WAIT_S, check=False)
        assert done.returncode != 0
        assert b"Rejected" in done.stdout + done.stderr
        assert held(inbox) == 0
    code = {
        "another certificate": "CERTIFICATE",
        "another title": "CALLING_AE",
        "another address": "ADDRESS",
        "called by another name": "CALLED_AE",
    }
    assert denials == [Denial(code[who], LOOPBACK, title)]


@pytest.mark.slow
def test_who_speaks_no_tls_is_told_of(house: House, tmp_path: Path) -> None:
    """A plain request at the TLS port, and a client that trusts another authority: both leave a trace."""
    denials: list[Denial] = []
    with listening(house, tmp_path, modality(house), told=denials.append) as (port, inbox):
        for secure in ([], secured(house.stranger)):
            command = [program("storescu"), "-aec", OURS, *secure, "-to", "10", LOOPBACK, str(port), str(house.image)]
            assert subprocess.run(command, capture_output=True, timeout=WAIT_S, check=False).returncode != 0
        assert held(inbox) == 0
    assert denials == [Denial("TLS", LOOPBACK, "")] * 2


@pytest.mark.slow
def test_silent_connections_do_not_keep_others_out(house: House, tmp_path: Path) -> None:
    """Connections that never begin the handshake, or stop in its middle, hold up nobody else; they are closed."""
    with listening(house, tmp_path, modality(house), acse_s=2.0) as (port, inbox):
        silent = [socket.create_connection((LOOPBACK, port), WAIT_S) for _ in range(20)]
        for one in silent[::2]:
            one.sendall(b"\x16\x03\x01\x02\x00\x01")
        assert pynetdicom(port, client_context(house.peer))
        assert held(inbox) == 1
        for one in silent:
            one.settimeout(WAIT_S)
            with suppress(ConnectionResetError):
                assert one.recv(1) == b""
            one.close()
