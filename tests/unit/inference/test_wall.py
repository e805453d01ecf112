"""The wall round the models' process, tried in processes of their own: by Python, by native code, by a child."""

from __future__ import annotations

import signal
import subprocess
import sys

import pytest

from inference import wall

UNAFFECTED = {
    "a socket of this machine": "socket.socket(socket.AF_UNIX); socket.socketpair()",
    "what drivers ask the kernel by": "socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, 0)",
    "files, processes, threads": "open('/dev/null').read(); subprocess.run(['true'], check=True); threaded(int)",
    "a child that starts Python": "assert subprocess.run([sys.executable, '-c', 'import socket']).returncode == 0",
}
ENDED = {
    "IPv4": "socket.socket(socket.AF_INET)",
    "IPv6": "socket.socket(socket.AF_INET6)",
    "UDP": "socket.socket(socket.AF_INET, socket.SOCK_DGRAM)",
    "packets": "socket.socket(socket.AF_PACKET, socket.SOCK_RAW)",
    "virtual machines": "socket.socket(socket.AF_VSOCK, socket.SOCK_STREAM)",
    "a name": "socket.getaddrinfo('hospital.example', 80)",
    "native code": "LIBC.socket(2, 1, 0)",
    "a family in 64 bits": "LIBC.syscall(ctypes.c_long(NUMBER), ctypes.c_long(2 | 1 << 32), 1, 0)",
    "a new thread": "threaded(socket.socket)",
    "a thread that was there before": "ask.set(); asked.join()",
}
HEAD = """
import ctypes, platform, socket, subprocess, sys, threading
from inference.wall import raise_wall
LIBC = ctypes.CDLL(None)
NUMBER = {"x86_64": 41, "aarch64": 198}[platform.machine()]
def threaded(work):
    one = threading.Thread(target=work)
    one.start()
    one.join()
ask = threading.Event()
asked = threading.Thread(target=lambda: (ask.wait(), socket.socket()), daemon=True)
asked.start()
"""


def tried(code: str, *, walled: bool = True) -> int:
    """How a process ends that has the wall, if it has, and then does this."""
    lines = [HEAD, "raise_wall()" if walled else "", code]
    return subprocess.run([sys.executable, "-c", "\n".join(lines)], timeout=120, check=False).returncode


@pytest.mark.parametrize("name", UNAFFECTED)
def test_what_stays_in_the_machine_goes_on(name: str) -> None:
    """Drivers and libraries have their sockets, files and threads."""
    assert tried(UNAFFECTED[name]) == 0


@pytest.mark.parametrize("name", ENDED)
def test_the_network_is_out_of_reach(name: str) -> None:
    """Whoever asks for a socket, however: the whole process ends by SIGSYS, before there is one."""
    assert tried(ENDED[name]) == wall.STATUS == -signal.SIGSYS


def test_a_child_has_the_wall_too() -> None:
    """What the process starts cannot go where it cannot."""
    again = "subprocess.run([sys.executable, '-c', 'import socket; socket.socket()']).returncode"
    assert tried(f"sys.exit(7 if {again} == -31 else 1)") == 7


def test_a_ring_of_system_calls_is_not_there() -> None:
    """io_uring opens sockets past the filter: a program that asks is told that the kernel has none, and goes on."""
    code = "LIBC = ctypes.CDLL(None, use_errno=True); sys.exit(LIBC.syscall(425, 8, None) == -1 and ctypes.get_errno())"
    assert tried(code) == 38


def test_without_it_there_are_sockets() -> None:
    """It is the wall that ends them."""
    assert tried(ENDED["IPv4"], walled=False) == 0
    assert tried("ask.set(); asked.join()", walled=False) == 0


def test_the_other_numbers_of_the_same_calls() -> None:
    """x32's socket(2) is the same call under another number; where there is no x32, nobody needs such a number."""
    assert tried("LIBC.syscall(ctypes.c_long(0x40000000 | NUMBER), 2, 1, 0)") == wall.STATUS


def test_a_machine_whose_numbers_nobody_wrote_down() -> None:
    """No wall, no process: it says so and does not go on without."""
    with pytest.raises(OSError, match="riscv64"):
        wall.raise_wall("riscv64")
