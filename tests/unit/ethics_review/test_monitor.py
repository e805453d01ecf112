"""The monitor: each row of its table at its edge, and what must hold for any stream of facts."""

import ast
import json
import random
from collections.abc import Iterable
from importlib import resources
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from audit.entry import BODIES, Kind
from ethics_review.errors import RequestInvalid
from ethics_review.evaluation import (
    INVARIANTS,
    METRICS,
    SEVERITY,
    SOURCES,
    Evaluation,
    Metric,
    Outcome,
    Plan,
    Reading,
    Tier,
    code_digest,
)
from ethics_review.facts import Fact, What
from ethics_review.gaps import Gaps
from ethics_review.monitor import Monitor, cut_off, evaluate, honest_run, recompute
from models.ref import ModelRef
from tests.simulators.monitored import APPROVAL, MODEL, MONITOR, OTHER_MODEL, Ward, busy, plan


def said(facts: Iterable[Fact], thresholds: Plan | None = None) -> list[tuple[str, str | None, Outcome]]:
    """What the monitor says at once that is worse than OK: metric, subgroup, outcome."""
    found = evaluate(thresholds or plan(), facts)
    return [(e.reading.metric, e.reading.subgroup, e.outcome) for e in found if SEVERITY[e.outcome]]


def standing(facts: Iterable[Fact], thresholds: Plan | None = None) -> dict[tuple[str, str | None], Reading]:
    """Where every metric stands after the facts."""
    monitor = Monitor(thresholds or plan())
    for fact in facts:
        monitor.feed(fact)
    return {(e.reading.metric, e.reading.subgroup): e.reading for e in monitor.standing()}


# What must hold for any stream.


@pytest.mark.slow
@settings(max_examples=6, deadline=None)
@given(st.integers(0, 2**32), st.lists(st.integers(0, 3_000), max_size=4), st.sampled_from(["0.05", "0.2"]))
def test_any_split_is_the_whole(seed: int, splits: list[int], bad: str) -> None:
    """Stopped and continued from its state, as JSON, at any places, it says the same as in one go."""
    facts = list(busy(seed, 600, bad=float(bad), failing=0.02))
    whole = evaluate(plan(), facts)
    monitor, parts = Monitor(plan()), list[Evaluation]()
    for fact in facts:
        if fact.index in splits:
            # Sorted keys, as canonical JSON has them: no order may hide in a map.
            kept = json.loads(json.dumps(monitor.state(), sort_keys=True))
            monitor = Monitor.continued(plan(), kept)
        parts += monitor.feed(fact)
    assert tuple(parts) == whole
    assert whole


@pytest.mark.slow
@pytest.mark.parametrize(("seed", "bad"), [(1, 0.05), (2, 0.12), (3, 0.3)])
def test_each_evaluation_can_be_made_again(seed: int, bad: float) -> None:
    """The entries that an evaluation names, alone, give it again to the digit: what a reviewer does."""
    facts = list(busy(seed, 3_000, bad=bad, failing=0.02))
    given_out = evaluate(plan(), facts)
    names = {one.reading.metric for one in given_out}
    assert names >= {name for name, row in METRICS.items() if row.tier is not Tier.T0}
    for one in random.Random(seed).sample(given_out, 60):
        assert recompute(plan(), facts, one.reading) == one.reading


@settings(max_examples=10, deadline=None)
@given(st.integers(0, 2**32))
def test_every_body_can_be_logged(seed: int) -> None:
    """Every evaluation is an EVALUATION body, to the field, and names entries that were there."""
    facts = list(busy(seed, 400, bad=0.3, failing=0.05))
    for one in evaluate(plan(), facts):
        body = one.body()
        BODIES[Kind.EVALUATION].check(body, "body")
        assert body["approval"] == APPROVAL
        assert body["code"] == code_digest()
        assert body["tier"] == METRICS[str(body["metric"])].tier
        assert 0 <= int(str(body["first"])) <= int(str(body["last"])) <= facts[-1].index


