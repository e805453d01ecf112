"""One step in the life of a batch, as the table in `ledger` says: send, have it committed, look for it, tell.

Every path ends in a commit that changes what `Ledger.due` will say, or a sender would spin.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from enum import StrEnum
from functools import partial
from pathlib import Path
from typing import Final, Protocol

from dicom_bridge import commitment_scu, query, store_scu, stow_scu
from dicom_bridge.commitment_messages import REASON_CLASS_UNSUPPORTED, Reference, Report, Request
from dicom_bridge.commitment_scu import Heard
from dicom_bridge.dispensable import dispensable, held, settled
from dicom_bridge.errors import PeerFailed
from dicom_bridge.ledger import HELD, WITHHELD, Batch, Ledger, Output, Proof, State
from dicom_bridge.parcel import digest_of
from dicom_bridge.peers import Peer, Send
from dicom_bridge.status import Fate, fate
from dicom_bridge.store_scu import SendRefused, SendResult
from dicom_bridge.tls import TlsUnusable
from dicom_bridge.uids import derive

PAUSE_FIRST: Final = timedelta(seconds=2)
"""A PACS that restarts a service is back in seconds."""
PAUSE_MAX: Final = timedelta(minutes=15)
"""After a long outage results should be there within a quarter of an hour, without hammering a broken peer."""
FIND_PATIENCE: Final = timedelta(minutes=5)
"""A PACS may answer a C-STORE before its own index knows of the object; what is not there by then was lost."""
LOSSES_MAX: Final = 5
"""A PACS that has lost the same objects this often will lose them again: a person must look."""
LOSS_PAUSE_FIRST: Final = timedelta(minutes=1)
"""Before the first resend of what was lost; then doubling, as a disk that is full over there may take a while."""
HOLD_PAUSE: Final = timedelta(minutes=1)
"""What is held is looked at again then, should nobody `wake` the outbox when the stop is lifted."""

_DOUBLINGS_MAX: Final = 30
_UNDERSTOOD: Final = frozenset({0x0000, 0x0131, 0x0210})
"""N-ACTION: accepted, or (transaction UID, invocation) known already: our request before a crash got there."""
_NOT_OFFERED: Final = frozenset({"PEER_NO_CONTEXT", "PEER_FAILURE_STATUS"})


class Store(Protocol):
    """How files reach a peer."""

    def __call__(self, files: Sequence[Path], peer: Peer, calling_ae: str, *, go_on: Callable[[], bool]) -> SendResult:
        """Send `files` in order, asking `go_on` before each; see store_scu.send."""
        ...


class Ask(Protocol):
    """How a peer is asked to commit."""

    def __call__(self, wanted: Request, peer: Peer, calling_ae: str, heard: Heard, wait: Callable[[], None]) -> int:
        """Return the N-ACTION's status; see commitment_scu.request."""
        ...


class Find(Protocol):
    """How a peer is asked what it has."""

    def __call__(self, peer: Peer, series: Sequence[tuple[str, str]], calling_ae: str) -> frozenset[str]:
        """Return SOP Instance UIDs; see query.find_held."""
        ...


class Leave(StrEnum):
    """Whether a batch may leave: yes; not before a stop is lifted; not unless a person sends it again."""

    GO = "GO"
    HOLD = "HOLD"
    WITHHOLD = "WITHHOLD"


def store(
    files: Sequence[Path], peer: Peer, calling_ae: str, *, go_on: Callable[[], bool] = store_scu.always
) -> SendResult:
    """Send by the service that the peer's configuration names."""
    send = stow_scu.send if peer.send is Send.STOW_RS else store_scu.send
    return send(files, peer, calling_ae, go_on=go_on)


def anything(_batch_id: str) -> Leave:
    """Where nothing is ever stopped."""
    return Leave.GO


@dataclass(frozen=True, slots=True)
class Transport:
    """The three ways in which the outbox speaks to a peer; other ones in tests."""

    store: Store = store
    ask: Ask = commitment_scu.request
    find: Find = query.find_held


