"""The index: rows written together, seen at once, and never the only place where something is known."""

from __future__ import annotations

import sqlite3
import threading
import time
from collections.abc import Iterator
from dataclasses import fields, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from dicom_bridge import spool_index
from dicom_bridge.spool_index import Instance, SpoolIndex, instance_path

AT = datetime(2026, 4, 1, 8, 0, tzinfo=UTC)


def row(folder: Path, number: int = 0, study: str = "1.2", **changes: object) -> Instance:
    """Return a row of an invented instance."""
    uid = f"1.2.3.{number}"
    made = Instance(
        sop_uid=uid,
        series_uid="1.2.4",
        study_uid=study,
        sop_class="1.2.840.10008.5.1.4.1.1.4",
        modality="MR",
        path=instance_path(folder, study, uid),
        digest=f"sha256:{number:064x}",
        received_at=AT,
        sender="A",
        body_part="BRAIN",
        description="测试",
        image_type=("ORIGINAL", "PRIMARY"),
        series_number=3,
        identity="p",
        pixels=True,
    )
    return replace(made, **changes)  # type: ignore[arg-type]


@pytest.fixture
def index(tmp_path: Path) -> Iterator[SpoolIndex]:
    """An empty index."""
    made = SpoolIndex(tmp_path / "index.sqlite", tmp_path)
    yield made
    made.close()


def test_every_field_comes_back_as_it_went_in(index: SpoolIndex, tmp_path: Path) -> None:
    """Set and unset, floats to the last bit, before they are written and after."""
    full = row(
        tmp_path,
        1,
        urgent=True,
        frames=300,
        acquisition_images=20,
        instance_number=7,
        acquisition_number=2,
        temporal_position=4,
        position=(-10.123456789012345, 0.1, 1e-300),
        orientation=(1.0, 0.0, -0.0, 0.0, 1.0, 0.0),
        rows=512,
        columns=256,
        pixel_spacing=(0.3, 0.7),
        protocol="头颅",
        contrast="TEST agent",
        station="TEST1",
        manufacturer="TEST Works",
        study_description="x",
    )
    empty = row(tmp_path, 2, series_number=None, image_type=(), pixels=False)
    for one in (full, empty):
        assert index.add(one)
        assert index.instance(one.sop_uid) == one
    index.flush()
    for one in (full, empty):
        assert index.instance(one.sop_uid) == one
    assert index.instances("1.2") == (full, empty)
    named = {field.name for field in fields(Instance)}
    assert all(getattr(full, name) not in (None, (), "") for name in named)


def test_whoever_asks_sees_what_was_just_added(index: SpoolIndex, tmp_path: Path) -> None:
    """By study, by name, in the list of open studies: pending rows are written before the question."""
    index.add(row(tmp_path))
    assert [one.sop_uid for one in index.instances("1.2")] == ["1.2.3.0"]
    index.add(row(tmp_path, 1))
    assert ("1.2", "1.2.3.1") in set(index.names())
    index.add(row(tmp_path, 2, received_at=AT + timedelta(seconds=5)))
    (study,) = index.open_studies()
    assert (study.touches, study.last_received_at) == (3, AT + timedelta(seconds=5))
    index.add(row(tmp_path, 3))
    found = index.study("1.2")
    assert found is not None
    assert (found.touches, found.last_received_at) == (4, AT + timedelta(seconds=5))


def test_another_process_sees_it_soon(index: SpoolIndex, tmp_path: Path) -> None:
    """Without a question here, too."""
    other = sqlite3.connect(tmp_path / "index.sqlite")
    index.add(row(tmp_path))
    end = time.monotonic() + 30
    while other.execute("SELECT count(*) FROM instance").fetchone() != (1,):
        assert time.monotonic() < end
        time.sleep(0.01)
    other.close()


def test_a_uid_is_added_once(index: SpoolIndex, tmp_path: Path) -> None:
    """Pending or written, in this study or another: False, and nothing is touched."""
    assert index.add(row(tmp_path))
    assert not index.add(row(tmp_path, study="9.9"))
    index.flush()
    assert not index.add(row(tmp_path, study="9.9"))
    assert index.study("9.9") is None
    assert [study.touches for study in index.open_studies()] == [1]


