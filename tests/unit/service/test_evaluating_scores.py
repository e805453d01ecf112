"""zhiying evaluate for a model of classifications: real images, engine, gate, log and report; numbers done by hand."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from typer.testing import CliRunner, Result

from audit.entry import Entry, Kind
from ethics_review.acceptance import acceptance_of, claim_of, differences, rows_said
from inference.found import FoundBox
from models.library import Library
from models.ref import ModelRef
from service import dataset, evaluating
from service.cli import app
from service.errors import DatasetInvalid
from tests.simulators import scoring_model
from tests.simulators.labelled import Labelled
from tests.simulators.pacs import FakePacs
from tests.simulators.shadow import Shadow
from tests.simulators.site import Site
from tests.unit.models.test_manifest import DETECTION

FEW = 4
BOUNDS = [
    {"metric": "SENSITIVITY", "subgroup": None, "n": FEW, "at_least": "0.10", "at_most": None},
    {"metric": "SPECIFICITY", "subgroup": None, "n": FEW, "at_least": "0.90", "at_most": None},
]
PRESENT = (90, 80, 50, 10, int(scoring_model.NOT_A_NUMBER))
"""Brightest voxels of the cases with a bleed: found, found, left open, missed, and one on which the network fails."""
ABSENT = (10, 20, 50, 90)


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> tuple[Site, ModelRef, Path]:
    """A site with the model and an approval of few cases, and a set; the last case is not covered."""
    root = tmp_path_factory.mktemp("site")
    with FakePacs() as pacs:
        site = Site(root, pacs)
    # One of its scores may fail alone: in service the rest is told, in an acceptance it is a failure all the same.
    ref = Library(site.data / "models").install(scoring_model.stage(root / "staged", partial="allow"))
    site.approve(ref, bounds=BOUNDS)
    (root / "set").mkdir()
    labelled = Labelled(root / "set", task="CLASSIFICATION")
    for truth, values in (("PRESENT", PRESENT), ("ABSENT", ABSENT)):
        for number, value in enumerate(values):
            label = {"truth": truth, "mask": None, "volume_cm3": None}
            labelled.add(label=label, value=value, PatientSex="FM"[number % 2])
    labelled.add(label={"truth": "ABSENT", "mask": None, "volume_cm3": None}, PatientAge="005Y")
    return site, ref, labelled.write(classification="bleed")


def run(site: Site, *words: str | Path) -> Result:
    """One command."""
    return CliRunner().invoke(app, ["evaluate", *map(str, words), "--config", str(site.config_file)])


@pytest.fixture(scope="module")
def told(place: tuple[Site, ModelRef, Path], tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """What it prints with --json."""
    site, ref, root = place
    done = run(site, ref.name, root, "--json", "--out", tmp_path_factory.mktemp("report") / "one")
    assert done.exit_code == 1, done.stderr  # one of the bounds is not met
    return dict(json.loads(done.stdout))


def of(site: Site, kind: Kind) -> list[Entry]:
    """The log's entries of this kind."""
    return [entry for entry in site.entries() if entry.kind is kind]


@pytest.mark.slow
def test_by_hand(told: dict[str, Any]) -> None:
    """Two of five are found, two of four excluded; what is left open, missed or failed on is wrong."""
    counts = {name: told[name] for name in ("cases", "refused", "failed", "undecided", "bounds", "unmet")}
    assert counts == {"cases": 10, "refused": 1, "failed": 1, "undecided": 2, "bounds": 2, "unmet": 1}
    rows = {row["metric"]: (row["n"], row["value"]) for row in told["rows"] if row["subgroup"] is None}
    squares = sum((value / 100 - 1) ** 2 for value in PRESENT[:4]) + sum((value / 100) ** 2 for value in ABSENT)
    ece = (abs(0.1 + 0.1 - 1) + abs(0.2 - 0) + abs(0.5 + 0.5 - 1) + abs(0.8 - 1) + abs(0.9 + 0.9 - 1)) / 8
    assert rows == {
        "SENSITIVITY": (5, "0.400000"),
        "SPECIFICITY": (4, "0.500000"),
        "AUC": (8, f"{auc_by_hand():.6f}"),
        "ECE": (8, f"{ece:.6f}"),
        "BRIER": (8, f"{squares / 8:.6f}"),
        "FAILURES": (9, "0.111111"),
    }
    assert {row["subgroup"] for row in told["rows"]} >= {None, "SEX:F", "SEX:M"}
    [women] = [row for row in told["rows"] if (row["metric"], row["subgroup"]) == ("FAILURES", "SEX:F")]
    assert (women["n"], women["value"]) == (5, "0.200000")


