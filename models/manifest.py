"""What a model is for, what it may be fed, what its labels and numbers mean, and within which limits. Strictly parsed.

manifest.json lies in the model's folder and is covered by the model's digest, so that an approval binds every word of
it. Unknown keys, missing keys and values out of bounds are refused: a manifest that we do not wholly understand may
hold a limit that we would not keep.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Final

from models.codes import AUTONOMY_LEVELS, MATRIX_MAX, ORIENTATIONS, Code, Range, is_part
from models.errors import ManifestError, RefInvalid
from models.ref import ModelRef, is_member_path
from models.statements import ClassificationSpec as ClassificationSpec
from models.statements import DetectionSpec as DetectionSpec
from models.statements import read_classification, read_detection
from models.strict import Fields, Malformed, parse_json

SCHEMA: Final = "zhiying.model/1"
MANIFEST_NAME: Final = "manifest.json"
LANGUAGES: Final = ("en", "zh")
SITE_TEXT_MAX: Final = 1024
"""Characters of intended use and limits: VR UT would hold more, but a radiologist must be able to read it."""
DEADLINE_S_MAX: Final = 3600
"""No study of a hospital in service can wait longer than an hour for one model."""
LABEL_MAX: Final = 64
"""Characters of Segment Label (0062,0005), VR LO."""

_DIGEST_OF_NOTHING: Final = "sha256:" + "0" * 64
_CS: Final = re.compile(r"[A-Z0-9_][A-Z0-9_ ]{0,15}")  # VR CS, PS3.5 section 6.2
_UID: Final = re.compile(r"(0|[1-9][0-9]*)(\.(0|[1-9][0-9]*))+")  # PS3.5 section 9.1
_INPUT_KEYS: Final = (
    "modality", "sop_classes", "body_part", "description_any", "image_type_excludes", "slices", "slice_spacing_mm",
    "pixel_spacing_mm", "fov_mm",
)  # fmt: skip
_INPUT_OPTIONAL: Final = (
    "image_type_includes", "protocol_any", "matrix", "orientation", "contrast", "part", "lossy",
)  # fmt: skip
_KEYS: Final = (
    "schema", "name", "version", "title", "vendor", "licence", "intended_use", "limits_text", "algorithm_family",
    "input", "segments", "measurements", "bundle", "deadline_s", "max_autonomy",
)  # fmt: skip
_OPTIONAL: Final = ("detections", "classifications", "heat_maps", "partial")


@dataclass(frozen=True, slots=True)
class InputContract:
    """Which series the model is made for; everything outside is refused.

    Attributes:
        modality, sop_classes, body_part, image_type_excludes: values as DICOM writes them, upper case.
        description_any: the series description must contain one of these, case ignored; empty means any description.
        slices: number of slices. slice_spacing_mm: distance of slice centres. pixel_spacing_mm: both in-plane spacings.
        fov_mm: smallest and largest edge of the volume.

    The others need not be given; without one, its question is not asked:
        image_type_includes: each image has one of these values. A model for localizers, reformatted, projected or
            derived images names their value here: others never see them.
        protocol_any: as description_any, of the protocol's name (0018,1030).
        rows, columns (key "matrix"): size of a slice in pixels.
        orientation: of the slices, see ORIENTATIONS.
        contrast: whether a contrast agent must be named (true) or must not be (false).
        part: which volume of a series that holds several, see `is_part`.
        lossy: false where pixels compressed with loss are refused.
    """

    modality: tuple[str, ...]
    sop_classes: tuple[str, ...]
    body_part: tuple[str, ...]
    description_any: tuple[str, ...]
    image_type_excludes: tuple[str, ...]
    slices: Range
    slice_spacing_mm: Range
    pixel_spacing_mm: Range
    fov_mm: Range
    image_type_includes: tuple[str, ...] = ()
    protocol_any: tuple[str, ...] = ()
    rows: Range | None = None
    columns: Range | None = None
    orientation: tuple[str, ...] = ()
    contrast: bool | None = None
    part: str | None = None
    lossy: bool = True


@dataclass(frozen=True, slots=True)
class SegmentSpec:
    """One label of the output: Segment Sequence (0062,0002), PS3.3 section C.8.20.4.

    Attributes:
        number: from 1, without gaps.
        category, type: CID 7150 and the segment's own concept.
        colour_lab: Recommended Display CIELab Value (0062,000D), three unsigned 16-bit numbers, PS3.3 C.10.7.1.1.
        border: "refuse" if a mask that touches the volume's border is implausible, else "allow".
    """

    number: int
    label: str
    category: Code
    type: Code
    colour_lab: tuple[int, int, int]
    border: str


@dataclass(frozen=True, slots=True)
class MeasurementSpec:
    """One number of the output: which concept, unit, site and method, of which segment, and what is believable.

    A number is always of a segment. One of the whole study would reach no place in the images, and viewers fail on a
    report with such a number; a place made up for it would be a lie.
    """

    id: str
    concept: Code
    unit: Code
    segment: int
    kind: str
    decimals: int
    plausible: Range
    site: Code
    method: Code | None


@dataclass(frozen=True, slots=True)
class HeatMapSpec:
    """A map of how much the model sees of one thing in each voxel; `calibrated`: as a probability that it is there.

    label, category, type, colour_lab: as of a segment.
    """

    id: str
    label: str
    category: Code
    type: Code
    colour_lab: tuple[int, int, int]
    calibrated: bool


@dataclass(frozen=True, slots=True)
class BundleSpec:
    """Where in the model's folder the MONAI bundle's two configurations lie (relative paths)."""

    inference: str
    metadata: str


@dataclass(frozen=True, slots=True)
class Manifest:
    """All of manifest.json. Texts are by language ("en", "zh"); `deadline_s` in seconds for one whole run.

    `detections`, `classifications`, `heat_maps` need not be given; with one of the first two, `segments` may be empty.
    `partial`: "allow" if the outputs that pass their checks may be released without those that do not; "refuse", as
    where nothing is said, withholds all of them.
    """

    name: str
    version: str
    title: Mapping[str, str]
    vendor: str
    licence: str
    intended_use: Mapping[str, str]
    limits_text: Mapping[str, str]
    algorithm_family: Code
    input: InputContract
    segments: tuple[SegmentSpec, ...]
    measurements: tuple[MeasurementSpec, ...]
    bundle: BundleSpec
    deadline_s: int
    max_autonomy: str
    detections: tuple[DetectionSpec, ...] = ()
    classifications: tuple[ClassificationSpec, ...] = ()
    heat_maps: tuple[HeatMapSpec, ...] = ()
    partial: str = "refuse"


def parse_manifest(data: bytes) -> Manifest:
    """The manifest in `data` (UTF-8 JSON). Raises ManifestError, which names the key at fault."""
    try:
        return _manifest(Fields(parse_json(data), "", _KEYS, _OPTIONAL))
    except Malformed as wrong:
        raise ManifestError(wrong.where, wrong.what) from None


def read_manifest(path: Path) -> Manifest:
    """The manifest in the file `path`. Raises ManifestError; OSError if it cannot be read."""
    return parse_manifest(path.read_bytes())


def _manifest(top: Fields) -> Manifest:
    top.choice("schema", (SCHEMA,))
    name, version = top.text("name"), top.text("version")
    try:
        ModelRef(name, version, _DIGEST_OF_NOTHING)
    except RefInvalid as wrong:
        raise Malformed("name", str(wrong)) from None
    detections = top.items("detections", read_detection) if top.has("detections") else ()
    classifications = top.items("classifications", read_classification) if top.has("classifications") else ()
    heat_maps = top.items("heat_maps", _heat_map) if top.has("heat_maps") else ()
    segments = top.items("segments", _segment, fewest=0 if detections or classifications else 1, most=255)
    if [segment.number for segment in segments] != list(range(1, len(segments) + 1)):
        raise Malformed("segments", "numbers from 1 without gaps wanted")
    measurements = top.items("measurements", _measurement, fewest=0)
    for place, measurement in enumerate(measurements):
        if measurement.segment > len(segments):
            raise Malformed(f"measurements[{place}].segment", "no such segment")
        if measurement.id in {other.id for other in measurements[:place]}:
            raise Malformed(f"measurements[{place}].id", "given twice")
    _stated_once(segments, detections, classifications)
    if len({one.id for one in heat_maps}) != len(heat_maps):
        raise Malformed("heat_maps", "an id is given twice")
    return Manifest(
        name=name,
        version=version,
        title=_by_language(top, "title", 128),
        vendor=top.text("vendor", longest=64),
        licence=top.text("licence", longest=64),
        intended_use=_by_language(top, "intended_use", SITE_TEXT_MAX),
        limits_text=_by_language(top, "limits_text", SITE_TEXT_MAX),
        algorithm_family=top.code("algorithm_family"),
        input=_input(top),
        segments=segments,
        measurements=measurements,
        bundle=_bundle(top),
        deadline_s=top.integer("deadline_s", 1, DEADLINE_S_MAX),
        max_autonomy=top.choice("max_autonomy", AUTONOMY_LEVELS),
        detections=detections,
        classifications=classifications,
        heat_maps=heat_maps,
        partial=top.choice("partial", ("allow", "refuse")) if top.has("partial") else "refuse",
    )


def _stated_once(
    segments: tuple[SegmentSpec, ...],
    detections: tuple[DetectionSpec, ...],
    classifications: tuple[ClassificationSpec, ...],
) -> None:
    """One report must not say of one thing that it is there and that it is not."""
    ids: set[str] = set()
    for place, detection in enumerate(detections):
        if detection.id in ids:
            raise Malformed(f"detections[{place}].id", "given twice")
        ids.add(detection.id)
    told = {segment.type for segment in segments} | {detection.concept for detection in detections}
    for place, one in enumerate(classifications):
        if one.id in ids:
            raise Malformed(f"classifications[{place}].id", "given twice")
        if one.concept in told:
            raise Malformed(f"classifications[{place}].concept", "another part of the manifest speaks of it")
        ids.add(one.id)
        told.add(one.concept)


def _by_language(top: Fields, key: str, longest: int) -> Mapping[str, str]:
    inner = top.fields(key, LANGUAGES)
    return MappingProxyType({language: inner.text(language, longest=longest) for language in LANGUAGES})


def _input(top: Fields) -> InputContract:
    inner = top.fields("input", _INPUT_KEYS, _INPUT_OPTIONAL)
    matrix = inner.fields("matrix", ("rows", "columns")) if inner.has("matrix") else None
    part = inner.text("part") if inner.has("part") else None
    if part is not None and not is_part(part):
        raise Malformed(inner.path("part"), "first, last or KEY=VALUE wanted")
    return InputContract(
        modality=_matching(inner, "modality", _CS, "a DICOM code string"),
        sop_classes=_matching(inner, "sop_classes", _UID, "a UID"),
        body_part=_matching(inner, "body_part", _CS, "a DICOM code string"),
        description_any=inner.texts("description_any", fewest=0),
        image_type_excludes=_matching(inner, "image_type_excludes", _CS, "a DICOM code string", fewest=0),
        slices=inner.range("slices", 1, 10_000, whole=True),
        slice_spacing_mm=inner.range("slice_spacing_mm", 0.01, 100.0),
        pixel_spacing_mm=inner.range("pixel_spacing_mm", 0.01, 100.0),
        fov_mm=inner.range("fov_mm", 1.0, 5_000.0),
        image_type_includes=(
            _matching(inner, "image_type_includes", _CS, "a DICOM code string")
            if inner.has("image_type_includes")
            else ()
        ),
        protocol_any=inner.texts("protocol_any") if inner.has("protocol_any") else (),
        rows=None if matrix is None else matrix.range("rows", 1, MATRIX_MAX, whole=True),
        columns=None if matrix is None else matrix.range("columns", 1, MATRIX_MAX, whole=True),
        orientation=inner.choices("orientation", ORIENTATIONS) if inner.has("orientation") else (),
        contrast=inner.boolean("contrast") if inner.has("contrast") else None,
        part=part,
        lossy=inner.boolean("lossy") if inner.has("lossy") else True,
    )


def _matching(inner: Fields, key: str, pattern: re.Pattern[str], wanted: str, *, fewest: int = 1) -> tuple[str, ...]:
    found = inner.texts(key, fewest=fewest)
    for place, text in enumerate(found):
        if not pattern.fullmatch(text):
            raise Malformed(f"{inner.path(key)}[{place}]", f"{wanted} wanted")
    return found


def _segment(value: object, path: str) -> SegmentSpec:
    one = Fields(value, path, SegmentSpec.__slots__)
    return SegmentSpec(
        number=one.integer("number", 1, 255),
        label=one.text("label", longest=LABEL_MAX),
        category=one.code("category"),
        type=one.code("type"),
        colour_lab=one.colour("colour_lab"),
        border=one.choice("border", ("refuse", "allow")),
    )


def _measurement(value: object, path: str) -> MeasurementSpec:
    one = Fields(value, path, MeasurementSpec.__slots__)
    kind, unit = one.choice("kind", ("volume_cm3",)), one.code("unit")
    # The number is computed in the unit that `kind` names; another unit beside it would be a lie in the report.
    if (unit.value, unit.scheme) != ("cm3", "UCUM"):
        raise Malformed(one.path("unit"), "cm3 (UCUM) wanted for volume_cm3")
    return MeasurementSpec(
        id=one.word("id"),
        concept=one.code("concept"),
        unit=unit,
        segment=one.integer("segment", 1, 255),
        kind=kind,
        decimals=one.integer("decimals", 0, 6),
        plausible=one.range("plausible", 0.0, 1e6),
        site=one.code("site"),
        method=None if one.value("method") is None else one.code("method"),
    )


def _heat_map(value: object, path: str) -> HeatMapSpec:
    one = Fields(value, path, HeatMapSpec.__slots__)
    return HeatMapSpec(
        id=one.word("id"),
        label=one.text("label", longest=LABEL_MAX),
        category=one.code("category"),
        type=one.code("type"),
        colour_lab=one.colour("colour_lab"),
        calibrated=one.boolean("calibrated"),
    )


def _bundle(top: Fields) -> BundleSpec:
    inner = top.fields("bundle", BundleSpec.__slots__)
    for key in BundleSpec.__slots__:
        if not is_member_path(inner.text(key)):
            raise Malformed(inner.path(key), "a relative path inside the model wanted")
    return BundleSpec(inference=inner.text("inference"), metadata=inner.text("metadata"))
