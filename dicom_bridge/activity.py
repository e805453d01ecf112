"""Which associations are open now, and which studies each has carried: what assembly must wait for."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field


@dataclass(slots=True)
class _Open:
    sender: str
    last: float
    studies: set[str] = field(default_factory=set)


class Activity:
    """Open associations by an id of the listener's choice. Thread-safe; lives in memory, as associations do.

    `clock` gives seconds that only grow (time.monotonic).
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._lock = threading.Lock()
        self._open: dict[str, _Open] = {}

    def opened(self, association: str, sender: str) -> None:
        """An association was accepted."""
        with self._lock:
            self._open[association] = _Open(sender, self._clock())

    def carried(self, association: str, study_uid: str) -> None:
        """An association brought an instance of a study; one that is not open is ignored."""
        with self._lock:
            entry = self._open.get(association)
            if entry is not None:
                entry.studies.add(study_uid)
                entry.last = self._clock()

    def closed(self, association: str) -> bool:
        """An association was released, aborted or lost. False if it was never open, as a rejected one."""
        with self._lock:
            return self._open.pop(association, None) is not None

    def count(self, study_uid: str, active_within_s: float | None = None) -> int:
        """Return how many open associations have carried this study.

        With `active_within_s` those that brought nothing for so many seconds do not count: some PACS keep an
        association open for minutes after its last image.
        """
        with self._lock:
            oldest = None if active_within_s is None else self._clock() - active_within_s
            return sum(
                study_uid in entry.studies and (oldest is None or entry.last >= oldest) for entry in self._open.values()
            )

    def total(self) -> int:
        """Return how many associations are open."""
        with self._lock:
            return len(self._open)
