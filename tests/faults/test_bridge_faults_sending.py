"""The fault table of the DICOM bridge, its sending half: what a PACS can do to a result of the running service.

Each row ends as those of `test_bridge_faults` do. Hours and days pass by a clock that the test moves.
"""

from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path

import pytest

from dicom_bridge.delivery import LOSSES_MAX
from tests.simulators.faults_pacs import FaultyPacs
from tests.simulators.faults_site import FaultySite, Study, make_study
from tests.simulators.pacs import Reporting

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]

A_MOMENT, AN_HOUR, A_DAY, A_WEEKEND = (timedelta(minutes=3), timedelta(hours=1), timedelta(hours=25), timedelta(days=3))


def _site(root: Path, pacs: FaultyPacs, abilities: str) -> FaultySite:
    made = FaultySite(root, pacs, pacs_more=abilities)
    made.approve(made.install_model())
    pacs.reports_to = (made.dicom_port, "ZHIYING")
    made.start()
    return made


@pytest.fixture(scope="module")
def finding(tmp_path_factory: pytest.TempPathFactory) -> Iterator[FaultySite]:
    """A site whose PACS answers C-FIND."""
    with FaultyPacs() as pacs:
        site = _site(tmp_path_factory.mktemp("finding"), pacs, "counts = true")
        yield site
        site.kill()


@pytest.fixture(scope="module")
def committing(tmp_path_factory: pytest.TempPathFactory) -> Iterator[FaultySite]:
    """A site whose PACS does storage commitment too."""
    with FaultyPacs() as pacs:
        site = _site(tmp_path_factory.mktemp("committing"), pacs, "counts = true\ncommitment = true")
        yield site
        site.kill()


def _result_of(site: FaultySite, folder: Path, seed: str) -> Study:
    """Send a new study, and wait until its result is made."""
    study = make_study(folder, seed)
    assert set(site.send(study.files)) == {0}
    site.run_in("WRITTEN", "RELEASED", "REFUSED", "FAILED", study=study.uid)
    return study


# ---- 3. the PACS is away ---------------------------------------------------------------------------------------------


def test_a_pacs_that_is_down_over_a_weekend_and_a_restart(finding: FaultySite, tmp_path: Path) -> None:
    """The result waits for days, through the death of the service, and goes out when the PACS is there again."""
    finding.pacs.down()
    study = _result_of(finding, tmp_path, "weekend")
    finding.batch_in(study, lambda batch: batch.attempts >= 2)
    finding.kill()
    finding.levers.later(A_WEEKEND)
    finding.start()
    tried = finding.batch_in(study, lambda batch: batch.attempts >= 3)
    assert tried.code == "PEER_UNREACHABLE"
    assert finding.check(waiting=1)["IN_PROGRESS"] == len(study.images)

    finding.pacs.up()
    finding.levers.later(AN_HOUR)

    finding.finish(study)
    assert finding.proofs()[-1] == "FOUND"


# ---- 4. the PACS accepts and forgets ---------------------------------------------------------------------------------


def test_a_commitment_that_fails(committing: FaultySite, tmp_path: Path) -> None:
    """The PACS answers 0x0000, then reports that it has nothing: sent again, and released when it has committed."""
    pacs = committing.pacs
    pacs.reporting, pacs.keeps = Reporting.NEW, False
    study = _result_of(committing, tmp_path, "reported lost")
    lost = committing.batch_in(study, lambda batch: batch.losses == 1)
    assert lost.code == "COMMITMENT_0112"
    assert committing.check(waiting=1)["IN_PROGRESS"] == len(study.images)

    pacs.keeps = True
    committing.levers.later(A_MOMENT)

    committing.finish(study)
    assert committing.proofs()[-1] == "COMMITMENT"


def test_a_commitment_that_never_comes_and_a_pacs_that_forgets(committing: FaultySite, tmp_path: Path) -> None:
    """No report in a day: the PACS is asked by C-FIND, has nothing, gets it again, and is asked again."""
    pacs = committing.pacs
    pacs.reporting = Reporting.SILENT
    pacs.finds = pacs.keeps = False
    study = _result_of(committing, tmp_path, "silent")
    committing.batch_in(study, lambda batch: batch.state == "ASKED")
    committing.levers.later(A_DAY)
    committing.batch_in(study, lambda batch: batch.code == "NOT_FOUND_YET")
    committing.kill()
    committing.start()
    lost = committing.batch_in(study, lambda batch: batch.losses == 1, jump=A_MOMENT)
    assert lost.code == "PEER_FORGETS"

    pacs.finds = pacs.keeps = True

    # The last jump may have had it sent once more before the PACS kept anything: then there is one loss more.
    committing.finish(study, jump=A_DAY)
    assert committing.proofs()[-1] == "FOUND"


def test_a_pacs_that_forgets_for_good(finding: FaultySite, tmp_path: Path) -> None:
    """After some losses a person has to look: a dead letter that is listed, and that one command sends again."""
    pacs = finding.pacs
    pacs.keeps = False
    study = _result_of(finding, tmp_path, "forgets")
    dead = finding.batch_in(study, lambda batch: batch.state == "DEAD", jump=timedelta(minutes=20))
    run = finding.run_in("UNDELIVERED", study=study.uid)
    assert (dead.code, run.code, dead.losses) == ("PEER_FORGETS", "PEER_FORGETS", LOSSES_MAX)
    assert finding.check(waiting=1)["ENDED"] >= len(study.images)
    (listed,) = finding.zhiying("outbox", "list", "--dead")
    assert (listed["batch"], listed["code"]) == (run.call, "PEER_FORGETS")

    pacs.keeps = True
    assert finding.zhiying("outbox", "resend", listed["batch"])["state"] == "PENDING"

    finding.run_in("RELEASED", study=study.uid)
    finding.finish(study)
    assert finding.proofs()[-1] == "FOUND"
    assert finding.zhiying("outbox", "list") == []


# ---- 5. the answer is lost -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("cuts", [1, 3])
def test_an_answer_that_is_lost_after_the_store(finding: FaultySite, tmp_path: Path, cuts: int) -> None:
    """Failed but persisted: the same bytes go again, and the PACS has them once."""
    pacs = finding.pacs
    before = len(pacs.received)
    pacs.cuts = cuts
    study = _result_of(finding, tmp_path, f"cut {cuts}")

    finding.finish(study)

    assert len(pacs.received) - before == 2 + cuts
