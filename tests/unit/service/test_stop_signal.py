"""The process stops when it is told to, whichever of its threads the kernel gives the signal to."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).resolve().parents[3]
LIMIT_S = 60

WAITS = """
import signal, sys, threading
from service.stop_signal import StopSignals
stop = StopSignals(signal.SIGTERM, signal.SIGINT)
{before}
print("waits", flush=True)
print(stop.wait().name, flush=True)
"""
TO_ANOTHER_THREAD = """
signal.signal(signal.SIGUSR1, lambda *_: None)
held = threading.Lock()
held.acquire()
other = threading.Thread(target=held.acquire, daemon=True)
other.start()
def tell():
    signal.pthread_kill(other.ident, signal.SIGUSR1)
    signal.pthread_kill(other.ident, signal.{name})
threading.Timer(0.5, tell).start()
"""
BEFORE_IT_WAITS = "signal.raise_signal(signal.{name})"


def told(before: str = "") -> "subprocess.Popen[str]":
    """A process that waits, after having done something."""
    command = [sys.executable, "-c", WAITS.format(before=before)]
    return subprocess.Popen(
        command, stdout=subprocess.PIPE, text=True, cwd=REPOSITORY, env=os.environ | {"PYTHONPATH": ""}
    )


@pytest.mark.parametrize("name", ["SIGTERM", "SIGINT"])
@pytest.mark.parametrize("before", [TO_ANOTHER_THREAD, BEFORE_IT_WAITS])
def test_no_signal_is_lost(before: str, name: str) -> None:
    """Given to a thread that waits for something else, and one more beside it; or come before anybody waited."""
    process = told(before.format(name=name))
    try:
        said, _ = process.communicate(timeout=LIMIT_S)
    finally:
        process.kill()
        process.wait()
    assert said.split() == ["waits", name]
    assert process.returncode == 0


@pytest.mark.parametrize("name", ["SIGTERM", "SIGINT"])
def test_a_signal_from_outside(name: str) -> None:
    """As systemd and a terminal send it; another one that has a handler does not end the waiting."""
    process = told("signal.signal(signal.SIGUSR1, lambda *_: None)")
    assert process.stdout is not None
    try:
        assert process.stdout.readline() == "waits\n"
        process.send_signal(signal.SIGUSR1)
        process.send_signal(signal.Signals[name])
        said, _ = process.communicate(timeout=LIMIT_S)
    finally:
        process.kill()
        process.wait()
    assert (said, process.returncode) == (f"{name}\n", 0)
