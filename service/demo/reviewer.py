"""Plays the reviewer who is not the hospital: a key and a folder of its own, and an approval with conditions.

Everything here is a demonstration. A real reviewer is another organisation, on another machine, and its key never
comes near the hospital; only its public line and its signed approvals do.
"""

import hashlib
import json
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

from audit.note import Signer
from ethics_review.dossier import CIVIL_TIME
from service.demo.commands import Zhiying

NAME = "demo-reviewer.example"
SITE = "demo-hospital"
SUBMISSION = "the demo submits nothing for review"
VALID_DAYS = 30  # long enough to play with, short enough that nobody forgets that it is a demo


class Reviewer:
    """The reviewer's folder: the key, the terms, the signed approval."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self.key = folder / "reviewer.key"
        self.terms = folder / "terms.json"
        self.approval = folder / "approval.note"

    def public_line(self, zhiying: Zhiying) -> str:
        """The public key, as the hospital puts it into its configuration; made by `review keygen` the first time."""
        self._folder.mkdir(parents=True, exist_ok=True)
        if not self.key.exists():
            zhiying.ask("review", "keygen", "--name", NAME, "--out", self.key, configured=False)
        return Signer.load(self.key).vkey

    def sign(self, zhiying: Zhiying, model: dict[str, str], now: datetime) -> dict[str, Any]:
        """Write the terms and sign them with `review sign`; gives the terms."""
        terms = terms_for(model, now)
        self.terms.write_text(json.dumps(terms, ensure_ascii=False, indent=2) + "\n", encoding="utf-8")
        self.approval.unlink(missing_ok=True)
        zhiying.ask("review", "sign", self.terms, "--key", self.key, "--out", self.approval, configured=False)
        return terms


def terms_for(model: dict[str, str], now: datetime) -> dict[str, Any]:
    """What is approved: this exact model, for adults' brain MRI at this site, each case decided by a physician (A1)."""
    today = now.astimezone(CIVIL_TIME).date()
    return {
        "approval": f"DEMO-{model['digest'].removeprefix('sha256:')[:12]}-{today:%m%d}",
        "criteria_set": "demo-criteria-1",
        "model": {key: model[key] for key in ("name", "version", "digest")},
        "reviewer_org": "DEMO reviewer (played by the demo, not a real body)",
        "submission": f"sha256:{hashlib.sha256(SUBMISSION.encode()).hexdigest()}",
        "follow_up": {"days": VALID_DAYS, "listed": False},
        "valid": {"from": today.isoformat(), "to": (today + timedelta(days=VALID_DAYS)).isoformat()},
        "conditions": {
            "modality": ["MR"],
            "body_part": ["BRAIN", "HEAD"],
            "age_years": [18, 90],
            "sex": ["F", "M", "O"],
            "manufacturer": ["*"],
            "site": [SITE],
            "slice_spacing_mm": ["0.50", "2.00"],
            "max_autonomy": "A1",
            "care_setting": ["*"],
            "reading_mode": ["second_reader"],
            "max_calls_day": 2000,
            "require": ["opt_out_check"],
        },
        "monitor": {
            "disagree_p0": "0.06",
            "disagree_p1": "0.12",
            "cusum_h": "6",
            "failure_rate": "0.02",
            "subgroup_gap": "0.10",
            "p95_ms": 120_000,
            "human_decision_h": 24,
        },
        "acceptance": [{"metric": "DICE", "subgroup": None, "n": 30, "at_least": "0.9", "at_most": None}],
        "on_breach": "SUSPEND",
    }
