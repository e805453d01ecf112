"""A bundle is read by MONAI's own parser, as data: what could do more is refused. Our card is sound."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from monai.bundle import ConfigParser

from inference import bundle
from inference.bundle import Bundle, refuse_programs
from inference.coarse_to_fine import CoarseToFineInferer
from inference.errors import ModelFailed, ModelRefused
from inference.expected import Expected
from models.manifest import read_manifest
from models.pull import CARDS
from tests.simulators import tiny_model

CARD = CARDS / "brain-extraction-t1"
CONFIG = "configs/inference.json"


def _image() -> np.ndarray:  # type: ignore[type-arg]
    return (np.random.default_rng(1).random((5, 6, 7)) > 0.5).astype(np.float32)


@pytest.mark.parametrize(
    "content",
    [
        {"a": "$__import__('os')"},
        {"a": [{"b": "$1 + 1"}]},
        {"a": {"_target_": "os.system", "command": "true"}},
        {"a": {"_target_": "monai.bundle.ConfigWorkflow"}},
        {"a": {"_target_": "subprocess.run"}},
        {"a": {"_target_": "LoadImaged"}},
        {"a": {"_target_": "inference.worker.main"}},
        {"a": {"_target_": "monai.transforms.Compose", "_mode_": "debug"}},
        {"a": {"_target_": "monai.transforms.Compose", "_requires_": "@b"}},
        {"a": {"_target_": "monai.transforms.Compose", "_disabled_": "true"}},
        {"a": "%other.json::key"},
        ["not an object"],
        "text",
    ],
)
def test_programs_are_refused(content: Any) -> None:
    """Expressions, macros, special modes and classes from elsewhere are refused before anything is built."""
    with pytest.raises(ModelRefused) as caught:
        refuse_programs(content)
    assert caught.value.code == "MODEL_CONFIG_REFUSED"


def test_plain_configurations_pass() -> None:
    """Our card's configuration and the tiny one hold no programs."""
    refuse_programs(ConfigParser.load_config_file(CARD / CONFIG))
    refuse_programs(tiny_model.INFERENCE)


@pytest.mark.parametrize("part", bundle.PARTS)
def test_a_bundle_without_a_part_is_not_loaded(tmp_path: Path, part: str) -> None:
    """Each of the four parts is needed, and the one that is missing is named."""
    model = tiny_model.build(tmp_path / "m")
    path = model.path / CONFIG
    content = json.loads(path.read_text())
    del content[part]
    path.write_text(json.dumps(content))
    with pytest.raises(ModelFailed, match=part) as caught:
        Bundle(model.path, CONFIG, "cpu", Expected())
    assert caught.value.code == "MODEL_LOAD_FAILED"


def test_an_enormous_configuration_is_refused(tmp_path: Path) -> None:
    """A configuration beyond any real one's size is not parsed."""
    model = tiny_model.build(tmp_path / "m", padding="x" * bundle.CONFIG_BYTES_MAX)
    with pytest.raises(ModelRefused):
        Bundle(model.path, CONFIG, "cpu", Expected())


@pytest.mark.parametrize(
    "affine", [np.eye(4), np.diag((-1.0, -1.0, 1.0, 1.0)), np.eye(4)[[2, 1, 0, 3]] * np.array([1, -2, 1, 1.0])]
)
def test_the_bundles_own_orientation_is_undone(tmp_path: Path, affine: np.ndarray) -> None:  # type: ignore[type-arg]
    """Whatever the bundle's own transforms turn, its answer is on the grid that it was given."""
    voxels = _image()
    loaded = Bundle(tiny_model.build(tmp_path / "m").path, CONFIG, "cpu", Expected())
    answer = loaded(voxels, affine)
    assert answer.channels[0].dtype == np.uint8
    assert np.array_equal(answer.channels[0], voxels > 0.5)
    assert answer.forward_s > 0
    assert min(answer.preprocess_s, answer.postprocess_s) >= 0


