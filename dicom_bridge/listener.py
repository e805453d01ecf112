"""The storage SCP: answers C-ECHO and C-STORE, and says 0x0000 only for what the inbox holds durably.

One thread listens, one serves each connection: handshake, negotiation, then the fast lane; or stock pynetdicom where
the peer wants more than that. The guard is one of the three walls of the house: whatever an instance makes our code
raise, the peer gets a failure status, the fault is reported upward, and every other instance and association goes on.
"""

from __future__ import annotations

import socket
import ssl
import struct
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, Final, Protocol

from pydicom.dataset import Dataset

from dicom_bridge import status
from dicom_bridge.connection import TICK_MAX_S, AssociationEnded, Connection
from dicom_bridge.errors import InboxUnavailable, InstanceRefused, ListenerFailed
from dicom_bridge.fastlane import FastLane
from dicom_bridge.fastlane import ListenerLimits as ListenerLimits
from dicom_bridge.inbox import Inbox, Received
from dicom_bridge.negotiation import (
    ABORT,
    ASSOCIATE_RQ,
    INVALID_PARAMETER,
    REQUEST_BYTES_MAX,
    Acceptor,
    Proposal,
    Rejection,
    abort_pdu,
    read_request,
)
from dicom_bridge.offers import STORAGE_CLASSES as STORAGE_CLASSES
from dicom_bridge.offers import TRANSFER_SYNTAXES as TRANSFER_SYNTAXES
from dicom_bridge.peers import valid_ae_title
from dicom_bridge.status import Answer
from dicom_bridge.stocklane import Extra as Extra
from dicom_bridge.stocklane import StockLane, end

STOP_S: Final = 10.0
"""Seconds that `stop` waits for instances being stored; a disk that takes longer is not going to finish."""
WAITING_MAX: Final = 32
"""Connections beyond `associations_max` that may be open at once: those not accepted yet, and those being rejected."""
BACKLOG: Final = 128
"""Connections that the kernel keeps for us while we take one."""
_OUT_OF_DESCRIPTORS_S: Final = 0.1
_HIGH: Final = 1
_HEADER: Final = struct.Struct(">BxL")
# Result, source and reason of A-ASSOCIATE-RJ (PS3.8 table 9-21).
_CALLED_AE_UNKNOWN: Final = (1, 1, 7)
_CALLING_AE_UNKNOWN: Final = (1, 1, 3)
_LOCAL_LIMIT: Final = (2, 3, 2)


class AssociationEvent(StrEnum):
    """What `on_association` is told."""

    OPENED = "OPENED"
    CLOSED = "CLOSED"


@dataclass(frozen=True, slots=True)
class Fault:
    """Something that our own code raised over one instance: the exception's type, never its text."""

    sender: str
    kind: str


@dataclass(frozen=True, slots=True)
class Denial:
    """An association that was not opened. `code`: the gatekeeper's word, LIMIT, or TLS for a handshake that failed.

    `sender` is the calling AE title, "" when it was not told or is not one.
    """

    code: str
    address: str
    sender: str


class Gatekeeper(Protocol):
    """Who may call; access.Access is one."""

    def check(self, called_ae: str, calling_ae: str, address: str, certificate_der: bytes | None) -> str | None:
        """Return why not, "CALLED_AE" or another word; None lets in."""


@dataclass(slots=True, eq=False)
class _Caller:
    """A connection and what serves it; `stock` is pynetdicom's association if it has taken over."""

    connected: socket.socket
    address: Any
    thread: threading.Thread | None = None
    connection: Connection | None = None
    stock: Any = None
    accepted: bool = False
    sender: str = ""

    @property
    def key(self) -> str:
        """Unique among those that are open."""
        return f"{id(self):x}"


