"""Permits, and what the gate writes down: made by the gate alone, and free of anything an image said."""

import copy
import dataclasses
import pickle
from collections.abc import Callable
from datetime import UTC, datetime, timedelta

import pytest

from audit.entry import Draft, Kind
from ethics_review.errors import PermitForged, Refused
from ethics_review.gate import PERMIT_LIFETIME
from ethics_review.permit import Check, Permit
from tests.simulators.reviewer import DURING, MODEL, Reviewer, decide_live, request

REVIEWER = Reviewer()


APPROVAL = REVIEWER.approve()


LAST_INSTANT = datetime(2027, 5, 31, 15, 59, 59, 999999, tzinfo=UTC)
"""One microsecond before the midnight in UTC+8 that ends 2027-05-31."""


FIRST_INSTANT = datetime(2026, 11, 30, 16, 0, tzinfo=UTC)


def refusal(action: Callable[[], object]) -> Refused:
    """The refusal that `action` must raise."""
    with pytest.raises(Refused) as caught:
        action()
    return caught.value


def test_a_permit_of_before_midnight_is_void_when_the_clock_is_set_back() -> None:
    """A permit holds from its issue until its end, so that setting the clock back ends it rather than prolonging it."""
    permit = decide_live(request(), [APPROVAL], LAST_INSTANT)
    assert permit.valid_at(LAST_INSTANT)
    assert not permit.valid_at(LAST_INSTANT - timedelta(hours=1))
    assert not permit.valid_at(LAST_INSTANT + timedelta(microseconds=1))


def test_a_permit_lasts_minutes() -> None:
    """A permit ends after its lifetime, long before the approval."""
    permit = decide_live(request(), [APPROVAL], DURING)
    assert permit.expires_at - permit.issued_at == PERMIT_LIFETIME
    assert permit.valid_at(permit.expires_at - timedelta(microseconds=1))
    assert not permit.valid_at(permit.expires_at)


def test_a_permit_says_what_it_is_for() -> None:
    """A permit carries the call, the model, the input, the approval, its policy, and every check in order."""
    permit = decide_live(request(), [APPROVAL], DURING)
    assert (permit.call, permit.model, permit.input_digest) == ("c0" * 16, MODEL, "sha256:" + "cd" * 32)
    assert (permit.approval, permit.policy, permit.autonomy) == (APPROVAL.id, APPROVAL.policy, "A1")
    assert permit.checks == (
        Check("MODEL_DIGEST", "HOLDS", "EQUAL"),
        Check("VALIDITY", "HOLDS", "IN_FORCE"),
        Check("MODALITY", "HOLDS", "MR"),
        Check("BODY_PART", "HOLDS", "BRAIN"),
        Check("AGE_YEARS", "HOLDS", "70-74"),
        Check("SEX", "HOLDS", "F"),
        Check("MANUFACTURER", "HOLDS", "UIH"),
        Check("SITE", "HOLDS", "test-site"),
        Check("SLICE_SPACING_MM", "HOLDS", "1.0"),
        Check("MAX_AUTONOMY", "HOLDS", "A1"),
    )


HOSTILE = [
    "ZHANG^SAN",
    "测试^幻影",
    "320102196001011234",
    "1960-01-01",
    "1.2.840.113619.2.5",
    "TEST^Phantom MR",
    "A" * 500,
]


@pytest.mark.parametrize("text", HOSTILE)
@pytest.mark.parametrize("name", ["modality", "body_part", "sex", "manufacturer"])
def test_nothing_that_an_image_says_is_repeated(name: str, text: str) -> None:
    """Whatever stands in a field of an image, refusals and messages hold only words of closed lists."""
    wrong = refusal(lambda: decide_live(request(**{name: text}), [APPROVAL], DURING))
    assert wrong.observed in {"OTHER", "UNKNOWN"}
    assert text not in str(wrong)


