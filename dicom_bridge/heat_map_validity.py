"""The last check before heat maps may be sent, beside `validity.py`: valid, or not sent."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import numpy as np
from pydicom.dataset import Dataset
from pydicom.uid import SegmentationStorage

from dicom_bridge.frame_rules import check_pixels, check_source_series, slices_shown
from dicom_bridge.unfit import require
from dicom_bridge.validity import check_identities, macro_identity, read_common, readable

_MAXIMUM: Final = 255


def check_heat_maps(data: bytes, sources: Sequence[Dataset]) -> Dataset:
    """Read their bytes and refuse what must not be sent; gives the data set read. Raises OutputInvalid."""
    with readable():
        return _heat_maps(data, sources)


def _heat_maps(data: bytes, sources: Sequence[Dataset]) -> Dataset:
    ds = read_common(data, SegmentationStorage, sources)
    check_source_series(ds, sources)
    check_pixels(ds, "FRACTIONAL")
    # OCCUPANCY would say how much of a voxel something fills, which no model of ours tells.
    scale = (ds.get("SegmentationFractionalType"), ds.get("MaximumFractionalValue"))
    require(scale == ("PROBABILITY", _MAXIMUM), "HEAT_MAP_SCALE", "not probabilities, or not of 255")
    numbers = [int(segment.SegmentNumber) for segment in ds.SegmentSequence]
    require(numbers == list(range(1, len(numbers) + 1)), "SEGMENT_UNKNOWN", "numbers are not contiguous from 1")
    of = [_segment_of(frame) for frame in ds.PerFrameFunctionalGroupsSequence]
    places = list(zip(of, slices_shown(ds, sources), strict=True))
    require(len(set(places)) == len(places), "SEGMENT_DUPLICATE", "two frames of one map on one slice")
    require(set(of) <= set(numbers), "SEGMENT_UNKNOWN", "a frame of a map that is not described")
    require(set(of) == set(numbers), "SEGMENT_EMPTY", "a described map has no frame")
    size = ds.Rows * ds.Columns
    frames = np.frombuffer(ds.PixelData, dtype=np.uint8, count=len(of) * size).reshape(len(of), size)
    require(bool(frames.any(axis=1).all()), "SEGMENT_EMPTY", "a frame without a value")
    for segment in ds.SegmentSequence:
        require(bool(segment.get("TrackingUID") and segment.get("TrackingID")), "TRACKING_MISSING", "in heat map")
    check_identities(ds, [macro_identity(segment) for segment in ds.SegmentSequence])
    return ds


def _segment_of(frame: Dataset) -> int:
    (item,) = frame.get("SegmentIdentificationSequence") or [None]
    require(item is not None, "SEGMENT_REFERENCE_WRONG", "a frame of no map")
    return int(item.ReferencedSegmentNumber)
