"""An output that does not pass its check: all is withheld, or, where the manifest says so, that output alone."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torch

from dicom_bridge.statements import titles
from inference import checks, golden
from inference.engine import Engine
from inference.errors import InferenceError, ModelFailed, OutputImplausible, VolumeInvalid
from inference.found import FoundBox
from inference.golden import GoldenCase
from inference.run import findings_of
from inference.types import Classification, Detection, FailedOutput, Findings, Prediction, Volume
from models.codes import Range
from models.library import VerifiedModel
from models.manifest import HeatMapSpec, Manifest, MeasurementSpec, SegmentSpec
from models.ref import ModelRef
from tests.simulators import detecting_model, scoring_model, tiny_model, volumes
from tests.simulators import findings as phantom

SHAPE = (8, 10, 12)
GRID = volumes.block(SHAPE)
PLAIN = phantom.manifest(lesions=True)
MAPS = (HeatMapSpec("bleed", "Bleeding map", *(2 * [PLAIN.segments[1].type]), (1, 2, 3), calibrated=True),)
INVALID = "MODEL_OUTPUT_INVALID"


def measured(spec: MeasurementSpec, low: float) -> MeasurementSpec:
    """Of which so much is believable."""
    return replace(spec, plausible=Range(low, 0.1))


def bounded(number: int, spec: SegmentSpec) -> SegmentSpec:
    """The first segment may not be cut; the second may."""
    return replace(spec, border="refuse" if number == 1 else "allow")


WHOLE = replace(
    PLAIN,
    segments=tuple(bounded(one.number, one) for one in PLAIN.segments),
    measurements=tuple(measured(one, low) for one, low in zip(PLAIN.measurements, (0.01, 0.0), strict=True)),
    detections=phantom.manifest(kind="detections").detections[:1],
    classifications=phantom.manifest(kind="classifications").classifications,
    heat_maps=MAPS,
)
"""A brain that must be there, a bleeding that may be, nodules, two classifications and a heat map."""
PARTIAL = replace(WHOLE, partial="allow")
BOX = FoundBox(0, (1.0, 2.0, 2.0), (3.0, 5.0, 5.0), 0.75)
LIT = np.full(SHAPE, 100, np.uint8)


def labels(brain: int = 3, *, bleed: bool = True, cut: bool = False) -> npt.NDArray[np.uint8]:
    """A cube of brain, of so many voxels along each axis, and one voxel of bleeding; 27 voxels are 0.027 cm3."""
    made = np.zeros(SHAPE, np.uint8)
    made[(slice(0 if cut else 1, brain + 1), *(2 * [slice(1, brain + 1)]))] = 1
    if bleed:
        made[6, 7, 7] = 2
    return made


def given(**changes: Any) -> Prediction:
    """What an engine gives: all of it right but for the changes."""
    said: dict[str, Any] = {"labels": labels(), "scores": (0.9, 0.1), "boxes": (BOX,), "heat_maps": (LIT,)}
    said |= changes
    return Prediction(timing_ms={"total": 5}, device="cpu", runtime={}, **said)


def judged(prediction: Prediction, manifest: Manifest = PARTIAL) -> Findings:
    """As `run` has it."""
    return checks.plausible(findings_of(prediction, GRID, manifest), GRID, manifest)


ALL = {"segment:1", "segment:2", "classification:effusion", "classification:pneumothorax", "detection:nodule"} | {
    "heat_map:bleed"
}
BAD: dict[str, tuple[dict[str, Any], str, str]] = {
    "an empty segment": ({"labels": labels(0)}, "segment:1", "OUTPUT_EMPTY"),
    "a volume too small": ({"labels": labels(1)}, "segment:1", "OUTPUT_IMPLAUSIBLE"),
    "a volume too large": ({"labels": labels(5)}, "segment:1", "OUTPUT_IMPLAUSIBLE"),
    "cut by the border": ({"labels": labels(cut=True)}, "segment:1", "OUTPUT_TOUCHES_BORDER"),
    "not a number": ({"scores": (0.9, math.nan)}, "classification:pneumothorax", INVALID),
    "infinite": ({"scores": (math.inf, 0.1)}, "classification:effusion", INVALID),
    "above one": ({"scores": (1.0001, 0.1)}, "classification:effusion", INVALID),
    "below zero": ({"scores": (-0.0001, 0.1)}, "classification:effusion", INVALID),
    "boxes that the child refused": ({"boxes": None}, "detection:nodule", INVALID),
    "a box beside the image": ({"boxes": (BOX, replace(BOX, low=(1.0, 2.0, 90.0), high=(3.0, 5.0, 95.0)))},
                               "detection:nodule", INVALID),
    "a box of no kind": ({"boxes": (replace(BOX, kind=1),)}, "detection:nodule", INVALID),
    "a map that the child refused": ({"heat_maps": (None,)}, "heat_map:bleed", INVALID),
}  # fmt: skip


@pytest.mark.parametrize("case", BAD)
def test_one_bad_output_is_left_out_and_named(case: str, tmp_path: Path) -> None:
    """The others are there, as they would be without it; a crash after it was kept changes nothing."""
    changes, output, code = BAD[case]
    whole, made = judged(given()), judged(given(**changes))
    assert (whole.failed, whole.given, whole.outcome) == ((), ALL, "FINDINGS")
    assert made.failed == (FailedOutput(output, code),)
    assert (made.given, made.outcome, made.found) == (ALL - {output}, "PARTLY_FAILED", True)
    spec = {m.id: f"segment:{m.segment}" for m in PARTIAL.measurements}
    assert [one.id for one in made.measurements] == [name for name, of in spec.items() if of != output]
    made.save(tmp_path / "findings.npz")
    kept = Findings.load(tmp_path / "findings.npz")
    assert (kept.failed, kept.given, kept.outcome) == (made.failed, made.given, made.outcome)
    assert kept.measurements == made.measurements


@pytest.mark.parametrize("case", BAD)
def test_without_a_word_of_the_manifest_all_is_withheld(case: str) -> None:
    """The default; with the same code."""
    changes, _, code = BAD[case]
    with pytest.raises(InferenceError) as refused:
        judged(given(**changes), WHOLE)
    assert (refused.value.code, refused.value.fault) == (code, "MODEL")


def test_several_fail_each_with_its_own_code() -> None:
    """Segments first, by number; a segment with two faults is named once, by the first of the checks."""
    made = judged(given(labels=labels(5, cut=True), scores=(math.nan, 0.1), boxes=None))
    assert [(one.output, one.code) for one in made.failed] == [
        ("segment:1", "OUTPUT_IMPLAUSIBLE"),
        ("classification:effusion", INVALID),
        ("detection:nodule", INVALID),
    ]
    assert made.given == {"segment:2", "classification:pneumothorax", "heat_map:bleed"}


def test_where_nothing_is_found_beside_a_failure_that_is_no_absence_of_findings() -> None:
    """Nothing found, and a part failed: neither FINDINGS nor NO_FINDINGS."""
    made = judged(given(labels=labels(0, bleed=False), scores=(0.0, 0.1), boxes=()))
    assert ([one.output for one in made.failed], made.found, made.outcome) == (["segment:1"], False, "PARTLY_FAILED")


BRAIN = replace(PARTIAL, segments=PARTIAL.segments[:1], measurements=PARTIAL.measurements[:1], detections=())
ONLY: dict[str, tuple[Manifest, dict[str, Any], str | None]] = {
    "no segment": (replace(BRAIN, classifications=(), heat_maps=()), {"scores": ()}, "OUTPUT_EMPTY"),
    "a heat map alone": (replace(BRAIN, classifications=()), {"scores": (), "heat_maps": (LIT,)}, "OUTPUT_EMPTY"),
    "no score": (replace(BRAIN, heat_maps=()), {"scores": (math.nan, 7.0)}, "OUTPUT_EMPTY"),
    "a score": (replace(BRAIN, heat_maps=()), {"scores": (math.nan, 0.1)}, None),
    "a look without a box": (
        replace(BRAIN, classifications=(), heat_maps=(), detections=PARTIAL.detections),
        {"scores": (), "boxes": ()},
        None,
    ),
    "no look": (
        replace(BRAIN, classifications=(), heat_maps=(), detections=PARTIAL.detections),
        {"scores": (), "boxes": None},
        "OUTPUT_EMPTY",
    ),
}


@pytest.mark.parametrize("case", ONLY)
def test_where_nothing_is_left_to_report_the_run_fails(case: str) -> None:
    """With the code of the first output. A heat map shows nothing by itself; a look that found nothing says so."""
    manifest, changes, code = ONLY[case]
    prediction = given(**({"labels": labels(0, bleed=False), "boxes": None, "heat_maps": ()} | changes))
    if code is None:
        assert judged(prediction, manifest).outcome == "PARTLY_FAILED"
        return
    with pytest.raises(OutputImplausible, match="no output of the model passes") as refused:
        judged(prediction, manifest)
    assert refused.value.code == code


@pytest.mark.parametrize(
    ("changes", "code"),
    [
        ({"scores": (0.9,)}, INVALID),
        ({"scores": (0.9, 0.1, 0.2)}, INVALID),
        ({"heat_maps": ()}, INVALID),
        ({"labels": labels() * np.uint8(3)}, INVALID),
        ({"labels": labels()[1:]}, "OUTPUT_SHAPE"),
    ],
)
def test_an_answer_of_another_form_is_withheld_whole(changes: dict[str, Any], code: str) -> None:
    """Nobody could say which of its values is of which output."""
    with pytest.raises(InferenceError) as refused:
        judged(given(**changes))
    assert refused.value.code == code


def test_what_failed_is_named_once_and_is_not_there() -> None:
    """Findings that say otherwise cannot be made, nor a failure that has no code or no output."""
    failed = FailedOutput("classification:effusion", INVALID)
    said = Classification("effusion", "ABSENT", 0.1)
    for findings in ({"failed": (failed, failed)}, {"failed": (failed,), "classifications": (said,)}):
        with pytest.raises(VolumeInvalid, match="an output failed twice, or failed and is there"):
            Findings((), (), {}, "cpu", **findings)  # type: ignore[arg-type]
    box = Detection("nodule", (1.0, 2.0, 2.0), (3.0, 5.0, 5.0), 0.75)
    with pytest.raises(VolumeInvalid):
        Findings((), (), {}, "cpu", detections=(box,), failed=(FailedOutput("detection:nodule", INVALID),))
    for output, code in (("segment", INVALID), ("thing:1", INVALID), ("segment:1", "BROKEN"), ("segment: 1", INVALID)):
        with pytest.raises(VolumeInvalid):
            FailedOutput(output, code)  # type: ignore[arg-type]


def test_a_failure_that_the_manifest_does_not_allow_is_withheld() -> None:
    """Whoever made these findings: the manifest that was approved decides."""
    made = judged(given(scores=(math.nan, 0.1)))
    with pytest.raises(OutputImplausible, match="which the manifest does not allow") as refused:
        checks.plausible(made, GRID, WHOLE)
    assert refused.value.code == "OUTPUT_SHAPE"


def test_every_output_has_a_title() -> None:
    """What a reader calls it, by the name that findings and log have for it."""
    assert set(titles(WHOLE)) == ALL
    assert (titles(WHOLE)["segment:2"], titles(WHOLE)["heat_map:bleed"]) == ("Hemorrhage", "Bleeding map")
    assert titles(WHOLE)["classification:effusion"] == "Pleural effusion"


# ---- from the network on ---------------------------------------------------------------------------------------------


class Half(torch.nn.Module):  # type: ignore[misc]
    """Scores, and a heat map of halves, which is none; dark images have a right one."""

    def forward(self, x: torch.Tensor) -> dict[str, torch.Tensor]:
        """(1, 1, X, Y, Z) float32 -> {"pred": (1, 1, X, Y, Z), "scores": (1, 3)}."""
        pred = x * 0.0
        if float(x.max()) > 50.0:
            pred = pred + 0.5
        return {"pred": pred, "scores": torch.full([1, 3], 0.5)}


def allowed(model: VerifiedModel, digest: str, **changes: Any) -> VerifiedModel:
    """The model under another digest, with a manifest that allows partial answers."""
    manifest = replace(model.manifest, partial="allow", **changes)
    return replace(model, ref=ModelRef("tiny", "1", "sha256:" + digest * 64), manifest=manifest)


def answer(engine: Engine, model: VerifiedModel, brightest: float) -> Findings:
    """What comes of a block of this brightness."""
    volume = replace(GRID, voxels=GRID.voxels * np.float32(brightest))
    return checks.plausible(
        findings_of(engine.infer(model, volume, 30.0), volume, model.manifest), volume, model.manifest
    )


def test_a_score_that_is_no_number_comes_from_the_child_as_it_is(engine: Engine, tmp_path: Path) -> None:
    """The vector's other scores count; a vector of another length does not, and neither without the word."""
    strict = scoring_model.build(tmp_path / "m")
    model = allowed(strict, "9")
    for brightest, output in (
        (scoring_model.NOT_A_NUMBER, "calm"),
        (scoring_model.TOO_LARGE, "edema"),
        (scoring_model.BELOW_ZERO, "bleed"),
    ):
        made = answer(engine, model, brightest)
        assert made.failed == (FailedOutput(f"classification:{output}", INVALID),)
        assert {one.id for one in made.classifications} == {"bleed", "calm", "edema"} - {output}
        with pytest.raises(ModelFailed):
            answer(engine, strict, brightest)
    with pytest.raises(ModelFailed, match=r"scores are \(2,\)"):
        answer(engine, model, scoring_model.TOO_SHORT)


