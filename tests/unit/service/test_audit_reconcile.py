"""zhiying audit reconcile: a call past the log is found in the PACS, a lost release is missed, honest is empty."""

import hashlib
import io
import json
import shutil
import uuid
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pydicom import dcmread
from typer.testing import CliRunner, Result

from audit.entry import Draft, Entry, Kind
from audit.layout import STAGING
from audit.note import Signer
from audit.succession import Reason
from audit.verifier import Policy, verify
from dicom_bridge import key_images, uids
from dicom_bridge.key_kinds import KeyImage
from dicom_bridge.keyimage import KIND, uid_parts, write_key_images
from dicom_bridge.peers import Peer
from dicom_bridge.receipt import CREATOR, GROUP, Receipt
from dicom_bridge.report import write_denial, write_sr
from ethics_review.errors import Refused
from ethics_review.facts import fact_of
from ethics_review.gate import decide
from models.ref import ModelRef
from service import succeeding, wire
from service.audit_reconcile import Problem
from service.cli import app
from service.config import load
from service.demo.servers import free_port
from service.errors import CommandRefused
from service.holding import of_list
from service.monitoring import Monitoring
from tests.simulators import findings as phantom
from tests.simulators.audit_log import DIGEST, body
from tests.simulators.audit_log import MODEL as MODEL_BODY
from tests.simulators.parties import Case, Parties
from tests.simulators.query_pacs import QueryPacs, serving
from tests.simulators.real_orthanc import orthanc_for, running
from tests.simulators.reviewer import fields, request
from tests.simulators.watched import FakeWatched
from tests.simulators.written import write_seg

SHAPE = (6, 12, 16)
PERIOD = ("--from", "2026-11-01")
IMAGE = str(phantom.series(SHAPE)[0].SOPInstanceUID)


def call_of(number: int) -> str:
    """The name of a call."""
    return hashlib.sha256(str(number).encode()).hexdigest()[:32]


def objects(call: str, receipt: Receipt | None) -> dict[str, bytes]:
    """SEG and SR of one call, as the service writes them."""
    sources, manifest, found = phantom.series(SHAPE), phantom.manifest(), phantom.findings(phantom.ellipsoid(SHAPE))
    context = phantom.context("zh-CN", call=call, receipt=receipt)
    seg = write_seg(found, manifest, phantom.REF, sources, context)
    return {"SEG": seg, "SR": write_sr(found, manifest, phantom.REF, sources, dcmread(io.BytesIO(seg)), context)}


class Hospital:
    """A site with a log, and a PACS to which `call` sends."""

    def __init__(self, folder: Path, pacs: QueryPacs, peer: Peer) -> None:
        self.folder, self.pacs = folder, pacs
        self.config = folder / "zhiying.toml"
        self.config.write_text(
            f'[site]\nid = "test-site"\n[data]\nfolder = "{folder / "data"}"\n[results]\nto = "pacs"\n'
            f'[[peers]]\nname = "pacs"\nae_title = "{peer.ae_title}"\nhost = "{peer.host}"\nport = {peer.port}\n',
            encoding="utf-8",
        )
        pacs.instances += phantom.series(SHAPE)

    def call(
        self, number: int, *, logged: bool = True, result: bool = True, released: bool = True, state: str = "LIVE"
    ) -> dict[str, bytes]:
        """One call whose objects reach the PACS; what is not `logged` was made past the log."""
        call = call_of(number)
        with wire.offline(self.config) as site:
            receipt = None
            if logged:
                said = {**body(Kind.CALL_INTENT), "checks": [], "state": state}
                intent = site.log.append(Draft(Kind.CALL_INTENT, f"intent:{number}", said, call))
                receipt = Receipt(intent.index, site.log.receipt(intent.index).note)
            made = objects(call, receipt)
            outputs = [
                {"kind": kind, "uid": uids.derive(kind, call), "digest": f"sha256:{hashlib.sha256(data).hexdigest()}"}
                for kind, data in made.items()
            ]
            if logged and result:
                said = {**body(Kind.CALL_RESULT), "outputs": outputs}
                site.log.append(Draft(Kind.CALL_RESULT, f"result:{number}", said, call))
            if logged and released:
                held: list[Any] = [{"uid": one["uid"], "digest": one["digest"]} for one in outputs]
                said = {**body(Kind.RELEASED), "outputs": held, "peer": "pacs"}
                site.log.append(Draft(Kind.RELEASED, f"released:{number}", said, call))
        self.pacs.instances += [dcmread(io.BytesIO(data)) for data in made.values()]
        return made

    def lose(self, kind: str, number: int) -> str:
        """The PACS deletes one object."""
        uid = uids.derive(kind, call_of(number))
        self.pacs.instances = [one for one in self.pacs.instances if one.SOPInstanceUID != uid]
        return uid

    def run(self, *words: str | Path) -> Result:
        """One command."""
        return CliRunner().invoke(
            app, ["audit", *map(str, words), "--config", str(self.config)], env={"COLUMNS": "240"}
        )

    def reconcile(self, *words: str | Path) -> tuple[int, set[tuple[str, str]], dict[str, Any]]:
        """Exit status, findings as (problem, UID), and all that was said."""
        done = self.run("reconcile", *words, "--json")
        assert done.stdout, done.output
        said = json.loads(done.stdout)
        return done.exit_code, {(one["problem"], one["uid"]) for one in said["findings"]}, said

    def listed(self, *more: str) -> Path:
        """The administrator's list of all our objects in the PACS."""
        path = self.folder / "list.txt"
        held = [str(one.SOPInstanceUID) for one in self.pacs.instances if one.Modality in ("SR", "SEG")]
        path.write_text("\n".join([*held, *more]), encoding="utf-8")
        return path


