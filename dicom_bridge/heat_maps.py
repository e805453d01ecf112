"""Findings -> FRACTIONAL Segmentation (PS3.3 C.8.20.2): heat maps on the source's own grid, an object of their own.

The standard has two fractional types. PROBABILITY is the probability that the property is in the voxel: what a map says
that is calibrated. OCCUPANCY is the share of the voxel that the property fills: what none of ours says. A score that is
not calibrated is neither, and calling it one of them would be a lie; such maps stay in the findings (decisions/0007).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from pydicom.dataset import Dataset
from pydicom.uid import SegmentationStorage

from dicom_bridge.composite import part10
from dicom_bridge.frame_groups import put_frames
from dicom_bridge.heat_map_validity import check_heat_maps
from dicom_bridge.result_context import LO_MAX, Algorithm, ResultContext, Tracking, series_description
from dicom_bridge.segmentation import grid_shape, header, image_modules, segment_item
from dicom_bridge.unfit import OutputInvalid
from inference.types import LEVELS, Findings, HeatMap
from models.manifest import HeatMapSpec, Manifest
from models.ref import ModelRef

KIND: Final = "HEAT"
"""What its UID is derived from, and what the log calls it."""
SERIES_NUMBER: Final = 9006
UNCALIBRATED: Final = "HEAT_MAP_UNCALIBRATED"
"""Code of maps that are not sent: DICOM has no name for what they say."""


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


def make_heat_maps(
    findings: Findings,
    manifest: Manifest,
    ref: ModelRef,
    sources: Sequence[Dataset],
    context: ResultContext,
) -> tuple[bytes, Dataset] | None:
    """All heat maps of one call in one Part 10 file, and what their own validity check has read in it, for the report.

    None if none is shown. Arguments and errors are those of `segmentation.make_seg`, and `shown_maps`.
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
    ds.SegmentSequence = [segment_item(one.number, one.spec, algorithm, _tracking(one.spec, context)) for one in shown]
    put_frames(ds, sources, [(one.number, one.planes) for one in shown], context.uid("HEAT-DIMENSIONS"))
    pixels = (one.found.levels(k).data for one in shown for k in one.planes)
    data = part10(ds, SegmentationStorage, context.uid(KIND), pixels)
    return data, check_heat_maps(data, sources)


def _tracking(spec: HeatMapSpec, context: ResultContext) -> Tracking:
    """Its own identity: it is no other view of a segment, and a segment's numbers are not its."""
    return Tracking(f"{spec.label} (probability)"[:LO_MAX], context.uid("TRACKING", "heat map", spec.id))
