"""What watches models in use, made and run together: the monitor, the golden cases, and the door for decisions."""

from collections.abc import Mapping

from fastapi import APIRouter
from prometheus_client import CollectorRegistry, Counter, Gauge

from audit.log import AuditLog
from dicom_bridge.inbox import Inbox
from ethics_review.register import Register
from models.library import Library
from service import screen, wire
from service.caretaker import Caretaker
from service.config import Config
from service.decide_page import decide_router
from service.decision_api import decision_router
from service.decisions import Desk, Reader
from service.golden import Device, GoldenRuns
from service.heartbeat import CallLog
from service.identity import IdentityMap
from service.log_in import LogIn
from service.looks import Looks
from service.monitoring import Monitoring
from service.sessions import Sessions
from service.store import Store
from service.study_page import StudyPage, study_router
from service.tokens import Operator
from service.verdicts import Verdicts, believed

MONITOR_PAUSE_S = 1.0
"""Between two looks at the log: what asks for a suspension waits no longer than that."""
GOLDEN_PAUSE_S = 30.0
VERDICTS_PAUSE_S = 1.0


class WatchMetrics:
    """For `/metrics`."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self._decisions = Counter("zhiying_decisions_total", "Human decisions", ["decision"], registry=registry)
        self._verdicts = Counter(
            "zhiying_verdicts_total", "Objects that readers sent back", ["outcome"], registry=registry
        )
        self._evaluations = Counter(
            "zhiying_evaluations_total", "Evaluations", ["metric", "outcome"], registry=registry
        )
        self._golden = Counter("zhiying_golden_runs_total", "Golden cases run", ["outcome"], registry=registry)
        self._failures = Counter(
            "zhiying_monitor_failures_total", "Rounds that the monitor could not do", ["code"], registry=registry
        )
        self._behind = Gauge("zhiying_monitor_behind_entries", "Entries not looked at yet", registry=registry)
        self._suspended = Gauge("zhiying_models_suspended", "Monitored models that are suspended", registry=registry)

    def decided(self, decision: str) -> None:
        """A decision went into the log."""
        self._decisions.labels(decision=decision).inc()

    def came_back(self, outcome: str) -> None:
        """An object of a reader was looked at."""
        self._verdicts.labels(outcome=outcome).inc()

    def evaluated(self, metric: str, outcome: str) -> None:
        """See service.monitoring.Watched."""
        self._evaluations.labels(metric=metric, outcome=outcome).inc()

    def golden(self, outcome: str) -> None:
        """A golden case was run."""
        self._golden.labels(outcome=outcome).inc()

    def failed(self, code: str) -> None:
        """See service.monitoring.Watched."""
        self._failures.labels(code=code).inc()

    def behind(self, entries: int) -> None:
        """See service.monitoring.Watched."""
        self._behind.set(entries)

    def suspended(self, models: int) -> None:
        """See service.monitoring.Watched."""
        self._suspended.set(models)


class Watching:
    """Runs from start to stop, beside the story and without its threads."""

    def __init__(
        self,
        config: Config,
        *,
        log: AuditLog,
        writer: CallLog,
        register: Register,
        library: Library,
        engine: Device,
        store: Store,
        inbox: Inbox,
        registry: CollectorRegistry,
    ) -> None:
        metrics = WatchMetrics(registry)
        cache = config.data.folder / "monitor" / "state"
        self.monitor = Monitoring(log, writer, register, cache, metrics)
        site = {one.model: one.folder for one in config.golden}
        self.golden = GoldenRuns(log, writer, register, library, engine, site, wire.now, metrics.golden)
        readers = [Reader(**one.model_dump()) for one in config.readers]
        self.desk = Desk(log, writer, store, readers, wire.pseudonyms(config), metrics.decided)
        operators = [Operator(**one.model_dump()) for one in config.operators]
        self.sessions = Sessions(self.desk, wire.now, operators=operators)
        self.looks = Looks(self.desk, writer, store, IdentityMap.of(config.data.folder), wire.now)
        self.verdicts = Verdicts(
            spool=inbox,
            runs=store,
            log=log,
            writer=writer,
            pseudonyms=wire.pseudonyms(config),
            results=config.data.folder / "results",
            titles=believed(config.peers),
            decided=metrics.decided,
            seen=metrics.came_back,
        )
        inbox.listen(self.verdicts.heard)
        # A model takes seconds, and may hang; a segmentation is large: the monitor must wait for neither.
        self._threads = (
            Caretaker(self.monitor, pause_s=MONITOR_PAUSE_S),
            Caretaker(self.golden, pause_s=GOLDEN_PAUSE_S),
            Caretaker(self.verdicts, pause_s=VERDICTS_PAUSE_S),
        )
        self.language: screen.Language = "zh" if config.site.language == "zh-CN" else "en"
        self.log_in = LogIn(self.sessions, self.language) if config.http.log_in else None
        self._manifests = screen.manifests(library)
        self.page = StudyPage(
            store=store,
            inbox=inbox,
            results=config.data.folder / "results",
            desk=self.desk,
            sessions=self.sessions,
            looks=self.looks,
            models=self._manifests,
            default=self.language,
        )

    def start(self) -> None:
        """Begin."""
        for thread in self._threads:
            thread.start()

    def stop(self) -> None:
        """End, after the engine was closed: a golden case under way then ends as well."""
        for thread in self._threads:
            thread.stop()
        self.monitor.close()

    def checks(self) -> Mapping[str, str]:
        """For /health."""
        states = {"monitor": self.monitor.state, "golden": self.golden.state, "verdicts": "ok"}
        return {
            name: state if thread.running else "stopped"
            for (name, state), thread in zip(states.items(), self._threads, strict=True)
        }

    def router(self) -> APIRouter:
        """The doors for decisions, for programs and for people; and what the page of a study needs."""
        doors = APIRouter()
        doors.include_router(study_router(self.page))
        doors.include_router(decision_router(self.desk, self.looks))
        form = decide_router(
            *(self.desk, self.sessions, self.looks, self._manifests, self.language), closed=self.log_in is not None
        )
        doors.include_router(form)
        return doors
