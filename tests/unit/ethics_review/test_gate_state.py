"""The gate before it looks at approvals: stops, the dossier's state, opt-out; and what was cut off."""

import dataclasses
import itertools
from collections.abc import Callable
from datetime import timedelta
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ethics_review import gate
from ethics_review.errors import Refused, RequestInvalid
from ethics_review.gaps import group_of, parts_of
from ethics_review.gate import Request, decide
from ethics_review.permit import Permit
from ethics_review.standing import Standing, Stop
from ethics_review.states import State
from ethics_review.vocabulary import Condition
from models.ref import ModelRef
from tests.simulators.reviewer import DURING, MODEL, Reviewer, decide_live, in_use, request

REVIEWER = Reviewer()
APPROVAL = REVIEWER.approve()
OTHER = ModelRef("small-model", "1.1", "sha256:" + "00" * 32)
CODES = {State.SUSPENDED: "SUSPENDED", State.RETIRED: "RETIRED"}
STOPS = {
    "none": (),
    "this site": (Stop("SITE", "test-site", 7),),
    "another site": (Stop("SITE", "other-site", 7),),
    "the service": (Stop("SERVICE", None, 7),),
    "both": (Stop("SITE", "other-site", 7), Stop("SERVICE", None, 8)),
    "an unknown level": (Stop("WARD", "other-site", 7),),
    "a site unsaid": (Stop("SITE", None, 7),),
}
STOPPING = {"this site", "the service", "both", "an unknown level", "a site unsaid"}


def refusal(action: Callable[[], object]) -> Refused:
    """The refusal that `action` must raise."""
    with pytest.raises(Refused) as caught:
        action()
    assert caught.value.code in gate.REFUSALS
    return caught.value


def said(asked: Request, standings: tuple[Standing, ...], stops: tuple[Stop, ...]) -> tuple[str, ...]:
    """The state of the permit, or the refusal's code and condition."""
    try:
        return (decide(asked, standings, stops, DURING).state,)
    except Refused as wrong:
        return wrong.code, str(wrong.condition)


@pytest.mark.parametrize("state", State)
@pytest.mark.parametrize("stop", STOPS)
@pytest.mark.parametrize("opted_out", [False, True])
def test_every_state_with_every_stop(state: State, stop: str, opted_out: bool) -> None:
    """First the stop is told, then the state, then the opt-out; only SHADOW and LIVE come to the approvals."""
    wanted: tuple[str, ...] = (state.value,)
    if stop in STOPPING:
        wanted = ("STOPPED", "STOP")
    elif state not in (State.SHADOW, State.LIVE):
        wanted = (CODES.get(state, "NOT_DEPLOYED"), "STATE")
    elif opted_out:
        wanted = ("OPTED_OUT", "OPT_OUT")
    assert said(request(opted_out=opted_out), in_use(APPROVAL, state=state), STOPS[stop]) == wanted


@pytest.mark.parametrize("state", [State.SHADOW, State.LIVE])
def test_a_permit_says_in_which_state_it_was_given(state: State) -> None:
    """What readers may see is LIVE alone; the state and that nothing is stopped are among the checks."""
    permit = decide(request(), in_use(APPROVAL, state=state), (), DURING)
    assert (permit.state, permit.released) == (state.value, state is State.LIVE)
    observed = {check.condition: check.observed for check in permit.checks}
    assert (observed["STATE"], observed["STOP"]) == (state.value, "NONE")


def test_a_refusal_tells_the_state_and_the_level() -> None:
    """What was observed is a word of ours."""
    asked = request()
    assert refusal(lambda: decide(asked, in_use(APPROVAL, state=State.REVISE), (), DURING)).observed == "REVISE"
    assert refusal(lambda: decide(asked, (), STOPS["this site"], DURING)).observed == "SITE"
    assert refusal(lambda: decide(asked, (), STOPS["the service"], DURING)).observed == "SERVICE"


