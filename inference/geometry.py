"""Where a voxel lies: patient systems, axis order and its inverse. Pure NumPy; nothing is resampled here.

DICOM's patient system is LPS (PS3.3 C.7.6.2.1.1), the one of NIfTI, MONAI and most models RAS: x and y change sign.
A volume in "canonical" order has its array axes along x, y, z as nearly as the grid allows, growing to R, A, S.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import permutations
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from inference.types import Affine, Point

LPS_RAS: Final = np.diag((-1.0, -1.0, 1.0, 1.0))
"""Its own inverse."""


def lps_to_ras(affine: Affine) -> Affine:
    """Index -> mm affine (4, 4) from LPS to RAS; the same function leads back."""
    result: Affine = LPS_RAS @ affine
    return result


@dataclass(frozen=True, slots=True)
class Reorientation:
    """A permutation and flips of three array axes, without loss.

    order[i]: the source axis that becomes canonical axis i (0 = x, 1 = y, 2 = z); flipped[i]: whether it is reversed.
    """

    order: tuple[int, int, int]
    flipped: tuple[bool, bool, bool]

    @classmethod
    def to_canonical(cls, affine: Affine) -> Reorientation:
        """The reorientation that takes a grid with this LPS affine (4, 4) nearest to RAS.

        Of the six ways to pair array axes with patient axes it takes the one with the greatest product of cosines;
        so each array axis is used once, however oblique the grid, and a tie goes to the first in index order.
        """
        ras = lps_to_ras(affine)[:3, :3]
        cosines = ras / np.linalg.norm(ras, axis=0)
        weight = np.abs(cosines)
        order = max(permutations(range(3)), key=lambda p: round(float(np.prod([weight[i, p[i]] for i in range(3)])), 9))
        flips = tuple(bool(cosines[i, order[i]] < 0.0) for i in range(3))
        return cls((order[0], order[1], order[2]), (flips[0], flips[1], flips[2]))

    def apply(self, array: npt.NDArray[Any]) -> npt.NDArray[Any]:
        """A view of (K, R, C) in canonical order (X, Y, Z)."""
        view = array.transpose(self.order)
        return view[tuple(slice(None, None, -1 if flip else 1) for flip in self.flipped)]

    def undo(self, array: npt.NDArray[Any]) -> npt.NDArray[Any]:
        """A view of canonical (X, Y, Z) on the source grid (K, R, C); `undo(apply(a))` is `a`, voxel for voxel."""
        view = array[tuple(slice(None, None, -1 if flip else 1) for flip in self.flipped)]
        inverse = [self.order.index(axis) for axis in range(3)]
        return view.transpose(inverse)

    def undo_box(self, low: Point, high: Point, shape: tuple[int, ...]) -> tuple[Point, Point]:
        """Corners in index coordinates of a canonical array of this shape (X, Y, Z), on the source grid (K, R, C)."""
        corners = [[0.0, 0.0, 0.0], [0.0, 0.0, 0.0]]
        for axis, (source, flip) in enumerate(zip(self.order, self.flipped, strict=True)):
            ends = (shape[axis] - 1 - high[axis], shape[axis] - 1 - low[axis]) if flip else (low[axis], high[axis])
            corners[0][source], corners[1][source] = ends
        (a, b, c), (d, e, f) = corners
        return (a, b, c), (d, e, f)

    def apply_to_affine(self, affine: Affine, shape: tuple[int, int, int]) -> Affine:
        """RAS affine (4, 4) of the canonical array, from the source's LPS affine and its shape (K, R, C)."""
        ras = lps_to_ras(affine)
        result = np.eye(4)
        result[:3, 3] = ras[:3, 3]
        for axis, (source, flip) in enumerate(zip(self.order, self.flipped, strict=True)):
            column = ras[:3, source]
            result[:3, axis] = -column if flip else column
            if flip:
                result[:3, 3] += column * (shape[source] - 1)
        return result

    def copy_to_canonical(self, source: npt.NDArray[Any], target: npt.NDArray[Any]) -> None:
        """Write `apply(source)` into `target` (X, Y, Z).

        Where the source's fastest axis does not stay the last one, a plain strided copy touches one cache line per
        voxel; sheets of two axes, turned in the cache first, go three to four times as fast.
        """
        view = self.apply(source)
        fastest = self.order.index(2)
        if fastest == 2:
            np.copyto(target, view)
            return
        outer = 1 - fastest
        for index in range(view.shape[outer]):
            sheet = (slice(None), index) if outer == 1 else (index,)
            target[sheet] = np.ascontiguousarray(view[sheet].T).T
