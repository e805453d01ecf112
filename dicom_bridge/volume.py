"""Instances of one series -> one regular volume of one patient, or a refusal that says why.

Positions come from Image Position and Orientation alone; slice thickness, slice location, instance numbers and file
names are never trusted. Nothing is interpolated, dropped or repaired (standard: PS3.3 C.7.6.2, C.7.6.3, C.11.1).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final, TypeVar

import numpy as np
from pydicom.dataset import Dataset

from dicom_bridge.attributes import Attributes, read_attributes
from dicom_bridge.errors import VolumeRefused
from dicom_bridge.grid import find_grid
from dicom_bridge.slices import Slice, read_slice
from inference.types import FloatArray, Volume

VOXELS_MAX: Final = 1024 * 1024 * 2048
"""Voxels of one volume: 8 GiB as float32; a larger claim is a mistake or an attack."""

_T = TypeVar("_T")


@dataclass(frozen=True, slots=True, eq=False)
class LoadedSeries:
    """One series, checked.

    volume: voxels (K, R, C) float32 in HU (CT) or the modality's unit, affine index (k, r, c) -> LPS mm.
    headers: the K data sets without pixels, in slice order k; what SR and SEG refer to. Text is as received: read
        it through `charset`.
    attributes: what the ethics gate asks about. slice_spacing_mm: measured between slice centres.
    """

    volume: Volume
    headers: tuple[Dataset, ...]
    attributes: Attributes
    slice_spacing_mm: float


def load(paths: Sequence[Path], source_digest: str, *, voxels_max: int = VOXELS_MAX) -> LoadedSeries:
    """Read the files of one series, in any order, each once.

    `source_digest` ("sha256:...") names exactly these instances; it goes into the Volume.
    Raises VolumeRefused, with these gates in this order: NOT_AN_IMAGE, MULTIFRAME_UNSUPPORTED, IDENTITY_CONFLICT,
    MIXED_SERIES, DUPLICATE_INSTANCE, NOT_GRAYSCALE, MIXED_MATRIX, MIXED_FRAME_OF_REFERENCE, GEOMETRY_MISSING,
    GEOMETRY_INVALID, MIXED_ORIENTATION, SINGLE_SLICE, GANTRY_TILT, DUPLICATE_POSITION, SLICE_MISSING,
    NON_UNIFORM_SPACING, VOLUME_TOO_LARGE, RESCALE_MISSING, PIXELS_UNDECODABLE. Raises OSError when a file is gone.
    """
    slices = [read_slice(path) for path in paths]
    if not slices:
        raise VolumeRefused("NOT_AN_IMAGE", "the series has no instances")
    _one_series(slices)
    _one_matrix(slices)
    grid = find_grid(slices)
    ordered = [slices[index] for index in grid.order]
    rows, columns = ordered[0].format.rows, ordered[0].format.columns
    if len(ordered) * rows * columns > voxels_max:
        raise VolumeRefused("VOLUME_TOO_LARGE", "more voxels than this service loads")
    voxels = _voxels(ordered)
    volume = Volume(voxels=voxels, affine=grid.affine, source_digest=source_digest, modality=ordered[0].modality)
    headers = tuple(one.header for one in ordered)
    attributes = read_attributes(headers[0], slice_spacing_mm=grid.slice_spacing_mm)
    return LoadedSeries(volume, headers, attributes, grid.slice_spacing_mm)


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
    if len({one.sop_uid for one in slices}) != len(slices):
        raise VolumeRefused("DUPLICATE_INSTANCE", "an instance was given twice")


def _one_matrix(slices: Sequence[Slice]) -> None:
    for one in slices:
        if one.format.samples != 1 or one.format.photometric not in ("MONOCHROME1", "MONOCHROME2"):
            raise VolumeRefused("NOT_GRAYSCALE", "pixels are not monochrome")
    shape = _same(slices, lambda one: (one.format.rows, one.format.columns), "MIXED_MATRIX", "matrices differ")
    if min(shape) < 1:
        raise VolumeRefused("NOT_AN_IMAGE", "the matrix is empty")
    _same(slices, lambda one: one.format.photometric, "MIXED_MATRIX", "photometric interpretations differ")


def _voxels(ordered: Sequence[Slice]) -> FloatArray:
    """Stack into (K, R, C); padding becomes NaN on the way and the darkest real value at the end."""
    first = ordered[0]
    voxels = np.empty((len(ordered), first.format.rows, first.format.columns), dtype=np.float32)
    padded = False
    for k, one in enumerate(ordered):
        # Assigning casts on the way, so the stored integers are never copied.
        padded |= one.read_into(voxels[k])
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
