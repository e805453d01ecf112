"""What is said in a storage commitment (PS3.4 annex J, PS3.3 section C.14), read and written.

A request names a transaction and instances; a report gives them back, each committed or failed with a reason.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar, Final

from pydicom.dataset import Dataset

from dicom_bridge.errors import BridgeError, Fault
from dicom_bridge.uids import storable

PUSH_MODEL: Final = "1.2.840.10008.1.20.1"
"""Storage Commitment Push Model SOP Class."""
PUSH_MODEL_INSTANCE: Final = "1.2.840.10008.1.20.1.1"
"""Its well-known SOP Instance (PS3.4 section J.3.5)."""
TRANSFER_SYNTAXES: Final = ("1.2.840.10008.1.2.1", "1.2.840.10008.1.2")
ACTION: Final = 1
"""Request Storage Commitment, the only action type (PS3.4 section J.3.2.1)."""
ALL_COMMITTED, SOME_FAILED = 1, 2
"""Event types (PS3.4 section J.3.3.1)."""

SUCCESS: Final = 0x0000
NO_SUCH_INSTANCE: Final = 0x0112
NO_SUCH_EVENT: Final = 0x0113
INVALID_ARGUMENT: Final = 0x0115
NO_SUCH_ACTION: Final = 0x0123
RESOURCES: Final = 0x0213
"""Statuses of N-ACTION and N-EVENT-REPORT (PS3.7 annex C)."""

REASON_PROCESSING: Final = 0x0110
REASON_NO_SUCH_OBJECT: Final = 0x0112
REASON_CLASS_CONFLICT: Final = 0x0119
REASON_CLASS_UNSUPPORTED: Final = 0x0122
REASON_DUPLICATE_TRANSACTION: Final = 0x0131
"""Failure Reason (0008,1197), PS3.3 section C.14.1.1."""

REFERENCES_MAX: Final = 100_000
"""Instances of one request: the largest studies have half as many."""

Reference = tuple[str, str]
"""SOP Class UID, SOP Instance UID."""


class MessageInvalid(BridgeError):
    """A request or a report that does not say what it must; `status` is the answer to it."""

    CODES: ClassVar[frozenset[str]] = frozenset({"COMMITMENT_INVALID", "COMMITMENT_TOO_LARGE"})
    fault: ClassVar[Fault] = Fault.INPUT

    @property
    def status(self) -> int:
        """The DIMSE status that says so."""
        return RESOURCES if self.code == "COMMITMENT_TOO_LARGE" else INVALID_ARGUMENT


@dataclass(frozen=True, slots=True)
class Request:
    """What somebody wants to have committed."""

    transaction_uid: str
    references: tuple[Reference, ...]


@dataclass(frozen=True, slots=True)
class Report:
    """What came of a request: `failed` maps SOP Instance UIDs to reasons; one in both counts as failed."""

    transaction_uid: str
    committed: frozenset[str]
    failed: Mapping[str, int]


def write_request(request: Request) -> Dataset:
    """The Action Information of an N-ACTION."""
    ds = Dataset()
    ds.TransactionUID = request.transaction_uid
    ds.ReferencedSOPSequence = [_item(reference) for reference in request.references]
    return ds


def read_request(information: Dataset) -> Request:
    """The other way round. Raises MessageInvalid."""
    transaction_uid = _uid(information, "TransactionUID")
    references = tuple(
        (_uid(item, "ReferencedSOPClassUID"), _uid(item, "ReferencedSOPInstanceUID"))
        for item in _items(information, "ReferencedSOPSequence")
    )
    if not references:
        raise MessageInvalid("COMMITMENT_INVALID", "a request for no instance")
    return Request(transaction_uid, references)


def write_report(request: Request, failed: Mapping[Reference, int]) -> tuple[int, Dataset]:
    """The event type and the Event Information of an N-EVENT-REPORT (PS3.4 table J.3-2)."""
    ds = Dataset()
    ds.TransactionUID = request.transaction_uid
    committed = [_item(reference) for reference in request.references if reference not in failed]
    if committed:
        ds.ReferencedSOPSequence = committed
    if failed:
        ds.FailedSOPSequence = [_item(reference, reason) for reference, reason in failed.items()]
    return (SOME_FAILED if failed else ALL_COMMITTED), ds


def read_report(information: Dataset) -> Report:
    """The other way round; of both event types, since what is listed is what counts. Raises MessageInvalid."""
    committed = (_uid(item, "ReferencedSOPInstanceUID") for item in _items(information, "ReferencedSOPSequence"))
    failed = {
        _uid(item, "ReferencedSOPInstanceUID"): _reason(item) for item in _items(information, "FailedSOPSequence")
    }
    return Report(_uid(information, "TransactionUID"), frozenset(committed), failed)


def _item(reference: Reference, reason: int | None = None) -> Dataset:
    item = Dataset()
    item.ReferencedSOPClassUID, item.ReferencedSOPInstanceUID = reference
    if reason is not None:
        item.FailureReason = reason
    return item


def _items(information: Dataset, keyword: str) -> Sequence[Dataset]:
    items: Sequence[Dataset] = information.get(keyword, None) or ()
    if len(items) > REFERENCES_MAX:
        raise MessageInvalid("COMMITMENT_TOO_LARGE", f"more than {REFERENCES_MAX} instances")
    if not all(isinstance(item, Dataset) for item in items):
        raise MessageInvalid("COMMITMENT_INVALID", "a sequence is none")
    return items


def _uid(ds: Dataset, keyword: str) -> str:
    uid = str(ds.get(keyword, "") or "")
    if not storable(uid):
        raise MessageInvalid("COMMITMENT_INVALID", "a UID is missing or is none")
    return uid


def _reason(item: Dataset) -> int:
    reason = item.get("FailureReason", None)
    return reason if isinstance(reason, int) else REASON_PROCESSING
