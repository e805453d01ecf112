"""Instances of one series -> one regular volume of one patient, or a refusal that says why.

Positions come from Image Position and Orientation alone; slice thickness, slice location, instance numbers and file
names are never trusted. Nothing is interpolated, dropped or repaired (standard: PS3.3 C.7.6.2, C.7.6.3, C.11.1).
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final, TypeVar

import numpy as np
from pydicom.dataset import Dataset

from dicom_bridge import heads, pixels
from dicom_bridge.attributes import Attributes, read_attributes
from dicom_bridge.errors import VolumeRefused
from dicom_bridge.heads import Head
from dicom_bridge.multiframe import MULTIFRAME_CLASSES, read_frames
from dicom_bridge.slices import Slice, open_head, read_single
from dicom_bridge.split import Part, divide
from inference.types import FloatArray, Volume

VOXELS_MAX: Final = 1024 * 1024 * 2048
"""Voxels of one volume: 8 GiB as float32; a larger claim is a mistake or an attack."""

_T = TypeVar("_T")


@dataclass(frozen=True, slots=True)
class FrameRef:
    """What a slice is: an instance, or one frame (number from 1) of a multi-frame instance."""

    sop_uid: str
    frame: int | None


@dataclass(frozen=True, slots=True, eq=False)
class LoadedSeries:
    """One volume of a series, checked.

    volume: voxels (K, R, C) float32 in HU (CT) or the modality's unit, affine index (k, r, c) -> LPS mm.
    headers: the K data sets without pixels, in slice order k; what SR and SEG refer to. The first is whole, the others
        hold what is said of each slice. A frame of a multi-frame instance looks like an image of its own, and says
        which it is in Referenced Frame Number (0008,1160). Text is as received: read it through `charset`.
    attributes: what the ethics gate asks about. slice_spacing_mm: measured between slice centres.
    part: which of the series' volumes this is (`split.Part.id`), "" where there is one.
    """

    volume: Volume
    headers: tuple[Dataset, ...]
    attributes: Attributes
    slice_spacing_mm: float
    part: str = ""

    @property
    def frames(self) -> tuple[FrameRef, ...]:
        """Which frame of which instance each slice k is."""
        return tuple(frame_ref(header) for header in self.headers)


def frame_ref(header: Dataset) -> FrameRef:
    """What the slice of this header is."""
    number = header.get("ReferencedFrameNumber")
    return FrameRef(str(header.SOPInstanceUID), None if number is None else int(number))


def load(paths: Sequence[Path], source_digest: str, *, part: str = "", voxels_max: int = VOXELS_MAX) -> LoadedSeries:
    """Read the files of one series, in any order, each once; `read_slices`, then `build`, which have the codes."""
    return build(read_slices(paths), source_digest, part=part, voxels_max=voxels_max)


def read_slices(paths: Sequence[Path], assumed: Mapping[Path, str] | None = None) -> tuple[Slice, ...]:
    """The slices of one series without their pixels: one of each single-frame instance, all of a multi-frame one.

    `assumed`: the character set that a file's sender is known to write under a false name or none.
    Raises VolumeRefused, with these gates in this order: NOT_AN_IMAGE, MULTIFRAME_UNSUPPORTED (a class that is not
    read frame by frame), NOT_GRAYSCALE, PIXELS_UNDECODABLE (a format that contradicts itself), MULTIFRAME_INVALID,
    RESCALE_MISSING, IDENTITY_CONFLICT, MIXED_SERIES, DUPLICATE_INSTANCE. OSError when a file is gone.
    """
    found: list[Slice] = []
    for path in paths:
        found += _read(open_head(path, (assumed or {}).get(path)))
    if not found:
        raise VolumeRefused("NOT_AN_IMAGE", "the series has no instances")
    _one_series(found)
    return tuple(found)


def _read(head: Head) -> tuple[Slice, ...]:
    if head.ascii(heads.SOP_CLASS) in MULTIFRAME_CLASSES:
        return read_frames(head)
    if head.has(heads.SHARED_GROUPS) or head.ascii(heads.FRAMES) not in ("", "1"):
        raise VolumeRefused("MULTIFRAME_UNSUPPORTED", "multi-frame instances of this class are not read")
    return (read_single(head),)


CODE_STRING: Final = re.compile("[A-Z0-9_]{1,16}")
"""A modality's defined term as it may be: VR CS without spaces (PS3.5 section 6.2)."""


