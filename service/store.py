"""What happened to each run, for people to look at: `studies list`, `studies show`, the API.

This is a view for operators, not evidence: the audit log is the evidence, and this table may be edited or lost
without changing what the log proves. It holds study identifiers, so it stays in the hospital.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from datetime import UTC, datetime
from enum import StrEnum
from typing import Any

from sqlalchemy import (
    JSON,
    Boolean,
    Column,
    Connection,
    DateTime,
    Engine,
    Integer,
    MetaData,
    String,
    Table,
    create_engine,
    event,
    false,
    inspect,
    select,
)
from sqlalchemy.dialects.postgresql import insert as postgresql_insert
from sqlalchemy.dialects.sqlite import insert as sqlite_insert
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.schema import CreateColumn

CONNECT_LIMIT_S = 10  # a server in the same house answers at once; without a limit TCP tries for minutes
MAKING_TABLES = 0x5A59  # the name of a lock in PostgreSQL; any number that nobody else takes
SQLITE_WAIT_S = 30  # a commit by another process takes milliseconds; longer than this is a stuck disk


class State(StrEnum):
    """Where a run stands. The last five are ends; only REFUSED, FAILED and UNDELIVERED need a person.

    SHADOWED: its model is tried in the shadow; the results are made, logged and kept, and the PACS does not get them.
    """

    ASSEMBLED = "ASSEMBLED"
    SELECTED = "SELECTED"
    PERMITTED = "PERMITTED"
    INFERRED = "INFERRED"
    WRITTEN = "WRITTEN"
    RELEASED = "RELEASED"
    SHADOWED = "SHADOWED"
    REFUSED = "REFUSED"
    FAILED = "FAILED"
    UNDELIVERED = "UNDELIVERED"


RETRYABLE = frozenset({State.REFUSED, State.FAILED, State.SHADOWED})
"""Sending the study again makes a new attempt; after a shadow run, as its model may be live by now."""
BY_NEED = (State.FAILED, State.UNDELIVERED, State.REFUSED, State.RELEASED, State.SHADOWED)
"""Ends, those first that need a person."""


@dataclass(frozen=True, slots=True)
class Run:
    """One attempt of one model at one exact set of instances of a study."""

    run_id: str
    study_uid: str
    input_digest: str
    attempt: int
    state: State
    trigger: str
    created_at: datetime
    updated_at: datetime
    stage: str | None = None
    code: str | None = None
    fault: str | None = None
    condition: str | None = None
    observed: str | None = None
    series_uid: str | None = None
    call: str | None = None
    model: Mapping[str, str] | None = None
    approval: str | None = None
    outputs: list[dict[str, str]] = field(default_factory=list)
    measurements: list[dict[str, str]] = field(default_factory=list)
    timing_ms: Mapping[str, int] = field(default_factory=dict)
    steps_ms: Mapping[str, int] = field(default_factory=dict)
    urgent: bool = False
    rule: str | None = None
    for_model: str | None = None

    def as_dict(self) -> dict[str, Any]:
        """The JSON form that the API and the command line give."""
        values = {f.name: getattr(self, f.name) for f in fields(self)}
        for name in ("created_at", "updated_at"):
            values[name] = values[name].isoformat()
        return values


def newest(runs: Sequence[Run]) -> tuple[Run, ...]:
    """The runs of the newest attempt, one for each model; `runs` are a study's, oldest first."""
    last = [(run.input_digest, run.attempt) for run in runs[-1:]]
    return tuple(run for run in runs if (run.input_digest, run.attempt) in last)


def foremost(runs: Sequence[Run]) -> Run | None:
    """The run that says how a study stands: of its newest attempt one that goes on, else that which needs a person."""
    states = list(State)
    return min(
        newest(runs),
        key=lambda run: (1, BY_NEED.index(run.state)) if run.state in BY_NEED else (0, states.index(run.state)),
        default=None,
    )


_TABLE = Table(
    "run",
    MetaData(),
    Column("run_id", String(64), primary_key=True),
    Column("study_uid", String(64), nullable=False, index=True),
    Column("input_digest", String(80), nullable=False),
    Column("attempt", Integer, nullable=False),
    Column("state", String(16), nullable=False, index=True),
    Column("trigger", String(64), nullable=False),
    Column("created_at", DateTime(timezone=True), nullable=False),
    Column("updated_at", DateTime(timezone=True), nullable=False),
    Column("stage", String(64)),
    Column("code", String(64)),
    Column("fault", String(16)),
    Column("condition", String(64)),
    Column("observed", String(64)),
    Column("series_uid", String(64)),
    Column("call", String(32), index=True),
    Column("model", JSON),
    Column("approval", String(128)),
    Column("outputs", JSON, nullable=False),
    Column("measurements", JSON, nullable=False),
    Column("timing_ms", JSON, nullable=False),  # inside the model, as it reported them
    Column("steps_ms", JSON, nullable=False),  # of the story, as far as one process saw them
    Column("urgent", Boolean, nullable=False, server_default=false()),  # taken before the others; see service.queue
    Column("rule", String(64)),  # the site's rule that chose series and model; none: the manifests decided
    Column("for_model", String(80)),  # its digest, where another run of the same attempt found it; see service.sharing
)


