"""Our desk for storage commitments (PS3.4 annex J), both ways, behind the listener's port.

As SCP: a modality asks whether we hold what it sent (N-ACTION). The request is remembered durably before it is
accepted; the report (N-EVENT-REPORT) goes out on a new association to the address that the configuration has for the
caller, in the SCP's role, and is tried for days. A caller that the configuration does not name can only be told while
the association on which it asked is open. An instance counts as committed only if it is held now, under the class that
the request names.

As SCU: a PACS reports, on a new association, what came of a commitment that the outbox asked for.
"""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Mapping
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any, Final, Protocol

from pydicom.dataset import Dataset
from pynetdicom import evt

from audit import durable
from dicom_bridge.calling import CallLimits, called, hold
from dicom_bridge.commitment_book import Asked, BookUnavailable, CommitmentBook, Stand
from dicom_bridge.commitment_messages import (
    ACTION,
    NO_SUCH_ACTION,
    NO_SUCH_INSTANCE,
    PUSH_MODEL,
    PUSH_MODEL_INSTANCE,
    REASON_CLASS_CONFLICT,
    REASON_DUPLICATE_TRANSACTION,
    REASON_NO_SUCH_OBJECT,
    REASON_PROCESSING,
    RESOURCES,
    SUCCESS,
    TRANSFER_SYNTAXES,
    MessageInvalid,
    Reference,
    Report,
    read_request,
    write_report,
)
from dicom_bridge.commitment_scu import answer_report
from dicom_bridge.delivery import PAUSE_MAX, pause
from dicom_bridge.errors import InboxUnavailable, PeerFailed
from dicom_bridge.peers import Peer
from dicom_bridge.stocklane import Extra
from dicom_bridge.tls import TlsUnusable

BOOK_FILE: Final = "commitment.sqlite3"
KEEP_TRYING: Final = timedelta(days=7)
"""As long as for our own results."""
REPORT_AFTER: Final = timedelta(seconds=0.5)
"""The answer to the request goes first; a caller that waits on its association waits for seconds."""
POLL_S: Final = 1.0
"""How soon a pause that is over is noticed, in seconds. One small query."""
STOP_TIMEOUT_S: Final = 10.0
LIMITS: Final = CallLimits(connect_s=10, acse_s=30, dimse_s=30)
_WORTH_ANOTHER_TRY: Final = frozenset({0x0110, RESOURCES})
"""Answers to a report: processing failure, resource limitation. Others will not change."""

Held = Callable[[str], str | None]
"""The SOP class under which the inbox holds an instance, or None. May raise InboxUnavailable."""


class Tell(Protocol):
    """How a report reaches a peer on a new association."""

    def __call__(self, peer: Peer, calling_ae: str, event_type: int, information: Dataset) -> int:
        """Return the status of its answer. Raises PeerFailed, TlsUnusable."""
        ...


def tell(peer: Peer, calling_ae: str, event_type: int, information: Dataset, limits: CallLimits = LIMITS) -> int:
    """Send one N-EVENT-REPORT on an association in which we take the SCP's role; see Tell."""
    with called(peer, calling_ae, [(PUSH_MODEL, TRANSFER_SYNTAXES)], limits, as_scp=[PUSH_MODEL]) as association:
        return _report(association, event_type, information)


