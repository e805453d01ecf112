"""The running service among a hospital's own programs: Orthanc as the PACS, DCMTK as modality, archive and workstation.

Nothing here is a stand-in but the model, which takes one threshold. Whether a result arrived is asked of the PACS and
of the log, never of our own table alone.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from dicomweb_client.api import DICOMwebClient
from pydicom import dcmread
from pydicom.dataset import Dataset
from pydicom.uid import UID

from dicom_bridge import uids
from service.demo.pacs import PACS_AE, Node
from service.demo.servers import free_port
from tests.simulators import real_dcmtk as dcmtk
from tests.simulators import series, validators
from tests.simulators.dcmtk import Workstation
from tests.simulators.real_orthanc import US, RealOrthanc, orthanc_for, running
from tests.simulators.real_site import Address, RealSite, started, with_model, zhiying
from tests.simulators.site import COLUMNS, ROWS, SLICES, ball
from tests.simulators.waiting import until

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]

MR = "1.2.840.10008.5.1.4.1.1.4"
COMMITS = "counts = true\ncommitment = true"
AUTOROUTED = "AUTOROUTE"
FORWARD_RULE = f"""
function OnStableSeries(seriesId, tags, metadata)
  if tags['StationName'] == '{AUTOROUTED}' and tags['Modality'] == 'MR' then
    RestApiPost('/modalities/{US}/store', '{{"Resources":["' .. seriesId .. '"],"Asynchronous":true}}')
  end
end
"""
"""What an administrator sets up; the scanner whose images are forwarded is known by its station name."""
FORGOTTEN = uids.derive("TEST", "forgotten", "study")
FORGETS = f"""
function ReceivedInstanceFilter(dicom, origin, info)
  return dicom.StudyInstanceUID ~= '{FORGOTTEN}' or origin.RequestOrigin ~= 'DicomProtocol'
end
"""
"""A PACS that answers C-STORE with success and keeps nothing, for one study."""


@dataclass(frozen=True)
class Hospital:
    """A site that runs, its PACS, and a workstation that the PACS knows."""

    site: RealSite
    orthanc: RealOrthanc
    station: Workstation
    root: Path

    def study(self, name: str, station: str = "SCANNER1") -> tuple[str, list[Path]]:
        """A new study of the site's ball; its UID and files."""
        return study_of(self.root / "studies" / name, name, station)


def study_of(folder: Path, name: str, station: str = "SCANNER1") -> tuple[str, list[Path]]:
    """The site's series of a ball, taken by the scanner of this name; its Study Instance UID and its files."""

    def spoil(index: int, ds: Dataset) -> None:
        ball(index, ds)
        ds.StationName = station

    files = series.write_series(folder, SLICES, spoil=spoil, seed=name, shape=(ROWS, COLUMNS))
    return uids.derive("TEST", name, "study"), files


def uids_of(files: Sequence[Path]) -> set[str]:
    """Their SOP Instance UIDs."""
    return {str(dcmread(path, stop_before_pixels=True).SOPInstanceUID) for path in files}


def results_of(site: RealSite, call: str | None) -> dict[str, str]:
    """What the log says was made by a call: UID by kind."""
    outputs: Any = site.of_call(call, "CALL_RESULT").body["outputs"]
    return {str(one["kind"]): str(one["uid"]) for one in outputs}


def syntaxes_of(site: RealSite, study: str) -> list[str]:
    """The transfer syntax of each image that is held of a study."""
    kept = (site.data / "spool" / "studies" / study).glob("*.dcm")
    return [str(dcmread(path, stop_before_pixels=True).file_meta.TransferSyntaxUID) for path in kept]


@pytest.fixture(scope="module")
def hospital(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Hospital]:
    """Orthanc commits and counts; our service is in its list, and it in ours."""
    root = tmp_path_factory.mktemp("hospital")
    ports = free_port(), free_port()
    site = with_model(RealSite(root / "site", Address(PACS_AE, ports[1]), pacs_more=COMMITS))
    station = Node("station", "STATION", free_port())
    made = orthanc_for(
        root / "orthanc",
        site.dicom_port,
        ports=ports,
        known=(station,),
        scripts={"forward": FORWARD_RULE, "forget": FORGETS},
    )
    (root / "station").mkdir()
    with running(made) as orthanc, started(site):
        yield Hospital(site, orthanc, Workstation(station.ae_title, station.port, orthanc, root / "station"), root)
        site.fit()


@contextmanager
def another_configuration(site: RealSite, **changes: Any) -> Iterator[None]:
    """The site under another configuration, and as before afterwards."""
    before = site._pacs_more
    site.stop()
    site.configure(**changes)
    try:
        site.start()
        yield
    finally:
        site.stop()
        site.configure(pacs_more=before)
        site.start()


# ---- Orthanc as the PACS --------------------------------------------------------------------------------------------


