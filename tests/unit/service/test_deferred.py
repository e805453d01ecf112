"""Commands whose modules are loaded when they are called: all are there, and nothing comes with them unasked."""

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from types import MappingProxyType

import pytest
import typer
from typer.main import get_group
from typer.testing import CliRunner

from service.cli import app
from service.commands.deferred import Deferred

SLOW = ("pydicom", "pynetdicom", "highdicom", "sqlalchemy", "dbos", "fastapi", "httpx", "structlog", "torch", "monai")
"""What takes from a tenth of a second to several to load."""
WITH_LOG_ALONE = ("service.cli", "service.commands.review_papers", "service.commands.audit")


def groups(group: object, *path: str) -> Iterator[tuple[str, ...]]:
    """The path to every command below the group, by the help's own lists."""
    for name in group.list_commands(None):  # type: ignore[attr-defined]
        command = group.get_command(None, name)  # type: ignore[attr-defined]
        assert command.name == name
        if hasattr(command, "list_commands"):
            yield from groups(command, *path, name)
        else:
            yield (*path, name)


def test_every_command_loads_and_explains_itself() -> None:
    """Each module that is named is there, and each command has a help of its own; none is listed twice."""
    found = list(groups(get_group(app)))
    assert len(found) == len(set(found)) > 50
    assert {("review", "sign"), ("review", "lookback"), ("review", "incident", "open"), ("pull",)} <= set(found)
    for path in found:
        said = CliRunner().invoke(app, [*path, "--help"])
        assert said.exit_code == 0, path
        assert f"Usage: root {' '.join(path)} " in said.output, path


def test_what_is_not_there_is_said() -> None:
    """A name that no command has is refused as such, in the deferred groups too."""
    for path in (["nonsense"], ["review", "nonsense"], ["audit", "nonsense"]):
        said = CliRunner().invoke(app, path)
        assert said.exit_code == 2  # of a wrong call, as every command line has it
        assert "No such command 'nonsense'" in said.output


def test_a_module_that_is_misspelt_fails() -> None:
    """The table is taken at its word: a wrong name in it is a fault, not an empty group."""

    class Wrong(Deferred):
        modules = MappingProxyType({"there": "nowhere"})

    with pytest.raises(ModuleNotFoundError, match=r"service\.commands\.nowhere"):
        get_group(typer.Typer(cls=Wrong)).get_command(None, "there")  # type: ignore[arg-type]


@pytest.mark.parametrize("module", WITH_LOG_ALONE)
def test_commands_of_the_log_load_no_more(module: str) -> None:
    """Who signs or checks the log waits neither for DICOM nor for a database."""
    asked = f"import json, sys, {module}; print(json.dumps(sorted(set(sys.modules) & set({SLOW!r}))))"
    done = subprocess.run([sys.executable, "-c", asked], capture_output=True, text=True, check=True)
    assert json.loads(done.stdout) == []


def test_a_key_is_made_without_them(tmp_path: Path) -> None:
    """The whole command, as a process of its own: what it loads on its way, too."""
    out = tmp_path / "test.key"
    asked = (
        "import json, sys; from service.cli import app;"
        f"app(['review', 'keygen', '--name', 'test.example', '--out', {str(out)!r}], standalone_mode=False);"
        f"print(json.dumps(sorted(set(sys.modules) & set({SLOW!r}))))"
    )
    done = subprocess.run([sys.executable, "-c", asked], capture_output=True, text=True, check=True)
    assert out.exists()
    assert json.loads(done.stdout.splitlines()[-1]) == []
