"""What an operator types beside the running service: pull, outbox, spool, doctor; and standing queries.

Each command is a process of its own. Its exit status, its one line of error and its --json are what scripts rely on.
The PACS are Orthanc and DCMTK's dcmqrscp.
"""

from __future__ import annotations

import io
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path

import pydicom
import pytest
from pydicom.dataset import Dataset

from dicom_bridge import uids
from service.demo.pacs import PACS_AE, Node
from service.demo.servers import free_port
from tests.simulators import real_dcmtk as dcmtk
from tests.simulators import series
from tests.simulators.dcmqrscp import TITLE as QRSCP
from tests.simulators.dcmqrscp import Dcmqrscp, running_dcmqrscp
from tests.simulators.pacs import FakePacs
from tests.simulators.real_orthanc import RealOrthanc, orthanc_for, running
from tests.simulators.real_site import (
    AE,
    Address,
    RealSite,
    Said,
    closed_port,
    peer_lines,
    started,
    until,
    with_model,
    zhiying,
)
from tests.simulators.site import COLUMNS, ROWS, SLICES, ball, write_series

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]

STANDING = """
[[standing_queries]]
peer = "pacs"
modalities = ["MR"]
every_s = 5.0
[[standing_queries]]
peer = "qrscp-get"
modalities = ["MR"]
every_s = 5.0
"""
URGENT_RULES = """
[[rules]]
name = "emergency-room"
model = "small-model"
sender = ["ERSCANNER"]
urgent = true
[[rules]]
name = "everybody-else"
model = "small-model"
"""


@dataclass(frozen=True)
class Hospital:
    """A site that runs, and two archives that know it."""

    site: RealSite
    orthanc: RealOrthanc
    qrscp: Dcmqrscp
    root: Path

    def fill(self, peer: str, files: list[Path]) -> None:
        """Have an archive hold these files; nothing is pushed to us."""
        if peer.startswith("qrscp"):
            self.qrscp.fill(files)
        else:
            self.orthanc.put(files)

    def study(self, name: str, *, at: datetime | None = None, **options: object) -> tuple[str, list[Path]]:
        """A new study of the site's ball; done years ago unless `at` says when."""

        def spoil(index: int, ds: Dataset) -> None:
            ball(index, ds)
            if at is not None:
                ds.StudyDate, ds.StudyTime = f"{at:%Y%m%d}", f"{at:%H%M%S}"

        given: dict[str, object] = {"count": SLICES, "seed": name, "shape": (ROWS, COLUMNS)} | options
        folder = self.root / "studies" / name.replace(" ", "-")
        return uids.derive("TEST", name, "study"), series.write_series(folder, spoil=spoil, **given)  # type: ignore[arg-type]


@pytest.fixture(scope="module")
def hospital(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Hospital]:
    """Orthanc takes the results and counts; every way of fetching has a peer of its own name."""
    root = tmp_path_factory.mktemp("hospital")
    dicom, http = free_port(), free_port()
    site = RealSite(root / "site", Address(PACS_AE, dicom), pacs_more='counts = true\nretrieve = "C-MOVE"')
    us = Node("zhiying", AE, site.dicom_port)
    url = f"http://127.0.0.1:{http}"
    with closed_port() as closed, running_dcmqrscp(root / "qrscp", (us,)) as qrscp:
        others = [
            peer_lines("pacs-get", PACS_AE, dicom, ['retrieve = "C-GET"']),
            peer_lines("pacs-wado", PACS_AE, dicom, ['retrieve = "WADO-RS"', f'web = "{url}/dicom-web"']),
            peer_lines("pacs-rest", PACS_AE, dicom, ['retrieve = "ORTHANC"', f'orthanc = "{url}"']),
            peer_lines("qrscp", QRSCP, qrscp.port, ["counts = true"]),
            peer_lines("qrscp-get", QRSCP, qrscp.port, ["counts = true", 'retrieve = "C-GET"']),
        ]
        away = peer_lines("away", "AWAY", closed, ['retrieve = "C-GET"'])
        with_model(site).configure(more="".join(others) + away + STANDING + URGENT_RULES)
        made = orthanc_for(root / "orthanc", site.dicom_port, ports=(http, dicom))
        with running(made) as orthanc, started(site):
            yield Hospital(site, orthanc, qrscp, root)
            site.fit()


def one_line(said: Said, code: str) -> bool:
    """Exit status 1, nothing on standard output, and one line that begins with this code."""
    return said.status == 1 and said.out == "" and len(said.lines) == 1 and said.err.startswith(f"error {code}: ")


