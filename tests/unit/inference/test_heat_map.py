"""A heat map: refused where it cannot mean anything, kept small, and on disk what it was in memory."""

from __future__ import annotations

import hashlib
import io
import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from inference import checks
from inference.errors import FindingsCorrupt, ModelFailed, OutputImplausible, VolumeInvalid
from inference.run import findings_of
from inference.types import FINDINGS_MAGIC, Findings, HeatMap, Prediction, SegmentMask
from models.codes import Code
from models.manifest import HeatMapSpec
from tests.simulators import findings as phantom
from tests.simulators import volumes

SHAPE = (4, 5, 7)
KINDS = (np.uint8, np.float16)
THING = Code("50960005", "SCT", "Hemorrhage")


def values(kind: type = np.uint8, seed: int = 1) -> NDArray[np.generic]:
    """A few values in the middle of the grid."""
    grid = np.zeros(SHAPE, dtype=kind)
    drawn = np.random.default_rng(seed).integers(0, 256, (2, 3, 4))
    grid[1:3, 1:4, 2:6] = drawn if kind is np.uint8 else drawn / 255
    return grid


def saved(findings: Findings, path: Path) -> Findings:
    """As it is after a restart."""
    findings.save(path)
    return Findings.load(path)


@pytest.mark.parametrize("kind", KINDS)
def test_it_is_the_smallest_box_of_a_copy(kind: type) -> None:
    """What lies outside is nothing; what the caller does to its array afterwards is no matter."""
    grid = np.zeros(SHAPE, dtype=kind)
    grid[1, 2, 3], grid[2, 3, 5] = 1, 1
    made = HeatMap("bleed", grid)
    grid[:] = 0
    assert (made.shape, made.origin, made.part.shape, made.part.dtype) == (SHAPE, (1, 2, 3), (2, 2, 3), kind)
    assert [int(made.levels(k).any()) for k in range(4)] == [0, 1, 1, 0]
    assert not made.part.flags.writeable
    part = HeatMap("bleed", made.part, made.origin, SHAPE)
    assert (part.origin, part.box) == (made.origin, made.box)
    assert HeatMap("bleed", grid).part.size == 0


def test_eight_bits_of_it() -> None:
    """255 for 1, to the nearest whole number; bytes as they are."""
    line = np.array([0.0, 0.5, 1.0, 1 / 255, 0.001], dtype=np.float16).reshape(1, 1, 5)
    assert HeatMap("a", line).levels(0).tolist() == [[0, 128, 255, 1, 0]]
    raw = np.array([0, 7, 255], dtype=np.uint8).reshape(1, 1, 3)
    assert HeatMap("a", raw).levels(0).tolist() == [[0, 7, 255]]
    assert HeatMap("a", raw).levels(1).tolist() == [[0, 0, 0]]


@pytest.mark.parametrize("wrong", [1.01, -0.01, float("nan"), float("inf")])
def test_values_outside_of_0_to_1_are_refused(wrong: float) -> None:
    """A model's logits are no share of anything."""
    grid = np.zeros(SHAPE, dtype=np.float16)
    grid[1, 1, 1] = wrong
    with pytest.raises(VolumeInvalid):
        HeatMap("bleed", grid)


def test_what_is_no_heat_map_is_refused() -> None:
    """Another kind of number, another number of axes, no name, or off the grid."""
    good = np.zeros(SHAPE, dtype=np.uint8)
    for name, array, origin, shape in (
        ("bleed", good.astype(np.float32), (0, 0, 0), None),
        ("bleed", good.astype(np.bool_), (0, 0, 0), None),
        ("bleed", good[0], (0, 0, 0), None),
        ("", good, (0, 0, 0), None),
        ("a b", good, (0, 0, 0), None),
        ("bleed", good, (1, 0, 0), SHAPE),
        ("bleed", good, (0, -1, 0), (9, 9, 9)),
    ):
        with pytest.raises(VolumeInvalid):
            HeatMap(name, array, origin, shape)


@pytest.mark.parametrize("kind", KINDS)
@given(seed=st.integers(0, 2**32 - 1))
def test_it_comes_back_to_the_last_bit(kind: type, seed: int, tmp_path_factory: pytest.TempPathFactory) -> None:
    """Kind, place and every value, in the order of the findings."""
    made = Findings(
        (), (), {}, "cpu", heat_maps=(HeatMap("b", values(kind, seed)), HeatMap("a", values(seed=seed + 1)))
    )
    back = saved(made, tmp_path_factory.mktemp("findings") / "f.npz")
    for one, other in zip(made.heat_maps, back.heat_maps, strict=True):
        assert (one.id, one.shape, one.origin, one.part.dtype) == (
            other.id,
            other.shape,
            other.origin,
            other.part.dtype,
        )
        assert np.array_equal(one.part, other.part)


