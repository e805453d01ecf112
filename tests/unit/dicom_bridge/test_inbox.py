"""The inbox: durable before it answers, deaf to no resend, blind to no conflict, true to its files."""

from __future__ import annotations

import errno
import os
import sqlite3
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import numpy as np
import pydicom
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydicom.uid import ExplicitVRLittleEndian, ImplicitVRLittleEndian

from dicom_bridge.assembly import SeriesCount
from dicom_bridge.errors import InboxUnavailable, InstanceRefused
from dicom_bridge.inbox import Inbox, InboxLimits, Outcome, Received
from tests.simulators.failing_disk import FailingDisk
from tests.simulators.received import Clock, received
from tests.simulators.series import dataset_bytes, make_slice, part10, set_pixels

STUDY = make_slice(0).StudyInstanceUID
SERIES = make_slice(0).SeriesInstanceUID


@contextmanager
def opened(root: Path, disk: FailingDisk | None = None, limits: InboxLimits | None = None) -> Iterator[Inbox]:
    """Open an inbox, and close it again."""
    inbox = Inbox(root, Clock(), limits=limits, disk=disk)
    try:
        yield inbox
    finally:
        inbox.close()


@pytest.fixture
def inbox(tmp_path: Path) -> Iterator[Inbox]:
    """An empty inbox."""
    with opened(tmp_path / "inbox") as made:
        yield made


def other_pixels(index: int = 0) -> Received:
    """Return the instance with the UID of slice `index`, and other pixels."""
    ds = make_slice(index)
    set_pixels(ds, np.full((16, 12), 7, dtype=np.int16))
    return received(ds=ds)


# -- storing


def test_what_is_stored_is_a_readable_file_with_the_bytes_received(inbox: Inbox) -> None:
    """The file is Part 10, its data set is byte for byte what came, and it is nobody's business but ours."""
    one = received(0)
    stored = inbox.store(one, "MODALITY")
    assert stored.outcome is Outcome.NEW
    data = stored.held.path.read_bytes()
    assert data.endswith(one.dataset)
    ds = pydicom.dcmread(stored.held.path)
    assert (ds.SOPInstanceUID, ds.file_meta.SourceApplicationEntityTitle) == (one.sop_uid, "MODALITY")
    assert stored.held.path.stat().st_mode & 0o177 == 0
    assert inbox.instances(STUDY) == (stored.held,)


def test_the_index_holds_what_selection_needs(inbox: Inbox) -> None:
    """Modality, body part, description and image type are known without opening a file."""
    held = inbox.store(received(0), "A").held
    assert (held.study_uid, held.series_uid, held.modality, held.body_part) == (STUDY, SERIES, "MR", "BRAIN")
    assert (held.description, held.image_type, held.series_number, held.pixels) == (
        "T1 3D phantom",
        ("ORIGINAL", "PRIMARY", "M"),
        3,
        True,
    )
    assert inbox.instances("1.2.3") == ()


def test_a_resend_is_acknowledged_and_counted_once(inbox: Inbox) -> None:
    """The same bytes again: IDENTICAL, one file, no record; the study is touched, so a run may look at it again."""
    inbox.store(received(0), "A")
    again = inbox.store(received(0), "B")
    assert again.outcome is Outcome.IDENTICAL
    assert again.held.sender == "A"
    assert len(inbox.instances(STUDY)) == 1
    assert inbox.conflicts() == ()
    assert [study.touches for study in inbox.open_studies()] == [2]


def test_the_same_instance_in_another_encoding_is_a_resend(inbox: Inbox) -> None:
    """A PACS may send implicit VR what the modality sent explicit: not a conflict."""
    inbox.store(received(0), "MODALITY")
    assert inbox.store(received(0, syntax=ImplicitVRLittleEndian), "PACS").outcome is Outcome.IDENTICAL
    assert inbox.conflicts() == ()


