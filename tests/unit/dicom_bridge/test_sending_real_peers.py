"""Sending to programs that we did not write: Orthanc (storage commitment, C-FIND, STOW-RS), DCMTK's two servers."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import httpx
import pytest
from pydicom import dcmread

from dicom_bridge.commitment import CommitmentDesk
from dicom_bridge.commitment_messages import Request
from dicom_bridge.commitment_scu import request
from dicom_bridge.delivery import Transport, store
from dicom_bridge.inbox import Inbox, InboxLimits
from dicom_bridge.ledger import Batch, Proof, State
from dicom_bridge.listener import Listener
from dicom_bridge.orthanc import OrthancReader
from dicom_bridge.outbox import Outbox
from dicom_bridge.peers import Peer, Send
from dicom_bridge.query import find_held, find_instances
from service.demo.pacs import quick_network
from service.demo.servers import Servers, answers, find_tool, free_port
from tests.simulators import series
from tests.simulators.dcmqrscp import running_dcmqrscp
from tests.simulators.orthanc import Node, Orthanc, running_orthanc
from tests.simulators.waiting import until

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]
OURS = "ZHIYING"


class House:
    """Listener, desk and outbox of one installation, on the real clock that may be put forward."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.told: list[Batch] = []
        self.inbox = Inbox(root / "spool", self.now, limits=InboxLimits(free_bytes_min=0))
        self.outbox: Outbox | None = None
        self.desk = CommitmentDesk(
            root / "commitment", self.now, peers={}, calling_ae=OURS, held=lambda _uid: None, reports=self._reported
        )
        self.listener = Listener(OURS, "127.0.0.1", 0, self.inbox, extra=self.desk.extra())
        self.listener.start()

    def now(self) -> datetime:
        """The machine's clock."""
        return datetime.now(UTC)

    def _reported(self, *given: Any) -> int:
        return 0x0213 if self.outbox is None else self.outbox.report(*given)

    def open_outbox(self, peer: Peer, transport: Transport | None = None) -> Outbox:
        """Start sending to this peer."""
        self.outbox = Outbox(
            self.root / "outbox",
            self.now,
            self.told.append,
            peers={peer.name: peer},
            calling_ae=OURS,
            transport=transport,
        )
        self.outbox.start()
        return self.outbox

    def close(self) -> None:
        """End everything."""
        self.listener.stop()
        self.desk.stop()
        if self.outbox is not None:
            self.outbox.stop()
        self.inbox.close()


@pytest.fixture
def house(tmp_path: Path) -> Iterator[House]:
    """One installation."""
    made = House(tmp_path / "house")
    yield made
    made.close()


@pytest.fixture
def files(tmp_path: Path) -> list[Path]:
    """Three results of one series."""
    return sorted(series.write_series(tmp_path / "results", 3, shape=(8, 8)))


def uids_of(files: list[Path]) -> set[str]:
    """Their SOP Instance UIDs."""
    return {str(dcmread(path).SOPInstanceUID) for path in files}


def in_orthanc(orthanc: Orthanc, files: list[Path]) -> dict[str, str]:
    """Orthanc's own identifiers of what it has of the files' study, by SOP Instance UID."""
    study = str(dcmread(files[0]).StudyInstanceUID)
    with OrthancReader(orthanc.url) as reader:
        return {uid: one for stored in reader.series(study) for uid, one in stored.instances.items()}


@contextmanager
def orthanc_that_knows(house: House, root: Path) -> Iterator[Orthanc]:
    """An Orthanc that lets us in, and knows where to report to."""
    with running_orthanc(root, known=(Node("zhiying", OURS, house.listener.port),)) as orthanc:
        yield orthanc


def peer_of(orthanc: Orthanc, **abilities: Any) -> Peer:
    """How a configuration names it."""
    return Peer("pacs", orthanc.ae_title, "127.0.0.1", orthanc.dicom_port, **abilities)


def test_orthanc_commits_on_an_association_of_its_own(house, files, tmp_path) -> None:
    """C-STORE, N-ACTION; Orthanc calls us and reports; C-FIND confirms; only then is anybody told."""
    with orthanc_that_knows(house, tmp_path / "orthanc") as orthanc:
        peer = peer_of(orthanc, commitment=True, counts=True)
        outbox = house.open_outbox(peer)
        outbox.enqueue("call-1", "pacs", files)
        until(lambda: house.told)
        assert [(batch.id, batch.proof) for batch in house.told] == [("call-1", Proof.COMMITMENT)]
        assert set(in_orthanc(orthanc, files)) == uids_of(files)
        ds = dcmread(files[0])
        assert find_instances(peer, ds.StudyInstanceUID, ds.SeriesInstanceUID, OURS) == uids_of(files)
        assert find_instances(peer, ds.StudyInstanceUID, "1.2.3", OURS) == frozenset()


