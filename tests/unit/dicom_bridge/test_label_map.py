"""The label map: voxel for voxel the masks, on the source's own grid, by readers that we did not write; or none."""

from __future__ import annotations

import copy
import io
import json
from collections.abc import Callable
from pathlib import Path

import highdicom as hd
import nibabel
import numpy as np
import pytest
from numpy.typing import NDArray
from pydicom import dcmread
from pydicom.dataset import Dataset

from dicom_bridge.label_map import make_label_map
from dicom_bridge.label_map_validity import check_label_map
from dicom_bridge.peers import ReportGroups, Segmentation
from dicom_bridge.report import write_sr
from dicom_bridge.segmented import write_segmentation
from dicom_bridge.unfit import OutputInvalid
from inference.types import Findings, SegmentMask
from tests.simulators import edited, validators
from tests.simulators import findings as phantom
from tests.simulators.written import write_label_map, write_seg
from tests.unit.dicom_bridge.test_readers import SHAPE, SOURCES, assert_same, headers, places

ODD = (5, 13, 11)
"""Frames of an odd number of bytes, and an odd number of them."""
# Of what the validator of 2022 complains: it knows neither the class nor its segment 0.
UNKNOWN_TO_DCIODVFY = ("Information Object Not found", "SegmentNumber not monotonically increasing from one by one")


def apart(shape: tuple[int, int, int] = SHAPE) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
    """Two solids that touch and do not overlap, neither symmetric."""
    brain, bleed = phantom.ellipsoid(shape, shift=0.08, size=0.45), phantom.ellipsoid(shape, shift=-0.1, size=0.25)
    return brain & ~bleed, bleed


def made(sources: list[Dataset], *masks: NDArray[np.bool_], language: str = "en-US") -> bytes:
    """The label map of these masks."""
    manifest = phantom.manifest(lesions=len(masks) > 1)
    return write_label_map(phantom.findings(*masks), manifest, phantom.REF, sources, phantom.context(language))


def read(data: bytes) -> Dataset:
    """The data set in these bytes."""
    return dcmread(io.BytesIO(data))


# ---- readers that we did not write -----------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", SOURCES)
def test_highdicom_reads_each_voxel_where_it_lies(kind: str, tmp_path: Path) -> None:
    """The affine of its volume takes exactly our voxels to the positions of the source's voxels."""
    sources = headers(kind, tmp_path)
    seg = hd.seg.segread(io.BytesIO(made(sources, *apart())))
    assert list(seg.segment_numbers) == [1, 2]
    for number, mask in enumerate(apart(), start=1):
        volume = seg.get_volume(segment_numbers=[number])
        at = np.argwhere(volume.array[..., 0] > 0)
        homogeneous = np.column_stack([at, np.ones(len(at))])
        assert_same(places(mask, sources), (homogeneous @ volume.affine.T)[:, :3])


@pytest.mark.parametrize("kind", SOURCES)
def test_dcmqi_reads_each_voxel_where_it_lies(kind: str, tmp_path: Path) -> None:
    """`segimage2itkimage` gives one image of both segments, and describes these and not the background."""
    sources = headers(kind, tmp_path)
    (tmp_path / "seg.dcm").write_bytes(made(sources, *apart()))
    validators.dcmqi(
        "segimage2itkimage", "--inputDICOM", tmp_path / "seg.dcm", "--outputDirectory", tmp_path, "-t", "nii"
    )
    (path,) = tmp_path.glob("*.nii*")
    image = nibabel.load(path)
    for number, mask in enumerate(apart(), start=1):
        at = nibabel.affines.apply_affine(image.affine, np.argwhere(np.asarray(image.dataobj) == number))
        # NIfTI's x and y point to the right and to the front, DICOM's to the left and to the back.
        assert_same(places(mask, sources), at * (-1, -1, 1))
    (meta,) = tmp_path.glob("*.json")
    described = [one for group in json.loads(meta.read_text(encoding="utf-8"))["segmentAttributes"] for one in group]
    assert [(one["labelID"], one["SegmentLabel"]) for one in described] == [(1, "Brain"), (2, "Hemorrhage")]


