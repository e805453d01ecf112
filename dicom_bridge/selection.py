"""Which series of a study fits which model? Predicates from the manifest, asked one by one; no code in rules. Pure.

Each verdict names the predicate that decided, so that a person can see why a series was not used.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Final

from pydicom.dataset import Dataset

from dicom_bridge.assembly import RESULT_MODALITIES
from dicom_bridge.charset import declared, decode_text
from dicom_bridge.errors import CharsetRefused
from dicom_bridge.spool_index import Instance
from models.manifest import InputContract, Manifest
from models.ref import ModelRef

NO_MODEL_FITS: Final = "NO_MODEL_FITS"
"""Code of a study of which no series fits any model."""


@dataclass(frozen=True, slots=True)
class SeriesSummary:
    """What selection may look at. Text is upper case but `description`; "" and () mean that it is not known.

    `image_types` holds the Image Type of every instance, each once. `sop_class` is "" when the instances' differ.
    `count` counts the instances that have pixels.
    """

    series_uid: str
    modality: str
    sop_class: str
    body_part: str
    description: str
    image_types: frozenset[tuple[str, ...]]
    series_number: int | None
    count: int


class Predicate(StrEnum):
    """The questions, in the order in which they are asked."""

    MODALITY = "MODALITY"
    SOP_CLASS = "SOP_CLASS"
    IMAGE_TYPE = "IMAGE_TYPE"
    BODY_PART = "BODY_PART"
    DESCRIPTION = "DESCRIPTION"
    SLICES = "SLICES"


@dataclass(frozen=True, slots=True)
class Verdict:
    """One series against one model; `decided_by` is the first predicate that said no, None when it fits."""

    series_uid: str
    model: ModelRef
    decided_by: Predicate | None

    @property
    def fits(self) -> bool:
        """Whether every predicate said yes."""
        return self.decided_by is None


@dataclass(frozen=True, slots=True)
class Choice:
    """The series to run, and the model to run on it."""

    series_uid: str
    model: ModelRef


@dataclass(frozen=True, slots=True)
class NoFit:
    """No series fits any model; `verdicts` say which predicate decided for each pair."""

    verdicts: tuple[Verdict, ...]
    code: str = NO_MODEL_FITS


def _modality(series: SeriesSummary, contract: InputContract) -> bool:
    return series.modality in contract.modality


def _sop_class(series: SeriesSummary, contract: InputContract) -> bool:
    return series.sop_class in contract.sop_classes


def _image_type(series: SeriesSummary, contract: InputContract) -> bool:
    excluded = set(contract.image_type_excludes)
    return not any(excluded.intersection(values) for values in series.image_types)


def _body_part(series: SeriesSummary, contract: InputContract) -> bool:
    # Unknown stays unknown: the gate refuses it, visibly, where this would only pass the series over.
    return not series.body_part or series.body_part in contract.body_part


def _description(series: SeriesSummary, contract: InputContract) -> bool:
    text = series.description.casefold()
    return not contract.description_any or any(word.casefold() in text for word in contract.description_any)


def _slices(series: SeriesSummary, contract: InputContract) -> bool:
    return contract.slices.contains(series.count)


_PREDICATES: Final[tuple[tuple[Predicate, Callable[[SeriesSummary, InputContract], bool]], ...]] = (
    (Predicate.MODALITY, _modality),
    (Predicate.SOP_CLASS, _sop_class),
    (Predicate.IMAGE_TYPE, _image_type),
    (Predicate.BODY_PART, _body_part),
    (Predicate.DESCRIPTION, _description),
    (Predicate.SLICES, _slices),
)


def judge(series: SeriesSummary, model: ModelRef, manifest: Manifest) -> Verdict:
    """Ask the predicates in order; the first "no" decides."""
    for name, holds in _PREDICATES:
        if not holds(series, manifest.input):
            return Verdict(series.series_uid, model, name)
    return Verdict(series.series_uid, model, None)


def explain(series: Sequence[SeriesSummary], manifests: Mapping[ModelRef, Manifest]) -> tuple[Verdict, ...]:
    """Judge every series against every model: models by name, version and digest, then series in order of preference.

    The most slices first (of two that fit, the finer one), then the lowest series number, then the UID: never the
    order in which they arrived.
    """
    ordered = sorted(series, key=lambda one: (-one.count, one.series_number or 0, one.series_uid))
    models = sorted(manifests, key=lambda ref: (ref.name, ref.version, ref.digest))
    return tuple(judge(one, model, manifests[model]) for model in models for one in ordered)


def choose(series: Sequence[SeriesSummary], manifests: Mapping[ModelRef, Manifest]) -> Choice | NoFit:
    """Return the first pair that fits, in the order of `explain`, or all verdicts when none does."""
    verdicts = explain(series, manifests)
    for verdict in verdicts:
        if verdict.fits:
            return Choice(verdict.series_uid, verdict.model)
    return NoFit(verdicts)


def summarise(instances: Sequence[Instance]) -> tuple[SeriesSummary, ...]:
    """Summarise the held instances of a study by series, ordered by UID; results (SR, SEG ...) are left out.

    Reads no file: the index holds what is needed.
    """
    series: dict[str, list[Instance]] = {}
    for instance in instances:
        if instance.modality not in RESULT_MODALITIES:
            series.setdefault(instance.series_uid, []).append(instance)
    return tuple(
        SeriesSummary(
            series_uid=uid,
            modality=_one({member.modality for member in members}),
            sop_class=_one({member.sop_class for member in members}),
            body_part=_one({member.body_part for member in members}),
            description=_one({member.description for member in members}),
            image_types=frozenset(member.image_type for member in members),
            series_number=min((m.series_number for m in members if m.series_number is not None), default=None),
            count=sum(member.pixels for member in members),
        )
        for uid, members in sorted(series.items())
    )


def summarise_headers(headers: Sequence[Dataset]) -> SeriesSummary:
    """Summarise one series from its headers; each counts as one instance with pixels. Raises ValueError without any."""
    if not headers:
        raise ValueError("a series has at least one header")
    numbers = [int(number) for number in (_text(h, "SeriesNumber") for h in headers) if number.isdecimal()]
    types = (tuple(part.strip().upper() for part in _text(h, "ImageType").split("\\") if part.strip()) for h in headers)
    return SeriesSummary(
        series_uid=_one({_text(h, "SeriesInstanceUID") for h in headers}),
        modality=_one({_text(h, "Modality").upper() for h in headers}),
        sop_class=_one({_text(h, "SOPClassUID") for h in headers}),
        body_part=_one({_text(h, "BodyPartExamined").upper() for h in headers}),
        description=_one({_text(h, "SeriesDescription") for h in headers}),
        image_types=frozenset(types),
        series_number=min(numbers, default=None),
        count=len(headers),
    )


def _one(values: set[str]) -> str:
    """Return the one value, or "" when they differ: what is not the same throughout is not known."""
    return next(iter(values)) if len(values) == 1 else ""


def _text(header: Dataset, keyword: str) -> str:
    item = header.get_item(keyword) if keyword in header else None
    value = None if item is None else item.value
    if isinstance(value, bytes):
        try:
            value = decode_text(value, declared(header))
        except CharsetRefused:
            return ""
    if value is None:
        return ""
    text = value if isinstance(value, str) or not hasattr(value, "__iter__") else "\\".join(str(v) for v in value)
    return str(text).strip(" \0")
