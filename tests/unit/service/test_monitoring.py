"""The monitor in the service: what it finds is in the log, what it asks for is done at once, and nothing twice."""

from __future__ import annotations

import dataclasses
import errno
import hashlib
import json
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from audit.entry import BODIES, Draft, Entry, JsonValue, Kind
from audit.errors import AuditUnavailable
from ethics_review import incident
from ethics_review.errors import ReviewError
from ethics_review.evaluation import INVARIANTS, METRICS
from ethics_review.incident import Category
from ethics_review.states import Cause, State
from models.ref import ModelRef
from service import monitoring
from service.monitoring import Monitoring, cause_of
from service.recomputing import Recomputed, run_again
from tests.simulators.audit_log import Died, body
from tests.simulators.monitored import MODEL
from tests.simulators.watched import OTHER, Ward, model_body

ENOUGH = 9
"""Disagreements on end that suspend at 6 % to 12 % and h = 6: nine times ln 2 is 6.2."""


@pytest.fixture
def ward(tmp_path: Path) -> Iterator[Ward]:
    """A log with nothing in it."""
    ward = Ward(tmp_path)
    yield ward
    ward.log.close()


def disagree(ward: Ward, times: int = ENOUGH) -> None:
    """So many physicians reject what the model says."""
    for _ in range(times):
        ward.decided("REJECT")


def test_disagreements_suspend(ward: Ward) -> None:
    """The ninth rejection on end is an evaluation, and the very next entry is the suspension that names it."""
    ward.in_use()
    monitor = ward.monitoring()
    disagree(ward, ENOUGH - 1)
    monitor()
    assert ward.register.suspended == []

    disagree(ward, 1)
    ninth = ward.log.head().size - 1
    monitor()

    (found,) = ward.evaluations("SUSPEND")
    BODIES[Kind.EVALUATION].check(found.body, "body")
    assert (found.body["metric"], found.body["n"], found.body["last"]) == ("DISAGREEMENT", ENOUGH, ninth)
    assert (found.body["approval"], found.index) == ("TEST-1", ninth + 1)
    assert ward.register.suspended == [(MODEL, Cause.PERFORMANCE, found.index)]
    assert next(ward.log.entries(found.index + 1)).body["evidence"] == found.index
    assert ("DISAGREEMENT", "SUSPEND") in ward.watched.evaluations
    monitor()  # what it wrote itself is all that was left
    assert (monitor.state, ward.watched.left, ward.watched.out_of_use) == ("ok", 0, 1)


@pytest.mark.parametrize("cached", [True, False])
def test_a_restart_says_nothing_twice(ward: Ward, cached: bool) -> None:
    """A new process, with what the last one kept or without it, adds nothing to what was said and done."""
    ward.in_use()
    disagree(ward)
    ward.clock.passes(days=1)
    ward.decided("ACCEPT")
    first = ward.monitoring()
    first()
    if cached:
        first.close()
    size = ward.log.head().size
    assert len(ward.evaluations()) > 10  # of all metrics, at the day's end

    again = ward.monitoring()
    again()
    again()

    assert ward.cache.exists() is cached
    assert ward.log.head().size == size
    assert len(ward.register.suspended) == 1


def test_broken_off_anywhere_it_says_the_same(tmp_path: Path) -> None:
    """Restarted after each few entries, with or without its file, it says what one says that never ended."""
    said = []
    for name, every in (("whole", 10**9), ("parts", 7)):
        ward = Ward(tmp_path / name)
        ward.in_use()
        monitor = ward.monitoring()
        for number in range(30):
            ward.decided("REJECT" if number % 5 == 0 else "ACCEPT", sex="FM"[number % 2])
            ward.clock.passes(hours=5)
            monitor()
            if number % every == every - 1:
                monitor.close()
                if number % 2:
                    ward.cache.unlink()
                monitor = ward.monitoring()
        said.append([(one.index, one.key, dict(one.body)) for one in ward.evaluations()])
        ward.log.close()
    assert said[0] == said[1]
    assert len(said[0]) > 50


