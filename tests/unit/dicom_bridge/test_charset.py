"""Character sets of China: read from bytes, or refused; never question marks."""

from __future__ import annotations

import io
import struct

import pydicom
import pytest
from pydicom.dataset import Dataset
from pydicom.uid import ExplicitVRLittleEndian

from dicom_bridge import charset
from dicom_bridge.errors import CharsetRefused
from dicom_bridge.stream import part10_header
from tests.simulators.series import part10

NAME = "TEST^Phantom=测试^幻影"
# 0x5C and 0x5E as second bytes: a reader that splits bytes at the backslash or the caret tears these apart.
TRICKY = "TEST^Phantom=乗^乛"


def ir58(text: str) -> bytes:
    """Encode as a modality that declares \\ISO 2022 IR 58 does: an escape to G1 before each Chinese part."""
    out = b""
    for part in text.replace("=", "\0=\0").replace("^", "\0^\0").split("\0"):
        out += part.encode() if part.isascii() else b"\x1b$)A" + part.encode("gb2312") + b"\x1b(B"
    return out


def received(name: bytes, terms: str | None, *, description: bytes = b"") -> Dataset:
    """Return a data set as read from a file whose text has exactly these bytes."""
    data = part10_header("1.2.840.10008.5.1.4.1.1.4", "2.25.1", ExplicitVRLittleEndian, "")
    if terms is not None:
        data += element(0x0008, 0x0005, b"CS", terms.encode())
    data += element(0x0008, 0x0016, b"UI", b"1.2.840.10008.5.1.4.1.1.4\0") + element(0x0008, 0x0018, b"UI", b"2.25.1")
    data += element(0x0008, 0x103E, b"LO", description) + element(0x0010, 0x0010, b"PN", name)
    return pydicom.dcmread(io.BytesIO(data))


def element(group: int, number: int, vr: bytes, value: bytes) -> bytes:
    """Return one explicit element with a 16-bit length, padded with a space."""
    value += b" " * (len(value) % 2)
    return struct.pack("<HH2sH", group, number, vr, len(value)) + value


@pytest.mark.parametrize("name", [NAME, TRICKY])
@pytest.mark.parametrize(
    ("terms", "codec"),
    [("GB18030", "gb18030"), ("GBK", "gbk"), ("GB2312", "gb18030"), ("ISO_IR 58", "gb18030"), ("ISO_IR 192", "utf-8")],
)
def test_single_valued_chinese_sets_are_read(name: str, terms: str, codec: str) -> None:
    """GB18030, GBK, UTF-8 and the two undefined terms in use come out as written, tricky second bytes included."""
    assert charset.person_name(received(name.encode(codec), terms)) == name


def test_ir58_comes_without_its_escapes() -> None:
    """ISO 2022 IR 58: the escape sequences that pydicom leaves in the name are gone."""
    ds = received(ir58(NAME), "\\ISO 2022 IR 58")
    assert charset.person_name(ds) == NAME
    assert "\x1b" in str(ds.PatientName), "pydicom reads it properly now: this module may shrink"
    assert charset.person_name(ds) == NAME


def test_ir58_survives_pydicoms_own_decoding() -> None:
    """A name that pydicom has decoded already still comes out clean."""
    ds = received(ir58(NAME), "\\ISO 2022 IR 58")
    ds.decode()
    assert charset.person_name(ds) == NAME
    assert charset.normalise(ds).PatientName == NAME


@pytest.mark.parametrize("terms", [None, "", "ISO_IR 100", "ISO_IR 6"])
@pytest.mark.parametrize("converted", [False, True])
def test_mislabelled_gbk_is_read_on_the_sites_word(terms: str | None, converted: bool) -> None:
    """GBK bytes under no, or a Latin, character set are read when the site says what this sender writes."""
    ds = received(TRICKY.encode("gbk"), terms)
    if converted:
        str(ds.PatientName)
    assert charset.person_name(ds, assumed="GB18030") == TRICKY


def test_the_sites_word_does_not_overrule_a_proper_declaration() -> None:
    """A sender that declares UTF-8 is believed, whatever is assumed of others."""
    assert charset.person_name(received(NAME.encode(), "ISO_IR 192"), assumed="GB18030") == NAME


@pytest.mark.parametrize("terms", [None, "ISO_IR 6", "ISO_IR 192", "\\ISO 2022 IR 58"])
def test_undecodable_names_are_refused(terms: str | None) -> None:
    """Bytes that the declared set does not have are an error, not replacement characters."""
    with pytest.raises(CharsetRefused) as caught:
        charset.person_name(received(b"TEST^\xff\xff\xfe", terms))
    assert caught.value.code == "CHARSET_UNDECODABLE"
    assert "TEST" not in str(caught.value)


def test_other_sets_still_work() -> None:
    """Latin-1 and Japanese code extensions go through pydicom's tables."""
    assert charset.person_name(received("TEST^Müller".encode("latin-1"), "ISO_IR 100")) == "TEST^Müller"
    raw = b"TEST^Taro=\x1b$B;3ED\x1b(B^\x1b$BB@O:\x1b(B"
    assert charset.person_name(received(raw, "\\ISO 2022 IR 87")) == "TEST^Taro=山田^太郎"


