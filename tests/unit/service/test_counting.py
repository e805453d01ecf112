"""Asking the PACS for its counts: not too often, never by the thread that decides, and no one waits for a dead one."""

import threading
import time
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Executor, Future
from typing import Any

import pytest

from dicom_bridge.assembly import FRESH_S, SeriesCount
from dicom_bridge.errors import PeerFailed
from dicom_bridge.peers import Peer
from service.counting import ASK_AGAIN_S, Counting

STUDY = "1.2.840.99999.7.1"
PACS = Peer(name="pacs", ae_title="TESTPACS", host="127.0.0.1", port=104, counts=True)
OTHER = Peer(name="other", ae_title="OTHERPACS", host="127.0.0.1", port=105, counts=True)


class AtOnce(Executor):
    """Does what it is given before `submit` returns."""

    def submit(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Future[Any]:
        """See Executor."""
        done: Future[Any] = Future()
        done.set_result(fn(*args, **kwargs))
        return done


class FakePacs:
    """Answers `count` images; raises while `away`, gives no numbers while `silent`, hangs until `hold` is set."""

    def __init__(self) -> None:
        self.count, self.away, self.silent = 3, False, False
        self.asked: list[tuple[str, str]] = []
        self.hold = threading.Event()
        self.hold.set()

    def __call__(self, peer: Peer, study_uid: str) -> Mapping[str, SeriesCount] | None:
        """C-FIND."""
        self.asked.append((peer.name, study_uid))
        if peer is PACS:
            assert self.hold.wait(30)
        if self.away:
            raise PeerFailed("PEER_UNREACHABLE", "nobody there")
        return None if self.silent else {"1.2": SeriesCount("MR", self.count)}


class Desk:
    """A counting, its PACS, and how often somebody was told of an answer."""

    def __init__(self) -> None:
        self.pacs = FakePacs()
        self.told = 0
        self.time_s = 100.0
        self.counting = Counting(self.pacs, self._tell, lambda _peer: AtOnce(), lambda: self.time_s)

    def _tell(self) -> None:
        self.told += 1

    def ask(self, study: str = STUDY, peer: Peer = PACS, *, eager: bool = False) -> int:
        """Ask; gives how often the PACS was asked so far."""
        self.counting.ask(peer, study, eager=eager)
        return len(self.pacs.asked)


@pytest.fixture
def desk() -> Iterator[Desk]:
    """Nobody asked yet."""
    made = Desk()
    yield made
    made.counting.stop()


def test_an_answer_is_kept_and_told(desk: Desk) -> None:
    """Whoever decides is woken, and finds the answer with the time at which it was asked."""
    desk.ask()
    answers = desk.counting.of(STUDY)
    assert answers.last is not None
    assert answers.last.series == {"1.2": SeriesCount("MR", 3)}
    assert answers.last.at_s == 100.0
    assert answers.before_last is None
    assert desk.told == 1


def test_nobody_is_asked_at_every_look(desk: Desk) -> None:
    """A pause lies between two questions for one study; it grows while the answer stays the same."""
    assert [desk.ask() for _ in range(4)] == [1, 1, 1, 1]
    desk.time_s += ASK_AGAIN_S + 0.01
    assert desk.ask() == 2
    desk.time_s += ASK_AGAIN_S + 0.01
    assert desk.ask() == 2  # 0.53 s by now


def test_studies_are_asked_for_apart(desk: Desk) -> None:
    """The pause is of one study."""
    assert [desk.ask(), desk.ask("1.3"), desk.ask("1.4")] == [1, 2, 3]


def test_equal_answers_keep_the_first(desk: Desk) -> None:
    """So that the time between the two grows with each that agrees."""
    desk.ask()
    first = desk.counting.of(STUDY).last
    for pause_s in (ASK_AGAIN_S, 1.5 * ASK_AGAIN_S):
        desk.time_s += pause_s + 0.01
        desk.ask()
    answers = desk.counting.of(STUDY)
    assert len(desk.pacs.asked) == 3
    assert answers.before_last is first
    assert answers.last is not first


def test_another_number_begins_anew(desk: Desk) -> None:
    """What was said before is of no use, and the short pause holds again."""
    desk.ask()
    desk.time_s += ASK_AGAIN_S + 0.01
    desk.pacs.count = 4
    desk.ask()
    answers = desk.counting.of(STUDY)
    assert answers.before_last is None
    assert answers.pause_s == ASK_AGAIN_S


def test_the_eager_asks_as_soon_as_the_answer_is_not_fresh(desk: Desk) -> None:
    """When the sender has let go, a long pause does not keep an old answer alive."""
    desk.ask()
    for pause_s in (ASK_AGAIN_S, 1.5 * ASK_AGAIN_S, 2.25 * ASK_AGAIN_S):
        desk.time_s += pause_s + 0.01
        desk.ask()
    asked = len(desk.pacs.asked)
    desk.time_s += FRESH_S + 0.02  # the pause is 1.18 s by now
    assert desk.ask() == asked
    assert desk.ask(eager=True) == asked + 1


@pytest.mark.parametrize("how", ["away", "silent"])
def test_one_that_does_not_answer_is_left_alone_for_all_its_studies(desk: Desk, how: str) -> None:
    """It would not answer for the next study either; when it does again, everything goes on."""
    setattr(desk.pacs, how, True)
    assert [desk.ask(), desk.ask("1.3"), desk.ask("1.4", eager=True)] == [1, 1, 1]
    assert desk.counting.of(STUDY).last is None
    assert desk.ask("1.3", OTHER) == 2
    setattr(desk.pacs, how, False)
    desk.time_s += ASK_AGAIN_S + 0.01
    assert [desk.ask(), desk.ask("1.3")] == [3, 4]
    assert desk.counting.of(STUDY).last is not None


def test_the_pause_of_one_that_stays_away_grows(desk: Desk) -> None:
    """A PACS that is down for the night is not asked three times a second."""
    desk.pacs.away = True
    desk.ask()
    desk.time_s += ASK_AGAIN_S + 0.01
    desk.ask()
    desk.time_s += ASK_AGAIN_S + 0.01
    assert desk.ask() == 2


def test_what_is_forgotten_stays_so(desk: Desk) -> None:
    """A study that was handed on leaves nothing behind, and is asked for anew if it opens again."""
    desk.ask()
    desk.counting.forget(STUDY)
    assert desk.counting.of(STUDY).last is None
    assert desk.counting._studies == {}
    assert desk.ask() == 2


def test_a_pacs_that_hangs_holds_up_no_other() -> None:
    """Each peer has a thread of its own; nobody who asks waits, and a study is not asked for twice meanwhile."""
    pacs = FakePacs()
    pacs.hold.clear()
    answered = threading.Semaphore(0)
    counting = Counting(pacs, answered.release)
    began_s = time.monotonic()
    counting.ask(PACS, STUDY, eager=False)
    counting.ask(PACS, STUDY, eager=True)
    counting.ask(OTHER, "1.3", eager=False)
    assert time.monotonic() - began_s < 10
    assert answered.acquire(timeout=30)
    assert counting.of("1.3").last is not None
    assert counting.of(STUDY).last is None
    pacs.hold.set()
    assert answered.acquire(timeout=30)
    assert counting.of(STUDY).last is not None
    assert sorted(pacs.asked) == [("other", "1.3"), ("pacs", STUDY)]
    counting.stop()


def test_an_answer_for_a_study_that_is_gone_is_dropped() -> None:
    """Handed on while the PACS was thinking: the late answer must not bring it back."""
    pacs = FakePacs()
    pacs.hold.clear()
    answered = threading.Semaphore(0)
    counting = Counting(pacs, answered.release)
    counting.ask(PACS, STUDY, eager=False)
    counting.forget(STUDY)
    pacs.hold.set()
    assert answered.acquire(timeout=30)
    assert counting._studies == {}
    counting.stop()
