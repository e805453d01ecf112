"""A heat map: for each voxel of the volume's own grid, how much a model sees there of one thing. NumPy only."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from inference.boxes import fits, placed, read_only, smallest_box, three
from inference.errors import FindingsCorrupt, VolumeInvalid

LEVELS: Final = 255
"""Of a value of 1 in eight bits."""
_ID: Final = re.compile(r"[A-Za-z0-9._-]{1,64}")
_KINDS: Final[Mapping[str, type[np.generic]]] = {"u1": np.uint8, "f2": np.float16}

Values = npt.NDArray[np.uint8] | npt.NDArray[np.float16]


@dataclass(frozen=True, slots=True, eq=False, init=False)
class HeatMap:
    """Values on the volume's own grid, kept as the smallest box that holds those that are not 0, as of a SegmentMask.

    id: names the manifest's HeatMapSpec, which says of what it is, and whether its values are probabilities.
    shape: (K, R, C) of the grid. part: the box, a copy; its first voxel is the grid's `origin` (k, r, c). uint8: 255
        stands for 1; or float16, from 0 to 1. Raises VolumeInvalid (VOLUME_INVALID).
    """

    id: str
    shape: tuple[int, int, int]
    origin: tuple[int, int, int]
    part: Values

    def __init__(
        self,
        id: str,  # noqa: A002 - as all that findings name
        values: Values,
        origin: tuple[int, int, int] = (0, 0, 0),
        shape: tuple[int, int, int] | None = None,
    ) -> None:
        """`values` is the whole grid, or what lies from `origin` on in a grid of `shape`."""
        if _ID.fullmatch(id) is None or values.ndim != 3 or values.dtype not in _KINDS.values():
            raise VolumeInvalid("VOLUME_INVALID", f"a heat map is {values.shape} {values.dtype}, or its id malformed")
        grid = values.shape if shape is None else shape
        if len(grid) != 3 or not fits(values.shape, origin, grid):
            raise VolumeInvalid("VOLUME_INVALID", f"heat map {id} is not inside of its grid")
        # Not a number is neither below nor above.
        if values.dtype == np.float16 and not bool(((values >= 0) & (values <= 1)).all()):
            raise VolumeInvalid("VOLUME_INVALID", f"heat map {id} has values that are not from 0 to 1")
        box = smallest_box(values)
        object.__setattr__(self, "id", id)
        object.__setattr__(self, "shape", grid)
        object.__setattr__(self, "origin", tuple(o + b.start for o, b in zip(origin, box, strict=True)))
        object.__setattr__(self, "part", read_only(values[box].copy()))

    @property
    def box(self) -> tuple[slice, slice, slice]:
        """Where `part` lies in the grid."""
        return placed(self.origin, self.part.shape)

    def levels(self, k: int) -> npt.NDArray[np.uint8]:
        """Slice k of the grid in eight bits, (R, C): value times 255, to the nearest whole number, half to even."""
        page = np.zeros(self.shape[1:], dtype=np.uint8)
        if 0 <= k - self.origin[0] < len(self.part):
            plane = self.part[k - self.origin[0]]
            inside = plane if plane.dtype == np.uint8 else np.rint(plane.astype(np.float64) * LEVELS)
            page[self.box[1:]] = inside.astype(np.uint8)
        return page

    def described(self) -> dict[str, Any]:
        """What findings keep of it beside `packed`."""
        kind = next(name for name, dtype in _KINDS.items() if self.part.dtype == dtype)
        return {"id": self.id, "shape": self.shape, "origin": self.origin, "part": self.part.shape, "kind": kind}

    def packed(self) -> npt.NDArray[np.uint8]:
        """The values as bytes, little endian."""
        return np.frombuffer(self.part.astype(self.part.dtype.newbyteorder("<")).tobytes(), dtype=np.uint8)

    @classmethod
    def unpacked(cls, said: Mapping[str, Any], packed: npt.NDArray[np.uint8]) -> HeatMap:
        """From what `described` and `packed` gave. Raises FindingsCorrupt, KeyError, ValueError, VolumeInvalid."""
        part, shape, origin = (three(said[key]) for key in ("part", "shape", "origin"))
        dtype = np.dtype(_KINDS[said["kind"]]).newbyteorder("<")
        if packed.size != math.prod(part) * dtype.itemsize:
            raise FindingsCorrupt("FINDINGS_CORRUPT", "a heat map has not the size that it states")
        values = np.frombuffer(packed.tobytes(), dtype=dtype).reshape(part).astype(_KINDS[said["kind"]])
        return cls(str(said["id"]), values, origin, shape)
