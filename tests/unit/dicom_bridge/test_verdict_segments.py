"""An edited segmentation: how much of each segment is the same, which is gone, and what does not lie on our grid."""

from __future__ import annotations

import copy
from collections.abc import Callable
from decimal import Decimal

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydicom.dataset import Dataset
from pydicom.uid import generate_uid

from dicom_bridge import verdict_segments
from dicom_bridge.verdict import Change, Tie, Verdict
from dicom_bridge.verdict_segments import compare_segmentation, tie_of_segmentation
from dicom_bridge.verdict_tree import VerdictUnusable
from tests.simulators import edited
from tests.simulators import findings as phantom
from tests.unit.dicom_bridge.test_report import Results

SHAPE = (12, 31, 37)
"""Frames whose bits do not end with a byte."""


def ours_of(*sizes: float) -> Dataset:
    """A segmentation of ours, of one or two segments."""
    seg = Results(*(phantom.ellipsoid(SHAPE, size=size) for size in sizes)).seg
    assert seg is not None
    return seg


OURS = ours_of(0.35, 0.15)
BRAIN, BLEED = (str(one.TrackingUID) for one in OURS.SegmentSequence)
STRANGER = "1.2.840.99999.1.2.3.4"
Edit = Callable[[Dataset], object]


def said(edit: Edit, ours: Dataset = OURS, tie: Tie = Tie.TRACKING) -> Verdict:
    """What the segmentation says after this edit."""
    ds = edited.copied(ours)
    edit(ds)
    return compare_segmentation(edited.reread(ds), ours, tie)


def refused(edit: Edit) -> str:
    """The code with which an edit is refused."""
    with pytest.raises(VerdictUnusable) as caught:
        said(edit)
    return caught.value.code


def remove(ds: Dataset, number: int) -> None:
    """A viewer deletes a segment with its frames."""
    gone = set(edited.frames_of(ds, number))
    edited.keep_frames(ds, [i for i in range(int(ds.NumberOfFrames)) if i not in gone])
    ds.SegmentSequence = [one for one in ds.SegmentSequence if one.SegmentNumber != number]


def wipe(ds: Dataset, number: int) -> None:
    """A reader rubs out all of a segment."""
    frames = edited.pixels(ds)
    frames[edited.frames_of(ds, number)] = 0
    edited.draw(ds, frames)


def add(ds: Dataset, uid: str = STRANGER) -> None:
    """A segment of the reader's own, drawn where the last one lies."""
    like = edited.frames_of(ds, 2)
    new = copy.deepcopy(ds.SegmentSequence[1])
    new.SegmentNumber = 3
    edited.track(new, uid)
    ds.SegmentSequence.append(new)
    count = int(ds.NumberOfFrames)
    edited.keep_frames(ds, [*range(count), *like])
    for frame in ds.PerFrameFunctionalGroupsSequence[count:]:
        frame.SegmentIdentificationSequence[0].ReferencedSegmentNumber = 3


def outline(tracking: str, dice: float) -> Change:
    """The change of an outline."""
    return Change("DICE", tracking, None, f"{Decimal(dice).quantize(Decimal('0.0001'), 'ROUND_DOWN'):f}", "1")


def test_saved_again_says_nothing() -> None:
    """Unchanged: nothing; and no segmentation is ever an acceptance, as none can be verified."""
    assert said(lambda _: None) == Verdict(None)


def test_another_outline() -> None:
    """The Dice coefficient of that segment alone; who made it is the creator."""
    dice: list[float] = []

    def edit(ds: Dataset) -> None:
        dice.append(edited.shrink(ds))
        ds.ContentCreatorName = edited.READER

    found = said(edit)
    assert (found.decision, found.reasons) == ("MODIFY", ("OUTLINE",))
    assert found.changes == (outline(BRAIN, dice[0]),)
    assert found.observer == "invented^phantomreader=测试^阅片幻影"
    assert 0 < dice[0] < 1


def test_one_pixel_is_not_the_same() -> None:
    """Rounded down: only what is the same is 1."""

    def edit(ds: Dataset) -> None:
        frames = edited.pixels(ds)
        index = edited.frames_of(ds, 1)[0]
        place = np.argwhere(frames[index] == 0)[0]
        frames[index][tuple(place)] = 1
        edited.draw(ds, frames)

    (change,) = said(edit).changes
    assert change.after is not None
    assert Decimal("0.99") < Decimal(change.after) < 1


def test_frames_in_another_order_are_the_same() -> None:
    """A viewer numbers and orders as it likes: the place counts."""
    assert said(lambda ds: edited.keep_frames(ds, [*reversed(range(int(ds.NumberOfFrames)))])).decision is None


def test_an_empty_frame_is_no_frame() -> None:
    """A viewer that writes every slice says the same as one that leaves the empty ones out."""

    def edit(ds: Dataset) -> None:
        count, like = int(ds.NumberOfFrames), edited.frames_of(ds, 2)[0]
        edited.keep_frames(ds, [*range(count), like])
        frames = edited.pixels(ds)
        frames[-1] = 0
        edited.draw(ds, frames)
        plane = ds.PerFrameFunctionalGroupsSequence[-1].PlanePositionSequence[0]
        plane.ImagePositionPatient[2] += 8.0

    assert said(edit).decision is None


