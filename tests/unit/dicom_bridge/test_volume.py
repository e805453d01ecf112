"""Volumes: right to the voxel, or refused; each gate with a series made to meet it."""

from __future__ import annotations

import io
import random
import tempfile
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import highdicom
import numpy as np
import pydicom
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from pydicom.dataset import Dataset
from pydicom.encaps import encapsulate
from pydicom.sequence import Sequence as ItemSequence
from pydicom.uid import (
    DeflatedExplicitVRLittleEndian,
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
    JPEG2000Lossless,
    JPEGLSLossless,
    RLELossless,
)

from dicom_bridge.errors import VolumeRefused
from dicom_bridge.volume import load
from tests.simulators.series import AXIAL, CORONAL, SAGITTAL, make_slice, set_pixels, write_file, write_series

DIGEST = "sha256:" + "0" * 64


def stored(count: int = 8, shape: tuple[int, int] = (16, 12)) -> np.ndarray[Any, Any]:
    """Return the values that the synthetic series holds at (k, r, c)."""
    k, r, c = np.mgrid[:count, : shape[0], : shape[1]]
    return (100 * k + 10 * r + c).astype(np.float32)


def refusal(paths: list[Path], **options: int) -> str:
    """Load, and return the code of the refusal."""
    with pytest.raises(VolumeRefused) as caught:
        load(paths, DIGEST, **options)
    return caught.value.code


# -- what is loaded


def test_a_plain_series_is_loaded_to_the_voxel(tmp_path: Path) -> None:
    """Voxels, affine, headers, spacing and attributes of an axial series."""
    paths = write_series(tmp_path, spacing=(0.5, 0.75), step_mm=2.0)
    loaded = load(paths, DIGEST)
    volume = loaded.volume
    assert volume.voxels.dtype == np.float32
    np.testing.assert_array_equal(volume.voxels, stored())
    assert volume.affine.dtype == np.float64
    # Pixel Spacing is (rows, columns): r moves in y by 0.5, c in x by 0.75.
    np.testing.assert_allclose(
        volume.affine, [[0, 0, 0.75, -10], [0, 0.5, 0, -20], [2, 0, 0, -30], [0, 0, 0, 1]], atol=1e-9
    )
    assert volume.spacing_mm == pytest.approx((2.0, 0.5, 0.75))
    assert loaded.slice_spacing_mm == pytest.approx(2.0)
    assert (volume.modality, volume.source_digest) == ("MR", DIGEST)
    assert [header.InstanceNumber for header in loaded.headers] == list(range(1, 9))
    assert all("PixelData" not in header for header in loaded.headers)
    assert loaded.attributes.slice_spacing_mm == pytest.approx(2.0)
    assert (loaded.attributes.modality, loaded.attributes.body_part) == ("MR", "BRAIN")


def test_the_order_of_files_does_not_matter(tmp_path: Path) -> None:
    """Shuffled files give the same volume and the same order of headers."""
    paths = write_series(tmp_path)
    expected = load(paths, DIGEST)
    for seed in range(5):
        random.Random(seed).shuffle(paths)
        again = load(paths, DIGEST)
        np.testing.assert_array_equal(again.volume.voxels, expected.volume.voxels)
        np.testing.assert_array_equal(again.volume.affine, expected.volume.affine)
        assert [h.SOPInstanceUID for h in again.headers] == [h.SOPInstanceUID for h in expected.headers]


def test_numbers_locations_and_thickness_are_not_trusted(tmp_path: Path) -> None:
    """Instance numbers backwards, wrong slice location, thickness and spacing attributes: no difference."""

    def lie(index: int, ds: Dataset) -> None:
        ds.InstanceNumber, ds.SliceLocation = 100 - index, -index
        ds.SliceThickness, ds.SpacingBetweenSlices = "5", "7"

    loaded = load(write_series(tmp_path, spoil=lie), DIGEST)
    np.testing.assert_array_equal(loaded.volume.voxels, stored())
    assert loaded.slice_spacing_mm == pytest.approx(1.0)


OBLIQUE = (0.9659258263, 0.2588190451, 0.0, -0.2241438680, 0.8365163037, 0.5)


