"""The register: the audit log is its only store, and what is in it counts only as far as it verifies."""

import threading
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from audit.entry import Draft, Kind
from audit.errors import AuditUnavailable
from audit.log import AuditLog
from audit.note import Signer
from audit.ticket import Proviso
from ethics_review import acts
from ethics_review.dossier import draft_approval
from ethics_review.errors import (
    ActRefused,
    ApprovalError,
    ApprovalForged,
    ApprovalInvalid,
    ApprovalReused,
    ApprovalUntrusted,
    Refused,
    SelfApproval,
)
from ethics_review.gate import decide
from ethics_review.parties import parse_trust
from ethics_review.register import Register
from ethics_review.replay import body_of
from ethics_review.states import Cause, Event, State
from models.ref import ModelRef
from tests.simulators.parties import CENTRE, D1, HOSPITAL, PANELISTS, SECOND, Case, Parties
from tests.simulators.reviewer import DURING, MODEL, fields, request

OPERATOR = Signer.generate("hospital.example/log")
PARTIES = Parties()
OTHER = ModelRef("other-model", "2.0", "sha256:" + "cd" * 32)
LONG = {"from": "2026-12-01", "to": "2029-12-31"}


class Clock:
    """Time that stands until it is moved."""

    def __init__(self) -> None:
        self.at = DURING

    def __call__(self) -> datetime:
        """Now."""
        return self.at


class World:
    """A log, and registers upon it."""

    def __init__(self, root: Path) -> None:
        self.clock = Clock()
        self.log = AuditLog.open(root, origin="hospital.example/log", source="test", signer=OPERATOR, now=self.clock)
        self.register = self.again()
        self.case = self.of(self.register)

    def again(self, *, without: tuple[str, ...] = (), more: str = "") -> Register:
        """A new process, perhaps with another policy."""
        return Register(self.log, PARTIES.trust(without=without, more=more), OPERATOR.verifier)

    def of(self, register: Register, model: ModelRef = MODEL) -> Case:
        """The dossier of a model."""
        return Case(PARTIES, register, self.log, model)

    def count(self, kind: Kind) -> int:
        """How many entries of a kind the log holds."""
        return sum(entry.kind is kind for entry in self.log.entries())

    def beat(self, **later: int) -> None:
        """An entry after so long."""
        self.clock.at += timedelta(**later)
        self.log.append(Draft(Kind.HEARTBEAT, f"beat:{self.log.head().size}", {"interval_s": 60}))


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    """An empty log."""
    made = World(tmp_path / "log")
    yield made
    made.log.close()


@pytest.fixture
def live(world: World) -> World:
    """A dossier that is LIVE, approved for three years, with a follow-up each year."""
    world.case.live(fields(valid=LONG))
    return world


def refused(do: Callable[[], Any]) -> str:
    """The code of the refusal."""
    with pytest.raises((ActRefused, ApprovalError)) as caught:
        do()
    return str(caught.value.code)


# ---- approvals -------------------------------------------------------------------------------------------------------


def test_an_empty_log_approves_nothing(world: World) -> None:
    """A new hospital has no approvals and no dossiers."""
    assert world.register.approvals() == world.register.standings() == world.register.stops() == ()
    assert world.register.standing(MODEL.digest) is None


def test_a_recorded_approval_is_in_force_at_once(world: World) -> None:
    """What record returned, approvals() and the standing show, and once it is deployed the gate permits by it."""
    world.case.submitted()
    approval = world.register.record(world.case.approval(fields()))
    assert world.register.approvals() == (approval,)
    standing = world.register.standing(MODEL.digest)
    assert standing is not None
    assert (standing.approvals, standing.state) == ((approval,), State.APPROVED_WITH_CONDITIONS)
    with pytest.raises(Refused, match="NOT_DEPLOYED"):
        decide(request(), world.register.standings(DURING), (), DURING)
    world.case.deploy()
    permit = decide(request(), world.register.standings(DURING), (), DURING)
    assert (permit.approval, permit.state) == (approval.id, "SHADOW")


def test_nothing_is_approved_that_is_not_under_review(world: World) -> None:
    """A reviewer's signatures alone do not make a dossier."""
    note = world.case.approval(fields())
    assert refused(lambda: world.register.record(note)) == "ACT_STATE"
    world.case.do(Event.OPEN, State.DRAFT, "maker")
    assert refused(lambda: world.register.record(note)) == "ACT_STATE"
    assert world.count(Kind.APPROVAL) == 0


