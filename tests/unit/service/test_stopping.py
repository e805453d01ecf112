"""A stop: what is halted does not go on, what ran is ended, what waits is held, and the time it took is told."""

import hashlib
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from fastapi.routing import APIRoute
from prometheus_client import CollectorRegistry, generate_latest
from sqlalchemy.exc import OperationalError

from audit.entry import Draft, Entry, Kind
from audit.errors import AuditUnavailable
from audit.note import Signer
from dicom_bridge.delivery import Leave
from ethics_review.standing import Standing, Stop
from ethics_review.states import Cause, State
from inference.errors import EngineCancelled
from models.library import Library
from models.ref import ModelRef
from service import stop_api, stopping
from service.pipeline import Facts, Step
from service.stopping import Door, Halt, RegisterHalts, StopMetrics, Watcher
from service.store import State as RunState
from tests.simulators.logged_standing import LoggedStanding
from tests.simulators.story import FakeHalts, World, install

pytestmark = pytest.mark.timeout(30)

REF = ModelRef("brain", "1.0", "sha256:" + "a" * 64)
OTHER = ModelRef("lung", "1.0", "sha256:" + "b" * 64)
START = datetime(2026, 11, 20, 18, 0, tzinfo=UTC)
STOPPED = Halt("STOPPED")
NOTE = Signer.generate("ops.example").sign("TEST stop\n")


class PaperLog:
    """Entries in a list; `broken` is raised instead."""

    def __init__(self) -> None:
        self.written: list[Entry] = []
        self.broken: Exception | None = None
        self.time = START

    def append(self, draft: Draft) -> Entry:
        """As the log does."""
        index = len(self.written)
        made = Entry.of(draft, index=index, source="test", seq=index, now=self.time, boot="0" * 32, tick_us=index)
        self.written.append(made)
        return made

    def entries(self, start: int = 0) -> Iterator[Entry]:
        """From `start` on."""
        if self.broken is not None:
            raise self.broken
        return iter(self.written[start:])

    def switch(self, kind: Kind, level: str = "SITE", site: str | None = "here") -> Entry:
        """A STOP or a RESUME."""
        body: dict[str, Any] = {"level": level, "site": site, "reason": "DRILL"}
        body |= {"note": NOTE, "note_digest": f"sha256:{hashlib.sha256(NOTE.encode()).hexdigest()}"}
        return self.append(Draft(kind, f"switch:{len(self.written)}", body))

    def change(self, ref: ModelRef, to: State, reason: str = "OPERATOR") -> Entry:
        """A STATE_CHANGE."""
        model = {"name": ref.name, "version": ref.version, "digest": ref.digest}
        body: dict[str, Any] = {"model": model, "event": "SUSPEND", "from": "LIVE", "to": to.value, "reason": reason}
        body |= dict.fromkeys(("condition", "observed", "evidence", "note", "note_digest"))
        return self.append(Draft(Kind.STATE_CHANGE, f"change:{len(self.written)}", body))


class Known:
    """A register that knows what a test says."""

    def __init__(self, *standings: Standing, stops: tuple[Stop, ...] = ()) -> None:
        self._standings, self._stops = standings, stops

    def standings(self, now: datetime) -> tuple[Standing, ...]:
        """See Knows."""
        assert now.tzinfo is not None
        return self._standings

    def stops(self) -> tuple[Stop, ...]:
        """See Knows."""
        return self._stops


def halts_of(known: stopping.Knows) -> RegisterHalts:
    """At the site `here`."""
    return RegisterHalts(known, "here", lambda: START)


