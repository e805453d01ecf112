"""The scanner's series: valid, deterministic, and true about where things are."""

import itertools
import subprocess
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from pydicom import dcmread

from dicom_bridge import uids
from dicom_bridge.modality import MATRIX, PEAK, PhantomRefused, write_series
from tests.simulators.phantom import EXAMINATION, PATIENT

SHAPE = (9, 11, 7)
AFFINE = np.array([[1.0, 0, 0, -4], [0, 1.5, 0, -6], [0, 0, 2, 10], [0, 0, 0, 1]])
LANDMARK = (6, 2, 5)  # index (i, j, k) of one bright voxel


def head() -> np.ndarray:
    """A dim volume with one bright voxel, which tells where everything went."""
    voxels = np.full(SHAPE, 10.0)
    voxels[LANDMARK] = 200.0
    return voxels


def where_bright(files: tuple[Path, ...]) -> np.ndarray:
    """LPS position (mm) of the brightest pixel of a series, from the headers alone (PS3.3 C.7.6.2.1.1)."""
    best, position = -1, np.zeros(3)
    for path in files:
        image = dcmread(path)
        pixels = image.pixel_array
        if pixels.max() > best:
            best = int(pixels.max())
            row, column = np.unravel_index(int(pixels.argmax()), pixels.shape)
            across, down = np.array(image.ImageOrientationPatient).reshape(2, 3).astype(float)
            vertical, horizontal = (float(x) for x in image.PixelSpacing)
            origin = np.array(image.ImagePositionPatient, dtype=float)
            position = origin + across * horizontal * column + down * vertical * row
    return position


def test_dciodvfy_finds_no_error(tmp_path: Path) -> None:
    """Every slice is a valid MR image by a judge that we did not write."""
    series = write_series(head(), AFFINE, PATIENT, EXAMINATION, tmp_path)
    for path in (series.files[0], series.files[-1]):
        done = subprocess.run(["dciodvfy", str(path)], capture_output=True, text=True, check=False)
        assert "MRImage" in done.stdout + done.stderr
        assert [line for line in done.stderr.splitlines() if line.startswith("Error")] == []


def test_slices_are_square_and_twelve_bits(tmp_path: Path) -> None:
    """Each slice is padded to the scanner's matrix and its brightest voxel uses all twelve bits."""
    series = write_series(head(), AFFINE, PATIENT, EXAMINATION, tmp_path)
    images = [dcmread(path) for path in series.files]
    assert len(images) == SHAPE[2]
    assert {(image.Rows, image.Columns, image.BitsStored) for image in images} == {(MATRIX, MATRIX, 12)}
    assert max(int(image.pixel_array.max()) for image in images) == PEAK
    assert [int(image.InstanceNumber) for image in images] == list(range(1, SHAPE[2] + 1))


def test_slices_run_from_foot_to_head(tmp_path: Path) -> None:
    """Files are in slice order, axial, rows to the left, columns to the back."""
    series = write_series(head(), AFFINE, PATIENT, EXAMINATION, tmp_path)
    images = [dcmread(path) for path in series.files]
    heights = [float(image.ImagePositionPatient[2]) for image in images]
    assert heights == [10.0 + 2 * k for k in range(SHAPE[2])]
    assert {tuple(float(x) for x in image.ImageOrientationPatient) for image in images} == {(1, 0, 0, 0, 1, 0)}
    assert {tuple(float(x) for x in image.PixelSpacing) for image in images} == {(1.5, 1.0)}


ORIENTATIONS = list(itertools.product(itertools.permutations(range(3)), itertools.product((False, True), repeat=3)))


@pytest.mark.parametrize(("order", "flips"), ORIENTATIONS)
def test_world_stays_true(tmp_path: Path, order: tuple[int, int, int], flips: tuple[bool, bool, bool]) -> None:
    """However the array's axes lie, the landmark is where the affine puts it: RAS (2, -3, 20) is LPS (-2, 3, 20)."""
    voxels, columns, origin = head().transpose(order), AFFINE[:3, :3][:, order].copy(), AFFINE[:3, 3].copy()
    for axis, flipped in enumerate(flips):
        if flipped:
            voxels = np.flip(voxels, axis)
            origin += columns[:, axis] * (voxels.shape[axis] - 1)
            columns[:, axis] *= -1
    affine = np.eye(4)
    affine[:3, :3], affine[:3, 3] = columns, origin
    series = write_series(voxels, affine, PATIENT, EXAMINATION, tmp_path)
    assert where_bright(series.files) == pytest.approx([-2.0, 3.0, 20.0])


