"""A disk that refuses on demand, and tells in which order it was asked: for the inbox's `Disk` port."""

from __future__ import annotations

import errno
import os
from pathlib import Path

from dicom_bridge.spool_disk import Chunk, DurableDisk


class FailingDisk(DurableDisk):
    """The real disk, but for the calls named in `fail`: those raise OSError, before or after they took effect.

    `fail` maps a method's name to "before" or "after"; `free` overrides the free space in bytes; `calls` is what was
    asked, in order.
    """

    def __init__(self, code: int = errno.ENOSPC) -> None:
        self.code = code
        self.fail: dict[str, str] = {}
        self.free: int | None = None
        self.calls: list[str] = []

    def _do(self, name: str, *, after: bool) -> None:
        if not after:
            self.calls.append(name)
        if self.fail.get(name) == ("after" if after else "before"):
            raise OSError(self.code, "injected")

    def make_dirs(self, path: Path) -> None:
        """See Disk."""
        self._do("make_dirs", after=False)
        super().make_dirs(path)
        self._do("make_dirs", after=True)

    def create(self, path: str) -> int:
        """See Disk; a failure after leaves an empty file, as one that fails to close does."""
        self._do("create", after=False)
        handle = super().create(path)
        try:
            self._do("create", after=True)
        except OSError:
            os.close(handle)
            raise
        return handle

    def write(self, handle: int, *chunks: Chunk) -> None:
        """See Disk; a failure after leaves half of the bytes."""
        self._do("write", after=False)
        broken = self.fail.get("write") == "after"
        whole = b"".join(chunks)
        super().write(handle, whole[: len(whole) // 2] if broken else whole)
        self._do("write", after=True)

    def adopt(self, temporary: str | Path, final: str | Path, handle: int | None = None) -> bool:
        """See Disk."""
        self._do("adopt", after=False)
        new = super().adopt(temporary, final, handle)
        self._do("adopt", after=True)
        return new

    def create_same(self, path: Path, data: bytes) -> bool:
        """See Disk."""
        self._do("create_same", after=False)
        new = super().create_same(path, data)
        self._do("create_same", after=True)
        return new

    def replace(self, path: Path, data: bytes) -> None:
        """See Disk."""
        self._do("replace", after=False)
        super().replace(path, data)
        self._do("replace", after=True)

    def remove(self, path: Path) -> None:
        """See Disk."""
        self._do("remove", after=False)
        super().remove(path)
        self._do("remove", after=True)

    def free_bytes(self, path: Path) -> int:
        """See Disk."""
        return super().free_bytes(path) if self.free is None else self.free
