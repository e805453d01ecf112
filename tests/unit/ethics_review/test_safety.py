"""A period's figures: counted from a log that was made up for it, each entry where it belongs and nowhere else."""

from collections.abc import Iterable
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from audit.entry import Entry, Kind
from ethics_review.safety import Figures, Share, cases_of, figures
from tests.simulators.audit_log import MODEL
from tests.simulators.told_log import OTHER_MODEL, Told

BEGIN, END = datetime(2026, 11, 1, tzinfo=UTC), datetime(2026, 12, 1, tzinfo=UTC)
HOUR = timedelta(hours=1)


def counted(entries: Iterable[Entry], **changes: Any) -> Figures:
    """The figures of November."""
    listed = list(entries)
    given: dict[str, Any] = {"decision_h": 24, "cases": cases_of(listed)}
    return figures(listed, str(MODEL["digest"]), BEGIN, END, **(given | changes))


def judged(log: Told, decision: str = "ACCEPT", *, after: timedelta = HOUR, **fields: Any) -> str:
    """A whole call with its decision; its name."""
    call = log.call()
    log.result(call)
    log.put(Kind.RELEASED, call)
    log.at += after
    log.put(Kind.HUMAN_DECISION, call, decision=decision, **fields)
    return call


def test_nothing_happened() -> None:
    """An empty log has no entries and no figures; too few for any share."""
    found = counted([])
    assert (found.first, found.last, found.calls) == (-1, -1, 0)
    assert found.failures == found.disagreement == Share(0, 0, None, None, None)
    assert found.latency_ms == ((50, None), (95, None), (99, None))


def test_calls() -> None:
    """Permitted, with a result, released, refused, failed: each once, and of this model alone."""
    log = Told()
    judged(log)
    log.result(log.call(model=OTHER_MODEL))
    log.put(Kind.FAILED, log.call(), stage="INFERRED", code="ENGINE_DIED")
    log.put(Kind.DENIED, code="CONDITION_NOT_MET", condition="AGE_YEARS", observed="5-9", model=MODEL)
    log.put(Kind.DENIED, code="NO_APPROVAL", condition=None, observed=None, model=OTHER_MODEL)
    log.put(Kind.DENIED, code="NO_MODEL_FITS", condition="MODALITY", observed=None, model=None)
    found = counted(log.entries)
    assert (found.calls, found.results, found.released, found.cases) == (2, 1, 1, 0)
    assert found.refused == ((("CONDITION_NOT_MET", "AGE_YEARS"), 1),)
    assert found.unassigned == ((("NO_MODEL_FITS",), 1),)
    assert found.failed == ((("INFERRED", "ENGINE_DIED"), 1),)
    assert (found.failures.events, found.failures.n) == (1, 2)
    assert (found.first, found.last) == (0, len(log.entries) - 1)


def test_refused_with_its_call() -> None:
    """A refusal that names its call is counted like one that does not."""
    log = Told()
    log.put(Kind.DENIED, "a" * 32, code="CONDITION_NOT_MET", condition="SEX", observed="M", model=MODEL)
    call = log.call()
    log.put(Kind.DENIED, call, code="APPROVAL_EXPIRED", condition="VALIDITY", observed=None, model=MODEL)
    assert counted(log.entries).refused == ((("APPROVAL_EXPIRED", "VALIDITY"), 1), (("CONDITION_NOT_MET", "SEX"), 1))


def test_undelivered_is_one_call() -> None:
    """A result that could not be delivered is a failure of one call, not of two; a second intent is no second call."""
    log = Told()
    call = log.call()
    log.calls -= 1
    assert log.call() == call
    log.result(call)
    log.put(Kind.FAILED, call, stage="RELEASED", code="UNDELIVERED")
    found = counted(log.entries)
    assert (found.calls, found.results) == (1, 1)
    assert (found.failures.events, found.failures.n) == (1, 1)


def test_labelled_sets_stand_apart() -> None:
    """What was run for an acceptance is in no figure but its own, refusals and failures included."""
    log = Told()
    for fate in ("result", "failed", "denied"):
        call = log.call() if fate != "denied" else "d" * 32
        if fate == "result":
            log.result(call, 9_999)
        else:
            kind = Kind.FAILED if fate == "failed" else Kind.DENIED
            log.put(kind, call, code="X", **({"model": MODEL} if kind is Kind.DENIED else {}))
        log.case(call, failed={"result": "NO", "failed": "YES", "denied": "REFUSED"}[fate])
    found = counted(log.entries)
    assert (found.calls, found.cases, found.results, found.timed) == (0, 2, 0, 0)
    assert (found.refused, found.failed, found.failures.n) == ((), (), 0)


def test_only_the_period() -> None:
    """An entry at the first instant counts, one at the end does not; a call from before may get its result within."""
    log = Told(at=BEGIN - timedelta(seconds=1))
    call = log.call()
    assert log.at == BEGIN
    log.result(call)
    log.at = END - timedelta(seconds=1)
    log.call()
    assert log.at == END
    log.result(log.call())
    found = counted(log.entries)
    assert (found.calls, found.results, found.first, found.last) == (1, 1, 1, 2)


