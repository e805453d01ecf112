"""An approval: what a third party allows one exact model to be used for, as a signed text that is parsed to the letter.

The signed text (C2SP signed note) is the line "zhiying-approval/2" and one line of canonical JSON (RFC 8785). Every
condition of the vocabulary must be stated and no other is known: a condition that this version cannot check is a
condition that it would not keep. There is no silent "any". What is in it beside the conditions: `terms.py`.
"""

import hashlib
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime, time, timedelta
from functools import lru_cache
from typing import Final

from audit.entry import JsonValue, canonical
from audit.note import Verifier
from audit.schema import NOTE_CHARS_MAX
from ethics_review import terms, trust
from ethics_review.errors import ApprovalInvalid
from ethics_review.periods import CIVIL_TIME
from ethics_review.vocabulary import (
    AGE_YEARS_MAX,
    ANY,
    CALLS_DAY_MAX,
    CARE_SETTINGS,
    KEPT_MAX,
    MINORS,
    MINORS_UNDER_YEARS,
    READING_MODES,
    SEXES,
    Condition,
    is_requirement,
    normal,
)
from models.codes import AUTONOMY_LEVELS
from models.errors import RefInvalid
from models.ref import ModelRef, is_digest
from models.strict import Fields, Malformed, parse_json

HEADER: Final = "zhiying-approval/2"
FIRST_YEAR: Final = 2000
LAST_YEAR: Final = 2199

TEXT_CHARS_MAX: Final = 12_000
"""A note is one entry of the audit log, which takes notes of 16,000 characters; a panel's signatures need room too."""

LISTED_FROM: Final = "A3"
"""From this level on the result acts without a physician, which is on the list of what wants an expert re-review."""

_KEYS: Final = (
    *("approval", "criteria_set", "model", "reviewer_org", "submission", "valid", "follow_up", "conditions"),
    *("monitor", "acceptance", "on_breach"),
)
_ID: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
_UID_LIKE: Final = re.compile(r"(?:[0-9]+\.){5}")  # the audit log would not take it
_CS: Final = re.compile(r"[A-Z0-9_][A-Z0-9_ ]{0,15}")
_SITE: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._:/+-]{0,63}")
_DAY: Final = re.compile(r"[0-9]{4}-[0-9]{2}-[0-9]{2}")
_DECIMAL: Final = re.compile(r"(0|[1-9][0-9]{0,2})(\.[0-9]{1,2})?")


@dataclass(frozen=True, slots=True)
class Limits:
    """What the site's policy, or the law as it is today, asks of every approval; not the reviewer's to choose.

    Attributes:
        minors_under: completed years below which a patient is a minor.
        follow_up_days, follow_up_days_listed: the longest time until a follow-up review, and for what is listed.
    """

    minors_under: int = MINORS_UNDER_YEARS
    follow_up_days: int = 365
    follow_up_days_listed: int = 182


LAW: Final = Limits()


@dataclass(frozen=True, slots=True)
class Conditions:
    """Every condition of the vocabulary, under its own key.

    Attributes:
        age_years: completed years, both ends included.
        slice_spacing_mm: millimetres, both ends included, two decimals at most.
        manufacturer: as `vocabulary.normal` writes it; or ("*",).
        site: the site's own id; or ("*",). care_setting, reading_mode: words of the vocabulary; or ("*",).
        max_calls_day: calls of this model in one civil day (UTC+8).
        require: what the site must fulfil; see `vocabulary.is_requirement`.
        minors_under: no condition but the policy's limit: younger patients want the `minors:` rules.
    """

    modality: tuple[str, ...]
    body_part: tuple[str, ...]
    age_years: tuple[int, int]
    sex: tuple[str, ...]
    manufacturer: tuple[str, ...]
    site: tuple[str, ...]
    slice_spacing_mm: tuple[float, float]
    max_autonomy: str
    care_setting: tuple[str, ...]
    reading_mode: tuple[str, ...]
    max_calls_day: int
    require: tuple[str, ...]
    minors_under: int


