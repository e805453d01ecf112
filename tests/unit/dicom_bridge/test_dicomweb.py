"""DICOMweb and Orthanc's REST API as ways to fetch: both go where the configuration says, and nowhere else."""

from __future__ import annotations

import itertools
import json
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest

from dicom_bridge.catalogue import Catalogue, Window, missing
from dicom_bridge.dicomweb import DicomWeb
from dicom_bridge.errors import BridgeError
from dicom_bridge.inbox import Inbox
from dicom_bridge.keeping import Keeper
from dicom_bridge.orthanc import OrthancSource
from dicom_bridge.patience import Patience, RetrieveLimits
from dicom_bridge.peers import Peer, Retrieve
from tests.simulators.pulling import QUICK, SERIES, STUDY, another_series, held, local, open_inbox, small
from tests.simulators.series import make_slice, part10
from tests.simulators.web_pacs import REST, WEB, Answer, WebPacs, said, serving

pytestmark = pytest.mark.slow  # each opens connections of its own

WAYS = {Retrieve.WADO_RS: DicomWeb, Retrieve.ORTHANC: OrthancSource}
MOST = 1 << 20


@dataclass
class Line:
    """A session with one peer, and an inbox."""

    pacs: WebPacs
    peer: Peer
    session: DicomWeb | OrthancSource
    inbox: Inbox
    patience: Patience

    def fetch(self, catalogue: Catalogue | None = None) -> dict[str, int]:
        """Fetch all that is listed; what failed."""
        listed = self.session.catalogue(STUDY) if catalogue is None else catalogue
        keeper = Keeper(
            self.inbox,
            STUDY,
            "WEBPACS",
            expected=8,
            carrier="pull-1",
            patience=self.patience,
            instance_bytes_max=MOST,
        )
        self.session.fetch(missing(STUDY, listed, {}), keeper)
        return dict(keeper.failed)


@contextmanager
def line(
    root: Path, way: Retrieve, pacs: WebPacs, limits: RetrieveLimits = QUICK, stop: threading.Event | None = None
) -> Iterator[Line]:
    """Open one."""
    patience = Patience(limits, stop)
    with serving(pacs, way) as peer, open_inbox(root) as inbox:
        session = WAYS[way](peer, patience, MOST)
        try:
            yield Line(pacs, peer, session, inbox, patience)
        finally:
            session.close()


@pytest.fixture(params=list(WAYS), ids=str)
def way(request: pytest.FixtureRequest) -> Retrieve:
    """Each of the two."""
    made: Retrieve = request.param
    return made


@pytest.fixture
def opened(tmp_path: Path, way: Retrieve) -> Iterator[Line]:
    """A session with a PACS that has one small series."""
    with line(tmp_path, way, WebPacs(small())) as made:
        yield made


def code_of(call: Callable[[], object]) -> str:
    """Return the code that it ends with."""
    with pytest.raises(BridgeError) as caught:
        call()
    return caught.value.code


# -- as it should be --------------------------------------------------------------------------------------------------


def test_what_the_peer_has_is_listed_and_fetched(opened: Line) -> None:
    """Series with modality and count, instances by UID; each file durable in the inbox, bytes as stored there."""
    opened.pacs.instances += another_series("ct", 2, "CT")
    listed = opened.session.catalogue(STUDY)
    assert sorted((one.modality, one.count, len(one.instances)) for one in listed.values()) == [
        ("CT", 2, 2),
        ("MR", 4, 4),
    ]
    assert opened.session.series(STUDY).keys() == listed.keys()
    assert opened.fetch() == {}
    assert held(opened.inbox) == {one.SOPInstanceUID for one in opened.pacs.instances}
    (one,) = [x for x in opened.inbox.instances(STUDY) if x.sop_uid == opened.pacs.instances[0].SOPInstanceUID]
    assert one.path.read_bytes().endswith(opened.pacs.instances[0].PixelData)


