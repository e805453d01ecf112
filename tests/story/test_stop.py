"""STOP beside a running service, while a model computes: within five seconds nothing runs and nothing leaves."""

from __future__ import annotations

import json
import sys
import urllib.request
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from pydicom import dcmread

from audit.entry import Entry
from ethics_review.states import Cause
from models.ref import ModelRef
from service import wire
from tests.simulators import nursery, tiny_model
from tests.simulators.pacs import FakePacs
from tests.simulators.parties import Case
from tests.simulators.site import Site, write_series
from tests.simulators.waiting import until

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]

ZHIYING = Path(sys.executable).with_name("zhiying")
ALLOWED = timedelta(seconds=5)
LIMIT_S = 180.0
"""For what takes seconds, on a machine that does much else beside."""
BRIGHT = 2
"""An image of this value makes the model compute for minutes."""


class Halted(Site):
    """A site whose model can be slow, its operators, and what they see."""

    ref: ModelRef

    def study(self, name: str, *, value: int = 1) -> str:
        """Send a new study; every image must be taken. Gives its UID."""
        files = write_series(self.root / name, seed=name, value=value)
        assert set(self.send(files)) == {0}
        return str(dcmread(files[0], stop_before_pixels=True).StudyInstanceUID)

    def switch(self, event: str, *by: str) -> Entry:
        """STOP or RESUME of this site, signed by these people, written beside the running service."""
        with wire.offline_of(self.config) as opened:
            case = Case(self.parties, opened.register, opened.log, self.ref)
            return case.switch(event, *by, level="SITE", site="test-site", reason="DRILL")

    def suspend(self, cause: Cause) -> None:
        """As an incident does it."""
        with wire.offline_of(self.config) as opened:
            opened.register.suspend(self.ref, cause, None)

    def stops(self) -> Any:
        """What the API says of stops."""
        with urllib.request.urlopen(f"http://127.0.0.1:{self.http_port}/stops", timeout=5) as answer:
            return json.load(answer)

    def metrics(self) -> str:
        """What Prometheus reads."""
        with urllib.request.urlopen(f"http://127.0.0.1:{self.http_port}/metrics", timeout=5) as answer:
            return str(answer.read().decode())

    def outbox(self, *words: str) -> Any:
        """What `zhiying outbox` prints."""
        command = [ZHIYING, "outbox", *words, "--json", "--config", self.config_file]
        return json.loads(nursery.run(command).stdout)

    def held(self) -> str | None:
        """The code of the one batch that waits, by the command; None where nothing does."""
        listed = self.outbox("list")
        return None if not listed else str(listed[0]["code"])

    def worker(self) -> int | None:
        """The process of the engine's child."""
        assert self._process is not None
        for child in _children(self._process.pid):
            if b"inference.worker" in Path(f"/proc/{child}/cmdline").read_bytes():
                return child
        return None


def _children(pid: int) -> list[int]:
    tasks = Path(f"/proc/{pid}/task").glob("*/children")
    return [int(child) for task in tasks for child in task.read_text(encoding="ascii").split()]


def _cpu_ticks(pid: int) -> int:
    fields = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8").rpartition(")")[2].split()
    return int(fields[11]) + int(fields[12])  # utime, stime (proc(5)), in hundredths of a second


@pytest.fixture
def site(tmp_path: Path) -> Iterator[Halted]:
    """A running service with an approved model that can be slow, and a PACS that nobody reaches yet."""
    with FakePacs() as pacs:
        made = Halted(tmp_path, pacs)
        made.ref = made.install_model(tiny_model.Slow)
        made.approve(made.ref)
        made.start(under=("env",))  # a real process: the test looks for the engine's among its children
        yield made
        made.kill()


def test_a_stop_is_effective_within_seconds(site: Halted) -> None:
    """Inference under way ends, results that wait are held, images are taken; RESUME lets out what was held."""
    site.pacs.down()
    waiting = site.study("waits")
    site.run_in("WRITTEN", study=waiting, limit_s=LIMIT_S)
    slow = site.study("slow", value=BRIGHT)
    site.run_in("PERMITTED", study=slow, limit_s=LIMIT_S)
    child = until(site.worker, LIMIT_S, "the model's process")
    before = _cpu_ticks(child)
    until(lambda: _cpu_ticks(child) > before + 50, LIMIT_S, "the model computes")

    stop = site.switch("STOP", "reader")

    said = until(lambda: site.stops()["last"], LIMIT_S, "the stop is effective")
    print(f"\nSTOP to effect: {said['ms']} ms")
    assert (said["index"], said["code"]) == (stop.index, "STOPPED")
    assert timedelta(milliseconds=said["ms"]) < ALLOWED
    assert not Path(f"/proc/{child}").exists()
    ended = site.run_in("FAILED", study=slow, limit_s=LIMIT_S)
    assert (ended.code, ended.fault, ended.stage) == ("STOPPED", "SITE", "INFERRED")
    assert '"event": "stop_effective"' in (site.root / "serve.log").read_text(encoding="utf-8")
    assert "zhiying_stopped 1.0" in site.metrics()

    until(lambda: site.held() == "HELD", LIMIT_S, "the outbox holds what it had")
    site.pacs.up()
    third = site.study("third")
    assert site.run_in("FAILED", "REFUSED", study=third, limit_s=LIMIT_S).code == "STOPPED"
    assert (site.held(), site.pacs.received) == ("HELD", [])

    site.switch("RESUME", "owner", "safety")
    site.run_in("RELEASED", study=waiting, limit_s=LIMIT_S)
    assert len(site.pacs.stored) == 2
    assert site.held() is None
    assert site.stops()["stopped"] is None
    assert site.counted()["RELEASED"] == 1


def test_results_of_a_model_that_did_harm_wait_for_a_person(site: Halted) -> None:
    """Suspended for HARM: what the outbox had is withheld and seen; only a person's `resend` lets it go."""
    site.pacs.down()
    study = site.study("harmed")
    run = site.run_in("WRITTEN", study=study, limit_s=LIMIT_S)

    site.suspend(Cause.HARM)
    assert until(lambda: site.stops()["last"], LIMIT_S, "it is effective")["code"] == "SUSPENDED"
    site.pacs.up()

    shown = site.run_in("UNDELIVERED", study=study, limit_s=LIMIT_S)
    assert (shown.code, shown.stage) == ("WITHHELD", "RELEASED")
    (dead,) = site.outbox("list", "--dead")
    assert (dead["batch"], dead["code"]) == (run.call, "WITHHELD")
    assert site.pacs.received == []
    assert site.stops()["stopped"] is None, "one model is suspended, not everything stopped"

    site.outbox("resend", dead["batch"])
    site.run_in("RELEASED", study=study, limit_s=LIMIT_S)
    assert len(site.pacs.stored) == 2
