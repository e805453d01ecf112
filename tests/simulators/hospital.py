"""A hospital's hour: studies that are finished at random and in bursts, sent by DCMTK, and what became of each."""

from __future__ import annotations

import os
import random
import subprocess
import sys
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from pydicom import dcmread
from pydicom.dataset import Dataset

from service import looking
from service.demo.pacs import quick_network
from service.store import State
from tests.simulators import nursery, series
from tests.simulators.site import AE, REPOSITORY, Site
from tests.simulators.waiting import LIMIT_S, until

HOUR_S = 3600.0
BURSTS = 0.4
"""Share of the studies that are finished together with others: scans are booked on the hour and the quarter."""
BURST_SIZE = (2, 5)
BURST_WIDTH_S = 20.0
MODALITY_AE = "MODALITY"
ACKNOWLEDGED = "Received C-STORE Response (Success)"
"""As `dcmsend -v` says it."""
ENDS = frozenset({State.RELEASED, State.SHADOWED, State.REFUSED, State.FAILED, State.UNDELIVERED})
BALL_MM = 9.0


def arrivals(number: int, seed: int = 1, hour_s: float = HOUR_S) -> list[float]:
    """Seconds at which `number` studies are finished within the hour: a Poisson process, and bursts upon it."""
    chance = random.Random(seed)
    times: list[float] = []
    while len(times) < number * BURSTS:
        middle = chance.uniform(0, hour_s)
        times += [middle + chance.uniform(0, BURST_WIDTH_S) for _ in range(chance.randint(*BURST_SIZE))]
    # Of a Poisson process with a known number of events the times are uniform.
    times += [chance.uniform(0, hour_s) for _ in range(number - len(times))]
    return sorted(min(at, hour_s) for at in times[:number])


@dataclass(slots=True)
class Study:
    """One study on its modality: a folder of files, when it was sent, and when its last image was acknowledged."""

    uid: str
    folder: Path
    images: int
    sent_at: float | None = None
    acknowledged: int = 0
    acknowledged_at: float | None = None
    tries: int = 0
    lag_s: float = field(default=0.0)
    """How much later than due its sending began: the load generator's own fault."""


def make_study(
    folder: Path, name: str, *, slices: int = 24, pixels: int = 40, spacing: float = 1.0, priority: str = ""
) -> Study:
    """Write a study of one series that the site's model takes: a bright ball of 18 mm.

    `spacing` in mm; `priority`: Requested Procedure Priority (0040,1003).
    """

    def ball(index: int, ds: Dataset) -> None:
        r, c = (np.mgrid[:pixels, :pixels] - pixels / 2) * spacing
        inside = r**2 + c**2 + (index - slices / 2) ** 2 <= BALL_MM**2
        series.set_pixels(ds, inside.astype(np.int16))
        if priority:
            ds.RequestedProcedurePriority = priority

    files = series.write_series(
        folder, count=slices, spoil=ball, seed=name, shape=(pixels, pixels), spacing=(spacing, spacing)
    )
    uid = str(dcmread(files[0], stop_before_pixels=True).StudyInstanceUID)
    return Study(uid, folder, len(files))


def send(study: Study, port: int, called: str = AE) -> bool:
    """C-STORE all of it in one association of DCMTK's dcmsend; True when every image was acknowledged."""
    command = ["dcmsend", "-v", "-aet", MODALITY_AE, "-aec", called, "127.0.0.1", str(port), "+sd", str(study.folder)]
    study.sent_at, study.acknowledged, study.tries = time.time(), 0, study.tries + 1
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, env=quick_network(os.environ), text=True
    ) as sender:
        assert sender.stdout is not None
        for line in sender.stdout:
            if ACKNOWLEDGED in line:
                study.acknowledged, study.acknowledged_at = study.acknowledged + 1, time.time()
    return study.acknowledged == study.images


