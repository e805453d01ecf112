"""Our brain mask against that of deepbet itself, the software that the weights were published with.

deepbet 1.0.2 and what it needs beyond our own environment go into a scratch folder that only its own process sees.
Needs the package index the first time (about 20 MB).
"""

from __future__ import annotations

import gzip
import os
import subprocess
import sys
import zipfile

import nibabel
import numpy as np
import numpy.typing as npt
import pytest

from inference.engine import Engine
from inference.run import run
from inference.types import Volume
from models.library import Library, VerifiedModel
from models.pull import fetch_wheel, pull
from tests.simulators import reviewer, volumes

pytestmark = pytest.mark.slow

DICE_MIN = 0.995
VOLUME_TOLERANCE = 0.01
"""Relative."""

DEEPBET = (
    "deepbet==1.0.2",
    "fill_voids==2.1.2",
    "fastremap==1.21.0",
    "connected-components-3d==4.1.1",
    "pandas==3.1.1",
    "tqdm==4.70.1",
)
NILEARN = ("nilearn", "0.14.1", "sha256:725206484e9fb3f6691f9c2d20204a068759d5072f12055324702ee0cb2bbe8a")
TEMPLATE = "nilearn/datasets/data/mni_icbm152_t1_tal_nlin_sym_09a_converted.nii.gz"
MATRIX = 256
"""In-plane matrix that the template is padded to with zeros, as scanners do."""

RUN_DEEPBET = """
import sys
from deepbet import run_bet
run_bet([sys.argv[1]], mask_paths=[sys.argv[2]], no_gpu=True)
"""


@pytest.fixture(scope="module")
def template(tmp_path_factory: pytest.TempPathFactory) -> nibabel.Nifti1Image:
    """The MNI152 T1 brain, 1 mm, RAS, padded to 256 x 256 in-plane."""
    folder = tmp_path_factory.mktemp("nilearn")
    wheel = fetch_wheel(*NILEARN, folder)
    with zipfile.ZipFile(wheel) as archive:
        image = nibabel.Nifti1Image.from_bytes(gzip.decompress(archive.read(TEMPLATE)))
    image = nibabel.as_closest_canonical(image)
    data = np.asanyarray(image.dataobj).astype(np.uint8)
    left, back = ((MATRIX - n) // 2 for n in data.shape[:2])
    padded = np.zeros((MATRIX, MATRIX, data.shape[2]), np.uint8)
    padded[left : left + data.shape[0], back : back + data.shape[1]] = data
    affine = image.affine.copy()
    affine[:3, 3] -= affine[:3, 0] * left + affine[:3, 1] * back
    return nibabel.Nifti1Image(padded, affine)


@pytest.fixture(scope="module")
def theirs(template: nibabel.Nifti1Image, tmp_path_factory: pytest.TempPathFactory) -> npt.NDArray[np.bool_]:
    """deepbet's mask (X, Y, Z), made by deepbet in a process of its own."""
    folder = tmp_path_factory.mktemp("deepbet")
    # --no-deps: torch, numpy and nibabel are our own environment's, so that nothing heavy is fetched twice.
    install = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--disable-pip-version-check"]
    subprocess.run([*install, "--target", str(folder / "packages"), *DEEPBET], check=True)
    nibabel.save(template, folder / "head.nii")
    subprocess.run(
        [sys.executable, "-c", RUN_DEEPBET, str(folder / "head.nii"), str(folder / "mask.nii")],
        env=os.environ | {"PYTHONPATH": str(folder / "packages")},
        cwd=folder,
        check=True,
        timeout=300,
    )
    return np.asanyarray(nibabel.load(folder / "mask.nii").dataobj) > 0


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> VerifiedModel:
    """The model as a hospital pulls it."""
    library = Library(tmp_path_factory.mktemp("library"))
    return library.open(pull("brain-extraction-t1", library))


def _as_series(template: nibabel.Nifti1Image) -> Volume:
    """The template as axial slices in DICOM's order: k to the head, rows to the back, columns to the left."""
    voxels = np.asanyarray(template.dataobj).astype(np.float32)[::-1, ::-1].transpose(2, 1, 0)
    ras = template.affine
    first = ras @ (template.shape[0] - 1, template.shape[1] - 1, 0, 1)
    affine = np.eye(4)
    affine[:3, :3] = np.stack([ras[:3, 2], -ras[:3, 1], -ras[:3, 0]], axis=1)
    affine[:3, 3] = first[:3]
    affine[:2] *= -1
    return Volume(np.ascontiguousarray(voxels), affine, volumes.DIGEST, "MR")


def test_mask_and_volume_are_deepbets(
    template: nibabel.Nifti1Image, theirs: npt.NDArray[np.bool_], model: VerifiedModel
) -> None:
    """On the MNI152 brain our mask overlaps deepbet's by a Dice of 0.995 or more, and the volumes agree within 1 %."""
    permit = reviewer.decide_live(
        reviewer.request(model=model.ref, input_digest=volumes.DIGEST),
        (reviewer.Reviewer().approve(model.ref),),
        reviewer.DURING,
    )
    with Engine(device="cpu", log=lambda event, /, **values: print(event, values)) as engine:
        engine.warm(model)
        findings = run(permit, model, _as_series(template), engine, reviewer.DURING)
        again = run(permit, model, _as_series(template), engine, reviewer.DURING)
    ours = findings.segments[0].mask.transpose(2, 1, 0)[::-1, ::-1]
    dice = 2 * int((ours & theirs).sum()) / int(ours.sum() + theirs.sum())
    volume_cm3 = findings.measurements[0].value
    expected_cm3 = float(theirs.sum()) * abs(np.linalg.det(template.affine[:3, :3])) / 1000
    print(f"Dice {dice:.6f}; {int((ours ^ theirs).sum())} voxels differ")
    print(f"volume: ours {volume_cm3:.1f} cm3, deepbet {expected_cm3:.1f} cm3")
    print(f"first run {dict(findings.timing_ms)} ms, second {dict(again.timing_ms)} ms")
    assert dice >= DICE_MIN
    assert volume_cm3 == pytest.approx(expected_cm3, rel=VOLUME_TOLERANCE)
    assert np.array_equal(again.segments[0].mask, findings.segments[0].mask), "the same input gives the same mask"
