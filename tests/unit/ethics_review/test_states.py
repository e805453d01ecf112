"""The life of a dossier: every state, every event, every group of people, against the table written a second time."""

import itertools
from collections.abc import Iterator, Sequence

import pytest

from ethics_review.errors import ActRefused
from ethics_review.states import (
    FOR_REVIEWER,
    HOMES,
    NONE,
    ROWS,
    Cause,
    Event,
    Guard,
    Party,
    Past,
    Person,
    Role,
    State,
    transition,
)

# ethics.md, section b, "Lifecycle state machine", row by row: from -> to | who may (with + between people, / between
# roles) | machine guard. "any" is anybody of the hospital or of a reviewer; "[x]" may sign too.
TABLE = """
OPEN         | NONE                  -> DRAFT           | DEVELOPER/CLINICAL_OWNER            |
SELF_ASSESS  | DRAFT                 -> SELF_ASSESSED   | DEVELOPER + CLINICAL_OWNER          |
SUBMIT       | SELF_ASSESSED         -> SUBMITTED       | SECRETARY                           |
BEGIN_REVIEW | SUBMITTED             -> UNDER_REVIEW    | REVIEWER                            |
REFER        | UNDER_REVIEW          -> EXPERT_REREVIEW | REVIEWER                            |
APPROVE      | UNDER_REVIEW          -> APPROVED        | REVIEWER + REVIEWER [REVIEWER]      | SUBMISSION_SAME \
CRITERIA_CURRENT FOLLOW_UP_IN_TIME PANEL_CLEARED
REVISE       | UNDER_REVIEW          -> REVISE          | REVIEWER + REVIEWER [REVIEWER]      |
REJECT       | UNDER_REVIEW          -> REJECTED        | REVIEWER + REVIEWER [REVIEWER]      |
REOPEN       | REVISE                -> DRAFT           | DEVELOPER/CLINICAL_OWNER            |
DEPLOY       | APPROVED*             -> SHADOW          | OPS + CLINICAL_OWNER                | APPROVAL_IN_FORCE \
CRITERIA_CURRENT
GO_LIVE      | SHADOW                -> LIVE            | CLINICAL_OWNER + SAFETY_OFFICER     | APPROVAL_IN_FORCE \
CRITERIA_CURRENT ACCEPTANCE_MET DRILL_DONE
SUSPEND      | APPROVED* SHADOW LIVE SUSPENDED -> SUSPENDED | any [any] or monitor             |
RESUME       | SUSPENDED             -> LIVE            | SAFETY_OFFICER + CLINICAL_OWNER [REVIEWER] | GOLDEN_MATCH \
NOTHING_DUE
RESTRICT     | APPROVED* SHADOW LIVE SUSPENDED -> same  | any [any] or monitor                |
RENEW        | APPROVED* SHADOW LIVE SUSPENDED -> same  | REVIEWER + REVIEWER [REVIEWER]      | SUBMISSION_SAME \
CRITERIA_CURRENT FOLLOW_UP_IN_TIME PANEL_CLEARED
COUNTERSIGN  | APPROVED* SHADOW LIVE SUSPENDED -> same  | REVIEWER                            | REPORT_LOGGED
FOLLOW_UP    | APPROVED* SHADOW LIVE SUSPENDED -> same  | REVIEWER                            |
RETIRE       | DRAFT SELF_ASSESSED SUBMITTED UNDER_REVIEW EXPERT_REREVIEW REVISE APPROVED* SHADOW LIVE SUSPENDED \
-> RETIRED | CLINICAL_OWNER + SAFETY_OFFICER |
PANEL_CLEAR  | EXPERT_REREVIEW       -> UNDER_REVIEW    | panel                               |
PANEL_REJECT | EXPERT_REREVIEW       -> REJECTED        | panel                               |
"""


