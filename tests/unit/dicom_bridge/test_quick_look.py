"""The picture for a browser: the right slice, the outline where the mask is, and a code where there is none."""

import io
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image
from pydicom import dcmread
from pydicom.dataset import Dataset

from dicom_bridge.key_picture import MARGIN_PX, SIDE_PX, outline_colour
from dicom_bridge.quick_look import LookRefused, Named, picture, segments
from dicom_bridge.volume import load
from tests.simulators import findings as phantom
from tests.simulators import series
from tests.simulators.enhanced import make_enhanced
from tests.simulators.written import write_seg

SHAPE = (6, 15, 13)
"""Frames of 195 bits: the second does not begin with an octet."""


class Scene:
    """Six slices, each brighter than the one before, and a SEG of two boxes on them."""

    def __init__(self, folder: Path) -> None:
        self.paths = series.write_series(folder / "images", 6, shape=SHAPE[1:], spoil=self._paint)
        loaded = load(self.paths, "sha256:" + "0" * 64)
        self.masks = [np.zeros(SHAPE, np.bool_) for _ in range(2)]
        self.masks[0][1:4, 4:9, 3:8] = True
        self.masks[0][2, 4:12, 3:8] = True
        self.masks[1][4, 6:7, 9:11] = True
        self.sources = {str(dcmread(path).SOPInstanceUID): path for path in self.paths}
        self.seg = folder / "seg.dcm"
        self.manifest = phantom.manifest(lesions=True)
        findings = phantom.findings(*self.masks)
        self.seg.write_bytes(write_seg(findings, self.manifest, phantom.REF, loaded.headers, phantom.context()))

    def _paint(self, index: int, ds: Dataset) -> None:
        series.set_pixels(ds, np.arange(195, dtype=np.int16).reshape(SHAPE[1:]) + 1000 * index)

    def drawn(self, number: int) -> NDArray[np.bool_]:
        """Where the outline of a segment is, in the rows and columns of the slice's part of the picture."""
        data = picture(self.seg, number, self.sources)
        canvas = np.asarray(Image.open(io.BytesIO(data)))
        colour = outline_colour(self.manifest.segments[number - 1].colour_lab)
        found = (canvas == colour).all(axis=2)
        found[:36] = False  # the marking has this colour where a segment has none
        return found


@pytest.fixture
def scene(tmp_path: Path) -> Scene:
    """See Scene."""
    return Scene(tmp_path)


def test_segments_by_name(scene: Scene) -> None:
    """Numbers and labels as the SEG has them."""
    assert segments(scene.seg) == (Named(1, "Brain"), Named(2, "Hemorrhage"))


@pytest.mark.parametrize(("number", "key", "box", "column"), [(1, 2, (8, 5), 3), (2, 4, (1, 2), 9)])
def test_the_outline_is_around_the_mask(scene: Scene, number: int, key: int, box: tuple[int, int], column: int) -> None:
    """On the slice of largest area, in the mask's proportions; of the series no other file is read."""
    for uid, path in list(scene.sources.items()):
        if dcmread(path).InstanceNumber != key + 1:
            del scene.sources[uid]
    assert len(scene.sources) == 1
    found = scene.drawn(number)
    rows, columns = np.flatnonzero(found.any(axis=1)), np.flatnonzero(found.any(axis=0))
    size = SIDE_PX / 15
    assert abs(np.ptp(rows) - box[0] * size) < 8
    assert abs(np.ptp(columns) - box[1] * size) < 8
    left = MARGIN_PX + (SIDE_PX - 13 * size) / 2
    assert abs(columns.min() - left - column * size) < 8


def test_images_that_are_gone(scene: Scene) -> None:
    """Not among the sources, or its file away: one code."""
    for path in scene.paths:
        path.unlink()
    for sources in ({}, scene.sources):
        with pytest.raises(LookRefused) as refused:
            picture(scene.seg, 1, sources)
        assert refused.value.code == "LOOK_SOURCE_GONE"


def test_what_cannot_be_read(scene: Scene, tmp_path: Path) -> None:
    """No SEG, no such segment, a damaged image: a code, with nothing of the file in it."""
    (tmp_path / "rubbish").write_bytes(b"TEST^Phantom" * 100)
    for seg, number in ((tmp_path / "rubbish", 1), (scene.seg, 3)):
        with pytest.raises(LookRefused) as refused:
            picture(seg, number, scene.sources)
        assert refused.value.code == "LOOK_UNREADABLE"
        assert "TEST" not in str(refused.value)
    for path in (tmp_path / "rubbish", tmp_path / "none"):
        with pytest.raises(LookRefused):
            segments(path)
    for path in scene.paths:
        path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(LookRefused) as refused:
        picture(scene.seg, 1, scene.sources)
    assert refused.value.code == "LOOK_UNREADABLE"


def test_a_large_one_is_not_unpacked(scene: Scene) -> None:
    """A hundred organs are for a viewer."""
    frames = int(dcmread(scene.seg).NumberOfFrames)
    assert picture(scene.seg, 1, scene.sources, frames_max=frames)
    with pytest.raises(LookRefused) as refused:
        picture(scene.seg, 1, scene.sources, frames_max=frames - 1)
    assert refused.value.code == "LOOK_TOO_LARGE"


def test_a_frame_of_an_enhanced_image(tmp_path: Path) -> None:
    """Where slices are frames of one instance, the frame that the SEG names is drawn."""
    path = series.write_file(make_enhanced((3, 0, 5, 1, 4, 2), modality="CT"), tmp_path / "source.dcm")
    loaded = load([path], "sha256:" + "0" * 64)
    mask = np.zeros(loaded.volume.shape, np.bool_)
    mask[3, 2:5, 2:5] = True
    seg = tmp_path / "seg.dcm"
    seg.write_bytes(
        write_seg(phantom.findings(mask), phantom.manifest(), phantom.REF, loaded.headers, phantom.context())
    )
    (uid,) = {str(header.SOPInstanceUID) for header in loaded.headers}
    assert picture(seg, 1, {uid: path}).startswith(b"\x89PNG")
