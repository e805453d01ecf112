"""The story on PostgreSQL, as a hospital that outgrew one machine runs it: the same code, the same promises."""

import json
import sys
import time
from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest
from sqlalchemy.engine import make_url

from service.demo.servers import free_port
from service.sections import Database
from tests.simulators import nursery
from tests.simulators.pacs import FakePacs
from tests.simulators.postgres import Postgres, running_postgres
from tests.simulators.site import Site, copy_of, template_of, write_series
from tests.unit.service.test_store import (  # the same cases, run here on this module's `url`
    store,
    test_a_table_of_an_earlier_version_is_opened,
    test_adding_twice_changes_nothing,
    test_an_unknown_run_is_an_error,
    test_latest_first,
    test_many_may_start_at_once,
    test_runs_of_a_study_are_in_order,
    test_structured_fields_survive,
    test_two_processes_see_each_other,
    test_urgency_is_kept,
    test_what_is_added_is_found,
    test_what_waits_is_listed_oldest_first,
)

__all__ = [
    "store",
    "test_a_table_of_an_earlier_version_is_opened",
    "test_adding_twice_changes_nothing",
    "test_an_unknown_run_is_an_error",
    "test_latest_first",
    "test_many_may_start_at_once",
    "test_runs_of_a_study_are_in_order",
    "test_structured_fields_survive",
    "test_two_processes_see_each_other",
    "test_urgency_is_kept",
    "test_what_is_added_is_found",
    "test_what_waits_is_listed_oldest_first",
]

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]

ZHIYING = Path(sys.executable).with_name("zhiying")
ONCE = ("ASSEMBLED", "SELECTED", "CALL_INTENT", "CALL_RESULT", "RELEASED")
ENDS = ("RELEASED", "REFUSED", "FAILED", "UNDELIVERED")
OUTAGE_S = 3.0
"""Longer than the pauses between two tries of every part that asks again."""


@pytest.fixture(scope="module")
def server() -> Iterator[Postgres]:
    """One PostgreSQL; each test has a database of its own on it."""
    with running_postgres(free_port()) as running:
        yield running


@pytest.fixture(scope="module")
def template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A site with an approved model, made once and copied for each test."""
    return template_of(tmp_path_factory.mktemp("template") / "site")


@pytest.fixture
def url(server: Postgres) -> str:
    """An empty database, as the configuration hands it on."""
    read = Database(url=server.database()).url
    assert read is not None
    return read


@pytest.fixture
def pacs() -> Iterator[FakePacs]:
    """A PACS that outlives the service."""
    with FakePacs() as running:
        yield running


@pytest.fixture
def site(template: Path, tmp_path: Path, pacs: FakePacs, server: Postgres) -> Iterator[Site]:
    """A fresh site whose file names its database as an administrator would write it: postgresql://..."""
    made = Site(copy_of(template, tmp_path / "site"), pacs, database=server.database())
    yield made
    made.thaw()
    made.kill()


def _each_once(counted: Mapping[str, int], studies: int) -> None:
    """One of each entry for each study, nothing refused or failed."""
    assert {kind: counted.get(kind) for kind in ONCE} == dict.fromkeys(ONCE, studies)
    assert not {"DENIED", "FAILED"} & set(counted)


def test_the_story_is_kept_in_postgresql(site: Site, pacs: FakePacs, server: Postgres, tmp_path: Path) -> None:
    """With a URL the study is read once and every table is there: no SQLite file holds runs or workflows."""
    site.start()
    assert set(site.send(write_series(tmp_path / "series"))) == {0}
    run = site.run_in(*ENDS)
    shown = nursery.run([ZHIYING, "studies", "show", run.study_uid, "--json", "--config", site.config_file])
    site.stop()

    assert json.loads(shown.stdout)["state"] == "RELEASED"
    _each_once(site.counted(), 1)
    assert (len(pacs.stored), len(pacs.received), pacs.complaints) == (2, 2, [])
    assert {"public.run", "dbos.workflow_status"} <= server.tables(site.config.database.url)
    assert not (site.data / "db").exists()


@pytest.mark.parametrize(("step", "moment"), [("INFERRED", "after"), ("CALL_RESULT", "logged")])
def test_killed_there_it_completes_once(site: Site, pacs: FakePacs, tmp_path: Path, step: str, moment: str) -> None:
    """After kill -9 the restart finds the run in PostgreSQL, finishes it and repeats nothing that anybody can see."""
    site.start(die_at=(step, moment))
    assert set(site.send(write_series(tmp_path / "series"))) == {0}
    assert site.wait_for_death() == -9

    site.start()
    run = site.run_in(*ENDS)

    assert (run.state, run.code) == ("RELEASED", None)
    _each_once(site.counted(), 1)
    assert (len(pacs.stored), pacs.complaints) == (2, [])


def test_the_database_is_restarted_under_way(site: Site, pacs: FakePacs, server: Postgres, tmp_path: Path) -> None:
    """While the database is away images are taken, a step waits and nothing fails; when it is back all goes on."""
    site.start(die_at=("INFERRED", "before", "SIGSTOP"))
    assert set(site.send(write_series(tmp_path / "one"))) == {0}
    site.wait_for_freeze()
    server.down()
    try:
        site.thaw()
        assert set(site.send(write_series(tmp_path / "two", seed="two"))) == {0}
        time.sleep(OUTAGE_S)
        assert site.alive
    finally:
        server.up()
    site.settle()
    studies = {run.study_uid for run in site.runs()}

    assert len(studies) == 2
    assert {site.run_in(*ENDS, study=study).state for study in studies} == {"RELEASED"}
    _each_once(site.counted(), 2)
    assert (len(pacs.stored), pacs.complaints) == (4, [])


@pytest.mark.parametrize("words", [("studies", "list"), ("serve",)])
def test_an_absent_database_is_one_line(site: Site, server: Postgres, words: tuple[str, ...]) -> None:
    """A command that needs the database says in one line, with a code, that it does not answer; never the password."""
    server.down()
    try:
        command = [ZHIYING, *words, "--config", site.config_file]
        done = nursery.run(command)
    finally:
        server.up()

    assert done.returncode == 1
    (line,) = [line for line in done.stderr.splitlines() if line.strip()]
    assert line.startswith("error DATABASE_UNAVAILABLE: ")
    assert str(make_url(site.config.database.url).password) not in done.stderr + done.stdout
