"""Durable delivery: what is enqueued reaches the peer for certain, or becomes a dead letter that a person can see.

Life of a batch: `enqueue` (durable) -> C-STORE or STOW-RS over one association -> every file answered for -> storage
commitment and C-FIND, as far as the peer offers them -> `on_delivered(batch)`, with the proof, until it returns ->
DELIVERED. A crash at any point repeats at most the step that was under way: the peer may get the same bytes twice
(harmless: same UID, same object), the callback may be called twice (it must be idempotent; the proof is the same).

Waiting: a peer that takes nothing is left alone for 2 s, doubling to 15 min; a batch has pauses of its own, so that one
object on which a peer breaks does not hold up the others. After 7 days a batch is a dead letter, never lost. A peer
that loses what it answered for gets it again, a few times, ever more rarely.

Stopped: `may_leave` is asked before each association and each object in it. What may not leave now is held, which is
nobody's failure: it goes out when the stop is lifted, and its seven days start anew then. What may not leave at all is
a dead letter WITHHELD, which a person may `resend`. Only images' results count as leaving: what a peer has already is
asked after, and told of, as ever. `ledger` has the whole table of states.
"""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime, timedelta
from pathlib import Path
from typing import Final

from audit import durable
from dicom_bridge.commitment_messages import RESOURCES, SUCCESS, Report
from dicom_bridge.delivery import PAUSE_MAX, Delivery, Leave, Rules, Transport, anything
from dicom_bridge.ledger import LEDGER_FILE, ON_THE_WAY, Batch, Ledger, OutboxRefused, OutboxUnavailable, Output, State
from dicom_bridge.parcel import digest_of, head_of
from dicom_bridge.peers import Peer

KEEP_TRYING: Final = timedelta(days=7)
"""A long holiday weekend with nobody to repair the PACS, and some days more."""
COMMITMENT_WAIT: Final = timedelta(hours=24)
"""A PACS may commit only what its nightly run has moved to the archive."""
POLL_S: Final = 1.0
"""How soon a sender notices what another process did, and a clock that was set. One small query per peer."""
REPORT_WAIT_S: Final = 2.0
"""How long the association of a request stays open for the report; most PACS open a new one for it anyway."""
STOP_TIMEOUT_S: Final = 10.0
"""After this `stop` returns even if a peer holds an association; the ledger makes that harmless."""


