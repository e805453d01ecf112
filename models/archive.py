"""Files out of a zip (a wheel is one), with nothing believed: names, kinds, sizes and hashes are all checked.

A member goes to a path that the caller chose or that `is_member_path` allows, so that no name can leave the folder; at
most the size that was announced is written, whatever the archive says; and what was written is what was hashed.
"""

import errno
import hashlib
import lzma
import stat
import struct
import zipfile
import zlib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Final

from models.errors import (
    SourceHashMismatch,
    SourceIncomplete,
    SourceTooLarge,
    SourceUnreachable,
    SourceUnsafe,
)
from models.limits import Limits
from models.ref import FileDigest, is_member_path

_CHUNK_BYTES: Final = 1 << 20
_ENCRYPTED: Final = 0x1
# All that the standard library's reader is seen to raise on damaged archives.
_UNREADABLE: Final = (zipfile.BadZipFile, zlib.error, lzma.LZMAError, struct.error, EOFError, RuntimeError, ValueError)


@dataclass(frozen=True, slots=True)
class Member:
    """One file to take: its name in the source, its path in the model, and what it must be."""

    source: str
    target: str
    digest: FileDigest


def take_from_zip(path: Path, members: tuple[Member, ...], into: Path, limits: Limits) -> None:
    """Write the `members` of the zip at `path` under `into`, each checked against its size and digest.

    Raises SourceUnreachable, SourceIncomplete, SourceUnsafe, SourceTooLarge, SourceHashMismatch; OSError of `into`.
    """
    _refuse_too_much(members, limits)
    with _opened(path) as archive:
        by_name = _by_name(archive)
        for member in members:
            info = by_name.get(member.source)
            if info is None:
                raise SourceIncomplete(f"{member.target}: not in the archive")
            _refuse_unsafe(info, member.target, member.digest.size)
            with archive.open(info) as reader:
                _write(reader, member, into)


def take_all_from_zip(path: Path, into: Path, limits: Limits) -> None:
    """Write every member of the zip at `path` under `into`; one name or size out of bounds refuses the whole of it.

    The hashes are not known here; the caller checks them against the listing that came along. Raises as above.
    """
    with _opened(path) as archive:
        infos = [info for info in _by_name(archive).values() if not info.filename.endswith("/")]
        if len(infos) > limits.files_max:
            raise SourceTooLarge(f"more than {limits.files_max} files")
        if sum(info.file_size for info in infos) > limits.total_bytes_max:
            raise SourceTooLarge(f"more than {limits.total_bytes_max} bytes")
        for info in infos:
            if not is_member_path(info.filename):
                raise SourceUnsafe("a member's name would leave the folder, or is not plain ASCII")
            if info.file_size > limits.member_bytes_max:
                raise SourceTooLarge(f"{info.filename}: more than {limits.member_bytes_max} bytes")
            _refuse_unsafe(info, info.filename, info.file_size)
        for info in infos:
            with archive.open(info) as reader:
                _copy_bounded(reader, into, info.filename, info.file_size)


def take_from_folder(folder: Path, members: tuple[Member, ...], into: Path, limits: Limits) -> None:
    """Copy the `members` of a folder under `into`, each checked. Links are refused. Raises as `take_from_zip`."""
    _refuse_too_much(members, limits)
    for member in members:
        source = folder / member.source
        if any(
            part.is_symlink() for part in (source, *source.parents) if part.is_relative_to(folder) and part != folder
        ):
            raise SourceUnsafe(f"{member.target}: a link")
        if not source.exists():
            raise SourceIncomplete(f"{member.target}: not in the folder")
        if not source.is_file():
            raise SourceUnsafe(f"{member.target}: not a plain file")
        with source.open("rb") as reader:
            _write(reader, member, into)


def digest_of_file(path: Path) -> FileDigest:
    """Size and digest of the file at `path`."""
    digest = hashlib.sha256()
    size = 0
    with path.open("rb") as handle:
        while chunk := handle.read(_CHUNK_BYTES):
            digest.update(chunk)
            size += len(chunk)
    return FileDigest(size, "sha256:" + digest.hexdigest())


@contextmanager
def _opened(path: Path) -> Iterator[zipfile.ZipFile]:
    try:
        with zipfile.ZipFile(path) as archive:
            yield archive
    except _UNREADABLE:
        raise SourceUnreachable("the archive is damaged, or not a zip") from None
    except OSError as wrong:
        # A damaged archive may send its reader to a place before its beginning. Other errors are the disk's.
        if wrong.errno != errno.EINVAL:
            raise
        raise SourceUnreachable("the archive is damaged, or not a zip") from None


def _by_name(archive: zipfile.ZipFile) -> Mapping[str, zipfile.ZipInfo]:
    by_name: dict[str, zipfile.ZipInfo] = {}
    for info in archive.infolist():
        # Two members of one name: readers differ in which they take, so there is no telling what was reviewed.
        if info.filename in by_name:
            raise SourceUnsafe("two members of the archive have one name")
        by_name[info.filename] = info
    return by_name


def _refuse_unsafe(info: zipfile.ZipInfo, target: str, size: int) -> None:
    kind = stat.S_IFMT(info.external_attr >> 16)
    if kind not in (0, stat.S_IFREG):
        raise SourceUnsafe(f"{target}: not a plain file")
    if info.flag_bits & _ENCRYPTED:
        raise SourceUnsafe(f"{target}: encrypted")
    if info.file_size > size:
        raise SourceTooLarge(f"{target}: more than the {size} bytes that were announced")


def _refuse_too_much(members: tuple[Member, ...], limits: Limits) -> None:
    if len(members) > limits.files_max:
        raise SourceTooLarge(f"more than {limits.files_max} files")
    if sum(member.digest.size for member in members) > limits.total_bytes_max:
        raise SourceTooLarge(f"more than {limits.total_bytes_max} bytes")
    for member in members:
        if not is_member_path(member.target):
            raise SourceUnsafe("a member's path would leave the folder, or is not plain ASCII")
        if member.digest.size > limits.member_bytes_max:
            raise SourceTooLarge(f"{member.target}: more than {limits.member_bytes_max} bytes")


def _write(reader: IO[bytes], member: Member, into: Path) -> None:
    if _copy_bounded(reader, into, member.target, member.digest.size) != member.digest:
        raise SourceHashMismatch(f"{member.target}: not the bytes that the card pins")


def _copy_bounded(reader: IO[bytes], into: Path, target: str, size: int) -> FileDigest:
    path = into / target
    path.parent.mkdir(parents=True, exist_ok=True)
    digest = hashlib.sha256()
    written = 0
    with path.open("xb") as writer:
        while chunk := reader.read(_CHUNK_BYTES):
            written += len(chunk)
            if written > size:
                raise SourceTooLarge(f"{target}: more than the {size} bytes that were announced")
            digest.update(chunk)
            writer.write(chunk)
    return FileDigest(written, "sha256:" + digest.hexdigest())
