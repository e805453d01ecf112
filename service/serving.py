"""The composition root of `zhiying serve`: every constructor call, once, by hand, and the order of start and stop."""

import fcntl
import gc
import threading
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import IO

import structlog
import uvicorn
from sqlalchemy.exc import SQLAlchemyError

from audit import durable
from audit.errors import AuditError
from dicom_bridge import query
from dicom_bridge.assembly import Policy
from dicom_bridge.inbox import Inbox, InboxLimits
from dicom_bridge.listener import Fault, Listener, ListenerLimits
from dicom_bridge.outbox import Outbox
from dicom_bridge.peers import Peer
from inference.engine import Engine
from inference.errors import InferenceError
from models.errors import ModelError
from models.library import Installed, Library
from models.ref import ModelRef
from service import wire
from service.app import build_app
from service.assembler import Assembler
from service.caretaker import Caretaker
from service.config import Config
from service.errors import AlreadyRunning
from service.keys import Pseudonyms
from service.pipeline import Observer, Parts, Pipeline
from service.reading import Reading
from service.results import ResultStyle, ResultWriter
from service.store import Store, connect
from service.telemetry import Metrics, set_up_logging
from service.workflow import Workflows

HTTP_STOP_S = 5  # for requests under way

_log = structlog.get_logger()


class Service:
    """Everything that runs, and the order in which it starts and stops."""

    def __init__(self, config: Config, observer: Observer | None = None) -> None:
        self._config = config
        data = config.data.folder
        durable.make_dirs(data)
        self._lock = _only_one(data)
        self._metrics = Metrics()
        self.log = wire.open_log(config)
        self.library = Library(data / "models")
        self.register = wire.open_register(config, self.log)
        limits = InboxLimits(free_bytes_min=config.data.free_bytes_min)
        self.inbox = Inbox(wire.spool(config), wire.now, limits=limits)
        self.store = Store(connect(wire.database_url(config, "runs")))
        self.engine = Engine(device=config.engine.device, log=_engine_event)
        peers = {p.name: Peer(**p.model_dump()) for p in config.peers}
        self.outbox = Outbox(
            data / "outbox",
            wire.now,
            lambda batch: self.pipeline.delivered(batch.id, batch.peer.name, batch.attempts, "ANSWERED"),
            calling_ae=config.dicom.ae_title,
            callback_errors=(OSError, AuditError, SQLAlchemyError),
        )
        for peer in peers.values():
            self.outbox.readdress(peer)  # an address that changed in the file holds for what waits, too
        self.pipeline = self._pipeline(peers, observer)
        self.workflows = Workflows(self.pipeline, wire.database_url(config, "workflows"))
        self.listener = Listener(
            config.dicom.ae_title,
            config.dicom.host,
            config.dicom.port,
            self.inbox,
            limits=ListenerLimits(associations_max=config.dicom.associations_max),
            on_fault=_listener_fault,
        )
        self.assembler = Assembler(
            inbox=self.inbox,
            count=partial(query.series_counts, calling_ae=config.dicom.ae_title),
            peers=[p for p in peers.values() if p.counts],
            store=self.store,
            submit=self.workflows.submit,
            policy=Policy(quiet_s=config.assembly.quiet_s, count_confirm_s=config.assembly.count_confirm_s),
            now=wire.now,
        )
        self._warmed: frozenset[ModelRef] = frozenset()
        self.caretaker = Caretaker(self._warm, self._undelivered)
        self._http = _Http(self, config)

    @property
    def dicom_address(self) -> str:
        """AET@host:port."""
        dicom = self._config.dicom
        return f"{dicom.ae_title}@{dicom.host}:{self.listener.port}"

    @property
    def http_address(self) -> str:
        """The base URL of the API."""
        return f"http://{self._config.http.host}:{self._config.http.port}"

    def start(self) -> None:
        """Results that wait go out first, then what was interrupted resumes, then new images are taken."""
        self.outbox.start()
        self.workflows.start()
        self.listener.start()
        self.assembler.start()
        self.caretaker.start()
        self._http.start()
        # What lives as long as the process need not be looked through at each collection: 50 ms of a study's time.
        gc.collect()
        gc.freeze()

    def stop(self) -> None:
        """Take nothing new, let steps finish for a while, then close; the rest resumes at the next start."""
        self._http.stop()
        self.caretaker.stop()
        self.assembler.stop()
        self.listener.stop()
        self.workflows.stop()
        self.outbox.stop()
        self.engine.close()
        self.inbox.close()
        self.store.close()
        self.log.close()
        self._lock.close()

    def checks(self) -> dict[str, str]:
        """For /health: each answer is looked up now."""
        return {
            "audit": "ok" if self.log.head().size > 0 else "empty",
            "dicom": "ok" if self.listener.port else "not listening",
            "assembler": "ok" if self.assembler.running else "stopped",
            "caretaker": "ok" if self.caretaker.running else "stopped",
            "database": _answers(self.store),
            "outbox": "ok" if self.outbox.healthy() else "stopped",
        }

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

    def _pipeline(self, peers: dict[str, Peer], observer: Observer | None) -> Pipeline:
        config = self._config
        style = ResultStyle(
            device_serial=config.site.id,
            version=version("zhiying"),
            language=config.site.language,
            charset=config.site.charset,
        )

        def observe(step: str, moment: str, subject: str) -> None:
            self._metrics.observe(step, moment, subject)
            if observer is not None:
                observer(step, moment, subject)

        return Pipeline(
            Parts(
                site=config.site.id,
                autonomy=config.review.autonomy,
                reading=Reading(self.inbox),
                log=self.log,
                library=self.library,
                register=self.register,
                engine=self.engine,
                results=ResultWriter(config.data.folder / "results", style),
                outbox=self.outbox,
                peer=peers.get(config.results.to) if config.results.to else None,
                store=self.store,
                pseudonyms=Pseudonyms.load(config.data.folder / "keys" / "pseudonym.key"),
                now=wire.now,
                observe=observe,
            )
        )


def _engine_event(event: str, /, **values: str | int) -> None:
    _log.info(event, **values)


def _listener_fault(fault: Fault) -> None:
    _log.error("listener_fault", peer=fault.sender, error_type=fault.kind)


def _answers(store: Store) -> str:
    try:
        store.latest(1)
    except SQLAlchemyError as error:
        return type(error).__name__
    return "ok"


class _Http:
    """uvicorn in a thread of its own."""

    def __init__(self, service: Service, config: Config) -> None:
        app = build_app(
            health=service,
            store=service.store,
            inbox=service.inbox,
            library=service.library,
            log=service.log,
            metrics=service._metrics.registry,
        )
        self._server = uvicorn.Server(
            uvicorn.Config(app, host=config.http.host, port=config.http.port, log_level="warning", access_log=False)
        )
        self._server.install_signal_handlers = lambda: None  # type: ignore[attr-defined]
        self._thread = threading.Thread(target=self._server.run, name="http", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        self._server.should_exit = True
        self._thread.join(HTTP_STOP_S)


def build(config: Config, observer: Observer | None = None) -> Service:
    """The whole service for one configuration. Raises AlreadyRunning, AuditCorrupt and what the parts raise."""
    set_up_logging()
    return Service(config, observer)


def _only_one(folder: Path) -> IO[str]:
    """Hold the data folder for this process; the kernel lets go when it ends, however it ends."""
    lock = (folder / "serve.lock").open("w")
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        lock.close()
        raise AlreadyRunning(f"another zhiying serves {folder}") from None
    return lock
