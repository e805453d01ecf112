"""The end of the demo: what the PACS holds, what the log says, and whether each promise was kept.

Nothing here is remembered from the run: the report and the mask are read back from the PACS, the story from the log.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from audit.entry import Entry, Kind
from dicom_bridge.orthanc import OrthancReader, StoredSeries
from dicom_bridge.overlay import draw
from dicom_bridge.readback import (
    PictureFacts,
    ReportFacts,
    SegmentationFacts,
    read_picture,
    read_report,
    read_segmentation,
)
from service.demo.errors import NotHeld

MRI = "MR"
REPORT = "SR"
MASK = "SEG"
PICTURE = "SC"
_MODALITY = {REPORT: "SR", MASK: "SEG", PICTURE: "OT"}


@dataclass(frozen=True, slots=True)
class Results:
    """What the PACS gave back, as files, and what they say."""

    report_path: Path
    mask_path: Path
    picture_path: Path
    overlay_path: Path
    report: ReportFacts
    mask: SegmentationFacts
    picture: PictureFacts


@dataclass(frozen=True, slots=True)
class Trail:
    """The entries of one study in the log, by kind, in the log's order. `refused`: those before the first approval."""

    refusals: tuple[Entry, ...]
    approval: Entry | None
    intents: tuple[Entry, ...]
    results: tuple[Entry, ...]
    releases: tuple[Entry, ...]


def fetch(reader: OrthancReader, study_uid: str, sources: Sequence[Path], output: Path) -> Results:
    """Read the one SR, SEG and key image of the study back from the PACS into `output`, and draw the overlay.

    Raises NotHeld when the PACS has not exactly one of each, or not exactly the images that were sent.
    """
    series = reader.series(study_uid)
    images = sum(len(one.instances) for one in series if one.modality == MRI)
    if images != len(sources):
        raise NotHeld(f"the PACS has {images} images of the study, {len(sources)} were sent")
    output.mkdir(parents=True, exist_ok=True)
    paths = {kind: output / f"{kind.lower()}.dcm" for kind in _MODALITY}
    for kind, path in paths.items():
        path.write_bytes(reader.file(_only(series, _MODALITY[kind])))
    overlay = output / "overlay.png"
    draw(paths[MASK], sources, overlay)
    facts = read_report(paths[REPORT]), read_segmentation(paths[MASK]), read_picture(paths[PICTURE])
    return Results(paths[REPORT], paths[MASK], paths[PICTURE], overlay, *facts)


def _only(series: Sequence[StoredSeries], modality: str) -> str:
    """Orthanc's identifier of the only instance of a modality."""
    found = [orthanc_id for one in series if one.modality == modality for orthanc_id in one.instances.values()]
    if len(found) != 1:
        raise NotHeld(f"the PACS has {len(found)} {modality} objects of the study, not exactly one")
    return found[0]


def trail(entries: Sequence[Entry], *, call: str, approval: str) -> Trail:
    """Pick the story of one call out of the log's entries. `approval`: digest of the signed note that allowed it."""
    mine = [entry for entry in entries if entry.call == call]
    approved = [e for e in entries if e.kind is Kind.APPROVAL and e.body["note_digest"] == approval]
    return Trail(
        refusals=tuple(entry for entry in mine if entry.kind is Kind.DENIED),
        approval=approved[0] if approved else None,
        intents=tuple(entry for entry in mine if entry.kind is Kind.CALL_INTENT),
        results=tuple(entry for entry in mine if entry.kind is Kind.CALL_RESULT),
        releases=tuple(entry for entry in mine if entry.kind is Kind.RELEASED),
    )


def promises(found: Trail, results: Results, run: Mapping[str, Any], patient_name: str) -> dict[str, bool]:
    """Each promise of the demo, and whether it was kept. `run`: as the service tells it; `patient_name`: as sent."""
    approved_at = found.approval.index if found.approval else -1
    steps = (found.intents, found.results, found.releases)
    order = [approved_at, *(entries[0].index for entries in steps if entries)]
    named: dict[str, str] = {}
    for entry in found.results:
        outputs: Any = entry.body["outputs"]
        named |= {output["kind"]: output["uid"] for output in outputs}
    held = {REPORT: results.report.sop_uid, MASK: results.mask.sop_uid, PICTURE: results.picture.sop_uid}
    said = {(number.concept, number.value, number.unit) for number in results.report.numbers}
    measured = {(item["code"], item["value"], item["unit"]) for item in run["measurements"]}
    flags = (results.report.verification, results.report.preliminary)
    names = {one.patient_name for one in (results.report, results.mask, results.picture)}
    words = [f"{item['value']} {item['unit']}" for item in run["measurements"]]
    return {
        "refused before the approval": any(entry.index < approved_at for entry in found.refusals),
        "approved, then asked, answered, sent": approved_at >= 0 and len(order) == 4 and order == sorted(order),
        "one result, sent once": (len(found.results), len(found.releases)) == (1, 1),
        "the PACS holds what the log names": named == held,
        "the report says what was measured": bool(measured) and measured <= said,
        "the key image says what was measured": bool(words) and all(one in results.picture.comments for one in words),
        "unverified and preliminary": flags == ("UNVERIFIED", "PRELIMINARY"),
        "a binary mask with one segment": (results.mask.kind, len(results.mask.labels)) == ("BINARY", 1),
        "the patient's name is readable": names == {patient_name},
    }
