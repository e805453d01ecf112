"""The outbox's memory: batches, their files and the names of their peers, in one SQLite file, every commit on disk.

The life of a batch; each line is one commit, so a crash repeats one step at most. "Every file": see `dispensable`.

    state     what happens                                              next       how delivery is proven
    -------   -------------------------------------------------------   --------   ----------------------
    PENDING   every file stored; peer has storage commitment            STORED
              every file stored; peer answers C-FIND (`counts`)         SEEKING
              every file stored; peer does neither                      SENT       ANSWERED
              some not stored, no answer, out of resources              PENDING    (later, pauses grow)
              refused for good, file changed, too old                   DEAD
              may not leave: held, its age starts anew; or withheld     PENDING; DEAD, for a person
    STORED    N-ACTION accepted                                         ASKED
              N-ACTION not accepted, no answer                          STORED     (later, pauses grow)
              report of the commitment (below) came first               as ASKED
              `commitment_wait` over                                    SEEKING
    ASKED     report: all committed; peer answers C-FIND                SEEKING    (committed)
              report: all committed                                     SENT       COMMITMENT
              report: some failed                                       PENDING    (a loss: those again)
              report: some not mentioned                                SEEKING
              `commitment_wait` over                                    SEEKING
    SEEKING   C-FIND: all there, committed                              SENT       COMMITMENT
              C-FIND: all there                                         SENT       FOUND
              C-FIND: some not there, for longer than its patience      PENDING    (a loss: those again)
              C-FIND not offered or failing; committed                  SENT       COMMITMENT
              C-FIND not offered or failing; no commitment configured   SENT       ANSWERED
              C-FIND not offered or failing; commitment never came      PENDING    (a loss: all again)
              nobody answers                                            SEEKING    (later, pauses grow)
              nobody answers for longer than its patience; committed    SENT       COMMITMENT
              nobody answers, too old, not committed                    DEAD
              report: all committed                                     SEEKING    (committed)
              report: some failed                                       PENDING    (a loss: those again)
    SENT      the caller has been told                                  DELIVERED
              the caller cannot take it now                             SENT       (later, pauses grow)
    DEAD      a person resends it                                       PENDING    (whole, as if new)
    any of PENDING STORED ASKED SEEKING, peer not named any more        DEAD
    the loss after LOSSES_MAX losses                                    DEAD

Each round of PENDING to ASKED has a transaction UID of its own: a late report of an earlier round changes nothing.
Senders, the listener (reports) and the command line (`resend`) write at the same time, so whoever changes a batch says
in which state and round it knew it; where that is no longer so, nothing is changed.
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
from dicom_bridge.ledger_schema import open_ledger
from dicom_bridge.transaction import transaction

LEDGER_FILE: Final = "outbox.sqlite3"
"""Its name in the outbox's folder."""
HELD, WITHHELD = "HELD", "WITHHELD"
"""Codes of batches that may not leave: until a stop is lifted; until a person says so."""

_COLUMNS: Final = (
    "id, peer, attempts, state, created_at, failures, code, losses, transaction_uid, since, committed, proof,"
    "aged_from, let_go"
)
_Columns = dict[str, str | int | None]


class OutboxRefused(BridgeError):
    """What was asked of the outbox contradicts what it holds, or the configuration."""

    CODES: ClassVar[frozenset[str]] = frozenset(
        {"BATCH_CONFLICT", "BATCH_EMPTY", "BATCH_UNKNOWN", "BATCH_NOT_DEAD", "FILE_UNREADABLE", "PEER_NOT_NAMED"}
    )
    fault: ClassVar[Fault] = Fault.US


class OutboxUnavailable(BridgeError):
    """The ledger cannot be read or written now: disk full, locked, damaged. Nothing was promised."""

    CODES: ClassVar[frozenset[str]] = frozenset({"LEDGER_UNAVAILABLE", "ALREADY_STARTED"})
    fault: ClassVar[Fault] = Fault.SITE


class State(StrEnum):
    """Where a batch stands; see the table above. Outside, all but DELIVERED and DEAD count as pending."""

    PENDING = "PENDING"
    STORED = "STORED"
    ASKED = "ASKED"
    SEEKING = "SEEKING"
    SENT = "SENT"
    DELIVERED = "DELIVERED"
    DEAD = "DEAD"


