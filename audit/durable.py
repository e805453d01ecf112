"""Files that survive a power cut: what returned is on the disk, whole, under its name. The project's only os.fsync.

Three verbs, three rules: ``create`` (the name must be free), ``create_same`` (free, or the same bytes), ``replace``
(whatever was there, atomically). Each writes a temporary neighbour, syncs it, gives it the name, syncs the directory;
so a reader sees the whole file or none, and a crash leaves at most a ``.*.tmp`` that nobody reads. The pattern is of
Sunlight's ``internal/durable`` and of Tessera's ``storage/posix``.

All functions raise OSError as the system gives it (ENOSPC, EIO, EROFS ...), and ContentDiffers for a taken name. An
OSError means "not known to be durable", never "not there": after a failed fsync the bytes may be on the disk or not.
"""

from __future__ import annotations

import ctypes
import os
import secrets
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Final, Protocol, cast

from audit.errors import ContentDiffers

FILE_MODE = 0o640
"""What we keep may be a patient's: the owner writes, the group may read, nobody else."""
DIRECTORY_MODE = 0o750
COMPARE_BYTES = 1 << 20
"""Read at a time when two files are compared, in bytes."""
TEMPORARY_SUFFIX = ".tmp"


class Disk(Protocol):
    """The writes that a log needs. This module is one; tests pass one that fails.

    Promises: when a method returns, its effect survives a power cut (``discard`` excepted). When it raises OSError, its
    effect may or may not have happened. Calls take effect in their order.
    """

    def create_same(self, path: Path, data: bytes) -> bool:
        """See ``create_same`` below."""

    def replace(self, path: Path, data: bytes) -> None:
        """See ``replace`` below."""

    def discard(self, path: Path) -> None:
        """See ``discard`` below."""

    def make_dirs(self, path: Path) -> None:
        """See ``make_dirs`` below."""


def create(path: Path, data: bytes, *, mode: int = FILE_MODE) -> None:
    """Write a new file. A taken name raises FileExistsError and is left alone."""
    temporary = _write_temporary(path, data, mode)
    try:
        # A hard link is the one atomic "only if the name is free"; rename would overwrite.
        os.link(temporary, path)
    finally:
        _unlink_quietly(temporary)
    sync_dir(path.parent)


def create_same(path: Path, data: bytes) -> bool:
    """Write a new file, or find the same bytes there. True if it was new. Other bytes raise ContentDiffers."""
    try:
        create(path, data)
    except FileExistsError:
        if path.read_bytes() != data:
            raise ContentDiffers from None
        # Whoever made it may have died before its name was durable; its bytes were synced before it got the name.
        sync_dir(path.parent)
        return False
    return True


def replace(path: Path, data: bytes, *, mode: int = FILE_MODE) -> None:
    """Put the bytes under the name, atomically: a reader sees the old file or the new one."""
    temporary = _write_temporary(path, data, mode)
    try:
        temporary.replace(path)
    except OSError:
        _unlink_quietly(temporary)
        raise
    sync_dir(path.parent)


def adopt(temporary: str | Path, final: str | Path, handle: int | None = None) -> bool:
    """Give a finished file its name for good: sync it, name it, sync the directory. True if the name was new.

    For streams: the caller has written ``temporary``, on the same file system; ``handle`` is its descriptor where it
    is still open, which spares opening it again. If ``final`` holds the same bytes already, ``temporary`` goes and
    False is returned; if it holds others, ContentDiffers is raised and both stay.
    A crash between naming and unlinking leaves both names on one file, so sweep temporaries at start.
    """
    if handle is None:
        sync_file(Path(temporary))
    else:
        # Data and size; what fsync writes beyond that (times) nobody asks for, and the name's sync commits it anyway.
        os.fdatasync(handle)
    try:
        os.link(temporary, final)
        new = True
    except FileExistsError:
        if not same_bytes(Path(temporary), Path(final)):
            raise ContentDiffers from None
        new = False
    # After the sync and the name: a crash in between leaves a whole file, under one name or under both.
    os.unlink(temporary)  # noqa: PTH108 - this runs for every image; making a Path costs more than the call
    sync_dir(os.path.dirname(final))  # noqa: PTH120 - likewise
    return new


def hasten(handle: int, start: int, length: int) -> None:
    """Have the system begin to write these bytes of an open file to the disk now; a hint that promises nothing.

    For streams: what the disk has done while the rest arrives, the sync at the end need not wait for. Never raises;
    does nothing where the system cannot (Linux can).
    """
    if _SYNC_FILE_RANGE is not None:
        _SYNC_FILE_RANGE(handle, start, length, _SYNC_FILE_RANGE_WRITE)


