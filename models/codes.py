"""Coded concepts, number ranges and the autonomy scale: the small words that manifests and approvals are written in."""

import math
import re
from dataclasses import dataclass
from typing import Final

from models.errors import CodeInvalid

CODE_MEANING_MAX: Final = 64
"""Characters of a Code Meaning (0008,0104): VR LO, PS3.5 section 6.2."""

AUTONOMY_LEVELS: Final = ("A0", "A1", "A2", "A3", "A4")
"""A0 shadow; A1 assists, a physician decides each case; A2 drafts, a physician edits and signs; A3 releases negatives
alone; A4 autonomous. Ordered: each level includes those before it."""

ORIENTATIONS: Final = ("AXIAL", "SAGITTAL", "CORONAL", "OBLIQUE")
"""How slices lie in the patient; OBLIQUE is what is none of the others."""

MATRIX_MAX: Final = 65_535
"""Rows or Columns of an image: VR US, PS3.3 C.7.6.3."""

# Of several volumes in one series, the first or last in the order of what tells them apart, or the one of this value.
_PART: Final = re.compile(r"first|last|[A-Z][A-Z_]{0,31}=[ -~]{1,64}")

# Code Value (0008,0100) and Coding Scheme Designator (0008,0102) are VR SH: 16 characters at most, PS3.5 section 6.2.
_VALUE: Final = re.compile(r"[A-Za-z0-9\[\]{}'()/%.*^_-]{1,16}")
_SCHEME: Final = re.compile(r"[A-Z0-9_]{1,16}")
_SCT_ID: Final = re.compile(r"[1-9][0-9]{5,15}")

_VERHOEFF_MULTIPLY: Final = (
    (0, 1, 2, 3, 4, 5, 6, 7, 8, 9),
    (1, 2, 3, 4, 0, 6, 7, 8, 9, 5),
    (2, 3, 4, 0, 1, 7, 8, 9, 5, 6),
    (3, 4, 0, 1, 2, 8, 9, 5, 6, 7),
    (4, 0, 1, 2, 3, 9, 5, 6, 7, 8),
    (5, 9, 8, 7, 6, 0, 4, 3, 2, 1),
    (6, 5, 9, 8, 7, 1, 0, 4, 3, 2),
    (7, 6, 5, 9, 8, 2, 1, 0, 4, 3),
    (8, 7, 6, 5, 9, 3, 2, 1, 0, 4),
    (9, 8, 7, 6, 5, 4, 3, 2, 1, 0),
)
_VERHOEFF_PERMUTE: Final = (
    (0, 1, 2, 3, 4, 5, 6, 7, 8, 9),
    (1, 5, 7, 6, 2, 8, 3, 0, 9, 4),
    (5, 8, 0, 3, 7, 9, 6, 1, 4, 2),
    (8, 9, 1, 6, 0, 4, 3, 5, 2, 7),
    (9, 4, 5, 3, 1, 2, 6, 8, 7, 0),
    (4, 2, 8, 6, 5, 7, 3, 9, 0, 1),
    (2, 7, 9, 3, 8, 0, 6, 4, 1, 5),
    (7, 0, 4, 6, 9, 1, 3, 2, 5, 8),
)


def is_part(text: str) -> bool:
    """Whether `text` can pick one of several volumes of a series: "first", "last", or KEY=VALUE such as B_VALUE=0."""
    return _PART.fullmatch(text) is not None


def snomed_check_digit_ok(value: str) -> bool:
    """Whether `value` is a SNOMED CT identifier with a right (Verhoeff) check digit.

    Source: SNOMED CT Release File Specifications, section "Check-digit computation".
    """
    if not _SCT_ID.fullmatch(value):
        return False
    check = 0
    for place, digit in enumerate(reversed(value)):
        check = _VERHOEFF_MULTIPLY[check][_VERHOEFF_PERMUTE[place % 8][int(digit)]]
    return check == 0


@dataclass(frozen=True, slots=True)
class Code:
    """A coded concept, PS3.3 section 8: value, coding scheme designator, meaning.

    Raises CodeInvalid for text that would not fit its DICOM attribute, and for a SNOMED CT value (scheme SCT) whose
    check digit is wrong: such codes are common in public software and mean another thing, or nothing.
    """

    value: str
    scheme: str
    meaning: str

    def __post_init__(self) -> None:
        if not _VALUE.fullmatch(self.value):
            raise CodeInvalid("code value: 1 to 16 plain characters wanted")
        if not _SCHEME.fullmatch(self.scheme):
            raise CodeInvalid("coding scheme designator: 1 to 16 of A-Z 0-9 _ wanted")
        meaning = self.meaning
        if not 0 < len(meaning) <= CODE_MEANING_MAX or not meaning.isprintable() or "\\" in meaning:
            raise CodeInvalid("code meaning: 1 to 64 printable characters without backslash wanted")
        if self.scheme == "SCT" and not snomed_check_digit_ok(self.value):
            raise CodeInvalid(f"SCT {self.value}: not a SNOMED CT identifier (check digit)")


@dataclass(frozen=True, slots=True)
class Range:
    """A closed interval of finite numbers, low <= high; the unit is in the name of the field that holds it."""

    low: float
    high: float

    def __post_init__(self) -> None:
        if not (math.isfinite(self.low) and math.isfinite(self.high) and self.low <= self.high):
            raise CodeInvalid("range: two finite numbers wanted, the lower one first")

    def contains(self, value: float) -> bool:
        """Whether low <= value <= high; never true of NaN."""
        return self.low <= value <= self.high
