"""One file of a series: its header without pixels, its place in space, and its pixels decoded on demand."""

from __future__ import annotations

import io
import math
import struct
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Final

import numpy as np
import pydicom
from pydicom.dataset import Dataset
from pydicom.errors import InvalidDicomError
from pydicom.filereader import read_dataset

from dicom_bridge.errors import InstanceRefused, VolumeRefused
from dicom_bridge.stream import (
    DEFLATED_LE,
    EXPLICIT_BE,
    EXPLICIT_LE,
    IMPLICIT_LE,
    inflate,
    outline,
    part10_header,
    read_part10,
)
from inference.types import FloatArray

_NATIVE: Final = frozenset({IMPLICIT_LE, EXPLICIT_LE, DEFLATED_LE, EXPLICIT_BE})

_UNREADABLE: Final = (
    *(ValueError, TypeError, AttributeError, LookupError, ArithmeticError, RuntimeError, OSError, EOFError),
    *(MemoryError, InvalidDicomError, struct.error),
)

_SOP_INSTANCE: Final = 0x00080018
_MODALITY: Final = 0x00080060
_PATIENT_ID: Final = 0x00100020
_BIRTH_DATE: Final = 0x00100030
_STUDY: Final = 0x0020000D
_SERIES: Final = 0x0020000E
_POSITION: Final = 0x00200032
_ORIENTATION: Final = 0x00200037
_FRAME_OF_REFERENCE: Final = 0x00200052
_SAMPLES: Final = 0x00280002
_PHOTOMETRIC: Final = 0x00280004
_FRAMES: Final = 0x00280008
_ROWS: Final = 0x00280010
_COLUMNS: Final = 0x00280011
_SPACING: Final = 0x00280030
_BITS_ALLOCATED: Final = 0x00280100
_BITS_STORED: Final = 0x00280101
_HIGH_BIT: Final = 0x00280102
_REPRESENTATION: Final = 0x00280103
_PADDING: Final = 0x00280120
_PADDING_LIMIT: Final = 0x00280121
_INTERCEPT: Final = 0x00281052
_SLOPE: Final = 0x00281053
_MODALITY_LUT: Final = 0x00283000
_SHARED_GROUPS: Final = 0x52009229
_WANTED: Final = frozenset(
    {
        *(_SOP_INSTANCE, _MODALITY, _PATIENT_ID, _BIRTH_DATE, _STUDY, _SERIES, _POSITION, _ORIENTATION),
        *(_FRAME_OF_REFERENCE, _SAMPLES, _PHOTOMETRIC, _FRAMES, _ROWS, _COLUMNS, _SPACING, _BITS_ALLOCATED),
        *(_BITS_STORED, _HIGH_BIT, _REPRESENTATION, _PADDING, _PADDING_LIMIT, _INTERCEPT, _SLOPE, _MODALITY_LUT),
        _SHARED_GROUPS,
    }
)


@dataclass(frozen=True, slots=True)
class PixelFormat:
    """Image Pixel module (PS3.3 C.7.6.3); `rows`, `columns` in pixels, `allocated`, `stored`, `high_bit` in bits."""

    rows: int
    columns: int
    samples: int
    photometric: str
    allocated: int
    stored: int
    high_bit: int
    signed: bool


@dataclass(frozen=True, slots=True)
class Rescale:
    """Modality LUT as a line, and the stored values that mean "no pixel" (low, high), if any."""

    slope: float
    intercept: float
    padding: tuple[int, int] | None


