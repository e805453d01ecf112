"""The segmentation of one call, of the type that its receiver is configured for, if the findings can be of it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from pydicom.dataset import Dataset

from dicom_bridge.label_map import OVERLAP, make_label_map
from dicom_bridge.peers import Segmentation
from dicom_bridge.result_context import ResultContext
from dicom_bridge.segmentation import make_seg
from dicom_bridge.unfit import OutputInvalid
from inference.types import Findings
from models.manifest import Manifest
from models.ref import ModelRef


@dataclass(frozen=True, slots=True)
class Segmented:
    """The file, and its data set as read from it. `instead`: the code of why it is BINARY and not a label map."""

    data: bytes
    read: Dataset
    instead: str | None = None


def write_segmentation(
    findings: Findings,
    manifest: Manifest,
    ref: ModelRef,
    sources: Sequence[Dataset],
    context: ResultContext,
    wanted: Segmentation,
) -> Segmented:
    """A label map where one is wanted and no segments overlap, else BINARY; arguments and errors are `make_seg`'s.

    Overlapping segments are whole in a BINARY one; the object itself says that they overlap (Segments Overlap YES).
    """
    instead = None
    if wanted is Segmentation.LABELMAP:
        try:
            return Segmented(*make_label_map(findings, manifest, ref, sources, context))
        except OutputInvalid as refused:
            if refused.code != OVERLAP:
                raise
            instead = refused.code
    return Segmented(*make_seg(findings, manifest, ref, sources, context), instead)
