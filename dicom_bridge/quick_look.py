"""A segment of a result on the one slice where it is largest, as a PNG: read from our SEG and one received file.

For people who look at a study in a browser. Cheap: of the SEG only the segment's own frames are unpacked, of the series
one image is read. The pixels are a patient's; who may see them is the caller's matter.
"""

from __future__ import annotations

import io
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from pydicom import dcmread
from pydicom.dataset import Dataset

from dicom_bridge import pixels
from dicom_bridge.errors import BridgeError, Fault, VolumeRefused
from dicom_bridge.heads import UNREADABLE
from dicom_bridge.key_picture import Picture, draw
from dicom_bridge.keyimage import window_of
from dicom_bridge.result_context import MARKING
from dicom_bridge.segment_pixels import described, frame_numbers, mask_of
from dicom_bridge.volume import read_slices

FRAMES_MAX: Final = 2000
"""Of a SEG that is read for a picture: a second of work, and some hundred megabytes at most."""


class LookRefused(BridgeError):
    """There is no picture; the code says why."""

    CODES = frozenset({"LOOK_UNREADABLE", "LOOK_TOO_LARGE", "LOOK_SOURCE_GONE"})
    fault = Fault.INPUT


@dataclass(frozen=True, slots=True)
class Named:
    """A segment of a SEG."""

    number: int
    label: str


def segments(segmentation: Path) -> tuple[Named, ...]:
    """The segments that a SEG describes. Raises LookRefused."""
    try:
        tags = ["SOPClassUID", "PixelPaddingValue", "SegmentSequence"]
        seg = dcmread(segmentation, stop_before_pixels=True, specific_tags=list(tags))
        return tuple(Named(int(one.SegmentNumber), str(one.SegmentLabel)) for one in described(seg))
    except UNREADABLE:
        raise LookRefused("LOOK_UNREADABLE", "the segmentation cannot be read") from None


def picture(segmentation: Path, number: int, sources: Mapping[str, Path], *, frames_max: int = FRAMES_MAX) -> bytes:
    """Segment `number` outlined on its key slice, with the marking; PNG. `sources`: files by SOP Instance UID.

    Raises LookRefused (LOOK_SOURCE_GONE where that image is not among the sources, or its file is gone).
    """
    try:
        seg = dcmread(segmentation, defer_size="1 MB")
        if int(seg.NumberOfFrames) > frames_max:
            raise LookRefused("LOOK_TOO_LARGE", f"a segmentation of more than {frames_max} frames is for a viewer")
        shown = next(one for one in described(seg) if one.SegmentNumber == number)
        mask, source = _key_frame(seg, number)
        uid = str(source.ReferencedSOPInstanceUID)
        if uid not in sources:
            raise LookRefused("LOOK_SOURCE_GONE", "the image that is to be shown is not here any more")
        return _png(_picture(shown, mask, sources[uid], source.get("ReferencedFrameNumber")))
    except FileNotFoundError:
        raise LookRefused("LOOK_SOURCE_GONE", "the file is not here any more") from None
    except (*UNREADABLE, StopIteration, VolumeRefused):
        raise LookRefused("LOOK_UNREADABLE", "the segmentation or its image cannot be read") from None


def _key_frame(seg: Dataset, number: int) -> tuple[NDArray[np.bool_], Dataset]:
    """The segment's frame (R, C) with the most pixels, the first of several, and what it refers to."""
    frames = [
        (at, frame)
        for at, frame in enumerate(seg.PerFrameFunctionalGroupsSequence)
        if number in frame_numbers(seg, at, frame, frame)
    ]
    masks = [mask_of(seg, at, number) for at, _ in frames]
    largest = max(range(len(masks)), key=lambda at: int(masks[at].sum()))
    return masks[largest], frames[largest][1].DerivationImageSequence[0].SourceImageSequence[0]


def _picture(segment: Dataset, mask: NDArray[np.bool_], path: Path, frame: int | None) -> Picture:
    shown = next(one for one in read_slices([path]) if one.frame == (None if frame is None else int(frame)))
    plane = np.empty(shown.shape, dtype=np.float32)
    pixels.read_into([shown], [plane])
    if plane.shape != mask.shape:
        raise LookRefused("LOOK_UNREADABLE", "mask and image are not of one size")
    rows, columns = shown.spacing
    label = str(segment.SegmentLabel)
    colour = [int(value) for value in segment.RecommendedDisplayCIELabValue]
    return Picture(
        plane=plane,
        mask=mask,
        spacing=(rows, columns),
        window=window_of([shown.header(whole=True)]),
        colour_lab=(colour[0], colour[1], colour[2]),
        # The font has no Chinese; the page says the name beside the picture.
        above=[MARKING["en-US"], *([f"Finding: {label}"] if label.isascii() else [])],
        below=["Outline by AI"],
    )


def _png(shown: Picture) -> bytes:
    out = io.BytesIO()
    Image.fromarray(draw(shown)).save(out, format="PNG")
    return out.getvalue()
