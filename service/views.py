"""What people and programs see of studies: the same shape for the command line and the API."""

from collections.abc import Sequence
from datetime import datetime
from typing import Any, Protocol

from audit.entry import Entry
from audit.errors import AuditError
from dicom_bridge.spool_index import Instance
from service.store import Store, foremost

RECEIVING = "RECEIVING"


class Decided(Protocol):
    """What the log says of calls; service.decisions.Desk. Both raise AuditError."""

    def on(self, call: str) -> Sequence[Entry]:
        """The HUMAN_DECISION entries of a call, oldest first."""

    def withdrawn(self, call: str) -> Entry | None:
        """The WITHDRAWN entry of a call."""


class Waiting(Protocol):
    """A study that no run has seen as it is now."""

    @property
    def study_uid(self) -> str:
        """StudyInstanceUID."""

    @property
    def last_received_at(self) -> datetime:
        """When its last instance was stored."""


class Held(Protocol):
    """What the spool says of itself: the service's inbox, or its index beside a running service."""

    def open_studies(self) -> Sequence[Waiting]:
        """Studies that are still arriving."""

    def instances(self, study_uid: str) -> Sequence[Instance]:
        """What is held of a study."""


def studies(store: Store, inbox: Held) -> list[dict[str, Any]]:
    """Latest runs first, then studies that are still arriving."""
    runs = [run.as_dict() for run in store.latest()]
    arriving = [
        {"study_uid": item.study_uid, "state": RECEIVING, "code": None, "attempt": 0, "model": None}
        | {"updated_at": item.last_received_at.isoformat()}
        for item in inbox.open_studies()
    ]
    return arriving + runs


def study(store: Store, inbox: Held, study_uid: str, decided: Decided | None) -> dict[str, Any] | None:
    """One study with all its runs and who decided what on them, or None where nothing of it was received.

    `decisions` of a run is None where the log does not say: there is no `decided`, or it cannot read. `withdrawn`: why,
    by whom or by which later call, and when; None where it was not, or the log does not say.
    """
    runs = store.of_study(study_uid)
    held = inbox.instances(study_uid)
    if not runs and not held:
        return None
    last = foremost(runs)
    return {
        "study_uid": study_uid,
        "state": last.state if last else RECEIVING,
        "code": last.code if last else None,
        "instances": len(held),
        "runs": [
            run.as_dict() | {"decisions": _decisions(run.call, decided), "withdrawn": _withdrawn(run.call, decided)}
            for run in runs
        ],
    }


def _decisions(call: str | None, decided: Decided | None) -> list[dict[str, Any]] | None:
    if call is None:
        return []
    try:
        return None if decided is None else [_decision(one) for one in decided.on(call)]
    except AuditError:
        return None  # the study is shown all the same


def _withdrawn(call: str | None, decided: Decided | None) -> dict[str, Any] | None:
    try:
        entry = None if call is None or decided is None else decided.withdrawn(call)
    except AuditError:
        return None
    if entry is None:
        return None
    return {**{key: entry.body[key] for key in ("reason", "person", "by")}, "time": entry.time, "index": entry.index}


def _decision(entry: Entry) -> dict[str, Any]:
    """Who (a pseudonym) said what, when, and under which number it stands in the log."""
    body = entry.body
    said = {key: body[key] for key in ("decision", "role", "reader", "significant", "channel")}
    changed = [dict(one) for one in body["difference"]]  # type: ignore[union-attr,arg-type]
    return {
        **said,
        "reasons": list(body["reasons"]),  # type: ignore[arg-type]
        "difference": changed,
        "time": entry.time,
        "index": entry.index,
    }
