"""Handing a reviewer the package: what is in scope, the entry that says so, the witnesses, then the file."""

import secrets
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from datetime import datetime
from pathlib import Path

from audit.canonical import JsonValue
from audit.checkpoint import Checkpoint
from audit.entry import Draft, Entry, Kind
from audit.export import Evidence, Exported, Scope, export
from audit.log import AuditLog
from audit.witnessing import Witnessed
from dicom_bridge.audit_event import Reporter
from service.people import People, scan_of
from service.stamps import Held, with_stamps
from service.summary import About

DECISIONS: Mapping[str, Kind] = {
    "permitted": Kind.CALL_INTENT,
    "denied": Kind.DENIED,
    "failed": Kind.FAILED,
    "released": Kind.RELEASED,
}
"""What may be asked for with --decision: the kind of entry that says so."""


@dataclass(frozen=True, slots=True)
class Handover:
    """Whom the package is for (`recipient`, `contract`: short names without personal numbers) and why (`purpose`).

    `reconciliation`: files of `zhiying audit reconcile` that go with it, by name.
    """

    recipient: str
    purpose: str
    contract: str
    reconciliation: Mapping[str, bytes] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Asked:
    """What of the log is wanted; all that is given must hold. `study`: its pseudonyms, one for each
    month in which it was read, with commas between them; `model`: a name.
    """

    begin: datetime | None = None
    end: datetime | None = None
    study: str | None = None
    model: str | None = None
    decision: str | None = None

    @property
    def words(self) -> dict[str, str]:
        """For the manifest and the log."""
        said = {"study": self.study, "model": self.model, "decision": self.decision}
        return {name: value for name, value in said.items() if value is not None}


@dataclass(frozen=True, slots=True)
class ForPeople:
    """What the members for people need. `words`: the hospital's patients, for the scan alone; see service.phi_scan."""

    reporter: Reporter
    words: Iterable[str] = ()
    canaries: Iterable[str] = ()


@dataclass(slots=True)
class _Call:
    study: str | None = None
    models: set[str] = field(default_factory=set)
    kinds: set[Kind] = field(default_factory=set)


def selection(entries: Iterable[Entry], asked: Asked) -> Callable[[Entry], bool]:
    """Return what tells whether an entry is wanted. A call is taken whole: each decision can be weighed again."""
    if not asked.words:
        return lambda _: True
    calls: dict[str, _Call] = {}
    for entry in entries:
        if entry.call is not None:
            _tell(calls.setdefault(entry.call, _Call()), entry)

    def wanted(entry: Entry) -> bool:
        told = calls[entry.call] if entry.call is not None else _tell(_Call(), entry)
        return (
            (asked.study is None or told.study in asked.study.split(","))
            and (asked.model is None or asked.model in told.models)
            and (asked.decision is None or DECISIONS[asked.decision] in told.kinds)
        )

    return wanted


def hand_over(
    log: AuditLog,
    path: Path,
    asked: Asked,
    to: Handover,
    witnessed: Callable[[], Witnessed | None],
    published: Callable[[], Checkpoint],
    stamps: Callable[[], Iterable[Held]] = tuple,
    people: ForPeople | None = None,
    sm3: Callable[[], bytes | None] = lambda: None,
) -> Exported:
    """Log the export, have it witnessed, and write the package; the log says so whether or not the file came to be.

    `witnessed` asks the witnesses for the newest public checkpoint, where there are any, and gives the newest that a
    quorum has cosigned; `stamps` gives the time stamps that are held. `people` None: without members for people. `sm3`:
    the second tree's checkpoint, where there is one. Raises AuditError, OSError, PatientDataFound.
    """
    scope = Scope(asked.begin, asked.end, asked.words)
    said: dict[str, JsonValue] = {
        "recipient": to.recipient,
        "purpose": to.purpose,
        "contract": to.contract,
        "scope": scope.digest,
    }
    ours = log.append(Draft(Kind.EXPORT, f"export:{secrets.token_hex(16)}", said))
    log.publish()
    vouched = witnessed()
    newest = published()
    if vouched is not None and vouched.checkpoint.size > ours.index:
        head = vouched.checkpoint
        evidence = Evidence(checkpoint=head.note)
    else:
        head = newest
        older = () if vouched is None or vouched.checkpoint.size >= newest.size else (vouched.checkpoint.note,)
        evidence = Evidence(checkpoint=newest.note, older=older)
    evidence = with_stamps(evidence, head, stamps(), asked.begin, asked.end)
    companion = None if people is None else _companion(log, people, scope, said)
    evidence = replace(evidence, sm3=sm3(), companion=companion, reconciliation=to.reconciliation)
    # Chosen last: a service beside us has logged more meanwhile, and the package ends where the checkpoint does.
    return export(log, path, replace(scope, selects=selection(log.entries(), asked)), evidence)


def _companion(log: AuditLog, people: ForPeople, scope: Scope, said: Mapping[str, JsonValue]) -> People:
    manifest = scope.said
    period, words = manifest["period"], manifest["filter"]
    about = About(
        origin=log.head().origin,
        period=period if isinstance(period, Mapping) else {},
        filter=words if isinstance(words, Mapping) else {},
        recipient={name: str(said[name]) for name in ("recipient", "purpose", "contract")},
    )
    return People(log, people.reporter, about, scan_of(people.words, people.canaries))


def _tell(call: _Call, entry: Entry) -> _Call:
    study, model = entry.body.get("study"), entry.body.get("model")
    if isinstance(study, str):
        call.study = study
    if isinstance(model, Mapping):
        call.models.add(str(model["name"]))
    call.kinds.add(entry.kind)
    return call
