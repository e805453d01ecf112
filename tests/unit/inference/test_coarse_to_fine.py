"""The steps between the two networks, against plain and slow witnesses."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from monai.transforms import KeepLargestConnectedComponent
from scipy import ndimage

from inference.coarse_to_fine import (
    CoarseToFineInferer,
    Network,
    bounding_box,
    clean,
    filled,
    largest_component,
    moments_after_resizing,
    tight_box,
)

Mask = npt.NDArray[np.bool_]


def _random(seed: int, share: float, shape: tuple[int, int, int] = (9, 10, 11)) -> Mask:
    return np.random.default_rng(seed).random(shape) < share


@given(seed=st.integers(0, 10**6), share=st.floats(0.02, 0.6))
@settings(max_examples=60, deadline=None)
def test_largest_component_is_monais(seed: int, share: float) -> None:
    """The same size, and one component, as MONAI's KeepLargestConnectedComponent keeps; the very same if no tie."""
    mask = _random(seed, share)
    ours = largest_component(mask)
    theirs = KeepLargestConnectedComponent(applied_labels=[1])(torch.from_numpy(mask.astype(np.uint8))[None])[0]
    theirs = np.asarray(theirs).astype(bool)
    assert ours.sum() == theirs.sum()
    assert not (ours & ~mask).any()
    labels, count = ndimage.label(mask, structure=np.ones((3, 3, 3)))
    sizes = sorted(np.bincount(labels.ravel())[1:])
    if count == 1 or (count > 1 and sizes[-1] > sizes[-2]):
        assert np.array_equal(ours, theirs)


def test_corners_join_and_equals_go_to_the_first() -> None:
    """Voxels that touch by a corner are one component; of two equal ones the first in index order stays."""
    mask = np.zeros((6, 6, 6), bool)
    mask[0, 0, 0] = mask[1, 1, 1] = mask[4, 4, 4] = mask[5, 5, 5] = True
    kept = largest_component(mask)
    assert kept[0, 0, 0]
    assert kept[1, 1, 1]
    assert kept.sum() == 2


@given(seed=st.integers(0, 10**6), share=st.floats(0.3, 0.95))
@settings(max_examples=60, deadline=None)
def test_filling_is_scipys(seed: int, share: float) -> None:
    """The same as binary_fill_holes, scipy's slow and plain one, also where the mask touches the border."""
    mask = _random(seed, share)
    assert np.array_equal(filled(mask), ndimage.binary_fill_holes(mask))


def test_a_cavity_closes_and_a_bay_does_not() -> None:
    """Background that reaches the outside by faces stays; what only a corner joins to the outside is filled."""
    mask = np.ones((5, 5, 5), bool)
    mask[2, 2, 2] = False
    mask[0, 4, 4] = False
    assert np.array_equal(filled(mask), mask | (np.indices((5, 5, 5)) == 2).all(axis=0))
    mask[2, 2, 3:] = False
    assert np.array_equal(filled(mask), mask)


@pytest.mark.parametrize("operation", [largest_component, filled, clean])
def test_nothing_stays_nothing(operation: object) -> None:
    """An empty mask is no error here; the output checks refuse it by name."""
    empty = np.zeros((3, 4, 5), bool)
    assert tight_box(empty) is None
    assert not operation(empty).any()  # type: ignore[operator]


def test_inputs_are_left_alone() -> None:
    """No step writes into the mask that it was given."""
    mask = _random(1, 0.6)
    before = mask.copy()
    clean(mask)
    assert np.array_equal(mask, before)


@pytest.mark.parametrize("shape", [(256, 256, 189), (40, 128, 300), (128, 128, 128)])
@pytest.mark.parametrize("seed", range(4))
def test_box_is_deepbets(shape: tuple[int, int, int], seed: int) -> None:
    """The box equals the one that deepbet 1.0.2's own formula gives, written here in torch as there."""
    random = np.random.default_rng(seed)
    mask = np.zeros((128, 128, 128), bool)
    low = random.integers(0, 60, 3)
    high = low + random.integers(20, 68, 3)
    mask[tuple(slice(a, b) for a, b in zip(low, high, strict=True))] = True
    assert bounding_box(mask, shape, 0.02, 0.1) == _deepbet_box(torch.from_numpy(mask).float(), shape)


def _deepbet_box(mask: torch.Tensor, shape: Sequence[int]) -> tuple[slice, ...]:
    planes = [torch.where(mask.mean(dims) > 0.02)[0] for dims in [(1, 2), (0, 2), (0, 1)]]
    centre = torch.tensor([(r.max() + 1 + r.min()) / 2 for r in planes])
    size = torch.tensor([(r.max() + 1) - r.min() for r in planes])
    scale = torch.tensor(shape) / torch.tensor(mask.shape)
    centre, size = (scale * centre).round(), ((1 + 2 * 0.1 * torch.ones(3)) * (scale * size)).round()
    ends = [(int(c - s / 2), int(c + s / 2)) for c, s in zip(centre, size, strict=True)]
    return tuple(slice(max(0, a), min(n, b)) for (a, b), n in zip(ends, shape, strict=True))


