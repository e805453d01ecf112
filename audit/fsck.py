"""Re-derives the whole log from its entries, and believes nothing that the writer's code computed.

Imports only the pure modules; shares no line with ``log``. Reads a live log too: it takes the heads under the log's
lock for a moment, then checks up to them while writers go on. Memory is about 200 bytes per entry.
"""

from __future__ import annotations

import fcntl
import hashlib
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from audit.checkpoint import Checkpoint
from audit.entry import parse
from audit.errors import EntryInvalid, NoteError
from audit.layout import (
    CHECKPOINT,
    ENTRIES_LEVEL,
    HEAD,
    LOCK,
    SM3_CHECKPOINT,
    STAGING,
    StagedName,
    TileName,
    bundles,
    parse_staged,
    parse_tile,
    tiles,
    unpack,
)
from audit.merkle import HASH_BYTES, TILE_WIDTH, leaf_hash
from audit.merkle import root as merkle_root
from audit.note import Verifier
from audit.sm3 import SM3_TREE, origin_of, verifier_of

PROBLEMS_MAX = 1000
"""Named at most; a disk that lost everything need not be listed file by file."""
OURS = frozenset({HEAD, CHECKPOINT, SM3_CHECKPOINT, LOCK})
_KEY_BYTES = 16


@dataclass(frozen=True, slots=True)
class Problem:
    """One thing that is wrong: ``where`` is a path inside the log, with the entry's index where there is one."""

    where: str
    what: str


@dataclass(frozen=True, slots=True)
class Report:
    """What was found. ``size`` and ``root_hash`` (hexadecimal) are the head's; ``signed``: a key was given to check it.

    ``ok`` without ``signed`` says only that the directory agrees with itself.
    """

    ok: bool
    size: int
    root_hash: str
    problems: tuple[Problem, ...]
    signed: bool


def check(root: Path, verifier: Verifier | None) -> Report:
    """Check everything in the directory. Raises OSError if it cannot be read; whatever else is wrong is a Problem."""
    return _Check(root, verifier).run()


