"""Associations that want more than the fast lane knows are served by stock pynetdicom, on the same connection.

The A-ASSOCIATE-RQ has been read already: pynetdicom is given it again, and then the rest of the stream. Reading is
ours here too, so that a peer that stops in the middle of a PDU, or announces a PDU of 4 GiB, is not waited for.
"""

from __future__ import annotations

import struct
import sys
import time
from collections.abc import Callable
from copy import deepcopy
from dataclasses import dataclass
from typing import Any, Final

from pynetdicom import evt
from pynetdicom._globals import MODE_ACCEPTOR
from pynetdicom.association import Association
from pynetdicom.fsm import InvalidEventError, StateMachine
from pynetdicom.sop_class import Verification
from pynetdicom.transport import AddressInformation, AssociationSocket

from dicom_bridge.connection import AssociationEnded, Connection
from dicom_bridge.fastlane import ListenerLimits
from dicom_bridge.negotiation import UNRECOGNIZED_PARAMETER, abort_pdu
from dicom_bridge.network import new_entity
from dicom_bridge.offers import STORAGE_CLASSES, TRANSFER_SYNTAXES

MESSAGE_BYTES_MAX: Final = 512 << 20
"""Bytes of one message, 512 MiB: pynetdicom holds it in memory. Larger ones must come without special negotiation."""
PDU_BYTES_MAX: Final = 1 << 20
"""Bytes of one PDU, 1 MiB: pynetdicom would take whatever length the peer writes there."""
_DECIDING: Final = frozenset({"Sta1", "Sta2", "Sta3"})
"""States of PS3.8 section 9.2 before our answer to a request."""
# What its decoders raise at what they cannot read.
_INDIGESTIBLE: Final = (ValueError, TypeError, AttributeError, LookupError, RuntimeError, struct.error, UserWarning)
_ANY_NUMBER: Final = sys.maxsize


@dataclass(frozen=True, slots=True)
class Extra:
    """Services beside storage that stock pynetdicom serves on our port.

    `contexts`: (SOP class, transfer syntaxes, as SCU, as SCP) each; `handlers`: (pynetdicom event, function) each.
    Associations that propose any of these classes take the stock lane wholly.
    """

    contexts: tuple[tuple[str, tuple[str, ...], bool, bool], ...] = ()
    handlers: tuple[tuple[Any, Callable[[Any], Any]], ...] = ()

    @property
    def classes(self) -> frozenset[str]:
        """The SOP classes."""
        return frozenset(sop_class for sop_class, _, _, _ in self.contexts)


class _Replaying(AssociationSocket):  # type: ignore[misc] # pynetdicom is not typed
    """A socket whose first bytes have been read before; every read is exact and ends in time."""

    def __init__(self, association: Any, connection: Connection, first: bytes, silence_s: float) -> None:
        super().__init__(association, client_socket=connection.socket)
        self._connection, self._first, self._silence_s = connection, first, silence_s
        self.message_bytes = 0

    @property
    def ready(self) -> bool:
        """Whether there is something to read now."""
        if self._first:
            return True
        # What comes between the request and our answer would kill pynetdicom's thread: it must wait, which is not long.
        return self.assoc.dul.state_machine.current_state not in _DECIDING and bool(super().ready)

    def recv(self, nr_bytes: int) -> bytearray:
        """Read exactly so many bytes; fewer, which ends the association, where they do not come or are too many."""
        self.message_bytes += nr_bytes
        if nr_bytes > PDU_BYTES_MAX or self.message_bytes > MESSAGE_BYTES_MAX:
            return bytearray()
        if self._first:
            again, self._first = bytearray(self._first[:nr_bytes]), self._first[nr_bytes:]
            return again
        data = bytearray(nr_bytes)
        try:
            self._connection.fill(memoryview(data), self._silence_s, time.monotonic() + self._silence_s)
        except AssociationEnded:
            return bytearray()
        return data


class _Surviving(StateMachine):  # type: ignore[misc] # likewise
    """Ends the association at what pynetdicom cannot digest; by itself it dies of it, and leaves the rest waiting."""

    def do_action(self, event: str) -> None:
        """Do what the state table says of this event."""
        try:
            super().do_action(event)
        except (InvalidEventError, *_INDIGESTIBLE):
            # As its own loop does when reading fails.
            self.dul.socket.send(abort_pdu(UNRECOGNIZED_PARAMETER))
            end(self.dul.assoc)


def end(association: Any) -> None:
    """Have both threads of an association end now, whatever state they are in."""
    association.is_aborted, association.is_established = True, False
    association._kill = True
    association.dul.kill_dul()


class StockLane:
    """What serves them. `store` handles EVT_C_STORE and gives the response; `opened` is told of the calling AE title
    when the association is accepted.
    """

    def __init__(self, ae_title: str, limits: ListenerLimits, extra: Extra, store: Callable[[Any], Any]) -> None:
        self._limits = limits
        self._extra = extra
        self._store = store
        self._entity = entity = new_entity(ae_title)
        # Who may call, and how many, the listener has decided before.
        entity.maximum_associations = _ANY_NUMBER
        entity.maximum_pdu_size = limits.pdu_bytes_max
        entity.acse_timeout, entity.dimse_timeout = limits.acse_s, limits.dimse_s
        entity.network_timeout = limits.network_s
        entity.add_supported_context(Verification)
        for sop_class in STORAGE_CLASSES:
            entity.add_supported_context(sop_class, list(TRANSFER_SYNTAXES))
        for sop_class, syntaxes, scu, scp in extra.contexts:
            entity.add_supported_context(sop_class, list(syntaxes), scu_role=scu, scp_role=scp)

    def prepare(
        self, connection: Connection, first: bytes, addresses: tuple[Any, Any], opened: Callable[[str], None]
    ) -> Any:
        """Return the association, not started yet: start it, then join it. `addresses`: ours and the peer's."""
        entity, association = self._entity, Association(self._entity, MODE_ACCEPTOR)
        wire = _Replaying(association, connection, first, self._limits.dimse_s)
        association.set_socket(wire)
        association.dul.state_machine = _Surviving(association.dul)
        ours, theirs = map(AddressInformation.from_tuple, addresses)
        acceptor = association.acceptor
        acceptor.maximum_length = entity.maximum_pdu_size
        acceptor.ae_title = entity.ae_title
        acceptor.address_info, association.requestor.address_info = ours, theirs
        acceptor.implementation_class_uid = entity.implementation_class_uid
        acceptor.implementation_version_name = entity.implementation_version_name
        acceptor.supported_contexts = deepcopy(entity.supported_contexts)

        def whole(_event: Any) -> None:
            wire.message_bytes = 0

        association.bind(evt.EVT_ACCEPTED, lambda event: opened(_calling(event)))
        association.bind(evt.EVT_DIMSE_RECV, whole)
        association.bind(evt.EVT_C_STORE, self._store)
        for event, handler in self._extra.handlers:
            association.bind(event, handler)
        return association


def _calling(event: Any) -> str:
    title = event.assoc.requestor.ae_title
    return str(title).strip() if title else ""
