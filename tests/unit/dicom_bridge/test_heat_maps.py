"""Heat maps as a FRACTIONAL segmentation: value for value, where the source's voxels lie; or not sent, with a code."""

from __future__ import annotations

import copy
import io
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import highdicom as hd
import numpy as np
import pytest
from numpy.typing import NDArray
from pydicom import dcmread
from pydicom.dataset import Dataset

from dicom_bridge import uids
from dicom_bridge.heat_map_validity import check_heat_maps
from dicom_bridge.heat_maps import make_heat_maps, shown_maps, withheld
from dicom_bridge.peers import ReportGroups
from dicom_bridge.report import write_sr
from dicom_bridge.unfit import OutputInvalid
from dicom_bridge.validity import check_report
from inference.types import Findings, HeatMap
from models.codes import Code
from models.manifest import HeatMapSpec, Manifest
from tests.simulators import edited, validators
from tests.simulators import findings as phantom
from tests.simulators.written import write_heat_maps, write_seg
from tests.unit.dicom_bridge.test_readers import SHAPE, headers, places

CATEGORY = Code("49755003", "SCT", "Morphologically Abnormal Structure")
BLEED = HeatMapSpec(
    "bleed", "Hemorrhage", CATEGORY, Code("50960005", "SCT", "Hemorrhage"), (34886, 53484, 50172), calibrated=True
)
MASS = HeatMapSpec("mass", "Mass", CATEGORY, Code("4147007", "SCT", "Mass"), (63660, 27356, 57178), calibrated=True)
SCORE = replace(BLEED, id="score", label="Score", calibrated=False)


def manifest(*specs: HeatMapSpec) -> Manifest:
    """A model of a brain's volume that gives heat maps, too."""
    return replace(phantom.manifest(), heat_maps=specs or (BLEED, MASS))


def values(seed: int) -> NDArray[np.uint8]:
    """A cloud without symmetry; of one slice only zeros between others."""
    drawn = np.random.default_rng(seed).integers(0, 256, SHAPE).astype(np.uint8)
    drawn[~phantom.ellipsoid(SHAPE, size=0.45)] = 0
    drawn[3] = 0
    return drawn


def found(*maps: HeatMap) -> Findings:
    """A brain and these maps."""
    maps = maps or (HeatMap("bleed", values(1)), HeatMap("mass", (values(2) / 255).astype(np.float16)))
    return replace(phantom.findings(phantom.ellipsoid(SHAPE)), heat_maps=maps)


def made(sources: list[Dataset], findings: Findings | None = None, **context: object) -> bytes:
    """The object."""
    told = phantom.context(**context)  # type: ignore[arg-type]
    data = write_heat_maps(findings or found(), manifest(), phantom.REF, sources, told)
    assert data is not None
    return data


def read(data: bytes) -> Dataset:
    """The data set in these bytes."""
    return dcmread(io.BytesIO(data))


# ---- others read it --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["axial", "oblique backwards", "enhanced oblique MR"])
def test_highdicom_reads_each_value_where_it_lies(kind: str, tmp_path: Path) -> None:
    """As probabilities at the positions of the source's voxels; float16 to the nearest of 256 levels."""
    sources = headers(kind, tmp_path)
    seg = hd.seg.segread(io.BytesIO(made(sources)))
    for number, wanted in ((1, values(1)), (2, HeatMap("mass", (values(2) / 255).astype(np.float16)))):
        levels = wanted if isinstance(wanted, np.ndarray) else np.stack([wanted.levels(k) for k in range(SHAPE[0])])
        volume = seg.get_volume(segment_numbers=[number], rescale_fractional=True)
        at = np.argwhere(volume.array[..., 0] > 0)
        homogeneous = np.column_stack([at, np.ones(len(at))])
        where = np.round(places(levels > 0, sources), 2) + 0.0
        ours = {tuple(place): level for place, level in zip(where, levels[levels > 0], strict=True)}
        theirs = (homogeneous @ volume.affine.T)[:, :3]
        said = volume.array[..., 0][tuple(at.T)]
        assert len(ours) == len(theirs) > 0
        for place, value in zip(np.round(theirs, 2), said, strict=True):
            assert ours[tuple(place + 0.0)] == pytest.approx(value * 255)


@pytest.mark.parametrize("language", ["en-US", "zh-CN"])
@pytest.mark.parametrize("groups", ReportGroups)
def test_the_judges_find_no_error(language: str, groups: ReportGroups, tmp_path: Path) -> None:
    """Neither in the maps nor in the report, whose evidence leads to them, in either shape."""
    sources, context = phantom.series(SHAPE), phantom.context(language, report_groups=groups)
    heat = made(sources, language=language)
    (tmp_path / "heat.dcm").write_bytes(heat)
    assert validators.dciodvfy(tmp_path / "heat.dcm") == []
    assert validators.dciodvfy_warnings(tmp_path / "heat.dcm") == []
    seg = read(write_seg(found(), manifest(), phantom.REF, sources, context))
    sr = write_sr(found(), manifest(), phantom.REF, sources, seg, context, heat=read(heat))
    (tmp_path / "sr.dcm").write_bytes(sr)
    for judge in (validators.dciodvfy, validators.sr_validator, validators.dsrdump):
        assert judge(tmp_path / "sr.dcm") == []
    (evidence,) = read(sr).CurrentRequestedProcedureEvidenceSequence
    named = [one.ReferencedSOPInstanceUID for s in evidence.ReferencedSeriesSequence for one in s.ReferencedSOPSequence]
    assert named.count(uids.derive("HEAT", phantom.CALL)) == 1


