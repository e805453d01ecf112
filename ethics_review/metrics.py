"""How well a model does on a labelled set, with confidence: the rows of an ACCEPTANCE entry.

Exact fractions in and out, and a generator whose numbers never change (the Mersenne twister's `random()`), so that
anybody who has the cases makes the same rows again. Shares have Wilson's interval: a bootstrap of 50 right out of 50
would be sure of 100 %. Everything else has a BCa bootstrap over cases (Efron 1987). A row with too few cases has n, and
no value. Pure.
"""

import hashlib
import math
import random
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal
from fractions import Fraction
from statistics import NormalDist
from typing import Final

from audit.entry import JsonValue
from ethics_review.errors import RequestInvalid
from ethics_review.gaps import group_of
from ethics_review.sequential import decimal, normal_quantile, text, wilson

N_MIN: Final = 30
"""Cases below which nothing is said: a share's 95 % interval is then 26 points wide or more at 15 %."""
DRAWS: Final = 2_000
"""Bootstrap samples: the ends of the interval then move by a few percent of its width from seed to seed."""
BINS: Final = 10
"""Classes of equal width for calibration."""
TAIL: Final = Fraction(25, 1000)
MILLION: Final = 1_000_000
METRIC_NAMES: Final = ("SENSITIVITY", "SPECIFICITY", "AUC", "DICE", "VOLUME_ERROR", "ECE", "BRIER", "FAILURES")

Samples = Sequence[Sequence[tuple[int, ...]]]
Statistic = Callable[[Samples], Fraction]


@dataclass(frozen=True, slots=True)
class Case:
    """One labelled case and what the model made of it. None for what its task does not have.

    Attributes:
        truth, positive: what the label says, and what the model said. A failed case has no `positive`.
        score: the model's own probability of a finding, 0 to 1.
        dice: overlap, 0 to 1. volume_error: (measured - true) / true.
        classes: (condition, class) pairs, as the gate observes them.
        failed: the model gave no result. It counts as wrong wherever that can be said.
        undecided: the model's answer leaves it open. Whatever the truth is, it was not told: wrong as well, so that no
            model gets better by leaving open what it is bad at.
    Raises RequestInvalid.
    """

    truth: bool | None = None
    positive: bool | None = None
    score: Fraction | None = None
    dice: Fraction | None = None
    volume_error: Fraction | None = None
    classes: tuple[tuple[str, str], ...] = ()
    failed: bool = False
    undecided: bool = False

    def __post_init__(self) -> None:
        for share in (self.score, self.dice):
            if share is not None and not 0 <= share <= 1:
                raise RequestInvalid("a share of 0 to 1 wanted")
        if self.failed and (self.positive is not None or self.score is not None):
            raise RequestInvalid("a failed case has no answer")
        if self.undecided and (self.positive is not None or self.failed):
            raise RequestInvalid("what is left open is neither answered nor failed")


@dataclass(frozen=True, slots=True)
class Row:
    """One result. Without a value there were too few cases; with no interval alone, the cases did not vary."""

    metric: str
    subgroup: str | None
    n: int
    value: str | None
    low: str | None
    high: str | None

    @property
    def insufficient(self) -> bool:
        """Whether there were too few cases to say anything."""
        return self.value is None

    def body(self) -> dict[str, JsonValue]:
        """As it stands in an ACCEPTANCE entry."""
        return {
            "metric": self.metric,
            "subgroup": self.subgroup,
            "n": self.n,
            "value": self.value,
            "low": self.low,
            "high": self.high,
        }


@dataclass(frozen=True, slots=True)
class Bin:
    """One class of the reliability table: cases with scores from b / 10, their mean score, the share with a finding."""

    b: int
    n: int
    score: str
    share: str


def dice_of(both: int, one: int, other: int) -> Fraction:
    """Dice's coefficient from voxel counts: in both masks, in one, in the other. Two empty masks agree."""
    return Fraction(2 * both, one + other) if one + other else Fraction(1)


def volume_error_of(measured: Fraction, true: Fraction) -> Fraction | None:
    """(measured - true) / true; None where there was nothing to measure."""
    return (measured - true) / true if true else None


