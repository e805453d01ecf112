"""A data set as it came over the wire: is it whole, who is it, and how does it become a Part 10 file?

One strict pass over the top level of the stream (PS3.5 section 7) that copies nothing but the few values asked for.
pydicom reads a truncated stream without a word; this does not: every length must lie inside what was received.
"""

from __future__ import annotations

import mmap
import struct
import zlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Final

from dicom_bridge.errors import InstanceRefused
from dicom_bridge.uids import IMPLEMENTATION_CLASS_UID, IMPLEMENTATION_VERSION_NAME, storable

IMPLICIT_LE: Final = "1.2.840.10008.1.2"
EXPLICIT_LE: Final = "1.2.840.10008.1.2.1"
DEFLATED_LE: Final = "1.2.840.10008.1.2.1.99"
EXPLICIT_BE: Final = "1.2.840.10008.1.2.2"

PIXEL_DATA: Final = 0x7FE00010
_UNDEFINED: Final = 0xFFFFFFFF
_ITEM: Final = 0xFFFEE000
_ITEM_END: Final = 0xFFFEE00D
_SEQUENCE_END: Final = 0xFFFEE0DD
# PS3.5 section 7.1.2: these have two reserved bytes and a length of 32 bits.
_LONG_VRS: Final = frozenset(
    {b"OB", b"OD", b"OF", b"OL", b"OV", b"OW", b"SQ", b"SV", b"UC", b"UN", b"UR", b"UT", b"UV"}
)
_SHORT_VRS: Final = frozenset(
    {
        *(b"AE", b"AS", b"AT", b"CS", b"DA", b"DS", b"DT", b"FL", b"FD", b"IS", b"LO"),
        *(b"LT", b"PN", b"SH", b"SL", b"SS", b"ST", b"TM", b"UI", b"UL", b"US"),
    }
)
# Groups 0000 to 0007 belong to commands, file meta information and directories (PS3.5 section 7.1).
_FIRST_TAG: Final = 0x00080000
DEPTH_MAX: Final = 32
"""Levels of nested sequences of undefined length: real objects have fewer than ten, hostile ones exhaust the stack."""
INFLATED_BYTES_MAX: Final = 256 << 20
"""Bytes that a deflated data set may grow to, 256 MiB: it must be inflated in memory, and 1 MiB can make 1 GiB."""
VALUE_BYTES_MAX: Final = 1 << 16
"""Bytes of a UID, number or title that are looked at, 64 KiB: what is longer is none."""
META_BYTES_MAX: Final = 1 << 20
"""Bytes in which the file meta information must end, 1 MiB: real ones have some hundred."""

Buffer = bytes | bytearray | memoryview | mmap.mmap
"""An encoded data set, in memory or as a mapped file: what is not looked at is not read."""


@dataclass(frozen=True, slots=True)
class Outline:
    """What one pass found. `values`: bytes of the wanted tags that are there; `pixels`: offset and length, or None.

    The length of encapsulated pixel data is that of its items, delimiter included.
    """

    values: Mapping[int, bytes]
    pixels: tuple[int, int] | None


def outline(
    data: Buffer, transfer_syntax: str, wanted: frozenset[int], start: int = 0, value_bytes_max: int | None = None
) -> Outline:
    """Walk an encoded data set (not deflated any more) from `start` to the very end of `data`.

    Values are cut off at `value_bytes_max`. Raises InstanceRefused DATASET_GARBLED when the data set is not well
    formed or ends too early.
    """
    walker = _Walker(data, value_bytes_max or len(data), little=transfer_syntax != EXPLICIT_BE)
    top = walker.top_implicit if transfer_syntax == IMPLICIT_LE else walker.top_explicit
    try:
        return top(start, wanted)
    except struct.error:
        raise InstanceRefused("DATASET_GARBLED", "the stream ends inside an element") from None


def inflate(data: Buffer) -> bytes:
    """Undo the deflation of Deflated Explicit VR Little Endian (PS3.5 annex A.5). Raises InstanceRefused."""
    inflater = zlib.decompressobj(-zlib.MAX_WBITS)
    try:
        plain = inflater.decompress(data, INFLATED_BYTES_MAX)
    except zlib.error:
        raise InstanceRefused("DATASET_GARBLED", "the deflated stream cannot be inflated") from None
    if inflater.unconsumed_tail:
        raise InstanceRefused("INSTANCE_TOO_LARGE", "the deflated stream grows beyond the limit")
    if not inflater.eof:
        raise InstanceRefused("DATASET_GARBLED", "the deflated stream ends too early")
    return plain


_Unpack = Callable[..., tuple[Any, ...]]


