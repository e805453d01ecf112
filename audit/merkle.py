"""RFC 6962 Merkle trees, with SHA-256 where nothing else is said: hashes, roots, inclusion and consistency. Pure.

Leaves are given as leaf hashes of 32 bytes. Verification follows RFC 9162, sections 2.1.3.2 and 2.1.4.2 (the same
trees, spelt out), and raises ProofInvalid; proofs that are too short or too long prove nothing.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from audit.errors import ProofInvalid

HASH_BYTES = 32
TILE_WIDTH = 256
"""Hashes in a full tile: tiles are subtrees of height 8 (C2SP tlog-tiles)."""
EMPTY_ROOT = hashlib.sha256(b"").digest()


def leaf_hash(data: bytes) -> bytes:
    """Hash of a leaf, SHA-256(0x00 || data)."""
    return hashlib.sha256(b"\x00" + data).digest()


def node_hash(left: bytes, right: bytes) -> bytes:
    """Hash of an inner node, SHA-256(0x01 || left || right)."""
    return hashlib.sha256(b"\x01" + left + right).digest()


@dataclass(frozen=True, slots=True)
class Hashing:
    """What a tree is made with: the hash of a leaf's bytes, of an inner node, and the root of no leaves."""

    leaf: Callable[[bytes], bytes]
    node: Callable[[bytes, bytes], bytes]
    empty: bytes


SHA256 = Hashing(leaf_hash, node_hash, EMPTY_ROOT)


def root(hashes: Sequence[bytes], hashing: Hashing = SHA256) -> bytes:
    """MTH of RFC 6962, section 2.1, over leaf hashes (or over equal perfect subtrees)."""
    if not hashes:
        return hashing.empty
    node = hashing.node
    level = list(hashes)
    while len(level) > 1:
        # Pairing from the left with an odd last node carried up gives exactly the recursive definition's tree.
        carried = level[-1:] if len(level) % 2 else []
        level = [node(level[at], level[at + 1]) for at in range(0, len(level) - 1, 2)] + carried
    return level[0]


def inclusion_proof(index: int, hashes: Sequence[bytes]) -> tuple[bytes, ...]:
    """PATH(index, D) of RFC 6962, section 2.1.1, from the leaf upwards. Raises ProofInvalid for no such leaf."""
    if not 0 <= index < len(hashes):
        raise ProofInvalid("no such leaf")
    if len(hashes) == 1:
        return ()
    split = _split(len(hashes))
    if index < split:
        return (*inclusion_proof(index, hashes[:split]), root(hashes[split:]))
    return (*inclusion_proof(index - split, hashes[split:]), root(hashes[:split]))


def verify_inclusion(leaf: bytes, index: int, size: int, proof: Sequence[bytes], expected_root: bytes) -> None:
    """Return if ``leaf`` (a leaf hash) is at ``index`` of the tree of ``size`` leaves with that root."""
    if not 0 <= index < size:
        raise ProofInvalid("no such leaf")
    _refuse_bad_hashes((leaf, *proof))
    node, last, here = index, size - 1, leaf
    for sibling in proof:
        if last == 0:
            raise ProofInvalid("inclusion proof: too long")
        if node % 2 or node == last:
            here = node_hash(sibling, here)
            while node % 2 == 0 and node != 0:
                node, last = node >> 1, last >> 1
        else:
            here = node_hash(here, sibling)
        node, last = node >> 1, last >> 1
    if last != 0:
        raise ProofInvalid("inclusion proof: too short")
    if here != expected_root:
        raise ProofInvalid("inclusion proof: leads to another root")


def consistency_proof(old_size: int, hashes: Sequence[bytes]) -> tuple[bytes, ...]:
    """PROOF(old_size, D) of RFC 6962, section 2.1.2; empty for equal sizes. Raises ProofInvalid for other sizes."""
    if not 0 < old_size <= len(hashes):
        raise ProofInvalid("no consistency proof from that size")
    return _subproof(old_size, hashes, whole=True)


def verify_consistency(old_size: int, new_size: int, proof: Sequence[bytes], old_root: bytes, new_root: bytes) -> None:
    """Return if the new tree holds the whole old tree as its beginning."""
    if not 0 < old_size <= new_size:
        raise ProofInvalid("no consistency proof from that size")
    _refuse_bad_hashes(proof)
    if old_size == new_size:
        if proof or old_root != new_root:
            raise ProofInvalid("consistency proof: one size, two roots, or a proof that is too long")
        return
    path = list(proof)
    if old_size & (old_size - 1) == 0:
        path.insert(0, old_root)
    if not path:
        raise ProofInvalid("consistency proof: too short")
    node, last = old_size - 1, new_size - 1
    while node % 2:
        node, last = node >> 1, last >> 1
    old = new = path[0]
    for sibling in path[1:]:
        if last == 0:
            raise ProofInvalid("consistency proof: too long")
        if node % 2 or node == last:
            old, new = node_hash(sibling, old), node_hash(sibling, new)
            while node % 2 == 0 and node != 0:
                node, last = node >> 1, last >> 1
        else:
            new = node_hash(new, sibling)
        node, last = node >> 1, last >> 1
    if last != 0:
        raise ProofInvalid("consistency proof: too short")
    if old != old_root or new != new_root:
        raise ProofInvalid("consistency proof: leads to another root")