@dataclass(frozen=True, slots=True)
class Approval:
    """One verified approval. Made by `load_approval` only.

    Attributes:
        submission: "sha256:..." of the submission that was reviewed.
        valid_from, valid_to: civil days (UTC+8), both included.
        follow_up_days: from the first day of validity to the next review. listed: on the annex of what is re-reviewed
            by experts.
        monitor, on_breach: what `evaluation.Plan.of` takes. acceptance: what `metrics.unmet` takes. Read-only.
        policy: "sha256:..." of the canonical validity and conditions; calls in the audit log name it.
        note_digest: "sha256:..." of the whole signed note.
        signers: names of all trusted keys that signed, in the note's order.
    """

    id: str
    criteria_set: str
    model: ModelRef
    reviewer_org: str
    submission: str
    valid_from: date
    valid_to: date
    follow_up_days: int
    listed: bool
    conditions: Conditions
    monitor: Mapping[str, JsonValue]
    acceptance: tuple[Mapping[str, JsonValue], ...]
    on_breach: str
    policy: str
    note_digest: str
    signers: tuple[str, ...]

    @property
    def starts_at(self) -> datetime:
        """First instant of validity, UTC."""
        return _midnight(self.valid_from)

    @property
    def ends_at(self) -> datetime:
        """First instant after validity, UTC: the midnight (UTC+8) that ends the last day."""
        return _midnight(self.valid_to + timedelta(days=1))


@lru_cache(KEPT_MAX)
def _midnight(day: date) -> datetime:
    """The first instant of a civil day, UTC."""
    return datetime.combine(day, time(), CIVIL_TIME).astimezone(UTC)


def draft_approval(fields: Mapping[str, JsonValue], limits: Limits = LAW) -> str:
    """The text to sign. `fields` has the keys of the signed JSON (README.md). Raises ApprovalInvalid."""
    try:
        _approval(fields, limits, note_digest="", signers=())
        line = canonical(fields).decode("utf-8")
    except Malformed as wrong:
        raise ApprovalInvalid(wrong.where, wrong.what) from None
    if len(line) > TEXT_CHARS_MAX:
        raise ApprovalInvalid("(document)", f"more than {TEXT_CHARS_MAX} characters")
    return f"{HEADER}\n{line}\n"


def load_approval(note: str, trusted: Sequence[Verifier], limits: Limits = LAW) -> Approval:
    """The approval in a signed note.

    Raises ApprovalForged, ApprovalUntrusted (signatures are looked at before anything else), ApprovalInvalid.
    """
    text, signers = trust.open_trusted(note, trusted)
    header, _, line = text.partition("\n")
    if header != HEADER:
        raise ApprovalInvalid("(document)", f'first line "{HEADER}" wanted')
    if len(note) > NOTE_CHARS_MAX:
        raise ApprovalInvalid("(document)", f"more than {NOTE_CHARS_MAX} characters with its signatures")
    digest = "sha256:" + hashlib.sha256(note.encode("utf-8")).hexdigest()
    try:
        fields = parse_json(line.encode("utf-8"))
        approval = _approval(fields, limits, note_digest=digest, signers=signers)
    except Malformed as wrong:
        raise ApprovalInvalid(wrong.where, wrong.what) from None
    # One approval, one text: the reader of the note and this parser cannot see two different things.
    if line.encode("utf-8") != canonical(fields) + b"\n":
        raise ApprovalInvalid("(document)", "canonical JSON (RFC 8785) on one line wanted")
    return approval


def _approval(value: object, limits: Limits, *, note_digest: str, signers: tuple[str, ...]) -> Approval:
    top = Fields(value, "", _KEYS)
    approval_id = top.text("approval", longest=64)
    if not _ID.fullmatch(approval_id) or _UID_LIKE.search(approval_id):
        raise Malformed("approval", "letters, digits and . _ - wanted, 64 at most, not like a UID")
    submission = top.text("submission", longest=71)
    if not is_digest(submission):
        raise Malformed("submission", "the submission's sha256 digest wanted")
    valid = top.fields("valid", ("from", "to"))
    first, last = _day(valid, "from"), _day(valid, "to")
    if last < first:
        raise Malformed("valid.to", "a day not before valid.from wanted")
    days, listed = _follow_up(top, limits)
    conditions = _conditions(top, limits)
    if conditions.max_autonomy >= LISTED_FROM and not listed:
        raise Malformed("follow_up.listed", f"true wanted from autonomy {LISTED_FROM} on")
    model, on_breach = _model(top), top.choice("on_breach", terms.BREACHES)
    monitor, acceptance = terms.monitor(top, model, on_breach), terms.acceptance(top)
    # Only now: what has been checked holds nothing that canonical JSON could not.
    policy = canonical({"valid": top.value("valid"), "conditions": top.value("conditions")})
    return Approval(
        id=approval_id,
        criteria_set=top.text("criteria_set", longest=64),
        model=model,
        reviewer_org=top.text("reviewer_org", longest=128),
        submission=submission,
        valid_from=first,
        valid_to=last,
        follow_up_days=days,
        listed=listed,
        conditions=conditions,
        monitor=monitor,
        acceptance=acceptance,
        on_breach=on_breach,
        policy="sha256:" + hashlib.sha256(policy).hexdigest(),
        note_digest=note_digest,
        signers=signers,
    )


