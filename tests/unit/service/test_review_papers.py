"""zhiying review: a dossier on the hospital's side, from its folder to the file for the reviewer and back."""

import json
import shutil
import subprocess
import sys
import zipfile
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner, Result

from audit.note import Signer, open_note
from ethics_review import reviewer as tool
from ethics_review.controls import catalogue, page
from models.library import Library
from models.ref import ModelRef
from service.cli import app
from tests.simulators import dossiers, small_model


class Office:
    """The ethics committee's office of a hospital: a configuration, a model, a dossier's folder."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.config = folder / "zhiying.toml"
        self.config.write_text(f'[data]\nfolder = "{folder / "data"}"\n', encoding="utf-8")
        self.model = Library(folder / "data" / "models").install(small_model.stage(folder / "staged"))
        self.dossier = dossiers.write(folder / "dossier", self.model, **in_force())

    def run(self, *words: str | Path, status: int = 0, config: bool = True) -> Result:
        """One command under `zhiying review`."""
        line = ["review", *map(str, words), *(["--config", str(self.config)] if config else [])]
        done = CliRunner().invoke(app, line, env={"COLUMNS": "240"})
        assert done.exception is None or isinstance(done.exception, SystemExit), repr(done.exception)
        assert done.exit_code == status, done.output
        return done

    def json(self, *words: str | Path, status: int = 0, config: bool = True) -> Any:
        """What it prints with --json."""
        return json.loads(self.run(*words, "--json", status=status, config=config).stdout)

    def submit(self, name: str = "s.zip") -> Any:
        """`review submit` of the folder."""
        return self.json("submit", self.dossier, "--model", "small-model", "--out", self.folder / name)


def in_force() -> dict[str, Any]:
    """Papers that are in force today, whatever day it is: the command looks at the real clock."""
    papers = dossiers.papers()
    later = str(datetime.now(UTC).year + 2)
    papers["privacy"]["valid_to"] = papers["registration"]["expires"] = f"{later}-01-31"
    papers["notices"]["from"] = "2020-01-01"
    return {name: papers[name] for name in ("privacy", "registration", "notices")}


@pytest.fixture
def office(tmp_path: Path) -> Office:
    """An office with a complete dossier."""
    return Office(tmp_path)


def refused(done: Result, code: str) -> str:
    """The one line of a command whose answer is no."""
    (line,) = done.stderr.strip().splitlines()
    assert line.startswith(f"error {code}: ")
    return str(line)


def test_a_complete_dossier_can_be_submitted(office: Office) -> None:
    """check: status 0, each control with its outcome and what to do, as rows and as a table."""
    found = office.json("check", office.dossier)

    assert not any(one["blocks"] for one in found)
    assert {"SP-01", "FA-01", "PR-01", "TR-02", "LC-01", "LC-03", "LC-08", "SP-08", "SE-06"} <= {
        one["control"] for one in found
    }
    assert "INSUFFICIENT" in office.run("check", office.dossier).stdout


def test_what_is_missing_is_named(office: Office) -> None:
    """check: status 1, with the control, the document, and what to add."""
    (office.dossier / "interests.json").unlink()
    office.json("index", office.dossier, "--model", "small-model")

    (missing,) = [one for one in office.json("check", office.dossier, status=1) if one["blocks"]]

    assert (missing["control"], missing["outcome"], missing["document"]) == ("LC-03", "MISSING", "interests")
    assert "interests.json" in missing["what"]


def test_a_dossier_without_its_model_is_checked_all_the_same(office: Office) -> None:
    """A vendor has no hospital's models: the papers are checked, and that the bytes were not compared is said."""
    shutil.rmtree(office.folder / "data")
    (found,) = [one for one in office.json("check", office.dossier) if one["control"] == "SE-04"]
    assert found["outcome"] == "INSUFFICIENT"


