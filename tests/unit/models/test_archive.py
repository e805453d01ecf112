"""Archives: nothing is written outside, nothing larger than announced, and damage is a coded refusal."""

import hashlib
import stat
import struct
import tempfile
import zipfile
from contextlib import suppress
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from models.archive import Member, take_all_from_zip, take_from_folder, take_from_zip
from models.errors import (
    SourceError,
    SourceIncomplete,
    SourceTooLarge,
    SourceUnsafe,
)
from models.limits import LIMITS, Limits
from models.ref import FileDigest

WEIGHTS = bytes(range(256)) * 8


def sha256(data: bytes) -> str:
    """The digest of `data` as cards write it."""
    return "sha256:" + hashlib.sha256(data).hexdigest()


def zip_of(members: dict[str, bytes], path: Path, mode: int = zipfile.ZIP_DEFLATED) -> Path:
    """A zip file of `members`."""
    with zipfile.ZipFile(path, "w", mode) as archive:
        for name, data in members.items():
            archive.writestr(name, data)
    return path


CLIMBING = [
    "../evil",
    "a/../../evil",
    "/evil",
    "a/./b",
    "..\\evil",
    "C:evil",
    "a//b",
    ".hidden",
    "a\n",
    "模型",
    "x" * 300,
]


@pytest.mark.parametrize("name", [name for name in CLIMBING if name != "/evil"] + ["/evil"])
def test_a_zip_cannot_write_outside(tmp_path: Path, name: str) -> None:
    """A zip of a complete model with one climbing or odd name is refused as a whole: nothing is written anywhere."""
    path = zip_of({"good": b"x", name: b"evil"}, tmp_path / "model.zip")
    into = tmp_path / "deep" / "into"
    into.mkdir(parents=True)
    before = sorted(tmp_path.rglob("*"))
    with pytest.raises(SourceUnsafe) as caught:
        take_all_from_zip(path, into, LIMITS)
    assert caught.value.code == "SOURCE_UNSAFE"
    assert sorted(tmp_path.rglob("*")) == before


@settings(deadline=None)
@given(st.text(max_size=12))
def test_no_name_leaves_the_folder(name: str) -> None:
    """Whatever a member is called, it is written inside the folder or refused."""
    with tempfile.TemporaryDirectory() as folder:
        scratch = Path(folder)
        path = scratch / "model.zip"
        into = scratch / "a" / "b"
        into.mkdir(parents=True)
        with zipfile.ZipFile(path, "w") as archive:
            info = zipfile.ZipInfo("x")
            info.filename = name
            with suppress(UnicodeEncodeError):
                archive.writestr(info, b"data")
        try:
            take_all_from_zip(path, into, LIMITS)
        except SourceError:
            assert not any(into.rglob("*"))
        written = [one for one in scratch.rglob("*") if one.is_file() and one != path]
        assert all(one.resolve().is_relative_to(into.resolve()) for one in written)


def special(name: str, mode: int, data: bytes) -> tuple[zipfile.ZipInfo, bytes]:
    """A member of another kind than a plain file."""
    info = zipfile.ZipInfo(name)
    info.create_system = 3
    info.external_attr = (mode | 0o644) << 16
    return info, data


@pytest.mark.parametrize("mode", [stat.S_IFLNK, stat.S_IFIFO, stat.S_IFCHR, stat.S_IFSOCK])
def test_links_and_devices_in_a_zip_are_refused(tmp_path: Path, mode: int) -> None:
    """Only plain files are taken."""
    path = tmp_path / "model.zip"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr(*special("link", mode, b"/etc/passwd"))
    member = Member("link", "link", FileDigest(11, sha256(b"/etc/passwd")))
    with pytest.raises(SourceUnsafe):
        take_all_from_zip(path, tmp_path, LIMITS)
    with pytest.raises(SourceUnsafe):
        take_from_zip(path, (member,), tmp_path, LIMITS)
    assert not (tmp_path / "link").exists()


def test_two_members_of_one_name_are_refused(tmp_path: Path) -> None:
    """Readers differ in which of two they take, so neither is taken."""
    path = tmp_path / "model.zip"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("a", b"one")
        with pytest.warns(UserWarning, match="Duplicate"):
            archive.writestr("a", b"two")
    with pytest.raises(SourceUnsafe):
        take_all_from_zip(path, tmp_path, LIMITS)
    with pytest.raises(SourceUnsafe):
        take_from_zip(path, (Member("a", "a", FileDigest(3, sha256(b"one"))),), tmp_path, LIMITS)


