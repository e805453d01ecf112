"""Each transfer syntax that is taken is read: real encoded files, compared with the slice that went in."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pydicom
import pytest
from pydicom.data import get_testdata_file

from dicom_bridge.errors import VolumeRefused
from dicom_bridge.heads import read_head
from dicom_bridge.pixels import _DECODERS, NATIVE, read_into
from dicom_bridge.slices import Slice, is_lossy, read_single
from dicom_bridge.transfer_syntaxes import ALWAYS_LOSSY, LOSSY_METHODS, TRANSFER_SYNTAXES
from dicom_bridge.volume import load
from tests.simulators.encoded import LOSSY_ERROR, UID, ct_pixels, ct_slice, write_by_gdcm, write_encoded
from tests.simulators.series import write_file

DIGEST = "sha256:" + "0" * 64
LOSSLESS = [syntax for syntax in TRANSFER_SYNTAXES if syntax not in LOSSY_METHODS]


def stored(one: Slice) -> np.ndarray:
    """Return the voxels of one slice."""
    target = np.empty(one.shape, dtype=np.float32)
    read_into([one], [target])
    return target


def test_the_list_is_the_references() -> None:
    """Those of the reference's table and no other; none twice; what may lose is on it."""
    compressed = ["5", "4.50", "4.51", "4.57", "4.70", "4.80", "4.81", "4.90", "4.91", "4.201", "4.202", "4.203"]
    plain = [UID, f"{UID}.1", f"{UID}.1.99", f"{UID}.2"]
    assert sorted(TRANSFER_SYNTAXES) == sorted(plain + [f"{UID}.{tail}" for tail in compressed])
    assert set(LOSSY_METHODS) <= set(TRANSFER_SYNTAXES)
    assert set(LOSSY_ERROR) == set(LOSSY_METHODS)


@pytest.mark.parametrize("syntax", LOSSLESS)
def test_lossless_syntaxes_give_the_slice_to_the_voxel(tmp_path: Path, syntax: str) -> None:
    """A volume of three encoded slices is, in Hounsfield units, what was encoded."""
    paths = [write_encoded(tmp_path, syntax, index) for index in range(3)]
    assert read_head(paths[0]).transfer_syntax == syntax
    loaded = load(paths, DIGEST)
    np.testing.assert_array_equal(loaded.volume.voxels, np.stack([ct_pixels()] * 3).astype(np.float32) - 1024)
    assert not loaded.attributes.lossy


