"""Calling a peer: one association that we open, in the clear or over TLS, closed without a trace whatever happens.

The one place from which C-ECHO, C-FIND, C-STORE, N-ACTION and N-EVENT-REPORT requests leave.
"""

from __future__ import annotations

import socket
import ssl
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import Any, Final

from pynetdicom import build_role, evt

from dicom_bridge import tls
from dicom_bridge.errors import PeerFailed
from dicom_bridge.network import Entity, new_entity, no_delay
from dicom_bridge.peers import Peer

PDU_BYTES: Final = 131_072
CONTEXTS_MAX: Final = 128
"""PS3.8 section 9.3.2.2: context identifiers are the odd numbers from 1 to 255."""

HOLD_S: Final = 30.0
"""Far more than the moment that the association's thread needs."""
_PAUSED_S: Final = 0.001

Context = tuple[str, tuple[str, ...]]
"""Abstract syntax and transfer syntaxes; without syntaxes, the uncompressed ones."""
Handler = tuple[Any, Callable[[Any], Any]]
"""An event of pynetdicom, and what handles it."""


@dataclass(frozen=True, slots=True)
class CallLimits:
    """Seconds: to connect, to negotiate, and without a word (or a byte of one) inside an operation."""

    connect_s: float
    acse_s: float
    dimse_s: float


@contextmanager
def called(
    peer: Peer,
    calling_ae: str,
    contexts: Sequence[Context],
    limits: CallLimits,
    *,
    as_scp: Sequence[str] = (),
    handlers: Sequence[Handler] = (),
) -> Iterator[Any]:
    """Open an association with `peer`, pynetdicom's own; released, and its socket closed, at the end.

    `as_scp`: abstract syntaxes for which we ask for the SCP's role (PS3.7 annex D.3.3.4).
    Raises PeerFailed (PEER_UNREACHABLE: no connection, over TLS also one that either side does not trust;
    PEER_REJECTED; PEER_NO_CONTEXT: nothing of `contexts` was accepted; PEER_NO_ANSWER: connected, but no answer to the
    request) and TlsUnusable.
    """
    secure = None if peer.tls is None else _Secure(tls.client_context(peer.tls, peer.certificate))
    entity = _entity(calling_ae, limits)
    for abstract, syntaxes in contexts:
        entity.add_requested_context(abstract, *([list(syntaxes)] if syntaxes else []))
    connections: list[Any] = []

    def connected(event: Any) -> None:
        connections.append(event)
        no_delay(event)
        connection = event.assoc.dul.socket.socket
        if connection is not None:
            # pynetdicom reads a PDU to its end: without this, a peer that stops in the middle would hold us for ever.
            connection.settimeout(limits.dimse_s)

    association: Any = None
    try:
        association = _associate(entity, peer, [(evt.EVT_CONN_OPEN, connected), *handlers], secure, as_scp)
        if not association.is_established:
            raise _why_not(association, peer, connected=bool(connections))
        yield association
    finally:
        # A connection that was refused never had a thread.
        if association is not None and association.ident is not None:
            _end(association, limits.acse_s)
        entity.close_socket()
        if secure is not None and secure.made is not None:
            secure.made.close()


def hold(association: Any, limit_s: float = HOLD_S) -> None:
    """Call this before each request on an association. Raises PeerFailed PEER_NO_ANSWER when it has ended.

    pynetdicom's own requests first wait for the association's thread to pause, and for ever when it ended meanwhile, or
    when it waits and does not say so, which was seen once. `limit_s`: seconds for it to pause.
    """
    association._reactor_checkpoint.clear()
    ends = time.monotonic() + limit_s
    while association.is_alive() and association.dul.is_alive() and time.monotonic() < ends:
        paused = association._is_paused
        time.sleep(_PAUSED_S)
        # Twice: at the first look the thread may have been on its way out of an earlier pause.
        if paused and association._is_paused:
            return
    association._reactor_checkpoint.set()  # its thread may only end when it goes on
    raise PeerFailed("PEER_NO_ANSWER", "the association has ended")


def keep_answers(association: Any) -> None:
    """Mend a race of pynetdicom 3.0: call it once, on an association on which nobody requests but us.

    Its own loop is told to pause before a request goes out, but may have looked just before and take the answer, if
    that is quick, for a request to us: the answer is lost ("Received unexpected ... service message"), and we wait for
    it in vain. Against DCMTK on one machine that befell one C-STORE in some hundred. What the loop takes is put back.
    """
    answers = association.dimse.msg_queue

    def put_back(message: Any, context_id: int) -> None:
        with answers.mutex:
            answers.queue.appendleft((context_id, message))
            answers.not_empty.notify()

    association._serve_request = put_back


def _end(association: Any, seconds: float) -> None:
    with suppress(PeerFailed):
        hold(association)
        association.release()
        association._reactor_checkpoint.set()
    association.join(seconds)


class _Secure:
    """Stands in for an SSL context and remembers the socket that it made: pynetdicom forgets one that failed."""

    def __init__(self, context: ssl.SSLContext) -> None:
        self._context = context
        self.made: socket.socket | None = None

    def wrap_socket(self, plain: socket.socket, *, server_side: bool, server_hostname: str) -> socket.socket:
        self.made = self._context.wrap_socket(plain, server_side=server_side, server_hostname=server_hostname)
        return self.made


def _entity(calling_ae: str, limits: CallLimits) -> Entity:
    entity = new_entity(calling_ae)
    entity.connection_timeout = limits.connect_s
    entity.acse_timeout = limits.acse_s
    entity.dimse_timeout = limits.dimse_s
    entity.network_timeout = limits.dimse_s
    return entity


def _associate(
    entity: Entity, peer: Peer, handlers: Sequence[Handler], secure: _Secure | None, as_scp: Sequence[str]
) -> Any:
    try:
        return entity.associate(
            peer.host,
            peer.port,
            ae_title=peer.ae_title,
            max_pdu=PDU_BYTES,
            ext_neg=[build_role(abstract, scp_role=True) for abstract in as_scp],
            evt_handlers=list(handlers),
            tls_args=None if secure is None else (secure, peer.host),
        )
    except (OSError, UnicodeError):
        # The host's name does not resolve: pynetdicom raises for that alone.
        raise PeerFailed("PEER_UNREACHABLE", f"{peer.name} has no address") from None


def _why_not(association: Any, peer: Peer, *, connected: bool) -> PeerFailed:
    if association.is_rejected:
        return PeerFailed("PEER_REJECTED", f"{peer.name} rejected our association")
    # pynetdicom aborts an association that was accepted without any of our contexts.
    if association.rejected_contexts:
        return PeerFailed("PEER_NO_CONTEXT", f"{peer.name} does not offer this service")
    if connected:
        return PeerFailed("PEER_NO_ANSWER", f"{peer.name} does not answer our association request")
    return PeerFailed("PEER_UNREACHABLE", f"{peer.name} does not answer at its address")
