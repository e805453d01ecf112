"""What a peer proposes: read strictly, answered as pynetdicom would, and sent to the lane that can serve it."""

from __future__ import annotations

import struct
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydicom.uid import CTImageStorage, ExplicitVRLittleEndian, ImplicitVRLittleEndian, JPEGBaseline8Bit, MRImageStorage
from pynetdicom import AE, build_role
from pynetdicom.pdu import A_ASSOCIATE_AC, A_ASSOCIATE_RQ
from pynetdicom.pdu_primitives import (
    A_ASSOCIATE,
    AsynchronousOperationsWindowNegotiation,
    SOPClassCommonExtendedNegotiation,
    SOPClassExtendedNegotiation,
    UserIdentityNegotiation,
)

from dicom_bridge.connection import AssociationEnded
from dicom_bridge.negotiation import (
    INVALID_PARAMETER,
    ITEMS_MAX,
    RELEASE_RP_PDU,
    Acceptor,
    Rejection,
    abort_pdu,
    read_request,
)
from dicom_bridge.offers import STORAGE_CLASSES, TRANSFER_SYNTAXES
from tests.simulators.raw_peer import VERIFICATION, context_item, item, pdu, request, user_information

ACCEPTOR = Acceptor(131_072)
COMMITMENT = "1.2.840.10008.1.20.1"
CONTEXTS = [(1, VERIFICATION, [ImplicitVRLittleEndian]), (3, MRImageStorage, [ExplicitVRLittleEndian])]


def body(*arguments: Any, **options: Any) -> bytes:
    """A request without its header."""
    return request(*arguments, **options)[6:]


def accepted(encoded: bytes) -> Any:
    """What pynetdicom reads in an acceptance."""
    decoded = A_ASSOCIATE_AC()
    decoded.decode(encoded)
    return decoded.to_primitive()


def test_a_request_is_read() -> None:
    """Titles without padding, the peer's maximum length, the classes."""
    found = read_request(body(CONTEXTS, calling="PACS", user=user_information(65_536)))
    assert (found.called, found.calling, found.pdu_bytes_max) == ("ZHIYING", "PACS", 65_536)
    assert found.classes == {VERIFICATION, MRImageStorage}
    assert found.plain


def test_a_request_of_pynetdicom_with_all_contexts_is_read_and_answered() -> None:
    """120 storage contexts of three syntaxes: each accepted with the first of ours that was proposed."""
    entity = AE("PACS")
    for sop_class in STORAGE_CLASSES[:120]:
        entity.add_requested_context(sop_class, [JPEGBaseline8Bit, ImplicitVRLittleEndian, ExplicitVRLittleEndian])
    primitive = A_ASSOCIATE()
    primitive.application_context_name = "1.2.840.10008.3.1.1.1"
    primitive.calling_ae_title, primitive.called_ae_title = "PACS", "ZHIYING"
    contexts = entity.requested_contexts
    for number, context in enumerate(contexts):
        context.context_id = 2 * number + 1
    primitive.presentation_context_definition_list = contexts
    primitive.user_information = accepted(ACCEPTOR.accept(read_request(body(CONTEXTS)))[0]).user_information
    made = A_ASSOCIATE_RQ()
    made.from_primitive(primitive)
    encoded, found = ACCEPTOR.accept(read_request(bytes(made.encode())[6:]))
    assert len(found) == 120
    assert {context.transfer_syntax for context in found.values()} == {ExplicitVRLittleEndian}
    assert all(context.storage for context in found.values())
    results = accepted(encoded).presentation_context_definition_results_list
    assert [result.context_id for result in results] == [2 * number + 1 for number in range(120)]


def test_the_first_of_our_syntaxes_is_chosen() -> None:
    """The peer's order does not count; the plain ones come first."""
    for chosen in TRANSFER_SYNTAXES:
        rest = list(TRANSFER_SYNTAXES[TRANSFER_SYNTAXES.index(chosen) :])
        _, found = ACCEPTOR.accept(read_request(body([(1, CTImageStorage, rest[::-1])])))
        assert found[1].transfer_syntax == chosen


def test_verification_is_accepted_and_not_storage() -> None:
    """Nothing is stored in its context."""
    _, found = ACCEPTOR.accept(read_request(body(CONTEXTS)))
    assert (found[1].storage, found[3].storage) == (False, True)


def test_nothing_acceptable_is_an_association_all_the_same() -> None:
    """All contexts rejected: accepted as an association (PS3.8 section 7.1.1.13), as pynetdicom does."""
    for unknown in ("1.2.3", "not a UID"):
        encoded, found = ACCEPTOR.accept(read_request(body([(1, unknown, [ExplicitVRLittleEndian])])))
        assert found == {}
        (result,) = accepted(encoded).presentation_context_definition_results_list
        assert result.result == 3


# -- which lane


def sub_item(notification: Any) -> bytes:
    """A user information sub-item as pynetdicom encodes it."""
    return bytes(notification.from_primitive().encode())


