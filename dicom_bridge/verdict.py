"""What a person's edited or verified report says of ours: tied to it, compared with it, put into codes. Pure.

A viewer sends back a report of its own: the whole of ours, with what a person has changed in it. What is not in it any
more was taken out. It is tied to ours by the tracking UIDs of its groups, which viewers keep; else by the predecessor
that it names; else by a reference to one of our objects, and then nothing is concluded from what it leaves out.
Nothing of its text is given on: codes and units are those of our report, and numbers are checked numbers.
"""

from __future__ import annotations

import unicodedata
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from enum import IntEnum
from pathlib import Path
from typing import Final

from pydicom import dcmread
from pydicom.dataset import Dataset
from pydicom.uid import ExplicitVRLittleEndian, ImplicitVRLittleEndian

from dicom_bridge.charset import normalise, person_name
from dicom_bridge.errors import CharsetRefused, InstanceRefused
from dicom_bridge.heads import UNREADABLE
from dicom_bridge.spool_recovery import OUR_HEAD_BYTES
from dicom_bridge.stream import read_part10
from dicom_bridge.verdict_tree import Group, Name, Number, Statement, Tree, VerdictUnusable, code, read_tree

FILE_BYTES_MAX: Final = 256 << 20
"""A report has some kilobytes; a segmentation of a hundred organs, 1 bit a pixel, 200 MB."""
CHANGES_MAX: Final = 256
"""Changed numbers of one verdict; more would not fit one entry of the log."""
REJECTED: Final = frozenset({("DCM", "113001"), ("DCM", "113037")})
"""Document titles of CID 7011 that reject what is named: for quality reasons, for patient safety reasons."""

_PERSON: Final = ("DCM", "121008")
_PRESENT: Final = ("SCT", "52101004")
_ABSENT: Final = ("SCT", "272519000")
_MOVED_PIXELS: Final = 0.5
"""Further than this a region is another one; a viewer's own rounding is less."""

_Pairs = list[tuple[Group, Group]]


class Tie(IntEnum):
    """What ties an object to ours, the weakest first."""

    NONE = 0
    REFERENCE = 1
    PREDECESSOR = 2
    TRACKING = 3


@dataclass(frozen=True, slots=True)
class Change:
    """One number that is another one now. `code`, `unit`: of our own report; `tracking`: our group's UID.

    `before`, `after`: decimals as text; None where there is none.
    """

    code: str
    tracking: str
    before: str | None
    after: str | None
    unit: str


@dataclass(frozen=True, slots=True)
class Verdict:
    """What an object says of ours. `decision`: ACCEPT, MODIFY or REJECT; None where it says nothing.

    `reasons`: codes of service.decisions. `observer`: who verified or wrote it, by the object's own word; "" for
    nobody. It is a person's name: for a pseudonym, and for nothing else.
    """

    decision: str | None
    reasons: tuple[str, ...] = ()
    changes: tuple[Change, ...] = ()
    observer: str = field(default="", repr=False)


def read_object(path: Path) -> Dataset:
    """A held file, whole. Raises VerdictUnusable (UNREADABLE, TOO_LARGE, ENCODING), FileNotFoundError."""
    if path.stat().st_size > FILE_BYTES_MAX:
        raise VerdictUnusable("TOO_LARGE", "larger than a report or a segmentation can be")
    try:
        with path.open("rb") as file:
            syntax = read_part10(file.read(OUR_HEAD_BYTES)).transfer_syntax
        # What is compressed could unpack to anything.
        if syntax not in (ExplicitVRLittleEndian, ImplicitVRLittleEndian):
            raise VerdictUnusable("ENCODING", "compressed, or big endian")
        return dcmread(path)
    except (FileNotFoundError, VerdictUnusable):
        raise
    except (InstanceRefused, *UNREADABLE) as error:
        raise VerdictUnusable("UNREADABLE", type(error).__name__) from None


def same_patient(theirs: Dataset, ours: Dataset) -> bool:
    """Whether both name one patient and one study; False where it cannot be read for certain."""
    try:
        one, other = (_whose(ds) for ds in (theirs, ours))
    except (CharsetRefused, *UNREADABLE):
        return False
    return one == other


