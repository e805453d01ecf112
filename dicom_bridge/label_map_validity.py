"""The last check before a label map may be sent, beside `validity.py`: valid, or not sent."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from pydicom.dataset import Dataset

from dicom_bridge.frame_rules import check_pixels, check_source_series, slices_shown
from dicom_bridge.segment_pixels import LABEL_MAP_STORAGE, described
from dicom_bridge.unfit import require
from dicom_bridge.validity import check_identities, macro_identity, read_common, readable


def check_label_map(data: bytes, sources: Sequence[Dataset]) -> Dataset:
    """Read a label map's bytes and refuse what must not be sent; gives the data set read. Raises OutputInvalid."""
    with readable():
        return _label_map(data, sources)


def _label_map(data: bytes, sources: Sequence[Dataset]) -> Dataset:
    ds = read_common(data, LABEL_MAP_STORAGE, sources)
    check_source_series(ds, sources)
    check_pixels(ds, "LABELMAP")
    require(ds.get("SegmentsOverlap") == "NO", "SEGMENTS_OVERLAP", "a label map cannot overlap")
    shown = slices_shown(ds, sources)
    require(len(set(shown)) == len(shown), "SEGMENT_DUPLICATE", "two frames on one slice")
    # With a number of its own, a frame would speak of one segment only, and show others.
    named = any("SegmentIdentificationSequence" in frame for frame in ds.PerFrameFunctionalGroupsSequence)
    require(not named, "SEGMENT_REFERENCE_WRONG", "a frame of a label map names a segment")
    segments = list(described(ds))
    numbers = [int(segment.SegmentNumber) for segment in segments]
    require(numbers == list(range(1, len(numbers) + 1)), "SEGMENT_UNKNOWN", "numbers are not contiguous from 1")
    everything = [int(segment.SegmentNumber) for segment in ds.SegmentSequence]
    background = sorted(everything) == [0, *numbers] and ds.get("PixelPaddingValue") == 0
    require(background, "SEGMENT_UNKNOWN", "the background is not 0, or not described")
    size = int(ds.NumberOfFrames) * ds.Rows * ds.Columns
    drawn = set(np.unique(np.frombuffer(ds.PixelData, dtype=np.uint8, count=size)).tolist()) - {0}
    require(drawn <= set(numbers), "SEGMENT_UNKNOWN", "a pixel has a number that no segment has")
    require(drawn == set(numbers), "SEGMENT_EMPTY", "a described segment has no pixel")
    for segment in segments:
        require(bool(segment.get("TrackingUID") and segment.get("TrackingID")), "TRACKING_MISSING", "in SEG")
    check_identities(ds, [macro_identity(segment) for segment in ds.SegmentSequence])
    return ds
