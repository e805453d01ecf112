"""The port through which the inbox touches the disk; a fake of it fails on demand in tests."""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path
from typing import Protocol

from audit import durable


class Disk(Protocol):
    """The writes that the inbox needs; see audit.durable for what each promises. All raise OSError."""

    def make_dirs(self, path: Path) -> None:
        """Durable `mkdir -p`."""

    def write(self, path: Path, chunks: Iterable[bytes]) -> None:
        """Write a new temporary file, readable by us alone; no promise of durability."""

    def adopt(self, temporary: Path, final: Path) -> bool:
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

    def write(self, path: Path, chunks: Iterable[bytes]) -> None:
        """See Disk."""
        handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        with os.fdopen(handle, "wb", buffering=0) as file:
            for chunk in chunks:
                rest = memoryview(chunk)
                while rest:
                    rest = rest[file.write(rest) or 0 :]

    def adopt(self, temporary: Path, final: Path) -> bool:
        """See Disk."""
        return durable.adopt(temporary, final)

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
