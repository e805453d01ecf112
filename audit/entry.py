"""An entry and its bytes, both ways.

An entry is canonical JSON (RFC 8785) in an envelope; its bytes are the leaf that the tree hashes. Parsing is strict:
what parses re-formats to the same bytes, and everything else is EntryInvalid. Pure.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime

from audit.canonical import INTEGER_MAX, JsonValue, canonical, frozen, parse_canonical
from audit.errors import EntryInvalid
from audit.kinds import BODIES, CALL_ABSENT, CALL_NEEDED, Kind
from audit.schema import HEX32, INTEGER, TIME

__all__ = [
    "BODIES",
    "CALL_ABSENT",
    "CALL_NEEDED",
    "ENTRY_BYTES_MAX",
    "SCHEMA",
    "Draft",
    "Entry",
    "JsonValue",
    "Kind",
    "canonical",
    "parse",
]

SCHEMA = "zhiying.audit/1"
ENTRY_BYTES_MAX = 65_535
"""An entry's length is written in 16 bits (C2SP tlog-tiles)."""
ENVELOPE_BYTES_MAX = 1_000
"""All of an entry but its body, at most: key 128, source 64, and names."""
ENVELOPE = frozenset({"schema", "kind", "key", "call", "source", "seq", "time", "boot", "tick_us", "body"})

_KEY = re.compile(r"[a-z0-9:._-]{1,128}")
_FOREIGN_UID = re.compile(r"(?:[0-9]+\.){5}")
_SOURCE = re.compile(r"[A-Za-z0-9._:/-]{1,64}")
_CALL = re.compile(r"[0-9a-f]{32}")
_DIGITS = re.compile(r"[0-9]+")


@dataclass(frozen=True, slots=True)
class Draft:
    """What a caller wants logged. Checked when made: a Draft that exists can be appended.

    ``key`` is the idempotency key: one key, one entry, however often a retry appends it. ``call`` names the run that
    the entry belongs to. Raises EntryInvalid.
    """

    kind: Kind
    key: str
    body: Mapping[str, JsonValue]
    call: str | None = None

    def __post_init__(self) -> None:
        """Check, and make the body deeply read-only."""
        if not isinstance(self.kind, Kind):
            raise EntryInvalid("kind: unknown")
        if not isinstance(self.key, str) or not _KEY.fullmatch(self.key) or _FOREIGN_UID.search(self.key):
            raise EntryInvalid("key: not an idempotency key")
        if self.call is not None and (not isinstance(self.call, str) or not _CALL.fullmatch(self.call)):
            raise EntryInvalid("call: not 32 hexadecimal digits")
        if (self.call is None and self.kind in CALL_NEEDED) or (self.call is not None and self.kind in CALL_ABSENT):
            raise EntryInvalid(f"call: present or absent against the rule of {self.kind}")
        BODIES[self.kind].check(self.body, "body")
        if len(canonical(self.body)) > ENTRY_BYTES_MAX - ENVELOPE_BYTES_MAX:
            raise EntryInvalid("body: too large")
        body = frozen(self.body)
        if isinstance(body, Mapping):  # it is: the rule above said so
            object.__setattr__(self, "body", body)

    @property
    def content(self) -> bytes:
        """What must be equal for two drafts with one key to be one entry."""
        return canonical({"kind": self.kind.value, "key": self.key, "call": self.call, "body": self.body})


