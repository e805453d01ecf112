"""The verifier lives each dossier's life again and weighs each decision: an honest review passes, a forged one fails.

In each forgery the attacker has the operator's key and the witnesses' cosignatures: every hash and head is right. Only
what was decided, by whom, and when is not.
"""

from collections.abc import Callable
from datetime import timedelta
from itertools import product
from pathlib import Path
from typing import Any

import pytest

from audit import verifier
from audit.canonical import canonical
from audit.entry import Entry, Kind
from audit.export import Evidence, Scope, export
from audit.note import Signer
from ethics_review import gaps, states
from ethics_review.acts import digest
from ethics_review.dossier import draft_approval
from ethics_review.replay import Replay
from ethics_review.states import Event, State
from tests.simulators.audit_log import DIGEST, STUDY
from tests.simulators.audit_package import APPROVED_AT, FIRST_CALL, NAMED, Hospital, call_id, check, members, repacked
from tests.simulators.parties import PANELISTS
from tests.simulators.reviewer import fields

PANEL = [f"{name}.example" for name in PANELISTS]
RESUMED = {"root_cause": DIGEST, "correction": DIGEST}


def live(hospital: Hospital | None = None) -> Hospital:
    """A hospital whose model is LIVE."""
    hospital = hospital or Hospital()
    hospital.approve()
    return hospital


def shadow() -> Hospital:
    """A hospital whose model is in SHADOW."""
    hospital = Hospital()
    hospital.reviewed()
    hospital.approved()
    hospital.act("DEPLOY", "SHADOW", "ops", "owner")
    return hospital


def reported(folder: Path, hospital: Hospital, *lines: str, without: str = "-", scope: Scope | None = None) -> Any:
    """The report on the witnessed log."""
    path = folder / f"{len(list(folder.iterdir()))}.zip"
    export(hospital.log, path, scope, Evidence(checkpoint=hospital.witnessed()))
    return check(path.read_bytes(), hospital.policy(folder, *lines, without=without))


def said(report: verifier.Report) -> str:
    """Everything that was said."""
    return "\n".join(f"{one.verdict} {one.where}: {one.what}" for one in report.remarks)


def evaluated(hospital: Hospital, outcome: str = "SUSPEND", **changes: Any) -> int:
    """The index of an EVALUATION of the newest entries."""
    last = len(hospital.log.made) - 1
    body = {"metric": "DISAGREEMENT", "tier": "T1", "model": NAMED, "approval": "TEST-2026-0001", "first": 0}
    body |= {"last": last, "n": 200, "value": "7", "limit": "6", "outcome": outcome, "subgroup": None, "code": DIGEST}
    return hospital.add(Kind.EVALUATION, f"evaluation:{last}", body | changes).index


def golden(hospital: Hospital, outcome: str = "MATCH") -> int:
    """The index of a golden case."""
    body = {"model": NAMED, "case": DIGEST, "occasion": "DAILY", "outcome": outcome, "measurements": []}
    body |= {"difference": "0", "tolerance": "0.01", "device": "cpu", "runtime": {}}
    return hospital.add(Kind.GOLDEN, f"golden:{len(hospital.log.made)}", body).index


def incident(hospital: Hospital) -> int:
    """The index of an incident."""
    body = {"incident": "9" * 32, "event": "OPENED", "category": "HARM", "severity": "SERIOUS", "model": NAMED}
    return hospital.add(Kind.INCIDENT, "incident:1", body | {"clocks": []}).index


def suspended(hospital: Hospital, cause: str = "OPERATOR", by: str = "reader") -> Entry:
    """Suspended by a person."""
    return hospital.act("SUSPEND", "SUSPENDED", by, statement={"cause": cause}, reason=cause)


def resumed(hospital: Hospital, *by: str, to: str = "LIVE", at: int | None = None, **changes: Any) -> Entry:
    """Resumed; by the two of the hospital where nobody is named."""
    statement = RESUMED | {"golden": golden(hospital) if at is None else at}
    return hospital.act("RESUME", to, *(by or ("owner", "safety")), statement=statement, **changes)


def denied(hospital: Hospital, code: str, condition: str | None, observed: str | None, **changes: Any) -> Entry:
    """What the gate refused."""
    body = {"study": STUDY, "stage": "PERMITTED", "code": code, "condition": condition, "observed": observed}
    number = len(hospital.log.made)
    return hospital.add(Kind.DENIED, f"denied:{number}", body | {"model": NAMED} | changes, call_id(number))


# ---- Honest lives.


def whole_life() -> Hospital:
    """All that can happen to a model in use: calls in the shadow, stops, a restriction, suspensions, the end."""
    hospital = shadow()
    seen = {"STATE": "SHADOW"}
    hospital.intent(0, seen, state="SHADOW")
    hospital.result(0)
    hospital.go_live()
    for number in range(1, 4):
        hospital.call(number)
    hospital.switch(Kind.STOP, "reader", site="other-site", reason="OPERATOR")
    hospital.call(4)
    hospital.switch(Kind.STOP, "ops", site="test-site", reason="OPERATOR")
    denied(hospital, "STOPPED", "STOP", "SITE")
    hospital.switch(Kind.RESUME, "owner", "safety", site="test-site", reason="OPERATOR")
    hospital.tightened("RESTRICT", "SUBGROUP_GAP", evaluated(hospital, "RESTRICT"), condition="SEX", observed="M")
    denied(hospital, "SUBGROUP_CUT_OFF", "SEX", "M")
    hospital.call(5)
    asked = evaluated(hospital)
    denied(hospital, "SUSPENDED", "STATE", "SUSPENDED")  # to be suspended is as good as suspended
    hospital.tightened("SUSPEND", "PERFORMANCE", asked)
    denied(hospital, "SUSPENDED", "STATE", "SUSPENDED")
    resumed(hospital)
    hospital.tightened("SUSPEND", "HARM", incident(hospital))
    evaluated(hospital, metric="INCIDENT", tier="T0")  # of what was suspended for already
    resumed(hospital, "owner", "safety", "reviewer-2")
    suspended(hospital, "DRILL")
    resumed(hospital)
    report = {"model": NAMED, "period": "2026-11", "months": 1, "first": 0, "last": 9, "report": DIGEST}
    hospital.add(Kind.SAFETY_REPORT, "report:1", report)
    hospital.act("COUNTERSIGN", "LIVE", "reviewer-1", statement={"report": DIGEST})
    hospital.act("FOLLOW_UP", "LIVE", "reviewer-1", statement={"report": DIGEST})
    hospital.call(6)
    hospital.act("RETIRE", "RETIRED", "owner", "safety", statement={"archive": DIGEST})
    denied(hospital, "RETIRED", "STATE", "RETIRED")
    return hospital


