"""A ward over a real log, seen by the product's own monitor: approvals, calls, decisions, and a register that polices.

The register keeps the contract of ethics_review.register as far as the monitor may use it: what loosens is not there
for the monitor to call; `people` is what humans do by signed acts.
"""

import dataclasses
import hashlib
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from audit.entry import Draft, Entry, JsonValue, Kind
from audit.log import AuditLog
from ethics_review import life
from ethics_review.errors import ReviewError
from ethics_review.life import Life
from ethics_review.standing import Standing
from ethics_review.states import Cause, Past, State
from models.ref import ModelRef
from service.monitoring import Monitoring
from tests.simulators.audit_log import DIGEST, ORIGIN, QUICK, SIGNER, body
from tests.simulators.monitored import MODEL, MONITOR

OTHER = ModelRef("chest", "2.0", "sha256:" + "b" * 64)
BEGAN = datetime(2026, 12, 1, 0, 0, tzinfo=UTC)


@dataclass
class SetClock:
    """Time that a test moves; each look takes a millisecond."""

    now: datetime = BEGAN

    def __call__(self) -> datetime:
        """The present moment."""
        self.now += timedelta(milliseconds=1)
        return self.now

    def passes(self, **spans: float) -> None:
        """So much later."""
        self.now += timedelta(**spans)


def opened(root: Path, clock: SetClock) -> AuditLog:
    """The log of these tests; its own counter goes with the clock, as on a sound machine."""

    def seconds() -> float:
        return (clock.now - BEGAN).total_seconds()

    return AuditLog.open(
        root,
        origin=ORIGIN,
        source="service",
        signer=SIGNER,
        now=clock,
        disk=QUICK,
        clock=seconds,
    )


@dataclass(frozen=True)
class FakeApproval:
    """As much of an approval as the monitor reads."""

    id: str
    model: ModelRef
    note_digest: str
    monitor: Mapping[str, JsonValue]
    on_breach: str


