"""What the monitor reads in each kind of entry: the log's own kinds as they are, and those of the contract."""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import pytest

from audit.entry import Draft, Entry, JsonValue, Kind
from ethics_review import acts
from ethics_review.facts import Fact, What, fact_of
from ethics_review.states import Event, State
from service.audit_reconcile import Problem
from tests.simulators.audit_log import SIGNER, body
from tests.simulators.monitored import MODEL

CALL, BOOT = "c" * 32, "e" * 32
NOW = datetime(2026, 12, 1, 8, 0, 0, 250_000, tzinfo=UTC)
NOW_US = 1_796_112_000_250_000
MODEL_BODY: dict[str, JsonValue] = {"name": MODEL.name, "version": MODEL.version, "digest": MODEL.digest}


@dataclass(frozen=True)
class Line:
    """An entry of a kind that comes from elsewhere."""

    kind: str
    body: Mapping[str, JsonValue]
    call: str | None = None
    index: int = 7
    source: str = "here"
    seq: int = 7
    time: str = "2026-12-01T08:00:00.250000Z"
    boot: str = BOOT
    tick_us: int = 99


def placed(what: What, **fields: Any) -> Fact:
    """A fact of such an entry."""
    return Fact(7, NOW_US, what, source="here", seq=7, **fields)


def logged(kind: Kind, given: Mapping[str, JsonValue], call: str | None = CALL) -> Fact:
    """The fact of a real entry with this body."""
    draft = Draft(kind, "key:1", given, call)
    return fact_of(Entry.of(draft, index=7, source="here", seq=7, now=NOW, boot=BOOT, tick_us=99))


def intent(outcome: str = "HOLDS") -> dict[str, JsonValue]:
    """A CALL_INTENT body with two checks."""
    checks: list[JsonValue] = [
        {"condition": "SEX", "outcome": "HOLDS", "observed": "F"},
        {"condition": "AGE_YEARS", "outcome": outcome, "observed": "70-74"},
    ]
    return body(Kind.CALL_INTENT) | {"model": MODEL_BODY, "checks": checks}


def test_intent() -> None:
    """An intent gives its model and the classes that the gate saw."""
    fact = logged(Kind.CALL_INTENT, intent())
    classes = (("SEX", "F"), ("AGE_YEARS", "70-74"))
    assert fact == placed(What.INTENT, model=MODEL.digest, call=CALL, classes=classes)


def test_a_call_on_a_labelled_case_counts_nowhere() -> None:
    """Neither it nor its denial is a fact that the monitor counts; but that it was outside its limits is one."""
    purpose = {"purpose": "ACCEPTANCE"}
    assert logged(Kind.CALL_INTENT, intent() | purpose) == placed(What.OTHER, model=MODEL.digest, call=CALL)
    denied = body(Kind.DENIED) | {"model": MODEL_BODY}
    assert logged(Kind.DENIED, denied).what is What.DENIED
    assert logged(Kind.DENIED, denied | purpose) == placed(What.OTHER, model=MODEL.digest, call=CALL)
    outside = logged(Kind.CALL_INTENT, intent("CONDITION_NOT_MET") | purpose)
    assert (outside.what, outside.code) == (What.INVARIANT, "CALL_OUTSIDE_LIMITS")


def test_intent_outside_its_limits() -> None:
    """A call that was begun though a check did not hold breaks an invariant."""
    fact = logged(Kind.CALL_INTENT, intent("CONDITION_NOT_MET"))
    assert (fact.what, fact.code, fact.model) == (What.INVARIANT, "CALL_OUTSIDE_LIMITS", MODEL.digest)


@pytest.mark.parametrize("values", [[], ["1501.5", "3"]], ids=["none", "two"])
def test_result(values: list[str]) -> None:
    """A result gives its outcome, and its first measurement if it has one."""
    measurements: list[JsonValue] = [{"code": "vol", "value": value, "unit": "cm3"} for value in values]
    fact = logged(Kind.CALL_RESULT, body(Kind.CALL_RESULT) | {"outcome": "FINDINGS", "measurements": measurements})
    measure = values[0] if values else None
    assert fact == placed(What.RESULT, call=CALL, outcome="FINDINGS", measure=measure)


def test_a_result_that_lacks_outputs_has_no_measure() -> None:
    """The first number that is left may be of another thing: no drift is counted from it."""
    lacks = {"outcome": "PARTLY_FAILED", "failed": [{"output": "segment:1", "code": "OUTPUT_EMPTY"}]}
    fact = logged(Kind.CALL_RESULT, body(Kind.CALL_RESULT) | lacks)
    assert fact == placed(What.RESULT, call=CALL, outcome="PARTLY_FAILED", measure=None)