def test_the_same_uid_with_other_pixels_is_kept_aside_and_shown(inbox: Inbox) -> None:
    """The first comer stays; the newcomer is in quarantine, byte for byte, and on the list for QA."""
    first = inbox.store(received(0), "A")
    newcomer = other_pixels()
    second = inbox.store(newcomer, "B")
    assert second.outcome is Outcome.CONFLICT
    assert second.held == first.held
    assert pydicom.dcmread(first.held.path).PixelData == make_slice(0).PixelData
    (record,) = inbox.conflicts()
    assert (record.code, record.sender) == ("CONFLICT", "B")
    assert record.path.read_bytes().endswith(newcomer.dataset)
    assert second.quarantined == record


def test_the_same_conflict_again_is_one_record(inbox: Inbox) -> None:
    """A sender that repeats its conflict fills neither list nor disk."""
    inbox.store(received(0), "A")
    for _ in range(3):
        assert inbox.store(other_pixels(), "B").outcome is Outcome.CONFLICT
    assert len(inbox.conflicts()) == 1


def test_one_uid_in_two_studies_is_a_conflict(inbox: Inbox) -> None:
    """A SOP Instance UID is unique in the world; a second study with it is a second instance."""
    inbox.store(received(0), "A")
    ds = make_slice(0)
    ds.StudyInstanceUID = "2.25.999"
    assert inbox.store(received(ds=ds), "A").outcome is Outcome.CONFLICT
    assert inbox.instances("2.25.999") == ()


def test_a_patients_other_name_in_a_resend_is_a_conflict(inbox: Inbox) -> None:
    """Any other content counts, not only pixels: a person must see it."""
    inbox.store(received(0), "A")
    ds = make_slice(0)
    ds.PatientID = "TEST-0002"
    assert inbox.store(received(ds=ds), "A").outcome is Outcome.CONFLICT


@pytest.mark.parametrize("uid", ["../..", "../../../../tmp/x", "1" * 65, "1.2.", "..", "/etc/passwd"])
@pytest.mark.parametrize("keyword", ["StudyInstanceUID", "SeriesInstanceUID", "SOPInstanceUID"])
def test_a_hostile_uid_never_becomes_a_path(tmp_path: Path, keyword: str, uid: str) -> None:
    """Refused, kept in quarantine under a name of ours, and nothing anywhere else on the disk."""
    ds = make_slice(0)
    marker = ("9" * len(uid))[:64]
    setattr(ds, keyword, marker)
    sop_uid = str(ds.SOPInstanceUID)
    data = dataset_bytes(ds)
    bad = (
        data.replace(padded(marker), padded(uid))
        if len(padded(marker)) == len(padded(uid))
        else lengthened(data, marker, uid)
    )
    assert bad != data
    with opened(tmp_path / "inbox") as inbox:
        with pytest.raises(InstanceRefused) as caught:
            inbox.store(
                Received(bad, ExplicitVRLittleEndian, ds.SOPClassUID, uid if sop_uid == marker else sop_uid), "A"
            )
        assert caught.value.code == "UID_INVALID"
        (record,) = inbox.quarantined()
        assert record.path.read_bytes().endswith(bad)
        assert record.path.parent == tmp_path / "inbox" / "quarantine"
    files = {path.relative_to(tmp_path).parts[1] for path in tmp_path.rglob("*") if path.is_file()}
    assert files <= {"quarantine", "index.sqlite", "index.sqlite-wal", "index.sqlite-shm"}


def padded(uid: str) -> bytes:
    """Return a UID value as encoded."""
    return uid.encode() + b"\0" * (len(uid) % 2)


def lengthened(data: bytes, marker: str, uid: str) -> bytes:
    """Replace a value and its 16-bit length."""
    old, new = padded(marker), padded(uid)
    return data.replace(len(old).to_bytes(2, "little") + old, len(new).to_bytes(2, "little") + new)


@pytest.mark.parametrize(
    ("data", "code"),
    [(b"", "UID_MISSING"), (b"rubbish" * 9, "DATASET_GARBLED"), (dataset_bytes(make_slice(0))[:-1], "DATASET_GARBLED")],
)
def test_rubbish_is_refused_and_kept(inbox: Inbox, data: bytes, code: str) -> None:
    """Empty, foreign or cut off by one byte: refused with its code, a copy in quarantine, nothing held."""
    with pytest.raises(InstanceRefused) as caught:
        inbox.store(Received(data, ExplicitVRLittleEndian, "1.2", "1.3"), "A")
    assert caught.value.code == code
    assert [record.code for record in inbox.quarantined()] == [code]
    assert inbox.conflicts() == ()
    assert inbox.open_studies() == ()