@dataclass
class FakeRegister:
    """Standings out of the log's STATE_CHANGE entries; suspends and restricts, and nothing that the evidence denies."""

    log: AuditLog
    known: list[FakeApproval] = field(default_factory=list)
    suspended: list[tuple[ModelRef, Cause, int | None]] = field(default_factory=list)
    restricted: list[tuple[ModelRef, str, str, int | None]] = field(default_factory=list)
    dies: BaseException | None = None

    def record(
        self, model: ModelRef = MODEL, name: str = "TEST-1", on_breach: str = "SUSPEND", **thresholds: Any
    ) -> FakeApproval:
        """A reviewer's approval comes into the log."""
        note = SIGNER.sign(f'zhiying-approval/2\n{{"approval":"{name}"}}\n')
        digest = "sha256:" + hashlib.sha256(note.encode()).hexdigest()
        approval = FakeApproval(name, model, digest, {**MONITOR, **thresholds}, on_breach)
        self.known.append(approval)
        self.log.append(Draft(Kind.APPROVAL, f"approval:{name.lower()}", {"note": note, "note_digest": digest}))
        return approval

    def people(self, event: str, to: State, reason: Cause = Cause.OPERATOR, model: ModelRef = MODEL) -> Entry:
        """People act."""
        return self._change(model, event, to, reason.value, None, None, None)

    def approvals(self) -> tuple[Any, ...]:
        """See service.monitoring.Register."""
        return tuple(self.known)

    def standing(self, digest: str) -> Standing | None:
        """See service.monitoring.Register."""
        model = next((one.model for one in self.known if one.model.digest == digest), None)
        if model is None:
            return None
        one, cut_off = Life(model, Past(State.APPROVED)), set()
        for entry in self.log.entries():
            if entry.kind not in {Kind.STATE_CHANGE, Kind.EVALUATION}:
                continue
            body = entry.body
            if dict(body["model"])["digest"] != digest:  # type: ignore[arg-type]
                continue
            if entry.kind is Kind.EVALUATION:
                one = life.evaluated(one, entry)
                continue
            to, suspends = State(str(body["to"])), body["event"] == "SUSPEND"
            cause = life.graver(one.past.cause, Cause(str(body["reason"]))) if suspends else None
            began = entry.index if to in {State.SHADOW, State.LIVE} and to is not one.state else one.began
            one = dataclasses.replace(one, past=Past(to, cause), began=began)
            if suspends:
                one = life.answered(one, body["reason"], body["evidence"])
            if body["event"] == "RESTRICT":
                cut_off.add((str(body["condition"]), str(body["observed"])))
        assert one.state is not None
        return Standing(model, one.state, cause=one.past.cause, cut_off=frozenset(cut_off), asked=one.asked)

    def suspend(self, model: ModelRef, cause: Cause, evidence: int | None) -> Entry:
        """See service.monitoring.Register."""
        self._check(model, evidence, "SUSPEND")
        assert isinstance(cause, Cause)
        entry = self._change(model, "SUSPEND", State.SUSPENDED, cause.value, None, None, evidence)
        self.suspended.append((model, cause, evidence))
        return entry

    def restrict(self, model: ModelRef, condition: str, observed: str, evidence: int | None) -> Entry:
        """See service.monitoring.Register."""
        found = self._check(model, evidence, "RESTRICT")
        assert found.body["subgroup"] == f"{condition}:{observed}"
        state = self.standing(model.digest)
        assert state is not None
        assert (condition, observed) not in state.cut_off
        entry = self._change(model, "RESTRICT", state.state, "SUBGROUP_GAP", condition, observed, evidence)
        self.restricted.append((model, condition, observed, evidence))
        return entry

    def _check(self, model: ModelRef, evidence: int | None, outcome: str) -> Entry:
        """The evidence is an evaluation of this model that asks for it, and the model is in use."""
        if self.dies is not None:
            raise self.dies
        state = self.standing(model.digest)
        suspended = {State.SUSPENDED} if outcome == "SUSPEND" else set()
        if state is None or state.state not in {State.SHADOW, State.LIVE} | suspended:
            raise ReviewError("only what is in use can be tightened")
        assert evidence is not None
        found = next(self.log.entries(evidence))
        assert found.kind is Kind.EVALUATION
        assert dict(found.body["model"])["digest"] == model.digest  # type: ignore[arg-type]
        assert found.body["outcome"] == outcome
        return found

    def _change(
        self,
        model: ModelRef,
        event: str,
        to: State,
        reason: str,
        condition: str | None,
        observed: str | None,
        evidence: int | None,
    ) -> Entry:
        before = self.standing(model.digest)
        said: dict[str, JsonValue] = {
            "model": model_body(model),
            "event": event,
            "from": (State.APPROVED if before is None else before.state).value,
            "to": to.value,
            "reason": reason,
            "condition": condition,
            "observed": observed,
            "evidence": evidence,
            "note": None,
            "note_digest": None,
        }
        key = f"state:{self.log.head().size}" if evidence is None else f"{event.lower()}:{evidence}"
        return self.log.append(Draft(Kind.STATE_CHANGE, key, said))


@dataclass
class FakeWatched:
    """Counts what it is told."""

    evaluations: list[tuple[str, str]] = field(default_factory=list)
    failures: list[str] = field(default_factory=list)
    left: int = 0
    out_of_use: int = 0

    def evaluated(self, metric: str, outcome: str) -> None:
        """See service.monitoring.Watched."""
        self.evaluations.append((metric, outcome))

    def failed(self, code: str) -> None:
        """See service.monitoring.Watched."""
        self.failures.append(code)

    def behind(self, entries: int) -> None:
        """See service.monitoring.Watched."""
        assert entries >= 0
        self.left = entries

    def suspended(self, models: int) -> None:
        """See service.monitoring.Watched."""
        self.out_of_use = models


def model_body(ref: ModelRef) -> dict[str, JsonValue]:
    """As entries name it."""
    return {"name": ref.name, "version": ref.version, "digest": ref.digest}


