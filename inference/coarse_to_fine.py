"""Two networks in a row, as a MONAI inferer: one finds the organ on a coarse grid, one outlines it within that box.

The arithmetic is that of deepbet 1.0.2 (MIT; Fisch et al., "deepbet: Fast brain extraction of T1-weighted MRI using
convolutional neural networks", Comput Biol Med 179:108845, 2024), step for step, because the weights were trained for
it: nearest-exact resizing, intensity window from the coarse grid's percentiles, the same box, the same clean-up.
Where the order of two steps does not change the result, the cheaper order is used. A test compares it with deepbet.
"""

from __future__ import annotations

import math
import time
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Final

import numpy as np
import numpy.typing as npt
import torch
from monai.inferers import Inferer
from monai.transforms import Resize
from scipy import ndimage

from inference.types import LEVELS, LabelArray

ANY_NEIGHBOUR: Final = np.ones((3, 3, 3), dtype=bool)
"""26-connectivity: voxels that share a face, an edge or a corner belong together."""

FACE_NEIGHBOUR: Final = ndimage.generate_binary_structure(3, 1)
"""6-connectivity: for cavities, so that a wall that touches by corners only still closes them."""

Box = tuple[slice, slice, slice]
Mask = npt.NDArray[np.bool_]


class Network(torch.nn.Module):  # type: ignore[misc]
    """A network that counts the time spent in it, so that a study's time can be told by stage."""

    def __init__(self, module: torch.nn.Module, device: str) -> None:
        super().__init__()
        self.module = module
        self.device = torch.device(device)
        self.elapsed_s = 0.0

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """`module(x)`; adds its wall time, including what the device still has queued, to `elapsed_s`."""
        start = time.perf_counter()
        result: torch.Tensor = self.module(x)
        if self.device.type != "cpu":
            torch.accelerator.synchronize(self.device)
        self.elapsed_s += time.perf_counter() - start
        return result


def load_torchscript(root: str, file: str, device: str) -> Network:
    """The TorchScript archive `root`/`file` on `device`, ready to infer.

    Raises RuntimeError or ValueError if it is no such archive. TorchScript archives hold no pickled Python objects to
    run; their code runs in TorchScript's own interpreter.
    """
    with warnings.catch_warnings():
        # torch calls TorchScript deprecated in favour of torch.export; published bundles still come in it.
        warnings.filterwarnings("ignore", message=r"`torch\.jit\.", category=Warning)
        module = torch.jit.load(str(Path(root) / file), map_location=device)
    return Network(module.eval(), device)