def test_the_monitor_can_only_tighten() -> None:
    """There is no outcome that loosens, no row that could mean one, and no word for it in the code."""
    assert set(Outcome) == {"OK", "TOO_FEW", "ALERT", "RESTRICT", "SUSPEND"}
    assert [SEVERITY[one] for one in Outcome] == sorted(SEVERITY[one] for one in Outcome)
    for name in set(SOURCES) - {"facts.py"}:  # which reads what people did, and says nothing
        tree = ast.parse(resources.files("ethics_review").joinpath(name).read_text())
        words = {
            node.value for node in ast.walk(tree) if isinstance(node, ast.Constant) and isinstance(node.value, str)
        }
        words |= {node.attr for node in ast.walk(tree) if isinstance(node, ast.Attribute)}
        assert not {word for word in words if word.upper() in {"RESUME", "GO_LIVE", "APPROVE", "RELAX", "LIFT"}}


@pytest.mark.parametrize("row", METRICS.values(), ids=lambda row: row.name)
@pytest.mark.parametrize("outcome", Outcome, ids=str)
def test_no_row_says_more_than_it_may(row: Metric, outcome: Outcome) -> None:
    """Every metric with every outcome: only those up to its worst exist, and early warnings only warn."""
    if SEVERITY[outcome] > SEVERITY[row.worst]:
        with pytest.raises(RequestInvalid):
            Reading(row.name, None, 0, 1, 1, None, None, outcome)
    else:
        assert Reading(row.name, None, 0, 1, 1, None, None, outcome).outcome is outcome
    assert (row.worst is Outcome.ALERT) == (row.tier is Tier.T2)


def test_code_digest_is_of_every_module() -> None:
    """Whatever of this folder the monitor imports is in the digest, but for words and errors of the whole folder."""
    shared = {"errors.py", "vocabulary.py"}
    folder = Path(str(resources.files("ethics_review")))
    for name in SOURCES:
        tree = ast.parse((folder / name).read_text())
        froms = [node.module or "" for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)]
        inner = {f"{module.split('.')[1]}.py" for module in froms if module.startswith("ethics_review.")}
        # `from ethics_review import drift` names modules as what is imported.
        inner |= {
            f"{alias.name}.py"
            for node in ast.walk(tree)
            if isinstance(node, ast.ImportFrom) and node.module == "ethics_review"
            for alias in node.names
        }
        assert inner <= {*SOURCES, *shared}
    assert code_digest().startswith("sha256:")


def test_facts_in_order() -> None:
    """A fact that comes twice, or too late, is refused: the log has one order."""
    ward, monitor = Ward(), Monitor(plan())
    ward.judged()
    monitor.feed(ward.facts[1])
    for old in (ward.facts[0], ward.facts[1]):
        with pytest.raises(RequestInvalid):
            monitor.feed(old)


def test_state_of_another_model() -> None:
    """A state is continued for its own model only."""
    state = Monitor(plan()).state() | {"model": OTHER_MODEL}
    with pytest.raises(RequestInvalid):
        Monitor.continued(plan(), state)


@pytest.mark.parametrize(
    "changed",
    [
        {"disagree_p0": None},
        {"cusum_h": None},
        {"cusum_h": "0"},
        {"disagree_p1": "0.05"},
        {"missed_p0": "x"},
        {"failure_rate": "1"},
        {"failure_rate": "-0.1"},
        {"subgroup_gap": "0"},
        {"p95_ms": 0},
        {"p95_ms": "1.5"},
        {"human_decision_h": True},
        {"human_decision_h": None},
    ],
    ids=str,
)
def test_no_such_plan(changed: dict[str, object]) -> None:
    """Thresholds that are missing or senseless make no plan."""
    with pytest.raises(RequestInvalid):
        plan(**changed)
    with pytest.raises(RequestInvalid):
        plan("RELAX")


# T0: one is enough.


@pytest.mark.parametrize("name", INVARIANTS)
def test_invariants(name: str) -> None:
    """Each broken invariant suspends at once, about this model or about all; another model's does not."""
    for model, wanted in ((MODEL.digest, [Outcome.SUSPEND]), (None, [Outcome.SUSPEND]), (OTHER_MODEL, [])):
        ward = Ward()
        ward.put(What.INVARIANT, model=model, code=name)
        assert [one.outcome for one in evaluate(plan(), ward.facts)] == wanted


