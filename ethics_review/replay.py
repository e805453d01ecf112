"""The log, entry by entry, into lives and stops: the same entries give the same, whenever and however often.

What does not verify with today's trust policy is set aside with its code. It never loosens anything, and what in it was
meant to tighten still does. Time is the latest that the log has seen, so that a clock set back brings nothing to life.
"""

import dataclasses
import json
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from typing import Final

from audit.entry import Entry, JsonValue, Kind, parse
from audit.errors import NoteError
from audit.note import Verifier, parse_note
from ethics_review import acts, life, questions
from ethics_review.acts import Act, Switch
from ethics_review.dossier import Approval, load_approval
from ethics_review.errors import ActRefused, ApprovalError, ApprovalInvalid, ApprovalReused
from ethics_review.life import Life, Moment
from ethics_review.opt_out import Choice
from ethics_review.parties import Trust
from ethics_review.periods import CIVIL_TIME
from ethics_review.standing import Stop
from ethics_review.states import (
    APPROVED,
    ENDINGS,
    NONE,
    Cause,
    Event,
    Past,
    Person,
    State,
    transition,
)
from ethics_review.trust import refuse_operator_signature
from models.errors import RefInvalid
from models.ref import ModelRef
from models.strict import Malformed, parse_json

DRILL: Final = Cause.DRILL.value
HELD: Final = frozenset({Event.SUSPEND, Event.RESTRICT}) | ENDINGS
"""What takes effect wherever the dossier is, even when it does not count."""

Weighed = tuple[Act, tuple[Person, ...], State]


