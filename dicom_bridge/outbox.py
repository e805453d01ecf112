"""Durable delivery: what is enqueued reaches the peer, or becomes a dead letter that a person can see. Never silence.

Life of a batch: `enqueue` (durable) -> C-STORE over one association -> every file stored -> `on_delivered(batch)` until
it returns -> DELIVERED. A crash at any point repeats at most the step that was under way: the peer may get the same
bytes twice (harmless: same UID, same object), the callback may be called twice (it must be idempotent).

Waiting: a peer that takes nothing is left alone for 2 s, doubling to 15 min; a batch has pauses of its own, so that one
object on which a peer breaks does not hold up the others. After 7 days a batch is a dead letter, never lost.
"""

from __future__ import annotations

import contextlib
import hashlib
import threading
from collections.abc import Callable, Sequence
from datetime import datetime, timedelta
from pathlib import Path
from typing import Final, Protocol

from pydicom import dcmread
from pydicom.errors import InvalidDicomError

from audit import durable
from dicom_bridge.ledger import Batch, Ledger, OutboxRefused, OutboxUnavailable, Output, State
from dicom_bridge.peers import Peer
from dicom_bridge.store_scu import SendRefused, SendResult, send

PAUSE_FIRST: Final = timedelta(seconds=2)
"""A PACS that restarts a service is back in seconds."""
PAUSE_MAX: Final = timedelta(minutes=15)
"""After a long outage results should be there within a quarter of an hour, without hammering a broken peer."""
AGE_MAX: Final = timedelta(days=7)
"""A long holiday weekend with nobody to repair the PACS, and some days more."""
POLL_S: Final = 1.0
"""How soon a sender notices what another process did, and a clock that was set. One small query per peer."""
STOP_TIMEOUT_S: Final = 10.0
"""After this `stop` returns even if a peer holds an association; the ledger makes that harmless."""

_DOUBLINGS_MAX: Final = 30


class Send(Protocol):
    """How files reach a peer; `store_scu.send` outside tests."""

    def __call__(self, files: Sequence[Path], peer: Peer, calling_ae: str) -> SendResult:
        """Send `files` in order; see store_scu.send."""
        ...