def test_a_map_that_is_none_is_lost_in_the_child(engine: Engine, tmp_path: Path) -> None:
    """Not taken for an empty one: it is named, and the scores beside it count."""
    made = scoring_model.build(tmp_path / "m", Half, scoring_model.INVERT, digest="5")
    strict = replace(made, manifest=replace(made.manifest, heat_maps=MAPS))
    model = allowed(strict, "8", heat_maps=MAPS)
    found = answer(engine, model, 90.0)
    assert (found.failed, found.heat_maps) == ((FailedOutput("heat_map:bleed", INVALID),), ())
    assert len(found.classifications) == 3
    assert [one.id for one in answer(engine, model, 40.0).heat_maps] == ["bleed"]
    with pytest.raises(ModelFailed, match="whole numbers"):
        answer(engine, strict, 90.0)


def test_boxes_that_are_none_fail_together(engine: Engine, tmp_path: Path) -> None:
    """Of a model that detects and no more nothing is left; right ones are found as ever."""
    model = allowed(detecting_model.build(tmp_path / "m"), "6")
    assert len(answer(engine, model, 1.0).detections) == 1
    for order in (detecting_model.NAN, detecting_model.SHAPES, detecting_model.BESIDE):
        with pytest.raises(OutputImplausible, match="no output of the model passes") as refused:
            answer(engine, model, order)
        assert refused.value.code == INVALID


class Scored:
    """An engine whose second score is no number."""

    def infer(self, model: VerifiedModel, volume: Volume, deadline_s: float) -> Prediction:
        """See EnginePort."""
        del model, deadline_s
        labelled = (volume.voxels > 0.5).astype(np.uint8)
        return Prediction(labelled, {"total": 1}, "cpu", {}, (), (0.9, math.nan))


def test_a_golden_case_wants_all() -> None:
    """Whatever a study's answer may lack: the case is known."""
    manifest = replace(tiny_model.manifest(), partial="allow", classifications=PARTIAL.classifications)
    model = VerifiedModel(ModelRef("tiny", "1", "sha256:" + "a" * 64), manifest, Path("unused"), MappingProxyType({}))
    case = GoldenCase("sha256:" + "0" * 64, GRID, {"thing_volume": 1.0}, 1.0)
    with pytest.raises(ModelFailed, match="classification:pneumothorax failed on the golden case"):
        golden.check(case, model, Scored())
