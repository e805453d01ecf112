"""An edited segmentation comes back, where ours, theirs or both are label maps: understood, or refused with a code."""

from __future__ import annotations

import copy
import io
from collections.abc import Callable
from decimal import Decimal
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from pydicom import dcmread
from pydicom.dataset import Dataset

from dicom_bridge.peers import ReportGroups
from dicom_bridge.report import write_sr
from dicom_bridge.segment_pixels import LABEL_MAP_STORAGE
from dicom_bridge.verdict import Change, Tie, Verdict
from dicom_bridge.verdict_match import Base, VerdictUnmatched, judge
from dicom_bridge.verdict_segments import compare_segmentation, tie_of_segmentation
from dicom_bridge.verdict_tree import VerdictUnusable
from tests.simulators import edited
from tests.simulators import findings as phantom
from tests.simulators.written import write_label_map, write_seg

SHAPE = (12, 31, 37)
CONTEXT = phantom.context(report_groups=ReportGroups.PLANAR)
Edit = Callable[[Dataset], object]


def masks() -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
    """Two solids that touch."""
    brain, bleed = phantom.ellipsoid(SHAPE), phantom.ellipsoid(SHAPE, size=0.15)
    return brain & ~bleed, bleed


def of(write: Callable[..., bytes], *drawn: NDArray[np.bool_]) -> Dataset:
    """A segmentation of ours."""
    found = phantom.findings(*(drawn or masks()))
    data = write(found, phantom.manifest(lesions=True), phantom.REF, phantom.series(SHAPE), CONTEXT)
    return dcmread(io.BytesIO(data))


BINARY, LABELS = of(write_seg), of(write_label_map)
BRAIN, BLEED = (str(one.TrackingUID) for one in BINARY.SegmentSequence)
PAIRS = [(BINARY, LABELS), (LABELS, BINARY), (LABELS, LABELS)]
NAMES = ["BINARY to LABELMAP", "LABELMAP to BINARY", "LABELMAP to LABELMAP"]


def said(theirs: Dataset, ours: Dataset = LABELS) -> Verdict:
    """What a segmentation says of ours, when it was written and read again."""
    again = edited.reread(theirs)
    assert tie_of_segmentation(again, ours) is Tie.TRACKING
    return compare_segmentation(again, ours, Tie.TRACKING)


def labelled(edit: Callable[[NDArray[np.uint8]], object], ds: Dataset = LABELS) -> Dataset:
    """Our label map with another one's pixels (frames, rows, columns)."""
    new = edited.copied(ds)
    shape = (int(new.NumberOfFrames), int(new.Rows), int(new.Columns))
    size = int(np.prod(shape))
    pixels = np.frombuffer(new.PixelData, np.uint8, count=size).reshape(shape).copy()
    edit(pixels)
    new.PixelData = pixels.tobytes() + b"\0" * (size % 2)
    return new


@pytest.mark.parametrize(("ours", "theirs"), PAIRS, ids=NAMES)
def test_saved_in_the_other_kind_says_nothing(ours: Dataset, theirs: Dataset) -> None:
    """A viewer that writes one kind only: the same voxels are the same."""
    assert said(theirs, ours) == Verdict(None)


