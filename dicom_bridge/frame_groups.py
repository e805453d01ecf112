"""The frames of a segmentation of any type: where each lies, and of which slice (PS3.3 C.7.6.16, C.7.6.17, C.12.2).

Written by hand (`explicit`): there may be thousands of frames, and what those of one slice have in common is made once.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Final

import numpy as np
from pydicom.dataset import Dataset
from pydicom.valuerep import DSfloat

from dicom_bridge import explicit
from dicom_bridge.composite import frame_number, referenced_series
from dicom_bridge.unfit import OutputInvalid
from models.codes import Code

Frames = Sequence[tuple[int | None, Sequence[int]]]
"""A segment's number and the indices k of the slices of its frames, in the order of the pixel data.

None in place of the number: the frames show all segments, and are the only ones."""

_SEGMENTATION: Final = Code("113076", "DCM", "Segmentation")
_SOURCE_IMAGE: Final = Code("121322", "DCM", "Source image for image processing operation")
_SEGMENT_IDENTIFICATION: Final = 0x0062000A
_IMAGE_POSITION: Final = 0x00200032
_PLANE_POSITION: Final = 0x00209113
_FRAME_CONTENT: Final = 0x00209111
_DIMENSION_INDEX_VALUES: Final = 0x00209157
_REFERENCED_SEGMENT_NUMBER: Final = 0x0062000B
_DERIVATION_IMAGE: Final = 0x00089124
_SOURCE_IMAGE_SEQUENCE: Final = 0x00082112
_SPATIAL_LOCATIONS_PRESERVED: Final = 0x0028135A
_PURPOSE_OF_REFERENCE: Final = 0x0040A170
_DERIVATION_CODE: Final = 0x00089215
_PER_FRAME_GROUPS: Final = 0x52009230
_REFERENCED_SERIES: Final = 0x00081115
_REFERENCED_INSTANCES: Final = 0x0008114A
_INDEX_BYTES: Final = 4
"""Of one Dimension Index Value (UL)."""


def put_frames(ds: Dataset, sources: Sequence[Dataset], frames: Frames, organization_uid: str) -> None:
    """Number of frames, their dimensions and functional groups, and the source series, each instance once.

    `sources` as for `segmentation.make_seg`. Raises OutputInvalid GRID_MISMATCH: the slices do not lie apart.
    """
    ds.NumberOfFrames = sum(len(planes) for _, planes in frames)
    by_segment = any(number is not None for number, _ in frames)
    _dimensions(ds, organization_uid, by_segment=by_segment)
    ds.SharedFunctionalGroupsSequence = [_shared_groups(sources)]
    explicit.put_sequence(ds, _PER_FRAME_GROUPS, _frame_groups(sources, frames, by_segment=by_segment))
    # Common Instance Reference (PS3.3 C.12.2): the whole series, whether or not a frame is of it.
    explicit.put_sequence(ds, _REFERENCED_SERIES, [referenced_series(sources, _REFERENCED_INSTANCES)])


def _dimensions(ds: Dataset, organization_uid: str, *, by_segment: bool) -> None:
    """Frames are indexed by segment, unless one shows all of them, then by position (PS3.3 C.7.6.17)."""
    organization = Dataset()
    organization.DimensionOrganizationUID = organization_uid
    ds.DimensionOrganizationSequence = [organization]
    indices = []
    segment = (_REFERENCED_SEGMENT_NUMBER, _SEGMENT_IDENTIFICATION, "Referenced Segment Number")
    position = (_IMAGE_POSITION, _PLANE_POSITION, "Image Position Patient")
    for pointer, group, label in (segment, position) if by_segment else (position,):
        item = Dataset()
        item.DimensionOrganizationUID = organization_uid
        item.DimensionIndexPointer = pointer
        item.FunctionalGroupPointer = group
        item.DimensionDescriptionLabel = label
        indices.append(item)
    ds.DimensionIndexSequence = indices


def _shared_groups(sources: Sequence[Dataset]) -> Dataset:
    """Pixel measures and plane orientation, the same for every frame because the series is one regular grid."""
    first = sources[0]
    measures = Dataset()
    measures.PixelSpacing = list(first.PixelSpacing)
    spacing = _slice_spacing(sources)
    measures.SliceThickness = DSfloat(_positive(first.get("SliceThickness")) or spacing, auto_format=True)
    if len(sources) > 1:
        measures.SpacingBetweenSlices = DSfloat(spacing, auto_format=True)
    orientation = Dataset()
    orientation.ImageOrientationPatient = list(first.ImageOrientationPatient)
    shared = Dataset()
    shared.PixelMeasuresSequence = [measures]
    shared.PlaneOrientationSequence = [orientation]
    return shared


def _slice_spacing(sources: Sequence[Dataset]) -> float:
    """Distance in mm between neighbouring slices, from positions alone: the header's own fields are not trusted."""
    if len(sources) == 1:
        return 1.0
    first, last = (np.array(ds.ImagePositionPatient, dtype=np.float64) for ds in (sources[0], sources[-1]))
    row, column = np.array(sources[0].ImageOrientationPatient, dtype=np.float64).reshape(2, 3)
    spacing = abs(float((last - first) @ np.cross(row, column))) / (len(sources) - 1)
    if not spacing > 0:
        raise OutputInvalid("GRID_MISMATCH", "the source's slices do not lie apart")
    return spacing


