"""The story: each step logs before the next one starts, may be repeated, and ends in a code that a person can see."""

from collections.abc import Callable, Iterator
from dataclasses import replace
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy.exc import OperationalError

from audit.entry import Kind
from audit.errors import AuditCorrupt
from dicom_bridge.delivery import Leave
from dicom_bridge.errors import VolumeRefused
from dicom_bridge.ledger import OutboxUnavailable
from dicom_bridge.validity import OutputInvalid
from ethics_review import states as review
from ethics_review.register import Register
from ethics_review.standing import Standing
from inference.errors import EngineDied, EngineTimeout, ModelFailed
from inference.types import FailedOutput
from models.errors import ModelNotFound
from models.library import Library
from models.ref import ModelRef
from service.errors import InputSuperseded, NothingFits
from service.permitting import Facts
from service.pipeline import BEFORE_THE_MODEL, Step
from service.stopping import Halt
from service.store import RETRYABLE, Run, State, Store
from tests.simulators import small_model, story
from tests.simulators.reviewer import DURING
from tests.simulators.story import PACS, SERIES, STUDY, World, install, loaded

pytestmark = pytest.mark.timeout(30)  # a step that is asked again for ever must fail, not hang

WHOLE = ["ASSEMBLED", "SELECTED", "CALL_INTENT", "CALL_RESULT"]
SECRET = "ZHANG^SAN 19600101 1.2.840.1.2.3.4.5"
LOGGING = [Step.ASSEMBLED, Step.SELECTED, Step.PERMITTED, Step.WRITTEN]
"""The steps that write an entry when all goes well."""


@pytest.fixture(scope="module")
def library(tmp_path_factory: pytest.TempPathFactory) -> Library:
    """The small model, installed once; tests that change it install their own."""
    return install(tmp_path_factory.mktemp("models"))


@pytest.fixture
def world(tmp_path: Path, library: Library) -> Iterator[World]:
    """A world whose reviewer has approved the model."""
    made = World(tmp_path, library)
    made.approve()
    yield made
    made.close()


def test_another_volume_is_another_call(world: World) -> None:
    """The volume that was chosen is the one that every step reads, and its call is not that of another volume."""
    run = world.run()
    world.reading.part = "B_VALUE=0"
    first = world.tell(run)
    world.reading.part = "B_VALUE=1000"

    second = world.tell(world.run(2))

    assert (first["part"], second["part"]) == ("B_VALUE=0", "B_VALUE=1000")
    assert world.store.get(run.run_id).state is State.WRITTEN
    assert first["call"] != second["call"]


def test_the_rule_that_chose_is_shown(world: World) -> None:
    """The site's rule stands in the table of runs; nothing where the manifests decided."""
    for rule, shown in (("brain-of-scanner-2", "brain-of-scanner-2"), ("", None)):
        world.reading.rule = rule
        run = world.run(digest="1" if rule else "2")
        world.tell(run, until=Step.SELECTED)
        assert world.store.get(run.run_id).rule == shown


# ---- when all goes well ---------------------------------------------------------------------------------------------


def test_a_study_goes_through_all_steps(world: World) -> None:
    """One run leaves one entry of each kind, in the story's order, and a batch in the outbox."""
    run = world.run()

    facts = world.tell(run)

    shown = world.store.get(run.run_id)
    assert world.kinds() == WHOLE
    assert (shown.state, shown.code, shown.series_uid) == (State.WRITTEN, None, SERIES)
    assert shown.call == facts["call"]
    assert shown.approval == "TEST-2026-0001"
    assert shown.measurements == [{"code": "118565006", "value": "0.008", "unit": "cm3"}]
    assert world.outbox.batches == {facts["call"]: (PACS, tuple(world.results.files(facts["call"])))}


def test_an_entry_is_in_the_log_before_its_step_is_over(world: World) -> None:
    """Each entry is written between the beginning and the end of its own step (I4)."""
    world.tell(world.run())

    logged = {Step.ASSEMBLED: "ASSEMBLED", Step.SELECTED: "SELECTED", Step.PERMITTED: "CALL_INTENT"}
    logged[Step.WRITTEN] = "CALL_RESULT"
    wanted = []
    for step in Step:
        entry = [(logged[step], "logged")] if step in logged else []
        wanted += [(step.value, "before"), *entry, (step.value, "after")]
    assert world.seen == wanted


def test_the_table_shows_a_step_only_after_its_entry(world: World) -> None:
    """Durable, logged, shown, in this order: of a step that the log refuses nothing is shown but the failure (I2)."""
    run = world.run()
    world.tell(run, until=Step.ASSEMBLED)
    world.log.broken = AuditCorrupt("head", "invented for this test")

    with pytest.raises(AuditCorrupt):
        world.pipeline().act(Step.SELECTED, run.run_id, {"study": "5" * 32, "committed": "6" * 32})

    shown = world.store.get(run.run_id)
    assert (shown.state, shown.stage, shown.code) == (State.FAILED, "SELECTED", "AUDIT_CORRUPT")
    assert shown.model is None


def test_the_assembled_entry_counts_and_names_nothing(world: World) -> None:
    """ASSEMBLED holds numbers, the trigger and pseudonyms of study and input."""
    world.tell(world.run(), until=Step.ASSEMBLED)

    body = world.entries(Kind.ASSEMBLED)[0].body
    assert (body["instances"], body["series"], body["trigger"]) == (3, 2, "COUNT_MATCHED")
    assert body["study"] == world.names.of("study", STUDY)
    assert body["input"] == world.names.of("input", STUDY, "sha256:" + "0" * 64)


def test_no_identifier_reaches_the_log(world: World) -> None:
    """Study and series UIDs appear as keyed pseudonyms only (I5)."""
    world.tell(world.run())

    text = b"".join(entry.to_bytes() for entry in world.log.entries()).decode()
    assert STUDY not in text
    assert "1.2.840.99999" not in text


def test_the_intent_names_what_will_run(world: World) -> None:
    """CALL_INTENT holds model, approval, checks and the warmed device before a voxel is seen."""
    run = world.run()

    facts = world.tell(run, until=Step.PERMITTED)

    entry = world.entries(Kind.CALL_INTENT)[0]
    assert entry.call == facts["call"]
    assert entry.body["runtime"] == {"device": "cpu", "torch": "2.13.0", "monai": "1.6.1"}
    assert entry.body["approval"] == "TEST-2026-0001"
    assert entry.body["autonomy"] == "A1"
    assert entry.body["state"] == "LIVE"
    assert len(entry.body["checks"]) == 16  # type: ignore[arg-type]
    assert facts["intended_at"] == entry.time
    assert world.engine.inferred == 0


