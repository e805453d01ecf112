"""Quarantine: kept once, within its limit, under names of ours."""

from __future__ import annotations

import errno
from datetime import UTC, datetime
from pathlib import Path

import pytest

from dicom_bridge.quarantine import Quarantine
from tests.simulators.failing_disk import FailingDisk

AT = datetime(2026, 4, 1, tzinfo=UTC)


def test_what_is_kept_is_there_byte_for_byte(tmp_path: Path) -> None:
    """The copy, its record, and the same after a restart."""
    quarantine = Quarantine(tmp_path, FailingDisk(), 1000)
    kept = quarantine.keep(b"data", "DATASET_GARBLED", "../../A", AT)
    assert kept is not None
    assert kept.path.read_bytes() == b"data"
    assert kept.path.parent == tmp_path
    assert (kept.code, kept.sender, kept.at) == ("DATASET_GARBLED", "../../A", AT)
    assert Quarantine(tmp_path, FailingDisk(), 1000).list() == (kept,)


def test_the_same_bytes_are_kept_once_per_reason(tmp_path: Path) -> None:
    """A sender that repeats itself fills nothing, and the first arrival is the one on record."""
    quarantine = Quarantine(tmp_path, FailingDisk(), 1000)
    first = quarantine.keep(b"data", "CONFLICT", "A", AT)
    assert quarantine.keep(b"data", "CONFLICT", "B", AT.replace(hour=1)) == first
    quarantine.keep(b"data", "DATASET_GARBLED", "A", AT)
    assert len(quarantine.list()) == 2
    assert quarantine.list("CONFLICT") == (first,)


def test_the_limit_holds_and_counts_what_was_there(tmp_path: Path) -> None:
    """Above the limit nothing more is kept, after a restart neither; what is there is still recognised."""
    quarantine = Quarantine(tmp_path, FailingDisk(), 10)
    first = quarantine.keep(b"12345678", "CONFLICT", "A", AT)
    assert quarantine.keep(b"abc", "CONFLICT", "A", AT) is None
    again = Quarantine(tmp_path, FailingDisk(), 10)
    assert again.keep(b"abc", "CONFLICT", "A", AT) is None
    assert again.keep(b"12345678", "CONFLICT", "A", AT) == first
    assert again.keep(b"ab", "CONFLICT", "A", AT) is not None


@pytest.mark.parametrize("when", ["before", "after"])
def test_a_copy_whose_record_failed_gets_it_at_the_next_try(tmp_path: Path, when: str) -> None:
    """A crash or a full disk between copy and record: the next arrival completes the pair."""
    disk = FailingDisk(errno.ENOSPC)
    quarantine = Quarantine(tmp_path, disk, 1000)
    disk.fail = {"create_same": when}
    with pytest.raises(OSError, match="injected"):
        quarantine.keep(b"data", "CONFLICT", "A", AT)
    assert quarantine.list() == ()
    disk.fail = {}
    assert quarantine.keep(b"data", "CONFLICT", "A", AT) is not None
    assert len(quarantine.list()) == 1


def test_the_list_is_oldest_first(tmp_path: Path) -> None:
    """In the order of arrival."""
    quarantine = Quarantine(tmp_path, FailingDisk(), 1000)
    for hour in (3, 1, 2):
        quarantine.keep(bytes([hour]), "CONFLICT", "A", AT.replace(hour=hour))
    assert [entry.at.hour for entry in quarantine.list()] == [1, 2, 3]


def test_a_file_moves_here(tmp_path: Path) -> None:
    """The same as its bytes would: one copy, one record, and nothing where it was; a second one of them goes, too."""
    quarantine, file = Quarantine(tmp_path / "q", FailingDisk(), 1000), tmp_path / "part"
    (tmp_path / "q").mkdir()
    for _ in range(2):
        file.write_bytes(b"data")
        kept = quarantine.keep_file(file, "CONFLICT", "A", AT)
        assert kept is not None
        assert (kept.path.read_bytes(), file.exists()) == (b"data", False)
    assert quarantine.list() == (kept,)
    assert quarantine.keep(b"data", "CONFLICT", "A", AT) == kept


def test_a_file_that_finds_no_room_stays(tmp_path: Path) -> None:
    """Above the limit: None, and the file is where it was."""
    file = tmp_path / "part"
    file.write_bytes(b"x" * 11)
    assert Quarantine(tmp_path, FailingDisk(), 10).keep_file(file, "CONFLICT", "A", AT) is None
    assert file.exists()