def test_an_honest_life_passes(tmp_path: Path) -> None:
    """Every decision is weighed again, and none differs; the register's own replay sees the same life."""
    hospital = whole_life()
    report = reported(tmp_path, hospital)
    assert (report.verdict, report.totals["FINDING"]) == ("PASS", 0), said(report)
    assert report.figures["decisions"] == {"evaluated": 12, "agree": 12, "differ": 0, "unknown": 0, "differ_at": []}
    replay = Replay(hospital.parties.trust(), hospital.signer.verifier)
    for entry in hospital.log.entries():
        replay.feed_leaf(entry.index, entry.to_bytes())
    assert replay.set_aside == []
    assert [life.state for life in replay.lives.values()] == [State.RETIRED]


def test_the_whole_trust_policy_may_stand_in_the_policy(tmp_path: Path) -> None:
    """As the hospital and the reviewer exchanged it: instead of `reviewer` lines, or beside them."""
    hospital = whole_life()
    trust = ["criteria TEST-AI-MED/1.0  # of today", "signers 2", "panel 5", "follow-up 365 182", "minors-under 14"]
    path = hospital.policy(tmp_path)
    keys = [
        line for line in hospital.policy_lines() if line.partition(" ")[0] in {"log", "witness", "quorum", "window"}
    ]
    for more in ([], [f"reviewer {hospital.reviewer.signer.vkey}"]):
        export(hospital.log, tmp_path / "p.zip", evidence=Evidence(checkpoint=hospital.witnessed()))
        path.write_text("\n".join([*keys, *more, hospital.parties.policy(), *trust, ""]))
        report = check((tmp_path / "p.zip").read_bytes(), path)
        (tmp_path / "p.zip").unlink()
        assert report.verdict == "PASS", said(report)


def test_a_period_of_an_honest_life_passes(tmp_path: Path) -> None:
    """Lives, stops and what they rest on are in every package; calls out of scope are hashes."""
    hospital = whole_life()
    report = reported(tmp_path, hospital, scope=Scope(selects=lambda _: False))
    assert (report.verdict, report.figures["decisions"]["evaluated"]) == ("PASS", 0), said(report)
    assert report.figures["out_of_scope"] > 10


def panel_life() -> Hospital:
    """An activity of the list, which experts must clear."""
    hospital = Hospital()
    hospital.reviewed()
    hospital.act("REFER", "EXPERT_REREVIEW", "reviewer-1", statement={"panel": PANEL})
    hospital.act("PANEL_CLEAR", "UNDER_REVIEW", *PANELISTS[:4], statement={"panel": PANEL})
    listed = fields(follow_up={"days": 182, "listed": True})
    hospital.approved(hospital.sign(draft_approval(listed), "reviewer-1", "reviewer-2"))
    return hospital


def test_a_panel_clears_with_two_thirds(tmp_path: Path) -> None:
    """Four of five are; the life goes on."""
    report = reported(tmp_path, panel_life())
    assert report.verdict == "PASS", said(report)


@pytest.mark.parametrize("by", [("owner", "safety"), ("owner", "safety", "reviewer-2")], ids=["alone", "reviewer"])
@pytest.mark.parametrize("days", [180, 400], ids=["expired", "before the validity"])
def test_what_lapses_is_suspended_without_an_entry(tmp_path: Path, by: tuple[str, ...], days: int) -> None:
    """After the last day, or the day of the follow-up: a renewal and a reviewer bring it back, nobody else does."""
    hospital = live()
    hospital.log.now += timedelta(days=days)
    denied(hospital, "SUSPENDED", "STATE", "SUSPENDED")
    late = fields(approval="TEST-2026-0002", valid={"from": "2027-01-01", "to": "2028-05-31"})
    note = hospital.sign(draft_approval(late), "reviewer-1", "reviewer-2")
    hospital.state = "SUSPENDED"
    hospital.approved(note)
    back = resumed(hospital, *by)
    report = reported(tmp_path, hospital)
    assert report.verdict == ("PASS" if len(by) == 3 else "FAIL"), said(report)
    assert report.first_bad == (None if len(by) == 3 else back.index)


# ---- The table is the product's.


def test_the_table_is_that_of_the_review() -> None:
    """Every event of states.py starts and ends where the verifier says, and wants signatures of the same roles."""
    assert {*verifier.EVENTS, "APPROVE", "RENEW"} == set(Event)
    assert set(verifier.FOR_REVIEWER) == set(states.FOR_REVIEWER)
    for name, (starts, ends, seats) in verifier.EVENTS.items():
        row = states.ROWS[Event(name)]
        assert {str(one or "NONE") for one in row.start} == set(starts.split()), name
        assert [str(one) for one in row.ends] == ends.split(), name
        wanted = [(seat.rstrip("+").split("|"), "+" in seat) for seat in seats.split()]
        if seats == "*":
            assert row.seats[0].roles == frozenset(states.Role), name
        else:
            assert [(set(map(str, one.roles)), one.count > 1) for one in row.seats] == [
                ({*roles}, many) for roles, many in wanted
            ], name


@pytest.mark.parametrize(
    "seen", ["0-4", "15-19", "20-24", "75-79", "80-84", "90+", "UNKNOWN", "0.5", "1.0", "2.01", "7"]
)
def test_groups_are_those_of_the_monitor(seen: str) -> None:
    """A class is cut off with the group in which it is counted."""
    for condition in ("AGE_YEARS", "SLICE_SPACING_MM", "SEX", "MANUFACTURER"):
        if condition != "AGE_YEARS" or "." not in seen:
            assert verifier._group(condition, seen) == gaps.parts_of(gaps.group_of(condition, seen))


# ---- Forged lives. Each tells its story and gives the entry at which it must fail.

Tale = Callable[[Hospital], Entry]


def then(*steps: Callable[[Hospital], Any]) -> Tale:
    """One after the other; the last gives the entry."""
    return lambda hospital: [step(hospital) for step in steps][-1]


def never_reviewed(hospital: Hospital) -> Entry:
    """A call under an approval, and no dossier."""
    hospital.approved()
    return hospital.log.made[1]


def in_review(*steps: Callable[[Hospital], Any]) -> Tale:
    """As `then`, where the dossier is under review."""
    return then(Hospital.reviewed, *steps)


def approval_by(*by: str, **changes: Any) -> Callable[[Hospital], Entry]:
    """An approval with these signatures."""
    return lambda one: one.approved(one.sign(draft_approval(fields(**changes)), *by))