@pytest.mark.parametrize("orientation", [AXIAL, CORONAL, SAGITTAL, OBLIQUE, (-1, 0, 0, 0, 1, 0), (0, 1, 0, 1, 0, 0)])
@pytest.mark.parametrize("step_mm", [1.0, -1.0, 0.6, 3.3])
def test_every_voxel_lies_where_its_header_says(tmp_path: Path, orientation: tuple[float, ...], step_mm: float) -> None:
    """Any orientation, either stacking direction, anisotropic: affine and header agree on each corner, in mm."""
    paths = write_series(tmp_path, 6, orientation=orientation, step_mm=step_mm, spacing=(0.7, 1.3))
    loaded = load(paths, DIGEST)
    affine = loaded.volume.affine
    # Slices ascend along the normal of row and column: the grid is right-handed in (k, r, c) = (normal, down, right).
    assert np.linalg.det(affine[:3, :3]) < 0
    for k, header in enumerate(loaded.headers):
        origin = np.array(header.ImagePositionPatient, dtype=float)
        row, column = np.array(header.ImageOrientationPatient, dtype=float).reshape(2, 3)
        for r, c in ((0, 0), (15, 0), (0, 11), (15, 11)):
            # PS3.3 C.7.6.2.1.1: X x, Y y of the mapping from pixel to patient.
            expected = origin + row * 1.3 * c + column * 0.7 * r
            np.testing.assert_allclose((affine @ [k, r, c, 1])[:3], expected, atol=1e-4)
    first = stored(6)[0 if step_mm > 0 else 5]
    np.testing.assert_array_equal(loaded.volume.voxels[0], first)


@pytest.mark.parametrize("orientation", [AXIAL, SAGITTAL, OBLIQUE])
def test_our_geometry_is_highdicoms(tmp_path: Path, orientation: tuple[float, ...]) -> None:
    """A judge that we did not write: highdicom's volume of the same series has the same affine and voxels."""
    paths = write_series(tmp_path, 5, orientation=orientation, spacing=(0.7, 1.3), step_mm=1.7)
    loaded = load(paths, DIGEST)
    theirs = highdicom.get_volume_from_series([pydicom.dcmread(path) for path in paths])
    ours = loaded.volume
    matched = theirs if np.allclose(theirs.affine[:3, 3], ours.affine[:3, 3], atol=1e-4) else theirs.flip_spatial(0)
    np.testing.assert_allclose(matched.affine, ours.affine, atol=1e-4)
    np.testing.assert_array_equal(matched.array, ours.voxels)


@pytest.mark.parametrize(
    "syntax",
    [
        ImplicitVRLittleEndian,
        ExplicitVRLittleEndian,
        DeflatedExplicitVRLittleEndian,
        RLELossless,
        JPEGLSLossless,
        JPEG2000Lossless,
    ],
)
def test_each_lossless_syntax_gives_the_same_voxels(tmp_path: Path, syntax: str) -> None:
    """Native or compressed, the numbers are the same."""
    paths = []
    for index in range(3):
        ds = make_slice(index)
        set_pixels(ds, (stored(3)[index]).astype(np.uint16))
        ds.PixelRepresentation = 0
        if syntax in (RLELossless, JPEGLSLossless):
            write_file(ds, tmp_path / "x.dcm")
            ds.compress(syntax, generate_instance_uid=False)
        elif syntax == JPEG2000Lossless:
            ds = jpeg2000(ds)
        paths.append(write_file(ds, tmp_path / f"{index}.dcm", syntax))
    np.testing.assert_array_equal(load(paths, DIGEST).volume.voxels, stored(3))


def jpeg2000(ds: Dataset) -> Dataset:
    """Compress by Pillow's OpenJPEG, reversibly."""
    pixels = np.frombuffer(ds.PixelData, "<u2").reshape(ds.Rows, ds.Columns)
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, format="JPEG2000", irreversible=False, no_jp2=True)
    ds.PixelData = encapsulate([buffer.getvalue()])
    ds["PixelData"].VR = "OB"
    ds["PixelData"].is_undefined_length = True
    return ds


