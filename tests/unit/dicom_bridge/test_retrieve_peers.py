"""Retrieval from peers that others wrote: Orthanc in all four ways, DCMTK's dcmqrscp in both of its own.

DCMTK's findscu and dcmdump are the judges: what the PACS says it has, and what arrived here.
"""

from __future__ import annotations

import hashlib
import os
import subprocess
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import pytest
from pydicom import dcmread
from pydicom.uid import JPEG2000Lossless, RLELossless

from dicom_bridge import uids
from dicom_bridge.catalogue import Window
from dicom_bridge.inbox import Inbox
from dicom_bridge.patience import Patience
from dicom_bridge.peers import Peer, Retrieve
from dicom_bridge.retrieve import Retrieved, retrieve
from dicom_bridge.sources import source
from dicom_bridge.store_scu import send
from service.demo.pacs import quick_network
from service.demo.servers import find_tool
from tests.simulators.dcmqrscp import running_dcmqrscp
from tests.simulators.orthanc import Node, Orthanc, running_orthanc
from tests.simulators.pulling import OURS, QUICK, STUDY, another_series, listening, local, open_inbox, small
from tests.simulators.series import make_slice, write_file

pytestmark = pytest.mark.slow

COUNT = 12
LIMITS = replace(QUICK, stall_s=30, acse_s=10)


@dataclass(frozen=True)
class Site:
    """Our inbox with its listener, and a PACS that has a study of three series."""

    inbox: Inbox
    peer: Peer
    files: Sequence[Path]
    orthanc: Orthanc | None = None


def files_of(folder: Path, coded: Sequence[str]) -> list[Path]:
    """Write MR and CT images, and a series with one image in each of these coded syntaxes."""
    folder.mkdir()
    instances = [*small(COUNT), *another_series("ct", 5, "CT")]
    paths = [write_file(ds, folder / f"{number}.dcm") for number, ds in enumerate(instances)]
    for number, syntax in enumerate(coded):
        ds = make_slice(number, shape=(64, 64))
        ds.SeriesInstanceUID = uids.derive("TEST", "one", "coded")
        ds.SOPInstanceUID = uids.derive("TEST", "one", "coded", str(number))
        ds.BitsStored, ds.HighBit, ds.PixelRepresentation = 16, 15, 0
        ds.file_meta = dcmread(paths[0]).file_meta
        ds.file_meta.MediaStorageSOPInstanceUID = ds.SOPInstanceUID
        if syntax == RLELossless:
            ds.compress(syntax, encoding_plugin="pydicom")
        else:
            ds.compress(syntax, encoding_plugin="pylibjpeg")
        ds.save_as(folder / f"coded{number}.dcm", enforce_file_format=True)
        paths.append(folder / f"coded{number}.dcm")
    return paths


