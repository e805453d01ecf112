"""The gate: every way through it, and one step beside every way."""

import string
import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta, timezone
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ethics_review.dossier import Approval
from ethics_review.errors import Refused, RequestInvalid
from ethics_review.gate import EVALUATORS, Request
from ethics_review.permit import Permit
from ethics_review.vocabulary import Condition
from models.codes import AUTONOMY_LEVELS
from models.ref import ModelRef
from tests.simulators.reviewer import DURING, MODEL, Reviewer, decide_live, request

REVIEWER = Reviewer()


APPROVAL = REVIEWER.approve()


LAST_INSTANT = datetime(2027, 5, 31, 15, 59, 59, 999999, tzinfo=UTC)
"""One microsecond before the midnight in UTC+8 that ends 2027-05-31."""


FIRST_INSTANT = datetime(2026, 11, 30, 16, 0, tzinfo=UTC)


# Per condition: an approval's value, requests just inside it, requests just outside it, requests that do not say.
STEPS: dict[Condition, tuple[Any, list[Any], list[Any], list[Any]]] = {
    Condition.MODALITY: (["MR", "CT"], ["MR", "CT", " mr "], ["PT", "M", "MRI", "*"], [None, "", "  "]),
    Condition.BODY_PART: (["BRAIN", "HEAD"], ["BRAIN", "head"], ["CHEST", "BRAI", "BRAINS", "*"], [None, "", " "]),
    Condition.AGE_YEARS: (
        [18, 120],
        [18, 18.0, 18.01, 120, 120.99],
        [17, 17.999, 121, 0],
        [None, -0.1, 150.1 + 1, float("nan"), float("inf"), float("-inf")],
    ),
    Condition.SEX: (["F"], ["F", "f", " F "], ["M", "O"], [None, "", "X", "FEMALE", "*"]),
    Condition.MANUFACTURER: (
        ["UIH", "GE MEDICAL SYSTEMS"],
        ["UIH", "Ge  Medical Systems"],
        ["GE", "UIHX", "*"],
        [None, ""],
    ),
    Condition.SITE: (["site-1"], ["site-1"], ["site-2", "SITE-1", "site-1 ", "*"], [None, ""]),
    Condition.SLICE_SPACING_MM: (
        ["0.5", "2.0"],
        [0.5, 2.0, 0.4999999, 2.0000001, 1],
        [0.49, 2.01, 999.0],
        [None, 0.0, -1.0, 0.001, float("nan"), float("inf"), 1e9],
    ),
    Condition.MAX_AUTONOMY: ("A2", ["A0", "A1", "A2"], ["A3", "A4"], ["", "A5", "a1", "*", "A"]),
}


REQUEST_FIELD = {Condition.MAX_AUTONOMY: "autonomy"}


def ask(condition: Condition, value: Any) -> Permit:
    """Ask for `value` of an approval that allows STEPS' value of this one condition."""
    approval = REVIEWER.approve(conditions={condition.value: STEPS[condition][0]})
    return decide_live(request(**{REQUEST_FIELD.get(condition, condition.value): value}), [approval], DURING)


def refusal(action: Callable[[], object]) -> Refused:
    """The refusal that `action` must raise."""
    with pytest.raises(Refused) as caught:
        action()
    return caught.value


def answer(asked: Request, approval: Approval) -> tuple[str, str | None] | None:
    """None if `asked` is permitted, else the refusal's code and condition."""
    try:
        decide_live(asked, [approval], DURING)
    except Refused as wrong:
        return wrong.code, wrong.condition
    return None


def cases(column: int) -> list[tuple[Condition, Any]]:
    """All values of one column of STEPS."""
    return [(condition, value) for condition, row in STEPS.items() for value in row[column]]


def test_every_condition_of_the_vocabulary_has_its_check_and_its_steps_here() -> None:
    """A condition that is added to the vocabulary must be checked by the gate, and tried by this file."""
    assert set(EVALUATORS) == set(Condition) == set(STEPS)