@pytest.mark.parametrize("site", [None, ""])
def test_a_site_that_is_not_known_is_stopped_by_any(site: str | None) -> None:
    """Who does not say where they are cannot say that the stop is elsewhere."""
    assert said(request(site=site), in_use(APPROVAL), STOPS["another site"]) == ("STOPPED", "STOP")


def test_the_exact_models_dossier_counts() -> None:
    """Another version's state neither helps nor harms; without a dossier of these bytes the answer is no."""
    live, old = in_use(APPROVAL), Standing(OTHER, State.RETIRED)
    assert said(request(), (*live, old), ()) == ("LIVE",)
    suspended = in_use(APPROVAL, state=State.SUSPENDED)
    approved_old = in_use(REVIEWER.approve(OTHER, approval="TEST-OLD"))
    assert said(request(), (*suspended, *approved_old), ()) == ("SUSPENDED", "STATE")
    assert said(request(), approved_old, ()) == ("MODEL_DIGEST_MISMATCH", "MODEL_DIGEST")
    assert said(request(), (old,), ()) == ("NO_APPROVAL", "None")
    assert said(request(), (), ()) == ("NO_APPROVAL", "None")


def test_a_model_in_use_without_an_approval_that_counts_is_refused() -> None:
    """A reviewer whose key is no longer trusted leaves a dossier that permits nothing."""
    assert said(request(), (Standing(MODEL, State.LIVE),), ()) == ("NO_APPROVAL", "None")


def test_an_approval_under_another_models_dossier_permits_nothing() -> None:
    """The gate compares the approval's own digest, whoever put it where it is."""
    misplaced = Standing(MODEL, State.LIVE, (REVIEWER.approve(OTHER),))
    assert said(request(), (misplaced,), ()) == ("MODEL_DIGEST_MISMATCH", "MODEL_DIGEST")


def test_two_standings_of_one_model_are_a_programming_error() -> None:
    """Which of two states counts is not for the gate to guess."""
    with pytest.raises(RequestInvalid):
        decide(request(), (*in_use(APPROVAL), *in_use(APPROVAL, state=State.SUSPENDED)), (), DURING)


# ---- opt-out and what else a site must fulfil ------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("require", "evidence", "opted_out", "code"),
    [
        (["opt_out_check"], {"opt_out_check"}, False, None),
        (["opt_out_check"], {"opt_out_check"}, None, "REQUIREMENT_NOT_MET"),
        (["opt_out_check"], {"opt_out_check"}, True, "OPTED_OUT"),
        (["opt_out_check"], set(), False, "REQUIREMENT_NOT_MET"),
        ([], set(), None, None),
        ([], set(), True, "OPTED_OUT"),
    ],
)
def test_opt_out_is_asked_before_the_model_runs(
    require: list[str], evidence: set[str], opted_out: bool | None, code: str | None
) -> None:
    """Who opted out is left alone, required or not; where it is required, not knowing is a no."""
    approval = REVIEWER.approve(conditions={"require": require})
    asked = request(opted_out=opted_out, evidence=frozenset(evidence))
    if code is None:
        assert decide_live(asked, [approval], DURING)
    else:
        assert refusal(lambda: decide_live(asked, [approval], DURING)).code == code


def test_what_is_not_fulfilled_is_named_without_numbers() -> None:
    """The first requirement that is not met is told, as far as the log takes it."""
    approval = REVIEWER.approve(conditions={"require": ["pia:P-1", "registration:国械注准20253210001"]})
    wrong = refusal(lambda: decide_live(request(evidence=frozenset({"pia:P-1"})), [approval], DURING))
    assert (wrong.code, wrong.condition) == ("REQUIREMENT_NOT_MET", "REQUIRE")
    assert wrong.observed == "registration:_____"


