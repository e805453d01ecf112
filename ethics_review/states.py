"""The life of a dossier: its states, what may happen to it, and who the people are who let it happen.

One table, ROWS, says for each event where it may start, where it ends, who must sign, and what else must be so. Adding
a rule is adding to the table. `transition` answers the new state or says, by a code, what is missing. Pure.
"""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from types import MappingProxyType
from typing import Final

from ethics_review.errors import ActRefused


class State(StrEnum):
    """Where a dossier is; RETIRED and REJECTED are final for its digest set. Before OPEN it is nowhere: None."""

    DRAFT = "DRAFT"
    SELF_ASSESSED = "SELF_ASSESSED"
    SUBMITTED = "SUBMITTED"
    UNDER_REVIEW = "UNDER_REVIEW"
    EXPERT_REREVIEW = "EXPERT_REREVIEW"
    REVISE = "REVISE"
    REJECTED = "REJECTED"
    APPROVED = "APPROVED"
    APPROVED_WITH_CONDITIONS = "APPROVED_WITH_CONDITIONS"
    SHADOW = "SHADOW"
    LIVE = "LIVE"
    SUSPENDED = "SUSPENDED"
    RETIRED = "RETIRED"


NONE: Final = "NONE"
"""How notes and entries write the state of a dossier that is not opened."""


class Event(StrEnum):
    """What may happen to a dossier."""

    OPEN = "OPEN"
    SELF_ASSESS = "SELF_ASSESS"
    SUBMIT = "SUBMIT"
    BEGIN_REVIEW = "BEGIN_REVIEW"
    REFER = "REFER"
    PANEL_CLEAR = "PANEL_CLEAR"
    PANEL_REJECT = "PANEL_REJECT"
    APPROVE = "APPROVE"
    REVISE = "REVISE"
    REJECT = "REJECT"
    REOPEN = "REOPEN"
    DEPLOY = "DEPLOY"
    GO_LIVE = "GO_LIVE"
    SUSPEND = "SUSPEND"
    RESUME = "RESUME"
    RESTRICT = "RESTRICT"
    RENEW = "RENEW"
    COUNTERSIGN = "COUNTERSIGN"
    FOLLOW_UP = "FOLLOW_UP"
    RETIRE = "RETIRE"


class Role(StrEnum):
    """What a person of the trust policy is there for."""

    DEVELOPER = "DEVELOPER"
    CLINICAL_OWNER = "CLINICAL_OWNER"
    SECRETARY = "SECRETARY"
    REVIEWER = "REVIEWER"
    PANELIST = "PANELIST"
    OPS = "OPS"
    SAFETY_OFFICER = "SAFETY_OFFICER"
    RADIOLOGIST = "RADIOLOGIST"
    AUDIT_ADMIN = "AUDIT_ADMIN"
    SYSTEM_ADMIN = "SYSTEM_ADMIN"


class Party(StrEnum):
    """What kind an organisation is of."""

    HOSPITAL = "hospital"
    VENDOR = "vendor"
    REVIEWER = "reviewer"
    PANEL = "panel"


class Cause(StrEnum):
    """Why a dossier is suspended."""

    HARM = "HARM"
    CONDITION_BREACH = "CONDITION_BREACH"
    EXPIRY = "EXPIRY"
    FOLLOW_UP = "FOLLOW_UP"
    CRITERIA = "CRITERIA"
    SUBGROUP_GAP = "SUBGROUP_GAP"
    INTEGRITY = "INTEGRITY"
    PERFORMANCE = "PERFORMANCE"
    REPORT_UNSIGNED = "REPORT_UNSIGNED"
    OPERATOR = "OPERATOR"
    DRILL = "DRILL"


