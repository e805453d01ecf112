"""What ran out, what is missing, and what the log does not know: EVIDENCE_OVERDUE, SEQUENCE_GAP, RELEASE_UNLOGGED."""

from collections.abc import Iterable
from typing import Any

import pytest

from ethics_review.evaluation import Outcome, Reading
from ethics_review.facts import Fact, What
from ethics_review.monitor import Monitor, evaluate, recompute
from tests.simulators.monitored import MODEL, OTHER_MODEL, START_US, Ward, plan

HOUR_US = 3_600_000_000
DAY = 24 * 60.0
BOOT, NEXT_BOOT = "e" * 32, "f" * 32


def found(facts: Iterable[Fact], metric: str = "EVIDENCE_OVERDUE") -> list[Reading]:
    """The readings of a metric; each suspends, and comes out of its own range of entries alone."""
    facts = list(facts)
    readings = [one.reading for one in evaluate(plan(), facts) if one.reading.metric == metric]
    for reading in readings:
        assert (reading.outcome, reading.limit, reading.value) == (Outcome.SUSPEND, "0.000000", f"{reading.n}.000000")
        assert recompute(plan(), facts, reading) == reading
    return readings


def owed(ward: Ward, name: str, minutes: float, model: str | None = MODEL.digest) -> Fact:
    """A duty from now on."""
    due = START_US + round((ward.minute + minutes) * 60_000_000)
    return ward.put(What.DUTY, model=model, owed=((name, due),))


def beat(ward: Ward, hours: float, boot: str = BOOT) -> Fact:
    """A heartbeat at this many hours of the writer's own clock."""
    ward.minute = hours * 60
    return ward.put(What.HEARTBEAT, boot=boot, tick_us=round(hours * HOUR_US))


def golden(ward: Ward, boot: str = BOOT, what: What = What.GOLDEN, **fields: Any) -> Fact:
    """A run of the golden case."""
    tick = round(ward.minute * 60_000_000)
    return ward.put(what, boot=boot, tick_us=tick, **({"model": MODEL.digest} | fields))


@pytest.mark.parametrize(("microseconds", "late"), [(0, False), (1, True)])
def test_a_duty_runs_out_after_its_date(microseconds: int, late: bool) -> None:
    """At its date it can still be done; one microsecond later it is said, and not again."""
    ward = Ward()
    owed(ward, "case clock", 60)
    ward.minute = 60 + microseconds / 60_000_000
    last = ward.put(What.RELEASED)
    ward.put(What.RELEASED)
    assert len(found(ward.facts[:2])) == late
    ward.minute += 10 * DAY
    ward.put(What.RELEASED)
    (reading,) = found(ward.facts)
    assert (reading.first, reading.last == last.index) == (0, late)


@pytest.mark.parametrize(
    ("model", "speaks"), [(MODEL.digest, True), (None, True), (OTHER_MODEL, False)], ids=["mine", "no", "other"]
)
def test_whose_duty(model: str | None, speaks: bool) -> None:
    """What is owed for a model concerns that one; what is owed for none concerns all."""
    ward = Ward()
    owed(ward, "case clock", 60, model)
    ward.minute = 61
    ward.put(What.RELEASED)
    assert bool(found(ward.facts)) is speaks


@pytest.mark.parametrize(("at", "name", "late"), [(60, "a", 0), (61, "a", 1), (30, "b", 1)])
def test_what_is_done_in_time_is_not_owed(at: float, name: str, late: int) -> None:
    """Done by its date it is not said; done too late, or something else done, it is."""
    ward = Ward()
    owed(ward, "a", 60)
    ward.minute = at
    ward.put(What.DUTY, model=MODEL.digest, done=(name,))
    ward.minute = 90
    ward.put(What.RELEASED)
    assert len(found(ward.facts)) == late


def test_two_that_run_out_together_are_one_evaluation() -> None:
    """It names how many there are, and begins where the older one did."""
    ward = Ward()
    ward.put(What.RELEASED)
    for name in "ab":
        ward.minute += 1
        owed(ward, name, 60)
    ward.minute = 90
    ward.put(What.RELEASED)
    (reading,) = found(ward.facts)
    assert (reading.first, reading.last, reading.n) == (1, 3, 2)


def test_a_clock_that_went_ahead_makes_nothing_overdue_again() -> None:
    """By each entry's own time, so that its range alone says the same; what was said is said once."""
    ward = Ward(minute=10_000)
    ward.put(What.RELEASED)
    ward.minute = 0
    owed(ward, "a", 60)
    ward.minute = 30
    ward.put(What.RELEASED)
    assert found(ward.facts) == []
    ward.minute = 61
    ward.put(What.RELEASED)
    assert len(found(ward.facts)) == 1