@pytest.mark.parametrize("orientation", [phantom.AXIAL, (0, 1, 0, 0, 0, -1), (-1, 0, 0, 0, 1, 0)])
def test_the_masks_are_read_back_through_the_references(orientation: tuple[float, ...]) -> None:
    """By the images that the frames name, too; slices without a frame are empty."""
    sources = phantom.series(ODD, orientation=orientation, step_mm=-2.0)
    masks = apart(ODD)
    seg = hd.seg.segread(io.BytesIO(made(sources, *masks)))
    uids = [ds.SOPInstanceUID for ds in sources]
    pixels = seg.get_pixels_by_source_instance(uids, segment_numbers=[1, 2], assert_missing_frames_are_empty=True)
    assert np.array_equal(pixels > 0, np.stack(masks, axis=-1))
    assert 0 < seg.NumberOfFrames < len(sources)
    assert len(seg.PixelData) % 2 == 0


def test_what_the_old_validator_says_of_it(tmp_path: Path) -> None:
    """dciodvfy of 2022 knows no label map, and has nothing else to complain of; of BINARY it has nothing at all."""
    path = tmp_path / "seg.dcm"
    path.write_bytes(made(phantom.series(SHAPE), *apart()))
    said = validators.dciodvfy(path)
    assert [line for line in said if not any(known in line for known in UNKNOWN_TO_DCIODVFY)] == []
    assert len(said) == len(UNKNOWN_TO_DCIODVFY)
    assert validators.dciodvfy_warnings(path) == []


@pytest.mark.parametrize("language", ["en-US", "zh-CN"])
def test_judges_find_no_error_in_the_report_beside_it(language: str, tmp_path: Path) -> None:
    """PLANAR groups name no label map in the tree, and reach it by the evidence."""
    sources, found, known = phantom.series(SHAPE), phantom.findings(*apart()), phantom.manifest(lesions=True)
    context = phantom.context(language, report_groups=ReportGroups.PLANAR)
    seg = read(write_label_map(found, known, phantom.REF, sources, context))
    (tmp_path / "sr.dcm").write_bytes(write_sr(found, known, phantom.REF, sources, seg, context))
    for judge in (validators.dciodvfy, validators.sr_validator, validators.dsrdump):
        assert judge(tmp_path / "sr.dcm") == []
    (evidence,) = read((tmp_path / "sr.dcm").read_bytes()).CurrentRequestedProcedureEvidenceSequence
    named = [
        (one.ReferencedSOPClassUID, one.ReferencedSOPInstanceUID)
        for s in evidence.ReferencedSeriesSequence
        for one in s.ReferencedSOPSequence
    ]
    assert (seg.SOPClassUID, seg.SOPInstanceUID) in named


def test_why_the_report_beside_it_is_planar(tmp_path: Path) -> None:
    """A report that names a label map in its tree is no report to DCMTK 3.6.7: the configuration does not allow it."""
    sources, found, known = phantom.series(SHAPE), phantom.findings(*apart()), phantom.manifest(lesions=True)
    seg = read(made(sources, *apart()))
    (tmp_path / "sr.dcm").write_bytes(write_sr(found, known, phantom.REF, sources, seg, phantom.context()))
    assert validators.sr_validator(tmp_path / "sr.dcm") == []
    assert any("unknown image SOP class" in line for line in validators.dsrdump(tmp_path / "sr.dcm"))


# ---- what it says ----------------------------------------------------------------------------------------------------


