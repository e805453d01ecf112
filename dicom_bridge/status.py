"""DIMSE status codes: what we answer, with what comment, and what we make of a peer's answer. One table.

Sources: PS3.4 Table B.2-1 (C-STORE), PS3.7 section 9.1.1.1.9 and annex C.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import Final

from dicom_bridge.errors import BridgeError, InstanceRefused

ERROR_COMMENT_MAX: Final = 64
"""Characters of Error Comment (0000,0902), VR LO."""


@dataclass(frozen=True, slots=True)
class Answer:
    """One row: the status, the Error Comment that goes with it (never data of the instance), and where it stands."""

    status: int
    comment: str
    section: str


SUCCESS: Final = Answer(0x0000, "", "PS3.4 Table B.2-1")
FAULT: Final = Answer(0xC211, "Internal error; recorded, please report", "PS3.4 Table B.2-1, Cxxx")
CLASS_UNSUPPORTED: Final = Answer(0x0122, "SOP class is not supported in this context", "PS3.7 section 9.1.1.1.9")
UNRECOGNIZED_OPERATION: Final = Answer(0x0211, "This operation is not served here", "PS3.7 annex C.5")

_ANSWERS: Final = {
    "SPOOL_FULL": Answer(0xA700, "Out of resources: disk, send again later", "PS3.4 Table B.2-1, A7xx"),
    "SPOOL_FAILED": Answer(0xA700, "Out of resources: storage failed, send again later", "PS3.4 Table B.2-1, A7xx"),
    "QUARANTINE_FULL": Answer(0xA700, "Out of resources: quarantine, send again later", "PS3.4 Table B.2-1, A7xx"),
    "STOPPING": Answer(0xA700, "Shutting down, send again later", "PS3.4 Table B.2-1, A7xx"),
    "CLASS_MISMATCH": Answer(0xA900, "Data set does not match SOP class", "PS3.4 Table B.2-1, A9xx"),
    "WRONG_STUDY": Answer(0xA900, "Not of the study that was asked for", "PS3.4 Table B.2-1, A9xx"),
    "CLASS_UNSUPPORTED": CLASS_UNSUPPORTED,
    "NOT_AUTHORISED": Answer(0x0124, "Not authorised for this", "PS3.7 section 9.1.1.1.9"),
    "DATASET_GARBLED": Answer(0xC000, "Cannot understand: data set is not well formed", "PS3.4 Table B.2-1, Cxxx"),
    "UID_MISSING": Answer(0xC000, "Cannot understand: a required UID is missing", "PS3.4 Table B.2-1, Cxxx"),
    "UID_INVALID": Answer(0xC000, "Cannot understand: a UID is invalid", "PS3.4 Table B.2-1, Cxxx"),
    "INSTANCE_TOO_LARGE": Answer(0xC001, "Instance is larger than this service takes", "PS3.4 Table B.2-1, Cxxx"),
}


def answer(error: BridgeError) -> Answer:
    """Return the C-STORE answer to an instance that was not taken; for a code without a row, FAULT."""
    return _ANSWERS.get(error.code, FAULT)


def offending(error: BridgeError) -> int | None:
    """Return the tag for Offending Element (0000,0901), if the error names one."""
    return error.tag if isinstance(error, InstanceRefused) else None


class Fate(StrEnum):
    """What a peer's C-STORE answer means for the sender."""

    STORED = "STORED"
    RETRY = "RETRY"
    DEAD = "DEAD"


def fate(status: int) -> Fate:
    """Read a peer's C-STORE status: success and warnings are stored, lack of resources is worth another try.

    Bxxx and the general warnings 0001, 0107, 0116 count as stored (PS3.7 annex C.2, C.4). A7xx is out of resources;
    other codes of Axxx but A9xx are not defined for C-STORE and are treated like it, since peers do use them so.
    A9xx (does not match the SOP class), Cxxx (cannot understand) and 01xx will not get better by waiting.
    """
    if status == 0x0000 or status >> 12 == 0xB or status in (0x0001, 0x0107, 0x0116):
        return Fate.STORED
    if status >> 12 == 0xA and status >> 8 != 0xA9:
        return Fate.RETRY
    return Fate.DEAD
