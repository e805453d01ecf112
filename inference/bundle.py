"""A MONAI bundle as a callable: canonical voxels in, label map, heat maps, scores and boxes out. Worker side only.

Of a bundle's inference.json the parts `preprocessing`, `network_def`, `inferer` and `postprocessing` are used, by the
names that MONAI's bundle specification and Model Zoo give them. A configuration is data here, not a program: Python
expressions ("$..."), file macros ("%..."), and classes from outside `TARGETS` are refused before anything is built.

What comes out has MONAI's names. `pred`: the label map (where the manifest has segments), then the heat maps, as
channels. `scores`: a vector (C,) or (1, C) of the manifest's classifications, in their order, each from 0 to 1; the
postprocessing makes probabilities of logits. A model of classifications alone has them in `pred`, as MONAI's bundles
do. `box` (N, 6), `label` (N,) and `label_scores` (N,), as MONAI's Model Zoo names them: what was detected, see `found`;
corners (x, y, z, x, y, z) on the grid of the network's input, whatever the preprocessing made of the image's. An
inferer may give one tensor, which is `pred`, or several by name.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import monai
import numpy as np
import torch
from monai.bundle import ConfigParser
from monai.data import MetaTensor

from inference.coarse_to_fine import Network, plain
from inference.errors import ModelFailed, ModelRefused
from inference.expected import Expected, judged_scores
from inference.found import FoundBox, carried, judged_boxes
from inference.types import Affine, FloatArray, LabelArray

TARGETS: Final = ("monai.inferers.", "monai.networks.", "monai.transforms.", "inference.coarse_to_fine.")
"""Modules whose classes a bundle may name."""

PARTS: Final = ("preprocessing", "network_def", "inferer", "postprocessing")
CONFIG_BYTES_MAX: Final = 1 << 20
"""Largest inference.json in bytes; real ones have some kilobytes."""

WARM_UP_SHAPE: Final = (256, 256, 192)
"""Voxels of the invented volume of a warm-up: about a whole-head MR, so that the heap grows to its working size."""


@dataclass(frozen=True, slots=True)
class Answer:
    """channels: (labels and heat maps, X, Y, Z) uint8 on the canonical grid; scores: of the manifest's classifications;
    boxes: corners on the canonical grid; the rest: seconds by stage.

    Where a part of the answer may fail alone: `lost`, the places of the heat maps that did, among `channels`; boxes are
    None if they did, and a score may be any number or none.
    """

    channels: LabelArray
    lost: tuple[int, ...]
    scores: tuple[float, ...]
    boxes: tuple[FoundBox, ...] | None
    preprocess_s: float
    forward_s: float
    postprocess_s: float


def choose_device(wanted: str) -> str:
    """`wanted`; where it is empty the machine's accelerator, of any make that ships a torch backend; else "cpu"."""
    if wanted:
        return wanted
    if torch.accelerator.is_available():
        return str(torch.accelerator.current_accelerator())
    return "cpu"


def prepare(device: str) -> dict[str, str]:
    """Set this process up for inference; returns what of it could change a result, for the record.

    Raises RuntimeError or AssertionError (torch's own) if the device is not there: a site's matter, not a model's.
    """
    torch.zeros(1, device=device)
    threads = len(os.sched_getaffinity(0))
    torch.set_num_threads(threads)
    torch.set_grad_enabled(False)
    # TF32 and benchmark mode would let the same input give other bits on another day.
    torch.set_float32_matmul_precision("highest")
    torch.backends.cudnn.benchmark = False
    torch.backends.cudnn.allow_tf32 = False
    return {
        "torch": str(torch.__version__),
        "monai": str(monai.__version__),
        "numpy": str(np.__version__),
        "precision": "float32",
        "threads": str(threads),
        "device": device,
    }


