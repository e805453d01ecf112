"""What the outbox reads of a file that it is to send: whose it is in the DICOM hierarchy, and its digest."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from pydicom import dcmread
from pydicom.errors import InvalidDicomError

from dicom_bridge.uids import storable

_HEAD: Final = ("SOPClassUID", "SOPInstanceUID", "StudyInstanceUID", "SeriesInstanceUID")


@dataclass(frozen=True, slots=True)
class Head:
    """The UIDs of one object: what a storage commitment names it by, and where a C-FIND looks for it."""

    sop_uid: str
    sop_class: str
    study_uid: str
    series_uid: str


def head_of(path: Path) -> Head | None:
    """Read a Part 10 file's head; None when it is none, or has not all four UIDs."""
    try:
        ds = dcmread(path, stop_before_pixels=True, specific_tags=list(_HEAD))
        head = Head(str(ds.SOPInstanceUID), str(ds.SOPClassUID), str(ds.StudyInstanceUID), str(ds.SeriesInstanceUID))
    except (OSError, InvalidDicomError, AttributeError, ValueError):
        return None
    given = (head.sop_uid, head.sop_class, head.study_uid, head.series_uid)
    return head if all(map(storable, given)) else None


def digest_of(path: Path) -> str | None:
    """Return "sha256:..." of a file's bytes; None when it cannot be read."""
    try:
        with path.open("rb") as file:
            return "sha256:" + hashlib.file_digest(file, "sha256").hexdigest()
    except OSError:
        return None
