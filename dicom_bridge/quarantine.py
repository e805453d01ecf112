"""What cannot be used is kept: bytes and a record beside them, for a person to look at."""

from __future__ import annotations

import hashlib
import json
import os
import threading
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Final, Protocol

CONFLICT: Final = "CONFLICT"
"""Code of a newcomer whose SOP Instance UID is held already with other content."""


class Writes(Protocol):
    """The durable writes that quarantine needs; see audit.durable for their promises."""

    def create_same(self, path: Path, data: bytes) -> bool:
        """Create, or find the same bytes. Raises OSError, ContentDiffers."""

    def adopt(self, temporary: str | Path, final: str | Path) -> bool:
        """Give a file its name for good, and take its old one away; False if the name held the same bytes already."""

    def remove(self, path: Path) -> None:
        """Take the name away, durably."""


@dataclass(frozen=True, slots=True)
class Quarantined:
    """One record. `id` names the copy in the quarantine folder; `digest` is of its bytes; `code` says why."""

    id: str
    code: str
    sender: str
    at: datetime
    digest: str
    path: Path


class Quarantine:
    """A folder of pairs `<id>.bin` and `<id>.json`. The same bytes for the same reason are kept once.

    The id is a digest, so that no byte of the content becomes part of a path.
    """

    def __init__(self, root: Path, disk: Writes, bytes_max: int) -> None:
        self._root = root
        self._disk = disk
        self._bytes_max = bytes_max
        self._lock = threading.Lock()
        self._used = sum(path.stat().st_size for path in root.glob("*.bin"))

    def keep(self, data: bytes, code: str, sender: str, at: datetime) -> Quarantined | None:
        """Keep a copy, durably. None when the folder holds as much as it may. Raises OSError."""
        entry = self._entry(hashlib.sha256(data).hexdigest(), code, sender, at)
        return self._record(entry, len(data), lambda: self._disk.create_same(entry.path, data))

    def keep_file(self, file: Path, code: str, sender: str, at: datetime) -> Quarantined | None:
        """Keep a file of any size: it moves here, durably. None, and it stays, when the folder holds as much as it may.

        The file must lie in the same file system. Raises OSError.
        """
        with file.open("rb") as opened:
            digest, size = hashlib.file_digest(opened, "sha256").hexdigest(), os.fstat(opened.fileno()).st_size
        entry = self._entry(digest, code, sender, at)
        kept = self._record(entry, size, lambda: self._disk.adopt(file, entry.path))
        if kept is not None:
            self._disk.remove(file)
        return kept

    def _entry(self, digest: str, code: str, sender: str, at: datetime) -> Quarantined:
        name = hashlib.sha256(f"{code}\n{digest}".encode()).hexdigest()[:32]
        return Quarantined(name, code, sender, at, f"sha256:{digest}", self._root / f"{name}.bin")

    def _record(self, entry: Quarantined, size: int, copy: Callable[[], bool]) -> Quarantined | None:
        record = self._root / f"{entry.id}.json"
        # One at a time: quarantine is rare, and the limit must hold for a crowd of bad senders too.
        with self._lock:
            if record.exists():
                return self._read(record)
            if self._used + size > self._bytes_max:
                return None
            # A crash between the two leaves a copy without a record: its next arrival writes the record.
            if copy():
                self._used += size
            body = {"code": entry.code, "sender": entry.sender, "at": entry.at.isoformat(), "digest": entry.digest}
            self._disk.create_same(record, json.dumps(body, sort_keys=True).encode())
        return entry

    def list(self, code: str | None = None) -> tuple[Quarantined, ...]:
        """Return the records, oldest first; only those with `code` if it is given."""
        entries = [self._read(record) for record in self._root.glob("*.json")]
        return tuple(sorted((e for e in entries if code in (None, e.code)), key=lambda e: (e.at, e.id)))

    def _read(self, record: Path) -> Quarantined:
        body = json.loads(record.read_bytes())
        return Quarantined(
            id=record.stem,
            code=str(body["code"]),
            sender=str(body["sender"]),
            at=datetime.fromisoformat(str(body["at"])),
            digest=str(body["digest"]),
            path=record.with_suffix(".bin"),
        )
