"""Which of our calls an object from a reader is about, of those of its study, and what it says of that one.

Only calls of the study that the object itself names are looked at, so that a tracking UID of another study is nobody's.
Two calls to which it is tied equally are none: nobody could say which was meant.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from pydicom.dataset import Dataset
from pydicom.uid import (
    Comprehensive3DSRStorage,
    ComprehensiveSRStorage,
    EnhancedSRStorage,
    ExtensibleSRStorage,
    KeyObjectSelectionDocumentStorage,
)

from dicom_bridge.errors import BridgeError, Fault
from dicom_bridge.segment_pixels import SEGMENTATIONS
from dicom_bridge.verdict import (
    Tie,
    Verdict,
    compare_report,
    observer,
    read_object,
    rejects,
    same_patient,
    tie_of_report,
)
from dicom_bridge.verdict_segments import compare_segmentation, tie_of_segmentation

MODALITIES: Final = frozenset({"SR", "SEG", "KO"})
"""Of what may speak of a result; anything else is not looked at."""
_REPORTS: Final = frozenset({EnhancedSRStorage, ComprehensiveSRStorage, Comprehensive3DSRStorage, ExtensibleSRStorage})
"""What TID 1500 is written in."""


class VerdictUnmatched(BridgeError):
    """An object that is about no call of ours, or not about one that can be told."""

    CODES = frozenset({"NO_MATCH", "AMBIGUOUS", "PATIENT_DIFFERS", "CLASS_UNSUPPORTED"})
    fault = Fault.INPUT


@dataclass(frozen=True, slots=True)
class Base:
    """What was released of one call: the files that left, and the UIDs of all its instances."""

    call: str
    report: Path
    segmentation: Path | None
    own: frozenset[str]


@dataclass(frozen=True, slots=True)
class Judged:
    """What an object says, of which call, as what kind of object: SR, SEG or KO."""

    call: str
    channel: str
    verdict: Verdict


def judge(path: Path, sop_class: str, bases: Sequence[Base]) -> Judged:
    """What the held file says of one of the calls of its study.

    Raises VerdictUnmatched; VerdictUnusable: it is about one of ours, and cannot be compared; OSError.
    """
    if not bases:
        raise VerdictUnmatched("NO_MATCH", "no result of ours is of this study")
    if sop_class not in {KeyObjectSelectionDocumentStorage, *SEGMENTATIONS, *_REPORTS}:
        raise VerdictUnmatched("CLASS_UNSUPPORTED", "no kind of object that can speak of ours")
    theirs = read_object(path)
    if sop_class == KeyObjectSelectionDocumentStorage:
        return _only(list(_rejected(theirs, bases)))
    if sop_class in SEGMENTATIONS:
        return _segmentation(theirs, bases)
    return _report(theirs, bases)


def _report(theirs: Dataset, bases: Sequence[Base]) -> Judged:
    if rejected := list(_rejected(theirs, bases, "SR")):
        return _only(rejected)
    read = [(base, read_object(base.report)) for base in bases]
    base, ours, tie = _strongest([(base, ours, tie_of_report(theirs, ours, base.own)) for base, ours in read])
    _same_patient(theirs, ours)
    return Judged(base.call, "SR", compare_report(theirs, ours, tie))


def _segmentation(theirs: Dataset, bases: Sequence[Base]) -> Judged:
    read = [(base, read_object(base.segmentation)) for base in bases if base.segmentation is not None]
    base, ours, tie = _strongest([(base, ours, tie_of_segmentation(theirs, ours)) for base, ours in read])
    _same_patient(theirs, ours)
    return Judged(base.call, "SEG", compare_segmentation(theirs, ours, tie))


def _rejected(theirs: Dataset, bases: Sequence[Base], channel: str = "KO") -> Iterator[Judged]:
    for base in bases:
        if rejects(theirs, base.own):
            _same_patient(theirs, read_object(base.report))
            yield Judged(base.call, channel, Verdict("REJECT", ("OTHER",), (), observer(theirs)))


def _strongest(ties: Sequence[tuple[Base, Dataset, Tie]]) -> tuple[Base, Dataset, Tie]:
    best = max((tie for _, _, tie in ties), default=Tie.NONE)
    found = [one for one in ties if one[2] is best]
    if best is Tie.NONE:
        raise VerdictUnmatched("NO_MATCH", "nothing ties it to a result of ours")
    if len(found) > 1:
        raise VerdictUnmatched("AMBIGUOUS", "it is tied to several results of ours")
    return found[0]


def _only(found: Sequence[Judged]) -> Judged:
    if not found:
        raise VerdictUnmatched("NO_MATCH", "it rejects nothing of ours, or more than that")
    return found[0]


def _same_patient(theirs: Dataset, ours: Dataset) -> None:
    if not same_patient(theirs, ours):
        raise VerdictUnmatched("PATIENT_DIFFERS", "the object is of another patient, or does not say of whom")