def test_a_model_that_reached_for_the_network() -> None:
    """The call that failed so suspends its model, by itself; a stranger's call and other failures do not."""
    ward = Ward()
    call = ward.call()
    ward.failure(call, code="EGRESS_BLOCKED")
    assert said(ward.facts) == [("EGRESS_BLOCKED", None, Outcome.SUSPEND)]
    (reading,) = (one.reading for one in evaluate(plan(), ward.facts) if one.reading.metric == "EGRESS_BLOCKED")
    assert {fact.what for fact in ward.facts if fact.index == reading.first} == {What.INTENT}
    ward = Ward()
    ward.failure(ward.call())
    ward.put(What.FAILED, call="f" * 32, code="EGRESS_BLOCKED")
    assert said(ward.facts) == []


def test_unknown_invariant() -> None:
    """What is no invariant cannot be reported as one."""
    for name in ("DISAGREEMENT", "WEATHER"):
        ward = Ward()
        ward.put(What.INVARIANT, model=MODEL.digest, code=name)
        with pytest.raises((RequestInvalid, KeyError)):
            evaluate(plan(), ward.facts)


@pytest.mark.parametrize(
    ("boot", "tick_s", "wanted"), [("a", 121, ["HEARTBEAT_GAP"]), ("a", 120, []), ("b", 900, [])], ids=str
)
def test_heartbeats(boot: str, tick_s: int, wanted: list[str]) -> None:
    """More than 120 s of silence within one run of the writer suspends; a machine that was off made no calls."""
    ward = Ward()
    ward.put(What.HEARTBEAT, boot="a" * 32, tick_us=0)
    ward.put(What.HEARTBEAT, boot=boot * 32, tick_us=tick_s * 1_000_000)
    assert [metric for metric, _, _ in said(ward.facts)] == wanted


@pytest.mark.parametrize(("back_s", "wanted"), [(1, []), (1.01, ["CLOCK_OFFSET"])], ids=str)
def test_clock_backwards(back_s: float, wanted: list[str]) -> None:
    """A later entry with a time more than a second earlier suspends."""
    ward = Ward(minute=10)
    ward.call()
    ward.minute -= back_s / 60
    ward.call()
    assert [metric for metric, _, _ in said(ward.facts)] == wanted


@pytest.mark.parametrize(("late", "of", "wanted"), [(1, 100, []), (2, 100, ["DECISIONS_MISSING"]), (9, 99, [])])
def test_missing_decisions(late: int, of: int, wanted: list[str]) -> None:
    """More than 1 % of 100 or more that fell due in a day without a decision suspends; any at all warns."""
    ward = Ward()
    for number in range(of):
        call = ward.call()
        ward.result(call)
        ward.put(What.RELEASED, call=call)
        if number >= late:
            ward.decision(call)
    ward.minute += 24 * 60
    ward.put(What.HEARTBEAT, boot="a" * 32, tick_us=0)
    found = [metric for metric, _, _ in said(ward.facts)]
    assert found == ["DECISION_OVERDUE", *wanted]


def test_suspension_forgives_no_decision() -> None:
    """What was released before a suspension falls due after it all the same; a decision meanwhile counts."""
    ward = Ward()
    calls = [ward.call() for _ in range(2)]
    for call in calls:
        ward.result(call)
        ward.put(What.RELEASED, call=call)
    ward.put(What.EPOCH, model=MODEL.digest)
    ward.decision(calls[0])
    ward.minute += 24 * 60
    ward.put(What.HEARTBEAT, boot="a" * 32, tick_us=0)
    due = standing(ward.facts)["DECISION_OVERDUE", None]
    assert (due.n, due.value, due.outcome) == (2, "0.500000", Outcome.ALERT)


# T1: sequential evidence.