def test_thin_planes_do_not_stretch_the_box() -> None:
    """A few stray voxels in a plane are not the organ; nothing above the floor is no box."""
    mask = np.zeros((10, 10, 10), bool)
    mask[4:6, 4:6, 4:6] = True
    mask[0, 5, 5] = True
    assert bounding_box(mask, (10, 10, 10), 0.02, 0.0) == (slice(4, 6), slice(4, 6), slice(4, 6))
    assert bounding_box(mask, (10, 10, 10), 0.5, 0.0) is None


@given(old=st.tuples(*[st.integers(2, 20)] * 3), new=st.tuples(*[st.integers(2, 40)] * 3), seed=st.integers(0, 1000))
@settings(max_examples=60, deadline=None)
def test_moments_are_those_of_the_resized_image(
    old: tuple[int, int, int], new: tuple[int, int, int], seed: int
) -> None:
    """Mean and deviation, had without resizing, are those of the resized image."""
    image = torch.from_numpy(np.random.default_rng(seed).normal(100, 30, old).astype(np.float32))
    resized = torch.nn.functional.interpolate(image[None, None], size=new, mode="nearest-exact").double()
    mean, std = moments_after_resizing(image, new)
    assert mean == pytest.approx(float(resized.mean()), rel=1e-5)
    assert std == pytest.approx(float(resized.std()), rel=1e-5)


class Bright(torch.nn.Module):  # type: ignore[misc]
    """Two channels: the second is 1 where the image is brighter than its mean."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(1, 1, x, y, z) -> (1, 2, x, y, z)."""
        organ = (x > 0.449).float()
        return torch.cat([1 - organ, organ], dim=1)


def _inferer(locator: torch.nn.Module) -> CoarseToFineInferer:
    return CoarseToFineInferer(
        locator=Network(locator, "cpu"),
        coarse_size=(16, 16, 16),
        fine_size=(32, 32, 32),
        window_percentiles=(0.5, 99.5),
        mean=0.449,
        std=0.226,
        box_margin=0.1,
        box_floor=0.02,
        threshold=0.5,
    )


def _ball() -> torch.Tensor:
    grid = np.indices((24, 28, 20)) - np.array([12, 14, 10])[:, None, None, None]
    return torch.from_numpy((np.sqrt((grid**2).sum(axis=0)) < 7).astype(np.float32))


def test_a_bright_ball_is_found_and_its_cavity_filled() -> None:
    """Both networks and the clean-up together outline a ball, without its cavity and without a distant speck."""
    ball = _ball()
    image = ball.clone()
    image[12, 14, 10] = 0.0
    image[0, 0, 0] = 1.0
    network = Network(Bright(), "cpu")
    labels = _inferer(Bright())(image[None, None] * 500, network)
    assert labels.dtype == torch.uint8
    assert labels.shape == (1, 1, 24, 28, 20)
    overlap = 2 * float((labels[0, 0] * ball).sum()) / float(labels.sum() + ball.sum())
    assert overlap > 0.97
    assert labels[0, 0, 12, 14, 10] == 1
    assert labels[0, 0, 0, 0, 0] == 0
    assert network.elapsed_s > 0


@pytest.mark.parametrize("image", [torch.zeros(20, 20, 20), torch.full((20, 20, 20), 7.0)])
def test_no_contrast_gives_no_label(image: torch.Tensor) -> None:
    """A blank image gives an empty map, not a division by zero."""
    assert not _inferer(Bright())(image[None, None], Network(Bright(), "cpu")).any()


class Nothing(torch.nn.Module):  # type: ignore[misc]
    """Sees background everywhere."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(1, 1, x, y, z) -> (1, 2, x, y, z)."""
        return torch.cat([torch.ones_like(x), torch.zeros_like(x)], dim=1)


def test_nothing_found_gives_no_label_and_runs_one_network() -> None:
    """If the coarse network finds nothing, the fine one is spared and the map is empty."""
    fine = Network(Bright(), "cpu")
    assert not _inferer(Nothing())(_ball()[None, None], fine).any()
    assert fine.elapsed_s == 0


def test_intensity_scale_does_not_matter() -> None:
    """MR intensities have no unit: scaled and shifted images give the same map."""
    image = _ball() + torch.rand(24, 28, 20, generator=torch.Generator().manual_seed(1)) / 10
    first = _inferer(Bright())(image[None, None], Network(Bright(), "cpu"))
    second = _inferer(Bright())(image[None, None] * 4000 + 300, Network(Bright(), "cpu"))
    assert torch.equal(first, second)
    assert math.isclose(float(first.float().mean()), float(second.float().mean()))