@pytest.mark.parametrize("edit", [remove, wipe])
def test_a_segment_taken_out(edit: Callable[[Dataset, int], None]) -> None:
    """Deleted or rubbed out: a false positive, of which nothing is the same."""
    found = said(lambda ds: edit(ds, 2))
    assert (found.decision, found.reasons) == ("MODIFY", ("FALSE_POSITIVE",))
    assert found.changes == (outline(BLEED, 0),)


def test_all_rubbed_out_is_a_rejection() -> None:
    """Nothing of ours is left."""

    def edit(ds: Dataset) -> None:
        wipe(ds, 1)
        remove(ds, 2)

    found = said(edit)
    assert (found.decision, found.reasons, found.changes) == ("REJECT", ("FALSE_POSITIVE",), ())


def test_a_segment_added() -> None:
    """A missed finding, if something is drawn; nothing of it gets into the verdict."""
    found = said(add)
    assert (found.decision, found.reasons, found.changes) == ("MODIFY", ("MISSED_FINDING",), ())

    def empty(ds: Dataset) -> None:
        add(ds)
        wipe(ds, 3)

    assert said(empty).decision is None


def test_another_kind_of_segment() -> None:
    """The same outline, called something else."""

    def edit(ds: Dataset) -> None:
        ds.SegmentSequence[1].SegmentedPropertyTypeCodeSequence[0].CodeValue = "79654002"

    assert said(edit).reasons == ("OTHER",)


def test_by_series_alone_only_what_is_there_counts() -> None:
    """Without tracking, the one segment of its kind is compared; left out and added are nobody's."""

    def edit(ds: Dataset) -> None:
        for number, one in enumerate(ds.SegmentSequence):
            edited.track(one, f"{STRANGER}.{number}")
        edited.shrink(ds)
        remove(ds, 2)

    found = said(edit, tie=Tie.REFERENCE)
    assert (found.reasons, [one.tracking for one in found.changes]) == (("OUTLINE",), [BRAIN])


# ---- what ties it to ours --------------------------------------------------------------------------------------------


def tie_after(edit: Edit) -> Tie:
    """The tie after this edit."""
    ds = edited.copied(OURS)
    edit(ds)
    return tie_of_segmentation(edited.reread(ds), OURS)


def _retrack(ds: Dataset) -> None:
    for one in ds.SegmentSequence:
        one.TrackingUID = generate_uid()


def _untrack(ds: Dataset) -> None:
    for one in ds.SegmentSequence:
        del one.TrackingUID


def _other_series(ds: Dataset) -> None:
    _retrack(ds)
    ds.ReferencedSeriesSequence[0].SeriesInstanceUID = STRANGER


def _other_things(ds: Dataset) -> None:
    _retrack(ds)
    for one in ds.SegmentSequence:
        one.SegmentedPropertyTypeCodeSequence[0].CodeValue = "4147007"


@pytest.mark.parametrize(
    ("edit", "tie"),
    [
        (lambda _: None, Tie.TRACKING),
        (_retrack, Tie.REFERENCE),
        (_untrack, Tie.REFERENCE),
        (_other_series, Tie.NONE),
        (_other_things, Tie.NONE),
    ],
)
def test_what_ties_a_segmentation_to_ours(edit: Edit, tie: Tie) -> None:
    """Tracking, else the same source series and a kind that is there once; a reader's own drawing is neither."""
    assert tie_after(edit) is tie


# ---- what is refused -------------------------------------------------------------------------------------------------


def _other_frame_of_reference(ds: Dataset) -> None:
    ds.FrameOfReferenceUID = STRANGER


def _moved(axis: int, mm: float) -> Edit:
    def edit(ds: Dataset) -> None:
        for frame in ds.PerFrameFunctionalGroupsSequence:
            frame.PlanePositionSequence[0].ImagePositionPatient[axis] += mm

    return edit


def _turned(ds: Dataset) -> None:
    plane = ds.SharedFunctionalGroupsSequence[0].PlaneOrientationSequence[0]
    plane.ImageOrientationPatient = [0.999, 0.0447, 0.0, -0.0447, 0.999, 0.0]


def _mirrored(ds: Dataset) -> None:
    ds.SharedFunctionalGroupsSequence[0].PlaneOrientationSequence[0].ImageOrientationPatient = [-1, 0, 0, 0, 1, 0]


def _spaced(ds: Dataset) -> None:
    ds.SharedFunctionalGroupsSequence[0].PixelMeasuresSequence[0].PixelSpacing = [1.26, 1]


def _nan(ds: Dataset) -> None:
    ds.PerFrameFunctionalGroupsSequence[0].PlanePositionSequence[0].ImagePositionPatient = ["nan", "0", "0"]


def _far(ds: Dataset) -> None:
    ds.PerFrameFunctionalGroupsSequence[0].PlanePositionSequence[0].ImagePositionPatient = ["1e300", "0", "0"]


