"""Association establishment (PS3.8 section 7.1, 9.3.2 to 9.3.4): what a peer proposes, and what we answer.

pynetdicom's own PDU classes decode, encode and negotiate; what they would choke on or take long over is refused before.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Final

from pydicom.uid import UID
from pynetdicom import build_context
from pynetdicom.pdu import A_ASSOCIATE_AC, A_ASSOCIATE_RQ
from pynetdicom.pdu_primitives import (
    A_ASSOCIATE,
    ImplementationClassUIDNotification,
    ImplementationVersionNameNotification,
    MaximumLengthNotification,
)
from pynetdicom.presentation import negotiate_as_acceptor
from pynetdicom.sop_class import Verification

from dicom_bridge import quiet  # noqa: F401 - for its settings
from dicom_bridge.connection import AssociationEnded
from dicom_bridge.offers import STORAGE_CLASSES, TRANSFER_SYNTAXES
from dicom_bridge.uids import IMPLEMENTATION_CLASS_UID, IMPLEMENTATION_VERSION_NAME

ASSOCIATE_RQ: Final = 0x01
ASSOCIATE_RJ: Final = 0x03
P_DATA_TF: Final = 0x04
RELEASE_RQ: Final = 0x05
RELEASE_RP: Final = 0x06
ABORT: Final = 0x07
"""PDU types (PS3.8 section 9.3.1)."""

UNRECOGNIZED_PDU: Final = (2, 1)
UNEXPECTED_PDU: Final = (2, 2)
UNRECOGNIZED_PARAMETER: Final = (2, 4)
INVALID_PARAMETER: Final = (2, 6)
"""Source and reason of an A-ABORT by the service provider (PS3.8 table 9-26)."""

REQUEST_BYTES_MAX: Final = 1 << 20
"""Bytes of an A-ASSOCIATE-RQ, 1 MiB: 128 contexts of all 45 transfer syntaxes each have 0.2 MiB."""
ITEMS_MAX: Final = 128 * 64
"""Items and sub-items of an A-ASSOCIATE-RQ: more than 128 contexts cannot be numbered; each costs us microseconds."""

VERIFICATION: Final = str(Verification)
APPLICATION_CONTEXT: Final = "1.2.840.10008.3.1.1.1"
_STORAGE: Final = frozenset(STORAGE_CLASSES)
_FIXED: Final = 68
"""Bytes of the request before its items: version, reserved, two titles, reserved."""
_CONTEXT: Final = 0x20
_USER_INFORMATION: Final = 0x50
_ITEM: Final = struct.Struct(">BxH")
# Whoever sends nothing but these wants nothing that the fast lane does not know (PS3.7 annex D.3.3.1, D.3.3.2).
_PLAIN: Final = (
    MaximumLengthNotification,
    ImplementationClassUIDNotification,
    ImplementationVersionNameNotification,
)
# What pynetdicom's decoders raise at what they cannot read.
_UNREADABLE: Final = (ValueError, TypeError, AttributeError, LookupError, struct.error, UserWarning)


class Rejection(AssociationEnded):
    """The association is not accepted: result, source and reason of A-ASSOCIATE-RJ (PS3.8 table 9-21)."""

    def __init__(self, result: int, source: int, reason: int) -> None:
        super().__init__("PROTOCOL", "the association was rejected")
        self.pdu = struct.pack(">BxLxBBB", ASSOCIATE_RJ, 4, result, source, reason)


def abort_pdu(abort: tuple[int, int]) -> bytes:
    """Return an A-ABORT (PS3.8 section 9.3.8) of this source and reason."""
    return struct.pack(">BxLxxBB", ABORT, 4, *abort)


RELEASE_RP_PDU: Final = struct.pack(">BxL4x", RELEASE_RP, 4)
"""A-RELEASE-RP (PS3.8 section 9.3.7)."""


@dataclass(frozen=True, slots=True)
class Proposal:
    """What a peer asks for. `pdu_bytes_max`: of what we may send, 0 for no limit (PS3.8 annex D.1)."""

    called: str
    calling: str
    pdu_bytes_max: int
    request: Any
    classes: frozenset[str]
    plain: bool

    def ordinary(self, elsewhere: frozenset[str]) -> bool:
        """Say whether the fast lane can serve it: no special negotiation, and none of the classes `elsewhere`."""
        return self.plain and not self.classes & elsewhere


@dataclass(frozen=True, slots=True)
class Context:
    """An accepted presentation context; `storage`: its class is one that is stored."""

    abstract_syntax: str
    transfer_syntax: str
    storage: bool


def read_request(body: bytes) -> Proposal:
    """Decode the body of an A-ASSOCIATE-RQ, its six bytes of header not included.

    Raises AssociationEnded PROTOCOL with the A-ABORT to send, and Rejection.
    """
    _check_items(body)
    request = A_ASSOCIATE_RQ()
    try:
        request.decode(struct.pack(">BxL", ASSOCIATE_RQ, len(body)) + body)
        primitive = request.to_primitive()
        version, application = request.protocol_version, str(primitive.application_context_name or "")
        contexts, items = primitive.presentation_context_definition_list, primitive.user_information
        proposal = Proposal(
            called=str(primitive.called_ae_title).strip(),
            calling=str(primitive.calling_ae_title).strip(),
            pdu_bytes_max=int(primitive.maximum_length_received or 0),
            request=primitive,
            classes=frozenset(str(context.abstract_syntax) for context in contexts),
            plain=all(isinstance(item, _PLAIN) for item in items),
        )
        readable = all(context.abstract_syntax and context.transfer_syntax for context in contexts)
    except _UNREADABLE as error:
        raise _invalid("the request cannot be decoded") from error
    if not readable:
        raise _invalid("a presentation context names no syntax")
    if not version & 1:
        raise Rejection(1, 2, 2)
    if application.rstrip("\0 ") != APPLICATION_CONTEXT:
        raise Rejection(1, 1, 2)
    return proposal


def _check_items(body: bytes) -> None:
    """Every length must lie inside what holds it, and there must not be too many; pynetdicom checks neither."""
    seen = 0
    for kind, start, end in _items(body, _FIXED, len(body)):
        seen += 1
        if kind in (_CONTEXT, _USER_INFORMATION):
            seen += sum(1 for _ in _items(body, start + (4 if kind == _CONTEXT else 0), end))
        if seen > ITEMS_MAX:
            raise _invalid("the request has too many items")


def _items(body: bytes, position: int, end: int) -> Iterator[tuple[int, int, int]]:
    while position != end:
        if position + _ITEM.size > end:
            raise _invalid("an item of the request is cut off")
        kind, length = _ITEM.unpack_from(body, position)
        position += _ITEM.size
        if length > end - position:
            raise _invalid("an item of the request is longer than what holds it")
        yield kind, position, position + length
        position += length


def _invalid(detail: str) -> AssociationEnded:
    return AssociationEnded("PROTOCOL", detail, INVALID_PARAMETER)


class Acceptor:
    """Our side of the negotiation. `pdu_bytes_max`: of what we want to be sent."""

    def __init__(self, pdu_bytes_max: int) -> None:
        self._pdu_bytes_max = pdu_bytes_max
        # Read only: shared by all associations.
        self._supported = [build_context(sop_class, list(TRANSFER_SYNTAXES)) for sop_class in STORAGE_CLASSES]
        self._supported.append(build_context(VERIFICATION))

    def accept(self, proposal: Proposal) -> tuple[bytes, dict[int, Context]]:
        """Return the A-ASSOCIATE-AC and the accepted contexts by their ID.

        Raises AssociationEnded PROTOCOL when what was proposed cannot be answered.
        """
        try:
            results, _ = negotiate_as_acceptor(proposal.request.presentation_context_definition_list, self._supported)
            pdu = A_ASSOCIATE_AC()
            pdu.from_primitive(self._answer(proposal, results))
            encoded = bytes(pdu.encode())
        except _UNREADABLE as error:
            raise _invalid("the request cannot be answered") from error
        accepted = {
            int(result.context_id): Context(
                str(result.abstract_syntax), str(result.transfer_syntax[0]), str(result.abstract_syntax) in _STORAGE
            )
            for result in results
            if result.result == 0
        }
        return encoded, accepted

    def _answer(self, proposal: Proposal, results: Any) -> Any:
        answer = A_ASSOCIATE()
        answer.application_context_name = UID(APPLICATION_CONTEXT)
        # Sent back as they came; not to be tested by the peer (PS3.8 section 9.3.3).
        answer.calling_ae_title = proposal.request.calling_ae_title
        answer.called_ae_title = proposal.request.called_ae_title
        answer.result, answer.result_source = 0, 1
        answer.presentation_context_definition_results_list = results
        length, implementation, version = (kind() for kind in _PLAIN)
        length.maximum_length_received = self._pdu_bytes_max
        implementation.implementation_class_uid = UID(IMPLEMENTATION_CLASS_UID)
        version.implementation_version_name = IMPLEMENTATION_VERSION_NAME
        answer.user_information = [length, implementation, version]
        return answer