def _other_code(kept: bytes) -> bytes:
    """Kept by another version of the charts, whose levels mean something else: whole, and of no use."""
    said = json.loads(kept.partition(b"\n")[2])
    said["code"] = "sha256:" + "0" * 64
    said["monitors"][0][1]["charts"]["disagree"]["level"] = 0
    body = json.dumps(said).encode()
    return hashlib.sha256(body).hexdigest().encode() + b"\n" + body


@pytest.mark.parametrize(
    "spoil", [lambda kept: kept[:-9], lambda _kept: b"", _other_code], ids=["cut", "empty", "code"]
)
def test_a_cache_that_is_not_whole_is_no_cache(ward: Ward, spoil: Any) -> None:
    """Cut off, emptied or changed, the file is passed over, and the log is read again."""
    ward.in_use()
    disagree(ward, ENOUGH - 1)
    first = ward.monitoring()
    first()
    first.close()
    ward.cache.write_bytes(spoil(ward.cache.read_bytes()))
    disagree(ward, 1)

    ward.monitoring()()

    assert [one.body["n"] for one in ward.evaluations("SUSPEND")] == [ENOUGH]


def test_a_cache_of_another_log_is_no_cache(ward: Ward, tmp_path: Path) -> None:
    """A log that was restored has other entries at the same places: nothing of what was kept counts for it."""
    ward.in_use()
    disagree(ward, ENOUGH - 1)
    kept = ward.monitoring()
    kept()
    kept.close()
    other = Ward(tmp_path / "other")
    other.clock.passes(seconds=1)
    other.in_use()
    for _ in range(ENOUGH - 1):
        other.decided("ACCEPT")
    other.cache.parent.mkdir()
    other.cache.write_bytes(ward.cache.read_bytes())
    disagree(other, 1)

    other.monitoring()()

    assert other.evaluations("SUSPEND") == []
    other.log.close()


def test_approvals_that_count_no_more(ward: Ward) -> None:
    """Where the site takes a reviewer's key back, what that reviewer's thresholds had counted is forgotten."""
    ward.in_use()
    first = ward.monitoring()
    disagree(ward, ENOUGH - 1)
    first()
    first.close()
    ward.register.known.clear()
    disagree(ward, 1)

    ward.monitoring()()

    assert ward.evaluations("SUSPEND") == []


def test_killed_before_it_suspended(ward: Ward) -> None:
    """Dead between the evaluation and the suspension: the next start suspends, and does not evaluate again."""
    ward.in_use()
    disagree(ward)
    ward.register.dies = Died()
    with pytest.raises(Died):
        ward.monitoring()()
    assert (len(ward.evaluations("SUSPEND")), ward.register.suspended) == (1, [])

    ward.register.dies = None
    ward.monitoring()()

    assert len(ward.evaluations("SUSPEND")) == 1
    assert [one[2] for one in ward.register.suspended] == [ward.evaluations("SUSPEND")[0].index]


def test_what_people_have_judged_is_not_judged_again(ward: Ward) -> None:
    """After a resumption, a monitor without memory reads the old disagreements, says nothing and suspends nothing."""
    ward.in_use()
    disagree(ward)
    ward.monitoring()()
    ward.register.people("RESUME", State.LIVE)
    size = ward.log.head().size

    fresh = ward.monitoring()
    fresh()
    # Those at the end of the run that is over are said, as the charts were closed with it.
    closed = [one.body["outcome"] for one in ward.evaluations() if one.index >= size]
    assert "SUSPEND" not in closed
    assert len(ward.register.suspended) == 1

    disagree(ward)
    fresh()
    assert [one[1] for one in ward.register.suspended] == [Cause.PERFORMANCE] * 2


def test_killed_and_then_resumed_by_people(ward: Ward) -> None:
    """They ended another suspension than the one that was asked for: this one comes, once, and is theirs to end."""
    ward.in_use()
    disagree(ward)
    ward.register.dies = Died()
    with pytest.raises(Died):
        ward.monitoring()()
    ward.register.dies = None
    ward.register.people("SUSPEND", State.SUSPENDED)
    ward.register.people("RESUME", State.LIVE)

    ward.monitoring()()
    assert [cause for _, cause, _ in ward.register.suspended] == [Cause.PERFORMANCE]
    ward.register.people("RESUME", State.LIVE)
    ward.monitoring()()
    assert len(ward.register.suspended) == 1


