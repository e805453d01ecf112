"""A witness over HTTP, and the hospital's side pushing to three of them over loopback."""

from __future__ import annotations

import http.client
import json
import socket
import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest
import structlog

from audit.cosignature import CosignatureVerifier
from audit.policy import Policy, WitnessAt
from audit.submission import BODY_BYTES_MAX
from audit.witness import LOGS, STATE, Witness, origin_hash
from audit.witnessing import Witnessing, WitnessUnreachable, open_latest
from service.telemetry import ALLOWED_KEYS
from service.witness_api import HEADER_BYTES_MAX, WitnessServer, build_app
from service.witness_client import get, post
from tests.simulators.audit_log import SIGNER
from tests.simulators.browser import TestClient
from tests.simulators.witnessed_log import ORIGIN, FakeLeaves, body, head, knowing_witness, leaves


@contextmanager
def serving(witness: Witness) -> Iterator[str]:
    """The base URL of a real server, which stops at the end."""
    server = WitnessServer(witness, "127.0.0.1", 0)
    thread = threading.Thread(target=server.run)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.port}"
    finally:
        server.stop()
        thread.join(20)
        assert not thread.is_alive()


def nobody() -> str:
    """An address on loopback where nothing listens."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        return f"http://127.0.0.1:{taken.getsockname()[1]}"


def test_two_of_three_witnesses_over_http(tmp_path: Path) -> None:
    """One is down: the quorum is reached; then it comes, lagging, and is brought up to date; all of it verified."""
    witnesses = [knowing_witness(tmp_path / name, f"{name}.example") for name in ("w1", "w2", "w3")]
    keys = [CosignatureVerifier.parse(one.vkey) for one in witnesses]
    with ExitStack() as stack:
        urls = [stack.enter_context(serving(one)) for one in witnesses[:2]]
        policy = Policy(tuple(map(WitnessAt, keys, [*urls, nobody()])), 2)
        desk = Witnessing(tmp_path / "hospital", policy, SIGNER.verifier)
        for size in (3, 300, 301):
            done = desk.push(FakeLeaves(leaves(size)), head(leaves(size)), post)
            assert done.reached
            assert [one.witness for one in done.outcomes if one.error] == ["w3.example"]
            held = desk.witnessed()
            assert held is not None
            assert (held.checkpoint.size, len(held.cosigned), held.reached) == (size, 2, True)
        late = stack.enter_context(serving(witnesses[2]))
        policy = Policy(tuple(map(WitnessAt, keys, [*urls, late])), 3)
        desk = Witnessing(tmp_path / "hospital", policy, SIGNER.verifier)
        done = desk.push(FakeLeaves(leaves(700)), head(leaves(700)), post)
        assert done.reached
        assert not any(one.error for one in done.outcomes)
        served = get(f"{late}/{origin_hash(ORIGIN)}/checkpoint")
        assert served.status == 200
        assert open_latest(served.body, SIGNER.verifier, ORIGIN, policy.witnesses[2]).size == 700


def test_answers_have_the_standards_status_type_and_body(tmp_path: Path) -> None:
    """200 a line, 409 the size in its own content type, and the refusals; a wrong path or method is told."""
    client = TestClient(build_app(knowing_witness(tmp_path)))
    assert client.get(f"/{origin_hash(ORIGIN)}/checkpoint").status_code == 404
    ok = client.post("/add-checkpoint", content=body(0, leaves(5)))
    assert (ok.status_code, ok.text[:2]) == (200, "— ")
    assert ok.text.endswith("\n")
    conflict = client.post("/add-checkpoint", content=body(0, leaves(9)))
    assert (conflict.status_code, conflict.content) == (409, b"5\n")
    assert conflict.headers["content-type"] == "text/x.tlog.size"
    for sent, status in (
        (b"", 400),
        (body(5, leaves(9), origin="other.example"), 404),
        (body(5, leaves(9, forked_at=1)), 422),
        (b"x" * (BODY_BYTES_MAX + 1), 413),
    ):
        assert client.post("/add-checkpoint", content=sent).status_code == status
    assert client.get("/add-checkpoint").status_code == 405
    assert client.get("/").status_code == 404
    served = client.get(f"/{origin_hash(ORIGIN)}/checkpoint")
    assert served.text == head(leaves(5)).note + ok.text


def test_a_lost_state_shows_and_cosigns_nothing(tmp_path: Path) -> None:
    """/health, the served checkpoint and add-checkpoint all say so, with the code."""
    client = TestClient(build_app(knowing_witness(tmp_path)))
    assert client.get("/health").text == "ok 1\n"
    (tmp_path / LOGS / origin_hash(ORIGIN) / STATE).unlink()
    answers = [
        client.get("/health"),
        client.get(f"/{origin_hash(ORIGIN)}/checkpoint"),
        client.post("/add-checkpoint", content=body(0, leaves(5))),
    ]
    assert [one.status_code for one in answers] == [503, 503, 500]
    assert all("WITNESS_STATE_LOST" in one.text for one in answers)


def test_a_full_disk_is_try_again(tmp_path: Path) -> None:
    """Whatever the system refuses is 503, and nothing of its text comes out."""
    client = TestClient(build_app(knowing_witness(tmp_path)))
    (tmp_path / LOGS / origin_hash(ORIGIN) / "lock").symlink_to(tmp_path / "missing" / "lock")
    answer = client.post("/add-checkpoint", content=body(0, leaves(5)))
    assert (answer.status_code, answer.text) == (503, "WITNESS_UNAVAILABLE: ask again later\n")


def test_log_lines_hold_codes_and_nothing_that_was_sent(tmp_path: Path) -> None:
    """Neither origin nor body, whoever asks."""
    client = TestClient(build_app(knowing_witness(tmp_path)))
    with structlog.testing.capture_logs() as lines:
        client.post("/add-checkpoint", content=body(0, leaves(5)))
        client.post("/add-checkpoint", content=b"ZHANG^SAN")
        client.post("/add-checkpoint", content=body(0, leaves(5), origin="ZHANG^SAN"))
    assert len(lines) == 3
    assert all(set(line) - {"log_level"} <= ALLOWED_KEYS for line in lines)
    assert not any(word in json.dumps(lines, ensure_ascii=False) for word in ("ZHANG", ORIGIN))


def test_raw_nonsense_on_the_port_does_not_stop_it(tmp_path: Path) -> None:
    """Not HTTP, a long header, a body that is cut short, a body larger than said: the next honest request is served."""
    with serving(knowing_witness(tmp_path)) as url:
        host, port = url.removeprefix("http://").split(":")
        for raw in (
            b"\x16\x03\x01garbage\r\n\r\n",
            b"POST /add-checkpoint HTTP/1.1\r\nX: " + b"a" * (2 * HEADER_BYTES_MAX),
            b"POST /add-checkpoint HTTP/1.1\r\nHost: x\r\nContent-Length: 50\r\n\r\nold 0\n",
            b"POST /add-checkpoint HTTP/1.1\r\nHost: x\r\nContent-Length: -1\r\n\r\n",
            b"POST /add-checkpoint HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n",
        ):
            with socket.create_connection((host, int(port)), 5) as peer:
                peer.sendall(raw)
        connection = http.client.HTTPConnection(host, int(port), timeout=10)
        connection.request("POST", "/add-checkpoint", body(0, leaves(5)))
        assert connection.getresponse().status == 200
        connection.close()


def test_the_client_follows_nobody_and_reads_no_more_than_it_must(tmp_path: Path) -> None:
    """Nothing listening, an endless answer, a redirect: no answer, or one that nobody believes."""
    with pytest.raises(WitnessUnreachable):
        post(f"{nobody()}/add-checkpoint", b"")
    with socket.create_server(("127.0.0.1", 0)) as door:

        def answers() -> None:
            for head_line, many in ((b"HTTP/1.1 200 OK", BODY_BYTES_MAX * 4), (b"HTTP/1.1 302 Found", 0)):
                peer, _ = door.accept()
                with peer:
                    peer.recv(4096)
                    lines = b"%s\r\nLocation: http://127.0.0.1:1/\r\nContent-Length: %d\r\n\r\n" % (head_line, many)
                    try:
                        peer.sendall(lines + b"x" * many)
                    except OSError:
                        continue

        thread = threading.Thread(target=answers)
        thread.start()
        url = f"http://127.0.0.1:{door.getsockname()[1]}/add-checkpoint"
        with pytest.raises(WitnessUnreachable):
            post(url, b"")
        assert post(url, b"").status == 302
        thread.join(10)