def build(slices: Sequence[Slice], source_digest: str, *, part: str = "", voxels_max: int = VOXELS_MAX) -> LoadedSeries:
    """The volume of slices of one series. `part` names one of several (`split.Part.id`); "" means the only one.

    `source_digest` ("sha256:...") names exactly these instances; it goes into the Volume.
    Raises VolumeRefused, with these gates in this order: AMBIGUOUS_VOLUMES (several volumes, none or no such named),
    NOT_AN_IMAGE (no matrix, no modality), MIXED_MATRIX, MIXED_FRAME_OF_REFERENCE, GEOMETRY_MISSING, GEOMETRY_INVALID,
    MIXED_ORIENTATION, SINGLE_SLICE, VOLUMES_INCOMPLETE, DUPLICATE_POSITION, GANTRY_TILT, SLICE_MISSING,
    NON_UNIFORM_SPACING, VOLUME_TOO_LARGE, PIXELS_UNDECODABLE. Raises OSError when a file is gone.
    """
    _one_photometric(slices)
    chosen = _choose(divide(slices), part)
    if chosen.grid is None:
        raise chosen.refused or VolumeRefused("GEOMETRY_INVALID", "no regular grid")
    ordered = [slices[chosen.members[index]] for index in chosen.grid.order]
    rows, columns = ordered[0].shape
    if min(rows, columns) < 1:
        raise VolumeRefused("NOT_AN_IMAGE", "the matrix is empty")
    if not CODE_STRING.fullmatch(ordered[0].modality):
        raise VolumeRefused("NOT_AN_IMAGE", "Modality (0008,0060) is missing or no code string")
    if len(ordered) * rows * columns > voxels_max:
        raise VolumeRefused("VOLUME_TOO_LARGE", "more voxels than this service loads")
    voxels = _voxels(ordered)
    modality = ordered[0].modality
    volume = Volume(voxels=voxels, affine=chosen.grid.affine, source_digest=source_digest, modality=modality)
    headers = tuple(one.header(whole=k == 0) for k, one in enumerate(ordered))
    spacing = chosen.grid.slice_spacing_mm
    attributes = read_attributes(headers[0], slice_spacing_mm=spacing)
    attributes = replace(attributes, lossy=any(one.lossy for one in ordered))
    return LoadedSeries(volume, headers, attributes, spacing, chosen.id)


def _choose(parts: Sequence[Part], wanted: str) -> Part:
    """The part that is named, or the only volume there is: what was found beside the volumes does not make it two."""
    plain = [one for one in parts if (one.id == wanted if wanted else not one.apart)]
    if len(plain) != 1:
        keys = ", ".join(dict.fromkeys(step.key for one in parts for step in one.steps))
        detail = f"several volumes in one series, by {keys}: which is meant?" if keys else "the series has no such part"
        raise VolumeRefused("AMBIGUOUS_VOLUMES", detail)
    return plain[0]


def _same(slices: Sequence[Slice], key: Callable[[Slice], _T], code: str, detail: str) -> _T:
    first = key(slices[0])
    if any(key(one) != first for one in slices):
        raise VolumeRefused(code, detail)
    return first


def _one_series(slices: Sequence[Slice]) -> None:
    _same(slices, lambda one: one.patient, "IDENTITY_CONFLICT", "instances name different patients")
    _same(slices, lambda one: one.study_uid, "IDENTITY_CONFLICT", "instances belong to different studies")
    _same(slices, lambda one: one.series_uid, "MIXED_SERIES", "instances belong to different series")
    _same(slices, lambda one: one.modality, "MIXED_SERIES", "instances are of different modalities")
    if len({(one.sop_uid, one.frame) for one in slices}) != len(slices):
        raise VolumeRefused("DUPLICATE_INSTANCE", "an instance was given twice")


def _one_photometric(slices: Sequence[Slice]) -> None:
    _same(slices, lambda one: one.format.photometric, "MIXED_MATRIX", "photometric interpretations differ")


def _voxels(ordered: Sequence[Slice]) -> FloatArray:
    """Stack into (K, R, C); padding becomes NaN on the way and the darkest real value at the end."""
    first = ordered[0]
    voxels = np.empty((len(ordered), *first.shape), dtype=np.float32)
    files: dict[Head, list[int]] = {}
    for k, one in enumerate(ordered):
        files.setdefault(one.head, []).append(k)
    padded = False
    for members in files.values():
        padded |= pixels.read_into([ordered[k] for k in members], [voxels[k] for k in members])
    if first.format.photometric == "MONOCHROME1" and first.modality != "CT":
        # The lowest value is shown white (PS3.3 C.7.6.3.1.2): mirror within the series' own range, so that brighter
        # is larger, as models expect. Hounsfield units have a meaning of their own and stay.
        low, high = np.nanmin(voxels), np.nanmax(voxels)
        np.subtract(low + high, voxels, out=voxels)
    if padded:
        holes = np.isnan(voxels)
        # Padding measures nothing (PS3.3 C.7.5.1.1.2); as a number it would be an extreme that no tissue has.
        voxels[holes] = 0.0 if holes.all() else np.nanmin(voxels)
    return voxels
