"""The installed models, on disk: <root>/<name>/<version>/{files.json, manifest.json, configs/..., models/...}.

files.json is the canonical listing of every other file, and its own SHA-256 is the model's digest. It is written last:
a folder without it is no model, so that a crash at any moment of an installation leaves nothing that could be used.
`open` hashes every file again before it hands out a path; a model that differs in one byte is refused, never repaired.
"""

import fcntl
import hashlib
import os
import shutil
import stat
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Final

from audit import durable
from audit.errors import ContentDiffers
from models.errors import (
    LibraryUnavailable,
    ManifestError,
    ModelAmbiguous,
    ModelChanged,
    ModelError,
    ModelExists,
    ModelNotFound,
    ModelUnfit,
    RefInvalid,
)
from models.limits import LIMITS, Limits
from models.manifest import MANIFEST_NAME, Manifest, parse_manifest
from models.ref import LISTING_SCHEMA, FileDigest, ModelRef, digest_of, is_member_path, listing
from models.strict import DOCUMENT_BYTES_MAX, Fields, Malformed, parse_json

LISTING_NAME: Final = "files.json"
INSTALLED_MODE: Final = 0o440
"""Nobody has a reason to write to an installed model."""
CHUNK_BYTES: Final = 1 << 20

_LOCK_NAME: Final = ".lock"


@dataclass(frozen=True, slots=True)
class Installed:
    """A model whose listing and manifest are in order. Its files are not hashed: that is `Library.open`."""

    ref: ModelRef
    path: Path
    manifest: Manifest


@dataclass(frozen=True, slots=True)
class Broken:
    """A folder that is no usable model. `why` is one line that names the file."""

    name: str
    version: str
    why: str


@dataclass(frozen=True, slots=True)
class VerifiedModel:
    """A model whose every file was just hashed and found as listed. `files`: paths on disk by path in the model."""

    ref: ModelRef
    manifest: Manifest
    path: Path
    files: Mapping[str, Path]


