"""STOW-RS over HTTP: statuses, media types, limits, and clients that break off, lie or trickle."""

from __future__ import annotations

import json
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit
from xml.etree import ElementTree as ET

import httpx
import pytest
from fastapi import FastAPI, Request
from pydicom.dataset import Dataset

from dicom_bridge.access import Access
from dicom_bridge.inbox import Inbox
from dicom_bridge.peers import Peer
from dicom_bridge.stow import StowLimits
from service.stow_api import DoorLimits, acceptable, known_senders, stow_router
from tests.simulators.failing_disk import FailingDisk
from tests.simulators.received import Clock
from tests.simulators.series import make_slice, part10
from tests.simulators.stow import BOUNDARY, CONTENT_TYPE, Switch, body, part, serving

WAIT_S = 30
STUDY = str(make_slice(0).StudyInstanceUID)


class House:
    """An inbox, its disk, and the routes in front of it; `known` is who may store."""

    def __init__(self, folder: Path, limits: DoorLimits | None = None) -> None:
        self.disk = FailingDisk()
        self.inbox = Inbox(folder / "spool", Clock(), disk=self.disk)
        self.known: str | None = "STOW"
        self.stopping = False
        self.router = stow_router(
            self.inbox, sender=lambda _request: self.known, stopping=lambda: self.stopping, limits=limits
        )

    def held(self) -> int:
        """How many instances of the study."""
        return len(self.inbox.instances(STUDY))


@pytest.fixture
def house(tmp_path: Path) -> Iterator[House]:
    """A house on a disk that can fail."""
    made = House(tmp_path)
    yield made
    made.inbox.close()


@pytest.fixture(scope="module")
def server() -> Iterator[tuple[Switch, str]]:
    """One server for all tests."""
    switch = Switch()
    with serving(switch) as root:
        yield switch, f"{root}/dicom-web/studies"


@pytest.fixture
def url(house: House, server: tuple[Switch, str]) -> str:
    """Where the house answers."""
    server[0].turn(house.router)
    return server[1]


def post(url: str, data: bytes, content_type: str = CONTENT_TYPE, **headers: str) -> httpx.Response:
    """One request, as any HTTP client makes it."""
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    return httpx.post(url, content=data, headers={"Content-Type": content_type, **named}, timeout=WAIT_S)


def slices(count: int) -> list[bytes]:
    """That many files of one series."""
    return [part10(make_slice(index)) for index in range(count)]


def test_all_stored_is_200(house: House, url: str) -> None:
    """Every instance is named in the Referenced SOP Sequence, and held; Retrieve URL is there and empty (type 2)."""
    answer = post(url, body(slices(2)))

    assert (answer.status_code, answer.headers["content-type"]) == (200, "application/dicom+json")
    module = Dataset.from_json(answer.text)
    assert [one.ReferencedSOPInstanceUID for one in module.ReferencedSOPSequence] == [
        make_slice(0).SOPInstanceUID,
        make_slice(1).SOPInstanceUID,
    ]
    assert {one.ReferencedSOPClassUID for one in module.ReferencedSOPSequence} == {make_slice(0).SOPClassUID}
    assert answer.json()["00081190"] == {"vr": "UR"}
    assert "FailedSOPSequence" not in module
    assert "OtherFailuresSequence" not in module
    assert house.held() == 2


def test_some_stored_is_202(house: House, url: str) -> None:
    """What failed is named with its reason; what did not say what it is stands among the other failures."""
    answer = post(f"{url}/{STUDY}", body([*slices(1), part10(make_slice(0, seed="other")), b"rubbish"]))

    assert answer.status_code == 202
    module = Dataset.from_json(answer.text)
    (failed,) = module.FailedSOPSequence
    assert failed.ReferencedSOPInstanceUID == make_slice(0, seed="other").SOPInstanceUID
    assert failed.FailureReason == 0xA900
    assert [one.FailureReason for one in module.OtherFailuresSequence] == [0xC000]
    assert [one.ReferencedSOPInstanceUID for one in module.ReferencedSOPSequence] == [make_slice(0).SOPInstanceUID]


