"""Whatever goes wrong while images arrive: after each row, what was acknowledged is held once, and nothing else is."""

from __future__ import annotations

import errno
import os
import random
import signal
import socket
import sqlite3
import struct
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

import numpy as np
import pytest
from pydicom.uid import ExplicitVRLittleEndian, ImplicitVRLittleEndian, MRImageStorage

from dicom_bridge.inbox import Inbox, InboxLimits
from dicom_bridge.listener import Listener, ListenerLimits
from tests.simulators.failing_disk import FailingDisk
from tests.simulators.raw_peer import ABORT, RawPeer, data, store_command
from tests.simulators.received import Clock
from tests.simulators.series import dataset_bytes, make_slice, set_pixels
from tests.simulators.waiting import until

ROOT = Path(__file__).parents[2]
CONTEXT = 1
CONTEXTS = [(CONTEXT, MRImageStorage, [ExplicitVRLittleEndian]), (3, MRImageStorage, [ImplicitVRLittleEndian])]
STUDY = make_slice(0).StudyInstanceUID
IMPATIENT = ListenerLimits(network_s=1.0, dimse_s=1.0, acse_s=10.0)
PATIENCE_S = 60.0


def one(index: int) -> tuple[str, bytes]:
    """SOP Instance UID and encoded data set of a slice."""
    ds = make_slice(index)
    return str(ds.SOPInstanceUID), dataset_bytes(ds)


class Receiver:
    """A listener on a spool of its own, with a disk that fails on demand."""

    def __init__(self, root: Path, limits: ListenerLimits, inbox_limits: InboxLimits | None = None) -> None:
        self.root, self.disk = root, FailingDisk()
        self.inbox = Inbox(root, Clock(), disk=self.disk, limits=inbox_limits)
        self.faults: list[object] = []
        self.listener = Listener("ZHIYING", "127.0.0.1", 0, self.inbox, limits=limits, on_fault=self.faults.append)
        self.listener.start()
        self.port = self.listener.port

    def store(self, *indices: int) -> list[int]:
        """Store these slices in one association; gives the statuses."""
        with RawPeer(self.port) as peer:
            peer.associate(CONTEXTS)
            return [peer.store(CONTEXT, MRImageStorage, *one(index)) for index in indices]

    def close(self) -> None:
        """Stop."""
        self.listener.stop()
        self.inbox.close()


@pytest.fixture
def receiver(tmp_path: Path) -> Iterator[Receiver]:
    """A receiver that waits for nobody."""
    made = Receiver(tmp_path / "spool", IMPATIENT)
    yield made
    made.close()


def account(root: Path, acknowledged: set[str], *, resend: bool = True) -> None:
    """Open the spool as the next start would: what was acknowledged is there, once, whole; nothing half-done is."""
    inbox = Inbox(root, Clock())
    try:
        held = {instance.sop_uid: instance for instance in inbox.instances(STUDY)}
        assert acknowledged <= held.keys()
        files = {path.stem: path for path in (root / "studies").rglob("*.dcm")}
        assert files.keys() == held.keys()
        expected = dict(one(index) for index in range(12))
        for name, path in files.items():
            assert path.read_bytes().endswith(expected[name])
        assert list((root / "incoming").iterdir()) == []
        assert inbox.recovered.quarantined == 0
    finally:
        inbox.close()
    if resend:
        again = Receiver(root, ListenerLimits())
        assert again.store(0, 1, 2, 3) == [0] * 4
        assert {name for name, _ in map(one, range(4))} <= {one.sop_uid for one in again.inbox.instances(STUDY)}
        assert again.inbox.conflicts() == ()
        again.close()


