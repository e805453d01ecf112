"""Complete studies become runs: each exact input once, a failed one again, and no crash loses or doubles any."""

import sqlite3
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import Any

import pytest
from sqlalchemy import create_engine

from dicom_bridge.assembly import Policy, SeriesCount
from dicom_bridge.errors import InboxUnavailable, PeerFailed
from dicom_bridge.inbox import OpenStudy
from dicom_bridge.pace import STUDIES_MIN
from dicom_bridge.peers import Peer
from service.assembler import Assembler
from service.counting import ASK_AGAIN_S
from service.store import RETRYABLE, Run, State, Store
from tests.simulators.received import Clock
from tests.simulators.waiting import until
from tests.unit.service.test_counting import AtOnce

STUDY = "1.2.840.99999.7.1"
POLICY = Policy(quiet_s=30.0, count_confirm_s=0.3, quiet_min_s=3.0, early_quiet_s=2.0)
PACS = Peer(name="pacs", ae_title="TESTPACS", host="127.0.0.1", port=104, counts=True)
OTHER = Peer(name="other", ae_title="OTHERPACS", host="127.0.0.1", port=105, counts=True)


class Died(BaseException):
    """The process is gone; not an Exception, as SIGKILL is none."""


@dataclass(frozen=True, slots=True)
class Held:
    """One instance as the index gives it; what assembly asks of it."""

    sop_uid: str
    received_at: datetime
    sender: str
    position: tuple[float, ...] = ()
    acquisition_images: int | None = None
    urgent: bool = False
    series_uid: str = STUDY + ".1"
    modality: str = "MR"
    frames: int = 1
    acquisition_number: int | None = None
    orientation: tuple[float, ...] = (1.0, 0.0, 0.0, 0.0, 1.0, 0.0)