@pytest.mark.parametrize(
    ("by", "code"),
    [
        (("reviewer-1",), "ACT_SIGNERS"),
        (("reviewer-1", "owner"), "ACT_SIGNERS"),
        (("reviewer-1", "root"), "ACT_ADMINISTRATOR"),
        (("reviewer-1", "reviewer-2", "root"), "ACT_ADMINISTRATOR"),
        (("reviewer-1", "other-1"), "ACT_ORGANISATION"),
        (("other-1", "other-2"), "ACT_ORGANISATION"),
        (("owner", "safety"), "ACT_SIGNERS"),
    ],
)
def test_an_approval_wants_two_reviewers_of_the_organisation(world: World, by: tuple[str, ...], code: str) -> None:
    """Of the one that began the review, and nobody else beside them."""
    world.case.submitted()
    assert refused(lambda: world.register.record(world.case.approval(fields(), *by))) == code
    assert world.count(Kind.APPROVAL) == 0


def test_an_approval_names_the_organisation_that_signs(world: World) -> None:
    """reviewer_org is the id in the trust policy, not a letterhead."""
    world.case.submitted()
    note = world.case.approval(fields(reviewer_org=SECOND))
    assert refused(lambda: world.register.record(note)) == "APPROVAL_INVALID"


def test_an_approval_recorded_elsewhere_is_seen(world: World) -> None:
    """An approval that another process records while the service runs comes into force without a restart."""
    tool = world.of(world.again())
    assert world.register.approvals() == ()
    tool.submitted()
    tool.register.record(tool.approval(fields()))
    assert [approval.id for approval in world.register.approvals()] == ["TEST-2026-0001"]


def test_recording_again_changes_nothing(world: World) -> None:
    """The same note twice is one entry, also for another register, and the same act too."""
    world.case.submitted()
    note = world.case.approval(fields())
    assert world.register.record(note) == world.register.record(note) == world.again().record(note)
    assert world.count(Kind.APPROVAL) == 1
    act = world.case.act(Event.DEPLOY, State.SHADOW, "ops", "owner")
    assert world.register.act(act) == world.register.act(act) == world.again().act(act)
    assert world.case.state is State.SHADOW


@pytest.mark.parametrize("name", ["TEST-2026-0001", "test-2026-0001"])
def test_an_id_is_used_once(live: World, name: str) -> None:
    """Another text under a recorded id is refused, in whatever case the id is written."""
    wider = fields(approval=name, conditions={"max_autonomy": "A2", "sex": ["F", "M", "O"]})
    assert refused(lambda: live.register.record(live.case.approval(wider))) == "APPROVAL_REUSED"
    with pytest.raises(ApprovalReused):
        live.register.record(live.case.approval(wider))
    assert [approval.conditions.max_autonomy for approval in live.register.approvals()] == ["A1"]


def test_the_hospital_cannot_approve_itself(world: World) -> None:
    """With the log's key, under its name or another, alone or beside reviewers; and it is in no policy that loads."""
    world.case.submitted()
    text = draft_approval(fields())
    both = [PARTIES.signers["reviewer-1"], PARTIES.signers["reviewer-2"]]
    for own in (OPERATOR, OPERATOR.named("reviewer.example/other")):
        for signers in ([own], [*both, own], [own, *both]):
            with pytest.raises(SelfApproval):
                world.register.record(acts.sign(text, *signers))
        line = f"person {own.vkey} {CENTRE} REVIEWER\n"
        with pytest.raises(SelfApproval):
            Register(world.log, parse_trust(PARTIES.policy() + line), OPERATOR.verifier)
    assert world.count(Kind.APPROVAL) == 0


def test_what_does_not_verify_is_not_written(world: World) -> None:
    """Forged, untrusted and malformed notes leave no entry."""
    world.case.submitted()
    stranger = Signer.generate("stranger.example/key")
    wrong: tuple[tuple[str, type[ApprovalError]], ...] = (
        (world.case.approval(fields()).replace('"A1"', '"A2"'), ApprovalForged),
        (stranger.sign(draft_approval(fields())), ApprovalUntrusted),
        ("no note", ApprovalInvalid),
        (PARTIES.sign("hello\n", "reviewer-1", "reviewer-2"), ApprovalInvalid),
    )
    for note, error in wrong:
        with pytest.raises(error):
            world.register.take(note)
    assert world.count(Kind.APPROVAL) == 0
    assert world.register.approvals() == ()