def connect(url: str) -> Engine:
    """A database for the store: SQLite (written through at each commit) or PostgreSQL."""
    if not url.startswith("sqlite"):
        return create_engine(
            url, pool_pre_ping=True, hide_parameters=True, connect_args={"connect_timeout": CONNECT_LIMIT_S}
        )
    # An error's text is logged by libraries that are not ours; it must not quote a study's UID.
    engine = create_engine(url, hide_parameters=True, connect_args={"timeout": SQLITE_WAIT_S})

    @event.listens_for(engine, "connect")
    def _durable(connection: Any, _record: Any) -> None:
        cursor = connection.cursor()
        cursor.execute("PRAGMA journal_mode=WAL")
        cursor.execute("PRAGMA synchronous=FULL")
        cursor.close()

    return engine


class Store:
    """The table of runs. Safe to use from several threads and processes."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        with engine.begin() as connection:
            # One at a time: two that both see no table and then both make it collide.
            waiting = f"SELECT pg_advisory_xact_lock({MAKING_TABLES})"
            connection.exec_driver_sql("BEGIN IMMEDIATE" if engine.dialect.name == "sqlite" else waiting)
            _TABLE.metadata.create_all(connection)
            _add_what_is_new(connection)

    def add(self, run: Run) -> None:
        """Remember a new run; one with the same id is left as it is."""
        make = sqlite_insert if self._engine.dialect.name == "sqlite" else postgresql_insert
        values = {f.name: getattr(run, f.name) for f in fields(run)}
        with self._engine.begin() as connection:
            connection.execute(make(_TABLE).values(**values).on_conflict_do_nothing())

    def update(self, run_id: str, now: datetime, **changes: Any) -> None:
        """Change some fields of a run."""
        with self._engine.begin() as connection:
            connection.execute(_TABLE.update().where(_TABLE.c.run_id == run_id).values(updated_at=now, **changes))

    def get(self, run_id: str) -> Run:
        """The run with that id. Raises KeyError."""
        with self._engine.connect() as connection:
            row = connection.execute(select(_TABLE).where(_TABLE.c.run_id == run_id)).first()
        if row is None:
            raise KeyError(run_id)
        return _run(row)

    def of_study(self, study_uid: str) -> tuple[Run, ...]:
        """All runs of a study, oldest first."""
        return self._select(_TABLE.c.study_uid == study_uid)

    def of_call(self, call: str) -> tuple[Run, ...]:
        """All attempts of a call, oldest first."""
        return self._select(_TABLE.c.call == call)

    def model_of_call(self, call: str) -> str | None:
        """The digest of the model of a call; None for a call that no run has."""
        models = [run.model for run in self.of_call(call) if run.model is not None]
        return models[-1]["digest"] if models else None

    def waiting(self) -> tuple[Run, ...]:
        """All runs that no step has changed yet, oldest first."""
        return self._select(_TABLE.c.state == State.ASSEMBLED)

    def answers(self) -> str:
        """For /health: "ok", or the class of the error that the database gives."""
        try:
            self.latest(1)
        except SQLAlchemyError as error:
            return type(error).__name__
        return "ok"

    def latest(self, limit: int = 200) -> tuple[Run, ...]:
        """The most recently changed runs, newest first."""
        query = select(_TABLE).order_by(_TABLE.c.updated_at.desc(), _TABLE.c.run_id).limit(limit)
        with self._engine.connect() as connection:
            return tuple(_run(row) for row in connection.execute(query))

    def close(self) -> None:
        """Give the connections back."""
        self._engine.dispose()

    def _select(self, where: Any) -> tuple[Run, ...]:
        query = select(_TABLE).where(where).order_by(_TABLE.c.created_at, _TABLE.c.attempt, _TABLE.c.run_id)
        with self._engine.connect() as connection:
            return tuple(_run(row) for row in connection.execute(query))


def _add_what_is_new(connection: Connection) -> None:
    """Give a table that an earlier version made the columns it lacks; each new column has a default for old rows."""
    there = {column["name"] for column in inspect(connection).get_columns(_TABLE.name)}
    for column in _TABLE.columns:
        if column.name not in there:
            form = CreateColumn(column).compile(dialect=connection.dialect)
            connection.exec_driver_sql(f"ALTER TABLE {_TABLE.name} ADD COLUMN {form}")


def _run(row: Any) -> Run:
    run = Run(**row._mapping)
    # What was written is UTC. SQLite gives it back without a zone, PostgreSQL in the zone of its own server.
    times = (run.created_at, run.updated_at)
    created, updated = (at.astimezone(UTC) if at.tzinfo else at.replace(tzinfo=UTC) for at in times)
    return replace(run, state=State(run.state), created_at=created, updated_at=updated)
