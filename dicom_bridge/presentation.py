"""Findings -> one Grayscale Softcopy Presentation State (PS3.3 A.33.1): outlines and words laid over the slices.

For viewers that show neither SEG nor SR, but apply presentation states. No pixel is copied: it names the slices, says
how they are shown (the source's own rescale and window) and what is drawn over them. Each mark is drawn on one slice,
in a layer of its colour, with its numbers beside it; the marking lies over every slice that is named.

It is text, so that it is in the site's language, as far as the manifest's own words are. What a presentation state does
not say of the greys does not happen (PS3.4 N.2): without the rescale a viewer would measure other Hounsfield units.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Final

import numpy as np
from numpy.typing import NDArray
from pydicom.dataset import Dataset
from pydicom.valuerep import DSfloat

from dicom_bridge.composite import common_modules, frame_number, part10, reference_item, source_head
from dicom_bridge.key_kinds import CLASSES, KeyImage
from dicom_bridge.key_picture import grey_range
from dicom_bridge.marks import MARKING_LAB, Mark, marks_of
from dicom_bridge.presentation_validity import check_presentation
from dicom_bridge.result_context import (
    DECIDE_AT,
    GSPS_SERIES_NUMBER,
    MARKING,
    SERIES_MARKING,
    Algorithm,
    ResultContext,
    series_description,
)
from dicom_bridge.segmentation import grid_shape
from dicom_bridge.validity import OutputInvalid
from inference.types import Findings
from models.manifest import Manifest
from models.ref import ModelRef

LABEL: Final = "AI_OVERLAY"
RESCALE_MIXED: Final = "RESCALE_MIXED"
"""Code of slices that no one presentation state can show: it would turn the greys of some of them around."""
MARKING_LAYER: Final = "MARKING"
LEFT, RIGHT = 0.15, 0.85
"""Of the display's width: viewers write into the corners."""
LINE: Final = 0.04
"""Of the display's height."""
_WHITE: Final = 65535
_WINDOW_MIN: Final = 1.0  # PS3.3 C.11.2.1.2: of a LINEAR window; a narrower one is LINEAR_EXACT


def write_presentation(
    findings: Findings,
    manifest: Manifest,
    ref: ModelRef,
    sources: Sequence[Dataset],
    voxels: NDArray[np.float32],
    context: ResultContext,
) -> bytes | None:
    """The presentation state of one call as a Part 10 file, already through our own check; None: nothing is marked.

    `sources`, `voxels` as for `write_key_images`. Raises OutputInvalid, CharsetRefused; RESCALE_MIXED where slices
    are rescaled differently, and one of them upside down.
    """
    if voxels.shape != grid_shape(sources):
        raise OutputInvalid("GRID_MISMATCH", "the voxels are not those of the source's slices")
    marks = marks_of(findings, manifest, sources)
    if not marks:
        return None
    algorithm = Algorithm.of(manifest, ref)
    head = source_head(sources)
    shown = sorted({mark.slice_index for mark in marks})
    ds = common_modules(head, context, algorithm)
    ds.Modality = "PR"
    ds.SeriesInstanceUID = context.uid("GSPS-SERIES")
    ds.SeriesNumber = GSPS_SERIES_NUMBER
    ds.SeriesDescription = series_description(context, algorithm.name, KeyImage.GSPS)
    # Never empty, or a laterality would be wanted (PS3.3 C.7.3.1.1.2).
    ds.BodyPartExamined = str(head.get("BodyPartExamined", "") or "") or manifest.input.body_part[0]
    ds.ContentLabel = LABEL
    ds.ContentDescription = ds.SeriesDescription
    ds.PresentationCreationDate, ds.PresentationCreationTime = ds.ContentDate, ds.ContentTime
    del ds.ContentDate, ds.ContentTime
    ds.ContentCreatorName = ""
    series = Dataset()
    series.SeriesInstanceUID = head.SeriesInstanceUID
    series.ReferencedImageSequence = references(sources, shown)
    ds.ReferencedSeriesSequence = [series]
    ds.DisplayedAreaSelectionSequence = [_displayed_area(sources[0])]
    _greys(ds, sources, shown, voxels)
    ds.GraphicAnnotationSequence = [_banner(sources, shown, context), *_annotations(marks, sources)]
    ds.GraphicLayerSequence = _layers(marks, context)
    data = part10(ds, CLASSES[KeyImage.GSPS], context.uid(KeyImage.GSPS))
    check_presentation(data, sources)
    return data


