"""The gate: may this model be used for this, now? A pure decision; the only maker of permits. The default is no.

Of all approvals for the exact model, the first by id that is in force and whose every condition holds gives a permit.
Otherwise the refusal of the nearest one is raised, so that a person sees what to change. Unknown is never "yes".
"""

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from types import MappingProxyType
from typing import Final

from ethics_review.dossier import Approval, Conditions
from ethics_review.errors import Refused, RequestInvalid
from ethics_review.permit import _GATE_CAPABILITY, Check, Permit
from ethics_review.vocabulary import (
    ANY,
    OTHER,
    SEXES,
    UNKNOWN,
    Condition,
    age_band,
    body_part_class,
    completed_years,
    manufacturer_class,
    modality_class,
    normal,
    rounded_spacing,
    token,
)
from models.codes import AUTONOMY_LEVELS
from models.ref import ModelRef, is_digest

PERMIT_LIFETIME: Final = timedelta(minutes=15)
"""A run takes seconds, and at most its deadline: a permit that is minutes old belongs to a run that is lost."""

HOLDS: Final = "HOLDS"
NOT_MET: Final = "CONDITION_NOT_MET"
NOT_KNOWN: Final = "ATTRIBUTE_UNKNOWN"
EXCEEDED: Final = "AUTONOMY_EXCEEDED"
NO_APPROVAL: Final = "NO_APPROVAL"
DIGEST_MISMATCH: Final = "MODEL_DIGEST_MISMATCH"
NOT_YET_VALID: Final = "APPROVAL_NOT_YET_VALID"
EXPIRED: Final = "APPROVAL_EXPIRED"

MODEL_DIGEST: Final = "MODEL_DIGEST"
VALIDITY: Final = "VALIDITY"

_CALL: Final = re.compile(r"[0-9a-f]{32}")


@dataclass(frozen=True, slots=True)
class Request:
    """What is asked of the gate, as the images and the site's configuration say; None for what they do not say.

    Attributes:
        call: 32 lower-case hexadecimal digits. input_digest: "sha256:..." of the exact input.
        age_years: at the time of the study, fractions allowed. slice_spacing_mm: distance of slice centres.
        autonomy: the level at which the site will use the result, A0 to A4.

    Raises RequestInvalid for a call or digest that is not well formed.
    """

    call: str
    model: ModelRef
    input_digest: str
    modality: str | None
    body_part: str | None
    age_years: float | None
    sex: str | None
    manufacturer: str | None
    site: str | None
    slice_spacing_mm: float | None
    autonomy: str

    def __post_init__(self) -> None:
        if not _CALL.fullmatch(self.call):
            raise RequestInvalid("call: 32 lower-case hexadecimal digits wanted")
        if not is_digest(self.input_digest):
            raise RequestInvalid("input digest: sha256 digest wanted")


def decide(
    request: Request, approvals: Sequence[Approval], now: datetime, *, latest_known: datetime | None = None
) -> Permit:
    """A permit for this one run, or Refused.

    Args:
        approvals: verified approvals (register.py), in any order.
        now: aware. latest_known: the latest time that the audit log holds; a clock set back before it cannot bring an
            expired approval to life.

    Source: DESIGN.md I3. No input or output; the same arguments give the same answer.
    """
    if now.tzinfo is None:
        raise RequestInvalid("now: a time with its zone wanted")
    nearest: tuple[int, Refused] | None = None
    for approval in sorted(approvals, key=lambda one: one.id):
        if approval.model.name != request.model.name:
            continue
        answer = _weigh(request, approval, now, max(now, latest_known or now))
        if isinstance(answer, tuple):
            return _permit(request, approval, now, answer)
        if nearest is None or answer.distance < nearest[0]:
            nearest = (answer.distance, answer.refusal)
    if nearest is None:
        raise Refused(NO_APPROVAL, None, None)
    raise nearest[1]


@dataclass(frozen=True, slots=True)
class _No:
    """Why one approval does not permit, and how far it is from permitting."""

    distance: int
    refusal: Refused


# An approval of other bytes is farther than one out of its time, and that farther than any number of conditions.
_FAR_TIME: Final = 100
_FAR_DIGEST: Final = 200


