"""What the monitor may say, about which metric, how strongly. There is no word here with which to loosen anything.

The three tiers: T0, what must never be: one is enough, suspend. T1, sequential evidence: suspend, or first restrict.
T2, early warning: a person looks, and it cannot suspend. "Too few" is an outcome of its own, and is not "fine". Pure.
"""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from decimal import Decimal
from enum import StrEnum
from functools import cache
from importlib import resources
from types import MappingProxyType
from typing import Final

from audit.entry import JsonValue
from ethics_review.errors import RequestInvalid
from ethics_review.sequential import Design, decimal, design
from models.ref import ModelRef


class Tier(StrEnum):
    """How bad what a metric measures would be."""

    T0 = "T0"
    T1 = "T1"
    T2 = "T2"


class Outcome(StrEnum):
    """All that an evaluation can end in, from nothing to the strongest."""

    OK = "OK"
    TOO_FEW = "TOO_FEW"
    ALERT = "ALERT"
    RESTRICT = "RESTRICT"
    SUSPEND = "SUSPEND"


SEVERITY: Final = MappingProxyType(
    {Outcome.OK: 0, Outcome.TOO_FEW: 0, Outcome.ALERT: 1, Outcome.RESTRICT: 2, Outcome.SUSPEND: 3}
)


@dataclass(frozen=True, slots=True)
class Metric:
    """One row of the table.

    Attributes:
        worst: the strongest that it may say.
        n_min: below so many it is never OK, but TOO_FEW; it may say something worse at any n.
        size: calls in a full window; 0 for what has none.
        limit: where the approval does not set it: the share, as text, that must not be exceeded.
    """

    name: str
    tier: Tier
    worst: Outcome
    n_min: int
    size: int = 0
    limit: str = ""


INVARIANTS: Final = (
    "CALL_OUTSIDE_LIMITS",
    "MODEL_DIGEST_MISMATCH",
    "APPROVAL_MISSING",
    "APPROVAL_EXPIRED",
    "AUDIT_WRITE_FAILED",
    "HEARTBEAT_GAP",
    "SEQUENCE_GAP",
    "CLOCK_OFFSET",
    "WITNESS_STALE",
    "GOLDEN_MISMATCH",
    "PHI_FOUND",
    "EGRESS_BLOCKED",
    "INCIDENT",
    "RELEASE_UNLOGGED",
    "EVIDENCE_OVERDUE",
)
_OTHERS: Final = (
    # Results released whose decision fell due within a civil day, and did not come: more than 1 % of them.
    Metric("DECISIONS_MISSING", Tier.T0, Outcome.SUSPEND, 100, limit="0.01"),
    # CUSUMs; p0, p1 and h are the approval's. n_min is when the chart's silence begins to mean anything.
    Metric("DISAGREEMENT", Tier.T1, Outcome.SUSPEND, 100),
    Metric("MISSED_FINDING", Tier.T1, Outcome.SUSPEND, 100),
    Metric("FALSE_POSITIVE", Tier.T1, Outcome.SUSPEND, 100),
    # Of the last 200 finished calls; the limit of the first is the approval's. Five of five: five in a row.
    Metric("FAILURE_RATE", Tier.T1, Outcome.SUSPEND, 200, size=200),
    Metric("FAILURES_IN_A_ROW", Tier.T1, Outcome.SUSPEND, 5, size=5, limit="0.8"),
    Metric("DEADLINE_MISSED", Tier.T1, Outcome.SUSPEND, 200, size=200, limit="0.05"),
    Metric("SUBGROUP_GAP", Tier.T1, Outcome.SUSPEND, 100),
    Metric("SUBGROUP_GAP_SEEN", Tier.T2, Outcome.ALERT, 100),
    Metric("INPUT_DRIFT", Tier.T2, Outcome.ALERT, 500, size=500, limit="0.25"),
    Metric("OUTPUT_DRIFT", Tier.T2, Outcome.ALERT, 500, size=500, limit="0.25"),
    Metric("LATENCY_P95", Tier.T2, Outcome.ALERT, 200, size=200),
    Metric("ACCEPT_ALL", Tier.T2, Outcome.ALERT, 50),  # size from p0: honest readers accept so many in 1 of 100
    Metric("FAST_ACCEPT", Tier.T2, Outcome.ALERT, 50, size=50, limit="0.2"),
    Metric("CONDITION_DENIED", Tier.T2, Outcome.ALERT, 200, size=200, limit="0.1"),
    Metric("DECISION_OVERDUE", Tier.T2, Outcome.ALERT, 1, limit="0"),
    # Of what a comparison with the PACS looked for; and no comparison at all for two days after a release.
    Metric("RESULTS_UNMATCHED", Tier.T2, Outcome.ALERT, 200, limit="0.005"),
    Metric("COMPARISON_OVERDUE", Tier.T2, Outcome.ALERT, 1, limit="0"),
    Metric("NOT_USED", Tier.T2, Outcome.ALERT, 200, size=200, limit="0.1"),  # who leaves the denominator is counted too
)
METRICS: Final[Mapping[str, Metric]] = MappingProxyType(
    {
        metric.name: metric
        for metric in (*(Metric(name, Tier.T0, Outcome.SUSPEND, 1, limit="0") for name in INVARIANTS), *_OTHERS)
    }
)


