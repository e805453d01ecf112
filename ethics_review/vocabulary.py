"""The closed vocabulary of conditions, and the classes in which observed values may be written down.

What the gate observes comes out of images, where any field may hold anything, even a name. So nothing observed is ever
repeated: it is put in a class from a closed list (an age band, a known vendor), or it is OTHER.
"""

import math
import re
import unicodedata
from collections.abc import Collection
from enum import StrEnum
from functools import lru_cache
from typing import Final

ANY: Final = "*"
"""Stands alone for "any known value"; allowed for manufacturer, site, care setting and reading mode only."""

OTHER: Final = "OTHER"
UNKNOWN: Final = "UNKNOWN"
SEXES: Final = ("F", "M", "O")
"""Patient's Sex (0010,0040), PS3.3 section C.7.1.1."""

AGE_YEARS_MAX: Final = 150
"""Nobody is older; an age beyond it is a mistake, hence unknown."""
AGE_BAND_YEARS: Final = 5
AGE_BAND_OPEN: Final = 90
"""From here on ages are one class, as so few people share them that an age would name one."""

CARE_SETTINGS: Final = ("IP", "OP", "ED", "PE")
"""Inpatients, outpatients, emergency, and physical examination of healthy people (体检)."""
READING_MODES: Final = ("concurrent", "first_reader", "second_reader", "triage")
"""A physician sees the result while reading, before it, after a reading of their own, or as the order of a list."""

CALLS_DAY_MAX: Final = 99_999
"""The largest daily limit: more than a province's hospitals read, and the log takes no six digits on end."""

MINORS_UNDER_YEARS: Final = 14
"""Completed years below which a patient's data want special rules (个人信息保护法 31). A site's policy may say another
number, as law may change."""

OPT_OUT_CHECK: Final = "opt_out_check"
MINORS: Final = "minors:"
_ID: Final = "[A-Za-z0-9][A-Za-z0-9._-]{0,47}"
_REQUIREMENT: Final = re.compile(
    # A registration number begins with its authority's name in Chinese: 国械注准.
    rf"{OPT_OUT_CHECK}|(?:pia:|{MINORS}){_ID}|registration:[\u4e00-\u9fff]{{0,8}}{_ID}"
)

SPACING_PLACES: Final = 2
"""Decimals of millimetres at which slice spacing is compared and written: far below what a model could notice, far
above the noise of positions written as decimal strings. What is written is what was compared."""

_TOKEN_REFUSED: Final = re.compile(r"[^A-Za-z0-9 ._:/+-]")
_TOKEN_MAX: Final = 64
KEPT_MAX: Final = 512
"""How many answers of a pure function of a call's classes are kept: each call brings the same few."""
# What a person's numbers look like: six digits on end, a date, a foreign UID. The audit log refuses these too.
_PERSONAL: Final = re.compile(r"[0-9]{6,}|[0-9]{4}[-./][0-9]{1,2}[-./][0-9]{1,2}|(?:[0-9]+\.){5,}")

# Defined terms of Modality (0008,0060), PS3.3 section C.7.3.1.1.1, that hold pixels.
_MODALITY_TERMS: Final = "CT MR CR DX DR MG US NM PT XA RF PX IO XC ES OP OPT SM OT"
# Defined terms of Body Part Examined (0018,0015), PS3.16 Annex L, that a hospital sees daily.
_BODY_PART_TERMS: Final = (
    "ABDOMEN ABDOMENPELVIS ANKLE AORTA ARM BLADDER BRAIN BREAST CAROTID CHEST CHESTABDOMEN CHESTABDPELVIS CLAVICLE "
    "COLON CSPINE EAR ELBOW EXTREMITY EYE FEMUR FINGER FOOT FOREARM HAND HEAD HEADNECK HEART HIP JAW KIDNEY KNEE LEG "
    "LIVER LSPINE LUNG NECK NOSE ORBIT PANCREAS PELVIS PROSTATE RIB SHOULDER SINUS SKULL SPINE SPLEEN SSPINE STERNUM "
    "THIGH THYROID TOE TSPINE UTERUS WHOLEBODY WRIST"
)
_VENDOR_NAMES: Final = (
    "AGFA ALLENGERS ANKE CANON CARESTREAM ESAOTE FONAR FUJIFILM GE HITACHI HOLOGIC HYPERFINE KONICA MINDRAY MINFOUND "
    "NEUSOFT PARAMED PHILIPS SAMSUNG SHIMADZU SIEMENS SINOVISION TOSHIBA UIH UNITED WANDONG XINGAOYI"
)
_MODALITIES: Final = frozenset(_MODALITY_TERMS.split())
_BODY_PARTS: Final = frozenset(_BODY_PART_TERMS.split())
_VENDORS: Final = frozenset(_VENDOR_NAMES.split())


