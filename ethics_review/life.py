"""One dossier's life, folded from what the log says about it: frozen values in, frozen values out. Pure.

What people signed goes through `states.transition`. What the log holds although it does not verify today (the key of
somebody who left) does not count, but whatever in it was meant to tighten still tightens: see `tightened`.
"""

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Final

from audit.entry import Entry, JsonValue
from ethics_review import questions
from ethics_review.dossier import Approval
from ethics_review.parties import Trust
from ethics_review.standing import Standing, Step
from ethics_review.states import (
    ENDINGS,
    FINAL,
    FOR_REVIEWER,
    IN_USE,
    ROWS,
    RUNNING,
    Cause,
    Event,
    Guard,
    Past,
    Person,
    State,
)
from models.ref import ModelRef

LONG_AGO: Final = datetime(1970, 1, 1, tzinfo=UTC)
_BEGINNING: Final = Past()


@dataclass(frozen=True, slots=True)
class Recorded:
    """An approval and the index of its entry."""

    index: int
    approval: Approval


@dataclass(frozen=True, slots=True)
class Moment:
    """Where in the log something stands, and the latest time that the log had seen by then."""

    index: int
    time: datetime


@dataclass(frozen=True, slots=True)
class Life:
    """One dossier.

    Attributes:
        judged_at: time of the last approval, renewal or follow-up.
        suspended_at, deployed_at, began: index of the entry; -1 for never. It began when it last came to run.
        asked: evaluations that ask for a suspension which has not come.
        drills: entries that ended a drill since the deployment. goldens: entries of golden cases that came out right
            since the suspension. acceptances: entry and approval of each acceptance that met every bound.
        reports: digests of safety reports.
    """

    model: ModelRef
    past: Past = _BEGINNING
    last_note: str | None = None
    submission: str | None = None
    recorded: tuple[Recorded, ...] = ()
    judged_at: datetime = LONG_AGO
    cut_off: frozenset[tuple[str, str]] = frozenset()
    suspended_by: tuple[str, ...] = ()
    suspended_at: int = -1
    deployed_at: int = -1
    began: int = -1
    asked: tuple[int, ...] = ()
    drills: tuple[int, ...] = ()
    goldens: tuple[int, ...] = ()
    acceptances: tuple[tuple[int, str], ...] = ()
    reports: tuple[str, ...] = ()
    history: tuple[Step, ...] = ()

    @property
    def state(self) -> State | None:
        """Where it is."""
        return self.past.state


def current(life: Life, time: datetime) -> Approval | None:
    """The approval that counts: of those whose validity has begun, the one that was recorded last."""
    begun = [one.approval for one in life.recorded if one.approval.starts_at <= time]
    return begun[-1] if begun else None


def lapsed(life: Life, time: datetime, trust: Trust) -> Cause | None:
    """Why a dossier that runs must not any more, by the calendar alone."""
    if life.state not in RUNNING:
        return None
    approval = current(life, time)
    if approval is None or not questions.in_force(approval, time):
        return Cause.EXPIRY
    return Cause.FOLLOW_UP if time >= questions.follow_up_due(approval, life.judged_at, trust) else None


def look_again(life: Life, time: datetime, trust: Trust) -> datetime | None:
    """The first moment after `time` at which `lapsed` may answer something else."""
    approval = current(life, time)
    if life.state not in RUNNING or approval is None:
        return None
    begins = [one.approval.starts_at for one in life.recorded if one.approval.starts_at > time]
    return min([approval.ends_at, questions.follow_up_due(approval, life.judged_at, trust), *begins])


def superseded(life: Life, time: datetime, trust: Trust) -> bool:
    """Whether it runs under criteria that do not count today."""
    approval = current(life, time)
    return life.state in RUNNING and approval is not None and not questions.criteria_current(approval, trust)


def guards(
    life: Life,
    event: Event,
    statement: Mapping[str, JsonValue],
    time: datetime,
    trust: Trust,
    *,
    new: Approval | None = None,
    fresh: bool,
) -> frozenset[Guard]:
    """Those of the event's guards that hold. `new`: the approval that is to be recorded.

    fresh: it happens now. What the policy says today of criteria and cycles decides over what is done today; what was
    done under the policy of its day is suspended where it must be, and is not undone.
    """
    approval = new or current(life, time)
    resumed = dataclasses.replace(life, past=dataclasses.replace(life.past, state=life.past.suspended_from))

    def holds(guard: Guard) -> bool:
        match guard:
            case Guard.SUBMISSION_SAME:
                return approval is not None and questions.submission_of(approval) in {None, life.submission}
            case Guard.CRITERIA_CURRENT:
                return approval is not None and (not fresh or questions.criteria_current(approval, trust))
            case Guard.FOLLOW_UP_IN_TIME:
                return approval is not None and (not fresh or questions.follow_up_in_time(approval, trust))
            case Guard.PANEL_CLEARED:
                return approval is not None and (life.past.panel_cleared or not questions.panel_needed(approval))
            case Guard.APPROVAL_IN_FORCE:
                return questions.in_force(approval, time)
            case Guard.ACCEPTANCE_MET:
                return approval is not None and (statement["acceptance"], approval.id) in life.acceptances
            case Guard.DRILL_DONE:
                return statement["drill"] in life.drills
            case Guard.GOLDEN_MATCH:
                return life.past.suspended_from not in RUNNING or statement["golden"] in life.goldens
            case Guard.NOTHING_DUE:
                return lapsed(resumed, time, trust) is None and not (fresh and superseded(resumed, time, trust))
            case Guard.REPORT_LOGGED:
                return statement["report"] in life.reports

    return frozenset(guard for guard in ROWS[event].guards if holds(guard))


