"""What the site knows when it asks: where and how it uses AI, what it fulfils, who opted out, how often it ran."""

from collections.abc import Callable, Iterator
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Any, get_args

import pytest

from audit.entry import Draft, Entry, Kind
from audit.ticket import Proviso
from dicom_bridge.patient import Patient
from ethics_review.opt_out import Choice, OptOuts
from ethics_review.states import Cause, Event
from ethics_review.states import State as Standing
from ethics_review.vocabulary import CARE_SETTINGS, READING_MODES
from models.library import Library
from service.config import Config
from service.keys import Pseudonyms
from service.permitting import Evidence, Practice, names_of_images, names_to_write
from service.pipeline import Step
from service.sections import Review
from service.store import State
from tests.simulators.audit_log import body
from tests.simulators.parties import D1, Case
from tests.simulators.reviewer import DURING
from tests.simulators.story import PATIENT, World, install

pytestmark = pytest.mark.timeout(30)

LAST = date(2026, 12, 15)
"""The civil day of DURING."""
MIDNIGHT = datetime(2026, 12, 15, 16, 0, tzinfo=UTC)
"""When it ends, in UTC+8."""
AFTER = DURING + timedelta(days=400)
"""When no approval of these is in force any more."""


@pytest.fixture(scope="module")
def library(tmp_path_factory: pytest.TempPathFactory) -> Library:
    """The small model, installed once."""
    return install(tmp_path_factory.mktemp("models"))


@pytest.fixture
def world(tmp_path: Path, library: Library) -> Iterator[World]:
    """A world whose reviewer has approved nothing yet."""
    made = World(tmp_path, library)
    yield made
    made.close()


def ended(world: World, number: int = 1) -> tuple[State, str | None, str | None, str | None]:
    """A new run told to its end: state, code, condition, observed."""
    run = world.run(digest=str(number))
    world.tell(run)
    shown = world.store.get(run.run_id)
    return shown.state, shown.code, shown.condition, shown.observed


def opt_out(world: World, patient: Patient, choice: Choice = Choice.OPTED_OUT) -> None:
    """As the command does."""
    for name in names_to_write(world.pseudonyms, patient):
        draft = OptOuts(world.log.entries()).draft(name, choice)
        if draft is not None:
            world.log.append(draft)


# ---- what the configuration says -------------------------------------------------------------------------------------


def test_the_configuration_knows_the_vocabularys_words() -> None:
    """A site can say exactly what an approval can ask for."""
    fields = Review.model_fields
    assert set(get_args(get_args(fields["care_setting"].annotation)[0])) == set(CARE_SETTINGS)
    assert set(get_args(get_args(fields["reading_mode"].annotation)[0])) == set(READING_MODES)


def test_the_practice_is_the_configurations() -> None:
    """Nothing is added, and what is not said is None."""
    said: dict[str, Any] = {"care_setting": "ED", "evidence": [{"token": "pia:P-1", "until": "2026-12-15"}]}
    practice = Practice.of(Config(review=said, site={"id": "a-site"}))  # type: ignore[arg-type]
    assert practice == Practice("a-site", "A1", "ED", None, (Evidence("pia:P-1", LAST),))


@pytest.mark.parametrize(
    ("at", "held"),
    [(MIDNIGHT - timedelta(microseconds=1), True), (MIDNIGHT, False), (MIDNIGHT + timedelta(days=400), False)],
)
def test_expired_evidence_is_no_evidence(at: datetime, held: bool) -> None:
    """The last day counts whole, in civil time of China; a rule without an end stays; the check is always there."""
    practice = Practice("s", "A1", None, None, (Evidence("pia:P-1", LAST), Evidence("minors:R-1", None)))
    assert practice.fulfilled(at) == {"minors:R-1", "opt_out_check"} | ({"pia:P-1"} if held else set())