class Listener:
    """One storage SCP on `host`:`port`; port 0 takes a free one, see `port`.

    `access`: who may call; None lets in whoever names our AE title (an AE title is no authentication). `tls`: a
    server context; with it nothing is spoken without. `extra`: services beside storage.
    `on_association(sender, event)`, `on_denied(denial)` and `on_fault(fault)` are called from association threads and
    must be quick.
    """

    def __init__(
        self,
        ae_title: str,
        host: str,
        port: int,
        inbox: Inbox,
        *,
        limits: ListenerLimits | None = None,
        access: Gatekeeper | None = None,
        tls: ssl.SSLContext | None = None,
        extra: Extra | None = None,
        on_association: Callable[[str, AssociationEvent], None] | None = None,
        on_denied: Callable[[Denial], None] | None = None,
        on_fault: Callable[[Fault], None] | None = None,
    ) -> None:
        self._ae_title, self._address, self._inbox = ae_title, (host, port), inbox
        self._limits = limits or ListenerLimits()
        self._access, self._tls, self._extra = access, tls, extra or Extra()
        self._on_association, self._on_denied, self._on_fault = on_association, on_denied, on_fault
        self._acceptor = Acceptor(self._limits.pdu_bytes_max)
        self._server: socket.socket | None = None
        self._accepting: threading.Thread | None = None
        self._stopping = threading.Event()
        self._lock = threading.Lock()
        self._callers: set[_Caller] = set()

    def start(self) -> None:
        """Listen, in threads of our own; returns once the port is bound. Raises ListenerFailed."""
        if self._server is not None:
            raise ListenerFailed("ALREADY_STARTED", "this listener runs already")
        if not valid_ae_title(self._ae_title):
            raise ListenerFailed("PORT_UNAVAILABLE", "the AE title is not one")
        host, port = self._address
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        try:
            self._server = socket.create_server((host, port), family=family, backlog=BACKLOG)
        except OSError as error:
            raise ListenerFailed("PORT_UNAVAILABLE", f"{host}:{port} cannot be bound ({error.strerror})") from error
        self._stopping.clear()
        self._accepting = threading.Thread(target=self._accept, args=(self._server,), name="dicom", daemon=True)
        self._accepting.start()

    def stop(self) -> None:
        """Abort what is open, free the port, and return when no instance is being stored. Harmless when not started.

        What comes meanwhile is answered with 0xA700. After this the inbox may be closed.
        """
        self._stopping.set()
        if self._server is not None:
            with suppress(OSError):
                # Wakes the thread that waits in accept(); closing alone would not.
                self._server.shutdown(socket.SHUT_RDWR)
            self._server.close()
            self._server = None
        end = time.monotonic() + STOP_S
        if self._accepting is not None:
            self._accepting.join(STOP_S)
        for caller in self._open():
            if caller.stock is not None:
                caller.stock.abort(block=False)
            elif caller.connection is not None:
                caller.connection.stop_reading()
            else:
                with suppress(OSError):
                    socket.socket.shutdown(caller.connected, socket.SHUT_RD)
        for caller in self._open():
            if caller.thread is not None:
                caller.thread.join(max(0.0, end - time.monotonic()))

    @property
    def port(self) -> int:
        """The port that is listened on; 0 before `start` if a free one was asked for."""
        return int(self._server.getsockname()[1]) if self._server is not None else self._address[1]

    # -- connections --------------------------------------------------------------------------------------------

    def _open(self) -> tuple[_Caller, ...]:
        with self._lock:
            return tuple(self._callers)

    def _accept(self, server: socket.socket) -> None:
        while not self._stopping.is_set():
            try:
                connected, address = server.accept()
            except OSError:
                # Closed by `stop`; gone before we took it; or no descriptors left, which passes.
                self._stopping.wait(_OUT_OF_DESCRIPTORS_S)
                continue
            caller = _Caller(connected, address)
            with self._lock:
                full = len(self._callers) >= self._limits.associations_max + WAITING_MAX
                if not full:
                    self._callers.add(caller)
            caller.thread = threading.Thread(target=self._serve, args=(caller,), name="association", daemon=True)
            try:
                if full:
                    raise RuntimeError("too many connections")
                caller.thread.start()
            except RuntimeError:
                # Python's word for a system that gives no more threads; the peer tries again.
                with self._lock:
                    self._callers.discard(caller)
                connected.close()
                self._denied(caller, "LIMIT")

    def _serve(self, caller: _Caller) -> None:
        """Serve one connection until it is over."""
        try:
            self._guard(caller, lambda: self._welcome(caller))
        except AssociationEnded as ended:
            if caller.connection is not None:
                last = ended.pdu if isinstance(ended, Rejection) else abort_pdu(ended.abort) if ended.abort else b""
                caller.connection.farewell(last)
        finally:
            # Its place is free before the peer can see the end and come back for it.
            with self._lock:
                caller.accepted = False
            with suppress(OSError):
                (caller.connection or caller.connected).close()
            try:
                self._closed(caller)
            finally:
                # Last: while it is among the callers, `stop` waits for it, and the inbox is open.
                with self._lock:
                    self._callers.discard(caller)

    def _welcome(self, caller: _Caller) -> Answer:
        """From the handshake to the end of the association. Raises AssociationEnded."""
        limits = self._limits
        connection = caller.connection = self._secured(caller)
        header = bytearray(_HEADER.size)
        end = time.monotonic() + limits.acse_s
        connection.fill(memoryview(header), limits.acse_s, end)
        kind, length = _HEADER.unpack(header)
        if kind == ABORT:
            raise AssociationEnded("PEER_ABORTED", "the peer aborted the association")
        if kind != ASSOCIATE_RQ:
            raise AssociationEnded("PROTOCOL", "the first PDU is no A-ASSOCIATE-RQ", (0, 0))
        if length > REQUEST_BYTES_MAX:
            raise AssociationEnded("PROTOCOL", "the A-ASSOCIATE-RQ is too long", INVALID_PARAMETER)
        body = bytearray(length)
        connection.fill(memoryview(body), limits.acse_s, end)
        proposal = read_request(bytes(body))
        self._admit(caller, proposal)
        if proposal.ordinary(self._extra.classes):
            self._fast(caller, connection, proposal)
        else:
            self._stock(caller, connection, bytes(header + body))
        return status.SUCCESS

    def _secured(self, caller: _Caller) -> Connection:
        limits, connected = self._limits, caller.connected
        try:
            connected.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            if self._tls is not None:
                # For the whole handshake, not for each of its steps.
                connected.settimeout(limits.acse_s)
                connected = self._tls.wrap_socket(connected, server_side=True, do_handshake_on_connect=False)
                caller.connected = connected
                connected.do_handshake()
            tick = min(TICK_MAX_S, limits.acse_s / 2, limits.dimse_s / 2, limits.network_s / 2)
            return Connection(connected, tick, limits.dimse_s)
        except (OSError, ValueError) as error:
            if isinstance(error, ssl.SSLError):
                self._denied(caller, "TLS")
            raise AssociationEnded("PEER_CLOSED", f"no connection ({type(error).__name__})") from error

    def _admit(self, caller: _Caller, proposal: Proposal) -> None:
        """Raise Rejection for whom we do not know, and for one too many."""
        denied: str | None = None
        if self._access is not None:
            connected = caller.connected
            shown = connected.getpeercert(binary_form=True) if isinstance(connected, ssl.SSLSocket) else None
            denied = self._access.check(proposal.called, proposal.calling, str(caller.address[0]), shown)
        elif proposal.called != self._ae_title:
            denied = "CALLED_AE"
        if denied is not None:
            self._denied(caller, denied, proposal.calling)
            raise Rejection(*(_CALLED_AE_UNKNOWN if denied == "CALLED_AE" else _CALLING_AE_UNKNOWN))
        with self._lock:
            caller.accepted = sum(other.accepted for other in self._callers) < self._limits.associations_max
        if not caller.accepted:
            self._denied(caller, "LIMIT", proposal.calling)
            raise Rejection(*_LOCAL_LIMIT)

    def _denied(self, caller: _Caller, code: str, calling: str = "") -> None:
        if self._on_denied is not None:
            sender = calling if valid_ae_title(calling) else ""
            self._on_denied(Denial(code, str(caller.address[0]), sender))

    def _fast(self, caller: _Caller, connection: Connection, proposal: Proposal) -> None:
        encoded, contexts = self._acceptor.accept(proposal)
        connection.send(encoded)
        self._opened(caller, proposal.calling)
        FastLane(
            connection,
            contexts,
            proposal.pdu_bytes_max,
            self._limits,
            lambda announced: self._inbox.incoming(announced, caller.sender, caller.key),
            lambda work: self._guard(caller, work),
            self._stopping,
        ).run()

    def _stock(self, caller: _Caller, connection: Connection, request: bytes) -> None:
        lane = StockLane(self._ae_title, self._limits, self._extra, lambda event: self._stock_store(caller, event))
        addresses = (caller.connected.getsockname(), caller.address)
        caller.stock = lane.prepare(connection, request, addresses, lambda sender: self._opened(caller, sender))
        caller.stock.start()
        if self._stopping.is_set():
            caller.stock.abort(block=False)
        caller.stock.join()
        end(caller.stock)

    def _opened(self, caller: _Caller, sender: str) -> None:
        caller.sender = sender
        self._inbox.activity.opened(caller.key, sender)
        if self._on_association is not None:
            self._on_association(sender, AssociationEvent.OPENED)

    def _closed(self, caller: _Caller) -> None:
        if not self._inbox.activity.closed(caller.key):
            return
        self._inbox.wake()
        if self._on_association is not None:
            self._on_association(caller.sender, AssociationEvent.CLOSED)

    # -- storing ------------------------------------------------------------------------------------------------

    def _guard(self, caller: _Caller, work: Callable[[], Answer]) -> tuple[Answer, int | None]:
        try:
            return work(), None
        except AssociationEnded:
            raise
        except (InstanceRefused, InboxUnavailable) as refused:
            return status.answer(refused), status.offending(refused)
        # A wall: one instance must not end the association, let alone the service; and a failure must not be silent.
        except Exception as fault:  # noqa: BLE001
            if self._on_fault is not None:
                self._on_fault(Fault(caller.sender, type(fault).__name__))
            return status.FAULT, None

    def _stock_store(self, caller: _Caller, event: Any) -> Dataset:
        answer, tag = self._guard(caller, lambda: self._store(caller, event))
        response = Dataset()
        response.Status = answer.status
        if answer.comment:
            response.ErrorComment = answer.comment
        if tag is not None:
            response.OffendingElement = tag
        return response

    def _store(self, caller: _Caller, event: Any) -> Answer:
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
            urgent=request.Priority == _HIGH,
        )
        if received.sop_class != str(event.context.abstract_syntax):
            self._inbox.quarantine(received.dataset, "CLASS_MISMATCH", caller.sender)
            raise InstanceRefused("CLASS_MISMATCH", "the request is of another class than the context", 0x00080016)
        # The commit point: when this returns, the instance survives a power cut.
        self._inbox.store(received, caller.sender, caller.key)
        return status.SUCCESS
