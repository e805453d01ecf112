"""Stop: what people, the monitor or the calendar have halted ends within seconds, and nothing of it leaves.

Three places ask the same question, what halts this model? The guard before the steps that run a model, write its
objects or send them; the outbox before each association and each object; and a watcher, every half second, which ends
the inference that is under way. Images are received, kept and assembled as ever: only the AI stops.

What becomes of a run is settled by where it was: one that had not begun is DENIED by the gate; one under way has an
intent in the log, so it FAILED, at the site's will, with the code that halted it. What the outbox had already is held,
and goes out when the halt is over; of a model that was retired, or suspended for harm or integrity, it is withheld for
a person.
"""

import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Final, Protocol

import structlog
from prometheus_client import CollectorRegistry, Counter, Gauge
from sqlalchemy.exc import SQLAlchemyError

from audit.entry import Entry, Kind
from audit.errors import AuditError
from dicom_bridge.delivery import Leave
from ethics_review.errors import ReviewError
from ethics_review.standing import Standing, Stop
from ethics_review.states import Cause, State
from inference.errors import EngineCancelled
from service.errors import Halted
from service.permitting import Facts
from service.pipeline import Act, Step
from service.results import is_denial
from service.store import Run

ROUND_S: Final = 0.5
"""Between two rounds of the watcher. Five seconds are allowed from a stop to its effect; a round costs one look at
whether the log has grown."""
GUARDED: Final = frozenset({Step.INFERRED, Step.WRITTEN, Step.RELEASED})
"""Steps that use a model or let its results go on; those before them are the gate's."""
FOR_A_PERSON: Final = frozenset({Cause.HARM, Cause.INTEGRITY})
"""Causes of a suspension after which results that were made already are not trusted either."""
IN_USE: Final = frozenset({State.SHADOW, State.LIVE})
SERVICE: Final = "SERVICE"

_MS: Final = timedelta(milliseconds=1)
_log = structlog.get_logger()


@dataclass(frozen=True, slots=True)
class Halt:
    """Why a model may not be used. `final`: what it made may not leave, even when it may be used again."""

    code: str
    final: bool = False


class Halts(Protocol):
    """What halts which model, as the log says now; quick, as it is asked before each object that leaves."""

    def halted(self, digest: str | None) -> Halt | None:
        """What halts the model of this digest (None: any model at all); None where nothing does."""


class Knows(Protocol):
    """What is needed of the register."""

    def standings(self, now: datetime) -> Sequence[Standing]:
        """Where each dossier stands."""

    def stops(self) -> Sequence[Stop]:
        """The stops in force."""


class RegisterHalts:
    """The register's answer, for one site."""

    def __init__(self, register: Knows, site: str, now: Callable[[], datetime]) -> None:
        self._register, self._site, self._now = register, site, now

    def halted(self, digest: str | None) -> Halt | None:
        """A stop comes first: while it lasts nothing is withheld for good. A model without a dossier is the gate's."""
        if any(stop.level == SERVICE or stop.site in (None, self._site) for stop in self._register.stops()):
            return Halt("STOPPED")
        for standing in self._register.standings(self._now()):
            if standing.model.digest == digest and standing.state not in IN_USE:
                return _halt_of(standing)
        return None


def _halt_of(standing: Standing) -> Halt:
    if standing.state is State.RETIRED:
        return Halt("RETIRED", final=True)
    if standing.state is State.SUSPENDED:
        return Halt("SUSPENDED", final=standing.cause in FOR_A_PERSON)
    return Halt("NOT_DEPLOYED")


class Door:
    """Before the pipeline's steps, and before the outbox's peers.

    model_of: the digest of the model that made a call's results; None where nobody knows.
    """

    def __init__(self, halts: Halts, model_of: Callable[[str], str | None]) -> None:
        self._halts, self._model_of = halts, model_of

    def guard(self, step: str, act: Act) -> Act:
        """See pipeline.Guard."""

        def guarded(run: Run, facts: Facts) -> Facts:
            digest = str(facts["model"]["digest"]) if "model" in facts else None
            if step in GUARDED:
                self._refuse(digest)
            try:
                return act(run, facts)
            except EngineCancelled:
                self._refuse(digest)
                raise  # it was halted, and is not any more: the run is over all the same

        return guarded

    def may_leave(self, call: str) -> Leave:
        """See Outbox. Where it cannot be known nothing leaves; the outbox asks again."""
        if is_denial(call):
            return Leave.GO  # that nothing was done may be said while nothing is done
        try:
            halt = self._halts.halted(self._model_of(call))
        except (AuditError, ReviewError, SQLAlchemyError, OSError) as error:
            _log.error("outbox_waits", error_type=type(error).__name__)
            return Leave.HOLD
        if halt is None:
            return Leave.GO
        return Leave.WITHHOLD if halt.final else Leave.HOLD

    def holds(self, call: str) -> bool:
        """Whether it may not leave now."""
        return self.may_leave(call) is not Leave.GO

    def _refuse(self, digest: str | None) -> None:
        halt = self._halts.halted(digest)
        if halt is not None:
            raise Halted(halt.code)


