"""A model small enough for a unit test: a TorchScript network of one threshold, as a MONAI bundle in a folder.

It labels what is brighter than a half. A voxel of -1 in the image's first corner makes it hang for minutes and -2 makes
it raise, so that an engine can be tried with a network that misbehaves.
"""

from __future__ import annotations

import json
import warnings
from dataclasses import replace
from pathlib import Path
from types import MappingProxyType

import torch

from models.codes import Code, Range
from models.library import VerifiedModel
from models.manifest import BundleSpec, InputContract, Manifest, MeasurementSpec, SegmentSpec
from models.ref import ModelRef

HANG, RAISE, WRONG_LABEL = -1.0, -2.0, -3.0
"""Put into voxel (0, 0, 0) of the canonical image."""

INFERENCE = {
    "bundle_root": ".",
    "device": "cpu",
    "preprocessing": {
        "_target_": "monai.transforms.Compose",
        "transforms": [
            {"_target_": "monai.transforms.Orientationd", "keys": "image", "axcodes": "RAS", "labels": None}
        ],
    },
    "network_def": {
        "_target_": "inference.coarse_to_fine.load_torchscript",
        "root": "@bundle_root",
        "file": "models/model.pt",
        "device": "@device",
    },
    "inferer": {"_target_": "monai.inferers.SimpleInferer"},
    "postprocessing": {
        "_target_": "monai.transforms.Compose",
        "transforms": [
            {
                "_target_": "monai.transforms.Invertd",
                "keys": "pred",
                "transform": "@preprocessing",
                "orig_keys": "image",
                "nearest_interp": True,
                "to_tensor": True,
            }
        ],
    },
}


class Threshold(torch.nn.Module):  # type: ignore[misc]
    """1 where the image is brighter than a half; misbehaves on request."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(1, 1, X, Y, Z) float32 -> the same shape, 0 or 1."""
        order = float(x.flatten()[0])
        if order == -1.0:
            y = torch.zeros([64, 64])
            for _ in range(1_000_000_000):
                y = torch.tanh(y + 1)
            return y
        if order == -2.0:
            raise RuntimeError("asked to fail")
        if order == -3.0:
            return x.gt(0.5).float() * 0.5
        return x.gt(0.5).float()


class Slow(torch.nn.Module):  # type: ignore[misc]
    """As Threshold, but for an image that is brighter than 1.5 anywhere it computes for minutes."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(1, 1, X, Y, Z) float32 -> the same shape, 0 or 1."""
        if float(x.max()) > 1.5:
            y = torch.zeros([64, 64])
            for _ in range(1_000_000_000):
                y = torch.tanh(y + 1)
            return y
        return x.gt(0.5).float()


def manifest() -> Manifest:
    """One segment of one measured volume; every limit of the input contract is easy to step over."""
    thing = Code("91723000", "SCT", "Anatomical Structure")
    return Manifest(
        name="tiny",
        version="1",
        title={"en": "Tiny", "zh": "微型"},
        vendor="Test Vendor",
        licence="MIT",
        intended_use={"en": "Tests only.", "zh": "仅用于测试。"},
        limits_text={"en": "Tests only.", "zh": "仅用于测试。"},
        algorithm_family=Code("123110", "DCM", "Artificial Intelligence"),
        input=InputContract(
            modality=("MR",),
            sop_classes=("1.2.840.10008.5.1.4.1.1.4",),
            body_part=("BRAIN",),
            description_any=(),
            image_type_excludes=(),
            slices=Range(4, 40),
            slice_spacing_mm=Range(0.5, 4.0),
            pixel_spacing_mm=Range(0.5, 2.0),
            fov_mm=Range(4.0, 60.0),
        ),
        segments=(SegmentSpec(1, "Thing", thing, thing, (1, 2, 3), "refuse"),),
        measurements=(
            MeasurementSpec(
                id="thing_volume",
                concept=Code("118565006", "SCT", "Volume"),
                unit=Code("cm3", "UCUM", "cubic centimeter"),
                segment=1,
                kind="volume_cm3",
                decimals=1,
                plausible=Range(0.01, 10.0),
                site=thing,
                method=None,
            ),
        ),
        bundle=BundleSpec("configs/inference.json", "configs/metadata.json"),
        deadline_s=60,
        max_autonomy="A1",
    )


def build(root: Path, *, digest: str = "a", **changes: object) -> VerifiedModel:
    """The model in the folder `root`, as if verified; `changes` replace top-level keys of its inference.json."""
    (root / "configs").mkdir(parents=True)
    (root / "models").mkdir()
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=r"`torch\.jit\.", category=Warning)
        torch.jit.save(torch.jit.script(Threshold()), str(root / "models" / "model.pt"))
    (root / "configs" / "inference.json").write_text(json.dumps({**INFERENCE, **changes}), encoding="utf-8")
    ref = ModelRef("tiny", "1", "sha256:" + digest * 64)
    return VerifiedModel(ref, manifest(), root, MappingProxyType({}))


def with_input(model: VerifiedModel, **changes: object) -> VerifiedModel:
    """The model with other values in its input contract."""
    contract = replace(model.manifest.input, **changes)  # type: ignore[arg-type]
    return replace(model, manifest=replace(model.manifest, input=contract))
