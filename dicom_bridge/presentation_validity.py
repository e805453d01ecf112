"""The last check before a presentation state may be sent, on the bytes that will be sent; see `validity`."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import Final

from pydicom.dataset import Dataset

from dicom_bridge.key_kinds import CLASSES, KeyImage
from dicom_bridge.unfit import require
from dicom_bridge.validity import TEXT_MARKS, read_common, readable

_DECLARED: Final = (("Modality", "PR"), ("ContentLabel", "AI_OVERLAY"))
_TEXT_MAX: Final = 1024
"""Characters of ST (PS3.5 Table 6.2-1)."""
_Frame = tuple[str, str]


def check_presentation(data: bytes, sources: Sequence[Dataset]) -> Dataset:
    """Read its bytes and refuse what must not be sent; gives the data set read. Raises OutputInvalid."""
    with readable():
        ds = read_common(data, CLASSES[KeyImage.GSPS], sources)
        for keyword, value in _DECLARED:
            require(ds.get(keyword) == value, "KEY_IMAGE_UNDECLARED", keyword)
        require(bool(ds.get("BodyPartExamined")), "KEY_IMAGE_UNDECLARED", "BodyPartExamined")
        require(ds.PresentationLUTShape in ("IDENTITY", "INVERSE"), "KEY_IMAGE_UNDECLARED", "PresentationLUTShape")
        shown = _check_references(ds, sources)
        _check_area(ds, sources[0])
        _check_greys(ds, {frame: source for source in sources if (frame := _frame_of(source)) in shown})
        _check_drawing(ds, shown, sources[0])
        return ds


def _frame_of(source: Dataset) -> _Frame:
    return str(source.SOPInstanceUID), str(source.get("ReferencedFrameNumber", ""))


def _frames(items: Sequence[Dataset]) -> list[_Frame]:
    """The images, or the very frames, that a Referenced Image Sequence names."""
    found = []
    for item in items:
        numbers = item.get("ReferencedFrameNumber")
        several = numbers if isinstance(numbers, Sequence) and not isinstance(numbers, str) else [numbers]
        found += [(str(item.ReferencedSOPInstanceUID), "" if one is None else str(one)) for one in several]
    return found


def _check_references(ds: Dataset, sources: Sequence[Dataset]) -> set[_Frame]:
    """It is of one series, the source's, and names slices of it, each once; nothing is drawn on another."""
    (series,) = ds.ReferencedSeriesSequence
    require(series.SeriesInstanceUID == sources[0].SeriesInstanceUID, "SERIES_REFERENCE_MISSING", "another series")
    named = _frames(series.ReferencedImageSequence)
    known = {_frame_of(source) for source in sources}
    require(0 < len(named) == len(set(named)) and set(named) <= known, "FRAME_REFERENCE_WRONG", "a slice of the series")
    for sequence in (ds.GraphicAnnotationSequence, ds.SoftcopyVOILUTSequence):
        there = [frame for item in sequence for frame in _frames(item.ReferencedImageSequence)]
        require(set(there) == set(named), "FRAME_REFERENCE_WRONG", "what is drawn on, and what is named")
    return set(named)


def _check_area(ds: Dataset, source: Dataset) -> None:
    """The whole image is shown, in its own proportions."""
    (area,) = ds.DisplayedAreaSelectionSequence
    corners = (list(area.DisplayedAreaTopLeftHandCorner), list(area.DisplayedAreaBottomRightHandCorner))
    require(corners == ([1, 1], [source.Columns, source.Rows]), "GRID_MISMATCH", "the displayed area")
    spacing = area.get("PresentationPixelSpacing")
    require(spacing == source.get("PixelSpacing"), "GRID_MISMATCH", "the size of a pixel")


def _check_greys(ds: Dataset, shown: dict[_Frame, Dataset]) -> None:
    """The one Modality LUT is that of every slice, or there is none."""
    if "RescaleSlope" in ds:
        for source in shown.values():
            for keyword, without in (("RescaleSlope", 1.0), ("RescaleIntercept", 0.0)):
                own = float(source.get(keyword) or without)
                # A sender's number may be longer than DS is, which holds 16 characters.
                same = math.isclose(float(ds.get(keyword)), own, rel_tol=1e-9)
                require(same, "RESCALE_DIFFERS", "a slice is rescaled otherwise")
    else:
        modalities = {str(one.get("Modality")) for one in shown.values()}
        require("CT" not in modalities, "RESCALE_DIFFERS", "Hounsfield units would be lost")
    require(all(float(one.WindowWidth) > 0 for one in ds.SoftcopyVOILUTSequence), "RESCALE_DIFFERS", "an empty window")


def _check_drawing(ds: Dataset, shown: set[_Frame], source: Dataset) -> None:
    layers = [str(layer.GraphicLayer) for layer in ds.GraphicLayerSequence]
    require(len(layers) == len(set(layers)), "KEY_IMAGE_UNDECLARED", "two layers of one name")
    require(
        all("GraphicLayerRecommendedDisplayCIELabValue" in layer for layer in ds.GraphicLayerSequence),
        "KEY_IMAGE_UNDECLARED",
        "a layer without a colour",
    )
    marked: set[_Frame] = set()
    drawn: set[_Frame] = set()
    for item in ds.GraphicAnnotationSequence:
        require(str(item.GraphicLayer) in layers, "KEY_IMAGE_UNDECLARED", "a layer that is not there")
        frames = set(_frames(item.ReferencedImageSequence))
        texts = [str(text.UnformattedTextValue) for text in item.get("TextObjectSequence") or []]
        require(bool(texts) and all(0 < len(t) <= _TEXT_MAX for t in texts), "KEY_IMAGE_UNDECLARED", "a text")
        if any(mark in text for text in texts for mark in TEXT_MARKS):
            marked |= frames
        if item.get("GraphicObjectSequence"):
            drawn |= frames
        for box in item.TextObjectSequence:
            corners = [*box.BoundingBoxTopLeftHandCorner, *box.BoundingBoxBottomRightHandCorner]
            inside = all(0 <= corner <= 1 for corner in corners)
            require(box.BoundingBoxAnnotationUnits == "DISPLAY" and inside, "KEY_IMAGE_UNDECLARED", "a text's box")
        for figure in item.get("GraphicObjectSequence") or []:
            _check_figure(figure, source)
    require(marked == shown, "MARKING_MISSING", "a slice is shown without the marking")
    require(drawn == shown, "KEY_IMAGE_PIXELS", "nothing is drawn on a slice that is named")


def _check_figure(figure: Dataset, source: Dataset) -> None:
    points = list(_pairs(figure.GraphicData))
    require(figure.GraphicAnnotationUnits == "PIXEL", "GRID_MISMATCH", "a figure that is not in pixels")
    require(len(points) == figure.NumberOfGraphicPoints, "GRID_MISMATCH", "a figure's number of points")
    inside = all(0 <= column <= source.Columns and 0 <= row <= source.Rows for column, row in points)
    require(inside, "GRID_MISMATCH", "a figure beyond the image")
    closed = len(points) == 1 if figure.GraphicType == "POINT" else len(points) > 3 and points[0] == points[-1]
    require(figure.GraphicType in ("POINT", "POLYLINE") and closed, "GRID_MISMATCH", "a figure that is not closed")


def _pairs(values: Sequence[float]) -> Iterator[tuple[float, float]]:
    yield from zip(values[::2], values[1::2], strict=True)
