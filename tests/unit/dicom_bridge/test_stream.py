"""The strict pass over an encoded data set: whole streams pass, anything cut or bent does not."""

from __future__ import annotations

import io
import struct
import zlib

import pydicom
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydicom.dataset import Dataset
from pydicom.uid import ExplicitVRBigEndian, ExplicitVRLittleEndian, ImplicitVRLittleEndian, RLELossless

from dicom_bridge import stream
from dicom_bridge.errors import InstanceRefused
from tests.simulators.series import dataset_bytes, make_slice, part10

WANTED = frozenset({0x0020000D, 0x00280010, 0x00080060})
SYNTAXES = [ImplicitVRLittleEndian, ExplicitVRLittleEndian, ExplicitVRBigEndian]


def nested() -> Dataset:
    """Return a slice with sequences in sequences."""
    ds = make_slice(0)
    inner, outer = Dataset(), Dataset()
    inner.CodeValue = "1"
    outer.PurposeOfReferenceCodeSequence = [inner, inner]
    ds.ReferencedImageSequence = [outer, Dataset()]
    return ds


def undefined_lengths(ds: Dataset) -> Dataset:
    """Have all sequences and items written with delimiters."""
    for element in ds.iterall():
        if element.VR == "SQ":
            element.is_undefined_length = True
            for item in element.value:
                item.is_undefined_length_sequence_item = True
    return ds


def code_of(data: bytes, syntax: str) -> str | None:
    """Return the code of the refusal, None when the stream is whole."""
    try:
        stream.outline(data, syntax, WANTED)
    except InstanceRefused as refused:
        return refused.code
    return None


@pytest.mark.parametrize("syntax", SYNTAXES)
@pytest.mark.parametrize("delimited", [False, True])
def test_a_whole_stream_is_read(syntax: str, delimited: bool) -> None:
    """The wanted values and the place of the pixels are found in each native syntax, nested sequences or not."""
    ds = undefined_lengths(nested()) if delimited else nested()
    data = dataset_bytes(ds, syntax)
    found = stream.outline(data, syntax, WANTED)
    assert found.values[0x0020000D].rstrip(b"\0").decode() == ds.StudyInstanceUID
    assert found.values[0x00280010] == struct.pack(">H" if syntax == ExplicitVRBigEndian else "<H", 16)
    assert found.pixels is not None
    start, length = found.pixels
    assert (length, data[start : start + length]) == (16 * 12 * 2, ds.PixelData)


@pytest.mark.parametrize("syntax", SYNTAXES)
def test_a_cut_stream_is_garbled_wherever_it_is_cut(syntax: str) -> None:
    """Cut at every byte: refused, but between two elements, where what is left is a whole data set."""
    ds = undefined_lengths(nested())
    data = dataset_bytes(ds, syntax)
    passed = [end for end in range(len(data)) if code_of(data[:end], syntax) is None]
    # One cut before each element of the top level; the first leaves nothing, which is whole too.
    assert len(passed) == len(ds)


def test_cut_pixels_are_garbled() -> None:
    """The last byte of the pixels is as good as any other."""
    data = dataset_bytes(make_slice(0))
    with pytest.raises(InstanceRefused, match="longer than the rest"):
        stream.outline(data[:-1], ExplicitVRLittleEndian, WANTED)


def test_compressed_pixels_are_walked_to_their_delimiter() -> None:
    """Encapsulated pixel data: all fragments, and the delimiter must be there."""
    ds = make_slice(0)
    ds.file_meta = pydicom.dataset.FileMetaDataset()
    ds.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    ds.compress(RLELossless)
    data = dataset_bytes(ds, RLELossless)
    found = stream.outline(data, RLELossless, WANTED)
    assert found.pixels is not None
    assert sum(found.pixels) == len(data)
    with pytest.raises(InstanceRefused):
        stream.outline(data[:-8], RLELossless, WANTED)


def element(group: int, number: int, vr: bytes, value: bytes) -> bytes:
    """Return one short explicit element."""
    return struct.pack("<HH2sH", group, number, vr, len(value)) + value


@pytest.mark.parametrize(
    "data",
    [
        element(2, 0x10, b"UI", b"1.2\0"),
        element(0, 2, b"UI", b"1.2\0"),
        element(8, 0x16, b"??", b"1.2\0"),
        element(8, 0x16, b"ui", b"1.2\0"),
        struct.pack("<HH2sHL", 8, 0x1140, b"SQ", 0, 0xFFFFFFFF) + element(8, 0x16, b"UI", b"1.2\0"),
        struct.pack("<HH2sHL", 8, 0x1140, b"SQ", 0, 0xFFFFFFFF) + struct.pack("<HHL", 0xFFFE, 0xE000, 99),
        b"rubbish, not DICOM at all",
        b"\x08",
    ],
)
def test_what_is_no_data_set_is_garbled(data: bytes) -> None:
    """Meta or command elements, unknown VRs, sequences without items, rubbish: refused, without a crash."""
    with pytest.raises(InstanceRefused) as caught:
        stream.outline(data, ExplicitVRLittleEndian, WANTED)
    assert caught.value.code == "DATASET_GARBLED"


