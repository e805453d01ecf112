"""The incidents that the log holds, followed entry by entry, and the number of clocks that have run out."""

import threading
from collections.abc import Callable, Iterator
from datetime import datetime
from typing import Protocol

from prometheus_client import CollectorRegistry, Gauge

from audit.entry import Entry, Kind
from ethics_review import incident
from ethics_review.incident import Incident


class Log(Protocol):
    """What is followed."""

    def entries(self, start: int = 0) -> Iterator[Entry]:
        """From index `start` on."""


class Incidents:
    """Follows one log. Thread-safe."""

    def __init__(self, log: Log) -> None:
        self._log = log
        self._lock = threading.Lock()
        self._next = 0
        self._found: dict[str, Incident] = {}

    def all(self) -> tuple[Incident, ...]:
        """All of them, in the order in which they were opened. Raises AuditError."""
        with self._lock:
            for entry in self._log.entries(self._next):
                self._next = entry.index + 1
                if entry.kind is Kind.INCIDENT:
                    incident.take(self._found, entry.index, entry.time, entry.body)
            return tuple(self._found.values())


class OverdueClocks:
    """A chore: what should have been told by now, and was not, as numbers that an alert can be set on."""

    def __init__(self, incidents: Incidents, now: Callable[[], datetime], registry: CollectorRegistry) -> None:
        self._incidents, self._now = incidents, now
        self._open = Gauge("zhiying_incidents_open", "Incidents that are not closed", registry=registry)
        self._overdue = Gauge(
            "zhiying_incident_clocks_overdue", "Duties to tell that are due and not done", registry=registry
        )

    def __call__(self) -> None:
        """Count them. Raises AuditError."""
        running = [one for one in self._incidents.all() if one.closed is None]
        now = self._now()
        self._open.set(len(running))
        self._overdue.set(sum(len(one.overdue(now)) for one in running))
