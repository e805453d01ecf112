"""Boxes that a model found, on their way from its own grid to the volume's, and what they come to. NumPy only.

A box is two opposite corners in index coordinates, whole numbers at the voxels' centres, as MONAI's own transforms have
it when they take boxes from the world to an image. Its label is the place of its kind among the manifest's detections.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from inference.errors import ModelFailed

GIVEN_MAX: Final = 2_000
"""Boxes of one answer: what a network gives before its threshold, 300 as MONAI's detectors come; fits in a message."""
FOUND_MAX: Final = 256
"""Of these, above their thresholds. A report of more helps nobody: the network has lost its way."""

Corner = tuple[float, float, float]


@dataclass(frozen=True, slots=True)
class FoundBox:
    """kind: from 0; low, high: corners on one grid, low <= high along each axis; score: 0 to 1."""

    kind: int
    low: Corner
    high: Corner
    score: float

    def said(self) -> list[float]:
        """As JSON values."""
        return [self.kind, *self.low, *self.high, self.score]

    @classmethod
    def read(cls, said: Sequence[Any]) -> FoundBox:
        """From what `said` gave, on the other side of a channel."""
        kind, *corners, score = said
        a, b, c, d, e, f = (float(value) for value in corners)
        return cls(int(kind), (a, b, c), (d, e, f), float(score))


def judged_boxes(
    boxes: npt.NDArray[np.float64], kinds: npt.NDArray[np.float64], scores: npt.NDArray[np.float64], wanted: int
) -> None:
    """Raise ModelFailed (MODEL_OUTPUT_INVALID) unless boxes (N, 6), kinds (N,) and scores (N,) are N boxes of `wanted`
    kinds: finite, GIVEN_MAX at most, corners in order, kinds whole numbers from 0, scores from 0 to 1.
    """
    count = len(boxes) if boxes.ndim else -1
    if (boxes.shape, kinds.shape, scores.shape) != ((count, 6), (count,), (count,)):
        shapes = f"{boxes.shape}, {kinds.shape}, {scores.shape}"
        raise _invalid(f"box, label and label_scores have shapes {shapes}, not (N, 6), (N,), (N,)")
    if count > GIVEN_MAX:
        raise _invalid(f"{count} boxes, {GIVEN_MAX} at most")
    if not all(np.isfinite(one).all() for one in (boxes, kinds, scores)):
        raise _invalid("a box, its label or its score is not finite")
    if not (boxes[:, :3] <= boxes[:, 3:]).all():
        raise _invalid("a box's second corner lies before its first")
    if not ((kinds == np.rint(kinds)) & (kinds >= 0) & (kinds < wanted)).all():
        raise _invalid(f"a label is not one of the {wanted} of the manifest")
    if not ((scores >= 0.0) & (scores <= 1.0)).all():
        raise _invalid("a score is not from 0 to 1")


def carried(
    boxes: npt.NDArray[np.float64], from_affine: npt.NDArray[np.float64], to_affine: npt.NDArray[np.float64]
) -> npt.NDArray[np.float64]:
    """Boxes (N, 6) of one grid on another, each with an index -> mm affine (4, 4) to the same system of coordinates.

    Exact where the axes of the grids are parallel; else the smallest box that holds the turned one.
    """
    between = np.linalg.inv(to_affine) @ from_affine
    middle = (boxes[:, :3] + boxes[:, 3:]) / 2 @ between[:3, :3].T + between[:3, 3]
    half = (boxes[:, 3:] - boxes[:, :3]) / 2 @ np.abs(between[:3, :3]).T
    return np.concatenate([middle - half, middle + half], axis=1)


def within_grid(box: FoundBox, shape: tuple[int, int, int]) -> tuple[Corner, Corner]:
    """Its corners, cut where they reach past the grid's outermost voxels, as MONAI's detectors cut theirs.

    Raises ModelFailed where its middle lies beside the grid, or it has an extent along one of row and column alone.
    """
    pairs = list(zip(box.low, box.high, shape, strict=True))
    if not all(-0.5 <= (low + high) / 2 <= n - 0.5 for low, high, n in pairs):
        raise _invalid("a box lies beside the image")
    low = tuple(max(low, -0.5) for low, _, _ in pairs)
    high = tuple(min(high, n - 0.5) for _, high, n in pairs)
    if low != high and not (low[1] < high[1] and low[2] < high[2]):
        raise _invalid("a box without an extent along row and column")
    return (low[0], low[1], low[2]), (high[0], high[1], high[2])


def chosen(boxes: Iterable[FoundBox], thresholds: Sequence[float], decimals: int) -> list[FoundBox]:
    """Those whose score, counted in so many decimals, reaches their kind's threshold: the highest score first, then by
    kind and place, so that the same boxes in any order give the same list. Raises ModelFailed.
    """
    found = []
    for box in boxes:
        if not (0 <= box.kind < len(thresholds) and 0.0 <= box.score <= 1.0):
            raise _invalid("a box's label or score is not the manifest's")
        if not all(map(math.isfinite, (*box.low, *box.high))):
            raise _invalid("a box's corner is not finite")
        score = round(box.score, decimals)
        if score >= thresholds[box.kind]:
            found.append(FoundBox(box.kind, box.low, box.high, score))
    if len(found) > FOUND_MAX:
        raise _invalid(f"{len(found)} detections above their thresholds, {FOUND_MAX} at most")
    return sorted(found, key=lambda one: (-one.score, one.kind, one.low, one.high))


def _invalid(what: str) -> ModelFailed:
    return ModelFailed("MODEL_OUTPUT_INVALID", what)
