"""The demo's story, steps 2 to 7 (the first, the machine itself, is scripts/setup.sh).

It drives the product from outside, as its neighbours in a hospital do: by DICOM, HTTP and the command line. A second
run finds the same PACS, model, reviewer and log: the scanner sends the same images again, the service knows them, and
nothing is made twice. The refusal is then not played again but read from the log, and said to be so.
"""

import json
import os
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

from dicom_bridge.modality import SeriesOnDisk
from dicom_bridge.orthanc import OrthancReader
from service import wire
from service.demo import evidence, exam, package
from service.demo.commands import Zhiying, own_environment, scan
from service.demo.errors import NotHeld, NotInTime, StepFailed
from service.demo.hospital import AE_TITLE, DICOM_PORT, HTTP_PORT, Hospital
from service.demo.pacs import SCANNER_AE, Node, Orthanc, orthanc_at
from service.demo.parties import LIVE, SITE, Parties
from service.demo.screen import Screen
from service.demo.servers import Servers, free_port
from service.demo.witness import DemoWitness

MODEL = "brain-extraction-t1"
SCANNER_PORT = 104  # never used: the scanner only sends
FORWARD_LIMIT_S = 300.0  # Orthanc waits until the series is quiet, then sends it in a second; a busy one, in minutes
READ_LIMIT_S = 600.0  # loading the networks and reading one brain takes seconds; a busy small machine, minutes
POLL_S = 0.2
NEEDS_APPROVAL = frozenset({"NO_APPROVAL", "APPROVAL_EXPIRED", "MODEL_DIGEST_MISMATCH"})


@dataclass(frozen=True, slots=True)
class Places:
    """Where the demo keeps things. `wheels`: local copies of the pinned wheels by package name, for an air gap."""

    workdir: Path
    output: Path
    wheels: dict[str, Path]

    @property
    def ledger(self) -> Path:
        """Which servers run."""
        return self.workdir / "servers.json"


@dataclass(frozen=True, slots=True)
class World:
    """The neighbours, once they run."""

    pacs: Orthanc
    hospital: Hospital
    zhiying: Zhiying
    parties: Parties
    reader: OrthancReader


@dataclass(frozen=True, slots=True)
class Case:
    """What is sent, and for which model."""

    model: dict[str, str]
    series: SeriesOnDisk


