"""Who is next: urgent before routine, old before new, few at once, none starved, and no crash loses or doubles one."""

import threading
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from sqlalchemy.exc import OperationalError

from service import queue
from service.queue import URGENT_IN_A_ROW, RunQueue
from service.store import Run, State

LIMIT_S = 0.8 * queue.SURE_S
"""Generous, but no place that is lost may be found again by the queue's own check meanwhile."""
THEN = datetime(2026, 11, 23, 8, 0, tzinfo=UTC)


def a_run(name: str, *, urgent: bool = False, at_s: float = 0.0) -> Run:
    """A run that nothing has been done for."""
    at = THEN + timedelta(seconds=at_s)
    return Run(name, "1.2.3", "sha256:0", 1, State.ASSEMBLED, "QUIET_TIMER", at, at, urgent=urgent)


class FakeEngine:
    """Runs what it is given until it is told to end it; outlives a queue, as the database outlives a process."""

    def __init__(self) -> None:
        self.began: list[str] = []
        self.running: set[str] = set()
        self.away = False
        self.most = 0
        self.ends_at_once = False
        self.on_end: Callable[[str], None] = lambda _run_id: None
        self._changed = threading.Condition()

    def submit(self, run_id: str) -> bool:
        """See service.queue.Engine."""
        if self.away:
            raise OperationalError("", {}, Exception("away"))
        with self._changed:
            if run_id in self.began:
                return False
            self.began.append(run_id)
            self.running.add(run_id)
            self.most = max(self.most, len(self.running))
            self._changed.notify_all()
        if self.ends_at_once:
            self.end(run_id)
        return True

    def unfinished(self) -> frozenset[str]:
        """See service.queue.Engine."""
        return frozenset(self.running)

    def end(self, run_id: str) -> None:
        """The run is over."""
        self.running.discard(run_id)
        self.on_end(run_id)

    def wait_for(self, number: int) -> list[str]:
        """What was begun, once it is so many; fails after a while."""
        with self._changed:
            assert self._changed.wait_for(lambda: len(self.began) >= number, LIMIT_S), self.began
        return self.began


class Line:
    """A queue, its engine and the store's rows; `restart` is a crash of the queue alone."""

    def __init__(self, at_once: int = 2) -> None:
        self.engine = FakeEngine()
        self.rows: dict[str, Run] = {}
        self._at_once = at_once
        self.queue = self.restart()

    def restart(self) -> RunQueue:
        """A new process: nothing in memory but what the engine and the rows keep."""
        self.queue = RunQueue(self.engine, lambda: list(self.rows.values()), self._at_once)
        self.engine.on_end = self.queue.ended
        return self.queue

    def add(self, *runs: Run) -> None:
        """As the assembler does: the row first."""
        for run in runs:
            self.rows[run.run_id] = run
            self.queue.add(run)

    def work_off(self, number: int) -> list[str]:
        """End each run as soon as it has begun, until so many have; gives their order."""
        for done in range(number):
            self.engine.end(self.engine.wait_for(done + 1)[done])
        return self.engine.began


@pytest.fixture
def line() -> Iterator[Line]:
    """Two at once, nothing waits; started by the test."""
    made = Line()
    yield made
    made.queue.stop()


@pytest.fixture
def narrow() -> Iterator[Line]:
    """One at once, so that the order shows."""
    made = Line(at_once=1)
    yield made
    made.queue.stop()


# ---- order -----------------------------------------------------------------------------------------------------------


def test_the_oldest_goes_first(narrow: Line) -> None:
    """In the order in which they were complete, whatever the order in which they were added."""
    narrow.add(a_run("b", at_s=2), a_run("c", at_s=3), a_run("a", at_s=1))
    narrow.queue.start()
    assert narrow.work_off(3) == ["a", "b", "c"]


