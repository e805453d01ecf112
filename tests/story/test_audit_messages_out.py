"""The running service tells the site's repository what it does, in DICOM's audit messages, and nothing of a patient."""

import xml.etree.ElementTree as ET
from collections import Counter
from pathlib import Path

import httpx
import pytest
from pydicom import dcmread
from pydicom.uid import ExplicitVRLittleEndian, MRImageStorage

from tests.simulators.certificates import Authority
from tests.simulators.pacs import FakePacs
from tests.simulators.raw_peer import RawPeer, request
from tests.simulators.site import Site, write_series
from tests.simulators.syslog_server import LOOPBACK
from tests.simulators.syslog_server import Repository as Server

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]


def test_a_study_is_told_to_the_repository(tmp_path: Path) -> None:
    """Start, what was read, and what was sent; a restart repeats nothing; whoever is not let in leaves a trace."""
    papers = Authority(tmp_path / "papers")
    ours, server = papers.issue("zhiying"), Server(papers.issue("repository"))
    more = (
        f'[audit.syslog]\nhost = "{LOOPBACK}"\nport = {server.port}\ncertificate = "{ours.certificate}"\n'
        f'key = "{ours.key}"\nauthority = "{ours.authority}"\n'
    )
    (tmp_path / "site").mkdir()
    files = write_series(tmp_path / "series")
    with FakePacs() as pacs:
        site = Site(tmp_path / "site", pacs, more=more)
        site.approve(site.install_model())
        site.start()
        try:
            assert set(site.send(files)) == {0}
            site.run_in("RELEASED")
            server.wait(lambda: "110104" in _events(server))
            with RawPeer(site.dicom_port) as stranger:
                stranger.send(
                    request([(1, MRImageStorage, [ExplicitVRLittleEndian])], called="OTHER", calling="TESTNAME")
                )
                assert stranger.pdu() == (3, bytes((0, 1, 1, 7)))
            seen = httpx.get(f"http://127.0.0.1:{site.http_port}/metrics").text
            assert 'zhiying_associations_denied_total{code="CALLED_AE"} 1.0' in seen
        finally:
            site.stop()
        said = (site.root / "serve.log").read_text(encoding="utf-8")
        assert '"association_denied"' in said
        assert "TESTNAME" not in said
        before = _events(server)
        site.start()
        site.stop()
    server.stop()
    assert server.broken == []
    # The log's own beginning, and the service's; a service that starts again says that, and nothing twice.
    assert (before["110100"], before["110104"]) == (2, 1)
    assert _events(server) == before + Counter({"110100": 1})
    ds = dcmread(files[0])
    for told in (ds.PatientID, ds.StudyInstanceUID, ds.SeriesInstanceUID, str(ds.PatientName)):
        assert told not in "".join(server.texts)


def _events(server: Server) -> Counter[str]:
    found = (ET.fromstring(text).find("EventIdentification/EventID") for text in server.texts)  # noqa: S314 - our own
    return Counter(event.attrib["csd-code"] for event in found if event is not None)
