"""The demo's Orthanc, a real one: what it takes, from whom, what it forwards, and how we read it."""

import json
import os
import subprocess
import time
from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
from pydicom import dcmread

from dicom_bridge.modality import SeriesOnDisk, write_series
from dicom_bridge.orthanc import OrthancFailed, OrthancReader
from service.demo.commands import scan
from service.demo.errors import StepFailed
from service.demo.pacs import LOOPBACK, Node, Orthanc, orthanc_at, quick_network
from service.demo.servers import free_port
from tests.simulators.orthanc import SCANNER_AE, running_orthanc
from tests.simulators.phantom import EXAMINATION, PATIENT

ZHIYING_AE = "ZHIYING"


@pytest.fixture(scope="module")
def series(tmp_path_factory: pytest.TempPathFactory) -> SeriesOnDisk:
    """Five slices of an invented patient."""
    voxels = np.arange(4 * 4 * 5, dtype=np.float64).reshape(4, 4, 5)
    return write_series(voxels, np.eye(4), PATIENT, EXAMINATION, tmp_path_factory.mktemp("series"))


def store(orthanc: Orthanc, calling: str, path: Path) -> subprocess.CompletedProcess[str]:
    """One C-STORE under a given AE title."""
    command = ["storescu", "-aet", calling, "-aec", orthanc.ae_title, LOOPBACK, str(orthanc.dicom_port), str(path)]
    return subprocess.run(command, capture_output=True, text=True, check=False, env=quick_network(os.environ))


@pytest.mark.slow
def test_a_study_is_stored_once_and_read_back(tmp_path: Path, series: SeriesOnDisk) -> None:
    """Sent twice, and the PACS started anew in between, the study is there once, and as the scanner sent it."""
    for _ in range(2):
        with running_orthanc(tmp_path / "pacs") as orthanc, OrthancReader(orthanc.url) as reader:
            scan(series.files[0].parent, orthanc)
            (stored,) = reader.series(series.study_uid)
            assert (stored.modality, len(stored.instances)) == ("MR", len(series.files))
            assert stored.series_uid == series.series_uid
            sent = dcmread(series.files[0])
            assert dcmread(BytesIO(reader.file(stored.instances[sent.SOPInstanceUID]))) == sent
            assert reader.version().startswith("1.")
            assert reader.study_id("2.25.404") is None
            assert reader.series("2.25.404") == ()


@pytest.mark.slow
def test_strangers_are_not_served(tmp_path: Path, series: SeriesOnDisk) -> None:
    """An AE title that the PACS does not know stores nothing: its DICOM port cannot be bound to loopback alone."""
    with running_orthanc(tmp_path / "pacs") as orthanc, OrthancReader(orthanc.url) as reader:
        assert store(orthanc, "STRANGER", series.files[0]).returncode != 0
        assert reader.series(series.study_uid) == ()
        assert store(orthanc, SCANNER_AE, series.files[0]).returncode == 0


@pytest.mark.slow
def test_images_are_forwarded(tmp_path: Path, series: SeriesOnDisk) -> None:
    """A new series is forwarded whole, and again when it is sent again, as a PACS does."""
    inbox = tmp_path / "inbox"
    inbox.mkdir()
    port = free_port()
    command = ["storescp", "-aet", ZHIYING_AE, "-od", str(inbox), "-tn", "-fe", ".dcm", str(port)]
    with subprocess.Popen(command, env=quick_network(os.environ), stderr=subprocess.DEVNULL) as receiver:
        try:
            node = Node("zhiying", ZHIYING_AE, port)
            with running_orthanc(tmp_path / "pacs", forward_to=node) as orthanc:
                for times in (1, 2):
                    scan(series.files[0].parent, orthanc)
                    deadline = time.monotonic() + 30
                    while len(list(inbox.iterdir())) < times * len(series.files):
                        assert time.monotonic() < deadline, orthanc.log.read_text()
                        time.sleep(0.1)
                with OrthancReader(orthanc.url) as reader:
                    assert set(reader.jobs().values()) <= {"Success", "Running"}
                    assert len(reader.jobs()) == 2
        finally:
            receiver.terminate()


@pytest.mark.slow
def test_a_pacs_that_is_away_is_one_line() -> None:
    """No PACS, no traceback: a coded error that names the address."""
    port = free_port()
    with OrthancReader(f"http://{LOOPBACK}:{port}") as reader, pytest.raises(OrthancFailed) as refused:
        reader.version()
    assert refused.value.code == "ORTHANC_UNREACHABLE"
    assert str(port) in str(refused.value)


def test_a_scanner_without_a_pacs_is_one_line(tmp_path: Path, series: SeriesOnDisk) -> None:
    """storescu's failure becomes a coded error with its own first line."""
    nowhere = orthanc_at(tmp_path, forward_to=None)
    with pytest.raises(StepFailed, match="storescu ended with status") as refused:
        scan(series.files[0].parent, nowhere)
    assert refused.value.code == "STEP_FAILED"


def test_configuration_keeps_to_this_machine(tmp_path: Path) -> None:
    """Remote HTTP and unknown nodes are refused, known nodes are on loopback, ports are not the package's."""
    orthanc = orthanc_at(tmp_path, forward_to=Node("zhiying", ZHIYING_AE, 11113), known=(Node("scanner", "S", 104),))
    written = json.loads(orthanc.write().read_text(encoding="utf-8"))
    assert written["RemoteAccessAllowed"] is False
    assert written["DicomCheckModalityHost"] is True
    assert written["DicomAlwaysAllowStore"] is False
    assert {node[1] for node in written["DicomModalities"].values()} == {LOOPBACK}
    assert {written["HttpPort"], written["DicomPort"]} & {8042, 4242} == set()
    assert "'/modalities/zhiying/store'" in Path(written["LuaScripts"][0]).read_text(encoding="utf-8")


def test_results_are_never_forwarded(tmp_path: Path) -> None:
    """The rule forwards images alone: a report that came from us must not come back to us."""
    orthanc = orthanc_at(tmp_path, forward_to=Node("zhiying", ZHIYING_AE, 11113))
    orthanc.write()
    rule = (tmp_path / "forward.lua").read_text(encoding="utf-8")
    assert "== 'MR'" in rule
    assert "== 'CT'" in rule
    assert "SEG" not in rule
    assert "'SR'" not in rule


def test_without_a_partner_nothing_is_forwarded(tmp_path: Path) -> None:
    """An Orthanc that only stores has no rule."""
    assert "LuaScripts" not in orthanc_at(tmp_path, forward_to=None).configuration()
