"""The inbox's index: which instances are held, by study, in one SQLite file. A cache; the files are the truth.

Commits are not synced one by one (WAL, synchronous=NORMAL): a power cut may take the last of them, and `Inbox` finds
what is missing when it opens. A process that is killed loses nothing.
"""

from __future__ import annotations

import sqlite3
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

# A different number makes an old index one that is rebuilt from the files.
SCHEMA_VERSION: Final = 1
_BUSY_MS: Final = 10_000
"""Milliseconds to wait for another process (the command line) that holds the index."""

_SCHEMA: Final = """
CREATE TABLE instance (
    sop_uid TEXT PRIMARY KEY, series_uid TEXT NOT NULL, study_uid TEXT NOT NULL, sop_class TEXT NOT NULL,
    modality TEXT NOT NULL, digest TEXT NOT NULL, received_at TEXT NOT NULL, sender TEXT NOT NULL,
    body_part TEXT NOT NULL, description TEXT NOT NULL, image_type TEXT NOT NULL, series_number INTEGER,
    identity TEXT NOT NULL, pixels INTEGER NOT NULL
) WITHOUT ROWID;
CREATE INDEX instance_study ON instance (study_uid);
CREATE TABLE study (
    study_uid TEXT PRIMARY KEY, touches INTEGER NOT NULL, last_received_at TEXT NOT NULL,
    assembled_touches INTEGER NOT NULL, assembled_digest TEXT
) WITHOUT ROWID;
"""


@dataclass(frozen=True, slots=True)
class Instance:
    """One held instance. `path` is its Part 10 file; `digest` covers its transfer syntax and data set.

    `body_part`, `description` (series) and `modality` are "" when the sender gave none; `image_type` likewise ().
    `identity` is a digest of the patient's identifiers, equal for instances of one patient. `pixels` tells whether
    there is a Pixel Data element.
    """

    sop_uid: str
    series_uid: str
    study_uid: str
    sop_class: str
    modality: str
    path: Path
    digest: str
    received_at: datetime
    sender: str
    body_part: str
    description: str
    image_type: tuple[str, ...]
    series_number: int | None
    identity: str
    pixels: bool


@dataclass(frozen=True, slots=True)
class StudyRow:
    """What the index knows of a study. `touches` counts stores, `assembled_touches` those that a run has seen."""

    study_uid: str
    touches: int
    last_received_at: datetime
    assembled_touches: int
    assembled_digest: str | None