def test_a_note_too_long_for_the_log_is_refused(world: World) -> None:
    """Signatures of strangers may swell a note beyond an entry; that is the note's fault, not ours."""
    world.case.submitted()
    lines = [Signer.generate(f"{n}.example/{'x' * 200}").sign("x\n").rsplit("\n", 2)[1] for n in range(60)]
    swollen = "".join(f"{line}\n" for line in lines)
    with pytest.raises(ApprovalInvalid):
        world.register.record(world.case.approval(fields()) + swollen)
    stop = world.case.act(Event.RETIRE, State.RETIRED, "owner", "safety", statement={"archive": D1})
    assert refused(lambda: world.register.act(stop + swollen)) == "ACT_INVALID"


def test_a_narrower_renewal_takes_the_wider_approval_away(live: World) -> None:
    """Of the approvals whose time has come the newest counts; one that begins later does not yet."""
    later = {"from": "2027-01-01", "to": "2027-12-31"}
    live.case.live(fields(approval="TEST-2", valid=later, conditions={"sex": ["F"]}))
    assert [one.id for one in live.register.standing(MODEL.digest).approvals] == ["TEST-2026-0001", "TEST-2"]  # type: ignore[union-attr]
    live.beat(days=30)
    assert [one.id for one in live.register.standing(MODEL.digest).approvals] == ["TEST-2"]  # type: ignore[union-attr]
    assert len(live.register.approvals()) == 2


# ---- the life --------------------------------------------------------------------------------------------------------


def test_a_whole_life_replays(live: World) -> None:
    """Suspended, resumed, followed up, renewed, countersigned, retired; and a new process sees the same."""
    case = live.case
    case.suspend("HARM")
    assert refused(case.resume) == "ACT_SIGNERS"
    case.resume("owner", "safety", "reviewer-3")
    case.do(Event.FOLLOW_UP, State.LIVE, "reviewer-1", statement={"report": D1})
    case.live(fields(approval="TEST-2", valid=LONG))
    report = {"model": case.named(), "period": "2026-12", "months": 1, "first": 0, "last": 1, "report": D1}
    live.log.append(Draft(Kind.SAFETY_REPORT, "report", report))
    case.do(Event.COUNTERSIGN, State.LIVE, "reviewer-1", statement={"report": D1})
    assert case.state is State.LIVE
    case.do(Event.RETIRE, State.RETIRED, "owner", "safety", statement={"archive": D1})

    standing = live.register.standing(MODEL.digest)
    assert standing is not None
    events = [step.event for step in standing.history]
    assert events[:7] == ["OPEN", "SELF_ASSESS", "SUBMIT", "BEGIN_REVIEW", "APPROVE", "DEPLOY", "GO_LIVE"]
    assert events[7:] == ["SUSPEND", "RESUME", "FOLLOW_UP", "RENEW", "COUNTERSIGN", "RETIRE"]
    assert standing.history[8].by == ("owner.example", "safety.example", "reviewer-3.example")
    assert live.again().standings() == live.register.standings()
    assert live.register.set_aside() == ()
    for event, to in ((Event.OPEN, State.DRAFT), (Event.SUSPEND, State.SUSPENDED)):
        stated = {"cause": "HARM"} if event is Event.SUSPEND else {}
        reason = "HARM" if stated else "TEST"
        assert refused(lambda e=event, t=to, s=stated, r=reason: case.do(e, t, "owner", statement=s, reason=r)) == (
            "ACT_STATE"
        )


def test_reviewed_by_a_panel(world: World) -> None:
    """What may run autonomously is approved only after experts cleared it, and they are not of the first committee."""
    case, terms = world.case, fields(conditions={"max_autonomy": "A3"}, follow_up={"days": 182, "listed": True})
    case.submitted()
    assert refused(lambda: world.register.record(case.approval(terms))) == "ACT_GUARD"
    panel = {"panel": [f"{name}.example" for name in PANELISTS]}
    case.do(Event.REFER, State.EXPERT_REREVIEW, "reviewer-1", statement=panel)
    for few in ({"panel": panel["panel"][:4]}, {"panel": [*panel["panel"][:4], "nobody.example"]}):
        assert refused(lambda s=few: case.do(Event.PANEL_CLEAR, State.UNDER_REVIEW, *PANELISTS[:4], statement=s)) == (
            "ACT_PANEL"
        )
    case.do(Event.PANEL_CLEAR, State.UNDER_REVIEW, *PANELISTS[:4], statement=panel)
    world.register.record(case.approval(terms))
    assert case.state is State.APPROVED_WITH_CONDITIONS
    assert world.again().standings() == world.register.standings()


