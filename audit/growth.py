"""How a log grew: roots and consistency proofs from a few tiles, and the check of our head against a witnessed one.

Reads what it needs and no more: a handful of tiles, however large the log.
"""

from __future__ import annotations

import enum
from collections.abc import Callable
from typing import Protocol

from audit import merkle
from audit.checkpoint import Checkpoint
from audit.errors import ProofInvalid
from audit.layout import TileName
from audit.merkle import EMPTY_ROOT, TILE_WIDTH

_TILE_HEIGHT = 8


class Leaves(Protocol):
    """The log's tree, read. ``audit.files.Files`` is one."""

    def hashes(self, name: TileName) -> tuple[bytes, ...]:
        """The hashes of a tile, as many as its name says. Raises AuditCorrupt, OSError."""


class TreeView:
    """The tree of the first ``size`` leaves: roots and proofs from a few tiles, however large the log."""

    def __init__(self, leaves: Leaves, size: int) -> None:
        self._leaves = leaves
        self._size = size

    def root_at(self, size: int) -> bytes:
        """The root that the tree had at a size up to its own. Raises ProofInvalid for another."""
        if not 0 <= size <= self._size:
            raise ProofInvalid("the tree has no such size")
        return self._range(0, size) if size else EMPTY_ROOT

    def consistency(self, old_size: int) -> tuple[bytes, ...]:
        """PROOF(old_size, D[size]) of RFC 6962, section 2.1.2; empty from 0."""
        if not 0 <= old_size <= self._size:
            raise ProofInvalid("the tree has no such size")
        if old_size in (0, self._size):
            return ()
        proof: list[bytes] = []
        begin, end, whole = 0, self._size, True
        while old_size != end:
            split = begin + (1 << ((end - begin - 1).bit_length() - 1))
            if old_size <= split:
                proof.append(self._range(split, end))
                end = split
            else:
                proof.append(self._range(begin, split))
                begin, whole = split, False
        return tuple(reversed([*proof, *(() if whole else (self._range(begin, end),))]))

    def _range(self, begin: int, end: int) -> bytes:
        """MTH of the leaves from ``begin`` up to ``end``, which begins where a subtree of that many does."""
        width = end - begin
        if width & (width - 1) == 0:
            return self._perfect(begin, width.bit_length() - 1)
        split = begin + (1 << (width.bit_length() - 1))
        return merkle.node_hash(self._range(begin, split), self._range(split, end))

    def _perfect(self, begin: int, height: int) -> bytes:
        level = height // _TILE_HEIGHT
        first, count = begin >> (level * _TILE_HEIGHT), 1 << (height % _TILE_HEIGHT)
        index, at = divmod(first, TILE_WIDTH)
        width = min(TILE_WIDTH, (self._size >> (level * _TILE_HEIGHT)) - index * TILE_WIDTH)
        return merkle.root(self._leaves.hashes(TileName(level, index, width))[at : at + count])


class Standing(enum.Enum):
    """What our head is to a checkpoint that was witnessed."""

    CONSISTENT = "consistent"
    BEHIND = "behind"
    """Our log is shorter: a backup was put back. It must not go on without a signed RESTORE entry."""
    FORKED = "forked"
    """Our log is another history, or another log."""


def standing(head: Checkpoint, root_at: Callable[[int], bytes], witnessed: Checkpoint) -> Standing:
    """The opening check. ``root_at(n)`` is the root of our first n leaves, asked only for n up to ``head.size``.

    Pure; what ``root_at`` raises passes through. BEHIND cannot tell an honest old copy from a forked one.
    """
    if head.origin != witnessed.origin:
        return Standing.FORKED
    if witnessed.size > head.size:
        return Standing.BEHIND
    return Standing.CONSISTENT if root_at(witnessed.size) == witnessed.root else Standing.FORKED