def _weigh(request: Request, approval: Approval, now: datetime, latest: datetime) -> tuple[Check, ...] | _No:
    if approval.model != request.model:
        return _No(_FAR_DIGEST, Refused(DIGEST_MISMATCH, MODEL_DIGEST, OTHER, approval.id))
    if latest >= approval.ends_at:
        observed = f"ended {(latest - approval.ends_at).days} days ago"
        return _No(_FAR_TIME, Refused(EXPIRED, VALIDITY, observed, approval.id))
    if now < approval.starts_at:
        observed = f"begins in {(approval.starts_at - now).days} days"
        return _No(_FAR_TIME, Refused(NOT_YET_VALID, VALIDITY, observed, approval.id))
    checks = [Check(MODEL_DIGEST, HOLDS, "EQUAL"), Check(VALIDITY, HOLDS, "IN_FORCE")]
    failed: list[Check] = []
    for condition, evaluate in EVALUATORS.items():
        outcome, observed = evaluate(request, approval.conditions)
        check = Check(condition.name, outcome, observed)
        (checks if outcome == HOLDS else failed).append(check)
    if not failed:
        return tuple(checks)
    first = failed[0]
    return _No(len(failed), Refused(first.outcome, first.condition, first.observed, approval.id))


def _permit(request: Request, approval: Approval, now: datetime, checks: tuple[Check, ...]) -> Permit:
    issued = now.astimezone(UTC)
    return Permit(
        call=request.call,
        model=request.model,
        input_digest=request.input_digest,
        approval=approval.id,
        policy=approval.policy,
        autonomy=request.autonomy,
        issued_at=issued,
        expires_at=min(issued + PERMIT_LIFETIME, approval.ends_at),
        checks=checks,
        capability=_GATE_CAPABILITY,
    )


def _modality(request: Request, allowed: Conditions) -> tuple[str, str]:
    return _listed(request.modality, allowed.modality, modality_class)


def _body_part(request: Request, allowed: Conditions) -> tuple[str, str]:
    return _listed(request.body_part, allowed.body_part, body_part_class)


def _manufacturer(request: Request, allowed: Conditions) -> tuple[str, str]:
    return _listed(request.manufacturer, allowed.manufacturer, manufacturer_class)


def _sex(request: Request, allowed: Conditions) -> tuple[str, str]:
    value = normal(request.sex)
    # Anything but the three defined terms says nothing about the patient.
    return _listed(value if value in SEXES else None, allowed.sex, lambda text, _: text)


def _listed(
    raw: str | None, listed: tuple[str, ...], classify: Callable[[str, tuple[str, ...]], str]
) -> tuple[str, str]:
    value = normal(raw)
    if value is None:
        return NOT_KNOWN, UNKNOWN
    holds = value in listed or listed == (ANY,)
    return (HOLDS if holds else NOT_MET), classify(value, listed)


def _site(request: Request, allowed: Conditions) -> tuple[str, str]:
    # The site's id is our own configuration's, compared letter by letter.
    if not request.site:
        return NOT_KNOWN, UNKNOWN
    holds = request.site in allowed.site or allowed.site == (ANY,)
    return (HOLDS if holds else NOT_MET), token(request.site)


def _age_years(request: Request, allowed: Conditions) -> tuple[str, str]:
    years = completed_years(request.age_years)
    if years is None:
        return NOT_KNOWN, UNKNOWN
    low, high = allowed.age_years
    return (HOLDS if low <= years <= high else NOT_MET), age_band(years)


def _slice_spacing_mm(request: Request, allowed: Conditions) -> tuple[str, str]:
    spacing = rounded_spacing(request.slice_spacing_mm)
    if spacing is None:
        return NOT_KNOWN, UNKNOWN
    low, high = allowed.slice_spacing_mm
    return (HOLDS if low <= spacing <= high else NOT_MET), str(spacing)


def _max_autonomy(request: Request, allowed: Conditions) -> tuple[str, str]:
    if request.autonomy not in AUTONOMY_LEVELS:
        return NOT_KNOWN, OTHER
    holds = AUTONOMY_LEVELS.index(request.autonomy) <= AUTONOMY_LEVELS.index(allowed.max_autonomy)
    return (HOLDS if holds else EXCEEDED), request.autonomy


EVALUATORS: Final[Mapping[Condition, Callable[[Request, Conditions], tuple[str, str]]]] = MappingProxyType(
    {
        Condition.MODALITY: _modality,
        Condition.BODY_PART: _body_part,
        Condition.AGE_YEARS: _age_years,
        Condition.SEX: _sex,
        Condition.MANUFACTURER: _manufacturer,
        Condition.SITE: _site,
        Condition.SLICE_SPACING_MM: _slice_spacing_mm,
        Condition.MAX_AUTONOMY: _max_autonomy,
    }
)
"""The one check of each condition, in the order in which refusals are told; as many as the vocabulary has."""
