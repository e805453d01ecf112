"""What must not be read ends as a refusal with a code that a person, a program and the log all give."""

import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from pydicom import dcmread

from audit.entry import Kind
from audit.errors import AuditCorrupt
from dicom_bridge import uids
from dicom_bridge.result_context import NOT_PERFORMED
from ethics_review.errors import ApprovalForged
from models.errors import ModelChanged
from models.library import Library
from models.ref import ModelRef
from service import wire
from tests.simulators import nursery
from tests.simulators.pacs import FakePacs
from tests.simulators.parties import Case
from tests.simulators.site import Site, write_series
from tests.simulators.validators import dciodvfy
from tests.simulators.waiting import until

ZHIYING = Path(sys.executable).with_name("zhiying")


@pytest.fixture(scope="module")
def pacs() -> Iterator[FakePacs]:
    """A PACS; in this file it must stay empty but where a study is read."""
    with FakePacs() as running:
        yield running


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory, pacs: FakePacs) -> Iterator[Site]:
    """A running site with one approved model."""
    made = Site(tmp_path_factory.mktemp("site"), pacs)
    made.approve(made.install_model())
    made.start()
    yield made
    made.stop()


def _told(site: Site, study_uid: str) -> dict[str, Any]:
    """What `zhiying studies show --json` says once the study's run has ended."""
    site.run_in("REFUSED", "FAILED", "RELEASED", study=study_uid)
    command = [ZHIYING, "studies", "show", study_uid, "--json", "--config", site.config_file]
    done = nursery.run(command)
    told: dict[str, Any] = json.loads(done.stdout)
    return told


def _study_of(files: list[Path]) -> str:
    import pydicom

    return str(pydicom.dcmread(files[0], stop_before_pixels=True).StudyInstanceUID)


CASES = {
    "a CT series": ({"modality": "CT"}, "SELECTED", "NO_MODEL_FITS", "MODALITY"),
    "a missing slice": ({"skip": (11,)}, "PERMITTED", "SLICE_MISSING", None),
    "five slices": ({"count": 5}, "SELECTED", "NO_MODEL_FITS", "SLICES"),
    "slices too far apart": ({"step_mm": 3.0}, "PERMITTED", "SLICE_SPACING_OUT_OF_RANGE", None),
}


@pytest.mark.timeout(600)
@pytest.mark.parametrize("name", CASES)
def test_an_unfit_study_is_refused(site: Site, pacs: FakePacs, tmp_path: Path, name: str) -> None:
    """Screen, command line and log give one code and the rule that decided; the model is never asked."""
    options, stage, code, condition = CASES[name]
    files = write_series(tmp_path, seed=name, **options)
    before = len(site.entries())

    assert set(site.send(files)) == {0}
    told = _told(site, _study_of(files))

    assert (told["state"], told["code"]) == ("REFUSED", code)
    assert told["runs"][0]["condition"] == condition
    new = [entry for entry in site.entries() if entry.index >= before]
    denied = [entry.body for entry in new if entry.kind == "DENIED"]
    assert [(d["stage"], d["code"], d["condition"]) for d in denied] == [(stage, code, condition)]
    assert "CALL_INTENT" not in [entry.kind for entry in new]
    assert pacs.stored == {}


@pytest.mark.timeout(600)
def test_no_approval_no_inference_then_approval_and_resend(tmp_path: Path) -> None:
    """Without a third party's approval nothing runs; after it, sending the same study again has it read."""
    with FakePacs() as pacs:
        site = Site(tmp_path / "site", pacs)
        ref = site.install_model()
        files = write_series(tmp_path / "series")
        site.start()
        try:
            assert set(site.send(files)) == {0}
            refused = _told(site, _study_of(files))
            assert (refused["state"], refused["code"]) == ("REFUSED", "NO_APPROVAL")
            assert site.counted().get("CALL_INTENT") is None

            site.approve(ref)
            assert set(site.send(files)) == {0}
            site.run_in("RELEASED")
            # A third time: nothing new happens, and the PACS gets nothing twice.
            assert set(site.send(files)) == {0}
            site.settle()
            assert len(site.runs()) == 2
        finally:
            site.stop()

        assert site.counted()["CALL_RESULT"] == 1
        assert len(pacs.stored) == 2
        assert len(pacs.received) == 2


def _flip(path: Path, at: int) -> None:
    data = bytearray(path.read_bytes())
    data[at] ^= 1
    path.chmod(0o644)
    path.write_bytes(data)


@pytest.fixture
def still(tmp_path: Path) -> Iterator[tuple[Site, ModelRef]]:
    """A site with an approved model, not running."""
    with FakePacs() as pacs:
        site = Site(tmp_path / "site", pacs)
        ref = site.install_model()
        site.approve(ref)
        yield site, ref


