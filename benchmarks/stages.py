"""Where the time of the demo study goes: from its last image in our spool to its results in the PACS.

The whole path is real: Orthanc forwards the study, the trained networks run, SR and SEG go back to Orthanc by C-STORE.
Each round is a new study, so nothing is answered from memory. "selected" reads every header of the series, as only they
tell which volumes it has; "permitted" reads its pixels. Prints a table and writes results/stages.json.
stages.py [--quick]: then with a model of one threshold and a study of 24 small images, so that nothing is downloaded.
"""

import os
import platform
import statistics
import sys
import tempfile
import threading
import time
from importlib.metadata import version
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from benchmarks import figures
from models.library import Library
from models.pull import pull
from models.ref import ModelRef
from service import wire
from service.demo import exam
from service.demo.commands import scan
from service.demo.hospital import AE_TITLE, ENDS, Hospital
from service.demo.pacs import SCANNER_AE, Node, orthanc_at
from service.demo.parties import SITE
from service.demo.servers import Servers, free_port
from service.serving import Service, build
from tests.simulators.parties import CENTRE, Case, Parties
from tests.simulators.reviewer import fields

ROUNDS = 1 if figures.quick() else 7
MODEL = "brain-extraction-t1"
AIM_PERCENT = 15.0
CACHE = Path(__file__).resolve().parent.parent / ".demo" / "wheels"
LIMIT_S = 180.0


class Stopwatch:
    """Notes when each step began and ended; told by the pipeline."""

    def __init__(self) -> None:
        self.at: dict[tuple[str, str], float] = {}
        self.released = threading.Event()

    def __call__(self, step: str, moment: str, _subject: str) -> None:
        """Remember the moment."""
        self.at[step, moment] = time.time()
        if (step, moment) == ("RELEASED", "logged"):
            self.released.set()

    def reset(self) -> None:
        """For the next round."""
        self.at.clear()
        self.released.clear()


def approve(service_config: Any, parties: Parties, model: Any) -> None:
    """The whole life of the model's dossier, so that it may run LIVE."""
    anything = {
        "body_part": ["BRAIN"],
        "sex": ["F", "M", "O"],
        "manufacturer": ["*"],
        "site": ["*"],
        "care_setting": ["*"],
        "reading_mode": ["*"],
        "require": ["opt_out_check"],
    }
    valid = {"from": "2020-01-01", "to": "2099-12-31"}
    terms = fields(model, anything, approval="BENCH-0001", reviewer_org=CENTRE, valid=valid)
    with wire.offline_of(service_config) as site:
        Case(parties, site.register, site.log, model).live(terms)


def model_in(library: Library, folder: Path) -> ModelRef:
    """Take in the demo's model; in a quick run the tests' smallest."""
    if not figures.quick():
        return pull(MODEL, library)
    from tests.simulators.site import stage_model  # brings torch, which the service's own process never has

    return library.install(stage_model(folder / "staged"))


def new_study(folder: Path, number: int) -> str:
    """Write what the model takes into the folder, as no round before; gives its Study Instance UID."""
    if figures.quick():
        from tests.simulators.hospital import make_study  # brings torch too

        return make_study(folder, f"stages-{number}").uid
    return exam.make_series(CACHE, folder, model_digest=f"sha256:{number:012x}" + "0" * 52).study_uid


def one_round(service: Service, watch: Stopwatch, number: int, folder: Path, pacs: Any) -> dict[str, float]:
    """Send one new study; gives milliseconds by stage."""
    study_uid = new_study(folder / f"study-{number}", number)
    watch.reset()
    scan(folder / f"study-{number}", pacs)
    until_s = time.monotonic() + LIMIT_S
    while not watch.released.wait(1.0):
        runs = service.store.of_study(study_uid)
        if time.monotonic() > until_s or (runs and runs[-1].state in ENDS - {"RELEASED"}):
            raise SystemExit(f"round {number}: no result: {runs}")
    last_image = max(one.received_at for one in service.inbox.instances(study_uid)).timestamp()
    model = service.store.of_study(study_uid)[-1].timing_ms
    at = watch.at

    def step(name: str) -> float:
        return (at[name, "after"] - at[name, "before"]) * 1000

    stages = {
        "complete?": (at["ASSEMBLED", "before"] - last_image) * 1000,
        "assembled": step("ASSEMBLED"),
        "selected": step("SELECTED"),
        "permitted (read, check, gate)": step("PERMITTED"),
        "inferred: forward passes": float(model["forward"]),
        "inferred: all else": step("INFERRED") - model["forward"],
        "written (SEG, SR)": step("WRITTEN"),
        "in the PACS": (at["RELEASED", "delivered"] - at["RELEASED", "before"]) * 1000,
        "release logged": (at["RELEASED", "logged"] - at["RELEASED", "delivered"]) * 1000,
    }
    whole = (at["RELEASED", "logged"] - last_image) * 1000
    between = whole - sum(stages.values())
    return stages | {"between the steps": between, "whole": whole, "whole after complete": whole - stages["complete?"]}


def measure(root: Path) -> list[dict[str, float]]:
    """All rounds on one installation; the first is a warm-up and is not counted."""
    dicom_port, http_port = free_port(21112), free_port(21113)
    with Servers(root / "servers.json") as servers:
        scanner = Node("scanner", SCANNER_AE, 104)
        pacs = orthanc_at(root / "pacs", forward_to=Node("zhiying", AE_TITLE, dicom_port), known=(scanner,))
        parties = Parties()
        hospital = Hospital(root / "hospital", dicom_port, http_port)
        hospital.configure(site=SITE, pacs_port=pacs.dicom_port, trust=parties.policy())
        config = wire.settings(hospital.config)
        model = model_in(Library(config.data.folder / "models"), root)
        approve(config, parties, model)
        pacs.start(servers)
        watch = Stopwatch()
        service = build(config, watch)
        service.start()
        try:
            return [one_round(service, watch, number, root, pacs) for number in range(ROUNDS + 1)][1:]
        finally:
            service.stop()


def table(rounds: list[dict[str, float]]) -> dict[str, Any]:
    """Medians, and what they come to."""
    median = {name: statistics.median(one[name] for one in rounds) for name in rounds[0]}
    forward = median["inferred: forward passes"]

    def share(whole: str) -> float:
        return statistics.median(100 * (1 - one["inferred: forward passes"] / one[whole]) for one in rounds)

    return {
        "rounds": len(rounds),
        "median_ms": {name: round(value, 1) for name, value in median.items()},
        "forward_ms": round(forward, 1),
        "not_forward_percent_of_whole": round(share("whole"), 1),
        "not_forward_percent_after_complete": round(share("whole after complete"), 1),
        "aim_percent": AIM_PERCENT,
    }


def main() -> None:
    """Run, print, write."""
    if figures.words():
        raise SystemExit("usage: stages.py [--quick]")
    with tempfile.TemporaryDirectory(prefix="zhiying-bench-") as folder:
        result = table(measure(Path(folder)))
    for name, value in result["median_ms"].items():
        print(f"{name:32} {value:9.1f} ms")
    print(f"not the forward passes: {result['not_forward_percent_of_whole']} % of the whole,")
    print(f"  {result['not_forward_percent_after_complete']} % counted from the moment the study is known complete")
    print(f"  (aim: under {AIM_PERCENT} %)")
    result["machine"] = {"processor": platform.processor() or platform.machine(), "cores": os.cpu_count()}
    result["versions"] = {name: version(name) for name in ("torch", "monai", "highdicom", "pydicom", "pynetdicom")}
    figures.publish(__file__, result)


if __name__ == "__main__":
    main()
