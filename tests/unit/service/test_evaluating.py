"""An evaluation: each case as a study in shadow, logged before the next; whatever is cut off goes on where it was."""

from collections.abc import Iterator
from dataclasses import replace
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest

from audit.entry import Kind
from audit.errors import AuditUnavailable
from dicom_bridge import uids
from ethics_review.acceptance import differences
from ethics_review.errors import Refused
from ethics_review.evaluation import Plan
from ethics_review.facts import fact_of
from ethics_review.monitor import Monitor
from inference.errors import EngineClosed, EngineDied, EngineTimeout, ModelFailed
from service import evaluating
from service.errors import DatasetInvalid
from tests.simulators import site
from tests.simulators.labelled import CANARY, Labelled, ball, save_mask
from tests.simulators.monitored import MONITOR
from tests.simulators.shadow import Shadow

K = Kind
ONE = [K.CALL_INTENT, K.CALL_RESULT, K.CASE]


@pytest.fixture
def shadow(tmp_path: Path) -> Iterator[Shadow]:
    """The world."""
    made = Shadow(tmp_path / "site")
    yield made
    made.log.inner.close()


@pytest.fixture
def labelled(tmp_path: Path) -> Labelled:
    """An empty set."""
    (tmp_path / "set").mkdir()
    return Labelled(tmp_path / "set")


def quiet(_done: int, _cases: int) -> None:
    """No progress."""


def after(shadow: Shadow, start: int) -> list[Kind]:
    """The kinds of the entries from this index on."""
    return [entry.kind for entry in shadow.entries()[start:]]


def test_a_case(shadow: Shadow, labelled: Labelled) -> None:
    """Intent, result, case; the outline that the model draws is compared with the person's, voxel by voxel."""
    labelled.add(drawn=7.0)
    approval = shadow.approve()
    start = len(shadow.entries())
    run = shadow.evaluation(labelled.write(), approval)
    found = run.run(quiet)
    assert after(shadow, start) == ONE
    intent, result, case = shadow.entries()[start:]
    assert {entry.call for entry in (intent, result, case)} == {case.call}
    assert (intent.body["patient"], intent.body["requester"]) == (None, None)
    assert intent.body["approval"] == case.body["approval"] == approval.id
    model, true = int(ball(site.BALL_RADIUS).sum()), int(ball(7.0).sum())
    assert case.body["dice"] == f"{float(Fraction(2 * true, model + true)):.6f}"
    assert case.body["volume_error"] == f"{(model - true) / true:.6f}"
    said = {name: case.body[name] for name in ("truth", "positive", "score", "failed", "dataset")}
    wanted = {"truth": "PRESENT", "positive": "YES", "score": None, "failed": "NO", "dataset": run.digest}
    assert said == wanted
    assert (found.cases, found.refused, found.failed, found.unbacked) == (1, 0, 0, 0)


def test_results_are_made_and_kept(shadow: Shadow, labelled: Labelled) -> None:
    """SEG and SR lie in the folder of the call with the digests that the log has; nothing was put anywhere else."""
    labelled.add()
    shadow.evaluation(labelled.write(), shadow.approve()).run(quiet)
    [result] = shadow.entries(K.CALL_RESULT)
    files = sorted(path.name for path in (shadow.folder / "evaluation" / str(result.call)).iterdir())
    assert files == ["findings.npz", "seg.dcm", "sr.dcm"]
    assert not shadow.entries(K.RELEASED)


def test_a_volume_without_an_outline(shadow: Shadow, labelled: Labelled) -> None:
    """A volume that a person measured is compared with the model's, in cm3; there is no Dice then."""
    labelled.add(label={"truth": None, "mask": None, "volume_cm3": "2.5"})
    shadow.evaluation(labelled.write(), shadow.approve()).run(quiet)
    said = shadow.case_of(0)
    measured = int(ball(site.BALL_RADIUS).sum()) / 1000
    assert (said["dice"], said["positive"]) == (None, None)
    assert float(said["volume_error"]) == pytest.approx((measured - 2.5) / 2.5, abs=1e-6)


