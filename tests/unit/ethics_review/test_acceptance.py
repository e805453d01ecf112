"""The numbers of an acceptance: made again from the entries to the digit, and every forgery of them found."""

from dataclasses import replace
from fractions import Fraction
from typing import Any

import pytest

from audit.entry import Entry, Kind, parse
from ethics_review import metrics
from ethics_review.acceptance import (
    Acceptance,
    Claim,
    Difference,
    acceptance_of,
    claim_of,
    differences,
    digest_of_sources,
    rows_said,
)
from tests.simulators.audit_log import DIGEST, MODEL
from tests.simulators.told_log import APPROVAL, CLAIM, DATASET, OTHER_MODEL, Told, found_in, labelled_run

BOUND = {"metric": "DICE", "subgroup": None, "n": 30, "at_least": "0.50", "at_most": None}


@pytest.fixture(scope="module")
def run() -> Told:
    """A run over a labelled set, of so few cases that only the largest groups have values."""
    return labelled_run(cases=44)


@pytest.fixture(scope="module")
def found(run: Told) -> Acceptance:
    """What its entries give."""
    return found_in(run)


def with_acceptance(run: Told, found: Acceptance, **changes: Any) -> list[Entry]:
    """The run's entries and an ACCEPTANCE, which tells something else by `changes`."""
    told = Told(run.at, list(run.entries), run.calls)
    told.acceptance(found, **changes)
    return told.entries


def what(entries: list[Entry], **more: Any) -> list[str]:
    """The names of what differs."""
    return [one.what for one in differences(entries, {}, **more)]


def test_rows_from_entries_alone() -> None:
    """The rows are those of the same cases given to the metrics by hand, to the digit; with scores, calibration too."""
    run = labelled_run(cases=70, scored=True)
    found = found_in(run)
    calls = {entry.call: entry for entry in run.entries if entry.kind is Kind.CALL_INTENT}
    cases = []
    for entry in run.entries:
        if entry.kind is not Kind.CASE or entry.body["failed"] == "REFUSED":
            continue
        said, checks = entry.body, calls[entry.call].body["checks"]
        assert isinstance(checks, tuple)
        seen = {str(check["condition"]): str(check["observed"]) for check in checks}
        figures = {
            name: None if said[name] is None else Fraction(str(said[name]))
            for name in ("score", "dice", "volume_error")
        }
        cases.append(
            metrics.Case(
                truth=said["truth"] == "PRESENT",
                positive=None if said["positive"] is None else said["positive"] == "YES",
                classes=tuple((name, seen[name]) for name in ("SEX", "AGE_YEARS", "SITE", "SLICE_SPACING_MM")),
                failed=said["failed"] == "YES",
                **figures,
            )
        )
    assert found.rows == metrics.rows(cases, seed=DATASET)
    assert found.bins == metrics.reliability(cases)
    assert {row.metric for row in found.rows} >= {"SENSITIVITY", "AUC", "DICE", "VOLUME_ERROR", "ECE", "FAILURES"}


def test_an_entry_is_made_again_to_the_digit(run: Told, found: Acceptance) -> None:
    """What went through an ACCEPTANCE entry's bytes and back is what the entries give; so nothing differs."""
    entries = with_acceptance(run, found)
    again = parse(len(entries) - 1, entries[-1].to_bytes())
    assert rows_said(again.body) == found.rows
    assert claim_of(again.body) == CLAIM
    assert differences([*entries[:-1], again], {APPROVAL: [BOUND]}, code=DIGEST) == ()


def test_counts(run: Told, found: Acceptance) -> None:
    """Refused and failed cases are counted, by code; refused ones are in no row."""
    fates = [str(entry.body["failed"]) for entry in run.entries if entry.kind is Kind.CASE]
    assert (found.cases, found.refused, found.failed) == (44, fates.count("REFUSED"), fates.count("YES"))
    assert found.refused > 0
    assert found.failed > 0
    assert found.failures == (("ENGINE_DIED", found.failed),)
    assert found.refusals == (("CONDITION_NOT_MET", "AGE_YEARS", found.refused),)
    [failures] = [row for row in found.rows if (row.metric, row.subgroup) == ("FAILURES", None)]
    assert failures.n == found.judged == 44 - found.refused
    places = [entry.index for entry in run.entries if entry.kind is Kind.CASE]
    assert (found.first, found.last) == (places[0], places[-1])


