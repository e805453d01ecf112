"""The life of a dossier: its states, what may happen to it, and who the people are who let it happen."""

from enum import StrEnum


class State(StrEnum):
    """Where a dossier is; RETIRED and REJECTED are final for its digest set."""

    DRAFT = "DRAFT"
    SELF_ASSESSED = "SELF_ASSESSED"
    SUBMITTED = "SUBMITTED"
    UNDER_REVIEW = "UNDER_REVIEW"
    EXPERT_REREVIEW = "EXPERT_REREVIEW"
    REVISE = "REVISE"
    REJECTED = "REJECTED"
    APPROVED = "APPROVED"
    APPROVED_WITH_CONDITIONS = "APPROVED_WITH_CONDITIONS"
    SHADOW = "SHADOW"
    LIVE = "LIVE"
    SUSPENDED = "SUSPENDED"
    RETIRED = "RETIRED"


class Cause(StrEnum):
    """Why a dossier is suspended."""

    HARM = "HARM"
    CONDITION_BREACH = "CONDITION_BREACH"
    EXPIRY = "EXPIRY"
    FOLLOW_UP = "FOLLOW_UP"
    CRITERIA = "CRITERIA"
    SUBGROUP_GAP = "SUBGROUP_GAP"
    INTEGRITY = "INTEGRITY"
    PERFORMANCE = "PERFORMANCE"
    REPORT_UNSIGNED = "REPORT_UNSIGNED"
    OPERATOR = "OPERATOR"
    DRILL = "DRILL"