class Replay:
    """What the log has said up to entry `next`; `feed_leaf` takes them in order.

    Attributes:
        lives: by model digest. stops: (level, site) -> the stop in force and its reason.
        switches: (level, site) -> digest of the newest STOP or RESUME note.
        ids: approvals that count, by id in lower case. set_aside: (index, code) of what does not count.
        calls: of the civil day that ends at `day_end`, by model digest.
    """

    def __init__(self, trust: Trust, operator: Verifier) -> None:
        self.trust, self.operator = trust, operator
        self.next = 0
        self.latest: datetime | None = None
        self.lives: dict[str, Life] = {}
        self.ids: dict[str, Approval] = {}
        self.notes: set[str] = set()
        self.stops: dict[tuple[str, str | None], tuple[Stop, str]] = {}
        self.switches: dict[tuple[str, str | None], str] = {}
        self.set_aside: list[tuple[int, str]] = []
        self.opted_out: set[str] = set()
        self.day_end: datetime | None = None
        self.calls: dict[str, set[str]] = {}
        self.due: datetime | None = None
        self._takers: Mapping[str, Callable[[Entry, Moment], None]] = {
            Kind.APPROVAL: self._approval,
            Kind.STATE_CHANGE: self._state_change,
            Kind.STOP: self._switch,
            Kind.RESUME: self._switch,
            Kind.ACCEPTANCE: self._acceptance,
            Kind.GOLDEN: self._golden,
            Kind.SAFETY_REPORT: self._report,
            Kind.EVALUATION: self._evaluation,
            Kind.OPT_OUT: self._opt_out,
        }

    def feed_leaf(self, index: int, leaf: bytes) -> None:
        """Take the next entry, as the log's bytes. Most are of calls, tell nothing of a dossier, and are not parsed."""
        fields = json.loads(leaf)
        taker = self._takers.get(fields["kind"])
        at = self._pass(index, fields["time"])
        if taker is not None:
            taker(parse(index, leaf), at)
        elif fields["kind"] == Kind.CALL_INTENT:
            self._intent(fields["body"]["model"]["digest"], fields["call"], at.time)

    def _pass(self, index: int, moment: str) -> Moment:
        self.next = index + 1
        time = datetime.fromisoformat(moment)
        if self.latest is None or time > self.latest:
            self.latest = time
        at = Moment(index, self.latest)
        if self.due is not None and self.latest >= self.due:
            self._lapse(at)
        return at

    @property
    def now(self) -> datetime:
        """The latest time seen."""
        return self.latest or life.LONG_AGO

    # ---- what may be appended ----------------------------------------------------------------------------------------

    def weigh_act(self, note: str, time: datetime, *, fresh: bool) -> Weighed:
        """A signed act on a dossier, verified against where it stands. Raises ActRefused."""
        persons = acts.signed_by(note, self.trust, self.operator)
        act = acts.read(note)
        if not isinstance(act, Act):
            raise ActRefused("ACT_INVALID", "not an act on a dossier")
        one = self.lives.get(act.model.digest) or Life(act.model)
        if one.model != act.model:
            raise ActRefused("ACT_INVALID", "this digest is known under another name or version")
        cause = life.lapsed(one, time, self.trust)
        if cause is not None:  # since the log's last entry: the act's own entry will say so first
            one = life.suspended(one, cause, (), Moment(self.next, time))
        if act.after != one.last_note:
            raise ActRefused("ACT_ORDER", "another note came first; look at where it stands and sign anew")
        if act.start != one.state:
            raise ActRefused("ACT_STATE", f"it is {one.state or NONE}, not {act.start or NONE}")
        names = act.statement.get("panel")
        panel = self.trust.people(names) if isinstance(names, tuple) else ()
        if isinstance(names, tuple) and len(panel) != len(names):
            raise ActRefused("ACT_PANEL", "somebody named is not in the trust policy")
        held = life.guards(one, act.event, act.statement, time, self.trust, fresh=fresh)
        end = transition(
            one.past,
            act.event,
            persons,
            held,
            to=act.to,
            panel=panel,
            reviewers=self.trust.signers,
            panel_min=self.trust.panel,
        )
        return act, persons, end

    def weigh_approval(
        self, note: str, time: datetime, *, fresh: bool
    ) -> tuple[Approval, Event, State, tuple[Person, ...]]:
        """A signed approval, verified against its dossier. Raises ApprovalError, ActRefused."""
        refuse_operator_signature(note, self.operator)
        approval = load_approval(note, self.trust.keys)
        persons = acts.signed_by(note, self.trust, self.operator)
        known = self.ids.get(approval.id.lower())
        if known is not None:
            raise ApprovalReused("another note is recorded under this approval id; use a new id")
        one = self.lives.get(approval.model.digest) or Life(approval.model)
        if one.model != approval.model:
            raise ActRefused("ACT_INVALID", "this digest is known under another name or version")
        first = one.state is State.UNDER_REVIEW
        event = Event.APPROVE if first else Event.RENEW
        to = APPROVED[questions.conditional(approval)] if first else None
        held = life.guards(one, event, {}, time, self.trust, new=approval, fresh=fresh)
        end = transition(one.past, event, persons, held, to=to, reviewers=self.trust.signers)
        if any(person.organisation != approval.reviewer_org for person in persons):
            raise ApprovalInvalid("reviewer_org", "not the organisation of those who signed")
        return approval, event, end, persons

    def weigh_switch(self, note: str) -> Switch:
        """A signed STOP or RESUME of a site or the service. Raises ActRefused."""
        persons = acts.signed_by(note, self.trust, self.operator)
        switch = acts.read(note)
        if not isinstance(switch, Switch):
            raise ActRefused("ACT_INVALID", "not a stop of a site or the service")
        place = (switch.level, switch.site)
        if switch.after != self.switches.get(place):
            raise ActRefused("ACT_ORDER", "another note came first; look at where it stands and sign anew")
        # Who may suspend a model may stop a site; who may end the one without a reviewer may end the other.
        if switch.event == acts.STOP:
            transition(Past(State.LIVE), Event.SUSPEND, persons)
        elif place in self.stops:
            transition(Past(State.SUSPENDED, Cause.OPERATOR, State.LIVE), Event.RESUME, persons)
        else:
            raise ActRefused("ACT_STATE", "nothing is stopped there")
        return switch

    # ---- what the kinds of entry do ----------------------------------------------------------------------------------

    def put(self, one: Life) -> None:
        """Take a life in, and see when to look at the calendar again."""
        self.lives[one.model.digest] = one
        again = [life.look_again(each, self.now, self.trust) for each in self.lives.values()]
        self.due = min((moment for moment in again if moment is not None), default=None)

    def _lapse(self, at: Moment) -> None:
        for one in tuple(self.lives.values()):
            cause = life.lapsed(one, at.time, self.trust)
            self.put(one if cause is None else life.suspended(one, cause, (), at))

    def _life(self, model: JsonValue) -> Life | None:
        """The dossier that a body's `model` names; None where it is no model's name."""
        if not isinstance(model, Mapping):
            return None
        try:
            ref = ModelRef(str(model["name"]), str(model["version"]), str(model["digest"]))
        except RefInvalid:
            return None
        return self.lives.get(ref.digest) or Life(ref)

    def _approval(self, entry: Entry, at: Moment) -> None:
        note = str(entry.body["note"])
        digest, again = acts.digest(note), acts.digest(note) in self.notes
        self.notes.add(digest)
        try:
            approval, event, end, persons = self.weigh_approval(note, at.time, fresh=False)
        except (ApprovalError, ActRefused) as wrong:
            self.set_aside.append((entry.index, wrong.code))
            one = None if again else self._life(_claimed(note))
            if one is not None:
                # The next act was made after this note: what it stands after must not depend on today's keys.
                self.put(dataclasses.replace(one, last_note=digest))
            return
        self.ids[approval.id.lower()] = approval
        one = self.lives[approval.model.digest]
        self.put(life.approved(one, approval, event, end, persons, at))

    def _state_change(self, entry: Entry, at: Moment) -> None:
        body = entry.body
        one = self._life(body["model"])
        if one is None:
            self.set_aside.append((entry.index, "ACT_INVALID"))
            return
        note = None if body["note"] is None else str(body["note"])
        last = one.last_note
        if note is not None and _stands_after(note, one):
            last = acts.digest(note)
        try:
            after = self._unsigned(one, body, at) if note is None else self._signed(one, note, body, at)
        except ActRefused as wrong:
            self.set_aside.append((entry.index, wrong.code))
            pair = None if body["condition"] is None else (str(body["condition"]), str(body["observed"]))
            after = life.tightened(
                one, str(body["event"]), str(body["reason"]), pair, _panel(note), at, noted=note is not None
            )
        if body["event"] == Event.SUSPEND:
            after = life.answered(after, body["reason"], body["evidence"])
        self.put(dataclasses.replace(after, last_note=last))

    def _signed(self, one: Life, note: str, body: Mapping[str, JsonValue], at: Moment) -> Life:
        act, persons, end = self.weigh_act(note, at.time, fresh=False)
        if body != body_of(act, note):
            raise ActRefused("ACT_INVALID", "the entry does not say what was signed")
        return life.happened(one, act.event, end, persons, act.statement, act.reason, at)

    def _unsigned(self, one: Life, body: Mapping[str, JsonValue], at: Moment) -> Life:
        event, reason = str(body["event"]), str(body["reason"])
        if event not in {Event.SUSPEND, Event.RESTRICT} or (event == Event.SUSPEND and reason not in set(Cause)):
            raise ActRefused("ACT_SIGNERS", "the monitor can suspend and restrict, and nothing else")
        if event == Event.RESTRICT and (body["condition"] is None or body["observed"] is None):
            raise ActRefused("ACT_INVALID", "a restriction names a class of a condition")
        end = transition(one.past, Event(event), ())
        statement = {"cause": reason, "condition": body["condition"], "observed": body["observed"]}
        return life.happened(one, Event(event), end, (), statement, reason, at)

    def _switch(self, entry: Entry, at: Moment) -> None:
        body, note = entry.body, str(entry.body["note"])
        site = None if body["site"] is None else str(body["site"])
        level = str(body["level"])
        # A stop of nothing that is known stops everything.
        place = (level, site) if (level == acts.SITE) == (site is not None) else (acts.SERVICE, None)
        try:
            switch = self.weigh_switch(note)
            if {**switch_body_of(switch, note)} != body or switch.event != entry.kind:
                raise ActRefused("ACT_INVALID", "the entry does not say what was signed")
        except ActRefused as wrong:
            self.set_aside.append((entry.index, wrong.code))
            if entry.kind is Kind.STOP:
                self._stop(place, at.index, "")
        else:
            if switch.event == acts.STOP:
                self._stop(place, at.index, switch.reason)
            else:
                self._resume(place, at.index, switch.reason)
        if _switch_stands_after(note, place, self.switches.get(place)):
            self.switches[place] = acts.digest(note)

    def _stop(self, place: tuple[str, str | None], index: int, reason: str) -> None:
        # What stops a place that is stopped already is not a drill, unless both are.
        known = self.stops.get(place)
        if known is not None and known[1] != reason:
            reason = ""
        self.stops[place] = (Stop(place[0], place[1], index if known is None else known[0].index), reason)

    def _resume(self, place: tuple[str, str | None], index: int, reason: str) -> None:
        stop, why = self.stops.pop(place)
        if why == reason == DRILL:
            for one in tuple(self.lives.values()):
                if -1 < one.deployed_at < stop.index:
                    self.put(dataclasses.replace(one, drills=(*one.drills, index)))

    def _intent(self, digest: str, call: str, time: datetime) -> None:
        if self.day_end is None or time >= self.day_end:
            self.day_end, self.calls = day_end(time), {}
        self.calls.setdefault(digest, set()).add(call)

    def _known(self, entry: Entry) -> Life | None:
        one = self._life(entry.body["model"])
        return one if one is not None and one.state is not None else None

    def _acceptance(self, entry: Entry, at: Moment) -> None:
        one = self._known(entry)
        if one is not None and entry.body["unmet"] == 0:
            met = (at.index, str(entry.body["approval"]))
            self.put(dataclasses.replace(one, acceptances=(*one.acceptances, met)))

    def _golden(self, entry: Entry, at: Moment) -> None:
        one = self._known(entry)
        if one is not None and one.state is State.SUSPENDED:
            same = entry.body["outcome"] == "MATCH"
            self.put(dataclasses.replace(one, goldens=(*one.goldens, at.index) if same else ()))

    def _report(self, entry: Entry, at: Moment) -> None:
        del at
        one = self._known(entry)
        if one is not None:
            self.put(dataclasses.replace(one, reports=(*one.reports, str(entry.body["report"]))))

    def _evaluation(self, entry: Entry, at: Moment) -> None:
        del at
        one = self._known(entry)
        if one is not None:
            self.put(life.evaluated(one, entry))

    def _opt_out(self, entry: Entry, at: Moment) -> None:
        del at
        patient = str(entry.body["patient"])
        if entry.body["choice"] == Choice.WITHDRAWN:
            self.opted_out.discard(patient)
        else:
            self.opted_out.add(patient)


