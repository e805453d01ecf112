"""`zhiying route explain DIR`: which model would run on what, and which predicate decided, before anything is sent.

One folder holds what is sent for one patient: the brain's T1 series, a localizer, a CT, an enhanced MR, a report.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from pydicom.dataset import Dataset

from dicom_bridge import uids
from tests.simulators import series
from tests.simulators.enhanced import ENHANCED_MR, make_enhanced
from tests.simulators.real_site import Address, RealSite, with_model, zhiying
from tests.simulators.site import COLUMNS, ROWS, SLICES, ball

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]

STUDY = uids.derive("TEST", "routed", "study")
SR = "1.2.840.10008.5.1.4.1.1.88.33"
NUMBERS = {1: "localizer", 3: "brain", 5: "ct", 7: "enhanced", 9: "report"}
RULES = """
[[rules]]
name = "emergency-room"
model = "small-model"
sender = ["ERSCANNER"]
urgent = true
[[rules]]
name = "no-thick-slices"
model = "small-model/1.0"
slices = [20, 400]
orientation = ["AXIAL"]
"""


@dataclass(frozen=True)
class Desk:
    """A site that does not run, and the folder."""

    site: RealSite
    folder: Path

    def explain(self, *more: str, rules: str = "") -> dict[str, Any]:
        """The answer to --json, for the one study of the folder."""
        self.site.configure(more=rules)
        said = zhiying(self.site, "route", "explain", self.folder, "--json", *more)
        assert said.status == 0, said
        assert said.value["skipped"] == 1
        (study,) = said.value["studies"]
        assert study["study_uid"] == STUDY
        return dict(study)

    def deciding(self, *more: str, rules: str = "") -> dict[str, tuple[str, str | None, str]]:
        """By series: the model that would run or "", the predicate that decided against it, and whose it is."""
        study = self.explain(*more, rules=rules)
        return {
            NUMBERS[one["number"]]: (one["model"] if one["fits"] else "", one["decided_by"], one["asked_by"])
            for one in study["series"]
        }


def into(ds: Dataset, number: int, name: str, **changes: Any) -> Dataset:
    """Make it of the study's series of this number."""
    ds.StudyInstanceUID, ds.SeriesNumber = STUDY, number
    ds.SeriesInstanceUID = uids.derive("TEST", "routed", name)
    ds.SOPInstanceUID = uids.derive("TEST", "routed", name, str(ds.get("InstanceNumber", 1)))
    for keyword, value in changes.items():
        setattr(ds, keyword, value)
    return ds


def report() -> Dataset:
    """A report of another vendor, as much of it as anybody reads here."""
    ds = series.make_slice(0)
    for keyword in ("PixelData", "Rows", "Columns", "ImagePositionPatient", "ImageOrientationPatient"):
        delattr(ds, keyword)
    return into(ds, 9, "report", SOPClassUID=SR, Modality="SR", SeriesDescription="T1 findings")


@pytest.fixture(scope="module")
def desk(tmp_path_factory: pytest.TempPathFactory) -> Desk:
    """Names and order of the files say nothing."""
    root = tmp_path_factory.mktemp("route")
    folder = root / "from the scanner" / "DICOM"
    folder.mkdir(parents=True)
    made = [report(), into(make_enhanced(range(SLICES)), 7, "enhanced", SeriesDescription="T1 enhanced")]
    for index in range(SLICES):
        brain = series.make_slice(index, shape=(ROWS, COLUMNS))
        ball(index, brain)
        made.append(into(brain, 3, "brain"))
    for index in range(3):
        scout = series.make_slice(index)
        made.append(into(scout, 1, "localizer", ImageType=["ORIGINAL", "PRIMARY", "LOCALIZER"]))
    made += [into(series.make_slice(index, modality="CT"), 5, "ct") for index in range(10)]
    for ds in made:
        series.write_file(ds, folder / ds.SOPInstanceUID[-20:])
    (folder / "README.TXT").write_text("from the scanner", encoding="utf-8")
    assert {str(ds.SOPClassUID) for ds in made} >= {SR, ENHANCED_MR}
    return Desk(with_model(RealSite(root / "site", Address("PACS", 104))), folder)


def test_the_manifest_decides_without_rules(desk: Desk) -> None:
    """One series runs; of each other the first predicate that says no is named, and that it is the manifest's."""
    assert desk.deciding() == {
        "brain": ("small-model/1.0", None, ""),
        "localizer": ("", "IMAGE_TYPE", "manifest"),
        "ct": ("", "MODALITY", "manifest"),
        "enhanced": ("", "SOP_CLASS", "manifest"),
        "report": ("", "MODALITY", "manifest"),
    }


