"""What install.sh refuses: one line with a code, and nothing was touched."""

import platform
import re
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.simulators import wheelhouse
from tests.unit.deploy.conftest import Site


def _append(name: str, text: str) -> Callable[[Path], None]:
    def damage(bundle: Path) -> None:
        with (bundle / name).open("a", encoding="utf-8") as file:
            file.write(text)

    return damage


def _remove(name: str) -> Callable[[Path], None]:
    return lambda bundle: (bundle / name).unlink()


def _add(name: str) -> Callable[[Path], None]:
    def damage(bundle: Path) -> None:
        (bundle / name).write_bytes(b"nobody packed this\n")

    return damage


def _flip(bundle: Path) -> None:
    path = bundle / "wheels" / wheelhouse.NEED
    content = bytearray(path.read_bytes())
    content[40] ^= 1
    path.write_bytes(content)


def _exchange(bundle: Path) -> None:
    one, other = bundle / "LICENSE", bundle / "requirements.txt"
    first, second = one.read_bytes(), other.read_bytes()
    one.write_bytes(second)
    other.write_bytes(first)


def _link(bundle: Path) -> None:
    path = bundle / "LICENSE"
    path.rename(bundle.parent / "elsewhere")
    path.symlink_to(bundle.parent / "elsewhere")


def _drop_fact(bundle: Path) -> None:
    path = bundle / "BUNDLE"
    path.write_text(re.sub(r"glibc=.*\n", "", path.read_text(encoding="utf-8")), encoding="utf-8")
    wheelhouse.resum(bundle)


ZEROS = "0" * 64
DAMAGES: dict[str, tuple[Callable[[Path], None], str, str]] = {
    "one bit": (_flip, "BUNDLE_CHANGED", wheelhouse.NEED),
    "two files exchanged": (_exchange, "BUNDLE_CHANGED", "LICENSE"),
    "the installer itself": (_append("install.sh", "\n"), "BUNDLE_CHANGED", "install.sh"),
    "a line that is no sum": (_append("SHA256SUMS", "# nothing\n"), "BUNDLE_CHANGED", "SHA256SUMS"),
    "a sum of what is outside": (_append("SHA256SUMS", f"{ZEROS}  wheels/../../x\n"), "BUNDLE_CHANGED", "SHA256SUMS"),
    "an option for a name": (_append("SHA256SUMS", f"{ZEROS}  -x\n"), "BUNDLE_CHANGED", "SHA256SUMS"),
    "a fact is missing": (_drop_fact, "BUNDLE_CHANGED", "glibc"),
    "no sums": (_remove("SHA256SUMS"), "BUNDLE_INCOMPLETE", "SHA256SUMS"),
    "no wheel": (_remove(f"wheels/{wheelhouse.NEED}"), "BUNDLE_INCOMPLETE", wheelhouse.NEED),
    "no licence": (_remove("LICENSE"), "BUNDLE_INCOMPLETE", "LICENSE"),
    "a wheel more": (_add("wheels/evil-1.0-py3-none-any.whl"), "BUNDLE_EXTRA", "evil-1.0"),
    "a hidden file": (_add(".hidden"), "BUNDLE_EXTRA", ".hidden"),
    "a name of two words": (_add("two words"), "BUNDLE_EXTRA", "two words"),
    "a link": (_link, "BUNDLE_EXTRA", "LICENSE"),
}


def _refused(site: Site, bundle: Path, code: str, *asked: str) -> str:
    """The one line with which it was refused; nothing else was said, and nothing was made."""
    done = site.run(bundle, *asked)
    assert done.returncode == 1
    assert done.stdout == ""
    assert re.fullmatch(rf"error {code}: [^\n]+\n", done.stderr), done.stderr
    assert list(site.root.iterdir()) == []
    return done.stderr


@pytest.mark.parametrize("damage", DAMAGES)
def test_damaged_bundle(site: Site, copied: Path, damage: str) -> None:
    """Any file changed, missing or added is refused by its name, before anything is touched."""
    do, code, named = DAMAGES[damage]
    do(copied)
    assert named in _refused(site, copied, code)


OTHER = "riscv64" if platform.machine() != "riscv64" else "x86_64"
MACHINES = {
    "another processor": ("uname", f'[ "$1" = -m ] && echo {OTHER} || echo Linux', "WRONG_PLATFORM", OTHER),
    "another system": ("uname", f'[ "$1" = -m ] && echo {platform.machine()} || echo Plan9', "WRONG_PLATFORM", "Plan9"),
    "an older glibc": ("getconf", "echo glibc 2.9", "WRONG_PLATFORM", "this is 2.9"),
    "another C library": ("getconf", "exit 1", "WRONG_PLATFORM", "another C library"),
    "a full disk": ("df", 'printf "Filesystem\\nx 9 9 3 9 /\\n"', "NO_SPACE", "0 MiB are free"),
}


@pytest.mark.parametrize("machine", MACHINES)
def test_unfit_machine(site: Site, first: Path, machine: str) -> None:
    """A machine on which the wheels would not run is refused for what it lacks."""
    command, script, code, named = MACHINES[machine]
    site.shim(command, script)
    assert named in _refused(site, first, code)


def test_newer_glibc_is_fit(site: Site, first: Path) -> None:
    """Versions are compared as versions: 2.100 is newer than 2.17."""
    site.shim("getconf", "echo glibc 2.100")
    assert site.run(first, "--check").returncode == 0


VERSION = f"{'.'.join(platform.python_version_tuple()[:2])}"
PYTHONS = {
    "too old": ("echo 3.10", "PYTHON_MISSING"),
    "too new": ("echo 3.99", "PYTHON_MISSING"),
    "broken": ("exit 1", "PYTHON_MISSING"),
    "without a part": (f"echo {VERSION}; echo PYTHON", "PYTHON_INCOMPLETE"),
    "without libstdc++": (f"echo {VERSION}; echo LIBRARY", "LIBRARY_MISSING"),
}


@pytest.mark.parametrize("python", PYTHONS)
def test_unfit_python(site: Site, first: Path, python: str) -> None:
    """An interpreter for which the wheels were not made is refused, before it makes anything."""
    script, code = PYTHONS[python]
    _refused(site, first, code, "--python", str(site.shim("own-python", script)))


CALLS: dict[str, tuple[tuple[str, ...], str]] = {
    "not root": ((), "NOT_ROOT"),
    "no such root": (("--root", "{root}/missing"), "ROOT_MISSING"),
    "a root that a file cannot name": (("--root", "{root}/a b"), "ROOT_INVALID"),
    "an unknown word": (("--root", "{root}", "--force"), "USAGE"),
    "two things at once": (("--root", "{root}", "--rollback", "--uninstall"), "USAGE"),
    "a start in a trial": (("--root", "{root}", "--start"), "USAGE"),
    "no folder": (("--root", ""), "USAGE"),
}


@pytest.mark.parametrize("call", CALLS)
def test_wrong_call(site: Site, copied: Path, call: str) -> None:
    """A call that is not understood does nothing; without root only a trial is possible."""
    asked, code = CALLS[call]
    # This bundle could not be installed, even if one of these calls were let through.
    (copied / "SHA256SUMS").unlink()
    site.shim("id", "echo 1000")
    (site.root / "a b").mkdir()
    done = site.bare(copied / "install.sh", *(one.format(root=site.root) for one in asked))
    assert (done.returncode, done.stdout) == (1, "")
    assert re.fullmatch(rf"error {code}: [^\n]+\n", done.stderr), done.stderr
    assert [path.name for path in site.root.rglob("*")] == ["a b"]
