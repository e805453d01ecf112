"""Asks the PACS for its counts: each peer in a thread of its own, so that one that hangs holds up nobody's study."""

import threading
import time
from collections.abc import Callable, Mapping
from concurrent.futures import Executor, ThreadPoolExecutor
from dataclasses import dataclass, replace
from typing import Protocol

import structlog

from dicom_bridge.assembly import FRESH_S, Answer, SeriesCount
from dicom_bridge.errors import BridgeError
from dicom_bridge.peers import Peer

ASK_AGAIN_S = 0.35  # between two C-FINDs for one study: a little over the time that two equal counts must lie apart
ASK_AGAIN_MAX_S = 10.0  # an answer that does not change, or a PACS that is away, is asked for ever more rarely

_log = structlog.get_logger()


class CountQuery(Protocol):
    """Asks a peer how many instances of each series of a study it has. Raises BridgeError; None: it cannot say."""

    def __call__(self, peer: Peer, study_uid: str) -> Mapping[str, SeriesCount] | None:
        """C-FIND at SERIES level."""


@dataclass(frozen=True, slots=True)
class Answers:
    """The latest two answers for one study, and when to ask again (monotonic seconds)."""

    last: Answer | None = None
    before_last: Answer | None = None
    asked_s: float = float("-inf")
    pause_s: float = ASK_AGAIN_S
    asking: bool = False


def one_thread(peer: Peer) -> Executor:
    """Where a peer is asked: one question at a time."""
    return ThreadPoolExecutor(1, thread_name_prefix=f"counts-{peer.name}")


class Counting:
    """What the peers have said of each study. `answered` is called after each answer, in the peer's thread."""

    def __init__(
        self,
        count: CountQuery,
        answered: Callable[[], None],
        executor: Callable[[Peer], Executor] = one_thread,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._count = count
        self._answered = answered
        self._executor = executor
        self._clock = clock
        self._lock = threading.Lock()
        self._studies: dict[str, Answers] = {}
        self._asking: dict[str, Executor] = {}
        self._away: dict[str, tuple[float, float]] = {}  # by peer: since when (monotonic), for how long

    def of(self, study_uid: str) -> Answers:
        """What is known now."""
        with self._lock:
            return self._studies.get(study_uid, Answers())

    def forget(self, study_uid: str) -> None:
        """The study has been handed on, or is gone."""
        with self._lock:
            self._studies.pop(study_uid, None)

    def ask(self, peer: Peer, study_uid: str, *, eager: bool) -> None:
        """Ask `peer` when it is time; `eager`: as soon as the last answer is not fresh, whatever the pause."""
        at_s = self._clock()
        with self._lock:
            known = self._studies.setdefault(study_uid, Answers())
            since_s, away_s = self._away.get(peer.name, (0.0, 0.0))
            pause_s = min(FRESH_S, known.pause_s) if eager else known.pause_s
            if known.asking or at_s - known.asked_s < pause_s or at_s - since_s < away_s:
                return
            self._studies[study_uid] = replace(known, asking=True)
            if peer.name not in self._asking:
                self._asking[peer.name] = self._executor(peer)
            executor = self._asking[peer.name]
        executor.submit(self._ask, peer, study_uid)

    def stop(self) -> None:
        """Ask nobody any more; a question that is under way ends by its own limits."""
        with self._lock:
            executors = list(self._asking.values())
        for executor in executors:
            executor.shutdown(wait=False, cancel_futures=True)

    def _ask(self, peer: Peer, study_uid: str) -> None:
        asked_s = self._clock()
        try:
            counts = self._count(peer, study_uid)
        except BridgeError as error:
            _log.warning("count_unanswered", peer=peer.name, code=getattr(error, "code", None))
            counts = None
        done_s = self._clock()
        with self._lock:
            if counts is None:
                # It will not know more of the next study either: all of its studies are left alone for a while.
                _, away_s = self._away.get(peer.name, (0.0, 0.0))
                self._away[peer.name] = (done_s, min(max(ASK_AGAIN_S, 2 * away_s), ASK_AGAIN_MAX_S))
            else:
                self._away.pop(peer.name, None)
            known = self._studies.get(study_uid)
            if known is not None:
                self._studies[study_uid] = _after(known, counts, asked_s, done_s)
        self._answered()


def _after(known: Answers, counts: Mapping[str, SeriesCount] | None, asked_s: float, done_s: float) -> Answers:
    if counts is None:
        return Answers(asked_s=done_s)
    answer = Answer(asked_s, counts)
    if known.last is None or known.last.series != counts:
        return Answers(last=answer, asked_s=done_s)
    # The first of the equal answers is kept, so that the time between them grows.
    pause_s = min(known.pause_s * 1.5, ASK_AGAIN_MAX_S)
    return Answers(answer, known.before_last or known.last, done_s, pause_s)
