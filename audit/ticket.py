"""Callers who share commits: each has a ticket, and one of those who wait does the work for all.

The one who works is the leader. Whoever finds no leader leads; a leader whose own ticket is answered makes the first
who waits the next. All others sleep until they are answered, each on a lock of its own: on one lock for all, a commit
would wake every caller in turn, most of them only to be sent to sleep again, and commits would stay small.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from audit.entry import Draft, Entry
from audit.errors import AuditError, AuditUnavailable, Overtaken


@dataclass(frozen=True, slots=True)
class Proviso:
    """On what condition an entry is logged: what it rests on is decided at one moment and logged at a later one.

    Attributes:
        since: the index of the first entry that whoever drafted it has not seen.
        holds: given the entry as it would stand, and all from `since` that stand before it: whether it may. It runs
            inside the commit, for whoever waits there: it must be quick, and ask neither the log nor anybody's lock.
    """

    since: int
    holds: Callable[[Entry, Sequence[Entry]], bool]

    def weigh(self, placed: Entry, between: Sequence[Entry]) -> None:
        """Raise Overtaken unless it holds."""
        if not self.holds(placed, between):
            raise Overtaken("what it rests on changed before it was logged; look again")


class Ticket:
    """One caller's draft, and its answer."""

    __slots__ = ("_asleep", "_error", "done", "draft", "entry", "proviso")

    def __init__(self, draft: Draft, proviso: Proviso | None = None) -> None:
        self.draft, self.proviso = draft, proviso
        self.done = False
        self.entry: Entry | None = None
        self._error: AuditError | None = None
        self._asleep = threading.Lock()
        self._asleep.acquire()

    def fail(self, error: AuditError) -> None:
        """Answer with an error, unless it is answered."""
        if not self.done:
            self._error, self.done = error, True

    def result(self) -> Entry:
        """The answer."""
        if self._error is not None:
            raise self._error
        if self.entry is None:
            raise AuditUnavailable("no answer; repeat with the same key")
        return self.entry

    def sleep(self) -> None:
        """Return when somebody called ``wake``. At most one each."""
        self._asleep.acquire()

    def wake(self) -> None:
        """Let the caller go on: it is answered, or it leads."""
        self._asleep.release()


class Line:
    """Those who wait for a commit, first come first. Thread-safe."""

    def __init__(self) -> None:
        self._gate = threading.Lock()  # guards both below; never held while waiting for anything
        self._waiting: deque[Ticket] = deque()
        self._leader: Ticket | None = None

    def join(self, ticket: Ticket) -> None:
        """Wait until the ticket is answered, or until it leads. Always followed by ``leave``, whatever happens here."""
        with self._gate:
            self._waiting.append(ticket)
            if self._leader is None:
                self._leader = ticket
                return
        ticket.sleep()

    def take(self, most: int) -> list[Ticket]:
        """The first who wait: the leader's own ticket and those behind it. For the leader."""
        with self._gate:
            return [self._waiting.popleft() for _ in range(min(most, len(self._waiting)))]

    def waiting(self) -> tuple[Ticket, ...]:
        """Those whom nobody has taken yet."""
        with self._gate:
            return tuple(self._waiting)

    def answered(self, leader: Ticket, tickets: list[Ticket]) -> None:
        """Wake all of these, which are done, but the leader, who is awake."""
        for ticket in tickets:
            if ticket is not leader:
                ticket.wake()

    def leave(self, ticket: Ticket) -> None:
        """Go, done or interrupted; a leader hands over to the first who waits."""
        if ticket.done and self._leader is not ticket:
            return
        with self._gate:
            if ticket in self._waiting:
                self._waiting.remove(ticket)
            if self._leader is ticket:
                self._leader = self._waiting[0] if self._waiting else None
                if self._leader is not None:
                    self._leader.wake()
