"""What a process knows of a log: the tree, which key is which entry, and the next number of each source.

It grows by verified leaves only, on trial: a Growth is checked against a signed root before it becomes State, so a
failure half-way changes nothing.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field

from audit.errors import AuditCorrupt
from audit.merkle import Tree


@dataclass(slots=True)
class State:
    """Everything up to one signed head. ``keys`` maps idempotency keys to indices; ``seqs`` sources to next numbers.

    ``beside`` is a tree of the same leaves with another hash, where there is one.
    """

    tree: Tree = field(default_factory=Tree)
    beside: Tree | None = None
    keys: dict[str, int] = field(default_factory=dict)
    seqs: dict[str, int] = field(default_factory=dict)


class Growth:
    """A State and some leaves more, on trial."""

    def __init__(self, state: State) -> None:
        self._state = state
        self._keys: dict[str, int] = {}
        self._seqs = dict(state.seqs)
        self.tree = state.tree.copy()
        self.beside = None if state.beside is None else state.beside.copy()

    def add(self, leaf: bytes) -> None:
        """Take the next leaf's bytes. Raises AuditCorrupt if it repeats a key or skips a number.

        Only the envelope is read: the signed root covers the bytes, and they were checked before they were written.
        """
        try:
            envelope = json.loads(leaf)
            key, source, seq = str(envelope["key"]), str(envelope["source"]), int(envelope["seq"])
        except (ValueError, KeyError, TypeError, RecursionError):
            raise AuditCorrupt(f"entry {self.tree.size}", "not an entry") from None
        self.place(leaf, key, source, seq)

    def place(self, leaf: bytes, key: str, source: str, seq: int) -> None:
        """As ``add``, by whoever made the leaf of these and need not read them out of it again."""
        index = self.tree.size
        where = f"entry {index}"
        if key in self._keys or key in self._state.keys:
            raise AuditCorrupt(where, "its key is another entry's")
        if seq != self._seqs.get(source, 0):
            raise AuditCorrupt(where, "its source's sequence has a gap")
        self.tree.add(leaf)
        if self.beside is not None:
            self.beside.add(leaf)
        self._keys[key] = index
        self._seqs[source] = seq + 1

    def find(self, key: str) -> int | None:
        """The index of the entry with this key, in the State or among what is on trial."""
        return self._keys.get(key, self._state.keys.get(key))

    def next_seq(self, source: str) -> int:
        """The next number of a source."""
        return self._seqs.get(source, 0)

    def fork(self) -> Growth:
        """The same, to be grown further on trial."""
        other = Growth(self._state)
        other._keys, other._seqs, other.tree = dict(self._keys), dict(self._seqs), self.tree.copy()
        other.beside = None if self.beside is None else self.beside.copy()
        return other

    def accept(self) -> None:
        """Make it the State. Cannot fail, so State never holds half of it."""
        self._state.keys.update(self._keys)
        self._state.seqs = self._seqs
        self._state.tree, self._state.beside = self.tree, self.beside