@contextmanager
def hospital_in(folder: Path) -> Iterator[Hospital]:
    """With a simulated PACS."""
    pacs = QueryPacs()
    with serving(pacs) as peer:
        yield Hospital(folder, pacs, peer)


@pytest.fixture
def hospital(tmp_path: Path) -> Iterator[Hospital]:
    """A hospital with two honest calls."""
    with hospital_in(tmp_path) as made:
        made.call(1)
        made.call(2)
        yield made


def test_an_honest_hospital_has_no_findings(hospital: Hospital) -> None:
    """Asked or listed: all four objects agree, the images are none of ours, exit status 0."""
    for words in (PERIOD, ("--list", hospital.listed())):
        status, found, said = hospital.reconcile(*words)

        assert (status, found) == (0, set())
        assert (said["agreed"], said["pending"], said["others"], len(said["held"])) == (4, 0, 0, 4)


@pytest.mark.parametrize("how", ["peer", "list"])
def test_attack_7_a_call_past_the_log_is_reported(hospital: Hospital, how: str) -> None:
    """Both its objects are in the PACS, no CALL_RESULT names them: UNLOGGED, exit status 1."""
    hospital.call(666, logged=False)

    status, found, said = hospital.reconcile(*(PERIOD if how == "peer" else ("--list", hospital.listed())))

    assert status == 1
    assert found == {("UNLOGGED", uids.derive(kind, call_of(666))) for kind in ("SEG", "SR")}
    assert said["ok"] is False


def test_attack_7_whatever_else_the_objects_say(hospital: Hospital) -> None:
    """Another maker, description and series number in an unlogged report hide nothing."""
    hospital.call(666, logged=False)
    for one in hospital.pacs.instances[-2:]:
        one.Manufacturer, one.SeriesDescription, one.SeriesNumber = "Somebody Else", "Reformatted", 1
        one.StudyDate = "20200101"  # in whose window nobody looks: the study is one of ours all the same

    assert {problem for problem, _ in hospital.reconcile(*PERIOD)[1]} == {"UNLOGGED"}


def test_another_system_s_report_is_counted_and_no_finding(hospital: Hospital) -> None:
    """A segmentation under a foreign UID is no one's fault; in a list that is said to be ours it is."""
    other = dcmread(io.BytesIO(hospital.call(3)["SEG"]))
    other.SOPInstanceUID = "1.2.276.0.7230010.3.1.4.8323329.1"
    other.SeriesInstanceUID = "1.2.276.0.7230010.3.1.3.8323329.1"
    hospital.pacs.instances.append(other)

    status, found, said = hospital.reconcile(*PERIOD)
    assert (status, found, said["others"]) == (0, set(), 1)
    status, found, said = hospital.reconcile("--list", hospital.listed())
    assert (status, found, said["others"]) == (1, set(), 1)
    assert str(other.SOPInstanceUID) not in json.dumps(said)


@pytest.mark.parametrize("kind", ["SEG", "SR"])
def test_a_release_that_the_pacs_lost_is_reported(hospital: Hospital, kind: str) -> None:
    """The log says that it was released, the PACS does not have it: MISSING, with the entry that says so."""
    uid = hospital.lose(kind, 2)

    for words in (PERIOD, ("--list", hospital.listed())):
        status, found, said = hospital.reconcile(*words)
        assert (status, found) == (1, {("MISSING", uid)})
        assert said["findings"][0]["index"] == 6


def test_a_release_that_the_log_lost_is_reported(hospital: Hospital) -> None:
    """In the PACS with a result but without a release: pending at first, UNRELEASED after the grace."""
    hospital.call(3, released=False)

    assert hospital.reconcile(*PERIOD)[:2] == (0, set())
    assert hospital.reconcile(*PERIOD)[2]["pending"] == 2
    status, found, _ = hospital.reconcile(*PERIOD, "--grace-h", "0")
    assert (status, {problem for problem, _ in found}) == (1, {"UNRELEASED"})