def _unpackers(endian: str) -> tuple[_Unpack, _Unpack, _Unpack, _Unpack]:
    formats = ("HH", "L", "HHL", "HH2sH")
    tag, long, implicit, explicit = (struct.Struct(endian + one).unpack_from for one in formats)
    return tag, long, implicit, explicit


_LITTLE: Final = _unpackers("<")
_BIG: Final = _unpackers(">")


class _Walker:
    """Position arithmetic over one stream; every read is checked against the end.

    The two loops over the top level are written out: they run for every element of every image that is received.
    """

    def __init__(self, data: Buffer, value_bytes_max: int, *, little: bool) -> None:
        self._data = data
        self._longest = value_bytes_max
        self._end = len(data)
        self._tag, self._long, self._implicit, self._explicit = _LITTLE if little else _BIG

    def top_explicit(self, position: int, wanted: frozenset[int]) -> Outline:
        values: dict[int, bytes] = {}
        pixels: tuple[int, int] | None = None
        data, end, unpack, unpack_long = self._data, self._end, self._explicit, self._long
        while position < end:
            group, element, vr, length = unpack(data, position)
            tag = group << 16 | element
            if vr in _SHORT_VRS:
                start = position + 8
            elif vr in _LONG_VRS:
                (length,) = unpack_long(data, position + 8)
                start = position + 12
            else:
                # Raises, but for items and delimiters, which have no VR and no place here: they fail as what they are.
                _, vr, length, start = self._header(position, implicit=False)
            position = start + length
            if position > end or length == _UNDEFINED or tag < _FIRST_TAG:
                position = self._top_end(tag, vr, length, start, implicit=False)
            if tag in wanted and length != _UNDEFINED:
                values[tag] = bytes(data[start : min(position, start + self._longest)])
            elif tag == PIXEL_DATA:
                pixels = (start, position - start)
        return Outline(values, pixels)

    def top_implicit(self, position: int, wanted: frozenset[int]) -> Outline:
        values: dict[int, bytes] = {}
        pixels: tuple[int, int] | None = None
        data, end, unpack = self._data, self._end, self._implicit
        while position < end:
            group, element, length = unpack(data, position)
            tag, start = group << 16 | element, position + 8
            position = start + length
            if position > end or length == _UNDEFINED or tag < _FIRST_TAG:
                position = self._top_end(tag, b"", length, start, implicit=True)
            if tag in wanted and length != _UNDEFINED:
                values[tag] = bytes(data[start : min(position, start + self._longest)])
            elif tag == PIXEL_DATA:
                pixels = (start, position - start)
        return Outline(values, pixels)

    def _top_end(self, tag: int, vr: bytes, length: int, start: int, *, implicit: bool) -> int:
        """Return where an element of the top level ends that is of undefined length, or refuse it."""
        if tag < _FIRST_TAG:
            raise InstanceRefused("DATASET_GARBLED", "the stream does not begin with a data set")
        return self._after(tag, vr, length, start, implicit=implicit, depth=0)

    def _header(self, position: int, *, implicit: bool) -> tuple[int, bytes, int, int]:
        """Return tag, VR (b"" if implicit), length and where the value begins."""
        if implicit:
            group, element, length = self._implicit(self._data, position)
            return group << 16 | element, b"", length, position + 8
        group, element, vr, length = self._explicit(self._data, position)
        tag = group << 16 | element
        if group == 0xFFFE:
            return tag, b"", self._long(self._data, position + 4)[0], position + 8
        if vr in _LONG_VRS:
            return tag, vr, self._long(self._data, position + 8)[0], position + 12
        if vr not in _SHORT_VRS:
            raise InstanceRefused("DATASET_GARBLED", "an element has no known value representation", tag)
        return tag, vr, length, position + 8

    def _after(self, tag: int, vr: bytes, length: int, start: int, *, implicit: bool, depth: int) -> int:
        """Return where the element that begins its value at `start` ends."""
        if length != _UNDEFINED:
            if length > self._end - start:
                raise InstanceRefused("DATASET_GARBLED", "an element is longer than the rest of the stream", tag)
            return start + length
        if depth >= DEPTH_MAX:
            raise InstanceRefused("DATASET_GARBLED", "sequences are nested too deeply", tag)
        # PS3.5 section 6.2.2: UN of undefined length is a sequence in implicit VR.
        return self._items(start, implicit=implicit or vr == b"UN", depth=depth + 1)

    def _items(self, position: int, *, implicit: bool, depth: int) -> int:
        while True:
            group, element = self._tag(self._data, position)
            tag, length = group << 16 | element, self._long(self._data, position + 4)[0]
            position += 8
            if tag == _SEQUENCE_END:
                return position
            if tag != _ITEM:
                raise InstanceRefused("DATASET_GARBLED", "a sequence holds something that is no item", tag)
            if length != _UNDEFINED:
                if length > self._end - position:
                    raise InstanceRefused("DATASET_GARBLED", "an item is longer than the rest of the stream")
                position += length
            else:
                position = self._open_item(position, implicit=implicit, depth=depth)

    def _open_item(self, position: int, *, implicit: bool, depth: int) -> int:
        while True:
            tag, vr, length, start = self._header(position, implicit=implicit)
            if tag == _ITEM_END:
                return start
            position = self._after(tag, vr, length, start, implicit=implicit, depth=depth)