def test_subgroups(found: Acceptance) -> None:
    """By sex, age band, site and slice thickness as the gate saw them; a modality makes no subgroup."""
    groups = {row.subgroup for row in found.rows}
    assert groups == {
        *(None, "SEX:F", "SEX:M", "AGE_YEARS:60-79", "SITE:test-site"),
        *("SLICE_SPACING_MM:to 1", "SLICE_SPACING_MM:to 5"),
    }


def test_what_the_model_leaves_open() -> None:
    """Told by a word of its own: in the rows as wrong, counted, and found where somebody makes an answer of it."""
    log = Told()
    for truth, positive, score in (
        ("PRESENT", "YES", "0.900000"),
        ("PRESENT", "UNDETERMINED", "0.500000"),
        ("ABSENT", "UNDETERMINED", "0.400000"),
        ("ABSENT", "NO", "0.100000"),
    ):
        call = log.call()
        log.result(call)
        log.case(call, truth=truth, positive=positive, score=score)
    claim = replace(CLAIM, n_min=2)
    found = acceptance_of(log.entries, claim)
    assert (found.undecided, found.unbacked, found.judged) == (2, 0, 4)
    value = {row.metric: (row.n, row.value) for row in found.rows if row.subgroup is None}
    assert (value["SENSITIVITY"], value["SPECIFICITY"]) == ((2, "0.500000"), (2, "0.500000"))
    assert value["AUC"] == (4, "1.000000")
    log.acceptance(found)
    few = {APPROVAL: [BOUND | {"n": 2}]}
    assert [one.what for one in differences(log.entries, few)] == ["unmet"]  # of a Dice that nobody has
    better = parse(4 * 3 - 4, log.entries[5].to_bytes().replace(b"UNDETERMINED", b"YES"))
    forged = [*log.entries[:5], better, *log.entries[6:]]
    assert "row SENSITIVITY ALL" in [one.what for one in differences(forged, few)]


def test_an_answer_that_nobody_knows_is_none() -> None:
    """A word that is neither yes, no nor open is no figure: the case has nothing behind it."""
    log = Told()
    call = log.call()
    log.result(call)
    log.case(call, truth="PRESENT", positive="PERHAPS")
    found = acceptance_of(log.entries, CLAIM)
    assert (found.unbacked, found.judged, found.undecided) == (1, 0, 0)


def rows_with(found: Acceptance, place: int, **changes: Any) -> list[dict[str, Any]]:
    """The rows as an entry has them, one of them changed."""
    rows = [row.body() for row in found.rows]
    rows[place] = {**rows[place], **changes}
    return rows


def test_forged_numbers(run: Told, found: Acceptance) -> None:
    """One figure that was made better is named, with what was said and what the entries give."""
    place = next(i for i, row in enumerate(found.rows) if (row.metric, row.subgroup) == ("DICE", None))
    [one] = differences(with_acceptance(run, found, rows=rows_with(found, place, low="0.999999")), {})
    assert one.what == "row DICE ALL"
    assert "0.999999" in one.said
    assert str(found.rows[place].low) in one.found
    assert one.index == len(run.entries)


@pytest.mark.parametrize(
    ("changes", "wanted"),
    [
        ({"cases": 81}, ["cases"]),
        ({"rows": []}, None),
        ({"code": "sha256:" + "0" * 64}, ["code"]),
        ({"unmet": 1}, ["unmet"]),
    ],
)
def test_forged_elsewhere(run: Told, found: Acceptance, changes: dict[str, Any], wanted: list[str] | None) -> None:
    """Cases, rows, code and unmet bounds that are not what they should be."""
    entries = with_acceptance(run, found, **changes)
    names = [one.what for one in differences(entries, {APPROVAL: [BOUND]}, code=DIGEST)]
    assert names == (
        wanted if wanted is not None else sorted(f"row {r.metric} {r.subgroup or 'ALL'}" for r in found.rows)
    )


def test_rows_left_out_added_or_turned(run: Told, found: Acceptance) -> None:
    """A subgroup that was left out, one that was made up, a row told twice, another order."""
    rows = [row.body() for row in found.rows]
    made_up = {**rows[-1], "subgroup": "SEX:O"}
    assert what(with_acceptance(run, found, rows=rows[:-1])) == ["row FAILURES SLICE_SPACING_MM:to 5"]
    assert what(with_acceptance(run, found, rows=[*rows, made_up])) == ["row FAILURES SEX:O"]
    assert what(with_acceptance(run, found, rows=[*rows, rows[-1]])) == ["rows"]
    assert what(with_acceptance(run, found, rows=rows[::-1])) == ["order of rows"]