# ---- pull -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("peer", ["pacs", "pacs-get", "pacs-wado", "pacs-rest", "qrscp", "qrscp-get"])
def test_a_study_is_pulled_and_read(hospital: Hospital, peer: str) -> None:
    """All of it is stored, the command ends with 0 and says so, and the result is in the PACS."""
    study, files = hospital.study(f"pulled from {peer}")
    hospital.fill(peer, files)

    said = zhiying(hospital.site, "pull", "--study", study, "--from", peer, "--json")

    assert said.status == 0, said
    assert said.value | {"state": "DONE", "expected": SLICES, "stored": SLICES, "code": None} == said.value
    assert (said.value["study"], said.value["from"], said.value["failed"]) == (study, peer, {})
    assert len(hospital.site.held(study)) == SLICES
    released = hospital.site.released(study)
    assert released.body["proof"] == "FOUND"
    outputs = hospital.site.of_call(released.call, "CALL_RESULT").body["outputs"]
    assert {one["uid"] for one in outputs} <= set(hospital.orthanc.instances(study))


def test_a_pulled_study_that_fits_no_model_is_refused_with_its_code(hospital: Hospital) -> None:
    """The pull has succeeded, for people in a table; what became of the study is another question, with an answer."""
    study, files = hospital.study("a CT", modality="CT", count=10)
    hospital.fill("pacs-get", files)

    said = zhiying(hospital.site, "pull", "--study", study, "--from", "pacs-get")

    assert said.status == 0, said
    assert "DONE" in said.out
    run = hospital.site.run_in("REFUSED", study=study)
    assert (run.code, run.condition) == ("NO_RULE_MATCHES", "MODALITY")


def test_what_is_held_is_not_fetched_again(hospital: Hospital) -> None:
    """A second pull brings our own SR and SEG, as all that is new there, and makes no second run."""
    study, files = hospital.study("twice")
    hospital.fill("pacs-get", files)
    for expected in (SLICES, SLICES + 2, SLICES + 2):
        said = zhiying(hospital.site, "pull", "--study", study, "--from", "pacs-get", "--json")
        assert (said.status, said.value["expected"], said.value["stored"]) == (0, expected, expected)
        hospital.site.released(study)
        hospital.site.settle()
    assert len([run for run in hospital.site.runs() if run.study_uid == study]) == 1


@pytest.mark.parametrize("peer", ["pacs", "pacs-get", "pacs-wado", "pacs-rest", "qrscp", "qrscp-get"])
def test_an_unknown_study_is_told(hospital: Hospital, peer: str) -> None:
    """No archive has it: exit status 1 and the code."""
    study = uids.derive("TEST", "no such study", peer)
    said = zhiying(hospital.site, "pull", "--study", study, "--from", peer, "--json")
    assert (said.status, said.value["state"], said.value["code"]) == (1, "FAILED", "PULL_NOT_FOUND")


def test_what_cannot_be_ordered_is_one_line(hospital: Hospital, tmp_path: Path) -> None:
    """An unknown peer, a study that is none, and a service that does not run."""
    site, study = hospital.site, uids.derive("TEST", "any", "study")
    assert one_line(zhiying(site, "pull", "--study", study, "--from", "nobody"), "PEER_UNKNOWN")
    assert one_line(zhiying(site, "pull", "--study", "1.2.*", "--from", "pacs", "--json"), "STUDY_UID_INVALID")
    elsewhere = tmp_path / "elsewhere.toml"
    elsewhere.write_text(f"[http]\nport = {free_port()}\n", encoding="utf-8")
    stopped = zhiying(site, "pull", "--study", study, "--from", "pacs", config=elsewhere)
    assert one_line(stopped, "SERVICE_NOT_RUNNING")


def test_a_peer_that_is_away_is_told(hospital: Hospital) -> None:
    """Nobody listens there: the command ends with 1 and the reason."""
    said = zhiying(hospital.site, "pull", "--study", uids.derive("TEST", "x"), "--from", "away", "--json")
    assert (said.status, said.value["state"], said.value["code"]) == (1, "FAILED", "PEER_UNREACHABLE")
    assert said.value["stored"] == 0


@pytest.mark.parametrize("peer", ["pacs", "qrscp-get"])
def test_a_standing_query_fetches_what_is_never_pushed(hospital: Hospital, peer: str) -> None:
    """A study of today appears in the archive, is found, fetched once, read, and its own results are not fetched."""
    study, files = hospital.study(f"found at {peer}", at=datetime.now().astimezone() - timedelta(minutes=5))
    hospital.fill(peer, files)

    until(lambda: len(hospital.site.held(study)) == SLICES, what="the standing query fetches the study")

    assert hospital.site.released(study).body["proof"] == "FOUND"
    mine = [job for job in hospital.site.fetch("/pulls") if job["study"] == study]
    assert [(job["from"], job["standing"], job["state"]) for job in mine] == [(peer, True, "DONE")]
    assert len(hospital.site.held(study)) == SLICES


