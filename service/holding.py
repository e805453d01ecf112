"""What a PACS holds of ours: asked by us, or listed by its own administrator, who is the better witness."""

import csv
import io
import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from dicom_bridge import receipt, uids
from dicom_bridge.catalogue import Window
from dicom_bridge.segment_pixels import SEGMENTATIONS
from dicom_bridge.sources import Source
from service.errors import CommandRefused

MODALITIES = frozenset({"SR", "SEG"})
LIST_BYTES_MAX = 256 * 1024**2  # ten million lines; more is not a list of our objects
CLASSES = frozenset({"1.2.840.10008.5.1.4.1.1.88.34"}) | SEGMENTATIONS
_COLUMN = re.compile(r"[^a-z0-9]")
_COLUMNS = frozenset({"sopinstanceuid", "00080018", "uid"})


@dataclass(frozen=True, slots=True)
class Holding:
    """What a PACS holds. `source`: PEER, LIST or OBJECTS; `others`: instances that are not named, as their UIDs are
    not of our form; `strict`: all of the list was said to be ours, so that others are a finding too.
    """

    source: str
    name: str
    uids: frozenset[str]
    others: int = 0
    strict: bool = False


def of_list(path: Path) -> Holding:
    """The list that the PACS's administrator wrote: one UID a line, or a table with a column SOPInstanceUID.

    All of it counts as ours, whatever its form. Raises CommandRefused with the line at fault, which is not repeated.
    """
    if path.stat().st_size > LIST_BYTES_MAX:
        raise CommandRefused(f"{path}: larger than a list of our objects can be")
    try:
        rows = list(csv.reader(io.StringIO(path.read_text(encoding="utf-8-sig"), newline="")))
    except (UnicodeDecodeError, csv.Error):
        raise CommandRefused(f"{path}: no text of lines or comma-separated columns") from None
    column, first = 0, 0
    if rows:
        names = [_COLUMN.sub("", cell.lower()) for cell in rows[0]]
        known = [at for at, name in enumerate(names) if name in _COLUMNS]
        if known:
            column, first = known[0], 1
    found = set()
    for number, row in enumerate(rows[first:], first + 1):
        if not any(cell.strip() for cell in row):
            continue
        uid = row[column].strip() if column < len(row) else ""
        if not uids.valid(uid):
            raise CommandRefused(f"{path}: line {number}: no SOP Instance UID")
        found.add(uid)
    ours = frozenset(uid for uid in found if uids.own(uid))
    return Holding("LIST", path.name, ours, len(found) - len(ours), strict=True)


def of_objects(files: Iterable[bytes]) -> Holding:
    """SR, SEG and SC as they were taken out of the PACS. Raises ReceiptRefused for what is no DICOM file."""
    found = {str(receipt.read_bytes(data).get("SOPInstanceUID", "")) for data in files}
    ours = frozenset(uid for uid in found if uids.own(uid))
    return Holding("OBJECTS", "", ours, len(found) - len(ours))


def of_peer(
    source: Source, name: str, window: Window, studies: Iterable[str], known: frozenset[str] = frozenset()
) -> Holding:
    """Ask a peer for every report and segmentation of its studies in the window, whoever made them, and of `studies`.

    `known`: objects that are looked for by their UIDs alone (`pictures`).

    Whoever bypasses the log may write any manufacturer, description or series number: none of that is asked. SOP
    class or modality, and the form of the UID, remain: with another UID the object is counted among `others`; one of
    another class and modality is not seen. Raises PeerFailed, RetrieveFailed.
    """
    wanted = {found.study_uid for found in source.studies(window)} | set(studies)
    found: set[str] = set()
    for study_uid in sorted(wanted):
        for entry in source.catalogue(study_uid).values():
            for uid, sop_class in entry.instances.items():
                if sop_class in CLASSES or entry.modality in MODALITIES or uid in known:
                    found.add(uid)
    ours = frozenset(uid for uid in found if uids.own(uid))
    return Holding("PEER", name, ours, len(found) - len(ours))