@pytest.mark.parametrize(
    "name", ["models/model.pt", "manifest.json", "configs/inference.json", "configs/metadata.json"]
)
def test_a_changed_byte_in_a_model_is_named(still: tuple[Site, ModelRef], name: str) -> None:
    """Weights, manifest and configuration: the model is refused, and the file is named."""
    site, ref = still
    _flip(site.data / "models" / ref.name / ref.version / name, 10)

    with pytest.raises(ModelChanged, match=name.replace(".", r"\.")):
        Library(site.data / "models").open(ref)


def test_a_changed_byte_in_an_approval_is_refused(still: tuple[Site, ModelRef]) -> None:
    """A signed note with any other byte is not that approval."""
    site, ref = still
    note = site.approve(ref, number=2)

    with wire.offline_of(site.config) as opened, pytest.raises(ApprovalForged):
        opened.register.record(note.replace("test-review-centre", "test-review-center"))


def test_a_changed_byte_in_the_log_is_named(still: tuple[Site, ModelRef]) -> None:
    """The service does not start on a log that was edited, and `audit verify` names the place."""
    site, _ = still
    entries = (wire.audit_root(site.config) / "tile" / "entries").rglob("*")
    bundle = max((path for path in entries if path.is_file()), key=lambda path: path.stat().st_size)  # the one in use
    _flip(bundle, 60)

    command = [ZHIYING, "audit", "verify", "--config", site.config_file]
    done = nursery.run(command)

    assert done.returncode == 1
    assert "AUDIT_CORRUPT" in done.stderr
    assert "entries" in done.stderr
    with pytest.raises(AuditCorrupt), wire.offline_of(site.config):
        pass


@pytest.mark.timeout(600)
def test_a_changed_weight_stops_the_study(tmp_path: Path) -> None:
    """The byte is found when a study needs the model, not only when somebody asks."""
    with FakePacs() as pacs:
        site = Site(tmp_path / "site", pacs)
        ref = site.install_model()
        site.approve(ref)
        _flip(site.data / "models" / ref.name / ref.version / "models" / "model.pt", 100)
        site.start(degraded=True)
        try:
            assert site.checks()["golden"].startswith("MODEL_FILE_CHANGED"), "IT hears of it before a study does"
            site.send(write_series(tmp_path / "series"))
            run = site.run_in("REFUSED", "FAILED", "RELEASED")
        finally:
            site.stop()

        assert (run.state, run.code, run.observed) == ("REFUSED", "MODEL_FILE_CHANGED", "models/model.pt")
        assert pacs.stored == {}


@pytest.mark.timeout(600)
def test_the_pacs_shows_that_the_ai_did_not_run(tmp_path: Path) -> None:
    """Where the site wants it: one report for each refusal, valid, of no finding; the log has no release for it."""
    with FakePacs() as pacs:
        site = Site(tmp_path / "site", pacs, denials=True)
        ref = site.install_model()
        site.start()
        try:
            study = _sent(site, tmp_path / "one", "NO_APPROVAL")
            until(lambda: len(pacs.stored) == 1, what="the report of the refusal")
            site.approve(ref)
            with wire.offline_of(site.config) as opened:
                Case(site.parties, opened.register, opened.log, ref).switch("STOP", "reader", reason="DRILL")
            _sent(site, tmp_path / "two", "STOPPED")
            until(lambda: len(pacs.stored) == 2, what="the report of the stop, while it lasts")
        finally:
            site.stop()
        entries = site.entries()
    reports = {}
    for path in (site.data / "results").glob("denied-*/sr.dcm"):
        assert dciodvfy(path) == []
        ds = dcmread(path)
        said = ds.ContentSequence[-1].ContentSequence[1].TextValue
        reports[str(ds.SOPInstanceUID)] = (str(ds.StudyInstanceUID), str(ds.CompletionFlag), str(said))
    assert set(reports) == set(pacs.stored)
    denied = [entry for entry in entries if entry.kind is Kind.DENIED]
    assert {uids.derive("SR", entry.key) for entry in denied} == set(reports)
    first = reports[uids.derive("SR", denied[0].key)]
    assert first == (study, "PARTIAL", NOT_PERFORMED["zh-CN"].format(code="NO_APPROVAL"))
    assert {str(entry.body["code"]) in reports[uids.derive("SR", entry.key)][2] for entry in denied} == {True}
    assert not {Kind.CALL_INTENT, Kind.CALL_RESULT, Kind.RELEASED} & {entry.kind for entry in entries}


def _sent(site: Site, folder: Path, code: str) -> str:
    """Send a new study, which must end with this code; gives its UID."""
    files = write_series(folder, seed=folder.name)
    site.send(files)
    study = _study_of(files)
    assert site.run_in("REFUSED", "FAILED", "RELEASED", study=study).code == code
    return study