class Guard(StrEnum):
    """What must be so besides the signatures; the register answers each from the log."""

    SUBMISSION_SAME = "SUBMISSION_SAME"  # what is approved is what was submitted
    CRITERIA_CURRENT = "CRITERIA_CURRENT"  # reviewed by criteria that count today
    FOLLOW_UP_IN_TIME = "FOLLOW_UP_IN_TIME"  # the approval's own follow-up comes no later than the policy allows
    PANEL_CLEARED = "PANEL_CLEARED"  # where a panel is needed, it has said yes
    APPROVAL_IN_FORCE = "APPROVAL_IN_FORCE"
    ACCEPTANCE_MET = "ACCEPTANCE_MET"  # a local acceptance under this approval met every bound
    DRILL_DONE = "DRILL_DONE"  # a stop was tried, and ended, since the deployment
    GOLDEN_MATCH = "GOLDEN_MATCH"  # the known case came out right since the suspension
    NOTHING_DUE = "NOTHING_DUE"  # it would not be suspended again at once
    REPORT_LOGGED = "REPORT_LOGGED"  # the safety report that is countersigned stands in the log


@dataclass(frozen=True, slots=True)
class Person:
    """One person of the trust policy; `name` is the name of the key."""

    name: str
    organisation: str
    party: Party
    roles: frozenset[Role]


@dataclass(frozen=True, slots=True)
class Seat:
    """Somebody of one of these roles, in an organisation of one of these kinds, must sign; `count` of them."""

    roles: frozenset[Role]
    parties: frozenset[Party]
    count: int = 1

    def fits(self, person: Person) -> bool:
        """Whether the person may take it."""
        return person.party in self.parties and not self.roles.isdisjoint(person.roles)


@dataclass(frozen=True, slots=True)
class Row:
    """One event: it starts in one of `start`, ends in one of `ends` (empty: where it was), signed for by `seats`.

    Everybody who signs must fit a seat, required or `optional`; each seat takes another person. `unsigned`: the monitor
    may do it too. `judges`: it is a reviewer's or a panel's judgement, from which submitters and parties are barred.
    """

    start: frozenset[State | None]
    ends: tuple[State, ...]
    seats: tuple[Seat, ...]
    guards: frozenset[Guard] = frozenset()
    optional: tuple[Seat, ...] = ()
    unsigned: bool = False
    judges: bool = False


@dataclass(frozen=True, slots=True)
class Past:
    """What of a dossier's past decides over what may happen next.

    Attributes:
        submitters: who signed SELF_ASSESS or SUBMIT. committee: who signed as a reviewer.
        reviewing: the organisation that began the present review. review_orgs, panel_orgs: those that ever judged.
        panel: whom the last REFER named. conflicts: organisations on the submission's conflict-of-interest list.
        held: a suspension that stands in the log although the dossier could not be suspended, which makes it so as
            soon as it can: see life.py.
    """

    state: State | None = None
    cause: Cause | None = None
    suspended_from: State | None = None
    held: Cause | None = None
    submitters: frozenset[str] = frozenset()
    committee: frozenset[str] = frozenset()
    reviewing: str | None = None
    review_orgs: frozenset[str] = frozenset()
    panel: tuple[str, ...] = ()
    panel_orgs: frozenset[str] = frozenset()
    panel_cleared: bool = False
    conflicts: frozenset[str] = frozenset()


