"""The listener with real senders: DCMTK and pynetdicom; nothing acknowledged is ever lost."""

from __future__ import annotations

import errno
import os
import signal
import socket
import struct
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pydicom
import pytest
from pydicom.pixels import get_decoder
from pydicom.uid import (
    JPEG2000MC,
    CTImageStorage,
    DeflatedExplicitVRLittleEndian,
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
    MRImageStorage,
    RLELossless,
)

from dicom_bridge import listener as listener_module
from dicom_bridge.access import Access
from dicom_bridge.errors import ListenerFailed
from dicom_bridge.inbox import Inbox
from dicom_bridge.listener import AssociationEvent, Denial, Fault, Listener, ListenerLimits
from dicom_bridge.peers import Peer
from tests.simulators.failing_disk import FailingDisk
from tests.simulators.modality_scu import association, send_all, store_raw
from tests.simulators.raw_peer import RawPeer, request
from tests.simulators.received import Clock
from tests.simulators.series import dataset_bytes, make_slice, set_pixels, write_series
from tests.simulators.waiting import until

STUDY = make_slice(0).StudyInstanceUID
DCMTK_ENV = {**os.environ, "TCP_NODELAY": "1"}
MR = [(MRImageStorage, [ExplicitVRLittleEndian])]


class Running:
    """A listener with its inbox and disk, and what it told upward."""

    def __init__(self, root: Path, inbox: Inbox | None = None, **options: Any) -> None:
        self.disk = FailingDisk()
        self.inbox = inbox or Inbox(root, Clock(), disk=self.disk)
        self.events: list[tuple[str, AssociationEvent]] = []
        self.denials: list[Denial] = []
        self.faults: list[Fault] = []
        self.listener = Listener(
            "ZHIYING",
            "127.0.0.1",
            0,
            self.inbox,
            on_association=lambda sender, event: self.events.append((sender, event)),
            on_denied=self.denials.append,
            on_fault=self.faults.append,
            **options,
        )
        self.listener.start()
        self.port = self.listener.port


@contextmanager
def running(root: Path, inbox: Inbox | None = None, **options: Any) -> Iterator[Running]:
    """Start a listener, stop it at the end."""
    made = Running(root, inbox, **options)
    try:
        yield made
    finally:
        made.listener.stop()
        made.inbox.close()


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    """One listener for most tests: stopping one takes pynetdicom half a second."""
    with running(tmp_path_factory.mktemp("first") / "inbox") as made:
        yield made


@pytest.fixture
def scp(shared: Running, tmp_path: Path) -> Iterator[Running]:
    """The shared listener on an inbox of its own for this test."""
    shared.inbox.close()
    shared.disk = FailingDisk()
    shared.inbox = shared.listener._inbox = Inbox(tmp_path / "inbox", Clock(), disk=shared.disk)
    shared.events.clear()
    shared.faults.clear()
    yield shared
    # The next test's inbox must not be told of this test's associations.
    until(lambda: shared.listener._open() == ())


def store(made: Any, ds: Any, encoded: bytes | None = None, sop_uid: str | None = None) -> Any:
    """Send one C-STORE request with exactly these bytes, and return the answer."""
    uid = str(ds.SOPInstanceUID) if sop_uid is None else sop_uid
    return store_raw(made, str(ds.SOPClassUID), uid, dataset_bytes(ds) if encoded is None else encoded)


# -- real senders