def test_disagreement() -> None:
    """Nine disagreements on end are 6.2 nats, eight are 5.5; the chart then stays where it signalled."""
    ward = Ward()
    for _ in range(8):
        ward.judged("REJECT")
    assert said(ward.facts) == []
    ward.judged("MODIFY")
    assert said(ward.facts) == [("DISAGREEMENT", None, Outcome.SUSPEND)]
    for _ in range(200):
        ward.judged()
    last = standing(ward.facts)["DISAGREEMENT", None]
    assert (last.n, last.value, last.limit, last.outcome) == (9, "6.238323", "6.000000", Outcome.SUSPEND)


def test_silence_is_too_few() -> None:
    """99 judged calls without a fault are too few to be fine, 100 are not; no call at all is too few as well."""
    ward = Ward()
    ward.put(What.HEARTBEAT, boot="a" * 32, tick_us=0)
    nothing = standing(ward.facts)
    t1 = {name for name, row in METRICS.items() if row.tier is Tier.T1}
    assert {metric for metric, _ in nothing} == t1
    assert {reading.outcome for reading in nothing.values()} == {Outcome.TOO_FEW}
    for _ in range(99):
        ward.judged()
    assert standing(ward.facts)["DISAGREEMENT", None].outcome is Outcome.TOO_FEW
    ward.judged()
    assert standing(ward.facts)["DISAGREEMENT", None].outcome is Outcome.OK


def test_missed_and_false_apart() -> None:
    """Missed findings and false positives have charts of their own; without a baseline they are TOO_FEW for ever."""
    ward = Ward()
    for _ in range(7):
        ward.judged("REJECT", reasons=("MISSED_FINDING",))
    found = standing(ward.facts)
    assert said(ward.facts) == [("MISSED_FINDING", None, Outcome.SUSPEND)]
    assert found["FALSE_POSITIVE", None].value == "0.000000"
    for _ in range(200):
        ward.judged()
    none = standing(ward.facts, plan(missed_p0=None, missed_p1=None))["MISSED_FINDING", None]
    assert (none.value, none.limit, none.outcome) == (None, None, Outcome.TOO_FEW)


def test_what_counts_as_disagreement() -> None:
    """Insignificant changes do not; results that were not used leave the denominator, and are counted apart."""
    ward = Ward()
    for _ in range(20):
        ward.judged("MODIFY", significant=False)
    assert said(ward.facts) == []
    for _ in range(20):
        ward.judged("NOT_USED")
    found = standing(ward.facts)
    assert found["DISAGREEMENT", None].n == 20
    assert found["NOT_USED", None].value == "0.500000"
    ward.judged("NOT_USED")
    assert said(ward.facts) == [("NOT_USED", None, Outcome.ALERT)]


def test_later_decisions_only_tighten() -> None:
    """A second decision on a call counts if it is worse, and never takes a disagreement back."""
    ward = Ward()
    call = ward.judged("REJECT")
    ward.decision(call, "ACCEPT")
    assert standing(ward.facts)["DISAGREEMENT", None].n == 1
    call = ward.judged("ACCEPT")
    ward.decision(call, "REJECT")
    ward.decision(call, "REJECT")
    reading = standing(ward.facts)["DISAGREEMENT", None]
    assert (reading.n, reading.value) == (3, "1.320336")  # up, down, up


def test_strangers_do_not_count() -> None:
    """Decisions on calls of other models, of an earlier epoch or of none change nothing."""
    ward = Ward()
    old = ward.call()
    ward.put(What.EPOCH, model=MODEL.digest)
    other = "f" * 32
    ward.put(What.INTENT, model=OTHER_MODEL, call=other)
    for call in (old, other, "d" * 32) * 30:
        ward.decision(call, "REJECT")
        ward.failure(call)
    assert said(ward.facts) == []
    assert standing(ward.facts)["DISAGREEMENT", None].n == 0


@pytest.mark.parametrize(("fine", "wanted"), [(195, ["FAILURE_RATE"]), (198, []), (0, ["FAILURES_IN_A_ROW"])], ids=str)
def test_failures(fine: int, wanted: list[str]) -> None:
    """Five failures in 200 calls are more than 2 %, also before there are 200; spread over more they are not."""
    ward = Ward()
    for _ in range(4):
        ward.failure(ward.call())
    for _ in range(fine):
        ward.result(ward.call())
    ward.failure(ward.call())
    assert [metric for metric, _, _ in said(ward.facts) if metric in wanted] == wanted
    if fine == 198:
        assert said(ward.facts) == []