def by_the_log(hospital: Hospital) -> Entry:
    """GO_LIVE with the log's own key beside the two."""
    return hospital.go_live("owner", "safety", hospital.signer)  # type: ignore[arg-type]


def replayed(hospital: Hospital) -> Entry:
    """The same resumption once more: its note is taken out of the log."""
    suspended(hospital)
    first = resumed(hospital)
    suspended(hospital)
    return hospital.add(Kind.STATE_CHANGE, "again", {**first.body})


def other_words(**body: Any) -> Tale:
    """A suspension of which the entry says something else."""
    return lambda one: one.act("SUSPEND", "SUSPENDED", "reader", statement={"cause": "HARM"}, reason="HARM", body=body)


def third_call(hospital: Hospital) -> Entry:
    """Three distinct calls on a day for which two are allowed; one of them twice, which is no third."""
    few = {"MAX_CALLS_DAY": "BELOW 2"}
    policy = {"policy": hospital.approval.policy}
    for number in (1, 2):
        hospital.intent(number, few, **policy)
    hospital.add(Kind.CALL_INTENT, "again", {**hospital.log.made[-1].body}, call_id(2))
    return hospital.intent(3, few, **policy)


def few_calls() -> Hospital:
    """A hospital with an approval for two calls a day."""
    hospital = Hospital()
    conditions = {"max_calls_day": 2}
    hospital.approval = hospital.reviewer.approve(conditions=conditions)
    note = hospital.sign(draft_approval(fields(conditions=conditions)), "reviewer-1", "reviewer-2")
    hospital.approve(note)
    return hospital


LIVES: dict[str, tuple[Callable[[], Hospital], Tale, str]] = {
    "approved and never reviewed": (Hospital, never_reviewed, "approved where it was NONE"),
    "approval with one signature": (Hospital, in_review(approval_by("reviewer-1")), "not signed by 2 REVIEWER"),
    "approval twice by one": (
        Hospital,
        in_review(lambda one: one.approved(one.sign(draft_approval(fields()), "reviewer-1", "reviewer-1"))),
        "not signed by 2 REVIEWER",
    ),
    "approval by the hospital": (
        Hospital,
        in_review(approval_by("reviewer-1", "reviewer-2", "owner")),
        "signed by somebody whose part it is not",
    ),
    "approval with the log's key": (
        Hospital,
        in_review(lambda one: one.approved(one.sign(draft_approval(fields()), "reviewer-1", "reviewer-2", one.signer))),
        "the note is signed by the log's own key",
    ),
    "approval of another submission": (
        Hospital,
        in_review(approval_by("reviewer-1", "reviewer-2", submission=DIGEST)),
        "approved for another submission",
    ),
    "approval of an activity of the list without a panel": (
        Hospital,
        in_review(approval_by("reviewer-1", "reviewer-2", follow_up={"days": 182, "listed": True})),
        "experts must have cleared it",
    ),
    "approval under a name that is taken": (
        live,
        approval_by("reviewer-1", "reviewer-2", criteria_set="TEST-AI-MED/2.0"),
        "its name is another's",
    ),
    "a panel too small": (
        Hospital,
        in_review(lambda one: one.act("REFER", "EXPERT_REREVIEW", "reviewer-1", statement={"panel": PANEL[:4]})),
        "not a whole panel",
    ),
    "a panel of two thirds less one": (
        Hospital,
        in_review(
            lambda one: one.act("REFER", "EXPERT_REREVIEW", "reviewer-1", statement={"panel": PANEL}),
            lambda one: one.act("PANEL_CLEAR", "UNDER_REVIEW", *PANELISTS[:3], statement={"panel": PANEL}),
        ),
        "not signed by 4 PANELIST",
    ),
    "review begun by another's organisation": (
        Hospital,
        in_review(lambda one: one.act("REVISE", "REVISE", "reviewer-1", "owner")),
        "signed by somebody whose part it is not",
    ),
    "skipped state": (
        Hospital,
        in_review(Hospital.approved, lambda one: one.go_live()),
        "GO_LIVE from APPROVED_WITH_CONDITIONS, where it was",
    ),
    "another state than it was": (
        shadow,
        then(lambda one: setattr(one, "state", "LIVE"), suspended),
        "SUSPEND from LIVE, where it was SHADOW",
    ),
    "an end that the event does not have": (
        live,
        lambda one: one.act("RETIRE", "SHADOW", "owner", "safety", statement={"archive": DIGEST}),
        "RETIRE does not end in SHADOW",
    ),
    "an event that nobody knows": (live, lambda one: one.act("BLESS", "LIVE", "owner", "safety"), "not of its form"),
    "live by one": (shadow, lambda one: one.go_live("owner"), "not signed by 1 SAFETY_OFFICER"),
    "live by two of one role": (shadow, lambda one: one.go_live("owner", "owner"), "not signed by 1 SAFETY_OFFICER"),
    "live with the log's key": (shadow, by_the_log, "the note is signed by the log's own key"),
    "live by an administrator too": (
        shadow,
        lambda one: one.go_live("owner", "safety", "root"),
        "whose part it is not",
    ),
    "live without an acceptance": (
        shadow,
        lambda one: one.go_live(statement={"drill": one.log.made[-1].index, "acceptance": one.accepted(1).index}),
        "does not show MET",
    ),
    "live without a drill": (
        shadow,
        lambda one: one.go_live(statement={"drill": APPROVED_AT, "acceptance": one.accepted().index}),
        "does not show DRILL",
    ),
    "replayed act": (live, replayed, "its note does not follow the dossier's note before it"),
    "an act out of order": (live, lambda one: suspended_after(one, None), "its note does not follow"),
    "the entry says another cause": (live, other_words(reason="DRILL"), "it does not say what was signed"),
    "the entry says another end": (live, other_words(to="LIVE"), "it does not say what was signed"),
    "the entry has evidence beside": (live, other_words(evidence=1), "it does not say what was signed"),
    "a restriction of another class": (
        live,
        lambda one: one.act(
            "RESTRICT",
            "LIVE",
            "reader",
            statement={"condition": "SEX", "observed": "M"},
            body={"observed": "F"},
        ),
        "it does not say what was signed",
    ),
    "resumed by one": (live, then(suspended, lambda one: resumed(one, "owner")), "not signed by 1 SAFETY_OFFICER"),
    "resumed without a reviewer after harm": (
        live,
        then(lambda one: suspended(one, "HARM"), resumed),
        "not signed by 1 REVIEWER",
    ),
    "a graver cause came later": (
        live,
        then(suspended, lambda one: one.tightened("SUSPEND", "HARM", incident(one)), resumed),
        "not signed by 1 REVIEWER",
    ),
    "resumed by nobody": (
        live,
        then(suspended, lambda one: one.tightened("RESUME", "PERFORMANCE", None)),
        "RESUME without a signature",
    ),
    "resumed as more than it was": (
        shadow,
        then(suspended, resumed),
        "resumed as LIVE, suspended as SHADOW",
    ),
    "resumed on a golden case of before": (
        live,
        lambda one: (at := golden(one), suspended(one), resumed(one, at=at))[-1],
        "does not show MATCH",
    ),
    "resumed on a golden case that went wrong since": (
        live,
        lambda one: (suspended(one), at := golden(one), golden(one, "MISMATCH"), resumed(one, at=at))[-1],
        "does not show MATCH",
    ),
    "suspended by a stranger": (
        live,
        lambda one: suspended(one, by=Signer.generate("stranger.example")),  # type: ignore[arg-type]
        "not signed by 1 *",
    ),
    "suspended on no evidence": (
        live,
        lambda one: one.tightened("SUSPEND", "PERFORMANCE", APPROVED_AT),
        "its evidence is no entry that asks for it",
    ),
    "suspended on another model's evidence": (
        live,
        lambda one: one.tightened("SUSPEND", "PERFORMANCE", evaluated(one, model=NAMED | {"digest": DIGEST})),
        "its evidence is no entry that asks for it",
    ),
    "a report that nobody logged is countersigned": (
        live,
        lambda one: one.act("COUNTERSIGN", "LIVE", "reviewer-1", statement={"report": DIGEST}),
        "does not show REPORT",
    ),
    "stopped by nobody": (
        live,
        lambda one: one.switch(Kind.STOP, Signer.generate("stranger.example")),
        "not signed by 1 *",
    ),
    "a stop of another site": (
        live,
        lambda one: one.switch(Kind.STOP, "reader", reason="OPERATOR", level="SITE"),
        "it does not say what was signed",
    ),
    "a stop ended by one": (
        live,
        then(lambda one: one.switch(Kind.STOP, "reader"), lambda one: one.switch(Kind.RESUME, "safety")),
        "not signed by 1 CLINICAL_OWNER",
    ),
    "a stop that is none is ended": (
        live,
        lambda one: one.switch(Kind.RESUME, "owner", "safety", site="test-site"),
        "nothing is stopped there",
    ),
}


