"""The log itself: many writers, one order, and nothing is said to be logged before it is durable, signed and published.

Commit order, and what a crash after each step leaves:

1. *stage*: the new entries in ``staging/<from>-<to>-<root>``, synced. A crash leaves a file that no head names; it is
   thrown away, and nobody was told that these entries exist.
2. *commit*: the signed ``head`` is replaced atomically and synced. This is the one commit point. A crash leaves entries
   that are logged and not yet readable; ``recover`` publishes them from the staged files.
3. *publish*: tiles, then ``checkpoint``, then the staged files go. Publishing is idempotent: a crash anywhere in it
   is repaired by doing it again. It may be put off for some commits (``publish_s``), whose staged files then follow on
   each other up to the head: a commit costs four syncs, publishing six and more.

Publishing *is* ``recover``: the ordinary path runs it, reading back from disk what it is going to believe. An error
at any step raises AuditUnavailable and marks memory as suspect, so that the next call recovers from disk first; "failed
but persisted" is then found by its key. The staging pattern is Sunlight's (``internal/ctlog``).
"""

from __future__ import annotations

import errno
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from datetime import datetime
from pathlib import Path

from audit import durable, layout, merkle
from audit.checkpoint import Checkpoint
from audit.durable import Disk
from audit.entry import Draft, Entry, Kind, parse, refuse_bad_source
from audit.errors import (
    AuditCorrupt,
    AuditError,
    AuditUnavailable,
    EntryInvalid,
    KeyConflict,
)
from audit.files import Files
from audit.layout import CHECKPOINT, HEAD, LOCK, STAGING, TILE, StagedName
from audit.lock import DirectoryLock
from audit.merkle import TILE_WIDTH
from audit.note import Signer
from audit.published import Published
from audit.state import Growth
from audit.ticket import Ticket

BATCH_MAX = 256
"""Entries in one commit: one tile's worth, so that a commit stays below 16 MiB."""
LOG_START_KEY = "log-start"


