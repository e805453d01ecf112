"""A stream of facts as a hospital's log would give them, and the plans that judge them."""

import random
from collections.abc import Iterator
from dataclasses import dataclass, field

from ethics_review.evaluation import Plan
from ethics_review.facts import Fact, What
from models.ref import ModelRef

MODEL = ModelRef("brain", "1.0.0", "sha256:" + "a" * 64)
APPROVAL = "TEST-2026-0001"
OTHER_MODEL = "sha256:" + "b" * 64
MONITOR = {
    "disagree_p0": "0.06",
    "disagree_p1": "0.12",
    "cusum_h": "6",
    "missed_p0": "0.02",
    "missed_p1": "0.05",
    "false_positive_p0": "0.03",
    "false_positive_p1": "0.08",
    "failure_rate": "0.02",
    "subgroup_gap": "0.10",
    "p95_ms": 120_000,
    "human_decision_h": 24,
}
START_US = 1_800_000_000_000_000
MINUTE_US = 60_000_000


def plan(on_breach: str = "RESTRICT", **changed: object) -> Plan:
    """The plan of MONITOR, with some thresholds changed; None takes one out."""
    wanted = {key: value for key, value in {**MONITOR, **changed}.items() if value is not None}
    return Plan.of(MODEL, wanted, on_breach, APPROVAL)  # type: ignore[arg-type]


@dataclass
class Ward:
    """Writes facts one after another, as the log's entries would come. Times are minutes from START_US."""

    index: int = 0
    minute: float = 0.0
    calls: int = 0
    facts: list[Fact] = field(default_factory=list)

    def put(self, what: What, **fields: object) -> Fact:
        """One fact at the present minute."""
        fact = Fact(self.index, START_US + round(self.minute * MINUTE_US), what, **fields)  # type: ignore[arg-type]
        self.index += 1
        self.facts.append(fact)
        return fact

    def call(self, *, sex: str = "F", age: str = "60-64", vendor: str = "UIH", spacing: str = "1.0") -> str:
        """An intent for MODEL; the name of its call."""
        self.calls += 1
        name = f"{self.calls * 0x9E3779B97F4A7C15F39CC0605CEDC835 % 2**128:032x}"  # in no order, as real ones are
        classes = (("SEX", sex), ("AGE_YEARS", age), ("MANUFACTURER", vendor), ("SLICE_SPACING_MM", spacing))
        self.put(What.INTENT, model=MODEL.digest, call=name, classes=classes)
        return name

    def result(self, call: str, measure: str | None = "1500.0") -> None:
        """The call succeeded."""
        self.put(What.RESULT, call=call, outcome="FINDINGS", measure=measure)

    def failure(self, call: str, code: str = "ENGINE_DIED") -> None:
        """The call failed."""
        self.put(What.FAILED, call=call, code=code)

    def decision(self, call: str, code: str = "ACCEPT", **fields: object) -> None:
        """A person decided; a disagreement is significant unless said otherwise."""
        given = {"significant": code in {"MODIFY", "REJECT"}, "seconds": 40, **fields}
        self.put(What.DECISION, call=call, code=code, **given)

    def judged(self, code: str = "ACCEPT", *, sex: str = "F", age: str = "60-64", **fields: object) -> str:
        """A whole call: intent, result, release, decision, within a few minutes."""
        name = self.call(sex=sex, age=age)
        self.minute += 0.5
        self.result(name)
        self.put(What.RELEASED, call=name)
        self.minute += 5
        self.decision(name, code, **fields)
        return name


def busy(seed: int, calls: int, *, bad: float = 0.06, failing: float = 0.005) -> Iterator[Fact]:
    """Everything that can happen, mixed: calls that overlap, other models, silence, suspension and return."""
    rng, ward, open_calls = random.Random(seed), Ward(), list[str]()
    readers = [f"{k:032x}" for k in range(3)]
    for _ in range(calls):
        ward.minute += rng.expovariate(1 / 4)
        if rng.random() < 0.2:
            ward.put(What.HEARTBEAT, boot="e" * 32, tick_us=round(ward.minute * MINUTE_US) // 100)
        if rng.random() < 0.05:
            ward.put(What.DENIED, model=MODEL.digest, code="CONDITION_NOT_MET")
        if rng.random() < 0.02:
            ward.put(What.INTENT, model=OTHER_MODEL, call=f"{rng.getrandbits(100):032x}")
        if rng.random() < 0.002:
            ward.put(What.INVARIANT, model=MODEL.digest, code="GOLDEN_MISMATCH")
        if rng.random() < 0.001:
            ward.put(What.EPOCH, model=MODEL.digest)
        if rng.random() < 0.001:
            ward.put(What.RECONCILED, matched=rng.randrange(400), unmatched=rng.randrange(4))
        call = ward.call(
            sex=rng.choice("FM"),
            age=rng.choice(("30-34", "60-64", "90+")),
            vendor=rng.choice(("UIH", "GE", "GE", "OTHER")),
            spacing=rng.choice(("0.8", "1.0", "5.0")),
        )
        ward.minute += rng.random() * 3
        if rng.random() < failing:
            ward.failure(call, rng.choice(("ENGINE_DIED", "DEADLINE_EXCEEDED")))
            continue
        ward.result(call, f"{rng.gauss(1500, 100):.3f}")
        ward.put(What.RELEASED, call=call)
        open_calls.append(call)
        while open_calls and rng.random() < 0.6:
            done = open_calls.pop(rng.randrange(len(open_calls)))
            disagrees = rng.random() < bad
            code = rng.choice(("MODIFY", "REJECT")) if disagrees else rng.choice(("ACCEPT",) * 30 + ("NOT_USED",))
            reasons = (rng.choice(("MISSED_FINDING", "FALSE_POSITIVE", "MEASURE")),) if disagrees else ()
            reader = rng.choice(readers)
            ward.decision(done, code, reasons=reasons, reader=reader, seconds=rng.randrange(1, 90))
    yield from ward.facts