class Expected:
    """One row of the table."""

    def __init__(self, line: str) -> None:
        self.event, move, who, guards = (part.strip() for part in line.split("|"))
        start, self.to = (part.strip() for part in move.split("->"))
        self.start = set(start.replace("APPROVED*", "APPROVED APPROVED_WITH_CONDITIONS").split())
        self.monitor = who.endswith(" or monitor")
        people, _, extra = who.removesuffix(" or monitor").partition("[")
        self.seats = [seat.strip() for seat in people.split("+")]
        self.extra = extra.rstrip("]").strip()
        self.guards = set(guards.split())

    def may(self, group: Sequence[Person]) -> bool:
        """Whether this group signs for it."""
        if self.seats == ["panel"]:
            return False  # never so few: see the tests of panels
        if not group:
            return self.monitor
        allowed = {*self.seats, self.extra} - {""}
        if not all(any(takes(seat, person) for seat in allowed) for person in group):
            return False
        return any(
            all(takes(seat, person) for seat, person in zip(self.seats, order, strict=False))
            for order in itertools.permutations(group)
            if len(order) >= len(self.seats)
        )


def takes(seat: str, person: Person) -> bool:
    """Whether a person may take a seat as the table names it."""
    if seat == "any":
        return person.party in {"hospital", "reviewer"}
    return any(role in person.roles for role in seat.split("/"))


ROWS_AGAIN = {row.event: row for row in (Expected(line) for line in TABLE.replace("\\\n", "").strip().splitlines())}


def person(role: Role, number: int = 1, party: Party | None = None, *, organisation: str | None = None) -> Person:
    """Somebody of this role, at home where the role is."""
    home = party or (Party.VENDOR if role is Role.DEVELOPER else sorted(HOMES[role])[0])
    return Person(f"{role}-{number}-{home}", organisation or f"the-{home}", home, frozenset({role}))


PEOPLE = [
    *(person(role) for role in Role),
    person(Role.DEVELOPER, party=Party.HOSPITAL),
    person(Role.PANELIST, party=Party.REVIEWER, organisation="second-centre"),
]
COMMITTEE = [person(Role.REVIEWER, number, Party.REVIEWER, organisation="the-reviewer") for number in range(1, 5)]
PANEL = [person(Role.PANELIST, number, Party.PANEL) for number in range(1, 6)]


def groups() -> Iterator[tuple[Person, ...]]:
    """Nobody, everybody alone, every pair and every triple, two and three of one role included."""
    yield ()
    for size in (1, 2, 3):
        for chosen in itertools.combinations_with_replacement(range(len(PEOPLE)), size):
            seen: dict[int, int] = {}
            group = []
            for place in chosen:
                seen[place] = seen.get(place, 0) + 1
                one = PEOPLE[place]
                group.append(Person(f"{one.name}-{seen[place]}", one.organisation, one.party, one.roles))
            yield tuple(group)


def past(state: State | None, **changes: object) -> Past:
    """A dossier in this state that any reviewer of the centre may judge."""
    suspended = {"suspended_from": State.LIVE, "cause": Cause.OPERATOR} if state is State.SUSPENDED else {}
    return Past(state, **({"reviewing": "the-reviewer"} | suspended | changes))  # type: ignore[arg-type]


def happens(before: Past, event: Event, group: Sequence[Person], **more: object) -> State | str:
    """The state after, or the code of the refusal."""
    to = State.APPROVED if event is Event.APPROVE else None
    panel = PANEL if event is Event.REFER else ()
    try:
        return transition(before, event, group, **({"to": to, "panel": panel} | more))  # type: ignore[arg-type]
    except ActRefused as refused:
        return refused.code


GROUPS = list(groups())


@pytest.mark.parametrize("event", Event)
def test_every_state_and_every_group_of_people(event: Event) -> None:
    """What the table says happens, and nothing else: 14 states, every event, nobody to three people of any role."""
    row = ROWS_AGAIN[event]
    for state in (None, *State):
        startable = (state or NONE) in row.start
        for group in GROUPS:
            answer = happens(past(state), event, group)
            allowed = startable and may(row, group)
            wanted = state if row.to == "same" else State(row.to)
            assert (answer == wanted and isinstance(answer, State)) if allowed else answer.startswith("ACT_"), (
                f"{event} from {state} by {[one.name for one in group]}: {answer}"
            )


def may(row: Expected, group: Sequence[Person]) -> bool:
    """The table's answer; where one of a kind must sign, more of that kind may."""
    if row.may(group):
        return True
    if len(row.seats) > 1 or row.monitor or row.seats == ["panel"] or not group:
        return False
    return all(takes(row.seats[0], one) for one in group)


