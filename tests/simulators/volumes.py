"""Invented volumes: grids of any orientation with a bright block in the middle."""

from __future__ import annotations

from itertools import permutations, product

import numpy as np
import numpy.typing as npt

from inference.types import Volume

DIGEST = "sha256:" + "1" * 64


def axial(spacing_mm: tuple[float, float, float] = (1.0, 1.0, 1.0)) -> npt.NDArray[np.float64]:
    """LPS affine of axial slices from the feet up: k -> z, r -> y, c -> x."""
    affine = np.zeros((4, 4))
    affine[2, 0], affine[1, 1], affine[0, 2], affine[3, 3] = *spacing_mm, 1.0
    affine[:3, 3] = (-10.0, -20.0, -30.0)
    return affine


def block(
    shape: tuple[int, int, int] = (8, 10, 12),
    affine: npt.NDArray[np.float64] | None = None,
    *,
    first_canonical: float = 0.0,
) -> Volume:
    """Zeros with ones in the middle half; `first_canonical` is an order for the tiny model, for axial volumes."""
    voxels = np.zeros(shape, dtype=np.float32)
    voxels[tuple(slice(n // 4, 3 * n // 4) for n in shape)] = 1.0
    if first_canonical:
        voxels[0, -1, -1] = first_canonical  # RAS grows against LPS in x and y
    return Volume(voxels, axial() if affine is None else affine, DIGEST, "MR")


def every_orientation() -> list[npt.NDArray[np.float64]]:
    """The 48 right-angled LPS affines, with three different spacings."""
    found = []
    for order, signs in product(permutations(range(3)), product((1.0, -1.0), repeat=3)):
        affine = np.eye(4)
        affine[:3, :3] = 0.0
        for axis, (target, sign) in enumerate(zip(order, signs, strict=True)):
            affine[target, axis] = sign * (1.0 + axis / 4)
        affine[:3, 3] = (5.0, -7.0, 11.0)
        found.append(affine)
    return found


def oblique(seed: int) -> npt.NDArray[np.float64]:
    """A random rotation (or reflection) with random spacings and origin, LPS."""
    random = np.random.default_rng(seed)
    rotation, _ = np.linalg.qr(random.normal(size=(3, 3)))
    affine = np.eye(4)
    affine[:3, :3] = rotation * random.uniform(0.5, 2.0, size=3)
    affine[:3, 3] = random.uniform(-100.0, 100.0, size=3)
    return affine
