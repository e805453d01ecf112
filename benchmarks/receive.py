"""How fast instances are received, beside what the field uses: DCMTK's storescp, Orthanc, stock pynetdicom.

Each receiver is a process of its own; the senders are DCMTK's dcmsend, one association each. Each round runs every
receiver once, in turn, so that a busy machine hits them all; the medians count. A run's time is from the first
request that was sent to the last answer, as the senders' own logs say. Writes results/receive.json.

    python benchmarks/receive.py [--quick] [ROUNDS]
"""

import argparse
import json
import os
import platform
import shutil
import socket
import sqlite3
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from audit import durable
from audit.errors import ContentDiffers
from benchmarks import figures
from dicom_bridge.inbox import Inbox
from dicom_bridge.listener import TRANSFER_SYNTAXES, Listener
from dicom_bridge.network import new_entity, no_delay
from dicom_bridge.offers import STORAGE_CLASSES
from dicom_bridge.spool_disk import DurableDisk
from tests.simulators.ct_slices import SIDE, write_slices

ROUNDS, SLICES, MEMORY_FOLDERS = (1, 20, 2) if figures.quick() else (3, 300, 10)
ASSOCIATIONS = (2,) if figures.quick() else (1, 4, 16)
TITLE = "RECEIVER"
START_S = 30.0
RUN_S = 900
# Times in the senders' logs, to the millisecond; nothing of it goes through this process while they run.
LOG = """\
log4cplus.rootLogger = INFO, file
log4cplus.appender.file = log4cplus::FileAppender
log4cplus.appender.file.File = {file}
log4cplus.appender.file.ImmediateFlush = false
log4cplus.appender.file.layout = log4cplus::PatternLayout
log4cplus.appender.file.layout.ConversionPattern = %D{{%s.%q}} %m%n
"""


class CacheDisk(DurableDisk):
    """The disk without its promise: names are given, nothing is synced. For this comparison only."""

    def hasten(self, handle: int, start: int, length: int) -> None:
        """Nothing is to reach the disk by our doing."""

    def adopt(self, temporary: str | Path, final: str | Path, handle: int | None = None) -> bool:  # noqa: ARG002 - as there
        """As audit.durable.adopt, but for the syncs."""
        try:
            os.link(temporary, final)
        except FileExistsError:
            if not durable.same_bytes(Path(temporary), Path(final)):
                raise ContentDiffers from None
        Path(temporary).unlink()
        return True


def native(program: str) -> str:
    """The system's own; pynetdicom installs programs of the same names beside python."""
    found = shutil.which(program, path=f"{os.defpath}:/usr/local/bin:/usr/sbin")
    if found is None:
        raise SystemExit(f"{program} is not installed")
    return found


# -- what is sent


def send(slices: Path, logs: Path, folders: Sequence[int], port: int) -> float:
    """Send these folders at once, one association each; gives seconds. A failed sender ends the benchmark."""
    shutil.rmtree(logs, ignore_errors=True)
    logs.mkdir()
    environment = {**os.environ, "TCP_NODELAY": "1"}
    senders = []
    for folder in folders:
        config = logs / f"{folder}.cfg"
        config.write_text(LOG.format(file=logs / f"{folder}.log"), encoding="ascii")
        command = [
            native("dcmsend"),
            "-lc",
            str(config),
            "-aec",
            TITLE,
            "-pdu",
            "131072",
            "-ma",
            "127.0.0.1",
            str(port),
            "+sd",
        ]
        senders.append(subprocess.Popen([*command, str(slices / str(folder))], env=environment))
    if sum(sender.wait(RUN_S) != 0 for sender in senders):
        raise SystemExit(f"a sender failed; its log is in {logs}")
    first, last, answered = [], [], 0
    for folder in folders:
        lines = (logs / f"{folder}.log").read_text(encoding="utf-8").splitlines()
        first.append(min(float(line.split()[0]) for line in lines if "Sending C-STORE Request" in line))
        answers = [line for line in lines if "Received C-STORE Response" in line and "Success" in line]
        last.append(max(float(line.split()[0]) for line in answers))
        answered += len(answers)
    if answered != len(folders) * SLICES:
        raise SystemExit(f"{answered} of {len(folders) * SLICES} were stored")
    return max(last) - min(first)


