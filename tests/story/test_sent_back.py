"""Readers send back what they edited and verified, by DCMTK, to the real service: one decision each, whatever happens.

As a viewer does it: the objects that the PACS got, under new instance UIDs, with a number or an outline changed.
"""

import http.client
import io
import subprocess
import sys
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest
from pydicom import dcmread
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.filereader import read_dataset
from pydicom.uid import ExplicitVRLittleEndian

from audit import verifier
from audit.entry import Entry, Kind
from service import looking, wire
from service.store import Run
from tests.simulators import edited, real_dcmtk
from tests.simulators.pacs import FakePacs
from tests.simulators.site import Site, until, write_series
from tests.simulators.stow import CONTENT_TYPE, body

ZHIYING = Path(sys.executable).with_name("zhiying")
READING_ROOM = "READINGROOM"
PEER = f"""
[[peers]]
name = "reading-room"
ae_title = "{READING_ROOM}"
host = "127.0.0.1"
port = 104
addresses = ["127.0.0.1/32"]
verdicts = %s
"""


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    """A running service with an approved model, and a reading room whose word is a decision."""
    with FakePacs() as pacs:
        made = Site(tmp_path_factory.mktemp("site"), pacs, more=PEER % "true")
        made.approve(made.install_model(), number=7)  # the first one's id is the patient's, which no export may hold
        made.start()
        yield made
        made.stop()


def read_by(site: Site, folder: Path, seed: str) -> tuple[Run, Dataset, Dataset]:
    """A study's run when it is released, and the report and segmentation that the PACS has of it."""
    files = write_series(folder, seed=seed)
    assert set(site.send(files)) == {0}
    study = str(dcmread(files[0], stop_before_pixels=True).StudyInstanceUID)
    run = site.run_in("RELEASED", "FAILED", "REFUSED", study=study)
    assert run.state == "RELEASED"
    found = {one["kind"]: object_of(site.pacs.stored[one["uid"]]) for one in run.outputs}
    return run, found["SR"], found["SEG"]


def object_of(body: bytes) -> Dataset:
    """A data set as a viewer has it, with the head that its file would have."""
    ds = read_dataset(io.BytesIO(body), is_implicit_VR=False, is_little_endian=True)
    ds.file_meta = FileMetaDataset()
    ds.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    ds.file_meta.MediaStorageSOPClassUID = ds.SOPClassUID
    ds.file_meta.MediaStorageSOPInstanceUID = ds.SOPInstanceUID
    return ds


def send_back(site: Site, ds: Dataset, folder: Path, calling: str = READING_ROOM) -> None:
    """C-STORE by DCMTK's storescu, which proposes what it sends and no more."""
    folder.mkdir(exist_ok=True)
    path = folder / f"{ds.SOPInstanceUID}.dcm"
    path.write_bytes(edited.file_of(ds))
    assert real_dcmtk.caller("storescu", site.dicom_port, "-R", calling=calling, files=[path])


def decisions(site: Site, run: Run) -> list[Entry]:
    """The decisions on a call; the log is checked on the way."""
    return [one for one in site.entries() if one.kind is Kind.HUMAN_DECISION and one.call == run.call]


def decided(site: Site, run: Run, number: int) -> list[Entry]:
    """Wait for so many."""
    until(lambda: len(decisions(site, run)) >= number, 60.0, f"{number} decisions are logged")
    return decisions(site, run)


@pytest.mark.timeout(600)
def test_a_report_and_a_segmentation_come_back(site: Site, tmp_path: Path) -> None:
    """Each is one entry with its difference; sent again, and again after a restart, it changes nothing."""
    run, sr, seg = read_by(site, tmp_path / "series", "edited")
    report = edited.verify(edited.copied(sr))
    edited.measure(report, "2.5")
    send_back(site, report, tmp_path / "back")
    (first,) = decided(site, run, 1)
    before = str(edited.items(sr, "118565006")[0].MeasuredValueSequence[0].NumericValue)
    track = str(edited.items(sr, "112040")[0].UID)
    assert (first.body["decision"], first.body["reasons"], first.body["channel"]) == ("MODIFY", ("MEASURE",), "SR")
    assert first.body["difference"] == (
        {"code": f"118565006 {track}", "before": before, "after": "2.5", "unit": "cm3"},
    )
    assert (first.body["role"], first.body["significant"]) == ("ASSERTED", "UNKNOWN")

    outline = edited.copied(seg)
    dice = edited.shrink(outline)
    send_back(site, outline, tmp_path / "back")
    _, second = decided(site, run, 2)
    assert (second.body["decision"], second.body["reasons"], second.body["channel"]) == ("MODIFY", ("OUTLINE",), "SEG")
    (change,) = second.body["difference"]  # type: ignore[misc]
    assert str(change["code"]) == f"DICE {track}"  # type: ignore[index,call-overload]
    assert 0 <= dice - float(change["after"]) < 0.0001  # type: ignore[arg-type,index,call-overload]

    for _ in range(2):
        looked_at = seen(site, "LOGGED_BEFORE")
        send_back(site, report, tmp_path / "back")
        send_back(site, outline, tmp_path / "back")
        until(lambda at=looked_at: seen(site, "LOGGED_BEFORE") >= at + 2, 60.0, "both were looked at again")  # type: ignore[misc]
        site.stop()
        site.start()
        until(lambda: seen(site, "LOGGED_BEFORE") >= 2, 60.0, "what is held was looked through")
    assert [one.index for one in decisions(site, run)] == [first.index, second.index]
    # Neither was input: no run but the first, and the study waits for nothing.
    assert [one.run_id for one in site.runs() if one.study_uid == run.study_uid] == [run.run_id]
    site.settle()


