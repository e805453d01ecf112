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

from dicom_bridge import explicit
from dicom_bridge.composite import code_item, part10, referenced_series
from dicom_bridge.label_map_validity import check_label_map
from dicom_bridge.result_context import Algorithm, ResultContext
from dicom_bridge.segment_pixels import BACKGROUND, LABEL_MAP_STORAGE
from dicom_bridge.segmentation import (
    DrawnSegment,
    derived_from,
    dimensions,
    drawn_segments,
    grid_shape,
    header,
    image_modules,
    name_algorithm,
    overlap,
    segment_item,
    shared_groups,
)
from dicom_bridge.unfit import OutputInvalid
from inference.types import Findings
from models.codes import Code
from models.manifest import Manifest
from models.ref import ModelRef

OVERLAP: Final = "SEGMENTS_OVERLAP"
"""Code of findings that cannot be a label map: a voxel is of two segments."""
_PIXEL_PADDING: Final = 0x00280120
_PER_FRAME_GROUPS: Final = 0x52009230
_FRAME_CONTENT: Final = 0x00209111
_DIMENSION_INDEX_VALUES: Final = 0x00209157
_PLANE_POSITION: Final = 0x00209113
_IMAGE_POSITION: Final = 0x00200032
_REFERENCED_SERIES: Final = 0x00081115
_REFERENCED_INSTANCES: Final = 0x0008114A
_RELATIONAL = Code("309825002", "SCT", "Spatial and Relational Concept")  # of CID 7150; where DCMTK puts it, too
_BLACK: Final = (0, 32896, 32896)


def write_label_map(
    findings: Findings,
    manifest: Manifest,
    ref: ModelRef,
    sources: Sequence[Dataset],
    context: ResultContext,
) -> bytes:
    """The label map of one call as a Part 10 file, already through its own validity check.

    Arguments and errors are those of `segmentation.write_seg`, and so is its UID: a call has one or the other. Besides,
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
    ds.NumberOfFrames = len(planes)
    pixels = b"".join(_labelled(segments, planes, shape))
    ds.PixelData = pixels if len(pixels) % 2 == 0 else pixels + b"\x00"
    ds["PixelData"].VR = "OB"
    # The background is the last item: OHIF 3.12 and 3.13 take the place of an item for its number (hazards.md, V5).
    ds.SegmentSequence = [*(segment_item(s, algorithm, context) for s in segments), _background(algorithm)]
    dimensions(ds, context.uid("SEG-DIMENSIONS"), by_segment=False)
    ds.SharedFunctionalGroupsSequence = [shared_groups(sources)]
    explicit.put_sequence(ds, _PER_FRAME_GROUPS, _frame_groups(sources, planes))
    explicit.put_sequence(ds, _REFERENCED_SERIES, [referenced_series(sources, _REFERENCED_INSTANCES)])
    data = part10(ds, LABEL_MAP_STORAGE, context.uid("SEG"))
    check_label_map(data, sources)
    return data


def _labelled(segments: Sequence[DrawnSegment], planes: Sequence[int], shape: tuple[int, int, int]) -> Iterator[bytes]:
    """One page of numbers for each plane."""
    for k in planes:
        page = np.zeros(shape[1:], dtype=np.uint8)
        for segment in segments:
            at = k - segment.found.origin[0]
            if 0 <= at < len(segment.found.part):
                page[segment.found.box[1:]][segment.found.part[at]] = segment.number
        yield page.tobytes()


def _background(algorithm: Algorithm) -> Dataset:
    """What is no segment: the algorithm decided that too. Nothing to track."""
    item = Dataset()
    item.SegmentNumber = 0
    item.SegmentLabel = "Background"
    item.SegmentedPropertyCategoryCodeSequence = [code_item(_RELATIONAL)]
    scheme, value = BACKGROUND
    item.SegmentedPropertyTypeCodeSequence = [code_item(Code(value, scheme, "Background"))]
    name_algorithm(item, algorithm)
    item.RecommendedDisplayCIELabValue = list(_BLACK)
    return item


def _frame_groups(sources: Sequence[Dataset], planes: Sequence[int]) -> Iterator[bytes]:
    """One item per frame; which segments it is of, its pixels say (no Segment Identification)."""
    for rank, k in enumerate(planes, start=1):
        position = "\\".join(str(v) for v in sources[k].ImagePositionPatient)
        yield (
            derived_from(sources[k])
            + explicit.sequence(_FRAME_CONTENT, [explicit.unsigned(_DIMENSION_INDEX_VALUES, "UL", [rank])])
            + explicit.sequence(_PLANE_POSITION, [explicit.text(_IMAGE_POSITION, "DS", position)])
        )
