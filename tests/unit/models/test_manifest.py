"""The manifest: parsed to the last key, or refused with the key's name."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from models.codes import AUTONOMY_LEVELS, Code, Range
from models.errors import ManifestError
from models.manifest import parse_manifest, read_manifest
from models.pull import CARDS, cards
from tests.simulators.small_model import as_json, manifest_fields


def paths(value: Any, path: tuple[str | int, ...] = ()) -> Iterator[tuple[str | int, ...]]:
    """The path of every value inside a JSON document, its root left out."""
    inner = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, item in inner:
        yield (*path, key)
        yield from paths(item, (*path, key))


def parent(document: Any, path: tuple[str | int, ...]) -> Any:
    """The object or list that holds the value at `path`."""
    for key in path[:-1]:
        document = document[key]
    return document


def shown(path: tuple[str | int, ...]) -> str:
    """A path as messages write it: a.b[0].c."""
    return "".join(f"[{key}]" if isinstance(key, int) else f".{key}" for key in path).removeprefix(".")


def refused_at(document: Any) -> str:
    """The key at which `document` is refused."""
    with pytest.raises(ManifestError) as caught:
        parse_manifest(as_json(document))
    assert caught.value.code == "MANIFEST_INVALID"
    assert caught.value.where in str(caught.value)
    return caught.value.where


EVERY_PATH = list(paths(manifest_fields()))
OBJECTS = [(), *(path for path in EVERY_PATH if isinstance(parent(manifest_fields(), path)[path[-1]], dict))]


def test_a_manifest_is_read_as_written() -> None:
    """Every value of the document stands in the manifest."""
    manifest = parse_manifest(as_json(manifest_fields()))
    assert (manifest.name, manifest.version, manifest.vendor) == ("small-model", "1.0", "TEST Vendor")
    assert dict(manifest.title) == {"en": "Small model", "zh": "小模型"}
    assert dict(manifest.limits_text) == {"en": "Knows nothing.", "zh": "一无所知。"}
    assert manifest.algorithm_family == Code("123110", "DCM", "Artificial Intelligence")
    assert manifest.input.slices == Range(3, 400)
    assert manifest.input.slice_spacing_mm == Range(0.5, 2.0)
    assert manifest.input.body_part == ("BRAIN", "HEAD")
    (segment,), (measurement,) = manifest.segments, manifest.measurements
    assert (segment.number, segment.label, segment.colour_lab) == (1, "Brain", (63660, 27356, 57178))
    assert (segment.border, segment.type) == ("refuse", Code("12738006", "SCT", "Brain"))
    assert (measurement.id, measurement.kind, measurement.decimals) == ("brain_volume", "volume_cm3", 1)
    assert (measurement.plausible, measurement.method) == (Range(600.0, 2400.0), None)
    assert manifest.bundle.inference == "configs/inference.json"
    assert (manifest.deadline_s, manifest.max_autonomy) == (30, "A2")


@pytest.mark.parametrize("path", [path for path in EVERY_PATH if isinstance(path[-1], str)], ids=shown)
def test_every_key_is_wanted(path: tuple[str | int, ...]) -> None:
    """Whichever key is dropped, the manifest is refused by its name."""
    document = manifest_fields()
    del parent(document, path)[path[-1]]
    assert refused_at(document) == shown(path)


@pytest.mark.parametrize("path", OBJECTS, ids=shown)
def test_no_other_key_is_known(path: tuple[str | int, ...]) -> None:
    """Wherever a key is added, the manifest is refused by its name."""
    document = manifest_fields()
    parent(document, (*path, "extra"))["extra"] = 1
    assert refused_at(document) == shown((*path, "extra"))


@settings(deadline=None)
@given(
    path=st.sampled_from([path for path in EVERY_PATH if isinstance(path[-1], str)]),
    letter=st.characters(codec="utf-8"),
    place=st.integers(0, 40),
)
def test_no_key_is_known_by_another_writing(path: tuple[str | int, ...], letter: str, place: int) -> None:
    """However a key is altered, by one character more anywhere, the manifest is refused."""
    document = manifest_fields()
    holder = parent(document, path)
    key = str(path[-1])
    holder[key[:place] + letter + key[place:]] = holder.pop(key)
    assert refused_at(document)


WRONG_KINDS = [None, True, False, "", " x", "x\n", -1, 1e300, {}, [], [None], {"x": 1}]


@settings(deadline=None)
@given(path=st.sampled_from(EVERY_PATH), value=st.sampled_from(WRONG_KINDS))
def test_every_value_has_its_kind(path: tuple[str | int, ...], value: Any) -> None:
    """Whichever value is replaced by one of another kind, the manifest is refused, but for what may be empty."""
    may_be_empty = {("input", "description_any"), ("input", "image_type_excludes"), ("measurements",)}
    if (path in may_be_empty and value == []) or (path[-1] == "method" and value is None):
        return
    document = manifest_fields()
    parent(document, path)[path[-1]] = value
    where = refused_at(document)
    assert where.startswith(shown(path)) or shown(path).startswith(where)


def changed(path: tuple[str | int, ...], value: object) -> Any:
    """The small manifest with `value` at `path`."""
    document = manifest_fields()
    parent(document, path)[path[-1]] = value
    return document


@pytest.mark.parametrize(
    ("path", "value"),
    [
        (("schema",), "zhiying.model/2"), (("name",), "../x"), (("vendor",), "x" * 65), (("deadline_s",), 0),
        (("deadline_s",), 3601), (("deadline_s",), 1.5), (("max_autonomy",), "A5"), (("max_autonomy",), "a1"),
        (("input", "modality"), ["mr"]), (("input", "modality"), []), (("input", "modality"), ["MR", "MR"]),
        (("input", "sop_classes"), ["1.2.03"]), (("input", "sop_classes"), ["MR Image Storage"]),
        (("input", "slices"), [3.5, 9]), (("input", "slices"), [9, 3]), (("input", "slices"), [0, 3]),
        (("input", "slice_spacing_mm"), [0, 1]), (("input", "slice_spacing_mm"), [1]),
        (("input", "slice_spacing_mm"), ["0.5", "2"]), (("input", "fov_mm"), [1, 2, 3]),
        (("segments", 0, "number"), 2), (("segments", 0, "border"), "maybe"), (("segments",), []),
        (("segments", 0, "colour_lab"), [1, 2]), (("segments", 0, "colour_lab"), [1, 2, 65536]),
        (("segments", 0, "label"), "x" * 65), (("segments", 0, "type", "value"), "12738007"),
        (("measurements", 0, "segment"), 2), (("measurements", 0, "kind"), "volume_mm3"),
        (("measurements", 0, "unit", "value"), "mm3"), (("measurements", 0, "id"), "Brain Volume"),
        (("measurements", 0, "decimals"), 7), (("measurements", 0, "plausible"), [2400, 600]),
        (("bundle", "inference"), "../inference.json"), (("bundle", "metadata"), "/etc/metadata.json"),
    ],
)  # fmt: skip
def test_every_value_has_its_bounds(path: tuple[str | int, ...], value: object) -> None:
    """Values out of bounds are refused by the name of their key."""
    where = refused_at(changed(path, value))
    assert where.startswith(shown(path[:1]))


def test_segment_numbers_have_no_gaps_and_measurements_no_twins() -> None:
    """Segments count from 1 (PS3.3 C.8.20.2), and an id names one measurement."""
    one, two = manifest_fields()["segments"][0], manifest_fields()["segments"][0] | {"number": 3}
    assert refused_at(manifest_fields(segments=[one, two])) == "segments"
    measurement = manifest_fields()["measurements"][0]
    assert refused_at(manifest_fields(measurements=[measurement, measurement])) == "measurements[1].id"


@pytest.mark.parametrize("data", [b"", b"[]", b"null", b"\xef\xbb\xbf{}", b"{}" * 2, as_json(manifest_fields())[:-1]])
def test_what_is_no_manifest_is_refused(data: bytes) -> None:
    """Bytes that are no JSON object are refused as the document."""
    with pytest.raises(ManifestError):
        parse_manifest(data)


@settings(deadline=None)
@given(st.binary(max_size=64))
def test_no_bytes_crash_the_parser(data: bytes) -> None:
    """Whatever the bytes, the answer is a manifest or a coded refusal."""
    with pytest.raises(ManifestError):
        parse_manifest(data)


@pytest.mark.parametrize("card", cards())
def test_our_cards_are_manifests(card: str) -> None:
    """Every card that we ship parses, and lies in the folder of its name."""
    manifest = read_manifest(CARDS / card / "manifest.json")
    assert manifest.name == card
    assert manifest.max_autonomy in AUTONOMY_LEVELS[:3]
    for path in (manifest.bundle.inference, manifest.bundle.metadata):
        assert (CARDS / card / path).is_file()


def test_the_brain_card_says_what_it_must() -> None:
    """The brain model's card bounds what it takes and what it may say."""
    manifest = read_manifest(CARDS / "brain-extraction-t1" / "manifest.json")
    assert manifest.input.modality == ("MR",)
    assert manifest.input.sop_classes == ("1.2.840.10008.5.1.4.1.1.4",)
    assert manifest.input.slices == Range(60, 400)
    assert not manifest.input.slices.contains(5)
    assert not manifest.input.slice_spacing_mm.contains(5.0)
    assert manifest.segments[0].type == Code("12738006", "SCT", "Brain")
    assert manifest.segments[0].border == "refuse"
    assert manifest.measurements[0].plausible == Range(600, 2400)
    assert (manifest.deadline_s, manifest.max_autonomy) == (120, "A2")