def seen(site: Site, outcome: str) -> int:
    """How many objects came to this, as /metrics of this process says."""
    with urllib.request.urlopen(f"http://127.0.0.1:{site.http_port}/metrics", timeout=5) as answer:
        text = answer.read().decode()
    lines = [line for line in text.splitlines() if line.startswith(f'zhiying_verdicts_total{{outcome="{outcome}"}}')]
    return int(float(lines[0].split()[-1])) if lines else 0


@pytest.mark.timeout(600)
def test_by_stow_as_well(site: Site, tmp_path: Path) -> None:
    """A viewer that speaks HTTP: known by its address, as this door does."""
    run, sr, _ = read_by(site, tmp_path / "series", "stow")
    data = body([edited.file_of(edited.verify(edited.copied(sr)))])
    connection = http.client.HTTPConnection("127.0.0.1", site.http_port, timeout=30)
    headers = {"Content-Type": CONTENT_TYPE, "Accept": "application/dicom+json"}
    connection.request("POST", "/dicom-web/studies", data, headers)
    assert connection.getresponse().status == 200
    connection.close()
    (entry,) = decided(site, run, 1)
    assert (entry.body["decision"], entry.body["channel"]) == ("ACCEPT", "SR")


@pytest.mark.timeout(600)
def test_from_elsewhere_it_is_held_and_no_decision(site: Site, tmp_path: Path) -> None:
    """A modality's word is no reader's; and what a reader's object says of another patient is nothing."""
    run, sr, _ = read_by(site, tmp_path / "series", "elsewhere")
    send_back(site, edited.verify(edited.copied(sr)), tmp_path / "back", calling="MODALITY")
    stranger = edited.verify(edited.copied(sr))
    stranger.PatientID = "TEST-OTHER"
    send_back(site, stranger, tmp_path / "back")
    until(lambda: seen(site, "PATIENT_DIFFERS") == 1, 60.0, "it has been looked at")
    assert decisions(site, run) == []
    with looking.ledger(site.config_file) as (_, index):
        assert sum(one.modality == "SR" for one in index.instances(run.study_uid)) == 2


@pytest.mark.timeout(600)
@pytest.mark.parametrize("wait", [False, True], ids=["at once", "when it is logged"])
def test_killed_after_the_answer(site: Site, tmp_path: Path, wait: bool) -> None:
    """kill -9 when the sender has its 0x0000, or when the entry is there: after the next start there is one."""
    run, sr, _ = read_by(site, tmp_path / "series", f"killed {wait}")
    ds = edited.verify(edited.copied(sr))
    send_back(site, ds, tmp_path / "back")
    if wait:
        until(lambda: seen(site, "LOGGED") > 0, 60.0, "it is logged")
    site.kill()
    site.start()
    decided(site, run, 1)
    send_back(site, ds, tmp_path / "back")
    until(lambda: seen(site, "LOGGED_BEFORE") > 0, 60.0, "it has been looked at again")
    assert [one.body["decision"] for one in decisions(site, run)] == ["ACCEPT"]


@pytest.mark.timeout(600)
def test_the_verifier_takes_the_export(site: Site, tmp_path: Path) -> None:
    """With decisions from objects in it, the package is written, nothing in it looks like a patient, and it holds."""
    run, sr, _ = read_by(site, tmp_path / "series", "export")
    ds = edited.copied(sr)
    edited.verify(ds, "<b>INVENTED</b>^Quagga")
    edited.measure(ds, "3.75")
    send_back(site, ds, tmp_path / "back")
    decided(site, run, 1)
    package, policy = tmp_path / "package.zip", tmp_path / "policy.txt"
    about = ("--recipient", "TEST Reviewer", "--purpose", "TEST", "--contract", "TEST")
    command = [ZHIYING, "audit", "export", "--out", str(package), *about, "--config", str(site.config_file)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    people = [line for line in site.parties.policy().splitlines() if line.startswith("person ")]
    policy.write_text("\n".join([f"log {wire.log_vkey(site.config)}", *people]) + "\n", encoding="utf-8")
    with package.open("rb") as file:
        report = verifier.verify(file, verifier.Policy(policy))
    assert [one for one in report.remarks if one.verdict == verifier.FAIL] == []
    assert report.figures["decisions"]["differ"] == 0
    assert b"quagga" not in package.read_bytes().lower()


@pytest.mark.timeout(600)
def test_nobody_is_believed_until_the_site_says_so(tmp_path: Path) -> None:
    """Held while it is off; when the site turns it on, what is held still is looked at."""
    with FakePacs() as pacs:
        made = Site(tmp_path / "site", pacs, more=PEER % "false")
        made.approve(made.install_model())
        made.start()
        try:
            run, sr, _ = read_by(made, tmp_path / "series", "off")
            send_back(made, edited.verify(edited.copied(sr)), tmp_path / "back")
            made.kill()
            text = made.config_file.read_text(encoding="utf-8")
            assert decisions(made, run) == []
            made.config_file.write_text(text.replace("verdicts = false", "verdicts = true"), encoding="utf-8")
            made.start()
            assert len(decided(made, run, 1)) == 1
        finally:
            made.kill()