def test_an_unknown_study_is_empty(opened: Line) -> None:
    """No answers, or 204, or 404."""
    assert opened.session.catalogue("1.2.3") == {}
    opened.pacs.trick = lambda path, _query: said(b"", status=404) if path.startswith(WEB) else None
    assert opened.session.catalogue("1.2.3") == {}


@pytest.mark.parametrize("uid", ["", "*", "../..", "1.2/3", "1.2?limit=9"])
def test_what_is_no_uid_becomes_no_address(opened: Line, uid: str) -> None:
    """Nothing is asked."""
    with pytest.raises(ValueError, match="study"):
        opened.session.catalogue(uid)
    assert opened.pacs.asked == []


def test_studies_of_a_window(opened: Line) -> None:
    """By date and modality, checked again here."""
    day = Window(local("2026-04-01"), local("2026-04-01"), frozenset({"MR", "CT"}))
    (found,) = opened.session.studies(day)
    assert (found.study_uid, found.modalities) == (STUDY, {"MR"})
    assert opened.session.studies(replace(day, modalities=frozenset({"US"}))) == ()
    assert opened.session.studies(Window(local("2026-04-03"), local("2026-04-03"))) == ()


def test_an_instance_that_is_gone_is_counted_and_the_rest_goes_on(opened: Line) -> None:
    """The peer listed it and cannot give it."""
    listed = opened.session.catalogue(STUDY)
    lost = opened.pacs.instances.pop(1)
    assert opened.fetch(listed) == {"PEER_FAILURE_STATUS": 1}
    assert len(held(opened.inbox)) == 3
    assert lost.SOPInstanceUID not in held(opened.inbox)


def test_web_asks_for_what_is_stored(tmp_path: Path) -> None:
    """Any transfer syntax, nothing compressed on the way, from nobody in particular."""
    with line(tmp_path, Retrieve.WADO_RS, WebPacs(small(1))) as web:
        web.fetch()
        headers = web.pacs.headers[-1]
    assert headers["Accept"] == 'multipart/related; type="application/dicom"; transfer-syntax=*'
    assert headers["Accept-Encoding"] == "identity"
    assert "Authorization" not in headers


def test_web_takes_a_file_that_is_not_wrapped(tmp_path: Path) -> None:
    """As some servers send it."""
    pacs = WebPacs(small(2))
    pacs.plain = True
    with line(tmp_path, Retrieve.WADO_RS, pacs) as web:
        assert web.fetch() == {}
        assert len(held(web.inbox)) == 2


@pytest.mark.parametrize("page_max", [1, 3, 4, 1000])
def test_web_reads_page_after_page(tmp_path: Path, page_max: int) -> None:
    """A server that answers less than was asked for has the rest on the next page."""
    pacs = WebPacs(small(4))
    pacs.page_max = page_max
    with line(tmp_path, Retrieve.WADO_RS, pacs) as web:
        assert len(web.session.catalogue(STUDY)[SERIES].instances) == 4


def test_web_ends_with_a_server_that_knows_no_pages(tmp_path: Path) -> None:
    """The same answers again are no new ones."""
    pacs = WebPacs(small(4))
    pacs.knows_pages, pacs.tells_counts = False, False
    with line(tmp_path, Retrieve.WADO_RS, pacs) as web:
        (entry,) = web.session.catalogue(STUDY).values()
        assert (len(entry.instances), entry.count, entry.expected) == (4, None, 4)


# -- as it should not be ----------------------------------------------------------------------------------------------


def redirect(target: str) -> Answer:
    """Return a redirect."""
    return 302, {"Location": target, "Content-Length": "0"}, iter(())


@pytest.mark.parametrize("where", ["http://localhost:9/x", "http://127.0.0.1:9/x", "/elsewhere", "file:///etc/passwd"])
def test_no_redirect_is_followed(opened: Line, where: str) -> None:
    """To another host or the same one: a peer does not say where we go."""
    opened.pacs.trick = lambda path, _query: None if path.endswith("elsewhere") else redirect(where)
    assert code_of(lambda: opened.session.catalogue(STUDY)) == "PULL_REDIRECTED"
    assert len(opened.pacs.asked) == 1


