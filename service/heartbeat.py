"""A sign of life in the log: without it, one that was switched off looks like a quiet day."""

import secrets
import time
from collections.abc import Callable
from typing import Protocol

from audit.checkpoint import Checkpoint
from audit.entry import Draft, Entry, Kind
from audit.ticket import Proviso

INTERVAL_S = 60
"""What each beat promises: the next one comes within so many seconds, or something was wrong."""
BEAT_S = 55.0
"""When the next one is due: early enough to keep the promise with a disk that takes its time."""


class Log(Protocol):
    """Where beats go."""

    def append(self, draft: Draft) -> Entry:
        """See AuditLog."""


class CallLog(Protocol):
    """Where the entries of calls go."""

    def append(self, draft: Draft, proviso: Proviso | None = None) -> Entry:
        """See AuditLog."""

    def receipt(self, index: int) -> Checkpoint:
        """See AuditLog."""


class Heartbeat:
    """A chore, to be called every few seconds. `clock` gives seconds that only grow."""

    def __init__(self, log: Log, clock: Callable[[], float] = time.monotonic) -> None:
        self._log, self._clock = log, clock
        self._boot = secrets.token_hex(8)
        self._beats = 0
        self._last: float | None = None

    def __call__(self) -> None:
        """Beat, when it is time. Raises AuditError: the same beat is tried at the next call."""
        if self._last is not None and self._clock() - self._last < BEAT_S:
            return
        began = self._clock()
        key = f"heartbeat:{self._boot}:{self._beats}"
        self._log.append(Draft(Kind.HEARTBEAT, key, {"interval_s": INTERVAL_S}))
        self._beats += 1
        self._last = began
