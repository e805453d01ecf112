"""Instances in pieces: never more in memory than a piece, and the same outcome however they were cut."""

from __future__ import annotations

import errno
import os
import sqlite3
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from pydicom.uid import (
    DeflatedExplicitVRLittleEndian,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
    MRImageStorage,
)

from dicom_bridge.errors import InboxUnavailable, InstanceRefused
from dicom_bridge.inbox import Inbox, InboxLimits, Outcome
from dicom_bridge.incoming import Announced
from tests.simulators.failing_disk import FailingDisk
from tests.simulators.received import Clock, received
from tests.simulators.series import dataset_bytes, make_slice, part10

ROOT = Path(__file__).parents[3]
STUDY = make_slice(0).StudyInstanceUID


@pytest.fixture
def inbox(tmp_path: Path) -> Iterator[Inbox]:
    """An empty inbox with a disk that fails on demand."""
    made = Inbox(tmp_path / "inbox", Clock(), disk=FailingDisk())
    yield made
    made.close()


def announced(index: int = 0, *, urgent: bool = False) -> Announced:
    """What a request says of slice `index`."""
    ds = make_slice(index)
    return Announced(ExplicitVRLittleEndian, str(ds.SOPClassUID), str(ds.SOPInstanceUID), urgent)


def parts(inbox: Inbox) -> list[Path]:
    """What lies in incoming/."""
    return list((inbox._root / "incoming").iterdir())


@pytest.mark.parametrize("size", [1, 7, 100, 10**6])
def test_pieces_of_any_size_make_the_same_file(inbox: Inbox, size: int) -> None:
    """Byte for byte what `store` makes of the whole, digest included."""
    whole = received(0)
    data = whole.dataset
    made = inbox.incoming(announced(), "A")
    for start in range(0, len(data), size):
        made.write(memoryview(data)[start : start + size])
    stored = made.finish()
    assert stored.outcome is Outcome.NEW
    assert stored.held.path.read_bytes().endswith(data)
    assert inbox.store(whole, "A").outcome is Outcome.IDENTICAL
    assert parts(inbox) == []


def test_the_buffer_of_a_piece_may_be_used_again(inbox: Inbox) -> None:
    """A piece is written when `write` returns: the network's buffer takes the next one."""
    data, buffer = received(0).dataset, bytearray(100)
    made = inbox.incoming(announced(), "A")
    for start in range(0, len(data), 100):
        piece = data[start : start + 100]
        buffer[: len(piece)] = piece
        made.write(memoryview(buffer)[: len(piece)])
    assert made.finish().held.path.read_bytes().endswith(data)


def test_nothing_is_known_before_it_is_finished(inbox: Inbox) -> None:
    """Begun and written is not held; abandoned leaves nothing, however often it is said."""
    made = inbox.incoming(announced(), "A")
    made.write(received(0).dataset)
    assert inbox.instances(STUDY) == ()
    assert len(parts(inbox)) == 1
    made.abandon()
    made.abandon()
    assert parts(inbox) == []
    assert inbox.store(received(0), "A").outcome is Outcome.NEW


def test_an_instance_that_never_came_leaves_nothing(inbox: Inbox) -> None:
    """Announced and abandoned: not one file is made."""
    inbox.incoming(announced(), "A").abandon()
    disk = inbox._disk
    assert isinstance(disk, FailingDisk)
    assert "create" not in disk.calls


def test_what_is_committed_is_durable_and_asked_for_only_when_it_is_known(inbox: Inbox) -> None:
    """Between the answer and the row, whoever asks waits: nobody sees an acknowledged instance missing."""
    made = inbox.incoming(announced(), "A")
    made.write(received(0).dataset)
    made.commit()
    assert [path.name for path in (inbox._root / "studies").rglob("*.dcm")] == [f"{make_slice(0).SOPInstanceUID}.dcm"]
    asked: list[int] = []
    asking = threading.Thread(target=lambda: asked.append(len(inbox.instances(STUDY))))
    asking.start()
    asking.join(0.2)
    assert asked == []
    assert made.settle().outcome is Outcome.NEW
    asking.join(30)
    assert asked == [1]


def test_what_is_committed_and_never_told_is_found_at_the_next_start(tmp_path: Path) -> None:
    """A crash between the answer and the row."""
    inbox = Inbox(tmp_path / "inbox", Clock())
    made = inbox.incoming(announced(urgent=True), "A")
    made.write(received(0).dataset)
    made.commit()
    made.abandon()
    inbox.close()
    again = Inbox(tmp_path / "inbox", Clock())
    assert again.recovered.indexed == 1
    (held,) = again.instances(STUDY)
    assert (held.sender, held.urgent) == ("A", True)
    again.close()