class Tree:
    """A growing tree that keeps what the next tiles and the root need: all tile hashes but the leaves of full tiles.

    Memory is about one hash per 256 leaves. Not thread-safe; ``copy`` is cheap and independent.
    """

    __slots__ = ("_hashing", "_levels", "_size")

    def __init__(self, hashing: Hashing = SHA256) -> None:
        self._hashing = hashing
        # Level 0: the leaves after the last full tile. Level n > 0: every hash of that level of tiles.
        self._levels: list[list[bytes]] = [[]]
        self._size = 0

    @property
    def size(self) -> int:
        """Leaves."""
        return self._size

    def copy(self) -> Tree:
        """The same tree, to be grown on trial."""
        other = Tree(self._hashing)
        other._levels = [level[:] for level in self._levels]
        other._size = self._size
        return other

    def add(self, data: bytes) -> None:
        """Add a leaf by its bytes."""
        self.append(self._hashing.leaf(data))

    def append(self, leaf: bytes) -> tuple[bytes, ...]:
        """Add a leaf hash. Returns the full tile of leaves if it completed one, else nothing."""
        leaves = self._levels[0]
        leaves.append(leaf)
        self._size += 1
        if len(leaves) < TILE_WIDTH:
            return ()
        full = tuple(leaves)
        leaves.clear()
        self._lift(1, root(full, self._hashing))
        return full

    def root(self) -> bytes:
        """MTH of all leaves."""
        peaks: list[bytes] = []
        for level in range(len(self._levels) - 1, -1, -1):
            hashes = self._levels[level]
            rest = hashes[len(hashes) - len(hashes) % TILE_WIDTH :]
            at = 0
            while at < len(rest):
                # The largest perfect subtrees first, as the tree's right edge has them.
                width = 1 << ((len(rest) - at).bit_length() - 1)
                peaks.append(root(rest[at : at + width], self._hashing))
                at += width
        if not peaks:
            return self._hashing.empty
        here = peaks.pop()
        while peaks:
            here = self._hashing.node(peaks.pop(), here)
        return here

    def tile(self, level: int, index: int, width: int) -> bytes:
        """The bytes of a tile. Of level 0 only the partial one is known here; others raise IndexError."""
        first = 0 if level == 0 else index * TILE_WIDTH
        if level == 0 and index != self._size // TILE_WIDTH:
            raise IndexError(index)
        hashes = self._levels[level][first : first + width]
        if len(hashes) != width:
            raise IndexError(index)
        return b"".join(hashes)

    def full_tile_root(self, index: int) -> bytes:
        """Root of the full level-0 tile ``index``. Raises IndexError."""
        return self._levels[1][index]

    def root_at(self, size: int, leaves: Sequence[bytes]) -> bytes:
        """The root that the tree had at an earlier size from 1; ``leaves``: those of the bundle in which it ended."""
        rest = size % TILE_WIDTH
        hashes = [self._hashing.leaf(leaf) for leaf in leaves[:rest]]
        level, width = 1, size // TILE_WIDTH
        while True:
            # A partial subtree at the end is paired as a whole one: RFC 6962 splits at a power of two, from the left.
            tail = [root(hashes, self._hashing)] if hashes else []
            if not width:
                return tail[0]
            hashes = self._levels[level][width - width % TILE_WIDTH : width] + tail
            level, width = level + 1, width // TILE_WIDTH

    def leaves(self) -> tuple[bytes, ...]:
        """The leaf hashes after the last full tile."""
        return tuple(self._levels[0])

    def _lift(self, level: int, value: bytes) -> None:
        if level == len(self._levels):
            self._levels.append([])
        hashes = self._levels[level]
        hashes.append(value)
        if len(hashes) % TILE_WIDTH == 0:
            self._lift(level + 1, root(hashes[-TILE_WIDTH:], self._hashing))


def _subproof(old_size: int, hashes: Sequence[bytes], *, whole: bool) -> tuple[bytes, ...]:
    if old_size == len(hashes):
        return () if whole else (root(hashes),)
    split = _split(len(hashes))
    if old_size <= split:
        return (*_subproof(old_size, hashes[:split], whole=whole), root(hashes[split:]))
    return (*_subproof(old_size - split, hashes[split:], whole=False), root(hashes[:split]))


def _split(size: int) -> int:
    """The largest power of two below ``size`` (which is 2 or more)."""
    return 1 << ((size - 1).bit_length() - 1)


def _refuse_bad_hashes(hashes: Sequence[bytes]) -> None:
    if any(len(value) != HASH_BYTES for value in hashes):
        raise ProofInvalid("proof: a hash is not of 32 bytes")
