"""The table of runs."""

import itertools
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from sqlalchemy import Engine, create_engine, text

from service.store import BY_NEED, RETRYABLE, Run, State, Store, connect, foremost, newest

THEN = datetime(2026, 11, 23, 8, 0, tzinfo=UTC)


@pytest.fixture
def url(tmp_path: Path) -> str:
    """An empty database; tests/story/test_postgres.py runs the same cases on PostgreSQL by giving another one."""
    return f"sqlite:///{tmp_path / 'runs.sqlite'}"


@pytest.fixture
def store(url: str) -> Iterator[Store]:
    """An empty store."""
    opened = Store(connect(url))
    yield opened
    opened.close()


def _run(run_id: str, study: str = "1.2.3", attempt: int = 1) -> Run:
    return Run(
        run_id=run_id,
        study_uid=study,
        input_digest="sha256:" + "0" * 64,
        attempt=attempt,
        state=State.ASSEMBLED,
        trigger="COUNT_MATCHED",
        created_at=THEN + timedelta(seconds=attempt),
        updated_at=THEN,
    )


def test_what_is_added_is_found(store: Store) -> None:
    """A run comes back as it was put in."""
    store.add(_run("a"))

    found = store.get("a")

    assert found.state is State.ASSEMBLED
    assert found.study_uid == "1.2.3"
    assert found.outputs == []
    assert found.created_at == THEN + timedelta(seconds=1)


def test_adding_twice_changes_nothing(store: Store) -> None:
    """A repeated start of the same run leaves what happened since."""
    store.add(_run("a"))
    store.update("a", THEN, state=State.REFUSED, code="NO_APPROVAL")

    store.add(_run("a"))

    assert store.get("a").code == "NO_APPROVAL"


def test_runs_of_a_study_are_in_order(store: Store) -> None:
    """Attempts come oldest first, and only those of the study."""
    store.add(_run("b", attempt=2))
    store.add(_run("a", attempt=1))
    store.add(_run("c", study="9.9"))

    assert [r.run_id for r in store.of_study("1.2.3")] == ["a", "b"]


def test_latest_first(store: Store) -> None:
    """The newest change leads the list, and the list is limited."""
    for name in ("a", "b", "c"):
        store.add(_run(name))
    store.update("b", THEN + timedelta(seconds=5), state=State.RELEASED)

    assert [r.run_id for r in store.latest(2)] == ["b", "a"]


def test_an_unknown_run_is_an_error(store: Store) -> None:
    """Asking for what is not there raises."""
    with pytest.raises(KeyError):
        store.get("nobody")


def test_structured_fields_survive(store: Store) -> None:
    """Lists and maps come back as they were."""
    store.add(_run("a"))
    outputs = [{"kind": "SR", "uid": "2.25.1", "digest": "sha256:0"}]

    store.update("a", THEN, outputs=outputs, timing_ms={"forward": 12}, call="f" * 32)

    found = store.of_call("f" * 32)[0]
    assert found.outputs == outputs
    assert found.as_dict()["timing_ms"] == {"forward": 12}
    assert found.as_dict()["created_at"].startswith("2026-11-23T08:00:01+00:00")


def test_what_waits_is_listed_oldest_first(store: Store) -> None:
    """Runs that no step has changed are what a start queues again; those that have gone on or ended are not."""
    for attempt, name in enumerate(("c", "b", "a")):
        store.add(_run(name, attempt=attempt))
    store.update("b", THEN, state=State.SELECTED)

    assert [run.run_id for run in store.waiting()] == ["c", "a"]


def test_urgency_is_kept(store: Store) -> None:
    """It survives the process, so that what waited goes in the same order after a crash."""
    store.add(replace(_run("a"), urgent=True))
    store.add(_run("b"))

    assert [store.get(name).urgent for name in ("a", "b")] == [True, False]
    assert store.get("a").as_dict()["urgent"] is True
    store.add(replace(_run("c"), rule="brain-of-scanner-2"))
    assert [store.get(name).as_dict()["rule"] for name in ("a", "c")] == [None, "brain-of-scanner-2"]


