"""A report as HL7 v2.5.1 ORU^R01, as IHE's result transactions shape it. Pure.

Every number is the report's own text. Nothing is ever final: OBR-25 and OBX-11 are P, or withdrawn (D: this one thing
is not said any more; W: the whole result was wrong). A receiver replaces by OBR-3, OBX-3 and OBX-4, which a newer
report on the same study by the same model repeats.

Whatever comes from a header or a manifest is text: delimiters and control characters in it are escaped, so that no
name can begin a field, a segment or a message.
"""

from __future__ import annotations

import hashlib
import re
import unicodedata
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Final, Literal

from dicom_bridge.reported import Quantity, Reported
from models.codes import Code
from service.reporting.items import Item, Key, items_of, subject_of

FORM: Final = "HL7_ORU_R01"
Charset = Literal["UNICODE UTF-8", "GB 18030-2000"]
CODECS: Final[Mapping[str, str]] = {"UNICODE UTF-8": "utf-8", "GB 18030-2000": "gb18030"}
"""HL7 table 0211, and what Python calls them."""
CONTROL_ID_HEX: Final = 20
"""MSH-10 has 20 characters in 2.5.1."""

_ESCAPES: Final[Mapping[str, str]] = {"|": "\\F\\", "^": "\\S\\", "~": "\\R\\", "\\": "\\E\\", "&": "\\T\\"}
_NULL: Final = '""'
"""Means "delete what you have": where it is text, it must not."""
_LINE: Final = re.compile(r"\r\n|\r|\n")
_SYSTEMS: Final[Mapping[str, str]] = {"UMLS": "UML"}
"""HL7 table 0396, where its name is not DICOM's."""
_SECTIONS: Final[Mapping[str, str]] = {"25045-6": "CT", "25056-3": "NMR"}
"""OBR-24 by the procedure reported, HL7 table 0074."""
_SECTION: Final = "RAD"
_STUDY: Final = Code("113014", "DCM", "DICOM Study")
_REPRESENTATIONS: Final = ("A", "I", "P")
"""XPN-8 of a person name's groups: alphabetic, ideographic, phonetic."""


@dataclass(frozen=True, slots=True)
class Ends:
    """Who tells whom: MSH-3 to MSH-6, and MSH-18."""

    sender: str
    sender_facility: str
    receiver: str
    receiver_facility: str
    charset: Charset = "UNICODE UTF-8"


def control_id(receiver: str, call: str, try_: int) -> str:
    """MSH-10, the same for each try to tell this; `try_`: counts how often a person had it told anew."""
    return hashlib.sha256(f"{receiver}\n{call}\n{try_}".encode()).hexdigest()[:CONTROL_ID_HEX].upper()


def oru(
    report: Reported,
    ends: Ends,
    message: str,
    at: datetime,
    *,
    gone: Collection[Key] = (),
    withdrawn: bool = False,
) -> bytes:
    """The message, in segments that end with a carriage return.

    `message`: its control id. `at`: when the result was released, aware. `gone`: what earlier messages on the same
    subject said and this report does not. `withdrawn`: take back all of it.
    """
    codec = CODECS[ends.charset]
    writer = _Writer(codec)
    stamp = at.astimezone(UTC).strftime("%Y%m%d%H%M%S+0000")
    header = {3: ends.sender, 4: ends.sender_facility, 5: ends.receiver, 6: ends.receiver_facility, 10: message}
    plain = {2: "^~\\&", 7: stamp, 9: "ORU^R01^ORU_R01", 11: "P", 12: "2.5.1", 15: "AL", 16: "NE", 18: ends.charset}
    lines = [
        _segment("MSH", {place: writer.text(text) for place, text in header.items()} | plain),
        _segment("PID", {1: "1", 3: writer.patient_id(report), 5: writer.name(report)} | writer.person(report)),
        _segment("PV1", {1: "1", 2: "U"}),
        _segment("ORC", {1: "RE", 3: subject_of(report)}),
        _segment("OBR", writer.request(report, stamp)),
        *writer.observations(report, gone, withdrawn=withdrawn),
    ]
    return "".join(f"{line}\r" for line in lines).encode(codec)