@pytest.mark.parametrize(("age", "needs"), [(0.0, True), (13.99, True), (14.0, False), (70.0, False)])
@pytest.mark.parametrize("held", [True, False])
def test_minors_want_their_rule_and_nobody_else_does(age: float, needs: bool, held: bool) -> None:
    """Below the policy's age the site must keep the rule that the approval names; others run without it."""
    approval = REVIEWER.approve(conditions={"age_years": [0, 120], "require": ["minors:R-1"]})
    asked = request(age_years=age, evidence=frozenset({"minors:R-1"} if held else {"minors:R-2"}))
    if held or not needs:
        assert decide_live(asked, [approval], DURING)
    else:
        wrong = refusal(lambda: decide_live(asked, [approval], DURING))
        assert (wrong.code, wrong.condition, wrong.observed) == ("MINOR_NOT_COVERED", "REQUIRE", "minors:R-1")


def test_the_days_calls_are_told_as_a_count_of_the_limit() -> None:
    """What is below the limit is told as such, so that the same call asked again gives the same entry."""
    approval = REVIEWER.approve(conditions={"max_calls_day": 2000})
    told = {decide_live(request(calls_today=n), [approval], DURING).checks[-2].observed for n in (0, 17, 1999)}
    assert told == {"BELOW 2000"}
    for calls, observed in ((2000, "2000 of 2000"), (10**7, "99999 of 2000")):
        wrong = refusal(lambda calls=calls: decide_live(request(calls_today=calls), [approval], DURING))
        assert (wrong.code, wrong.observed) == ("CALLS_EXHAUSTED", observed)


# ---- subgroups that were cut off ------------------------------------------------------------------------------------

CUTS: list[tuple[Condition, dict[str, Any], dict[str, Any], tuple[str, str]]] = [
    (Condition.AGE_YEARS, {"age_years": 60.0}, {"age_years": 59.9}, ("AGE_YEARS", "60-79")),
    (Condition.AGE_YEARS, {"age_years": 79.9}, {"age_years": 80.0}, ("AGE_YEARS", "60-79")),
    (Condition.AGE_YEARS, {"age_years": 95.0}, {"age_years": 79.0}, ("AGE_YEARS", "80+")),
    (Condition.AGE_YEARS, {"age_years": 72.0}, {"age_years": 75.0}, ("AGE_YEARS", "70-74")),
    (Condition.SEX, {"sex": "F"}, {"sex": "M"}, ("SEX", "F")),
    (
        Condition.MANUFACTURER,
        {"manufacturer": "uih"},
        {"manufacturer": "Siemens Healthineers"},
        ("MANUFACTURER", "UIH"),
    ),
    (Condition.SLICE_SPACING_MM, {"slice_spacing_mm": 1.0}, {"slice_spacing_mm": 1.01}, ("SLICE_SPACING_MM", "to 1")),
    (Condition.SITE, {"site": "test-site"}, {"sex": "M"}, ("SITE", "test-site")),
    (Condition.MODALITY, {"modality": "MR"}, {}, ("MODALITY", "MR")),
    (Condition.BODY_PART, {"body_part": "HEAD"}, {"body_part": "BRAIN"}, ("BODY_PART", "HEAD")),
    (Condition.CARE_SETTING, {"care_setting": "IP"}, {"care_setting": "OP"}, ("CARE_SETTING", "IP")),
]


@pytest.mark.parametrize(("condition", "inside", "outside", "cut"), CUTS)
def test_a_class_that_was_cut_off_is_refused(
    condition: Condition, inside: dict[str, Any], outside: dict[str, Any], cut: tuple[str, str]
) -> None:
    """A call of a group that the monitor took out of use is refused, its neighbour runs; no approval gives it back."""
    wide = REVIEWER.approve(approval="TEST-WIDE", conditions={"manufacturer": ["*"], "site": ["*"]})
    standings = in_use(APPROVAL, wide, cut_off=frozenset({cut, ("SEX", "O")}))
    wrong = refusal(lambda: decide(request(**inside), standings, (), DURING))
    assert (wrong.code, wrong.condition) == ("SUBGROUP_CUT_OFF", condition.name)
    if condition not in (Condition.SITE, Condition.MODALITY):  # of which the request has no neighbour that is allowed
        assert decide(request(**outside), standings, (), DURING)


