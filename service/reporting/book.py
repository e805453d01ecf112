"""What is to be told to whom, and how far it is: one SQLite file, every commit on disk.

    state       what happens                                                    next
    ---------   -------------------------------------------------------------   ---------
    WAITING     not taken, or nobody knows                                      WAITING     (later, pauses grow)
                taken; or refused for good; or told in vain for too long        SETTLED     (with its outcome)
                it cannot be told at all: no report, or none that can be read   DEAD
                a newer result of the same subject is to be told                OVERTAKEN
    SETTLED     the log has the entry                                           DELIVERED, or DEAD where not taken
    DEAD        a person has it told again                                      WAITING     (made anew)
    told, or maybe, in any state but SETTLED: it was withdrawn                  WAITING     (made anew, as withdrawn)
    never told, nor an older one of its subject, and withdrawn                  OVERTAKEN
                a newer result of the same subject is to be told                OVERTAKEN

A crash at any point repeats at most the step that was under way: the receiver may get the same bytes under the same
control id twice, and never two different messages. Messages hold patient data, so that they are kept only until they
were taken.
"""

from __future__ import annotations

import sqlite3
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from enum import StrEnum
from pathlib import Path
from typing import Final

from audit import durable
from dicom_bridge.transaction import transaction
from service.errors import CommandRefused, NothingSuch, ServiceError

BOOK_FILE: Final = "book.sqlite"
BUSY_TIMEOUT_S: Final = 5.0
KEPT: Final = timedelta(days=90)
"""How long it is remembered that something was told: longer than anything is tried."""

_ROW: Final = (
    "CREATE TABLE IF NOT EXISTS row (receiver TEXT NOT NULL, call TEXT NOT NULL, place INTEGER NOT NULL,"
    " subject TEXT NOT NULL, released_at TEXT NOT NULL, state TEXT NOT NULL, attempts INTEGER NOT NULL DEFAULT 0,"
    " round INTEGER NOT NULL DEFAULT 0, next_at TEXT NOT NULL, aged_from TEXT NOT NULL, code TEXT, outcome TEXT,"
    " digest TEXT, content BLOB, withdrawn INTEGER NOT NULL DEFAULT 0, PRIMARY KEY (receiver, call)) STRICT"
)
_TABLES: Final = (
    _ROW,
    "CREATE INDEX IF NOT EXISTS due ON row (receiver, state, next_at)",
    "CREATE INDEX IF NOT EXISTS subject ON row (receiver, subject)",
    "CREATE TABLE IF NOT EXISTS mark (receiver TEXT PRIMARY KEY, value TEXT NOT NULL) STRICT",
)
_COLUMNS: Final = (
    "receiver, call, place, subject, released_at, state, attempts, round, aged_from, code, outcome, digest, content,"
    " withdrawn"
)


class BookUnavailable(ServiceError, OSError):
    """The book cannot be opened, read or written now: disk full, damaged, locked. Try again later."""

    code = "REPORTS_UNAVAILABLE"


class State(StrEnum):
    """See the module's table."""

    WAITING = "WAITING"
    SETTLED = "SETTLED"
    DELIVERED = "DELIVERED"
    DEAD = "DEAD"
    OVERTAKEN = "OVERTAKEN"


@dataclass(frozen=True, slots=True)
class Row:
    """One result for one receiver. `place`: of its RELEASED entry. `subject`: what a newer one replaces.

    `round`: how often it was to be told anew. `content`: the message, from the first try until it is taken.
    `withdrawn`: what is told now is that the result counts no more.
    """

    receiver: str
    call: str
    place: int
    subject: str
    released_at: datetime
    state: State
    aged_from: datetime
    code: str | None = None
    attempts: int = 0
    round: int = 0
    outcome: str | None = None
    digest: str | None = None
    content: bytes | None = field(default=None, repr=False)
    withdrawn: bool = False


