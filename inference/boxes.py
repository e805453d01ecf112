"""Boxes of a grid: the smallest one that holds what is not zero. NumPy only."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TypeVar

import numpy as np
import numpy.typing as npt

_T = TypeVar("_T", bound=np.generic)

Box = tuple[slice, slice, slice]


def smallest_box(array: npt.NDArray[np.generic]) -> Box:
    """The smallest box of `array` (K, R, C) that holds all that is not zero; empty where all is."""
    planes = _span(np.any(array, axis=(1, 2)))
    flat = np.any(array[planes], axis=0)
    return planes, _span(np.any(flat, axis=1)), _span(np.any(flat, axis=0))


def fits(shape: Iterable[int], origin: Iterable[int], grid: Iterable[int]) -> bool:
    """Whether a part of this shape lies, from `origin` on, inside of `grid`."""
    return all(0 <= o <= n - m for o, m, n in zip(origin, shape, grid, strict=True))


def placed(origin: tuple[int, int, int], shape: Iterable[int]) -> Box:
    """The box of this shape that begins at `origin`."""
    k, r, c = (slice(o, o + n) for o, n in zip(origin, shape, strict=True))
    return k, r, c


def read_only(array: npt.NDArray[_T]) -> npt.NDArray[_T]:
    """A view that nobody writes through."""
    view = array.view()
    view.flags.writeable = False
    return view


def three(values: Iterable[int]) -> tuple[int, int, int]:
    """Exactly three whole numbers: a size or a place as it was read. Raises TypeError, ValueError."""
    k, r, c = (int(value) for value in values)
    return k, r, c


def _span(line: npt.ArrayLike) -> slice:
    found = np.flatnonzero(line)
    return slice(int(found[0]), int(found[-1]) + 1) if found.size else slice(0, 0)
