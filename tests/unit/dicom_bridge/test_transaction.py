"""A transaction ends whole or not at all, and whatever ended it, the next one can begin."""

import sqlite3
from collections.abc import Iterator

import pytest

from dicom_bridge.transaction import transaction


@pytest.fixture
def db() -> Iterator[sqlite3.Connection]:
    """Two tables; a child without its parent makes COMMIT fail, and nothing before it."""
    made = sqlite3.connect(":memory:", isolation_level=None)
    made.execute("PRAGMA foreign_keys=ON")
    made.execute("CREATE TABLE parent (id INTEGER PRIMARY KEY)")
    made.execute("CREATE TABLE child (id INTEGER REFERENCES parent DEFERRABLE INITIALLY DEFERRED)")
    yield made
    made.close()


def children(db: sqlite3.Connection) -> list[int]:
    """What is there."""
    return [row[0] for row in db.execute("SELECT id FROM child ORDER BY id")]


def add(db: sqlite3.Connection, *ids: int) -> None:
    """A parent and a child of each."""
    with transaction(db) as inside:
        for one in ids:
            inside.execute("INSERT INTO parent VALUES (?)", (one,))
            inside.execute("INSERT INTO child VALUES (?)", (one,))


def test_all_of_it(db: sqlite3.Connection) -> None:
    """What was done inside is there."""
    add(db, 1, 2)
    assert children(db) == [1, 2]
    assert not db.in_transaction


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt, sqlite3.OperationalError])
def test_or_nothing(db: sqlite3.Connection, error: type[BaseException]) -> None:
    """Whatever ends it early undoes it, and goes on up."""

    def interrupted() -> None:
        with transaction(db) as inside:
            inside.execute("INSERT INTO parent VALUES (1)")
            raise error

    with pytest.raises(error):
        interrupted()
    add(db, 1)
    assert children(db) == [1]


def test_a_commit_that_fails_leaves_nothing_open(db: sqlite3.Connection) -> None:
    """The error is told, nothing was done, and the next transaction begins."""
    with pytest.raises(sqlite3.IntegrityError), transaction(db) as inside:
        inside.execute("INSERT INTO child VALUES (7)")
    assert not db.in_transaction
    add(db, 1)
    assert children(db) == [1]


def test_one_that_cannot_begin(db: sqlite3.Connection) -> None:
    """Inside another one: told, and that other one goes on."""
    with transaction(db) as outer:
        outer.execute("INSERT INTO parent VALUES (1)")
        with pytest.raises(sqlite3.OperationalError), transaction(db):
            pass
        assert db.in_transaction
    assert db.execute("SELECT COUNT(*) FROM parent").fetchone() == (1,)
