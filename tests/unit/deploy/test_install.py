"""install.sh: from one folder to a version in use, back, and away; data and configuration are the site's."""

import fcntl
import shutil
import sys
from pathlib import Path

import pytest

from tests.simulators import wheelhouse
from tests.unit.deploy.conftest import Site


def test_installs(site: Site, first: Path) -> None:
    """One command makes a version, the link to it, a configuration and a data folder, and ends with the doctor."""
    done = site.run(first, "--python", sys.executable)
    assert done.returncode == 0, done.stderr
    assert site.says("1.0.0")
    assert (site.current, site.previous) == ("1.0.0", "")
    assert f"doctor of 1.0.0: {site.data}" in done.stdout
    assert site.data.stat().st_mode & 0o777 == 0o700
    assert site.config.stat().st_mode & 0o777 == 0o640
    unit = site.root / "etc" / "systemd" / "system" / "zhiying.service"
    assert unit.read_bytes() == (wheelhouse.DEPLOY / "zhiying.service").read_bytes()
    kept = {path.name for path in (site.opt / "current" / "bundle").iterdir()}
    assert {"LICENSE", "sbom.cdx.json", "SHA256SUMS", "install.sh"} <= kept
    assert not (site.root / "astray").exists()


def test_check_changes_nothing(site: Site, first: Path) -> None:
    """--check looks at all that an installation looks at, and leaves no trace."""
    done = site.run(first, "--check")
    assert done.returncode == 0, done.stderr
    assert "nothing was changed" in done.stdout
    assert list(site.root.iterdir()) == []


def test_second_run_changes_nothing(installed: Site, first: Path) -> None:
    """What is installed is left as it is, file by file."""
    before = installed.everything()
    assert installed.run(first).returncode == 0
    assert installed.everything() == before
    assert installed.previous == ""


def test_upgrade_and_rollback(installed: Site, first: Path, second: Path) -> None:
    """The version before is kept and is whole; back to it, and a second time back is not forward."""
    assert installed.run(second).returncode == 0
    assert installed.says("2.0.0")
    assert (installed.current, installed.previous) == ("2.0.0", "1.0.0")
    (installed.data / "log").write_text("an entry\n", encoding="utf-8")
    own = installed.opt / "current" / "bundle" / "install.sh"
    done = installed.bare(own, "--rollback", "--root", str(installed.root))
    assert done.returncode == 0, done.stderr
    assert "doctor of 1.0.0" in done.stdout
    assert installed.says("1.0.0")
    done = installed.run(first, "--rollback")
    assert (done.returncode, installed.current) == (1, "1.0.0")
    assert done.stderr.startswith("error NO_PREVIOUS: ")
    assert installed.run(second).returncode == 0
    assert (installed.current, installed.previous) == ("2.0.0", "1.0.0")
    assert (installed.data / "log").read_text(encoding="utf-8") == "an entry\n"


def test_configuration_is_the_sites(site: Site, first: Path, second: Path) -> None:
    """A configuration that is there is never written, neither by an upgrade nor by a rollback."""
    site.config.parent.mkdir(parents=True)
    text = f'[site]\nid = "mine"\n[data]\nfolder = "{site.root}/elsewhere"\n'
    site.config.write_text(text, encoding="utf-8")
    for bundle, action in ((first, ()), (second, ()), (second, ("--rollback",))):
        done = site.run(bundle, *action)
        assert done.returncode == 0, done.stderr
        assert f"{site.root}/elsewhere" in done.stdout
        assert site.config.read_text(encoding="utf-8") == text


def test_broken_link_is_a_configuration(site: Site, first: Path) -> None:
    """A link that leads nowhere now is the site's as well: it is left, and the doctor says what is wrong."""
    site.config.parent.mkdir(parents=True)
    site.config.symlink_to("mounted-later.toml")
    assert site.run(first).stderr.splitlines()[-1].startswith("error DOCTOR_FAILED: ")
    assert site.config.is_symlink()
    assert [path.name for path in site.config.parent.iterdir()] == ["zhiying.toml"]


def test_doctor_has_the_last_word(installed: Site, first: Path) -> None:
    """A version that is installed on an unwell site is in use, and the exit status says that something is wrong."""
    text = installed.config.read_text(encoding="utf-8").replace("hospital-site", "unwell")
    installed.config.write_text(text, encoding="utf-8")
    done = installed.run(first)
    assert (done.returncode, installed.current) == (1, "1.0.0")
    assert done.stderr.startswith("error DOCTOR_FAILED: 1.0.0 is installed")