def test_a_result_that_never_left_is_reported_until_somebody_gave_up(hospital: Hospital) -> None:
    """Neither here nor there after the grace: STUCK; a FAILED entry after it explains it, one before does not."""
    with wire.offline(hospital.config) as site:
        site.log.append(Draft(Kind.FAILED, "failed:early", body(Kind.FAILED), call_of(3)))
    hospital.call(3, released=False)
    hospital.lose("SEG", 3)
    hospital.lose("SR", 3)

    assert hospital.reconcile(*PERIOD)[:2] == (0, set())
    assert {problem for problem, _ in hospital.reconcile(*PERIOD, "--grace-h", "0")[1]} == {"STUCK"}
    with wire.offline(hospital.config) as site:
        site.log.append(Draft(Kind.FAILED, "failed:late", body(Kind.FAILED), call_of(3)))
    assert hospital.reconcile(*PERIOD, "--grace-h", "0")[:2] == (0, set())


def test_only_the_period_s_releases_are_asked_for(hospital: Hospital) -> None:
    """What was released on other days need not be in the list of these."""
    (hospital.folder / "none.txt").write_text("", encoding="utf-8")

    empty = ("--list", hospital.folder / "none.txt")
    assert len(hospital.reconcile(*empty)[1]) == 4
    assert hospital.reconcile(*empty, "--to", "2026-01-01")[:2] == (0, set())
    assert hospital.reconcile(*empty, "--from", "2100-01-01")[:2] == (0, set())


# ---- receipts --------------------------------------------------------------------------------------------------------


def folder_of(hospital: Hospital, *files: bytes) -> Path:
    """Objects as somebody took them out of the PACS."""
    folder = hospital.folder / "objects"
    folder.mkdir()
    for number, data in enumerate(files):
        (folder / f"{number}.dcm").write_bytes(data)
    return folder


def edited(data: bytes, element: int, value: object) -> bytes:
    """The object with another receipt."""
    ds, buffer = dcmread(io.BytesIO(data)), io.BytesIO()
    ds.private_block(GROUP, CREATOR)[element].value = value
    ds.save_as(buffer)
    return buffer.getvalue()


def test_receipts_of_honest_objects_are_the_log_s(hospital: Hospital) -> None:
    """Each object's receipt leads to the CALL_INTENT of the very call that its UID is made of."""
    made = hospital.call(3)

    status, found, said = hospital.reconcile("--objects", folder_of(hospital, *made.values()), "--to", "2026-01-01")

    assert (status, found, said["receipts_checked"], said["agreed"]) == (0, set(), 2, 2)


def test_false_receipts_are_told_apart(hospital: Hospital) -> None:
    """None at all, one that no log signed, one of another call: each has its own name."""
    honest, other = hospital.call(3)["SR"], hospital.call(4)["SR"]
    block = dcmread(io.BytesIO(other)).private_block(GROUP, CREATOR)
    index, note = block[1].value, block[2].value
    borrowed = edited(edited(honest, 1, index), 2, note)
    forged = edited(honest, 2, note)
    bare = objects(call_of(3), None)["SR"]
    answers = []
    for data in (bare, forged, borrowed):
        folder = folder_of(hospital, data)
        answers.append({problem for problem, _ in hospital.reconcile("--objects", folder, "--to", "2026-01-01")[1]})
        (folder / "0.dcm").unlink()
        folder.rmdir()

    assert answers == [{"RECEIPT_MISSING"}, {"RECEIPT_INVALID"}, {"RECEIPT_OF_ANOTHER_CALL"}]


def test_a_log_that_was_written_anew_does_not_fit_the_receipts(hospital: Hospital, tmp_path: Path) -> None:
    """With the same key, the same calls and another beginning: the copy in the PACS is of the history that was."""
    made = hospital.call(3)["SR"]
    with wire.offline(hospital.config) as site:
        entries = [entry.draft for entry in site.log.entries()][1:]
    wire.audit_root(load(hospital.config)).rename(tmp_path / "true history")
    (tmp_path / "data" / "audit").mkdir()
    with wire.offline(hospital.config) as site:
        for draft in entries:
            site.log.append(draft)

    _, found, _ = hospital.reconcile("--objects", folder_of(hospital, made), "--to", "2026-01-01")

    assert {problem for problem, _ in found} == {"RECEIPT_INVALID"}


# ---- lists -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "text",
    [
        "2.25.1\n2.25.2\n",
        "2.25.1\r\n\r\n2.25.2",
        "\ufeff2.25.1\n 2.25.2 \n2.25.1\n",
        "SOPInstanceUID\n2.25.1\n2.25.2\n",
        'study,"SOP Instance UID",aet\n1.2,2.25.1,A\n1.3,"2.25.2",B\n',
        '"(0008,0018)"\n2.25.1\n2.25.2\n',
    ],
    ids=["lines", "crlf", "bom", "header", "csv", "tag"],
)
def test_lists_that_are_understood(tmp_path: Path, text: str) -> None:
    """One UID a line, or a table whose heading says which column."""
    (tmp_path / "list").write_text(text, encoding="utf-8", newline="")

    assert of_list(tmp_path / "list").uids == {"2.25.1", "2.25.2"}


