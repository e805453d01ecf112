"""Synthetic series of an invented patient: valid single-frame CT or MR files, and every way to spoil them."""

from __future__ import annotations

import io
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pydicom
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import CTImageStorage, ExplicitVRLittleEndian, MRImageStorage

from dicom_bridge import uids

AXIAL = (1.0, 0.0, 0.0, 0.0, 1.0, 0.0)
CORONAL = (1.0, 0.0, 0.0, 0.0, 0.0, -1.0)
SAGITTAL = (0.0, 1.0, 0.0, 0.0, 0.0, -1.0)

Spoil = Callable[[int, Dataset], None]
"""Changes the slice of this index before it is written."""


def normal_of(orientation: Sequence[float]) -> npt.NDArray[np.float64]:
    """Return the direction that slices are stacked in."""
    row, column = np.array(orientation[:3], dtype=float), np.array(orientation[3:], dtype=float)
    return np.cross(row, column)


def make_slice(
    index: int,
    *,
    seed: str = "one",
    modality: str = "MR",
    shape: tuple[int, int] = (16, 12),
    spacing: tuple[float, float] = (1.0, 1.0),
    step_mm: float = 1.0,
    orientation: Sequence[float] = AXIAL,
    origin: Sequence[float] = (-10.0, -20.0, -30.0),
) -> Dataset:
    """Return one slice; its stored value at (k, r, c) is 100 k + 10 r + c, so that any mix-up shows."""
    ds = Dataset()
    ds.SpecificCharacterSet = "ISO_IR 192"
    ds.ImageType = ["ORIGINAL", "PRIMARY", "M" if modality == "MR" else "AXIAL"]
    ds.SOPClassUID = MRImageStorage if modality == "MR" else CTImageStorage
    ds.SOPInstanceUID = uids.derive("TEST", seed, "instance", str(index))
    ds.StudyDate = "20260401"
    ds.Modality = modality
    ds.Manufacturer = "TEST Phantom Works"
    ds.SeriesDescription = "T1 3D phantom"
    ds.PatientName = "TEST^Phantom=测试^幻影"
    ds.PatientID = "TEST-0001"
    ds.PatientBirthDate = "19560101"
    ds.PatientSex = "O"
    ds.PatientAge = "070Y"
    ds.BodyPartExamined = "BRAIN"
    ds.StudyInstanceUID = uids.derive("TEST", seed, "study")
    ds.SeriesInstanceUID = uids.derive("TEST", seed, "series")
    ds.StudyID = "TEST1"
    ds.SeriesNumber = 3
    ds.InstanceNumber = index + 1
    ds.FrameOfReferenceUID = uids.derive("TEST", seed, "frame of reference")
    position = np.array(origin) + index * step_mm * normal_of(orientation)
    ds.ImagePositionPatient = [f"{value:.6f}" for value in position]
    ds.ImageOrientationPatient = [f"{value:.9f}"[:16] for value in orientation]
    ds.SamplesPerPixel = 1
    ds.PhotometricInterpretation = "MONOCHROME2"
    ds.Rows, ds.Columns = shape
    ds.PixelSpacing = list(spacing)
    ds.BitsAllocated = ds.BitsStored = 16
    ds.HighBit = 15
    ds.PixelRepresentation = 1
    if modality == "CT":
        ds.RescaleSlope, ds.RescaleIntercept = "1", "-1024"
    r, c = np.mgrid[: shape[0], : shape[1]]
    set_pixels(ds, (100 * index + 10 * r + c).astype(np.int16))
    return ds


def set_pixels(ds: Dataset, pixels: npt.NDArray[np.generic]) -> None:
    """Put stored values in, little endian."""
    ds.PixelData = pixels.astype(pixels.dtype.newbyteorder("<")).tobytes()
    ds["PixelData"].VR = "OW"


def write_file(ds: Dataset, path: Path, transfer_syntax: str = ExplicitVRLittleEndian) -> Path:
    """Write one Part 10 file; the data set must be encodable as it is."""
    path.write_bytes(part10(ds, transfer_syntax))
    return path


def part10(ds: Dataset, transfer_syntax: str = ExplicitVRLittleEndian) -> bytes:
    """Return the bytes of a Part 10 file, without checking its values."""
    ds.file_meta = FileMetaDataset()
    ds.file_meta.MediaStorageSOPClassUID = ds.get("SOPClassUID", "1.2.3")
    ds.file_meta.MediaStorageSOPInstanceUID = ds.get("SOPInstanceUID", "1.2.3")
    ds.file_meta.TransferSyntaxUID = transfer_syntax
    buffer = io.BytesIO()
    pydicom.dcmwrite(buffer, ds, enforce_file_format=True)
    return buffer.getvalue()


def dataset_bytes(ds: Dataset, transfer_syntax: str = ExplicitVRLittleEndian) -> bytes:
    """Return only the encoded data set, as a C-STORE carries it."""
    ds.file_meta = FileMetaDataset()
    ds.file_meta.TransferSyntaxUID = transfer_syntax
    buffer = io.BytesIO()
    uid = pydicom.uid.UID(transfer_syntax)
    pydicom.dcmwrite(
        buffer, ds, implicit_vr=uid.is_implicit_VR, little_endian=uid.is_little_endian, enforce_file_format=False
    )
    whole = buffer.getvalue()
    # Without preamble the writer still puts the group 2 elements first; the data set begins at group 8.
    return whole[_dataset_at(whole) :]


def _dataset_at(data: bytes) -> int:
    """Skip the group 2 elements; those here are short ones, but for the version."""
    position = 132 if data[128:132] == b"DICM" else 0
    while data[position : position + 2] == b"\x02\x00":
        long = data[position + 4 : position + 6] == b"OB"
        at, width = (position + 8, 4) if long else (position + 6, 2)
        position = at + width + int.from_bytes(data[at : at + width], "little")
    return position


def write_series(
    folder: Path,
    count: int = 8,
    *,
    spoil: Spoil | None = None,
    skip: Sequence[int] = (),
    transfer_syntax: str = ExplicitVRLittleEndian,
    **options: object,
) -> list[Path]:
    """Write `count` slices but those in `skip`, under names that say nothing of their order; see `make_slice`."""
    folder.mkdir(parents=True, exist_ok=True)
    paths = []
    for index in range(count):
        if index in skip:
            continue
        ds = make_slice(index, **options)  # type: ignore[arg-type]
        if spoil is not None:
            spoil(index, ds)
        name = uids.derive("TEST", "file", str(index))[-12:]
        paths.append(write_file(ds, folder / f"{name}.dcm", transfer_syntax))
    return paths
