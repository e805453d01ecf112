"""The inbox's index: which instances are held, by study, in one SQLite file. A cache; the files are the truth.

Rows are gathered for some moments and written together, without a sync of their own (WAL, synchronous=NORMAL): a
crash may take the last of them, and `Inbox` finds what is missing when it opens.
"""

from __future__ import annotations

import sqlite3
import threading
from collections.abc import Iterable, Iterator
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass, fields
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

from dicom_bridge.last_read import LastRead
from dicom_bridge.transaction import transaction

# A different number makes an old index one that is rebuilt from the files.
SCHEMA_VERSION: Final = 3
FLUSH_S: Final = 0.1
"""Seconds for which rows are gathered before they are written: how far another process may lag behind."""
PENDING_MAX: Final = 1000
"""Rows that may wait; more means that the index cannot be written, or that the disk is far behind."""
UNDIGESTED_AT_ONCE: Final = 64
"""Instances whose digests are taken between two looks at what comes in."""
_BUSY_MS: Final = 10_000
"""Milliseconds to wait for another process (the command line) that holds the index."""

_SCHEMA: Final = """
CREATE TABLE instance (
    sop_uid TEXT PRIMARY KEY, series_uid TEXT NOT NULL, study_uid TEXT NOT NULL, sop_class TEXT NOT NULL,
    modality TEXT NOT NULL, digest TEXT NOT NULL, received_at TEXT NOT NULL, sender TEXT NOT NULL,
    body_part TEXT NOT NULL, description TEXT NOT NULL, image_type TEXT NOT NULL, series_number INTEGER,
    identity TEXT NOT NULL, pixels INTEGER NOT NULL, urgent INTEGER NOT NULL, frames INTEGER NOT NULL,
    acquisition_images INTEGER, instance_number INTEGER, acquisition_number INTEGER, temporal_position INTEGER,
    position TEXT NOT NULL, orientation TEXT NOT NULL, image_rows INTEGER, image_columns INTEGER,
    pixel_spacing TEXT NOT NULL, protocol TEXT NOT NULL, contrast TEXT NOT NULL, station TEXT NOT NULL,
    manufacturer TEXT NOT NULL, study_description TEXT NOT NULL
) WITHOUT ROWID;
CREATE INDEX instance_study ON instance (study_uid);
CREATE INDEX instance_undigested ON instance (study_uid) WHERE digest = '';
CREATE TABLE study (
    study_uid TEXT PRIMARY KEY, touches INTEGER NOT NULL, last_received_at TEXT NOT NULL,
    assembled_touches INTEGER NOT NULL, assembled_digest TEXT
) WITHOUT ROWID;
CREATE INDEX study_open ON study (last_received_at, study_uid) WHERE touches > assembled_touches;
"""


