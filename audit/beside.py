"""The public head of the SM3 tree, ``sm3/checkpoint``: read and checked, and written with each publication.

Only ``published`` uses it, with the log's lock held. Raises AuditCorrupt, OSError.
"""

from __future__ import annotations

from pathlib import Path

from audit.checkpoint import Checkpoint
from audit.durable import Disk
from audit.errors import AuditCorrupt
from audit.files import Files
from audit.layout import SM3_CHECKPOINT
from audit.merkle import Tree
from audit.note import Signer
from audit.sm3 import origin_of


class Beside:
    """The heads of one log's SM3 tree; ``signer`` is the log's own."""

    def __init__(self, root: Path, origin: str, signer: Signer, disk: Disk) -> None:
        self._path, self._origin, self._disk = root / SM3_CHECKPOINT, origin_of(origin), disk
        self._signer = signer.named(self._origin)
        self._files = Files(root, self._origin, self._signer.verifier, disk)
        self._said: Checkpoint | None = None

    def look(self) -> None:
        """Read what was signed last."""
        self._said = self._files.checkpoint(SM3_CHECKPOINT)

    def agree(self, tree: Tree | None) -> None:
        """Refuse a tree that has another root than was signed for its size."""
        said = self._said
        if said is not None and tree is not None and tree.size == said.size and tree.root() != said.root:
            raise AuditCorrupt(SM3_CHECKPOINT, "its root is not the entries'")

    def refuse_ahead(self, head: Checkpoint) -> None:
        """It is written when its entries are under the head: one that knows more has seen another history."""
        if self._said is not None and self._said.size > head.size:
            raise AuditCorrupt(SM3_CHECKPOINT, "knows more entries than the head")

    def publish(self, tree: Tree | None) -> None:
        """Sign the tree's head, unless that is what was signed last."""
        if tree is None or tree.size == 0 or (self._said is not None and self._said.size == tree.size):
            return
        head = Checkpoint.sign(self._signer, self._origin, tree.size, tree.root())
        self._disk.make_dirs(self._path.parent)
        self._disk.replace(self._path, head.note.encode())
        self._said = head
