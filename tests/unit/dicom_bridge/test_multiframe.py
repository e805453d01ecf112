"""Enhanced multi-frame CT and MR: valid objects in, the same volumes as from single images, frames named in results."""

from __future__ import annotations

import io
import tempfile
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import highdicom as hd
import numpy as np
import pydicom
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydicom.dataset import Dataset
from pydicom.sequence import Sequence as Items
from pydicom.uid import (
    DeflatedExplicitVRLittleEndian,
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
    JPEGLSLossless,
    RLELossless,
)

from dicom_bridge.candidates import read_series
from dicom_bridge.errors import VolumeRefused
from dicom_bridge.report import write_sr
from dicom_bridge.rules import SeriesSummary
from dicom_bridge.validity import OutputInvalid, check_report, check_segmentation
from dicom_bridge.volume import FrameRef, LoadedSeries, load
from tests.simulators import findings as phantom
from tests.simulators import validators
from tests.simulators.enhanced import content, item, make_enhanced, make_legacy
from tests.simulators.series import AXIAL, SAGITTAL, write_file
from tests.simulators.written import write_seg

DIGEST = "sha256:" + "0" * 64
MODALITIES = ("MR", "CT")
OBLIQUE = (0.9659258263, 0.2588190451, 0.0, -0.2241438680, 0.8365163037, 0.5)
Change = Callable[[Dataset], None]


def seen(paths: list[Path]) -> list[tuple[str, str, int]]:
    """Return (volume's name, refusal, frames) of each volume."""
    found: tuple[SeriesSummary, ...] = read_series(paths, {}, {}).summaries
    return [(one.label, one.refused, one.count) for one in found]


def refusal(path: Path) -> str:
    """Return why it is not loaded."""
    with pytest.raises(VolumeRefused) as refused:
        load([path], DIGEST)
    return refused.value.code


