"""The measurement groups of a report (PS3.16): TID 1411 or, for peers that want it, TID 1410 for a segment of the SEG;
TID 1410 for a detection.

Each reaches coordinates on a slice, because viewers in the field fail on a group that does not. The two templates never
stand in one report: validators choose one for the whole container, and misread the other's groups.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Final

import numpy as np
from numpy.typing import NDArray
from pydicom.dataset import Dataset

from dicom_bridge import content
from dicom_bridge.content import Item
from dicom_bridge.contour import Outline
from dicom_bridge.peers import ReportGroups
from dicom_bridge.result_context import Algorithm, ResultContext, Tracking, tracking
from dicom_bridge.segmentation import DrawnSegment
from dicom_bridge.unfit import OutputInvalid
from inference.types import Detection, Findings, Measurement
from models.codes import Code
from models.manifest import DetectionSpec, Manifest, MeasurementSpec

PRIVATE_SCHEME: Final = "99ZHIYING"
"""Of the two concepts that no public scheme has; a data set that uses it declares it (PS3.3 C.12.1.1.7)."""
_GROUP = Code("125007", "DCM", "Measurement Group")
_TRACKING_ID = Code("112039", "DCM", "Tracking Identifier")
_TRACKING_UID = Code("112040", "DCM", "Tracking Unique Identifier")
_FINDING_CATEGORY = Code("276214006", "SCT", "Finding category")
_FINDING = Code("121071", "DCM", "Finding")
_METHOD = Code("370129005", "SCT", "Measurement Method")
_ALGORITHM_NAME = Code("111001", "DCM", "Algorithm Name")
_ALGORITHM_VERSION = Code("111003", "DCM", "Algorithm Version")
_REFERENCED_SEGMENT = Code("121191", "DCM", "Referenced Segment")
_SOURCE_SERIES = Code("121232", "DCM", "Source series for segmentation")
_OUTLINE = Code("260753009", "SCT", "Source")
FINDING_SITE = Code("363698007", "SCT", "Finding Site")
_REGION = Code("111030", "DCM", "Image Region")
_CERTAINTY = Code("111012", "DCM", "Certainty of Finding")
_PERCENT = Code("%", "UCUM", "Percent")
_SCORE = Code("SCORE", PRIVATE_SCHEME, "Model score")
_NO_UNIT = Code("1", "UCUM", "no units")


def measured(
    segment: DrawnSegment, findings: Findings, manifest: Manifest
) -> list[tuple[MeasurementSpec, Measurement]]:
    """The numbers of one segment with their meaning. Raises OutputInvalid for a number that the manifest does not know.

    A segment without a number is refused: its group would reach no coordinates, and break the report in viewers.
    """
    specs = {spec.id: spec for spec in manifest.measurements}
    if any(m.id not in specs or not math.isfinite(m.value) for m in findings.measurements):
        raise OutputInvalid("MEASUREMENT_UNKNOWN", "a measurement is not in the manifest or not a number")
    if len({m.id for m in findings.measurements}) != len(findings.measurements):
        raise OutputInvalid("MEASUREMENT_UNKNOWN", "a measurement appears twice")
    found = [(specs[m.id], m) for m in findings.measurements if specs[m.id].segment == segment.spec.number]
    if not found:
        raise OutputInvalid("SEGMENT_NOT_MEASURED", f"segment {segment.spec.number} has no measurement")
    return found


def worded(segment: DrawnSegment, findings: Findings, manifest: Manifest) -> list[str]:
    """The segment's numbers as the SR prints them, with name and unit. Raises as `measured`."""
    return [
        f"{spec.concept.meaning}: {printed(spec, measurement)} {spec.unit.value}"
        for spec, measurement in measured(segment, findings, manifest)
    ]


def printed(spec: MeasurementSpec, measurement: Measurement) -> str:
    """Decimal notation as the manifest sets it; at most 16 characters hold in DS (PS3.5 6.2)."""
    return f"{measurement.value:.{spec.decimals}f}"


def segment_group(
    segment: DrawnSegment,
    numbers: Sequence[tuple[MeasurementSpec, Measurement]],
    outline: Outline,
    seg: Dataset,
    sources: Sequence[Dataset],
    algorithm: Algorithm,
    context: ResultContext,
) -> Item:
    """One segment, with its outline on the slice `outline.slice_index`, as `context.report_groups` says.

    VOLUMETRIC, TID 1411: refers to the segment, and each number is inferred from the outline. PLANAR, TID 1410: the
    outline is the group's region, which excludes a reference to the segment; they are one by their tracking.
    """
    track = tracking(context, segment.spec.number, segment.spec.label)
    sites = list(dict.fromkeys(spec.site for spec, _ in numbers))
    head = _group_head(track, segment.spec.category, segment.spec.type, sites, algorithm)
    on = content.slice_image(content.SELECTED, sources[outline.slice_index])
    if context.report_groups is ReportGroups.PLANAR:
        region = content.polyline(content.CONTAINS, _REGION, outline.points, on)
        return content.container(_GROUP, [*head, region, *(_number(*one) for one in numbers)], tid="1410")
    place = [
        content.image(
            content.CONTAINS,
            str(seg.SOPClassUID),
            str(seg.SOPInstanceUID),
            name=_REFERENCED_SEGMENT,
            segment=segment.number,
        ),
        content.uid(content.CONTAINS, _SOURCE_SERIES, str(sources[0].SeriesInstanceUID)),
    ]
    drawn = content.polyline(content.INFERRED, _OUTLINE, outline.points, on)
    return content.container(_GROUP, [*head, *place, *(_number(*one, drawn) for one in numbers)], tid="1411")


