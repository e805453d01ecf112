"""What a model has to answer, by its manifest, and what scores and boxes come to. Both sides of an engine use it."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from typing import Any, Final

from inference.errors import ModelFailed
from inference.found import FoundBox, chosen, within_grid
from inference.types import Classification, Detection, Presence
from models.manifest import ClassificationSpec, DetectionSpec, Manifest

DECIMALS: Final = 6
"""A score counts in millionths, as the log writes it: what was decided can be decided again from the log alone. And a
network's 0.7 is a float32 just below 0.7, which a bound of 0.7 would else not let in."""


@dataclass(frozen=True, slots=True)
class Expected:
    """labels: whether a label map comes; maps: how many heat maps; scores: of how many classifications; kinds: of how
    many kinds the boxes are, none without; partial: whether one of them may fail alone.
    """

    labels: bool = True
    maps: int = 0
    scores: int = 0
    kinds: int = 0
    partial: bool = False

    @classmethod
    def of(cls, manifest: Manifest) -> Expected:
        """By what the manifest names."""
        return cls(
            labels=bool(manifest.segments),
            maps=len(manifest.heat_maps),
            scores=len(manifest.classifications),
            kinds=len(manifest.detections),
            partial=manifest.partial == "allow",
        )

    @classmethod
    def read(cls, said: Mapping[str, Any]) -> Expected:
        """From what `said` gave, on the other side of a channel."""
        return cls(**said)

    def said(self) -> dict[str, Any]:
        """As JSON values."""
        return asdict(self)

    @property
    def scores_name(self) -> str:
        """Where the scores are: a model of classifications alone has nothing else in `pred`."""
        return "scores" if self.channels or self.kinds else "pred"

    @property
    def channels(self) -> int:
        """How many arrays of the volume's size come back: the label map first, where there is one, then heat maps."""
        return int(self.labels) + self.maps


def judged_scores(values: Iterable[float], wanted: int, *, partial: bool = False) -> tuple[float, ...]:
    """The scores as floats. Raises ModelFailed (MODEL_OUTPUT_INVALID) unless `wanted` finite numbers from 0 to 1; with
    `partial`, whatever numbers: `is_score` tells which of them count.
    """
    scores = tuple(float(value) for value in values)
    if len(scores) != wanted:
        raise ModelFailed("MODEL_OUTPUT_INVALID", f"{len(scores)} scores for {wanted} classifications")
    if partial:
        return scores
    if not all(map(math.isfinite, scores)):
        raise ModelFailed("MODEL_OUTPUT_INVALID", "a score is not a finite number")
    if not all(map(is_score, scores)):
        raise ModelFailed("MODEL_OUTPUT_INVALID", "a score is not from 0 to 1")
    return scores


def is_score(value: float) -> bool:
    """Whether it is a number from 0 to 1; what is not a number is neither above nor below."""
    return 0.0 <= value <= 1.0


def classified(
    scores: Iterable[float], specs: tuple[ClassificationSpec, ...], *, partial: bool = False
) -> tuple[Classification, ...]:
    """What the scores, in the manifest's order, come to; `partial`: without those that are none. Raises ModelFailed as
    `judged_scores` does.
    """
    judged = zip(specs, judged_scores(scores, len(specs), partial=partial), strict=True)
    counted = [(spec, round(score, DECIMALS)) for spec, score in judged if is_score(score)]
    return tuple(Classification(spec.id, presence_of(score, spec), score) for spec, score in counted)


def detected(
    boxes: Iterable[FoundBox], specs: tuple[DetectionSpec, ...], shape: tuple[int, int, int]
) -> tuple[Detection, ...]:
    """The boxes on the grid (K, R, C) that count as found, the highest score first. Raises ModelFailed."""
    found = chosen(boxes, [spec.threshold for spec in specs], DECIMALS)
    return tuple(Detection(specs[one.kind].id, *within_grid(one, shape), one.score) for one in found)


def presence_of(score: float, spec: ClassificationSpec) -> Presence:
    """By the manifest's two bounds: ABSENT below the first, PRESENT from the second on, UNDETERMINED between."""
    if score < spec.absent_below:
        return "ABSENT"
    return "PRESENT" if score >= spec.present_from else "UNDETERMINED"
