"""What any segmentation with a byte or more for each pixel must hold to be sent; a part of the last check.

Like `validity.py`, this reads the bytes that will be sent, with no writer code.
"""

from __future__ import annotations

from collections.abc import Sequence

from pydicom.dataset import Dataset

from dicom_bridge.unfit import require
from dicom_bridge.validity import slice_of


def check_source_series(ds: Dataset, sources: Sequence[Dataset]) -> None:
    """It names the source series, each instance once, and has its rows and columns."""
    listed = [
        (str(series.SeriesInstanceUID), str(instance.ReferencedSOPInstanceUID))
        for series in ds.get("ReferencedSeriesSequence") or []
        for instance in series.ReferencedInstanceSequence
    ]
    wanted = sorted({(str(s.SeriesInstanceUID), str(s.SOPInstanceUID)) for s in sources})
    require(sorted(listed) == wanted, "SERIES_REFERENCE_MISSING", "the referenced series is not the source series")
    require((ds.Rows, ds.Columns) == (sources[0].Rows, sources[0].Columns), "GRID_MISMATCH", "rows or columns differ")
    require(ds.FrameOfReferenceUID == sources[0].FrameOfReferenceUID, "GRID_MISMATCH", "another frame of reference")


def check_pixels(ds: Dataset, kind: str) -> None:
    """It is of this Segmentation Type, unsigned, of 8 bits, and as long as it says."""
    form = (ds.SegmentationType, ds.SamplesPerPixel, ds.BitsAllocated, ds.BitsStored, ds.HighBit)
    right = form == (kind, 1, 8, 8, 7) and ds.PixelRepresentation == 0
    require(right, "GRID_MISMATCH", "not the type, or not one unsigned byte for each pixel")
    count = int(ds.get("NumberOfFrames", 0))
    require(len(ds.PerFrameFunctionalGroupsSequence) == count > 0, "SEGMENTATION_EMPTY", "no frame")
    size = count * ds.Rows * ds.Columns
    require(len(ds.PixelData) == size + size % 2, "GRID_MISMATCH", "pixel data are not as long as the frames")


def slices_shown(ds: Dataset, sources: Sequence[Dataset]) -> list[tuple[str, str]]:
    """The slice of the source on which each frame lies: the one that it names, whose position it has."""
    known = {slice_of(s): [float(v) for v in s.ImagePositionPatient] for s in sources}
    (shared,) = ds.SharedFunctionalGroupsSequence
    turned, spacing = (shared.PlaneOrientationSequence[0], shared.PixelMeasuresSequence[0])
    same = list(turned.ImageOrientationPatient) == list(sources[0].ImageOrientationPatient)
    require(same and list(spacing.PixelSpacing) == list(sources[0].PixelSpacing), "GRID_MISMATCH", "another plane")
    found = []
    for frame in ds.PerFrameFunctionalGroupsSequence:
        images = [i for d in frame.get("DerivationImageSequence") or [] for i in d.get("SourceImageSequence") or []]
        require(len(images) == 1, "DERIVATION_MISSING", "a frame does not name its source slice")
        planes = frame.get("PlanePositionSequence") or []
        require(len(planes) == 1, "DERIVATION_MISSING", "a frame has no position")
        named = (str(images[0].ReferencedSOPInstanceUID), str(images[0].get("ReferencedFrameNumber", "")))
        at = [float(v) for v in planes[0].ImagePositionPatient]
        require(known.get(named) == at, "DERIVATION_MISSING", "a frame's position is not that of its source slice")
        found.append(named)
    return found