def test_the_call_names_model_and_input_exactly(tmp_path: Path, world: World) -> None:
    """Same study, input and model: same call; another input or another model: another call (I6)."""
    once = world.run()
    first = world.tell(once, until=Step.SELECTED)["call"]
    world.store.update(once.run_id, world.clock(), state=State.FAILED)
    again = world.tell(world.run(2), until=Step.SELECTED)["call"]
    late = world.tell(world.run(digest="1"), until=Step.SELECTED)["call"]
    world.library = install(tmp_path, version="2.0")
    other = world.tell(world.run(3), until=Step.SELECTED)["call"]

    assert first == again
    assert len({first, late, other}) == 3


def test_facts_are_plain_json(world: World) -> None:
    """The workflow engine stores what a step hands on: strings, whole numbers, null, lists and maps, nothing else."""

    def plain(value: Any) -> bool:
        if isinstance(value, dict):
            return all(isinstance(key, str) and plain(inner) for key, inner in value.items())
        return (
            all(plain(inner) for inner in value) if isinstance(value, list) else type(value) in (str, int, type(None))
        )

    facts = world.tell(world.run())

    assert set(facts) >= {"study", "committed", "series", "model", "call", "approval", "intended_at", "outputs"}
    assert plain(facts)


def test_durations_of_all_steps_are_shown(world: World) -> None:
    """When the story is told, the run shows how long each step took."""
    run = world.run()

    world.tell(run)

    assert set(world.store.get(run.run_id).steps_ms) == {step.value for step in Step}


def test_nothing_is_kept_of_a_run_that_is_over(world: World) -> None:
    """Volumes and permits are let go of at the end, told or refused."""
    told, refused = world.run(), world.run(digest="1")
    world.tell(told)
    world.reading.broken["choose"] = NothingFits("MODALITY")

    world.tell(refused)

    assert world.reading.forgotten == [told.run_id, refused.run_id]


def test_without_a_destination_results_are_made_and_kept(world: World) -> None:
    """results.to unset: the call is logged and the run stays WRITTEN, and nothing is sent (I8)."""
    world.peer = None
    run = world.run()

    facts = world.tell(run)

    assert "ended" not in facts
    assert world.store.get(run.run_id).state is State.WRITTEN
    assert world.outbox.batches == {}
    assert world.kinds() == WHOLE


# ---- refused before the model ---------------------------------------------------------------------------------------

Spoil = Callable[[World], None]


def _breaks(method: str, error: Exception) -> Spoil:
    return lambda world: world.reading.broken.__setitem__(method, error)


def _reads(**options: Any) -> Spoil:
    def spoil(world: World) -> None:
        world.reading.series_of = lambda run: loaded(digest=run.input_digest, **options)

    return spoil


REFUSALS = [
    ("ASSEMBLED", "INPUT_SUPERSEDED", None, _breaks("instances", InputSuperseded("more came"))),
    ("SELECTED", "NO_MODEL_FITS", "BODY_PART", _breaks("choose", NothingFits("BODY_PART"))),
    ("SELECTED", "NO_MODEL_FITS", "NO_MODEL_OR_NO_SERIES", _breaks("choose", NothingFits("NO_MODEL_OR_NO_SERIES"))),
    ("SELECTED", "MODEL_NOT_FOUND", None, _breaks("choose", ModelNotFound("none"))),
    ("PERMITTED", "SLICE_MISSING", None, _breaks("series", VolumeRefused("SLICE_MISSING", "one gap"))),
    ("PERMITTED", "TOO_FEW_SLICES", None, _reads(shape=(2, 8, 8))),
    ("PERMITTED", "CONDITION_NOT_MET", "AGE_YEARS", _reads(age_years=12.0)),
    ("PERMITTED", "ATTRIBUTE_UNKNOWN", "BODY_PART", _reads(body_part=None)),
]


@pytest.mark.parametrize(("step", "code", "condition", "spoil"), REFUSALS)
def test_refused_before_the_model(world: World, step: str, code: str, condition: str | None, spoil: Spoil) -> None:
    """A rule that says no before the intent gives one DENIED entry and a REFUSED run with stage, code, condition."""
    spoil(world)
    run = world.run()

    facts = world.tell(run)

    entry = world.entries()[-1]
    shown = world.store.get(run.run_id)
    assert facts["ended"] == State.REFUSED
    assert world.kinds().count("DENIED") == 1
    assert "CALL_INTENT" not in world.kinds()
    assert (entry.body["stage"], entry.body["code"], entry.body["condition"]) == (step, code, condition)
    assert (shown.state, shown.stage, shown.code, shown.condition) == (State.REFUSED, step, code, condition)
    assert world.engine.inferred == 0


# ---- telling the PACS that nothing was done --------------------------------------------------------------------------


@pytest.mark.parametrize(("step", "code", "condition", "spoil"), REFUSALS)
@pytest.mark.parametrize("wanted", [False, True])
def test_the_pacs_is_told_of_what_the_gate_refuses(
    world: World, step: str, code: str, condition: str | None, spoil: Spoil, wanted: bool
) -> None:
    """Where the site wants it, and a model and images are known: one report, named by the refusal's own entry."""
    spoil(world)
    world.denials = wanted
    run = world.run()
    world.tell(run)
    readable = step == "PERMITTED" and code != "SLICE_MISSING"
    key = f"denied:{run.run_id}"
    told = [(key, code)] if wanted and readable else []
    assert world.results.denied == told
    assert list(world.outbox.batches) == [f"denied-{run.run_id}" for _ in told]
    assert (world.store.get(run.run_id).state, world.store.get(run.run_id).condition) == (State.REFUSED, condition)


def test_a_refusal_that_was_told_is_no_release(world: World) -> None:
    """When the PACS has it, nothing more is logged, and the run stays refused; no call has a result."""
    _reads(age_years=12.0)(world)
    world.denials = True
    pipeline, run = world.pipeline(), world.run()
    world.outbox.quick = lambda batch: pipeline.delivered(batch, PACS, 1, "COMMITMENT")
    world.tell(run)
    assert world.outbox.batches
    assert (world.kinds()[-1], "RELEASED" in world.kinds()) == ("DENIED", False)
    assert world.store.get(run.run_id).state is State.REFUSED
    assert world.door.may_leave(f"denied-{run.run_id}") is Leave.GO


def test_a_refusal_may_leave_while_everything_is_stopped(world: World) -> None:
    """What says that nothing is done need not wait until something is done again; a result must."""
    world.halts.all = Halt("STOPPED")
    assert (world.door.may_leave("denied-1-1"), world.door.may_leave("0" * 32)) == (Leave.GO, Leave.HOLD)


