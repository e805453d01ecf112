"""What was read of a study is good until something is written, by whomever; then it is read again."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from dicom_bridge.last_read import STUDIES_MAX, LastRead
from dicom_bridge.spool_index import Instance, SpoolIndex
from tests.unit.dicom_bridge.test_spool_index import AT, row


@pytest.fixture
def index(tmp_path: Path) -> Iterator[SpoolIndex]:
    """An index that holds three instances of a study, one of them without its digest."""
    made = SpoolIndex(tmp_path / "index.sqlite", tmp_path)
    for number in range(3):
        made.add(row(tmp_path, number, digest="" if number == 2 else f"digest {number}"))
    yield made
    made.close()


def held(index: SpoolIndex, number: int) -> Instance:
    """One of its instances."""
    found = index.instance(f"1.2.3.{number}")
    assert found is not None
    return found


def test_what_did_not_change_is_not_read_again(index: SpoolIndex) -> None:
    """The very same rows, as often as they are asked for; of an unknown study, none each time."""
    first = index.instances("1.2")
    assert len(first) == 3
    assert all(index.instances("1.2") is first for _ in range(3))
    assert index.instances("9.9") == () == index.instances("9.9")


@pytest.mark.parametrize(
    ("change", "seen"),
    [
        (lambda index, folder: index.add(row(folder, 3)), lambda rows: len(rows) == 4),
        (lambda index, _: index.forget("1.2.3.1"), lambda rows: len(rows) == 2),
        (lambda index, _: index.touch(held(index, 0), AT, urgent=True), lambda rows: rows[0].urgent),
        (lambda index, _: index.set_digests([(held(index, 2), "taken")]), lambda rows: rows[2].digest == "taken"),
    ],
    ids=["added", "forgotten", "urgent", "digest"],
)
def test_every_change_is_seen_at_once(
    index: SpoolIndex,
    tmp_path: Path,
    change: Callable[[SpoolIndex, Path], object],
    seen: Callable[[tuple[Instance, ...]], bool],
) -> None:
    """Each of the writes that this process makes."""
    assert not seen(index.instances("1.2"))
    change(index, tmp_path)
    assert seen(index.instances("1.2"))


def test_a_change_by_another_process_is_seen_at_once(index: SpoolIndex, tmp_path: Path) -> None:
    """A command that lets a study go has a connection of its own."""
    assert len(index.instances("1.2")) == 3
    other = sqlite3.connect(tmp_path / "index.sqlite")
    with other:
        other.execute("DELETE FROM instance WHERE sop_uid='1.2.3.0'")
    other.close()
    assert [one.sop_uid for one in index.instances("1.2")] == ["1.2.3.1", "1.2.3.2"]


def kept(file: Path) -> tuple[sqlite3.Connection, LastRead[int]]:
    """A file with one table, and what was read from it."""
    db = sqlite3.connect(file, isolation_level=None)
    db.execute("CREATE TABLE t (x)")
    return db, LastRead(db)


def test_rows_of_another_state_are_not_given(tmp_path: Path) -> None:
    """What was read while somebody wrote is kept under the state before it, and so it is never given."""
    db, last = kept(tmp_path / "file")
    before = last.state()
    db.execute("INSERT INTO t VALUES (1)")
    last.keep(before, "1.2", (0,))
    assert last.get(last.state(), "1.2") is None
    last.keep(last.state(), "1.2", (1,))
    assert last.get(last.state(), "1.2") == (1,)
    assert last.get(before, "1.2") is None
    db.close()


def test_a_new_state_leaves_nothing_of_the_old_one(tmp_path: Path) -> None:
    """That one study was read again does not make the others' rows new."""
    db, last = kept(tmp_path / "file")
    last.keep(last.state(), "1.2", (0,))
    db.execute("INSERT INTO t VALUES (1)")
    last.keep(last.state(), "3.4", (1,))
    assert last.get(last.state(), "1.2") is None
    assert last.get(last.state(), "3.4") == (1,)
    db.close()


def test_nothing_is_kept_or_given_inside_a_transaction(tmp_path: Path) -> None:
    """Nobody else can see what is read there, and it may be taken back: SQLite counts it all the same."""
    db, last = kept(tmp_path / "file")
    last.keep(last.state(), "1.2", (0,))
    db.execute("BEGIN")
    db.execute("INSERT INTO t VALUES (1)")
    inside = last.state()
    assert inside is None
    assert last.get(inside, "1.2") is None
    last.keep(inside, "1.2", (1,))
    db.execute("ROLLBACK")
    assert last.get(last.state(), "1.2") is None
    db.close()


def test_few_studies_are_kept(tmp_path: Path) -> None:
    """A study may have thousands of rows: the one that was read first goes first."""
    db, last = kept(tmp_path / "file")
    for number in range(STUDIES_MAX + 1):
        last.keep(last.state(), str(number), (number,))
    assert last.get(last.state(), "0") is None
    assert [last.get(last.state(), str(number)) for number in range(1, STUDIES_MAX + 1)] == [(1,), (2,), (3,), (4,)]
    db.close()
