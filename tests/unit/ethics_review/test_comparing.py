"""Comparisons of the PACS with the log: how much they do not find, and whether they are made. Both only warn."""

from collections.abc import Iterable

import pytest

from ethics_review.evaluation import Outcome, Reading
from ethics_review.facts import Fact, What
from ethics_review.monitor import Monitor, evaluate, recompute
from tests.simulators.monitored import MINUTE_US, MODEL, OTHER_MODEL, Ward, plan

LASTS_MINUTES = 48 * 60.0
DAY = 24 * 60.0


def standing(facts: Iterable[Fact], metric: str) -> Reading | None:
    """Where the metric stands after these facts."""
    monitor = Monitor(plan())
    for fact in facts:
        monitor.feed(fact)
    return next((one.reading for one in monitor.standing() if one.reading.metric == metric), None)


def warned(ward: Ward, metric: str) -> list[Reading]:
    """What is said of the metric that is worse than OK; each comes out of its own range of entries alone."""
    found = [one.reading for one in evaluate(plan(), ward.facts) if one.reading.metric == metric]
    loud = [one for one in found if one.outcome is Outcome.ALERT]
    for one in loud:
        assert recompute(plan(), ward.facts, one) == one
    return loud


def compared(ward: Ward, matched: int = 300, unmatched: int = 0) -> Fact:
    """A comparison."""
    return ward.put(What.RECONCILED, matched=matched, unmatched=unmatched)


def released(ward: Ward, model: str = MODEL.digest) -> int:
    """A call and its release; the entry in which it began."""
    if model == MODEL.digest:
        call = ward.call()
    else:
        call = "d" * 32
        ward.put(What.INTENT, model=model, call=call)
    begun = ward.index - 1
    ward.result(call)
    ward.put(What.RELEASED, call=call)
    return begun


def passes(ward: Ward, minutes: float) -> Fact:
    """So much later, an entry that says only that."""
    ward.minute += minutes
    return ward.put(What.DUTY)


@pytest.mark.parametrize(
    ("matched", "unmatched", "outcome"),
    [
        (0, 0, None),
        (199, 0, Outcome.TOO_FEW),
        (200, 0, Outcome.OK),
        (199, 1, Outcome.OK),  # one in 200 is the limit itself
        (198, 1, Outcome.ALERT),
        (0, 1, Outcome.ALERT),
        (1990, 10, Outcome.OK),
        (1989, 11, Outcome.ALERT),
    ],
)
def test_results_that_the_pacs_does_not_have(matched: int, unmatched: int, outcome: Outcome | None) -> None:
    """More than 0.5 % warns, of however few; fewer than 200 are too few to be fine."""
    ward = Ward()
    released(ward)
    last = compared(ward, matched, unmatched)
    reading = standing(ward.facts, "RESULTS_UNMATCHED")
    assert (reading and reading.outcome) == outcome
    assert [one.last for one in warned(ward, "RESULTS_UNMATCHED")] == [last.index] * (outcome is Outcome.ALERT)
    if reading is not None:
        assert (reading.first, reading.last, reading.n) == (last.index, last.index, matched + unmatched)
        assert recompute(plan(), ward.facts, reading) == reading


def test_the_last_comparison_counts() -> None:
    """What was there again the day after is well; a new alert is said anew."""
    ward = Ward()
    lines = []
    for unmatched in (5, 0, 5):
        lines.append(compared(ward, 300, unmatched).index)
        ward.minute += DAY
    assert [one.first for one in warned(ward, "RESULTS_UNMATCHED")] == [lines[0], lines[2]]


@pytest.mark.parametrize(("microseconds", "late"), [(0, False), (1, True)])
def test_nothing_was_compared_for_two_days(microseconds: int, late: bool) -> None:
    """48 hours after a release; said once, from the call's beginning to the entry by which it was too long."""
    ward = Ward()
    passes(ward, 0)
    begun = released(ward)
    passes(ward, LASTS_MINUTES - 60)
    released(ward)
    last = passes(ward, 60 + microseconds / MINUTE_US)
    assert [(one.first, one.last) for one in warned(ward, "COMPARISON_OVERDUE")] == [(begun, last.index)] * late
    passes(ward, 10 * DAY)
    assert len(warned(ward, "COMPARISON_OVERDUE")) == 1


def test_a_comparison_begins_anew() -> None:
    """Whatever it found; and what was released before it is not waited for any more."""
    ward = Ward()
    released(ward)
    for _ in range(4):
        passes(ward, DAY + 60)
        compared(ward, 0)
        released(ward)
    assert warned(ward, "COMPARISON_OVERDUE") == []
    passes(ward, LASTS_MINUTES + 1)
    compared(ward)
    passes(ward, 10 * DAY)
    assert len(warned(ward, "COMPARISON_OVERDUE")) == 1
    released(ward)
    passes(ward, LASTS_MINUTES + 1)
    assert len(warned(ward, "COMPARISON_OVERDUE")) == 2


def test_where_nothing_is_released_nothing_is_compared() -> None:
    """A model in the shadow, another one's results, and a result that failed to go out, want no comparison."""
    ward = Ward()
    call = ward.call()
    ward.result(call)
    released(ward, OTHER_MODEL)
    passes(ward, 10 * DAY)
    assert warned(ward, "COMPARISON_OVERDUE") == []


def test_a_clock_that_went_ahead_makes_nothing_overdue() -> None:
    """By each entry's own time, so that its range alone says the same."""
    ward = Ward(minute=100 * DAY)
    passes(ward, 0)
    ward.minute = 0
    released(ward)
    passes(ward, LASTS_MINUTES)
    assert warned(ward, "COMPARISON_OVERDUE") == []
    passes(ward, 1)
    assert len(warned(ward, "COMPARISON_OVERDUE")) == 1


def test_it_is_kept_over_a_stop_an_approval_and_an_epoch() -> None:
    """A restart, a renewal, a resumption: the release is as old as it was."""
    ward = Ward()
    monitor = Monitor(plan())
    released(ward)
    ward.put(What.EPOCH, model=MODEL.digest)
    for fact in ward.facts:
        monitor.feed(fact)
    late = passes(ward, LASTS_MINUTES + 1)
    for other in (monitor.under(plan()), Monitor.continued(plan(), monitor.state())):
        assert "COMPARISON_OVERDUE" in [one.reading.metric for one in other.feed(late)]
