"""A hospital's busiest hour, compressed: 300 studies through the whole service, and when each result was in the PACS.

Everything is real but the model, which costs nothing: DCMTK sends by C-STORE, Orthanc counts by C-FIND and takes SR and
SEG, and between them stand spool, gate, audit log and validation with all their syncs. The PACS holds the studies
before they are forwarded to us, as in a hospital. Prints what became of them and where the time goes; writes
results/hospital.json. hospital.py [--quick] [STUDIES [MINUTES]]: fewer of them, or the hour in other than 3 minutes.
"""

import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from collections import Counter
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import httpx

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from benchmarks import figures
from service import looking
from service.demo.pacs import Node, Orthanc, quick_network
from service.demo.servers import free_port
from service.store import Run, State
from tests.simulators.hospital import HOUR_S, MODALITY_AE, Hospital, Study, arrivals, make_studies, send_hour
from tests.simulators.orthanc import running_orthanc
from tests.simulators.site import AE

STUDIES = 2 if figures.quick() else 300  # an hour of a large hospital: MONAI Deploy's own workload guideline
MINUTES = 0.02 if figures.quick() else 3.0
SLICES, PIXELS, SPACING_MM = (
    24,
    192,
    0.5,
)  # 72 KiB an image; how much longer a big study takes, bench-receive and bench-stages say
QUIET_S = 30.0
AIM_P95_S = 2.0
LIMIT_S = 300.0  # after the last study was sent
SR, SEG = "SR", "SEG"
STEPS = ("ASSEMBLED", "SELECTED", "PERMITTED", "INFERRED", "WRITTEN")


@dataclass(frozen=True, slots=True)
class PacsNode:
    """How the site's configuration names Orthanc."""

    ae_title: str
    port: int


def rest(pacs: Orthanc, path: str, body: Any = None) -> Any:
    """One question to Orthanc's REST API."""
    answer = httpx.request("GET" if body is None else "POST", pacs.url + path, json=body, timeout=60)
    answer.raise_for_status()
    return answer.json()


def preload(pacs: Orthanc, folder: Path, studies: list[Study]) -> None:
    """The modalities have sent everything to the PACS; it has to be there before a study is forwarded."""
    command = ["dcmsend", "-aet", MODALITY_AE, "-aec", pacs.ae_title, "127.0.0.1", str(pacs.dicom_port), "+sd", "+r"]
    subprocess.run([*command, str(folder)], check=True, env=quick_network(os.environ))
    held = rest(pacs, "/statistics")["CountInstances"]
    if held != sum(one.images for one in studies):
        raise SystemExit(f"the PACS has {held} images")


def in_the_pacs(pacs: Orthanc) -> Counter[tuple[str, str]]:
    """How many SR and SEG objects of each study Orthanc holds."""
    found: Counter[tuple[str, str]] = Counter()
    for modality in (SR, SEG):
        query = {"Level": "Series", "Query": {"Modality": modality}, "Expand": True}
        for one in rest(pacs, "/tools/find", query):
            study = rest(pacs, f"/studies/{one['ParentStudy']}")["MainDicomTags"]["StudyInstanceUID"]
            found[study, modality] += len(one["Instances"])
    return found


def times_of(study: Study, run: Run, at: dict[tuple[str, str, str], float]) -> dict[str, float]:
    """Milliseconds of each stage, from the last image's acknowledgement to the results' by the PACS."""
    known_at = run.created_at.timestamp()
    began_at = at["ASSEMBLED", "before", run.run_id]
    stored_at = at["RELEASED", "delivered", run.call or ""]
    enqueued_at = at["RELEASED", "before", run.run_id]
    stages = {"complete?": known_at - (study.acknowledged_at or 0.0), "in line": began_at - known_at}
    stages |= {step.lower(): at[step, "after", run.run_id] - at[step, "before", run.run_id] for step in STEPS}
    stages["sent, stored by the PACS"] = stored_at - enqueued_at
    whole = stored_at - (study.acknowledged_at or 0.0)
    stages["between the steps"] = whole - sum(stages.values())
    return {name: 1000 * value for name, value in (stages | {"whole": whole}).items()}


