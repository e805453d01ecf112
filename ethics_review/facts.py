"""What the monitor reads in the log: one small fact for each entry, and nothing in it that does not matter.

A fact is derived from its own entry alone, so that a reviewer derives the same from the exported entries. Of an entry
of which only its place matters it is OTHER. Pure.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from enum import StrEnum
from types import MappingProxyType
from typing import Final, Protocol

from audit.entry import JsonValue, parse_time
from audit.errors import NoteError
from audit.note import parse_note
from ethics_review.periods import months_of
from models.strict import Malformed, parse_json

GRAVE: Final = frozenset({"DEATH", "SERIOUS"})
"""Severities of an incident that suspend whatever its category."""
GOLDEN_MISMATCH: Final = "GOLDEN_MISMATCH"
EGRESS_BLOCKED: Final = "EGRESS_BLOCKED"
"""The code with which a call failed whose model reached for the network, and the metric that it breaks."""
UNLOGGED: Final = "UNLOGGED"
"""Of what a comparison with a PACS found: it holds a result, and no entry of the log has one."""
UNMATCHED: Final = ("UNRELEASED", "MISSING", "STUCK")
"""Results that the log has, and the PACS not as the log says."""
COUNTERSIGN_DAYS: Final = 30
"""From a safety report's entry to its countersignature. No figure is given; 30 days are ours."""
_PURPOSE: Final = "purpose"
"""Only a call on a labelled case names one. Such a set is hard by choice, and nobody waits for it: it counts not."""
_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)


class Logged(Protocol):
    """An entry of the audit log, as much of it as matters here; audit.entry.Entry is one."""

    @property
    def index(self) -> int: ...  # noqa: D102
    @property
    def source(self) -> str: ...  # noqa: D102
    @property
    def seq(self) -> int: ...  # noqa: D102
    @property
    def time(self) -> str: ...  # noqa: D102
    @property
    def boot(self) -> str: ...  # noqa: D102
    @property
    def tick_us(self) -> int: ...  # noqa: D102
    @property
    def kind(self) -> str: ...  # noqa: D102
    @property
    def call(self) -> str | None: ...  # noqa: D102
    @property
    def body(self) -> Mapping[str, JsonValue]: ...  # noqa: D102


class What(StrEnum):
    """What happened, in the monitor's words."""

    EPOCH = "EPOCH"  # a model's present run began: deployed, live, or back after a suspension
    INTENT = "INTENT"
    DENIED = "DENIED"
    RESULT = "RESULT"
    FAILED = "FAILED"
    RELEASED = "RELEASED"
    DECISION = "DECISION"
    INVARIANT = "INVARIANT"  # what must never be, was
    HEARTBEAT = "HEARTBEAT"
    GOLDEN = "GOLDEN"  # a golden case came out
    DUTY = "DUTY"  # something is owed by a date, or was done
    RECONCILED = "RECONCILED"  # a PACS was compared with the log
    OTHER = "OTHER"  # it has its place in the log, and no more


class Decision(StrEnum):
    """What a physician did with a result."""

    ACCEPT = "ACCEPT"
    MODIFY = "MODIFY"
    REJECT = "REJECT"
    NOT_USED = "NOT_USED"


