"""What of a data set may reach a log line: an allow-list of attributes, and of their values.

A tag on the list is not enough: people type names into Body Part Examined. So text passes only as one of the values
known here, and numbers only within bounds; anything else shows as OTHER, absence as NONE.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from pydicom.dataset import Dataset
from pydicom.uid import UID

from dicom_bridge.assembly import RESULT_MODALITIES

OTHER: Final = "OTHER"
NONE: Final = "NONE"

# Defined terms of Modality (PS3.3 C.7.3.1.1.1).
_MODALITIES: Final = RESULT_MODALITIES | {
    *("CR", "CT", "DX", "ES", "GM", "IO", "MG", "MR", "NM", "OP", "OPT", "OT", "PT", "PX", "RF", "RG", "RTDOSE"),
    *("RTIMAGE", "RTPLAN", "RTRECORD", "RTSTRUCT", "SC", "SM", "US", "XA", "XC"),
}
# Common ones of PS3.16 annex L.
_BODY_PARTS: Final = frozenset(
    {
        *("ABDOMEN", "BRAIN", "BREAST", "CHEST", "CSPINE", "HEAD", "HEADNECK", "HEART", "KIDNEY", "KNEE", "LIVER"),
        *("LSPINE", "LUNG", "NECK", "PELVIS", "PROSTATE", "SHOULDER", "SPINE", "TSPINE", "WHOLEBODY"),
    }
)
_PHOTOMETRIC: Final = frozenset({"MONOCHROME1", "MONOCHROME2", "RGB", "PALETTE COLOR", "YBR_FULL", "YBR_FULL_422"})
_TEXTS: Final[Mapping[str, frozenset[str]]] = {
    "Modality": _MODALITIES,
    "BodyPartExamined": _BODY_PARTS,
    "PhotometricInterpretation": _PHOTOMETRIC,
}
_NUMBERS: Final[Mapping[str, int]] = {
    "Rows": 65_535,
    "Columns": 65_535,
    "BitsAllocated": 64,
    "BitsStored": 64,
    "NumberOfFrames": 1_000_000,
}
"""Largest value shown for each; beyond it the number says nothing about an image."""


def describe(ds: Dataset) -> dict[str, str | int]:
    """Return what may be logged of `ds`: fixed keys, values from closed sets, never text of a sender's own."""
    shown: dict[str, str | int] = {"SOPClass": _sop_class(ds)}
    for keyword, known in _TEXTS.items():
        value = _value(ds, keyword).upper()
        shown[keyword] = NONE if not value else value if value in known else OTHER
    for keyword, largest in _NUMBERS.items():
        value = _value(ds, keyword)
        if not value:
            shown[keyword] = NONE
        elif value.isascii() and value.isdecimal() and len(value) <= len(str(largest)) and int(value) <= largest:
            shown[keyword] = int(value)
        else:
            shown[keyword] = OTHER
    return shown


def _sop_class(ds: Dataset) -> str:
    value = _value(ds, "SOPClassUID")
    if not value:
        return NONE
    # A private UID may be anything that its sender likes; a standard one has a name in the dictionary.
    uid = UID(value, validation_mode=0)
    return value if uid.type == "SOP Class" else OTHER


def _value(ds: Dataset, keyword: str) -> str:
    if keyword not in ds:
        return ""
    value = ds.get_item(keyword).value
    if isinstance(value, bytes):
        # A number of US comes as two bytes; text of CS and UI is ASCII.
        if keyword in _NUMBERS and keyword != "NumberOfFrames":
            return str(int.from_bytes(value[:2], "little"))
        value = value.decode("ascii", "replace")
    return "" if value is None else str(value).strip(" \0")
