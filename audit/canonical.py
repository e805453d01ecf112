"""One value, one sequence of bytes: RFC 8785 (JSON Canonicalization Scheme), without floats.

Floats are left out on purpose: two languages that print them differently would hash one fact to two leaves. Decimals
travel as strings. Pure.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import NoReturn

from audit.errors import EntryInvalid

JsonValue = None | bool | int | str | Sequence["JsonValue"] | Mapping[str, "JsonValue"]
"""What an entry can hold. Integers are within +-(2**53 - 1); strings hold no lone surrogates."""

INTEGER_MAX = 2**53 - 1
"""The largest integer that every JSON reader holds exactly (RFC 8785, appendix D; RFC 7493, section 2.2)."""
DEPTH_MAX = 16
"""Nesting; ours needs 4. A bound, so that hostile bytes cannot exhaust the stack."""
_OBJECTS = (dict, MappingProxyType, Mapping)
"""All that is a Mapping; the usual two first, as to ask an abstract class takes ten times as long."""


def canonical(value: JsonValue) -> bytes:
    """The value's canonical bytes. Raises EntryInvalid for floats, large integers, lone surrogates, other types."""
    # The standard library already escapes exactly as RFC 8785, section 3.2.2.2, and prints integers plainly.
    text = _ENCODER.encode(_ordered(value, 0))
    try:
        return text.encode()
    except UnicodeEncodeError:
        raise EntryInvalid("value: holds a lone surrogate") from None


def parse_canonical(data: bytes) -> JsonValue:
    """The value, deeply read-only. Raises EntryInvalid unless ``data`` is canonical, to the byte."""
    try:
        value = _DECODER.decode(data.decode())
    except (ValueError, RecursionError):
        raise EntryInvalid("value: not JSON") from None
    # Duplicate keys, spaces, other escapes, other orders: all of it shows as different bytes.
    if canonical(value) != data:
        raise EntryInvalid("value: not in canonical form")
    return frozen(value)


def frozen(value: JsonValue) -> JsonValue:
    """A deeply read-only copy: tuples for lists, read-only mappings for objects."""
    if isinstance(value, (str, int)):
        return value
    if isinstance(value, _OBJECTS):
        return MappingProxyType({key: frozen(each) for key, each in value.items()})
    if isinstance(value, Sequence):
        return tuple(frozen(each) for each in value)
    return value


def _ordered(value: JsonValue, depth: int) -> JsonValue:
    if depth > DEPTH_MAX:
        raise EntryInvalid("value: nested too deeply")
    if value is None or isinstance(value, (bool, str)):
        return value
    if isinstance(value, int):
        if abs(value) > INTEGER_MAX:
            raise EntryInvalid("value: integer beyond 2**53 - 1")
        return int(value)
    if isinstance(value, _OBJECTS):
        if not all(isinstance(key, str) for key in value):
            raise EntryInvalid("value: a key is not a string")
        # RFC 8785, section 3.2.3: by UTF-16 code units, which differs from code points beyond the basic plane.
        plain = all(map(str.isascii, value))
        keys = sorted(value) if plain else sorted(value, key=lambda key: key.encode("utf-16-be", "surrogatepass"))
        return {key: _ordered(value[key], depth + 1) for key in keys}
    if isinstance(value, (list, tuple)):
        return [_ordered(each, depth + 1) for each in value]
    raise EntryInvalid("value: a type that JSON without floats does not have")


def _refuse_number(_: str) -> NoReturn:
    raise ValueError


# Made once: `dumps` and `loads` make theirs anew for each value.
_ENCODER = json.JSONEncoder(ensure_ascii=False, separators=(",", ":"), allow_nan=False)
_DECODER = json.JSONDecoder(parse_float=_refuse_number, parse_constant=_refuse_number)
