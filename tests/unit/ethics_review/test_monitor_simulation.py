"""How often the monitor cries wolf, and how soon it sees: simulated with its own arithmetic, and computed exactly.

The figures to reproduce (`WANTED`) come from a simulation made before the monitor was: with the log-likelihood CUSUM,
level never below 0, threshold h in nats. The chain says 25.6, 45.3 and 17.2 thousand calls between false alarms, where
they say 28, 49 and 18: within two standard errors of 300 runs. Its delays (182, 283, 136; 370) agree to 5 %.
"""

import random
from dataclasses import dataclass
from fractions import Fraction

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy.sparse import csr_matrix, identity
from scipy.sparse.linalg import splu

from ethics_review import drift
from ethics_review.evaluation import Outcome
from ethics_review.monitor import Monitor
from ethics_review.sequential import Design, design
from tests.simulators.monitored import Ward, plan


@dataclass(frozen=True)
class Wanted:
    """One row: calls between false alarms in thousands, median and 90 % of calls to detection."""

    p0: str
    p1: str
    false_alarm: float
    median: int
    ninety: int | None = None


WANTED = (Wanted("0.06", "0.12", 28, 187, 367), Wanted("0.02", "0.05", 49, 293), Wanted("0.15", "0.25", 18, 141))
RUNS_BEHIND = 300
LATTICE = 12_000
"""States of the chain, about; halving them changes no figure below by 0.5 %."""


