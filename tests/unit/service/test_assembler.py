"""Complete studies become runs: each exact input once, a failed one again, and no crash loses or doubles any."""

import sqlite3
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest
from sqlalchemy import create_engine

from dicom_bridge.assembly import Policy, SeriesCount
from dicom_bridge.errors import InboxUnavailable, PeerFailed
from dicom_bridge.inbox import OpenStudy
from dicom_bridge.peers import Peer
from service.assembler import ASK_AGAIN_S, Assembler
from service.store import Run, State, Store
from tests.simulators.received import Clock

STUDY = "1.2.840.99999.7.1"
POLICY = Policy(quiet_s=30.0, count_confirm_s=0.0)
PACS = Peer(name="pacs", ae_title="TESTPACS", host="127.0.0.1", port=104, counts=True)
OTHER = Peer(name="other", ae_title="OTHERPACS", host="127.0.0.1", port=105, counts=True)


class Died(BaseException):
    """The process is gone; not an Exception, as SIGKILL is none."""


class FakeInbox:
    """What is held, in memory. Refuses a mark for a study whose run was never handed on, as I2 wants."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self.images: dict[str, list[str]] = {}
        self.touches: dict[str, int] = {}
        self.seen: dict[str, int] = {}
        self.digests: dict[str, str] = {}
        self.last: dict[str, Any] = {}
        self.busy = 0
        self.sender = PACS.ae_title
        self.handed_on: Callable[[], bool] = lambda: True
        self.broken: Exception | None = None
        self.woken = threading.Event()

    def store(self, *images: str, study: str = STUDY) -> None:
        """Instances arrive; one that is held already only touches the study."""
        held = self.images.setdefault(study, [])
        held += [image for image in images if image not in held]
        self.touches[study] = self.touches.get(study, 0) + len(images)
        self.last[study] = self._clock()

    def open_studies(self) -> tuple[OpenStudy, ...]:
        """See Inbox."""
        if self.broken is not None:
            raise self.broken
        return tuple(
            OpenStudy(study, self.last[study], touches, self.digests.get(study))
            for study, touches in self.touches.items()
            if touches > self.seen.get(study, 0)
        )

    def held(self, study_uid: str) -> Mapping[str, SeriesCount]:
        """See Inbox."""
        return {study_uid + ".1": SeriesCount("MR", len(self.images[study_uid]))}

    def instances(self, study_uid: str) -> tuple[Any, ...]:
        """See Inbox; only the sender is looked at."""
        return tuple(type("Held", (), {"sender": self.sender})() for _ in self.images[study_uid])

    def input_digest(self, study_uid: str) -> str:
        """See Inbox."""
        return "sha256:" + "".join(sorted(self.images[study_uid])).ljust(64, "0")

    def open_associations(self, _study_uid: str, _active_within_s: float | None = None) -> int:
        """See Inbox."""
        return self.busy

    def mark_assembled(self, study_uid: str, touches: int, input_digest: str) -> None:
        """See Inbox."""
        assert self.handed_on(), "marked before the run was handed on: a crash now would lose the study"
        assert touches <= self.touches[study_uid]
        self.seen[study_uid], self.digests[study_uid] = touches, input_digest

    def wait(self, timeout_s: float) -> bool:
        """See Inbox."""
        self.woken.wait(min(timeout_s, 0.01))
        return False

    def wake(self) -> None:
        """See Inbox."""
        self.woken.set()


class FakePacs:
    """Answers counts; `away` makes it raise, `silent` makes it answer without numbers."""

    def __init__(self) -> None:
        self.counts: dict[str, int] = {}
        self.away = False
        self.silent = False
        self.asked: list[str] = []

    def __call__(self, peer: Peer, study_uid: str) -> Mapping[str, SeriesCount] | None:
        """C-FIND."""
        self.asked.append(peer.name)
        if self.away:
            raise PeerFailed("PEER_UNREACHABLE", "nobody there")
        return None if self.silent else {study_uid + ".1": SeriesCount("MR", self.counts.get(study_uid, 0))}


class Ward:
    """An assembler and all its neighbours; `restart` is a crash of the assembler alone."""

    def __init__(self) -> None:
        self.clock = Clock()
        self.inbox = FakeInbox(self.clock)
        self.pacs = FakePacs()
        self.store = Store(create_engine("sqlite://"))
        self.submitted: list[str] = []
        self.peers: list[Peer] = []
        self.die_at_submit = False
        self.inbox.handed_on = lambda: bool(self.submitted)
        self.assembler = self.restart()

    def restart(self) -> Assembler:
        """A new process: nothing in memory but what inbox and table keep."""
        parts: dict[str, Any] = {"inbox": self.inbox, "count": self.pacs, "peers": self.peers, "store": self.store}
        self.assembler = Assembler(**parts, submit=self._submit, policy=POLICY, now=self.clock)
        return self.assembler

    def _submit(self, run_id: str) -> None:
        assert self.store.get(run_id).run_id == run_id  # the run is in the table first
        if self.die_at_submit:
            raise Died
        self.submitted.append(run_id)

    def quiet(self, seconds: float = POLICY.quiet_s) -> None:
        """Nothing happens for so long; then one look."""
        self.clock.tick(seconds)
        self.assembler.look()

    def runs(self, study: str = STUDY) -> tuple[Run, ...]:
        """The study's runs."""
        return self.store.of_study(study)

    def end(self, state: State) -> None:
        """The newest run ends in `state`."""
        self.store.update(self.runs()[-1].run_id, self.clock(), state=state)

    def look_twice(self) -> None:
        """Two looks, so far apart that the PACS is asked at both."""
        self.assembler.look()
        time.sleep(ASK_AGAIN_S + 0.02)
        self.assembler.look()