def test_index_names_what_lies_there(office: Office) -> None:
    """index: the digests of the papers as they are now, and of the model that is installed."""
    (office.dossier / "sbom.json").write_text("{}")
    before = office.json("check", office.dossier, status=1)
    assert any("sbom.json" in one["what"] for one in before if one["blocks"])

    made = office.json("index", office.dossier, "--model", "small-model")

    assert made["model"]["digest"] == office.model.digest
    assert {one["document"] for one in made["documents"]} == {*dossiers.FILES, "sbom"}
    office.json("check", office.dossier)


def test_one_file_goes_to_the_reviewer(office: Office) -> None:
    """submit: the file that the reviewer's tool opens, with the root that it prints, twice the same bytes."""
    said = office.submit()
    office.submit("again.zip")

    packet = (office.folder / "s.zip").read_bytes()
    assert packet == (office.folder / "again.zip").read_bytes()
    assert tool.open_submission(packet).root == said["submission"]
    assert said["model"]["digest"] == office.model.digest
    assert said["interested"] == ["test-vendor"]
    assert said["shadow_only"] is False
    with zipfile.ZipFile(office.folder / "s.zip") as file:
        assert json.loads(file.read("model/manifest.json"))["name"] == "small-model"
    plain = office.run("submit", office.dossier, "--model", "small-model", "--out", office.folder / "third.zip")
    assert said["submission"] in plain.stdout


def test_what_is_incomplete_is_not_submitted(office: Office) -> None:
    """submit: DOSSIER_INCOMPLETE and no file while a control goes unanswered."""
    (office.dossier / "privacy.json").write_text("{}")
    out = office.folder / "s.zip"

    done = office.run("submit", office.dossier, "--model", "small-model", "--out", out, status=1)

    assert "PR-01 INVALID privacy" in refused(done, "DOSSIER_INCOMPLETE")
    assert not out.exists()


def test_a_damaged_model_is_not_submitted(office: Office) -> None:
    """submit: the installed bytes are hashed first; a changed one stops it by name."""
    path = office.folder / "data" / "models" / "small-model" / "1.0" / "manifest.json"
    path.chmod(0o644)
    path.write_bytes(path.read_bytes() + b" ")
    done = office.run("submit", office.dossier, "--model", "small-model", "--out", office.folder / "s", status=1)
    assert done.stderr.startswith("error MODEL_")


def test_another_models_dossier_is_not_submitted(office: Office) -> None:
    """submit: papers about other bytes of the same name and version are refused."""
    other = ModelRef("small-model", "1.0", "sha256:" + "ef" * 32)
    dossiers.write(office.dossier, other, **in_force())
    done = office.run("submit", office.dossier, "--model", "small-model", "--out", office.folder / "s", status=1)
    assert "SE-04" in refused(done, "DOSSIER_INCOMPLETE")


def test_nothing_is_overwritten(office: Office) -> None:
    """submit and sign: a file that is there is left alone."""
    taken = office.folder / "taken"
    taken.write_text("precious")
    Signer.generate("a.example").save(office.folder / "k")
    done = office.run("submit", office.dossier, "--model", "small-model", "--out", taken, status=1)
    refused(done, "COMMAND_REFUSED")
    done = office.run("sign", taken, "--key", office.folder / "k", "--out", taken, status=1, config=False)
    refused(done, "COMMAND_REFUSED")
    assert taken.read_text() == "precious"


@pytest.mark.parametrize("content", [None, b"", b"{}", b"\xff", b"[" * 9999])
def test_a_folder_without_a_dossier_is_one_line(office: Office, content: bytes | None) -> None:
    """DOSSIER_INVALID for a folder in which dossier.json is missing or none."""
    (office.dossier / "dossier.json").unlink()
    if content is not None:
        (office.dossier / "dossier.json").write_bytes(content)
    refused(office.run("check", office.dossier, status=1), "DOSSIER_INVALID")
    done = office.run("submit", office.dossier, "--model", "small-model", "--out", office.folder / "s", status=1)
    refused(done, "DOSSIER_INVALID")


def test_a_folder_that_is_not_there_is_refused(office: Office) -> None:
    """The command line itself says so."""
    office.run("check", office.folder / "nowhere", status=2)
    done = office.run("index", office.dossier, "--model", "nobody", status=1)
    refused(done, "MODEL_NOT_FOUND")


