"""Identity of an instance: checked before any of it becomes a path."""

from __future__ import annotations

from dataclasses import fields

import pytest
from pydicom.dataset import Dataset
from pydicom.uid import (
    DeflatedExplicitVRLittleEndian,
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
)

from dicom_bridge.errors import InstanceRefused
from dicom_bridge.identify import Description, describe, identify, patient_digest
from tests.simulators.series import dataset_bytes, make_slice


@pytest.mark.parametrize("syntax", [ImplicitVRLittleEndian, ExplicitVRLittleEndian, DeflatedExplicitVRLittleEndian])
def test_identity_is_read_from_any_syntax(syntax: str) -> None:
    """UIDs and what selection needs are found, deflated or not."""
    ds = make_slice(3)
    found = identify(dataset_bytes(ds, syntax), syntax)
    assert (found.sop_class, found.sop_uid) == (ds.SOPClassUID, ds.SOPInstanceUID)
    assert (found.study_uid, found.series_uid) == (ds.StudyInstanceUID, ds.SeriesInstanceUID)
    said = describe(found)
    assert (said.modality, said.body_part, said.description) == ("MR", "BRAIN", "T1 3D phantom")
    assert (said.image_type, said.series_number, found.pixels) == (("ORIGINAL", "PRIMARY", "M"), 3, True)


def spoilt(keyword: str, value: bytes | None) -> bytes:
    """Return an encoded slice with one UID replaced by these bytes, or removed."""
    ds = make_slice(0)
    tag = ds.data_element(keyword).tag
    del ds[tag]
    data = dataset_bytes(ds)
    if value is None:
        return data
    # Appended out of order is enough: the pass does not ask for order.
    value += b"\0" * (len(value) % 2)
    return (
        data
        + tag.group.to_bytes(2, "little")
        + tag.element.to_bytes(2, "little")
        + b"UI"
        + len(value).to_bytes(2, "little")
        + value
    )


UIDS = ["SOPClassUID", "SOPInstanceUID", "StudyInstanceUID", "SeriesInstanceUID"]


@pytest.mark.parametrize("keyword", UIDS)
@pytest.mark.parametrize("value", [None, b"", b"\0\0", b"  "])
def test_a_missing_uid_is_named(keyword: str, value: bytes | None) -> None:
    """Absent or empty: UID_MISSING with the tag, for the Offending Element."""
    with pytest.raises(InstanceRefused) as caught:
        identify(spoilt(keyword, value), ExplicitVRLittleEndian)
    assert (caught.value.code, caught.value.tag) == ("UID_MISSING", make_slice(0).data_element(keyword).tag)


@pytest.mark.parametrize("keyword", UIDS)
@pytest.mark.parametrize(
    "value", [b"../..", b"1.2.", b"1..2", b"/etc", b"1" * 65, b"1.2\n3", b"1.2\\1.3", "１.２".encode()]
)
def test_a_hostile_uid_is_refused(keyword: str, value: bytes) -> None:
    """Anything but digits between single dots: UID_INVALID; the message does not repeat it."""
    with pytest.raises(InstanceRefused) as caught:
        identify(spoilt(keyword, value), ExplicitVRLittleEndian)
    assert caught.value.code == "UID_INVALID"
    assert value.decode(errors="replace") not in str(caught.value)


def test_a_uid_padded_with_a_space_is_read() -> None:
    """The usual mistake of padding with a space costs nobody an image."""
    assert identify(spoilt("StudyInstanceUID", b"1.2.3 "), ExplicitVRLittleEndian).study_uid == "1.2.3"


def described(ds: Dataset, syntax: str = ExplicitVRLittleEndian) -> Description:
    """What the index would keep of it."""
    return describe(identify(dataset_bytes(ds, syntax), syntax))


SYNTAXES = [ImplicitVRLittleEndian, ExplicitVRLittleEndian, ExplicitVRBigEndian, DeflatedExplicitVRLittleEndian]