@pytest.mark.parametrize(("condition", "value"), cases(1))
def test_one_step_inside_each_condition_is_permitted(condition: Condition, value: Any) -> None:
    """What a condition allows, up to its very edge, is permitted, and the check is written down."""
    permit = ask(condition, value)
    assert [check.outcome for check in permit.checks if check.condition == condition.name] == ["HOLDS"]


@pytest.mark.parametrize(("condition", "value"), cases(2))
def test_one_step_outside_each_condition_is_refused(condition: Condition, value: Any) -> None:
    """What is just beyond a condition is refused, with the condition's name and its code."""
    wrong = refusal(lambda: ask(condition, value))
    wanted = "AUTONOMY_EXCEEDED" if condition is Condition.MAX_AUTONOMY else "CONDITION_NOT_MET"
    assert (wrong.code, wrong.condition) == (wanted, condition.name)


@pytest.mark.parametrize(("condition", "value"), cases(3))
def test_an_unknown_attribute_is_refused(condition: Condition, value: Any) -> None:
    """What the images do not say, or say absurdly, is refused as unknown; never taken for a yes."""
    wrong = refusal(lambda: ask(condition, value))
    assert (wrong.code, wrong.condition) == ("ATTRIBUTE_UNKNOWN", condition.name)


@pytest.mark.parametrize("condition", [Condition.MANUFACTURER, Condition.SITE])
def test_the_literal_any_still_wants_a_value(condition: Condition) -> None:
    """The literal "*" allows any known value, and does not allow an unknown one."""
    approval = REVIEWER.approve(conditions={condition.value: ["*"]})
    decide_live(request(**{condition.value: "whatever"}), [approval], DURING)
    wrong = refusal(lambda: decide_live(request(**{condition.value: None}), [approval], DURING))
    assert wrong.code == "ATTRIBUTE_UNKNOWN"


ages = st.floats(min_value=0, max_value=150, allow_nan=False)


bounds = st.tuples(st.integers(0, 150), st.integers(0, 150)).map(lambda pair: (min(pair), max(pair)))


@settings(deadline=None)
@given(bounds=bounds, age=ages)
def test_age_is_compared_in_completed_years(bounds: tuple[int, int], age: float) -> None:
    """For any bounds and age: permitted exactly if the completed years lie within the bounds."""
    approval = REVIEWER.approve(conditions={"age_years": list(bounds)})
    inside = bounds[0] <= int(age) <= bounds[1]
    assert answer(request(age_years=age), approval) == (None if inside else ("CONDITION_NOT_MET", "AGE_YEARS"))


@settings(deadline=None)
@given(low=st.integers(1, 500), width=st.integers(0, 500), step=st.integers(-300, 300))
def test_spacing_is_compared_in_hundredths(low: int, width: int, step: int) -> None:
    """For any bounds, one hundredth of a millimetre outside is refused and the bound itself is permitted."""
    high = low + width
    approval = REVIEWER.approve(conditions={"slice_spacing_mm": [f"{low / 100:.2f}", f"{high / 100:.2f}"]})
    asked = low + step if step < 0 else high + step
    if asked <= 0:
        return
    said = answer(request(slice_spacing_mm=asked / 100), approval)
    assert said == (None if low <= asked <= high else ("CONDITION_NOT_MET", "SLICE_SPACING_MM"))


words = st.text(string.ascii_uppercase, min_size=1, max_size=16)


@settings(deadline=None)
@given(listed=st.lists(words, min_size=1, max_size=6, unique=True), asked=words)
@pytest.mark.parametrize("condition", [Condition.MODALITY, Condition.BODY_PART, Condition.MANUFACTURER, Condition.SITE])
def test_lists_permit_their_members_and_nobody_else(condition: Condition, listed: list[str], asked: str) -> None:
    """For any list and word: permitted exactly if the word is in the list."""
    approval = REVIEWER.approve(conditions={condition.value: listed})
    for word in [asked, *listed]:
        said = answer(request(**{condition.value: word}), approval)
        assert said == (None if word in listed else ("CONDITION_NOT_MET", condition.name))


