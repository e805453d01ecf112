"""Boxes between grids, and what counts as found: for any of them."""

from __future__ import annotations

import random
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from inference.errors import ModelFailed
from inference.expected import detected
from inference.found import FOUND_MAX, GIVEN_MAX, FoundBox, carried, chosen, judged_boxes, within_grid
from inference.geometry import Reorientation
from inference.run import findings_of
from inference.types import Prediction
from tests.simulators import findings as phantom
from tests.simulators import volumes

SPECS = phantom.manifest(kind="detections").detections
GRID = (8, 10, 12)
PLACES = st.floats(-20.0, 20.0, width=32)


def box(score: float = 0.75, kind: int = 0, low: Any = (1.0, 2.0, 3.0), high: Any = (3.0, 5.0, 7.0)) -> FoundBox:
    """A box on the grid."""
    return FoundBox(kind, low, high, score)


def refused(*boxes: FoundBox) -> str:
    """Why these are refused."""
    with pytest.raises(ModelFailed) as wrong:
        detected(boxes, SPECS, GRID)
    assert (wrong.value.code, wrong.value.fault) == ("MODEL_OUTPUT_INVALID", "MODEL")
    return str(wrong.value)


def test_the_threshold_itself_counts_as_found() -> None:
    """To the millionth, as a classification's bounds; below it nothing is said."""
    scores = [0.5, float(np.float32(0.4999998)), 0.4999994, 0.49, 0.0]
    assert [one.score for one in detected([box(one) for one in scores], SPECS, GRID)] == [0.5, 0.5]


def test_none_is_an_answer_and_no_answer_is_not() -> None:
    """A network that found nothing gave no box; an engine that gave none at all did not look."""
    volume, manifest = volumes.block(GRID), phantom.manifest(kind="detections")
    labels = np.zeros(GRID, np.uint8)
    assert findings_of(Prediction(labels, {}, "cpu", {}, boxes=()), volume, manifest).detections == ()
    with pytest.raises(ModelFailed, match="no boxes"):
        findings_of(Prediction(labels, {}, "cpu", {}), volume, manifest)


@given(st.randoms(use_true_random=False))
def test_the_order_is_not_the_network_s(rng: random.Random) -> None:
    """The highest score first, then kind, then place: whichever way they came."""
    boxes = [box(0.5 + n % 3 / 8, n % 2, (float(n % 4), 2.0, 3.0), (5.0, 5.0, 7.0 + n % 2)) for n in range(12)]
    wanted = detected(boxes, SPECS, GRID)
    rng.shuffle(boxes)
    assert detected(boxes, SPECS, GRID) == wanted
    assert [one.score for one in wanted] == sorted((one.score for one in wanted), reverse=True)


def test_a_box_is_cut_at_the_image_s_edge() -> None:
    """As MONAI's own detectors cut theirs; the rest of it stays as it was."""
    (one,) = detected([box(low=(-3.0, 2.0, 3.0), high=(4.0, 5.0, 40.0 - 22.0))], SPECS, GRID)
    assert (one.low, one.high) == ((-0.5, 2.0, 3.0), (4.0, 5.0, 11.5))
    assert one.within(GRID)


@given(st.tuples(PLACES, PLACES, PLACES), st.tuples(PLACES, PLACES, PLACES))
def test_whatever_is_not_refused_lies_on_the_grid(one: tuple[float, ...], other: tuple[float, ...]) -> None:
    """Never a detection off the grid, nor one without an extent that is no point."""
    corners = [tuple(sorted(pair)) for pair in zip(one, other, strict=True)]
    low, high = tuple(pair[0] for pair in corners), tuple(pair[1] for pair in corners)
    try:
        (found,) = detected([box(low=low, high=high)], SPECS, GRID)
    except ModelFailed:
        middle = [(a + b) / 2 for a, b in corners]
        beside = any(not -0.5 <= at <= n - 0.5 for at, n in zip(middle, GRID, strict=True))
        assert beside or not (low[1] < high[1] and low[2] < high[2])
    else:
        assert found.within(GRID)


def test_a_point_and_a_box_in_one_slice_are_detections() -> None:
    """A line is not."""
    point = box(low=(1.0, 2.0, 3.0), high=(1.0, 2.0, 3.0))
    flat = box(low=(1.0, 2.0, 3.0), high=(1.0, 4.0, 5.0))
    assert [one.is_point for one in detected([flat, point], SPECS, GRID)] == [True, False]
    assert "without an extent" in refused(box(low=(1.0, 2.0, 3.0), high=(1.0, 2.0, 5.0)))


@pytest.mark.parametrize(
    ("wrong", "says"),
    [
        (box(kind=2), "label or score"),
        (box(kind=-1), "label or score"),
        (box(score=1.5), "label or score"),
        (box(score=float("nan")), "label or score"),
        (box(high=(3.0, float("inf"), 7.0)), "not finite"),
        (box(low=(8.0, 2.0, 3.0), high=(9.0, 5.0, 7.0)), "beside"),
    ],
)
def test_what_no_detection_is(wrong: FoundBox, says: str) -> None:
    """Whatever an engine says: nothing of it reaches a report."""
    assert says in refused(box(), wrong)


def test_too_many_are_none() -> None:
    """As many as a report takes, and one more."""
    assert len(detected([box()] * FOUND_MAX, SPECS, GRID)) == FOUND_MAX
    assert f"{FOUND_MAX + 1} detections" in refused(*[box()] * (FOUND_MAX + 1))
    assert chosen([box(0.1)] * (FOUND_MAX + 1), [0.5, 0.5], 6) == []