class AuditLog:
    """One log in one directory. Threads may share it, and processes may open the same directory.

    Reads and writes raise AuditUnavailable when the disk refuses (repeat later, with the same key) and AuditCorrupt
    when what is on disk is not what was signed (stop: freeze the directory and call for help).
    """

    def __init__(
        self,
        root: Path,
        lock: DirectoryLock,
        *,
        origin: str,
        source: str,
        signer: Signer,
        now: Callable[[], datetime],
        disk: Disk,
        publish_s: float,
        clock: Callable[[], float],
    ) -> None:
        """Use ``open``."""
        self._root = root
        self._lock = lock
        self._origin = origin
        self._source = source
        self._signer = signer
        self._now = now
        self._disk = disk
        self._files = Files(root, origin, signer.verifier, disk)
        self._writer = threading.Lock()  # guards everything below but _waiting; held through a commit
        self._gate = threading.Lock()  # guards _waiting; never held while waiting for anything
        self._waiting: list[Ticket] = []
        self._publish_s = publish_s
        self._clock = clock
        self._public = Published(root, self._files, disk)
        # What is published and what is committed above that, whose leaves are these; all of it is under the head.
        self._ahead = Growth(self._public.state)
        self._leaves: tuple[bytes, ...] = ()
        self._due_at = 0.0
        self._head: Checkpoint | None = None
        self._suspect = True

    @classmethod
    def open(
        cls,
        root: Path,
        *,
        origin: str,
        source: str,
        signer: Signer,
        now: Callable[[], datetime],
        software: str = "zhiying",
        disk: Disk = durable,
        publish_s: float = 0.0,
        clock: Callable[[], float] = time.monotonic,
    ) -> AuditLog:
        """Open the log, or make it when the directory is empty; finish what a crash interrupted; rehash every entry.

        ``origin`` names the log for ever (its checkpoints' first line); ``source`` names this writer; ``now`` gives
        aware time. ``publish_s``: an append may put off publishing for so many seconds by ``clock``, until the next
        append after that, 256 entries, or ``close``; 0 publishes each commit. Takes about 20 us per entry. Raises
        AuditUnavailable, AuditCorrupt, EntryInvalid (a bad name).
        """
        refuse_bad_source(source)
        start = Draft(Kind.LOG_START, LOG_START_KEY, {"origin": origin, "software": software})
        try:
            disk.make_dirs(root / STAGING)
            lock = DirectoryLock(root / LOCK)
        except OSError as error:
            raise _unavailable(error) from error
        log = cls(
            root,
            lock,
            origin=origin,
            source=source,
            signer=signer,
            now=now,
            disk=disk,
            publish_s=publish_s,
            clock=clock,
        )
        try:
            with log._writer, log._refusals(), lock.held():
                durable.sweep(root)
                log._recover(sure=False)
                if log._head is None:
                    log._commit([log._place(start, 0)])
        except BaseException:
            log.close()
            raise
        return log

    def append(self, draft: Draft) -> Entry:
        """Log it. When this returns, the entry is durable and under a signed head; readable by all when published.

        The same key with the same kind, call and body gives the first entry and logs nothing; with any other content it
        raises KeyConflict. Callers that wait at the same time share one commit.
        """
        ticket = Ticket(draft)
        with self._gate:
            self._waiting.append(ticket)
        while not ticket.done:
            with self._writer:
                # Whoever had the writer's lock before us may have committed our ticket with theirs.
                if not ticket.done:
                    with self._gate:
                        batch, self._waiting = self._waiting[:BATCH_MAX], self._waiting[BATCH_MAX:]
                    self._settle(batch)
        return ticket.result()

    def find(self, key: str) -> Entry | None:
        """The entry with this idempotency key, whichever process wrote it."""
        with self._writer, self._refusals():
            self._refresh()
            index = self._ahead.find(key)
            return None if index is None else self._entry(index)

    def entries(self, start: int = 0) -> Iterator[Entry]:
        """All entries from index ``start`` to the head as it is at the first ``next``, each proven by that head."""
        with self._writer, self._refusals():
            self._refresh()
            size = self._ahead.tree.size
        for name in layout.bundles(start, size):
            with self._writer, self._refusals():
                leaves = self._proven(name.index)
            first = name.index * TILE_WIDTH
            for index in range(max(start, first), min(size, first + TILE_WIDTH)):
                yield _parsed(index, leaves[index - first])

    def head(self) -> Checkpoint:
        """The newest signed head."""
        with self._writer, self._refusals():
            self._refresh()
            if self._head is None:
                raise AuditCorrupt(HEAD, "missing")
            return self._head

    def receipt(self, index: int) -> Checkpoint:
        """The log's signed head as it was when entry ``index`` was its last: the same bytes whenever it is asked.

        Ed25519 (RFC 8032) draws no random number, and the root of the first entries never changes. Reads one bundle.
        """
        with self._writer, self._refusals():
            self._refresh()
            if not 0 <= index < self._ahead.tree.size:
                raise EntryInvalid("receipt: no such entry")
            full, rest = divmod(index + 1, TILE_WIDTH)
            # Pairing from the left carries a last, partial tile up whole, as it does a single leaf.
            roots = [self._ahead.tree.full_tile_root(tile) for tile in range(full)]
            if rest:
                roots.append(merkle.root([merkle.leaf_hash(leaf) for leaf in self._proven(full)[:rest]]))
            return Checkpoint.sign(self._signer, self._origin, index + 1, merkle.root(roots))

    def close(self) -> None:
        """Publish what is not, and let go of the directory. Appends after this raise AuditUnavailable. Idempotent."""
        with self._writer:
            # What cannot be published now is by the next to open.
            with suppress(AuditError, OSError):
                self._publish_now()
            self._lock.close()

    def publish(self) -> None:
        """Publish what was put off. Raises AuditUnavailable, AuditCorrupt."""
        with self._writer, self._refusals():
            self._lock.refuse_closed()
            self._publish_now()

    def __enter__(self) -> AuditLog:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    # Everything below runs with the writer's lock held.

    def _settle(self, batch: Sequence[Ticket]) -> None:
        """Commit the tickets that are new and answer every one of them, whatever happens."""
        try:
            with self._refusals(), self._lock.held():
                self._recover_if_changed()
                self._admit(batch)
        except AuditError as error:
            for ticket in batch:
                ticket.fail(error)
        finally:
            for ticket in batch:
                ticket.fail(AuditUnavailable("interrupted; repeat with the same key", errno.EINTR))

    def _admit(self, batch: Sequence[Ticket]) -> None:
        fresh: dict[str, Entry] = {}
        for ticket in batch:
            draft = ticket.draft
            index = self._ahead.find(draft.key)
            first = fresh.get(draft.key) if index is None else self._entry(index)
            try:
                if first is None:
                    first = fresh[draft.key] = self._place(draft, len(fresh))
                elif first.draft.content != draft.content:
                    raise KeyConflict("the key is in the log with other content")
            except (EntryInvalid, KeyConflict) as error:
                ticket.fail(error)
            else:
                ticket.entry = first
        if fresh:
            self._commit(list(fresh.values()))
        for ticket in batch:
            ticket.done = True

    def _place(self, draft: Draft, ahead: int) -> Entry:
        """The draft as the entry that is ``ahead`` places after the tree's end."""
        seq = self._ahead.next_seq(self._source) + ahead
        index = self._ahead.tree.size + ahead
        return Entry.of(draft, index=index, source=self._source, seq=seq, now=self._now())

    def _commit(self, entries: Sequence[Entry]) -> None:
        """Stage, commit, publish. See the module's docstring for what a crash after each leaves."""
        leaves = tuple(entry.to_bytes() for entry in entries)
        if self._leaves:
            growth = self._ahead.fork()
        else:
            # Reads the last bundle again: nothing is signed in a directory that was changed behind us.
            growth = self._public.again()
            # The first entry of all is published at once: a log without a public checkpoint is none.
            self._due_at = self._clock() + (self._publish_s if growth.tree.size else 0.0)
        start = growth.tree.size
        for leaf in leaves:
            growth.add(leaf)
        staged = StagedName(start, growth.tree.size, growth.tree.root())
        self._files.create_same(staged.path, layout.pack(leaves))
        head = Checkpoint.sign(self._signer, self._origin, staged.size, staged.root)
        self._suspect = True
        self._disk.replace(self._root / HEAD, head.note.encode())
        # From here on the entries are in the log, and every later failure only delays when they can be read.
        if len(self._leaves) + len(leaves) >= BATCH_MAX or self._clock() >= self._due_at:
            self._recover(sure=True)
            return
        if self._files.unpacked(staged.path, self._files.read(staged.path)) != leaves:
            raise AuditCorrupt(staged.path, "its entries are not those that were signed")
        self._ahead, self._leaves, self._head, self._suspect = growth, self._leaves + leaves, head, False

    def _publish_now(self) -> None:
        if self._leaves:
            with self._lock.held():
                self._recover(sure=True)

    def _recover_if_changed(self) -> None:
        """Bring memory up to the disk, if an error or another process came between."""
        if self._suspect or self._head is None or self._files.read(HEAD) != self._head.note.encode():
            self._recover(sure=False)

    def _recover(self, *, sure: bool) -> None:
        """Publish what the head commits to and take it into memory; throw away what it does not.

        ``sure``: the head's last write returned without error. Otherwise whoever wrote it may have died, or been told
        of an error, before it was durable: what we now see could be gone after a power cut. So it is written once
        more before anything is built upon it.
        """
        self._suspect = True
        head = self._files.checkpoint(HEAD)
        if head is None:
            self._refuse_headless()
        else:
            self._refuse_rollback(head)
            chain = self._public.chain(head)
            if chain:
                if not sure:
                    self._disk.replace(self._root / HEAD, head.note.encode())
                self._public.publish(chain, head, self._ahead.tree)
            else:
                self._public.take(head, self._ahead.tree)
        self._ahead, self._leaves = Growth(self._public.state), ()
        self._head = head
        for leftover in self._files.staged():
            self._disk.discard(self._root / leftover.path)
        self._suspect = False

    def _refresh(self) -> None:
        self._lock.refuse_closed()
        if self._suspect or self._head is None or self._files.read(HEAD) != self._head.note.encode():
            with self._lock.held():
                self._recover_if_changed()

    def _entry(self, index: int) -> Entry:
        return _parsed(index, self._proven(index // TILE_WIDTH)[index % TILE_WIDTH])

    def _proven(self, index: int) -> tuple[bytes, ...]:
        """The leaves of one bundle, checked against the tree in memory, which is under a verified head."""
        size = self._public.state.tree.size
        # What is committed and not published was read back from its staged file when it was committed.
        published = self._public.bundle(index) if index * TILE_WIDTH < size else ()
        return published + self._leaves[max(0, index * TILE_WIDTH - size) :][: TILE_WIDTH - len(published)]

    def _refuse_headless(self) -> None:
        if self._head is not None or (self._root / CHECKPOINT).exists() or (self._root / TILE).exists():
            raise AuditCorrupt(HEAD, "missing, though entries were published")

    def _refuse_rollback(self, head: Checkpoint) -> None:
        known = self._ahead.tree
        if head.size < known.size or (head.size == known.size and head.root != known.root()):
            raise AuditCorrupt(HEAD, "went back behind what was committed")

    @contextmanager
    def _refusals(self) -> Iterator[None]:
        """What the system refuses becomes AuditUnavailable, and memory is not believed until it is recovered."""
        try:
            yield
        except AuditError:
            raise
        except OSError as error:
            self._suspect = True
            raise _unavailable(error) from error


def _parsed(index: int, leaf: bytes) -> Entry:
    try:
        return parse(index, leaf)
    except EntryInvalid as error:
        raise AuditCorrupt(f"entry {index}", str(error)) from None


def _unavailable(error: OSError) -> AuditUnavailable:
    # Not str(error): it would hold the path.
    reason = error.strerror or type(error).__name__
    return AuditUnavailable(f"the disk refuses: {reason}", error.errno or errno.EIO)
