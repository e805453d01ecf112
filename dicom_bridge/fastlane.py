"""The C-STORE hot path: P-DATA read into one buffer, the command set decoded, the data set passed on as it comes.

One thread and one buffer for each association. What arrives in state 6 of PS3.8 section 9.2 is answered as its table
says; what a command asks is answered by a DIMSE status (PS3.7 section 9.3), and the association goes on.
"""

from __future__ import annotations

import struct
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Final, Protocol

from dicom_bridge import negotiation, status
from dicom_bridge.command import (
    C_CANCEL_RQ,
    C_ECHO_RQ,
    C_STORE_RQ,
    COMMAND_BYTES_MAX,
    RESPONSE,
    Command,
    CommandGarbled,
    decode,
    respond,
)
from dicom_bridge.connection import BY_USER, AssociationEnded, Connection
from dicom_bridge.errors import InboxUnavailable, InstanceRefused
from dicom_bridge.incoming import Announced, Incoming
from dicom_bridge.negotiation import INVALID_PARAMETER, RELEASE_RP_PDU, UNEXPECTED_PDU, UNRECOGNIZED_PDU, Context
from dicom_bridge.status import Answer

_PDU: Final = struct.Struct(">BxL")
_PDV: Final = struct.Struct(">LBB")
_HEADER: Final = 6
"""Bytes of a PDU's header, and of a PDV's (PS3.8 section 9.3.1, 9.3.5.1, annex E.2)."""
_COMMAND: Final = 1
_LAST: Final = 2
"""Bits of a PDV's message control header (PS3.8 annex E.2)."""
_PDU_TYPES: Final = range(0x01, 0x08)
_OVERHEAD: Final = 2
"""What the length of a PDV counts beside the fragment: context ID and message control header."""
BUFFER_PDUS: Final = 4
"""PDUs of the greatest length that the buffer of an association holds: a busy receiver finds several at once."""
FRAGMENTS_MAX: Final = 256
"""Fragments that are written at once; a system call takes 1024."""
_UNSENDABLE: Final = 64
"""Bytes below which a peer's maximum length is taken for a mistake: not one element of an answer would fit."""


@dataclass(frozen=True, slots=True)
class ListenerLimits:
    """associations_max: at once; more are rejected as "local limit exceeded", which peers retry.

    pdu_bytes_max: 128 KiB; fewer and larger PDUs cost less. acse_s, dimse_s, network_s: seconds without a word from
    the peer in negotiation, inside an operation, and between operations, before the association is aborted; they end
    half-open connections. instance_s: an instance must have come after so long, two hours; and bytes_per_s_min: at
    this rate on the average, after the first dimse_s: a peer that sends a byte at a time holds its place no longer.
    discard_bytes_max: of a data set that was refused already, how much is read for the sake of the next.
    """

    associations_max: int = 64
    pdu_bytes_max: int = 131_072
    acse_s: float = 30.0
    dimse_s: float = 30.0
    network_s: float = 60.0
    instance_s: float = 7200.0
    bytes_per_s_min: int = 1024
    discard_bytes_max: int = 4 << 30


class Store(Protocol):
    """Where instances go; inbox.Inbox.incoming for one association."""

    def __call__(self, announced: Announced) -> Incoming:
        """Begin to take one."""


Guard = Callable[[Callable[[], Answer]], tuple[Answer, int | None]]
"""Runs the work of one C-STORE and returns its answer and the offending element, whatever the work raises; lets
AssociationEnded pass."""


