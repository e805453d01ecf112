"""Stored pixels of a file, frame by frame: read once, decoded one at a time, whatever the transfer syntax."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import partial
from typing import Any, Final

import numpy as np
import numpy.typing as npt
from pydicom.encaps import encapsulate, generate_frames
from pydicom.pixels import get_decoder
from pydicom.uid import UID

from dicom_bridge import jpeg_extended
from dicom_bridge.errors import VolumeRefused
from dicom_bridge.heads import UNREADABLE
from dicom_bridge.slices import PixelFormat, Rescale, Slice
from dicom_bridge.stream import DEFLATED_LE, EXPLICIT_BE, EXPLICIT_LE, IMPLICIT_LE
from inference.types import FloatArray

NATIVE: Final = frozenset({IMPLICIT_LE, EXPLICIT_LE, DEFLATED_LE, EXPLICIT_BE})

# One decoder each: where pydicom tries several, a damaged file would be read by the most tolerant, and the voxels
# would depend on what else is installed. (pyjpegls also takes seconds over a truncated codestream.)
_DECODERS: Final = {
    f"{IMPLICIT_LE}{tail}": name
    for name, tails in {
        "pydicom": (".5",),
        "gdcm": (".4.50", ".4.57", ".4.70", ".4.80", ".4.81"),
        jpeg_extended.NAME: (".4.51",),
        "pylibjpeg": (".4.90", ".4.91", ".4.201", ".4.202", ".4.203"),
    }.items()
    for tail in tails
}

_Stored = npt.NDArray[Any]


def read_into(slices: Sequence[Slice], targets: Sequence[FloatArray]) -> bool:
    """Decode slices of one file and write them, rescaled, into their targets (R, C) float32; padding becomes NaN.

    `slices` all have one `head`. True if there was padding. Raises VolumeRefused PIXELS_UNDECODABLE; OSError.
    """
    order = sorted(range(len(slices)), key=lambda at: slices[at].frame or 1)
    wanted = [(slices[at].frame or 1) - 1 for at in order]
    first = slices[0]
    frames = _native(first, wanted) if first.head.transfer_syntax in NATIVE else _compressed(first, wanted)
    padded = False
    for at, stored in zip(order, frames, strict=True):
        padded |= _place(stored, slices[at].rescale, targets[at])
    return padded


def _place(stored: _Stored, rescale: Rescale, target: FloatArray) -> bool:
    # Assigning casts on the way, so the stored integers are never copied.
    np.copyto(target, stored, casting="unsafe")
    if rescale.slope != 1.0:
        target *= np.float32(rescale.slope)
    if rescale.intercept != 0.0:
        target += np.float32(rescale.intercept)
    if rescale.padding is None:
        return False
    low, high = rescale.padding
    holes = (stored >= low) & (stored <= high)
    if not holes.any():
        return False
    target[holes] = np.nan
    return True


def _native(of: Slice, wanted: Sequence[int]) -> Iterator[_Stored]:
    """Frames that are not compressed (PS3.5 section 8.1.1): one read each, at its place."""
    form, head = of.format, of.head
    order = ">" if head.transfer_syntax == EXPLICIT_BE else "<"
    start, length = head.pixels or (0, 0)
    each = form.rows * form.columns * form.allocated // 8
    size = each * form.frames
    # An odd number of bytes is padded with one.
    if form.allocated not in (8, 16, 32) or length != size + size % 2:
        raise VolumeRefused("PIXELS_UNDECODABLE", "pixel data has not the size that its header states")
    kind = np.dtype(f"{order}{'i' if form.signed else 'u'}{form.allocated // 8}")
    if head.plain is not None:
        for index in wanted:
            at = start + index * each
            yield _value_bits(np.frombuffer(head.plain[at : at + each], dtype=kind), form)
        return
    with head.path.open("rb") as file:
        for index in wanted:
            file.seek(start + index * each)
            yield _value_bits(np.frombuffer(file.read(each), dtype=kind), form)


def _value_bits(stored: _Stored, form: PixelFormat) -> _Stored:
    """(R, C), without the bits above the stored ones: they are not part of the value."""
    if stored.size != form.rows * form.columns:
        raise VolumeRefused("PIXELS_UNDECODABLE", "the file has become shorter")
    stored = stored.reshape(form.rows, form.columns)
    spare = form.allocated - form.stored
    if spare and form.signed:
        # Shifting there and back extends the sign.
        stored = np.right_shift(np.left_shift(stored, spare), spare)
    elif spare:
        stored = np.bitwise_and(stored, stored.dtype.type((1 << form.stored) - 1))
    return stored


def _compressed(of: Slice, wanted: Sequence[int]) -> Iterator[_Stored]:
    """Encapsulated frames (PS3.5 annex A.4), found in one walk over the fragments; only the wanted are decoded."""
    form, head = of.format, of.head
    start, _ = head.pixels or (0, 0)
    left = set(wanted)
    with head.path.open("rb") as file:
        file.seek(start)
        try:
            decode = partial(get_decoder(UID(head.transfer_syntax)).as_array, **_options(of))
            for index, frame in enumerate(generate_frames(file, number_of_frames=form.frames)):
                if index in left:
                    left.discard(index)
                    stored, _ = decode(encapsulate([frame], has_bot=False))
                    if stored.shape != (form.rows, form.columns):
                        raise VolumeRefused("PIXELS_UNDECODABLE", "compressed pixels are not of the stated size")
                    yield stored
                if not left:
                    return
        # Decoders of several libraries raise what they like over bytes from outside; all of it means the same.
        except UNREADABLE as error:
            raise VolumeRefused("PIXELS_UNDECODABLE", f"compressed pixels ({type(error).__name__})") from error
    raise VolumeRefused("PIXELS_UNDECODABLE", "there are fewer compressed frames than the header states")


def _options(of: Slice) -> dict[str, Any]:
    """What pydicom's decoders want to know of one frame; `raw`: no conversion of colours."""
    form, syntax = of.format, of.head.transfer_syntax
    return {
        "raw": True,
        "decoding_plugin": _DECODERS.get(syntax, ""),
        "rows": form.rows,
        "columns": form.columns,
        "samples_per_pixel": form.samples,
        "photometric_interpretation": form.photometric,
        "pixel_representation": int(form.signed),
        "bits_allocated": form.allocated,
        "bits_stored": form.stored,
        "number_of_frames": 1,
        "pixel_keyword": "PixelData",
    }
