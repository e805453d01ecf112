"""The types that an entry's body is made of. There is none for free text, which is what keeps patients out of the log.

A rule checks one value and names the field, never the value, when it refuses. Pure.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Protocol

from audit.canonical import INTEGER_MAX, JsonValue
from audit.errors import EntryInvalid, NoteMalformed
from audit.note import parse_note

LIST_MAX = 256
"""Items in one list or map of a body: far above need, far below what fills an entry."""
NOTE_CHARS_MAX = 16_000
"""A signed approval inside an entry; the entry as a whole has 65,535 bytes (C2SP tlog-tiles)."""


class Rule(Protocol):
    """Checks one value."""

    def check(self, value: JsonValue, where: str) -> None:
        """Raise EntryInvalid, naming ``where``, unless the value obeys."""


@dataclass(frozen=True, slots=True)
class Text:
    """A string that a closed pattern matches whole, and in which no ``banned`` pattern is found."""

    name: str
    pattern: re.Pattern[str]
    banned: re.Pattern[str] | None = None

    def check(self, value: JsonValue, where: str) -> None:
        """See Rule."""
        if not isinstance(value, str) or not self.pattern.fullmatch(value):
            raise EntryInvalid(f"{where}: not a {self.name}")
        if self.banned is not None and self.banned.search(value):
            raise EntryInvalid(f"{where}: looks like a date, a number of a person or a foreign UID")


@dataclass(frozen=True, slots=True)
class Integer:
    """A whole number from 0 to 2**53 - 1: counts and milliseconds."""

    def check(self, value: JsonValue, where: str) -> None:
        """See Rule."""
        if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value <= INTEGER_MAX:
            raise EntryInvalid(f"{where}: not a whole number of 0 or more")


@dataclass(frozen=True, slots=True)
class SignedNote:
    """The text of a signed note. What it says is checked by whoever signs and whoever reads it."""

    def check(self, value: JsonValue, where: str) -> None:
        """See Rule."""
        if not isinstance(value, str) or len(value) > NOTE_CHARS_MAX:
            raise EntryInvalid(f"{where}: not a signed note")
        try:
            parse_note(value)
        except NoteMalformed:
            raise EntryInvalid(f"{where}: not a signed note") from None


@dataclass(frozen=True, slots=True)
class Maybe:
    """The rule, or null."""

    rule: Rule

    def check(self, value: JsonValue, where: str) -> None:
        """See Rule."""
        if value is not None:
            self.rule.check(value, where)


@dataclass(frozen=True, slots=True)
class Listing:
    """A list whose every item obeys one rule."""

    rule: Rule

    def check(self, value: JsonValue, where: str) -> None:
        """See Rule."""
        if not isinstance(value, (list, tuple)) or len(value) > LIST_MAX:
            raise EntryInvalid(f"{where}: not a list of at most {LIST_MAX}")
        for position, item in enumerate(value):
            self.rule.check(item, f"{where}[{position}]")


@dataclass(frozen=True, slots=True)
class Table:
    """A map with free keys of one rule and values of another."""

    key: Rule
    value: Rule

    def check(self, value: JsonValue, where: str) -> None:
        """See Rule."""
        if not isinstance(value, Mapping) or len(value) > LIST_MAX:
            raise EntryInvalid(f"{where}: not a map of at most {LIST_MAX}")
        for position, (key, item) in enumerate(value.items()):
            # By position: a key that breaks the rule may be the very thing that must not be repeated.
            self.key.check(key, f"{where} key {position}")
            self.value.check(item, f"{where} value {position}")


@dataclass(frozen=True, slots=True)
class Record:
    """A map with exactly these fields, and perhaps the `optional` ones."""

    fields: Mapping[str, Rule]
    optional: Mapping[str, Rule] = field(default_factory=dict)

    def check(self, value: JsonValue, where: str) -> None:
        """See Rule."""
        if not isinstance(value, Mapping):
            raise EntryInvalid(f"{where}: not a map")
        missing = [name for name in self.fields if name not in value]
        if missing:
            raise EntryInvalid(f"{where}: lacks {', '.join(missing)}")
        rules = {**self.fields, **{name: rule for name, rule in self.optional.items() if name in value}}
        if len(value) != len(rules):
            raise EntryInvalid(f"{where}: holds {len(value) - len(rules)} unknown field(s)")
        for name, rule in rules.items():
            rule.check(value[name], f"{where}.{name}")


@dataclass(frozen=True, slots=True)
class Observation:
    """A record with ``condition`` and ``observed``, where what was observed comes out of an image's header.

    Only the site's own id does not: it is of our configuration, and may well be a number of the institution.
    """

    record: Record

    def check(self, value: JsonValue, where: str) -> None:
        """See Rule."""
        self.record.check(value, where)
        if isinstance(value, Mapping) and str(value["condition"]).upper() not in OWN_CONDITIONS:
            Maybe(OBSERVED).check(value["observed"], f"{where}.observed")


OWN_CONDITIONS = frozenset({"SITE"})

_TOKEN = re.compile(r"[A-Za-z0-9 ._:/+-]{1,64}")
_UID = r"(?:[0-9]+\.){5}"  # six components or more: a study's or an instance's, never a version or one of ours
_PERSONAL = re.compile(rf"[0-9]{{6}}|[0-9]{{4}}[-./][0-9]{{1,2}}[-./][0-9]{{1,2}}|{_UID}")
# ^ six digits on end: a birth date as DICOM writes it, a patient's, an accession's or a citizen's number

CODE = Text("code", re.compile(r"[A-Z0-9_]{1,64}"), re.compile(r"[0-9]{6}"))
DIGEST = Text("digest", re.compile(r"sha256:[0-9a-f]{64}"))
HEX32 = Text("value of 32 hexadecimal digits", re.compile(r"[0-9a-f]{32}"))
ROOT = Text("root of a tree in base64", re.compile(r"[A-Za-z0-9+/]{43}="))
OWN_UID = Text("UID of our own", re.compile(r"2\.25\.(?:0|[1-9][0-9]{0,38})"))
DECIMAL = Text("decimal", re.compile(r"-?(?:0|[1-9][0-9]{0,14})(?:\.[0-9]{1,9})?"))
FIGURE = Text("figure", re.compile(r"-?(?:0|[1-9][0-9]{0,6})(?:\.[0-9]{1,9})?"))
"""A decimal of at most seven digits before the point, so that no date passes for one: shares, errors, milliseconds."""
TOKEN = Text("token", _TOKEN, re.compile(_UID))
"""Versions, names of models and devices, units, codes of a code system: never taken from an image's header."""
OBSERVED = Text("token", _TOKEN, _PERSONAL)
"""A token that was derived from an image's header, so what a person's data look like is refused."""
PERIOD = Text("month", re.compile(r"[0-9]{4}-(?:0[1-9]|1[0-2])"))
"""A month, YYYY-MM."""
TIME = Text(
    "time in UTC with microseconds", re.compile(r"[0-9]{4}(?:-[0-9]{2}){2}T[0-9]{2}(?::[0-9]{2}){2}\.[0-9]{6}Z")
)
INTEGER = Integer()
NOTE = SignedNote()