@pytest.mark.parametrize(
    ("before", "then"),
    [
        (None, []),
        (Cause.HARM, []),
        (Cause.INTEGRITY, []),
        (Cause.OPERATOR, [Cause.INTEGRITY]),
        (Cause.PERFORMANCE, [Cause.INTEGRITY]),
        (Cause.DRILL, [Cause.INTEGRITY]),
    ],
)
def test_what_is_not_running_is_suspended_for_something_graver_alone(
    ward: Ward, before: Cause | None, then: list[Cause]
) -> None:
    """Approved and not begun, or suspended for as much: it is evaluated and left where it is."""
    ward.register.record()
    if before is not None:
        ward.register.people("DEPLOY", State.SHADOW)
        ward.register.people("SUSPEND", State.SUSPENDED, before)
    monitor = ward.monitoring()
    ward.golden("MISMATCH")
    monitor()

    assert len(ward.evaluations("SUSPEND")) == 1
    assert [cause for _, cause, _ in ward.register.suspended] == then
    assert monitor.state == "ok"


def test_invariants_and_their_causes(ward: Ward) -> None:
    """A golden case that does not come out is INTEGRITY, an incident HARM; other models go on."""
    ward.in_use()
    ward.in_use(OTHER, name="TEST-2")
    monitor = ward.monitoring()
    ward.golden("MISMATCH")
    monitor()
    ward.incident(OTHER)
    monitor()

    assert [(model, cause) for model, cause, _ in ward.register.suspended] == [
        (MODEL, Cause.INTEGRITY),
        (OTHER, Cause.HARM),
    ]


def test_an_incident_of_no_model_suspends_all(ward: Ward) -> None:
    """Where nobody knows which model it was, every one of them stops."""
    ward.in_use()
    ward.in_use(OTHER, name="TEST-2")
    ward.incident(None)
    ward.monitoring()()
    assert {model for model, _, _ in ward.register.suspended} == {MODEL, OTHER}


def recomputed(ward: Ward) -> None:
    """The whole monitor, run again over the log's entries, says all that stands there and nothing else."""
    again = run_again(list(ward.log.entries()), tuple(ward.register.known))  # type: ignore[arg-type]
    assert again.good, again


@pytest.mark.parametrize(("told_after_h", "causes"), [(23, []), (25, [Cause.REPORT_UNSIGNED])])
def test_a_clock_of_an_incident_that_ran_out(ward: Ward, told_after_h: int, causes: list[Cause]) -> None:
    """Told within its day nothing happens; an hour too late the model is suspended, and a resumption holds."""
    ward.in_use()
    monitor = ward.monitoring()
    opened = incident.opened("9" * 32, Category.DEVICE_OTHER, model_body(MODEL), ward.clock(), {})  # type: ignore[arg-type]
    begun = ward.put(Kind.INCIDENT, "incident:1", opened)
    monitor()
    ward.clock.passes(hours=told_after_h)
    ward.put(Kind.INCIDENT, "incident:2", opened | {"event": "NOTIFIED"})
    ward.clock.passes(hours=9)
    ward.decided("ACCEPT")
    monitor()
    assert [cause for _, cause, _ in ward.register.suspended] == causes
    for found in ward.evaluations("SUSPEND"):
        assert (found.body["metric"], found.body["first"]) == ("EVIDENCE_OVERDUE", begun.index)
        ward.register.people("RESUME", State.LIVE)
        ward.decided("ACCEPT")
        monitor()
        assert list(ward.states())[-1] == "LIVE"
    recomputed(ward)


@pytest.mark.parametrize(("days", "causes"), [(29.9, []), (30.1, [Cause.REPORT_UNSIGNED])])
def test_a_safety_report_that_nobody_countersigned(ward: Ward, days: float, causes: list[Cause]) -> None:
    """Thirty days after it was made the model is suspended."""
    ward.in_use()
    said = body(Kind.SAFETY_REPORT) | {"model": model_body(MODEL), "period": "2026-11", "months": 1}
    ward.put(Kind.SAFETY_REPORT, "safety:1", said)
    ward.clock.passes(days=days)
    ward.decided("ACCEPT")
    ward.monitoring()()
    assert [cause for _, cause, _ in ward.register.suspended] == causes
    recomputed(ward)


