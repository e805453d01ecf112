"""The register of dossiers. The audit log is its only store: what is not in the log never happened.

What is signed is verified first and appended then; `standings` replays the log and verifies every note again, by the
trust policy of today. Taking a person out of the policy takes what they signed out of force; see replay.py.
"""

import base64
import hashlib
import threading
from collections.abc import Iterator, Sequence
from datetime import datetime
from typing import Protocol

from audit.checkpoint import Checkpoint
from audit.entry import Draft, Entry, JsonValue, Kind, parse
from audit.errors import EntryInvalid, KeyConflict, Overtaken
from audit.note import Verifier
from audit.ticket import Proviso
from ethics_review import acts, life, snapshot
from ethics_review.acts import Act, Switch
from ethics_review.dossier import Approval, load_approval
from ethics_review.errors import ActRefused, ApprovalInvalid, ApprovalReused
from ethics_review.parties import Trust
from ethics_review.replay import HELD, Replay, body_of, day_end, switch_body_of
from ethics_review.standing import Standing, Stop
from ethics_review.states import NONE, Cause, Event, transition
from ethics_review.trust import refuse_operator_key
from models.ref import ModelRef

_OF_LIVES = frozenset({Kind.STATE_CHANGE, Kind.APPROVAL})
"""Entries that may change where a dossier stands, besides time."""


class ReviewLog(Protocol):
    """What the register needs of audit.log.AuditLog: durable when `append` returns; entries in order, all of them."""

    def append(self, draft: Draft, proviso: Proviso | None = None) -> Entry:
        """Append once; the same key with other content raises KeyConflict, a proviso that does not hold Overtaken."""

    def find(self, key: str) -> Entry | None:
        """The entry of this idempotency key."""

    def leaves(self, start: int = 0) -> Iterator[tuple[int, bytes]]:
        """Index and bytes of the entries from index `start` on."""

    def receipt(self, index: int) -> Checkpoint:
        """The head as it was when entry `index` was the last; raises EntryInvalid where there is none."""


