"""Networks that say whether a study shows a thing, in a real child process, to the report that a PACS gets."""

from __future__ import annotations

import io
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pydicom import dcmread
from pydicom.dataset import Dataset

from dicom_bridge.report import write_sr
from inference import checks
from inference.engine import Engine
from inference.errors import ModelFailed, OutputImplausible
from inference.run import findings_of
from inference.types import Classification, Findings, Volume
from models.codes import Code
from models.library import VerifiedModel
from models.manifest import HeatMapSpec
from tests.simulators import findings as phantom
from tests.simulators import scoring_model, validators, volumes
from tests.simulators.scoring_model import BELOW_ZERO, INVERT, NOT_A_NUMBER, SIGMOID, TOO_LARGE, TOO_SHORT

DEADLINE_S = 30.0
SAID = [("bleed", "PRESENT"), ("calm", "ABSENT"), ("edema", "UNDETERMINED")]
THING = Code("91723000", "SCT", "Anatomical Structure")
COPY: dict[str, Any] = {"_target_": "monai.transforms.CopyItemsd", "keys": "pred", "names": "scores"}


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> VerifiedModel:
    """A model of three classifications and nothing else."""
    return scoring_model.build(tmp_path_factory.mktemp("scores") / "m")


def lit(brightest: float, shape: tuple[int, int, int] = (8, 10, 12)) -> Volume:
    """A block of this brightness."""
    dark = volumes.block(shape)
    return replace(dark, voxels=dark.voxels * np.float32(brightest))


def found(engine: Engine, model: VerifiedModel, volume: Volume) -> Findings:
    """What `run` makes of the engine's answer, judged."""
    made = findings_of(engine.infer(model, volume, DEADLINE_S), volume, model.manifest)
    checks.plausible(made, volume, model.manifest)
    return made


@pytest.mark.parametrize("brightest", [0.0, 24.0, 25.0, 50.0, 74.0, 75.0, 90.0, 100.0])
def test_scores_by_the_manifest_s_bounds(engine: Engine, model: VerifiedModel, brightest: float) -> None:
    """Each of them in the manifest's order, from the network's vector to what is said; no mask, no number."""
    said = found(engine, model, lit(brightest)).classifications
    share = brightest / 100
    assert [one.score for one in said] == pytest.approx([share, 1 - share, 0.5], abs=1e-6)
    wanted = "ABSENT" if share < 0.25 else "PRESENT" if share >= 0.75 else "UNDETERMINED"
    mirrored = "ABSENT" if 1 - share < 0.25 else "PRESENT" if 1 - share >= 0.75 else "UNDETERMINED"
    assert [one.presence for one in said] == [wanted, mirrored, "UNDETERMINED"]


def test_there_is_no_label_map(engine: Engine, model: VerifiedModel) -> None:
    """A model without segments has one of zeros, on the volume's own grid."""
    volume = lit(90.0, (8, 9, 11))
    answer = engine.infer(model, volume, DEADLINE_S)
    assert answer.labels.shape == volume.shape
    assert (answer.labels.dtype, int(answer.labels.max())) == (np.uint8, 0)
    assert answer.heat_maps == ()
    assert found(engine, model, volume).segments == ()


@pytest.mark.parametrize(
    ("brightest", "says"),
    [
        (NOT_A_NUMBER, "not a finite number"),
        (TOO_SHORT, r"scores are \(2,\) torch.float32, not \(3,\)"),
        (TOO_LARGE, "not from 0 to 1"),
        (BELOW_ZERO, "not from 0 to 1"),
    ],
)
def test_a_wrong_vector_is_refused(engine: Engine, model: VerifiedModel, brightest: float, says: str) -> None:
    """With what is wrong with it; the child lives on, and the next study is answered."""
    with pytest.raises(ModelFailed, match=says) as refused:
        engine.infer(model, lit(brightest), DEADLINE_S)
    assert (refused.value.code, refused.value.fault) == ("MODEL_OUTPUT_INVALID", "MODEL")
    assert [(one.id, one.presence) for one in found(engine, model, lit(90.0)).classifications] == SAID


def test_another_number_of_scores_is_seen_when_the_model_is_warmed(engine: Engine, tmp_path: Path) -> None:
    """Before any study: a manifest of two, a network of three."""
    with pytest.raises(ModelFailed, match=r"not \(2,\)") as refused:
        engine.warm(scoring_model.build(tmp_path / "m", digest="c", count=2))
    assert refused.value.code == "MODEL_OUTPUT_INVALID"


def test_a_load_that_fails_leaves_the_others_answering(engine: Engine, model: VerifiedModel, tmp_path: Path) -> None:
    """It may have pushed the model out that was unused for longest: that one is loaded again, and is no failure."""
    found(engine, model, lit(90.0))
    for digest in "456":
        engine.warm(scoring_model.build(tmp_path / digest, digest=digest))
    with pytest.raises(ModelFailed):
        engine.warm(scoring_model.build(tmp_path / "bad", digest="7", count=2))
    assert len(engine.describe()["warm"]) == 3
    assert [(one.id, one.presence) for one in found(engine, model, lit(90.0)).classifications] == SAID