class _Check:
    """One run. Collects problems; never stops at the first."""

    def __init__(self, root: Path, verifier: Verifier | None) -> None:
        self._root = root
        self._verifier = verifier
        self._problems: list[Problem] = []
        self._derived: list[bytes] = []  # leaf hashes, from the entries
        self._claims: list[bytes] = []  # leaf hashes, from the tiles
        self._levels: list[list[bytes]] = [[]]  # the hashes that all tiles should hold, level by level
        self._unknown = False  # some leaf hash is known neither from its entry nor from its tile
        self._lost = 0  # entries that could not be read
        self._beside: list[bytes] = []  # SM3 leaf hashes, from the entries; where there is a head that signs them
        self._hashes_beside = False
        self._keys: set[bytes] = set()
        self._seqs: dict[str, int] = {}

    def run(self) -> Report:
        """Heads, entries, roots, tiles, strays: in this order."""
        with self._still():
            head = self._head(HEAD, self._verifier)
            # Before the first commit is published there is no public checkpoint.
            born = (self._root / CHECKPOINT).exists()
            public = self._head(CHECKPOINT, self._verifier) if born else None
            staged = self._staged(head, 0 if public is None else public.size)
            beside = None if head is None else self._head_beside(head.origin)
            if not born and not (staged and staged[0][0].start == 0):
                self._wrong(CHECKPOINT, "missing")
        published = 0
        if head is not None:
            published = staged[0][0].start if staged else head.size
            for name in bundles(0, published):
                self._bundle(name)
            for commit, data in staged:
                self._take_staged(commit, data)
            self._arbitrate(head)
            self._heads(head, public, published)
            self._tree_beside(head, beside)
            for name in tiles(0, published):
                self._tile(name)
            self._others(published, head)
        size, root_hash = (0, "") if head is None else (head.size, head.root.hex())
        problems = tuple(self._problems)
        return Report(not problems, size, root_hash, problems, self._verifier is not None)

    def _head_beside(self, origin: str) -> Checkpoint | None:
        """The head of the SM3 tree, where the site has turned it on at some time."""
        self._hashes_beside = (self._root / SM3_CHECKPOINT).exists()
        if not self._hashes_beside:
            return None
        head = self._head(SM3_CHECKPOINT, self._verifier and verifier_of(origin, self._verifier))
        if head is not None and head.origin != origin_of(origin):
            self._wrong(SM3_CHECKPOINT, "is of another log than the head")
        return head

    def _tree_beside(self, head: Checkpoint, beside: Checkpoint | None) -> None:
        """The root of the SM3 tree. It may be behind: where the site has turned it off, it stays what it was."""
        if beside is None:
            return
        if beside.size > head.size:
            self._wrong(SM3_CHECKPOINT, f"has {beside.size} entries, the head {head.size}")
        elif self._unknown or merkle_root(self._derived) != head.root:
            return  # the files whose entries are wrong are named already
        elif merkle_root(self._beside[: beside.size], SM3_TREE) != beside.root:
            self._wrong(SM3_CHECKPOINT, "its root is not that of the entries")

    def _head(self, path: str, verifier: Verifier | None) -> Checkpoint | None:
        try:
            note = (self._root / path).read_bytes().decode()
            if verifier is None:
                return Checkpoint.unverified(note)
            return Checkpoint.open(note, (verifier,))
        except FileNotFoundError:
            self._wrong(path, "missing")
        except UnicodeDecodeError:
            self._wrong(path, "not text")
        except NoteError as error:
            self._wrong(path, f"{error.code}: {error}")
        return None

    def _staged(self, head: Checkpoint | None, public: int) -> list[tuple[StagedName, bytes]]:
        """The commits from the public size to the head, each with its bytes: a live writer publishes them."""
        names: list[StagedName] = []
        with suppress(FileNotFoundError):
            found = (parse_staged(path.name) for path in sorted((self._root / STAGING).iterdir()))
            names = [name for name in found if name is not None and name.size > public]
        chain: list[StagedName] = []
        wanted = None if head is None else [name for name in names if (name.size, name.root) == (head.size, head.root)]
        while wanted:
            chain.insert(0, wanted[0])
            wanted = [name for name in names if name.size == chain[0].start]
        return [(name, (self._root / name.path).read_bytes()) for name in chain]

    def _bundle(self, name: TileName) -> None:
        """Read a bundle's entries, and beside them what the tile of leaf hashes claims they are."""
        first = name.index * TILE_WIDTH
        tile = self._tile_bytes(TileName(0, name.index, name.width))
        claimed = self._claimed(tile, name.width)
        data = self._tile_bytes(name)
        leaves: tuple[bytes, ...] | None = None
        if data is None:
            self._wrong(name.path, "missing")
        else:
            leaves = self._leaves(name.path, data, first, name.width)
        derived = claimed if leaves is None else [leaf_hash(leaf) for leaf in leaves]
        if derived is None:
            self._unknown = True
            derived = [b""] * name.width
        self._derived.extend(derived)
        self._claims.extend(derived if claimed is None else claimed)

    def _take_staged(self, staged: StagedName, data: bytes) -> None:
        leaves = self._leaves(staged.path, data, staged.start, staged.size - staged.start)
        hashes = [b""] * (staged.size - staged.start) if leaves is None else [leaf_hash(leaf) for leaf in leaves]
        self._unknown = self._unknown or leaves is None
        self._derived.extend(hashes)
        self._claims.extend(hashes)

    def _leaves(self, path: str, data: bytes, first: int, width: int) -> tuple[bytes, ...] | None:
        """The entries of a bundle or staged file, each looked at; None if they cannot be told apart."""
        try:
            leaves = unpack(data)[:width]
        except EntryInvalid as error:
            self._wrong(path, str(error))
            self._lost += width
            return None
        if len(leaves) != width:
            self._wrong(path, f"holds {len(leaves)} entries instead of {width}")
            self._lost += width
            return None
        for offset, leaf in enumerate(leaves):
            self._entry(f"{path} entry {first + offset}", first + offset, leaf)
            if self._hashes_beside:
                self._beside.append(SM3_TREE.leaf(leaf))
        return leaves

    def _entry(self, where: str, index: int, leaf: bytes) -> None:
        try:
            entry = parse(index, leaf)
        except EntryInvalid as error:
            self._wrong(where, str(error))
            self._lost += 1
            return
        due = self._seqs.get(entry.source, 0)
        # Entries that could not be read may have been of this source; they are named already.
        if not due <= entry.seq <= due + self._lost:
            self._wrong(where, f"number {entry.seq} of its source where {due} was due")
        self._seqs[entry.source] = entry.seq + 1
        # A digest, since keys are long and many.
        key = hashlib.sha256(entry.key.encode()).digest()[:_KEY_BYTES]
        if key in self._keys:
            self._wrong(where, "repeats the key of an earlier entry")
        self._keys.add(key)

    def _arbitrate(self, head: Checkpoint) -> None:
        """Entries and tiles may disagree; the signed root says which of them is wrong. Then compute every level."""
        leaves = self._derived
        if self._derived != self._claims and merkle_root(self._derived) != head.root:
            if merkle_root(self._claims) == head.root:
                leaves = self._claims
            for index, (derived, claimed) in enumerate(zip(self._derived, self._claims, strict=True)):
                if derived != claimed:
                    name = next(bundles(index, head.size))
                    self._wrong(f"{name.path} entry {index}", "is not the entry that was signed")
        self._levels = [leaves]
        while len(self._levels[-1]) >= TILE_WIDTH:
            below = self._levels[-1]
            whole = len(below) - len(below) % TILE_WIDTH
            self._levels.append([merkle_root(below[at : at + TILE_WIDTH]) for at in range(0, whole, TILE_WIDTH)])

    def _heads(self, head: Checkpoint, public: Checkpoint | None, published: int) -> None:
        if public is not None and public.origin != head.origin:
            self._wrong(CHECKPOINT, "is of another log than the head")
        if public is not None and public.size not in (published, head.size):
            self._wrong(CHECKPOINT, f"has {public.size} entries, the head {head.size}; those between are not staged")
        if self._unknown:
            return  # every root would differ; the files that could not be read are named already
        leaves = self._levels[0]
        for path, signed in ((HEAD, head), (CHECKPOINT, public)):
            if signed is not None and signed.size <= len(leaves) and merkle_root(leaves[: signed.size]) != signed.root:
                self._wrong(path, "its root is not that of the entries")

    def _tile(self, name: TileName) -> None:
        """A tile that must be there for the head; partial ones of earlier heads are looked at in ``_others``."""
        if name.level == ENTRIES_LEVEL:
            return
        data = self._tile_bytes(name)
        if data is None:
            self._wrong(name.path, "missing")
        elif not self._unknown and not self._holds(data, name):
            self._wrong(name.path, "its hashes are not those of the entries")

    def _holds(self, data: bytes, name: TileName) -> bool:
        """Whether a tile, or the full one that took its place, begins with what it should; to the byte if it is it."""
        expected = self._expected(name)
        return data == expected or (data[: len(expected)] == expected and data == self._expected(name.full))

    def _claimed(self, tile: bytes | None, width: int) -> list[bytes] | None:
        if tile is None or len(tile) < width * HASH_BYTES:
            return None
        return [tile[at : at + HASH_BYTES] for at in range(0, width * HASH_BYTES, HASH_BYTES)]

    def _expected(self, name: TileName) -> bytes:
        level = self._levels[name.level] if name.level < len(self._levels) else []
        return b"".join(level[name.index * TILE_WIDTH :][: name.width])

    def _others(self, published: int, head: Checkpoint) -> None:
        """Every other file: partial tiles of earlier heads must be beginnings of what is now; the rest is stray."""
        needed = set(tiles(0, published))
        paths = sorted(path for path in self._root.rglob("*") if not path.is_dir())
        with self._still():
            # Writers went on meanwhile: what they committed since is theirs, not stray. It is the next run's to check.
            later = self._newest_size(head.size)
        for path in paths:
            relative = str(PurePosixPath(path.relative_to(self._root)))
            if relative in OURS or (path.name.startswith(".") and path.name.endswith(".tmp")):
                continue
            if path.parent == self._root / STAGING and parse_staged(path.name) is not None:
                continue
            name = parse_tile(relative)
            if name is None or _leaves_below(name) > later:
                self._wrong(relative, "does not belong to the log")
            elif name not in needed and _leaves_below(name) <= published and not self._unknown:
                self._earlier(name)

    def _earlier(self, name: TileName) -> None:
        """A partial tile or bundle of an earlier head."""
        try:
            data = (self._root / name.path).read_bytes()
        except FileNotFoundError:
            return  # superseded by a full one while we looked
        if name.level != ENTRIES_LEVEL:
            if data != self._expected(name):
                self._wrong(name.path, "its hashes are not those of the entries")
            return
        try:
            hashes = [leaf_hash(leaf) for leaf in unpack(data)]
        except EntryInvalid as error:
            self._wrong(name.path, str(error))
            return
        if hashes != self._levels[0][name.index * TILE_WIDTH :][: name.width]:
            self._wrong(name.path, "its entries are not those of the newest bundle")

    def _tile_bytes(self, name: TileName) -> bytes | None:
        for each in (name, name.full):
            with suppress(FileNotFoundError):
                return (self._root / each.path).read_bytes()
        return None

    def _newest_size(self, otherwise: int) -> int:
        try:
            return max(otherwise, Checkpoint.unverified((self._root / HEAD).read_bytes().decode()).size)
        except (FileNotFoundError, UnicodeDecodeError, NoteError):
            return otherwise

    @contextmanager
    def _still(self) -> Iterator[None]:
        """No commit under way for the block, as far as the lock can be had: a copy for a reviewer may have none."""
        with ExitStack() as stack:
            try:
                handle = stack.enter_context((self._root / LOCK).open("rb"))
                fcntl.flock(handle, fcntl.LOCK_SH)
            except FileNotFoundError:
                pass
            yield

    def _wrong(self, where: str, what: str) -> None:
        if len(self._problems) < PROBLEMS_MAX:
            self._problems.append(Problem(where, what))


def _leaves_below(name: TileName) -> int:
    """The smallest tree that has this tile."""
    span: int = 1 if name.level <= 0 else TILE_WIDTH**name.level
    return (name.index * TILE_WIDTH + name.width) * span