def test_only_bounds_that_are_known(run: Told, found: Acceptance) -> None:
    """Without the approval's bounds its `unmet` is not judged; with them it is."""
    hard = {**BOUND, "at_least": "0.99"}
    entries = with_acceptance(run, found)
    assert differences(entries, {}) == ()
    assert differences(entries, {APPROVAL: [hard]}) == (Difference(len(run.entries), "unmet", "0", "1"),)


def test_a_case_without_a_call() -> None:
    """A CASE of no call, of another model's or approval's call, or of a call without result counts for nothing."""
    log = Told()
    log.case("a" * 32, truth="PRESENT", positive="YES")
    log.case(log.call(), truth="PRESENT", positive="YES")  # no result
    other = log.call(approval="TEST-0002")
    log.result(other)
    log.case(other, truth="PRESENT", positive="YES")
    log.case(log.call(), failed="YES")  # nobody logged a failure
    log.case("b" * 32, failed="REFUSED")  # nobody refused it
    found = found_in(log)
    assert (found.cases, found.unbacked, found.judged, found.rows) == (5, 5, 0, ())
    log.acceptance(found)
    assert what(log.entries) == ["unbacked cases"]


def test_told_twice_counts_once() -> None:
    """A good case told a second time makes nothing better."""
    log = Told()
    call = log.call()
    log.result(call)
    log.case(call, dice="1.000000")
    before = found_in(log)
    log.case(call, dice="1.000000")
    assert found_in(log).rows == before.rows
    assert found_in(log).unbacked == 1


def test_impossible_figures() -> None:
    """A Dice of 2 is nobody's: the case has nothing behind it."""
    log = Told()
    call = log.call()
    log.result(call)
    log.case(call, dice="2.000000")
    assert (found_in(log).unbacked, found_in(log).rows) == (1, ())


def test_each_claim_has_its_own(run: Told, found: Acceptance) -> None:
    """Another dataset, approval or model in the same log changes nothing of this one's numbers."""
    log = Told(run.at, list(run.entries), run.calls)
    for changes in ({"dataset": "sha256:" + "8" * 64}, {"approval": "TEST-0002"}):
        call = log.call(approval=str(changes.get("approval", APPROVAL)))
        log.result(call)
        log.case(call, dice="0.000000", **changes)
    call = log.call(model=OTHER_MODEL)
    log.result(call)
    log.case(call, dice="0.000000")
    assert found_in(log) == found
    theirs = acceptance_of(log.entries, Claim(str(OTHER_MODEL["digest"]), APPROVAL, DATASET))
    assert (theirs.cases, theirs.judged) == (1, 1)


def test_only_what_came_before() -> None:
    """A case that was logged after its ACCEPTANCE is no part of it."""
    log = labelled_run(cases=3)
    found = found_in(log)
    log.acceptance(found)
    call = log.call()
    log.result(call)
    log.case(call, dice="0.000000")
    assert differences(log.entries, {}) == ()
    assert found_in(log).cases == found.cases + 1


def test_the_newest_intent_counts() -> None:
    """A call that was cut off and permitted again has the classes of its second intent."""
    log = Told()
    call = log.call(SEX="F")
    log.calls -= 1
    assert log.call(SEX="M") == call
    log.result(call)
    log.case(call, dice="0.500000")
    assert "SEX:M" in {row.subgroup for row in found_in(log).rows}
    assert "SEX:F" not in {row.subgroup for row in found_in(log).rows}


def test_nothing() -> None:
    """An empty log accepts nothing."""
    found = acceptance_of([], CLAIM)
    assert (found.cases, found.rows, found.first, found.last) == (0, (), -1, -1)


def test_digest_of_sources() -> None:
    """Another byte, another name, another order: another digest."""
    one = digest_of_sources([("a", b"x"), ("b", b"y")])
    others = [[("a", b"x"), ("b", b"z")], [("a", b"x"), ("c", b"y")], [("b", b"y"), ("a", b"x")]]
    assert one.startswith("sha256:")
    assert one not in {digest_of_sources(other) for other in others}


def test_model_of_the_claim() -> None:
    """The claim of an entry names the model by its digest."""
    assert CLAIM.model == MODEL["digest"]
