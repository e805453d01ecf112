"""What may be asked of a series, by a model's manifest and by the site's rules: predicates as data, no code in them.

Text is found as a part of other text, upper and lower case alike; there are no regular expressions, which could run
away. Each question gives what was observed and what was wanted, so that a person can see why a series was not used.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields
from enum import StrEnum
from typing import Any, ClassVar, Final, NamedTuple

from dicom_bridge.errors import BridgeError, Fault
from dicom_bridge.peers import valid_ae_title
from dicom_bridge.split import Key, Kind, Step, waived
from models.codes import ORIENTATIONS, Range, is_part
from models.errors import CodeInvalid
from models.manifest import InputContract

WORDS_MAX: Final = 64
"""Entries of one predicate's list; a site that needs more wants another rule."""
SPACING_TOLERANCE_MM: Final = 1e-4
"""Positions are decimal strings and spacing their difference: 1.2 mm reads 1.19999. As `inference.checks` has it."""

_NAME: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
_MODEL: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}(?:/[A-Za-z0-9][A-Za-z0-9._+-]{0,63})?")
_UID: Final = re.compile(r"(?:0|[1-9][0-9]*)(?:\.(?:0|[1-9][0-9]*))+")
_CS: Final = re.compile(r"[A-Z0-9_][A-Z0-9_ ]{0,15}")


class RuleInvalid(BridgeError):
    """A rule of the configuration that cannot be one; the message names the rule and the key."""

    CODES = frozenset({"RULE_INVALID"})
    fault = Fault.SITE


class Predicate(StrEnum):
    """The questions, in the order in which they are asked: the plainest reason is given first.

    MODEL: the rule's model is installed. KIND: the images are no localizers, dose sheets, projections and the like.
    GEOMETRY: they are one regular volume. ONE_VOLUME: no other volume of the series fits as well.
    """

    MODEL = "MODEL"
    MODALITY = "MODALITY"
    SOP_CLASS = "SOP_CLASS"
    IMAGE_TYPE = "IMAGE_TYPE"
    KIND = "KIND"
    BODY_PART = "BODY_PART"
    DESCRIPTION = "DESCRIPTION"
    PROTOCOL = "PROTOCOL"
    SENDER = "SENDER"
    CONTRAST = "CONTRAST"
    LOSSY = "LOSSY"
    SLICES = "SLICES"
    GEOMETRY = "GEOMETRY"
    ORIENTATION = "ORIENTATION"
    MATRIX = "MATRIX"
    PIXEL_SPACING = "PIXEL_SPACING"
    SLICE_SPACING = "SLICE_SPACING"
    PART = "PART"
    ONE_VOLUME = "ONE_VOLUME"


@dataclass(frozen=True, slots=True)
class SeriesSummary:
    """A series, or one volume of it: what may be asked about. "", (), None and empty sets mean that it is not known.

    Text is upper case but `description` and `protocol`. `image_types` holds the Image Type of every image, each once.
    `sop_class` is "" when the instances' differ. `count` counts images: instances with pixels, or their frames.
    `pixel_spacing_mm` (between rows, between columns). `contrast`: whether a contrast agent is named, of each image.
    `refused`: the code of VolumeRefused where the images are no regular volume. `part`, `label`: `split.Part.id` and
    `.label`; `steps` how it was told apart, `ordinal` its place (from 1) among the `volumes` of its series.
    """

    series_uid: str
    modality: str
    sop_class: str
    body_part: str
    description: str
    image_types: frozenset[tuple[str, ...]]
    series_number: int | None
    count: int
    protocol: str = ""
    senders: frozenset[str] = frozenset()
    kind: Kind = Kind.VOLUME
    contrast: frozenset[bool] = frozenset()
    lossy: bool | None = None
    orientation: str = ""
    rows: int | None = None
    columns: int | None = None
    pixel_spacing_mm: tuple[float, ...] = ()
    slice_spacing_mm: float | None = None
    refused: str = ""
    part: str = ""
    label: str = ""
    steps: tuple[Step, ...] = ()
    ordinal: int = 1
    volumes: int = 1


