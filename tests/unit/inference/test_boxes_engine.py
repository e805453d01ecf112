"""A network that detects, in a real child process, from any grid to the report that a PACS gets."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest

from dicom_bridge.report import write_sr
from inference import checks
from inference.engine import Engine
from inference.errors import ModelFailed
from inference.run import findings_of
from inference.types import Findings, Volume
from models.library import VerifiedModel
from tests.simulators import detecting_model as wrong
from tests.simulators import findings as phantom
from tests.simulators import validators, volumes

DEADLINE_S = 30.0
SHAPE = (8, 10, 12)
LOW, HIGH = (2, 1, 5), (5, 4, 9)
"""The bright block's first and last voxel."""


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> VerifiedModel:
    """A model that looks at the canonical grid itself."""
    return wrong.build(tmp_path_factory.mktemp("boxes") / "m")


@pytest.fixture(scope="module")
def spaced(tmp_path_factory: pytest.TempPathFactory) -> VerifiedModel:
    """A model whose preprocessing turns the image and makes its voxels finer."""
    return wrong.build(tmp_path_factory.mktemp("spaced") / "m", digest="e", preprocessing=wrong.SPACED)


def lit(affine: npt.NDArray[np.float64] | None = None, brightness: float = 1.0) -> Volume:
    """A block without symmetry."""
    voxels = np.zeros(SHAPE, np.float32)
    voxels[tuple(slice(a, b + 1) for a, b in zip(LOW, HIGH, strict=True))] = brightness
    return Volume(voxels, volumes.axial() if affine is None else affine, volumes.DIGEST, "MR")


def found(engine: Engine, model: VerifiedModel, volume: Volume) -> Findings:
    """What `run` makes of the engine's answer, judged."""
    made = findings_of(engine.infer(model, volume, DEADLINE_S), volume, model.manifest)
    checks.plausible(made, volume, model.manifest)
    return made


@pytest.mark.parametrize("affine", [*volumes.every_orientation()[::11], volumes.oblique(3)])
def test_boxes_come_back_on_the_source_grid(
    engine: Engine, model: VerifiedModel, affine: npt.NDArray[np.float64]
) -> None:
    """From any orientation: the very voxels that are bright; what is below its threshold is not told."""
    (one,) = found(engine, model, lit(affine)).detections
    assert (one.id, one.score) == ("nodule", 0.875)
    assert one.low == pytest.approx([edge - 0.5 for edge in LOW], abs=1e-6)
    assert one.high == pytest.approx([edge + 0.5 for edge in HIGH], abs=1e-6)


@pytest.mark.parametrize("affine", volumes.every_orientation()[::13])
def test_from_the_grid_that_the_preprocessing_made(
    engine: Engine, spaced: VerifiedModel, affine: npt.NDArray[np.float64]
) -> None:
    """Twice as fine and turned: the same block, to half a voxel of the network's grid."""
    (one,) = found(engine, spaced, lit(affine)).detections
    assert one.low == pytest.approx([edge - 0.5 for edge in LOW], abs=0.51)
    assert one.high == pytest.approx([edge + 0.5 for edge in HIGH], abs=0.51)


def test_nothing_found_is_an_answer(engine: Engine, model: VerifiedModel) -> None:
    """No box at all: no finding, and no failure."""
    dark = replace(lit(), voxels=np.full(SHAPE, 0.25, np.float32))
    made = found(engine, model, dark)
    assert (made.detections, made.outcome) == ((), "NO_FINDINGS")


@pytest.mark.parametrize(
    ("order", "says"),
    [
        (wrong.NAN, "not finite"),
        (wrong.BEHIND, "second corner"),
        (wrong.NO_KIND, "not one of the 2"),
        (wrong.BESIDE, "beside the image"),
        (wrong.SHAPES, "shapes"),
        (wrong.FLAT, "without an extent"),
        (wrong.MANY, "300 detections"),
        (wrong.HALF, "not one of the 2"),
        (wrong.LOST, "not from 0 to 1"),
    ],
)
def test_a_wrong_answer_is_refused(engine: Engine, model: VerifiedModel, order: float, says: str) -> None:
    """With what is wrong with it, in the child or here; the next study is answered."""
    with pytest.raises(ModelFailed, match=says) as refused:
        found(engine, model, lit(brightness=order))
    assert (refused.value.code, refused.value.fault) == ("MODEL_OUTPUT_INVALID", "MODEL")
    assert len(found(engine, model, lit()).detections) == 1


def test_from_the_network_to_the_report(engine: Engine, model: VerifiedModel, tmp_path: Path) -> None:
    """Kept and read again, and judged by three programs that we did not write."""
    made = found(engine, model, lit())
    made.save(tmp_path / "findings.npz")
    kept = Findings.load(tmp_path / "findings.npz")
    assert kept.detections == made.detections
    assert made.outcome == "FINDINGS"
    data = write_sr(kept, model.manifest, model.ref, phantom.series(SHAPE), None, phantom.context("zh-CN", "GB18030"))
    path = tmp_path / "sr.dcm"
    path.write_bytes(data)
    assert validators.dciodvfy(path) == []
    assert validators.sr_validator(path) == []
    assert validators.dsrdump(path) == []
    lines = validators.dsrdump_text(path).splitlines()
    assert [line for line in lines if '"Nodule")' in line and '"Present")' in line]
    assert [line for line in lines if '"Hemorrhage")' in line and '"Absent")' in line]
    assert [line for line in lines if 'Certainty of Finding")="87.50"' in line]
