"""A model of a few bytes with a manifest like a real one: for tests that need files, not findings."""

import copy
import json
from pathlib import Path
from typing import Any, Final

_BRAIN: Final = {"value": "12738006", "scheme": "SCT", "meaning": "Brain"}
_MANIFEST: Final[dict[str, Any]] = {
    "schema": "zhiying.model/1",
    "name": "small-model",
    "version": "1.0",
    "title": {"en": "Small model", "zh": "小模型"},
    "vendor": "TEST Vendor",
    "licence": "MIT",
    "intended_use": {"en": "For tests only.", "zh": "仅供测试。"},
    "limits_text": {"en": "Knows nothing.", "zh": "一无所知。"},
    "algorithm_family": {"value": "123110", "scheme": "DCM", "meaning": "Artificial Intelligence"},
    "input": {
        "modality": ["MR"],
        "sop_classes": ["1.2.840.10008.5.1.4.1.1.4"],
        "body_part": ["BRAIN", "HEAD"],
        "description_any": ["T1"],
        "image_type_excludes": ["LOCALIZER"],
        "slices": [3, 400],
        "slice_spacing_mm": [0.5, 2.0],
        "pixel_spacing_mm": [0.4, 2.0],
        "fov_mm": [1.0, 400.0],
    },
    "segments": [
        {
            "number": 1,
            "label": "Brain",
            "category": {"value": "91723000", "scheme": "SCT", "meaning": "Anatomical Structure"},
            "type": dict(_BRAIN),
            "colour_lab": [63660, 27356, 57178],
            "border": "refuse",
        }
    ],
    "measurements": [
        {
            "id": "brain_volume",
            "concept": {"value": "118565006", "scheme": "SCT", "meaning": "Volume"},
            "unit": {"value": "cm3", "scheme": "UCUM", "meaning": "cubic centimeter"},
            "segment": 1,
            "kind": "volume_cm3",
            "decimals": 1,
            "plausible": [600.0, 2400.0],
            "site": dict(_BRAIN),
            "method": None,
        }
    ],
    "bundle": {"inference": "configs/inference.json", "metadata": "configs/metadata.json"},
    "deadline_s": 30,
    "max_autonomy": "A2",
}


def manifest_fields(**changes: object) -> dict[str, Any]:
    """A fresh, valid manifest as JSON values, with top-level `changes`."""
    return copy.deepcopy(_MANIFEST) | changes


def as_json(value: object) -> bytes:
    """UTF-8 JSON of `value`."""
    return json.dumps(value, ensure_ascii=False).encode("utf-8")


def stage(folder: Path, **changes: object) -> Path:
    """Write a small model, ready to install, into the new `folder`; `changes` go to its manifest."""
    (folder / "configs").mkdir(parents=True)
    (folder / "models").mkdir()
    (folder / "manifest.json").write_bytes(as_json(manifest_fields(**changes)))
    (folder / "configs" / "inference.json").write_bytes(b'{"network": "none"}')
    (folder / "configs" / "metadata.json").write_bytes(b'{"version": "1.0"}')
    (folder / "models" / "model.pt").write_bytes(bytes(range(256)) * 4)
    return folder