class Bundle:
    """One bundle, loaded on one device.

    Args:
        root: the bundle's folder, its files already verified. config: path of inference.json below it.
        device: "cpu", "cuda:0", ... expected: what it has to answer.
    Raises ModelRefused (MODEL_CONFIG_REFUSED) for what we do not run, ModelFailed (MODEL_LOAD_FAILED) for a bundle
    without the parts we need; whatever MONAI and torch raise while they build the parts.
    """

    def __init__(self, root: Path, config: str, device: str, expected: Expected) -> None:
        path = root / config
        if path.suffix != ".json" or path.stat().st_size > CONFIG_BYTES_MAX:
            raise ModelRefused("MODEL_CONFIG_REFUSED", "the configuration is not a JSON file of reasonable size")
        content = ConfigParser.load_config_file(path)
        refuse_programs(content)
        missing = [part for part in PARTS if part not in content]
        if missing:
            raise ModelFailed("MODEL_LOAD_FAILED", f"the configuration lacks {', '.join(missing)}")
        parser = ConfigParser({**content, "bundle_root": str(root), "device": device})
        parsed = {key: parser.get_parsed_content(key) for key in content}
        self.device = device
        self.expected = expected
        self.preprocessing = parsed["preprocessing"]
        self.inferer = parsed["inferer"]
        self.postprocessing = parsed["postprocessing"]
        self.network = _timed(parsed["network_def"], device)
        others = (value for value in parsed.values() if isinstance(value, Network))
        self.networks = list(dict.fromkeys([self.network, *others]))

    def __call__(self, voxels: FloatArray, affine: Affine) -> Answer:
        """What is expected of voxels (X, Y, Z) in RAS order with this RAS affine (4, 4).

        Raises ModelFailed (MODEL_OUTPUT_INVALID) unless label map and heat maps are one whole number from 0 to 255 for
        each voxel, there is one score from 0 to 1 for each classification, and boxes are as `found` wants them. Where
        one may fail alone, a heat map, a score or the boxes whose values are wrong are told apart instead: see Answer.
        """
        before = sum(network.elapsed_s for network in self.networks)
        with torch.inference_mode():
            started = time.perf_counter()
            image = MetaTensor(torch.from_numpy(voxels)[None].to(self.device), affine=torch.from_numpy(affine))
            data = self.preprocessing({"image": image})
            # Boxes are on this grid, and what comes after may change what `image` is.
            place = data["image"]
            ready = time.perf_counter()
            given = _outputs(self.inferer(data["image"][None], self.network))
            data |= {name: _like(value, data["image"]) for name, value in given.items()}
            inferred = time.perf_counter()
            data = self.postprocessing(data)
            channels, lost = self._channels(data, voxels.shape)
            wanted = self.expected.scores
            scores = self._vector(_named(data, self.expected.scores_name)) if wanted else ()
            boxes = self._boxes(data, place, affine) if self.expected.kinds else ()
            done = time.perf_counter()
        forward_s = sum(network.elapsed_s for network in self.networks) - before
        # What the inferer does besides its networks (resizing, windows, boxes) is preparation for them.
        prepared_s = ready - started + inferred - ready - forward_s
        return Answer(channels, lost, scores, boxes, prepared_s, forward_s, done - inferred)

    def _channels(self, data: Mapping[str, Any], shape: tuple[int, ...]) -> tuple[LabelArray, tuple[int, ...]]:
        """Label map and heat maps, and the places of those that failed alone."""
        if not self.expected.channels:
            return np.zeros((0, *shape), np.uint8), ()
        pred = _shaped(_named(data, "pred"), (self.expected.channels, *shape))
        if not self.expected.partial or _is_whole(pred):
            return _whole(pred), ()
        first = int(self.expected.labels)
        lost = tuple(place for place in range(first, len(pred)) if not _is_whole(pred[place]))
        # The label map, if there is one, is not among them: all segments are in it, and none could be believed.
        kept = pred.clone()
        kept[list(lost)] = 0
        return _whole(kept), lost

    def _vector(self, scores: torch.Tensor) -> tuple[float, ...]:
        wanted = self.expected.scores
        if tuple(scores.shape) not in {(wanted,), (1, wanted)} or not scores.is_floating_point():
            raise ModelFailed(
                "MODEL_OUTPUT_INVALID", f"scores are {tuple(scores.shape)} {scores.dtype}, not ({wanted},)"
            )
        return judged_scores(scores.flatten().tolist(), wanted, partial=self.expected.partial)

    def _boxes(self, data: Mapping[str, Any], place: torch.Tensor, affine: Affine) -> tuple[FoundBox, ...] | None:
        """None where they failed alone: what is wrong with one box is wrong with the network that drew them all."""
        if not isinstance(place, MetaTensor):
            raise ModelFailed(
                "MODEL_OUTPUT_INVALID", "the preprocessing lost the image's place in space, and so the boxes'"
            )
        names = ("box", "label", "label_scores")
        given, labels, scores = (_named(data, name).to("cpu", torch.float64).numpy() for name in names)
        try:
            judged_boxes(given, labels, scores, self.expected.kinds)
        except ModelFailed:
            if not self.expected.partial:
                raise
            return None
        placed = carried(given, place.affine.numpy().astype(np.float64), affine)
        rows = np.column_stack([labels, placed, scores]).tolist()
        return tuple(FoundBox.read(row) for row in rows)

    def warm_up(self) -> None:
        """Run once on an invented volume, so that the first study does not pay for first times."""
        with torch.inference_mode():
            if hasattr(self.inferer, "warm_up"):
                self.inferer.warm_up(self.network)
        voxels = np.zeros(WARM_UP_SHAPE, dtype=np.float32)
        voxels[tuple(slice(n // 4, 3 * n // 4) for n in WARM_UP_SHAPE)] = 1.0
        self(voxels, np.eye(4))


def refuse_programs(content: object) -> None:
    """Raise ModelRefused (MODEL_CONFIG_REFUSED) if a configuration could do more than build known classes."""
    if not isinstance(content, Mapping):
        raise ModelRefused("MODEL_CONFIG_REFUSED", "the configuration is not an object")
    for key, value in _walk(content):
        if key.startswith("_") and key not in ("_target_", "_desc_"):
            raise ModelRefused("MODEL_CONFIG_REFUSED", f"the configuration uses {key[:32]}")
        if not isinstance(value, str):
            continue
        if key == "_target_" and not value.startswith(TARGETS):
            raise ModelRefused("MODEL_CONFIG_REFUSED", f"the configuration names the class {value[:64]}")
        if value.startswith(("$", "%")):
            raise ModelRefused("MODEL_CONFIG_REFUSED", f"the configuration holds an expression at {key[:32]}")


def _walk(value: object, key: str = "") -> Iterator[tuple[str, object]]:
    """Every (nearest key, value) below `value`."""
    yield key, value
    if isinstance(value, Mapping):
        for inner_key, inner in value.items():
            yield from _walk(inner, str(inner_key))
    elif isinstance(value, list):
        for inner in value:
            yield from _walk(inner, key)


def _timed(network: Any, device: str) -> Network:
    if isinstance(network, Network):
        return network
    return Network(network.to(device).eval(), device)


def _outputs(given: Any) -> dict[str, torch.Tensor]:
    """What an inferer gave of its one image, without the dimension of batches; detectors give a list of one mapping."""
    if isinstance(given, Mapping):
        return {str(name): value[0] for name, value in given.items()}
    return (
        {str(name): value for name, value in given[0].items()} if isinstance(given[0], Mapping) else {"pred": given[0]}
    )


def _named(data: Mapping[str, Any], name: str) -> torch.Tensor:
    if name not in data:
        raise ModelFailed("MODEL_OUTPUT_INVALID", f"the answer has no {name}")
    return plain(data[name])


def _like(pred: torch.Tensor, image: torch.Tensor) -> torch.Tensor:
    """`pred` (C, X, Y, Z) with the image's place in space, which postprocessing needs to go back."""
    if not isinstance(image, MetaTensor):
        return pred
    result: torch.Tensor = MetaTensor(plain(pred), meta=image.meta)  # the affine is part of the meta
    return result


def _shaped(pred: torch.Tensor, shape: tuple[int, ...]) -> torch.Tensor:
    if tuple(pred.shape) != shape:
        raise ModelFailed("MODEL_OUTPUT_INVALID", f"the answer has shape {tuple(pred.shape)}, not {shape}")
    return pred


def _is_whole(pred: torch.Tensor) -> bool:
    """Whether each is a whole number from 0 to 255."""
    return pred.dtype == torch.uint8 or bool(((pred.round() == pred) & (pred >= 0) & (pred <= 255)).all())


def _whole(pred: torch.Tensor) -> LabelArray:
    if not _is_whole(pred):
        raise ModelFailed("MODEL_OUTPUT_INVALID", "the answer is not a map of whole numbers from 0 to 255")
    channels: LabelArray = pred.to(torch.uint8).cpu().numpy()
    return channels
