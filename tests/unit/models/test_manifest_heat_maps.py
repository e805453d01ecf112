"""Heat maps in a manifest: strictly read, and nothing without them is another than it was."""

from __future__ import annotations

from typing import Any

import pytest

from models.errors import ManifestError
from models.manifest import HeatMapSpec, parse_manifest
from tests.unit.models.test_manifest import CLASS, DETECTION, as_json, manifest_fields

MAP: dict[str, Any] = {
    "id": "bleed",
    "label": "Hemorrhage",
    "category": {"value": "49755003", "scheme": "SCT", "meaning": "Morphologically Abnormal Structure"},
    "type": {"value": "50960005", "scheme": "SCT", "meaning": "Hemorrhage"},
    "colour_lab": [34886, 53484, 50172],
    "calibrated": True,
}


def test_what_it_says_is_what_is_read() -> None:
    """All of it; without the key there is none."""
    (spec,) = parse_manifest(as_json(manifest_fields(heat_maps=[MAP]))).heat_maps
    assert isinstance(spec, HeatMapSpec)
    assert (spec.id, spec.label, spec.calibrated) == ("bleed", "Hemorrhage", True)
    assert (spec.category.value, spec.type.value) == ("49755003", "50960005")
    assert spec.colour_lab == (34886, 53484, 50172)
    assert parse_manifest(as_json(manifest_fields())).heat_maps == ()


@pytest.mark.parametrize(
    ("where", "changes"),
    [
        ("heat_maps", {"heat_maps": []}),
        ("heat_maps", {"heat_maps": [MAP, MAP]}),
        ("heat_maps[0].id", {"heat_maps": [MAP | {"id": "Bleed"}]}),
        ("heat_maps[0].calibrated", {"heat_maps": [MAP | {"calibrated": 1}]}),
        ("heat_maps[0].calibrated", {"heat_maps": [{key: MAP[key] for key in MAP if key != "calibrated"}]}),
        ("heat_maps[0].colour_lab[0]", {"heat_maps": [MAP | {"colour_lab": [65536, 0, 0]}]}),
        ("heat_maps[0].colour_lab", {"heat_maps": [MAP | {"colour_lab": [0, 0]}]}),
        ("heat_maps[0].label", {"heat_maps": [MAP | {"label": "x" * 65}]}),
        ("heat_maps[0].type", {"heat_maps": [MAP | {"type": "bleed"}]}),
        ("heat_maps[0].fractional", {"heat_maps": [MAP | {"fractional": "OCCUPANCY"}]}),
        ("segments", {"heat_maps": [MAP], "segments": [], "measurements": []}),
    ],
)
def test_faults_are_refused_with_their_place(where: str, changes: Any) -> None:
    """Nothing is guessed; heat maps alone are no result that a report could state."""
    with pytest.raises(ManifestError) as refused:
        parse_manifest(as_json(manifest_fields(**changes)))
    assert refused.value.where == where


def test_beside_every_kind_of_model() -> None:
    """A model of detections or classifications may show where it looked."""
    nothing = {"segments": [], "measurements": [], "heat_maps": [MAP]}
    for more in ({"detections": [DETECTION]}, {"classifications": [CLASS]}):
        assert parse_manifest(as_json(manifest_fields(**nothing, **more))).heat_maps[0].id == "bleed"
