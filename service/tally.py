"""The numbers of the page for people: of entries and calls as they come, nothing else. Anybody can count them again."""

from __future__ import annotations

import json
from array import array
from collections import Counter
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, TypeGuard

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
        signers = signers_of(entry.body["note"])
        with suppress(NoteMalformed, ValueError):  # shown without what it says; the verifier names it
            said = json.loads(parse_note(str(entry.body["note"])).text.partition("\n")[2])
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

    @property
    def grants(self) -> str:
        """The state to which it brings a dossier under review."""
        conditions = self.said.get("conditions")
        bound = [conditions.get(name) for name in ("site", "manufacturer")] if _is_map(conditions) else []
        return "APPROVED" if bound == [["*"], ["*"]] else "APPROVED_WITH_CONDITIONS"


def _is_map(value: object) -> TypeGuard[dict[str, Any]]:
    return isinstance(value, dict)


def signers_of(note: object) -> tuple[str, ...]:
    """Names of the keys whose signatures a note has, whoever made them; none where it is no note."""
    try:
        return tuple(dict.fromkeys(one.name for one in parse_note(str(note)).signatures))
    except NoteMalformed:
        return ()


@dataclass(frozen=True, slots=True)
class Dossier:
    """Where a model's dossier is after the last entry about it that is in the package."""

    state: str
    event: str
    time: str


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
        self.dossiers: dict[tuple[str, str], Dossier] = {}
        self.suspensions: Counter[tuple[str, str, str]] = Counter()
        self.stops: list[Entry] = []
        self.decisions: Counter[str] = Counter()
        self.evaluations: Counter[tuple[str, str]] = Counter()
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
        elif entry.kind is Kind.EXPORT:
            self.exports.append(entry)
        else:
            self._review(entry)

    def _review(self, entry: Entry) -> None:
        body = entry.body
        if entry.kind is Kind.APPROVAL:
            approved = Approved.of(entry)
            self.approvals.append(approved)
            model = approved.text("model", "name"), approved.text("model", "version")
            before = self.dossiers.get(model)
            if before is not None:
                first = before.state == "UNDER_REVIEW"
                state, event = (approved.grants, "APPROVE") if first else (before.state, "RENEW")
                self.dossiers[model] = Dossier(state, event, entry.time)
        elif entry.kind is Kind.STATE_CHANGE and isinstance(body["model"], Mapping):
            model = str(body["model"]["name"]), str(body["model"]["version"])
            self.dossiers[model] = Dossier(str(body["to"]), str(body["event"]), entry.time)
            if body["event"] == "SUSPEND":
                self.suspensions[*model, str(body["reason"])] += 1
        elif entry.kind in {Kind.STOP, Kind.RESUME}:
            self.stops.append(entry)
        elif entry.kind is Kind.HUMAN_DECISION:
            self.decisions[str(body["decision"])] += 1
        elif entry.kind is Kind.EVALUATION:
            self.evaluations[str(body["metric"]), str(body["outcome"])] += 1

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
