"""What the tree of a report must hold to be sent: its outcome, its statements and its measurement groups.

A part of the last check (`validity.py`): like it, this reads the bytes that will be sent, with no writer code.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Final

from pydicom.dataset import Dataset

from dicom_bridge.items import Item
from dicom_bridge.segment_pixels import described
from dicom_bridge.unfit import require

CONTENT: Final = 0x0040A730
VALUE_TYPE: Final = 0x0040A040
CONTINUITY: Final = 0x0040A050
TEXT: Final = 0x0040A160
UID: Final = 0x0040A124
REFERENCED: Final = 0x00081199
SOP_INSTANCE: Final = 0x00081155
FRAME_NUMBER: Final = 0x00081160
_SEGMENT_NUMBER: Final = 0x0062000B
_NAME: Final = 0x0040A043
_CONCEPT: Final = 0x0040A168
_CODE_VALUE: Final = 0x00080100
_TEMPLATES: Final = 0x0040A504
_TEMPLATE_ID: Final = 0x0040DB00
_NONE_SUCCEEDED: Final = "111245"
# CID 6047 by completion flag, and whether it says "with findings".
_SUMMARIES: Final = {
    "COMPLETE": {"111241": False, "111242": True},
    "PARTIAL": {"111243": False, "111244": True, _NONE_SUCCEEDED: False},
}
_PRESENT: Final = "52101004"
_PRESENCES: Final = frozenset({_PRESENT, "272519000", "373068000"})  # CID 240


def walk(items: Sequence[Item]) -> Iterator[Item]:
    """Every one of these content items, and all below them."""
    for item in items:
        yield item
        yield from walk(item.get(CONTENT, ()))


def named(item: Item, code: str) -> bool:
    """Whether its concept name has this code value."""
    names = item.get(_NAME, ())
    return bool(names) and names[0][_CODE_VALUE] == code


def coded(item: Item) -> str:
    """The code value that a CODE item states."""
    return str(item[_CONCEPT][0][_CODE_VALUE])


def value_of(items: Sequence[Item], code: str) -> str:
    """Text or UID of the one child with this concept name; empty when there is not exactly one."""
    found = [str(i.get(TEXT) or i.get(UID) or "") for i in items if named(i, code)]
    return found[0] if len(found) == 1 else ""


def check_outcome(ds: Dataset, items: Sequence[Item], groups: Sequence[Item]) -> None:
    """Completion flag, summary and statements tell one story. What did not run says nothing of the patient."""
    summary = [coded(i) for i in items if named(i, "111017")]
    require(bool(summary), "SUMMARY_MISSING", "no processing summary")
    allowed = _SUMMARIES.get(str(ds.get("CompletionFlag")), {})
    require(len(summary) == 1 and summary[0] in allowed, "FLAGS_WRONG", "the summary is not the completion flag's")
    statements = _statements(items)
    found = bool(groups) or _PRESENT in statements.values()
    require(found == allowed[summary[0]], "FLAGS_WRONG", "the summary is not what the report finds")
    if summary == [_NONE_SUCCEEDED]:
        require(not statements, "FLAGS_WRONG", "a statement on what did not run")
    elif ds.CompletionFlag == "PARTIAL":
        require(bool(ds.get("CompletionFlagDescription")), "FLAGS_WRONG", "partial without a reason")


def _statements(items: Sequence[Item]) -> dict[tuple[str, ...], str]:
    """Presence by its target: the concept, and the site where one is given. Each target is spoken of once."""
    stated: dict[tuple[str, ...], str] = {}
    for container in (i for i in items if named(i, "C0034375")):
        for item in container[CONTENT]:
            if item[VALUE_TYPE] != "CODE" or named(item, "111017"):
                continue
            require(coded(item) in _PRESENCES, "STATEMENT_UNKNOWN", "a statement that is not of CID 240")
            sites = [coded(i) for i in item.get(CONTENT, ()) if named(i, "363698007")]
            target = (str(item[_NAME][0][_CODE_VALUE]), *sites)
            require(target not in stated, "STATEMENT_CONTRADICTS", "one target is spoken of twice")
            stated[target] = coded(item)
    return stated


def check_groups(groups: Sequence[Item], seg: Dataset | None) -> None:
    """Each group as its template asks, all of one template, and one for each segment where there is a SEG."""
    for group in groups:
        _check_group(group, seg)
    require(len({_template(group) for group in groups}) <= 1, "KINDS_MIXED", "groups of two templates")
    if seg is not None:
        require(bool(groups), "SEGMENT_REFERENCE_WRONG", "a SEG exists that the report does not show")
        _check_tracking(groups, seg)


def _template(group: Item) -> str:
    (template,) = group[_TEMPLATES]
    return str(template[_TEMPLATE_ID])


def _check_group(group: Item, seg: Dataset | None) -> None:
    """Tracking, and numbers that reach the key slice (some viewers fail otherwise); then what its template asks."""
    content = group[CONTENT]
    require(bool(value_of(content, "112039") and value_of(content, "112040")), "TRACKING_MISSING", "in SR")
    numbers = [i for i in content if i[VALUE_TYPE] == "NUM"]
    require(bool(numbers), "SEGMENT_NOT_MEASURED", "a group without a number")
    if _template(group) == "1410":
        _check_region(content)
        return
    for number in numbers:
        require(_on_a_slice(number), "MEASUREMENT_WITHOUT_COORDINATES", "a number without a contour on a slice")
    segments = [i for i in content if named(i, "121191")]
    require(seg is not None and len(segments) == 1, "SEGMENT_REFERENCE_WRONG", "a group without its one segment")
    reference = segments[0][REFERENCED][0]
    right = seg is not None and reference[SOP_INSTANCE] == seg.SOPInstanceUID
    require(right, "SEGMENT_REFERENCE_WRONG", "a group points at another object")


def _check_region(content: Sequence[Item]) -> None:
    """TID 1410: one region on one slice, and no segment beside it."""
    require(not any(named(i, "121191") for i in content), "KINDS_MIXED", "a region beside a segment")
    regions = [i for i in content if named(i, "111030")]
    shown = [i for region in regions for i in region.get(CONTENT, ()) if i[VALUE_TYPE] == "IMAGE"]
    require(len(regions) == len(shown) == 1, "MEASUREMENT_WITHOUT_COORDINATES", "a group without its one region")


def _on_a_slice(number: Item) -> bool:
    outlines = [i for i in number.get(CONTENT, ()) if i[VALUE_TYPE] == "SCOORD"]
    return any(c[VALUE_TYPE] == "IMAGE" for o in outlines for c in o.get(CONTENT, ()))


def _check_tracking(groups: Sequence[Item], seg: Dataset) -> None:
    """Every segment has its group, under the same tracking identifier and UID (I6 across objects).

    A planar group names no segment: its tracking is the only thread, and its place among the groups the segment's.
    """
    in_seg = {int(s.SegmentNumber): (str(s.TrackingID), str(s.TrackingUID)) for s in described(seg)}
    in_sr: dict[int, tuple[str, str]] = {}
    for place, group in enumerate(groups, start=1):
        content = group[CONTENT]
        number = place
        if _template(group) != "1410":
            reference = next(i for i in content if named(i, "121191"))[REFERENCED][0]
            (number,) = reference[_SEGMENT_NUMBER]
        in_sr[number] = (value_of(content, "112039"), value_of(content, "112040"))
    require(in_sr == in_seg, "TRACKING_DIFFERS", "SR and SEG do not track the same segments")