@pytest.mark.parametrize(
    "data", [b"2.25.1\nZHANG^SAN\n", b"a,b\n1,2\n", b"\xff\xfe2", b"2.25.01\n", b"2.25.1 2.25.2\n"]
)
def test_lists_that_are_refused(tmp_path: Path, data: bytes) -> None:
    """A list that is read in part would hide what stands in the rest; the line is named, never quoted."""
    (tmp_path / "list").write_bytes(data)

    with pytest.raises(CommandRefused) as refused:
        of_list(tmp_path / "list")
    assert "ZHANG" not in str(refused.value)


@pytest.mark.parametrize(
    "words", [("--list", "x", "--peer", "pacs"), ("--peer", "nobody"), ("--list", "nowhere.txt")], ids=str
)
def test_what_cannot_be_asked(hospital: Hospital, words: tuple[str, ...]) -> None:
    """One line and exit status 1."""
    done = hospital.run("reconcile", *words)

    assert done.exit_code == 1
    assert done.stderr.startswith("error ")
    assert done.stderr.count("\n") == 1


# ---- the package -----------------------------------------------------------------------------------------------------


def test_the_reconciliation_goes_with_the_package(hospital: Hospital) -> None:
    """What was compared, with which checkpoint, stands in the package, which still verifies; another file does not."""
    out, package = hospital.folder / "pacs.json", hospital.folder / "package.zip"
    hospital.call(666, logged=False)
    assert hospital.run("reconcile", *PERIOD, "--out", out).exit_code == 1
    about = ("--recipient", "TEST Reviewer", "--purpose", "YEARLY_REVIEW", "--contract", "TEST-2026-1")
    asked = ("export", "--out", package, *about, "--reconciliation")

    assert hospital.run(*asked, out).exit_code == 0
    with zipfile.ZipFile(package) as members:
        said = json.loads(members.read("reconciliation/pacs.json"))
    assert {one["problem"] for one in said["findings"]} == {"UNLOGGED"}
    assert said["checkpoint"].startswith("test-site.zhiying/audit\n")
    key = hospital.folder / "keys.txt"
    key.write_text(f"log {wire.log_vkey(load(hospital.config))}\n", encoding="utf-8")
    with package.open("rb") as file:
        report = verify(file, Policy(key))
    # The invented intents rest on no approval: that, and nothing of the file's form, is what the verifier finds.
    assert [one for one in report.remarks if one.verdict == "FAIL" and one.index is None] == []
    assert not [one for one in report.remarks if "reconciliation" in one.where]

    package.unlink()
    for wrong in ('{"PatientName": "x"}', "[", json.dumps({**said, "held": [IMAGE.replace("2.25", "1.2")]})):
        out.write_text(wrong, encoding="utf-8")
        refused = hospital.run(*asked, out)
        assert (refused.exit_code, package.exists()) == (1, False)
        assert "COMMAND_REFUSED" in refused.stderr


def test_the_report_of_a_refusal_is_of_the_log(hospital: Hospital, tmp_path: Path) -> None:
    """It may be there or not; its receipt leads to the refusal. One of which the log has no refusal is found."""
    with wire.offline(hospital.config) as site:
        entry = site.log.append(Draft(Kind.DENIED, "denied:run-1", body(Kind.DENIED), call_of(5)))
        receipt = Receipt(entry.index, site.log.receipt(entry.index).note)
    assert hospital.reconcile()[:2] == (0, set())

    made = {}
    for name, key, given in (("good", "denied:run-1", receipt), ("unknown", "denied:run-2", receipt)):
        context = phantom.context("zh-CN", call=key, receipt=given)
        made[name] = write_denial("SUSPENDED", phantom.manifest(), phantom.REF, phantom.series(SHAPE), context)
        hospital.pacs.instances.append(dcmread(io.BytesIO(made[name])))
        (tmp_path / name).mkdir()
        (tmp_path / name / "sr.dcm").write_bytes(made[name])
    unknown = uids.derive("SR", "denied:run-2")
    assert hospital.reconcile()[:2] == (1, {("UNLOGGED", unknown)})
    assert hospital.reconcile("--objects", tmp_path / "good")[2]["receipts_checked"] == 1
    assert ("RECEIPT_OF_ANOTHER_CALL", unknown) in hospital.reconcile("--objects", tmp_path / "unknown")[1]


# ---- what the log keeps of it, and what follows ----------------------------------------------------------------------