def _sync_file_range() -> Callable[[int, int, int, int], int] | None:
    try:
        found = ctypes.CDLL(None).sync_file_range
    except (OSError, AttributeError):
        return None
    found.argtypes = (ctypes.c_int, ctypes.c_int64, ctypes.c_int64, ctypes.c_uint)
    return cast("Callable[[int, int, int, int], int]", found)


# Python has no name for it. Unlike posix_fadvise, which writes too, it leaves the bytes in the cache.
_SYNC_FILE_RANGE: Final = _sync_file_range()
_SYNC_FILE_RANGE_WRITE: Final = 2


def move(source: Path, target: Path) -> None:
    """Give a folder another name on the same file system, durably. A target that is there raises OSError."""
    source.rename(target)
    sync_dir(target.parent)
    sync_dir(source.parent)


def remove(path: Path) -> None:
    """Take the name away, durably. A name that is not there is fine: a retry finds it so."""
    path.unlink(missing_ok=True)
    sync_dir(path.parent)


def append(path: Path, line: bytes, *, mode: int = FILE_MODE) -> None:
    """Add a line, which ends in a newline; durable when it returns. One writer at a time.

    A crash may leave the last line torn: the next one begins on a line of its own, and readers pass over the torn one.
    """
    new = not path.exists()
    with path.open("a+b") as file:
        if new:
            path.chmod(mode)
        if file.tell() and (file.seek(-1, os.SEEK_END), file.read(1))[1] != b"\n":
            file.write(b"\n")
        file.write(line)
        file.flush()
        os.fsync(file.fileno())
    if new:
        sync_dir(path.parent)


def destroy(path: Path) -> None:
    """Overwrite a small secret with noise in its place, then take its name away, durably. One that is gone is fine.

    What a disk with wear levelling keeps of the old block, only the disk's own encryption can make unreadable.
    """
    with suppress(FileNotFoundError), path.open("r+b") as file:
        file.write(os.urandom(path.stat().st_size))
        file.flush()
        os.fsync(file.fileno())
    remove(path)


def discard(path: Path) -> None:
    """Take the name away, with no promise: after a power cut it may be back. For what is harmless if it comes back."""
    path.unlink(missing_ok=True)


def make_dirs(path: Path) -> None:
    """Durable ``mkdir -p``: every directory that was made here has its name synced in its parent.

    One that is there already is not synced again: this runs for every image. The sync of a file inside it commits the
    directory too, on every journalling file system that we support (ext4, xfs, btrfs).
    """
    missing = []
    here = path
    while not here.is_dir():
        missing.append(here)
        here = here.parent
    for directory in reversed(missing):
        directory.mkdir(mode=DIRECTORY_MODE, exist_ok=True)
        sync_dir(directory.parent)


def sync_file(path: Path) -> None:
    """Return when the file's bytes are on the disk."""
    handle = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def sync_dir(path: str | Path) -> None:
    """Return when the names in the directory are on the disk."""
    handle = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def same_bytes(one: Path, other: Path) -> bool:
    """Whether two files hold the same bytes."""
    with one.open("rb") as left, other.open("rb") as right:
        while True:
            mine, theirs = left.read(COMPARE_BYTES), right.read(COMPARE_BYTES)
            if mine != theirs:
                return False
            if not mine:
                return True


def sweep(root: Path) -> int:
    """Remove what crashed writers left in the tree under ``root``; return how many. Only while nobody writes there."""
    left = [path for path in root.rglob(f".*{TEMPORARY_SUFFIX}") if path.is_file()]
    for path in left:
        path.unlink(missing_ok=True)
    return len(left)


def _write_temporary(path: Path, data: bytes, mode: int) -> Path:
    """A synced neighbour of ``path`` that holds the data. Its name is random: writers of one name do not collide."""
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(8)}{TEMPORARY_SUFFIX}")
    handle = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, mode)
    try:
        try:
            rest = memoryview(data)
            while rest:
                rest = rest[os.write(handle, rest) :]
            os.fsync(handle)
        finally:
            os.close(handle)
    except OSError:
        _unlink_quietly(temporary)
        raise
    return temporary


def _unlink_quietly(path: Path) -> None:
    # Only ever a temporary: if it cannot go, the next sweep takes it, and the error underway matters more.
    with suppress(OSError):
        path.unlink(missing_ok=True)
