"""Which pixels are of which segment, in both kinds of segmentation and in what others write."""

from __future__ import annotations

import copy
import io
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image
from pydicom import dcmread
from pydicom.dataset import Dataset

from dicom_bridge import overlay
from dicom_bridge.key_picture import outline_colour
from dicom_bridge.quick_look import LookRefused, Named, picture, segments
from dicom_bridge.readback import read_segmentation
from dicom_bridge.segment_pixels import described, frame_numbers, is_label_map, mask_of, readable_kind
from dicom_bridge.volume import load
from tests.simulators import findings as phantom
from tests.simulators import series
from tests.simulators.written import write_label_map, write_seg

SHAPE = (6, 15, 13)


def masks() -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
    """Two boxes that touch."""
    one, two = np.zeros(SHAPE, np.bool_), np.zeros(SHAPE, np.bool_)
    one[1:4, 4:9, 3:8], two[3:5, 4:9, 8:12] = True, True
    return one, two


def both() -> tuple[Dataset, Dataset]:
    """The same findings as BINARY and as a label map."""
    made = []
    for write in (write_seg, write_label_map):
        data = write(
            phantom.findings(*masks()),
            phantom.manifest(lesions=True),
            phantom.REF,
            phantom.series(SHAPE),
            phantom.context(),
        )
        made.append(dcmread(io.BytesIO(data)))
    return made[0], made[1]


BINARY, LABELS = both()


def whole(ds: Dataset) -> NDArray[np.bool_]:
    """(segment, K, R, C) by the frames' positions."""
    found = np.zeros((2, *SHAPE), np.bool_)
    heights = [float(one.ImagePositionPatient[2]) for one in phantom.series(SHAPE)]
    for index, frame in enumerate(ds.PerFrameFunctionalGroupsSequence):
        k = heights.index(float(frame.PlanePositionSequence[0].ImagePositionPatient[2]))
        for number in frame_numbers(ds, index, frame, Dataset()):
            found[number - 1, k] = mask_of(ds, index, number)
    return found


@pytest.mark.parametrize("ds", [BINARY, LABELS], ids=["BINARY", "LABELMAP"])
def test_both_kinds_are_read_alike(ds: Dataset) -> None:
    """Each segment's pixels on its own slices, and the same descriptions: the background is no segment."""
    assert np.array_equal(whole(ds), np.stack(masks()))
    assert [(one.SegmentNumber, one.SegmentLabel) for one in described(ds)] == [(1, "Brain"), (2, "Hemorrhage")]
    assert readable_kind(ds)
    assert is_label_map(ds) == (ds is LABELS)


def test_sixteen_bits() -> None:
    """Others write them, for numbers beyond 255."""
    ds = copy.deepcopy(LABELS)
    pixels = np.frombuffer(ds.PixelData, np.uint8).astype("<u2")
    ds.PixelData, ds.BitsAllocated = np.where(pixels == 2, 300, pixels).astype("<u2").tobytes(), 16
    ds.SegmentSequence[1].SegmentNumber = 300
    shown = [frame_numbers(ds, at, frame, frame) for at, frame in enumerate(ds.PerFrameFunctionalGroupsSequence)]
    assert shown == [(1,), (1,), (1, 300), (300,)]
    assert np.array_equal(mask_of(ds, 3, 300), masks()[1][4])
    assert readable_kind(ds)


def test_a_background_that_another_writer_names_otherwise() -> None:
    """Another number by its Pixel Padding Value; without that, 0 by its code; 0 that nobody describes."""
    moved = copy.deepcopy(LABELS)
    moved.PixelData = moved.PixelData.replace(b"\0", b"\x09")
    moved.SegmentSequence[2].SegmentNumber = moved.PixelPaddingValue = 9
    coded, bare = copy.deepcopy(LABELS), copy.deepcopy(LABELS)
    del coded.PixelPaddingValue, bare.PixelPaddingValue
    bare.SegmentSequence.pop()
    for ds in (moved, coded, bare):
        assert [one.SegmentNumber for one in described(ds)] == [1, 2]
        assert np.array_equal(whole(ds), np.stack(masks()))


