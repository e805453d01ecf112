"""How long the export of a period takes and how large it is, beside the same entries as one plain zip of JSON lines.

In one run, on a log of real calls' entries: the peer; the package with entries and proofs alone; the package with all
that people and other systems get, each byte of it scanned against a dictionary of patients. Writes results/export.json.
export.py [--quick] [CALLS [PATIENTS]].
"""

import hashlib
import os
import platform
import sys
import tempfile
import time
import zipfile
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from importlib.metadata import version
from itertools import count
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from audit.canonical import JsonValue
from audit.entry import Draft, Kind
from audit.export import Evidence, export
from audit.log import AuditLog
from audit.note import Signer
from benchmarks import figures
from service.exporting import Asked, ForPeople, Handover, hand_over
from tests.simulators.audit_events import REPORTER
from tests.simulators.audit_log import QUICK, body
from tests.simulators.audit_package import CHECKS

CALLS, PATIENTS = (50, 100) if figures.quick() else (10_000, 20_000)
FILLERS = 64
ORIGIN = "bench.example/audit"


def hexes(name: str, number: int) -> str:
    """A pseudonym."""
    return hashlib.sha256(f"{name} {number}".encode()).hexdigest()[:32]


def digest(name: str, number: int) -> str:
    """A digest."""
    return f"sha256:{hashlib.sha256(f'{name} {number}'.encode()).hexdigest()}"


def uid(name: str, number: int) -> str:
    """One of our own."""
    return f"2.25.{int(hexes(name, number), 16)}"


def drafts(number: int) -> Iterator[Draft]:
    """What the story logs of one call that goes well, in its order: two objects, ten conditions."""
    call, study = hexes("call", number), {"study": hexes("study", number)}
    outputs = [(kind, uid(kind, number), digest(kind, number)) for kind in ("SR", "SEG")]
    read: dict[str, JsonValue] = {"input": hexes("input", number)}
    yield Draft(Kind.ASSEMBLED, f"assembled:{call}", body(Kind.ASSEMBLED) | study | read)
    yield Draft(Kind.SELECTED, f"selected:{call}", body(Kind.SELECTED) | study | {"series": hexes("series", number)})
    checks: dict[str, JsonValue] = {
        "checks": [{"condition": name, "outcome": "HOLDS", "observed": seen} for name, seen in CHECKS.items()]
    }
    yield Draft(Kind.CALL_INTENT, f"intent:{call}", body(Kind.CALL_INTENT) | study | read | checks, call)
    made: dict[str, JsonValue] = {"outputs": [{"kind": kind, "uid": name, "digest": d} for kind, name, d in outputs]}
    yield Draft(Kind.CALL_RESULT, f"result:{call}", body(Kind.CALL_RESULT) | made, call)
    sent: dict[str, JsonValue] = {"outputs": [{"uid": name, "digest": d} for _, name, d in outputs]}
    yield Draft(Kind.RELEASED, f"released:{call}", body(Kind.RELEASED) | sent, call)


def patients(number: int) -> Iterator[str]:
    """As many invented patients as the hospital might still have images of: name, ID, birth date, accession number."""
    for one in range(number):
        yield f"TEST{one}^Phantom"
        yield f"TP{one:08d}"
        yield f"{datetime(1930, 1, 1, tzinfo=UTC) + timedelta(days=one % 30_000):%Y%m%d}"
        yield f"ACC{one:09d}"


def filled(folder: Path, calls: int) -> AuditLog:
    """A log of so many calls."""
    ticks = count()
    log = AuditLog.open(
        folder,
        origin=ORIGIN,
        source="bench",
        signer=Signer.generate(ORIGIN),
        now=lambda: datetime(2026, 11, 1, tzinfo=UTC) + timedelta(milliseconds=250 * next(ticks)),
        disk=QUICK,
        publish_s=3600,
    )
    began = time.perf_counter()
    with ThreadPoolExecutor(FILLERS) as pool:
        list(pool.map(lambda number: [log.append(draft) for draft in drafts(number)], range(calls)))
    log.publish()
    print(f"  {log.head().size} entries logged in {time.perf_counter() - began:.0f} s", flush=True)
    return log


def plain(log: AuditLog, path: Path) -> None:
    """The peer: the same entries as JSON lines in a zip, stored. No proof, no hash, nothing looked at."""
    with zipfile.ZipFile(path, "w", zipfile.ZIP_STORED) as package, package.open("entries.jsonl", "w") as member:
        for entry in log.entries():
            member.write(entry.to_bytes() + b"\n")


def measure(calls: int, number: int) -> dict[str, Any]:
    """Each way once: seconds, MB and bytes of a call."""
    found: dict[str, Any] = {}
    with tempfile.TemporaryDirectory(prefix="zhiying-bench-") as name, filled(Path(name) / "log", calls) as log:
        inside = sum(len(entry.to_bytes()) for entry in log.entries())
        tiles = sum(path.stat().st_size for path in (Path(name) / "log").rglob("*") if path.is_file())
        people, to = ForPeople(REPORTER, patients(number)), Handover("BENCH", "BENCHMARK", "BENCH")

        def took(label: str, work: Callable[[Path], object]) -> None:
            path = Path(name) / f"{len(found)}.zip"
            began = time.perf_counter()
            work(path)
            seconds = time.perf_counter() - began
            size = path.stat().st_size
            found[label] = {"seconds": round(seconds, 2), "mb": round(size / 1e6, 1), "bytes_per_call": size // calls}

        took("JSON lines in a zip", lambda path: plain(log, path))
        took("package, entries alone", lambda path: export(log, path, evidence=Evidence()))
        took(
            "package, for people too",
            lambda path: hand_over(log, path, Asked(), to, lambda: None, log.head, people=people),
        )
    found["log"] = {"entry_bytes_per_call": inside // calls, "disk_bytes_per_call": tiles // calls}
    return found


def main() -> None:
    """Run, print, write."""
    given = [int(word) for word in figures.words()]
    calls, number = given[0] if given else CALLS, given[1] if len(given) > 1 else PATIENTS
    found = measure(calls, number)
    log = found.pop("log")
    peer = found["JSON lines in a zip"]
    print(f"\n{f'{calls} calls':28}{'seconds':>9}{'MB':>9}{'bytes a call':>14}{'time / peer':>13}")
    for name, one in found.items():
        one["time_ratio"] = round(one["seconds"] / max(peer["seconds"], 0.01), 1)
        print(f"{name:28}{one['seconds']:9.2f}{one['mb']:9.1f}{one['bytes_per_call']:14}{one['time_ratio']:13.1f}")
    print(
        f"in the log: {log['entry_bytes_per_call']} bytes of entries a call, {log['disk_bytes_per_call']} on the disk"
    )
    result = {
        "calls": calls,
        "dictionary": 4 * number,
        "ways": found,
        "log": log,
        "machine": {
            "processor": platform.processor() or platform.machine(),
            "cores": os.cpu_count(),
            "kernel": platform.release(),
        },
        "versions": {"python": platform.python_version(), "cryptography": version("cryptography")},
    }
    figures.publish(__file__, result)


if __name__ == "__main__":
    main()
