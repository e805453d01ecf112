"""install.sh is killed at each command that changes the disk: what is in use is whole, another run finishes."""

import shutil
import signal
from pathlib import Path

import pytest

from tests.unit.deploy.conftest import Site

CHANGING = ("chmod", "cp", "ln", "mkdir", "mv", "rm", "rmdir", "sync")
RUNS_MAX = 60
"""More commands than any run has: a loop that does not end is a fault of its own."""


def _deadly(site: Site) -> Path:
    """Shims that kill the whole run before a command that changes the disk, if none was killed before this one yet."""
    survived = site.shims / "survived"
    survived.write_text("", encoding="utf-8")
    for name in CHANGING:
        real = ":" if name == "sync" else f'PATH=${{PATH#*:}} exec {name} "$@"'
        known = f'grep -Fxqe "{name} $*" {survived}'
        site.shim(name, f'{known} || {{ echo "{name} $*" >>{survived}; kill -9 0; }}\n{real}')
    return survived


def _whole(site: Site, versions: tuple[str, ...]) -> None:
    """`current` leads to one of these versions, and it is complete: its program was started before it was so called."""
    assert site.current in versions
    assert (site.opt / site.current / "bundle" / "COMPLETE").exists()


def _kill_at_each(site: Site, bundle: Path, versions: tuple[str, ...], *asked: str) -> list[str]:
    """Runs it, each time killed at one command more, until it comes to its end; gives what it was killed at.

    Each run begins with what the one before left.
    """
    survived = _deadly(site)
    for _ in range(RUNS_MAX):
        done = site.run(bundle, *asked)
        if done.returncode != -signal.SIGKILL:
            assert done.returncode == 0, done.stderr
            return [line.split()[0] for line in survived.read_text(encoding="utf-8").splitlines()]
        if versions:
            _whole(site, versions)
    raise AssertionError("it never came to its end")


@pytest.mark.slow
def test_upgrade_and_rollback(installed: Site, second: Path) -> None:
    """At any command the old or the new version is in use, and in the end the old one is there to go back to."""
    for folder in ("etc", "var"):  # so that these are made as well
        shutil.rmtree(installed.root / folder)
    killed = _kill_at_each(installed, second, ("1.0.0", "2.0.0"))
    assert len(killed) > 20
    assert {"cp", "ln", "mkdir", "mv", "rm", "sync"} <= set(killed)
    assert (installed.current, installed.previous) == ("2.0.0", "1.0.0")
    assert {path.name for path in installed.opt.iterdir()} == {".lock", "1.0.0", "2.0.0", "current", "previous"}
    assert [path.name for path in installed.config.parent.iterdir()] == ["zhiying.toml"]
    assert installed.data.stat().st_mode & 0o777 == 0o700
    assert installed.says("2.0.0")
    assert len(_kill_at_each(installed, second, ("1.0.0", "2.0.0"), "--rollback")) > 3
    assert (installed.current, installed.previous) == ("1.0.0", "")
    assert installed.says("1.0.0")


def test_removal(installed: Site, first: Path) -> None:
    """Killed at any command of a removal, another run removes the rest; data and configuration are there."""
    (installed.data / "log").write_text("an entry\n", encoding="utf-8")
    assert len(_kill_at_each(installed, first, (), "--uninstall")) > 3
    assert not installed.opt.exists()
    assert installed.config.exists()
    assert (installed.data / "log").read_text(encoding="utf-8") == "an entry\n"


def test_first_installation(site: Site, first: Path, second: Path) -> None:
    """What a killed first installation left is in nobody's way: not in its own, and not in another version's."""
    site.shim("ln", 'case "$*" in *current*) kill -9 0 ;; esac; PATH=${PATH#*:} exec ln "$@"')
    assert site.run(first).returncode == -signal.SIGKILL
    assert site.current == ""
    (site.opt / "1.0.0" / "bundle" / "COMPLETE").unlink()
    (site.shims / "ln").unlink()
    assert site.run(second).returncode == 0
    assert site.run(first).returncode == 0
    assert (site.current, site.previous) == ("1.0.0", "2.0.0")
    assert site.says("1.0.0")