def test_the_header_is_that_of_the_standard() -> None:
    """Type, class, bits, no overlap; 0 is the background, described last; frames name no segment."""
    ds = read(made(phantom.series(SHAPE), *apart()))
    assert (ds.SOPClassUID, ds.SegmentationType, ds.SegmentsOverlap) == (
        "1.2.840.10008.5.1.4.1.1.66.7",
        "LABELMAP",
        "NO",
    )
    assert (ds.BitsAllocated, ds.BitsStored, ds.HighBit, ds.PixelRepresentation) == (8, 8, 7, 0)
    assert (ds.PixelPaddingValue, ds.get_item("PixelPaddingValue").VR) == (0, "US")
    assert [one.SegmentNumber for one in ds.SegmentSequence] == [1, 2, 0]
    last = ds.SegmentSequence[-1]
    assert (last.SegmentLabel, last.SegmentedPropertyTypeCodeSequence[0].CodeValue) == ("Background", "125040")
    assert "TrackingUID" not in last
    assert not any("SegmentIdentificationSequence" in frame for frame in ds.PerFrameFunctionalGroupsSequence)
    assert [one.DimensionDescriptionLabel for one in ds.DimensionIndexSequence] == ["Image Position Patient"]


def test_but_for_its_pixels_it_says_what_a_binary_one_says() -> None:
    """The same call: UIDs, patient, marking, tracking, codes and colours are those of the BINARY one."""
    sources, found, known = phantom.series(SHAPE), phantom.findings(*apart()), phantom.manifest(lesions=True)
    binary = read(write_seg(found, known, phantom.REF, sources, phantom.context()))
    labels = read(made(sources, *apart()))
    other = {"SOPClassUID", "BitsAllocated", "BitsStored", "HighBit", "PixelPaddingValue", "SegmentationType"}
    other |= {"SegmentSequence", "NumberOfFrames", "PixelData", "DimensionIndexSequence"}
    other |= {"PerFrameFunctionalGroupsSequence"}
    for one in (binary, labels):
        for keyword in other & set(one.dir()):
            if keyword != "SegmentSequence":
                delattr(one, keyword)
    labels.SegmentSequence = labels.SegmentSequence[:-1]
    assert labels == binary


def test_what_was_checked_is_what_the_report_is_made_of() -> None:
    """The data set that comes with the bytes is read from them, by the one check."""
    sources, found, known = phantom.series(ODD), phantom.findings(*apart(ODD)), phantom.manifest(lesions=True)
    arguments = (found, known, phantom.REF, sources, phantom.context())
    data, checked = make_label_map(*arguments)
    assert data == write_label_map(*arguments)
    assert (checked, checked.file_meta) == (read(data), read(data).file_meta)
    segmented = write_segmentation(*arguments, Segmentation.LABELMAP)
    assert (segmented.data, segmented.read, segmented.instead) == (data, checked, None)


def test_a_segment_without_pixels_is_left_out() -> None:
    """Brain not found, bleed found: one segment, number 1, with the bleed's tracking."""
    brain, bleed = apart()
    ds = read(made(phantom.series(SHAPE), np.zeros_like(brain), bleed))
    assert [(one.SegmentNumber, one.SegmentLabel) for one in ds.SegmentSequence] == [
        (1, "Hemorrhage"),
        (0, "Background"),
    ]


def test_the_same_call_gives_the_same_bytes() -> None:
    """I6."""
    sources = phantom.series(SHAPE)
    assert made(sources, *apart()) == made(sources, *apart())


# ---- what cannot be one ----------------------------------------------------------------------------------------------


def test_overlapping_segments_are_refused_and_then_binary_whole() -> None:
    """One voxel of both: no label map, and BINARY in its place, with the code and not a voxel less."""
    brain, bleed = apart()
    place = tuple(np.argwhere(bleed)[0])
    brain[place] = True
    sources, found, known = phantom.series(SHAPE), phantom.findings(brain, bleed), phantom.manifest(lesions=True)
    with pytest.raises(OutputInvalid) as refused:
        made(sources, brain, bleed)
    assert refused.value.code == "SEGMENTS_OVERLAP"

    written = write_segmentation(found, known, phantom.REF, sources, phantom.context(), Segmentation.LABELMAP)
    assert written.instead == "SEGMENTS_OVERLAP"
    assert (written.read.SegmentationType, written.read.SegmentsOverlap) == ("BINARY", "YES")
    uids = [ds.SOPInstanceUID for ds in sources]
    seg = hd.seg.segread(io.BytesIO(written.data))
    pixels = seg.get_pixels_by_source_instance(uids, segment_numbers=[1, 2], assert_missing_frames_are_empty=True)
    assert np.array_equal(pixels > 0, np.stack([brain, bleed], axis=-1))


