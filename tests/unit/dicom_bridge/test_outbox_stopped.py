"""What a stop does to results that wait: held, let go, withheld; never lost, never half counted as a failure."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from dicom_bridge import stow_scu
from dicom_bridge.delivery import HOLD_PAUSE, Leave, Transport
from dicom_bridge.ledger import Batch, State
from dicom_bridge.outbox import KEEP_TRYING, Outbox
from dicom_bridge.parcel import head_of
from dicom_bridge.peers import Peer
from dicom_bridge.store_scu import SendResult, send
from tests.simulators import findings as phantom
from tests.simulators.pacs import FakePacs
from tests.simulators.stow_pacs import StowPacs
from tests.simulators.waiting import until

START = datetime(2026, 11, 20, 18, 0, tzinfo=UTC)
NOWHERE = Peer(name="pacs", ae_title="TESTPACS", host="127.0.0.1", port=9)


class House:
    """An outbox behind a door that a test opens and shuts, and the names of what left."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.time = START
        self.leave: dict[str, Leave] = {}
        self.asked: list[str] = []
        self.left: list[str] = []
        self.on_the_wire: list[frozenset[str]] = []
        self.shut_after: int | None = None
        self.trouble: str | None = None
        self.outbox = self._open()

    def _open(self) -> Outbox:
        return Outbox(
            self.root,
            lambda: self.time,
            lambda _batch: None,
            peers={"pacs": NOWHERE},
            transport=Transport(store=self._store),
            may_leave=self.may_leave,
        )

    def may_leave(self, call: str) -> Leave:
        """As the service answers."""
        self.asked.append(call)
        return self.leave.get(call, Leave.GO)

    def _store(self, files: Sequence[Path], _peer: Peer, _ae: str, *, go_on: Callable[[], bool]) -> SendResult:
        self.on_the_wire.append(self.outbox.sending())
        statuses: list[int | None] = []
        for path in files:
            if self.trouble is not None:
                return SendResult((None,) * len(files), self.trouble)
            if not go_on():
                return SendResult((*statuses, *[None] * (len(files) - len(statuses))), "HELD")
            self.left.append(path.name)
            statuses.append(0)
            if len(statuses) == self.shut_after:
                self.leave["call"] = Leave.HOLD
        return SendResult(tuple(statuses), None)

    def restart(self) -> None:
        """As after a crash."""
        self.outbox.stop()
        self.outbox = self._open()

    def run(self, after: timedelta = timedelta(0)) -> Batch:
        """Let time pass, work off what is due; the batch then."""
        self.time += after
        self.outbox.run_due("pacs")
        return self.batch

    @property
    def batch(self) -> Batch:
        """As the ledger has it."""
        found = self.outbox.batch("call")
        assert found is not None
        return found


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Two valid Part 10 files."""
    folder = tmp_path_factory.mktemp("results")
    for ds, name in zip(phantom.series((2, 8, 8)), ("a.dcm", "b.dcm"), strict=True):
        ds.save_as(folder / name)
    return [folder / "a.dcm", folder / "b.dcm"]


@pytest.fixture
def house(tmp_path: Path, files: list[Path]) -> Iterator[House]:
    """One batch of two files, enqueued."""
    made = House(tmp_path / "outbox")
    made.outbox.enqueue("call", "pacs", files)
    yield made
    made.outbox.stop()


def test_what_is_held_does_not_leave_and_is_nobodys_failure(house) -> None:
    """No association, no attempt, no failure counted; the batch says HELD and waits."""
    house.leave["call"] = Leave.HOLD
    held = house.run()
    assert (held.state, held.code, held.attempts, held.failures) == (State.PENDING, "HELD", 0, 0)
    assert (house.left, house.on_the_wire) == ([], [])
    assert house.outbox.run_due("pacs") == 0, "it must not spin"


def test_what_was_held_goes_out_by_itself(house) -> None:
    """Within a minute of the stop's end without anybody's help, and at once when the outbox is woken."""
    house.leave["call"] = Leave.HOLD
    house.run()
    house.leave.clear()
    assert house.run().state is State.PENDING
    house.outbox.wake()
    assert house.run().state is State.DELIVERED
    assert house.left == ["a.dcm", "b.dcm"]


def test_nobody_need_wake_it(house) -> None:
    """The watcher may be dead: the outbox looks again on its own."""
    house.leave["call"] = Leave.HOLD
    house.run()
    house.leave.clear()
    assert house.run(HOLD_PAUSE).state is State.DELIVERED


def test_a_hold_makes_nothing_old(house) -> None:
    """A month of a stop is no reason for a dead letter; the whole week of tries begins when it ends."""
    house.leave["call"] = Leave.HOLD
    for _ in range(30):
        assert house.run(timedelta(days=1)).state is State.PENDING
    house.restart()
    house.leave.clear()
    house.trouble = "PEER_UNREACHABLE"
    waiting = house.run(KEEP_TRYING - timedelta(hours=1))
    assert (waiting.state, waiting.code) == (State.PENDING, "PEER_UNREACHABLE")
    dead = house.run(timedelta(hours=2))
    assert (dead.state, dead.code) == (State.DEAD, "TOO_OLD")


def test_a_stop_that_outlasts_the_week_loses_nothing(house) -> None:
    """Whether it may leave is asked before how old it is: what nobody looked at for eight days is held, not dead."""
    house.leave["call"] = Leave.HOLD
    held = house.run(KEEP_TRYING + timedelta(days=1))
    assert (held.state, held.aged_from) == (State.PENDING, house.time)


def test_a_stop_between_two_objects_keeps_the_second(house) -> None:
    """The first has left and is remembered as stored; the second leaves alone, when the stop is lifted."""
    house.shut_after = 1
    held = house.run()
    assert (held.state, held.code, held.attempts, held.failures) == (State.PENDING, "HELD", 1, 0)
    assert [output.stored for output in held.outputs] == [True, False]
    assert house.left == ["a.dcm"]
    house.shut_after = None
    house.leave.clear()
    assert house.run(HOLD_PAUSE).state is State.DELIVERED
    assert house.left == ["a.dcm", "b.dcm"]


def test_it_is_asked_before_the_association_and_before_each_object(house) -> None:
    """Three questions for two objects: a stop has no gap to slip through that is longer than one object."""
    house.run()
    assert house.asked == ["call"] * 3
    assert house.on_the_wire == [frozenset({"call"})]
    assert house.outbox.sending() == frozenset()


def test_a_held_batch_does_not_hold_up_the_others(house, files) -> None:
    """Only what is stopped stands still; the peer is not left alone because of it."""
    house.leave["call"] = Leave.HOLD
    house.outbox.enqueue("other", "pacs", files)
    house.run()
    assert house.outbox.state("other") is State.DELIVERED
    assert house.batch.state is State.PENDING


def test_what_is_withheld_is_a_persons(house) -> None:
    """A dead letter WITHHELD, seen as any other; it does not go out when the model may be used again."""
    house.leave["call"] = Leave.WITHHOLD
    dead = house.run()
    assert (dead.state, dead.code, dead.attempts) == (State.DEAD, "WITHHELD", 0)
    house.leave.clear()
    house.outbox.wake()
    assert house.run(timedelta(days=1)).state is State.DEAD
    assert house.left == []
    assert [batch.id for batch in house.outbox.dead_letters()] == ["call"]


def test_a_person_lets_it_go(house) -> None:
    """Sent again, it leaves though the model is still suspended for harm: that is what the person decided."""
    house.leave["call"] = Leave.WITHHOLD
    house.run()
    house.outbox.resend("call")
    assert house.batch.let_go
    house.restart()
    assert house.run().state is State.DELIVERED
    assert house.left == ["a.dcm", "b.dcm"]


def test_a_stop_holds_even_what_a_person_let_go(house) -> None:
    """Letting go answers for one batch; a stop of the site is above that."""
    house.leave["call"] = Leave.WITHHOLD
    house.run()
    house.leave["call"] = Leave.HOLD
    house.outbox.resend("call")
    assert (house.run().state, house.batch.code) == (State.PENDING, "HELD")
    house.leave["call"] = Leave.WITHHOLD
    assert house.run(HOLD_PAUSE).state is State.DELIVERED


def test_sending_again_what_was_not_withheld_lets_nothing_go(house) -> None:
    """A dead letter that was too old was repaired, not released: a later suspension withholds it."""
    house.trouble = "PEER_UNREACHABLE"
    assert house.run(KEEP_TRYING + timedelta(days=1)).code == "TOO_OLD"
    house.outbox.resend("call")
    assert not house.batch.let_go
    house.leave["call"] = Leave.WITHHOLD
    assert house.run().code == "WITHHELD"


def test_c_store_stops_between_two_objects(files) -> None:
    """On the wire: the first object is stored and answered, the second never leaves, the association is released."""
    answers = iter((True, False))
    with FakePacs() as pacs:
        result = send(files, pacs.peer(), "ZHIYING", go_on=lambda: next(answers))
        assert (result.statuses, result.error, result.hopeless) == ((0, None), "HELD", False)
        head = head_of(files[0])
        assert head is not None
        assert pacs.received == [head.sop_uid]
        assert pacs.complaints == []


@pytest.mark.parametrize("allowed", [0, 1])
def test_stow_breaks_off_before_the_next_object(files, allowed) -> None:
    """A request that ends in its middle is none: the PACS has nothing, whatever part of it had left."""
    answers = iter([True] * allowed + [False])
    with StowPacs() as pacs:
        result = stow_scu.send(files, pacs.peer(), "ZHIYING", go_on=lambda: next(answers))
        assert (result.statuses, result.error, result.hopeless) == ((None, None), "HELD", False)
        until(lambda: pacs.broken_off == 1, what="the PACS sees the end of it")
        assert (pacs.stored, pacs.complaints) == ({}, [])
