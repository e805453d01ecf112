"""The tree of a report that came from outside, as far as it can be compared with ours: groups, numbers, statements.

Nothing here trusts the sender: depth and number of items are limited, a number has to be one, and what is there twice
is refused, since nobody could say which one was meant. Pure.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from decimal import Decimal, InvalidOperation
from typing import Final

from pydicom.dataset import Dataset

from dicom_bridge.errors import BridgeError, Fault

ITEMS_MAX: Final = 20_000
"""Content items of a report; ours has some hundred."""
DEPTH_MAX: Final = 16
"""Levels of a content tree; TID 1500 has 6."""

Name = tuple[str, str]
"""A code: scheme and value."""
Statement = tuple[Name, frozenset[Name]]
"""What is stated: concept and sites."""

_GROUP: Final = ("DCM", "125007")
_TRACKING_UID: Final = ("DCM", "112040")
_FINDING: Final = ("DCM", "121071")
_SITE: Final = ("SCT", "363698007")
_LATERALITY: Final = ("SCT", "272741003")
_REGION: Final = ("DCM", "111030")
_QUALITATIVE: Final = ("UMLS", "C0034375")
_SUMMARY: Final = ("DCM", "111017")
_WHICH: Final = frozenset({("SCT", "370129005"), ("DCM", "121401")})
"""Method and derivation: what tells two numbers of one concept apart (TID 300)."""
_PLAIN: Final = re.compile(r"-?(?:0|[1-9][0-9]{0,6})(?:\.[0-9]{1,9})?")
"""A decimal as an entry of the log writes it."""
_PLACES: Final = 9
_BELOW: Final = Decimal(10_000_000)


class VerdictUnusable(BridgeError):
    """An object that cannot be compared with ours: nothing is concluded from it."""

    CODES = frozenset(
        {
            *("UNREADABLE", "TOO_LARGE", "ENCODING", "DUPLICATE", "VALUE_INVALID", "UNIT_DIFFERS", "UNPAIRED"),
            *("GRID_DIFFERS", "KIND_DIFFERS", "UNVERIFIABLE"),
        }
    )
    fault = Fault.INPUT


@dataclass(frozen=True, slots=True)
class Number:
    """A measured value; None where the document gives none. `text`: as an entry writes it."""

    value: Decimal | None
    unit: Name
    text: str | None = field(compare=False)


@dataclass(frozen=True, slots=True)
class Group:
    """A measurement group. Numbers by concept, method, and place among those that have both in common.

    `region`: the coordinates of a detection, columns and rows in turn; () for a group of a segment.
    """

    tracking: str
    finding: Name
    sites: frozenset[Name]
    numbers: Mapping[tuple[Name, frozenset[Name], int], Number]
    region: tuple[float, ...]


@dataclass(frozen=True, slots=True)
class Tree:
    """`statements`: what is said of the study as a whole; None where the document has no place for it."""

    groups: tuple[Group, ...]
    statements: Mapping[Statement, Name] | None


def read_tree(ds: Dataset) -> Tree:
    """What a report says. Raises VerdictUnusable, and what pydicom raises over bytes from outside."""
    groups: list[Group] = []
    statements: dict[Statement, Name] | None = None
    for item in _walk(ds):
        name = code(item)
        if name == _GROUP and item.get("ValueType") == "CONTAINER":
            groups.append(_group(item))
        elif name == _QUALITATIVE:
            statements = {} if statements is None else statements
            _state(item, statements)
    return Tree(tuple(groups), statements)


def code(item: Dataset) -> Name:
    """Its concept name; two empty texts where it has none."""
    return _coded(item, "ConceptNameCodeSequence")


def _state(container: Dataset, statements: dict[Statement, Name]) -> None:
    for one in container.get("ContentSequence") or ():
        if one.get("ValueType") == "CODE" and code(one) != _SUMMARY:
            key = code(one), frozenset(_values(one, _SITE))
            if key in statements:
                raise VerdictUnusable("DUPLICATE", "one thing is stated twice")
            statements[key] = _value(one)


def _walk(ds: Dataset) -> Iterator[Dataset]:
    """Every content item, in order, without recursion. Raises VerdictUnusable TOO_LARGE."""
    waiting, count = [(ds, 0)], 0
    while waiting:
        item, depth = waiting.pop()
        count += 1
        if count > ITEMS_MAX:
            raise VerdictUnusable("TOO_LARGE", "the tree has too many items")
        if depth > DEPTH_MAX:
            raise VerdictUnusable("TOO_LARGE", "the tree is too deep")
        yield item
        waiting += [(child, depth + 1) for child in reversed(item.get("ContentSequence") or ())]


def _group(item: Dataset) -> Group:
    children = list(item.get("ContentSequence") or ())
    tracking = [str(one.get("UID", "")) for one in children if code(one) == _TRACKING_UID]
    findings = _values(item, _FINDING)
    if len(tracking) > 1 or len(findings) > 1:
        raise VerdictUnusable("DUPLICATE", "a group with two names, or of two things")
    numbers: dict[tuple[Name, frozenset[Name], int], Number] = {}
    seen = Counter[tuple[Name, frozenset[Name]]]()
    for one in children:
        if one.get("ValueType") == "NUM":
            inside = one.get("ContentSequence") or ()
            which = code(one), frozenset(_value(each) for each in inside if code(each) in _WHICH)
            numbers[*which, seen[which]] = _number(one)
            seen[which] += 1
    sites = [one for one in children if code(one) == _SITE]
    sides = [side for one in sites for side in _values(one, _LATERALITY)] + _values(item, _LATERALITY)
    regions = [float(v) for one in children if code(one) == _REGION for v in one.get("GraphicData") or ()]
    return Group(
        tracking=tracking[0] if tracking else "",
        finding=findings[0] if findings else ("", ""),
        sites=frozenset([*map(_value, sites), *sides]),
        numbers=numbers,
        region=tuple(regions),
    )


def _number(item: Dataset) -> Number:
    measured = item.get("MeasuredValueSequence") or ()
    unit = _coded(measured[0], "MeasurementUnitsCodeSequence") if measured else ("", "")
    value = measured[0].get("NumericValue") if measured else None
    text = "" if value is None else str(getattr(value, "original_string", None) or value).strip()
    if not text:
        return Number(None, unit, None)
    try:
        number = Decimal(text)
    except InvalidOperation:
        raise VerdictUnusable("VALUE_INVALID", "a value is no number") from None
    if not number.is_finite() or abs(number) >= _BELOW:
        raise VerdictUnusable("VALUE_INVALID", "a value is no number that an entry can hold")
    number = round(number, _PLACES) + 0  # which makes -0 a 0
    return Number(number, unit, text if _PLAIN.fullmatch(text) else f"{number.normalize():f}")


def _values(item: Dataset, name: Name) -> list[Name]:
    return [_value(one) for one in item.get("ContentSequence") or () if code(one) == name]


def _value(item: Dataset) -> Name:
    return _coded(item, "ConceptCodeSequence")


def _coded(item: Dataset, keyword: str) -> Name:
    codes = item.get(keyword) or ()
    if not codes:
        return "", ""
    value = codes[0].get("CodeValue") or codes[0].get("LongCodeValue") or codes[0].get("URNCodeValue")
    return str(codes[0].get("CodingSchemeDesignator", "")), str(value or "")