def test_a_call_fails_once() -> None:
    """A failure that is reported again, or after a result, is one failure of one call."""
    ward = Ward()
    call = ward.call()
    ward.result(call)
    ward.failure(call)
    ward.failure(call)
    ward.result(call)
    reading = standing(ward.facts)["FAILURE_RATE", None]
    assert (reading.n, reading.value) == (2, "0.500000")


@pytest.mark.parametrize(("late", "wanted"), [(10, []), (11, [("DEADLINE_MISSED", None, Outcome.SUSPEND)])], ids=str)
def test_deadlines(late: int, wanted: list[object]) -> None:
    """More than 5 % of the last 200 calls over the deadline suspends; other failures do not count as that."""
    ward, loose = Ward(), plan(failure_rate="0.5")
    for number in range(200):
        call = ward.call()
        if number % 17 == 0 and number < late * 17:
            ward.failure(call, "DEADLINE_EXCEEDED")
        elif number % 17 == 1:
            ward.failure(call, "ENGINE_DIED")
        else:
            ward.result(call)
    assert said(ward.facts, loose) == wanted


def gapped(women_bad: float, calls: int, *, men_bad: float = 0.02, seed: int = 3) -> Ward:
    """Calls for women and men in turn, of whom such shares are disagreed with."""
    rng, ward = random.Random(seed), Ward()
    for number in range(calls):
        sex = "FM"[number % 2]
        ward.judged("REJECT" if rng.random() < (women_bad, men_bad)[number % 2] else "ACCEPT", sex=sex)
    return ward


@pytest.mark.parametrize(("on_breach", "first"), [("RESTRICT", Outcome.RESTRICT), ("SUSPEND", Outcome.SUSPEND)])
def test_subgroup_gap(on_breach: str, first: Outcome) -> None:
    """A group that is surely worse by more than the limit is cut off, or the model suspended, as the approval says."""
    calm = {"disagree_p0": "0.4", "disagree_p1": "0.8"}
    found = [one for one in evaluate(plan(on_breach, **calm), gapped(0.4, 1_200).facts) if SEVERITY[one.outcome]]
    gaps = [one for one in found if one.reading.metric == "SUBGROUP_GAP"]
    assert [(one.reading.subgroup, one.outcome) for one in gaps] == [("SEX:F", first)]
    assert cut_off(gaps[0].reading) == (("SEX", "F") if first is Outcome.RESTRICT else None)
    assert gaps[0].reading.n % 100 == 0


def test_second_gap_suspends() -> None:
    """After one group was cut off, a second one that is surely worse suspends the model."""
    rng, ward = random.Random(4), Ward()
    for number in range(1_600):
        age = ("30-34", "60-64", "90+")[number % 3]
        share = {"30-34": 0.02, "60-64": 0.6, "90+": 0.3}[age]
        ward.judged("REJECT" if rng.random() < share else "ACCEPT", sex="F", age=age)
    found = evaluate(plan(disagree_p0="0.6", disagree_p1="0.9"), ward.facts)
    gaps = [one.outcome for one in found if one.reading.metric == "SUBGROUP_GAP" and SEVERITY[one.outcome]]
    assert gaps == [Outcome.RESTRICT, Outcome.SUSPEND]


def test_gap_wants_a_hundred() -> None:
    """With 99 in a group, or beside it, there is no gap to see, however large."""
    ward = Ward()
    for _ in range(99):
        ward.judged("REJECT", sex="M")
    for _ in range(300):
        ward.judged(sex="F")
    found = standing(ward.facts, plan(disagree_p0="0.6", disagree_p1="0.9"))
    assert {found["SUBGROUP_GAP", f"SEX:{sex}"].outcome for sex in "FM"} == {Outcome.TOO_FEW}