@pytest.mark.parametrize(("hours", "causes"), [(35, []), (37, [Cause.REPORT_UNSIGNED])])
def test_a_golden_case_that_is_not_run_any_more(ward: Ward, hours: int, causes: list[Cause]) -> None:
    """While the service runs on, a case that came out once is to come out each day."""
    ward.in_use()
    ward.golden("MATCH")
    ward.clock.passes(hours=hours)
    ward.put(Kind.HEARTBEAT, "beat:1", {"interval_s": 60})
    ward.monitoring()()
    assert [cause for _, cause, _ in ward.register.suspended] == causes
    recomputed(ward)


def test_a_result_that_no_entry_has(ward: Ward) -> None:
    """Released without a result: the model is suspended, and only the reviewer can let it go on."""
    ward.in_use()
    call = ward.call()
    intent = next(one for one in ward.log.entries() if one.call == call)
    for name in ("a" * 32, "b" * 32):
        ward.put(Kind.CALL_INTENT, f"intent:{name}:{'0' * 16}", intent.body, name)
    ward.put(Kind.CALL_RESULT, "result:a", body(Kind.CALL_RESULT), "a" * 32)
    ward.put(Kind.RELEASED, "released:a", body(Kind.RELEASED), "a" * 32)
    monitor = ward.monitoring()
    monitor()
    assert ward.register.suspended == []
    ward.put(Kind.RELEASED, "released:b", body(Kind.RELEASED), "b" * 32)
    monitor()
    (found,) = ward.evaluations("SUSPEND")
    assert found.body["metric"] == "SEQUENCE_GAP"
    assert ward.register.suspended == [(MODEL, Cause.INTEGRITY, found.index)]
    recomputed(ward)


def compared(ward: Ward, *models: ModelRef | None) -> Entry:
    """The PACS holds one result of each of these models that the log does not know."""
    found: list[JsonValue] = [
        {"uid": f"2.25.{place + 17}", "model": None if one is None else one.digest} for place, one in enumerate(models)
    ]
    said = body(Kind.RECONCILED) | {"unlogged": found, "found": {"UNLOGGED": len(found), "MISSING": 3}}
    return ward.put(Kind.RECONCILED, f"reconciled:{ward.log.head().size}", said)


@pytest.mark.parametrize(
    ("whose", "out"),
    [
        ((), []),
        ((MODEL,), [MODEL]),
        ((OTHER, OTHER), [OTHER]),
        ((MODEL, OTHER), [MODEL, OTHER]),
        ((None,), [MODEL, OTHER]),
        ((MODEL, None), [MODEL, OTHER]),
    ],
    ids=["none", "mine", "other", "both", "nobody's", "mine and nobody's"],
)
def test_a_result_in_the_pacs_that_the_log_does_not_know(
    ward: Ward, whose: tuple[ModelRef | None, ...], out: list[ModelRef]
) -> None:
    """Its model is suspended, all where nobody can tell; only the reviewer can let it go on."""
    ward.in_use()
    ward.in_use(OTHER, name="TEST-2")
    monitor = ward.monitoring()
    found = compared(ward, *whose)
    monitor()
    monitor()
    assert [(model, cause) for model, cause, _ in ward.register.suspended] == [(one, Cause.INTEGRITY) for one in out]
    said = ward.evaluations("SUSPEND")
    assert {(one.body["metric"], one.body["last"]) for one in said} == (
        {("RELEASE_UNLOGGED", found.index)} if out else set()
    )
    assert len(said) == len(out)
    recomputed(ward)


@pytest.mark.parametrize("cached", [True, False])
def test_a_comparison_suspends_once(ward: Ward, cached: bool) -> None:
    """A clean one later lets nothing go on; after people did, neither the same entry nor the same result stops it."""
    ward.in_use()
    monitor = ward.monitoring()
    compared(ward, MODEL)
    monitor()
    compared(ward)
    monitor()
    assert list(ward.states())[-1] == "SUSPENDED"
    ward.register.people("RESUME", State.LIVE)
    monitor()
    if cached:
        monitor.close()
    monitor = ward.monitoring()
    monitor()
    compared(ward, MODEL)
    monitor()
    assert list(ward.states())[-1] == "LIVE"
    compared(ward, MODEL, None)
    monitor()
    assert [cause for _, cause, _ in ward.register.suspended] == [Cause.INTEGRITY] * 2
    assert [one.body["n"] for one in ward.evaluations("SUSPEND")] == [1, 1]
    recomputed(ward)


