"""A model of which one output fails: the rest is released as partial, once, wherever the service is killed."""

from pathlib import Path

import pytest
from pydicom.dataset import Dataset
from pydicom.uid import Comprehensive3DSRStorage

from audit import verifier
from audit.entry import Kind
from models.library import Library
from tests.simulators import scoring_model, small_model
from tests.simulators.handed_over import packed
from tests.simulators.pacs import FakePacs
from tests.simulators.site import Site, write_series

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]

CRASH_POINTS = [("INFERRED", "after"), ("CALL_RESULT", "logged"), ("RELEASED", "delivered")]
ONCE = ("ASSEMBLED", "SELECTED", "CALL_INTENT", "CALL_RESULT", "RELEASED")
BAD = int(scoring_model.NOT_A_NUMBER)
"""Brightness of the ball with which the second score is no number."""


def made(root: Path, partial: str) -> Path:
    """A site with an approved model of a segment and three scores."""
    fields = small_model.manifest_fields()
    fields["measurements"][0] |= {"plausible": [0.1, 50.0]}
    drawn = {"segments": fields["segments"], "measurements": fields["measurements"]}
    with FakePacs() as pacs:
        site = Site(root, pacs)
    staged = scoring_model.stage(
        root / "staged", scoring_model.Both, scoring_model.INVERT, **drawn, partial=partial, name="small-model"
    )
    site.approve(Library(site.data / "models").install(staged), number=1001)
    return root


@pytest.fixture(scope="module")
def template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A site whose model may lose outputs, made once and copied for each row."""
    return made(tmp_path_factory.mktemp("template") / "site", "allow")


def report(pacs: FakePacs) -> Dataset:
    """The one report that the PACS holds."""
    [sr] = pacs.held(Comprehensive3DSRStorage)
    return sr


def said(sr: Dataset) -> dict[str, str]:
    """What the report states, by the name of what it states it of."""
    container = sr.ContentSequence[-1]
    codes = [item for item in container.ContentSequence if item.ValueType == "CODE"]
    return {
        str(item.ConceptNameCodeSequence[0].CodeMeaning): str(item.ConceptCodeSequence[0].CodeMeaning) for item in codes
    }


@pytest.mark.parametrize(("step", "moment"), CRASH_POINTS)
def test_killed_there_it_is_released_once_as_partial(
    site: Site, pacs: FakePacs, tmp_path: Path, step: str, moment: str
) -> None:
    """Findings on disk, log, report and the table of runs say the same after the restart; the package verifies."""
    files = write_series(tmp_path / "series", value=BAD)
    site.start(die_at=(step, moment))
    assert set(site.send(files)) == {0}
    assert site.wait_for_death() == -9

    site.start()
    run = site.run_in("RELEASED", "REFUSED", "FAILED", "UNDELIVERED")

    assert (run.state, run.code, run.fault) == ("RELEASED", "PARTLY_FAILED", "MODEL")
    counted = site.counted()
    assert {kind: counted.get(kind) for kind in ONCE} == dict.fromkeys(ONCE, 1)
    assert {"DENIED", "FAILED"}.isdisjoint(counted)
    [result] = [entry for entry in site.entries() if entry.kind is Kind.CALL_RESULT]
    assert result.body["outcome"] == "PARTLY_FAILED"
    assert result.body["failed"] == ({"output": "classification:calm", "code": "MODEL_OUTPUT_INVALID"},)
    assert len(pacs.stored) == 2  # SEG and SR
    assert pacs.complaints == []
    sr = report(pacs)
    assert (sr.CompletionFlag, sr.CompletionFlagDescription) == ("PARTIAL", "Partly failed: MODEL_OUTPUT_INVALID")
    stated = said(sr)
    assert stated["CAD Processing and Findings Summary"] == "Not all algorithms succeeded; with findings"
    assert [stated[name] for name in ("Hemorrhage", "Normal", "Edema")] == ["Present", "Undetermined", "Undetermined"]
    site.stop()
    handed = packed(site, tmp_path / "package.zip")
    assert [one for one in handed.remarks if one.verdict == verifier.FAIL] == []


def test_what_passes_is_whole_and_what_may_not_fail_alone_fails(site: Site, pacs: FakePacs, tmp_path: Path) -> None:
    """The same model on a darker image; and the same image for a model whose manifest does not say so."""
    site.start()
    assert set(site.send(write_series(tmp_path / "series", value=90))) == {0}
    run = site.run_in("RELEASED", "REFUSED", "FAILED")
    assert (run.state, run.code) == ("RELEASED", None)
    assert report(pacs).CompletionFlag == "COMPLETE"
    site.kill()

    with FakePacs() as other:
        strict = Site(made(tmp_path / "strict", "refuse"), other)
        strict.start()
        try:
            assert set(strict.send(write_series(tmp_path / "bad", value=BAD))) == {0}
            run = strict.run_in("RELEASED", "REFUSED", "FAILED")
            assert (run.state, run.code, run.stage) == ("FAILED", "MODEL_OUTPUT_INVALID", "INFERRED")
            assert other.stored == {}
        finally:
            strict.kill()