def test_the_same_findings_are_the_same_bytes_and_those_without_maps_are_as_ever(tmp_path: Path) -> None:
    """Nothing is written of what is not there: files of before there were heat maps are files of today."""
    plain = Findings((SegmentMask(1, values() > 9),), (), {}, "cpu")
    mapped = replace(plain, heat_maps=(HeatMap("bleed", values()),))
    for name, findings in (("a", plain), ("b", plain), ("c", mapped), ("d", mapped)):
        findings.save(tmp_path / name)
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()
    assert (tmp_path / "c").read_bytes() == (tmp_path / "d").read_bytes()
    with np.load(io.BytesIO((tmp_path / "a").read_bytes()[len(FINDINGS_MAGIC) + 65 :])) as arrays:
        assert sorted(arrays) == ["mask_1", "meta"]
        assert "heat_maps" not in json.loads(arrays["meta"].tobytes())
    assert Findings.load(tmp_path / "a").heat_maps == ()


@pytest.mark.parametrize("damage", ["short", "kind", "part", "value"])
def test_a_map_that_is_not_what_it_says_is_corrupt(tmp_path: Path, damage: str) -> None:
    """Fewer bytes than its box, an unknown kind, a box off the grid, values above 1: never taken in part."""
    path = tmp_path / "f.npz"
    Findings((), (), {}, "cpu", heat_maps=(HeatMap("bleed", values(np.float16)),)).save(path)
    with np.load(io.BytesIO(path.read_bytes()[len(FINDINGS_MAGIC) + 65 :])) as read:
        arrays = dict(read)
    meta = json.loads(arrays["meta"].tobytes())
    if damage == "short":
        arrays["heat_0"] = arrays["heat_0"][:-1]
    elif damage == "kind":
        meta["heat_maps"][0]["kind"] = "f4"
    elif damage == "part":
        meta["heat_maps"][0]["origin"] = [3, 3, 3]
    else:
        arrays["heat_0"] = np.frombuffer(np.full(arrays["heat_0"].size // 2, 2, np.float16).tobytes(), np.uint8)
    arrays["meta"] = np.frombuffer(json.dumps(meta).encode(), dtype=np.uint8)
    buffer = io.BytesIO()
    np.savez(buffer, **arrays)
    body = buffer.getvalue()
    path.write_bytes(FINDINGS_MAGIC + hashlib.sha256(body).hexdigest().encode() + b"\n" + body)
    with pytest.raises(FindingsCorrupt):
        Findings.load(path)


def test_findings_name_each_map_once_and_none_where_nothing_could_be_said() -> None:
    """Two of one name would be two answers; inconclusive findings hold none."""
    one = HeatMap("bleed", values())
    for changes in ({"heat_maps": (one, one)}, {"heat_maps": (one,), "inconclusive": "LOW_QUALITY"}):
        with pytest.raises(VolumeInvalid):
            Findings((), (), {}, "cpu", **changes)  # type: ignore[arg-type]


def test_plausible_maps_are_those_of_the_manifest_on_its_grid() -> None:
    """One missing, one too many, another order or another grid: OUTPUT_SHAPE; inconclusive findings need none."""
    specs = tuple(HeatMapSpec(name, name, THING, THING, (1, 2, 3), calibrated=True) for name in ("one", "two"))
    manifest = replace(phantom.manifest(kind="classifications"), classifications=(), heat_maps=specs)
    volume = volumes.block()
    first, second = (HeatMap(name, np.zeros(volume.shape, np.uint8)) for name in ("one", "two"))
    other = HeatMap("two", np.zeros(SHAPE, np.uint8))
    checks.plausible(Findings((), (), {}, "cpu", heat_maps=(first, second)), volume, manifest)
    checks.plausible(Findings((), (), {}, "cpu", inconclusive="LOW_QUALITY"), volume, manifest)
    for maps in ((), (first,), (second, first), (first, other), (first, second, HeatMap("three", second.part))):
        with pytest.raises(OutputImplausible) as refused:
            checks.plausible(Findings((), (), {}, "cpu", heat_maps=maps), volume, manifest)
        assert refused.value.code == "OUTPUT_SHAPE"


def test_as_many_as_the_manifest_names() -> None:
    """An engine that gives none, or too many, is no engine of this model; each map gets its name by its place."""
    specs = tuple(HeatMapSpec(name, name, THING, THING, (1, 2, 3), calibrated=True) for name in ("one", "two"))
    volume = volumes.block()
    labels = np.zeros(volume.shape, np.uint8)
    one, two = labels.copy(), labels.copy()
    one[0, 0, 0], two[1, 2, 3] = 3, 4
    manifest = replace(phantom.manifest(), heat_maps=specs)
    for maps in ((), (one,), (one, two, labels)):
        with pytest.raises(ModelFailed) as refused:
            findings_of(Prediction(labels, {}, "cpu", {}, maps), volume, manifest)
        assert refused.value.code == "MODEL_OUTPUT_INVALID"
    found = findings_of(Prediction(labels, {}, "cpu", {}, (one, two)), volume, manifest).heat_maps
    assert [(m.id, m.origin, int(m.part.max())) for m in found] == [("one", (0, 0, 0), 3), ("two", (1, 2, 3), 4)]
    assert findings_of(Prediction(labels, {}, "cpu", {}), volume, phantom.manifest()).heat_maps == ()