def _number(spec: MeasurementSpec, measurement: Measurement, *from_: Item) -> Item:
    method = [content.code(content.MODIFIER, _METHOD, spec.method)] if spec.method else []
    return content.number(spec.concept, printed(spec, measurement), spec.unit, [*method, *from_])


def detected(
    findings: Findings, manifest: Manifest, shape: tuple[int, int, int]
) -> list[tuple[DetectionSpec, Detection]]:
    """The detections with their meaning, in the findings' order; `shape` (K, R, C) of the source series.

    Raises OutputInvalid KINDS_MIXED (a model with segments too), DETECTION_UNKNOWN (not of the manifest, or below its
    threshold), GRID_MISMATCH (not on the grid).
    """
    if manifest.detections and manifest.segments:
        raise OutputInvalid("KINDS_MIXED", "a report holds segments or detections, not both")
    specs = {spec.id: spec for spec in manifest.detections}
    for detection in findings.detections:
        if detection.id not in specs or detection.score < specs[detection.id].threshold:
            raise OutputInvalid("DETECTION_UNKNOWN", "a detection is not in the manifest or below its threshold")
        if not detection.within(shape):
            raise OutputInvalid("GRID_MISMATCH", "a detection is not on the source's grid")
    return [(specs[detection.id], detection) for detection in findings.detections]


def detection_group(
    number: int,
    spec: DetectionSpec,
    detection: Detection,
    sources: Sequence[Dataset],
    algorithm: Algorithm,
    context: ResultContext,
) -> Item:
    """TID 1410 for one detection, the report's `number`th from 1: its place on its middle slice, and its score."""
    track = Tracking(f"{spec.id} {number}", context.uid("TRACKING", "detection", str(number)))
    on = content.slice_image(content.SELECTED, sources[detection.slice_index])
    points = corners(detection)
    draw = content.point if detection.is_point else content.polyline
    children = [
        *_group_head(track, spec.category, spec.concept, [spec.site], algorithm),
        draw(content.CONTAINS, _REGION, points, on),
        score(detection.score, calibrated=spec.calibrated),
    ]
    return content.container(_GROUP, children, tid="1410")


def corners(detection: Detection) -> NDArray[np.float32]:
    """(N, 2): the box on its middle slice, closed, or the one point; column and row as in `contour.Outline`."""
    (_, top, left), (_, bottom, right) = detection.low, detection.high
    around = [(left, top), (right, top), (right, bottom), (left, bottom), (left, top)]
    # DICOM puts the centre of the first pixel at 0.5 (PS3.3 C.18.6.1.1).
    return np.array(around[:1] if detection.is_point else around, dtype=np.float32) + np.float32(0.5)


def scored(value: float, *, calibrated: bool) -> str:
    """A score in words, as `score` gives it with a name and a unit."""
    return f"{_CERTAINTY.meaning}: {100 * value:.2f} %" if calibrated else f"{_SCORE.meaning}: {value:.4f}"


def score(value: float, *, calibrated: bool, relationship: str = content.CONTAINS) -> Item:
    """A score from 0 to 1: certainty in percent where it is calibrated, else a model's score and no more than that."""
    if calibrated:
        return content.number(_CERTAINTY, f"{100 * value:.2f}", _PERCENT, relationship=relationship)
    return content.number(_SCORE, f"{value:.4f}", _NO_UNIT, relationship=relationship)


def _group_head(
    track: Tracking, category: Code, finding: Code, sites: Sequence[Code], algorithm: Algorithm
) -> list[Item]:
    """What both kinds of group begin with: identity, what it is and where, and who says so (TID 4019)."""
    return [
        content.text(content.CONTEXT, _TRACKING_ID, track.identifier),
        content.uid(content.CONTEXT, _TRACKING_UID, track.uid),
        content.code(content.CONTAINS, _FINDING_CATEGORY, category),
        content.code(content.CONTAINS, _FINDING, finding),
        *(content.code(content.MODIFIER, FINDING_SITE, site) for site in sites),
        content.text(content.MODIFIER, _ALGORITHM_NAME, algorithm.name),
        content.text(content.MODIFIER, _ALGORITHM_VERSION, algorithm.version),
    ]
