"""Orientation and its inverse, against nibabel's as an outside witness."""

from __future__ import annotations

import nibabel
import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given
from hypothesis import strategies as st
from nibabel.orientations import io_orientation

from inference.geometry import Reorientation, lps_to_ras
from tests.simulators import volumes

SHAPE = (3, 4, 5)
GRID = np.arange(60, dtype=np.float32).reshape(SHAPE)


def _positions(affine: npt.NDArray[np.float64], shape: tuple[int, ...]) -> npt.NDArray[np.float64]:
    """(X, Y, Z, 3): the position of every voxel."""
    index = np.stack(np.meshgrid(*(np.arange(n) for n in shape), indexing="ij"), axis=-1)
    return index @ affine[:3, :3].T + affine[:3, 3]


def test_lps_and_ras_are_each_others_inverse() -> None:
    """Turning twice changes nothing, turning once changes the sign of x and y."""
    affine = volumes.oblique(3)
    assert np.array_equal(lps_to_ras(lps_to_ras(affine)), affine)
    assert np.array_equal(lps_to_ras(affine)[2:], affine[2:])
    assert np.array_equal(lps_to_ras(affine)[:2], -affine[:2])


@pytest.mark.parametrize("affine", volumes.every_orientation())
def test_canonical_axes_are_ras(affine: npt.NDArray[np.float64]) -> None:
    """From each of the 48 right-angled grids, the canonical axes are R, A, S."""
    turn = Reorientation.to_canonical(affine)
    canonical = turn.apply_to_affine(affine, SHAPE)
    assert nibabel.aff2axcodes(canonical) == ("R", "A", "S")
    assert np.linalg.det(canonical[:3, :3]) > 0


@pytest.mark.parametrize("affine", [*volumes.every_orientation(), *map(volumes.oblique, range(40))])
def test_every_voxel_keeps_its_place(affine: npt.NDArray[np.float64]) -> None:
    """A voxel's value and its position in the patient stay together through the turn."""
    turn = Reorientation.to_canonical(affine)
    moved = turn.apply(_positions(lps_to_ras(affine), SHAPE)[..., 0])
    stated = _positions(turn.apply_to_affine(affine, SHAPE), moved.shape)[..., 0]
    np.testing.assert_allclose(moved, stated, atol=1e-9)
    moved_z = turn.apply(_positions(lps_to_ras(affine), SHAPE)[..., 2])
    np.testing.assert_allclose(moved_z, _positions(turn.apply_to_affine(affine, SHAPE), moved.shape)[..., 2], atol=1e-9)


@given(seed=st.integers(0, 2**32 - 1))
def test_there_and_back_is_exact(seed: int) -> None:
    """A mask comes back on the source grid voxel for voxel, however oblique or mirrored the grid is."""
    turn = Reorientation.to_canonical(volumes.oblique(seed))
    assert np.array_equal(turn.undo(turn.apply(GRID)), GRID)
    assert np.array_equal(turn.apply(turn.undo(GRID)), GRID)


@pytest.mark.parametrize("seed", range(30))
def test_agrees_with_nibabel(seed: int) -> None:
    """nibabel, another implementation, pairs and flips the axes of an unambiguous grid in the same way."""
    random = np.random.default_rng(seed)
    affine = volumes.every_orientation()[seed % 48].copy()
    affine[:3, :3] += random.uniform(-0.2, 0.2, size=(3, 3))
    turn = Reorientation.to_canonical(affine)
    expected = io_orientation(lps_to_ras(affine))
    for canonical, (source, flip) in enumerate(zip(turn.order, turn.flipped, strict=True)):
        assert expected[source].tolist() == [canonical, -1.0 if flip else 1.0]


def test_a_tie_uses_each_axis_once() -> None:
    """Of a grid at 45 degrees each array axis still becomes one patient axis."""
    half = np.sqrt(0.5)
    affine = np.array([[half, half, 0, 0], [half, -half, 0, 0], [0, 0, 1, 0], [0, 0, 0, 1.0]])
    turn = Reorientation.to_canonical(affine)
    assert sorted(turn.order) == [0, 1, 2]
    assert np.array_equal(turn.undo(turn.apply(GRID)), GRID)


@pytest.mark.parametrize("affine", volumes.every_orientation())
def test_the_fast_copy_is_the_view(affine: npt.NDArray[np.float64]) -> None:
    """`copy_to_canonical` writes what `apply` shows, for every order and flip."""
    turn = Reorientation.to_canonical(affine)
    target = np.zeros(turn.apply(GRID).shape, dtype=np.float32)
    turn.copy_to_canonical(GRID, target)
    assert np.array_equal(target, turn.apply(GRID))
