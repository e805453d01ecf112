"""The fast lane, PDU by PDU: what PS3.8 section 9.2 says of state 6, what PS3.7 says of messages, and all limits."""

from __future__ import annotations

import struct
import threading
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from pydicom.uid import CTImageStorage, ExplicitVRLittleEndian, ImplicitVRLittleEndian, MRImageStorage

from dicom_bridge.inbox import Inbox, InboxLimits
from dicom_bridge.listener import Listener, ListenerLimits
from tests.simulators.failing_disk import FailingDisk
from tests.simulators.raw_peer import (
    ABORT,
    RELEASE,
    VERIFICATION,
    RawPeer,
    command,
    data,
    echo_command,
    pdu,
    pdv,
    request,
    short,
    store_command,
    uid,
    user_information,
)
from tests.simulators.received import Clock
from tests.simulators.series import dataset_bytes, make_slice
from tests.simulators.waiting import until

STUDY = make_slice(0).StudyInstanceUID
ECHO, MR, IMPLICIT, CT = 1, 3, 5, 7
CONTEXTS = [
    (ECHO, VERIFICATION, [ImplicitVRLittleEndian]),
    (MR, MRImageStorage, [ExplicitVRLittleEndian]),
    (IMPLICIT, MRImageStorage, [ImplicitVRLittleEndian]),
    (CT, CTImageStorage, [ExplicitVRLittleEndian]),
]
PDU_MAX = 32_768
LIMITS = ListenerLimits(pdu_bytes_max=PDU_MAX)


class Station:
    """A listener, its inbox and its disk."""

    def __init__(self, root: Path, limits: ListenerLimits = LIMITS, inbox_limits: InboxLimits | None = None) -> None:
        self.disk = FailingDisk()
        self.inbox = Inbox(root, Clock(), disk=self.disk, limits=inbox_limits)
        self.faults: list[Any] = []
        self.listener = Listener("ZHIYING", "127.0.0.1", 0, self.inbox, limits=limits, on_fault=self.faults.append)
        self.listener.start()
        self.port = self.listener.port

    def fresh(self, root: Path) -> None:
        """Go on with an empty inbox."""
        self.inbox.close()
        self.disk = FailingDisk()
        self.inbox = self.listener._inbox = Inbox(root, Clock(), disk=self.disk)
        self.faults.clear()

    def close(self) -> None:
        """Stop all."""
        self.listener.stop()
        self.inbox.close()

    def held(self) -> int:
        """How many instances of the study are held."""
        return len(self.inbox.instances(STUDY))


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Station]:
    """One listener for most tests."""
    made = Station(tmp_path_factory.mktemp("first") / "inbox")
    yield made
    made.close()


@pytest.fixture
def station(shared: Station, tmp_path: Path) -> Iterator[Station]:
    """The shared listener with ordinary limits on an inbox of its own; no fault of ours is ever reported."""
    shared.fresh(tmp_path / "inbox")
    yield shared
    until(lambda: not shared.listener._open())
    assert shared.faults == []
    assert list((tmp_path / "inbox" / "incoming").iterdir()) == []


def impatient(root: Path, **limits: float) -> Station:
    """A station that waits for nobody."""
    return Station(root, ListenerLimits(**{"pdu_bytes_max": PDU_MAX, **limits}))  # type: ignore[arg-type]


def one(index: int = 0) -> tuple[str, bytes]:
    """SOP Instance UID and encoded data set of a slice."""
    ds = make_slice(index)
    return str(ds.SOPInstanceUID), dataset_bytes(ds)


def still_works(station: Station) -> None:
    """A new association stores: nothing that happened before has harmed the listener."""
    with RawPeer(station.port) as peer:
        peer.associate(CONTEXTS)
        name, encoded = one(9)
        assert peer.store(MR, MRImageStorage, name, encoded) == 0
        peer.send(RELEASE)
        assert peer.pdu()[0] == 0x06


# -- negotiation, as it leaves the listener


