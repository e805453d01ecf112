"""The published part of a log: what its tiles and public checkpoint hold, in memory and on disk, and how it grows.

Grows by commits that are under a signed head, from their staged files, or by what another process has published. Only
the log uses it, with the log's lock held; see log for the order of things.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

from audit import layout
from audit.beside import Beside
from audit.checkpoint import Checkpoint
from audit.durable import Disk
from audit.errors import AuditCorrupt
from audit.files import Files
from audit.layout import CHECKPOINT, ENTRIES_LEVEL, HEAD, TILE, StagedName, TileName
from audit.merkle import TILE_WIDTH, Tree, leaf_hash, root
from audit.sm3 import SM3_TREE
from audit.state import Growth, State


class Published:
    """What is published of one log. ``state`` is in memory, and under a verified head.

    ``committed``, where it is asked for, is the tree of all that we have committed, published or not: whatever is
    taken from disk must contain it. ``beside``: also sign the SM3 tree. Raises AuditCorrupt, OSError.
    """

    def __init__(self, root: Path, files: Files, disk: Disk, beside: Beside | None) -> None:
        self._root, self._files, self._disk, self._beside = root, files, disk, beside
        self.state = State(beside=None if beside is None else Tree(SM3_TREE))

    def again(self) -> Growth:
        """The state, to be grown on trial, once what is on disk of its last bundle was compared with it."""
        return self._grown(self.state.tree.size, self.state.tree)[0]

    def bundle(self, index: int) -> tuple[bytes, ...]:
        """The leaves of one bundle, as far as it is published, checked against the tree in memory."""
        tree = self.state.tree
        width = min(TILE_WIDTH, tree.size - index * TILE_WIDTH)
        name = TileName(ENTRIES_LEVEL, index, width)
        leaves = self._files.bundle(name)
        hashes = tuple(leaf_hash(leaf) for leaf in leaves)
        good = root(hashes) == tree.full_tile_root(index) if width == TILE_WIDTH else hashes == tree.leaves()
        if not good:
            raise AuditCorrupt(name.path, "its entries are not those that were signed")
        return leaves

    def signed_head(self, committed: Tree, *, known: bool) -> Checkpoint | None:
        """The head on disk, which must be there if one is known or entries were published, and not go back.

        None: there is no log.
        """
        head = self._files.checkpoint(HEAD)
        if head is None:
            if known or (self._root / CHECKPOINT).exists() or (self._root / TILE).exists():
                raise AuditCorrupt(HEAD, "missing, though entries were published")
        elif head.size < committed.size or (head.size == committed.size and head.root != committed.root()):
            raise AuditCorrupt(HEAD, "went back behind what was committed")
        return head

    def chain(self, head: Checkpoint) -> list[StagedName]:
        """The commits that follow on each other up to the head, from what is published on; none if all of it is.

        A public checkpoint is written when its tiles are durable, so what it covers need not be published again.
        """
        public = self._files.checkpoint(CHECKPOINT)
        size = self.state.tree.size if public is None else max(public.size, self.state.tree.size)
        staged = [name for name in self._files.staged() if name.size > size]
        chain = [name for name in staged if (name.size, name.root) == (head.size, head.root)][:1]
        while chain and chain[0].start > size:
            before = [name for name in staged if name.size == chain[0].start]
            if not before:
                break
            chain.insert(0, before[0])
        return chain if chain and chain[0].start >= self.state.tree.size else []

    def take(self, head: Checkpoint, committed: Tree) -> None:
        """Take what is published into memory; it must be all that the head commits to."""
        public = self._files.checkpoint(CHECKPOINT)
        if public is None or (public.size, public.root) != (head.size, head.root):
            raise AuditCorrupt(CHECKPOINT, "is not the head's, and the entries between are not staged")
        growth, _ = self._grown(head.size, committed)
        self._refuse_ahead(head)
        if growth.tree.root() != head.root:
            raise AuditCorrupt(HEAD, "its root is not the entries'")
        for name in layout.tiles(self.state.tree.size, head.size):
            if name.level > 0 and self._files.read(name.path) != growth.tree.tile(name.level, name.index, name.width):
                raise AuditCorrupt(name.path, "its hashes are not those of the level below")
        growth.accept()

    def look(self, chain: Sequence[StagedName], head: Checkpoint, committed: Tree) -> tuple[Growth, tuple[bytes, ...]]:
        """Take what is published below a chain into memory; the chain beyond that, and its leaves. Writes nothing."""
        below, _ = self._grown(chain[0].start, committed)
        ahead = below.fork()
        fresh = self._followed(chain, ahead, committed)
        self._refuse_ahead(head)
        below.accept()
        return ahead, fresh

    def sign_beside(self) -> None:
        """Sign the head of the SM3 tree, where the site wants it and what is published has none yet."""
        if self._beside is not None:
            self._beside.look()
            self._beside.publish(self.state.beside)

    def publish(
        self,
        chain: Sequence[StagedName],
        head: Checkpoint,
        committed: Tree,
        made: tuple[Growth, tuple[bytes, ...]] | None,
    ) -> None:
        """Write the tiles and the checkpoint of some commits; each step finds what an interrupted one left.

        ``made``: what we have committed since we published last, and its leaves. Where the staged files still hold just
        that, to the byte, nothing needs to be read out of them again.
        """
        staged = StagedName(chain[0].start, head.size, head.root)
        growth, run = self._grown(staged.start, committed)
        public = self._files.checkpoint(CHECKPOINT)
        if public is not None and public.size == staged.start and public.root != growth.tree.root():
            raise AuditCorrupt(CHECKPOINT, "its root is not the entries'")
        if made is not None and staged.start == self.state.tree.size and made[1] == self._unpacked(chain):
            growth, fresh = made
        else:
            fresh = self._followed(chain, growth, committed)
        self._refuse_ahead(head)
        if (growth.tree.size, growth.tree.root()) != (head.size, head.root):
            raise AuditCorrupt(HEAD, "its root is not the entries'")
        run = (*run, *fresh)
        first = staged.start - staged.start % TILE_WIDTH
        for name in layout.tiles(staged.start, staged.size):
            part = run[name.index * TILE_WIDTH - first :][: name.width] if name.level <= 0 else ()
            if name.level == ENTRIES_LEVEL:
                data = layout.pack(part)
            elif name.level == 0:
                data = b"".join(leaf_hash(leaf) for leaf in part)
            else:
                data = growth.tree.tile(name.level, name.index, name.width)
            self._disk.make_dirs((self._root / name.path).parent)
            self._files.create_same(name.path, data)
        # A crash up to here leaves tiles that no public checkpoint speaks of, and that can only be made the same again.
        if self._beside is not None:
            # Before the checkpoint, which says that all is done: a crash here leaves it ahead, but never of the head.
            self._beside.publish(growth.beside)
        self._disk.replace(self._root / CHECKPOINT, head.note.encode())
        growth.accept()
        self._drop_superseded(staged)

    def _grown(self, size: int, committed: Tree) -> tuple[Growth, tuple[bytes, ...]]:
        """Memory grown to ``size`` by published entries, and the entries of the partial bundle at its end, if any.

        Each bundle read is compared with its tile of hashes, to name the file that is wrong, and its known beginning
        with the tree in memory, so that nothing rewritten since is ever published again.
        """
        growth = Growth(self.state)
        if self._beside is not None:
            self._beside.look()
            self._beside.agree(growth.beside)
        leaves: tuple[bytes, ...] = ()
        for name in layout.bundles(self.state.tree.size, size):
            leaves = self._files.bundle(name)
            hashes = tuple(leaf_hash(leaf) for leaf in leaves)
            if self._files.hashes(TileName(0, name.index, name.width)) != hashes:
                raise AuditCorrupt(name.path, "its entries are not those of its tile of hashes")
            known = growth.tree.leaves()
            if hashes[: len(known)] != known:
                raise AuditCorrupt(name.path, "its entries are not those that were signed")
            for leaf in leaves[len(known) :]:
                self._grow(growth, leaf, committed)
        return growth, leaves if size % TILE_WIDTH else ()

    def _followed(self, chain: Sequence[StagedName], growth: Growth, committed: Tree) -> tuple[bytes, ...]:
        """The leaves of a chain, by which the growth is grown; each commit must lead to the root in its name."""
        fresh: list[bytes] = []
        for commit in chain:
            for leaf in self._unpacked((commit,)):
                self._grow(growth, leaf, committed)
                fresh.append(leaf)
            if (growth.tree.size, growth.tree.root()) != (commit.size, commit.root):
                raise AuditCorrupt(commit.path, "its entries do not lead to the root in its name")
        return tuple(fresh)

    def _unpacked(self, chain: Sequence[StagedName]) -> tuple[bytes, ...]:
        return tuple(
            leaf for commit in chain for leaf in self._files.unpacked(commit.path, self._files.read(commit.path))
        )

    def _refuse_ahead(self, head: Checkpoint) -> None:
        if self._beside is not None:
            self._beside.refuse_ahead(head)

    def _grow(self, growth: Growth, leaf: bytes, committed: Tree) -> None:
        """Add a leaf from disk; what we have committed and not published must be among them."""
        growth.add(leaf)
        size = growth.tree.size
        if size == committed.size > self.state.tree.size and growth.tree.root() != committed.root():
            raise AuditCorrupt(HEAD, "does not follow on what was committed")
        if self._beside is not None:
            self._beside.agree(growth.beside)

    def _drop_superseded(self, staged: StagedName) -> None:
        # Partial tiles may go once the full tile is there (tlog-tiles, "Partial Tiles"); left-overs harm nobody.
        for folder in layout.superseded(staged.start, staged.size):
            with suppress(FileNotFoundError):
                for path in (self._root / folder).iterdir():
                    self._disk.discard(path)
                (self._root / folder).rmdir()