@dataclass(frozen=True, slots=True, eq=False)
class Slice:
    """One single-frame image. Positions in mm (LPS), spacing (between rows, between columns) in mm; () when absent.

    `patient` is compared, never shown: (Patient ID, birth date) as received.
    """

    header: Dataset
    sop_uid: str
    study_uid: str
    series_uid: str
    modality: str
    patient: tuple[bytes, bytes]
    frame_of_reference: str
    position: tuple[float, ...]
    orientation: tuple[float, ...]
    spacing: tuple[float, ...]
    format: PixelFormat
    rescale: Rescale
    transfer_syntax: str
    data: bytes
    pixels: tuple[int, int]

    def read_into(self, target: FloatArray) -> bool:
        """Decode, rescale and write the pixels to `target` (R, C) float32; padding becomes NaN. True if there was any.

        Raises VolumeRefused PIXELS_UNDECODABLE.
        """
        stored = self._stored()
        np.copyto(target, stored, casting="unsafe")
        if self.rescale.slope != 1.0:
            target *= np.float32(self.rescale.slope)
        if self.rescale.intercept != 0.0:
            target += np.float32(self.rescale.intercept)
        if self.rescale.padding is None:
            return False
        low, high = self.rescale.padding
        holes = (stored >= low) & (stored <= high)
        if not holes.any():
            return False
        target[holes] = np.nan
        return True

    def _stored(self) -> np.ndarray[Any, Any]:
        """Return the stored values (R, C), unused bits removed."""
        if self.transfer_syntax not in _NATIVE:
            return self._decoded()
        form = self.format
        order = ">" if self.transfer_syntax == EXPLICIT_BE else "<"
        kind = f"{order}{'i' if form.signed else 'u'}{form.allocated // 8}"
        count = form.rows * form.columns
        start, length = self.pixels
        size = count * form.allocated // 8
        # PS3.5 section 8.1.1: an odd number of bytes is padded with one.
        if form.allocated not in (8, 16, 32) or length != size + size % 2:
            raise VolumeRefused("PIXELS_UNDECODABLE", "pixel data has not the size that its header states")
        stored: np.ndarray[Any, Any] = np.frombuffer(self.data, dtype=kind, count=count, offset=start).reshape(
            form.rows, form.columns
        )
        spare = form.allocated - form.stored
        if spare and form.signed:
            # Bits above the stored ones are not part of the value; shifting there and back extends the sign.
            stored = np.right_shift(np.left_shift(stored, spare), spare)
        elif spare:
            stored = np.bitwise_and(stored, stored.dtype.type((1 << form.stored) - 1))
        return stored

    def _decoded(self) -> np.ndarray[Any, Any]:
        header = part10_header("1.2", "1.2", self.transfer_syntax, "")
        try:
            ds = pydicom.dcmread(io.BytesIO(header + self.data))
            stored: np.ndarray[Any, Any] = ds.pixel_array
        # Decoders of several libraries raise what they like over bytes from outside; all of it means the same.
        except _UNREADABLE as error:
            raise VolumeRefused("PIXELS_UNDECODABLE", f"compressed pixels ({type(error).__name__})") from error
        if stored.shape != (self.format.rows, self.format.columns):
            raise VolumeRefused("PIXELS_UNDECODABLE", "compressed pixels have not the size that the header states")
        return stored