def test_a_revised_dossier_goes_round_again(world: World) -> None:
    """REVISE, REOPEN, and the whole way once more; interests that were declared stay declared."""
    case = world.case
    case.submitted(coi=[SECOND])
    case.do(Event.REVISE, State.REVISE, "reviewer-1", "reviewer-2")
    case.do(Event.REOPEN, State.DRAFT, "owner")
    case.do(Event.SELF_ASSESS, State.SELF_ASSESSED, "maker", "owner", statement={"submission": D1})
    again = {"submission": D1, "coi": [], "documents": {}}
    case.do(Event.SUBMIT, State.SUBMITTED, "secretary", statement=again)
    assert refused(lambda: case.do(Event.BEGIN_REVIEW, State.UNDER_REVIEW, "other-1")) == "ACT_CONFLICT"
    case.do(Event.BEGIN_REVIEW, State.UNDER_REVIEW, "reviewer-2")
    case.do(Event.REJECT, State.REJECTED, "reviewer-1", "reviewer-2")
    assert refused(lambda: case.do(Event.OPEN, State.DRAFT, "maker")) == "ACT_STATE"


def test_going_live_wants_what_the_log_shows(world: World) -> None:
    """An acceptance under this very approval with nothing unmet, and a drill since the deployment."""
    case = world.case
    case.submitted()
    approval = world.register.record(case.approval(fields()))
    early = case.drill()
    case.deploy()

    def go(**stated: int) -> str:
        whole = {"notice": D1, "training": D1, "drill": drill, "acceptance": met} | stated
        with pytest.raises(ActRefused) as caught:
            case.do(Event.GO_LIVE, State.LIVE, "owner", "safety", statement=whole)
        assert caught.value.code == "ACT_GUARD"
        return str(caught.value)

    drill, met = case.drill(), case.accept(approval.id)
    assert "DRILL_DONE" in go(drill=early)
    assert "DRILL_DONE" in go(drill=met)
    assert "ACCEPTANCE_MET" in go(acceptance=drill)
    assert "ACCEPTANCE_MET" in go(acceptance=case.accept(approval.id, unmet=1))
    assert "ACCEPTANCE_MET" in go(acceptance=case.accept("OTHER-1"))
    assert "ACCEPTANCE_MET" in go(acceptance=world.of(world.register, OTHER).accept(approval.id))
    whole = {"notice": D1, "training": D1, "drill": drill, "acceptance": met}
    case.do(Event.GO_LIVE, State.LIVE, "owner", "safety", statement=whole)
    assert case.state is State.LIVE


def test_a_suspension_for_a_drill_is_a_drill(world: World) -> None:
    """In place of a stop of the site; but a stop in earnest is none."""
    case = world.case
    case.submitted()
    approval = world.register.record(case.approval(fields()))
    case.deploy()
    case.suspend("DRILL")
    drill = case.resume(to=State.SHADOW).index
    case.switch("STOP", "reader", reason="HARM")
    earnest = case.switch("RESUME", "owner", "safety", reason="DRILL").index
    stated = {"notice": D1, "training": D1, "acceptance": case.accept(approval.id)}
    for wrong in (earnest,):
        statement = stated | {"drill": wrong}
        assert refused(lambda s=statement: case.do(Event.GO_LIVE, State.LIVE, "owner", "safety", statement=s)) == (
            "ACT_GUARD"
        )
    case.do(Event.GO_LIVE, State.LIVE, "owner", "safety", statement=stated | {"drill": drill})


def test_resuming_wants_a_fresh_golden_case(live: World) -> None:
    """Since this very suspension, right, and with none that was wrong after it."""
    old = live.case.golden()
    live.case.suspend()
    assert refused(lambda: live.case.resume(golden=old)) == "ACT_GUARD"
    good = live.case.golden()
    assert refused(lambda: live.case.resume(golden=live.case.golden("MISMATCH"))) == "ACT_GUARD"
    assert refused(lambda: live.case.resume(golden=good)) == "ACT_GUARD"
    fine = live.case.golden()
    live.case.suspend("HARM", by="safety")  # again, and graver
    assert refused(lambda: live.case.resume("owner", "safety", "reviewer-1", golden=fine)) == "ACT_GUARD"
    assert refused(live.case.resume) == "ACT_SIGNERS"
    live.case.resume("owner", "safety", "reviewer-1")
    assert live.case.state is State.LIVE


def test_a_lesser_cause_does_not_hide_a_graver_one(live: World) -> None:
    """HARM, then OPERATOR: still HARM; and all who suspended are named."""
    live.case.suspend("HARM")
    live.case.suspend("OPERATOR", by="owner")
    standing = live.register.standing(MODEL.digest)
    assert standing is not None
    assert (standing.cause, standing.suspended_by) == (Cause.HARM, ("reader.example", "owner.example"))
    assert standing.suspended_from is State.LIVE


# ---- order, replay, races --------------------------------------------------------------------------------------------


