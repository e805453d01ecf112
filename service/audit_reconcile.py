"""Does the PACS hold what the log says, and nothing of ours besides? The check that no call past the log can pass.

What was compared and found goes into the log (RECONCILED); for what is UNLOGGED the monitor suspends.

The PACS's list comes from the PACS: asked by us, or written by its own administrator, who is the better witness.

    UNLOGGED     the PACS holds it, and no CALL_RESULT names it: a call that the log does not know, or one cut out;
                 or only that of a call whose results are never sent (in the shadow, of a labelled set)
    UNKNOWN      the same, under a UID that we cannot have made: another system's, or that of a call past all of this
    UNRELEASED   the PACS holds it, and the log has its result, but after the time of grace still no release
    MISSING      the log says that it was released, and the PACS does not hold it
    (The report of a refusal, "denied", may be held or not: its DENIED entry names it, and no result is in it.)
    STUCK        the log has its result, and after the time of grace neither a release nor a failure
    RECEIPT_...  a report that was looked into carries no receipt, a false one, or that of another call

What the logs before this one name is known too, as far as they are whole; whether it is still there, nobody asks.

What it cannot see: objects under UIDs that are not of our form (under 2.25.), unless the list was said to be of ours
alone; key images (SC, GSPS, KOS) in a peer that no CALL_RESULT names, since those of other makers have UIDs of this
form; what was never sent to this PACS; what lies outside the days that were asked for.
"""

import hashlib
import json
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from enum import StrEnum
from typing import Any

from audit.entry import Draft, Entry, JsonValue, Kind, format_time, parse_time
from audit.errors import AuditError
from audit.log import AuditLog
from audit.note import Verifier
from audit.schema import LIST_MAX
from dicom_bridge import heat_maps, key_images, receipt, uids
from dicom_bridge.key_kinds import KeyImage
from dicom_bridge.receipt import ReceiptRefused
from dicom_bridge.rejection import rejection_uid
from service.holding import MODALITIES, Holding

FORMAT = "zhiying.reconciliation/1"
KEY_HEX = 32
BESIDE = frozenset({*KeyImage, heat_maps.KIND})  # what a peer may refuse, and has the result all the same


class Problem(StrEnum):
    """What was found; see the module's text."""

    UNLOGGED = "UNLOGGED"
    UNKNOWN = "UNKNOWN"
    UNRELEASED = "UNRELEASED"
    MISSING = "MISSING"
    STUCK = "STUCK"
    RECEIPT_MISSING = "RECEIPT_MISSING"
    RECEIPT_INVALID = "RECEIPT_INVALID"
    RECEIPT_OF_ANOTHER_CALL = "RECEIPT_OF_ANOTHER_CALL"


@dataclass(frozen=True, slots=True)
class Finding:
    """One object of ours and what is wrong with it. `index`: of the log's entry that names it, where there is one.

    `model`: of an UNLOGGED one its model's digest, where the log has the intent of the very call that its UID is of.
    """

    problem: Problem
    uid: str
    index: int | None = None
    model: str | None = None


@dataclass(frozen=True, slots=True)
class Asked:
    """Which releases must be there: those of `peer` (None: of any) in [begin, end); open where None.

    `grace`: how long a result may wait for its release; `delivers`: whether this site sends results at all.
    """

    now: datetime
    grace: timedelta
    begin: datetime | None = None
    end: datetime | None = None
    peer: str | None = None
    delivers: bool = True

    def holds(self, time: str) -> bool:
        """Whether an entry's time is in the period."""
        at = parse_time(time)
        return (self.begin is None or at >= self.begin) and (self.end is None or at < self.end)


@dataclass(slots=True)
class _Logged:
    """Our objects as the log has them: index of the entry by UID."""

    results: dict[str, Entry] = field(default_factory=dict)
    released: dict[str, Entry] = field(default_factory=dict)
    denials: set[str] = field(
        default_factory=set
    )  # what may be there, and need not: reports of refusals, notes of withdrawals
    given_up: set[str] = field(default_factory=set)  # calls
    begun: dict[str, str] = field(default_factory=dict)  # calls: the model's digest
    ended: set[str] = field(default_factory=set)  # calls that have a result
    kept: set[str] = field(default_factory=set)  # calls whose results are never sent: in the shadow, of a labelled set
    pictures: set[str] = field(default_factory=set)  # key images and heat maps
    sent: set[str] = field(default_factory=set)  # calls with a release

    def over(self, uid: str, result: Entry) -> bool:
        """Whether the peer need not have it: never sent, given up, or released without a key image it refused."""
        explained = result.call in self.given_up or result.call in self.kept
        return explained or (uid in self.pictures and result.call in self.sent)


