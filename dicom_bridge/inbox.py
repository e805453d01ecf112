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
import sqlite3
import threading
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime
from functools import partial
from pathlib import Path

from dicom_bridge import tombstone
from dicom_bridge.activity import Activity
from dicom_bridge.assembly import RESULT_MODALITIES, SeriesCount
from dicom_bridge.digests import Digests
from dicom_bridge.errors import InboxUnavailable
from dicom_bridge.incoming import Announced, Incoming, Spool
from dicom_bridge.incoming import InboxLimits as InboxLimits
from dicom_bridge.incoming import Outcome as Outcome
from dicom_bridge.incoming import Stored as Stored
from dicom_bridge.incoming_file import IncomingFile
from dicom_bridge.quarantine import CONFLICT, Quarantine, Quarantined
from dicom_bridge.spool_disk import Disk, DurableDisk
from dicom_bridge.spool_index import Instance, SpoolIndex, StudyRow
from dicom_bridge.spool_recovery import MARK, Recovery
from dicom_bridge.tombstone import Gone


@dataclass(frozen=True, slots=True)
class Received:
    """One instance as it came: the encoded data set, and what the C-STORE request said of it.

    `urgent`: the request's Priority (0000,0700) is HIGH.
    """

    dataset: bytes
    transfer_syntax: str
    sop_class: str
    sop_uid: str
    urgent: bool = False


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
        self._heard: Callable[[Instance, str], None] = _nobody
        self.activity = Activity()
        try:
            for folder in (self._studies, self._incoming, root / "quarantine"):
                self._disk.make_dirs(folder)
            # Images of patients: nobody but the service may look inside.
            root.chmod(0o700)
            self._sweep()
            self._quarantine = Quarantine(root / "quarantine", self._disk, self._limits.quarantine_bytes_max)
            self._index = self._open_index()
            self._spool = Spool(root, self._disk, self._index, self._quarantine, self._limits, now)
            self._digests = Digests(self._index, lambda: self._spool.received)
            recovery = Recovery(self._index, self._studies, self._quarantine, self._disk, self.input_digest)
            self.recovered = recovery.run()
        except (OSError, sqlite3.Error) as error:
            raise InboxUnavailable("SPOOL_FAILED", f"the spool cannot be opened ({type(error).__name__})") from error

    def close(self) -> None:
        """Close the index. Nothing may be called after."""
        self._digests.close()
        self._index.close()

    # -- storing ------------------------------------------------------------------------------------------------

    def incoming(self, announced: Announced, sender: str, association: str | None = None) -> Incoming:
        """Begin to take one instance in pieces, as a C-STORE request announces it; whatever its size."""
        return Incoming(self._spool, announced, sender, partial(self._stored, sender, association))

    def incoming_file(self, sender: str, association: str | None = None) -> IncomingFile:
        """Begin to take one Part 10 file in pieces; whatever it turns out to be."""
        return IncomingFile(self._spool, sender, partial(self._stored, sender, association))

    def store(self, received: Received, sender: str, association: str | None = None) -> Stored:
        """Take one instance; durable when this returns.

        Raises InstanceRefused (a copy is in quarantine then, but of one that is too large) and InboxUnavailable
        (nothing is held; try again).
        """
        announced = Announced(received.transfer_syntax, received.sop_class, received.sop_uid, received.urgent)
        return _whole(self.incoming(announced, sender, association), received.dataset)

    def store_file(self, data: bytes, sender: str) -> Stored:
        """Take one Part 10 file; as `store`."""
        return _whole(self.incoming_file(sender), data)

    def listen(self, heard: Callable[[Instance, str], None]) -> None:
        """Tell of each instance that is held from now on, and of each that comes again, with the AE title of whoever
        sent it this time. `heard` must be quick, and safe for the threads that receive.
        """
        self._heard = heard

    def _stored(self, sender: str, association: str | None, stored: Stored) -> None:
        if association is not None:
            self.activity.carried(association, stored.held.study_uid)
        if stored.outcome is not Outcome.CONFLICT:
            self._heard(stored.held, sender)
        self._changed.set()
        self._digests.want()

    def quarantine(self, data: bytes, code: str, sender: str) -> Quarantined:
        """Keep a copy of what cannot be used. Raises InboxUnavailable when it cannot be kept."""
        return self._spool.set_aside(data, code, sender)

    def quarantined(self) -> tuple[Quarantined, ...]:
        """Return everything in quarantine, oldest first."""
        return self._quarantine.list()

    def conflicts(self) -> tuple[Quarantined, ...]:
        """Return the newcomers whose UID was held with other content: each needs a person's eye (QA)."""
        return self._quarantine.list(CONFLICT)

    # -- asking -------------------------------------------------------------------------------------------------

    def instances(self, study_uid: str) -> tuple[Instance, ...]:
        """Return what is held of a study, ordered by SOP Instance UID; () for an unknown one.

        Of what came a moment ago the digest may be missing; `input_digest` waits for it.
        """
        self._spool.wait_settled()
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
        """Return the digest of what a run of this study, or of one series of it, would see. Raises InboxUnavailable.

        Results (SR, SEG and the like, `assembly.RESULT_MODALITIES`) do not count: a PACS that sends our own results
        back to us must not make the study a new one.
        """
        while True:
            held = self.instances(study_uid)
            if all(one.digest for one in held):
                return digest_of(one for one in held if series_uid in (None, one.series_uid))
            self._take_digests(study_uid)

    def _take_digests(self, study_uid: str) -> None:
        try:
            self._digests.take(study_uid)
        except (OSError, sqlite3.Error) as error:
            raise InboxUnavailable("SPOOL_FAILED", f"an image cannot be read ({type(error).__name__})") from error

    def identities(self, study_uid: str) -> int:
        """Return how many different patients the study's images name; more than one must be refused."""
        images = (one for one in self.instances(study_uid) if one.modality not in RESULT_MODALITIES)
        return len({one.identity for one in images})

    def open_associations(self, study_uid: str, active_within_s: float | None = None) -> int:
        """Return how many open associations have carried this study; see `Activity.count`."""
        self._spool.wait_settled()
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
        self._spool.wait_settled()
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

    # -- letting go ---------------------------------------------------------------------------------------------

    def studies(self) -> tuple[StudyRow, ...]:
        """Return the studies of which something is held, the longest quiet first."""
        return self._index.held_studies()

    def class_of(self, sop_uid: str) -> str | None:
        """Return the SOP class under which an instance is held, None when it is not."""
        held = self._index.instance(sop_uid)
        return held.sop_class if held is not None and held.path.is_file() else None

    def let_go(self, study_uid: str) -> int:
        """Remove the study's instances, remembering each; gives how many. Raises InboxUnavailable: try again."""
        self._take_digests(study_uid)
        try:
            return tombstone.let_go(self._disk, self._index, self._studies / study_uid, self._now())
        except (OSError, sqlite3.Error) as error:
            raise InboxUnavailable("SPOOL_FAILED", f"letting go failed ({type(error).__name__})") from error

    def gone(self, study_uid: str) -> Mapping[str, Gone]:
        """Return what was let go of a study and has not come again, by SOP Instance UID. Raises InboxUnavailable."""
        try:
            left = tombstone.read(self._studies / study_uid)
        except (OSError, ValueError) as error:
            raise InboxUnavailable("SPOOL_FAILED", f"a tombstone cannot be read ({type(error).__name__})") from error
        held = {one.sop_uid for one in self.instances(study_uid)} if left else frozenset()
        return {uid: one for uid, one in left.items() if uid not in held}

    def known(self, study_uid: str) -> Mapping[str, int]:
        """Return how many instances of each series are held or were let go: what need not be fetched (again)."""
        gone = (one.series_uid for one in self.gone(study_uid).values())
        return Counter([*(one.series_uid for one in self.instances(study_uid)), *gone])

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


def digest_of(instances: Iterable[Instance]) -> str:
    """Return the input digest of these instances, ordered by SOP Instance UID; see `Inbox.input_digest`."""
    lines = (f"{one.sop_uid} {one.digest}\n" for one in instances if one.modality not in RESULT_MODALITIES)
    return f"sha256:{hashlib.sha256(''.join(lines).encode()).hexdigest()}"


def _nobody(_instance: Instance, _sender: str) -> None:
    """Nobody listens."""


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


def _whole(incoming: Incoming | IncomingFile, data: bytes) -> Stored:
    try:
        if data:
            incoming.write(data)
        return incoming.finish()
    finally:
        incoming.abandon()
