"""Entries of the log as events of the field: which entry is which event of DICOM PS3.15 A.5.3.

Beside the log, never instead of it: an event names the log's entry (origin, index, key) and repeats little of it. What
is repeated is on a list here: codes of our own, digests, commitments, our own UIDs, counts, a reader's pseudonym. What
a model measured, and what was observed in an image's header, stays in the log. Pure.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from types import MappingProxyType
from typing import Final

from audit.canonical import JsonValue
from audit.entry import Entry
from audit.errors import EntryInvalid
from audit.schema import CODE, DIGEST, HEX32, INTEGER, OBSERVED, OWN_UID, PERIOD, TOKEN, Rule
from dicom_bridge.audit_event import (
    APPLICATION,
    APPLICATION_ACTIVITY,
    AUDIT_LOG_USED,
    DESIGNATOR,
    DESTINATION,
    DESTINATION_MEDIA,
    EXPORT,
    INSTANCES_ACCESSED,
    INSTANCES_TRANSFERRED,
    MINOR,
    OBJECT_SECURITY,
    READER,
    RECORDING_STARTED,
    RECORDING_STOPPED,
    SECURITY_ALERT,
    SERIOUS,
    SOURCE,
    STARTED,
    SUCCESS,
    URI_MEDIA,
    Code,
    Details,
    Event,
    Node,
    Participant,
    Reporter,
)


def events_of(entry: Entry, reporter: Reporter, study: str | None = None) -> tuple[Event, ...]:
    """What the entry is to the field: no event (a heartbeat), one, or two (an export).

    `study` is the pseudonym of the entry's call, for kinds that name only the call; the entry's own comes first. A kind
    that is not known here gives one event without anything of its body: Instances Accessed where there is a study,
    else a Security Alert, each with the kind as its private type.
    """
    known = _text(entry.body.get("study"), HEX32) or _text(study, HEX32)
    return _RULES.get(str(entry.kind), _unknown)(_Given(entry, reporter, known))


# ---- what of a body may come out -------------------------------------------------------------------------------------


def _text(value: JsonValue, rule: Rule) -> str | None:
    try:
        rule.check(value, "")
    except EntryInvalid:
        return None
    return str(value)


def _taken(body: Mapping[str, JsonValue], wanted: Mapping[str, Rule], prefix: str = "") -> Details:
    """Of the body, what is wanted and obeys its rule, whatever else a body of a later version holds."""
    found = ((name, _text(body.get(name), rule)) for name, rule in wanted.items())
    return tuple((prefix + name, text) for name, text in found if text is not None)


def _within(body: Mapping[str, JsonValue], name: str) -> Mapping[str, JsonValue]:
    inner = body.get(name)
    return inner if isinstance(inner, Mapping) else {}


def _uids(body: Mapping[str, JsonValue]) -> tuple[str, ...]:
    outputs = body.get("outputs")
    rows = outputs if isinstance(outputs, (list, tuple)) else ()
    found = (_text(row.get("uid"), OWN_UID) for row in rows if isinstance(row, Mapping))
    return tuple(uid for uid in found if uid is not None)


# ---- which entry is which event --------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class _Given:
    """What a rule decides from."""

    entry: Entry
    reporter: Reporter
    study: str | None

    @property
    def body(self) -> Mapping[str, JsonValue]:
        return self.entry.body

    @property
    def kind(self) -> Code:
        kind = str(self.entry.kind)
        return Code(kind, DESIGNATOR, kind.replace("_", " ").capitalize())

    @property
    def model(self) -> Details:
        return _taken(_within(self.body, "model"), {"name": TOKEN, "version": TOKEN, "digest": DIGEST}, "model-")

    def us(self, role: Code = APPLICATION, *, requestor: bool = True) -> Participant:
        return Participant(self.reporter.system, role, requestor, self.reporter.node)

    def access(self, details: Details, outcome: int = SUCCESS) -> tuple[Event, ...]:
        """We read the study."""
        return (
            Event(
                *(self.entry, self.reporter, INSTANCES_ACCESSED, "R", (self.kind,), (self.us(),)),
                outcome=outcome,
                study=self.study,
                details=details,
            ),
        )

    def warn(self, types: tuple[Code, ...], alert: str, details: Details = ()) -> tuple[Event, ...]:
        """Something that those who look after security should see."""
        given = (*types, self.kind)
        return (
            Event(
                *(self.entry, self.reporter, SECURITY_ALERT, "E", given, (self.us(),)),
                details=details,
                alert=alert,
            ),
        )


def _log_start(given: _Given) -> tuple[Event, ...]:
    # Who launched us is not known: then nobody is named as requestor (A.5.2).
    us = (given.us(requestor=False),)
    details = _taken(given.body, {"software": TOKEN})
    return (Event(given.entry, given.reporter, APPLICATION_ACTIVITY, "E", (STARTED,), us, details=details),)


def _approval(given: _Given) -> tuple[Event, ...]:
    # What changes is what a model may be used for: an object's security attributes (110135), and not our software's
    # or our security's configuration (110131, 110129), which nobody touches.
    details = _taken(given.body, {"note_digest": DIGEST})
    return given.warn((OBJECT_SECURITY,), "an approval of a model was taken into the log", details)


def _log_read(given: _Given) -> tuple[Event, ...]:
    # Who it was stays in the log: a short name is whatever somebody typed.
    return (Event(given.entry, given.reporter, AUDIT_LOG_USED, "R", (given.kind,), (given.us(),)),)


def _erasure(given: _Given) -> tuple[Event, ...]:
    details = _taken(given.body, {"period": PERIOD, "rows": INTEGER})
    return given.warn((OBJECT_SECURITY,), "the identities of a month were erased", details)


def _restore(given: _Given) -> tuple[Event, ...]:
    return given.warn((RECORDING_STARTED,), "this log succeeds another one", _taken(given.body, {"reason": CODE}))


def _seal(given: _Given) -> tuple[Event, ...]:
    return given.warn((RECORDING_STOPPED,), "this log has ended", _taken(given.body, {"reason": CODE}))


def _life(given: _Given) -> tuple[Event, ...]:
    # What a model may be used for has changed, or must be looked at: an object's security attributes, as an approval.
    wanted = {
        "event": CODE,
        "from": CODE,
        "to": CODE,
        "level": CODE,
        "reason": CODE,
        "category": CODE,
        "severity": CODE,
    }
    details = (*given.model, *_taken(given.body, wanted))
    return given.warn((OBJECT_SECURITY,), "what a model may be used for has changed", details)


def _decision(given: _Given) -> tuple[Event, ...]:
    return given.access(_taken(given.body, {"decision": CODE, "channel": CODE}))


def _viewed(given: _Given) -> tuple[Event, ...]:
    # A person asked, and we showed it: the reader is the requestor, and their machine's address is not known here.
    reader = _text(given.body.get("reader"), HEX32) or "unknown"
    parties = (Participant(reader, READER, requestor=True), given.us(requestor=False))
    (event,) = given.access(_taken(given.body, {"role": CODE}))
    return (replace(event, participants=parties),)


def _withdrawn(given: _Given) -> tuple[Event, ...]:
    return given.access(_taken(given.body, {"reason": CODE}))


def _assembled(given: _Given) -> tuple[Event, ...]:
    return given.access(_taken(given.body, {"instances": INTEGER, "trigger": CODE, "input": HEX32}))


def _selected(given: _Given) -> tuple[Event, ...]:
    return given.access((*_taken(given.body, {"series": HEX32, "modality": CODE}), *given.model))


def _intent(given: _Given) -> tuple[Event, ...]:
    wanted = {"input": HEX32, "approval": TOKEN, "policy": DIGEST, "autonomy": CODE}
    return given.access((*given.model, *_taken(given.body, wanted)))


def _result(given: _Given) -> tuple[Event, ...]:
    lasted = _taken(_within(given.body, "timing_ms"), {"total": INTEGER}, "timing-ms-")
    made = tuple(("output", uid) for uid in _uids(given.body))
    return given.access((*_taken(given.body, {"outcome": CODE}), *lasted, *made))


def _released(given: _Given) -> tuple[Event, ...]:
    peer = _text(given.body.get("peer"), TOKEN) or "unknown"
    node = given.reporter.peers.get(peer, Node())
    parties = (given.us(SOURCE), Participant(peer, DESTINATION, requestor=False, node=node))
    return (
        Event(
            *(given.entry, given.reporter, INSTANCES_TRANSFERRED, "C", (given.kind,), parties),
            study=given.study,
            instances=_uids(given.body),
            details=_taken(given.body, {"proof": CODE}),
        ),
    )


def _notified(given: _Given) -> tuple[Event, ...]:
    # The result left again, in a form that is no DICOM: for the field an export, with the receiver as its medium.
    receiver = _text(given.body.get("peer"), TOKEN) or "unknown"
    parties = (given.us(SOURCE), Participant(receiver, DESTINATION_MEDIA, requestor=False, media=URI_MEDIA))
    details = _taken(given.body, {"form": CODE, "told": CODE, "digest": DIGEST, "outcome": CODE, "proof": CODE})
    outcome = SUCCESS if ("outcome", "DELIVERED") in details else SERIOUS
    event = Event(given.entry, given.reporter, EXPORT, "R", (given.kind,), parties, outcome, study=given.study)
    return (replace(event, details=details),)


def _denied(given: _Given) -> tuple[Event, ...]:
    return given.access((*_taken(given.body, {"code": CODE, "stage": CODE}), *given.model), MINOR)


def _failed(given: _Given) -> tuple[Event, ...]:
    return given.access(_taken(given.body, {"code": CODE, "stage": CODE, "fault": CODE}), SERIOUS)


def _export(given: _Given) -> tuple[Event, ...]:
    # OBSERVED: who asked for an export is typed in by somebody, and shall not look like a person's number.
    recipient = _text(given.body.get("recipient"), OBSERVED) or "file"
    medium = Participant(recipient, DESTINATION_MEDIA, requestor=False, media=URI_MEDIA)
    types = (given.kind,)
    return (
        Event(given.entry, given.reporter, AUDIT_LOG_USED, "R", types, (given.us(),)),
        Event(given.entry, given.reporter, EXPORT, "R", types, (given.us(SOURCE), medium), part=1),
    )


def _reconciled(given: _Given) -> tuple[Event, ...]:
    if not given.body.get("unlogged"):
        return ()
    details = _taken(given.body, {"report": DIGEST, "source": CODE})
    return given.warn((), "the PACS holds results that the log does not know", details)


def _silent(_: _Given) -> tuple[Event, ...]:
    return ()


def _unknown(given: _Given) -> tuple[Event, ...]:
    if given.study is not None:
        return given.access(())
    return given.warn((), "an entry was added to the log")


_RULES: Final[Mapping[str, Callable[[_Given], tuple[Event, ...]]]] = MappingProxyType(
    {
        "LOG_START": _log_start,
        "CONFIG": _log_start,
        "LOG_READ": _log_read,
        "ERASURE": _erasure,
        "APPROVAL": _approval,
        "ASSEMBLED": _assembled,
        "SELECTED": _selected,
        "CALL_INTENT": _intent,
        "CALL_RESULT": _result,
        "RELEASED": _released,
        "NOTIFIED": _notified,
        "DENIED": _denied,
        "FAILED": _failed,
        "EXPORT": _export,
        "RESTORE": _restore,
        "SEAL": _seal,
        "STATE_CHANGE": _life,
        "STOP": _life,
        "RESUME": _life,
        "INCIDENT": _life,
        "OPT_OUT": _life,
        "HUMAN_DECISION": _decision,
        "VIEWED": _viewed,
        "CASE": _decision,
        "WITHDRAWN": _withdrawn,
        "LOOKBACK": _log_read,
        "RECONCILED": _reconciled,
        # The service looks at itself: no study is touched that an entry of its own does not name.
        "EVALUATION": _silent,
        "GOLDEN": _silent,
        "ACCEPTANCE": _silent,
        "SAFETY_REPORT": _silent,
        "HEARTBEAT": _silent,
    }
)
KNOWN: Final = frozenset(_RULES)
"""The kinds with a rule of their own; by name, as some are younger than this table or than a log."""
