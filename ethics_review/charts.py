"""The charts: each takes one call more in constant time, and says where its metric stands.

A chart's whole state is numbers, texts, lists and maps, so that a restart continues where it stood. What it says at an
entry depends only on the entries from its reading's `first` on; that is what makes a reading repeatable. A chart that
has suspended stays as it is until the next epoch: what came later does not change what was found. Pure.
"""

from collections import OrderedDict
from collections.abc import Iterator
from copy import deepcopy
from decimal import Decimal
from fractions import Fraction
from typing import ClassVar, Final

from audit.entry import JsonValue
from ethics_review import drift
from ethics_review.evaluation import METRICS, Outcome, Reading, Tier
from ethics_review.sequential import MILLION, Design, allowed, decimal, percentile, text

NOTHING: Final = -1
"""Stands for "no entry yet"."""


class Chart:
    """A metric's running state. `keeps` names the attributes that are its state."""

    keeps: ClassVar[tuple[str, ...]] = ()

    def state(self) -> dict[str, JsonValue]:
        """Everything that a later `restore` needs."""
        return {name: deepcopy(getattr(self, name)) for name in self.keeps}

    def restore(self, state: dict[str, JsonValue]) -> None:
        """Continue where `state` was taken; it is of our own making."""
        for name in self.keeps:
            setattr(self, name, deepcopy(state[name]))

    @property
    def loud(self) -> bool:
        """Whether the last call made any reading worse than OK; quick, as it is asked at each call."""
        return False

    def readings(self) -> Iterator[Reading]:
        """Where it stands now; nothing before its first call."""
        yield from ()


class Cusum(Chart):
    """A CUSUM on one kind of event among judged calls. Without a design it only counts, and is TOO_FEW."""

    keeps = ("level", "n", "first", "last", "signalled")

    def __init__(self, metric: str, design: Design | None) -> None:
        self.metric, self.design = metric, design
        self.level, self.n, self.first, self.last, self.signalled = 0, 0, NOTHING, NOTHING, False

    def add(self, index: int, begun: int, *, event: bool) -> None:
        """One judged call: the entry that judged it, the entry in which it began."""
        if self.signalled:
            return
        self.n += 1
        self.first = begun if self.first == NOTHING else min(self.first, begun)
        self.last = index
        if self.design is not None:
            self.level = self.design.step(self.level, event=event)
            self.signalled = self.level >= self.design.limit

    @property
    def loud(self) -> bool:
        """See Chart."""
        return self.signalled

    def readings(self) -> Iterator[Reading]:
        """See Chart. The value is the level in nats, the limit h."""
        if not self.n:
            return
        outcome = Outcome.OK
        if self.signalled:
            outcome = Outcome.SUSPEND
        elif self.design is None or self.n < METRICS[self.metric].n_min:
            outcome = Outcome.TOO_FEW
        value = limit = None
        if self.design is not None:
            value, limit = text(Fraction(self.level, MILLION)), text(Fraction(self.design.limit, MILLION))
        yield Reading(self.metric, None, self.first, self.last, self.n, value, limit, outcome)


class Share(Chart):
    """Share of events among the last `size` calls. Counted against a full window, so early ones suffice to exceed."""

    keeps = ("items", "events", "last", "signalled")

    def __init__(
        self, metric: str, *, limit: Decimal | None = None, size: int = 0, subgroup: str | None = None
    ) -> None:
        row = METRICS[metric]
        self.metric, self.subgroup = metric, subgroup
        self.size = size or row.size
        self.n_min = min(row.n_min, self.size) if size else row.n_min
        self.limit = decimal(row.limit) if limit is None else limit
        self.allowed = allowed(self.limit, self.size)
        self.items: list[list[int]] = []
        self.events, self.last, self.signalled = 0, NOTHING, False

    def add(self, index: int, begun: int, *, event: bool) -> None:
        """One more call: the entry that ended it, the entry in which it began."""
        if self.signalled:
            return
        self.items.append([begun, int(event)])
        self.events += event
        if len(self.items) > self.size:
            self.events -= self.items.pop(0)[1]
        self.last = index
        # Only what suspends is held; a warning may go away by itself.
        self.signalled = self.loud and METRICS[self.metric].tier is not Tier.T2

    @property
    def loud(self) -> bool:
        """See Chart."""
        return self.events > self.allowed

    def readings(self) -> Iterator[Reading]:
        """See Chart."""
        if not self.items:
            return
        n = len(self.items)
        outcome = Outcome.OK if n >= self.n_min else Outcome.TOO_FEW
        if self.loud:
            outcome = METRICS[self.metric].worst
        first = min(item[0] for item in self.items)
        value, limit = text(Fraction(self.events, n)), text(self.limit)
        yield Reading(self.metric, self.subgroup, first, self.last, n, value, limit, outcome)