def test_dcmtk_stores_a_series(scp: Running, tmp_path: Path) -> None:
    """storescu of DCMTK: every image acknowledged is held, byte for byte the pixels that were sent."""
    write_series(tmp_path / "series", 12)
    command = [
        "storescu",
        "-aet",
        "TESTSCU",
        "-aec",
        "ZHIYING",
        "127.0.0.1",
        str(scp.port),
        "+sd",
        str(tmp_path / "series"),
    ]
    done = subprocess.run(command, env=DCMTK_ENV, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stderr
    held = scp.inbox.instances(STUDY)
    assert len(held) == 12
    assert {one.sender for one in held} == {"TESTSCU"}
    pixels = {pydicom.dcmread(one.path).PixelData for one in held}
    assert pixels == {make_slice(index).PixelData for index in range(12)}
    until(lambda: scp.events == [("TESTSCU", AssociationEvent.OPENED), ("TESTSCU", AssociationEvent.CLOSED)])


def test_dcmtk_echoes_only_to_our_title(scp: Running) -> None:
    """C-ECHO is answered; an association for another AE title is rejected."""
    echo = ["echoscu", "127.0.0.1", str(scp.port), "-aec"]
    assert (
        subprocess.run([*echo, "ZHIYING"], env=DCMTK_ENV, capture_output=True, timeout=300, check=False).returncode == 0
    )
    wrong = subprocess.run([*echo, "OTHER"], env=DCMTK_ENV, capture_output=True, text=True, timeout=300, check=False)
    assert wrong.returncode != 0
    assert "Called AE Title Not Recognized" in wrong.stderr


def test_pynetdicom_stores_and_resends(scp: Running) -> None:
    """A second sender, the same images again: all 0x0000, held once."""
    acknowledged: list[str] = []
    for _ in range(2):
        assert send_all(scp.port, [make_slice(index) for index in range(5)], acknowledged.append) == [0] * 5
    assert len(scp.inbox.instances(STUDY)) == 5
    assert len(acknowledged) == 10
    assert scp.faults == []


@pytest.mark.parametrize(
    "syntax", [ImplicitVRLittleEndian, ExplicitVRLittleEndian, ExplicitVRBigEndian, DeflatedExplicitVRLittleEndian]
)
def test_each_native_transfer_syntax_is_received(scp: Running, syntax: str) -> None:
    """What is held is in the syntax that was negotiated, and readable."""
    ds = make_slice(2)
    if syntax == ExplicitVRBigEndian:
        ds["PixelData"].value = np.frombuffer(ds.PixelData, "<i2").astype(">i2").tobytes()
    sent: list[str] = []
    assert send_all(scp.port, [ds], sent.append, syntax) == [0]
    (held,) = scp.inbox.instances(STUDY)
    again = pydicom.dcmread(held.path)
    assert again.file_meta.TransferSyntaxUID == syntax
    assert int(again.pixel_array[3, 4]) == 200 + 30 + 4


def test_a_compressed_syntax_is_received(scp: Running) -> None:
    """RLE, as an example of encapsulated pixels, is kept as it came."""
    ds = make_slice(2)
    ds.file_meta = pydicom.dataset.FileMetaDataset()
    ds.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    ds.compress(RLELossless, generate_instance_uid=False)
    assert send_all(scp.port, [ds], lambda _: None, RLELossless) == [0]
    assert int(pydicom.dcmread(scp.inbox.instances(STUDY)[0].path).pixel_array[3, 4]) == 234


# -- negotiation


def test_every_accepted_syntax_can_be_decoded_here() -> None:
    """We accept exactly what the installed decoders read; a syntax without one is not in the list."""
    native = [ImplicitVRLittleEndian, ExplicitVRLittleEndian, ExplicitVRBigEndian, DeflatedExplicitVRLittleEndian]
    for syntax in set(listener_module.TRANSFER_SYNTAXES) - set(native):
        assert get_decoder(syntax).is_available
    assert set(native) < set(listener_module.TRANSFER_SYNTAXES)
    assert JPEG2000MC not in listener_module.TRANSFER_SYNTAXES


def test_storage_classes_are_broad_and_standard() -> None:
    """CT, MR, enhanced, secondary capture, SR, SEG: a PACS that forwards whole studies is not stopped."""
    classes = set(listener_module.STORAGE_CLASSES)
    prefix = "1.2.840.10008.5.1.4.1.1."
    assert {
        prefix + tail for tail in ("2", "4", "2.1", "4.1", "7", "88.33", "88.34", "66.4", "128", "1.1", "481.3")
    } <= classes
    assert all(uid.startswith("1.2.840.10008.") for uid in classes)


def test_unknown_classes_and_syntaxes_are_refused_context_by_context(scp: Running) -> None:
    """A private class and an undecodable syntax are rejected; the association and the other contexts live."""
    contexts = [("1.2.3.4.5", [ExplicitVRLittleEndian]), (CTImageStorage, [JPEG2000MC]), *MR]
    with association(scp.port, contexts) as made:
        assert made.is_established
        assert [context.result for context in made.rejected_contexts] == [3, 4]
        assert [context.abstract_syntax for context in made.accepted_contexts] == [MRImageStorage]
        assert made.send_c_store(prepared(0)).Status == 0


def prepared(index: int) -> Any:
    """Return a slice that pynetdicom can send."""
    ds = make_slice(index)
    ds.file_meta = pydicom.dataset.FileMetaDataset()
    ds.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    return ds


def test_callers_may_be_limited_to_those_that_are_known(tmp_path: Path) -> None:
    """A stranger is rejected for good as a calling title, another called title as a called one (PS3.8 table 9-21)."""
    pacs = Peer(name="pacs", ae_title="PACS", host="127.0.0.1", port=104)
    with running(tmp_path / "inbox", access=Access("ZHIYING", (pacs,), known_only=True)) as scp:
        with association(scp.port, MR, calling="PACS") as made:
            assert made.is_established
        for called, calling, reason in (("ZHIYING", "STRANGER", 3), ("OTHER", "PACS", 7)):
            with RawPeer(scp.port) as peer:
                peer.send(request([(1, MRImageStorage, [ExplicitVRLittleEndian])], called=called, calling=calling))
                assert peer.pdu() == (3, bytes((0, 1, 1, reason)))
                assert peer.ended()
        until(lambda: len(scp.events) == 2)
        assert {sender for sender, _ in scp.events} == {"PACS"}
        assert scp.denials == [
            Denial("CALLING_AE", "127.0.0.1", "STRANGER"),
            Denial("CALLED_AE", "127.0.0.1", "PACS"),
        ]


def test_the_gatekeeper_sees_the_address_of_the_caller(tmp_path: Path) -> None:
    """A known title from another address is rejected like an unknown one."""
    pacs = Peer(name="pacs", ae_title="PACS", host="192.0.2.1", port=104, addresses=("192.0.2.1",))
    with (
        running(tmp_path / "inbox", access=Access("ZHIYING", (pacs,), known_only=False)) as scp,
        association(scp.port, MR, calling="PACS") as made,
    ):
        assert made.is_rejected
        assert (made.acceptor.primitive.result, made.acceptor.primitive.diagnostic) == (1, 3)
        assert scp.denials == [Denial("ADDRESS", "127.0.0.1", "PACS")]


def test_more_associations_than_the_limit_are_rejected_for_now(tmp_path: Path) -> None:
    """Beyond the limit: a transient rejection, which peers retry; those that are open go on."""
    limits = ListenerLimits(associations_max=2)
    with (
        running(tmp_path / "inbox", limits=limits) as scp,
        association(scp.port, MR) as first,
        association(scp.port, MR) as second,
    ):
        with RawPeer(scp.port) as third:
            third.send(request([(1, MRImageStorage, [ExplicitVRLittleEndian])]))
            assert third.pdu() == (3, bytes((0, 2, 3, 2)))
            assert [denial.code for denial in scp.denials] == ["LIMIT"]
        assert (first.send_c_store(prepared(0)).Status, second.send_c_store(prepared(1)).Status) == (0, 0)


# -- answers


def test_a_conflict_is_acknowledged_kept_aside_and_shown(scp: Running) -> None:
    """Same UID, other pixels: 0x0000, since both are kept; the newcomer is on the QA list."""
    other = make_slice(0)
    set_pixels(other, np.zeros((16, 12), dtype=np.int16))
    assert send_all(scp.port, [make_slice(0), other], lambda _: None) == [0, 0]
    assert len(scp.inbox.conflicts()) == 1
    assert len(scp.inbox.instances(STUDY)) == 1


def test_bad_instances_get_their_status_and_harm_nothing_else(scp: Running) -> None:
    """Garbled, cut, without UID, of another class or instance: each has its status; the next image is stored."""
    ds = make_slice(0)
    whole = dataset_bytes(ds)
    anonymous = make_slice(0)
    del anonymous.StudyInstanceUID
    other_class = make_slice(0)
    other_class.SOPClassUID = CTImageStorage
    with association(scp.port, MR) as made:
        cases = [
            (store(made, ds, b"rubbish" * 10), 0xC000, None),
            (store(made, ds, whole[:-3]), 0xC000, 0x7FE00010),
            (store(made, ds, dataset_bytes(anonymous)), 0xC000, 0x0020000D),
            (store(made, ds, dataset_bytes(other_class)), 0xA900, 0x00080016),
            (store(made, ds, whole, sop_uid="2.25.4711"), 0xC000, 0x00080018),
            (store(made, ds, whole), 0x0000, None),
        ]
    for answer, status, tag in cases:
        assert answer.Status == status
        assert bool(answer.ErrorComment) is (status != 0)
        assert (tag is None) or (
            answer.OffendingElement is not None and tag in list(np.atleast_1d(answer.OffendingElement))
        )
    assert len(scp.inbox.quarantined()) == 5
    assert len(scp.inbox.instances(STUDY)) == 1
    assert scp.faults == []


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EIO])
@pytest.mark.parametrize("call", ["write", "adopt"])
def test_a_full_or_failing_disk_is_a700_and_the_resend_succeeds(scp: Running, call: str, code: int) -> None:
    """Out of resources: the sender keeps the image and tries again; the association lives."""
    scp.disk.code = code
    with association(scp.port, MR) as made:
        scp.disk.fail = {call: "before"}
        answer = store(made, make_slice(0))
        assert (answer.Status, bool(answer.ErrorComment)) == (0xA700, True)
        assert scp.inbox.instances(STUDY) == ()
        scp.disk.fail = {}
        assert store(made, make_slice(0)).Status == 0
    assert len(scp.inbox.instances(STUDY)) == 1


