"""A network that gives a heat map, in a real child process, to the object that a PACS gets."""

from __future__ import annotations

import io
import warnings
from dataclasses import replace
from pathlib import Path

import highdicom as hd
import numpy as np
import numpy.typing as npt
import pytest
import torch

from inference.coarse_to_fine import CoarseToFineInferer, Network
from inference.engine import Engine
from inference.errors import ModelFailed
from inference.run import findings_of
from models.codes import Code
from models.library import VerifiedModel
from models.manifest import HeatMapSpec
from tests.simulators import findings as phantom
from tests.simulators import tiny_model, volumes
from tests.simulators.written import write_heat_maps

DEADLINE_S = 30.0
BLEED = Code("50960005", "SCT", "Hemorrhage")
SPEC = HeatMapSpec("thing", "Thing", BLEED, BLEED, (1, 2, 3), calibrated=True)


class Warm(torch.nn.Module):  # type: ignore[misc]
    """Labels as Threshold gives them, and as a second channel the image's brightness from 0 to 255."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(1, 1, X, Y, Z) float32 -> (1, 2, X, Y, Z)."""
        return torch.cat([x.gt(0.5).float(), x.clamp(0.0, 1.0).mul(255.0).round()], dim=1)


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> VerifiedModel:
    """The tiny model with that network and a manifest that names the map."""
    made = tiny_model.build(tmp_path_factory.mktemp("warm") / "m")
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=r"`torch\.jit\.", category=Warning)
        torch.jit.save(torch.jit.script(Warm()), str(made.path / "models" / "model.pt"))
    return replace(made, manifest=replace(made.manifest, heat_maps=(SPEC,)))


@pytest.mark.parametrize("affine", [*volumes.every_orientation()[:6], volumes.oblique(3)])
def test_maps_come_back_on_the_source_grid(
    engine: Engine, model: VerifiedModel, affine: npt.NDArray[np.float64]
) -> None:
    """From any orientation, beside the labels, an irregular pattern comes back value for value."""
    random = np.random.default_rng(5)
    plain = volumes.block(affine=affine)
    volume = replace(plain, voxels=random.random(plain.shape, dtype=np.float32))
    prediction = engine.infer(model, volume, DEADLINE_S)
    (heat,) = prediction.heat_maps
    assert np.array_equal(prediction.labels, volume.voxels > 0.5)
    assert heat.dtype == np.uint8
    assert np.array_equal(heat, np.rint(volume.voxels * np.float32(255)).astype(np.uint8))


def test_from_the_network_to_the_pacs(engine: Engine, model: VerifiedModel) -> None:
    """What the network says of a voxel is what highdicom reads of it in the object."""
    sources = phantom.series((6, 16, 12))
    voxels = np.random.default_rng(7).random((6, 16, 12), dtype=np.float32)
    volume = replace(volumes.block(), voxels=voxels)
    found = findings_of(engine.infer(model, volume, DEADLINE_S), volume, model.manifest)
    data = write_heat_maps(found, model.manifest, model.ref, sources, phantom.context())
    assert data is not None
    seg = hd.seg.segread(io.BytesIO(data))
    uids = [ds.SOPInstanceUID for ds in sources]
    read = seg.get_pixels_by_source_instance(uids, segment_numbers=[1], rescale_fractional=False)[..., 0]
    assert np.array_equal(read, np.rint(voxels * np.float32(255)))


def test_a_bundle_that_gives_another_number_of_maps_is_refused(engine: Engine, tmp_path: Path) -> None:
    """A manifest that names a map, and a network that gives labels alone: seen when the model is warmed."""
    plain = tiny_model.build(tmp_path / "plain", digest="c")
    with pytest.raises(ModelFailed) as refused:
        engine.warm(replace(plain, manifest=replace(plain.manifest, heat_maps=(SPEC,))))
    assert refused.value.code in ("MODEL_OUTPUT_INVALID", "MODEL_LOAD_FAILED")


# ---- coarse to fine --------------------------------------------------------------------------------------------------


class Ramp(torch.nn.Module):  # type: ignore[misc]
    """The second channel is a probability: 0.25 to 0.75, rising along the first axis."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(1, 1, X, Y, Z) -> (1, 2, X, Y, Z)."""
        line = torch.linspace(0.25, 0.75, x.shape[2])[None, None, :, None, None]
        other = torch.ones_like(x) * line
        return torch.cat([1 - other, other], dim=1)


class Bright(torch.nn.Module):  # type: ignore[misc]
    """The second channel is 1 where the image is brighter than its mean."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(1, 1, X, Y, Z) -> (1, 2, X, Y, Z)."""
        found = (x > x.mean()).float()
        return torch.cat([1 - found, found], dim=1)


def inferer(*, heat_map: bool) -> CoarseToFineInferer:
    """On a grid of 16 voxels; no margin."""
    return CoarseToFineInferer(
        Network(Bright(), "cpu"), (16, 16, 16), (16, 16, 16), (0.0, 100.0), 0.0, 1.0, 0.0, 0.02, 0.5, heat_map=heat_map
    )


def test_the_fine_network_s_probability_before_the_clean_up() -> None:
    """Within the box of the organ, in levels of 255; 0 outside; the labels are what they are without it."""
    image = torch.zeros(1, 1, 32, 32, 32)
    image[..., 8:24, 8:24, 8:24] = 1.0 + torch.linspace(0.0, 0.1, 16)
    fine = Network(Ramp(), "cpu")
    labels = inferer(heat_map=False)(image.clone(), fine)
    both = inferer(heat_map=True)(image.clone(), fine)
    assert (labels.shape, both.shape, both.dtype) == ((1, 1, 32, 32, 32), (1, 2, 32, 32, 32), torch.uint8)
    assert torch.equal(both[:, :1], labels)
    heat = both[0, 1].numpy()
    wanted = np.rint(np.linspace(0.25, 0.75, 16) * 255)
    assert np.array_equal(heat[8:24, 8:24, 8:24], np.broadcast_to(wanted[:, None, None], (16, 16, 16)))
    heat[8:24, 8:24, 8:24] = 0
    assert not heat.any()
    assert not labels[0, 0, :16].any()
    assert labels[0, 0, 16:24, 8:24, 8:24].all()


def test_nothing_found_is_an_empty_map_of_the_same_shape() -> None:
    """No contrast, or no organ: both channels are there, and zero."""
    fine = Network(Ramp(), "cpu")
    for image in (torch.zeros(1, 1, 32, 32, 32), torch.ones(1, 1, 32, 32, 32)):
        both = inferer(heat_map=True)(image, fine)
        assert both.shape == (1, 2, 32, 32, 32)
        assert not both.any()
