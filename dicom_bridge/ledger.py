"""The outbox's memory: batches, their files and their peers, in one SQLite file with every commit on disk.

Steps of a batch, each one commit, so that a crash between any two repeats at most the step that was under way:

    PENDING --every file answered 0x0000 or 0xBxxx--> SENT --callback returned--> DELIVERED
       `------refused for good, or too old----------> DEAD --resend-----------> PENDING
"""

from __future__ import annotations

import sqlite3
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from enum import StrEnum
from pathlib import Path
from typing import ClassVar, Final

from dicom_bridge.errors import BridgeError, Fault
from dicom_bridge.peers import Peer

BUSY_TIMEOUT_S: Final = 30.0
"""Another process (the CLI) may hold the ledger for a moment."""

_SCHEMA: Final = """
CREATE TABLE IF NOT EXISTS peer (
    name TEXT PRIMARY KEY, ae_title TEXT NOT NULL, host TEXT NOT NULL, port INTEGER NOT NULL,
    failures INTEGER NOT NULL DEFAULT 0, next_at TEXT NOT NULL
) STRICT;
CREATE TABLE IF NOT EXISTS batch (
    id TEXT PRIMARY KEY, peer TEXT NOT NULL REFERENCES peer(name), state TEXT NOT NULL,
    created_at TEXT NOT NULL, next_at TEXT NOT NULL, attempts INTEGER NOT NULL DEFAULT 0,
    failures INTEGER NOT NULL DEFAULT 0, code TEXT
) STRICT;
CREATE TABLE IF NOT EXISTS file (
    batch TEXT NOT NULL REFERENCES batch(id), place INTEGER NOT NULL, path TEXT NOT NULL, digest TEXT NOT NULL,
    uid TEXT NOT NULL, status INTEGER, stored INTEGER NOT NULL DEFAULT 0, PRIMARY KEY (batch, place)
) STRICT;
CREATE INDEX IF NOT EXISTS batch_due ON batch(peer, state, next_at);
"""


class OutboxRefused(BridgeError):
    """What was asked of the outbox contradicts what it holds."""

    CODES: ClassVar[frozenset[str]] = frozenset(
        {"BATCH_CONFLICT", "BATCH_EMPTY", "BATCH_UNKNOWN", "BATCH_NOT_DEAD", "FILE_UNREADABLE"}
    )
    fault: ClassVar[Fault] = Fault.US


class OutboxUnavailable(BridgeError):
    """The ledger cannot be read or written now: disk full, locked, damaged. Nothing was promised."""

    CODES: ClassVar[frozenset[str]] = frozenset({"LEDGER_UNAVAILABLE", "ALREADY_STARTED"})
    fault: ClassVar[Fault] = Fault.SITE


class State(StrEnum):
    """Where a batch stands; SENT (stored by the peer, not yet told to the caller) counts as pending outside."""

    PENDING = "PENDING"
    SENT = "SENT"
    DELIVERED = "DELIVERED"
    DEAD = "DEAD"


@dataclass(frozen=True, slots=True)
class Output:
    """One file of a batch: its SOP Instance UID, digest ("sha256:..."), place on disk, and the last answer to it."""

    uid: str
    digest: str
    path: Path
    status: int | None
    stored: bool


@dataclass(frozen=True, slots=True)
class Batch:
    """The results of one call for one peer. `attempts` counts associations tried; `code` says why it is not through."""

    id: str
    peer: Peer
    outputs: tuple[Output, ...]
    attempts: int
    state: State
    created_at: datetime
    failures: int
    code: str | None


