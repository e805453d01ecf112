"""The types refuse what they cannot mean, and findings come back from disk as they were, or not at all."""

from __future__ import annotations

import hashlib
import io
import json
import zipfile
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from inference.errors import CODES, FindingsCorrupt, InferenceError, VolumeInvalid
from inference.types import (
    FINDINGS_MAGIC,
    TIMING_KEYS,
    Classification,
    Detection,
    Findings,
    Measurement,
    SegmentMask,
    Volume,
)
from tests.simulators import volumes


def _findings(seed: int = 1) -> Findings:
    random = np.random.default_rng(seed)
    return Findings(
        segments=tuple(SegmentMask(n, random.random((3, 5, 7)) > 0.5) for n in (1, 2, 200)),
        measurements=(Measurement("brain_volume", 1951.3000000000002), Measurement("other", 0.1)),
        timing_ms=dict.fromkeys(sorted(TIMING_KEYS), 7),
        device="cpu",
        runtime={"torch": "2.13.0"},
    )


def _same(left: Findings, right: Findings) -> bool:
    masks = all(
        a.number == b.number and np.array_equal(a.mask, b.mask) and a.mask.dtype == b.mask.dtype
        for a, b in zip(left.segments, right.segments, strict=True)
    )
    return (
        masks
        and left.measurements == right.measurements
        and dict(left.timing_ms) == dict(right.timing_ms)
        and left.device == right.device
        and dict(left.runtime) == dict(right.runtime)
    )


def test_spacing_and_voxel_volume_come_from_the_affine() -> None:
    """Spacing is the length of the affine's columns in (slice, row, column) order, the voxel's volume their product."""
    volume = volumes.block(affine=volumes.axial((3.0, 0.5, 0.25)))
    assert volume.spacing_mm == (3.0, 0.5, 0.25)
    assert volume.voxel_mm3 == pytest.approx(0.375)
    assert volume.shape == (8, 10, 12)


def test_voxel_volume_of_a_sheared_grid_is_its_determinant() -> None:
    """A tilted gantry makes columns that are not at right angles: the volume is then less than their product."""
    affine = volumes.axial()
    affine[1, 0] = 1.0
    volume = volumes.block(affine=affine)
    assert volume.spacing_mm[0] == pytest.approx(np.sqrt(2.0))
    assert volume.voxel_mm3 == pytest.approx(1.0)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("voxels", np.zeros((2, 2), np.float32)),
        ("voxels", np.zeros((2, 2, 2), np.float64)),
        ("voxels", np.zeros((2, 0, 2), np.float32)),
        ("affine", np.eye(3)),
        ("affine", np.eye(4, dtype=np.float32)),
        ("affine", np.diag((1.0, 1.0, 0.0, 1.0))),
        ("affine", np.diag((1.0, 1.0, 1.0, 2.0))),
        ("affine", np.diag((1.0, np.nan, 1.0, 1.0))),
        ("source_digest", "sha256:" + "A" * 64),
        ("source_digest", "1" * 64),
        ("modality", ""),
        ("modality", "mr"),
    ],
)
def test_a_malformed_volume_is_refused(field: str, value: object) -> None:
    """A volume that breaks its own type is never made."""
    fields = {
        "voxels": np.zeros((2, 2, 2), np.float32),
        "affine": np.eye(4),
        "source_digest": volumes.DIGEST,
        "modality": "MR",
    }
    Volume(**fields)  # type: ignore[arg-type]
    with pytest.raises(VolumeInvalid) as caught:
        Volume(**{**fields, field: value})  # type: ignore[arg-type]
    assert caught.value.code == "VOLUME_INVALID"


@pytest.mark.parametrize(
    ("number", "mask"),
    [(0, np.zeros((1, 1, 1), bool)), (256, np.zeros((1, 1, 1), bool)), (1, np.zeros((1, 1), bool)),
     (1, np.zeros((1, 1, 1), np.uint8))],
)  # fmt: skip
def test_a_malformed_segment_is_refused(number: int, mask: np.ndarray) -> None:  # type: ignore[type-arg]
    """A segment has a number from 1 to 255 and a 3D mask of bool."""
    with pytest.raises(VolumeInvalid):
        SegmentMask(number, mask)