def escape(text: str, codec: str) -> str:
    """Text as a component of a field (HL7 v2.5.1 2.7): reads back as the same text, whatever it holds."""
    if text == _NULL:
        return "\\X22\\" * len(_NULL)
    return "".join(_escaped(character, codec) for character in text)


def _escaped(character: str, codec: str) -> str:
    known = _ESCAPES.get(character)
    if known is not None:
        return known
    # Control characters, and those that some readers end a line at.
    if unicodedata.category(character) in ("Cc", "Zl", "Zp"):
        return f"\\X{character.encode(codec).hex().upper()}\\"
    return character


def _segment(name: str, fields: Mapping[int, str]) -> str:
    """A segment by the numbers of its fields; MSH-1 is the separator itself."""
    first = 2 if name == "MSH" else 1
    return "|".join([name, *(fields.get(place, "") for place in range(first, max(fields) + 1))])


class _Writer:
    """Fields, in one character set."""

    def __init__(self, codec: str) -> None:
        self._codec = codec

    def text(self, text: str) -> str:
        return escape(text, self._codec)

    def words(self, text: str) -> str:
        """TX: lines stay lines."""
        return "\\.br\\".join(self.text(line) for line in _LINE.split(text))

    def joined(self, *texts: str) -> str:
        return "^".join(self.text(text) for text in texts).rstrip("^")

    def code(self, code: Code, words: str = "") -> str:
        """CWE; `words`: what it means, in the site's language."""
        said = (code.value, code.meaning, _SYSTEMS.get(code.scheme, code.scheme))
        return self.joined(*said, "", "", "", "", "", words)

    def patient_id(self, report: Reported) -> str:
        return self.joined(report.patient.id, "", "", report.patient.issuer, "PI")

    def name(self, report: Reported) -> str:
        """XPN, a repetition for each component group (PS3.5 6.2.1)."""
        names = []
        for group, kind in zip(report.patient.name.split("="), _REPRESENTATIONS, strict=False):
            family, given, middle, prefix, suffix = (group.split("^") + [""] * 5)[:5]
            if group.strip("^ "):
                names.append(self.joined(family, given, middle, suffix, prefix, "", "L", kind))
        return "~".join(names)

    def person(self, report: Reported) -> dict[int, str]:
        sex = report.patient.sex
        return {7: report.patient.birth_date, 8: sex if sex in ("F", "M", "O") else "U"}

    def request(self, report: Reported, stamp: str) -> dict[int, str]:
        return {
            1: "1",
            3: subject_of(report),
            4: self.code(report.procedure),
            7: report.studied,
            18: self.text(report.accession),
            22: stamp,
            24: _SECTIONS.get(report.procedure.value, _SECTION),
            25: "P",
        }

    def observations(self, report: Reported, gone: Collection[Key], *, withdrawn: bool) -> Iterator[str]:
        # Not a result, but where it is: O, an order's own detail.
        study = {2: "HD", 3: self.code(_STUDY), 5: self.text(report.study_uid), 11: "W" if withdrawn else "O"}
        model = report.equipment
        made = report.made_at.astimezone(UTC).strftime("%Y%m%d%H%M%S+0000")
        about = {14: made, 18: self.joined(f"{model.name} {model.version}", model.vendor, model.uid, "ISO")}
        said = items_of(report)
        rows = [study, *(self.observation(item) | about | {11: "W" if withdrawn else "P"} for item in said)]
        left = sorted(set(gone) - {item.key for item in said})
        rows += [
            {2: "TX", 3: self.joined(value, "", _SYSTEMS.get(scheme, scheme)), 4: slot, 11: "D"} | about
            for scheme, value, slot in left
        ]
        for number, row in enumerate(rows, start=1):
            yield _segment("OBX", {1: str(number)} | row)

    def observation(self, item: Item) -> dict[int, str]:
        row = {3: self.code(item.name), 4: item.slot}
        if isinstance(item.value, Quantity):
            unit = item.value.unit
            return row | {2: "NM", 5: item.value.value, 6: self.joined(unit.value, "", unit.scheme)}
        if isinstance(item.value, Code):
            return row | {2: "CWE", 5: self.code(item.value, item.words)}
        return row | {2: "TX", 5: self.words(item.value)}