def _positive(value: object) -> float | None:
    try:
        number = float(str(value))
    except ValueError:
        return None
    return number if 0 < number < float("inf") else None


def _frame_groups(sources: Sequence[Dataset], frames: Frames, *, by_segment: bool) -> Iterator[bytes]:
    """One item of functional groups per frame, in the order of the pixel data (PS3.3 C.7.6.16).

    Every frame names the slice it was drawn on: a viewer that finds no Derivation Image draws on the wrong slice. One
    that shows all segments has no Segment Identification: which they are, its pixels say.
    """
    present = sorted({k for _, planes in frames for k in planes})
    parts = {k: _slice_groups(sources[k], rank, by_segment=by_segment) for rank, k in enumerate(present, start=1)}
    index = identification = b""
    for number, planes in frames:
        if number is not None:
            index = number.to_bytes(_INDEX_BYTES, "little")
            named = explicit.unsigned(_REFERENCED_SEGMENT_NUMBER, "US", [number])
            identification = explicit.sequence(_SEGMENT_IDENTIFICATION, [named])
        for k in planes:
            before, after = parts[k]
            yield b"".join((before, index, after, identification))


def _slice_groups(source: Dataset, rank: int, *, by_segment: bool) -> tuple[bytes, bytes]:
    """What the frames of one slice have in common, the slice's `rank` as their index in space: all but their segment.

    Before and after the segment's index, the first of the two numbers (UL) that then end Frame Content.
    """
    values = [0, rank] if by_segment else [rank]
    content = explicit.sequence(_FRAME_CONTENT, [explicit.unsigned(_DIMENSION_INDEX_VALUES, "UL", values)])
    position = "\\".join(str(v) for v in source.ImagePositionPatient)
    plane = explicit.sequence(_PLANE_POSITION, [explicit.text(_IMAGE_POSITION, "DS", position)])
    return _derived_from(source) + content[: -_INDEX_BYTES * len(values)], content[-_INDEX_BYTES:] + plane


def _derived_from(source: Dataset) -> bytes:
    """Derivation Image Sequence of one frame (PS3.3 C.7.6.16.2.6)."""
    image = explicit.reference_item(str(source.SOPClassUID), str(source.SOPInstanceUID), frame_number(source))
    # Without it readers that look masks up by source slice refuse: the mask might have been moved.
    image += explicit.text(_SPATIAL_LOCATIONS_PRESERVED, "CS", "YES")
    image += explicit.sequence(_PURPOSE_OF_REFERENCE, [explicit.code_item(_SOURCE_IMAGE)])
    derivation = explicit.sequence(_SOURCE_IMAGE_SEQUENCE, [image])
    derivation += explicit.sequence(_DERIVATION_CODE, [explicit.code_item(_SEGMENTATION)])
    return explicit.sequence(_DERIVATION_IMAGE, [derivation])
