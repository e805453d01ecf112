"""A released result is withdrawn: said in the log, then to the PACS by a note that names its objects (IHE IOCM).

By a person's command, or because a later result of the same study stands in its place; where `[results]
rejection_notes` says that the site's PACS may get such notes, and nowhere else.

results/withdrawn-<call>/kos.dcm   the note; the same bytes are sent however often it is tried

The WITHDRAWN entry is first, and there is one for each call. Whatever fails after it is made good by doing the same
again: the entry is found, the note is made of it, and the outbox knows it by its name. No object of the result changes.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Final, Protocol

import structlog

from audit import durable
from audit.checkpoint import Checkpoint
from audit.entry import Draft, Entry, Kind
from audit.errors import EntryInvalid
from dicom_bridge import readback, uids
from dicom_bridge.errors import BridgeError
from dicom_bridge.ledger import OutboxUnavailable
from dicom_bridge.receipt import Receipt
from dicom_bridge.rejection import Named, Reason, named_of, predecessors, rejection_uid, write_rejection
from dicom_bridge.result_context import ResultContext
from service.config import Config
from service.errors import ServiceError
from service.records import withdrawn_key
from service.results import SR, WITHDRAWN, ResultStyle, files_of
from service.store import Run

NOTE: Final = "kos.dcm"

_log = structlog.get_logger()


class WithdrawalRefused(ServiceError):
    """It cannot be withdrawn: see `code`.

    REJECTION_NOTES_OFF (the site does not allow it), CALL_NOT_RELEASED, CALL_WITHDRAWN (it is already), RESULT_GONE
    (its files are not here any more), WITHDRAWAL_INVALID (what was said may not stand in the log).
    """

    def __init__(self, code: str, message: str) -> None:
        super().__init__(message)
        self.code = code


class Log(Protocol):
    """What is read and written; audit.log.AuditLog. All raise AuditError."""

    def find(self, key: str) -> Entry | None:
        """The entry with this idempotency key."""

    def append(self, draft: Draft) -> Entry:
        """Its entry, or the one that is there under the same key."""

    def receipt(self, index: int) -> Checkpoint:
        """A signed head that holds the entry."""


class Runs(Protocol):
    """service.store.Store. Raises SQLAlchemyError."""

    def of_study(self, study_uid: str) -> Sequence[Run]:
        """All runs of a study, oldest first."""

    def of_call(self, call: str) -> Sequence[Run]:
        """All attempts of a call, oldest first."""


Enqueue = Callable[[str, str, Sequence[Path]], None]
"""Outbox.enqueue: batch, peer, files. The same again changes nothing."""


@dataclass(frozen=True, slots=True)
class Withdrawn:
    """What the log says of it, and whether it was said now; `note`: the UID of what the PACS gets."""

    entry: Entry
    new: bool
    note: str


class Withdrawals:
    """`allowed`: `[results] rejection_notes`. `log`: to look in; `append`: where entries go. Thread-safe."""

    def __init__(
        self,
        *,
        log: Log,
        append: Callable[[Draft], Entry],
        results: Path,
        style: ResultStyle,
        enqueue: Enqueue,
        allowed: bool,
    ) -> None:
        self._log, self._append, self._results = log, append, results
        self._style, self._enqueue, self._allowed = style, enqueue, allowed

    @classmethod
    def of(cls, config: Config, log: Log, append: Callable[[Draft], Entry], enqueue: Enqueue) -> Withdrawals:
        """As the configuration has it."""
        return cls(
            log=log,
            append=append,
            results=config.data.folder / "results",
            style=ResultStyle.of(config),
            enqueue=enqueue,
            allowed=config.results.rejection_notes,
        )

    def withdraw(self, call: str, reason: Reason, *, person: str | None = None, by: str | None = None) -> Withdrawn:
        """Withdraw a call's result: `person` did, or the later call `by`. Durable when it returns.

        Raises WithdrawalRefused, AuditError, BridgeError (the note cannot be made, or the outbox refuses it), OSError.
        """
        if not self._allowed:
            raise WithdrawalRefused(
                "REJECTION_NOTES_OFF", "results.rejection_notes is not set: the site does not allow it"
            )
        release = self._log.find(f"released:{call}")
        if release is None:
            raise WithdrawalRefused("CALL_NOT_RELEASED", "there is no released result to withdraw")
        before = self._log.find(withdrawn_key(call))
        if before is not None and self._made(call).exists():
            self._send(before, call)  # whoever did it before may have been cut off
            return Withdrawn(before, new=False, note=rejection_uid(call))
        objects = self._objects(call, release)
        entry = before or self._said(call, reason, person, by, release)
        self._make(call, entry, objects)
        self._send(entry, call)
        return Withdrawn(entry, new=before is None, note=rejection_uid(call))

    def superseded(self, runs: Runs, call: str) -> None:
        """After a release: of its study, withdraw what a later released result names as its predecessor.

        Where the note cannot be made, the new result is there all the same: a line in the log says so. Raises
        AuditError, SQLAlchemyError, OSError, OutboxUnavailable: to be repeated.
        """
        if not self._allowed:
            return
        for run in runs.of_call(call)[-1:]:
            for old, new in self._pairs(runs.of_study(run.study_uid)):
                try:
                    self.withdraw(old, Reason.SUPERSEDED, by=new)
                except OutboxUnavailable:
                    raise
                except (BridgeError, WithdrawalRefused) as refused:
                    _log.warning("rejection_not_sent", code=refused.code)

    def _pairs(self, runs: Sequence[Run]) -> Iterator[tuple[str, str]]:
        """(old, new): both released, and the old one named by the new one's report; what was withdrawn before, too."""
        calls = [call for call in {run.call: None for run in runs if run.call is not None} if self._released(call)]
        reports = {uids.derive("SR", call): call for call in calls}
        for call in calls:
            for uid in predecessors(self._results / call / SR):
                if uid in reports and reports[uid] != call:
                    yield reports[uid], call

    def _released(self, call: str) -> bool:
        return self._log.find(f"released:{call}") is not None

    def _objects(self, call: str, release: Entry) -> list[Named]:
        """Class, instance and series of what the PACS holds, from the files that were sent."""
        found = named_of(files_of(self._results / call))
        wanted = released_uids(release)
        if not wanted or not found.keys() >= set(wanted):
            raise WithdrawalRefused("RESULT_GONE", "a file of this result is not here any more: it cannot be named")
        return [found[uid] for uid in wanted]

    def _said(self, call: str, reason: Reason, person: str | None, by: str | None, release: Entry) -> Entry:
        body = {
            "reason": reason.value,
            "person": person,
            "by": by,
            "peer": release.body["peer"],
            "note": rejection_uid(call),
            "outputs": [{"uid": uid} for uid in released_uids(release)],
        }
        try:
            return self._append(Draft(Kind.WITHDRAWN, withdrawn_key(call), body, call))
        except EntryInvalid:
            raise WithdrawalRefused("WITHDRAWAL_INVALID", "a short name is wanted, and no number of a person") from None

    def _make(self, call: str, entry: Entry, objects: Sequence[Named]) -> None:
        """The note of this very entry: its time, its receipt, its reason and its person."""
        person = entry.body["person"]
        context = ResultContext(
            call=call,
            content_time=datetime.fromisoformat(entry.time),
            device_serial=self._style.device_serial,
            bridge_version=self._style.version,
            site_language=self._style.language,
            charset=self._style.charset,
            receipt=Receipt(entry.index, self._log.receipt(entry.index).note),
        )
        report = readback.read_document(self._results / call / SR)
        name = None if person is None else str(person)
        data = write_rejection(report, objects, Reason(str(entry.body["reason"])), name, context)
        durable.make_dirs(self._made(call).parent)
        durable.replace(self._made(call), data)

    def _send(self, entry: Entry, call: str) -> None:
        self._enqueue(f"{WITHDRAWN}{call}", str(entry.body["peer"]), [self._made(call)])

    def _made(self, call: str) -> Path:
        return self._results / f"{WITHDRAWN}{call}" / NOTE


def released_uids(release: Entry) -> Collection[str]:
    """The objects that a release names, in its order."""
    outputs = release.body["outputs"]
    return [str(one["uid"]) for one in outputs] if isinstance(outputs, (list, tuple)) else []
