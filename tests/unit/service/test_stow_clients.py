"""STOW-RS with clients that others wrote: dicomweb-client, Orthanc's DICOMweb plug-in, and curl."""

from __future__ import annotations

import json
import shutil
import subprocess
from collections.abc import Iterator
from io import BytesIO
from pathlib import Path

import httpx
import pytest
from dicomweb_client.api import DICOMwebClient
from pydicom import dcmread

from dicom_bridge.inbox import Inbox
from service.stow_api import stow_router
from tests.simulators.orthanc import running_orthanc
from tests.simulators.received import Clock
from tests.simulators.series import dataset_bytes, make_slice, part10
from tests.simulators.stow import BOUNDARY, CONTENT_TYPE, Switch, body, serving

WAIT_S = 60
STUDY = str(make_slice(0).StudyInstanceUID)

pytestmark = pytest.mark.slow


@pytest.fixture
def inbox(tmp_path: Path) -> Iterator[Inbox]:
    """What receives."""
    made = Inbox(tmp_path / "spool", Clock())
    yield made
    made.close()


@pytest.fixture
def root(inbox: Inbox) -> Iterator[str]:
    """The DICOMweb root of our endpoint."""
    with serving(Switch(stow_router(inbox))) as url:
        yield f"{url}/dicom-web"


def held(inbox: Inbox) -> dict[str, bytes]:
    """The data sets that are held, by SOP Instance UID."""
    return {one.sop_uid: one.path.read_bytes() for one in inbox.instances(STUDY)}


@pytest.mark.parametrize("study", [None, STUDY])
def test_dicomweb_client(inbox: Inbox, root: str, study: str | None) -> None:
    """Its store_instances understands our answer, with and without a target study."""
    datasets = [dcmread(BytesIO(part10(make_slice(index)))) for index in range(5)]
    client = DICOMwebClient(root)

    answer = client.store_instances(datasets, study_instance_uid=study)

    assert [one.ReferencedSOPInstanceUID for one in answer.ReferencedSOPSequence] == [
        ds.SOPInstanceUID for ds in datasets
    ]
    assert set(held(inbox)) == {ds.SOPInstanceUID for ds in datasets}


def test_dicomweb_client_hears_of_failures(inbox: Inbox, root: str) -> None:
    """Instances of another study than the target's come back as failed, with the reason."""
    datasets = [dcmread(BytesIO(part10(make_slice(0, seed=seed)))) for seed in ("one", "two")]

    answer = DICOMwebClient(root).store_instances(datasets, study_instance_uid=STUDY)

    assert [one.ReferencedSOPInstanceUID for one in answer.FailedSOPSequence] == [datasets[1].SOPInstanceUID]
    assert answer.FailedSOPSequence[0].FailureReason == 0xA900
    assert len(answer.ReferencedSOPSequence) == 1


def test_orthanc(inbox: Inbox, root: str, tmp_path: Path) -> None:
    """Orthanc pushes a study by its DICOMweb plug-in, and counts every instance as stored."""
    with running_orthanc(tmp_path / "orthanc") as orthanc, httpx.Client(base_url=orthanc.url, timeout=WAIT_S) as api:
        study = ""
        for index in range(20):
            uploaded = api.post("/instances", content=part10(make_slice(index)))
            study = uploaded.raise_for_status().json()["ParentStudy"]
        api.put("/dicom-web/servers/zhiying", json={"Url": f"{root}/"}).raise_for_status()
        answer = api.post(
            "/dicom-web/servers/zhiying/stow", json={"Resources": [study], "Synchronous": True}
        ).raise_for_status()

    said = answer.json()
    assert said.get("Instances", said.get("InstancesCount")) in (20, "20"), json.dumps(said)
    assert set(held(inbox)) == {str(make_slice(index).SOPInstanceUID) for index in range(20)}


def test_curl(inbox: Inbox, root: str, tmp_path: Path) -> None:
    """curl, which asks before it sends (Expect: 100-continue), stores a body from a file and prints the answer."""
    program = shutil.which("curl")
    assert program is not None, "curl is not installed"
    large = make_slice(0, shape=(1024, 1024))
    file = tmp_path / "body"
    file.write_bytes(body([part10(large), part10(make_slice(1))]))
    said = subprocess.run(
        [
            *(program, "-sS", "-f", "--data-binary", f"@{file}", "-H", f"Content-Type: {CONTENT_TYPE}"),
            *("-H", "Accept: application/dicom+json", f"{root}/studies"),
        ],
        capture_output=True,
        timeout=WAIT_S,
        check=True,
    )

    assert len(json.loads(said.stdout)["00081199"]["Value"]) == 2
    assert held(inbox)[str(large.SOPInstanceUID)].endswith(dataset_bytes(large))


def test_curl_is_refused_before_it_sends(root: str, tmp_path: Path) -> None:
    """A body of the wrong kind: curl gets the words, and sends nothing of a large file."""
    program = shutil.which("curl")
    assert program is not None, "curl is not installed"
    file = tmp_path / "body"
    file.write_bytes(b"--" + BOUNDARY + b"\r\n" * 5_000_000)
    command = [program, "-sS", "--data-binary", f"@{file}", "-H", "Content-Type: application/zip", f"{root}/studies"]
    said = subprocess.run(command, capture_output=True, timeout=WAIT_S, check=True)

    assert json.loads(said.stdout)["error"]["code"] == "STOW_MEDIA_TYPE"
