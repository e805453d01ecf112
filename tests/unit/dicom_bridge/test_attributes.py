"""What the gate is told about a series: what the header says for certain, and None for the rest."""

from __future__ import annotations

import pytest
from pydicom.datadict import tag_for_keyword
from pydicom.dataelem import RawDataElement
from pydicom.dataset import Dataset
from pydicom.tag import Tag

from dicom_bridge.attributes import Attributes, age_years, read_attributes
from tests.simulators.series import make_slice


def test_a_complete_header_is_read() -> None:
    """Everything is there; the spacing is the one that was measured."""
    expected = Attributes("MR", "BRAIN", 70.0, "O", "TEST Phantom Works", 1.25)
    assert read_attributes(make_slice(0), slice_spacing_mm=1.25) == expected


def test_what_is_absent_is_none() -> None:
    """An empty header has no attributes; nothing is taken from elsewhere."""
    ds = Dataset()
    ds.Modality = "CT"
    ds.PatientSex, ds.BodyPartExamined, ds.Manufacturer, ds.ProtocolName = "", "", "", "BRAIN T1"
    assert read_attributes(ds, slice_spacing_mm=None) == Attributes("CT", None, None, None, None, None)


@pytest.mark.parametrize(
    ("sex", "expected"), [("M", "M"), ("f", "F"), ("O", "O"), ("X", None), ("MALE", None), ("", None)]
)
def test_sex_is_one_of_three_or_unknown(sex: str, expected: str | None) -> None:
    """PS3.3 C.7.1.1: M, F, O; what else is written there is not guessed."""
    ds = make_slice(0)
    ds.PatientSex = sex
    assert read_attributes(ds, slice_spacing_mm=1.0).sex == expected


def aged(age: str | None, born: str | None, studied: str | None) -> float | None:
    """Return the age from these three."""
    ds = Dataset()
    for keyword, value in (("PatientAge", age), ("PatientBirthDate", born), ("StudyDate", studied)):
        if value is not None:
            element = {"PatientAge": "AS"}.get(keyword, "DA")
            ds.add_new(keyword, element, value)
    return age_years(ds)


@pytest.mark.parametrize(
    ("age", "born", "studied", "expected"),
    [
        ("070Y", None, None, 70.0),
        ("006M", None, None, 0.5),
        ("052W", None, None, 0.9966),
        ("010D", None, None, 0.0274),
        (None, "19560101", "20260101", 70.0),
        ("070Y", "19560101", "20260401", 70.0),
        ("071Y", "19560101", "20260401", 71.0),
        ("030Y", "19560101", "20260401", None),
        (None, "20270101", "20260101", None),
        ("131Y", None, None, None),
        (None, "18000101", "20260101", None),
        (None, "19560101", None, None),
        (None, None, "20260101", None),
        (None, None, None, None),
        ("", "", "", None),
    ],
)
def test_age_is_stated_or_counted_or_unknown(
    age: str | None, born: str | None, studied: str | None, expected: float | None
) -> None:
    """Patient's Age, else birth date to study date; impossible or contradictory: unknown."""
    found = aged(age, born, studied)
    assert found == (None if expected is None else pytest.approx(expected, abs=0.01))


@pytest.mark.parametrize(
    ("keyword", "raw"),
    [("PatientAge", b"70  "), ("PatientAge", b"Y070"), ("PatientBirthDate", b"1956"), ("PatientBirthDate", b"19561301"),
     ("PatientBirthDate", b"\xb2\xe2\xca\xd4")],
)  # fmt: skip
def test_malformed_ages_and_dates_are_unknown(keyword: str, raw: bytes) -> None:
    """What is not in the form of its VR says nothing."""

    ds = Dataset()
    ds.StudyDate = "20260401"
    tag = Tag(tag_for_keyword(keyword) or 0)
    ds[tag] = RawDataElement(tag, "AS" if keyword == "PatientAge" else "DA", len(raw), raw, 0, False, True)
    assert age_years(ds) is None


def test_an_unreadable_manufacturer_is_unknown() -> None:
    """Bytes outside the character set are no name that an approval could list."""
    ds = make_slice(0)
    del ds.SpecificCharacterSet

    tag = Tag(0x00080070)
    ds[tag] = RawDataElement(tag, "LO", 4, b"\xb2\xe2\xca\xd4", 0, False, True)
    assert read_attributes(ds, slice_spacing_mm=1.0).manufacturer is None