class BuggyDisk(FailingDisk):
    """A disk with a bug, in one of its calls."""

    buggy = ""

    def _do(self, name: str, *, after: bool) -> None:
        if name == self.buggy:
            raise ZeroDivisionError("TEST^Phantom must not be shown")
        super()._do(name, after=after)


@pytest.mark.parametrize("call", ["create", "write", "adopt"])
def test_a_bug_of_ours_is_a_failure_status_and_reported(tmp_path: Path, call: str) -> None:
    """The wall: 0xC211, the fault told upward without its text, nothing left behind, and the association goes on."""
    disk = BuggyDisk()
    with (
        running(tmp_path / "inbox", Inbox(tmp_path / "inbox", Clock(), disk=disk)) as scp,
        association(scp.port, MR) as made,
    ):
        disk.buggy = call
        answer = store(made, make_slice(0, shape=(300, 300)))
        assert answer.Status == 0xC211
        assert "Phantom" not in str(answer.ErrorComment)
        assert scp.faults == [Fault("TESTMODALITY", "ZeroDivisionError")]
        disk.buggy = ""
        assert store(made, make_slice(0)).Status == 0
        assert list((tmp_path / "inbox" / "incoming").iterdir()) == []


def test_nothing_is_answered_before_it_is_durable(scp: Running) -> None:
    """While the disk has not finished, there is no answer; when it has, there is."""
    release, entered = threading.Event(), threading.Event()

    class SlowDisk(FailingDisk):
        def adopt(self, temporary: str | Path, final: str | Path, handle: int | None = None) -> bool:
            entered.set()
            assert release.wait(30)
            return super().adopt(temporary, final, handle)

    scp.inbox._spool.disk = SlowDisk()
    answers: list[int | None] = []
    sender = threading.Thread(target=lambda: answers.extend(send_all(scp.port, [make_slice(0)], lambda _: None)))
    sender.start()
    assert entered.wait(10)
    time.sleep(0.2)
    assert answers == []
    release.set()
    sender.join(10)
    assert answers == [0]


