"""What a model has to answer, by its manifest; and its scores, judged. Plain Python: both sides of an engine use it."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from typing import Any, Final

from inference.errors import ModelFailed
from inference.types import Classification, Presence
from models.manifest import ClassificationSpec, Manifest

DECIMALS: Final = 6
"""A score counts in millionths, as the log writes it: what was decided can be decided again from the log alone. And a
network's 0.7 is a float32 just below 0.7, which a bound of 0.7 would else not let in."""


@dataclass(frozen=True, slots=True)
class Expected:
    """labels: whether a label map comes; maps: how many heat maps; scores: of how many classifications."""

    labels: bool = True
    maps: int = 0
    scores: int = 0

    @classmethod
    def of(cls, manifest: Manifest) -> Expected:
        """By what the manifest names."""
        return cls(bool(manifest.segments), len(manifest.heat_maps), len(manifest.classifications))

    @classmethod
    def read(cls, said: Mapping[str, Any]) -> Expected:
        """From what `said` gave, on the other side of a channel."""
        return cls(**said)

    def said(self) -> dict[str, Any]:
        """As JSON values."""
        return asdict(self)

    @property
    def channels(self) -> int:
        """How many arrays of the volume's size come back: the label map first, where there is one, then heat maps."""
        return int(self.labels) + self.maps


def judged_scores(values: Iterable[float], wanted: int) -> tuple[float, ...]:
    """The scores as floats. Raises ModelFailed (MODEL_OUTPUT_INVALID) unless `wanted` finite numbers from 0 to 1."""
    scores = tuple(float(value) for value in values)
    if len(scores) != wanted:
        raise ModelFailed("MODEL_OUTPUT_INVALID", f"{len(scores)} scores for {wanted} classifications")
    if not all(map(math.isfinite, scores)):
        raise ModelFailed("MODEL_OUTPUT_INVALID", "a score is not a finite number")
    if not all(0.0 <= score <= 1.0 for score in scores):
        raise ModelFailed("MODEL_OUTPUT_INVALID", "a score is not from 0 to 1")
    return scores


def classified(scores: Iterable[float], specs: tuple[ClassificationSpec, ...]) -> tuple[Classification, ...]:
    """What the scores, in the manifest's order, come to. Raises ModelFailed as `judged_scores` does."""
    counted = (round(score, DECIMALS) for score in judged_scores(scores, len(specs)))
    return tuple(
        Classification(spec.id, presence_of(score, spec), score) for spec, score in zip(specs, counted, strict=True)
    )


def presence_of(score: float, spec: ClassificationSpec) -> Presence:
    """By the manifest's two bounds: ABSENT below the first, PRESENT from the second on, UNDETERMINED between."""
    if score < spec.absent_below:
        return "ABSENT"
    return "PRESENT" if score >= spec.present_from else "UNDETERMINED"
