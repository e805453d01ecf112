"""Gaps between subgroups: is one group's share of disagreements worse than the others', by more than is allowed?

Looked at after every 100 judged calls of a group. The whole chart errs with probability 2.5 % at most over all its
life, where no gap is larger than the limit: that is shared out over the groups (Bonferroni), and over the looks at a
group as 1/(1*2) + 1/(2*3) + 1/(3*4) + ... = 1, for whoever looks again and again finds something at last. Pure.
"""

from collections.abc import Iterator
from decimal import Decimal, localcontext
from fractions import Fraction
from functools import lru_cache
from typing import Final

from audit.entry import JsonValue
from ethics_review.charts import NOTHING, Chart
from ethics_review.evaluation import METRICS, Outcome, Reading
from ethics_review.sequential import EXACT, gap_at_least, text
from ethics_review.vocabulary import KEPT_MAX, token

DIMENSIONS: Final = ("SEX", "AGE_YEARS", "MANUFACTURER", "SITE")
LOOK: Final = 100
"""Judged calls in a group between looks, and the fewest in it and beside it for one."""
TAIL: Final = Fraction(25, 1000)
"""Below the lower end of a 95 % interval lies 2.5 %."""
AGES: Final = (0, 20, 40, 60, 80)
"""Bands of twenty years: groups of five would hardly ever reach 100."""
SLICES_MM: Final = ("1", "2", "3", "5")


def slice_class(seen: str) -> str:
    """Slice spacing in mm as radiologists group it; what is no number is a class of its own."""
    try:
        spacing = Decimal(seen)
    except ArithmeticError:
        return seen
    return next((f"to {edge}" for edge in SLICES_MM if spacing <= Decimal(edge)), f"over {SLICES_MM[-1]}")


@lru_cache(KEPT_MAX)
def group_of(condition: str, seen: str) -> str:
    """ "SEX:F", "AGE_YEARS:60-79", "SLICE_SPACING_MM:to 1": the group of a class that the gate observed."""
    if condition == "SLICE_SPACING_MM":
        seen = slice_class(seen)
    low = seen.split("-")[0].rstrip("+")
    if condition == "AGE_YEARS" and low.isdecimal():
        start = max(age for age in AGES if age <= int(low))
        seen = f"{start}-{start + 19}" if start < AGES[-1] else f"{start}+"
    return token(f"{condition}:{seen}")


def parts_of(group: str) -> tuple[str, str]:
    """The condition and the class that a group's name is made of."""
    condition, _, seen = group.partition(":")
    return condition, seen


class Gaps(Chart):
    """All groups of all dimensions: judged calls, disagreements, and what the last look at each found."""

    keeps = ("groups", "cut", "found", "suspended", "first")

    def __init__(self, limit: Decimal, *, restrict_first: bool) -> None:
        self.limit, self.restrict_first = limit, restrict_first
        self.groups: dict[str, list[int]] = {}  # group: n, disagreements, looks, last
        self.found: dict[str, list[JsonValue]] = {}  # group: last, n, bound, gap, outcome at its last look
        self.cut: list[str] = []
        self.suspended, self.first = False, NOTHING
        self.news = False  # of the last call alone, so no part of the state

    def add(self, index: int, begun: int, classes: tuple[tuple[str, str], ...], *, event: bool) -> None:
        """One judged call: the entry that judged it, the entry in which it began, its classes."""
        self.news = False
        mine = [group_of(condition, seen) for condition, seen in classes if condition in DIMENSIONS]
        if self.suspended or not mine:
            return
        self.first = begun if self.first == NOTHING else min(self.first, begun)
        for group in mine:
            counts = self.groups.setdefault(group, [0, 0, 0, 0])
            counts[0] += 1
            counts[1] += event
            counts[3] = index
        for group in mine:
            if self.groups[group][0] % LOOK == 0 and group not in self.cut:
                self._look(index, group)

    def _look(self, index: int, group: str) -> None:
        n, events, looks, _ = self.groups[group]
        same = parts_of(group)[0] + ":"
        others = [
            counts
            for name, counts in self.groups.items()
            if name != group and name.startswith(same) and name not in self.cut
        ]
        rest, rest_events = sum(counts[0] for counts in others), sum(counts[1] for counts in others)
        if rest < LOOK:
            return
        looks += 1
        self.groups[group][2] = looks
        bound = gap_at_least((events, n), (rest_events, rest), TAIL / (len(self.groups) * looks * (looks + 1)))
        with localcontext(EXACT):
            gap = Decimal(events) / n - Decimal(rest_events) / rest
        outcome = Outcome.OK
        if bound > self.limit:
            outcome = Outcome.RESTRICT if self.restrict_first and not self.cut else Outcome.SUSPEND
        self.found[group] = [index, n, text(bound), text(gap), outcome.value]
        if outcome is Outcome.RESTRICT:
            self.cut.append(group)
        self.suspended = self.suspended or outcome is Outcome.SUSPEND
        self.news = self.news or outcome is not Outcome.OK or gap > self.limit

    @property
    def loud(self) -> bool:
        """See Chart."""
        return self.news

    def readings(self) -> Iterator[Reading]:
        """See Chart. For each group the lower bound of its gap, and the gap as it was seen."""
        for group, counts in sorted(self.groups.items()):
            if group not in self.found:
                yield self._reading("SUBGROUP_GAP", group, (counts[3], counts[0]), None, Outcome.TOO_FEW)
                continue
            last, n, bound, gap, said = self.found[group]
            at = (int(str(last)), int(str(n)))
            yield self._reading("SUBGROUP_GAP", group, at, str(bound), Outcome(str(said)))
            seen = Outcome.ALERT if Decimal(str(gap)) > self.limit else Outcome.OK
            yield self._reading("SUBGROUP_GAP_SEEN", group, at, str(gap), seen)

    def _reading(self, metric: str, group: str, at: tuple[int, int], value: str | None, outcome: Outcome) -> Reading:
        last, n = at
        return Reading(METRICS[metric].name, group, self.first, last, n, value, text(self.limit), outcome)
