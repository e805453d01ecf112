"""Two bundles of stand-ins, packed once, and a folder below which each test installs them."""

import os
import shutil
import stat
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from tests.simulators import wheelhouse

NO_NETWORK = ["unshare", "-rn"]


@pytest.fixture(scope="session")
def alone() -> list[str]:
    """What a command is begun with so that it has no network, where this machine's kernel lets us."""
    allowed = shutil.which("unshare") and subprocess.run([*NO_NETWORK, "true"], check=False).returncode == 0
    return NO_NETWORK if allowed else []


@dataclass(frozen=True, slots=True)
class Site:
    """A machine to install on: everything is below `root`; `shims` come before the machine's own commands."""

    root: Path
    shims: Path
    alone: list[str] = field(default_factory=list)

    @property
    def opt(self) -> Path:
        """Where the programs are."""
        return self.root / "opt" / "zhiying"

    @property
    def config(self) -> Path:
        """The site's configuration."""
        return self.root / "etc" / "zhiying" / "zhiying.toml"

    @property
    def data(self) -> Path:
        """The data folder."""
        return self.root / "var" / "lib" / "zhiying"

    @property
    def current(self) -> str:
        """The version in use, '' for none."""
        return self._pointed("current")

    @property
    def previous(self) -> str:
        """The version before, '' for none."""
        return self._pointed("previous")

    def _pointed(self, name: str) -> str:
        link = self.opt / name
        return str(link.readlink()) if link.is_symlink() else ""

    @property
    def python(self) -> Path:
        """The interpreter of these tests, which is known to be fit and need not be asked each time."""
        version = "{}.{}".format(*sys.version_info[:2])
        return self.shim("python", f'[ "$2" = -c ] && echo {version} || exec {sys.executable} "$@"')

    def shim(self, name: str, script: str) -> Path:
        """A command of this machine that does something else."""
        path = self.shims / name
        path.write_text(f"#!/bin/sh\n{script}\n", encoding="utf-8")
        path.chmod(0o755)
        return path

    def run(self, bundle: Path, *asked: str, **more: str) -> subprocess.CompletedProcess[str]:
        """install.sh of this bundle, below `root`, with settings of pip that would send it astray."""
        return self.bare(bundle / "install.sh", "--root", str(self.root), *asked, **more)

    def bare(self, script: Path, *asked: str, **more: str) -> subprocess.CompletedProcess[str]:
        """install.sh as it lies there."""
        astray = {"PIP_INDEX_URL": "http://127.0.0.1:9/", "PIP_TARGET": str(self.root / "astray")}
        environment = {"PATH": f"{self.shims}:{os.environ['PATH']}", **astray, **more}
        command = [*self.alone, "sh", str(script), *asked]
        if "--python" not in asked:
            command += ["--python", str(self.python)]
        # A session of its own, so that a shim can kill all of it and nothing else.
        return subprocess.run(
            command, env=environment, capture_output=True, text=True, check=False, start_new_session=True
        )

    def says(self, version: str) -> bool:
        """Does the program in use start, and is it of this version?"""
        done = subprocess.run([self.opt / "current" / "bin" / "zhiying"], capture_output=True, text=True, check=False)
        return done.stdout == f"zhiying {version}\n"

    def everything(self) -> Mapping[str, tuple[object, ...]]:
        """What is below `root`, with what tells whether it was touched; the lock is opened by each run."""
        found = {}
        for path in sorted(self.root.rglob("*")):
            about = path.lstat()
            link = str(path.readlink()) if path.is_symlink() else ""
            if path.name != ".lock" and not stat.S_ISDIR(about.st_mode):
                found[str(path)] = (about.st_ino, about.st_mtime_ns, about.st_size, link)
        return found


@pytest.fixture
def site(tmp_path: Path, alone: list[str]) -> Site:
    """An empty machine."""
    return _empty(tmp_path, alone)


def _empty(folder: Path, alone: list[str]) -> Site:
    made = Site(folder / "root", folder / "shims", alone)
    made.root.mkdir()
    made.shims.mkdir()
    # The disk is said to be in sync: the real one has other things to write.
    made.shim("sync", "exit 0")
    return made


@pytest.fixture(scope="session")
def model(first: Path, tmp_path_factory: pytest.TempPathFactory, alone: list[str]) -> Site:
    """A machine on which the first bundle was installed. Not to be changed."""
    made = _empty(tmp_path_factory.mktemp("model"), alone)
    done = made.run(first)
    assert done.returncode == 0, done.stderr
    return made


@pytest.fixture
def installed(model: Site, site: Site) -> Site:
    """The same, to be changed: copied, as an installation takes half a second of a core."""
    shutil.copytree(model.root, site.root, symlinks=True, dirs_exist_ok=True)
    for path in (site.opt / "1.0.0" / "bin" / "zhiying", site.config):
        text = path.read_text(encoding="utf-8")
        path.write_text(text.replace(str(model.root), str(site.root)), encoding="utf-8")
    assert site.says("1.0.0")
    return site


@pytest.fixture(scope="session")
def first(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The bundle of version 1.0.0. Not to be changed."""
    return wheelhouse.bundle(tmp_path_factory.mktemp("first"), "1.0.0")


@pytest.fixture(scope="session")
def second(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The bundle of version 2.0.0. Not to be changed."""
    return wheelhouse.bundle(tmp_path_factory.mktemp("second"), "2.0.0")


@pytest.fixture
def copied(first: Path, tmp_path: Path) -> Path:
    """A copy of the first bundle, to be damaged."""
    return Path(shutil.copytree(first, tmp_path / "copied"))
