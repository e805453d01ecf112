"""Sending files to one peer: a Storage SCU (PS3.4 Annex B) for the outbox and for `zhiying send`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar, Final

from pydicom import dcmread
from pydicom.errors import InvalidDicomError
from pynetdicom import _config, evt
from pynetdicom.association import Association

from dicom_bridge.errors import BridgeError, Fault
from dicom_bridge.network import Entity, new_entity, no_delay
from dicom_bridge.peers import Peer

# Send the file's own bytes, unparsed: what was validated and logged by digest is what the peer gets.
_config.STORE_SEND_CHUNKED_DATASET = True

CONNECT_TIMEOUT_S: Final = 10
"""A peer on the hospital's own network that needs longer for a TCP handshake is down."""
ACSE_TIMEOUT_S: Final = 30
DIMSE_TIMEOUT_S: Final = 120
"""For one C-STORE answer: a PACS may write a large object to a slow archive before it answers."""
NETWORK_TIMEOUT_S: Final = 120
PDU_BYTES: Final = 131072
CONTEXTS_MAX: Final = 128
"""PS3.8 9.3.2.2: context identifiers are the odd numbers from 1 to 255."""
_HEAD: Final = ("SOPClassUID", "SOPInstanceUID")


class SendRefused(BridgeError):
    """These files cannot be sent by us, whatever the peer says."""

    CODES: ClassVar[frozenset[str]] = frozenset({"FILE_UNREADABLE", "TOO_MANY_CONTEXTS"})
    fault: ClassVar[Fault] = Fault.US


@dataclass(frozen=True, slots=True)
class SendResult:
    """What the peer answered: one status per file, in order; None where there was no answer.

    `error` is None when every file was answered, else why not: PEER_UNREACHABLE (no connection), PEER_REJECTED
    (association rejected or aborted before it stood), PEER_NO_CONTEXT (a file's class or syntax was not accepted;
    the others were sent), PEER_NO_ANSWER (the association broke or timed out on the way).
    """

    statuses: tuple[int | None, ...]
    error: str | None


def send(files: Sequence[Path], peer: Peer, calling_ae: str) -> SendResult:
    """Send `files` in order over one association that proposes only what they need.

    Raises SendRefused for files that are not DICOM, or of more kinds than one association can carry.
    """
    if not files:
        return SendResult((), None)
    kinds = [_kind(path) for path in files]
    if len(set(kinds)) > CONTEXTS_MAX:
        raise SendRefused("TOO_MANY_CONTEXTS", f"more than {CONTEXTS_MAX} kinds of object")
    ae = _application_entity(calling_ae)
    # One syntax per context: a peer picks one of several, and it might not be the one that the file is in.
    for sop_class, syntax in dict.fromkeys(kinds):
        ae.add_requested_context(sop_class, syntax)
    connected: list[evt.Event] = []
    try:
        association = ae.associate(
            peer.host,
            peer.port,
            ae_title=peer.ae_title,
            max_pdu=PDU_BYTES,
            evt_handlers=[(evt.EVT_CONN_OPEN, connected.append), (evt.EVT_CONN_OPEN, no_delay)],
        )
    except (OSError, UnicodeError):
        # The host's name does not resolve: pynetdicom raises for that alone.
        return SendResult((None,) * len(files), "PEER_UNREACHABLE")
    if not association.is_established:
        ae.close_socket()
        return SendResult((None,) * len(files), _why_not(association, connected=bool(connected)))
    try:
        return _send_all(association, files, kinds)
    finally:
        if association.is_established:
            association.release()


def _why_not(association: Association, *, connected: bool) -> str:
    """Why there is no association; an accepted one without any context is aborted by pynetdicom at once."""
    if not connected:
        return "PEER_UNREACHABLE"
    return "PEER_NO_CONTEXT" if association.rejected_contexts else "PEER_REJECTED"


def _application_entity(calling_ae: str) -> Entity:
    ae = new_entity(calling_ae)
    ae.connection_timeout = CONNECT_TIMEOUT_S
    ae.acse_timeout = ACSE_TIMEOUT_S
    ae.dimse_timeout = DIMSE_TIMEOUT_S
    ae.network_timeout = NETWORK_TIMEOUT_S
    return ae


def _kind(path: Path) -> tuple[str, str]:
    """(SOP class, transfer syntax) of a Part 10 file."""
    try:
        ds = dcmread(path, stop_before_pixels=True, specific_tags=list(_HEAD))
        return str(ds.SOPClassUID), str(ds.file_meta.TransferSyntaxUID)
    except (OSError, InvalidDicomError, AttributeError, ValueError):
        raise SendRefused("FILE_UNREADABLE", "not a Part 10 file, or it cannot be read") from None


def _send_all(association: Association, files: Sequence[Path], kinds: Sequence[tuple[str, str]]) -> SendResult:
    accepted = {(str(c.abstract_syntax), str(c.transfer_syntax[0])) for c in association.accepted_contexts}
    statuses: list[int | None] = []
    error: str | None = None
    for path, kind in zip(files, kinds, strict=True):
        if kind not in accepted:
            statuses.append(None)
            error = "PEER_NO_CONTEXT"
            continue
        status = _send_one(association, path)
        statuses.append(status)
        if status is None:
            statuses += [None] * (len(files) - len(statuses))
            return SendResult(tuple(statuses), "PEER_NO_ANSWER")
    return SendResult(tuple(statuses), error)


def _send_one(association: Association, path: Path) -> int | None:
    if not association.is_established:
        return None
    try:
        answer = association.send_c_store(path)
    except (RuntimeError, ValueError, OSError):
        # The association ended between the check above and the request, or the file vanished: no answer either way.
        return None
    return int(answer.Status) if "Status" in answer else None
