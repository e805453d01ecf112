"""Findings -> FRACTIONAL Segmentation (PS3.3 C.8.20.2): heat maps on the source's own grid, an object of their own.

The standard has two fractional types. PROBABILITY is the probability that the property is in the voxel: what a map says
that is calibrated. OCCUPANCY is the share of the voxel that the property fills: what none of ours says. A score that is
not calibrated is neither, and calling it one of them would be a lie; such maps stay in the findings (decisions/0007).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
from pydicom.dataset import Dataset
from pydicom.uid import SegmentationStorage

from dicom_bridge import explicit
from dicom_bridge.composite import code_item, part10, referenced_series
from dicom_bridge.heat_map_validity import check_heat_maps
from dicom_bridge.result_context import LO_MAX, Algorithm, ResultContext, series_description
from dicom_bridge.segmentation import (
    derived_from,
    dimensions,
    grid_shape,
    header,
    image_modules,
    name_algorithm,
    shared_groups,
)
from dicom_bridge.unfit import OutputInvalid
from inference.types import LEVELS, Findings, HeatMap
from models.manifest import HeatMapSpec, Manifest
from models.ref import ModelRef

KIND: Final = "HEAT"
"""What its UID is derived from, and what the log calls it."""
SERIES_NUMBER: Final = 9006
UNCALIBRATED: Final = "HEAT_MAP_UNCALIBRATED"
"""Code of maps that are not sent: DICOM has no name for what they say."""
_PER_FRAME_GROUPS: Final = 0x52009230
_FRAME_CONTENT: Final = 0x00209111
_DIMENSION_INDEX_VALUES: Final = 0x00209157
_PLANE_POSITION: Final = 0x00209113
_IMAGE_POSITION: Final = 0x00200032
_SEGMENT_IDENTIFICATION: Final = 0x0062000A
_REFERENCED_SEGMENT_NUMBER: Final = 0x0062000B
_REFERENCED_SERIES: Final = 0x00081115
_REFERENCED_INSTANCES: Final = 0x0008114A


@dataclass(frozen=True, slots=True)
class ShownMap:
    """A heat map under its number in the object, contiguous from 1. `planes`: where a value is not 0, ascending."""

    number: int
    spec: HeatMapSpec
    found: HeatMap
    planes: tuple[int, ...]


def shown_maps(findings: Findings, manifest: Manifest, shape: tuple[int, int, int]) -> tuple[ShownMap, ...]:
    """The maps that can be sent: calibrated, and with a value that is not 0 in eight bits; in the manifest's order.

    Raises OutputInvalid HEAT_MAP_UNKNOWN (not of the manifest), GRID_MISMATCH (not `shape`, K,R,C).
    """
    found = {one.id: one for one in findings.heat_maps}
    if found.keys() - {spec.id for spec in manifest.heat_maps}:
        raise OutputInvalid("HEAT_MAP_UNKNOWN", "a heat map is not in the manifest")
    if any(one.shape != shape for one in found.values()):
        raise OutputInvalid("GRID_MISMATCH", "a heat map is not on the source's grid")
    shown: list[ShownMap] = []
    for spec in manifest.heat_maps:
        if spec.calibrated and spec.id in found:
            one = found[spec.id]
            first = one.origin[0]
            planes = tuple(k for k in range(first, first + len(one.part)) if one.levels(k).any())
            if planes:
                shown.append(ShownMap(len(shown) + 1, spec, one, planes))
    return tuple(shown)


def withheld(findings: Findings, manifest: Manifest) -> bool:
    """Whether a map is among the findings that is not sent, as it is not calibrated."""
    calibrated = {spec.id for spec in manifest.heat_maps if spec.calibrated}
    return any(one.id not in calibrated for one in findings.heat_maps)


def write_heat_maps(
    findings: Findings,
    manifest: Manifest,
    ref: ModelRef,
    sources: Sequence[Dataset],
    context: ResultContext,
) -> bytes | None:
    """All heat maps of one call in one Part 10 file, already through their own validity check; None if none is shown.

    Arguments and errors are those of `segmentation.write_seg`, and `shown_maps`.
    """
    shape = grid_shape(sources)
    shown = shown_maps(findings, manifest, shape)
    if not shown:
        return None
    algorithm = Algorithm.of(manifest, ref)
    ds = header(sources, context, algorithm)
    ds.SeriesInstanceUID = context.uid("HEAT-SERIES")
    ds.SeriesNumber = SERIES_NUMBER
    ds.SeriesDescription = series_description(context, algorithm.name, KIND)
    image_modules(ds, sources, shape, "FRACTIONAL", bits=8)
    ds.ContentLabel = "AI_HEAT_MAP"
    ds.ContentDescription = "AI probability map"
    ds.SegmentationFractionalType = "PROBABILITY"
    ds.MaximumFractionalValue = LEVELS
    ds.SegmentsOverlap = "UNDEFINED"
    ds.NumberOfFrames = sum(len(one.planes) for one in shown)
    pixels = b"".join(np.ascontiguousarray(one.found.levels(k)).tobytes() for one in shown for k in one.planes)
    ds.PixelData = pixels if len(pixels) % 2 == 0 else pixels + b"\x00"
    ds["PixelData"].VR = "OB"
    ds.SegmentSequence = [_segment(one, algorithm, context) for one in shown]
    dimensions(ds, context.uid("HEAT-DIMENSIONS"))
    ds.SharedFunctionalGroupsSequence = [shared_groups(sources)]
    explicit.put_sequence(ds, _PER_FRAME_GROUPS, _frame_groups(sources, shown))
    explicit.put_sequence(ds, _REFERENCED_SERIES, [referenced_series(sources, _REFERENCED_INSTANCES)])
    data = part10(ds, SegmentationStorage, context.uid(KIND))
    check_heat_maps(data, sources)
    return data


def _segment(one: ShownMap, algorithm: Algorithm, context: ResultContext) -> Dataset:
    item = Dataset()
    item.SegmentNumber = one.number
    item.SegmentLabel = one.spec.label
    item.SegmentedPropertyCategoryCodeSequence = [code_item(one.spec.category)]
    item.SegmentedPropertyTypeCodeSequence = [code_item(one.spec.type)]
    name_algorithm(item, algorithm)
    item.RecommendedDisplayCIELabValue = list(one.spec.colour_lab)
    # Its own identity: it is no other view of a segment, and a segment's numbers are not its.
    item.TrackingID = f"{one.spec.label} (probability)"[:LO_MAX]
    item.TrackingUID = context.uid("TRACKING", "heat map", one.spec.id)
    return item


def _frame_groups(sources: Sequence[Dataset], shown: Sequence[ShownMap]) -> Iterator[bytes]:
    """One item of functional groups per frame, in the order of the pixel data (PS3.3 C.7.6.16)."""
    present = sorted({k for one in shown for k in one.planes})
    rank = {k: n for n, k in enumerate(present, start=1)}
    for one in shown:
        number = explicit.unsigned(_REFERENCED_SEGMENT_NUMBER, "US", [one.number])
        for k in one.planes:
            index = explicit.unsigned(_DIMENSION_INDEX_VALUES, "UL", [one.number, rank[k]])
            position = "\\".join(str(v) for v in sources[k].ImagePositionPatient)
            yield (
                derived_from(sources[k])
                + explicit.sequence(_FRAME_CONTENT, [index])
                + explicit.sequence(_PLANE_POSITION, [explicit.text(_IMAGE_POSITION, "DS", position)])
                + explicit.sequence(_SEGMENT_IDENTIFICATION, [number])
            )
