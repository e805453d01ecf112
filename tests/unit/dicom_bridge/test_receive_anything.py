"""Every file of pydicom's own test data, many broken on purpose, and PDUs drawn at random: an answer, never a crash."""

from __future__ import annotations

import os
import socket
import threading
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pydicom.data
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pydicom.uid import ExplicitVRLittleEndian, ImplicitVRLittleEndian, MRImageStorage

from dicom_bridge.errors import InstanceRefused
from dicom_bridge.identify import identify
from dicom_bridge.inbox import Inbox
from dicom_bridge.listener import STORAGE_CLASSES, TRANSFER_SYNTAXES, Listener, ListenerLimits
from dicom_bridge.stream import read_part10
from dicom_bridge.uids import storable
from tests.simulators.modality_scu import association, store_raw
from tests.simulators.raw_peer import (
    ABORT,
    RELEASE,
    VERIFICATION,
    RawPeer,
    data,
    echo_command,
    item,
    pdu,
    pdv,
    request,
    store_command,
    user_information,
)
from tests.simulators.received import Clock
from tests.simulators.series import dataset_bytes, make_slice
from tests.simulators.waiting import until

CT = "1.2.840.10008.5.1.4.1.1.2"
ANSWERS = frozenset({0x0000, 0xA700, 0xA900, 0xC000, 0xC001})
DATA = Path(pydicom.data.__file__).parent
FILES = sorted(
    path for folder in ("test_files", "charset_files") for path in (DATA / folder).rglob("*") if path.is_file()
)


class Station:
    """A listener, its inbox, and what it reports."""

    def __init__(self, root: Path, limits: ListenerLimits) -> None:
        self.inbox = Inbox(root, Clock())
        self.faults: list[Any] = []
        self.listener = Listener("ZHIYING", "127.0.0.1", 0, self.inbox, limits=limits, on_fault=self.faults.append)
        self.listener.start()
        self.port = self.listener.port

    def close(self) -> None:
        """Stop."""
        self.listener.stop()
        self.inbox.close()


@pytest.fixture(scope="module")
def station(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Station]:
    """One for all: what one test leaves behind must not harm the next."""
    made = Station(tmp_path_factory.mktemp("anything") / "inbox", ListenerLimits(acse_s=20, dimse_s=20, network_s=20))
    yield made
    made.close()


def announced(path: Path) -> tuple[str, str, str, bytes]:
    """Class, instance and syntax that a sender of this file would announce, and the data set that it would send."""
    content = path.read_bytes()
    try:
        meta = read_part10(content)
    except InstanceRefused:
        # No file meta information, or none that can be read: sent as it lies there, under an invented name.
        return CT, "2.25.1", ImplicitVRLittleEndian, content
    sop_class = meta.sop_class if meta.sop_class in STORAGE_CLASSES else CT
    syntax = meta.transfer_syntax if meta.transfer_syntax in TRANSFER_SYNTAXES else ExplicitVRLittleEndian
    return sop_class, meta.sop_instance, syntax, content[meta.dataset_at :]


@pytest.mark.slow
def test_every_file_of_pydicom_has_its_answer(station: Station) -> None:
    """All in one association, a good image after each: a status of the table, the truth, and no harm to the next."""
    files = {path: announced(path) for path in FILES}
    assert len(files) > 150
    pairs = sorted({(sop_class, syntax) for sop_class, _, syntax, _ in files.values()})
    assert len(pairs) < 120
    numbers = {pair: 2 * number + 3 for number, pair in enumerate(pairs)}
    good = make_slice(0, seed="good")
    whole = dataset_bytes(good)
    stored = refused = 0
    with RawPeer(station.port) as peer:
        contexts = [(number, sop_class, [syntax]) for (sop_class, syntax), number in numbers.items()]
        peer.associate([(1, MRImageStorage, [ExplicitVRLittleEndian]), *contexts])
        for path, (sop_class, uid, syntax, encoded) in files.items():
            status = peer.store(numbers[sop_class, syntax], sop_class, uid, encoded)
            assert status in ANSWERS, path
            told = truth(encoded, syntax, sop_class, uid)
            assert (status == 0) is told, path
            stored, refused = stored + (status == 0), refused + (status != 0)
            if status == 0:
                station.inbox.open_studies()  # returns when the row is there
                held = station.inbox._index.instance(uid)
                assert held is not None
                kept = [held.path, *(one.path for one in station.inbox.conflicts())]
                assert any(one.read_bytes().endswith(encoded) for one in kept), path
            assert peer.store(1, MRImageStorage, good.SOPInstanceUID, whole) == 0, path
    assert stored > 60
    assert refused > 20
    assert station.faults == []


