"""The outbox's SQLite file: its tables, and how a file of an older version becomes one of this."""

from __future__ import annotations

import sqlite3
from pathlib import Path
from typing import Final

from dicom_bridge.transaction import transaction

BUSY_TIMEOUT_S: Final = 30.0
"""Another process (the CLI) may hold the ledger for a moment."""
VERSION: Final = 3
"""Of the tables, in `PRAGMA user_version`. Those of version 1 had none: 0 is a new file, or one of version 1."""

_TABLES: Final = (
    """CREATE TABLE peer (
    name TEXT PRIMARY KEY, failures INTEGER NOT NULL DEFAULT 0, next_at TEXT NOT NULL
) STRICT""",
    """CREATE TABLE batch (
    id TEXT PRIMARY KEY, peer TEXT NOT NULL REFERENCES peer(name), state TEXT NOT NULL,
    created_at TEXT NOT NULL, next_at TEXT NOT NULL, attempts INTEGER NOT NULL DEFAULT 0,
    failures INTEGER NOT NULL DEFAULT 0, code TEXT,
    losses INTEGER NOT NULL DEFAULT 0, transaction_uid TEXT, since TEXT,
    committed INTEGER NOT NULL DEFAULT 0, proof TEXT, aged_from TEXT, let_go INTEGER NOT NULL DEFAULT 0
) STRICT""",
    """CREATE TABLE file (
    batch TEXT NOT NULL REFERENCES batch(id), place INTEGER NOT NULL, path TEXT NOT NULL, digest TEXT NOT NULL,
    uid TEXT NOT NULL, status INTEGER, stored INTEGER NOT NULL DEFAULT 0,
    sop_class TEXT NOT NULL DEFAULT '', study_uid TEXT NOT NULL DEFAULT '', series_uid TEXT NOT NULL DEFAULT '',
    PRIMARY KEY (batch, place)
) STRICT""",
    "CREATE INDEX batch_due ON batch(peer, state, next_at)",
    "CREATE UNIQUE INDEX batch_transaction ON batch(transaction_uid) WHERE transaction_uid IS NOT NULL",
)

# Version 1 kept the peers' addresses, told the caller on the peer's word alone, and never asked where a file belongs.
_FROM_1: Final = (
    "ALTER TABLE peer DROP COLUMN ae_title",
    "ALTER TABLE peer DROP COLUMN host",
    "ALTER TABLE peer DROP COLUMN port",
    "ALTER TABLE batch ADD COLUMN losses INTEGER NOT NULL DEFAULT 0",
    "ALTER TABLE batch ADD COLUMN transaction_uid TEXT",
    "ALTER TABLE batch ADD COLUMN since TEXT",
    "ALTER TABLE batch ADD COLUMN committed INTEGER NOT NULL DEFAULT 0",
    "ALTER TABLE batch ADD COLUMN proof TEXT",
    "ALTER TABLE file ADD COLUMN sop_class TEXT NOT NULL DEFAULT ''",
    "ALTER TABLE file ADD COLUMN study_uid TEXT NOT NULL DEFAULT ''",
    "ALTER TABLE file ADD COLUMN series_uid TEXT NOT NULL DEFAULT ''",
    "UPDATE batch SET proof = 'ANSWERED' WHERE state IN ('SENT', 'DELIVERED')",
    "CREATE UNIQUE INDEX batch_transaction ON batch(transaction_uid) WHERE transaction_uid IS NOT NULL",
)

# Version 2 knew no stop: nothing was ever held back, nor let go by a person.
_FROM_2: Final = (
    "ALTER TABLE batch ADD COLUMN aged_from TEXT",
    "ALTER TABLE batch ADD COLUMN let_go INTEGER NOT NULL DEFAULT 0",
)


def open_ledger(path: Path) -> sqlite3.Connection:
    """Open the file, made or brought to this version. Raises sqlite3.Error, also for a file of a later version."""
    db = sqlite3.connect(path, timeout=BUSY_TIMEOUT_S, isolation_level=None, check_same_thread=False)
    try:
        db.execute("PRAGMA journal_mode=WAL")
        db.execute("PRAGMA synchronous=FULL")
        db.execute("PRAGMA foreign_keys=ON")
        # One transaction: killed at any point, the file is of the old version or of the new one.
        with transaction(db):
            _bring_up(db)
    except sqlite3.Error:
        db.close()
        raise
    return db


def _bring_up(db: sqlite3.Connection) -> None:
    (version,) = db.execute("PRAGMA user_version").fetchone()
    if version == VERSION:
        return
    if version > VERSION:
        raise sqlite3.DatabaseError("the ledger is of a later version")
    old = db.execute("SELECT 1 FROM sqlite_master WHERE type = 'table' AND name = 'batch'").fetchone()
    first = version == 0 and old is not None
    for statement in (*(_FROM_1 if first else ()), *_FROM_2) if old else _TABLES:
        db.execute(statement)
    if first:
        _fill_heads(db)
    db.execute(f"PRAGMA user_version = {VERSION}")


def _fill_heads(db: sqlite3.Connection) -> None:
    """Read from the files themselves what version 1 did not keep; of those gone by now nothing is asked any more."""
    from dicom_bridge.parcel import head_of  # deferred: only an old ledger needs to read DICOM

    unsent = "SELECT file.rowid, path FROM file JOIN batch ON batch.id = file.batch WHERE state IN ('PENDING', 'DEAD')"
    for row, path in db.execute(unsent).fetchall():
        head = head_of(Path(path))
        if head is not None:
            known = (head.sop_class, head.study_uid, head.series_uid, row)
            db.execute("UPDATE file SET sop_class = ?, study_uid = ?, series_uid = ? WHERE rowid = ?", known)