def test_a_resend_that_is_urgent_makes_what_is_held_urgent(inbox: Inbox) -> None:
    """The study is one that somebody now waits for."""
    for urgent in (False, True, False):
        made = inbox.incoming(announced(urgent=urgent), "A")
        made.write(received(0).dataset)
        made.finish()
    assert [held.urgent for held in inbox.instances(STUDY)] == [True]


def test_another_instance_or_class_than_announced_is_set_aside(inbox: Inbox) -> None:
    """The file that was written goes to quarantine as it is; nothing is held."""
    other = Announced(ExplicitVRLittleEndian, str(MRImageStorage), "2.25.1")
    made = inbox.incoming(other, "A")
    made.write(received(0).dataset)
    with pytest.raises(InstanceRefused) as caught:
        made.commit()
    assert caught.value.code == "UID_INVALID"
    (record,) = inbox.quarantined()
    assert record.path.read_bytes().endswith(received(0).dataset)
    assert (parts(inbox), inbox.instances(STUDY)) == ([], ())


def test_whoever_finds_a_fault_may_refuse_it(inbox: Inbox) -> None:
    """refuse: what came so far is kept aside under the caller's code."""
    made = inbox.incoming(announced(), "A")
    made.write(b"half")
    made.refuse(InstanceRefused("CLASS_MISMATCH", "not of this context"))
    assert [record.code for record in inbox.quarantined()] == ["CLASS_MISMATCH"]
    assert parts(inbox) == []


def test_a_refusal_that_cannot_be_kept_is_unavailable(tmp_path: Path) -> None:
    """Quarantine full, or the disk refuses: the sender must keep it."""
    disk = FailingDisk(errno.EIO)
    inbox = Inbox(tmp_path / "inbox", Clock(), disk=disk, limits=InboxLimits(free_bytes_min=0, quarantine_bytes_max=3))
    for fail, code in (
        ({}, "QUARANTINE_FULL"),
        ({"adopt": "before"}, "SPOOL_FAILED"),
        ({"create": "before"}, "SPOOL_FAILED"),
    ):
        made = inbox.incoming(announced(), "A")
        if "create" not in fail:
            made.write(b"rubbish")
        disk.fail, inbox._quarantine._bytes_max = fail, 3 if not fail else 10**6
        with pytest.raises(InboxUnavailable) as caught:
            made.refuse(InstanceRefused("DATASET_GARBLED"))
        assert caught.value.code == code
        disk.fail = {}
    assert parts(inbox) == []
    inbox.close()


def test_the_limit_of_an_instance_holds_while_it_comes(tmp_path: Path) -> None:
    """The piece that is too much is refused; what was written goes."""
    inbox = Inbox(tmp_path / "inbox", Clock(), limits=InboxLimits(free_bytes_min=0, instance_bytes_max=100))
    made = inbox.incoming(announced(), "A")
    made.write(bytes(100))
    with pytest.raises(InstanceRefused) as caught:
        made.write(b"1")
    assert caught.value.code == "INSTANCE_TOO_LARGE"
    made.abandon()
    assert parts(inbox) == []
    inbox.close()


def test_space_is_looked_at_as_the_instance_grows(tmp_path: Path) -> None:
    """Once for each 16 MiB: a disk that others fill is noticed in the middle of an instance."""
    disk = FailingDisk()
    looks: list[int] = []
    disk.free_bytes = lambda _path: looks.append(1) or 10**12  # type: ignore[func-returns-value, method-assign]
    inbox = Inbox(tmp_path / "inbox", Clock(), disk=disk)
    made = inbox.incoming(announced(), "A")
    piece = bytes(1 << 20)
    for _ in range(40):
        made.write(piece)
    assert len(looks) == 3
    made.abandon()
    inbox.close()


@pytest.mark.parametrize("call", ["index", "add"])
def test_an_index_that_fails_before_the_answer_is_no_answer(inbox: Inbox, call: str) -> None:
    """Before the commit: unavailable, nothing held. After it: an error that is reported, and the file stays."""
    made = inbox.incoming(announced(), "A")
    made.write(received(0).dataset)
    if call == "index":
        inbox._index._db.close()
        with pytest.raises(InboxUnavailable):
            made.commit()
        assert list((inbox._root / "studies").rglob("*.dcm")) == []
    else:
        made.commit()
        inbox._index._db.close()
        # Its row waits; whoever asks for it hears of the failure.
        made.settle()
        with pytest.raises(sqlite3.Error):
            inbox.instances(STUDY)
        assert len(list((inbox._root / "studies").rglob("*.dcm"))) == 1
    assert parts(inbox) == []


