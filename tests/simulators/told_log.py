"""Entries of a log that never was on a disk, each checked as the log would; and a labelled set's run among them."""

import random
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any

from audit.entry import Draft, Entry, JsonValue, Kind
from ethics_review.acceptance import Acceptance, Claim, acceptance_of
from tests.simulators.audit_log import DIGEST, MODEL, body

DATASET = "sha256:" + "7" * 64
OTHER_MODEL: dict[str, JsonValue] = {**MODEL, "digest": "sha256:" + "e" * 64}
APPROVAL = "TEST-0001"
CLAIM = Claim(str(MODEL["digest"]), APPROVAL, DATASET)


@dataclass
class Told:
    """A log in memory; `at` is the time of the next entry."""

    at: datetime = datetime(2026, 11, 2, 1, 0, tzinfo=UTC)
    entries: list[Entry] = field(default_factory=list)
    calls: int = 0

    def put(self, kind: Kind, call: str | None = None, **changes: Any) -> Entry:
        """An entry of this kind: a good body of `audit_log.body` with `changes`."""
        index = len(self.entries)
        draft = Draft(kind, f"k:{index}", {**body(kind), **changes}, call)
        entry = Entry.of(draft, index=index, source="test", seq=index, now=self.at, boot="b" * 32, tick_us=index)
        self.entries.append(entry)
        self.at += timedelta(seconds=1)
        return entry

    def call(self, *, model: Mapping[str, JsonValue] = MODEL, approval: str = APPROVAL, **classes: str) -> str:
        """A permitted call with these classes; its name."""
        self.calls += 1
        name = f"{self.calls:032x}"
        seen = {"SEX": "F", "AGE_YEARS": "60-64", "SITE": "test-site", "SLICE_SPACING_MM": "1.0", "MODALITY": "MR"}
        checks = [
            {"condition": condition, "outcome": "HOLDS", "observed": observed}
            for condition, observed in (seen | classes).items()
        ]
        self.put(Kind.CALL_INTENT, name, model=dict(model), approval=approval, checks=checks)
        return name

    def result(self, call: str, total_ms: int = 2000) -> None:
        """The call has a result."""
        self.put(Kind.CALL_RESULT, call, timing_ms={"total": total_ms})

    def case(self, call: str, **figures: Any) -> Entry:
        """The CASE of a call."""
        bare: dict[str, Any] = dict.fromkeys(("truth", "positive", "score", "dice", "volume_error"))
        told = {"approval": APPROVAL, "dataset": DATASET, "failed": "NO"} | bare | figures
        return self.put(Kind.CASE, call, **told)

    def acceptance(self, found: Acceptance, **changes: Any) -> Entry:
        """The ACCEPTANCE of what the entries so far give, with `changes`."""
        said = {
            "model": dict(MODEL),
            "approval": APPROVAL,
            "dataset": DATASET,
            "cases": found.cases,
            "rows": [row.body() for row in found.rows],
            "unmet": 0,
            "code": DIGEST,
        }
        return self.put(Kind.ACCEPTANCE, **(said | changes))


def labelled_run(seed: int = 1, cases: int = 80, *, scored: bool = False) -> Told:
    """A run over a labelled set: most cases get a result, some fail, some are refused; other calls lie between."""
    rng, log = random.Random(seed), Told()
    log.put(Kind.LOG_START)
    for number in range(cases):
        if rng.random() < 0.2:
            log.result(log.call(model=OTHER_MODEL))
        fate = rng.random()
        if fate < 0.1:
            log.calls += 1
            name = f"{log.calls:032x}"
            log.put(Kind.DENIED, name, code="CONDITION_NOT_MET", condition="AGE_YEARS", observed="5-9", model=MODEL)
            log.case(name, truth="PRESENT", failed="REFUSED")
            continue
        name = log.call(SEX="FM"[number % 2], SLICE_SPACING_MM=("0.8", "5.0")[number % 3 == 0])
        truth = rng.random() < 0.5
        label = {"truth": "PRESENT" if truth else "ABSENT"}
        if fate < 0.2:
            log.put(Kind.FAILED, name, code="ENGINE_DIED")
            log.case(name, dice="0.000000", volume_error="-1.000000", failed="YES", **label)
            continue
        log.result(name)
        score = min(1.0, max(0.0, rng.gauss(0.7 if truth else 0.3, 0.2)))
        figures = {"dice": f"{0.9 + rng.random() / 11:.6f}", "volume_error": f"{rng.gauss(0, 0.05):.6f}"}
        more = {"score": f"{score:.6f}"} if scored else {}
        log.case(name, positive="YES" if score > 0.5 else "NO", **label, **figures, **more)
    return log


def found_in(log: Told) -> Acceptance:
    """The acceptance of the run."""
    return acceptance_of(log.entries, CLAIM)
