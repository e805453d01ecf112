"""Small invented series and segmentations, made without the product's writers, so that readers are judged by others."""

from datetime import date, datetime
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import ExplicitVRLittleEndian, MRImageStorage, SegmentationStorage

from dicom_bridge.modality import Examination, Patient

PATIENT = Patient(name="TEST^Phantom=测试^幻影", patient_id="TEST-1", birth_date=date(1960, 1, 6), sex="F")
EXAMINATION = Examination(
    accession="TEST1",
    study_id="1",
    taken_at=datetime(2026, 1, 5, 9, 30),  # noqa: DTZ001 a scanner's wall clock has no zone
    description="头颅 MR (TEST)",
    series_description="TEST T1",
)


def save(dataset: Dataset, path: Path) -> None:
    """Part 10, explicit little endian."""
    meta = FileMetaDataset()
    meta.MediaStorageSOPClassUID = dataset.SOPClassUID
    meta.MediaStorageSOPInstanceUID = dataset.SOPInstanceUID
    meta.TransferSyntaxUID = ExplicitVRLittleEndian
    dataset.file_meta = meta
    dataset.save_as(path, enforce_file_format=True)


def write_slices(folder: Path, voxels: NDArray[np.uint16], affine: NDArray[np.float64]) -> list[Path]:
    """Slices of `voxels` (K, R, C); `affine` (4, 4) maps the index (c, r, k) to LPS mm. Headers for geometry alone."""
    folder.mkdir(parents=True, exist_ok=True)
    spacing = np.linalg.norm(affine[:3, :3], axis=0)
    paths = []
    for k in range(voxels.shape[0]):
        image = Dataset()
        image.SOPClassUID, image.SOPInstanceUID = MRImageStorage, f"2.25.{1000 + k}"
        image.ImagePositionPatient = [float(x) for x in (affine @ np.array([0, 0, k, 1.0]))[:3]]
        image.ImageOrientationPatient = [float(x) for x in (affine[:3, :2] / spacing[:2]).T.ravel()]
        image.PixelSpacing = [float(spacing[1]), float(spacing[0])]
        image.Rows, image.Columns = voxels.shape[1:]
        image.SamplesPerPixel, image.PhotometricInterpretation = 1, "MONOCHROME2"
        image.BitsAllocated, image.BitsStored, image.HighBit, image.PixelRepresentation = 16, 16, 15, 0
        image.PixelData = voxels[k].astype("<u2").tobytes()
        paths.append(folder / f"{k:03d}.dcm")
        save(image, paths[-1])
    return paths


def write_mask(path: Path, mask: NDArray[np.bool_], affine: NDArray[np.float64], *, shift_mm: float = 0.0) -> None:
    """A BINARY SEG of the slices of `mask` (K, R, C) that are not empty, `shift_mm` off along the first axis."""
    seg = Dataset()
    seg.SOPClassUID, seg.SOPInstanceUID, seg.StudyInstanceUID = SegmentationStorage, "2.25.2000", "2.25.2"
    seg.SpecificCharacterSet, seg.PatientName = "ISO_IR 192", PATIENT.name
    seg.Rows, seg.Columns = mask.shape[1:]
    seg.SamplesPerPixel, seg.PhotometricInterpretation = 1, "MONOCHROME2"
    seg.BitsAllocated, seg.BitsStored, seg.HighBit, seg.PixelRepresentation = 1, 1, 0, 0
    seg.SegmentationType = "BINARY"
    described = Dataset()
    described.SegmentNumber, described.SegmentLabel, described.SegmentAlgorithmName = 1, "Brain", "test-model"
    seg.SegmentSequence = [described]
    seg.SharedFunctionalGroupsSequence = [Dataset()]
    groups = []
    filled = [k for k in range(mask.shape[0]) if mask[k].any()] or [0]
    for k in filled:
        frame, plane, segment = Dataset(), Dataset(), Dataset()
        position = affine @ np.array([0, 0, k, 1.0]) + np.array([shift_mm, 0, 0, 0])
        plane.ImagePositionPatient = [float(x) for x in position[:3]]
        segment.ReferencedSegmentNumber = 1
        frame.PlanePositionSequence, frame.SegmentIdentificationSequence = [plane], [segment]
        groups.append(frame)
    seg.PerFrameFunctionalGroupsSequence = groups
    seg.NumberOfFrames = len(filled)
    seg.PixelData = np.packbits(mask[filled].ravel(), bitorder="little").tobytes()
    if len(seg.PixelData) % 2:
        seg.PixelData += b"\0"
    save(seg, path)