def test_the_table_knows_every_event() -> None:
    """Neither table has a row that the other has not."""
    assert set(ROWS_AGAIN) == {event.value for event in Event} == {event.value for event in ROWS}


def test_a_refusal_for_the_state_comes_first() -> None:
    """Whoever signs, what cannot happen here is told as that."""
    for event in Event:
        for state in (None, *State):
            if (state or NONE) not in ROWS_AGAIN[event].start:
                assert happens(past(state), event, COMMITTEE[:2]) == "ACT_STATE"


WHO: dict[Event, list[Person]] = {
    Event.APPROVE: COMMITTEE[:2],
    Event.RENEW: COMMITTEE[:2],
    Event.DEPLOY: [person(Role.OPS), person(Role.CLINICAL_OWNER)],
    Event.GO_LIVE: [person(Role.SAFETY_OFFICER), person(Role.CLINICAL_OWNER)],
    Event.RESUME: [person(Role.SAFETY_OFFICER), person(Role.CLINICAL_OWNER)],
    Event.COUNTERSIGN: COMMITTEE[:1],
}


@pytest.mark.parametrize("event", [event for event in Event if ROWS_AGAIN[event].guards])
def test_each_guard_alone_holds_it_up(event: Event) -> None:
    """With every guard it happens; without any single one of its own it does not, and no other matters."""
    row = ROWS_AGAIN[event]
    state = State(sorted(row.start)[0])
    assert isinstance(happens(past(state), event, WHO[event]), State)
    for guard in Guard:
        answer = happens(past(state), event, WHO[event], guards=frozenset(Guard) - {guard})
        assert (answer == "ACT_GUARD") is (guard.value in row.guards), (event, guard)


@pytest.mark.parametrize("cause", Cause)
def test_resuming_needs_a_reviewer_where_the_cause_says_so(cause: Cause) -> None:
    """Harm, breach, expiry, follow-up, criteria, gap, integrity: the hospital does not end it alone."""
    before = past(State.SUSPENDED, cause=cause)
    named = ["HARM", "CONDITION_BREACH", "EXPIRY", "FOLLOW_UP", "CRITERIA", "SUBGROUP_GAP", "INTEGRITY"]
    assert {one.value for one in FOR_REVIEWER} == set(named)
    two, three = WHO[Event.RESUME], [*WHO[Event.RESUME], COMMITTEE[0]]
    assert happens(before, Event.RESUME, three) is State.LIVE
    assert happens(before, Event.RESUME, two) == ("ACT_SIGNERS" if cause in named else State.LIVE)
    assert happens(before, Event.RESUME, [COMMITTEE[0], two[0]]) == "ACT_SIGNERS"


@pytest.mark.parametrize("was", [State.APPROVED, State.APPROVED_WITH_CONDITIONS, State.SHADOW, State.LIVE])
def test_it_resumes_where_it_was_suspended(was: State) -> None:
    """A suspension in SHADOW does not end LIVE."""
    before = past(State.SUSPENDED, suspended_from=was)
    assert happens(before, Event.RESUME, WHO[Event.RESUME]) is was
    for other in State:
        if other is not was:
            assert happens(before, Event.RESUME, WHO[Event.RESUME], to=other) == "ACT_STATE"


def test_the_monitor_never_loosens() -> None:
    """Unsigned, only SUSPEND and RESTRICT happen, from whatever state."""
    done = {event for event in Event for state in (None, *State) if isinstance(happens(past(state), event, ()), State)}
    assert done == {Event.SUSPEND, Event.RESTRICT}


# ---- separation of duties --------------------------------------------------------------------------------------------

JUDGED = {
    Event.BEGIN_REVIEW: State.SUBMITTED,
    Event.REFER: State.UNDER_REVIEW,
    Event.APPROVE: State.UNDER_REVIEW,
    Event.REVISE: State.UNDER_REVIEW,
    Event.REJECT: State.UNDER_REVIEW,
    Event.RENEW: State.LIVE,
    Event.COUNTERSIGN: State.LIVE,
    Event.FOLLOW_UP: State.LIVE,
}


