"""The HTTP API: what it shows, one shape for every error, and nothing that can be changed through it."""

import errno
import sqlite3
from collections.abc import Callable, Iterator, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from fastapi import FastAPI
from prometheus_client import CollectorRegistry, Counter
from starlette.routing import Route

from audit.errors import AuditCorrupt, AuditUnavailable
from audit.log import AuditLog
from dicom_bridge.inbox import OpenStudy
from models.errors import LibraryUnavailable
from models.library import Library
from service.app import build_app
from service.store import Run, State, Store, connect
from tests.simulators import small_model
from tests.simulators.audit_log import open_log
from tests.simulators.browser import TestClient

THEN = datetime(2026, 11, 23, 8, 0, tzinfo=UTC)
STUDY, ARRIVING, UNKNOWN = "1.2.840.99999.7.1", "1.2.840.99999.7.2", "1.2.840.99999.7.3"


class FakeHealth:
    """Answers what it is told to; raises `broken`."""

    def __init__(self) -> None:
        self.answer = {"audit": "ok", "dicom": "ok"}
        self.broken: Exception | None = None

    def checks(self) -> dict[str, str]:
        """See Health."""
        if self.broken is not None:
            raise self.broken
        return self.answer


class FakeHeld:
    """A spool with one study that still arrives."""

    def open_studies(self) -> Sequence[OpenStudy]:
        """See Held."""
        return (OpenStudy(ARRIVING, THEN, 2, None),)

    def instances(self, study_uid: str) -> Sequence[Any]:
        """See Held."""
        return {ARRIVING: ("one", "two"), STUDY: ("one",)}.get(study_uid, ())


class BreakableLog:
    """The log, whose head cannot be read while `broken`."""

    def __init__(self, log: AuditLog) -> None:
        self._log = log
        self.broken: Exception | None = None

    def head(self) -> Any:
        """See AuditLog."""
        if self.broken is not None:
            raise self.broken
        return self._log.head()


class BreakableLibrary(Library):
    """The library, which cannot be read while `broken`."""

    broken: Exception | None = None

    def list(self) -> Any:
        """See Library."""
        if self.broken is not None:
            raise self.broken
        return super().list()


class House:
    """The application and what it looks at."""

    def __init__(self, folder: Path) -> None:
        self.health = FakeHealth()
        self.store = Store(connect(f"sqlite:///{folder / 'runs.sqlite'}"))
        self.inner = open_log(folder / "audit")
        self.log = BreakableLog(self.inner)
        self.library = BreakableLibrary(folder / "library")
        self.held = FakeHeld()
        self.registry = CollectorRegistry()
        self.app: FastAPI = build_app(
            health=self.health,
            store=self.store,
            inbox=self.held,
            library=self.library,
            log=self.log,  # type: ignore[arg-type]
            metrics=self.registry,
        )
        self.client = TestClient(self.app, raise_server_exceptions=False)

    def get(self, path: str) -> tuple[int, Any]:
        """Status and JSON."""
        answer = self.client.get(path)
        return answer.status_code, answer.json()


@pytest.fixture
def house(tmp_path: Path) -> Iterator[House]:
    """A house with one refused run."""
    made = House(tmp_path)
    made.store.add(
        Run(
            run_id="run-1",
            study_uid=STUDY,
            input_digest="sha256:" + "0" * 64,
            attempt=1,
            state=State.REFUSED,
            trigger="COUNT_MATCHED",
            created_at=THEN,
            updated_at=THEN,
            stage="PERMITTED",
            code="NO_APPROVAL",
            outputs=[{"kind": "SR", "uid": "2.25.1", "digest": "sha256:0"}],
            timing_ms={"forward": 12},
        )
    )
    yield made
    made.store.close()
    made.inner.close()


def test_healthy_is_200(house: House) -> None:
    """Every part is ok: 200, status ok, and each part by name."""
    assert house.get("/health") == (200, {"status": "ok", "checks": {"audit": "ok", "dicom": "ok"}})


def test_one_part_that_is_not_ok_is_503(house: House) -> None:
    """A monitor that looks at the status alone must see it; the body says which part."""
    house.health.answer["dicom"] = "not listening"

    status, body = house.get("/health")

    assert status == 503
    assert (body["status"], body["checks"]["dicom"]) == ("degraded", "not listening")


BREAKS: list[tuple[Exception, str]] = [
    (AuditUnavailable("the disk refuses", errno.ENOSPC), "AUDIT_UNAVAILABLE"),
    (AuditCorrupt("tile/0/000", "is not the entries"), "AUDIT_CORRUPT"),
]


@pytest.mark.parametrize(("error", "code"), BREAKS)
def test_a_log_that_cannot_be_read_is_503(house: House, error: Exception, code: str) -> None:
    """Health and head answer 503 with the log's code: the AI has stopped and a monitor must see it (I4)."""
    house.health.broken = house.log.broken = error

    for path in ("/health", "/audit/head"):
        status, body = house.get(path)
        assert (status, body["error"]["code"]) == (503, code)


def test_studies_are_listed(house: House) -> None:
    """Those that arrive, and the runs, each with its state and code."""
    status, body = house.get("/studies")

    assert status == 200
    assert [(one["study_uid"], one["state"], one["code"]) for one in body] == [
        (ARRIVING, "RECEIVING", None),
        (STUDY, "REFUSED", "NO_APPROVAL"),
    ]