# ---- as a network gives them -----------------------------------------------------------------------------------------


GOOD = ([[1.0, 2.0, 3.0, 4.0, 5.0, 6.0]], [1.0], [0.5])


@pytest.mark.parametrize(
    ("boxes", "kinds", "scores", "says"),
    [
        (*GOOD, None),
        (np.zeros((0, 6)), [], [], None),
        ([[1.0, 2.0, 3.0, 4.0, 5.0]], [1.0], [0.5], "shapes"),
        ([[1.0, 2.0, 3.0, 4.0, 5.0, 6.0]] * 2, [1.0], [0.5], "shapes"),
        (GOOD[0], [1.0], [0.5, 0.5], "shapes"),
        (1.0, [1.0], [0.5], "shapes"),
        (np.zeros((GIVEN_MAX, 6)), np.zeros(GIVEN_MAX), np.zeros(GIVEN_MAX), None),
        (np.zeros((GIVEN_MAX + 1, 6)), np.zeros(GIVEN_MAX + 1), np.zeros(GIVEN_MAX + 1), "at most"),
        ([[1.0, 2.0, 3.0, 4.0, 5.0, np.nan]], [1.0], [0.5], "finite"),
        (GOOD[0], [1.0], [np.nan], "finite"),
        ([[1.0, 2.0, 7.0, 4.0, 5.0, 6.0]], [1.0], [0.5], "second corner"),
        (GOOD[0], [2.0], [0.5], "label"),
        (GOOD[0], [-1.0], [0.5], "label"),
        (GOOD[0], [0.5], [0.5], "label"),
        (GOOD[0], [1.0], [1.01], "score"),
        (GOOD[0], [1.0], [-0.01], "score"),
    ],
)
def test_what_a_network_may_give(boxes: Any, kinds: Any, scores: Any, says: str | None) -> None:
    """N boxes of known kinds with their scores, or none; everything else is refused with what is wrong."""
    arrays = [np.asarray(one, dtype=np.float64) for one in (boxes, kinds, scores)]
    if says is None:
        judged_boxes(*arrays, 2)
        return
    with pytest.raises(ModelFailed, match=says) as wrong:
        judged_boxes(*arrays, 2)
    assert wrong.value.code == "MODEL_OUTPUT_INVALID"


@settings(max_examples=40)
@given(st.integers(0, 47), st.integers(0, 2**31))
def test_from_any_grid_and_back(orientation: int, seed: int) -> None:
    """A canonical box goes to the source's grid as its voxels do, and its places in the patient stay the same."""
    affine = volumes.every_orientation()[orientation]
    turn = Reorientation.to_canonical(affine)
    rng = np.random.default_rng(seed)
    source = np.zeros(GRID, np.uint8)
    begin = [int(rng.integers(0, n)) for n in GRID]
    end = [int(rng.integers(b, n)) for b, n in zip(begin, GRID, strict=True)]
    source[tuple(slice(b, e + 1) for b, e in zip(begin, end, strict=True))] = 1
    there = np.argwhere(turn.apply(source))
    low, high = turn.undo_box(tuple(there.min(0)), tuple(there.max(0)), turn.apply(source).shape)
    assert (list(low), list(high)) == (begin, end)


@given(st.lists(PLACES, min_size=6, max_size=6), st.integers(0, 47))
def test_carried_between_parallel_grids_and_back(values: list[float], orientation: int) -> None:
    """Exactly, but for the last bits; corners stay in order."""
    corners = np.sort(np.array(values).reshape(2, 3), axis=0).reshape(1, 6)
    here, there = np.diag((0.5, 2.0, 1.5, 1.0)), volumes.every_orientation()[orientation]
    once = carried(corners, here, there)
    assert (once[:, :3] <= once[:, 3:]).all()
    assert np.allclose(carried(once, there, here), corners, atol=1e-9)
    points = [here @ [*corners[0, :3], 1.0], here @ [*corners[0, 3:], 1.0]]
    ends = np.sort([np.linalg.solve(there, point)[:3] for point in points], axis=0)
    assert np.allclose(once[0], ends.reshape(6), atol=1e-9)


def test_a_turned_grid_gets_the_box_that_holds_it() -> None:
    """All eight corners lie in it, and one of them on each side."""
    corners = np.array([[1.0, 2.0, 3.0, 4.0, 4.0, 6.0]])
    there = volumes.oblique(4)
    once = carried(corners, np.eye(4), there)[0]
    every = [[x, y, z, 1.0] for x in corners[0, ::3] for y in corners[0, 1::3] for z in corners[0, 2::3]]
    seen = np.linalg.solve(there, np.array(every).T)[:3].T
    assert np.allclose([*seen.min(0), *seen.max(0)], once)


def test_a_box_on_the_edge_of_the_grid() -> None:
    """The outermost voxels reach half an index beyond their centres; a middle beyond that is beside the image."""
    edge = tuple(n - 0.5 for n in GRID)
    assert within_grid(box(low=(-0.5, -0.5, -0.5), high=edge), GRID) == ((-0.5, -0.5, -0.5), edge)
    with pytest.raises(ModelFailed, match="beside"):
        within_grid(box(low=(-2.0, 1.0, 1.0), high=(0.9, 4.0, 4.0)), GRID)
