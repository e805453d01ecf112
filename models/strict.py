"""Strict reading of JSON documents: every key is wanted, no other is known, every value has its type and bounds.

Raises Malformed, which names the path of the key at fault. Callers turn it into the error of their own tree.
"""

import json
import math
import re
from collections.abc import Callable, Collection
from typing import Final, NoReturn, TypeVar

from audit.entry import JsonValue
from models.codes import Code, Range
from models.errors import CodeInvalid

DOCUMENT_BYTES_MAX: Final = 262_144
"""Bytes of a manifest, card or approval: the longest we ship is a fiftieth of it."""

PROSE_MAX: Final = 20_000
"""Characters of one text for people: a model card's longest section has a few thousand."""

_INTEGER_MAX: Final = 2**53 - 1

_WORD: Final = re.compile(r"[a-z][a-z0-9_]{0,31}")

_T = TypeVar("_T")


class Malformed(ValueError):
    """A document is not what was wanted; `where` is the path of the key, `what` says what was wanted."""

    def __init__(self, where: str, what: str) -> None:
        super().__init__(f"{where}: {what}")
        self.where = where
        self.what = what


def _refuse_constant(_: str) -> NoReturn:
    raise Malformed("(document)", "NaN and Infinity are not JSON")


def _refuse_twice(pairs: list[tuple[str, object]]) -> dict[str, object]:
    found: dict[str, object] = {}
    for key, value in pairs:
        if key in found:
            raise Malformed(shown(key), "key given twice")
        found[key] = value
    return found


def shown(key: str) -> str:
    """A key as it may stand in a message: printable, at most 64 characters."""
    return "".join(c if c.isprintable() else "?" for c in key[:64])


def parse_json(data: bytes) -> JsonValue:
    """`data` as JSON; refuses other encodings than UTF-8, keys given twice, NaN, absurd numbers, nesting and size."""
    if len(data) > DOCUMENT_BYTES_MAX:
        raise Malformed("(document)", f"more than {DOCUMENT_BYTES_MAX} bytes")
    try:
        text = data.decode("utf-8")
        value: JsonValue = json.loads(text, object_pairs_hook=_refuse_twice, parse_constant=_refuse_constant)
    except Malformed:
        raise
    except UnicodeDecodeError:
        raise Malformed("(document)", "not UTF-8") from None
    except (ValueError, RecursionError):
        raise Malformed("(document)", "not JSON") from None
    return value


