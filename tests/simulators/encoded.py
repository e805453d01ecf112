"""One synthetic CT slice in every transfer syntax, encoded by libraries and tools that are not the decoders' twins.

DCMTK encodes JPEG, JPEG-LS and RLE; GDCM JPEG lossless of another predictor; OpenJPEG JPEG 2000. Of HTJ2K the golden
codestreams are OpenJPH's (`ojph_compress` 0.9 on `ct_pixels` as 12-bit PGM, -num_decomps 3, with -reversible true,
the same with -prog_order RPCL, and -qstep 0.001).
"""

from __future__ import annotations

import io
import subprocess
from pathlib import Path

import gdcm
import numpy as np
import numpy.typing as npt
from PIL import Image
from pydicom.dataset import Dataset
from pydicom.encaps import encapsulate

from dicom_bridge.stream import EXPLICIT_BE
from tests.simulators.series import make_slice, set_pixels, write_file

GOLDEN = Path(__file__).parents[1] / "golden" / "htj2k"
SHAPE = (48, 64)
EXPLICIT = "1.2.840.10008.1.2.1"
UID = "1.2.840.10008.1.2"

_DCMTK = {
    f"{UID}.5": ["dcmcrle"],
    f"{UID}.4.50": ["dcmcjpeg", "+eb", "+q", "95"],
    f"{UID}.4.51": ["dcmcjpeg", "+ee", "+q", "95"],
    f"{UID}.4.57": ["dcmcjpeg", "+el"],
    f"{UID}.4.70": ["dcmcjpeg", "+e1"],
    f"{UID}.4.80": ["dcmcjpls", "+el"],
    f"{UID}.4.81": ["dcmcjpls", "+en", "+md", "2"],
}
_HTJ2K = {f"{UID}.4.201": "lossless", f"{UID}.4.202": "lossless-rpcl", f"{UID}.4.203": "lossy"}
LOSSY_ERROR = {f"{UID}.4.50": 30, f"{UID}.4.51": 60, f"{UID}.4.81": 2, f"{UID}.4.91": 60, f"{UID}.4.203": 30}
"""Largest difference of a stored value that the encoders' settings may make."""


def ct_pixels() -> npt.NDArray[np.uint16]:
    """Return a head of 12 bits: air, a ring of bone, a textured inside, and a bright spot without symmetry."""
    r, c = np.mgrid[: SHAPE[0], : SHAPE[1]]
    far = ((r - 23.5) / 20) ** 2 + ((c - 31.5) / 26) ** 2
    head = np.where(far < 0.75, 1060 + (7 * r + 3 * c) % 32, np.where(far < 1, 1900, 8))
    head[10:14, 20:30] = 1105
    return head.astype(np.uint16)


def ct_slice(index: int = 0, *, eight_bits: bool = False) -> Dataset:
    """Return the slice, plain; with `eight_bits` a sixteenth of each value, as baseline JPEG holds no more."""
    ds = make_slice(index, modality="CT", shape=SHAPE)
    pixels = ct_pixels()
    ds.BitsStored, ds.HighBit, ds.PixelRepresentation = 12, 11, 0
    if eight_bits:
        pixels = (pixels // 16).astype(np.uint8)
        ds.BitsAllocated, ds.BitsStored, ds.HighBit = 8, 8, 7
    set_pixels(ds, pixels)
    if eight_bits:
        ds["PixelData"].VR = "OB"
    return ds


def write_encoded(folder: Path, syntax: str, index: int = 0) -> Path:
    """Write the slice as a file of this transfer syntax."""
    path = folder / f"{syntax}-{index}.dcm"
    ds = ct_slice(index, eight_bits=syntax == f"{UID}.4.50")
    if syntax in _DCMTK:
        plain = write_file(ds, folder / "plain.dcm")
        command = (
            [*_DCMTK[syntax], "+un", str(plain), str(path)]
            if "jp" in _DCMTK[syntax][0]
            else [*_DCMTK[syntax], str(plain), str(path)]
        )
        subprocess.run(command, check=True, capture_output=True, timeout=300)
        return path
    if syntax in (f"{UID}.4.90", f"{UID}.4.91"):
        return write_file(_encapsulated(ds, _jpeg2000(syntax)), path, syntax)
    if syntax in _HTJ2K:
        return write_file(_encapsulated(ds, (GOLDEN / f"{_HTJ2K[syntax]}.j2c").read_bytes()), path, syntax)
    if syntax == EXPLICIT_BE:
        ds.PixelData = ct_pixels().astype(">u2").tobytes()
        ds["PixelData"].VR = "OW"
    return write_file(ds, path, syntax)


def write_by_gdcm(folder: Path, syntax: str) -> Path:
    """Write the slice as GDCM encodes it: JPEG lossless, JPEG-LS, JPEG 2000 or RLE."""
    kinds = {
        f"{UID}.5": gdcm.TransferSyntax.RLELossless,
        f"{UID}.4.57": gdcm.TransferSyntax.JPEGLosslessProcess14,
        f"{UID}.4.70": gdcm.TransferSyntax.JPEGLosslessProcess14_1,
        f"{UID}.4.80": gdcm.TransferSyntax.JPEGLSLossless,
        f"{UID}.4.90": gdcm.TransferSyntax.JPEG2000Lossless,
    }
    reader = gdcm.ImageReader()
    reader.SetFileName(str(write_file(ct_slice(), folder / "plain.dcm")))
    change = gdcm.ImageChangeTransferSyntax()
    writer = gdcm.ImageWriter()
    path = folder / f"gdcm-{syntax}.dcm"
    if not reader.Read():
        raise OSError("GDCM does not read the plain file")
    change.SetTransferSyntax(gdcm.TransferSyntax(kinds[syntax]))
    change.SetInput(reader.GetImage())
    if not change.Change():
        raise OSError("GDCM does not encode it")
    writer.SetFile(reader.GetFile())
    writer.SetImage(change.GetOutput())
    writer.SetFileName(str(path))
    if not writer.Write():
        raise OSError("GDCM does not write it")
    return path


def _jpeg2000(syntax: str) -> bytes:
    buffer = io.BytesIO()
    lossy: dict[str, object] = {"irreversible": True, "quality_mode": "dB", "quality_layers": [75]}
    options = lossy if syntax.endswith(".91") else {"irreversible": False}
    Image.fromarray(ct_pixels()).save(buffer, format="JPEG2000", no_jp2=True, **options)
    return buffer.getvalue()


def _encapsulated(ds: Dataset, codestream: bytes) -> Dataset:
    ds.PixelData = encapsulate([codestream])
    ds["PixelData"].VR = "OB"
    ds["PixelData"].is_undefined_length = True
    return ds