def test_what_is_wanted_is_written() -> None:
    """Each type where it is wanted and can be; other faults are faults of both."""
    sources, found, known = phantom.series(SHAPE), phantom.findings(*apart()), phantom.manifest(lesions=True)
    for wanted in Segmentation:
        written = write_segmentation(found, known, phantom.REF, sources, phantom.context(), wanted)
        assert (written.read.SegmentationType, written.instead) == (wanted, None)
        whole = read(written.data)
        # Of a BINARY one the pixels are checked where they lie, and not copied into what was read.
        assert ("PixelData" in written.read) == (wanted is Segmentation.LABELMAP)
        assert all(whole[element.tag] == element for element in written.read)
    with pytest.raises(OutputInvalid) as refused:
        write_segmentation(found, known, phantom.REF, [], phantom.context(), Segmentation.LABELMAP)
    assert refused.value.code == "SOURCE_MISSING"


def test_findings_that_do_not_fit_are_refused_by_code() -> None:
    """As for BINARY: nothing is guessed, padded or dropped in silence."""
    sources, (brain, _) = phantom.series(SHAPE), apart()

    def code(findings: Findings) -> str:
        with pytest.raises(OutputInvalid) as refused:
            write_label_map(findings, phantom.manifest(), phantom.REF, sources, phantom.context())
        return refused.value.code

    assert code(phantom.findings(brain[:-1])) == "GRID_MISMATCH"
    assert code(phantom.findings(np.zeros_like(brain))) == "SEGMENTATION_EMPTY"
    assert code(Findings((SegmentMask(9, brain),), (), {}, "cpu")) == "SEGMENT_UNKNOWN"
    assert code(Findings((SegmentMask(1, brain), SegmentMask(1, brain)), (), {}, "cpu")) == "SEGMENT_DUPLICATE"


# ---- the check before sending ----------------------------------------------------------------------------------------


def _frame(ds: Dataset, index: int = 0) -> Dataset:
    frame: Dataset = ds.PerFrameFunctionalGroupsSequence[index]
    return frame


def _pixel(value: int) -> Callable[[Dataset], None]:
    def edit(ds: Dataset) -> None:
        ds.PixelData = bytes([value]) + ds.PixelData[1:]

    return edit


def _without(number: int) -> Callable[[Dataset], None]:
    """Rub a segment out, and leave its description."""

    def edit(ds: Dataset) -> None:
        ds.PixelData = ds.PixelData.replace(bytes([number]), b"\0")

    return edit


def _twice(ds: Dataset) -> None:
    for keyword in ("DerivationImageSequence", "PlanePositionSequence"):
        setattr(_frame(ds, 1), keyword, copy.deepcopy(_frame(ds, 0)[keyword].value))


def _swapped(ds: Dataset) -> None:
    one, two = _frame(ds, 0), _frame(ds, 1)
    one.DerivationImageSequence, two.DerivationImageSequence = two.DerivationImageSequence, one.DerivationImageSequence


def _named(ds: Dataset) -> None:
    item = Dataset()
    item.ReferencedSegmentNumber = 1
    _frame(ds).SegmentIdentificationSequence = [item]


def _turned(ds: Dataset) -> None:
    plane = ds.SharedFunctionalGroupsSequence[0].PlaneOrientationSequence[0]
    plane.ImageOrientationPatient = [0, 1, 0, 1, 0, 0]


def _stretched(ds: Dataset) -> None:
    ds.SharedFunctionalGroupsSequence[0].PixelMeasuresSequence[0].PixelSpacing = [1, 1.25]


def _other_version(ds: Dataset) -> None:
    ds.SegmentSequence[2].SegmentationAlgorithmIdentificationSequence[0].AlgorithmVersion = "2"


