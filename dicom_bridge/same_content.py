"""Do two Part 10 files of one SOP Instance UID say the same, though their bytes differ?

A PACS may send the same instance once in implicit and once in explicit VR, or with group lengths dropped. That is a
resend, not a conflict. Only what can be compared for certain counts as the same.
"""

from __future__ import annotations

import struct
import zlib
from pathlib import Path
from typing import Final

import pydicom
from pydicom.dataelem import RawDataElement
from pydicom.dataset import Dataset
from pydicom.errors import InvalidDicomError
from pydicom.tag import BaseTag

from dicom_bridge import quiet  # noqa: F401 - for its settings
from dicom_bridge.errors import InstanceRefused
from dicom_bridge.spool_recovery import OUR_HEAD_BYTES, READ_BYTES
from dicom_bridge.stream import read_part10

_UNREADABLE: Final = (
    *(ValueError, TypeError, AttributeError, LookupError, ArithmeticError, RuntimeError, OSError, EOFError),
    *(InvalidDicomError, InstanceRefused, struct.error, zlib.error),
)
_PIXEL_DATA: Final = 0x7FE00010


COMPARED_BYTES_MAX: Final = 64 << 20
"""Bytes of a file that is compared element by element, 64 MiB: it must be in memory. Larger ones count as different."""


def same_content(one: Path, other: Path) -> bool:
    """Compare two files: their data sets byte by byte, and if these differ, element by element.

    File meta information does not count, but for the transfer syntax; nor do group lengths and padding.
    Values are compared as bytes, never as decoded text, in which two unreadable names look alike. Compressed pixels
    are compared as they are, so two encodings of one picture differ; so do two byte orders. What cannot be read
    cannot be called the same.
    """
    try:
        if _same_bytes(one, other):
            return True
        if max(one.stat().st_size, other.stat().st_size) > COMPARED_BYTES_MAX:
            return False
        return _same(pydicom.dcmread(one), pydicom.dcmread(other))
    # pydicom's readers raise whatever the bytes make them do.
    except _UNREADABLE:
        return False


def _same_bytes(one: Path, other: Path) -> bool:
    with one.open("rb") as left, other.open("rb") as right:
        mine, theirs = read_part10(left.read(OUR_HEAD_BYTES)), read_part10(right.read(OUR_HEAD_BYTES))
        if mine.transfer_syntax != theirs.transfer_syntax:
            return False
        left.seek(mine.dataset_at)
        right.seek(theirs.dataset_at)
        while piece := left.read(READ_BYTES):
            if piece != right.read(READ_BYTES):
                return False
        return not right.read(1)


def _same(one: Dataset, other: Dataset) -> bool:
    tags = _tags(one)
    return tags == _tags(other) and all(_same_element(one, other, tag) for tag in tags)


def _tags(ds: Dataset) -> list[BaseTag]:
    # Group lengths (gggg,0000) are retired and say something about bytes only.
    return sorted(tag for tag in ds.keys() if tag.element != 0)  # noqa: SIM118 - a data set iterates elements


def _same_element(one: Dataset, other: Dataset, tag: BaseTag) -> bool:
    left, right = one.get_item(tag), other.get_item(tag)
    if "SQ" in (left.VR, right.VR):
        items, others = one[tag].value, other[tag].value
        return len(items) == len(others) and all(map(_same, items, others))
    if not isinstance(left, RawDataElement) or not isinstance(right, RawDataElement):
        return bool(left == right)
    mine, theirs = left.value or b"", right.value or b""
    if tag == _PIXEL_DATA:
        return bool(mine == theirs)
    return bool(mine.rstrip(b" \0") == theirs.rstrip(b" \0"))
