"""A FHIR server of sorts, in a thread: conditional updates of a transaction, and every fault that a server can have.

It polices its contract: what is no transaction of conditional updates, in FHIR's own media type, is a complaint.
"""

from __future__ import annotations

import json
import threading
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

LOOPBACK = "127.0.0.1"
HANG, RESET, PAGE, FLOOD, CUT, EMPTY = "hang", "reset", "page", "flood", "cut", "empty"
"""What it can do besides answering with a status."""


class Record:
    """Listens on loopback until `stop`. `bundles`: bodies as they came. `does`: a status or a word for each; then 200.

    `held`: the resources, by the search that found them; `versions`: how often each was put.
    """

    def __init__(self, *does: int | str) -> None:
        self.does = list(does)
        self.bundles: list[bytes] = []
        self.headers: list[dict[str, str]] = []
        self.paths: list[str] = []
        self.complaints: list[str] = []
        self.held: dict[str, Any] = {}
        self.versions: dict[str, int] = {}
        self.before_answer: Callable[[bytes], None] = lambda _: None
        self.location = ""
        self.dead = threading.Event()
        self._server = ThreadingHTTPServer((LOOPBACK, 0), _handler(self))
        self._server.daemon_threads = True
        self.port = int(self._server.server_address[1])
        self.url = f"http://{LOOPBACK}:{self.port}/fhir"
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.05,), daemon=True)
        self._thread.start()

    def __enter__(self) -> Record:
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def stop(self) -> None:
        """Listen no more; who hangs is let go."""
        self.dead.set()
        self._server.shutdown()
        self._server.server_close()
        self._thread.join(5)

    def of(self, kind: str) -> list[Any]:
        """What it holds of a kind."""
        return [one for one in self.held.values() if one["resourceType"] == kind]

    def take(self, body: bytes) -> None:
        """As a transaction does: all of it."""
        bundle = json.loads(body)
        if (bundle.get("resourceType"), bundle.get("type")) != ("Bundle", "transaction"):
            self.complaints.append("no transaction")
        for entry in bundle["entry"]:
            method, url = entry["request"]["method"], entry["request"]["url"]
            kind, _, search = url.partition("?")
            if method != "PUT" or not search or kind != entry["resource"]["resourceType"]:
                self.complaints.append(f"no conditional update: {method} {kind}")
            self.held[url] = entry["resource"]
            self.versions[url] = self.versions.get(url, 0) + 1


def _handler(record: Record) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        """One request."""

        def log_message(self, *_: object) -> None:
            """A test's output is for its failures."""

        def do_GET(self) -> None:
            """What it is."""
            record.paths.append(self.path)
            self._answer(200, json.dumps({"resourceType": "CapabilityStatement"}).encode())

        def do_POST(self) -> None:
            """A transaction."""
            body = self.rfile.read(int(self.headers["Content-Length"]))
            record.paths.append(self.path)
            record.bundles.append(body)
            record.headers.append(dict(self.headers))
            if self.headers["Content-Type"] != "application/fhir+json":
                record.complaints.append("not FHIR's media type")
            does = record.does.pop(0) if record.does else 200
            if does == 200:
                record.take(body)
            record.before_answer(body)
            self._do(does)

        def _do(self, does: int | str) -> None:
            good = json.dumps({"resourceType": "Bundle", "type": "transaction-response"}).encode()
            if does == HANG:
                record.dead.wait(30)
            elif does == RESET:
                self.connection.close()
            elif does == PAGE:
                self._answer(200, b"<html>welcome to the hospital's proxy</html>")
            elif does == FLOOD:
                self._answer(200, b'{"resourceType": "Bundle", "x": "' + b"x" * 5_000_000 + b'"}')
            elif does == CUT:
                self._answer(200, good[:-5], length=len(good))
            elif does == EMPTY:
                self._answer(204, b"")
            else:
                said = json.dumps({"resourceType": "OperationOutcome", "text": "quotes TEST^Phantom"}).encode()
                self._answer(int(does), good if does == 200 else said)

        def _answer(self, status: int, body: bytes, length: int | None = None) -> None:
            self.send_response(status)
            if record.location:
                self.send_header("Location", record.location)
            self.send_header("Content-Length", str(len(body) if length is None else length))
            self.end_headers()
            try:
                self.wfile.write(body)
            except OSError:
                record.complaints.append("hung up on")
            self.close_connection = True

    return Handler