def test_a_table_of_an_earlier_version_is_opened(url: str) -> None:
    """What was kept before there was a column is there with its default, and what is new can be written."""
    old = Store(connect(url))
    old.add(_run("a"))
    old.close()
    engine = create_engine(url)
    with engine.begin() as connection:
        connection.execute(text("ALTER TABLE run DROP COLUMN urgent"))
        connection.execute(text("ALTER TABLE run DROP COLUMN rule"))
    engine.dispose()

    store = Store(connect(url))
    store.add(replace(_run("b"), urgent=True))
    again = Store(connect(url))

    assert [(run.run_id, run.urgent) for run in again.of_study("1.2.3")] == [("a", False), ("b", True)]
    store.close()
    again.close()


def test_two_processes_see_each_other(store: Store, url: str) -> None:
    """The command line reads what the service writes."""
    store.add(_run("a"))
    other = Store(connect(url))

    seen = other.get("a").state
    other.close()

    assert seen is State.ASSEMBLED


def test_many_may_start_at_once(url: str) -> None:
    """Whoever comes first makes the table; nobody who comes at the same moment fails."""
    engines = [connect(url) for _ in range(8)]
    for engine in engines:
        engine.connect().close()  # what takes long is done, so that they really meet
    together = threading.Barrier(len(engines))

    def begin(engine: Engine) -> int:
        together.wait()
        return len(Store(engine).latest())

    with ThreadPoolExecutor(len(engines)) as pool:
        assert list(pool.map(begin, engines)) == [0] * len(engines)
    for engine in engines:
        engine.dispose()


# ---- several models of one study


def test_runs_of_an_attempt_come_in_the_order_of_their_names(store: Store) -> None:
    """They begin at one time: the first is the one that found the models, whatever order they were put in."""
    for name in ("a-1.ff", "a-1.0a", "a-1"):
        store.add(replace(_run(name), for_model=None if name == "a-1" else f"sha256:{name}"))
    found = store.of_study("1.2.3")
    assert [run.run_id for run in found] == ["a-1", "a-1.0a", "a-1.ff"]
    assert [run.for_model for run in found] == [None, "sha256:a-1.0a", "sha256:a-1.ff"]


def test_the_newest_attempt_is_all_of_its_runs() -> None:
    """Neither those of an earlier attempt, nor those of other images; of nothing, none."""
    other = replace(_run("c-2", attempt=2), input_digest="sha256:" + "1" * 64)
    old, new, beside = _run("a-1"), _run("a-2", attempt=2), _run("a-2.b", attempt=2)
    assert newest([old, other, new, beside]) == (new, beside)
    assert newest([old]) == (old,)
    assert newest([]) == ()
    assert foremost([]) is None


@pytest.mark.parametrize("states", list(itertools.product(State, repeat=2)))
def test_what_needs_a_person_says_how_a_study_stands(states: tuple[State, State]) -> None:
    """Whatever goes on comes before what has ended, the farthest back first; of ends that which needs a person."""
    runs = [replace(_run(name), state=state) for name, state in zip(("a-1", "a-1.b"), states, strict=True)]
    found = foremost([replace(_run("a-0"), attempt=0, state=State.FAILED), *runs])
    assert found is not None
    going = [state for state in State if state in states and state not in BY_NEED]
    ended = [state for state in BY_NEED if state in states]
    assert found.state is (going + ended)[0]


def test_each_end_has_its_need() -> None:
    """Those that may be tried again are ends; WRITTEN is none: it waits for the PACS."""
    assert set(State) - set(BY_NEED) == {
        *(State.ASSEMBLED, State.SELECTED, State.PERMITTED, State.INFERRED, State.WRITTEN)
    }
    assert set(BY_NEED) > RETRYABLE
