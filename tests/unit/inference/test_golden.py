"""Golden cases: read whole or not at all, compared to the tolerance's edge, and no door to anything else."""

from __future__ import annotations

import dataclasses
import hashlib
import io
import zipfile
from collections.abc import Callable
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from inference import golden
from inference.errors import GoldenInvalid, InferenceError, ModelFailed
from inference.golden import CASE_NAME, VOLUME_NAME, Checked, check, load, own
from inference.types import Prediction, Volume
from models.library import VerifiedModel
from models.pull import CARDS, cards
from models.ref import ModelRef
from tests.simulators import golden_case, tiny_model

REF = ModelRef("tiny", "1", "sha256:" + "a" * 64)
MODEL = VerifiedModel(REF, tiny_model.manifest(), Path("unused"), MappingProxyType({}))
BLOCK_CM3 = 4 * 5 * 6 * 1.5**3 / 1000
"""Of golden_case.block at 1.5 mm: half of each edge."""


class FakeEngine:
    """Labels what is brighter than a half, on the volume's own grid."""

    def __init__(self, labels: Callable[[Volume], npt.NDArray[np.uint8]] | None = None) -> None:
        self._labels = labels or (lambda volume: (volume.voxels > 0.5).astype(np.uint8))
        self.deadlines: list[float] = []

    def infer(self, model: VerifiedModel, volume: Volume, deadline_s: float) -> Prediction:
        """See EnginePort."""
        assert model.ref == REF
        self.deadlines.append(deadline_s)
        return Prediction(self._labels(volume), {"total": 5}, "cpu", {"torch": "2.13.0"})


def block_case(folder: Path, value: str = f"{BLOCK_CM3:.6f}", **changes: Any) -> Path:
    """A case for the tiny model."""
    return golden_case.write_case(
        folder, golden_case.block(), golden_case.axial(1.5), {"thing_volume": value}, **changes
    )


def test_a_case_that_comes_out(tmp_path: Path) -> None:
    """The figures, how far they are off, and on what they were made; the case is named by its text's digest."""
    folder = block_case(tmp_path / "case")
    case = load(folder)
    engine = FakeEngine()
    found = check(case, MODEL, engine)
    assert found.matches
    assert found.measured == {"thing_volume": pytest.approx(BLOCK_CM3)}
    assert found.difference == pytest.approx(0, abs=1e-6)
    assert (found.device, found.runtime, engine.deadlines) == ("cpu", {"torch": "2.13.0"}, [60.0])
    assert case.digest == "sha256:" + hashlib.sha256((folder / CASE_NAME).read_bytes()).hexdigest()


@pytest.mark.parametrize(
    ("expected", "tolerance", "matches"),
    [("1", "0.595001", True), ("1", "0.595", True), ("1", "0.594999", False), ("0.405", "0", True),
     ("0.405001", "0", False), ("0.405001", "0.000003", True), ("0", "0.405", True), ("0", "0.404999", False)],
)  # fmt: skip
def test_the_tolerance_has_an_edge(tmp_path: Path, expected: str, tolerance: str, matches: bool) -> None:
    """As far off as is allowed is a match, one millionth more is not; of nothing, the difference itself counts."""
    assert pytest.approx(0.405) == BLOCK_CM3
    found = check(load(block_case(tmp_path / "case", expected, tolerance=tolerance)), MODEL, FakeEngine())
    assert found.matches is matches


def test_one_voxel_more(tmp_path: Path) -> None:
    """A network that labels one voxel more does not match where the tolerance is finer than a voxel."""

    def one_more(volume: Volume) -> npt.NDArray[np.uint8]:
        labels = (volume.voxels > 0.5).astype(np.uint8)
        labels[0, 0, 0] = 1
        return labels

    case = load(block_case(tmp_path / "case", tolerance="0.001"))
    assert not check(case, MODEL, FakeEngine(one_more)).matches


def test_only_figures_come_back(tmp_path: Path) -> None:
    """What a check gives holds no array: no outline of anything can leave by this door."""
    found = check(load(block_case(tmp_path / "case")), MODEL, FakeEngine())
    kinds = {type(getattr(found, field.name)).__name__ for field in dataclasses.fields(Checked)}
    assert kinds == {"dict", "float", "bool", "str"}
    assert not any(isinstance(value, np.ndarray) for value in found.measured.values())


def test_a_network_that_fails(tmp_path: Path) -> None:
    """A label that the manifest does not know is the model's failure, as with a study."""
    with pytest.raises(ModelFailed):
        check(load(block_case(tmp_path / "case")), MODEL, FakeEngine(lambda volume: np.full(volume.shape, 2, np.uint8)))


def test_a_case_of_another_model(tmp_path: Path) -> None:
    """A case expects exactly the measurements that the model gives, and nothing runs before that is known."""
    folder = golden_case.write_case(
        tmp_path / "case", golden_case.block(), golden_case.axial(1.5), {"thing_volume": "1", "other": "1"}
    )
    engine = FakeEngine()
    with pytest.raises(GoldenInvalid):
        check(load(folder), MODEL, engine)
    assert engine.deadlines == []


