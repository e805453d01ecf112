"""The composition root of `zhiying serve`: every constructor call, once, by hand, and the order of start and stop."""

import gc
from contextlib import suppress
from datetime import timedelta
from functools import partial
from typing import Protocol

import structlog
from fastapi import APIRouter, FastAPI
from sqlalchemy.exc import SQLAlchemyError

from audit import durable
from audit.errors import AuditError, AuditUnavailable
from audit.policy import Policy as TrustPolicy
from dicom_bridge import query, selection
from dicom_bridge.assembly import Policy
from dicom_bridge.commitment import CommitmentDesk
from dicom_bridge.dispensable import left_out
from dicom_bridge.inbox import Inbox, InboxLimits
from dicom_bridge.ledger import Batch, Proof
from dicom_bridge.listener import Denial, Fault
from dicom_bridge.outbox import Outbox
from dicom_bridge.peers import Peer
from inference.engine import Engine
from inference.errors import InferenceError
from models.errors import ModelError
from models.library import Installed, Library
from models.ref import ModelRef
from service import bridging, lacking, log_in, pull_api, stamping, stop_api, stopping, wire, witness_client, witnessing
from service.app import build_app
from service.assembler import Assembler
from service.audit_messages import AuditMessages
from service.caretaker import Caretaker
from service.config import Config
from service.heartbeat import CallLog, Heartbeat
from service.http_server import HttpServer
from service.identity import IdentityMap
from service.incidents import Incidents, OverdueClocks
from service.permitting import Practice
from service.pipeline import Device, Observer, Parts, Pipeline
from service.profile_check import profile_check
from service.queue import RunQueue
from service.reading import Reading
from service.reporting.running import Telling
from service.results import ResultStyle, ResultWriter
from service.retention import Keep, Retention
from service.reviewing import Reviewing
from service.started import Started
from service.store import Run, Store, connect
from service.stow_api import known_senders, stow_router
from service.telemetry import Metrics, set_up_logging
from service.watching import Watching
from service.withdrawing import Withdrawals
from service.witnessing import Guarded, Watch
from service.workflow import AT_ONCE, Workflows

_log = structlog.get_logger()


class ClosingDevice(Device, stopping.Device, Protocol):
    """What runs models, stops where it is told to, and ends with the service."""

    def close(self) -> None:
        """Now; may be repeated."""


