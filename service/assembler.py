"""Watches the inbox and starts a run when a study is complete.

One thread. What it knows of a study comes from the inbox (what we hold, what that tells of itself and who is still
sending), from the PACS's own counts, and from the pace at which the sender has sent so far; `dicom_bridge.assembly`
decides. Nothing durable is kept here: after a restart the inbox still lists every study that has not been handed on.
"""

import hashlib
import sqlite3
import threading
import time
from collections import Counter
from collections.abc import Callable, Collection, Mapping, Sequence
from concurrent.futures import Executor
from dataclasses import dataclass, field
from datetime import datetime

import structlog
from sqlalchemy.exc import SQLAlchemyError

from dicom_bridge import assembly, evidence, pace
from dicom_bridge.assembly import FRESH_S, Action, Answer, Evidence, Known, Policy, Sender, SeriesCount, Timers
from dicom_bridge.errors import BridgeError
from dicom_bridge.inbox import Inbox, OpenStudy
from dicom_bridge.pace import OPEN_SETTLED_MIN_S, Pace
from dicom_bridge.peers import Peer
from dicom_bridge.spool_index import Instance
from service.counting import Counting, CountQuery, one_thread
from service.store import RETRYABLE, Run, State, Store, newest

TICK_S = 0.05  # the longest that a ripe study waits to be looked at
LOOK_PAUSE_S = 0.01  # between two looks while images stream in, each of which wakes the watch
READ_AGAIN_S = 0.05  # a study that grows is read from the index no more often; 3 ms for 300 images
READ_SHARE = 0.1  # and no more than this share of the time is spent on reading it, however many images it has
RUN_ID_HEX = 24
AWAY = (BridgeError, OSError, SQLAlchemyError, sqlite3.Error)
"""The spool, its index or the database cannot be used for now."""

_log = structlog.get_logger()


@dataclass(slots=True)
class _Watch:
    """What is remembered of an open study between two looks, read when it had been touched `touches` times.

    `read_again_s`: not read again before this time, on the clock that only grows.
    """

    touches: int
    read_again_s: float
    senders: frozenset[str]
    held: Mapping[str, SeriesCount]
    evidence: Evidence
    timers: Timers
    settled_at: int = field(default=-1)
    """The study's `touches` when its sender was last seen to have let go."""