def test_again_adds_nothing(shadow: Shadow, labelled: Labelled) -> None:
    """The same set, model and approval: the entries are found, the model is not asked, the numbers are the same."""
    labelled.add()
    labelled.add(drawn=8.0)
    approval, root = shadow.approve(), labelled.write()
    first = shadow.evaluation(root, approval)
    found = first.run(quiet)
    entry = first.conclude(found, 0, "sha256:" + "1" * 64)
    before = len(shadow.entries()), shadow.device.inferred
    again = shadow.evaluation(root, approval)
    assert again.run(quiet) == found
    assert again.conclude(found, 0, "sha256:" + "1" * 64) == entry
    assert (len(shadow.entries()), shadow.device.inferred) == before
    assert differences(shadow.entries(), {approval.id: []}, code=evaluating.code_digest()) == ()


@pytest.mark.parametrize("at", range(7))
def test_cut_off_anywhere(shadow: Shadow, labelled: Labelled, at: int) -> None:
    """Cut off at any append, the next run ends it: each case once, and no model run twice for one that had answered."""
    labelled.add()
    labelled.add(drawn=8.0)
    approval, root = shadow.approve(), labelled.write()
    shadow.log.refuse_at = at
    try:
        shadow.evaluation(root, approval).run(quiet)
    except AuditUnavailable:
        assert at < 6
    shadow.log.refuse_at = -1
    shadow.evaluation(root, approval).run(quiet)
    kinds = [entry.kind for entry in shadow.entries(*ONE)]
    assert kinds == ONE * 2
    assert shadow.device.inferred == 2


def test_another_approval_runs_again(shadow: Shadow, labelled: Labelled) -> None:
    """An approval is accepted by its own calls: a new one has all cases run anew, under other calls."""
    labelled.add()
    root = labelled.write()
    for number in (1, 2):
        found = shadow.evaluation(root, shadow.approve(number)).run(quiet)
        assert (found.cases, found.judged) == (1, 1)
    first, second = shadow.entries(K.CASE)
    assert first.call != second.call
    assert [entry.body["approval"] for entry in shadow.entries(K.CALL_INTENT)] == ["TEST-0001", "TEST-0002"]


def test_refused_is_no_failure(shadow: Shadow, labelled: Labelled) -> None:
    """A patient whom the approval does not cover is refused, logged and counted; the model is not asked."""
    labelled.add(PatientAge="005Y", PatientBirthDate="20210101")
    approval = shadow.approve()
    start = len(shadow.entries())
    found = shadow.evaluation(labelled.write(), approval).run(quiet)
    assert after(shadow, start) == [K.DENIED, K.CASE]
    denied = shadow.entries(K.DENIED)[0].body
    assert (denied["code"], denied["condition"], denied["observed"]) == ("CONDITION_NOT_MET", "AGE_YEARS", "5-9")
    said = shadow.case_of(0)
    assert (said["failed"], said["truth"], said["dice"], said["positive"]) == ("REFUSED", "PRESENT", None, None)
    assert (found.cases, found.refused, found.failed, found.rows) == (1, 1, 0, ())
    assert shadow.device.inferred == 0


@pytest.mark.parametrize(
    ("tags", "code"),
    [({"Modality": "CT"}, "NO_MODEL_FITS"), ({"SpacingBetweenSlices": "9", "ImagePositionPatient": [0, 0, 0]}, None)],
    ids=["another modality", "no volume"],
)
def test_unfit_is_refused(shadow: Shadow, labelled: Labelled, tags: dict[str, str], code: str | None) -> None:
    """Images of which the service would make no call are refused here as well, with the same code."""
    labelled.add(**tags)
    found = shadow.evaluation(labelled.write(), shadow.approve()).run(quiet)
    assert found.refused == 1
    assert code in {None, found.refusals[0][0]}


def test_a_stop_that_comes_just_before_the_intent_comes_first(shadow: Shadow, labelled: Labelled) -> None:
    """Between the gate's yes and its entry: the gate is asked again, and nothing is read."""
    labelled.add()
    approval = shadow.approve()
    run = shadow.evaluation(labelled.write(), approval)
    shadow.log.before_intent = lambda: shadow.case.switch("STOP", "reader", reason="OPERATOR")
    with pytest.raises(Refused) as refused:
        run.run(quiet)
    assert refused.value.code == "STOPPED"
    assert shadow.log.before_intent is None
    assert Kind.CALL_INTENT not in {entry.kind for entry in shadow.entries()}