def test_what_is_accepted_is_what_can_be_stored(station: Station) -> None:
    """Each context has its result; the acceptance carries our maximum length, class UID and version name."""
    with RawPeer(station.port) as peer:
        contexts = [
            *CONTEXTS,
            (9, "1.2.3.4", [ExplicitVRLittleEndian]),
            (11, MRImageStorage, ["1.2.840.10008.1.2.4.92"]),
        ]
        body = peer.associate(contexts)
    results = {}
    at = 68
    while at < len(body):
        kind, length = struct.unpack_from(">BxH", body, at)
        if kind == 0x21:
            results[body[at + 4]] = body[at + 6]
        at += 4 + length
    assert results == {ECHO: 0, MR: 0, IMPLICIT: 0, CT: 0, 9: 3, 11: 4}
    assert struct.pack(">BxHL", 0x51, 4, PDU_MAX) in body
    assert b"ZHIYING_1" in body
    assert body[4:36] == b"ZHIYING".ljust(16) + b"RAWPEER".ljust(16)


# -- the state table: what arrives in state 6, and what must come of it

USER_ABORT, UNRECOGNIZED, UNEXPECTED, INVALID = (0, 0), (2, 1), (2, 2), (2, 6)
NAME, WHOLE = one()
STORE = store_command(MRImageStorage, NAME)

STATE_6 = {
    "A-ASSOCIATE-RQ": (request(CONTEXTS), UNEXPECTED),
    "A-ASSOCIATE-AC": (pdu(0x02, bytes(68)), UNEXPECTED),
    "A-ASSOCIATE-RJ": (pdu(0x03, bytes(4)), UNEXPECTED),
    "A-RELEASE-RP": (pdu(0x06, bytes(4)), UNEXPECTED),
    "a PDU of type 0": (pdu(0x00, bytes(4)), UNRECOGNIZED),
    "a PDU of type 8": (pdu(0x08, bytes(4)), UNRECOGNIZED),
    "HTTP": (b"GET / HTTP/1.1\r\nHost: x\r\n\r\n", UNRECOGNIZED),
    "an empty P-DATA-TF": (pdu(0x04, b""), INVALID),
    "a P-DATA-TF longer than announced": (struct.pack(">BxL", 4, PDU_MAX + 1), INVALID),
    "a P-DATA-TF of 4 GiB": (struct.pack(">BxL", 4, 0xFFFFFFFF), INVALID),
    "a P-DATA-TF with half a PDV header": (pdu(0x04, bytes(5)), INVALID),
    "a PDV of length 0": (pdu(0x04, struct.pack(">LBB", 0, MR, 3)), INVALID),
    "a PDV of length 1": (pdu(0x04, struct.pack(">LBB", 1, MR, 3)), INVALID),
    "a PDV longer than its PDU": (pdu(0x04, struct.pack(">LBB", 1000, MR, 3) + STORE), INVALID),
    "a PDV of 4 GiB": (pdu(0x04, struct.pack(">LBB", 0xFFFFFFFF, MR, 3) + STORE), INVALID),
    "a second PDV cut short": (pdu(0x04, pdv(MR, 3, STORE) + bytes(3)), INVALID),
    "a context that was not proposed": (data(99, 3, STORE), INVALID),
    "context 0": (data(0, 3, STORE), INVALID),
    "a data set without a command": (data(MR, 2, WHOLE), USER_ABORT),
    "a command that is none": (data(MR, 3, b"rubbish"), USER_ABORT),
    "an empty command": (data(MR, 3, b""), USER_ABORT),
    "a command in two contexts": (data(MR, 1, STORE[:20]) + data(CT, 3, STORE[20:]), INVALID),
    "a command in the middle of a command's data": (
        data(MR, 3, STORE) + data(MR, 0, WHOLE[:50]) + data(MR, 3, STORE),
        USER_ABORT,
    ),
    "a data set in another context": (data(MR, 3, STORE) + data(CT, 2, WHOLE), INVALID),
    "a data set that begins in the middle of a command": (data(MR, 1, STORE[:20]) + data(MR, 2, WHOLE), USER_ABORT),
    "an answer that nobody asked for": (
        data(
            MR, 3, command([(0x0100, short(0x8001)), (0x0120, short(1)), (0x0800, short(0x0101)), (0x0900, short(0))])
        ),
        USER_ABORT,
    ),
    "a command without an end": (b"".join(data(MR, 1, bytes(30_000)) for _ in range(4)), USER_ABORT),
}