def test_json_names_the_choice_and_what_was_seen(desk: Desk) -> None:
    """What a program needs: the chosen series, its model, and observed against wanted of each refusal."""
    study = desk.explain()
    (chosen,) = study["chosen"]
    assert (study["code"], chosen["model"], chosen["series_uid"]) == (
        None,
        "small-model/1.0",
        uids.derive("TEST", "routed", "brain"),
    )
    assert (chosen["rule"], chosen["urgent"], chosen["refused"]) == ("", False, False)
    by = {NUMBERS[one["number"]]: one for one in study["series"]}
    assert {name: one["images"] for name, one in by.items()} == {
        "brain": SLICES,
        "localizer": 3,
        "ct": 10,
        "enhanced": SLICES,
        "report": 0,
    }
    assert (by["ct"]["observed"], by["ct"]["wanted"]) == ("CT", "MR")
    assert "LOCALIZER" in by["localizer"]["observed"]
    assert by["enhanced"]["observed"] == ENHANCED_MR


def test_people_see_a_line_for_each_series(desk: Desk) -> None:
    """The table says the same: what runs, or which predicate decided, on what; and what was passed over as no DICOM."""
    desk.site.configure(more="")
    said = zhiying(desk.site, "route", "explain", desk.folder)
    assert (said.status, said.err) == (0, "1 files are no DICOM instances\n")
    rows = [[cell.strip() for cell in line.split("│")[1:-1]] for line in said.out.splitlines() if "│" in line]
    assert {row[0]: (row[5], row[7].partition(":")[0]) for row in rows} == {
        "1": ("nothing", "IMAGE_TYPE (manifest)"),
        "3": ("small-model/1.0", ""),
        "5": ("nothing", "MODALITY (manifest)"),
        "7": ("nothing", "SOP_CLASS (manifest)"),
        "9": ("nothing", "MODALITY (manifest)"),
    }
    assert [row[7] for row in rows if row[0] == "5"] == ["MODALITY (manifest): CT, wanted MR"]


def test_a_rule_restricts_and_is_named(desk: Desk) -> None:
    """The first rule asks for another sender, so the second decides; where it asks too much, nothing runs."""
    study = desk.explain(rules=RULES)
    assert (study["chosen"][0]["rule"], study["chosen"][0]["urgent"]) == ("no-thick-slices", False)
    brain = next(one for one in study["series"] if one["number"] == 3)
    assert [(v["rule"], v["fits"], v["decided_by"], v["asked_by"]) for v in brain["verdicts"]] == [
        ("emergency-room", False, "SENDER", "rule"),
        ("no-thick-slices", True, None, ""),
    ]
    stricter = RULES.replace("[20, 400]", "[30, 400]")
    assert desk.deciding(rules=stricter)["brain"] == ("", "SLICES", "rule")
    assert desk.explain(rules=stricter)["code"] == "NO_RULE_MATCHES"


def test_an_urgent_rule_is_urgent_for_its_sender(desk: Desk) -> None:
    """--sender says where the files would come from."""
    chosen = desk.explain("--sender", "ERSCANNER", rules=RULES)["chosen"][0]
    assert (chosen["rule"], chosen["urgent"], chosen["model"]) == ("emergency-room", True, "small-model/1.0")


def test_a_rule_of_a_model_that_is_not_here_is_told(desk: Desk) -> None:
    """Not as if nothing fitted: the model is what is missing."""
    absent = '[[rules]]\nname = "absent"\nmodel = "liver"\n'
    assert desk.deciding(rules=absent)["brain"] == ("", "MODEL", "rule")


def test_what_cannot_be_explained_is_one_line(desk: Desk, tmp_path: Path) -> None:
    """An empty folder, a rule that is none, a folder that is not there."""
    desk.site.configure(more="")
    empty = zhiying(desk.site, "route", "explain", tmp_path)
    assert (empty.status, len(empty.lines)) == (1, 1)
    assert empty.err.startswith("error COMMAND_REFUSED: ")
    absent = zhiying(desk.site, "route", "explain", tmp_path / "absent")
    assert (absent.status, len(absent.lines)) == (1, 1)
    desk.site.configure(more='[[rules]]\nname = "x"\nmodel = "small-model"\nslices = [9, 1]\n')
    wrong = zhiying(desk.site, "route", "explain", desk.folder, "--json")
    assert (wrong.status, len(wrong.lines)) == (1, 1)
    assert wrong.err.startswith("error CONFIG_INVALID: ")
