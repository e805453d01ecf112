"""Who the patients of the kept images are: every name in it comes out, once for each series at least."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from pydicom.dataset import Dataset

from dicom_bridge.identifiers import identifiers_in
from dicom_bridge.inbox import Inbox
from tests.simulators.received import Clock, received
from tests.simulators.series import make_slice


@pytest.fixture
def inbox(tmp_path: Path) -> Iterator[Inbox]:
    """An empty spool."""
    made = Inbox(tmp_path, Clock())
    yield made
    made.close()


def known(root: Path, inbox: Inbox, **assumed: str) -> list[str]:
    """All strings, once the index is written."""
    inbox.open_studies()
    return list(identifiers_in(root / "index.sqlite", root / "studies", assumed))


def image(index: int, **changes: str) -> Dataset:
    """A slice of somebody."""
    made = make_slice(index)
    made.SpecificCharacterSet = "GB18030"
    made.PatientName = "TEST^Phantom=测试^幻影"
    made.AccessionNumber = "ACC-47110001"
    made.PatientBirthDate = "19620101"
    made.PatientID = "TP04711001"
    for keyword, value in changes.items():
        setattr(made, keyword, value)
    return made


def test_all_that_names_a_patient_comes_out(inbox: Inbox, tmp_path: Path) -> None:
    """Of one image of a series: name, ID, birth date, accession number, the study and the series."""
    first = image(0)
    for index in (0, 1):
        inbox.store(received(ds=image(index)), "SCANNER")
    found = known(tmp_path, inbox)
    assert {"TEST^Phantom=测试^幻影", "ACC-47110001", "19620101", "TP04711001"} <= set(found)
    assert {first.StudyInstanceUID, first.SeriesInstanceUID} <= set(found)
    assert found.count("TP04711001") == 1


def test_two_patients_in_one_series_are_both_known(inbox: Inbox, tmp_path: Path) -> None:
    """As happens when somebody registers the next patient late."""
    inbox.store(received(ds=image(0)), "SCANNER")
    inbox.store(received(ds=image(1, PatientID="TP04711002", PatientName="TEST^Other")), "SCANNER")
    assert {"TP04711001", "TP04711002", "TEST^Other"} <= set(known(tmp_path, inbox))


def test_a_name_under_a_false_character_set_is_read_by_the_sites_word(inbox: Inbox, tmp_path: Path) -> None:
    """GBK bytes that call themselves Latin."""
    made = image(0, SpecificCharacterSet="ISO_IR 100")
    made.PatientName = "测试".encode("gb18030").decode("latin-1")
    inbox.store(received(ds=made), "OLD")
    assert "测试" in known(tmp_path, inbox, OLD="GB18030")


def test_an_image_that_went_gives_nothing(inbox: Inbox, tmp_path: Path) -> None:
    """Retention works beside us; a spool without an index has nobody."""
    inbox.store(received(ds=image(0)), "SCANNER")
    for path in (tmp_path / "studies").rglob("*.dcm"):
        path.unlink()
    assert "TP04711001" not in known(tmp_path, inbox)
    assert known(tmp_path / "none", inbox) == []
