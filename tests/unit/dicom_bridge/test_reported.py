"""What a report says, read for systems without DICOM: the same as other readers see, or a refusal."""

from __future__ import annotations

import io
from collections.abc import Callable

import pytest
from pydicom import dcmread
from pydicom.dataset import Dataset

from dicom_bridge.errors import CharsetRefused
from dicom_bridge.readback import read_report, read_statements
from dicom_bridge.reported import ReportUnreadable, read_reported
from dicom_bridge.result_context import MARKING
from tests.simulators import findings as phantom
from tests.simulators.reports import CELLS, NOT_PERFORMED, changed, data_of, report_of
from tests.unit.dicom_bridge.test_report_matrix import named


@pytest.mark.parametrize("cell", CELLS, ids=" ".join)
def test_the_same_as_the_other_reader_sees(cell: tuple[str, str, str], tmp_path) -> None:
    """Numbers, statements, texts and header of every outcome, against `readback`, which walks the tree another way."""
    data = data_of(*cell)
    path = tmp_path / "sr.dcm"
    path.write_bytes(data)
    report, facts, said = read_reported(data), read_report(path), read_statements(path)
    in_groups = [number for group in report.groups for number in group.numbers]
    in_statements = [number for one in report.statements for number in one.numbers]
    ours = [(one.name.value, one.name.meaning, one.value, one.unit.value) for one in [*in_groups, *in_statements]]
    assert ours == [(one.concept, one.meaning, one.value, one.unit) for one in facts.numbers]
    stated = [
        (one.name.meaning, "" if one.site is None else one.site.meaning, one.value.meaning) for one in report.statements
    ]
    assert [("CAD Processing and Findings Summary", "", report.summary.meaning), *stated] == [
        (one.name, one.site, one.value) for one in said if one.name
    ]
    assert list(report.comments) == [one.value for one in said if not one.name]
    assert MARKING[cell[2]] in report.comments
    assert (report.sop_uid, report.study_uid) == (facts.sop_uid, facts.study_uid)
    assert report.complete == (facts.completion == "COMPLETE") == (not cell[1].startswith(("partly", "not")))
    assert report.language == cell[2]


def test_patient_request_and_model() -> None:
    """The header, as the PACS has it: the patient, the request, when the study was made, and which model spoke."""
    report = report_of()
    ds = dcmread(io.BytesIO(data_of("segments", "findings")))
    person = report.patient
    assert (person.id, person.issuer, person.name) == ("TEST-0001", "TESTHOSP", phantom.NAME_ZH)
    assert (person.birth_date, person.sex, report.accession) == ("19500101", "F", ds.AccessionNumber)
    assert report.studied == f"{ds.StudyDate}{ds.StudyTime[:6]}+0800"
    assert report.made_at.astimezone(phantom.context().content_time.tzinfo) == phantom.context().content_time
    assert report.equipment.name == phantom.REF.name
    assert report.equipment.version.startswith(phantom.REF.version)
    assert report.equipment.uid == ds.ContributingEquipmentSequence[0].DeviceUID


def test_a_name_in_either_character_set() -> None:
    """GB18030 and UTF-8 give the same name."""
    data = data_of("segments", "findings")
    other = changed(data, SpecificCharacterSet="GB18030", PatientName=phantom.NAME_ZH)
    assert read_reported(other).patient.name == read_reported(data).patient.name == phantom.NAME_ZH


def test_nothing_of_a_patient_in_its_words() -> None:
    """What is printed by accident names nobody."""
    report = report_of()
    for secret in (report.patient.id, report.patient.name, report.patient.birth_date, report.accession):
        assert secret
        assert secret not in repr(report)


@pytest.mark.parametrize("time", ["", "10", "1015", "101500", "101500.123456"])
def test_when_the_study_was_made_as_far_as_it_is_known(time: str) -> None:
    """A date without a time of day has no offset either; fractions are left out."""
    report = read_reported(changed(data_of("segments", "findings"), StudyTime=time))
    assert report.studied == {0: "20261123", 2: "20261123"}.get(len(time), f"20261123{time[:6]}+0800")
    assert read_reported(changed(data_of("segments", "findings"), StudyDate="")).studied == ""


def number(value: str) -> Callable[[Dataset], object]:
    """A damage: the first number is another text."""

    def damage(ds: Dataset) -> None:
        named(ds, "118565006")[0].MeasuredValueSequence[0].NumericValue = value

    return damage


DAMAGES: dict[str, Callable[[Dataset], object]] = {
    "no statements": lambda ds: ds.ContentSequence.pop(),
    "two outcomes": lambda ds: ds.ContentSequence[-1].ContentSequence.append(ds.ContentSequence[-1].ContentSequence[0]),
    "no outcome": lambda ds: ds.ContentSequence[-1].ContentSequence.pop(0),
    "no equipment": lambda ds: delattr(ds, "ContributingEquipmentSequence"),
    "no content time": lambda ds: delattr(ds, "ContentTime"),
    "no study": lambda ds: delattr(ds, "StudyInstanceUID"),
    "a number in exponents": number("1E3"),
    "no unit": lambda ds: delattr(named(ds, "118565006")[0].MeasuredValueSequence[0], "MeasurementUnitsCodeSequence"),
    "a code that SNOMED has not": lambda ds: setattr(
        named(ds, "121071")[0].ConceptCodeSequence[0], "CodeValue", "12738007"
    ),
    "a group without a name": lambda ds: named(ds, "125007")[0].ContentSequence.pop(0),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_what_cannot_be_told_for_certain_is_refused(damage: str) -> None:
    """Each thing that a message needs, broken alone."""
    ds = dcmread(io.BytesIO(data_of("segments", "findings")))
    DAMAGES[damage](ds)
    out = io.BytesIO()
    ds.save_as(out)
    with pytest.raises(ReportUnreadable) as refused:
        read_reported(out.getvalue())
    assert refused.value.code == "REPORT_MALFORMED"


def test_what_is_no_report() -> None:
    """Other bytes, another class, and text that cannot be read."""
    for data in (
        b"",
        b"no DICOM at all",
        changed(data_of("segments", "findings"), SOPClassUID="1.2.840.10008.5.1.4.1.1.7"),
    ):
        with pytest.raises(ReportUnreadable) as refused:
            read_reported(data)
        assert refused.value.code == "NOT_A_REPORT"
    raw = data_of("segments", "findings").replace("测试".encode(), b"\xff\xfe\xff\xfe\xff\xfe")
    with pytest.raises(CharsetRefused):
        read_reported(raw)


def test_a_refusal_says_nothing_of_the_patient() -> None:
    """The report of a model that did not run: no statement, no number, and why."""
    report = report_of("segments", NOT_PERFORMED)
    assert (report.summary.value, report.statements, report.groups) == ("111245", (), ())
    assert any("AGE_NOT_COVERED" in text for text in report.comments)
