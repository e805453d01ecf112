"""One instance on its way in: written and hashed as it comes, looked at in its file, kept under its name or set aside.

Nothing of an instance but the piece at hand is in memory. `finish` is the commit point of the spool (see inbox).
"""

from __future__ import annotations

import itertools
import mmap
import os
import secrets
import sqlite3
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from pathlib import Path
from typing import Final

from audit.errors import ContentDiffers
from dicom_bridge.errors import BridgeError, InboxUnavailable, InstanceRefused
from dicom_bridge.identify import Identity, identify
from dicom_bridge.peers import valid_ae_title
from dicom_bridge.quarantine import CONFLICT, Quarantine, Quarantined
from dicom_bridge.same_content import same_content
from dicom_bridge.spool_disk import Chunk, Disk
from dicom_bridge.spool_index import Instance, SpoolIndex
from dicom_bridge.spool_recovery import held_instance, read_held
from dicom_bridge.stream import part10_header
from dicom_bridge.uids import storable

_MIB: Final = 1 << 20
SETTLE_S: Final = 60.0
"""Seconds that a question waits for rows of what was acknowledged: comparing a resend with what is held takes time."""
HASTEN_BYTES: Final = 1 << 18
"""Bytes that are handed to the disk at once while the rest of an instance arrives, 256 KiB."""
PAGE_BYTES: Final = 4096
SPACE_CHECK_BYTES: Final = 16 * _MIB
"""Bytes between two looks at the free space, 16 MiB: far below any reserve."""
SPACE_CHECK_S: Final = 1.0
"""Seconds between two of them: others use the disk too."""


@dataclass(frozen=True, slots=True)
class InboxLimits:
    """Sizes in bytes.

    `instance_bytes_max`: above it an instance is refused; the largest real ones, enhanced multi-frame, have 1 GiB.
    `free_bytes_min`: below it nothing is taken, so that the index, the audit log and results still fit.
    `quarantine_bytes_max`: so that a sender of rubbish cannot fill the disk.
    """

    instance_bytes_max: int = 2048 * _MIB
    free_bytes_min: int = 1024 * _MIB
    quarantine_bytes_max: int = 2048 * _MIB


@dataclass(frozen=True, slots=True)
class Announced:
    """What a C-STORE request says of the data set that follows it; `urgent`: its Priority is HIGH.

    `study_uid`: the only study that it may belong to, where a study was asked for; None for any.
    """

    transfer_syntax: str
    sop_class: str
    sop_uid: str
    urgent: bool = False
    study_uid: str | None = None


class Outcome(StrEnum):
    """What a store did. All three are acknowledged with 0x0000; of a CONFLICT the first comer stays."""

    NEW = "NEW"
    IDENTICAL = "IDENTICAL"
    CONFLICT = "CONFLICT"


@dataclass(frozen=True, slots=True)
class Stored:
    """The answer of a store; `held` is the instance that is held now under this SOP Instance UID."""

    outcome: Outcome
    held: Instance
    quarantined: Quarantined | None = None


class Spool:
    """Where instances go, and what decides whether they may: handed to each of them by the inbox."""

    def __init__(
        self,
        root: Path,
        disk: Disk,
        index: SpoolIndex,
        quarantine: Quarantine,
        limits: InboxLimits,
        now: Callable[[], datetime],
    ) -> None:
        self.root, self.studies, self.disk, self.index, self.limits = root, root / "studies", disk, index, limits
        self.now = now
        self.studies_text = str(self.studies)
        self._quarantine = quarantine
        # The process id is for the sweep at start, the rest keeps two inboxes of one process apart.
        self._prefix = f"{root / 'incoming'}/{os.getpid()}-{secrets.token_hex(8)}-"
        self._numbers = itertools.count()
        self.received = 0
        """Bytes that have come, for those who look at how fast; not exact."""
        self._space_until, self._space_at = 0, 0.0
        self._unsettled: set[int] = set()
        self._settling = threading.Condition()

    def new_part(self) -> str:
        """Return a path in incoming/ that nobody else uses."""
        return f"{self._prefix}{next(self._numbers)}.part"

    def committed(self, one: object) -> None:
        """Something is durable that no index row tells of yet."""
        with self._settling:
            self._unsettled.add(id(one))

    def settled(self, one: object) -> None:
        """Now one does, or never will."""
        with self._settling:
            self._unsettled.discard(id(one))
            self._settling.notify_all()

    def wait_settled(self) -> None:
        """Return when what was acknowledged before this call is in the index."""
        with self._settling:
            before = frozenset(self._unsettled)
            if before:
                self._settling.wait_for(lambda: not before & self._unsettled, SETTLE_S)

    def check_space(self, more: int) -> None:
        """Raise InboxUnavailable SPOOL_FULL when `more` bytes would eat into the reserve; OSError.

        Looked at again after SPACE_CHECK_BYTES, of all associations together, and after SPACE_CHECK_S.
        """
        now = time.monotonic()
        if self.received + more <= self._space_until and now < self._space_at:
            return
        if self.disk.free_bytes(self.root) < self.limits.free_bytes_min + more:
            raise InboxUnavailable("SPOOL_FULL", "the disk has less free space than the configured reserve")
        self._space_until, self._space_at = self.received + SPACE_CHECK_BYTES, now + SPACE_CHECK_S

    def adopt(self, part: str, final: str, handle: int) -> None:
        """Give a file its name for good, in a folder that may have to be made. Raises ContentDiffers, OSError."""
        try:
            self.disk.adopt(part, final, handle)
        except FileNotFoundError:
            # The first of its study.
            self.disk.make_dirs(Path(final).parent)
            self.disk.adopt(part, final, handle)

    def set_aside(self, what: bytes | Path, code: str, sender: str) -> Quarantined:
        """Keep bytes, or move a file, to quarantine. Raises InboxUnavailable when they cannot be kept."""
        at = self.now()
        try:
            if isinstance(what, Path):
                kept = self._quarantine.keep_file(what, code, sender, at)
            else:
                kept = self._quarantine.keep(what, code, sender, at)
        except (OSError, ContentDiffers) as error:
            raise InboxUnavailable("SPOOL_FAILED", f"quarantine failed ({type(error).__name__})") from error
        if kept is None:
            raise InboxUnavailable("QUARANTINE_FULL", "quarantine holds as much as it may; a person must look at it")
        return kept


