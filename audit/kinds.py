"""The kinds of entry, and exactly what each one's body holds. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from enum import StrEnum
from types import MappingProxyType

from audit.schema import (
    CODE,
    DECIMAL,
    DIGEST,
    FIGURE,
    HEX32,
    INTEGER,
    NOTE,
    OBSERVED,
    OWN_UID,
    PERIOD,
    ROOT,
    TIME,
    TOKEN,
    Listing,
    Maybe,
    Observation,
    Record,
    Rule,
    Table,
)


class Kind(StrEnum):
    """What happened. A new kind is a new member here and a new row in BODIES."""

    LOG_START = "LOG_START"
    HEARTBEAT = "HEARTBEAT"
    CONFIG = "CONFIG"
    EXPORT = "EXPORT"
    LOG_READ = "LOG_READ"
    ERASURE = "ERASURE"
    APPROVAL = "APPROVAL"
    ASSEMBLED = "ASSEMBLED"
    SELECTED = "SELECTED"
    CALL_INTENT = "CALL_INTENT"
    CALL_RESULT = "CALL_RESULT"
    RELEASED = "RELEASED"
    DENIED = "DENIED"
    FAILED = "FAILED"
    RESTORE = "RESTORE"
    SEAL = "SEAL"
    STATE_CHANGE = "STATE_CHANGE"
    STOP = "STOP"
    RESUME = "RESUME"
    EVALUATION = "EVALUATION"
    HUMAN_DECISION = "HUMAN_DECISION"
    GOLDEN = "GOLDEN"
    CASE = "CASE"
    ACCEPTANCE = "ACCEPTANCE"
    SAFETY_REPORT = "SAFETY_REPORT"
    INCIDENT = "INCIDENT"
    LOOKBACK = "LOOKBACK"
    OPT_OUT = "OPT_OUT"
    RECONCILED = "RECONCILED"
    WITHDRAWN = "WITHDRAWN"
    NOTIFIED = "NOTIFIED"
    VIEWED = "VIEWED"


_MODEL = Record({"name": TOKEN, "version": TOKEN, "digest": DIGEST})
_CHECK = Observation(Record({"condition": CODE, "outcome": CODE, "observed": TOKEN}))
_MEASUREMENT = Record({"code": TOKEN, "value": DECIMAL, "unit": TOKEN})
# Of a call on a labelled case (ACCEPTANCE). A call without one is on a study that somebody waits for, or did.
_PURPOSE: Mapping[str, Rule] = {"purpose": CODE}
_SIGNED: Mapping[str, Rule] = {"note": NOTE, "note_digest": DIGEST}
_SWITCH = Record({"level": CODE, "site": Maybe(TOKEN), "reason": CODE, **_SIGNED})

BODIES: Mapping[Kind, Rule] = MappingProxyType(
    {
        # A log that succeeds another one names where that one ended.
        Kind.LOG_START: Record(
            {
                "origin": TOKEN,
                "software": TOKEN,
                "predecessor": Maybe(Record({"origin": TOKEN, "size": INTEGER, "root": ROOT})),
            }
        ),
        # The writer is alive and promises another one within so many seconds: a longer silence is to be explained.
        Kind.HEARTBEAT: Record({"interval_s": INTEGER}),
        # A process of the service begins to work: with which code, settings (their digest, no secret) and libraries.
        Kind.CONFIG: Record({"settings": DIGEST, "software": TOKEN, "code": DIGEST, "runtime": Table(TOKEN, TOKEN)}),
        # Somebody is about to learn whom a pseudonym names: who, why, and which one.
        Kind.LOG_READ: Record({"person": OBSERVED, "purpose": CODE, "pseudonym": HEX32}),
        # The key of a month's identities was destroyed, and with it this many rows of the map.
        Kind.ERASURE: Record({"period": PERIOD, "rows": INTEGER}),
        # A package is about to be handed over: to whom, why, under which contract, and a digest of what was asked for.
        Kind.EXPORT: Record({"recipient": OBSERVED, "purpose": CODE, "contract": OBSERVED, "scope": DIGEST}),
        Kind.APPROVAL: Record({"note": NOTE, "note_digest": DIGEST}),
        Kind.ASSEMBLED: Record(
            {"study": HEX32, "instances": INTEGER, "series": INTEGER, "trigger": CODE, "input": HEX32}
        ),
        Kind.SELECTED: Record({"study": HEX32, "series": HEX32, "model": _MODEL, "modality": CODE}),
        Kind.CALL_INTENT: Record(
            {
                "site": TOKEN,
                "requester": Maybe(OBSERVED),
                "patient": Maybe(HEX32),
                "study": HEX32,
                "series": INTEGER,
                "instances": INTEGER,
                "input": HEX32,
                "model": _MODEL,
                "card": DIGEST,
                "approval": TOKEN,
                "policy": DIGEST,
                "autonomy": CODE,
                "state": CODE,
                "checks": Listing(_CHECK),
                "runtime": Table(TOKEN, TOKEN),
            },
            _PURPOSE,
        ),
        Kind.CALL_RESULT: Record(
            {
                "outputs": Listing(Record({"kind": CODE, "uid": OWN_UID, "digest": DIGEST})),
                "outcome": CODE,
                "measurements": Listing(_MEASUREMENT),
                "timing_ms": Table(TOKEN, INTEGER),
                "deadline_ms": INTEGER,
                "deadline_met": CODE,
                "device": TOKEN,
                "software": TOKEN,
            },
            # Of a result that lacks some outputs of the model: which, and the check that each did not pass.
            {"failed": Listing(Record({"output": TOKEN, "code": CODE}))},
        ),
        Kind.RELEASED: Record(
            {
                "outputs": Listing(Record({"uid": OWN_UID, "digest": DIGEST})),
                "peer": TOKEN,
                "attempts": INTEGER,
                "proof": CODE,
            }
        ),
        Kind.DENIED: Observation(
            Record(
                {
                    "study": HEX32,
                    "stage": CODE,
                    "code": CODE,
                    "condition": Maybe(OBSERVED),
                    "observed": Maybe(TOKEN),
                    "model": Maybe(_MODEL),
                },
                _PURPOSE,
            )
        ),
        Kind.FAILED: Record({"study": HEX32, "stage": CODE, "code": CODE, "fault": CODE}),
        # Why this log succeeds another one: a statement that somebody outside signed; see succession.
        Kind.RESTORE: Record({"note": NOTE, "note_digest": DIGEST, "reason": CODE}),
        # The last entry of a log that another one succeeds; nothing follows it.
        Kind.SEAL: Record({"successor": TOKEN, "reason": CODE}),
        # A dossier goes from one state to another, or stays where it is and is bound closer (condition, observed: a
        # class that is taken out of use). By people, whose act is the note; or by the monitor, whose evidence is the
        # index of an entry.
        Kind.STATE_CHANGE: Observation(
            Record(
                {
                    "model": _MODEL,
                    "event": CODE,
                    "from": CODE,
                    "to": CODE,
                    "reason": CODE,
                    "condition": Maybe(CODE),
                    "observed": Maybe(TOKEN),
                    "evidence": Maybe(INTEGER),
                    "note": Maybe(NOTE),
                    "note_digest": Maybe(DIGEST),
                }
            )
        ),
        # All models of a site, or of the whole service, stop; and may go on. A single model is suspended instead.
        Kind.STOP: _SWITCH,
        Kind.RESUME: _SWITCH,
        # What the monitor found, from the calls in the entries first to last, by the code of this digest, with the
        # thresholds of this approval.
        Kind.EVALUATION: Record(
            {
                "metric": CODE,
                "tier": CODE,
                "model": _MODEL,
                "approval": TOKEN,
                "first": INTEGER,
                "last": INTEGER,
                "n": INTEGER,
                "value": Maybe(FIGURE),
                "limit": Maybe(FIGURE),
                "outcome": CODE,
                "subgroup": Maybe(OBSERVED),
                "code": DIGEST,
            }
        ),
        # What a physician did with a result. reader: pseudonym; difference: measured values as they were and are.
        Kind.HUMAN_DECISION: Record(
            {
                "decision": CODE,
                "reasons": Listing(CODE),
                "significant": CODE,
                "reader": Maybe(HEX32),
                "role": CODE,
                "training": Maybe(DIGEST),
                "channel": CODE,
                "seconds": Maybe(INTEGER),
                "blinded": CODE,
                "difference": Listing(
                    Record({"code": TOKEN, "before": Maybe(FIGURE), "after": Maybe(FIGURE), "unit": TOKEN})
                ),
                "concordance": Maybe(CODE),
            },
            {"object": HEX32},  # of a decision that came back by DICOM: a pseudonym of the very object
        ),
        # A known case was run again: at the start, each day, after a change of driver. difference: the largest.
        Kind.GOLDEN: Record(
            {
                "model": _MODEL,
                "case": DIGEST,
                "occasion": CODE,
                "outcome": CODE,
                "measurements": Listing(_MEASUREMENT),
                "difference": Maybe(FIGURE),
                "tolerance": FIGURE,
                "device": TOKEN,
                "runtime": Table(TOKEN, TOKEN),
            }
        ),
        # One labelled case of a local acceptance under this approval, beside what its call found.
        Kind.CASE: Record(
            {
                "approval": TOKEN,
                "dataset": DIGEST,
                "truth": Maybe(CODE),
                "positive": Maybe(CODE),
                "score": Maybe(FIGURE),
                "dice": Maybe(FIGURE),
                "volume_error": Maybe(FIGURE),
                "failed": CODE,
            }
        ),
        # The rows that the cases of a dataset give, and how many of the approval's bounds they do not meet.
        Kind.ACCEPTANCE: Record(
            {
                "model": _MODEL,
                "approval": TOKEN,
                "dataset": DIGEST,
                "cases": INTEGER,
                "rows": Listing(
                    Record(
                        {
                            "metric": CODE,
                            "subgroup": Maybe(OBSERVED),
                            "n": INTEGER,
                            "value": Maybe(FIGURE),
                            "low": Maybe(FIGURE),
                            "high": Maybe(FIGURE),
                        }
                    )
                ),
                "unmet": INTEGER,
                "report": DIGEST,
                "code": DIGEST,
            }
        ),
        # A periodic safety report was made from the entries first to last; a reviewer countersigns its digest.
        Kind.SAFETY_REPORT: Record(
            {"model": _MODEL, "period": PERIOD, "months": INTEGER, "first": INTEGER, "last": INTEGER, "report": DIGEST}
        ),
        # A case and its clocks: what must be told to whom by when is a code and a time.
        Kind.INCIDENT: Record(
            {
                "incident": HEX32,
                "event": CODE,
                "category": CODE,
                "severity": CODE,
                "model": Maybe(_MODEL),
                "clocks": Listing(Record({"clock": CODE, "due": TIME})),
            }
        ),
        # Somebody asked which studies a model, an approval, a condition's class or a time touched, and why; and got so
        # many calls.
        Kind.LOOKBACK: Observation(
            Record(
                {
                    "person": OBSERVED,
                    "purpose": CODE,
                    "incident": Maybe(HEX32),
                    "model": Maybe(_MODEL),
                    "approval": Maybe(TOKEN),
                    "condition": Maybe(CODE),
                    "observed": Maybe(TOKEN),
                    "from": Maybe(TIME),
                    "to": Maybe(TIME),
                    "calls": INTEGER,
                }
            )
        ),
        # A patient does not want AI, or wants it again. patient: a name of its own, which no call has.
        Kind.OPT_OUT: Record({"patient": HEX32, "choice": CODE}),
        # What a PACS holds was compared with the first `size` entries. found: how many objects by problem; unlogged:
        # those that the log does not know, as many as a list takes; with the model's digest where the log tells it.
        Kind.RECONCILED: Record(
            {
                "report": DIGEST,
                "source": CODE,
                "peer": Maybe(TOKEN),
                "size": INTEGER,
                "from": Maybe(TIME),
                "to": Maybe(TIME),
                "held": INTEGER,
                "others": INTEGER,
                "agreed": INTEGER,
                "pending": INTEGER,
                "receipts": INTEGER,
                "found": Table(CODE, INTEGER),
                "unlogged": Listing(Record({"uid": OWN_UID, "model": Maybe(DIGEST)})),
            }
        ),
        # A released result counts no more: a person said so, or the later call `by` stands in its place. outputs: what
        # the peer holds of it, and keeps; note: what it is about to be told that by.
        Kind.WITHDRAWN: Record(
            {
                "reason": CODE,
                "person": Maybe(OBSERVED),
                "by": Maybe(HEX32),
                "peer": TOKEN,
                "note": OWN_UID,
                "outputs": Listing(Record({"uid": OWN_UID})),
            }
        ),
        # A released result, or that it counts no more (`told`), was told to a system that reads no DICOM by the message
        # of this digest: it has taken it, or refused it, or it was given up. proof: the code of its last answer, or of
        # why there was none.
        Kind.NOTIFIED: Record(
            {
                "peer": TOKEN,
                "form": CODE,
                "told": CODE,
                "digest": DIGEST,
                "outcome": CODE,
                "proof": CODE,
                "attempts": INTEGER,
            }
        ),
        # A reader is about to be shown what there is of a study, for the first time in this civil day: who by their
        # pseudonym, as HUMAN_DECISION has it. The key is a digest of these three and the day.
        Kind.VIEWED: Record({"study": HEX32, "reader": HEX32, "role": CODE}),
    }
)
"""What each kind's body holds: exactly these fields, all of them."""

CALL_NEEDED = frozenset(
    {
        *(Kind.CALL_INTENT, Kind.CALL_RESULT, Kind.RELEASED, Kind.NOTIFIED, Kind.WITHDRAWN),
        *(Kind.HUMAN_DECISION, Kind.CASE),
    }
)
CALL_EITHER = frozenset({Kind.ASSEMBLED, Kind.SELECTED, Kind.DENIED, Kind.FAILED})
CALL_ABSENT = frozenset(Kind) - CALL_NEEDED - CALL_EITHER