def test_cards_hold_no_weights() -> None:
    """Cards are small: weights are pulled, never shipped."""
    assert sum(path.stat().st_size for path in Path(CARDS).rglob("*") if path.is_file()) < 200_000


# -- keys of the input contract that need not be given

OPTIONAL: dict[str, Any] = {
    "image_type_includes": ["ORIGINAL"],
    "protocol_any": ["头颅", "head"],
    "matrix": {"rows": [128, 512], "columns": [128, 1024]},
    "orientation": ["AXIAL", "SAGITTAL"],
    "contrast": False,
    "part": "B_VALUE=0",
    "lossy": False,
}


def with_input(**keys: Any) -> dict[str, Any]:
    """A manifest whose input contract has these keys too."""
    document = manifest_fields()
    document["input"] = {**document["input"], **keys}
    return document


def test_optional_keys_are_read_as_written() -> None:
    """All of them together."""
    contract = parse_manifest(as_json(with_input(**OPTIONAL))).input
    assert contract.image_type_includes == ("ORIGINAL",)
    assert contract.protocol_any == ("头颅", "head")
    assert (contract.rows, contract.columns) == (Range(128, 512), Range(128, 1024))
    assert contract.orientation == ("AXIAL", "SAGITTAL")
    assert (contract.contrast, contract.part, contract.lossy) == (False, "B_VALUE=0", False)