URGENT: Final = "URGENT"
"""Our Private Information (0002,0102): the C-STORE request had priority HIGH, which the data set does not say."""


def part10_header(
    sop_class: str, sop_instance: str, transfer_syntax: str, source_ae: str, *, urgent: bool = False
) -> bytes:
    """Return preamble, prefix and File Meta Information (PS3.10 section 7.1) of one received instance.

    An `urgent` one says so in private information (0002,0100) and (0002,0102), so that a lost index finds it again.
    """
    meta = b"".join(
        (
            _VERSION,
            _element(0x0002, b"UI", sop_class),
            _element(0x0003, b"UI", sop_instance),
            _element(0x0010, b"UI", transfer_syntax),
            _OURS,
            _element(0x0016, b"AE", source_ae) if source_ae else b"",
            _URGENT if urgent else b"",
        )
    )
    return b"\0" * 128 + b"DICM" + struct.pack("<HH2sHL", 0x0002, 0x0000, b"UL", 4, len(meta)) + meta


def _element(element: int, vr: bytes, text: str) -> bytes:
    value = text.encode("ascii")
    if len(value) % 2:
        value += b"\0" if vr == b"UI" else b" "
    return struct.pack("<HH2sH", 0x0002, element, vr, len(value)) + value


_VERSION: Final = struct.pack("<HH2sHLH", 0x0002, 0x0001, b"OB", 0, 2, 0x0100)
_OURS: Final = _element(0x0012, b"UI", IMPLEMENTATION_CLASS_UID) + _element(0x0013, b"SH", IMPLEMENTATION_VERSION_NAME)
_URGENT: Final = (
    _element(0x0100, b"UI", IMPLEMENTATION_CLASS_UID)
    + struct.pack("<HH2sHL", 0x0002, 0x0102, b"OB", 0, len(URGENT))
    + URGENT.encode("ascii")
)


@dataclass(frozen=True, slots=True)
class FileMeta:
    """What we need of a Part 10 file's meta information, and where its data set begins."""

    sop_class: str
    sop_instance: str
    transfer_syntax: str
    source_ae: str
    urgent: bool
    dataset_at: int


def read_part10(data: Buffer) -> FileMeta:
    """Read the File Meta Information of a Part 10 file. Raises InstanceRefused DATASET_GARBLED."""
    if data[128:132] != b"DICM":
        raise InstanceRefused("DATASET_GARBLED", "not a Part 10 file")
    position, values = 132, dict[int, str]()
    try:
        while position < len(data) and data[position : position + 2] == b"\x02\x00":
            _, element, vr, length = struct.unpack_from("<HH2sH", data, position)
            position += 8
            if vr in _LONG_VRS:
                (length,) = struct.unpack_from("<L", data, position)
                position += 4
            if length > len(data) - position or position > META_BYTES_MAX:
                raise InstanceRefused("DATASET_GARBLED", "the file meta information is cut off")
            values[element] = bytes(data[position : position + min(length, VALUE_BYTES_MAX)]).decode("ascii", "replace")
            position += length
    except struct.error:
        raise InstanceRefused("DATASET_GARBLED", "the file meta information is cut off") from None
    text = {element: value.strip(" \0") for element, value in values.items()}
    if not storable(text.get(0x0010, "")):
        raise InstanceRefused("DATASET_GARBLED", "the file names no transfer syntax")
    return FileMeta(
        sop_class=text.get(0x0002, ""),
        sop_instance=text.get(0x0003, ""),
        transfer_syntax=text[0x0010],
        source_ae=text.get(0x0016, ""),
        urgent=text.get(0x0100, "") == IMPLEMENTATION_CLASS_UID and text.get(0x0102, "") == URGENT,
        dataset_at=position,
    )


def meta_is_whole(data: bytes | bytearray) -> bool:
    """Say whether the first bytes of a file hold all of its file meta information, or never will."""
    position = 132
    if data[128:132] != b"DICM"[: max(0, len(data) - 128)] or len(data) > META_BYTES_MAX:
        return True
    while position + 12 <= len(data):
        if data[position : position + 2] != b"\x02\x00":
            return True
        _, _, vr, length = struct.unpack_from("<HH2sH", data, position)
        position += 8
        if vr in _LONG_VRS:
            (length,) = struct.unpack_from("<L", data, position)
            position += 4
        position += length
    return False