def test_program_that_does_not_start(installed: Site, first: Path, tmp_path: Path) -> None:
    """A version whose program does not start is never switched to."""
    broken = wheelhouse.bundle(tmp_path / "broken", "1.5.0", "import nothing_of_this_name\ndef main(): pass\n")
    done = installed.run(broken)
    assert done.stderr.splitlines()[-1].startswith("error PROGRAM_BROKEN: ")
    assert installed.says("1.0.0")
    assert not (installed.opt / "1.5.0" / "bundle" / "COMPLETE").exists()


def test_wheel_exchanged_after_the_check(site: Site, copied: Path) -> None:
    """pip hashes what it reads, so that a list and its sums that were both changed do not make a wheel pass."""
    listed = copied / "requirements.txt"
    text = listed.read_text(encoding="utf-8")
    listed.write_text(text.replace("sha256:", "sha256:" + "0" * 64 + "\n#", 1).replace("\n#", "", 1)[: len(text)])
    wheelhouse.resum(copied)
    done = site.run(copied)
    assert done.stderr.splitlines()[-1].startswith("error PIP_FAILED: ")
    assert site.current == ""


def test_same_version_of_another_bundle(installed: Site, first: Path, tmp_path: Path) -> None:
    """Two bundles of one version are not mixed up: the second is refused, or has a label."""
    text = wheelhouse.PROGRAM + "# another\n"
    other = wheelhouse.bundle(tmp_path / "other", "1.0.0", text)
    labelled = wheelhouse.bundle(tmp_path / "labelled", "1.0.0", text, "--label", "cu130")
    before = installed.everything()
    assert installed.run(other).stderr.startswith("error VERSION_TAKEN: ")
    assert installed.everything() == before
    assert installed.run(labelled).returncode == 0
    assert (installed.current, installed.previous) == ("1.0.0+cu130", "1.0.0")


def test_folder_of_somebody(site: Site, first: Path) -> None:
    """A folder that has a version's name and was not made here is neither used nor removed."""
    foreign = site.opt / "1.0.0" / "theirs"
    foreign.parent.mkdir(parents=True)
    foreign.write_text("kept\n", encoding="utf-8")
    assert site.run(first).stderr.splitlines()[-1].startswith("error FOLDER_FOREIGN: ")
    assert foreign.read_text(encoding="utf-8") == "kept\n"


def test_one_at_a_time(site: Site, first: Path) -> None:
    """Two runs do not meet: the second says so and goes."""
    site.opt.mkdir(parents=True)
    with (site.opt / ".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        assert site.run(first).stderr.startswith("error BUSY: ")
    assert [path.name for path in site.opt.iterdir()] == [".lock"]


@pytest.mark.parametrize("moved", [False, True], ids=["usual place", "another place"])
def test_uninstall_keeps_data(installed: Site, first: Path, second: Path, *, moved: bool) -> None:
    """The programs go; data, configuration and what is not ours stay, and where the data are is said."""
    assert installed.run(second).returncode == 0
    data = installed.root / "srv" if moved else installed.data
    if moved:
        text = installed.config.read_text(encoding="utf-8")
        installed.config.write_text(text.replace(str(installed.data), str(data)), encoding="utf-8")
        shutil.move(installed.data, data)
        (installed.opt / "theirs").mkdir()
    (data / "log").write_text("an entry\n", encoding="utf-8")
    own = installed.opt / "current" / "bundle" / "install.sh"
    done = installed.bare(own, "--uninstall", "--root", str(installed.root))
    assert done.returncode == 0, done.stderr
    assert f"data, log and keys in {data};" in done.stdout
    assert (data / "log").read_text(encoding="utf-8") == "an entry\n"
    assert installed.config.exists()
    assert not (installed.root / "etc" / "systemd" / "system" / "zhiying.service").exists()
    assert [path.name for path in installed.opt.iterdir()] == ["theirs"] if moved else not installed.opt.exists()
    assert installed.run(first).returncode == 0
    assert installed.says("1.0.0")


@pytest.mark.parametrize("action", ["--rollback", "--uninstall"])
def test_nothing_installed(site: Site, first: Path, action: str) -> None:
    """Where nothing is installed there is nothing to go back to or to remove."""
    done = site.run(first, action)
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.startswith("error NOT_INSTALLED: ")
    assert list(site.root.iterdir()) == []
