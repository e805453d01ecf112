"""Golden cases made for tests; and the head of ellipsoids from which the one of brain-extraction-t1 was made."""

import hashlib
import io
import json
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from inference.golden import CASE_NAME, SCHEMA, VOLUME_NAME

HEAD_SHAPE, HEAD_MM = (88, 104, 88), 2.0
# Semi-axes in mm (right to left, front to back, feet to head) and brightness, from the skin inwards.
_LAYERS = (((80, 96, 80), 200), ((75, 91, 75), 20), ((69, 85, 69), 40), ((66, 82, 66), 110), ((58, 74, 58), 160))
_VENTRICLE, _VENTRICLE_AT, _DARK = (9, 25, 12), ((-13.0, 0.0, 5.0), (13.0, 0.0, 5.0)), 40


def head() -> tuple[NDArray[np.uint8], NDArray[np.float64]]:
    """Nobody's head: skin, skull, fluid, grey and white matter as nested ellipsoids. Voxels (K, R, C) and affine."""
    grid = np.mgrid[: HEAD_SHAPE[0], : HEAD_SHAPE[1], : HEAD_SHAPE[2]].astype(np.float64)
    z, y, x = ((grid[axis] - (HEAD_SHAPE[axis] - 1) / 2) * HEAD_MM for axis in range(3))

    def inside(axes: tuple[int, int, int], at: tuple[float, float, float] = (0.0, 0.0, 0.0)) -> NDArray[np.bool_]:
        parts = ((x - at[0]) / axes[0], (y - at[1]) / axes[1], (z - at[2]) / axes[2])
        return np.asarray(sum(part**2 for part in parts) <= 1)

    voxels = np.zeros(HEAD_SHAPE, np.uint8)
    for axes, brightness in _LAYERS:
        voxels[inside(axes)] = brightness
    for at in _VENTRICLE_AT:
        voxels[inside(_VENTRICLE, at)] = _DARK
    return voxels, axial(HEAD_MM)


def axial(mm: float) -> NDArray[np.float64]:
    """Slices from the feet to the head, rows from front to back, columns from right to left; equal spacing."""
    affine = np.zeros((4, 4))
    affine[2, 0] = affine[1, 1] = affine[0, 2] = mm
    affine[3, 3] = 1.0
    return affine


def block(shape: tuple[int, int, int] = (8, 10, 12)) -> NDArray[np.uint8]:
    """A bright block in the dark, of half the edges; the tiny model labels it."""
    voxels = np.zeros(shape, np.uint8)
    voxels[shape[0] // 4 : -shape[0] // 4, shape[1] // 4 : -shape[1] // 4, shape[2] // 4 : -shape[2] // 4] = 1
    return voxels


def write_case(
    folder: Path,
    voxels: NDArray[Any],
    affine: NDArray[np.float64],
    expected: dict[str, str],
    *,
    source: str = "Made for a test.",
    tolerance: str = "0.01",
    **changes: Any,
) -> Path:
    """Write a case into the new `folder`; `changes` go to its case.json."""
    folder.mkdir(parents=True, exist_ok=True)
    buffer = io.BytesIO()
    np.savez_compressed(buffer, voxels=voxels, affine=affine)
    (folder / VOLUME_NAME).write_bytes(buffer.getvalue())
    said = {
        "schema": SCHEMA,
        "modality": "MR",
        "volume": "sha256:" + hashlib.sha256(buffer.getvalue()).hexdigest(),
        "source": source,
        "measurements": [{"id": name, "value": value} for name, value in expected.items()],
        "tolerance": tolerance,
    }
    text = json.dumps(said | changes, ensure_ascii=False, indent=2) + "\n"
    (folder / CASE_NAME).write_text(text, encoding="utf-8")
    return folder