def test_a_data_set_of_another_class_or_instance_than_announced_is_refused(inbox: Inbox) -> None:
    """The request and the data set must name one class (A900) and one instance."""
    one = received(0)
    with pytest.raises(InstanceRefused) as caught:
        inbox.store(Received(one.dataset, one.transfer_syntax, "1.2.840.10008.5.1.4.1.1.2", one.sop_uid), "A")
    assert (caught.value.code, caught.value.tag) == ("CLASS_MISMATCH", 0x00080016)
    with pytest.raises(InstanceRefused) as caught:
        inbox.store(Received(one.dataset, one.transfer_syntax, one.sop_class, "2.25.5"), "A")
    assert (caught.value.code, caught.value.tag) == ("UID_INVALID", 0x00080018)
    assert len(inbox.quarantined()) == 2


def test_files_are_taken_as_well(inbox: Inbox) -> None:
    """A Part 10 file goes the same way as a C-STORE; a file that is none is refused and kept."""
    assert inbox.store_file(part10(make_slice(1)), "IMPORT").outcome is Outcome.NEW
    assert inbox.store(received(1), "A").outcome is Outcome.IDENTICAL
    with pytest.raises(InstanceRefused):
        inbox.store_file(b"no DICOM", "IMPORT")
    assert [record.code for record in inbox.quarantined()] == ["DATASET_GARBLED"]


@pytest.mark.parametrize("sender", ["", "A" * 17, "A\\B", "影像"])
def test_a_sender_that_is_no_title_does_not_spoil_the_file(inbox: Inbox, sender: str) -> None:
    """What cannot stand in (0002,0016) is left out of the file."""
    stored = inbox.store(received(0), sender)
    assert "SourceApplicationEntityTitle" not in pydicom.dcmread(stored.held.path).file_meta


# -- disks that refuse


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EIO, errno.EROFS])
@pytest.mark.parametrize("when", ["before", "after"])
@pytest.mark.parametrize("call", ["make_dirs", "create", "write", "adopt"])
def test_what_the_disk_refused_is_not_acknowledged_and_a_resend_succeeds(
    tmp_path: Path, call: str, when: str, code: int
) -> None:
    """SPOOL_FAILED whichever write fails, even one that failed after it took effect; then the resend is taken."""
    disk = FailingDisk(code)
    with opened(tmp_path / "inbox", disk) as inbox:
        disk.fail = {call: when}
        with pytest.raises(InboxUnavailable) as caught:
            inbox.store(received(0), "A")
        assert caught.value.code == "SPOOL_FAILED"
        assert inbox.instances(STUDY) == ()
        disk.fail = {}
        assert inbox.store(received(0), "A").outcome in (Outcome.NEW, Outcome.IDENTICAL)
        assert len(inbox.instances(STUDY)) == 1
        assert list((tmp_path / "inbox" / "incoming").iterdir()) == []


def test_nothing_is_acknowledged_before_it_is_durable(tmp_path: Path) -> None:
    """The order of the calls: written, adopted, and only then is the study known."""
    disk = FailingDisk()
    with opened(tmp_path / "inbox", disk) as inbox:
        disk.calls.clear()
        inbox.store(received(0), "A")
    assert disk.calls == ["create", "write", "write", "adopt", "make_dirs", "adopt"]


def test_a_nearly_full_disk_takes_nothing(tmp_path: Path) -> None:
    """Below the reserve: SPOOL_FULL before a byte is written, so that the log and results still fit."""
    disk = FailingDisk()
    with opened(tmp_path / "inbox", disk, InboxLimits(free_bytes_min=1000)) as inbox:
        disk.free = 1000
        disk.calls.clear()
        with pytest.raises(InboxUnavailable) as caught:
            inbox.store(received(0), "A")
        assert caught.value.code == "SPOOL_FULL"
        assert disk.calls == []
        disk.free = 1_000_000
        assert inbox.store(received(0), "A").outcome is Outcome.NEW