def test_a_segment_is_kept_as_the_smallest_box_that_holds_it() -> None:
    """The whole grid can be had; what is held is the box alone, and not the caller's array."""
    mask = np.zeros((9, 10, 11), bool)
    mask[2:4, 3, 5:8] = True
    segment = SegmentMask(1, mask)
    assert (segment.shape, segment.origin, segment.part.shape) == ((9, 10, 11), (2, 3, 5), (2, 1, 3))
    assert segment.box == (slice(2, 4), slice(3, 4), slice(5, 8))
    assert np.array_equal(segment.mask, mask)
    assert not np.shares_memory(segment.part, mask)
    again = SegmentMask(1, mask[1:5, 2:6, 4:9], (1, 2, 4), mask.shape)
    assert (again.origin, again.shape) == (segment.origin, segment.shape)
    assert np.array_equal(again.mask, mask)


def test_a_slice_of_a_segment_is_that_of_its_whole_mask() -> None:
    """Below, inside and above the box, and of an empty one."""
    mask = np.zeros((5, 6, 7), dtype=np.bool_)
    mask[2:4, 1:3, 4:] = True
    for whole in (mask, np.zeros_like(mask)):
        segment = SegmentMask(1, whole)
        assert all(np.array_equal(segment.plane(k), whole[k]) for k in range(5))


@pytest.mark.parametrize("origin", [(0, 0, 0), (1, 0, 2)])
def test_an_empty_segment_has_an_empty_box(origin: tuple[int, int, int]) -> None:
    """Nothing set is nothing held, on a grid that is known all the same."""
    segment = SegmentMask(1, np.zeros((2, 3, 4), bool), origin, (3, 3, 6))
    assert (segment.part.size, segment.mask.shape, bool(segment.mask.any())) == (0, (3, 3, 6), False)


@pytest.mark.parametrize(
    ("origin", "shape"),
    [((-1, 0, 0), (4, 4, 4)), ((3, 0, 0), (4, 4, 4)), ((0, 0, 3), (4, 4, 4)), ((0, 0, 0), (1, 4, 4))],
)
def test_a_box_outside_of_its_grid_is_refused(origin: tuple[int, int, int], shape: tuple[int, int, int]) -> None:
    """A mask that would hang over the grid's edge is never cut to fit."""
    SegmentMask(1, np.ones((2, 2, 2), bool), (2, 2, 2), (4, 4, 4))
    with pytest.raises(VolumeInvalid):
        SegmentMask(1, np.ones((2, 2, 2), bool), origin, shape)


def test_a_malformed_measurement_id_is_refused() -> None:
    """An id is a plain word: no text of a patient fits in."""
    with pytest.raises(VolumeInvalid):
        Measurement("brain volume of 测试^幻影", 1.0)


def test_arrays_are_read_only() -> None:
    """Nobody downstream can change the image or a mask by accident; the caller's own array stays writable."""
    own = np.zeros((2, 2, 2), np.float32)
    volume = Volume(own, np.eye(4), volumes.DIGEST, "MR")
    with pytest.raises(ValueError, match="read-only"):
        volume.voxels[0, 0, 0] = 1
    with pytest.raises(ValueError, match="read-only"):
        _findings().segments[0].mask[0, 0, 0] = True
    own[0, 0, 0] = 1


def test_findings_come_back_as_they_were(tmp_path: Path) -> None:
    """Save and load are exact, to the last bit of a value."""
    _findings().save(tmp_path / "findings")
    assert _same(Findings.load(tmp_path / "findings"), _findings())


def test_the_same_findings_are_the_same_bytes(tmp_path: Path) -> None:
    """A retry writes the same file, and may replace what an earlier try left."""
    _findings().save(tmp_path / "a")
    before = (tmp_path / "a").read_bytes()
    _findings(2).save(tmp_path / "a")
    assert (tmp_path / "a").read_bytes() != before
    _findings().save(tmp_path / "a")
    assert (tmp_path / "a").read_bytes() == before


def test_masks_are_stored_as_bits(tmp_path: Path) -> None:
    """A mask of a million voxels takes an eighth of a megabyte."""
    big = Findings((SegmentMask(1, np.ones((100, 100, 100), bool)),), (), {}, "cpu")
    big.save(tmp_path / "big")
    assert (tmp_path / "big").stat().st_size < 130_000


def test_a_small_segment_of_a_large_grid_takes_little(tmp_path: Path) -> None:
    """Its box alone is stored, and it comes back at its place."""
    mask = np.zeros((100, 100, 100), bool)
    mask[40:44, 50:60, 96:] = True
    small = Findings((SegmentMask(1, mask),), (), {}, "cpu")
    small.save(tmp_path / "small")
    assert (tmp_path / "small").stat().st_size < 1500
    assert np.array_equal(Findings.load(tmp_path / "small").segments[0].mask, mask)


