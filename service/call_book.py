"""The calls of a log, gathered in one reading: what each was allowed, gave, and came to. In a file of SQLite's own.

A million entries are not held in memory: they wait in a temporary file without a name, which ends with the process.
"""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from itertools import groupby
from operator import itemgetter
from typing import Any, Final

from audit.canonical import canonical
from audit.entry import Entry, Kind

STATES: Final = ("RELEASED", "DENIED", "FAILED", "SHADOW", "NOT_RELEASED", "NO_END")
"""What a call came to, the first that is so: its objects were sent; a rule said no; something failed; it has a result
that was not to be sent; one that was not sent; nothing says."""
_TOLD: Final = frozenset(
    {Kind.CALL_INTENT, Kind.CALL_RESULT, Kind.RELEASED, Kind.DENIED, Kind.FAILED, Kind.HUMAN_DECISION}
    | {Kind.STATE_CHANGE, Kind.STOP, Kind.RESUME}
)


@dataclass(frozen=True, slots=True)
class Told:
    """One entry of a call."""

    index: int
    kind: str
    time: str
    call: str | None
    body: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Call:
    """One call: the last entry of each kind that names it."""

    id: str
    entries: Mapping[str, Told] = field(default_factory=dict)

    @property
    def state(self) -> str:
        """One of STATES."""
        for state in STATES[:3]:
            if state in self.entries:
                return state
        if "CALL_RESULT" not in self.entries:
            return "NO_END"
        return "SHADOW" if self.body("CALL_INTENT").get("state") == "SHADOW" else "NOT_RELEASED"

    def time(self, kind: str) -> str:
        """When; "" if there is no such entry."""
        return self.entries[kind].time if kind in self.entries else ""

    def body(self, kind: str) -> Mapping[str, Any]:
        """What it says; nothing if there is no such entry."""
        return self.entries[kind].body if kind in self.entries else {}

    def seconds(self, begin: str, end: str) -> float | None:
        """From one kind of entry to another; None unless both are there."""
        if begin not in self.entries or end not in self.entries:
            return None
        return seconds_between(self.time(begin), self.time(end))


def seconds_between(begin: str, end: str) -> float:
    """Of two times as entries write them."""
    return (datetime.fromisoformat(end) - datetime.fromisoformat(begin)).total_seconds()


class CallBook:
    """Takes entries in order; gives calls, denials and other kinds in order. Raises sqlite3.Error of its disk."""

    def __init__(self) -> None:
        self._db = sqlite3.connect("", isolation_level=None)
        self._db.execute("PRAGMA journal_mode=OFF")
        self._db.execute("CREATE TABLE told (idx INTEGER PRIMARY KEY, kind TEXT, time TEXT, call TEXT, body BLOB)")
        self._db.execute("BEGIN")

    def close(self) -> None:
        """End; the file is gone."""
        self._db.close()

    def add(self, entry: Entry) -> None:
        """One entry more."""
        if entry.kind in _TOLD:
            row = (entry.index, str(entry.kind), entry.time, entry.call, canonical(entry.body))
            self._db.execute("INSERT INTO told VALUES (?, ?, ?, ?, ?)", row)

    def calls(self) -> Iterator[Call]:
        """Each call, in the order in which they began."""
        query = (
            "SELECT told.* FROM told JOIN (SELECT call AS one, min(idx) AS first FROM told WHERE call IS NOT NULL"
            " GROUP BY call) ON call = one ORDER BY first, idx"
        )
        for call, rows in groupby(self._db.execute(query), key=itemgetter(3)):
            yield Call(call, {told.kind: told for told in map(_told, rows)})

    def of_kind(self, *kinds: Kind) -> Iterator[Told]:
        """Each entry of these kinds, of a call or not."""
        query = f"SELECT * FROM told WHERE kind IN ({', '.join('?' * len(kinds))}) ORDER BY idx"  # noqa: S608 - no text
        return map(_told, self._db.execute(query, tuple(map(str, kinds))))


def _told(row: tuple[int, str, str, str | None, bytes]) -> Told:
    index, kind, time, call, body = row
    return Told(index, kind, time, call, json.loads(body))