def _model(top: Fields) -> ModelRef:
    inner = top.fields("model", ModelRef.__slots__)
    try:
        return ModelRef(inner.text("name"), inner.text("version"), inner.text("digest"))
    except RefInvalid as wrong:
        raise Malformed("model", str(wrong)) from None


def _day(valid: Fields, key: str) -> date:
    text = valid.text(key, longest=10)
    try:
        day = date.fromisoformat(text) if _DAY.fullmatch(text) else None
    except ValueError:
        day = None
    if day is None or not FIRST_YEAR <= day.year <= LAST_YEAR:
        raise Malformed(valid.path(key), f"a day YYYY-MM-DD wanted, {FIRST_YEAR} to {LAST_YEAR}")
    return day


def _follow_up(top: Fields, limits: Limits) -> tuple[int, bool]:
    inner = top.fields("follow_up", ("days", "listed"))
    listed = inner.boolean("listed")
    return inner.integer("days", 1, limits.follow_up_days_listed if listed else limits.follow_up_days), listed


def _conditions(top: Fields, limits: Limits) -> Conditions:
    inner = top.fields("conditions", tuple(condition.value for condition in Condition))
    ages = _ages(inner)
    return Conditions(
        modality=_words(inner, Condition.MODALITY, lambda text: _CS.fullmatch(text) is not None),
        body_part=_words(inner, Condition.BODY_PART, lambda text: _CS.fullmatch(text) is not None),
        age_years=ages,
        sex=_words(inner, Condition.SEX, SEXES.__contains__),
        manufacturer=_words(inner, Condition.MANUFACTURER, lambda text: normal(text) == text, any_allowed=True),
        site=_words(inner, Condition.SITE, lambda text: _SITE.fullmatch(text) is not None, any_allowed=True),
        slice_spacing_mm=_spacings(inner),
        max_autonomy=inner.choice(Condition.MAX_AUTONOMY, AUTONOMY_LEVELS),
        care_setting=_words(inner, Condition.CARE_SETTING, CARE_SETTINGS.__contains__, any_allowed=True),
        reading_mode=_words(inner, Condition.READING_MODE, READING_MODES.__contains__, any_allowed=True),
        max_calls_day=inner.integer(Condition.MAX_CALLS_DAY, 1, CALLS_DAY_MAX),
        require=_requirements(inner, minors=ages[0] < limits.minors_under),
        minors_under=limits.minors_under,
    )


def _words(inner: Fields, key: Condition, fits: Callable[[str], bool], *, any_allowed: bool = False) -> tuple[str, ...]:
    found = inner.texts(key, longest=64)
    if any_allowed and found == (ANY,):
        return found
    for place, text in enumerate(found):
        if ANY in text or not fits(text):
            raise Malformed(f"{inner.path(key)}[{place}]", "not a value of this condition")
    return found


def _requirements(inner: Fields, *, minors: bool) -> tuple[str, ...]:
    found = inner.texts(Condition.REQUIRE, fewest=0, longest=64)
    for place, text in enumerate(found):
        if not is_requirement(text):
            raise Malformed(f"{inner.path(Condition.REQUIRE)}[{place}]", "not a requirement that this version knows")
    if minors and not any(text.startswith(MINORS) for text in found):
        raise Malformed(inner.path(Condition.REQUIRE), f"a rule {MINORS}ID wanted, as the ages begin among minors")
    return found


def _ages(inner: Fields) -> tuple[int, int]:
    pair = inner.range(Condition.AGE_YEARS, 0, AGE_YEARS_MAX, whole=True)
    return int(pair.low), int(pair.high)


def _spacings(inner: Fields) -> tuple[float, float]:
    # Decimals are text, since signed texts and audit entries hold no floating-point numbers.
    low, high = inner.items(Condition.SLICE_SPACING_MM, _decimal, fewest=2, most=2)
    if not 0 < low <= high:
        raise Malformed(inner.path(Condition.SLICE_SPACING_MM), "two decimals wanted, 0 < lower <= higher")
    return low, high


def _decimal(value: object, path: str) -> float:
    # "0.5" and "2.0" as people write them; at most two decimals, as that is what the gate compares.
    if not isinstance(value, str) or not _DECIMAL.fullmatch(value):
        raise Malformed(path, 'a decimal as text wanted, such as "0.5", two decimals at most')
    return float(value)
