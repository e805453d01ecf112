"""SR content items as a few short verbs (PS3.3 C.17.3, C.18): a tree of a report reads like its template.

An item is what it says until the whole tree is put into a data set: then it becomes bytes by hand (`explicit`).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray
from pydicom.dataset import Dataset

from dicom_bridge import explicit
from dicom_bridge.composite import frame_number
from dicom_bridge.result_context import Charset
from dicom_bridge.unfit import OutputInvalid
from models.codes import Code

# Relationship types (PS3.3 Table C.17.3-8), as far as TID 1500 needs them here.
CONTAINS = "CONTAINS"
MODIFIER = "HAS CONCEPT MOD"
CONTEXT = "HAS OBS CONTEXT"
PROPERTIES = "HAS PROPERTIES"
INFERRED = "INFERRED FROM"
SELECTED = "SELECTED FROM"

_REFERENCED_SOPS: Final = 0x00081199
_REFERENCED_SEGMENT: Final = 0x0062000B
_MAPPING_RESOURCE: Final = 0x00080105
_TEMPLATE_ID: Final = 0x0040DB00
_UNITS: Final = 0x004008EA
_RELATIONSHIP: Final = 0x0040A010
_VALUE_TYPE: Final = 0x0040A040
_NAME: Final = 0x0040A043
_CONTINUITY: Final = 0x0040A050
_PERSON: Final = 0x0040A123
_UID: Final = 0x0040A124
_TEXT: Final = 0x0040A160
_CONCEPT: Final = 0x0040A168
_MEASURED: Final = 0x0040A300
_NUMERIC: Final = 0x0040A30A
_TEMPLATES: Final = 0x0040A504
_CONTENT: Final = 0x0040A730
_GRAPHIC_DATA: Final = 0x00700022
_GRAPHIC_TYPE: Final = 0x00700023

_CODECS: Final[Mapping[Charset, str]] = {"ISO_IR 192": "utf-8", "GB18030": "gb18030"}
_DS_MAX: Final = 16
"""Characters that a decimal string holds (PS3.5 6.2)."""


@dataclass(frozen=True, slots=True)
class Item:
    """One item of a sequence, in any order: tag, VR and value; a Code stands for a sequence of its one item."""

    elements: tuple[tuple[int, str, str | bytes | Code | Sequence[Item]], ...]


def put(ds: Dataset, items: Sequence[Item], charset: Charset) -> None:
    """Set the Content Sequence of `ds`, whose character set this is. Raises OutputInvalid NOT_ENCODABLE."""
    encoder = _Encoder(_CODECS[charset])
    try:
        explicit.put_sequence(ds, _CONTENT, [encoder.item(item) for item in items])
    except ValueError as cause:
        raise OutputInvalid("NOT_ENCODABLE", f"a content item cannot be written ({type(cause).__name__})") from None


def container(name: Code, children: Sequence[Item], *, tid: str = "") -> Item:
    """A CONTAINER under CONTAINS. SEPARATE: each child is shown as an item of its own, with its name."""
    template = [(_TEMPLATES, "SQ", [_template(tid)])] if tid else []
    return _item("CONTAINER", CONTAINS, name, children, (_CONTINUITY, "CS", "SEPARATE"), *template)


def code(relationship: str, name: Code, value: Code, children: Sequence[Item] = ()) -> Item:
    """A CODE item."""
    return _item("CODE", relationship, name, children, (_CONCEPT, "SQ", value))


def text(relationship: str, name: Code, value: str) -> Item:
    """A TEXT item (UT: any length)."""
    return _item("TEXT", relationship, name, (), (_TEXT, "UT", value))


def person(name: Code, value: str) -> Item:
    """A PNAME item under HAS OBS CONTEXT."""
    return _item("PNAME", CONTEXT, name, (), (_PERSON, "PN", value))


def uid(relationship: str, name: Code, value: str) -> Item:
    """A UIDREF item."""
    return _item("UIDREF", relationship, name, (), (_UID, "UI", value))


def number(name: Code, value: str, unit: Code, children: Sequence[Item] = (), *, relationship: str = CONTAINS) -> Item:
    """A NUM item; `value` is the decimal text, written as it stands."""
    measured = Item(((_UNITS, "SQ", unit), (_NUMERIC, "DS", value)))
    return _item("NUM", relationship, name, children, (_MEASURED, "SQ", [measured]))


def image(
    relationship: str,
    sop_class: str,
    sop_instance: str,
    *,
    name: Code | None = None,
    segment: int | None = None,
    frame: int | None = None,
) -> Item:
    """An IMAGE item; `segment` restricts it to one segment of a SEG, `frame` to one frame of a multi-frame image."""
    reference = explicit.reference_item(sop_class, sop_instance, frame)
    if segment is not None:
        reference += explicit.unsigned(_REFERENCED_SEGMENT, "US", [segment])
    return _item("IMAGE", relationship, name, (), (_REFERENCED_SOPS, "SQ", explicit.items_value([reference])))


def composite(relationship: str, sop_class: str, sop_instance: str) -> Item:
    """A COMPOSITE item: an object that is no image, such as a report."""
    reference = explicit.items_value([explicit.reference_item(sop_class, sop_instance)])
    return _item("COMPOSITE", relationship, None, (), (_REFERENCED_SOPS, "SQ", reference))


def slice_image(relationship: str, source: Dataset) -> Item:
    """An IMAGE item for one slice of the source series: an image, or the frame that its header describes."""
    frame = frame_number(source)
    return image(relationship, str(source.SOPClassUID), str(source.SOPInstanceUID), frame=frame)


def polyline(relationship: str, name: Code, points: NDArray[np.float32], on: Item) -> Item:
    """A SCOORD POLYLINE; `points` (N, 2): column\\row, 0.5 at a pixel's centre (PS3.3 C.18.6)."""
    return _region("POLYLINE", relationship, name, points, on)