def test_telling_that_was_cut_off_is_done_again_and_is_one_report(world: World) -> None:
    """Killed before the step was over: it is repeated, and entry, report and batch are those of before."""
    _reads(age_years=12.0)(world)
    world.denials = True
    run = world.run()
    facts = world.tell(run, until=Step.SELECTED)
    for _ in range(2):
        assert world.pipeline().act(Step.PERMITTED, run.run_id, dict(facts))["ended"] == State.REFUSED
    assert (world.kinds().count("DENIED"), len(world.outbox.batches)) == (1, 1)


@pytest.mark.parametrize("broken", ["results", "outbox"])
@pytest.mark.parametrize(
    "error",
    [OutputInvalid("IDENTITY_DIFFERS"), OSError(28, "no space"), OutboxUnavailable(min(OutboxUnavailable.CODES))],
)
def test_a_report_that_cannot_be_made_or_sent_changes_nothing(world: World, broken: str, error: Exception) -> None:
    """The entry has said it; whether the PACS hears of it is a courtesy."""
    _reads(age_years=12.0)(world)
    world.denials = True
    getattr(world, broken).broken = error
    run = world.run()
    world.tell(run)
    assert (world.store.get(run.run_id).state, world.kinds()[-1]) == (State.REFUSED, "DENIED")
    assert world.outbox.batches == {}


def test_a_refusal_names_the_model_once_it_is_known(world: World) -> None:
    """DENIED names no model before selection, and the selected one after it, with the call."""
    _breaks("choose", NothingFits("MODALITY"))(world)
    world.tell(world.run())
    world.reading.broken.clear()
    _reads(age_years=12.0)(world)
    world.tell(world.run(digest="1"))

    early, late = world.entries(Kind.DENIED)
    assert early.body["model"] is None
    assert early.call is None
    assert late.body["model"]["name"] == "small-model"  # type: ignore[index, call-overload]
    assert late.call == world.store.get("1" * 24 + "-1").call


def test_what_was_observed_is_a_class(world: World) -> None:
    """The reason that a person reads gives an age band, not an age (I5)."""
    _reads(age_years=12.3)(world)
    run = world.run()

    world.tell(run)

    observed = world.entries(Kind.DENIED)[0].body["observed"]
    assert observed == world.store.get(run.run_id).observed
    assert "-" in str(observed)
    assert "12.3" not in str(observed)


def test_without_an_approval_nothing_runs(tmp_path: Path, library: Library) -> None:
    """No approval in the log: NO_APPROVAL, and the device stays cold (I3)."""
    world = World(tmp_path, library)
    run = world.run()

    world.tell(run)

    assert world.store.get(run.run_id).code == "NO_APPROVAL"
    assert world.engine._warm == set()
    world.close()


def test_a_clock_that_is_set_back_revives_no_approval(world: World) -> None:
    """The log knows a later time than the clock: an approval that had ended by then stays ended (I3)."""
    world.clock.at = DURING.replace(year=2027, month=6)
    world.tell(world.run())
    world.clock.at = DURING
    run = world.run(digest="1")

    world.tell(run)

    assert world.store.get(run.run_id).code == "SUSPENDED"  # by itself, with the approval's end


def test_an_approval_of_another_site_does_not_count(tmp_path: Path, library: Library) -> None:
    """The site in the request is ours: an approval for another one is CONDITION_NOT_MET on SITE."""
    world = World(tmp_path, library)
    world.approve(conditions={"site": ["other-site"]})
    run = world.run()

    world.tell(run)

    shown = world.store.get(run.run_id)
    assert (shown.code, shown.condition) == ("CONDITION_NOT_MET", "SITE")
    world.close()


def test_a_changed_model_file_is_refused_by_name(tmp_path: Path) -> None:
    """One byte of the installed model differs: MODEL_FILE_CHANGED names the file, before any intent."""
    library = install(tmp_path)
    world = World(tmp_path, library)
    world.approve()
    weights = tmp_path / "library" / "small-model" / "1.0" / "models" / "model.pt"
    weights.chmod(0o600)
    weights.write_bytes(b"\x01" + weights.read_bytes()[1:])
    run = world.run()

    world.tell(run)

    shown = world.store.get(run.run_id)
    assert (shown.state, shown.code, shown.observed) == (State.REFUSED, "MODEL_FILE_CHANGED", "models/model.pt")
    assert world.kinds()[-1] == "DENIED"
    world.close()


@pytest.mark.parametrize(
    ("site", "manifest", "approved", "used"),
    [("A1", "A2", "A2", "A1"), ("A2", "A1", "A2", "A1"), ("A4", "A0", "A1", "A0"), ("A2", "A2", "A2", "A2")],
)
def test_autonomy_is_never_above_the_manifest(
    tmp_path: Path, site: str, manifest: str, approved: str, used: str
) -> None:
    """The level asked of the gate is the lower of what the site wants and what the manifest allows."""
    world = World(tmp_path, install(tmp_path, max_autonomy=manifest))
    world.approve(conditions={"max_autonomy": approved})
    world.autonomy = site

    world.tell(world.run())

    assert world.entries(Kind.CALL_INTENT)[0].body["autonomy"] == used
    world.close()


def test_a_site_that_wants_more_than_was_approved_is_refused(world: World) -> None:
    """The gate's AUTONOMY_EXCEEDED reaches the person who must change the configuration."""
    world.autonomy = "A2"
    run = world.run()

    world.tell(run)

    assert world.store.get(run.run_id).code == "AUTONOMY_EXCEEDED"


# ---- failed after the intent ----------------------------------------------------------------------------------------


def _engine(*errors: Exception) -> Spoil:
    return lambda world: world.engine.failures.extend(errors)


def _writes(error: Exception) -> Spoil:
    return lambda world: setattr(world.results, "broken", error)


def _sends(error: Exception) -> Spoil:
    return lambda world: setattr(world.outbox, "broken", error)


def _sees_nothing(world: World) -> None:
    world.engine.cube = False


DIED = ("ENGINE_DIED", "gone")
FAILURES = [
    ("INFERRED", "MODEL_RUN_FAILED", "MODEL", _engine(ModelFailed("MODEL_RUN_FAILED", "raised"))),
    ("INFERRED", "DEADLINE_EXCEEDED", "MODEL", _engine(EngineTimeout("DEADLINE_EXCEEDED", "30 s"))),
    ("INFERRED", "ENGINE_DIED", "SITE", _engine(EngineDied(*DIED), EngineDied(*DIED))),  # type: ignore[arg-type]
    ("INFERRED", "OUTPUT_TOUCHES_BORDER", "MODEL", _reads(shape=(4, 5, 6))),
    ("WRITTEN", "GRID_MISMATCH", "US", _writes(OutputInvalid("GRID_MISMATCH", "no frame"))),
    ("RELEASED", "LEDGER_UNAVAILABLE", "SITE", _sends(OutboxUnavailable("LEDGER_UNAVAILABLE", "locked"))),
]


