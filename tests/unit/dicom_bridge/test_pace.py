"""How quickly a sender sends: what is learnt shortens the waits, within the site's bounds, and never more."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dicom_bridge.assembly import Policy, Timers
from dicom_bridge.pace import (
    ASSOCIATION_MIN_S,
    OPEN_SETTLED_MIN_S,
    OPEN_SETTLED_S,
    SENDERS_MAX,
    SETTLED_MAX_S,
    STUDIES_KEPT,
    STUDIES_MIN,
    Habit,
    Pace,
    habit_of,
    timers,
)

THEN = datetime(2026, 11, 23, 8, 0, tzinfo=UTC)
POLICY = Policy(quiet_s=30.0, quiet_min_s=3.0, early_quiet_s=2.0, association_quiet_s=60.0)
NOTHING = Habit(0.0, 0.0)


def times(*gaps_s: float) -> list[datetime]:
    """Return the times of images that came so far apart."""
    at, found = THEN, [THEN]
    for gap in gaps_s:
        at += timedelta(seconds=gap)
        found.append(at)
    return found


def learnt(habits: Sequence[Habit], sender: str = "SCANNER") -> Habit | None:
    """What is known of a sender after these studies."""
    pace = Pace()
    for habit in habits:
        pace.learn([sender], habit)
    return pace.of([sender])


# ---- habits ----------------------------------------------------------------------------------------------------------


def test_a_habit_is_the_usual_and_the_longest_gap() -> None:
    """One pause among many images is the longest, not the usual gap; order does not matter."""
    came = times(*[0.02] * 30, 8.0, *[0.02] * 30)
    assert habit_of(reversed(came), 30.0) == Habit(0.02, 8.0)


def test_a_sender_of_one_image_at_a_time_is_slow_by_habit() -> None:
    """Where every image takes its second, a second is usual."""
    assert habit_of(times(*[1.0] * 20), 30.0) == Habit(1.0, 1.0)


def test_a_gap_beyond_the_quiet_timer_teaches_nothing() -> None:
    """Two halves with minutes between, or a study sent again a day later: waiting for that is not allowed anyway."""
    assert habit_of(times(0.1, 0.1, 240.0, 0.1), 30.0) == Habit(0.1, 0.1)
    assert habit_of(times(86400.0), 30.0) == NOTHING


def test_a_single_image_has_no_gap() -> None:
    """Nor has none."""
    assert habit_of(times(), 30.0) == NOTHING
    assert habit_of([], 30.0) == NOTHING


def test_a_sender_is_known_after_some_studies() -> None:
    """One lucky transfer is no habit."""
    habit = Habit(0.1, 1.0)
    assert learnt([habit] * (STUDIES_MIN - 1)) is None
    assert learnt([habit] * STUDIES_MIN) == habit


def test_the_slowest_of_the_latest_studies_counts() -> None:
    """One study with a pause is remembered, until enough later ones had none."""
    slow, quick = Habit(0.5, 9.0), Habit(0.1, 0.2)
    assert learnt([*[quick] * STUDIES_MIN, slow]) == slow
    assert learnt([slow, *[quick] * (STUDIES_KEPT - 1)]) == slow
    assert learnt([slow, *[quick] * STUDIES_KEPT]) == quick


def test_a_study_of_two_senders_waits_for_the_slower() -> None:
    """And is not believed while one of them is unknown."""
    pace = Pace()
    for _ in range(STUDIES_MIN):
        pace.learn(["QUICK"], Habit(0.1, 0.2))
        pace.learn(["SLOW"], Habit(0.4, 5.0))
    assert pace.of(["QUICK", "SLOW"]) == Habit(0.4, 5.0)
    assert pace.of(["QUICK", "STRANGER"]) is None
    assert pace.of([]) is None


def test_made_up_senders_do_not_fill_the_memory() -> None:
    """Only so many are remembered; one that keeps sending stays."""
    pace = Pace()
    for number in range(SENDERS_MAX + 50):
        pace.learn([f"AE{number}", "SCANNER"], NOTHING)
    assert len(pace._seen) == SENDERS_MAX
    assert pace.of(["SCANNER"]) is not None


# ---- timers ----------------------------------------------------------------------------------------------------------


def test_a_stranger_is_waited_for_as_the_site_says() -> None:
    """Before anything is learnt the policy's own waits hold."""
    assert timers(POLICY, None, NOTHING) == Timers(
        settled_s=0.0,
        open_settled_s=OPEN_SETTLED_S,
        early_s=2.0,
        paced_s=30.0,
        quiet_s=30.0,
        long_s=600.0,
        association_s=60.0,
        count_confirm_s=0.3,
    )


