"""Follows the audit log and hands what is new to the syslog sender, from a place that is kept with the spool.

The place moves in the transaction that takes an entry's messages into the spool: killed at any point, each entry is
handed over exactly once. When the spool is full, or its disk is, the place stays: the log itself is then the queue, and
nothing is lost however long the repository is away.

The place holds the last entry's digest as well. A log that was restored from a backup has other entries at the same
indices; the feed then goes on from the log's RESTORE entry, or from the beginning where there is none.
"""

from __future__ import annotations

import hashlib
from collections import OrderedDict
from collections.abc import Iterator, Sequence
from itertools import islice
from typing import Final, Protocol

import structlog

from audit.checkpoint import Checkpoint
from audit.entry import Entry
from dicom_bridge.audit_event import SUCCESS, Reporter
from dicom_bridge.audit_message import to_xml
from dicom_bridge.audit_rules import events_of
from service.syslog import NOTICE, WARNING, Header, SyslogInvalid, frame

ENTRIES_AT_ONCE: Final = 256
"""In one `pump`: a second or two of work when a site turns the feed on beside an old log; the next takes more."""
WINDOW: Final = 256
"""Entries read together when looking back: one bundle of the log."""
LOOK_BACK_MAX: Final = 100_000
"""How far the beginning of a call is looked for: two weeks of a large hospital, twice what a result is retried."""
CALLS_MAX: Final = 4096

_log = structlog.get_logger()


class Log(Protocol):
    """What the feed needs of audit.log.AuditLog. Both raise AuditError."""

    def entries(self, start: int = 0) -> Iterator[Entry]:
        """All entries from this index, in order, proven."""

    def head(self) -> Checkpoint:
        """The newest signed head."""


class Outlet(Protocol):
    """What the feed needs of service.syslog.SyslogSender."""

    def mark(self, name: str) -> str | None:
        """What `offer` last moved the mark to. Raises SpoolUnavailable."""

    def offer(self, frames: Sequence[bytes], mark: tuple[str, str] | None = None) -> bool:
        """Keep all frames and move the mark, durably, or do neither. Does not wait for the network."""


class Calls:
    """Which study a call is of: some kinds of entry name only the call, whose CALL_INTENT before them names both."""

    def __init__(self, log: Log) -> None:
        self._log = log
        self._studies: OrderedDict[str, str] = OrderedDict()

    def study_of(self, entry: Entry) -> str | None:
        """The pseudonym, from this entry or from one before it in the log; None: there is none. Raises AuditError."""
        self._note(entry)
        if entry.call is None or isinstance(entry.body.get("study"), str):
            return _study(entry)
        stop, least = entry.index, max(0, entry.index - LOOK_BACK_MAX)
        while entry.call not in self._studies and stop > least:
            start = max(least, (stop - 1) // WINDOW * WINDOW)
            for earlier in islice(self._log.entries(start), stop - start):
                self._note(earlier)
            stop = start
        return self._studies.get(entry.call)

    def _note(self, entry: Entry) -> None:
        study = _study(entry)
        if entry.call is not None and study is not None:
            self._studies[entry.call] = study
            self._studies.move_to_end(entry.call)
            if len(self._studies) > CALLS_MAX:
                self._studies.popitem(last=False)


class AuditFeed:
    """A chore for service.caretaker: `pump` hands over what the log has and the spool has not yet had."""

    def __init__(self, log: Log, outlet: Outlet, reporter: Reporter, header: Header) -> None:
        self._log = log
        self._outlet = outlet
        self._reporter = reporter
        self._header = header
        self._calls = Calls(log)
        self._name = f"fed:{reporter.origin}"  # another log, another place
        self._next: int | None = None

    def pump(self) -> int:
        """Hand over what is new, at most ENTRIES_AT_ONCE; how many entries were. Raises AuditError, OSError."""
        start = self._place() if self._next is None else self._next
        self._next = start
        fed = 0
        if start >= self._log.head().size:
            return fed
        for entry in islice(self._log.entries(start), ENTRIES_AT_ONCE):
            frames = self._frames(entry)
            if not self._outlet.offer(frames, (self._name, f"{entry.index + 1} {_digest(entry)}")):
                break
            self._next = entry.index + 1
            fed += 1
        return fed

    def _frames(self, entry: Entry) -> list[bytes]:
        frames = []
        for event in events_of(entry, self._reporter, self._calls.study_of(entry)):
            priority = NOTICE if event.outcome == SUCCESS else WARNING
            try:
                frames.append(frame(self._header, to_xml(event), at=entry.time, priority=priority))
            except SyslogInvalid as error:
                # Too long for any receiver. It must not hold up those behind it for ever; the log has the entry.
                _log.error("audit_message_refused", code=error.code, index=entry.index)
        return frames

    def _place(self) -> int:
        """Where to go on, by the mark and by whether the log is still the one that it was made from."""
        mark = self._outlet.mark(self._name)
        if mark is None:
            return 0
        index, _, digest = mark.partition(" ")
        place = int(index)
        last = next(self._log.entries(place - 1), None) if self._log.head().size >= place else None
        if last is not None and _digest(last) == digest:
            return place
        begin = self._restored()
        _log.error("audit_feed_log_changed", code="AUDIT_FEED_LOG_CHANGED", was=place, begins=begin)
        return begin

    def _restored(self) -> int:
        """The index of the newest RESTORE entry, or 0."""
        stop = self._log.head().size
        while stop > 0:
            start = (stop - 1) // WINDOW * WINDOW
            found = [e.index for e in islice(self._log.entries(start), stop - start) if str(e.kind) == "RESTORE"]
            if found:
                return found[-1]
            stop = start
        return 0


def _study(entry: Entry) -> str | None:
    study = entry.body.get("study")
    return study if isinstance(study, str) else None


def _digest(entry: Entry) -> str:
    return hashlib.sha256(entry.to_bytes()).hexdigest()
