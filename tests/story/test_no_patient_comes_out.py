"""Canaries in every tag and file name of studies that end in every way: none is in the log, a metric, a line, a key,
an export."""

import base64
import urllib.error
import urllib.request
import zipfile
from collections.abc import Iterator
from pathlib import Path

import pydicom
import pytest
from pydicom.dataset import Dataset

from tests.simulators import nursery, series
from tests.simulators.demo_run import ZHIYING
from tests.simulators.pacs import FakePacs
from tests.simulators.site import Site, write_series

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]

ROOT = "1.2.840.113619.2.55.3.604688"
NAME, CHINESE = "CANARYFAMILY^CanaryGiven", "金丝雀"
TEXTS = {
    "PatientName": f"{NAME}={CHINESE}^幻影",
    "PatientID": "CANARYID7788",
    "IssuerOfPatientID": "CANARYISSUER",
    "OtherPatientNames": "CANARYOTHER^Name",
    "PatientAddress": "CANARYSTREET 5",
    "PatientComments": "CANARYCOMMENT on the patient",
    "AccessionNumber": "CANARYACC99",
    "StudyID": "CANARYSTUDYID",
    "StudyDescription": "CANARYSTUDY what the doctor fears",
    "SeriesDescription": "T1 CANARYSERIES",
    "ProtocolName": "CANARYPROTOCOL",
    "ReferringPhysicianName": "CANARYDOCTOR^Refers",
    "OperatorsName": "CANARYOPERATOR^Scans",
    "InstitutionName": "CANARYHOSPITAL",
    "InstitutionalDepartmentName": "CANARYDEPARTMENT",
    "StationName": "CANARYSTATION",
    "ImageComments": "CANARYIMAGE",
    "AdditionalPatientHistory": "CANARYHISTORY",
    "RequestedProcedureDescription": "CANARYREQUEST",
}
BORN = "19560203"
CANARIES = ("CANARY", "Canary", CHINESE, BORN, "1956-02-03", ROOT)
"""What may nowhere come out; each text above holds one of the first two."""


def study(folder: Path, number: int, **options: object) -> list[Path]:
    """A study of a patient of canaries, under foreign UIDs, in files named after the patient."""
    written = write_series(folder / "plain", seed=f"study-{number}", **options)  # type: ignore[arg-type]
    files = []
    for at, path in enumerate(written):
        ds = pydicom.dcmread(path)
        for keyword, text in TEXTS.items():
            setattr(ds, keyword, text)
        ds.PatientBirthDate, ds.PatientAge = BORN, "070Y"
        ds.StudyInstanceUID = f"{ROOT}.{number}"
        ds.SeriesInstanceUID = f"{ROOT}.{number}.1"
        ds.SOPInstanceUID = f"{ROOT}.{number}.1.{at}"
        files.append(series.write_file(ds, folder / f"CANARYFILE_{NAME.replace('^', '_')}_{at:03}.dcm"))
    return files


def spoilt(files: list[Path], **changes: object) -> list[Path]:
    """The same files, the last of them with other values."""
    ds: Dataset = pydicom.dcmread(files[-1])
    for keyword, value in changes.items():
        setattr(ds, keyword, value)
    series.write_file(ds, files[-1])
    return files


def exported(site: Site, *words: str) -> dict[str, bytes]:
    """What `zhiying audit export` says, and every member of the package; our own page of it, names of members too."""
    package = site.root / f"{len(list(site.root.iterdir()))}.zip"
    about = ("--recipient", "TEST Reviewer", "--purpose", "TEST", "--contract", "TEST")
    command = [ZHIYING, "audit", "export", "--out", str(package), *about, *words, "--config", str(site.config_file)]
    done = nursery.run(command)
    found = {f"export {' '.join(words[:1])} {package.name}": (done.stdout + done.stderr).encode()}
    if package.exists():
        with zipfile.ZipFile(package) as members:
            # A rule of the scan has the canaries' name.
            parts = {name: members.read(name).replace(b'"CANARY"', b"") for name in members.namelist()}
            found |= {f"{package.name} {name}": data for name, data in parts.items()}
    return found