def test_a_conflict_that_cannot_be_kept_is_not_acknowledged(tmp_path: Path) -> None:
    """Quarantine full, or failing: the newcomer would be lost, so its sender must keep it."""
    disk = FailingDisk()
    with opened(tmp_path / "inbox", disk, InboxLimits(quarantine_bytes_max=100)) as inbox:
        inbox.store(received(0), "A")
        with pytest.raises(InboxUnavailable) as caught:
            inbox.store(other_pixels(), "A")
        assert caught.value.code == "QUARANTINE_FULL"
    with opened(tmp_path / "inbox", disk) as inbox:
        disk.fail = {"create_same": "before"}
        with pytest.raises(InboxUnavailable) as caught:
            inbox.store(other_pixels(), "A")
        assert caught.value.code == "SPOOL_FAILED"


def test_an_instance_above_the_limit_is_refused(tmp_path: Path) -> None:
    """Larger than the limit: refused for good, nothing written."""
    with opened(tmp_path / "inbox", limits=InboxLimits(instance_bytes_max=100)) as inbox:
        with pytest.raises(InstanceRefused) as caught:
            inbox.store(received(0), "A")
        assert caught.value.code == "INSTANCE_TOO_LARGE"


def test_a_folder_that_cannot_be_used_is_said_at_the_start(tmp_path: Path) -> None:
    """A file where the folder should be: SPOOL_FAILED, at once."""
    (tmp_path / "inbox").write_text("in the way")
    with pytest.raises(InboxUnavailable) as caught:
        Inbox(tmp_path / "inbox", Clock())
    assert caught.value.code == "SPOOL_FAILED"


# -- many at once