# ---- doctor ---------------------------------------------------------------------------------------------------------


def test_doctor_calls_every_peer(hospital: Hospital) -> None:
    """Each archive answers C-ECHO; the one that is away is the only fault, and makes the exit status 1."""
    said = zhiying(hospital.site, "doctor", "--json")
    found = {one["check"]: one["result"] for one in said.value}

    assert said.status == 1
    assert [check for check, result in found.items() if result == "FAIL"] == ["peer away"]
    answering: Sequence[str] = ("pacs", "pacs-get", "pacs-wado", "pacs-rest", "qrscp", "qrscp-get")
    assert {found[f"peer {name}"] for name in answering} == {"ok"}
    assert found["audit log"] == found["approval TEST-0001"] == "ok"


# ---- a site with a PACS that can be told what to answer: urgent, outbox, spool --------------------------------------


@dataclass(frozen=True)
class Desk:
    """A site that runs, and its PACS."""

    site: RealSite
    pacs: FakePacs
    root: Path

    def send(self, name: str, sender: str = "SCANNER") -> tuple[str, list[Path]]:
        """dcmsend brings a new study."""
        files = write_series(self.root / "studies" / name.replace(" ", "-"), seed=name)
        assert dcmtk.caller("dcmsend", self.site.dicom_port, calling=sender, files=files)
        return uids.derive("TEST", name, "study"), files


@pytest.fixture(scope="module")
def desk(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Desk]:
    """What the PACS answers to C-STORE is a test's matter, and all that it can."""
    root = tmp_path_factory.mktemp("desk")
    with FakePacs() as pacs:
        site = RealSite(root / "site", Address(pacs.ae_title, pacs.port), more=URGENT_RULES)
        with started(with_model(site)):
            yield Desk(site, pacs, root)
            site.fit()
            assert pacs.complaints == []


def test_an_urgent_rule_marks_the_run(desk: Desk) -> None:
    """What the emergency room's scanner sends goes before the others; the same series from elsewhere does not."""
    urgent = {}
    for sender in ("ERSCANNER", "WARDSCANNER"):
        study, _ = desk.send(f"sent by {sender}", sender)
        desk.site.released(study)
        urgent[sender] = desk.site.run_in("RELEASED", study=study).urgent
    assert urgent == {"ERSCANNER": True, "WARDSCANNER": False}


def test_a_result_that_the_pacs_refuses_is_seen_and_sent_again(desk: Desk) -> None:
    """0xC000 makes a dead letter with its code; resend brings it there once the PACS has been mended."""
    desk.pacs.answer(0xC000, 0xC000)
    study, _ = desk.send("refused by the PACS")
    run = desk.site.run_in("UNDELIVERED", study=study)
    call = str(run.call)
    assert run.code == "STATUS_C000"

    (letter,) = zhiying(desk.site, "outbox", "list", "--dead", "--json").value
    assert (letter["batch"], letter["peer"], letter["state"], letter["code"]) == (call, "pacs", "DEAD", "STATUS_C000")
    assert "0xC000" in {one["status"] for one in letter["outputs"]}
    text = zhiying(desk.site, "outbox", "list")
    assert (text.status, "STATUS_C000" in "".join(text.lines)) == (0, True)
    assert one_line(zhiying(desk.site, "outbox", "resend", "no-such-batch"), "NOT_FOUND")
    held = set(desk.pacs.stored)

    again = zhiying(desk.site, "outbox", "resend", call, "--json")

    assert (again.status, again.value) == (0, {"batch": call, "peer": "pacs", "state": "PENDING"})
    assert desk.site.run_in("RELEASED", study=study).call == call
    assert desk.site.of_call(call, "RELEASED").body["proof"] == "ANSWERED"
    outputs = desk.site.of_call(call, "CALL_RESULT").body["outputs"]
    assert set(desk.pacs.stored) - held == {one["uid"] for one in outputs}
    assert zhiying(desk.site, "outbox", "list", "--json").value == []
    assert "outbox: none" in zhiying(desk.site, "outbox", "list", "--dead").out
    assert one_line(zhiying(desk.site, "outbox", "resend", call), "BATCH_NOT_DEAD")


