"""The library: a model is exactly what was installed, or it is refused by the name of the file."""

import json
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from models.archive import digest_of_file
from models.errors import (
    ManifestError,
    ModelAmbiguous,
    ModelChanged,
    ModelNotFound,
)
from models.library import Broken, Installed, Library, parse_listing
from models.ref import FileDigest, ModelRef, digest_of, listing
from tests.simulators.small_model import stage

FILES = ["configs/inference.json", "configs/metadata.json", "manifest.json", "models/model.pt"]


@pytest.fixture
def library(tmp_path: Path) -> Library:
    """An empty library."""
    return Library(tmp_path / "library")


@pytest.fixture
def installed(library: Library, tmp_path: Path) -> ModelRef:
    """A small model in it."""
    return library.install(stage(tmp_path / "staged"))


@contextmanager
def writable(path: Path) -> Iterator[Path]:
    """What somebody with rights can do to an installed file."""
    path.chmod(0o640)
    yield path
    path.chmod(0o440)


def refused(library: Library, ref: ModelRef) -> ModelChanged:
    """The refusal that opening must raise."""
    with pytest.raises(ModelChanged) as caught:
        library.open(ref)
    assert caught.value.code == "MODEL_FILE_CHANGED"
    assert caught.value.file in str(caught.value)
    return caught.value


def folder(library: Library, ref: ModelRef) -> Path:
    """Where the model lies."""
    return library.open(ref).path


def test_an_installed_model_opens(library: Library, installed: ModelRef, tmp_path: Path) -> None:
    """What was staged can be opened under its ref, file by file, and the staged folder is no longer needed."""
    staged = {name: (tmp_path / "staged" / name).read_bytes() for name in FILES}
    shutil.rmtree(tmp_path / "staged")
    model = library.open(installed)
    assert sorted(model.files) == FILES
    assert {name: path.read_bytes() for name, path in model.files.items()} == staged
    assert (model.ref, model.manifest.name) == (installed, "small-model")
    assert (installed.name, installed.version) == ("small-model", "1.0")


def test_the_digest_is_that_of_every_file(installed: ModelRef, tmp_path: Path) -> None:
    """The ref's digest can be computed by anybody from the files."""
    assert installed.digest == digest_of({name: digest_of_file(tmp_path / "staged" / name) for name in FILES})


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None, max_examples=60)
@given(name=st.sampled_from([*FILES, "files.json"]), place=st.integers(min_value=0), bit=st.integers(0, 7))
def test_any_one_changed_bit_is_refused(library: Library, installed: ModelRef, name: str, place: int, bit: int) -> None:
    """Whichever bit of whichever file is flipped, the model is refused by that file's name; undone, it opens."""
    path = library._root / installed.name / installed.version / name
    data = path.read_bytes()
    changed = bytearray(data)
    changed[place % len(data)] ^= 1 << bit
    with writable(path):
        path.write_bytes(changed)
    wrong = refused(library, installed)
    assert (wrong.file, wrong.how) == (name, "changed")
    with writable(path):
        path.write_bytes(data)
    library.open(installed)


@pytest.mark.parametrize("name", [*FILES, "files.json"])
def test_every_byte_of_a_small_file_counts(library: Library, installed: ModelRef, name: str) -> None:
    """Each single byte, tried one after the other over the first and last hundred, is refused."""
    path = folder(library, installed) / name
    data = path.read_bytes()
    for place in {*range(min(100, len(data))), *range(max(0, len(data) - 100), len(data))}:
        with writable(path):
            path.write_bytes(data[:place] + bytes([data[place] ^ 0x20]) + data[place + 1 :])
        assert refused(library, installed).file == name


@pytest.mark.parametrize("name", [*FILES, "files.json"])
@pytest.mark.parametrize("how", ["shorter", "longer", "empty", "missing", "a link", "a folder"])
def test_every_other_damage_is_refused(library: Library, installed: ModelRef, name: str, how: str) -> None:
    """A file that is cut, grown, emptied, gone, or replaced by a link or a folder is refused by its name."""
    path = folder(library, installed) / name
    data = path.read_bytes()
    path.unlink()
    if how == "shorter":
        path.write_bytes(data[:-1])
    elif how == "longer":
        path.write_bytes(data + b"\0")
    elif how == "empty":
        path.write_bytes(b"")
    elif how == "a link":
        (path.parents[3] / "elsewhere").write_bytes(data)
        path.symlink_to(path.parents[3] / "elsewhere")
    elif how == "a folder":
        path.mkdir()
    wrong = refused(library, installed)
    assert wrong.file == name
    assert wrong.how == ("missing" if how == "missing" or (how == "a folder" and name != "files.json") else "changed")


@pytest.mark.parametrize(
    "name", ["extra.py", "configs/extra.json", "models/.hidden", "deep/er/file", "models/Model.pt"]
)
def test_an_extra_file_is_refused(library: Library, installed: ModelRef, name: str) -> None:
    """A file that was not installed is refused by its name, wherever it lies."""
    path = folder(library, installed) / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(b"")
    wrong = refused(library, installed)
    assert (wrong.file, wrong.how) == (name, "extra")


