"""scripts/bundle.sh, from a repository of stand-ins to the tar that installs; pip is given a folder for its index."""

import hashlib
import importlib.metadata
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.simulators import wheelhouse
from tests.unit.deploy.conftest import Site

BACKEND = """
import pathlib, shutil
def build_wheel(into, config_settings=None, metadata_directory=None):
    wheel, = pathlib.Path().glob("*.whl")
    return pathlib.Path(shutil.copy(wheel, into)).name
"""
PROJECT = '[build-system]\nrequires = []\nbuild-backend = "backend"\nbackend-path = ["."]\n'


def _git(repository: Path, *words: str) -> None:
    author = ["-c", "user.name=TEST^Author", "-c", "user.email=test@example.invalid", "-c", "commit.gpgsign=false"]
    subprocess.run(["git", "-C", str(repository), *author, *words], check=True, capture_output=True)


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    """A committed repository whose build takes no time, with the real scripts; it pins the pip that is here."""
    made = tmp_path / "repository"
    for name in ("scripts/bundle.sh", "deploy/pack.py", "docs/installing.md", "LICENSE"):
        (made / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(wheelhouse.ROOT / name, made / name)
    for name in wheelhouse.MEMBERS:
        shutil.copy(wheelhouse.DEPLOY / name, made / "deploy" / name)
    wheelhouse.write_program(made, "1.0.0")
    (made / "pyproject.toml").write_text(PROJECT, encoding="utf-8")
    (made / "backend.py").write_text(BACKEND, encoding="utf-8")
    pins = f"tiny-need==0.5\npip=={importlib.metadata.version('pip')}\n"
    (made / "constraints.txt").write_text(pins, encoding="utf-8")
    house = tmp_path / "house"
    wheelhouse.write_need(house)
    wheelhouse.write_real_pip(house)
    wheelhouse.card(made / "models" / "cards" / "tiny", wheelhouse.write_weights(house))
    _git(made, "init", "--quiet")
    _git(made, "add", ".")
    _git(made, "commit", "--quiet", "-m", "stand-ins")
    return made


def _bundle(repository: Path, *asked: str) -> subprocess.CompletedProcess[str]:
    house = str(repository.parent / "house")
    environment = {**os.environ, "PYTHON": sys.executable, "PIP_NO_INDEX": "1", "PIP_FIND_LINKS": house}
    command = [str(repository / "scripts" / "bundle.sh"), *asked]
    return subprocess.run(command, env=environment, cwd=repository.parent, capture_output=True, text=True, check=False)


@pytest.mark.slow
def test_bundle_installs(repository: Path, site: Site, tmp_path: Path) -> None:
    """One command makes a tar with its digest, which tar, install.sh and the real pip take as in a hospital."""
    own = tmp_path / "own"
    wheelhouse.write_wheel(own / "tiny_need-0.7-py3-none-any.whl", {"tiny_need.py": ""})
    constraints = repository / "constraints.txt"
    constraints.write_text(constraints.read_text(encoding="utf-8").replace("tiny-need==0.5\n", ""), encoding="utf-8")
    _git(repository, "commit", "--quiet", "--all", "-m", "another need, the site's own")
    done = _bundle(repository, "--wheels", "own", "--label", "own", "out")
    assert done.returncode == 0, done.stderr
    (tar,) = (tmp_path / "out").glob("zhiying-1.0.0+own-*.tar")
    told = tar.with_name(f"{tar.name}.sha256").read_text(encoding="utf-8")
    digest = hashlib.sha256(tar.read_bytes()).hexdigest()
    assert told == f"{digest}  {tar.name}\n"
    assert digest in done.stdout
    subprocess.run(["tar", "-xf", str(tar), "-C", str(tmp_path)], check=True)
    unpacked = tmp_path / tar.name.removesuffix(".tar")
    assert {path.name for path in (unpacked / "weights").iterdir()} == {"tiny_weights-3.1-py3-none-any.whl"}
    assert "tiny-need==0.7 " in (unpacked / "requirements.txt").read_text(encoding="utf-8")
    assert (unpacked / "INSTALLING.md").exists()
    done = site.run(unpacked)
    assert done.returncode == 0, done.stderr
    assert site.says("1.0.0")
    assert not (site.root / "astray").exists()


def test_only_what_is_committed(repository: Path) -> None:
    """A repository with changes is refused: nobody could make that bundle again."""
    with (repository / "LICENSE").open("a", encoding="utf-8") as file:
        file.write("and more\n")
    done = _bundle(repository)
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr == "error TREE_CHANGED: commit your changes first\n"


@pytest.mark.parametrize(("asked", "code"), [(("--wheels", "nowhere"), "WHEELS_MISSING"), (("--unheard-of",), "USAGE")])
def test_wrong_call(repository: Path, asked: tuple[str, ...], code: str) -> None:
    """A call that cannot be meant is refused before anything is fetched."""
    done = _bundle(repository, *asked)
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.startswith(f"error {code}: ")