def rows(cases: Sequence[Case], *, seed: str, n_min: int = N_MIN) -> tuple[Row, ...]:
    """Every metric that the cases have, for all of them and for each subgroup, in a fixed order.

    `seed` is any text; the dataset's digest does.
    """
    groups: dict[str, list[Case]] = {}
    for case in cases:
        for condition, seen in case.classes:
            groups.setdefault(group_of(condition, seen), []).append(case)
    named: list[tuple[str | None, Sequence[Case]]] = [(None, cases), *sorted(groups.items())]
    asked = [metric for metric in METRIC_NAMES if any(_has(metric, case) for case in cases)]
    return tuple(
        _row(metric, group, some, f"{seed} {metric} {group}", n_min) for group, some in named for metric in asked
    )


def reliability(cases: Iterable[Case]) -> tuple[Bin, ...]:
    """The calibration table: for each class of scores that occurs, how often there was a finding."""
    bins: dict[int, list[Case]] = {}
    for case in cases:
        if case.score is not None and case.truth is not None:
            bins.setdefault(min(BINS - 1, int(case.score * BINS)), []).append(case)
    return tuple(
        Bin(
            b,
            len(some),
            text(sum((case.score or Fraction(0) for case in some), Fraction(0)) / len(some)),
            text(Fraction(sum(bool(case.truth) for case in some), len(some))),
        )
        for b, some in sorted(bins.items())
    )


def fewest(bounds: Iterable[Mapping[str, JsonValue]]) -> int:
    """Cases below which a row says nothing: N_MIN, or fewer where a reviewer signed a bound that asks for fewer."""
    return min([N_MIN, *(int(str(bound["n"])) for bound in bounds)])


def unmet(bounds: Iterable[Mapping[str, JsonValue]], found: Iterable[Row]) -> tuple[Mapping[str, JsonValue], ...]:
    """Those of the approval's `acceptance` bounds that the rows do not show to be met; all must be, for LIVE.

    What counts is the end of the interval, not the value; a row that is missing or insufficient meets nothing.
    """
    by_name = {(row.metric, row.subgroup): row for row in found}
    return tuple(bound for bound in bounds if not _met(bound, by_name.get(_name(bound))))


def _name(bound: Mapping[str, JsonValue]) -> tuple[str, str | None]:
    subgroup = bound["subgroup"]
    return str(bound["metric"]), None if subgroup is None else str(subgroup)


def _met(bound: Mapping[str, JsonValue], row: Row | None) -> bool:
    limits = [key for key in ("at_least", "at_most") if bound.get(key) is not None]
    if row is None or row.low is None or row.high is None or row.n < int(str(bound["n"])) or not limits:
        return False
    least = "at_least" not in limits or decimal(row.low) >= decimal(str(bound["at_least"]))
    most = "at_most" not in limits or decimal(row.high) <= decimal(str(bound["at_most"]))
    return least and most


def _has(metric: str, case: Case) -> bool:
    """Whether the case says anything about the metric."""
    if metric in {"SENSITIVITY", "SPECIFICITY"}:
        told = case.positive is not None or case.failed or case.undecided
        return case.truth is (metric == "SENSITIVITY") and told
    if metric in {"AUC", "ECE", "BRIER"}:
        return case.truth is not None and case.score is not None
    if metric == "DICE":
        return case.dice is not None
    return metric == "FAILURES" or case.volume_error is not None


def _row(metric: str, group: str | None, cases: Sequence[Case], seed: str, n_min: int) -> Row:
    mine = [case for case in cases if _has(metric, case)]
    n = len(mine)
    if metric in {"SENSITIVITY", "SPECIFICITY", "FAILURES"}:
        right = sum(case.failed if metric == "FAILURES" else case.positive is case.truth for case in mine)
        if n < n_min:
            return Row(metric, group, n, None, None, None)
        low, high = wilson(right, n, normal_quantile(TAIL))
        return Row(metric, group, n, text(Fraction(right, n)), text(max(low, Decimal(0))), text(min(high, Decimal(1))))
    samples, statistic = _sampled(metric, mine)
    # An area under a curve knows no more than the scarcer of the two kinds of case.
    if min(len(sample) for sample in samples) < n_min:
        return Row(metric, group, n, None, None, None)
    interval = bootstrap(samples, statistic, seed)
    ends = (None, None) if interval is None else (text(interval[0]), text(interval[1]))
    return Row(metric, group, n, text(statistic(samples)), *ends)


def _sampled(metric: str, cases: Sequence[Case]) -> tuple[Samples, Statistic]:
    if metric == "DICE":
        return [[(_micro(case.dice),) for case in cases]], mean
    if metric == "VOLUME_ERROR":
        return [[(abs(_micro(case.volume_error)),) for case in cases]], mean
    pairs = [(_micro(case.score), int(bool(case.truth))) for case in cases]
    if metric == "AUC":
        return [[(score,) for score, truth in pairs if truth == kind] for kind in (1, 0)], auc
    return [pairs], (ece if metric == "ECE" else brier)


