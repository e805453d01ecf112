"""Opt-outs: the newest choice counts, nothing is written twice, and two writers cannot both win."""

from datetime import UTC, datetime
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from audit.entry import Draft, Entry, Kind
from audit.errors import KeyConflict
from ethics_review.opt_out import Choice, OptOuts
from tests.simulators.audit_log import body, open_log

ANNA, BORIS = "a" * 32, "b" * 32


def entries(*choices: tuple[str, str]) -> list[Entry]:
    """The entries that a log would hold, each choice under its own key."""
    with_others = []
    for number, (name, choice) in enumerate(choices):
        draft = Draft(Kind.OPT_OUT, f"o:{number}", {"patient": name, "choice": choice})
        with_others.append(entry(number, draft))
    return with_others


def entry(index: int, draft: Draft) -> Entry:
    """An entry without a log."""
    return Entry.of(
        draft, index=index, source="s", seq=index, now=datetime(2026, 1, 1, tzinfo=UTC), boot="b0" * 16, tick_us=0
    )


def test_nobody_has_opted_out_of_an_empty_log() -> None:
    """Without a choice a patient has not opted out."""
    assert not OptOuts().out(ANNA)


def test_other_entries_say_nothing() -> None:
    """Only OPT_OUT entries are looked at."""
    said = OptOuts([entry(0, Draft(Kind.HEARTBEAT, "h", body(Kind.HEARTBEAT)))])
    assert not said.out(ANNA)


@given(st.lists(st.tuples(st.sampled_from([ANNA, BORIS]), st.sampled_from(list(Choice))), max_size=12))
def test_the_newest_choice_counts(choices: list[tuple[str, Choice]]) -> None:
    """For any history: the last choice of a name decides, and names do not touch each other."""
    said = OptOuts(entries(*((name, choice.value) for name, choice in choices)))
    for name in (ANNA, BORIS):
        last = [choice for who, choice in choices if who == name][-1:]
        assert said.out(name) is (last == [Choice.OPTED_OUT])


def test_a_choice_that_this_version_does_not_know_is_no_consent() -> None:
    """Whatever a later version writes, it is not read as a withdrawal."""
    assert OptOuts(entries((ANNA, "ONLY_RESEARCH"))).out(ANNA)


def test_a_choice_that_changes_nothing_makes_no_entry() -> None:
    """Opting out twice, or withdrawing what was never said, is no news."""
    assert OptOuts().draft(ANNA, Choice.WITHDRAWN) is None
    assert OptOuts(entries((ANNA, "OPTED_OUT"))).draft(ANNA, Choice.OPTED_OUT) is None
    assert OptOuts(entries((ANNA, "OPTED_OUT"))).draft(BORIS, Choice.OPTED_OUT) is not None


def test_back_and_forth_goes_into_a_real_log(tmp_path: Path) -> None:
    """Out, in, out again: three entries, each under a key of its own; of two writers at once one wins."""
    with open_log(tmp_path) as log:
        for choice in (Choice.OPTED_OUT, Choice.WITHDRAWN, Choice.OPTED_OUT):
            draft = OptOuts(log.entries()).draft(ANNA, choice)
            assert draft is not None
            log.append(draft)
        said = OptOuts(log.entries())
        assert said.out(ANNA)
        late = OptOuts(entries((ANNA, "OPTED_OUT"), (ANNA, "WITHDRAWN"))).draft(ANNA, Choice.OPTED_OUT)
        assert late is not None
        log.append(late)  # the same choice under the same key: one entry
        assert sum(one.kind is Kind.OPT_OUT for one in log.entries()) == 3
        other = Draft(Kind.OPT_OUT, late.key, {"patient": ANNA, "choice": "WITHDRAWN"})
        with pytest.raises(KeyConflict):
            log.append(other)
