"""An invented patient's MR series, a manifest and findings on it: what the write side is fed in tests."""

from __future__ import annotations

import io
import json
from collections.abc import Sequence
from datetime import UTC, datetime

import numpy as np
from numpy.typing import NDArray
from pydicom import dcmread
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import ExplicitVRLittleEndian, MRImageStorage

from dicom_bridge import uids
from dicom_bridge.result_context import ResultContext
from inference.types import Findings, Measurement, SegmentMask
from models.manifest import Manifest, parse_manifest
from models.ref import ModelRef

NAME_ZH = "测试^幻影"
AXIAL = (1.0, 0.0, 0.0, 0.0, 1.0, 0.0)
CALL = "0123456789abcdef0123456789abcdef"
REF = ModelRef("test-brain", "1.2.0", "sha256:" + "ab" * 32)
_ANATOMY = {"value": "91723000", "scheme": "SCT", "meaning": "Anatomical Structure"}
_ABNORMAL = {"value": "49755003", "scheme": "SCT", "meaning": "Morphologically Abnormal Structure"}
_BRAIN = {"value": "12738006", "scheme": "SCT", "meaning": "Brain"}
_BLEED = {"value": "50960005", "scheme": "SCT", "meaning": "Hemorrhage"}
_VOLUME = {"value": "118565006", "scheme": "SCT", "meaning": "Volume"}
_CM3 = {"value": "cm3", "scheme": "UCUM", "meaning": "cubic centimeter"}
_NODULE = {"value": "27925004", "scheme": "SCT", "meaning": "Nodule"}
_LUNG = {"value": "39607008", "scheme": "SCT", "meaning": "Lung"}
_EFFUSION = {"value": "60046008", "scheme": "SCT", "meaning": "Pleural effusion"}
_PNEUMOTHORAX = {"value": "36118008", "scheme": "SCT", "meaning": "Pneumothorax"}
_AI = {"value": "123110", "scheme": "DCM", "meaning": "Artificial Intelligence"}


def series(
    shape: tuple[int, int, int] = (12, 32, 40),
    *,
    charset: str = "GB18030",
    name: str = NAME_ZH,
    orientation: Sequence[float] = AXIAL,
    step_mm: float = 2.0,
    study: str = "study",
    modality: str = "MR",
) -> list[Dataset]:
    """Headers of one series in slice order, as read back from Part 10 files (no pixels).

    A negative `step_mm` runs against the normal of the slices, as many scanners do.
    """
    slices, rows, columns = shape
    normal = np.cross(orientation[:3], orientation[3:])
    out = []
    for k in range(slices):
        ds = _patient(charset, name, study, modality)
        ds.SOPInstanceUID = uids.derive("TEST", study, modality, str(k))
        ds.InstanceNumber = k + 1
        ds.Rows, ds.Columns = rows, columns
        ds.PixelSpacing = [1.25, 1]
        ds.SliceThickness = abs(step_mm)
        ds.ImageOrientationPatient = [round(float(v), 10) for v in orientation]
        position = np.array([-40.0, -50.0, 12.5]) + k * step_mm * normal
        ds.ImagePositionPatient = [round(float(v), 8) for v in position]
        out.append(_through_file(ds))
    return out


def _patient(charset: str, name: str, study: str, modality: str) -> Dataset:
    ds = Dataset()
    if charset:
        ds.SpecificCharacterSet = charset
    ds.SOPClassUID = MRImageStorage
    ds.PatientName = name
    ds.PatientID = "TEST-0001"
    ds.IssuerOfPatientID = "TESTHOSP"
    ds.PatientBirthDate = "19500101"
    ds.PatientSex = "F"
    ds.PatientAge = "076Y"
    ds.StudyInstanceUID = uids.derive("TEST-STUDY", study)
    ds.SeriesInstanceUID = uids.derive("TEST-SERIES", study, modality)
    ds.FrameOfReferenceUID = uids.derive("TEST-FRAME", study)
    ds.StudyDate, ds.StudyTime, ds.StudyID = "20261123", "101500", "7"
    ds.StudyDescription = "头颅平扫" if charset in ("GB18030", "ISO_IR 192") else "HEAD"
    ds.AccessionNumber = "TESTACC1"
    ds.ReferringPhysicianName = ""
    ds.Modality = modality
    ds.SeriesNumber = 3
    ds.BodyPartExamined = "HEAD"
    ds.Manufacturer = "Test Phantom Works"
    return ds


def _through_file(ds: Dataset) -> Dataset:
    ds.file_meta = FileMetaDataset()
    ds.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    ds.file_meta.MediaStorageSOPClassUID = ds.SOPClassUID
    ds.file_meta.MediaStorageSOPInstanceUID = ds.SOPInstanceUID
    buffer = io.BytesIO()
    ds.save_as(buffer, enforce_file_format=True)
    return dcmread(io.BytesIO(buffer.getvalue()))