# ---- what halts a model ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("state", "cause", "expected"),
    [
        (State.LIVE, None, None),
        (State.SHADOW, None, None),
        (State.SUSPENDED, Cause.PERFORMANCE, Halt("SUSPENDED")),
        (State.SUSPENDED, Cause.DRILL, Halt("SUSPENDED")),
        (State.SUSPENDED, Cause.EXPIRY, Halt("SUSPENDED")),
        (State.SUSPENDED, Cause.HARM, Halt("SUSPENDED", final=True)),
        (State.SUSPENDED, Cause.INTEGRITY, Halt("SUSPENDED", final=True)),
        (State.RETIRED, None, Halt("RETIRED", final=True)),
        (State.UNDER_REVIEW, None, Halt("NOT_DEPLOYED")),
        (State.REVISE, None, Halt("NOT_DEPLOYED")),
    ],
)
def test_a_model_runs_while_it_is_in_use_alone(state: State, cause: Cause | None, expected: Halt | None) -> None:
    """SHADOW and LIVE go on; suspension, retirement and every other state halt; harm and integrity for good."""
    halts = halts_of(Known(Standing(REF, state, cause=cause)))
    assert halts.halted(REF.digest) == expected
    assert halts.halted(OTHER.digest) is None
    assert halts.halted(None) is None


@pytest.mark.parametrize(
    ("stop", "expected"),
    [
        (Stop("SERVICE", None, 3), STOPPED),
        (Stop("SERVICE", "elsewhere", 3), STOPPED),
        (Stop("SITE", "here", 3), STOPPED),
        (Stop("SITE", None, 3), STOPPED),
        (Stop("SITE", "elsewhere", 3), None),
    ],
)
def test_a_stop_halts_everything_where_it_holds(stop: Stop, expected: Halt | None) -> None:
    """Of the service, of this site, or of no named site; another site's stop is not ours."""
    halts = halts_of(Known(Standing(REF, State.LIVE), stops=(stop,)))
    assert {halts.halted(digest) for digest in (REF.digest, OTHER.digest, None)} == {expected}


def test_a_stop_comes_before_a_retirement() -> None:
    """While a stop lasts nothing is withheld for good: it may have been the wrong model that was retired."""
    known = Known(Standing(REF, State.RETIRED), stops=(Stop("SERVICE", None, 1),))
    assert halts_of(known).halted(REF.digest) == STOPPED


def test_the_log_alone_tells_it() -> None:
    """STOP, RESUME and STATE_CHANGE, entry by entry, also those that another process has written meanwhile."""
    log = PaperLog()
    halts = halts_of(LoggedStanding(log))
    assert halts.halted(REF.digest) is None
    log.switch(Kind.STOP)
    log.switch(Kind.STOP, "SERVICE", None)
    assert halts.halted(REF.digest) == STOPPED
    log.switch(Kind.RESUME)
    assert halts.halted(REF.digest) == STOPPED, "the service's stop is not lifted by the site's resume"
    log.switch(Kind.RESUME, "SERVICE", None)
    assert halts.halted(REF.digest) is None
    suspended = LoggedStanding(log).suspend(REF, Cause.HARM, 2)
    assert (suspended.body["from"], suspended.body["evidence"]) == ("LIVE", 2)
    assert halts.halted(REF.digest) == Halt("SUSPENDED", final=True)
    log.change(REF, State.LIVE)
    assert halts.halted(REF.digest) is None


# ---- the door --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("halt", "leave"),
    [
        (None, Leave.GO),
        (STOPPED, Leave.HOLD),
        (Halt("SUSPENDED"), Leave.HOLD),
        (Halt("SUSPENDED", final=True), Leave.WITHHOLD),
        (Halt("RETIRED", final=True), Leave.WITHHOLD),
    ],
)
def test_what_may_leave(halt: Halt | None, leave: Leave) -> None:
    """Asked by call: its model decides."""
    halts = FakeHalts()
    if halt is not None:
        halts.models[REF.digest] = halt
    door = Door(halts, {"call": REF.digest}.get)
    assert door.may_leave("call") is leave
    assert door.may_leave("of nobody") is Leave.GO
    assert door.holds("call") is (leave is not Leave.GO)


def test_a_call_of_nobody_is_stopped_with_everything() -> None:
    """A batch whose run is not in the table any more obeys a stop all the same."""
    halts = FakeHalts()
    halts.all = STOPPED
    assert Door(halts, lambda _call: None).may_leave("call") is Leave.HOLD