def test_evidence_that_ends_ends_the_calls(world: World) -> None:
    """On the day after, the same study is refused by name; a clock that is set back does not bring it back."""
    world.evidence = (Evidence("pia:PIA-2026-03", LAST),)
    world.approve()
    assert ended(world)[0] is State.WRITTEN
    world.clock.at = MIDNIGHT
    assert ended(world, 2)[:3] == (State.REFUSED, "REQUIREMENT_NOT_MET", "REQUIRE")
    world.clock.at = DURING
    assert ended(world, 3)[1] == "REQUIREMENT_NOT_MET"


@pytest.mark.parametrize(("setting", "code"), [("ED", "CONDITION_NOT_MET"), (None, "ATTRIBUTE_UNKNOWN")])
def test_the_care_setting_is_the_sites(world: World, setting: str | None, code: str) -> None:
    """Another setting than the approved ones is refused, and so is a site that does not say."""
    world.care_setting = setting
    world.approve()
    assert ended(world)[:3] == (State.REFUSED, code, "CARE_SETTING")


# ---- opt-out ---------------------------------------------------------------------------------------------------------


def test_who_opted_out_is_not_read(world: World) -> None:
    """From the entry on the patient's studies are refused before a model is loaded; a withdrawal ends that."""
    world.approve()
    opt_out(world, Patient(PATIENT, ""))
    assert ended(world) == (State.REFUSED, "OPTED_OUT", "OPT_OUT", "OPTED_OUT")
    assert world.engine._warm == set()
    opt_out(world, Patient(PATIENT, ""), Choice.WITHDRAWN)
    assert ended(world, 2)[0] is State.WRITTEN


def test_anothers_opt_out_is_not_this_patients(world: World) -> None:
    """Names of patients do not touch."""
    world.approve()
    opt_out(world, Patient("TEST-0002", ""))
    assert ended(world)[0] is State.WRITTEN


def test_images_that_do_not_say_whose_they_are_are_refused_where_that_is_asked(world: World) -> None:
    """Not knowing is not consent, as far as the approval asks."""
    world.reading.who = None
    world.approve()
    assert ended(world)[1:] == ("REQUIREMENT_NOT_MET", "REQUIRE", "opt_out_check")
    world.approve(2, conditions={"require": []})
    assert ended(world, 2)[0] is State.WRITTEN


@pytest.mark.parametrize("said", ["", "HOSPITAL-A", "HOSPITAL-B"])
@pytest.mark.parametrize("images", ["", "HOSPITAL-A", "HOSPITAL-B"])
def test_an_opt_out_is_never_missed_for_want_of_an_issuer(said: str, images: str) -> None:
    """An id without an issuer, on either side, is taken for the same patient's; two that differ are two patients."""
    names = Pseudonyms(b"k" * 32)
    met = set(names_to_write(names, Patient("TEST-1", said))) & set(names_of_images(names, Patient("TEST-1", images)))
    assert bool(met) is (said == images or "" in (said, images))
    assert not set(names_to_write(names, Patient("TEST-2", said))) & set(
        names_of_images(names, Patient("TEST-1", images))
    )


def test_the_name_is_no_other_name_of_the_patient(world: World) -> None:
    """The log's opt-out names nobody: it differs from the names in calls, and holds no id."""
    world.approve()
    facts = world.tell(world.run(), until=Step.PERMITTED)
    opt_out(world, Patient(PATIENT, ""))
    said = next(one for one in world.log.entries() if one.kind is Kind.OPT_OUT)
    assert said.body["patient"] not in (facts["patient"], world.pseudonyms.of("patient", PATIENT, ""))
    assert PATIENT.encode() not in said.to_bytes()


# ---- the day's calls -------------------------------------------------------------------------------------------------


