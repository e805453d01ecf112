"""Tells one receiver what was released, until it has taken it: a chore, to be called every second.

The log is the source: a result is told after its RELEASED entry, so that shadow runs, calls on labelled cases and
refusals, which have none, are never told. What is told is made from the report's file, whose digest that entry names.

    RELEASED in the log -> in the book -> the message is made and kept -> told, again and again -> NOTIFIED in the log

Killed anywhere, the step under way is repeated: the receiver may see the same bytes under the same control id twice;
an entry is there once, by its key.
"""

from __future__ import annotations

import hashlib
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from itertools import islice
from pathlib import Path
from typing import Final, Protocol

import structlog
from prometheus_client import CollectorRegistry, Counter, Gauge

from audit.canonical import JsonValue
from audit.checkpoint import Checkpoint
from audit.entry import Draft, Entry, Kind, parse_time
from audit.errors import KeyConflict
from dicom_bridge.delivery import Leave
from dicom_bridge.errors import BridgeError
from dicom_bridge.reported import Reported, read_reported
from service.errors import ServiceError
from service.heartbeat import CallLog
from service.reporting.answer import Answer, Fate
from service.reporting.book import Book, Row, State
from service.reporting.items import Key, items_of, subject_of

ENTRIES_AT_ONCE: Final = 256
PAUSE_FIRST_S: Final = 2.0
PAUSE_MAX_S: Final = 900.0
"""Between two tries of one report, and of one receiver: each pause is twice the last."""
HELD_S: Final = 5.0
"""How soon is asked again whether what is held may go."""
GIVEN_UP: Final = "GIVEN_UP"

_log = structlog.get_logger()


class Untellable(ServiceError):
    """A report that no message can hold: it names no patient, or its file is not the one that was released."""

    code = "REPORT_UNTELLABLE"


class Log(Protocol):
    """What is needed of audit.log.AuditLog. All raise AuditError."""

    def entries(self, start: int = 0) -> Iterator[Entry]:
        """All entries from this index, in order, proven."""

    def head(self) -> Checkpoint:
        """The newest signed head."""

    def find(self, key: str) -> Entry | None:
        """The entry with this key."""


class Receiver(Protocol):
    """Somebody who is told: `name` as the configuration has it; `form`: what the messages are."""

    @property
    def name(self) -> str:
        """A token."""

    @property
    def form(self) -> str:
        """A code."""

    @property
    def keep_trying(self) -> timedelta:
        """Then it is given up."""

    def message(self, report: Reported, row: Row, gone: Sequence[Key]) -> bytes:
        """The message; the same for the same arguments. Raises Untellable."""

    def tell(self, content: bytes, row: Row) -> Answer:
        """Tell it once. Raises nothing of the network."""

    def abort(self) -> None:
        """End what is under way, from another thread."""