def kept(hospital: Hospital) -> list[Entry]:
    """The log's RECONCILED entries."""
    with wire.offline(hospital.config) as site:
        return [entry for entry in site.log.entries() if entry.kind is Kind.RECONCILED]


def test_an_honest_comparison_is_in_the_log(hospital: Hospital) -> None:
    """What was asked, of which log, how much agreed, and the digest of the very file that may go with a package."""
    out = hospital.folder / "pacs.json"
    said = hospital.reconcile(*PERIOD, "--out", out)[2]
    (entry,) = kept(hospital)

    assert entry.index == said["entry"] == said["size"]
    none = dict.fromkeys(Problem, 0)
    assert dict(entry.body) == {
        "report": f"sha256:{hashlib.sha256(out.read_bytes()).hexdigest()}",
        "source": "PEER",
        "peer": "pacs",
        "size": said["size"],
        "from": "2026-11-01T00:00:00.000000Z",
        "to": None,
        "held": 4,
        "others": 0,
        "agreed": 4,
        "pending": 0,
        "receipts": 0,
        "found": none,
        "unlogged": (),
    }
    hospital.reconcile("--list", hospital.listed(), "--to", "2100-01-01")
    listed = kept(hospital)[1].body
    assert (listed["source"], listed["peer"], listed["from"], listed["to"]) == (
        *("LIST", None, None),
        "2100-01-01T00:00:00.000000Z",
    )


def test_what_was_found_is_in_the_log_by_number(hospital: Hospital) -> None:
    """Each problem's count; of what the log does not know the UID, and the model where the call's intent is there."""
    hospital.call(3, result=False, released=False)
    hospital.call(4, released=False)
    hospital.call(666, logged=False)
    hospital.lose("SR", 2)
    begun, past = (sorted(uids.derive(kind, call_of(number)) for kind in ("SEG", "SR")) for number in (3, 666))

    status, _, said = hospital.reconcile(*PERIOD, "--grace-h", "0")
    (entry,) = kept(hospital)

    assert status == 1
    assert dict(entry.body["found"]) == dict.fromkeys(Problem, 0) | {"UNLOGGED": 4, "UNRELEASED": 2, "MISSING": 1}  # type: ignore[call-overload]
    mine = MODEL_BODY["digest"]
    models: dict[str, Any] = dict.fromkeys(begun, mine) | dict.fromkeys(past)
    unlogged = entry.body["unlogged"]
    assert isinstance(unlogged, tuple)
    assert [dict(one) for one in unlogged] == [{"uid": uid, "model": models[uid]} for uid in sorted(models)]  # type: ignore[call-overload]
    assert {one["uid"]: one["model"] for one in said["findings"] if one["problem"] == "UNLOGGED"} == models
    assert {one["model"] for one in said["findings"] if one["problem"] != "UNLOGGED"} == {None}


def test_another_system_s_reports_suspend_nobody(hospital: Hospital) -> None:
    """Under 2.25, with digits at random, as viewers save them: a finding, and no result past the log of ours."""
    for place, uid in enumerate(("2.25.17", f"2.25.{uuid.uuid4().int}", "1.2.276.0.7230010.3.1.4.8323329.1")):
        other = dcmread(io.BytesIO(hospital.call(3 + place)["SR"]))
        other.SOPInstanceUID = uid
        hospital.pacs.instances.append(other)

    status, found, _ = hospital.reconcile(*PERIOD)
    (entry,) = kept(hospital)

    assert (status, {problem for problem, _ in found}) == (1, {"UNKNOWN"})
    assert (entry.body["unlogged"], entry.body["others"]) == ((), 1)
    assert fact_of(entry).beyond == 0


def test_more_than_an_entry_can_name(hospital: Hospital) -> None:
    """The first 256; the number of all is there, and the monitor knows how many it does not see."""
    uid_of = [uids.derive("SR", call_of(number)) for number in range(1000, 1300)]
    hospital.reconcile("--list", hospital.listed(*uid_of))
    (entry,) = kept(hospital)

    fact = fact_of(entry)
    assert [uid for uid, _ in fact.unlogged] == sorted(uid_of)[:256]
    assert (dict(entry.body["found"])["UNLOGGED"], fact.beyond) == (300, 44)  # type: ignore[call-overload]


def test_a_log_that_takes_nothing_gives_no_answer(hospital: Hospital) -> None:
    """What is not in the log would be found by nobody else: an error, exit status 1, and no file."""
    staging = wire.audit_root(load(hospital.config)) / STAGING
    shutil.rmtree(staging)
    staging.write_bytes(b"")  # no folder can be made here

    out = hospital.folder / "pacs.json"
    done = hospital.run("reconcile", *PERIOD, "--out", out)
    assert (done.exit_code, out.exists()) == (1, False)
    assert done.stderr.startswith("error AUDIT_")