def test_none_stored_is_409(house: House, url: str) -> None:
    """A well-formed request of which nothing can be stored."""
    answer = post(url, body([b"rubbish", b"", part10(make_slice(0))[:-3]]))

    assert answer.status_code == 409
    module = Dataset.from_json(answer.text)
    assert [one.FailureReason for one in module.OtherFailuresSequence] == [0xC000, 0xC000]
    assert [one.FailureReason for one in module.FailedSOPSequence] == [0xC000]


@pytest.mark.parametrize("data", [b"", b"rubbish", part(b"x"), body([], b"other"), b"--" + BOUNDARY + b"--\r\n"])
def test_malformed_is_400(house: House, url: str, data: bytes) -> None:
    """A body of which nothing can be told: the house's error shape, nothing stored."""
    answer = post(url, data)

    assert (answer.status_code, answer.json()["error"]["code"]) == (400, "STOW_MALFORMED")


def test_a_cut_body_with_something_stored_is_202(house: House, url: str) -> None:
    """What is held is said to be held, so the client need not send it again; and that there was more."""
    answer = post(url, part(slices(1)[0]) + part(b"x"))

    assert answer.status_code == 202
    assert len(Dataset.from_json(answer.text).OtherFailuresSequence) == 1


def test_a_full_disk_is_503(house: House, url: str) -> None:
    """The client should come again, and is told when; afterwards it works."""
    house.disk.free = 0
    answer = post(url, body(slices(2)))

    assert (answer.status_code, answer.headers["retry-after"]) == (503, "30")
    assert {one.FailureReason for one in Dataset.from_json(answer.text).FailedSOPSequence} == {0xA700}
    house.disk.free = None
    assert post(url, body(slices(2))).status_code == 200


def test_a_disk_that_fills_in_the_middle_is_202(house: House, url: str) -> None:
    """What was held before it filled is acknowledged; the rest may be sent again."""
    large = part10(make_slice(1, shape=(512, 1024)))
    first, second = part(slices(1)[0]), body([large])
    with connected(url) as connection:
        connection.sendall(head(len(first + second)) + first + second[:-1000])
        eventually(lambda: house.held() == 1)
        house.disk.fail["adopt"] = "before"
        connection.sendall(second[-1000:])
        answer = answered(connection)

    assert answer.startswith(b"HTTP/1.1 202")
    assert b'"00081197": {"vr": "US", "Value": [42752]}' in answer


@pytest.mark.parametrize("state", ["stopping", "stranger"])
def test_who_may_not_store_now(house: House, url: str, state: str) -> None:
    """A stopping service is 503, a stranger 403; nothing of the body is looked at."""
    house.stopping, house.known = state == "stopping", None if state == "stranger" else "STOW"
    answer = post(url, body(slices(1)))

    status, code = (503, "STOPPING") if state == "stopping" else (403, "NOT_A_PEER")
    assert (answer.status_code, answer.json()["error"]["code"]) == (status, code)
    assert ("retry-after" in answer.headers) == (status == 503)
    assert house.held() == 0
    assert not house.inbox.quarantined()


def test_studies_show_who_sent(house: House, url: str) -> None:
    """The name that the callable gives is the sender of the instance."""
    house.known = "CT-ROOM-1"
    post(url, body(slices(1)))

    assert house.inbox.instances(STUDY)[0].sender == "CT-ROOM-1"


@pytest.mark.parametrize(
    ("content_type", "encoding", "status", "code"),
    [
        ("application/dicom", "", 415, "STOW_MEDIA_TYPE"),
        ("multipart/form-data; boundary=x", "", 415, "STOW_MEDIA_TYPE"),
        ('multipart/related; type="application/dicom+json"; boundary=x', "", 415, "STOW_MEDIA_TYPE"),
        (CONTENT_TYPE, "gzip", 415, "STOW_MEDIA_TYPE"),
        ("multipart/related", "", 400, "STOW_MALFORMED"),
    ],
)
def test_other_bodies_are_refused(
    house: House, url: str, content_type: str, encoding: str, status: int, code: str
) -> None:
    """By their header, with a word that a client's log can show."""
    headers = {"Content-Encoding": encoding} if encoding else {}
    answer = post(url, body(slices(1)), content_type, **headers)

    assert (answer.status_code, answer.json()["error"]["code"]) == (status, code)
    assert house.held() == 0


