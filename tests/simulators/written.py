"""The bytes alone of what the bridge writes and has read again, for tests that read them themselves."""

from __future__ import annotations

from collections.abc import Sequence

from pydicom.dataset import Dataset

from dicom_bridge.heat_maps import make_heat_maps
from dicom_bridge.label_map import make_label_map
from dicom_bridge.result_context import ResultContext
from dicom_bridge.segmentation import make_seg
from inference.types import Findings
from models.manifest import Manifest
from models.ref import ModelRef


def write_seg(
    findings: Findings, manifest: Manifest, ref: ModelRef, sources: Sequence[Dataset], context: ResultContext
) -> bytes:
    """The SEG of a call; see `make_seg`."""
    return make_seg(findings, manifest, ref, sources, context)[0]


def write_label_map(
    findings: Findings, manifest: Manifest, ref: ModelRef, sources: Sequence[Dataset], context: ResultContext
) -> bytes:
    """The label map of a call; see `make_label_map`."""
    return make_label_map(findings, manifest, ref, sources, context)[0]


def write_heat_maps(
    findings: Findings, manifest: Manifest, ref: ModelRef, sources: Sequence[Dataset], context: ResultContext
) -> bytes | None:
    """The heat maps of a call, None without any; see `make_heat_maps`."""
    made = make_heat_maps(findings, manifest, ref, sources, context)
    return None if made is None else made[0]
