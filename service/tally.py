"""The numbers of the page for people: of entries and calls as they come, nothing else. Anybody can count them again."""

from __future__ import annotations

import json
from array import array
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from audit.entry import Entry, Kind
from audit.errors import NoteMalformed
from audit.note import parse_note
from service.call_book import Call, seconds_between


@dataclass(frozen=True, slots=True)
class Approved:
    """What an APPROVAL entry says. Whether its signature is one to trust, the verifier tells; here nobody asks.

    `said` is the signed JSON, {} if it is none of ours.
    """

    index: int
    time: str
    digest: str
    signers: tuple[str, ...]
    said: Mapping[str, Any]

    @classmethod
    def of(cls, entry: Entry) -> Approved:
        """From the entry."""
        said: Any = {}
        signers: tuple[str, ...] = ()
        try:
            note = parse_note(str(entry.body["note"]))
            signers = tuple(dict.fromkeys(one.name for one in note.signatures))
            said = json.loads(note.text.partition("\n")[2])
        except (NoteMalformed, ValueError):
            pass  # shown without what it says; the verifier names it
        return cls(entry.index, entry.time, str(entry.body["note_digest"]), signers, said if _is_map(said) else {})

    def text(self, *path: str) -> str:
        """One of its texts; "" if it has none."""
        value: Any = self.said
        for name in path:
            value = value.get(name) if _is_map(value) else None
        return value if isinstance(value, str) else ""

    @property
    def texts(self) -> tuple[str, ...]:
        """What a reviewer wrote and signed, and where there may be Chinese or a date that is no patient's."""
        paths = (("approval",), ("criteria_set",), ("reviewer_org",), ("valid", "from"), ("valid", "to"))
        said = tuple(self.text(*path) for path in (*paths, ("model", "name"), ("model", "version")))
        return said + self._listed("manufacturer") + self._listed("require")

    def _listed(self, condition: str) -> tuple[str, ...]:
        conditions: Any = self.said.get("conditions")
        listed = conditions.get(condition) if isinstance(conditions, dict) else None
        return tuple(one for one in listed if isinstance(one, str)) if isinstance(listed, list) else ()


def _is_map(value: object) -> bool:
    return isinstance(value, dict)


@dataclass(frozen=True, slots=True)
class Silence:
    """The longest time between two entries that follow each other in the package."""

    seconds: float
    begin: str
    end: str


class Tally:
    """Counts. Feed it every entry, then every call."""

    def __init__(self) -> None:
        self.kinds: Counter[str] = Counter()
        self.spans: dict[str, tuple[str, str]] = {}
        self.models: Counter[tuple[str, str]] = Counter()
        self.states: Counter[str] = Counter()
        self.outcomes: Counter[str] = Counter()
        self.denials: Counter[tuple[str, str]] = Counter()
        self.failures: Counter[tuple[str, str, str]] = Counter()
        self.peers: Counter[tuple[str, str]] = Counter()
        self.promised_s: Counter[int] = Counter()
        self.silence: Silence | None = None
        self.approvals: list[Approved] = []
        self.exports: list[Entry] = []
        self._delays = array("d")
        self._last: str | None = None

    def entry(self, entry: Entry) -> None:
        """One entry more, in the log's order."""
        kind, body = str(entry.kind), entry.body
        self.kinds[kind] += 1
        first, _ = self.spans.get(kind, (entry.time, ""))
        self.spans[kind] = first, entry.time
        if self._last is not None:
            gap = seconds_between(self._last, entry.time)
            if self.silence is None or gap > self.silence.seconds:
                self.silence = Silence(gap, self._last, entry.time)
        self._last = entry.time
        if entry.kind is Kind.CALL_INTENT and isinstance(body["model"], Mapping):
            self.models[str(body["model"]["name"]), str(body["model"]["version"])] += 1
        elif entry.kind is Kind.CALL_RESULT:
            self.outcomes[str(body["outcome"])] += 1
        elif entry.kind is Kind.DENIED:
            self.denials[str(body["stage"]), str(body["code"])] += 1
        elif entry.kind is Kind.FAILED:
            self.failures[str(body["stage"]), str(body["code"]), str(body["fault"])] += 1
        elif entry.kind is Kind.RELEASED:
            self.peers[str(body["peer"]), str(body["proof"])] += 1
        elif entry.kind is Kind.HEARTBEAT and isinstance(body["interval_s"], int):
            self.promised_s[body["interval_s"]] += 1
        elif entry.kind is Kind.APPROVAL:
            self.approvals.append(Approved.of(entry))
        elif entry.kind is Kind.EXPORT:
            self.exports.append(entry)

    def call(self, call: Call) -> None:
        """One call more."""
        if "CALL_INTENT" in call.entries:
            self.states[call.state] += 1
        delay = call.seconds("CALL_RESULT", "RELEASED")
        if delay is not None:
            self._delays.append(delay)

    @property
    def delays(self) -> Mapping[str, float]:
        """Seconds from result to release: of half of the calls at most, of 95 in 100, of all. {} without releases."""
        if not self._delays:
            return {}
        ordered = sorted(self._delays)
        # The nearest rank: a delay that was, not one between two.
        ranks = {"median": -(-len(ordered) // 2), "p95": -(-len(ordered) * 95 // 100), "max": len(ordered)}
        return {name: ordered[rank - 1] for name, rank in ranks.items()}
