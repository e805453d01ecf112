"""A vendor and a hospital that write a complete dossier: every paper, true to its form. The people are invented."""

import copy
import hashlib
import json
from datetime import date
from pathlib import Path
from typing import Any, Final

from ethics_review import submission
from ethics_review.papers import Asked
from models.ref import ModelRef
from tests.simulators.reviewer import MODEL

TODAY: Final = date(2026, 12, 15)
DIGEST: Final = "sha256:" + "5a" * 32
ASKED: Final = Asked(MODEL, TODAY, 30)

_METRIC: Final[dict[str, Any]] = {
    "MetricGoal": "Finds what is there.",
    "Results": [{"Label": "Dice", "ValueJson": '{"value": 0.95}'}],
    "Interpretation": "As good as a second reader.",
    "TestType": "Retrospective",
    "TestingDataDescription": "Invented cases.",
    "ValidationProcessAndJustification": "Held out.\nNever trained on.",
}
_CARD: Final[dict[str, Any]] = {
    "BasicInfo": {"ModelName": "Small model", "ModelDeveloper": "TEST Vendor", "DeveloperContact": "vendor.example"},
    "ReleaseInfo": {
        "ReleaseStage": "Test",
        "ReleaseDate": "2026-11-01",
        "ReleaseVersion": "1.0",
        "GlobalAvailability": "None",
        "RegulatoryApproval": "None",
    },
    "ModelSummary": {"Summary": "Outlines a brain.\n勾画脑部。", "Keywords": ["MR", "brain"]},
    "UsesAndDirections": {
        "IntendedUseAndWorkflow": "Second reader.",
        "PrimaryIntendedUsers": "Radiologists.",
        "HowToUse": "Look at it.",
        "TargetedPatientPopulation": "Adults.",
        "CautionedOutOfScopeSettings": "Children.",
    },
    "Warnings": {
        "KnownRisksAndLimitations": "Fails on motion.",
        "KnownBiasesOrEthicalConsiderations": "One vendor's scanners.",
        "ClinicalRiskLevel": "Low",
    },
    "TrustIngredients": {
        "AISystemFacts": {
            "OutcomesAndOutputs": "A mask.",
            "ModelType": "Convolutional network",
            "InputDataSource": "PACS",
            "OutputAndInputDataTypes": "MR in, SEG and SR out",
            "DevelopmentDataCharacterization": "Invented.",
            "BiasMitigationApproaches": "None.",
            "OngoingMaintenance": "Yearly.",
        },
        "TransparencyInformation": {"FundingSource": "None.", "StakeholdersConsulted": "Nobody."},
    },
    "KeyMetrics": dict.fromkeys(("UsefulnessUsabilityEfficacy", "FairnessEquity", "SafetyReliability"), _METRIC),
    "Resources": {"PeerReviewedPublications": "None.", "PatientConsentOrDisclosure": "By notice."},
    "Bibliography": "",
}


def _row(subgroup: str | None, n: int = 200) -> dict[str, Any]:
    return {"metric": "DICE", "subgroup": subgroup, "n": n, "value": "0.95", "low": "0.93", "high": "0.97"}


_PAPERS: Final[dict[str, dict[str, Any]]] = {
    "model_card": {"schema": "https://mc.chai.org/v0.2/schema.xsd", "AppliedModelCard": _CARD},
    "intended_use": {
        "schema": "zhiying.intended-use/1",
        "purpose": {"en": "Outlines the brain.", "zh": "勾画脑部。"},
        "autonomy": "A1",
        "excluded": ["children", "emergencies"],
    },
    "hazards": {
        "schema": "zhiying.hazards/1",
        "hazards": [
            {
                "id": "HZ-01",
                "hazard": "A wrong outline is believed.",
                "harm": "A wrong volume in a report.",
                "controls": ["HO-01", "SP-04"],
                "residual": "A reader in a hurry.",
            }
        ],
    },
    "datasets": {
        "schema": "zhiying.datasets/1",
        "datasets": [
            {
                "name": "TEST set A",
                "use": ["TRAINING", "TUNING"],
                "cases": 1000,
                "source": "Invented.",
                "manifest": DIGEST,
                "rights": {"basis": "LICENCE", "statement": "CC0."},
            },
            {
                "name": "TEST set B",
                "use": ["TEST"],
                "cases": 400,
                "source": "Invented.",
                "manifest": DIGEST,
                "rights": {"basis": "OWN_RECORDS", "statement": "Own."},
            },
        ],
    },
    "subgroups": {
        "schema": "zhiying.subgroups/1",
        "dataset": DIGEST,
        "claims": {"SEX": "REPORTED", "AGE_YEARS": "REPORTED", "MANUFACTURER": "REPORTED", "SITE": "INSUFFICIENT"},
        "rows": [
            _row(None, 400),
            _row("SEX:F"),
            _row("SEX:M"),
            _row("AGE_YEARS:40-59"),
            _row("AGE_YEARS:60-79"),
            _row("MANUFACTURER:UIH"),
        ],
    },
    "privacy": {
        "schema": "zhiying.privacy/1",
        "pia": "PIA-2026-03",
        "report": DIGEST,
        "valid_to": "2027-11-30",
        "bases": [{"purpose": "Second reading", "basis": "PIPL 13(1)(2)"}],
    },
    "emergency_plan": {
        "schema": "zhiying.emergency/1",
        "stop": ["any radiologist on duty"],
        "fallback": "Studies are read without AI.",
        "notify": ["head of radiology"],
        "drills_a_year": 2,
    },
    "notices": {
        "schema": "zhiying.notices/1",
        "version": "N-2026-01",
        "from": "2026-12-01",
        "text": {"zh": "本院影像科使用人工智能辅助阅片。"},
    },
    "registration": {
        "schema": "zhiying.registration/1",
        "number": "国械注准20990000000",
        "class": "III",
        "holder": "TEST Vendor",
        "expires": "2028-01-31",
    },
    "interests": {
        "schema": "zhiying.interests/1",
        "statements": [
            {"person": "TEST Zhao", "organisation": "test-hospital", "interest": None},
            {"person": "TEST Qian", "organisation": "test-vendor", "interest": "Employed by the vendor."},
        ],
    },
}
PROTOCOL: Final[dict[str, Any]] = {
    "schema": "zhiying.protocol/1",
    "number": "RP-2026-07",
    "title": "Brain volumes, a study",
    "approved_by": "test-hospital",
    "expires": "2027-06-30",
}
FILES: Final = {name: name.replace("_", "-") + ".json" for name in _PAPERS}


def papers() -> dict[str, dict[str, Any]]:
    """Fresh papers by name, to be spoilt at will."""
    return copy.deepcopy(_PAPERS)


def write(folder: Path, model: ModelRef = MODEL, *, lacks: str = "", **changes: Any) -> Path:
    """A dossier's folder with dossier.json, without the paper `lacks`, and with those of `changes` by name."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, paper in (papers() | changes).items():
        if name != lacks and paper is not None:
            (folder / (name.replace("_", "-") + ".json")).write_text(
                json.dumps(paper, ensure_ascii=False, indent=1), encoding="utf-8"
            )
    index(folder, model)
    return folder


def index(folder: Path, model: ModelRef = MODEL) -> None:
    """dossier.json anew, as `zhiying review index` writes it."""
    (folder / "dossier.json").write_bytes(submission.collect(folder, model))


def digest(data: bytes) -> str:
    """As dossier.json writes it."""
    return "sha256:" + hashlib.sha256(data).hexdigest()
