"""A person's outline of a structure, from NIfTI or DICOM SEG, on the grid of the volume that it was drawn on.

It has to be the very grid, turned or mirrored at most: a mask that would have to be resampled is refused, since what
is measured against it would then measure the resampling too.
"""

from __future__ import annotations

from pathlib import Path
from typing import Final

import nibabel
import numpy as np
import numpy.typing as npt
from nibabel.filebasedimages import ImageFileError
from pydicom import dcmread
from pydicom.dataset import Dataset
from pydicom.uid import SegmentationStorage

from dicom_bridge.errors import BridgeError, Fault
from dicom_bridge.heads import UNREADABLE
from dicom_bridge.packed import frame_of
from inference.types import Affine, BoolArray, Volume

GRID_TOLERANCE: Final = 0.05
"""Voxels by which a corner may lie off: NIfTI keeps positions in 32 bits, far finer; half a voxel is another grid."""
_RAS_OF_LPS: Final = np.diag([-1.0, -1.0, 1.0, 1.0])
_NIFTI: Final = (".nii", ".nii.gz")

_Indices = npt.NDArray[np.int64]


class TruthUnusable(BridgeError):
    """A mask that cannot be compared with the volume voxel by voxel."""

    CODES = frozenset({"MASK_UNREADABLE", "MASK_GRID", "MASK_KIND"})
    fault = Fault.SITE


def read_mask(path: Path, volume: Volume) -> BoolArray:
    """The mask (K, R, C) on the volume's grid. NIfTI: every voxel that is not 0. SEG: binary, of one segment.

    Raises TruthUnusable (MASK_UNREADABLE, MASK_GRID: not the volume's grid, MASK_KIND: not of a kind that is read),
    OSError.
    """
    return _from_nifti(path, volume) if path.name.lower().endswith(_NIFTI) else _from_seg(path, volume)


def _from_nifti(path: Path, volume: Volume) -> BoolArray:
    try:
        image = nibabel.load(path)
        values = np.asanyarray(image.dataobj)
        affine = np.asarray(image.affine, dtype=np.float64)
        to_mask = np.linalg.inv(affine)
    except (ImageFileError, ValueError, EOFError):
        raise TruthUnusable("MASK_UNREADABLE", "the mask is no NIfTI file that can be read") from None
    if values.ndim != 3 or not np.isfinite(affine).all():
        raise TruthUnusable("MASK_KIND", "a mask has three dimensions and a place in space")
    # Index of the volume -> mm (LPS) -> mm (RAS, as NIfTI has it) -> index of the mask.
    across = to_mask @ _RAS_OF_LPS @ volume.affine
    return np.ascontiguousarray(_reordered(values != 0, across, volume.shape))


def _reordered(mask: BoolArray, across: Affine, shape: tuple[int, int, int]) -> BoolArray:
    """The mask with the volume's axes; `across` takes an index of the volume to one of the mask."""
    turn = np.rint(across[:3, :3]).astype(np.int64)
    shift = np.rint(across[:3, 3]).astype(np.int64)
    corner = np.array(shape, dtype=np.float64)
    off = np.abs(across[:3, :3] - turn) @ corner + np.abs(across[:3, 3] - shift)
    if (off > GRID_TOLERANCE).any() or (np.abs(turn).sum(axis=0) != 1).any() or (np.abs(turn).sum(axis=1) != 1).any():
        raise TruthUnusable("MASK_GRID", "the mask is not on the image's grid")
    axes: _Indices = np.abs(turn).argmax(axis=0)  # for each axis of the volume, that of the mask
    moved = np.transpose(mask, axes)
    back = [slice(None, None, int(turn[axes[axis], axis])) for axis in range(3)]
    starts = [0 if turn[axes[axis], axis] > 0 else moved.shape[axis] - 1 for axis in range(3)]
    if moved.shape != shape or [int(shift[axes[axis]]) for axis in range(3)] != starts:
        raise TruthUnusable("MASK_GRID", "the mask does not cover what the image covers")
    return moved[tuple(back)]


def _from_seg(path: Path, volume: Volume) -> BoolArray:
    try:
        seg = dcmread(path)
        if seg.get("SOPClassUID") != SegmentationStorage or str(seg.get("SegmentationType", "")) != "BINARY":
            raise TruthUnusable("MASK_KIND", "a binary DICOM segmentation, or a NIfTI file, is wanted")
        if len(seg.SegmentSequence) != 1:
            raise TruthUnusable("MASK_KIND", "a segmentation of one segment is wanted")
        return _placed(seg, volume)
    except UNREADABLE:
        raise TruthUnusable("MASK_UNREADABLE", "the mask is no DICOM file that can be read") from None


def _placed(seg: Dataset, volume: Volume) -> BoolArray:
    """Each frame on the slice where its position is; slices without a frame are empty."""
    frames, rows, columns = int(seg.NumberOfFrames), int(seg.Rows), int(seg.Columns)
    if (rows, columns) != volume.shape[1:] or len(seg.PerFrameFunctionalGroupsSequence) != frames:
        raise TruthUnusable("MASK_GRID", "the segmentation's frames have not the size of the image's slices")
    if len(seg.PixelData) * 8 < frames * rows * columns:
        raise TruthUnusable("MASK_UNREADABLE", "the segmentation holds fewer pixels than it says")
    planes = (frame_of(seg.PixelData, index, (rows, columns)) for index in range(frames))
    mask: BoolArray = np.zeros(volume.shape, dtype=np.bool_)
    to_index = np.linalg.inv(volume.affine)
    for plane, group in zip(planes, seg.PerFrameFunctionalGroupsSequence, strict=True):
        across = to_index @ _plane(group, seg.SharedFunctionalGroupsSequence[0])
        place = round(float(across[0, 3]))
        # The plane's own rows and columns have to be those of the slice, and its corner the slice's corner.
        wanted = np.array([[0.0, 0.0, place], [1.0, 0.0, 0.0], [0.0, 1.0, 0.0]])
        reach = np.array([rows, columns, 1.0])
        off = np.abs(across[:3, [1, 2, 3]] - wanted) @ reach
        if (off > GRID_TOLERANCE).any() or not 0 <= place < len(mask):
            raise TruthUnusable("MASK_GRID", "the segmentation is not on the image's grid")
        mask[place] |= plane
    return mask


def _plane(frame: Dataset, shared: Dataset) -> Affine:
    """(0, row, column, 1) -> mm (LPS) of one frame (PS3.3 C.7.6.2.1.1)."""

    def group(name: str) -> Dataset:
        return (frame if name in frame else shared)[name].value[0]

    position = [float(v) for v in group("PlanePositionSequence").ImagePositionPatient]
    turned = [float(v) for v in group("PlaneOrientationSequence").ImageOrientationPatient]
    between_rows, between_columns = (float(v) for v in group("PixelMeasuresSequence").PixelSpacing)
    plane: Affine = np.eye(4, dtype=np.float64)
    plane[:3, 1] = np.array(turned[3:]) * between_rows
    plane[:3, 2] = np.array(turned[:3]) * between_columns
    plane[:3, 3] = position
    return plane