class CoarseToFineInferer(Inferer):  # type: ignore[misc]
    """Find on a coarse grid, outline within the box that was found.

    Args:
        locator: network of the coarse grid; its channel 1 is the probability of the organ.
        coarse_size, fine_size: edge lengths in voxels of the two networks' inputs (x, y, z).
        window_percentiles: of the coarse image; they become 0 and 1 for both networks.
        mean, std: of the intensities that the networks were trained on.
        box_margin: share of the box's size that is added on each side.
        box_floor: a plane belongs to the box if more than this share of its voxels is organ.
        threshold: probability above which a voxel is organ.
        heat_map: whether the fine network's probability is given beside the labels, in whole numbers from 0 to 255. It
            is as the network gives it, before the clean-up; outside of the box, where nobody looked, it is 0.
    """

    def __init__(
        self,
        locator: torch.nn.Module,
        coarse_size: Sequence[int],
        fine_size: Sequence[int],
        window_percentiles: Sequence[float],
        mean: float,
        std: float,
        box_margin: float,
        box_floor: float,
        threshold: float,
        heat_map: bool = False,  # noqa: FBT001 - named in configurations
    ) -> None:
        super().__init__()
        self.locator = locator
        self.to_coarse = Resize(spatial_size=tuple(coarse_size), mode="nearest-exact")
        self.to_fine = Resize(spatial_size=tuple(fine_size), mode="nearest-exact")
        self.window_percentiles = tuple(window_percentiles)
        self.mean = mean
        self.std = std
        self.box_margin = box_margin
        self.box_floor = box_floor
        self.threshold = threshold
        self.heat_map = heat_map

    def warm_up(self, network: torch.nn.Module) -> None:
        """Run both networks once on nothing, so that kernels are chosen and memory is held before the first study."""
        for one, resize in ((self.locator, self.to_coarse), (network, self.to_fine)):
            self._probability(one, torch.zeros((1, *resize.spatial_size), device=getattr(one, "device", None)))

    def __call__(self, inputs: torch.Tensor, network: torch.nn.Module) -> torch.Tensor:
        """Label map (1, 1, X, Y, Z) uint8, 0 or 1, of an image (1, 1, X, Y, Z) in RAS order.

        With the heat map it is the second of two channels, (1, 2, X, Y, Z).

        All zero if the coarse network finds nothing, or the image has no contrast: the caller's checks refuse that.
        """
        image = torch.as_tensor(inputs)[0]
        answer = torch.zeros((2 if self.heat_map else 1, *image.shape[1:]), dtype=torch.uint8, device=image.device)
        labels = answer[:1]
        coarse = plain(self.to_coarse(image))
        low, high = (float(v) for v in np.percentile(coarse.cpu().numpy(), self.window_percentiles))
        if not high > low:
            return answer[None]
        coarse = self._normalised(_windowed(coarse, low, high), coarse.shape[1:])
        found = self._above(self._probability(self.locator, coarse))
        box = bounding_box(largest_component(found), labels.shape[1:], self.box_floor, self.box_margin)
        if box is None:
            return answer[None]
        # What is done voxel by voxel commutes with nearest-exact resizing, and the box has fewer voxels.
        boxed = self._normalised(_windowed(image[(slice(None), *box)], low, high), self.to_fine.spatial_size)
        probability = self._probability(network, plain(self.to_fine(boxed)))
        size = labels[(0, *box)].shape
        mask = self._resized(self._above(probability).view(np.uint8), size).view(np.bool_)
        labels[(0, *box)] = torch.from_numpy(clean(mask).view(np.uint8)).to(labels.device)
        if self.heat_map:
            levels = probability.clamp(0.0, 1.0).mul(LEVELS).round().to(torch.uint8).cpu().numpy()
            answer[(1, *box)] = torch.from_numpy(self._resized(levels, size)).to(answer.device)
        return answer[None]

    def _normalised(self, image: torch.Tensor, size: Sequence[int]) -> torch.Tensor:
        """(1, x, y, z), in place, such that after resizing to `size` it has the training's mean and deviation."""
        mean, std = moments_after_resizing(image[0], size)
        return image.sub_(mean).mul_(self.std / std).add_(self.mean)

    @staticmethod
    def _probability(network: torch.nn.Module, image: torch.Tensor) -> torch.Tensor:
        result: torch.Tensor = network(image[None])[0, 1]
        return result

    def _above(self, probability: torch.Tensor) -> Mask:
        result: Mask = (probability > self.threshold).cpu().numpy()
        return result

    @staticmethod
    def _resized(values: LabelArray, size: Sequence[int]) -> LabelArray:
        """Nearest-exact, on bytes: torch's own index arithmetic without a float per voxel."""
        out = torch.nn.functional.interpolate(torch.from_numpy(values)[None, None], tuple(size), mode="nearest-exact")
        result: LabelArray = out[0, 0].numpy()
        return result


def plain(image: torch.Tensor) -> torch.Tensor:
    """Without MONAI's metadata: every later operation would carry it along."""
    return torch.Tensor.as_subclass(image, torch.Tensor)


def _windowed(image: torch.Tensor, low: float, high: float) -> torch.Tensor:
    """A copy with low -> 0 and high -> 1, clipped."""
    return image.sub(low).div_(high - low).clamp_(0.0, 1.0)