def references(sources: Sequence[Dataset], shown: Sequence[int]) -> list[Dataset]:
    """One item for each instance, with the numbers of its frames where it has several (PS3.3 Table 10-3)."""
    items: dict[str, Dataset] = {}
    frames: dict[str, list[int]] = {}
    for k in shown:
        uid = str(sources[k].SOPInstanceUID)
        items.setdefault(uid, reference_item(str(sources[k].SOPClassUID), uid))
        if (number := frame_number(sources[k])) is not None:
            frames.setdefault(uid, []).append(number)
    for uid, numbers in frames.items():
        items[uid].ReferencedFrameNumber = numbers
    return list(items.values())


def _displayed_area(source: Dataset) -> Dataset:
    """The whole image, as large as the screen has room (PS3.3 C.10.4)."""
    area = Dataset()
    area.DisplayedAreaTopLeftHandCorner = [1, 1]
    area.DisplayedAreaBottomRightHandCorner = [int(source.Columns), int(source.Rows)]
    area.PresentationSizeMode = "SCALE TO FIT"
    if source.get("PixelSpacing"):
        area.PresentationPixelSpacing = list(source.PixelSpacing)
    else:
        area.PresentationPixelAspectRatio = [1, 1]
    return area


# ---- greys -----------------------------------------------------------------------------------------------------------


def _greys(ds: Dataset, sources: Sequence[Dataset], shown: Sequence[int], voxels: NDArray[np.float32]) -> None:
    """Modality LUT, Softcopy VOI LUT and Softcopy Presentation LUT (PS3.3 C.11.1, C.11.8, C.11.6)."""
    lines = {k: rescaled(sources[k]) for k in shown}
    same = len(set(lines.values())) == 1
    if same:
        slope, intercept = lines[shown[0]]
        ds.RescaleIntercept, ds.RescaleSlope = DSfloat(intercept, auto_format=True), DSfloat(slope, auto_format=True)
        ds.RescaleType = _unit(sources[0])
    elif any(slope <= 0 for slope, _ in lines.values()):
        raise OutputInvalid(RESCALE_MIXED, "slices are rescaled differently, and not all the right way up")
    ds.SoftcopyVOILUTSequence = []
    for k in shown:
        low, high = window(sources, k, voxels[k])
        if not same:  # there is one Modality LUT for all: without one, windows are of stored values
            slope, intercept = lines[k]
            low, high = (low - intercept) / slope, (high - intercept) / slope
        item = Dataset()
        item.ReferencedImageSequence = references(sources, [k])
        item.WindowCenter = DSfloat((low + high) / 2, auto_format=True)
        item.WindowWidth = DSfloat(high - low, auto_format=True)
        if high - low < _WINDOW_MIN:
            item.VOILUTFunction = "LINEAR_EXACT"
        ds.SoftcopyVOILUTSequence.append(item)
    # The image's own photometric interpretation does not count once a presentation state is applied.
    ds.PresentationLUTShape = "INVERSE" if sources[0].get("PhotometricInterpretation") == "MONOCHROME1" else "IDENTITY"


def rescaled(source: Dataset) -> tuple[float, float]:
    """(slope, intercept) from stored values to the modality's unit."""
    slope, intercept = (_number(source.get(keyword)) for keyword in ("RescaleSlope", "RescaleIntercept"))
    return 1.0 if slope is None else slope, 0.0 if intercept is None else intercept


def window(sources: Sequence[Dataset], k: int, plane: NDArray[np.float32]) -> tuple[float, float]:
    """Lowest and highest value of slice k, in the modality's unit: its own first window, or from its voxels (R, C)."""
    centre, width = (_number(sources[k].get(keyword)) for keyword in ("WindowCenter", "WindowWidth"))
    linear = sources[0].get("VOILUTFunction", "LINEAR") == "LINEAR"
    if linear and centre is not None and width is not None and width >= _WINDOW_MIN:
        return centre - width / 2, centre + width / 2
    low, high = grey_range(plane)
    return low, max(high, low + 1e-6)


