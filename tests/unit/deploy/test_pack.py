"""pack.py: what is in a bundle, that it says so, and that the same members give the same bytes."""

import hashlib
import json
import re
import tarfile
from pathlib import Path

import pytest

from tests.simulators import wheelhouse


@pytest.fixture
def stage(tmp_path: Path) -> Path:
    """A folder to be packed."""
    return wheelhouse.staged(tmp_path / "stage", "1.0.0")


def _packed(stage: Path, out: Path, *more: str) -> Path:
    done = wheelhouse.pack(stage, out, *more)
    assert done.returncode == 0, done.stderr
    return Path(done.stdout.strip())


def _refused(stage: Path, out: Path, code: str) -> str:
    done = wheelhouse.pack(stage, out)
    assert done.returncode == 1
    assert re.fullmatch(rf"error {code}: [^\n]+\n", done.stderr), done.stderr
    assert not list(out.glob("*.tar"))
    return done.stderr


def test_sums_of_every_member(stage: Path, tmp_path: Path) -> None:
    """SHA256SUMS has each member of the tar but itself, with its own digest, and comes first."""
    tar = _packed(stage, tmp_path)
    with tarfile.open(tar) as archive:
        content = {member.name: archive.extractfile(member) for member in archive.getmembers()}
        digests = {
            name.split("/", 1)[1]: hashlib.sha256(file.read()).hexdigest() for name, file in content.items() if file
        }
        assert {name.split("/")[0] for name in content} == {tar.name.removesuffix(".tar")}
        modes = {member.name.split("/", 1)[1]: member.mode for member in archive.getmembers()}
    assert list(digests) == ["SHA256SUMS", *sorted(set(digests) - {"SHA256SUMS"})]
    lines = (stage / "SHA256SUMS").read_text(encoding="utf-8").splitlines()
    assert {line[66:]: line[:64] for line in lines} == {k: v for k, v in digests.items() if k != "SHA256SUMS"}
    assert {name for name, mode in modes.items() if mode == 0o755} == {"install.sh"}


def test_same_members_same_bytes(stage: Path, tmp_path: Path) -> None:
    """Order on the disk, times, owners and modes do not change the bundle; a bit of a member does."""
    first = _packed(stage, tmp_path).read_bytes()
    other = tmp_path / "other"
    for path in sorted((p for p in stage.rglob("*") if p.is_file()), reverse=True):
        copy = other / path.relative_to(stage)
        copy.parent.mkdir(parents=True, exist_ok=True)
        copy.write_bytes(path.read_bytes())
        copy.chmod(0o600)
    (tmp_path / "out").mkdir()
    assert _packed(other, tmp_path / "out").read_bytes() == first
    assert _packed(other, tmp_path / "out", "--seconds", "1").read_bytes() != first


def test_facts(stage: Path, tmp_path: Path) -> None:
    """BUNDLE names the oldest glibc on which every wheel runs, and room for what the wheels become."""
    plain = "old-1-py3-none-manylinux1_x86_64.whl"
    both = "two-1-py3-none-manylinux_2_27_x86_64.manylinux_2_34_x86_64.whl"
    for name in (plain, both):
        wheelhouse.write_wheel(stage / "wheels" / name, {"large.txt": "x" * 1_000_000})
    _packed(stage, tmp_path, "--own", plain, "--own", both, "--label", "own.1")
    facts = dict(line.split("=") for line in (stage / "BUNDLE").read_text(encoding="utf-8").splitlines())
    assert (facts["name"], facts["version"], facts["commit"]) == ("zhiying", "1.0.0+own.1", "c0ffee")
    assert facts["glibc"] == "2.27"
    assert facts["torch"] == "none"
    assert int(facts["kilobytes"]) > 2_000_000 / 1024


def test_requirements_have_hashes(stage: Path, tmp_path: Path) -> None:
    """Each wheel but pip is required by version and digest, so that pip takes this file or none."""
    _packed(stage, tmp_path)
    digest = hashlib.sha256((stage / "wheels" / wheelhouse.NEED).read_bytes()).hexdigest()
    lines = (stage / "requirements.txt").read_text(encoding="utf-8").splitlines()
    assert lines[0] == f"tiny-need==0.5 --hash=sha256:{digest}"
    assert [line.split("==")[0] for line in lines] == ["tiny-need", "zhiying"]