class FakeInbox:
    """What is held, in memory. Refuses a mark for a study whose run was never handed on, as I2 wants."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self.images: dict[str, list[Held]] = {}
        self.touches: dict[str, int] = {}
        self.seen: dict[str, int] = {}
        self.digests: dict[str, str] = {}
        self.last: dict[str, Any] = {}
        self.busy = 0
        self.sender = PACS.ae_title
        self.handed_on: Callable[[], bool] = lambda: True
        self.broken: Exception | None = None
        self.woken = threading.Event()
        self.reads = 0
        self.reading_takes_s = 0.0

    def store(self, *images: str, study: str = STUDY, **facts: Any) -> None:
        """Instances arrive; one that is held already only touches the study."""
        held = self.images.setdefault(study, [])
        known = {one.sop_uid for one in held}
        held += [Held(image, self._clock(), self.sender, **facts) for image in images if image not in known]
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

    def instances(self, study_uid: str) -> tuple[Held, ...]:
        """See Inbox."""
        self.reads += 1
        self._clock.tick(self.reading_takes_s)
        return tuple(self.images[study_uid])

    def input_digest(self, study_uid: str) -> str:
        """See Inbox."""
        return "sha256:" + "".join(sorted(one.sop_uid for one in self.images[study_uid])).ljust(64, "0")

    def open_associations(self, _study_uid: str) -> int:
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
        return None if self.silent else {STUDY + ".1": SeriesCount("MR", self.counts.get(study_uid, 0))}


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
        self.rule_says_urgent = False
        self.inbox.handed_on = lambda: bool(self.submitted)
        self.assembler = self.restart()

    def restart(self) -> Assembler:
        """A new process: nothing in memory but what inbox and table keep."""
        parts: dict[str, Any] = {"inbox": self.inbox, "count": self.pacs, "peers": self.peers, "store": self.store}
        self.assembler = Assembler(
            **parts,
            submit=self._submit,
            policy=POLICY,
            now=self.clock,
            rule_says_urgent=lambda _instances: self.rule_says_urgent,
            executor=lambda _peer: AtOnce(),
            clock=lambda: self.clock().timestamp(),
        )
        return self.assembler

    def _submit(self, run: Run) -> None:
        assert self.store.get(run.run_id) == run  # the run is in the table first
        if self.die_at_submit:
            raise Died
        self.submitted.append(run.run_id)

    def restart_with(self, count: Any) -> None:
        """The same with another PACS."""
        self.pacs = count
        self.restart()

    def teach_pace(self, quiet_s: float = POLICY.quiet_s) -> None:
        """The sender has sent some studies in one go each."""
        for number in range(STUDIES_MIN):
            self.inbox.store("x", "y", study=f"{STUDY}.9.{number}")
        self.quiet(quiet_s)
        self.submitted.clear()

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
        self.clock.tick(ASK_AGAIN_S + 0.02)
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
    """While a sender that carried the study is connected, the quiet timer does not complete it."""
    ward.inbox.store("a")
    ward.inbox.busy = 1
    ward.quiet()
    assert ward.runs() == ()

    ward.inbox.busy = 0
    ward.quiet(0.0)
    assert len(ward.runs()) == 1


def test_an_association_that_is_only_kept_open_lets_go(ward: Ward) -> None:
    """Some PACS hold theirs open for minutes: after so much silence it does not count."""
    ward.inbox.store("a")
    ward.inbox.busy = 1
    ward.quiet(POLICY.association_quiet_s)

    assert [run.trigger for run in ward.runs()] == ["QUIET_TIMER"]


def test_counts_overrule_an_association_that_is_kept_open(ward: Ward) -> None:
    """The PACS has exactly what we have and nothing has come for a moment: its open association does not matter."""
    ward.peers.append(PACS)
    ward.restart()
    ward.inbox.store("a")
    ward.pacs.counts[STUDY] = 1
    ward.inbox.busy = 1
    ward.look_twice()
    assert ward.runs() == ()

    ward.quiet(2.0)
    assert [run.trigger for run in ward.runs()] == ["COUNT_MATCHED"]


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


def test_a_filtered_study_is_whole_when_each_of_its_series_is(ward: Ward) -> None:
    """The PACS has a series that is not routed to us: those that are need only a short silence."""
    ward.peers.append(PACS)
    ward.restart()
    ward.inbox.store("a")
    ward.pacs.counts[STUDY] = 1
    real = ward.pacs.__call__
    ward.restart_with(lambda peer, study: {**(real(peer, study) or {}), "9.9": SeriesCount("MR", 200)})
    ward.look_twice()
    assert ward.runs() == ()

    ward.quiet(POLICY.early_quiet_s)
    assert [run.trigger for run in ward.runs()] == ["SERIES_MATCHED"]


def test_images_that_say_that_they_are_all_there_need_a_short_silence(ward: Ward) -> None:
    """No PACS to ask: as many as expected, evenly spaced, and the sender has hung up."""
    for place in range(4):
        ward.inbox.store(f"i{place}", position=(0.0, 0.0, 2.0 * place), acquisition_images=4)
    ward.quiet(POLICY.early_quiet_s - 0.1)
    assert ward.runs() == ()

    ward.quiet(0.1)
    assert [run.trigger for run in ward.runs()] == ["EXPECTED_MET"]


def test_images_of_before_our_restart_may_lack_some(ward: Ward) -> None:
    """Our own restart cut the sender off: that it is not connected says nothing, and the quiet timer decides."""
    for place in range(4):
        ward.inbox.store(f"i{place}", position=(0.0, 0.0, 2.0 * place), acquisition_images=4)
    ward.clock.tick(0.1)
    ward.restart()
    ward.quiet(POLICY.early_quiet_s)
    assert ward.runs() == ()

    ward.quiet()
    assert [run.trigger for run in ward.runs()] == ["QUIET_TIMER"]


def test_a_hole_waits_for_the_whole_quiet_time(ward: Ward) -> None:
    """Whatever the sender is known for: an image is missing, so all the time there is is given to it."""
    ward.teach_pace()
    for place in (0, 1, 3, 4):
        ward.inbox.store(f"i{place}", position=(0.0, 0.0, 2.0 * place))
    ward.quiet(POLICY.quiet_s - 1)
    assert ward.runs() == ()

    ward.quiet(1)
    assert len(ward.runs()) == 1


def test_a_quick_sender_is_waited_for_less(ward: Ward) -> None:
    """After some studies without a pause the quiet time of that sender is short; of others it is not."""
    ward.teach_pace()
    ward.inbox.store("a")
    ward.quiet(POLICY.quiet_min_s)
    assert len(ward.runs()) == 1

    ward.inbox.sender = "STRANGER"
    ward.inbox.store("b", study=STUDY + ".2")
    ward.quiet(POLICY.quiet_min_s)
    assert ward.runs(STUDY + ".2") == ()


def test_a_study_in_two_halves_is_two_runs_and_the_sender_stays_quick(ward: Ward) -> None:
    """Minutes lie between: the second half reads all of it anew, and nobody waits minutes for the next study."""
    ward.teach_pace()
    ward.inbox.store("a")
    ward.quiet(POLICY.quiet_min_s)
    ward.clock.tick(240)
    ward.inbox.store("b")
    ward.quiet(POLICY.quiet_min_s)

    assert len(ward.runs()) == 2
    assert len({run.input_digest for run in ward.runs()}) == 2


def test_the_sites_own_word_for_a_sender_holds(ward: Ward) -> None:
    """Peer.quiet_s is waited for, neither shortened by its pace nor by the general timer."""
    ward.peers.append(replace(PACS, counts=False, quiet_s=180.0))
    ward.restart()
    ward.teach_pace(quiet_s=180.0)
    ward.inbox.store("a")
    ward.quiet(179)
    assert ward.runs() == ()

    ward.quiet(1)
    assert len(ward.runs()) == 1


def test_one_association_for_each_image_is_one_run(ward: Ward) -> None:
    """A slow sender that the PACS counts along with: each image agrees with the count, and none is a study."""
    ward.peers.append(PACS)
    ward.restart()
    for number in range(4):
        ward.inbox.store(f"i{number}")
        ward.pacs.counts[STUDY] = number + 1
        ward.look_twice()
        if number == 0:
            # The very first image of a stranger cannot be told from a study of one image.
            ward.end(State.REFUSED)
        ward.quiet(0.7)
    assert len(ward.runs()) == 1

    ward.look_twice()
    ward.quiet(2.0)
    assert [run.trigger for run in ward.runs()] == ["COUNT_MATCHED", "COUNT_MATCHED"]


def test_images_that_stream_in_are_not_counted_again_at_each(ward: Ward) -> None:
    """Reading a study costs milliseconds for each hundred images: while it grows it is not read at every look."""
    ward.inbox.busy = 1
    for number in range(50):
        ward.inbox.store(f"i{number}")
        ward.quiet(0.06)

    assert ward.inbox.reads == 1


def test_the_pacs_is_asked_anew_when_the_sender_lets_go(ward: Ward) -> None:
    """While images came it was asked ever more rarely; now its answer decides, and is asked for at once, but once."""
    ward.peers.append(PACS)
    ward.restart()
    ward.inbox.busy, ward.pacs.counts[STUDY] = 1, 9
    for number in range(60):
        ward.inbox.store(f"i{number}")
        ward.quiet(0.3)
    asked = len(ward.pacs.asked)
    assert asked < 12  # of 60 looks
    while len(ward.pacs.asked) == asked:
        ward.quiet(0.3)
    ward.inbox.busy = 0
    ward.quiet(1.1)
    assert len(ward.pacs.asked) == asked + 2

    for _ in range(8):
        ward.quiet(1.01)
    assert len(ward.pacs.asked) <= asked + 4


def test_an_answer_that_agrees_is_asked_for_again_when_it_is_old(ward: Ward) -> None:
    """The association stays open and the question was long ago: a fresh answer is all that is wanting."""
    ward.peers.append(PACS)
    ward.restart()
    ward.inbox.store("a")
    ward.inbox.busy, ward.pacs.counts[STUDY] = 1, 1
    for _ in range(30):  # until the pause between two questions is 10 s
        ward.inbox.store("a")
        ward.quiet(1.01)
    assert ward.runs() == ()

    for _ in range(2):
        ward.quiet(1.01)
    assert [run.trigger for run in ward.runs()] == ["COUNT_MATCHED"]


def test_a_study_of_thousands_does_not_keep_the_watch_busy(ward: Ward) -> None:
    """The longer a reading takes, the longer it is until the next one: a tenth of the time is spent on it."""
    ward.inbox.reading_takes_s = 0.03
    ward.inbox.store("a")
    ward.assembler.look()
    for number in range(20):
        ward.inbox.store(f"i{number}")
        ward.quiet(0.02)

    assert ward.inbox.reads == 2


def test_an_old_answer_completes_nothing(ward: Ward) -> None:
    """What the PACS said seconds ago, while images came, is asked again when the sender lets go."""
    ward.peers.append(PACS)
    ward.restart()
    ward.inbox.store("a", "b")
    ward.inbox.busy, ward.pacs.counts[STUDY] = 1, 2
    ward.look_twice()
    ward.clock.tick(1.1)
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


# ---- how urgent ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("sent", "rule", "urgent"), [(False, False, False), (True, False, True), (False, True, True)])
def test_a_run_is_urgent_where_its_sender_or_a_rule_says_so(ward: Ward, sent: bool, rule: bool, urgent: bool) -> None:
    """One image of high priority is enough, and so is a rule of the site."""
    ward.rule_says_urgent = rule
    ward.inbox.store("a")
    ward.inbox.store("b", urgent=sent)
    ward.quiet()

    assert [run.urgent for run in ward.runs()] == [urgent]


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


@pytest.mark.parametrize("modality", ["SR", "SEG", "KO"])
def test_reports_alone_are_no_study_to_run_on(ward: Ward, modality: str) -> None:
    """An edited report that comes back when the images have left the spool starts nothing, and is let go of."""
    ward.inbox.handed_on = lambda: True  # there is nothing that could be
    ward.inbox.store("a", modality=modality)
    ward.quiet()

    assert (ward.runs(), ward.submitted) == ((), [])
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


@pytest.mark.parametrize("state", State)
@pytest.mark.parametrize("place", [0, 1])
def test_one_of_two_models_is_enough_for_another_attempt(ward: Ward, state: State, place: int) -> None:
    """Of two runs of an attempt one has its result: the other's state decides, whichever of them it is."""
    ward.inbox.store("a")
    ward.quiet()
    (first,) = ward.runs()
    beside = replace(first, run_id=f"{first.run_id}.b", for_model="sha256:b")
    ward.store.add(beside)
    pair = [first, beside]
    ward.store.update(pair[place].run_id, first.updated_at, state=state)
    ward.store.update(pair[1 - place].run_id, first.updated_at, state=State.RELEASED)
    ward.inbox.store("a")
    ward.quiet()

    again = [f"{first.run_id[:-2]}-2"] if state in RETRYABLE else []
    waiting = [pair[place].run_id] if state is State.ASSEMBLED else []
    assert ward.submitted == [first.run_id, *again, *waiting]
    assert [run.attempt for run in ward.runs()] == [1, 1, *(2 for _ in again)]
    assert all(run.for_model is None for run in ward.runs()[2:])


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
    until(lambda: ward.submitted)
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

    until(lambda: len(looked) > 1)
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
