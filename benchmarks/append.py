"""How many entries a second the log takes, durably, beside what this disk and this language can do at most.

In one run: the disk's own fsync rate; a group commit with nothing to it (the same threads and bytes, one file, one
fsync for all that wait); and our log, published when it must be, and at each commit, as in the service. Writes
results/append.json. append.py [--quick] [SECONDS]: of each measurement.
"""

import os
import platform
import statistics
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from audit import durable
from audit.entry import Draft, Entry, Kind
from audit.log import AuditLog
from audit.note import Signer
from audit.ticket import Line, Ticket
from benchmarks import figures
from tests.simulators.audit_log import body

SECONDS = 0.2 if figures.quick() else 4.0
ROUNDS = 1 if figures.quick() else 3
CALLERS = (1, 4) if figures.quick() else (1, 16, 256)


def sample(number: int) -> Draft:
    """The largest entry of a call, with its own key."""
    return Draft(Kind.CALL_INTENT, f"intent:{number}", body(Kind.CALL_INTENT), "c" * 32)


class Leaf(Ticket):
    """A ticket with the bytes that are to be written."""

    __slots__ = ("data",)
    data: bytes


class OneFile:
    """Group commit and nothing else: what waits is appended to one file, with one fsync. No tree, no signature."""

    def __init__(self, path: Path) -> None:
        self._handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
        self._line, self._gate = Line(), threading.Lock()
        self._next = 0

    def append(self, draft: Draft) -> None:
        """Make it durable."""
        ticket = Leaf(draft)
        with self._gate:
            entry = Entry.of(
                draft,
                index=self._next,
                source="bench",
                seq=self._next,
                now=datetime.now(UTC),
                boot="b0" * 16,
                tick_us=0,
            )
            self._next += 1
        ticket.data = entry.to_bytes()
        try:
            self._line.join(ticket)
            if not ticket.done:
                batch = self._line.take(sys.maxsize)
                os.write(self._handle, b"".join(one.data for one in batch if isinstance(one, Leaf)))
                os.fsync(self._handle)
                for one in batch:
                    one.done = True
                self._line.answered(ticket, batch)
        finally:
            self._line.leave(ticket)

    def close(self) -> None:
        """Give the file back."""
        os.close(self._handle)


def fsyncs(folder: Path, seconds: float) -> float:
    """Syncs a second of four KiB appended to a file."""
    handle = os.open(folder / "fsync", os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    count, began = 0, time.perf_counter()
    while time.perf_counter() - began < seconds:
        os.write(handle, bytes(4096))
        os.fsync(handle)
        count += 1
    os.close(handle)
    return count / (time.perf_counter() - began)


def rate(append: Callable[[Draft], object], callers: int, seconds: float) -> float:
    """Appends a second by so many threads, each waiting for its own."""
    counts, end = [0] * callers, time.perf_counter() + seconds
    start = threading.Barrier(callers + 1)

    def call(mine: int) -> None:
        start.wait()
        while time.perf_counter() < end:
            append(sample(mine * 10**9 + counts[mine]))
            counts[mine] += 1

    threads = [threading.Thread(target=call, args=(mine,)) for mine in range(callers)]
    for thread in threads:
        thread.start()
    start.wait()
    began = time.perf_counter()
    for thread in threads:
        thread.join()
    return sum(counts) / (time.perf_counter() - began)


def log_of(folder: Path, publish_s: float) -> AuditLog:
    """A new log on the real disk."""
    return AuditLog.open(
        folder,
        origin="bench.example/audit",
        source="bench",
        signer=Signer.generate("bench.example/audit"),
        now=lambda: datetime.now(UTC),
        disk=durable,
        publish_s=publish_s,
    )


def measure(seconds: float) -> dict[str, dict[str, list[float]]]:
    """Every rate of each round, by what was measured and the number of callers."""
    found: dict[str, dict[str, list[float]]] = {}

    def note(name: str, callers: int, value: float) -> None:
        found.setdefault(name, {}).setdefault(str(callers), []).append(value)
        print(f"  {name:34} {callers:3} callers {value:9.0f} /s", flush=True)

    for _ in range(ROUNDS):
        for callers in CALLERS:
            with tempfile.TemporaryDirectory(prefix="zhiying-bench-") as name:
                folder = Path(name)
                note("fsync", callers, fsyncs(folder, seconds / 4))
                one = OneFile(folder / "one")
                note("group commit, one file", callers, rate(one.append, callers, seconds))
                one.close()
                for label, publish_s in (("log, published within 1 s", 1.0), ("log, published at once", 0.0)):
                    with log_of(folder / label, publish_s) as log:
                        note(label, callers, rate(log.append, callers, seconds))
    return found


def main() -> None:
    """Run, print, write."""
    words = figures.words()
    found = measure(float(words[0]) if words else SECONDS)
    median = {name: {n: statistics.median(runs) for n, runs in one.items()} for name, one in found.items()}
    limit = median["group commit, one file"]
    ratios = {
        name: {n: round(value / limit[n], 2) for n, value in one.items()}
        for name, one in median.items()
        if name.startswith("log")
    }
    print(f"\n{'a second; medians of ' + str(ROUNDS):36}" + "".join(f"{n:>5} callers" for n in CALLERS))
    for name, one in median.items():
        print(f"{name:36}" + "".join(f"{one[str(n)]:13.0f}" for n in CALLERS))
    for name, one in ratios.items():
        print(f"{name + ' / group commit':48}" + "".join(f"{one[str(n)]:8.2f}" for n in CALLERS) + "   aim 0.8 at 256")
    result: dict[str, Any] = {
        "per_s": {name: {n: round(value, 1) for n, value in one.items()} for name, one in median.items()},
        "ratio_to_group_commit": ratios,
        "bytes_of_the_entry": len(
            Entry.of(
                sample(1), index=0, source="bench", seq=0, now=datetime.now(UTC), boot="b0" * 16, tick_us=0
            ).to_bytes()
        ),
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