def test_a_refusal_is_heard_by_who_sends_much(house: House, url: str) -> None:
    """A client that writes its whole body before it reads still gets the words, not a broken pipe."""
    answer = post(url, b"x" * 20_000_000, "application/zip")

    assert (answer.status_code, answer.json()["error"]["code"]) == (415, "STOW_MEDIA_TYPE")


def test_xml_for_who_asks(house: House, url: str) -> None:
    """The form that clients of the first years of STOW-RS understand (PS3.19 annex A.1)."""
    answer = post(url, body([*slices(1), b"rubbish"]), Accept="application/dicom+xml")

    assert (answer.status_code, answer.headers["content-type"]) == (202, "application/dicom+xml")
    tree = ET.fromstring(answer.text)  # noqa: S314 - our own
    found = {one.get("keyword"): [value.text for value in one.iter("Value")] for one in tree}
    assert found == {
        "RetrieveURL": [],
        "ReferencedSOPSequence": [str(make_slice(0).SOPClassUID), str(make_slice(0).SOPInstanceUID)],
        "OtherFailuresSequence": ["49152"],
    }


def test_no_common_form_is_406(house: House, url: str) -> None:
    """Told before anything is stored: a client that cannot read the answer would send again for ever."""
    answer = post(url, body(slices(1)), Accept="text/html")

    assert (answer.status_code, answer.json()["error"]["code"]) == (406, "NOT_ACCEPTABLE")
    assert house.held() == 0


@pytest.mark.parametrize(
    ("headers", "form"),
    [
        ([], "json"),
        ([""], "json"),
        (["*/*"], "json"),
        (["application/*"], "json"),
        (["application/json"], "json"),
        (["Application/DICOM+JSON; charset=utf-8"], "json"),
        (["application/dicom+xml"], "xml"),
        (["application/dicom+xml, application/dicom+json"], "json"),
        (["application/dicom+xml", "application/dicom+json;q=0.9"], "xml"),
        (["application/dicom+json;q=0, */*"], "xml"),
        (["text/html, */*;q=0.1"], "json"),
        (["text/html"], None),
        (["application/dicom"], None),
        (["*/*;q=0"], None),
        (["application/dicom+json;q=nan"], None),
        (["application/dicom+json;q=-1, application/dicom+xml;q=9"], None),
        ([";;;,,,=q=;"], None),
    ],
)
def test_forms_that_are_asked_for(headers: list[str], form: str | None) -> None:
    """The more specific range counts, then the quality (RFC 9110 section 12.5.1)."""
    assert acceptable(headers) == (None if form is None else f"application/dicom+{form}")


@pytest.mark.parametrize("study", ["..%2f..%2fetc", "not-a-uid", "1..2", "1.2.840." + "1" * 80, "%00"])
def test_a_target_that_is_no_study(house: House, url: str, study: str) -> None:
    """Refused by the address alone, and the address is not repeated."""
    answer = post(f"{url}/{study}", body(slices(1)))

    assert answer.status_code in (400, 404)
    assert "etc" not in answer.text
    assert house.held() == 0


@pytest.mark.parametrize("method", ["GET", "PUT", "DELETE"])
def test_nothing_but_storing(house: House, url: str, method: str) -> None:
    """We give nothing back by DICOMweb and delete nothing."""
    assert httpx.request(method, f"{url}/{STUDY}", timeout=WAIT_S).status_code == 405


@pytest.mark.parametrize(
    ("host", "others", "known"),
    [
        ("192.0.2.7", "PACS", "PACS"),
        ("::ffff:192.0.2.7", "PACS", "PACS"),
        ("192.0.2.8", "STOW", None),
        ("127.0.0.1", "STOW", "STOW"),
        ("::1", "STOW", "STOW"),
        ("::ffff:127.0.0.1", "STOW", "STOW"),
        ("testclient", "STOW", None),
        (None, "STOW", None),
    ],
)
def test_callers_are_named_by_their_address(host: str | None, others: str, known: str | None) -> None:
    """As on the DICOM port: a peer by its title; strangers as the site decides; this machine itself always."""
    request = Request({"type": "http", "client": None if host is None else (host, 1), "headers": []})
    peers = (Peer("pacs", "PACS", "192.0.2.7", 104, addresses=("192.0.2.7/32",)),)

    assert known_senders(Access("ZHIYING", peers, known_only=False))(request) == others
    assert known_senders(Access("ZHIYING", peers, known_only=True))(request) == known


