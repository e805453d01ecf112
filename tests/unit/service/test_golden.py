"""Golden cases in the service: run when they are due, written down once, and never in the way of anything."""

from __future__ import annotations

import errno
import json
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from typer.testing import CliRunner

from audit.entry import BODIES, Draft, Entry, Kind
from audit.errors import AuditUnavailable
from ethics_review.states import Cause
from inference.errors import EngineCancelled, EngineClosed, EngineDied, EngineError, EngineTimeout
from inference.golden import FOLDER
from inference.types import Prediction, Volume
from models.errors import LibraryUnavailable
from models.library import Library, VerifiedModel
from models.ref import ModelRef
from service.cli import app
from service.config import load
from service.doctor import FAIL, OK, _golden
from service.golden import GoldenRuns, case_of
from tests.simulators import golden_case
from tests.simulators.site import stage_model
from tests.simulators.watched import Ward, model_body

BLOCK_CM3 = "0.405"
"""Of golden_case.block at 1.5 mm, which the threshold model outlines exactly."""


def block_case(folder: Path, value: str = BLOCK_CM3) -> Path:
    """A case for the site's threshold model."""
    return golden_case.write_case(folder, golden_case.block(), golden_case.axial(1.5), {"brain_volume": value})


class FakeDevice:
    """An engine: labels what is bright; can be changed underneath, be away, and raise what it is told to."""

    def __init__(self) -> None:
        self.runtime = {"torch": "2.13.0", "driver": "550.1"}
        self.running = False
        self.raises: list[EngineError] = []
        self.runs = 0
        self.labels: Callable[[Volume], npt.NDArray[np.uint8]] = lambda volume: (volume.voxels > 0.5).astype(np.uint8)

    def infer(self, model: VerifiedModel, volume: Volume, deadline_s: float) -> Prediction:
        """See EnginePort."""
        assert deadline_s == model.manifest.deadline_s
        self.runs += 1
        if self.raises:
            raise self.raises.pop(0)
        self.running = True
        return Prediction(self.labels(volume), {"total": 1}, "cuda:0", dict(self.runtime))

    def describe(self) -> Mapping[str, Any]:
        """See service.golden.Device."""
        known = self.runtime if self.running else {}
        return {"device": "cuda:0" if self.running else "", "running": self.running, "runtime": dict(known)}


class House:
    """A ward with a library, a device and the chore."""

    def __init__(self, root: Path) -> None:
        self.ward = Ward(root)
        self.root = root
        self.library = Library(root / "models")
        self.device = FakeDevice()
        self.site: dict[str, Path] = {}
        self.told: list[str] = []

    def install(self, value: str | None = BLOCK_CM3, *, approved: bool = True) -> ModelRef:
        """The threshold model, with a case of its own unless `value` is None."""
        staged = stage_model(self.root / "staged")
        if value is not None:
            block_case(staged / FOLDER, value)
        ref = self.library.install(staged)
        if approved:
            self.ward.in_use(ref)
        return ref

    def runs(self, writer: Any = None) -> GoldenRuns:
        """The chore, as a start makes it."""
        ward = self.ward
        parts = (ward.log, writer or ward.log, ward.register, self.library, self.device, self.site, ward.clock)
        return GoldenRuns(*parts, self.told.append)  # type: ignore[arg-type]

    def said(self) -> list[tuple[str, str]]:
        """Occasion and outcome of each run in the log."""
        return [(str(e.body["occasion"]), str(e.body["outcome"])) for e in self.entries()]

    def entries(self) -> list[Entry]:
        """The GOLDEN entries."""
        return [entry for entry in self.ward.log.entries() if entry.kind is Kind.GOLDEN]


@pytest.fixture
def house(tmp_path: Path) -> Iterator[House]:
    """A house with nothing in it."""
    house = House(tmp_path)
    yield house
    house.ward.log.close()


