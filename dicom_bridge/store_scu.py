"""Sending files to one peer: a Storage SCU (PS3.4 Annex B) for the outbox and for `zhiying send`."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Final

from pydicom import dcmread
from pydicom.errors import InvalidDicomError
from pynetdicom import _config

from dicom_bridge.calling import CONTEXTS_MAX, CallLimits, called, hold, keep_answers
from dicom_bridge.errors import BridgeError, Fault, PeerFailed
from dicom_bridge.ledger import HELD
from dicom_bridge.peers import Peer
from dicom_bridge.tls import TlsUnusable

# Send the file's own bytes, unparsed: what was validated and logged by digest is what the peer gets.
_config.STORE_SEND_CHUNKED_DATASET = True

LIMITS: Final = CallLimits(connect_s=10, acse_s=30, dimse_s=120)
"""A peer on the hospital's own network that needs longer for a TCP handshake is down; for one C-STORE answer a PACS may
write a large object to a slow archive first."""
_HEAD: Final = ("SOPClassUID", "SOPInstanceUID")


class SendRefused(BridgeError):
    """These files cannot be sent by us, whatever the peer says."""

    CODES: ClassVar[frozenset[str]] = frozenset({"FILE_UNREADABLE", "TOO_MANY_CONTEXTS"})
    fault: ClassVar[Fault] = Fault.US


@dataclass(frozen=True, slots=True)
class Kind:
    """What a Part 10 file says of itself."""

    sop_class: str
    sop_uid: str
    transfer_syntax: str


@dataclass(frozen=True, slots=True)
class SendResult:
    """What the peer answered: one status per file, in order; None where there was no answer.

    `error` is None when every file was answered, else why not: PEER_UNREACHABLE (no connection), PEER_REJECTED (the
    association was rejected), PEER_NO_CONTEXT (a file's class or syntax was not accepted; the others were sent),
    PEER_NO_ANSWER (the association broke or timed out), HELD (`go_on` said no), a code of TlsUnusable, or HTTP_nnn
    (STOW-RS).
    `hopeless`: the same files will not be taken by waiting.
    """

    statuses: tuple[int | None, ...]
    error: str | None
    hopeless: bool = False


def always() -> bool:
    """Nothing is in the way of the next object."""
    return True


def send(
    files: Sequence[Path],
    peer: Peer,
    calling_ae: str,
    limits: CallLimits = LIMITS,
    *,
    go_on: Callable[[], bool] = always,
) -> SendResult:
    """Send `files` in order over one association that proposes only what they need.

    `go_on` is asked before each of them; where it says no, that one and the rest are not sent.

    Raises SendRefused for files that are not DICOM, or of more kinds than one association can carry.
    """
    if not files:
        return SendResult((), None)
    kinds = [kind_of(path) for path in files]
    # One syntax per context: a peer picks one of several, and it might not be the one that the file is in.
    wanted = dict.fromkeys((kind.sop_class, (kind.transfer_syntax,)) for kind in kinds)
    if len(wanted) > CONTEXTS_MAX:
        raise SendRefused("TOO_MANY_CONTEXTS", f"more than {CONTEXTS_MAX} kinds of object")
    try:
        with called(peer, calling_ae, list(wanted), limits) as association:
            return _send_all(association, files, kinds, go_on)
    except (PeerFailed, TlsUnusable) as failed:
        return SendResult((None,) * len(files), failed.code, hopeless=failed.code == "PEER_NO_CONTEXT")


def kind_of(path: Path) -> Kind:
    """Read the head of a Part 10 file. Raises SendRefused FILE_UNREADABLE."""
    try:
        ds = dcmread(path, stop_before_pixels=True, specific_tags=list(_HEAD))
        return Kind(str(ds.SOPClassUID), str(ds.SOPInstanceUID), str(ds.file_meta.TransferSyntaxUID))
    except (OSError, InvalidDicomError, AttributeError, ValueError):
        raise SendRefused("FILE_UNREADABLE", "not a Part 10 file, or it cannot be read") from None


def _send_all(association: Any, files: Sequence[Path], kinds: Sequence[Kind], go_on: Callable[[], bool]) -> SendResult:
    keep_answers(association)
    accepted = {(str(c.abstract_syntax), str(c.transfer_syntax[0])) for c in association.accepted_contexts}
    statuses: list[int | None] = []
    unwanted = False
    for path, kind in zip(files, kinds, strict=True):
        if (kind.sop_class, kind.transfer_syntax) not in accepted:
            statuses.append(None)
            unwanted = True
            continue
        if not go_on():
            statuses += [None] * (len(files) - len(statuses))
            return SendResult(tuple(statuses), HELD)
        status = _send_one(association, path)
        statuses.append(status)
        if status is None:
            statuses += [None] * (len(files) - len(statuses))
            return SendResult(tuple(statuses), "PEER_NO_ANSWER")
    return SendResult(tuple(statuses), "PEER_NO_CONTEXT" if unwanted else None, hopeless=unwanted)


def _send_one(association: Any, path: Path) -> int | None:
    try:
        hold(association)
        answer = association.send_c_store(path)
    except (PeerFailed, RuntimeError, ValueError, OSError):
        # The association has ended, or the file vanished: no answer either way.
        return None
    return int(answer.Status) if "Status" in answer else None