def test_the_pacs_forwards_a_study_and_commits_to_its_result(hospital: Hospital) -> None:
    """Its own rule sends the study; SR and SEG go back, and it reports, by a call of its own, that it has them."""
    study, files = hospital.study("forwarded", AUTOROUTED)
    hospital.orthanc.put(files)

    released = hospital.site.released(study)

    assert (released.body["proof"], released.body["peer"]) == ("COMMITMENT", "pacs")
    made = results_of(hospital.site, released.call)
    assert set(hospital.orthanc.instances(study)) == uids_of(files) | set(made.values())
    assert hospital.site.held(study) == uids_of(files)
    assert hospital.site.run_in("RELEASED", study=study).trigger == "COUNT_MATCHED"
    # It called us: not on the association of our request.
    called, told = r"Opening a DICOM SCU connection[^\n]*", r"Reporting modality[^\n]*2 successes, 0 failures"
    said = hospital.orthanc.log.read_text(encoding="utf-8")
    assert re.search(rf'{called} to AET "ZHIYING"[^\n]*\n[^\n]*{told}', said)


def test_results_by_stow_are_committed_too(hospital: Hospital) -> None:
    """STOW-RS to orthanc-dicomweb, then the same N-ACTION and report; Orthanc sent by REST and asked us to commit."""
    study, files = hospital.study("stowed back")
    hospital.orthanc.put(files)
    web = f'send = "STOW-RS"\nweb = "{hospital.orthanc.url}/dicom-web"\n{COMMITS}'
    with another_configuration(hospital.site, pacs_more=web):
        job = hospital.orthanc.store(study, StorageCommitment=True)
        assert job["State"] == "Success", job
        released = hospital.site.released(study)
        verdict = hospital.orthanc.verdict(job["Content"]["StorageCommitmentTransactionUID"])

    assert released.body["proof"] == "COMMITMENT"
    made = results_of(hospital.site, released.call)
    assert set(hospital.orthanc.instances(study)) == uids_of(files) | set(made.values())
    assert (verdict["Status"], len(verdict["Success"])) == ("Success", len(files)), verdict


def test_a_pacs_that_forgets_is_not_believed(hospital: Hospital) -> None:
    """It answers C-STORE with success and has nothing: its own report says so, and the result does not count."""
    study, files = hospital.study("forgotten")
    assert study == FORGOTTEN
    assert dcmtk.caller("dcmsend", hospital.site.dicom_port, files=files)

    def lost() -> Any:
        return [one for one in zhiying(hospital.site, "outbox", "list", "--json").value if one["losses"] > 0]

    (batch,) = until(lost, what="the PACS reports that it has lost the result")

    assert (batch["code"], batch["peer"]) == ("COMMITMENT_0112", "pacs")
    assert {(one["status"], one["stored"]) for one in batch["outputs"]} == {("0x0000", False)}
    assert hospital.site.run_in("WRITTEN", study=study).call == batch["batch"]
    kinds = {entry.kind for entry in hospital.site.entries() if entry.call == batch["batch"]}
    assert "CALL_RESULT" in kinds
    assert "RELEASED" not in kinds


def test_the_pacs_is_told_what_we_hold_and_what_not(hospital: Hospital) -> None:
    """Orthanc asks for commitment by itself: success for what it sent us, failure with a reason for anything else."""
    study, files = hospital.study("asked about")
    hospital.orthanc.put(files)
    assert hospital.orthanc.store(study)["State"] == "Success"
    ours = sorted((MR, uid) for uid in uids_of(files))
    never = [(MR, uids.derive("TEST", "never sent", str(number))) for number in range(2)]

    held = hospital.orthanc.commitment(ours)
    mixed = hospital.orthanc.commitment([*ours[:3], *never])
    absent = hospital.orthanc.commitment(never)
    other = hospital.orthanc.commitment([("1.2.840.10008.5.1.4.1.1.2", ours[0][1])])

    def pairs(items: Sequence[Any]) -> list[tuple[str, str]]:
        return sorted((one["SOPClassUID"], one["SOPInstanceUID"]) for one in items)

    assert (held["Status"], pairs(held["Success"]), held["Failures"]) == ("Success", ours, []), held
    assert (mixed["Status"], pairs(mixed["Success"]), pairs(mixed["Failures"])) == ("Failure", ours[:3], sorted(never))
    assert {one["FailureReason"] for one in mixed["Failures"]} == {0x0112}
    assert (absent["Status"], absent["Success"], len(absent["Failures"])) == ("Failure", [], 2)
    assert [one["FailureReason"] for one in other["Failures"]] == [0x0119]
    hospital.site.released(study)


# ---- DCMTK as modality and workstation ------------------------------------------------------------------------------


def test_dcmsend_sends_six_encodings_over_one_association(hospital: Hospital) -> None:
    """What is compressed is kept as it came; each study is read and measured alike: lossless is lossless.

    Of the syntaxes that are not, dcmsend proposes all in one context, and we take the first of our list.
    """
    sent, studies = [], {}
    for syntax in dcmtk.ENCODERS:
        study, files = hospital.study(f"encoded {syntax}")
        studies[syntax] = study
        sent += dcmtk.encode(files, hospital.root / "encoded" / syntax.replace(" ", "-"), syntax)

    assert dcmtk.caller("dcmsend", hospital.site.dicom_port, "-dn", files=sent)

    measured = set()
    for syntax, study in studies.items():
        released = hospital.site.released(study)
        measured.add(str(hospital.site.of_call(released.call, "CALL_RESULT").body["measurements"]))
        converted = syntax in ("Implicit little endian", "Explicit big endian")
        wanted = dcmtk.EXPLICIT if converted else dcmtk.ENCODERS[syntax][0]
        assert syntaxes_of(hospital.site, study) == [wanted] * SLICES
    assert len(measured) == 1, measured


