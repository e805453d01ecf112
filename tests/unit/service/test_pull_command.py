"""zhiying pull: status 0 only if everything was stored; whatever stands in the way is one line with a code."""

from __future__ import annotations

import json
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
import typer
from typer.testing import CliRunner, Result

from service.commands.pull import base_url, pull
from service.sections import Http

STUDY = "1.2.840.99999.7.1"
JOB: dict[str, Any] = {
    "id": "0123456789abcdef",
    "study": STUDY,
    "from": "pacs",
    "state": "WAITING",
    "standing": False,
    "expected": 0,
    "stored": 0,
    "failed": {},
    "attempts": 0,
    "code": None,
    "detail": "",
}


class FakeService:
    """Answers POST /pulls with the first of `answers`, then each GET with the next; the last one stays."""

    def __init__(self, *answers: Any) -> None:
        self.answers = list(answers)
        self.asked: list[tuple[str, str, Any]] = []

    def answer(self, method: str, path: str, body: Any) -> Any:
        """The next one: what a JSON answer holds, or bytes as they are."""
        self.asked.append((method, path, body))
        return self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]


@contextmanager
def serving(service: FakeService) -> Iterator[int]:
    """Run it on loopback."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self._answer(None)

        def do_POST(self) -> None:
            self._answer(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))

        def _answer(self, body: Any) -> None:
            answer = service.answer(self.command, self.path, body)
            status = 404 if isinstance(answer, dict) and "error" in answer else 200
            data = answer if isinstance(answer, bytes) else json.dumps(answer).encode()
            self.send_response(status)
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            self.wfile.write(data)

        def log_message(self, format: str, *args: Any) -> None:  # noqa: A002 - the name is its
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, args=(0.02,))
    thread.start()
    try:
        yield server.server_address[1]
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def run(folder: Path, port: int, *more: str) -> Result:
    """The command, for a configuration with this port."""
    config = folder / "zhiying.toml"
    config.write_text(f'[http]\nhost = "127.0.0.1"\nport = {port}\n', encoding="utf-8")
    app = typer.Typer()
    app.command()(pull)
    words = ["--study", STUDY, "--from", "pacs", "--config", str(config), *more]
    return CliRunner().invoke(app, words, env={"COLUMNS": "240"})


def done(**changes: Any) -> dict[str, Any]:
    """A job."""
    return JOB | changes


def test_it_waits_for_the_end_and_shows_it(tmp_path: Path) -> None:
    """Ordered once, asked for until it has ended."""
    running = done(state="RUNNING", expected=4, stored=2)
    service = FakeService(JOB, running, done(state="DONE", expected=4, stored=4, attempts=1))
    with serving(service) as port:
        result = run(tmp_path, port)
    assert result.exit_code == 0, result.output
    assert service.asked[0] == ("POST", "/pulls", {"study": STUDY, "from": "pacs"})
    assert [path for _, path, _ in service.asked[1:]] == [f"/pulls/{JOB['id']}"] * 2
    assert "DONE" in result.stdout
    assert STUDY in result.stdout


def test_a_part_is_status_1(tmp_path: Path) -> None:
    """With the counts and the code, for a person and for a program."""
    failed = done(
        state="FAILED", expected=4, stored=3, failed={"0xA702": 1}, code="PULL_INCOMPLETE", detail="one short"
    )
    for more in ((), ("--json",)):
        with serving(FakeService(JOB, failed)) as port:
            result = run(tmp_path, port, *more)
        assert result.exit_code == 1
        assert "PULL_INCOMPLETE" in result.stdout
        assert "0xA702" in result.stdout
    assert json.loads(result.stdout) == failed


def test_json_is_only_json(tmp_path: Path) -> None:
    """No bar, no colour."""
    with serving(FakeService(JOB, done(state="DONE"))) as port:
        result = run(tmp_path, port, "--json")
    assert json.loads(result.stdout)["state"] == "DONE"
    assert result.stderr == ""


def only_line(result: Result) -> str:
    """The one line of a command that fails."""
    assert result.exit_code == 1
    assert isinstance(result.exception, SystemExit)
    (line,) = result.stderr.strip().splitlines()
    return line


def test_a_service_that_does_not_run(tmp_path: Path) -> None:
    """Said in one line that says what to do."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    line = only_line(run(tmp_path, port, "--json"))
    assert line.startswith("error SERVICE_NOT_RUNNING: ")
    assert "zhiying serve" in line
    assert only_line(run(tmp_path, 0)).startswith("error SERVICE_NOT_RUNNING: ")


@pytest.mark.parametrize("answer", [b"<html>", b"", {"hello": "world"}, [1], b'"text"'], ids=range(5))
def test_something_else_answers(tmp_path: Path, answer: Any) -> None:
    """Another program has the port."""
    with serving(FakeService(answer)) as port:
        assert only_line(run(tmp_path, port, "--json")).startswith("error SERVICE_NOT_RUNNING: ")


def test_a_refused_order_is_said_with_its_code(tmp_path: Path) -> None:
    """As the service says it."""
    refusal = {"error": {"code": "PEER_UNKNOWN", "message": "no such name in [[peers]] of the configuration"}}
    with serving(FakeService(refusal)) as port:
        line = only_line(run(tmp_path, port, "--json"))
    assert line == "error PEER_UNKNOWN: no such name in [[peers]] of the configuration"


def test_a_service_that_forgets_the_job(tmp_path: Path) -> None:
    """It was restarted meanwhile: not a success."""
    gone = {"error": {"code": "NOT_FOUND", "message": "no such pull"}}
    with serving(FakeService(JOB, gone)) as port:
        assert only_line(run(tmp_path, port, "--json")).startswith("error NOT_FOUND: ")


@pytest.mark.parametrize(
    ("host", "url"),
    [
        ("127.0.0.1", "http://127.0.0.1:8300"),
        ("0.0.0.0", "http://127.0.0.1:8300"),  # noqa: S104 - a configuration, not a socket
        ("::", "http://[::1]:8300"),
        ("2001:db8::7", "http://[2001:db8::7]:8300"),
        ("ai.hospital.example", "http://ai.hospital.example:8300"),
    ],
)
def test_the_address_is_one_that_can_be_called(host: str, url: str) -> None:
    """What the service listens on is not always what one can connect to."""
    assert base_url(Http(host=host, port=8300)) == url