class Service:
    """Everything that runs, and the order in which it starts and stops."""

    def __init__(self, config: Config, observer: Observer | None = None, engine: ClosingDevice | None = None) -> None:
        self._config = config
        data = config.data.folder
        durable.make_dirs(data)
        self._lock = wire.only_one(data)
        self._metrics = Metrics()
        policy = witnessing.policy_of(config)
        self.log = wire.open_log(config)
        self.watch = None if policy is None else self._watched_by(policy)
        self._writes: CallLog = self.log if self.watch is None else Guarded(self.log, self.watch.permit)
        self.library = Library(data / "models")
        self.register = wire.open_register(config, self.log)
        limits = InboxLimits(
            free_bytes_min=config.data.free_bytes_min, instance_bytes_max=config.dicom.instance_bytes_max
        )
        self.inbox = Inbox(wire.spool(config), wire.now, limits=limits)
        self.store = Store(connect(wire.database_url(config, "runs")))
        self.engine = engine or Engine(device=config.engine.device, log=_engine_event)
        peers = wire.peers(config)
        self._titles = frozenset(peer.ae_title for peer in peers.values())
        self._halts = stopping.RegisterHalts(self.register, config.site.id, wire.now)
        self._door = stopping.Door(self._halts, self.store.model_of_call)
        self.outbox, self.desk = self._sending(peers)
        self.pipeline = self._pipeline(observer)
        self.workflows = Workflows(self.pipeline, wire.database_url(config, "workflows"), on_end=self._run_ended)
        self.queue = RunQueue(self.workflows, self.store.waiting, AT_ONCE)
        self._access = bridging.access(config, peers)
        self.listeners = bridging.listeners(
            config, self.inbox, self._access, self.desk.extra(), self._listener_denied, _listener_fault
        )
        self.puller = bridging.puller(config, self.inbox, peers)
        self._profile = profile_check(config)
        self.assembler = Assembler(
            inbox=self.inbox,
            count=partial(query.series_counts, calling_ae=config.dicom.ae_title),
            peers=list(peers.values()),
            store=self.store,
            submit=self.queue.add,
            policy=Policy(quiet_s=config.assembly.quiet_s, count_confirm_s=config.assembly.count_confirm_s),
            now=wire.now,
            rule_says_urgent=partial(selection.urgent, rules=wire.rules(config)),
        )
        self._warmed: frozenset[ModelRef] = frozenset()
        syslog = config.audit.syslog
        self.messages = None if syslog is None else AuditMessages(config, syslog, self.log, peers)
        self.telling = Telling(config, self.log, self._writes, self._door.may_leave, self._metrics.registry)
        # Of their own, as warming a model takes many seconds, and an authority or a witness may take its time.
        beginning = Started(self._writes, config, wire.SOFTWARE)
        self.pulse = Caretaker(beginning, Heartbeat(self._writes), self.log.publish, pause_s=wire.PUBLISH_S)
        self.stamping = self._stamping()
        self.asking = None if self.watch is None else Caretaker(self.watch)
        self.reviewing = Reviewing(config, self.register)
        retention = Retention(self.inbox, self.store, Keep(timedelta(hours=config.retention.pixels_h)), wire.now)
        overdue = OverdueClocks(Incidents(self.log), wire.now, self._metrics.registry)
        self.caretaker = Caretaker(self.reviewing, self._warm, self._undelivered, retention, overdue)
        self.halting = self._watcher()
        self.halter = Caretaker(self.halting, pause_s=stopping.ROUND_S)
        self.watching = self._watching()
        self._stopping = False
        self._http = HttpServer(self._app(), config.http)

    @property
    def dicom_address(self) -> str:
        """AET@host:port."""
        dicom = self._config.dicom
        return f"{dicom.ae_title}@{dicom.host}:{bridging.ports(self.listeners)}"

    @property
    def http_address(self) -> str:
        """The base URL of the API."""
        return f"http://{self._config.http.host}:{self._config.http.port}"

    @property
    def frozen(self) -> AuditUnavailable | None:
        """Why nothing may be appended to the log; None as long as it may."""
        return None if self.watch is None else self.watch.frozen

    def start(self) -> None:
        """Results that wait go out first, then what was interrupted resumes, then new images are taken.

        Where the log is older than its witnesses know, images are taken, and nothing else happens; see `frozen`.
        """
        if self.watch is not None:
            self.watch.look()
        if self.asking is not None:
            self.asking.start()
        self.pulse.start()
        if self.stamping is not None:
            self.stamping.start()
        if self.messages is not None:
            self.messages.start()
        self.halter.start()
        if self.frozen is None:
            self.outbox.start()
            self.telling.start()
        self.workflows.start()
        self.queue.start()
        self.desk.start()
        self._profile.start()
        for listener in self.listeners:
            listener.start()
        self.assembler.start()
        self.puller.start()
        self.caretaker.start()
        self.watching.start()
        self._http.start()
        # What lives as long as the process need not be looked through at each collection: 50 ms of a study's time.
        gc.collect()
        gc.freeze()

    def stop(self) -> None:
        """Take nothing new, let steps finish for a while, then close; the rest resumes at the next start."""
        self._stopping = True  # what is being stored by STOW-RS ends, and nothing new begins
        self._http.stop()
        self._profile.stop()
        self.puller.stop()
        self.caretaker.stop()
        self.assembler.stop()
        for listener in self.listeners:
            listener.stop()
        self.desk.stop()
        self.queue.stop()
        self.workflows.stop()
        self.outbox.stop()
        self.telling.stop()
        self.halter.stop()
        self.engine.close()
        self.watching.stop()
        self.inbox.close()
        self.store.close()
        self.pulse.stop()
        if self.stamping is not None:
            self.stamping.stop()
        if self.asking is not None:
            self.asking.stop()
        if self.messages is not None:
            self.messages.stop()
        with suppress(AuditError, OSError):  # without it the next start replays more
            self.reviewing.keep()
        self.log.close()
        self._lock.close()

    def checks(self) -> dict[str, str]:
        """For /health: each answer is looked up now."""
        return {
            "audit": self.frozen.code if self.frozen else "ok" if self.log.head().size > 0 else "empty",
            "witnesses": "ok" if self.watch is None else self.watch.state(),
            "asking": "ok" if self.asking is None or self.asking.running else "stopped",
            "dicom": "ok" if all(one.port for one in self.listeners) else "not listening",
            "assembler": "ok" if self.assembler.running else "stopped",
            "queue": "ok" if self.queue.healthy else "stopped",
            "audit_messages": "ok" if self.messages is None or self.messages.running else "stopped",
            "heartbeat": "ok" if self.pulse.running else "stopped",
            "time_stamps": "ok" if self.stamping is None or self.stamping.running else "stopped",
            "caretaker": "ok" if self.caretaker.running else "stopped",
            "halting": "ok" if self.halter.running else "stopped",
            "database": self.store.answers(),
            "outbox": "ok" if self.outbox.healthy() else "stopped",
            "reports": "ok" if self.telling.running else "stopped",
            "commitment": "ok" if self.desk.healthy() else "stopped",
            "puller": "ok" if self.puller.running else "stopped",
            **self.watching.checks(),
        }

    def routers(self) -> tuple[APIRouter, ...]:
        """What the HTTP port serves besides looking."""
        door = stow_router(self.inbox, sender=known_senders(self._access), stopping=lambda: self._stopping)
        return (door, pull_api.build_router(self.puller), stop_api.build_router(self.halting), self.watching.router())

    def _app(self) -> FastAPI:
        return build_app(
            health=self,
            store=self.store,
            inbox=self.inbox,
            library=self.library,
            log=self.log,
            metrics=self._metrics.registry,
            page=self.watching.page,
            log_in=self.watching.log_in,
            routers=self.routers(),
        )

    def _watching(self) -> Watching:
        """What looks at models in use, and takes what physicians decide."""
        return Watching(
            self._config,
            log=self.log,
            writer=self._writes,
            register=self.register,
            library=self.library,
            engine=self.engine,
            store=self.store,
            inbox=self.inbox,
            registry=self._metrics.registry,
        )

    def _stamping(self) -> Caretaker | None:
        """What has the log's checkpoints stamped, where an authority can be reached."""
        site = self._config.audit.timestamps
        if site is None or site.url is None:
            return None
        newest = partial(stamping.newest, self._config)
        metrics = stamping.StampMetrics(self._metrics.registry)
        return Caretaker(stamping.Stamper(site, stamping.opened(self._config), newest, metrics))

    def _watcher(self) -> stopping.Watcher:
        metrics = stopping.StopMetrics(self._metrics.registry)
        return stopping.Watcher(
            *(self.log, self._halts, self._door, self.engine, self.outbox, wire.now, metrics),
            start=self.log.head().size,
        )

    def _watched_by(self, policy: TrustPolicy) -> Watch:
        return Watch(self._config, self.log, policy, self._metrics.registry, witness_client.post, witness_client.get)

    def _sending(self, peers: dict[str, Peer]) -> tuple[Outbox, CommitmentDesk]:
        """What takes results to peers, and what hears and says who holds what."""
        config, data = self._config, self._config.data.folder
        keep_trying = timedelta(days=config.results.keep_trying_days)
        outbox = Outbox(
            data / "outbox",
            wire.now,
            self._delivered,
            peers=peers,
            calling_ae=config.dicom.ae_title,
            keep_trying=keep_trying,
            commitment_wait=timedelta(hours=config.results.commitment_wait_h),
            callback_errors=(OSError, AuditError, SQLAlchemyError),
            may_leave=self._door.may_leave,
        )
        desk = CommitmentDesk(
            data / "commitment",
            wire.now,
            peers=peers,
            calling_ae=config.dicom.ae_title,
            held=self.inbox.class_of,
            reports=outbox.report,
            keep_trying=keep_trying,
        )
        return outbox, desk

    def _delivered(self, batch: Batch) -> None:
        refused = left_out(batch)
        self.pipeline.delivered(batch.id, batch.peer, batch.attempts, batch.proof or Proof.ANSWERED, refused)
        lacking.warn(batch.peer, refused)
        withdrawals = Withdrawals.of(self._config, self.log, self._writes.append, self.outbox.enqueue)
        withdrawals.superseded(self.store, batch.id)

    def _in_line(self, run: Run) -> None:
        self.queue.add(run)

    def _run_ended(self, run_id: str) -> None:
        self.queue.ended(run_id)

    def _undelivered(self) -> None:
        """Dead letters become a state that a person sees."""
        for batch in self.outbox.dead_letters():
            self.pipeline.undelivered(batch.id, batch.code or "UNDELIVERED")

    def _warm(self) -> None:
        """Load what has been approved since the last look, so that the first study does not wait for it.

        What fails here is refused again, with its code, in the study that needs it.
        """
        approved = frozenset(approval.model for approval in self.register.approvals())
        installed = {item.ref for item in self.library.list() if isinstance(item, Installed)}
        for ref in sorted((approved & installed) - self._warmed, key=str):
            try:
                self.engine.warm(self.library.open(ref))
            except (ModelError, InferenceError) as error:
                _log.error("model_not_warm", code=error.code)
        self._warmed = approved & installed

    def _pipeline(self, observer: Observer | None) -> Pipeline:
        config = self._config

        def observe(step: str, moment: str, subject: str) -> None:
            self._metrics.observe(step, moment, subject)
            if observer is not None:
                observer(step, moment, subject)

        return Pipeline(
            Parts(
                practice=Practice.of(config),
                reading=Reading(self.inbox, rules=wire.rules(config), charsets=wire.charsets(config)),
                log=self._writes,
                library=self.library,
                register=self.register,
                engine=self.engine,
                results=ResultWriter(config.data.folder / "results", ResultStyle.of(config)),
                outbox=self.outbox,
                peer=config.results.to,
                denials=config.results.denials,
                store=self.store,
                submit=self._in_line,
                pseudonyms=wire.pseudonyms(config),
                identities=IdentityMap.of(config.data.folder),
                titles=self._titles,
                now=wire.now,
                observe=observe,
                guard=self._door.guard,
            )
        )

    def _listener_denied(self, denial: Denial) -> None:
        self._metrics.denied(denial.code)
        # A stranger's title is whatever somebody has typed: only those that we know are repeated.
        peer = denial.sender if denial.sender in self._titles else ""
        _log.warning("association_denied", code=denial.code, address=denial.address, peer=peer)


def _engine_event(event: str, /, **values: str | int) -> None:
    _log.info(event, **values)


def _listener_fault(fault: Fault) -> None:
    _log.error("listener_fault", peer=fault.sender, error_type=fault.kind)


def build(config: Config, observer: Observer | None = None, engine: ClosingDevice | None = None) -> Service:
    """The whole service for one configuration. Raises ConfigInvalid, AlreadyRunning and what the parts raise.

    `engine`: runs the models in place of the device's own; for measurements of everything else.
    """
    log_in.settled(config.http)
    set_up_logging()
    return Service(config, observer, engine)