# -- receivers, each in a process of its own


def serve_ours(root: Path, *, synced: bool) -> int:
    """Our listener and inbox; gives the port."""
    inbox = Inbox(root, lambda: datetime.now(UTC), disk=DurableDisk() if synced else CacheDisk())
    listener = Listener(TITLE, "127.0.0.1", 0, inbox)
    listener.start()
    return listener.port


def serve_stock(root: Path, *, synced: bool) -> int:
    """Stock pynetdicom as its users tune it: large PDUs, the data set written as it came; gives the port."""
    from pynetdicom import evt  # its import is not part of our own receiver's memory

    incoming, kept = root / "incoming", root / "kept"
    incoming.mkdir(parents=True)
    kept.mkdir()

    def store(event: Any) -> int:
        request = event.request
        uid = str(request.AffectedSOPInstanceUID)
        part = incoming / f"{uid}.part"
        part.write_bytes(event.encoded_dataset())
        if synced:
            durable.adopt(part, kept / f"{uid}.dcm")
        else:
            CacheDisk().adopt(part, kept / f"{uid}.dcm")
        return 0

    entity = new_entity(TITLE)
    entity.maximum_pdu_size = 131_072
    entity.maximum_associations = 64
    for sop_class in STORAGE_CLASSES:
        entity.add_supported_context(sop_class, list(TRANSFER_SYNTAXES))
    handlers = [(evt.EVT_CONN_OPEN, no_delay), (evt.EVT_C_STORE, store)]
    server = entity.start_server(("127.0.0.1", 0), block=False, evt_handlers=handlers)
    return int(server.server_address[1])


PYTHON = {
    "ours-durable": (serve_ours, True),
    "ours-cache": (serve_ours, False),
    "pynetdicom-durable": (serve_stock, True),
    "pynetdicom-cache": (serve_stock, False),
}
NATIVE = ("storescp", "storescp-bits", "orthanc")
RECEIVERS = ("ours-durable", "ours-cache", "storescp", "storescp-bits", "orthanc", *list(PYTHON)[2:])


def serve(kind: str, root: Path) -> None:
    """Be one of our own receivers until killed; prints the port."""
    make, synced = PYTHON[kind]
    print(make(root, synced=synced), flush=True)
    threading.Event().wait()


def free_port() -> int:
    """A port that nobody uses now."""
    with socket.create_server(("127.0.0.1", 0)) as probe:
        return int(probe.getsockname()[1])


def orthanc_command(root: Path, port: int) -> list[str]:
    """Orthanc with large PDUs and a thread for each association, and nothing else switched on."""
    configuration = {
        "StorageDirectory": str(root / "storage"),
        "IndexDirectory": str(root / "storage"),
        "HttpServerEnabled": False,
        "DicomPort": port,
        "DicomAet": TITLE,
        "DicomAlwaysAllowStore": True,
        "MaximumPduLength": 131072,
        "DicomThreadsCount": max(ASSOCIATIONS),
    }
    (root / "orthanc.json").write_text(json.dumps(configuration), encoding="utf-8")
    return [native("Orthanc"), str(root / "orthanc.json")]


def native_command(kind: str, root: Path, port: int, associations: int) -> list[str]:
    """What starts a receiver that is not ours."""
    if kind == "orthanc":
        return orthanc_command(root, port)
    (root / "kept").mkdir()
    options = ["-aet", TITLE, "-pdu", "131072", "-od", str(root / "kept")]
    options += ["--bit-preserving"] if kind == "storescp-bits" else []
    # Without it storescp serves one association after the other.
    options += ["--fork"] if associations > 1 else []
    return [native("storescp"), *options, str(port)]


def wait_for(port: int) -> None:
    """Until somebody listens there."""
    end = time.monotonic() + START_S
    while True:
        try:
            socket.create_connection(("127.0.0.1", port), timeout=1).close()
            return
        except OSError:
            if time.monotonic() > end:
                raise SystemExit(f"nothing listens on {port}") from None
            time.sleep(0.02)