@pytest.mark.parametrize(
    "error", [AuditUnavailable("away", 5), OperationalError("SELECT", {}, Exception("locked")), OSError(5, "disk")]
)
def test_what_cannot_be_known_does_not_leave(error: Exception) -> None:
    """Log, table or disk away: held, and asked again; the sender's thread lives on."""
    halts = FakeHalts()
    halts.broken = error
    assert Door(halts, lambda _call: REF.digest).may_leave("call") is Leave.HOLD


# ---- the story -------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def library(tmp_path_factory: pytest.TempPathFactory) -> Library:
    """The small model."""
    return install(tmp_path_factory.mktemp("models"))


@pytest.fixture
def world(tmp_path: Path, library: Library) -> Iterator[World]:
    """A world whose reviewer has approved the model."""
    made = World(tmp_path, library)
    made.approve()
    yield made
    made.close()


def go_on(world: World, facts: Facts, run_id: str, *steps: Step) -> Facts:
    """These steps, in a new process."""
    for step in steps:
        facts = world.pipeline().act(step, run_id, facts)
    return facts


@pytest.mark.parametrize("step", [Step.INFERRED, Step.WRITTEN, Step.RELEASED])
@pytest.mark.parametrize("code", ["STOPPED", "SUSPENDED", "RETIRED"])
def test_a_halted_run_goes_no_further(world: World, step: Step, code: str) -> None:
    """Halted between two steps: FAILED at the site's will with the code, seen by a person, nothing made or sent."""
    run = world.run()
    steps = list(Step)
    facts = world.tell(run, until=steps[steps.index(step) - 1])
    world.halts.models[world.library.find("small-model").digest] = Halt(code, final=code == "RETIRED")
    ended = go_on(world, facts, run.run_id, step)
    assert ended["ended"] == "FAILED"
    shown = world.store.get(run.run_id)
    assert (shown.state, shown.stage, shown.code, shown.fault) == (RunState.FAILED, step, code, "SITE")
    (failed,) = world.entries(Kind.FAILED)
    assert (failed.body["code"], failed.body["fault"], failed.call) == (code, "SITE", facts["call"])
    assert world.outbox.batches == {}
    assert world.engine.inferred == (0 if step is Step.INFERRED else 1)
    assert (facts["call"] in world.results.written) == (step is Step.RELEASED)


def test_a_model_that_is_ended_while_it_runs_says_why(world: World) -> None:
    """EngineCancelled is how the engine says it; people read what halted the model."""
    run = world.run()
    facts = world.tell(run, until=Step.PERMITTED)
    world.engine.failures = [EngineCancelled("ENGINE_CANCELLED", "stopped")]
    door = world.door.guard

    def halts_meanwhile(step: str, act: Callable[..., Facts]) -> Callable[..., Facts]:
        def acts(*given: Any) -> Facts:
            world.halts.all = STOPPED
            return act(*given)

        return door(step, acts)

    pipeline = world.pipeline()
    object.__setattr__(pipeline._p, "guard", halts_meanwhile)
    assert pipeline.act(Step.INFERRED, run.run_id, facts)["ended"] == "FAILED"
    assert world.store.get(run.run_id).code == "STOPPED"
    assert world.kinds()[-2:] == ["CALL_INTENT", "FAILED"]


def test_a_stop_that_is_over_already_still_ended_the_run(world: World) -> None:
    """Cancelled, and resumed within the same moment: the run is over, and a person sees ENGINE_CANCELLED."""
    run = world.run()
    facts = world.tell(run, until=Step.PERMITTED)
    world.engine.failures = [EngineCancelled("ENGINE_CANCELLED", "stopped")]
    assert go_on(world, facts, run.run_id, Step.INFERRED)["ended"] == "FAILED"
    assert world.store.get(run.run_id).code == "ENGINE_CANCELLED"


def test_a_study_is_received_and_chosen_while_all_is_stopped(world: World) -> None:
    """Steps before the gate do not ask: images flow, and what becomes of the study is the gate's answer."""
    world.halts.all = STOPPED
    run = world.run()
    facts = world.tell(run, until=Step.SELECTED)
    assert "ended" not in facts
    assert world.kinds() == ["ASSEMBLED", "SELECTED"]