class ReportMetrics:
    """Numbers for operators."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self._waiting = Gauge("zhiying_reports_waiting", "Reports to be told", ["receiver"], registry=registry)
        self._dead = Gauge("zhiying_reports_dead", "Reports that were given up", ["receiver"], registry=registry)
        self._told = Counter("zhiying_reports_total", "Reports, by outcome", ["receiver", "outcome"], registry=registry)

    def standing(self, receiver: str, book: Book) -> None:
        """As the book has it now."""
        self._waiting.labels(receiver).set(book.count(receiver, State.WAITING, State.SETTLED))
        self._dead.labels(receiver).set(book.count(receiver, State.DEAD))

    def ended(self, receiver: str, outcome: str) -> None:
        """One is over."""
        self._told.labels(receiver, outcome).inc()


@dataclass(frozen=True, slots=True)
class Desk:
    """What all receivers share. `file_of`: a call's report. `may_leave`: whether a call's result may leave now."""

    book: Book
    log: Log
    writer: CallLog
    file_of: Callable[[str], Path]
    may_leave: Callable[[str], Leave]
    now: Callable[[], datetime]
    metrics: ReportMetrics


def notified_key(row: Row) -> str:
    """Of the entry that says that a receiver has taken it: the result, or that it counts no more."""
    return f"notified:{row.call}:{row.receiver}" + (":withdrawn" if row.withdrawn else "")


def notified(row: Row, form: str) -> Draft:
    """The entry of a report that is over: taken once, or refused in this round."""
    body: dict[str, JsonValue] = {
        "peer": row.receiver,
        "form": form,
        "told": "WITHDRAWAL" if row.withdrawn else "RESULT",
        "digest": row.digest,
        "outcome": row.outcome,
        "proof": row.code,
        "attempts": row.attempts,
    }
    taken = row.outcome == Fate.DELIVERED
    key = notified_key(row) + ("" if taken else f":{row.round}")
    return Draft(Kind.NOTIFIED, key, body, call=row.call)


class Teller:
    """The chore of one receiver."""

    def __init__(self, receiver: Receiver, desk: Desk, clock: Callable[[], float] = time.monotonic) -> None:
        self._to, self._d, self._clock = receiver, desk, clock
        self._stopping = threading.Event()
        self._next: int | None = None
        self._not_before = ""  # of what a changed log has: releases before it are not told
        self._failures = 0
        self._pause_until = 0.0
        self._place()  # where the log ends when a receiver is named first; what was released before is not told

    def stop(self) -> None:
        """End what is under way; what waits goes on at the next start."""
        self._stopping.set()
        self._to.abort()

    def __call__(self) -> None:
        """Take what was released, and tell what is due. Raises AuditError, OSError: again in the next round."""
        self._take()
        while not self._stopping.is_set() and self._clock() >= self._pause_until:
            row = self._d.book.due(self._to.name, self._d.now())
            if row is None:
                break
            self._advance(row)
        self._d.metrics.standing(self._to.name, self._d.book)

    # ---- from the log into the book ----------------------------------------------------------------------------------

    def _take(self) -> None:
        start = self._place()
        if start >= self._d.log.head().size:
            return
        last: Entry | None = None
        for entry in islice(self._d.log.entries(start), ENTRIES_AT_ONCE):
            if entry.kind is Kind.RELEASED and entry.call is not None and entry.time >= self._not_before:
                self._d.book.add(self._row(entry), _mark(entry))
            if entry.kind is Kind.WITHDRAWN and entry.call is not None and not self._withdraw(entry, entry.call):
                break
            self._next, last = entry.index + 1, entry
        if last is not None:
            self._d.book.move(self._to.name, _mark(last))

    def _place(self) -> int:
        if self._next is None:
            self._next = self._found_place()
        return self._next

    def _found_place(self) -> int:
        mark, size = self._d.book.mark(self._to.name), self._d.log.head().size
        if mark is None:
            last = next(self._d.log.entries(size - 1))
            self._d.book.move(self._to.name, _mark(last))
            return size
        place = int(mark.partition(" ")[0])
        last_read = next(self._d.log.entries(place - 1), None) if size >= place else None
        if last_read is not None and _mark(last_read) == mark:
            return place
        # Restored from a backup, or succeeded: what the book knows is not told again, nor what is too old to be tried.
        self._not_before = (self._d.now() - self._to.keep_trying).strftime("%Y-%m-%dT%H:%M:%S")
        _log.error("reports_log_changed", code="REPORTS_LOG_CHANGED", was=place, begins=0)
        return 0

    def _row(self, entry: Entry) -> Row:
        call, released = str(entry.call), parse_time(entry.time)
        code, subject = None, ""
        try:
            subject = subject_of(self._report(call, entry))
        except (BridgeError, ServiceError, OSError) as error:
            code = str(getattr(error, "code", "REPORT_FILE_UNREADABLE"))
            _log.error("report_not_told", peer=self._to.name, code=code)
        state = State.WAITING if code is None else State.DEAD
        return Row(self._to.name, call, entry.index, subject, released, state, aged_from=released, code=code)

    def _withdraw(self, entry: Entry, call: str) -> bool:
        """Whether the book knows now that a call's result counts no more; what it has forgotten, the log knows."""
        release = self._d.log.find(f"released:{call}")
        if release is None:
            return True  # in a log before this one: nothing of it can be said here
        row = self._row(release)
        told = int(self._d.log.find(notified_key(row)) is not None)
        return self._d.book.withdraw(replace(row, attempts=told), _mark(entry), self._d.now())

    def _report(self, call: str, released: Entry | None = None) -> Reported:
        """The report of a call. With its entry: as that names it, to the bit."""
        data = self._d.file_of(call).read_bytes()
        report = read_reported(data)
        if released is not None:
            mine = {"uid": report.sop_uid, "digest": _digest(data)}
            outputs = released.body["outputs"]
            named = outputs if isinstance(outputs, (list, tuple)) else ()
            if mine not in [dict(one) for one in named if isinstance(one, Mapping)]:
                raise Untellable("the report's file is not the one that was released")
        return report

    # ---- from the book to the receiver -------------------------------------------------------------------------------

    def _advance(self, row: Row) -> None:
        book, now = self._d.book, self._d.now()
        if self._d.log.find(f"released:{row.call}") is None:
            # This log succeeded the one that has the release, or lost it: it could not say that this was told.
            book.end(row, State.DEAD, "RELEASE_NOT_LOGGED")
            return
        if row.state is State.SETTLED:
            self._record(row)
            return
        leave = Leave.GO if row.withdrawn else self._d.may_leave(row.call)  # a stop keeps nothing from being taken back
        if leave is not Leave.GO:
            if leave is Leave.WITHHOLD and row.round == 0:
                book.end(row, State.DEAD, "WITHHELD")
            else:
                book.hold(row, now, now + timedelta(seconds=HELD_S), "HELD")
            return
        made = self._made(row)
        if made is None or self._known(made):
            return
        book.tried(made)
        made = replace(made, attempts=made.attempts + 1)
        answer = self._to.tell(made.content or b"", made)
        if self._stopping.is_set() and answer.fate is Fate.LATER:
            return  # it was we who ended it
        self._heard(made, answer)

    def _made(self, row: Row) -> Row | None:
        """The row with its message; None where there is none: then it is dead."""
        if row.content is not None:
            return row
        try:
            report = self._report(row.call)
            before = {item.key for one in self._d.book.told_before(row) for item in items_of(self._report(one.call))}
            gone = sorted(before - {item.key for item in items_of(report)})
            content = self._to.message(report, row, gone)
        except (BridgeError, ServiceError, OSError) as error:
            code = getattr(error, "code", "REPORT_FILE_UNREADABLE")
            _log.error("report_not_told", peer=self._to.name, code=code)
            self._d.book.end(row, State.DEAD, code)
            return None
        # Kept before it is told: each try tells the same bytes.
        digest = _digest(content)
        self._d.book.made(row, content, digest)
        return replace(row, content=content, digest=digest)

    def _known(self, row: Row) -> bool:
        """Whether the log has it already: the book was taken from a backup."""
        if self._d.log.find(notified_key(row)) is None:
            return False
        self._d.book.end(row, State.DELIVERED)
        return True

    def _heard(self, row: Row, answer: Answer) -> None:
        book, now = self._d.book, self._d.now()
        if answer.fate is not Fate.LATER:
            self._failures, self._pause_until = 0, 0.0
            book.settle(row, answer.fate, answer.code)
        elif now - row.aged_from > self._to.keep_trying:
            book.settle(row, GIVEN_UP, answer.code)
        else:
            book.later(row, now + timedelta(seconds=_pause_s(row.attempts - 1)), answer.code)
            self._pause_until = self._clock() + _pause_s(self._failures)
            self._failures += 1
            if self._failures & (self._failures - 1) == 0:
                _log.warning("report_put_off", peer=row.receiver, code=answer.code, attempts=self._failures)

    def _record(self, row: Row) -> None:
        """In the log first: the book's state is only a view."""
        # An old copy of the book may have come to another number of attempts: the log's own stands.
        with suppress(KeyConflict):
            self._d.writer.append(notified(row, self._to.form))
        taken = row.outcome == Fate.DELIVERED
        self._d.book.end(row, State.DELIVERED if taken else State.DEAD)
        self._d.metrics.ended(row.receiver, str(row.outcome))
        if not taken:
            _log.error("report_dead", peer=row.receiver, code=row.code, attempts=row.attempts)


def _pause_s(failures: int) -> float:
    return float(min(PAUSE_FIRST_S * 2 ** min(failures, 16), PAUSE_MAX_S))


def _mark(entry: Entry) -> str:
    return f"{entry.index + 1} {hashlib.sha256(entry.to_bytes()).hexdigest()}"


def _digest(data: bytes) -> str:
    return f"sha256:{hashlib.sha256(data).hexdigest()}"
