"""The storage SCP: answers C-ECHO and C-STORE, and says 0x0000 only for what the inbox holds durably.

The handler is one of the three walls of the house: whatever an instance makes our code raise, the peer gets a failure
status, the fault is reported upward, and the rest of the association and every other one go on.
"""

from __future__ import annotations

import socket
import threading
from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, Final

from pydicom.dataset import Dataset
from pynetdicom import evt
from pynetdicom.presentation import AllStoragePresentationContexts
from pynetdicom.sop_class import Verification

from dicom_bridge import status
from dicom_bridge.errors import BridgeError, InboxUnavailable, InstanceRefused, ListenerFailed
from dicom_bridge.inbox import Inbox, Received
from dicom_bridge.network import new_entity, no_delay
from dicom_bridge.peers import valid_ae_title
from dicom_bridge.status import Answer

# Every standard storage class: a PACS that forwards whole studies stops at the first class that is refused. Those
# that no model can use are kept like the others. Private classes are not accepted (PS3.4 table B.5-1).
STORAGE_CLASSES: Final = tuple(sorted(str(context.abstract_syntax) for context in AllStoragePresentationContexts))

# Exactly those that the installed decoders read, the plain ones first: what is accepted can be used. Left out, as
# nothing here decodes them: JPEG extended 12 bit and lossless (.4.51 .4.57 .4.70), HTJ2K, JPEG 2000 part 2, JPIP,
# JPEG XL, MPEG, private ones. The peer then sends another syntax that it proposed.
TRANSFER_SYNTAXES: Final = (
    "1.2.840.10008.1.2.1",  # Explicit VR Little Endian
    "1.2.840.10008.1.2",  # Implicit VR Little Endian
    "1.2.840.10008.1.2.1.99",  # Deflated Explicit VR Little Endian
    "1.2.840.10008.1.2.2",  # Explicit VR Big Endian
    "1.2.840.10008.1.2.5",  # RLE Lossless
    "1.2.840.10008.1.2.4.80",  # JPEG-LS Lossless
    "1.2.840.10008.1.2.4.81",  # JPEG-LS Near-lossless
    "1.2.840.10008.1.2.4.90",  # JPEG 2000 Lossless
    "1.2.840.10008.1.2.4.91",  # JPEG 2000
    "1.2.840.10008.1.2.4.50",  # JPEG Baseline
)


STOP_S: Final = 10.0
"""Seconds that `stop` waits for instances being stored; a disk that takes longer is not going to finish."""


@dataclass(frozen=True, slots=True)
class ListenerLimits:
    """associations_max: at once; more are rejected as "local limit exceeded", which peers retry.

    pdu_bytes_max: 128 KiB; fewer and larger PDUs cost less. acse_s, dimse_s, network_s: seconds without a word from
    the peer in negotiation, inside an operation, and between operations, before the association is aborted; they end
    half-open connections.
    """

    associations_max: int = 64
    pdu_bytes_max: int = 131_072
    acse_s: float = 30.0
    dimse_s: float = 30.0
    network_s: float = 60.0


class AssociationEvent(StrEnum):
    """What `on_association` is told."""

    OPENED = "OPENED"
    CLOSED = "CLOSED"


@dataclass(frozen=True, slots=True)
class Fault:
    """Something that our own code raised over one instance: the exception's type, never its text."""

    sender: str
    kind: str


