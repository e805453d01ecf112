"""The last check of a segmentation, on files in which one place was exchanged: no writer stands in between."""

from __future__ import annotations

import io
import struct
from collections.abc import Callable

import pytest
from pydicom import dcmread
from pydicom.dataset import Dataset

from dicom_bridge import explicit
from dicom_bridge.validity import OutputInvalid, check_segmentation
from tests.simulators import findings as phantom
from tests.simulators.written import write_seg

SHAPE = (12, 32, 40)
PAGE = 160
"""Octets of a frame."""
POSITION, SOP_INSTANCE, SEGMENT_NUMBER, SERIES = 0x00200032, 0x00081155, 0x0062000B, 0x0020000E
EXPLICIT = b"1.2.840.10008.1.2.1\0"
PIXELS = b"\xe0\x7f\x10\0OB\0\0"


def made(sources: list[Dataset]) -> bytes:
    """A SEG of one segment."""
    findings = phantom.findings(phantom.ellipsoid(SHAPE))
    return write_seg(findings, phantom.manifest(), phantom.REF, sources, phantom.context())


def nth(data: bytes, n: int, old: bytes, new: bytes) -> bytes:
    """The same file with the nth of these, from 0, exchanged; of one length, so that nothing else moves."""
    pieces = data.split(old)
    assert len(old) == len(new)
    assert n < len(pieces) - 1
    return old.join(pieces[: n + 1]) + new + old.join(pieces[n + 1 :])


def at(z: str) -> bytes:
    """The position of a slice as it stands in the file."""
    return explicit.text(POSITION, "DS", f"-40.0\\-50.0\\{z}")


def segment(number: int) -> bytes:
    """The number of a segment as it stands in the file."""
    return explicit.unsigned(SEGMENT_NUMBER, "US", [number])


def instance(source: Dataset) -> bytes:
    """A reference to a slice as it stands in the file."""
    return explicit.text(SOP_INSTANCE, "UI", source.SOPInstanceUID)


def series(uid: str) -> bytes:
    """A series as it stands in the file."""
    return explicit.text(SERIES, "UI", uid)


def with_length(data: bytes, change: int) -> bytes:
    """Another length of the pixel data than they have."""
    length = PAGE * int(dcmread(io.BytesIO(data)).NumberOfFrames)
    return nth(data, 0, *(PIXELS + struct.pack("<I", one) for one in (length, length + change)))


PATCHES: dict[str, tuple[str, Callable[[bytes, list[Dataset]], bytes]]] = {
    "a frame's position": ("DERIVATION_MISSING", lambda data, _: nth(data, 0, at("20.5"), at("22.5"))),
    "a frame's segment": ("SEGMENT_EMPTY", lambda data, _: nth(data, 3, segment(1), segment(2))),
    "a frame's source": ("DERIVATION_MISSING", lambda data, slices: nth(data, 1, *map(instance, slices[5:7]))),
    "a frame's source, unknown": (
        "DERIVATION_MISSING",
        lambda data, slices: nth(data, 1, instance(slices[5]), instance(slices[5])[:-1] + b"x"),
    ),
    "a listed source": ("SERIES_REFERENCE_MISSING", lambda data, slices: nth(data, 0, *map(instance, slices[5:7]))),
    "the listed series": (
        "SERIES_REFERENCE_MISSING",
        lambda data, slices: nth(data, 0, *(series(slices[0].SeriesInstanceUID[:-1] + end) for end in (LAST, "x"))),
    ),
    "a frame's pixels": ("SEGMENT_EMPTY", lambda data, _: data[: -3 * PAGE] + bytes(PAGE) + data[-2 * PAGE :]),
    "something behind the pixels": ("GRID_MISMATCH", lambda data, _: data + b"\xfc\xff\xfc\xffOB\0\0\0\0\0\0"),
    "no last pixels": ("GRID_MISMATCH", lambda data, _: data[:-2]),
    "no last frame": ("GRID_MISMATCH", lambda data, _: with_length(data, -PAGE)[:-PAGE]),
    "the pixels' length": ("GRID_MISMATCH", lambda data, _: with_length(data, -2)),
    "the pixels' VR": ("NOT_READABLE", lambda data, _: nth(data, 0, PIXELS, PIXELS.replace(b"OB", b"UT"))),
    "no pixels": ("NOT_READABLE", lambda data, _: data[: data.index(PIXELS)]),
    "reserved octets of a sequence": (
        "NOT_READABLE",
        lambda data, _: nth(data, 0, b"\x08\0\x24\x91SQ\0\0", b"\x08\0\x24\x91SQ\1\0"),
    ),
    "the transfer syntax": (
        "NOT_READABLE",
        lambda data, _: nth(data, 0, EXPLICIT, EXPLICIT.replace(b"1\0", b"5\0")),
    ),
}
LAST = phantom.series((1, 1, 1))[0].SeriesInstanceUID[-1]


@pytest.mark.parametrize("patch", PATCHES)
def test_the_check_reads_the_very_bytes_that_leave(patch: str) -> None:
    """One place of the file exchanged, and it is not sent."""
    code, exchange = PATCHES[patch]
    sources = phantom.series(SHAPE)
    data = made(sources)
    check_segmentation(data, sources)
    patched = exchange(data, sources)
    assert patched != data
    with pytest.raises(OutputInvalid) as refused:
        check_segmentation(patched, sources)
    assert refused.value.code == code
