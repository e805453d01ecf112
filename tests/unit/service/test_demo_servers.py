"""Servers of the demo are found, waited for and stopped, and nothing else is ever touched."""

import json
import os
import socket
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from service.demo import stop
from service.demo.errors import ServerNotStarted, ToolMissing
from service.demo.servers import Servers, answers, find_tool, free_port, last_line, start_ticks
from tests.simulators.demo_run import ledger

REWRITES = 40
SLEEPER = [sys.executable, "-c", "import time; print('up', flush=True); time.sleep(60)"]
STUBBORN = [
    sys.executable,
    "-c",
    "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); print('up', flush=True); time.sleep(60)",
]


def started(servers: Servers, folder: Path, command: list[str] | None = None) -> int:
    """A server that has printed its first line."""
    log = folder / "server.log"
    pid = servers.start("a server", command or SLEEPER, log=log, environment=os.environ)
    servers.wait_until(pid, lambda: "up" in last_line(log), log=log)
    return pid


def test_leaving_stops_all(tmp_path: Path) -> None:
    """Whatever was started is down when the block is left, and the ledger is gone."""
    with Servers(tmp_path / "ledger.json") as servers:
        pids = [started(servers, tmp_path), started(servers, tmp_path)]
        assert all(servers.alive(pid) for pid in pids)
        assert [one["pid"] for one in json.loads((tmp_path / "ledger.json").read_text())] == pids
    assert [start_ticks(pid) for pid in pids] == [None, None]
    assert not (tmp_path / "ledger.json").exists()


def test_the_ledger_is_whole_whenever_it_is_read(tmp_path: Path) -> None:
    """Who reads it while servers are started sees the ledger before or after each of them, and never half of one."""
    path = tmp_path / "work" / "servers.json"
    path.parent.mkdir()
    seen, ended = set[int](), threading.Event()

    def read() -> None:
        while not ended.is_set():
            seen.add(len(ledger(tmp_path)))

    with ThreadPoolExecutor(1) as readers, Servers(path) as servers:
        reading = readers.submit(read)
        try:
            for number in range(REWRITES):
                servers.start(f"server {number}", ["true"], log=tmp_path / "log", environment=os.environ)
                with path.open(encoding="utf-8") as before:
                    servers.start("one more", ["true"], log=tmp_path / "log", environment=os.environ)
                    assert len(json.load(before)) == 2 * number + 1
        finally:
            ended.set()
        reading.result()
    assert seen <= set(range(2 * REWRITES + 1))
    assert len(seen) > 2, "it was read while it was rewritten"


def test_interruption_stops_all(tmp_path: Path) -> None:
    """Ctrl-C stops the servers, even those that were to be kept."""
    with pytest.raises(KeyboardInterrupt), Servers(tmp_path / "ledger.json") as servers:  # noqa: PT012
        pid = started(servers, tmp_path)
        servers.keep()
        raise KeyboardInterrupt
    assert start_ticks(pid) is None


def test_kept_servers_are_stopped_by_the_next_run(tmp_path: Path) -> None:
    """Servers that were kept stay up; the next run knows them by the ledger and stops them."""
    with Servers(tmp_path / "ledger.json") as servers:
        pid = started(servers, tmp_path)
        servers.keep()
    assert start_ticks(pid) is not None
    assert Servers(tmp_path / "ledger.json").stop_earlier() == ("a server",)
    assert start_ticks(pid) is None
    assert Servers(tmp_path / "ledger.json").stop_earlier() == ()
    servers.stop()


def test_another_process_with_the_same_id_is_left_alone(tmp_path: Path) -> None:
    """A process that merely has the id of the ledger, with another start time, is not ours: it is never touched."""
    other = subprocess.Popen(SLEEPER, stdout=subprocess.DEVNULL)
    try:
        ticks = start_ticks(other.pid)
        assert ticks is not None
        ledger = [{"name": "a server", "pid": other.pid, "ticks": ticks - 1}]
        (tmp_path / "ledger.json").write_text(json.dumps(ledger))
        assert Servers(tmp_path / "ledger.json").stop_earlier() == ()
        assert other.poll() is None
    finally:
        other.kill()
        other.wait()


