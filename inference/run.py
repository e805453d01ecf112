"""run(permit, model, volume) -> Findings: the one way from an image to findings, and it needs a permit."""

from __future__ import annotations

from datetime import datetime
from typing import Final, Protocol

import numpy as np

from ethics_review.permit import Permit
from inference import checks
from inference.errors import Code, ModelFailed, OutputImplausible, PermitRefused
from inference.expected import classified, detected
from inference.types import Detection, FailedOutput, Findings, HeatMap, Measurement, Prediction, SegmentMask, Volume
from models.library import VerifiedModel
from models.manifest import Manifest

MM3_PER_CM3 = 1000.0
INVALID: Final[Code] = "MODEL_OUTPUT_INVALID"


class EnginePort(Protocol):
    """What runs a model. Promises: one label map, and the manifest's heat maps, on the volume's own grid, a score for
    each of its classifications, and the boxes of what it detects; or an EngineError within the deadline (and, if the
    model must be loaded first, the engine's own limit for that). Callable from any thread.
    """

    def infer(self, model: VerifiedModel, volume: Volume, deadline_s: float) -> Prediction:
        """Label map and heat maps, (K, R, C) uint8, scores and boxes; `deadline_s` in seconds for computing alone."""


def run(permit: Permit, model: VerifiedModel, volume: Volume, engine: EnginePort, now: datetime) -> Findings:
    """Findings of `model` on `volume`, checked against the model's manifest; where that allows it, without the outputs
    that do not pass, which are then named.

    Raises PermitRefused (PERMIT_MISSING, PERMIT_MODEL_MISMATCH, PERMIT_INPUT_MISMATCH, PERMIT_EXPIRED), InputUnfit,
    EngineError, OutputImplausible; nothing runs on the device before permit and input have been checked.
    """
    _check_permit(permit, model, volume, now)
    checks.fit(volume, model.manifest)
    prediction = engine.infer(model, volume, float(model.manifest.deadline_s))
    return checks.plausible(findings_of(prediction, volume, model.manifest), volume, model.manifest)


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
    """What the manifest names in a prediction, not yet judged. Raises InferenceError.

    What cannot be read of an output is named among `failed` where the manifest allows that, and raises where not.
    """
    partial = manifest.partial == "allow"
    if len(prediction.heat_maps) != len(manifest.heat_maps):
        raise ModelFailed(INVALID, "not as many heat maps as the manifest names")
    labels = prediction.labels
    if labels.shape != volume.shape:
        raise OutputImplausible("OUTPUT_SHAPE", "the label map is not on the image's grid")
    segments = tuple(SegmentMask(spec.number, labels == spec.number) for spec in manifest.segments)
    counts = {segment.number: int(np.count_nonzero(segment.part)) for segment in segments}
    if sum(counts.values()) != int(np.count_nonzero(labels)):
        raise ModelFailed(INVALID, "the label map holds a label that the manifest does not know")
    detections = _detections(prediction, volume, manifest)
    classifications = classified(prediction.scores, manifest.classifications, partial=partial)
    maps = list(zip(manifest.heat_maps, prediction.heat_maps, strict=True))
    if not partial and not all(given is not None for _, given in maps):
        raise ModelFailed(INVALID, "a heat map is missing")
    said = {one.id for one in classifications}
    unread = [
        *(f"classification:{spec.id}" for spec in manifest.classifications if spec.id not in said),
        *(f"detection:{spec.id}" for spec in manifest.detections if detections is None),
        *(f"heat_map:{spec.id}" for spec, given in maps if given is None),
    ]
    return Findings(
        segments=segments,
        measurements=tuple(
            Measurement(spec.id, counts[spec.segment] * volume.voxel_mm3 / MM3_PER_CM3)
            for spec in manifest.measurements
        ),
        timing_ms=prediction.timing_ms,
        device=prediction.device,
        runtime=prediction.runtime,
        detections=detections or (),
        classifications=classifications,
        heat_maps=tuple(HeatMap(spec.id, given) for spec, given in maps if given is not None),
        failed=tuple(FailedOutput(output, INVALID) for output in unread),
    )


def _detections(prediction: Prediction, volume: Volume, manifest: Manifest) -> tuple[Detection, ...] | None:
    """What was detected; None where the boxes failed and the rest may stand."""
    try:
        if manifest.detections and prediction.boxes is None:
            # Nobody looked, and the report would say that nothing is there.
            raise ModelFailed(INVALID, "no boxes of a model that detects")
        return detected(prediction.boxes or (), manifest.detections, volume.shape)
    except ModelFailed:
        if manifest.partial != "allow":
            raise
        return None