class Story:
    """One telling of it. `now` gives the wall clock in UTC."""

    def __init__(self, places: Places, screen: Screen, servers: Servers, now: Callable[[], datetime]) -> None:
        self._places = places
        self._screen = screen
        self._servers = servers
        self._now = now

    def tell(self) -> tuple[World, dict[str, Any]]:
        """The whole story; gives what run.json holds. Raises DemoError and the product's own errors."""
        began = time.monotonic()
        hospital, pacs = self._addresses()
        zhiying = Zhiying(hospital.config)
        parties = Parties(self._places.workdir / "parties")
        hospital.root.mkdir(parents=True, exist_ok=True)
        trusted = parties.policy(zhiying)
        hospital.configure(site=SITE, pacs_port=pacs.dicom_port, trust=trusted, key_images=True)
        case = self._case(zhiying)
        self._screen.step(4, "start Orthanc as the PACS and Zhiying beside it; the scanner sends to the PACS")
        self._start(pacs, hospital, zhiying)
        witness = DemoWitness(self._places.workdir / "witness")
        witness.meet(zhiying, zhiying.ask("audit", "key")["vkey"])
        witness.start(self._servers)
        with OrthancReader(pacs.url) as reader:
            world = World(pacs, hospital, zhiying, parties, reader)
            stands = parties.state(zhiying, case.model)
            if stands not in {None, LIVE}:
                self._screen.tell("an earlier demo was interrupted: its parties go on where they stood")
                images = case.series.files[0].parent
                parties.live(zhiying, case.model, images, self._now(), self._screen.tell, state=stands)
            study = self._send(world, case)
            self._screen.step(
                5, "without an approval the study is refused; three parties let the model live; it is sent again"
            )
            study, seconds = self._approved(world, case, study)
            self._screen.step(6, "the findings come back into the PACS")
            run = _released(study)
            results = evidence.fetch(reader, case.series.study_uid, case.series.files, self._places.output)
            self._screen.step(7, "check everything, and the log")
            report = self._checked(world, case, run, results)
            self._screen.tell("the reviewer takes the log's package away, and checks it with plain python")
            said = package.hand_over(zhiying, witness, trusted, self._places.output, self._places.workdir)
            report["audit"]["verifier"] = said
            report["held"]["the package passes its verifier"] = True
        report["seconds"] = seconds | {"whole demo": round(time.monotonic() - began, 1)}
        (self._places.output / "run.json").write_text(
            json.dumps(report, ensure_ascii=False, indent=2) + "\n", encoding="utf-8"
        )
        return world, report

    def _addresses(self) -> tuple[Hospital, Orthanc]:
        root = self._places.workdir
        hospital = Hospital(root / "hospital", free_port(DICOM_PORT), free_port(HTTP_PORT))
        ours = Node("zhiying", AE_TITLE, hospital.dicom_port)
        scanner = Node("scanner", SCANNER_AE, SCANNER_PORT)
        return hospital, orthanc_at(root / "pacs", forward_to=ours, known=(scanner,))

    def _case(self, zhiying: Zhiying) -> Case:
        """Steps 2 and 3: the model and the examination."""
        self._screen.step(2, f"pull the model {MODEL} from its pinned, hash-checked wheel")
        wheel = self._places.wheels.get("deepbet")
        given: list[str | Path] = ["--wheel", wheel] if wheel else []
        model = zhiying.ask("models", "pull", MODEL, *given)
        self._screen.step(3, "make the MNI152 T1 brain into an MR series, as a scanner would")
        folder = self._places.workdir / "scanner" / model["digest"].removeprefix("sha256:")[:12]
        wheels = self._places.workdir / "wheels"
        series = exam.make_series(
            wheels, folder, model_digest=model["digest"], wheel=self._places.wheels.get(exam.PACKAGE)
        )
        return Case(model, series)

    def _start(self, pacs: Orthanc, hospital: Hospital, zhiying: Zhiying) -> None:
        pacs.start(self._servers)
        pid = self._servers.start(
            "zhiying serve", zhiying.serve, log=hospital.log, environment=own_environment(os.environ)
        )
        self._servers.wait_until(pid, hospital.ready, log=hospital.log)

    def _send(self, world: World, case: Case) -> dict[str, Any]:
        """The scanner sends, the PACS forwards, the service comes to an end with it."""
        before = set(world.reader.jobs())
        scan(case.series.files[0].parent, world.pacs)
        self._screen.tell(f"{len(case.series.files)} images in the PACS; waiting until it forwards them")
        deadline = time.monotonic() + FORWARD_LIMIT_S
        while True:
            new = {job: state for job, state in world.reader.jobs().items() if job not in before}
            if "Failure" in new.values():
                raise StepFailed(f"the PACS could not forward the images; see {world.pacs.log}")
            if new and set(new.values()) == {"Success"}:
                break
            if time.monotonic() > deadline:
                raise NotInTime(f"the PACS forwarded nothing in {FORWARD_LIMIT_S:.0f} s; see {world.pacs.log}")
            time.sleep(POLL_S)
        return world.hospital.settled(case.series.study_uid, READ_LIMIT_S, self._screen.tell)

    def _approved(self, world: World, case: Case, study: dict[str, Any]) -> tuple[dict[str, Any], dict[str, float]]:
        """Step 5, for whatever the hospital knows already; gives the study at its end, and how long it took (s)."""
        last = study["runs"][-1]
        if study["state"] != "REFUSED":
            self._say_earlier(study)
            return study, {"reading, in the earlier run": _seconds(last)}
        if last["code"] not in NEEDS_APPROVAL:
            raise NotHeld(f"the study was refused with {last['code']}, which no approval heals")
        self._screen.panel(
            "the hospital: refused, as it must be",
            [
                f"study    {case.series.study_uid}",
                f"state    {study['state']} at the step {last['stage']}",
                f"code     {last['code']}: no third party has approved this model, so it did not run",
            ],
            style="red",
        )
        images = case.series.files[0].parent
        lived = world.parties.live(world.zhiying, case.model, images, self._now(), self._screen.tell)
        terms = lived.terms
        self._screen.panel(
            "DEMO: a vendor, the hospital and a reviewer (played here; real ones are three organisations)",
            [
                *(f"{event:<18} signed by {names}" for event, names in lived.steps),
                f"approval           {terms['approval']}, {terms['valid']['from']} to {terms['valid']['to']}, for",
                f"model              {case.model['name']} {case.model['version']}  {case.model['digest'][:26]}…",
                *(f"{name:<18} {json.dumps(value)}" for name, value in terms["conditions"].items()),
            ],
            style="yellow",
        )
        began = time.monotonic()
        study = self._send(world, case)
        return study, {"from scanner to PACS": round(time.monotonic() - began, 1)}

    def _say_earlier(self, study: dict[str, Any]) -> None:
        """A second run: the refusal and the approval are history; they are shown as such, not played again."""
        refused = [run for run in study["runs"] if run["state"] == "REFUSED"]
        lines = [f"refused    {run['code']} at {run['updated_at'][:19]} UTC, before the approval" for run in refused]
        last = study["runs"][-1]
        lines += [
            f"approved   {last['approval']}, already in the log",
            f"result     already made at {last['updated_at'][:19]} UTC: the same images are known, nothing is repeated",
        ]
        self._screen.panel("from an earlier run of this demo", lines, style="blue")

    def _checked(self, world: World, case: Case, run: dict[str, Any], results: evidence.Results) -> dict[str, Any]:
        """Step 7: every promise, and the log; gives what the table and run.json say. Raises NotHeld."""
        approvals = {one["approval"]: one for one in world.zhiying.ask("review", "show")["approvals"]}
        approval = approvals[run["approval"]]
        with wire.offline(world.hospital.config) as site:
            entries = list(site.log.entries())
        trail = evidence.trail(entries, call=run["call"], approval=approval["note_digest"])
        kept = evidence.promises(trail, results, run, exam.PATIENT.name)
        verified = world.zhiying.ask("audit", "verify")
        kept["the log verifies"] = bool(verified["ok"])
        report = {
            "study": {"uid": case.series.study_uid, "images": len(case.series.files)},
            "patient": results.report.patient_name,
            "model": run["model"],
            "approval": approval,
            "refused_before": [{"entry": e.index, "time": e.time, "code": e.body["code"]} for e in trail.refusals],
            "findings": [asdict(number) for number in results.report.numbers],
            "steps_ms": run["steps_ms"],
            "timing_ms": run["timing_ms"],
            "outputs": {
                "SR": results.report.sop_uid,
                "SEG": results.mask.sop_uid,
                "SC": results.picture.sop_uid,
            },
            "orthanc": f"{world.pacs.url}/app/explorer.html#study?uuid={world.reader.study_id(case.series.study_uid)}",
            "audit": {"entries": verified["size"], "root": verified["root"]},
            "held": kept,
        }
        broken = [name for name, held in kept.items() if not held]
        if broken:
            raise NotHeld(f"not so: {'; '.join(broken)}")
        return report


def _released(study: dict[str, Any]) -> dict[str, Any]:
    """The run that made the result. Raises NotHeld when there is none."""
    last = dict(study["runs"][-1])
    if last["state"] != "RELEASED":
        raise NotHeld(f"the study ended as {last['state']} at the step {last['stage']} with the code {last['code']}")
    return last


def _seconds(run: dict[str, Any]) -> float:
    """How long a run took when it was made."""
    begun, ended = (datetime.fromisoformat(run[name]) for name in ("created_at", "updated_at"))
    return round((ended - begun).total_seconds(), 1)