class Outbox:
    """Batches of result files on their way to peers, under `root`.

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
        calling_ae: str = "ZHIYING",
        callback_errors: tuple[type[Exception], ...] = (OSError,),
        transport: Send = send,
    ) -> None:
        durable.make_dirs(root)
        self._ledger = Ledger(root / "outbox.sqlite3")
        self._now = now
        self._on_delivered = on_delivered
        self._calling_ae = calling_ae
        self._callback_errors = callback_errors
        self._transport = transport
        self._wakeup = threading.Condition()
        self._stopping = False
        self._started = False
        self._threads: dict[str, threading.Thread] = {}

    def enqueue(self, batch_id: str, peer: Peer, files: Sequence[Path]) -> None:
        """Promise to deliver `files` to `peer`; durable when it returns. The same again changes nothing.

        Raises OutboxRefused (BATCH_EMPTY, FILE_UNREADABLE, BATCH_CONFLICT: same id, other content or peer) and
        OutboxUnavailable (nothing promised).
        """
        if not files:
            raise OutboxRefused("BATCH_EMPTY", "a batch without files")
        self._ledger.add(batch_id, peer, [_output(path) for path in files], self._now())
        self._notify()

    def state(self, batch_id: str) -> State | None:
        """PENDING, DELIVERED (the callback has returned) or DEAD; None for a batch never enqueued."""
        batch = self._ledger.get(batch_id)
        if batch is None:
            return None
        return State.PENDING if batch.state is State.SENT else batch.state

    def batch(self, batch_id: str) -> Batch | None:
        """All that is known of one batch."""
        return self._ledger.get(batch_id)

    def pending(self) -> tuple[Batch, ...]:
        """What is on its way, with attempts and the last reason of each."""
        return self._ledger.in_state(State.PENDING) + self._ledger.in_state(State.SENT)

    def dead_letters(self) -> tuple[Batch, ...]:
        """What was refused for good or grew too old; `code` and the outputs' statuses say why."""
        return self._ledger.in_state(State.DEAD)

    def resend(self, batch_id: str) -> None:
        """Try a dead letter again, with a new age. Raises OutboxRefused (BATCH_UNKNOWN, BATCH_NOT_DEAD)."""
        self._ledger.revive(batch_id, self._now())
        self._notify()

    def readdress(self, peer: Peer) -> None:
        """The peer of this name is now there: what waits for it goes to the new address."""
        self._ledger.know(peer, self._now())
        self._notify()

    def wake(self) -> None:
        """Try everything that waits, now."""
        self._ledger.hurry(self._now())
        self._notify()

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
        while not self._stopping and (batch := self._ledger.due(peer, self._now(), PAUSE_MAX)) is not None:
            self._advance(batch)
            handled += 1
        return handled

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

    def _advance(self, batch: Batch) -> None:
        """One step of one batch. Every path ends in a commit that changes what `due` will say, or this would spin."""
        if batch.state is State.SENT:
            self._tell(batch)
        elif self._now() - batch.created_at > AGE_MAX:
            self._ledger.move(batch, State.DEAD, "TOO_OLD")
        else:
            self._attempt(batch)

    def _tell(self, batch: Batch) -> None:
        try:
            self._on_delivered(batch)
        except self._callback_errors:
            self._ledger.postpone(batch, self._now() + pause(batch.failures), "CALLBACK_FAILED")
            return
        # A crash here repeats the callback: it is idempotent by contract.
        self._ledger.move(batch, State.DELIVERED)

    def _attempt(self, batch: Batch) -> None:
        missing = [output for output in batch.outputs if not output.stored]
        if any(_digest(output.path) != output.digest for output in missing):
            self._ledger.move(batch, State.DEAD, "FILE_CHANGED")
            return
        try:
            result = self._transport([output.path for output in missing], batch.peer, self._calling_ae)
        except SendRefused as refused:
            self._ledger.move(batch, State.DEAD, refused.code)
            return
        # A crash before the next line sends the same bytes once more.
        answers = [
            (output.uid, status, is_stored(status))
            for output, status in zip(missing, result.statuses, strict=True)
            if status is not None
        ]
        self._ledger.answered(batch, answers)
        self._judge(batch, result)

    def _judge(self, batch: Batch, result: SendResult) -> None:
        """PS3.4 Table B.2-1, as a sender: what is stored, what may work later, what never will."""
        answered = [status for status in result.statuses if status is not None]
        refused = [status for status in answered if not is_stored(status) and not is_transient(status)]
        if answered:
            self._ledger.peer_works(batch.peer.name)
        if refused:
            self._ledger.move(batch, State.DEAD, f"STATUS_{refused[0]:04X}")
        elif result.error == "PEER_NO_CONTEXT":
            self._ledger.move(batch, State.DEAD, result.error)
        elif result.error is None and all(is_stored(status) for status in answered):
            self._ledger.move(batch, State.SENT)
        else:
            transient = next((status for status in answered if is_transient(status)), None)
            code = result.error if transient is None else f"STATUS_{transient:04X}"
            now = self._now()
            self._ledger.postpone(batch, now + pause(batch.failures), code or "PEER_NO_ANSWER")
            self._ledger.pause_peer(batch.peer.name, now + pause(self._ledger.failures_of(batch.peer.name)))


def pause(failures: int) -> timedelta:
    """How long to wait after the failure that follows `failures` earlier ones: 2 s, 4 s, 8 s ... 15 min."""
    return min(PAUSE_FIRST * (1 << min(failures, _DOUBLINGS_MAX)), PAUSE_MAX)


def is_stored(status: int) -> bool:
    """Success, or a warning with which the object was stored (0xB000, 0xB006, 0xB007)."""
    return status == 0x0000 or status >> 12 == 0xB


def is_transient(status: int) -> bool:
    """Out of resources (0xA7xx): the same object may be taken later."""
    return status >> 8 == 0xA7


def _digest(path: Path) -> str | None:
    try:
        with path.open("rb") as file:
            return "sha256:" + hashlib.file_digest(file, "sha256").hexdigest()
    except OSError:
        return None


def _output(path: Path) -> Output:
    try:
        uid = str(dcmread(path, stop_before_pixels=True, specific_tags=["SOPInstanceUID"]).SOPInstanceUID)
    except (OSError, InvalidDicomError, AttributeError, ValueError):
        raise OutboxRefused("FILE_UNREADABLE", "not a Part 10 file, or it cannot be read") from None
    digest = _digest(path)
    if digest is None:
        raise OutboxRefused("FILE_UNREADABLE", "the file cannot be read")
    return Output(uid=uid, digest=digest, path=path.absolute(), status=None, stored=False)