def test_seen_gap_only_warns() -> None:
    """A gap that is seen but not sure warns: 14 of 100 against 2 of 100."""
    ward = Ward()
    for number in range(100):
        ward.judged("REJECT" if number % 50 == 0 else "ACCEPT", sex="M")
        ward.judged("REJECT" if number % 7 == 0 and number < 98 else "ACCEPT", sex="F")
    found = said(ward.facts, plan(disagree_p0="0.3", disagree_p1="0.6"))
    assert found == [("SUBGROUP_GAP_SEEN", "SEX:F", Outcome.ALERT)]


@pytest.mark.slow
def test_gap_errs_seldom() -> None:
    """Where the gap is exactly what is allowed, fewer than 2.5 % of wards are ever acted upon, in 2,000 calls each."""
    wrong, wards = 0, 400
    for seed in range(wards):
        rng, gaps = random.Random(seed), Gaps(plan().subgroup_gap, restrict_first=True)
        for number in range(2_000):
            sex = "FM"[number % 2]
            gaps.add(number + 1, number, (("SEX", sex),), event=rng.random() < (0.16 if sex == "F" else 0.06))
        wrong += bool(gaps.cut) or gaps.suspended
    assert wrong / wards <= 0.025


# T2: warnings.


def test_latency() -> None:
    """More than 5 % of the last 200 results beyond the limit warns; 199 results are too few."""
    for slow, calls, wanted in ((10, 200, Outcome.OK), (11, 200, Outcome.ALERT), (150, 199, Outcome.TOO_FEW)):
        ward = Ward()
        for number in range(calls):
            call = ward.call()
            ward.minute += 2.001 if number < slow else 2.0
            ward.result(call)
        assert standing(ward.facts)["LATENCY_P95", None].outcome is wanted


def test_readers() -> None:
    """A reader who accepts all, and one who accepts in under three seconds, are shown without a name."""
    assert honest_run(plan().disagree.p0) == 75
    ward = Ward()
    for _ in range(75):
        ward.judged(reader="123456789012" + "a" * 20, seconds=30)
    assert said(ward.facts) == [("ACCEPT_ALL", "reader:hijklmnopghi" + "a" * 20, Outcome.ALERT)]
    ward = Ward()
    for _ in range(11):
        ward.judged(reader="b" * 32, seconds=2)
        ward.judged("REJECT", significant=False, reader="b" * 32, seconds=2)
    assert said(ward.facts) == [("FAST_ACCEPT", "reader:" + "b" * 32, Outcome.ALERT)]


def test_denied() -> None:
    """More than 10 % refused for the conditions warns; refusals for a suspended model are another matter."""
    ward = Ward()
    for number in range(200):
        if number % 9 == 0 and number < 189:
            ward.put(What.DENIED, model=MODEL.digest, code="ATTRIBUTE_UNKNOWN")
        elif number % 3 == 1:
            ward.put(What.DENIED, model=MODEL.digest, code="MODEL_SUSPENDED")
        else:
            ward.call()
    assert said(ward.facts) == [("CONDITION_DENIED", None, Outcome.ALERT)]


