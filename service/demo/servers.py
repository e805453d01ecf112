"""Servers that the demo starts: each in a session of its own, written in a ledger, stopped for certain.

Ctrl-C in the terminal reaches the demo alone, which then stops its servers in reverse order. The ledger names each
server's process id and its start time, so that servers which an earlier run left up (KEEP=1, or a demo that was
killed) are found and stopped by the next one, and a process that merely got the same id is never touched.
"""

import contextlib
import json
import os
import random
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from types import TracebackType
from typing import Self

from audit import durable
from service.demo.errors import ServerNotStarted, ToolMissing

STOP_GRACE_S = 15.0  # Orthanc flushes its index, the service ends its worker; more than this is a hang
KILL_LIMIT_S = 5.0  # the kernel's part of ending a process that was killed
START_LIMIT_S = 180.0  # importing the service's libraries takes seconds on a slow disk, more on a busy machine
POLL_S = 0.1
# Below those that the system gives to outgoing connections (Linux: 32768 and up): one of those may be lent to somebody
# between our look and the server's start.
PORTS = range(20000, 32000)
PORTS_TRIED = 100
START_TIME_FIELD = 19  # /proc/PID/stat, counted after the name's closing parenthesis: proc(5) field 22


@dataclass(frozen=True, slots=True)
class Started:
    """One running server: `ticks` (start time since boot) tells it from a later process with the same id."""

    name: str
    pid: int
    ticks: int


def start_ticks(pid: int) -> int | None:
    """Start time of a process in clock ticks since boot, or None when it is gone or a zombie (proc(5), stat)."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text(encoding="ascii", errors="replace")
    except (FileNotFoundError, ProcessLookupError):
        return None
    fields = stat.rpartition(")")[2].split()
    return None if fields[0] in {"Z", "X"} else int(fields[START_TIME_FIELD])


def free_port(preferred: int | None = None) -> int:
    """`preferred` when nothing listens there on any address, else one drawn from PORTS."""
    drawn = random.sample(PORTS, PORTS_TRIED)
    for candidate in drawn if preferred is None else [preferred, *drawn]:
        with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind(("", candidate))
            except OSError:
                continue
            return candidate
    raise ServerNotStarted("no free TCP port on this machine")


def answers(port: int, host: str = "127.0.0.1") -> bool:
    """Whether something accepts TCP connections on the port."""
    try:
        with socket.create_connection((host, port), timeout=1.0):
            return True
    except OSError:
        return False


def find_tool(name: str, package: str) -> str:
    """Full path of a program; Debian keeps servers in /usr/sbin, which is not on every user's PATH."""
    path = shutil.which(name, path=f"{os.environ.get('PATH', '')}:/usr/sbin:/usr/local/sbin")
    if path is None:
        raise ToolMissing(f"'{name}' is not installed; it is in the Debian package '{package}': run scripts/setup.sh")
    return path


def last_line(log: Path) -> str:
    """The last non-empty line of a log, for an error message; "" when there is none."""
    if not log.exists():
        return ""
    lines = [line for line in log.read_text(encoding="utf-8", errors="replace").splitlines() if line.strip()]
    return lines[-1].strip() if lines else ""


class Servers:
    """The servers of one workdir. A context manager: leaving it stops them all, unless `keep` was called."""

    def __init__(self, ledger: Path, *, grace_s: float = STOP_GRACE_S) -> None:
        """`ledger`: file that names the running servers; its folder exists. `grace_s`: from SIGTERM to SIGKILL."""
        self._grace_s = grace_s
        self._ledger = ledger
        self._started: list[Started] = []
        self._children: dict[int, subprocess.Popen[bytes]] = {}
        self._keep = False

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, value: BaseException | None, at: TracebackType | None) -> None:
        if kind is not None or not self._keep:
            self.stop()

    def keep(self) -> None:
        """Leave the servers up when all goes well."""
        self._keep = True

    def stop_earlier(self) -> tuple[str, ...]:
        """Stop what the ledger of an earlier run still names; gives the names of those that were up."""
        earlier = self._read()
        names = [one.name for one in reversed(earlier) if self._stop(one)]
        self._write(())
        return tuple(names)

    def start(self, name: str, command: Sequence[str], *, log: Path, environment: Mapping[str, str]) -> int:
        """Start `command` with its output in `log`; gives its process id. A crash here leaves the ledger's entry."""
        with log.open("wb") as sink:
            child = subprocess.Popen(
                list(command),
                stdin=subprocess.DEVNULL,
                stdout=sink,
                stderr=subprocess.STDOUT,
                env=dict(environment),
                start_new_session=True,
            )
        self._children[child.pid] = child
        self._started.append(Started(name, child.pid, start_ticks(child.pid) or 0))
        self._write(self._started)
        return child.pid

    def wait_until(self, pid: int, ready: Callable[[], bool], *, log: Path, limit_s: float = START_LIMIT_S) -> None:
        """Wait until `ready()`; raises ServerNotStarted when the server ends first or the limit passes."""
        name = next(one.name for one in self._started if one.pid == pid)
        deadline = time.monotonic() + limit_s
        while not ready():
            status = self._children[pid].poll()
            if status is not None:
                raise ServerNotStarted(f"{name} ended with status {status}; {log} ends: {last_line(log)}")
            if time.monotonic() > deadline:
                raise ServerNotStarted(f"{name} did not answer in {limit_s:.0f} s; {log} ends: {last_line(log)}")
            time.sleep(POLL_S)

    def alive(self, pid: int) -> bool:
        """Whether a server that this object started still runs."""
        return self._children[pid].poll() is None

    def stop(self) -> None:
        """Stop all servers, the latest first; safe to call twice."""
        while self._started:
            self._stop(self._started[-1])
            self._started.pop()
        self._write(())

    def _stop(self, server: Started) -> bool:
        """SIGTERM, and SIGKILL of its whole session when that is not enough. False: it was not running."""
        self._reap(server.pid)
        if start_ticks(server.pid) != server.ticks:
            return False
        with contextlib.suppress(ProcessLookupError):  # it may end by itself just now
            os.kill(server.pid, signal.SIGTERM)
        deadline = time.monotonic() + self._grace_s
        while start_ticks(server.pid) == server.ticks and time.monotonic() < deadline:
            self._reap(server.pid)
            time.sleep(POLL_S / 2)
        if start_ticks(server.pid) == server.ticks:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(server.pid, signal.SIGKILL)
        self._reap(server.pid, limit_s=KILL_LIMIT_S)
        return True

    def _reap(self, pid: int, limit_s: float = 0.0) -> None:
        """Take a child's exit status, or it stays in the process table; a server of another run is not our child."""
        child = self._children.get(pid)
        if child is not None:
            with contextlib.suppress(subprocess.TimeoutExpired):
                child.wait(limit_s)

    def _read(self) -> list[Started]:
        if not self._ledger.exists():
            return []
        return [Started(**one) for one in json.loads(self._ledger.read_text(encoding="utf-8"))]

    def _write(self, servers: Sequence[Started]) -> None:
        if not servers:
            self._ledger.unlink(missing_ok=True)
            return
        # Whole for whoever reads it meanwhile, and there after a power cut: it is what finds servers that were left up.
        durable.replace(self._ledger, (json.dumps([asdict(one) for one in servers], indent=1) + "\n").encode())
