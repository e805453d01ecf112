"""One writer at a time among the processes that have a log open. The system lets go for a process that dies."""

from __future__ import annotations

import errno
import fcntl
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from audit.durable import FILE_MODE
from audit.errors import AuditUnavailable

LOCK_WAIT_S = 30.0
"""How long to wait for another process's commit; one takes milliseconds, so this one hangs or is stopped."""
LOCK_POLL_S = 0.002


class DirectoryLock:
    """An flock on a file. Not for threads: whoever shares it serialises its own."""

    def __init__(self, path: Path, *, wait_s: float = LOCK_WAIT_S) -> None:
        """Opens nothing yet."""
        self._path = path
        self._wait_s = wait_s
        self._handle: int | None = None
        self._closed = False

    @contextmanager
    def held(self, *, reading: bool = False) -> Iterator[None]:
        """Hold it for the block, made if need be. Raises AuditUnavailable after LOCK_WAIT_S, or when closed; OSError.

        ``reading``: where there is no such file and none can be made (a copy, a disk that is read-only), nobody who
        keeps to the rules writes there, so the block goes on without it. Whatever writes must not ask for that.
        """
        self.refuse_closed()
        try:
            handle = self._opened()
        except FileNotFoundError:
            if not reading:
                raise
            yield
            return
        deadline = time.monotonic() + self._wait_s
        while True:
            try:
                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if time.monotonic() > deadline:
                    raise AuditUnavailable("another process holds the log", errno.EAGAIN) from None
                time.sleep(LOCK_POLL_S)
        try:
            yield
        finally:
            fcntl.flock(handle, fcntl.LOCK_UN)

    def refuse_closed(self) -> None:
        """Raise AuditUnavailable when closed."""
        if self._closed:
            raise AuditUnavailable("the log is closed", errno.EBADF)

    def close(self) -> None:
        """Let go for good. Idempotent."""
        handle, self._handle, self._closed = self._handle, None, True
        if handle is not None:
            os.close(handle)

    def _opened(self) -> int:
        """The file's descriptor; FileNotFoundError if there is none and none can be made."""
        if self._handle is None:
            try:
                self._handle = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, FILE_MODE)
            except OSError:
                # Nothing is ever written into it: where that is not allowed, reading rights lock just as well.
                self._handle = os.open(self._path, os.O_RDONLY | os.O_CLOEXEC)
        return self._handle
