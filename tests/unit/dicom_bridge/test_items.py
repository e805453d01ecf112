"""Sequences read by hand: what pydicom reads in them, or a refusal, whatever the bytes are."""

from __future__ import annotations

import io
import struct
from contextlib import suppress

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydicom import dcmread
from pydicom.dataelem import RawDataElement
from pydicom.dataset import Dataset
from pydicom.sequence import Sequence
from pydicom.tag import Tag

from dicom_bridge import explicit
from dicom_bridge.items import Item, items_of
from dicom_bridge.report import write_sr
from dicom_bridge.segmentation import make_seg
from dicom_bridge.unfit import OutputInvalid
from tests.simulators import findings as phantom

SHAPE = (6, 16, 24)
TREE = 0x0040A730
FRAMES = 0x52009230
SEQUENCE = 0x00081140
UID = explicit.text(0x00081155, "UI", "1.2.3")


def results(language: str, charset: str) -> tuple[bytes, bytes]:
    """SEG and SR of two segments."""
    masks = (phantom.ellipsoid(SHAPE), phantom.ellipsoid(SHAPE, size=0.2))
    made = (phantom.findings(*masks), phantom.manifest(lesions=True), phantom.REF, phantom.series(SHAPE))
    context = phantom.context(language, charset)
    seg, read = make_seg(*made, context)
    return seg, write_sr(*made, read, context)


def same(item: Item, ds: Dataset) -> bool:
    """Whether both say the same, all the way down."""
    if sorted(item) != [int(element.tag) for element in ds]:
        return False
    for element in ds:
        mine = item[int(element.tag)]
        if isinstance(element.value, Sequence):
            agree = len(mine) == len(element.value) and all(map(same, mine, element.value))
        elif isinstance(mine, bytes):
            agree = np.array_equal(np.frombuffer(mine, "<f4"), np.array(element.value, "<f4"))
        elif isinstance(mine, tuple):
            agree = list(mine) == ([element.value] if isinstance(element.value, int) else list(element.value))
        else:
            several = element.VM > 1
            agree = mine == ("\\".join(map(str, element.value)) if several else str(element.value))
        if not agree:
            return False
    return True


@pytest.mark.parametrize("charset", ["ISO_IR 192", "GB18030"])
@pytest.mark.parametrize("language", ["zh-CN", "en-US"])
def test_what_is_read_is_what_pydicom_reads(language: str, charset: str) -> None:
    """Every value of every item of a report's tree and of a segmentation's frames, in both character sets."""
    for data, tag in zip(results(language, charset), (FRAMES, TREE), strict=True):
        mine, theirs = items_of(dcmread(io.BytesIO(data)), tag), dcmread(io.BytesIO(data))[tag].value
        assert len(mine) == len(theirs) > 3
        assert all(map(same, mine, theirs))
        # The comparison is awake.
        mine[-1][TREE if tag == TREE else 0x00209113] = []
        assert not all(map(same, mine, theirs))


def holding(value: bytes, charset: str | None = "ISO_IR 192") -> Dataset:
    """A data set just read, with a sequence of this value."""
    ds = Dataset()
    if charset is not None:
        ds.SpecificCharacterSet = charset
    ds[SEQUENCE] = RawDataElement(Tag(SEQUENCE), "SQ", len(value), value, 0, False, True)
    return ds


def item(*elements: bytes) -> bytes:
    """The value of a sequence of one item."""
    return explicit.items_value([b"".join(elements)])


NAME = explicit.text(0x00081190, "UT", "幻影", "utf-8")