def day_end(time: datetime) -> datetime:
    """The midnight (UTC+8) that ends the civil day of `time`, in UTC."""
    civil = time.astimezone(CIVIL_TIME)
    return (civil.replace(hour=0, minute=0, second=0, microsecond=0) + timedelta(days=1)).astimezone(UTC)


def body_of(act: Act, note: str) -> dict[str, JsonValue]:
    """The body of the STATE_CHANGE entry of a signed act."""
    restricts = act.event is Event.RESTRICT
    fields = act.fields()
    return {
        **{key: fields[key] for key in ("model", "event", "from", "to", "reason")},
        "condition": act.statement["condition"] if restricts else None,
        "observed": act.statement["observed"] if restricts else None,
        "evidence": None,
        "note": note,
        "note_digest": acts.digest(note),
    }


def switch_body_of(switch: Switch, note: str) -> dict[str, JsonValue]:
    """The body of the STOP or RESUME entry of a signed switch."""
    return {
        "level": switch.level,
        "site": switch.site,
        "reason": switch.reason,
        "note": note,
        "note_digest": acts.digest(note),
    }


def _read(note: str | None) -> Act | Switch | None:
    try:
        return None if note is None else acts.read(note)
    except ActRefused:
        return None


def _stands_after(note: str, one: Life) -> bool:
    act = _read(note)
    return isinstance(act, Act) and act.model == one.model and act.after == one.last_note


def _switch_stands_after(note: str, place: tuple[str, str | None], last: str | None) -> bool:
    switch = _read(note)
    return isinstance(switch, Switch) and (switch.level, switch.site) == place and switch.after == last


def _panel(note: str | None) -> Sequence[JsonValue]:
    act = _read(note)
    named = act.statement.get("panel") if isinstance(act, Act) else None
    return named if isinstance(named, tuple) else ()


def _claimed(note: str) -> JsonValue:
    """The model that a note which does not count says it is about; nothing is believed of it but its place."""
    try:
        fields = parse_json(parse_note(note).text.partition("\n")[2].encode("utf-8"))
    except (NoteError, Malformed):
        return None
    return fields.get("model") if isinstance(fields, dict) else None
