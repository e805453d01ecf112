"""STOW-RS as a sender: each instance's fate as the PACS told it, to the configured address and no other."""

from __future__ import annotations

import json
import os
import socket
import ssl
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import httpx
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydicom import dcmread

from dicom_bridge.delivery import store
from dicom_bridge.ledger import Batch, State
from dicom_bridge.outbox import Outbox
from dicom_bridge.peers import Peer, Send
from dicom_bridge.store_scu import SendRefused
from dicom_bridge.stow_scu import ANSWER_BYTES_MAX, _read, send
from dicom_bridge.tls import TlsFiles
from tests.simulators import series
from tests.simulators.certificates import Authority, pin
from tests.simulators.received import Clock
from tests.simulators.stow_pacs import Answer, StowPacs, item, response

JSON = {"Content-Type": "application/dicom+json"}
QUICK = httpx.Timeout(connect=5.0, read=1.0, write=5.0, pool=5.0)


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Two results."""
    return sorted(series.write_series(tmp_path_factory.mktemp("results"), 2, shape=(4, 4)))


@pytest.fixture(scope="module")
def uids(files: list[Path]) -> list[str]:
    """Their SOP Instance UIDs."""
    return [str(dcmread(path).SOPInstanceUID) for path in files]


@pytest.fixture
def pacs() -> Iterator[StowPacs]:
    """A PACS whose complaints fail the test."""
    with StowPacs() as made:
        yield made
    assert made.complaints == []


def answering(status: int, body: bytes = b"", headers: dict[str, str] | None = None) -> Callable[[list[str]], Answer]:
    """The same answer to everything."""
    return lambda _uids: (status, JSON if headers is None else headers, body)


def test_the_files_arrive_byte_for_byte_in_one_request(pacs, files, uids) -> None:
    """Nothing is parsed and written again on the way: what was logged by digest is what the PACS has."""
    result = send(files, pacs.peer(), "ZHIYING")
    assert (result.statuses, result.error) == ((0, 0), None)
    assert [pacs.stored[uid] for uid in uids] == [path.read_bytes() for path in files]
    assert pacs.requests == ["/dicom-web/studies"]
    assert send([], pacs.peer(), "ZHIYING").statuses == ()
    assert len(pacs.requests) == 1


def test_a_larger_file_goes_out_in_pieces(pacs, tmp_path) -> None:
    """Several mebibytes, more than one piece and with every byte in it: whole."""
    ds = series.make_slice(0, shape=(1100, 1100))
    path = series.write_file(ds, tmp_path / "large.dcm")
    assert send([path], pacs.peer(), "ZHIYING").statuses == (0,)
    assert pacs.stored[str(ds.SOPInstanceUID)] == path.read_bytes()


def test_each_instance_has_its_own_answer(pacs, files, uids) -> None:
    """Stored with a warning, failed with a reason: given back as the statuses that they are, in our order."""
    pacs.answer = answering(202, response([item(uids[1], warning=0xB000)], [item(uids[0], failure=0xA700)]))
    assert send(files, pacs.peer(), "ZHIYING").statuses == (0xA700, 0xB000)
    pacs.answer = answering(409, response([], [item(uid, failure=0xC122) for uid in uids]))
    result = send(files, pacs.peer(), "ZHIYING")
    assert (result.statuses, result.error) == ((0xC122, 0xC122), None)


@pytest.mark.parametrize(
    ("stored", "failed", "statuses", "error"),
    [
        ([0], [], (0, None), "PEER_NO_ANSWER"),
        ([0, 1], [1], (0, 0x0110), None),
        ([], [], (None, None), "PEER_NO_ANSWER"),
    ],
    ids=["not mentioned", "in both lists", "nothing said"],
)
def test_only_what_the_answer_says_is_stored_is_stored(pacs, files, uids, stored, failed, statuses, error) -> None:
    """An instance that is not mentioned is asked about again; one in both lists, without a reason, has failed."""
    body = response([item(uids[n]) for n in stored], [item(uids[n]) for n in failed])
    pacs.answer = answering(200, body)
    result = send(files, pacs.peer(), "ZHIYING")
    assert (result.statuses, result.error) == (statuses, error)


def test_a_warning_that_is_none_does_not_make_a_failure(pacs, files, uids) -> None:
    """What stands among the stored ones is stored, whatever number is written beside it."""
    pacs.answer = answering(200, response([item(uid, warning=0xC000) for uid in uids], []))
    assert send(files, pacs.peer(), "ZHIYING").statuses == (0, 0)


@pytest.mark.parametrize("reason", [0x0000, 0x0001, 0xB000, -1, 1 << 70, True, "A700", None, {}])
def test_a_failure_is_one_whatever_its_reason_says(pacs, files, uids, reason) -> None:
    """Among the failed ones, a code of success or of a warning, or no code at all, is a processing failure."""
    made = item(uids[1], failure=0)
    made["00081197"]["Value"] = [reason]
    pacs.answer = answering(202, response([item(uids[0])], [made]))
    assert send(files, pacs.peer(), "ZHIYING").statuses == (0, 0x0110)


def test_an_ok_that_says_no_more_means_all(pacs, files) -> None:
    """PS3.18 table 10.5.3-1: 200 is "all were stored"; an answer of another kind with 202 or 409 says nothing."""
    pacs.answer = answering(200, b"<xml/>", {"Content-Type": "application/dicom+xml"})
    assert send(files, pacs.peer(), "ZHIYING").statuses == (0, 0)
    pacs.answer = answering(202, b"<xml/>", {"Content-Type": "application/dicom+xml"})
    assert send(files, pacs.peer(), "ZHIYING").error == "HTTP_202"


@pytest.mark.parametrize(
    ("status", "hopeless"),
    [
        *((status, True) for status in (400, 406, 409, 411, 413, 415, 422)),
        *((status, False) for status in (401, 403, 404, 405, 408, 429, 500, 502, 503, 504)),
    ],
)
def test_a_refusal_is_final_where_waiting_cannot_help(pacs, files, status, hopeless) -> None:
    """What is wrong with the request stays wrong; a login, an address or an overload somebody may repair any minute."""
    pacs.answer = answering(status)
    result = send(files, pacs.peer(), "ZHIYING")
    assert (result.statuses, result.error, result.hopeless) == ((None, None), f"HTTP_{status}", hopeless)


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
def test_a_redirect_is_not_followed(pacs, files, status) -> None:
    """Nothing leaves to an address that the configuration does not name (I8), whoever points there."""
    with StowPacs() as elsewhere:
        there = f"http://127.0.0.1:{elsewhere.port}/dicom-web/studies"
        pacs.answer = answering(status, headers={"Location": there})
        result = send(files, pacs.peer(), "ZHIYING")
        assert (result.error, result.hopeless) == (f"HTTP_{status}", False)
        assert elsewhere.requests == []


def test_a_proxy_of_the_environment_is_not_used(files, tmp_path) -> None:
    """The environment of the service's account must not lead results elsewhere."""
    with StowPacs() as pacs, StowPacs() as proxy:
        code = (
            "import sys; from pathlib import Path; from dicom_bridge.peers import *;"
            "from dicom_bridge.stow_scu import send;"
            "peer = Peer('web', 'WEBPACS', '127.0.0.1', 104, send=Send.STOW_RS, web=sys.argv[1]);"
            "print(send([Path(sys.argv[2])], peer, 'ZHIYING').statuses)"
        )
        address = f"http://127.0.0.1:{proxy.port}"
        environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[3])}
        environment |= dict.fromkeys(("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"), address)
        command = [sys.executable, "-c", code, str(pacs.peer().web), str(files[0])]
        done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True, timeout=300)
        assert done.stdout.strip() == "(0,)"
        assert (len(pacs.requests), proxy.requests) == (1, [])