def test_the_urgent_overtakes(narrow: Line) -> None:
    """A run that is urgent goes before all that were there first; of two urgent ones the older does."""
    narrow.add(*(a_run(f"routine{k}", at_s=k) for k in range(3)))
    narrow.add(a_run("urgent2", urgent=True, at_s=9), a_run("urgent1", urgent=True, at_s=8))
    narrow.queue.start()
    assert narrow.work_off(5)[:2] == ["urgent1", "urgent2"]


def test_what_is_running_is_not_put_aside(narrow: Line) -> None:
    """An urgent run is next, not instead."""
    narrow.queue.start()
    narrow.add(a_run("first"))
    narrow.engine.wait_for(1)
    narrow.add(a_run("second"), a_run("urgent", urgent=True, at_s=1))
    assert narrow.work_off(3) == ["first", "urgent", "second"]


def test_routine_work_is_never_starved(narrow: Line) -> None:
    """However many urgent runs come, the routine run at place n begins after at most 4 n of them."""
    narrow.add(*(a_run(f"u{k:02}", urgent=True, at_s=k) for k in range(20)), a_run("r0"), a_run("r1", at_s=1))
    narrow.queue.start()
    order = narrow.work_off(22)
    assert order.index("r0") == URGENT_IN_A_ROW
    assert order.index("r1") == 2 * URGENT_IN_A_ROW + 1


def test_urgent_runs_alone_owe_nothing(narrow: Line) -> None:
    """Urgent runs that overtook nobody do not count: a routine run that comes later has to wait its turn."""
    narrow.add(*(a_run(f"u{k}", urgent=True, at_s=k) for k in range(6)))
    narrow.queue.start()
    narrow.work_off(5)
    narrow.add(a_run("r", at_s=20), a_run("u9", urgent=True, at_s=30))
    for done in range(5, 8):
        narrow.engine.end(narrow.engine.wait_for(done + 1)[done])
    assert narrow.engine.began[6:] == ["u9", "r"]


@given(st.lists(st.booleans(), min_size=1, max_size=60))
def test_the_bound_holds_for_any_arrivals(urgencies: list[bool]) -> None:
    """Whatever waits: all go, each class in its own order, and at most four urgent in a row while routine waits."""
    made = Line()
    for number, urgent in enumerate(urgencies):
        made.add(a_run(f"{number:03}", urgent=urgent, at_s=number))
    order = [made.queue._pop() for _ in urgencies]
    for kind in (True, False):
        ids = [one.run_id for one in order if one.urgent is kind]
        assert ids == sorted(ids)
    row = 0
    for place, one in enumerate(order):
        routine_waits = any(not later.urgent for later in order[place:])
        row = row + 1 if one.urgent and routine_waits else 0
        assert row <= URGENT_IN_A_ROW


# ---- how many --------------------------------------------------------------------------------------------------------


def test_few_at_once(line: Line) -> None:
    """The engine never has more to do than it should; the rest waits where it can be overtaken."""
    line.queue.start()
    line.add(*(a_run(f"{k}", at_s=k) for k in range(5)))
    line.engine.wait_for(2)
    time.sleep(0.05)
    assert line.engine.began == ["0", "1"]
    assert line.queue.depth() == (0, 3)
    line.work_off(5)
    assert line.engine.most == 2


def test_the_same_run_twice_is_one(line: Line) -> None:
    """A study that is sent again while its run waits or runs is not run twice."""
    line.add(a_run("a"), a_run("a"))
    line.queue.start()
    line.engine.wait_for(1)
    line.add(a_run("a"), a_run("b", at_s=1))
    assert line.engine.wait_for(2) == ["a", "b"]
    assert line.queue.depth() == (0, 0)


def test_a_run_that_is_over_before_it_is_noted_leaves_its_place(narrow: Line) -> None:
    """The engine may be done before `submit` has returned."""
    narrow.engine.ends_at_once = True
    narrow.add(*(a_run(f"{k}", at_s=k) for k in range(10)))
    narrow.queue.start()
    narrow.engine.wait_for(10)


# ---- crashes ---------------------------------------------------------------------------------------------------------