def test_touches_count_and_may_make_urgent(index: SpoolIndex, tmp_path: Path) -> None:
    """Each resend is one; an urgent one makes the row urgent."""
    one = row(tmp_path)
    index.add(one)
    for urgent in (False, True):
        index.touch(one, AT, urgent=urgent)
        found = index.instance(one.sop_uid)
        assert found is not None
        assert found.urgent is urgent
    assert [study.touches for study in index.open_studies()] == [3]


def test_marks_and_forgetting_see_what_is_pending(index: SpoolIndex, tmp_path: Path) -> None:
    """A mark closes what it has seen; a row that is forgotten does not come back with the next write."""
    index.add(row(tmp_path))
    index.set_marks("1.2", touches=0, assembled_touches=1, assembled_digest="d")
    assert index.open_studies() == ()
    index.add(row(tmp_path, 1))
    index.forget("1.2.3.1")
    index.flush()
    assert index.instance("1.2.3.1") is None
    assert [study.touches for study in index.open_studies()] == [2]


def test_what_is_pending_is_written_when_it_is_closed(tmp_path: Path) -> None:
    """And closing twice is harmless."""
    index = SpoolIndex(tmp_path / "index.sqlite", tmp_path)
    index.add(row(tmp_path))
    index.close()
    index.close()
    again = SpoolIndex(tmp_path / "index.sqlite", tmp_path)
    assert again.instance("1.2.3.0") == row(tmp_path)
    again.close()


def test_a_write_that_fails_loses_nothing(index: SpoolIndex, tmp_path: Path) -> None:
    """While another process holds the file: still known here, and written when it lets go."""
    other = sqlite3.connect(tmp_path / "index.sqlite", isolation_level=None)
    index._db.execute("PRAGMA busy_timeout=10")
    other.execute("BEGIN IMMEDIATE")
    index.add(row(tmp_path))
    with pytest.raises(sqlite3.OperationalError):
        index.flush()
    assert index.instance("1.2.3.0") == row(tmp_path)
    assert not index.add(row(tmp_path))
    other.execute("ROLLBACK")
    assert index.instances("1.2") == (row(tmp_path),)
    other.close()


def test_too_much_that_waits_is_written_before_more_is_taken(tmp_path: Path) -> None:
    """keep_up: nothing below the limit, a write above it, and the error of a write that cannot be."""
    index = SpoolIndex(tmp_path / "index.sqlite", tmp_path)
    index._db.execute("PRAGMA busy_timeout=10")
    other = sqlite3.connect(tmp_path / "index.sqlite", isolation_level=None)
    other.execute("BEGIN IMMEDIATE")
    for number in range(spool_index.PENDING_MAX - 1):
        index.add(row(tmp_path, number))
    index.keep_up()
    index.add(row(tmp_path, spool_index.PENDING_MAX))
    with pytest.raises(sqlite3.OperationalError):
        index.keep_up()
    other.execute("ROLLBACK")
    other.close()
    index.keep_up()
    assert index._pending == {}
    index.close()


def test_many_threads_add_and_ask(index: SpoolIndex, tmp_path: Path) -> None:
    """Each UID once, whoever was first; every question has an answer."""
    added: list[bool] = []

    def work() -> None:
        for number in range(100):
            added.append(index.add(row(tmp_path, number)))
            if number % 10 == 0:
                assert len(index.instances("1.2")) > 0

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert (added.count(True), added.count(False)) == (100, 300)
    assert len(index.instances("1.2")) == 100


def test_an_index_of_another_version_is_told(tmp_path: Path) -> None:
    """So that the inbox makes a new one from the files."""
    with sqlite3.connect(tmp_path / "index.sqlite") as db:
        db.execute("PRAGMA user_version=1")
    db.close()
    with pytest.raises(sqlite3.DatabaseError, match="another version"):
        SpoolIndex(tmp_path / "index.sqlite", tmp_path)