@pytest.mark.parametrize("allowed", AUTONOMY_LEVELS)
@pytest.mark.parametrize("asked", AUTONOMY_LEVELS)
def test_autonomy_levels_are_ordered(allowed: str, asked: str) -> None:
    """A level includes those below it, and none above it."""
    approval = REVIEWER.approve(conditions={"max_autonomy": allowed})
    if asked <= allowed:
        assert decide_live(request(autonomy=asked), [approval], DURING).autonomy == asked
    else:
        wrong = refusal(lambda: decide_live(request(autonomy=asked), [approval], DURING))
        assert (wrong.code, wrong.condition, wrong.observed) == ("AUTONOMY_EXCEEDED", "MAX_AUTONOMY", asked)


def test_without_approvals_the_answer_is_no() -> None:
    """The default is refusal; an approval of another model does not count."""
    assert refusal(lambda: decide_live(request(), [], DURING)).code == "NO_APPROVAL"
    other = REVIEWER.approve(ModelRef("other-model", "1.0", MODEL.digest))
    wrong = refusal(lambda: decide_live(request(), [other], DURING))
    assert (wrong.code, wrong.condition, wrong.observed, wrong.approval) == ("NO_APPROVAL", None, None, None)


@pytest.mark.parametrize(
    "model",
    [ModelRef("small-model", "1.0", "sha256:" + "ab" * 31 + "aa"), ModelRef("small-model", "1.1", MODEL.digest)],
)
def test_other_bytes_or_another_version_are_not_the_approved_model(model: ModelRef) -> None:
    """An approval holds for one exact digest and version."""
    wrong = refusal(lambda: decide_live(request(model=model), [APPROVAL], DURING))
    assert (wrong.code, wrong.condition) == ("MODEL_DIGEST_MISMATCH", "MODEL_DIGEST")


def test_validity_ends_at_midnight_utc_plus_8() -> None:
    """The last day counts whole, in civil time of China; the first microsecond after it is refused."""
    assert decide_live(request(), [APPROVAL], LAST_INSTANT).expires_at == LAST_INSTANT + timedelta(microseconds=1)
    wrong = refusal(lambda: decide_live(request(), [APPROVAL], LAST_INSTANT + timedelta(microseconds=1)))
    assert (wrong.code, wrong.condition) == ("APPROVAL_EXPIRED", "VALIDITY")


def test_validity_begins_at_midnight_utc_plus_8() -> None:
    """The first day counts whole; the microsecond before it is refused."""
    assert decide_live(request(), [APPROVAL], FIRST_INSTANT).issued_at == FIRST_INSTANT
    wrong = refusal(lambda: decide_live(request(), [APPROVAL], FIRST_INSTANT - timedelta(microseconds=1)))
    assert (wrong.code, wrong.condition) == ("APPROVAL_NOT_YET_VALID", "VALIDITY")


@pytest.mark.parametrize("hours", [-12, 0, 8, 14])
def test_the_zone_of_the_clock_does_not_matter(hours: int) -> None:
    """The same instant in any zone gets the same answer."""
    zone = timezone(timedelta(hours=hours))
    decide_live(request(), [APPROVAL], LAST_INSTANT.astimezone(zone))
    after = (LAST_INSTANT + timedelta(microseconds=1)).astimezone(zone)
    assert refusal(lambda: decide_live(request(), [APPROVAL], after)).code == "APPROVAL_EXPIRED"


def test_a_clock_set_back_does_not_revive_an_approval() -> None:
    """What the log has seen expire stays expired, whatever the clock says afterwards."""
    expired = LAST_INSTANT + timedelta(microseconds=1)
    for back in (timedelta(microseconds=1), timedelta(hours=3), timedelta(days=90)):
        wrong = refusal(lambda back=back: decide_live(request(), [APPROVAL], expired - back, latest_known=expired))
        assert wrong.code == "APPROVAL_EXPIRED"


