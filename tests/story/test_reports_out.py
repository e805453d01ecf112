"""The running service tells the RIS and the record what it released: the report's own numbers, once, and says so."""

import io
from collections.abc import Iterator
from pathlib import Path

import pytest
from hl7apy.parser import parse_message
from pydicom import dcmread

from audit.entry import Entry
from dicom_bridge.readback import read_report
from service.reporting.book import BOOK_FILE
from tests.simulators import mllp
from tests.simulators.mllp import Ris
from tests.simulators.pacs import FakePacs
from tests.simulators.site import Site, copy_of, write_series
from tests.simulators.waiting import until

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]


@pytest.fixture(scope="module")
def template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A site with an approved model, made once."""
    root = tmp_path_factory.mktemp("template") / "site"
    root.mkdir()
    with FakePacs() as pacs:
        site = Site(root, pacs)
        site.approve(site.install_model())
    return root


@pytest.fixture
def ris() -> Iterator[Ris]:
    """A RIS that outlives the service."""
    with Ris() as running:
        yield running


@pytest.fixture
def site(template: Path, tmp_path: Path, ris: Ris) -> Iterator[Site]:
    """A fresh site that tells the RIS."""
    more = f'[reports.hl7]\nhost = "{mllp.LOOPBACK}"\nport = {ris.port}\nreceiver = "RIS"\n'
    with FakePacs() as pacs:
        made = Site(copy_of(template, tmp_path / "site"), pacs, more=more)
        yield made
        made.kill()


def notified(site: Site) -> list[Entry]:
    """The entries of what was told."""
    return [entry for entry in site.entries() if entry.kind == "NOTIFIED"]


def test_the_number_reaches_the_report(site: Site, ris: Ris, tmp_path: Path) -> None:
    """What the RIS got is the SR's number, preliminary and marked, after the PACS had it; the log has its digest."""
    site.start()
    assert set(site.send(write_series(tmp_path / "series"))) == {0}
    run = site.run_in("RELEASED")
    until(lambda: ris.messages, what="the RIS is told")
    until(lambda: site.counted().get("NOTIFIED") == 1, what="the log says so")

    (message,) = ris.messages
    parsed = parse_message(message.decode().replace("\n", ""), find_groups=False)
    numbers = [one for one in parsed.children if one.name == "OBX" and one.obx_2.value == "NM"]
    sr = site.data / "results" / str(run.call) / "sr.dcm"
    facts = read_report(sr)
    assert [one.obx_5.value for one in numbers] == [number.value for number in facts.numbers]
    assert facts.numbers
    ds = dcmread(io.BytesIO(sr.read_bytes()))
    assert parsed.pid.pid_3.pid_3_1.value == ds.PatientID
    (entry,) = notified(site)
    assert entry.call == run.call
    assert (entry.body["peer"], entry.body["outcome"], entry.body["proof"]) == ("ris", "DELIVERED", "AA")
    kinds = [one.kind for one in site.entries() if one.call == run.call]
    assert kinds.index("RELEASED") < kinds.index("NOTIFIED")
    site.stop()
    for secret in (str(ds.PatientID), str(ds.StudyInstanceUID), str(ds.PatientName)):
        assert secret not in (site.root / "serve.log").read_text(encoding="utf-8")
        assert secret.encode() not in entry.to_bytes()
        assert secret.encode() not in (site.data / "reports" / BOOK_FILE).read_bytes()


def test_killed_between_telling_and_recording(site: Site, ris: Ris, tmp_path: Path) -> None:
    """The power goes when the RIS has it and we do not know: the same bytes again, and one entry."""
    ris.before_answer = lambda _: site.kill()
    site.start()
    assert set(site.send(write_series(tmp_path / "series"))) == {0}
    until(lambda: ris.messages and not site.alive, what="it died with the message out")
    ris.before_answer = lambda _: None

    site.start()
    until(lambda: site.counted().get("NOTIFIED") == 1, what="the log says so")

    assert len(ris.messages) == 2
    assert ris.messages[0] == ris.messages[1]
    assert ris.complaints == []
    site.kill()
    site.start()
    site.stop()
    assert len(ris.messages) == 2
    assert len(notified(site)) == 1