@dataclass(frozen=True, slots=True)
class Report:
    """What was compared with what, and the findings. `size`, `root`: of the log then; `pending`: still in grace."""

    holding: Holding
    asked: Asked
    size: int
    note: str
    findings: tuple[Finding, ...]
    agreed: int
    pending: int
    receipts: int

    @property
    def ok(self) -> bool:
        """Nothing of ours past the log, and nothing of the log past the PACS."""
        return not self.findings and not (self.holding.strict and self.holding.others)

    def as_dict(self) -> dict[str, Any]:
        """For people, and for the reviewer's package. Only UIDs of our own form are in it."""
        said = [
            {"problem": one.problem.value, "uid": one.uid, "index": one.index, "model": one.model}
            for one in self.findings
        ]
        listed = sorted(self.holding.uids)
        return {
            "format": FORMAT,
            "ok": self.ok,
            "time": format_time(self.asked.now),
            "checkpoint": self.note,
            "size": self.size,
            "source": {"kind": self.holding.source, "name": self.holding.name},
            "period": self._period(),
            "held": listed,
            "others": self.holding.others,
            "agreed": self.agreed,
            "pending": self.pending,
            "receipts_checked": self.receipts,
            "findings": said,
        }

    def to_bytes(self) -> bytes:
        """The file for the package."""
        return json.dumps(self.as_dict(), indent=1, sort_keys=True).encode() + b"\n"

    def draft(self) -> Draft:
        """The entry: what was compared, how much was found, the file's digest, and what the log does not know."""
        digest = hashlib.sha256(self.to_bytes()).hexdigest()
        found = Counter(one.problem for one in self.findings)
        unlogged = [one for one in self.findings if one.problem is Problem.UNLOGGED]
        body: dict[str, JsonValue] = {
            "report": f"sha256:{digest}",
            "source": self.holding.source,
            "peer": self.holding.name if self.holding.source == "PEER" else None,
            "size": self.size,
            **self._period(),
            "held": len(self.holding.uids),
            "others": self.holding.others,
            "agreed": self.agreed,
            "pending": self.pending,
            "receipts": self.receipts,
            "found": {problem.value: found[problem] for problem in Problem},
            "unlogged": [{"uid": one.uid, "model": one.model} for one in unlogged[:LIST_MAX]],
        }
        return Draft(Kind.RECONCILED, f"reconciled:{digest[:KEY_HEX]}", body)

    def _period(self) -> dict[str, JsonValue]:
        ends = {"from": self.asked.begin, "to": self.asked.end}
        return {name: None if end is None else format_time(end) for name, end in ends.items()}


def reconcile(
    log: AuditLog,
    key: Verifier,
    holding: Holding,
    asked: Asked,
    objects: Sequence[bytes] = (),
    before: Iterable[Entry] = (),
) -> Report:
    """Compare. `objects`: Part 10 files from the PACS, whose receipts are looked into. Raises AuditError.

    `before`: entries of the logs that this one succeeds. What they name may be held, and need not.
    """
    head = log.head()
    logged, older = _logged(log.entries()), _logged(before)
    findings: list[Finding] = []
    agreed = pending = 0
    for uid in sorted(holding.uids):
        result = logged.results.get(uid)
        if uid in logged.denials or (result is None and (uid in older.denials or uid in older.results)):
            agreed += 1
        elif result is None:
            findings.append(Finding(Problem.UNLOGGED if uids.name_based(uid) else Problem.UNKNOWN, uid))
        elif uid in logged.released:
            agreed += 1
        elif result.call in logged.kept:
            findings.append(Finding(Problem.UNLOGGED, uid, result.index, logged.begun.get(str(result.call))))
        elif asked.now - parse_time(result.time) <= asked.grace:
            pending += 1
        else:
            findings.append(Finding(Problem.UNRELEASED, uid, result.index))
    for uid, result in logged.results.items():
        if uid in holding.uids:
            continue
        release = logged.released.get(uid)
        if release is not None:
            if asked.holds(release.time) and asked.peer in (None, release.body["peer"]):
                findings.append(Finding(Problem.MISSING, uid, release.index))
        elif asked.delivers and asked.holds(result.time) and not logged.over(uid, result):
            if asked.now - parse_time(result.time) <= asked.grace:
                pending += 1
            else:
                findings.append(Finding(Problem.STUCK, uid, result.index))
    checked, wrong = _receipts(log, key, objects)
    findings = [*_attributed(findings, logged), *wrong]
    return Report(holding, asked, head.size, head.note, tuple(findings), agreed, pending, checked)