@dataclass(frozen=True, slots=True)
class Rules:
    """What the site decides: who the peers are, by name, how long we wait for them, and whether a batch may leave.

    may_leave: asked with a batch's name before each object, so it must be quick.
    """

    peers: Mapping[str, Peer]
    calling_ae: str
    keep_trying: timedelta
    commitment_wait: timedelta
    callback_errors: tuple[type[Exception], ...] = (OSError,)
    transport: Transport = field(default_factory=Transport)
    may_leave: Callable[[str], Leave] = anything


class Delivery:
    """Takes batches forward.

    hear: takes a report and its sender's AE title, gives the status of the answer; ends in `reported`.
    wait_for_report: returns when this round's report has come, or after a while.
    """

    def __init__(
        self,
        ledger: Ledger,
        rules: Rules,
        now: Callable[[], datetime],
        on_delivered: Callable[[Batch], None],
        hear: Callable[[Report, str], int],
        wait_for_report: Callable[[Batch], None],
    ) -> None:
        self._ledger, self._rules, self._now = ledger, rules, now
        self._on_delivered, self._hear, self._wait_for_report = on_delivered, hear, wait_for_report
        self._sending: set[str] = set()

    def sending(self) -> frozenset[str]:
        """The batches whose files are on the wire now."""
        return frozenset(self._sending)

    def advance(self, batch: Batch) -> None:
        """One step of one batch that is due."""
        peer = self._rules.peers.get(batch.peer)
        if batch.state is State.SENT:
            self._tell(batch)
        elif peer is None:
            # Nothing leaves to a peer that the configuration does not name, and nobody else can prove anything.
            self._die(batch, "PEER_NOT_NAMED")
        elif batch.state is State.PENDING:
            self._attempt(batch, peer)
        elif batch.state is State.STORED:
            self._ask(batch, peer)
        elif batch.state is State.ASKED:
            self._seek_from_now(batch, "COMMITMENT_LATE")
        else:
            self._seek(batch, peer)

    def reported(self, report: Report, sender: str) -> bool:
        """A PACS says what came of a transaction; whether that was news. `sender`: its AE title.

        Unknown transactions, those of earlier rounds, repetitions and other senders change nothing.
        """
        batch = self._ledger.of_transaction(report.transaction_uid)
        if batch is None or batch.state not in (State.STORED, State.ASKED, State.SEEKING):
            return False
        peer = self._rules.peers.get(batch.peer)
        if peer is None or peer.ae_title != sender:
            return False
        failed = {output.uid: report.failed[output.uid] for output in held(batch) if output.uid in report.failed}
        # Does not commit to this class at all: no failure of ours, so it is looked for like the unmentioned ones.
        failed = {uid: reason for uid, reason in failed.items() if reason != REASON_CLASS_UNSUPPORTED}
        if failed:
            return self._lose(batch, list(failed), f"COMMITMENT_{min(failed.values()):04X}")
        whole = all(output.uid in report.committed and output.uid not in report.failed for output in held(batch))
        if batch.state is State.SEEKING:
            return whole and not batch.committed and self._ledger.commit(batch)
        if not whole:
            return self._ledger.enter(batch, State.SEEKING, self._now(), "COMMITMENT_PARTIAL")
        if peer.counts:
            return self._ledger.enter(batch, State.SEEKING, self._now(), committed=1)
        return self._prove(batch, Proof.COMMITMENT)

    # ---- the steps ---------------------------------------------------------------------------------------------------

    def _tell(self, batch: Batch) -> None:
        try:
            self._on_delivered(batch)
        except self._rules.callback_errors:
            self._later(batch, "CALLBACK_FAILED")
            return
        # A crash here repeats the callback: it is idempotent by contract, and the proof is the same.
        self._ledger.enter(batch, State.DELIVERED, self._now())

    def _attempt(self, batch: Batch, peer: Peer) -> None:
        missing = [output for output in batch.outputs if not output.stored]
        if self._kept_back(batch):
            return
        if self._too_old(batch):
            if all(dispensable(batch, output) for output in missing):
                self._stored(batch, peer)
            else:
                self._die(batch, "TOO_OLD")
            return
        if any(not output.sop_class or digest_of(output.path) != output.digest for output in missing):
            self._die(batch, "FILE_CHANGED")
            return
        # Noted before it is asked again: whoever sees neither this nor a yes knows that nothing leaves.
        self._sending.add(batch.id)
        try:
            go_on = partial(self._may_go, batch)
            result = self._rules.transport.store([o.path for o in missing], peer, self._rules.calling_ae, go_on=go_on)
        except SendRefused as refused:
            self._die(batch, refused.code)
            return
        finally:
            self._sending.discard(batch.id)
        # A crash before the next line sends the same bytes once more.
        answers = [
            (output.uid, status, fate(status) is Fate.STORED)
            for output, status in zip(missing, result.statuses, strict=True)
            if status is not None
        ]
        self._ledger.answered(batch, answers)
        self._judge(batch, peer, missing, result)

    def _leave(self, batch: Batch) -> Leave:
        leave = self._rules.may_leave(batch.id)
        return Leave.GO if leave is Leave.WITHHOLD and batch.let_go else leave

    def _may_go(self, batch: Batch) -> bool:
        return self._leave(batch) is Leave.GO

    def _kept_back(self, batch: Batch) -> bool:
        """Whether it may not leave; it waits then, or is a person's. Asked first: what is held grows no older."""
        leave = self._leave(batch)
        if leave is Leave.HOLD:
            self._hold(batch)
        elif leave is Leave.WITHHOLD:
            self._die(batch, WITHHELD)
        return leave is not Leave.GO

    def _hold(self, batch: Batch) -> None:
        self._ledger.hold(batch, self._now() + HOLD_PAUSE, self._now())

    def _judge(self, batch: Batch, peer: Peer, missing: Sequence[Output], result: SendResult) -> None:
        """PS3.4 Table B.2-1, as a sender: what is stored, what may work later, what never will."""
        answers = zip(missing, result.statuses, strict=True)
        answered = [(output, status) for output, status in answers if status is not None]
        refused = [s for output, s in answered if fate(s) is Fate.DEAD and not dispensable(batch, output)]
        if answered:
            self._ledger.peer_works(peer.name)
        if result.error == HELD:
            self._hold(batch)
        elif settled(batch, missing, result):
            self._stored(batch, peer)
        elif refused:
            self._die(batch, f"STATUS_{refused[0]:04X}")
        elif result.hopeless:
            self._die(batch, result.error or "PEER_NO_ANSWER")
        else:
            transient = next((status for _, status in answered if fate(status) is Fate.RETRY), None)
            code = result.error if transient is None else f"STATUS_{transient:04X}"
            self._later(batch, code or "PEER_NO_ANSWER")
            self._leave_alone(peer)

    def _stored(self, batch: Batch, peer: Peer) -> None:
        if peer.commitment:
            # Of this batch, this life of it and this round: the same after a crash, never that of another round.
            transaction = derive("TRANSACTION", batch.id, batch.created_at.isoformat(), str(batch.losses))
            self._ledger.enter(batch, State.STORED, self._now(), transaction_uid=transaction)
        elif peer.counts:
            self._ledger.enter(batch, State.SEEKING, self._now())
        else:
            self._prove(batch, Proof.ANSWERED)

    def _ask(self, batch: Batch, peer: Peer) -> None:
        if not peer.commitment or batch.transaction_uid is None or self._over(batch, self._rules.commitment_wait):
            self._seek_from_now(batch, batch.code)
            return
        references: tuple[Reference, ...] = tuple((output.sop_class, output.uid) for output in held(batch))
        try:
            status = self._rules.transport.ask(
                Request(batch.transaction_uid, references),
                peer,
                self._rules.calling_ae,
                lambda report: self._hear(report, peer.ae_title),
                lambda: self._wait_for_report(batch),
            )
        except (PeerFailed, TlsUnusable) as failed:
            self._no_answer(batch, peer, failed.code)
            return
        self._ledger.peer_works(peer.name)
        # A crash here asks again under the same transaction UID. The report may have come by now: then this is no news.
        if status in _UNDERSTOOD or status >> 12 == 0xB:
            self._ledger.enter(batch, State.ASKED, self._now())
        else:
            self._later(batch, f"STATUS_{status:04X}")

    def _seek(self, batch: Batch, peer: Peer) -> None:
        if not peer.counts and not peer.commitment:
            # Its abilities were taken out of the configuration meanwhile.
            self._prove(batch, Proof.COMMITMENT if batch.committed else Proof.ANSWERED)
            return
        series = sorted({(output.study_uid, output.series_uid) for output in held(batch)})
        try:
            found = self._rules.transport.find(peer, series, self._rules.calling_ae)
        except (PeerFailed, TlsUnusable) as failed:
            self._not_told(batch, peer, failed.code)
            return
        self._ledger.peer_works(peer.name)
        absent = [output.uid for output in held(batch) if output.uid not in found]
        if not absent:
            self._prove(batch, Proof.COMMITMENT if batch.committed else Proof.FOUND)
        elif self._over(batch, FIND_PATIENCE):
            self._lose(batch, absent, "PEER_FORGETS")
        else:
            self._later(batch, "NOT_FOUND_YET")

    def _not_told(self, batch: Batch, peer: Peer, code: str) -> None:
        """The peer cannot be asked what it has: wait for a while, then go by what is known."""
        if not self._over(batch, FIND_PATIENCE):
            self._no_answer(batch, peer, code)
        elif batch.committed:
            self._prove(batch, Proof.COMMITMENT)
        elif code in _NOT_OFFERED and not peer.commitment:
            self._prove(batch, Proof.ANSWERED)
        elif code in _NOT_OFFERED:
            self._lose(batch, [output.uid for output in batch.outputs], "COMMITMENT_MISSING")
        elif self._too_old(batch):
            self._die(batch, "TOO_OLD")
        else:
            self._no_answer(batch, peer, code)

    # ---- what they share ---------------------------------------------------------------------------------------------

    def _seek_from_now(self, batch: Batch, code: str | None) -> None:
        self._ledger.enter(batch, State.SEEKING, self._now(), code)

    def _prove(self, batch: Batch, proof: Proof) -> bool:
        return self._ledger.enter(batch, State.SENT, self._now(), proof=proof)

    def _die(self, batch: Batch, code: str) -> bool:
        return self._ledger.enter(batch, State.DEAD, self._now(), code)

    def _lose(self, batch: Batch, uids: Sequence[str], code: str) -> bool:
        if batch.losses >= LOSSES_MAX:
            return self._die(batch, code)
        return self._ledger.lost(batch, uids, self._now() + pause(batch.losses, LOSS_PAUSE_FIRST), code)

    def _later(self, batch: Batch, code: str) -> None:
        self._ledger.postpone(batch, self._now() + pause(batch.failures), code)

    def _no_answer(self, batch: Batch, peer: Peer, code: str) -> None:
        self._later(batch, code)
        if code == "PEER_UNREACHABLE":
            self._leave_alone(peer)

    def _leave_alone(self, peer: Peer) -> None:
        self._ledger.pause_peer(peer.name, self._now() + pause(self._ledger.failures_of(peer.name)))

    def _too_old(self, batch: Batch) -> bool:
        return self._now() - (batch.aged_from or batch.created_at) > self._rules.keep_trying

    def _over(self, batch: Batch, span: timedelta) -> bool:
        """Whether the state has lasted for `span`; so it has when it began in the future, by a clock since set back."""
        lasted = self._now() - (batch.since or batch.created_at)
        return lasted >= span or lasted < -PAUSE_MAX


def pause(failures: int, first: timedelta = PAUSE_FIRST) -> timedelta:
    """How long to wait after the failure that follows `failures` earlier ones: `first`, twice that ... 15 min."""
    return min(first * (1 << min(failures, _DOUBLINGS_MAX)), PAUSE_MAX)
