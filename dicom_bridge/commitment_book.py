"""What modalities have asked us to commit to and have not been told yet: a small SQLite file, every commit on disk.

DUE --report answered with success--> TOLD
 `---given up: too old, refused for good, nowhere to report to--> DROPPED
"""

from __future__ import annotations

import hashlib
import sqlite3
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from enum import StrEnum
from pathlib import Path
from typing import ClassVar, Final

from dicom_bridge.commitment_messages import Request
from dicom_bridge.errors import BridgeError, Fault
from dicom_bridge.transaction import transaction

DUE_MAX: Final = 10_000
"""Requests that wait at once; a caller that asks without end must not fill the disk."""
KEEP: Final = timedelta(days=30)
"""What is over is kept this long, to recognise a transaction UID that is used again, and for people to look at."""
BUSY_TIMEOUT_S: Final = 10.0

_TABLES: Final = """
CREATE TABLE IF NOT EXISTS request (
    id INTEGER PRIMARY KEY, caller TEXT NOT NULL, transaction_uid TEXT NOT NULL, digest TEXT NOT NULL,
    duplicate INTEGER NOT NULL, state TEXT NOT NULL, received_at TEXT NOT NULL, next_at TEXT NOT NULL,
    failures INTEGER NOT NULL DEFAULT 0, code TEXT
) STRICT;
CREATE TABLE IF NOT EXISTS reference (
    request INTEGER NOT NULL REFERENCES request(id) ON DELETE CASCADE, place INTEGER NOT NULL,
    sop_class TEXT NOT NULL, sop_uid TEXT NOT NULL, PRIMARY KEY (request, place)
) STRICT;
CREATE INDEX IF NOT EXISTS request_due ON request(state, next_at);
CREATE INDEX IF NOT EXISTS request_transaction ON request(transaction_uid, caller);
"""


class BookUnavailable(BridgeError):
    """A request cannot be remembered now, so it is not accepted."""

    CODES: ClassVar[frozenset[str]] = frozenset({"COMMITMENT_BOOK_UNAVAILABLE", "COMMITMENT_BOOK_FULL"})
    fault: ClassVar[Fault] = Fault.SITE


class Stand(StrEnum):
    """How far a request is."""

    DUE = "DUE"
    TOLD = "TOLD"
    DROPPED = "DROPPED"


@dataclass(frozen=True, slots=True)
class Asked:
    """One request as it was received from `caller` (AE title).

    `duplicate`: its transaction UID was in use for other instances of the same caller.
    """

    number: int
    caller: str
    request: Request
    received_at: datetime
    failures: int
    duplicate: bool
    stand: Stand
    code: str | None


