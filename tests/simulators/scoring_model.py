"""Small models that say whether a study shows a thing: TorchScript networks of one maximum, as MONAI bundles.

The brightest voxel, as a share of 100, is the first score; the second is what is missing to 1; the third is a half.
What is brighter than 100 makes the network misbehave, so that an engine can be tried with wrong vectors.
"""

import json
import warnings
from dataclasses import replace
from pathlib import Path
from types import MappingProxyType
from typing import Any, Final

import torch

from models.library import VerifiedModel
from models.manifest import ClassificationSpec, parse_manifest
from models.ref import ModelRef
from tests.simulators import small_model, tiny_model

BRIGHT: Final = 100.0
NOT_A_NUMBER, TOO_SHORT, TOO_LARGE, BELOW_ZERO = 101.0, 102.0, 103.0, 104.0
"""Brightest voxels with which the network gives a wrong vector."""

_NAMES: Final = {
    "bleed": ("50960005", "Hemorrhage"),
    "calm": ("17621005", "Normal"),
    "edema": ("79654002", "Edema"),
}
CLASSIFICATIONS: Final[list[dict[str, Any]]] = [
    {
        "id": name,
        "concept": {"value": value, "scheme": "SCT", "meaning": meaning},
        "calibrated": name != "edema",
        "absent_below": 0.25,
        "present_from": 0.75,
    }
    for name, (value, meaning) in _NAMES.items()
]


class Scores(torch.nn.Module):  # type: ignore[misc]
    """Three scores, or what no score can be."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(1, 1, X, Y, Z) float32 -> (1, 3)."""
        top = x.max()
        share = top.clamp(0.0, 100.0) / 100.0
        scores = torch.stack([share, 1.0 - share, torch.full_like(share, 0.5)])[None]
        if float(top) == 101.0:
            scores[0, 1] = float("nan")
        if float(top) == 102.0:
            scores = scores[:, :2]
        if float(top) == 103.0:
            scores[0, 2] = 1.5
        if float(top) == 104.0:
            scores[0, 0] = -0.25
        return scores


class Logits(torch.nn.Module):  # type: ignore[misc]
    """The same as logits: the bundle's postprocessing makes scores of them."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(1, 1, X, Y, Z) float32 -> (1, 3)."""
        share = x.max().clamp(0.0, 100.0) / 100.0
        return torch.stack([share, 1.0 - share, torch.full_like(share, 0.5)])[None].logit()


class Both(torch.nn.Module):  # type: ignore[misc]
    """A label map of what is brighter than a half, and the scores; NOT_A_NUMBER as of Scores."""

    def forward(self, x: torch.Tensor) -> dict[str, torch.Tensor]:
        """(1, 1, X, Y, Z) float32 -> {"pred": the same shape, "scores": (1, 3)}."""
        share = x.max().clamp(0.0, 100.0) / 100.0
        scores = torch.stack([share, 1.0 - share, torch.full_like(share, 0.5)])[None]
        if float(x.max()) == 101.0:
            scores[0, 1] = float("nan")
        return {"pred": x.gt(0.5).float(), "scores": scores}


def inference(*transforms: dict[str, Any]) -> dict[str, Any]:
    """The tiny model's inference.json with this postprocessing."""
    return tiny_model.INFERENCE | {
        "postprocessing": {"_target_": "monai.transforms.Compose", "transforms": list(transforms)}
    }


SIGMOID: Final = {"_target_": "monai.transforms.Activationsd", "keys": "pred", "sigmoid": True}
INVERT: Final[dict[str, Any]] = tiny_model.INFERENCE["postprocessing"]["transforms"][0]  # type: ignore[index]


def specs(count: int = 3) -> tuple[ClassificationSpec, ...]:
    """The first of the classifications, as a manifest has them."""
    fields = small_model.manifest_fields(segments=[], measurements=[], classifications=CLASSIFICATIONS[:count])
    return parse_manifest(small_model.as_json(fields)).classifications


def build(
    root: Path,
    network: type[torch.nn.Module] = Scores,
    *transforms: dict[str, Any],
    digest: str = "b",
    count: int = 3,
    drawn: bool = False,
) -> VerifiedModel:
    """A model in the folder `root`, as if verified; `drawn`: with the tiny model's segment."""
    made = tiny_model.build(root, digest=digest, postprocessing=inference(*transforms)["postprocessing"])
    save(network, root / "models" / "model.pt")
    manifest = replace(made.manifest, classifications=specs(count))
    if not drawn:
        manifest = replace(manifest, segments=(), measurements=())
    return VerifiedModel(ModelRef("tiny", "1", "sha256:" + digest * 64), manifest, root, MappingProxyType({}))


def stage(
    folder: Path, network: type[torch.nn.Module] = Scores, *transforms: dict[str, Any], **changes: object
) -> Path:
    """A complete model of classifications alone, ready to install, that takes a site's series; `changes` go to its
    manifest.
    """
    fields = small_model.manifest_fields(
        **{"segments": [], "measurements": [], "classifications": CLASSIFICATIONS, "name": "small-scores"} | changes
    )
    fields["deadline_s"] = 60
    fields["input"] |= {"slices": [8, 40], "fov_mm": [10.0, 100.0], "slice_spacing_mm": [0.5, 2.0]}
    (folder / "configs").mkdir(parents=True)
    (folder / "models").mkdir()
    (folder / "manifest.json").write_bytes(small_model.as_json(fields))
    (folder / "configs" / "inference.json").write_text(json.dumps(inference(*transforms)), encoding="utf-8")
    (folder / "configs" / "metadata.json").write_text('{"version": "1.0"}', encoding="utf-8")
    save(network, folder / "models" / "model.pt")
    return folder


def save(network: type[torch.nn.Module], path: Path) -> None:
    """As TorchScript."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=r"`torch\.jit\.", category=Warning)
        torch.jit.save(torch.jit.script(network()), str(path))