@pytest.mark.parametrize("text", HOSTILE)
def test_nothing_that_an_image_says_is_repeated_when_anything_is_allowed(text: str) -> None:
    """A permit under "*" holds only a class of what the image said."""
    approval = REVIEWER.approve(conditions={"manufacturer": ["*"]})
    permit = decide_live(request(manufacturer=text), [approval], DURING)
    assert Check("MANUFACTURER", "HOLDS", "OTHER") in permit.checks


def test_a_known_vendor_is_told_by_name() -> None:
    """So that support can see what was refused, a known vendor's first word is told, and no other."""
    wrong = refusal(lambda: decide_live(request(manufacturer="GE MEDICAL SYSTEMS"), [APPROVAL], DURING))
    assert wrong.observed == "GE"


@pytest.mark.parametrize(("age", "band"), [(0, "0-4"), (17.9, "15-19"), (89.9, "85-89"), (90, "90+"), (119, "90+")])
def test_ages_are_told_in_bands(age: float, band: str) -> None:
    """An age is told as a band of five years, and from 90 as one class."""
    approval = REVIEWER.approve(conditions={"age_years": [150, 150]})
    assert refusal(lambda: decide_live(request(age_years=age), [approval], DURING)).observed == band


def test_checks_and_refusals_fit_the_audit_log() -> None:
    """What the gate says can be logged: with ids like numbers, too, as the log takes no long numbers."""
    conditions = {"site": ["330702-jhzx"], "manufacturer": ["联影 UIH, 123456"], "modality": ["MR20261201"]}
    approval = REVIEWER.approve(conditions=conditions)
    asked = {"site": "330702-jhzx", "manufacturer": "联影 uih, 123456", "modality": "MR20261201"}
    permit = decide_live(request(**asked), [approval], DURING)
    body = {
        "site": "330702-jhzx",
        "requester": None,
        "patient": None,
        "study": "0a" * 16,
        "series": 1,
        "instances": 3,
        "input": "0b" * 16,
        "card": MODEL.digest,
        "model": {"name": MODEL.name, "version": MODEL.version, "digest": MODEL.digest},
        "approval": permit.approval,
        "policy": permit.policy,
        "autonomy": permit.autonomy,
        "checks": [dataclasses.asdict(check) for check in permit.checks],
        "runtime": {},
    }
    Draft(Kind.CALL_INTENT, "call", body, permit.call)
    for now in (FIRST_INSTANT - timedelta(days=3), LAST_INSTANT + timedelta(days=3), DURING):
        wrong = refusal(lambda now=now: decide_live(request(**asked, sex="O"), [approval], now))
        denied = {
            "study": "0a" * 16,
            "stage": "GATE",
            "code": wrong.code,
            "condition": wrong.condition,
            "observed": wrong.observed,
            "model": None,
        }
        Draft(Kind.DENIED, "denied", denied)


def test_a_permit_cannot_be_made_outside_the_gate() -> None:
    """Without the gate's capability there is no permit: not by the constructor, by copying or by unpickling."""
    permit = decide_live(request(), [APPROVAL], DURING)
    values = {name: getattr(permit, name) for name in Permit.__slots__}
    for capability in (None, object(), True, permit):
        with pytest.raises(PermitForged) as caught:
            Permit(**values, capability=capability)
        assert caught.value.code == "PERMIT_FORGED"
    with pytest.raises(TypeError):
        Permit(**values)
    for copier in (copy.copy, copy.deepcopy, pickle.dumps):
        with pytest.raises(PermitForged):
            copier(permit)
    with pytest.raises((PermitForged, TypeError, ValueError)):
        dataclasses.replace(permit, autonomy="A4")


def test_a_permit_cannot_be_changed() -> None:
    """A permit is frozen."""
    permit = decide_live(request(), [APPROVAL], DURING)
    with pytest.raises(dataclasses.FrozenInstanceError):
        permit.autonomy = "A4"  # type: ignore[misc]