def suspended_after(hospital: Hospital, after: str | None) -> Entry:
    """A suspension whose note follows another one than the newest."""
    return hospital.act("SUSPEND", "SUSPENDED", "reader", statement={"cause": "HARM"}, reason="HARM", after=after)


@pytest.mark.parametrize(("begin", "tell", "words"), LIVES.values(), ids=LIVES)
def test_a_forged_life_fails_at_its_entry(
    tmp_path: Path, begin: Callable[[], Hospital], tell: Tale, words: str
) -> None:
    """Whoever owns the log cannot make people say what they did not sign, or in an order that was not."""
    hospital = begin()
    entry = tell(hospital)
    report = reported(tmp_path, hospital)
    assert (report.verdict, report.first_bad) == ("FAIL", entry.index), said(report)
    assert f"FAIL entry {entry.index}: " in said(report)
    assert words in next(one.what for one in report.remarks if one.index == entry.index), said(report)


# ---- Who may judge: with the organisations of the trust policy.


def with_interest(hospital: Hospital) -> Entry:
    """A reviewer's organisation that the submission declares an interest of."""
    submission = fields()["submission"]
    hospital.act("OPEN", "DRAFT", "maker")
    hospital.act("SELF_ASSESS", "SELF_ASSESSED", "maker", "owner", statement={"submission": submission})
    statement = {"submission": submission, "coi": ["test-review-centre"], "documents": {}}
    hospital.act("SUBMIT", "SUBMITTED", "secretary", statement=statement)
    return hospital.act("BEGIN_REVIEW", "UNDER_REVIEW", "reviewer-1")


def referred(*by: str, panel: list[str] | None = None, again: list[str] | None = None) -> Tale:
    """Referred to a panel; these people clear it, as a panel of the same or other names."""
    panel = panel or PANEL

    def tell(hospital: Hospital) -> Entry:
        hospital.reviewed()
        last = hospital.act("REFER", "EXPERT_REREVIEW", "reviewer-1", statement={"panel": panel})
        if not by:
            return last
        return hospital.act("PANEL_CLEAR", "UNDER_REVIEW", *by, statement={"panel": again or panel})

    return tell


JUDGES: dict[str, tuple[Callable[[], Hospital], Tale, str]] = {
    "an organisation with an interest": (Hospital, with_interest, "judged by an organisation with an interest in it"),
    "another organisation approves": (Hospital, in_review(approval_by("other-1", "other-2")), "of two organisations"),
    "two organisations approve": (Hospital, in_review(approval_by("reviewer-1", "other-1")), "of two organisations"),
    "another organisation renews in the first one's name": (
        live,
        approval_by("other-1", "other-2", approval="TEST-2026-0002"),
        "its organisation is not that of who signed",
    ),
    "the owner reviews": (
        Hospital,
        in_review(lambda one: one.act("REVISE", "REVISE", "reviewer-1", "owner")),
        "judged by somebody who submitted it",
    ),
    "a panel that is another than was referred to": (
        Hospital,
        referred(*PANELISTS[:4], again=[*PANEL[:4], "somebody.example"]),
        "not the panel that it was referred to",
    ),
    "a panelist who is not on the panel": (
        Hospital,
        referred(*PANELISTS[:3], PANELISTS[4], panel=[*PANEL[:4], "somebody.example"]),
        "signed by somebody who is not on the panel",
    ),
    "a panel with one twice": (Hospital, referred(panel=[*PANEL[:4], PANEL[0]]), "not a whole panel"),
    "a panel with the owner": (Hospital, referred(panel=[*PANEL[:4], "owner.example"]), "not a whole panel"),
    "a panel of the reviewers' organisation": (
        Hospital,
        referred("reader", "ops", *PANELISTS[:2], panel=[*PANEL[:3], "reader.example", "ops.example"]),
        "one organisation both reviews and examines again",
    ),
}


