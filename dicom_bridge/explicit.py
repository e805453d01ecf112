"""Explicit VR Little Endian by hand (PS3.5 7.1.2, 7.5), for the sequences that repeat once per slice.

pydicom needs about 0.2 s to build and write the functional groups of 189 frames, this 5 ms; every other element of an
object goes through pydicom. Defined lengths throughout.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable

from pydicom.charset import convert_encodings, default_encoding
from pydicom.dataelem import RawDataElement
from pydicom.dataset import Dataset
from pydicom.tag import Tag

from models.codes import Code

_SHORT_MAX = 0xFFFE


def text(tag: int, vr: str, value: str) -> bytes:
    """An element whose value is ASCII (UI, DS, CS, SH, LO ...), padded to even length: UI with NUL, others with space.

    Raises ValueError for a value that is not ASCII or too long for its length field.
    """
    data = value.encode("ascii")
    if len(data) % 2:
        data += b"\x00" if vr == "UI" else b" "
    return _short(tag, vr, data)


def unsigned(tag: int, vr: str, values: Iterable[int]) -> bytes:
    """An element of US or UL values."""
    return _short(tag, vr, b"".join(struct.pack("<H" if vr == "US" else "<I", v) for v in values))


def sequence(tag: int, items: Iterable[bytes]) -> bytes:
    """An SQ element; each item is its elements in ascending order of tag."""
    value = items_value(items)
    return struct.pack("<HH2sHI", tag >> 16, tag & 0xFFFF, b"SQ", 0, len(value)) + value


def items_value(items: Iterable[bytes]) -> bytes:
    """The value of an SQ element."""
    return b"".join(struct.pack("<HHI", 0xFFFE, 0xE000, len(item)) + item for item in items)


def code_item(code: Code) -> bytes:
    """One item of a Code Sequence (PS3.3 Table 8.8-1)."""
    return (
        text(0x00080100, "SH", code.value) + text(0x00080102, "SH", code.scheme) + text(0x00080104, "LO", code.meaning)
    )


def reference_item(sop_class: str, sop_instance: str, frame: int | None = None) -> bytes:
    """One item of a Referenced SOP Sequence; `frame` (from 1) restricts it to a frame of a multi-frame image."""
    item = text(0x00081150, "UI", sop_class) + text(0x00081155, "UI", sop_instance)
    return item if frame is None else item + text(0x00081160, "IS", str(frame))


def put_sequence(ds: Dataset, tag: int, items: Iterable[bytes]) -> None:
    """Set `tag` of `ds` to a sequence that pydicom writes as it stands, and parses only when somebody looks."""
    value = items_value(items)
    ds[tag] = RawDataElement(Tag(tag), "SQ", len(value), value, 0, False, True)
    declare_encoding(ds)


def declare_encoding(ds: Dataset) -> None:
    """Tell `ds` that it is in this encoding and its character set already: pydicom would parse and re-encode it."""
    charset = ds.get("SpecificCharacterSet")
    ds.set_original_encoding(False, True, convert_encodings(charset) if charset else default_encoding)


def _short(tag: int, vr: str, data: bytes) -> bytes:
    if len(data) > _SHORT_MAX:
        raise ValueError("the value is too long for its VR")
    return struct.pack("<HH2sH", tag >> 16, tag & 0xFFFF, vr.encode("ascii"), len(data)) + data