# -- the disk


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EIO], ids=["ENOSPC", "EIO"])
@pytest.mark.parametrize("when", ["before", "after"])
@pytest.mark.parametrize("call", ["create", "write", "make_dirs", "adopt"])
def test_a_disk_that_refuses_is_0xa700_and_leaves_nothing(receiver: Receiver, call: str, when: str, code: int) -> None:
    """Whichever call fails: the sender is told to try again, nothing is half-held, and trying again succeeds."""
    receiver.disk.code = code
    with RawPeer(receiver.port) as peer:
        peer.associate(CONTEXTS)
        receiver.disk.fail = {call: when}
        assert peer.store(CONTEXT, MRImageStorage, *one(0)) == 0xA700
        assert list((receiver.root / "incoming").iterdir()) == []
        assert receiver.inbox.instances(STUDY) == ()
        receiver.disk.fail = {}
        assert peer.store(CONTEXT, MRImageStorage, *one(0)) == 0
        assert peer.store(CONTEXT, MRImageStorage, *one(1)) == 0
    assert receiver.faults == []
    receiver.close()
    account(receiver.root, {one(0)[0], one(1)[0]})


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EIO], ids=["ENOSPC", "EIO"])
@pytest.mark.parametrize("call", ["create_same", "adopt"])
def test_a_refusal_that_cannot_be_kept_is_0xa700(receiver: Receiver, call: str, code: int) -> None:
    """Garbled, and quarantine fails: the only copy is the sender's, so it must keep it."""
    receiver.disk.code = code
    with RawPeer(receiver.port) as peer:
        peer.associate(CONTEXTS)
        receiver.disk.fail = {call: "before"}
        assert peer.store(CONTEXT, MRImageStorage, one(0)[0], b"rubbish" * 9) == 0xA700
        receiver.disk.fail = {}
        assert peer.store(CONTEXT, MRImageStorage, one(0)[0], b"rubbish" * 9) == 0xC000
    assert len(receiver.inbox.quarantined()) == 1
    assert list((receiver.root / "incoming").iterdir()) == []


def test_a_full_disk_is_0xa700_until_there_is_room(tmp_path: Path) -> None:
    """Below the reserve nothing is taken; the association lives, and the sender's next try succeeds."""
    receiver = Receiver(tmp_path / "spool", ListenerLimits(), InboxLimits(free_bytes_min=1 << 20))
    with RawPeer(receiver.port) as peer:
        peer.associate(CONTEXTS)
        receiver.disk.free = 1 << 20
        assert [peer.store(CONTEXT, MRImageStorage, *one(index)) for index in range(3)] == [0xA700] * 3
        receiver.disk.free = None
        assert [peer.store(CONTEXT, MRImageStorage, *one(index)) for index in range(3)] == [0] * 3
    receiver.close()
    account(receiver.root, {one(index)[0] for index in range(3)})


def test_an_index_that_cannot_be_written_stops_acknowledging(receiver: Receiver) -> None:
    """Rows that wait are bounded: before more pile up, senders are told to wait; the files are indexed at the start."""
    index = receiver.inbox._index
    assert receiver.store(0) == [0]
    index.flush()
    locker = sqlite3.connect(receiver.root / "index.sqlite", isolation_level=None)
    index._db.execute("PRAGMA busy_timeout=10")
    locker.execute("BEGIN IMMEDIATE")
    assert receiver.store(1, 2) == [0, 0]
    index._pending.update({str(number): index.instance(one(1)[0]) for number in range(2000)})  # type: ignore[misc]
    assert receiver.store(3) == [0xA700]
    for number in range(2000):
        del index._pending[str(number)]
    locker.execute("ROLLBACK")
    locker.close()
    assert receiver.store(3) == [0]
    assert len(receiver.inbox.instances(STUDY)) == 4


# -- the peer and the network


def _reset(peer: RawPeer) -> None:
    peer.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    peer.close()


def _cut_wire(peer: RawPeer) -> None:
    """The peer is gone and nobody tells us: what a pulled cable looks like from here."""
    # Kept open beyond the test's own use of it: no FIN, no RST.
    _cut_wire.kept.append(peer.socket.dup())  # type: ignore[attr-defined]


_cut_wire.kept = []  # type: ignore[attr-defined]