def test_big_endian_pixels_are_turned(tmp_path: Path) -> None:
    """Explicit VR Big Endian, retired but alive."""
    paths = []
    for index in range(3):
        ds = make_slice(index)
        ds.PixelData = np.frombuffer(ds.PixelData, "<i2").astype(">i2").tobytes()
        ds["PixelData"].VR = "OW"
        paths.append(write_file(ds, tmp_path / f"{index}.dcm", ExplicitVRBigEndian))
    np.testing.assert_array_equal(load(paths, DIGEST).volume.voxels, stored(3))


# -- pixel values


def spoilt_values(tmp_path: Path, spoil: Callable[[int, Dataset], None], **options: object) -> np.ndarray[Any, Any]:
    """Return the voxels of a series of three spoilt slices."""
    return load(write_series(tmp_path, 3, spoil=spoil, **options), DIGEST).volume.voxels


def test_hounsfield_units_come_from_slope_and_intercept(tmp_path: Path) -> None:
    """CT: stored value x slope + intercept, slice by slice."""

    def scale(index: int, ds: Dataset) -> None:
        ds.RescaleSlope, ds.RescaleIntercept = str(index + 1), "-1000"

    voxels = spoilt_values(tmp_path, scale, modality="CT")
    for k in range(3):
        np.testing.assert_array_equal(voxels[k], stored(3)[k] * (k + 1) - 1000)


def test_signed_and_unsigned_values_are_told_apart(tmp_path: Path) -> None:
    """Pixel Representation decides what 0xFFFF is."""
    pixels = np.full((16, 12), 0xFFFF, dtype=np.uint16)

    def fill(signed: int) -> Callable[[int, Dataset], None]:
        def spoil(_: int, ds: Dataset) -> None:
            ds.PixelRepresentation = signed
            set_pixels(ds, pixels)

        return spoil

    assert (spoilt_values(tmp_path / "signed", fill(1)) == -1).all()
    assert (spoilt_values(tmp_path / "unsigned", fill(0)) == 65535).all()


@pytest.mark.parametrize(("signed", "expected"), [(0, 0x0FFF), (1, -1)])
def test_bits_above_the_stored_ones_are_not_part_of_the_value(tmp_path: Path, signed: int, expected: int) -> None:
    """12 bits stored in 16: old overlays in the upper bits do not become intensities."""

    def spoil(_: int, ds: Dataset) -> None:
        ds.BitsStored, ds.HighBit, ds.PixelRepresentation = 12, 11, signed
        set_pixels(ds, np.full((16, 12), 0x7FFF, dtype=np.uint16))

    assert (spoilt_values(tmp_path, spoil) == expected).all()


def test_eight_bit_pixels_of_odd_size_are_read(tmp_path: Path) -> None:
    """One byte per pixel, an odd number of them, padded to an even length."""

    def spoil(_: int, ds: Dataset) -> None:
        ds.BitsAllocated = ds.BitsStored = 8
        ds.HighBit, ds.PixelRepresentation = 7, 0
        ds.PixelData = np.arange(15, dtype=np.uint8).tobytes() + b"\0"

    np.testing.assert_array_equal(spoilt_values(tmp_path, spoil, shape=(5, 3))[1].ravel(), np.arange(15))


def pad(value: int, limit: int | None = None) -> Callable[[int, Dataset], None]:
    """Put padding into the first row of each slice."""

    def spoil(_: int, ds: Dataset) -> None:
        pixels = np.frombuffer(ds.PixelData, "<i2").reshape(16, 12).copy()
        pixels[0, :] = value
        if limit is not None:
            pixels[0, :6] = limit
        set_pixels(ds, pixels)
        ds.add_new(0x00280120, "SS", value)
        if limit is not None:
            ds.add_new(0x00280121, "SS", limit)

    return spoil


@pytest.mark.parametrize("limit", [None, -1990])
def test_padding_becomes_the_darkest_real_value(tmp_path: Path, limit: int | None) -> None:
    """Padding measures nothing: it must not be a value that no tissue has; a range of padding too."""
    voxels = spoilt_values(tmp_path, pad(-2000, limit), modality="CT")
    real = stored(3)[:, 1:] - 1024
    np.testing.assert_array_equal(voxels[:, 1:], real)
    assert (voxels[:, 0] == real.min()).all()


