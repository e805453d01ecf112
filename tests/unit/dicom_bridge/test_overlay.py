"""The overlay: what is drawn is where the SEG says, in true proportions, and marked as AI output."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from pydicom import dcmread

from dicom_bridge.overlay import MARGIN_MM, OUTLINE, PIXELS_PER_MM, OverlayRefused, draw
from tests.simulators.phantom import save, write_mask, write_slices

# index (c, r, k) -> LPS: axial, 1 x 2 mm pixels, 4 mm slices, as thick-slice scans are
AXIAL = np.array([[1.0, 0, 0, -30], [0, 2, 0, -40], [0, 0, 4, 5], [0, 0, 0, 1]])
SHAPE = (24, 40, 60)  # (k, r, c)
BOX = (slice(8, 16), slice(10, 30), slice(20, 40))  # 32 x 40 x 20 mm: height, depth, width


def scene(folder: Path, affine: np.ndarray = AXIAL) -> tuple[Path, list[Path], np.ndarray]:
    """A SEG of a box, its sources, and the mask."""
    mask = np.zeros(SHAPE, dtype=bool)
    mask[BOX] = True
    voxels = np.where(mask, 800, 100).astype(np.uint16)
    sources = write_slices(folder / "source", voxels, affine)
    write_mask(folder / "seg.dcm", mask, affine)
    return folder / "seg.dcm", sources, mask


def outlined(path: Path) -> np.ndarray:
    """Where the outline's colour is, without the caption's lines."""
    pixels = np.asarray(Image.open(path).convert("RGB"))
    return (pixels == OUTLINE).all(axis=-1)[30:-30]


def boxes(found: np.ndarray) -> list[tuple[int, int]]:
    """Height and width (pixels) of each outline, from left to right."""
    columns = found.any(axis=0)
    edges = np.flatnonzero(np.diff(np.concatenate([[0], columns.astype(int), [0]])))
    sizes = []
    for begin, end in edges.reshape(-1, 2):
        rows = np.flatnonzero(found[:, begin:end].any(axis=1))
        sizes.append((int(rows[-1] - rows[0] + 1), int(end - begin)))
    return sizes


def test_three_planes_in_true_proportion(tmp_path: Path) -> None:
    """A box of 20 x 40 x 32 mm is drawn with these proportions in each plane, though voxels are 1 x 2 x 4 mm."""
    seg, sources, _ = scene(tmp_path)
    draw(seg, sources, tmp_path / "out.png")
    scale = PIXELS_PER_MM
    wide, deep, high = (int(mm * scale) for mm in (20, 40, 32))
    assert boxes(outlined(tmp_path / "out.png")) == [(deep, wide), (high, wide), (high, deep)]


def test_sagittal_acquisition_is_drawn_alike(tmp_path: Path) -> None:
    """The planes follow the patient, not the scanner: a sagittal acquisition gives axial, coronal, sagittal too."""
    sagittal = np.array([[0.0, 0, 4, -48], [1, 0, 0, -30], [0, -2, 0, 40], [0, 0, 0, 1]])
    seg, sources, _ = scene(tmp_path, sagittal)
    draw(seg, sources, tmp_path / "out.png")
    left_right, front_back, up_down = (int(mm * PIXELS_PER_MM) for mm in (32, 20, 40))
    assert boxes(outlined(tmp_path / "out.png")) == [
        (front_back, left_right),
        (up_down, left_right),
        (up_down, front_back),
    ]


def test_head_is_up_and_face_is_left(tmp_path: Path) -> None:
    """In the coronal plane the top of the head is at the top; in the sagittal plane the face is on the left."""
    mask = np.zeros(SHAPE, dtype=bool)
    mask[4:20, 5:35, 10:50] = True
    voxels = np.where(mask, 100, 10).astype(np.uint16)
    voxels[16:20, 5:12, 10:50] = 1000  # upper front of the head
    sources = write_slices(tmp_path / "source", voxels, AXIAL)
    write_mask(tmp_path / "seg.dcm", mask, AXIAL)
    draw(tmp_path / "seg.dcm", sources, tmp_path / "out.png")
    picture = np.asarray(Image.open(tmp_path / "out.png").convert("L"))[30:-30]
    third = picture[:, 2 * picture.shape[1] // 3 :]
    rows, columns = np.nonzero(third > 250)
    assert rows.mean() < third.shape[0] / 2
    assert columns.mean() < third.shape[1] / 2


def test_patients_right_is_on_the_left(tmp_path: Path) -> None:
    """Axial as radiologists look at it: what lies to the patient's right (small LPS x) is drawn on the left."""
    mask = np.zeros(SHAPE, dtype=bool)
    mask[8:16, 10:30, 10:50] = True
    voxels = np.where(mask, 100, 10).astype(np.uint16)
    voxels[8:16, 10:30, 10:14] = 1000
    sources = write_slices(tmp_path / "source", voxels, AXIAL)
    write_mask(tmp_path / "seg.dcm", mask, AXIAL)
    draw(tmp_path / "seg.dcm", sources, tmp_path / "out.png")
    axial = np.asarray(Image.open(tmp_path / "out.png").convert("L"))[30:-30, : int(40 * PIXELS_PER_MM)]
    assert axial[:, : axial.shape[1] // 2].max() > 250


def test_order_of_the_files_does_not_matter(tmp_path: Path) -> None:
    """Slices are placed by their positions, not by the order of their names."""
    seg, sources, _ = scene(tmp_path)
    draw(seg, sources, tmp_path / "a.png")
    draw(seg, sources[::-1], tmp_path / "b.png")
    assert (tmp_path / "a.png").read_bytes() == (tmp_path / "b.png").read_bytes()


def test_margin_around_the_mask(tmp_path: Path) -> None:
    """Anatomy around the mask is shown, so that a mask that is too small is seen to be."""
    seg, sources, _ = scene(tmp_path)
    draw(seg, sources, tmp_path / "out.png")
    found = outlined(tmp_path / "out.png")
    first = int(np.flatnonzero(found.any(axis=0))[0])
    assert first >= MARGIN_MM * PIXELS_PER_MM


def test_no_patient_attribute_is_needed(tmp_path: Path) -> None:
    """Sources and SEG without a name or an ID are drawn alike: nothing of the patient goes into the picture."""
    seg, sources, _ = scene(tmp_path)
    draw(seg, sources, tmp_path / "a.png")
    renamed = dcmread(seg)
    renamed.PatientName = "OTHER^Phantom"
    save(renamed, tmp_path / "renamed.dcm")
    draw(tmp_path / "renamed.dcm", sources, tmp_path / "b.png")
    assert (tmp_path / "a.png").read_bytes() == (tmp_path / "b.png").read_bytes()


def caption_pixels(path: Path) -> int:
    """How many pixels of the caption have the outline's colour."""
    return int((np.asarray(Image.open(path).convert("RGB"))[-28:] == OUTLINE).all(axis=-1).sum())


def test_marking_is_never_cut(tmp_path: Path) -> None:
    """The line that marks it as AI output is below the planes, whole, however small the mask is."""
    seg, sources, mask = scene(tmp_path)
    draw(seg, sources, tmp_path / "large.png")
    small = np.zeros_like(mask)
    small[10:12, 20:22, 30:32] = True
    write_mask(tmp_path / "small.dcm", small, AXIAL)
    draw(tmp_path / "small.dcm", sources, tmp_path / "small.png")
    assert caption_pixels(tmp_path / "small.png") == caption_pixels(tmp_path / "large.png") > 300


def test_a_shifted_mask_is_refused(tmp_path: Path) -> None:
    """A frame that lies on none of the sources is not drawn somewhere near: it is refused."""
    _, sources, mask = scene(tmp_path)
    write_mask(tmp_path / "shifted.dcm", mask, AXIAL, shift_mm=0.5)
    with pytest.raises(OverlayRefused) as refused:
        draw(tmp_path / "shifted.dcm", sources, tmp_path / "out.png")
    assert refused.value.code == "OVERLAY_MISMATCH"
    assert not (tmp_path / "out.png").exists()


def test_another_matrix_is_refused(tmp_path: Path) -> None:
    """A mask of another matrix is refused."""
    _, sources, mask = scene(tmp_path)
    write_mask(tmp_path / "small.dcm", mask[:, :-1], AXIAL)
    with pytest.raises(OverlayRefused) as refused:
        draw(tmp_path / "small.dcm", sources, tmp_path / "out.png")
    assert refused.value.code == "OVERLAY_MISMATCH"


def test_an_empty_mask_is_refused(tmp_path: Path) -> None:
    """There is no picture of nothing."""
    _, sources, mask = scene(tmp_path)
    write_mask(tmp_path / "empty.dcm", np.zeros_like(mask), AXIAL)
    with pytest.raises(OverlayRefused) as refused:
        draw(tmp_path / "empty.dcm", sources, tmp_path / "out.png")
    assert refused.value.code == "OVERLAY_EMPTY"


def test_no_sources_are_refused(tmp_path: Path) -> None:
    """A mask without its images is refused."""
    seg, _, _ = scene(tmp_path)
    with pytest.raises(OverlayRefused) as refused:
        draw(seg, [], tmp_path / "out.png")
    assert refused.value.code == "OVERLAY_MISMATCH"