@pytest.fixture
def ward() -> Iterator[Ward]:
    """Nothing held, nobody asked."""
    made = Ward()
    yield made
    made.store.close()


# ---- when ------------------------------------------------------------------------------------------------------------


def test_a_quiet_study_becomes_one_run(ward: Ward) -> None:
    """After the quiet time a study is handed on once, with its exact input and the trigger."""
    ward.inbox.store("a", "b")
    ward.quiet()
    ward.quiet()

    (run,) = ward.runs()
    assert ward.submitted == [run.run_id]
    assert (run.attempt, run.state, run.trigger) == (1, State.ASSEMBLED, "QUIET_TIMER")
    assert run.input_digest == ward.inbox.input_digest(STUDY)
    assert ward.inbox.open_studies() == ()


def test_a_study_that_still_arrives_waits(ward: Ward) -> None:
    """Each instance begins the quiet time anew."""
    for image in "abc":
        ward.inbox.store(image)
        ward.quiet(POLICY.quiet_s - 1)

    assert ward.runs() == ()


def test_an_open_association_holds_a_study_back(ward: Ward) -> None:
    """While a sender that carried the study is connected, neither quiet nor equal counts complete it."""
    ward.peers.append(PACS)
    ward.restart()
    ward.inbox.store("a")
    ward.pacs.counts[STUDY] = 1
    ward.inbox.busy = 1

    ward.look_twice()
    ward.quiet()
    assert ward.runs() == ()

    ward.inbox.busy = 0
    ward.quiet(0.0)
    assert len(ward.runs()) == 1


def test_two_equal_counts_complete_a_study(ward: Ward) -> None:
    """The PACS says twice that it has what we have: no need to wait for quiet."""
    ward.peers.append(PACS)
    ward.restart()
    ward.inbox.store("a", "b")
    ward.pacs.counts[STUDY] = 2

    ward.assembler.look()
    assert ward.runs() == ()
    ward.look_twice()

    assert [run.trigger for run in ward.runs()] == ["COUNT_MATCHED"]


def test_a_pacs_that_has_more_holds_the_study_back(ward: Ward) -> None:
    """A series that is short of the PACS's count waits past the ordinary quiet time, but not for ever."""
    ward.peers.append(PACS)
    ward.restart()
    ward.inbox.store("a")
    ward.pacs.counts[STUDY] = 2

    ward.look_twice()
    ward.quiet()
    assert ward.runs() == ()

    ward.quiet(POLICY.short_quiet_s)
    assert [run.trigger for run in ward.runs()] == ["QUIET_TIMER"]


@pytest.mark.parametrize("how", ["away", "silent"])
def test_a_pacs_that_does_not_answer_is_not_waited_for(ward: Ward, how: str) -> None:
    """Unreachable or without numbers: the quiet timer decides, and the run is not lost."""
    ward.peers.append(PACS)
    ward.restart()
    setattr(ward.pacs, how, True)
    ward.inbox.store("a")

    ward.assembler.look()
    assert ward.runs() == ()
    ward.quiet()

    assert [run.trigger for run in ward.runs()] == ["QUIET_TIMER"]


