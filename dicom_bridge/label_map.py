"""Findings -> Label Map Segmentation (Supplement 243) on the source's own grid: each pixel is its segment's number.

For peers whose configuration asks for it. One frame for each slice on which something is drawn; 0 is what no segment
has, described as Background and told by Pixel Padding Value, as every pixel value has to have its item. A label map has
one number a pixel: segments that overlap cannot be one, and are refused, never cut.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Final

import numpy as np
from pydicom.dataset import Dataset

from dicom_bridge.composite import part10
from dicom_bridge.frame_groups import put_frames
from dicom_bridge.label_map_validity import check_label_map
from dicom_bridge.result_context import Algorithm, ResultContext
from dicom_bridge.segment_pixels import BACKGROUND, LABEL_MAP_STORAGE
from dicom_bridge.segmentation import (
    DrawnSegment,
    drawn_item,
    drawn_segments,
    grid_shape,
    header,
    image_modules,
    overlap,
    segment_item,
)
from dicom_bridge.unfit import OutputInvalid
from inference.types import Findings
from models.codes import Code
from models.manifest import Manifest, SegmentSpec
from models.ref import ModelRef

OVERLAP: Final = "SEGMENTS_OVERLAP"
"""Code of findings that cannot be a label map: a voxel is of two segments."""
_PIXEL_PADDING: Final = 0x00280120
_RELATIONAL = Code("309825002", "SCT", "Spatial and Relational Concept")  # of CID 7150; where DCMTK puts it, too
_BACKGROUND: Final = SegmentSpec(
    number=0,
    label="Background",
    category=_RELATIONAL,
    type=Code(BACKGROUND[1], BACKGROUND[0], "Background"),
    colour_lab=(0, 32896, 32896),
    border="allow",
)
"""What is no segment, which the algorithm decided as well."""


def make_label_map(
    findings: Findings,
    manifest: Manifest,
    ref: ModelRef,
    sources: Sequence[Dataset],
    context: ResultContext,
) -> tuple[bytes, Dataset]:
    """The label map of one call as a Part 10 file, and what its own validity check has read in it, for the report.

    Arguments and errors are those of `segmentation.make_seg`, and so is its UID: a call has one or the other. Besides,
    raises OutputInvalid SEGMENTS_OVERLAP.
    """
    shape = grid_shape(sources)
    segments = drawn_segments(findings, manifest, shape)
    if not segments:
        raise OutputInvalid("SEGMENTATION_EMPTY", "no segment has a pixel; a report alone is the result")
    if overlap(segments):
        raise OutputInvalid(OVERLAP, "a voxel is of two segments, and a label map has one number for it")
    algorithm = Algorithm.of(manifest, ref)
    planes = sorted({k for segment in segments for k in segment.planes})
    ds = header(sources, context, algorithm)
    image_modules(ds, sources, shape, "LABELMAP", bits=8)
    ds.SegmentsOverlap = "NO"
    ds.add_new(_PIXEL_PADDING, "US", 0)
    # The background is the last item: OHIF 3.12 and 3.13 take the place of an item for its number (hazards.md, V5).
    # Nothing to track is in it.
    background = segment_item(_BACKGROUND.number, _BACKGROUND, algorithm, None)
    ds.SegmentSequence = [*(drawn_item(s, algorithm, context) for s in segments), background]
    put_frames(ds, sources, [(None, planes)], context.uid("SEG-DIMENSIONS"))
    data = part10(ds, LABEL_MAP_STORAGE, context.uid("SEG"), _labelled(segments, planes, shape))
    return data, check_label_map(data, sources)


def _labelled(
    segments: Sequence[DrawnSegment], planes: Sequence[int], shape: tuple[int, int, int]
) -> Iterator[memoryview]:
    """One page of numbers for each plane; each holds until the next one is asked for."""
    page = np.empty(shape[1:], dtype=np.uint8)
    for k in planes:
        page[:] = 0
        for segment in segments:
            at = k - segment.found.origin[0]
            if 0 <= at < len(segment.found.part):
                page[segment.found.box[1:]][segment.found.part[at]] = segment.number
        yield page.data