class CommitmentDesk:
    """Remembers requests in `root` and reports on them. `peers`: by name; a caller is known by its AE title.

    `reports`: takes a PACS's report and its AE title, gives the status of the answer; `Outbox.report`.
    `now` gives aware UTC. Raises BookUnavailable when the folder cannot be used.
    """

    def __init__(
        self,
        root: Path,
        now: Callable[[], datetime],
        *,
        peers: Mapping[str, Peer],
        calling_ae: str,
        held: Held,
        reports: Callable[[Report, str], int],
        keep_trying: timedelta = KEEP_TRYING,
        transport: Tell = tell,
    ) -> None:
        durable.make_dirs(root)
        self._book = CommitmentBook(root / BOOK_FILE)
        self._now, self._calling_ae, self._held, self._reports = now, calling_ae, held, reports
        self._peers = {peer.ae_title: peer for peer in reversed(list(peers.values()))}
        self._keep_trying, self._transport = keep_trying, transport
        self._wakeup = threading.Condition()
        self._stopping = False
        self._thread: threading.Thread | None = None
        # Where callers that nobody named are still listening, by the number of the request.
        self._open: dict[int, Any] = {}

    def extra(self) -> Extra:
        """What the listener must offer for this desk: the class in both roles, and who answers."""
        return Extra(
            contexts=((PUSH_MODEL, TRANSFER_SYNTAXES, True, True),),
            handlers=((evt.EVT_N_ACTION, self._asked), (evt.EVT_N_EVENT_REPORT, self._reported)),
        )

    def requests(self) -> tuple[Asked, ...]:
        """What callers have asked for in the last weeks, and how far it is."""
        return self._book.all()

    def start(self) -> None:
        """Report from a thread of our own."""
        self._thread = threading.Thread(target=self._serve, name="commitment", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """Stop after the association under way; what is due is reported after the next start."""
        with self._wakeup:
            self._stopping = True
            self._wakeup.notify_all()
        if self._thread is not None:
            self._thread.join(STOP_TIMEOUT_S)
        if self._thread is None or not self._thread.is_alive():
            self._book.close()

    def healthy(self) -> bool:
        """Whether the thread that should run does."""
        return self._thread is not None and self._thread.is_alive() and not self._stopping

    def run_due(self) -> int:
        """Report what is due now; gives the number of requests handled. The thread does only this."""
        handled = 0
        while not self._stopping and (asked := self._book.due(self._now(), PAUSE_MAX)) is not None:
            self._answer(asked)
            handled += 1
        return handled

    # ---- what comes in -----------------------------------------------------------------------------------------------

    def _asked(self, event: Any) -> tuple[int, None]:
        """Handle EVT_N_ACTION: 0x0000 only when the request is remembered durably."""
        if event.request.RequestedSOPInstanceUID != PUSH_MODEL_INSTANCE:
            return NO_SUCH_INSTANCE, None
        if event.action_type != ACTION:
            return NO_SUCH_ACTION, None
        caller, now = _caller(event), self._now()
        try:
            number = self._book.add(caller, read_request(event.action_information), now, now + REPORT_AFTER)
        except MessageInvalid as invalid:
            return invalid.status, None
        except BookUnavailable:
            return RESOURCES, None
        if caller not in self._peers:
            self._open[number] = event.assoc
        return SUCCESS, None

    def _reported(self, event: Any) -> tuple[int, None]:
        """Handle EVT_N_EVENT_REPORT: a PACS has decided over a request of ours."""
        caller = _caller(event)
        return answer_report(event, lambda report: self._reports(report, caller)), None

    # ---- what goes out -----------------------------------------------------------------------------------------------

    def _serve(self) -> None:
        while not self._stopping:
            # Disk full or book locked: nothing was lost, the next round tries again.
            with contextlib.suppress(BookUnavailable):
                self.run_due()
            with self._wakeup:
                if not self._stopping:
                    self._wakeup.wait(POLL_S)

    def _answer(self, asked: Asked) -> None:
        """One try. Every path ends in a commit that changes what is due."""
        if self._now() - asked.received_at > self._keep_trying:
            self._drop(asked, "TOO_OLD")
            return
        event_type, information = write_report(asked.request, self._failed(asked))
        try:
            status = self._send(asked, event_type, information)
        except (PeerFailed, TlsUnusable) as failed:
            if asked.caller not in self._peers:
                self._drop(asked, "CALLER_UNKNOWN")
            else:
                self._book.postpone(asked, self._now() + pause(asked.failures), failed.code)
            return
        # A crash here reports once more: the same verdict on the same transaction.
        if status in _WORTH_ANOTHER_TRY:
            self._book.postpone(asked, self._now() + pause(asked.failures), f"STATUS_{status:04X}")
        elif status in (SUCCESS, 0x0001) or status >> 12 == 0xB:
            self._open.pop(asked.number, None)
            self._book.close_request(asked, Stand.TOLD)
        else:
            self._drop(asked, f"STATUS_{status:04X}")

    def _send(self, asked: Asked, event_type: int, information: Dataset) -> int:
        peer = self._peers.get(asked.caller)
        if peer is not None:
            return self._transport(peer, self._calling_ae, event_type, information)
        association = self._open.get(asked.number)
        if association is None:
            raise PeerFailed("PEER_UNREACHABLE", "the caller is not in the configuration and has gone")
        return _report(association, event_type, information)

    def _drop(self, asked: Asked, code: str) -> None:
        self._open.pop(asked.number, None)
        self._book.close_request(asked, Stand.DROPPED, code)

    def _failed(self, asked: Asked) -> dict[Reference, int]:
        """Reasons by instance, of those that we cannot answer for now."""
        if asked.duplicate:
            return dict.fromkeys(asked.request.references, REASON_DUPLICATE_TRANSACTION)
        reasons = {reference: self._reason(reference) for reference in asked.request.references}
        return {reference: reason for reference, reason in reasons.items() if reason is not None}

    def _reason(self, reference: Reference) -> int | None:
        sop_class, sop_uid = reference
        try:
            held = self._held(sop_uid)
        except InboxUnavailable:
            return REASON_PROCESSING
        if held is None:
            return REASON_NO_SUCH_OBJECT
        return None if held == sop_class else REASON_CLASS_CONFLICT


def _caller(event: Any) -> str:
    return str(event.assoc.requestor.ae_title or "").strip()


def _report(association: Any, event_type: int, information: Dataset) -> int:
    hold(association)
    try:
        answer, _ = association.send_n_event_report(information, event_type, PUSH_MODEL, PUSH_MODEL_INSTANCE)
    except (RuntimeError, ValueError):
        # The association ended just now, or never had the context.
        answer = Dataset()
    finally:
        # One that a caller opened goes on: it must not stay paused.
        association._reactor_checkpoint.set()
    if "Status" not in answer:
        raise PeerFailed("PEER_NO_ANSWER", "the association ended, or no answer came in time")
    return int(answer.Status)
