"""Pulls: each order is done once, in its peer's own turn, and ends in a state that a person can see."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime

import pytest

from dicom_bridge.catalogue import Catalogue, SeriesEntry, StudyFound, Wanted, Window
from dicom_bridge.errors import PeerFailed
from dicom_bridge.keeping import Keeper
from dicom_bridge.peers import Peer
from dicom_bridge.retrieve import Progress, Retrieved
from service.puller import KEPT_MAX, WAITING_MAX, Job, JobState, Puller, PullRefused, shown
from service.standing import Settings

NOW = datetime(2026, 4, 1, 12, 0, tzinfo=UTC)
PEERS = {name: Peer(name, name.upper(), "127.0.0.1", 104) for name in ("pacs", "other")}
SERIES = {"ct": SeriesEntry("CT", 3), "sr": SeriesEntry("SR", 1)}
ENOUGH_S = 30


class FakeFetch:
    """Retrieves nothing, as told; polices that one peer has one pull at a time."""

    def __init__(self) -> None:
        self.results: dict[str, Retrieved] = {}
        self.done: list[tuple[str, str]] = []
        self.wanted: list[list[str]] = []
        self.gate = threading.Event()
        self.gate.set()
        self.begun = threading.Semaphore(0)
        self.broken: Exception | None = None
        self.complaints: list[str] = []
        self._busy: set[str] = set()

    def __call__(
        self,
        peer: Peer,
        study_uid: str,
        *,
        wants: Callable[[str, SeriesEntry], bool] | None,
        progress: Callable[[Progress], None],
        stop: threading.Event,
    ) -> Retrieved:
        """See Fetch."""
        if peer.name in self._busy:
            self.complaints.append("two pulls from one peer at once")
        self._busy.add(peer.name)
        try:
            progress(Progress(3, 1, 1))
            self.begun.release()
            while not self.gate.wait(0.02):
                if stop.is_set():
                    return Retrieved(3, 1, attempts=1, code="PULL_CANCELLED")
            if self.broken is not None:
                raise self.broken
            self.wanted.append(sorted(uid for uid, one in SERIES.items() if wants is None or wants(uid, one)))
            self.done.append((peer.name, study_uid))
            return self.results.get(study_uid, Retrieved(3, 3, attempts=1))
        finally:
            self._busy.discard(peer.name)


class FakeSource:
    """A peer with some studies, or one that is away."""

    def __init__(self) -> None:
        self.away = False
        self.has = ["1.2.77"]
        self.rounds = 0

    def studies(self, window: Window) -> tuple[StudyFound, ...]:
        """See Source."""
        self.rounds += 1
        if self.away:
            raise PeerFailed("PEER_UNREACHABLE", "away")
        return tuple(StudyFound(uid, None, frozenset({"CT"}), 4) for uid in self.has)

    def series(self, study_uid: str) -> Catalogue:
        """See Source."""
        return SERIES

    def catalogue(self, study_uid: str) -> Catalogue:
        """See Source."""
        return SERIES

    def fetch(self, wanted: Wanted, keeper: Keeper, *, careful: bool) -> None:
        """Never asked for here."""
        raise AssertionError("a query fetches nothing")


class Desk:
    """A puller with its fakes."""

    def __init__(self, standing: dict[str, Settings] | None = None) -> None:
        self.fetch, self.source = FakeFetch(), FakeSource()
        self.known: dict[str, dict[str, int]] = {}

        @contextmanager
        def source(_peer: Peer, _stop: threading.Event) -> Iterator[FakeSource]:
            yield self.source

        self.puller = Puller(
            peers=PEERS,
            fetch=self.fetch,
            source=source,
            known=lambda uid: self.known.get(uid, {}),
            now=lambda: NOW,
            standing=standing,
        )

    def ended(self, job: Job) -> Job:
        """Wait for its end."""
        found = self.wait(lambda: next((one for one in self.puller.jobs() if one.id == job.id and not one.open), None))
        assert found is not None
        return found

    def wait(self, ready: Callable[[], Job | None]) -> Job | None:
        """Wait until there is one."""
        until = time.monotonic() + ENOUGH_S
        while (found := ready()) is None and time.monotonic() < until:
            time.sleep(0.005)
        return found


@pytest.fixture
def desk() -> Iterator[Desk]:
    """Running, without standing queries."""
    made = Desk()
    made.puller.start()
    yield made
    made.puller.stop()
    assert made.fetch.complaints == []


def refused(desk: Desk, study: str, peer: str) -> str:
    """Return the code of an order that is not taken."""
    with pytest.raises(PullRefused) as caught:
        desk.puller.order(study, peer)
    return caught.value.code


def test_an_order_is_done(desk: Desk) -> None:
    """WAITING, then DONE, with the counts; everything that the peer has was asked for, reports too."""
    job = desk.puller.order("1.2.3", "pacs")
    assert (job.state, job.peer, job.study_uid, job.ordered_at) == (JobState.WAITING, "pacs", "1.2.3", NOW)
    ended = desk.ended(job)
    assert (ended.state, ended.expected, ended.stored, ended.code, ended.ended_at) == (JobState.DONE, 3, 3, None, NOW)
    assert desk.fetch.wanted == [["ct", "sr"]]


def test_progress_is_seen_while_it_runs(desk: Desk) -> None:
    """RUNNING, one of three."""
    desk.fetch.gate.clear()
    job = desk.puller.order("1.2.3", "pacs")
    assert desk.fetch.begun.acquire(timeout=ENOUGH_S)
    seen = desk.puller.job(job.id)
    assert seen is not None
    assert (seen.state, seen.stored, seen.expected, seen.attempts) == (JobState.RUNNING, 1, 3, 1)
    desk.fetch.gate.set()
    desk.ended(job)


def test_a_failure_is_recorded_with_its_code(desk: Desk) -> None:
    """And the next order is done all the same."""
    desk.fetch.results["1.2.3"] = Retrieved(4, 3, {"0xA702": 1}, 3, "PULL_INCOMPLETE", "one is missing")
    ended = desk.ended(desk.puller.order("1.2.3", "pacs"))
    assert (ended.state, ended.code, dict(ended.failed)) == (JobState.FAILED, "PULL_INCOMPLETE", {"0xA702": 1})
    assert (ended.expected, ended.stored, ended.attempts, ended.detail) == (4, 3, 3, "one is missing")
    assert desk.ended(desk.puller.order("1.2.4", "pacs")).state is JobState.DONE


def test_the_same_study_asked_twice_is_one_job(desk: Desk) -> None:
    """While it is open; afterwards an order is a new one. Another peer is another job."""
    desk.fetch.gate.clear()
    first = desk.puller.order("1.2.3", "pacs")
    assert desk.puller.order("1.2.3", "pacs").id == first.id
    other = desk.puller.order("1.2.3", "other")
    assert other.id != first.id
    desk.fetch.gate.set()
    desk.ended(first)
    desk.ended(other)
    again = desk.puller.order("1.2.3", "pacs")
    assert again.id != first.id
    desk.ended(again)


def test_each_peer_has_its_own_turn(desk: Desk) -> None:
    """One at a time from each, in the order that they came; a peer that hangs holds up no other."""
    desk.fetch.gate.clear()
    slow = [desk.puller.order(f"1.2.{n}", "pacs") for n in range(4)]
    desk.puller.order("1.3.1", "other")
    assert desk.fetch.begun.acquire(timeout=ENOUGH_S)
    assert desk.fetch.begun.acquire(timeout=ENOUGH_S)
    running = {job.peer for job in desk.puller.jobs() if job.state is JobState.RUNNING}
    assert running == {"pacs", "other"}
    desk.fetch.gate.set()
    for job in slow:
        desk.ended(job)
    assert [study for peer, study in desk.fetch.done if peer == "pacs"] == [job.study_uid for job in slow]


def test_what_cannot_be_ordered_is_refused(desk: Desk) -> None:
    """Before anything is asked of anybody."""
    assert refused(desk, "1.2.3", "nobody") == "PEER_UNKNOWN"
    for study in ("", "*", "1.2\\1.3", "../../x", "1" * 65):
        assert refused(desk, study, "pacs") == "STUDY_UID_INVALID"
    assert desk.puller.jobs() == ()


def test_the_queue_is_bounded(desk: Desk) -> None:
    """Whoever orders for ever is told so; orders for another peer are still taken."""
    desk.fetch.gate.clear()
    for number in range(WAITING_MAX + 1):
        desk.puller.order(f"1.2.{number}", "pacs")
        if number == 0:
            assert desk.fetch.begun.acquire(timeout=ENOUGH_S)
    assert refused(desk, "1.9", "pacs") == "PULL_QUEUE_FULL"
    assert desk.puller.order("1.9", "other").state is JobState.WAITING


def test_old_jobs_are_forgotten(desk: Desk) -> None:
    """The newest first; memory does not grow."""
    jobs = [desk.puller.order(f"1.2.{number}", "pacs") for number in range(KEPT_MAX + 20)]
    desk.ended(jobs[-1])
    last = desk.ended(desk.puller.order("1.3", "pacs"))
    assert len(desk.puller.jobs()) <= KEPT_MAX + 1
    assert desk.puller.jobs()[0].id == last.id
    assert desk.puller.job(jobs[0].id) is None


def test_stopping_calls_off_what_runs() -> None:
    """At once; what waits is not begun, and nothing more is taken."""
    desk = Desk()
    desk.puller.start()
    desk.fetch.gate.clear()
    running, waiting = desk.puller.order("1.2.3", "pacs"), desk.puller.order("1.2.4", "pacs")
    assert desk.fetch.begun.acquire(timeout=ENOUGH_S)
    assert desk.puller.running
    desk.puller.stop()
    assert not desk.puller.running
    assert [desk.puller.job(job.id).code for job in (running, waiting)] == ["PULL_CANCELLED", None]  # type: ignore[union-attr]
    assert refused(desk, "1.2.5", "pacs") == "STOPPING"


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
def test_a_bug_is_not_silent() -> None:
    """What no rule foresees ends the peer's thread, which /health shows, and the job says INTERNAL_ERROR."""
    desk = Desk()
    desk.fetch.broken = ZeroDivisionError()
    desk.puller.start()
    ended = desk.ended(desk.puller.order("1.2.3", "pacs"))
    assert (ended.state, ended.code) == (JobState.FAILED, "INTERNAL_ERROR")
    until = time.monotonic() + ENOUGH_S
    while desk.puller.running and time.monotonic() < until:
        time.sleep(0.005)
    assert not desk.puller.running
    desk.puller.stop()


