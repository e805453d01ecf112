"""What the images of a study tell of themselves: are they all there? Pure; needs no pixel and no second reading.

A series is WHOLE when it has as many images as it says that it should have, and no hole between their positions. It is
BROKEN when either says that some are missing. Neither is a proof, so neither is ever more than a reason to wait less,
or not to wait less (see `assembly`): vendors count Images in Acquisition in more than one way.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import pairwise
from typing import Final, Protocol

from dicom_bridge.assembly import RESULT_MODALITIES, Evidence

SAME_PLACE_MM: Final = 0.01
"""Positions closer than this are one: a decimal string of 16 characters (VR DS) keeps far more."""
SAME_DIRECTION: Final = 1e-3
"""Difference of direction cosines up to which images are parallel (highdicom's own tolerance)."""
HOLE: Final = 1.5
"""A step this many times the usual one has a place in it where an image is missing. Reading is far stricter; this asks
only whether something is yet to come."""
PLACES_MIN: Final = 3
"""Fewer positions have no usual step."""


class Pictured(Protocol):
    """What is asked of an instance; `spool_index.Instance`."""

    @property
    def series_uid(self) -> str:
        """(0020,000E)."""

    @property
    def modality(self) -> str:
        """(0008,0060)."""

    @property
    def frames(self) -> int:
        """Number of Frames (0028,0008); 1 where there is none."""

    @property
    def acquisition_number(self) -> int | None:
        """(0020,0012)."""

    @property
    def acquisition_images(self) -> int | None:
        """Images in Acquisition (0020,1002)."""

    @property
    def position(self) -> tuple[float, ...]:
        """(0020,0032), three numbers in mm, or none."""

    @property
    def orientation(self) -> tuple[float, ...]:
        """(0020,0037), six direction cosines, or none."""


def of(instances: Iterable[Pictured]) -> Evidence:
    """Return the evidence of a whole study: BROKEN if any series is, WHOLE if all are, else UNSURE."""
    series: dict[str, list[Pictured]] = {}
    for one in instances:
        if one.modality not in RESULT_MODALITIES:
            series.setdefault(one.series_uid, []).append(one)
    found = {_of_series(members) for members in series.values()}
    if Evidence.BROKEN in found:
        return Evidence.BROKEN
    return Evidence.WHOLE if found == {Evidence.WHOLE} else Evidence.UNSURE


def _of_series(members: Sequence[Pictured]) -> Evidence:
    multiframe = all(one.frames > 1 for one in members)
    expected = _expected(members, multiframe=multiframe)
    # The frames of a multi-frame object come together or not at all, so there is no hole to look for.
    unbroken = True if multiframe else _unbroken(members)
    if expected is False or unbroken is False:
        return Evidence.BROKEN
    return Evidence.WHOLE if expected and unbroken else Evidence.UNSURE


def _expected(members: Sequence[Pictured], *, multiframe: bool) -> bool | None:
    """Whether the expected number is there; None where nothing is said of it, or not with one voice."""
    acquisitions: dict[int | None, list[Pictured]] = {}
    for one in members:
        acquisitions.setdefault(one.acquisition_number, []).append(one)
    met: bool | None = True
    for images in acquisitions.values():
        said = {one.acquisition_images for one in images}
        number = said.pop() if len(said) == 1 else None
        frames = sum(max(1, one.frames) for one in images)
        if number is None or number < 1:
            # A multi-frame object says by its very number of frames what belongs together.
            met = met if multiframe else None
        elif frames % number != 0:
            # More than once the number is one acquisition in several phases or echoes.
            return False
    return met


def _unbroken(members: Sequence[Pictured]) -> bool | None:
    """Whether the positions are evenly spaced without a hole; None where they cannot tell."""
    first = members[0].orientation
    if any(len(one.position) != 3 or len(one.orientation) != 6 for one in members):
        return None
    if any(abs(a - b) > SAME_DIRECTION for one in members for a, b in zip(one.orientation, first, strict=True)):
        return None
    (rx, ry, rz, cx, cy, cz) = first
    normal = (ry * cz - rz * cy, rz * cx - rx * cz, rx * cy - ry * cx)
    along = sorted(sum(n * p for n, p in zip(normal, one.position, strict=True)) for one in members)
    places, together = [along[0]], [1]
    for at, following in pairwise(along):
        if following - at > SAME_PLACE_MM:
            places.append(following)
            together.append(0)
        together[-1] += 1
    if len(places) < PLACES_MIN:
        return None
    steps = sorted(b - a for a, b in pairwise(places))
    # As many images at each place: else one phase of several has a hole where the others have none.
    return steps[-1] <= HOLE * steps[len(steps) // 2] and len(set(together)) == 1
