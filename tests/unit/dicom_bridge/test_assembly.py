"""Completeness: the table, over every combination of what may be known, and what must hold of it as a whole."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from itertools import product

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dicom_bridge.assembly import (
    FRESH_S,
    TABLE,
    Action,
    Answer,
    Counts,
    Decision,
    Evidence,
    Known,
    Patience,
    Sender,
    SeriesCount,
    Timers,
    Trigger,
    compare,
    decide,
    images,
)

# Each a different number, so that no two of them can be mixed up.
TIMERS = Timers(
    settled_s=0.5,
    open_settled_s=1.0,
    early_s=3.0,
    paced_s=15.0,
    quiet_s=30.0,
    long_s=600.0,
    association_s=20.0,
    count_confirm_s=0.3,
)


def counts(**series: int) -> dict[str, SeriesCount]:
    """Return MR series with these numbers of instances."""
    return {uid: SeriesCount("MR", count) for uid, count in series.items()}


ALL = counts(a=190, b=20)
SITUATIONS: dict[Counts, tuple[Mapping[str, SeriesCount], Mapping[str, SeriesCount] | None, float, float]] = {
    # What is held, what the PACS says (twice), how far apart it said so, and how long ago.
    Counts.EQUAL: (ALL, ALL, 0.3, 0.0),
    Counts.OTHERS: (counts(a=190), ALL, 0.3, 0.0),
    Counts.UNCONFIRMED: (ALL, ALL, 0.29, 0.0),
    Counts.AHEAD: (counts(a=191, b=20), ALL, 0.3, 0.0),
    Counts.UNKNOWN: (ALL, None, 0.0, 0.0),
    Counts.PART: (counts(a=100, b=20), ALL, 0.3, 0.0),
}


def known(
    said: Counts, sender: Sender = Sender.ENDED, evidence: Evidence = Evidence.UNSURE, quiet_s: float = 0.0
) -> Known:
    """Return a situation in which the PACS's counts say `said`."""
    held, theirs, apart_s, ago_s = SITUATIONS[said]
    return Known(
        held=held,
        last=None if theirs is None else Answer(apart_s, theirs),
        before_last=None if theirs is None else Answer(0.0, theirs),
        sender=sender,
        evidence=evidence,
        now_s=apart_s + ago_s,
        quiet_s=quiet_s,
    )


def answered(
    held: Mapping[str, SeriesCount],
    last: Mapping[str, SeriesCount] | None,
    before: Mapping[str, SeriesCount] | None,
    *,
    ago_s: float = 0.0,
) -> Counts:
    """Return what two answers, 0.3 s apart, say of what is held."""
    return compare(
        Known(
            held=held,
            last=None if last is None else Answer(0.3, last),
            before_last=None if before is None else Answer(0.0, before),
            sender=Sender.ENDED,
            evidence=Evidence.UNSURE,
            now_s=0.3 + ago_s,
            quiet_s=0.0,
        ),
        0.3,
    )


def waits_s(said: Counts, sender: Sender, evidence: Evidence) -> tuple[float, Trigger]:
    """The table in words, written apart from the code: how long a silence is wanted, and what it is called."""
    if said is Counts.EQUAL:
        # The PACS has what we have: nothing else matters, but an open association gets a moment to bring more.
        return (1.0 if sender is Sender.OPEN else 0.5), Trigger.COUNT_MATCHED
    if said is Counts.PART:
        return 600.0, Trigger.QUIET_TIMER
    trigger = Trigger.SERIES_MATCHED if said is Counts.OTHERS else Trigger.QUIET_TIMER
    # Of the series that we hold, nothing is missing: the images say so, or the PACS does.
    whole = said is Counts.OTHERS or evidence is Evidence.WHOLE
    missing = evidence is Evidence.BROKEN and not whole
    if whole and sender is Sender.ENDED:
        return 3.0, trigger if said is Counts.OTHERS else Trigger.EXPECTED_MET
    if sender is Sender.OPEN:
        return (30.0 if missing else 20.0), trigger
    return (30.0 if missing else 15.0), trigger


@pytest.mark.parametrize(("said", "sender", "evidence"), list(product(Counts, Sender, Evidence)))
def test_the_table_over_all_combinations(said: Counts, sender: Sender, evidence: Evidence) -> None:
    """54 situations, each at ten silences: it waits until just before its time, and completes at it and ever after."""
    wanted_s, trigger = waits_s(said, sender, evidence)
    for quiet_s in (0.0, 0.49, 0.5, 1.0, 3.0, 15.0, 20.0, 30.0, 599.9, 600.0):
        decision = decide(known(said, sender, evidence, quiet_s), TIMERS)
        done = quiet_s >= wanted_s
        assert decision.action is (Action.COMPLETE if done else Action.WAIT), quiet_s
        assert decision.trigger is (trigger if done else None), quiet_s
        assert decision.patience is not None
        assert TIMERS.seconds(decision.patience) == wanted_s