@pytest.mark.parametrize(("bad", "abort"), STATE_6.values(), ids=STATE_6.keys())
def test_what_has_no_place_in_state_6_ends_in_an_abort(station: Station, bad: bytes, abort: tuple[int, int]) -> None:
    """A-ABORT with source and reason of PS3.8 table 9-26, then the connection is closed; nothing is stored."""
    with RawPeer(station.port) as peer:
        peer.associate(CONTEXTS)
        peer.send(bad)
        assert peer.pdu() == (0x07, bytes((0, 0, *abort)))
        assert peer.ended()
    assert station.held() == 0
    still_works(station)


@pytest.mark.parametrize(
    ("first", "answer"),
    [
        (pdu(0x04, pdv(1, 3, STORE)), (0x07, bytes((0, 0, 0, 0)))),
        (RELEASE, (0x07, bytes((0, 0, 0, 0)))),
        (b"GET / HTTP/1.1\r\n\r\n", (0x07, bytes((0, 0, 0, 0)))),
        (ABORT, (0, b"")),
        (b"", (0, b"")),
        (struct.pack(">BxL", 1, 0xFFFFFFFF), (0x07, bytes((0, 0, 2, 6)))),
        (pdu(0x01, b"\0\1"), (0x07, bytes((0, 0, 2, 6)))),
    ],
    ids=["P-DATA-TF", "A-RELEASE-RQ", "HTTP", "A-ABORT", "nothing", "a request of 4 GiB", "a request of two bytes"],
)
def test_what_has_no_place_in_state_2_ends_in_an_abort(
    station: Station, first: bytes, answer: tuple[int, bytes]
) -> None:
    """Before an association nothing but A-ASSOCIATE-RQ is taken (PS3.8 table 9-10, state 2)."""
    with RawPeer(station.port) as peer:
        peer.send(first)
        if not first:
            peer.socket.shutdown(1)
        assert peer.pdu() == answer
        assert answer == (0, b"") or peer.ended()
    still_works(station)


def test_a_release_is_answered_and_the_connection_closed(station: Station) -> None:
    """A-RELEASE-RP; in the middle of a data set too, of which nothing is kept."""
    for begun in (b"", data(MR, 3, STORE), data(MR, 3, STORE) + data(MR, 0, WHOLE[:100])):
        with RawPeer(station.port) as peer:
            peer.associate(CONTEXTS)
            peer.send(begun, RELEASE)
            assert peer.pdu() == (0x06, bytes(4))
            assert peer.ended()
    assert station.held() == 0
    assert station.inbox.quarantined() == ()


def test_an_abort_closes_the_connection_without_a_word(station: Station) -> None:
    """In the middle of a data set too, of which nothing is kept."""
    for begun in (b"", data(MR, 3, STORE), data(MR, 3, STORE) + data(MR, 0, WHOLE[:100])):
        with RawPeer(station.port) as peer:
            peer.associate(CONTEXTS)
            peer.send(begun, ABORT)
            assert peer.ended()
    assert station.held() == 0
    assert station.inbox.quarantined() == ()


# -- messages, in every shape that the standard allows


def in_fragments(encoded: bytes, size: int, *, context: int = MR, bit: int = 0) -> list[bytes]:
    """PDVs of this many bytes each, the last one marked."""
    starts = range(0, len(encoded), size)
    return [pdv(context, bit | (2 if at + size >= len(encoded) else 0), encoded[at : at + size]) for at in starts]


SHAPES = {
    "one PDU for each": [pdv(MR, 3, STORE), pdv(MR, 2, WHOLE)],
    "a command byte by byte": [*in_fragments(STORE, 1, bit=1), pdv(MR, 2, WHOLE)],
    "a data set of seven bytes at a time": [pdv(MR, 3, STORE), *in_fragments(WHOLE, 7)],
    "an empty last fragment": [pdv(MR, 3, STORE), pdv(MR, 0, WHOLE), pdv(MR, 2, b"")],
    "empty fragments all over": [
        *(pdv(MR, 1, b""), pdv(MR, 1, STORE), pdv(MR, 3, b""), pdv(MR, 0, b"")),
        *(pdv(MR, 0, WHOLE), pdv(MR, 0, b""), pdv(MR, 2, b"")),
    ],
}


