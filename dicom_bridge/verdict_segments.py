"""What a person's edited segmentation says of ours: which segments are there, and how much of each is the same. Pure.

Both have to lie on one grid: no mask is resampled, as what is measured then would measure the resampling too. A
segment is ours by its tracking UID; else, in a segmentation of the same source series, by being the only one of its
category and type on either side, and then nothing is concluded from what is not there. Memory: one frame at a time.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from decimal import ROUND_DOWN, Decimal
from typing import Final

import numpy as np
import numpy.typing as npt
from pydicom.dataset import Dataset

from dicom_bridge.errors import CharsetRefused
from dicom_bridge.heads import UNREADABLE
from dicom_bridge.segment_pixels import described, frame_numbers, mask_of, readable_kind
from dicom_bridge.verdict import CHANGES_MAX, Change, Tie, Verdict, person_in
from dicom_bridge.verdict_tree import VerdictUnusable

DICE: Final = "DICE"
"""What stands for a concept where an outline was changed: the Dice coefficient of the segment before and after."""
FRAMES_MAX: Final = 65_536
_SAME_DIRECTION: Final = 1e-3
_SAME_PLACE: Final = 0.05
"""Of a pixel, or of the step between two slices: viewers write decimals; half a pixel would be another grid."""
_DIGITS: Final = Decimal("0.0001")


@dataclass(frozen=True, slots=True)
class _Segment:
    """`frames`: index of the frame by plane; those without a pixel are left out."""

    number: int
    tracking: str
    kind: tuple[str, ...]
    frames: Mapping[int, int]


@dataclass(frozen=True, slots=True)
class _Grid:
    """Our own. `shape`: rows, columns; `axes` (3, 3): mm (LPS) from row to row, column to column, slice to slice."""

    frame_of_reference: str
    shape: tuple[int, int]
    axes: npt.NDArray[np.float64]
    origin: npt.NDArray[np.float64]


def tie_of_segmentation(theirs: Dataset, ours: Dataset) -> Tie:
    """What ties a segmentation to ours. Raises VerdictUnusable."""
    try:
        if {uid for uid, _ in _described(theirs).values() if uid} & {uid for uid, _ in _described(ours).values()}:
            return Tie.TRACKING
        return Tie.REFERENCE if _sources(theirs) & _sources(ours) and _alike(theirs, ours) else Tie.NONE
    except UNREADABLE as error:
        raise VerdictUnusable("UNREADABLE", type(error).__name__) from None


def compare_segmentation(theirs: Dataset, ours: Dataset, tie: Tie) -> Verdict:
    """What a segmentation that is tied to ours says of it: never ACCEPT, as none can be verified.

    Either may be a label map. Raises VerdictUnusable; KIND_DIFFERS where it is neither that nor binary.
    """
    try:
        return _compared(theirs, ours, tie)
    except UNREADABLE as error:
        raise VerdictUnusable("UNREADABLE", type(error).__name__) from None


def _compared(theirs: Dataset, ours: Dataset, tie: Tie) -> Verdict:
    if not readable_kind(theirs):
        raise VerdictUnusable("KIND_DIFFERS", "a binary segmentation or a label map is wanted")
    grid = _grid(ours)
    was, now = _segments(ours, grid), _segments(theirs, grid)
    pairs = _alike(theirs, ours) if tie is Tie.REFERENCE else _tracked(was, now)
    reasons, changes = set[str](), list[Change]()
    for mine, other in pairs.items():
        old, new = was[mine], now[other]
        if new.kind != old.kind:
            reasons.add("OTHER")
        same = _dice(ours, old, theirs, new)
        if not new.frames:
            reasons.add("FALSE_POSITIVE")
        elif same != 1:
            reasons.add("OUTLINE")
        if same != 1:
            changes.append(Change(DICE, old.tracking, None, f"{same:f}", "1"))
    gone = [one for number, one in was.items() if number not in pairs] if tie is Tie.TRACKING else []
    new_ones = [one for number, one in now.items() if number not in pairs.values() and one.frames]
    reasons |= {"FALSE_POSITIVE"} if gone else set()
    reasons |= {"MISSED_FINDING"} if new_ones and tie is Tie.TRACKING else set()
    changes += [Change(DICE, one.tracking, None, "0.0000", "1") for one in gone]
    if not reasons:
        return Verdict(None)
    if len(changes) > CHANGES_MAX:
        raise VerdictUnusable("TOO_LARGE", "more is changed than an entry can hold")
    left = any(now[other].frames for other in pairs.values())
    if not left and not new_ones:
        return Verdict("REJECT", tuple(sorted(reasons)), (), _creator(theirs))
    return Verdict("MODIFY", tuple(sorted(reasons)), tuple(changes), _creator(theirs))


def _creator(ds: Dataset) -> str:
    try:
        return person_in(ds, ("ContentCreatorName",), ds)
    except CharsetRefused:
        return ""


def _described(ds: Dataset) -> dict[int, tuple[str, tuple[str, ...]]]:
    """Tracking UID and kind by segment number. Raises VerdictUnusable DUPLICATE."""
    found: dict[int, tuple[str, tuple[str, ...]]] = {}
    for item in described(ds):
        codes = [item.get(f"SegmentedProperty{name}CodeSequence") or () for name in ("Category", "Type")]
        kind = tuple(str(one[0].get("CodeValue", "")) if one else "" for one in codes)
        number = int(item.SegmentNumber)
        if number in found:
            raise VerdictUnusable("DUPLICATE", "two segments with one number")
        found[number] = str(item.get("TrackingUID", "")), kind
    tracking = [uid for uid, _ in found.values() if uid]
    if len(set(tracking)) != len(tracking):
        raise VerdictUnusable("DUPLICATE", "two segments with one tracking UID")
    return found


def _sources(ds: Dataset) -> set[str]:
    return {str(one.get("SeriesInstanceUID")) for one in ds.get("ReferencedSeriesSequence") or ()}


def _alike(theirs: Dataset, ours: Dataset) -> dict[int, int]:
    """Our segments and theirs, by number, that are the only ones of their kind on either side."""
    sides = []
    for ds in (ours, theirs):
        kinds = [(kind, number) for number, (_, kind) in _described(ds).items()]
        only = {kind: number for kind, number in kinds if all(kind) and [k for k, _ in kinds].count(kind) == 1}
        sides.append(only)
    mine, other = sides
    return {number: other[kind] for kind, number in mine.items() if kind in other}


def _tracked(was: Mapping[int, _Segment], now: Mapping[int, _Segment]) -> dict[int, int]:
    numbers = {one.tracking: number for number, one in now.items() if one.tracking}
    return {number: numbers[one.tracking] for number, one in was.items() if one.tracking in numbers}


def _grid(ours: Dataset) -> _Grid:
    first, shared = ours.PerFrameFunctionalGroupsSequence[0], ours.SharedFunctionalGroupsSequence[0]
    measures = shared.PixelMeasuresSequence[0]
    step = float(measures.get("SpacingBetweenSlices") or measures.SliceThickness)
    return _Grid(
        frame_of_reference=str(ours.FrameOfReferenceUID),
        shape=(int(ours.Rows), int(ours.Columns)),
        axes=_axes(first, shared) * np.array([1.0, 1.0, step]),
        origin=_position(first, shared),
    )


def _segments(ds: Dataset, grid: _Grid) -> dict[int, _Segment]:
    """The segments by number, each frame on its plane of the grid. Raises VerdictUnusable GRID_DIFFERS, DUPLICATE."""
    rows, columns = int(ds.Rows), int(ds.Columns)
    if (rows, columns) != grid.shape or str(ds.get("FrameOfReferenceUID", "")) != grid.frame_of_reference:
        raise VerdictUnusable("GRID_DIFFERS", "another size, or another frame of reference")
    frames, count = ds.PerFrameFunctionalGroupsSequence, int(ds.NumberOfFrames)
    if len(frames) != count or count > FRAMES_MAX or len(ds.PixelData) * 8 < count * rows * columns * ds.BitsAllocated:
        raise VerdictUnusable("UNREADABLE", "not as many frames, or pixels, as it says")
    placed: dict[int, dict[int, int]] = {number: {} for number in _described(ds)}
    for index, plane, number in _places(ds, grid):
        if plane in placed[number]:
            raise VerdictUnusable("DUPLICATE", "two frames of one segment in one place")
        placed[number][plane] = index
    return {
        number: _Segment(
            number,
            uid,
            kind,
            {plane: index for plane, index in placed[number].items() if mask_of(ds, index, number).any()},
        )
        for number, (uid, kind) in _described(ds).items()
    }


def _places(ds: Dataset, grid: _Grid) -> Iterator[tuple[int, int, int]]:
    """(index, plane, segment number) of each frame; of a label map, for each segment that it shows."""
    shared = (ds.get("SharedFunctionalGroupsSequence") or [Dataset()])[0]
    inverse = np.linalg.inv(grid.axes)
    reach = np.array(grid.shape, dtype=np.float64)
    for index, frame in enumerate(ds.PerFrameFunctionalGroupsSequence):
        off = np.abs(inverse @ _axes(frame, shared)[:, :2] - np.eye(3, 2)) @ reach
        place = inverse @ (_position(frame, shared) - grid.origin)
        plane = round(float(place[2]))
        if not (off <= _SAME_PLACE).all() or not (np.abs(place - [0.0, 0.0, plane]) <= _SAME_PLACE).all():
            raise VerdictUnusable("GRID_DIFFERS", "a frame does not lie on our grid")
        for number in frame_numbers(ds, index, frame, shared):
            yield index, plane, number


def _axes(frame: Dataset, shared: Dataset) -> npt.NDArray[np.float64]:
    """Columns: mm (LPS) from one row to the next, from one column to the next, and the normal of length 1."""
    turned = np.array([float(v) for v in _of(frame, shared, "PlaneOrientationSequence").ImageOrientationPatient])
    spacing = [float(v) for v in _of(frame, shared, "PixelMeasuresSequence").PixelSpacing]
    along_row, along_column = turned[:3], turned[3:]
    normal = np.cross(along_row, along_column)
    axes = np.column_stack([along_column * spacing[0], along_row * spacing[1], normal])
    if not np.isfinite(axes).all() or abs(float(np.linalg.norm(normal)) - 1) > _SAME_DIRECTION:
        raise VerdictUnusable("GRID_DIFFERS", "a frame without a plane")
    return axes


def _position(frame: Dataset, shared: Dataset) -> npt.NDArray[np.float64]:
    place = np.array([float(v) for v in _of(frame, shared, "PlanePositionSequence").ImagePositionPatient])
    if place.shape != (3,) or not np.isfinite(place).all():
        raise VerdictUnusable("GRID_DIFFERS", "a frame without a place")
    return place


def _of(frame: Dataset, shared: Dataset, name: str) -> Dataset:
    item: Dataset = (frame if name in frame else shared)[name].value[0]
    return item


def _dice(ours: Dataset, old: _Segment, theirs: Dataset, new: _Segment) -> Decimal:
    """2 |A and B| / (|A| + |B|), rounded down: 1 only where they are the same."""
    both = every = 0
    for plane in old.frames.keys() | new.frames.keys():
        masks = [
            mask_of(ds, one.frames[plane], one.number)
            for ds, one in ((ours, old), (theirs, new))
            if plane in one.frames
        ]
        every += sum(int(mask.sum(dtype=np.int64)) for mask in masks)
        both += int((masks[0] & masks[1]).sum(dtype=np.int64)) if len(masks) == 2 else 0
    return (Decimal(2 * both) / Decimal(every or 1)).quantize(_DIGITS, ROUND_DOWN)