def only_files(answer: Callable[[], Answer]) -> Callable[[str, Any], Answer | None]:
    """Answer so for files, truly for the rest."""

    def trick(path: str, _query: Any) -> Answer | None:
        is_file = path.endswith("/file") or ("/instances/" in path.removeprefix(REST) and path.startswith(WEB))
        return answer() if is_file else None

    return trick


def test_a_file_redirected_is_not_fetched(opened: Line) -> None:
    """Bulk data in a cloud store is not what the configuration names."""
    opened.pacs.trick = only_files(lambda: redirect("http://127.0.0.1:9/x"))
    assert code_of(opened.fetch) == "PULL_REDIRECTED"


def test_what_is_no_file_is_not_read_to_its_end(opened: Line) -> None:
    """Known from the first bytes: four endless answers cost nothing."""
    kind = {"Content-Type": "application/dicom"}
    opened.pacs.trick = only_files(lambda: (200, kind, itertools.repeat(b"\0" * 65536)))
    assert opened.fetch() == {"DATASET_GARBLED": 4}


@pytest.mark.parametrize("status", [401, 403, 500, 503])
def test_a_failure_is_said_with_its_status(opened: Line, status: int) -> None:
    """Without what the server wrote."""
    opened.pacs.trick = lambda _path, _query: said(b"TEST^Phantom was here", "text/plain", status)
    with pytest.raises(BridgeError, match=str(status)) as caught:
        opened.session.catalogue(STUDY)
    assert caught.value.code == "PEER_FAILURE_STATUS"
    assert "Phantom" not in str(caught.value)


@pytest.mark.parametrize("body", [b"<html>", b"[1, 2]", b'"text"', b"[[]]", b"\xff\xfe", b'[{"0020000E": 3}]', b"[{}]"])
def test_an_answer_that_is_none_is_refused(opened: Line, body: bytes) -> None:
    """No JSON, no list, no data sets, no UIDs."""
    opened.pacs.trick = lambda _path, _query: said(body)
    assert code_of(lambda: opened.session.catalogue(STUDY)) == "PULL_ANSWER_INVALID"


def test_a_compressed_answer_is_refused(opened: Line) -> None:
    """It was not asked for, and could be a bomb."""
    opened.pacs.trick = lambda _path, _query: (200, {"Content-Encoding": "gzip", "Content-Length": "2"}, iter([b"[]"]))
    assert code_of(lambda: opened.session.catalogue(STUDY)) == "PULL_ANSWER_INVALID"


def test_an_endless_file_is_cut_off(opened: Line) -> None:
    """Bounded in bytes, however it comes; the next instance is another matter, and endless too."""
    kind, head = {"Content-Type": "application/dicom"}, part10(make_slice(0))
    opened.pacs.trick = only_files(lambda: (200, kind, itertools.chain([head], itertools.repeat(b"\0" * 65536))))
    assert code_of(opened.fetch) == "PULL_ENDLESS"
    assert held(opened.inbox) == set()


def test_a_file_that_breaks_off_is_not_taken(opened: Line) -> None:
    """Fewer bytes than announced: no answer, and nothing of it in the inbox."""
    half = part10(make_slice(0))[:500]
    headers = {"Content-Type": "application/dicom", "Content-Length": "5000"}

    def broken() -> Answer:
        def body() -> Iterator[bytes]:
            yield half
            raise BrokenPipeError

        return 200, headers, body()

    opened.pacs.trick = only_files(broken)
    assert code_of(opened.fetch) == "PEER_NO_ANSWER"
    assert held(opened.inbox) == set()


