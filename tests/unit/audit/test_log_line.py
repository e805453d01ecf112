"""Callers who share commits: each is answered once, somebody always leads, and who is interrupted holds up nobody."""

import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from audit.entry import Draft
from audit.errors import AuditUnavailable
from audit.ticket import Line, Ticket
from tests.simulators.audit_log import QUICK, QuickDisk, draft, healthy, open_log

WAIT_S = 20.0


def in_thread(work: Callable[[], None]) -> threading.Thread:
    """Started."""
    thread = threading.Thread(target=work)
    thread.start()
    return thread


class Shop:
    """Serves tickets by a Line, as the log does, and remembers in which company each was served."""

    def __init__(self, most: int) -> None:
        self.line, self._most = Line(), most
        self.served: list[list[Ticket]] = []
        self._busy = threading.Lock()

    def visit(self, ticket: Ticket) -> None:
        """Until it is served."""
        try:
            self.line.join(ticket)
            if not ticket.done:
                assert self._busy.acquire(blocking=False), "two lead"
                batch = self.line.take(self._most)
                assert ticket in batch
                self.served.append(batch)
                for each in batch:
                    each.done = True
                self._busy.release()
                self.line.answered(ticket, batch)
        finally:
            self.line.leave(ticket)


@pytest.mark.parametrize("most", [1, 7, 1000])
def test_everybody_is_served_once(most: int) -> None:
    """By one leader at a time, however many come at once and however few are served together."""
    shop = Shop(most)
    tickets = [[Ticket(draft(0)) for _ in range(50)] for _ in range(20)]

    def visits(mine: list[Ticket]) -> None:
        for ticket in mine:
            shop.visit(ticket)

    threads = [in_thread(lambda mine=mine: visits(mine)) for mine in tickets]  # type: ignore[misc]
    for thread in threads:
        thread.join(WAIT_S)
        assert not thread.is_alive()
    served = [id(ticket) for batch in shop.served for ticket in batch]
    assert sorted(served) == sorted(id(ticket) for mine in tickets for ticket in mine)
    assert max(map(len, shop.served)) <= most


def test_who_is_interrupted_holds_up_nobody() -> None:
    """The leader before it serves anybody, and one who waits: the next one leads."""
    line = Line()
    first, second, third = (Ticket(draft(number)) for number in range(3))
    line.join(first)
    began = [in_thread(lambda ticket=ticket: line.join(ticket)) for ticket in (second, third)]  # type: ignore[misc]
    while len(line.waiting()) < 3:
        time.sleep(0.001)
    waiting = line.waiting()
    line.leave(waiting[1])  # interrupted in its sleep
    line.leave(first)  # interrupted while it leads
    last = waiting[2]
    began[(second, third).index(last)].join(WAIT_S)
    assert line.take(9) == [last]
    last.done = True
    line.leave(last)
    again = Ticket(draft(9))
    line.join(again)
    assert line.take(9) == [again]
    waiting[1].wake()
    for thread in began:
        thread.join(WAIT_S)
        assert not thread.is_alive()


class SlowDisk(QuickDisk):
    """Holds the first staged commit up until it is let go, and can end it with an exception that is no Exception."""

    def __init__(self, fate: type[BaseException] | None) -> None:
        self.reached, self.go = threading.Event(), threading.Event()
        self._fate = fate

    def create_same(self, path: Path, data: bytes) -> bool:
        """See audit.durable."""
        if path.parent.name == "staging" and not path.name.startswith("0-") and not self.reached.is_set():
            self.reached.set()
            self.go.wait(WAIT_S)
            if self._fate is not None:
                raise self._fate
        return QUICK.create_same(path, data)


@pytest.mark.parametrize("fate", [None, KeyboardInterrupt, OSError], ids=["none", "interrupt", "error"])
def test_who_comes_during_a_commit_shares_the_next(tmp_path: Path, fate: type[BaseException] | None) -> None:
    """Whatever becomes of the first commit, those who came meanwhile go in together, and all are answered."""
    disk = SlowDisk(fate)
    told: list[BaseException] = []

    def append(which: Draft) -> None:
        try:
            log.append(which)
        except (KeyboardInterrupt, AuditUnavailable) as error:
            told.append(error)

    with open_log(tmp_path / "log", disk=disk) as log:
        threads = [in_thread(lambda: append(draft(0)))]
        assert disk.reached.wait(WAIT_S)
        threads += [in_thread(lambda n=n: append(draft(n))) for n in range(1, 40)]  # type: ignore[misc]
        while len(log.line.waiting()) < 39:
            time.sleep(0.001)
        disk.go.set()
        for thread in threads:
            thread.join(WAIT_S)
            assert not thread.is_alive()
        assert len(told) == (fate is not None)
        assert sorted(entry.key for entry in log.entries(1)) == sorted(
            f"assembled:{n}" for n in range(int(fate is not None), 40)
        )
    assert healthy(tmp_path / "log") == 41 - len(told)
    widths = {path.name for path in (tmp_path / "log" / "tile" / "0" / "000.p").iterdir()}
    assert widths == ({"1", "40"} if fate else {"1", "2", "41"})
