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
        """Open the file, make it if need be. Raises OSError."""
        self._wait_s = wait_s
        self._handle = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, FILE_MODE)

    @contextmanager
    def held(self) -> Iterator[None]:
        """Hold it for the block. Raises AuditUnavailable after LOCK_WAIT_S, or when closed; OSError."""
        self.refuse_closed()
        deadline = time.monotonic() + self._wait_s
        while True:
            try:
                fcntl.flock(self._handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if time.monotonic() > deadline:
                    raise AuditUnavailable("another process holds the log", errno.EAGAIN) from None
                time.sleep(LOCK_POLL_S)
        try:
            yield
        finally:
            fcntl.flock(self._handle, fcntl.LOCK_UN)

    def refuse_closed(self) -> None:
        """Raise AuditUnavailable when closed."""
        if self._handle < 0:
            raise AuditUnavailable("the log is closed", errno.EBADF)

    def close(self) -> None:
        """Let go for good. Idempotent."""
        handle, self._handle = self._handle, -1
        if handle >= 0:
            os.close(handle)