class FastLane:
    """One established association, until it ends. `contexts`: the accepted ones by ID; `peer_pdu_bytes_max`: of what
    the peer takes, 0 for no limit.
    """

    def __init__(
        self,
        connection: Connection,
        contexts: Mapping[int, Context],
        peer_pdu_bytes_max: int,
        limits: ListenerLimits,
        store: Store,
        guard: Guard,
        stopping: threading.Event,
    ) -> None:
        self._connection, self._contexts, self._limits = connection, contexts, limits
        self._store, self._guard, self._stopping = store, guard, stopping
        longest = min(peer_pdu_bytes_max or limits.pdu_bytes_max, limits.pdu_bytes_max)
        self._fragment_max = max(longest, _UNSENDABLE) - _HEADER
        self._buffer = memoryview(bytearray(BUFFER_PDUS * (limits.pdu_bytes_max + _HEADER)))
        # What has come and was not taken yet lies between the two; `_left`: of the PDU that is being taken.
        self._at = self._end = self._left = 0
        self._began = 0.0
        self._received = 0
        self._complete = True
        self._unsettled: Incoming | None = None

    def run(self) -> None:
        """Serve until the association ends, however it ends; the connection is not closed."""
        last = b""
        try:
            while True:
                self._message()
        except AssociationEnded as ended:
            if ended.code == "PEER_RELEASED":
                last = RELEASE_RP_PDU
            elif self._stopping.is_set():
                last = negotiation.abort_pdu(BY_USER)
            elif ended.abort is not None:
                last = negotiation.abort_pdu(ended.abort)
        self._connection.farewell(last)

    # -- messages -----------------------------------------------------------------------------------------------

    def _message(self) -> None:
        """Read and answer one DIMSE message."""
        if self._stopping.is_set():
            raise AssociationEnded("STOPPING", "the listener is being stopped", BY_USER)
        self._complete = True
        context_id, command = self._command()
        context = self._contexts[context_id]
        self._complete = not command.has_data_set
        answer, offending = status.SUCCESS, None
        if command.field == C_STORE_RQ:
            answer, offending = self._guard(lambda: self._take(command, context_id, context))
        elif command.field & RESPONSE:
            raise AssociationEnded("PROTOCOL", "an answer to something that was not asked", BY_USER)
        elif command.field != C_ECHO_RQ:
            answer = status.UNRECOGNIZED_OPERATION
        elif context.storage:
            answer = status.CLASS_UNSUPPORTED
        # What the answer does not need is read all the same, so that the next message is found.
        self._discard_rest(context_id)
        try:
            if command.field != C_CANCEL_RQ:
                self._send(context_id, respond(command, answer, offending))
        finally:
            self._settle()

    def _command(self) -> tuple[int, Command]:
        """Read the next command set, of one fragment or many."""
        # What has come with the end of the message before has begun this one.
        self._began, self._received = time.monotonic() if self._end > self._at else 0.0, 0
        whole = b""
        context_id = None
        while True:
            one_id, control, fragment = self._next()
            if not control & _COMMAND:
                raise AssociationEnded("PROTOCOL", "a data set without a command", BY_USER)
            if context_id not in (None, one_id):
                raise AssociationEnded("PROTOCOL", "a command set in two contexts", INVALID_PARAMETER)
            context_id = one_id
            whole += fragment
            if len(whole) > COMMAND_BYTES_MAX:
                raise AssociationEnded("PROTOCOL", "the command set is too long", BY_USER)
            if control & _LAST:
                break
        try:
            return context_id, decode(whole)
        except CommandGarbled as garbled:
            raise AssociationEnded("PROTOCOL", "the command set cannot be decoded", BY_USER) from garbled

    def _take(self, command: Command, context_id: int, context: Context) -> Answer:
        """Store what a C-STORE request brings. Raises InstanceRefused, InboxUnavailable, AssociationEnded."""
        if self._stopping.is_set():
            raise InboxUnavailable("STOPPING", "the listener is being stopped")
        if not command.has_data_set:
            raise InstanceRefused("DATASET_GARBLED", "the request came without a data set")
        announced = Announced(context.transfer_syntax, command.sop_class, command.sop_uid, command.urgent)
        incoming, committed = self._store(announced), False
        try:
            while not self._complete:
                incoming.write(*self._fragments(context_id))
            wrong = _wrong_class(command, context)
            if wrong is not None:
                incoming.refuse(wrong)
                raise wrong
            # The commit point: when this returns, the instance survives a power cut.
            incoming.commit()
            committed = True
        finally:
            if not committed:
                incoming.abandon()
        self._unsettled = incoming
        return status.SUCCESS

    def _settle(self) -> None:
        """What the answer did not need, while the peer prepares its next instance."""
        incoming, self._unsettled = self._unsettled, None
        if incoming is not None:
            self._guard(lambda: status.SUCCESS if incoming.settle() else status.FAULT)

    def _discard_rest(self, context_id: int) -> None:
        before = self._received
        while not self._complete:
            self._data(context_id)
            if self._received - before > self._limits.discard_bytes_max:
                raise AssociationEnded("PROTOCOL", "too much that nobody wants", BY_USER)

    def _fragments(self, context_id: int) -> list[memoryview]:
        """Return the next fragments of the data set, as many as have come; they are gone with the next call."""
        found = [self._data(context_id)]
        while not self._complete and len(found) < FRAGMENTS_MAX and self._next_is_here():
            found.append(self._data(context_id))
        return found

    def _data(self, context_id: int) -> memoryview:
        """Return the next fragment of the data set; it is gone with the next call."""
        one_id, control, fragment = self._next()
        if control & _COMMAND:
            raise AssociationEnded("PROTOCOL", "a command in the middle of a data set", BY_USER)
        if one_id != context_id:
            raise AssociationEnded("PROTOCOL", "a data set in another context than its command", INVALID_PARAMETER)
        self._complete = bool(control & _LAST)
        return fragment

    def _send(self, context_id: int, command_set: bytes) -> None:
        pdus = bytearray()
        for start in range(0, len(command_set), self._fragment_max):
            piece = command_set[start : start + self._fragment_max]
            control = _COMMAND | (_LAST if start + self._fragment_max >= len(command_set) else 0)
            pdus += _PDU.pack(negotiation.P_DATA_TF, len(piece) + _HEADER)
            pdus += _PDV.pack(len(piece) + _OVERHEAD, context_id, control) + piece
        self._connection.send(bytes(pdus))

    # -- PDUs ---------------------------------------------------------------------------------------------------

    def _next(self) -> tuple[int, int, memoryview]:
        """Take the next PDV: context ID, message control header, and the fragment, valid until more is received."""
        if not self._left:
            self._next_pdu()
        if self._left < _HEADER:
            raise AssociationEnded("PROTOCOL", "a PDU ends inside a PDV", INVALID_PARAMETER)
        self._need(_HEADER)
        length, context_id, control = _PDV.unpack_from(self._buffer, self._at)
        size = length - _OVERHEAD
        self._left -= _HEADER + size
        if size < 0 or self._left < 0:
            raise AssociationEnded("PROTOCOL", "a PDV is longer than its PDU, or has no header", INVALID_PARAMETER)
        if context_id not in self._contexts:
            raise AssociationEnded("PROTOCOL", "a PDV of a context that was not accepted", INVALID_PARAMETER)
        # More of the message must follow: the header of the next PDU comes with the rest of this one.
        ahead = _HEADER if self._left == 0 and not control & _LAST else 0
        self._need(_HEADER + size + ahead)
        begin = self._at + _HEADER
        self._at = begin + size
        self._received += size
        return context_id, control, self._buffer[begin : self._at]

    def _next_is_here(self) -> bool:
        """Whether `_next` would find all that it needs in the buffer."""
        have = self._end - self._at
        if self._left:
            return have >= self._left + _HEADER
        if have < _HEADER:
            return False
        kind, length = _PDU.unpack_from(self._buffer, self._at)
        return bool(kind == negotiation.P_DATA_TF and have >= _HEADER + length + _HEADER)

    def _next_pdu(self) -> None:
        self._need(_HEADER)
        kind, length = _PDU.unpack_from(self._buffer, self._at)
        self._at += _HEADER
        if kind == negotiation.P_DATA_TF:
            if not 0 < length <= self._limits.pdu_bytes_max:
                raise AssociationEnded("PROTOCOL", "a P-DATA-TF is empty or longer than announced", INVALID_PARAMETER)
            self._left = length
        elif kind == negotiation.RELEASE_RQ:
            raise AssociationEnded("PEER_RELEASED", "the peer released the association")
        elif kind == negotiation.ABORT:
            raise AssociationEnded("PEER_ABORTED", "the peer aborted the association")
        else:
            reason = UNEXPECTED_PDU if kind in _PDU_TYPES else UNRECOGNIZED_PDU
            raise AssociationEnded("PROTOCOL", "a PDU that has no place here", reason)

    def _need(self, size: int) -> None:
        """Have so many bytes in the buffer from `_at` on, and whatever else has come."""
        have = self._end - self._at
        if have >= size:
            return
        if have == 0 or self._at + size > len(self._buffer):
            # The beginning of a PDU goes to the front; there is always room for a whole one.
            self._buffer[:have] = self._buffer[self._at : self._end]
            self._at, self._end = 0, have
        self._end += self._receive(self._buffer[self._end :], size - have)

    def _receive(self, view: memoryview, least: int) -> int:
        """Read this much or more, within the limits of the message that it belongs to."""
        limits, now = self._limits, time.monotonic()
        if not self._began:
            # Between two messages the peer may be silent for longer, and has all the time it wants.
            got = self._connection.receive(view, least, limits.network_s, now + limits.network_s)
            self._began = time.monotonic()
            return got
        # At the slowest rate that is taken for one; see ListenerLimits.
        due = self._began + min(limits.dimse_s + (self._received + least) / limits.bytes_per_s_min, limits.instance_s)
        if now > due:
            raise AssociationEnded("PEER_SLOW", "the message took too long", BY_USER)
        return self._connection.receive(view, least, limits.dimse_s, due)


def _wrong_class(command: Command, context: Context) -> InstanceRefused | None:
    """What is wrong with a request in this context, whatever its data set says (PS3.7 section 9.1.1.1.3, annex C)."""
    if not context.storage:
        return InstanceRefused("CLASS_UNSUPPORTED", "nothing is stored in this context", 0x00080016)
    if command.sop_class != context.abstract_syntax:
        return InstanceRefused("CLASS_MISMATCH", "the request is of another class than the context", 0x00080016)
    return None
