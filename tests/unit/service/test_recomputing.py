"""zhiying review recompute: what it takes, and what it says of anything else. Its figures: test_monitoring_story.py."""

import zipfile
from pathlib import Path

import pytest
from typer.testing import CliRunner

from audit.export import Scope, export
from service.cli import app
from service.errors import CommandRefused
from service.recomputing import entries_of
from tests.simulators.audit_log import SIGNER, fill, open_log


def test_a_whole_package_gives_its_entries(tmp_path: Path) -> None:
    """All of them, in order, over more than one member."""
    with open_log(tmp_path / "log") as log:
        fill(log, range(1100))
        export(log, tmp_path / "package.zip")
        assert entries_of(tmp_path / "package.zip") == list(log.entries())


def test_a_filtered_package_is_refused(tmp_path: Path) -> None:
    """What the filter hid may be what an evaluation was made of."""
    with open_log(tmp_path / "log") as log:
        fill(log, range(30))
        export(log, tmp_path / "package.zip", Scope(selects=lambda entry: entry.index != 7))
    with pytest.raises(CommandRefused, match="hash alone"):
        entries_of(tmp_path / "package.zip")


@pytest.mark.parametrize("data", [b"", b"PK", b"no zip at all" * 100])
def test_what_is_no_package_is_said(tmp_path: Path, data: bytes) -> None:
    """One line with a code, and exit status 1."""
    package, trust = tmp_path / "package.zip", tmp_path / "trust.policy"
    package.write_bytes(data)
    trust.write_text("", encoding="utf-8")
    words = ["review", "recompute", str(package), "--trust", str(trust), "--log-key", SIGNER.vkey]
    done = CliRunner().invoke(app, words)
    assert done.exit_code == 1
    assert "COMMAND_REFUSED" in done.stderr
    assert "no whole package" in done.stderr


def test_a_member_that_is_cut_is_no_package(tmp_path: Path) -> None:
    """Fewer bytes than its entries have."""
    with open_log(tmp_path / "log") as log:
        fill(log, range(5))
        export(log, tmp_path / "whole.zip")
    with zipfile.ZipFile(tmp_path / "whole.zip") as whole, zipfile.ZipFile(tmp_path / "cut.zip", "w") as cut:
        for name in whole.namelist():
            cut.writestr(name, whole.read(name)[: -9 if name.startswith("entries/") else None])
    with pytest.raises(CommandRefused, match="no whole package"):
        entries_of(tmp_path / "cut.zip")