# -- clients that misbehave, on bare sockets --------------------------------------------------------------------


def head(length: int | str, *more: str) -> bytes:
    """A request's header."""
    lines = ["POST /dicom-web/studies HTTP/1.1", "Host: x", f"Content-Type: {CONTENT_TYPE}", *more]
    return "\r\n".join([*lines, f"Content-Length: {length}", "", ""]).encode()


@contextmanager
def connected(url: str) -> Iterator[socket.socket]:
    """A bare connection."""
    target = urlsplit(url)
    with socket.create_connection((str(target.hostname), int(target.port or 0)), WAIT_S) as connection:
        yield connection


def answered(connection: socket.socket) -> bytes:
    """What comes until the server closes, or has answered."""
    said = b""
    while b"}" not in said:
        try:
            more = connection.recv(65536)
        except ConnectionResetError:
            break
        if not more:
            break
        said += more
    return said


def eventually(holds: Callable[[], bool]) -> None:
    """Wait until it does."""
    deadline = time.monotonic() + WAIT_S
    while not holds():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def idle(house: House) -> bool:
    """Whether no request is open and nothing half-received is left on the disk."""
    incoming = house.inbox._root / "incoming"
    return house.inbox.activity.total() == 0 and not list(incoming.iterdir())


def test_a_client_that_breaks_off(house: House, url: str) -> None:
    """Content-Length promised more: the instance under way leaves nothing behind, and the next client is served."""
    whole = body([b"x" * 600_000])
    with connected(url) as connection:
        connection.sendall(head(len(whole)) + whole[:500_000])
        eventually(lambda: house.inbox.activity.total() == 1)

    eventually(lambda: idle(house))
    assert not house.inbox.quarantined()
    assert post(url, body(slices(1))).status_code == 200


@pytest.mark.parametrize("length", ["-1", "x", "1e3", "99999999999999999999999"])
def test_lengths_that_are_none(house: House, url: str, length: str) -> None:
    """A Content-Length that is no number, or one beyond the limit, is refused without reading on."""
    with connected(url) as connection:
        connection.sendall(head(length, "Expect: 100-continue"))
        assert answered(connection)[9:12] in (b"400", b"413")


def test_a_length_that_is_too_small(house: House, url: str) -> None:
    """What follows the promised length is no part of this request: the body counts as cut."""
    whole = body(slices(1))
    with connected(url) as connection:
        connection.sendall(head(len(whole) - 30) + whole)
        assert answered(connection).startswith(b"HTTP/1.1 400")
    assert house.held() == 0


def test_a_chunked_body(house: House, url: str) -> None:
    """Without a Content-Length, in chunks, as a client that streams from disk sends."""
    pieces = iter([body(slices(2))[at : at + 999] for at in range(0, len(body(slices(2))), 999)])
    answer = httpx.post(url, content=pieces, headers={"Content-Type": CONTENT_TYPE}, timeout=WAIT_S)

    assert answer.status_code == 200
    assert house.held() == 2


def test_who_waits_is_told_at_once(house: House, url: str) -> None:
    """A client that asks before it sends (Expect: 100-continue) hears the refusal without sending a byte."""
    house.stopping = True
    with connected(url) as connection:
        connection.sendall(head(10_000_000, "Expect: 100-continue"))
        assert answered(connection).startswith(b"HTTP/1.1 503")


@contextmanager
def limited(folder: Path, server: tuple[Switch, str], **limits: Any) -> Iterator[tuple[House, str]]:
    """A house with other limits, served."""
    house = House(folder, DoorLimits(**limits))
    server[0].turn(house.router)
    yield house, server[1]
    house.inbox.close()


def test_too_large_is_413(tmp_path: Path, server: tuple[Switch, str]) -> None:
    """By what Content-Length says, and by what comes if it says nothing."""
    with limited(tmp_path, server, body=StowLimits(request_bytes_max=1000)) as (house, url):
        told = post(url, body(slices(3)))
        found = httpx.post(url, content=iter([body(slices(1))]), headers={"Content-Type": CONTENT_TYPE}, timeout=WAIT_S)

        assert [(one.status_code, one.json()["error"]["code"]) for one in (told, found)] == [(413, "TOO_LARGE")] * 2
        assert house.held() == 0