def test_the_days_limit_is_kept_and_ends_with_the_day(world: World) -> None:
    """Two calls a day: the third is refused and told, and the first of the next civil day runs."""
    world.approve(conditions={"max_calls_day": 2})
    assert [ended(world, number)[0] for number in (1, 2)] == [State.WRITTEN] * 2
    assert ended(world, 3) == (State.REFUSED, "CALLS_EXHAUSTED", "MAX_CALLS_DAY", "2 of 2")
    world.clock.at = MIDNIGHT
    assert ended(world, 4)[0] is State.WRITTEN


def test_a_call_that_is_taken_up_after_a_crash_is_not_counted_against_itself(world: World) -> None:
    """The last call of the day's limit ends as it began, whatever dies between its steps."""
    world.approve(conditions={"max_calls_day": 1})
    run = world.run()
    world.tell(run, crash=True)
    assert world.store.get(run.run_id).state is State.WRITTEN


def test_of_two_at_once_one_is_the_last(world: World) -> None:
    """While the model is loaded for one study another takes the day's last call: the first is refused then."""
    world.approve(conditions={"max_calls_day": 1})
    warm = world.engine.warm
    overtaken: list[tuple[Any, ...]] = []

    def slow(model: Any) -> None:
        warm(model)
        world.engine.warm = warm  # type: ignore[method-assign]
        overtaken.append(ended(world, 2))

    world.engine.warm = slow  # type: ignore[method-assign]
    assert ended(world)[1] == "CALLS_EXHAUSTED"
    assert [one[0] for one in overtaken] == [State.WRITTEN]
    assert world.kinds().count("CALL_INTENT") == 1


def test_nobody_is_counted_between_an_answer_and_its_entry(world: World) -> None:
    """From the gate's last answer until the intent is in the log no other call is asked for."""
    world.approve()
    pipeline = world.pipeline()
    append = world.log.append
    held: list[bool] = []

    def watched(draft: Draft, proviso: Proviso | None = None) -> Entry:
        if draft.kind is Kind.CALL_INTENT:
            held.append(pipeline._permitting._one_call.locked())
        return append(draft, proviso)

    world.log.append = watched  # type: ignore[method-assign]
    facts: dict[str, Any] = {}
    for step in (Step.ASSEMBLED, Step.SELECTED, Step.PERMITTED):
        facts = pipeline.act(step, world.run().run_id, facts)
    assert held == [True]
    assert not pipeline._permitting._one_call.locked()


def test_a_call_that_is_asked_again_is_one_entry(world: World) -> None:
    """Other calls of the day in between do not change what the intent says: same call, same entry."""
    world.approve()
    run = world.run()
    facts = world.tell(run, until=Step.SELECTED)
    world.pipeline().act(Step.PERMITTED, run.run_id, facts)
    ended(world, 2)
    world.pipeline().act(Step.PERMITTED, run.run_id, facts)
    calls = [entry.call for entry in world.entries(Kind.CALL_INTENT)]
    assert calls.count(facts["call"]) == 1


def drafts(entries: list[Entry]) -> list[Draft]:
    """Their contents."""
    return [Draft(one.kind, one.key, dict(one.body), one.call) for one in entries]


def test_what_was_permitted_is_what_was_asked_last(world: World) -> None:
    """The permit that runs is the one in the log: its checks are the entry's."""
    world.approve()
    run = world.run()
    pipeline = world.pipeline()
    facts: dict[str, Any] = {}
    for step in (Step.ASSEMBLED, Step.SELECTED, Step.PERMITTED):
        facts = pipeline.act(step, run.run_id, facts)
    permit = pipeline._permits[run.run_id]
    logged = drafts(world.entries(Kind.CALL_INTENT))[0].body
    assert logged["policy"] == permit.policy
    assert [dict(one) for one in logged["checks"]] == [  # type: ignore[union-attr, call-overload, arg-type]
        {"condition": one.condition, "outcome": one.outcome, "observed": one.observed} for one in permit.checks
    ]


# ---- what comes between the gate's answer and the log ----------------------------------------------------------------


