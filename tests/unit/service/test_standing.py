"""The standing query: pulls what is new and has stopped growing, and nothing else, whatever the peer answers."""

from __future__ import annotations

import threading
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta

import pytest

from dicom_bridge.catalogue import Catalogue, SeriesEntry, StudyFound, Wanted, Window
from dicom_bridge.errors import PeerFailed
from dicom_bridge.keeping import Keeper
from service.standing import RETRY_MAX_S, RETRY_S, Round, Settings

NOW = datetime(2026, 4, 1, 12, 0, tzinfo=UTC)
A, B = "1.2.1", "1.2.2"


class FakeSource:
    """A peer with studies; `asked` counts the questions for each. It never answers what it was not asked."""

    def __init__(self) -> None:
        self.held: dict[str, dict[str, SeriesEntry]] = {}
        self.at: dict[str, datetime | None] = {}
        self.tells_total = True
        self.asked: list[str] = []
        self.windows: list[Window] = []
        self.broken: PeerFailed | None = None

    def studies(self, window: Window) -> tuple[StudyFound, ...]:
        """See Source."""
        if self.broken is not None:
            raise self.broken
        self.windows.append(window)
        found = []
        for uid, series in self.held.items():
            total = sum(one.expected for one in series.values()) if self.tells_total else None
            kinds = frozenset(one.modality for one in series.values())
            found.append(StudyFound(uid, self.at.get(uid), kinds, total))
        return tuple(one for one in found if window.holds(one))

    def series(self, study_uid: str) -> Catalogue:
        """See Source."""
        self.asked.append(study_uid)
        return self.held[study_uid]

    def catalogue(self, study_uid: str) -> Catalogue:
        """See Source."""
        self.asked.append(f"all of {study_uid}")
        return {
            uid: SeriesEntry(one.modality, one.count, {f"{uid}.{n}": "" for n in range(7)})
            for uid, one in self.held[study_uid].items()
        }

    def fetch(self, wanted: Wanted, keeper: Keeper, *, careful: bool) -> None:
        """Never asked for here."""
        raise AssertionError("a query fetches nothing")


@dataclass
class Desk:
    """A round with its peer, what is known here, and a clock."""

    source: FakeSource = field(default_factory=FakeSource)
    known: dict[str, dict[str, int]] = field(default_factory=dict)
    settings: Settings = field(default_factory=Settings)
    at: float = 1000.0
    now: datetime = NOW

    def __post_init__(self) -> None:
        self.restart()

    def restart(self) -> None:
        """As after a restart of the service: nothing is remembered."""
        self.round = Round(self.settings, self._known, lambda: self.at)

    def _known(self, study_uid: str) -> Mapping[str, int]:
        return self.known.get(study_uid, {})

    def look(self) -> list[tuple[str, frozenset[str]]]:
        """One round, and then the pause that it asks for."""
        found = list(self.round.look(self.source, self.now, threading.Event()))
        self.at += self.round.pause_s
        return found

    def put(self, study: str, **series: int) -> None:
        """The peer has these images of a study, by series."""
        self.source.held[study] = {uid: SeriesEntry("CT", count) for uid, count in series.items()}


@pytest.fixture
def desk() -> Desk:
    """A new one."""
    return Desk()


def test_a_new_study_is_pulled_once_its_count_was_the_same_twice(desk: Desk) -> None:
    """The first look only remembers; the second comes sooner than the next round would."""
    desk.put(A, s=10)
    assert desk.look() == []
    assert desk.round.pause_s == desk.settings.confirm_s
    assert desk.look() == [(A, frozenset("s"))]
    assert desk.round.pause_s == desk.settings.every_s


def test_a_study_that_grows_waits(desk: Desk) -> None:
    """While the scanner is sending, each look sees another count."""
    for count in (10, 20, 30):
        desk.put(A, s=count)
        assert desk.look() == []
    assert desk.look() == [(A, frozenset("s"))]


def test_what_is_here_is_not_pulled(desk: Desk) -> None:
    """Pushed, pulled before, or pulled by hand; after a restart too."""
    desk.put(A, s=10)
    desk.known[A] = {"s": 10}
    for _ in range(3):
        assert desk.look() == []
        desk.restart()


def test_what_retention_removed_is_not_pulled_again(desk: Desk) -> None:
    """`known` counts what was ever held; only a series that has grown since is fetched."""
    desk.put(A, old=10, new=5)
    desk.known[A] = {"old": 10}
    desk.look()
    assert desk.look() == [(A, frozenset({"new"}))]


def test_a_study_that_grows_after_its_pull_is_pulled_again(desk: Desk) -> None:
    """Once the new count was the same twice; not before, and not because the old pull was long ago."""
    desk.put(A, s=10)
    desk.look()
    assert desk.look()
    desk.round.pulled(A, whole=True)
    desk.known[A] = {"s": 10}
    assert desk.look() == []
    desk.put(A, s=12)
    assert desk.look() == []
    assert desk.look() == [(A, frozenset("s"))]


def test_a_pull_that_was_whole_is_not_repeated_for_the_same_count(desk: Desk) -> None:
    """Even if what is known here never says so: a mistake must not become a loop of pulls."""
    desk.put(A, s=10)
    desk.look()
    assert desk.look()
    desk.round.pulled(A, whole=True)
    assert [desk.look() for _ in range(5)] == [[]] * 5