WAYS_TO_GO: dict[str, Callable[[RawPeer], None]] = {
    "closes": RawPeer.close,
    "resets": _reset,
    "aborts": lambda peer: peer.send(ABORT),
    "half-closes": lambda peer: peer.socket.shutdown(socket.SHUT_WR),
    "says nothing more": _cut_wire,
}
MESSAGE = data(CONTEXT, 3, store_command(MRImageStorage, one(1)[0])) + data(CONTEXT, 2, one(1)[1])
COMMAND_END = len(data(CONTEXT, 3, store_command(MRImageStorage, one(1)[0])))
PLACES = {
    "between two messages": 0,
    "inside a PDU header": 3,
    "inside the command": 60,
    "after the command": COMMAND_END,
    "inside a fragment's header": COMMAND_END + 9,
    "inside a fragment": COMMAND_END + 200,
    "shortly before the end": len(MESSAGE) - 30,
}


@pytest.mark.slow
@pytest.mark.parametrize("go", WAYS_TO_GO.values(), ids=WAYS_TO_GO.keys())
@pytest.mark.parametrize("place", PLACES.values(), ids=PLACES.keys())
def test_a_peer_that_goes_leaves_what_was_acknowledged(
    receiver: Receiver, place: int, go: Callable[[RawPeer], None]
) -> None:
    """Wherever it stops, and however: what it had an answer for is held, the rest is not, and its place is free."""
    peer = RawPeer(receiver.port)
    peer.associate(CONTEXTS)
    assert peer.store(CONTEXT, MRImageStorage, *one(0)) == 0
    peer.send(MESSAGE[:place])
    go(peer)
    until(lambda: not receiver.listener._open() and receiver.inbox.activity.total() == 0)
    assert receiver.store(2) == [0]
    peer.close()
    while _cut_wire.kept:  # type: ignore[attr-defined]
        _cut_wire.kept.pop().close()  # type: ignore[attr-defined]
    receiver.close()
    account(receiver.root, {one(0)[0], one(2)[0]}, resend=False)
    assert receiver.faults == []


def test_an_answer_that_was_lost_is_given_again(receiver: Receiver) -> None:
    """Stored, and the connection broke before the answer: the peer sends again, and has its 0x0000 then."""
    with RawPeer(receiver.port) as peer:
        peer.associate(CONTEXTS)
        peer.send(MESSAGE)
        _reset(peer)
    until(lambda: len(receiver.inbox.instances(STUDY)) == 1 and not receiver.listener._open())
    assert receiver.store(1) == [0]
    assert len(receiver.inbox.instances(STUDY)) == 1
    assert receiver.inbox.conflicts() == ()


# -- the same again