# -- associations


def test_open_associations_are_known_by_study(scp: Running) -> None:
    """An association counts for the studies that it has carried, until it ends, however it ends."""
    with association(scp.port, MR) as released, association(scp.port, MR) as aborted:
        assert scp.inbox.open_associations(STUDY) == 0
        store(released, make_slice(0))
        store(aborted, make_slice(1))
        assert scp.inbox.open_associations(STUDY) == 2
        assert scp.inbox.open_associations("1.2.3") == 0
        aborted.abort()
        until(lambda: scp.inbox.open_associations(STUDY) == 1)
    until(lambda: scp.inbox.open_associations(STUDY) == 0)
    assert scp.inbox.activity.total() == 0


def test_a_peer_that_vanishes_is_noticed(tmp_path: Path) -> None:
    """A silent peer's association is ended after the network timeout, so that no study waits for it for ever."""
    with running(tmp_path / "inbox", limits=ListenerLimits(network_s=0.3)) as scp, association(scp.port, MR) as made:
        store(made, make_slice(0))
        assert scp.inbox.open_associations(STUDY) == 1
        until(lambda: scp.inbox.open_associations(STUDY) == 0)


# -- starting and stopping


def test_a_taken_port_is_said(scp: Running, tmp_path: Path) -> None:
    """PORT_UNAVAILABLE with the address, not a traceback; a second start is refused too."""
    second = Listener("OTHER", "127.0.0.1", scp.port, scp.inbox)
    with pytest.raises(ListenerFailed) as caught:
        second.start()
    assert caught.value.code == "PORT_UNAVAILABLE"
    assert str(scp.port) in str(caught.value)
    second.stop()
    with pytest.raises(ListenerFailed) as caught:
        scp.listener.start()
    assert caught.value.code == "ALREADY_STARTED"


