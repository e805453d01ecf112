"""What left the spool is remembered, durably and once."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path

import pytest

from audit import durable
from dicom_bridge import tombstone
from dicom_bridge.errors import InboxUnavailable
from dicom_bridge.inbox import Inbox, InboxLimits, Outcome
from dicom_bridge.spool_disk import DurableDisk
from dicom_bridge.tombstone import TOMBSTONE, Gone
from tests.simulators import series

NOW = datetime(2026, 11, 23, 12, tzinfo=UTC)


def gone(uid: str, at: str = "2026-11-23T10:00:00+00:00") -> Gone:
    """One instance that left."""
    return Gone(sop_uid=uid, series_uid="1.2.3", modality="MR", digest="sha256:" + "a" * 64, at=at)


def test_a_folder_that_nothing_left_is_empty(tmp_path: Path) -> None:
    """No file means that nothing left, also where there is no folder."""
    assert tombstone.read(tmp_path) == {}
    assert tombstone.read(tmp_path / "none") == {}
    assert tombstone.last_at(tmp_path) is None


def test_what_was_written_is_read_back(tmp_path: Path) -> None:
    """Every field survives."""
    tombstone.write(durable, tmp_path, [gone("1.1"), gone("1.2")])

    assert tombstone.read(tmp_path) == {"1.1": gone("1.1"), "1.2": gone("1.2")}


def test_later_ones_are_added_and_the_newest_word_counts(tmp_path: Path) -> None:
    """A second departure keeps the first; the same instance again is there once, with its last time."""
    later = "2026-11-24T10:00:00+00:00"
    tombstone.write(durable, tmp_path, [gone("1.1"), gone("1.2")])
    tombstone.write(durable, tmp_path, [gone("1.2", later), gone("1.3", later)])

    assert sorted(tombstone.read(tmp_path)) == ["1.1", "1.2", "1.3"]
    assert tombstone.read(tmp_path)["1.2"].at == later
    assert tombstone.last_at(tmp_path) == datetime(2026, 11, 24, 10, tzinfo=UTC)


def test_a_disk_that_refuses_leaves_the_old_word(tmp_path: Path) -> None:
    """An error while writing is raised, and what was known before stays."""

    class Full:
        def replace(self, path: Path, data: bytes) -> None:
            raise OSError(28, "No space left on device")

    tombstone.write(durable, tmp_path, [gone("1.1")])
    with pytest.raises(OSError, match="No space"):
        tombstone.write(Full(), tmp_path, [gone("1.2")])

    assert list(tombstone.read(tmp_path)) == ["1.1"]
    assert (tmp_path / TOMBSTONE).is_file()


# ---- letting go ------------------------------------------------------------------------------------------------------


class Interrupted(Exception):
    """The power went."""


class DyingDisk(DurableDisk):
    """The real disk, until its n-th write or removal."""

    def __init__(self) -> None:
        self.left = -1

    def _count(self) -> None:
        if self.left == 0:
            raise Interrupted
        self.left -= 1

    def replace(self, path: Path, data: bytes) -> None:
        """See Disk."""
        self._count()
        super().replace(path, data)

    def remove(self, path: Path) -> None:
        """See Disk."""
        self._count()
        super().remove(path)


def opened(root: Path, disk: DurableDisk | None = None) -> Inbox:
    """The inbox of this test."""
    return Inbox(root / "spool", lambda: NOW, limits=InboxLimits(free_bytes_min=0), disk=disk)


def filled(root: Path, *, count: int = 4, disk: DurableDisk | None = None) -> tuple[Inbox, str]:
    """An inbox with one study, already looked at."""
    inbox = opened(root, disk)
    for path in series.write_series(root / "sent", count=count, shape=(8, 8)):
        inbox.store_file(path.read_bytes(), "MODALITY")
    study = inbox.open_studies()[0]
    inbox.mark_assembled(study.study_uid, study.touches, inbox.input_digest(study.study_uid))
    return inbox, study.study_uid


def test_every_image_goes_and_is_remembered(tmp_path: Path) -> None:
    """No file is left, each instance is known with its digest, and the study does not open again."""
    inbox, study_uid = filled(tmp_path)
    before = {one.sop_uid: one.digest for one in inbox.instances(study_uid)}
    folder = tmp_path / "spool" / "studies" / study_uid

    assert [row.study_uid for row in inbox.studies()] == [study_uid]
    assert inbox.let_go(study_uid) == 4
    assert inbox.studies() == ()

    assert not list(folder.glob("*.dcm"))
    assert {uid: one.digest for uid, one in tombstone.read(folder).items()} == before
    assert inbox.instances(study_uid) == ()
    assert inbox.open_studies() == ()
    inbox.close()


@pytest.mark.parametrize("at", range(5))
def test_a_crash_at_any_write_leaves_nothing_unaccounted(tmp_path: Path, at: int) -> None:
    """Whatever call the power goes at: each instance is held or remembered, and the next round finishes."""
    disk = DyingDisk()
    inbox, study_uid = filled(tmp_path, disk=disk)
    uids = {one.sop_uid for one in inbox.instances(study_uid)}
    folder = tmp_path / "spool" / "studies" / study_uid
    disk.left = at
    with pytest.raises(Interrupted):
        inbox.let_go(study_uid)
    inbox.close()

    again = opened(tmp_path)
    held = {one.sop_uid for one in again.instances(study_uid)}
    assert held | set(tombstone.read(folder)) == uids
    assert all(one.path.is_file() for one in again.instances(study_uid))
    assert again.open_studies() == ()

    again.let_go(study_uid)
    assert set(again.gone(study_uid)) == uids
    assert not list(folder.glob("*.dcm"))
    again.close()


def test_an_image_that_comes_meanwhile_stays(tmp_path: Path) -> None:
    """What was not on the list when letting go began is neither removed nor remembered, and opens the study."""
    late = series.write_series(tmp_path / "late", count=5, shape=(8, 8))[4]

    class Meanwhile(DurableDisk):
        def replace(self, path: Path, data: bytes) -> None:
            super().replace(path, data)
            if path.name == TOMBSTONE:
                inbox.store_file(late.read_bytes(), "MODALITY")

    inbox, study_uid = filled(tmp_path, count=4, disk=Meanwhile())
    inbox.let_go(study_uid)

    (stayed,) = inbox.instances(study_uid)
    assert stayed.path.is_file()
    assert stayed.sop_uid not in inbox.gone(study_uid)
    assert sum(inbox.known(study_uid).values()) == 5
    assert [one.study_uid for one in inbox.open_studies()] == [study_uid]
    inbox.close()


def test_a_resend_during_letting_go_does_not_leave_an_empty_study_open(tmp_path: Path) -> None:
    """The same image again while it goes: answered as held, and no study waits for images that are not there."""
    first = series.write_series(tmp_path / "again", count=4, shape=(8, 8))[0]

    class Meanwhile(DurableDisk):
        def replace(self, path: Path, data: bytes) -> None:
            super().replace(path, data)
            if path.name == TOMBSTONE:
                assert inbox.store_file(first.read_bytes(), "MODALITY").outcome is Outcome.IDENTICAL

    inbox, study_uid = filled(tmp_path, disk=Meanwhile())
    inbox.let_go(study_uid)

    assert inbox.instances(study_uid) == ()
    assert inbox.open_studies() == ()
    inbox.close()


def test_what_came_again_is_not_gone(tmp_path: Path) -> None:
    """Sent once more after it was let go: held, and no longer counted among what left; the class is known again."""
    inbox, study_uid = filled(tmp_path)
    one = inbox.instances(study_uid)[0]
    data = one.path.read_bytes()
    assert inbox.class_of(one.sop_uid) == one.sop_class
    inbox.let_go(study_uid)
    assert inbox.class_of(one.sop_uid) is None
    assert len(inbox.gone(study_uid)) == 4

    inbox.store_file(data, "MODALITY")

    assert one.sop_uid not in inbox.gone(study_uid)
    assert inbox.class_of(one.sop_uid) == one.sop_class
    assert sum(inbox.known(study_uid).values()) == 4
    inbox.close()


def test_a_disk_that_refuses_is_said_so(tmp_path: Path) -> None:
    """Nothing is half gone: the error is the inbox's own, and the images are all held."""

    class Refusing(DurableDisk):
        def replace(self, path: Path, data: bytes) -> None:
            if path.name == TOMBSTONE:
                raise OSError(5, "Input/output error")
            super().replace(path, data)

    inbox, study_uid = filled(tmp_path, disk=Refusing())
    with pytest.raises(InboxUnavailable) as caught:
        inbox.let_go(study_uid)

    assert caught.value.code == "SPOOL_FAILED"
    assert len(inbox.instances(study_uid)) == 4
    assert inbox.gone(study_uid) == {}
    inbox.close()
