"""SR content items as a few short verbs (PS3.3 C.17.3, C.18): a tree of a report reads like its template."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from pydicom.dataset import Dataset

from dicom_bridge.composite import code_item, frame_number, reference_item
from models.codes import Code

# Relationship types (PS3.3 Table C.17.3-8), as far as TID 1500 needs them here.
CONTAINS = "CONTAINS"
MODIFIER = "HAS CONCEPT MOD"
CONTEXT = "HAS OBS CONTEXT"
PROPERTIES = "HAS PROPERTIES"
INFERRED = "INFERRED FROM"
SELECTED = "SELECTED FROM"


def container(name: Code, children: Sequence[Dataset], *, tid: str = "") -> Dataset:
    """A CONTAINER under CONTAINS. SEPARATE: each child is shown as an item of its own, with its name."""
    item = _item("CONTAINER", CONTAINS, name)
    item.ContinuityOfContent = "SEPARATE"
    if tid:
        item.ContentTemplateSequence = [template(tid)]
    item.ContentSequence = list(children)
    return item


def code(relationship: str, name: Code, value: Code, children: Sequence[Dataset] = ()) -> Dataset:
    """A CODE item."""
    item = _item("CODE", relationship, name, children)
    item.ConceptCodeSequence = [code_item(value)]
    return item


def text(relationship: str, name: Code, value: str) -> Dataset:
    """A TEXT item (UT: any length)."""
    item = _item("TEXT", relationship, name)
    item.TextValue = value
    return item


def person(name: Code, value: str) -> Dataset:
    """A PNAME item under HAS OBS CONTEXT."""
    item = _item("PNAME", CONTEXT, name)
    item.PersonName = value
    return item


def uid(relationship: str, name: Code, value: str) -> Dataset:
    """A UIDREF item."""
    item = _item("UIDREF", relationship, name)
    item.UID = value
    return item


def number(
    name: Code, value: str, unit: Code, children: Sequence[Dataset] = (), *, relationship: str = CONTAINS
) -> Dataset:
    """A NUM item; `value` is the decimal text, written as it stands."""
    measured = Dataset()
    measured.NumericValue = value
    measured.MeasurementUnitsCodeSequence = [code_item(unit)]
    item = _item("NUM", relationship, name, children)
    item.MeasuredValueSequence = [measured]
    return item


def image(
    relationship: str,
    sop_class: str,
    sop_instance: str,
    *,
    name: Code | None = None,
    segment: int | None = None,
    frame: int | None = None,
) -> Dataset:
    """An IMAGE item; `segment` restricts it to one segment of a SEG, `frame` to one frame of a multi-frame image."""
    item = _item("IMAGE", relationship, name)
    reference = reference_item(sop_class, sop_instance)
    if frame is not None:
        reference.ReferencedFrameNumber = frame
    if segment is not None:
        reference.ReferencedSegmentNumber = segment
    item.ReferencedSOPSequence = [reference]
    return item


def composite(relationship: str, sop_class: str, sop_instance: str) -> Dataset:
    """A COMPOSITE item: an object that is no image, such as a report."""
    item = _item("COMPOSITE", relationship, None)
    item.ReferencedSOPSequence = [reference_item(sop_class, sop_instance)]
    return item


def slice_image(relationship: str, source: Dataset) -> Dataset:
    """An IMAGE item for one slice of the source series: an image, or the frame that its header describes."""
    frame = frame_number(source)
    return image(relationship, str(source.SOPClassUID), str(source.SOPInstanceUID), frame=frame)


def polyline(relationship: str, name: Code, points: NDArray[np.float32], on: Dataset) -> Dataset:
    """A SCOORD POLYLINE; `points` (N, 2): column\\row, 0.5 at a pixel's centre (PS3.3 C.18.6)."""
    return _region("POLYLINE", relationship, name, points, on)


def point(relationship: str, name: Code, place: NDArray[np.float32], on: Dataset) -> Dataset:
    """A SCOORD POINT; `place` (1, 2) as a point of `polyline`."""
    return _region("POINT", relationship, name, place, on)


def _region(graphic: str, relationship: str, name: Code, points: NDArray[np.float32], on: Dataset) -> Dataset:
    item = _item("SCOORD", relationship, name, [on])
    item.GraphicType = graphic
    item.GraphicData = [float(v) for v in points.ravel()]
    return item


def template(tid: str) -> Dataset:
    """One item of a Content Template Sequence: a template of PS3.16."""
    item = Dataset()
    item.MappingResource = "DCMR"
    item.TemplateIdentifier = tid
    return item


def _item(value_type: str, relationship: str, name: Code | None, children: Sequence[Dataset] = ()) -> Dataset:
    item = Dataset()
    item.RelationshipType = relationship
    item.ValueType = value_type
    if name is not None:
        item.ConceptNameCodeSequence = [code_item(name)]
    if children:
        item.ContentSequence = list(children)
    return item