def test_stopped_is_not_the_case_s_fault(shadow: Shadow, labelled: Labelled) -> None:
    """A refusal of the moment, such as an approval that has ended, ends the evaluation and is told of no case."""
    labelled.add()
    approval = shadow.approve()
    shadow.clock.at = approval.ends_at
    with pytest.raises(Refused) as refused:
        shadow.evaluation(labelled.write(), approval).run(quiet)
    assert refused.value.code == "SUSPENDED"  # by itself, with the approval's end
    assert not shadow.entries(K.DENIED, K.CASE)


@pytest.mark.parametrize(
    ("errors", "code"),
    [
        ([ModelFailed("MODEL_RUN_FAILED", "x")], "MODEL_RUN_FAILED"),
        ([EngineTimeout("DEADLINE_EXCEEDED", "x")], "DEADLINE_EXCEEDED"),
        ([EngineDied("ENGINE_DIED", "x"), EngineDied("ENGINE_DIED", "x")], "ENGINE_DIED"),
    ],
)
def test_failed_is_the_worst(shadow: Shadow, labelled: Labelled, errors: list[Exception], code: str) -> None:
    """A model that gives no answer found nothing of the outline; the failure is logged, and never tried away."""
    labelled.add()
    approval, root = shadow.approve(), labelled.write()
    shadow.device.failures = list(errors)
    found = shadow.evaluation(root, approval).run(quiet)
    said = shadow.case_of(0)
    assert (said["failed"], said["positive"]) == ("YES", None)
    assert (said["dice"], said["volume_error"]) == ("0.000000", "-1.000000")
    assert found.failures == ((code, 1),)
    assert shadow.evaluation(root, approval).run(quiet) == found
    assert shadow.device.inferred == len(errors)


def test_a_hard_set_suspends_nobody(shadow: Shadow, labelled: Labelled) -> None:
    """Six cases without an answer and one refused: as calls on patients they would suspend, as these they count not."""
    for _ in range(6):
        labelled.add()
    labelled.add(PatientAge="005Y", PatientBirthDate="20210101")
    approval, root = shadow.approve(), labelled.write()
    shadow.device.failures = [ModelFailed("MODEL_RUN_FAILED", "x") for _ in range(6)]
    shadow.evaluation(root, approval).run(quiet)
    entries = shadow.entries()
    named = [entry.body["purpose"] for entry in entries if entry.kind in {K.CALL_INTENT, K.DENIED}]
    assert named == ["ACCEPTANCE"] * 7
    served = [replace(one, body={k: v for k, v in one.body.items() if k != "purpose"}) for one in entries]
    thresholds = Plan.of(shadow.ref, MONITOR, "SUSPEND", approval.id)

    counted = {}
    for name, read in (("labelled", entries), ("served", served)):
        monitor = Monitor(thresholds)
        told = [one.reading.metric for entry in read for one in monitor.feed(fact_of(entry))]
        numbers = {one.reading.metric: one.reading.n for one in monitor.standing()}
        counted[name] = ("FAILURES_IN_A_ROW" in told, numbers["FAILURE_RATE"])

    assert counted == {"labelled": (False, 0), "served": (True, 5)}  # the sixth after the alarm


def test_one_death_is_tried_again(shadow: Shadow, labelled: Labelled) -> None:
    """A device that died once is asked once more, as in service."""
    labelled.add()
    shadow.device.failures = [EngineDied("ENGINE_DIED", "x")]
    assert shadow.evaluation(labelled.write(), shadow.approve()).run(quiet).failed == 0


def test_an_empty_answer_fails(shadow: Shadow, labelled: Labelled) -> None:
    """An answer that no reader would get, as the checks withhold it, is no answer."""
    labelled.add()
    shadow.device.answer = lambda voxels: np.zeros(voxels.shape, np.bool_)
    found = shadow.evaluation(labelled.write(), shadow.approve()).run(quiet)
    assert found.failed == 1


def test_our_own_fault_ends_it(shadow: Shadow, labelled: Labelled) -> None:
    """A device that is closed, or cannot load the model, says nothing of a case: to go on later."""
    labelled.add()
    approval, root = shadow.approve(), labelled.write()
    shadow.device.failures = [EngineClosed("ENGINE_CLOSED", "x")]
    with pytest.raises(EngineClosed):
        shadow.evaluation(root, approval).run(quiet)
    assert not shadow.entries(K.FAILED, K.CASE)
    shadow.device.refuses_to_load = ModelFailed("MODEL_LOAD_FAILED", "x")
    with pytest.raises(ModelFailed):
        shadow.evaluation(root, approval).run(quiet)
    assert not shadow.entries(K.FAILED, K.CASE)


