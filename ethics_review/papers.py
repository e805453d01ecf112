"""What each paper of a dossier must say, and which control each answers: one reader a paper, strict to the key.

A paper is what the vendor or the hospital wrote: its words are for the reviewer to judge. What is judged here is only
whether they are there, whole, in force today and about this model. Pure.
"""

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import date
from enum import StrEnum
from typing import Final

from ethics_review import controls, model_card
from models.codes import AUTONOMY_LEVELS
from models.ref import ModelRef, is_digest
from models.strict import Fields, Malformed

REREVIEW: Final = ("A3", "A4")
"""Autonomy from which an expert panel must look too: the model acts without a physician's act on each case."""
DRILLS_A_YEAR: Final = 2
"""Stop drills below which the emergency plan is thin (HO-03)."""
USES: Final = ("TRAINING", "TUNING", "TEST")
RIGHTS: Final = ("CONSENT", "LICENCE", "CONTRACT", "PUBLIC", "OWN_RECORDS", "EXEMPTED")
MANDATORY_SUBGROUPS: Final = ("SEX", "AGE_YEARS", "MANUFACTURER", "SITE")
"""Conditions, as the gate names them, by which the results must be given."""
INSUFFICIENT: Final = "INSUFFICIENT"
REPORTED: Final = "REPORTED"

_DAY: Final = re.compile(r"[0-9]{4}-[0-9]{2}-[0-9]{2}")
_NUMBER: Final = re.compile(r"-?(?:0|[1-9][0-9]{0,6})(?:\.[0-9]{1,9})?")
_CODE: Final = re.compile(r"[A-Z0-9_]{1,64}")
_ID: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")


class Outcome(StrEnum):
    """How a control stands, as far as papers can show it."""

    OK = "OK"
    MISSING = "MISSING"
    INSUFFICIENT = "INSUFFICIENT"
    EXPIRED = "EXPIRED"
    INVALID = "INVALID"


@dataclass(frozen=True, slots=True)
class Finding:
    """One control, and what to do about it. `blocks`: it must be mended before the dossier can be submitted.

    INSUFFICIENT never blocks: that something is not known is an answer, and the reviewer's to weigh.
    """

    control: str
    outcome: Outcome
    document: str
    what: str
    blocks: bool


@dataclass(frozen=True, slots=True)
class Asked:
    """What the papers are measured by: the model, the civil day (UTC+8), and the cases below which n says nothing."""

    model: ModelRef
    today: date
    n_min: int


Reader = Callable[[object, Asked], Iterator[Finding]]


@dataclass(frozen=True, slots=True)
class Paper:
    """One kind of document. `control` goes unanswered without it; without `read` it is bytes, not understood."""

    name: str
    file: str
    control: str
    purpose: str
    read: Reader | None
    needed: bool = True


def finding(control: str, outcome: Outcome, document: str, what: str) -> Finding:
    """A finding that blocks if its outcome does."""
    return Finding(control, outcome, document, what, outcome not in (Outcome.OK, Outcome.INSUFFICIENT))


def interested(value: object) -> frozenset[str]:
    """Organisations with a declared interest: they may not review this model. Raises Malformed."""
    return frozenset(organisation for _, organisation, interest in _statements(value) if interest is not None)


def printable(text: str) -> str:
    """A stranger's text as it may stand on a screen."""
    return "".join(character if character.isprintable() else "?" for character in text[:256])


# ---- readers --------------------------------------------------------------------------------------------------------


def _card(value: object, asked: Asked) -> Iterator[Finding]:
    model_card.read(value, asked.model.version)
    yield finding("TR-02", Outcome.OK, "model_card", "every mandatory field of the card is filled in")


def _intended(value: object, _: Asked) -> Iterator[Finding]:
    top = _document(value, "intended-use", ("purpose", "autonomy", "excluded"))
    _both_languages(top, "purpose")
    level = top.choice("autonomy", AUTONOMY_LEVELS)
    top.texts("excluded", longest=512)
    yield finding("SP-02", Outcome.OK, "intended_use", "states what the model is for, and what not")
    if level in REREVIEW:
        what = f"autonomy {level}: a physician does not decide each case; an expert panel must look too (REFER)"
        yield finding("HO-01", Outcome.INSUFFICIENT, "intended_use", what)
    else:
        yield finding("HO-01", Outcome.OK, "intended_use", f"autonomy {level}: a physician decides each case")


def _hazards(value: object, _: Asked) -> Iterator[Finding]:
    top = _document(value, "hazards", ("hazards",))
    known = frozenset(control.id for control in controls.catalogue())

    def hazard(item: object, path: str) -> str:
        one = Fields(item, path, ("id", "hazard", "harm", "controls", "residual"))
        for key in ("hazard", "harm", "residual"):
            one.prose(key)
        one.choices("controls", known)
        return _identifier(one, "id")

    names = top.items("hazards", hazard)
    if len(set(names)) != len(names):
        raise Malformed("hazards", "two hazards have one id")
    yield finding("SP-08", Outcome.OK, "hazards", f"hazards: {len(names)}, each with its controls")


