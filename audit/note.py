"""Signed notes: the one signature format of this house, for checkpoints and for approvals.

C2SP signed-note (https://c2sp.org/signed-note), byte for byte, with Ed25519 (RFC 8032, signature type 0x01); keys are
written as Go's ``golang.org/x/mod/sumdb/note`` writes them. Parsing is canonical: what parses re-formats to the same
bytes, everything else is NoteMalformed. A note is a text and, after an empty line, lines ``<em dash> name base64``.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, PublicFormat

from audit import durable
from audit.errors import BadSignature, KeyUnsafe, NoteMalformed, UnknownSigner

ED25519 = 0x01
"""C2SP signature type of plain Ed25519."""
KEY_BYTES = 32
SIGNATURES_MAX = 100
"""As in Go's package; the standard asks for at least 16."""
NOTE_CHARS_MAX = 1_000_000
"""As in Go's package: a bound on what a stranger can make us parse."""
PRIVATE_MODE = 0o600
OTHERS = 0o077
"""Permission bits that a private key file must not have."""
_PRIVATE = "PRIVATE+KEY+"
_DASH = "\u2014 "
_KEY_ID = re.compile(r"[0-9a-f]{8}")
_SIGNATURE_BYTES_MIN = 5


@dataclass(frozen=True, slots=True)
class Signature:
    """One signature line: the key's name, its 32-bit id, and the bytes that the key made of the text."""

    name: str
    key_id: int
    data: bytes

    def format(self) -> str:
        """The line, with its newline."""
        return f"{_DASH}{self.name} {_encode(self.key_id.to_bytes(4, 'big') + self.data)}\n"


@dataclass(frozen=True, slots=True)
class Note:
    """A note's parts. Nothing in it is to be believed before ``open_note`` says so."""

    text: str
    signatures: tuple[Signature, ...]

    def format(self) -> str:
        """The whole note."""
        return f"{self.text}\n" + "".join(signature.format() for signature in self.signatures)


@dataclass(frozen=True, slots=True)
class Verifier:
    """A public key that somebody decided to trust. ``key`` is its 32 bytes of RFC 8032."""

    name: str
    key: bytes

    @classmethod
    def parse(cls, vkey: str) -> Verifier:
        """Read ``name+id+base64``, strictly. Raises NoteMalformed."""
        name, material = _parse_key(vkey)
        verifier = cls(name, material)
        if verifier.vkey != vkey:
            raise NoteMalformed("verifier key: id or form is wrong")
        return verifier

    @property
    def vkey(self) -> str:
        """The key as one line of text, to hand over by a way that the other side trusts."""
        return f"{self.name}+{self.key_id:08x}+{_encode(bytes([ED25519]) + self.key)}"

    @property
    def key_id(self) -> int:
        """SHA-256(name || 0x0A || type || key), first 4 bytes, big-endian."""
        return _key_id(self.name, self.key)

    def verify(self, text: str, signature: bytes) -> None:
        """Raise BadSignature unless this key signed exactly this text."""
        try:
            Ed25519PublicKey.from_public_bytes(self.key).verify(signature, text.encode())
        except InvalidSignature:
            raise BadSignature(f"signature of key id {self.key_id:08x} does not verify") from None

    def open(self, note: str) -> str:
        """The note's text, if this key signed it. Raises NoteMalformed, BadSignature, UnknownSigner."""
        return open_note(note, (self,))[0]


@dataclass(frozen=True, slots=True)
class Signer:
    """A private key and its name. Never shown by repr; kept in a file of mode 0600."""

    name: str
    _private: Ed25519PrivateKey = field(repr=False)

    @classmethod
    def generate(cls, name: str) -> Signer:
        """A new key. The name is best a URL without scheme, such as ``hospital.example/audit``."""
        _refuse_bad_name(name)
        return cls(name, Ed25519PrivateKey.generate())

    @classmethod
    def parse(cls, skey: str) -> Signer:
        """Read ``PRIVATE+KEY+name+id+base64``, strictly. Raises NoteMalformed, whose message never holds the key."""
        if not skey.startswith(_PRIVATE):
            raise NoteMalformed("private key: not in the form PRIVATE+KEY+name+id+base64")
        name, seed = _parse_key(skey.removeprefix(_PRIVATE))
        signer = cls(name, Ed25519PrivateKey.from_private_bytes(seed))
        if signer._skey() != skey:
            raise NoteMalformed("private key: id or form is wrong")
        return signer

    @classmethod
    def load(cls, path: Path, *, create: bool = False, name: str | None = None) -> Signer:
        """Read a key file; with ``create`` and a ``name``, make it when absent.

        Raises KeyUnsafe if others may read the file, NoteMalformed if it holds no key or one of another name, OSError.
        """
        if create and not path.exists():
            if name is None:
                raise NoteMalformed("private key: a new key needs a name")
            durable.make_dirs(path.parent)
            made = cls.generate(name)
            try:
                made.save(path)
            except FileExistsError:
                pass  # another process was faster; its key is the key
            else:
                return made
        if path.stat().st_mode & OTHERS:
            raise KeyUnsafe("private key file is open to others: allow it to its owner only (chmod 600)")
        try:
            line = path.read_bytes().decode()
        except UnicodeDecodeError:
            raise NoteMalformed("private key: not text") from None
        signer = cls.parse(line.removesuffix("\n"))
        if name is not None and signer.name != name:
            raise NoteMalformed("private key: the file holds a key of another name")
        return signer

    def save(self, path: Path) -> None:
        """Write the key file, mode 0600. A taken name raises FileExistsError: a key is never overwritten."""
        durable.create(path, f"{self._skey()}\n".encode(), mode=PRIVATE_MODE)

    @property
    def verifier(self) -> Verifier:
        """The public half."""
        return Verifier(self.name, self._private.public_key().public_bytes(Encoding.Raw, PublicFormat.Raw))

    @property
    def vkey(self) -> str:
        """The public half as one line of text."""
        return self.verifier.vkey

    def named(self, name: str) -> Signer:
        """The same key under another name, whose signatures are no signatures by this one. Raises NoteMalformed."""
        _refuse_bad_name(name)
        return Signer(name, self._private)

    def sign(self, text: str) -> str:
        """The whole note. The text must end in a newline and hold no other control character; else NoteMalformed."""
        _refuse_bad_text(text)
        verifier = self.verifier
        return Note(text, (Signature(self.name, verifier.key_id, self._private.sign(text.encode())),)).format()

    def _skey(self) -> str:
        seed = self._private.private_bytes(Encoding.Raw, PrivateFormat.Raw, NoEncryption())
        return f"{_PRIVATE}{self.name}+{self.verifier.key_id:08x}+{_encode(bytes([ED25519]) + seed)}"


