"""An HTTP session that goes nowhere else: whatever the library, the environment or the peer would have it do."""

from __future__ import annotations

import os
import ssl
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import pytest
import requests

from dicom_bridge.errors import BridgeError
from dicom_bridge.patience import Patience
from dicom_bridge.peers import Peer
from dicom_bridge.tls import fingerprint, server_context
from dicom_bridge.web_session import confine, timeouts
from tests.simulators.certificates import Authority
from tests.simulators.pulling import QUICK
from tests.simulators.web_pacs import WebPacs, said, serving

_END = "-----END CERTIFICATE-----\n"


@contextmanager
def session_with(peer: Peer, root: str, most: int = 1000) -> Iterator[requests.Session]:
    """A confined session."""
    made = requests.Session()
    confine(made, peer, root, Patience(QUICK), most)
    try:
        yield made
    finally:
        made.close()


def code(session: requests.Session, url: str, *, stream: bool = False) -> str:
    """Return the code that a request ends with."""
    with pytest.raises(BridgeError) as caught, session.get(url, stream=stream, timeout=5) as response:
        list(response.iter_content(10))
    return caught.value.code


@pytest.mark.parametrize(
    "url",
    [
        "http://127.0.0.1:1/x",
        "http://localhost:{port}/x",
        "https://127.0.0.1:{port}/x",
        "http://user@127.0.0.2:{port}/x",
    ],
)
def test_only_the_configured_scheme_host_and_port(url: str) -> None:
    """Whoever builds another address, the session does not go there."""
    pacs = WebPacs()
    with serving(pacs) as peer:
        root = str(peer.web)
        with session_with(peer, root) as session:
            assert code(session, url.format(port=root.split(":")[2].split("/")[0])) == "PULL_REDIRECTED"
    assert pacs.asked == []


def test_the_environment_has_no_say() -> None:
    """Neither a proxy nor a password from a file: images do not go through somebody else's hands."""
    pacs = WebPacs()
    pacs.trick = lambda _path, _query: said(b"here")
    before = os.environ.get("http_proxy")
    os.environ["http_proxy"] = "http://127.0.0.1:1"
    try:
        with serving(pacs) as peer, session_with(peer, str(peer.web)) as session:
            assert session.get(f"{peer.web}/x", timeout=5).content == b"here"
    finally:
        del os.environ["http_proxy"]
        if before is not None:
            os.environ["http_proxy"] = before
    assert "Authorization" not in pacs.headers[0]


def test_a_stream_is_bounded_by_the_size_of_a_file() -> None:
    """A byte more than it may have is an error, and so is reading on."""
    pacs = WebPacs()
    pacs.trick = lambda _path, _query: said(b"x" * 1001)
    with serving(pacs) as peer, session_with(peer, str(peer.web)) as session:
        assert code(session, f"{peer.web}/x", stream=True) == "PULL_ENDLESS"
        assert len(session.get(f"{peer.web}/x", timeout=5).content) == 1001


def test_no_read_waits_longer_than_the_patience() -> None:
    """Seconds to connect and for a byte."""
    assert timeouts(Patience(QUICK)) == (QUICK.connect_s, QUICK.stall_s)
    assert timeouts(Patience(replace(QUICK, stall_s=600)))[1] <= 30


@contextmanager
def secure(context: ssl.SSLContext) -> Iterator[int]:
    """An HTTPS server that says hello to whoever has a certificate; gives its port."""

    class Hello(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            self.send_header("Content-Length", "5")
            self.end_headers()
            self.wfile.write(b"hello")

        def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - the name is its
            pass

    class Quiet(HTTPServer):
        def handle_error(self, request: object, client_address: object) -> None:
            pass

    server = Quiet(("127.0.0.1", 0), Hello)
    server.socket = context.wrap_socket(server.socket, server_side=True)
    thread = threading.Thread(target=server.serve_forever, args=(0.05,))
    thread.start()
    try:
        yield server.server_address[1]
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


@pytest.mark.slow
def test_https_by_the_authority_of_the_site(tmp_path: Path) -> None:
    """The peer is known by the site's authority alone, and we show our own certificate."""
    ours, theirs = Authority(tmp_path / "ours"), Authority(tmp_path / "theirs", "TEST Other CA")
    plain = Peer("web", "WEB", "127.0.0.1", 104)
    for authority, works in ((ours, True), (theirs, False)):
        with secure(server_context(authority.issue("pacs"))) as port:
            root = f"https://127.0.0.1:{port}"
            with session_with(replace(plain, tls=ours.issue("zhiying")), root) as session:
                # requests would add the world's public authorities to ours.
                assert session.verify == str(ours.file)
                if works:
                    assert session.get(root, timeout=5).content == b"hello"
                else:
                    assert code(session, root) == "PEER_UNREACHABLE"
            with session_with(plain, root) as session:
                assert code(session, root) == "PEER_UNREACHABLE"


@pytest.mark.slow
def test_a_pinned_certificate_needs_no_name(tmp_path: Path) -> None:
    """That very certificate and no other, whatever host it was made for."""
    ours = Authority(tmp_path / "ours")
    theirs = ours.issue("pacs", hosts=("pacs.example",))
    with secure(server_context(theirs)) as port:
        root = f"https://127.0.0.1:{port}"
        peer = Peer("web", "WEB", "127.0.0.1", 104, tls=ours.issue("zhiying"))
        pin = fingerprint(ssl.PEM_cert_to_DER_cert(theirs.certificate.read_text().split("-----END")[0] + _END))
        for known, works in ((pin, True), ("0" * 64, False), (None, False)):
            with session_with(replace(peer, certificate=known), root) as session:
                if works:
                    assert session.get(root, timeout=5).content == b"hello"
                else:
                    assert code(session, root) == "PEER_UNREACHABLE"