class Library:
    """The models under `root`. Safe to share between threads and processes; installations take turns by a lock file.

    Methods raise LibraryUnavailable when the disk refuses.
    """

    def __init__(self, root: Path, *, limits: Limits = LIMITS) -> None:
        self._root = root
        self._limits = limits

    def list(self) -> tuple[Installed | Broken, ...]:
        """Every model, and every folder that should be one, by name and version."""
        with _disk("list the models"):
            return tuple(
                self._look(name.name, version.name) for name in _folders(self._root) for version in _folders(name)
            )

    def find(self, name: str, version: str | None = None) -> ModelRef:
        """The ref of an installed model. Raises ModelNotFound; ModelAmbiguous for several versions and none named."""
        found = [
            one.ref
            for one in self.list()
            if isinstance(one, Installed) and one.ref.name == name and version in (None, one.ref.version)
        ]
        if not found:
            raise ModelNotFound("no such model is installed; see `zhiying models list`")
        if len(found) > 1:
            raise ModelAmbiguous("several versions are installed: name one")
        return found[0]

    def open(self, ref: ModelRef) -> VerifiedModel:
        """The model, every file hashed. Raises ModelChanged (names the file), ModelNotFound, ManifestError."""
        path = self._folder(ref.name, ref.version)
        with _disk("read the model"):
            if not path.is_dir():
                raise ModelNotFound("no such model is installed; see `zhiying models list`")
            data = _read_small(path, LISTING_NAME)
            if "sha256:" + hashlib.sha256(data).hexdigest() != ref.digest:
                raise ModelChanged(LISTING_NAME, "changed")
            listed = parse_listing(data)
            present = set(_walk(path)) - {LISTING_NAME}
            for extra in sorted(present - listed.keys()):
                raise ModelChanged(extra, "extra")
            for name, wanted in sorted(listed.items()):
                if name not in present:
                    raise ModelChanged(name, "missing")
                if _hash_plain(path / name, name, wanted.size) != wanted:
                    raise ModelChanged(name, "changed")
            manifest = self._manifest(path, listed, ref.name, ref.version)
        return VerifiedModel(ref, manifest, path, MappingProxyType({name: path / name for name in listed}))

    def install(self, staged: Path) -> ModelRef:
        """Copy the folder `staged` in as a model; durable and visible at once when it returns, or not at all.

        The same bytes again give the same ref. Raises ModelExists for other bytes under a name and version that is
        taken, ModelUnfit, ManifestError, ModelChanged if the installed copy of the same bytes is damaged.
        """
        with _disk("install the model"):
            names = self._fit(staged)
            manifest = parse_manifest(_read_small(staged, MANIFEST_NAME))
            for wanted in (manifest.bundle.inference, manifest.bundle.metadata):
                if wanted not in names:
                    raise ModelUnfit(f"{wanted}: named by the manifest, but missing")
            durable.make_dirs(self._root)
            with self._lock():
                return self._install_locked(staged, names, manifest)

    def _install_locked(self, staged: Path, names: tuple[str, ...], manifest: Manifest) -> ModelRef:
        folder = self._folder(manifest.name, manifest.version)
        if (folder / LISTING_NAME).exists():
            files = {name: _hash_plain(staged / name, name, None) for name in names}
            ref = ModelRef(manifest.name, manifest.version, digest_of(files))
            if _read_small(folder, LISTING_NAME) != listing(files):
                raise ModelExists("other files are installed under this name and version; a change needs a new version")
            return self.open(ref).ref
        if folder.exists():
            # Left by a crash: without a listing it was never a model, and nobody can hold a ref to it.
            shutil.rmtree(folder)
        durable.make_dirs(folder)
        files = {}
        for name in names:
            durable.make_dirs((folder / name).parent)
            files[name] = _copy(staged / name, folder / name)
        # What was parsed must be what was copied: `staged` is not ours, and could have changed meanwhile.
        self._manifest(folder, files, manifest.name, manifest.version)
        # The commit point. A crash before this line leaves a folder that is no model; after it, the whole model.
        durable.create(folder / LISTING_NAME, listing(files), mode=INSTALLED_MODE)
        return ModelRef(manifest.name, manifest.version, digest_of(files))

    def _fit(self, staged: Path) -> tuple[str, ...]:
        if not staged.is_dir():
            raise ModelUnfit("the model to install is not a folder")
        names = tuple(sorted(name for name in _walk(staged) if name != LISTING_NAME))
        if MANIFEST_NAME not in names:
            raise ModelUnfit(f"{MANIFEST_NAME}: missing")
        if len(names) > self._limits.files_max:
            raise ModelUnfit(f"more than {self._limits.files_max} files")
        total = 0
        for name in names:
            if not is_member_path(name):
                raise ModelUnfit("a file's name is not of plain ASCII parts")
            status = (staged / name).lstat()
            if not stat.S_ISREG(status.st_mode):
                raise ModelUnfit(f"{name}: not a plain file")
            total += status.st_size
            if status.st_size > self._limits.member_bytes_max or total > self._limits.total_bytes_max:
                raise ModelUnfit(f"{name}: too large")
        return names

    def _look(self, name: str, version: str) -> Installed | Broken:
        path = self._root / name / version
        try:
            data = _read_small(path, LISTING_NAME)
            ref = ModelRef(name, version, "sha256:" + hashlib.sha256(data).hexdigest())
            return Installed(ref, path, self._manifest(path, parse_listing(data), name, version))
        except ModelError as wrong:
            return Broken(name, version, str(wrong))

    def _manifest(self, path: Path, files: Mapping[str, FileDigest], name: str, version: str) -> Manifest:
        if MANIFEST_NAME not in files:
            raise ModelChanged(MANIFEST_NAME, "missing")
        data = _read_small(path, MANIFEST_NAME)
        if FileDigest(len(data), "sha256:" + hashlib.sha256(data).hexdigest()) != files[MANIFEST_NAME]:
            raise ModelChanged(MANIFEST_NAME, "changed")
        manifest = parse_manifest(data)
        if (manifest.name, manifest.version) != (name, version):
            raise ManifestError("name", "the folder is of another name or version")
        return manifest

    def _folder(self, name: str, version: str) -> Path:
        return self._root / name / version

    @contextmanager
    def _lock(self) -> Iterator[None]:
        with (self._root / _LOCK_NAME).open("ab") as handle:
            fcntl.flock(handle, fcntl.LOCK_EX)
            yield


