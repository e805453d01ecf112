"""The workflow engine: plain JSON in, plain JSON out; each run once; what was cut off goes on in the next process."""

import json
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from service.workflow import JsonSerializer, _sqlite
from tests.simulators.workflow_process import NOTES, TOLD

REPOSITORY = Path(__file__).resolve().parents[3]
PROCESS = REPOSITORY / "tests" / "simulators" / "workflow_process.py"
STEPS = ["ASSEMBLED", "SELECTED", "PERMITTED", "INFERRED", "WRITTEN", "RELEASED"]

JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**53), 2**53) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=10,
)


@given(JSON)
def test_facts_come_back_as_they_were(value: object) -> None:
    """Whatever JSON a step hands on, the next one gets it, in this process or after a restart."""
    serializer = JsonSerializer()

    assert serializer.deserialize(serializer.serialize(value)) == value


def test_an_error_is_stored_as_the_name_of_its_type() -> None:
    """The text of an exception may hold a patient's data, so the database never gets it (I5)."""
    text = JsonSerializer().serialize({"error": ValueError("ZHANG^SAN 19600101")})

    assert json.loads(text) == {"error": {"error": "ValueError"}}


def test_nothing_is_executed_by_reading() -> None:
    """A pickle in the database is refused as what it is: not JSON."""
    with pytest.raises(json.JSONDecodeError):
        JsonSerializer().deserialize("gASVBQAAAAAAAACMAWGULg==")


def test_the_format_has_a_name() -> None:
    """Recorded beside each value, so that another format is never guessed at."""
    assert JsonSerializer().name() == "zhiying-json"


def _process(folder: Path, *arguments: str) -> int:
    """One process of the service's workflow part; gives its exit status."""
    command = [sys.executable, str(PROCESS), str(folder), *arguments]
    done = subprocess.run(command, cwd=REPOSITORY, timeout=300, capture_output=True, check=False)
    if done.returncode not in (0, -9):
        pytest.fail(done.stderr.decode()[-2000:])
    return done.returncode


def test_a_log_is_written_ahead(tmp_path: Path) -> None:
    """One sync for each step that is recorded: DBOS's database keeps a write-ahead log, and syncs each commit."""
    engine = _sqlite(f"sqlite:///{tmp_path / 'workflows.sqlite'}")
    with engine.connect() as connection:
        assert connection.exec_driver_sql("PRAGMA journal_mode").scalar() == "wal"
        assert connection.exec_driver_sql("PRAGMA synchronous").scalar() == 2  # FULL
    engine.dispose()


def _notes(folder: Path) -> list[dict[str, object]]:
    return [json.loads(line) for line in (folder / NOTES).read_text().splitlines()]


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_submitted_twice_it_runs_once(tmp_path: Path) -> None:
    """The same run id again, in this process or a later one, does nothing; an end skips the steps after it."""
    _process(tmp_path, "submit", "run-1", "run-1", "run-2", "end-at-PERMITTED")
    _process(tmp_path, "submit", "run-1")

    notes = _notes(tmp_path)
    for run in ("run-1", "run-2"):
        mine = [note for note in notes if note["run"] == run]
        assert [note["step"] for note in mine] == STEPS
        assert mine[-1]["facts"] == dict.fromkeys(STEPS[:-1], run)
    assert [note["step"] for note in notes if note["run"] == "end-at-PERMITTED"] == STEPS[:3]
    told = Counter((tmp_path / TOLD).read_text().splitlines())
    began = {"began run-1 True": 1, "began run-1 False": 2, "began run-2 True": 1, "began end-at-PERMITTED True": 1}
    assert told == began | {f"ended {run}": 1 for run in ("run-1", "run-2", "end-at-PERMITTED")}


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_a_killed_run_goes_on_in_the_next_process(tmp_path: Path) -> None:
    """SIGKILL inside a step: the next process repeats that step alone, with the facts of the finished ones."""
    assert _process(tmp_path, "submit", "kill-at-INFERRED") == -9

    _process(tmp_path, "resume", "kill-at-INFERRED")

    notes = _notes(tmp_path)
    assert [note["step"] for note in notes] == [*STEPS[:4], *STEPS[3:]]
    assert notes[4]["facts"] == dict.fromkeys(STEPS[:3], "kill-at-INFERRED")
    told = (tmp_path / TOLD).read_text().splitlines()
    # Listed as unfinished when the next process starts, told to the queue when it is over: no place is lost.
    assert told[-2:] == ["left kill-at-INFERRED", "ended kill-at-INFERRED"]