def test_a_volume_of_padding_alone_is_zero(tmp_path: Path) -> None:
    """Nothing real anywhere: zeros, which the fitness check calls empty; never NaN."""

    def spoil(_: int, ds: Dataset) -> None:
        set_pixels(ds, np.full((16, 12), -5, dtype=np.int16))
        ds.add_new(0x00280120, "SS", -5)

    assert (spoilt_values(tmp_path, spoil) == 0).all()


def test_monochrome1_is_mirrored_but_hounsfield_units_stay(tmp_path: Path) -> None:
    """Bright must mean large for a model; a Hounsfield unit means the same however it is displayed."""

    def spoil(_: int, ds: Dataset) -> None:
        ds.PhotometricInterpretation = "MONOCHROME1"

    plain = stored(3)
    np.testing.assert_array_equal(spoilt_values(tmp_path / "mr", spoil), plain.max() + plain.min() - plain)
    np.testing.assert_array_equal(spoilt_values(tmp_path / "ct", spoil, modality="CT"), plain - 1024)


# -- the gates


def setter(keyword: str, value: object, only: int | None = None) -> Callable[[int, Dataset], None]:
    """Return a spoiler that sets, or with None deletes, one attribute, in all slices or in one."""

    def spoil(index: int, ds: Dataset) -> None:
        if only is not None and index != only:
            return
        if value is None:
            delattr(ds, keyword)
        else:
            setattr(ds, keyword, value)

    return spoil


def shift(by: tuple[float, float, float], only: int | None = None) -> Callable[[int, Dataset], None]:
    """Return a spoiler that moves one slice, or each by its index times as much."""

    def spoil(index: int, ds: Dataset) -> None:
        times = index if only is None else float(index == only)
        position = np.array(ds.ImagePositionPatient, dtype=float) + times * np.array(by)
        ds.ImagePositionPatient = [f"{number:.6f}" for number in position]

    return spoil


@pytest.mark.parametrize(
    ("spoil", "code"),
    [
        (setter("PatientID", "TEST-0002", 3), "IDENTITY_CONFLICT"),
        (setter("PatientBirthDate", "19570101", 3), "IDENTITY_CONFLICT"),
        (setter("StudyInstanceUID", "2.25.1", 3), "IDENTITY_CONFLICT"),
        (setter("SeriesInstanceUID", "2.25.1", 3), "MIXED_SERIES"),
        (setter("Modality", "CT", 3), "RESCALE_MISSING"),
        (setter("Modality", "PT", 3), "MIXED_SERIES"),
        (setter("SOPInstanceUID", "2.25.1"), "DUPLICATE_INSTANCE"),
        (setter("PixelData", None, 3), "NOT_AN_IMAGE"),
        (setter("NumberOfFrames", "2"), "MULTIFRAME_UNSUPPORTED"),
        (setter("SharedFunctionalGroupsSequence", ItemSequence([Dataset()])), "MULTIFRAME_UNSUPPORTED"),
        (setter("PhotometricInterpretation", "RGB", 2), "NOT_GRAYSCALE"),
        (setter("SamplesPerPixel", 3, 2), "NOT_GRAYSCALE"),
        (setter("PhotometricInterpretation", "MONOCHROME1", 2), "MIXED_MATRIX"),
        (setter("Rows", 8, 2), "MIXED_MATRIX"),
        (setter("Rows", 0), "NOT_AN_IMAGE"),
        (setter("Modality", ""), "NOT_AN_IMAGE"),
        (setter("Modality", "\x01R"), "NOT_AN_IMAGE"),
        (setter("PixelSpacing", [1.0, 1.01], 2), "MIXED_MATRIX"),
        (setter("FrameOfReferenceUID", "2.25.9", 1), "MIXED_FRAME_OF_REFERENCE"),
        (setter("FrameOfReferenceUID", None), "GEOMETRY_MISSING"),
        (setter("ImagePositionPatient", None, 4), "GEOMETRY_MISSING"),
        (setter("ImageOrientationPatient", None), "GEOMETRY_MISSING"),
        (setter("PixelSpacing", None), "GEOMETRY_MISSING"),
        (setter("PixelSpacing", [0.0, 1.0]), "GEOMETRY_INVALID"),
        (setter("ImageOrientationPatient", [1, 0, 0, 1, 0, 0]), "GEOMETRY_INVALID"),
        (setter("ImageOrientationPatient", [2, 0, 0, 0, 1, 0]), "GEOMETRY_INVALID"),
        (setter("ImageOrientationPatient", [1, 0, 0, 0, 1]), "GEOMETRY_INVALID"),
        (setter("ImageOrientationPatient", list(SAGITTAL), 5), "MIXED_ORIENTATION"),
        (setter("ImageOrientationPatient", [1, 0, 0, 0, 0.99995, 0.01], 5), "MIXED_ORIENTATION"),
        (setter("ImagePositionPatient", [-10, -20, -30], 1), "DUPLICATE_POSITION"),
        (shift((0, 0, 0.5), 4), "NON_UNIFORM_SPACING"),
        (shift((0, 0, 0.03), 4), "NON_UNIFORM_SPACING"),
        (shift((0, 0.5, 0), 4), "NON_UNIFORM_SPACING"),
        (shift((0, 0.2, 0)), "GANTRY_TILT"),
        (shift((0.002, 0, 0)), "GANTRY_TILT"),
        (setter("PixelData", b"\0" * 100, 2), "PIXELS_UNDECODABLE"),
        (setter("BitsAllocated", 12), "PIXELS_UNDECODABLE"),
        (setter("BitsStored", 0), "PIXELS_UNDECODABLE"),
        (setter("BitsStored", 17), "PIXELS_UNDECODABLE"),
        (setter("HighBit", 11), "PIXELS_UNDECODABLE"),
        (setter("ModalityLUTSequence", ItemSequence([Dataset()])), "RESCALE_MISSING"),
        (setter("RescaleSlope", "0"), "RESCALE_MISSING"),
    ],
)
def test_each_gate_refuses_with_its_code(tmp_path: Path, spoil: Callable[[int, Dataset], None], code: str) -> None:
    """One thing wrong with an otherwise good series: refused, named, nothing repaired."""
    assert refusal(write_series(tmp_path, spoil=spoil)) == code


