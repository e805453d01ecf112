"""Associations with special wishes: served by stock pynetdicom on the same port, with the same inbox behind."""

from __future__ import annotations

import struct
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from pydicom.dataset import Dataset
from pydicom.uid import ExplicitVRLittleEndian, ImplicitVRLittleEndian, MRImageStorage
from pynetdicom import build_role, evt

from dicom_bridge import stocklane
from dicom_bridge.inbox import Inbox
from dicom_bridge.listener import AssociationEvent, Extra, Listener, ListenerLimits
from dicom_bridge.network import new_entity, no_delay
from tests.simulators.failing_disk import FailingDisk
from tests.simulators.modality_scu import store_raw
from tests.simulators.raw_peer import RawPeer, data, item, request, store_command, user_information
from tests.simulators.received import Clock
from tests.simulators.series import dataset_bytes, make_slice
from tests.simulators.waiting import until

STUDY = make_slice(0).StudyInstanceUID
COMMITMENT = "1.2.840.10008.1.20.1"
COMMITMENT_INSTANCE = "1.2.840.10008.1.20.1.1"
# Role selection for MR: as SCU, which is what it is anyway.
ROLE = item(0x54, struct.pack(">H", len(MRImageStorage)) + MRImageStorage.encode() + b"\1\0")
MR = [(1, MRImageStorage, [ExplicitVRLittleEndian])]


class Desk:
    """Somebody who answers N-ACTION."""

    def __init__(self) -> None:
        self.asked: list[Dataset] = []

    def extra(self) -> Extra:
        """What the listener is given."""
        contexts = ((COMMITMENT, (ImplicitVRLittleEndian,), True, True),)
        return Extra(contexts=contexts, handlers=((evt.EVT_N_ACTION, self._asked),))

    def _asked(self, event: Any) -> tuple[int, None]:
        self.asked.append(event.action_information)
        return 0x0000, None


class Station:
    """A listener with an extra service."""

    def __init__(self, root: Path, **limits: Any) -> None:
        self.disk, self.desk = FailingDisk(), Desk()
        self.inbox = Inbox(root, Clock(), disk=self.disk)
        self.events: list[tuple[str, AssociationEvent]] = []
        self.faults: list[Any] = []
        self.listener = Listener(
            "ZHIYING",
            "127.0.0.1",
            0,
            self.inbox,
            limits=ListenerLimits(**limits),
            extra=self.desk.extra(),
            on_association=lambda sender, event: self.events.append((sender, event)),
            on_fault=self.faults.append,
        )
        self.listener.start()
        self.port = self.listener.port

    def close(self) -> None:
        """Stop."""
        self.listener.stop()
        self.inbox.close()


@pytest.fixture
def station(tmp_path: Path) -> Iterator[Station]:
    """A station with ordinary limits."""
    made = Station(tmp_path / "inbox")
    yield made
    made.close()
    assert made.faults == []


@contextmanager
def special(port: int, *classes: str) -> Iterator[Any]:
    """An association with role selection, which the fast lane does not know."""
    entity = new_entity("SPECIAL")
    entity.acse_timeout = entity.dimse_timeout = entity.network_timeout = 30
    for sop_class in classes:
        entity.add_requested_context(sop_class, [ExplicitVRLittleEndian, ImplicitVRLittleEndian])
    roles = [build_role(sop_class, scu_role=True, scp_role=False) for sop_class in classes]
    handlers = [(evt.EVT_CONN_OPEN, no_delay)]
    made = entity.associate("127.0.0.1", port, ae_title="ZHIYING", ext_neg=roles, evt_handlers=handlers)
    try:
        yield made
    finally:
        if made.is_established:
            made.release()
        made.join(30)
        entity.close_socket()


def test_an_association_with_role_selection_stores(station: Station) -> None:
    """The A-ASSOCIATE-RQ that was read already is answered by pynetdicom, and what follows is stored as ever."""
    with special(station.port, MRImageStorage) as made:
        assert made.is_established
        assert len(station.listener._open()) == 1
        assert station.listener._open()[0].stock is not None
        for index in range(3):
            ds = make_slice(index)
            assert store_raw(made, MRImageStorage, ds.SOPInstanceUID, dataset_bytes(ds)).Status == 0
        assert station.inbox.open_associations(STUDY) == 1
    assert len(station.inbox.instances(STUDY)) == 3
    assert {one.sender for one in station.inbox.instances(STUDY)} == {"SPECIAL"}
    until(lambda: station.listener._open() == ())
    assert station.events == [("SPECIAL", AssociationEvent.OPENED), ("SPECIAL", AssociationEvent.CLOSED)]
    assert station.inbox.activity.total() == 0


def test_both_lanes_store_the_same(tmp_path: Path) -> None:
    """File by file, the same bytes; row by row, the same but for the path."""
    found = []
    for lane in ("fast", "stock"):
        station = Station(tmp_path / lane)
        user = user_information(more=ROLE) if lane == "stock" else user_information()
        with RawPeer(station.port) as peer:
            peer.associate(MR, user=user, calling="SAME")
            assert (station.listener._open()[0].stock is None) is (lane == "fast")
            for index in range(3):
                ds = make_slice(index)
                assert peer.store(1, MRImageStorage, ds.SOPInstanceUID, dataset_bytes(ds)) == 0
            urgent = make_slice(3)
            command = store_command(MRImageStorage, urgent.SOPInstanceUID, priority=1)
            peer.send(data(1, 3, command), data(1, 2, dataset_bytes(urgent)))
            assert peer.status() == 0
        station.inbox.input_digest(STUDY)  # which waits for those of all
        rows = station.inbox.instances(STUDY)
        found.append(
            ([one.path.read_bytes() for one in rows], [(one.digest, one.urgent, one.position) for one in rows])
        )
        station.close()
    assert found[0] == found[1]
    assert [urgent for _, urgent, _ in found[0][1]].count(True) == 1


