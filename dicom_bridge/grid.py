"""Slice positions -> one regular grid in the patient's coordinates, or a refusal. Pure arithmetic.

Tolerances are those of highdicom.spatial (1 % of the spacing, 1e-3 of perpendicularity); tests compare with it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, Protocol

import numpy as np
import numpy.typing as npt

from dicom_bridge.errors import VolumeRefused

SPACING_TOLERANCE: Final = 0.01
"""Share of the mean spacing by which any one may differ; rounded decimals need less, a resampling error has more."""
ROUNDING_MM: Final = 0.02
"""Millimetres by which a distance may differ whatever the spacing: positions written with two decimals."""
ORIENTATION_TOLERANCE: Final = 1e-3
"""Difference of a direction cosine that is still rounding; 1e-3 is 0.06 degrees."""
SHEAR_TOLERANCE: Final = 1e-3
"""Drift sideways per millimetre along the normal; a gantry tilt of 0.06 degrees."""
JITTER_TOLERANCE: Final = 0.1
"""Share of a pixel by which a slice may lie beside the line of the others."""
DUPLICATE_MM: Final = 1e-3
"""Slices closer than this lie at the same place; no scanner reconstructs at 1 micrometre."""
NAMED_ORIENTATION_COS: Final = 0.866
"""Cosine of 30 degrees: heads scanned along the skull base or the callosum, 25 degrees off, are called axial."""

_Array = npt.NDArray[np.float64]


class Placed(Protocol):
    """What the grid needs of a slice: millimetres and direction cosines as PS3.3 C.7.6.2.1.1 defines them."""

    @property
    def frame_of_reference(self) -> str: ...  # noqa: D102
    @property
    def position(self) -> tuple[float, ...]: ...  # noqa: D102
    @property
    def orientation(self) -> tuple[float, ...]: ...  # noqa: D102
    @property
    def spacing(self) -> tuple[float, ...]: ...  # noqa: D102


@dataclass(frozen=True, slots=True, eq=False)
class Grid:
    """`order`: indices of the given slices along the normal. `affine` (4, 4) float64: (k, r, c, 1) -> LPS mm."""

    order: tuple[int, ...]
    affine: _Array
    slice_spacing_mm: float


def find_grid(slices: Sequence[Placed]) -> Grid:
    """Return the grid on which all slices lie. Raises VolumeRefused (see `volume.load` for the codes)."""
    if len({one.frame_of_reference for one in slices}) != 1:
        raise VolumeRefused("MIXED_FRAME_OF_REFERENCE", "slices have different coordinate systems")
    if not slices[0].frame_of_reference:
        raise VolumeRefused("GEOMETRY_MISSING", "the slices name no frame of reference")
    positions = _numbers([one.position for one in slices], 3, "image position")
    orientations = _numbers([one.orientation for one in slices], 6, "image orientation")
    spacings = _numbers([one.spacing for one in slices], 2, "pixel spacing")
    row, column, normal = _axes(orientations)
    if (spacings <= 0.0).any():
        raise VolumeRefused("GEOMETRY_INVALID", "pixel spacing is not positive")
    if np.abs(spacings - spacings[0]).max() > 1e-3 * spacings[0].min():
        raise VolumeRefused("MIXED_MATRIX", "slices have different pixel spacings")
    if len(slices) == 1:
        raise VolumeRefused("SINGLE_SLICE", "one slice has no slice spacing")
    order = np.argsort(positions @ normal, kind="stable")
    step = _step(positions[order], normal, float(spacings[0].min()))
    affine = np.eye(4, dtype=np.float64)
    affine[:3, 0] = step
    # Pixel Spacing is (between rows, between columns); the row index moves along the column's direction.
    affine[:3, 1] = column * spacings[0][0]
    affine[:3, 2] = row * spacings[0][1]
    affine[:3, 3] = positions[order[0]]
    return Grid(tuple(int(index) for index in order), affine, float(np.linalg.norm(step)))


def held_times(slices: Sequence[Placed]) -> tuple[int, ...]:
    """How often each position along the normal is held, from the lowest to the highest. Raises VolumeRefused."""
    positions = _numbers([one.position for one in slices], 3, "image position")
    _, _, normal = _axes(_numbers([one.orientation for one in slices], 6, "image orientation"))
    heights = np.sort(positions @ normal)
    starts = np.flatnonzero(np.diff(heights, prepend=-np.inf) >= DUPLICATE_MM)
    return tuple(int(count) for count in np.diff(starts, append=len(heights)))


def same_orientation(one: Placed, other: Placed) -> bool:
    """Whether two slices are parallel and turned alike; never true of what is no orientation."""
    if len(one.orientation) != 6 or len(other.orientation) != 6:
        return False
    return all(abs(a - b) <= ORIENTATION_TOLERANCE for a, b in zip(one.orientation, other.orientation, strict=True))


def _numbers(values: Sequence[tuple[float, ...]], width: int, what: str) -> _Array:
    if any(not value for value in values):
        raise VolumeRefused("GEOMETRY_MISSING", f"a slice has no {what}")
    if any(len(value) != width for value in values):
        raise VolumeRefused("GEOMETRY_INVALID", f"{what} has not {width} numbers")
    array = np.array(values, dtype=np.float64)
    if not np.isfinite(array).all():
        raise VolumeRefused("GEOMETRY_INVALID", f"{what} is not finite")
    return array


def _axes(orientations: _Array) -> tuple[_Array, _Array, _Array]:
    """Return the common row and column directions and their normal, of length 1 each."""
    row, column = orientations[0, :3], orientations[0, 3:]
    lengths = np.linalg.norm(row), np.linalg.norm(column)
    if (
        max(abs(length - 1.0) for length in lengths) > ORIENTATION_TOLERANCE
        or abs(row @ column) > ORIENTATION_TOLERANCE
    ):
        raise VolumeRefused("GEOMETRY_INVALID", "row and column directions are not perpendicular unit vectors")
    if np.abs(orientations - orientations[0]).max() > ORIENTATION_TOLERANCE:
        raise VolumeRefused("MIXED_ORIENTATION", "slices are not parallel")
    row, column = row / lengths[0], column / lengths[1]
    normal = np.cross(row, column)
    return row, column, normal / np.linalg.norm(normal)


def _step(positions: _Array, normal: _Array, pixel_mm: float) -> _Array:
    """Return the vector from one slice to the next; `positions` are ordered along the normal."""
    heights = positions @ normal
    gaps = np.diff(heights)
    if (gaps < DUPLICATE_MM).any():
        raise VolumeRefused("DUPLICATE_POSITION", "two slices lie at the same position")
    count = len(positions) - 1
    step: _Array = (positions[-1] - positions[0]) / count
    along = float(step @ normal)
    if float(np.linalg.norm(step - along * normal)) > SHEAR_TOLERANCE * along:
        raise VolumeRefused("GANTRY_TILT", "slices drift sideways: the gantry was tilted")
    # The lower median: with two gaps of which one is double, the single one is the spacing.
    median = float(np.sort(gaps)[(count - 1) // 2])
    allowed = max(SPACING_TOLERANCE * median, ROUNDING_MM)
    if (np.abs(gaps - median) > allowed).any():
        whole = np.round(gaps / median)
        if (whole >= 1).all() and (np.abs(gaps - whole * median) <= allowed * whole).all():
            raise VolumeRefused("SLICE_MISSING", "slices are missing inside the series")
        raise VolumeRefused("NON_UNIFORM_SPACING", "the distance between slices changes")
    beside = positions - (positions[0] + np.arange(count + 1)[:, None] * step)
    aside = float(np.linalg.norm(beside - np.outer(beside @ normal, normal), axis=1).max())
    if aside > max(JITTER_TOLERANCE * pixel_mm, ROUNDING_MM):
        raise VolumeRefused("NON_UNIFORM_SPACING", "slices do not lie behind each other")
    return step


def orientation_name(orientation: tuple[float, ...]) -> str:
    """AXIAL, SAGITTAL, CORONAL or OBLIQUE (models.codes.ORIENTATIONS); "" for what is no orientation."""
    if len(orientation) != 6 or not np.isfinite(orientation).all():
        return ""
    normal = np.abs(np.cross(orientation[:3], orientation[3:]))
    axis = int(normal.argmax())
    return ("SAGITTAL", "CORONAL", "AXIAL")[axis] if normal[axis] >= NAMED_ORIENTATION_COS else "OBLIQUE"