def test_many_threads_storing_the_same_and_other_instances_agree(inbox: Inbox) -> None:
    """Eight senders of the same forty instances: each is held once, whoever was first; nothing is a conflict."""
    outcomes: list[Outcome] = []

    def send() -> None:
        for index in range(40):
            outcomes.append(inbox.store(received(index), "A").outcome)

    threads = [threading.Thread(target=send) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(inbox.instances(STUDY)) == 40
    assert outcomes.count(Outcome.NEW) == 40
    assert outcomes.count(Outcome.IDENTICAL) == 280
    assert inbox.open_studies()[0].touches == 320


def test_two_contents_of_one_uid_at_once_leave_one_held_and_one_aside(tmp_path: Path) -> None:
    """Whoever wins the race, the other is a conflict, never lost and never overwriting."""
    for attempt in range(10):
        with opened(tmp_path / str(attempt)) as inbox:
            both = (received(0), other_pixels())
            gate = threading.Barrier(2)
            outcomes: list[Outcome] = []

            def send(
                one: Received, inbox: Inbox = inbox, gate: threading.Barrier = gate, out: list[Outcome] = outcomes
            ) -> None:
                gate.wait()
                out.append(inbox.store(one, "A").outcome)

            threads = [threading.Thread(target=send, args=(one,)) for one in both]
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join()
            # The winner may find its own file indexed by the loser, who looked at it: IDENTICAL then.
            assert sorted(outcomes) in ([Outcome.CONFLICT, Outcome.NEW], [Outcome.CONFLICT, Outcome.IDENTICAL])
            assert len(inbox.instances(STUDY)) == 1
            assert len(inbox.conflicts()) == 1


# -- after a crash


def test_a_start_after_a_clean_stop_finds_all_as_it_was(tmp_path: Path) -> None:
    """Instances, touches, and nothing to recover."""
    with opened(tmp_path / "inbox") as inbox:
        for index in range(3):
            inbox.store(received(index), "A")
        inbox.input_digest(STUDY)  # digests are taken after the answer: from here on there is none to come
        held, before = inbox.instances(STUDY), inbox.open_studies()
        assert len(held) == 3
    with opened(tmp_path / "inbox") as inbox:
        assert inbox.instances(STUDY) == held
        assert inbox.open_studies() == before
        assert (inbox.recovered.indexed, inbox.recovered.lost, inbox.recovered.quarantined) == (0, 0, 0)


@pytest.mark.parametrize("damage", ["gone", "rubbish", "older"])
def test_a_lost_or_damaged_index_is_rebuilt_from_the_files(tmp_path: Path, damage: str) -> None:
    """The files are the truth: the same instances, digests and senders are found again."""
    with opened(tmp_path / "inbox") as inbox:
        for index in range(3):
            inbox.store(received(index), "A")
        digest, before = inbox.input_digest(STUDY), inbox.instances(STUDY)
    file = tmp_path / "inbox" / "index.sqlite"
    if damage == "gone":
        file.unlink()
    elif damage == "rubbish":
        file.write_bytes(b"no database" * 1000)
    else:
        with sqlite3.connect(file) as db:
            db.execute("PRAGMA user_version=999")
        db.close()
    with opened(tmp_path / "inbox") as inbox:
        assert inbox.recovered.indexed == 3
        after = inbox.instances(STUDY)
        assert [(one.sop_uid, one.digest, one.sender, one.path) for one in after] == [
            (one.sop_uid, one.digest, one.sender, one.path) for one in before
        ]
        assert inbox.input_digest(STUDY) == digest
        assert [study.study_uid for study in inbox.open_studies()] == [STUDY]


def test_a_file_without_a_row_is_indexed_and_opens_its_study(tmp_path: Path) -> None:
    """A crash between the file's name and its row, or a power cut that took the row: found at the start."""
    with opened(tmp_path / "inbox") as inbox:
        inbox.store(received(0), "A")
        inbox.mark_assembled(STUDY, 1, inbox.input_digest(STUDY))
        held = inbox.store(received(1), "A").held
        inbox._index.forget(held.sop_uid)
        row = inbox._index._db
        row.execute("UPDATE study SET touches = 1")
    with opened(tmp_path / "inbox") as inbox:
        assert inbox.recovered.indexed == 1
        assert len(inbox.instances(STUDY)) == 2
        assert len(inbox.open_studies()) == 1


def test_a_row_without_a_file_is_dropped_and_counted(tmp_path: Path) -> None:
    """What is not there is not held: it is reported, and a resend is new."""
    with opened(tmp_path / "inbox") as inbox:
        inbox.store(received(0), "A").held.path.unlink()
        assert inbox.store(received(0), "A").outcome is Outcome.NEW
        inbox.store(received(1), "A").held.path.unlink()
    with opened(tmp_path / "inbox") as inbox:
        assert inbox.recovered.lost == 1
        assert len(inbox.instances(STUDY)) == 1


def test_a_held_file_that_the_disk_changed_is_set_aside(tmp_path: Path) -> None:
    """A file that is no whole instance any more goes to quarantine with SPOOL_CORRUPT when the index is rebuilt."""
    with opened(tmp_path / "inbox") as inbox:
        path = inbox.store(received(0), "A").held.path
    path.write_bytes(path.read_bytes()[:-1])
    (tmp_path / "inbox" / "index.sqlite").unlink()
    with opened(tmp_path / "inbox") as inbox:
        assert inbox.recovered.quarantined == 1
        assert [record.code for record in inbox.quarantined()] == ["SPOOL_CORRUPT"]
        assert not path.exists()


def test_half_written_files_of_dead_writers_are_swept(tmp_path: Path) -> None:
    """What a killed process left in incoming/ was never acknowledged and goes; a living one's file stays."""
    with opened(tmp_path / "inbox"):
        incoming = tmp_path / "inbox" / "incoming"
    dead, own, living = (incoming / f"{pid}-aa.part" for pid in ("999999999", str(os.getpid()), str(os.getppid())))
    for path in (dead, own, living):
        path.write_bytes(b"half")
    with opened(tmp_path / "inbox"):
        assert not dead.exists()
        assert not own.exists()
        assert living.exists()


# -- assembling


def test_a_marked_study_is_closed_until_something_arrives(inbox: Inbox) -> None:
    """mark_assembled closes what it saw; a store after opens the study again and shows the last run's digest."""
    for index in range(2):
        inbox.store(received(index), "A")
    digest = inbox.input_digest(STUDY)
    assert inbox.assembled(STUDY) is None
    inbox.mark_assembled(STUDY, 2, digest)
    assert inbox.open_studies() == ()
    assert inbox.assembled(STUDY) == digest
    inbox.store(received(2), "A")
    (study,) = inbox.open_studies()
    assert (study.touches, study.assembled_digest) == (3, digest)
    assert inbox.input_digest(STUDY) != digest


def test_a_store_during_the_run_keeps_the_study_open(inbox: Inbox) -> None:
    """A mark of what a run has seen does not close what came meanwhile."""
    inbox.store(received(0), "A")
    digest = inbox.input_digest(STUDY)
    inbox.store(received(1), "A")
    inbox.mark_assembled(STUDY, 1, digest)
    assert [study.touches for study in inbox.open_studies()] == [2]


def test_a_resend_of_the_whole_study_opens_it_with_the_same_digest(inbox: Inbox) -> None:
    """So that the service can see that nothing is new."""
    inbox.store(received(0), "A")
    inbox.mark_assembled(STUDY, 1, inbox.input_digest(STUDY))
    inbox.store(received(0), "A")
    (study,) = inbox.open_studies()
    assert study.assembled_digest == inbox.input_digest(STUDY)


@pytest.mark.parametrize("index", ["kept", "lost"])
def test_the_mark_outlives_restart_and_index(tmp_path: Path, index: str) -> None:
    """A restart neither forgets a study nor runs it twice, even with the index lost."""
    with opened(tmp_path / "inbox") as inbox:
        for number in range(2):
            inbox.store(received(number), "A")
        inbox.store(received(0), "A")
        digest = inbox.input_digest(STUDY)
        inbox.mark_assembled(STUDY, 3, digest)
    if index == "lost":
        (tmp_path / "inbox" / "index.sqlite").unlink()
    with opened(tmp_path / "inbox") as inbox:
        assert inbox.open_studies() == ()
        assert inbox.assembled(STUDY) == digest
        inbox.store(received(2), "A")
        assert len(inbox.open_studies()) == 1


def test_a_lost_index_does_not_close_what_no_run_has_seen(tmp_path: Path) -> None:
    """The rebuilt study has an image more than its mark: it is open."""
    with opened(tmp_path / "inbox") as inbox:
        inbox.store(received(0), "A")
        inbox.mark_assembled(STUDY, 1, inbox.input_digest(STUDY))
        inbox.store(received(1), "A")
    (tmp_path / "inbox" / "index.sqlite").unlink()
    with opened(tmp_path / "inbox") as inbox:
        assert len(inbox.open_studies()) == 1


def test_a_crash_between_mark_and_row_counts_as_marked(tmp_path: Path) -> None:
    """The mark's file is newer than the row: it wins at the next start."""
    with opened(tmp_path / "inbox") as inbox:
        inbox.store(received(0), "A")
        digest = inbox.input_digest(STUDY)
        inbox._disk.replace(
            tmp_path / "inbox" / "studies" / STUDY / "assembled.json",
            f'{{"input_digest": "{digest}", "touches": 1}}'.encode(),
        )
    with opened(tmp_path / "inbox") as inbox:
        assert inbox.open_studies() == ()


def test_a_mark_that_the_disk_refuses_is_an_error_and_changes_nothing(tmp_path: Path) -> None:
    """InboxUnavailable, and the study stays open; an unknown study is the caller's bug."""
    disk = FailingDisk()
    with opened(tmp_path / "inbox", disk) as inbox:
        inbox.store(received(0), "A")
        disk.fail = {"replace": "before"}
        with pytest.raises(InboxUnavailable):
            inbox.mark_assembled(STUDY, 1, inbox.input_digest(STUDY))
        assert len(inbox.open_studies()) == 1
        with pytest.raises(KeyError):
            inbox.mark_assembled("1.2.3", 1, "sha256:0")


# -- asking


def result(index: int, modality: str = "SEG") -> Received:
    """Return a result object of the study, in a series of its own."""
    ds = make_slice(index)
    ds.Modality, ds.SeriesInstanceUID, ds.SOPInstanceUID = modality, f"2.25.77{index}", f"2.25.88{index}"
    return received(ds=ds)


def test_our_own_results_coming_back_do_not_make_a_new_input(inbox: Inbox) -> None:
    """A PACS that forwards everything sends us our SR and SEG: the input digest does not see them; no loop."""
    inbox.store(received(0), "PACS")
    before = inbox.input_digest(STUDY)
    for index, modality in enumerate(("SEG", "SR", "PR", "KO", "OT")):
        inbox.store(result(index, modality), "PACS")
    assert inbox.input_digest(STUDY) == before
    inbox.store(received(1), "PACS")
    assert inbox.input_digest(STUDY) != before


def test_the_input_digest_does_not_depend_on_the_order_of_arrival(tmp_path: Path) -> None:
    """Same instances, same digest; per series too; other content, other digest."""
    digests = []
    for name, order in (("a", [0, 1, 2]), ("b", [2, 0, 1])):
        with opened(tmp_path / name) as inbox:
            for index in order:
                inbox.store(received(index), "A")
            digests += [inbox.input_digest(STUDY), inbox.input_digest(STUDY, SERIES)]
    assert len(set(digests)) == 1
    assert digests[0].startswith("sha256:")
    assert len(digests[0]) == 71
    with opened(tmp_path / "c") as inbox:
        for one in (other_pixels(0), received(1), received(2)):
            inbox.store(one, "A")
        assert inbox.input_digest(STUDY) != digests[0]


def test_counts_are_by_series_with_their_modality(inbox: Inbox) -> None:
    """What assembly compares with the PACS's own counts."""
    for one in (received(0), received(1), result(0)):
        inbox.store(one, "A")
    assert inbox.held(STUDY) == {SERIES: SeriesCount("MR", 2), "2.25.770": SeriesCount("SEG", 1)}


def test_two_patients_in_one_study_are_seen(inbox: Inbox) -> None:
    """identities counts the patients that the images name."""
    inbox.store(received(0), "A")
    assert inbox.identities(STUDY) == 1
    ds = make_slice(1)
    ds.PatientID = "TEST-0002"
    inbox.store(received(ds=ds), "A")
    assert inbox.identities(STUDY) == 2


def test_a_waiter_wakes_when_something_is_stored(inbox: Inbox) -> None:
    """wait returns at once after a store, and False when nothing happened in time."""
    assert inbox.wait(0.01) is False
    timer = threading.Timer(0.05, lambda: inbox.store(received(0), "A"))
    timer.start()
    assert inbox.wait(10) is True
    timer.join()
    inbox.wake()
    assert inbox.wait(0.01) is True
    assert inbox.wait(0.01) is False


def test_open_studies_come_longest_waiting_first(tmp_path: Path) -> None:
    """So that a stream of new studies starves no old one."""
    clock = Clock()
    inbox = Inbox(tmp_path / "inbox", clock)
    for seed in ("b", "a", "c"):
        inbox.store(received(0, seed=seed), "A")
        clock.tick()
    inbox.store(received(1, seed="b"), "A")
    expected = [make_slice(0, seed=seed).StudyInstanceUID for seed in ("a", "c", "b")]
    assert [study.study_uid for study in inbox.open_studies()] == expected
    assert inbox.open_studies()[-1].last_received_at == clock()
    inbox.close()


@pytest.mark.filterwarnings("ignore:.*([Ee]ncoding|Character Set):UserWarning")
@given(st.lists(st.tuples(st.integers(0, 1400), st.binary(min_size=1, max_size=3)), min_size=1, max_size=3))
@settings(max_examples=60, deadline=None)
def test_no_bytes_from_outside_break_the_inbox(changes: list[tuple[int, bytes]]) -> None:
    """Any change of an instance is stored, a conflict or refused; never another exception, never a file elsewhere."""
    with tempfile.TemporaryDirectory() as folder, opened(Path(folder) / "inbox") as inbox:
        whole = received(0)
        inbox.store(whole, "A")
        data = bytearray(whole.dataset)
        for at, change in changes:
            data[at : at + len(change)] = change
        with suppress(InstanceRefused):
            inbox.store(Received(bytes(data), whole.transfer_syntax, whole.sop_class, whole.sop_uid), "B")
        assert len(inbox.instances(STUDY)) <= 1 or len(inbox.conflicts()) == 0
        assert {path.name for path in Path(folder).iterdir()} == {"inbox"}