def each(*changes: Change, frames: int = 6) -> Callable[[int, Dataset], None]:
    """Return a change of frame n by `changes[n // frames]`."""
    return lambda n, groups: changes[n // frames](groups)


# -- what is loaded


@pytest.mark.parametrize("modality", MODALITIES)
@pytest.mark.parametrize("make", [lambda m: make_enhanced(modality=m), make_legacy], ids=["enhanced", "converted"])
def test_the_objects_of_these_tests_are_valid(tmp_path: Path, modality: str, make: Callable[[str], Dataset]) -> None:
    """By dciodvfy: what is loaded here is what the standard means."""
    assert validators.dciodvfy(write_file(make(modality), tmp_path / "x.dcm")) == []


@pytest.mark.parametrize("modality", MODALITIES)
@pytest.mark.parametrize("orientation", [AXIAL, SAGITTAL, OBLIQUE])
def test_frames_are_a_volume_as_highdicom_sees_it(
    tmp_path: Path, modality: str, orientation: tuple[float, ...]
) -> None:
    """Frames stored out of order: each voxel lies where its frame says, in the unit of the frame."""
    ds = make_enhanced((3, 0, 5, 1, 4, 2), modality=modality, orientation=orientation)
    path = write_file(ds, tmp_path / "x.dcm")
    loaded = load([path], DIGEST)
    theirs = hd.imread(path).get_volume(apply_real_world_transform=False, apply_modality_transform=True)
    ours = loaded.volume
    matched = theirs if np.allclose(theirs.affine[:3, 3], ours.affine[:3, 3], atol=1e-4) else theirs.flip_spatial(0)
    np.testing.assert_allclose(matched.affine, ours.affine, atol=1e-4)
    np.testing.assert_array_equal(matched.array.astype(np.float32), ours.voxels)
    assert loaded.frames == tuple(FrameRef(str(ds.SOPInstanceUID), n) for n in (2, 4, 6, 1, 5, 3))


@pytest.mark.parametrize("modality", MODALITIES)
def test_converted_images_are_the_volume_that_they_were(tmp_path: Path, modality: str) -> None:
    """highdicom's conversion of a single-frame series loads as the series does."""
    loaded = load([write_file(make_legacy(modality), tmp_path / "x.dcm")], DIGEST)
    np.testing.assert_array_equal(loaded.volume.voxels[:, 0, 0], np.arange(6) * 100 - (1024 if modality == "CT" else 0))
    np.testing.assert_allclose(np.diag(loaded.volume.affine[:3, :3][:, ::-1]), [1, 1, 1])
    assert loaded.attributes.body_part == "BRAIN"


def test_what_the_gate_asks_is_found_in_the_functional_groups(tmp_path: Path) -> None:
    """The anatomic region is a code there; a region that no word stands for stays unknown."""
    ds = make_enhanced()
    path = write_file(ds, tmp_path / "x.dcm")
    assert load([path], DIGEST).attributes.body_part == "HEAD"
    region = ds.SharedFunctionalGroupsSequence[0].FrameAnatomySequence[0].AnatomicRegionSequence[0]
    region.CodeValue = "39607008"
    assert load([write_file(ds, path)], DIGEST).attributes.body_part is None


def test_the_top_level_does_not_count(tmp_path: Path) -> None:
    """Attributes of single-frame classes that somebody left at the top say nothing about frames."""
    ds = make_enhanced(modality="CT")
    ds.ImagePositionPatient, ds.PixelSpacing = [1, 2, 3], [9, 9]
    ds.RescaleSlope, ds.RescaleIntercept = "5", "5"
    loaded = load([write_file(ds, tmp_path / "x.dcm")], DIGEST)
    assert loaded.volume.spacing_mm == pytest.approx((2.0, 1.25, 1.0))
    assert loaded.volume.voxels[0, 0, 0] == -1024


def test_a_group_of_the_frame_wins_over_the_shared_one(tmp_path: Path) -> None:
    """Slope and intercept per frame, as PET and some MR scanners write them."""

    def scaled(n: int, groups: Dataset) -> None:
        groups.PixelValueTransformationSequence = item(RescaleIntercept=n, RescaleSlope=2, RescaleType="US")

    loaded = load([write_file(make_enhanced(per_frame=scaled), tmp_path / "x.dcm")], DIGEST)
    np.testing.assert_array_equal(loaded.volume.voxels[:, 0, 0], [2 * 100 * n + n for n in range(6)])


def undefined_lengths(ds: Dataset) -> Dataset:
    """Make every sequence one of undefined length."""
    for element in ds:
        if element.VR == "SQ":
            element.is_undefined_length = True
            for inner in element.value:
                inner.is_undefined_length_sequence_item = True
                undefined_lengths(inner)
    return ds


@pytest.mark.parametrize("undefined", [False, True])
@pytest.mark.parametrize(
    "syntax",
    [
        ExplicitVRLittleEndian,
        ImplicitVRLittleEndian,
        DeflatedExplicitVRLittleEndian,
        ExplicitVRBigEndian,
        RLELossless,
        JPEGLSLossless,
    ],
)
def test_frames_are_the_same_in_every_encoding(tmp_path: Path, syntax: str, undefined: bool) -> None:
    """Native or compressed frame by frame, sequences with lengths or delimiters: the same numbers."""
    plain = load([write_file(make_enhanced((3, 0, 5, 1, 4, 2)), tmp_path / "plain.dcm")], DIGEST)
    ds = make_enhanced((3, 0, 5, 1, 4, 2))
    if syntax in (RLELossless, JPEGLSLossless):
        write_file(ds, tmp_path / "plain.dcm")
        ds.compress(syntax, generate_instance_uid=False)
    elif syntax == ExplicitVRBigEndian:
        ds.PixelData = np.frombuffer(ds.PixelData, "<u2").astype(">u2").tobytes()
        ds["PixelData"].VR = "OW"
    if undefined:
        undefined_lengths(ds)
    loaded = load([write_file(ds, tmp_path / "x.dcm", syntax)], DIGEST)
    np.testing.assert_array_equal(loaded.volume.voxels, plain.volume.voxels)


def test_pixels_of_an_odd_frame_size_are_found(tmp_path: Path) -> None:
    """Frames of 8 bits and 15 pixels follow each other without padding; only the whole has some."""
    ds = make_enhanced(range(3), shape=(5, 3))
    ds.BitsAllocated, ds.BitsStored, ds.HighBit = 8, 8, 7
    values = np.arange(45, dtype=np.uint8)
    ds.PixelData = values.tobytes() + b"\0"
    ds["PixelData"].VR = "OB"
    loaded = load([write_file(ds, tmp_path / "x.dcm")], DIGEST)
    np.testing.assert_array_equal(loaded.volume.voxels.ravel(), values)


# -- several volumes


def test_stacks_are_told_apart_first(tmp_path: Path) -> None:
    """Two stacks of different orientation, as of a lumbar spine: each is a volume of its own."""

    def stacked(n: int, groups: Dataset) -> None:
        groups.FrameContentSequence[0].StackID = "12"[n // 6]
        if n >= 6:
            groups.PlaneOrientationSequence = item(ImageOrientationPatient=[1, 0, 0, 0, 0.8, 0.6])
            at = np.array([0, 0, 50]) + 2.0 * (n - 6) * np.array([0, -0.6, 0.8])
            groups.PlanePositionSequence = item(ImagePositionPatient=[f"{v:.6f}" for v in at])

    path = write_file(make_enhanced([*range(6), *range(6)], per_frame=stacked), tmp_path / "x.dcm")
    assert seen([path]) == [("STACK=1", "", 6), ("STACK=2", "", 6)]
    second = load([path], DIGEST, part="STACK-2")
    assert [one.frame for one in second.frames] == list(range(7, 13))
    assert refusal(path) == "AMBIGUOUS_VOLUMES"


TWO: dict[str, tuple[list[Change], list[str]]] = {
    "temporal position index": (
        [content(TemporalPositionIndex=n) for n in (2, 1)],
        ["TEMPORAL_POSITION_INDEX=1", "TEMPORAL_POSITION_INDEX=2"],
    ),
    "acquisition": (
        [content(FrameAcquisitionNumber=n) for n in (1, 2)],
        ["ACQUISITION_NUMBER=1", "ACQUISITION_NUMBER=2"],
    ),
    "trigger": (
        [
            lambda g, t=t: setattr(g, "CardiacSynchronizationSequence", item(NominalCardiacTriggerDelayTime=t))  # type: ignore[misc]
            for t in (0.0, 40.0)
        ],
        ["TRIGGER_TIME=0.0", "TRIGGER_TIME=40.0"],
    ),
    "echo": (
        [lambda g, t=t: setattr(g, "MREchoSequence", item(EffectiveEchoTime=t)) for t in (9.2, 4.6)],  # type: ignore[misc]
        ["ECHO_TIME=4.6", "ECHO_TIME=9.2"],
    ),
    "b-value": (
        [lambda g, b=b: setattr(g, "MRDiffusionSequence", item(DiffusionBValue=b)) for b in (1000.0, 0.0)],  # type: ignore[misc]
        ["B_VALUE=0.0", "B_VALUE=1000.0"],
    ),
    "frame type": (
        [
            lambda g, t=t: setattr(  # type: ignore[misc]
                g, "MRImageFrameTypeSequence", item(FrameType=["ORIGINAL", "PRIMARY", t, "NONE"])
            )
            for t in ("WATER", "FAT")
        ],
        ["IMAGE_TYPE=FAT\\NONE", "IMAGE_TYPE=WATER\\NONE"],
    ),
}


@pytest.mark.parametrize("name", TWO)
def test_volumes_of_one_instance_are_told_apart(tmp_path: Path, name: str) -> None:
    """By the functional groups that hold what single images have at the top."""
    changes, labels = TWO[name]
    path = write_file(make_enhanced([*range(6), *range(6)], per_frame=each(*changes)), tmp_path / "x.dcm")
    assert seen([path]) == [(label, "", 6) for label in labels]


def test_stack_and_time_divide_one_after_the_other(tmp_path: Path) -> None:
    """Two stacks at two times: four volumes, named by both."""

    def both(n: int, groups: Dataset) -> None:
        groups.FrameContentSequence[0].StackID = "12"[n // 12]
        groups.FrameContentSequence[0].TemporalPositionIndex = 1 + n // 6 % 2

    ds = make_enhanced([*range(6), *range(6), *range(20, 26), *range(20, 26)], per_frame=both)
    found = read_series([write_file(ds, tmp_path / "x.dcm")], {}, {}).summaries
    assert [one.part for one in found] == [f"STACK-{s}/TEMPORAL_POSITION_INDEX-{t}" for s in (1, 2) for t in (1, 2)]
    assert [(one.ordinal, one.volumes) for one in found] == [(n, 4) for n in (1, 2, 3, 4)]


def test_a_phase_in_each_instance_is_told_by_the_instances_numbers(tmp_path: Path) -> None:
    """Two instances of one series at the same positions."""
    paths = []
    for number in (1, 2):
        ds = make_enhanced(instance=number, per_frame=lambda _, g: content(FrameAcquisitionNumber=None)(g))
        ds.AcquisitionNumber = number
        paths.append(write_file(ds, tmp_path / f"{number}.dcm"))
    assert seen(paths) == [("ACQUISITION_NUMBER=1", "", 6), ("ACQUISITION_NUMBER=2", "", 6)]


def test_one_volume_over_several_instances_is_one_volume(tmp_path: Path) -> None:
    """As a concatenation cuts it: slices know which instance each is."""
    parts = [make_enhanced(range(3 * n, 3 * n + 3), instance=n + 1) for n in (0, 1)]
    loaded = load([write_file(ds, tmp_path / f"{n}.dcm") for n, ds in enumerate(parts)], DIGEST)
    assert loaded.frames == tuple(FrameRef(str(ds.SOPInstanceUID), n) for ds in parts for n in (1, 2, 3))


def test_converted_volumes_are_told_apart_by_what_they_kept(tmp_path: Path) -> None:
    """Legacy converted images keep echo times under their old name."""
    echoes = [lambda ds, t=t: setattr(ds, "EchoTime", t) for t in ("4", "8")]  # type: ignore[misc]
    assert seen([write_file(make_legacy("MR", echoes), tmp_path / "x.dcm")]) == [
        ("ECHO_TIME=4", "", 6),
        ("ECHO_TIME=8", "", 6),
    ]


# -- what is refused


def cut(ds: Dataset) -> None:
    """Take half of the pixels away."""
    ds.PixelData = ds.PixelData[: len(ds.PixelData) // 2]


def drop(keyword: str) -> Change:
    """Return a change that removes a shared functional group."""
    return lambda ds: delattr(ds.SharedFunctionalGroupsSequence[0], keyword)


@pytest.mark.parametrize(
    ("spoil", "code"),
    [
        (lambda ds: ds.PerFrameFunctionalGroupsSequence.pop(), "MULTIFRAME_INVALID"),
        (lambda ds: delattr(ds, "PerFrameFunctionalGroupsSequence"), "MULTIFRAME_INVALID"),
        (lambda ds: setattr(ds, "SharedFunctionalGroupsSequence", Items([Dataset(), Dataset()])), "MULTIFRAME_INVALID"),
        (lambda ds: setattr(ds, "NumberOfFrames", 0), "MULTIFRAME_INVALID"),
        (lambda ds: setattr(ds, "NumberOfFrames", 70_000), "MULTIFRAME_INVALID"),
        (lambda ds: setattr(ds, "NumberOfFrames", 5), "MULTIFRAME_INVALID"),
        (drop("PlaneOrientationSequence"), "GEOMETRY_MISSING"),
        (drop("PixelMeasuresSequence"), "GEOMETRY_MISSING"),
        (drop("PixelValueTransformationSequence"), "RESCALE_MISSING"),
        (lambda ds: delattr(ds.PerFrameFunctionalGroupsSequence[2], "PlanePositionSequence"), "GEOMETRY_MISSING"),
        (lambda ds: delattr(ds, "FrameOfReferenceUID"), "GEOMETRY_MISSING"),
        (lambda ds: setattr(ds, "PhotometricInterpretation", "RGB"), "NOT_GRAYSCALE"),
        (cut, "PIXELS_UNDECODABLE"),
    ],
)
def test_each_gate_refuses_frames_as_it_refuses_images(tmp_path: Path, spoil: Change, code: str) -> None:
    """One thing wrong: named."""
    ds = make_enhanced(modality="CT")
    spoil(ds)
    assert refusal(write_file(ds, tmp_path / "x.dcm")) == code


@pytest.mark.parametrize(
    ("positions", "code"),
    [((0, 1, 3, 4), "SLICE_MISSING"), ((0, 1, 1, 2), "DUPLICATE_POSITION"), ((0,), "SINGLE_SLICE")],
)
def test_frames_with_gaps_are_no_volume(tmp_path: Path, positions: tuple[int, ...], code: str) -> None:
    """The grid's own gates judge frames."""
    assert refusal(write_file(make_enhanced(positions), tmp_path / "x.dcm")) == code


def test_compressed_frames_that_are_too_few_are_refused(tmp_path: Path) -> None:
    """Six are stated, five are there."""
    ds = make_enhanced()
    write_file(ds, tmp_path / "x.dcm")
    ds.compress(RLELossless, generate_instance_uid=False)
    frames = list(pydicom.encaps.generate_frames(ds.PixelData, number_of_frames=6))
    ds.PixelData = pydicom.encaps.encapsulate(frames[:5])
    assert refusal(write_file(ds, tmp_path / "x.dcm", RLELossless)) == "PIXELS_UNDECODABLE"


# -- results


def source(tmp_path: Path, make: Callable[[], Dataset] = make_enhanced) -> LoadedSeries:
    """Return a loaded multi-frame source."""
    return load([write_file(make(), tmp_path / "source.dcm")], DIGEST)


def results(loaded: LoadedSeries, **masks: Any) -> tuple[bytes, bytes]:
    """Return SEG and SR of a box inside the volume."""
    mask = np.zeros(loaded.volume.shape, dtype=np.bool_)
    mask[1:4, 4:9, 3:8] = True
    made = phantom.findings(mask)
    manifest, ref, context = phantom.manifest(), phantom.REF, phantom.context()
    seg = write_seg(made, manifest, ref, loaded.headers, context)
    reread = check_segmentation(seg, loaded.headers)
    return seg, write_sr(made, manifest, ref, loaded.headers, reread, context)


MAKERS: dict[str, Callable[[], Dataset]] = {
    "enhanced MR": lambda: make_enhanced((3, 0, 5, 1, 4, 2)),
    "enhanced CT": lambda: make_enhanced((3, 0, 5, 1, 4, 2), modality="CT"),
    "converted MR": make_legacy,
    "converted CT": lambda: make_legacy("CT"),
}


@pytest.mark.parametrize("name", MAKERS)
def test_the_judges_find_no_error_in_the_segmentation(tmp_path: Path, name: str) -> None:
    """dciodvfy: neither error nor warning."""
    seg, _ = results(source(tmp_path, MAKERS[name]))
    (tmp_path / "seg.dcm").write_bytes(seg)
    assert validators.dciodvfy(tmp_path / "seg.dcm") == []
    assert validators.dciodvfy_warnings(tmp_path / "seg.dcm") == []


@pytest.mark.slow
@pytest.mark.parametrize("name", MAKERS)
def test_the_judges_find_no_error_in_the_report(tmp_path: Path, name: str) -> None:
    """dciodvfy, DCMTK and PixelMed's validator of templates."""
    _, report = results(source(tmp_path, MAKERS[name]))
    (tmp_path / "sr.dcm").write_bytes(report)
    assert validators.dciodvfy(tmp_path / "sr.dcm") == []
    assert validators.dsrdump(tmp_path / "sr.dcm") == []
    assert validators.sr_validator(tmp_path / "sr.dcm") == []


@pytest.mark.parametrize("name", MAKERS)
def test_the_mask_is_read_back_by_the_frames_that_it_names(tmp_path: Path, name: str) -> None:
    """highdicom lays the mask on the source by instance and frame number, and by geometry: both are where it was."""
    loaded = source(tmp_path, MAKERS[name])
    seg = hd.seg.segread(io.BytesIO(results(loaded)[0]))
    numbers = [one.frame or 0 for one in loaded.frames]
    pixels = seg.get_pixels_by_source_frame(
        loaded.frames[0].sop_uid,
        numbers,
        segment_numbers=[1],
        assert_missing_frames_are_empty=True,
    )[..., 0].astype(bool)
    assert [int(plane.sum()) for plane in pixels] == [0, 25, 25, 25, 0, 0]
    assert pixels[1:4, 4:9, 3:8].all()
    volume = seg.get_volume(combine_segments=True)
    where = volume.map_indices_to_reference(np.argwhere(volume.array > 0))
    ours = np.argwhere(pixels) @ loaded.volume.affine[:3, :3].T + loaded.volume.affine[:3, 3]
    assert {tuple(p) for p in np.round(where, 3) + 0.0} == {tuple(p) for p in np.round(ours, 3) + 0.0}


def test_each_instance_is_evidence_once_and_each_image_item_names_its_frame(tmp_path: Path) -> None:
    """Six frames of one instance: one reference in the series lists, frame numbers wherever one slice is meant."""
    loaded = source(tmp_path, MAKERS["enhanced MR"])
    seg, report = (pydicom.dcmread(io.BytesIO(data)) for data in results(loaded))
    assert len(seg.ReferencedSeriesSequence[0].ReferencedInstanceSequence) == 1
    evidence = report.CurrentRequestedProcedureEvidenceSequence[0].ReferencedSeriesSequence
    assert sorted(len(series.ReferencedSOPSequence) for series in evidence) == [1, 1]
    of_frames = [
        groups.DerivationImageSequence[0].SourceImageSequence[0].ReferencedFrameNumber
        for groups in seg.PerFrameFunctionalGroupsSequence
    ]
    assert of_frames == [one.frame for one in loaded.frames[1:4]]
    instance = loaded.frames[0].sop_uid
    named = [
        reference.get("ReferencedFrameNumber")
        for reference in _references(report)
        if reference.ReferencedSOPInstanceUID == instance
    ]
    assert named
    assert set(named) == {loaded.frames[1].frame}


def _references(ds: Dataset) -> list[Dataset]:
    found = []
    for child in ds.get("ContentSequence") or []:
        found += [*(child.get("ReferencedSOPSequence") or []), *_references(child)]
    return found


def test_a_result_that_names_the_wrong_frame_is_not_sent(tmp_path: Path) -> None:
    """Our own check before sending: another frame, or none, is refused in SEG and SR."""
    loaded = source(tmp_path)
    seg, report = results(loaded)
    frame = int(loaded.frames[1].frame or 0)
    named, other = (b"\x08\x00\x60\x11IS\x02\x00" + b"%d " % n for n in (frame, frame + 4))
    assert named in seg
    with pytest.raises(OutputInvalid) as refused:
        check_segmentation(seg.replace(named, other, 1), loaded.headers)
    assert refused.value.code == "DERIVATION_MISSING"
    reread = check_segmentation(seg, loaded.headers)
    assert named in report
    wrong = report.replace(named, b"\x08\x00\x60\x11IS\x02\x0099", 1)
    with pytest.raises(OutputInvalid) as refused:
        check_report(wrong, loaded.headers, reread)
    assert refused.value.code == "FRAME_REFERENCE_WRONG"


@pytest.mark.filterwarnings("ignore:.*([Ee]ncoding|Character Set|Invalid):UserWarning")
@given(
    changes=st.lists(st.tuples(st.integers(0, 6000), st.binary(min_size=1, max_size=3)), min_size=1, max_size=3),
    syntax=st.sampled_from([ExplicitVRLittleEndian, ImplicitVRLittleEndian]),
)
@settings(max_examples=60, deadline=None)
def test_no_change_of_a_file_makes_it_raise_anything_else(changes: list[tuple[int, bytes]], syntax: str) -> None:
    """Bytes of header and functional groups overwritten anywhere: a volume or VolumeRefused, nothing else."""
    with tempfile.TemporaryDirectory() as folder:
        path = write_file(make_enhanced(range(3)), Path(folder) / "x.dcm", syntax)
        data = bytearray(path.read_bytes())
        for at, change in changes:
            at = min(140 + at, len(data) - len(change))
            data[at : at + len(change)] = change
        path.write_bytes(data)
        with suppress(VolumeRefused):
            load([path], DIGEST, voxels_max=1 << 20)