def test_the_table_has_one_row_for_each_situation() -> None:
    """Nothing that may be known is without a row, and no row stands for what cannot be."""
    assert set(TABLE) == set(Counts)
    assert all(set(rows) == set(Sender) for rows in TABLE.values())
    assert all(len(row) == len(Evidence) for rows in TABLE.values() for row in rows.values())


@pytest.mark.parametrize("said", list(Counts))
def test_the_situations_of_these_tests_are_what_they_say(said: Counts) -> None:
    """Each of the six things that counts may say is told from the others."""
    assert compare(known(said), TIMERS.count_confirm_s) is said


def test_nothing_held_waits() -> None:
    """A study of which nothing is held any more is never complete, however long it is silent."""
    nothing = Known({}, None, None, Sender.ENDED, Evidence.UNSURE, 0.0, 1e9)
    assert decide(nothing, TIMERS) == Decision(Action.WAIT)


# ---- what the counts say ---------------------------------------------------------------------------------------------


def test_results_are_no_images_on_either_side() -> None:
    """Reports and our own SEG in the PACS, or sent to us, neither hold a study back nor complete it."""
    extra = {"sr": SeriesCount("SR", 1), "seg": SeriesCount("SEG", 3), "pr": SeriesCount("PR", 2)}
    assert answered(ALL, ALL | extra, ALL | extra) is Counts.EQUAL
    assert answered(ALL | extra, ALL, ALL) is Counts.EQUAL
    assert answered(ALL, ALL | extra, ALL) is Counts.EQUAL


def test_a_study_of_results_alone_waits_for_silence() -> None:
    """No count can complete it, and it does not stay open for ever."""
    reports = {"sr": SeriesCount("SR", 1)}
    assert answered(reports, reports, reports) is Counts.UNKNOWN


def test_an_empty_answer_never_matches() -> None:
    """A PACS that has nothing yet is behind, not in agreement."""
    assert answered(ALL, {}, {}) is Counts.AHEAD


def test_a_series_of_no_images_does_not_hold_back() -> None:
    """A series with a count of zero is none."""
    assert images(counts(a=0, b=2)) == {"b": 2}
    assert answered(ALL, ALL | counts(c=0), ALL) is Counts.EQUAL


def test_a_short_series_outweighs_one_that_is_ahead() -> None:
    """Of two contradicting series the one that lacks images decides: more is known to come."""
    assert answered(counts(a=191, b=19), ALL, ALL) is Counts.PART


def test_a_study_that_is_routed_in_part_is_told_from_one_that_lacks_images() -> None:
    """Series that we hold nothing of may not be meant for us; each that we hold is as the PACS has it."""
    assert answered(counts(b=20), ALL, ALL) is Counts.OTHERS


@pytest.mark.parametrize(("ago_s", "says"), [(FRESH_S, Counts.EQUAL), (FRESH_S + 0.01, Counts.UNCONFIRMED)])
def test_an_old_answer_confirms_nothing(ago_s: float, says: Counts) -> None:
    """What the PACS said a while ago it may not say now."""
    assert answered(ALL, ALL, ALL, ago_s=ago_s) is says


def test_a_count_that_grew_confirms_nothing() -> None:
    """The PACS is still being filled: the second number is new."""
    assert answered(ALL, ALL, counts(a=150, b=20)) is Counts.UNCONFIRMED


# ---- what must hold of any decision ----------------------------------------------------------------------------------

situations = st.tuples(st.sampled_from(Counts), st.sampled_from(Sender), st.sampled_from(Evidence))
seconds = st.floats(0, 1000)


@st.composite
def any_timers(draw: st.DrawFn) -> Timers:
    """Timers as `pace.timers` makes them: each patience at least as long as the one before."""
    rising = sorted(draw(st.lists(seconds, min_size=4, max_size=4)))
    settled = sorted(draw(st.lists(st.floats(0, 2), min_size=2, max_size=2)))
    return Timers(*settled, *rising, association_s=draw(seconds), count_confirm_s=0.3)


