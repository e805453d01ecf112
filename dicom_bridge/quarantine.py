"""What cannot be used is kept: bytes and a record beside them, for a person to look at."""

from __future__ import annotations

import hashlib
import json
import threading
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
        digest = hashlib.sha256(data).hexdigest()
        name = hashlib.sha256(f"{code}\n{digest}".encode()).hexdigest()[:32]
        copy, record = self._root / f"{name}.bin", self._root / f"{name}.json"
        entry = Quarantined(name, code, sender, at, f"sha256:{digest}", copy)
        # One at a time: quarantine is rare, and the limit must hold for a crowd of bad senders too.
        with self._lock:
            if record.exists():
                return self._read(record)
            if self._used + len(data) > self._bytes_max:
                return None
            # A crash between the two leaves a copy without a record: its next arrival writes the record.
            if self._disk.create_same(copy, data):
                self._used += len(data)
            body = {"code": code, "sender": sender, "at": at.isoformat(), "digest": entry.digest}
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