MINE, OTHER = ModelRef(**MODEL_BODY), ModelRef("other", "1.0", "sha256:" + "0d" * 32)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("begun", "out"), [(True, {MINE}), (False, {MINE, OTHER})], ids=["its intent is there", "past the log"]
)
def test_a_result_past_the_log_stops_the_next_study(hospital: Hospital, *, begun: bool, out: set[ModelRef]) -> None:
    """Planted in the PACS, found by the command, suspended by the monitor: the gate refuses; until then it permits."""
    parties = Parties()
    (hospital.folder / "trust.policy").write_text(parties.policy(), encoding="utf-8")
    with hospital.config.open("a", encoding="utf-8") as file:
        file.write(f'[review]\ntrust = "{hospital.folder / "trust.policy"}"\n')
    with wire.offline(hospital.config) as site:
        for number, model in enumerate((MINE, OTHER)):
            valid = {"from": "2020-01-01", "to": "2099-12-31"}
            terms = fields(model, approval=f"TEST-2026-{number:04d}", valid=valid)
            Case(parties, site.register, site.log, model).live(terms)

    def refused() -> dict[ModelRef, str]:
        """The service looks at its log; then a study comes for each model."""
        codes = {}
        with wire.offline(hospital.config) as site:
            monitor = Monitoring(site.log, site.log, site.register, hospital.folder / "monitor", FakeWatched())
            monitor()
            assert monitor.state == "ok"
            for model in (MINE, OTHER):
                now = site.now()
                try:
                    decide(request(model=model), site.register.standings(now), site.register.stops(), now)
                except Refused as answer:
                    codes[model] = answer.code
        return codes

    assert hospital.reconcile(*PERIOD)[0] == 0
    assert refused() == {}
    hospital.call(666, logged=begun, result=False, released=False)
    assert refused() == {}
    assert hospital.reconcile(*PERIOD)[0] == 1
    assert refused() == dict.fromkeys(out, "SUSPENDED")
    hospital.pacs.instances = hospital.pacs.instances[:-2]
    assert hospital.reconcile(*PERIOD)[0] == 0
    assert refused() == dict.fromkeys(out, "SUSPENDED")


@pytest.mark.parametrize("why", ["shadow", "case"])
def test_what_is_never_sent_is_not_stuck_and_must_not_be_there(hospital: Hospital, why: str) -> None:
    """Of a call in the shadow, or of a labelled set: a result past the log, at once, and its model is known."""
    hospital.call(3, released=False, state="SHADOW" if why == "shadow" else "LIVE")
    if why == "case":
        with wire.offline(hospital.config) as site:
            site.log.append(Draft(Kind.CASE, "case:3", body(Kind.CASE), call_of(3)))
    there = list(hospital.pacs.instances)
    lost = {hospital.lose(kind, 3) for kind in ("SEG", "SR")}
    status, found, said = hospital.reconcile(*PERIOD, "--grace-h", "0")
    assert (status, found, said["pending"]) == (0, set(), 0)

    hospital.pacs.instances = there
    assert hospital.reconcile(*PERIOD)[:2] == (1, {("UNLOGGED", uid) for uid in lost})
    assert set(fact_of(kept(hospital)[-1]).unlogged) == {(uid, MINE.digest) for uid in lost}


def test_a_call_that_is_begun_again_live_is_live(hospital: Hospital) -> None:
    """Its first intent was in the shadow and had no result; what has run in the shadow stays there."""
    for number, result in ((3, False), (4, True)):
        hospital.call(number, result=result, released=False, state="SHADOW")
        with wire.offline(hospital.config) as site:
            again = {**body(Kind.CALL_INTENT), "checks": []}
            site.log.append(Draft(Kind.CALL_INTENT, f"again:{number}", again, call_of(number)))
            if not result:
                outputs = [
                    {"kind": kind, "uid": uids.derive(kind, call_of(3)), "digest": DIGEST} for kind in ("SEG", "SR")
                ]
                said = {**body(Kind.CALL_RESULT), "outputs": outputs}
                site.log.append(Draft(Kind.CALL_RESULT, "result:3", said, call_of(3)))

    _, found, said = hospital.reconcile(*PERIOD)
    assert said["pending"] == 2
    assert found == {("UNLOGGED", uids.derive(kind, call_of(4))) for kind in ("SEG", "SR")}


def succeed(hospital: Hospital, officer: Signer) -> None:
    """The log's key is exchanged: another log follows."""

    def nobody(*_: object) -> Any:
        raise AssertionError("there is no witness")

    text = succeeding.request(load(hospital.config), Reason.KEY_ROTATION, nobody).text
    succeeding.take(load(hospital.config), officer.sign(text), nobody)