def test_the_log_s_other_kinds() -> None:
    """Releases, failures, denials and heartbeats; the rest of the log is not the monitor's matter."""
    failed: dict[str, JsonValue] = {"study": "a" * 32, "stage": "INFERRED", "code": "DEADLINE_EXCEEDED", "fault": "US"}
    assert logged(Kind.FAILED, failed) == placed(What.FAILED, call=CALL, code="DEADLINE_EXCEEDED")
    denied: dict[str, JsonValue] = {
        "study": "a" * 32,
        "stage": "PERMITTED",
        "code": "CONDITION_NOT_MET",
        "condition": "SEX",
        "observed": "M",
        "model": MODEL_BODY,
    }
    assert logged(Kind.DENIED, denied, None) == placed(What.DENIED, model=MODEL.digest, code="CONDITION_NOT_MET")
    released: dict[str, JsonValue] = {"outputs": [], "peer": "PACS", "attempts": 1, "proof": "COMMITTED"}
    assert logged(Kind.RELEASED, released) == placed(What.RELEASED, call=CALL)
    beat = logged(Kind.HEARTBEAT, {"interval_s": 60}, None)
    assert beat == placed(What.HEARTBEAT, boot=BOOT, tick_us=99)
    assert logged(Kind.LOG_START, body(Kind.LOG_START), None) == placed(What.OTHER)


@pytest.mark.parametrize(("significant", "counts"), [("YES", True), ("NO", False), ("UNKNOWN", True)])
def test_decision(significant: str, counts: bool) -> None:
    """A decision gives all that counts; one of unknown weight is not taken for harmless."""
    body: dict[str, JsonValue] = {
        "decision": "MODIFY",
        "reasons": ["MISSED_FINDING"],
        "reader": "d" * 32,
        "role": "READER",
        "blinded": "NO",
        "seconds": 12,
        "differences": [],
        "significant": significant,
    }
    fact = fact_of(Line("HUMAN_DECISION", body, CALL))
    assert fact == placed(
        What.DECISION,
        call=CALL,
        code="MODIFY",
        reasons=("MISSED_FINDING",),
        significant=counts,
        reader="d" * 32,
        seconds=12,
    )
    silent = fact_of(Line("HUMAN_DECISION", body | {"reader": None, "seconds": None, "reasons": []}, CALL))
    assert (silent.reader, silent.seconds, silent.reasons) == (None, None, ())


_CHANGES = [
    ("DEPLOY", "APPROVED", "SHADOW", True),
    ("GO_LIVE", "SHADOW", "LIVE", True),
    ("RESUME", "SUSPENDED", "LIVE", True),
    ("RESUME", "SUSPENDED", "SHADOW", True),
    ("RESUME", "LIVE", "LIVE", True),
    ("RESUME", "SHADOW", "SHADOW", True),
    ("RESTRICT", "LIVE", "LIVE", False),
    ("RENEW", "LIVE", "LIVE", False),
    ("SUSPEND", "LIVE", "SUSPENDED", False),
    ("RETIRE", "LIVE", "RETIRED", False),
]


@pytest.mark.parametrize(("event", "before", "after", "begins"), _CHANGES)
def test_epochs(event: str, before: str, after: str, begins: bool) -> None:
    """An epoch begins where a model comes into use, again or at last; a restriction does not forget anything."""
    line = Line("STATE_CHANGE", {"model": MODEL_BODY, "event": event, "from": before, "to": after})
    assert fact_of(line) == placed(What.EPOCH if begins else What.OTHER, model=MODEL.digest)


@pytest.mark.parametrize("outcome", ["MATCH", "MISMATCH", "FAILED"])
def test_golden(outcome: str) -> None:
    """A golden case that does not come out, however, breaks an invariant; each has its run of the writer and tick."""
    fact = fact_of(Line("GOLDEN", {"outcome": outcome, "model": MODEL_BODY}))
    what, code = (What.GOLDEN, "") if outcome == "MATCH" else (What.INVARIANT, "GOLDEN_MISMATCH")
    assert fact == placed(what, model=MODEL.digest, code=code, boot=BOOT, tick_us=99)


_CLOCKS: list[JsonValue] = [
    {"clock": "REGISTRANT", "due": "2026-12-02T08:00:00.250000Z"},
    {"clock": "EU_DEATH", "due": "2026-12-11T08:00:00.250000Z"},
]
_OWED = (
    ("9" * 32 + " REGISTRANT", NOW_US + 86_400_000_000),
    ("9" * 32 + " EU_DEATH", NOW_US + 10 * 86_400_000_000),
)


def case(**fields: Any) -> Fact:
    """The fact of an INCIDENT entry."""
    said = {"incident": "9" * 32, "event": "OPENED", "clocks": [], "model": MODEL_BODY}
    return fact_of(Line("INCIDENT", said | fields))


