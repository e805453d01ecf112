"""Who an instance says it is: the few attributes that the spool needs, checked before any becomes a path."""

from __future__ import annotations

import hashlib
import math
import threading
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final, Literal

from dicom_bridge.charset import decode_text
from dicom_bridge.errors import CharsetRefused, InstanceRefused
from dicom_bridge.stream import DEFLATED_LE, EXPLICIT_BE, VALUE_BYTES_MAX, Buffer, inflate, outline
from dicom_bridge.uids import storable

_CHARSET: Final = 0x00080005
_IMAGE_TYPE: Final = 0x00080008
_SOP_CLASS: Final = 0x00080016
_SOP_INSTANCE: Final = 0x00080018
_MODALITY: Final = 0x00080060
_MANUFACTURER: Final = 0x00080070
_STATION: Final = 0x00081010
_STUDY_DESCRIPTION: Final = 0x00081030
_SERIES_DESCRIPTION: Final = 0x0008103E
_PATIENT_ID: Final = 0x00100020
_CONTRAST: Final = 0x00180010
_BODY_PART: Final = 0x00180015
_PROTOCOL: Final = 0x00181030
_STUDY: Final = 0x0020000D
_SERIES: Final = 0x0020000E
_SERIES_NUMBER: Final = 0x00200011
_ACQUISITION_NUMBER: Final = 0x00200012
_INSTANCE_NUMBER: Final = 0x00200013
_POSITION: Final = 0x00200032
_ORIENTATION: Final = 0x00200037
_TEMPORAL_POSITION: Final = 0x00200100
_ACQUISITION_IMAGES: Final = 0x00201002
_FRAMES: Final = 0x00280008
_ROWS: Final = 0x00280010
_COLUMNS: Final = 0x00280011
_PIXEL_SPACING: Final = 0x00280030
_PRIORITY: Final = 0x00401003
_WANTED: Final = frozenset(
    {
        *(_CHARSET, _IMAGE_TYPE, _SOP_CLASS, _SOP_INSTANCE, _MODALITY, _MANUFACTURER, _STATION, _STUDY_DESCRIPTION),
        *(_SERIES_DESCRIPTION, _PATIENT_ID, _CONTRAST, _BODY_PART, _PROTOCOL, _STUDY, _SERIES, _SERIES_NUMBER),
        *(_ACQUISITION_NUMBER, _INSTANCE_NUMBER, _POSITION, _ORIENTATION, _TEMPORAL_POSITION, _ACQUISITION_IMAGES),
        *(_FRAMES, _ROWS, _COLUMNS, _PIXEL_SPACING, _PRIORITY),
    }
)
_DIGITS_MAX: Final = 12
"""Characters of an IS value (PS3.5 section 6.2)."""
_URGENT: Final = frozenset({"HIGH", "STAT"})
# A deflated data set is the only one that is held in memory whole: one at a time, or a few senders could fill it.
_INFLATING: Final = threading.Lock()


@dataclass(frozen=True, slots=True)
class Identity:
    """Who a data set says it is; the UIDs are storable. `describe` gives the rest from the same pass."""

    sop_class: str
    sop_uid: str
    study_uid: str
    series_uid: str
    values: Mapping[int, bytes]
    pixels: bool
    big_endian: bool


@dataclass(frozen=True, slots=True)
class Description:
    """What else the index keeps of one data set.

    Texts are "" and tuples () when absent or unreadable, numbers None. `position` has 3 values and `pixel_spacing` 2
    (row, column), in mm; `orientation` 6. `frames` is 1 when absent. `urgent`: Requested Procedure Priority
    (0040,1003) is HIGH or STAT. `patient` is a digest, see `patient_digest`.
    """

    modality: str
    body_part: str
    description: str
    image_type: tuple[str, ...]
    series_number: int | None
    patient: str
    urgent: bool
    frames: int
    acquisition_images: int | None
    instance_number: int | None
    acquisition_number: int | None
    temporal_position: int | None
    position: tuple[float, ...]
    orientation: tuple[float, ...]
    rows: int | None
    columns: int | None
    pixel_spacing: tuple[float, ...]
    protocol: str
    contrast: str
    station: str
    manufacturer: str
    study_description: str