def point(relationship: str, name: Code, place: NDArray[np.float32], on: Item) -> Item:
    """A SCOORD POINT; `place` (1, 2) as a point of `polyline`."""
    return _region("POINT", relationship, name, place, on)


def put_template(ds: Dataset, tid: str) -> None:
    """Set the Content Template Sequence of `ds`: the template of PS3.16 of the whole document."""
    explicit.put_sequence(ds, _TEMPLATES, [_Encoder("ascii").item(_template(tid))])


def _template(tid: str) -> Item:
    return Item(((_MAPPING_RESOURCE, "CS", "DCMR"), (_TEMPLATE_ID, "CS", tid)))


def _region(graphic: str, relationship: str, name: Code, points: NDArray[np.float32], on: Item) -> Item:
    data = np.ascontiguousarray(points, dtype="<f4").tobytes()
    return _item("SCOORD", relationship, name, [on], (_GRAPHIC_DATA, "FL", data), (_GRAPHIC_TYPE, "CS", graphic))


def _item(
    value_type: str,
    relationship: str,
    name: Code | None,
    children: Sequence[Item],
    *value: tuple[int, str, str | bytes | Code | Sequence[Item]],
) -> Item:
    named = () if name is None else ((_NAME, "SQ", name),)
    below = ((_CONTENT, "SQ", children),) if children else ()
    return Item(((_RELATIONSHIP, "CS", relationship), (_VALUE_TYPE, "CS", value_type), *named, *value, *below))


class _Encoder:
    """Encodes items, each code once under each name."""

    def __init__(self, codec: str) -> None:
        self._codec = codec
        self._codes: dict[tuple[int, Code], bytes] = {}

    def item(self, item: Item) -> bytes:
        """The elements of an item in ascending order of their tags. Raises ValueError."""
        return b"".join(self._element(*one) for one in sorted(item.elements, key=lambda one: one[0]))

    def _element(self, tag: int, vr: str, value: str | bytes | Code | Sequence[Item]) -> bytes:
        if isinstance(value, str):
            if vr == "DS" and len(value) > _DS_MAX:
                raise ValueError("a decimal string is too long")
            return explicit.text(tag, vr, value, self._codec if vr in ("UT", "PN") else "ascii")
        if isinstance(value, bytes):
            return explicit.element(tag, vr, value)
        if isinstance(value, Code):
            key = (tag, value)
            if key not in self._codes:
                self._codes[key] = explicit.sequence(tag, [explicit.code_item(value, self._codec)])
            return self._codes[key]
        return explicit.sequence(tag, [self.item(one) for one in value])