@pytest.mark.parametrize(("begin", "tell", "words"), JUDGES.values(), ids=JUDGES)
def test_whoever_is_partial_does_not_judge(
    tmp_path: Path, begin: Callable[[], Hospital], tell: Tale, words: str
) -> None:
    """Where the policy names organisations; here the owner is a reviewer too, and two of the hospital are panelists."""
    hospital = begin()
    entry = tell(hospital)
    people = {name: signer.vkey for name, signer in hospital.parties.signers.items()}
    named = [line for line in hospital.parties.policy().splitlines() if line.endswith(" REVIEWER")]
    named += [f"reviewer {people['owner']}"]
    path = hospital.policy(tmp_path, *named, without="reviewer")
    text = path.read_text()
    for name, role in (("reader", "RADIOLOGIST"), ("ops", "OPS")):
        text = text.replace(
            f"{people[name]} test-hospital {role}", f"{people[name]} test-review-centre {role},PANELIST"
        )
    path.write_text(text)
    export(hospital.log, tmp_path / "p.zip", evidence=Evidence(checkpoint=hospital.witnessed()))
    report = check((tmp_path / "p.zip").read_bytes(), path)
    assert (report.verdict, report.first_bad) == ("FAIL", entry.index), said(report)
    assert words in said(report)


# ---- The calendar.


@pytest.mark.parametrize(("after", "line", "overdue"), [(29, "", False), (31, "", True), (21, "follow-up 20 20", True)])
@pytest.mark.parametrize("followed", [False, True])
def test_a_follow_up_that_is_overdue_suspends(
    tmp_path: Path, after: int, line: str, overdue: bool, followed: bool
) -> None:
    """So many days after the approval, or after the last follow-up; never later than the policy says."""
    hospital = Hospital()
    hospital.reviewed()
    terms = fields(follow_up={"days": 30, "listed": False})
    hospital.approved(hospital.sign(draft_approval(terms), "reviewer-1", "reviewer-2"))
    hospital.act("DEPLOY", "SHADOW", "ops", "owner")
    hospital.go_live()
    hospital.log.now += timedelta(days=10)
    if followed:
        hospital.act("FOLLOW_UP", "LIVE", "reviewer-1", statement={"report": DIGEST})
    hospital.log.now += timedelta(days=after - 10)
    hospital.intent(1)
    report = reported(tmp_path, hospital, *line.split("\n") if line else ())
    late = overdue and not followed
    assert (report.verdict, "the model was SUSPENDED by then" in said(report)) == ("FAIL" if late else "PASS", late)


def test_the_day_of_a_limit_is_a_civil_day(tmp_path: Path) -> None:
    """Two calls before midnight in China, two after it; a third is one too many on either."""
    hospital = few_calls()
    few = {"MAX_CALLS_DAY": "BELOW 2"}
    for number in range(4):
        hospital.log.now += timedelta(hours=15) if number == 2 else timedelta()
        hospital.intent(number, few)
    assert reported(tmp_path, hospital).verdict == "PASS"
    bad = hospital.intent(4, few)
    assert reported(tmp_path, hospital).first_bad == bad.index


# ---- Acts of another form.


def retold(**changes: Any) -> Tale:
    """A suspension whose signed text has these fields too."""

    def tell(hospital: Hospital) -> Entry:
        act = {"event": "SUSPEND", "from": "LIVE", "to": "SUSPENDED", "model": NAMED, "reason": "HARM"}
        text = act | {"after": hospital.last[None], "statement": {"cause": "HARM"}} | changes
        header = str(text.pop("header", "zhiying-act/1"))
        note = hospital.sign(f"{header}\n{canonical(text).decode()}\n", "reader")
        body = {"condition": None, "observed": None, "evidence": None, "note": note, "note_digest": digest(note)}
        return hospital.add(Kind.STATE_CHANGE, "act:other", act | body)

    return tell


def switched(header: str = "zhiying-act/1", site: str | None = None, **changes: Any) -> Tale:
    """A stop of the service, with another header, a site all the same, or more fields in what is signed."""

    def tell(hospital: Hospital) -> Entry:
        said = {"level": "SERVICE", "site": site, "reason": "OPERATOR"}
        text = said | {"event": "STOP", "after": None if site else hospital.last["SERVICE", None]} | changes
        note = hospital.sign(f"{header}\n{canonical(text).decode()}\n", "reader")
        return hospital.add(Kind.STOP, "switch:other", said | {"note": note, "note_digest": digest(note)})

    return tell


def a_switch_again(hospital: Hospital) -> Entry:
    """The stop of today is ended with the note that ended the one of yesterday."""
    hospital.switch(Kind.STOP, "reader")
    ended = hospital.switch(Kind.RESUME, "owner", "safety")
    hospital.switch(Kind.STOP, "reader")
    return hospital.add(Kind.RESUME, "switch:again", {**ended.body})


def expired_before_use(hospital: Hospital) -> Entry:
    """Approved, and deployed when the approval had run out."""
    hospital.reviewed()
    hospital.approved()
    hospital.log.now += timedelta(days=300)
    return hospital.act("DEPLOY", "SHADOW", "ops", "owner")


def unlisted(hospital: Hospital) -> Entry:
    """A result that leaves without a physician, which the reviewer forgot to list."""
    hospital.reviewed()
    made = fields(conditions={"max_autonomy": "A3"})
    text = f"zhiying-approval/2\n{canonical(made).decode()}\n"
    return hospital.approved(hospital.sign(text, "reviewer-1", "reviewer-2"))


def live_on(drill: Callable[[Hospital], int]) -> Tale:
    """GO_LIVE with what is no drill."""
    return lambda one: one.go_live(statement={"drill": drill(one), "acceptance": one.accepted().index})


def no_drill(first: str, second: str, last: str) -> Callable[[Hospital], int]:
    """Two stops and a resumption, not all of them drills."""

    def stop(hospital: Hospital) -> int:
        hospital.switch(Kind.STOP, "reader", reason=first)
        hospital.switch(Kind.STOP, "reader", reason=second)
        return hospital.switch(Kind.RESUME, "owner", "safety", reason=last).index

    return stop


def no_model_drill(*causes: str) -> Callable[[Hospital], int]:
    """Suspended for these causes, and resumed."""

    def stop(hospital: Hospital) -> int:
        for cause in causes:
            suspended(hospital, cause)
        return resumed(hospital, to="SHADOW").index

    return stop


def anothers_acceptance(hospital: Hospital) -> Entry:
    """Met by another model."""
    other = {**hospital.accepted().body} | {"model": NAMED | {"digest": DIGEST}}
    acceptance = hospital.add(Kind.ACCEPTANCE, "acceptance:other", other).index
    return hospital.go_live(statement={"drill": 0, "acceptance": acceptance})


