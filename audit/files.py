"""The log's directory, read: what comes out of here is well formed, or AuditCorrupt names the file.

Well formed is not yet proven: the log compares hashes with what was signed.
"""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path

from audit import layout
from audit.checkpoint import Checkpoint
from audit.durable import Disk
from audit.entry import Entry, parse
from audit.errors import AuditCorrupt, ContentDiffers, EntryInvalid, NoteError
from audit.layout import STAGING, StagedName, TileName
from audit.merkle import HASH_BYTES
from audit.note import Verifier


class Files:
    """The files of one log. Paths are relative to its root. OSError passes through."""

    def __init__(self, root: Path, origin: str, verifier: Verifier, disk: Disk) -> None:
        self._root = root
        self._origin = origin
        self._verifier = verifier
        self._disk = disk

    def read(self, path: str) -> bytes:
        """A file that must be there."""
        try:
            return (self._root / path).read_bytes()
        except FileNotFoundError:
            raise AuditCorrupt(path, "missing") from None

    def bundle(self, name: TileName) -> tuple[bytes, ...]:
        """The entries of a bundle, as many as its name says."""
        leaves = self.unpacked(name.path, self._read_tile(name))[: name.width]
        if len(leaves) != name.width:
            raise AuditCorrupt(name.path, "lacks entries")
        return leaves

    def hashes(self, name: TileName) -> tuple[bytes, ...]:
        """The hashes of a tile, as many as its name says."""
        data = self._read_tile(name)
        if len(data) % HASH_BYTES or len(data) < name.width * HASH_BYTES:
            raise AuditCorrupt(name.path, "cut short")
        return tuple(data[at : at + HASH_BYTES] for at in range(0, name.width * HASH_BYTES, HASH_BYTES))

    def unpacked(self, path: str, data: bytes) -> tuple[bytes, ...]:
        """The entries of a bundle or staged file."""
        try:
            return layout.unpack(data)
        except EntryInvalid:
            raise AuditCorrupt(path, "cut short") from None

    def checkpoint(self, path: str) -> Checkpoint | None:
        """A tree head of this log, signed by its key; None if the file is not there."""
        try:
            note = (self._root / path).read_bytes().decode()
            checkpoint = Checkpoint.open(note, (self._verifier,))
        except FileNotFoundError:
            return None
        except UnicodeDecodeError:
            raise AuditCorrupt(path, "not text") from None
        except NoteError as error:
            raise AuditCorrupt(path, f"{error.code}: {error}") from None
        if checkpoint.origin != self._origin:
            raise AuditCorrupt(path, "is of another log")
        return checkpoint

    def staged(self) -> list[StagedName]:
        """Commits under way, or left by a crash."""
        found = []
        # A copy may have been made by something that leaves out empty folders.
        with suppress(FileNotFoundError):
            found = [layout.parse_staged(path.name) for path in (self._root / STAGING).iterdir()]
        return [name for name in found if name is not None]

    def create_same(self, path: str, data: bytes) -> None:
        """Write what may be written once; other bytes under that name are corruption, not a fault of the disk."""
        try:
            self._disk.create_same(self._root / path, data)
        except ContentDiffers:
            raise AuditCorrupt(path, "holds other bytes than the signed entries make") from None

    def entry(self, index: int, leaf: bytes) -> Entry:
        """A leaf as the entry that it must be."""
        try:
            return parse(index, leaf)
        except EntryInvalid as error:
            raise AuditCorrupt(f"entry {index}", str(error)) from None

    def _read_tile(self, name: TileName) -> bytes:
        """A partial tile may have gone when the full one came, which begins with the same."""
        if name != name.full:
            with suppress(FileNotFoundError):
                return (self._root / name.path).read_bytes()
        return self.read(name.full.path)