def test_nobody_there_and_no_answer_are_two_things(pacs, files, uids) -> None:
    """A refused connection is unreachable; one that breaks after the objects came is no answer (they may be stored)."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
    nobody = Peer("web", "WEBPACS", "127.0.0.1", 104, send=Send.STOW_RS, web=f"http://127.0.0.1:{port}/dicom-web")
    assert send(files, nobody, "ZHIYING").error == "PEER_UNREACHABLE"
    unknown = Peer("web", "WEBPACS", "127.0.0.1", 104, send=Send.STOW_RS, web="http://no-such-host.invalid/dicom-web")
    assert send(files, unknown, "ZHIYING").error == "PEER_UNREACHABLE"
    pacs.answer = lambda _uids: None
    result = send(files, pacs.peer(), "ZHIYING")
    assert (result.statuses, result.error) == ((None, None), "PEER_NO_ANSWER")
    assert set(pacs.stored) == set(uids)


@pytest.mark.slow
def test_a_peer_that_says_nothing_costs_bounded_time(files) -> None:
    """It accepts the connection and is silent: no answer, after the time that an answer may take."""
    with socket.create_server(("127.0.0.1", 0)) as silent:
        port = silent.getsockname()[1]
        peer = Peer("web", "WEBPACS", "127.0.0.1", 104, send=Send.STOW_RS, web=f"http://127.0.0.1:{port}/dicom-web")
        began = time.monotonic()
        assert send(files, peer, "ZHIYING", QUICK).error == "PEER_NO_ANSWER"
        assert time.monotonic() - began < 30


def test_an_answer_without_end_is_cut_off(pacs, files, uids) -> None:
    """More than an answer can hold says nothing, whatever stands in it, and fills no memory."""
    pacs.answer = answering(202, response([item(uid) for uid in uids], []) + b" " * ANSWER_BYTES_MAX)
    assert send(files, pacs.peer(), "ZHIYING").error == "HTTP_202"


def test_what_is_no_dicom_file_is_refused_before_anybody_is_called(pacs, tmp_path) -> None:
    """As by C-STORE."""
    (tmp_path / "text.dcm").write_text("not DICOM")
    with pytest.raises(SendRefused) as refused:
        send([tmp_path / "text.dcm"], pacs.peer(), "ZHIYING")
    assert refused.value.code == "FILE_UNREADABLE"
    assert pacs.requests == []


@given(
    body=st.one_of(
        st.binary(max_size=200),
        st.recursive(
            st.none() | st.booleans() | st.integers() | st.text(max_size=5),
            lambda inner: (
                st.lists(inner, max_size=3)
                | st.dictionaries(
                    st.sampled_from(["00081199", "00081198", "00081155", "00081197", "00081196", "Value", "vr"]), inner
                )
            ),
            max_leaves=20,
        ).map(lambda value: json.dumps(value).encode()),
    ),
    status=st.sampled_from([200, 202, 409, 500]),
)
def test_no_answer_can_break_the_sender(body, status) -> None:
    """Whatever JSON, or none: one status or None for each file, and an error wherever one is None."""
    result = _read(status, body, ["1.2.3", "1.2.4"])
    assert len(result.statuses) == 2
    assert all(status is None or 0 <= status <= 0xFFFF for status in result.statuses)
    assert (None in result.statuses) <= (result.error is not None)


# ---- TLS -------------------------------------------------------------------------------------------------------------


def server(files: TlsFiles) -> ssl.SSLContext:
    """A web server that wants to see who calls; it speaks the web's protocols, not DICOM's profile."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(files.certificate, files.key)
    context.load_verify_locations(files.authority)
    context.verify_mode = ssl.CERT_REQUIRED
    return context