def test_logits_become_scores_in_the_bundle_s_postprocessing(engine: Engine, tmp_path: Path) -> None:
    """MONAI's own transform; without it they are refused, as a logit is no share."""
    made = scoring_model.build(tmp_path / "m", scoring_model.Logits, SIGMOID, digest="d")
    assert [(one.id, one.presence) for one in found(engine, made, lit(90.0)).classifications] == SAID
    bare = scoring_model.build(tmp_path / "bare", scoring_model.Logits, digest="e")
    with pytest.raises(ModelFailed, match="0 to 1"):
        engine.infer(bare, lit(90.0), DEADLINE_S)


def test_a_label_map_and_scores(engine: Engine, tmp_path: Path) -> None:
    """One network that gives both, by name: the map is turned back, the scores are beside it."""
    made = scoring_model.build(tmp_path / "m", scoring_model.Both, INVERT, digest="f", drawn=True)
    affine = volumes.every_orientation()[17]
    volume = Volume(lit(90.0).voxels, affine, volumes.DIGEST, "MR")
    both = found(engine, made, volume)
    assert np.array_equal(both.segments[0].mask, volume.voxels > 0.5)
    assert [(one.id, one.presence) for one in both.classifications] == SAID
    assert both.measurements[0].id == "thing_volume"


def test_scores_and_where_the_model_looked(engine: Engine, tmp_path: Path) -> None:
    """Without segments the first channel of `pred` is a heat map already: there is no label map before it."""
    made = scoring_model.build(tmp_path / "m", scoring_model.Both, INVERT, digest="3")
    spec = HeatMapSpec("bleed", "Bleed", made.manifest.classifications[0].concept, THING, (1, 2, 3), calibrated=False)
    made = replace(made, manifest=replace(made.manifest, heat_maps=(spec,)))
    volume = Volume(lit(90.0).voxels, volumes.every_orientation()[29], volumes.DIGEST, "MR")
    both = found(engine, made, volume)
    assert (both.segments, [one.id for one in both.heat_maps]) == ((), ["bleed"])
    seen = np.stack([both.heat_maps[0].levels(k) for k in range(volume.shape[0])])
    assert np.array_equal(seen, volume.voxels > 0.5)
    assert [(one.id, one.presence) for one in both.classifications] == SAID


def test_scores_that_are_missing_beside_a_label_map(engine: Engine, tmp_path: Path) -> None:
    """`pred` is the label map there; the manifest's classifications must not be left out."""
    made = scoring_model.build(tmp_path / "m", scoring_model.tiny_model.Threshold, INVERT, digest="1", drawn=True)
    with pytest.raises(ModelFailed, match="the answer has no scores"):
        engine.warm(made)


def test_a_label_map_is_no_vector(engine: Engine, tmp_path: Path) -> None:
    """A network that draws, under a manifest of classifications alone."""
    made = scoring_model.build(tmp_path / "m", scoring_model.tiny_model.Threshold, INVERT, COPY, digest="2")
    with pytest.raises(ModelFailed, match="scores are"):
        engine.warm(made)


def test_a_presence_that_is_not_the_score_s_is_withheld(model: VerifiedModel) -> None:
    """The manifest's bounds were approved: nobody else decides."""
    said = [Classification("bleed", "ABSENT", 0.9), Classification("calm", "ABSENT"), Classification("edema", "ABSENT")]
    with pytest.raises(OutputImplausible, match="bleed") as refused:
        checks.plausible(Findings((), (), {}, "cpu", classifications=tuple(said)), lit(1.0), model.manifest)
    assert refused.value.code == "OUTPUT_IMPLAUSIBLE"


# ---- to the report ---------------------------------------------------------------------------------------------------


def report_of(findings: Findings, model: VerifiedModel, tmp_path: Path) -> Dataset:
    """The structured report, as a judge and a reader have it."""
    data = write_sr(
        findings, model.manifest, model.ref, phantom.series((8, 10, 12)), None, phantom.context("zh-CN", "GB18030")
    )
    (tmp_path / "sr.dcm").write_bytes(data)
    return dcmread(io.BytesIO(data))


def test_from_the_network_to_the_report(engine: Engine, model: VerifiedModel, tmp_path: Path) -> None:
    """All three answers with their scores, kept and read again, and judged by three programs that we did not write."""
    made = found(engine, model, lit(90.0))
    made.save(tmp_path / "findings.npz")
    kept = Findings.load(tmp_path / "findings.npz")
    assert kept.classifications == made.classifications
    assert (made.outcome, found(engine, model, lit(50.0)).outcome) == ("FINDINGS", "NO_FINDINGS")
    report_of(kept, model, tmp_path)
    path = tmp_path / "sr.dcm"
    assert validators.dciodvfy(path) == []
    assert validators.sr_validator(path) == []
    assert validators.dsrdump(path) == []
    lines = validators.dsrdump_text(path).splitlines()
    for concept, value, score in (
        ("Hemorrhage", "Present", 'Certainty of Finding")="90.00"'),
        ("Normal", "Absent", 'Certainty of Finding")="10.00"'),
        ("Edema", "Undetermined", '="0.5'),
    ):
        (place,) = [number for number, line in enumerate(lines) if f'"{concept}")' in line and f'"{value}")' in line]
        assert score in lines[place + 1], lines[place + 1]
