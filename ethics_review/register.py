"""The register of approvals. The audit log is its only store: what is not in the log was never approved.

`record` verifies a signed note and appends it; `approvals` replays the log and verifies every note again, with the keys
that the site trusts today. Taking a key out of the trusted ones takes its approvals out of force.
"""

import threading
from collections.abc import Iterable, Iterator, Mapping, Sequence
from datetime import date, datetime
from typing import Protocol

from audit.entry import Draft, Entry, Kind
from audit.errors import EntryInvalid, KeyConflict
from audit.note import Verifier
from ethics_review.dossier import CIVIL_TIME, Approval, load_approval
from ethics_review.errors import ApprovalError, ApprovalInvalid, ApprovalReused
from ethics_review.opt_out import OptOuts
from ethics_review.standing import Standing, Stop
from ethics_review.states import State
from ethics_review.trust import refuse_operator_key, refuse_operator_signature


class ApprovalLog(Protocol):
    """What the register needs of audit.log.AuditLog: durable when `append` returns; entries in order, all of them."""

    def append(self, draft: Draft) -> Entry:
        """Append once; the same key with other content raises KeyConflict."""

    def entries(self, start: int = 0) -> Iterator[Entry]:
        """The entries from index `start` on."""


class Register:
    """Approvals in force, from the log. Thread-safe.

    Args:
        trusted: the reviewers' keys. operator: the key that signs this hospital's log.

    Raises SelfApproval if the operator's key is among the trusted ones.
    """

    def __init__(self, log: ApprovalLog, trusted: Sequence[Verifier], operator: Verifier) -> None:
        refuse_operator_key(trusted, operator)
        self._log = log
        self._trusted = tuple(trusted)
        self._operator = operator
        self._lock = threading.Lock()
        self._next = 0
        self._approvals: dict[str, Approval] = {}
        self._set_aside: list[tuple[int, str]] = []
        self._latest: datetime | None = None
        self._opt_outs = OptOuts()
        self._calls: dict[tuple[str, date], set[str]] = {}

    def record(self, note: str) -> Approval:
        """Verify and append one signed approval; durable when it returns. The same note again changes nothing.

        Raises ApprovalError (see errors.py); what the log raises (AuditUnavailable) goes through.
        """
        approval = self._verify(note)
        # One id, one note, for ever: the log itself refuses a second one, whichever process brings it.
        key = f"approval:{approval.id.lower()}"
        try:
            draft = Draft(kind=Kind.APPROVAL, key=key, body={"note": note, "note_digest": approval.note_digest})
        except EntryInvalid as wrong:
            raise ApprovalInvalid("(note)", str(wrong)) from None
        try:
            self._log.append(draft)
        except KeyConflict:
            raise ApprovalReused("another note is recorded under this approval id; use a new id") from None
        return approval

    def approvals(self) -> tuple[Approval, ...]:
        """All approvals in the log that verify with today's keys, by id; the gate decides which are in force."""
        with self._lock:
            self._replay(self._log.entries(self._next))
            return tuple(self._approvals[key] for key in sorted(self._approvals))

    def standings(self) -> tuple[Standing, ...]:
        """Every model with an approval, which is in use."""
        approvals = self.approvals()
        models = dict.fromkeys(approval.model for approval in approvals)
        return tuple(
            Standing(model, State.LIVE, tuple(one for one in approvals if one.model == model)) for model in models
        )

    def stops(self) -> tuple[Stop, ...]:
        """Nothing stops everything."""
        return ()

    def calls_today(self, digest: str, now: datetime) -> int:
        """How many calls of the model with this digest were begun in the civil day (UTC+8) of `now`."""
        self.approvals()
        return len(self._calls.get((digest, now.astimezone(CIVIL_TIME).date()), ()))

    def opted_out(self, name: str) -> bool:
        """Whether the patient of this name wants no AI; see opt_out.py."""
        self.approvals()
        return self._opt_outs.out(name)

    def set_aside(self) -> tuple[tuple[int, str], ...]:
        """Approvals in the log that do not count today: (index in the log, code)."""
        self.approvals()
        return tuple(self._set_aside)

    def latest_known(self) -> datetime | None:
        """The latest time in the log as of the last `approvals()`; the gate's guard against a clock set back."""
        return self._latest

    def _replay(self, entries: Iterable[Entry]) -> None:
        for entry in entries:
            self._next = entry.index + 1
            time = datetime.fromisoformat(entry.time)
            self._latest = time if self._latest is None else max(self._latest, time)
            self._opt_outs.take(entry)
            if entry.kind is Kind.CALL_INTENT and isinstance(model := entry.body["model"], Mapping):
                day = str(model["digest"]), time.astimezone(CIVIL_TIME).date()
                self._calls.setdefault(day, set()).add(entry.call or "")
            if entry.kind is not Kind.APPROVAL:
                continue
            try:
                approval = self._verify(str(entry.body["note"]))
            except ApprovalError as wrong:
                # A key that is no longer trusted must not stop the service: its approvals just do not count.
                self._set_aside.append((entry.index, wrong.code))
                continue
            # The log refuses a second note under one id; should one stand there anyhow, the first is the approval.
            self._approvals.setdefault(approval.id.lower(), approval)

    def _verify(self, note: str) -> Approval:
        refuse_operator_signature(note, self._operator)
        return load_approval(note, self._trusted)