class Latency(Chart):
    """The 95th percentile of milliseconds over the last calls."""

    keeps = ("items", "over", "last")

    def __init__(self, limit_ms: int) -> None:
        self.limit_ms, self.row = limit_ms, METRICS["LATENCY_P95"]
        self.items: list[list[int]] = []
        self.over, self.last = 0, NOTHING

    def add(self, index: int, begun: int, milliseconds: int) -> None:
        """One result: its entry, the entry in which its call began, the time between them."""
        self.items.append([begun, milliseconds])
        self.over += milliseconds > self.limit_ms
        if len(self.items) > self.row.size:
            self.over -= self.items.pop(0)[1] > self.limit_ms
        self.last = index

    @property
    def loud(self) -> bool:
        """See Chart."""
        n = len(self.items)
        # The nearest-rank percentile exceeds the limit exactly when more calls do than may.
        return n >= self.row.n_min and self.over > n - -(-n * 95 // 100)

    def readings(self) -> Iterator[Reading]:
        """See Chart. Value and limit are milliseconds."""
        n = len(self.items)
        if not n:
            return
        value = percentile([item[1] for item in self.items], 95)
        outcome = Outcome.TOO_FEW if n < self.row.n_min else Outcome.OK
        if self.loud:
            outcome = Outcome.ALERT
        first = min(item[0] for item in self.items)
        yield Reading(self.row.name, None, first, self.last, n, text(value), text(self.limit_ms), outcome)


class Drift(Chart):
    """PSI of the last full window of one variable against the epoch's first calls."""

    keeps = ("first", "last", "early", "points", "reference", "window", "referred", "filled", "n", "value")

    def __init__(self, metric: str, subgroup: str, *, numbers: bool = False) -> None:
        self.metric, self.subgroup, self.numbers = metric, subgroup, numbers
        self.first, self.last = NOTHING, NOTHING
        self.referred = self.filled = self.n = 0  # calls in the reference, in the window now, behind the reading
        self.news = False  # of the last call alone, so no part of the state
        self.early: list[str] = []
        self.points: list[str] = []
        self.reference: dict[str, int] = {}
        self.window: dict[str, int] = {}
        self.value: str | None = None

    def add(self, index: int, begun: int, seen: str) -> None:
        """One call more: a class, or a decimal as text where `numbers`."""
        self.first = begun if self.first == NOTHING else min(self.first, begun)
        self.news = False
        if self.referred < drift.REFERENCE:
            self.referred += 1
            self._refer(seen)
            self.n, self.last = self.referred, index
            return
        name = self._class(seen)
        self.window[name] = self.window.get(name, 0) + 1
        self.filled += 1
        if self.filled == drift.WINDOW:
            self.value = text(drift.psi(self.reference, self.window))
            self.news = decimal(self.value) > drift.LIMIT
            self.window, self.filled, self.n, self.last = {}, 0, drift.WINDOW, index

    @property
    def loud(self) -> bool:
        """See Chart."""
        return self.news

    def _refer(self, seen: str) -> None:
        if not self.numbers:
            self.reference[seen] = self.reference.get(seen, 0) + 1
            return
        self.early.append(seen)
        if self.referred < drift.REFERENCE:
            return
        values = [decimal(one) for one in self.early]
        self.points = [str(point) for point in drift.cuts(values)]
        for one in self.early:
            name = self._class(one)
            self.reference[name] = self.reference.get(name, 0) + 1
        self.early = []

    def _class(self, seen: str) -> str:
        return drift.class_of(decimal(seen), [decimal(point) for point in self.points]) if self.numbers else seen

    def readings(self) -> Iterator[Reading]:
        """See Chart. Until a window is full there is no value, and `n` counts the reference."""
        if self.first == NOTHING:
            return
        outcome = Outcome.TOO_FEW
        if self.value is not None:
            outcome = Outcome.ALERT if decimal(self.value) > drift.LIMIT else Outcome.OK
        yield Reading(self.metric, self.subgroup, self.first, self.last, self.n, self.value, text(drift.LIMIT), outcome)


class Due(Chart):
    """Decisions that fell due in this civil day, and how many of them had not come."""

    keeps = ("waiting", "n", "overdue", "first", "last")

    def __init__(self, hours: int) -> None:
        self.lasts_us = hours * 3600 * MILLION
        # Call: due, begun, decided; in the order in which they fall due.
        self.waiting: OrderedDict[str, list[int]] = OrderedDict()
        self.n, self.overdue, self.first, self.last = 0, 0, NOTHING, NOTHING
        self.news = False  # of the last entry alone, so no part of the state

    def restore(self, state: dict[str, JsonValue]) -> None:
        """See Chart. What is stored may have lost the order."""
        super().restore(state)
        self.waiting = OrderedDict(sorted(self.waiting.items(), key=lambda item: item[1][:2]))

    def released(self, call: str, begun: int, now_us: int) -> None:
        """A result went out; a decision is wanted within the hours."""
        if call not in self.waiting:
            self.waiting[call] = [now_us + self.lasts_us, begun, 0]

    def decided(self, call: str) -> None:
        """A person decided, in whatever way."""
        if call in self.waiting:
            self.waiting[call][2] = 1

    def passes(self, index: int, now_us: int) -> None:
        """Time went on, as the entry at `index` says."""
        self.news = False
        while self.waiting:
            call = next(iter(self.waiting))
            due_us, begun, decided = self.waiting[call]
            if due_us > now_us:
                break
            del self.waiting[call]
            self.n += 1
            self.overdue += not decided
            self.first = begun if self.first == NOTHING else min(self.first, begun)
            self.last = index
            self.news = self.overdue > 0

    @property
    def loud(self) -> bool:
        """See Chart."""
        return self.news

    def new_day(self) -> None:
        """The counts are of one civil day."""
        self.n, self.overdue, self.first, self.last = 0, 0, NOTHING, NOTHING

    def readings(self) -> Iterator[Reading]:
        """See Chart. Two rows: any at all warns; more than 1 % of enough suspends."""
        if not self.n:
            return
        for row in (METRICS["DECISION_OVERDUE"], METRICS["DECISIONS_MISSING"]):
            outcome = Outcome.OK if self.n >= row.n_min else Outcome.TOO_FEW
            if self.n >= row.n_min and Fraction(self.overdue, self.n) > Fraction(row.limit):
                outcome = row.worst
            share = text(Fraction(self.overdue, self.n))
            yield Reading(row.name, None, self.first, self.last, self.n, share, text(decimal(row.limit)), outcome)
