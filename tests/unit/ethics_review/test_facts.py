"""What the monitor reads in each kind of entry: the log's own kinds as they are, and those of the contract."""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import pytest

from audit.entry import Draft, Entry, JsonValue, Kind
from ethics_review.facts import Fact, What, fact_of
from tests.simulators.audit_log import body
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
    time: str = "2026-12-01T08:00:00.250000Z"
    boot: str = BOOT
    tick_us: int = 99


def logged(kind: Kind, given: Mapping[str, JsonValue], call: str | None = CALL) -> Fact | None:
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
    assert fact == Fact(7, NOW_US, What.INTENT, model=MODEL.digest, call=CALL, classes=classes)


def test_intent_outside_its_limits() -> None:
    """A call that was begun though a check did not hold breaks an invariant."""
    fact = logged(Kind.CALL_INTENT, intent("CONDITION_NOT_MET"))
    assert fact is not None
    assert (fact.what, fact.code, fact.model) == (What.INVARIANT, "CALL_OUTSIDE_LIMITS", MODEL.digest)


@pytest.mark.parametrize("values", [[], ["1501.5", "3"]], ids=["none", "two"])
def test_result(values: list[str]) -> None:
    """A result gives its outcome, and its first measurement if it has one."""
    measurements: list[JsonValue] = [{"code": "vol", "value": value, "unit": "cm3"} for value in values]
    fact = logged(Kind.CALL_RESULT, body(Kind.CALL_RESULT) | {"outcome": "FINDINGS", "measurements": measurements})
    measure = values[0] if values else None
    assert fact == Fact(7, NOW_US, What.RESULT, call=CALL, outcome="FINDINGS", measure=measure)


def test_the_log_s_other_kinds() -> None:
    """Releases, failures, denials and heartbeats; the rest of the log is not the monitor's matter."""
    failed: dict[str, JsonValue] = {"study": "a" * 32, "stage": "INFERRED", "code": "DEADLINE_EXCEEDED", "fault": "US"}
    assert logged(Kind.FAILED, failed) == Fact(7, NOW_US, What.FAILED, call=CALL, code="DEADLINE_EXCEEDED")
    denied: dict[str, JsonValue] = {
        "study": "a" * 32,
        "stage": "PERMITTED",
        "code": "CONDITION_NOT_MET",
        "condition": "SEX",
        "observed": "M",
        "model": MODEL_BODY,
    }
    assert logged(Kind.DENIED, denied, None) == Fact(
        7, NOW_US, What.DENIED, model=MODEL.digest, code="CONDITION_NOT_MET"
    )
    released: dict[str, JsonValue] = {"outputs": [], "peer": "PACS", "attempts": 1, "proof": "COMMITTED"}
    assert logged(Kind.RELEASED, released) == Fact(7, NOW_US, What.RELEASED, call=CALL)
    beat = logged(Kind.HEARTBEAT, {"interval_s": 60}, None)
    assert beat == Fact(7, NOW_US, What.HEARTBEAT, boot=BOOT, tick_us=99)
    assert logged(Kind.LOG_START, body(Kind.LOG_START), None) is None


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
    assert fact == Fact(
        7,
        NOW_US,
        What.DECISION,
        call=CALL,
        code="MODIFY",
        reasons=("MISSED_FINDING",),
        significant=counts,
        reader="d" * 32,
        seconds=12,
    )
    silent = fact_of(Line("HUMAN_DECISION", body | {"reader": None, "seconds": None, "reasons": []}, CALL))
    assert silent is not None
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
    assert fact_of(line) == (Fact(7, NOW_US, What.EPOCH, model=MODEL.digest) if begins else None)


@pytest.mark.parametrize(
    ("kind", "body", "code"),
    [
        ("GOLDEN", {"outcome": "MATCH"}, None),
        ("GOLDEN", {"outcome": "MISMATCH"}, "GOLDEN_MISMATCH"),
        ("GOLDEN", {"outcome": "FAILED"}, "GOLDEN_MISMATCH"),
        ("INCIDENT", {"event": "OPENED", "category": "HARM", "severity": "MINOR"}, "INCIDENT"),
        ("INCIDENT", {"event": "OPENED", "category": "PERFORMANCE", "severity": "DEATH"}, "INCIDENT"),
        ("INCIDENT", {"event": "OPENED", "category": "PERFORMANCE", "severity": "SERIOUS"}, "INCIDENT"),
        ("INCIDENT", {"event": "OPENED", "category": "PERFORMANCE", "severity": "MINOR"}, None),
        ("INCIDENT", {"event": "CLOSED", "category": "HARM", "severity": "DEATH"}, None),
    ],
)
def test_invariants(kind: str, body: dict[str, Any], code: str | None) -> None:
    """A golden case that does not come out, however, and a case of harm, when it is opened, break an invariant."""
    fact = fact_of(Line(kind, body | {"model": MODEL_BODY}))
    assert fact == (None if code is None else Fact(7, NOW_US, What.INVARIANT, model=MODEL.digest, code=code))
    opened: dict[str, JsonValue] = {"event": "OPENED", "category": "HARM", "severity": "MINOR"}
    everywhere = fact_of(Line("INCIDENT", opened | {"model": None}))
    assert everywhere is not None
    assert everywhere.model is None
