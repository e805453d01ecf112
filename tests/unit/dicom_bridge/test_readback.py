"""What a report or a mask says of itself is read from the file alone."""

from pathlib import Path

import numpy as np
import pytest
from pydicom.dataset import Dataset
from pydicom.uid import Comprehensive3DSRStorage, SecondaryCaptureImageStorage

from dicom_bridge.readback import (
    Number,
    PictureFacts,
    ReadBackFailed,
    Statement,
    read_picture,
    read_report,
    read_segmentation,
    read_statements,
)
from tests.simulators.phantom import PATIENT, save, write_mask


def code(value: str, meaning: str = "") -> Dataset:
    """A code sequence item."""
    item = Dataset()
    item.CodeValue, item.CodeMeaning = value, meaning
    return item


def number(value: str) -> Dataset:
    """A NUM content item: a volume in cm3."""
    measured = Dataset()
    measured.NumericValue, measured.MeasurementUnitsCodeSequence = value, [code("cm3")]
    item = Dataset()
    item.ValueType, item.ConceptNameCodeSequence = "NUM", [code("118565006", "Volume")]
    item.MeasuredValueSequence = [measured]
    return item


def write_report(path: Path) -> None:
    """An SR with one number two containers deep, and one NUM without a value (PS3.3 C.18.1 allows it)."""
    inner, outer, empty = Dataset(), Dataset(), number("0")
    empty.MeasuredValueSequence = []
    inner.ValueType, inner.ContentSequence = "CONTAINER", [number("1951.3"), empty]
    outer.ValueType, outer.ContentSequence = "CONTAINER", [inner]
    report = Dataset()
    report.SpecificCharacterSet = "ISO_IR 192"
    report.SOPClassUID, report.SOPInstanceUID, report.StudyInstanceUID = Comprehensive3DSRStorage, "2.25.7", "2.25.2"
    report.PatientName = PATIENT.name
    report.CompletionFlag, report.VerificationFlag, report.PreliminaryFlag = "COMPLETE", "UNVERIFIED", "PRELIMINARY"
    report.ContentSequence = [outer]
    save(report, path)


def test_report(tmp_path: Path) -> None:
    """Flags, the Chinese name, and every number of the tree with its unit."""
    write_report(tmp_path / "sr.dcm")
    facts = read_report(tmp_path / "sr.dcm")
    assert facts.numbers == (Number("118565006", "Volume", "1951.3", "cm3"),)
    assert (facts.completion, facts.verification, facts.preliminary) == ("COMPLETE", "UNVERIFIED", "PRELIMINARY")
    assert (facts.sop_uid, facts.study_uid, facts.patient_name) == ("2.25.7", "2.25.2", PATIENT.name)


def stated(kind: str, name: Dataset, value: Dataset | str, *below: Dataset) -> Dataset:
    """A CODE or TEXT content item."""
    item = Dataset()
    item.ValueType, item.ConceptNameCodeSequence = kind, [name]
    if isinstance(value, str):
        item.TextValue = value
    else:
        item.ConceptCodeSequence = [value]
    item.ContentSequence = list(below)
    return item


def test_statements(tmp_path: Path) -> None:
    """Coded statements with their site, and comments, in order; no other text, and nothing from other containers."""
    site = stated("CODE", code("363698007", "Finding Site"), code("39607008", "Lung"))
    said = [
        stated("CODE", code("111017", "Summary"), code("111242", "With findings")),
        stated("CODE", code("27925004", "Nodule"), code("52101004", "Present"), site),
        stated("TEXT", code("121106", "Comment"), "仅限成人"),
        stated("TEXT", code("DECIDE_AT", "Decide"), "https://ai.example/decide/1"),
    ]
    statements, others = Dataset(), Dataset()
    statements.ValueType = others.ValueType = "CONTAINER"
    statements.ConceptNameCodeSequence, statements.ContentSequence = [code("C0034375", "Qualitative Evaluations")], said
    others.ConceptNameCodeSequence, others.ContentSequence = [code("126010", "Imaging Measurements")], said[:1]
    report = Dataset()
    report.SpecificCharacterSet = "ISO_IR 192"
    report.SOPClassUID, report.SOPInstanceUID = Comprehensive3DSRStorage, "2.25.7"
    report.ContentSequence = [stated("TEXT", code("121106", "Comment"), "outside"), others, statements]
    save(report, tmp_path / "sr.dcm")

    assert read_statements(tmp_path / "sr.dcm") == (
        Statement("Summary", "", "With findings"),
        Statement("Nodule", "Lung", "Present"),
        Statement("", "", "仅限成人"),
    )


def test_segmentation(tmp_path: Path) -> None:
    """Kind, frames and labels."""
    mask = np.zeros((4, 8, 8), dtype=bool)
    mask[1:3] = True
    write_mask(tmp_path / "seg.dcm", mask, np.eye(4))
    facts = read_segmentation(tmp_path / "seg.dcm")
    assert (facts.kind, facts.frames, facts.labels) == ("BINARY", 2, ("Brain",))
    assert (facts.sop_uid, facts.patient_name) == ("2.25.2000", PATIENT.name)


def test_picture(tmp_path: Path) -> None:
    """The comments, and the Chinese name."""
    picture = Dataset()
    picture.SpecificCharacterSet = "ISO_IR 192"
    picture.SOPClassUID, picture.SOPInstanceUID = SecondaryCaptureImageStorage, "2.25.9"
    picture.StudyInstanceUID, picture.PatientName = "2.25.2", PATIENT.name
    picture.ImageComments = "仅限成人: Brain. Volume: 1951.3 cm3"
    save(picture, tmp_path / "sc.dcm")
    assert read_picture(tmp_path / "sc.dcm") == PictureFacts("2.25.9", "2.25.2", PATIENT.name, picture.ImageComments)


def test_the_wrong_object_is_refused(tmp_path: Path) -> None:
    """A report is no mask, a mask is no report, and text is neither; the message repeats nothing of the file."""
    write_report(tmp_path / "sr.dcm")
    write_mask(tmp_path / "seg.dcm", np.ones((2, 8, 8), dtype=bool), np.eye(4))
    (tmp_path / "text.dcm").write_text("no DICOM at all", encoding="utf-8")
    with pytest.raises(ReadBackFailed) as refused:
        read_report(tmp_path / "seg.dcm")
    assert refused.value.code == "NOT_A_REPORT"
    with pytest.raises(ReadBackFailed) as refused:
        read_segmentation(tmp_path / "sr.dcm")
    assert refused.value.code == "NOT_A_SEGMENTATION"
    with pytest.raises(ReadBackFailed) as refused:
        read_picture(tmp_path / "seg.dcm")
    assert refused.value.code == "NOT_A_PICTURE"
    with pytest.raises(ReadBackFailed) as refused:
        read_report(tmp_path / "text.dcm")
    assert refused.value.code == "NOT_DICOM"
    assert str(tmp_path) not in str(refused.value)