def test_a_tilted_head_stays_tilted(tmp_path: Path) -> None:
    """A rotated volume keeps its direction cosines; nothing is resampled."""
    turn = np.eye(4)
    turn[1:3, 1:3] = [[np.cos(0.2), -np.sin(0.2)], [np.sin(0.2), np.cos(0.2)]]
    affine = turn @ AFFINE
    series = write_series(head(), affine, PATIENT, EXAMINATION, tmp_path)
    ras = (affine @ np.array([*LANDMARK, 1.0]))[:3]
    assert where_bright(series.files) == pytest.approx([-ras[0], -ras[1], ras[2]], abs=1e-4)


def test_same_input_same_bytes(tmp_path: Path) -> None:
    """Made twice, the files are equal byte for byte: sending again is no new examination."""
    first = write_series(head(), AFFINE, PATIENT, EXAMINATION, tmp_path / "a")
    again = write_series(head(), AFFINE, PATIENT, EXAMINATION, tmp_path / "b")
    assert (first.study_uid, first.series_uid) == (again.study_uid, again.series_uid)
    assert [p.read_bytes() for p in first.files] == [p.read_bytes() for p in again.files]


def test_other_content_other_uids(tmp_path: Path) -> None:
    """Other pixels, another place or another order never get the UIDs of the first."""
    moved = AFFINE.copy()
    moved[0, 3] += 0.5
    other = replace(EXAMINATION, accession="TEST2")
    made = [
        write_series(head(), AFFINE, PATIENT, EXAMINATION, tmp_path / "a"),
        write_series(head()[::-1], AFFINE, PATIENT, EXAMINATION, tmp_path / "b"),
        write_series(head(), moved, PATIENT, EXAMINATION, tmp_path / "c"),
        write_series(head(), AFFINE, PATIENT, other, tmp_path / "d"),
    ]
    assert len({series.study_uid for series in made}) == len(made)
    instances = {str(dcmread(path).SOPInstanceUID) for series in made for path in series.files}
    assert len(instances) == sum(len(series.files) for series in made)
    assert all(uids.valid(uid) for uid in instances)


def test_chinese_name_in_gb18030(tmp_path: Path) -> None:
    """The name is written in the character set that Chinese scanners use, and reads back whole."""
    series = write_series(head(), AFFINE, PATIENT, EXAMINATION, tmp_path)
    image = dcmread(series.files[0])
    assert image.SpecificCharacterSet == "GB18030"
    assert "测试^幻影".encode("gb18030") in series.files[0].read_bytes()
    assert str(image.PatientName) == PATIENT.name
    assert image.StudyDescription == EXAMINATION.description


def test_age_is_in_completed_years(tmp_path: Path) -> None:
    """A birthday that is tomorrow has not been yet: the age is what the gate will compare."""
    series = write_series(head(), AFFINE, PATIENT, EXAMINATION, tmp_path)
    image = dcmread(series.files[0])
    assert (image.PatientAge, image.PatientBirthDate, image.PatientSex) == ("065Y", "19600106", "F")


def test_it_is_an_original_image_of_the_brain(tmp_path: Path) -> None:
    """What the model's manifest and the approval ask about is stated."""
    image = dcmread(write_series(head(), AFFINE, PATIENT, EXAMINATION, tmp_path).files[0])
    assert list(image.ImageType) == ["ORIGINAL", "PRIMARY", "M"]
    assert (image.Modality, image.BodyPartExamined, image.Manufacturer) == ("MR", "BRAIN", "Zhiying Demo")
    assert "T1" in image.SeriesDescription
    assert image.AccessionNumber == "TEST1"


@pytest.mark.parametrize(
    ("voxels", "affine"),
    [
        (np.ones((4, 4)), AFFINE),
        (np.ones(SHAPE), np.eye(3)),
        (np.zeros(SHAPE), AFFINE),
        (-np.ones(SHAPE), AFFINE),
        (np.full(SHAPE, np.nan), AFFINE),
        (np.ones((MATRIX + 1, 2, 2)), AFFINE),
        (np.ones(SHAPE), np.array([[1.0, 0.5, 0, 0], [0, 1, 0, 0], [0, 0, 1, 0], [0, 0, 0, 1]])),
    ],
)
def test_what_is_no_volume_is_refused(tmp_path: Path, voxels: np.ndarray, affine: np.ndarray) -> None:
    """No volume, no series: refused with a code, and nothing is written."""
    with pytest.raises(PhantomRefused) as refused:
        write_series(voxels, affine, PATIENT, EXAMINATION, tmp_path / "out")
    assert refused.value.code == "PHANTOM_INVALID"
    assert not (tmp_path / "out").exists()
