"""kill -9 at every step of the story, then a restart: the study completes exactly once."""

from pathlib import Path

import pytest

from service.pipeline import Step
from tests.simulators.pacs import FakePacs
from tests.simulators.site import Site, template_of, write_series

STEPS = [(step.value, moment) for step in Step for moment in ("before", "after")]
ENTRIES = [(kind, "logged") for kind in ("ASSEMBLED", "SELECTED", "CALL_INTENT", "CALL_RESULT", "RELEASED")]
CRASH_POINTS = [*STEPS, *ENTRIES, ("RELEASED", "delivered")]
ONCE = ("ASSEMBLED", "SELECTED", "CALL_INTENT", "CALL_RESULT", "RELEASED")


@pytest.fixture(scope="module")
def template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A site with an approved model, made once and copied for each row."""
    return template_of(tmp_path_factory.mktemp("template") / "site")


def _refuse_anything_twice(site: Site, pacs: FakePacs) -> None:
    """One SR, one SEG, one of each entry, nothing refused or failed, and a PACS without complaints."""
    counted = site.counted()
    assert {kind: counted.get(kind) for kind in ONCE} == dict.fromkeys(ONCE, 1)
    assert "DENIED" not in counted
    assert "FAILED" not in counted
    assert len(pacs.stored) == 2
    assert pacs.complaints == []


@pytest.mark.timeout(600)
@pytest.mark.parametrize(("step", "moment"), CRASH_POINTS)
def test_killed_there_it_completes_once(site: Site, pacs: FakePacs, tmp_path: Path, step: str, moment: str) -> None:
    """Whatever step is cut off, the restart finishes it and repeats nothing that anybody can see."""
    files = write_series(tmp_path / "series")
    site.start(die_at=(step, moment))
    assert set(site.send(files)) == {0}
    assert site.wait_for_death() == -9

    site.start()
    run = site.run_in("RELEASED", "REFUSED", "FAILED", "UNDELIVERED")

    assert (run.state, run.code) == ("RELEASED", None)
    _refuse_anything_twice(site, pacs)


@pytest.mark.timeout(600)
def test_killed_while_receiving(site: Site, pacs: FakePacs, tmp_path: Path) -> None:
    """The power goes in the middle of a series: what was acknowledged is there, and sending again completes it."""
    files = write_series(tmp_path / "series")
    site.start()
    assert set(site.send(files[:10])) == {0}
    site.kill()

    site.start()
    assert set(site.send(files)) == {0}
    run = site.run_in("RELEASED")

    assert run.state == "RELEASED"
    assert len(pacs.stored) == 2
    assert site.counted()["CALL_RESULT"] == 1


@pytest.mark.timeout(600)
def test_killed_twice(site: Site, pacs: FakePacs, tmp_path: Path) -> None:
    """A crash while the restart repairs an earlier crash changes nothing."""
    files = write_series(tmp_path / "series")
    site.start(die_at=("INFERRED", "after"))
    assert set(site.send(files)) == {0}
    assert site.wait_for_death() == -9
    site.start(die_at=("CALL_RESULT", "logged"))
    assert site.wait_for_death() == -9

    site.start()
    run = site.run_in("RELEASED", "REFUSED", "FAILED")

    assert run.state == "RELEASED"
    _refuse_anything_twice(site, pacs)
