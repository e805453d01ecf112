"""An association that we open for a question or a transfer, and that cannot hold us longer than our patience lasts.

`calling` opens and closes it. Here a watchdog cuts the connection when there is a verdict: nothing else ends a wait for
a peer that stops in the middle of a PDU, and only the patience knows that images still arrive, on whatever association.
"""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from typing import Any, Final

from pydicom.dataset import Dataset
from pynetdicom import evt

from dicom_bridge.calling import CallLimits, Context, Handler, called, keep_answers
from dicom_bridge.errors import BridgeError, PeerFailed
from dicom_bridge.patience import Patience
from dicom_bridge.peers import Peer

SUCCESS: Final = 0x0000
PENDING: Final = frozenset({0xFF00, 0xFF01})
_TICK_S: Final = 0.2


class _Watchdog:
    """Cuts the connection when there is a verdict, or when negotiating or ending takes longer than it may."""

    def __init__(self, patience: Patience) -> None:
        self._patience = patience
        self._connection: socket.socket | None = None
        self._until: float | None = None
        self._done = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="watchdog", daemon=True)
        self.verdict: BridgeError | None = None

    def connected(self, event: Any) -> None:
        """Handle EVT_CONN_OPEN."""
        self._connection = event.assoc.dul.socket.socket

    def allow(self, seconds: float | None) -> None:
        """From now on this long and no longer; None: as long as the patience lasts."""
        self._until = None if seconds is None else time.monotonic() + seconds

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        self._done.set()
        self._thread.join()

    def _watch(self) -> None:
        while not self._done.wait(_TICK_S):
            until = self._until
            if until is None:
                self.verdict = self.verdict or self._patience.verdict()
            if self.verdict is not None or (until is not None and time.monotonic() > until):
                self._cut()

    def _cut(self) -> None:
        if self._connection is not None:
            # Not close: the thread that reads must see the end of the stream, not another file's bytes.
            with suppress(OSError):
                self._connection.shutdown(socket.SHUT_RDWR)


class Requested:
    """An open association: `association` is pynetdicom's own."""

    def __init__(self, association: Any, watchdog: _Watchdog, peer: Peer) -> None:
        self.association, self._watchdog, self._peer = association, watchdog, peer

    def status(self, status: Dataset) -> int:
        """The code of an answer. Raises the verdict that cut us off, or PEER_NO_ANSWER, when there is none."""
        if "Status" in status:
            return int(status.Status)
        raise self.failure()

    def failure(self) -> BridgeError:
        """Why the association ended before its answer came."""
        no_answer = PeerFailed("PEER_NO_ANSWER", f"the association with {self._peer.name} ended before the answer")
        return self._watchdog.verdict or no_answer


@contextmanager
def requested(
    peer: Peer,
    calling_ae: str,
    contexts: Sequence[Context],
    patience: Patience,
    *,
    as_scp: Sequence[str] = (),
    handlers: Sequence[Handler] = (),
) -> Iterator[Requested]:
    """As `calling.called`, which see, under watch. Raises what that raises."""
    limits = patience.limits
    watchdog = _Watchdog(patience)
    watchdog.allow(limits.connect_s + limits.acse_s)
    watchdog.start()
    # Inside an operation pynetdicom's own timer does not count: the watchdog ends it earlier, or not at all.
    ours = CallLimits(limits.connect_s, limits.acse_s, limits.whole_s)
    watched = [(evt.EVT_CONN_OPEN, watchdog.connected), *handlers]
    try:
        with called(peer, calling_ae, contexts, ours, as_scp=as_scp, handlers=watched) as association:
            keep_answers(association)
            patience.alive()
            watchdog.allow(None)
            try:
                yield Requested(association, watchdog, peer)
            except BaseException:
                # A peer that is in the middle of its answers hears no release: no reason to wait for it.
                watchdog.allow(0)
                raise
            watchdog.allow(limits.acse_s)
    finally:
        watchdog.stop()
