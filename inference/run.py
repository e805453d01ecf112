"""run(permit, model, volume) -> Findings: the one way from an image to findings, and it needs a permit."""

from __future__ import annotations

from datetime import datetime
from typing import Protocol

import numpy as np

from ethics_review.permit import Permit
from inference import checks
from inference.errors import ModelFailed, OutputImplausible, PermitRefused
from inference.expected import classified, detected
from inference.types import Findings, HeatMap, Measurement, Prediction, SegmentMask, Volume
from models.library import VerifiedModel
from models.manifest import Manifest

MM3_PER_CM3 = 1000.0


class EnginePort(Protocol):
    """What runs a model. Promises: one label map, and the manifest's heat maps, on the volume's own grid, a score for
    each of its classifications, and the boxes of what it detects; or an EngineError within the deadline (and, if the
    model must be loaded first, the engine's own limit for that). Callable from any thread.
    """

    def infer(self, model: VerifiedModel, volume: Volume, deadline_s: float) -> Prediction:
        """Label map and heat maps, (K, R, C) uint8, scores and boxes; `deadline_s` in seconds for computing alone."""


def run(permit: Permit, model: VerifiedModel, volume: Volume, engine: EnginePort, now: datetime) -> Findings:
    """Findings of `model` on `volume`, checked against the model's manifest.

    Raises PermitRefused (PERMIT_MISSING, PERMIT_MODEL_MISMATCH, PERMIT_INPUT_MISMATCH, PERMIT_EXPIRED), InputUnfit,
    EngineError, OutputImplausible; nothing runs on the device before permit and input have been checked.
    """
    _check_permit(permit, model, volume, now)
    checks.fit(volume, model.manifest)
    prediction = engine.infer(model, volume, float(model.manifest.deadline_s))
    findings = findings_of(prediction, volume, model.manifest)
    checks.plausible(findings, volume, model.manifest)
    return findings


def _check_permit(permit: Permit, model: VerifiedModel, volume: Volume, now: datetime) -> None:
    # The type is checked at run time as well: this is the door, and a caller without mypy must not pass.
    if type(permit) is not Permit:
        raise PermitRefused("PERMIT_MISSING", "no permit was shown")
    if permit.model != model.ref:
        raise PermitRefused("PERMIT_MODEL_MISMATCH", "the permit is for another model")
    if permit.input_digest != volume.source_digest:
        raise PermitRefused("PERMIT_INPUT_MISMATCH", "the permit is for another input")
    if not permit.valid_at(now):
        raise PermitRefused("PERMIT_EXPIRED", "the permit is not valid at this time")


def findings_of(prediction: Prediction, volume: Volume, manifest: Manifest) -> Findings:
    """What the manifest names in a prediction, not yet judged. Raises InferenceError."""
    if manifest.detections and prediction.boxes is None:
        # Nobody looked, and the report would say that nothing is there.
        raise ModelFailed("MODEL_OUTPUT_INVALID", "no boxes of a model that detects")
    if len(prediction.heat_maps) != len(manifest.heat_maps):
        raise ModelFailed("MODEL_OUTPUT_INVALID", "not as many heat maps as the manifest names")
    labels = prediction.labels
    if labels.shape != volume.shape:
        raise OutputImplausible("OUTPUT_SHAPE", "the label map is not on the image's grid")
    segments = tuple(SegmentMask(spec.number, labels == spec.number) for spec in manifest.segments)
    counts = {segment.number: int(np.count_nonzero(segment.part)) for segment in segments}
    if sum(counts.values()) != int(np.count_nonzero(labels)):
        raise ModelFailed("MODEL_OUTPUT_INVALID", "the label map holds a label that the manifest does not know")
    return Findings(
        segments=segments,
        measurements=tuple(
            Measurement(spec.id, counts[spec.segment] * volume.voxel_mm3 / MM3_PER_CM3)
            for spec in manifest.measurements
        ),
        timing_ms=prediction.timing_ms,
        device=prediction.device,
        runtime=prediction.runtime,
        detections=detected(prediction.boxes or (), manifest.detections, volume.shape),
        classifications=classified(prediction.scores, manifest.classifications),
        heat_maps=tuple(HeatMap(s.id, m) for s, m in zip(manifest.heat_maps, prediction.heat_maps, strict=True)),
    )