def test_a_study_shows_its_runs(house: House) -> None:
    """State, code, stage, outputs and timing of each run, under the names that documents promise."""
    status, body = house.get(f"/studies/{STUDY}")

    assert status == 200
    assert (body["study_uid"], body["state"], body["code"], body["instances"]) == (STUDY, "REFUSED", "NO_APPROVAL", 1)
    (run,) = body["runs"]
    assert (run["state"], run["stage"], run["code"], run["call"]) == ("REFUSED", "PERMITTED", "NO_APPROVAL", None)
    assert run["outputs"][0]["uid"] == "2.25.1"
    assert run["timing_ms"] == {"forward": 12}
    assert run["created_at"] == THEN.isoformat()


def test_a_study_that_still_arrives_has_no_runs(house: House) -> None:
    """Held, but not complete: RECEIVING, with the number of instances."""
    assert house.get(f"/studies/{ARRIVING}") == (
        200,
        {"study_uid": ARRIVING, "state": "RECEIVING", "code": None, "instances": 2, "runs": []},
    )


@pytest.mark.parametrize(
    "path", [f"/studies/{UNKNOWN}", "/nowhere", "/studies/..%2f..%2fetc", "/docs", "/openapi.json"]
)
def test_what_is_not_there_is_404_in_one_shape(house: House, path: str) -> None:
    """{"error": {"code", "message"}}, and nothing of the request is repeated."""
    status, body = house.get(path)

    assert status == 404
    assert set(body) == {"error"}
    assert set(body["error"]) == {"code", "message"}
    assert body["error"]["code"] == "NOT_FOUND"
    assert UNKNOWN not in body["error"]["message"]


def test_models_are_listed(house: House, tmp_path: Path) -> None:
    """Installed ones with digest and title, and those that were refused with the reason."""
    assert house.get("/models") == (200, [])
    ref = house.library.install(small_model.stage(tmp_path / "staged"))
    (tmp_path / "library" / "spoiled" / "1.0").mkdir(parents=True)

    good, bad = house.get("/models")[1]
    assert (good["name"], good["version"], good["state"], good["digest"]) == (ref.name, "1.0", "INSTALLED", ref.digest)
    assert good["title"]["en"] == "Small model"
    assert (bad["name"], bad["state"]) == ("spoiled", "REFUSED")
    assert "files.json" in bad["why"]


def test_the_head_is_the_signed_checkpoint(house: House) -> None:
    """What a witness takes: origin, size, root and the whole note."""
    head = house.inner.head()

    assert house.get("/audit/head") == (
        200,
        {"origin": head.origin, "size": 1, "root": head.root.hex(), "note": head.note},
    )


def test_metrics_are_those_that_were_handed_in(house: House) -> None:
    """Prometheus text of this registry alone."""
    Counter("zhiying_test", "x", registry=house.registry).inc()

    answer = house.client.get("/metrics")

    assert answer.status_code == 200
    assert answer.headers["content-type"].startswith("text/plain")
    assert "zhiying_test_total 1.0" in answer.text
    assert "python_info" not in answer.text


def test_nothing_can_be_written(house: House) -> None:
    """No route takes anything but GET, and each answers other methods with 405 in the one shape."""
    routes = [route for route in house.app.routes if isinstance(route, Route) or hasattr(route, "methods")]

    assert routes
    for route in routes:
        assert getattr(route, "methods", set()) <= {"GET", "HEAD"}
        path = str(getattr(route, "path", "")).replace("{study_uid}", STUDY)
        for method in ("POST", "PUT", "PATCH", "DELETE"):
            answer = house.client.request(method, path)
            assert (answer.status_code, answer.json()["error"]["code"]) == (405, "HTTP_405")


def _no_table(house: House) -> None:
    with house.store._engine.begin() as connection:
        connection.exec_driver_sql("DROP TABLE run")


def _no_index(house: House) -> None:
    def refuse(study_uid: str = "") -> Sequence[Any]:
        raise sqlite3.OperationalError(f"database is locked, {STUDY}")

    house.held.instances = refuse  # type: ignore[method-assign]
    house.held.open_studies = refuse  # type: ignore[method-assign]


@pytest.mark.parametrize("spoil", [_no_table, _no_index])
@pytest.mark.parametrize("path", [f"/studies/{STUDY}", "/studies"])
def test_a_table_that_is_away_is_503_and_names_no_study(
    house: House, capfd: pytest.CaptureFixture[str], path: str, spoil: Callable[[House], None]
) -> None:
    """The database refuses: 503 in the one shape, and its own text, which quotes the study, goes nowhere (I5)."""
    spoil(house)

    status, body = house.get(path)

    assert (status, body["error"]["code"]) == (503, "DATABASE_UNAVAILABLE")
    assert STUDY not in repr(body) + "".join(capfd.readouterr())


def test_models_that_cannot_be_read_are_503(house: House) -> None:
    """The disk with the models refuses: the library's own code, in the one shape."""
    house.library.broken = LibraryUnavailable("cannot list the models: input/output error")

    status, body = house.get("/models")

    assert (status, body["error"]["code"]) == (503, "LIBRARY_UNAVAILABLE")