@given(situations, any_timers(), seconds, seconds)
def test_silence_only_ever_completes(
    situation: tuple[Counts, Sender, Evidence], timers: Timers, one_s: float, two_s: float
) -> None:
    """What is complete after a silence is complete after a longer one."""
    early, late = (decide(known(*situation, quiet_s), timers) for quiet_s in sorted((one_s, two_s)))
    assert early.action is Action.WAIT or late.action is Action.COMPLETE


@given(situations, any_timers())
def test_a_study_that_is_held_back_completes_at_last(
    situation: tuple[Counts, Sender, Evidence], timers: Timers
) -> None:
    """Whatever is known, there is a silence after which nobody waits any more."""
    last_s = max(timers.long_s, timers.association_s)
    assert decide(known(*situation, last_s), timers).action is Action.COMPLETE


@given(situations, any_timers())
def test_knowledge_never_waits_longer_than_the_quiet_timer(
    situation: tuple[Counts, Sender, Evidence], timers: Timers
) -> None:
    """Nothing that is known makes a study wait past the quiet timer once its sender has hung up or fallen silent; the
    one exception is the PACS's own word that a series which we hold in part has more.
    """
    said, sender, _ = situation
    most_s = timers.long_s if said is Counts.PART else timers.quiet_s
    if sender is Sender.OPEN:
        most_s = max(most_s, timers.association_s, timers.open_settled_s)
    decision = decide(known(*situation, max(most_s, timers.settled_s)), timers)
    assert decision.action is Action.COMPLETE


@given(situations, any_timers(), seconds)
def test_an_open_association_is_only_overruled_by_counts(
    situation: tuple[Counts, Sender, Evidence], timers: Timers, quiet_s: float
) -> None:
    """While an association that brought the study is open and not silent, only equal counts complete it."""
    said, _, evidence = situation
    decision = decide(known(said, Sender.OPEN, evidence, quiet_s), timers)
    if decision.action is Action.COMPLETE and quiet_s < timers.association_s:
        assert said is Counts.EQUAL
        assert quiet_s >= timers.open_settled_s


@pytest.mark.parametrize(("said", "evidence"), list(product(sorted(set(Counts) - {Counts.EQUAL}), Evidence)))
def test_an_association_is_waited_for_however_long_the_site_says(said: Counts, evidence: Evidence) -> None:
    """Where an open association counts for longer than any timer, none of them overrules it."""
    patient = replace(TIMERS, association_s=1000.0)
    assert decide(known(said, Sender.OPEN, evidence, 999.9), patient).action is Action.WAIT
    assert decide(known(said, Sender.OPEN, evidence, 1000.0), patient).action is Action.COMPLETE


@given(situations, any_timers(), seconds)
def test_a_sender_that_may_send_more_never_hurries(
    situation: tuple[Counts, Sender, Evidence], timers: Timers, quiet_s: float
) -> None:
    """An association that is open, or one that our restart cut off, completes nothing that an ended one would not."""
    said, sender, evidence = situation
    if decide(known(said, sender, evidence, quiet_s), timers).action is Action.COMPLETE:
        assert decide(known(said, Sender.ENDED, evidence, quiet_s), timers).action is Action.COMPLETE


@given(situations, any_timers(), seconds)
def test_better_evidence_never_waits_longer(
    situation: tuple[Counts, Sender, Evidence], timers: Timers, quiet_s: float
) -> None:
    """WHOLE is complete wherever UNSURE is, and UNSURE wherever BROKEN is."""
    said, sender, _ = situation
    order = [decide(known(said, sender, evidence, quiet_s), timers).action for evidence in Evidence]
    assert order == sorted(order, key=(Action.COMPLETE, Action.WAIT).index)


@given(
    st.dictionaries(st.sampled_from("abc"), st.integers(1, 3), min_size=1),
    st.none() | st.dictionaries(st.sampled_from("abc"), st.integers(0, 3)),
    st.none() | st.dictionaries(st.sampled_from("abc"), st.integers(0, 3)),
)
def test_equal_counts_are_equal(
    held: dict[str, int], last: dict[str, int] | None, before: dict[str, int] | None
) -> None:
    """EQUAL is said only where both answers give, series by series, what is held."""
    said = answered(
        counts(**held), None if last is None else counts(**last), None if before is None else counts(**before)
    )
    agree = [answer is not None and held == images(counts(**answer)) for answer in (last, before)]
    assert (said is Counts.EQUAL) is all(agree)


def test_every_patience_has_its_seconds() -> None:
    """No row of the table asks for a silence that has no length."""
    used = {patience for rows in TABLE.values() for row in rows.values() for patience in row}
    assert used == set(Patience)
    assert all(TIMERS.seconds(patience) > 0 for patience in Patience)