def manifest(*, lesions: bool = False, kind: str = "segments") -> Manifest:
    """A brain segmentation with one volume; with `lesions`, a second segment of an abnormality.

    Other kinds have no segment: "detections" looks for nodules and for bleeding, "classifications" speaks of two
    things; of each, one has a calibrated score. "mixed" has segments and detections.
    """
    segments = [_segment(1, "Brain", _ANATOMY, _BRAIN)]
    measurements = [_measurement("brain_volume", 1)]
    if lesions:
        segments.append(_segment(2, "Hemorrhage", _ABNORMAL, _BLEED))
        measurements.append(_measurement("bleed_volume", 2))
    document = {
        "schema": "zhiying.model/1",
        "name": REF.name,
        "version": REF.version,
        "title": {"en": "Test brain volume", "zh": "测试脑体积"},
        "vendor": "Test Vendor",
        "licence": "MIT",
        "intended_use": {"en": "Tests only.", "zh": "仅用于测试。"},
        "limits_text": {"en": "Adults only. T1 weighted.", "zh": "仅限成人，T1 加权。"},
        "algorithm_family": _AI,
        "input": {
            "modality": ["MR"],
            "sop_classes": [str(MRImageStorage)],
            "body_part": ["HEAD"],
            "description_any": [],
            "image_type_excludes": [],
            "slices": [1, 1000],
            "slice_spacing_mm": [0.5, 10],
            "pixel_spacing_mm": [0.1, 10],
            "fov_mm": [1, 1000],
        },
        "segments": segments,
        "measurements": measurements,
        "bundle": {"inference": "configs/inference.json", "metadata": "configs/metadata.json"},
        "deadline_s": 60,
        "max_autonomy": "A1",
    }
    if kind in ("detections", "classifications"):
        document |= {"segments": [], "measurements": []}
    if kind in ("detections", "mixed"):
        document["detections"] = [
            _detection("nodule", _NODULE, _LUNG, True),
            _detection("bleed", _BLEED, _BRAIN, False),
        ]
    if kind == "classifications":
        document["classifications"] = [
            _classification("effusion", _EFFUSION, True, 0.2, 0.5),
            _classification("pneumothorax", _PNEUMOTHORAX, False, 0.5, 0.5),
        ]
    return parse_manifest(json.dumps(document).encode())


def _detection(name: str, concept: object, site: object, calibrated: bool) -> dict[str, object]:
    return {
        "id": name,
        "concept": concept,
        "category": _ABNORMAL,
        "site": site,
        "calibrated": calibrated,
        "threshold": 0.5,
    }


def _classification(
    name: str, concept: object, calibrated: bool, absent_below: float, present_from: float
) -> dict[str, object]:
    return {
        "id": name,
        "concept": concept,
        "calibrated": calibrated,
        "absent_below": absent_below,
        "present_from": present_from,
    }


def _segment(number: int, label: str, category: object, kind: object) -> dict[str, object]:
    colour = [55414, 32897, 32894] if number == 1 else [34886, 53484, 50172]
    return {
        "number": number,
        "label": label,
        "category": category,
        "type": kind,
        "colour_lab": colour,
        "border": "refuse",
    }


def _measurement(name: str, segment: int) -> dict[str, object]:
    return {
        "id": name,
        "concept": _VOLUME,
        "unit": _CM3,
        "segment": segment,
        "kind": "volume_cm3",
        "decimals": 1,
        "plausible": [0, 5000],
        "site": _BRAIN,
        "method": None,
    }


def ellipsoid(shape: tuple[int, int, int], shift: float = 0.0, size: float = 0.35) -> NDArray[np.bool_]:
    """A solid without symmetry in the middle of the grid, so that any flip or transposition shows."""
    axes = np.meshgrid(*(np.linspace(-0.5, 0.5, n) for n in shape), indexing="ij")
    k, r, c = axes
    inside = ((k - shift) / size) ** 2 + ((r + 0.05) / (size * 0.8)) ** 2 + ((c - 0.1 * k) / (size * 1.1)) ** 2 < 1
    return np.asarray(inside & ~((r > 0.1) & (c > 0.1)), dtype=np.bool_)


def findings(*masks: NDArray[np.bool_]) -> Findings:
    """Findings of `manifest()` with these masks as segments 1 and 2."""
    names = ("brain_volume", "bleed_volume")
    return Findings(
        segments=tuple(SegmentMask(n, mask) for n, mask in enumerate(masks, start=1)),
        measurements=tuple(Measurement(name, float(m.sum()) * 0.0025) for name, m in zip(names, masks, strict=False)),
        timing_ms={"load": 0, "preprocess": 1, "forward": 2, "postprocess": 3, "total": 6},
        device="cpu",
        runtime={"torch": "0"},
    )


def context(language: str = "en-US", charset: str = "ISO_IR 192", **changes: object) -> ResultContext:
    """A context whose only freedom is what the test names."""
    fields: dict[str, object] = {
        "call": CALL,
        "content_time": datetime(2026, 11, 23, 16, 7, 12, 123456, tzinfo=UTC),
        "device_serial": "TEST-SERIAL-1",
        "bridge_version": "0.1.0",
        "site_language": language,
        "charset": charset,
    }
    return ResultContext(**(fields | changes))  # type: ignore[arg-type]
