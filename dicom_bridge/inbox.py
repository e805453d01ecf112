"""The durable spool: when `store` returns, the instance is on the disk, and no crash takes it away.

    <root>/incoming/<pid>-<random>.part     being written; swept at start, never acknowledged
    <root>/studies/<study>/<instance>.dcm   held, as received, with file meta information before it
    <root>/studies/<study>/assembled.json   what the last run of this study has seen
    <root>/quarantine/                      what could not be used
    <root>/index.sqlite                     a cache of all that; rebuilt from the files when lost or damaged

The commit point of a store is the name in studies/: before it nothing is held and nothing is acknowledged; after it
a crash leaves a file that the next start indexes.
"""

from __future__ import annotations

import hashlib
import json
import os
import secrets
import sqlite3
import threading
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from pathlib import Path
from typing import Final

from audit.errors import ContentDiffers
from dicom_bridge.activity import Activity
from dicom_bridge.assembly import RESULT_MODALITIES, SeriesCount
from dicom_bridge.errors import InboxUnavailable, InstanceRefused
from dicom_bridge.identify import Identity, identify
from dicom_bridge.peers import valid_ae_title
from dicom_bridge.quarantine import CONFLICT, Quarantine, Quarantined
from dicom_bridge.same_content import same_content
from dicom_bridge.spool_disk import Disk, DurableDisk
from dicom_bridge.spool_index import Instance, SpoolIndex
from dicom_bridge.spool_recovery import MARK, Recovery, content_digest, held_instance, read_held
from dicom_bridge.stream import part10_header, read_part10

_MIB: Final = 1 << 20


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
class Received:
    """One instance as it came: the encoded data set, and what the C-STORE request said of it."""

    dataset: bytes
    transfer_syntax: str
    sop_class: str
    sop_uid: str


class Outcome(StrEnum):
    """What a store did. All three are acknowledged with 0x0000; of a CONFLICT the first comer stays."""

    NEW = "NEW"
    IDENTICAL = "IDENTICAL"
    CONFLICT = "CONFLICT"


@dataclass(frozen=True, slots=True)
class Stored:
    """The answer of `store`; `held` is the instance that is held now under this SOP Instance UID."""

    outcome: Outcome
    held: Instance
    quarantined: Quarantined | None = None


@dataclass(frozen=True, slots=True)
class OpenStudy:
    """A study with stores that no run has seen yet; `assembled_digest` is the input of the last run, if any."""

    study_uid: str
    last_received_at: datetime
    touches: int
    assembled_digest: str | None