def moments_after_resizing(image: torch.Tensor, size: Sequence[int]) -> tuple[float, float]:
    """Mean and (unbiased) standard deviation that (x, y, z) will have after nearest-exact resizing to `size`.

    Resizing repeats each plane some number of times, so both are weighted sums over the smaller image, in double.
    """
    weights = [_repeats(old, new).to(image.device) for old, new in zip(image.shape, size, strict=True)]
    count = math.prod(size)
    mean = _weighted_sum(image, weights) / count
    centred = image - mean
    variance = _weighted_sum(centred.mul_(centred), weights) / (count - 1)
    return mean, math.sqrt(variance)


def _repeats(old: int, new: int) -> torch.Tensor:
    """How often nearest-exact resizing of `old` to `new` planes takes each: torch tells, by resizing 0, 1, 2..."""
    source = torch.arange(old, dtype=torch.float32)[None, None]
    taken = torch.nn.functional.interpolate(source, size=new, mode="nearest-exact")
    return torch.bincount(taken.flatten().long(), minlength=old).float()


def _weighted_sum(image: torch.Tensor, weights: Sequence[torch.Tensor]) -> float:
    """Single precision along one axis of a few hundred voxels, double for the sums of these."""
    rows = torch.matmul(image, weights[2]).double()
    return float(weights[0].double() @ rows @ weights[1].double())


def bounding_box(mask: Mask, shape: Sequence[int], floor: float, margin: float) -> Box | None:
    """The box, in a grid of `shape`, around a coarse `mask` (x, y, z) of the same field of view; None if there is none.

    Planes with at most `floor` of their voxels set are ignored; `margin` of the size is added on each side. The
    single precision and the rounding (half to even for centre and size, then towards zero) are deepbet's.
    """
    box = []
    for axis in range(3):
        others = tuple(other for other in range(3) if other != axis)
        planes = np.flatnonzero(mask.mean(axis=others, dtype=np.float64) > floor)
        if planes.size == 0:
            return None
        first, end = int(planes[0]), int(planes[-1]) + 1
        scale = np.float32(shape[axis]) / np.float32(mask.shape[axis])
        centre = np.rint(scale * np.float32((first + end) / 2))
        size = np.rint((1 + 2 * np.float32(margin)) * (scale * np.float32(end - first)))
        box.append(slice(max(0, int(centre - size / 2)), min(shape[axis], int(centre + size / 2))))
    return box[0], box[1], box[2]


def tight_box(mask: Mask) -> Box | None:
    """The smallest box that holds every set voxel of (x, y, z); None for an empty mask."""
    box = []
    for axis in range(3):
        planes = np.flatnonzero(mask.any(axis=tuple(other for other in range(3) if other != axis)))
        if planes.size == 0:
            return None
        box.append(slice(int(planes[0]), int(planes[-1]) + 1))
    return box[0], box[1], box[2]


def largest_component(mask: Mask) -> Mask:
    """Only the largest 26-connected component of (x, y, z), the first one of equals; an empty mask stays empty.

    The same as MONAI's KeepLargestConnectedComponent and deepbet's, in less time.
    """
    box = tight_box(mask)
    if box is None:
        return mask
    labels, count = ndimage.label(mask[box], structure=ANY_NEIGHBOUR)
    if count == 1:
        return mask
    sizes = np.bincount(labels.ravel())
    sizes[0] = 0
    result = np.zeros_like(mask)
    result[box] = labels == sizes.argmax()
    return result


def filled(mask: Mask) -> Mask:
    """(x, y, z) with its cavities filled: background that no path of faces joins to the outside of the mask's box.

    The same as scipy's binary_fill_holes (hundreds of dilations) and fill_voids, by one labelling of the background.
    """
    box = tight_box(mask)
    if box is None:
        return mask
    background = np.pad(~mask[box], 1, constant_values=True)  # the rim joins everything that is outside
    labels, count = ndimage.label(background, structure=FACE_NEIGHBOUR)
    if count == 1:
        return mask
    result = mask.copy()
    result[box] = (labels != labels[0, 0, 0])[1:-1, 1:-1, 1:-1]
    return result


def clean(mask: Mask) -> Mask:
    """The largest component of (x, y, z) without its cavities."""
    return filled(largest_component(mask))