OTHERS: dict[str, tuple[Callable[[], Hospital], Tale, str]] = {
    "an act of another form": (live, retold(header="zhiying-act/9"), "not an act on a dossier"),
    "an act with more in it": (live, retold(more=1), "not an act on a dossier"),
    "a stop of another form": (live, switched("zhiying-act/9"), "it does not say what was signed"),
    "a stop with more in it": (live, switched(more=1), "it does not say what was signed"),
    "a stop of another reason": (live, switched(reason="DRILL"), "it does not say what was signed"),
    "a stop of a site and the service": (live, switched(site="test-site"), "neither a site nor the whole service"),
    "a resumption again": (live, a_switch_again, "its note does not follow the note before it"),
    "deployed when its time was over": (Hospital, expired_before_use, "DEPLOY without an approval in force"),
    "autonomy without experts": (Hospital, unlisted, "experts must have cleared it"),
    "unsigned, and neither suspended nor restricted": (
        live,
        lambda one: one.tightened("FOLLOW_UP", "PERFORMANCE", evaluated(one)),
        "FOLLOW_UP without a signature",
    ),
    "a drill that became more": (shadow, live_on(no_drill("DRILL", "OPERATOR", "DRILL")), "does not show DRILL"),
    "a stop that became a drill": (shadow, live_on(no_drill("OPERATOR", "DRILL", "DRILL")), "does not show DRILL"),
    "a stop that ended as a drill": (shadow, live_on(no_drill("OPERATOR", "OPERATOR", "DRILL")), "not show DRILL"),
    "a suspension that is no drill": (shadow, live_on(no_model_drill("OPERATOR")), "does not show DRILL"),
    "a drill that became a suspension": (shadow, live_on(no_model_drill("DRILL", "OPERATOR")), "not show DRILL"),
    "another model's acceptance": (shadow, anothers_acceptance, "does not show MET"),
}


@pytest.mark.parametrize(("begin", "tell", "words"), OTHERS.values(), ids=OTHERS)
def test_what_only_looks_like_it_fails(tmp_path: Path, begin: Callable[[], Hospital], tell: Tale, words: str) -> None:
    """Signed by the right people, and all the same not what is wanted there."""
    hospital = begin()
    entry = tell(hospital)
    report = reported(tmp_path, hospital)
    assert (report.verdict, report.first_bad) == ("FAIL", entry.index), said(report)
    assert words in said(report)


def test_an_approval_for_everywhere_has_no_conditions(tmp_path: Path) -> None:
    """Then the dossier is APPROVED; a vendor is no reason to deny."""
    hospital = Hospital()
    everywhere = {"site": ["*"], "manufacturer": ["*"]}
    hospital.reviewed()
    hospital.approved(hospital.sign(draft_approval(fields(conditions=everywhere)), "reviewer-1", "reviewer-2"))
    hospital.state = "APPROVED"
    hospital.act("DEPLOY", "SHADOW", "ops", "owner")
    hospital.act("SUSPEND", "SUSPENDED", "reader", statement={"cause": "DRILL"}, reason="DRILL")
    hospital.go_live(statement={"drill": resumed(hospital, to="SHADOW").index, "acceptance": hospital.accepted().index})
    evaluated(hospital, tier="T2", last=len(hospital.log.made))  # a person looks, and nothing is suspended
    hospital.approval = hospital.reviewer.approve(conditions=everywhere)
    hospital.intent(1)
    assert reported(tmp_path, hospital).verdict == "PASS"
    bad = denied(hospital, "CONDITION_NOT_MET", "MANUFACTURER", "UIH")
    assert reported(tmp_path, hospital).first_bad == bad.index


# ---- Forged calls.

IN_SHADOW: dict[str, Any] = {"state": "SHADOW"}


def shadow_intent(hospital: Hospital) -> Entry:
    """An intent in the shadow."""
    return hospital.intent(1, {"STATE": "SHADOW"}, state="SHADOW")