@pytest.mark.parametrize("target", ["/tmp", "nowhere"])
def test_an_extra_link_is_refused(library: Library, installed: ModelRef, target: str) -> None:
    """A link to a folder or to nothing is an extra file, and not followed."""
    (folder(library, installed) / "link").symlink_to(target)
    assert refused(library, installed).file == "link"


def test_a_swapped_listing_is_refused(library: Library, installed: ModelRef) -> None:
    """Changing a file and the listing along with it does not help: the digest is in the ref."""
    path = folder(library, installed)
    weights = path / "models" / "model.pt"
    with writable(weights):
        weights.write_bytes(b"other")
    files = parse_listing((path / "files.json").read_bytes())
    with writable(path / "files.json"):
        (path / "files.json").write_bytes(listing(files | {"models/model.pt": digest_of_file(weights)}))
    assert refused(library, installed).file == "files.json"


def test_another_digest_is_another_model(library: Library, installed: ModelRef) -> None:
    """A ref with another digest does not open what is installed under its name."""
    other = ModelRef(installed.name, installed.version, "sha256:" + "00" * 32)
    assert refused(library, other).file == "files.json"


def test_what_is_not_installed_is_not_found(library: Library, installed: ModelRef) -> None:
    """Another name or version is not found; nothing is taken in its place."""
    for name, version in (("other", "1.0"), ("small-model", "2.0")):
        with pytest.raises(ModelNotFound) as caught:
            library.open(ModelRef(name, version, installed.digest))
        assert caught.value.code == "MODEL_NOT_FOUND"
        with pytest.raises(ModelNotFound):
            library.find(name, version)


def test_an_empty_library_lists_nothing(library: Library) -> None:
    """A library that was never written to is empty, not broken."""
    assert library.list() == ()


def test_the_list_shows_what_is_installed(library: Library, installed: ModelRef) -> None:
    """A model in order is listed with its manifest."""
    (one,) = library.list()
    assert isinstance(one, Installed)
    assert (one.ref, one.manifest.version) == (installed, "1.0")


@pytest.mark.parametrize("name", ["files.json", "manifest.json"])
def test_the_list_shows_what_is_broken(library: Library, installed: ModelRef, name: str) -> None:
    """A folder that is no model is shown with the file at fault, and never found."""
    path = folder(library, installed) / name
    with writable(path):
        path.write_bytes(b"{}")
    (one,) = library.list()
    assert isinstance(one, Broken)
    assert (one.name, one.version) == ("small-model", "1.0")
    assert name in one.why
    with pytest.raises(ModelNotFound):
        library.find("small-model")


def test_find_does_not_guess(library: Library, installed: ModelRef, tmp_path: Path) -> None:
    """One version is found by its name alone; of several, one must be named."""
    assert library.find("small-model") == installed
    second = library.install(stage(tmp_path / "second", version="1.1"))
    with pytest.raises(ModelAmbiguous) as caught:
        library.find("small-model")
    assert caught.value.code == "MODEL_AMBIGUOUS"
    assert library.find("small-model", "1.1") == second


def test_a_model_in_the_wrong_folder_is_not_that_model(library: Library, installed: ModelRef) -> None:
    """A model that is moved under another name is broken there."""
    path = folder(library, installed)
    path.rename(path.parent / "9.9")
    (one,) = library.list()
    assert isinstance(one, Broken)
    with pytest.raises(ManifestError):
        library.open(ModelRef("small-model", "9.9", installed.digest))


def test_installed_files_are_read_only(library: Library, installed: ModelRef) -> None:
    """Nobody has write permission on an installed file."""
    for path in library.open(installed).files.values():
        assert path.stat().st_mode & 0o222 == 0


@pytest.mark.parametrize(
    "text",
    [
        "{}", "[]", '{"files":{},"schema":"zhiying.files/2"}', '{"files":[],"schema":"zhiying.files/1"}',
        '{"files":{"a":{"sha256":"x","size":1}},"schema":"zhiying.files/1"}',
        '{"files":{"../a":{"sha256":"sha256:' + "0" * 64 + '","size":1}},"schema":"zhiying.files/1"}',
        '{"files":{"a":{"sha256":"sha256:' + "0" * 64 + '","size":-1}},"schema":"zhiying.files/1"}',
        '{"files":{"a":{"sha256":"sha256:' + "0" * 64 + '","size":1,"x":1}},"schema":"zhiying.files/1"}',
        '{"schema":"zhiying.files/1","files":{}}', '{"files": {},"schema":"zhiying.files/1"}',
    ],
)  # fmt: skip
def test_a_listing_has_one_form(text: str) -> None:
    """A listing that is not canonical, or holds anything odd, is a changed listing."""
    with pytest.raises(ModelChanged):
        parse_listing(text.encode())


def test_a_listing_reads_back() -> None:
    """What `listing` writes, `parse_listing` reads."""
    files = {"a": FileDigest(1, "sha256:" + "0" * 64), "b/c": FileDigest(2, "sha256:" + "1" * 64)}
    assert parse_listing(listing(files)) == files
    assert json.loads(listing(files))["schema"] == "zhiying.files/1"