def test_a_quick_sender_is_waited_for_less() -> None:
    """It has never paused: the floors hold. The quiet timer itself, for what is known to be missing, stays."""
    made = timers(POLICY, Habit(0.02, 0.1), NOTHING)
    assert (made.paced_s, made.quiet_s, made.association_s) == (3.0, 30.0, ASSOCIATION_MIN_S)
    assert made.open_settled_s == OPEN_SETTLED_MIN_S
    assert made.settled_s == pytest.approx(0.06)


def test_a_sender_that_pauses_between_series_is_waited_for() -> None:
    """Three times its longest pause; half of that where every series that came is whole."""
    made = timers(POLICY, Habit(0.02, 6.0), NOTHING)
    assert (made.paced_s, made.early_s) == (18.0, 9.0)


def test_no_pace_waits_past_the_quiet_timer() -> None:
    """What the site configured is the most that it is ready to wait."""
    made = timers(POLICY, Habit(20.0, 29.0), NOTHING)
    assert (made.early_s, made.paced_s, made.quiet_s) == (30.0, 30.0, 30.0)


def test_a_slow_study_is_waited_for_though_its_sender_is_quick() -> None:
    """This study's own pace counts from its first images: not each image of a slow scan becomes a run."""
    quick = Habit(0.02, 0.1)
    made = timers(POLICY, quick, Habit(0.6, 4.0))
    assert (made.settled_s, made.paced_s) == (pytest.approx(1.8), 12.0)
    assert timers(POLICY, None, Habit(0.6, 4.0)).settled_s == pytest.approx(1.8)
    assert timers(POLICY, None, Habit(9.0, 9.0)).settled_s == SETTLED_MAX_S


def test_the_sites_own_word_is_not_learnt_away() -> None:
    """Peer.quiet_s says how long this sender pauses; neither habit shortens it nor the general timer bounds it."""
    made = timers(POLICY, Habit(0.02, 0.1), NOTHING, 180.0)
    assert (made.paced_s, made.quiet_s) == (180.0, 180.0)
    assert timers(POLICY, None, NOTHING, 1.0).early_s == 1.0


gaps = st.floats(0, 60)
habits = st.builds(lambda a, b: Habit(min(a, b), max(a, b)), gaps, gaps)


@given(st.none() | habits, habits, st.none() | st.floats(0.1, 1000), st.floats(0.1, 1000), st.floats(0.1, 1000))
def test_what_must_hold_of_any_timers(
    habit: Habit | None, own: Habit, fixed: float | None, quiet_s: float, association_s: float
) -> None:
    """Each patience is at least as long as the one before; learning never lengthens what the site configured."""
    policy = Policy(quiet_s=quiet_s, association_quiet_s=association_s)
    made, plain = timers(policy, habit, own, fixed), timers(policy, None, NOTHING, fixed)
    assert 0 <= made.settled_s <= made.open_settled_s <= made.quiet_s
    assert 0 < made.early_s <= made.paced_s <= made.quiet_s <= made.long_s
    assert made.quiet_s == plain.quiet_s == (quiet_s if fixed is None else fixed)
    assert made.association_s <= association_s
    assert made.open_settled_s <= plain.open_settled_s