def extended() -> dict[str, bytes]:
    """Every negotiation that the fast lane does not know."""
    window = AsynchronousOperationsWindowNegotiation()
    window.maximum_number_operations_invoked = window.maximum_number_operations_performed = 5
    one_class, common = SOPClassExtendedNegotiation(), SOPClassCommonExtendedNegotiation()
    one_class.sop_class_uid, one_class.service_class_application_information = CTImageStorage, b"\2\0"
    common.sop_class_uid, common.service_class_uid = CTImageStorage, "1.2.840.10008.4.2"
    user = UserIdentityNegotiation()
    user.user_identity_type, user.primary_field, user.positive_response_requested = 1, b"somebody", False
    return {
        "role selection": sub_item(build_role(CTImageStorage, scp_role=True)),
        "asynchronous window": sub_item(window),
        "extended": sub_item(one_class),
        "common extended": sub_item(common),
        "user identity": sub_item(user),
    }


@pytest.mark.parametrize("more", extended().values(), ids=extended().keys())
def test_special_negotiation_is_for_the_stock_lane(more: bytes) -> None:
    """Anything beyond maximum length and implementation identification."""
    found = read_request(body(CONTEXTS, user=user_information(more=more)))
    assert not found.ordinary(frozenset())
    assert read_request(body(CONTEXTS)).ordinary(frozenset())


def test_a_class_that_is_served_elsewhere_is_for_the_stock_lane() -> None:
    """One such class takes the whole association with it; an unknown one does not."""
    found = read_request(body([*CONTEXTS, (5, COMMITMENT, [ImplicitVRLittleEndian])]))
    assert not found.ordinary(frozenset({COMMITMENT}))
    assert found.ordinary(frozenset())


def test_an_implementation_version_name_is_nothing_special() -> None:
    """Every peer sends one."""
    assert read_request(body(CONTEXTS, user=user_information(more=item(0x55, b"OFFIS_DCMTK_367")))).plain


# -- what is refused


def test_another_version_or_application_is_rejected() -> None:
    """PS3.8 table 9-21: protocol version by the provider (1/2/2), application context by the user (1/1/2)."""
    with pytest.raises(Rejection) as caught:
        read_request(body(CONTEXTS, version=2))
    assert caught.value.pdu == pdu(0x03, bytes((0, 1, 2, 2)))
    with pytest.raises(Rejection) as caught:
        read_request(body(CONTEXTS, application="1.2.3"))
    assert caught.value.pdu == pdu(0x03, bytes((0, 1, 1, 2)))
    # Only the first bit is tested (PS3.8 table 9-11).
    assert read_request(body(CONTEXTS, version=0x0101)).called == "ZHIYING"


FIXED = body([])[:68]
BROKEN = {
    "nothing": b"",
    "half of the fixed part": FIXED[:40],
    "an item of which the header is cut": FIXED + b"\x10\0\0",
    "an item longer than the request": FIXED + struct.pack(">BxH", 0x10, 500),
    "a sub-item longer than its item": FIXED + item(0x20, bytes((1, 0, 0, 0)) + struct.pack(">BxH", 0x30, 90)),
    "a context of two bytes": FIXED + item(0x20, b"\1\0"),
    "a context without syntaxes": FIXED + item(0x10, b"1.2.840.10008.3.1.1.1") + item(0x20, bytes((1, 0, 0, 0))),
    "a context without transfer syntax": body([(1, CTImageStorage, [])]),
    "a context with an even number": body([(2, CTImageStorage, [ExplicitVRLittleEndian])]),
    "a title of spaces": body(CONTEXTS, called=""),
    "a maximum length of one byte": body(CONTEXTS, user=item(0x50, item(0x51, b"\0"))),
    "more items than contexts can have": FIXED + context_item(1, CTImageStorage, [""] * (ITEMS_MAX + 1)),
    "more contexts than can be numbered": FIXED + item(0x20, b"\1\0\0\0") * (ITEMS_MAX + 1),
}


@pytest.mark.parametrize("broken", BROKEN.values(), ids=BROKEN.keys())
def test_a_request_that_is_none_is_aborted(broken: bytes) -> None:
    """Whatever pynetdicom would make of it: invalid PDU parameter value, from the provider."""
    with pytest.raises(AssociationEnded) as caught:
        ACCEPTOR.accept(read_request(broken))
    assert caught.value.code == "PROTOCOL"
    assert isinstance(caught.value, Rejection) or caught.value.abort == INVALID_PARAMETER


@given(st.lists(st.tuples(st.integers(0, 400), st.binary(min_size=1, max_size=4)), min_size=1, max_size=4), st.data())
@settings(max_examples=300, deadline=None)
def test_any_request_is_answered_or_refused(changes: list[tuple[int, bytes]], drawn: st.DataObject) -> None:
    """A request with some bytes changed, or cut, raises nothing but what ends an association."""
    bent = bytearray(
        body(CONTEXTS, user=user_information(more=extended()[drawn.draw(st.sampled_from(sorted(extended())))]))
    )
    for at, change in changes:
        bent[at : at + len(change)] = change
    cut = drawn.draw(st.integers(0, len(bent)))
    for one in (bytes(bent), bytes(bent[:cut])):
        try:
            encoded, _ = ACCEPTOR.accept(read_request(one))
        except AssociationEnded:
            continue
        assert encoded[0] == 0x02


def test_the_small_pdus_are_what_pynetdicom_reads() -> None:
    """A-ABORT and A-RELEASE-RP: ten bytes each (PS3.8 section 9.3.7, 9.3.8)."""
    assert abort_pdu((2, 6)) == bytes.fromhex("07000000000400000206")
    assert bytes.fromhex("06000000000400000000") == RELEASE_RP_PDU
