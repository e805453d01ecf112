"""A disk that is really full, in two ways: a small file system of its own, and a limit that any user may set.

`filled` is the folder's file system without a free byte, as ENOSPC; where the machine lets nobody mount one, as
`walled`: the process may make no file longer than it is, which SQLite and the audit log meet as EFBIG.
"""

from __future__ import annotations

import os
import resource
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Final

SMALL_BYTES: Final = 64 << 20
"""A site of the tests takes a few MiB."""
THROUGH_A_PIPE: Final = ("bash", "-c", 'exec "$0" "$@" 2> >(exec cat)')
"""A command that runs another, whose log goes through a pipe, as systemd has it: no limit on files concerns it."""
_BALLAST: Final = "ballast"


@contextmanager
def small_disk(folder: Path) -> Iterator[bool]:
    """Give the folder a small file system of its own; False where the machine does not let us."""
    folder.mkdir(parents=True, exist_ok=True)
    command = ["mount", "-t", "tmpfs", "-o", f"size={SMALL_BYTES}", "zhiying-test", str(folder)]
    try:
        mounted = subprocess.run(command, capture_output=True, check=False).returncode == 0
    except FileNotFoundError:
        mounted = False
    try:
        yield mounted
    finally:
        if mounted:
            # Lazily: a process that was killed may not have let go yet.
            subprocess.run(["umount", "--lazy", str(folder)], check=True)


def fill(folder: Path) -> None:
    """Leave not one free byte."""
    with (folder / _BALLAST).open("wb", buffering=0) as ballast, suppress(OSError):
        while True:
            for size in (1 << 20, 1 << 12, 1):
                ballast.write(bytes(size))


def empty(folder: Path) -> None:
    """Give it back."""
    (folder / _BALLAST).unlink()


def wall(pid: int, bytes_max: int) -> None:
    """From now on the process can write no byte of any file beyond this; -1 takes the limit away."""
    _, hard = resource.prlimit(pid, resource.RLIMIT_FSIZE)
    resource.prlimit(pid, resource.RLIMIT_FSIZE, (hard if bytes_max < 0 else bytes_max, hard))


def free_bytes(folder: Path) -> int:
    """What is left."""
    stat = os.statvfs(folder)
    return stat.f_bavail * stat.f_frsize