@dataclass(frozen=True, slots=True)
class Instance:
    """One held instance. `path` is its Part 10 file.

    `digest` covers its transfer syntax and data set; "" until it was taken, see `digests`.

    `body_part`, `description` (series) and `modality` are "" when the sender gave none; `image_type` likewise ().
    `identity` is a digest of the patient's identifiers, equal for instances of one patient. `pixels` tells whether
    there is a Pixel Data element. `urgent`: by Requested Procedure Priority (0040,1003), or by the Priority of the
    C-STORE request that brought it. `position` (3 values, mm), `orientation` (6) and `pixel_spacing` (2, row then
    column, mm) are as received, () when absent or unreadable; `contrast` names the agent (0018,0010), "" for none.
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
    urgent: bool = False
    frames: int = 1
    acquisition_images: int | None = None
    instance_number: int | None = None
    acquisition_number: int | None = None
    temporal_position: int | None = None
    position: tuple[float, ...] = ()
    orientation: tuple[float, ...] = ()
    rows: int | None = None
    columns: int | None = None
    pixel_spacing: tuple[float, ...] = ()
    protocol: str = ""
    contrast: str = ""
    station: str = ""
    manufacturer: str = ""
    study_description: str = ""


# A column for each field; the path follows from the UIDs.
_TOUCH: Final = (
    "INSERT INTO study (touches, last_received_at, study_uid, assembled_touches) VALUES (?2, ?3, ?1, 0) "
    "ON CONFLICT (study_uid) DO UPDATE SET touches = touches + excluded.touches, "
    "last_received_at = max(last_received_at, excluded.last_received_at)"
)
_MARK: Final = "UPDATE study SET touches=max(touches, ?), assembled_touches=?, assembled_digest=? WHERE study_uid=?"
_MARKS: Final = ",".join("?" * (len(fields(Instance)) - 1))
_INSERT: Final = f"INSERT OR IGNORE INTO instance VALUES ({_MARKS})"  # noqa: S608 - only question marks


@dataclass(frozen=True, slots=True)
class StudyRow:
    """What the index knows of a study. `touches` counts stores, `assembled_touches` those that a run has seen."""

    study_uid: str
    touches: int
    last_received_at: datetime
    assembled_touches: int
    assembled_digest: str | None


class SpoolIndex:
    """One connection, shared by the threads of this process. Raises sqlite3.Error as SQLite gives it.

    What is added is written together with what comes in the next moments, or before the next question: whoever asks
    in this process sees it at once, another process soon. A process that is killed loses those moments' rows, as a
    power cut would; their files are found at the next start.
    """

    def __init__(self, file: Path, studies: Path) -> None:
        self._studies = studies
        self._lock = threading.RLock()
        self.writes = 0
        """How often rows were written: what was pending before is in the file."""
        self._pending: dict[str, Instance] = {}
        self._touches: dict[str, tuple[int, str]] = {}
        self._dirty, self._closed = threading.Event(), threading.Event()
        self._writer: threading.Thread | None = None
        self._db = sqlite3.connect(file, timeout=_BUSY_MS / 1000, isolation_level=None, check_same_thread=False)
        try:
            self._db.execute("PRAGMA journal_mode=WAL")
            self._db.execute("PRAGMA synchronous=NORMAL")
            if self._db.execute("PRAGMA quick_check(1)").fetchone() != ("ok",):
                raise sqlite3.DatabaseError("the index is damaged")
            self._prepare()
            self._last_read: LastRead[Instance] = LastRead(self._db)
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
        with self._lock, transaction(self._db):
            yield

    def flush(self) -> None:
        """Write what is pending; it stays pending when this fails."""
        with self._lock:
            if not self._touches:
                return
            with self.transaction():
                self._db.executemany(_INSERT, map(_row, self._pending.values()))
                self._db.executemany(_TOUCH, [(study, *touched) for study, touched in self._touches.items()])
            self.writes += 1
            self._pending.clear()
            self._touches.clear()

    def keep_up(self) -> None:
        """Write now if more is pending than should be: before anything more is acknowledged."""
        if len(self._pending) >= PENDING_MAX:
            self.flush()

    def close(self) -> None:
        """Write what is pending and close the file; further calls raise sqlite3.ProgrammingError."""
        self._closed.set()
        self._dirty.set()
        if self._writer is not None:
            self._writer.join()
        # What cannot be written now is found from its files at the next start.
        with self._lock, closing(self._db), suppress(sqlite3.Error):
            self.flush()

    def _write_soon(self) -> None:
        while not self._closed.is_set():
            self._dirty.wait()
            self._closed.wait(FLUSH_S)
            self._dirty.clear()
            try:
                self.flush()
            except sqlite3.Error:
                # It stays pending; `keep_up` tells whoever wants to add more.
                self._closed.wait(FLUSH_S)
                self._dirty.set()

    def instance(self, sop_uid: str) -> Instance | None:
        """Return the held instance of this SOP Instance UID."""
        with self._lock:
            pending = self._pending.get(sop_uid)
            if pending is not None:
                return pending
            row = self._db.execute("SELECT * FROM instance WHERE sop_uid=?", (sop_uid,)).fetchone()
        return None if row is None else self._instance(row)

    def instances(self, study_uid: str) -> tuple[Instance, ...]:
        """Return the study's instances, ordered by SOP Instance UID."""
        query = "SELECT * FROM instance WHERE study_uid=? ORDER BY sop_uid"
        with self._lock:
            self.flush()
            at = self._last_read.state()
            known = self._last_read.get(at, study_uid)
            rows = self._db.execute(query, (study_uid,)).fetchall() if known is None else []
        if known is not None:
            return known
        # Without the lock: nobody who receives waits until a large study's rows are made.
        found = tuple(self._instance(row) for row in rows)
        with self._lock:
            self._last_read.keep(at, study_uid, found)
        return found

    def names(self) -> Iterator[tuple[str, str]]:
        """Return (study UID, SOP Instance UID) of everything held."""
        with self._lock:
            self.flush()
            return iter(self._db.execute("SELECT study_uid, sop_uid FROM instance").fetchall())

    def add(self, new: Instance, absent_at: int | None = None) -> bool:
        """Add an instance and touch its study; False, and nothing done, if its SOP Instance UID is there already.

        `absent_at`: the `writes` at which `instance` has found that it is not; spares the look where none was since.
        """
        with self._lock:
            absent = absent_at == self.writes and new.sop_uid not in self._pending
            if not absent and self.instance(new.sop_uid) is not None:
                return False
            self._pending[new.sop_uid] = new
            self._touch(new.study_uid, new.received_at)
        return True

    def undigested(self, study_uid: str | None = None) -> tuple[Instance, ...]:
        """Return some instances, of this study or of any, whose digest was not taken yet; () when there are none."""
        query = "SELECT * FROM instance WHERE digest = '' AND (?1 IS NULL OR study_uid = ?1) LIMIT ?2"
        with self._lock:
            self.flush()
            rows = self._db.execute(query, (study_uid, UNDIGESTED_AT_ONCE)).fetchall()
        return tuple(self._instance(row) for row in rows)

    def set_digests(self, taken: Iterable[tuple[Instance, str]]) -> None:
        """Write the digests of instances; one that was forgotten or has come anew meanwhile is left alone."""
        rows = [(digest, one.sop_uid, _time(one.received_at)) for one, digest in taken]
        with self.transaction():
            self._db.executemany("UPDATE instance SET digest=? WHERE sop_uid=? AND received_at=?", rows)

    def touch(self, held: Instance, at: datetime, *, urgent: bool = False) -> None:
        """Count one more store of something already held; an urgent one makes what is held urgent."""
        with self._lock:
            if urgent:
                self.flush()
                with self.transaction():
                    self._db.execute("UPDATE instance SET urgent=1 WHERE sop_uid=?", (held.sop_uid,))
            self._touch(held.study_uid, at)

    def _touch(self, study_uid: str, at: datetime) -> None:
        count, last = self._touches.get(study_uid, (0, ""))
        self._touches[study_uid] = count + 1, max(last, _time(at))
        if self._writer is None:
            self._writer = threading.Thread(target=self._write_soon, name="spool-index", daemon=True)
            self._writer.start()
        if not self._dirty.is_set():
            self._dirty.set()

    def forget(self, sop_uid: str) -> None:
        """Drop an instance whose file is gone."""
        with self._lock:
            self.flush()
            with self.transaction():
                self._db.execute("DELETE FROM instance WHERE sop_uid=?", (sop_uid,))

    def study(self, study_uid: str) -> StudyRow | None:
        """Return what is known of one study."""
        with self._lock:
            self.flush()
            row = self._db.execute("SELECT * FROM study WHERE study_uid=?", (study_uid,)).fetchone()
        return None if row is None else _study(row)

    def open_studies(self) -> tuple[StudyRow, ...]:
        """Return the studies that were touched since they were last assembled, the longest waiting first."""
        query = "SELECT * FROM study WHERE touches > assembled_touches ORDER BY last_received_at, study_uid"
        with self._lock:
            self.flush()
            return tuple(_study(row) for row in self._db.execute(query).fetchall())

    def held_studies(self) -> tuple[StudyRow, ...]:
        """Return the studies that have instances, the longest quiet first."""
        query = (
            "SELECT * FROM study WHERE EXISTS (SELECT 1 FROM instance WHERE instance.study_uid = study.study_uid)"
            " ORDER BY last_received_at, study_uid"
        )
        with self._lock:
            self.flush()
            return tuple(_study(row) for row in self._db.execute(query).fetchall())

    def set_marks(self, study_uid: str, *, touches: int, assembled_touches: int, assembled_digest: str) -> None:
        """Write what a run has seen; `touches` never falls."""
        with self._lock:
            self.flush()
            with self.transaction():
                self._db.execute(_MARK, (touches, assembled_touches, assembled_digest, study_uid))

    def _instance(self, row: tuple[object, ...]) -> Instance:
        sop, series, study, sop_class, modality, digest, received, sender, body, text, kind, *more = row
        number, who, pixels, urgent, frames, in_acquisition, instance, acquisition, temporal, *more = more
        position, orientation, rows, columns, spacing, protocol, contrast, station, manufacturer, described = more
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
            series_number=_whole(number),
            identity=str(who),
            pixels=bool(pixels),
            urgent=bool(urgent),
            frames=_whole(frames) or 1,
            acquisition_images=_whole(in_acquisition),
            instance_number=_whole(instance),
            acquisition_number=_whole(acquisition),
            temporal_position=_whole(temporal),
            position=_floats(position),
            orientation=_floats(orientation),
            rows=_whole(rows),
            columns=_whole(columns),
            pixel_spacing=_floats(spacing),
            protocol=str(protocol),
            contrast=str(contrast),
            station=str(station),
            manufacturer=str(manufacturer),
            study_description=str(described),
        )