class Inbox:
    """The spool of one service. Safe for the threads of one process; other processes may read it.

    `now` gives aware UTC times. Raises InboxUnavailable when the folder cannot be used.
    """

    def __init__(
        self,
        root: Path,
        now: Callable[[], datetime],
        *,
        limits: InboxLimits | None = None,
        disk: Disk | None = None,
    ) -> None:
        self._root, self._now = root, now
        self._limits = limits or InboxLimits()
        self._disk: Disk = disk or DurableDisk()
        self._studies, self._incoming = root / "studies", root / "incoming"
        self._changed = threading.Event()
        self.activity = Activity()
        try:
            for folder in (self._studies, self._incoming, root / "quarantine"):
                self._disk.make_dirs(folder)
            # Images of patients: nobody but the service may look inside.
            root.chmod(0o700)
            self._sweep()
            self._quarantine = Quarantine(root / "quarantine", self._disk, self._limits.quarantine_bytes_max)
            self._index = self._open_index()
            recovery = Recovery(self._index, self._studies, self._quarantine, self._disk, self.input_digest)
            self.recovered = recovery.run()
        except (OSError, sqlite3.Error) as error:
            raise InboxUnavailable("SPOOL_FAILED", f"the spool cannot be opened ({type(error).__name__})") from error

    def close(self) -> None:
        """Close the index. Nothing may be called after."""
        self._index.close()

    # -- storing ------------------------------------------------------------------------------------------------

    def store(self, received: Received, sender: str, association: str | None = None) -> Stored:
        """Take one instance; durable when this returns.

        Raises InstanceRefused (a copy is in quarantine then) and InboxUnavailable (nothing is held; try again).
        """
        if len(received.dataset) > self._limits.instance_bytes_max:
            raise InstanceRefused("INSTANCE_TOO_LARGE", "larger than this service takes")
        header = part10_header("", "", received.transfer_syntax, "")
        try:
            identity = identify(received.dataset, received.transfer_syntax)
            _check_request(identity, received)
        except InstanceRefused as refused:
            self.quarantine(header + received.dataset, refused.code, sender)
            raise
        source = sender if valid_ae_title(sender) else ""
        header = part10_header(identity.sop_class, identity.sop_uid, received.transfer_syntax, source)
        digest = content_digest(received.transfer_syntax, received.dataset)
        try:
            stored = self._keep(header, received.dataset, identity, digest, sender)
        except (OSError, sqlite3.Error) as error:
            raise InboxUnavailable("SPOOL_FAILED", f"nothing was kept ({type(error).__name__})") from error
        if association is not None:
            self.activity.carried(association, stored.held.study_uid)
        self._changed.set()
        return stored

    def store_file(self, data: bytes, sender: str) -> Stored:
        """Take one Part 10 file; as `store`."""
        try:
            meta = read_part10(data)
        except InstanceRefused as refused:
            self.quarantine(data, refused.code, sender)
            raise
        received = Received(data[meta.dataset_at :], meta.transfer_syntax, meta.sop_class, meta.sop_instance)
        return self.store(received, sender)

    def _keep(self, header: bytes, dataset: bytes, identity: Identity, digest: str, sender: str) -> Stored:
        if self._disk.free_bytes(self._root) < self._limits.free_bytes_min + len(dataset):
            raise InboxUnavailable("SPOOL_FULL", "the disk has less free space than the configured reserve")
        held = self._index.instance(identity.sop_uid)
        if held is not None and not held.path.is_file():
            # Somebody removed the file; what is not there cannot be called held.
            self._index.forget(held.sop_uid)
            held = None
        at = self._now()
        new = held_instance(identity, digest, sender, at, self._studies)
        if held is None:
            quicker = self._write(header, dataset, new)
            if quicker is None:
                return Stored(Outcome.NEW, new)
            held = quicker
        if held.digest == digest or same_content(held.path.read_bytes(), header + dataset):
            self._index.touch(held.study_uid, at)
            return Stored(Outcome.IDENTICAL, held)
        return Stored(Outcome.CONFLICT, held, self.quarantine(header + dataset, CONFLICT, sender))

    def _write(self, header: bytes, dataset: bytes, new: Instance) -> Instance | None:
        """Put the instance under its name and index it; another one that was quicker is returned instead."""
        self._disk.make_dirs(new.path.parent)
        part = self._incoming / f"{os.getpid()}-{secrets.token_hex(8)}.part"
        try:
            self._disk.write(part, (header, dataset))
            self._disk.adopt(part, new.path)
        except ContentDiffers:
            # Not indexed, but there: another thread was quicker.
            return self._index_held(new)
        finally:
            # Gone already after a success; after a failure the next start would sweep it anyway.
            with suppress(OSError):
                part.unlink(missing_ok=True)
        # A crash here leaves a durable file without a row: nothing was acknowledged, the next start indexes it.
        if self._index.add(new):
            return None
        first = self._index.instance(new.sop_uid)
        if first is None:
            raise InboxUnavailable("SPOOL_FAILED", "the index changed under the store")
        if first.path != new.path:
            # The same SOP Instance UID in another study at the same moment: the first one counts.
            self._disk.remove(new.path)
        return first

    def _index_held(self, new: Instance) -> Instance | None:
        try:
            first = read_held(new.path, self._studies)
        except InstanceRefused as damaged:
            # The next start sets the damaged file aside; until then nothing can be kept under its name.
            raise InboxUnavailable("SPOOL_FAILED", "a held file is damaged; restart to set it aside") from damaged
        self._index.add(first)
        return self._index.instance(new.sop_uid)

    def quarantine(self, data: bytes, code: str, sender: str) -> Quarantined:
        """Keep a copy of what cannot be used. Raises InboxUnavailable when it cannot be kept."""
        try:
            kept = self._quarantine.keep(data, code, sender, self._now())
        except (OSError, ContentDiffers) as error:
            raise InboxUnavailable("SPOOL_FAILED", f"quarantine failed ({type(error).__name__})") from error
        if kept is None:
            raise InboxUnavailable("QUARANTINE_FULL", "quarantine holds as much as it may; a person must look at it")
        return kept

    def quarantined(self) -> tuple[Quarantined, ...]:
        """Return everything in quarantine, oldest first."""
        return self._quarantine.list()

    def conflicts(self) -> tuple[Quarantined, ...]:
        """Return the newcomers whose UID was held with other content: each needs a person's eye (QA)."""
        return self._quarantine.list(CONFLICT)

    # -- asking -------------------------------------------------------------------------------------------------

    def instances(self, study_uid: str) -> tuple[Instance, ...]:
        """Return what is held of a study, ordered by SOP Instance UID; () for an unknown one."""
        return self._index.instances(study_uid)

    def held(self, study_uid: str) -> Mapping[str, SeriesCount]:
        """Return modality and number of instances by Series Instance UID, as `assembly` compares them."""
        counts: dict[str, SeriesCount] = {}
        for instance in self.instances(study_uid):
            before = counts.get(instance.series_uid)
            number = 1 if before is None else before.count + 1
            counts[instance.series_uid] = SeriesCount(instance.modality, number)
        return counts

    def input_digest(self, study_uid: str, series_uid: str | None = None) -> str:
        """Return the digest of what a run of this study, or of one series of it, would see.

        Results (SR, SEG and the like, `assembly.RESULT_MODALITIES`) do not count: a PACS that sends our own results
        back to us must not make the study a new one.
        """
        lines = [
            f"{instance.sop_uid} {instance.digest}\n"
            for instance in self.instances(study_uid)
            if series_uid in (None, instance.series_uid) and instance.modality not in RESULT_MODALITIES
        ]
        return f"sha256:{hashlib.sha256(''.join(lines).encode()).hexdigest()}"

    def identities(self, study_uid: str) -> int:
        """Return how many different patients the study's images name; more than one must be refused."""
        images = (one for one in self.instances(study_uid) if one.modality not in RESULT_MODALITIES)
        return len({one.identity for one in images})

    def open_associations(self, study_uid: str, active_within_s: float | None = None) -> int:
        """Return how many open associations have carried this study; see `Activity.count`."""
        return self.activity.count(study_uid, active_within_s)

    def wait(self, timeout_s: float) -> bool:
        """Sleep until something was stored or an association ended, at most `timeout_s`. For one waiting thread."""
        happened = self._changed.wait(timeout_s)
        self._changed.clear()
        return happened

    def wake(self) -> None:
        """End a `wait` now: the listener calls this when an association ends."""
        self._changed.set()

    # -- assembling ---------------------------------------------------------------------------------------------

    def open_studies(self) -> tuple[OpenStudy, ...]:
        """Return the studies that were touched since their last run, the longest waiting first."""
        return tuple(
            OpenStudy(row.study_uid, row.last_received_at, row.touches, row.assembled_digest)
            for row in self._index.open_studies()
        )

    def assembled(self, study_uid: str) -> str | None:
        """Return the input digest of the study's last run, None when it had none."""
        row = self._index.study(study_uid)
        return None if row is None else row.assembled_digest

    def mark_assembled(self, study_uid: str, touches: int, input_digest: str) -> None:
        """Record, durably, that a run has seen the study as it was at `touches`. Raises InboxUnavailable.

        Later stores leave the study open. Marking twice is harmless; an unknown study raises KeyError.
        """
        if self._index.study(study_uid) is None:
            raise KeyError("no such study is held")
        body = json.dumps({"touches": touches, "input_digest": input_digest}, sort_keys=True).encode()
        try:
            # A crash between the two leaves the newer file, which wins when the inbox opens.
            self._disk.replace(self._studies / study_uid / MARK, body)
            self._index.set_marks(study_uid, touches=0, assembled_touches=touches, assembled_digest=input_digest)
        except (OSError, sqlite3.Error) as error:
            raise InboxUnavailable("SPOOL_FAILED", f"the mark was not kept ({type(error).__name__})") from error

    # -- opening ------------------------------------------------------------------------------------------------

    def _sweep(self) -> None:
        """Remove what a killed writer left; never what a living process of this inbox is writing."""
        for part in self._incoming.glob("*.part"):
            if not _alive(part.name.partition("-")[0]):
                part.unlink(missing_ok=True)

    def _open_index(self) -> SpoolIndex:
        file = self._root / "index.sqlite"
        try:
            return SpoolIndex(file, self._studies)
        except sqlite3.OperationalError:
            # Locked, or the disk refuses: the index itself may be sound.
            raise
        except sqlite3.DatabaseError:
            for suffix in ("", "-wal", "-shm"):
                self._disk.remove(file.with_name(file.name + suffix))
            return SpoolIndex(file, self._studies)


def _alive(pid: str) -> bool:
    if not pid.isdecimal() or int(pid) == os.getpid():
        return False
    try:
        os.kill(int(pid), 0)
    except ProcessLookupError:
        return False
    except OSError:
        return True
    return True


def _check_request(identity: Identity, received: Received) -> None:
    """The data set must be what the request announced (PS3.4 Table B.2-1, PS3.7 section 9.1.1.1)."""
    if identity.sop_class != received.sop_class:
        raise InstanceRefused("CLASS_MISMATCH", "the data set is of another SOP class than announced", 0x00080016)
    if identity.sop_uid != received.sop_uid:
        raise InstanceRefused("UID_INVALID", "the data set is another instance than announced", 0x00080018)
