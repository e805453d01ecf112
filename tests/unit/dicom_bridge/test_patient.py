"""Whose an image is: patient id and issuer, read for certain or not at all, and never shown by accident."""

from pathlib import Path

import pytest
from pydicom.dataset import Dataset

from dicom_bridge.patient import Patient, read_patient
from tests.simulators import findings as phantom


def written(folder: Path, **changes: str) -> Path:
    """One slice on the disk."""
    ds: Dataset = phantom.series((2, 8, 8))[0]
    for name, value in changes.items():
        setattr(ds, name, value)
    path = folder / "slice.dcm"
    ds.save_as(path, enforce_file_format=True)
    return path


def test_number_and_issuer_are_read(tmp_path: Path) -> None:
    """As the header has them, without padding."""
    assert read_patient(written(tmp_path)) == Patient("TEST-0001", "TESTHOSP")


@pytest.mark.parametrize("number", ["", "   "])
def test_nobody_is_nobody(tmp_path: Path, number: str) -> None:
    """Without a number there is no patient, whatever else is said: all nobodies would be one."""
    assert read_patient(written(tmp_path, PatientID=number)) is None


def test_what_cannot_be_read_is_nobody(tmp_path: Path) -> None:
    """A damaged or absent file ends nothing here; the steps that need its pixels refuse it with their own codes."""
    (tmp_path / "rubbish").write_bytes(b"rubbish" * 99)

    assert read_patient(tmp_path / "rubbish") is None
    assert read_patient(tmp_path / "absent") is None


def test_a_patient_is_not_shown() -> None:
    """An exception or a log line that quotes it says nothing."""
    assert "TEST-0001" not in repr(Patient("TEST-0001", "TESTHOSP")) + str(Patient("TEST-0001", "TESTHOSP"))
