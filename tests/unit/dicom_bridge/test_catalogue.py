"""What is missing: by name, by number, and never less than the peer has."""

from __future__ import annotations

from datetime import datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dicom_bridge.catalogue import (
    INSTANCES_MAX,
    SeriesEntry,
    StudyFound,
    Wanted,
    Window,
    count,
    missing,
    number,
    selected,
    stored,
    study_time,
)
from tests.simulators.pulling import local

STUDY = "1.2.3"
MR = "1.2.840.10008.5.1.4.1.1.4"


def entry(*names: str, count: int | None = None, modality: str = "MR") -> SeriesEntry:
    """Return a series of these instances."""
    return SeriesEntry(modality, count, dict.fromkeys(names, MR))


def held(**series: str) -> dict[str, frozenset[str]]:
    """Return what is held, one letter for each instance."""
    return {uid: frozenset(names) for uid, names in series.items()}


def test_nothing_held_means_the_whole_study() -> None:
    """Then one question at STUDY level is enough."""
    wanted = missing(STUDY, {"s": entry("a", "b"), "t": entry("c")}, {})
    assert wanted.whole
    assert {uid: (part.uids, part.whole) for uid, part in wanted.parts.items()} == {
        "s": (("a", "b"), True),
        "t": (("c",), True),
    }
    assert wanted.parts["s"].classes == {MR}


def test_everything_held_means_nothing() -> None:
    """More than the peer lists does no harm."""
    wanted = missing(STUDY, {"s": entry("a", "b", count=2)}, held(s="abz"))
    assert not wanted


def test_only_what_is_absent_is_wanted() -> None:
    """Of a series that is partly here the rest, by name; of the others nothing."""
    wanted = missing(STUDY, {"s": entry("a", "b"), "t": entry("c")}, held(s="a", t="c"))
    assert not wanted.whole
    assert {uid: (part.uids, part.whole) for uid, part in wanted.parts.items()} == {"s": (("b",), False)}


def test_a_count_above_the_list_wants_the_whole_series() -> None:
    """A peer that cuts its list short still tells the true count; what is not listed has no name to ask for."""
    cut = {"s": entry("a", "b", count=3)}
    assert missing(STUDY, cut, held(s="ab")).parts["s"].whole
    assert (count(cut), stored(cut, held(s="ab"))) == (3, 2)
    assert not missing(STUDY, cut, held(s="abc"))
    assert stored(cut, held(s="abc")) == 3


def test_the_number_alone_is_not_enough() -> None:
    """As many as the peer counts, but others: what it lists is still missing."""
    wanted = missing(STUDY, {"s": entry("a", "b", count=2)}, held(s="ax"))
    assert wanted.parts["s"].uids == ("b",)


def test_an_instance_under_another_series_is_held() -> None:
    """A PACS that lists an instance in another series than it is of is not asked for it for ever."""
    assert not missing(STUDY, {"s": entry("a", count=1)}, held(other="a"))
    assert stored({"s": entry("a", count=1)}, held(other="a")) == 1


def test_a_selection_is_not_the_whole_study() -> None:
    """Where some series are left out on purpose, a question at STUDY level would fetch them too."""
    offered = {"s": entry("a"), "r": entry("b", modality="SR")}
    chosen = selected(offered, lambda _uid, one: one.modality != "SR")
    assert missing(STUDY, offered, {}, offered).whole
    assert not missing(STUDY, chosen, {}, offered).whole


def test_an_empty_wish_is_false() -> None:
    """So that `if wanted` reads as it should."""
    assert not Wanted(STUDY, {}, whole=True)


@given(
    st.dictionaries(st.sampled_from("st"), st.tuples(st.frozensets(st.sampled_from("abcde")), st.integers(0, 7))),
    st.dictionaries(st.sampled_from("st"), st.frozensets(st.sampled_from("abcdefg"))),
)
def test_complete_means_that_all_is_stored(
    theirs: dict[str, tuple[frozenset[str], int]], ours: dict[str, frozenset[str]]
) -> None:
    """Nothing missing exactly if every listed instance is held and every count is reached."""
    catalogue = {uid: entry(*(uid + name for name in names), count=n) for uid, (names, n) in theirs.items()}
    here = {uid: frozenset(uid + name for name in names) for uid, names in ours.items()}
    wanted = missing(STUDY, catalogue, here)
    complete = all(
        one.instances.keys() <= here.get(uid, frozenset()) and one.expected <= len(here.get(uid, frozenset()))
        for uid, one in catalogue.items()
    )
    assert bool(wanted) is not complete
    assert stored(catalogue, here) <= count(catalogue)
    if complete:
        assert stored(catalogue, here) == count(catalogue)


@pytest.mark.parametrize(
    ("text", "value"),
    [("0", 0), ("190", 190), ("", None), ("-1", None), ("1.5", None), ("９", None), ("9" * 5000, None)],
)
def test_a_count_is_a_small_number_or_none(text: str, value: int | None) -> None:
    """Whatever a peer writes, it cannot make the number anything else, nor raise."""
    assert number(text) == value
    assert number(str(INSTANCES_MAX + 1)) is None


@pytest.mark.parametrize(
    ("date", "clock", "value"),
    [
        ("20260401", "083015.123456", local("2026-04-01 08:30:15")),
        ("2026.04.01", "0830", local("2026-04-01 08:30")),
        ("20260401", "08:30:15", local("2026-04-01 08:30:15")),
        ("20260401", "", local("2026-04-01 23:59:59")),
        ("20260401", "late", local("2026-04-01 23:59:59")),
        ("", "083015", None),
        ("20261399", "083015", None),
        ("yesterday", "", None),
        ("20260401", "256199", None),
    ],
)
def test_study_times_are_read_as_peers_write_them(date: str, clock: str, value: datetime | None) -> None:
    """Today's and ACR-NEMA's forms; no time is the end of the day, no date is unknown."""
    assert study_time(date, clock) == value


def study(at: datetime | None, *modalities: str) -> StudyFound:
    """Return an answer."""
    return StudyFound(STUDY, at, frozenset(modalities), 1)


def test_a_window_checks_what_a_peer_answers() -> None:
    """Peers ignore keys that they do not match; unknown values are kept, for a study must not be lost."""
    window = Window(local("2026-04-01 08:00"), local("2026-04-01 20:00"), frozenset({"CT", "MR"}))
    assert window.holds(study(local("2026-04-01 09:00"), "MR", "SR"))
    assert window.holds(study(None))
    assert not window.holds(study(local("2026-04-01 07:00"), "MR"))
    assert not window.holds(study(local("2026-04-01 09:00"), "US"))
    assert window.dates == "20260331-20260402"