def test_warnings_come_once_a_day() -> None:
    """A warning that comes and goes is said once in a civil day (UTC+8), and all of it at the day's end."""
    ward = Ward()
    for _ in range(21):
        ward.judged("NOT_USED")
    for _ in range(250):
        ward.judged()
    found = [one.reading for one in evaluate(plan(), ward.facts) if one.reading.metric == "NOT_USED"]
    days = {(fact.time_us + 8 * 3_600_000_000) // 86_400_000_000 for fact in ward.facts}
    assert [reading.outcome for reading in found].count(Outcome.ALERT) <= len(days) + 1
    assert len(found) <= 2 * len(days)
    assert len(days) >= 2


def test_warnings_come_again() -> None:
    """A warning that still holds on the next day is said again at the first call that adds to it."""
    ward = Ward()
    for _ in range(22):
        ward.judged("NOT_USED")
    ward.minute += 24 * 60
    ward.judged("NOT_USED")
    assert [n for n, _, _ in said(ward.facts)].count("NOT_USED") == 3  # at 21, at the day's end with 22, at 23


def test_suspension_is_said_once() -> None:
    """What has suspended is not said again on later days: the chart stands where it signalled."""
    ward = Ward()
    for _ in range(9):
        ward.judged("REJECT")
    for _ in range(3):
        ward.minute += 24 * 60
        ward.judged("REJECT")
    assert [n for n, _, _ in said(ward.facts)].count("DISAGREEMENT") == 1


def test_suspended_models_are_not_out_of_scope() -> None:
    """Refusals because the model is suspended say nothing about its conditions."""
    ward = Ward()
    for _ in range(200):
        ward.put(What.DENIED, model=MODEL.digest, code="MODEL_SUSPENDED")
    assert said(ward.facts) == []


def test_days_are_counted_apart() -> None:
    """What fell due is counted by civil day; a clock that goes back and forth makes no new day."""
    ward = Ward()
    for _ in range(2):
        ward.judged()
        ward.minute += 2 * 24 * 60
    ward.put(What.HEARTBEAT, boot="a" * 32, tick_us=0)
    assert standing(ward.facts)["DECISION_OVERDUE", None].n == 1
    for back in (-2, 2):
        ward.minute += back * 24 * 60
        ward.put(What.HEARTBEAT, boot="a" * 32, tick_us=0)
    assert standing(ward.facts)["DECISION_OVERDUE", None].n == 1


def test_epoch() -> None:
    """A model that is back begins anew; where it stood is said once more before."""
    ward = Ward()
    for _ in range(9):
        ward.judged("REJECT")
    ward.put(What.EPOCH, model=OTHER_MODEL)
    assert standing(ward.facts)["DISAGREEMENT", None].outcome is Outcome.SUSPEND
    ward.put(What.EPOCH, model=MODEL.digest)
    assert standing(ward.facts)["DISAGREEMENT", None].n == 0
    before = {one.reading.metric: one.reading.n for one in evaluate(plan(), ward.facts)}
    assert before["FALSE_POSITIVE"] == before["FAILURE_RATE"] == 9


@pytest.mark.slow
def test_constant_memory() -> None:
    """After thousands of calls the state is no larger than after hundreds but for what is bounded by name."""
    few, many = Monitor(plan()), Monitor(plan())
    for monitor, calls in ((few, 3_000), (many, 12_000)):
        ward = Ward()
        for _ in range(calls):
            ward.judged(reader="c" * 32)
        for fact in ward.facts:
            monitor.feed(fact)
    sizes = [len(json.dumps(one.state()["charts"])) for one in (few, many)]
    assert sizes[1] < sizes[0] * 1.2
    assert len(many.calls) == 10_000


def test_another_approval_judges_anew() -> None:
    """Under a renewed approval the charts begin again with its thresholds and its id; what is overdue stays so."""
    ward, monitor = Ward(), Monitor(plan(human_decision_h=1))
    for _ in range(20):
        ward.judged("REJECT")
    undecided = ward.call()
    ward.result(undecided)
    ward.put(What.RELEASED, call=undecided)
    for fact in ward.facts:
        monitor.feed(fact)
    assert "DISAGREEMENT" in {e.reading.metric for e in monitor.standing() if e.outcome is Outcome.SUSPEND}

    renewed = monitor.under(Plan.of(MODEL, {**MONITOR, "cusum_h": "9"}, "SUSPEND", "TEST-2026-0002"))  # type: ignore[dict-item]
    ward.facts.clear()
    ward.minute += 90
    ward.judged("REJECT")
    found = [one for fact in ward.facts for one in renewed.feed(fact)]

    assert {(e.reading.metric, e.outcome, e.approval) for e in found} == {
        ("DECISION_OVERDUE", Outcome.ALERT, "TEST-2026-0002")
    }
    disagree = next(e.reading for e in renewed.standing() if e.reading.metric == "DISAGREEMENT")
    assert (disagree.n, disagree.limit, disagree.outcome) == (1, "9.000000", Outcome.TOO_FEW)
    with pytest.raises(RequestInvalid):
        monitor.under(Plan.of(ModelRef("brain", "2", OTHER_MODEL), MONITOR, "SUSPEND"))  # type: ignore[arg-type]