def test_without_a_background_0_is_a_segment_like_others() -> None:
    """Neither padding nor code: what is described is a segment."""
    ds = copy.deepcopy(LABELS)
    del ds.PixelPaddingValue
    ds.SegmentSequence[2].SegmentedPropertyTypeCodeSequence[0].CodeValue = "79654002"
    assert [one.SegmentNumber for one in described(ds)] == [1, 2, 0]


def test_a_number_that_nothing_describes() -> None:
    """It cannot be said what such a pixel is."""
    ds = copy.deepcopy(LABELS)
    ds.SegmentSequence.pop(0)
    with pytest.raises(ValueError, match="not described"):
        frame_numbers(ds, 0, ds.PerFrameFunctionalGroupsSequence[0], Dataset())
    with pytest.raises(ValueError, match="buffer"):
        mask_of(ds, int(ds.NumberOfFrames), 1)


@pytest.mark.parametrize(
    ("kind", "bits", "of"),
    [("FRACTIONAL", 8, BINARY), ("BINARY", 8, BINARY), ("BINARY", 1, LABELS), ("LABELMAP", 32, LABELS)],
)
def test_kinds_that_are_not_read(kind: str, bits: int, of: Dataset) -> None:
    """Fractions are no mask, and type, class and bits must agree."""
    ds = copy.deepcopy(of)
    ds.SegmentationType, ds.BitsAllocated = kind, bits
    assert not readable_kind(ds)


def test_read_back(tmp_path: Path) -> None:
    """The demo's and the tests' own reader."""
    LABELS.save_as(tmp_path / "seg.dcm")
    facts = read_segmentation(tmp_path / "seg.dcm")
    assert (facts.kind, facts.frames, facts.labels) == ("LABELMAP", 4, ("Brain", "Hemorrhage"))


# ---- pictures --------------------------------------------------------------------------------------------------------


@pytest.fixture
def scene(tmp_path: Path) -> tuple[Path, Path, list[Path]]:
    """BINARY, label map, and the images of both."""
    paths = series.write_series(tmp_path / "images", SHAPE[0], shape=SHAPE[1:])
    loaded = load(paths, "sha256:" + "0" * 64)
    for name, write in (("binary", write_seg), ("labels", write_label_map)):
        known = phantom.manifest(lesions=True)
        data = write(phantom.findings(*masks()), known, phantom.REF, loaded.headers, phantom.context())
        (tmp_path / name).write_bytes(data)
    return tmp_path / "binary", tmp_path / "labels", paths


def test_the_page_s_picture_is_the_same(scene: tuple[Path, Path, list[Path]]) -> None:
    """Segments and pictures of a label map are those of the BINARY one; a number that is none is refused."""
    binary, labels, paths = scene
    sources = {str(dcmread(path).SOPInstanceUID): path for path in paths}
    assert segments(labels) == segments(binary) == (Named(1, "Brain"), Named(2, "Hemorrhage"))
    for number in (1, 2):
        assert picture(labels, number, sources) == picture(binary, number, sources)
    colours = [outline_colour(one.colour_lab) for one in phantom.manifest(lesions=True).segments]
    canvas = np.asarray(Image.open(io.BytesIO(picture(labels, 2, sources))))
    assert (canvas == colours[1]).all(axis=2).any()
    for number in (0, 3):
        with pytest.raises(LookRefused):
            picture(labels, number, sources)


def test_the_demo_s_overlay_is_the_same(scene: tuple[Path, Path, list[Path]], tmp_path: Path) -> None:
    """Three planes through the very same voxels."""
    drawn = []
    for seg in scene[:2]:
        overlay.draw(seg, scene[2], tmp_path / "out.png", segment=2)
        drawn.append((tmp_path / "out.png").read_bytes())
    assert drawn[0] == drawn[1]