# -- files


@pytest.mark.parametrize("size", [1, 13, 140, 10**6])
@pytest.mark.parametrize("syntax", [ImplicitVRLittleEndian, ExplicitVRLittleEndian, DeflatedExplicitVRLittleEndian])
def test_a_file_in_pieces_is_stored_as_its_data_set(inbox: Inbox, size: int, syntax: str) -> None:
    """Its own file meta information is dropped, and ours is before the data set, wherever the pieces were cut."""
    data = part10(make_slice(0), syntax)
    made = inbox.incoming_file("STOW")
    for start in range(0, len(data), size):
        made.write(memoryview(data)[start : start + size])
    stored = made.finish()
    assert stored.held.path.read_bytes().endswith(dataset_bytes(make_slice(0), syntax))
    assert stored.held.sender == "STOW"
    assert inbox.store(received(0, syntax=syntax), "A").outcome is Outcome.IDENTICAL


RUBBISH: dict[str, bytes] = {
    "nothing": b"",
    "one byte": b"x",
    "no preamble": b"x" * 500,
    "a preamble alone": bytes(128) + b"DICM",
    "meta information cut off": part10(make_slice(0))[:200],
    "meta information without end": bytes(128) + b"DICM" + (b"\x02\0\x10\0UI\x10\0" + b"1" * 16) * 70_000,
    "a length beyond the file": bytes(128) + b"DICM\x02\0\x02\0OB\0\0\xff\xff\xff\x7f" + bytes(100),
}


@pytest.mark.parametrize("data", RUBBISH.values(), ids=RUBBISH.keys())
@pytest.mark.parametrize("size", [50, 10**7])
def test_a_file_that_is_none_is_refused_and_kept_as_it_came(inbox: Inbox, data: bytes, size: int) -> None:
    """Whatever it is: DATASET_GARBLED, the very bytes in quarantine, nothing in incoming."""
    made = inbox.incoming_file("STOW")
    for start in range(0, len(data), size):
        made.write(data[start : start + size])
    with pytest.raises(InstanceRefused) as caught:
        made.finish()
    assert caught.value.code == "DATASET_GARBLED"
    (record,) = inbox.quarantined()
    assert record.path.read_bytes() == data
    made.abandon()
    assert parts(inbox) == []


def test_an_abandoned_file_leaves_nothing(inbox: Inbox) -> None:
    """Before its head was read, and after."""
    for length in (10, 100_000):
        made = inbox.incoming_file("STOW")
        made.write(part10(make_slice(0, shape=(300, 300)))[:length])
        made.abandon()
    assert parts(inbox) == []


# -- memory

LARGE = """
import sys
from datetime import UTC, datetime
from pathlib import Path
from dicom_bridge.inbox import Inbox
from dicom_bridge.incoming import Announced
from tests.simulators.series import dataset_bytes, make_slice

def peak() -> int:
    status = Path("/proc/self/status").read_text()
    return int(next(line for line in status.splitlines() if line.startswith("VmHWM")).split()[1])

inbox = Inbox(Path(sys.argv[1]), lambda: datetime.now(UTC))
ds = make_slice(0)
ds.PixelData = b""
head = dataset_bytes(ds)[:-12]
def store(uid: str, mib: int) -> None:
    old = str(ds.SOPInstanceUID).encode()
    begin = head.replace(old, uid.ljust(len(old), "0").encode())
    made = inbox.incoming(Announced("1.2.840.10008.1.2.1", str(ds.SOPClassUID), uid.ljust(len(old), "0")), "A")
    made.write(begin + bytes.fromhex("e07f1000") + b"OW\\0\\0" + (mib << 20).to_bytes(4, "little"))
    piece = bytes(131072)
    for _ in range(mib * 8):
        made.write(piece)
    made.finish()
store("2.25.1", 4)
before = peak()
store("2.25.2", 400)
print(before, peak())
"""


@pytest.mark.slow
def test_a_large_instance_takes_no_memory(tmp_path: Path) -> None:
    """400 MiB: the peak of the process grows by less than a tenth of it."""
    command = [sys.executable, "-c", LARGE, str(tmp_path / "inbox")]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=300, check=True)
    before, after = map(int, done.stdout.split())
    assert after - before < 40 * 1024


def test_a_part_that_cannot_be_removed_does_not_hide_the_error(inbox: Inbox) -> None:
    """The folder is gone under it: what is reported is that nothing was kept."""
    made = inbox.incoming(announced(), "A")
    made.write(received(0).dataset)
    remove: Callable[[Path], None] = os.unlink
    remove(parts(inbox)[0])
    with pytest.raises(InboxUnavailable):
        made.finish()