def happened(
    life: Life,
    event: Event,
    end: State,
    signers: Sequence[Person],
    statement: Mapping[str, JsonValue],
    reason: str,
    at: Moment,
) -> Life:
    """The life after an event that `states.transition` let happen. Approvals: see `approved`."""
    names = tuple(person.name for person in signers)
    if event is Event.SUSPEND:
        return suspended(life, Cause(str(statement["cause"])), names, at)
    drill = life.past.cause is Cause.DRILL
    past = _remembered(life.past, event, end, signers, statement)
    began = at.index if end in RUNNING and end is not life.state else life.began
    life = _told(dataclasses.replace(life, past=past, began=began), event, life.state, reason, names, at)
    match event:
        case Event.RESUME:
            return dataclasses.replace(life, suspended_by=(), drills=(*life.drills, at.index) if drill else life.drills)
        case Event.SUBMIT:
            return dataclasses.replace(life, submission=str(statement["submission"]))
        case Event.FOLLOW_UP:
            return dataclasses.replace(life, judged_at=at.time)
        case Event.DEPLOY:
            return dataclasses.replace(life, deployed_at=at.index, drills=())
        case Event.RESTRICT:
            return restricted(life, str(statement["condition"]), str(statement["observed"]))
        case _:
            return life


def _remembered(
    past: Past, event: Event, end: State, signers: Sequence[Person], statement: Mapping[str, JsonValue]
) -> Past:
    names = frozenset(person.name for person in signers)
    organisations = frozenset(person.organisation for person in signers)
    past = dataclasses.replace(past, state=end)
    match event:
        case Event.SELF_ASSESS:
            return dataclasses.replace(past, submitters=past.submitters | names)
        case Event.SUBMIT:
            return dataclasses.replace(
                past,
                submitters=past.submitters | names,
                conflicts=past.conflicts | frozenset(_names(statement["coi"])),  # an interest is not undeclared
                panel=(),
                panel_cleared=False,
                reviewing=None,
            )
        case Event.PANEL_CLEAR | Event.PANEL_REJECT:
            cleared = event is Event.PANEL_CLEAR
            return dataclasses.replace(past, panel_orgs=past.panel_orgs | organisations, panel_cleared=cleared)
        case Event.RESUME:
            return dataclasses.replace(past, cause=None, suspended_from=None)
    if not ROWS[event].judges:
        return past
    past = dataclasses.replace(past, committee=past.committee | names, review_orgs=past.review_orgs | organisations)
    if event is Event.REFER:
        return dataclasses.replace(past, panel=_names(statement["panel"]))
    if event is Event.BEGIN_REVIEW:
        return dataclasses.replace(past, reviewing=next(iter(organisations)))
    return past


def _names(value: JsonValue) -> tuple[str, ...]:
    return tuple(str(one) for one in value) if isinstance(value, (list, tuple)) else ()


def approved(life: Life, approval: Approval, event: Event, end: State, signers: Sequence[Person], at: Moment) -> Life:
    """The life after an approval was recorded (APPROVE or RENEW). A suspension that was held takes hold."""
    past = _remembered(life.past, event, end, signers, {})
    names = tuple(person.name for person in signers)
    life = _told(dataclasses.replace(life, past=past), event, life.state, approval.id, names, at)
    life = dataclasses.replace(
        life,
        recorded=(*life.recorded, Recorded(at.index, approval)),
        judged_at=at.time,
        last_note=approval.note_digest,
    )
    if past.held is None or past.state not in IN_USE:
        return life
    life = dataclasses.replace(life, past=dataclasses.replace(past, held=None))
    return suspended(life, past.held, (), at)