def _half(ds: Dataset) -> None:
    ds.Rows = int(ds.Rows) // 2


def _twice(ds: Dataset) -> None:
    edited.keep_frames(ds, [*range(int(ds.NumberOfFrames)), 0])


def _short(ds: Dataset) -> None:
    ds.PixelData = ds.PixelData[:10]


def _more_frames(ds: Dataset) -> None:
    ds.NumberOfFrames = int(ds.NumberOfFrames) + 1


def _no_such_segment(ds: Dataset) -> None:
    ds.PerFrameFunctionalGroupsSequence[0].SegmentIdentificationSequence[0].ReferencedSegmentNumber = 9


def _same_number(ds: Dataset) -> None:
    ds.SegmentSequence[1].SegmentNumber = 1


def _same_tracking(ds: Dataset) -> None:
    ds.SegmentSequence[1].TrackingUID = ds.SegmentSequence[0].TrackingUID


def _fractional(ds: Dataset) -> None:
    ds.SegmentationType = "FRACTIONAL"


def _bytes(ds: Dataset) -> None:
    ds.BitsAllocated = 8


@pytest.mark.parametrize(
    ("edit", "code"),
    [
        (_other_frame_of_reference, "GRID_DIFFERS"),
        (_moved(0, 0.5), "GRID_DIFFERS"),
        (_moved(1, 0.5), "GRID_DIFFERS"),
        (_moved(2, 1.0), "GRID_DIFFERS"),
        (_turned, "GRID_DIFFERS"),
        (_mirrored, "GRID_DIFFERS"),
        (_spaced, "GRID_DIFFERS"),
        (_nan, "GRID_DIFFERS"),
        (_far, "GRID_DIFFERS"),
        (_half, "GRID_DIFFERS"),
        (_twice, "DUPLICATE"),
        (_same_number, "DUPLICATE"),
        (_same_tracking, "DUPLICATE"),
        (_short, "UNREADABLE"),
        (_more_frames, "UNREADABLE"),
        (_no_such_segment, "UNREADABLE"),
        (_fractional, "KIND_DIFFERS"),
        (_bytes, "KIND_DIFFERS"),
    ],
)
def test_what_cannot_be_compared(edit: Edit, code: str) -> None:
    """A code, and no verdict: nothing is resampled, nothing guessed."""
    assert refused(edit) == code


def test_a_whole_slice_further_is_another_outline() -> None:
    """On the grid, and not where it was: compared like any other."""
    assert said(_moved(2, 2.0)).reasons == ("OUTLINE",)


def test_more_frames_than_are_looked_at() -> None:
    """A limit, whatever was sent: it is asked before the frames are."""
    ds = edited.copied(OURS)
    count = verdict_segments.FRAMES_MAX + 1
    ds.PerFrameFunctionalGroupsSequence = [ds.PerFrameFunctionalGroupsSequence[0]] * count
    ds.NumberOfFrames = count
    ds.PixelData = bytes(count * int(ds.Rows) * int(ds.Columns) // 8 + 1)
    with pytest.raises(VerdictUnusable, match="UNREADABLE"):
        compare_segmentation(ds, OURS, Tie.TRACKING)


@settings(max_examples=40, deadline=None)
@given(seed=st.integers(0, 2**32 - 1), share=st.floats(0.0, 1.0))
def test_dice_is_what_whole_arrays_give(seed: int, share: float) -> None:
    """Frame by frame, bits that end in no byte: the same as counted on whole arrays."""
    ours = ours_of(0.35)
    before = edited.pixels(ours)
    flips = np.random.default_rng(seed).random(before.shape) < share * 0.2
    after = (before ^ flips).astype(np.uint8)
    found = said(lambda ds: edited.draw(ds, after), ours)
    dice = Decimal(2 * int((before & after).sum())) / Decimal(int(before.sum()) + int(after.sum()))
    assert found.decision == (None if dice == 1 else "MODIFY")
    for one in found.changes:
        assert one.after is not None
        assert 0 <= dice - Decimal(one.after) < Decimal("0.0001")


@pytest.mark.filterwarnings("ignore::UserWarning")  # what pydicom makes the best of, so does the service
@settings(max_examples=60, deadline=None)
@given(at=st.integers(0, 20_000), byte=st.integers(0, 255))
def test_garbled_objects_are_refused_or_compared(at: int, byte: int) -> None:
    """Any byte of the header another: a verdict or a code, and nothing else comes out."""
    import io

    from pydicom import dcmread
    from pydicom.errors import InvalidDicomError

    data = bytearray(edited.file_of(edited.copied(OURS)))
    data[400 + at % (len(data) - 400)] = byte
    try:
        theirs = dcmread(io.BytesIO(bytes(data)))
    except (InvalidDicomError, *verdict_segments.UNREADABLE):
        return
    try:
        tie = tie_of_segmentation(theirs, OURS)
        if tie is not Tie.NONE:
            compare_segmentation(theirs, OURS, tie)
    except VerdictUnusable as error:
        assert error.code in VerdictUnusable.CODES  # noqa: PT017 - either way is right
