"""When a transfer from a peer is given up: it stalls, it never ends, somebody calls it off, or it cannot go on.

One object for each retrieval. Whoever waits for the peer asks it again and again; whoever sees a sign of life says so.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from dicom_bridge.catalogue import INSTANCES_MAX
from dicom_bridge.errors import BridgeError, Fault

LOOK_S: Final = 0.5
"""Seconds between two looks at what has arrived; each is one query of the spool's index."""


class RetrieveFailed(BridgeError):
    """A study was not fetched whole.

    PULL_NOT_FOUND               the peer has no such study
    PULL_INCOMPLETE              the transfer ended, but the peer has more than what arrived
    PULL_WRONG_STUDY             it sent another study than the one that was asked for
    PULL_ENDLESS                 it sent more than it said it has, or answers without an end
    PULL_STALLED                 nothing arrived for too long
    PULL_TOO_LONG                the whole took longer than it may
    PULL_CANCELLED               somebody, or the end of the service, called it off
    PULL_REDIRECTED              it named another address; we go to configured ones only
    PULL_ANSWER_INVALID          its answer cannot be understood
    PULL_DESTINATION_UNKNOWN     it does not know our AE title, so a C-MOVE can reach nobody
    """

    CODES = frozenset(
        {
            "PULL_NOT_FOUND",
            "PULL_INCOMPLETE",
            "PULL_WRONG_STUDY",
            "PULL_ENDLESS",
            "PULL_STALLED",
            "PULL_TOO_LONG",
            "PULL_CANCELLED",
            "PULL_REDIRECTED",
            "PULL_ANSWER_INVALID",
            "PULL_DESTINATION_UNKNOWN",
        }
    )
    fault = Fault.SITE


@dataclass(frozen=True, slots=True)
class RetrieveLimits:
    """Seconds, but for `attempts` and `answers_max`.

    connect_s, acse_s: for TCP (and TLS), and for the answer to an association request or its release.
    stall_s: without any sign of life (an instance, an answer) in a transfer; a PACS that fetches from tape is silent
        for minutes.
    whole_s: for one study, whatever the peer does.
    settle_s: how long instances may still arrive after a C-MOVE was answered; some PACS answer first.
    answers_max: to one query; a broken peer answers for ever.
    attempts, pause_s: transfers of what is missing, and the pause before the second, which then doubles.
    """

    connect_s: float = 10.0
    acse_s: float = 30.0
    stall_s: float = 300.0
    whole_s: float = 4 * 3600.0
    settle_s: float = 10.0
    answers_max: int = INSTANCES_MAX
    attempts: int = 3
    pause_s: float = 2.0


class Patience:
    """Thread-safe. `look` is called about twice a second while somebody waits; it returns what has arrived so far."""

    def __init__(
        self,
        limits: RetrieveLimits | None = None,
        stop: threading.Event | None = None,
        look: Callable[[], int] | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.limits = limits or RetrieveLimits()
        self._stop = stop or threading.Event()
        self._look, self._clock = look, clock
        self._began = self._alive = self._looked = clock()
        self._arrived: int | None = None
        self._fatal: BridgeError | None = None

    def alive(self) -> None:
        """The peer gave a sign of life."""
        self._alive = self._clock()

    def fail(self, error: BridgeError) -> None:
        """It cannot go on, seen at a place from which nothing can be raised; the first such error counts."""
        if self._fatal is None:
            self._fatal = error

    def verdict(self) -> BridgeError | None:
        """Why this must end now; None: go on."""
        if self._fatal is not None:
            return self._fatal
        if self._stop.is_set():
            return RetrieveFailed("PULL_CANCELLED", "called off")
        self._glance()
        at_s = self._clock()
        if at_s - self._began > self.limits.whole_s:
            return RetrieveFailed("PULL_TOO_LONG", f"not done after {self.limits.whole_s:.0f} s")
        if at_s - self._alive > self.limits.stall_s:
            return RetrieveFailed("PULL_STALLED", f"no sign of life for {self.limits.stall_s:.0f} s")
        return self._fatal

    def check(self) -> None:
        """Raise the verdict, if there is one."""
        verdict = self.verdict()
        if verdict is not None:
            raise verdict

    def pause(self, seconds: float) -> None:
        """Sleep, but not after somebody has called it off. Our own pauses are no fault of the peer."""
        self._stop.wait(seconds)
        self.alive()

    def _glance(self) -> None:
        at_s = self._clock()
        if self._look is None or at_s - self._looked < LOOK_S:
            return
        self._looked = at_s
        try:
            arrived = self._look()
        except BridgeError as error:
            self.fail(error)
            return
        if arrived != self._arrived:
            self._arrived = arrived
            self.alive()
