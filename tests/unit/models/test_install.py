"""Installing: whole and durable, or not at all."""

import errno
import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from models.errors import (
    LibraryUnavailable,
    ManifestError,
    ModelChanged,
    ModelExists,
    ModelNotFound,
    ModelUnfit,
)
from models.library import Broken, Installed, Library
from models.limits import Limits
from models.ref import ModelRef
from tests.simulators.small_model import as_json, manifest_fields, stage

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


def folder(library: Library, ref: ModelRef) -> Path:
    """Where the model lies."""
    return library.open(ref).path


def test_installing_again_changes_nothing(library: Library, installed: ModelRef, tmp_path: Path) -> None:
    """The same bytes give the same ref, and are not written again."""
    before = (folder(library, installed) / "models" / "model.pt").stat()
    assert library.install(tmp_path / "staged") == installed
    after = (folder(library, installed) / "models" / "model.pt").stat()
    assert (after.st_ino, after.st_mtime_ns) == (before.st_ino, before.st_mtime_ns)


def test_other_bytes_want_another_version(library: Library, installed: ModelRef, tmp_path: Path) -> None:
    """Other bytes under an installed name and version are refused, and what is installed stays."""
    (tmp_path / "staged" / "models" / "model.pt").write_bytes(b"other")
    with pytest.raises(ModelExists) as caught:
        library.install(tmp_path / "staged")
    assert caught.value.code == "MODEL_EXISTS"
    library.open(installed)


def test_installing_over_a_damaged_copy_is_refused(library: Library, installed: ModelRef, tmp_path: Path) -> None:
    """Installing the same bytes again does not paper over a change: it is told."""
    path = folder(library, installed) / "models" / "model.pt"
    with writable(path):
        path.write_bytes(bytes(path.stat().st_size))
    with pytest.raises(ModelChanged):
        library.install(tmp_path / "staged")


class Crash(BaseException):
    """The process dies: nothing catches this."""


class DyingPath(type(Path())):  # type: ignore[misc]
    """A staged folder whose n-th opened file kills the process."""

    left = 0

    def open(self, *args: object, **kwargs: object) -> object:
        """Die at the right moment."""
        type(self).left -= 1
        if type(self).left < 0:
            raise Crash
        return super().open(*args, **kwargs)


@pytest.mark.parametrize("step", range(len(FILES)))
def test_a_crash_leaves_nothing_that_could_be_used(library: Library, tmp_path: Path, step: int) -> None:
    """Dying at any file of an installation leaves no model; the next installation succeeds and is whole."""
    staged = stage(tmp_path / "staged")
    DyingPath.left = step
    with pytest.raises(Crash):
        library.install(DyingPath(staged))
    assert not [one for one in library.list() if isinstance(one, Installed)]
    with pytest.raises(ModelNotFound):
        library.find("small-model")
    ref = library.install(staged)
    assert sorted(library.open(ref).files) == FILES


def test_leftovers_of_a_crash_do_not_get_into_a_model(library: Library, tmp_path: Path) -> None:
    """Files of a broken-off installation, temporary ones too, are swept before the next."""
    staged = stage(tmp_path / "staged")
    left = library._root / "small-model" / "1.0"
    (left / "configs").mkdir(parents=True)
    (left / "configs" / "old.json").write_bytes(b"old")
    (left / ".manifest.json.tmp").write_bytes(b"half")
    (one,) = library.list()
    assert isinstance(one, Broken)
    ref = library.install(staged)
    assert sorted(library.open(ref).files) == FILES


def test_a_full_disk_is_told(tmp_path: Path) -> None:
    """What the disk refuses is an error of the site with its code, not a traceback."""
    blocked = tmp_path / "library"
    blocked.write_bytes(b"a file where the folder should be")
    with pytest.raises(LibraryUnavailable) as caught:
        Library(blocked).install(stage(tmp_path / "staged"))
    assert caught.value.code == "LIBRARY_UNAVAILABLE"
    assert os.strerror(errno.ENOTDIR) in str(caught.value) or os.strerror(errno.EEXIST) in str(caught.value)