def test_two_sign_one_text(office: Office) -> None:
    """sign: an act's draft, then a second signature on the note; both keys open it."""
    keys = []
    for name in ("one", "two"):
        office.json("keygen", "--name", f"{name}.example", "--out", office.folder / f"{name}.key", config=False)
        keys.append(Signer.load(office.folder / f"{name}.key").verifier)
    draft = office.folder / "act.txt"
    draft.write_text('zhiying-act/1\n{"event":"GO_LIVE"}\n')

    first = office.json(
        "sign", draft, "--key", office.folder / "one.key", "--out", office.folder / "1.note", config=False
    )
    second = office.json(
        "sign", office.folder / "1.note", "--key", office.folder / "two.key", "--out", office.folder / "2", config=False
    )

    assert (first["kind"], first["approval"], first["signed_by"]) == ("zhiying-act/1", None, "one.example")
    assert second["signed_by"] == "one.example, two.example"
    text = draft.read_text()
    assert open_note((office.folder / "2").read_text(encoding="utf-8"), keys) == (text, ("one.example", "two.example"))


def test_the_laptop_and_the_service_sign_alike(office: Office) -> None:
    """One text, one key: `zhiying review sign` and the tool give the same note."""
    key = office.folder / "k"
    Signer.generate("a.example").save(key)
    draft = office.folder / "act.txt"
    draft.write_text('zhiying-act/1\n{"event":"REJECT","reason":"偏倚"}\n', encoding="utf-8")
    office.run("sign", draft, "--key", key, "--out", office.folder / "here.note", config=False)
    command = [sys.executable, "-I", str(tool.__file__), "sign", str(draft), "--key", str(key)]
    subprocess.run([*command, "--out", str(office.folder / "there.note")], check=True, capture_output=True)
    assert (office.folder / "here.note").read_bytes() == (office.folder / "there.note").read_bytes()


def test_an_enormous_text_is_not_read_into_memory(office: Office) -> None:
    """sign: what is longer than any text of ours is refused."""
    huge = office.folder / "huge"
    with huge.open("wb") as file:
        file.truncate(2**33)
    Signer.generate("a.example").save(office.folder / "k")
    done = office.run("sign", huge, "--key", office.folder / "k", "--out", office.folder / "n", status=1, config=False)
    refused(done, "APPROVAL_INVALID")


def test_the_sixty_controls_are_shown(office: Office) -> None:
    """controls: all of them as JSON, as a table, and as docs/controls.md, without a configuration."""
    found = office.json("controls", config=False)
    assert [one["id"] for one in found] == [one.id for one in catalogue()]
    assert all(
        {"code", "tests", "evidence", "why", "covered", "source", "theme", "demand"} <= one.keys() for one in found
    )
    assert "HO-01" in office.run("controls", config=False).stdout
    assert office.run("controls", "--markdown", config=False).stdout == page(catalogue())


def test_the_commands_are_beside_the_others(office: Office) -> None:
    """One `zhiying review`, whichever module a command is written in."""
    shown = office.run("--help", config=False).stdout
    for name in ("check", "submit", "index", "sign", "keygen", "terms", "controls", "show", "import"):
        assert name in shown


def fenced(text: str) -> str:
    """The first JSON block of a page."""
    return text.partition("```json\n")[2].partition("```")[0]


def test_the_pages_terms_are_terms(office: Office) -> None:
    """docs/review.md: the example of terms is one that the reviewer's tool takes."""
    said = office.submit()
    text = (Path(__file__).parents[3] / "docs" / "review.md").read_text(encoding="utf-8")
    packet = tool.open_submission((office.folder / "s.zip").read_bytes())
    drafted = tool.approval_text(json.loads(fenced(text)), packet)
    assert said["submission"] in drafted
    for name in dossiers.FILES:
        assert f"`{name.replace('_', '-')}.json`" in text
    for command in ("index", "check", "submit", "sign", "import", "draft", "show"):
        assert f"zhiying review {command}" in text