@pytest.mark.parametrize("together", [1, 2, 1000], ids=["alone", "in pairs", "all in one PDU"])
@pytest.mark.parametrize("pdvs", SHAPES.values(), ids=SHAPES.keys())
def test_a_message_may_have_any_shape(station: Station, pdvs: list[bytes], together: int) -> None:
    """However it is cut into PDVs, and these put into PDUs, the same bytes are stored (PS3.8 annex E)."""
    pdus, room = [], b""
    for number, value in enumerate(pdvs):
        if room and (number % together == 0 or len(room) + len(value) > PDU_MAX):
            pdus.append(pdu(0x04, room))
            room = b""
        room += value
    pdus.append(pdu(0x04, room))
    with RawPeer(station.port) as peer:
        peer.associate(CONTEXTS)
        peer.send(*pdus)
        assert peer.status() == 0
        # And the next message is found where this one ended.
        peer.send(data(ECHO, 3, echo_command()))
        assert peer.status() == 0
    (held,) = station.inbox.instances(STUDY)
    assert held.path.read_bytes().endswith(WHOLE)


def test_a_message_may_come_byte_by_byte_from_the_network(station: Station) -> None:
    """TCP may deliver anything; what counts are the PDUs."""
    with RawPeer(station.port) as peer:
        peer.associate(CONTEXTS)
        for start in range(0, len(whole := data(MR, 3, STORE) + data(MR, 2, WHOLE)), 37):
            peer.send(whole[start : start + 37])
        assert peer.status() == 0
    assert station.held() == 1


def test_commands_before_the_answer_are_answered_in_order(station: Station) -> None:
    """A peer that does not wait is served all the same, one message after the other."""
    with RawPeer(station.port) as peer:
        peer.associate(CONTEXTS)
        names = [one(index) for index in range(3)]
        for number, (name, encoded) in enumerate(names):
            peer.send(data(MR, 3, store_command(MRImageStorage, name, message=number)), data(MR, 2, encoded))
        answers = [peer.answer() for _ in names]
    assert [int.from_bytes(answer[0x0120], "little") for answer in answers] == [0, 1, 2]
    assert station.held() == 3


def test_a_class_is_stored_in_each_of_its_contexts(station: Station) -> None:
    """The context decides the transfer syntax that the file is given."""
    ds = make_slice(1)
    with RawPeer(station.port) as peer:
        peer.associate(CONTEXTS)
        encoded = dataset_bytes(ds, ImplicitVRLittleEndian)
        assert peer.store(IMPLICIT, MRImageStorage, str(ds.SOPInstanceUID), encoded) == 0
    (held,) = station.inbox.instances(STUDY)
    assert ImplicitVRLittleEndian.encode() in held.path.read_bytes()[:400]


def test_an_urgent_request_makes_the_instance_urgent(station: Station, tmp_path: Path) -> None:
    """Priority HIGH is kept, in the index and in the file, so that a lost index finds it again."""
    with RawPeer(station.port) as peer:
        peer.associate(CONTEXTS)
        for index, priority in enumerate((0, 1, 2)):
            name, encoded = one(index)
            peer.send(data(MR, 3, store_command(MRImageStorage, name, priority=priority)), data(MR, 2, encoded))
            assert peer.status() == 0
    urgent = {held.instance_number: held.urgent for held in station.inbox.instances(STUDY)}
    assert urgent == {1: False, 2: True, 3: False}
    station.inbox.close()
    (tmp_path / "inbox" / "index.sqlite").unlink()
    station.inbox = station.listener._inbox = Inbox(tmp_path / "inbox", Clock())
    assert {held.instance_number: held.urgent for held in station.inbox.instances(STUDY)} == urgent


# -- what a command asks for


def test_echo_is_answered(station: Station) -> None:
    """C-ECHO: 0x0000, as often as asked."""
    with RawPeer(station.port) as peer:
        peer.associate(CONTEXTS)
        for number in range(3):
            peer.send(data(ECHO, 3, echo_command(number)))
            answer = peer.answer()
            assert (answer[0x0100], answer[0x0120], answer[0x0900]) == (short(0x8030), short(number), short(0))


