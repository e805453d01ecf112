"""A person's outline lands on exactly the voxels that it was drawn on, or is refused."""

from pathlib import Path

import nibabel
import numpy as np
import numpy.typing as npt
import pydicom
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dicom_bridge.truth import TruthUnusable, read_mask
from dicom_bridge.volume import LoadedSeries, load
from inference.types import Volume
from tests.simulators import findings as phantom
from tests.simulators import series
from tests.simulators.written import write_seg

SHAPE = (5, 6, 7)
RAS = np.diag([-1.0, -1.0, 1.0, 1.0])


def volume(affine: npt.NDArray[np.float64] | None = None) -> Volume:
    """A volume of no importance at this place."""
    placed = np.diag([2.0, 0.8, 0.9, 1.0]) if affine is None else affine
    return Volume(np.zeros(SHAPE, np.float32), placed, "sha256:" + "a" * 64, "MR")


def some_mask(seed: int = 1) -> npt.NDArray[np.bool_]:
    """A mask without any symmetry."""
    return np.random.default_rng(seed).random(SHAPE) < 0.3


def save(path: Path, stored: npt.NDArray[np.generic], affine: npt.NDArray[np.float64]) -> Path:
    """As NIfTI."""
    nibabel.save(nibabel.Nifti1Image(stored, affine), path)
    return path


@settings(max_examples=40, deadline=None)
@given(axes=st.permutations([0, 1, 2]), flips=st.tuples(st.booleans(), st.booleans(), st.booleans()))
def test_any_turn(tmp_path_factory: pytest.TempPathFactory, axes: list[int], flips: tuple[bool, ...]) -> None:
    """However a program has turned and mirrored the axes, each voxel comes back to its place."""
    mask, place = some_mask(), volume(np.array([[0.0, 0, 0.9, -30], [0, 0.8, 0, 12], [2, 0, 0, 7], [0, 0, 0, 1]]))
    # Index of what is stored -> index of the volume -> mm.
    back = np.zeros((4, 4))
    back[3, 3] = 1
    turned = np.transpose(mask, axes)
    for stored, axis in enumerate(axes):
        back[axis, stored] = -1 if flips[stored] else 1
        back[axis, 3] = SHAPE[axis] - 1 if flips[stored] else 0
    turned = turned[tuple(slice(None, None, -1 if flip else 1) for flip in flips)]
    path = save(tmp_path_factory.mktemp("t") / "m.nii.gz", turned.astype(np.uint8), RAS @ place.affine @ back)
    assert np.array_equal(read_mask(path, place), mask)


def test_any_value_but_zero(tmp_path: Path) -> None:
    """Tools write 1, 255 or a label's number."""
    stored = some_mask().astype(np.int16) * 7
    assert np.array_equal(read_mask(save(tmp_path / "m.nii", stored, RAS @ volume().affine), volume()), some_mask())


@pytest.mark.parametrize(
    ("change", "code"),
    [
        (np.diag([1.02, 1.0, 1.0, 1.0]), "MASK_GRID"),
        (np.array([[1.0, 0.1, 0, 0], [-0.1, 1, 0, 0], [0, 0, 1, 0], [0, 0, 0, 1]]), "MASK_GRID"),
        (np.array([[1.0, 0, 0, 0.4], [0, 1, 0, 0], [0, 0, 1, 0], [0, 0, 0, 1]]), "MASK_GRID"),
        (np.array([[1.0, 0, 0, 2.0], [0, 1, 0, 0], [0, 0, 1, 0], [0, 0, 0, 1]]), "MASK_GRID"),
    ],
    ids=["scaled", "turned a little", "less than half a voxel off", "a voxel off"],
)
def test_another_grid(tmp_path: Path, change: npt.NDArray[np.float64], code: str) -> None:
    """What would have to be resampled is refused."""
    path = save(tmp_path / "m.nii", some_mask().astype(np.uint8), change @ RAS @ volume().affine)
    with pytest.raises(TruthUnusable) as refused:
        read_mask(path, volume())
    assert refused.value.code == code


def test_another_size(tmp_path: Path) -> None:
    """A mask of fewer slices, or of four dimensions."""
    for stored, code in ((some_mask()[:-1], "MASK_GRID"), (some_mask()[..., None, None], "MASK_KIND")):
        path = save(tmp_path / "m.nii", stored.astype(np.uint8), RAS @ volume().affine)
        with pytest.raises(TruthUnusable) as refused:
            read_mask(path, volume())
        assert refused.value.code == code