class Book:
    """Threads and processes share it. Methods raise BookUnavailable."""

    def __init__(self, folder: Path) -> None:
        self._lock = threading.Lock()
        try:
            durable.make_dirs(folder)
            self._db = sqlite3.connect(
                folder / BOOK_FILE, timeout=BUSY_TIMEOUT_S, isolation_level=None, check_same_thread=False
            )
            self._db.execute("PRAGMA journal_mode=WAL")
            self._db.execute("PRAGMA synchronous=FULL")
            self._db.execute("PRAGMA secure_delete=ON")
            for table in _TABLES:
                self._db.execute(table)
        except (sqlite3.Error, OSError) as error:
            raise _unavailable(error) from error

    def mark(self, receiver: str) -> str | None:
        """Up to where the log was read for it."""
        with self._transaction() as db:
            found = db.execute("SELECT value FROM mark WHERE receiver = ?", (receiver,)).fetchone()
        return None if found is None else str(found[0])

    def move(self, receiver: str, mark: str) -> None:
        """Read up to there, and nothing to tell on the way."""
        with self._transaction() as db:
            db.execute("INSERT OR REPLACE INTO mark VALUES (?, ?)", (receiver, mark))

    def add(self, row: Row, mark: str) -> bool:
        """Tell this, and what it overtakes no more; whether it is new. The mark moves in the same commit."""
        with self._transaction() as db:
            done = db.execute(
                "INSERT OR IGNORE INTO row (receiver, call, place, subject, released_at, state, next_at, aged_from,"
                " code) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)",
                (
                    *(row.receiver, row.call, row.place, row.subject, _stamp(row.released_at), row.state),
                    *(_stamp(row.released_at), _stamp(row.released_at), row.code),
                ),
            )
            if done.rowcount and row.subject:
                db.execute(
                    "UPDATE row SET state = ?, content = NULL WHERE receiver = ? AND subject = ? AND call <> ?"
                    " AND state IN (?, ?)",
                    (State.OVERTAKEN, row.receiver, row.subject, row.call, State.WAITING, State.DEAD),
                )
            db.execute("INSERT OR REPLACE INTO mark VALUES (?, ?)", (row.receiver, mark))
        return done.rowcount > 0

    def withdraw(self, row: Row, mark: str, now: datetime) -> bool:
        """Tell that this one counts no more; a row that is not here is told so if it says that it was told before.

        Not where a newer result of the same subject is in its place, nor where the receiver cannot have it. The mark
        moves in the same commit. False: what became of it is not in the log yet; ask again after that.
        """
        with self._transaction() as db:
            db.execute(
                "INSERT OR IGNORE INTO row (receiver, call, place, subject, released_at, state, next_at, aged_from,"
                " attempts) SELECT ?, ?, ?, ?, ?, ?, ?, ?, ? WHERE ? > 0",
                (
                    *(row.receiver, row.call, row.place, row.subject, _stamp(row.released_at), State.DELIVERED),
                    *(_stamp(now), _stamp(now), row.attempts, row.attempts),
                ),
            )
            mine = (row.receiver, row.call)
            found = db.execute("SELECT state FROM row WHERE receiver = ? AND call = ?", mine).fetchone()
            if found is not None and found[0] == State.SETTLED:
                return False
            newer = db.execute(
                "SELECT 1 FROM row WHERE receiver = ? AND subject = ? AND subject <> '' AND place > ?",
                (row.receiver, row.subject, row.place),
            ).fetchone()
            if found is not None and newer is None:
                # Also where only an older one was told: this one stood in its place.
                told = db.execute(
                    "SELECT 1 FROM row WHERE receiver = ? AND attempts > 0"
                    " AND (call = ? OR (subject = ? AND subject <> ''))",
                    (*mine, row.subject),
                ).fetchone()
                state = State.OVERTAKEN if told is None else State.WAITING
                db.execute(
                    "UPDATE row SET state = ?, withdrawn = 1, round = round + 1, next_at = ?, aged_from = ?,"
                    " code = NULL, outcome = NULL, digest = NULL, content = NULL WHERE receiver = ? AND call = ?",
                    (state, _stamp(now), _stamp(now), *mine),
                )
            db.execute("INSERT OR REPLACE INTO mark VALUES (?, ?)", (row.receiver, mark))
        return True

    def due(self, receiver: str, now: datetime) -> Row | None:
        """What to do next: what the log must still hear, then whatever was tried least."""
        found = self._rows(
            "receiver = ? AND (state = ? OR (state = ? AND next_at <= ?))"
            " ORDER BY state = ? DESC, attempts, place LIMIT 1",
            (receiver, State.SETTLED, State.WAITING, _stamp(now), State.SETTLED),
        )
        return found[0] if found else None

    def told_before(self, row: Row) -> Sequence[Row]:
        """Earlier results of the same subject that the receiver got, or may have got."""
        return self._rows(
            "receiver = ? AND subject = ? AND place < ? AND attempts > 0 ORDER BY place",
            (row.receiver, row.subject, row.place),
        )

    def made(self, row: Row, content: bytes, digest: str) -> None:
        """These bytes are its message from now on, and a first try begins."""
        self._change(row, State.WAITING, content=content, digest=digest)

    def tried(self, row: Row) -> None:
        """It is about to be told once more: from now on the receiver may have it."""
        self._change(row, State.WAITING, attempts=row.attempts + 1)

    def later(self, row: Row, until: datetime, code: str) -> None:
        """It was told in vain."""
        self._change(row, State.WAITING, next_at=_stamp(until), code=code)

    def hold(self, row: Row, now: datetime, until: datetime, code: str) -> None:
        """It may not be told now, which is nobody's failure: its age starts anew."""
        self._change(row, State.WAITING, next_at=_stamp(until), aged_from=_stamp(now), code=code)

    def settle(self, row: Row, outcome: str, code: str) -> None:
        """It is over for the receiver; the log is to hear of it."""
        self._change(row, State.SETTLED, outcome=outcome, code=code, content=None)

    def end(self, row: Row, state: State, code: str | None = None) -> None:
        """It is over."""
        self._change(row, state, content=None, code=code or row.code)

    def revive(self, receiver: str, call: str, now: datetime) -> None:
        """Tell a dead one again, made anew. Raises NothingSuch, CommandRefused for one that is not dead."""
        found = self._rows("receiver = ? AND call = ?", (receiver, call))
        if not found:
            raise NothingSuch("no such report is in the book")
        if found[0].state is not State.DEAD:
            raise CommandRefused(f"only a dead one can be told again; this one is {found[0].state}")
        nothing = dict.fromkeys(("code", "outcome", "digest", "content"))
        at, again = _stamp(now), found[0].round + 1
        self._change(found[0], State.WAITING, next_at=at, aged_from=at, round=again, **nothing)

    def listed(self, *states: State) -> Sequence[Row]:
        """Rows in these states, oldest first."""
        return self._rows(f"state IN ({', '.join('?' * len(states))}) ORDER BY place, receiver", states)

    def count(self, receiver: str, *states: State) -> int:
        """How many are in these states."""
        with self._transaction() as db:
            found = db.execute(
                f"SELECT COUNT(*) FROM row WHERE receiver = ? AND state IN ({', '.join('?' * len(states))})",  # noqa: S608 - our own words
                (receiver, *states),
            ).fetchone()
        return int(found[0])

    def tidy(self, receivers: Sequence[str], now: datetime) -> None:
        """Forget what is long told. What waits for a receiver that nobody names any more is dead, and its place is
        forgotten: named again, it hears of what is new.
        """
        names = ", ".join("?" * len(receivers))
        with self._transaction() as db:
            db.execute(
                "DELETE FROM row WHERE state IN (?, ?) AND released_at < ?",
                (State.DELIVERED, State.OVERTAKEN, _stamp(now - KEPT)),
            )
            db.execute(
                f"UPDATE row SET state = ?, code = ?, content = NULL WHERE state = ? AND receiver NOT IN ({names})",  # noqa: S608 - question marks
                (State.DEAD, "RECEIVER_NOT_NAMED", State.WAITING, *receivers),
            )
            db.execute(f"DELETE FROM mark WHERE receiver NOT IN ({names})", tuple(receivers))  # noqa: S608 - as above

    def close(self) -> None:
        """Let go of the file."""
        with self._lock:
            self._db.close()

    def _rows(self, where: str, values: Sequence[object]) -> list[Row]:
        with self._transaction() as db:
            found = db.execute(f"SELECT {_COLUMNS} FROM row WHERE {where}", tuple(map(str, values))).fetchall()  # noqa: S608 - our own words
        return [_row(one) for one in found]

    def _change(self, row: Row, state: State, **columns: str | int | bytes | None) -> None:
        """Only of a row that is as it was read: what another process did meanwhile stands."""
        names = "".join(f", {name} = ?" for name in columns)
        with self._transaction() as db:
            db.execute(
                f"UPDATE row SET state = ?{names} WHERE receiver = ? AND call = ? AND state = ? AND round = ?",  # noqa: S608 - our own words
                (state, *columns.values(), row.receiver, row.call, row.state, row.round),
            )

    @contextmanager
    def _transaction(self) -> Iterator[sqlite3.Connection]:
        with self._lock:
            try:
                with transaction(self._db) as db:
                    yield db
            except sqlite3.Error as cause:
                raise _unavailable(cause) from cause


def _row(found: Sequence[object]) -> Row:
    receiver, call, place, subject, released, state, attempts, again, aged, *rest = found
    code, outcome, digest, content, withdrawn = rest
    return Row(
        receiver=str(receiver),
        call=str(call),
        place=int(str(place)),
        subject=str(subject),
        released_at=datetime.fromisoformat(str(released)),
        state=State(str(state)),
        attempts=int(str(attempts)),
        round=int(str(again)),
        aged_from=datetime.fromisoformat(str(aged)),
        code=None if code is None else str(code),
        outcome=None if outcome is None else str(outcome),
        digest=None if digest is None else str(digest),
        content=content if isinstance(content, bytes) else None,
        withdrawn=bool(withdrawn),
    )


def _stamp(moment: datetime) -> str:
    """Fixed width and zone, so that text sorts as time."""
    return moment.astimezone(UTC).isoformat(timespec="microseconds")


def _unavailable(error: Exception) -> BookUnavailable:
    # Not str(error): it can hold the path.
    return BookUnavailable(f"the book of reports cannot be used ({type(error).__name__})")