def auc_by_hand() -> float:
    """Pairs of a case with and one without that are in the right order; a tie is half."""
    pairs = [(one, other) for one in PRESENT[:4] for other in ABSENT]
    return sum((one > other) + (one == other) / 2 for one, other in pairs) / len(pairs)


@pytest.mark.slow
def test_each_case_is_logged_with_its_answer(place: tuple[Site, ModelRef, Path], told: dict[str, Any]) -> None:
    """The score as the findings have it, and what it came to; a failed or refused case has neither."""
    del told
    said = [
        (one.body["truth"], one.body["positive"], one.body["score"], one.body["failed"])
        for one in of(place[0], Kind.CASE)
    ]
    words = {10: "NO", 20: "NO", 50: "UNDETERMINED", 80: "YES", 90: "YES"}
    wanted: list[tuple[str, str | None, str | None, str]] = [
        ("PRESENT", words[value], f"{value / 100:.6f}", "NO") for value in PRESENT[:4]
    ]
    wanted += [("PRESENT", None, None, "YES")]
    wanted += [("ABSENT", words[value], f"{value / 100:.6f}", "NO") for value in ABSENT]
    assert said == [*wanted, ("ABSENT", None, None, "REFUSED")]
    [failed] = of(place[0], Kind.FAILED)
    assert failed.body["code"] == "MODEL_OUTPUT_INVALID"
    outcomes = [one.body["outcome"] for one in of(place[0], Kind.CALL_RESULT)]
    assert outcomes == [
        *("FINDINGS", "FINDINGS", "NO_FINDINGS", "FINDINGS"),  # the fourth is PRESENT by its second classification
        *("FINDINGS", "FINDINGS", "NO_FINDINGS", "FINDINGS"),
    ]


@pytest.mark.slow
def test_anybody_makes_it_again(place: tuple[Site, ModelRef, Path], told: dict[str, Any]) -> None:
    """From the entries alone, to the digit."""
    entries = place[0].entries()
    last = of(place[0], Kind.ACCEPTANCE)[-1]  # the first ones are the dossier's own, from before
    found = differences(entries, {"TEST-0001": BOUNDS}, code=evaluating.code_digest())
    assert [one for one in found if one.index == last.index] == []
    assert [row.body() for row in rows_said(last.body)] == told["rows"]
    claim = claim_of(last.body)
    again = acceptance_of(entries, replace(claim, n_min=FEW))
    assert (again.rows, again.undecided) == (rows_said(last.body), 2)


@pytest.mark.slow
def test_nothing_is_drawn_and_nothing_is_sent(place: tuple[Site, ModelRef, Path], told: dict[str, Any]) -> None:
    """The report alone lies in the folder of each call; the page says how many were left open."""
    site = place[0]
    for result in of(site, Kind.CALL_RESULT):
        files = sorted(path.name for path in (site.data / "evaluation" / str(result.call)).iterdir())
        assert files == ["findings.npz", "sr.dcm"]
    assert not of(site, Kind.RELEASED)
    page = (Path(told["folder"]) / "acceptance.en.html").read_text(encoding="utf-8")
    assert "Left open among them" in page
    assert "0.400000" in page


@pytest.mark.slow
def test_again_adds_nothing(place: tuple[Site, ModelRef, Path], told: dict[str, Any], tmp_path: Path) -> None:
    """The same numbers, and the model is not asked."""
    site, ref, root = place
    before = len(site.entries())
    done = run(site, ref.name, root, "--json", "--out", tmp_path / "two")
    assert dict(json.loads(done.stdout)) == told | {"folder": str(tmp_path / "two")}
    assert len(site.entries()) == before