def test_sbom(stage: Path, tmp_path: Path) -> None:
    """The SBOM names each wheel with version, digest and the licence of its METADATA, and the weights as a model."""
    long = wheelhouse.write_wheel(stage / "wheels" / "long_text-1-py3-none-any.whl", {}, "License: " + "x" * 200)
    _packed(stage, tmp_path, "--own", long.name)
    document = json.loads((stage / "sbom.cdx.json").read_text(encoding="utf-8"))
    assert (document["bomFormat"], document["specVersion"]) == ("CycloneDX", "1.5")
    product = document["metadata"]["component"]
    assert (product["name"], product["version"], product["type"]) == ("zhiying", "1.0.0", "application")
    assert product["licenses"] == [{"expression": "Apache-2.0"}]
    parts = {one["name"]: one for one in document["components"]}
    assert set(parts) == {"pip", "tiny-need", "tiny-weights", "long-text"}
    assert parts["tiny-need"]["licenses"] == [{"license": {"name": "MIT License"}}]
    assert parts["tiny-need"]["purl"] == "pkg:pypi/tiny-need@0.5"
    digest = hashlib.sha256((stage / "weights" / "tiny_weights-3.1-py3-none-any.whl").read_bytes()).hexdigest()
    assert parts["tiny-weights"]["hashes"] == [{"alg": "SHA-256", "content": digest}]
    assert parts["tiny-weights"]["type"] == "machine-learning-model"
    assert parts["tiny-weights"]["licenses"] == [{"license": {"name": "BSD License"}}]
    assert "licenses" not in parts["long-text"]


def test_wheels_are_pinned(stage: Path, tmp_path: Path) -> None:
    """A wheel of another version than constraints.txt pins, or of none, is refused; a local build of it is not."""
    (stage / "wheels" / wheelhouse.NEED).rename(tmp_path / "kept.whl")
    other = wheelhouse.write_wheel(stage / "wheels" / "tiny_need-0.6-py3-none-any.whl", {})
    assert "pins 0.5" in _refused(stage, tmp_path, "WHEEL_UNPINNED")
    other.unlink()
    wheelhouse.write_wheel(stage / "wheels" / "tiny_need-0.5+cpu-py3-none-any.whl", {})
    _packed(stage, tmp_path).unlink()
    wheelhouse.write_wheel(stage / "wheels" / "unheard_of-1-py3-none-any.whl", {})
    assert "unheard_of" in _refused(stage, tmp_path, "WHEEL_UNPINNED")


def test_what_is_no_bundle(stage: Path, tmp_path: Path) -> None:
    """A file that is no wheel, one package twice, a missing program and a link are refused by name."""
    bad = stage / "wheels" / "bad-1-py3-none-any.whl"
    bad.write_text("no wheel\n", encoding="utf-8")
    assert bad.name in _refused(stage, tmp_path, "WHEEL_INVALID")
    bad.unlink()
    twice = wheelhouse.write_wheel(stage / "wheels" / "Tiny.Need-0.4-py3-none-any.whl", {})
    assert twice.name in _refused(stage, tmp_path, "WHEEL_TWICE")
    twice.unlink()
    link = stage / "LINK"
    link.symlink_to("LICENSE")
    assert "LINK" in _refused(stage, tmp_path, "MEMBER_INVALID")
    link.unlink()
    (stage / "wheels" / f"pip-{wheelhouse.PIP}-py3-none-any.whl").unlink()
    _refused(stage, tmp_path, "WHEEL_MISSING")


@pytest.mark.parametrize("label", ["Cu130", "a b", "a..b", "../x"])
def test_labels(stage: Path, tmp_path: Path, label: str) -> None:
    """A label is part of a version and of a folder's name, and nothing else."""
    assert wheelhouse.pack(stage, tmp_path, "--label", label).returncode == 2
    assert not list(tmp_path.glob("*.tar"))