@dataclass(frozen=True, slots=True)
class Fact:
    """One fact. `index` is the entry's position, `time_us` its time in microseconds since 1970, UTC.

    Attributes:
        model: digest of the model that it is about; None where the call tells, or where it is about every model.
        code: FAILED and DENIED: the entry's code; DECISION: the decision; INVARIANT: the metric.
        classes: (condition, class) pairs of the call, never a patient's own datum.
        outcome, measure: of a result: its outcome, and its first measurement as text.
        reasons, significant, reader, seconds: of a decision.
        boot, tick_us: of a heartbeat or a golden case: the run of the writer, and its clock that nothing can set.
        owed: (name, due in microseconds since 1970) of what is to be done by then. done: names of what was.
        unlogged: of a comparison: UID, and the model's digest where it is known, of results that the log does not know.
        beyond: how many more of them there are than the entry names.
        matched, unmatched: of a comparison: of the results that the log knows, how many the PACS holds as the log
            says, and how many not.
        source, seq: who wrote the entry, and as its how-manieth; without a source nobody knows.
    """

    index: int
    time_us: int
    what: What
    model: str | None = None
    call: str | None = None
    code: str = ""
    classes: tuple[tuple[str, str], ...] = ()
    outcome: str = ""
    measure: str | None = None
    reasons: tuple[str, ...] = ()
    significant: bool = False
    reader: str | None = None
    seconds: int | None = None
    boot: str = ""
    tick_us: int = 0
    owed: tuple[tuple[str, int], ...] = ()
    done: tuple[str, ...] = ()
    unlogged: tuple[tuple[str, str | None], ...] = ()
    beyond: int = 0
    matched: int = 0
    unmatched: int = 0
    source: str = ""
    seq: int = 0


def fact_of(entry: Logged) -> Fact:
    """The fact in an entry. The entry's body obeys audit.entry.BODIES."""
    maker = _MAKERS.get(str(entry.kind))
    fact = maker(entry) if maker else None
    return replace(fact or _base(entry, What.OTHER), source=entry.source, seq=entry.seq)


def microseconds(entry: Logged) -> int:
    """The entry's time in microseconds since 1970, UTC."""
    return _since_1970(parse_time(entry.time))


def _since_1970(moment: datetime) -> int:
    return (moment - _EPOCH) // timedelta(microseconds=1)


def _base(entry: Logged, what: What, code: str = "") -> Fact:
    body = entry.body
    return Fact(entry.index, microseconds(entry), what, model=_digest(body.get("model")), call=entry.call, code=code)


def _digest(model: JsonValue) -> str | None:
    return str(model["digest"]) if isinstance(model, Mapping) else None


def _intent(entry: Logged) -> Fact | None:
    base = _base(entry, What.INTENT)
    checks = entry.body["checks"]
    found = [check for check in checks if isinstance(check, Mapping)] if isinstance(checks, (list, tuple)) else []
    if any(check["outcome"] != "HOLDS" for check in found):
        return _base(entry, What.INVARIANT, "CALL_OUTSIDE_LIMITS")
    if _PURPOSE in entry.body:
        return None
    classes = tuple((str(check["condition"]), str(check["observed"])) for check in found)
    return Fact(base.index, base.time_us, What.INTENT, model=base.model, call=base.call, classes=classes)


def _denied(entry: Logged) -> Fact | None:
    return None if _PURPOSE in entry.body else _base(entry, What.DENIED, str(entry.body["code"]))


def _result(entry: Logged) -> Fact:
    # Of a result that lacks outputs the first number may be another one than it is elsewhere.
    listed = () if "failed" in entry.body else entry.body["measurements"]
    first = listed[0] if isinstance(listed, (list, tuple)) and listed else None
    measure = str(first["value"]) if isinstance(first, Mapping) else None
    return Fact(
        entry.index,
        microseconds(entry),
        What.RESULT,
        call=entry.call,
        outcome=str(entry.body["outcome"]),
        measure=measure,
    )


def _decision(entry: Logged) -> Fact:
    body = entry.body
    reasons, seconds, reader = body["reasons"], body["seconds"], body["reader"]
    return Fact(
        entry.index,
        microseconds(entry),
        What.DECISION,
        call=entry.call,
        code=str(body["decision"]),
        reasons=tuple(str(reason) for reason in reasons) if isinstance(reasons, (list, tuple)) else (),
        significant=body["significant"] != "NO",  # what nobody said is not taken for harmless
        reader=str(reader) if reader is not None else None,
        seconds=seconds if isinstance(seconds, int) else None,
    )


def _state_change(entry: Logged) -> Fact | None:
    to, event = entry.body["to"], entry.body["event"]
    # A suspension that needed no entry of its own (an expiry, say) may be ended by a RESUME to the state before it.
    if to in {"SHADOW", "LIVE"} and (to != entry.body["from"] or event == "RESUME"):
        return _base(entry, What.EPOCH)
    report = _countersigned(entry.body["note"]) if event == "COUNTERSIGN" else None
    return None if report is None else replace(_base(entry, What.DUTY), done=(report,))


