"""Who is next: runs wait in the store, few are in the workflow engine, and an urgent one overtakes.

A run is durable before it is queued (state ASSEMBLED in the store), so nothing here need be: at the start every such
run that the engine does not know is queued again, and submitting one twice does nothing. What a kill leaves at each
point: before `submit` a row in the store, queued again; after it a workflow, resumed by the engine.
"""

import heapq
import threading
from collections.abc import Callable, Collection
from dataclasses import dataclass, field
from datetime import datetime
from typing import Protocol

import structlog
from sqlalchemy.exc import SQLAlchemyError

from service.store import Run

URGENT_IN_A_ROW = 4
"""Then one routine run goes first, if any waits: the routine run at place n of its line begins after at most 4 n urgent
ones, however many of those come in."""
RETRY_S = 1.0  # after the engine's database did not answer
STOP_S = 5.0  # for a submission under way; what a database that is away holds up is queued again at the next start
SURE_S = 30.0  # how often a full line asks the engine whether those that it counts as running still are

_log = structlog.get_logger()


class Engine(Protocol):
    """What runs a run; `service.workflow.Workflows`."""

    def submit(self, run_id: str) -> bool:
        """Begin it, durably; False, and nothing done, where it has been begun before. Raises SQLAlchemyError."""

    def unfinished(self) -> frozenset[str]:
        """What was begun, by any process, and has not ended. Raises SQLAlchemyError."""


@dataclass(order=True, slots=True)
class _Waiting:
    created_at: datetime
    run_id: str
    urgent: bool = field(compare=False)


class RunQueue:
    """The line in front of the engine. `add` and `ended` may be called from any thread, `start` and `stop` once."""

    def __init__(self, engine: Engine, waiting: Callable[[], Collection[Run]], at_once: int) -> None:
        """`waiting` gives all runs that nothing has been done for; `at_once`: the most that the engine has to do."""
        self._engine = engine
        self._waiting = waiting
        self._at_once = at_once
        self._changed = threading.Condition()
        self._lines: dict[bool, list[_Waiting]] = {True: [], False: []}
        self._known: set[str] = set()  # waiting or running
        self._running: set[str] = set()
        self._over: set[str] | None = set()  # what ended before `start` knew that it ran
        self._in_a_row = 0
        self._stopping = False
        self._thread = threading.Thread(target=self._serve, name="run-queue", daemon=True)

    @property
    def healthy(self) -> bool:
        """For /health."""
        return self._thread.is_alive()

    def start(self) -> None:
        """Take in what an earlier process left, then hand on. Call it when the engine has started."""
        unfinished = self._engine.unfinished()
        left = self._waiting()
        with self._changed:
            self._running |= unfinished - (self._over or set())
            self._known |= self._running
            self._over = None
        for run in left:
            self.add(run)
        self._thread.start()

    def stop(self) -> None:
        """Hand on nothing more; what waits is queued again at the next start."""
        with self._changed:
            self._stopping = True
            self._changed.notify_all()
        if self._thread.ident is not None:
            self._thread.join(STOP_S)

    def add(self, run: Run) -> None:
        """Queue it, unless it waits or runs already. It must be in the store."""
        with self._changed:
            if run.run_id in self._known:
                return
            self._known.add(run.run_id)
            heapq.heappush(self._lines[run.urgent], _Waiting(run.created_at, run.run_id, run.urgent))
            self._changed.notify_all()

    def ended(self, run_id: str) -> None:
        """The engine is done with it: there is room for another."""
        with self._changed:
            if self._over is not None:
                self._over.add(run_id)
            self._forget(run_id)
            self._changed.notify_all()

    def depth(self) -> tuple[int, int]:
        """How many urgent and how many routine runs wait."""
        with self._changed:
            return len(self._lines[True]), len(self._lines[False])

    # ---- the thread --------------------------------------------------------------------------------------------------

    def _serve(self) -> None:
        while not self._stopping:
            one = self._next()
            if one is None:
                self._make_sure()
            else:
                self._hand_on(one)

    def _next(self) -> _Waiting | None:
        """The run to hand on, counted as running, as soon as there is one and room for it; None after a while."""
        with self._changed:
            if not self._changed.wait_for(self._ready, SURE_S) or self._stopping:
                return None
            one = self._pop()
            self._running.add(one.run_id)
            return one

    def _ready(self) -> bool:
        return self._stopping or (any(self._lines.values()) and len(self._running) < self._at_once)

    def _hand_on(self, one: _Waiting) -> None:
        try:
            began = self._engine.submit(one.run_id)
        except SQLAlchemyError as error:
            _log.error("queue_paused", error_type=type(error).__name__)
            with self._changed:
                self._running.discard(one.run_id)
                heapq.heappush(self._lines[one.urgent], one)
                self._changed.wait_for(lambda: self._stopping, RETRY_S)
            return
        if not began:
            # An earlier process began it. Had it not come to its end, `start` would have counted it as running.
            self.ended(one.run_id)

    def _pop(self) -> _Waiting:
        """The most urgent and then the oldest, but now and then a routine one."""
        urgent, routine = self._lines[True], self._lines[False]
        overtakes = bool(urgent) and not (routine and self._in_a_row >= URGENT_IN_A_ROW)
        self._in_a_row = self._in_a_row + 1 if overtakes and routine else 0
        return heapq.heappop(urgent if overtakes else routine)

    def _make_sure(self) -> None:
        """Free the place of a run that the engine gave up without a word, lest the line stand still for ever."""
        with self._changed:
            if self._stopping or not any(self._lines.values()):
                return
            running = set(self._running)
        try:
            # Not under the lock: a database that is away must hold up nobody who only wants to queue.
            gone = running - self._engine.unfinished()
        except SQLAlchemyError as error:
            _log.error("queue_paused", error_type=type(error).__name__)
            return
        with self._changed:
            for run_id in gone:
                _log.error("run_vanished", run=run_id)
                self._forget(run_id)

    def _forget(self, run_id: str) -> None:
        self._running.discard(run_id)
        self._known.discard(run_id)
