"""The tree of the same entries with SM3 (GB/T 32905-2016), for sites that must sign what that hash makes. Pure.

Shaped as RFC 6962: SM3(0x00 || leaf), SM3(0x01 || left || right), SM3("") for no leaves. Its heads are those of a log
of their own, ``<origin>/sm3``, by the same key under that name, so that none can pass for one of the SHA-256 tree.
"""

from __future__ import annotations

from cryptography.hazmat.primitives.hashes import SM3, Hash

from audit.merkle import Hashing
from audit.note import Verifier

SUFFIX = "/sm3"


def digest(*parts: bytes) -> bytes:
    """SM3 of the parts, one after the other: 32 bytes."""
    state = Hash(_SM3)
    for part in parts:
        state.update(part)
    return state.finalize()


def leaf_hash(data: bytes) -> bytes:
    """Hash of a leaf."""
    return digest(b"\x00" + data)


def node_hash(left: bytes, right: bytes) -> bytes:
    """Hash of an inner node."""
    return digest(b"\x01" + left + right)


def origin_of(origin: str) -> str:
    """The origin of the SM3 tree of a log, which is its key's name too."""
    return origin + SUFFIX


def verifier_of(origin: str, verifier: Verifier) -> Verifier:
    """The public key of the SM3 tree's heads, from the origin and the key of the log."""
    return Verifier(origin_of(origin), verifier.key)


_SM3 = SM3()
SM3_TREE = Hashing(leaf_hash, node_hash, digest())
