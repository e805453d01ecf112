"""The running service tells the RIS and the record what it released: the report's own numbers, once, and says so."""

import hashlib
import io
from collections.abc import Iterator
from pathlib import Path

import pytest
from hl7apy.parser import parse_message
from pydicom import dcmread

from audit import verifier
from audit.entry import Entry
from dicom_bridge.readback import read_report
from tests.simulators import mllp
from tests.simulators.fhir_server import Record
from tests.simulators.handed_over import packed
from tests.simulators.mllp import Ris
from tests.simulators.pacs import FakePacs
from tests.simulators.site import Site, copy_of, template_of, write_series
from tests.simulators.waiting import until

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]


@pytest.fixture(scope="module")
def template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A site with an approved model, made once."""
    return template_of(tmp_path_factory.mktemp("template") / "site", number=7)


@pytest.fixture
def ris() -> Iterator[Ris]:
    """A RIS that outlives the service."""
    with Ris() as running:
        yield running


@pytest.fixture
def record() -> Iterator[Record]:
    """A record that speaks FHIR, and outlives the service."""
    with Record() as running:
        yield running


@pytest.fixture
def site(template: Path, tmp_path: Path, ris: Ris, record: Record) -> Iterator[Site]:
    """A fresh site that tells both."""
    more = (
        f'[reports.hl7]\nhost = "{mllp.LOOPBACK}"\nport = {ris.port}\nreceiver = "RIS"\n'
        f'[reports.fhir]\nurl = "{record.url}"\n'
    )
    with FakePacs() as pacs:
        made = Site(copy_of(template, tmp_path / "site"), pacs, more=more)
        yield made
        made.kill()


def notified(site: Site) -> list[Entry]:
    """The entries of what was told."""
    return [entry for entry in site.entries() if entry.kind == "NOTIFIED"]


def numbers_of(message: bytes) -> list[str]:
    """The numbers of an ORU^R01, by a parser that is not ours."""
    parsed = parse_message(message.decode(), find_groups=False)
    return [one.obx_5.value for one in parsed.children if one.name == "OBX" and one.obx_2.value == "NM"]


def filler_of(message: bytes) -> str:
    """OBR-3."""
    return str(parse_message(message.decode(), find_groups=False).obr.obr_3.value)


def recorded(record: Record) -> list[str]:
    """The numbers that the record holds."""
    found = [one for one in record.of("Observation") if "valueQuantity" in one]
    return [str(one["valueQuantity"]["value"]) for one in found if one["status"] == "preliminary"]


def test_the_number_reaches_the_report(site: Site, ris: Ris, record: Record, tmp_path: Path) -> None:
    """RIS and record have the SR's number after the PACS had it; the log says so, and holds no patient."""
    site.start()
    assert set(site.send(write_series(tmp_path / "series"))) == {0}
    run = site.run_in("RELEASED")
    until(lambda: site.counted().get("NOTIFIED") == 2, what="the log says so")

    (message,) = ris.messages
    sr = site.data / "results" / str(run.call) / "sr.dcm"
    facts = read_report(sr)
    assert numbers_of(message) == recorded(record) == [number.value for number in facts.numbers]
    assert facts.numbers
    assert record.complaints == ris.complaints == []
    ds = dcmread(io.BytesIO(sr.read_bytes()))
    assert parse_message(message.decode(), find_groups=False).pid.pid_3.pid_3_1.value == ds.PatientID
    told = {(one.call, one.body["peer"], one.body["outcome"], one.body["proof"]) for one in notified(site)}
    assert told == {(run.call, "ris", "DELIVERED", "AA"), (run.call, "record", "DELIVERED", "HTTP_200")}
    digests = {f"sha256:{hashlib.sha256(one).hexdigest()}" for one in (message, *record.bundles)}
    assert {one.body["digest"] for one in notified(site)} == digests
    kinds = [one.kind for one in site.entries() if one.call == run.call]
    assert kinds.index("RELEASED") < kinds.index("NOTIFIED")
    site.stop()
    report = packed(site, tmp_path / "package.zip")
    assert [one for one in report.remarks if one.verdict == verifier.FAIL] == []
    assert report.figures["counts"]["NOTIFIED"] == 2
    entries = b"".join(one.to_bytes() for one in notified(site))
    for secret in (str(ds.PatientID), str(ds.StudyInstanceUID), str(ds.PatientName)):
        assert secret not in (site.root / "serve.log").read_text(encoding="utf-8")
        assert secret.encode() not in entries
        assert secret.encode() not in (tmp_path / "package.zip").read_bytes()
        assert not any(secret.encode() in path.read_bytes() for path in (site.data / "reports").iterdir())


def test_a_late_slice_replaces_what_was_told(site: Site, ris: Ris, record: Record, tmp_path: Path) -> None:
    """The same OBR-3 and the same DiagnosticReport, with the new number: the old one is nowhere any more."""
    files = write_series(tmp_path / "series")
    site.start()
    assert set(site.send(files[:-1])) == {0}
    first = site.run_in("RELEASED")
    until(lambda: site.counted().get("NOTIFIED") == 2, what="the first is told")
    assert set(site.send(files[-1:])) == {0}
    until(lambda: site.counted().get("NOTIFIED") == 4, what="the second is told")
    second = site.run_in("RELEASED")

    assert first.call != second.call
    one, other = ris.messages
    assert filler_of(one) == filler_of(other)
    assert len(set(ris.ids)) == 2
    facts = read_report(site.data / "results" / str(second.call) / "sr.dcm")
    assert numbers_of(other) == recorded(record) == [number.value for number in facts.numbers]
    assert len(record.of("DiagnosticReport")) == 1
    assert record.of("DiagnosticReport")[0]["status"] == "preliminary"


def test_killed_between_telling_and_recording(site: Site, ris: Ris, tmp_path: Path) -> None:
    """The power goes when the RIS has it and we do not know: the same bytes again, and one entry."""
    ris.before_answer = lambda _: site.kill()
    site.start()
    assert set(site.send(write_series(tmp_path / "series"))) == {0}
    until(lambda: ris.messages and not site.alive, what="it died with the message out")
    ris.before_answer = lambda _: None

    site.start()
    until(lambda: site.counted().get("NOTIFIED") == 2, what="the log says so")

    assert len(ris.messages) == 2
    assert ris.messages[0] == ris.messages[1]
    assert ris.complaints == []
    site.kill()
    site.start()
    site.stop()
    assert len(ris.messages) == 2
    assert sorted(str(one.body["peer"]) for one in notified(site)) == ["record", "ris"]