@pytest.mark.parametrize("skip", [(1,), (4,), (2, 3), (2, 5), (1, 2, 3, 5), (1, *range(4, 12))])
def test_missing_slices_are_noticed(tmp_path: Path, skip: tuple[int, ...]) -> None:
    """One or more missing inside the series, wherever: SLICE_MISSING, never an interpolated volume."""
    assert refusal(write_series(tmp_path, 12, skip=skip)) == "SLICE_MISSING"


@pytest.mark.parametrize("keyword", ["RescaleSlope", "RescaleIntercept"])
def test_ct_without_rescale_is_refused(tmp_path: Path, keyword: str) -> None:
    """Without slope or intercept there are no Hounsfield units."""
    assert refusal(write_series(tmp_path, spoil=setter(keyword, None), modality="CT")) == "RESCALE_MISSING"


def test_one_slice_and_none_are_refused(tmp_path: Path) -> None:
    """One slice has no spacing, no slice no image."""
    assert refusal(write_series(tmp_path, 1)) == "SINGLE_SLICE"
    assert refusal([]) == "NOT_AN_IMAGE"


def test_two_phases_in_one_series_are_refused(tmp_path: Path) -> None:
    """Each position twice: which one would be meant is not guessed."""
    paths = write_series(tmp_path / "a") + write_series(
        tmp_path / "b", spoil=lambda index, ds: setattr(ds, "SOPInstanceUID", f"2.25.{index + 1}")
    )
    assert refusal(paths) == "DUPLICATE_POSITION"


@pytest.mark.parametrize("position", ["nan\\0\\0", "inf\\0\\0", "1_0\\0\\0", "x\\0\\0", "1e400\\0\\0"])
def test_numbers_that_are_none_are_refused(tmp_path: Path, position: str) -> None:
    """What Python would take for a number but DS does not allow, and what is not finite."""
    paths = write_series(tmp_path, 3, spoil=setter("ImagePositionPatient", ["111111.5", "222222.5", "333333.5"], 1))
    old = b"111111.5\\222222.5\\333333.5"
    for path in paths:
        path.write_bytes(
            path.read_bytes().replace(old + b" " * (len(old) % 2), position.encode().ljust(len(old) + len(old) % 2))
        )
    assert refusal(paths) == "GEOMETRY_INVALID"