@pytest.mark.parametrize("lane", ["fast", "stock"])
def test_both_lanes_refuse_the_same(tmp_path: Path, lane: str) -> None:
    """Status, comment, offending element and quarantine do not depend on the lane."""
    station = Station(tmp_path / "inbox")
    ds = make_slice(0)
    whole, name = dataset_bytes(ds), str(ds.SOPInstanceUID)
    cases = [
        (MRImageStorage, name, b"rubbish" * 9, 0xC000),
        (MRImageStorage, name, whole[:-1], 0xC000),
        (MRImageStorage, "2.25.9", whole, 0xC000),
        ("1.2.840.10008.5.1.4.1.1.2", name, whole, 0xA900),
    ]
    with RawPeer(station.port) as peer:
        peer.associate(MR, user=user_information(more=ROLE if lane == "stock" else b""))
        for sop_class, uid, encoded, status in cases:
            assert peer.store(1, sop_class, uid, encoded) == status
        station.disk.fail = {"adopt": "before"}
        assert peer.store(1, MRImageStorage, name, whole) == 0xA700
        station.disk.fail = {}
        assert peer.store(1, MRImageStorage, name, whole) == 0
    assert sorted(one.code for one in station.inbox.quarantined()) == sorted(
        ["DATASET_GARBLED", "DATASET_GARBLED", "UID_INVALID", "CLASS_MISMATCH"]
    )
    station.close()


def test_extra_services_are_served(station: Station) -> None:
    """N-ACTION of storage commitment, and storage in the very same association, as modalities do."""
    entity = new_entity("MODALITY")
    entity.add_requested_context(COMMITMENT, [ImplicitVRLittleEndian])
    entity.add_requested_context(MRImageStorage, [ExplicitVRLittleEndian])
    made = entity.associate("127.0.0.1", station.port, ae_title="ZHIYING", evt_handlers=[(evt.EVT_CONN_OPEN, no_delay)])
    assert made.is_established
    ds = make_slice(0)
    ds.file_meta = Dataset()
    ds.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    assert made.send_c_store(ds).Status == 0
    information = Dataset()
    information.TransactionUID = "2.25.1"
    status, _ = made.send_n_action(information, 1, COMMITMENT, COMMITMENT_INSTANCE)
    assert status.Status == 0
    assert [asked.TransactionUID for asked in station.desk.asked] == ["2.25.1"]
    made.release()
    made.join(30)
    entity.close_socket()
    assert len(station.inbox.instances(STUDY)) == 1


def test_an_association_that_wants_nothing_extra_takes_the_fast_lane(station: Station) -> None:
    """The presence of the service does not slow the others."""
    with RawPeer(station.port) as peer:
        peer.associate(MR)
        assert station.listener._open()[0].stock is None


def test_the_request_may_have_been_followed_by_more(station: Station) -> None:
    """A peer that does not wait for the acceptance: what follows the request is not lost in the handover."""
    ds = make_slice(0)
    with RawPeer(station.port) as peer:
        peer.send(request(MR, user=user_information(more=ROLE)))
        assert peer.pdu()[0] == 0x02
        assert peer.store(1, MRImageStorage, ds.SOPInstanceUID, dataset_bytes(ds), fragment=10) == 0


def test_a_pdu_without_measure_ends_the_association(station: Station) -> None:
    """pynetdicom would read 4 GiB into memory; here the connection is closed."""
    with RawPeer(station.port) as peer:
        peer.associate(MR, user=user_information(more=ROLE))
        peer.send(struct.pack(">BxL", 4, stocklane.PDU_BYTES_MAX + 1))
        assert peer.pdu()[0] in (0, 7)
    until(lambda: station.listener._open() == ())


@pytest.mark.slow
def test_a_peer_that_stops_in_mid_pdu_is_let_go(tmp_path: Path) -> None:
    """pynetdicom would wait for the rest for ever, and its thread with it."""
    station = Station(tmp_path / "inbox", dimse_s=0.6)
    with RawPeer(station.port) as peer:
        peer.associate(MR, user=user_information(more=ROLE))
        peer.send(data(1, 3, store_command(MRImageStorage, "1.2"))[:20])
        assert peer.pdu()[0] in (0, 7)
        until(lambda: station.listener._open() == ())
    station.close()


def test_stopping_aborts_it(tmp_path: Path) -> None:
    """stop ends stock associations too, and leaves none of their threads."""
    station = Station(tmp_path / "inbox")
    before = threading.active_count()
    with special(station.port, MRImageStorage) as made:
        station.listener.stop()
        until(lambda: made.is_aborted or not made.is_established)
    until(lambda: threading.active_count() <= before)
    station.inbox.close()