def _micro(value: Fraction | None) -> int:
    return round((value or Fraction(0)) * MILLION)


def mean(samples: Samples) -> Fraction:
    """The mean of one sample of millionths."""
    return Fraction(sum(item[0] for item in samples[0]), MILLION * len(samples[0]))


def auc(samples: Samples) -> Fraction:
    """Probability that a case with a finding scores higher than one without; a tie counts half (Mann and Whitney)."""
    with_finding: dict[int, int] = {}
    without: dict[int, int] = {}
    for counts, sample in ((with_finding, samples[0]), (without, samples[1])):
        for (score,) in sample:
            counts[score] = counts.get(score, 0) + 1
    below = twice = 0
    for score in sorted({*with_finding, *without}):
        same = without.get(score, 0)
        twice += with_finding.get(score, 0) * (2 * below + same)
        below += same
    return Fraction(twice, 2 * len(samples[0]) * len(samples[1]))


def brier(samples: Samples) -> Fraction:
    """Mean squared distance of score and truth."""
    squares = sum((score - truth * MILLION) ** 2 for score, truth in samples[0])
    return Fraction(squares, MILLION * MILLION * len(samples[0]))


def ece(samples: Samples) -> Fraction:
    """Expected calibration error: over ten classes of scores, the mean distance of mean score and share of findings."""
    apart = [0] * BINS
    for score, truth in samples[0]:
        apart[min(BINS - 1, score * BINS // MILLION)] += score - truth * MILLION
    return Fraction(sum(abs(one) for one in apart), MILLION * len(samples[0]))


def bootstrap(
    samples: Samples, statistic: Statistic, seed: str, *, draws: int = DRAWS, corrected: bool = True
) -> tuple[Fraction, Fraction] | None:
    """The 95 % interval by resampling cases within each sample: BCa, or plain percentiles if not `corrected`.

    None where no resample differs from another: the cases say nothing about spread.
    """
    rng = random.Random(int.from_bytes(hashlib.sha256(seed.encode()).digest()))  # noqa: S311 - to be repeated, not secret
    drawn = []
    for _ in range(draws):
        drawn.append(
            statistic([[sample[int(rng.random() * len(sample))] for _ in range(len(sample))] for sample in samples])
        )
    drawn.sort()
    if drawn[0] == drawn[-1]:
        return None
    shares = (0.025, 0.975)
    if corrected:
        shares = _bias_corrected(samples, statistic, drawn)
    # Nearest rank; the small subtraction keeps 0.025 * 2000 at 50 whatever the last bit says.
    low, high = (drawn[min(draws - 1, max(0, math.ceil(share * draws - 1e-9) - 1))] for share in shares)
    return low, high


def _bias_corrected(samples: Samples, statistic: Statistic, drawn: Sequence[Fraction]) -> tuple[float, float]:
    observed, normal = statistic(samples), NormalDist()
    below = sum(one < observed for one in drawn) + sum(one == observed for one in drawn) / 2
    # Never quite 0 or 1, where the normal quantile has no end.
    z0 = normal.inv_cdf(min(max(below, 0.5), len(drawn) - 0.5) / len(drawn))
    skew = acceleration(samples, statistic)
    z = float(normal_quantile(TAIL))
    first, second = (normal.cdf(z0 + (z0 + end) / max(1e-9, 1 - skew * (z0 + end))) for end in (-z, z))
    return first, second


def acceleration(samples: Samples, statistic: Statistic) -> float:
    """BCa's acceleration: how much each case pulls (Efron and Tibshirani 1993, 14.15), summed over the samples."""
    cubes = squares = 0.0
    for k, sample in enumerate(samples):
        if len(sample) < 2:
            continue
        without = [
            float(statistic([*samples[:k], [*sample[:i], *sample[i + 1 :]], *samples[k + 1 :]]))
            for i in range(len(sample))
        ]
        middle = math.fsum(without) / len(without)
        pulls = [(len(sample) - 1) * (middle - one) / len(sample) for one in without]
        cubes += math.fsum(pull**3 for pull in pulls)
        squares += math.fsum(pull**2 for pull in pulls)
    return cubes / (6 * squares**1.5) if squares else 0.0