def test_which_classification_is_never_guessed(place: tuple[Site, ModelRef, Path], tmp_path: Path) -> None:
    """A set that names none of the model's, or another one's, is refused before anything is read."""
    site, ref, root = place
    said = json.loads((root / "dataset.json").read_text(encoding="utf-8"))
    for name in ("other", None):
        changed = {key: value for key, value in said.items() if key != "classification"}
        changed |= {} if name is None else {"classification": name}
        folder = tmp_path / f"set {name}"
        folder.mkdir()
        for path in root.iterdir():
            (folder / path.name).symlink_to(path)
        (folder / "dataset.json").unlink()
        (folder / "dataset.json").write_text(json.dumps(changed), encoding="utf-8")
        why = run(site, ref.name, folder).stderr
        assert "DATASET_INVALID" in why
        assert ("bleed, calm, edema" if name is None else "no classification other") in why


def test_a_model_that_only_draws_has_no_classification(tmp_path: Path) -> None:
    """The set asks for what the model does not answer; without that, whether anything is drawn is the answer."""
    shadow = Shadow(tmp_path / "site")
    (tmp_path / "set").mkdir()
    labelled = Labelled(tmp_path / "set", task="CLASSIFICATION")
    labelled.add(label={"truth": "PRESENT", "mask": None, "volume_cm3": None})
    approval = shadow.approve()
    with pytest.raises(DatasetInvalid, match="no classification bleed"):
        shadow.evaluation(labelled.write(classification="bleed"), approval)
    root = labelled.write()
    assert dataset.read(root).classification is None
    shadow.evaluation(root, approval).run(lambda _done, _cases: None)
    said = shadow.case_of(0)
    assert (said["positive"], said["score"]) == ("YES", None)
    shadow.log.inner.close()


def test_a_model_that_detects_says_yes_by_a_detection(tmp_path: Path) -> None:
    """One box above its threshold is an answer, and none as well; a score of the whole study it has not."""
    shadow = Shadow(tmp_path / "site", segments=[], measurements=[], detections=[DETECTION])
    shadow.device.answer = np.zeros_like
    (tmp_path / "set").mkdir()
    labelled = Labelled(tmp_path / "set", task="CLASSIFICATION")
    labelled.add(label={"truth": "PRESENT", "mask": None, "volume_cm3": None})
    root = labelled.write()
    box = FoundBox(0, (8.0, 15.0, 15.0), (12.0, 22.0, 23.0), 0.75)
    for number, boxes in enumerate([(box, replace(box, score=0.25)), (replace(box, score=0.4999),), ()], 1):
        shadow.device.boxes = boxes
        found = shadow.evaluation(root, shadow.approve(number)).run(lambda _done, _cases: None)
        said = shadow.case_of(number - 1)
        assert (said["positive"], said["score"], found.failed) == ("YES" if number == 1 else "NO", None, 0)
    shadow.log.inner.close()


@pytest.mark.parametrize(
    ("name", "positive", "score"),
    [("bleed", "NO", "0.100000"), ("calm", "YES", "0.900000"), ("edema", "UNDETERMINED", "0.500000")],
)
def test_the_truth_is_of_the_one_that_is_named(tmp_path: Path, name: str, positive: str, score: str) -> None:
    """Not of the first one, nor of any that is there."""
    shadow = Shadow(tmp_path / "site", segments=[], measurements=[], classifications=scoring_model.CLASSIFICATIONS)
    shadow.device.answer = np.zeros_like
    shadow.device.scores = (0.1, 0.9, 0.5)
    (tmp_path / "set").mkdir()
    labelled = Labelled(tmp_path / "set", task="CLASSIFICATION")
    labelled.add(label={"truth": "PRESENT", "mask": None, "volume_cm3": None})
    found = shadow.evaluation(labelled.write(classification=name), shadow.approve()).run(lambda _done, _cases: None)
    said = shadow.case_of(0)
    assert (said["positive"], said["score"], found.undecided) == (positive, score, int(positive == "UNDETERMINED"))
    shadow.log.inner.close()