def truth(encoded: bytes, syntax: str, sop_class: str, uid: str) -> bool:
    """Whether the data set is whole, has its UIDs, and is what was announced."""
    try:
        found = identify(encoded, syntax)
    except InstanceRefused:
        return False
    return (found.sop_class, found.sop_uid) == (sop_class, uid) and storable(uid)


@pytest.mark.slow
def test_every_file_that_pynetdicom_would_send_is_answered(station: Station) -> None:
    """The same through a sender of the field, one association for each class and syntax."""
    by_pair: dict[tuple[str, str], list[tuple[str, bytes]]] = {}
    for path in FILES:
        sop_class, uid, syntax, encoded = announced(path)
        if storable(uid):
            by_pair.setdefault((sop_class, syntax), []).append((uid, encoded))
    for (sop_class, syntax), instances in by_pair.items():
        with association(station.port, [(sop_class, [syntax])]) as made:
            for uid, encoded in instances:
                assert store_raw(made, sop_class, uid, encoded).Status in ANSWERS
            assert made.is_established
    assert station.faults == []


# -- PDUs drawn at random

SLICE = make_slice(0, seed="fuzz")
WHOLE = dataset_bytes(SLICE)
STORE = store_command(MRImageStorage, SLICE.SOPInstanceUID)
CONTEXTS = [(1, VERIFICATION, [ImplicitVRLittleEndian]), (3, MRImageStorage, [ExplicitVRLittleEndian])]
ROLE = item(0x54, len(MRImageStorage).to_bytes(2, "big") + MRImageStorage.encode() + b"\1\0")
REQUESTS = [request(CONTEXTS), request(CONTEXTS, user=user_information(more=ROLE)), request([])]
PIECES = [
    *REQUESTS,
    data(3, 3, STORE),
    data(3, 2, WHOLE),
    data(3, 0, WHOLE[:300]),
    data(3, 2, WHOLE[300:]),
    data(1, 3, echo_command()),
    pdu(4, pdv(3, 3, STORE) + pdv(3, 2, WHOLE)),
    RELEASE,
    ABORT,
]


@st.composite
def conversation(draw: st.DrawFn) -> bytes:
    """What a peer sends: pieces of real conversations, some of them bent, random PDUs, random bytes."""
    sent = draw(st.sampled_from([b"", *REQUESTS, *REQUESTS]))
    for _ in range(draw(st.integers(0, 5))):
        piece = bytearray(
            draw(
                st.one_of(
                    st.sampled_from(PIECES),
                    st.binary(max_size=40),
                    st.builds(pdu, st.integers(0, 9), st.binary(max_size=60)),
                    st.builds(data, st.integers(0, 5), st.integers(0, 255), st.binary(max_size=60)),
                )
            )
        )
        for at, change in draw(st.lists(st.tuples(st.integers(0, 400), st.binary(min_size=1, max_size=4)), max_size=2)):
            piece[at : at + len(change)] = change
        sent += bytes(piece[: draw(st.integers(0, len(piece)))] if draw(st.booleans()) else piece)
    return sent


def descriptors() -> int:
    """How many this process has."""
    return len(os.listdir("/proc/self/fd"))  # noqa: PTH208 - only their number counts


def talk(port: int, sent: bytes) -> None:
    """Send, close our half, and read until the other side has closed."""
    with RawPeer(port) as peer:
        peer.send(sent)
        with suppress(OSError):
            peer.socket.shutdown(socket.SHUT_WR)
        with suppress(ConnectionError):
            while peer.socket.recv(65536):
                pass


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:.*(UID|AE title|value).*:UserWarning")
def test_no_conversation_harms_the_listener(tmp_path: Path) -> None:
    """Whatever is sent: the connection ends, nothing leaks, no fault of ours is reported, a good store is stored."""
    station = Station(tmp_path / "inbox", ListenerLimits(acse_s=20, dimse_s=20, network_s=20))
    # Once, so that what is made for the first store is there.
    talk(station.port, REQUESTS[0] + data(3, 3, STORE) + data(3, 2, WHOLE) + RELEASE)
    until(lambda: not station.listener._open())
    before = descriptors(), threading.active_count()

    @given(conversation())
    @settings(max_examples=300, deadline=None, suppress_health_check=list(HealthCheck))
    def converse(sent: bytes) -> None:
        talk(station.port, sent)
        until(lambda: not station.listener._open())
        assert station.faults == []

    converse()
    with RawPeer(station.port) as peer:
        peer.associate(CONTEXTS)
        last = make_slice(1, seed="fuzz")
        assert peer.store(3, MRImageStorage, last.SOPInstanceUID, dataset_bytes(last)) == 0
    until(lambda: not station.listener._open())
    assert station.inbox.activity.total() == 0
    until(lambda: descriptors() <= before[0] and threading.active_count() <= before[1])
    assert list((tmp_path / "inbox" / "incoming").iterdir()) == []
    station.close()
