"""The last check before a key object selection may be sent, on the bytes that will be sent; see `validity`."""

from __future__ import annotations

from collections.abc import Sequence

from pydicom.dataset import Dataset

from dicom_bridge.key_kinds import CLASSES, KeyImage
from dicom_bridge.report_rules import coded, named
from dicom_bridge.unfit import require
from dicom_bridge.validity import TEXT_MARKS, read_common, readable

_Reference = tuple[str, str]


def check_key_objects(data: bytes, sources: Sequence[Dataset], report: str) -> Dataset:
    """Read its bytes and refuse what must not be sent; gives the data set read. `report`: the SR's UID.

    It names slices of the source series and the report, and nothing else. Raises OutputInvalid.
    """
    with readable():
        ds = read_common(data, CLASSES[KeyImage.KOS], sources)
        check_selection(ds, "113000")
        slices = {(str(s.SOPInstanceUID), str(s.get("ReferencedFrameNumber", ""))) for s in sources}
        images = {_reference(item) for item in ds.ContentSequence if item.ValueType == "IMAGE"}
        require(bool(images) and images <= slices, "FRAME_REFERENCE_WRONG", "a slice of the series")
        others = [_reference(item) for item in ds.ContentSequence if item.ValueType == "COMPOSITE"]
        require(others == [(report, "")], "EVIDENCE_DIFFERS", "the report, and nothing else")
        return ds


def check_selection(ds: Dataset, title: str) -> None:
    """What holds of every selection: title, text, template, language, a device that speaks, and evidence = tree."""
    require(ds.Modality == "KO", "KEY_IMAGE_UNDECLARED", "Modality")
    require(named(ds, title), "KEY_IMAGE_UNDECLARED", "title")
    template = [(item.MappingResource, item.TemplateIdentifier) for item in ds.ContentTemplateSequence]
    require(template == [("DCMR", "2010")], "KEY_IMAGE_UNDECLARED", "template")
    require(ds.ContinuityOfContent == "SEPARATE", "CONTAINER_NOT_SEPARATE", "the document")
    items = list(ds.ContentSequence)
    require(any(named(item, "121049") for item in items), "LANGUAGE_MISSING", "no language")
    observers = [coded(item) for item in items if named(item, "121005")]
    require("121007" in observers, "DEVICE_OBSERVER_MISSING", "no device")
    said = [str(item.TextValue) for item in items if named(item, "113012")]
    require(len(said) == 1 and any(mark in said[0] for mark in TEXT_MARKS), "MARKING_MISSING", "in the description")
    references = [item for item in items if item.ValueType in ("IMAGE", "COMPOSITE")]
    require(
        all("ConceptNameCodeSequence" not in item and item.RelationshipType == "CONTAINS" for item in references),
        "KEY_IMAGE_UNDECLARED",
        "a reference with a name",
    )
    places = [_reference(item) for item in references]
    require(0 < len(places) == len(set(places)), "EVIDENCE_DIFFERS", "an object is named twice, or none")
    evidence: list[str] = []
    for study in ds.CurrentRequestedProcedureEvidenceSequence:
        require(study.StudyInstanceUID == ds.StudyInstanceUID, "EVIDENCE_DIFFERS", "evidence of another study")
        for series in study.ReferencedSeriesSequence:
            evidence += [str(instance.ReferencedSOPInstanceUID) for instance in series.ReferencedSOPSequence]
    require(len(evidence) == len(set(evidence)), "EVIDENCE_DIFFERS", "an instance is listed twice")
    require(set(evidence) == {uid for uid, _ in places}, "EVIDENCE_DIFFERS", "the evidence is not what the tree names")


def _reference(item: Dataset) -> _Reference:
    (reference,) = item.ReferencedSOPSequence
    return str(reference.ReferencedSOPInstanceUID), str(reference.get("ReferencedFrameNumber", ""))