def test_a_suspension_forgives_no_duty() -> None:
    """Begun anew, under another approval, or continued from what was kept: what is owed stays so."""
    ward = Ward()
    owed(ward, "a", 60)
    ward.put(What.EPOCH, model=MODEL.digest)
    ward.minute = 61
    ward.put(What.RELEASED)
    assert len(found(ward.facts)) == 1
    monitor = Monitor(plan())
    for fact in ward.facts[:2]:
        monitor.feed(fact)
    for other in (monitor.under(plan()), Monitor.continued(plan(), monitor.state())):
        assert "EVIDENCE_OVERDUE" in [one.reading.metric for one in other.feed(ward.facts[2])]


@pytest.mark.parametrize(("hours", "late"), [(36.0, 0), (36.1, 1)])
@pytest.mark.parametrize("what", [What.GOLDEN, What.INVARIANT])
def test_a_golden_case_that_is_not_run_any_more(hours: float, late: int, what: What) -> None:
    """A day and a half in one run of the service after the last one, however that came out; said once."""
    ward = Ward()
    first = golden(ward, what=what, code="GOLDEN_MISMATCH" if what is What.INVARIANT else "")
    for at in (12.0, hours, hours + 0.01):
        beat(ward, at)
    readings = found(ward.facts[:3])
    assert [(one.first, one.last) for one in readings] == [(first.index, 2)] * late
    assert len(found(ward.facts)) == 1


def test_a_model_without_a_golden_case_owes_none() -> None:
    """And neither does a model for which another one's is run."""
    ward = Ward()
    golden(ward, model=OTHER_MODEL)
    for hours in (1.0, 100.0):
        beat(ward, hours)
    assert found(ward.facts) == []


def test_a_machine_that_was_off_ran_no_case() -> None:
    """Only silence within one run of the service counts, from its first heartbeat on."""
    ward = Ward()
    golden(ward)
    beat(ward, 1)
    beat(ward, 100, NEXT_BOOT)
    beat(ward, 136, NEXT_BOOT)
    assert found(ward.facts) == []
    beat(ward, 136.1, NEXT_BOOT)
    (reading,) = found(ward.facts)
    assert (reading.first, reading.last) == (0, 4)


def test_each_run_begins_the_time_anew() -> None:
    """A case a day is a case in time."""
    ward = Ward()
    for day in range(5):
        ward.minute = day * DAY
        golden(ward)
        beat(ward, day * 24 + 23.0)
    assert found(ward.facts) == []


# What must have come before.


def line(ward: Ward, seq: int, what: What = What.OTHER, source: str = "here") -> Fact:
    """An entry with this number of its source."""
    return ward.put(what, source=source, seq=seq)


@pytest.mark.parametrize("what", [What.OTHER, What.RELEASED])
@pytest.mark.parametrize(("seq", "gaps"), [(5, 1), (6, 0), (7, 1), (4, 1)])
def test_numbers_of_a_source(seq: int, gaps: int, what: What) -> None:
    """One is left out, or comes twice: said of the two entries around it, whatever kind they are."""
    ward = Ward()
    line(ward, 5)
    line(ward, 0, source="there")
    line(ward, seq, what)
    line(ward, seq + 1)
    assert [(one.first, one.last, one.n) for one in found(ward.facts, "SEQUENCE_GAP")] == [(0, 2, 1)] * gaps


def test_entries_of_which_only_the_place_matters_say_nothing_of_time() -> None:
    """They close no day and make no duty late: what a range gives does not depend on them."""
    ward = Ward()
    owed(ward, "a", 60)
    ward.minute = 5 * DAY
    line(ward, 1)
    assert evaluate(plan(), ward.facts) == ()


def test_released_without_a_result() -> None:
    """A result that no entry has cannot be released; that a call failed first is no result."""
    ward = Ward()
    for has in ((), ("failure",), ("result",), ("failure", "result"), ("result", "failure")):
        call = ward.call()
        for step in has:
            getattr(ward, step)(call)
        ward.put(What.RELEASED, call=call)
    gaps = found(ward.facts, "SEQUENCE_GAP")
    assert [(one.first, one.last) for one in gaps] == [(0, 1), (2, 4)]


def test_of_another_model_s_calls_nothing_is_said() -> None:
    """Their intents are not this monitor's."""
    ward = Ward()
    ward.put(What.INTENT, model=OTHER_MODEL, call="c" * 32)
    ward.put(What.RELEASED, call="c" * 32)
    assert found(ward.facts, "SEQUENCE_GAP") == []


def test_both_at_one_entry_are_one_evaluation() -> None:
    """From the older of the two on."""
    ward = Ward()
    call = ward.call()
    line(ward, 5)
    ward.put(What.RELEASED, call=call, source="here", seq=9)
    (reading,) = found(ward.facts, "SEQUENCE_GAP")
    assert (reading.first, reading.last, reading.n) == (0, 2, 2)