def identify(dataset: Buffer, transfer_syntax: str, start: int = 0) -> Identity:
    """Read the identity of an encoded data set that begins at `start`, and that it is whole.

    Raises InstanceRefused: DATASET_GARBLED, UID_MISSING or UID_INVALID with the offending tag, INSTANCE_TOO_LARGE.
    """
    if transfer_syntax == DEFLATED_LE:
        with _INFLATING:
            with memoryview(dataset) as whole, whole[start:] as deflated:
                plain = inflate(deflated)
            found = outline(plain, transfer_syntax, _WANTED, 0, VALUE_BYTES_MAX)
    else:
        found = outline(dataset, transfer_syntax, _WANTED, start, VALUE_BYTES_MAX)
    values = found.values
    return Identity(
        sop_class=_uid(values, _SOP_CLASS),
        sop_uid=_uid(values, _SOP_INSTANCE),
        study_uid=_uid(values, _STUDY),
        series_uid=_uid(values, _SERIES),
        values=values,
        pixels=found.pixels is not None,
        big_endian=transfer_syntax == EXPLICIT_BE,
    )


def describe(identity: Identity) -> Description:
    """Read the rest of what the pass has found. Never raises: what cannot be read is absent."""
    values = identity.values
    order: Literal["big", "little"] = "big" if identity.big_endian else "little"
    terms = tuple(term.strip() for term in _ascii(values.get(_CHARSET, b"")).split("\\"))
    return Description(
        modality=_ascii(values.get(_MODALITY, b"")).upper(),
        body_part=_ascii(values.get(_BODY_PART, b"")).upper(),
        description=_text(values, _SERIES_DESCRIPTION, terms),
        image_type=tuple(
            part.strip().upper() for part in _ascii(values.get(_IMAGE_TYPE, b"")).split("\\") if part.strip()
        ),
        series_number=_integer(values, _SERIES_NUMBER),
        patient=patient_digest(values.get(_PATIENT_ID, b"")),
        urgent=_ascii(values.get(_PRIORITY, b"")).upper() in _URGENT,
        frames=_integer(values, _FRAMES) or 1,
        acquisition_images=_integer(values, _ACQUISITION_IMAGES),
        instance_number=_integer(values, _INSTANCE_NUMBER),
        acquisition_number=_integer(values, _ACQUISITION_NUMBER),
        temporal_position=_integer(values, _TEMPORAL_POSITION),
        position=_decimals(values, _POSITION, 3),
        orientation=_decimals(values, _ORIENTATION, 6),
        rows=_unsigned(values, _ROWS, order),
        columns=_unsigned(values, _COLUMNS, order),
        pixel_spacing=_decimals(values, _PIXEL_SPACING, 2),
        protocol=_text(values, _PROTOCOL, terms),
        contrast=_text(values, _CONTRAST, terms),
        station=_text(values, _STATION, terms),
        manufacturer=_text(values, _MANUFACTURER, terms),
        study_description=_text(values, _STUDY_DESCRIPTION, terms),
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
    if not raw:
        return ""
    text = raw.decode("ascii", "replace").strip(" \0")
    return text if text.isprintable() else ""


def _integer(values: Mapping[int, bytes], tag: int) -> int | None:
    text = _ascii(values.get(tag, b""))
    return int(text) if text.isascii() and text.isdecimal() and len(text) <= _DIGITS_MAX else None


def _unsigned(values: Mapping[int, bytes], tag: int, order: Literal["big", "little"]) -> int | None:
    raw = values.get(tag, b"")
    return int.from_bytes(raw, order) if len(raw) == 2 else None


def _decimals(values: Mapping[int, bytes], tag: int, count: int) -> tuple[float, ...]:
    raw = values.get(tag)
    if not raw:
        return ()
    try:
        numbers = tuple(map(float, raw.rstrip(b" \0").split(b"\\")))
    except ValueError:
        return ()
    return numbers if len(numbers) == count and all(map(math.isfinite, numbers)) else ()


def _text(values: Mapping[int, bytes], tag: int, terms: tuple[str, ...]) -> str:
    raw = values.get(tag)
    if not raw:
        return ""
    try:
        text = decode_text(raw, terms)
    except CharsetRefused:
        # Unreadable is unknown: selection then cannot be misled by half a word.
        return ""
    return text.strip(" \0")