def test_what_waited_is_queued_again(line: Line) -> None:
    """Killed with a full line: the next process hands on all of it, in the same order of urgency."""
    line.add(*(a_run(f"{k}", at_s=k) for k in range(4)), a_run("u", urgent=True, at_s=9))
    line.restart().start()
    assert line.engine.wait_for(2)[:2] == ["u", "0"]
    assert line.work_off(5)[2:] == ["1", "2", "3"]


def test_what_the_engine_resumes_counts_as_running(line: Line) -> None:
    """Killed while two ran: they go on by themselves, and nothing is added to them before one is over."""
    line.queue.start()
    line.add(*(a_run(f"{k}", at_s=k) for k in range(3)))
    line.engine.wait_for(2)
    line.queue.stop()
    line.restart().start()
    time.sleep(0.05)
    assert line.engine.began == ["0", "1"]
    line.engine.end("0")
    assert line.engine.wait_for(3) == ["0", "1", "2"]


def test_killed_between_submit_and_the_first_step(line: Line) -> None:
    """The engine knows the run and its row still says ASSEMBLED: it is not begun a second time."""
    line.rows["a"] = a_run("a")
    line.engine.submit("a")
    line.queue.start()
    line.add(a_run("b", at_s=1))
    assert line.engine.wait_for(2) == ["a", "b"]


def test_one_that_ended_though_its_row_says_otherwise_holds_no_place(narrow: Line) -> None:
    """The engine has done with it long ago: it does nothing for it, and the next one goes."""
    narrow.rows["a"] = a_run("a")
    narrow.engine.submit("a")
    narrow.engine.running.clear()
    narrow.queue.start()
    narrow.add(a_run("b", at_s=1))
    assert narrow.engine.wait_for(2) == ["a", "b"]


def test_one_that_ends_while_the_queue_starts_holds_no_place(narrow: Line) -> None:
    """The engine resumes at once: a run may be over before the queue has counted it, and still be listed."""
    narrow.engine.submit("a")
    narrow.engine.on_end("a")
    narrow.queue.start()
    narrow.add(a_run("b"))
    assert narrow.engine.wait_for(2) == ["a", "b"]


def test_a_database_that_is_away_is_asked_again(line: Line) -> None:
    """Nothing is lost or reordered while the engine cannot begin anything."""
    line.engine.away = True
    line.add(a_run("a"), a_run("u", urgent=True, at_s=1))
    line.queue.start()
    time.sleep(0.05)
    assert line.queue.healthy
    line.engine.away = False
    assert line.engine.wait_for(2) == ["u", "a"]


def test_a_run_that_the_engine_gave_up_silently_does_not_block_the_line() -> None:
    """A full line asks the engine now and then; a place that nobody holds is free."""
    made = Line(at_once=1)
    made.queue._running.add("vanished")
    made.add(a_run("a"))
    made.queue._make_sure()
    made.queue.start()
    assert made.engine.wait_for(1) == ["a"]
    made.queue.stop()


def test_stopping_ends_at_once() -> None:
    """Started or not, with a full line or none; what waits stays in the store."""
    made = Line(at_once=0)
    made.queue.stop()
    made.restart()
    made.add(a_run("a"))
    made.queue.start()
    began_s = time.monotonic()
    made.queue.stop()
    assert time.monotonic() - began_s < queue.RETRY_S
    assert not made.queue.healthy
    assert made.engine.began == []


def test_many_threads_may_add(line: Line) -> None:
    """Runs that are added and ended from everywhere at once all begin, each once."""
    line.engine.ends_at_once = True
    line.queue.start()

    def bring(part: int) -> None:
        line.add(*(a_run(f"{part}-{k}", urgent=k % 3 == 0, at_s=k) for k in range(50)))

    threads: list[Any] = [threading.Thread(target=bring, args=(part,)) for part in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    began = line.engine.wait_for(200)
    assert len(set(began)) == len(began) == 200