@pytest.mark.parametrize("field", [0x0020, 0x0021, 0x0010, 0x0140, 0x0130, 0x0100, 0x7777])
@pytest.mark.parametrize("with_data", [False, True])
def test_an_operation_that_is_not_served_is_said_so(station: Station, field: int, with_data: bool) -> None:
    """0x0211 (PS3.7 annex C), its data set read and thrown away; the association goes on."""
    asked = [(0x0002, uid("1.2.840.10008.5.1.4.1.2.2.1")), (0x0100, short(field)), (0x0110, short(5))]
    with RawPeer(station.port) as peer:
        peer.associate(CONTEXTS)
        peer.send(data(MR, 3, command([*asked, (0x0800, short(1 if with_data else 0x0101))])))
        if with_data:
            peer.send(*(data(MR, 2 if number == 9 else 0, bytes(10_000)) for number in range(10)))
        answer = peer.answer()
        assert (answer[0x0900], answer[0x0100]) == (short(0x0211), short(field | 0x8000))
        name, encoded = one()
        assert peer.store(MR, MRImageStorage, name, encoded) == 0
    assert station.inbox.quarantined() == ()


def test_a_cancel_is_not_answered(station: Station) -> None:
    """There is nothing to cancel, and C-CANCEL has no response (PS3.7 section 9.3.2.3)."""
    with RawPeer(station.port) as peer:
        peer.associate(CONTEXTS)
        cancel = command([(0x0100, short(0x0FFF)), (0x0120, short(3)), (0x0800, short(0x0101))])
        peer.send(data(MR, 3, cancel), data(ECHO, 3, echo_command(77)))
        assert peer.answer()[0x0120] == short(77)


REFUSALS = {
    "no data set": (data(MR, 3, store_command(MRImageStorage, NAME, data_set=0x0101)), 0xC000, None, 0),
    "an empty data set": (data(MR, 3, STORE) + data(MR, 2, b""), 0xC000, 0x00080016, 1),
    "garbled": (data(MR, 3, STORE) + data(MR, 2, b"rubbish" * 9), 0xC000, 0x75726262, 1),
    "cut off": (data(MR, 3, STORE) + data(MR, 2, WHOLE[:-1]), 0xC000, 0x7FE00010, 1),
    "another class than the context": (data(CT, 3, STORE) + data(CT, 2, WHOLE), 0xA900, 0x00080016, 1),
    "another class than the data set": (
        data(CT, 3, store_command(CTImageStorage, NAME)) + data(CT, 2, WHOLE),
        0xA900,
        0x00080016,
        1,
    ),
    "another instance": (
        data(MR, 3, store_command(MRImageStorage, "2.25.9")) + data(MR, 2, WHOLE),
        0xC000,
        0x00080018,
        1,
    ),
    "a UID that is a path": (
        data(MR, 3, store_command(MRImageStorage, "../../x")) + data(MR, 2, WHOLE),
        0xC000,
        0x00080018,
        1,
    ),
    "in a context of Verification": (
        data(ECHO, 3, STORE) + data(ECHO, 2, WHOLE),
        0x0122,
        0x00080016,
        1,
    ),
    "echo in a context of storage": (data(MR, 3, echo_command()), 0x0122, None, 0),
    "no class and no instance in the request": (
        data(MR, 3, command([(0x0100, short(1)), (0x0110, short(1)), (0x0800, short(1))])) + data(MR, 2, WHOLE),
        0xA900,
        0x00080016,
        1,
    ),
}


@pytest.mark.parametrize(("sent", "status", "tag", "kept"), REFUSALS.values(), ids=REFUSALS.keys())
def test_a_refusal_has_its_status_and_the_association_goes_on(
    station: Station, sent: bytes, status: int, tag: int | None, kept: int
) -> None:
    """Status, ErrorComment and OffendingElement of PS3.4 table B.2-1; a copy in quarantine; the next one is stored."""
    with RawPeer(station.port) as peer:
        peer.associate(CONTEXTS)
        peer.send(sent)
        answer = peer.answer()
        assert answer[0x0900] == short(status)
        assert 0 < len(answer[0x0902]) <= 64
        wanted = None if tag is None else struct.pack("<HH", tag >> 16, tag & 0xFFFF)
        assert answer.get(0x0901) == wanted
        name, encoded = one(5)
        assert peer.store(MR, MRImageStorage, name, encoded) == 0
    assert len(station.inbox.quarantined()) == kept
    assert station.held() == 1


