"""What a model found as marks on slices: where, in what colour, under what name and with which numbers.

What a presentation state draws and a key object selection names. A segment is marked on the slice that the SR's outline
of it lies on; a detection on its middle slice. What is said of a whole study leaves no mark.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray
from pydicom.dataset import Dataset

from dicom_bridge.contour import key_outline, outlines
from dicom_bridge.groups import corners, detected, scored, worded
from dicom_bridge.key_picture import COLOURED_MIN, rgb
from dicom_bridge.segmentation import drawn_segments, grid_shape
from inference.types import Findings
from models.manifest import Manifest

MARKING_LAB: Final = (53897, 34900, 54448)
"""`key_picture.MARKING_INK` as a Recommended Display CIELab Value: of what has no colour of its own, or a grey."""
FIGURES_MAX: Final = 200
"""Outlines of one segment on its slice, the largest: a mask as ragged as that nobody reads by its outline."""


@dataclass(frozen=True, slots=True, eq=False)
class Mark:
    """`figures`: closed outlines, or one point, (N, 2) float32 column and row as in `contour`; `group` names its kind.

    Marks of one group have one colour: a segment is alone in its own, detections of one concept share theirs.
    """

    group: str
    name: str
    numbers: tuple[str, ...]
    slice_index: int
    colour_lab: tuple[int, int, int]
    figures: tuple[NDArray[np.float32], ...]

    @property
    def lines(self) -> tuple[str, ...]:
        """What is written of it: each number after its name."""
        return tuple(f"{self.name}: {number}" for number in self.numbers)


def marks_of(findings: Findings, manifest: Manifest, sources: Sequence[Dataset]) -> tuple[Mark, ...]:
    """Every mark, segments in the manifest's order. Raises OutputInvalid as the SR's groups."""
    shape = grid_shape(sources)
    found: list[Mark] = []
    for segment in drawn_segments(findings, manifest, shape):
        spec, part, origin = segment.spec, segment.found.part, segment.found.origin
        k = key_outline(part, origin).slice_index
        numbers = tuple(worded(segment, findings, manifest))
        drawn = outlines(part[k - origin[0]], origin[1:])[:FIGURES_MAX]
        found.append(Mark(f"SEGMENT_{spec.number}", spec.label, numbers, k, visible(spec.colour_lab), drawn))
    order = {one.id: number for number, one in enumerate(manifest.detections, start=1)}
    for kind, detection in detected(findings, manifest, shape):
        number = (scored(detection.score, calibrated=kind.calibrated),)
        group, figure = f"DETECTION_{order[kind.id]}", corners(detection)
        found.append(Mark(group, kind.concept.meaning, number, detection.slice_index, MARKING_LAB, (figure,)))
    return tuple(found)


def visible(colour_lab: tuple[int, int, int]) -> tuple[int, int, int]:
    """The colour; the marking's where that is a grey, which on a grey picture shows nothing."""
    colour = rgb(colour_lab)
    return colour_lab if max(colour) - min(colour) >= COLOURED_MIN else MARKING_LAB
