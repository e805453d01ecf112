"""Plays the scanner: an array and an invented patient become a valid original MR series on disk.

For the demo and for tests. What it writes is what a scanner would send: square 256 x 256 axial slices, every type 1 and
type 2 attribute of MR Image Storage (PS3.3 A.4, C.8.3), a Chinese patient name in GB18030. The same input gives the
same bytes and the same UIDs, so that sending twice is the same examination, not a second one.
"""

import hashlib
from dataclasses import dataclass
from datetime import date, datetime, timedelta
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import ExplicitVRLittleEndian, MRImageStorage

from dicom_bridge import uids
from dicom_bridge.errors import BridgeError, Fault

MATRIX = 256  # some viewers mis-draw odd matrices; scanners pad to this too
PEAK = 4095  # twelve bits, as a scanner stores
RAS_TO_LPS = np.diag([-1.0, -1.0, 1.0, 1.0])  # NIfTI's world against DICOM's (PS3.3 C.7.6.2.1.1)
ORTHOGONAL = 1e-4  # cosine between two axes of the input; PS3.3 C.7.6.2 wants row and column at right angles
DAYS_PER_YEAR = 365.2425


class PhantomRefused(BridgeError):
    """The array cannot become a series; the message says why."""

    CODES = frozenset({"PHANTOM_INVALID"})
    fault = Fault.INPUT


@dataclass(frozen=True, slots=True)
class Patient:
    """An invented person, whose name looks invented."""

    name: str  # PN with component groups: alphabetic=ideographic (PS3.5 6.2.1)
    patient_id: str
    birth_date: date
    sex: str  # M, F or O


@dataclass(frozen=True, slots=True)
class Examination:
    """What the order and the scanner's protocol say. `taken_at` is the scanner's local clock, without a zone."""

    accession: str
    study_id: str
    taken_at: datetime
    description: str
    series_description: str
    body_part: str = "BRAIN"
    institution: str = "DEMO Hospital"


@dataclass(frozen=True, slots=True)
class SeriesOnDisk:
    """One series as files in slice order, foot to head."""

    study_uid: str
    series_uid: str
    files: tuple[Path, ...]


@dataclass(frozen=True, slots=True, eq=False)
class _Stack:
    """Axial slices (K, R, C) uint16; `affine` (4, 4) maps the index (c, r, k) to LPS mm."""

    voxels: NDArray[np.uint16]
    affine: NDArray[np.float64]

    def digest(self) -> str:
        """Names the content, so that other pixels never get the same UIDs."""
        shape = np.asarray(self.voxels.shape, dtype="<i8").tobytes()
        return hashlib.sha256(shape + self.affine.astype("<f8").tobytes() + self.voxels.tobytes()).hexdigest()


def write_series(
    voxels: NDArray[np.generic],
    affine: NDArray[np.float64],
    patient: Patient,
    examination: Examination,
    into: Path,
) -> SeriesOnDisk:
    """Write the series into the folder `into`, one file a slice.

    `voxels` (I, J, K) of any orientation whose axes are at right angles, values >= 0; `affine` (4, 4) maps (i, j, k) to
    RAS+ mm, as NIfTI does. The world coordinates of the anatomy stay true: reordering, flips and padding move the
    origin with them. Raises PhantomRefused when the array does not fit the matrix, or is no such volume.
    """
    stack = _pad(_axial(np.asarray(voxels), np.asarray(affine, dtype=np.float64)))
    content = stack.digest()
    study_uid = uids.derive("demo-study", patient.patient_id, examination.accession, content)
    series_uid = uids.derive("demo-series", study_uid, examination.series_description)
    into.mkdir(parents=True, exist_ok=True)
    files = []
    for k in range(stack.voxels.shape[0]):
        image = Dataset()
        image.SpecificCharacterSet = "GB18030"
        _put_identity(image, patient, examination, study_uid, series_uid)
        _put_protocol(image, examination)
        _put_geometry(image, stack, k, frame_of_reference=uids.derive("demo-frame", study_uid))
        _put_pixels(image, stack, k)
        image.SOPClassUID = MRImageStorage
        image.SOPInstanceUID = uids.derive("demo-image", series_uid, str(k))
        path = into / f"{k + 1:04d}.dcm"
        _save(image, path)
        files.append(path)
    return SeriesOnDisk(study_uid, series_uid, tuple(files))