@pytest.mark.slow
def test_a_stopped_listener_frees_its_port_and_can_start_again(tmp_path: Path) -> None:
    """stop and start: the same listener, the same inbox."""
    with running(tmp_path / "inbox") as scp:
        scp.listener.stop()
        with association(scp.port, MR) as made:
            assert not made.is_established
        scp.listener.start()
        assert send_all(scp.listener.port, [make_slice(0)], lambda _: None) == [0]


def stops_only_after(release: threading.Event, scp: Running) -> None:
    """Stopping does not return before this is set, and does then."""
    stopper = threading.Thread(target=scp.listener.stop)
    stopper.start()
    stopper.join(1.0)
    assert stopper.is_alive()
    release.set()
    stopper.join(10)
    assert not stopper.is_alive()


@pytest.mark.slow
def test_stopping_finishes_what_is_being_stored_and_ends_the_rest(tmp_path: Path) -> None:
    """stop returns when the instance at the disk is held; the association is aborted; the inbox may be closed."""
    release, entered = threading.Event(), threading.Event()

    class SlowDisk(FailingDisk):
        def adopt(self, temporary: str | Path, final: str | Path, handle: int | None = None) -> bool:
            entered.set()
            assert release.wait(30)
            return super().adopt(temporary, final, handle)

    with running(tmp_path / "inbox", Inbox(tmp_path / "inbox", Clock(), disk=SlowDisk())) as scp:
        sender = threading.Thread(target=lambda: send_all(scp.port, [make_slice(0), make_slice(1)], lambda _: None))
        sender.start()
        assert entered.wait(10)
        stops_only_after(release, scp)
        sender.join(15)
        assert len(scp.inbox.instances(STUDY)) == 1