@pytest.mark.parametrize("syntax", LOSSY_METHODS)
def test_lossy_syntaxes_are_near_and_say_so(tmp_path: Path, syntax: str) -> None:
    """Within what the encoder was allowed; flagged for gate and selection, and in what results say of the source."""
    paths = [write_encoded(tmp_path, syntax, index) for index in range(3)]
    assert read_head(paths[0]).transfer_syntax == syntax
    loaded = load(paths, DIGEST)
    truth = (ct_pixels() // 16 if syntax.endswith(".4.50") else ct_pixels()).astype(np.float32) - 1024
    assert np.abs(loaded.volume.voxels - truth).max() <= LOSSY_ERROR[syntax]
    assert loaded.attributes.lossy
    for header in loaded.headers:
        assert header.LossyImageCompression == "01"
        assert float(np.atleast_1d(header.LossyImageCompressionRatio)[0]) >= 1
        assert np.atleast_1d(header.LossyImageCompressionMethod)[0] == LOSSY_METHODS[syntax]


@pytest.mark.parametrize("tail", ["5", "4.57", "4.70", "4.80", "4.90"])
def test_another_encoder_gives_the_same(tmp_path: Path, tail: str) -> None:
    """GDCM's files, where those above are DCMTK's or OpenJPEG's."""
    path = write_by_gdcm(tmp_path, f"{UID}.{tail}")
    head = read_head(path)
    assert head.transfer_syntax == f"{UID}.{tail}"
    np.testing.assert_array_equal(stored(read_single(head)), ct_pixels().astype(np.float32) - 1024)


REAL = {
    "693_J2KI.dcm": None,
    "J2K_pixelrep_mismatch.dcm": None,
    "JPEG-lossy.dcm": None,
    "JPEG2000.dcm": None,
    "JPEGLSNearLossless_08.dcm": None,
    "JPEGLSNearLossless_16.dcm": None,
    "JPGExtended.dcm": None,
    "MR_small_RLE.dcm": "MR_small.dcm",
    "MR_small_bigendian.dcm": "MR_small.dcm",
    "MR_small_implicit.dcm": "MR_small.dcm",
    "MR_small_jp2klossless.dcm": "MR_small.dcm",
    "MR_small_jpeg_ls_lossless.dcm": "MR_small.dcm",
    "CT_small.dcm": None,
    "image_dfl.dcm": None,
}


@pytest.mark.parametrize("name", REAL)
def test_files_of_real_scanners_are_read_as_pydicom_reads_them(name: str) -> None:
    """Some of pydicom's own test files; the lossless ones against their plain twin."""
    found = Path(str(get_testdata_file(name, download=False)))
    head = read_head(found)
    one = read_single(head)
    twin = REAL[name]
    plain = pydicom.dcmread(str(get_testdata_file(twin or name, download=False)))
    expected = plain.pixel_array.astype(np.float32)
    expected = expected * one.rescale.slope + one.rescale.intercept
    ours = stored(one)
    real = ~np.isnan(ours)
    assert real.any()
    np.testing.assert_array_equal(ours[real], expected[real])


@pytest.mark.parametrize(
    ("syntax", "stated", "lossy"),
    [
        (f"{UID}.1", None, False),
        (f"{UID}.1", "00", False),
        (f"{UID}.1", "01", True),
        (f"{UID}.4.90", None, False),
        (f"{UID}.4.91", None, True),
        (f"{UID}.4.91", "00", False),
        (f"{UID}.4.203", "00", False),
        (f"{UID}.4.81", None, True),
        (f"{UID}.4.50", "00", True),
        (f"{UID}.4.51", "00", True),
        (f"{UID}.4.80", "01", True),
    ],
)
def test_what_was_lost_once_is_lost(tmp_path: Path, syntax: str, stated: str | None, lossy: bool) -> None:
    """The image's own word (0028,2110) counts where its syntax leaves it open; baseline JPEG always loses."""
    ds = ct_slice()
    if stated is not None:
        ds.LossyImageCompression = stated
    head = replace(read_head(write_file(ds, tmp_path / "x.dcm")), transfer_syntax=syntax)
    assert is_lossy(head) is lossy
    assert set(LOSSY_METHODS) >= ALWAYS_LOSSY


@pytest.mark.parametrize("tail", ["5", "4.70", "4.80", "4.90", "4.201"])
@pytest.mark.parametrize("keep", [0.0, 0.3, 0.9])
def test_a_damaged_codestream_is_refused_or_read_and_never_more(tmp_path: Path, tail: str, keep: float) -> None:
    """Cut short inside its fragment: PIXELS_UNDECODABLE, or what a tolerant decoder makes of it; no crash."""
    ds = pydicom.dcmread(write_encoded(tmp_path, f"{UID}.{tail}"))
    (frame,) = pydicom.encaps.generate_frames(ds.PixelData, number_of_frames=1)
    cut = frame[: int(len(frame) * keep)] or b"\0\0"
    ds.PixelData = pydicom.encaps.encapsulate([cut + b"\0" * (len(cut) % 2)])
    ds.save_as(tmp_path / "cut.dcm")
    one = read_single(read_head(tmp_path / "cut.dcm"))
    found, code = None, ""
    try:
        found = stored(one)
    except VolumeRefused as refused:
        code = refused.code
    assert code == "PIXELS_UNDECODABLE" if found is None else found.shape == ct_pixels().shape


def test_every_compressed_syntax_has_one_decoder() -> None:
    """The voxels of a file do not depend on which libraries happen to be there."""
    assert set(_DECODERS) == set(TRANSFER_SYNTAXES) - NATIVE


def test_a_codestream_that_no_decoder_reads_is_refused() -> None:
    """A file of pydicom's that is broken on purpose: its sequence delimiter lies inside the codestream."""
    broken = Path(str(get_testdata_file("JPEG2000-embedded-sequence-delimiter.dcm", download=False)))
    with pytest.raises(VolumeRefused) as refused:
        stored(read_single(read_head(broken)))
    assert refused.value.code == "PIXELS_UNDECODABLE"
