"""Tree heads: C2SP tlog-checkpoint (https://c2sp.org/tlog-checkpoint), byte for byte. Pure."""

from __future__ import annotations

import base64
import binascii
import re
from collections.abc import Sequence
from dataclasses import dataclass

from audit.errors import NoteMalformed
from audit.merkle import HASH_BYTES
from audit.note import Signer, Verifier, open_note, parse_note

_SIZE = re.compile(r"0|[1-9][0-9]{0,18}")
_LINES = 3


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """A tree head: which log, how many leaves, their root (32 bytes), and the whole signed note that says so."""

    origin: str
    size: int
    root: bytes
    note: str

    @classmethod
    def sign(cls, signer: Signer, origin: str, size: int, root: bytes) -> Checkpoint:
        """A new tree head."""
        return cls(origin, size, root, signer.sign(format_text(origin, size, root)))

    @classmethod
    def open(cls, note: str, verifiers: Sequence[Verifier]) -> Checkpoint:
        """Read a tree head that a trusted key signed. Raises NoteMalformed, BadSignature, UnknownSigner."""
        return cls(*parse_text(open_note(note, verifiers)[0]), note)

    @classmethod
    def unverified(cls, note: str) -> Checkpoint:
        """Read a tree head and believe nobody. Raises NoteMalformed."""
        return cls(*parse_text(parse_note(note).text), note)


def format_text(origin: str, size: int, root: bytes) -> str:
    """The three lines that are signed."""
    return f"{origin}\n{size}\n{base64.b64encode(root).decode('ascii')}\n"


def parse_text(text: str) -> tuple[str, int, bytes]:
    """Origin, size and root. Raises NoteMalformed; also for extension lines, which nobody could audit."""
    lines = text.split("\n")
    if len(lines) != _LINES + 1 or lines[-1] or not lines[0]:
        raise NoteMalformed("checkpoint: not three lines")
    origin, size, encoded = lines[:_LINES]
    if not _SIZE.fullmatch(size):
        raise NoteMalformed("checkpoint: size is not a plain number")
    try:
        root = base64.b64decode(encoded, validate=True)
    except (binascii.Error, ValueError):
        raise NoteMalformed("checkpoint: root is not base64") from None
    if len(root) != HASH_BYTES or format_text(origin, int(size), root) != text:
        raise NoteMalformed("checkpoint: not in canonical form")
    return origin, int(size), root