def test_what_a_log_before_this_one_knows_is_no_result_past_the_log(hospital: Hospital) -> None:
    """After two successions each log's results are known, and a refusal's report; of a damaged one nothing is."""
    officer = Signer.generate("officer.example")
    with hospital.config.open("a", encoding="utf-8") as file:
        file.write(f'[audit]\nrestore_keys = ["{officer.vkey}"]\n')
    with wire.offline(hospital.config) as site:
        site.log.append(Draft(Kind.DENIED, "denied:run-1", body(Kind.DENIED), call_of(9)))
    refusal = uids.derive("SR", "denied:run-1")
    succeed(hospital, officer)
    hospital.call(3)
    succeed(hospital, officer)
    hospital.call(4)

    status, found, said = hospital.reconcile("--list", hospital.listed(refusal))
    assert (status, found, said["agreed"]) == (0, set(), 9)
    hospital.call(666, logged=False)
    planted = {("UNLOGGED", uids.derive(kind, call_of(666))) for kind in ("SEG", "SR")}
    assert hospital.reconcile("--list", hospital.listed(refusal))[:2] == (1, planted)

    first = hospital.folder / "data" / "audit.frozen" / "1" / "tile" / "entries"
    for bundle in [path for path in first.rglob("*") if path.is_file()]:  # as long as the log was at each commit
        bundle.chmod(0o640)
        bundle.write_bytes(bundle.read_bytes()[:-1])
    done = hospital.run("reconcile", "--list", hospital.listed(refusal), "--json")
    lost = {one["uid"] for one in json.loads(done.stdout)["findings"]} - {uid for _, uid in planted}
    assert lost == {refusal, *(uids.derive(kind, call_of(number)) for kind in ("SEG", "SR") for number in (1, 2))}
    assert done.stderr.startswith("warning: a log before this one is not read")


def test_an_object_more_of_a_call_that_has_its_result(hospital: Hospital) -> None:
    """The log knows what that call had: nobody can tell which model this is of. Of a call without a result, one can."""
    hospital.call(3, result=False, released=False)
    more = [uids.derive(KIND, call_of(number), *uid_parts(7)) for number in (1, 3)]
    hospital.reconcile("--list", hospital.listed(*more))
    (entry,) = kept(hospital)

    models = dict(fact_of(entry).unlogged)
    assert (models[more[0]], models[more[1]]) == (None, MINE.digest)


# ---- a PACS that we did not write ------------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_with_a_real_orthanc(tmp_path: Path) -> None:
    """Orthanc's own answers: honest is empty, an unlogged call is found, a deleted report is missed."""
    http, dicom, ours = free_port(), free_port(), free_port()
    with running(orthanc_for(tmp_path / "pacs", ours, ports=(http, dicom))) as orthanc:
        peer = Peer("pacs", orthanc.ae_title, "127.0.0.1", dicom)
        hospital = Hospital(tmp_path, QueryPacs(), peer)
        made = {number: hospital.call(number, logged=number < 9) for number in (1, 2, 9)}

        def put(*numbers: int) -> None:
            files = [data for number in numbers for data in made[number].values()]
            folder = tmp_path / f"put-{numbers[0]}"
            folder.mkdir()
            for at, data in enumerate(files):
                (folder / f"{at}.dcm").write_bytes(data)
            orthanc.put(sorted(folder.iterdir()))

        put(1, 2)
        assert hospital.reconcile(*PERIOD)[:2] == (0, set())
        put(9)
        unlogged = {("UNLOGGED", uids.derive(kind, call_of(9))) for kind in ("SEG", "SR")}
        assert hospital.reconcile(*PERIOD)[:2] == (1, unlogged)
        held = orthanc.instances(str(hospital.pacs.instances[0].StudyInstanceUID))
        gone = uids.derive("SR", call_of(2))
        orthanc.ask("DELETE", f"/instances/{held[gone]}")
        assert hospital.reconcile(*PERIOD)[1] == unlogged | {("MISSING", gone)}


def picture(call: str, receipt: Receipt | None) -> bytes:
    """The key image of one call."""
    shown = write_key_images(
        phantom.findings(phantom.ellipsoid(SHAPE)),
        phantom.manifest(),
        phantom.REF,
        phantom.series(SHAPE),
        np.zeros(SHAPE, dtype=np.float32),
        phantom.context("zh-CN", call=call, receipt=receipt),
    )
    return next(data for _, data in shown)


