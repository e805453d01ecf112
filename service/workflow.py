"""The workflow engine: DBOS, which remembers finished steps in a database and resumes the rest after a crash.

Only this module knows DBOS. What it stores is JSON, never pickles, and nothing of it calls out: no admin server, no
conductor, no telemetry.
"""

import json
import sqlite3
from collections.abc import Callable
from typing import Any

import structlog
from dbos import DBOS, DBOSConfig, SetWorkflowID, WorkflowHandle
from dbos._core import WorkflowHandlePolling
from dbos._serialization import Serializer
from sqlalchemy import create_engine, event
from sqlalchemy.engine import Engine, ExceptionContext, make_url

from service.permitting import Facts
from service.pipeline import Pipeline, Step

STEPS_VERSION = "1"  # of the steps' names and order: DBOS resumes only what was begun under the same one
AT_ONCE = 2  # one study loads while another is on the device; further ones wait in line, see service.queue
STOP_WAIT_S = 20  # for steps under way, when the service stops
SQLITE_WAIT_S = 30  # for another writer, as DBOS itself sets it: a slow disk under load
PRIMARY_CODE = 0xFF  # of an extended SQLite result code
DISK_IS_AWAY = frozenset({sqlite3.SQLITE_FULL, sqlite3.SQLITE_IOERR, sqlite3.SQLITE_CANTOPEN})

_log = structlog.get_logger()


class JsonSerializer(Serializer):
    """Steps hand over plain JSON; an error is stored as the name of its type, never as an object."""

    def serialize(self, data: Any) -> str:
        """Text for the database."""
        return json.dumps(data, default=lambda value: {"error": type(value).__name__})

    def deserialize(self, serialized_data: str) -> Any:
        """The value back."""
        return json.loads(serialized_data)

    def name(self) -> str:
        """Recorded beside each value."""
        return "zhiying-json"


class Workflows:
    """Starts runs and resumes what a crash interrupted. One per process."""

    def __init__(
        self, pipeline: Pipeline, database_url: str, on_end: Callable[[str], None] = lambda _run_id: None
    ) -> None:
        """`on_end` is told of each run that has come to its end, in the thread that ran it."""
        self._pipeline = pipeline
        self._on_end = on_end
        config: DBOSConfig = {
            "name": "zhiying",
            "system_database_url": database_url,
            "application_version": STEPS_VERSION,
            "executor_id": "local",
            "serializer": JsonSerializer(),
            "log_level": "ERROR",
            # The bound on runs at once. A DBOS queue would do it too, but it polls: 7 % of a core, or a slow start.
            "max_executor_threads": AT_ONCE,
        }
        self._engine = _sqlite(database_url) if make_url(database_url).get_backend_name() == "sqlite" else None
        if self._engine is not None:
            config["system_database_engine"] = self._engine
        self._dbos = DBOS(config=config)

        @DBOS.workflow(name="read_study")
        def read_study(run_id: str) -> str:  # DBOS marks the function that it is given: a method cannot be marked
            return self._story(run_id)

        self._read_study = read_study

    def start(self) -> None:
        """Open the database, resume what was in flight, take new work."""
        DBOS.launch()

    def submit(self, run_id: str) -> bool:
        """Run the story for `run_id`; submitting the same id again does nothing, and gives False.

        Durable when it returns: from then on the run is resumed after a crash.
        """
        with SetWorkflowID(run_id):
            handle: WorkflowHandle[str] = DBOS.start_workflow(self._read_study, run_id)
        return not isinstance(handle, WorkflowHandlePolling)

    def unfinished(self) -> frozenset[str]:
        """The runs that were submitted, by this process or an earlier one, and have not come to their end."""
        found = DBOS.list_workflows(status=["PENDING", "ENQUEUED"], load_input=False, load_output=False)
        return frozenset(status.workflow_id for status in found)

    def stop(self) -> None:
        """Let steps finish for a while; what is not finished is resumed at the next start."""
        DBOS.destroy(workflow_completion_timeout_sec=STOP_WAIT_S)
        if self._engine is not None:
            self._engine.dispose()

    def _story(self, run_id: str) -> str:
        facts: Facts = {}
        try:
            for step, _ in self._pipeline.story:
                facts = DBOS.run_step({"name": step.value}, self._act, step.value, run_id, facts)
                if "ended" in facts:
                    return str(facts["ended"])
        finally:
            self._on_end(run_id)
        return "WRITTEN"

    def _act(self, step: str, run_id: str, facts: Facts) -> Facts:
        return self._pipeline.act(Step(step), run_id, facts)


def _sqlite(database_url: str) -> Engine:
    """SQLite for DBOS: a write-ahead log (one sync for each step that it records, instead of four; each commit is
    synced all the same) and its own settings for writers that wait for each other.

    A disk that is full or fails is told to DBOS as a connection that was lost: then it waits, and does again what it
    was doing. Of any other error it ends the workflow where it is, and nobody would ever take that run up again.
    """
    engine = create_engine(database_url, hide_parameters=True, connect_args={"timeout": SQLITE_WAIT_S})

    @event.listens_for(engine, "connect")
    def _connect(connection: sqlite3.Connection, _record: object) -> None:
        connection.isolation_level = "IMMEDIATE"
        for pragma in ("journal_mode=WAL", "foreign_keys=ON"):
            connection.execute(f"PRAGMA {pragma}").close()

    @event.listens_for(engine, "handle_error")
    def _disk_is_away(context: ExceptionContext) -> None:
        if getattr(context.original_exception, "sqlite_errorcode", 0) & PRIMARY_CODE in DISK_IS_AWAY:
            _log.error("workflows_wait", error_type=type(context.original_exception).__name__)
            context.is_disconnect = True

    return engine
