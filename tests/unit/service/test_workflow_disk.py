"""A disk that fails under the workflow engine's database makes it wait, and ends no workflow."""

import sqlite3
from collections.abc import Iterator
from pathlib import Path

import pytest
from sqlalchemy import Engine
from sqlalchemy.exc import DBAPIError

from service.workflow import _sqlite


@pytest.fixture
def engine(tmp_path: Path) -> Iterator[Engine]:
    """A database with one table that holds whatever it is given."""
    made = _sqlite(f"sqlite:///{tmp_path / 'workflows.sqlite'}")
    with made.begin() as connection:
        connection.exec_driver_sql("CREATE TABLE step (output BLOB NOT NULL)")
    yield made
    made.dispose()


def test_a_full_disk_is_a_lost_connection(engine: Engine) -> None:
    """DBOS tries such a one again, for as long as it takes; then the same engine writes again."""
    with engine.connect() as connection:
        connection.exec_driver_sql("PRAGMA max_page_count=1")  # SQLite's own word for: no more room
        with pytest.raises(DBAPIError) as full:
            connection.exec_driver_sql("INSERT INTO step VALUES (zeroblob(1000000))")
    assert full.value.connection_invalidated
    assert getattr(full.value.orig, "sqlite_errorcode", None) == sqlite3.SQLITE_FULL

    with engine.begin() as connection:
        connection.exec_driver_sql("INSERT INTO step VALUES (zeroblob(1000000))")


def test_a_folder_that_is_away_is_a_lost_connection(tmp_path: Path) -> None:
    """A volume that is not mounted yet: nothing can be opened, and that may change."""
    engine = _sqlite(f"sqlite:///{tmp_path / 'away' / 'workflows.sqlite'}")
    with pytest.raises(DBAPIError) as away, engine.connect():
        pass
    assert away.value.connection_invalidated
    engine.dispose()


def test_any_other_error_is_what_it_is(engine: Engine) -> None:
    """To do again what is wrong would be to wait for ever."""
    for wrong in ("INSERT INTO step VALUES (NULL)", "SELECT * FROM nothing", "no SQL"):
        with pytest.raises(DBAPIError) as refused, engine.begin() as connection:
            connection.exec_driver_sql(wrong)
        assert not refused.value.connection_invalidated
