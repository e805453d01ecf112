"""Several models of one study: who gets a run, who is passed over, and what a crash or a second sending repeats."""

import itertools
from collections.abc import Iterator, Mapping
from dataclasses import replace
from datetime import UTC, datetime

import pytest
from sqlalchemy import create_engine

from ethics_review import states as review
from ethics_review.standing import Standing
from models.ref import ModelRef
from service.errors import AllRead
from service.faults import explain
from service.keys import Pseudonyms
from service.reading import Chosen
from service.sharing import Sharing
from service.store import RETRYABLE, Run, State, Store

STUDY, SERIES = "2.25.7", "2.25.7.1"
BEGAN = datetime(2026, 11, 29, 8, tzinfo=UTC)
NOW = datetime(2026, 11, 29, 9, tzinfo=UTC)
BRAIN, HEAD, NECK = (
    ModelRef(name, "1.0", "sha256:" + digit * 64) for name, digit in (("a", "a"), ("b", "b"), ("c", "c"))
)
MODELS = (BRAIN, HEAD, NECK)


class FakeReview:
    """Where dossiers stand: LIVE, unless it is said otherwise; None: there is none."""

    def __init__(self, states: Mapping[ModelRef, review.State | None] | None = None) -> None:
        self.states = {ref.digest: (ref, state) for ref, state in (states or {}).items()}

    def standing(self, digest: str, now: datetime | None = None) -> Standing | None:
        """See Register."""
        assert now == NOW
        ref, state = self.states.get(digest, (BRAIN, review.State.LIVE))
        return None if state is None else Standing(ref, state)


class World:
    """A table of runs, the line, and the review."""

    def __init__(self) -> None:
        self.store = Store(create_engine("sqlite://"))
        self.line: list[str] = []
        self.review = FakeReview()
        self.run = self.begun()

    def begun(self, attempt: int = 1, digest: str = "1") -> Run:
        """The first run of an attempt, in the table."""
        run = Run(
            run_id=f"{digest * 24}-{attempt}",
            study_uid=STUDY,
            input_digest="sha256:" + digest * 64,
            attempt=attempt,
            state=State.ASSEMBLED,
            trigger="QUIET",
            created_at=BEGAN.replace(minute=attempt),
            updated_at=BEGAN,
            urgent=True,
        )
        self.store.add(run)
        return run

    @property
    def sharing(self) -> Sharing:
        """Of a new process."""
        return Sharing(self.store, self._submit, self.review, Pseudonyms(b"k" * 32), lambda: NOW)

    def own(self, *refs: ModelRef, run: Run | None = None, part: str = "") -> ModelRef:
        """Which of these models the run reads with itself, as the table then says, too."""
        run = run or self.run
        chosen = self.sharing.own(run, [Chosen(SERIES, ref, "MR", part=part) for ref in refs])
        call = self.sharing.call_of(run, chosen)
        self.store.update(run.run_id, NOW, model={"digest": chosen.ref.digest}, call=call, state=State.SELECTED)
        return chosen.ref

    def others(self) -> list[Run]:
        """The runs that were made for other models."""
        return [run for run in self.store.of_study(STUDY) if run.for_model is not None]

    def end(self, state: State, *runs: Run) -> None:
        """Let these runs end so."""
        for run in runs:
            self.store.update(run.run_id, NOW, state=state)

    def _submit(self, run: Run) -> None:
        assert self.store.get(run.run_id).run_id == run.run_id  # durable first
        self.line.append(run.run_id)


@pytest.fixture
def world() -> Iterator[World]:
    """One run that has just been assembled."""
    made = World()
    yield made
    made.store.close()


def test_one_model_is_the_runs_own(world: World) -> None:
    """Nothing is begun beside it."""
    assert world.own(BRAIN) == BRAIN
    assert (world.others(), world.line) == ([], [])


def test_each_other_model_gets_a_run(world: World) -> None:
    """Of the same input, attempt, time and urgency, for its model alone; in the table, then in line."""
    assert world.own(*MODELS) == BRAIN
    made = world.others()
    assert [run.for_model for run in made] == [HEAD.digest, NECK.digest]
    assert world.line == [f"{world.run.run_id}.{'b' * 12}", f"{world.run.run_id}.{'c' * 12}"]
    for run in made:
        same = replace(world.run, run_id=run.run_id, for_model=run.for_model, updated_at=NOW)
        assert run == same


