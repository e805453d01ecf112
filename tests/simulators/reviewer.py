"""A third-party reviewer with a key of its own: makes approvals the way a real one does, by signing a text."""

import copy
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, Final

from audit.note import Signer, Verifier
from ethics_review.dossier import Approval, draft_approval, load_approval
from ethics_review.gate import Request, decide
from ethics_review.permit import Permit
from ethics_review.standing import Standing
from ethics_review.states import State
from models.ref import ModelRef

MODEL: Final = ModelRef("small-model", "1.0", "sha256:" + "ab" * 32)
DURING: Final = datetime(2026, 12, 15, 4, 0, tzinfo=UTC)
"""An instant inside the validity of `fields()`."""

TERMS: Final[dict[str, Any]] = {
    "submission": "sha256:" + "1" * 64,
    "follow_up": {"days": 365, "listed": False},
    "monitor": {
        "disagree_p0": "0.06",
        "disagree_p1": "0.12",
        "cusum_h": "6",
        "missed_p0": "0.02",
        "missed_p1": "0.05",
        "failure_rate": "0.02",
        "subgroup_gap": "0.10",
        "p95_ms": 120_000,
        "human_decision_h": 24,
    },
    "acceptance": [
        {"metric": "DICE", "subgroup": None, "n": 30, "at_least": "0.9", "at_most": None},
        {"metric": "FAILURES", "subgroup": "SEX:F", "n": 30, "at_least": None, "at_most": "0.2"},
    ],
    "on_breach": "RESTRICT",
}
"""What an approval says beside model, validity and conditions."""

_FIELDS: Final[dict[str, Any]] = {
    "approval": "TEST-2026-0001",
    "criteria_set": "TEST-AI-MED/1.0",
    "reviewer_org": "test-review-centre",
    "valid": {"from": "2026-12-01", "to": "2027-05-31"},
    "conditions": {
        "modality": ["MR"],
        "body_part": ["BRAIN", "HEAD"],
        "age_years": [18, 120],
        "sex": ["F", "M"],
        "manufacturer": ["UIH", "SIEMENS HEALTHINEERS"],
        "site": ["test-site"],
        "slice_spacing_mm": ["0.5", "2.0"],
        "max_autonomy": "A1",
        "care_setting": ["IP", "OP"],
        "reading_mode": ["second_reader"],
        "max_calls_day": 2000,
        "require": ["opt_out_check", "pia:PIA-2026-03"],
    },
} | TERMS


def fields(model: ModelRef = MODEL, conditions: dict[str, Any] | None = None, **changes: object) -> dict[str, Any]:
    """The fields of a valid approval of `model`, with `conditions` and top-level `changes` put in."""
    made: dict[str, Any] = copy.deepcopy(_FIELDS)
    made["model"] = {"name": model.name, "version": model.version, "digest": model.digest}
    made["conditions"] |= conditions or {}
    return made | changes


def request(**changes: Any) -> Request:
    """A request that the approval of `fields()` permits, with `changes`."""
    values: dict[str, Any] = {
        "call": "c0" * 16,
        "model": MODEL,
        "input_digest": "sha256:" + "cd" * 32,
        "modality": "MR",
        "body_part": "BRAIN",
        "age_years": 72.4,
        "sex": "F",
        "manufacturer": "UIH",
        "site": "test-site",
        "slice_spacing_mm": 1.0,
        "autonomy": "A1",
        "care_setting": "OP",
        "reading_mode": "second_reader",
        "opted_out": False,
        "calls_today": 0,
        "evidence": frozenset({"opt_out_check", "pia:PIA-2026-03"}),
    }
    return Request(**(values | changes))


def in_use(
    *approvals: Approval, state: State = State.LIVE, cut_off: frozenset[tuple[str, str]] = frozenset()
) -> tuple[Standing, ...]:
    """The standings of the models of these approvals, all in one state."""
    models = dict.fromkeys(approval.model for approval in approvals)
    return tuple(
        Standing(model, state, tuple(one for one in approvals if one.model == model), cut_off=cut_off)
        for model in models
    )


def decide_live(
    asked: Request, approvals: Sequence[Approval], now: datetime, *, latest_known: datetime | None = None
) -> Permit:
    """The gate's answer where the approvals' models are LIVE and nothing is stopped."""
    return decide(asked, in_use(*approvals), (), now, latest_known=latest_known)


@dataclass(frozen=True)
class Reviewer:
    """Signs with its own key; `verifier` is what a site that trusts it configures."""

    signer: Signer = field(default_factory=lambda: Signer.generate("reviewer.example/test"))

    @property
    def verifier(self) -> Verifier:
        """The public half of the key."""
        return self.signer.verifier

    def note(self, model: ModelRef = MODEL, conditions: dict[str, Any] | None = None, **changes: object) -> str:
        """A signed approval, as text."""
        return self.signer.sign(draft_approval(fields(model, conditions, **changes)))

    def approve(self, model: ModelRef = MODEL, conditions: dict[str, Any] | None = None, **changes: object) -> Approval:
        """A signed approval, loaded by a site that trusts this reviewer."""
        return load_approval(self.note(model, conditions, **changes), (self.verifier,))