@pytest.mark.parametrize("syntax", [name for name in dcmtk.ENCODERS if name != "Explicit big endian"])
def test_storescu_sends_one_image(hospital: Hospital, syntax: str) -> None:
    """In the one syntax that it proposes; kept in it, with the same pixels."""
    study, files = hospital.study(f"storescu {syntax}")
    uid, option, _ = dcmtk.ENCODERS[syntax]
    one = dcmtk.encode(files[:1], hospital.root / "storescu" / option, syntax)

    assert dcmtk.caller("storescu", hospital.site.dicom_port, option, files=one)

    assert syntaxes_of(hospital.site, study) == [uid]
    (kept,) = (hospital.site.data / "spool" / "studies" / study).glob("*.dcm")
    assert (dcmread(kept).pixel_array == dcmread(files[0]).pixel_array).all()


def test_a_workstation_finds_and_fetches_the_results(hospital: Hospital) -> None:
    """findscu lists them, getscu and movescu bring the same objects from the PACS, and the judges find no fault."""
    study, files = hospital.study("for the workstation")
    assert dcmtk.caller("storescu", hospital.site.dicom_port, files=files)
    released = hospital.site.released(study)
    made = results_of(hospital.site, released.call)

    found = hospital.station.find("SERIES", f"StudyInstanceUID={study}", "SeriesInstanceUID", "Modality")
    of = {str(one.attributes.Modality): str(one.attributes.SeriesInstanceUID) for one in found}
    assert set(of) == {"SR", "SEG"}
    for kind, uid in made.items():
        keys = f"StudyInstanceUID={study}", f"SeriesInstanceUID={of[kind]}"
        (listed,) = hospital.station.find("IMAGE", *keys, "SOPInstanceUID")
        (got,), (moved,) = hospital.station.get(*keys), hospital.station.move(*keys)
        assert str(listed.attributes.SOPInstanceUID) == uid
        assert dcmread(got).SOPInstanceUID == dcmread(moved).SOPInstanceUID == uid
        assert validators.dciodvfy(got) == []
        assert UID(dcmread(got).file_meta.TransferSyntaxUID).is_little_endian
        if kind == "SR":
            assert validators.dsrdump(got) == []


# ---- STOW-RS into the service ---------------------------------------------------------------------------------------


def test_dicomweb_client_stores_a_study(hospital: Hospital) -> None:
    """Its STOW-RS request is answered instance by instance, and the study is read and released."""
    study, files = hospital.study("by dicomweb-client")
    client = DICOMwebClient(f"http://127.0.0.1:{hospital.site.http_port}/dicom-web")

    answer = client.store_instances([dcmread(path) for path in files], study_instance_uid=study)

    stored = {item.ReferencedSOPInstanceUID for item in answer.ReferencedSOPSequence}
    assert stored == uids_of(files) == hospital.site.held(study)
    assert "FailedSOPSequence" not in answer
    assert hospital.site.released(study).body["proof"] == "COMMITMENT"


def test_orthanc_stores_a_study_by_stow(hospital: Hospital) -> None:
    """The DICOMweb plugin of another PACS as the client."""
    study, files = hospital.study("by orthanc's stow")
    hospital.orthanc.put(files)
    url = f"http://127.0.0.1:{hospital.site.http_port}/dicom-web/"
    hospital.orthanc.ask("PUT", f"/dicom-web/servers/{US}", {"Url": url})

    request = {"Resources": [hospital.orthanc.study(study)], "Synchronous": True}
    hospital.orthanc.ask("POST", f"/dicom-web/servers/{US}/stow", request)

    assert hospital.site.held(study) == uids_of(files)
    assert hospital.site.released(study).body["proof"] == "COMMITMENT"


# ---- a PACS that can only be told -----------------------------------------------------------------------------------


def test_storescp_is_believed(tmp_path: Path) -> None:
    """Neither counts nor commitment: its answers are the proof, and the log says that they are all there is."""
    with dcmtk.storescp(tmp_path / "pacs") as pacs:
        site = with_model(RealSite(tmp_path / "site", Address("STORESCP", pacs.port)))
        with started(site):
            study, files = study_of(tmp_path / "files", "for storescp")
            assert dcmtk.caller("dcmsend", site.dicom_port, files=files)
            released = site.released(study)
            doctor = zhiying(site, "doctor", "--json")
            site.fit()
        assert released.body["proof"] == "ANSWERED"
        # Ports that are taken are only worth a warning: nothing stands in the way.
        assert (doctor.status, {one["result"] for one in doctor.value}) == (0, {"ok", "WARN"}), doctor
        assert uids_of(pacs.files) == set(results_of(site, released.call).values())
