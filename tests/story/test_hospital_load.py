"""A hospital's busy minutes through the whole service: everything delivered, nothing lost, nothing twice.

How quick it is, `make bench-hospital` measures; here only what becomes of each study counts.
"""

import io
import threading
from collections import Counter
from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest
from pydicom import dcmread

from service.store import State
from tests.simulators.hospital import Hospital, Study, arrivals, make_studies, make_study, send_hour
from tests.simulators.pacs import COMPREHENSIVE_3D_SR, SEGMENTATION, FakePacs
from tests.simulators.waiting import until

STUDIES = 36
LOAD_S = 20.0
KILL_AFTER = 8
"""Results in the PACS when the service is killed."""
ROUTINE = 10
INFER_S = 1.0
"""Long enough for a line to form behind two that are under way."""
pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]


@pytest.fixture(scope="module")
def studies(tmp_path_factory: pytest.TempPathFactory) -> list[Study]:
    """What the modalities hold; each test sends copies of its own."""
    return make_studies(tmp_path_factory.mktemp("modalities"), STUDIES)


@pytest.fixture
def hospital(tmp_path: Path) -> Iterator[Hospital]:
    """A site with an approved model, and its PACS."""
    with FakePacs() as pacs:
        made = Hospital(tmp_path, pacs)
        made.approve(made.install_model())
        yield made
        made.kill()


def _in_the_pacs(pacs: FakePacs) -> Counter[tuple[str, str]]:
    """How many objects of each SOP class each study has there."""
    held = [dcmread(io.BytesIO(body), force=True, stop_before_pixels=True) for body in pacs.stored.values()]
    return Counter((str(ds.StudyInstanceUID), str(ds.SOPClassUID)) for ds in held)


def _each(numbers: Mapping[str, int]) -> dict[tuple[str, str], int]:
    """So many SR and SEG of each study."""
    return {(uid, kind): number for uid, number in numbers.items() for kind in (COMPREHENSIVE_3D_SR, SEGMENTATION)}


def _kill_in_the_middle(hospital: Hospital) -> threading.Thread:
    """Kill the service when some results have arrived, and start it again."""

    def kill() -> None:
        until(lambda: len(hospital.pacs.stored) >= 2 * KILL_AFTER, what="some results are in the PACS")
        hospital.kill()
        hospital.start()

    thread = threading.Thread(target=kill)
    thread.start()
    return thread


def test_a_busy_hour_is_delivered_whole(hospital: Hospital, studies: list[Study]) -> None:
    """36 studies in 20 s, in bursts: one SEG and one SR of each in the PACS, none refused, none twice."""
    hospital.start()
    send_hour(studies, [at * LOAD_S for at in arrivals(STUDIES, hour_s=1.0)], hospital.dicom_port)
    hospital.wait_until_all_ended(studies, 120)

    assert [one.acknowledged for one in studies] == [one.images for one in studies]
    assert hospital.ended(studies) == {one.uid: [State.RELEASED] for one in studies}
    assert _in_the_pacs(hospital.pacs) == _each({one.uid: 1 for one in studies})
    assert hospital.pacs.complaints == []
    counted = hospital.counted()
    steps = ("ASSEMBLED", "SELECTED", "CALL_INTENT", "CALL_RESULT", "RELEASED")
    assert {kind: counted.get(kind) for kind in steps} == dict.fromkeys(steps, STUDIES)
    assert not {"DENIED", "FAILED"} & set(counted)


def test_an_urgent_study_overtakes(tmp_path: Path, studies: list[Study]) -> None:
    """While routine studies wait for the device one comes that is STAT: of all that have not begun it is the next."""
    urgent = make_study(tmp_path / "urgent", "stat", priority="STAT")
    everybody = [*studies[:ROUTINE], urgent]
    (tmp_path / "site").mkdir()
    with FakePacs() as pacs:
        hospital = Hospital(tmp_path / "site", pacs, infer_s=INFER_S)
        hospital.approve(hospital.install_model())
        hospital.start()
        send_hour(everybody, [0.1 * place for place in range(len(everybody))], hospital.dicom_port)
        hospital.wait_until_all_ended(everybody, 120)
        runs, at = hospital.runs(), hospital.at_stamps()
        hospital.kill()

    assert {run.state for run in runs} == {State.RELEASED}
    assert [run.study_uid for run in runs if run.urgent] == [urgent.uid]
    began = {run.study_uid: at["ASSEMBLED", "before", run.run_id] for run in runs}
    complete_at = next(run.created_at.timestamp() for run in runs if run.urgent)
    later = [uid for uid, begun_at in began.items() if begun_at > complete_at]
    overtaken = [uid for uid in later if began[uid] > began[urgent.uid]]
    assert len(overtaken) >= 3
    # One that was just being handed on when the urgent one was complete is not put aside.
    assert len(later) - 1 - len(overtaken) <= 1


def test_killed_in_the_middle_of_it_nothing_is_lost_or_doubled(hospital: Hospital, studies: list[Study]) -> None:
    """kill -9 while some studies arrive, some wait, some run and some are sent: after a restart all are delivered.

    A modality that was cut off sends again, as modalities do. A part that was acknowledged before may have become a run
    of its own, which the whole then supersedes; what the PACS has is exactly what was released, each once.
    """
    hospital.start()
    killed = _kill_in_the_middle(hospital)
    times = [at * LOAD_S for at in arrivals(STUDIES, hour_s=1.0)]
    send_hour(studies, times, hospital.dicom_port, patience_s=120)
    killed.join()
    hospital.wait_until_all_ended(studies, 120)

    ended = hospital.ended(studies)
    assert {states[-1] for states in ended.values()} == {State.RELEASED}
    released = Counter({uid: states.count(State.RELEASED) for uid, states in ended.items()})
    assert _in_the_pacs(hospital.pacs) == _each(released)
    assert hospital.pacs.complaints == []
    counted = hospital.counted()
    assert counted["RELEASED"] == counted["CALL_RESULT"] == released.total()
    assert "FAILED" not in counted
