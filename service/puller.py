"""Fetches studies from peers: those that somebody orders, and, for a PACS that cannot push, those that are new there.

One thread for each peer, so one pull from a peer at a time, and a peer that hangs holds up no other. Nothing durable is
kept here: an order that a restart loses is ordered again, and the standing query finds out anew what the inbox lacks.
"""

import secrets
import sqlite3
import threading
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field, replace
from datetime import datetime
from enum import StrEnum
from typing import Any, Protocol

import structlog

from dicom_bridge.assembly import RESULT_MODALITIES
from dicom_bridge.catalogue import SeriesEntry
from dicom_bridge.errors import BridgeError
from dicom_bridge.peers import Peer
from dicom_bridge.retrieve import Progress, Retrieved
from dicom_bridge.sources import Source
from dicom_bridge.uids import storable
from service.errors import ServiceError
from service.standing import Round, Settings

WAITING_MAX = 1000  # orders that wait for one peer; a script that orders for ever is told so
KEPT_MAX = 500  # jobs that have ended and are still shown
STOP_S = 40.0  # a read from a web peer that is silent may take 30 s to give up

_log = structlog.get_logger()


class PullRefused(ServiceError):
    """An order that was not taken: PEER_UNKNOWN, STUDY_UID_INVALID, PULL_QUEUE_FULL, STOPPING."""

    def __init__(self, code: str, message: str) -> None:
        super().__init__(message)
        self.code = code


class JobState(StrEnum):
    """The life of a pull."""

    WAITING = "WAITING"
    RUNNING = "RUNNING"
    DONE = "DONE"
    FAILED = "FAILED"


@dataclass(frozen=True, slots=True)
class Job:
    """One pull. DONE exactly if everything that the peer has, and that was asked for, is held durably.

    `standing`: the standing query ordered it, and it fetches only `series`. Counts are instances; `failed` by code.
    """

    id: str
    study_uid: str
    peer: str
    state: JobState
    ordered_at: datetime
    standing: bool = False
    series: frozenset[str] = frozenset()
    expected: int = 0
    stored: int = 0
    failed: Mapping[str, int] = field(default_factory=dict)
    attempts: int = 0
    code: str | None = None
    detail: str = ""
    ended_at: datetime | None = None

    @property
    def open(self) -> bool:
        """Whether it has not ended."""
        return self.state in (JobState.WAITING, JobState.RUNNING)


class Fetch(Protocol):
    """`dicom_bridge.retrieve.retrieve` with inbox, AE title and limits bound: never raises for peers or disks."""

    def __call__(
        self,
        peer: Peer,
        study_uid: str,
        *,
        wants: Callable[[str, SeriesEntry], bool] | None,
        progress: Callable[[Progress], None],
        stop: threading.Event,
    ) -> Retrieved:
        """One retrieval."""


OpenSource = Callable[[Peer, threading.Event], AbstractContextManager[Source]]
"""`dicom_bridge.sources.source` with AE title and limits bound; the event calls a question off."""


@dataclass(slots=True)
class _Lane:
    """One peer: what waits for it, and its standing query. Orders of people come before those of the query."""

    peer: Peer
    round: Round | None
    ordered: deque[str] = field(default_factory=deque)
    found: deque[str] = field(default_factory=deque)
    ask_at: float = float("-inf")
    thread: threading.Thread | None = None


