"""Small models that detect: TorchScript networks that box what is bright, as MONAI bundles."""

from dataclasses import replace
from pathlib import Path
from types import MappingProxyType
from typing import Any, Final

import torch

from models.library import VerifiedModel
from models.ref import ModelRef
from tests.simulators import findings as phantom
from tests.simulators import scoring_model, tiny_model

SPACED: Final[dict[str, Any]] = {
    "_target_": "monai.transforms.Compose",
    "transforms": [
        {"_target_": "monai.transforms.Orientationd", "keys": "image", "axcodes": "LPS", "labels": None},
        {"_target_": "monai.transforms.Spacingd", "keys": "image", "pixdim": [0.5, 0.5, 0.5], "mode": "nearest"},
    ],
}
"""Preprocessing onto a grid of another orientation and spacing."""

NAN, BEHIND, NO_KIND, BESIDE, SHAPES, FLAT, MANY, HALF, LOST = (float(n) for n in range(11, 20))
"""Brightest voxels with which `Boxes` gives a wrong answer."""


class Boxes(torch.nn.Module):  # type: ignore[misc]
    """One box around all that is brighter than a half, of kind 0; and one of kind 1 whose score is a tenth."""

    def forward(self, x: torch.Tensor) -> list[dict[str, torch.Tensor]]:
        """(1, 1, X, Y, Z) float32 -> [{"box": (2, 6), "label": (2,), "label_scores": (2,)}]."""
        where = torch.nonzero(x[0, 0] > 0.5).float()
        box = torch.zeros([0, 6])
        label = torch.zeros([0], dtype=torch.int64)
        score = torch.zeros([0])
        if where.shape[0] > 0:
            one = torch.cat([where.amin(0) - 0.5, where.amax(0) + 0.5])
            box = torch.stack([one, one])
            label = torch.tensor([0, 1])
            score = torch.tensor([0.875, 0.1])
        order = int(x.max())
        if order == 11:
            box[0, 2] = float("nan")
        if order == 12:
            box[0] = torch.cat([box[0, 3:], box[0, :3]])
        if order == 13:
            label = torch.tensor([0, 2])
        if order == 14:
            box[0] += 1000.0
        if order == 15:
            score = score[:1]
        if order == 16:
            box[0, 4] = box[0, 1]
        if order == 17:
            box, label, score = box[:1].repeat(300, 1), label[:1].repeat(300), score[:1].repeat(300)
        if order == 18:
            label = torch.tensor([0.0, 0.5])
        if order == 19:
            score = score + 1.0
        return [{"box": box, "label": label, "label_scores": score}]


def build(root: Path, *, digest: str = "d", **changes: object) -> VerifiedModel:
    """The model in the folder `root`, as if verified, with the phantom's two kinds; `changes` go to inference.json."""
    post = scoring_model.inference()["postprocessing"]
    made = tiny_model.build(root, digest=digest, **({"postprocessing": post} | changes))
    scoring_model.save(Boxes, root / "models" / "model.pt")
    kinds = phantom.manifest(kind="detections").detections
    manifest = replace(made.manifest, detections=kinds, segments=(), measurements=())
    return VerifiedModel(ModelRef("tiny", "1", "sha256:" + digest * 64), manifest, root, MappingProxyType({}))