def test_a_report_that_does_not_lead_to_them_is_not_sent() -> None:
    """Evidence without the maps, or maps that nobody made: EVIDENCE_DIFFERS."""
    sources = phantom.series(SHAPE)
    seg, heat = read(write_seg(found(), manifest(), phantom.REF, sources, phantom.context())), read(made(sources))
    for named, there in ((None, heat), (heat, None)):
        sr = write_sr(found(), manifest(), phantom.REF, sources, seg, phantom.context(), heat=named)
        check_report(sr, sources, seg, named)
        with pytest.raises(OutputInvalid) as refused:
            check_report(sr, sources, seg, there)
        assert refused.value.code == "EVIDENCE_DIFFERS"


# ---- what it says ----------------------------------------------------------------------------------------------------


def test_the_header_says_what_the_values_are() -> None:
    """PROBABILITY of 255, eight bits, a series and identities of its own; slices without a value have no frame."""
    sources = phantom.series(SHAPE)
    ds = read(made(sources))
    assert (ds.SegmentationType, ds.SegmentationFractionalType) == ("FRACTIONAL", "PROBABILITY")
    assert ds.MaximumFractionalValue == 255
    assert (ds.BitsAllocated, ds.SegmentsOverlap, ds.SeriesNumber) == (8, "UNDEFINED", 9006)
    assert ds.SeriesDescription == "AI test-brain HEAT - not for diagnosis"
    assert ds.SOPInstanceUID == uids.derive("HEAT", phantom.CALL)
    assert ds.file_meta.TransferSyntaxUID == "1.2.840.10008.1.2.1"
    assert [one.SegmentLabel for one in ds.SegmentSequence] == ["Hemorrhage", "Mass"]
    drawn = [int((values(seed).any(axis=(1, 2))).sum()) for seed in (1, 2)]
    assert int(ds.NumberOfFrames) == sum(drawn) < 2 * SHAPE[0] - 2
    seg = read(write_seg(found(), manifest(), phantom.REF, sources, phantom.context()))
    assert seg.SeriesInstanceUID != ds.SeriesInstanceUID
    assert {one.TrackingUID for one in seg.SegmentSequence}.isdisjoint(one.TrackingUID for one in ds.SegmentSequence)


def test_what_was_checked_is_what_the_report_is_made_of() -> None:
    """The data set that comes with the bytes is read from them, by the one check."""
    sources = phantom.series(SHAPE)
    both = make_heat_maps(found(), manifest(), phantom.REF, sources, phantom.context())
    assert both is not None
    data, checked = both
    assert data == made(sources)
    assert (checked, checked.file_meta) == (read(data), read(data).file_meta)


def test_the_same_call_gives_the_same_bytes() -> None:
    """I6."""
    sources = phantom.series(SHAPE)
    assert made(sources) == made(sources)
    assert read(made(sources, call="f" * 32)).SOPInstanceUID != read(made(sources)).SOPInstanceUID


# ---- what is not sent ------------------------------------------------------------------------------------------------


def test_what_is_not_calibrated_is_not_called_a_probability() -> None:
    """It is in the findings, and in no object; one that is calibrated goes alone."""
    sources, known = phantom.series(SHAPE), manifest(SCORE, BLEED)
    both = found(HeatMap("score", values(1)), HeatMap("bleed", values(2)))
    assert withheld(both, known)
    assert [one.spec.id for one in shown_maps(both, known, SHAPE)] == ["bleed"]
    data = write_heat_maps(both, known, phantom.REF, sources, phantom.context())
    assert data is not None
    assert [one.SegmentLabel for one in read(data).SegmentSequence] == ["Hemorrhage"]
    alone = found(HeatMap("score", values(1)))
    assert write_heat_maps(alone, known, phantom.REF, sources, phantom.context()) is None
    assert not withheld(found(HeatMap("bleed", values(2))), known)


def test_nothing_to_show_is_no_object() -> None:
    """All zeros, or values below one level of 255, or no map at all."""
    sources = phantom.series(SHAPE)
    faint = np.zeros(SHAPE, np.float16)
    faint[2, 3, 4] = 0.001
    for maps in ((HeatMap("bleed", np.zeros(SHAPE, np.uint8)),), (HeatMap("bleed", faint),)):
        assert write_heat_maps(found(*maps), manifest(), phantom.REF, sources, phantom.context()) is None
    assert write_heat_maps(phantom.findings(), manifest(), phantom.REF, sources, phantom.context()) is None