class Outbox:
    """Batches of result files on their way to `peers`, by name, under `root`.

    `on_delivered` is called from a sender thread; it may raise one of `callback_errors` (audit log unavailable), and is
    then called again later. `now` gives aware UTC. The files stay the caller's: they must be durable when enqueued and
    unchanged until delivered (checked by digest before each attempt).
    """

    def __init__(
        self,
        root: Path,
        now: Callable[[], datetime],
        on_delivered: Callable[[Batch], None],
        *,
        peers: Mapping[str, Peer],
        calling_ae: str = "ZHIYING",
        keep_trying: timedelta = KEEP_TRYING,
        commitment_wait: timedelta = COMMITMENT_WAIT,
        callback_errors: tuple[type[Exception], ...] = (OSError,),
        transport: Transport | None = None,
        may_leave: Callable[[str], Leave] = anything,
    ) -> None:
        durable.make_dirs(root)
        self._ledger = Ledger(root / LEDGER_FILE)
        self._now = now
        waits = (keep_trying, commitment_wait)
        self._rules = Rules(peers, calling_ae, *waits, callback_errors, transport or Transport(), may_leave)
        self._delivery = Delivery(self._ledger, self._rules, now, on_delivered, self.report, self._await_report)
        self._wakeup = threading.Condition()
        self._stopping = False
        self._started = False
        self._threads: dict[str, threading.Thread] = {}
        # Peers that let the association of a request pass unused: the next one need not be held open for them.
        self._elsewhere: set[str] = set()

    def enqueue(self, batch_id: str, peer: str, files: Sequence[Path]) -> None:
        """Promise to deliver `files` to the peer of this name; durable when it returns. The same again changes nothing.

        Raises OutboxRefused (PEER_NOT_NAMED, BATCH_EMPTY, FILE_UNREADABLE, BATCH_CONFLICT: same id, other content or
        peer) and OutboxUnavailable (nothing promised).
        """
        if peer not in self._rules.peers:
            raise OutboxRefused("PEER_NOT_NAMED", "the configuration names no such peer")
        if not files:
            raise OutboxRefused("BATCH_EMPTY", "a batch without files")
        self._ledger.add(batch_id, peer, [_output(path) for path in files], self._now())
        self._notify()

    def state(self, batch_id: str) -> State | None:
        """PENDING, DELIVERED (the callback has returned) or DEAD; None for a batch never enqueued."""
        batch = self._ledger.get(batch_id)
        if batch is None:
            return None
        return State.PENDING if batch.state in ON_THE_WAY else batch.state

    def batch(self, batch_id: str) -> Batch | None:
        """All that is known of one batch."""
        return self._ledger.get(batch_id)

    def pending(self) -> tuple[Batch, ...]:
        """What is on its way, with attempts and the last reason of each."""
        return self._ledger.in_states(*ON_THE_WAY)

    def dead_letters(self) -> tuple[Batch, ...]:
        """What was refused for good, lost too often or grew too old; `code` and the outputs' statuses say why."""
        return self._ledger.in_states(State.DEAD)

    def resend(self, batch_id: str) -> None:
        """Try a dead letter again, with a new age. Raises OutboxRefused (BATCH_UNKNOWN, BATCH_NOT_DEAD)."""
        self._ledger.revive(batch_id, self._now())
        self._notify()

    def sending(self) -> frozenset[str]:
        """The batches whose files are on the wire now."""
        return self._delivery.sending()

    def wake(self) -> None:
        """Try everything that waits, now."""
        self._ledger.hurry(self._now())
        self._notify()

    def report(self, report: Report, sender: str) -> int:
        """Take what a PACS of this AE title says of a commitment; gives the status to answer it with.

        What is not expected (unknown, repeated, of another sender) is answered with success, and ignored: a PACS would
        only repeat it.
        """
        try:
            news = self._delivery.reported(report, sender)
        except OutboxUnavailable:
            return RESOURCES
        if news:
            self._notify()
        return SUCCESS

    def start(self) -> None:
        """Start one sender thread per peer; later peers get theirs. Raises OutboxUnavailable ALREADY_STARTED."""
        with self._wakeup:
            if self._started:
                raise OutboxUnavailable("ALREADY_STARTED", "start once")
            self._started = True
        self._notify()

    def stop(self) -> None:
        """Stop after the association under way; what is pending continues after the next start."""
        with self._wakeup:
            self._stopping = True
            self._wakeup.notify_all()
            threads = list(self._threads.values())
        for thread in threads:
            thread.join(STOP_TIMEOUT_S)
        if not any(thread.is_alive() for thread in threads):
            self._ledger.close()

    def healthy(self) -> bool:
        """Whether every sender thread that should run does."""
        with self._wakeup:
            return self._started and not self._stopping and all(t.is_alive() for t in self._threads.values())

    def run_due(self, peer: str) -> int:
        """Work off what is due for `peer` now; gives the number of batches handled. The threads do only this."""
        handled = 0
        while not self._stopping and (batch := self._due(peer)) is not None:
            self._delivery.advance(batch)
            handled += 1
        return handled

    def _due(self, peer: str) -> Batch | None:
        return self._ledger.due(peer, self._now(), PAUSE_MAX, self._rules.commitment_wait)

    def _notify(self) -> None:
        """Wake the senders; once started, see that each peer has one."""
        with self._wakeup:
            if self._started and not self._stopping:
                for peer in self._ledger.peers():
                    if peer not in self._threads:
                        thread = threading.Thread(target=self._serve, args=(peer,), name=f"outbox-{peer}", daemon=True)
                        self._threads[peer] = thread
                        thread.start()
            self._wakeup.notify_all()

    def _serve(self, peer: str) -> None:
        while not self._stopping:
            # Disk full or ledger locked: nothing was lost, the next round tries again.
            with contextlib.suppress(OutboxUnavailable):
                self.run_due(peer)
            with self._wakeup:
                if not self._stopping:
                    self._wakeup.wait(POLL_S)

    def _await_report(self, batch: Batch) -> None:
        """Hold the association of a request open for its report, if this peer has not shown that it is no use."""
        if batch.peer in self._elsewhere:
            return

        def settled() -> bool:
            now = self._ledger.get(batch.id)
            return self._stopping or now is None or now.state is not State.STORED

        with self._wakeup:
            if not self._wakeup.wait_for(settled, REPORT_WAIT_S):
                self._elsewhere.add(batch.peer)


def _output(path: Path) -> Output:
    head, digest = head_of(path), digest_of(path)
    if head is None or digest is None:
        raise OutboxRefused("FILE_UNREADABLE", "not a Part 10 file of an instance, or it cannot be read")
    return Output(
        uid=head.sop_uid,
        digest=digest,
        path=path.absolute(),
        status=None,
        stored=False,
        sop_class=head.sop_class,
        study_uid=head.study_uid,
        series_uid=head.series_uid,
    )