@pytest.mark.parametrize("name", ["m.nii", "m.nii.gz", "m.dcm"])
def test_not_a_mask(tmp_path: Path, name: str) -> None:
    """Bytes that are nothing."""
    (tmp_path / name).write_bytes(b"not a mask" * 100)
    with pytest.raises(TruthUnusable) as refused:
        read_mask(tmp_path / name, volume())
    assert refused.value.code == "MASK_UNREADABLE"


@pytest.fixture
def loaded(tmp_path: Path) -> LoadedSeries:
    """A series of eight slices."""
    return load(series.write_series(tmp_path / "images", 8), "sha256:" + "a" * 64)


def seg_of(loaded: LoadedSeries, *masks: npt.NDArray[np.bool_]) -> pydicom.Dataset:
    """The DICOM segmentation of these masks of the series."""
    manifest = phantom.manifest(lesions=len(masks) > 1)
    data = write_seg(phantom.findings(*masks), manifest, phantom.REF, loaded.headers, phantom.context())
    return pydicom.dcmread(pydicom.filebase.DicomBytesIO(data))


def stored(path: Path, seg: pydicom.Dataset) -> Path:
    """As a file."""
    seg.save_as(path)
    return path


def test_segmentation_comes_back(tmp_path: Path, loaded: LoadedSeries) -> None:
    """A binary segmentation of the series is the mask that was drawn, slices without a frame empty."""
    mask = np.zeros(loaded.volume.shape, np.bool_)
    mask[2:5, 3:9, 2:4] = True
    mask[3, 4, 5] = True
    assert np.array_equal(read_mask(stored(tmp_path / "seg.dcm", seg_of(loaded, mask)), loaded.volume), mask)


@pytest.mark.parametrize("what", ["moved", "turned", "coarser", "beside", "smaller"])
def test_segmentation_elsewhere(tmp_path: Path, loaded: LoadedSeries, what: str) -> None:
    """A frame that lies between slices, is turned, or of other pixels, is refused."""
    mask = np.zeros(loaded.volume.shape, np.bool_)
    mask[2:5, 3:9, 2:4] = True
    seg = seg_of(loaded, mask)
    shared, frame = seg.SharedFunctionalGroupsSequence[0], seg.PerFrameFunctionalGroupsSequence[0]
    if what == "moved":
        frame.PlanePositionSequence[0].ImagePositionPatient[2] += 0.4
    elif what == "turned":
        shared.PlaneOrientationSequence[0].ImageOrientationPatient = [0, 1, 0, 1, 0, 0]
    elif what == "coarser":
        shared.PixelMeasuresSequence[0].PixelSpacing = [1.01, 1.0]
    elif what == "beside":
        frame.PlanePositionSequence[0].ImagePositionPatient[2] -= 100
    else:
        seg.Rows, seg.Columns = seg.Columns, seg.Rows
    with pytest.raises(TruthUnusable) as refused:
        read_mask(stored(tmp_path / "seg.dcm", seg), loaded.volume)
    assert refused.value.code == "MASK_GRID"


def test_segmentation_of_another_kind(tmp_path: Path, loaded: LoadedSeries) -> None:
    """An image, a fractional segmentation, one of two segments, one that holds too few pixels."""
    mask = np.zeros(loaded.volume.shape, np.bool_)
    mask[2:5, 3:9, 2:4] = True
    fractional, short = seg_of(loaded, mask), seg_of(loaded, mask)
    fractional.SegmentationType = "FRACTIONAL"
    short.PixelData = short.PixelData[:10]
    image = next((tmp_path / "images").iterdir())
    two = seg_of(loaded, mask, np.roll(mask, 2, axis=1))
    for number, (path, code) in enumerate(
        [
            (image, "MASK_KIND"),
            (stored(tmp_path / "f.dcm", fractional), "MASK_KIND"),
            (stored(tmp_path / "t.dcm", two), "MASK_KIND"),
            (stored(tmp_path / "s.dcm", short), "MASK_UNREADABLE"),
        ]
    ):
        with pytest.raises(TruthUnusable) as refused:
            read_mask(path, loaded.volume)
        assert refused.value.code == code, number