def instance_path(studies: Path, study_uid: str, sop_uid: str) -> Path:
    """Return where an instance lies. Both UIDs must have passed `uids.storable`."""
    return studies / study_uid / f"{sop_uid}.dcm"


def _time(at: datetime) -> str:
    # One fixed width, so that the text sorts as the time does.
    return at.astimezone(UTC).isoformat(timespec="microseconds")


def _row(new: Instance) -> tuple[object, ...]:
    return (
        *(new.sop_uid, new.series_uid, new.study_uid, new.sop_class, new.modality, new.digest),
        *(_time(new.received_at), new.sender, new.body_part, new.description, "\\".join(new.image_type)),
        *(new.series_number, new.identity, int(new.pixels), int(new.urgent), new.frames),
        *(new.acquisition_images, new.instance_number, new.acquisition_number, new.temporal_position),
        *(_numbers(new.position), _numbers(new.orientation), new.rows, new.columns, _numbers(new.pixel_spacing)),
        *(new.protocol, new.contrast, new.station, new.manufacturer, new.study_description),
    )


def _numbers(values: tuple[float, ...]) -> str:
    # repr of a float gives the same float back.
    return "\\".join(map(repr, values))


def _floats(text: object) -> tuple[float, ...]:
    return tuple(map(float, str(text).split("\\"))) if text else ()


def _whole(value: object) -> int | None:
    return value if isinstance(value, int) else None


def _study(row: tuple[object, ...]) -> StudyRow:
    study, touches, last, seen, digest = row
    return StudyRow(
        study_uid=str(study),
        touches=int(str(touches)),
        last_received_at=datetime.fromisoformat(str(last)),
        assembled_touches=int(str(seen)),
        assembled_digest=None if digest is None else str(digest),
    )