def test_files_that_are_no_instances_are_refused(tmp_path: Path) -> None:
    """Rubbish, and a file cut off by one byte."""
    paths = write_series(tmp_path, 3)
    whole = paths[1].read_bytes()
    for bad in (b"", b"rubbish" * 50, whole[:-1]):
        paths[1].write_bytes(bad)
        assert refusal(paths) == "NOT_AN_IMAGE"


@pytest.mark.parametrize("syntax", [RLELossless, JPEG2000Lossless, JPEGLSLossless])
def test_broken_compression_is_refused(tmp_path: Path, syntax: str) -> None:
    """Fragments that no decoder reads: PIXELS_UNDECODABLE, no crash."""
    paths = []
    for index in range(2):
        ds = make_slice(index)
        ds.PixelData = encapsulate([b"\x00\x01broken stream!"])
        ds["PixelData"].VR = "OB"
        ds["PixelData"].is_undefined_length = True
        paths.append(write_file(ds, tmp_path / f"{index}.dcm", syntax))
    assert refusal(paths) == "PIXELS_UNDECODABLE"


def test_a_volume_above_the_limit_is_refused_before_it_is_allocated(tmp_path: Path) -> None:
    """The claim of a header alone must not take the memory."""
    paths = write_series(tmp_path)
    assert refusal(paths, voxels_max=8 * 16 * 12 - 1) == "VOLUME_TOO_LARGE"
    assert load(paths, DIGEST, voxels_max=8 * 16 * 12).volume.shape == (8, 16, 12)
    assert refusal(write_series(tmp_path / "huge", 3, spoil=lambda _, ds: huge(ds))) == "VOLUME_TOO_LARGE"


def huge(ds: Dataset) -> None:
    """Claim the largest matrix that there is."""
    ds.Rows = ds.Columns = 65535


def test_rounded_positions_pass(tmp_path: Path) -> None:
    """Positions rounded to two decimals, as some scanners write them, are no irregularity."""

    def rounded(_: int, ds: Dataset) -> None:
        ds.ImagePositionPatient = [f"{float(number):.2f}" for number in ds.ImagePositionPatient]

    loaded = load(write_series(tmp_path, 40, spoil=rounded, step_mm=0.7001, orientation=OBLIQUE), DIGEST)
    assert loaded.slice_spacing_mm == pytest.approx(0.7, abs=1e-3)


def test_a_refusal_shows_nothing_of_the_patient(tmp_path: Path) -> None:
    """Neither ID nor name nor path nor UID stands in a message."""
    paths = write_series(tmp_path, spoil=setter("PatientID", "TEST-0002", 3))
    with pytest.raises(VolumeRefused) as caught:
        load(paths, DIGEST)
    for word in ("TEST", "2.25", str(tmp_path), "1956"):
        assert word not in str(caught.value)


@pytest.mark.filterwarnings("ignore:.*([Ee]ncoding|Character Set):UserWarning")
@given(
    changes=st.lists(st.tuples(st.integers(0, 1100), st.binary(min_size=1, max_size=3)), min_size=1, max_size=3),
    syntax=st.sampled_from([ExplicitVRLittleEndian, ImplicitVRLittleEndian]),
)
@settings(max_examples=100, deadline=None)
def test_no_change_of_a_file_makes_it_raise_anything_else(changes: list[tuple[int, bytes]], syntax: str) -> None:
    """Bytes of the header overwritten anywhere: a volume or VolumeRefused, never another exception."""
    with tempfile.TemporaryDirectory() as folder:
        paths = write_series(Path(folder), 3, transfer_syntax=syntax)
        data = bytearray(paths[0].read_bytes())
        for at, change in changes:
            data[140 + at : 140 + at + len(change)] = change
        paths[0].write_bytes(data)
        with suppress(VolumeRefused):
            load(paths, DIGEST, voxels_max=1 << 20)
