"""What scores come to, by the manifest's bounds, for any score and any bounds; and what no scores are."""

from __future__ import annotations

import json
import math
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from inference.errors import ModelFailed
from inference.expected import Expected, classified, judged_scores, presence_of
from models.manifest import ClassificationSpec
from tests.simulators import findings as phantom
from tests.simulators import scoring_model

SHARES = st.floats(0.0, 1.0)
SPEC = scoring_model.specs(1)[0]


def bounded(absent_below: float, present_from: float) -> ClassificationSpec:
    """With these bounds."""
    return replace(SPEC, absent_below=absent_below, present_from=present_from)


@pytest.mark.parametrize(
    ("score", "presence"),
    [
        (0.0, "ABSENT"),
        (math.nextafter(0.25, 0), "ABSENT"),
        (0.25, "UNDETERMINED"),
        (math.nextafter(0.75, 0), "UNDETERMINED"),
        (0.75, "PRESENT"),
        (1.0, "PRESENT"),
    ],
)
def test_on_each_side_of_each_bound(score: float, presence: str) -> None:
    """The lower bound itself is not below it; the upper one is from there on."""
    assert presence_of(score, bounded(0.25, 0.75)) == presence


@given(SHARES, SHARES, SHARES)
def test_three_answers_in_this_order(score: float, one: float, other: float) -> None:
    """Exactly one of the three for any score, and a higher score never says less of the thing."""
    low, high = sorted((one, other))
    spec = bounded(low, high)
    order = ["ABSENT", "UNDETERMINED", "PRESENT"]
    said = presence_of(score, spec)
    assert (said == "ABSENT") == (score < low)
    assert (said == "PRESENT") == (score >= high and not score < low)
    assert order.index(presence_of(0.0, spec)) <= order.index(said) <= order.index(presence_of(1.0, spec))
    assert presence_of(1.0, spec) == "PRESENT"


@given(SHARES, SHARES)
def test_equal_bounds_leave_nothing_open(score: float, bound: float) -> None:
    """One threshold."""
    assert presence_of(score, bounded(bound, bound)) == ("ABSENT" if score < bound else "PRESENT")


@given(SHARES)
def test_a_bound_of_nothing_is_never_absence(score: float) -> None:
    """With absent_below 0 the model can only say that a thing is there."""
    assert presence_of(score, bounded(0.0, 0.5)) != "ABSENT"


@given(st.integers(1, 999_999))
def test_a_network_s_float32_meets_the_bound_that_it_stands_for(millionths: int) -> None:
    """A score is counted in millionths, as the log writes it: 0.7 of a network is 0.7, whichever way it was rounded."""
    bound = millionths / 1_000_000
    (said,) = classified([float(np.float32(bound))], (bounded(bound, bound),))
    assert (said.presence, said.score) == ("PRESENT", bound)
    (less,) = classified([float(np.float32(bound - 2e-6))] if bound > 2e-6 else [0.0], (bounded(bound, bound),))
    assert less.presence == "ABSENT"


@pytest.mark.parametrize(
    ("scores", "says"),
    [
        ([0.5], "1 scores for 2"),
        ([0.5, 0.5, 0.5], "3 scores for 2"),
        ([], "0 scores for 2"),
        ([0.5, math.nan], "not a finite"),
        ([0.5, math.inf], "not a finite"),
        ([-math.inf, 0.5], "not a finite"),
        ([0.5, 1.5], "0 to 1"),
        ([math.nextafter(1.0, 2.0), 0.5], "0 to 1"),
        ([0.5, -1e-9], "0 to 1"),
    ],
)
def test_what_no_scores_are(scores: list[float], says: str) -> None:
    """Refused with what is wrong; nothing is cut to fit, and none of it reaches a report."""
    with pytest.raises(ModelFailed, match=says) as refused:
        classified(scores, scoring_model.specs(2))
    assert (refused.value.code, refused.value.fault) == ("MODEL_OUTPUT_INVALID", "MODEL")


@given(st.lists(SHARES, max_size=8))
def test_scores_come_through_as_they_are(scores: list[float]) -> None:
    """In their order."""
    assert judged_scores(scores, len(scores)) == tuple(scores)


def test_what_a_manifest_wants() -> None:
    """By what it names; the child is told the same, as JSON."""
    drawn, said = phantom.manifest(lesions=True), phantom.manifest(kind="classifications")
    assert Expected.of(drawn) == Expected(labels=True, maps=0, scores=0)
    assert (Expected.of(drawn).channels, Expected.of(said).channels) == (1, 0)
    assert Expected.of(said) == Expected(labels=False, maps=0, scores=2)
    assert Expected(labels=False, maps=2).channels == 2
    for one in (drawn, said):
        assert Expected.read(json.loads(json.dumps(Expected.of(one).said()))) == Expected.of(one)
