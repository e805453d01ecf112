"""Nothing leaves but to the peers that the configuration names (I8), as the kernel saw it."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.simulators.pacs import FakePacs
from tests.simulators.site import Site, write_series

INTERNET = re.compile(
    r"connect\(\d+, \{sa_family=AF_INET6?, sin6?_port=htons\((?P<port>\d+)\)"
    r'.*?(?:inet_addr\("(?P<v4>[^"]+)"\)|inet_pton\(AF_INET6, "(?P<v6>[^"]+)")'
)
SENT_TO = re.compile(r"send(?:to|msg|mmsg)\(.*sa_family=AF_INET")


def _called(trace: Path) -> set[tuple[str, int]]:
    """(address, port) of every TCP or UDP connection that was asked for."""
    found = (INTERNET.search(line) for line in trace.read_text(errors="replace").splitlines())
    calls = {(m["v4"] or m["v6"], int(m["port"])) for m in found if m is not None}
    # The C library asks the routing table with a datagram socket "connected" to port 0: no packet leaves for that.
    return {(address, port) for address, port in calls if port != 0}


@pytest.mark.timeout(600)
def test_a_whole_story_calls_only_the_pacs(tmp_path: Path) -> None:
    """From start to release the process and its worker connect to the configured peer, and to nobody else."""
    trace = tmp_path / "trace"
    # -D: the service stays our own child, so that it gets the signal to stop.
    watcher = [
        "strace",
        "-D",
        "-f",
        "-qq",
        "-e",
        "trace=connect,sendto,sendmsg,sendmmsg",
        "-e",
        "signal=none",
        "-o",
        str(trace),
    ]
    with FakePacs() as pacs:
        site = Site(tmp_path / "site", pacs)
        site.approve(site.install_model())
        site.start(under=watcher)
        try:
            assert set(site.send(write_series(tmp_path / "series"))) == {0}
            site.run_in("RELEASED")
        finally:
            site.stop()

        assert _called(trace) == {("127.0.0.1", pacs.port)}
        addressed = [line for line in trace.read_text(errors="replace").splitlines() if SENT_TO.search(line)]
        assert addressed == []


def test_the_watcher_sees_a_call_that_should_not_be(tmp_path: Path) -> None:
    """The check is awake: a connection to somewhere else is in the trace, even one that is refused."""
    trace = tmp_path / "trace"
    call = "import socket\ns = socket.socket()\ntry: s.connect(('127.0.0.9', 9))\nexcept OSError: pass\n"
    subprocess.run(
        ["strace", "-f", "-qq", "-e", "trace=connect", "-o", str(trace), sys.executable, "-c", call], check=True
    )

    assert ("127.0.0.9", 9) in _called(trace)