def test_at_the_start_and_each_day(house: House) -> None:
    """Once when the service begins, and again when a day has passed; all of it in the entry."""
    ref = house.install()
    runs = house.runs()
    runs()
    runs()
    assert house.said() == [("START", "MATCH")]
    (entry,) = house.entries()
    BODIES[Kind.GOLDEN].check(entry.body, "body")
    assert entry.body["model"] == model_body(ref)
    assert entry.body["measurements"] == ({"code": "118565006", "value": "0.4", "unit": "cm3"},)
    assert (entry.body["difference"], entry.body["tolerance"]) == ("0.000000", "0.010000")
    assert (entry.body["device"], dict(entry.body["runtime"])) == ("cuda:0", house.device.runtime)  # type: ignore[arg-type]

    house.ward.clock.passes(hours=23)
    runs()
    assert house.device.runs == 1
    house.ward.clock.passes(hours=1)
    runs()
    assert house.said() == [("START", "MATCH"), ("DAILY", "MATCH")]
    assert (runs.state, house.told) == ("ok", ["MATCH", "MATCH"])


def test_after_a_change_underneath(house: House) -> None:
    """Another driver at a start, or under a running service, is an occasion of its own."""
    house.install()
    house.runs()()
    house.runs()()
    assert [occasion for occasion, _ in house.said()] == ["START", "START"]
    house.device.runtime = {"torch": "2.13.0", "driver": "560.2"}
    runs = house.runs()
    runs()
    house.device.runtime = {"torch": "2.14.0", "driver": "560.2"}
    runs()
    runs()
    assert [occasion for occasion, _ in house.said()] == ["START", "START", "DRIVER", "DRIVER"]


def test_a_mismatch_suspends(house: House) -> None:
    """A figure that is off by more than the tolerance is a MISMATCH, /health shows it, and the monitor suspends."""
    ref = house.install("0.410")
    runs = house.runs()
    runs()
    assert house.said() == [("START", "MISMATCH")]
    assert house.entries()[0].body["difference"] == "0.012195"
    assert runs.state == "GOLDEN_MISMATCH small-model 1.0"

    house.ward.monitoring()()
    assert [(model, cause) for model, cause, _ in house.ward.register.suspended] == [(ref, Cause.INTEGRITY)]


def test_what_did_not_come_out_is_run_again_soon(house: House) -> None:
    """An hour later, not a day later; when it comes out, /health is well again."""
    house.install()
    house.device.labels = lambda volume: np.zeros(volume.shape, np.uint8)
    runs = house.runs()
    runs()
    house.ward.clock.passes(minutes=59)
    runs()
    assert house.said() == [("START", "MISMATCH")]
    house.device.labels = FakeDevice().labels
    house.ward.clock.passes(minutes=2)
    runs()
    assert house.said() == [("START", "MISMATCH"), ("DAILY", "MATCH")]
    assert runs.state == "ok"


@pytest.mark.parametrize(
    ("raises", "said"),
    [
        ([EngineDied("ENGINE_DIED", "killed")], [("START", "MATCH")]),
        ([EngineDied("ENGINE_DIED", "killed")] * 2, [("START", "FAILED")]),
        ([EngineTimeout("DEADLINE_EXCEEDED", "late")], [("START", "FAILED")]),
        ([EngineClosed("ENGINE_CLOSED", "we stop")], []),
        ([EngineCancelled("ENGINE_CANCELLED", "its model was stopped")], []),
    ],
    ids=["died once", "died twice", "late", "closed", "stopped"],
)
def test_a_device_that_fails(house: House, raises: list[EngineError], said: list[tuple[str, str]]) -> None:
    """What dies is tried once more, as with a study; what gives nothing has FAILED; what we ended says nothing."""
    house.install()
    house.device.raises = raises
    house.runs()()
    assert house.said() == said
    for entry in house.entries():
        BODIES[Kind.GOLDEN].check(entry.body, "body")


class Unwilling:
    """A log that takes nothing while `full`."""

    def __init__(self, house: House) -> None:
        self._log = house.ward.log
        self.full = True

    def append(self, draft: Draft) -> Entry:
        """See service.golden.Writer."""
        if self.full:
            raise AuditUnavailable("the disk refuses", errno.ENOSPC)
        return self._log.append(draft)


def test_a_log_that_takes_nothing(house: House) -> None:
    """A run that could not be written down is written when it can be, and is not done again for that."""
    house.install()
    writer = Unwilling(house)
    runs = house.runs(writer)
    for _ in range(3):
        with pytest.raises(AuditUnavailable):
            runs()
    writer.full = False
    runs()
    assert (house.device.runs, house.said()) == (1, [("START", "MATCH")])