def _axial(voxels: NDArray[np.generic], affine: NDArray[np.float64]) -> _Stack:
    """Reorder and flip the axes, without resampling, so that columns run left, rows back, slices up."""
    if voxels.ndim != 3 or affine.shape != (4, 4):
        raise PhantomRefused(
            "PHANTOM_INVALID",
            f"a volume of 3 axes and an affine of 4x4 are needed, not {voxels.shape} and {affine.shape}",
        )
    if not np.isfinite(voxels.astype(np.float64)).all() or float(voxels.min()) < 0 or float(voxels.max()) <= 0:
        raise PhantomRefused("PHANTOM_INVALID", "voxels must be finite, not negative and not all zero")
    world = RAS_TO_LPS @ affine
    cosines = world[:3, :3] / np.linalg.norm(world[:3, :3], axis=0)
    if not np.allclose(cosines.T @ cosines, np.eye(3), atol=ORTHOGONAL):
        raise PhantomRefused("PHANTOM_INVALID", "the axes of the volume are not at right angles")
    order = [int(np.argmax(np.abs(cosines[axis]))) for axis in range(3)]
    if sorted(order) != [0, 1, 2]:
        raise PhantomRefused("PHANTOM_INVALID", "the volume is too oblique to be called axial")
    out, columns, origin = voxels.transpose(order), world[:3, order].copy(), world[:3, 3].copy()
    for axis in range(3):
        if columns[axis, axis] < 0:
            out = np.flip(out, axis)
            origin += columns[:, axis] * (out.shape[axis] - 1)
            columns[:, axis] *= -1
    scaled = np.rint(out.astype(np.float64) * (PEAK / float(out.max()))).astype(np.uint16)
    moved = np.eye(4)
    moved[:3, :3], moved[:3, 3] = columns, origin
    return _Stack(np.ascontiguousarray(scaled.transpose(2, 1, 0)), moved)


def _pad(stack: _Stack) -> _Stack:
    """Zeros around each slice to MATRIX x MATRIX; the origin moves to the new first pixel."""
    _, rows, columns = stack.voxels.shape
    if rows > MATRIX or columns > MATRIX:
        raise PhantomRefused("PHANTOM_INVALID", f"a slice of {rows} x {columns} does not fit {MATRIX} x {MATRIX}")
    top, left = (MATRIX - rows) // 2, (MATRIX - columns) // 2
    voxels = np.pad(stack.voxels, ((0, 0), (top, MATRIX - rows - top), (left, MATRIX - columns - left)))
    affine = stack.affine.copy()
    affine[:, 3] = affine @ np.array([-left, -top, 0, 1], dtype=np.float64)
    return _Stack(voxels, affine)


def _put_identity(image: Dataset, patient: Patient, examination: Examination, study_uid: str, series_uid: str) -> None:
    """Patient, General Study, Patient Study and General Series modules (PS3.3 C.7.1.1, C.7.2.1, C.7.2.2, C.7.3.1)."""
    taken = examination.taken_at
    image.PatientName = patient.name
    image.PatientID = patient.patient_id
    image.PatientBirthDate = f"{patient.birth_date:%Y%m%d}"
    image.PatientSex = patient.sex
    image.PatientAge = f"{int((taken.date() - patient.birth_date) / timedelta(days=DAYS_PER_YEAR)):03d}Y"
    image.StudyInstanceUID = study_uid
    image.StudyID = examination.study_id
    image.AccessionNumber = examination.accession
    image.StudyDate = image.SeriesDate = image.AcquisitionDate = image.ContentDate = f"{taken:%Y%m%d}"
    image.StudyTime = image.SeriesTime = image.AcquisitionTime = image.ContentTime = f"{taken:%H%M%S}"
    image.StudyDescription = examination.description
    image.ReferringPhysicianName = ""
    image.Modality = "MR"
    image.SeriesInstanceUID = series_uid
    image.SeriesNumber = 1
    image.SeriesDescription = examination.series_description
    image.ProtocolName = examination.series_description
    image.BodyPartExamined = examination.body_part
    image.PatientPosition = "HFS"


