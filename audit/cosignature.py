"""What a witness signs: "at this time, this was the largest tree head of that log that I have seen, and it only grew".

C2SP tlog-cosignature, byte for byte, with Ed25519 (``cosignature/v1``, signature type 0x04). A cosignature is one more
signature line of a checkpoint; its payload is a time in seconds (8 bytes, big-endian) and 64 bytes of signature.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, PublicFormat

from audit import durable
from audit.errors import BadSignature, KeyUnsafe, NoteError, NoteMalformed
from audit.note import KEY_BYTES, OTHERS, PRIVATE_MODE, Note, Signature, parse_note

COSIGNATURE_V1 = 0x04
"""C2SP signature type of timestamped Ed25519 cosignatures."""
TIME_MAX = 2**63 - 1
"""The largest time that the standard allows, in seconds since 1970."""
_TIME_BYTES = 8
_SIGNATURE_BYTES = 64
_KEY_ID_HEX = 8
_PRIVATE = "PRIVATE+KEY+"
_DASH = "\u2014 "


@dataclass(frozen=True, slots=True)
class CosignatureVerifier:
    """The public key of a witness that somebody decided to trust. ``key`` is its 32 bytes of RFC 8032."""

    name: str
    key: bytes

    @classmethod
    def parse(cls, vkey: str) -> CosignatureVerifier:
        """Read ``name+id+base64``, strictly; a plain note key (type 0x01) is refused. Raises NoteMalformed."""
        verifier = cls(*_parse_key(vkey))
        if verifier.vkey != vkey:
            raise NoteMalformed("witness key: id or form is wrong")
        return verifier

    @property
    def vkey(self) -> str:
        """The key as one line of text."""
        return _format_key(self.name, self.key_id, self.key)

    @property
    def key_id(self) -> int:
        """SHA-256(name || 0x0A || 0x04 || key), first 4 bytes, big-endian."""
        message = self.name.encode() + b"\n" + bytes([COSIGNATURE_V1]) + self.key
        return int.from_bytes(hashlib.sha256(message).digest()[:4], "big")

    def verify(self, text: str, payload: bytes) -> int:
        """The time at which this key cosigned this checkpoint's text, in seconds. Raises BadSignature."""
        if len(payload) != _TIME_BYTES + _SIGNATURE_BYTES:
            raise BadSignature(f"cosignature of key id {self.key_id:08x} has another length")
        time_s = int.from_bytes(payload[:_TIME_BYTES], "big")
        if not 0 < time_s <= TIME_MAX:
            raise BadSignature(f"cosignature of key id {self.key_id:08x} has no time")
        try:
            Ed25519PublicKey.from_public_bytes(self.key).verify(payload[_TIME_BYTES:], _message(text, time_s))
        except InvalidSignature:
            raise BadSignature(f"cosignature of key id {self.key_id:08x} does not verify") from None
        return time_s