@pytest.fixture(scope="module")
def pacs() -> Iterator[FakePacs]:
    """A PACS."""
    with FakePacs() as running:
        yield running


@pytest.fixture(scope="module")
def told(tmp_path_factory: pytest.TempPathFactory, pacs: FakePacs) -> dict[str, bytes]:
    """Everything that a site says after six studies, by where it is said."""
    folder = tmp_path_factory.mktemp("canaries")
    site = Site(tmp_path_factory.mktemp("site"), pacs)
    ref = site.install_model()
    site.start()
    try:
        ends = {}
        cases = {
            1: (study(folder / "1", 1), ("REFUSED",)),  # nobody has approved the model
            2: (study(folder / "2", 2), ("RELEASED",)),
            3: (study(folder / "3", 3, skip=(11,)), ("REFUSED",)),
            4: (spoilt(study(folder / "4", 4), PatientID="CANARYID7799", PatientName="CANARYTWO^Other"), ("REFUSED",)),
            5: (spoilt(study(folder / "5", 5), BitsAllocated=12, PixelSpacing=[1.0, 2.0]), ("REFUSED", "FAILED")),
            6: (study(folder / "6", 6, modality="CT"), ("REFUSED",)),
        }
        for number, (files, states) in cases.items():
            if number == 2:
                site.approve(ref)
            site.send(files)
            ends[number] = site.run_in(*states, study=f"{ROOT}.{number}").code
        # To quarantine: no data set at all, and one whose UID is a name.
        rubbish = series.write_file(pydicom.dcmread(cases[1][0][0]), folder / "CANARYRUBBISH.dcm")
        rubbish.write_bytes(rubbish.read_bytes()[:700])
        site.send(spoilt([rubbish], SOPInstanceUID="CANARYUID"))
        found = {"ends": repr(ends).encode()}
        for path in ("metrics", "health", "audit/head", "models", "pulls", "pulls/CANARY"):
            try:
                with urllib.request.urlopen(f"http://127.0.0.1:{site.http_port}/{path}", timeout=5) as answer:
                    found[path] = answer.read()
            except urllib.error.HTTPError as refused:
                found[path] = refused.read()
    finally:
        site.stop()
    found["serve.log"] = (site.root / "serve.log").read_bytes()
    found |= exported(site, "--json") | exported(site, "--study", f"{ROOT}.2") | exported(site, "--study", f"{ROOT}.99")
    for entry in site.entries():
        found[f"entry {entry.index} {entry.kind}"] = entry.to_bytes()
    for part in ("audit", "identity", "keys"):
        for path in (site.data / part).rglob("*"):
            if path.is_file() and path.suffix not in (".dcm",):
                found[f"{part} {path.name}"] = path.read_bytes()
    rows = next((site.data / "identity").iterdir()).read_bytes().splitlines()
    return found | {f"row {number}": base64.b64decode(row) for number, row in enumerate(rows)}


def test_the_studies_ended_in_different_ways(told: dict[str, bytes]) -> None:
    """The sweep says something only if failures of several steps, and a release, are behind it."""
    kinds = {name.split()[2] for name in told if name.startswith("entry")}
    said = told["ends"].decode()

    assert {"CONFIG", "ASSEMBLED", "SELECTED", "CALL_INTENT", "CALL_RESULT", "RELEASED", "DENIED"} <= kinds
    for code in ("NO_APPROVAL", "None", "SLICE_MISSING", "IDENTITY_CONFLICT", "NO_MODEL_FITS"):
        assert code in said
    assert sum(name.startswith("row") for name in told) >= 6
    assert b"zhiying_step_seconds" in told["metrics"]
    members = {name.partition(" ")[2] for name in told}
    assert {"summary.html", "phi_scan.json", "tables/calls.csv", "fhir/0000000000000.ndjson"} <= members
    assert len(told["serve.log"]) > 100


@pytest.mark.parametrize("canary", CANARIES)
def test_no_canary_comes_out(told: dict[str, bytes], canary: str) -> None:
    """Not in an entry, metric, log line, answer, error, identity row, key or export, in no character set."""
    forms = {canary.encode(), canary.encode("gb18030"), canary.encode("unicode_escape")}

    assert [name for name, data in told.items() if any(form in data for form in forms)] == []
