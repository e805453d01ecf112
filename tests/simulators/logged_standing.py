"""Stops and standings by what the log says of them, entry by entry, for as long as the register has none of its own."""

import threading
from collections.abc import Iterator, Sequence
from datetime import datetime
from typing import Any, Protocol

from audit.entry import Draft, Entry, Kind
from ethics_review.standing import Standing, Stop
from ethics_review.states import Cause, State
from models.ref import ModelRef


class Log(Protocol):
    """The log, as far as it is needed here."""

    def append(self, draft: Draft) -> Entry:
        """Append once."""

    def entries(self, start: int = 0) -> Iterator[Entry]:
        """From index `start` on."""


class LoggedStanding:
    """Follows one log. Thread-safe."""

    def __init__(self, log: Log) -> None:
        self._log = log
        self._lock = threading.Lock()
        self._next = 0
        self._standings: dict[str, Standing] = {}
        self._stops: dict[tuple[str, str | None], Stop] = {}

    def standings(self, _now: datetime) -> Sequence[Standing]:
        """Of the models that a STATE_CHANGE names."""
        with self._lock:
            self._follow()
            return tuple(self._standings.values())

    def stops(self) -> Sequence[Stop]:
        """The stops that no RESUME of the same level has lifted."""
        with self._lock:
            self._follow()
            return tuple(self._stops.values())

    def suspend(self, model: ModelRef, cause: Cause, evidence: int | None) -> Entry:
        """Suspend a model, on the evidence of an entry; it may only tighten, so nobody signs it."""
        with self._lock:
            self._follow()
            standing, index = self._standings.get(model.digest), self._next
        was = State.LIVE if standing is None else standing.state
        body: dict[str, Any] = {
            "model": {"name": model.name, "version": model.version, "digest": model.digest},
            "event": "SUSPEND",
            "from": was.value,
            "to": State.SUSPENDED.value,
            "reason": cause.value,
            "condition": None,
            "observed": None,
            "evidence": evidence,
            "note": None,
            "note_digest": None,
        }
        return self._log.append(Draft(Kind.STATE_CHANGE, f"suspended:{model.digest[-64:]}:{index}", body))

    def _follow(self) -> None:
        for entry in self._log.entries(self._next):
            self._next = entry.index + 1
            body: Any = entry.body
            if entry.kind is Kind.STATE_CHANGE:
                model = ModelRef(body["model"]["name"], body["model"]["version"], body["model"]["digest"])
                state = State(body["to"])
                cause = Cause(body["reason"]) if state is State.SUSPENDED else None
                self._standings[model.digest] = Standing(model, state, cause=cause)
            elif entry.kind is Kind.STOP:
                self._stops[body["level"], body["site"]] = Stop(body["level"], body["site"], entry.index)
            elif entry.kind is Kind.RESUME:
                self._stops.pop((body["level"], body["site"]), None)