@pytest.mark.parametrize(("step", "code", "side", "spoil"), FAILURES)
def test_failed_after_the_intent(world: World, step: str, code: str, side: str, spoil: Spoil) -> None:
    """What goes wrong once the model may have run gives one FAILED entry with the call, stage, code and side."""
    spoil(world)
    run = world.run()

    facts = world.tell(run)

    entry = world.entries()[-1]
    shown = world.store.get(run.run_id)
    assert facts["ended"] == State.FAILED
    assert world.kinds().count("FAILED") == 1
    assert "DENIED" not in world.kinds()
    assert (entry.kind, entry.call) == (Kind.FAILED, facts["call"])
    assert (entry.body["stage"], entry.body["code"], entry.body["fault"]) == (step, code, side)
    assert (shown.state, shown.stage, shown.code, shown.fault) == (State.FAILED, step, code, side)
    assert world.outbox.batches == {}


def test_an_empty_answer_is_allowed_where_zero_is_believable(world: World) -> None:
    """Plausibility is the manifest's to say: a volume of 0 in its range is a finding, not a failure."""
    _sees_nothing(world)
    run = world.run()

    world.tell(run)

    assert world.store.get(run.run_id).measurements[0]["value"] == "0.000"


def test_a_device_that_died_is_tried_once_more(world: World) -> None:
    """ENGINE_DIED once: the second try gives the result, and the log holds nothing twice."""
    _engine(EngineDied(*DIED))(world)  # type: ignore[arg-type]
    run = world.run()

    world.tell(run)

    assert world.engine.inferred == 2
    assert world.store.get(run.run_id).state is State.WRITTEN
    assert world.kinds() == WHOLE


def test_a_device_that_dies_twice_is_not_tried_again(world: World) -> None:
    """A model that kills its device is tried twice, not for ever."""
    _engine(*(EngineDied(*DIED) for _ in range(5)))(world)  # type: ignore[arg-type]

    world.tell(world.run())

    assert world.engine.inferred == 2


def test_a_timeout_is_not_tried_again(world: World) -> None:
    """What took too long takes too long again: one try."""
    _engine(EngineTimeout("DEADLINE_EXCEEDED", "30 s"))(world)

    world.tell(world.run())

    assert world.engine.inferred == 1


# ---- what nobody expected -------------------------------------------------------------------------------------------

UNEXPECTED: list[tuple[str, Spoil]] = [
    ("ASSEMBLED", _breaks("instances", RuntimeError(SECRET))),
    ("SELECTED", _breaks("choose", ValueError(SECRET))),
    ("PERMITTED", _breaks("series", OSError(5, SECRET, SECRET))),
    ("INFERRED", _engine(RuntimeError(SECRET))),
    ("WRITTEN", _writes(KeyError(SECRET))),
    ("RELEASED", _sends(RuntimeError(SECRET))),
]


@pytest.mark.parametrize(("step", "spoil"), UNEXPECTED)
def test_an_unexpected_error_is_ours_and_says_nothing(
    world: World, capfd: pytest.CaptureFixture[str], step: str, spoil: Spoil
) -> None:
    """A bug in any step is INTERNAL_ERROR, FAILED, fault US; its text reaches no entry, no table and no log line."""
    spoil(world)
    run = world.run()

    facts = world.tell(run)

    entry = world.entries()[-1]
    shown = world.store.get(run.run_id)
    assert facts["ended"] == State.FAILED
    assert (entry.kind, entry.body["code"], entry.body["fault"]) == (Kind.FAILED, "INTERNAL_ERROR", "US")
    assert (shown.state, shown.stage, shown.code) == (State.FAILED, step, "INTERNAL_ERROR")
    said = "".join(capfd.readouterr()) + repr(shown.as_dict()) + entry.to_bytes().decode()
    assert "ZHANG" not in said
    assert "1.2.840.1.2.3.4.5" not in said


def test_an_explanation_that_the_log_refuses_is_internal(world: World) -> None:
    """Where even the reason cannot be recorded, the run still ends, as INTERNAL_ERROR."""
    _breaks("choose", NothingFits("a condition that is no code " * 9))(world)
    run = world.run()

    world.tell(run)

    shown = world.store.get(run.run_id)
    assert (shown.state, shown.stage, shown.code) == (State.FAILED, "SELECTED", "INTERNAL_ERROR")
    assert world.kinds() == ["ASSEMBLED", "FAILED"]


def test_a_corrupt_log_reaches_the_workflow_engine(world: World) -> None:
    """Where nothing can be recorded at all, the step raises instead of going on: the AI stops (I4)."""
    run = world.run()
    world.log.broken = AuditCorrupt("head", "invented for this test")

    with pytest.raises(AuditCorrupt):
        world.pipeline().act(Step.ASSEMBLED, run.run_id, {})

    assert world.kinds() == []


# ---- the log is away ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("after", [False, True])
@pytest.mark.parametrize("step", LOGGING)
def test_a_step_waits_for_the_log(world: World, step: Step, *, after: bool) -> None:
    """While the log refuses the step is asked again; then it goes on with exactly one entry, persisted or not."""
    run = world.run()
    pipeline = world.pipeline()
    facts: Facts = {}
    for each, _ in pipeline.story:
        if each is step:
            world.log.refuse, world.log.after = 3, after
        facts = pipeline.act(each, run.run_id, facts)

    assert world.log.refused == 3
    assert world.kinds() == WHOLE
    assert world.store.get(run.run_id).state is State.WRITTEN


@pytest.mark.parametrize("after", [False, True])
@pytest.mark.parametrize("spoil", [_breaks("choose", NothingFits("MODALITY")), _breaks("choose", RuntimeError(SECRET))])
def test_an_end_waits_for_the_log_too(world: World, spoil: Spoil, *, after: bool) -> None:
    """A refusal or failure that the log cannot take now is recorded later, once, with the first reason."""
    spoil(world)
    run = world.run()
    pipeline = world.pipeline()
    facts = pipeline.act(Step.ASSEMBLED, run.run_id, {})
    world.log.refuse, world.log.after = 3, after

    facts = pipeline.act(Step.SELECTED, run.run_id, facts)

    assert len(world.entries(Kind.DENIED, Kind.FAILED)) == 1
    assert world.entries()[-1].body["code"] == world.store.get(run.run_id).code
    assert facts["ended"] == world.store.get(run.run_id).state