def tie_of_report(theirs: Dataset, ours: Dataset, own: frozenset[str]) -> Tie:
    """What ties a report to ours; `own`: the instances of our call. Raises VerdictUnusable."""
    try:
        # Any later report may name our objects, and a diagnosis is no edited list of measurements.
        if code(theirs) != code(ours):
            return Tie.NONE
        if {one.tracking for one in read_tree(theirs).groups} & {one.tracking for one in read_tree(ours).groups}:
            return Tie.TRACKING
        if str(ours.SOPInstanceUID) in _instances(theirs, "PredecessorDocumentsSequence"):
            return Tie.PREDECESSOR
        return Tie.REFERENCE if own & _evidence(theirs) else Tie.NONE
    except UNREADABLE as error:
        raise VerdictUnusable("UNREADABLE", type(error).__name__) from None


def rejects(theirs: Dataset, own: frozenset[str]) -> bool:
    """Whether its title rejects what it names, and it names ours and nothing else. Raises VerdictUnusable."""
    try:
        evidence = _evidence(theirs)
        return code(theirs) in REJECTED and bool(evidence) and evidence <= own
    except UNREADABLE as error:
        raise VerdictUnusable("UNREADABLE", type(error).__name__) from None


def compare_report(theirs: Dataset, ours: Dataset, tie: Tie) -> Verdict:
    """What a report that is tied to ours says of it. Raises VerdictUnusable."""
    try:
        return _compared(theirs, read_tree(theirs), read_tree(ours), tie)
    except UNREADABLE as error:
        raise VerdictUnusable("UNREADABLE", type(error).__name__) from None


def person_in(ds: Dataset, keywords: Sequence[str], beside: Dataset) -> str:
    """The first name of these in `ds`, in one spelling; "" for none. `beside`: has the character set, if `ds` has none.

    Raises CharsetRefused.
    """
    for keyword in keywords:
        head = Dataset()
        for source, wanted in ((beside, "SpecificCharacterSet"), (ds, "SpecificCharacterSet"), (ds, keyword)):
            if wanted in source:
                head[wanted] = source.get_item(wanted)
        parts = (
            part.rstrip("^ ").strip() for part in unicodedata.normalize("NFKC", person_name(head, keyword)).split("=")
        )
        if name := "=".join(parts).strip("=").casefold():
            return name
    return ""


def observer(ds: Dataset) -> str:
    """Who verified a document last, or else who wrote it; "" where it does not say, or cannot be read."""
    verifying = sorted(ds.get("VerifyingObserverSequence") or (), key=lambda one: str(one.get("VerificationDateTime")))
    persons = [one for one in ds.get("ContentSequence") or () if code(one) == _PERSON]
    try:
        for item in (*reversed(verifying), *(ds.get("AuthorObserverSequence") or ()), *persons):
            if name := person_in(item, ("VerifyingObserverName", "PersonName"), ds):
                return name
    except CharsetRefused:
        return ""
    return ""


def _whose(ds: Dataset) -> tuple[str, str]:
    head = Dataset()
    for keyword in ("SpecificCharacterSet", "PatientID"):
        if keyword in ds:
            head[keyword] = ds.get_item(keyword)
    return str(ds.StudyInstanceUID), str(normalise(head).get("PatientID") or "").strip()


def _evidence(ds: Dataset) -> frozenset[str]:
    return _instances(ds, "CurrentRequestedProcedureEvidenceSequence") | _instances(
        ds, "PertinentOtherEvidenceSequence"
    )


def _instances(ds: Dataset, keyword: str) -> frozenset[str]:
    """What a hierarchical reference names (PS3.3 Table C.17-3)."""
    return frozenset(
        str(one.get("ReferencedSOPInstanceUID", ""))
        for study in ds.get(keyword) or ()
        for series in study.get("ReferencedSeriesSequence") or ()
        for one in series.get("ReferencedSOPSequence") or ()
    )