FOR_REVIEWER: Final = frozenset(
    {
        Cause.HARM,
        Cause.CONDITION_BREACH,
        Cause.EXPIRY,
        Cause.FOLLOW_UP,
        Cause.CRITERIA,
        Cause.SUBGROUP_GAP,
        Cause.INTEGRITY,
    }
)
"""Causes of a suspension that the hospital cannot end alone."""
ADMINISTRATORS: Final = frozenset({Role.SYSTEM_ADMIN, Role.AUDIT_ADMIN})
EXCLUSIVE: Final = (
    frozenset({Role.DEVELOPER}),
    frozenset({Role.CLINICAL_OWNER, Role.SAFETY_OFFICER}),
    frozenset({Role.OPS}),
    frozenset({Role.REVIEWER, Role.PANELIST}),
)
"""Makers, approvers, operators, reviewers: nobody is of two of these. An administrator is nothing else at all."""
HOMES: Final[Mapping[Role, frozenset[Party]]] = MappingProxyType(
    {role: frozenset({Party.HOSPITAL}) for role in Role}
    | {
        Role.DEVELOPER: frozenset({Party.VENDOR, Party.HOSPITAL}),
        Role.REVIEWER: frozenset({Party.REVIEWER}),
        Role.PANELIST: frozenset({Party.PANEL, Party.REVIEWER}),
    }
)
"""In what kind of organisation each role is at home."""
APPROVED: Final = (State.APPROVED, State.APPROVED_WITH_CONDITIONS)
RUNNING: Final = frozenset({State.SHADOW, State.LIVE})
IN_USE: Final = frozenset({*APPROVED, *RUNNING, State.SUSPENDED})
FINAL: Final = frozenset({State.REJECTED, State.RETIRED})
ENDINGS: Final = frozenset({Event.REJECT, Event.PANEL_REJECT, Event.RETIRE})
REVIEWERS_MIN: Final = 2
PANEL_MIN: Final = 5


def _seat(*roles: Role, count: int = 1) -> Seat:
    parties = frozenset(party for role in roles for party in HOMES[role])
    return Seat(frozenset(roles), parties, count)


_MAKER: Final = _seat(Role.DEVELOPER, Role.CLINICAL_OWNER)
_OWNER: Final = _seat(Role.CLINICAL_OWNER)
_SAFETY: Final = _seat(Role.SAFETY_OFFICER)
_ONE: Final = _seat(Role.REVIEWER)
_TWO: Final = _seat(Role.REVIEWER, count=REVIEWERS_MIN)
_PANEL: Final = _seat(Role.PANELIST, count=0)  # how many, the panel's size says
_ANYBODY: Final = Seat(frozenset(Role), frozenset({Party.HOSPITAL, Party.REVIEWER}))
_REVIEW: Final = frozenset({State.UNDER_REVIEW})
_TERMS: Final = frozenset({Guard.CRITERIA_CURRENT, Guard.FOLLOW_UP_IN_TIME, Guard.PANEL_CLEARED})
_START: Final = frozenset({Guard.APPROVAL_IN_FORCE, Guard.CRITERIA_CURRENT})