def test_no_voxel_is_seen_while_the_log_is_away(world: World) -> None:
    """The model does not run before the intent is durable: it stands in the log when `infer` is called (I4)."""
    run = world.run()
    world.log.refuse = 5

    world.tell(run)  # the engine itself raises WrongOrder otherwise

    assert world.engine.inferred == 1


class AwayOnce(Store):
    """The table, whose database goes away at the `nth` question and comes back."""

    nth = 0
    times = 0

    def get(self, run_id: str) -> Run:
        """See Store."""
        self._away()
        return super().get(run_id)

    def update(self, run_id: str, now: datetime, **changes: Any) -> None:
        """See Store."""
        self._away()
        super().update(run_id, now, **changes)

    def of_study(self, study_uid: str) -> tuple[Run, ...]:
        """See Store."""
        self._away()
        return super().of_study(study_uid)

    def _away(self) -> None:
        self.nth -= 1
        if -self.times <= self.nth < 0:
            raise OperationalError("SELECT", {"study": SECRET}, Exception("locked"))


@pytest.mark.parametrize("nth", range(14))
def test_a_step_waits_for_the_table(world: World, capfd: pytest.CaptureFixture[str], nth: int) -> None:
    """Whenever the database goes away the step is asked again: one entry of each kind, and the run is not lost."""
    table = world.store
    world.store = away = AwayOnce(table._engine)
    away.nth, away.times = nth, 3
    run = world.run()

    world.tell(run)

    assert world.kinds() == WHOLE
    assert table.get(run.run_id).state is State.WRITTEN
    assert SECRET not in "".join(capfd.readouterr())


# ---- told again after a crash ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("step", list(Step))
@pytest.mark.parametrize("crash", [False, True])
def test_a_repeated_step_leaves_no_second_entry(world: World, step: Step, *, crash: bool) -> None:
    """Any step may be done again, in this process or the next one: the same facts, and nothing twice."""
    run = world.run()
    pipeline = world.pipeline()
    facts: Facts = {}
    for each, _ in pipeline.story:
        before = facts
        facts = pipeline.act(each, run.run_id, before)
        if each is step:
            pipeline = world.pipeline() if crash else pipeline
            assert pipeline.act(each, run.run_id, before) == facts

    assert world.kinds() == WHOLE
    assert world.engine.inferred == 1
    assert len(world.outbox.batches) == 1


def test_every_step_in_a_process_of_its_own(world: World) -> None:
    """Nothing that a step needs is in memory alone: a crash after each one changes nothing that anybody sees."""
    run = world.run()

    world.tell(run, crash=True)

    assert world.kinds() == WHOLE
    assert world.store.get(run.run_id).state is State.WRITTEN
    assert len(world.outbox.batches) == 1


@pytest.mark.parametrize("spoil", [_breaks("choose", NothingFits("MODALITY")), _breaks("choose", RuntimeError(SECRET))])
def test_an_end_that_is_repeated_is_one_entry(world: World, spoil: Spoil) -> None:
    """A crash after the refusal was logged, before the workflow engine knew: the same end again, once in the log."""
    spoil(world)
    run = world.run()
    facts = world.tell(run, until=Step.ASSEMBLED)

    ends = [world.pipeline().act(Step.SELECTED, run.run_id, facts)["ended"] for _ in range(2)]

    assert ends[0] == ends[1]
    assert len(world.entries(Kind.DENIED, Kind.FAILED)) == 1


def test_after_a_crash_the_gate_is_asked_again(world: World) -> None:
    """The permit is never stored: a new process asks for a new one, and the same intent stands once."""
    run = world.run()
    facts = world.tell(run, until=Step.PERMITTED)

    world.pipeline().act(Step.INFERRED, run.run_id, facts)

    assert world.engine.inferred == 1
    assert world.kinds().count("CALL_INTENT") == 1


def test_an_approval_that_ended_meanwhile_stops_the_call(world: World) -> None:
    """Down over the approval's last day: the gate says no, and no voxel is seen (I3)."""
    run = world.run()
    facts = world.tell(run, until=Step.PERMITTED)
    world.clock.at = DURING.replace(year=2027, month=6)

    facts = world.pipeline().act(Step.INFERRED, run.run_id, facts)

    assert world.engine.inferred == 0
    assert facts["ended"] == State.FAILED
    assert world.store.get(run.run_id).code == "SUSPENDED"  # by itself, with the approval's end
    assert world.entries()[-1].body["code"] == "SUSPENDED"


def test_a_permit_that_grew_old_in_memory_opens_nothing(world: World) -> None:
    """Minutes between intent and model: the permit in memory is over, and the run fails visibly."""
    run = world.run()
    pipeline = world.pipeline()
    facts: Facts = {}
    for step in (Step.ASSEMBLED, Step.SELECTED, Step.PERMITTED):
        facts = pipeline.act(step, run.run_id, facts)
    world.clock.at = world.clock.at.replace(hour=world.clock.at.hour + 1)

    pipeline.act(Step.INFERRED, run.run_id, facts)

    assert world.engine.inferred == 0
    assert world.store.get(run.run_id).code == "PERMIT_EXPIRED"


def test_another_approval_after_a_crash_is_another_intent(world: World) -> None:
    """The intent that was followed is in the log: when another approval permits, it is written down too."""
    run = world.run()
    facts = world.tell(run, until=Step.PERMITTED)
    world.approve(0)  # sorts before the one of the first intent

    facts = world.pipeline().act(Step.INFERRED, run.run_id, facts)
    facts = world.pipeline().act(Step.WRITTEN, run.run_id, facts)

    first, second = world.entries(Kind.CALL_INTENT)
    assert (first.body["approval"], second.body["approval"]) == ("TEST-2026-0001", "TEST-2026-0000")
    assert first.call == second.call == facts["call"]
    # The results keep the time that was handed on: same call, same bytes.
    assert world.results.written[facts["call"]][1] == first.time


def test_findings_that_are_kept_are_not_computed_again(world: World) -> None:
    """A crash after the model answered: the device is not asked a second time, whatever the gate says now."""
    run = world.run()
    facts = world.tell(run, until=Step.INFERRED)
    world.clock.at = DURING.replace(year=2027, month=6)

    world.pipeline().act(Step.INFERRED, run.run_id, facts)

    assert world.engine.inferred == 1
    assert world.store.get(run.run_id).state is State.INFERRED