def test_a_pacs_is_not_asked_at_every_look(ward: Ward) -> None:
    """Between two questions for one study lies a pause, which grows while nobody answers."""
    ward.peers.append(PACS)
    ward.restart()
    ward.pacs.away = True
    ward.inbox.store("a")

    for _ in range(5):
        ward.assembler.look()
    assert len(ward.pacs.asked) == 1
    time.sleep(ASK_AGAIN_S + 0.02)
    ward.assembler.look()

    assert len(ward.pacs.asked) == 1


@pytest.mark.slow
def test_an_old_answer_completes_nothing(ward: Ward) -> None:
    """What the PACS said seconds ago, while images came, is asked again when the sender lets go."""
    ward.peers.append(PACS)
    ward.restart()
    ward.inbox.store("a", "b")
    ward.inbox.busy, ward.pacs.counts[STUDY] = 1, 2
    ward.look_twice()
    time.sleep(1.1)
    ward.inbox.busy, ward.pacs.counts[STUDY] = 0, 3

    ward.assembler.look()

    assert ward.runs() == ()


@pytest.mark.parametrize(("sender", "asked"), [(PACS.ae_title, "pacs"), ("MODALITY", "other")])
def test_the_sender_is_asked_if_it_counts(ward: Ward, sender: str, asked: str) -> None:
    """Of several peers the one that sent the study is asked; for an unknown sender the first that counts."""
    ward.peers += [OTHER, PACS]
    ward.restart()
    ward.inbox.sender = sender
    ward.inbox.store("a")

    ward.assembler.look()

    assert ward.pacs.asked == [asked]


# ---- which run -------------------------------------------------------------------------------------------------------


def test_late_images_make_a_new_run(ward: Ward) -> None:
    """Another input of the study is another run with a name of its own; the old one stays."""
    ward.inbox.store("a")
    ward.quiet()
    ward.end(State.RELEASED)
    ward.inbox.store("b")
    ward.quiet()

    first, second = ward.runs()
    assert (first.attempt, second.attempt) == (1, 1)
    assert first.input_digest != second.input_digest
    assert ward.submitted == [first.run_id, second.run_id]


@pytest.mark.parametrize("state", [State.WRITTEN, State.RELEASED, State.UNDELIVERED, State.SELECTED, State.INFERRED])
def test_the_same_study_again_is_no_new_run(ward: Ward, state: State) -> None:
    """Sent again unchanged, a study that has a result or is under way starts nothing, and is let go of."""
    ward.inbox.store("a")
    ward.quiet()
    ward.end(state)
    ward.inbox.store("a")
    ward.quiet()

    assert len(ward.runs()) == 1
    assert len(ward.submitted) == 1
    assert ward.inbox.open_studies() == ()


@pytest.mark.parametrize("state", [State.REFUSED, State.FAILED])
def test_a_refused_study_that_is_sent_again_is_tried_again(ward: Ward, state: State) -> None:
    """Refused or failed: a person has put it right and sends it again, which is a new attempt, each time."""
    for _ in range(3):
        ward.inbox.store("a")
        ward.quiet()
        ward.end(state)

    runs = ward.runs()
    assert [run.attempt for run in runs] == [1, 2, 3]
    assert ward.submitted == [run.run_id for run in runs]
    assert len(set(ward.submitted)) == 3


def test_an_attempt_counts_within_one_input(ward: Ward) -> None:
    """Attempts at an earlier input do not count for the later one."""
    ward.inbox.store("a")
    ward.quiet()
    ward.end(State.FAILED)
    ward.inbox.store("b")
    ward.quiet()

    assert [run.attempt for run in ward.runs()] == [1, 1]


def test_a_run_that_waits_is_submitted_under_the_same_id(ward: Ward) -> None:
    """Sent again while its run has not begun: the same id once more, which the workflow engine knows."""
    ward.inbox.store("a")
    ward.quiet()
    ward.inbox.store("a")
    ward.quiet()

    (run,) = ward.runs()
    assert ward.submitted == [run.run_id, run.run_id]


def test_two_studies_of_the_same_pixels_are_two_runs(ward: Ward) -> None:
    """A run's name is of its study and its input, so equal inputs of two studies never meet."""
    ward.inbox.store("a")
    ward.inbox.store("a", study=STUDY + ".2")
    ward.quiet()

    assert len(set(ward.submitted)) == 2
    assert STUDY not in "".join(ward.submitted)


# ---- crashes ---------------------------------------------------------------------------------------------------------