def test_maps_that_do_not_fit_are_refused_by_code() -> None:
    """Of no spec, or on another grid."""
    for maps, code in (
        ((HeatMap("other", values(1)),), "HEAT_MAP_UNKNOWN"),
        ((HeatMap("bleed", values(1)[:-1]),), "GRID_MISMATCH"),
    ):
        with pytest.raises(OutputInvalid) as refused:
            made(phantom.series(SHAPE), found(*maps))
        assert refused.value.code == code


def _frame(ds: Dataset, index: int = 0) -> Dataset:
    frame: Dataset = ds.PerFrameFunctionalGroupsSequence[index]
    return frame


def _twice(ds: Dataset) -> None:
    for keyword in ("DerivationImageSequence", "PlanePositionSequence"):
        setattr(_frame(ds, 1), keyword, copy.deepcopy(_frame(ds, 0)[keyword].value))


def _blank(ds: Dataset) -> None:
    size = ds.Rows * ds.Columns
    ds.PixelData = bytes(size) + ds.PixelData[size:]


def _renumbered(number: int) -> Callable[[Dataset], None]:
    def edit(ds: Dataset) -> None:
        for frame in ds.PerFrameFunctionalGroupsSequence:
            frame.SegmentIdentificationSequence[0].ReferencedSegmentNumber = number

    return edit


def _apart(ds: Dataset) -> None:
    for frame in ds.PerFrameFunctionalGroupsSequence:
        if frame.SegmentIdentificationSequence[0].ReferencedSegmentNumber == 2:
            frame.SegmentIdentificationSequence[0].ReferencedSegmentNumber = 3


DAMAGES: dict[str, tuple[str, Callable[[Dataset], object]]] = {
    "occupancy": ("HEAT_MAP_SCALE", lambda ds: setattr(ds, "SegmentationFractionalType", "OCCUPANCY")),
    "no fractional type": ("HEAT_MAP_SCALE", lambda ds: delattr(ds, "SegmentationFractionalType")),
    "another maximum": ("HEAT_MAP_SCALE", lambda ds: setattr(ds, "MaximumFractionalValue", 100)),
    "binary": ("GRID_MISMATCH", lambda ds: setattr(ds, "SegmentationType", "BINARY")),
    "short": ("GRID_MISMATCH", lambda ds: setattr(ds, "PixelData", ds.PixelData[:-2])),
    "other matrix": ("GRID_MISMATCH", lambda ds: setattr(ds, "Columns", 31)),
    "no derivation": ("DERIVATION_MISSING", lambda ds: delattr(_frame(ds), "DerivationImageSequence")),
    "no segment": ("SEGMENT_REFERENCE_WRONG", lambda ds: delattr(_frame(ds), "SegmentIdentificationSequence")),
    "two frames in one place": ("SEGMENT_DUPLICATE", _twice),
    "a frame of nothing described": ("SEGMENT_UNKNOWN", _apart),
    "a map without a frame": ("SEGMENT_EMPTY", lambda ds: ds.SegmentSequence.append(_third(ds))),
    "numbers with a gap": ("SEGMENT_UNKNOWN", lambda ds: setattr(ds.SegmentSequence[1], "SegmentNumber", 3)),
    "all frames of one map": ("SEGMENT_DUPLICATE", _renumbered(1)),
    "an empty frame": ("SEGMENT_EMPTY", _blank),
    "no tracking": ("TRACKING_MISSING", lambda ds: delattr(ds.SegmentSequence[0], "TrackingUID")),
    "no referenced series": ("SERIES_REFERENCE_MISSING", lambda ds: delattr(ds, "ReferencedSeriesSequence")),
    "no marking": ("MARKING_MISSING", lambda ds: setattr(ds, "SeriesDescription", "heat")),
    "other patient": ("IDENTITY_DIFFERS", lambda ds: setattr(ds, "PatientID", "TEST-0002")),
    "no algorithm": (
        "ALGORITHM_IDENTITY_DIFFERS",
        lambda ds: delattr(ds.SegmentSequence[1], "SegmentationAlgorithmIdentificationSequence"),
    ),
}


def _third(ds: Dataset) -> Dataset:
    item = copy.deepcopy(ds.SegmentSequence[1])
    item.SegmentNumber = 3
    return item


@pytest.mark.parametrize("damage", DAMAGES)
def test_the_check_before_sending_refuses(damage: str) -> None:
    """Each rule, broken alone, stops the object with the rule's own code."""
    code, break_it = DAMAGES[damage]
    sources = phantom.series(SHAPE)
    ds = read(made(sources))
    check_heat_maps(edited.file_of(ds), sources)
    break_it(ds)
    with pytest.raises(OutputInvalid) as refused:
        check_heat_maps(edited.file_of(ds), sources)
    assert refused.value.code == code
