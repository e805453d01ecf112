"""Nothing runs without a permit for exactly this model and input, now; what runs is measured and checked."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from types import MappingProxyType, SimpleNamespace
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from ethics_review.gate import PERMIT_LIFETIME
from ethics_review.permit import Permit
from inference.errors import InferenceError, InputUnfit, ModelFailed, OutputImplausible, PermitRefused
from inference.run import findings_of, run
from inference.types import Prediction, Volume
from models.library import VerifiedModel
from models.ref import ModelRef
from tests.simulators import findings as phantom
from tests.simulators import reviewer, tiny_model, volumes

NOW = reviewer.DURING
REF = ModelRef("tiny", "1", "sha256:" + "a" * 64)
MODEL = VerifiedModel(REF, tiny_model.manifest(), Path("unused"), MappingProxyType({}))
REVIEWER = reviewer.Reviewer()


def _permit(model: ModelRef = REF, input_digest: str = volumes.DIGEST) -> Permit:
    return reviewer.decide_live(
        reviewer.request(model=model, input_digest=input_digest), (REVIEWER.approve(model),), NOW
    )


class FakeEngine:
    """Labels what is brighter than a half, and counts its calls. Keeps the port's promise: the volume's own grid."""

    def __init__(self, labels: Callable[[Volume], npt.NDArray[np.uint8]] | None = None) -> None:
        self.calls: list[float] = []
        self._labels = labels or (lambda volume: (volume.voxels > 0.5).astype(np.uint8))

    def infer(self, model: VerifiedModel, volume: Volume, deadline_s: float) -> Prediction:
        """See EnginePort."""
        assert model.ref == REF
        self.calls.append(deadline_s)
        return Prediction(self._labels(volume), {"total": 5}, "cpu", {"torch": "2.13.0"})


def test_findings_of_a_permitted_run() -> None:
    """The mask is on the volume's grid, the volume in cm3 comes from counted voxels and the affine."""
    volume = volumes.block((8, 10, 12), volumes.axial((2.0, 1.5, 0.5)))
    engine = FakeEngine()
    findings = run(_permit(), MODEL, volume, engine, NOW)
    assert np.array_equal(findings.segments[0].mask, volume.voxels > 0.5)
    assert findings.segments[0].number == 1
    assert findings.measurements[0].id == "thing_volume"
    assert findings.measurements[0].value == pytest.approx(4 * 5 * 6 * 1.5 / 1000)
    assert engine.calls == [60.0]
    assert (findings.device, findings.runtime, findings.timing_ms) == ("cpu", {"torch": "2.13.0"}, {"total": 5})


@pytest.mark.parametrize("nothing", [None, True, "permit", SimpleNamespace(model=REF, valid_at=lambda _: True)])
def test_no_permit_no_run(nothing: Any) -> None:
    """What is not a Permit, however alike, opens nothing; the engine is never called."""
    engine = FakeEngine()
    with pytest.raises(PermitRefused) as caught:
        run(nothing, MODEL, volumes.block(), engine, NOW)
    assert caught.value.code == "PERMIT_MISSING"
    assert engine.calls == []


@pytest.mark.parametrize(
    "other",
    [replace(REF, digest="sha256:" + "b" * 64), replace(REF, version="2"), replace(REF, name="tiny-2")],
)
def test_a_permit_for_another_model_is_refused(other: ModelRef) -> None:
    """Name, version and digest must all be the permit's: one changed weight is another model."""
    engine = FakeEngine()
    with pytest.raises(PermitRefused) as caught:
        run(_permit(model=other), MODEL, volumes.block(), engine, NOW)
    assert caught.value.code == "PERMIT_MODEL_MISMATCH"
    assert engine.calls == []


def test_a_permit_for_another_input_is_refused() -> None:
    """A permit cannot be carried over to the next study."""
    engine = FakeEngine()
    with pytest.raises(PermitRefused) as caught:
        run(_permit(input_digest="sha256:" + "2" * 64), MODEL, volumes.block(), engine, NOW)
    assert caught.value.code == "PERMIT_INPUT_MISMATCH"
    assert engine.calls == []


@pytest.mark.parametrize(
    ("later", "permitted"),
    [
        (timedelta(0), True),
        (PERMIT_LIFETIME - timedelta(microseconds=1), True),
        (PERMIT_LIFETIME, False),
        (-timedelta(microseconds=1), False),
    ],
)
def test_a_permit_is_over_when_it_is_over(later: timedelta, permitted: bool) -> None:
    """To the microsecond: valid from its issue until before its end."""
    engine = FakeEngine()
    if permitted:
        run(_permit(), MODEL, volumes.block(), engine, NOW + later)
        return
    with pytest.raises(PermitRefused) as caught:
        run(_permit(), MODEL, volumes.block(), engine, NOW + later)
    assert caught.value.code == "PERMIT_EXPIRED"
    assert engine.calls == []


def test_an_unfit_volume_never_reaches_the_engine() -> None:
    """The input contract is checked before the device is used."""
    engine = FakeEngine()
    with pytest.raises(InputUnfit):
        run(_permit(), MODEL, volumes.block((3, 10, 12)), engine, NOW)
    assert engine.calls == []


def _outcome(labels: Callable[[Volume], npt.NDArray[np.uint8]]) -> InferenceError:
    with pytest.raises(InferenceError) as caught:
        run(_permit(), MODEL, volumes.block(), FakeEngine(labels), NOW)
    return caught.value


def test_an_implausible_answer_is_withheld() -> None:
    """Empty, cut, or on another grid: no findings are returned."""
    assert _outcome(lambda v: np.zeros(v.shape, np.uint8)).code == "OUTPUT_EMPTY"
    assert _outcome(lambda v: np.ones(v.shape, np.uint8)).code == "OUTPUT_TOUCHES_BORDER"
    wrong = _outcome(lambda v: np.ones(v.shape[::-1], np.uint8))
    assert isinstance(wrong, OutputImplausible)
    assert wrong.code == "OUTPUT_SHAPE"


@pytest.mark.parametrize("label", [2, 255])
def test_an_unknown_label_is_the_models_fault(label: int) -> None:
    """One voxel of a label that the manifest does not know withholds everything: its meaning would be a guess."""

    def labels(volume: Volume) -> npt.NDArray[np.uint8]:
        result = (volume.voxels > 0.5).astype(np.uint8)
        result[4, 4, 4] = label
        return result

    error = _outcome(labels)
    assert isinstance(error, ModelFailed)
    assert (error.code, error.fault) == ("MODEL_OUTPUT_INVALID", "MODEL")


@pytest.mark.parametrize("kind", ["detections", "classifications"])
def test_a_label_map_says_nothing_of_detections_or_classifications(kind: str) -> None:
    """An engine that gives labels alone must not make "absent" of what nobody looked for."""
    volume = volumes.block()
    prediction = Prediction(np.zeros(volume.shape, dtype=np.uint8), {}, "cpu", {})
    with pytest.raises(ModelFailed) as refused:
        findings_of(prediction, volume, phantom.manifest(kind=kind))
    assert refused.value.code == "MODEL_OUTPUT_INVALID"