def test_sent_again_after_the_stop_it_is_released(world: World) -> None:
    """The same study is another attempt at the same call: what was made is not made again, and it goes out."""
    run = world.run()
    facts = world.tell(run, until=Step.WRITTEN)
    world.halts.all = STOPPED
    go_on(world, facts, run.run_id, Step.RELEASED)
    world.halts.all = None
    again = world.tell(world.run(2))
    assert "ended" not in again
    assert list(world.outbox.batches) == [facts["call"]]
    assert world.engine.inferred == 1


def test_the_table_of_runs_says_whose_a_call_is(world: World) -> None:
    """The outbox knows calls; the run that made one knows its model."""
    facts = world.tell(world.run())
    digest = world.library.find("small-model").digest
    assert world.store.model_of_call(facts["call"]) == digest
    assert world.store.model_of_call("f" * 32) is None
    world.halts.models[digest] = Halt("RETIRED", final=True)
    assert world.door.may_leave(facts["call"]) is Leave.WITHHOLD


# ---- the watcher -----------------------------------------------------------------------------------------------------


class PaperEngine:
    """Runs what a test says; `cancel` ends it unless it is `stubborn`."""

    def __init__(self) -> None:
        self.current: str | None = None
        self.cancelled: list[str | None] = []
        self.stubborn = False

    def running(self) -> str | None:
        """See stopping.Device."""
        return self.current

    def cancel(self, digest: str | None) -> bool:
        """See stopping.Device."""
        self.cancelled.append(digest)
        hit = self.current is not None and digest in (None, self.current) and not self.stubborn
        if hit:
            self.current = None
        return hit


class PaperOutbox:
    """What is on the wire, and how often it was woken."""

    def __init__(self) -> None:
        self.wire: set[str] = set()
        self.woken = 0

    def sending(self) -> frozenset[str]:
        """See stopping.Sends."""
        return frozenset(self.wire)

    def wake(self) -> None:
        """See stopping.Sends."""
        self.woken += 1


class Post:
    """A watcher and all that it watches."""

    def __init__(self) -> None:
        self.log, self.engine, self.outbox = PaperLog(), PaperEngine(), PaperOutbox()
        self.registry = CollectorRegistry()
        self.time = START
        halts = halts_of(LoggedStanding(self.log))
        door = Door(halts, {"mine": REF.digest, "other": OTHER.digest}.get)
        self.log.change(OTHER, State.SUSPENDED)  # before the service began: in force, and no news
        self.watcher = Watcher(
            *(self.log, halts, door, self.engine, self.outbox, lambda: self.time, StopMetrics(self.registry)), start=1
        )

    def round(self, after_ms: int = 500) -> Any:
        """One round, after so long; what it says then."""
        self.time += timedelta(milliseconds=after_ms)
        self.watcher()
        return self.watcher.said()

    def number(self, name: str) -> float:
        """A metric's value."""
        value = self.registry.get_sample_value(name)
        assert value is not None, generate_latest(self.registry)
        return value


def test_a_stop_ends_what_runs_and_is_told_with_its_time() -> None:
    """The round that sees it cancels everything; the next one, a whole round later, says that it is so, and since."""
    post = Post()
    post.engine.current = REF.digest
    assert post.round() == {"stopped": None, "last": None}
    assert post.engine.cancelled == []
    post.log.time = post.time
    stop = post.log.switch(Kind.STOP)
    assert post.round() == {"stopped": "STOPPED", "last": None}
    assert post.engine.cancelled == [REF.digest, None], "what runs, and whatever waits for its turn"
    said = post.round()
    assert said == {"stopped": "STOPPED", "last": {"index": stop.index, "at": stop.time, "code": "STOPPED", "ms": 1000}}
    assert post.number("zhiying_stop_effective_seconds") == 1.0
    assert post.number("zhiying_stopped") == 1
    post.round()
    assert post.number("zhiying_stops_effective_total") == 1, "told once"