def chain(chart: Design, p: float, states: int = LATTICE) -> csr_matrix:
    """The chart's level as a Markov chain on a lattice of which `down` is a whole multiple, its signal left out."""
    most = round(states * chart.down / chart.limit)
    # Of the lattices about so fine, the one on which the step up is most nearly a whole number as well.
    fineness = min(range(most // 2, most + 1), key=lambda fine: abs(chart.up * fine / chart.down % 1 - 0.5) * -1)
    up, limit = round(chart.up * fineness / chart.down), -(-chart.limit * fineness // chart.down)
    level = np.arange(limit)
    higher = level + up
    inside = higher < limit
    rows = np.concatenate([level[inside], level])
    columns = np.concatenate([higher[inside], np.maximum(level - fineness, 0)])
    shares = np.concatenate([np.full(int(inside.sum()), p), np.full(limit, 1 - p)])
    return csr_matrix((shares, (rows, columns)), shape=(limit, limit))


def run_length(chart: Design, p: float, states: int = LATTICE) -> tuple[float, float]:
    """Mean and standard deviation of the calls until a signal, from level 0, exactly."""
    steps = chain(chart, p, states)
    solver = splu((identity(steps.shape[0]) - steps).tocsc())
    mean = solver.solve(np.ones(steps.shape[0]))
    second = solver.solve(1 + 2 * (steps @ mean))
    return float(mean[0]), float(np.sqrt(second[0] - mean[0] ** 2))


def quantile(chart: Design, p: float, share: float) -> int:
    """After how many calls the signal has come with probability `share`, exactly."""
    steps = chain(chart, p).T.tocsr()
    still = np.zeros(steps.shape[0])
    still[0] = 1.0
    calls = 0
    while 1 - still.sum() < share:
        still, calls = steps @ still, calls + 1
    return calls


def signals(chart: Design, p: float, streams: int, calls: int, seed: int) -> int:
    """Signals in so many streams of calls, each starting over after a signal."""
    rng = np.random.default_rng(seed)
    level: NDArray[np.int64] = np.zeros(streams, dtype=np.int64)
    seen = 0
    for _ in range(calls // 1000):
        events = rng.random((1000, streams)) < p
        for event in events:
            level += np.where(event, chart.up, -chart.down)
            np.maximum(level, 0, out=level)
            over = level >= chart.limit
            seen += int(np.count_nonzero(over))
            level[over] = 0
    return seen


def delays(chart: Design, p: float, streams: int, seed: int) -> NDArray[np.int64]:
    """Calls until the first signal, in so many streams."""
    rng = np.random.default_rng(seed)
    level: NDArray[np.int64] = np.zeros(streams, dtype=np.int64)
    first: NDArray[np.int64] = np.zeros(streams, dtype=np.int64)
    call = 0
    while not first.all():
        call += 1
        level = np.maximum(level + np.where(rng.random(streams) < p, chart.up, -chart.down), 0)
        first[(level >= chart.limit) & (first == 0)] = call
    return first


@pytest.mark.slow
@pytest.mark.parametrize("row", WANTED, ids=lambda row: f"{row.p0}-{row.p1}")
def test_false_alarms(row: Wanted) -> None:
    """Calls between false alarms: the chain, the chart's simulation and the wanted figure agree within their errors."""
    chart = design(row.p0, row.p1, "6")
    exact, deviation = run_length(chart, float(row.p0))
    assert run_length(chart, float(row.p0), LATTICE // 2)[0] == pytest.approx(exact, rel=0.005)
    count = signals(chart, float(row.p0), streams=400, calls=100_000, seed=5)
    assert 400 * 100_000 / count == pytest.approx(exact, rel=3 / count**0.5 + 0.005)
    assert abs(row.false_alarm * 1000 - exact) < 2 * deviation / RUNS_BEHIND**0.5


@pytest.mark.slow
@pytest.mark.parametrize("row", WANTED, ids=lambda row: f"{row.p0}-{row.p1}")
def test_delays(row: Wanted) -> None:
    """Calls to detection: median and 90 % of the chain, of 20,000 simulated streams and of the wanted row agree."""
    chart = design(row.p0, row.p1, "6")
    median, ninety = quantile(chart, float(row.p1), 0.5), quantile(chart, float(row.p1), 0.9)
    seen = delays(chart, float(row.p1), streams=20_000, seed=6)
    assert float(np.median(seen)) == pytest.approx(median, rel=0.025)
    assert float(np.quantile(seen, 0.9)) == pytest.approx(ninety, rel=0.025)
    assert row.median == pytest.approx(median, rel=0.05)
    assert row.ninety is None or row.ninety == pytest.approx(ninety, rel=0.02)


def test_simulated_chart_is_the_monitors() -> None:
    """The monitor suspends at exactly the call at which the simulated chart signals."""
    rng, chart = random.Random(7), design("0.06", "0.12", "6")
    events = [rng.random() < 0.12 for _ in range(2_000)]
    level, expected = 0, 0
    for number, event in enumerate(events, 1):
        level = max(0, level + (chart.up if event else -chart.down))
        if level >= chart.limit:
            expected = number
            break
    ward, monitor, found = Ward(), Monitor(plan()), 0
    for number, event in enumerate(events, 1):
        ward.judged("REJECT" if event else "ACCEPT")
        said = [one for fact in ward.facts for one in monitor.feed(fact)]
        ward.facts.clear()
        if any(one.outcome is Outcome.SUSPEND and one.reading.metric == "DISAGREEMENT" for one in said):
            found = number
            break
    assert found == expected > 0


def test_the_monitor_sees_a_doubled_share() -> None:
    """Fed whole calls, a monitor of 6 % to 12 % with h = 6 suspends after a median of about 190 of them."""
    rng, seen = random.Random(12), []
    for _ in range(101):
        ward, monitor, calls = Ward(), Monitor(plan()), 0
        suspended = False
        while not suspended:
            calls += 1
            ward.judged("REJECT" if rng.random() < 0.12 else "ACCEPT")
            said = [one.reading.metric for fact in ward.facts for one in monitor.feed(fact) if one.outcome == "SUSPEND"]
            suspended = "DISAGREEMENT" in said
            ward.facts.clear()
        seen.append(calls)
    # Delays are about exponential beyond 100 calls: the median of 101 has a standard error of 12 %.
    assert sorted(seen)[50] == pytest.approx(187, rel=0.25)


def _table(counts: NDArray[np.int64]) -> dict[str, int]:
    return {str(name): int(count) for name, count in enumerate(counts)}


def test_psi_by_hand() -> None:
    """A class that only one table has counts as 1 in 10,000 in the other: twice 0.4999 ln 5000; equal tables give 0."""
    found = drift.psi({"a": 50, "b": 50}, {"a": 50, "c": 50})
    assert float(found) == pytest.approx(2 * 0.4999 * 8.517193191)
    assert drift.psi({"a": 1, "b": 3}, {"a": 100, "b": 300}) == 0


def test_psi_with_the_monitors_own_reference() -> None:
    """Against a reference of 1,000, a window of 500 without drift stays far below 0.25: no alert in 1,000 windows."""
    rng, equal = np.random.default_rng(10), [0.1] * 10
    windows = [(rng.multinomial(drift.REFERENCE, equal), rng.multinomial(drift.WINDOW, equal)) for _ in range(1_000)]
    assert max(drift.psi(_table(before), _table(after)) for before, after in windows) < drift.LIMIT / 2


@pytest.mark.slow
@pytest.mark.parametrize(
    ("n", "over_tenth", "over_quarter"), [(30, 98, 68), (50, 85, 27), (100, 40, 1), (200, 3, 0), (500, 0, 0)]
)
def test_psi_false_alarms(n: int, over_tenth: int, over_quarter: int) -> None:
    """With 10 equal classes and no drift, PSI exceeds 0.1 and 0.25 in the known share of windows, in percent."""
    rng, windows, equal = np.random.default_rng(8), 2_000, [0.1] * 10
    values = [
        drift.psi(_table(rng.multinomial(10_000, equal)), _table(rng.multinomial(n, equal))) for _ in range(windows)
    ]
    for limit, wanted in ((Fraction(1, 10), over_tenth), (Fraction(1, 4), over_quarter)):
        share = 100 * sum(Fraction(value) > limit for value in values) / windows
        assert share == pytest.approx(wanted, abs=3.0)


def test_drift_alone_never_suspends() -> None:
    """Every input and output changes altogether, nobody disagrees: the monitor warns of drift, and no more."""
    rng, ward, monitor = random.Random(9), Ward(), Monitor(plan())
    worst = set()
    for number in range(2_600):
        changed = number >= 1_300
        call = ward.call(
            sex="M" if changed else "F",
            age="90+" if changed else "30-34",
            vendor="OTHER" if changed else "UIH",
            spacing="5.0" if changed else "1.0",
        )
        ward.result(call, f"{rng.gauss(900 if changed else 1500, 50):.2f}")
        ward.decision(call, "ACCEPT" if rng.random() > 0.05 else "REJECT")
        ward.minute += 5
    for fact in ward.facts:
        worst |= {(one.reading.metric, one.outcome) for one in monitor.feed(fact)}
    assert {("INPUT_DRIFT", Outcome.ALERT), ("OUTPUT_DRIFT", Outcome.ALERT)} <= worst
    assert not {outcome for _, outcome in worst} & {Outcome.RESTRICT, Outcome.SUSPEND}


def test_small_windows_are_no_drift() -> None:
    """Before 1,000 calls of reference and a full window of 500, drift is TOO_FEW, whatever the figures."""
    ward, monitor = Ward(), Monitor(plan())
    for number in range(1_499):
        ward.call(sex="F" if number < 1_000 else "M")
    said = [one for fact in ward.facts for one in monitor.feed(fact)]
    shown = {one.outcome for one in (*said, *monitor.standing()) if one.reading.metric == "INPUT_DRIFT"}
    assert shown == {Outcome.TOO_FEW}
    ward.facts.clear()
    ward.call(sex="M")
    assert {one.outcome for one in monitor.feed(ward.facts[0])} == {Outcome.ALERT}