ROWS: Final[Mapping[Event, Row]] = MappingProxyType(
    {
        Event.OPEN: Row(frozenset({None}), (State.DRAFT,), (_MAKER,)),
        Event.SELF_ASSESS: Row(frozenset({State.DRAFT}), (State.SELF_ASSESSED,), (_seat(Role.DEVELOPER), _OWNER)),
        Event.SUBMIT: Row(frozenset({State.SELF_ASSESSED}), (State.SUBMITTED,), (_seat(Role.SECRETARY),)),
        Event.BEGIN_REVIEW: Row(frozenset({State.SUBMITTED}), (State.UNDER_REVIEW,), (_ONE,), judges=True),
        Event.REFER: Row(_REVIEW, (State.EXPERT_REREVIEW,), (_ONE,), judges=True),
        Event.PANEL_CLEAR: Row(frozenset({State.EXPERT_REREVIEW}), (State.UNDER_REVIEW,), (_PANEL,), judges=True),
        Event.PANEL_REJECT: Row(frozenset({State.EXPERT_REREVIEW}), (State.REJECTED,), (_PANEL,), judges=True),
        Event.APPROVE: Row(_REVIEW, APPROVED, (_TWO,), _TERMS | {Guard.SUBMISSION_SAME}, judges=True),
        Event.REVISE: Row(_REVIEW, (State.REVISE,), (_TWO,), judges=True),
        Event.REJECT: Row(_REVIEW, (State.REJECTED,), (_TWO,), judges=True),
        Event.REOPEN: Row(frozenset({State.REVISE}), (State.DRAFT,), (_MAKER,)),
        Event.DEPLOY: Row(frozenset(APPROVED), (State.SHADOW,), (_seat(Role.OPS), _OWNER), _START),
        Event.GO_LIVE: Row(
            frozenset({State.SHADOW}),
            (State.LIVE,),
            (_OWNER, _SAFETY),
            _START | {Guard.ACCEPTANCE_MET, Guard.DRILL_DONE},
        ),
        Event.SUSPEND: Row(IN_USE, (State.SUSPENDED,), (_ANYBODY,), optional=(_ANYBODY,), unsigned=True),
        Event.RESUME: Row(
            frozenset({State.SUSPENDED}),
            (*APPROVED, State.SHADOW, State.LIVE),
            (_OWNER, _SAFETY),
            frozenset({Guard.GOLDEN_MATCH, Guard.NOTHING_DUE}),
            optional=(_ONE,),
        ),
        Event.RESTRICT: Row(IN_USE, (), (_ANYBODY,), optional=(_ANYBODY,), unsigned=True),
        Event.RENEW: Row(IN_USE, (), (_TWO,), _TERMS | {Guard.SUBMISSION_SAME}, judges=True),
        Event.COUNTERSIGN: Row(IN_USE, (), (_ONE,), frozenset({Guard.REPORT_LOGGED}), judges=True),
        Event.FOLLOW_UP: Row(IN_USE, (), (_ONE,), judges=True),
        Event.RETIRE: Row(frozenset(State) - FINAL, (State.RETIRED,), (_OWNER, _SAFETY)),
    }
)
"""ethics.md section b, row by row, with the events that it implies (OPEN, REOPEN, REFER) made explicit."""


def transition(
    past: Past,
    event: Event,
    signers: Sequence[Person],
    guards: Collection[Guard] = frozenset(Guard),
    *,
    to: State | None = None,
    panel: Sequence[Person] = (),
    reviewers: int = REVIEWERS_MIN,
    panel_min: int = PANEL_MIN,
) -> State:
    """The state after the event. No signers: the monitor does it.

    Args:
        guards: those that hold. to: for an event with more than one end, which; RESUME has one only, by the past.
        panel: the persons that REFER and the panel's events name. reviewers, panel_min: the trust policy's numbers.

    Raises ActRefused with the code and what is missing.
    """
    row = ROWS[event]
    if past.state not in row.start:
        raise ActRefused("ACT_STATE", f"{event} cannot start from {past.state or NONE}")
    if signers or not row.unsigned:
        _refuse_signers(past, event, row, signers, reviewers)
    if event in {Event.REFER, Event.PANEL_CLEAR, Event.PANEL_REJECT}:
        _refuse_panel(past, event, signers, panel, panel_min)
    missing = sorted(row.guards - frozenset(guards))
    if missing:
        raise ActRefused("ACT_GUARD", f"{event} wants {', '.join(missing)}")
    return _end(past, event, row, to)


def _end(past: Past, event: Event, row: Row, to: State | None) -> State:
    if event is Event.RESUME:
        ends: tuple[State, ...] = () if past.suspended_from is None else (past.suspended_from,)
    else:
        ends = row.ends or (() if past.state is None else (past.state,))
    if to is None and len(ends) == 1:
        return ends[0]
    if to is None or to not in ends:
        raise ActRefused("ACT_STATE", f"{event} does not end in {to or NONE} here")
    return to


