"""Who an instance says it is: the few attributes that the spool needs, checked before any becomes a path."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from dicom_bridge.charset import decode_text
from dicom_bridge.errors import CharsetRefused, InstanceRefused
from dicom_bridge.stream import DEFLATED_LE, inflate, outline
from dicom_bridge.uids import storable

_CHARSET: Final = 0x00080005
_IMAGE_TYPE: Final = 0x00080008
_SOP_CLASS: Final = 0x00080016
_SOP_INSTANCE: Final = 0x00080018
_MODALITY: Final = 0x00080060
_SERIES_DESCRIPTION: Final = 0x0008103E
_PATIENT_ID: Final = 0x00100020
_BODY_PART: Final = 0x00180015
_STUDY: Final = 0x0020000D
_SERIES: Final = 0x0020000E
_SERIES_NUMBER: Final = 0x00200011
_WANTED: Final = frozenset(
    {
        *(_CHARSET, _IMAGE_TYPE, _SOP_CLASS, _SOP_INSTANCE, _MODALITY, _SERIES_DESCRIPTION, _PATIENT_ID),
        *(_BODY_PART, _STUDY, _SERIES, _SERIES_NUMBER),
    }
)
_DIGITS_MAX: Final = 12
"""Characters of an IS value (PS3.5 section 6.2)."""


@dataclass(frozen=True, slots=True)
class Identity:
    """What one data set says of itself. UIDs are storable; texts are "" and `image_type` () when absent."""

    sop_class: str
    sop_uid: str
    study_uid: str
    series_uid: str
    modality: str
    body_part: str
    description: str
    image_type: tuple[str, ...]
    series_number: int | None
    patient: str
    pixels: bool


def identify(dataset: bytes, transfer_syntax: str) -> Identity:
    """Read the identity of an encoded data set, and that it is whole.

    Raises InstanceRefused: DATASET_GARBLED, UID_MISSING or UID_INVALID with the offending tag.
    """
    plain = inflate(dataset) if transfer_syntax == DEFLATED_LE else dataset
    found = outline(plain, transfer_syntax, _WANTED)
    values = found.values
    number = _ascii(values.get(_SERIES_NUMBER, b""))
    return Identity(
        sop_class=_uid(values, _SOP_CLASS),
        sop_uid=_uid(values, _SOP_INSTANCE),
        study_uid=_uid(values, _STUDY),
        series_uid=_uid(values, _SERIES),
        modality=_ascii(values.get(_MODALITY, b"")).upper(),
        body_part=_ascii(values.get(_BODY_PART, b"")).upper(),
        description=_description(values),
        image_type=tuple(
            part.strip().upper() for part in _ascii(values.get(_IMAGE_TYPE, b"")).split("\\") if part.strip()
        ),
        series_number=int(number) if number.isdecimal() and len(number) <= _DIGITS_MAX else None,
        patient=patient_digest(values.get(_PATIENT_ID, b"")),
        pixels=found.pixels is not None,
    )


def patient_digest(patient_id: bytes) -> str:
    """Return a digest that is equal for equal patient IDs (0010,0020); padding does not count. It is no pseudonym."""
    return hashlib.sha256(patient_id.strip(b" \0")).hexdigest()


def _uid(values: Mapping[int, bytes], tag: int) -> str:
    raw = values.get(tag, b"")
    # PS3.5 section 6.2: a UID of odd length is padded with one NULL; a space is the usual mistake.
    text = raw.decode("latin-1").rstrip(" \0")
    if not text:
        raise InstanceRefused("UID_MISSING", "a UID that every instance must have is absent", tag)
    if not storable(text):
        raise InstanceRefused("UID_INVALID", "a UID is not one (PS3.5 section 9.1)", tag)
    return text


def _ascii(raw: bytes) -> str:
    text = raw.decode("ascii", "replace").strip(" \0")
    return text if text.isprintable() else ""


def _description(values: Mapping[int, bytes]) -> str:
    terms = tuple(term.strip() for term in _ascii(values.get(_CHARSET, b"")).split("\\"))
    try:
        text = decode_text(values.get(_SERIES_DESCRIPTION, b""), terms)
    except CharsetRefused:
        # Unreadable is unknown: selection then cannot be misled by half a word.
        return ""
    return text.strip(" \0")
