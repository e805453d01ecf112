"""Storage SCU: what we send is what a real PACS stores, byte for byte; each way to fail has its own word."""

from __future__ import annotations

import io
import os
import shutil
import socket
import subprocess
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from pydicom import dcmread
from pydicom.uid import JPEG2000Lossless

from dicom_bridge.peers import Peer
from dicom_bridge.report import write_sr
from dicom_bridge.store_scu import SendRefused, send
from tests.simulators import findings as phantom
from tests.simulators.pacs import COMPREHENSIVE_3D_SR, SEGMENTATION, FakePacs
from tests.simulators.written import write_seg

SHAPE = (6, 16, 16)


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """A SEG and an SR of one call, in Chinese and GB18030."""
    folder = tmp_path_factory.mktemp("results")
    sources, manifest = phantom.series(SHAPE), phantom.manifest()
    found, context = phantom.findings(phantom.ellipsoid(SHAPE)), phantom.context("zh-CN", "GB18030")
    seg = write_seg(found, manifest, phantom.REF, sources, context)
    report = write_sr(found, manifest, phantom.REF, sources, dcmread(io.BytesIO(seg)), context)
    (folder / "seg.dcm").write_bytes(seg)
    (folder / "sr.dcm").write_bytes(report)
    return [folder / "seg.dcm", folder / "sr.dcm"]


@pytest.fixture
def pacs() -> Iterator[FakePacs]:
    """A PACS that is up, and whose complaints fail the test."""
    with FakePacs() as fake:
        yield fake
    assert fake.complaints == []


def test_a_real_pacs_stores_our_bytes(results, tmp_path) -> None:
    """DCMTK's storescp takes SEG and SR in one association, and its files hold our data sets bit for bit."""
    program = shutil.which("storescp", path=os.defpath)  # DCMTK's own, not pynetdicom's of the same name
    assert program is not None, "dcmtk is not installed"
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port = probe.getsockname()[1]
    stored = tmp_path / "stored"
    stored.mkdir()
    # +B: as received, without re-encoding.
    server = subprocess.Popen([program, "+B", "-aet", "DCMTKPACS", "-od", str(stored), str(port)])
    try:
        wait_for_port(port)
        result = send(results, Peer("pacs", "DCMTKPACS", "127.0.0.1", port), "ZHIYING")
    finally:
        server.terminate()
        server.wait(10)
    assert (result.statuses, result.error) == ((0, 0), None)
    received = sorted(stored.iterdir())
    assert len(received) == 2
    ours = {str(dcmread(path).SOPInstanceUID): path for path in results}
    for path in received:
        ds = dcmread(path)
        assert body(path) == body(ours[str(ds.SOPInstanceUID)])
        assert str(ds.PatientName) == phantom.NAME_ZH


def wait_for_port(port: int) -> None:
    """Wait until somebody listens."""
    end = time.monotonic() + 10
    while time.monotonic() < end:
        with socket.socket() as one:
            if one.connect_ex(("127.0.0.1", port)) == 0:
                return
        time.sleep(0.05)
    pytest.fail("nobody listens")


def body(path: Path) -> bytes:
    """The data set of a Part 10 file, without preamble and file meta."""
    data = path.read_bytes()
    return data[132 + 12 + int.from_bytes(data[140:144], "little") :]


def test_the_data_set_goes_out_unchanged(results, pacs) -> None:
    """What the PACS receives is the file's data set, byte for byte: no re-encoding on the way."""
    assert send(results, pacs.peer(), "ZHIYING").statuses == (0, 0)
    assert sorted(pacs.stored.values()) == sorted(body(path) for path in results)
    assert pacs.associations == 1


def test_each_answer_is_given_back_as_it_came(results, pacs) -> None:
    """Statuses are reported per file and in order; judging them is the outbox's work."""
    pacs.answer(0xA700, 0xB000)
    assert send(results, pacs.peer(), "ZHIYING").statuses == (0xA700, 0xB000)
    pacs.answer(0xC000, 0x0122)
    result = send(results, pacs.peer(), "ZHIYING")
    assert (result.statuses, result.error) == ((0xC000, 0x0122), None)


def test_nobody_there_and_not_for_us_are_two_things(results, pacs) -> None:
    """A refused connection is PEER_UNREACHABLE, a rejected association PEER_REJECTED, an unknown host unreachable."""
    pacs.down()
    assert send(results, pacs.peer(), "ZHIYING").error == "PEER_UNREACHABLE"
    pacs.up()
    rejected = send(results, Peer("pacs", "SOMEBODYELSE", "127.0.0.1", pacs.port), "ZHIYING")
    assert (rejected.statuses, rejected.error) == ((None, None), "PEER_REJECTED")
    nowhere = Peer("pacs", "TESTPACS", "no-such-host.invalid", 104)
    assert send(results, nowhere, "ZHIYING").error == "PEER_UNREACHABLE"


def test_a_file_of_a_class_that_is_not_taken_does_not_stop_the_others(results) -> None:
    """One context refused: the other file is stored, and the result names the reason; all refused: likewise."""
    with FakePacs(classes=[COMPREHENSIVE_3D_SR]) as narrow:
        result = send(results, narrow.peer(), "ZHIYING")
        assert (result.statuses, result.error) == ((None, 0), "PEER_NO_CONTEXT")
        assert send(results[:1], narrow.peer(), "ZHIYING").error == "PEER_NO_CONTEXT"
        assert len(narrow.stored) == 1


def test_a_syntax_that_is_not_taken_is_no_context(results, pacs, tmp_path) -> None:
    """We never convert: a file in a syntax that the peer does not take is not sent in another."""
    ds = dcmread(results[0])
    ds.file_meta.TransferSyntaxUID = JPEG2000Lossless
    path = tmp_path / "compressed.dcm"
    raw = results[0].read_bytes()
    path.write_bytes(raw.replace(b"1.2.840.10008.1.2.1\x00", b"1.2.840.10008.1.2.5\x00", 1))
    result = send([path, results[1]], pacs.peer(), "ZHIYING")
    assert (result.statuses, result.error) == ((None, 0), "PEER_NO_CONTEXT")


def test_an_association_that_breaks_leaves_no_guess(results) -> None:
    """The PACS dies while it stores: what it had answered is kept, the rest is None."""
    fake = FakePacs(classes=[COMPREHENSIVE_3D_SR, SEGMENTATION])
    with fake:
        answered = threading.Event()

        def die_at_the_second() -> None:
            if answered.is_set():
                assert fake._server is not None
                for association in fake._server.active_associations:
                    association.abort()
            answered.set()

        fake.before_answer = die_at_the_second
        result = send(results, fake.peer(), "ZHIYING")
    assert result.statuses == (0, None)
    assert result.error == "PEER_NO_ANSWER"


def test_what_is_no_dicom_file_is_refused_before_anybody_is_called(tmp_path, pacs) -> None:
    """A text file or a missing one raises; no association is opened for it."""
    (tmp_path / "text.dcm").write_text("not DICOM")
    for path in (tmp_path / "text.dcm", tmp_path / "gone.dcm", tmp_path):
        with pytest.raises(SendRefused) as refused:
            send([path], pacs.peer(), "ZHIYING")
        assert refused.value.code == "FILE_UNREADABLE"
        assert str(tmp_path) not in str(refused.value)
    assert send([], pacs.peer(), "ZHIYING").statuses == ()
    assert pacs.associations == 0