def _number(value: object) -> float | None:
    """The first of one or several; None where there is none that is finite."""
    several = isinstance(value, Sequence) and not isinstance(value, str)
    first = value[0] if several and value else value  # type: ignore[index]
    try:
        number = float(str(first))
    except ValueError:
        return None
    return number if math.isfinite(number) else None


def _unit(source: Dataset) -> str:
    """Rescale Type (PS3.3 C.11.1.1.2): as the source says, else Hounsfield units of a CT, and of others unspecified."""
    return str(source.get("RescaleType") or ("HU" if source.get("Modality") == "CT" else "US"))


# ---- what is drawn ---------------------------------------------------------------------------------------------------


def _banner(sources: Sequence[Dataset], shown: Sequence[int], context: ResultContext) -> Dataset:
    """The marking at the top of every slice, and below all the address at which a reader decides."""
    item = Dataset()
    item.ReferencedImageSequence = references(sources, shown)
    item.GraphicLayer = MARKING_LAYER
    item.TextObjectSequence = [_text(MARKING[context.site_language], 0.0)]
    if context.decide_at is not None:
        named = f"{DECIDE_AT[context.site_language]}: {context.decide_at}"
        item.TextObjectSequence.append(_text(named, 1.0 - LINE))
    return item


def _annotations(marks: Sequence[Mark], sources: Sequence[Dataset]) -> list[Dataset]:
    """Each mark on its slice, with its lines below those of the marks before it."""
    lines: dict[int, int] = {}
    for mark in marks:
        lines[mark.slice_index] = lines.get(mark.slice_index, 0) + len(mark.lines)
    items, written = [], dict.fromkeys(lines, 0)
    for mark in marks:
        k = mark.slice_index
        # One line is kept for the marking and one for the address; where there are many, they come closer.
        step = min(LINE, (1.0 - 2 * LINE) / lines[k])
        item = Dataset()
        item.ReferencedImageSequence = references(sources, [k])
        item.GraphicLayer = mark.group
        item.TextObjectSequence = [
            _text(line, LINE + step * (written[k] + n), step) for n, line in enumerate(mark.lines)
        ]
        item.GraphicObjectSequence = [_figure(points) for points in mark.figures]
        written[k] += len(mark.lines)
        items.append(item)
    return items


def _text(line: str, top: float, height: float = LINE) -> Dataset:
    """A line in a box of the display, whose corners are 0\\0 and 1\\1 (PS3.3 C.10.5)."""
    item = Dataset()
    item.BoundingBoxAnnotationUnits = "DISPLAY"
    item.UnformattedTextValue = line
    item.BoundingBoxTopLeftHandCorner = [LEFT, top]
    item.BoundingBoxBottomRightHandCorner = [RIGHT, min(1.0, top + height)]
    item.BoundingBoxTextHorizontalJustification = "CENTER"
    return item


def _figure(points: NDArray[np.float32]) -> Dataset:
    """A polyline, or a point, in pixels of the image: 0\\0 is the upper left corner of its first one."""
    item = Dataset()
    item.GraphicAnnotationUnits = "PIXEL"
    item.GraphicDimensions = 2
    item.NumberOfGraphicPoints = len(points)
    item.GraphicData = [float(v) for v in points.ravel()]
    item.GraphicType = "POINT" if len(points) == 1 else "POLYLINE"
    if len(points) > 1:
        item.GraphicFilled = "N"
    return item


def _layers(marks: Sequence[Mark], context: ResultContext) -> list[Dataset]:
    """The marking's above all others."""
    named: Mapping[str, tuple[str, tuple[int, int, int]]] = {
        **{mark.group: (mark.name, mark.colour_lab) for mark in marks},
        MARKING_LAYER: (SERIES_MARKING[context.site_language], MARKING_LAB),
    }
    layers = []
    for order, (name, (words, colour)) in enumerate(named.items(), start=1):
        layer = Dataset()
        layer.GraphicLayer = name
        layer.GraphicLayerOrder = order
        layer.GraphicLayerRecommendedDisplayGrayscaleValue = _WHITE
        layer.GraphicLayerRecommendedDisplayCIELabValue = list(colour)
        layer.GraphicLayerDescription = words
        layers.append(layer)
    return layers
