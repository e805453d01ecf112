"""Completeness: the table, over every combination of what may be known."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import product

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dicom_bridge.assembly import (
    Action,
    Answer,
    Decision,
    Known,
    Policy,
    Reason,
    SeriesCount,
    Trigger,
    decide,
    images,
)

POLICY = Policy(quiet_s=60, short_quiet_s=600, count_confirm_s=0.3, association_quiet_s=60)


def counts(**series: int) -> dict[str, SeriesCount]:
    """Return MR series with these numbers of instances."""
    return {uid: SeriesCount("MR", count) for uid, count in series.items()}


def known(
    held: Mapping[str, SeriesCount],
    last: Mapping[str, SeriesCount] | None = None,
    before: Mapping[str, SeriesCount] | None = None,
    *,
    apart_s: float = 0.3,
    associations: int = 0,
    quiet_s: float = 0.0,
) -> Known:
    """Return what is known, the two answers so far apart."""
    return Known(
        held=held,
        last=None if last is None else Answer(apart_s, last),
        before_last=None if before is None else Answer(0.0, before),
        open_associations=associations,
        quiet_s=quiet_s,
    )


ALL = counts(a=190, b=20)
HELD = {
    "nothing": {},
    "all": ALL,
    "part": counts(a=100, b=20),
    "one of two": counts(a=190),
    "more": counts(a=191, b=20),
}
ANSWERS = {
    "none": (None, None),
    "one": (ALL, None),
    "two": (ALL, ALL),
    "grew": (ALL, counts(a=150)),
    "close": (ALL, ALL),
}
QUIET = (0.0, 59.9, 60.0, 599.9, 600.0)


def expected(held: str, answers: str, associations: int, quiet_s: float) -> Decision:
    """The table in words, written apart from the code."""
    if held == "nothing":
        return Decision(Action.WAIT, Reason.NOTHING_HELD)
    if associations and quiet_s < 60:
        return Decision(Action.WAIT, Reason.ASSOCIATION_OPEN)
    if answers == "two" and held == "all":
        return Decision(Action.COMPLETE, Reason.COUNT_MATCHED, Trigger.COUNT_MATCHED)
    stalled = held == "part" and answers != "none"
    if quiet_s >= (600 if stalled else 60):
        return Decision(Action.COMPLETE, Reason.QUIET, Trigger.QUIET_TIMER)
    if answers == "none":
        return Decision(Action.WAIT, Reason.COUNT_UNKNOWN)
    reason = {
        "part": Reason.COUNT_SHORT,
        "one of two": Reason.COUNT_SHORT,
        "more": Reason.COUNT_AHEAD,
        "all": Reason.COUNT_UNCONFIRMED,
    }[held]
    return Decision(Action.WAIT, reason)


@pytest.mark.parametrize(("held", "answers"), list(product(HELD, ANSWERS)))
def test_the_table_over_all_combinations(held: str, answers: str) -> None:
    """Held x answers x associations x silence: 250 rows, each as the table says."""
    last, before = ANSWERS[answers]
    for associations, quiet_s in product((0, 2), QUIET):
        situation = known(
            HELD[held],
            last,
            before,
            apart_s=0.29 if answers == "close" else 0.3,
            associations=associations,
            quiet_s=quiet_s,
        )
        assert decide(situation, POLICY) == expected(held, answers, associations, quiet_s), (associations, quiet_s)


def test_two_equal_answers_complete_at_once() -> None:
    """With a PACS that counts, a study starts a confirmation after its last image, not a quiet minute later."""
    assert decide(known(ALL, ALL, ALL), POLICY).trigger is Trigger.COUNT_MATCHED


def test_results_are_no_images_on_either_side() -> None:
    """Reports and our own SEG in the PACS, or sent to us, neither hold a study back nor complete it."""
    extra = {"sr": SeriesCount("SR", 1), "seg": SeriesCount("SEG", 3), "pr": SeriesCount("PR", 2)}
    assert decide(known(ALL, ALL | extra, ALL | extra), POLICY).trigger is Trigger.COUNT_MATCHED
    assert decide(known(ALL | extra, ALL, ALL), POLICY).trigger is Trigger.COUNT_MATCHED
    assert decide(known(ALL, ALL | extra, ALL), POLICY).trigger is Trigger.COUNT_MATCHED


def test_a_study_of_results_alone_waits_for_silence() -> None:
    """No count can complete it, and it does not stay open for ever."""
    reports = {"sr": SeriesCount("SR", 1)}
    assert decide(known(reports, reports, reports), POLICY) == Decision(Action.WAIT, Reason.COUNT_UNKNOWN)
    assert decide(known(reports, reports, reports, quiet_s=60), POLICY).trigger is Trigger.QUIET_TIMER


def test_an_empty_answer_never_matches() -> None:
    """A PACS that has nothing yet is behind, not in agreement."""
    assert decide(known(ALL, {}, {}), POLICY) == Decision(Action.WAIT, Reason.COUNT_AHEAD)


def test_an_unanswered_series_of_no_images_does_not_hold_back() -> None:
    """A series with a count of zero is none."""
    assert images(counts(a=0, b=2)) == {"b": 2}
    assert decide(known(ALL, ALL | counts(c=0), ALL), POLICY).trigger is Trigger.COUNT_MATCHED


def test_a_silent_association_lets_go_when_the_policy_says() -> None:
    """Some PACS keep associations open; the site may say after how much silence that no longer counts."""
    situation = known(ALL, ALL, ALL, associations=1, quiet_s=1.0)
    assert decide(situation, POLICY).reason is Reason.ASSOCIATION_OPEN
    assert decide(situation, Policy(association_quiet_s=1.0)).trigger is Trigger.COUNT_MATCHED


@given(
    st.dictionaries(st.sampled_from("abc"), st.integers(1, 3), min_size=1),
    st.none() | st.dictionaries(st.sampled_from("abc"), st.integers(0, 3)),
    st.none() | st.dictionaries(st.sampled_from("abc"), st.integers(0, 3)),
    st.floats(0, 1),
    st.integers(0, 2),
    st.floats(0, 1000),
)
def test_what_must_hold_of_any_decision(
    held: dict[str, int],
    last: dict[str, int] | None,
    before: dict[str, int] | None,
    apart_s: float,
    associations: int,
    quiet_s: float,
) -> None:
    """A match needs equal counts, twice; nothing waits beyond the longest timer; a trigger means complete."""
    situation = known(
        counts(**held),
        None if last is None else counts(**last),
        None if before is None else counts(**before),
        apart_s=apart_s,
        associations=associations,
        quiet_s=quiet_s,
    )
    decision = decide(situation, POLICY)
    assert (decision.trigger is not None) is (decision.action is Action.COMPLETE)
    if decision.trigger is Trigger.COUNT_MATCHED:
        assert last is not None
        assert before is not None
        assert held == images(counts(**last)) == images(counts(**before))
        assert apart_s >= 0.3
    if quiet_s >= POLICY.short_quiet_s:
        assert decision.action is Action.COMPLETE
