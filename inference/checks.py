"""Is the volume what the model was made for, and could a body give this answer? Refuse, never repair. Pure."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from dataclasses import replace
from typing import Final

import numpy as np

from inference.errors import Code, InputUnfit, OutputImplausible
from inference.expected import presence_of
from inference.types import BoolArray, FailedOutput, Findings, Volume
from models.codes import Range
from models.manifest import Manifest, MeasurementSpec

SPACING_TOLERANCE_MM: Final = 1e-4
"""Positions come as decimal strings of 16 characters (VR DS) and spacing is their difference: 1.2 mm reads 1.19999."""

BORDER_SHARE_MAX: Final = 0.01
"""Of a mask's largest section, how much may lie on the volume's border. The brain stem thins out towards the spinal
cord and may reach the last slice of a whole head by a few voxels (0.2 % in the MNI152 template, which is sound); a cut
brain stem has 3 %, a cut vertex more. A cap of 1 % that is cut off has less than 0.01 % of the volume.
"""


def fit(volume: Volume, manifest: Manifest) -> None:
    """Raise InputUnfit unless the volume lies within the manifest's input contract and holds an image.

    Codes, in the order of the checks: MODALITY_MISMATCH, TOO_FEW_SLICES, TOO_MANY_SLICES,
    SLICE_SPACING_OUT_OF_RANGE, PIXEL_SPACING_OUT_OF_RANGE, FOV_OUT_OF_RANGE, NOT_FINITE, EMPTY_IMAGE.
    """
    contract = manifest.input
    if volume.modality not in contract.modality:
        raise InputUnfit("MODALITY_MISMATCH", f"the model is for {', '.join(contract.modality)}")
    slices = volume.shape[0]
    if slices < contract.slices.low:
        raise InputUnfit("TOO_FEW_SLICES", f"{slices} slices, the model needs {contract.slices.low:g}")
    if slices > contract.slices.high:
        raise InputUnfit("TOO_MANY_SLICES", f"{slices} slices, the model takes {contract.slices.high:g}")
    slice_mm, row_mm, column_mm = volume.spacing_mm
    _within("SLICE_SPACING_OUT_OF_RANGE", "slice spacing", (slice_mm,), contract.slice_spacing_mm)
    _within("PIXEL_SPACING_OUT_OF_RANGE", "pixel spacing", (row_mm, column_mm), contract.pixel_spacing_mm)
    for count, mm in zip(volume.shape, volume.spacing_mm, strict=True):
        _within("FOV_OUT_OF_RANGE", "edge of the volume", (count * mm,), contract.fov_mm, count)
    # The extremes tell all in two passes: NaN wins both, an infinity is one of them, a blank image has one value.
    low, high = float(volume.voxels.min()), float(volume.voxels.max())
    if not (math.isfinite(low) and math.isfinite(high)):
        raise InputUnfit("NOT_FINITE", "the image holds voxels that are not finite numbers")
    if low == high:
        raise InputUnfit("EMPTY_IMAGE", "all voxels of the image have the same value")


def _within(code: Code, what: str, values_mm: Iterable[float], limits: Range, steps: int = 1) -> None:
    slack_mm = steps * SPACING_TOLERANCE_MM
    for value in values_mm:
        if not limits.low - slack_mm <= value <= limits.high + slack_mm:
            raise InputUnfit(code, f"{what} {value:.3f} mm, the model takes {limits.low:g} to {limits.high:g} mm")


def plausible(findings: Findings, volume: Volume, manifest: Manifest) -> Findings:
    """The findings; raise OutputImplausible unless they are all that the manifest promises, and believable.

    Codes, in the order of the checks: OUTPUT_SHAPE (segments or measurements missing, surplus or on another grid),
    OUTPUT_NOT_FINITE, OUTPUT_EMPTY (unless a measurement of that segment may be 0), OUTPUT_IMPLAUSIBLE (a value
    outside its range), OUTPUT_TOUCHES_BORDER (a mask that the array's border cuts). Detections, classifications,
    heat maps: OUTPUT_SHAPE (not the manifest's, or off the grid), OUTPUT_IMPLAUSIBLE (a score below its threshold, or a
    presence that is not what the manifest makes of its score).

    Where the manifest allows partial answers, a segment that is not believable is left out with all that was measured
    of it, and named with the code; a code other than OUTPUT_SHAPE raises only where nothing is left to report.
    """
    _statements(findings, volume, manifest)
    if findings.inconclusive is not None:
        return findings
    _drawn(findings, volume, manifest)
    refused: dict[int, OutputImplausible] = {}
    for number, refusal in _unbelievable(findings, manifest):
        if manifest.partial != "allow":
            raise refusal
        refused.setdefault(number, refusal)
    lost = tuple(FailedOutput(f"segment:{number}", refused[number].code) for number in sorted(refused))
    measured_of = {spec.id: spec.segment for spec in manifest.measurements}
    left = replace(
        findings,
        segments=tuple(one for one in findings.segments if one.number not in refused),
        measurements=tuple(one for one in findings.measurements if measured_of[one.id] not in refused),
        failed=(*lost, *findings.failed),
    )
    _something(left, manifest)
    return left


def _drawn(findings: Findings, volume: Volume, manifest: Manifest) -> None:
    wanted = [spec.number for spec in manifest.segments], [spec.id for spec in manifest.measurements]
    found = [segment.number for segment in findings.segments], [m.id for m in findings.measurements]
    if wanted != found:
        raise OutputImplausible("OUTPUT_SHAPE", "segments or measurements are not those of the manifest")
    for segment in findings.segments:
        if segment.shape != volume.shape:
            raise OutputImplausible("OUTPUT_SHAPE", f"segment {segment.number} is not on the image's grid")


def _unbelievable(findings: Findings, manifest: Manifest) -> Iterator[tuple[int, OutputImplausible]]:
    """Segments by number, with what is wrong: one may come several times. All are looked at for one thing, then for the
    next, so that the first refusal of an answer does not depend on which segment has it.
    """
    drawn = {segment.number: segment for segment in findings.segments}
    values = {measurement.id: measurement.value for measurement in findings.measurements}
    for spec in manifest.measurements:
        if not math.isfinite(values[spec.id]):
            yield spec.segment, OutputImplausible("OUTPUT_NOT_FINITE", f"{spec.id} is not a finite number")
    for number, segment in drawn.items():
        if not segment.part.size and not _may_be_empty(number, manifest.measurements):
            yield number, OutputImplausible("OUTPUT_EMPTY", f"segment {number} has no voxel")
    for spec in manifest.measurements:
        if not spec.plausible.contains(values[spec.id]):
            yield spec.segment, OutputImplausible("OUTPUT_IMPLAUSIBLE", _outside(spec, values[spec.id]))
    for one in manifest.segments:
        if one.border == "refuse" and touches_border(drawn[one.number].mask):
            reaches = f"segment {one.number} reaches the volume's border"
            yield one.number, OutputImplausible("OUTPUT_TOUCHES_BORDER", reaches)


def _something(left: Findings, manifest: Manifest) -> None:
    """Raise unless a segment, a classification or a look for detections is left; a heat map alone reports nothing."""
    failed = {one.output for one in left.failed}
    looked = any(f"detection:{spec.id}" not in failed for spec in manifest.detections)
    if left.failed and not (left.segments or left.classifications or looked):
        raise OutputImplausible(left.failed[0].code, "no output of the model passes its check")


def _statements(findings: Findings, volume: Volume, manifest: Manifest) -> None:
    failed = {one.output for one in findings.failed}
    if failed and manifest.partial != "allow":
        raise OutputImplausible("OUTPUT_SHAPE", "an output failed alone, which the manifest does not allow")
    specs = [spec for spec in manifest.classifications if f"classification:{spec.id}" not in failed]
    if [one.id for one in findings.classifications] != [spec.id for spec in specs]:
        raise OutputImplausible("OUTPUT_SHAPE", "classifications are not those of the manifest")
    for said, one in zip(findings.classifications, specs, strict=True):
        if said.score is not None and findings.inconclusive is None and said.presence != presence_of(said.score, one):
            raise OutputImplausible("OUTPUT_IMPLAUSIBLE", f"{said.id} is not what its score comes to")
    maps = tuple(spec.id for spec in manifest.heat_maps if f"heat_map:{spec.id}" not in failed)
    wanted = () if findings.inconclusive is not None else maps
    right = all(one.shape == volume.shape for one in findings.heat_maps)
    if tuple(one.id for one in findings.heat_maps) != wanted or not right:
        raise OutputImplausible("OUTPUT_SHAPE", "heat maps are not those of the manifest, or not on the image's grid")
    thresholds = {spec.id: spec.threshold for spec in manifest.detections}
    for detection in findings.detections:
        if detection.id not in thresholds or not detection.within(volume.shape):
            raise OutputImplausible("OUTPUT_SHAPE", "a detection is not of the manifest or not on the image's grid")
        if detection.score < thresholds[detection.id]:
            raise OutputImplausible("OUTPUT_IMPLAUSIBLE", f"{detection.id} has a score below its threshold")


def touches_border(mask: BoolArray) -> bool:
    """Whether the anatomy is cut: one of the array's six faces (K, R, C) holds more than `BORDER_SHARE_MAX` of the
    mask's largest section parallel to it.
    """
    for axis in range(3):
        others = tuple(other for other in range(3) if other != axis)
        on_faces = max(int(np.count_nonzero(np.take(mask, side, axis=axis))) for side in (0, -1))
        if on_faces and on_faces > BORDER_SHARE_MAX * int(np.count_nonzero(mask, axis=others).max()):
            return True
    return False


def _may_be_empty(number: int, measurements: Iterable[MeasurementSpec]) -> bool:
    return any(spec.segment == number and spec.plausible.contains(0.0) for spec in measurements)


def _outside(spec: MeasurementSpec, value: float) -> str:
    low, high = spec.plausible.low, spec.plausible.high
    return f"{spec.id} is {value:.{spec.decimals}f} {spec.unit.value}, believable are {low:g} to {high:g}"