class Assembler:
    """Hands complete studies to `submit`, each exact set of instances once. See `Policy` for how long it waits."""

    def __init__(
        self,
        *,
        inbox: Inbox,
        count: CountQuery,
        peers: Sequence[Peer],
        store: Store,
        submit: Callable[[Run], object],
        policy: Policy,
        now: Callable[[], datetime],
        rule_says_urgent: Callable[[Collection[Instance]], bool] = lambda _instances: False,
        executor: Callable[[Peer], Executor] = one_thread,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """`peers`: all that the configuration names. `submit` gets a run that is in the store; it may get it again.

        `rule_says_urgent`: whether a study of these instances goes before others, beside what its sender says.
        `executor`: where a peer is asked for its counts. `clock`: seconds that only grow.
        """
        self._inbox = inbox
        self._counting = Counting(count, inbox.wake, executor, clock)
        self._peers = tuple(peers)
        self._store = store
        self._submit = submit
        self._policy = policy
        self._now = now
        self._clock = clock
        self._rule_says_urgent = rule_says_urgent
        self._began_at = now()
        self._pace = Pace()
        self._watched: dict[str, _Watch] = {}
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="assembler", daemon=True)

    @property
    def running(self) -> bool:
        """For /health."""
        return self._thread.is_alive()

    def start(self) -> None:
        """Begin to watch."""
        self._thread.start()

    def stop(self) -> None:
        """Stop watching; open studies wait in the inbox."""
        self._stop.set()
        self._inbox.wake()
        self._thread.join()
        self._counting.stop()

    def look(self) -> None:
        """One look at every open study."""
        open_studies = self._inbox.open_studies()
        for gone in self._watched.keys() - {item.study_uid for item in open_studies}:
            self._let_go(gone)
        for item in open_studies:
            try:
                self._look_at(item)
            except AWAY as error:
                # The study stays open and is looked at again; those behind it must not wait for it.
                _log.error("study_put_off", error_type=type(error).__name__, code=getattr(error, "code", None))

    def _watch(self) -> None:
        while not self._stop.is_set():
            try:
                self.look()
            except AWAY as error:
                _log.error("assembler_paused", error_type=type(error).__name__, code=getattr(error, "code", None))
                self._stop.wait(1.0)
            self._stop.wait(LOOK_PAUSE_S)
            self._inbox.wait(TICK_S if self._watched else 1.0)

    def _look_at(self, item: OpenStudy) -> None:
        busy = self._inbox.open_associations(item.study_uid) > 0
        # While we were down nobody could send: a sender that our restart has cut off gets its time to come back.
        silent_since = max(item.last_received_at, self._began_at)
        quiet_s = max(0.0, (self._now() - silent_since).total_seconds())
        watch = self._watched.get(item.study_uid)
        if watch is None:
            watch = self._watched[item.study_uid] = self._read(item)
        # Asking while images still come in costs nothing, and lets the first look after the last image decide.
        self._ask(item, watch, busy=busy)
        if busy and quiet_s < OPEN_SETTLED_MIN_S:
            return
        if watch.touches != item.touches:
            if self._clock() < watch.read_again_s:
                return
            watch = self._watched[item.study_uid] = self._read(item)
        answers = self._counting.of(item.study_uid)
        known = Known(
            held=watch.held,
            last=answers.last,
            before_last=answers.before_last,
            sender=self._sender(item, busy=busy),
            evidence=watch.evidence,
            now_s=self._clock(),
            quiet_s=quiet_s,
        )
        decision = assembly.decide(known, watch.timers)
        if decision.action is Action.COMPLETE and decision.trigger is not None:
            self._hand_on(item, decision.trigger)

    def _read(self, item: OpenStudy) -> _Watch:
        """What the index says of a study: the only costly part of a look."""
        began_s = self._clock()
        instances = self._inbox.instances(item.study_uid)
        senders = frozenset(one.sender for one in instances)
        # The site's own word for a sender; of several the most patient.
        fixed = [peer.quiet_s for peer in self._peers if peer.ae_title in senders and peer.quiet_s is not None]
        own = pace.habit_of((one.received_at for one in instances), self._policy.quiet_s)
        held, seen = _held(instances), evidence.of(instances)
        ended_s = self._clock()
        return _Watch(
            touches=item.touches,
            read_again_s=ended_s + max(READ_AGAIN_S, (ended_s - began_s) / READ_SHARE),
            senders=senders,
            held=held,
            evidence=seen,
            timers=pace.timers(self._policy, self._pace.of(senders), own, max(fixed, default=None)),
        )

    def _sender(self, item: OpenStudy, *, busy: bool) -> Sender:
        if busy:
            return Sender.OPEN
        # Associations are known since this process began; one that brought a later image and is not open has ended.
        return Sender.ENDED if item.last_received_at >= self._began_at else Sender.UNSEEN

    def _ask(self, item: OpenStudy, watch: _Watch, *, busy: bool) -> None:
        """Ask for counts when it is time: at once when the sender has let go, or when only freshness is wanting."""
        asked = [peer for peer in self._peers if peer.counts]
        if not asked:
            return
        # The peer that sent the study, if it answers counts; else the first that does.
        peer = next((one for one in asked if one.ae_title in watch.senders), asked[0])
        let_go = not busy and watch.settled_at != item.touches
        stale = _only_old(self._counting.of(item.study_uid).last, watch.held, self._clock())
        self._counting.ask(peer, item.study_uid, eager=let_go or stale)
        if not busy:
            watch.settled_at = item.touches

    def _hand_on(self, item: OpenStudy, trigger: str) -> None:
        """Start a run for exactly what is held, unless that very input has been dealt with.

        Order: the run is in the table, then in line for the workflow engine, then the inbox lets go. A crash in between
        repeats the rest under the same id.
        """
        digest = self._inbox.input_digest(item.study_uid)
        same = [run for run in self._store.of_study(item.study_uid) if run.input_digest == digest]
        runs = newest(same)  # one for each model
        instances = self._inbox.instances(item.study_uid)
        if all(one.modality in assembly.RESULT_MODALITIES for one in instances):
            # Reports alone, as readers and PACS send them days later: nothing to run on.
            self._inbox.mark_assembled(item.study_uid, item.touches, digest)
            self._let_go(item.study_uid)
            return
        if not runs or any(run.state in RETRYABLE for run in runs):
            attempt = 1 + max((run.attempt for run in runs), default=0)
            urgent = any(one.urgent for one in instances) or self._rule_says_urgent(instances)
            runs = (self._new_run(item.study_uid, digest, attempt, trigger, urgent=urgent),)
            self._store.add(runs[0])
        for run in runs:
            if run.state is State.ASSEMBLED:
                self._submit(run)
        self._inbox.mark_assembled(item.study_uid, item.touches, digest)
        self._let_go(item.study_uid)
        own = pace.habit_of((one.received_at for one in instances), self._policy.quiet_s)
        self._pace.learn({one.sender for one in instances}, own)
        _log.info("study_complete", run=runs[0].run_id, trigger=trigger, attempts=runs[0].attempt)

    def _let_go(self, study_uid: str) -> None:
        self._watched.pop(study_uid, None)
        self._counting.forget(study_uid)

    def _new_run(self, study_uid: str, digest: str, attempt: int, trigger: str, *, urgent: bool) -> Run:
        name = hashlib.sha256(f"{study_uid}|{digest}".encode()).hexdigest()[:RUN_ID_HEX]
        now = self._now()
        return Run(
            run_id=f"{name}-{attempt}",
            study_uid=study_uid,
            input_digest=digest,
            attempt=attempt,
            state=State.ASSEMBLED,
            trigger=trigger,
            created_at=now,
            updated_at=now,
            urgent=urgent,
        )


def _held(instances: Collection[Instance]) -> dict[str, SeriesCount]:
    """Modality and number of instances by Series Instance UID."""
    numbers = Counter(one.series_uid for one in instances)
    return {one.series_uid: SeriesCount(one.modality, numbers[one.series_uid]) for one in instances}


def _only_old(last: Answer | None, held: Mapping[str, SeriesCount], now_s: float) -> bool:
    """Whether an answer agrees with what is held, and would complete the study if it were fresh."""
    if last is None or now_s - last.at_s <= FRESH_S:
        return False
    theirs = assembly.images(last.series)
    return all(theirs.get(uid) == count for uid, count in assembly.images(held).items())