def test_a_second_attempt_has_its_own_entries_and_the_same_call(world: World) -> None:
    """A new attempt at the same input is a new run in the log, but the same call."""
    _engine(ModelFailed("MODEL_RUN_FAILED", "raised"))(world)
    first, second = world.run(1), world.run(2)
    world.tell(first)

    world.tell(second)

    runs = world.store.of_call(world.store.get(first.run_id).call or "")
    assert [run.state for run in runs] == [State.FAILED, State.WRITTEN]
    kinds = world.kinds()
    assert [kinds.count(kind) for kind in ("ASSEMBLED", "SELECTED", "CALL_INTENT", "CALL_RESULT")] == [2, 2, 1, 1]


# ---- delivery -------------------------------------------------------------------------------------------------------


def test_delivered_ends_the_story(world: World) -> None:
    """The PACS has everything: RELEASED names the objects that CALL_RESULT named, the peer and the attempts."""
    run = world.run()
    call = world.tell(run)["call"]

    world.pipeline().delivered(call, "pacs", 3, "FOUND")

    entry = world.entries(Kind.RELEASED)[0]
    named = world.entries(Kind.CALL_RESULT)[0].body["outputs"]
    assert entry.body["outputs"] == tuple({"uid": o["uid"], "digest": o["digest"]} for o in named)  # type: ignore[index, union-attr, call-overload]
    assert (entry.call, entry.body["peer"], entry.body["attempts"]) == (call, "pacs", 3)
    assert entry.body["proof"] == "FOUND"
    shown = world.store.get(run.run_id)
    assert shown.state is State.RELEASED
    assert shown.steps_ms["DELIVERED"] >= 0
    assert "WRITTEN" in shown.steps_ms
    assert ("RELEASED", "delivered") in world.seen


def test_delivered_again_changes_nothing(world: World) -> None:
    """The outbox repeats its call after a crash: one entry, one state."""
    run = world.run()
    call = world.tell(run)["call"]

    for _ in range(2):
        world.pipeline().delivered(call, "pacs", 1, "FOUND")

    assert world.kinds() == [*WHOLE, "RELEASED"]
    assert world.store.get(run.run_id).state is State.RELEASED


def test_a_delivery_that_the_log_cannot_take_is_not_shown(world: World) -> None:
    """The log first: until RELEASED is in it the run is not shown as released, and the outbox calls again."""
    run = world.run()
    call = world.tell(run)["call"]
    world.log.refuse = 1

    with pytest.raises(OSError, match="refuses"):
        world.pipeline().delivered(call, "pacs", 1, "FOUND")

    assert world.store.get(run.run_id).state is State.WRITTEN
    world.pipeline().delivered(call, "pacs", 1, "FOUND")
    assert world.store.get(run.run_id).state is State.RELEASED


def test_undelivered_is_seen_once(world: World) -> None:
    """A dead letter becomes one FAILED entry and UNDELIVERED, however often the caretaker comes by."""
    run = world.run()
    call = world.tell(run)["call"]

    for _ in range(3):
        world.pipeline().undelivered(call, "STATUS_C000")

    shown = world.store.get(run.run_id)
    assert world.kinds() == [*WHOLE, "FAILED"]
    assert (shown.state, shown.stage, shown.code, shown.fault) == (
        State.UNDELIVERED,
        "RELEASED",
        "STATUS_C000",
        "SITE",
    )
    assert world.entries(Kind.FAILED)[0].call == call


def test_undelivered_never_takes_back_a_delivery(world: World) -> None:
    """A dead letter that somebody sent again and that arrived stays RELEASED."""
    run = world.run()
    call = world.tell(run)["call"]
    world.pipeline().delivered(call, "pacs", 1, "FOUND")

    world.pipeline().undelivered(call, "STATUS_C000")

    assert world.store.get(run.run_id).state is State.RELEASED
    assert world.kinds()[-1] == "RELEASED"


def test_a_result_that_was_sent_again_is_released_without_its_old_fault(world: World) -> None:
    """UNDELIVERED, then sent again by a person and stored: RELEASED, and no code of the past is shown."""
    run = world.run()
    call = world.tell(run)["call"]
    world.pipeline().undelivered(call, "STATUS_C000")

    world.pipeline().delivered(call, "pacs", 4, "FOUND")

    shown = world.store.get(run.run_id)
    assert (shown.state, shown.stage, shown.code, shown.fault) == (State.RELEASED, None, None, None)
    assert world.kinds() == [*WHOLE, "FAILED", "RELEASED"]


@pytest.mark.parametrize(("kind", "code"), [("SC", "KEY_IMAGE_REFUSED"), ("HEAT", "HEAT_MAP_REFUSED")])
def test_a_result_is_released_without_what_the_pacs_refused(world: World, kind: str, code: str) -> None:
    """RELEASED, once, naming what is there and no more; the run says with a code what is lacking."""
    run = world.run()
    call = world.tell(run)["call"]
    report, picture = world.store.get(run.run_id).outputs[-1], {"kind": kind, "uid": "2.25.7", "digest": "sha256:0"}
    world.store.update(run.run_id, run.updated_at, outputs=[report, picture])

    for _ in range(2):
        world.pipeline().delivered(call, "pacs", 1, "FOUND", {"2.25.7": code})

    entry = world.entries(Kind.RELEASED)[0]
    assert entry.body["outputs"] == ({"uid": report["uid"], "digest": report["digest"]},)
    shown = world.store.get(run.run_id)
    assert (shown.state, shown.stage, shown.code) == (State.RELEASED, "RELEASED", code)
    assert (shown.fault, shown.outputs) == ("SITE", [report, picture])
    assert world.kinds() == [*WHOLE, "RELEASED"]


def test_a_released_run_names_what_could_not_be_made(world: World) -> None:
    """A key image that these images cannot have: RELEASED with its code, also after it was sent again."""
    run = world.run()
    call = world.tell(run)["call"]
    world.results.lacking = "RESCALE_MIXED"
    world.pipeline().undelivered(call, "STATUS_C000")

    world.pipeline().delivered(call, "pacs", 1, "FOUND")

    shown = world.store.get(run.run_id)
    assert (shown.state, shown.stage, shown.code) == (State.RELEASED, "RELEASED", "RESCALE_MIXED")
    assert shown.fault == "INPUT"


