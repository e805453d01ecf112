"""What was last read of a few studies from a SQLite file, good for as long as nothing in that file changes.

A run asks more than a dozen times what is held of its study, to see at each step that it is still the same; making the
rows of 189 images anew takes 6 ms each time. SQLite itself says whether anything was written since: no writer, in this
process or in another, has to remember to tell.
"""

from __future__ import annotations

import sqlite3
from typing import Final, Generic, TypeVar

STUDIES_MAX: Final = 4
"""Studies that are kept: those that are under way at one time. A study may have thousands of rows."""

T = TypeVar("T")
State = tuple[int, int]
"""What this connection has changed so far (`total_changes`), and what others have (PRAGMA data_version)."""


class LastRead(Generic[T]):
    """Rows by study, as read through `db`. Its caller holds the connection's lock."""

    def __init__(self, db: sqlite3.Connection) -> None:
        self._db = db
        self._at: State | None = None
        self._rows: dict[str, tuple[T, ...]] = {}

    def state(self) -> State | None:
        """What the file is at now, to be asked before rows are read. None in a transaction: it may never come true."""
        if self._db.in_transaction:
            return None
        (others,) = self._db.execute("PRAGMA data_version").fetchone()
        return self._db.total_changes, int(others)

    def get(self, at: State | None, study_uid: str) -> tuple[T, ...] | None:
        """The study's rows as they are at this state; None where they have to be read."""
        return self._rows.get(study_uid) if at is not None and at == self._at else None

    def keep(self, at: State | None, study_uid: str, rows: tuple[T, ...]) -> None:
        """Remember what was read at this state, and nothing of any other."""
        if at is None:
            return
        if at != self._at:
            self._at, self._rows = at, {}
        elif len(self._rows) >= STUDIES_MAX:
            del self._rows[next(iter(self._rows))]
        self._rows[study_uid] = rows