def send_hour(studies: Sequence[Study], times: Sequence[float], port: int, patience_s: float = 0.0) -> None:
    """Send each study at its time (seconds from now); returns when all have been sent.

    `patience_s`: how long a modality tries again, as it does when nobody answers.
    """
    began_s = time.monotonic()

    def one(study: Study, due_s: float) -> None:
        study.lag_s = time.monotonic() - began_s - due_s
        ends_s = time.monotonic() + patience_s
        while not send(study, port) and time.monotonic() < ends_s:
            time.sleep(0.5)

    threads = []
    for study, due_s in zip(studies, times, strict=True):
        time.sleep(max(0.0, began_s + due_s - time.monotonic()))
        threads.append(threading.Thread(target=one, args=(study, due_s)))
        threads[-1].start()
    for thread in threads:
        thread.join()


class Hospital(Site):
    """A site whose model costs nothing; see `hospital_service`. `counts`: its PACS answers C-FIND."""

    def __init__(
        self, root: Path, pacs: Any, *, quiet_s: float = 0.5, counts: bool = False, infer_s: float = 0.0
    ) -> None:
        """`pacs` has an AE title and a port; `infer_s`: what a model takes that is not quite free."""
        super().__init__(root, pacs, quiet_s=quiet_s)
        self._infer_s = infer_s
        text = self.config_file.read_text(encoding="utf-8")
        self.config_file.write_text(text.replace("[results]", f"counts = {str(counts).lower()}\n[results]"))

    @property
    def stamps(self) -> Path:
        """Written by the service: one line for each moment."""
        return self.root / "stamps.txt"

    def start(self, die_at: tuple[str, ...] | None = None, under: Sequence[str] = ()) -> None:
        """Start the service; it dies only when it is killed. `under`: a command that runs it, such as a profiler."""
        assert die_at is None
        program = REPOSITORY / "tests" / "simulators" / "hospital_service.py"
        command = [*under, sys.executable, str(program), str(self.config_file), str(self.stamps), str(self._infer_s)]
        environment = os.environ | {"PYTHONPATH": str(REPOSITORY)}
        with (self.root / "serve.log").open("ab") as log:
            start = subprocess.Popen if under else nursery.Popen
            self._process = start(command, stdout=log, stderr=log, cwd=REPOSITORY, env=environment)
        until(self._up, LIMIT_S, "the service answers")

    def cpu_s(self) -> float:
        """Seconds of processor time that the service has used since it started (proc(5), utime and stime)."""
        assert self._process is not None
        stat = Path(f"/proc/{self._process.pid}/stat").read_text(encoding="ascii", errors="replace")
        user, system = stat.rpartition(")")[2].split()[11:13]
        return (int(user) + int(system)) / os.sysconf("SC_CLK_TCK")

    def ended(self, studies: Sequence[Study]) -> dict[str, list[State]]:
        """The states of each study's runs, oldest first."""
        with looking.ledger(self.config_file) as (store, _):
            return {study.uid: [run.state for run in store.of_study(study.uid)] for study in studies}

    def wait_until_all_ended(self, studies: Sequence[Study], limit_s: float) -> None:
        """Wait until nothing arrives any more and the newest run of each study has come to an end."""

        def over() -> bool:
            assert self.alive, (self.root / "serve.log").read_text(encoding="utf-8")[-2000:]
            with looking.ledger(self.config_file) as (_, index):
                if index.open_studies():
                    return False
            return all(states and states[-1] in ENDS for states in self.ended(studies).values())

        until(over, limit_s, "every study has come to an end")

    def at_stamps(self) -> dict[tuple[str, str, str], float]:
        """When each (step, moment, subject) was first reached, in seconds of the wall clock."""
        found: dict[tuple[str, str, str], float] = {}
        for line in self.stamps.read_text(encoding="utf-8").splitlines():
            at, step, moment, *subject = line.split(" ")
            found.setdefault((step, moment, " ".join(subject)), float(at))
        return found


def make_studies(folder: Path, number: int, **options: Any) -> list[Study]:
    """That many different studies."""
    return [make_study(folder / f"{k:04}", f"hospital-{k}", **options) for k in range(number)]