def test_a_pull_that_failed_is_tried_again_ever_more_rarely(desk: Desk) -> None:
    """Doubling pauses, up to an hour, as long as the window shows it."""
    desk.put(A, s=10)
    desk.look()
    pauses = []
    for _ in range(9):
        began = desk.at
        while not desk.look():
            assert desk.at - began < 2 * RETRY_MAX_S
        pauses.append(desk.at - began)
        desk.round.pulled(A, whole=False)
    assert pauses[1] <= RETRY_S + desk.settings.every_s
    assert pauses[3] > 2 * pauses[1]
    assert RETRY_MAX_S <= pauses[-1] <= RETRY_MAX_S + 2 * desk.settings.every_s


def test_results_are_never_pulled(desk: Desk) -> None:
    """Our own reports and segmentations come back in the PACS's count; they are nobody's input."""
    desk.put(A, s=10)
    desk.source.held[A] |= {"report": SeriesEntry("SR", 1), "masks": SeriesEntry("SEG", 1)}
    desk.look()
    assert desk.look() == [(A, frozenset("s"))]
    desk.known[A] = {"s": 10}
    desk.restart()
    assert [desk.look(), desk.look()] == [[], []]


def test_our_result_does_not_make_a_study_a_new_one(desk: Desk) -> None:
    """Its arrival changes the total, which costs a question; the images are the same."""
    desk.put(A, s=10)
    desk.known[A] = {"s": 10}
    desk.look()
    desk.source.held[A]["report"] = SeriesEntry("SR", 1)
    assert [desk.look(), desk.look()] == [[], []]


def test_a_study_that_is_settled_costs_no_question(desk: Desk) -> None:
    """Hundreds of studies stand in the window all day; the study's total tells whether one must be looked at."""
    desk.put(A, s=10)
    desk.known[A] = {"s": 10}
    for _ in range(5):
        desk.look()
    assert desk.source.asked == [A]
    desk.put(A, s=11)
    desk.look()
    assert desk.source.asked == [A, A]


def test_a_peer_that_tells_no_total_is_asked_each_time(desk: Desk) -> None:
    """Optional in the standard; nothing may be missed for lack of it."""
    desk.source.tells_total = False
    desk.put(A, s=10)
    desk.known[A] = {"s": 10}
    desk.look()
    desk.put(A, s=11)
    assert desk.look() == []
    assert desk.look() == [(A, frozenset("s"))]


def test_a_peer_that_counts_nothing_is_asked_for_its_list(desk: Desk) -> None:
    """Where series come without a number, the instances are counted."""
    desk.source.held[A] = {"s": SeriesEntry("CT", None)}
    desk.look()
    assert desk.look() == [(A, frozenset("s"))]
    assert f"all of {A}" in desk.source.asked


def test_only_studies_with_a_wanted_modality(desk: Desk) -> None:
    """Asked for and checked again by series; of such a study all images are pulled, or it would never be complete."""
    desk.settings = Settings(modalities=frozenset({"CT"}))
    desk.restart()
    desk.source.held = {
        A: {"ct": SeriesEntry("CT", 3), "pt": SeriesEntry("PT", 4)},
        B: {"us": SeriesEntry("US", 5)},
    }
    desk.look()
    assert desk.look() == [(A, frozenset({"ct", "pt"}))]
    assert desk.source.windows[0].modalities == {"CT"}


def test_the_latest_study_comes_first(desk: Desk) -> None:
    """After a weekend the patient on the table must not wait for all of Saturday's."""
    local = NOW.astimezone().replace(tzinfo=None)
    for hours, uid in ((5, "1.5"), (1, "1.1"), (3, "1.3")):
        desk.put(uid, s=1)
        desk.source.at[uid] = local - timedelta(hours=hours)
    desk.look()
    assert [uid for uid, _ in desk.look()] == ["1.1", "1.3", "1.5"]


def test_the_window_looks_back_in_local_time(desk: Desk) -> None:
    """Study Date and Time are local; the clock that is handed in is not."""
    desk.settings = Settings(look_back_h=6)
    desk.restart()
    desk.look()
    local = NOW.astimezone().replace(tzinfo=None)
    assert desk.source.windows[0] == Window(local - timedelta(hours=6), local)


def test_what_leaves_the_window_is_forgotten(desk: Desk) -> None:
    """Memory does not grow with the years."""
    desk.put(A, s=10)
    desk.look()
    del desk.source.held[A]
    desk.look()
    desk.put(A, s=10)
    assert desk.look() == []
    assert desk.look() != []


def test_a_peer_that_is_away_loses_nothing(desk: Desk) -> None:
    """The round fails with its code; the next one goes on where the last one was."""
    desk.put(A, s=10)
    desk.look()
    desk.source.broken = PeerFailed("PEER_UNREACHABLE", "away")
    with pytest.raises(PeerFailed):
        desk.look()
    desk.source.broken = None
    desk.at += 60
    assert desk.look() == [(A, frozenset("s"))]


def test_it_stops_between_two_studies(desk: Desk) -> None:
    """The service is being stopped."""
    stop = threading.Event()
    desk.put(A, s=1)
    stop.set()
    assert list(desk.round.look(desk.source, NOW, stop)) == []
    assert desk.source.asked == []


def test_a_pull_of_a_study_that_is_forgotten_is_no_error(desk: Desk) -> None:
    """It left the window while it was fetched."""
    desk.round.pulled("1.9", whole=True)
