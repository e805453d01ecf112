"""The port through which the inbox touches the disk; a fake of it fails on demand in tests."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Protocol

from audit import durable

Chunk = bytes | bytearray | memoryview
"""Bytes to write, as they came from the network; never kept, as the buffer is used again."""


class Disk(Protocol):
    """The writes that the inbox needs; see audit.durable for what each promises. All raise OSError."""

    def make_dirs(self, path: Path) -> None:
        """Durable `mkdir -p`."""

    def create(self, path: str) -> int:
        """Open a new temporary file, readable by us alone, for writing and reading; the caller closes it."""

    def write(self, handle: int, *chunks: Chunk) -> None:
        """Write all of the chunks at the end, at most 1024 at once; no promise of durability."""

    def hasten(self, handle: int, start: int, length: int) -> None:
        """Begin to write these bytes to the disk; a hint, never raises."""

    def adopt(self, temporary: str | Path, final: str | Path, handle: int | None = None) -> bool:
        """Give it its name for good. ContentDiffers when the name holds other bytes."""

    def create_same(self, path: Path, data: bytes) -> bool:
        """Create durably, or find the same bytes there. ContentDiffers otherwise."""

    def replace(self, path: Path, data: bytes) -> None:
        """Put the bytes under the name, atomically and durably."""

    def remove(self, path: Path) -> None:
        """Take the name away, durably."""

    def free_bytes(self, path: Path) -> int:
        """Return what an unprivileged writer may still use of the file system, in bytes."""


class DurableDisk:
    """The real disk."""

    def make_dirs(self, path: Path) -> None:
        """See Disk."""
        durable.make_dirs(path)

    def create(self, path: str) -> int:
        """See Disk."""
        return os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)

    def write(self, handle: int, *chunks: Chunk) -> None:
        """See Disk."""
        written = os.writev(handle, chunks)
        if written < sum(map(len, chunks)):
            # The disk is nearly full, most likely; the next write says why.
            rest = memoryview(b"".join(chunks))[written:]
            while rest:
                rest = rest[os.write(handle, rest) :]

    def hasten(self, handle: int, start: int, length: int) -> None:
        """See Disk."""
        durable.hasten(handle, start, length)

    def adopt(self, temporary: str | Path, final: str | Path, handle: int | None = None) -> bool:
        """See Disk."""
        return durable.adopt(temporary, final, handle)

    def create_same(self, path: Path, data: bytes) -> bool:
        """See Disk."""
        return durable.create_same(path, data)

    def replace(self, path: Path, data: bytes) -> None:
        """See Disk."""
        durable.replace(path, data)

    def remove(self, path: Path) -> None:
        """See Disk."""
        durable.remove(path)

    def free_bytes(self, path: Path) -> int:
        """See Disk."""
        stat = os.statvfs(path)
        return stat.f_bavail * stat.f_frsize