def test_what_still_runs_or_leaves_is_no_effect() -> None:
    """A child that the kernel holds, an object half on the wire: not effective before both are over."""
    post = Post()
    post.engine.current, post.engine.stubborn = REF.digest, True
    post.log.switch(Kind.STOP)
    assert [post.round()["last"] for _ in range(3)] == [None] * 3
    assert post.engine.cancelled == [REF.digest, None, REF.digest, REF.digest], "asked again in each round"
    post.engine.current = None
    post.outbox.wire = {"mine"}
    assert post.round()["last"] is None
    post.outbox.wire.clear()
    assert post.round()["last"]["ms"] == 2500


def test_what_begins_in_the_instant_of_the_stop_is_ended_too() -> None:
    """A call that had passed the guard before the entry, and began after the cancel, lives one round at most."""
    post = Post()
    post.log.switch(Kind.STOP)
    post.round()
    post.engine.current = REF.digest
    assert post.round()["last"] is None
    assert (post.engine.current, post.engine.cancelled) == (None, [None, REF.digest])
    assert post.round()["last"]["code"] == "STOPPED"


@pytest.mark.parametrize("to", [State.SUSPENDED, State.RETIRED])
def test_one_model_is_suspended_and_the_others_run(to: State) -> None:
    """Only its own inference ends, and only its own results hold up the effect."""
    post = Post()
    post.engine.current = "sha256:" + "c" * 64
    post.outbox.wire = {"of another model"}
    post.log.change(REF, to, "HARM")
    post.round()
    said = post.round()
    assert said["stopped"] is None
    assert said["last"]["code"] == to
    assert post.engine.current is not None
    assert post.engine.cancelled == [REF.digest]


def test_the_end_of_a_stop_wakes_the_outbox() -> None:
    """A stop too, so that what is held says so; nothing else does, or every entry would end every pause."""
    post = Post()
    post.log.switch(Kind.STOP)
    post.round()
    assert post.outbox.woken == 1
    post.log.switch(Kind.RESUME)
    assert post.round()["stopped"] is None
    assert post.outbox.woken == 2
    post.log.change(OTHER, State.LIVE, "RESUMED")
    post.round()
    assert post.outbox.woken == 3
    post.log.append(Draft(Kind.HEARTBEAT, "heartbeat:1", {"interval_s": 60}))
    post.round()
    assert post.outbox.woken == 3
    assert post.number("zhiying_stopped") == 0


def test_a_model_that_time_halted_is_ended_without_an_entry() -> None:
    """An approval that runs out writes nothing: the watcher asks, and does not only read."""
    post = Post()
    post.engine.current = OTHER.digest
    post.round()
    assert (post.engine.current, post.engine.cancelled) == (None, [OTHER.digest])


def test_a_round_without_a_log_is_made_up_for() -> None:
    """The log is away for a round: it fails, the caretaker goes on, and the next round misses nothing."""
    post = Post()
    post.log.switch(Kind.STOP)
    post.log.broken = AuditUnavailable("away", 5)
    with pytest.raises(AuditUnavailable):
        post.round()
    post.log.broken = None
    post.round()
    assert post.round()["last"]["code"] == "STOPPED"


def test_a_clock_that_was_set_back_gives_no_negative_time() -> None:
    """The figure is what people look at: 0 rather than nonsense."""
    post = Post()
    post.log.time = START + timedelta(hours=1)
    post.log.switch(Kind.STOP)
    post.round()
    assert post.round()["last"]["ms"] == 0


def test_the_api_says_what_the_watcher_says() -> None:
    """GET /stops: whether everything is stopped, and how long the last stop took."""
    post = Post()
    post.log.switch(Kind.STOP)
    post.round()
    post.round()
    (route,) = stop_api.build_router(post.watcher).routes
    assert isinstance(route, APIRoute)
    assert (route.path, route.methods) == ("/stops", {"GET"})
    answer: Any = route.endpoint()
    assert answer["stopped"] == "STOPPED"
    assert (answer["last"]["code"], answer["last"]["ms"]) == ("STOPPED", 1000)
