"""Look-back: every study that a model, an approval, a class of patients or a time touched, in one reading. Pure.

Asked of the log and of nothing else, so that the answer can be had again from an exported package. A study was touched
as soon as a model was allowed to see it: CALL_INTENT. What became of the call stands beside it.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any, Final

from audit.entry import Entry, Kind

STATES: Final = (Kind.RELEASED, Kind.DENIED, Kind.FAILED, Kind.CALL_RESULT)
"""Kinds that say what a call came to, the strongest first; NO_END where nothing does."""


@dataclass(frozen=True, slots=True)
class Asked:
    """What is looked for; None for what does not matter.

    model: a digest ("sha256:...") or a name. condition, observed: a class as CALL_INTENT's checks have it, together.
    begin (included), end (excluded): of the intent, as entries write time. approval: its id.
    """

    model: str | None = None
    approval: str | None = None
    condition: str | None = None
    observed: str | None = None
    begin: str | None = None
    end: str | None = None

    def named(self, model: Mapping[str, Any]) -> bool:
        """Whether it is the model that is asked for."""
        return self.model is not None and self.model in (model["digest"], model["name"])

    def fits(self, time: str, body: Mapping[str, Any]) -> bool:
        """Whether a CALL_INTENT of this time and body is one of those."""
        if self.model is not None and not self.named(body["model"]):
            return False
        if self.approval is not None and body["approval"] != self.approval:
            return False
        if self.condition is not None and not any(
            (check["condition"], check["observed"]) == (self.condition, self.observed) for check in body["checks"]
        ):
            return False
        return (self.begin is None or time >= self.begin) and (self.end is None or time < self.end)


@dataclass(frozen=True, slots=True)
class Touched:
    """One call. study, patient: pseudonyms. model: as entries name it.

    state: RELEASED (its objects were sent), DENIED, FAILED, NOT_RELEASED (a result that was not sent) or NO_END.
    decision: what the physician did with it, last; None where nobody has said.
    """

    call: str
    index: int
    time: str
    study: str
    patient: str | None
    model: Mapping[str, str]
    approval: str
    state: str = "NO_END"
    decision: str | None = None


@dataclass(frozen=True, slots=True)
class Answer:
    """The calls, in the order in which they began; and the models of the log that the asked name or digest names."""

    calls: tuple[Touched, ...]
    models: tuple[Mapping[str, str], ...]


def touched(entries: Iterable[Entry], asked: Asked) -> Answer:
    """Read all entries, once. A call whose intent was written twice is there once."""
    found: dict[str, Touched] = {}
    ranks: dict[str, int] = {}
    models: dict[str, Mapping[str, str]] = {}
    for entry in entries:
        call = entry.call
        if call is None:
            continue
        body: Mapping[str, Any] = entry.body
        if entry.kind is Kind.CALL_INTENT:
            if asked.named(body["model"]):
                models.setdefault(str(body["model"]["digest"]), dict(body["model"]))
            if call not in found and asked.fits(entry.time, body):
                found[call] = _of(call, entry)
        elif call in found and entry.kind in STATES:
            rank = STATES.index(entry.kind)
            if rank < ranks.get(call, len(STATES)):
                ranks[call] = rank
                state = "NOT_RELEASED" if entry.kind is Kind.CALL_RESULT else entry.kind.value
                found[call] = replace(found[call], state=state)
        elif call in found and entry.kind is Kind.HUMAN_DECISION:
            found[call] = replace(found[call], decision=str(body["decision"]))
    return Answer(tuple(found.values()), tuple(models.values()))


def _of(call: str, entry: Entry) -> Touched:
    body: Mapping[str, Any] = entry.body
    return Touched(
        call=call,
        index=entry.index,
        time=entry.time,
        study=str(body["study"]),
        patient=None if body["patient"] is None else str(body["patient"]),
        model=dict(body["model"]),
        approval=str(body["approval"]),
    )
