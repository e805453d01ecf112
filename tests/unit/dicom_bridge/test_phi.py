"""Nothing of a patient reaches a log line: neither by a tag nor through a value."""

from __future__ import annotations

import io

import pydicom
from hypothesis import given
from hypothesis import strategies as st
from pydicom.dataset import Dataset
from pydicom.uid import ExplicitVRLittleEndian

from dicom_bridge import phi
from tests.simulators.series import make_slice, part10

SECRET = "TEST^Phantom"


def test_a_good_header_is_described() -> None:
    """Exactly these keys, with their values."""
    assert phi.describe(make_slice(0)) == {
        "SOPClass": "1.2.840.10008.5.1.4.1.1.4",
        "Modality": "MR",
        "BodyPartExamined": "BRAIN",
        "PhotometricInterpretation": "MONOCHROME2",
        "Rows": 16,
        "Columns": 12,
        "BitsAllocated": 16,
        "BitsStored": 16,
        "NumberOfFrames": "NONE",
    }


def test_a_header_read_from_bytes_is_described_alike() -> None:
    """Not yet converted elements too."""
    read = pydicom.dcmread(io.BytesIO(part10(make_slice(0), ExplicitVRLittleEndian)))
    assert phi.describe(read) == phi.describe(make_slice(0))


def test_an_empty_header_says_none() -> None:
    """Absence is told from strangeness."""
    assert set(phi.describe(Dataset()).values()) == {"NONE"}


def test_names_in_the_wrong_place_do_not_come_through() -> None:
    """People type names into any field; what is not a known value shows as OTHER."""
    ds = Dataset()
    ds.add_new("Modality", "CS", SECRET)
    ds.add_new("BodyPartExamined", "CS", SECRET)
    ds.add_new("PhotometricInterpretation", "CS", SECRET)
    ds.add_new("NumberOfFrames", "LO", "19560101")
    ds.add_new("SOPClassUID", "LO", "1.2.840.19560101")
    shown = phi.describe(ds)
    assert [
        shown[key]
        for key in ("Modality", "BodyPartExamined", "PhotometricInterpretation", "NumberOfFrames", "SOPClass")
    ] == ["OTHER"] * 5


@given(
    st.dictionaries(
        st.sampled_from(
            [
                "Modality",
                "BodyPartExamined",
                "PatientName",
                "PatientID",
                "SOPClassUID",
                "NumberOfFrames",
                "AccessionNumber",
            ]
        ),
        st.text(max_size=20),
    )
)
def test_whatever_is_typed_only_known_values_come_out(values: dict[str, str]) -> None:
    """For any text in any field: the keys are fixed, the values from closed sets."""
    ds = Dataset()
    for keyword, value in values.items():
        ds.add_new(keyword, "UT", value)
    shown = phi.describe(ds)
    assert set(shown) == set(phi.describe(Dataset()))
    for value in shown.values():
        assert (
            isinstance(value, int)
            or value in {"NONE", "OTHER"}
            or value.isupper()
            or value.startswith("1.2.840.10008.")
        )
