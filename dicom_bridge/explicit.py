"""Explicit VR Little Endian by hand (PS3.5 7.1.2, 7.5), for the sequences that repeat once per slice or segment.

pydicom needs about 0.2 s to build and write the functional groups of 189 frames, this 5 ms, and 1 s for the tree of 104
measurement groups, this 0.1 s; every other element of an object goes through pydicom. Defined lengths throughout.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable
from typing import Final

from pydicom.charset import convert_encodings, default_encoding
from pydicom.dataelem import RawDataElement
from pydicom.dataset import Dataset
from pydicom.tag import Tag

from models.codes import Code

_SHORT_MAX: Final = 0xFFFE
_LONG_MAX: Final = 0xFFFFFFFE
_SHORT: Final = struct.Struct("<HH2sH").pack
_LONG: Final = struct.Struct("<HH2sHI").pack
_ITEM: Final = struct.Struct("<HHI").pack
# The length of these stands in 32 bits; of the others' values that we write, in 16 (PS3.5 7.1.2).
_LONG_VRS: Final = frozenset({"OB", "SQ", "UT"})


def element(tag: int, vr: str, value: bytes) -> bytes:
    """An element of this value, of even length. Raises ValueError where it is too long for its length field."""
    return head(tag, vr, len(value)) + value


def head(tag: int, vr: str, length: int) -> bytes:
    """What stands before a value of `length` bytes. Raises ValueError where that is too long for its length field."""
    if length > (_LONG_MAX if vr in _LONG_VRS else _SHORT_MAX):
        raise ValueError("the value is too long for its VR")
    if vr in _LONG_VRS:
        return _LONG(tag >> 16, tag & 0xFFFF, vr.encode("ascii"), 0, length)
    return _SHORT(tag >> 16, tag & 0xFFFF, vr.encode("ascii"), length)


def text(tag: int, vr: str, value: str, codec: str = "ascii") -> bytes:
    """An element whose value is text (UI, DS, CS, LO, UT ...), padded to even length: UI with NUL, others with space.

    `codec`: Python's name of the data set's character set, for the VRs that follow it. Raises ValueError for a value
    that it does not have, or that is too long for its length field.
    """
    data = value.encode(codec)
    if len(data) % 2:
        data += b"\x00" if vr == "UI" else b" "
    return element(tag, vr, data)


def unsigned(tag: int, vr: str, values: Iterable[int]) -> bytes:
    """An element of US or UL values."""
    return element(tag, vr, b"".join(struct.pack("<H" if vr == "US" else "<I", v) for v in values))


def sequence(tag: int, items: Iterable[bytes]) -> bytes:
    """An SQ element; each item is its elements in ascending order of tag."""
    return element(tag, "SQ", items_value(items))


def items_value(items: Iterable[bytes]) -> bytes:
    """The value of an SQ element."""
    return b"".join(part for item in items for part in (_ITEM(0xFFFE, 0xE000, len(item)), item))


def code_item(code: Code, codec: str = "ascii") -> bytes:
    """One item of a Code Sequence (PS3.3 Table 8.8-1); `codec` as for `text`."""
    return (
        text(0x00080100, "SH", code.value)
        + text(0x00080102, "SH", code.scheme)
        + text(0x00080104, "LO", code.meaning, codec)
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
