"""A golden case: a known image whose measurements are known, run again to see that nothing has changed underneath.

It needs no permit, as it is about no patient: the image is read here, from the folder of the case, and only figures
come back. No label map leaves this module, and no volume from elsewhere comes in (`tests/house` holds both).

A case is a folder of two files:

    case.json    {"schema": "zhiying.golden/1", "modality", "volume": "sha256:...", "source",
                  "measurements": [{"id", "value"}], "tolerance"}; numbers are decimals as text
    volume.npz   voxels (K, R, C), any real type; affine (4, 4) float64, index (k, r, c, 1) -> LPS mm; see types.Volume

The SHA-256 of case.json names the case: it holds the volume's. `tolerance`: the largest difference, as a share of the
value that is expected.
"""

from __future__ import annotations

import hashlib
import io
import re
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np

from inference.errors import GoldenInvalid, ModelFailed, VolumeInvalid
from inference.run import INVALID, EnginePort, findings_of
from inference.types import Volume
from models.library import VerifiedModel
from models.strict import DOCUMENT_BYTES_MAX, Fields, Malformed, parse_json

FOLDER: Final = "golden"
"""Where a model's own case lies among its files."""
CASE_NAME: Final = "case.json"
VOLUME_NAME: Final = "volume.npz"
SCHEMA: Final = "zhiying.golden/1"
VOLUME_BYTES_MAX: Final = 1 << 30
"""Of the file, and of what it unpacks to: 512 x 512 x 500 float32 voxels have half of it."""
PLACES: Final = 6
"""Decimals of a difference."""
_DECIMAL: Final = re.compile(r"(0|[1-9][0-9]{0,6})(\.[0-9]{1,6})?")


@dataclass(frozen=True, slots=True, eq=False)
class GoldenCase:
    """A case that was read. Made by `load` only.

    Attributes:
        digest: "sha256:..." of case.json. expected: value by the measurement's id. tolerance: a share.
    """

    digest: str
    volume: Volume
    expected: Mapping[str, float]
    tolerance: float


@dataclass(frozen=True, slots=True)
class Checked:
    """What came out: values by the measurement's id, the largest difference as a share, on what it ran."""

    measured: Mapping[str, float]
    difference: float
    matches: bool
    device: str
    runtime: Mapping[str, str]


def own(model: VerifiedModel) -> Path | None:
    """The folder of the model's own case, whose files are part of its digest; None if it has none."""
    return model.path / FOLDER if f"{FOLDER}/{CASE_NAME}" in model.files else None


def load(folder: Path) -> GoldenCase:
    """The case in a folder. Raises GoldenInvalid; OSError if it cannot be read."""
    data = _read(folder / CASE_NAME, DOCUMENT_BYTES_MAX)
    try:
        top = Fields(parse_json(data), "", ("schema", "modality", "volume", "source", "measurements", "tolerance"))
        top.choice("schema", (SCHEMA,))
        top.text("source", longest=1024)
        expected = dict(top.items("measurements", _expected))
        volume = _volume(_read(folder / VOLUME_NAME, VOLUME_BYTES_MAX), top.text("volume"), top.text("modality"))
        tolerance = _decimal(top.value("tolerance"), "tolerance")
    except Malformed as wrong:
        raise GoldenInvalid("GOLDEN_INVALID", f"{CASE_NAME}: {wrong}") from None
    except VolumeInvalid as wrong:
        raise GoldenInvalid("GOLDEN_INVALID", f"{VOLUME_NAME}: {wrong}") from None
    return GoldenCase("sha256:" + hashlib.sha256(data).hexdigest(), volume, expected, tolerance)


def check(case: GoldenCase, model: VerifiedModel, engine: EnginePort) -> Checked:
    """Run the model on the case and compare. Raises GoldenInvalid, EngineError, OutputImplausible."""
    if set(case.expected) != {spec.id for spec in model.manifest.measurements}:
        raise GoldenInvalid("GOLDEN_INVALID", "the case expects other measurements than the model gives")
    prediction = engine.infer(model, case.volume, float(model.manifest.deadline_s))
    found = findings_of(prediction, case.volume, model.manifest)
    if found.failed:
        # Of a known case all must come, whatever the manifest lets a study's answer lack.
        raise ModelFailed(INVALID, f"{found.failed[0].output} failed on the golden case")
    measured = {one.id: one.value for one in found.measurements}
    difference = max((_share(measured[name], wanted) for name, wanted in case.expected.items()), default=0.0)
    # Compared as it is written down, so that the log's own figures bear the verdict out.
    matches = round(difference, PLACES) <= case.tolerance
    return Checked(measured, difference, matches, prediction.device, prediction.runtime)


def _share(measured: float, wanted: float) -> float:
    return abs(measured - wanted) / wanted if wanted else abs(measured)


def _expected(value: object, path: str) -> tuple[str, float]:
    one = Fields(value, path, ("id", "value"))
    return one.text("id", longest=64), _decimal(one.value("value"), one.path("value"))


def _decimal(value: object, path: str) -> float:
    if not isinstance(value, str) or not _DECIMAL.fullmatch(value):
        raise Malformed(path, 'a decimal as text wanted, such as "0.01"')
    return float(value)


def _read(path: Path, most: int) -> bytes:
    if path.stat().st_size > most:
        raise GoldenInvalid("GOLDEN_INVALID", f"{path.name}: more than {most} bytes")
    return path.read_bytes()


def _volume(data: bytes, digest: str, modality: str) -> Volume:
    if "sha256:" + hashlib.sha256(data).hexdigest() != digest:
        raise Malformed("volume", f"not the digest of {VOLUME_NAME}")
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            unpacked = sum(one.file_size for one in archive.infolist())
        if unpacked > VOLUME_BYTES_MAX:
            raise Malformed("volume", f"{VOLUME_NAME} unpacks to more than {VOLUME_BYTES_MAX} bytes")
        with np.load(io.BytesIO(data), allow_pickle=False) as arrays:
            voxels, affine = arrays["voxels"], arrays["affine"]
            if voxels.dtype.kind not in "iuf":
                raise Malformed("volume", "voxels of a real type wanted")
            return Volume(voxels.astype(np.float32), affine.astype(np.float64), digest, modality)
    except Malformed:
        raise
    except (ValueError, KeyError, TypeError, zipfile.BadZipFile, EOFError):
        raise Malformed("volume", f"{VOLUME_NAME} does not hold voxels and affine") from None