@contextmanager
def receiver(kind: str, root: Path, associations: int) -> Iterator[tuple[Path, int, int]]:
    """Start one, on an empty folder inside `root`; gives that, its process id and port. Leaves empty files."""
    root.mkdir(exist_ok=True)
    root = Path(tempfile.mkdtemp(dir=root))
    # What the run before has left to the operating system must not be written during this one.
    os.sync()
    environment = {**os.environ, "TCP_NODELAY": "1"}
    if kind in PYTHON:
        command, port = [sys.executable, __file__, "--serve", kind, str(root / "spool")], 0
    else:
        port = free_port()
        command = native_command(kind, root, port, associations)
    quiet = None if kind in PYTHON else subprocess.DEVNULL
    with subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=quiet, text=True) as process:
        try:
            if kind in PYTHON:
                assert process.stdout is not None
                port = int(process.stdout.readline())
            else:
                wait_for(port)
            yield root, process.pid, port
        finally:
            process.kill()
    # Emptied, not removed: ext4 goes around inodes that were removed in the last minutes, one by one, and the next
    # receiver would pay for how many files this one has made (half of its time, when that was tried).
    for left in root.rglob("*"):
        if left.is_file():
            os.truncate(left, 0)


# -- measuring


def digests_taken(spool: Path, images: int) -> float:
    """Seconds until our receiver has the digest of every image: it takes them when a burst is over."""
    began = time.monotonic()
    with closing(sqlite3.connect(spool / "index.sqlite")) as index:
        while index.execute("SELECT count(*) FROM instance WHERE digest <> ''").fetchone() != (images,):
            if time.monotonic() - began > RUN_S:
                raise SystemExit("the digests are not taken")
            time.sleep(0.05)
    return time.monotonic() - began


def measure(work: Path, rounds: int) -> tuple[dict[str, dict[int, list[float]]], dict[int, list[float]]]:
    """Images per second by receiver and number of associations, of each round; and the seconds of `digests_taken`."""
    after: dict[int, list[float]] = {n: [] for n in ASSOCIATIONS}
    rates: dict[str, dict[int, list[float]]] = {kind: {n: [] for n in ASSOCIATIONS} for kind in RECEIVERS}
    for turn in range(rounds):
        for associations in ASSOCIATIONS:
            for kind in RECEIVERS:
                with receiver(kind, work / "receiver", associations) as (root, _, port):
                    seconds = send(work / "slices", work / "logs", range(associations), port)
                    if kind == "ours-durable":
                        after[associations].append(digests_taken(root / "spool", associations * SLICES))
                rate = associations * SLICES / seconds
                rates[kind][associations].append(rate)
                print(f"  round {turn + 1}: {kind:20} {associations:3} associations {rate:8.0f} images/s", flush=True)
    return rates, after


def memory(work: Path) -> dict[str, int]:
    """VmHWM of our receiver, in KiB, after one folder of slices and after ten."""
    found = {}
    with receiver("ours-durable", work / "receiver", 1) as (_, pid, port):
        for sent in range(MEMORY_FOLDERS):
            send(work / "slices", work / "logs", [sent], port)
            if sent in (0, MEMORY_FOLDERS - 1):
                status = Path(f"/proc/{pid}/status").read_text(encoding="ascii")
                peak = next(line for line in status.splitlines() if line.startswith("VmHWM"))
                found[str((sent + 1) * SLICES)] = int(peak.split()[1])
    return found