def test_silence_ends_a_request(tmp_path: Path, server: tuple[Switch, str]) -> None:
    """Who stops in the middle is given up; what was whole before it stays held, unacknowledged."""
    with limited(tmp_path, server, silence_s=0.2) as (house, url), connected(url) as connection:
        connection.sendall(head(10_000_000) + part(b"x" * 300_000))
        assert b'"TOO_SLOW"' in answered(connection)
        eventually(lambda: idle(house))


def test_a_trickle_ends_a_request(tmp_path: Path, server: tuple[Switch, str]) -> None:
    """Who sends a byte now and then is given up too: a few of them would shut everybody out."""
    with (
        limited(tmp_path, server, silence_s=0.5, bytes_per_s_min=1_000_000) as (house, url),
        connected(url) as connection,
    ):
        connection.sendall(head(10_000_000))
        stop = threading.Event()

        def trickle() -> None:
            while not stop.wait(0.05):
                try:
                    connection.sendall(b"-")
                except OSError:
                    return

        thread = threading.Thread(target=trickle)
        thread.start()
        try:
            assert b'"TOO_SLOW"' in answered(connection)
        finally:
            stop.set()
            thread.join(WAIT_S)
        eventually(lambda: idle(house))


def test_only_so_many_at_once(tmp_path: Path, server: tuple[Switch, str]) -> None:
    """One more than allowed is asked to come later; when one ends, the next is served."""
    with limited(tmp_path, server, requests_max=1) as (house, url):
        with connected(url) as connection:
            connection.sendall(head(10_000_000) + part(b"x"))
            eventually(lambda: house.inbox.activity.total() == 1)
            busy = post(url, body(slices(1)))
        eventually(lambda: idle(house))

        assert (busy.status_code, busy.json()["error"]["code"]) == (503, "BUSY")
        assert post(url, body(slices(1))).status_code == 200


def test_others_are_answered_meanwhile(tmp_path: Path, server: tuple[Switch, str]) -> None:
    """A disk that hangs holds up its own request, never the loop that answers everybody."""
    release = threading.Event()

    class HangingDisk(FailingDisk):
        def free_bytes(self, path: Path) -> int:
            release.wait(WAIT_S)
            return super().free_bytes(path)

    inbox = Inbox(tmp_path / "spool", Clock(), disk=HangingDisk())
    router = stow_router(inbox)
    router.add_api_route("/ping", lambda: "pong")
    answers: list[int] = []
    server[0].turn(router)
    url = server[1]
    hanging = threading.Thread(target=lambda: answers.append(post(url, body(slices(1))).status_code))
    hanging.start()
    eventually(lambda: inbox.activity.total() == 1)
    assert httpx.get(url.replace("studies", "ping"), timeout=WAIT_S).text == '"pong"'
    assert answers == []
    release.set()
    hanging.join(WAIT_S)
    inbox.close()
    assert answers == [200]


def test_answers_hold_nothing_of_a_patient(house: House, url: str, capfd: pytest.CaptureFixture[str]) -> None:
    """Neither answers nor what the server prints repeat anything of the data but UIDs (I5)."""
    broken = part10(make_slice(0)).replace(b"MR", b"\xff\xff")
    said = [
        post(url, data, content_type).text
        for data in (body([broken]), body([b"TEST^Phantom"]), b"TEST^Phantom", body([broken[:-9]]) + b"TEST-0001")
        for content_type in (CONTENT_TYPE, "text/TEST-0001", 'multipart/related; boundary="TEST^Phantom"')
    ]

    assert "TEST" not in json.dumps(said) + "".join(capfd.readouterr())


def test_the_routes_fit_into_the_application(house: House) -> None:
    """Nothing but the two routes, so that the rest of the API stays read-only."""
    app = FastAPI()
    app.include_router(house.router)
    paths = {(getattr(one, "path", ""), *getattr(one, "methods", ())) for one in house.router.routes}

    assert paths == {("/dicom-web/studies", "POST"), ("/dicom-web/studies/{study_uid}", "POST")}