@dataclass(frozen=True, slots=True, kw_only=True)
class Criteria:
    """What is wanted of a series; an empty list or None asks nothing. See `Predicate` and `models.InputContract`."""

    modality: tuple[str, ...] = ()
    sop_class: tuple[str, ...] = ()
    image_type_includes: tuple[str, ...] = ()
    image_type_excludes: tuple[str, ...] = ()
    description_any: tuple[str, ...] = ()
    description_none: tuple[str, ...] = ()
    body_part: tuple[str, ...] = ()
    protocol_any: tuple[str, ...] = ()
    sender: tuple[str, ...] = ()
    contrast: bool | None = None
    lossy: bool | None = None
    slices: Range | None = None
    orientation: tuple[str, ...] = ()
    rows: Range | None = None
    columns: Range | None = None
    pixel_spacing_mm: Range | None = None
    slice_spacing_mm: Range | None = None
    part: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Rule(Criteria):
    """One rule of the site: series that meet its criteria go to `model`, where the model's manifest takes them too.

    `model` is a name, or name/version. `urgent`: such a study overtakes the queue. `final`: where it takes a series, no
    later rule is asked. `lossy` = false refuses pixels compressed with loss; true says nothing. Raises RuleInvalid.
    """

    name: str
    model: str
    urgent: bool = False
    final: bool = False

    _PATTERNS: ClassVar[Mapping[str, re.Pattern[str]]] = {
        "modality": _CS,
        "sop_class": _UID,
        "image_type_includes": _CS,
        "image_type_excludes": _CS,
        "body_part": _CS,
    }

    def __post_init__(self) -> None:
        if _NAME.fullmatch(self.name) is None:
            raise RuleInvalid("RULE_INVALID", "a rule's name must be 1 to 64 of A-Z a-z 0-9 . _ -")
        if _MODEL.fullmatch(self.model) is None:
            self._fail("model", "a model's name, or name/version")
        for one in fields(self):
            value = getattr(self, one.name)
            if not isinstance(value, tuple):
                continue
            pattern = self._PATTERNS.get(one.name)
            if len(value) > WORDS_MAX or not all(isinstance(word, str) and 0 < len(word) <= 64 for word in value):
                self._fail(one.name, f"at most {WORDS_MAX} texts of 1 to 64 characters")
            if pattern is not None and not all(pattern.fullmatch(word) for word in value):
                self._fail(one.name, "values as DICOM writes them, upper case")
        if not set(self.orientation) <= set(ORIENTATIONS):
            self._fail("orientation", "some of " + ", ".join(ORIENTATIONS))
        if not all(valid_ae_title(title) for title in self.sender):
            self._fail("sender", "AE titles")
        if self.part is not None and not (is_part(self.part) and _known_key(self.part)):
            self._fail("part", "first, last or KEY=VALUE with a key of " + ", ".join(Key))

    def _fail(self, key: str, wanted: str) -> None:
        raise RuleInvalid("RULE_INVALID", f"rule {self.name}: {key}: {wanted} wanted")

    @classmethod
    def of(cls, values: Mapping[str, Any]) -> Rule:
        """The rule of a configuration's table: lists for texts, [low, high] for ranges. Raises RuleInvalid."""
        given = {key: value for key, value in values.items() if value is not None}
        try:
            ranged = {key: Range(*given[key]) for key in _RANGES if key in given}
            listed = {
                key: tuple(value)
                for key, value in given.items()
                if isinstance(value, list | tuple) and key not in ranged
            }
            return cls(**(given | listed | ranged))
        except (CodeInvalid, TypeError) as wrong:
            name = str(given.get("name", ""))
            shown = name if _NAME.fullmatch(name) else "?"
            raise RuleInvalid("RULE_INVALID", f"rule {shown}: two numbers, the lower first, wanted") from wrong


