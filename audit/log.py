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

Reading needs no write. Where the disk takes none (full, read-only), what is committed is read from the staged files and
believed by the same signed root, and memory is marked as unsure: the head's last write may not be durable, so a power
cut could take back what was read. Nothing is built upon it: the next append recovers first, which writes the head
again, or raises. So whatever is logged because of what was read is durable only after that is.
"""

from __future__ import annotations

import errno
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, suppress
from datetime import datetime
from pathlib import Path

from audit import durable, layout
from audit.beside import Beside
from audit.canonical import JsonValue
from audit.checkpoint import Checkpoint
from audit.durable import Disk
from audit.entry import Draft, Entry, Kind, refuse_bad_source
from audit.errors import AuditCorrupt, AuditError, AuditSealed, AuditUnavailable, EntryInvalid, KeyConflict, Overtaken
from audit.files import Files
from audit.layout import HEAD, LOCK, STAGING, StagedName
from audit.lock import DirectoryLock
from audit.merkle import TILE_WIDTH
from audit.note import Signer
from audit.placing import Placer
from audit.published import Published
from audit.state import Growth
from audit.ticket import Line, Proviso, Ticket

BATCH_MAX = 256
"""Entries in one commit: one tile's worth, so that a commit stays below 16 MiB."""
LOG_START_KEY = "log-start"
SEAL_KEY = "seal"
"""The one key of a SEAL entry. A log that holds it takes nothing more."""