def test_a_job_as_it_is_shown(desk: Desk) -> None:
    """Every field by a name that a person understands."""
    (row,) = shown([desk.ended(desk.puller.order("1.2.3", "pacs"))])
    assert row.pop("id")
    assert row == {
        "study": "1.2.3",
        "from": "pacs",
        "state": "DONE",
        "standing": False,
        "expected": 3,
        "stored": 3,
        "failed": {},
        "attempts": 1,
        "code": None,
        "detail": "",
        "ordered_at": NOW.isoformat(),
        "ended_at": NOW.isoformat(),
    }


# -- standing queries -------------------------------------------------------------------------------------------------

QUICK = {"pacs": Settings(every_s=0.05, confirm_s=0.02)}


@pytest.fixture
def standing() -> Iterator[Desk]:
    """Running, with a standing query of one peer."""
    made = Desk(QUICK)
    yield made
    made.puller.stop()
    assert made.fetch.complaints == []


def test_a_new_study_is_pulled_by_itself(standing: Desk) -> None:
    """Its images, not its reports; once, as long as it does not grow."""
    standing.puller.start()
    found = standing.wait(lambda: next((one for one in standing.puller.jobs() if not one.open), None))
    assert found is not None
    assert (found.study_uid, found.peer, found.standing, found.state) == ("1.2.77", "pacs", True, JobState.DONE)
    assert standing.fetch.wanted == [["ct"]]
    before = standing.source.rounds
    standing.wait(lambda: found if standing.source.rounds > before + 5 else None)
    assert len(standing.puller.jobs()) == 1