def test_a_member_larger_than_announced_is_refused(tmp_path: Path) -> None:
    """A member larger than the card says is not unpacked."""
    path = zip_of({"a": bytes(1_000_000)}, tmp_path / "model.zip")
    with pytest.raises(SourceTooLarge) as caught:
        take_from_zip(path, (Member("a", "a", FileDigest(10, sha256(b""))),), tmp_path / "into", LIMITS)
    assert caught.value.code == "SOURCE_TOO_LARGE"
    assert not (tmp_path / "into").exists()


def lying(path: Path, real: int, said: int) -> Path:
    """A zip whose headers say a smaller size than the data has: the classic bomb."""
    data = zip_of({"a": bytes(real)}, path).read_bytes()
    path.write_bytes(data.replace(struct.pack("<I", real), struct.pack("<I", said)))
    return path


def test_a_member_that_lies_about_its_size_is_refused(tmp_path: Path) -> None:
    """At most the announced size is ever written, whatever the archive holds."""
    path = lying(tmp_path / "bomb.zip", 50_000_000, 1_000)
    into = tmp_path / "into"
    into.mkdir()
    with pytest.raises(SourceError):
        take_all_from_zip(path, into, LIMITS)
    assert sum(one.stat().st_size for one in into.rglob("*")) <= 1_000


@pytest.mark.parametrize("limits", [Limits(member_bytes_max=99), Limits(total_bytes_max=150), Limits(files_max=1)])
def test_archives_beyond_the_limits_are_refused(tmp_path: Path, limits: Limits) -> None:
    """Too large a member, too large a whole, or too many members: nothing is unpacked."""
    path = zip_of({"a": bytes(100), "b": bytes(100)}, tmp_path / "model.zip")
    members = tuple(Member(name, name, FileDigest(100, sha256(bytes(100)))) for name in "ab")
    into = tmp_path / "into"
    for take in (
        lambda: take_all_from_zip(path, into, limits),
        lambda: take_from_zip(path, members, into, limits),
        lambda: take_from_folder(tmp_path, members, into, limits),
    ):
        with pytest.raises(SourceTooLarge):
            take()
    assert not into.exists()


def test_no_damage_to_a_zip_crashes_us(tmp_path: Path) -> None:
    """Whichever byte of a zip is changed, the answer is the right files or a coded refusal."""
    data = zip_of({"a": WEIGHTS, "b": b"x" * 100}, tmp_path / "good.zip").read_bytes()
    member = (Member("a", "a", FileDigest(len(WEIGHTS), sha256(WEIGHTS))),)
    for place in range(len(data)):
        bad = tmp_path / "bad.zip"
        bad.write_bytes(data[:place] + bytes([data[place] ^ 0xFF]) + data[place + 1 :])
        into = tmp_path / f"into{place}"
        try:
            take_from_zip(bad, member, into, LIMITS)
        except SourceError:
            continue
        assert (into / "a").read_bytes() == WEIGHTS


def test_links_in_a_folder_are_refused(tmp_path: Path) -> None:
    """A carried-in folder cannot point elsewhere, by a link to a file or to a folder."""
    (tmp_path / "secret").write_bytes(WEIGHTS)
    folder = tmp_path / "folder"
    folder.mkdir()
    (folder / "w").symlink_to(tmp_path / "secret")
    (folder / "d").symlink_to(tmp_path)
    for name in ("w", "d/secret"):
        with pytest.raises(SourceUnsafe):
            take_from_folder(folder, (Member(name, "w", FileDigest(len(WEIGHTS), sha256(WEIGHTS))),), tmp_path, LIMITS)
    with pytest.raises(SourceIncomplete):
        take_from_folder(folder, (Member("x", "x", FileDigest(0, sha256(b""))),), tmp_path, LIMITS)


def test_a_file_larger_than_announced_is_not_copied(tmp_path: Path) -> None:
    """At most the announced size is taken from a folder, too."""
    (tmp_path / "a").write_bytes(bytes(5_000_000))
    into = tmp_path / "into"
    with pytest.raises(SourceTooLarge):
        take_from_folder(tmp_path, (Member("a", "a", FileDigest(10, sha256(b""))),), into, LIMITS)
    assert sum(one.stat().st_size for one in into.rglob("*")) <= 10