def parse_listing(data: bytes) -> dict[str, FileDigest]:
    """The files of a files.json by path. Raises ModelChanged naming files.json unless it is canonical to the byte."""
    try:
        top = Fields(parse_json(data), "", ("schema", "files"))
        top.choice("schema", (LISTING_SCHEMA,))
        value = top.value("files")
        names = tuple(value) if isinstance(value, dict) else ()
        inner = top.fields("files", names)
        files = {}
        for name in names:
            one = inner.fields(name, FileDigest.__slots__)
            files[name] = FileDigest(one.integer("size", 0, 2**53 - 1), one.text("sha256"))
        if listing(files) != data:
            raise Malformed("(document)", "not canonical")
    except (Malformed, RefInvalid):
        raise ModelChanged(LISTING_NAME, "changed") from None
    return files


@contextmanager
def _disk(doing: str) -> Iterator[None]:
    try:
        yield
    except OSError as wrong:
        reason = os.strerror(wrong.errno) if wrong.errno else "input or output failed"
        raise LibraryUnavailable(f"cannot {doing}: {reason}") from wrong


def _folders(path: Path) -> list[Path]:
    if not path.is_dir():
        return []
    return sorted(one for one in path.iterdir() if one.is_dir() and not one.name.startswith("."))


def _walk(root: Path) -> Iterator[str]:
    """Relative path of everything under `root` that is not a folder; links are named, never followed."""
    for folder, folders, names in os.walk(root, onerror=_raise):
        here = Path(folder)
        links = [name for name in folders if (here / name).is_symlink()]
        for name in names + links:
            yield (here / name).relative_to(root).as_posix()


def _raise(wrong: OSError) -> None:
    raise wrong


def _read_small(folder: Path, name: str) -> bytes:
    """The whole of a document. A link, a folder or a giant in its place is a change like any other."""
    path = folder / name
    try:
        status = path.lstat()
    except FileNotFoundError:
        raise ModelChanged(name, "missing") from None
    if not stat.S_ISREG(status.st_mode) or status.st_size > DOCUMENT_BYTES_MAX * (4 if name == LISTING_NAME else 1):
        raise ModelChanged(name, "changed")
    return path.read_bytes()


def _hash_plain(path: Path, name: str, size: int | None) -> FileDigest:
    """Size and digest of a plain file; of another size than `size`, it is not read."""
    status = path.lstat()
    if not stat.S_ISREG(status.st_mode):
        raise ModelChanged(name, "changed")
    if size is not None and status.st_size != size:
        raise ModelChanged(name, "changed")
    digest = hashlib.sha256()
    read = 0
    with path.open("rb") as handle:
        while chunk := handle.read(CHUNK_BYTES):
            digest.update(chunk)
            read += len(chunk)
    return FileDigest(read, "sha256:" + digest.hexdigest())


def _copy(source: Path, target: Path) -> FileDigest:
    """Copy durably; the digest is of the bytes that were written, not of a second reading."""
    temporary = target.with_name(f".{target.name}{durable.TEMPORARY_SUFFIX}")
    digest = hashlib.sha256()
    written = 0
    with source.open("rb") as reader, temporary.open("xb") as writer:
        os.fchmod(writer.fileno(), INSTALLED_MODE)
        while chunk := reader.read(CHUNK_BYTES):
            digest.update(chunk)
            written += writer.write(chunk)
    try:
        durable.adopt(temporary, target)
    except ContentDiffers:
        raise ModelExists("the folder is being written by somebody else") from None
    return FileDigest(written, "sha256:" + digest.hexdigest())
