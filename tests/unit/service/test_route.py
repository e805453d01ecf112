"""`zhiying route explain`: for each series which model would run, and what decided, from files alone."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from pydicom.dataset import Dataset
from typer.testing import CliRunner

from dicom_bridge.rules import Rule
from models.library import Installed, Library
from models.manifest import Manifest
from models.ref import ModelRef
from service.commands import route
from tests.simulators import small_model
from tests.simulators.series import make_slice, write_file

SLICES = 4
STUDY = str(make_slice(0).StudyInstanceUID)
T1 = str(make_slice(0).SeriesInstanceUID)


@pytest.fixture
def site(tmp_path: Path) -> Path:
    """A configuration of a site with one model."""
    Library(tmp_path / "data" / "models").install(small_model.stage(tmp_path / "staged"))
    config = tmp_path / "zhiying.toml"
    config.write_text(f"[data]\nfolder = '{tmp_path / 'data'}'\n", encoding="utf-8")
    return config


def _series(folder: Path, number: int, **values: object) -> list[Path]:
    """One more series of the study, with these attributes."""
    folder.mkdir(parents=True, exist_ok=True)
    files = []
    for index in range(SLICES):
        ds = make_slice(index)
        ds.SeriesNumber = number
        if number != 3:
            ds.SeriesInstanceUID, ds.SOPInstanceUID = f"{T1}.{number}", f"2.25.{number * 100 + index}"
        for keyword, value in values.items():
            setattr(ds, keyword, value)
        files.append(write_file(ds, folder / f"{number}-{index}.dcm"))
    return files


def _explain(site: Path, folder: Path, *options: str) -> dict[str, Any]:
    """What the command prints as JSON; it must end well."""
    done = CliRunner().invoke(route.app, ["explain", str(folder), "--json", "-c", str(site), *options])
    assert done.exit_code == 0, done.output
    value: dict[str, Any] = json.loads(done.stdout)
    return value


def _installed(site: Path) -> Mapping[ModelRef, Manifest]:
    library = Library(site.parent / "data" / "models")
    return {one.ref: one.manifest for one in library.list() if isinstance(one, Installed)}


def test_each_series_has_its_model_or_what_decided_against_it(site: Path, tmp_path: Path) -> None:
    """The one that fits runs; the others are told apart by predicate, with what was seen and wanted."""
    folder = tmp_path / "study"
    _series(folder, 3)
    _series(folder, 5, SeriesDescription="FLAIR")
    _series(folder, 7, BodyPartExamined="CHEST")

    (study,) = _explain(site, folder)["studies"]

    assert (study["study_uid"], study["code"]) == (STUDY, None)
    assert study["chosen"][0]["series_uid"] == T1
    assert (study["chosen"][0]["model"], study["chosen"][0]["refused"]) == ("small-model/1.0", False)
    told = [
        (s["number"], s["fits"], s["decided_by"], s["asked_by"], s["observed"], s["wanted"]) for s in study["series"]
    ]
    assert told == [
        (3, True, None, "", "", ""),
        (5, False, "DESCRIPTION", "manifest", "FLAIR", "one of T1"),
        (7, False, "BODY_PART", "manifest", "CHEST", "BRAIN or HEAD"),
    ]


def test_a_study_that_nothing_fits_is_no_error(site: Path, tmp_path: Path) -> None:
    """The question was why; the answer is an answer, and exits with 0."""
    _series(tmp_path / "study", 3, Modality="CT", RescaleSlope="1", RescaleIntercept="0")

    (study,) = _explain(site, tmp_path / "study")["studies"]

    assert (study["code"], study["chosen"]) == ("NO_MODEL_FITS", [])
    assert study["series"][0]["decided_by"] == "MODALITY"


def test_without_a_model_that_is_said(tmp_path: Path) -> None:
    """An empty library decides about every series."""
    config = tmp_path / "empty.toml"
    config.write_text(f"[data]\nfolder = '{tmp_path / 'nothing'}'\n", encoding="utf-8")
    _series(tmp_path / "study", 3)

    (study,) = _explain(config, tmp_path / "study")["studies"]

    assert study["series"][0]["decided_by"] == "NO_MODEL"


def test_rules_and_sender_decide_as_they_would(site: Path, tmp_path: Path) -> None:
    """First rule that fits; per series the rule, whose predicate, and what it wanted."""
    files = _series(tmp_path / "study", 3)
    rules = [
        Rule(name="emergency", model="small-model", urgent=True, sender=("ER",)),
        Rule(name="all", model="small-model", description_none=("contrast",)),
    ]
    for sender, name, urgent in (("ER", "emergency", True), ("WARD", "all", False), ("", "all", False)):
        (study,) = route.explain_files(files, _installed(site), rules, sender=sender)["studies"]
        assert (study["chosen"][0]["rule"], study["chosen"][0]["urgent"]) == (name, urgent)
    (study,) = route.explain_files(files, _installed(site), rules[:1], sender="WARD")["studies"]
    assert study["code"] == "NO_RULE_MATCHES"
    (one,) = study["series"]
    assert (one["decided_by"], one["asked_by"], one["rule"]) == ("SENDER", "rule", "emergency")
    assert (one["observed"], one["wanted"]) == ("WARD", "ER")


def test_volumes_of_one_series_are_rows_of_their_own(site: Path, tmp_path: Path) -> None:
    """Two echoes that fit alike: both stopped, until a rule picks one."""
    folder = tmp_path / "study"
    files = _series(folder, 3, EchoTime="4.6")
    for index in range(SLICES):
        ds = make_slice(index)
        ds.EchoTime, ds.SOPInstanceUID = "9.2", f"2.25.{index + 1}"
        files.append(write_file(ds, folder / f"second-{index}.dcm"))

    (study,) = _explain(site, folder)["studies"]

    assert [(s["volume"], s["decided_by"]) for s in study["series"]] == [
        ("ECHO_TIME=4.6", "ONE_VOLUME"),
        ("ECHO_TIME=9.2", "ONE_VOLUME"),
    ]
    assert study["chosen"][0]["refused"] is True
    rules = [Rule(name="short", model="small-model", part="first")]
    (study,) = route.explain_files(files, _installed(site), rules)["studies"]
    assert (study["chosen"][0]["part"], study["chosen"][0]["refused"]) == ("ECHO_TIME-1", False)
    assert [s["decided_by"] for s in study["series"]] == [None, "PART"]


def test_a_series_that_would_be_refused_when_read_says_so(site: Path, tmp_path: Path) -> None:
    """A gap in the only series: it would be chosen, and refused by its geometry."""
    files = _series(tmp_path / "study", 3)
    files[1].unlink()

    (study,) = _explain(site, tmp_path / "study")["studies"]

    assert study["chosen"][0]["refused"] is True
    (one,) = study["series"]
    assert (one["decided_by"], one["geometry"], one["observed"]) == ("GEOMETRY", "SLICE_MISSING", "SLICE_MISSING")


def _dose_report(ds: Dataset) -> Dataset:
    ds.Modality, ds.SOPClassUID = "SR", "1.2.840.10008.5.1.4.1.1.88.67"
    ds.SeriesInstanceUID, ds.SOPInstanceUID, ds.SeriesNumber = f"{T1}.99", "2.25.99", 99
    for keyword in ("PixelData", "Rows", "Columns", "PixelSpacing", "SamplesPerPixel"):
        delattr(ds, keyword)
    return ds


def test_what_is_no_image_is_named_and_what_is_no_dicom_is_counted(site: Path, tmp_path: Path) -> None:
    """A dose report has its row; a text file is skipped and counted."""
    folder = tmp_path / "study"
    _series(folder, 3)
    write_file(_dose_report(make_slice(9)), folder / "dose.dcm")
    (folder / "readme.txt").write_text("hello", encoding="utf-8")

    found = _explain(site, folder)

    assert found["skipped"] == 1
    assert [s["kind"] for s in found["studies"][0]["series"]] == ["VOLUME", "DOSE_SHEET"]


def test_people_get_a_table(site: Path, tmp_path: Path) -> None:
    """Without --json: one row per volume, the model or 'nothing', the predicate."""
    files = _series(tmp_path / "study", 3, SeriesDescription="FLAIR")
    done = CliRunner().invoke(route.app, ["explain", str(files[0].parent), "-c", str(site)], env={"COLUMNS": "200"})
    assert done.exit_code == 0
    assert "DESCRIPTION" in done.output
    assert "nothing" in done.output


def test_a_folder_without_files_is_a_mistake(site: Path, tmp_path: Path) -> None:
    """One line with a code, exit status 1."""
    (tmp_path / "empty").mkdir()
    done = CliRunner().invoke(route.app, ["explain", str(tmp_path / "empty"), "-c", str(site)])
    assert done.exit_code == 1
    assert "COMMAND_REFUSED" in done.output