CALLS: dict[str, tuple[Callable[[], Hospital], Tale, str]] = {
    "before it is live": (shadow, lambda one: one.intent(1), "the model was SHADOW by then"),
    "in the shadow while it is live": (live, shadow_intent, "the model was LIVE by then"),
    "one state checked, another used": (
        live,
        lambda one: one.intent(1, {"STATE": "SHADOW"}),
        "the model was LIVE by then",
    ),
    "before it is deployed": (
        Hospital,
        in_review(Hospital.approved, lambda one: one.intent(1)),
        "the model was APPROVED_WITH_CONDITIONS by then",
    ),
    "while suspended by a person": (live, then(suspended, lambda one: one.intent(1)), "the model was SUSPENDED"),
    "while suspended by the monitor": (
        live,
        then(lambda one: one.tightened("SUSPEND", "PERFORMANCE", evaluated(one)), lambda one: one.intent(1)),
        "the model was SUSPENDED",
    ),
    "after it is retired": (
        live,
        then(
            lambda one: one.act("RETIRE", "RETIRED", "owner", "safety", statement={"archive": DIGEST}),
            lambda one: one.intent(1),
        ),
        "the model was RETIRED",
    ),
    "a suspension that was asked for did not come": (
        live,
        then(lambda one: one.call(9), evaluated, lambda one: one.intent(1)),
        f"entry {FIRST_CALL + 4} asked for a suspension that did not come",
    ),
    "suspended for less before": (
        live,
        then(suspended, lambda one: evaluated(one, metric="INCIDENT", tier="T0"), resumed, lambda one: one.intent(1)),
        "asked for a suspension that did not come",
    ),
    "suspended for a drill before": (
        live,
        then(lambda one: suspended(one, "DRILL"), evaluated, resumed, lambda one: one.intent(1)),
        "asked for a suspension that did not come",
    ),
    "suspended for something else": (
        live,
        then(lambda one: one.call(9), evaluated, suspended, resumed, lambda one: one.intent(1)),
        f"entry {FIRST_CALL + 4} asked for a suspension",
    ),
    "the service is stopped": (
        live,
        then(lambda one: one.switch(Kind.STOP, "reader"), lambda one: one.intent(1)),
        "it was stopped by then",
    ),
    "its site is stopped": (
        live,
        then(lambda one: one.switch(Kind.STOP, "reader", site="test-site"), lambda one: one.intent(1)),
        "it was stopped by then",
    ),
    "a class that is cut off": (
        live,
        then(
            lambda one: one.act("RESTRICT", "LIVE", "reader", statement={"condition": "SEX", "observed": "F"}),
            lambda one: one.intent(1),
        ),
        "a class was cut off: SEX",
    ),
    "a group that is cut off": (
        live,
        then(
            lambda one: one.tightened(
                "RESTRICT", "SUBGROUP_GAP", evaluated(one, "RESTRICT"), condition="AGE_YEARS", observed="60-79"
            ),
            lambda one: one.intent(1),
        ),
        "a class was cut off: AGE_YEARS",
    ),
    "one more than a day has": (few_calls, third_call, "more calls than are allowed in a day"),
    "under an approval that was renewed": (
        live,
        then(approval_by("reviewer-1", "reviewer-2", approval="TEST-2026-0002"), lambda one: one.intent(1)),
        "a newer approval counts",
    ),
    "another care setting": (live, lambda one: one.intent(1, {"CARE_SETTING": "ED"}), "CARE_SETTING does not hold"),
    "another reading mode": (live, lambda one: one.intent(1, {"READING_MODE": "triage"}), "READING_MODE does not"),
    "a requirement left out": (live, lambda one: one.intent(1, {"REQUIRE": "SOME"}), "REQUIRE does not hold"),
    "a limit of its own": (live, lambda one: one.intent(1, {"MAX_CALLS_DAY": "BELOW 9"}), "MAX_CALLS_DAY does not"),
    "denied, though approved": (live, lambda one: denied(one, "NO_APPROVAL", None, None), "NO_APPROVAL is not what"),
    "denied as expired": (live, lambda one: denied(one, "APPROVAL_EXPIRED", "VALIDITY", "ended"), "EXPIRED is not"),
    "denied as too early": (live, lambda one: denied(one, "APPROVAL_NOT_YET_VALID", "VALIDITY", "x"), "VALID is not"),
    "denied as not deployed": (live, lambda one: denied(one, "NOT_DEPLOYED", "STATE", "DRAFT"), "DEPLOYED is not"),
    "denied as suspended": (live, lambda one: denied(one, "SUSPENDED", "STATE", "SUSPENDED"), "SUSPENDED is not"),
    "denied as retired": (live, lambda one: denied(one, "RETIRED", "STATE", "RETIRED"), "RETIRED is not"),
    "denied as stopped": (live, lambda one: denied(one, "STOPPED", "STOP", "SERVICE"), "STOPPED is not"),
    "denied as another digest": (
        live,
        lambda one: denied(one, "MODEL_DIGEST_MISMATCH", "MODEL_DIGEST", "OTHER"),
        "MISMATCH is not",
    ),
    "denied as cut off": (live, lambda one: denied(one, "SUBGROUP_CUT_OFF", "SEX", "F"), "CUT_OFF is not"),
    "denied as the last of a day": (
        live,
        lambda one: denied(one, "CALLS_EXHAUSTED", "MAX_CALLS_DAY", "2000 of 2000"),
        "CALLS_EXHAUSTED is not",
    ),
    "denied for a condition that holds": (
        live,
        lambda one: denied(one, "CONDITION_NOT_MET", "MODALITY", "MR"),
        "CONDITION_NOT_MET is not",
    ),
    "denied for an age that is covered": (
        live,
        lambda one: denied(one, "CONDITION_NOT_MET", "AGE_YEARS", "20-24"),
        "CONDITION_NOT_MET is not",
    ),
    "denied for a level that is covered": (
        live,
        lambda one: denied(one, "AUTONOMY_EXCEEDED", "MAX_AUTONOMY", "A1"),
        "AUTONOMY_EXCEEDED is not",
    ),
    "denied for what nobody requires": (
        live,
        lambda one: denied(one, "REQUIREMENT_NOT_MET", "REQUIRE", "pia:OTHER"),
        "REQUIREMENT_NOT_MET is not",
    ),
}


@pytest.mark.parametrize(("begin", "tell", "words"), CALLS.values(), ids=CALLS)
def test_a_decision_against_the_life_differs(
    tmp_path: Path, begin: Callable[[], Hospital], tell: Tale, words: str
) -> None:
    """The gate's answer is what the log gives, or it is a difference at its index."""
    hospital = begin()
    entry = tell(hospital)
    report = reported(tmp_path, hospital)
    assert (report.verdict, report.first_bad) == ("FAIL", entry.index), said(report)
    assert words in said(report)
    assert "decision differs: " in said(report)
    assert report.figures["decisions"]["differ_at"] == [entry.index]


def under_review() -> Hospital:
    """A hospital whose dossier is under review."""
    hospital = Hospital()
    hospital.reviewed()
    return hospital


HONEST_DENIALS: dict[str, tuple[Callable[[], Hospital], tuple[Any, ...]]] = {
    "no approval": (Hospital, ("NO_APPROVAL", None, None)),
    "not deployed": (under_review, ("NOT_DEPLOYED", "STATE", "UNDER_REVIEW")),
    "a modality": (live, ("CONDITION_NOT_MET", "MODALITY", "CT")),
    "an unknown body part": (live, ("ATTRIBUTE_UNKNOWN", "BODY_PART", "UNKNOWN")),
    "an age below": (live, ("CONDITION_NOT_MET", "AGE_YEARS", "10-14")),
    "an age in a band that straddles": (live, ("CONDITION_NOT_MET", "AGE_YEARS", "15-19")),
    "an age from ninety on": (live, ("CONDITION_NOT_MET", "AGE_YEARS", "90+")),
    "a spacing": (live, ("CONDITION_NOT_MET", "SLICE_SPACING_MM", "2.01")),
    "a vendor whose longer name is not listed": (live, ("CONDITION_NOT_MET", "MANUFACTURER", "UIH")),
    "an autonomy": (live, ("AUTONOMY_EXCEEDED", "MAX_AUTONOMY", "A2")),
    "a requirement": (live, ("REQUIREMENT_NOT_MET", "REQUIRE", "pia:PIA-2026-03")),
    "a day": (
        lambda: (
            one := few_calls(),
            one.intent(1, {"MAX_CALLS_DAY": "BELOW 2"}),
            one.intent(2, {"MAX_CALLS_DAY": "BELOW 2"}),
        )[0],
        ("CALLS_EXHAUSTED", "MAX_CALLS_DAY", "2 of 2"),
    ),
}


@pytest.mark.parametrize(("begin", "denial"), HONEST_DENIALS.values(), ids=HONEST_DENIALS)
def test_an_honest_denial_agrees(tmp_path: Path, begin: Callable[[], Hospital], denial: tuple[Any, ...]) -> None:
    """A class as coarse as the log's counts for whoever denied."""
    hospital = begin()
    denied(hospital, *denial)
    report = reported(tmp_path, hospital)
    assert (report.verdict, report.figures["decisions"]["differ"]) == ("PASS", 0), said(report)
    assert report.figures["decisions"]["unknown"] == 0