def test_un_of_undefined_length_is_a_sequence_in_implicit_vr() -> None:
    """PS3.5 section 6.2.2: what passed through a system that did not know the element is still whole."""
    item = struct.pack("<HHL", 8, 0x0104, 2) + b"ab"
    end, finish = struct.pack("<HHL", 0xFFFE, 0xE00D, 0), struct.pack("<HHL", 0xFFFE, 0xE0DD, 0)
    unknown = struct.pack("<HH2sHL", 9, 0x1001, b"UN", 0, 0xFFFFFFFF)
    unknown += struct.pack("<HHL", 0xFFFE, 0xE000, 0xFFFFFFFF) + item + end + finish
    data = unknown + element(0x20, 0x0D, b"UI", b"1.2\0")
    assert stream.outline(data, ExplicitVRLittleEndian, WANTED).values == {0x0020000D: b"1.2\0"}


def test_endless_nesting_ends() -> None:
    """Sequences nested beyond any real object are refused before they exhaust the stack."""
    level = struct.pack("<HH2sHL", 8, 0x1140, b"SQ", 0, 0xFFFFFFFF) + struct.pack("<HHL", 0xFFFE, 0xE000, 0xFFFFFFFF)
    with pytest.raises(InstanceRefused, match="too deeply"):
        stream.outline(level * 100_000, ExplicitVRLittleEndian, WANTED)


@given(st.binary(max_size=300), st.sampled_from(SYNTAXES))
@settings(max_examples=300, deadline=None)
def test_no_bytes_make_it_raise_anything_else(data: bytes, syntax: str) -> None:
    """Any bytes give an outline or InstanceRefused."""
    assert code_of(data, syntax) in (None, "DATASET_GARBLED")


@given(st.integers(0, 2000), st.binary(min_size=1, max_size=4))
@settings(max_examples=200, deadline=None)
def test_no_change_of_a_real_stream_makes_it_raise_anything_else(at: int, change: bytes) -> None:
    """A real data set with some bytes overwritten gives an outline or InstanceRefused."""
    data = dataset_bytes(undefined_lengths(nested()))
    at %= len(data)
    changed = data[:at] + change + data[at + len(change) :]
    assert code_of(changed, ExplicitVRLittleEndian) in (None, "DATASET_GARBLED")


def test_deflated_streams_are_inflated_or_refused() -> None:
    """A raw deflate stream is undone; a cut one, and one that is none, are refused."""
    plain = dataset_bytes(make_slice(0))
    packer = zlib.compressobj(wbits=-15)
    packed = packer.compress(plain) + packer.flush()
    assert stream.inflate(packed) == plain
    for bad in (packed[:-4], b"\xff\xff\xff", b""):
        with pytest.raises(InstanceRefused):
            stream.inflate(bad)


def test_our_part10_header_is_read_by_pydicom_and_by_us() -> None:
    """Preamble and meta are right to the byte: pydicom reads the file and finds what was put in."""
    header = stream.part10_header("1.2.840.10008.5.1.4.1.1.4", "2.25.123", ExplicitVRLittleEndian, "TESTER")
    data = header + dataset_bytes(make_slice(0))
    ds = pydicom.dcmread(io.BytesIO(data))
    assert (
        ds.file_meta.FileMetaInformationGroupLength
        == len(stream.part10_header("1.2.840.10008.5.1.4.1.1.4", "2.25.123", ExplicitVRLittleEndian, "TESTER")) - 144
    )
    assert ds.file_meta.SourceApplicationEntityTitle == "TESTER"
    assert ds.Rows == 16
    meta = stream.read_part10(data)
    assert (meta.sop_class, meta.sop_instance) == ("1.2.840.10008.5.1.4.1.1.4", "2.25.123")
    assert (meta.transfer_syntax, meta.source_ae) == (ExplicitVRLittleEndian, "TESTER")
    assert data[meta.dataset_at :] == dataset_bytes(make_slice(0))


def test_pydicoms_part10_is_read_by_us() -> None:
    """Files that others wrote are read too."""
    meta = stream.read_part10(part10(make_slice(0)))
    assert meta.transfer_syntax == ExplicitVRLittleEndian
    assert meta.sop_instance == make_slice(0).SOPInstanceUID


@pytest.mark.parametrize(
    "data", [b"", b"\0" * 128 + b"DICM", b"\0" * 128 + b"DICM\x02\0\x10\0UI\xff\xff1.2", b"x" * 500]
)
def test_what_is_no_part10_file_is_refused(data: bytes) -> None:
    """No prefix, no transfer syntax, meta cut off: refused."""
    with pytest.raises(InstanceRefused):
        stream.read_part10(data)
