"""zhiying review opt-out: the choice goes into the log, the id goes nowhere."""

import json
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from audit.entry import Entry, Kind
from dicom_bridge.patient import Patient
from service import wire
from service.cli import app
from service.permitting import names_of_images

SECRET = "TEST-PATIENT-77"


@pytest.fixture
def config(tmp_path: Path) -> Path:
    """A site."""
    path = tmp_path / "zhiying.toml"
    path.write_text(f'[site]\nid = "test-site"\n[data]\nfolder = "{tmp_path / "data"}"\n', encoding="utf-8")
    return path


def said(config: Path, *words: str, stdin: str | None = None) -> Any:
    """What the command prints, which never is the id."""
    result = CliRunner().invoke(app, ["review", "opt-out", *words, "--json", "--config", str(config)], input=stdin)
    assert SECRET not in result.output
    assert result.exit_code == 0, result.output
    return json.loads(result.stdout[result.stdout.index("{") :])


def entries(config: Path) -> list[Entry]:
    """The log's opt-outs."""
    with wire.offline(config) as site:
        return [entry for entry in site.log.entries() if entry.kind is Kind.OPT_OUT]


def out(config: Path, issuer: str = "") -> bool:
    """Whether the service would leave this patient's images alone."""
    with wire.offline(config) as site:
        names = names_of_images(wire.pseudonyms(wire.settings(config)), Patient(SECRET, issuer))
        return any(site.register.opted_out(name) for name in names)


def test_a_patient_opts_out_and_back_in(config: Path) -> None:
    """Each choice is one entry; said again it is none; the gate's view follows."""
    assert not out(config)
    first = said(config, "--patient-id", SECRET)
    assert (first["choice"], first["recorded"]) == ("OPTED_OUT", "now")
    assert said(config, "--patient-id", f" {SECRET} ")["recorded"] == "before"
    assert out(config)
    assert out(config, "HOSPITAL-A")
    assert said(config, "--patient-id", SECRET, "--withdraw")["choice"] == "WITHDRAWN"
    assert not out(config)
    assert [entry.body["choice"] for entry in entries(config)] == ["OPTED_OUT", "WITHDRAWN"]
    assert all(entry.body["patient"] == first["patient"] for entry in entries(config))


def test_an_issuer_narrows_the_choice(config: Path) -> None:
    """Another hospital's patient of the same id is somebody else; images that name no issuer are not."""
    said(config, "--patient-id", SECRET, "--issuer", "HOSPITAL-A")
    assert (out(config, "HOSPITAL-A"), out(config, "HOSPITAL-B"), out(config)) == (True, False, True)
    said(config, "--patient-id", SECRET, "--issuer", "HOSPITAL-A", "--withdraw")
    assert not out(config, "HOSPITAL-A")
    assert not out(config)


def test_the_id_can_be_asked_for(config: Path) -> None:
    """So that it stands in no shell's history, nor in the list of processes."""
    assert said(config, stdin=f"{SECRET}\n")["recorded"] == "now"
    assert out(config)


def test_the_id_is_nowhere_on_the_disk(config: Path) -> None:
    """Neither the log nor anything beside it holds the id."""
    said(config, "--patient-id", SECRET)
    for path in config.parent.rglob("*"):
        assert not path.is_file() or SECRET.encode() not in path.read_bytes()


def test_no_id_is_no_patient(config: Path) -> None:
    """An empty id would be everybody's."""
    result = CliRunner().invoke(app, ["review", "opt-out", "--patient-id", "  ", "--config", str(config)])
    assert result.exit_code == 1
    assert "COMMAND_REFUSED" in result.output
    assert entries(config) == []
