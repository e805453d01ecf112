"""A picture of a segmentation on its source: three planes through the mask's centre, the mask outlined.

For the demo, documentation and a quick look; never sent to a PACS. What is drawn comes from the SEG file and the source
files alone, placed by their own positions in space, so that a wrong geometry shows as a wrong picture. No patient
attribute is drawn; the marking as AI output always is.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont
from pydicom import dcmread
from pydicom.dataset import Dataset

from dicom_bridge.errors import BridgeError, Fault
from dicom_bridge.segment_pixels import frame_numbers, mask_of

MARKING = "AI output, not reviewed by a physician"
PIXELS_PER_MM = 2.0  # of the drawn planes: fine enough for a 1 mm outline
MARGIN_MM = 12.0  # of anatomy around the mask's own box, at least
CAPTION_PX = 30
OUTLINE_PX = 2
OUTLINE = (255, 196, 0)
INK = (235, 235, 235)
NEAR_MM = 0.01  # a frame lies on a source slice when its position is this near; writers round to 1e-6 and coarser
WINDOW_PERCENTILES = (1.0, 99.5)  # of the voxels above zero: contrast without a window from the file


class OverlayRefused(BridgeError):
    """The segmentation cannot be drawn on these sources; the message says why."""

    CODES = frozenset({"OVERLAY_EMPTY", "OVERLAY_MISMATCH", "OVERLAY_OBLIQUE"})
    fault = Fault.INPUT


@dataclass(frozen=True, slots=True, eq=False)
class _Grid:
    """Source voxels (Z, Y, X) in patient order: X to the left, Y to the back, Z up. `spacing` (z, y, x) in mm."""

    voxels: NDArray[np.float32]
    mask: NDArray[np.bool_]
    spacing: tuple[float, float, float]


@dataclass(frozen=True, slots=True, eq=False)
class _Slices:
    """Source images in order along their normal. `positions` (K, 3) mm of the first pixel's centre."""

    voxels: NDArray[np.float32]
    positions: NDArray[np.float64]
    row_cosine: NDArray[np.float64]
    column_cosine: NDArray[np.float64]
    spacing: tuple[float, float]


def draw(segmentation: Path, sources: Sequence[Path], out: Path, *, segment: int = 1) -> None:
    """Write a PNG of one segment of a SEG, BINARY or a label map, on the images it was made from.

    Left: axial as radiologists look at it (patient's right on the left); middle: coronal; right: sagittal, face to the
    left. Raises OverlayRefused when the SEG is empty, or a frame of it lies on none of the sources.
    """
    seg = dcmread(segmentation)
    grid = _to_patient_axes(_read_sources(sources), seg, segment)
    planes = _planes(grid)
    height = max(plane.height for plane in planes)
    gap = 6
    font = ImageFont.load_default(size=16)
    caption = f"{MARKING}. {_title(seg, segment)}"
    width = max(sum(p.width for p in planes) + gap * 4, int(font.getlength(caption)) + gap * 3)  # never cut the marking
    sheet = Image.new("RGB", (width, height + 2 * CAPTION_PX))
    pen = ImageDraw.Draw(sheet)
    left = gap
    for plane, name, sides in zip(planes, ("axial", "coronal", "sagittal"), ("RL", "RL", "AP"), strict=True):
        top = CAPTION_PX + (height - plane.height) // 2
        sheet.paste(plane, (left, top))
        pen.text((left + 4, 6), name, fill=INK, font=font)
        middle = top + plane.height // 2
        pen.text((left + 4, middle), sides[0], fill=INK, font=font)
        pen.text((left + plane.width - 16, middle), sides[1], fill=INK, font=font)
        left += plane.width + gap
    pen.text((gap, height + CAPTION_PX + 6), caption, fill=OUTLINE, font=font)
    out.parent.mkdir(parents=True, exist_ok=True)
    sheet.save(out, format="PNG")


def _title(seg: Dataset, segment: int) -> str:
    """Segment label and algorithm, as the SEG itself says them."""
    described = next(item for item in seg.SegmentSequence if item.SegmentNumber == segment)
    label = str(described.get("SegmentLabel", ""))
    algorithm = str(described.get("SegmentAlgorithmName", ""))
    return f"{label}, {algorithm}" if algorithm else label


def _read_sources(paths: Sequence[Path]) -> _Slices:
    """Read the images and sort them along the normal of their common orientation."""
    images = [dcmread(path) for path in paths]
    if not images:
        raise OverlayRefused("OVERLAY_MISMATCH", "no source images")
    orientation = np.array(images[0].ImageOrientationPatient, dtype=np.float64)
    normal = np.cross(orientation[:3], orientation[3:])
    images.sort(key=lambda image: float(np.array(image.ImagePositionPatient, dtype=np.float64) @ normal))
    rows, columns = (float(x) for x in images[0].PixelSpacing)
    return _Slices(
        np.stack([image.pixel_array.astype(np.float32) for image in images]),
        np.array([image.ImagePositionPatient for image in images], dtype=np.float64),
        orientation[:3],
        orientation[3:],
        (rows, columns),
    )