@pytest.mark.parametrize("event", JUDGED)
def test_nobody_judges_what_they_submitted(event: Event) -> None:
    """One submitter among the signers is enough to refuse, whatever role they have today."""
    before = past(JUDGED[event])
    assert isinstance(happens(before, event, COMMITTEE[:2]), State)
    before = past(JUDGED[event], submitters=frozenset({COMMITTEE[1].name}))
    assert happens(before, event, COMMITTEE[:2]) == "ACT_SUBMITTER"
    before = past(State.SUSPENDED, submitters=frozenset({COMMITTEE[0].name}), cause=Cause.HARM)
    assert happens(before, Event.RESUME, [*WHO[Event.RESUME], COMMITTEE[0]]) == "ACT_SUBMITTER"


@pytest.mark.parametrize("event", [event for event in Event if event not in {Event.SUSPEND, Event.RESTRICT}])
@pytest.mark.parametrize("admin", [Role.SYSTEM_ADMIN, Role.AUDIT_ADMIN])
def test_administrators_sign_nothing_but_a_stop(event: Event, admin: Role) -> None:
    """Even with every other role at once, which no policy that loads gives them."""
    for state in (None, *State):
        if (state or NONE) not in ROWS_AGAIN[event].start:
            continue
        for party in Party:
            everything = [Person(f"admin-{n}", "the-reviewer", party, frozenset(Role)) for n in range(3)]
            assert happens(past(state), event, everything) == "ACT_ADMINISTRATOR"
            alone = [Person("admin", "x", party, frozenset({admin}))]
            assert happens(past(state), event, alone) == "ACT_ADMINISTRATOR"


@pytest.mark.parametrize("event", JUDGED)
def test_an_organisation_with_an_interest_does_not_judge(event: Event) -> None:
    """The submission's conflict-of-interest list counts through the whole life."""
    before = past(JUDGED[event], conflicts=frozenset({"the-reviewer"}))
    assert happens(before, event, COMMITTEE[:2]) == "ACT_CONFLICT"


@pytest.mark.parametrize("event", JUDGED)
def test_who_re_examined_does_not_review(event: Event) -> None:
    """One organisation cannot do both stages."""
    before = past(JUDGED[event], panel_orgs=frozenset({"the-reviewer"}))
    assert happens(before, event, COMMITTEE[:2]) == "ACT_ORGANISATION"


@pytest.mark.parametrize("event", JUDGED)
def test_reviewers_sign_as_one_organisation(event: Event) -> None:
    """Two reviewers of two organisations are no two reviewers; and a review is ended by who began it."""
    other = person(Role.REVIEWER, 9, Party.REVIEWER, organisation="second-centre")
    assert happens(past(JUDGED[event]), event, [COMMITTEE[0], other]) == "ACT_ORGANISATION"
    twice = [other, person(Role.REVIEWER, 8, Party.REVIEWER, organisation="second-centre")]
    answer = happens(past(JUDGED[event]), event, twice)
    assert (answer == "ACT_ORGANISATION") is (JUDGED[event] is State.UNDER_REVIEW)


def test_one_person_is_one_signature() -> None:
    """Two roles of one person fill one seat, and a name that stands twice counts for nothing."""
    both = Person("both", "h", Party.HOSPITAL, frozenset({Role.CLINICAL_OWNER, Role.SAFETY_OFFICER}))
    assert happens(past(State.SHADOW), Event.GO_LIVE, [both]) == "ACT_SIGNERS"
    assert happens(past(State.SHADOW), Event.GO_LIVE, [both, both]) == "ACT_SIGNERS"
    assert happens(past(State.SUSPENDED), Event.RESUME, [both]) == "ACT_SIGNERS"
    assert happens(past(State.SHADOW), Event.GO_LIVE, [both, person(Role.CLINICAL_OWNER)]) is State.LIVE


def test_a_policy_may_want_more_reviewers() -> None:
    """`reviewers` raises the number for judgements that two sign, and never lowers it."""
    under = past(State.UNDER_REVIEW)
    assert happens(under, Event.APPROVE, COMMITTEE[:2], reviewers=3) == "ACT_SIGNERS"
    assert happens(under, Event.APPROVE, COMMITTEE[:3], reviewers=3) is State.APPROVED
    assert happens(under, Event.APPROVE, COMMITTEE[:1], reviewers=1) == "ACT_SIGNERS"