@dataclass(frozen=True, slots=True)
class Cosigner:
    """A witness's private key and name. Never shown by repr; kept in a file of mode 0600."""

    name: str
    _private: Ed25519PrivateKey = field(repr=False)

    @classmethod
    def generate(cls, name: str) -> Cosigner:
        """A new key. The name is best a URL without scheme, such as ``commission.example/witness``."""
        cosigner = cls(name, Ed25519PrivateKey.generate())
        CosignatureVerifier.parse(cosigner.verifier.vkey)  # refuses a bad name
        return cosigner

    @classmethod
    def parse(cls, skey: str) -> Cosigner:
        """Read ``PRIVATE+KEY+name+id+base64``, strictly. Raises NoteMalformed, whose message never holds the key."""
        if not skey.startswith(_PRIVATE):
            raise NoteMalformed("witness private key: not in the form PRIVATE+KEY+name+id+base64")
        name, seed = _parse_key(skey.removeprefix(_PRIVATE))
        cosigner = cls(name, Ed25519PrivateKey.from_private_bytes(seed))
        if cosigner._skey() != skey:
            raise NoteMalformed("witness private key: id or form is wrong")
        return cosigner

    @classmethod
    def load(cls, path: Path) -> Cosigner:
        """Read a key file. Raises KeyUnsafe if others may read it, NoteMalformed, OSError."""
        if path.stat().st_mode & OTHERS:
            raise KeyUnsafe("private key file is open to others: allow it to its owner only (chmod 600)")
        try:
            line = path.read_bytes().decode()
        except UnicodeDecodeError:
            raise NoteMalformed("witness private key: not text") from None
        return cls.parse(line.removesuffix("\n"))

    def save(self, path: Path) -> None:
        """Write the key file, mode 0600. A taken name raises FileExistsError: a key is never overwritten."""
        durable.create(path, f"{self._skey()}\n".encode(), mode=PRIVATE_MODE)

    @property
    def verifier(self) -> CosignatureVerifier:
        """The public half."""
        return CosignatureVerifier(self.name, self._private.public_key().public_bytes(Encoding.Raw, PublicFormat.Raw))

    @property
    def vkey(self) -> str:
        """The public half as one line of text."""
        return self.verifier.vkey

    def cosign(self, text: str, time_s: int) -> Signature:
        """A signature line over a checkpoint's text, as of ``time_s`` (seconds since 1970, above 0)."""
        if not 0 < time_s <= TIME_MAX:
            raise NoteMalformed("cosignature: no such time")
        payload = time_s.to_bytes(_TIME_BYTES, "big") + self._private.sign(_message(text, time_s))
        return Signature(self.name, self.verifier.key_id, payload)

    def _skey(self) -> str:
        seed = self._private.private_bytes(Encoding.Raw, PrivateFormat.Raw, NoEncryption())
        return _PRIVATE + _format_key(self.name, self.verifier.key_id, seed)


@dataclass(frozen=True, slots=True)
class Cosigned:
    """A verified cosignature: who, when (seconds since 1970), and the line itself."""

    verifier: CosignatureVerifier
    time_s: int
    signature: Signature


def cosignatures(parsed: Note, verifiers: Sequence[CosignatureVerifier]) -> tuple[Cosigned, ...]:
    """The verified cosignatures by ``verifiers``, one for each key, in the note's order; others count for nothing.

    Raises BadSignature if one in the name of a trusted key does not verify, even beside good ones.
    """
    trusted = {(verifier.name, verifier.key_id): verifier for verifier in verifiers}
    if len(trusted) != len(set(verifiers)):
        raise BadSignature("two trusted witness keys share one name and id")
    found: dict[CosignatureVerifier, Cosigned] = {}
    for signature in parsed.signatures:
        verifier = trusted.get((signature.name, signature.key_id))
        if verifier is None:
            continue
        time_s = verifier.verify(parsed.text, signature.data)
        found.setdefault(verifier, Cosigned(verifier, time_s, signature))
    return tuple(found.values())


def parse_lines(lines: str) -> tuple[Signature, ...]:
    """Signature lines alone, as a witness answers them: one or more. Raises NoteMalformed."""
    if not lines.startswith(_DASH):
        raise NoteMalformed("answer: not signature lines")
    # One parser for all notes: what stands under a text of one line is exactly what may be answered.
    parsed = parse_note(f"-\n\n{lines}")
    if parsed.text != "-\n":
        raise NoteMalformed("answer: not signature lines")
    return parsed.signatures


def _message(text: str, time_s: int) -> bytes:
    return f"cosignature/v1\ntime {time_s}\n{text}".encode()


def _format_key(name: str, key_id: int, material: bytes) -> str:
    return f"{name}+{key_id:08x}+{base64.b64encode(bytes([COSIGNATURE_V1]) + material).decode('ascii')}"


def _parse_key(line: str) -> tuple[str, bytes]:
    parts = line.split("+", 2)
    if len(parts) != 3 or len(parts[1]) != _KEY_ID_HEX:
        raise NoteMalformed("witness key: not in the form name+id+base64")
    name, _, encoded = parts
    try:
        material = base64.b64decode(encoded, validate=True)
    except (binascii.Error, ValueError):
        raise NoteMalformed("witness key: not base64") from None
    if len(material) != 1 + KEY_BYTES or material[0] != COSIGNATURE_V1:
        raise NoteMalformed("witness key: not an Ed25519 cosignature key")
    try:
        parse_lines(f"{_DASH}{name} AAAAAAA=\n")
    except NoteError:
        raise NoteMalformed("witness key: the name is empty, or holds a space or a control character") from None
    return name, material[1:]