def case_of(world: World) -> Case:
    """The dossier of the one model, for its people."""
    return Case(world.parties, world.register, world.log.inner, world.library.find("small-model"))


def evaluation(world: World) -> Entry:
    """The monitor asks for a suspension, which has not come."""
    ref = world.library.find("small-model")
    return world.log.inner.append(
        Draft(
            Kind.EVALUATION,
            "evaluation:1",
            body(Kind.EVALUATION)
            | {
                "model": {"name": ref.name, "version": ref.version, "digest": ref.digest},
                "outcome": "SUSPEND",
                "tier": "T1",
                "metric": "DISAGREEMENT",
                "first": 0,
                "last": world.log.inner.head().size - 1,
            },
        )
    )


OVERTAKEN: dict[str, tuple[Callable[[World], object], str]] = {
    "the service is stopped": (lambda world: case_of(world).switch("STOP", "reader", reason="OPERATOR"), "STOPPED"),
    "the site is stopped": (
        lambda world: case_of(world).switch("STOP", "reader", level="SITE", site="test-site", reason="OPERATOR"),
        "STOPPED",
    ),
    "a reader suspends it": (lambda world: case_of(world).suspend(), "SUSPENDED"),
    "the monitor suspends it": (
        lambda world: world.register.suspend(world.library.find("small-model"), Cause.HARM, None),
        "SUSPENDED",
    ),
    "the monitor asks for it": (evaluation, "SUSPENDED"),
    "it is retired": (
        lambda world: case_of(world).do(Event.RETIRE, Standing.RETIRED, "owner", "safety", statement={"archive": D1}),
        "RETIRED",
    ),
    "its class is cut off": (
        lambda world: world.register.restrict(world.library.find("small-model"), "SEX", "F", None),
        "SUBGROUP_CUT_OFF",
    ),
    "the patient opts out": (lambda world: opt_out(world, Patient(PATIENT, "")), "OPTED_OUT"),
    "its approval ends": (lambda world: setattr(world.clock, "at", AFTER), "SUSPENDED"),
}


@pytest.mark.parametrize("what", OVERTAKEN)
def test_who_stops_before_the_intent_is_logged_stops_the_call(world: World, what: str) -> None:
    """Between the gate's answer and the commit of the intent: no intent, no run of the model, the code of what came."""
    happens, code = OVERTAKEN[what]
    world.approve()
    world.log.before = (Kind.CALL_INTENT, lambda: happens(world))
    assert ended(world)[:2] == (State.REFUSED, code)
    assert world.log.before is None, "it never came to an intent"
    assert [entry.kind for entry in world.entries(Kind.CALL_INTENT, Kind.CALL_RESULT, Kind.DENIED)] == [Kind.DENIED]


def test_who_resumes_before_the_refusal_is_logged_lets_the_call_through(world: World) -> None:
    """The other way round: no refusal stands in the log that was none any more when it was logged."""
    world.approve()
    case_of(world).switch("STOP", "reader", reason="OPERATOR")
    world.log.before = (Kind.DENIED, lambda: case_of(world).switch("RESUME", "owner", "safety", reason="OPERATOR"))
    assert ended(world)[0] is State.WRITTEN
    assert world.entries(Kind.DENIED) == []


def test_what_does_not_change_the_answer_does_not_hold_it_up(world: World) -> None:
    """Heartbeats and the calls of others come between all the time."""
    world.approve()
    beat = Draft(Kind.HEARTBEAT, "heartbeat:1", body(Kind.HEARTBEAT))
    world.log.before = (Kind.CALL_INTENT, lambda: world.log.inner.append(beat))
    assert ended(world)[0] is State.WRITTEN


def test_a_refusal_is_one_entry(world: World) -> None:
    """It is logged where the gate refuses, and again where the run ends: the same entry."""
    assert ended(world)[:2] == (State.REFUSED, "NO_APPROVAL")
    assert len(world.entries(Kind.DENIED)) == 1