def test_the_same_again_adds_nothing(world: World) -> None:
    """Cut off anywhere, the step is repeated: same model of its own, same runs, each in line at least once."""
    world.own(*MODELS)
    before = world.store.of_study(STUDY)
    for _ in range(2):
        assert world.own(*MODELS) == BRAIN
    assert world.store.of_study(STUDY) == before
    assert set(world.line) == {run.run_id for run in world.others()}


def test_cut_off_between_two_runs(world: World) -> None:
    """One of the other runs is there, and the next is not: the repetition makes the one that is wanting."""
    world.own(BRAIN, NECK)
    assert world.own(*MODELS) == BRAIN
    assert [run.for_model for run in world.others()] == [HEAD.digest, NECK.digest]


def test_a_run_for_one_model_begins_no_other(world: World) -> None:
    """What it was made for is its own, whatever else fits, and whatever the review has said meanwhile."""
    world.own(*MODELS)
    mine = world.others()[0]
    world.review = FakeReview({HEAD: None})
    assert world.own(HEAD, run=mine) == HEAD
    assert len(world.others()) == 2


@pytest.mark.parametrize("stands", [None, *review.State])
def test_a_model_that_is_not_in_use_is_passed_over(world: World, stands: review.State | None) -> None:
    """Where another is in use. In use is what a reviewer let in and nobody took out: suspended, too, which is told."""
    world.review = FakeReview({BRAIN: stands})
    used = stands in review.IN_USE
    assert world.own(BRAIN, HEAD) == (BRAIN if used else HEAD)
    assert [run.for_model for run in world.others()] == ([HEAD.digest] if used else [])


def test_where_none_is_in_use_the_first_says_so(world: World) -> None:
    """One refusal for the study, as ever: not one for each model that is installed."""
    world.review = FakeReview(dict.fromkeys(MODELS))
    assert world.own(*MODELS) == BRAIN
    assert world.others() == []


@pytest.mark.parametrize(("first", "second"), list(itertools.product(State, repeat=2)))
def test_sent_again_only_what_has_not_read(world: World, first: State, second: State) -> None:
    """Two models, each in each state after the first attempt: the second reads with those that may try again."""
    world.own(BRAIN, HEAD)
    (other,) = world.others()
    if second is not State.ASSEMBLED:
        world.own(HEAD, run=other)
    world.end(first, world.run)
    world.end(second, other)
    again = world.begun(2)
    wanted = [ref for ref, state in ((BRAIN, first), (HEAD, second)) if state in RETRYABLE]
    if not wanted:
        with pytest.raises(AllRead) as refused:
            world.own(BRAIN, HEAD, run=again)
        assert (explain(refused.value).code, explain(refused.value).side) == ("ALREADY_READ", "INPUT")
    else:
        assert world.own(BRAIN, HEAD, run=again) == wanted[0]
    made = [run.for_model for run in world.others() if run.attempt == 2]
    assert made == [ref.digest for ref in wanted[1:]]


def test_other_images_and_another_volume_are_read_anew(world: World) -> None:
    """What was read is these images, and this volume of them: neither more images nor another volume."""
    world.own(BRAIN, HEAD)
    world.end(State.RELEASED, world.run, *world.others())
    assert world.own(BRAIN, HEAD, run=world.begun(1, "2")) == BRAIN
    world.own(HEAD, run=world.others()[0])
    again = world.begun(2)
    assert world.own(BRAIN, run=again, part="ECHO_TIME-2") == BRAIN


def test_calls_are_told_apart(world: World) -> None:
    """By images, model and volume; the name of a call says nothing of them."""
    sharing = world.sharing
    named = {
        sharing.call_of(run, Chosen(SERIES, ref, "MR", part=part))
        for run in (world.run, world.begun(1, "2"))
        for ref in MODELS
        for part in ("", "ECHO_TIME-2")
    }
    assert len(named) == 12
    again = replace(world.run, run_id="other", attempt=7, for_model=BRAIN.digest)
    assert sharing.call_of(again, Chosen(SERIES, BRAIN, "MR")) in named