ON_THE_WAY: Final = (State.PENDING, State.STORED, State.ASKED, State.SEEKING, State.SENT)


class Proof(StrEnum):
    """How we know that the peer has a batch: it has taken it into its care, it finds it, or it only answered so."""

    COMMITMENT = "COMMITMENT"
    FOUND = "FOUND"
    ANSWERED = "ANSWERED"


@dataclass(frozen=True, slots=True)
class Output:
    """One file of a batch: its UIDs, digest ("sha256:..."), place on disk, and the last answer to it.

    `sop_class` and the two after it are "" for files of an old ledger that were gone when it was opened.
    """

    uid: str
    digest: str
    path: Path
    status: int | None
    stored: bool
    sop_class: str
    study_uid: str
    series_uid: str


@dataclass(frozen=True, slots=True)
class Batch:
    """The results of one call for one peer, by the peer's name in the configuration.

    attempts: associations tried for its files. code: why it is not through. losses: how often the peer turned out not
    to have what it had answered for. transaction_uid: of this round's storage commitment. since: when the state, of
    those from STORED to SEEKING, began. committed: this round's commitment came. proof: from SENT on. aged_from: held
    last; its age counts from there. let_go: a person sent it though it was withheld.
    """

    id: str
    peer: str
    outputs: tuple[Output, ...]
    attempts: int
    state: State
    created_at: datetime
    failures: int
    code: str | None
    losses: int
    transaction_uid: str | None
    since: datetime | None
    committed: bool
    proof: Proof | None
    aged_from: datetime | None = None
    let_go: bool = False