class Log(Protocol):
    """What the watcher follows."""

    def entries(self, start: int = 0) -> Iterator[Entry]:
        """From index `start` on."""


class Device(Protocol):
    """What it ends; see inference.engine."""

    def cancel(self, digest: str | None) -> bool:
        """End what runs or waits of this model (None: of any)."""

    def running(self) -> str | None:
        """The digest of the model that runs."""


class Sends(Protocol):
    """What it looks at, and wakes; see dicom_bridge.outbox."""

    def sending(self) -> frozenset[str]:
        """Batches on the wire."""

    def wake(self) -> None:
        """Try what waits, now."""


@dataclass(frozen=True, slots=True)
class Effect:
    """A stop that has taken effect. index, at: of its entry; ms: from then until nothing ran and nothing left."""

    index: int
    at: str
    code: str
    ms: int


class StopMetrics:
    """Numbers of the stops of this process."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self._seconds = Gauge(
            "zhiying_stop_effective_seconds", "From the last stop's entry to its effect", registry=registry
        )
        self._count = Counter("zhiying_stops_effective_total", "Stops that took effect", registry=registry)
        self._halted = Gauge("zhiying_stopped", "1 while everything is stopped", registry=registry)

    def effective(self, ms: int) -> None:
        """A stop took effect."""
        self._count.inc()
        self._seconds.set(ms / 1000)

    def stopped(self, *, is_so: bool) -> None:
        """Whether a stop of the site or the service is in force."""
        self._halted.set(is_so)


class Watcher:
    """A chore: follows the log, ends what is halted, and says how long that took."""

    def __init__(
        self,
        log: Log,
        halts: Halts,
        door: Door,
        device: Device,
        outbox: Sends,
        now: Callable[[], datetime],
        metrics: StopMetrics,
        *,
        start: int,
    ) -> None:
        """`start`: the index of the first entry that is news; what halted before is in force without being told."""
        self._log, self._halts, self._door, self._device = log, halts, door, device
        self._outbox, self._now, self._metrics = outbox, now, metrics
        self._next = start
        self._waiting: list[Entry] = []
        self._lock = threading.Lock()
        self._last: Effect | None = None

    def __call__(self) -> None:
        """One round. Raises AuditError: the next one begins where this one ended."""
        quiet = self._end_what_runs()
        # Only those of earlier rounds: what began in the instant of the stop shows itself within a round.
        for entry in self._waiting if quiet else ():
            self._told(entry)
        if quiet:
            self._waiting.clear()
        for entry in self._log.entries(self._next):
            self._next = entry.index + 1
            self._take(entry)
        self._metrics.stopped(is_so=self._halts.halted(None) is not None)

    def said(self) -> Mapping[str, object]:
        """For people: whether everything is stopped, and the last stop that took effect."""
        with self._lock:
            last = self._last
        halt = self._halts.halted(None)
        return {
            "stopped": None if halt is None else halt.code,
            "last": None if last is None else {"index": last.index, "at": last.at, "code": last.code, "ms": last.ms},
        }

    def _take(self, entry: Entry) -> None:
        digest = _halting(entry)
        if digest is not None:
            self._waiting.append(entry)
            self._device.cancel(digest or None)
        if entry.kind in (Kind.STOP, Kind.RESUME, Kind.STATE_CHANGE):
            self._outbox.wake()  # what may leave again does; what may not says so at once, for people to see

    def _end_what_runs(self) -> bool:
        """Whether nothing of what is halted runs, or is on the wire."""
        running = self._device.running()
        halted = running is not None and self._halts.halted(running) is not None
        if halted:
            self._device.cancel(running)
        return not halted and not any(self._door.holds(call) for call in self._outbox.sending())

    def _told(self, entry: Entry) -> None:
        ms = max((self._now() - datetime.fromisoformat(entry.time)) // _MS, 0)
        code = "STOPPED" if entry.kind is Kind.STOP else str(entry.body["to"])
        with self._lock:
            self._last = Effect(entry.index, entry.time, code, ms)
        self._metrics.effective(ms)
        _log.warning("stop_effective", ms=ms, code=code, index=entry.index)


def _halting(entry: Entry) -> str | None:
    """The digest of the model that an entry halts, "" for all of them, None where it halts nothing."""
    if entry.kind is Kind.STOP:
        return ""
    if entry.kind is Kind.STATE_CHANGE and entry.body["to"] in (State.SUSPENDED, State.RETIRED):
        model = entry.body["model"]
        return str(model["digest"]) if isinstance(model, Mapping) else None
    return None
