"""The way to the PACS: asleep, refusing, or given more images after it had a result."""

import json
import sys
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest
from pydicom import dcmread
from pydicom.dataset import Dataset

from tests.simulators import nursery
from tests.simulators.pacs import COMPREHENSIVE_3D_SR, FakePacs
from tests.simulators.site import Site, write_series
from tests.simulators.waiting import until

ZHIYING = Path(sys.executable).with_name("zhiying")


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    """One running service with an approved model; each test sends a study of its own."""
    with FakePacs() as pacs:
        made = Site(tmp_path_factory.mktemp("site"), pacs)
        made.approve(made.install_model())
        made.start()
        yield made
        made.stop()


def _study(files: list[Path]) -> str:
    return str(dcmread(files[0], stop_before_pixels=True).StudyInstanceUID)


def _reports(site: Site, study: str) -> list[Dataset]:
    return [ds for ds in site.pacs.held(COMPREHENSIVE_3D_SR) if ds.StudyInstanceUID == study]


@pytest.mark.timeout(600)
def test_a_pacs_that_was_asleep_gets_the_result_once(site: Site, tmp_path: Path) -> None:
    """The result waits while the PACS is away, and arrives by itself, once."""
    before = len(site.pacs.stored)
    site.pacs.down()
    files = write_series(tmp_path, seed="asleep")
    assert set(site.send(files)) == {0}
    assert site.run_in("WRITTEN", "FAILED", study=_study(files)).state == "WRITTEN"
    site.pacs.up()

    run = site.run_in("RELEASED", study=_study(files))

    assert run.state == "RELEASED"
    assert len(site.pacs.stored) == before + 2
    assert site.pacs.complaints == []


@pytest.mark.timeout(600)
def test_a_result_that_is_refused_for_good_is_seen(site: Site, tmp_path: Path) -> None:
    """0xC000 is never retried: the study says UNDELIVERED with the status, and so does the log."""
    site.pacs.answer(0xC000)
    files = write_series(tmp_path, seed="refused")
    assert set(site.send(files)) == {0}

    run = site.run_in("UNDELIVERED", study=_study(files))

    assert (run.code, run.stage, run.fault) == ("STATUS_C000", "RELEASED", "SITE")
    failed = [entry.body for entry in site.entries() if entry.kind == "FAILED"]
    assert [body["code"] for body in failed] == ["STATUS_C000"]


@pytest.mark.timeout(600)
def test_late_images_supersede(site: Site, tmp_path: Path) -> None:
    """Three slices late: one more report and segmentation, the first ones as they were, and nothing twice.

    The second report names the first as its one predecessor (I6).
    """
    files = write_series(tmp_path, seed="late")
    before = set(site.pacs.stored)
    by_place = sorted(files, key=lambda path: dcmread(path, stop_before_pixels=True).InstanceNumber)
    study = _study(files)
    assert set(site.send(by_place[3:])) == {0}
    site.run_in("RELEASED", study=study)
    first = _reports(site, study)
    assert len(first) == 1
    kept = {uid: body for uid, body in site.pacs.stored.items() if uid not in before}

    assert set(site.send(by_place[:3])) == {0}
    site.settle()
    site.run_in("RELEASED", study=study)

    old, new = sorted(_reports(site, study), key=lambda ds: "PredecessorDocumentsSequence" in ds)
    assert old == first[0]
    (document,) = new.PredecessorDocumentsSequence
    (of_series,) = document.ReferencedSeriesSequence
    (named,) = of_series.ReferencedSOPSequence
    assert named.ReferencedSOPInstanceUID == old.SOPInstanceUID
    assert (document.StudyInstanceUID, of_series.SeriesInstanceUID) == (study, old.SeriesInstanceUID)
    later = {uid: body for uid, body in site.pacs.stored.items() if uid not in before | kept.keys()}
    assert {uid: site.pacs.stored[uid] for uid in kept} == kept, "the first ones are as they were"
    assert (len(kept), len(later)) == (2, 2), "a report and a segmentation each time, and nothing else"
    segmentations = [uid for uid in later if uid != new.SOPInstanceUID]
    assert [uid for uid in segmentations if uid.encode() in later[new.SOPInstanceUID]] == segmentations
    assert not any(uid.encode() in later[new.SOPInstanceUID] for uid in kept if uid != old.SOPInstanceUID)
    assert site.pacs.complaints == []
    runs = [run for run in site.runs() if run.study_uid == study]
    assert [run.state for run in runs] == ["RELEASED", "RELEASED"]
    told = [entry.kind.value for entry in site.entries() if entry.call in {run.call for run in runs}]
    assert [told.count(kind) for kind in ("CALL_RESULT", "RELEASED", "FAILED")] == [2, 2, 0]


@pytest.mark.timeout(600)
def test_a_second_service_on_the_same_folder_is_refused(site: Site) -> None:
    """Two services would fight for one spool: the second says so in one line."""
    done = nursery.run([ZHIYING, "serve", "--config", site.config_file])

    assert done.returncode == 1
    assert done.stderr.startswith("error ALREADY_RUNNING: ")
    assert done.stderr.count("\n") == 1


@pytest.mark.timeout(600)
def test_the_service_and_the_command_line_agree(site: Site) -> None:
    """What the API says of the head of the log is what `zhiying audit head` says."""
    command = [ZHIYING, "audit", "head", "--json", "--config", site.config_file]
    told = {}

    def agree() -> bool:  # again while the service still writes what follows from the test before
        with urllib.request.urlopen(f"http://127.0.0.1:{site.http_port}/audit/head", timeout=30) as answer:
            told["api"] = json.load(answer)
        told["command"] = json.loads(nursery.run(command).stdout)
        return bool(told["api"]["size"] == told["command"]["size"])

    until(agree, what=f"one head: {told}")

    assert told["command"]["size"] == len(site.entries()) > 0