def test_an_instance_beyond_the_limit_is_read_to_its_end_and_refused(tmp_path: Path) -> None:
    """0xC001; what is too much is thrown away as it comes, nothing is kept, and the association goes on."""
    station = Station(tmp_path / "inbox", inbox_limits=InboxLimits(instance_bytes_max=50_000))
    with RawPeer(station.port) as peer:
        peer.associate(CONTEXTS)
        assert peer.store(MR, MRImageStorage, NAME, bytes(500_000)) == 0xC001
        name, encoded = one(5)
        assert peer.store(MR, MRImageStorage, name, encoded) == 0
    assert station.inbox.quarantined() == ()
    assert list((tmp_path / "inbox" / "incoming").iterdir()) == []
    station.close()


def test_more_than_may_be_thrown_away_ends_the_association(tmp_path: Path) -> None:
    """A peer that sends without end what was refused long ago is aborted."""
    limits = ListenerLimits(pdu_bytes_max=PDU_MAX, discard_bytes_max=100_000)
    station = Station(tmp_path / "inbox", limits, InboxLimits(instance_bytes_max=50_000))
    with RawPeer(station.port) as peer:
        peer.associate(CONTEXTS)
        peer.send(data(MR, 3, STORE), *(data(MR, 0, bytes(30_000)) for _ in range(20)))
        assert peer.pdu() == (0x07, bytes((0, 0, 0, 0)))
    still_works(station)
    station.close()


@pytest.mark.parametrize("peer_max", [0, 100, 128, 1000, 131_072])
def test_answers_fit_into_what_the_peer_takes(station: Station, peer_max: int) -> None:
    """PDUs no longer than the peer's maximum length; 0 means any (PS3.8 annex D.1)."""
    with RawPeer(station.port) as peer:
        peer.associate(CONTEXTS, user=user_information(peer_max))
        peer.send(data(MR, 3, STORE) + data(MR, 2, b"rubbish" * 9))
        whole = b""
        while True:
            kind, body = peer.pdu()
            assert kind == 0x04
            assert len(body) <= (peer_max or 131_072)
            whole += body[6:]
            if body[5] & 2:
                break
        assert b"not well formed" in whole


def test_a_peer_with_an_absurd_maximum_gets_answers_all_the_same(station: Station) -> None:
    """No element fits into ten bytes; such a peer does not mean it."""
    with RawPeer(station.port) as peer:
        peer.associate(CONTEXTS, user=user_information(10))
        assert peer.store(MR, MRImageStorage, *one()) == 0


# -- memory and disk


@pytest.mark.slow
def test_a_large_instance_goes_through_a_small_buffer(station: Station) -> None:
    """64 MiB arrive while our buffer has one PDU: what comes is written, and the outline is walked in the file."""
    ds = make_slice(0, shape=(4096, 8192))
    encoded = dataset_bytes(ds)
    with RawPeer(station.port) as peer:
        peer.associate(CONTEXTS)
        assert peer.store(MR, MRImageStorage, str(ds.SOPInstanceUID), encoded, fragment=32_000) == 0
    (held,) = station.inbox.instances(STUDY)
    assert held.path.stat().st_size > len(encoded) > 64 << 20
    assert (held.rows, held.columns) == (4096, 8192)


def test_a_disk_that_fills_up_under_an_instance_is_noticed(tmp_path: Path) -> None:
    """The reserve is looked at while an instance arrives, not only before: 0xA700, and nothing of it stays."""
    station = Station(tmp_path / "inbox", inbox_limits=InboxLimits(free_bytes_min=1000))
    free = iter([10 << 30, 500])
    station.disk.free_bytes = lambda _path: next(free)  # type: ignore[method-assign]
    with RawPeer(station.port) as peer:
        peer.associate(CONTEXTS)
        assert peer.store(MR, MRImageStorage, NAME, bytes(20 << 20), fragment=32_000) == 0xA700
    assert station.held() == 0
    assert list((tmp_path / "inbox" / "incoming").iterdir()) == []
    station.close()