@pytest.mark.parametrize("to", [charset.ISO_IR_192, charset.GB18030])
@pytest.mark.parametrize(
    ("raw", "terms", "assumed"),
    [
        (TRICKY.encode("gb18030"), "GB18030", None),
        (TRICKY.encode("gbk"), "GBK", None),
        (TRICKY.encode(), "ISO_IR 192", None),
        (ir58(NAME), "\\ISO 2022 IR 58", None),
        (TRICKY.encode("gbk"), "ISO_IR 100", "GBK"),
        (TRICKY.encode("gbk"), None, "GB18030"),
    ],
)
def test_normalised_text_survives_a_file(
    to: charset.OutputCharset, raw: bytes, terms: str, assumed: str | None
) -> None:
    """Whatever came in, what we write declares one set, and another reader gets the same name."""
    expected = NAME if terms == "\\ISO 2022 IR 58" else TRICKY
    out = charset.normalise(received(raw, terms), assumed, to)
    assert out.PatientName == expected
    again = pydicom.dcmread(io.BytesIO(part10(out)))
    assert charset.declared(again) == (to,)
    assert charset.person_name(again) == expected
    assert again.PatientName == expected


def test_normalise_leaves_its_argument_alone() -> None:
    """The source data set keeps its bytes and its character set."""
    ds = received(NAME.encode("gb18030"), "GB18030")
    charset.normalise(ds)
    assert charset.declared(ds) == ("GB18030",)
    assert ds.get_item(0x00100010).value.rstrip() == NAME.encode("gb18030")


def test_sequences_inherit_or_declare_their_own_set() -> None:
    """PS3.3 C.12.1.1.2: an item without (0008,0005) uses that of the data set around it."""
    outer = received(NAME.encode("gb18030"), "GB18030")
    inner, own = Dataset(), Dataset()
    inner.add_new(0x00081050, "PN", "")
    inner.PerformingPhysicianName = "测试^医生"
    own.SpecificCharacterSet = "ISO_IR 192"
    own.PerformingPhysicianName = "测试^医生"
    outer.RequestAttributesSequence = [inner, own]
    reread = pydicom.dcmread(io.BytesIO(part10(outer)))
    out = charset.normalise(reread)
    again = pydicom.dcmread(io.BytesIO(part10(out)))
    assert [item.PerformingPhysicianName for item in again.RequestAttributesSequence] == ["测试^医生"] * 2
    assert all("SpecificCharacterSet" not in item for item in again.RequestAttributesSequence)


def test_unreadable_descriptions_are_emptied_identifiers_refused() -> None:
    """Half a word in a description is dropped; a patient's name must be right."""
    out = charset.normalise(received(b"TEST^A", None, description=b"\xb2\xe2 T1"))
    assert out.SeriesDescription == ""
    assert out.PatientName == "TEST^A"
    with pytest.raises(CharsetRefused):
        charset.normalise(received(b"TEST^\xb2\xe2", None))


def test_values_are_split_after_decoding() -> None:
    """0x5C inside a character is no separator; a real backslash is."""
    ds = received(b"TEST", "GB18030", description="乗乗\\二".encode("gb18030"))
    assert list(charset.normalise(ds).SeriesDescription) == ["乗乗", "二"]


def test_a_value_that_breaks_its_rules_is_in_no_warning(caplog: pytest.LogCaptureFixture) -> None:
    """A name that is too long is read; pydicom neither warns of it (an error here) nor logs it."""
    name = "TEST^" + "x" * 80
    ds = received(name.encode(), None)
    assert str(ds.PatientName) == name
    assert charset.person_name(ds) == name
    assert caplog.text == ""


def test_names_made_in_memory_pass() -> None:
    """A data set that was never bytes keeps its text."""
    ds = Dataset()
    ds.SpecificCharacterSet = "GB18030"
    ds.PatientName = NAME
    assert charset.person_name(ds) == NAME
    assert charset.normalise(ds).PatientName == NAME
    assert charset.person_name(Dataset()) == ""


def test_only_two_sets_are_written() -> None:
    """Results go out in UTF-8 or GB18030; anything else is refused."""
    with pytest.raises(CharsetRefused) as caught:
        charset.normalise(Dataset(), to="ISO_IR 100")  # type: ignore[arg-type]
    assert caught.value.code == "CHARSET_UNSUPPORTED"


@pytest.mark.parametrize(
    ("term", "known"),
    [("GB18030", True), ("GBK", True), ("GB2312", True), ("ISO_IR 192", True), ("ISO_IR 100", True), ("UTF-8", False)],
)
def test_what_may_be_assumed_of_a_peer_is_known_beforehand(term: str, known: bool) -> None:
    """A site's typing error is found when the configuration is read, not when the first name comes."""
    assert charset.known(term) is known


@pytest.mark.parametrize(
    ("terms", "assumed", "used"),
    [
        ((), None, ()),
        (("",), "GBK", ("GB18030",)),
        ((), "GB2312", ("GB18030",)),
        (("ISO_IR 100",), "ISO_IR 192", ("ISO_IR 192",)),
        (("ISO_IR 192",), "GBK", ("ISO_IR 192",)),
        (("", "ISO 2022 IR 58"), "GBK", ("", "ISO 2022 IR 58")),
    ],
)
def test_the_set_that_is_read_by(terms: tuple[str, ...], assumed: str | None, used: tuple[str, ...]) -> None:
    """Declared, unless nothing or Latin is and the site knows better; what it knows becomes a defined term."""
    assert charset.effective(terms, assumed) == used