def test_an_entry_that_was_cut_out(ward: Ward) -> None:
    """Whoever takes an entry away leaves a hole in its source's numbers: the monitor says it of every model."""
    ward.in_use()
    ward.in_use(OTHER, name="TEST-2")
    for _ in range(3):
        ward.put(Kind.HEARTBEAT, f"beat:{ward.log.head().size}", {"interval_s": 60})
    entries, approvals = list(ward.log.entries()), tuple(ward.register.known)
    cut = [one for one in entries if one.index != entries[-2].index]
    cut = [dataclasses.replace(one, index=place) for place, one in enumerate(cut)]

    class Cut:
        """The log without it, its tree made anew."""

        def entries(self, start: int = 0) -> Iterator[Entry]:
            """See service.monitoring.Log."""
            return iter((cut + list(ward.log.entries(len(entries))))[start:])

        def head(self) -> Any:
            """See service.monitoring.Log."""
            return SimpleNamespace(size=len(cut))

        def find(self, key: str) -> Entry | None:
            """See service.monitoring.Log."""
            return ward.log.find(key)

    assert run_again(entries, approvals) == Recomputed(0, 0, (), (), (), ())  # type: ignore[arg-type]
    ward.monitoring(log=Cut())()
    found = [(one.body["metric"], one.body["first"], one.body["last"]) for one in ward.evaluations("SUSPEND")]
    assert found == [("SEQUENCE_GAP", len(cut) - 2, len(cut) - 1)] * 2
    assert {model for model, _, _ in ward.register.suspended} == {MODEL, OTHER}


def test_every_metric_has_its_cause() -> None:
    """Causes by metric: those that need the reviewer for a resumption are the right ones."""
    causes = {name: cause_of(name) for name in METRICS}
    special = {
        "SUBGROUP_GAP": Cause.SUBGROUP_GAP,
        "INCIDENT": Cause.HARM,
        "EVIDENCE_OVERDUE": Cause.REPORT_UNSIGNED,
        "DECISIONS_MISSING": Cause.CONDITION_BREACH,
    }
    for name, cause in causes.items():
        assert cause is special.get(name, Cause.INTEGRITY if name in INVARIANTS else Cause.PERFORMANCE)


@pytest.mark.slow
def test_a_subgroup_is_cut_off_first(ward: Ward) -> None:
    """Where the approval says RESTRICT, women alone are taken out of use; once, whoever reads the log again."""
    ward.in_use(on_breach="RESTRICT", disagree_p0="0.4", disagree_p1="0.8")
    monitor = ward.monitoring()
    for number in range(230):
        ward.decided("REJECT" if number % 2 and number % 20 < 14 else "ACCEPT", sex="MF"[number % 2])
    monitor()

    (found,) = ward.evaluations("RESTRICT")
    assert ward.register.restricted == [(MODEL, "SEX", "F", found.index)]
    assert next(ward.log.entries(found.index + 1)).body["observed"] == "F"
    assert list(ward.states())[-1] == "LIVE"
    ward.monitoring()()
    assert (len(ward.register.restricted), ward.register.suspended) == (1, [])


class Unwilling:
    """A log that takes nothing while `full`."""

    def __init__(self, ward: Ward) -> None:
        self._log = ward.log
        self.full = True

    def append(self, draft: Draft) -> Entry:
        """See service.monitoring.Writer."""
        if self.full:
            raise AuditUnavailable("the disk refuses", errno.ENOSPC)
        return self._log.append(draft)


def test_a_log_that_takes_nothing(ward: Ward) -> None:
    """What cannot be written down waits, /health says why, and then it is said and done once."""
    ward.in_use()
    disagree(ward)
    writer = Unwilling(ward)
    monitor = ward.monitoring(writer=writer)
    monitor()
    monitor()
    assert (monitor.state, ward.register.suspended) == ("AUDIT_UNAVAILABLE", [])
    assert ward.watched.failures == ["AUDIT_UNAVAILABLE"] * 2
    monitor.close()
    assert not ward.cache.exists()  # in the middle of an entry there is nothing to keep

    writer.full = False
    monitor()

    assert (monitor.state, len(ward.register.suspended)) == ("ok", 1)
    assert len(ward.evaluations("SUSPEND")) == 1


