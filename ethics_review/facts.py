"""What the monitor reads in the log: one small fact for each entry that matters, and nothing of any other.

A fact is derived from its own entry alone, so that a reviewer derives the same from the exported entries. Pure.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from enum import StrEnum
from types import MappingProxyType
from typing import Final, Protocol

from audit.entry import JsonValue, parse_time

GRAVE: Final = frozenset({"DEATH", "SERIOUS"})
"""Severities of an incident that suspend whatever its category."""
_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)


class Logged(Protocol):
    """An entry of the audit log, as much of it as matters here; audit.entry.Entry is one."""

    @property
    def index(self) -> int: ...  # noqa: D102
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
        boot, tick_us: of a heartbeat: the run of the writer, and its clock that nothing can set.
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


def fact_of(entry: Logged) -> Fact | None:
    """The fact in an entry; None where there is none for the monitor. The entry's body obeys audit.entry.BODIES."""
    maker = _MAKERS.get(str(entry.kind))
    return maker(entry) if maker else None


def microseconds(entry: Logged) -> int:
    """The entry's time in microseconds since 1970, UTC."""
    return (parse_time(entry.time) - _EPOCH) // timedelta(microseconds=1)


def _base(entry: Logged, what: What, code: str = "") -> Fact:
    body = entry.body
    return Fact(entry.index, microseconds(entry), what, model=_digest(body.get("model")), call=entry.call, code=code)


def _digest(model: JsonValue) -> str | None:
    return str(model["digest"]) if isinstance(model, Mapping) else None


def _intent(entry: Logged) -> Fact:
    base = _base(entry, What.INTENT)
    checks = entry.body["checks"]
    found = [check for check in checks if isinstance(check, Mapping)] if isinstance(checks, (list, tuple)) else []
    if any(check["outcome"] != "HOLDS" for check in found):
        return _base(entry, What.INVARIANT, "CALL_OUTSIDE_LIMITS")
    classes = tuple((str(check["condition"]), str(check["observed"])) for check in found)
    return Fact(base.index, base.time_us, What.INTENT, model=base.model, call=base.call, classes=classes)


def _result(entry: Logged) -> Fact:
    listed = entry.body["measurements"]
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
    to = entry.body["to"]
    # A suspension that needed no entry of its own (an expiry, say) may be ended by a RESUME to the state before it.
    began = to in {"SHADOW", "LIVE"} and (to != entry.body["from"] or entry.body["event"] == "RESUME")
    return _base(entry, What.EPOCH) if began else None


def _golden(entry: Logged) -> Fact | None:
    same = entry.body["outcome"] == "MATCH"
    return None if same else _base(entry, What.INVARIANT, "GOLDEN_MISMATCH")


def _incident(entry: Logged) -> Fact | None:
    # A case is opened once; what becomes of it later is not a second harm.
    body = entry.body
    harm = body["category"] == "HARM" or body["severity"] in GRAVE
    return _base(entry, What.INVARIANT, "INCIDENT") if harm and body["event"] == "OPENED" else None


def _heartbeat(entry: Logged) -> Fact:
    return Fact(entry.index, microseconds(entry), What.HEARTBEAT, boot=entry.boot, tick_us=entry.tick_us)


_MAKERS: Final[Mapping[str, Callable[[Logged], Fact | None]]] = MappingProxyType(
    {
        "HEARTBEAT": _heartbeat,
        "STATE_CHANGE": _state_change,
        "CALL_INTENT": _intent,
        "CALL_RESULT": _result,
        "RELEASED": lambda entry: _base(entry, What.RELEASED),
        "DENIED": lambda entry: _base(entry, What.DENIED, str(entry.body["code"])),
        "FAILED": lambda entry: _base(entry, What.FAILED, str(entry.body["code"])),
        "HUMAN_DECISION": _decision,
        "GOLDEN": _golden,
        "INCIDENT": _incident,
    }
)
