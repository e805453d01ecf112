"""What one of our reports says, for systems that read no DICOM: read from the very bytes that the PACS was given.

It shares no code with the writers (report.py, groups.py, statements.py). Text is decoded strictly: a name that cannot
be read for certain is refused, and so is a number that is none.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import datetime
from io import BytesIO
from typing import Final

from pydicom import dcmread
from pydicom.dataset import Dataset
from pydicom.errors import InvalidDicomError
from pydicom.uid import Comprehensive3DSRStorage

from dicom_bridge.charset import normalise
from dicom_bridge.errors import BridgeError, CharsetRefused, Fault
from models.codes import Code
from models.errors import CodeInvalid

_LANGUAGE: Final = "121049"
_PROCEDURE: Final = "121058"
_QUALITATIVE: Final = "C0034375"
_SUMMARY: Final = "111017"
_COMMENT: Final = "121106"
_MEASUREMENTS: Final = "126010"
_TRACKING_ID: Final = "112039"
_TRACKING_UID: Final = "112040"
_FINDING: Final = "121071"
_SITE: Final = "363698007"
_METHOD: Final = "370129005"
_DECIMAL: Final = re.compile(r"-?(?:0|[1-9][0-9]*)(?:\.[0-9]+)?")
_DATE: Final = re.compile(r"[0-9]{8}")
_TIME: Final = re.compile(r"[0-9]{4}(?:[0-9]{2})?")
_SECONDS: Final = 6
"""Digits of a time of day that are told: HHMMSS."""


class ReportUnreadable(BridgeError):
    """The bytes are no report of ours, or say something that no other form could hold."""

    CODES = frozenset({"NOT_A_REPORT", "REPORT_MALFORMED"})
    fault = Fault.US


@dataclass(frozen=True, slots=True)
class Person:
    """Whom a report is of. `name`: component groups as sent, "=" between them. Not for logs."""

    id: str = field(repr=False)
    issuer: str = field(repr=False)
    name: str = field(repr=False)
    birth_date: str = field(repr=False)
    sex: str = field(repr=False)


@dataclass(frozen=True, slots=True)
class Equipment:
    """The model: as Contributing Equipment names it (IHE AIR 6.5.3.1)."""

    vendor: str
    name: str
    version: str
    uid: str


@dataclass(frozen=True, slots=True)
class Quantity:
    """A NUM item: `value` is the decimal text of the report, to the last digit."""

    name: Code
    value: str
    unit: Code
    method: Code | None = None


@dataclass(frozen=True, slots=True)
class Stated:
    """A coded statement on the study as a whole, with what scores it."""

    name: Code
    value: Code
    site: Code | None = None
    numbers: tuple[Quantity, ...] = ()


@dataclass(frozen=True, slots=True)
class Measured:
    """A measurement group."""

    label: str
    uid: str
    finding: Code
    sites: tuple[Code, ...]
    numbers: tuple[Quantity, ...]


@dataclass(frozen=True, slots=True)
class Reported:
    """A report. `studied`: the study's date and time as DICOM digits, with the offset where there is a time, or "".

    `made_at`: start of the analysis, aware. `complete`: whether all that was to run did. `comments`: as they stand,
    the marking among them. Holds patient data: not for logs.
    """

    sop_uid: str
    study_uid: str
    patient: Person
    accession: str = field(repr=False)
    studied: str
    made_at: datetime
    language: str
    procedure: Code
    equipment: Equipment
    complete: bool
    summary: Code
    statements: tuple[Stated, ...]
    comments: tuple[str, ...]
    groups: tuple[Measured, ...]


def read_reported(data: bytes) -> Reported:
    """A Part 10 file of ours. Raises ReportUnreadable, CharsetRefused."""
    try:
        ds = dcmread(BytesIO(data))
        if ds.get("SOPClassUID") != Comprehensive3DSRStorage:
            raise ReportUnreadable("NOT_A_REPORT", "the object is no Comprehensive 3D SR")
        return _reported(normalise(ds))
    except InvalidDicomError:
        raise ReportUnreadable("NOT_A_REPORT", "the file is no DICOM file") from None
    except CharsetRefused:
        raise
    # Whatever bytes that are no report of ours do to a reader that expects one.
    except (AttributeError, CodeInvalid, IndexError, KeyError, TypeError, ValueError) as error:
        raise ReportUnreadable("REPORT_MALFORMED", type(error).__name__) from None


def _reported(ds: Dataset) -> Reported:
    (qualitative,) = _named(ds, _QUALITATIVE)
    said = list(_children(qualitative))
    statements = [item for item in said if item.ValueType == "CODE"]
    (summary,) = (_value(item) for item in statements if _code(item).value == _SUMMARY)
    groups = [group for container in _named(ds, _MEASUREMENTS) for group in _children(container)]
    offset = _text(ds, "TimezoneOffsetFromUTC")
    return Reported(
        sop_uid=str(ds.SOPInstanceUID),
        study_uid=str(ds.StudyInstanceUID),
        patient=Person(
            id=_text(ds, "PatientID"),
            issuer=_text(ds, "IssuerOfPatientID"),
            name=_text(ds, "PatientName"),
            birth_date="".join(_DATE.findall(_text(ds, "PatientBirthDate"))[:1]),
            sex=_text(ds, "PatientSex"),
        ),
        accession=_text(ds, "AccessionNumber"),
        studied=_moment(_text(ds, "StudyDate"), _text(ds, "StudyTime"), offset),
        made_at=datetime.strptime(f"{ds.ContentDate}{ds.ContentTime}{offset}", "%Y%m%d%H%M%S.%f%z"),
        language=_value(*_named(ds, _LANGUAGE)).value,
        procedure=_value(*_named(ds, _PROCEDURE)),
        equipment=_equipment(ds.ContributingEquipmentSequence[0]),
        complete=ds.CompletionFlag == "COMPLETE",
        summary=summary,
        statements=tuple(_stated(item) for item in statements if _code(item).value != _SUMMARY),
        comments=tuple(
            str(item.TextValue) for item in said if item.ValueType == "TEXT" and _code(item).value == _COMMENT
        ),
        groups=tuple(_measured(group) for group in groups),
    )


def _equipment(item: Dataset) -> Equipment:
    return Equipment(
        vendor=str(item.Manufacturer),
        name=str(item.ManufacturerModelName),
        version=str(item.SoftwareVersions),
        uid=str(item.DeviceUID),
    )


def _stated(item: Dataset) -> Stated:
    site = next((_value(one) for one in _named(item, _SITE)), None)
    return Stated(_code(item), _value(item), site, tuple(_quantities(item)))


def _measured(group: Dataset) -> Measured:
    (label,), (uid,), (finding,) = (_named(group, code) for code in (_TRACKING_ID, _TRACKING_UID, _FINDING))
    return Measured(
        label=str(label.TextValue),
        uid=str(uid.UID),
        finding=_value(finding),
        sites=tuple(_value(one) for one in _named(group, _SITE)),
        numbers=tuple(_quantities(group)),
    )


def _quantities(item: Dataset) -> Iterator[Quantity]:
    """The NUM items right below `item`."""
    for child in _children(item):
        if child.ValueType == "NUM":
            measured = child.MeasuredValueSequence[0]
            text = str(measured.NumericValue)
            if not _DECIMAL.fullmatch(text):
                raise ReportUnreadable("REPORT_MALFORMED", "a number that is not in plain decimals")
            method = next((_value(one) for one in _named(child, _METHOD)), None)
            yield Quantity(_code(child), text, _coded(measured.MeasurementUnitsCodeSequence[0]), method)


def _moment(date: str, time: str, offset: str) -> str:
    if not _DATE.fullmatch(date):
        return ""
    digits = time.partition(".")[0][:_SECONDS]
    return f"{date}{digits}{offset}" if _TIME.fullmatch(digits) else date


def _text(ds: Dataset, keyword: str) -> str:
    value = ds.get(keyword)
    return "" if value is None else str(value)


def _children(item: Dataset) -> Iterator[Dataset]:
    yield from item.get("ContentSequence", ())


def _named(item: Dataset, value: str) -> list[Dataset]:
    return [child for child in _children(item) if "ConceptNameCodeSequence" in child and _code(child).value == value]


def _code(item: Dataset) -> Code:
    return _coded(item.ConceptNameCodeSequence[0])


def _value(item: Dataset) -> Code:
    return _coded(item.ConceptCodeSequence[0])


def _coded(item: Dataset) -> Code:
    return Code(str(item.CodeValue), str(item.CodingSchemeDesignator), str(item.CodeMeaning))