@dataclass(frozen=True, slots=True)
class Reading:
    """What a chart says: a metric, for a subgroup or all, from the calls in the entries `first` to `last`.

    `value` and `limit` are decimals as text. Raises RequestInvalid where it says more than its metric may.
    """

    metric: str
    subgroup: str | None
    first: int
    last: int
    n: int
    value: str | None
    limit: str | None
    outcome: Outcome

    def __post_init__(self) -> None:
        if SEVERITY[self.outcome] > SEVERITY[METRICS[self.metric].worst]:
            raise RequestInvalid(f"{self.metric} cannot end in {self.outcome}")
        if not 0 <= self.first <= self.last or self.n < 0:
            raise RequestInvalid("entries or n out of order")


@dataclass(frozen=True, slots=True)
class Evaluation:
    """A reading of one model's monitor, as it goes into the log. `approval`: whose thresholds judged."""

    model: ModelRef
    approval: str
    reading: Reading

    @property
    def outcome(self) -> Outcome:
        """What it ends in."""
        return self.reading.outcome

    def body(self) -> dict[str, JsonValue]:
        """The body of its EVALUATION entry."""
        reading = self.reading
        return {
            "metric": reading.metric,
            "tier": METRICS[reading.metric].tier.value,
            "model": {"name": self.model.name, "version": self.model.version, "digest": self.model.digest},
            "approval": self.approval,
            "first": reading.first,
            "last": reading.last,
            "n": reading.n,
            "value": reading.value,
            "limit": reading.limit,
            "outcome": reading.outcome.value,
            "subgroup": reading.subgroup,
            "code": code_digest(),
        }


@dataclass(frozen=True, slots=True)
class Plan:
    """The thresholds for one model: all of them out of its signed approval, none out of the site's configuration.

    Attributes:
        approval: its id.
        missed, false_positive: None where the approval gives no baseline; the metric is then TOO_FEW for ever.
        failure_rate, subgroup_gap: shares. p95_ms: from intent to result. decision_h: hours to a human decision.
        restrict_first: a subgroup is cut off before the model is suspended.
    """

    model: ModelRef
    approval: str
    disagree: Design
    missed: Design | None
    false_positive: Design | None
    failure_rate: Decimal
    subgroup_gap: Decimal
    p95_ms: int
    decision_h: int
    restrict_first: bool

    @classmethod
    def of(cls, model: ModelRef, monitor: Mapping[str, JsonValue], on_breach: str, approval: str = "") -> "Plan":
        """From the `monitor` and `on_breach` of the approval with that id. Raises RequestInvalid.

        Without an id it tells whether the thresholds are sound; what it then says cannot be logged.
        """
        try:
            h = str(monitor["cusum_h"])
            own = {
                name: design(str(monitor[f"{name}_p0"]), str(monitor[f"{name}_p1"]), h)
                for name in ("disagree", "missed", "false_positive")
                if name == "disagree" or f"{name}_p0" in monitor
            }
            failure_rate, gap = decimal(str(monitor["failure_rate"])), decimal(str(monitor["subgroup_gap"]))
            p95_ms, hours = _whole(monitor["p95_ms"]), _whole(monitor["human_decision_h"])
        except KeyError as missing:
            raise RequestInvalid(f"monitor: lacks {missing.args[0]}") from None
        if not 0 <= failure_rate < 1 or not 0 < gap < 1:
            raise RequestInvalid("monitor: a share out of range")
        if on_breach not in {"SUSPEND", "RESTRICT"}:
            raise RequestInvalid("on_breach: SUSPEND or RESTRICT wanted")
        return cls(
            model,
            approval,
            own["disagree"],
            own.get("missed"),
            own.get("false_positive"),
            failure_rate,
            gap,
            p95_ms,
            hours,
            on_breach == "RESTRICT",
        )


def _whole(value: JsonValue) -> int:
    if isinstance(value, bool) or not isinstance(value, int | str) or not str(value).isdecimal() or int(value) <= 0:
        raise RequestInvalid("monitor: a whole number above 0 wanted")
    return int(value)


SOURCES: Final = (
    "charts.py",
    "comparing.py",
    "drift.py",
    "duties.py",
    "evaluation.py",
    "facts.py",
    "gaps.py",
    "monitor.py",
    "periods.py",
    "sequential.py",
)
"""Everything that decides what an evaluation says."""


@cache
def code_digest() -> str:
    """ "sha256:..." over the sources that made an evaluation: for each its name, a line feed, and its bytes."""
    total = hashlib.sha256()
    for name in SOURCES:
        total.update(name.encode() + b"\n" + resources.files("ethics_review").joinpath(name).read_bytes())
    return "sha256:" + total.hexdigest()