def _datasets(value: object, _: Asked) -> Iterator[Finding]:
    top = _document(value, "datasets", ("datasets",))

    def dataset(item: object, path: str) -> tuple[str, ...]:
        one = Fields(item, path, ("name", "use", "cases", "source", "manifest", "rights"))
        one.text("name")
        one.integer("cases", 1, 10**9)
        one.prose("source")
        _digest(one, "manifest")
        rights = one.fields("rights", ("basis", "statement"))
        rights.choice("basis", RIGHTS)
        rights.prose("statement")
        return one.choices("use", USES)

    uses = {use for found in top.items("datasets", dataset) for use in found}
    for use in ("TRAINING", "TEST"):
        if use not in uses:
            what = f"name the data set that was used for {use}, with its manifest's digest and the right to use it"
            yield finding("LC-08", Outcome.MISSING, "datasets", what)
    if {"TRAINING", "TEST"} <= uses:
        yield finding("LC-08", Outcome.OK, "datasets", "each data set has a manifest and a statement of rights")


def _subgroups(value: object, asked: Asked) -> Iterator[Finding]:
    top = _document(value, "subgroups", ("dataset", "claims", "rows"))
    _digest(top, "dataset")
    claims = top.fields("claims", MANDATORY_SUBGROUPS)
    found = top.items("rows", lambda item, path: _result_row(item, path, asked.n_min), fewest=0, most=1024)
    for subgroup in MANDATORY_SUBGROUPS:
        claim = claims.choice(subgroup, (REPORTED, INSUFFICIENT))
        mine = [enough for name, enough in found if name is not None and name.startswith(f"{subgroup}:")]
        if claim == INSUFFICIENT:
            yield finding(
                "FA-01", Outcome.INSUFFICIENT, "subgroups", f"{subgroup}: too few cases, by the vendor's word"
            )
        elif not any(mine):
            what = f"{subgroup}: give a row with n >= {asked.n_min}, or claim {INSUFFICIENT}"
            yield finding("FA-01", Outcome.MISSING, "subgroups", what)
        elif not all(mine):
            what = f"{subgroup}: {mine.count(False)} of {len(mine)} rows have n < {asked.n_min}, and no value"
            yield finding("FA-01", Outcome.INSUFFICIENT, "subgroups", what)
        else:
            yield finding("FA-01", Outcome.OK, "subgroups", f"{subgroup}: {len(mine)} rows, n >= {asked.n_min} in each")


def _privacy(value: object, asked: Asked) -> Iterator[Finding]:
    top = _document(value, "privacy", ("pia", "report", "valid_to", "bases"))
    name = _identifier(top, "pia")
    _digest(top, "report")

    def basis(item: object, path: str) -> str:
        one = Fields(item, path, ("purpose", "basis"))
        one.text("basis")
        return one.text("purpose")

    top.items("bases", basis)
    yield _until("PR-01", "privacy", f"privacy impact assessment {name}", _day(top, "valid_to"), asked)


def _emergency(value: object, _: Asked) -> Iterator[Finding]:
    top = _document(value, "emergency", ("stop", "fallback", "notify", "drills_a_year"))
    top.prose("fallback")
    top.texts("stop", longest=128)
    top.texts("notify", longest=128)
    drills = top.integer("drills_a_year", 0, 366)
    yield finding(
        "LC-01", Outcome.OK, "emergency_plan", "says who stops the model, whom to tell, and what goes on then"
    )
    if drills < DRILLS_A_YEAR:
        what = f"plan at least {DRILLS_A_YEAR} stop drills a year"
        yield finding("HO-03", Outcome.INSUFFICIENT, "emergency_plan", what)
    else:
        yield finding("HO-03", Outcome.OK, "emergency_plan", f"{drills} stop drills a year")


def _notices(value: object, asked: Asked) -> Iterator[Finding]:
    top = _document(value, "notices", ("version", "from", "text"))
    version = _identifier(top, "version")
    top.fields("text", ("zh",), ("en",)).prose("zh")
    if _day(top, "from") > asked.today:
        yield finding("TR-03", Outcome.MISSING, "notices", f"notice {version} is not shown to patients yet")
    else:
        yield finding("TR-03", Outcome.OK, "notices", f"patients are told by notice {version}")


def _registration(value: object, asked: Asked) -> Iterator[Finding]:
    top = _document(value, "registration", ("number", "class", "holder", "expires"))
    number = top.text("number", longest=64)
    top.choice("class", ("II", "III"))
    top.text("holder")
    yield _until("SP-01", "registration", f"registration {number}", _day(top, "expires"), asked)


def _protocol(value: object, asked: Asked) -> Iterator[Finding]:
    top = _document(value, "protocol", ("number", "title", "approved_by", "expires"))
    number = _identifier(top, "number")
    top.text("title")
    top.text("approved_by")
    what = f"research protocol {number}, without a registration: SHADOW only"
    yield _until("SP-01", "protocol", what, _day(top, "expires"), asked)