def read_slice(path: Path) -> Slice:
    """Read one Part 10 file, once. Raises VolumeRefused NOT_AN_IMAGE, MULTIFRAME_UNSUPPORTED and others; OSError."""
    data = path.read_bytes()
    try:
        meta = read_part10(data)
        data = data[meta.dataset_at :]
        if meta.transfer_syntax == DEFLATED_LE:
            data = inflate(data)
        found = outline(data, meta.transfer_syntax, _WANTED)
    except InstanceRefused as refused:
        raise VolumeRefused("NOT_AN_IMAGE", "a file is not a whole instance") from refused
    values, pixels = found.values, found.pixels
    if pixels is None:
        raise VolumeRefused("NOT_AN_IMAGE", "an instance has no pixel data")
    frames = _text(values, _FRAMES)
    if _SHARED_GROUPS in values or frames not in ("", "1"):
        raise VolumeRefused("MULTIFRAME_UNSUPPORTED", "multi-frame instances are not loaded")
    implicit, little = meta.transfer_syntax == IMPLICIT_LE, meta.transfer_syntax != EXPLICIT_BE
    whole = partial(_integer, values, little=little)
    form = PixelFormat(
        rows=whole(_ROWS),
        columns=whole(_COLUMNS),
        samples=whole(_SAMPLES),
        photometric=_text(values, _PHOTOMETRIC),
        allocated=whole(_BITS_ALLOCATED),
        stored=whole(_BITS_STORED),
        high_bit=whole(_HIGH_BIT),
        signed=whole(_REPRESENTATION) == 1,
    )
    if not 0 < form.stored <= form.allocated or form.high_bit != form.stored - 1:
        raise VolumeRefused("PIXELS_UNDECODABLE", "bits allocated, bits stored and high bit contradict each other")
    head = data[: pixels[0] - (8 if implicit else 12)]
    modality = _text(values, _MODALITY)
    return Slice(
        header=_header(head, implicit=implicit, little=little),
        sop_uid=_text(values, _SOP_INSTANCE),
        study_uid=_text(values, _STUDY),
        series_uid=_text(values, _SERIES),
        modality=modality,
        patient=(values.get(_PATIENT_ID, b"").strip(b" \0"), values.get(_BIRTH_DATE, b"").strip(b" \0")),
        frame_of_reference=_text(values, _FRAME_OF_REFERENCE),
        position=_decimals(values, _POSITION),
        orientation=_decimals(values, _ORIENTATION),
        spacing=_decimals(values, _SPACING),
        format=form,
        rescale=_rescale(values, modality, form, little=little),
        transfer_syntax=meta.transfer_syntax,
        data=data,
        pixels=pixels,
    )


def _header(data: bytes, *, implicit: bool, little: bool) -> Dataset:
    try:
        header: Dataset = read_dataset(io.BytesIO(data), implicit, little)
    # The top level was walked already; what pydicom stumbles over lies inside a sequence of defined length.
    except _UNREADABLE as error:
        raise VolumeRefused("NOT_AN_IMAGE", f"a header cannot be read ({type(error).__name__})") from error
    return header


def _rescale(values: Mapping[int, bytes], modality: str, form: PixelFormat, *, little: bool) -> Rescale:
    slope, intercept = _decimals(values, _SLOPE), _decimals(values, _INTERCEPT)
    if _MODALITY_LUT in values:
        raise VolumeRefused("RESCALE_MISSING", "a modality lookup table stands in place of slope and intercept")
    if modality == "CT" and not (slope and intercept):
        raise VolumeRefused("RESCALE_MISSING", "CT without rescale slope and intercept has no Hounsfield units")
    line = (slope or (1.0,)) + (intercept or (0.0,))
    if len(line) != 2 or not all(math.isfinite(number) for number in line) or line[0] == 0.0:
        raise VolumeRefused("RESCALE_MISSING", "rescale slope or intercept is no usable number")
    padding = None
    if len(values.get(_PADDING, b"")) == 2:
        edges = [_integer(values, _PADDING, little=little, signed=form.signed)]
        if len(values.get(_PADDING_LIMIT, b"")) == 2:
            edges.append(_integer(values, _PADDING_LIMIT, little=little, signed=form.signed))
        padding = (min(edges), max(edges))
    return Rescale(line[0], line[1], padding)


def _text(values: Mapping[int, bytes], tag: int) -> str:
    return values.get(tag, b"").decode("latin-1").strip(" \0")


def _integer(values: Mapping[int, bytes], tag: int, *, little: bool, signed: bool = False) -> int:
    """Return an US or SS value, 0 when it is absent."""
    return int.from_bytes(values.get(tag, b"")[:2], "little" if little else "big", signed=signed)


def _decimals(values: Mapping[int, bytes], tag: int) -> tuple[float, ...]:
    """Return the numbers of a DS element; what is no number is NaN, so that the gates refuse it."""
    text = _text(values, tag)
    return tuple(_decimal(part) for part in text.split("\\")) if text else ()


def _decimal(text: str) -> float:
    try:
        # Python's float reads "1_0" and "infinity" too; DS does not have them (PS3.5 section 6.2).
        return float(text) if set(text) <= _DS_CHARACTERS else math.nan
    except ValueError:
        return math.nan


_DS_CHARACTERS: Final = frozenset("0123456789+-eE. ")
