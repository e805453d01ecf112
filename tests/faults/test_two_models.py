"""Two models that both fit: each reads each study once, whatever is cut off, and stands for itself."""

from pathlib import Path

import pytest
from pydicom import dcmread
from pydicom.uid import Comprehensive3DSRStorage

from audit import verifier
from service import looking, views
from tests.simulators.handed_over import packed
from tests.simulators.pacs import FakePacs
from tests.simulators.site import Site, write_series
from tests.simulators.waiting import until

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]

NAMES = ("another-model", "small-model")
TWICE = ("ASSEMBLED", "SELECTED", "CALL_INTENT", "CALL_RESULT", "RELEASED")
CRASH_POINTS = [("SELECTED", "before"), ("SELECTED", "logged"), ("INFERRED", "after"), ("RELEASED", "delivered")]


@pytest.fixture(scope="module")
def template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A site with two models, both approved; made once and copied for each row."""
    root = tmp_path_factory.mktemp("template") / "site"
    with FakePacs() as pacs:
        made = Site(root, pacs)
        for number, name in enumerate(NAMES, 1001):
            made.approve(made.install_model(name=name), number=number)
    return root


def released(site: Site, number: int) -> None:
    """Wait until so many runs are RELEASED, and there are no others."""
    until(lambda: [run.state for run in site.runs()] == ["RELEASED"] * number, what=f"{number} runs are released")


@pytest.mark.parametrize(("step", "moment"), CRASH_POINTS)
def test_killed_there_each_completes_once(site: Site, pacs: FakePacs, tmp_path: Path, step: str, moment: str) -> None:
    """Killed there, and killed there again by whichever run comes to it next: two results, and nothing double."""
    files = write_series(tmp_path / "series")
    site.start(die_at=(step, moment))
    assert set(site.send(files)) == {0}
    assert site.wait_for_death() == -9
    site.start(die_at=(step, moment))
    until(lambda: not site.alive or len(pacs.stored) == 4, what="it dies again, or is done")
    site.kill()

    site.start()
    released(site, 2)

    counted = site.counted()
    assert {kind: counted.get(kind) for kind in TWICE} == dict.fromkeys(TWICE, 2)
    assert {"DENIED", "FAILED"}.isdisjoint(counted)
    assert len(pacs.stored) == 4
    assert pacs.complaints == []


def test_late_images_and_a_second_sending(site: Site, pacs: FakePacs, tmp_path: Path) -> None:
    """Each model's report is replaced by its own; the same images again change nothing; the package verifies."""
    files = write_series(tmp_path / "series")
    by_place = sorted(files, key=lambda path: int(dcmread(path, stop_before_pixels=True).InstanceNumber))
    site.start()
    assert set(site.send(by_place[3:])) == {0}
    released(site, 2)
    assert set(site.send(files)) == {0}
    released(site, 4)
    assert set(site.send(files)) == {0}
    site.settle()

    assert {(run.model or {})["name"] for run in site.runs()} == set(NAMES)
    assert site.counted()["RELEASED"] == len(site.runs()) == 4
    replaced = {}
    for ds in pacs.held(Comprehensive3DSRStorage):
        for document in ds.get("PredecessorDocumentsSequence", ()):
            (named,) = document.ReferencedSeriesSequence[0].ReferencedSOPSequence
            replaced[str(ds.SOPInstanceUID)] = str(named.ReferencedSOPInstanceUID)
    model_of = {one["uid"]: (run.model or {})["name"] for run in site.runs() for one in run.outputs}
    assert sorted(model_of[new] for new in replaced) == list(NAMES)
    assert all(model_of[new] == model_of[old] for new, old in replaced.items())
    site.stop()
    report = packed(site, tmp_path / "package.zip")
    assert [one for one in report.remarks if one.verdict == verifier.FAIL] == []


def test_one_that_is_stopped_does_not_stop_the_other(site: Site, pacs: FakePacs, tmp_path: Path) -> None:
    """One approval is for another sex: that model alone is refused, and the study shows what needs a person."""
    narrow = site.install_model(name="third-model")
    site.approve(narrow, number=1003, sex=["F"])
    files = write_series(tmp_path / "series")
    site.start()
    assert set(site.send(files)) == {0}
    until(
        lambda: sorted(run.state for run in site.runs()) == ["REFUSED", "RELEASED", "RELEASED"], what="three runs end"
    )

    (refused,) = (run for run in site.runs() if run.state == "REFUSED")
    assert ((refused.model or {})["name"], refused.code, refused.condition) == (
        "third-model",
        "CONDITION_NOT_MET",
        "SEX",
    )
    with looking.ledger(site.config_file) as (store, index):
        shown = views.study(store, index, refused.study_uid, None)
    assert shown is not None
    assert (shown["state"], shown["code"], len(shown["runs"])) == ("REFUSED", "CONDITION_NOT_MET", 3)
    assert len(pacs.stored) == 4