class Fields:
    """One JSON object with all of `keys`, any of `optional`, no others; `where` is its path ("" for the document)."""

    def __init__(self, value: object, where: str, keys: Collection[str], optional: Collection[str] = ()) -> None:
        if not isinstance(value, dict):
            raise Malformed(where or "(document)", "an object wanted")
        self._where = where
        self._values: dict[str, JsonValue] = value
        for key in keys:
            if key not in value:
                raise Malformed(self.path(key), "key missing")
        for key in value:
            if key not in keys and key not in optional:
                raise Malformed(self.path(shown(key)), "unknown key")

    def path(self, key: str) -> str:
        """The path of `key`, as messages show it."""
        return f"{self._where}.{key}" if self._where else key

    def has(self, key: str) -> bool:
        """Whether an optional key is given."""
        return key in self._values

    def value(self, key: str) -> JsonValue:
        """The raw value."""
        return self._values[key]

    def text(self, key: str, *, longest: int = 256) -> str:
        """Printable text of 1 to `longest` characters, without space at either end."""
        return _text(self._values[key], self.path(key), longest)

    def prose(self, key: str, *, fewest: int = 1) -> str:
        """Text of several lines, PROSE_MAX characters at most; no other control characters: people read it."""
        value = self._values[key]
        if not isinstance(value, str) or not fewest <= len(value.strip()) or len(value) > PROSE_MAX:
            raise Malformed(self.path(key), f"text of {fewest} to {PROSE_MAX} characters wanted")
        if not all(character.isprintable() or character in "\n\t" for character in value):
            raise Malformed(self.path(key), "printable text wanted")
        return value

    def choice(self, key: str, allowed: Collection[str]) -> str:
        """One of `allowed`."""
        return one_of(self._values[key], self.path(key), allowed)

    def word(self, key: str) -> str:
        """A lower-case word, as things are named by."""
        if not _WORD.fullmatch(self.text(key)):
            raise Malformed(self.path(key), "a lower-case word wanted, 32 characters at most")
        return self.text(key)

    def colour(self, key: str) -> tuple[int, int, int]:
        """A Recommended Display CIELab Value: three unsigned 16-bit numbers (PS3.3 C.10.7.1.1)."""
        three = self.items(key, lambda value, path: _integer(value, path, 0, 65_535), fewest=3, most=3)
        return three[0], three[1], three[2]

    def integer(self, key: str, low: int, high: int) -> int:
        """An integer, low <= value <= high."""
        return _integer(self._values[key], self.path(key), low, high)

    def number(self, key: str, low: float, high: float) -> float:
        """A finite number within [low, high]."""
        number = _number(self.value(key), self.path(key))
        if not low <= number <= high:
            raise Malformed(self.path(key), f"from {low:g} to {high:g} wanted")
        return number

    def boolean(self, key: str) -> bool:
        """true or false."""
        value = self._values[key]
        if not isinstance(value, bool):
            raise Malformed(self.path(key), "true or false wanted")
        return value

    def choices(self, key: str, allowed: Collection[str]) -> tuple[str, ...]:
        """A list of different values, each one of `allowed`."""
        found = self.items(key, lambda value, path: one_of(value, path, allowed))
        if len(set(found)) != len(found):
            raise Malformed(self.path(key), "item given twice")
        return found

    def fields(self, key: str, keys: Collection[str], optional: Collection[str] = ()) -> "Fields":
        """The object under `key`, with all of `keys`, any of `optional` and no others."""
        return Fields(self._values[key], self.path(key), keys, optional)

    def items(self, key: str, read: Callable[[object, str], _T], *, fewest: int = 1, most: int = 256) -> tuple[_T, ...]:
        """The list under `key`, each item read by `read(value, path)`."""
        value = self._values[key]
        path = self.path(key)
        if not isinstance(value, list):
            raise Malformed(path, "a list wanted")
        if not fewest <= len(value) <= most:
            raise Malformed(path, f"{fewest} to {most} items wanted")
        return tuple(read(item, f"{path}[{place}]") for place, item in enumerate(value))

    def texts(self, key: str, *, fewest: int = 1, longest: int = 64) -> tuple[str, ...]:
        """A list of different texts."""
        found = self.items(key, lambda value, path: _text(value, path, longest), fewest=fewest)
        if len(set(found)) != len(found):
            raise Malformed(self.path(key), "item given twice")
        return found

    def code(self, key: str) -> Code:
        """A coded concept: {"value", "scheme", "meaning"}."""
        inner = self.fields(key, ("value", "scheme", "meaning"))
        try:
            return Code(inner.text("value"), inner.text("scheme"), inner.text("meaning"))
        except CodeInvalid as wrong:
            raise Malformed(self.path(key), str(wrong)) from None

    def range(self, key: str, low: float, high: float, *, whole: bool = False) -> Range:
        """[low, high] within the bounds given; integers if `whole`."""
        pair = self.items(key, _number, fewest=2, most=2)
        path = self.path(key)
        if whole and not all(isinstance(number, int) for number in pair):
            raise Malformed(path, "two integers wanted")
        if not (low <= pair[0] <= pair[1] <= high):
            raise Malformed(path, f"two numbers wanted, {low} <= lower <= higher <= {high}")
        return Range(pair[0], pair[1])


def one_of(value: object, path: str, allowed: Collection[str]) -> str:
    """`value` if it is one of `allowed`."""
    if not isinstance(value, str) or value not in allowed:
        raise Malformed(path, "one of " + ", ".join(sorted(allowed)) + " wanted")
    return value


def _text(value: object, path: str, longest: int) -> str:
    if not isinstance(value, str) or not 0 < len(value) <= longest:
        raise Malformed(path, f"text of 1 to {longest} characters wanted")
    if not value.isprintable() or value != value.strip():
        raise Malformed(path, "printable text wanted, without space at either end")
    return value


def _integer(value: object, path: str, low: int, high: int) -> int:
    # bool is a subclass of int; true is not a number here.
    if not isinstance(value, int) or isinstance(value, bool) or not low <= value <= high:
        raise Malformed(path, f"an integer wanted, {low} to {high}")
    return value


def _number(value: object, path: str) -> float:
    if isinstance(value, float) and math.isfinite(value):
        return value
    # Integers have no largest one; beyond what a float holds they would break arithmetic further on.
    if isinstance(value, int) and not isinstance(value, bool) and abs(value) <= _INTEGER_MAX:
        return value
    raise Malformed(path, "a finite number wanted")