def test_duplicates_are_acknowledged_and_held_once(receiver: Receiver) -> None:
    """In one association, in another, at the same time from many: 0x0000 each time, one file, no conflict."""
    assert receiver.store(0, 1, 0, 1) == [0] * 4
    statuses: list[int] = []
    threads = [threading.Thread(target=lambda: statuses.extend(receiver.store(*range(6)))) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert statuses == [0] * 36
    assert len(receiver.inbox.instances(STUDY)) == 6
    assert receiver.inbox.open_studies()[0].touches == 40
    assert receiver.inbox.conflicts() == ()
    receiver.close()
    account(receiver.root, {one(index)[0] for index in range(6)})


def test_another_encoding_of_the_same_is_no_conflict(receiver: Receiver) -> None:
    """Explicit from the modality, implicit from the PACS."""
    assert receiver.store(0) == [0]
    with RawPeer(receiver.port) as peer:
        peer.associate(CONTEXTS)
        encoded = dataset_bytes(make_slice(0), ImplicitVRLittleEndian)
        assert peer.store(3, MRImageStorage, one(0)[0], encoded) == 0
    assert len(receiver.inbox.instances(STUDY)) == 1
    assert receiver.inbox.conflicts() == ()


@pytest.mark.parametrize("at_once", [False, True])
def test_other_pixels_under_the_same_uid_are_kept_aside(receiver: Receiver, at_once: bool) -> None:
    """0x0000, since both are kept: one is held, the other is on the list for QA; never one over the other."""
    ds = make_slice(0)
    set_pixels(ds, np.full((16, 12), 7, dtype=np.int16))
    both = [one(0)[1], dataset_bytes(ds)]
    statuses: list[int] = []
    gate = threading.Barrier(2 if at_once else 1)

    def send(encoded: bytes) -> None:
        with RawPeer(receiver.port) as peer:
            peer.associate(CONTEXTS)
            gate.wait()
            statuses.append(peer.store(CONTEXT, MRImageStorage, one(0)[0], encoded))

    if at_once:
        threads = [threading.Thread(target=send, args=(encoded,)) for encoded in both]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    else:
        for encoded in both:
            send(encoded)
    assert statuses == [0, 0]
    (held,) = receiver.inbox.instances(STUDY)
    (aside,) = receiver.inbox.conflicts()
    kept = {path.read_bytes()[-len(both[0]) :] for path in (held.path, aside.path)}
    assert kept == set(both)


# -- killed


KILLS = [
    *((call, when) for call in ("create", "write", "adopt") for when in ("before", "after")),
    ("row", "before"),
    ("row", "after"),
]


@pytest.mark.slow
@pytest.mark.parametrize(("step", "when"), KILLS, ids=[f"{when} {step}" for step, when in KILLS])
def test_kill_9_at_each_step_of_a_store_loses_nothing_acknowledged(tmp_path: Path, step: str, when: str) -> None:
    """SIGKILL before and after each write, and before and after the row that comes after the answer."""
    # The third instance is struck; its header is a write of its own, and the first was named in vain before its
    # study had a folder.
    number = {"write": 6, "adopt": 4 if when == "before" else 3}.get(step, 3)
    command = [
        sys.executable,
        "-m",
        "tests.simulators.dying_receiver",
        str(tmp_path / "spool"),
        step,
        when,
        str(number),
    ]
    acknowledged = set()
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=ROOT) as process:
        assert process.stdout is not None
        with RawPeer(int(process.stdout.readline())) as peer, suppress(AssertionError):
            peer.associate(CONTEXTS)
            for index in range(6):
                if peer.store(CONTEXT, MRImageStorage, *one(index)) == 0:
                    acknowledged.add(one(index)[0])
        assert process.wait(PATIENCE_S) == -signal.SIGKILL
    assert len(acknowledged) >= 2
    assert (one(2)[0] in acknowledged) is (step == "row")
    account(tmp_path / "spool", acknowledged)


@pytest.mark.slow
def test_many_peers_and_a_disk_that_fails_now_and_then(tmp_path: Path) -> None:
    """One call of ten fails: whoever was told 0x0000 finds it held, whoever was not sends it again."""
    receiver = Receiver(tmp_path / "spool", ListenerLimits())
    moods = random.Random(7)

    class Moody(FailingDisk):
        def _do(self, name: str, *, after: bool) -> None:
            if name in ("write", "adopt") and moods.random() < 0.1:
                raise OSError(errno.EIO, "injected")

    receiver.inbox._spool.disk = Moody()
    acknowledged: set[str] = set()

    def send(first: int) -> None:
        with RawPeer(receiver.port) as peer:
            peer.associate(CONTEXTS)
            for index in range(first, first + 3):
                while True:
                    status = peer.store(CONTEXT, MRImageStorage, *one(index))
                    assert status in (0, 0xA700)
                    if status == 0:
                        acknowledged.add(one(index)[0])
                        break

    threads = [threading.Thread(target=send, args=(first,)) for first in (0, 3, 6, 9)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(acknowledged) == 12
    receiver.close()
    account(receiver.root, acknowledged)


def test_no_descriptor_and_no_thread_is_left(receiver: Receiver) -> None:
    """After associations that ended in every way there are as many of both as before."""
    assert receiver.store(0) == [0]
    until(lambda: not receiver.listener._open())

    def used() -> tuple[int, int]:
        return len(os.listdir("/proc/self/fd")), threading.active_count()  # noqa: PTH208 - only their number counts

    before = used()
    for go in (RawPeer.close, _reset, WAYS_TO_GO["aborts"], WAYS_TO_GO["half-closes"]):
        for place in PLACES.values():
            with RawPeer(receiver.port) as peer:
                peer.associate(CONTEXTS)
                peer.send(MESSAGE[:place])
                go(peer)
    until(lambda: not receiver.listener._open())
    until(lambda: used() <= before)