def test_a_register_that_refuses(ward: Ward) -> None:
    """A suspension that the register does not take now is asked for again, and seen until then."""
    ward.in_use()
    disagree(ward)
    ward.register.dies = ReviewError("not now")
    monitor = ward.monitoring()
    monitor()
    assert monitor.state == "REVIEW_ERROR"
    ward.register.dies = None
    monitor()
    assert (monitor.state, len(ward.register.suspended)) == ("ok", 1)


def test_thresholds_that_are_none(ward: Ward) -> None:
    """An approval that the monitor does not understand is shown by its id; the other models are looked after."""
    ward.in_use(OTHER, name="TEST-BAD", disagree_p0="0.5", disagree_p1="0.1")
    ward.in_use()
    monitor = ward.monitoring()
    monitor()
    assert monitor.state == "NOT_MONITORED TEST-BAD"
    disagree(ward)
    monitor()
    assert [one[0] for one in ward.register.suspended] == [MODEL]
    monitor.close()
    again = ward.monitoring()
    again()
    assert again.state == "NOT_MONITORED TEST-BAD"


def test_a_renewed_approval_judges_from_then_on(ward: Ward) -> None:
    """The newest approval's thresholds count, from its entry on; what was counted before begins anew."""
    ward.in_use()
    monitor = ward.monitoring()
    disagree(ward, ENOUGH - 1)
    monitor()
    ward.register.record(name="TEST-2", cusum_h="3")
    disagree(ward, 4)
    monitor()
    assert ward.register.suspended == []
    disagree(ward, 1)
    monitor()
    (found,) = ward.evaluations("SUSPEND")
    assert (found.body["approval"], found.body["n"], found.body["limit"]) == ("TEST-2", 5, "3.000000")


def test_what_is_retired_is_not_looked_after(ward: Ward) -> None:
    """A retired model is evaluated no more: no day's end, no golden case of it is said."""
    ward.in_use()
    monitor = ward.monitoring()
    monitor()
    ward.register.people("RETIRE", State.RETIRED)
    monitor()
    before = len(ward.evaluations())
    ward.golden("MISMATCH")
    ward.clock.passes(days=2)
    ward.decided("ACCEPT")
    monitor()
    assert len(ward.evaluations()) == before


def test_each_day_says_where_all_stand(ward: Ward) -> None:
    """At a civil day's end every metric is said, too few included, each under a key of its own."""
    ward.in_use()
    monitor = ward.monitoring()
    ward.decided("ACCEPT")
    ward.clock.passes(days=1)
    ward.decided("ACCEPT")
    monitor()
    metrics = {str(one.body["metric"]): one.body["outcome"] for one in ward.evaluations()}
    assert {"DISAGREEMENT", "FAILURE_RATE", "MISSED_FINDING", "SUBGROUP_GAP"} <= set(metrics)
    assert set(metrics.values()) == {"TOO_FEW"}
    keys = [one.key for one in ward.evaluations()]
    assert len(set(keys)) == len(keys)


def test_it_takes_a_long_log_in_parts(ward: Ward) -> None:
    """A round looks at a bounded number of entries, so that a service can stop in between."""
    ward.in_use()
    disagree(ward)
    log = ward.log

    class Slow:
        """Counts the entries that are read in a round."""

        read = 0

        def __getattr__(self, name: str) -> Any:
            return getattr(log, name)

        def entries(self, start: int = 0) -> Iterator[Entry]:
            """See Log."""
            for entry in log.entries(start):
                self.read += 1
                yield entry

    slow = Slow()
    monitor = ward.monitoring(log=slow)
    monitor()
    assert slow.read < monitoring.ENTRIES_AT_ONCE
    assert len(ward.register.suspended) == 1


def test_it_knows_no_word_that_loosens() -> None:
    """All that it can ask of the register is to look, to suspend and to restrict."""
    asked = {name for name in vars(monitoring.Register) if not name.startswith("_")}
    assert asked == {"approvals", "standing", "suspend", "restrict"}
    assert isinstance(Monitoring.__doc__, str)
