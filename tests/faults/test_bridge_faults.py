"""The fault table of the DICOM bridge, against the service as it runs: whatever breaks, each row ends in `finish`.

That is: everything that was acknowledged is accounted for by `zhiying spool reconcile`, each result is in the PACS
once, and the audit log is whole. What the disk does at each single call is in `test_receive_faults`.
"""

from collections.abc import Callable, Iterator
from datetime import timedelta
from pathlib import Path

import numpy as np
import pytest
from pydicom.dataset import Dataset

from tests.simulators import series
from tests.simulators.faults_pacs import FaultyPacs
from tests.simulators.faults_site import ASSOCIATIONS_MAX, SLOW, FaultySite, make_study, write_study_again
from tests.simulators.site import COLUMNS, ROWS, SLICES
from tests.simulators.waiting import until

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]

LIMIT_S = 60.0
PATIENCE_S = 4.0
"""Of the service with a peer that says nothing: long enough for a busy machine, short enough for a test."""
SLOW_MODALITY = f"""
[[peers]]
name = "slow-modality"
ae_title = "{SLOW}"
host = "127.0.0.1"
port = 104
quiet_s = 4
"""
"""Who is cut off in the middle gets the time to come back, on a busy machine too."""


@pytest.fixture(scope="module")
def lasting(tmp_path_factory: pytest.TempPathFactory) -> Iterator[FaultySite]:
    """One site for all rows: whatever a row leaves behind, the next one's check covers too."""
    with FaultyPacs() as pacs:
        site = FaultySite(tmp_path_factory.mktemp("site"), pacs, more=SLOW_MODALITY)
        site.approve(site.install_model())
        site.levers.hurry(PATIENCE_S)
        yield site
        site.kill()


@pytest.fixture
def site(lasting: FaultySite) -> FaultySite:
    """The site, running."""
    if not lasting.alive:
        lasting.start()
    return lasting


# ---- 1. kill -9 while receiving --------------------------------------------------------------------------------------

MOMENTS: dict[str, Callable[[bytes], int]] = {
    "between two instances": lambda _message: 0,
    "inside the command": lambda _message: 60,
    "inside the pixels": lambda message: len(message) // 2,
    "before the answer": len,
}


@pytest.mark.parametrize("place", MOMENTS.values(), ids=MOMENTS.keys())
def test_killed_while_receiving(site: FaultySite, tmp_path: Path, place: Callable[[bytes], int]) -> None:
    """The power goes, for an hour: what was acknowledged is held, and the rest comes in time when its sender is back.

    However long the silence was, no run begins with half a study before its sender could come back.
    """
    study = make_study(tmp_path, f"killed {place(b'x' * 1000)}")
    with site.sender(SLOW) as peer:
        assert set(site.store(peer, *study.images[:9])) == {0}
        message = study.images[9].message
        peer.send(message[: place(message)])
        site.kill()
    assert site.problems() <= {"FILE_UNKNOWN"}  # held, and indexed by the next start
    site.levers.later(timedelta(hours=1))

    site.start()
    site.resend(study)

    site.finish(study)


# ---- 2. the disk fails -----------------------------------------------------------------------------------------------

FAILURES = [
    ("write", "ENOSPC", "before"),
    ("write", "EIO", "after"),
    ("adopt", "EIO", "before"),
    ("adopt", "ENOSPC", "after"),
]


@pytest.mark.parametrize(("call", "how", "when"), FAILURES, ids=[" ".join(row) for row in FAILURES])
def test_a_spool_that_fails_for_a_while(site: FaultySite, tmp_path: Path, call: str, how: str, when: str) -> None:
    """Refused with 0xA700 and not held; the association, the service and the study go on when the disk does."""
    study = make_study(tmp_path, f"{call} {how} {when}")
    with site.sender() as peer:
        assert set(site.store(peer, *study.images[:5])) == {0}
        site.levers.fail("spool", call, how, when)
        assert set(site.store(peer, *study.images[5:9])) == {0xA700}
        assert site.healthy()
        site.levers.mend("spool")
        assert set(site.store(peer, *study.images[5:7])) == {0}
        site.resend(study)

    site.finish(study)


@pytest.mark.parametrize("call", ["create_same", "replace"])
def test_an_audit_log_that_cannot_be_written_stops_the_ai_alone(site: FaultySite, tmp_path: Path, call: str) -> None:
    """I4: images are received and kept, no model runs; as soon as the log can be written the story goes on."""
    study = make_study(tmp_path, f"log {call}")
    before, waited = site.counted(), site.logged("step_waits")
    site.levers.fail("audit", call, "ENOSPC")

    assert set(site.send(study.files)) == {0}
    until(lambda: site.logged("step_waits") > waited + 1, LIMIT_S, "the story waits")
    assert site.counted() == before
    assert site.reconcile()["fates"]["IN_PROGRESS"] == SLICES

    site.levers.mend("audit")
    site.finish(study)