@settings(deadline=None)
@given(age=st.floats(18, 120, allow_nan=False))
def test_the_gate_cuts_off_exactly_the_monitors_groups(age: float) -> None:
    """For any age: the group in which the monitor counts the call is the one in which the gate refuses it."""
    seen = next(
        check.observed
        for check in decide(request(age_years=age), in_use(APPROVAL), (), DURING).checks
        if check.condition == "AGE_YEARS"
    )
    cut = parts_of(group_of("AGE_YEARS", seen))
    wrong = refusal(lambda: decide(request(age_years=age), in_use(APPROVAL, cut_off=frozenset({cut})), (), DURING))
    assert (wrong.code, wrong.observed) == ("SUBGROUP_CUT_OFF", seen)
    others = frozenset({("AGE_YEARS", group) for group in ("0-19", "20-39", "40-59", "60-79", "80+")} - {cut})
    assert decide(request(age_years=age), in_use(APPROVAL, cut_off=others), (), DURING)


def test_a_cut_off_in_the_shadow_holds_too() -> None:
    """What is out of use is not tried behind the readers' backs."""
    standings = in_use(APPROVAL, state=State.SHADOW, cut_off=frozenset({("SEX", "F")}))
    assert said(request(), standings, ()) == ("SUBGROUP_CUT_OFF", "SEX")


# ---- pure ------------------------------------------------------------------------------------------------------------


def outcome(*arguments: Any) -> Any:
    """All of the answer, as plain values."""
    try:
        permit: Permit = decide(*arguments)
    except Refused as wrong:
        return wrong.code, wrong.condition, wrong.observed, wrong.approval
    return tuple(getattr(permit, name) for name in Permit.__slots__)


def test_the_same_question_has_the_same_answer() -> None:
    """Asked twice, in any order of what it is given, the gate says the same and changes nothing of it."""
    standings = [
        *in_use(APPROVAL, REVIEWER.approve(approval="TEST-2", conditions={"sex": ["M"]})),
        *in_use(REVIEWER.approve(OTHER), state=State.SHADOW),
    ]
    for asked, stops in itertools.product(
        (request(), request(sex="M"), request(model=OTHER), request(age_years=3.0), request(opted_out=True)),
        ([], list(STOPS["another site"]), list(STOPS["both"]), [*STOPS["this site"], Stop("SERVICE", None, 9)]),
    ):
        before = repr((asked, standings, stops))
        first = outcome(asked, standings, stops, DURING)
        assert outcome(asked, standings, stops, DURING) == first
        assert outcome(asked, standings[::-1], stops[::-1], DURING) == first
        assert repr((asked, standings, stops)) == before


def test_a_later_time_changes_the_permits_times_alone() -> None:
    """The clock is an argument like any other."""
    first, later = (decide(request(), in_use(APPROVAL), (), DURING + timedelta(hours=hours)) for hours in (0, 1))
    assert later.issued_at - first.issued_at == timedelta(hours=1)
    assert (first.checks, first.policy, first.state) == (later.checks, later.policy, later.state)


@pytest.mark.parametrize("state", State)
def test_what_is_to_be_suspended_permits_nothing(state: State) -> None:
    """From the evaluation on that asks for it: as if it were suspended, wherever it runs; elsewhere as it stands."""
    standings = in_use(APPROVAL, state=state)
    asked = tuple(dataclasses.replace(one, asked=(7,)) for one in standings)
    running = state in {State.SHADOW, State.LIVE}
    assert said(request(), asked, ()) == (("SUSPENDED", "STATE") if running else said(request(), standings, ()))
