"""Which exact model: a name, a version, and one digest over every file of it, down to the last byte."""

import hashlib
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from audit.entry import canonical
from models.errors import RefInvalid

LISTING_SCHEMA: Final = "zhiying.files/1"

_NAME: Final = re.compile(r"[a-z0-9][a-z0-9-]{0,63}")
_VERSION: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9.+_-]{0,31}")
_UID_LIKE: Final = re.compile(r"(?:[0-9]+\.){5}")  # the audit log would not take it
_DIGEST: Final = re.compile(r"sha256:[0-9a-f]{64}")
# One name for one file on every file system: no empty, hidden or dotted parts, no backslash, no drive, ASCII only.
_PART: Final = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.+-]{0,127}")
_PATH_MAX: Final = 255


def is_digest(text: str) -> bool:
    """Whether `text` is "sha256:" and 64 lower-case hexadecimal digits."""
    return _DIGEST.fullmatch(text) is not None


def is_member_path(text: str) -> bool:
    """Whether `text` may name a file inside a model: relative, forward slashes, plain parts, never ".." or hidden."""
    return 0 < len(text) <= _PATH_MAX and all(_PART.fullmatch(part) for part in text.split("/"))


@dataclass(frozen=True, slots=True)
class ModelRef:
    """One exact model. `digest` covers all its files, manifest included (see `digest_of`).

    Raises RefInvalid. The text forms are safe as folder names and as audit tokens.
    """

    name: str
    version: str
    digest: str

    def __post_init__(self) -> None:
        if not _NAME.fullmatch(self.name):
            raise RefInvalid("model name: lower-case letters, digits and hyphens wanted, 64 at most")
        if not _VERSION.fullmatch(self.version) or _UID_LIKE.search(self.version):
            raise RefInvalid("model version: letters, digits and . + _ - wanted, 32 at most, not like a UID")
        if not is_digest(self.digest):
            raise RefInvalid('model digest: "sha256:" and 64 lower-case hexadecimal digits wanted')


@dataclass(frozen=True, slots=True)
class FileDigest:
    """Size in bytes and digest ("sha256:...") of one file."""

    size: int
    sha256: str

    def __post_init__(self) -> None:
        if self.size < 0 or not is_digest(self.sha256):
            raise RefInvalid("file digest: a size in bytes and a sha256 digest wanted")


def listing(files: Mapping[str, FileDigest]) -> bytes:
    """The canonical listing (RFC 8785) of a model's files by path: the bytes that its digest is taken of.

    Raises RefInvalid for a path that no model may have, and for two paths that one file system could confuse.
    """
    folded: set[str] = set()
    for path in files:
        if not is_member_path(path):
            raise RefInvalid("file path: relative path of plain ASCII parts wanted")
        if path.lower() in folded:
            raise RefInvalid("file path: two paths differ in case only")
        folded.add(path.lower())
    return canonical(
        {
            "schema": LISTING_SCHEMA,
            "files": {path: {"size": file.size, "sha256": file.sha256} for path, file in files.items()},
        }
    )


def digest_of(files: Mapping[str, FileDigest]) -> str:
    """The model's digest: "sha256:..." over `listing(files)`."""
    return "sha256:" + hashlib.sha256(listing(files)).hexdigest()