def test_a_future_log_does_not_begin_an_approval_early() -> None:
    """The latest known time may end an approval, and never begins one."""
    before = FIRST_INSTANT - timedelta(seconds=1)
    wrong = refusal(lambda: decide_live(request(), [APPROVAL], before, latest_known=DURING))
    assert wrong.code == "APPROVAL_NOT_YET_VALID"


def test_of_several_satisfied_approvals_the_first_by_id_decides() -> None:
    """Which approval is named does not depend on the order in which they come."""
    one, two = REVIEWER.approve(approval="TEST-1"), REVIEWER.approve(approval="TEST-2")
    assert decide_live(request(), [two, one], DURING).approval == "TEST-1"
    assert decide_live(request(), [one, two], DURING).approval == "TEST-1"


def test_one_satisfied_approval_is_enough() -> None:
    """Approvals that do not hold do not stand in the way of one that does."""
    expired = REVIEWER.approve(approval="TEST-0", valid={"from": "2020-01-01", "to": "2020-12-31"})
    narrow = REVIEWER.approve(approval="TEST-1", conditions={"sex": ["M"]})
    wide = REVIEWER.approve(approval="TEST-2")
    assert decide_live(request(), [expired, narrow, wide], DURING).approval == "TEST-2"


def test_the_nearest_approval_tells_the_reason() -> None:
    """Of several refusals the one with the fewest failing conditions is told; wrong times and bytes come last."""
    digest = REVIEWER.approve(ModelRef("small-model", "1.0", "sha256:" + "00" * 32), approval="TEST-0")
    expired = REVIEWER.approve(approval="TEST-1", valid={"from": "2020-01-01", "to": "2020-12-31"})
    two_off = REVIEWER.approve(approval="TEST-2", conditions={"modality": ["CT"], "sex": ["M"]})
    one_off = REVIEWER.approve(approval="TEST-3", conditions={"sex": ["M"]})
    found: list[Approval] = []
    for approval, code in (
        (digest, "MODEL_DIGEST_MISMATCH"),
        (expired, "APPROVAL_EXPIRED"),
        (two_off, "CONDITION_NOT_MET"),
        (one_off, "CONDITION_NOT_MET"),
    ):
        found.append(approval)
        wrong = refusal(lambda: decide_live(request(), found, DURING))
        assert (wrong.code, wrong.approval) == (code, approval.id)


def test_two_halves_of_a_yes_are_a_no() -> None:
    """Conditions of different approvals are never added up."""
    young = REVIEWER.approve(approval="TEST-1", conditions={"age_years": [0, 30]})
    elsewhere = REVIEWER.approve(approval="TEST-2", conditions={"site": ["other-site"]})
    assert refusal(lambda: decide_live(request(), [young, elsewhere], DURING)).code == "CONDITION_NOT_MET"


@pytest.mark.parametrize(
    "changes",
    [
        {"call": ""},
        {"call": "C0" * 16},
        {"call": "c0" * 15},
        {"input_digest": ""},
        {"input_digest": "sha256:" + "CD" * 32},
    ],
)
def test_a_malformed_request_is_a_programming_error(changes: dict[str, str]) -> None:
    """A request that names no call or no input cannot even be asked."""
    with pytest.raises(RequestInvalid) as caught:
        request(**changes)
    assert caught.value.code == "REQUEST_INVALID"


def test_a_time_without_a_zone_is_a_programming_error() -> None:
    """The gate does not guess in which zone a clock runs."""
    with pytest.raises(RequestInvalid):
        decide_live(request(), [APPROVAL], DURING.replace(tzinfo=None))


def test_a_decision_takes_microseconds() -> None:
    """The gate is no reason to go around it: the best of many decisions takes below 100 microseconds."""
    asked: Request = request()
    best = float("inf")
    for _ in range(200):
        begin = time.perf_counter()
        decide_live(asked, [APPROVAL], DURING)
        best = min(best, time.perf_counter() - begin)
    assert best < 100e-6