def _compared(ds: Dataset, now: Tree, was: Tree, tie: Tie) -> Verdict:
    pairs, gone, added = _paired(was.groups, now.groups)
    if tie is Tie.REFERENCE:
        gone, added = [], []
    spoken = now.statements is not None and tie is not Tie.REFERENCE
    if not (pairs or gone or spoken):
        raise VerdictUnusable("UNPAIRED", "nothing in it can be told to be ours")
    reasons, changes = set[str](), list[Change]()
    for old, new in pairs:
        _changed(old, new, reasons, changes)
    for old in gone:
        reasons.add("FALSE_POSITIVE")
        changes += [_change(old, key[0], before, None) for key, before in old.numbers.items()]
    if added:
        reasons.add("MISSED_FINDING")
    if spoken:
        reasons |= set(_restated(was.statements or {}, now.statements or {}))
    if len(changes) > CHANGES_MAX:
        raise VerdictUnusable("TOO_LARGE", "more is changed than an entry can hold")
    if gone and not pairs and not added:
        return Verdict("REJECT", tuple(sorted(reasons)), (), observer(ds))
    if reasons:
        return Verdict("MODIFY", tuple(sorted(reasons)), tuple(changes), observer(ds))
    if str(ds.get("VerificationFlag", "")) != "VERIFIED":
        return Verdict(None)
    # PS3.3 C.17.2: VERIFIED is only of what is complete, and says who.
    if str(ds.get("CompletionFlag", "")) != "COMPLETE" or not ds.get("VerifyingObserverSequence"):
        raise VerdictUnusable("UNVERIFIABLE", "it says VERIFIED, and not that it is complete, or not by whom")
    return Verdict("ACCEPT", (), (), observer(ds))


def _paired(ours: Sequence[Group], theirs: Sequence[Group]) -> tuple[_Pairs, list[Group], list[Group]]:
    """Ours with theirs, ours without one, theirs without one. Raises VerdictUnusable DUPLICATE, UNPAIRED."""
    if any(number > 1 for number in Counter(one.tracking for one in theirs if one.tracking).values()):
        raise VerdictUnusable("DUPLICATE", "two groups with one tracking UID")
    known = {one.tracking: one for one in theirs if one.tracking}
    pairs = [(one, known[one.tracking]) for one in ours if one.tracking in known]
    left = [one for one in ours if one.tracking not in known]
    # A viewer that drops the tracking leaves the finding; where that is one of several, nobody can say which.
    for bare in (one for one in theirs if not one.tracking):
        alike = [one for one in left if one.finding == bare.finding]
        if len(alike) != 1:
            raise VerdictUnusable("UNPAIRED", "a group without a tracking UID could be any of several, or none")
        pairs.append((alike[0], bare))
        left.remove(alike[0])
    mine = {one.tracking for one in ours}
    return pairs, left, [one for one in theirs if one.tracking and one.tracking not in mine]


def _changed(old: Group, new: Group, reasons: set[str], changes: list[Change]) -> None:
    """What of a group is another now."""
    most = Counter((concept, which) for concept, which, _ in old.numbers)
    if any((concept, which) in most and place >= most[concept, which] for concept, which, place in new.numbers):
        raise VerdictUnusable("DUPLICATE", "a number is there twice")
    if new.sites != old.sites:
        reasons.add("LOCATION")
    if new.finding != old.finding:
        reasons.add("OTHER")
    if _moved(old.region, new.region):
        reasons.add("OUTLINE")
    for key, before in old.numbers.items():
        after = new.numbers.get(key)
        if after is not None and after.value is not None and after.unit != before.unit:
            raise VerdictUnusable("UNIT_DIFFERS", "a number is in another unit now")
        if (None if after is None else after.value) != before.value:
            reasons.add("MEASURE")
            changes.append(_change(old, key[0], before, after))


def _change(old: Group, concept: Name, before: Number, after: Number | None) -> Change:
    return Change(concept[1], old.tracking, before.text, None if after is None else after.text, before.unit[1])


def _moved(old: Sequence[float], new: Sequence[float]) -> bool:
    # What is no number is no rounding either: only what is near is near.
    near = len(old) == len(new) and all(abs(a - b) <= _MOVED_PIXELS for a, b in zip(old, new, strict=True))
    return not near


def _restated(was: Mapping[Statement, Name], now: Mapping[Statement, Name]) -> Iterator[str]:
    for key, before in was.items():
        after = now.get(key)
        if after == before:
            continue
        if before == _PRESENT and after in (_ABSENT, None):
            yield "FALSE_POSITIVE"
        elif before == _ABSENT and after == _PRESENT:
            yield "MISSED_FINDING"
        else:
            yield "OTHER"
