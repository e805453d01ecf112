"""What a peer accepts of results: negotiated with a real one, never stored, never guessed."""

from __future__ import annotations

import socket
import threading
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager

import pytest
from pynetdicom import AE, evt
from pynetdicom.sop_class import StudyRootQueryRetrieveInformationModelFind

from dicom_bridge.calling import CallLimits
from dicom_bridge.errors import PeerFailed
from dicom_bridge.key_kinds import KeyImage
from dicom_bridge.peers import Peer, Segmentation, Send
from dicom_bridge.profile import needs, refused, web_answer
from tests.simulators.pacs import COMMITMENT, COMPREHENSIVE_3D_SR, EXPLICIT, SEGMENTATION, quick_server

IMPLICIT = "1.2.840.10008.1.2"
PICTURE = "1.2.840.10008.5.1.4.1.1.7"
FIND = str(StudyRootQueryRetrieveInformationModelFind)
OVERLAY = "1.2.840.10008.5.1.4.1.1.11.1"
SELECTION = "1.2.840.10008.5.1.4.1.1.88.59"
ALL = {
    "SEG": SEGMENTATION,
    "SR": COMPREHENSIVE_3D_SR,
    "SC": PICTURE,
    "GSPS": OVERLAY,
    "KOS": SELECTION,
    "COMMITMENT": COMMITMENT,
    "C-FIND": FIND,
}
PICTURES = (KeyImage.SC, KeyImage.GSPS, KeyImage.KOS)
"""One kind of each class; that of a run without a finding is a picture like the first."""
QUICK = CallLimits(connect_s=2, acse_s=2, dimse_s=2)
NOWHERE = Peer("pacs", "TESTPACS", "127.0.0.1", 9)


@contextmanager
def serving(
    classes: Sequence[str], syntax: str = EXPLICIT, messages: list[str] | None = None, **abilities: object
) -> Iterator[Peer]:
    """A peer that accepts these classes in this one syntax; `messages`: what it was asked after negotiating."""
    ae = AE(ae_title="TESTPACS")
    for one in classes:
        ae.add_supported_context(one, syntax)
    said = [] if messages is None else messages
    heard = [(evt.EVT_DIMSE_RECV, lambda event: said.append(type(event.message).__name__))]
    server = quick_server(ae, 0, heard)
    try:
        yield Peer("pacs", "TESTPACS", "127.0.0.1", server.server_address[1], **abilities)  # type: ignore[arg-type]
    finally:
        server.shutdown()
        server.server_close()


def test_what_is_needed_follows_the_configuration() -> None:
    """Pictures only where they are made, abilities only where they are configured, no C-STORE where STOW-RS is used."""

    def kinds(peer: Peer, *, key_images: Collection[KeyImage] = ()) -> list[str]:
        return [need.kind for need in needs(peer, key_images=key_images)]

    assert kinds(NOWHERE) == ["SEG", "SR"]
    for kind in KeyImage:
        assert kinds(NOWHERE, key_images=[kind]) == ["SEG", "SR", kind]
    assert kinds(NOWHERE, key_images=PICTURES) == ["SEG", "SR", "SC", "GSPS", "KOS"]
    notes = needs(NOWHERE, key_images=PICTURES, rejection_notes=True)
    assert [need.kind for need in notes] == ["SEG", "SR", "SC", "GSPS", "KOS", "NOTE"]
    able = Peer("pacs", "TESTPACS", "127.0.0.1", 9, counts=True, commitment=True)
    assert kinds(able) == ["SEG", "SR", "COMMITMENT", "C-FIND"]
    web = Peer("pacs", "TESTPACS", "127.0.0.1", 9, counts=True, send=Send.STOW_RS, web="http://127.0.0.1:9/dicom-web")
    assert kinds(web, key_images=PICTURES) == ["C-FIND"]
    assert {need.kind: need.sop_class for need in (*needs(able, key_images=PICTURES),)} == ALL


def test_a_peer_of_label_maps_needs_both_classes() -> None:
    """Segments that overlap go to it as BINARY; each class refused alone is named by what it is for."""
    label_map = "1.2.840.10008.5.1.4.1.1.66.7"
    both = {"LABELMAP": label_map, "BINARY": SEGMENTATION}
    assert label_map == "".join(
        need.sop_class
        for need in needs(Peer("pacs", "A", "b", 9, segmentation=Segmentation.LABELMAP), key_images=())
        if need.kind == "LABELMAP"
    )
    for without in both:
        offered = [uid for kind, uid in both.items() if kind != without]
        with serving([*offered, COMPREHENSIVE_3D_SR], segmentation=Segmentation.LABELMAP) as peer:
            wanted = needs(peer, key_images=())
            assert [need.kind for need in wanted] == ["LABELMAP", "BINARY", "SR"]
            assert [need.kind for need in refused(peer, "ZHIYING", wanted, QUICK)] == [without]


@pytest.mark.parametrize("without", ALL)
def test_what_one_peer_refuses_is_named_and_nothing_else(without: str) -> None:
    """Each class refused alone is the one that is named; not one message follows the negotiation."""
    messages: list[str] = []
    offered = [uid for kind, uid in ALL.items() if kind != without]
    with serving(offered, messages=messages, counts=True, commitment=True) as peer:
        lacking = refused(peer, "ZHIYING", needs(peer, key_images=PICTURES), QUICK)
    assert [need.kind for need in lacking] == [without]
    assert messages == []