class Puller:
    """Orders, the threads that fetch, and what became of each order.

    `known(study_uid)`: how many instances of each series the inbox holds or has ever held; what retention removed is
    not fetched again by itself. `standing`: by peer's name. `now` gives aware times.
    """

    def __init__(
        self,
        *,
        peers: Mapping[str, Peer],
        fetch: Fetch,
        source: OpenSource,
        known: Callable[[str], Mapping[str, int]],
        now: Callable[[], datetime],
        standing: Mapping[str, Settings] | None = None,
    ) -> None:
        self._fetch, self._source, self._now = fetch, source, now
        self._jobs: dict[str, Job] = {}
        self._changed = threading.Condition()
        self._stop = threading.Event()
        queries = standing or {}
        self._lanes = {
            name: _Lane(peer, Round(queries[name], known) if name in queries else None) for name, peer in peers.items()
        }

    @property
    def running(self) -> bool:
        """For /health: every peer's thread lives."""
        return all(lane.thread is not None and lane.thread.is_alive() for lane in self._lanes.values())

    def start(self) -> None:
        """Begin."""
        for name, lane in self._lanes.items():
            lane.thread = threading.Thread(target=self._run, args=(lane,), name=f"pull-{name}", daemon=True)
            lane.thread.start()

    def stop(self) -> None:
        """Call off what is under way and end; what it has stored is held, the rest is found missing next time."""
        self._stop.set()
        with self._changed:
            self._changed.notify_all()
        until = time.monotonic() + STOP_S
        for lane in self._lanes.values():
            if lane.thread is not None:
                lane.thread.join(max(0.0, until - time.monotonic()))

    def order(self, study_uid: str, peer: str) -> Job:
        """Order a study; returns at once. The same study ordered again while the first order is open is that order.

        Raises PullRefused.
        """
        if not storable(study_uid):
            raise PullRefused("STUDY_UID_INVALID", "the study is not a UID of digits and dots, 64 characters at most")
        lane = self._lanes.get(peer)
        if lane is None:
            raise PullRefused("PEER_UNKNOWN", "no such name in [[peers]] of the configuration")
        with self._changed:
            for job in self._jobs.values():
                if job.open and not job.standing and (job.study_uid, job.peer) == (study_uid, peer):
                    return job
            return self._take(lane.ordered, Job(_name(), study_uid, peer, JobState.WAITING, self._now()))

    def job(self, job_id: str) -> Job | None:
        """One order; None when there is none of this name, or it ended long ago."""
        with self._changed:
            return self._jobs.get(job_id)

    def jobs(self) -> tuple[Job, ...]:
        """All orders that are open or ended lately, the newest first."""
        with self._changed:
            return tuple(reversed(self._jobs.values()))

    def _take(self, queue: deque[str], job: Job) -> Job:
        if self._stop.is_set():
            raise PullRefused("STOPPING", "the service is being stopped")
        if len(queue) >= WAITING_MAX:
            raise PullRefused("PULL_QUEUE_FULL", f"{WAITING_MAX} pulls wait for this peer already")
        self._jobs[job.id] = job
        queue.append(job.id)
        ended = [one.id for one in self._jobs.values() if not one.open]
        for old in ended[: max(0, len(ended) - KEPT_MAX)]:
            del self._jobs[old]
        self._changed.notify_all()
        return job

    def _run(self, lane: _Lane) -> None:
        while not self._stop.is_set():
            if lane.round is not None and time.monotonic() >= lane.ask_at:
                self._ask(lane, lane.round)
            job = self._next(lane)
            if job is not None:
                self._pull(lane, job)

    def _next(self, lane: _Lane) -> Job | None:
        """The next order; None when it is time to ask, or to end."""
        with self._changed:
            while not self._stop.is_set():
                waiting = lane.ordered or lane.found
                if waiting:
                    return self._jobs[waiting.popleft()]
                pause_s = None if lane.round is None else lane.ask_at - time.monotonic()
                if pause_s is not None and pause_s <= 0:
                    return None
                self._changed.wait(pause_s)
        return None

    def _pull(self, lane: _Lane, job: Job) -> None:
        self._set(job.id, state=JobState.RUNNING)
        wants = (
            (lambda uid, entry: uid in job.series and entry.modality not in RESULT_MODALITIES) if job.standing else None
        )
        # What is left when the fetch itself raises: a bug, which ends the thread and shows in /health.
        ended = Retrieved(0, 0, code="INTERNAL_ERROR")

        def progress(at: Progress) -> None:
            self._set(job.id, expected=at.expected, stored=at.stored, attempts=at.attempt)

        try:
            ended = self._fetch(lane.peer, job.study_uid, wants=wants, progress=progress, stop=self._stop)
        finally:
            self._ended(lane, job, ended)

    def _ended(self, lane: _Lane, job: Job, ended: Retrieved) -> None:
        if job.standing and lane.round is not None:
            lane.round.pulled(job.study_uid, whole=ended.code is None)
        self._set(
            job.id,
            state=JobState.DONE if ended.code is None else JobState.FAILED,
            expected=ended.expected,
            stored=ended.stored,
            failed=ended.failed,
            attempts=ended.attempts,
            code=ended.code,
            detail=ended.detail,
            ended_at=self._now(),
        )
        say = _log.info if ended.code is None else _log.warning
        say("pull_ended", pull=job.id, peer=job.peer, code=ended.code, expected=ended.expected, stored=ended.stored)

    def _ask(self, lane: _Lane, query: Round) -> None:
        """One round of the standing query; a peer that is away is asked again in the next."""
        try:
            with self._source(lane.peer, self._stop) as source:
                for study_uid, series in query.look(source, self._now(), self._stop):
                    self._order_found(lane, study_uid, series)
        except (BridgeError, OSError, sqlite3.Error) as error:
            code = getattr(error, "code", None)
            _log.warning("standing_query_failed", peer=lane.peer.name, code=code, error_type=type(error).__name__)
        lane.ask_at = time.monotonic() + query.pause_s

    def _order_found(self, lane: _Lane, study_uid: str, series: frozenset[str]) -> None:
        name = lane.peer.name
        with self._changed:
            if any(job.open and (job.study_uid, job.peer) == (study_uid, name) for job in self._jobs.values()):
                return
            if self._stop.is_set() or len(lane.found) >= WAITING_MAX:
                # The next round finds it again.
                return
            found = Job(_name(), study_uid, name, JobState.WAITING, self._now(), standing=True, series=series)
            self._take(lane.found, found)

    def _set(self, job_id: str, **changes: Any) -> None:
        with self._changed:
            self._jobs[job_id] = replace(self._jobs[job_id], **changes)


def _name() -> str:
    return secrets.token_hex(8)


def shown(jobs: Sequence[Job]) -> list[dict[str, Any]]:
    """Jobs as the API shows them."""
    return [
        {
            "id": job.id,
            "study": job.study_uid,
            "from": job.peer,
            "state": job.state.value,
            "standing": job.standing,
            "expected": job.expected,
            "stored": job.stored,
            "failed": dict(job.failed),
            "attempts": job.attempts,
            "code": job.code,
            "detail": job.detail,
            "ordered_at": job.ordered_at.isoformat(),
            "ended_at": None if job.ended_at is None else job.ended_at.isoformat(),
        }
        for job in jobs
    ]
