"""Python processes that start in a moment: forked from one that has imported everything.

Importing torch and MONAI takes seconds of a core, and tests start the service, its engine's child and its commands some
hundreds of times. A process from here runs the same code, with a pid, descriptors and an environment of its own, and
dies as any other. What is about starting itself (`tests/story/test_demo.py`, `test_stop.py`, `test_engine.py`) takes
real ones.
"""

from __future__ import annotations

import atexit
import contextlib
import fcntl
import gc
import importlib
import json
import os
import runpy
import select
import signal
import socket
import subprocess
import sys
import tempfile
import threading
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import IO, Any

from tests.simulators.waiting import LIMIT_S, until

REPOSITORY = Path(__file__).resolve().parents[2]
SOCKET = "ZHIYING_TEST_NURSERY"
"""The environment variable that tells a process where to have its own children started."""
IMPORTED = ("service.cli", "service.serving", "inference.worker", "inference.bundle", "inference.coarse_to_fine")
_FREE_FD = 500
"""Above every descriptor that a child may ask for by number."""

# ---- who wants a process ---------------------------------------------------------------------------------------------


class Popen:
    """What `subprocess.Popen` is to whoever starts a process; the nursery's is its parent.

    Takes a command of this interpreter: a script, `-m MODULE`, or the path of `zhiying`.
    """

    def __init__(
        self,
        command: Sequence[str | Path],
        *,
        stdin: int | None = None,
        stdout: Any = None,
        stderr: Any = None,
        env: Mapping[str, str] | None = None,
        cwd: Path | str | None = None,
        pass_fds: Sequence[int] = (),
    ) -> None:
        """Its parameters are those of subprocess.Popen."""
        self.args = [str(word) for word in command]
        self.returncode: int | None = None
        self.stdin = self.stdout = self.stderr = None
        with open(os.devnull, "r+b") as nothing:  # noqa: PTH123 - a device
            ends = [nothing.fileno() if stdin == subprocess.DEVNULL else 0, _number(stdout, 1), _number(stderr, 2)]
            wanted = [0, 1, 2, *pass_fds]
            environment = dict(os.environ if env is None else env)
            address = os.environ.get(SOCKET) or _own()  # in a process from a nursery: the same one
            told = {
                "command": self.args,
                "env": environment | {SOCKET: address},
                "cwd": str(cwd or Path.cwd()),
                "wanted": wanted,
            }
            self._line = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
            self._line.connect(address)
            socket.send_fds(self._line, [json.dumps(told).encode() + b"\n"], [*ends, *pass_fds])
        told_pid = b""
        while not told_pid.endswith(b"\n"):  # and no byte more: what follows is its end
            told_pid += self._line.recv(1) or b"0\n"
        self.pid = int(told_pid)
        assert self.pid, "the nursery ended"
        self._lock = threading.Lock()

    def poll(self) -> int | None:
        """The exit status, if it has ended; negative for a signal."""
        return self._told_within(0.0)

    def wait(self, timeout: float | None = None) -> int:
        """Wait for its end; raises subprocess.TimeoutExpired."""
        status = self._told_within(timeout)
        if status is None:
            raise subprocess.TimeoutExpired(self.args, timeout or 0.0)
        return status

    def _told_within(self, seconds: float | None) -> int | None:
        # As subprocess does: whoever asks while another thread waits is told that it runs.
        if self.returncode is None and self._lock.acquire(blocking=seconds != 0.0):
            try:
                if self.returncode is None and select.select([self._line], [], [], seconds)[0]:
                    said = self._line.recv(64)
                    self.returncode = int(said) if said else -signal.SIGKILL
                    self._line.close()
            finally:
                self._lock.release()
        return self.returncode

    def send_signal(self, number: int) -> None:
        """Signal it, unless it has ended."""
        if self.poll() is None:
            with contextlib.suppress(ProcessLookupError):
                os.kill(self.pid, number)

    def terminate(self) -> None:
        """SIGTERM."""
        self.send_signal(signal.SIGTERM)

    def kill(self) -> None:
        """SIGKILL."""
        self.send_signal(signal.SIGKILL)


def run(command: Sequence[str | Path], **options: Any) -> subprocess.CompletedProcess[str]:
    """As `subprocess.run` with `capture_output` and `text`; raises subprocess.TimeoutExpired after LIMIT_S."""
    with tempfile.TemporaryFile() as out, tempfile.TemporaryFile() as err:
        process = Popen(command, stdin=subprocess.DEVNULL, stdout=out, stderr=err, **options)
        try:
            status = process.wait(LIMIT_S)
        finally:
            process.kill()
        return subprocess.CompletedProcess(process.args, status, _text(out), _text(err))