def test_a_peer_that_is_away_is_asked_again(standing: Desk) -> None:
    """Its thread lives on, and orders for it are still done."""
    standing.source.away = True
    standing.puller.start()
    job = standing.puller.order("1.2.3", "pacs")
    standing.wait(lambda: job if standing.source.rounds > 3 else None)
    assert standing.ended(job).state is JobState.DONE
    assert standing.puller.running
    standing.source.away = False
    assert standing.wait(lambda: next((one for one in standing.puller.jobs() if one.standing), None)) is not None


def test_an_order_of_a_person_comes_first(standing: Desk) -> None:
    """It is not behind all that the query has found."""
    standing.source.has = ["1.2.77", "1.2.78", "1.2.79"]
    standing.fetch.gate.clear()
    standing.puller.start()
    assert standing.fetch.begun.acquire(timeout=ENOUGH_S)
    ordered = standing.puller.order("1.2.3", "pacs")
    assert len(standing.puller.jobs()) == 4
    standing.fetch.gate.set()
    standing.ended(standing.puller.jobs()[1])
    assert [study for _, study in standing.fetch.done][1] == ordered.study_uid


def test_what_is_ordered_is_not_found_once_more(standing: Desk) -> None:
    """While it is fetched, and afterwards."""
    standing.fetch.gate.clear()
    ordered = standing.puller.order("1.2.77", "pacs")
    standing.puller.start()
    assert standing.fetch.begun.acquire(timeout=ENOUGH_S)
    assert [one.id for one in standing.puller.jobs()] == [ordered.id]
    standing.known["1.2.77"] = {"ct": 3}
    standing.fetch.gate.set()
    assert standing.ended(ordered).standing is False
    before = standing.source.rounds
    standing.wait(lambda: ordered if standing.source.rounds > before + 3 else None)
    assert len(standing.puller.jobs()) == 1
