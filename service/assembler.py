"""Watches the inbox and starts a run when a study is complete.

One thread. What it knows of a study comes from the inbox (what we hold and who is still sending) and from the PACS's
own counts; `dicom_bridge.assembly` decides. Nothing durable is kept here: after a restart the inbox still lists every
study that has not been handed on.
"""

import hashlib
import sqlite3
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Protocol

import structlog
from sqlalchemy.exc import SQLAlchemyError

from dicom_bridge.assembly import Action, Answer, Known, Policy, SeriesCount, decide
from dicom_bridge.errors import BridgeError
from dicom_bridge.inbox import Inbox, OpenStudy
from dicom_bridge.peers import Peer
from service.store import RETRYABLE, Run, State, Store

TICK_S = 0.05  # the longest that a ripe study waits to be looked at
ASK_AGAIN_S = 0.35  # between two C-FINDs for one study: a little over the time that two equal counts must lie apart
ASK_AGAIN_MAX_S = 10.0  # an answer that does not change, or a PACS that is away, is asked for ever more rarely
FRESH_S = 1.0  # a study is never called complete on an older answer than this
RUN_ID_HEX = 24
AWAY = (BridgeError, OSError, SQLAlchemyError, sqlite3.Error)
"""The spool, its index or the database cannot be used for now."""

_log = structlog.get_logger()


class CountQuery(Protocol):
    """Asks a peer how many instances of each series of a study it has. Raises BridgeError; None: it cannot say."""

    def __call__(self, peer: Peer, study_uid: str) -> Mapping[str, SeriesCount] | None:
        """C-FIND at SERIES level."""


@dataclass(slots=True)
class _Watch:
    """What is remembered of an open study between two looks."""

    last: Answer | None = None
    before_last: Answer | None = None
    asked_s: float = float("-inf")
    pause_s: float = ASK_AGAIN_S
    settled_at: int = -1
    """The study's `touches` when its sender was last seen to have let go."""


class Assembler:
    """Hands complete studies to `submit`, each exact set of instances once."""

    def __init__(
        self,
        *,
        inbox: Inbox,
        count: CountQuery,
        peers: Sequence[Peer],
        store: Store,
        submit: Callable[[str], None],
        policy: Policy,
        now: Callable[[], datetime],
    ) -> None:
        self._inbox = inbox
        self._count = count
        self._peers = tuple(peers)
        self._store = store
        self._submit = submit
        self._policy = policy
        self._now = now
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

    def look(self) -> None:
        """One look at every open study."""
        open_studies = self._inbox.open_studies()
        for gone in self._watched.keys() - {item.study_uid for item in open_studies}:
            del self._watched[gone]
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
            self._inbox.wait(TICK_S if self._watched else 1.0)

    def _look_at(self, item: OpenStudy) -> None:
        watch = self._watched.setdefault(item.study_uid, _Watch())
        held = self._inbox.held(item.study_uid)
        busy = self._inbox.open_associations(item.study_uid, self._policy.association_quiet_s)
        # Asking while images still come in costs nothing, and lets the first look after the last image decide.
        self._ask(item.study_uid, watch, released=not busy and watch.settled_at != item.touches)
        if not busy:
            watch.settled_at = item.touches
        quiet_s = max(0.0, (self._now() - item.last_received_at).total_seconds())
        decision = decide(Known(held, watch.last, watch.before_last, busy, quiet_s), self._policy)
        if decision.action is Action.COMPLETE and decision.trigger is not None:
            self._hand_on(item, decision.trigger)

    def _ask(self, study_uid: str, watch: _Watch, *, released: bool) -> None:
        """Ask the PACS for its counts when it is time, or at once when the sender has let go and the answer is old."""
        at_s = time.monotonic()
        age_s = at_s - watch.asked_s
        peer = self._peer_of(study_uid)
        if peer is None or age_s < (min(FRESH_S, watch.pause_s) if released else watch.pause_s):
            return
        try:
            counts = self._count(peer, study_uid)
        except BridgeError as error:
            _log.warning("count_unanswered", peer=peer.name, code=getattr(error, "code", None))
            counts = None
        watch.asked_s = time.monotonic()
        if counts is None:
            watch.last = watch.before_last = None
            watch.pause_s = min(watch.pause_s * 2, ASK_AGAIN_MAX_S)
            return
        if watch.last is None or watch.last.series != counts:
            watch.before_last, watch.pause_s = None, ASK_AGAIN_S
        else:
            # The first of the equal answers is kept, so that the time between them grows.
            watch.before_last = watch.before_last or watch.last
            watch.pause_s = min(watch.pause_s * 1.5, ASK_AGAIN_MAX_S)
        watch.last = Answer(at_s, counts)

    def _peer_of(self, study_uid: str) -> Peer | None:
        """The peer that sent the study, if it answers counts; else the first that does."""
        senders = {instance.sender for instance in self._inbox.instances(study_uid)}
        return next((p for p in self._peers if p.ae_title in senders), next(iter(self._peers), None))

    def _hand_on(self, item: OpenStudy, trigger: str) -> None:
        """Start a run for exactly what is held, unless that very input has been dealt with.

        Order: the run is in the table, then in the workflow engine, then the inbox lets go. A crash in between repeats
        the rest under the same id.
        """
        digest = self._inbox.input_digest(item.study_uid)
        same = [run for run in self._store.of_study(item.study_uid) if run.input_digest == digest]
        last = same[-1] if same else None
        if last is None or last.state in RETRYABLE:
            attempt = 1 if last is None else last.attempt + 1
            last = self._new_run(item.study_uid, digest, attempt, trigger)
            self._store.add(last)
        if last.state is State.ASSEMBLED:
            self._submit(last.run_id)
        self._inbox.mark_assembled(item.study_uid, item.touches, digest)
        self._watched.pop(item.study_uid, None)
        _log.info("study_complete", run=last.run_id, trigger=trigger, attempts=last.attempt)

    def _new_run(self, study_uid: str, digest: str, attempt: int, trigger: str) -> Run:
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
        )
