"""Do two Part 10 files of one SOP Instance UID say the same, though their bytes differ?

A PACS may send the same instance once in implicit and once in explicit VR, or with group lengths dropped. That is a
resend, not a conflict. Only what can be compared for certain counts as the same.
"""

from __future__ import annotations

import io
import struct
import zlib
from typing import Final

import pydicom
from pydicom.dataset import Dataset
from pydicom.errors import InvalidDicomError
from pydicom.uid import UID

from dicom_bridge import quiet  # noqa: F401 - for its settings

_UNREADABLE: Final = (
    *(ValueError, TypeError, AttributeError, LookupError, ArithmeticError, RuntimeError, OSError, EOFError),
    *(InvalidDicomError, struct.error, zlib.error),
)
_PIXEL_DATA: Final = 0x7FE00010


def same_content(one: bytes, other: bytes) -> bool:
    """Compare two files element by element; file meta information, group lengths and padding do not count.

    Compressed pixels are compared as they are, so two encodings of one picture differ.
    """
    try:
        left, right = _read(one), _read(other)
        if left.keys() != right.keys():
            return False
        return all(left[tag] == right[tag] for tag in left.keys())  # noqa: SIM118 - a data set iterates elements
    # pydicom's readers raise whatever the bytes make them do. What cannot be read cannot be called the same.
    except (
        ValueError,
        TypeError,
        KeyError,
        AttributeError,
        NotImplementedError,
        OSError,
        LookupError,
        ArithmeticError,
    ):
        return False


def _read(data: bytes) -> Dataset:
    ds = pydicom.dcmread(io.BytesIO(data))
    syntax: UID = ds.file_meta.TransferSyntaxUID
    if _PIXEL_DATA in ds and not syntax.is_little_endian:
        raise ValueError("pixels in another byte order are not comparable as bytes")
    for tag in list(ds.keys()):
        if tag.element == 0:
            del ds[tag]
        elif tag == _PIXEL_DATA:
            # OB in one and OW in the other is the same picture in little endian.
            ds[tag].VR = "OW"
    return ds
