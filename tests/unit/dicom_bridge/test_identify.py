"""Identity of an instance: checked before any of it becomes a path."""

from __future__ import annotations

import pytest
from pydicom.dataset import Dataset
from pydicom.uid import DeflatedExplicitVRLittleEndian, ExplicitVRLittleEndian, ImplicitVRLittleEndian

from dicom_bridge.errors import InstanceRefused
from dicom_bridge.identify import identify, patient_digest
from tests.simulators.series import dataset_bytes, make_slice


@pytest.mark.parametrize("syntax", [ImplicitVRLittleEndian, ExplicitVRLittleEndian, DeflatedExplicitVRLittleEndian])
def test_identity_is_read_from_any_syntax(syntax: str) -> None:
    """UIDs and what selection needs are found, deflated or not."""
    ds = make_slice(3)
    found = identify(dataset_bytes(ds, syntax), syntax)
    assert (found.sop_class, found.sop_uid) == (ds.SOPClassUID, ds.SOPInstanceUID)
    assert (found.study_uid, found.series_uid) == (ds.StudyInstanceUID, ds.SeriesInstanceUID)
    assert (found.modality, found.body_part, found.description) == ("MR", "BRAIN", "T1 3D phantom")
    assert (found.image_type, found.series_number, found.pixels) == (("ORIGINAL", "PRIMARY", "M"), 3, True)


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


def test_unknown_stays_unknown() -> None:
    """Absent descriptive attributes are "" and (); an object without pixels says so."""
    ds = Dataset()
    ds.SOPClassUID, ds.SOPInstanceUID, ds.StudyInstanceUID, ds.SeriesInstanceUID = "1.2", "1.3", "1.4", "1.5"
    found = identify(dataset_bytes(ds), ExplicitVRLittleEndian)
    assert (found.modality, found.body_part, found.description, found.image_type) == ("", "", "", ())
    assert (found.series_number, found.pixels) == (None, False)


def test_an_unreadable_description_is_unknown() -> None:
    """Bytes outside the declared set make no description that selection could fall for."""
    ds = make_slice(0)
    ds.SeriesDescription = "测试"
    data = dataset_bytes(ds).replace(b"ISO_IR 192", b"ISO_IR 6  ")
    assert identify(data, ExplicitVRLittleEndian).description == ""


def test_a_patient_is_known_by_the_id_whatever_its_padding() -> None:
    """Padding does not make another patient; another ID does."""
    assert patient_digest(b"TEST-1 ") == patient_digest(b"TEST-1") != patient_digest(b"TEST-2")