def test_an_act_is_good_at_one_place(live: World) -> None:
    """Neither twice, nor later, nor for another model, nor for the first of all."""
    note = live.case.act(Event.SUSPEND, State.SUSPENDED, "reader", statement={"cause": "HARM"}, reason="HARM")
    live.register.act(note)
    live.case.resume("owner", "safety", "reviewer-1")
    assert refused(lambda: live.register.act(note)) == "ACT_ORDER"
    for after in (None, D1):
        late = live.case.act(Event.FOLLOW_UP, State.LIVE, "reviewer-1", statement={"report": D1}, after=after)
        assert refused(lambda n=late: live.register.act(n)) == "ACT_ORDER"
    assert live.case.state is State.LIVE


def test_a_model_of_the_same_digest_and_another_name_is_refused(live: World) -> None:
    """A dossier is of one digest, and its name and version do not change."""
    alias = ModelRef("small-model", "9.9", MODEL.digest)
    last = live.register.standing(MODEL.digest).last_note  # type: ignore[union-attr]
    act = acts.Act(last, Event.FOLLOW_UP, State.LIVE, State.LIVE, alias, "TEST", {"report": D1})
    assert refused(lambda: live.register.act(PARTIES.sign(acts.draft(act), "reviewer-1"))) == "ACT_INVALID"
    terms = fields(alias, approval="TEST-2")
    assert refused(lambda: live.register.record(live.case.approval(terms))) == "ACT_INVALID"