def test_a_crash_between_table_and_engine_loses_nothing(ward: Ward) -> None:
    """The run is in the table but was not submitted: the next process submits it under the same id."""
    ward.inbox.store("a")
    ward.die_at_submit = True
    with pytest.raises(Died):
        ward.quiet()
    ward.die_at_submit = False
    ward.restart()

    ward.quiet()

    (run,) = ward.runs()
    assert ward.submitted == [run.run_id]
    assert ward.inbox.open_studies() == ()


def test_a_crash_before_the_inbox_lets_go_repeats_the_same_id(ward: Ward) -> None:
    """Submitted but not marked: the next process hands on the same id, not a second run."""
    ward.inbox.store("a")
    seen = dict(ward.inbox.seen)
    ward.quiet()
    ward.inbox.seen = seen
    ward.restart()

    ward.quiet()

    assert len(ward.runs()) == 1
    assert set(ward.submitted) == {ward.runs()[0].run_id}


def test_an_image_that_comes_while_handing_on_keeps_the_study_open(ward: Ward) -> None:
    """Only what was counted when the look began is marked as seen: a later image opens the study again."""
    ward.inbox.store("a")
    real = ward.inbox.input_digest

    def late(study_uid: str) -> str:
        digest = real(study_uid)
        ward.inbox.store("b")
        ward.inbox.input_digest = real  # type: ignore[method-assign]
        return digest

    ward.inbox.input_digest = late  # type: ignore[method-assign]
    ward.quiet()
    assert [item.study_uid for item in ward.inbox.open_studies()] == [STUDY]
    ward.quiet()

    assert [run.input_digest for run in ward.runs()] == [
        "sha256:" + "a".ljust(64, "0"),
        "sha256:" + "ab".ljust(64, "0"),
    ]


# ---- the thread ------------------------------------------------------------------------------------------------------


def _eventually(holds: Callable[[], Any], limit_s: float = 5.0) -> bool:
    ends = time.monotonic() + limit_s
    while not holds() and time.monotonic() < ends:
        time.sleep(0.01)
    return bool(holds())


def test_the_thread_watches_until_it_is_stopped(ward: Ward) -> None:
    """Started it looks by itself, says so to /health, and ends promptly when told."""
    ward.inbox.store("a")
    ward.clock.tick(POLICY.quiet_s)
    # The table in memory belongs to one thread; the thread of this test hands over.
    ward.store.close()
    assert not ward.assembler.running
    ward.assembler._hand_on = lambda item, _trigger: ward.submitted.append(item.study_uid)  # type: ignore[method-assign, func-returns-value]
    ward.assembler.start()

    assert ward.assembler.running
    assert _eventually(lambda: ward.submitted)
    began_s = time.monotonic()
    ward.assembler.stop()
    assert time.monotonic() - began_s < 1.0
    assert not ward.assembler.running


BREAKS = [
    InboxUnavailable("SPOOL_FAILED", "no space"),
    OSError(28, "no space"),
    sqlite3.OperationalError("database is locked"),
]


@pytest.mark.slow
@pytest.mark.parametrize("error", BREAKS, ids=lambda error: type(error).__name__)
def test_a_spool_that_is_away_does_not_end_the_watch(ward: Ward, error: Exception) -> None:
    """While the spool or its index refuses, the thread lives and looks again (I2)."""
    ward.inbox.broken = error
    looked: list[float] = []
    real = ward.inbox.open_studies

    def open_studies() -> tuple[OpenStudy, ...]:
        looked.append(time.monotonic())
        return real()

    ward.inbox.open_studies = open_studies  # type: ignore[method-assign]
    ward.assembler.start()

    assert _eventually(lambda: len(looked) > 1)
    assert ward.assembler.running
    ward.assembler.stop()


def test_a_run_is_not_changed_by_being_handed_on(ward: Ward) -> None:
    """The table's row is what the assembler made: nothing of an earlier attempt is carried over."""
    ward.inbox.store("a")
    ward.quiet()
    ward.end(State.FAILED)
    ward.inbox.store("a")
    ward.quiet()

    first, second = ward.runs()
    assert replace(
        first, state=State.ASSEMBLED, run_id="", attempt=0, created_at=ward.clock(), updated_at=ward.clock()
    ) == replace(second, run_id="", attempt=0, created_at=ward.clock(), updated_at=ward.clock())
    assert second.created_at - first.created_at >= timedelta(seconds=POLICY.quiet_s)