def test_another_study_is_not_taken(opened: Line) -> None:
    """Quarantined, and the transfer ends."""
    opened.pacs.trick = only_files(lambda: said(part10(make_slice(0, seed="another")), "application/dicom"))
    assert code_of(opened.fetch) == "PULL_WRONG_STUDY"
    assert held(opened.inbox) == set()
    assert len(opened.inbox.quarantined()) == 1


def test_an_error_page_instead_of_an_image_is_counted(opened: Line) -> None:
    """With status 200, as proxies do."""
    opened.pacs.trick = only_files(lambda: said(b"<html>please log in</html>", "application/dicom"))
    assert opened.fetch() == {"DATASET_GARBLED": 4}


def drip(over: threading.Event) -> Answer:
    """A byte now and then."""

    def body() -> Iterator[bytes]:
        while not over.wait(0.05):
            yield b" "

    return 200, {"Content-Type": "application/dicom+json"}, body()


def test_a_drip_cannot_hold_us(tmp_path: Path, way: Retrieve) -> None:
    """Bytes that come for ever are no sign of life, and it can be called off."""
    over, stop = threading.Event(), threading.Event()
    pacs = WebPacs(small(1))
    pacs.trick = lambda _path, _query: drip(over)
    with line(tmp_path / "a", way, pacs, replace(QUICK, stall_s=1)) as dripping:
        assert code_of(lambda: dripping.session.catalogue(STUDY)) == "PULL_STALLED"
    with line(tmp_path / "b", way, pacs, stop=stop) as dripping:
        threading.Timer(0.3, stop.set).start()
        assert code_of(lambda: dripping.session.catalogue(STUDY)) == "PULL_CANCELLED"
    over.set()


def test_silence_is_no_answer(tmp_path: Path, way: Retrieve) -> None:
    """A server that accepts and says nothing."""
    over = threading.Event()

    def wait(_path: str, _query: Any) -> Answer | None:
        over.wait(30)
        return None

    pacs = WebPacs(small(1))
    pacs.trick = wait
    with line(tmp_path, way, pacs, replace(QUICK, stall_s=0.5)) as silent:
        assert code_of(lambda: silent.session.catalogue(STUDY)) == "PEER_UNREACHABLE"
        over.set()


def test_nobody_there(way: Retrieve) -> None:
    """The port is closed."""
    with serving(WebPacs(), way) as peer:
        pass
    session = WAYS[way](peer, Patience(QUICK), MOST)
    assert code_of(lambda: session.catalogue(STUDY)) == "PEER_UNREACHABLE"
    session.close()


def test_endless_lists_end(tmp_path: Path, way: Retrieve) -> None:
    """More answers than any study has."""
    tags = ("0020000E", "SeriesInstanceUID")
    many = [
        {tags[0]: {"vr": "UI", "Value": [f"1.2.{n}"]}, "ID": f"{n:x}", "MainDicomTags": {tags[1]: f"1.2.{n}"}}
        for n in range(30)
    ]
    pacs = WebPacs(small(1))
    pacs.trick = lambda _path, _query: said(json.dumps(many).encode())
    with line(tmp_path, way, pacs, replace(QUICK, answers_max=20)) as endless:
        assert code_of(lambda: endless.session.catalogue(STUDY)) == "PULL_ENDLESS"


def test_orthanc_names_become_addresses_only_if_they_are_names(tmp_path: Path) -> None:
    """An identifier with a slash or a dot could lead anywhere on that server."""
    pacs = WebPacs(small(1))
    with line(tmp_path, Retrieve.ORTHANC, pacs) as rest:
        for name in ("../../system", "a/b", "", "a" * 65, 7):
            things = [{"ID": name, "MainDicomTags": {"SeriesInstanceUID": SERIES}}]
            pacs.trick = lambda _path, _query, things=things: said(json.dumps(things).encode())  # type: ignore[misc]
            pacs.asked.clear()
            assert code_of(lambda: rest.session.catalogue(STUDY)) == "PULL_ANSWER_INVALID"
            assert len(pacs.asked) == 1