def test_the_spool_is_accounted_for(desk: Desk, tmp_path: Path) -> None:
    """Beside the running service: every acknowledged image has a fate; one that nobody knows is named."""
    study, _ = desk.send("accounted for")
    desk.site.released(study)
    sent, lost = tmp_path / "sent.txt", uids.derive("TEST", "acknowledged and gone")
    sent.write_text("\n".join(sorted(desk.site.held(study))), encoding="utf-8")

    whole = zhiying(desk.site, "spool", "reconcile", "--json", "--deep", "--acknowledged", sent)

    assert (whole.status, whole.value["ok"], whole.value["findings"]) == (0, True, []), whole
    assert whole.value["fates"]["ENDED"] % SLICES == 0
    assert "ENDED" in zhiying(desk.site, "spool", "reconcile").out
    sent.write_text(f"{lost}\n", encoding="utf-8")
    short = zhiying(desk.site, "spool", "reconcile", "--json", "--acknowledged", sent)
    assert (short.status, short.value["ok"]) == (1, False)
    assert short.value["findings"] == [{"problem": "UNACCOUNTED", "study_uid": None, "sop_uid": lost}]


def test_a_file_that_is_gone_or_changed_is_found(desk: Desk, tmp_path: Path) -> None:
    """What somebody does to the spool behind our back is seen by the next reconciliation, and named."""
    study, _ = desk.send("tampered with")
    desk.site.released(study)
    first, second = sorted((desk.site.data / "spool" / "studies" / study).glob("*.dcm"))[:2]
    kept = {path: path.read_bytes() for path in (first, second)}
    try:
        first.rename(tmp_path / "taken.dcm")
        second.chmod(0o644)
        second.write_bytes(kept[second][:-1] + bytes([kept[second][-1] ^ 1]))
        said = zhiying(desk.site, "spool", "reconcile", "--json", "--deep")
    finally:
        for path, data in kept.items():
            path.write_bytes(data)
    found = {(one["sop_uid"], one["problem"]) for one in said.value["findings"]}
    assert (said.status, found) == (1, {(first.stem, "FILE_MISSING"), (second.stem, "FILE_CHANGED")})
    assert zhiying(desk.site, "spool", "reconcile", "--deep").status == 0


# ---- the output profile: what the PACS can show, and what it takes --------------------------------------------------


def test_a_pacs_without_key_images_gets_a_planar_report_and_its_run_is_released(tmp_path: Path) -> None:
    """The start warns, the doctor fails with the code, and the result is delivered: SEG and SR, and no picture."""
    with FakePacs() as pacs:
        more: dict[str, str] = {"pacs_more": 'report_groups = "PLANAR"', "results_more": "key_images = true"}
        site = RealSite(tmp_path / "site", Address(pacs.ae_title, pacs.port), **more)
        with started(with_model(site)):
            until(lambda: "peer_does_not_accept" in site.log, 60, "the start's look at the PACS")
            files = write_series(tmp_path / "study", seed="shown in an old viewer")
            assert dcmtk.caller("dcmsend", site.dicom_port, calling="SCANNER", files=files)
            study = uids.derive("TEST", "shown in an old viewer", "study")
            released = site.released(study)
            run = site.run_in("RELEASED", study=study)
            said = zhiying(site, "doctor", "--peer", "pacs", "--json")
            site.fit()
        made = {one["kind"]: one["uid"] for one in site.of_call(run.call, "CALL_RESULT").body["outputs"]}
        assert set(made) == {"SEG", "SR", "SC"}
        assert set(pacs.stored) == {made["SEG"], made["SR"]} == {one["uid"] for one in released.body["outputs"]}
        assert (run.code, run.stage) == ("KEY_IMAGE_REFUSED", "RELEASED")
        report = pydicom.dcmread(io.BytesIO(pacs.stored[made["SR"]]), force=True)
        (measured,) = (i for i in report.ContentSequence if i.ConceptNameCodeSequence[0].CodeValue == "126010")
        assert measured.ContentSequence[0].ContentTemplateSequence[0].TemplateIdentifier == "1410"
        found = {one["check"]: one for one in said.value}
        assert (said.status, found["peer pacs SC"]["result"], found["peer pacs SR"]["result"]) == (1, "FAIL", "ok")
        assert found["peer pacs SC"]["what"].startswith("PEER_NO_CONTEXT")
        assert pacs.complaints == []
    lines = [json.loads(line) for line in site.log.splitlines() if line.startswith("{")]
    told = {
        (one["event"], one.get("kind"), one["code"]) for one in lines if one["event"].startswith(("peer_", "deliv"))
    }
    assert ("peer_does_not_accept", "SC", "PEER_NO_CONTEXT") in told
    assert ("delivered_without_key_images", None, "KEY_IMAGE_REFUSED") in told
