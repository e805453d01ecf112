"""zhiying evaluate, in this process, on DICOM files, with the real engine, log and register."""

import json
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner, Result

from audit.entry import Kind
from ethics_review.acceptance import differences, rows_said
from models.ref import ModelRef
from service import evaluating
from service.cli import app
from tests.simulators.labelled import CANARY, Labelled
from tests.simulators.pacs import FakePacs
from tests.simulators.reviewer import TERMS
from tests.simulators.site import Site


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> tuple[Site, ModelRef, Path]:
    """A site with a model and an approval, and a set: two good cases, one that the approval does not cover."""
    root = tmp_path_factory.mktemp("site")
    # A PACS that is named, and to which nothing is ever sent.
    with FakePacs() as pacs:
        site = Site(root, pacs)
    ref = site.install_model()
    site.approve(ref)
    (root / "set").mkdir()
    labelled = Labelled(root / "set")
    labelled.add(PatientSex="F")
    labelled.add(drawn=7.0)
    labelled.add(PatientAge="005Y", PatientBirthDate="20210101")
    return site, ref, labelled.write()


def run(site: Site, *words: str | Path) -> Result:
    """One command."""
    return CliRunner().invoke(app, ["evaluate", *map(str, words), "--config", str(site.config_file)])


def told(site: Site, *words: str | Path) -> dict[str, Any]:
    """What it prints with --json."""
    done = run(site, *words, "--json")
    assert done.exit_code == 1, "three cases meet no bound of thirty"
    return dict(json.loads(done.stdout))


@pytest.mark.slow
def test_the_whole_of_it(place: tuple[Site, ModelRef, Path], tmp_path: Path) -> None:
    """Each case is logged and counted, the report's digest is the entry's, and a second time adds not one byte."""
    site, ref, root = place
    first = told(site, ref.name, root, "--out", tmp_path / "one")
    assert (first["cases"], first["refused"], first["failed"], first["unmet"]) == (3, 1, 0, 2)
    entries = site.entries()
    kinds = [entry.kind for entry in entries]
    kinds = kinds[kinds.index(Kind.CALL_INTENT) :]
    one = [Kind.CALL_INTENT, Kind.CALL_RESULT, Kind.CASE]
    assert kinds == [*one, *one, Kind.DENIED, Kind.CASE, Kind.ACCEPTANCE]
    said = entries[-1].body
    assert [row.body() for row in rows_said(said)] == first["rows"]
    assert (said["report"], said["model"]) == (
        first["report"],
        {"name": ref.name, "version": ref.version, "digest": ref.digest},
    )
    found = differences(entries, {"TEST-0001": TERMS["acceptance"]}, code=evaluating.code_digest())
    assert [one for one in found if one.index == entries[-1].index] == []
    dice = [entry.body["dice"] for entry in entries if entry.kind is Kind.CASE]
    assert dice[0] == "1.000000"
    assert dice[2] is None
    assert told(site, ref.name, root, "--out", tmp_path / "two") == first | {"folder": str(tmp_path / "two")}
    assert len(site.entries()) == len(entries)
    for path in (tmp_path / "one").iterdir():
        data = path.read_bytes()
        assert data == (tmp_path / "two" / path.name).read_bytes()
        for word in (CANARY, "Phantom", "TEST-0001^", "19560101", "20210101"):
            assert word.encode() not in data, path.name


@pytest.mark.slow
def test_people_read_a_table(place: tuple[Site, ModelRef, Path], tmp_path: Path) -> None:
    """Without --json: the rows, one line of counts, progress on the other stream; the report into the data folder."""
    site, ref, root = place
    done = run(site, ref.name, root)
    assert done.exit_code == 1
    assert "3 cases, 1 refused, 0 failed; 2 of 2 bounds not met" in done.stdout
    assert "case 3 of 3" in done.stderr
    assert "case 3 of 3" not in done.stdout
    assert list((site.data / "evaluation").glob("acceptance-*/SHA256SUMS"))


def test_what_stands_in_the_way(place: tuple[Site, ModelRef, Path], tmp_path: Path) -> None:
    """No such model, no set, no approval of that name, two approvals and none named: one line with a code each."""
    site, ref, root = place
    assert "MODEL_NOT_FOUND" in run(site, "other", root).stderr
    assert "DATASET_INVALID" in run(site, ref.name, tmp_path).stderr
    assert "found: none; see --approval" in run(site, ref.name, root, "--approval", "TEST-0009").stderr
    site.approve(ref, number=2)
    assert "found: TEST-0001, TEST-0002" in run(site, ref.name, root).stderr
