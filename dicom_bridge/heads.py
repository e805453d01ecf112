"""One Part 10 file without its pixels: the few values that the gates ask for, and headers made of them.

The file is mapped, not read: the pass over its elements touches the pages of the header alone, so that a study of
thousands of images is looked at before a single pixel is read. The map is closed again before this returns.
"""

from __future__ import annotations

import io
import math
import mmap
import struct
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, cast

from pydicom.dataelem import RawDataElement
from pydicom.dataset import Dataset
from pydicom.errors import InvalidDicomError
from pydicom.filereader import read_dataset
from pydicom.tag import Tag

from dicom_bridge import quiet  # noqa: F401 - for its settings
from dicom_bridge.charset import decode_text, effective, python_encodings
from dicom_bridge.errors import CharsetRefused, InstanceRefused, VolumeRefused
from dicom_bridge.stream import DEFLATED_LE, EXPLICIT_BE, IMPLICIT_LE, inflate, outline, read_part10

UNREADABLE: Final = (
    *(ValueError, TypeError, AttributeError, LookupError, ArithmeticError, RuntimeError, OSError, EOFError),
    *(MemoryError, InvalidDicomError, struct.error),
)
"""What the libraries raise over bytes from outside; all of it means the same."""

CHARSET: Final = 0x00080005
IMAGE_TYPE: Final = 0x00080008
SOP_CLASS: Final = 0x00080016
SOP_INSTANCE: Final = 0x00080018
ACQUISITION_TIME: Final = 0x00080032
MODALITY: Final = 0x00080060
SERIES_DESCRIPTION: Final = 0x0008103E
PATIENT_ID: Final = 0x00100020
BIRTH_DATE: Final = 0x00100030
CONTRAST_AGENT: Final = 0x00180010
BODY_PART: Final = 0x00180015
SLICE_THICKNESS: Final = 0x00180050
ECHO_TIME: Final = 0x00180081
ECHO_NUMBER: Final = 0x00180086
PROTOCOL: Final = 0x00181030
TRIGGER_TIME: Final = 0x00181060
KERNEL: Final = 0x00181210
B_VALUE: Final = 0x00189087
STUDY: Final = 0x0020000D
SERIES: Final = 0x0020000E
SERIES_NUMBER: Final = 0x00200011
ACQUISITION_NUMBER: Final = 0x00200012
INSTANCE_NUMBER: Final = 0x00200013
POSITION: Final = 0x00200032
ORIENTATION: Final = 0x00200037
FRAME_OF_REFERENCE: Final = 0x00200052
TEMPORAL_POSITION: Final = 0x00200100
SAMPLES: Final = 0x00280002
PHOTOMETRIC: Final = 0x00280004
FRAMES: Final = 0x00280008
ROWS: Final = 0x00280010
COLUMNS: Final = 0x00280011
SPACING: Final = 0x00280030
BITS_ALLOCATED: Final = 0x00280100
BITS_STORED: Final = 0x00280101
HIGH_BIT: Final = 0x00280102
REPRESENTATION: Final = 0x00280103
PADDING: Final = 0x00280120
PADDING_LIMIT: Final = 0x00280121
WINDOW_CENTRE: Final = 0x00281050
WINDOW_WIDTH: Final = 0x00281051
INTERCEPT: Final = 0x00281052
SLOPE: Final = 0x00281053
LOSSY: Final = 0x00282110
LOSSY_RATIO: Final = 0x00282112
LOSSY_METHOD: Final = 0x00282114
MODALITY_LUT: Final = 0x00283000
SHARED_GROUPS: Final = 0x52009229
FRAME_GROUPS: Final = 0x52009230

# What a result may say of a slice other than the first: all ASCII or binary, so that no character set is needed.
_LIGHT: Final[Mapping[int, str]] = {
    SOP_CLASS: "UI",
    SOP_INSTANCE: "UI",
    MODALITY: "CS",
    SLICE_THICKNESS: "DS",
    STUDY: "UI",
    SERIES: "UI",
    INSTANCE_NUMBER: "IS",
    POSITION: "DS",
    ORIENTATION: "DS",
    FRAME_OF_REFERENCE: "UI",
    ROWS: "US",
    COLUMNS: "US",
    SPACING: "DS",
    WINDOW_CENTRE: "DS",
    WINDOW_WIDTH: "DS",
    INTERCEPT: "DS",
    SLOPE: "DS",
    LOSSY: "CS",
    LOSSY_RATIO: "DS",
    LOSSY_METHOD: "CS",
}
_LIGHT_TAGS: Final = {tag: Tag(tag) for tag in _LIGHT}
_WANTED: Final = frozenset(_LIGHT) | {
    *(CHARSET, IMAGE_TYPE, ACQUISITION_TIME, SERIES_DESCRIPTION, PATIENT_ID, BIRTH_DATE, CONTRAST_AGENT, BODY_PART),
    *(ECHO_TIME, ECHO_NUMBER, PROTOCOL, TRIGGER_TIME, KERNEL, B_VALUE, SERIES_NUMBER, ACQUISITION_NUMBER),
    *(TEMPORAL_POSITION, SAMPLES, PHOTOMETRIC, FRAMES, BITS_ALLOCATED, BITS_STORED, HIGH_BIT, REPRESENTATION),
    *(PADDING, PADDING_LIMIT, MODALITY_LUT, SHARED_GROUPS),
}
_DS_CHARACTERS: Final = frozenset("0123456789+-eE. ")


