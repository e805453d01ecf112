"""Which pixels of a segmentation are of which segment: frames of one bit each, or one map of segment numbers. Pure.

BINARY (…66.4): each frame is of one segment. LABELMAP (…66.7, Supplement 243): pixels are numbers of segments, and the
one that is Pixel Padding Value is the background, which is described like a segment, and is none.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

import numpy as np
from numpy.typing import NDArray
from pydicom.dataset import Dataset
from pydicom.uid import SegmentationStorage

from dicom_bridge.packed import frame_of

LABEL_MAP_STORAGE: Final = "1.2.840.10008.5.1.4.1.1.66.7"
"""Label Map Segmentation Storage; pydicom 3.0 has no name for it."""
SEGMENTATIONS: Final = frozenset({str(SegmentationStorage), LABEL_MAP_STORAGE})
"""The classes that a segmentation of ours, or a reader's, can have."""
BACKGROUND: Final = ("DCM", "125040")


def is_label_map(ds: Dataset) -> bool:
    """Whether its pixels are numbers of segments."""
    return str(ds.get("SOPClassUID", "")) == LABEL_MAP_STORAGE


def readable_kind(ds: Dataset) -> bool:
    """Whether `mask_of` can read it: BINARY, or a label map of 8 or 16 bits."""
    kind = (str(ds.get("SegmentationType", "")), int(ds.get("BitsAllocated", 0)))
    return kind in ({("LABELMAP", 8), ("LABELMAP", 16)} if is_label_map(ds) else {("BINARY", 1)})


def described(ds: Dataset) -> Iterator[Dataset]:
    """The items of its segments, without a label map's background: what Pixel Padding Value says, else its code."""
    for item in ds.get("SegmentSequence") or ():
        if not (is_label_map(ds) and _is_background(ds, item)):
            yield item


def frame_numbers(ds: Dataset, index: int, frame: Dataset, shared: Dataset) -> tuple[int, ...]:
    """The numbers of the described segments that frame `index`, with these groups, is of: of a label map, several.

    Raises ValueError for a number in a label map that is neither described nor background.
    """
    if not is_label_map(ds):
        groups = frame if "SegmentIdentificationSequence" in frame else shared
        return (int(groups.SegmentIdentificationSequence[0].ReferencedSegmentNumber),)
    known = {int(item.SegmentNumber) for item in described(ds)}
    # 0 that nothing describes is what writers of before the standard's final text left for the background.
    ground = {int(item.SegmentNumber) for item in ds.SegmentSequence} - known | {int(ds.get("PixelPaddingValue", 0))}
    found = {int(number) for number in np.flatnonzero(np.bincount(_labels(ds, index).ravel()))} - ground
    if found - known:
        raise ValueError("a pixel of a segment that is not described")
    return tuple(sorted(found))


def mask_of(ds: Dataset, index: int, number: int) -> NDArray[np.bool_]:
    """Where frame `index`, one of those of segment `number`, shows that segment (R, C). ValueError: not all there."""
    if is_label_map(ds):
        return np.asarray(_labels(ds, index) == number, dtype=np.bool_)
    return frame_of(ds.PixelData, index, (int(ds.Rows), int(ds.Columns)))


def _labels(ds: Dataset, index: int) -> NDArray[np.uint16] | NDArray[np.uint8]:
    rows, columns = int(ds.Rows), int(ds.Columns)
    kind = np.dtype("<u2" if ds.BitsAllocated == 16 else np.uint8)
    begin = index * rows * columns * kind.itemsize
    numbers: NDArray[np.uint16] = np.frombuffer(ds.PixelData, dtype=kind, count=rows * columns, offset=begin)
    return numbers.reshape(rows, columns)


def _is_background(ds: Dataset, item: Dataset) -> bool:
    if "PixelPaddingValue" in ds:
        return int(item.SegmentNumber) == int(ds.PixelPaddingValue)
    codes = item.get("SegmentedPropertyTypeCodeSequence") or ()
    named = [(str(code.get("CodingSchemeDesignator", "")), str(code.get("CodeValue", ""))) for code in codes]
    return int(item.SegmentNumber) == 0 and named == [BACKGROUND]
