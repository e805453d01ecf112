"""What results need of the peer that gets them, and what it accepts: found out by negotiating, with nothing sent.

One association that proposes each storage class in the one transfer syntax in which it is written, and the services
that the peer is said to have. STOW-RS has no negotiation: of such a peer it can only be said that it answers.
"""

from __future__ import annotations

import ssl
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Final

import httpx
from pydicom.uid import (
    Comprehensive3DSRStorage,
    ExplicitVRLittleEndian,
    SegmentationStorage,
)
from pynetdicom.sop_class import StudyRootQueryRetrieveInformationModelFind

from dicom_bridge import tls
from dicom_bridge.calling import CallLimits, called
from dicom_bridge.commitment_messages import PUSH_MODEL, TRANSFER_SYNTAXES
from dicom_bridge.errors import PeerFailed
from dicom_bridge.key_kinds import CLASSES, KeyImage
from dicom_bridge.peers import Peer, Segmentation, Send
from dicom_bridge.segment_pixels import LABEL_MAP_STORAGE

NOT_ACCEPTED: Final = "PEER_NO_CONTEXT"
"""Code of what the peer does not accept, as where a result is sent."""
LIMITS: Final = CallLimits(connect_s=3.0, acse_s=5.0, dimse_s=5.0)
"""Seconds; somebody, or a start, waits for it."""
_WEB: Final = httpx.Timeout(5.0, connect=3.0)
_NO_ENTRY: Final = frozenset({401, 403, 407})
_WRITTEN: Final = (str(ExplicitVRLittleEndian),)


@dataclass(frozen=True, slots=True)
class Need:
    """One thing that the peer must accept: what people call it, its class, and in which transfer syntaxes (any one)."""

    kind: str
    sop_class: str
    transfer_syntaxes: tuple[str, ...] = ()


_SEG: Final = Need("SEG", str(SegmentationStorage), _WRITTEN)
_LABEL_MAP: Final = Need("LABELMAP", LABEL_MAP_STORAGE, _WRITTEN)
_INSTEAD: Final = Need("BINARY", str(SegmentationStorage), _WRITTEN)
"""What segments that overlap are sent as to a peer that takes label maps."""
_SR: Final = Need("SR", str(Comprehensive3DSRStorage), _WRITTEN)
_NOTE: Final = Need("NOTE", CLASSES[KeyImage.KOS], _WRITTEN)
_COMMITMENT: Final = Need("COMMITMENT", PUSH_MODEL, TRANSFER_SYNTAXES)
_FIND: Final = Need("C-FIND", str(StudyRootQueryRetrieveInformationModelFind))


def needs(peer: Peer, *, key_images: Collection[KeyImage], rejection_notes: bool = False) -> tuple[Need, ...]:
    """What results to this peer need of its DICOM port: objects by C-STORE, and what it is said to be able to."""
    masks = (_LABEL_MAP, _INSTEAD) if peer.segmentation is Segmentation.LABELMAP else (_SEG,)
    pictures = (Need(kind, sop_class, _WRITTEN) for kind, sop_class in CLASSES.items() if kind in key_images)
    notes = (_NOTE,) if rejection_notes else ()
    objects = (*masks, _SR, *pictures, *notes) if peer.send is Send.C_STORE else ()
    abilities = ((peer.commitment, _COMMITMENT), (peer.counts, _FIND))
    return (*objects, *(need for has, need in abilities if has))


def refused(peer: Peer, calling_ae: str, wanted: Sequence[Need], limits: CallLimits = LIMITS) -> tuple[Need, ...]:
    """Those of `wanted` that the peer does not accept now. Raises PeerFailed (not PEER_NO_CONTEXT) and TlsUnusable."""
    if not wanted:
        return ()
    contexts = list(dict.fromkeys((need.sop_class, need.transfer_syntaxes) for need in wanted))
    try:
        with called(peer, calling_ae, contexts, limits) as association:
            accepted = {str(context.abstract_syntax) for context in association.accepted_contexts}
    except PeerFailed as failed:
        if failed.code != NOT_ACCEPTED:
            raise
        accepted = set()
    return tuple(need for need in wanted if need.sop_class not in accepted)


def web_answer(peer: Peer) -> int:
    """The HTTP status with which the peer's STOW-RS address answers OPTIONS: that it is there, and no more.

    Nothing of a patient is asked for, and nothing stored. Raises PeerFailed (PEER_UNREACHABLE, PEER_NO_ANSWER,
    PEER_REJECTED: it lets nobody in without a log-in) and TlsUnusable.
    """
    trusted: ssl.SSLContext | bool = True if peer.tls is None else tls.client_context(peer.tls, peer.certificate)
    try:
        with httpx.Client(verify=trusted, timeout=_WEB, follow_redirects=False, trust_env=False) as client:
            status = client.options(f"{(peer.web or '').rstrip('/')}/studies").status_code
    except (httpx.ConnectError, httpx.ConnectTimeout, httpx.UnsupportedProtocol, httpx.InvalidURL):
        raise PeerFailed("PEER_UNREACHABLE", f"{peer.name} does not answer at its web root") from None
    except (httpx.HTTPError, OSError):
        raise PeerFailed("PEER_NO_ANSWER", f"{peer.name} does not answer a request for its options") from None
    if status in _NO_ENTRY:
        raise PeerFailed("PEER_REJECTED", f"{peer.name} answers with HTTP status {status}")
    return status