@pytest.mark.parametrize(
    ("code", "changes"),
    [("OPTED_OUT", {}), ("READ_FAILED", {}), ("NO_APPROVAL", {"model": None})],
    ids=["opted out", "not the gate's", "no model"],
)
def test_what_the_log_does_not_tell_is_counted_as_unknown(tmp_path: Path, code: str, changes: dict[str, Any]) -> None:
    """It is no difference, and no verdict; what another step denied is not the gate's decision at all."""
    hospital = live()
    denied(hospital, code, None, None, **changes)
    denied(hospital, code, None, None, stage="SELECTED")
    report = reported(tmp_path, hospital)
    assert report.verdict == "PASS", said(report)
    assert report.figures["decisions"] == {"evaluated": 0, "agree": 0, "differ": 0, "unknown": 1, "differ_at": []}


# ---- Results and releases.


def test_a_result_in_the_shadow_is_not_released(tmp_path: Path) -> None:
    """Neither then, nor after the model went live, nor after an intent that came when it had run."""
    for late in (False, True):
        hospital = shadow()
        shadow_intent(hospital)
        hospital.result(1)
        if late:
            hospital.go_live()
            hospital.add(Kind.CALL_INTENT, "intent:late", {**hospital.intent(2).body}, call_id(1))
        bad = hospital.released(1)
        report = reported(tmp_path, hospital)
        assert (report.verdict, report.first_bad) == ("FAIL", bad.index), said(report)
        assert "the result of a call in the shadow was released" in said(report)


def test_the_result_of_a_labelled_case_is_not_released(tmp_path: Path) -> None:
    """Nobody counts such a call, so nobody may use what it found. Without the release all is well."""
    for released in (False, True):
        hospital = live()
        hospital.intent(1, purpose="ACCEPTANCE")
        last = hospital.result(1)
        if released:
            last = hospital.released(1)
        report = reported(tmp_path, hospital)
        wanted = ("FAIL", last.index) if released else ("PASS", None)
        assert (report.verdict, report.first_bad) == wanted, said(report)
        assert ("the result of a call in the shadow was released" in said(report)) is released


def test_a_call_that_is_begun_again_when_live_is_released(tmp_path: Path) -> None:
    """After a crash in the shadow, before it had run."""
    hospital = shadow()
    shadow_intent(hospital)
    hospital.go_live()
    hospital.add(Kind.CALL_INTENT, "intent:again", {**hospital.intent(2).body}, call_id(1))
    hospital.result(1)
    hospital.released(1)
    assert reported(tmp_path, hospital).verdict == "PASS"


@pytest.mark.parametrize("cause", ["HARM", "INTEGRITY", "PERFORMANCE"])
def test_what_runs_on_after_a_suspension_is_told(tmp_path: Path, cause: str) -> None:
    """A result of what ran is none of anybody's fault; a release after harm is a finding."""
    hospital = live()
    hospital.intent(1)
    suspended(hospital, cause)
    hospital.result(1)
    late = hospital.released(1)
    report = reported(tmp_path, hospital)
    finding = f"FINDING entry {late.index}: released while its model was suspended for {cause}"
    assert (report.verdict, finding in said(report)) == ("PASS", cause != "PERFORMANCE"), said(report)


# ---- What cannot be seen.


@pytest.mark.parametrize("without", ["person", "reviewer"])
def test_signatures_of_whom_the_policy_does_not_name_are_incomplete(tmp_path: Path, without: str) -> None:
    """Nobody told whom to believe: not PASS, and no forgery either."""
    report = reported(tmp_path, whole_life(), without=without)
    assert (report.verdict, report.totals["FAIL"]) == ("INCOMPLETE", 0), said(report)
    assert "its signatures are not all checked: the policy names 0 of" in said(report)


def test_a_policy_may_want_more_signatures(tmp_path: Path) -> None:
    """Three, where the approval has two; with two reviewers named nobody can tell."""
    hospital = live()
    assert reported(tmp_path, hospital, "signers 3").verdict == "INCOMPLETE"
    third = f"reviewer {hospital.parties.signers['reviewer-3'].vkey}"
    report = reported(tmp_path, hospital, "signers 3", third)
    assert (report.verdict, report.first_bad) == ("FAIL", APPROVED_AT), said(report)


def test_what_hidden_entries_may_explain_is_incomplete(tmp_path: Path) -> None:
    """An exporter that leaves a suspension out gets no PASS for what comes after it."""
    hospital = live()
    kept = suspended(hospital).index
    resumed(hospital)
    hospital.call(1)
    path = tmp_path / "p.zip"
    export(hospital.log, path, evidence=Evidence(checkpoint=hospital.witnessed()))
    parts = members(path.read_bytes())
    package = repacked(parts, hospital.log.leaves(), parts["checkpoint"].decode(), hidden=[kept])
    report = check(package, hospital.policy(tmp_path))
    assert (report.verdict, report.totals["FAIL"]) == ("INCOMPLETE", 0), said(report)
    assert "RESUME from SUSPENDED, where it was LIVE, or what explains it is out of scope" in said(report)


BAD_LINES = [
    "signers 1",
    "signers",
    "panel 4",
    "follow-up 365",
    "person {key}",
    "person {key} a b",
    "person {log} a OPS",
]


@pytest.mark.parametrize(
    "line", [*BAD_LINES, "person {key} a OPS\nperson {key} a OPS", "reviewer {key}\nreviewer {key}"]
)
def test_a_line_about_people_that_is_not_clear_is_refused(tmp_path: Path, line: str) -> None:
    """No verdict."""
    hospital = Hospital()
    key = Signer.generate("somebody.example").vkey
    with pytest.raises(verifier.Unusable):
        verifier.Policy(hospital.policy(tmp_path, *line.format(key=key, log=hospital.signer.vkey).split("\n")))


def test_seats_are_filled_as_by_trying_all() -> None:
    """Each of up to three seats needs a person of its own, whoever else could take it."""
    report = verifier.Report()
    roles = [{"CLINICAL_OWNER"}, {"SAFETY_OFFICER"}, {"CLINICAL_OWNER", "SAFETY_OFFICER"}]
    for chosen in product(range(3), repeat=2):
        people = {
            verifier.Key(str(number), 1, bytes([number]), b""): ("", roles[one]) for number, one in enumerate(chosen)
        }
        policy = type("Policy", (), {"people": people})
        review = verifier.Review(policy, report)  # type: ignore[arg-type]
        both = roles[chosen[0]] | roles[chosen[1]] == roles[2]
        before = report.totals["INCOMPLETE"]
        try:
            review._by(0, {"CLINICAL_OWNER": 1, "SAFETY_OFFICER": 1}, list(people))
            holds = report.totals["INCOMPLETE"] == before
        except ValueError:
            holds = False
        assert holds == both, chosen