def test_only_what_the_site_has_use_for(house: House) -> None:
    """A model that nobody approved is not run, nor one that has no case; both are no trouble."""
    house.install(approved=False)
    runs = house.runs()
    runs()
    assert (house.device.runs, runs.state) == (0, "ok")


def test_without_a_case(house: House) -> None:
    """A model that has none is left alone."""
    house.install(None)
    runs = house.runs()
    runs()
    runs()
    assert (house.device.runs, house.said(), runs.state) == (0, [], "ok")


@pytest.mark.parametrize("name", ["small-model", "small-model/1.0"])
def test_the_site_s_own_case(house: House, name: str) -> None:
    """For a model without one the site's counts, by name or by name and version; a model's own comes first."""
    house.site = {name: block_case(house.root / "case"), "small-model/9": house.root / "nothing"}
    ref = house.install(None)
    house.runs()()
    assert house.said() == [("START", "MATCH")]
    other = House(house.root / "other")
    model = other.library.open(other.install("0.3"))
    case = case_of(model, {name: house.root / "case"})
    assert case is not None
    assert case.expected == {"brain_volume": 0.3}
    assert ref.name == "small-model"
    other.ward.log.close()


def test_a_site_s_case_that_is_gone(house: House) -> None:
    """A folder that is not there is shown in /health, and looked for again; nothing else stops."""
    house.site = {"small-model": house.root / "case"}
    house.install(None)
    runs = house.runs()
    runs()
    assert runs.state == "FileNotFoundError small-model 1.0"
    block_case(house.root / "case")
    runs()
    assert (house.said(), runs.state) == ([("START", "MATCH")], "ok")


class AwayLibrary(Library):
    """A library whose disk is away."""

    def list(self) -> Any:
        """See Library."""
        raise LibraryUnavailable("cannot list the models: gone")


def test_a_library_that_is_away(house: House) -> None:
    """It is shown, and the next round looks again."""
    house.install()
    there, house.library = house.library, AwayLibrary(house.root / "models")
    runs = house.runs()
    runs()
    assert runs.state == "LIBRARY_UNAVAILABLE library"
    runs._library = there
    runs()
    assert (house.said(), runs.state) == ([("START", "MATCH")], "ok")


def site_of(tmp_path: Path, value: str) -> Path:
    """A configuration with the threshold model and its case."""
    staged = stage_model(tmp_path / "staged")
    block_case(staged / FOLDER, value)
    Library(tmp_path / "data" / "models").install(staged)
    config = tmp_path / "zhiying.toml"
    config.write_text(f'[data]\nfolder = "{tmp_path / "data"}"\n[engine]\ndevice = "cpu"\n', encoding="utf-8")
    return config


@pytest.mark.slow
@pytest.mark.parametrize(
    ("value", "outcome", "status", "result"), [(BLOCK_CM3, "MATCH", 0, OK), ("0.5", "MISMATCH", 1, FAIL)]
)
def test_by_hand_on_the_real_engine(tmp_path: Path, value: str, outcome: str, status: int, result: str) -> None:
    """`zhiying models golden` and the doctor run the network itself, and say by their status whether it comes out."""
    config = site_of(tmp_path, value)
    done = CliRunner().invoke(app, ["models", "golden", "small-model", "--config", str(config), "--json"])
    assert done.exit_code == status, done.output
    said = json.loads(done.stdout)
    assert (said["outcome"], said["device"]) == (outcome, "cpu")
    assert float(said["measured"]["brain_volume"]) == pytest.approx(0.405)
    (finding,) = _golden(load(config))
    assert (finding.result, finding.check) == (result, "golden case small-model 1.0")
    assert not (tmp_path / "data" / "audit").exists()


def test_by_hand_without_a_case(tmp_path: Path) -> None:
    """A model that has none: one line that says so, and status 1."""
    Library(tmp_path / "data" / "models").install(stage_model(tmp_path / "staged"))
    config = tmp_path / "zhiying.toml"
    config.write_text(f'[data]\nfolder = "{tmp_path / "data"}"\n', encoding="utf-8")
    done = CliRunner().invoke(app, ["models", "golden", "small-model", "--config", str(config)])
    assert done.exit_code == 1
    assert "has no golden case" in done.output