class Ledger:
    """The SQLite file. Every public method is one transaction, durable when it returns; safe between threads.

    Raises OutboxUnavailable when SQLite or the disk refuses.
    """

    def __init__(self, path: Path) -> None:
        self._lock = threading.RLock()
        self._closed = False
        try:
            self._db = sqlite3.connect(path, timeout=BUSY_TIMEOUT_S, isolation_level=None, check_same_thread=False)
            self._db.execute("PRAGMA journal_mode=WAL")
            self._db.execute("PRAGMA synchronous=FULL")
            self._db.execute("PRAGMA foreign_keys=ON")
            self._db.executescript(_SCHEMA)
        except sqlite3.Error as cause:
            raise OutboxUnavailable("LEDGER_UNAVAILABLE", type(cause).__name__) from cause

    def close(self) -> None:
        """Close the file; what was committed stays."""
        with self._lock:
            self._closed = True
            self._db.close()

    def know(self, peer: Peer, now: datetime) -> None:
        """Remember where `peer` is now; batches that wait for it go to the new address."""
        with self._transaction() as db:
            self._know(db, peer, now)

    def add(self, batch_id: str, peer: Peer, outputs: Sequence[Output], now: datetime) -> None:
        """Add a batch; the same batch again is no change. Raises OutboxRefused BATCH_CONFLICT for other content."""
        with self._transaction() as db:
            self._know(db, peer, now)
            held = db.execute("SELECT peer FROM batch WHERE id = ?", (batch_id,)).fetchone()
            if held is not None:
                files = db.execute("SELECT uid, digest FROM file WHERE batch = ? ORDER BY place", (batch_id,))
                if held[0] != peer.name or files.fetchall() != [(o.uid, o.digest) for o in outputs]:
                    raise OutboxRefused("BATCH_CONFLICT", "this batch is held with other files or another peer")
                return
            stamp = _stamp(now)
            db.execute(
                "INSERT INTO batch (id, peer, state, created_at, next_at) VALUES (?, ?, ?, ?, ?)",
                (batch_id, peer.name, State.PENDING, stamp, stamp),
            )
            db.executemany(
                "INSERT INTO file (batch, place, path, digest, uid) VALUES (?, ?, ?, ?, ?)",
                [(batch_id, n, str(o.path), o.digest, o.uid) for n, o in enumerate(outputs)],
            )

    def get(self, batch_id: str) -> Batch | None:
        """One batch, or None."""
        with self._transaction() as db:
            return self._load(db, batch_id)

    def in_state(self, state: State) -> tuple[Batch, ...]:
        """All batches in `state`, oldest first."""
        with self._transaction() as db:
            ids = db.execute("SELECT id FROM batch WHERE state = ? ORDER BY created_at, id", (state,)).fetchall()
            return tuple(batch for (one,) in ids if (batch := self._load(db, one)) is not None)

    def peers(self) -> tuple[str, ...]:
        """Names of all peers ever known."""
        with self._transaction() as db:
            return tuple(name for (name,) in db.execute("SELECT name FROM peer ORDER BY name"))

    def due(self, peer: str, now: datetime, pause_max: timedelta) -> Batch | None:
        """The next batch for `peer`: callbacks first (no network needed), then whoever has waited longest.

        An appointment further away than the longest pause was made before the clock was set back: it is due.
        """
        far, stamp = _stamp(now + pause_max), _stamp(now)
        with self._transaction() as db:
            found = db.execute(
                "SELECT batch.id FROM batch JOIN peer ON peer.name = batch.peer WHERE batch.peer = ?"
                " AND (batch.next_at <= ? OR batch.next_at > ?)"
                " AND (batch.state = 'SENT' OR batch.state = 'PENDING' AND (peer.next_at <= ? OR peer.next_at > ?))"
                " ORDER BY batch.state DESC, batch.next_at, batch.created_at, batch.id LIMIT 1",
                (peer, stamp, far, stamp, far),
            ).fetchone()
            return None if found is None else self._load(db, found[0])

    def answered(self, batch: Batch, answers: Sequence[tuple[str, int, bool]]) -> None:
        """Note one attempt and the answers it got: (uid, status, stored)."""
        with self._transaction() as db:
            db.execute("UPDATE batch SET attempts = attempts + 1 WHERE id = ?", (batch.id,))
            for uid, status, stored in answers:
                db.execute(
                    "UPDATE file SET status = ?, stored = ? WHERE batch = ? AND uid = ?",
                    (status, int(stored), batch.id, uid),
                )

    def move(self, batch: Batch, state: State, code: str | None = None) -> None:
        """Put the batch into `state`; its count of failures starts anew."""
        with self._transaction() as db:
            db.execute("UPDATE batch SET state = ?, code = ?, failures = 0 WHERE id = ?", (state, code, batch.id))

    def postpone(self, batch: Batch, until: datetime, code: str) -> None:
        """Try the batch again at `until`, and remember why."""
        with self._transaction() as db:
            db.execute(
                "UPDATE batch SET next_at = ?, failures = failures + 1, code = ? WHERE id = ?",
                (_stamp(until), code, batch.id),
            )

    def failures_of(self, peer: str) -> int:
        """How often in a row `peer` could take nothing."""
        with self._transaction() as db:
            found = db.execute("SELECT failures FROM peer WHERE name = ?", (peer,)).fetchone()
            return 0 if found is None else int(found[0])

    def pause_peer(self, peer: str, until: datetime) -> None:
        """The peer takes nothing: no batch is tried on it before `until`."""
        with self._transaction() as db:
            db.execute("UPDATE peer SET failures = failures + 1, next_at = ? WHERE name = ?", (_stamp(until), peer))

    def peer_works(self, peer: str) -> None:
        """The peer answers again."""
        with self._transaction() as db:
            db.execute("UPDATE peer SET failures = 0 WHERE name = ? AND failures > 0", (peer,))

    def revive(self, batch_id: str, now: datetime) -> None:
        """Send a dead batch again, whole, as if it were new: the age limit starts anew.

        What was stored long ago may be gone from the peer; sending it twice does no harm.

        Raises OutboxRefused BATCH_UNKNOWN or BATCH_NOT_DEAD.
        """
        with self._transaction() as db:
            batch = self._load(db, batch_id)
            if batch is None:
                raise OutboxRefused("BATCH_UNKNOWN", "no such batch")
            if batch.state is not State.DEAD:
                raise OutboxRefused("BATCH_NOT_DEAD", "only a dead letter can be sent again")
            db.execute(
                "UPDATE batch SET state = ?, code = NULL, failures = 0, created_at = ?, next_at = ? WHERE id = ?",
                (State.PENDING, _stamp(now), _stamp(now), batch_id),
            )
            db.execute("UPDATE file SET stored = 0, status = NULL WHERE batch = ?", (batch_id,))

    def hurry(self, now: datetime) -> None:
        """Everything that waits is due now."""
        with self._transaction() as db:
            db.execute("UPDATE peer SET next_at = ?", (_stamp(now),))
            db.execute("UPDATE batch SET next_at = ? WHERE state IN ('PENDING', 'SENT')", (_stamp(now),))

    @contextmanager
    def _transaction(self) -> Iterator[sqlite3.Connection]:
        with self._lock:
            if self._closed:
                raise OutboxUnavailable("LEDGER_UNAVAILABLE", "closed")
            try:
                self._db.execute("BEGIN IMMEDIATE")
                try:
                    yield self._db
                except BaseException:
                    self._db.execute("ROLLBACK")
                    raise
                self._db.execute("COMMIT")
            except sqlite3.Error as cause:
                if self._db.in_transaction:
                    self._db.rollback()
                raise OutboxUnavailable("LEDGER_UNAVAILABLE", type(cause).__name__) from cause

    @staticmethod
    def _know(db: sqlite3.Connection, peer: Peer, now: datetime) -> None:
        db.execute(
            "INSERT INTO peer (name, ae_title, host, port, next_at) VALUES (?, ?, ?, ?, ?)"
            " ON CONFLICT (name) DO UPDATE"
            " SET ae_title = excluded.ae_title, host = excluded.host, port = excluded.port",
            (peer.name, peer.ae_title, peer.host, peer.port, _stamp(now)),
        )

    @staticmethod
    def _load(db: sqlite3.Connection, batch_id: str) -> Batch | None:
        row = db.execute(
            "SELECT batch.id, attempts, state, created_at, batch.failures, code, name, ae_title, host, port"
            " FROM batch JOIN peer ON peer.name = batch.peer WHERE batch.id = ?",
            (batch_id,),
        ).fetchone()
        if row is None:
            return None
        files = db.execute(
            "SELECT uid, digest, path, status, stored FROM file WHERE batch = ? ORDER BY place", (batch_id,)
        )
        return Batch(
            id=row[0],
            peer=Peer(name=row[6], ae_title=row[7], host=row[8], port=row[9]),
            outputs=tuple(Output(f[0], f[1], Path(f[2]), f[3], bool(f[4])) for f in files),
            attempts=row[1],
            state=State(row[2]),
            created_at=datetime.fromisoformat(row[3]),
            failures=row[4],
            code=row[5],
        )


def _stamp(moment: datetime) -> str:
    """Fixed width and zone, so that text sorts as time."""
    return moment.astimezone(UTC).isoformat(timespec="microseconds")