def _countersigned(note: JsonValue) -> str | None:
    """The report that the note of a COUNTERSIGN names. Whether it counts is the replay's and the verifier's to say.

    Not read by `acts`: all that the monitor imports is in the digest of its code, and a life's whole grammar would be.
    """
    try:
        act = parse_json(parse_note(str(note)).text.partition("\n")[2].encode("utf-8"))
    except (NoteError, Malformed):
        return None
    statement = act.get("statement") if isinstance(act, dict) else None
    return str(statement["report"]) if isinstance(statement, dict) and "report" in statement else None


def _golden(entry: Logged) -> Fact:
    same = entry.body["outcome"] == "MATCH"
    fact = _base(entry, What.GOLDEN) if same else _base(entry, What.INVARIANT, GOLDEN_MISMATCH)
    return replace(fact, boot=entry.boot, tick_us=entry.tick_us)


def _incident(entry: Logged) -> Fact | None:
    body = entry.body
    given = [one for one in _listed(body["clocks"]) if isinstance(one, Mapping)]
    if body["event"] == "NOTIFIED":
        return replace(_base(entry, What.DUTY), done=tuple(f"{body['incident']} {one['clock']}" for one in given))
    if body["event"] != "OPENED":
        return None
    # A case is opened once; what becomes of it later is not a second harm.
    harm = body["category"] == "HARM" or body["severity"] in GRAVE
    owed = tuple((f"{body['incident']} {one['clock']}", _since_1970(parse_time(str(one["due"])))) for one in given)
    fact = _base(entry, What.INVARIANT, "INCIDENT") if harm else _base(entry, What.DUTY)
    return replace(fact, owed=owed) if harm or owed else None


def _safety_report(entry: Logged) -> Fact | None:
    # Of a period that is not over there will be another report.
    months, made = entry.body["months"], parse_time(entry.time)
    try:
        over = months_of(str(entry.body["period"]), int(str(months)))[1]
    except ValueError:
        return None
    if made < over:
        return None
    due = made + timedelta(days=COUNTERSIGN_DAYS)
    return replace(_base(entry, What.DUTY), owed=((str(entry.body["report"]), _since_1970(due)),))


def _reconciled(entry: Logged) -> Fact:
    listed = [one for one in _listed(entry.body["unlogged"]) if isinstance(one, Mapping)]
    unlogged = tuple((str(one["uid"]), None if one["model"] is None else str(one["model"])) for one in listed)
    counts = entry.body["found"]
    found = {str(name): int(str(n)) for name, n in counts.items()} if isinstance(counts, Mapping) else {}
    return replace(
        _base(entry, What.RECONCILED),
        unlogged=unlogged,
        beyond=max(0, found.get(UNLOGGED, 0) - len(unlogged)),
        matched=int(str(entry.body["agreed"])),
        unmatched=sum(found.get(name, 0) for name in UNMATCHED),
    )


def _listed(value: JsonValue) -> list[JsonValue]:
    return list(value) if isinstance(value, (list, tuple)) else []


def _heartbeat(entry: Logged) -> Fact:
    return Fact(entry.index, microseconds(entry), What.HEARTBEAT, boot=entry.boot, tick_us=entry.tick_us)


_MAKERS: Final[Mapping[str, Callable[[Logged], Fact | None]]] = MappingProxyType(
    {
        "HEARTBEAT": _heartbeat,
        "STATE_CHANGE": _state_change,
        "CALL_INTENT": _intent,
        "CALL_RESULT": _result,
        "RELEASED": lambda entry: _base(entry, What.RELEASED),
        "DENIED": _denied,
        "FAILED": lambda entry: _base(entry, What.FAILED, str(entry.body["code"])),
        "HUMAN_DECISION": _decision,
        "GOLDEN": _golden,
        "INCIDENT": _incident,
        "SAFETY_REPORT": _safety_report,
        "RECONCILED": _reconciled,
    }
)