def test_a_manifest_without_them_asks_nothing_more_than_before() -> None:
    """What was approved before they existed means what it meant."""
    contract = parse_manifest(as_json(manifest_fields())).input
    assert (contract.image_type_includes, contract.protocol_any, contract.orientation) == ((), (), ())
    assert (contract.rows, contract.columns, contract.contrast, contract.part) == (None, None, None, None)
    assert contract.lossy


@pytest.mark.parametrize("key", OPTIONAL)
def test_each_optional_key_may_stand_alone(key: str) -> None:
    """None needs another."""
    parse_manifest(as_json(with_input(**{key: OPTIONAL[key]})))


@pytest.mark.parametrize(
    ("key", "value", "where"),
    [
        ("image_type_includes", [], "input.image_type_includes"),
        ("image_type_includes", ["original"], "input.image_type_includes[0]"),
        ("protocol_any", [], "input.protocol_any"),
        ("protocol_any", ["x", "x"], "input.protocol_any"),
        ("matrix", {"rows": [1, 2]}, "input.matrix.columns"),
        ("matrix", {"rows": [1, 2], "columns": [1, 2], "frames": [1, 2]}, "input.matrix.frames"),
        ("matrix", {"rows": [0, 2], "columns": [1, 2]}, "input.matrix.rows"),
        ("matrix", {"rows": [1, 2], "columns": [1, 65_536]}, "input.matrix.columns"),
        ("matrix", {"rows": [1.5, 2], "columns": [1, 2]}, "input.matrix.rows"),
        ("matrix", [1, 2], "input.matrix"),
        ("orientation", [], "input.orientation"),
        ("orientation", ["UP"], "input.orientation[0]"),
        ("orientation", ["AXIAL", "AXIAL"], "input.orientation"),
        ("contrast", "yes", "input.contrast"),
        ("contrast", 1, "input.contrast"),
        ("contrast", None, "input.contrast"),
        ("part", "second", "input.part"),
        ("part", "b=0", "input.part"),
        ("part", "B_VALUE=", "input.part"),
        ("part", 1, "input.part"),
        ("lossy", "no", "input.lossy"),
        ("lossless", True, "input.lossless"),
    ],
)
def test_an_optional_key_is_as_strict_as_any(key: str, value: Any, where: str) -> None:
    """Refused with its path: a limit that is not understood would not be kept."""
    assert refused_at(with_input(**{key: value})) == where


DETECTION = {
    "id": "nodule", "concept": {"value": "27925004", "scheme": "SCT", "meaning": "Nodule"},
    "category": {"value": "49755003", "scheme": "SCT", "meaning": "Morphologically Abnormal Structure"},
    "site": {"value": "39607008", "scheme": "SCT", "meaning": "Lung"}, "calibrated": True, "threshold": 0.5,
}  # fmt: skip
CLASS = {"id": "effusion", "concept": {"value": "60046008", "scheme": "SCT", "meaning": "Pleural effusion"},
         "calibrated": False, "absent_below": 0.25, "present_from": 0.5}  # fmt: skip


