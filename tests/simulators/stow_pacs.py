"""A PACS that takes objects by STOW-RS (PS3.18 section 10.5), on http.server, and polices what it is sent."""

from __future__ import annotations

import io
import json
import ssl
import threading
from collections.abc import Callable
from email import message_from_bytes
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Self

from pydicom import dcmread

from dicom_bridge.peers import Peer, Send
from dicom_bridge.tls import TlsFiles

Answer = tuple[int, dict[str, str], bytes]
"""HTTP status, headers, body."""


def item(uid: str, sop_class: str = "1.2.840.10008.5.1.4.1.1.4", **reasons: int) -> dict[str, Any]:
    """One instance in DICOM JSON; `reasons`: FailureReason or WarningReason."""
    made: dict[str, Any] = {
        "00081150": {"vr": "UI", "Value": [sop_class]},
        "00081155": {"vr": "UI", "Value": [uid]},
    }
    tags = {"failure": "00081197", "warning": "00081196"}
    return made | {tags[kind]: {"vr": "US", "Value": [reason]} for kind, reason in reasons.items()}


def response(stored: list[dict[str, Any]], failed: list[dict[str, Any]]) -> bytes:
    """The body of an answer (PS3.18 table 10.5.3-2)."""
    body: dict[str, Any] = {"00081190": {"vr": "UR", "Value": ["http://127.0.0.1/studies/1"]}}
    if stored:
        body["00081199"] = {"vr": "SQ", "Value": stored}
    if failed:
        body["00081198"] = {"vr": "SQ", "Value": failed}
    return json.dumps(body).encode()


class StowPacs:
    """`stored` is what it has, whole files by SOP Instance UID; `complaints`: what the sender did wrong.

    `answer(uids)` gives what it answers, or None to break off; without one it stores everything and says so.
    """

    def __init__(self, server_tls: ssl.SSLContext | None = None) -> None:
        self.stored: dict[str, bytes] = {}
        self.requests: list[str] = []
        self.complaints: list[str] = []
        self.broken_off = 0
        self.answer: Callable[[list[str]], Answer | None] | None = None
        outer = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_POST(self) -> None:
                outer._post(self)

            def log_message(self, *_: object) -> None:
                pass

        class Quiet(ThreadingHTTPServer):
            daemon_threads = True

            def handle_error(self, *_: object) -> None:
                pass

        self._server = Quiet(("127.0.0.1", 0), Handler)
        self._scheme = "http"
        if server_tls is not None:
            self._scheme = "https"
            self._server.socket = server_tls.wrap_socket(self._server.socket, server_side=True)
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.01,), daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join(10)

    @property
    def port(self) -> int:
        """Where it listens."""
        return int(self._server.server_address[1])

    def peer(self, tls: TlsFiles | None = None, host: str = "127.0.0.1", **abilities: Any) -> Peer:
        """How a configuration names it."""
        web = f"{self._scheme}://{host}:{self.port}/dicom-web"
        return Peer("web", "WEBPACS", host, 104, send=Send.STOW_RS, web=web, tls=tls, **abilities)

    def _post(self, handler: BaseHTTPRequestHandler) -> None:
        self.requests.append(handler.path)
        length = int(handler.headers["Content-Length"])
        body = handler.rfile.read(length)
        if len(body) < length:  # broken off: no request, so nothing of it is stored
            self.broken_off += 1
            handler.close_connection = True
            return
        uids = self._take(handler, body)
        reply = self._all_stored(uids) if self.answer is None else self.answer(uids)
        if reply is None:
            handler.close_connection = True
            handler.connection.close()
            return
        status, headers, content = reply
        handler.send_response(status)
        for name, value in headers.items():
            handler.send_header(name, value)
        handler.send_header("Content-Length", str(len(content)))
        handler.end_headers()
        handler.wfile.write(content)

    def _take(self, handler: BaseHTTPRequestHandler, body: bytes) -> list[str]:
        kind = handler.headers["Content-Type"]
        if not kind.startswith('multipart/related; type="application/dicom"; boundary='):
            self.complaints.append(f"Content-Type {kind}")
        if handler.headers["Accept"] != "application/dicom+json":
            self.complaints.append("another answer than DICOM JSON is wanted")
        if handler.path != "/dicom-web/studies":
            self.complaints.append("another path")
        parsed = message_from_bytes(b"Content-Type: " + kind.encode() + b"\r\n\r\n" + body)
        uids = []
        for part in parsed.get_payload():
            assert not isinstance(part, str)
            data = part.get_payload(decode=True)
            assert isinstance(data, bytes)
            if part.get_content_type() != "application/dicom":
                self.complaints.append("a part of another type")
            uid = str(dcmread(io.BytesIO(data), stop_before_pixels=True).SOPInstanceUID)
            if self.stored.get(uid, data) != data:
                self.complaints.append("another object under a held UID")
            self.stored[uid] = data
            uids.append(uid)
        return uids

    def _all_stored(self, uids: list[str]) -> Answer:
        return 200, {"Content-Type": "application/dicom+json"}, response([item(uid) for uid in uids], [])