def test_of_two_acts_after_one_note_the_log_takes_one(live: World) -> None:
    """Two people act at once in two processes that have not seen each other: the second is told, and may look anew."""
    follow = live.case.act(Event.FOLLOW_UP, State.LIVE, "reviewer-1", statement={"report": D1})
    other = live.case.act(Event.FOLLOW_UP, State.LIVE, "reviewer-2", statement={"report": D1})
    results: list[str] = []
    gate = threading.Barrier(2)

    def work(note: str) -> None:
        register = live.again()
        register.standings()
        gate.wait()
        try:
            register.act(note)
        except ActRefused as wrong:
            results.append(wrong.code)
        else:
            results.append("DONE")

    threads = [threading.Thread(target=work, args=(note,)) for note in (follow, other)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(results) == ["ACT_ORDER", "DONE"]
    assert [step.event for step in live.register.standings()[0].history].count("FOLLOW_UP") == 1


class Blind:
    """A log whose reader has not seen the last entries when it acts, as one process of two has not."""

    def __init__(self, log: AuditLog, size: int) -> None:
        self._log, self.size = log, size

    def append(self, draft: Draft, proviso: Proviso | None = None) -> Any:
        """From here on it sees everything."""
        try:
            return self._log.append(draft, proviso)
        finally:
            self.size = self._log.head().size

    def find(self, key: str) -> Any:
        """As the log."""
        return self._log.find(key)

    def leaves(self, start: int = 0) -> Iterator[tuple[int, bytes]]:
        """Up to what it has seen."""
        return (leaf for leaf in self._log.leaves(start) if leaf[0] < self.size)

    def receipt(self, index: int) -> Any:
        """As the log."""
        return self._log.receipt(index)


def test_the_log_itself_refuses_a_second_act(live: World) -> None:
    """Even a process that has not seen the first one cannot append another after the same note."""
    size = live.log.head().size
    second = live.case.act(Event.FOLLOW_UP, State.LIVE, "reviewer-2", statement={"report": D1})
    live.case.suspend("HARM")
    blind = Register(Blind(live.log, size), PARTIES.trust(), OPERATOR.verifier)
    assert refused(lambda: blind.act(second)) == "ACT_ORDER"
    assert live.log.head().size == size + 1
    assert live.case.state is State.SUSPENDED


@pytest.mark.parametrize("restricts", [False, True])
def test_a_suspension_says_from_where(live: World, restricts: bool) -> None:
    """The monitor and a person suspend at once: the second entry says SUSPENDED, as it was by then, and not LIVE."""
    size = live.log.head().size
    live.case.suspend("HARM")
    blind = Register(Blind(live.log, size), PARTIES.trust(), OPERATOR.verifier)
    ref = live.register.standings()[0].model
    entry = blind.restrict(ref, "SEX", "F", 1) if restricts else blind.suspend(ref, Cause.SUBGROUP_GAP, 1)
    assert (entry.index, entry.body["from"], entry.body["to"]) == (size + 1, "SUSPENDED", "SUSPENDED")
    assert live.log.head().size == size + 2


def test_a_deployment_that_lost_against_a_renewal_is_told(world: World) -> None:
    """Who deploys must have seen the newest approval."""
    world.case.submitted()
    world.register.record(world.case.approval(fields()))
    deploy = world.case.act(Event.DEPLOY, State.SHADOW, "ops", "owner")
    size = world.log.head().size
    world.register.record(world.case.approval(fields(approval="TEST-2", conditions={"sex": ["F"]})))
    blind = Register(Blind(world.log, size), PARTIES.trust(), OPERATOR.verifier)
    assert refused(lambda: blind.act(deploy)) == "ACT_ORDER"
    assert world.case.state is State.APPROVED_WITH_CONDITIONS


def test_a_retirement_that_lost_a_race_holds(live: World) -> None:
    """What ends and what suspends is not undone by being second."""
    retire = live.case.act(Event.RETIRE, State.RETIRED, "owner", "safety", statement={"archive": D1})
    size = live.log.head().size
    live.case.live(fields(approval="TEST-2", valid=LONG))
    blind = Register(Blind(live.log, size), PARTIES.trust(), OPERATOR.verifier)
    blind.act(retire)
    assert live.case.state is State.RETIRED


def test_an_act_that_lost_against_an_approval_is_told(world: World) -> None:
    """An approval takes the place after a note as well; whoever comes second has done nothing."""
    world.case.submitted()
    revise = world.case.act(Event.REVISE, State.REVISE, "reviewer-1", "reviewer-2")
    follow = world.case.act(
        Event.REFER, State.EXPERT_REREVIEW, "reviewer-1", statement={"panel": [f"{name}.example" for name in PANELISTS]}
    )
    size = world.log.head().size
    world.register.record(world.case.approval(fields()))
    blind = Register(Blind(world.log, size), PARTIES.trust(), OPERATOR.verifier)
    assert refused(lambda: blind.act(revise)) == "ACT_ORDER"
    assert world.case.state is State.APPROVED_WITH_CONDITIONS
    assert world.register.set_aside() == ((size + 1, "ACT_ORDER"),)
    assert refused(lambda: world.register.act(follow)) == "ACT_ORDER"


def test_an_approval_that_lost_against_a_rejection_is_told(world: World) -> None:
    """The reviewers who reject and those who approve are two groups; the log has one order."""
    world.case.submitted()
    size = world.log.head().size
    world.case.do(Event.REJECT, State.REJECTED, "reviewer-1", "reviewer-2")
    blind = Register(Blind(world.log, size), PARTIES.trust(), OPERATOR.verifier)
    assert refused(lambda: blind.record(world.case.approval(fields()))) == "ACT_STATE"
    assert world.case.state is State.REJECTED
    assert world.register.approvals() == ()


def test_a_disk_that_refuses_is_told(world: World) -> None:
    """The log's own trouble goes through, and nothing counts until it is in the log."""
    world.case.submitted()
    note = world.case.approval(fields())
    world.log.close()
    for do in (lambda: world.register.record(note), world.register.approvals, world.register.standings):
        with pytest.raises(AuditUnavailable):
            do()


def test_threads_share_a_register(world: World) -> None:
    """Recording and asking from several threads loses nothing and repeats nothing."""
    world.case.submitted()
    world.register.record(world.case.approval(fields(approval="TEST-0")))
    notes = [world.case.approval(fields(approval=f"TEST-{n % 4}")) for n in range(8)]
    seen: list[int] = []

    def work(note: str) -> None:
        world.register.record(note)
        seen.append(len(world.register.approvals()))

    threads = [threading.Thread(target=work, args=(note,)) for note in notes]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(seen) == 8
    assert [approval.id for approval in world.register.approvals()] == [f"TEST-{n}" for n in range(4)]
    assert world.count(Kind.APPROVAL) == 4


# ---- the monitor, time, stops ----------------------------------------------------------------------------------------


def test_the_monitor_suspends_and_restricts(live: World) -> None:
    """Unsigned, with the entry that it saw, once for each; nothing is resumed by it, and a class stays cut off."""
    first = live.register.restrict(MODEL, "SEX", "F", 3)
    assert live.register.restrict(MODEL, "SEX", "F", 3) == first
    entry = live.register.suspend(MODEL, Cause.PERFORMANCE, 4)
    assert live.register.suspend(MODEL, Cause.PERFORMANCE, 4) == entry
    standing = live.register.standing(MODEL.digest)
    assert standing is not None
    assert (standing.state, standing.cause) == (State.SUSPENDED, Cause.PERFORMANCE)
    assert (standing.cut_off, standing.suspended_by) == ({("SEX", "F")}, ())
    live.case.resume()
    assert live.register.standing(MODEL.digest).cut_off == {("SEX", "F")}  # type: ignore[union-attr]
    live.register.suspend(MODEL, Cause.PERFORMANCE, 4)  # what it saw is over
    assert live.case.state is State.LIVE
    live.register.suspend(MODEL, Cause.PERFORMANCE, None)
    assert live.case.state is State.SUSPENDED
    assert refused(lambda: live.register.suspend(OTHER, Cause.HARM, None)) == "ACT_STATE"
    assert live.register.set_aside() == ()


def test_unsigned_entries_do_nothing_else(live: World) -> None:
    """A STATE_CHANGE without a note resumes nothing, retires nothing, opens nothing."""
    live.case.suspend("HARM")
    before = live.register.standings()
    for number, event in enumerate(event for event in Event if event not in {Event.SUSPEND, Event.RESTRICT}):
        act = acts.Act(None, event, State.SUSPENDED, State.LIVE, MODEL, "TEST", {})
        body = body_of(act, "") | {"note": None, "note_digest": None}
        live.log.append(Draft(Kind.STATE_CHANGE, f"own:{number}", body))
    assert live.register.standings() == before
    assert {code for _, code in live.register.set_aside()} == {"ACT_SIGNERS"}


def test_an_approval_that_ends_suspends(live: World) -> None:
    """At the midnight (UTC+8) that ends its last day; with the log's next entry, or for whoever asks with the clock."""
    short = {"from": "2026-12-01", "to": "2026-12-20"}
    live.case.live(fields(approval="TEST-2", valid=short))
    end = datetime(2026, 12, 20, 16, 0, tzinfo=UTC)
    assert live.register.standings(end - timedelta(seconds=1))[0].state is State.LIVE
    seen = live.register.standings(end)[0]
    assert (seen.state, seen.cause, seen.suspended_from) == (State.SUSPENDED, Cause.EXPIRY, State.LIVE)
    assert live.case.state is State.LIVE  # nobody has seen that time yet
    live.clock.at = end
    live.beat(seconds=0)
    assert live.case.state is State.SUSPENDED
    # The clock goes back: what has ended stays so, for this process and the next.
    live.clock.at = DURING
    live.beat(seconds=1)
    assert live.case.state is State.SUSPENDED
    assert live.again().standings()[0].cause is Cause.EXPIRY
    assert live.register.latest_known() == end
    # A renewal alone does not bring it back, and the hospital alone neither.
    live.case.live(fields(approval="TEST-3", valid=LONG))
    assert live.case.state is State.SUSPENDED
    assert refused(live.case.resume) == "ACT_SIGNERS"
    live.case.resume("owner", "safety", "reviewer-1")
    assert live.case.state is State.LIVE


def test_resuming_what_has_ended_is_refused(live: World) -> None:
    """It would be suspended again at once."""
    live.case.live(fields(approval="TEST-2", valid={"from": "2026-12-01", "to": "2026-12-20"}))
    live.beat(days=10)
    assert refused(lambda: live.case.resume("owner", "safety", "reviewer-1")) == "ACT_GUARD"


def test_an_overdue_follow_up_suspends(live: World) -> None:
    """365 days after the approval; a follow-up in time moves it, one that comes late does not undo it."""
    live.beat(days=364)
    assert live.case.state is State.LIVE
    live.case.do(Event.FOLLOW_UP, State.LIVE, "reviewer-1", statement={"report": D1})
    live.beat(days=364, hours=23)
    assert live.case.state is State.LIVE
    live.beat(hours=1)
    standing = live.register.standing(MODEL.digest)
    assert standing is not None
    assert (standing.state, standing.cause) == (State.SUSPENDED, Cause.FOLLOW_UP)
    live.case.do(Event.FOLLOW_UP, State.SUSPENDED, "reviewer-1", statement={"report": D1})
    assert live.case.state is State.SUSPENDED
    live.case.resume("owner", "safety", "reviewer-1")
    assert live.case.state is State.LIVE
    assert live.again().standings() == live.register.standings()


def test_a_policy_may_want_follow_ups_sooner(live: World) -> None:
    """The policy's number is the most there is."""
    live.beat(days=100)
    assert live.again().standings()[0].state is State.LIVE
    assert live.again(more="follow-up 99 99").standings()[0].cause is Cause.FOLLOW_UP


def test_criteria_that_do_not_count_suspend_and_stay_suspended(live: World) -> None:
    """A policy that names other criteria suspends at once; a renewal under them, or the old policy, does not resume."""
    assert live.again(more="criteria TEST-AI-MED/1.0").standings()[0].state is State.LIVE
    newer = live.of(live.again(more="criteria TEST-AI-MED/2.0"))
    assert newer.register.standings()[0].cause is Cause.CRITERIA
    stale = newer.approval(fields(approval="TEST-2", valid=LONG))
    assert refused(lambda: newer.register.record(stale)) == "ACT_GUARD"
    newer.register.record(newer.approval(fields(approval="TEST-3", valid=LONG, criteria_set="TEST-AI-MED/2.0")))
    assert newer.state is State.SUSPENDED
    assert live.again().standings()[0].state is State.SUSPENDED
    assert refused(newer.resume) == "ACT_SIGNERS"
    newer.resume("owner", "safety", "reviewer-1")
    assert newer.state is State.LIVE


def test_stops_and_their_ends(live: World) -> None:
    """Anybody authorised stops a site or the service; owner and safety officer end it, each stop on its own."""
    stopped = live.case.switch("STOP", "reader", level="SITE", site="test-site", reason="HARM")
    live.case.switch("STOP", "root", reason="HARM")
    assert {(stop.level, stop.site) for stop in live.register.stops()} == {("SITE", "test-site"), ("SERVICE", None)}
    assert stopped.index in {stop.index for stop in live.register.stops()}
    for by in (("owner",), ("reader", "ops"), ("owner", "root"), ("maker",)):
        assert refused(lambda who=by: live.case.switch("RESUME", *who, reason="OVER")).startswith("ACT_")
    assert refused(lambda: live.case.switch("STOP", "maker", reason="HARM")) == "ACT_SIGNERS"
    live.case.switch("RESUME", "owner", "safety", reason="OVER")
    assert [(stop.level, stop.site) for stop in live.register.stops()] == [("SITE", "test-site")]
    assert refused(lambda: live.case.switch("RESUME", "owner", "safety", reason="OVER")) == "ACT_STATE"
    assert live.again().stops() == live.register.stops()


def test_a_resume_is_not_replayed(live: World) -> None:
    """The note that ended one stop does not end the next."""
    live.case.switch("STOP", "reader", reason="HARM")
    last = live.register.last_switch("SERVICE", None)
    note = PARTIES.sign(acts.draft(acts.Switch(last, "RESUME", "SERVICE", None, "OVER")), "owner", "safety")
    live.register.act(note)
    live.case.switch("STOP", "reader", reason="HARM")
    assert refused(lambda: live.register.act(note)) == "ACT_ORDER"
    entry = next(entry for entry in live.log.entries() if entry.body.get("note") == note)
    live.log.append(Draft(Kind.RESUME, "own:1", entry.body))
    assert len(live.register.stops()) == len(live.again().stops()) == 1


def test_calls_of_a_day(live: World) -> None:
    """Distinct calls of this model since the midnight of UTC+8; a clock set back counts into the day that was seen."""
    calls = 0

    def call(number: int, digest: str = MODEL.digest) -> None:
        nonlocal calls
        calls += 1
        body: dict[str, Any] = {
            "site": "test-site",
            "requester": None,
            "patient": None,
            "study": "5" * 32,
            "series": 1,
            "instances": 1,
            "input": "6" * 32,
            "model": live.case.named() | {"digest": digest},
            "card": D1,
            "approval": "TEST",
            "policy": D1,
            "autonomy": "A1",
            "state": "LIVE",
            "checks": [],
            "runtime": {},
        }
        live.log.append(Draft(Kind.CALL_INTENT, f"intent:{calls}", body, f"{number:032x}"))

    call(1)
    call(1)
    call(2)
    call(3, OTHER.digest)
    assert [live.register.calls_today(one.digest, DURING) for one in (MODEL, OTHER)] == [2, 1]
    midnight = datetime(2026, 12, 15, 16, 0, tzinfo=UTC)
    assert live.register.calls_today(MODEL.digest, midnight - timedelta(seconds=1)) == 2
    assert live.register.calls_today(MODEL.digest, midnight) == 0
    live.clock.at = midnight
    call(4)
    live.clock.at = DURING
    call(5)
    assert live.register.calls_today(MODEL.digest, DURING) == live.again().calls_today(MODEL.digest, midnight) == 2


def test_who_does_not_want_ai(world: World) -> None:
    """The last choice counts, and anything but a clear yes is a no."""
    patient = "3" * 32
    assert not world.register.opted_out(patient)
    for number, (choice, out) in enumerate([("OPTED_OUT", True), ("WITHDRAWN", False), ("PERHAPS", True)]):
        world.log.append(Draft(Kind.OPT_OUT, f"choice:{number}", {"patient": patient, "choice": choice}))
        assert world.register.opted_out(patient) is out
    assert world.again().opted_out(patient)
    assert HOSPITAL in PARTIES.trust().organisations