def test_a_run_that_lacks_outputs_of_the_model_says_so_to_the_end(world: World) -> None:
    """From the moment that its report is written; also after it was undelivered, and sent again."""
    run = world.run()
    facts = world.tell(run, until=Step.INFERRED)
    call = facts["call"]
    found = world.results.findings[call]
    world.results.findings[call] = replace(found, failed=(FailedOutput("segment:2", "OUTPUT_EMPTY"),))
    for step in (Step.WRITTEN, Step.RELEASED):
        facts = world.pipeline().act(step, run.run_id, facts)

    [entry] = world.entries(Kind.CALL_RESULT)
    assert entry.body["outcome"] == "PARTLY_FAILED"
    assert entry.body["failed"] == ({"output": "segment:2", "code": "OUTPUT_EMPTY"},)
    written = world.store.get(run.run_id)
    assert (written.state, written.stage, written.code, written.fault) == (
        *(State.WRITTEN, "WRITTEN", "PARTLY_FAILED", "MODEL"),
    )
    world.pipeline().undelivered(call, "STATUS_C000")
    assert world.store.get(run.run_id).code == "STATUS_C000"
    world.pipeline().delivered(call, "pacs", 1, "FOUND")
    shown = world.store.get(run.run_id)
    assert (shown.state, shown.stage, shown.code, shown.fault) == (
        *(State.RELEASED, "RELEASED", "PARTLY_FAILED", "MODEL"),
    )
    assert world.kinds() == [*WHOLE, "FAILED", "RELEASED"]


def test_a_pacs_may_be_quicker_than_the_step(world: World) -> None:
    """Delivered before the last step is over: the run ends RELEASED all the same, with every duration."""
    pipeline = world.pipeline()
    world.outbox.quick = lambda call: pipeline.delivered(call, "pacs", 1, "FOUND")
    run = world.run()
    facts: Facts = {}

    for step, _ in pipeline.story:
        facts = pipeline.act(step, run.run_id, facts)

    shown = world.store.get(run.run_id)
    assert shown.state is State.RELEASED
    assert set(shown.steps_ms) == {*(step.value for step in Step), "DELIVERED"}


def test_undelivered_of_an_unknown_call_is_nothing(world: World) -> None:
    """The table may be lost; a dead letter without its run stops nobody."""
    world.pipeline().undelivered("f" * 32, "STATUS_C000")

    assert world.kinds() == []


# ---- late images ----------------------------------------------------------------------------------------------------


def _told(world: World, digest: str) -> str:
    return str(world.tell(world.run(digest=digest))["call"])


def test_later_images_supersede_the_report(world: World) -> None:
    """A second input of the same study names the newest earlier call that has a report; the first names none (I6)."""
    calls = [_told(world, digest) for digest in "123"]

    assert [world.results.supersedes(call) for call in calls] == [None, calls[0], calls[1]]


def test_another_study_is_not_superseded(world: World) -> None:
    """Only reports of the same study are replaced."""
    _told(world, "1")

    other = world.tell(world.run(digest="2", study=STUDY + ".8"))["call"]

    assert world.results.supersedes(other) is None


def test_a_run_without_a_report_is_not_superseded(world: World) -> None:
    """What failed or was refused has no report, and what the PACS refused it does not have."""
    first = _told(world, "1")
    _engine(ModelFailed("MODEL_RUN_FAILED", "raised"))(world)
    _told(world, "2")
    third = _told(world, "3")
    world.pipeline().undelivered(third, "STATUS_C000")

    assert world.results.supersedes(_told(world, "4")) == first


def test_another_model_is_not_superseded(tmp_path: Path, world: World) -> None:
    """A report of another model stands beside; a new version of the same one takes its place."""
    first = _told(world, "1")
    world.store.update("1" * 24 + "-1", world.clock(), model={"name": "other", "version": "1.0", "digest": "x"})
    assert world.results.supersedes(_told(world, "2")) is None

    world.store.update("1" * 24 + "-1", world.clock(), model={"name": "small-model", "version": "0.9", "digest": "x"})
    world.store.update("2" * 24 + "-1", world.clock(), state=State.FAILED)
    assert world.results.supersedes(_told(world, "3")) == first


def _second(world: World, folder: Path, **changes: object) -> ModelRef:
    """Another model beside the first, LIVE as well; both fit."""
    fields = small_model.manifest_fields()
    fields["measurements"][0] |= {"plausible": [0.0, 1.0], "decimals": 3}
    staged = small_model.stage(folder / "second", **({"measurements": fields["measurements"]} | changes))
    ref = world.library.install(staged)
    world.approve(2, ref=ref)
    world.reading.models = (*world.reading.models, f"{ref.name}/{ref.version}")
    return ref


@pytest.fixture
def two(tmp_path: Path) -> Iterator[World]:
    """A world with a library of its own, in which a test may install more."""
    made = World(tmp_path, install(tmp_path / "models"))
    made.approve()
    yield made
    made.close()


def test_each_of_two_models_reads_the_study(two: World, tmp_path: Path) -> None:
    """Two runs, two calls, two results on their way; the study and its images have one name in the log."""
    ref = _second(two, tmp_path, name="zebra")
    first = two.run()
    one = two.tell(first)
    (other,) = two.submitted
    assert (other.for_model, other.attempt, other.run_id) == (ref.digest, 1, f"{first.run_id}.{ref.digest[7:19]}")
    second = two.tell(other)

    assert (two.kinds(), len({one["call"], second["call"]})) == (WHOLE * 2, 2)
    assert one["model"]["name"] == "small-model"
    assert second["model"]["name"] == "zebra"
    assert (one["study"], one["committed"]) == (second["study"], second["committed"])
    assert set(two.outbox.batches) == {one["call"], second["call"]}
    assert [run.state for run in two.store.of_study(STUDY)] == [State.WRITTEN] * 2
    assert two.results.supersedes(second["call"]) is None


@pytest.mark.parametrize("until", [Step.ASSEMBLED, Step.SELECTED, Step.WRITTEN])
def test_a_crash_makes_no_third_run(two: World, tmp_path: Path, until: Step) -> None:
    """Each step in a new process, and each done twice: the same two runs, and one entry of each."""
    _second(two, tmp_path, name="zebra")
    run = two.run()
    two.tell(run, until=until, crash=True)
    two.tell(run, crash=True)
    two.tell(two.submitted[0], crash=True)
    assert len(two.store.of_study(STUDY)) == 2
    assert sorted(two.kinds()) == sorted(WHOLE * 2)
    assert {one.run_id for one in two.submitted} == {two.store.of_study(STUDY)[1].run_id}


def test_what_one_model_is_refused_the_other_does(two: World, tmp_path: Path) -> None:
    """A condition of one approval stops that model alone, whichever of the two found the other."""
    ref = _second(two, tmp_path, name="zebra")
    two.register.suspend(ref, review.Cause.HARM, None)
    one = two.tell(two.run())
    other = two.tell(two.submitted[0])
    assert "ended" not in one
    assert other["ended"] == State.REFUSED
    assert [(run.state, run.code) for run in two.store.of_study(STUDY)] == [
        (State.WRITTEN, None),
        (State.REFUSED, "SUSPENDED"),
    ]