DAMAGES: dict[str, tuple[str, Callable[[Dataset], object]]] = {
    "binary": ("GRID_MISMATCH", lambda ds: setattr(ds, "SegmentationType", "BINARY")),
    "sixteen bits": ("GRID_MISMATCH", lambda ds: setattr(ds, "BitsAllocated", 16)),
    "signed": ("GRID_MISMATCH", lambda ds: setattr(ds, "PixelRepresentation", 1)),
    "short": ("GRID_MISMATCH", lambda ds: setattr(ds, "PixelData", ds.PixelData[:-2])),
    "other matrix": ("GRID_MISMATCH", lambda ds: setattr(ds, "Rows", 31)),
    "other frame of reference": ("GRID_MISMATCH", lambda ds: setattr(ds, "FrameOfReferenceUID", "1.2.3")),
    "turned": ("GRID_MISMATCH", _turned),
    "stretched": ("GRID_MISMATCH", _stretched),
    "overlapping": ("SEGMENTS_OVERLAP", lambda ds: setattr(ds, "SegmentsOverlap", "YES")),
    "undescribed number": ("SEGMENT_UNKNOWN", _pixel(3)),
    "number of the manifest, not ours": (
        "SEGMENT_UNKNOWN",
        lambda ds: setattr(ds.SegmentSequence[1], "SegmentNumber", 7),
    ),
    "no background": ("SEGMENT_UNKNOWN", lambda ds: ds.SegmentSequence.pop()),
    "no padding value": ("SEGMENT_UNKNOWN", lambda ds: delattr(ds, "PixelPaddingValue")),
    "another padding value": ("SEGMENT_UNKNOWN", lambda ds: setattr(ds, "PixelPaddingValue", 1)),
    "segment without a pixel": ("SEGMENT_EMPTY", _without(2)),
    "no derivation": ("DERIVATION_MISSING", lambda ds: delattr(_frame(ds), "DerivationImageSequence")),
    "no position": ("DERIVATION_MISSING", lambda ds: delattr(_frame(ds), "PlanePositionSequence")),
    "wrong slice": ("DERIVATION_MISSING", _swapped),
    "two frames on one slice": ("SEGMENT_DUPLICATE", _twice),
    "a frame of one segment": ("SEGMENT_REFERENCE_WRONG", _named),
    "no frame": ("SEGMENTATION_EMPTY", lambda ds: setattr(ds, "NumberOfFrames", 1)),
    "no referenced series": ("SERIES_REFERENCE_MISSING", lambda ds: delattr(ds, "ReferencedSeriesSequence")),
    "no tracking": ("TRACKING_MISSING", lambda ds: delattr(ds.SegmentSequence[0], "TrackingUID")),
    "other algorithm of the background": ("ALGORITHM_IDENTITY_DIFFERS", _other_version),
    "no marking": ("MARKING_MISSING", lambda ds: setattr(ds, "SeriesDescription", "brain")),
    "other patient": ("IDENTITY_DIFFERS", lambda ds: setattr(ds, "PatientID", "TEST-0002")),
    "no qualification": ("CONTENT_QUALIFICATION_MISSING", lambda ds: delattr(ds, "ContentQualification")),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_the_check_before_sending_refuses(damage: str) -> None:
    """Each rule, broken alone, stops the object with the rule's own code."""
    code, break_it = DAMAGES[damage]
    sources = phantom.series(SHAPE)
    ds = read(made(sources, *apart()))
    check_label_map(edited.file_of(ds), sources)
    break_it(ds)
    with pytest.raises(OutputInvalid) as refused:
        check_label_map(edited.file_of(ds), sources)
    assert refused.value.code == code


def test_what_is_no_label_map_is_refused() -> None:
    """Garbage, truncation and a BINARY one: a code, never a crash."""
    sources = phantom.series(SHAPE)
    data = made(sources, *apart())
    binary = write_seg(
        phantom.findings(*apart()), phantom.manifest(lesions=True), phantom.REF, sources, phantom.context()
    )
    for other in (b"", b"garbage" * 100, data[: len(data) // 3], data[:-4], binary):
        with pytest.raises(OutputInvalid):
            check_label_map(other, sources)