def test_orthanc_that_has_lost_an_object_says_so(house, files, tmp_path) -> None:
    """Deleted between the C-STORE and the request: the report names it, it goes again, and then all is committed."""
    with orthanc_that_knows(house, tmp_path / "orthanc") as orthanc:
        deleted: list[str] = []

        def delete_then_ask(wanted: Request, *given: Any) -> int:
            if not deleted:
                uid, identifier = min(in_orthanc(orthanc, files).items())
                httpx.delete(f"{orthanc.url}/instances/{identifier}").raise_for_status()
                deleted.append(uid)
            return request(wanted, *given)

        transport = Transport(store, delete_then_ask, find_held)
        outbox = house.open_outbox(peer_of(orthanc, commitment=True, counts=True), transport)
        outbox.enqueue("call-1", "pacs", files)
        until(lambda: (found := outbox.batch("call-1")) is not None and found.losses == 1)
        lost = outbox.batch("call-1")
        assert lost is not None
        assert lost.code == "COMMITMENT_0112"
        assert [output.uid for output in lost.outputs if not output.stored] == deleted
        outbox.wake()
        until(lambda: house.told)
        assert house.told[0].proof is Proof.COMMITMENT
        assert set(in_orthanc(orthanc, files)) == uids_of(files)


def test_orthanc_takes_stow_and_confirms_by_find(house, files, tmp_path) -> None:
    """By its DICOMweb plugin, in one request; what it answers is read instance by instance."""
    with orthanc_that_knows(house, tmp_path / "orthanc") as orthanc:
        peer = peer_of(orthanc, counts=True, send=Send.STOW_RS, web=f"{orthanc.url}/dicom-web")
        result = store(files, peer, OURS)
        assert (result.statuses, result.error) == ((0, 0, 0), None)
        outbox = house.open_outbox(peer)
        outbox.enqueue("call-1", "pacs", files)
        until(lambda: house.told)
        assert house.told[0].proof is Proof.FOUND
        assert set(in_orthanc(orthanc, files)) == uids_of(files)
        wrong = peer_of(orthanc, send=Send.STOW_RS, web=f"{orthanc.url}/nothing-here")
        refused = store(files, wrong, OURS)
        assert (refused.error, refused.hopeless) == ("HTTP_404", False)


def test_storescp_knows_nothing_else_and_is_believed(house, files, tmp_path) -> None:
    """DCMTK's plain storage server: its answers are all that there is."""
    folder = tmp_path / "stored"
    folder.mkdir()
    port = free_port()
    with Servers(tmp_path / "servers.json") as servers:
        command = [find_tool("storescp", "dcmtk"), "-aet", "DCMTK", "-od", str(folder), str(port)]
        log = tmp_path / "storescp.log"
        pid = servers.start("storescp", command, log=log, environment=quick_network(os.environ))
        servers.wait_until(pid, lambda: answers(port), log=log)
        peer = Peer("pacs", "DCMTK", "127.0.0.1", port)
        outbox = house.open_outbox(peer)
        outbox.enqueue("call-1", "pacs", files)
        until(lambda: house.told)
        assert house.told[0].proof is Proof.ANSWERED
        assert len(list(folder.iterdir())) == len(files)
        # Configured to do what it cannot: no context for either, and nobody is told that it was committed.
        outbox.stop()
        outbox = house.open_outbox(Peer("pacs", "DCMTK", "127.0.0.1", port, counts=True, commitment=True))
        outbox.enqueue("call-2", "pacs", files)
        until(lambda: (found := outbox.batch("call-2")) is not None and found.code == "PEER_NO_CONTEXT")
        assert outbox.state("call-2") is State.PENDING
    assert [batch.id for batch in house.told] == ["call-1"]


def test_dcmqrscp_confirms_by_find(house, files, tmp_path) -> None:
    """DCMTK's archive lists what it has at IMAGE level."""
    with running_dcmqrscp(tmp_path / "qr", (Node("zhiying", OURS, house.listener.port),)) as archive:
        outbox = house.open_outbox(archive.peer())
        outbox.enqueue("call-1", "qrscp", files)
        until(lambda: house.told)
        assert house.told[0].proof is Proof.FOUND
        ds = dcmread(files[0])
        found = find_instances(archive.peer(), ds.StudyInstanceUID, ds.SeriesInstanceUID, OURS)
        assert found == uids_of(files)