def parse_note(note: str) -> Note:
    """Take a note apart, strictly, and believe nothing. Raises NoteMalformed."""
    if len(note) > NOTE_CHARS_MAX:
        raise NoteMalformed("note: too long")
    _refuse_bad_characters(note)
    text, blank, tail = note.rpartition("\n\n")
    if not blank or not tail.endswith("\n"):
        raise NoteMalformed("note: no signatures after an empty line")
    lines = tail[:-1].split("\n")
    if len(lines) > SIGNATURES_MAX:
        raise NoteMalformed("note: too many signatures")
    parsed = Note(f"{text}\n", tuple(_parse_signature(line) for line in lines))
    if parsed.format() != note:
        raise NoteMalformed("note: not in canonical form")
    return parsed


def open_note(note: str, verifiers: Sequence[Verifier]) -> tuple[str, tuple[str, ...]]:
    """The text, and the names of the keys that signed it, in the note's order, each once.

    Signatures by keys not among ``verifiers`` count for nothing. Raises NoteMalformed; BadSignature if one in the name
    of a trusted key does not verify, even beside good ones; UnknownSigner if no trusted key signed.
    """
    parsed = parse_note(note)
    trusted = {(verifier.name, verifier.key_id): verifier for verifier in verifiers}
    if len(trusted) != len(set(verifiers)):
        raise BadSignature("two trusted keys share one name and id")
    names: list[str] = []
    for signature in parsed.signatures:
        verifier = trusted.get((signature.name, signature.key_id))
        if verifier is None:
            continue
        verifier.verify(parsed.text, signature.data)
        if verifier.name not in names:
            names.append(verifier.name)
    if not names:
        raise UnknownSigner("note: no signature by a trusted key")
    return parsed.text, tuple(names)


def _parse_key(line: str) -> tuple[str, bytes]:
    name, _, rest = line.partition("+")
    key_id, _, encoded = rest.partition("+")
    if not _KEY_ID.fullmatch(key_id):
        raise NoteMalformed("key: not in the form name+id+base64")
    _refuse_bad_name(name)
    material = _decode(encoded)
    if len(material) != 1 + KEY_BYTES or material[0] != ED25519:
        raise NoteMalformed("key: not an Ed25519 key")
    return name, material[1:]


def _parse_signature(line: str) -> Signature:
    parts = line.removeprefix(_DASH).split(" ")
    if not line.startswith(_DASH) or len(parts) != 2:
        raise NoteMalformed("note: a signature line is malformed")
    name, encoded = parts
    _refuse_bad_name(name)
    data = _decode(encoded)
    if len(data) < _SIGNATURE_BYTES_MIN:
        raise NoteMalformed("note: a signature is too short")
    return Signature(name, int.from_bytes(data[:4], "big"), data[4:])


def _key_id(name: str, key: bytes) -> int:
    return int.from_bytes(hashlib.sha256(name.encode() + b"\n" + bytes([ED25519]) + key).digest()[:4], "big")


def _refuse_bad_name(name: str) -> None:
    _refuse_bad_characters(name)
    if not name or "+" in name or any(character.isspace() for character in name):
        raise NoteMalformed("key name: empty, or holds a space or a plus")


def _refuse_bad_text(text: str) -> None:
    _refuse_bad_characters(text)
    if not text.endswith("\n"):
        raise NoteMalformed("note: the text does not end in a newline")


def _refuse_bad_characters(text: str) -> None:
    if any(character < " " and character != "\n" for character in text):
        raise NoteMalformed("note: holds a control character")
    try:
        text.encode()
    except UnicodeEncodeError:
        raise NoteMalformed("note: holds a lone surrogate") from None


def _encode(data: bytes) -> str:
    return base64.b64encode(data).decode("ascii")


def _decode(encoded: str) -> bytes:
    try:
        data = base64.b64decode(encoded, validate=True)
    except (binascii.Error, ValueError):
        raise NoteMalformed("not base64") from None
    if _encode(data) != encoded:
        raise NoteMalformed("not canonical base64")
    return data
