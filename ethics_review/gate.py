"""The gate: may this model be used for this, now? A pure decision; the only maker of permits. The default is no.

First whether everything is stopped, then whether the model is in use at all, then whether the patient wants no AI. Of
all approvals for the exact model, the first by id that is in force and whose every condition holds gives a permit.
Otherwise the refusal of the nearest one is raised, so that a person sees what to change. Unknown is never "yes".
"""

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import lru_cache
from types import MappingProxyType
from typing import Final

from ethics_review.dossier import Approval, Conditions
from ethics_review.errors import Refused, RequestInvalid
from ethics_review.gaps import group_of, parts_of
from ethics_review.permit import _GATE_CAPABILITY, Check, Permit
from ethics_review.standing import Standing, Stop
from ethics_review.states import State
from ethics_review.vocabulary import (
    ANY,
    CALLS_DAY_MAX,
    CARE_SETTINGS,
    KEPT_MAX,
    MINORS,
    OPT_OUT_CHECK,
    OTHER,
    READING_MODES,
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
STOPPED: Final = "STOPPED"
NOT_DEPLOYED: Final = "NOT_DEPLOYED"
SUSPENDED: Final = "SUSPENDED"
RETIRED: Final = "RETIRED"
OPTED_OUT: Final = "OPTED_OUT"
CUT_OFF: Final = "SUBGROUP_CUT_OFF"
CALLS_EXHAUSTED: Final = "CALLS_EXHAUSTED"
MINOR_NOT_COVERED: Final = "MINOR_NOT_COVERED"
REQUIREMENT_NOT_MET: Final = "REQUIREMENT_NOT_MET"
REFUSALS: Final = frozenset(
    {
        *(NO_APPROVAL, DIGEST_MISMATCH, NOT_YET_VALID, EXPIRED, NOT_KNOWN, NOT_MET, EXCEEDED, STOPPED, NOT_DEPLOYED),
        *(SUSPENDED, RETIRED, OPTED_OUT, CUT_OFF, CALLS_EXHAUSTED, MINOR_NOT_COVERED, REQUIREMENT_NOT_MET),
    }
)
"""Every code of a refusal."""

MODEL_DIGEST: Final = "MODEL_DIGEST"
VALIDITY: Final = "VALIDITY"
STATE: Final = "STATE"
STOP: Final = "STOP"
OPT_OUT: Final = "OPT_OUT"
NO_STOP: Final = "NONE"
ALL: Final = "ALL"
"""Observed of REQUIRE: all that is required is fulfilled, as far as it concerns this patient."""

SITE_LEVEL: Final = "SITE"
IN_USE: Final = frozenset({State.SHADOW, State.LIVE})
_ENDED: Final = MappingProxyType({State.SUSPENDED: SUSPENDED, State.RETIRED: RETIRED})

_CALL: Final = re.compile(r"[0-9a-f]{32}")


@dataclass(frozen=True, slots=True)
class Request:
    """What is asked of the gate, as the images and the site's configuration say; None for what they do not say.

    Attributes:
        call: 32 lower-case hexadecimal digits. input_digest: "sha256:..." of the exact input.
        age_years: at the time of the study, fractions allowed. slice_spacing_mm: distance of slice centres.
        autonomy: the level at which the site will use the result, A0 to A4.
        care_setting, reading_mode: words of the vocabulary, as the site says.
        opted_out: whether the patient wants no AI; None where nobody can tell.
        calls_today: calls of the model that are in the log for this civil day, this one not among them.
        evidence: the requirements that the site fulfils today (`vocabulary.is_requirement`).

    Raises RequestInvalid for a call, digest or count that is not well formed.
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
    care_setting: str | None
    reading_mode: str | None
    opted_out: bool | None
    calls_today: int
    evidence: frozenset[str]

    def __post_init__(self) -> None:
        if not _CALL.fullmatch(self.call):
            raise RequestInvalid("call: 32 lower-case hexadecimal digits wanted")
        if not is_digest(self.input_digest):
            raise RequestInvalid("input digest: sha256 digest wanted")
        if self.calls_today < 0:
            raise RequestInvalid("calls today: 0 or more wanted")


def decide(
    request: Request,
    standings: Sequence[Standing],
    stops: Sequence[Stop],
    now: datetime,
    *,
    latest_known: datetime | None = None,
) -> Permit:
    """A permit for this one run, or Refused.

    Args:
        standings: of all dossiers (register.py), in any order; one for each model.
        stops: those that have not been resumed from.
        now: aware. latest_known: the latest time that the audit log holds; a clock set back before it cannot bring an
            expired approval to life.

    Source: DESIGN.md I3. No input or output; the same arguments give the same answer.
    """
    if now.tzinfo is None:
        raise RequestInvalid("now: a time with its zone wanted")
    _refuse_stopped(request, stops)
    standing = _in_use(request, standings)
    if request.opted_out:
        raise Refused(OPTED_OUT, OPT_OUT, OPTED_OUT)
    nearest: tuple[int, Refused] | None = None
    for approval in sorted(standing.approvals, key=lambda one: one.id):
        answer = _weigh(request, standing, approval, now, max(now, latest_known or now))
        if isinstance(answer, tuple):
            return _permit(request, standing, approval, now, answer)
        if nearest is None or answer.distance < nearest[0]:
            nearest = (answer.distance, answer.refusal)
    if nearest is None:
        raise Refused(NO_APPROVAL, None, None)
    raise nearest[1]


def _refuse_stopped(request: Request, stops: Sequence[Stop]) -> None:
    for stop in sorted(stops, key=lambda one: one.index):
        # Whatever is not plainly another site's stops us: a level that this version does not know, a site unsaid.
        elsewhere = stop.level == SITE_LEVEL and request.site and stop.site and stop.site != request.site
        if not elsewhere:
            raise Refused(STOPPED, STOP, token(stop.level))


def _in_use(request: Request, standings: Sequence[Standing]) -> Standing:
    """The standing of the exact model, if it is in SHADOW or LIVE."""
    named = [one for one in standings if one.model.name == request.model.name]
    mine = [one for one in named if one.model == request.model]
    if len(mine) > 1:
        raise RequestInvalid("two standings of one model")
    if not mine:
        others = sorted(approval.id for one in named for approval in one.approvals)
        if others:
            raise Refused(DIGEST_MISMATCH, MODEL_DIGEST, OTHER, others[0])
        raise Refused(NO_APPROVAL, None, None)
    # What is to be suspended is as good as suspended.
    state = State.SUSPENDED if mine[0].asked and mine[0].state in IN_USE else mine[0].state
    if state not in IN_USE:
        raise Refused(_ENDED.get(state, NOT_DEPLOYED), STATE, state.value)
    return mine[0]


@dataclass(frozen=True, slots=True)
class _No:
    """Why one approval does not permit, and how far it is from permitting."""

    distance: int
    refusal: Refused


# An approval of other bytes is farther than one out of its time, and that farther than any number of conditions.
_FAR_TIME: Final = 100
_FAR_DIGEST: Final = 200


def _weigh(
    request: Request, standing: Standing, approval: Approval, now: datetime, latest: datetime
) -> tuple[Check, ...] | _No:
    if approval.model != request.model:
        return _No(_FAR_DIGEST, Refused(DIGEST_MISMATCH, MODEL_DIGEST, OTHER, approval.id))
    if latest >= approval.ends_at:
        observed = f"ended {(latest - approval.ends_at).days} days ago"
        return _No(_FAR_TIME, Refused(EXPIRED, VALIDITY, observed, approval.id))
    if now < approval.starts_at:
        observed = f"begins in {(approval.starts_at - now).days} days"
        return _No(_FAR_TIME, Refused(NOT_YET_VALID, VALIDITY, observed, approval.id))
    checks = [
        _check(MODEL_DIGEST, HOLDS, "EQUAL"),
        _check(VALIDITY, HOLDS, "IN_FORCE"),
        _check(STATE, HOLDS, standing.state.value),
        _check(STOP, HOLDS, NO_STOP),
    ]
    failed: list[Check] = []
    cut = {name for name, _ in standing.cut_off}
    for name, evaluate in _IN_ORDER:
        outcome, observed = evaluate(request, approval.conditions)
        if name in cut and outcome == HOLDS and _is_cut_off(name, observed, standing):
            outcome = CUT_OFF
        check = _check(name, outcome, observed)
        (checks if outcome == HOLDS else failed).append(check)
    if not failed:
        return tuple(checks)
    first = failed[0]
    return _No(len(failed), Refused(first.outcome, first.condition, first.observed, approval.id))


@lru_cache(KEPT_MAX)
def _check(condition: str, outcome: str, observed: str) -> Check:
    """The check; kept, as the same few classes come with each call."""
    return Check(condition, outcome, observed)


def _is_cut_off(condition: str, observed: str, standing: Standing) -> bool:
    """Whether the call's class, or the group that the monitor counts it in, was taken out of use."""
    classes = {(condition, observed), parts_of(group_of(condition, observed))}
    return not classes.isdisjoint(standing.cut_off)


def _permit(
    request: Request, standing: Standing, approval: Approval, now: datetime, checks: tuple[Check, ...]
) -> Permit:
    issued = now.astimezone(UTC)
    return Permit(
        call=request.call,
        model=request.model,
        input_digest=request.input_digest,
        approval=approval.id,
        policy=approval.policy,
        autonomy=request.autonomy,
        state=standing.state.value,
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


def _care_setting(request: Request, allowed: Conditions) -> tuple[str, str]:
    return _defined(request.care_setting, allowed.care_setting, CARE_SETTINGS)


def _reading_mode(request: Request, allowed: Conditions) -> tuple[str, str]:
    return _defined(request.reading_mode, allowed.reading_mode, READING_MODES)


def _defined(value: str | None, listed: tuple[str, ...], words: tuple[str, ...]) -> tuple[str, str]:
    if value is None or value not in words:
        return NOT_KNOWN, UNKNOWN
    return (HOLDS if value in listed or listed == (ANY,) else NOT_MET), value


def _max_calls_day(request: Request, allowed: Conditions) -> tuple[str, str]:
    # Not how many below: the same call asked again, after a crash, must give the same entry.
    if request.calls_today < allowed.max_calls_day:
        return HOLDS, f"BELOW {allowed.max_calls_day}"
    return CALLS_EXHAUSTED, f"{min(request.calls_today, CALLS_DAY_MAX)} of {allowed.max_calls_day}"


def _require(request: Request, allowed: Conditions) -> tuple[str, str]:
    years = completed_years(request.age_years)
    minor = years is None or years < allowed.minors_under
    for needed in allowed.require:
        of_minors = needed.startswith(MINORS)
        if of_minors and not minor:
            continue
        if needed not in request.evidence or (needed == OPT_OUT_CHECK and request.opted_out is not False):
            return (MINOR_NOT_COVERED if of_minors else REQUIREMENT_NOT_MET), token(needed)
    return HOLDS, ALL


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
        Condition.CARE_SETTING: _care_setting,
        Condition.READING_MODE: _reading_mode,
        Condition.MAX_CALLS_DAY: _max_calls_day,
        Condition.REQUIRE: _require,
    }
)
"""The one check of each condition, in the order in which refusals are told; as many as the vocabulary has."""

_IN_ORDER: Final = tuple((condition.name, evaluate) for condition, evaluate in EVALUATORS.items())