@dataclass(frozen=True, slots=True, eq=False)
class Head:
    """One file. `encoded` is its data set up to the pixel data; `pixels`: where their value lies in `plain`, or in
    the file where that is None, and its length; None without pixel data. `plain` is a deflated data set, inflated.

    `terms` is the character set that its text is read with: what it declares, or the site's word about its sender.
    """

    path: Path
    transfer_syntax: str
    values: Mapping[int, bytes]
    encoded: bytes
    pixels: tuple[int, int] | None
    plain: bytes | None
    terms: tuple[str, ...]

    @property
    def little(self) -> bool:
        """Whether numbers are little endian."""
        return self.transfer_syntax != EXPLICIT_BE

    def has(self, tag: int) -> bool:
        """Whether the element is there."""
        return tag in self.values

    def ascii(self, tag: int) -> str:
        """An element of the default repertoire (UI, CS, IS, DS, TM); "" when absent."""
        return self.values.get(tag, b"").decode("latin-1").strip(" \0")

    def text(self, tag: int) -> str:
        """An element of readable text (LO, SH); "" when it is absent or cannot be read for certain."""
        try:
            return decode_text(self.values.get(tag, b""), self.terms).strip(" \0")
        except CharsetRefused:
            return ""

    def integer(self, tag: int, *, signed: bool = False) -> int:
        """An US or SS element, 0 when it is absent."""
        return int.from_bytes(self.values.get(tag, b"")[:2], "little" if self.little else "big", signed=signed)

    def decimals(self, tag: int) -> tuple[float, ...]:
        """The numbers of a DS element; what is no number is NaN, so that the gates refuse it."""
        text = self.ascii(tag)
        return tuple(_decimal(part) for part in text.split("\\")) if text else ()

    def double(self, tag: int) -> float | None:
        """An FD element, or None."""
        raw = self.values.get(tag, b"")
        return float(struct.unpack("<d" if self.little else ">d", raw)[0]) if len(raw) == 8 else None

    def light(self) -> Dataset:
        """A header of the elements that results name of each slice, made without parsing the file again."""
        found = {
            _LIGHT_TAGS[tag]: RawDataElement(_LIGHT_TAGS[tag], vr, len(value), value, 0, False, self.little)
            for tag, vr in _LIGHT.items()
            if (value := self.values.get(tag)) is not None
        }
        return Dataset(cast("Any", found))

    def full(self) -> Dataset:
        """The whole header. Raises VolumeRefused NOT_AN_IMAGE."""
        implicit = self.transfer_syntax == IMPLICIT_LE
        try:
            header: Dataset = read_dataset(io.BytesIO(self.encoded), implicit, self.little)
        # The top level was walked already; what pydicom stumbles over lies inside a sequence of defined length.
        except UNREADABLE as error:
            raise VolumeRefused("NOT_AN_IMAGE", f"a header cannot be read ({type(error).__name__})") from error
        if self.terms != _terms(self.values):
            # The sender declares another set than it writes: whoever reads this header must not be misled again.
            header.SpecificCharacterSet = list(self.terms)
            header.set_original_encoding(implicit, self.little, python_encodings(self.terms))
        return header


def read_head(path: Path, assumed: str | None = None) -> Head:
    """Look at one Part 10 file; `assumed` is the character set of a sender that declares none, or a false one.

    Raises VolumeRefused NOT_AN_IMAGE for what is no whole instance; OSError.
    """
    with path.open("rb") as file:
        try:
            # Never closed by hand: it goes when the last view of it does, which is before this returns.
            mapped = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
        except ValueError:
            raise VolumeRefused("NOT_AN_IMAGE", "a file is empty") from None
    head = _look(path, mapped, assumed)
    if head is None:
        raise VolumeRefused("NOT_AN_IMAGE", "a file is not a whole instance")
    return head


def _look(path: Path, mapped: mmap.mmap, assumed: str | None) -> Head | None:
    """None where the file is no whole instance; an error's traceback would hold on to the map."""
    try:
        # Both take whatever can be sliced and unpacked.
        meta = read_part10(cast("bytes", mapped))
        plain = inflate(mapped[meta.dataset_at :]) if meta.transfer_syntax == DEFLATED_LE else None
        view = memoryview(mapped)[meta.dataset_at :] if plain is None else memoryview(plain)
        found = outline(cast("bytes", view), meta.transfer_syntax, _WANTED)
    except InstanceRefused:
        return None
    values = {tag: bytes(value) for tag, value in found.values.items()}
    pixels, before = found.pixels, len(view)
    if pixels is not None:
        before = pixels[0] - (8 if meta.transfer_syntax == IMPLICIT_LE else 12)
        pixels = (pixels[0] + (meta.dataset_at if plain is None else 0), pixels[1])
    return Head(
        path=path,
        transfer_syntax=meta.transfer_syntax,
        values=values,
        # What holds no image is looked at for a word about it, and never written about.
        encoded=bytes(view[:before]) if pixels is not None else b"",
        pixels=pixels,
        plain=plain,
        terms=effective(_terms(values), assumed),
    )


def _terms(values: Mapping[int, bytes]) -> tuple[str, ...]:
    terms = tuple(term.strip(" \0") for term in values.get(CHARSET, b"").decode("latin-1").split("\\"))
    return terms if any(terms) else ()


def _decimal(text: str) -> float:
    try:
        # Python's float reads "1_0" and "infinity" too; DS does not have them (PS3.5 section 6.2).
        return float(text) if set(text) <= _DS_CHARACTERS else math.nan
    except ValueError:
        return math.nan