@pytest.fixture(scope="module")
def orthanc(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    """An Orthanc that knows us."""
    root = tmp_path_factory.mktemp("orthanc")
    with open_inbox(root) as inbox, listening(inbox) as port:
        known = (Node("zhiying", OURS, port), Node("scanner", "TESTSCANNER", 104))
        with running_orthanc(root / "pacs", known=known) as pacs:
            web = f"{pacs.url}/dicom-web"
            peer = Peer("orthanc", pacs.ae_title, "127.0.0.1", pacs.dicom_port, web=web, orthanc=pacs.url)
            files = files_of(root / "files", [JPEG2000Lossless, RLELossless])
            assert set(send(files, peer, "TESTSCANNER").statuses) == {0x0000}
            yield Site(inbox, peer, files, pacs)


@pytest.fixture(scope="module")
def dcmqrscp(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    """A dcmqrscp that knows us."""
    root = tmp_path_factory.mktemp("dcmqrscp")
    with (
        open_inbox(root) as inbox,
        listening(inbox) as port,
        running_dcmqrscp(root / "pacs", (Node("zhiying", OURS, port),)) as pacs,
    ):
        files = files_of(root / "files", [])
        pacs.fill(files)
        yield Site(inbox, pacs.peer(), files)


def content(path: Path) -> str:
    """A digest of what an image says, whatever its encoding: identifiers and decoded pixels."""
    ds = dcmread(path)
    named = (ds.SOPInstanceUID, ds.SeriesInstanceUID, str(ds.PatientName), ds.Rows, ds.Columns, ds.InstanceNumber)
    return hashlib.sha256(repr(named).encode() + ds.pixel_array.tobytes()).hexdigest()


def fetched(site: Site, way: Retrieve, root: Path) -> tuple[Retrieved, set[str]]:
    """Retrieve into an empty inbox (by C-MOVE: the site's own, where the listener is); result and contents."""
    peer = replace(site.peer, retrieve=way)
    if way is Retrieve.C_MOVE:
        result = retrieve(peer, STUDY, site.inbox, OURS, limits=LIMITS)
        return result, {content(one.path) for one in site.inbox.instances(STUDY)}
    with open_inbox(root) as empty:
        result = retrieve(peer, STUDY, empty, OURS, limits=LIMITS)
        return result, {content(one.path) for one in empty.instances(STUDY)}


@pytest.mark.parametrize("way", list(Retrieve), ids=str)
def test_orthanc_gives_every_image_in_every_way(orthanc: Site, tmp_path: Path, way: Retrieve) -> None:
    """C-MOVE, C-GET, WADO-RS and REST: all of it, nothing else, pixel by pixel."""
    result, got = fetched(orthanc, way, tmp_path)
    total = len(orthanc.files)
    assert result == Retrieved(total, total, attempts=1)
    assert got == {content(path) for path in orthanc.files}


@pytest.mark.parametrize("way", [Retrieve.C_MOVE, Retrieve.C_GET], ids=str)
def test_dcmqrscp_gives_every_image_in_both_ways(dcmqrscp: Site, tmp_path: Path, way: Retrieve) -> None:
    """All of it, nothing else, pixel by pixel."""
    result, got = fetched(dcmqrscp, way, tmp_path)
    total = len(dcmqrscp.files)
    assert result == Retrieved(total, total, attempts=1)
    assert got == {content(path) for path in dcmqrscp.files}


@pytest.mark.parametrize("way", [Retrieve.C_MOVE, Retrieve.C_GET], ids=str)
def test_what_dcmqrscp_cannot_send_is_said(tmp_path: Path, way: Retrieve) -> None:
    """It stores a JPEG 2000 image, sends by the first context of the class, and cannot decode: a real half transfer."""
    with (
        open_inbox(tmp_path) as inbox,
        listening(inbox) as port,
        running_dcmqrscp(tmp_path / "pacs", (Node("zhiying", OURS, port),)) as pacs,
    ):
        pacs.fill(files_of(tmp_path / "files", [JPEG2000Lossless]))
        result = retrieve(pacs.peer(way), STUDY, inbox, OURS, limits=LIMITS)
    assert (result.code, result.expected, result.stored) == ("PULL_INCOMPLETE", COUNT + 6, COUNT + 5)
    assert (sum(result.failed.values()), result.attempts) == (1, 3)


@pytest.mark.parametrize("way", [Retrieve.C_GET, Retrieve.WADO_RS, Retrieve.ORTHANC], ids=str)
def test_orthanc_lists_its_studies_and_their_counts(orthanc: Site, way: Retrieve) -> None:
    """What the standing query asks: the study is in its window and in no other, and its counts are true."""
    day = Window(local("2026-04-01"), local("2026-04-01"), frozenset({"MR"}))
    with source(replace(orthanc.peer, retrieve=way), OURS, Patience(LIMITS)) as peer:
        (found,) = peer.studies(day)
        assert (found.study_uid, found.modalities) == (STUDY, {"MR", "CT"})
        assert peer.studies(replace(day, modalities=frozenset({"US"}))) == ()
        assert peer.studies(Window(local("2026-05-01"), local("2026-05-01"))) == ()
        counts = sorted(one.count or 0 for one in peer.series(STUDY).values())
        assert counts == [2, 5, COUNT]
        assert sorted(len(one.instances) for one in peer.catalogue(STUDY).values()) == counts
        assert peer.catalogue("1.2.3") == {}


def test_findscu_counts_the_same(dcmqrscp: Site) -> None:
    """DCMTK's own question gets the number of instances that ours gets."""
    keys = [word for key in ("QueryRetrieveLevel=IMAGE", f"StudyInstanceUID={STUDY}") for word in ("-k", key)]
    series = {one.SeriesInstanceUID for one in map(dcmread, dcmqrscp.files)}
    found = 0
    for uid in series:
        more = ["-k", f"SeriesInstanceUID={uid}", "-k", "SOPInstanceUID"]
        address = ["127.0.0.1", str(dcmqrscp.peer.port)]
        command = [_dcmtk("findscu"), "-S", "-v", "-aec", dcmqrscp.peer.ae_title, *keys, *more, *address]
        done = subprocess.run(
            command, capture_output=True, text=True, timeout=300, check=True, env=quick_network(os.environ)
        )
        found += (done.stdout + done.stderr).count("(Pending)")
    with source(dcmqrscp.peer, OURS, Patience(LIMITS)) as peer:
        assert sum(len(one.instances) for one in peer.catalogue(STUDY).values()) == found == len(dcmqrscp.files)


def test_dcmdump_reads_what_is_held(orthanc: Site) -> None:
    """Each held file is a Part 10 file to DCMTK as well."""
    retrieve(orthanc.peer, STUDY, orthanc.inbox, OURS, limits=LIMITS)
    paths = [str(one.path) for one in orthanc.inbox.instances(STUDY)]
    command = [find_tool("dcmdump", "dcmtk"), "-q", "+P", "0008,0018", *paths]
    done = subprocess.run(command, capture_output=True, timeout=300, check=True)
    assert done.stdout.count(b"SOPInstanceUID") == len(orthanc.files)


def test_a_dcmqrscp_that_dies_is_said(tmp_path: Path) -> None:
    """Nothing is held, nothing is claimed."""
    with open_inbox(tmp_path) as inbox, running_dcmqrscp(tmp_path / "pacs", ()) as pacs:
        pacs.fill([write_file(make_slice(0), tmp_path / "0.dcm")])
        pacs.die()
        result = retrieve(pacs.peer(Retrieve.C_GET), STUDY, inbox, OURS, limits=LIMITS)
    assert (result.code, result.stored, result.attempts) == ("PEER_UNREACHABLE", 0, 3)


def test_a_destination_that_dcmqrscp_does_not_know(tmp_path: Path) -> None:
    """What every new installation sees first, in words that say what to do."""
    with open_inbox(tmp_path) as inbox, running_dcmqrscp(tmp_path / "pacs", ()) as pacs:
        pacs.fill([write_file(make_slice(0), tmp_path / "0.dcm")])
        result = retrieve(pacs.peer(Retrieve.C_MOVE), STUDY, inbox, OURS, limits=LIMITS)
    assert (result.code, result.attempts) == ("PULL_DESTINATION_UNKNOWN", 1)


def _dcmtk(name: str) -> str:
    """DCMTK's own program: pynetdicom installs some of the same name beside Python."""
    folders = [one for one in os.environ.get("PATH", "").split(":") if not (Path(one) / "python").exists()]
    return next(str(Path(one) / name) for one in [*folders, "/usr/bin"] if (Path(one) / name).exists())