def test_stopping_waits_until_the_end_of_an_association_was_told(tmp_path: Path) -> None:
    """The connection is closed already, but the inbox is still in use; a place for another is free by then."""
    told, release = threading.Semaphore(0), threading.Event()

    class SlowInbox(Inbox):
        def wake(self) -> None:
            told.release()
            assert release.wait(30)
            super().wake()

    limits = ListenerLimits(associations_max=1)
    with running(tmp_path / "inbox", SlowInbox(tmp_path / "inbox", Clock()), limits=limits) as scp:
        for _ in range(2):
            with association(scp.port, MR) as made:
                assert made.is_established
            assert told.acquire(timeout=10)
        stops_only_after(release, scp)


def test_connections_have_no_delay_and_leave_no_descriptor(scp: Running) -> None:
    """TCP_NODELAY on what we accept; the socket is closed even when the peer resets the connection."""
    with association(scp.port, MR) as made:
        store(made, make_slice(0))
        (caller,) = scp.listener._open()
        assert caller.connected.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY) != 0
    until(lambda: scp.listener._open() == ())
    with socket.create_connection(("127.0.0.1", scp.port)) as rude:
        until(lambda: len(scp.listener._open()) == 1)
        (caller,) = scp.listener._open()
        # Reset, not closed.
        rude.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    until(lambda: caller.connected.fileno() == -1 and scp.listener._open() == ())


def test_stopping_aborts_idle_associations(tmp_path: Path) -> None:
    """A peer that keeps its association open does not keep us from stopping, and is told."""
    with running(tmp_path / "inbox") as scp, association(scp.port, MR) as made:
        scp.listener.stop()
        until(lambda: made.is_aborted)


# -- killed


@pytest.mark.slow
def test_kill_9_in_mid_association_loses_nothing_acknowledged(tmp_path: Path) -> None:
    """SIGKILL while images pour in: every acknowledged one is on the disk, whole, and indexed at the next start."""
    root = Path(__file__).parents[3]
    for round_, kill_after in enumerate((1, 7, 23)):
        spool = tmp_path / str(round_)
        command = [sys.executable, "-m", "tests.simulators.receiver", str(spool)]
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=root) as receiver:
            assert receiver.stdout is not None
            port = int(receiver.stdout.readline())
            acknowledged: list[str] = []

            def note(uid: str, seen: list[str] = acknowledged, at: int = kill_after, pid: int = receiver.pid) -> None:
                seen.append(uid)
                if len(seen) == at:
                    # A moment later, so that it strikes inside some later store.
                    threading.Timer(0.004, os.kill, (pid, signal.SIGKILL)).start()

            try:
                statuses = send_all(port, [make_slice(index, shape=(64, 64)) for index in range(400)], note)
                assert receiver.wait(10) == -signal.SIGKILL
            finally:
                receiver.kill()
        assert len(acknowledged) < 400, "the receiver was killed too late to prove anything"
        assert set(statuses) <= {0, None}
        inbox = Inbox(spool, Clock())
        held = {one.sop_uid: one for one in inbox.instances(make_slice(0).StudyInstanceUID)}
        assert set(acknowledged) <= set(held)
        # One more may be held: named on the disk, killed before its answer.
        assert len(held) <= len(acknowledged) + 1
        expected = {make_slice(index).SOPInstanceUID: index for index in range(len(held))}
        for uid, one in held.items():
            assert pydicom.dcmread(one.path).PixelData == make_slice(expected[uid], shape=(64, 64)).PixelData
        assert list((spool / "incoming").iterdir()) == []
        inbox.close()