class Ledger:
    """The SQLite file. Every public method is one transaction, durable when it returns; safe between threads.

    Raises OutboxUnavailable when SQLite or the disk refuses.
    """

    def __init__(self, path: Path) -> None:
        self._lock = threading.RLock()
        self._closed = False
        try:
            self._db = open_ledger(path)
        except sqlite3.Error as cause:
            raise OutboxUnavailable("LEDGER_UNAVAILABLE", type(cause).__name__) from cause

    def close(self) -> None:
        """Close the file; what was committed stays."""
        with self._lock:
            self._closed = True
            self._db.close()

    # ---- asking ----------------------------------------------------------------------------------------------------

    def get(self, batch_id: str) -> Batch | None:
        """One batch, or None."""
        with self._transaction() as db:
            return self._load(db, "id", batch_id)

    def of_transaction(self, transaction_uid: str) -> Batch | None:
        """The batch whose present round asks for its commitment under this UID, or None."""
        with self._transaction() as db:
            return self._load(db, "transaction_uid", transaction_uid)

    def in_states(self, *states: State) -> tuple[Batch, ...]:
        """All batches in one of `states`, oldest first."""
        marks = ",".join("?" * len(states))
        with self._transaction() as db:
            ids = db.execute(f"SELECT id FROM batch WHERE state IN ({marks}) ORDER BY created_at, id", states)  # noqa: S608 - only question marks
            return tuple(batch for (one,) in ids.fetchall() if (batch := self._load(db, "id", one)) is not None)

    def peers(self) -> tuple[str, ...]:
        """Names of all peers that ever got a batch."""
        with self._transaction() as db:
            return tuple(name for (name,) in db.execute("SELECT name FROM peer ORDER BY name"))

    def due(self, peer: str, now: datetime, pause_max: timedelta, commitment_wait: timedelta) -> Batch | None:
        """The next batch for `peer`: callbacks first (no network needed), then whoever has waited longest.

        An appointment further away than the longest pause was made before the clock was set back: it is due.
        """
        far, stamp, late = _stamp(now + pause_max), _stamp(now), _stamp(now - commitment_wait)
        with self._transaction() as db:
            found = db.execute(
                "SELECT batch.id FROM batch JOIN peer ON peer.name = batch.peer WHERE batch.peer = :peer"
                " AND (batch.next_at <= :now OR batch.next_at > :far)"
                " AND (batch.state = 'SENT' OR batch.state = 'ASKED' AND (since <= :late OR since > :far)"
                " OR batch.state IN ('PENDING', 'STORED', 'SEEKING') AND (peer.next_at <= :now OR peer.next_at > :far))"
                " ORDER BY batch.state = 'SENT' DESC, batch.next_at, batch.created_at, batch.id LIMIT 1",
                {"peer": peer, "now": stamp, "far": far, "late": late},
            ).fetchone()
            return None if found is None else self._load(db, "id", found[0])

    # ---- the life of a batch -----------------------------------------------------------------------------------------

    def add(self, batch_id: str, peer: str, outputs: Sequence[Output], now: datetime) -> None:
        """Add a batch; the same batch again is no change. Raises OutboxRefused BATCH_CONFLICT for other content."""
        with self._transaction() as db:
            stamp = _stamp(now)
            db.execute("INSERT INTO peer (name, next_at) VALUES (?, ?) ON CONFLICT (name) DO NOTHING", (peer, stamp))
            held = db.execute("SELECT peer FROM batch WHERE id = ?", (batch_id,)).fetchone()
            if held is not None:
                files = db.execute("SELECT uid, digest FROM file WHERE batch = ? ORDER BY place", (batch_id,))
                if held[0] != peer or files.fetchall() != [(o.uid, o.digest) for o in outputs]:
                    raise OutboxRefused("BATCH_CONFLICT", "this batch is held with other files or another peer")
                return
            db.execute(
                "INSERT INTO batch (id, peer, state, created_at, next_at) VALUES (?, ?, ?, ?, ?)",
                (batch_id, peer, State.PENDING, stamp, stamp),
            )
            db.executemany(
                "INSERT INTO file (batch, place, path, digest, uid, sop_class, study_uid, series_uid)"
                " VALUES (?, ?, ?, ?, ?, ?, ?, ?)",
                [
                    (batch_id, n, str(o.path), o.digest, o.uid, o.sop_class, o.study_uid, o.series_uid)
                    for n, o in enumerate(outputs)
                ],
            )

    def answered(self, batch: Batch, answers: Sequence[tuple[str, int, bool]]) -> None:
        """Note one attempt and the answers it got: (uid, status, stored)."""
        with self._transaction() as db:
            db.execute("UPDATE batch SET attempts = attempts + 1 WHERE id = ?", (batch.id,))
            for uid, status, stored in answers:
                db.execute(
                    "UPDATE file SET status = ?, stored = ? WHERE batch = ? AND uid = ?",
                    (status, int(stored), batch.id, uid),
                )

    def enter(self, batch: Batch, state: State, now: datetime, code: str | None = None, **also: str | int) -> bool:
        """Put the batch into `state`, due at once and with its count of failures at 0; False where it has moved on.

        `also`: columns `transaction_uid`, `committed`, `proof`.
        """
        new: _Columns = {
            "state": state,
            "since": _stamp(now),
            "next_at": _stamp(now),
            "failures": 0,
            "code": code,
            **also,
        }
        with self._transaction() as db:
            return self._change(db, batch, new)

    def commit(self, batch: Batch) -> bool:
        """Note that the commitment came, without disturbing what is under way."""
        with self._transaction() as db:
            return self._change(db, batch, {"committed": 1})

    def lost(self, batch: Batch, uids: Sequence[str], until: datetime, code: str) -> bool:
        """The peer has not what it answered for: send these again at `until`, in a new round."""
        new: _Columns = {"state": State.PENDING, "next_at": _stamp(until), "failures": 0, "code": code}
        new |= {"losses": batch.losses + 1, "transaction_uid": None, "since": None, "committed": 0}
        with self._transaction() as db:
            changed = self._change(db, batch, new)
            if changed:
                again = [(batch.id, uid) for uid in uids]
                db.executemany("UPDATE file SET stored = 0 WHERE batch = ? AND uid = ?", again)
            return changed

    def postpone(self, batch: Batch, until: datetime, code: str) -> bool:
        """Try the batch again at `until`, and remember why."""
        new: _Columns = {"next_at": _stamp(until), "failures": batch.failures + 1, "code": code}
        with self._transaction() as db:
            return self._change(db, batch, new)

    def hold(self, batch: Batch, until: datetime, now: datetime) -> bool:
        """Look at the batch again at `until`: no failure of anybody, and nothing that it grows old by."""
        with self._transaction() as db:
            return self._change(db, batch, {"next_at": _stamp(until), "code": HELD, "aged_from": _stamp(now)})

    def revive(self, batch_id: str, now: datetime) -> None:
        """Send a dead batch again, whole, as if it were new: the age limit and the count of losses start anew.

        What was stored long ago may be gone from the peer; sending it twice does no harm. One that was WITHHELD is let
        go: a person has decided. Raises OutboxRefused BATCH_UNKNOWN or BATCH_NOT_DEAD.
        """
        with self._transaction() as db:
            batch = self._load(db, "id", batch_id)
            if batch is None:
                raise OutboxRefused("BATCH_UNKNOWN", "no such batch")
            if batch.state is not State.DEAD:
                raise OutboxRefused("BATCH_NOT_DEAD", "only a dead letter can be sent again")
            db.execute(
                "UPDATE batch SET state = ?, code = NULL, failures = 0, created_at = ?, next_at = ?, losses = 0,"
                " since = NULL, transaction_uid = NULL, committed = 0, aged_from = NULL, let_go = let_go OR ?"
                " WHERE id = ?",
                (State.PENDING, _stamp(now), _stamp(now), batch.code == WITHHELD, batch_id),
            )
            db.execute("UPDATE file SET stored = 0, status = NULL WHERE batch = ?", (batch_id,))
            # Whoever sends again has seen to the peer: its pause is over, too.
            db.execute("UPDATE peer SET next_at = ? WHERE name = ?", (_stamp(now), batch.peer))

    # ---- peers -------------------------------------------------------------------------------------------------------

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

    def hurry(self, now: datetime) -> None:
        """Everything that waits for a pause to end is due now; a commitment that was asked for keeps its time."""
        with self._transaction() as db:
            db.execute("UPDATE peer SET next_at = ?", (_stamp(now),))
            db.execute("UPDATE batch SET next_at = ? WHERE state NOT IN ('DELIVERED', 'DEAD')", (_stamp(now),))

    # ---- SQL ---------------------------------------------------------------------------------------------------------

    @contextmanager
    def _transaction(self) -> Iterator[sqlite3.Connection]:
        with self._lock:
            if self._closed:
                raise OutboxUnavailable("LEDGER_UNAVAILABLE", "closed")
            try:
                with transaction(self._db) as db:
                    yield db
            except sqlite3.Error as cause:
                raise OutboxUnavailable("LEDGER_UNAVAILABLE", type(cause).__name__) from cause

    @staticmethod
    def _change(db: sqlite3.Connection, batch: Batch, new: _Columns) -> bool:
        columns = ", ".join(f"{name} = ?" for name in new)
        done = db.execute(
            f"UPDATE batch SET {columns} WHERE id = ? AND state = ? AND transaction_uid IS ?",  # noqa: S608 - our own names
            (*new.values(), batch.id, batch.state, batch.transaction_uid),
        )
        return done.rowcount == 1

    @staticmethod
    def _load(db: sqlite3.Connection, key: str, value: str) -> Batch | None:
        row = db.execute(f"SELECT {_COLUMNS} FROM batch WHERE {key} = ?", (value,)).fetchone()  # noqa: S608 - our own names
        if row is None:
            return None
        files = db.execute(
            "SELECT uid, digest, path, status, stored, sop_class, study_uid, series_uid FROM file"
            " WHERE batch = ? ORDER BY place",
            (row[0],),
        )
        return Batch(
            id=row[0],
            peer=row[1],
            outputs=tuple(Output(f[0], f[1], Path(f[2]), f[3], bool(f[4]), *f[5:]) for f in files),
            attempts=row[2],
            state=State(row[3]),
            created_at=datetime.fromisoformat(row[4]),
            failures=row[5],
            code=row[6],
            losses=row[7],
            transaction_uid=row[8],
            since=None if row[9] is None else datetime.fromisoformat(row[9]),
            committed=bool(row[10]),
            proof=None if row[11] is None else Proof(row[11]),
            aged_from=None if row[12] is None else datetime.fromisoformat(row[12]),
            let_go=bool(row[13]),
        )


def _stamp(moment: datetime) -> str:
    """Fixed width and zone, so that text sorts as time."""
    return moment.astimezone(UTC).isoformat(timespec="microseconds")