# -- limits in time


@pytest.mark.slow
def test_a_peer_that_stops_in_the_middle_of_a_pdu_is_aborted(tmp_path: Path) -> None:
    """Whatever it stopped in: header, fragment, between two fragments, command set; nothing is kept."""
    station = impatient(tmp_path / "inbox", dimse_s=0.8)
    message = data(MR, 3, STORE) + data(MR, 0, WHOLE[:100]) + data(MR, 2, WHOLE[100:])
    command_end = len(data(MR, 3, STORE))
    for stop in (3, 8, 40, command_end - 1, command_end, command_end + 3, command_end + 60, len(message) - 1):
        with RawPeer(station.port) as peer:
            peer.associate(CONTEXTS)
            peer.send(message[:stop])
            if stop < 6:
                # Less than a header of a PDU: that is between two messages.
                continue
            assert peer.pdu() == (0x07, bytes((0, 0, 0, 0))), stop
            assert peer.ended()
    assert station.held() == 0
    still_works(station)
    station.close()
    assert list((tmp_path / "inbox" / "incoming").iterdir()) == []


@pytest.mark.slow
def test_a_peer_that_says_nothing_is_aborted(tmp_path: Path) -> None:
    """After network_s between two messages; acse_s before an association; both count from the last word."""
    station = impatient(tmp_path / "inbox", network_s=1.0, acse_s=1.0)
    with RawPeer(station.port) as peer:
        peer.associate(CONTEXTS)
        for _ in range(4):
            time.sleep(0.4)
            peer.send(data(ECHO, 3, echo_command()))
            assert peer.status() == 0
        assert peer.pdu() == (0x07, bytes((0, 0, 0, 0)))
    for begun in (b"", request(CONTEXTS)[:3], request(CONTEXTS)[:-1]):
        with RawPeer(station.port) as peer:
            peer.send(begun)
            assert peer.pdu() == (0x07, bytes((0, 0, 0, 0)))
    station.close()


def test_a_peer_that_sends_a_byte_at_a_time_is_aborted(tmp_path: Path) -> None:
    """Never silent for long, and far below the least rate: after dimse_s its time is over (slow loris)."""
    station = impatient(tmp_path / "inbox", dimse_s=0.6, bytes_per_s_min=100_000)
    stop = threading.Event()
    with RawPeer(station.port) as peer:
        peer.associate(CONTEXTS)
        peer.send(data(MR, 3, STORE), data(MR, 0, WHOLE)[:50])

        def trickle() -> None:
            for _ in range(1000):
                if stop.wait(0.05):
                    return
                peer.send(b"\0")

        thread = threading.Thread(target=trickle)
        thread.start()
        assert peer.pdu() == (0x07, bytes((0, 0, 0, 0)))
        stop.set()
        thread.join()
    assert station.held() == 0
    station.close()


def test_an_instance_must_have_come_within_its_limit(tmp_path: Path) -> None:
    """At a good rate, too: instance_s is the last word."""
    station = impatient(tmp_path / "inbox", instance_s=0.6)
    with RawPeer(station.port) as peer:
        peer.associate(CONTEXTS)
        peer.send(data(MR, 3, STORE))
        peer.socket.settimeout(0.02)
        answer = b""
        while not answer:
            peer.send(data(MR, 0, bytes(2000)))
            with suppress(TimeoutError):
                answer = peer.socket.recv(10)
        assert answer == ABORT
    assert station.held() == 0
    still_works(station)
    station.close()


@pytest.mark.slow
def test_a_peer_that_does_not_take_its_answers_is_let_go(tmp_path: Path) -> None:
    """It sends and never reads: when its buffers are full, it is gone after dimse_s."""
    station = impatient(tmp_path / "inbox", dimse_s=0.5)
    with RawPeer(station.port) as peer:
        peer.associate(CONTEXTS)
        peer.socket.settimeout(0.5)
        echo = data(ECHO, 3, echo_command()) * 500
        with suppress(OSError):
            for _ in range(2000):
                peer.socket.sendall(echo)
        until(lambda: not station.listener._open())
    station.close()