def _mask_on(sources: _Slices, seg: Dataset, segment: int) -> NDArray[np.bool_]:
    """Put each frame of the segment on the source slice at its own position (PS3.3 C.7.6.16.2.3)."""
    mask = np.zeros(sources.voxels.shape, dtype=bool)
    if [int(seg.Rows), int(seg.Columns)] != list(mask.shape[1:]):
        raise OverlayRefused("OVERLAY_MISMATCH", "the segmentation's matrix is not that of the source images")
    shared = seg.SharedFunctionalGroupsSequence[0]
    for index, groups in enumerate(seg.PerFrameFunctionalGroupsSequence):
        if segment not in frame_numbers(seg, index, groups, shared):
            continue
        plane = groups if "PlanePositionSequence" in groups else shared
        position = np.array(plane.PlanePositionSequence[0].ImagePositionPatient, dtype=np.float64)
        distances = np.linalg.norm(sources.positions - position, axis=1)
        nearest = int(distances.argmin())
        if distances[nearest] > NEAR_MM:
            raise OverlayRefused("OVERLAY_MISMATCH", "a frame of the segmentation lies on none of the source images")
        mask[nearest] |= mask_of(seg, index, segment)
    if not mask.any():
        raise OverlayRefused("OVERLAY_EMPTY", "the segment is empty")
    return mask


def _to_patient_axes(sources: _Slices, seg: Dataset, segment: int) -> _Grid:
    """Reorder and flip (no resampling) so that the array's axes follow the patient's, whatever the acquisition."""
    mask = _mask_on(sources, seg, segment)
    gap = sources.positions[1] - sources.positions[0] if len(sources.positions) > 1 else np.zeros(3)
    thickness = float(np.linalg.norm(gap)) or sources.spacing[0]
    normal = np.cross(sources.row_cosine, sources.column_cosine)
    columns = np.stack([normal, sources.column_cosine, sources.row_cosine])  # directions of (k, r, c)
    spacing = (thickness, *sources.spacing)
    order = [int(np.abs(columns[:, axis]).argmax()) for axis in (2, 1, 0)]  # which array axis runs along z, y, x
    if sorted(order) != [0, 1, 2]:
        raise OverlayRefused("OVERLAY_OBLIQUE", "the acquisition is too oblique to be drawn in three planes")
    voxels, mask = sources.voxels.transpose(order), mask.transpose(order)
    for at, axis in enumerate((2, 1, 0)):
        if columns[order[at], axis] < 0:
            voxels, mask = np.flip(voxels, at), np.flip(mask, at)
    return _Grid(voxels, mask, (spacing[order[0]], spacing[order[1]], spacing[order[2]]))


def _planes(grid: _Grid) -> list[Image.Image]:
    """Axial, coronal and sagittal through the mask's centre of mass, cropped alike around the mask."""
    centre = [int(np.rint(axis.mean())) for axis in np.nonzero(grid.mask)]
    box: list[slice] = []
    for axis in range(3):
        where = np.nonzero(grid.mask.any(axis=tuple(other for other in range(3) if other != axis)))[0]
        margin = int(np.ceil(MARGIN_MM / grid.spacing[axis]))
        box.append(slice(max(0, int(where[0]) - margin), int(where[-1]) + margin + 1))
    shown = _windowed(grid.voxels)
    z, y, x = box
    cuts: tuple[tuple[int | slice, ...], ...] = ((centre[0], y, x), (z, centre[1], x), (z, y, centre[2]))
    pictures: list[Image.Image] = []
    for cut, (down, across) in zip(cuts, ((1, 2), (0, 2), (0, 1)), strict=True):
        image, mask = shown[cut], grid.mask[cut]
        if down == 0:  # up is up: row 0 of the picture is the top of the head
            image, mask = image[::-1], mask[::-1]
        pictures.append(_outlined(image, mask, (grid.spacing[down], grid.spacing[across])))
    return pictures


def _windowed(voxels: NDArray[np.float32]) -> NDArray[np.uint8]:
    """Grey values 0..255 between two percentiles of what is not background."""
    tissue = voxels[voxels > 0]
    low, high = np.percentile(tissue if tissue.size else voxels, WINDOW_PERCENTILES)
    scaled = np.clip((voxels - low) / max(float(high - low), 1e-6) * 255.0, 0, 255)
    return np.asarray(scaled, dtype=np.float64).astype(np.uint8)


def _outlined(plane: NDArray[np.uint8], mask: NDArray[np.bool_], spacing: tuple[float, float]) -> Image.Image:
    """One plane at PIXELS_PER_MM in both directions, so that its aspect ratio is true, with the mask's edge drawn."""
    size = tuple(max(1, round(n * mm * PIXELS_PER_MM)) for n, mm in zip(plane.shape, spacing, strict=True))
    wide_by_high = (size[1], size[0])
    picture = Image.fromarray(np.ascontiguousarray(plane)).resize(wide_by_high, Image.Resampling.BICUBIC)
    flat = Image.fromarray(np.ascontiguousarray(mask.astype(np.uint8) * 255)).resize(
        wide_by_high, Image.Resampling.NEAREST
    )
    inside = np.asarray(flat) > 0
    eroded = inside
    for _ in range(OUTLINE_PX):
        padded = np.pad(eroded, 1)
        eroded = eroded & padded[:-2, 1:-1] & padded[2:, 1:-1] & padded[1:-1, :-2] & padded[1:-1, 2:]
    rgb = np.stack([np.asarray(picture)] * 3, axis=-1)
    rgb[inside & ~eroded] = OUTLINE
    return Image.fromarray(rgb)