@dataclass(frozen=True, slots=True)
class Entry:
    """One leaf of the log. ``index`` is its position, and is not among its bytes.

    ``seq`` counts the entries of one ``source`` from 0 without a gap, so that one that is left out shows.
    ``time`` is UTC with microseconds, as ``2026-11-23T16:07:12.123456Z``. ``boot`` (32 hexadecimal digits) names one
    run of the writer, within which ``tick_us`` counts microseconds that no setting of the clock can move.
    """

    index: int
    source: str
    seq: int
    time: str
    boot: str
    tick_us: int
    kind: Kind
    key: str
    body: Mapping[str, JsonValue]
    call: str | None = None

    @classmethod
    def of(cls, draft: Draft, *, index: int, source: str, seq: int, now: datetime, boot: str, tick_us: int) -> Entry:
        """The draft, placed. ``now`` is aware."""
        refuse_bad_source(source)
        return cls(index, source, seq, format_time(now), boot, tick_us, draft.kind, draft.key, draft.body, draft.call)

    @property
    def draft(self) -> Draft:
        """What was asked to be logged, checked again."""
        return Draft(self.kind, self.key, self.body, self.call)

    def to_bytes(self) -> bytes:
        """The leaf. Raises EntryInvalid if it would not parse."""
        data = canonical(
            {
                "schema": SCHEMA,
                "kind": self.kind.value,
                "key": self.key,
                "call": self.call,
                "source": self.source,
                "seq": self.seq,
                "time": self.time,
                "boot": self.boot,
                "tick_us": self.tick_us,
                "body": self.body,
            }
        )
        if len(data) > ENTRY_BYTES_MAX:
            raise EntryInvalid("entry: too large")
        return data


def parse(index: int, data: bytes) -> Entry:
    """The entry at this position. Raises EntryInvalid unless it is one of ours, to the byte."""
    if len(data) > ENTRY_BYTES_MAX:
        raise EntryInvalid("entry: too large")
    value = parse_canonical(data)
    if not isinstance(value, Mapping) or set(value) != ENVELOPE:
        raise EntryInvalid("entry: not the envelope's fields")
    if value["schema"] != SCHEMA:
        raise EntryInvalid("schema: unknown")
    kind, key, call, body = value["kind"], value["key"], value["call"], value["body"]
    source, seq, time, boot, tick_us = (value[name] for name in ("source", "seq", "time", "boot", "tick_us"))
    if not isinstance(kind, str) or kind not in Kind.__members__:
        raise EntryInvalid("kind: unknown")
    if not isinstance(key, str) or not isinstance(body, Mapping) or not (call is None or isinstance(call, str)):
        raise EntryInvalid("entry: a field of the wrong type")
    if not isinstance(source, str) or isinstance(seq, bool) or not isinstance(seq, int) or not isinstance(time, str):
        raise EntryInvalid("entry: a field of the wrong type")
    refuse_bad_source(source)
    if not 0 <= seq <= INTEGER_MAX:
        raise EntryInvalid("seq: negative")
    parse_time(time)
    if not isinstance(boot, str) or isinstance(tick_us, bool) or not isinstance(tick_us, int):
        raise EntryInvalid("entry: a field of the wrong type")
    HEX32.check(boot, "boot")
    INTEGER.check(tick_us, "tick_us")
    draft = Draft(Kind(kind), key, body, call)
    return Entry(index, source, seq, time, boot, tick_us, draft.kind, draft.key, draft.body, draft.call)


def format_time(now: datetime) -> str:
    """UTC with microseconds. A naive time raises EntryInvalid: nobody knows what it means."""
    if now.tzinfo is None:
        raise EntryInvalid("time: without a time zone")
    return now.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")


def parse_time(text: str) -> datetime:
    """The moment that ``format_time`` wrote; aware. Raises EntryInvalid."""
    if not TIME.pattern.fullmatch(text):
        raise EntryInvalid("time: not UTC with microseconds")
    try:
        # The pattern has looked at all but the ranges; strptime would be a tenth of what reading a log takes.
        year, month, day, hour, minute, second, microsecond = (int(part) for part in _DIGITS.findall(text))
        return datetime(year, month, day, hour, minute, second, microsecond, UTC)
    except ValueError:
        raise EntryInvalid("time: no such moment") from None


def refuse_bad_source(source: str) -> None:
    """Raise EntryInvalid unless ``source`` may name who writes."""
    if not _SOURCE.fullmatch(source):
        raise EntryInvalid("source: not a name of a source")