def test_numbers_are_kept_over_a_stop_and_an_approval() -> None:
    """A gap just at a restart, or at a renewal, is a gap."""
    ward = Ward()
    monitor = Monitor(plan())
    monitor.feed(line(ward, 5))
    gap = line(ward, 7)
    for other in (monitor.under(plan()), Monitor.continued(plan(), monitor.state())):
        assert [one.reading.metric for one in other.feed(gap)] == ["SEQUENCE_GAP"]


# What stands in the PACS, and the log does not know.


def compared(ward: Ward, *names: str, model: str | None = MODEL.digest, beyond: int = 0) -> Fact:
    """A comparison with the PACS that found these results, or none."""
    ward.minute += DAY
    return ward.put(What.RECONCILED, unlogged=tuple((name, model) for name in names), beyond=beyond)


def unlogged(ward: Ward) -> list[tuple[int, int, int]]:
    """First and last entry, and number, of each reading."""
    return [(one.first, one.last, one.n) for one in found(ward.facts, "RELEASE_UNLOGGED")]


@pytest.mark.parametrize("names", [(), ("a",), ("a", "b", "c")])
def test_results_that_the_log_does_not_know(names: tuple[str, ...]) -> None:
    """None is nothing; one is enough; more are one evaluation, of that very entry."""
    ward = Ward()
    ward.judged()
    compared(ward, *names)
    assert unlogged(ward) == [(4, 4, len(names))] * bool(names)


@pytest.mark.parametrize(
    ("model", "speaks"), [(MODEL.digest, True), (None, True), (OTHER_MODEL, False)], ids=["mine", "none", "other"]
)
def test_whose_result(model: str | None, speaks: bool) -> None:
    """One of another model is that one's; of which nobody can tell, concerns every model."""
    ward = Ward()
    compared(ward, "a", model=model)
    assert bool(unlogged(ward)) is speaks


def test_of_several_models_each_counts_its_own() -> None:
    """And those of which nobody knows; another's are not counted."""
    ward = Ward()
    ward.put(What.RECONCILED, unlogged=(("a", MODEL.digest), ("b", OTHER_MODEL), ("c", None), ("d", OTHER_MODEL)))
    assert unlogged(ward) == [(0, 0, 2)]


def test_a_result_is_told_once() -> None:
    """It stays in the PACS, and each day's comparison finds it: whoever resumed the model, knew that."""
    ward = Ward()
    compared(ward, "a")
    ward.put(What.EPOCH, model=MODEL.digest)
    compared(ward, "a")
    compared(ward)
    compared(ward, "a")
    assert unlogged(ward) == [(0, 0, 1)]


def test_a_new_one_beside_a_known_one() -> None:
    """Counts alone. Its range begins with the entry that named the oldest: without that one the other were new too."""
    ward = Ward()
    compared(ward, "a")
    compared(ward, "b")
    compared(ward)
    compared(ward, "b", "c", "d")
    compared(ward, "d", "a", "e")
    assert unlogged(ward) == [(0, 0, 1), (1, 1, 1), (1, 3, 2), (0, 4, 1)]


def test_what_another_model_s_was_is_not_known_for_mine() -> None:
    """A result that was laid to another model, and of which nobody can tell later, is new."""
    ward = Ward()
    compared(ward, "a", model=OTHER_MODEL)
    compared(ward, "a", model=None)
    assert unlogged(ward) == [(1, 1, 1)]


@pytest.mark.parametrize("model", [MODEL.digest, OTHER_MODEL])
def test_more_than_the_entry_names(model: str) -> None:
    """Nobody can tell whether they were told, nor whose they are: they count each time, for every model."""
    ward = Ward()
    compared(ward, "a", model=model, beyond=3)
    compared(ward, "a", model=model, beyond=2)
    mine = int(model == MODEL.digest)
    assert unlogged(ward) == [(0, 0, 3 + mine), (1 - mine, 1, 2)]


def test_what_was_told_is_kept_over_a_stop_and_an_approval() -> None:
    """A restart or a renewal does not make it new."""
    ward = Ward()
    monitor = Monitor(plan())
    monitor.feed(compared(ward, "a"))
    again, new = compared(ward, "a"), compared(ward, "a", "b")
    for other in (monitor.under(plan()), Monitor.continued(plan(), monitor.state())):
        assert "RELEASE_UNLOGGED" not in [one.reading.metric for one in other.feed(again)]
        (reading,) = [one.reading for one in other.feed(new) if one.reading.metric == "RELEASE_UNLOGGED"]
        assert (reading.first, reading.last, reading.n) == (0, 2, 1)