@pytest.mark.parametrize(("ours", "theirs"), PAIRS, ids=NAMES)
def test_another_outline(ours: Dataset, theirs: Dataset) -> None:
    """The Dice coefficient of each segment that was changed, whatever it is written in."""
    brain, bleed = masks()
    smaller = brain.copy()
    smaller[:, : SHAPE[1] // 2] = False
    write = write_label_map if theirs is LABELS else write_seg
    found = said(of(write, smaller, bleed), ours)
    same = 2 * int(smaller.sum()) / int(smaller.sum() + brain.sum())
    value = f"{Decimal(same).quantize(Decimal('0.0001'), 'ROUND_DOWN'):f}"
    assert (found.decision, found.reasons) == ("MODIFY", ("OUTLINE",))
    assert found.changes == (Change("DICE", BRAIN, None, value, "1"),)


def test_a_segment_rubbed_out_or_painted_over() -> None:
    """Nothing of it is left: a false positive; painted over, the other one has another outline, too."""

    def rub(pixels: NDArray[np.uint8]) -> None:
        pixels[pixels == 2] = 0

    def paint(pixels: NDArray[np.uint8]) -> None:
        pixels[pixels == 2] = 1

    assert said(labelled(rub)).reasons == ("FALSE_POSITIVE",)
    painted = said(labelled(paint))
    assert (painted.decision, painted.reasons) == ("MODIFY", ("FALSE_POSITIVE", "OUTLINE"))
    assert [one.tracking for one in painted.changes] == [BRAIN, BLEED]
    assert said(labelled(lambda pixels: pixels.fill(0))).decision == "REJECT"


def test_a_segment_added() -> None:
    """A number of the reader's own is a missed finding; described and never drawn, nothing."""

    def add(ds: Dataset) -> Dataset:
        new = copy.deepcopy(ds.SegmentSequence[1])
        new.SegmentNumber = 40
        edited.track(new, "1.2.840.99999.1.2.3.4")
        ds.SegmentSequence.append(new)
        return ds

    def draw(pixels: NDArray[np.uint8]) -> None:
        pixels[0, :3, :3] = 40

    assert said(add(labelled(draw))).reasons == ("MISSED_FINDING",)
    assert said(add(edited.copied(LABELS))).decision is None


def _fractional(ds: Dataset) -> None:
    ds.SegmentationType, ds.BitsAllocated, ds.SOPClassUID = "FRACTIONAL", 8, BINARY.SOPClassUID


def _sparse(ds: Dataset) -> None:
    ds.PixelData = ds.PixelData[:-2]


def _moved(ds: Dataset) -> None:
    for frame in ds.PerFrameFunctionalGroupsSequence:
        frame.PlanePositionSequence[0].ImagePositionPatient[0] += 3.0


def _undescribed(ds: Dataset) -> None:
    ds.PixelData = b"\x09" + ds.PixelData[1:]


def _twice(ds: Dataset) -> None:
    one, two = ds.PerFrameFunctionalGroupsSequence[3], ds.PerFrameFunctionalGroupsSequence[4]
    two.PlanePositionSequence = copy.deepcopy(one.PlanePositionSequence)


@pytest.mark.parametrize(
    ("edit", "code"),
    [
        (_fractional, "KIND_DIFFERS"),
        (lambda ds: setattr(ds, "BitsAllocated", 32), "KIND_DIFFERS"),
        (_sparse, "UNREADABLE"),
        (_undescribed, "UNREADABLE"),
        (_moved, "GRID_DIFFERS"),
        (_twice, "DUPLICATE"),
        (lambda ds: ds.SegmentSequence.append(copy.deepcopy(ds.SegmentSequence[0])), "DUPLICATE"),
    ],
)
def test_what_is_refused(edit: Edit, code: str) -> None:
    """A code each, and no verdict."""
    ds = edited.copied(LABELS)
    edit(ds)
    with pytest.raises(VerdictUnusable) as refused:
        compare_segmentation(edited.reread(ds), LABELS, Tie.TRACKING)
    assert refused.value.code == code


def test_it_is_matched_with_its_call(tmp_path: Path) -> None:
    """By its class, as it comes from the spool; another class speaks of nothing."""
    found, known = phantom.findings(*masks()), phantom.manifest(lesions=True)
    (tmp_path / "sr.dcm").write_bytes(write_sr(found, known, phantom.REF, phantom.series(SHAPE), LABELS, CONTEXT))
    LABELS.save_as(tmp_path / "seg.dcm")

    def rub(pixels: NDArray[np.uint8]) -> None:
        pixels[pixels == 2] = 0

    (tmp_path / "theirs.dcm").write_bytes(edited.file_of(labelled(rub)))
    base = Base(phantom.CALL, tmp_path / "sr.dcm", tmp_path / "seg.dcm", frozenset({str(LABELS.SOPInstanceUID)}))
    judged = judge(tmp_path / "theirs.dcm", LABEL_MAP_STORAGE, [base])
    assert (judged.call, judged.channel, judged.verdict.reasons) == (phantom.CALL, "SEG", ("FALSE_POSITIVE",))
    with pytest.raises(VerdictUnmatched) as refused:
        judge(tmp_path / "theirs.dcm", "1.2.840.10008.5.1.4.1.1.66.5", [base])
    assert refused.value.code == "CLASS_UNSUPPORTED"
