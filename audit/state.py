"""What a process knows of a log: the tree, which key is which entry, and the next number of each source.

It grows by verified leaves only, on trial: a Growth is checked against a signed root before it becomes State, so a
failure half-way changes nothing.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field

from audit.errors import AuditCorrupt
from audit.merkle import Tree, leaf_hash


@dataclass(slots=True)
class State:
    """Everything up to one signed head. ``keys`` maps idempotency keys to indices; ``seqs`` sources to next numbers."""

    tree: Tree = field(default_factory=Tree)
    keys: dict[str, int] = field(default_factory=dict)
    seqs: dict[str, int] = field(default_factory=dict)


class Growth:
    """A State and some leaves more, on trial."""

    def __init__(self, state: State) -> None:
        self._state = state
        self._keys: dict[str, int] = {}
        self._seqs = dict(state.seqs)
        self.tree = state.tree.copy()

    def add(self, leaf: bytes) -> None:
        """Take the next leaf's bytes. Raises AuditCorrupt if it repeats a key or skips a number.

        Only the envelope is read: the signed root covers the bytes, and they were checked before they were written.
        """
        index = self.tree.size
        where = f"entry {index}"
        try:
            envelope = json.loads(leaf)
            key, source, seq = str(envelope["key"]), str(envelope["source"]), int(envelope["seq"])
        except (ValueError, KeyError, TypeError, RecursionError):
            raise AuditCorrupt(where, "not an entry") from None
        if key in self._keys or key in self._state.keys:
            raise AuditCorrupt(where, "its key is another entry's")
        if seq != self._seqs.get(source, 0):
            raise AuditCorrupt(where, "its source's sequence has a gap")
        self.tree.append(leaf_hash(leaf))
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
        return other

    def accept(self) -> None:
        """Make it the State. Cannot fail, so State never holds half of it."""
        self._state.keys.update(self._keys)
        self._state.seqs = self._seqs
        self._state.tree = self.tree