def test_a_model_may_detect_or_classify_instead_of_drawing() -> None:
    """With detections or classifications there need be no segment; without them there must be one."""
    nothing: Any = {"segments": [], "measurements": []}
    both = parse_manifest(as_json(manifest_fields(**nothing, detections=[DETECTION], classifications=[CLASS])))
    assert (both.segments, both.detections[0].threshold, both.detections[0].calibrated) == ((), 0.5, True)
    (said,) = both.classifications
    assert (said.id, said.calibrated, said.absent_below, said.present_from) == ("effusion", False, 0.25, 0.5)
    assert refused_at(manifest_fields(**nothing)) == "segments"


@pytest.mark.parametrize(
    ("where", "changes"),
    [
        ("detections", {"detections": []}),
        ("detections[0].threshold", {"detections": [DETECTION | {"threshold": 1.01}]}),
        ("detections[0].extra", {"detections": [DETECTION | {"extra": 1}]}),
        ("detections[1].id", {"detections": [DETECTION, DETECTION]}),
        ("classifications[0].calibrated", {"classifications": [CLASS | {"calibrated": 1}]}),
        ("classifications[0].threshold", {"classifications": [CLASS | {"threshold": 0.5}]}),
        ("classifications[0].absent_below", {"classifications": [CLASS | {"absent_below": -0.01}]}),
        ("classifications[0].absent_below", {"classifications": [CLASS | {"absent_below": None}]}),
        ("classifications[0].absent_below", {"classifications": [CLASS | {"absent_below": "0.25"}]}),
        ("classifications[0].absent_below", {"classifications": [{k: CLASS[k] for k in CLASS if k != "absent_below"}]}),
        ("classifications[0].present_from", {"classifications": [{k: CLASS[k] for k in CLASS if k != "present_from"}]}),
        ("classifications[0].present_from", {"classifications": [CLASS | {"present_from": 1.01}]}),
        ("classifications[0].present_from", {"classifications": [CLASS | {"present_from": True}]}),
        ("classifications[0].present_from", {"classifications": [CLASS | {"present_from": 0.2499}]}),
        ("classifications[0].present_from", {"classifications": [CLASS | {"absent_below": 0.0, "present_from": 0.0}]}),
        ("classifications[0].id", {"classifications": [CLASS | {"id": "nodule"}], "detections": [DETECTION]}),
        ("classifications[0].concept", {"classifications": [CLASS | {"concept": DETECTION["concept"]}],
                                        "detections": [DETECTION]}),
    ],
)  # fmt: skip
def test_detections_and_classifications_are_strictly_read(where: str, changes: Any) -> None:
    """Unknown keys, double names, values out of bounds and a target spoken of twice are refused by their key."""
    assert refused_at(manifest_fields(**changes)) == where


@pytest.mark.parametrize("number", ["NaN", "Infinity", "-Infinity", "1e999"])
def test_a_bound_of_a_classification_is_a_number(number: str) -> None:
    """What JSON does not know, and what no float holds, is no bound."""
    text = as_json(manifest_fields(classifications=[CLASS])).replace(b"0.25", number.encode())
    with pytest.raises(ManifestError):
        parse_manifest(text)


@given(st.floats(0.0, 1.0), st.floats(0.0, 1.0))
def test_bounds_of_a_classification_are_ordered(absent_below: float, present_from: float) -> None:
    """Any two in order, the equal ones too, are read as written; others are refused, as is that all is PRESENT."""
    one = CLASS | {"absent_below": absent_below, "present_from": present_from}
    document = manifest_fields(classifications=[one])
    if present_from > 0.0 and absent_below <= present_from:
        (said,) = parse_manifest(as_json(document)).classifications
        assert (said.absent_below, said.present_from) == (absent_below, present_from)
    else:
        assert refused_at(document) == "classifications[0].present_from"


def test_all_outputs_or_none_unless_the_manifest_says_so() -> None:
    """By default, and where it says "refuse"; any other word is refused."""
    assert parse_manifest(as_json(manifest_fields())).partial == "refuse"
    for said in ("refuse", "allow"):
        assert parse_manifest(as_json(manifest_fields(partial=said))).partial == said
    for wrong in ("Allow", "", True, None, ["allow"]):
        with pytest.raises(ManifestError) as refused:
            parse_manifest(as_json(manifest_fields(partial=wrong)))
        assert refused.value.where == "partial"