def test_each_kind_of_value_has_its_form() -> None:
    """Text without padding, numbers as numbers, items as items, the rest as bytes; nothing is nothing."""
    floats = explicit.element(0x00700022, "FL", struct.pack("<2f", 1, 2))
    inner = explicit.sequence(0x00081199, [UID, b""])
    ds = holding(item(UID, NAME, inner, explicit.unsigned(0x0062000B, "US", [7]), floats) + item())
    read, empty = items_of(ds, SEQUENCE)
    assert read == {
        0x00081155: "1.2.3",
        0x00081190: "幻影",
        0x00081199: [{0x00081155: "1.2.3"}, {}],
        0x0062000B: (7,),
        0x00700022: struct.pack("<2f", 1, 2),
    }
    assert empty == {}
    assert items_of(ds, 0x00081199) == []
    assert items_of(holding(item(NAME.replace("幻影".encode(), "幻影".encode("gb18030") + b"  ")), "GB18030"), SEQUENCE)
    assert items_of(holding(item(UID), None), SEQUENCE) == [{0x00081155: "1.2.3"}]


UNDEFINED = b"\xff\xff\xff\xff"
MALFORMED = {
    "no item": UID,
    "half an item's head": item(UID)[:5],
    "an item cut short": item(UID)[:-2],
    "an item of undefined length": item(UID)[:4] + UNDEFINED + UID + b"\xfe\xff\x0d\xe0\0\0\0\0",
    "a value cut short": explicit.items_value([UID[:-2]]),
    "half an element's head": explicit.items_value([UID[:6]]),
    "an element that takes of its neighbour": explicit.items_value([UID[:-2], UID]),
    "a sequence of undefined length": item(struct.pack("<HH2sH", 0x8, 0x1199, b"SQ", 0) + UNDEFINED),
    "an odd length": item(UID[:6] + b"\x05\0" + b"1.2.3"),
    "out of order": item(NAME, UID),
    "twice": item(UID, UID),
    "implicit VR": item(struct.pack("<HHI", 0x8, 0x1155, 6) + b"1.2.3\0"),
    "an unknown VR": item(UID.replace(b"UI", b"ZZ")),
    "VR UN": item(struct.pack("<HH2sHI", 0x8, 0x1155, b"UN", 0, 6) + b"1.2.3\0"),
    "reserved octets": item(NAME[:6] + b"\1\0" + NAME[8:]),
    "a UID that is no ASCII": item(UID.replace(b"1.2.3", b"1.\xe2.3")),
    "text of another character set": item(NAME.replace("幻影".encode(), "幻影".encode("gb18030") + b"  ")),
    "half a number": item(explicit.element(0x00209157, "UL", b"\0\0")),
}


@pytest.mark.parametrize("damage", MALFORMED)
def test_what_is_not_as_we_write_is_refused(damage: str) -> None:
    """Any other encoding, and none at all: NOT_READABLE, at the top and a level down."""
    for value in (MALFORMED[damage], item(explicit.element(0x00081115, "SQ", padded(MALFORMED[damage])))):
        with pytest.raises(OutputInvalid) as refused:
            items_of(holding(value), SEQUENCE)
        assert refused.value.code == "NOT_READABLE"


def padded(value: bytes) -> bytes:
    """Of even length, as a value must be."""
    return value + b"\0" * (len(value) % 2)


def test_only_our_character_sets_and_only_bytes_are_read() -> None:
    """What pydicom has parsed already is not what the file holds; a third character set is none of ours."""
    parsed = holding(item(UID))
    assert parsed.ReferencedImageSequence[0].ReferencedSOPInstanceUID == "1.2.3"
    for ds in (parsed, holding(item(UID), "ISO_IR 100")):
        with pytest.raises(OutputInvalid) as refused:
            items_of(ds, SEQUENCE)
        assert refused.value.code == "NOT_READABLE"


GOOD = item(UID, NAME, explicit.sequence(0x00081199, [UID, UID])) + item(UID)


@given(st.integers(0, len(GOOD) - 1), st.integers(0, 255))
def test_one_wrong_octet_is_read_or_refused(at: int, octet: int) -> None:
    """Never anything else: no crash, no endless loop."""
    value = bytearray(GOOD)
    value[at] = octet
    with suppress(OutputInvalid):
        assert isinstance(items_of(holding(bytes(value)), SEQUENCE), list)
