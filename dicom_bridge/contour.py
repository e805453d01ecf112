"""The outlines of a mask on its key slice, as an SR and a presentation state can carry them. Pure."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from skimage import measure

# A Graphic Data value of N points is 8 N bytes, and FL has a 16-bit length in Explicit VR (PS3.5 7.1.2): 8191 points at
# most. An outline that fine shows nothing more than this one; readers lag on thousands of points.
POINTS_MAX = 2000


@dataclass(frozen=True, slots=True, eq=False)
class Outline:
    """`points` (N, 2) float32, column and row in DICOM's sub-pixel coordinates, first point repeated at the end."""

    slice_index: int
    points: NDArray[np.float32]


def key_outline(mask: NDArray[np.bool_], origin: tuple[int, int, int] = (0, 0, 0)) -> Outline:
    """The outer outline of the largest part of `mask` (K, R, C) on its slice of largest area (the first, if equal).

    `origin` (k, r, c): where in the image's grid the mask's first voxel lies. Raises ValueError for an empty mask.
    """
    areas = [int(np.count_nonzero(plane)) for plane in mask]
    if not any(areas):
        raise ValueError("an empty mask has no outline")
    key = areas.index(max(areas))
    return Outline(origin[0] + key, _placed(max(_contours(mask[key]), key=_extent), origin[1:]))


def outlines(plane: NDArray[np.bool_], origin: tuple[int, int] = (0, 0)) -> tuple[NDArray[np.float32], ...]:
    """Every outline of `plane` (R, C), those of holes too, the largest first, each as `Outline.points`.

    `origin` (r, c): where in the image's grid the plane's first pixel lies.
    """
    return tuple(_placed(one, origin) for one in sorted(_contours(plane), key=_extent, reverse=True))


def _contours(plane: NDArray[np.bool_]) -> list[NDArray[np.float64]]:
    # One ring of background closes outlines at the border; 0 and 1 are crossed half-way between pixel centres.
    found: list[NDArray[np.float64]] = measure.find_contours(np.pad(plane, 1).astype(np.float32), 0.5)
    return found


def _extent(outline: NDArray[np.float64]) -> float:
    return abs(_signed_area(outline))


def _placed(outline: NDArray[np.float64], origin: tuple[int, int]) -> NDArray[np.float32]:
    # Every n-th point of an outline that has two per boundary pixel; a polygon fit takes seconds on a ragged one.
    thinned = outline[:: math.ceil(len(outline) / (POINTS_MAX - 1))]
    if not np.array_equal(thinned[-1], thinned[0]):
        thinned = np.vstack([thinned, thinned[:1]])
    # Padding moved indices by 1; DICOM puts the centre of the first pixel at 0.5 (PS3.3 C.18.6.1.1).
    return (thinned[:, ::-1] - 1 + 0.5 + origin[::-1]).astype(np.float32)


def _signed_area(points: NDArray[np.float64]) -> float:
    row, column = points[:, 0], points[:, 1]
    return float(np.dot(column[:-1], row[1:]) - np.dot(column[1:], row[:-1])) / 2