class Ward:
    """Real entries of calls in a real log, and whoever looks at them."""

    def __init__(self, root: Path) -> None:
        self.clock = SetClock()
        self.root = root
        self.log = opened(root / "audit", self.clock)
        self.register = FakeRegister(self.log)
        self.watched = FakeWatched()
        self.calls = 0

    @property
    def cache(self) -> Path:
        """The monitor's file."""
        return self.root / "monitor" / "state"

    def monitoring(self, **others: Any) -> Monitoring:
        """A monitor as a service's start makes one."""
        parts: dict[str, Any] = {"log": self.log, "writer": self.log, "register": self.register, "cache": self.cache}
        parts |= {"watched": self.watched, "clock": time.monotonic}
        return Monitoring(**(parts | others))

    def in_use(self, model: ModelRef = MODEL, **terms: Any) -> None:
        """The model is approved and live."""
        self.register.record(model, **terms)
        self.register.people("DEPLOY", State.SHADOW, model=model)
        self.register.people("GO_LIVE", State.LIVE, model=model)

    def call(self, *, sex: str = "F", state: str = "LIVE", model: ModelRef = MODEL) -> str:
        """Intent, result and release of a call, within a minute; its name."""
        self.calls += 1
        name = f"{self.calls * 0x9E3779B97F4A7C15F39CC0605CEDC835 % 2**128:032x}"
        checks: list[JsonValue] = [
            {"condition": "STATE", "outcome": "HOLDS", "observed": state},
            {"condition": "SEX", "outcome": "HOLDS", "observed": sex},
            {"condition": "AGE_YEARS", "outcome": "HOLDS", "observed": "60-64"},
        ]
        intent = body(Kind.CALL_INTENT) | {"model": model_body(model), "checks": checks}
        self.put(Kind.CALL_INTENT, f"intent:{name}:{'0' * 16}", intent, name)
        self.clock.passes(seconds=20)
        self.put(Kind.CALL_RESULT, f"result:{name}", body(Kind.CALL_RESULT), name)
        if state == "LIVE":
            self.put(Kind.RELEASED, f"released:{name}", body(Kind.RELEASED), name)
        return name

    def decided(self, decision: str, *, sex: str = "F", model: ModelRef = MODEL) -> str:
        """A call on which somebody decides some minutes later; a disagreement is significant."""
        name = self.call(sex=sex, model=model)
        self.clock.passes(minutes=3)
        said = body(Kind.HUMAN_DECISION) | {"decision": decision}
        said["significant"] = "NO" if decision == "ACCEPT" else "YES"
        self.put(Kind.HUMAN_DECISION, f"decision:{name}", said, name)
        return name

    def golden(self, outcome: str, model: ModelRef | None = MODEL) -> None:
        """A golden case came out, or did not."""
        said = body(Kind.GOLDEN) | {"outcome": outcome, "model": model_body(model or MODEL)}
        self.put(Kind.GOLDEN, f"golden:{self.log.head().size}", said)

    def incident(self, model: ModelRef | None = MODEL) -> None:
        """Harm is suspected."""
        said = body(Kind.INCIDENT) | {"model": None if model is None else model_body(model)}
        self.put(Kind.INCIDENT, f"incident:{self.log.head().size}", said)

    def put(self, kind: Kind, key: str, said: Mapping[str, JsonValue], call: str | None = None) -> Entry:
        """One entry."""
        return self.log.append(Draft(kind, key, said, call))

    def decisions(self) -> list[Entry]:
        """The HUMAN_DECISION entries."""
        return [entry for entry in self.log.entries() if entry.kind is Kind.HUMAN_DECISION]

    def evaluations(self, *outcomes: str) -> list[Entry]:
        """The EVALUATION entries, or those with one of these outcomes."""
        found = (entry for entry in self.log.entries() if entry.kind is Kind.EVALUATION)
        return [one for one in found if not outcomes or one.body["outcome"] in outcomes]

    def states(self) -> Iterator[str]:
        """Where the dossier went."""
        for entry in self.log.entries():
            if entry.kind is Kind.STATE_CHANGE:
                yield str(entry.body["to"])


__all__ = ["BEGAN", "DIGEST", "OTHER", "FakeApproval", "FakeRegister", "FakeWatched", "SetClock", "Ward", "model_body"]
