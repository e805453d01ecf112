"""What the life of a dossier asks of an approval, each question in one place. Pure."""

from datetime import datetime, timedelta
from typing import Final

from ethics_review.dossier import Approval
from ethics_review.parties import Trust
from ethics_review.vocabulary import ANY

AUTONOMOUS: Final = frozenset({"A3", "A4"})
"""From here on a result can leave without a physician's act: what experts must examine again."""


def submission_of(approval: Approval) -> str:
    """Digest of the submission that was reviewed."""
    return approval.submission


def listed(approval: Approval) -> bool:
    """Whether it is an activity of the list, with the shorter cycle and the panel."""
    return approval.listed


def follow_up_days(approval: Approval, trust: Trust) -> int:
    """Days to the next follow-up: the approval's own number, and never more than the policy's."""
    return min(approval.follow_up_days, trust.follow_up_days[1 if approval.listed else 0])


def follow_up_in_time(approval: Approval, trust: Trust) -> bool:
    """Whether the approval asks for a follow-up no later than the policy does."""
    return approval.follow_up_days <= trust.follow_up_days[1 if approval.listed else 0]


def panel_needed(approval: Approval) -> bool:
    """Whether experts must have cleared it."""
    return listed(approval) or approval.conditions.max_autonomy in AUTONOMOUS


def conditional(approval: Approval) -> bool:
    """Whether it binds the site further than to what the model is made for."""
    return approval.conditions.site != (ANY,) or approval.conditions.manufacturer != (ANY,)


def criteria_current(approval: Approval, trust: Trust) -> bool:
    """Whether the criteria set counts today."""
    return not trust.criteria or approval.criteria_set in trust.criteria


def in_force(approval: Approval | None, time: datetime) -> bool:
    """Whether its validity has begun and not ended."""
    return approval is not None and approval.starts_at <= time < approval.ends_at


def follow_up_due(approval: Approval, judged_at: datetime, trust: Trust) -> datetime:
    """When the next follow-up is overdue: so many days after the last one, or after the validity's beginning."""
    return max(approval.starts_at, judged_at) + timedelta(days=follow_up_days(approval, trust))