def _interests(value: object, _: Asked) -> Iterator[Finding]:
    people = [person for person, _, _ in _statements(value)]
    if len(set(people)) != len(people):
        raise Malformed("statements", "one person has two statements")
    barred = ", ".join(sorted(interested(value))) or "none"
    yield finding(
        "LC-03", Outcome.OK, "interests", f"statements: {len(people)}; organisations with an interest: {barred}"
    )


# ---- parts of papers ------------------------------------------------------------------------------------------------


def _document(value: object, schema: str, keys: tuple[str, ...]) -> Fields:
    top = Fields(value, "", ("schema", *keys))
    top.choice("schema", (f"zhiying.{schema}/1",))
    return top


def _statements(value: object) -> tuple[tuple[str, str, str | None], ...]:
    def statement(item: object, path: str) -> tuple[str, str, str | None]:
        one = Fields(item, path, ("person", "organisation", "interest"))
        interest = None if one.value("interest") is None else one.prose("interest")
        return one.text("person"), one.text("organisation", longest=128), interest

    return _document(value, "interests", ("statements",)).items("statements", statement)


def _result_row(item: object, path: str, n_min: int) -> tuple[str | None, bool]:
    """One body of metrics.Row: its subgroup, and whether it has cases enough. Few cases and a value: Malformed."""
    row = Fields(item, path, ("metric", "subgroup", "n", "value", "low", "high"))
    if not _CODE.fullmatch(row.text("metric", longest=64)):
        raise Malformed(row.path("metric"), "a metric's code wanted, such as SENSITIVITY")
    subgroup = None if row.value("subgroup") is None else row.text("subgroup", longest=64)
    enough = row.integer("n", 0, 10**9) >= n_min
    for key in ("value", "low", "high"):
        given = row.value(key)
        if given is not None and (not isinstance(given, str) or not _NUMBER.fullmatch(given)):
            raise Malformed(row.path(key), 'a decimal as text wanted, such as "0.93", or null')
        # A share of six cases looks like knowledge, and is none.
        if given is not None and not enough:
            raise Malformed(row.path(key), f"null wanted where n is below {n_min}")
    if enough and row.value("value") is None:
        raise Malformed(row.path("value"), f"a value wanted where n is {n_min} or more")
    return subgroup, enough


def _until(control: str, document: str, what: str, last: date, asked: Asked) -> Finding:
    if last < asked.today:
        return finding(control, Outcome.EXPIRED, document, f"{what}: ended on {last.isoformat()}; renew it")
    return finding(control, Outcome.OK, document, f"{what}, until {last.isoformat()}")


def _both_languages(top: Fields, key: str) -> None:
    inner = top.fields(key, ("en", "zh"))
    for language in ("en", "zh"):
        inner.prose(language)


def _identifier(inner: Fields, key: str) -> str:
    text = inner.text(key, longest=64)
    if not _ID.fullmatch(text):
        raise Malformed(inner.path(key), "letters, digits and . _ - wanted")
    return text


def _digest(inner: Fields, key: str) -> str:
    text = inner.text(key, longest=71)
    if not is_digest(text):
        raise Malformed(inner.path(key), '"sha256:" and 64 lower-case hexadecimal digits wanted')
    return text


def _day(inner: Fields, key: str) -> date:
    text = inner.text(key, longest=10)
    try:
        day = date.fromisoformat(text) if _DAY.fullmatch(text) else None
    except ValueError:
        day = None
    if day is None:
        raise Malformed(inner.path(key), "a day YYYY-MM-DD wanted")
    return day


PAPERS: Final = (
    Paper("model_card", "model-card.json", "TR-02", "the CHAI Applied Model Card v0.2", _card),
    Paper("intended_use", "intended-use.json", "SP-02", "what the model is for, and what it may do alone", _intended),
    Paper("hazards", "hazards.json", "SP-08", "what can go wrong, and the controls against it", _hazards),
    Paper("datasets", "datasets.json", "LC-08", "data sets, their manifests, and the right to use them", _datasets),
    Paper("subgroups", "subgroups.json", "FA-01", "results by subgroup", _subgroups),
    Paper("privacy", "privacy.json", "PR-01", "the privacy impact assessment", _privacy),
    Paper("emergency_plan", "emergency-plan.json", "LC-01", "what happens when the model must stop", _emergency),
    Paper("notices", "notices.json", "TR-03", "what patients are told", _notices),
    Paper("registration", "registration.json", "SP-01", "the device's registration", _registration, needed=False),
    Paper("protocol", "protocol.json", "SP-01", "or a research protocol", _protocol, needed=False),
    Paper("interests", "interests.json", "LC-03", "who has an interest in the model", _interests),
    Paper("sbom", "sbom.json", "SE-06", "the software bill of materials", None, needed=False),
)  # fmt: skip
"""Every paper that is understood; a dossier may hold others, which are only bound by their digests."""