_RANGES: Final = ("slices", "rows", "columns", "pixel_spacing_mm", "slice_spacing_mm")


def _known_key(part: str) -> bool:
    key, equals, _ = part.partition("=")
    return not equals or key in set(Key)


def criteria_of(contract: InputContract) -> Criteria:
    """What a manifest wants, in the same words as a rule."""
    return Criteria(
        modality=contract.modality,
        sop_class=contract.sop_classes,
        image_type_includes=contract.image_type_includes,
        image_type_excludes=contract.image_type_excludes,
        description_any=contract.description_any,
        body_part=contract.body_part,
        protocol_any=contract.protocol_any,
        contrast=contract.contrast,
        lossy=contract.lossy,
        slices=contract.slices,
        orientation=contract.orientation,
        rows=contract.rows,
        columns=contract.columns,
        pixel_spacing_mm=contract.pixel_spacing_mm,
        slice_spacing_mm=contract.slice_spacing_mm,
        part=contract.part,
    )


class Answer(NamedTuple):
    """`holds` is None where the series does not say: a manifest leaves it to later checks, a rule is not met."""

    holds: bool | None
    observed: str
    wanted: str


def ask(predicate: Predicate, series: SeriesSummary, wanted: Criteria) -> Answer | None:
    """The answer to one question, or None where it is not asked. MODEL and ONE_VOLUME are not about one series."""
    question = _QUESTIONS.get(predicate)
    return None if question is None else question(series, wanted)


def _listed(observed: str, wanted: Sequence[str]) -> Answer | None:
    return Answer(observed in wanted, observed, " or ".join(wanted)) if wanted else None


def _image_type(series: SeriesSummary, wanted: Criteria) -> Answer | None:
    excluded, included = set(wanted.image_type_excludes), set(wanted.image_type_includes)
    for values in sorted(series.image_types):
        shown = "\\".join(values)
        if excluded.intersection(values):
            return Answer(holds=False, observed=shown, wanted="none of " + ", ".join(wanted.image_type_excludes))
        if included and not included.intersection(values):
            return Answer(holds=False, observed=shown, wanted="one of " + ", ".join(wanted.image_type_includes))
    unknown = bool(included) and not series.image_types
    return Answer(None if unknown else True, "", "") if excluded or included else None


def _kind(series: SeriesSummary, wanted: Criteria) -> Answer | None:
    asked_for = bool(series.image_types) and all(
        waived(series.kind, values, wanted.image_type_includes) for values in series.image_types
    )
    return Answer(series.kind is Kind.VOLUME or asked_for, series.kind.value, "images of a volume, as acquired")


def _body_part(series: SeriesSummary, wanted: Criteria) -> Answer | None:
    if not wanted.body_part:
        return None
    # Unknown stays unknown: the gate refuses it, visibly, where this would only pass the series over.
    holds = series.body_part in wanted.body_part if series.body_part else None
    return Answer(holds, series.body_part, " or ".join(wanted.body_part))


def _words(text: str, some: Sequence[str], none: Sequence[str]) -> Answer | None:
    folded = text.casefold()
    barred = [word for word in none if word.casefold() in folded]
    if barred:
        return Answer(holds=False, observed=text, wanted="nothing of " + ", ".join(none))
    if some:
        return Answer(any(word.casefold() in folded for word in some), text, "one of " + ", ".join(some))
    return Answer(holds=True, observed=text, wanted="") if none else None


def _sender(series: SeriesSummary, wanted: Criteria) -> Answer | None:
    if not wanted.sender:
        return None
    known = series.senders - {""}
    holds = known <= set(wanted.sender) if known and known == series.senders else None
    return Answer(holds, ", ".join(sorted(known)), " or ".join(wanted.sender))


def _contrast(series: SeriesSummary, wanted: Criteria) -> Answer | None:
    if wanted.contrast is None:
        return None
    said = {frozenset({True}): "an agent is named", frozenset({False}): "no agent is named", frozenset(): ""}
    holds = series.contrast == {wanted.contrast} if series.contrast else None
    return Answer(holds, said.get(series.contrast, "of some images"), said[frozenset({wanted.contrast})])


