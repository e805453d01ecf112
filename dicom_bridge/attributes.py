"""What the ethics gate asks about a series, read from its header; what is not there for certain is None."""

from __future__ import annotations

import re
from dataclasses import dataclass
from datetime import date
from typing import Final

from pydicom.dataset import Dataset

from dicom_bridge.charset import declared, decode_text
from dicom_bridge.errors import CharsetRefused

_AGE: Final = re.compile(r"([0-9]{3})([DWMY])")
_YEARS: Final = {"D": 1 / 365.25, "W": 7 / 365.25, "M": 1 / 12, "Y": 1.0}
_DATE: Final = re.compile(r"([0-9]{4})([0-9]{2})([0-9]{2})")
AGE_MAX_YEARS: Final = 130.0
"""Years; nobody is older, a wrong birth date is."""
AGE_DISAGREEMENT_YEARS: Final = 2.0
"""Years by which the stated age and the dates may differ: ages are rounded down, and some are counted from one."""


@dataclass(frozen=True, slots=True)
class Attributes:
    """For the gate. `body_part` is upper case; `sex` is M, F or O; None where the header does not say.

    `lossy`: pixels of the series have been compressed with loss. Allowed unless a manifest forbids it, as in the field:
    DICOM asks that what is derived from them says so (PS3.3 C.7.6.1.1.5), which the segmentation does.
    """

    modality: str
    body_part: str | None
    age_years: float | None
    sex: str | None
    manufacturer: str | None
    slice_spacing_mm: float | None
    lossy: bool = False


def read_attributes(header: Dataset, *, slice_spacing_mm: float | None) -> Attributes:
    """Read the attributes of one header; the spacing is the measured one."""
    sex = _text(header, "PatientSex").upper()
    return Attributes(
        modality=_text(header, "Modality").upper(),
        body_part=_text(header, "BodyPartExamined").upper() or None,
        age_years=age_years(header),
        sex=sex if sex in ("M", "F", "O") else None,
        manufacturer=_text(header, "Manufacturer") or None,
        slice_spacing_mm=slice_spacing_mm,
    )


def age_years(header: Dataset) -> float | None:
    """Return the age at the study: Patient's Age (0010,1010), else birth date to study date.

    None when neither is there, when it is impossible, or when both are there and contradict each other.
    """
    stated = _stated_age(_text(header, "PatientAge"))
    born, studied = _date(_text(header, "PatientBirthDate")), _date(_text(header, "StudyDate"))
    counted = None if born is None or studied is None else (studied - born).days / 365.25
    if stated is not None and counted is not None and abs(stated - counted) > AGE_DISAGREEMENT_YEARS:
        return None
    age = stated if stated is not None else counted
    return age if age is not None and 0.0 <= age <= AGE_MAX_YEARS else None


def _stated_age(text: str) -> float | None:
    match = _AGE.fullmatch(text.upper())
    return None if match is None else int(match[1]) * _YEARS[match[2]]


def _date(text: str) -> date | None:
    match = _DATE.fullmatch(text)
    if match is None:
        return None
    try:
        return date(int(match[1]), int(match[2]), int(match[3]))
    except ValueError:
        return None


def _text(header: Dataset, keyword: str) -> str:
    """Return an element's text from its bytes: pydicom's own conversion warns of, and keeps, what it cannot read."""
    if keyword not in header:
        return ""
    item = header.get_item(keyword)
    value = item.value
    if isinstance(value, bytes):
        try:
            value = decode_text(value, declared(header))
        except CharsetRefused:
            return ""
    return "" if value is None else str(value).strip(" \0")