@pytest.mark.parametrize("kind", ["GSPS", "KOS", "NO_FINDING"])
def test_other_key_images_are_looked_for_too(hospital: Hospital, kind: str) -> None:
    """All by their UIDs; their receipts are those of the call that made them; one that is gone is missed."""
    call = call_of(6)
    with wire.offline(hospital.config) as site:
        intent = site.log.append(Draft(Kind.CALL_INTENT, "intent:6", body(Kind.CALL_INTENT), call))
        at = Receipt(intent.index, site.log.receipt(intent.index).note)
        context = phantom.context("zh-CN", call=call, receipt=at)
        mask = phantom.ellipsoid(SHAPE) & (kind != "NO_FINDING")
        about = (phantom.findings(mask), phantom.manifest(), phantom.REF, phantom.series(SHAPE))
        ((name, data),) = key_images.write([KeyImage(kind)], *about, np.zeros(SHAPE, np.float32), context)
        logged, *parts = ("SC", "0") if kind == "NO_FINDING" else (kind,)
        uid = uids.derive(logged, call, *parts)
        output = {"uid": uid, "digest": f"sha256:{hashlib.sha256(data).hexdigest()}"}
        said = {**body(Kind.CALL_RESULT), "outputs": [{"kind": logged, **output}]}
        site.log.append(Draft(Kind.CALL_RESULT, "result:6", said, call))
        told = {**body(Kind.RELEASED), "outputs": [output], "peer": "pacs"}
        site.log.append(Draft(Kind.RELEASED, "released:6", told, call))
    hospital.pacs.instances.append(dcmread(io.BytesIO(data)))
    taken = hospital.folder / "taken"
    taken.mkdir()
    (taken / name).write_bytes(data)
    assert hospital.reconcile(*PERIOD, "--peer", "pacs")[:2] == (0, set())
    _, found, said = hospital.reconcile("--objects", taken)
    assert (said["receipts_checked"], uid in {named for _, named in found}) == (1, False)
    hospital.pacs.instances.pop()
    assert hospital.reconcile(*PERIOD, "--peer", "pacs")[:2] == (1, {("MISSING", uid)})


def test_key_images_are_known_by_their_uids(hospital: Hospital) -> None:
    """One that the log names must be there; captures of others, under UIDs of our form too, are no finding."""
    call = call_of(3)
    with wire.offline(hospital.config) as site:
        intent = site.log.append(Draft(Kind.CALL_INTENT, "intent:3", body(Kind.CALL_INTENT), call))
        data = picture(call, Receipt(intent.index, site.log.receipt(intent.index).note))
        uid = uids.derive("SC", call, "1")
        output = {"uid": uid, "digest": f"sha256:{hashlib.sha256(data).hexdigest()}"}
        said = {**body(Kind.CALL_RESULT), "outputs": [{"kind": "SC", **output}]}
        site.log.append(Draft(Kind.CALL_RESULT, "result:3", said, call))
        told = {**body(Kind.RELEASED), "outputs": [output], "peer": "pacs"}
        site.log.append(Draft(Kind.RELEASED, "released:3", told, call))
    stranger = dcmread(io.BytesIO(picture(call_of(4), None)))
    hospital.pacs.instances += [dcmread(io.BytesIO(data)), stranger]
    taken = hospital.folder / "taken"
    taken.mkdir()
    (taken / "sc.dcm").write_bytes(data)
    assert hospital.reconcile(*PERIOD, "--peer", "pacs")[:2] == (0, set())
    _, found, said = hospital.reconcile("--objects", taken)
    assert said["receipts_checked"] == 1
    assert uid not in {named for _, named in found}
    hospital.pacs.instances = [one for one in hospital.pacs.instances if one.SOPInstanceUID != uid]
    assert hospital.reconcile(*PERIOD, "--peer", "pacs")[:2] == (1, {("MISSING", uid)})


@pytest.mark.parametrize(
    ("kind", "problems"), [("SC", set()), ("GSPS", set()), ("KOS", set()), ("HEAT", set()), ("SR", {"STUCK"})]
)
def test_a_key_image_that_the_peer_refused_is_not_stuck(hospital: Hospital, kind: str, problems: set[str]) -> None:
    """A release that does not name the picture ends it; one that does not name the report does not end the report."""
    call = call_of(5)
    there = [{"uid": uids.derive("SEG", call), "digest": f"sha256:{0:064x}"}]
    lacking = {"uid": uids.derive(kind, call, *(["1"] if kind == "SC" else [])), "digest": f"sha256:{1:064x}"}
    with wire.offline(hospital.config) as site:
        site.log.append(Draft(Kind.CALL_INTENT, "intent:5", body(Kind.CALL_INTENT), call))
        outputs = [{"kind": "SEG", **there[0]}, {"kind": kind, **lacking}]
        site.log.append(Draft(Kind.CALL_RESULT, "result:5", {**body(Kind.CALL_RESULT), "outputs": outputs}, call))
        told: dict[str, Any] = {**body(Kind.RELEASED), "outputs": there, "peer": "pacs"}
        site.log.append(Draft(Kind.RELEASED, "released:5", told, call))
    _, found, _ = hospital.reconcile(*PERIOD, "--peer", "pacs", "--grace-h", "0")
    assert {(problem, uid) for problem, uid in found if uid == lacking["uid"]} == {
        (problem, lacking["uid"]) for problem in problems
    }
