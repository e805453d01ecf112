"""The durable queue of syslog frames: one SQLite file, first in, first out, bounded in bytes.

`add` takes frames and moves a named mark in one transaction: a reader of the log that keeps its place in such a mark
hands each entry over exactly once, whatever is killed. A crash after any commit leaves the queue as that commit said.
"""

from __future__ import annotations

import sqlite3
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from audit import durable
from dicom_bridge.transaction import transaction
from service.errors import ServiceError

BYTES_MAX: Final = 64 * 1024**2
"""Of frames that wait: at 3 KiB each, some 20,000 events, which a hospital's AI makes in days."""
BUSY_TIMEOUT_S: Final = 5.0

_TABLES: Final = (
    "CREATE TABLE IF NOT EXISTS frame (number INTEGER PRIMARY KEY AUTOINCREMENT, content BLOB NOT NULL) STRICT",
    "CREATE TABLE IF NOT EXISTS mark (name TEXT PRIMARY KEY, value TEXT NOT NULL) STRICT",
)


class SpoolUnavailable(ServiceError, OSError):
    """The queue's file cannot be opened, read or written now: disk full, damaged, locked. Try again later."""

    code = "SYSLOG_SPOOL_UNAVAILABLE"


class Spool:
    """Frames that wait. Threads share it; one process at a time. Methods raise SpoolUnavailable."""

    def __init__(self, file: Path, *, bytes_max: int = BYTES_MAX) -> None:
        self._bytes_max = bytes_max
        self._lock = threading.Lock()
        try:
            durable.make_dirs(file.parent)
            self._db = sqlite3.connect(file, timeout=BUSY_TIMEOUT_S, isolation_level=None, check_same_thread=False)
            self._db.execute("PRAGMA journal_mode=WAL")
            self._db.execute("PRAGMA synchronous=FULL")
            for table in _TABLES:
                self._db.execute(table)
            row = self._db.execute("SELECT COUNT(*), COALESCE(SUM(LENGTH(content)), 0) FROM frame").fetchone()
        except (sqlite3.Error, OSError) as error:
            raise _unavailable(error) from error
        self._count, self._bytes = int(row[0]), int(row[1])

    @property
    def waiting(self) -> int:
        """Frames."""
        return self._count

    @property
    def waiting_bytes(self) -> int:
        """Of these frames."""
        return self._bytes

    def add(self, frames: Sequence[bytes], mark: tuple[str, str] | None = None) -> bool:
        """Keep all of the frames and move the mark, durably; or False, when they do not fit, and nothing changed."""
        size = sum(map(len, frames))
        with self._lock:
            if frames and self._bytes + size > self._bytes_max:
                return False
            try:
                with transaction(self._db) as db:
                    db.executemany("INSERT INTO frame (content) VALUES (?)", [(frame,) for frame in frames])
                    if mark is not None:
                        db.execute("INSERT OR REPLACE INTO mark VALUES (?, ?)", mark)
            except sqlite3.Error as error:
                raise _unavailable(error) from error
            self._count += len(frames)
            self._bytes += size
        return True

    def mark(self, name: str) -> str | None:
        """What `add` last said under this name."""
        with self._lock:
            try:
                row = self._db.execute("SELECT value FROM mark WHERE name = ?", (name,)).fetchone()
            except sqlite3.Error as error:
                raise _unavailable(error) from error
        return None if row is None else str(row[0])

    def after(self, number: int, most: int) -> list[tuple[int, bytes]]:
        """The oldest frames behind `number`, each with its own number, which only grow."""
        wanted = "SELECT number, content FROM frame WHERE number > ? ORDER BY number LIMIT ?"
        with self._lock:
            try:
                return [(int(n), bytes(content)) for n, content in self._db.execute(wanted, (number, most))]
            except sqlite3.Error as error:
                raise _unavailable(error) from error

    def drop(self, number: int) -> None:
        """Forget the frames up to and with this number."""
        with self._lock:
            try:
                with transaction(self._db) as db:
                    gone = db.execute(
                        "SELECT COUNT(*), COALESCE(SUM(LENGTH(content)), 0) FROM frame WHERE number <= ?", (number,)
                    ).fetchone()
                    db.execute("DELETE FROM frame WHERE number <= ?", (number,))
            except sqlite3.Error as error:
                raise _unavailable(error) from error
            self._count -= int(gone[0])
            self._bytes -= int(gone[1])

    def close(self) -> None:
        """Let go of the file."""
        with self._lock:
            self._db.close()


def _unavailable(error: Exception) -> SpoolUnavailable:
    # Not str(error): it can hold the path.
    return SpoolUnavailable(f"the spool of audit messages cannot be used ({type(error).__name__})")
