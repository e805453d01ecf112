"""Command sets: read strictly, answered exactly; pynetdicom is the judge of both."""

from __future__ import annotations

import struct
from contextlib import suppress
from io import BytesIO

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pynetdicom.dimse_messages import C_ECHO_RQ, C_STORE_RQ, DIMSEMessage
from pynetdicom.dimse_primitives import C_ECHO, C_STORE
from pynetdicom.dsutils import decode as decode_dataset

from dicom_bridge import status
from dicom_bridge.command import Command, CommandGarbled, decode, respond
from dicom_bridge.status import Answer
from tests.simulators.raw_peer import command, elements, short, store_command, uid

CT = "1.2.840.10008.5.1.4.1.1.2"


def encoded(message: DIMSEMessage) -> bytes:
    """The command set that pynetdicom would send."""
    primitive = next(iter(message.encode_msg(1, 0)))
    ((_, value),) = primitive.presentation_data_value_list
    return bytes(value[1:])


def pynetdicom_store(priority: int = 2) -> bytes:
    """A C-STORE-RQ of pynetdicom's own making."""
    request = C_STORE()
    request.MessageID, request.Priority = 7, priority
    request.AffectedSOPClassUID, request.AffectedSOPInstanceUID = CT, "1.2.3"
    request.DataSet = BytesIO(b"\0\0")
    message = C_STORE_RQ()
    message.primitive_to_message(request)
    return encoded(message)


@pytest.mark.parametrize(("priority", "urgent"), [(0, False), (1, True), (2, False)])
def test_a_store_request_of_pynetdicom_is_understood(priority: int, urgent: bool) -> None:
    """Field, message ID, both UIDs without padding, data set or none, and whether it is urgent."""
    assert decode(pynetdicom_store(priority)) == Command(1, 7, CT, "1.2.3", has_data_set=True, urgent=urgent)


def test_an_echo_request_of_pynetdicom_is_understood() -> None:
    """No instance UID, no data set."""
    request = C_ECHO()
    request.MessageID, request.AffectedSOPClassUID = 9, "1.2.840.10008.1.1"
    message = C_ECHO_RQ()
    message.primitive_to_message(request)
    assert decode(encoded(message)) == Command(0x30, 9, "1.2.840.10008.1.1", "", has_data_set=False, urgent=False)


def test_a_uid_padded_with_a_space_is_that_uid() -> None:
    """The usual mistake (PS3.5 section 6.2)."""
    data = command([(0x0002, b"1.2 "), (0x0100, short(1)), (0x0110, short(1)), (0x0800, short(0))])
    assert decode(data).sop_class == "1.2"


def test_a_cancel_needs_no_message_id_of_its_own() -> None:
    """C-CANCEL names the message that it cancels (PS3.7 table 9.3-8)."""
    data = command([(0x0100, short(0x0FFF)), (0x0120, short(3)), (0x0800, short(0x0101))])
    assert decode(data).field == 0x0FFF


GARBLED = {
    "nothing": b"",
    "rubbish": b"rubbish" * 4,
    "cut inside a header": store_command(CT, "1.2.3")[:-20],
    "cut inside a value": store_command(CT, "1.2.3")[:-1],
    "a byte too many": store_command(CT, "1.2.3") + b"\0",
    "another group": struct.pack("<HHL", 8, 0x16, 2) + b"1 ",
    "out of order": command([(0x0100, short(1)), (0x0002, uid("1.2")), (0x0110, short(1)), (0x0800, short(1))]),
    "twice the same": command([(0x0100, short(1)), (0x0100, short(1)), (0x0110, short(1)), (0x0800, short(1))]),
    "no command field": command([(0x0110, short(1)), (0x0800, short(1))]),
    "no data set type": command([(0x0100, short(1)), (0x0110, short(1))]),
    "no message ID": command([(0x0100, short(1)), (0x0800, short(1))]),
    "a field of four bytes": command([(0x0100, b"\1\0\0\0"), (0x0110, short(1)), (0x0800, short(1))]),
    "a length to the end of the world": struct.pack("<HHL", 0, 0x0100, 0xFFFFFFFF) + short(1),
}


@pytest.mark.parametrize("data", GARBLED.values(), ids=GARBLED.keys())
def test_what_is_no_command_set_is_refused(data: bytes) -> None:
    """Cut, bent, disordered or without what every request has: COMMAND_GARBLED."""
    with pytest.raises(CommandGarbled) as caught:
        decode(data)
    assert caught.value.code == "COMMAND_GARBLED"


@given(st.binary(max_size=200))
@settings(max_examples=200, deadline=None)
def test_any_bytes_are_a_command_set_or_refused(data: bytes) -> None:
    """Nothing else is raised."""
    with suppress(CommandGarbled):
        assert isinstance(decode(data), Command)


@given(st.integers(0, 200), st.binary(min_size=1, max_size=4))
@settings(max_examples=200, deadline=None)
def test_a_bent_request_is_a_command_set_or_refused(at: int, change: bytes) -> None:
    """A request with some bytes changed neither."""
    data = bytearray(store_command(CT, "1.2.3"))
    data[at : at + len(change)] = change
    with suppress(CommandGarbled):
        assert isinstance(decode(bytes(data)), Command)


def test_an_answer_is_what_pynetdicom_reads() -> None:
    """Status, comment and offending element arrive, the UIDs are those of the request, the order is ascending."""
    answer = Answer(0xC000, "Cannot understand", "PS3.4")
    encoded = respond(decode(pynetdicom_store()), answer, 0x0020000D)
    found = decode_dataset(BytesIO(encoded), True, True)
    assert found.CommandField == 0x8001
    assert found.MessageIDBeingRespondedTo == 7
    assert found.Status == 0xC000
    assert found.CommandDataSetType == 0x0101
    assert (found.ErrorComment, int(found.OffendingElement)) == ("Cannot understand", 0x0020000D)
    assert (found.AffectedSOPClassUID, found.AffectedSOPInstanceUID) == (CT, "1.2.3")
    assert found.CommandGroupLength == len(encoded) - 12
    assert list(elements(encoded)) == sorted(elements(encoded))


def test_a_success_says_nothing_more_than_success() -> None:
    """No comment, no element."""
    found = elements(respond(decode(pynetdicom_store()), status.SUCCESS))
    assert found[0x0900] == b"\0\0"
    assert not {0x0901, 0x0902} & found.keys()


def test_a_uid_that_is_none_is_not_sent_back() -> None:
    """What the peer wrote there is not echoed: it may be anything, of any length."""
    request = decode(store_command("x" * 500, "../../etc"))
    assert not {0x0002, 0x1000} & elements(respond(request, status.SUCCESS)).keys()


def test_a_comment_is_never_longer_than_its_vr() -> None:
    """LO: 64 characters."""
    found = elements(respond(decode(pynetdicom_store()), Answer(0xA700, "x" * 100, "")))
    assert found[0x0902] == b"x" * 64
