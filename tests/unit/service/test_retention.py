"""Pixels leave when nobody needs them any more, and not before."""

from collections.abc import Sequence
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from dicom_bridge.spool_index import StudyRow
from service.retention import ENDS, STUDIES_A_ROUND, Keep, Retention, due
from service.store import Run, State, Store, connect

NOW = datetime(2026, 11, 23, 12, tzinfo=UTC)
KEEP = Keep(done=timedelta(hours=24), unsolved=timedelta(days=7))
LONG_AGO = NOW - timedelta(days=30)


def study(uid: str = "1.2.3", *, open_: bool = False, last: datetime = LONG_AGO) -> StudyRow:
    """A study's row; `open_`: something came that no run has seen."""
    return StudyRow(uid, touches=5, last_received_at=last, assembled_touches=4 if open_ else 5, assembled_digest="sha")


def run(state: State, *, ended: datetime = LONG_AGO, study_uid: str = "1.2.3", number: int = 1) -> Run:
    """One run of the study."""
    return Run(
        run_id=f"{study_uid}-{number}",
        study_uid=study_uid,
        input_digest="sha",
        attempt=number,
        state=state,
        trigger="COUNT_MATCHED",
        created_at=ended,
        updated_at=ended,
    )


@pytest.mark.parametrize("state", list(State))
@pytest.mark.parametrize("hours", [1, 25, 24 * 8])
def test_each_end_has_its_time(state: State, hours: int) -> None:
    """After a result or a refusal a day, after what needs a person a week; never while a run is under way."""
    ended = NOW - timedelta(hours=hours)
    wanted = {
        State.RELEASED: 24,
        State.SHADOWED: 24,
        State.REFUSED: 24,
        State.FAILED: 24 * 7,
        State.UNDELIVERED: 24 * 7,
        State.WRITTEN: 24 * 7,
    }.get(state)

    assert due(study(), [run(state, ended=ended)], KEEP, NOW) is (wanted is not None and hours >= wanted)


def test_what_still_arrives_stays() -> None:
    """A study with an instance that no run has seen is never due, however old."""
    assert not due(study(open_=True), [run(State.RELEASED)], KEEP, NOW)
    assert due(study(), [run(State.RELEASED)], KEEP, NOW)


@pytest.mark.parametrize("under_way", sorted(set(State) - ENDS - {State.WRITTEN}))
def test_any_run_under_way_keeps_the_images(under_way: State) -> None:
    """Also when a newer run has ended."""
    assert not due(study(), [run(under_way, number=1), run(State.RELEASED, number=2)], KEEP, NOW)


def test_the_newest_run_decides() -> None:
    """A failure that a later run has healed does not hold the images back; the other way round it does."""
    yesterday = NOW - timedelta(hours=30)

    healed = [run(State.FAILED, ended=yesterday), run(State.RELEASED, ended=yesterday, number=2)]
    failed = [run(State.RELEASED, ended=yesterday), run(State.FAILED, ended=yesterday, number=2)]

    assert due(study(), healed, KEEP, NOW)
    assert not due(study(), failed, KEEP, NOW)


@pytest.mark.parametrize("other", sorted(ENDS))
def test_each_model_of_the_newest_attempt_counts(other: State) -> None:
    """One of two that needs a person keeps the images a week, whichever was named last; and both their times count."""
    yesterday, just_now = NOW - timedelta(hours=30), NOW - timedelta(hours=1)
    for states in ((State.RELEASED, other), (other, State.RELEASED)):
        pair = [replace(run(state, ended=yesterday), run_id=f"r-1.{n}") for n, state in enumerate(states)]
        assert due(study(), pair, KEEP, NOW) is (other not in (State.FAILED, State.UNDELIVERED))
        for n in range(2):
            late = [replace(one, updated_at=just_now) if k == n else one for k, one in enumerate(pair)]
            assert not due(study(), late, KEEP, NOW)


def test_images_that_came_after_the_result_have_their_own_time() -> None:
    """A resend of what is known touches the study: its images stay as long again."""
    assert not due(study(last=NOW - timedelta(hours=1)), [run(State.RELEASED)], KEEP, NOW)


def test_what_no_run_was_for_goes_after_a_week() -> None:
    """A study that never had a run, as one of reports, waits as long as what needs a person."""
    assert not due(study(last=NOW - timedelta(days=6)), [], KEEP, NOW)
    assert due(study(last=NOW - timedelta(days=7)), [], KEEP, NOW)


class Spool:
    """Studies by UID; lets go of them."""

    def __init__(self, *rows: StudyRow) -> None:
        self.rows = {row.study_uid: row for row in rows}
        self.looks = 0

    def studies(self) -> Sequence[StudyRow]:
        """What is held."""
        self.looks += 1
        return tuple(self.rows.values())

    def let_go(self, study_uid: str) -> int:
        """Each study has one image."""
        del self.rows[study_uid]
        return 1


def store_of(folder: Path, *runs: Run) -> Store:
    """A table with these runs."""
    store = Store(connect(f"sqlite:///{folder / 'runs.sqlite'}"))
    for one in runs:
        store.add(one)
    return store


def test_a_round_lets_go_of_what_is_due_alone(tmp_path: Path) -> None:
    """The due one goes, the others stay."""
    spool = Spool(study("1.1"), study("1.2"), study("1.3", open_=True))
    runs = [run(State.RELEASED, study_uid=uid) for uid in ("1.1", "1.3")]
    runs.append(run(State.RELEASED, study_uid="1.2", ended=NOW))

    Retention(spool, store_of(tmp_path, *runs), KEEP, lambda: NOW)()

    assert sorted(spool.rows) == ["1.2", "1.3"]


def test_a_look_is_rare(tmp_path: Path) -> None:
    """Called every few seconds, it looks once a minute; a clock set back does not stop it."""
    clock = [NOW]
    spool = Spool()
    chore = Retention(spool, store_of(tmp_path), KEEP, lambda: clock[0])

    for seconds in (0, 10, 59, 60, 61):
        clock[0] = NOW + timedelta(seconds=seconds)
        chore()
    assert spool.looks == 2

    clock[0] = NOW - timedelta(days=1)
    chore()
    assert spool.looks == 3


def test_a_round_is_bounded_and_the_rest_goes_in_the_next(tmp_path: Path) -> None:
    """More than a round's share is not left for a minute later."""
    number = STUDIES_A_ROUND + 5
    spool = Spool(*(study(f"1.{n}") for n in range(number)))
    store = store_of(tmp_path, *(run(State.RELEASED, study_uid=f"1.{n}") for n in range(number)))
    chore = Retention(spool, store, KEEP, lambda: NOW)

    chore()
    assert len(spool.rows) == 5
    chore()
    assert not spool.rows


def test_zero_hours_means_at_once() -> None:
    """A site may keep nothing: then images go as soon as their result is out."""
    assert due(study(), [run(State.RELEASED, ended=NOW)], replace(KEEP, done=timedelta(0)), NOW)