class CommitmentBook:
    """The file. Every method is one transaction, durable when it returns; safe between threads.

    Raises BookUnavailable.
    """

    def __init__(self, path: Path) -> None:
        self._lock = threading.RLock()
        self._closed = False
        try:
            self._db = sqlite3.connect(path, timeout=BUSY_TIMEOUT_S, isolation_level=None, check_same_thread=False)
            self._db.execute("PRAGMA journal_mode=WAL")
            self._db.execute("PRAGMA synchronous=FULL")
            self._db.execute("PRAGMA foreign_keys=ON")
            self._db.executescript(_TABLES)
        except sqlite3.Error as cause:
            raise BookUnavailable("COMMITMENT_BOOK_UNAVAILABLE", type(cause).__name__) from cause

    def close(self) -> None:
        """Close the file; what was committed stays."""
        with self._lock:
            self._closed = True
            self._db.close()

    def add(self, caller: str, request: Request, now: datetime, due_at: datetime) -> int:
        """Remember a request, to be reported on at `due_at`; gives its number.

        The very same again (its answer was lost) is reported on again, under the same number.
        """
        digest = hashlib.sha256(repr(request.references).encode()).hexdigest()
        with self._transaction() as db:
            # With its references, by ON DELETE CASCADE.
            db.execute("DELETE FROM request WHERE state <> 'DUE' AND received_at < ?", (_stamp(now - KEEP),))
            key = (request.transaction_uid, caller)
            held = db.execute("SELECT id, digest FROM request WHERE transaction_uid = ? AND caller = ?", key).fetchall()
            for number, of in held:
                if of == digest:
                    db.execute(
                        "UPDATE request SET state = 'DUE', received_at = ?, next_at = ?, failures = 0, code = NULL"
                        " WHERE id = ?",
                        (_stamp(now), _stamp(due_at), number),
                    )
                    return int(number)
            if db.execute("SELECT count(*) FROM request WHERE state = 'DUE'").fetchone()[0] >= DUE_MAX:
                raise BookUnavailable("COMMITMENT_BOOK_FULL", f"{DUE_MAX} requests wait already")
            new = db.execute(
                "INSERT INTO request (caller, transaction_uid, digest, duplicate, state, received_at, next_at)"
                " VALUES (?, ?, ?, ?, 'DUE', ?, ?)",
                (caller, request.transaction_uid, digest, int(bool(held)), _stamp(now), _stamp(due_at)),
            ).lastrowid
            rows = ((new, place, *reference) for place, reference in enumerate(request.references))
            db.executemany("INSERT INTO reference VALUES (?, ?, ?, ?)", rows)
            return int(new or 0)

    def due(self, now: datetime, pause_max: timedelta) -> Asked | None:
        """The request that is to be reported on now, the longest waiting first.

        An appointment further away than the longest pause was made before the clock was set back: it is due.
        """
        with self._transaction() as db:
            row = db.execute(
                "SELECT id FROM request WHERE state = 'DUE' AND (next_at <= ? OR next_at > ?)"
                " ORDER BY next_at, id LIMIT 1",
                (_stamp(now), _stamp(now + pause_max)),
            ).fetchone()
            return None if row is None else self._load(db, row[0])

    def all(self) -> tuple[Asked, ...]:
        """Everything that is remembered, oldest first."""
        with self._transaction() as db:
            return tuple(self._load(db, number) for (number,) in db.execute("SELECT id FROM request ORDER BY id"))

    def postpone(self, asked: Asked, until: datetime, code: str) -> None:
        """Report at `until`, and remember why not now; the caller's other requests wait as long, and count it."""
        with self._transaction() as db:
            db.execute("UPDATE request SET code = ? WHERE id = ?", (code, asked.number))
            db.execute(
                "UPDATE request SET failures = failures + 1, next_at = max(next_at, ?)"
                " WHERE caller = ? AND state = 'DUE'",
                (_stamp(until), asked.caller),
            )

    def close_request(self, asked: Asked, stand: Stand, code: str | None = None) -> None:
        """It is over: TOLD, or DROPPED with a code."""
        with self._transaction() as db:
            db.execute("UPDATE request SET state = ?, code = ? WHERE id = ?", (stand, code, asked.number))

    @contextmanager
    def _transaction(self) -> Iterator[sqlite3.Connection]:
        with self._lock:
            if self._closed:
                raise BookUnavailable("COMMITMENT_BOOK_UNAVAILABLE", "closed")
            try:
                with transaction(self._db) as db:
                    yield db
            except sqlite3.Error as cause:
                raise BookUnavailable("COMMITMENT_BOOK_UNAVAILABLE", type(cause).__name__) from cause

    @staticmethod
    def _load(db: sqlite3.Connection, number: int) -> Asked:
        row = db.execute(
            "SELECT id, caller, transaction_uid, received_at, failures, duplicate, state, code FROM request"
            " WHERE id = ?",
            (number,),
        ).fetchone()
        references = db.execute("SELECT sop_class, sop_uid FROM reference WHERE request = ? ORDER BY place", (number,))
        return Asked(
            number=row[0],
            caller=row[1],
            request=Request(row[2], tuple((sop_class, sop_uid) for sop_class, sop_uid in references)),
            received_at=datetime.fromisoformat(row[3]),
            failures=row[4],
            duplicate=bool(row[5]),
            stand=Stand(row[6]),
            code=row[7],
        )


def _stamp(moment: datetime) -> str:
    """Fixed width and zone, so that text sorts as time."""
    return moment.astimezone(UTC).isoformat(timespec="microseconds")
