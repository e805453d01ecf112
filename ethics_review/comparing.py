"""Comparisons of a PACS with the log: whether they are made, and how much of what is logged they do not find there.

    RESULTS_UNMATCHED     of the results that a comparison looked for, those that the PACS does not hold, or holds
                          though the log has no release: more than 0.5 %. The entry does not say whose: every model's
    COMPARISON_OVERDUE    a result was released more than 48 hours ago, and nothing was compared since

The service does not compare by itself: hospital IT does, each day, and a chore that has stopped makes no noise. Both
warn; what suspends is a result that the log does not know (`duties`). Pure.
"""

from collections.abc import Iterator
from decimal import Decimal
from fractions import Fraction
from typing import Final

from ethics_review.charts import NOTHING, Chart
from ethics_review.evaluation import METRICS, Outcome, Reading
from ethics_review.facts import Fact, What
from ethics_review.sequential import MILLION, decimal, text

LASTS_US: Final = 48 * 3600 * MILLION
"""A day from one comparison to the next, and one more for a machine that was off at that hour."""


class Comparisons(Chart):
    """The last comparison, and what was released since."""

    keeps = ("matched", "unmatched", "last", "since", "overdue")

    def __init__(self) -> None:
        self.matched, self.unmatched, self.last = 0, 0, NOTHING
        self.since: list[int] = []  # of the first release since the last comparison: its time, where its call began
        self.overdue: list[int] = []  # where that call began, and the entry by which it was too long ago
        self.news = False  # of the last entry alone, so no part of the state

    def passes(self, fact: Fact) -> None:
        """Time went on, as this entry says; by its own time, so that its range alone gives the same."""
        self.news = False
        if self.since and not self.overdue and fact.time_us > self.since[0] + LASTS_US:
            self.overdue = [self.since[1], fact.index]
            self.news = True
        if fact.what is What.RECONCILED:
            self.matched, self.unmatched, self.last = fact.matched, fact.unmatched, fact.index
            self.since, self.overdue = [], []
            self.news = True

    def released(self, begun: int, time_us: int) -> None:
        """A result of the model went out; its call began in the entry `begun`."""
        self.since = self.since or [time_us, begun]

    @property
    def loud(self) -> bool:
        """See Chart."""
        return self.news

    def readings(self) -> Iterator[Reading]:
        """See Chart."""
        if n := self.matched + self.unmatched:
            row = METRICS["RESULTS_UNMATCHED"]
            share = Fraction(self.unmatched, n)
            outcome = Outcome.OK if n >= row.n_min else Outcome.TOO_FEW
            if share > Fraction(Decimal(row.limit)):
                outcome = row.worst
            yield Reading(row.name, None, self.last, self.last, n, text(share), text(decimal(row.limit)), outcome)
        if self.overdue:
            first, last = self.overdue
            yield Reading("COMPARISON_OVERDUE", None, first, last, 1, "1.000000", "0.000000", Outcome.ALERT)