def test_cut_off_after_a_failure(shadow: Shadow, labelled: Labelled) -> None:
    """A failure or refusal that was logged before its CASE is not tried again: the CASE says what the log says."""
    labelled.add()
    labelled.add(PatientAge="005Y", PatientBirthDate="20210101")
    approval, root = shadow.approve(), labelled.write()
    shadow.device.failures = [ModelFailed("MODEL_RUN_FAILED", "x")]
    for at in (2, 4):  # intent, failed | case, denied | case
        shadow.log.refuse_at = at
        with pytest.raises(AuditUnavailable):
            shadow.evaluation(root, approval).run(quiet)
    shadow.log.refuse_at = -1
    found = shadow.evaluation(root, approval).run(quiet)
    assert (found.failed, found.refused, found.unbacked) == (1, 1, 0)
    assert shadow.device.inferred == 1


def test_a_mask_elsewhere(shadow: Shadow, labelled: Labelled) -> None:
    """A mask of another grid ends the evaluation before the model is asked; the case is named to the hospital alone."""
    number = labelled.add()
    save_mask(labelled.root / "mask0.nii.gz", ball(5.0), origin=(-10.0, -20.0, -30.5))
    with pytest.raises(DatasetInvalid, match=f"case {number}: MASK_GRID"):
        shadow.evaluation(labelled.write(), shadow.approve()).run(quiet)
    assert not shadow.entries(K.CALL_INTENT)


def test_a_set_that_changes(shadow: Shadow, labelled: Labelled) -> None:
    """What changed while it was read is refused: its digest would name something else."""
    labelled.add()
    run = shadow.evaluation(labelled.write(), shadow.approve())

    def spoil(_done: int, _cases: int) -> None:
        (labelled.root / "mask0.nii.gz").write_bytes(b"other")

    with pytest.raises(DatasetInvalid, match="changed"):
        run.run(spoil)


def test_two_studies_in_a_folder(shadow: Shadow, labelled: Labelled) -> None:
    """A case is one study."""
    labelled.add()
    labelled.add()
    folder = labelled.root / f"{CANARY}-0"
    for path in (labelled.root / f"{CANARY}-1").iterdir():
        (folder / f"more-{path.name}").write_bytes(path.read_bytes())
    with pytest.raises(DatasetInvalid, match="2 studies"):
        shadow.evaluation(labelled.write(), shadow.approve()).run(quiet)


def test_a_segment_that_the_model_has_not(shadow: Shadow, labelled: Labelled) -> None:
    """Labels of another structure are refused before anything is read."""
    labelled.add()
    with pytest.raises(DatasetInvalid, match="no segment 2"):
        shadow.evaluation(labelled.write(segment=2), shadow.approve())


def test_nothing_names_anybody(shadow: Shadow, labelled: Labelled) -> None:
    """No entry holds a case's id, its folder's name, a patient's name, number, birth date, or a UID of the images."""
    labelled.add()
    labelled.add(PatientAge="005Y", PatientBirthDate="20210101")
    shadow.evaluation(labelled.write(), shadow.approve()).run(quiet)
    told = b"".join(entry.to_bytes() for entry in shadow.entries() if entry.kind is not K.APPROVAL)
    study = str(shadow.entries(K.CALL_INTENT)[0].body["study"])
    assert study.encode() in told
    uid = uids.derive("TEST", "case 0", "study")
    assert any(uid.encode() in path.read_bytes() for path in labelled.root.rglob("*.dcm"))
    for word in (CANARY, "Phantom", "测试", "TEST-0001^", "19560101", "20210101", uid, "test-set", "mask0"):
        assert word.encode() not in told
    # Nothing is kept that could lead from a labelled case to a person.
    assert not (shadow.folder / "identity").exists()


def test_code_is_named() -> None:
    """Every source that decides a number is there, and is part of the digest."""
    assert evaluating.code_digest().startswith("sha256:")
    assert {"metrics.py", "acceptance.py", "truth.py", "evaluating.py"} <= {name for _, name in evaluating.SOURCES}