class Incoming:
    """One data set of a known transfer syntax, in pieces. Used by one thread.

    `write` each piece, then `finish`; or `commit`, answer, and `settle`: what is not needed for the answer comes after
    it, while the peer prepares its next instance. Whatever happens, `abandon` at the end; it may be called at any time.
    `announced`: what the data set must be. With `refused` the bytes are those of something that has been refused
    already: they go to quarantine as they are.
    """

    def __init__(
        self,
        spool: Spool,
        announced: Announced,
        sender: str,
        stored: Callable[[Stored], None],
        refused: InstanceRefused | None = None,
    ) -> None:
        self._spool, self._announced, self._sender, self._on_stored = spool, announced, sender, stored
        self._refused = refused
        self._part = spool.new_part()
        self._handle: int | None = None
        self._made = False
        self._header_size = self._size = self._hastened = 0
        self._map: mmap.mmap | None = None
        self._identity: Identity | None = None
        self._at: datetime | None = None
        self._absent_at: int | None = None
        self._stored: Stored | None = None
        # Where the bytes are once they have a name.
        self._final: Path | None = None

    def write(self, *chunks: Chunk) -> None:
        """Take the next pieces, in their order.

        Raises InstanceRefused INSTANCE_TOO_LARGE, and InboxUnavailable when the disk cannot take it.
        """
        more = sum(map(len, chunks))
        size = self._size + more
        if size > self._spool.limits.instance_bytes_max:
            raise InstanceRefused("INSTANCE_TOO_LARGE", "larger than this service takes")
        try:
            self._spool.check_space(more)
            handle = self._opened()
            self._spool.disk.write(handle, *chunks)
            end = (self._header_size + size) // PAGE_BYTES * PAGE_BYTES
            if end - self._hastened >= HASTEN_BYTES:
                # Whole pages only: one that is begun would be written twice.
                self._spool.disk.hasten(handle, self._hastened, end - self._hastened)
                self._hastened = end
        except OSError as error:
            raise InboxUnavailable("SPOOL_FAILED", f"nothing was kept ({type(error).__name__})") from error
        self._size = size
        self._spool.received += more

    def finish(self) -> Stored:
        """Keep it: `commit` and `settle`."""
        try:
            self.commit()
            return self.settle()
        except (OSError, sqlite3.Error) as error:
            raise InboxUnavailable("SPOOL_FAILED", f"nothing was kept ({type(error).__name__})") from error

    def commit(self) -> None:
        """Make it durable, under its name or in quarantine; when this returns it may be acknowledged.

        Raises InstanceRefused (a copy is in quarantine then) and InboxUnavailable (nothing is held; try again).
        """
        try:
            self._commit(self._opened())
        except (OSError, sqlite3.Error) as error:
            self.abandon()
            raise InboxUnavailable("SPOOL_FAILED", f"nothing was kept ({type(error).__name__})") from error
        except BridgeError:
            self.abandon()
            raise

    def settle(self) -> Stored:
        """After `commit`: tell the index. Raises OSError, sqlite3.Error: the next start tells it then."""
        try:
            stored = self._stored or self._settle()
        except InboxUnavailable as late:
            raise OSError("a conflict that was acknowledged could not be set aside; the next start does") from late
        finally:
            self.abandon()
        self._on_stored(stored)
        return stored

    def refuse(self, refused: InstanceRefused) -> None:
        """Set aside what came, for a reason that the caller has found. Raises InboxUnavailable when it cannot be."""
        try:
            self._opened()
            self._spool.set_aside(Path(self._part), refused.code, self._sender)
        except OSError as error:
            raise InboxUnavailable("SPOOL_FAILED", f"nothing was kept ({type(error).__name__})") from error
        finally:
            self.abandon()

    def abandon(self) -> None:
        """Give everything back, and leave nothing behind but what was committed."""
        if self._map is not None:
            self._map.close()
            self._map = None
        handle, self._handle = self._handle, None
        # After a failure underway these may fail too; the next start sweeps what is left.
        if handle is not None:
            with suppress(OSError):
                os.close(handle)
        if self._made and self._final is None:
            self._made = False
            with suppress(OSError):
                os.unlink(self._part)  # noqa: PTH108 - for each image; making a Path costs more than the call
        self._spool.settled(self)

    # -- before the answer --------------------------------------------------------------------------------------

    def _opened(self) -> int:
        if self._handle is None:
            self._made = True
            self._handle = self._spool.disk.create(self._part)
            header = b"" if self._refused is not None else self._header()
            self._header_size = len(header)
            if header:
                self._spool.disk.write(self._handle, header)
        return self._handle

    def _header(self) -> bytes:
        """Return the file meta information as announced; what is not true of the data set ends in quarantine."""
        announced = self._announced
        whole = storable(announced.sop_class) and storable(announced.sop_uid)
        return part10_header(
            announced.sop_class if whole else "",
            announced.sop_uid if whole else "",
            announced.transfer_syntax,
            self._sender if valid_ae_title(self._sender) else "",
            urgent=announced.urgent,
        )

    def _commit(self, handle: int) -> None:
        spool = self._spool
        try:
            identity = self._identity = self._identified(handle)
        except InstanceRefused as refused:
            spool.set_aside(Path(self._part), refused.code, self._sender)
            raise
        self._at = spool.now()
        spool.index.keep_up()
        self._absent_at = spool.index.writes
        held = spool.index.instance(identity.sop_uid)
        if held is not None and not held.path.is_file():
            # Somebody removed the file; what is not there cannot be called held.
            spool.index.forget(held.sop_uid)
            held = None
        if held is not None:
            self._stored = self._beside(held)
            return
        final = f"{spool.studies_text}/{identity.study_uid}/{identity.sop_uid}.dcm"
        spool.committed(self)
        try:
            # False: another thread was quicker with the very same bytes; one of the two adds the row.
            spool.adopt(self._part, final, handle)
        except ContentDiffers:
            # Not indexed, but there, with other bytes: another thread was quicker.
            self._stored = self._beside(self._index_held(Path(final)))
        else:
            self._final = Path(final)

    def _identified(self, handle: int) -> Identity:
        if self._refused is not None:
            raise self._refused
        self._map = mmap.mmap(handle, 0, access=mmap.ACCESS_READ)
        identity = identify(self._map, self._announced.transfer_syntax, self._header_size)
        # The data set must be what the request announced (PS3.4 Table B.2-1, PS3.7 section 9.1.1.1).
        if identity.sop_class != self._announced.sop_class:
            raise InstanceRefused("CLASS_MISMATCH", "the data set is of another SOP class than announced", 0x00080016)
        if identity.sop_uid != self._announced.sop_uid:
            raise InstanceRefused("UID_INVALID", "the data set is another instance than announced", 0x00080018)
        if self._announced.study_uid not in (None, identity.study_uid):
            raise InstanceRefused("WRONG_STUDY", "the data set is of another study than asked for", 0x0020000D)
        return identity

    def _index_held(self, path: Path) -> Instance:
        """Return the instance that lies under our name, indexed."""
        index = self._spool.index
        try:
            first = read_held(path, self._spool.studies)
        except InstanceRefused as damaged:
            # The next start sets the damaged file aside; until then nothing can be kept under its name.
            raise InboxUnavailable("SPOOL_FAILED", "a held file is damaged; restart to set it aside") from damaged
        index.add(first)
        return index.instance(first.sop_uid) or first

    # -- after the answer ---------------------------------------------------------------------------------------

    def _settle(self) -> Stored:
        new, index = self._row(), self._spool.index
        # A crash before this leaves a durable file without a row; the next start indexes it.
        if index.add(new, self._absent_at):
            return Stored(Outcome.NEW, new)
        # Another thread was quicker: with our own file, or with the same SOP Instance UID in another study.
        first = index.instance(new.sop_uid) or new
        stored = self._beside(first)
        if first.path != new.path:
            self._spool.disk.remove(new.path)
        return stored

    def _beside(self, held: Instance) -> Stored:
        """Return what it is beside what is held; a conflict goes to quarantine."""
        spool, new = self._spool, self._row()
        mine = self._final or Path(self._part)
        if same_content(held.path, mine):
            spool.index.touch(held, new.received_at, urgent=new.urgent and not held.urgent)
            return Stored(Outcome.IDENTICAL, held)
        return Stored(Outcome.CONFLICT, held, spool.set_aside(mine, CONFLICT, self._sender))

    def _row(self) -> Instance:
        identity = self._identity
        if identity is None or self._at is None:
            raise ValueError("nothing was committed")
        urgent = self._announced.urgent
        # Its digest is taken when somebody asks, or when there is time (see Digests).
        return held_instance(identity, "", self._sender, self._at, self._spool.studies, urgent=urgent)