def test_one_class_for_two_purposes_is_proposed_once_and_named_for_both() -> None:
    """Key objects and rejection notes are of one class: a peer that lacks it lacks both."""
    for offered, kinds in (([*ALL.values()], []), ([SEGMENTATION, COMPREHENSIVE_3D_SR], ["KOS", "NOTE"])):
        with serving(offered) as peer:
            wanted = needs(peer, key_images=[KeyImage.KOS], rejection_notes=True)
            assert [need.kind for need in refused(peer, "ZHIYING", wanted, QUICK)] == kinds


def test_pictures_of_findings_and_of_none_are_of_one_class() -> None:
    """A peer that takes no Secondary Capture gets neither, and each is named as the setting names it."""
    kinds = [KeyImage.SC, KeyImage.NO_FINDING]
    wanted = needs(NOWHERE, key_images=kinds)
    assert [(need.kind, need.sop_class) for need in wanted[2:]] == [(kind, PICTURE) for kind in kinds]
    for offered, lacking in (
        ([SEGMENTATION, COMPREHENSIVE_3D_SR, PICTURE], []),
        ([SEGMENTATION, COMPREHENSIVE_3D_SR], kinds),
    ):
        with serving(offered) as peer:
            assert [need.kind for need in refused(peer, "ZHIYING", wanted, QUICK)] == lacking


def test_a_peer_that_accepts_all_is_not_complained_of() -> None:
    """Everything offered: nothing is lacking."""
    with serving([*ALL.values()], counts=True, commitment=True) as peer:
        assert refused(peer, "ZHIYING", needs(peer, key_images=PICTURES), QUICK) == ()
        assert refused(peer, "ZHIYING", (), QUICK) == ()


def test_a_class_in_another_syntax_is_not_accepted() -> None:
    """Our files are written in one syntax and sent as they are: a peer that wants another cannot have them."""
    with serving([SEGMENTATION, COMPREHENSIVE_3D_SR], IMPLICIT) as peer:
        assert [need.kind for need in refused(peer, "ZHIYING", needs(peer, key_images=()), QUICK)] == ["SEG", "SR"]


def test_a_peer_that_accepts_nothing_of_it_lacks_all() -> None:
    """Such a peer aborts or rejects no association: it is there, and takes nothing."""
    with serving([PICTURE]) as peer:
        assert [need.kind for need in refused(peer, "ZHIYING", needs(peer, key_images=()), QUICK)] == ["SEG", "SR"]


def test_a_peer_that_is_away_is_not_a_peer_that_refuses() -> None:
    """Its own code, so that nobody takes a cable for a setting."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        away = Peer("pacs", "TESTPACS", "127.0.0.1", taken.getsockname()[1])
        with pytest.raises(PeerFailed) as failed:
            refused(away, "ZHIYING", needs(away, key_images=()), QUICK)
    assert failed.value.code == "PEER_UNREACHABLE"


@contextmanager
def answering(status: str) -> Iterator[tuple[Peer, list[bytes]]]:
    """A web server that gives each request this status line, and the first lines of what it was asked."""
    asked: list[bytes] = []
    with socket.create_server(("127.0.0.1", 0)) as listening:
        done = threading.Event()

        def serve() -> None:
            connection, _ = listening.accept()
            with connection:
                asked.append(connection.recv(65536).partition(b"\r\n")[0])
                if status:
                    connection.sendall(f"HTTP/1.1 {status}\r\nContent-Length: 0\r\nLocation: /x\r\n\r\n".encode())
            done.set()

        threading.Thread(target=serve, daemon=True).start()
        root = f"http://127.0.0.1:{listening.getsockname()[1]}/dicom-web/"
        yield Peer("pacs", "TESTPACS", "127.0.0.1", 9, send=Send.STOW_RS, web=root), asked
        assert done.wait(10)


@pytest.mark.parametrize(("status", "code"), [("200 OK", 200), ("405 No", 405), ("302 Found", 302)])
def test_of_a_web_peer_it_is_known_only_that_it_answers(status: str, code: int) -> None:
    """OPTIONS of the address that results go to, no redirect followed; no study is asked for."""
    with answering(status) as (peer, asked):
        assert web_answer(peer) == code
    assert asked == [b"OPTIONS /dicom-web/studies HTTP/1.1"]


@pytest.mark.parametrize(
    ("status", "code"), [("401 Who", "PEER_REJECTED"), ("403 No", "PEER_REJECTED"), ("", "PEER_NO_ANSWER")]
)
def test_a_web_peer_that_lets_nobody_in_fails(status: str, code: str) -> None:
    """A log-in is nothing that we have; a connection that is dropped is no answer."""
    with answering(status) as (peer, _), pytest.raises(PeerFailed) as failed:
        web_answer(peer)
    assert failed.value.code == code


def test_a_web_peer_that_is_away_is_unreachable() -> None:
    """Nobody listens at its web root."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        root = f"http://127.0.0.1:{taken.getsockname()[1]}/dicom-web"
        with pytest.raises(PeerFailed) as failed:
            web_answer(Peer("pacs", "TESTPACS", "127.0.0.1", 9, send=Send.STOW_RS, web=root))
    assert failed.value.code == "PEER_UNREACHABLE"