# ---- 6, 7. senders that vanish ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("place", [0, 700], ids=["half-open", "in mid-PDU"])
def test_peers_that_say_nothing_more(site: FaultySite, tmp_path: Path, place: int) -> None:
    """No FIN, no RST, no byte: the others are served, and each place is free again after a while."""
    study = make_study(tmp_path, f"silent {place}")
    silent = []
    for image in study.images[: ASSOCIATIONS_MAX - 1]:
        silent.append(site.sender())
        silent[-1].send(image.message[:place])

    assert set(site.send(study.files)) == {0}
    silent.append(site.sender())
    assert site.rejects_more()

    until(lambda: not site.rejects_more(), LIMIT_S, "a place is free again")
    for peer in silent:
        peer.close()
    site.finish(study)


# ---- 8, 9. the same again, and not the same --------------------------------------------------------------------------


def test_a_study_that_is_sent_again_and_again(site: FaultySite, tmp_path: Path) -> None:
    """During its run, after it, and from two senders at once: acknowledged, run once, delivered once."""
    study = make_study(tmp_path, "again")
    site.levers.hold("INFERRED", "before")
    assert set(site.send(study.files)) == {0}
    until(site.levers.held, LIMIT_S, "the run is under way")
    assert set(site.send(study.files)) == {0}
    site.settle()
    site.levers.release()
    site.finish(study)

    with site.sender() as peer:
        for image in study.images:
            assert site.store(peer, image) == [0]
        assert set(site.send(study.files)) == {0}
    site.settle()
    site.finish(study)


def test_other_pixels_under_a_held_uid(site: FaultySite, tmp_path: Path) -> None:
    """The first stays and is what the result speaks of; the newcomer is in quarantine, and is counted there."""
    study = make_study(tmp_path, "conflict")

    def spoil(number: int, ds: Dataset) -> None:
        if number == 3:
            series.set_pixels(ds, np.full((ROWS, COLUMNS), 7, dtype=np.int16))

    other = write_study_again(study, tmp_path / "other", spoil)
    before = site.reconcile()["fates"]["QUARANTINED"]
    with site.sender() as peer:
        assert set(site.store(peer, *study.images)) == {0}
        assert set(site.store(peer, *other.images)) == {0}

    site.finish(study)

    assert site.reconcile()["fates"]["QUARANTINED"] == before + 1
    (record,) = site.quarantined("CONFLICT")
    assert record.with_suffix(".bin").read_bytes().endswith(other.images[3].encoded)
    (held,) = (site.data / "spool" / "studies").glob(f"*/{study.images[3].uid}.dcm")
    assert held.read_bytes().endswith(study.images[3].encoded)


# ---- 10. retention ---------------------------------------------------------------------------------------------------

A_DAY = timedelta(hours=25)


def _let_go(site: FaultySite) -> bool:
    return site.reconcile()["fates"].get("LET_GO") == len(site.acknowledged)


def test_pixels_leave_and_stay_accounted_for(site: FaultySite, tmp_path: Path) -> None:
    """A day after its end no pixel of a study is here, each is accounted for, and a resend changes nothing."""
    study = make_study(tmp_path, "retention")
    assert set(site.send(study.files)) == {0}
    site.finish(study)

    site.levers.later(A_DAY)
    until(lambda: _let_go(site), LIMIT_S, "every image is let go")
    assert list((site.data / "spool" / "studies").rglob("*.dcm")) == []
    site.check()

    assert set(site.send(study.files)) == {0}
    site.finish(study)
    site.levers.later(A_DAY)
    until(lambda: _let_go(site), LIMIT_S, "the resent images are let go too")
    site.finish(study)


def test_a_late_image_of_a_study_that_has_left(site: FaultySite, tmp_path: Path) -> None:
    """Alone it is no study: refused with a reason that a person can see, and the result stays as it was."""
    study = make_study(tmp_path, "late")
    first = study.without(SLICES - 1)
    assert set(site.send(first.files)) == {0}
    site.finish(first)
    site.levers.later(A_DAY)
    until(lambda: _let_go(site), LIMIT_S, "every image is let go")

    site.resend(study)

    run = site.run_in("REFUSED", "FAILED", study=study.uid)
    assert (run.state, run.code) == ("REFUSED", "IMAGES_GONE")
    assert site.check()["ENDED"] == 1


CUTS = [("KILL", "after"), ("EIO", "before")]


@pytest.mark.parametrize(("how", "when"), CUTS, ids=[" ".join(row) for row in CUTS])
def test_letting_go_that_is_cut_off(site: FaultySite, tmp_path: Path, how: str, when: str) -> None:
    """Killed between two files, or a disk that fails: the rest goes later, and nothing was unaccounted for between."""
    study = make_study(tmp_path, f"cut off {how} {when}")
    assert set(site.send(study.files)) == {0}
    site.finish(study)
    put_off = site.logged("chore_put_off")
    site.levers.fail("spool", "remove", how, when, number=5)
    site.levers.later(A_DAY)
    if how == "KILL":
        assert site.wait_for_death() == -9
    else:
        until(lambda: site.logged("chore_put_off") > put_off, LIMIT_S, "the disk refuses")
    site.check()
    site.levers.mend("spool")

    if how == "KILL":
        site.start()
    site.levers.later(timedelta(minutes=2))
    until(lambda: _let_go(site), LIMIT_S, "the rest is let go")
    site.check()