def pictures(entries: Iterable[Entry]) -> frozenset[str]:
    """The UIDs of the key images and heat maps that the log's results name."""
    outputs = (one for entry in entries if entry.kind is Kind.CALL_RESULT for one in _outputs(entry))
    return frozenset(str(one["uid"]) for one in outputs if one["kind"] in BESIDE)


def _outputs(entry: Entry) -> Iterator[Mapping[str, Any]]:
    """What a CALL_RESULT or a RELEASED names."""
    outputs = entry.body["outputs"]
    for output in outputs if isinstance(outputs, (list, tuple)) else ():
        if isinstance(output, Mapping):
            yield output


def _logged(entries: Iterable[Entry]) -> _Logged:
    logged = _Logged()
    for entry in entries:
        if entry.kind in (Kind.CALL_RESULT, Kind.RELEASED):
            table = logged.results if entry.kind is Kind.CALL_RESULT else logged.released
            # What failed before it, an earlier attempt, explains nothing that comes after.
            logged.given_up.discard(entry.call or "")
            logged.ended.add(entry.call or "")
            for output in _outputs(entry):
                table.setdefault(str(output["uid"]), entry)
            if entry.kind is Kind.RELEASED:
                logged.sent.add(entry.call or "")
            else:
                logged.pictures |= pictures([entry])
        elif entry.kind is Kind.CALL_INTENT and entry.call is not None:
            logged.begun[entry.call] = _model(entry)
            if entry.body["state"] != "LIVE" or "purpose" in entry.body:
                logged.kept.add(entry.call)
            elif entry.call not in logged.ended:  # what has run in the shadow is not run again
                logged.kept.discard(entry.call)
        elif entry.kind is Kind.CASE and entry.call is not None:
            logged.kept.add(entry.call)
        elif entry.kind is Kind.DENIED:
            logged.denials.add(uids.derive("SR", entry.key))
        elif entry.kind is Kind.WITHDRAWN and entry.call is not None:
            logged.denials.add(rejection_uid(entry.call))
        elif entry.kind is Kind.FAILED and entry.call is not None:
            logged.given_up.add(entry.call)
    return logged


def _model(entry: Entry) -> str:
    model = entry.body["model"]
    return str(model["digest"]) if isinstance(model, Mapping) else ""


def _attributed(findings: Iterable[Finding], logged: _Logged) -> Iterator[Finding]:
    """Whose results the unlogged ones are, as far as the log tells: what an object says of itself is no witness."""
    found = list(findings)
    lost = {one.uid for one in found if one.problem is Problem.UNLOGGED}
    open_calls = [call for call in logged.begun if lost and call not in logged.ended]
    models = {uid: logged.begun[call] for call in open_calls for uid in _names(call) & lost}
    for one in found:
        yield replace(one, model=models[one.uid]) if one.uid in models else one


def _receipts(log: AuditLog, key: Verifier, objects: Sequence[bytes]) -> tuple[int, list[Finding]]:
    found = []
    for data in objects:
        ds = receipt.read_bytes(data)
        uid = str(ds.get("SOPInstanceUID", ""))
        if not uids.own(uid):
            continue
        try:
            given, checkpoint = receipt.read(ds, key)
        except ReceiptRefused as refused:
            found.append(Finding(Problem(refused.code), uid))
            continue
        problem = _against_log(log, uid, given.index, checkpoint.root)
        if problem is not None:
            found.append(Finding(problem, uid, given.index))
    return len(objects), found


def _against_log(log: AuditLog, uid: str, index: int, root: bytes) -> Problem | None:
    """The entry at the receipt's index is the CALL_INTENT of the call, the DENIED or WITHDRAWN of which the UID is."""
    try:
        same = log.receipt(index).root == root
    except AuditError:
        return Problem.RECEIPT_INVALID  # the log has no such entry any more
    entry = next(log.entries(index))
    if not same:
        return Problem.RECEIPT_INVALID
    if entry.kind is Kind.DENIED:
        names = {uids.derive("SR", entry.key)}
    elif entry.kind is Kind.WITHDRAWN and entry.call is not None:
        names = {rejection_uid(entry.call)}
    else:
        intended = entry.call if entry.kind is Kind.CALL_INTENT else None
        names = set() if intended is None else _names(intended)
    return None if uid in names else Problem.RECEIPT_OF_ANOTHER_CALL


def _names(call: str) -> set[str]:
    """The UIDs of all objects that a call can have."""
    return {*(uids.derive(kind, call) for kind in (*MODALITIES, heat_maps.KIND)), *key_images.names(call)}