def test_two_installations_at_once_are_one(library: Library, tmp_path: Path) -> None:
    """Several processes that install the same model get the same ref, and the model is whole."""
    staged = stage(tmp_path / "staged")
    refs: list[ModelRef] = []
    threads = [threading.Thread(target=lambda: refs.append(Library(library._root).install(staged))) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(refs) == 6
    assert len(set(refs)) == 1
    library.open(refs[0])


@pytest.mark.parametrize("missing", ["manifest.json", "configs/inference.json", "configs/metadata.json"])
def test_an_incomplete_model_is_not_installed(library: Library, tmp_path: Path, missing: str) -> None:
    """A model without its manifest, or without what the manifest names, is refused by the name of the file."""
    staged = stage(tmp_path / "staged")
    (staged / missing).unlink()
    with pytest.raises(ModelUnfit) as caught:
        library.install(staged)
    assert caught.value.code == "MODEL_UNFIT"
    assert missing in str(caught.value)
    assert library.list() == ()


def test_a_wrong_manifest_is_not_installed(library: Library, tmp_path: Path) -> None:
    """A manifest that does not parse keeps the model out."""
    staged = stage(tmp_path / "staged")
    (staged / "manifest.json").write_bytes(as_json(manifest_fields(extra=1)))
    with pytest.raises(ManifestError):
        library.install(staged)
    assert library.list() == ()


def test_links_and_odd_names_are_not_installed(library: Library, tmp_path: Path) -> None:
    """Links, to files or folders, pipes, and names that another system reads otherwise, keep a model out."""
    for number, spoil in enumerate(
        (
            lambda here: (here / "link").symlink_to("manifest.json"),
            lambda here: (here / "link").symlink_to("models"),
            lambda here: os.mkfifo(here / "pipe"),
            lambda here: (here / ".hidden").write_bytes(b""),
            lambda here: (here / "a b").write_bytes(b""),
            lambda here: (here / "模型").write_bytes(b""),
        )
    ):
        staged = stage(tmp_path / f"staged{number}")
        spoil(staged)
        with pytest.raises(ModelUnfit):
            library.install(staged)
    with pytest.raises(ModelUnfit):
        library.install(tmp_path / "nowhere")
    assert library.list() == ()


@pytest.mark.parametrize("limits", [Limits(member_bytes_max=1023), Limits(total_bytes_max=1500), Limits(files_max=3)])
def test_a_model_beyond_the_limits_is_not_installed(tmp_path: Path, limits: Limits) -> None:
    """Too large a file, too large a whole and too many files are refused before anything is copied."""
    library = Library(tmp_path / "library", limits=limits)
    with pytest.raises(ModelUnfit):
        library.install(stage(tmp_path / "staged"))
    assert library.list() == ()


class ShiftyPath(type(Path())):  # type: ignore[misc]
    """A staged folder whose manifest turns into another one after it was read once."""

    reads = 0

    def open(self, *args: object, **kwargs: object) -> object:
        """Change the manifest before its second reading."""
        if self.name == "manifest.json":
            type(self).reads += 1
            if type(self).reads == 2:
                Path(self).write_bytes(as_json(manifest_fields(max_autonomy="A4", name="other-model")))
        return super().open(*args, **kwargs)


def test_a_manifest_that_changes_meanwhile_is_not_installed(library: Library, tmp_path: Path) -> None:
    """What was checked must be what is installed, though somebody writes to the staged folder at the same time."""
    staged = stage(tmp_path / "staged")
    ShiftyPath.reads = 0
    with pytest.raises(ManifestError):
        library.install(ShiftyPath(staged))
    assert ShiftyPath.reads == 2
    assert not [one for one in library.list() if isinstance(one, Installed)]
