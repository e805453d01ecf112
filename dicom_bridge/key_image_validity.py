"""The last check before a key image may be sent, on the bytes that will be sent; see `validity`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import numpy as np
from pydicom.dataset import Dataset
from pydicom.uid import SecondaryCaptureImageStorage

from dicom_bridge.validity import TEXT_MARKS, OutputInvalid, read_common, readable

_TOP_ROWS: Final = 36
"""The marking's line is in these, and no other; the last line of what stands below is in as many at the bottom."""
_CORNER: Final = 0.15
"""Of the width, left and right: where viewers lay their own text, ours must not be."""
_OF_GEOMETRY: Final = ("FrameOfReferenceUID", "ImagePositionPatient", "ImageOrientationPatient", "PixelSpacing")
_DECLARED: Final = (
    ("Modality", "OT"),
    ("ConversionType", "WSD"),
    ("BurnedInAnnotation", "YES"),
    ("PhotometricInterpretation", "RGB"),
    ("SamplesPerPixel", 3),
    ("BitsAllocated", 8),
    ("BitsStored", 8),
    ("PlanarConfiguration", 0),
)


def check_key_image(data: bytes, sources: Sequence[Dataset], *, outlined: bool = True) -> Dataset:
    """Read a key image's bytes and refuse what must not be sent; gives the data set read. Raises OutputInvalid.

    `outlined`: whether something is; where it is not, nothing may look as if it were, and words say so below the slice.
    """
    with readable():
        ds = read_common(data, str(SecondaryCaptureImageStorage), sources)
        for keyword, value in _DECLARED:
            if ds.get(keyword) != value:
                raise OutputInvalid("KEY_IMAGE_UNDECLARED", keyword)
        if list(ds.ImageType[:2]) != ["DERIVED", "SECONDARY"]:
            raise OutputInvalid("KEY_IMAGE_UNDECLARED", "ImageType")
        if not ds.get("BodyPartExamined"):
            raise OutputInvalid("KEY_IMAGE_UNDECLARED", "BodyPartExamined")
        # With the geometry of a slice it would be taken for one, and measured on.
        if any(keyword in ds for keyword in _OF_GEOMETRY):
            raise OutputInvalid("KEY_IMAGE_UNDECLARED", "geometry")
        for keyword in ("DerivationDescription", "ImageComments"):
            if not any(mark in str(ds.get(keyword, "")) for mark in TEXT_MARKS):
                raise OutputInvalid("MARKING_MISSING", keyword)
        _check_source(ds, sources)
        _check_pixels(ds, outlined=outlined)
        return ds


def _check_source(ds: Dataset, sources: Sequence[Dataset]) -> None:
    items = ds.get("SourceImageSequence") or []
    named = [(str(i.ReferencedSOPInstanceUID), str(i.get("ReferencedFrameNumber", ""))) for i in items]
    slices = {(str(s.SOPInstanceUID), str(s.get("ReferencedFrameNumber", ""))) for s in sources}
    if len(named) != 1 or named[0] not in slices:
        raise OutputInvalid("DERIVATION_MISSING", "the picture does not name the one slice that it shows")


def _check_pixels(ds: Dataset, *, outlined: bool) -> None:
    size = ds.Rows * ds.Columns * 3
    if len(ds.PixelData) != size + size % 2 or ds.Rows <= _TOP_ROWS:
        raise OutputInvalid("GRID_MISMATCH", "pixel data are not as long as the picture")
    canvas = np.frombuffer(ds.PixelData, dtype=np.uint8, count=size).reshape(ds.Rows, ds.Columns, 3)
    corner = round(ds.Columns * _CORNER)
    top, bottom = canvas[:_TOP_ROWS], canvas[-_TOP_ROWS:]
    if not top[:, corner:-corner].any():
        raise OutputInvalid("MARKING_MISSING", "nothing is written at the top of the picture")
    if any(band[:, side].any() for band in (top, bottom) for side in (slice(corner), slice(-corner, None))):
        raise OutputInvalid("KEY_IMAGE_PIXELS", "something is drawn in a corner")
    # The picture is grey and so is its text; without one pixel of a colour below the marking nothing is outlined.
    rest = canvas[_TOP_ROWS:]
    coloured = bool((rest.max(axis=2) != rest.min(axis=2)).any())
    if coloured is not outlined:
        raise OutputInvalid("KEY_IMAGE_PIXELS", "nothing is outlined" if outlined else "something is outlined")
    if not outlined and not bottom[:, corner:-corner].any():
        raise OutputInvalid("KEY_IMAGE_PIXELS", "nothing is written below the slice")