def suspended(life: Life, cause: Cause, by: Sequence[str], at: Moment) -> Life:
    """Suspended, whoever says so; one that cannot be (nothing of it is in use) will be as soon as it can."""
    past = life.past
    if past.state in FINAL:
        return life
    if past.state not in IN_USE:
        return dataclasses.replace(life, past=dataclasses.replace(past, held=graver(past.held, cause)))
    if past.state is State.SUSPENDED:
        after = dataclasses.replace(past, cause=graver(past.cause, cause))
        by = (*life.suspended_by, *(name for name in by if name not in life.suspended_by))
    else:
        after = dataclasses.replace(past, state=State.SUSPENDED, cause=cause, suspended_from=past.state)
    life = dataclasses.replace(life, past=after, suspended_by=tuple(by), suspended_at=at.index, goldens=())
    return _told(life, Event.SUSPEND, past.state, cause, tuple(by), at)


def evaluated(life: Life, said: Entry) -> Life:
    """An evaluation that says SUSPEND asks for it, where it was made of the present run, and until it is answered.

    What is suspended already is suspended for this too, if this is harder to end: see `graver`.
    """
    body = said.body
    of_now = body["tier"] in {"T0", "T1"} and life.began < int(str(body["last"]))
    if body["outcome"] != "SUSPEND" or not of_now:
        return life
    grave = body["tier"] == "T0" and body["metric"] != "EVIDENCE_OVERDUE"
    more = life.past.cause is Cause.DRILL or (grave and life.past.cause not in FOR_REVIEWER)
    if life.state in RUNNING or (life.state is State.SUSPENDED and more):
        return dataclasses.replace(life, asked=(*life.asked, said.index))
    return life


def answered(life: Life, reason: JsonValue, evidence: JsonValue) -> Life:
    """A suspension answers the evaluation that it names; one that a reviewer must end answers all."""
    asked = () if reason in FOR_REVIEWER else tuple(one for one in life.asked if one != evidence)
    return dataclasses.replace(life, asked=asked)


def graver(one: Cause | None, other: Cause) -> Cause:
    """Of two causes of a suspension the one that is harder to end: who may end it follows from it."""
    if one is None or one is Cause.DRILL or (other in FOR_REVIEWER and one not in FOR_REVIEWER):
        return other
    return one


def restricted(life: Life, condition: str, observed: str) -> Life:
    """A class of a condition is taken out of use."""
    return dataclasses.replace(life, cut_off=life.cut_off | {(condition, observed)})


def tightened(
    life: Life, event: str, reason: str, pair: tuple[str, str] | None, panel: JsonValue, at: Moment, *, noted: bool
) -> Life:
    """What an entry that does not count does all the same: whoever's key left, left no door open.

    noted: it carries a note. Without one only a suspension and a restriction are the monitor's to make.
    """
    past = life.past
    if event == Event.SUSPEND:
        return suspended(life, Cause(reason) if reason in set(Cause) else Cause.INTEGRITY, (), at)
    if event == Event.RESTRICT and pair is not None:
        return restricted(life, *pair)
    if not noted or past.state in FINAL:
        return life
    if event in ENDINGS:
        after = dataclasses.replace(past, state=State.RETIRED if event == Event.RETIRE else State.REJECTED)
    elif event == Event.REVISE and past.state is State.UNDER_REVIEW:
        after = dataclasses.replace(past, state=State.REVISE)
    elif event == Event.REFER and past.state is State.UNDER_REVIEW:
        after = dataclasses.replace(past, state=State.EXPERT_REREVIEW, panel=_names(panel))
    else:
        return life
    return _told(dataclasses.replace(life, past=after), Event(event), past.state, reason, (), at)


def _told(life: Life, event: Event, start: State | None, reason: str, by: tuple[str, ...], at: Moment) -> Life:
    step = Step(at.index, at.time.astimezone(UTC).isoformat(), event.value, start, life.state, reason, by)
    return dataclasses.replace(life, history=(*life.history, step))


def standing(life: Life, time: datetime, trust: Trust) -> Standing | None:
    """Where it stands at `time`, which is none the log has seen yet: what lapsed since then is suspended too."""
    if life.state is None:
        return None
    cause = lapsed(life, time, trust) or (Cause.CRITERIA if superseded(life, time, trust) else None)
    seen = life if cause is None else suspended(life, cause, (), Moment(life.suspended_at, time))
    approval = current(life, time)
    newest = max((place for place, one in enumerate(life.recorded) if one.approval is approval), default=0)
    return Standing(
        model=life.model,
        state=seen.past.state or State.DRAFT,
        approvals=tuple(one.approval for one in life.recorded[newest:]),
        cause=seen.past.cause if seen.past.state is State.SUSPENDED else None,
        suspended_from=seen.past.suspended_from,
        suspended_by=seen.suspended_by if seen.past.state is State.SUSPENDED else (),
        cut_off=life.cut_off,
        last_note=life.last_note,
        submission=life.submission,
        history=life.history,
        asked=life.asked,
        follow_up_at=None if approval is None else questions.follow_up_due(approval, life.judged_at, trust),
    )