def test_findings_that_were_kept_before_there_were_boxes_are_read(tmp_path: Path) -> None:
    """A call may have been computed by the version before and be written by this one."""
    mask = np.random.default_rng(3).random((3, 5, 7)) > 0.5
    meta = {"segments": [{"number": 1, "shape": [3, 5, 7]}], "measurements": [], "timing_ms": {}, "device": "cpu",
            "runtime": {}}  # fmt: skip
    _signed(tmp_path / "f", meta=np.frombuffer(json.dumps(meta).encode(), np.uint8), mask_1=np.packbits(mask))
    assert np.array_equal(Findings.load(tmp_path / "f").segments[0].mask, mask)


def test_every_flipped_byte_is_noticed(tmp_path: Path) -> None:
    """A findings file with any one byte changed is refused with a code."""
    path = tmp_path / "findings"
    _findings().save(path)
    good = path.read_bytes()
    for place in range(0, len(good), max(1, len(good) // 150)):
        path.write_bytes(good[:place] + bytes([good[place] ^ 1]) + good[place + 1 :])
        with pytest.raises(FindingsCorrupt) as caught:
            Findings.load(path)
        assert caught.value.code == "FINDINGS_CORRUPT"


def test_every_truncation_is_noticed(tmp_path: Path) -> None:
    """A findings file that was cut anywhere, or has something behind it, is refused with a code."""
    path = tmp_path / "findings"
    _findings().save(path)
    good = path.read_bytes()
    for length in [*range(90), *range(90, len(good), 97)]:
        path.write_bytes(good[:length])
        with pytest.raises(FindingsCorrupt):
            Findings.load(path)
    path.write_bytes(good + b"\0")
    with pytest.raises(FindingsCorrupt):
        Findings.load(path)


def _signed(path: Path, **arrays: np.ndarray) -> None:  # type: ignore[type-arg]
    """A file with a right digest over wrong content, as another version of ours might write it."""
    buffer = io.BytesIO()
    np.savez(buffer, allow_pickle=False, **arrays)
    body = buffer.getvalue()
    path.write_bytes(FINDINGS_MAGIC + hashlib.sha256(body).hexdigest().encode() + b"\n" + body)


@pytest.mark.parametrize(
    "meta",
    [
        b"not json",
        b"[]",
        b"{}",
        json.dumps({"segments": [{"number": 1, "shape": [9, 9, 9]}], "measurements": [], "timing_ms": {},
                    "device": "", "runtime": {}}).encode(),
        json.dumps({"segments": [{"number": 0, "shape": [2, 2, 2]}], "measurements": [], "timing_ms": {},
                    "device": "", "runtime": {}}).encode(),
        json.dumps({"segments": [], "measurements": [{"id": "a", "value": "x"}], "timing_ms": {},
                    "device": "", "runtime": {}}).encode(),
    ],
)  # fmt: skip
def test_content_that_makes_no_sense_is_refused(tmp_path: Path, meta: bytes) -> None:
    """A right digest is not enough: the content must be findings, or the same coded error is raised."""
    mask = np.packbits(np.ones((2, 2, 2), bool))
    _signed(tmp_path / "f", meta=np.frombuffer(meta, np.uint8), mask_1=mask, mask_0=mask)
    with pytest.raises(FindingsCorrupt):
        Findings.load(tmp_path / "f")


def test_objects_are_never_unpickled(tmp_path: Path) -> None:
    """An archive with an object array is refused before any object is made."""
    buffer = io.BytesIO()
    np.save(buffer, np.array([{}], dtype=object))
    archive = io.BytesIO()
    with zipfile.ZipFile(archive, "w") as out:
        out.writestr("meta.npy", buffer.getvalue())
    body = archive.getvalue()
    (tmp_path / "f").write_bytes(FINDINGS_MAGIC + hashlib.sha256(body).hexdigest().encode() + b"\n" + body)
    with pytest.raises(FindingsCorrupt):
        Findings.load(tmp_path / "f")


def test_a_missing_file_is_an_os_error(tmp_path: Path) -> None:
    """Absent is not corrupt: the caller computes anew."""
    with pytest.raises(FileNotFoundError):
        Findings.load(tmp_path / "none")


def _below(kind: type[InferenceError]) -> list[type[InferenceError]]:
    return [kind, *(one for sub in kind.__subclasses__() for one in _below(sub))]


def test_every_error_says_whose_fault_it_is() -> None:
    """Each error carries a code of the closed set, and a fault that the audit log knows."""
    for kind in _below(InferenceError):
        error = kind("ENGINE_DIED", "message")
        assert error.code in CODES
        assert error.fault in {"INPUT", "SITE", "MODEL", "US"}
        assert str(error) == "ENGINE_DIED: message"


_SHARE = st.floats(0.0, 1.0)
_PLACE = st.tuples(*[st.floats(-0.5, 1e4)] * 3)
_DETECTIONS = st.builds(lambda place, score: Detection("nodule", place, place, score), _PLACE, _SHARE)
_CLASSES = st.builds(Classification, st.uuids().map(str), st.sampled_from(["PRESENT", "ABSENT"]), st.none() | _SHARE)


@given(st.lists(_DETECTIONS), st.lists(_CLASSES, unique_by=lambda one: one.id))
def test_statements_come_back_to_the_last_bit(tmp_path_factory, detections, classifications) -> None:
    """Detections and classifications are on disk what they were in memory."""
    path = tmp_path_factory.mktemp("findings") / "findings"
    made = Findings((), (), {}, "cpu", {}, tuple(detections), tuple(classifications))
    made.save(path)
    back = Findings.load(path)
    assert (back.detections, back.classifications, back.inconclusive) == (made.detections, made.classifications, None)


SEGMENT = SegmentMask(1, np.ones((1, 1, 1), np.bool_))
EMPTY = SegmentMask(1, np.zeros((1, 1, 1), np.bool_))
POINT = Detection("nodule", (0.0, 0.0, 0.0), (0.0, 0.0, 0.0), 1.0)
PRESENT, ABSENT, UNSURE = (Classification(said, said) for said in ("PRESENT", "ABSENT", "UNDETERMINED"))


@pytest.mark.parametrize(
    ("segments", "detections", "classifications", "outcome"),
    [
        ((SEGMENT,), (), (), "FINDINGS"),
        ((EMPTY, SEGMENT), (), (ABSENT,), "FINDINGS"),
        ((), (POINT,), (), "FINDINGS"),
        ((), (), (ABSENT, PRESENT), "FINDINGS"),
        ((EMPTY,), (), (ABSENT, UNSURE), "NO_FINDINGS"),
        ((), (), (), "NO_FINDINGS"),
    ],
)
def test_what_came_of_it(segments, detections, classifications, outcome: str) -> None:
    """Anything that is there is a finding, whatever else is not; a number alone is none."""
    numbers = (Measurement("brain_volume", 0.0),)
    made = Findings(segments, numbers, {}, "cpu", {}, detections, classifications)
    assert made.outcome == outcome


def test_who_could_say_nothing_has_not_found_nothing() -> None:
    """An inconclusive run is not one without findings."""
    assert Findings((), (), {}, "cpu", {}, (), (UNSURE,), "LOW_QUALITY").outcome == "INCONCLUSIVE"


def test_an_inconclusive_whole_comes_back_and_finds_nothing(tmp_path: Path) -> None:
    """A reason is kept; beside it there is no finding, and no class is decided."""
    unsure = (Classification("effusion", "UNDETERMINED"),)
    made = Findings((), (), {}, "cpu", {}, (), unsure, "LOW_QUALITY")
    made.save(tmp_path / "x")
    assert Findings.load(tmp_path / "x").inconclusive == "LOW_QUALITY"
    point = Detection("nodule", (0.0, 0.0, 0.0), (0.0, 0.0, 0.0), 1.0)
    for detections, classes, reason in (
        ((point,), (), "X"), ((), (Classification("effusion", "ABSENT"),), "X"), ((), (), "in words"),
        ((), unsure * 2, None),
    ):  # fmt: skip
        with pytest.raises(VolumeInvalid):
            Findings((), (), {}, "cpu", {}, detections, classes, reason)


@pytest.mark.parametrize(
    ("low", "high", "score"),
    [((0, 0, 0), (0, 0, 1), 0.5), ((0, 0, 0), (0, 1, 0), 0.5), ((2, 0, 0), (1, 1, 1), 0.5), ((0, 0, 0), (1, 1, 1), 1.1),
     ((0, 0, float("nan")), (1, 1, 1), 0.5), ((0, 0, 0), (1, 1, 1), float("nan"))],
)  # fmt: skip
def test_a_malformed_detection_is_refused(low, high, score) -> None:
    """A detection is a box with an area, or a point; its score is from 0 to 1."""
    with pytest.raises(VolumeInvalid):
        Detection("nodule", low, high, score)