class Condition(StrEnum):
    """Every condition that an approval must state; the value is its key in the approval, the name its CODE."""

    MODALITY = "modality"
    BODY_PART = "body_part"
    AGE_YEARS = "age_years"
    SEX = "sex"
    MANUFACTURER = "manufacturer"
    SITE = "site"
    SLICE_SPACING_MM = "slice_spacing_mm"
    MAX_AUTONOMY = "max_autonomy"
    CARE_SETTING = "care_setting"
    READING_MODE = "reading_mode"
    MAX_CALLS_DAY = "max_calls_day"
    REQUIRE = "require"


def is_requirement(text: str) -> bool:
    """Whether it is one that a site can be asked to fulfil.

    "opt_out_check": it is known of each patient whether they opted out. "pia:ID": an impact assessment that is in date.
    "registration:NO": a device registration that is in date. "minors:RULE": a rule for minors, wanted for them only.
    """
    return _REQUIREMENT.fullmatch(text) is not None


def normal(text: str | None) -> str | None:
    """Text as conditions compare it: NFKC, upper case, single spaces; None for what is absent or blank."""
    if text is None:
        return None
    # Nearly all values are plain ASCII, and NFKC leaves those alone.
    plain = text if text.isascii() else unicodedata.normalize("NFKC", text)
    return " ".join(plain.upper().split()) or None


@lru_cache(KEPT_MAX)
def token(text: str) -> str:
    """`text` as an audit token of 64 characters at most.

    Anything but letters, digits, space and ._:/+- becomes "_", and so does what looks like a person's number or date.
    """
    return _PERSONAL.sub("_", _TOKEN_REFUSED.sub("_", text))[:_TOKEN_MAX] or UNKNOWN


def modality_class(value: str, listed: Collection[str]) -> str:
    """The modality if it is listed or a defined term, else OTHER."""
    return token(value) if value in listed or value in _MODALITIES else OTHER


def body_part_class(value: str, listed: Collection[str]) -> str:
    """The body part if it is listed or a defined term, else OTHER."""
    return token(value) if value in listed or value in _BODY_PARTS else OTHER


def manufacturer_class(value: str, listed: Collection[str]) -> str:
    """The manufacturer if it is listed, else the known vendor that the value begins with, else OTHER."""
    if value in listed:
        return token(value)
    first = value.split(" ", 1)[0]
    return first if first in _VENDORS else OTHER


def completed_years(age_years: float | None) -> int | None:
    """Age in completed years (周岁), as law and approvals count; None if unknown or impossible."""
    if age_years is None or not math.isfinite(age_years) or not 0 <= age_years <= AGE_YEARS_MAX:
        return None
    return math.floor(age_years)


def age_band(years: int) -> str:
    """ "70-74" for 70 to 74; "90+" from 90."""
    if years >= AGE_BAND_OPEN:
        return f"{AGE_BAND_OPEN}+"
    low = years - years % AGE_BAND_YEARS
    return f"{low}-{low + AGE_BAND_YEARS - 1}"


def rounded_spacing(spacing_mm: float | None) -> float | None:
    """Slice spacing in mm as it is compared (SPACING_PLACES decimals); None if unknown or not positive and finite."""
    if spacing_mm is None or not math.isfinite(spacing_mm):
        return None
    rounded = round(spacing_mm, SPACING_PLACES)
    return rounded if 0 < rounded <= 1000 else None