@pytest.mark.parametrize("pinned", [False, True])
def test_over_tls_both_show_a_certificate(files, tmp_path, pinned) -> None:
    """The site's authority vouches for both; pinned, the one certificate is taken under any name."""
    authority = Authority(tmp_path)
    ours, theirs = (
        authority.issue("ZHIYING"),
        authority.issue("PACS", hosts=("pacs.invalid",) if pinned else ("127.0.0.1",)),
    )
    with StowPacs(server(theirs)) as pacs:
        peer = pacs.peer(ours, certificate=pin(theirs.certificate) if pinned else None)
        assert send(files, peer, "ZHIYING").statuses == (0, 0)


@pytest.mark.parametrize("who", ["stranger", "wrong name", "nobody we know"])
def test_nothing_is_sent_to_whom_we_do_not_believe(files, tmp_path, who) -> None:
    """Another authority's, another host's, or any public authority's: not a byte of an object goes there."""
    authority = Authority(tmp_path / "ours")
    issuer = Authority(tmp_path / "theirs") if who == "stranger" else authority
    theirs = issuer.issue("PACS", hosts=("elsewhere.invalid",) if who == "wrong name" else ("127.0.0.1",))
    with StowPacs(server(theirs)) as pacs:
        peer = pacs.peer(None if who == "nobody we know" else authority.issue("ZHIYING"))
        assert send(files, peer, "ZHIYING").error == "PEER_UNREACHABLE"
        assert pacs.stored == {}


def test_tls_files_that_cannot_be_read_are_said(files, pacs, tmp_path) -> None:
    """A certificate that somebody is just replacing: its code, and another try later."""
    gone = TlsFiles(tmp_path / "gone.pem", tmp_path / "gone.key", tmp_path / "gone.ca")
    result = send(files, pacs.peer(gone), "ZHIYING")
    assert (result.error, result.hopeless) == ("TLS_FILE_UNREADABLE", False)


# ---- in the outbox ---------------------------------------------------------------------------------------------------


def test_the_outbox_sends_by_the_service_that_the_peer_names(pacs, files, uids, tmp_path) -> None:
    """A peer with STOW-RS gets it so, with the same fates: out of resources goes again, a refusal is a dead letter."""
    clock, told = Clock(), list[Batch]()
    outbox = Outbox(tmp_path / "outbox", clock, told.append, peers={"web": pacs.peer()})
    pacs.answer = answering(202, response([item(uids[0])], [item(uids[1], failure=0xA700)]))
    outbox.enqueue("call-1", "web", files)
    outbox.run_due("web")
    assert outbox.batch("call-1").code == "STATUS_A700"
    pacs.answer = None
    clock.tick(2)
    outbox.run_due("web")
    assert outbox.state("call-1") is State.DELIVERED
    for status, code in ((413, "HTTP_413"), (503, "HTTP_503")):
        pacs.answer = answering(status)
        outbox.enqueue(code, "web", files)
        outbox.run_due("web")
        assert outbox.batch(code).code == code
        assert outbox.batch(code).state is (State.DEAD if status == 413 else State.PENDING)
        clock.tick(10)
    outbox.stop()
    assert len(told) == 1


def test_a_peer_is_sent_to_as_it_says(pacs, files) -> None:
    """`store` chooses between the two."""
    assert store(files, pacs.peer(), "ZHIYING").statuses == (0, 0)
    dimse = Peer("pacs", "TESTPACS", "127.0.0.1", 9)
    assert store(files, dimse, "ZHIYING").error == "PEER_UNREACHABLE"


def test_two_batches_at_once_do_not_mix(pacs, files, uids) -> None:
    """Boundaries and connections are each request's own."""
    results = []
    threads = [
        threading.Thread(target=lambda path=path: results.append(send([path], pacs.peer(), "ZHIYING").statuses))
        for path in files
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert results == [(0,), (0,)]
    assert set(pacs.stored) == set(uids)