def percentiles(values: list[float]) -> dict[str, float]:
    """p50, p95, p99 and the longest, in milliseconds."""
    ordered = sorted(values)
    at = {f"p{share}": ordered[min(len(ordered) - 1, len(ordered) * share // 100)] for share in (50, 95, 99)}
    return {name: round(value, 1) for name, value in (at | {"max": ordered[-1]}).items()}


def run_hour(root: Path, number: int, minutes: float) -> dict[str, Any]:
    """Install, send, wait, count."""
    port = free_port()
    known = (Node("modality", MODALITY_AE, 104), Node("zhiying", AE, port))
    print(f"{number} studies of {SLICES} images of {PIXELS} x {PIXELS} ...", flush=True)
    studies = make_studies(root / "modalities", number, slices=SLICES, pixels=PIXELS, spacing=SPACING_MM)
    with running_orthanc(root / "pacs", known=known) as pacs:
        preload(pacs, root / "modalities", studies)
        (root / "site").mkdir()
        hospital = Hospital(root / "site", PacsNode(pacs.ae_title, pacs.dicom_port), quiet_s=QUIET_S, counts=True)
        hospital.approve(hospital.install_model())
        hospital.start(under=figures.words()[2:])
        compressed = HOUR_S / (60 * minutes)
        print(f"an hour's arrivals in {minutes:g} min ({compressed:g} x)", flush=True)
        began_s, cpu_s, load = time.monotonic(), hospital.cpu_s(), os.getloadavg()[0]
        send_hour(studies, [at / compressed for at in arrivals(number)], hospital.dicom_port)
        sent_s = time.monotonic() - began_s
        hospital.wait_until_all_ended(studies, LIMIT_S)
        ended = hospital.ended(studies)
        cpu_s = hospital.cpu_s() - cpu_s
        held = in_the_pacs(pacs)
        hospital.stop()
        with looking.ledger(hospital.config_file) as (store, _):
            runs = {study.uid: store.of_study(study.uid) for study in studies}
        at = hospital.at_stamps()
    return {
        "sent": sum(one.acknowledged == one.images for one in studies),
        "delivered": sum(states[-1] is State.RELEASED for states in ended.values()),
        "refused_or_failed": sum(states[-1] is not State.RELEASED for states in ended.values()),
        "lost": sum(not held[one.uid, kind] for one in studies for kind in (SR, SEG)),
        "duplicated": sum(max(0, held[one.uid, kind] - 1) for one in studies for kind in (SR, SEG)),
        "triggers": dict(Counter(run.trigger for some in runs.values() for run in some)),
        "compression": compressed,
        "sending_s": round(sent_s, 1),
        "load_generator_late_ms": percentiles([1000 * one.lag_s for one in studies]),
        "service_cpu_ms_per_study": round(1000 * cpu_s / number, 1),
        "load_average_before": load,
        **stages_of(studies, runs, at),
    }


def stages_of(
    studies: list[Study], runs: dict[str, tuple[Run, ...]], at: dict[tuple[str, str, str], float]
) -> dict[str, Any]:
    """Percentiles of the whole and of each stage, over the studies that were delivered at the first go."""
    each = [times_of(one, runs[one.uid][-1], at) for one in studies if runs[one.uid][-1].state is State.RELEASED]
    if not each:
        return {"whole_ms": {}, "stages_ms": {}}
    stages = {name: percentiles([one[name] for one in each]) for name in each[0]}
    mean = {name: round(statistics.mean(one[name] for one in each), 1) for name in each[0]}
    return {"whole_ms": stages.pop("whole"), "mean_ms": mean, "stages_ms": stages}


def show(result: dict[str, Any]) -> None:
    """What a person wants to know."""
    for name in ("sent", "delivered", "refused_or_failed", "lost", "duplicated", "triggers"):
        print(f"{name:20} {result[name]}")
    print(f"result in the PACS - last image acknowledged, ms: {result['whole_ms']}")
    print(f"  (aim: p95 under {AIM_P95_S:g} s)")
    for name, values in result["stages_ms"].items():
        print(f"  {name:26} mean {result['mean_ms'][name]:8.1f}   p50 {values['p50']:8.1f}   p95 {values['p95']:8.1f}")
    print(f"processor time of the service: {result['service_cpu_ms_per_study']} ms a study", end="; ")
    print(f"load average of this machine before: {result['load_average_before']:.2f}")
    print(f"load generator late, ms: {result['load_generator_late_ms']}")


def main(number: int = STUDIES, minutes: float = MINUTES) -> None:
    """Run, print, write."""
    with tempfile.TemporaryDirectory(prefix="zhiying-bench-") as folder:
        result = run_hour(Path(folder), number, minutes)
    show(result)
    result["aim_p95_s"] = AIM_P95_S
    result["images"] = {"slices": SLICES, "rows_and_columns": PIXELS}
    result["machine"] = {"processor": platform.processor() or platform.machine(), "cores": os.cpu_count()}
    result["versions"] = {name: version(name) for name in ("dbos", "highdicom", "pydicom", "pynetdicom", "sqlalchemy")}
    if figures.quick() or (number == STUDIES and minutes == MINUTES):
        figures.publish(__file__, result)


if __name__ == "__main__":
    main(*(kind(word) for kind, word in zip((int, float), figures.words()[:2], strict=False)))
