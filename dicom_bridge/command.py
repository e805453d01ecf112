"""DIMSE command sets (PS3.7 section 6.3, annex E): the one part of a message that the fast lane decodes.

Always Implicit VR Little Endian, group 0000 alone, elements in ascending order.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from typing import ClassVar, Final

from dicom_bridge.errors import BridgeError, Fault
from dicom_bridge.status import ERROR_COMMENT_MAX, Answer
from dicom_bridge.uids import storable

COMMAND_BYTES_MAX: Final = 1 << 16
"""Bytes of a command set, 64 KiB: real ones have some hundred."""

C_STORE_RQ: Final = 0x0001
C_ECHO_RQ: Final = 0x0030
C_CANCEL_RQ: Final = 0x0FFF
RESPONSE: Final = 0x8000
"""The bit of Command Field (0000,0100) that makes a response of it (PS3.7 table E.1-1)."""
_NO_DATA_SET: Final = 0x0101
_HIGH: Final = 0x0001

_CLASS: Final = 0x0002
_FIELD: Final = 0x0100
_MESSAGE_ID: Final = 0x0110
_RESPONDED_TO: Final = 0x0120
_PRIORITY: Final = 0x0700
_DATA_SET_TYPE: Final = 0x0800
_STATUS: Final = 0x0900
_OFFENDING: Final = 0x0901
_COMMENT: Final = 0x0902
_INSTANCE: Final = 0x1000

_ELEMENT: Final = struct.Struct("<HHL")
_SHORT: Final = struct.Struct("<HHLH")


class CommandGarbled(BridgeError):
    """Bytes that are no command set."""

    CODES: ClassVar[frozenset[str]] = frozenset({"COMMAND_GARBLED"})
    fault = Fault.INPUT


@dataclass(frozen=True, slots=True)
class Command:
    """What was asked. `field` is Command Field (0000,0100); UIDs are "" when absent, and not checked otherwise.

    `message_id` is 0 where there is none, as in C-CANCEL. `urgent`: Priority (0000,0700) is HIGH.
    """

    field: int
    message_id: int
    sop_class: str
    sop_uid: str
    has_data_set: bool
    urgent: bool


def decode(data: bytes) -> Command:
    """Read a whole command set. Raises CommandGarbled."""
    values: dict[int, bytes] = {}
    position, end, before = 0, len(data), -1
    while position < end:
        if end - position < _ELEMENT.size:
            raise CommandGarbled("COMMAND_GARBLED", "the command set ends inside an element")
        group, element, length = _ELEMENT.unpack_from(data, position)
        position += _ELEMENT.size
        if group != 0 or element <= before or length > end - position:
            raise CommandGarbled("COMMAND_GARBLED", "not a command set: its group, order or lengths are wrong")
        values[element] = data[position : position + length]
        position, before = position + length, element
    field, data_set = _short(values, _FIELD), _short(values, _DATA_SET_TYPE)
    if field is None or data_set is None:
        raise CommandGarbled("COMMAND_GARBLED", "the command set does not say what it is")
    message_id = _short(values, _MESSAGE_ID)
    if message_id is None and not field & RESPONSE and field != C_CANCEL_RQ:
        raise CommandGarbled("COMMAND_GARBLED", "the request has no message ID")
    return Command(
        field=field,
        message_id=message_id or 0,
        sop_class=_uid(values, _CLASS),
        sop_uid=_uid(values, _INSTANCE),
        has_data_set=data_set != _NO_DATA_SET,
        urgent=_short(values, _PRIORITY) == _HIGH,
    )


def respond(request: Command, answer: Answer, offending: int | None = None) -> bytes:
    """Return the command set that answers `request`: no data set, Error Comment and Offending Element if any."""
    body = bytearray()
    if storable(request.sop_class):
        body += _text(_CLASS, request.sop_class, b"\0")
    body += _SHORT.pack(0, _FIELD, 2, request.field | RESPONSE)
    body += _SHORT.pack(0, _RESPONDED_TO, 2, request.message_id)
    body += _SHORT.pack(0, _DATA_SET_TYPE, 2, _NO_DATA_SET)
    body += _SHORT.pack(0, _STATUS, 2, answer.status)
    if offending is not None:
        body += struct.pack("<HHLHH", 0, _OFFENDING, 4, offending >> 16, offending & 0xFFFF)
    if answer.comment:
        body += _text(_COMMENT, answer.comment[:ERROR_COMMENT_MAX], b" ")
    if storable(request.sop_uid):
        body += _text(_INSTANCE, request.sop_uid, b"\0")
    return struct.pack("<HHLL", 0, 0, 4, len(body)) + bytes(body)


def _short(values: dict[int, bytes], element: int) -> int | None:
    raw = values.get(element, b"")
    return int.from_bytes(raw, "little") if len(raw) == _SHORT.size - _ELEMENT.size else None


def _uid(values: dict[int, bytes], element: int) -> str:
    # PS3.5 section 6.2: padded with one NULL; a space is the usual mistake.
    return values.get(element, b"").decode("latin-1").rstrip(" \0")


def _text(element: int, text: str, padding: bytes) -> bytes:
    value = text.encode("ascii")
    value += padding * (len(value) % 2)
    return _ELEMENT.pack(0, element, len(value)) + value