def test_a_dead_server_is_no_server(tmp_path: Path) -> None:
    """A ledger of a machine that was switched off names nobody."""
    gone = subprocess.Popen([sys.executable, "-c", ""])
    gone.wait()
    (tmp_path / "ledger.json").write_text(json.dumps([{"name": "a server", "pid": gone.pid, "ticks": 1}]))
    assert Servers(tmp_path / "ledger.json").stop_earlier() == ()
    assert not (tmp_path / "ledger.json").exists()


def test_a_server_that_ends_is_reported_with_its_last_words(tmp_path: Path) -> None:
    """A server that ends instead of coming up gives its status and the last line of its log, at once."""
    command = [sys.executable, "-c", "import sys; print('port in use'); sys.exit(3)"]
    begun = time.monotonic()
    with Servers(tmp_path / "ledger.json") as servers:
        pid = servers.start("a server", command, log=tmp_path / "log", environment=os.environ)
        with pytest.raises(ServerNotStarted, match=r"status 3.*port in use") as refused:
            servers.wait_until(pid, lambda: False, log=tmp_path / "log")
    assert refused.value.code == "SERVER_NOT_STARTED"
    assert time.monotonic() - begun < 10


def test_a_server_that_hangs_is_given_up(tmp_path: Path) -> None:
    """A server that never answers is given up after the limit."""
    with Servers(tmp_path / "ledger.json") as servers:
        pid = started(servers, tmp_path)
        with pytest.raises(ServerNotStarted, match="did not answer"):
            servers.wait_until(pid, lambda: False, log=tmp_path / "server.log", limit_s=0.2)


def test_a_stubborn_server_is_killed(tmp_path: Path) -> None:
    """A server that ignores SIGTERM is killed after the grace time."""
    with Servers(tmp_path / "ledger.json", grace_s=0.3) as servers:
        pid = started(servers, tmp_path, STUBBORN)
    deadline = time.monotonic() + 5
    while start_ticks(pid) is not None and time.monotonic() < deadline:
        time.sleep(0.05)
    assert start_ticks(pid) is None


def test_servers_outlive_a_terminals_interrupt(tmp_path: Path) -> None:
    """Each server has a session of its own, so that Ctrl-C reaches the demo alone, which then stops them in order."""
    with Servers(tmp_path / "ledger.json") as servers:
        pid = started(servers, tmp_path)
        assert os.getsid(pid) == pid
        assert os.getsid(pid) != os.getsid(0)


def test_a_taken_port_is_not_chosen() -> None:
    """The preferred port is used when it is free, another one when something listens there, on any address."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", free_port()))
        listener.listen()
        taken = listener.getsockname()[1]
        assert answers(taken)
        assert free_port(taken) != taken
    assert free_port(taken) == taken
    assert not answers(taken)


def test_a_missing_tool_names_its_package() -> None:
    """A program that is not there is named with the package that brings it."""
    assert find_tool("sh", "dash").endswith("/sh")
    with pytest.raises(ToolMissing, match=r"'no-such-tool'.*'some-package'") as refused:
        find_tool("no-such-tool", "some-package")
    assert refused.value.code == "TOOL_MISSING"


def test_stop_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """`make demo-stop` stops what KEEP=1 left up, says so, and says so too when there was nothing."""
    with Servers(tmp_path / "servers.json") as servers:
        pid = started(servers, tmp_path)
        servers.keep()
    assert stop.main([str(tmp_path)]) == 0
    assert start_ticks(pid) is None
    assert stop.main([str(tmp_path)]) == 0
    assert capsys.readouterr().out == "stopped: a server\nno server of the demo was up\n"
    assert stop.main([]) == 2
    servers.stop()
