"""Whose images these are: patient id and its issuer, for the identity map and for nothing else. Never for a log."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from pydicom import dcmread

from dicom_bridge.charset import normalise
from dicom_bridge.errors import CharsetRefused
from dicom_bridge.heads import UNREADABLE

_WANTED = ("SpecificCharacterSet", "PatientID", "IssuerOfPatientID")


@dataclass(frozen=True, slots=True, repr=False)
class Patient:
    """Patient ID (0010,0020) and its issuer (0010,0021), "" where there is none. Not shown by repr."""

    id: str
    issuer: str


def read_patient(path: Path, assumed: str | None = None) -> Patient | None:
    """Who the image says it is of; None where it does not say, or cannot be read for certain.

    `assumed`: the character set that its sender is known to write under a false name or none.
    """
    try:
        with path.open("rb") as file:
            head = normalise(dcmread(file, specific_tags=list(_WANTED), stop_before_pixels=True), assumed)
        number, issuer = (str(head.get(name) or "").strip() for name in _WANTED[1:])
    except (CharsetRefused, *UNREADABLE):
        return None
    return Patient(number, issuer) if number else None