class Listener:
    """One storage SCP on `host`:`port`; port 0 takes a free one, see `port`.

    `calling_ae_titles`: who may call; () means anybody (an AE title is no authentication).
    `on_association(sender, event)` and `on_fault(fault)` are called from association threads and must be quick.
    """

    def __init__(
        self,
        ae_title: str,
        host: str,
        port: int,
        inbox: Inbox,
        *,
        limits: ListenerLimits | None = None,
        calling_ae_titles: tuple[str, ...] = (),
        on_association: Callable[[str, AssociationEvent], None] | None = None,
        on_fault: Callable[[Fault], None] | None = None,
    ) -> None:
        self._ae_title, self._address, self._inbox = ae_title, (host, port), inbox
        self._limits = limits or ListenerLimits()
        self._calling = calling_ae_titles
        self._on_association, self._on_fault = on_association, on_fault
        self._server: Any = None
        self._stopping = threading.Event()
        # Of the connections that are open; each key is touched by its own association's thread only.
        self._sockets: dict[str, socket.socket] = {}
        self._idle = threading.Condition()
        self._storing = 0

    def start(self) -> None:
        """Listen, in threads of our own; returns once the port is bound. Raises ListenerFailed."""
        if self._server is not None:
            raise ListenerFailed("ALREADY_STARTED", "this listener runs already")
        if not valid_ae_title(self._ae_title):
            raise ListenerFailed("PORT_UNAVAILABLE", "the AE title is not one")
        handlers: list[tuple[Any, Callable[[Any], Any]]] = [
            (evt.EVT_CONN_OPEN, self._connected),
            (evt.EVT_ACCEPTED, self._accepted),
            (evt.EVT_CONN_CLOSE, self._closed),
            (evt.EVT_C_STORE, self._handle_store),
        ]
        self._stopping.clear()
        try:
            self._server = self._entity().start_server(self._address, block=False, evt_handlers=handlers)
        except OSError as error:
            host, port = self._address
            raise ListenerFailed("PORT_UNAVAILABLE", f"{host}:{port} cannot be bound ({error.strerror})") from error

    def stop(self) -> None:
        """Abort what is open, free the port, and return when no instance is being stored. Harmless when not started.

        What comes meanwhile is answered with 0xA700. After this the inbox may be closed.
        """
        self._stopping.set()
        if self._server is not None:
            # The entity's shutdown, unlike the server's, ends the associations too.
            self._server.ae.shutdown()
            self._server = None
        with self._idle:
            self._idle.wait_for(lambda: self._storing == 0, timeout=STOP_S)

    @property
    def port(self) -> int:
        """The port that is listened on; 0 before `start` if a free one was asked for."""
        return int(self._server.server_address[1]) if self._server is not None else self._address[1]

    def _entity(self) -> Any:
        entity = new_entity(self._ae_title)
        entity.require_called_aet = True
        entity.require_calling_aet = list(self._calling)
        entity.maximum_associations = self._limits.associations_max
        entity.maximum_pdu_size = self._limits.pdu_bytes_max
        entity.acse_timeout = self._limits.acse_s
        entity.dimse_timeout = self._limits.dimse_s
        entity.network_timeout = self._limits.network_s
        entity.add_supported_context(Verification)
        for sop_class in STORAGE_CLASSES:
            entity.add_supported_context(sop_class, list(TRANSFER_SYNTAXES))
        return entity

    def _accepted(self, event: Any) -> None:
        sender = _sender(event)
        self._inbox.activity.opened(_association(event), sender)
        if self._on_association is not None:
            self._on_association(sender, AssociationEvent.OPENED)

    def _connected(self, event: Any) -> None:
        no_delay(event)
        connection = event.assoc.dul.socket.socket
        if connection is not None:
            self._sockets[_association(event)] = connection

    def _closed(self, event: Any) -> None:
        # pynetdicom leaves the descriptor open when the peer was the first to go.
        connection = self._sockets.pop(_association(event), None)
        if connection is not None:
            connection.close()
        if not self._inbox.activity.closed(_association(event)):
            return
        self._inbox.wake()
        if self._on_association is not None:
            self._on_association(_sender(event), AssociationEvent.CLOSED)

    def _handle_store(self, event: Any) -> Dataset:
        with self._idle:
            self._storing += 1
        try:
            return _response(self._store(event))
        except (InstanceRefused, InboxUnavailable) as refused:
            return _response(status.answer(refused), refused)
        # A wall: one instance must not end the association, let alone the service; and a failure must not be silent.
        except Exception as fault:  # noqa: BLE001
            if self._on_fault is not None:
                self._on_fault(Fault(_sender(event), type(fault).__name__))
            return _response(status.FAULT)
        finally:
            with self._idle:
                self._storing -= 1
                self._idle.notify_all()

    def _store(self, event: Any) -> Answer:
        if self._stopping.is_set():
            raise InboxUnavailable("STOPPING", "the listener is being stopped")
        request = event.request
        if request.DataSet is None:
            raise InstanceRefused("DATASET_GARBLED", "the request came without a data set")
        received = Received(
            dataset=request.DataSet.getvalue(),
            transfer_syntax=str(event.context.transfer_syntax),
            sop_class=str(request.AffectedSOPClassUID),
            sop_uid=str(request.AffectedSOPInstanceUID),
        )
        if received.sop_class != str(event.context.abstract_syntax):
            self._inbox.quarantine(received.dataset, "CLASS_MISMATCH", _sender(event))
            raise InstanceRefused("CLASS_MISMATCH", "the request is of another class than the context", 0x00080016)
        # The commit point: when this returns, the instance survives a power cut.
        self._inbox.store(received, _sender(event), _association(event))
        return status.SUCCESS


def _response(answer: Answer, error: BridgeError | None = None) -> Dataset:
    response = Dataset()
    response.Status = answer.status
    if answer.comment:
        response.ErrorComment = answer.comment
    tag = None if error is None else status.offending(error)
    if tag is not None:
        response.OffendingElement = tag
    return response


def _sender(event: Any) -> str:
    title = event.assoc.requestor.ae_title
    return str(title).strip() if title else ""


def _association(event: Any) -> str:
    # Unique among those that are open; names of pynetdicom's threads are times, which may repeat.
    return f"{id(event.assoc):x}"