@pytest.mark.parametrize(
    "changes",
    [
        {"schema": "zhiying.golden/2"},
        {"more": 1},
        {"volume": "sha256:" + "0" * 64},
        {"measurements": []},
        {"measurements": [{"id": "thing_volume", "value": 1.5}]},
        {"measurements": [{"id": "thing_volume", "value": "1e3"}]},
        {"measurements": [{"id": "thing_volume", "value": "-1"}]},
        {"modality": "no such modality"},
        {"source": ""},
    ],
)
def test_a_text_that_is_no_case(tmp_path: Path, changes: dict[str, Any]) -> None:
    """Unknown keys, other schemas, floats, another volume's digest: refused with a code."""
    with pytest.raises(GoldenInvalid) as caught:
        load(block_case(tmp_path / "case", **changes))
    assert caught.value.code == "GOLDEN_INVALID"


def _npz(**arrays: npt.NDArray[Any]) -> bytes:
    buffer = io.BytesIO()
    np.savez(buffer, **arrays)  # type: ignore[arg-type]
    return buffer.getvalue()


def _bomb() -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("voxels.npy", bytes(4096))
    data = bytearray(buffer.getvalue())
    place = data.rindex(b"PK\x01\x02") + 24  # uncompressed size, in the central directory
    data[place : place + 4] = (2**31).to_bytes(4, "little")
    return bytes(data)


VOLUMES = {
    "text": b"no zip",
    "empty": b"",
    "no affine": _npz(voxels=np.zeros((2, 2, 2), np.uint8)),
    "no voxels": _npz(affine=np.eye(4)),
    "flat": _npz(voxels=np.zeros((2, 2), np.uint8), affine=np.eye(4)),
    "complex": _npz(voxels=np.zeros((2, 2, 2), np.complex64), affine=np.eye(4)),
    "singular": _npz(voxels=np.zeros((2, 2, 2), np.uint8), affine=np.zeros((4, 4))),
    "bomb": _bomb(),
}


@pytest.mark.parametrize("data", VOLUMES.values(), ids=VOLUMES)
def test_a_file_that_is_no_volume(tmp_path: Path, data: bytes) -> None:
    """Whatever lies there under its own digest: refused with a code, and never unpickled."""
    folder = block_case(tmp_path / "case", volume="sha256:" + hashlib.sha256(data).hexdigest())
    (folder / VOLUME_NAME).write_bytes(data)
    with pytest.raises(GoldenInvalid, match="unpacks" if data == VOLUMES["bomb"] else "."):
        load(folder)


def test_objects_are_not_unpickled(tmp_path: Path) -> None:
    """An array of objects would run code when it is read: it is refused unread."""
    buffer = io.BytesIO()
    np.savez(buffer, voxels=np.array([object()], dtype=object), affine=np.eye(4))
    folder = block_case(tmp_path / "case", volume="sha256:" + hashlib.sha256(buffer.getvalue()).hexdigest())
    (folder / VOLUME_NAME).write_bytes(buffer.getvalue())
    with pytest.raises(GoldenInvalid):
        load(folder)


def test_a_file_that_is_not_there(tmp_path: Path) -> None:
    """A folder without its files is the disk's matter, not a case."""
    with pytest.raises(OSError, match="No such file"):
        load(tmp_path)


def test_a_model_s_own_case() -> None:
    """A model has a case where case.json is one of its verified files."""
    root = Path("somewhere")
    mine = dataclasses.replace(MODEL, path=root, files=MappingProxyType({"golden/case.json": root}))
    assert own(mine) == root / "golden"
    assert own(MODEL) is None


@pytest.mark.parametrize("card", [name for name in cards() if (CARDS / name / golden.FOLDER).exists()])
def test_the_cases_that_we_ship(card: str) -> None:
    """Each is whole, small, within the model's own input contract, and what its source says it is."""
    from inference.checks import fit
    from models.manifest import read_manifest

    manifest = read_manifest(CARDS / card / "manifest.json")
    case = load(CARDS / card / golden.FOLDER)
    fit(case.volume, manifest)
    assert set(case.expected) == {spec.id for spec in manifest.measurements}
    assert all(spec.plausible.contains(case.expected[spec.id]) for spec in manifest.measurements)
    assert (CARDS / card / golden.FOLDER / VOLUME_NAME).stat().st_size < 100_000
    voxels, affine = golden_case.head()
    assert np.array_equal(case.volume.voxels, voxels)
    assert np.array_equal(case.volume.affine, affine)


def test_errors_are_of_one_tree() -> None:
    """Whoever catches InferenceError catches these too."""
    assert issubclass(GoldenInvalid, InferenceError)
    assert GoldenInvalid.fault == "SITE"