def summary(rates: dict[str, dict[int, list[float]]]) -> dict[str, Any]:
    """Medians, and what was aimed at."""
    median = {kind: {n: statistics.median(runs) for n, runs in found.items()} for kind, found in rates.items()}
    # The better of its two ways of writing.
    storescp = {n: max(median["storescp"][n], median["storescp-bits"][n]) for n in ASSOCIATIONS}
    ratios = {
        "cache / storescp": {n: median["ours-cache"][n] / median["storescp"][n] for n in ASSOCIATIONS},
        "cache / storescp, the faster of default and --bit-preserving": {
            n: median["ours-cache"][n] / storescp[n] for n in ASSOCIATIONS
        },
        "durable / Orthanc": {n: median["ours-durable"][n] / median["orthanc"][n] for n in ASSOCIATIONS},
        "durable / pynetdicom with the same fsync": {
            n: median["ours-durable"][n] / median["pynetdicom-durable"][n] for n in ASSOCIATIONS
        },
    }
    size = SIDE * SIDE * 2
    return {
        "images_per_s": {kind: {str(n): round(rate, 1) for n, rate in found.items()} for kind, found in median.items()},
        "mb_per_s": {
            kind: {str(n): round(rate * size / 1e6, 1) for n, rate in found.items()} for kind, found in median.items()
        },
        "runs": {kind: {str(n): [round(r, 1) for r in runs] for n, runs in one.items()} for kind, one in rates.items()},
        "ratios": {name: {str(n): round(ratio, 2) for n, ratio in found.items()} for name, found in ratios.items()},
        "aims": {"cache / storescp": 1.0, "durable / Orthanc": 2.0, "durable / pynetdicom with the same fsync": 3.0},
    }


def show(result: dict[str, Any]) -> None:
    """The tables."""
    print(f"\n{SLICES} CT slices of {SIDE * SIDE * 2 // 1024} KiB for each association; medians")
    print(f"{'images/s (MB/s)':22}" + "".join(f"{n:>10} assoc." for n in ASSOCIATIONS))
    for kind in RECEIVERS:
        cells = (
            f"{result['images_per_s'][kind][str(n)]:9.0f} ({result['mb_per_s'][kind][str(n)]:4.0f})"
            for n in ASSOCIATIONS
        )
        print(f"{kind:22}" + " ".join(cells))
    for name, ratio in result["ratios"].items():
        aim = result["aims"].get(name)
        print(f"{name:62}" + " ".join(f"{ratio[str(n)]:6.2f}" for n in ASSOCIATIONS) + (f"   aim {aim}" if aim else ""))
    print(f"{'digests of all images taken, s after the last answer':62}", end="")
    print(" ".join(f"{result['digests_taken_after_s'][str(n)]:6.2f}" for n in ASSOCIATIONS))
    for slices, peak in result["vmhwm_kib"].items():
        print(f"VmHWM of our receiver after {slices:>4} slices: {peak / 1024:7.1f} MiB")


def versions() -> dict[str, str]:
    """Of everything that took part."""
    found = {name: version(name) for name in ("pydicom", "pynetdicom")} | {"python": platform.python_version()}
    for tool, option in (("storescp", "--version"), ("Orthanc", "--version")):
        said = subprocess.run([native(tool), option], capture_output=True, text=True, check=False)
        found[tool] = (said.stdout + said.stderr).splitlines()[0].strip("$ ")
    return found


def main() -> None:
    """Run, print, write."""
    parser = argparse.ArgumentParser()
    parser.add_argument("rounds", nargs="?", type=int, default=ROUNDS)
    parser.add_argument("--serve", nargs=2, metavar=("KIND", "ROOT"))
    given = parser.parse_args(figures.words())
    if given.serve:
        serve(given.serve[0], Path(given.serve[1]))
    with tempfile.TemporaryDirectory(prefix="zhiying-bench-") as folder:
        work = Path(folder)
        write_slices(work / "slices", max(*ASSOCIATIONS, MEMORY_FOLDERS), SLICES)
        rates, after = measure(work, given.rounds)
        result = summary(rates)
        result["digests_taken_after_s"] = {str(n): round(statistics.median(runs), 2) for n, runs in after.items()}
        result["vmhwm_kib"] = memory(work)
    result["rounds"], result["slices"] = given.rounds, SLICES
    result["machine"] = {
        "processor": platform.processor() or platform.machine(),
        "cores": os.cpu_count(),
        "kernel": platform.release(),
    }
    result["versions"] = versions()
    show(result)
    figures.publish(__file__, result)


if __name__ == "__main__":
    main()
