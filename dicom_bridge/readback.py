"""Reads back our own results as anybody's viewer would: what an SR, a SEG and a key image say of themselves.

For the demo and for tests, on files that a PACS gave back. It shares no code with the writers (report.py,
segmentation.py, keyimage.py), so that a mistake there is seen here.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from pydicom import dcmread
from pydicom.dataset import Dataset
from pydicom.errors import InvalidDicomError
from pydicom.uid import Comprehensive3DSRStorage, SecondaryCaptureImageStorage

from dicom_bridge.errors import BridgeError, Fault
from dicom_bridge.segment_pixels import SEGMENTATIONS, described


class ReadBackFailed(BridgeError):
    """The file is not the kind of object that was sent."""

    CODES = frozenset({"NOT_DICOM", "NOT_A_REPORT", "NOT_A_SEGMENTATION", "NOT_A_PICTURE"})
    fault = Fault.SITE


@dataclass(frozen=True, slots=True)
class Number:
    """One NUM content item (PS3.3 C.18.1): what was measured, as text, with its UCUM unit."""

    concept: str
    meaning: str
    value: str
    unit: str


@dataclass(frozen=True, slots=True)
class ReportFacts:
    """The header and the numbers of a structured report. Holds the patient's name: not for logs."""

    sop_uid: str
    study_uid: str
    patient_name: str
    completion: str
    verification: str
    preliminary: str
    software: str
    numbers: tuple[Number, ...]


@dataclass(frozen=True, slots=True)
class SegmentationFacts:
    """The header of a segmentation. Holds the patient's name: not for logs."""

    sop_uid: str
    study_uid: str
    patient_name: str
    kind: str
    frames: int
    labels: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class PictureFacts:
    """The header of a key image; `comments` say in words what it shows. Holds the patient's name: not for logs."""

    sop_uid: str
    study_uid: str
    patient_name: str
    comments: str


def read_report(path: Path) -> ReportFacts:
    """What a Comprehensive 3D SR file says. Raises ReadBackFailed."""
    report = _read(path)
    if report.get("SOPClassUID") != Comprehensive3DSRStorage:
        raise ReadBackFailed("NOT_A_REPORT", "the object is no Comprehensive 3D SR")
    return ReportFacts(
        sop_uid=str(report.SOPInstanceUID),
        study_uid=str(report.StudyInstanceUID),
        patient_name=str(report.PatientName),
        completion=str(report.get("CompletionFlag", "")),
        verification=str(report.get("VerificationFlag", "")),
        preliminary=str(report.get("PreliminaryFlag", "")),
        software=str(report.get("SoftwareVersions", "")),
        numbers=tuple(_numbers(report)),
    )


@dataclass(frozen=True, slots=True)
class Statement:
    """What a report says of the study as a whole: a concept's name, its site or "", and a value; or words alone."""

    name: str
    site: str
    value: str


def read_statements(path: Path) -> tuple[Statement, ...]:
    """The Qualitative Evaluations of a report (TID 1500 row 12), in order; they name no patient. Raises ReadBackFailed.

    Only coded statements and comments: other texts, such as addresses, are not for reading.
    """
    report = read_document(path)
    named = [item for item in report.get("ContentSequence", ()) if _code(item) == "C0034375"]
    said = [item for container in named for item in container.get("ContentSequence", ())]
    return tuple(_statement(item) for item in said if item.ValueType == "CODE" or _code(item) == "121106")


def read_segmentation(path: Path) -> SegmentationFacts:
    """What a SEG file says. Raises ReadBackFailed."""
    seg = _read(path)
    if seg.get("SOPClassUID") not in SEGMENTATIONS:
        raise ReadBackFailed("NOT_A_SEGMENTATION", "the object is no segmentation")
    return SegmentationFacts(
        sop_uid=str(seg.SOPInstanceUID),
        study_uid=str(seg.StudyInstanceUID),
        patient_name=str(seg.PatientName),
        kind=str(seg.get("SegmentationType", "")),
        frames=int(seg.get("NumberOfFrames", 0)),
        labels=tuple(str(item.get("SegmentLabel", "")) for item in described(seg)),
    )


def read_picture(path: Path) -> PictureFacts:
    """What a Secondary Capture file says. Raises ReadBackFailed."""
    picture = _read(path)
    if picture.get("SOPClassUID") != SecondaryCaptureImageStorage:
        raise ReadBackFailed("NOT_A_PICTURE", "the object is no Secondary Capture")
    return PictureFacts(
        sop_uid=str(picture.SOPInstanceUID),
        study_uid=str(picture.StudyInstanceUID),
        patient_name=str(picture.PatientName),
        comments=str(picture.get("ImageComments", "")),
    )


def read_document(path: Path) -> Dataset:
    """A report that was written earlier, whole: what a superseding report names. Raises ReadBackFailed."""
    ds = _read(path)
    if ds.SOPClassUID != Comprehensive3DSRStorage:
        raise ReadBackFailed("NOT_A_REPORT", "the file is no Comprehensive 3D SR")
    return ds


def _read(path: Path) -> Dataset:
    try:
        return dcmread(path)
    except InvalidDicomError:
        raise ReadBackFailed("NOT_DICOM", "the file is no DICOM file") from None


def _code(item: Dataset) -> str:
    return "".join(str(name.CodeValue) for name in item.get("ConceptNameCodeSequence", ()))


def _statement(item: Dataset) -> Statement:
    if item.ValueType == "TEXT":
        return Statement("", "", str(item.TextValue))
    name = str(item.ConceptNameCodeSequence[0].CodeMeaning)
    sites = [child for child in item.get("ContentSequence", ()) if _code(child) == "363698007"]
    site = "".join(str(one.ConceptCodeSequence[0].CodeMeaning) for one in sites)
    return Statement(name, site, str(item.ConceptCodeSequence[0].CodeMeaning))


def _numbers(item: Dataset) -> Iterator[Number]:
    """All NUM items of a content tree, depth first (PS3.3 C.17.3)."""
    for child in item.get("ContentSequence", ()):
        if child.get("ValueType") == "NUM" and child.get("MeasuredValueSequence"):
            name, measured = child.ConceptNameCodeSequence[0], child.MeasuredValueSequence[0]
            unit = measured.MeasurementUnitsCodeSequence[0]
            yield Number(str(name.CodeValue), str(name.CodeMeaning), str(measured.NumericValue), str(unit.CodeValue))
        yield from _numbers(child)
