"""The receipt in our objects: every judge takes it, every way of encoding keeps it, no other log's key opens it."""

from __future__ import annotations

import io
from pathlib import Path

import pytest
from pydicom import dcmread
from pydicom.dataset import Dataset
from pydicom.uid import ImplicitVRLittleEndian

from audit.checkpoint import Checkpoint
from audit.note import Signer
from dicom_bridge import receipt
from dicom_bridge.receipt import Receipt, ReceiptRefused
from dicom_bridge.report import write_sr
from tests.simulators import findings as phantom
from tests.simulators import validators
from tests.simulators.written import write_seg

SHAPE = (12, 32, 40)
LOG = Signer.generate("hospital.example/audit")
NOTE = Checkpoint.sign(LOG, "hospital.example/audit", 4712, bytes(range(32))).note
RECEIPT = Receipt(4711, NOTE)


def objects(charset: str = "ISO_IR 192", held: Receipt | None = RECEIPT) -> tuple[bytes, bytes]:
    """SEG and SR of one call that carry a receipt."""
    sources, manifest = phantom.series(SHAPE, charset="GB18030"), phantom.manifest()
    found = phantom.findings(phantom.ellipsoid(SHAPE))
    context = phantom.context("zh-CN", charset, receipt=held)
    seg = write_seg(found, manifest, phantom.REF, sources, context)
    return seg, write_sr(found, manifest, phantom.REF, sources, dcmread(io.BytesIO(seg)), context)


def refusal(ds: Dataset, key: Signer = LOG) -> str:
    """Why a receipt is not believed."""
    with pytest.raises(ReceiptRefused) as refused:
        receipt.read(ds, key.verifier)
    return refused.value.code


@pytest.mark.parametrize("charset", ["ISO_IR 192", "GB18030"])
@pytest.mark.parametrize("kind", [0, 1], ids=["SEG", "SR"])
def test_the_receipt_comes_back(kind: int, charset: str) -> None:
    """Index and note are read back to the letter, in both of our character sets, and the log's key opens the note."""
    again, checkpoint = receipt.read(receipt.read_bytes(objects(charset)[kind]), LOG.verifier)

    assert again == RECEIPT
    assert (checkpoint.origin, checkpoint.size, checkpoint.root) == (LOG.name, 4712, bytes(range(32)))


@pytest.mark.parametrize("charset", ["ISO_IR 192", "GB18030"])
def test_an_archive_that_forgets_our_vr_keeps_it(charset: str) -> None:
    """Sent on in Implicit VR, where nobody knows the VR of private elements, it is read all the same."""
    ds = receipt.read_bytes(objects(charset)[1])
    buffer = io.BytesIO()
    ds.file_meta.TransferSyntaxUID = ImplicitVRLittleEndian
    ds.save_as(buffer, implicit_vr=True, little_endian=True)

    assert receipt.read(receipt.read_bytes(buffer.getvalue()), LOG.verifier)[0] == RECEIPT


def test_the_same_receipt_gives_the_same_bytes() -> None:
    """A retry makes the object again to the byte (I6), and another receipt makes another."""
    assert objects() == objects()
    assert objects()[1] != objects(held=Receipt(4711, NOTE.replace("A", "B")))[1]


@pytest.mark.parametrize("charset", ["ISO_IR 192", "GB18030"])
def test_no_judge_objects(tmp_path: Path, charset: str) -> None:
    """dciodvfy, PixelMed and DCMTK find no error in objects with private elements, nor a warning but that
    the elements are private."""
    for name, data, bare in zip(("seg", "sr"), objects(charset), objects(charset, None), strict=True):
        path, before = tmp_path / f"{name}.dcm", tmp_path / f"{name}-bare.dcm"
        path.write_bytes(data)
        before.write_bytes(bare)
        assert validators.dciodvfy(path) == []
        new = set(validators.dciodvfy_warnings(path)) - set(validators.dciodvfy_warnings(before))
        assert [line for line in new if receipt.CREATOR not in line or "Unrecognized tag" not in line] == []
    assert validators.sr_validator(path) == []
    assert validators.dsrdump(path) == []


def test_what_is_not_signed_by_the_log_is_refused() -> None:
    """No receipt, another log's, another index, an edited root: each is refused with its code."""
    ds = receipt.read_bytes(objects()[1])

    assert refusal(receipt.read_bytes(objects(held=None)[1])) == "RECEIPT_MISSING"
    assert refusal(ds, Signer.generate("hospital.example/audit")) == "RECEIPT_INVALID"
    for element, value in ((0x01, 4710), (0x01, "x"), (0x02, NOTE.replace("4712", "4713")), (0x02, b"\xff\xfe")):
        other = receipt.read_bytes(objects()[1])
        other.private_block(receipt.GROUP, receipt.CREATOR)[element].VR = "UN" if isinstance(value, bytes) else "UT"
        other.private_block(receipt.GROUP, receipt.CREATOR)[element]._value = value
        assert refusal(other) == "RECEIPT_INVALID"
    with pytest.raises(ReceiptRefused, match="NOT_DICOM"):
        receipt.read_bytes(b"rubbish")