def _refuse_signers(past: Past, event: Event, row: Row, signers: Sequence[Person], reviewers: int) -> None:
    if len({person.name for person in signers}) != len(signers):
        raise ActRefused("ACT_SIGNERS", "one person signs once")
    if row.seats[0] is not _ANYBODY and any(not ADMINISTRATORS.isdisjoint(person.roles) for person in signers):
        raise ActRefused("ACT_ADMINISTRATOR", f"an administrator cannot sign {event}")
    required = [seat for seat in row.seats for _ in range(max(seat.count, reviewers if seat is _TWO else 0))]
    if event is Event.RESUME and past.cause in FOR_REVIEWER:
        required.append(_ONE)
    offered = (*row.seats, *row.optional)
    if not signers or any(not any(seat.fits(person) for seat in offered) for person in signers):
        raise ActRefused("ACT_SIGNERS", f"{event} is not for everybody who signed")
    if not _seated(required, list(signers)):
        raise ActRefused("ACT_SIGNERS", f"{event} wants {_told(required)}, each another person")
    if row.judges or event is Event.RESUME:
        _refuse_partial(past, event, [person for person in signers if Role.REVIEWER in person.roles or row.judges])


def _seated(seats: Sequence[Seat], persons: Sequence[Person]) -> bool:
    """Whether each seat can have a person of its own."""
    if not seats:
        return True
    return any(
        seats[0].fits(person) and _seated(seats[1:], [*persons[:place], *persons[place + 1 :]])
        for place, person in enumerate(persons)
    )


def _told(seats: Sequence[Seat]) -> str:
    return " and ".join("anybody authorised" if seat is _ANYBODY else " or ".join(sorted(seat.roles)) for seat in seats)


def _refuse_partial(past: Past, event: Event, judges: Sequence[Person]) -> None:
    """Who judges has not submitted, has no interest in it, and has not judged at the other stage."""
    of_panel = event in {Event.PANEL_CLEAR, Event.PANEL_REJECT}
    if any(person.name in past.submitters for person in judges):
        raise ActRefused("ACT_SUBMITTER", "nobody judges what they submitted")
    _refuse_organisations(past, {person.organisation for person in judges}, of_panel=of_panel)
    if of_panel:
        return
    organisations = {person.organisation for person in judges}
    if len(organisations) > 1:
        raise ActRefused("ACT_ORGANISATION", "reviewers of one organisation sign together")
    if past.state is State.UNDER_REVIEW and organisations != {past.reviewing}:
        raise ActRefused("ACT_ORGANISATION", "another organisation began this review")


def _refuse_organisations(past: Past, organisations: Collection[str], *, of_panel: bool) -> None:
    if not past.conflicts.isdisjoint(organisations):
        raise ActRefused("ACT_CONFLICT", "the organisation is on the submission's conflict-of-interest list")
    others = past.review_orgs if of_panel else past.panel_orgs
    if not others.isdisjoint(organisations):
        raise ActRefused("ACT_ORGANISATION", "one organisation cannot both review and re-examine")


def _refuse_panel(past: Past, event: Event, signers: Sequence[Person], panel: Sequence[Person], panel_min: int) -> None:
    names = [person.name for person in panel]
    if len(set(names)) != len(names) or len(names) < panel_min:
        raise ActRefused("ACT_PANEL", f"a panel of at least {panel_min} persons wanted, each named once")
    if any(not _PANEL.fits(person) for person in panel):
        raise ActRefused("ACT_PANEL", "not everybody named is a panelist")
    if any(name in past.committee or name in past.submitters for name in names):
        raise ActRefused("ACT_PANEL", "a member has reviewed or submitted it")
    _refuse_organisations(past, {person.organisation for person in panel}, of_panel=True)
    if event is Event.REFER:
        if any(person.organisation in {one.organisation for one in signers} for person in panel):
            raise ActRefused("ACT_ORGANISATION", "one organisation cannot both review and re-examine")
        return
    if tuple(sorted(names)) != tuple(sorted(past.panel)):
        raise ActRefused("ACT_PANEL", "not the panel that it was referred to")
    if any(person.name not in names for person in signers):
        raise ActRefused("ACT_PANEL", "somebody signed who is not on the panel")
    if 3 * len(signers) < 2 * len(names):
        raise ActRefused("ACT_PANEL", "two thirds of the panel wanted")