@pytest.mark.parametrize(
    ("category", "severity", "harm"),
    [("HARM", "MINOR", True), ("OTHER", "DEATH", True), ("OTHER", "SERIOUS", True), ("OTHER", "MINOR", False)],
)
def test_incidents(category: str, severity: str, harm: bool) -> None:
    """A case of harm breaks an invariant when it is opened; whatever it is of, its clocks are owed from then on."""
    given = {"category": category, "severity": severity}
    invariant = placed(What.INVARIANT, model=MODEL.digest, code="INCIDENT")
    assert case(**given) == (invariant if harm else placed(What.OTHER, model=MODEL.digest))
    what, code = (What.INVARIANT, "INCIDENT") if harm else (What.DUTY, "")
    assert case(**given, clocks=_CLOCKS) == placed(what, model=MODEL.digest, code=code, owed=_OWED)
    assert case(**given, model=None, clocks=_CLOCKS).model is None
    told = case(**given, event="NOTIFIED", clocks=_CLOCKS[:1])
    assert told == placed(What.DUTY, model=MODEL.digest, done=(_OWED[0][0],))
    assert case(**given, event="CLOSED").what is What.OTHER


@pytest.mark.parametrize(
    ("period", "months", "owed"),
    [("2026-11", 1, True), ("2026-01", 11, True), ("2026-12", 1, False), ("2026-01", 12, False), ("2027-01", 1, False)],
)
def test_safety_reports(period: str, months: int, owed: bool) -> None:
    """A report is to be countersigned within thirty days, if its period was over when it was made."""
    said: dict[str, JsonValue] = {"model": MODEL_BODY, "period": period, "months": months, "report": "sha256:r"}
    fact = fact_of(Line("SAFETY_REPORT", said))
    due = (("sha256:r", NOW_US + 30 * 86_400_000_000),)
    assert fact == (placed(What.DUTY, model=MODEL.digest, owed=due) if owed else placed(What.OTHER, model=MODEL.digest))


@pytest.mark.parametrize(
    ("time", "owed"), [("2026-11-30T15:59:59.999999Z", False), ("2026-11-30T16:00:00.000000Z", True)]
)
def test_a_period_is_over_at_its_midnight_in_china(time: str, owed: bool) -> None:
    """November ends at 16:00 UTC."""
    said: dict[str, JsonValue] = {"model": MODEL_BODY, "period": "2026-11", "months": 1, "report": "sha256:r"}
    assert bool(fact_of(Line("SAFETY_REPORT", said, time=time)).owed) is owed


def test_a_countersignature_names_its_report() -> None:
    """What is signed for is done; a note that is none does nothing."""
    report = "sha256:" + "7" * 64
    act = acts.Act(None, Event.COUNTERSIGN, State.LIVE, State.LIVE, MODEL, "REPORT", {"report": report})
    said: dict[str, JsonValue] = {"model": MODEL_BODY, "event": "COUNTERSIGN", "from": "LIVE", "to": "LIVE"}
    signed = fact_of(Line("STATE_CHANGE", said | {"note": SIGNER.sign(acts.draft(act))}))
    assert signed == placed(What.DUTY, model=MODEL.digest, done=(report,))
    assert fact_of(Line("STATE_CHANGE", said | {"note": "no note"})) == placed(What.OTHER, model=MODEL.digest)
    assert fact_of(Line("STATE_CHANGE", said | {"note": None})).done == ()


def test_a_comparison_with_the_pacs() -> None:
    """What the log does not know, whose it is, how many more there are than named; and what does not match."""
    mine, nobodys = {"uid": "2.25.17", "model": MODEL.digest}, {"uid": "2.25.18", "model": None}
    named = (("2.25.17", MODEL.digest), ("2.25.18", None))
    said = body(Kind.RECONCILED) | {"unlogged": [mine, nobodys]}
    for number, beyond in ((2, 0), (5, 3), (1, 0)):
        found: dict[str, JsonValue] = {"UNLOGGED": number, "MISSING": 9, "UNKNOWN": 9, "UNRELEASED": 9}
        fact = logged(Kind.RECONCILED, said | {"found": found}, None)
        assert fact == placed(What.RECONCILED, unlogged=named, beyond=beyond, matched=3, unmatched=18)
    every: dict[str, JsonValue] = {problem.value: 10**place for place, problem in enumerate(Problem)}
    fact = logged(Kind.RECONCILED, said | {"found": every, "unlogged": [], "agreed": 0}, None)
    # In the order of Problem: neither UNLOGGED and UNKNOWN, nor what is wrong with a receipt.
    assert fact == placed(What.RECONCILED, beyond=1, unmatched=11_100)
    clean = logged(Kind.RECONCILED, said | {"found": {}, "unlogged": []}, None)
    assert clean == placed(What.RECONCILED, matched=3)