def test_an_approval_says_which_of_the_two_it_is() -> None:
    """With conditions or without; it ends nowhere else."""
    under = past(State.UNDER_REVIEW)
    for to in (State.APPROVED, State.APPROVED_WITH_CONDITIONS):
        assert happens(under, Event.APPROVE, COMMITTEE[:2], to=to) is to
    for to in (None, State.LIVE, State.SHADOW):
        assert happens(under, Event.APPROVE, COMMITTEE[:2], to=to) == "ACT_STATE"


# ---- panels ---------------------------------------------------------------------------------------------------------


def referred(**changes: object) -> Past:
    """A dossier before the panel of PANEL."""
    names = tuple(one.name for one in PANEL)
    return past(State.EXPERT_REREVIEW, **({"panel": names, "review_orgs": frozenset({"the-reviewer"})} | changes))


@pytest.mark.parametrize(("event", "to"), [(Event.PANEL_CLEAR, "UNDER_REVIEW"), (Event.PANEL_REJECT, "REJECTED")])
def test_two_thirds_of_a_panel(event: Event, to: str) -> None:
    """Four of five; three are not enough, nor is anybody from outside."""
    assert happens(referred(), event, PANEL[:4], panel=PANEL) == to
    assert happens(referred(), event, PANEL, panel=PANEL) == to
    assert happens(referred(), event, PANEL[:3], panel=PANEL) == "ACT_PANEL"
    outside = person(Role.PANELIST, 9, Party.PANEL)
    assert happens(referred(), event, [*PANEL[:4], outside], panel=PANEL) == "ACT_PANEL"
    assert happens(referred(), event, [*PANEL[:4], COMMITTEE[0]], panel=PANEL) == "ACT_SIGNERS"
    assert happens(referred(), event, (), panel=PANEL) == "ACT_SIGNERS"
    for state in set(State) - {State.EXPERT_REREVIEW}:
        assert happens(past(state), event, PANEL, panel=PANEL) == "ACT_STATE"


def test_a_panel_is_who_it_was_referred_to() -> None:
    """Five at least, each once, all panelists, the same as in the referral."""
    six = [*PANEL, person(Role.PANELIST, 6, Party.PANEL)]
    for panel in (PANEL[:4], [*PANEL[:4], PANEL[0]], [*PANEL[:4], COMMITTEE[0]], six):
        assert happens(referred(), Event.PANEL_CLEAR, PANEL[:4], panel=panel) == "ACT_PANEL"
    under = past(State.UNDER_REVIEW)
    assert happens(under, Event.REFER, COMMITTEE[:1], panel=PANEL) is State.EXPERT_REREVIEW
    for panel in (PANEL[:4], [*PANEL[:4], PANEL[0]], [*PANEL[:4], COMMITTEE[0]]):
        assert happens(under, Event.REFER, COMMITTEE[:1], panel=panel) == "ACT_PANEL"
    assert happens(under, Event.REFER, COMMITTEE[:1], panel=PANEL, panel_min=6) == "ACT_PANEL"


@pytest.mark.parametrize("whose", ["committee", "submitters"])
def test_nobody_of_the_first_committee_is_on_the_panel(whose: str) -> None:
    """Nor anybody who submitted it, whether they sign or not."""
    changes = {whose: frozenset({PANEL[4].name})}
    assert happens(referred(**changes), Event.PANEL_CLEAR, PANEL[:4], panel=PANEL) == "ACT_PANEL"
    assert happens(past(State.UNDER_REVIEW, **changes), Event.REFER, COMMITTEE[:1], panel=PANEL) == "ACT_PANEL"


def test_a_panel_is_of_another_organisation() -> None:
    """Who reviewed does not re-examine, and who has an interest does neither."""
    own = [person(Role.PANELIST, number, Party.REVIEWER, organisation="the-reviewer") for number in range(1, 6)]
    assert happens(past(State.UNDER_REVIEW), Event.REFER, COMMITTEE[:1], panel=own) == "ACT_ORGANISATION"
    names = tuple(one.name for one in own)
    assert happens(referred(panel=names), Event.PANEL_CLEAR, own, panel=own) == "ACT_ORGANISATION"
    interested = referred(conflicts=frozenset({"the-panel"}))
    assert happens(interested, Event.PANEL_CLEAR, PANEL, panel=PANEL) == "ACT_CONFLICT"