@pytest.mark.parametrize(
    ("pred", "accepted"),
    [
        (torch.zeros(1, 2, 3, 4), True),
        (torch.full((1, 2, 3, 4), 255.0), True),
        (torch.full((1, 2, 3, 4), 256.0), False),
        (torch.full((1, 2, 3, 4), -1.0), False),
        (torch.full((1, 2, 3, 4), 0.5), False),
        (torch.full((1, 2, 3, 4), float("nan")), False),
        (torch.zeros(2, 2, 3, 4), False),
        (torch.zeros(1, 4, 3, 2), False),
        (torch.zeros(2, 3, 4), False),
    ],
)
def test_only_label_maps_are_answers(pred: torch.Tensor, accepted: bool) -> None:
    """One whole number from 0 to 255 for each voxel of the image, or the answer is refused."""
    if accepted:
        assert bundle._whole(bundle._shaped(pred, (1, 2, 3, 4))).shape == (1, 2, 3, 4)
        return
    with pytest.raises(ModelFailed) as caught:
        bundle._whole(bundle._shaped(pred, (1, 2, 3, 4)))
    assert caught.value.code == "MODEL_OUTPUT_INVALID"


def test_warm_up_leaves_a_bundle_that_answers(tmp_path: Path) -> None:
    """A warm-up changes nothing but the time of the first answer."""
    loaded = Bundle(tiny_model.build(tmp_path / "m").path, CONFIG, "cpu", Expected())
    loaded.warm_up()
    voxels = _image()
    assert np.array_equal(loaded(voxels, np.eye(4)).channels[0], voxels > 0.5)


def test_a_wanted_device_is_taken_as_it_is() -> None:
    """No guess: a configured device is used or fails; an empty one takes what there is."""
    assert bundle.choose_device("cuda:3") == "cuda:3"
    assert bundle.choose_device("") == (
        str(torch.accelerator.current_accelerator()) if torch.accelerator.is_available() else "cpu"
    )


def test_card_metadata_has_what_monai_wants() -> None:
    """Every key that MONAI's metadata schema (meta_schema_20240725) requires is there, with its type."""
    metadata = ConfigParser.load_config_file(CARD / "configs" / "metadata.json")
    for key in ("version", "monai_version", "pytorch_version", "numpy_version", "task", "description", "authors"):
        assert isinstance(metadata[key], str), key
    for key in ("copyright", "name", "intended_use", "data_type"):
        assert isinstance(metadata[key], str), key
    assert isinstance(metadata["required_packages_version"], dict)
    assert metadata["version"] in metadata["changelog"]
    for direction, channels in (("inputs", 1), ("outputs", 2)):
        for form in metadata["network_data_format"][direction].values():
            assert form["num_channels"] == channels == len(form["channel_def"])
            assert form["type"] == "image"
            assert form["format"] in ("magnitude", "segmentation")
            assert form["dtype"] == "float32"
            assert len(form["value_range"]) in (0, 2)
            assert isinstance(form["is_patch_data"], bool)
            assert len(form["spatial_shape"]) == 3


def test_card_agrees_with_itself() -> None:
    """Manifest, metadata and inference configuration tell the same version and the same network."""
    metadata = ConfigParser.load_config_file(CARD / "configs" / "metadata.json")
    inference = ConfigParser.load_config_file(CARD / CONFIG)
    manifest = read_manifest(CARD / "manifest.json")
    assert metadata["version"] == manifest.version
    assert manifest.bundle.inference == CONFIG
    assert metadata["network_data_format"]["inputs"]["image"]["spatial_shape"] == inference["inferer"]["fine_size"]
    sources = {member["to"] for member in json.loads((CARD / "source.json").read_text())["members"]}
    assert {inference["locator"]["file"], inference["network_def"]["file"]} < sources


def test_card_is_built_by_monais_parser(tmp_path: Path) -> None:
    """monai.bundle.ConfigParser builds our card's inferer from plain targets, with any TorchScript in its places."""
    model = tiny_model.build(tmp_path / "m")
    network = (model.path / "models" / "model.pt").read_bytes()
    (model.path / "models" / "bbox_model.pt").write_bytes(network)
    (model.path / CONFIG).write_bytes((CARD / CONFIG).read_bytes())
    loaded = Bundle(model.path, CONFIG, "cpu", Expected())
    assert isinstance(loaded.inferer, CoarseToFineInferer)
    assert len(loaded.networks) == 2
    assert loaded.inferer.threshold == 0.5
    assert loaded.inferer.to_fine.spatial_size == (256, 256, 256)