class SpoolIndex:
    """One connection, shared by the threads of this process. Raises sqlite3.Error as SQLite gives it."""

    def __init__(self, file: Path, studies: Path) -> None:
        self._studies = studies
        self._lock = threading.RLock()
        self._db = sqlite3.connect(file, timeout=_BUSY_MS / 1000, isolation_level=None, check_same_thread=False)
        try:
            self._db.execute("PRAGMA journal_mode=WAL")
            self._db.execute("PRAGMA synchronous=NORMAL")
            if self._db.execute("PRAGMA quick_check(1)").fetchone() != ("ok",):
                raise sqlite3.DatabaseError("the index is damaged")
            self._prepare()
        except sqlite3.Error:
            self._db.close()
            raise

    def _prepare(self) -> None:
        with self.transaction():
            (version,) = self._db.execute("PRAGMA user_version").fetchone()
            if version == 0:
                for statement in _SCHEMA.split(";"):
                    self._db.execute(statement)
                self._db.execute(f"PRAGMA user_version={SCHEMA_VERSION}")
            elif version != SCHEMA_VERSION:
                raise sqlite3.DatabaseError("the index is of another version")

    @contextmanager
    def transaction(self) -> Iterator[None]:
        """All or nothing, and alone: the write lock is taken at once, so what is read inside stays true."""
        with self._lock:
            self._db.execute("BEGIN IMMEDIATE")
            try:
                yield
            except BaseException:
                self._db.execute("ROLLBACK")
                raise
            self._db.execute("COMMIT")

    def close(self) -> None:
        """Close the file; further calls raise sqlite3.ProgrammingError."""
        with self._lock:
            self._db.close()

    def instance(self, sop_uid: str) -> Instance | None:
        """Return the held instance of this SOP Instance UID."""
        with self._lock:
            row = self._db.execute("SELECT * FROM instance WHERE sop_uid=?", (sop_uid,)).fetchone()
        return None if row is None else self._instance(row)

    def instances(self, study_uid: str) -> tuple[Instance, ...]:
        """Return the study's instances, ordered by SOP Instance UID."""
        with self._lock:
            rows = self._db.execute(
                "SELECT * FROM instance WHERE study_uid=? ORDER BY sop_uid", (study_uid,)
            ).fetchall()
        return tuple(self._instance(row) for row in rows)

    def names(self) -> Iterator[tuple[str, str]]:
        """Return (study UID, SOP Instance UID) of everything held."""
        with self._lock:
            return iter(self._db.execute("SELECT study_uid, sop_uid FROM instance").fetchall())

    def add(self, new: Instance) -> bool:
        """Add an instance and touch its study; False, and nothing done, if its SOP Instance UID is there already."""
        values = (
            *(new.sop_uid, new.series_uid, new.study_uid, new.sop_class, new.modality, new.digest),
            *(_time(new.received_at), new.sender, new.body_part, new.description, "\\".join(new.image_type)),
            *(new.series_number, new.identity, int(new.pixels)),
        )
        with self.transaction():
            marks = ",".join("?" * len(values))
            added = self._db.execute(f"INSERT OR IGNORE INTO instance VALUES ({marks})", values).rowcount == 1  # noqa: S608 - only question marks
            if added:
                self._touch(new.study_uid, new.received_at)
        return added

    def touch(self, study_uid: str, at: datetime) -> None:
        """Count one more store of something already held."""
        with self.transaction():
            self._touch(study_uid, at)

    def _touch(self, study_uid: str, at: datetime) -> None:
        self._db.execute(
            "INSERT INTO study VALUES (?, 1, ?, 0, NULL) ON CONFLICT (study_uid) DO UPDATE SET "
            "touches = touches + 1, last_received_at = max(last_received_at, excluded.last_received_at)",
            (study_uid, _time(at)),
        )

    def forget(self, sop_uid: str) -> None:
        """Drop an instance whose file is gone."""
        with self.transaction():
            self._db.execute("DELETE FROM instance WHERE sop_uid=?", (sop_uid,))

    def study(self, study_uid: str) -> StudyRow | None:
        """Return what is known of one study."""
        with self._lock:
            row = self._db.execute("SELECT * FROM study WHERE study_uid=?", (study_uid,)).fetchone()
        return None if row is None else _study(row)

    def open_studies(self) -> tuple[StudyRow, ...]:
        """Return the studies that were touched since they were last assembled, the longest waiting first."""
        query = "SELECT * FROM study WHERE touches > assembled_touches ORDER BY last_received_at, study_uid"
        with self._lock:
            return tuple(_study(row) for row in self._db.execute(query).fetchall())

    def set_marks(self, study_uid: str, *, touches: int, assembled_touches: int, assembled_digest: str) -> None:
        """Write what a run has seen; `touches` never falls."""
        with self.transaction():
            self._db.execute(
                "UPDATE study SET touches=max(touches, ?), assembled_touches=?, assembled_digest=? WHERE study_uid=?",
                (touches, assembled_touches, assembled_digest, study_uid),
            )

    def _instance(self, row: tuple[object, ...]) -> Instance:
        sop, series, study, sop_class, modality, digest, received, sender, body, text, kind, number, who, pixels = row
        return Instance(
            sop_uid=str(sop),
            series_uid=str(series),
            study_uid=str(study),
            sop_class=str(sop_class),
            modality=str(modality),
            path=instance_path(self._studies, str(study), str(sop)),
            digest=str(digest),
            received_at=datetime.fromisoformat(str(received)),
            sender=str(sender),
            body_part=str(body),
            description=str(text),
            image_type=tuple(str(kind).split("\\")) if kind else (),
            series_number=number if isinstance(number, int) else None,
            identity=str(who),
            pixels=bool(pixels),
        )


def instance_path(studies: Path, study_uid: str, sop_uid: str) -> Path:
    """Return where an instance lies. Both UIDs must have passed `uids.storable`."""
    return studies / study_uid / f"{sop_uid}.dcm"


def _time(at: datetime) -> str:
    # One fixed width, so that the text sorts as the time does.
    return at.astimezone(UTC).isoformat(timespec="microseconds")


def _study(row: tuple[object, ...]) -> StudyRow:
    study, touches, last, seen, digest = row
    return StudyRow(
        study_uid=str(study),
        touches=int(str(touches)),
        last_received_at=datetime.fromisoformat(str(last)),
        assembled_touches=int(str(seen)),
        assembled_digest=None if digest is None else str(digest),
    )
