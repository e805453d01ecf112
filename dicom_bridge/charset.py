"""Text read properly: Chinese names come out as Chinese, or not at all.

pydicom leaves the escape sequences of ISO 2022 IR 58 in the string, and reads GBK bytes under a wrong or missing
(0008,0005) as Latin letters without a word. Here text is decoded strictly from its bytes (PS3.5 section 6.1,
PS3.3 C.12.1.1.2); what cannot be decoded is refused or emptied, never replaced by question marks.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Final, Literal, TypeAlias

from pydicom.charset import convert_encodings, decode_bytes, python_encoding
from pydicom.datadict import dictionary_VR, keyword_for_tag, tag_for_keyword
from pydicom.dataelem import DataElement, RawDataElement
from pydicom.dataset import Dataset
from pydicom.multival import MultiValue
from pydicom.sequence import Sequence as ItemSequence
from pydicom.tag import BaseTag
from pydicom.valuerep import PersonName

from dicom_bridge import quiet  # noqa: F401 - for its settings
from dicom_bridge.errors import CharsetRefused

OutputCharset = Literal["ISO_IR 192", "GB18030"]
ISO_IR_192: Final[OutputCharset] = "ISO_IR 192"
GB18030: Final[OutputCharset] = "GB18030"

# Only these are decoded under (0008,0005); the others are ASCII by their VR (PS3.5 section 6.1.2.2).
_TEXT_VRS: Final = frozenset({"SH", "LO", "ST", "LT", "UC", "UT", "PN"})
_MULTI_VRS: Final = frozenset({"SH", "LO", "UC", "PN"})
# Nothing may be told about a patient with one of these wrong; any other text is emptied if unreadable.
_MUST_BE_READABLE: Final = frozenset({"PatientName", "PatientID", "IssuerOfPatientID", "AccessionNumber", "StudyID"})

# Single-valued terms that cover Chinese. GB2312 and ISO_IR 58 are not defined terms but occur; GB18030 contains both.
_CHINESE: Final = {
    "GB18030": "gb18030",
    "GBK": "gb18030",
    "GB2312": "gb18030",
    "ISO_IR 58": "gb18030",
    "ISO 2022 GBK": "gb18030",
    "ISO 2022 GB18030": "gb18030",
    "ISO_IR 192": "utf-8",
}
# Terms that senders declare, or leave to be implied, while writing GBK bytes.
_MISLABELS: Final = frozenset({(), ("ISO_IR 6",), ("ISO 2022 IR 6",), ("ISO_IR 100",), ("ISO 2022 IR 100",)})
_DEFAULT: Final = frozenset({"", "ISO_IR 6", "ISO 2022 IR 6"})
_IR58: Final = "ISO 2022 IR 58"
# PS3.3 Table C.12-4: ISO 2022 IR 58 to G1, and ISO-IR 6 back to G0.
_IR58_ESCAPES: Final = re.compile(rb"\x1b\$\)A|\x1b\(B")
_IR58_ESCAPES_TEXT: Final = re.compile(r"\x1b\$\)A|\x1b\(B")
# PS3.5 section 6.1.2.5.3: control characters and, in person names, ^ and = end a code extension; backslash too.
_DELIMITERS: Final = {9, 10, 12, 13, 0x5C, 0x5E, 0x3D}
_TAG_CHARSET: Final = 0x00080005
_NON_ASCII_FIRST: Final = 0x80

_Item: TypeAlias = "RawDataElement | DataElement"


def declared(ds: Dataset) -> tuple[str, ...]:
    """Return the terms of Specific Character Set (0008,0005), without padding; () when absent or empty."""
    value = ds.get("SpecificCharacterSet")
    if value is None:
        return ()
    terms = [value] if isinstance(value, str) else list(value)
    cleaned = tuple(str(term).strip() for term in terms)
    return cleaned if any(cleaned) else ()


def effective(terms: Sequence[str], assumed: str | None) -> tuple[str, ...]:
    """The character set to read by: what is declared, but the site's word about a sender that declares nothing or
    Latin-1 and writes something else. A proper declaration is never overruled.
    """
    key = tuple(terms) if any(terms) else ()
    if assumed is None or key not in _MISLABELS:
        return key
    # Defined terms only, so that a header that is corrected by it is readable by anybody.
    return (GB18030 if _CHINESE.get(assumed) == "gb18030" else assumed,)


def known(term: str) -> bool:
    """Whether a character set can be read here: what a site may assume of a peer."""
    return term in _CHINESE or term in python_encoding


def python_encodings(terms: Sequence[str]) -> list[str]:
    """The codecs of a character set, as pydicom keeps them with a data set. Raises CharsetRefused."""
    try:
        codecs: list[str] = convert_encodings(list(terms))
    except (LookupError, UserWarning) as error:
        raise CharsetRefused("CHARSET_UNSUPPORTED", "the assumed character set is not known") from error
    return codecs


def decode_text(raw: bytes, terms: Sequence[str], assumed: str | None = None) -> str:
    """Decode the bytes of one text value, multi-values still joined by backslashes.

    `terms` is what the dataset declares; `assumed` is the site's word about a sender that declares nothing or
    Latin-1 and writes something else. Raises CharsetRefused when the bytes do not decode without loss.
    """
    if max(raw, default=0) < _NON_ASCII_FIRST and b"\x1b" not in raw:
        return raw.decode("ascii")
    try:
        return _decode(raw, effective(terms, assumed))
    # pydicom tells of lost characters by a UserWarning, which a strict warning filter raises.
    except (UnicodeError, LookupError, UserWarning) as error:
        raise CharsetRefused("CHARSET_UNDECODABLE", "text does not match the declared character set") from error


def _decode(raw: bytes, terms: tuple[str, ...]) -> str:
    if len(terms) == 1 and terms[0] in _CHINESE:
        return raw.decode(_CHINESE[terms[0]])
    if _IR58 in terms and set(terms) <= _DEFAULT | {_IR58}:
        # Any GB 2312 text is GB18030 text; the escape to G1 leaves ASCII in G0, so one codec reads both halves.
        return _IR58_ESCAPES.sub(b"", raw).decode("gb18030")
    if not terms or (len(terms) == 1 and terms[0] in _DEFAULT):
        return raw.decode("ascii")
    text: str = decode_bytes(raw, convert_encodings(list(terms)), _DELIMITERS)
    if "\ufffd" in text:
        raise UnicodeError("lossy")
    return text


def normalise(ds: Dataset, assumed: str | None = None, to: OutputCharset = ISO_IR_192) -> Dataset:
    """Return a copy of `ds` whose text is decoded and whose character set is `to`, sequences included.

    Elements that are not text are shared with `ds`, which stays as it was. Unreadable text is emptied, except
    in the attributes that identify the patient and the request: those raise CharsetRefused.
    """
    if to not in (ISO_IR_192, GB18030):
        raise CharsetRefused("CHARSET_UNSUPPORTED", "results are written in ISO_IR 192 or GB18030")
    out = _copy(ds, declared(ds), assumed)
    out.SpecificCharacterSet = to
    meta = getattr(ds, "file_meta", None)
    if meta is not None:
        out.file_meta = meta
    return out


def person_name(ds: Dataset, keyword: str = "PatientName", assumed: str | None = None) -> str:
    """Return a person name with its component groups as sent ("=" between them); "" when absent or empty.

    Raises CharsetRefused when it cannot be read.
    """
    tag = tag_for_keyword(keyword)
    if tag is None or tag not in ds:
        return ""
    return "\\".join(_texts(ds.get_item(tag), "PN", declared(ds), assumed))


def _copy(ds: Dataset, terms: tuple[str, ...], assumed: str | None) -> Dataset:
    """Copy one level: text decoded, sequences copied with their own or the inherited character set."""
    out = Dataset()
    for tag in ds.keys():  # noqa: SIM118 - iterating the dataset itself would convert every element
        if tag == _TAG_CHARSET:
            continue
        item = ds.get_item(tag)
        vr = _vr(item)
        if vr == "SQ":
            copies = [_copy(inner, declared(inner) or terms, assumed) for inner in ds[tag].value]
            out[tag] = DataElement(tag, "SQ", ItemSequence(copies))
        elif vr in _TEXT_VRS:
            out[tag] = DataElement(tag, vr, _value(item, tag, vr, terms, assumed))
        else:
            out[tag] = item
    return out


def _value(item: _Item, tag: BaseTag, vr: str, terms: tuple[str, ...], assumed: str | None) -> str | list[str]:
    try:
        texts = _texts(item, vr, terms, assumed)
    except CharsetRefused:
        if keyword_for_tag(tag) in _MUST_BE_READABLE:
            raise
        return ""
    return texts[0] if len(texts) == 1 else texts


def _texts(item: _Item, vr: str, terms: tuple[str, ...], assumed: str | None) -> list[str]:
    """Return the element's values. Split after decoding: 0x5C may be the second byte of a Chinese character."""
    raw = _bytes(item)
    text = decode_text(raw, terms, assumed) if isinstance(raw, bytes) else raw
    values = text.split("\\") if vr in _MULTI_VRS else [text]
    return [value.rstrip(" \x00") for value in values]


def _bytes(item: _Item) -> bytes | str:
    """Return the element's bytes as received; where pydicom has decoded them already, as near as can be had.

    pydicom reads single-byte sets as Latin-1, which loses nothing, so those bytes can be had back. Any other
    decoded text is returned as text, without the escapes that pydicom leaves in it.
    """
    if isinstance(item, RawDataElement):
        return bytes(item.value or b"")
    value = item.value
    values = list(value) if isinstance(value, (list, MultiValue)) else [value]
    if all(isinstance(one, PersonName) and isinstance(one.original_string, bytes) for one in values):
        return b"\\".join(one.original_string for one in values)
    text = "\\".join("" if one is None else str(one) for one in values)
    try:
        return text.encode("latin-1")
    except UnicodeEncodeError:
        return _IR58_ESCAPES_TEXT.sub("", text)


def _vr(item: _Item) -> str:
    if item.VR is not None and item.VR != "UN":
        return str(item.VR)
    try:
        return str(dictionary_VR(item.tag))
    except KeyError:
        return "UN"