class AuditLog(AbstractContextManager["AuditLog"]):
    """One log in one directory. Threads may share it, and processes may open the same directory.

    Reads and writes raise AuditUnavailable when the disk refuses (repeat later, with the same key) and AuditCorrupt
    when what is on disk is not what was signed (stop: freeze the directory and call for help).
    """

    def __init__(
        self,
        root: Path,
        *,
        origin: str,
        source: str,
        signer: Signer,
        now: Callable[[], datetime],
        disk: Disk,
        publish_s: float,
        clock: Callable[[], float],
        sm3: bool,
    ) -> None:
        """Use ``open``."""
        self._root = root
        self._lock = DirectoryLock(root / LOCK)
        self._origin = origin
        self._placer = Placer(source, now, clock)
        self._signer = signer
        self._disk = disk
        self._files = Files(root, origin, signer.verifier, disk)
        self.line = Line()  # who waits, for whoever measures
        self._writer = threading.Lock()  # guards everything below; held through a commit
        self._publish_s = publish_s
        self._clock = clock
        self._public = Published(root, self._files, disk, Beside(root, origin, signer, disk) if sm3 else None)
        # What is published and what is committed above that, whose leaves are these; all of it is under the head.
        self._ahead = Growth(self._public.state)
        self._leaves: tuple[bytes, ...] = ()
        self._due_at = 0.0
        self._head: Checkpoint | None = None
        self._suspect = True  # memory may not be what the disk holds
        self._unsure = False  # it is, but is for reading alone
        self._placed = False  # whether the folders are known to be there

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
        predecessor: Mapping[str, JsonValue] | None = None,
        sm3: bool = False,
    ) -> AuditLog:
        """Open the log, or make it when the directory is empty; finish what a crash interrupted; rehash every entry.

        A log that is there can be opened and read on a disk that takes no writes; what was interrupted then waits.

        ``origin`` names the log for ever (its checkpoints' first line); ``source`` names this writer; ``now`` gives
        aware time. ``publish_s``: an append may put off publishing for so many seconds by ``clock``, until the next
        append after that, 256 entries, ``publish`` or ``close``; 0 publishes each commit. ``predecessor``: where the
        log ended that this one succeeds (origin, size, root in base64); only a log that is made now is told. ``sm3``:
        sign an SM3 tree's head too. Takes about 20 us per entry. Raises AuditUnavailable, AuditCorrupt, EntryInvalid.
        """
        refuse_bad_source(source)
        said: dict[str, JsonValue] = {"origin": origin, "software": software, "predecessor": predecessor}
        log = cls(
            root,
            origin=origin,
            source=source,
            signer=signer,
            now=now,
            disk=disk,
            publish_s=publish_s,
            clock=clock,
            sm3=sm3,
        )
        try:
            with log._writer, log._refusals():
                log._begin(Draft(Kind.LOG_START, LOG_START_KEY, said))
        except BaseException:
            log.close()
            raise
        return log

    def append(self, draft: Draft, proviso: Proviso | None = None) -> Entry:
        """Log it. When this returns, the entry is durable and under a signed head; readable by all when published.

        The same key with the same kind, call and body gives the first entry and logs nothing; with any other content it
        raises KeyConflict, and Overtaken where the `proviso` does not hold. Callers that wait together share a commit.
        """
        ticket = Ticket(draft, proviso)
        try:
            self.line.join(ticket)
            if not ticket.done:
                with self._writer:
                    self._settle(ticket, self.line.take(BATCH_MAX))
        finally:
            self.line.leave(ticket)
        return ticket.result()

    def find(self, key: str) -> Entry | None:
        """The entry with this idempotency key, whichever process wrote it.

        On a disk that takes no writes it may be one whose writer was told of an error. Whoever goes on because it is
        there appends it again, or something else: that makes it durable first, or raises.
        """
        with self._writer, self._refusals():
            self._refresh()
            index = self._ahead.find(key)
            return None if index is None else self._entry(index)

    def entries(self, start: int = 0) -> Iterator[Entry]:
        """All entries from index ``start`` to the head as it is at the first ``next``, each proven by that head."""
        return (self._files.entry(index, leaf) for index, leaf in self.leaves(start))

    def leaves(self, start: int = 0) -> Iterator[tuple[int, bytes]]:
        """As ``entries``: index and bytes, proven and not parsed, for whoever wants a few entries out of very many."""
        with self._writer, self._refusals():
            self._refresh()
            size = self._ahead.tree.size
        for name in layout.bundles(start, size):
            with self._writer, self._refusals():
                leaves = self._proven(name.index)
            first = name.index * TILE_WIDTH
            yield from list(enumerate(leaves[: size - first], first))[max(0, start - first) :]

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
            root = self._ahead.tree.root_at(index + 1, self._proven(index // TILE_WIDTH))
            return Checkpoint.sign(self._signer, self._origin, index + 1, root)

    def close(self) -> None:
        """Publish what is not, or the next to open does; let go. Appends then raise AuditUnavailable. Idempotent."""
        with self._writer:
            with suppress(AuditError, OSError):
                if self._leaves:
                    self._publish_now()
            self._lock.close()

    def publish(self) -> None:
        """Publish what was put off, by whichever process. Raises AuditUnavailable, AuditCorrupt."""
        with self._writer, self._refusals():
            self._publish_now()

    def __exit__(self, *_: object) -> None:
        self.close()

    # Everything below runs with the writer's lock held.

    def _begin(self, start: Draft) -> None:
        try:
            self._make_place()
            with self._lock.held():
                durable.sweep(self._root)
                self._recover(sure=False)
                if self._head is None:
                    self._commit([self._place(start, 0)])
        except OSError:
            if not (self._root / HEAD).exists():
                raise
            self._look()

    def _make_place(self) -> None:
        if not self._placed:
            self._disk.make_dirs(self._root / STAGING)
            self._placed = True

    def _settle(self, leader: Ticket, batch: list[Ticket]) -> None:
        """Commit the tickets that are new and answer every one of them, whatever happens."""
        try:
            with self._refusals():
                self._make_place()
                with self._lock.held():
                    self._recover_if_changed()
                    self._admit(batch)
        except AuditError as error:
            for ticket in batch:
                ticket.fail(error)
        finally:
            for ticket in batch:
                ticket.fail(AuditUnavailable("interrupted; repeat with the same key", errno.EINTR))
            self.line.answered(leader, batch)

    def _admit(self, batch: Sequence[Ticket]) -> None:
        fresh: dict[str, Entry] = {}
        for ticket in batch:
            draft = ticket.draft
            index = self._ahead.find(draft.key)
            first = fresh.get(draft.key) if index is None else self._entry(index)
            try:
                if first is None:
                    if SEAL_KEY in fresh or self._ahead.find(SEAL_KEY) is not None:
                        raise AuditSealed("this log has ended: another one succeeds it")
                    placed = self._place(draft, len(fresh))
                    if ticket.proviso is not None:
                        between = map(self._entry, range(ticket.proviso.since, self._ahead.tree.size))
                        ticket.proviso.weigh(placed, [*between, *fresh.values()])
                    first = fresh[draft.key] = placed
                elif first.draft.content != draft.content:
                    raise KeyConflict("the key is in the log with other content")
                ticket.entry = first
            except (AuditSealed, EntryInvalid, KeyConflict, Overtaken) as error:
                ticket.fail(error)
        if fresh:
            self._commit(list(fresh.values()))
        for ticket in batch:
            ticket.done = True

    def _place(self, draft: Draft, ahead: int) -> Entry:
        """The draft as the entry that is ``ahead`` places after the tree's end."""
        seq = self._ahead.next_seq(self._placer.source) + ahead
        return self._placer.place(draft, self._ahead.tree.size + ahead, seq)

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
        for entry, leaf in zip(entries, leaves, strict=True):
            growth.place(leaf, entry.key, entry.source, entry.seq)
        staged = StagedName(start, growth.tree.size, growth.tree.root())
        packed = layout.pack(leaves)
        self._files.create_same(staged.path, packed)
        head = Checkpoint.sign(self._signer, self._origin, staged.size, staged.root)
        self._suspect = True
        self._disk.replace(self._root / HEAD, head.note.encode())
        # From here on the entries are in the log, and every later failure only delays when they can be read.
        if len(self._leaves) + len(leaves) >= BATCH_MAX or self._clock() >= self._due_at:
            self._recover(sure=True, made=(growth, self._leaves + leaves))
            return
        if self._files.read(staged.path) != packed:
            raise AuditCorrupt(staged.path, "its entries are not those that were signed")
        self._ahead, self._leaves, self._head, self._suspect = growth, self._leaves + leaves, head, False

    def _publish_now(self) -> None:
        with self._lock.held():
            self._recover_if_changed()
            if self._leaves:
                self._recover(sure=True, made=(self._ahead, self._leaves))

    def _recover_if_changed(self) -> None:
        """Bring memory up to the disk, if an error or another process came between, or no write was possible."""
        if self._unsure or self._stale():
            self._recover(sure=False)

    def _stale(self) -> bool:
        return self._suspect or self._head is None or self._files.read(HEAD) != self._head.note.encode()

    def _recover(self, *, sure: bool, made: tuple[Growth, tuple[bytes, ...]] | None = None) -> None:
        """Publish what the head commits to and take it into memory; throw away what it does not.

        ``sure``: the head's last write returned without error. Otherwise whoever wrote it may have died, or been told
        of an error, before it was durable: what we now see could be gone after a power cut. So it is written once
        more before anything is built upon it. ``made``: what we know that it commits to, and the leaves.
        """
        self._suspect = True
        head = self._public.signed_head(self._ahead.tree, known=self._head is not None)
        if head is not None:
            chain = self._public.chain(head)
            if chain:
                if not sure:
                    self._disk.replace(self._root / HEAD, head.note.encode())
                self._public.publish(chain, head, self._ahead.tree, made)
            else:
                self._public.take(head, self._ahead.tree)
                self._public.sign_beside()
        self._ahead, self._leaves = Growth(self._public.state), ()
        self._head = head
        for leftover in self._files.staged():
            self._disk.discard(self._root / leftover.path)
        self._suspect = self._unsure = False

    def _look(self) -> None:
        """Take what the head commits to into memory, for reading alone; write nothing."""
        with self._lock.held(reading=True):
            self._suspect = self._unsure = True
            head = self._public.signed_head(self._ahead.tree, known=self._head is not None)
            if head is None:
                raise AuditCorrupt(HEAD, "missing")
            chain = self._public.chain(head)
            if chain:
                self._ahead, self._leaves = self._public.look(chain, head, self._ahead.tree)
            else:
                self._public.take(head, self._ahead.tree)
                self._ahead, self._leaves = Growth(self._public.state), ()
            self._head, self._suspect = head, False

    def _refresh(self) -> None:
        self._lock.refuse_closed()
        if self._stale():
            try:
                with self._lock.held():
                    self._recover_if_changed()
            except OSError:
                self._look()

    def _entry(self, index: int) -> Entry:
        return self._files.entry(index, self._proven(index // TILE_WIDTH)[index % TILE_WIDTH])

    def _proven(self, index: int) -> tuple[bytes, ...]:
        """The leaves of one bundle, checked against the tree in memory, which is under a verified head."""
        size = self._public.state.tree.size
        # What is committed and not published was read back from its staged file when it was committed.
        published = self._public.bundle(index) if index * TILE_WIDTH < size else ()
        return published + self._leaves[max(0, index * TILE_WIDTH - size) :][: TILE_WIDTH - len(published)]

    @contextmanager
    def _refusals(self) -> Iterator[None]:
        """What the system refuses becomes AuditUnavailable, and memory is not believed until it is recovered."""
        try:
            yield
        except AuditError:
            raise
        except OSError as error:
            self._suspect = True
            # Not str(error): it would hold the path.
            reason = error.strerror or type(error).__name__
            raise AuditUnavailable(f"the disk refuses: {reason}", error.errno or errno.EIO) from error