@pytest.mark.parametrize("syntax", SYNTAXES)
def test_what_assembly_and_selection_need_is_there_in_any_syntax(syntax: str) -> None:
    """Geometry, counts, texts: as received, numbers as numbers."""
    ds = make_slice(3, shape=(16, 12), spacing=(0.5, 0.75))
    ds.NumberOfFrames, ds.ImagesInAcquisition, ds.AcquisitionNumber = "7", "300", "2"
    ds.TemporalPositionIdentifier, ds.ProtocolName, ds.ContrastBolusAgent = "4", "头颅 T1", "TEST agent"
    ds.StationName, ds.StudyDescription = "TEST1", "测试"
    found = described(ds, syntax)
    assert (found.rows, found.columns, found.pixel_spacing) == (16, 12, (0.5, 0.75))
    assert found.position == tuple(map(float, ds.ImagePositionPatient))
    assert found.orientation == (1.0, 0.0, 0.0, 0.0, 1.0, 0.0)
    assert (found.frames, found.acquisition_images, found.acquisition_number) == (7, 300, 2)
    assert (found.instance_number, found.temporal_position) == (4, 4)
    assert (found.protocol, found.contrast, found.station) == ("头颅 T1", "TEST agent", "TEST1")
    assert (found.manufacturer, found.study_description) == ("TEST Phantom Works", "测试")


@pytest.mark.parametrize(
    ("priority", "urgent"), [("HIGH", True), ("STAT", True), ("stat", True), ("LOW", False), ("", False)]
)
def test_requested_priority_makes_it_urgent(priority: str, urgent: bool) -> None:
    """Requested Procedure Priority (0040,1003): HIGH and STAT."""
    ds = make_slice(0)
    ds.RequestedProcedurePriority = priority
    assert described(ds).urgent is urgent


@pytest.mark.parametrize("text", ["1\\2", "1\\2\\3\\4", "1\\2\\x", "1\\2\\nan", "1\\2\\inf", "\\\\", ""])
def test_a_position_that_is_none_is_absent(text: str) -> None:
    """Two values, four, words, not a number, infinity: ()."""
    ds = make_slice(0)
    del ds.ImagePositionPatient
    ds.add_new(0x00200032, "LO", text)
    assert described(ds).position == ()


@pytest.mark.parametrize("text", ["x", "-1", "1.5", "9" * 13, "٣"])
def test_a_number_that_is_none_is_absent(text: str) -> None:
    """Words, signs, fractions, thirteen digits, digits of other scripts."""
    ds = make_slice(0)
    for tag in (0x00280008, 0x00201002, 0x00200013):
        ds.add_new(tag, "LO", text)
    found = described(ds)
    assert (found.frames, found.acquisition_images, found.instance_number) == (1, None, None)


def test_a_value_of_many_megabytes_is_cut_off() -> None:
    """What is no UID is not copied into memory to find that out."""
    with pytest.raises(InstanceRefused) as caught:
        identify(dataset_bytes(_with_long_uid(), ImplicitVRLittleEndian), ImplicitVRLittleEndian)
    assert caught.value.code == "UID_INVALID"


def _with_long_uid() -> Dataset:
    ds = make_slice(0)
    ds.add_new(0x0020000D, "OB", b"1" * (4 << 20))
    return ds


def test_unknown_stays_unknown() -> None:
    """Absent descriptive attributes are "" and (); an object without pixels says so."""
    ds = Dataset()
    ds.SOPClassUID, ds.SOPInstanceUID, ds.StudyInstanceUID, ds.SeriesInstanceUID = "1.2", "1.3", "1.4", "1.5"
    assert not identify(dataset_bytes(ds), ExplicitVRLittleEndian).pixels
    absent = described(ds)
    for name in (one.name for one in fields(Description)):
        value = getattr(absent, name)
        assert name in ("patient", "frames", "urgent") or value in ("", (), None), name
    assert (absent.frames, absent.urgent, absent.patient) == (1, False, patient_digest(b""))


def test_an_unreadable_description_is_unknown() -> None:
    """Bytes outside the declared set make no description that selection could fall for."""
    ds = make_slice(0)
    ds.SeriesDescription = "测试"
    data = dataset_bytes(ds).replace(b"ISO_IR 192", b"ISO_IR 6  ")
    assert describe(identify(data, ExplicitVRLittleEndian)).description == ""


def test_a_patient_is_known_by_the_id_whatever_its_padding() -> None:
    """Padding does not make another patient; another ID does."""
    assert patient_digest(b"TEST-1 ") == patient_digest(b"TEST-1") != patient_digest(b"TEST-2")