class Register:
    """Where every dossier stands, from the log. Thread-safe.

    Args:
        trust: whom the site trusts. operator: the key that signs this hospital's log.
        remembered: a signed snapshot (see `snapshot`); one that is not for this log, policy and code is ignored.

    Raises SelfApproval if the operator's key is among the trusted ones.
    """

    def __init__(self, log: ReviewLog, trust: Trust, operator: Verifier, *, remembered: str | None = None) -> None:
        refuse_operator_key(trust.keys, operator)
        self._log = log
        self._trust = trust
        self._operator = operator
        self._lock = threading.RLock()
        self._replay = Replay(trust, operator)
        if remembered is not None:
            snapshot.read(remembered, self._replay, operator, self._root_at, self._recorded)

    @property
    def trust(self) -> Trust:
        """The policy by which everything here was verified."""
        return self._trust

    # ---- what is signed ----------------------------------------------------------------------------------------------

    def take(self, note: str, now: datetime | None = None) -> Approval | Entry:
        """Record or enact a signed note, by what its first line says it is. Raises ApprovalError, ActRefused."""
        return self.act(note, now) if note.startswith(f"{acts.HEADER}\n") else self.record(note, now)

    def record(self, note: str, now: datetime | None = None) -> Approval:
        """Verify and append one signed approval; durable when it returns. The same note again changes nothing.

        Raises ApprovalError, ActRefused (see errors.py); what the log raises (AuditUnavailable) goes through.
        """
        with self._lock:
            replay = self._caught_up()
            self._settle()
            digest = acts.digest(note)
            known = [one for one in replay.ids.values() if one.note_digest == digest]
            if known:
                return known[0]
            approval = replay.weigh_approval(note, max(replay.now, now or replay.now), fresh=True)[0]
            # One id, one note, for ever: the log itself refuses a second one, whichever process brings it.
            key = f"approval:{approval.id.lower()}"
            try:
                draft = Draft(Kind.APPROVAL, key, {"note": note, "note_digest": digest})
                entry = self._log.append(draft)
            except EntryInvalid as wrong:
                raise ApprovalInvalid("(note)", str(wrong)) from None
            except KeyConflict:
                raise ApprovalReused("another note is recorded under this approval id; use a new id") from None
            self._refuse_set_aside(entry)
            return approval

    def act(self, note: str, now: datetime | None = None) -> Entry:
        """Verify and append one signed act; durable when it returns. The same note again changes nothing.

        `now` (aware): what lapsed since the log's last entry is seen too. Raises ActRefused; what the log raises goes
        through.
        """
        with self._lock:
            replay = self._caught_up()
            self._settle()
            read = acts.read(note)
            draft = _draft_switch(read, note) if isinstance(read, Switch) else _draft_act(read, note)
            if not self._stands(draft):
                if isinstance(read, Switch):
                    replay.weigh_switch(note)
                else:
                    replay.weigh_act(note, max(replay.now, now or replay.now), fresh=True)
            try:
                entry = self._log.append(draft)
            except KeyConflict:
                raise ActRefused(
                    "ACT_ORDER", "another note came first; look at where it stands and sign anew"
                ) from None
            if draft.kind is not Kind.STOP and draft.body.get("event") not in HELD:
                self._refuse_set_aside(entry)
            return entry

    def _stands(self, draft: Draft) -> bool:
        """Whether this very note is in the log already: then appending it again gives its entry."""
        digest = draft.body["note_digest"]
        switches = self._replay.switches.values()
        return digest in switches or any(one.last_note == digest for one in self._replay.lives.values())

    def _refuse_set_aside(self, entry: Entry) -> None:
        replay = self._caught_up()
        for index, code in replay.set_aside:
            if index == entry.index:
                raise ActRefused(code, "something else came first; look at where it stands and sign anew")

    # ---- what the monitor may --------------------------------------------------------------------------------------

    def suspend(self, model: ModelRef, cause: Cause, evidence: int | None) -> Entry:
        """Suspend, unsigned. `evidence`: index of an entry. Once more for the same evidence changes nothing.

        Raises ActRefused if nothing of it is in use.
        """
        return self._unsigned(model, Event.SUSPEND, cause.value, None, evidence)

    def restrict(self, model: ModelRef, condition: str, observed: str, evidence: int | None) -> Entry:
        """Take a class of a condition out of use, unsigned. Raises ActRefused if nothing of the model is in use."""
        return self._unsigned(model, Event.RESTRICT, Cause.SUBGROUP_GAP.value, (condition, observed), evidence)

    def settle(self) -> None:
        """Write down what is suspended because its criteria do not count any more: they may count again tomorrow.

        Everything else that suspends by itself follows from the entries' times alone.
        """
        with self._lock:
            self._caught_up()
            self._settle()

    def _settle(self) -> None:
        replay = self._replay
        for one in tuple(replay.lives.values()):
            if life.superseded(one, replay.now, self._trust):
                self._unsigned(one.model, Event.SUSPEND, Cause.CRITERIA.value, None, None)

    def _unsigned(
        self, model: ModelRef, event: Event, reason: str, pair: tuple[str, str] | None, evidence: int | None
    ) -> Entry:
        with self._lock:
            while True:
                try:
                    return self._said(model, event, reason, pair, evidence)
                except Overtaken:
                    continue  # another process spoke of it first: "from" would be where it stood before that

    def _said(
        self, model: ModelRef, event: Event, reason: str, pair: tuple[str, str] | None, evidence: int | None
    ) -> Entry:
        one = self._caught_up().lives.get(model.digest)
        if one is None or one.model != model:
            raise ActRefused("ACT_STATE", "there is no dossier of this model")
        # One entry for one evidence. Without any, for what has happened so far: two processes say it once.
        why = f"after {len(one.history)}" if evidence is None else str(evidence)
        key = "monitor:" + hashlib.sha256(f"{model.digest} {event} {reason} {pair} {why}".encode()).hexdigest()
        said = self._log.find(key)
        if said is not None:
            return said
        end = transition(one.past, event, ())
        body: dict[str, JsonValue] = {
            "model": {"name": model.name, "version": model.version, "digest": model.digest},
            "event": event.value,
            "from": NONE if one.state is None else one.state.value,
            "to": end.value,
            "reason": reason,
            "condition": None if pair is None else pair[0],
            "observed": None if pair is None else pair[1],
            "evidence": evidence,
            "note": None,
            "note_digest": None,
        }
        # What was seen is where it stands: a life's event that comes in between would make this one a false word.
        proviso = Proviso(self._replay.next, _nothing_happened)
        entry = self._log.append(Draft(Kind.STATE_CHANGE, key, body), proviso)
        self._caught_up()
        return entry

    # ---- where things stand ------------------------------------------------------------------------------------------

    def standings(self, now: datetime | None = None) -> tuple[Standing, ...]:
        """Where every dossier stands, by model. `now` (aware): what lapsed since the log's last entry is seen too."""
        with self._lock:
            replay = self._caught_up()
            time = max(replay.now, now or replay.now)
            found = (life.standing(one, time, self._trust) for one in replay.lives.values())
            return tuple(sorted((one for one in found if one is not None), key=lambda one: str(one.model)))

    def standing(self, digest: str, now: datetime | None = None) -> Standing | None:
        """Where the dossier of this model digest stands; None where there is none."""
        return next((one for one in self.standings(now) if one.model.digest == digest), None)

    def stops(self) -> tuple[Stop, ...]:
        """The stops in force."""
        with self._lock:
            return tuple(stop for stop, _ in self._caught_up().stops.values())

    def last_switch(self, level: str, site: str | None) -> str | None:
        """Digest of the newest STOP or RESUME note of this level and site: what the next one names."""
        with self._lock:
            return self._caught_up().switches.get((level, site))

    def calls_today(self, digest: str, now: datetime) -> int:
        """Distinct calls of this model in the civil day (UTC+8) of `now`, or of the log's latest time where later."""
        with self._lock:
            replay = self._caught_up()
            if replay.day_end is None or day_end(max(now, replay.now)) != replay.day_end:
                return 0
            return len(replay.calls.get(digest, ()))

    def opted_out(self, pseudonym: str) -> bool:
        """Whether this patient does not want AI."""
        with self._lock:
            return pseudonym in self._caught_up().opted_out

    def approvals(self) -> tuple[Approval, ...]:
        """All approvals in the log that count today, by id; the gate decides which are in force."""
        with self._lock:
            ids = self._caught_up().ids
            return tuple(ids[key] for key in sorted(ids))

    def set_aside(self) -> tuple[tuple[int, str], ...]:
        """What stands in the log and does not count today: (index, code)."""
        with self._lock:
            return tuple(self._caught_up().set_aside)

    def latest_known(self) -> datetime | None:
        """The latest time in the log as of the last look; the gate's guard against a clock set back."""
        return self._replay.latest

    @property
    def size(self) -> int:
        """How many entries of the log are taken in."""
        with self._lock:
            return self._caught_up().next

    def snapshot(self) -> tuple[int, str] | None:
        """(size of the log, the text to sign) for a later start; None where there is nothing to remember yet.

        Sign it with the log's key. Whoever has that key could write the log as well.
        """
        with self._lock:
            replay = self._caught_up()
            root = self._root_at(replay.next)
            text = None if root is None else snapshot.write(replay, root)
            return None if text is None else (replay.next, text)

    def _caught_up(self) -> Replay:
        for index, leaf in self._log.leaves(self._replay.next):
            self._replay.feed_leaf(index, leaf)
        return self._replay

    def _root_at(self, size: int) -> str | None:
        try:
            return base64.b64encode(self._log.receipt(size - 1).root).decode("ascii")
        except EntryInvalid:
            return None

    def _recorded(self, index: int) -> Approval:
        entry = parse(*next(self._log.leaves(index)))
        return load_approval(str(entry.body["note"]), self._trust.keys)


def _draft_act(act: Act, note: str) -> Draft:
    # One act after each note: the log itself refuses a second one, whichever process brings it.
    after = "first" if act.after is None else act.after.removeprefix("sha256:")[:32]
    key = f"act:{act.model.digest.removeprefix('sha256:')}:{after}"
    try:
        return Draft(Kind.STATE_CHANGE, key, body_of(act, note))
    except EntryInvalid as wrong:
        raise ActRefused("ACT_INVALID", str(wrong)) from None


def _draft_switch(switch: Switch, note: str) -> Draft:
    after = hashlib.sha256(f"{switch.level} {switch.site} {switch.after}".encode()).hexdigest()
    kind = Kind.STOP if switch.event == acts.STOP else Kind.RESUME
    try:
        return Draft(kind, f"switch:{after}", switch_body_of(switch, note))
    except EntryInvalid as wrong:
        raise ActRefused("ACT_INVALID", str(wrong)) from None


def _nothing_happened(_placed: Entry, between: Sequence[Entry]) -> bool:
    return not any(one.kind in _OF_LIVES for one in between)