def test_disagreement() -> None:
    """Significant changes and rejections, of all decisions but NOT_USED; what nobody called harmless counts."""
    log = Told()
    for decision, significant, times in (
        ("ACCEPT", "NO", 28),
        ("MODIFY", "YES", 2),
        ("MODIFY", "NO", 4),
        ("REJECT", "UNKNOWN", 3),
        ("NOT_USED", "YES", 5),
    ):
        for _ in range(times):
            judged(log, decision, significant=significant, reasons=["MEASURE"] if decision == "MODIFY" else [])
    found = counted(log.entries)
    assert dict(found.decisions) == {("ACCEPT",): 28, ("MODIFY",): 6, ("REJECT",): 3, ("NOT_USED",): 5}
    assert found.reasons == ((("MEASURE",), 6),)
    assert (found.disagreement.events, found.disagreement.n) == (5, 37)
    assert found.disagreement.value == "0.135135"


@pytest.mark.parametrize(("n", "value"), [(29, None), (30, "0.000000")])
def test_too_few_for_a_share(n: int, value: str | None) -> None:
    """Below thirty there is no share; from thirty on there is one with its interval."""
    share = Share.of(0, n)
    assert share.value == value
    assert (share.high is None) is (value is None)


@pytest.mark.parametrize(
    ("n", "told"), [(29, [None] * 3), (30, [15, None, None]), (100, [50, 95, None]), (500, [250, 475, 495])]
)
def test_latency(n: int, told: list[int | None]) -> None:
    """Nearest ranks of the time to a result; the farther out, the more results it takes."""
    log = Told()
    for ms in range(1, n + 1):
        log.result(log.call(), ms)
    found = counted(log.entries)
    assert found.timed == n
    assert [ms for _, ms in found.latency_ms] == told


def test_overdue() -> None:
    """Due when the hours ended within the period; without a decision, or with one that came too late."""
    log = Told()
    judged(log, after=HOUR)
    judged(log, after=25 * HOUR)
    waiting = log.call()
    log.result(waiting)
    log.put(Kind.RELEASED, waiting)
    log.at = END - HOUR
    fresh = log.call()
    log.result(fresh)
    log.put(Kind.RELEASED, fresh)
    found = counted(log.entries)
    assert (found.due, found.undecided, found.late) == (3, 1, 1)
    later = counted(log.entries, decision_h=1)
    assert (later.due, later.undecided, later.late) == (3, 1, 2)


def test_what_monitor_and_people_said() -> None:
    """Evaluations by metric and outcome, alerts, changes of state, stops, incidents, golden runs; of this model."""
    log = Told()
    for model in (MODEL, OTHER_MODEL):
        log.put(Kind.EVALUATION, metric="INPUT_DRIFT", outcome="ALERT", model=model)
        log.put(Kind.EVALUATION, metric="INPUT_DRIFT", outcome="TOO_FEW", model=model)
        log.put(Kind.EVALUATION, metric="DECISION_OVERDUE", outcome="ALERT", model=model)
        log.put(Kind.EVALUATION, metric="DISAGREEMENT", outcome="OK", model=model)
        log.put(Kind.STATE_CHANGE, event="SUSPEND", reason="PERFORMANCE", model=model)
        log.put(Kind.STATE_CHANGE, event="RESUME", reason="OPERATOR", model=model)
        log.put(Kind.GOLDEN, occasion="START", outcome="MATCH", model=model)
        log.put(Kind.INCIDENT, event="OPENED", category="HARM", severity="SERIOUS", model=model)
    log.put(Kind.INCIDENT, event="OPENED", category="PRIVACY", severity="MINOR", model=None)
    log.put(Kind.STOP, level="SITE", reason="DRILL")
    log.put(Kind.RESUME, level="SITE", reason="DRILL")
    found = counted(log.entries)
    assert dict(found.evaluations) == {
        ("INPUT_DRIFT", "ALERT"): 1,
        ("INPUT_DRIFT", "TOO_FEW"): 1,
        ("DECISION_OVERDUE", "ALERT"): 1,
        ("DISAGREEMENT", "OK"): 1,
    }
    assert (found.drift, found.overdue) == (((("INPUT_DRIFT",), 1),), ((("DECISION_OVERDUE",), 1),))
    assert found.states == ((("RESUME", "OPERATOR"), 1), (("SUSPEND", "PERFORMANCE"), 1))
    assert found.switches == ((("RESUME", "SITE", "DRILL"), 1), (("STOP", "SITE", "DRILL"), 1))
    assert found.incidents == ((("OPENED", "HARM", "SERIOUS"), 1), (("OPENED", "PRIVACY", "MINOR"), 1))
    assert found.golden == ((("START", "MATCH"), 1),)
    assert found.calls == 0
