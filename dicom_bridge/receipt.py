"""The receipt inside our objects: where their call stands in the audit log, signed, so that the PACS holds a copy.

Private elements (PS3.5 section 7.8) in group 0071, creator "ZHIYING AUDIT 1":

(0071,xx01) UL  index of the call's CALL_INTENT entry, from 0
(0071,xx02) UT  the log's checkpoint of size index + 1: a C2SP signed note (origin, size, root, signature)

Who holds the object and the log's public key can ask the log for a proof from this checkpoint on; who rewrites the log
would have to rewrite the PACS too.
"""

from __future__ import annotations

from dataclasses import dataclass
from io import BytesIO
from typing import Final

from pydicom import dcmread
from pydicom.dataset import Dataset
from pydicom.errors import InvalidDicomError

from audit.checkpoint import Checkpoint
from audit.errors import AuditError
from audit.note import Verifier
from dicom_bridge.errors import BridgeError, Fault

GROUP: Final = 0x0071
CREATOR: Final = "ZHIYING AUDIT 1"
"""The number at the end changes with the meaning of the elements."""
INDEX: Final = 0x01
CHECKPOINT: Final = 0x02
INDEX_MAX: Final = 2**32 - 1
"""What VR UL holds: entries of more than five thousand years of a large hospital."""


class ReceiptRefused(BridgeError):
    """The object is not ours, holds no receipt, or one that this log did not sign."""

    CODES = frozenset({"NOT_DICOM", "RECEIPT_MISSING", "RECEIPT_INVALID"})
    fault = Fault.SITE


@dataclass(frozen=True, slots=True)
class Receipt:
    """Index of the CALL_INTENT entry, and the signed note of the checkpoint that has it as its last."""

    index: int
    note: str


def put(ds: Dataset, receipt: Receipt) -> None:
    """Write it into an object that is being made."""
    block = ds.private_block(GROUP, CREATOR, create=True)
    block.add_new(INDEX, "UL", receipt.index)
    block.add_new(CHECKPOINT, "UT", receipt.note)


def read(ds: Dataset, log: Verifier) -> tuple[Receipt, Checkpoint]:
    """The receipt in an object, and its checkpoint, which this log has signed. Raises ReceiptRefused.

    It proves that the log had this entry at this place; that the entry is of this very call, the log itself must tell.
    """
    try:
        block = ds.private_block(GROUP, CREATOR)
        index, note = block[INDEX].value, block[CHECKPOINT].value
    except (KeyError, ValueError):
        raise ReceiptRefused("RECEIPT_MISSING", "the object holds no receipt of its call") from None
    receipt = Receipt(_index(index), _note(note, str(ds.get("SpecificCharacterSet", ""))))
    try:
        checkpoint = Checkpoint.open(receipt.note, (log,))
    except AuditError as error:
        raise ReceiptRefused("RECEIPT_INVALID", f"the checkpoint in the object: {error.code}") from None
    if checkpoint.size != receipt.index + 1:
        raise ReceiptRefused("RECEIPT_INVALID", "the checkpoint is of another size than the index says")
    return receipt, checkpoint


def read_bytes(data: bytes) -> Dataset:
    """An object's data set without pixels, for `read`. Raises ReceiptRefused NOT_DICOM."""
    try:
        return dcmread(BytesIO(data), stop_before_pixels=True)
    except (InvalidDicomError, EOFError, ValueError):
        raise ReceiptRefused("NOT_DICOM", "the file is no DICOM file") from None


def _index(value: object) -> int:
    # An archive that sends Implicit VR does not know our elements' VR: they come as bytes, little endian.
    if isinstance(value, bytes) and len(value) == 4:
        return int.from_bytes(value, "little")
    if isinstance(value, int) and 0 <= value <= INDEX_MAX:
        return int(value)
    raise ReceiptRefused("RECEIPT_INVALID", "the index is no number")


def _note(value: object, charset: str) -> str:
    if isinstance(value, bytes):
        try:
            return value.rstrip(b" \0").decode("gb18030" if charset == "GB18030" else "utf-8")
        except UnicodeDecodeError:
            raise ReceiptRefused("RECEIPT_INVALID", "the checkpoint is no text") from None
    return str(value)
