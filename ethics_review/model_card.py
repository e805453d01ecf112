"""The CHAI Applied Model Card v0.2 (https://mc.chai.org/v0.2/schema.xsd), as JSON with the elements' own names.

Repeated elements are lists; the optional signature is left out, as the dossier's root covers the card. What the schema
calls mandatory must be there and say something; everything else is unknown, and refused. Pure.
"""

from collections.abc import Mapping
from types import MappingProxyType
from typing import Final

from models.strict import Fields, Malformed

SCHEMA: Final = "https://mc.chai.org/v0.2/schema.xsd"

_Section = tuple[tuple[str, ...], tuple[str, ...]]  # elements that must be, and that may be
_LISTS: Final = frozenset({"Keywords", "EHRCompatibility"})
_CARD: Final[Mapping[str, _Section]] = MappingProxyType(
    {
        "BasicInfo": (("ModelName", "ModelDeveloper", "DeveloperContact"), ()),
        "ReleaseInfo": (
            ("ReleaseStage", "ReleaseDate", "ReleaseVersion", "GlobalAvailability"),
            ("EHRCompatibility", "RegulatoryApproval"),
        ),
        "ModelSummary": (("Summary", "Keywords"), ()),
        "UsesAndDirections": (
            (
                "IntendedUseAndWorkflow", "PrimaryIntendedUsers", "HowToUse", "TargetedPatientPopulation",
                "CautionedOutOfScopeSettings",
            ),
            (),
        ),
        "Warnings": (("KnownRisksAndLimitations", "KnownBiasesOrEthicalConsiderations", "ClinicalRiskLevel"), ()),
        "Resources": (
            ("PeerReviewedPublications", "PatientConsentOrDisclosure"),
            ("EvaluationReferences", "ClinicalTrial", "ReimbursementStatus"),
        ),
    }
)  # fmt: skip
_TRUST: Final[Mapping[str, _Section]] = MappingProxyType(
    {
        "AISystemFacts": (
            (
                "OutcomesAndOutputs", "ModelType", "InputDataSource", "OutputAndInputDataTypes",
                "DevelopmentDataCharacterization", "BiasMitigationApproaches", "OngoingMaintenance",
            ),
            ("FoundationModels", "Security", "Transparency"),
        ),
        "TransparencyInformation": (("FundingSource", "StakeholdersConsulted"), ("ThirdPartyInformation",)),
    }
)  # fmt: skip
_KEY_METRICS: Final = ("UsefulnessUsabilityEfficacy", "FairnessEquity", "SafetyReliability")
_METRIC: Final = (
    "MetricGoal", "Results", "Interpretation", "TestType", "TestingDataDescription",
    "ValidationProcessAndJustification",
)  # fmt: skip


def read(value: object, version: str) -> None:
    """Check a card of the model of this version. Raises Malformed."""
    top = Fields(value, "", ("schema", "AppliedModelCard"))
    top.choice("schema", (SCHEMA,))
    card = top.fields("AppliedModelCard", (*_CARD, "TrustIngredients", "KeyMetrics", "Bibliography"))
    sections = {name: _section(card, name, section) for name, section in _CARD.items()}
    trust = card.fields("TrustIngredients", tuple(_TRUST))
    for name, section in _TRUST.items():
        _section(trust, name, section)
    metrics = card.fields("KeyMetrics", _KEY_METRICS)
    for name in _KEY_METRICS:
        _section(metrics, name, (_METRIC, ()))
    card.prose("Bibliography", fewest=0)
    if sections["ReleaseInfo"].value("ReleaseVersion") != version:
        raise Malformed("AppliedModelCard.ReleaseInfo.ReleaseVersion", f"{version}, the model's, wanted")


def _section(parent: Fields, name: str, section: _Section) -> Fields:
    needed, optional = section
    inner = parent.fields(name, needed, optional)
    for key in (*needed, *(key for key in optional if inner.has(key))):
        if key == "Results":
            inner.items(key, _result)
        elif key in _LISTS:
            inner.texts(key, fewest=0, longest=256)
        else:
            inner.prose(key)
    return inner


def _result(value: object, path: str) -> str:
    one = Fields(value, path, ("Label", "ValueJson"))
    one.prose("ValueJson")
    return one.prose("Label")