def _text(file: IO[bytes]) -> str:
    file.seek(0)
    return file.read().decode()


def _number(stream: Any, default: int) -> int:
    if stream is None:
        return default
    return int(stream if isinstance(stream, int) else stream.fileno())


@cache
def _own() -> str:
    """The socket of this process's nursery, which ends with this process; started by the first that needs it."""
    folder = tempfile.TemporaryDirectory(prefix="nursery-")
    address = str(Path(folder.name) / "socket")
    process = subprocess.Popen(
        [sys.executable, "-P", "-m", "tests.simulators.nursery", address],
        stdin=subprocess.PIPE,
        cwd=REPOSITORY,
        env=os.environ | {"PYTHONPATH": str(REPOSITORY), "COLUMNS": "80"},
    )
    until(lambda: Path(address).exists() or process.poll() is not None, what="the nursery is open")
    assert process.poll() is None, "the nursery ended"

    def close() -> None:
        process.kill()
        process.wait()
        folder.cleanup()

    atexit.register(close)
    return address


# ---- the nursery -----------------------------------------------------------------------------------------------------


def main(address: str) -> None:
    """Serve until standard input ends, which it does with the process that started this one."""
    for module in IMPORTED:
        importlib.import_module(module)
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)
    gc.collect()
    gc.freeze()
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as door:
        door.bind(address)
        door.listen(64)
        while True:  # without a thread: whatever lock one held, each child would find locked
            ready, _, _ = select.select([door, 0], [], [])
            if 0 in ready:
                return
            line, _ = door.accept()
            told, received = _request(line)
            if os.fork() == 0:
                _mind(line, told, received)
            line.close()
            for number in received:
                os.close(number)


def _request(line: socket.socket) -> tuple[dict[str, Any], list[int]]:
    read, received = b"", []
    while not read.endswith(b"\n"):
        piece, numbers, _, _ = socket.recv_fds(line, 1 << 20, 16)
        if not piece:
            break
        read += piece
        received += numbers
    return dict(json.loads(read)), received


def _mind(line: socket.socket, told: dict[str, Any], received: list[int]) -> None:
    """Be the parent of one process, and tell its pid and how it ended."""
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    pid = os.fork()
    if pid == 0:
        _become(told, received)
    for number in received:
        os.close(number)
    with contextlib.suppress(BrokenPipeError):
        line.sendall(b"%d\n" % pid)
    _, status = os.waitpid(pid, 0)
    with contextlib.suppress(BrokenPipeError):
        line.sendall(b"%d" % os.waitstatus_to_exitcode(status))
    os._exit(0)


def _become(told: dict[str, Any], received: list[int]) -> None:
    """The process that was asked for: its descriptors, its environment, its words; does not return."""
    status = 1
    try:
        high = [fcntl.fcntl(number, fcntl.F_DUPFD, _FREE_FD) for number in received]
        os.closerange(0, _FREE_FD)
        for number, wanted in zip(high, told["wanted"], strict=True):
            os.dup2(number, wanted)
        os.closerange(_FREE_FD, 4096)
        os.environ.clear()
        os.environ.update(told["env"])
        os.chdir(told["cwd"])
        status = _run(told["command"])
    except SystemExit as end:
        status = end.code if isinstance(end.code, int) else int(end.code is not None)
        if isinstance(end.code, str):
            print(end.code, file=sys.stderr)
    except BaseException:  # noqa: BLE001 what the interpreter itself would print
        sys.excepthook(*sys.exc_info())
    finally:
        threading._shutdown()  # type: ignore[attr-defined]
        atexit._run_exitfuncs()
        with contextlib.suppress(OSError):
            sys.stdout.flush()
            sys.stderr.flush()
        os._exit(status)


def _run(command: list[str]) -> int:
    program, *words = command
    if Path(program).name == "zhiying":
        sys.argv, sys.modules["__main__"].__package__ = command, None  # as usage texts name the program
        importlib.import_module("service.cli").main()
        return 0
    words = [word for word in words if word != "-P"]
    if words[:2] == ["-m", "inference.worker"]:
        sys.argv = ["inference.worker", *words[2:]]
        return int(importlib.import_module("inference.worker").main(words[2:]))
    sys.argv = words
    runpy.run_path(words[0], run_name="__main__")
    return 0


if __name__ == "__main__":
    main(sys.argv[1])