def _lossy(series: SeriesSummary, wanted: Criteria) -> Answer | None:
    if wanted.lossy is not False:
        return None
    return Answer(None if series.lossy is None else not series.lossy, "compressed with loss", "no loss")


def _within(value: float | None, wanted: Range | None, slack: float = 0.0, unit: str = "") -> Answer | None:
    if wanted is None:
        return None
    holds = None if value is None else wanted.low - slack <= value <= wanted.high + slack
    shown = "" if value is None else f"{value:.6g}{unit}"
    return Answer(holds, shown, f"{wanted.low:g} to {wanted.high:g}{unit}")


def _orientation(series: SeriesSummary, wanted: Criteria) -> Answer | None:
    answer = _listed(series.orientation, wanted.orientation)
    return answer._replace(holds=None) if answer is not None and not series.orientation else answer


def _matrix(series: SeriesSummary, wanted: Criteria) -> Answer | None:
    rows = _within(series.rows, wanted.rows, unit=" rows")
    columns = _within(series.columns, wanted.columns, unit=" columns")
    return _worst([answer for answer in (rows, columns) if answer is not None])


def _pixel_spacing(series: SeriesSummary, wanted: Criteria) -> Answer | None:
    values: Sequence[float | None] = series.pixel_spacing_mm or (None,)
    answers = [_within(value, wanted.pixel_spacing_mm, SPACING_TOLERANCE_MM, " mm") for value in values]
    return _worst([answer for answer in answers if answer is not None])


def _worst(answers: Sequence[Answer]) -> Answer | None:
    return min(answers, key=lambda answer: (False, None, True).index(answer.holds), default=None)


def _part(series: SeriesSummary, wanted: Criteria) -> Answer | None:
    if wanted.part is None or not series.steps:
        return None
    shown = f"{series.label} (volume {series.ordinal} of {series.volumes})"
    key, equals, value = wanted.part.partition("=")
    if equals:
        holds = any(step.key == key and _equal(step.value, value) for step in series.steps)
    else:
        holds = series.ordinal == (1 if wanted.part == "first" else series.volumes)
    return Answer(holds, shown, wanted.part)


def _equal(observed: str, wanted: str) -> bool:
    try:
        return float(observed) == float(wanted)
    except ValueError:
        return observed.casefold() == wanted.casefold()


_QUESTIONS: Final[Mapping[Predicate, Callable[[SeriesSummary, Criteria], Answer | None]]] = {
    Predicate.MODALITY: lambda series, wanted: _listed(series.modality, wanted.modality),
    Predicate.SOP_CLASS: lambda series, wanted: _listed(series.sop_class, wanted.sop_class),
    Predicate.IMAGE_TYPE: _image_type,
    Predicate.KIND: _kind,
    Predicate.BODY_PART: _body_part,
    Predicate.DESCRIPTION: lambda series, wanted: _words(
        series.description, wanted.description_any, wanted.description_none
    ),
    Predicate.PROTOCOL: lambda series, wanted: _words(series.protocol, wanted.protocol_any, ()),
    Predicate.SENDER: _sender,
    Predicate.CONTRAST: _contrast,
    Predicate.LOSSY: _lossy,
    Predicate.SLICES: lambda series, wanted: _within(series.count, wanted.slices),
    Predicate.GEOMETRY: lambda series, _: Answer(not series.refused, series.refused, "one regular volume"),
    Predicate.ORIENTATION: _orientation,
    Predicate.MATRIX: _matrix,
    Predicate.PIXEL_SPACING: _pixel_spacing,
    Predicate.SLICE_SPACING: lambda series, wanted: _within(
        series.slice_spacing_mm, wanted.slice_spacing_mm, SPACING_TOLERANCE_MM, " mm"
    ),
    Predicate.PART: _part,
}