def _put_protocol(image: Dataset, examination: Examination) -> None:
    """General Equipment and MR Image modules (PS3.3 C.7.5.1, C.8.3.1); the timing is that of a usual 3D T1 sequence."""
    image.Manufacturer = "Zhiying Demo"
    image.ManufacturerModelName = "Phantom Scanner"
    image.DeviceSerialNumber = "DEMO-1"
    image.SoftwareVersions = "1"
    image.InstitutionName = examination.institution
    image.StationName = "DEMO"
    image.ImageType = ["ORIGINAL", "PRIMARY", "M"]
    image.AcquisitionNumber = 1
    image.ScanningSequence = ["GR", "IR"]
    image.SequenceVariant = ["SP", "MP"]
    image.ScanOptions = ""
    image.MRAcquisitionType = "3D"
    image.RepetitionTime = "2300"
    image.EchoTime = "3"
    image.EchoTrainLength = "1"
    image.InversionTime = "900"
    image.FlipAngle = "9"
    image.MagneticFieldStrength = "3"


def _put_geometry(image: Dataset, stack: _Stack, k: int, *, frame_of_reference: str) -> None:
    """Frame of Reference and Image Plane modules (PS3.3 C.7.4.1, C.7.6.2): position of the first pixel's centre."""
    spacing = np.linalg.norm(stack.affine[:3, :3], axis=0)
    cosines = stack.affine[:3, :3] / spacing
    position = stack.affine @ np.array([0, 0, k, 1], dtype=np.float64)
    image.FrameOfReferenceUID = frame_of_reference
    image.PositionReferenceIndicator = ""
    image.ImagePositionPatient = [_decimal(x) for x in position[:3]]
    image.ImageOrientationPatient = [_decimal(x) for x in (*cosines[:, 0], *cosines[:, 1])]
    image.PixelSpacing = [_decimal(spacing[1]), _decimal(spacing[0])]
    image.SliceThickness = image.SpacingBetweenSlices = _decimal(spacing[2])
    image.SliceLocation = _decimal(float(position[:3] @ cosines[:, 2]))
    image.InstanceNumber = k + 1


def _put_pixels(image: Dataset, stack: _Stack, k: int) -> None:
    """Image Pixel and VOI LUT modules (PS3.3 C.7.6.3, C.11.2)."""
    image.SamplesPerPixel = 1
    image.PhotometricInterpretation = "MONOCHROME2"
    image.Rows, image.Columns = (int(n) for n in stack.voxels.shape[1:])
    image.BitsAllocated = 16
    image.BitsStored = 12
    image.HighBit = 11
    image.PixelRepresentation = 0
    image.WindowCenter = str((PEAK + 1) // 2)
    image.WindowWidth = str(PEAK + 1)
    image.PixelData = stack.voxels[k].astype("<u2").tobytes()


def _save(image: Dataset, path: Path) -> None:
    """Part 10 file, explicit little endian."""
    meta = FileMetaDataset()
    meta.MediaStorageSOPClassUID = image.SOPClassUID
    meta.MediaStorageSOPInstanceUID = image.SOPInstanceUID
    meta.TransferSyntaxUID = ExplicitVRLittleEndian
    meta.ImplementationClassUID = uids.IMPLEMENTATION_CLASS_UID
    meta.ImplementationVersionName = uids.IMPLEMENTATION_VERSION_NAME
    image.file_meta = meta
    image.save_as(path, enforce_file_format=True)


def _decimal(value: float) -> str:
    """A DS of at most 16 characters (PS3.5 6.2), without a negative zero."""
    return f"{round(float(value), 6) + 0.0:.10g}"