def test_a_model_that_left_meanwhile_is_refused(two: World, tmp_path: Path) -> None:
    """Its run was made, and then it was uninstalled: nothing fits any more, and nothing else is read in its place."""
    _second(two, tmp_path, name="zebra")
    two.tell(two.run())
    two.reading.broken["choose"] = NothingFits("NO_MODEL_OR_NO_SERIES")
    assert two.tell(two.submitted[0])["ended"] == State.REFUSED
    assert two.store.get(two.submitted[0].run_id).code == "NO_MODEL_FITS"


def test_two_versions_side_by_side_replace_their_own(two: World, tmp_path: Path) -> None:
    """On the same images neither is the other's predecessor; with late images each names its own earlier report."""
    two.reading.models = ("small-model/1.0",)
    _second(two, tmp_path, version="2.0")
    calls = []
    for digest in "12":
        two.submitted.clear()
        mine = two.tell(two.run(digest=digest))["call"]
        calls.append((mine, two.tell(two.submitted[0])["call"]))
    before, after = calls
    assert [two.results.supersedes(call) for call in before] == [None, None]
    assert [two.results.supersedes(call) for call in after] == list(before)


def test_an_older_run_never_replaces_a_newer_report(world: World) -> None:
    """A run that was overtaken by the one with the late images must not call that one its predecessor."""
    slow = world.run(digest="1")
    facts = world.tell(slow, until=Step.INFERRED)
    _told(world, "2")

    facts = world.pipeline().act(Step.WRITTEN, slow.run_id, facts)

    assert world.results.supersedes(facts["call"]) is None


def test_the_steps_before_the_model_are_named() -> None:
    """REFUSED or FAILED is decided by the step: these three come before a voxel is seen, and no other."""
    assert {step.value for step in BEFORE_THE_MODEL} == {"ASSEMBLED", "SELECTED", "PERMITTED"}
    assert [step.value for step in story.Step][:3] == ["ASSEMBLED", "SELECTED", "PERMITTED"]


# ---- in the shadow ---------------------------------------------------------------------------------------------------


class Shadowed:
    """A register whose models are in SHADOW, or in whichever state it is told next."""

    def __init__(self, register: Register, state: review.State = review.State.SHADOW) -> None:
        self._register = register
        self.state = state

    def standings(self, now: datetime | None = None) -> tuple[Standing, ...]:
        """See Register."""
        return tuple(replace(one, state=self.state) for one in self._register.standings(now))

    def __getattr__(self, name: str) -> Any:
        return getattr(self._register, name)


@pytest.fixture
def shadow(world: World) -> Shadowed:
    """The world's register, with its models in SHADOW."""
    made = Shadowed(world.register)
    world.register = made  # type: ignore[assignment]
    return made


@pytest.mark.parametrize("crash", [False, True])
@pytest.mark.parametrize("peer", [PACS, None])
def test_a_shadow_run_is_made_and_logged_and_goes_nowhere(
    world: World, shadow: Shadowed, peer: str | None, crash: bool
) -> None:
    """SHADOW: intent and result are in the log, the objects are kept, nothing is sent, and the run says so (I2)."""
    world.peer = peer
    run = world.run()

    facts = world.tell(run, crash=crash)

    shown = world.store.get(run.run_id)
    assert list(dict.fromkeys(world.kinds())) == WHOLE
    assert world.entries(Kind.CALL_INTENT)[0].body["state"] == shadow.state == "SHADOW"
    assert (facts["ended"], shown.state, shown.code) == (State.SHADOWED, State.SHADOWED, None)
    assert shown.outputs == world.results.written[facts["call"]][0].outputs
    assert shown.measurements
    assert world.outbox.batches == {}
    assert world.reading.forgotten[-1:] == [run.run_id]


def test_a_shadow_run_never_looks_as_if_something_were_on_its_way(world: World, shadow: Shadowed) -> None:
    """Not even between its last steps is it WRITTEN, which reports are replaced by and dead letters are looked for."""
    assert shadow.state == "SHADOW"
    run = world.run()
    facts = world.tell(run, until=Step.WRITTEN)
    assert world.store.get(run.run_id).state is State.SHADOWED
    world.pipeline().undelivered(facts["call"], "PEER_REFUSED")
    assert world.store.get(run.run_id).state is State.SHADOWED


def test_a_report_that_the_pacs_never_got_is_not_replaced(world: World, shadow: Shadowed) -> None:
    """Late images of a study that was read in the shadow give a report without a predecessor."""
    world.tell(world.run())
    shadow.state = review.State.LIVE
    facts = world.tell(world.run(digest="1"))
    assert world.results.supersedes(facts["call"]) is None
    assert set(world.outbox.batches) == {facts["call"]}


@pytest.mark.parametrize(
    ("first", "then"),
    [(review.State.SHADOW, review.State.LIVE), (review.State.LIVE, review.State.SHADOW)],
)
def test_what_was_asked_twice_is_released_only_if_it_was_live_twice(
    world: World, shadow: Shadowed, first: review.State, then: review.State
) -> None:
    """After a crash the gate is asked again, and may answer in another state: the closer one counts."""
    shadow.state = first
    run = world.run()
    facts = world.tell(run, until=Step.PERMITTED)
    shadow.state = then
    pipeline = world.pipeline()
    for step in (Step.INFERRED, Step.WRITTEN, Step.RELEASED):
        facts = pipeline.act(step, run.run_id, facts)
    assert world.store.get(run.run_id).state is State.SHADOWED
    assert world.outbox.batches == {}


def test_a_study_that_was_read_in_the_shadow_is_released_when_it_is_sent_again(world: World, shadow: Shadowed) -> None:
    """SHADOWED is tried again: once the model is LIVE, the same call is permitted anew and goes out, unrepeated."""
    assert State.SHADOWED in RETRYABLE
    world.tell(world.run())
    shadow.state = review.State.LIVE
    facts = world.tell(world.run(2))
    assert [entry.body["state"] for entry in world.entries(Kind.CALL_INTENT)] == ["SHADOW", "LIVE"]
    assert world.kinds().count("CALL_RESULT") == 1
    assert set(world.outbox.batches) == {facts["call"]}
    assert world.engine.inferred == 1


def test_a_suspension_between_permit_and_model_ends_the_run(world: World, shadow: Shadowed) -> None:
    """Asked again after a crash, a gate that says no now is heard."""
    shadow.state = review.State.LIVE
    run = world.run()
    facts = world.tell(run, until=Step.PERMITTED)
    shadow.state = review.State.SUSPENDED
    world.pipeline().act(Step.INFERRED, run.run_id, facts)
    shown = world.store.get(run.run_id)
    assert (shown.state, shown.code) == (State.FAILED, "SUSPENDED")
    assert world.engine.inferred == 0
