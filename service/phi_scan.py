"""Looks for patients' data in all that goes into a package, before anybody gets it. Pure but for counting.

Two kinds of search. Rules know the forms that data of patients have in China; what has such a form and is ours
(digests, pseudonyms, times, our own UIDs) is taken out first, by its exact form. The dictionary, made inside the
hospital, holds the very words; it is used and forgotten. What is found is told by rule, member
and offset: never the text.
"""

from __future__ import annotations

import json
import re
from base64 import b64decode
from binascii import Error as NotBase64
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from datetime import date
from typing import Final

from service.errors import PatientDataFound
from service.phi_words import Dictionary

FORMAT: Final = "zhiying.phi-scan/1"
HITS_MAX: Final = 100
"""Hits that are named; the rest is counted. More would be another list of the same fault."""
CLEAN_MAX: Final = 1 << 16
"""Short pieces known to be clean, such as names of elements: most of a FHIR or DICOM member is these."""
CLEAN_CHARS_MAX: Final = 64

_HAN: Final = r"\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\U00020000-\U000323af"
RUN: Final = re.compile(f"[{_HAN}]+")
"""Chinese characters, one after the other."""
_NAME: Final = re.compile(r"[^\W\d_]\^+[^\W\d_]|[^\W\d_]\^=|=[^\W\d_]+\^")
_RESIDENT: Final = re.compile(r"(?<![0-9])[1-9][0-9]{16}[0-9Xx](?![0-9])")
_RESIDENT_OLD: Final = re.compile(r"(?<![0-9A-Za-z.])[1-9][0-9]{14}(?![0-9A-Za-z.])")
_PHONE: Final = re.compile(
    r"(?<![0-9A-Za-z.])(?:(?:\+|00)?86[- ]?)?1[3-9][0-9](?:[0-9]{8}|[- ][0-9]{4}[- ][0-9]{4})(?![0-9A-Za-z.])"
    r"|(?<![0-9A-Za-z.-])0[1-9][0-9]{1,2}[- ][2-9][0-9]{6,7}(?![0-9A-Za-z.-])"
)
_DATE: Final = re.compile(
    r"(?<![0-9A-Za-z.])((?:18|19|20)[0-9]{2})([-./]?)([0-9]{1,2})\2([0-9]{1,2})(?![0-9A-Za-z.]|-[0-9])"
    r"|((?:18|19|20)[0-9]{2}) ?\u5e74 ?([0-9]{1,2}) ?\u6708(?: ?([0-9]{1,2}) ?[\u65e5\u53f7])?"
)
_UID: Final = re.compile(r"(?<![0-9.])[0-9]+(?:\.[0-9]+){5,}(?![0-9])")
_PLAIN: Final = re.compile(r"[A-Za-z ,.:;/_+=<>{}()\[\]-]*")
"""A piece without a digit, a caret or anything but ASCII: no rule can find anything in it, only words can."""

_OWN: Final = re.compile(
    r"(?<![0-9A-Za-z])(?:[0-9a-f]{64}|[0-9a-f]{32})(?![0-9A-Za-z])"  # digests and pseudonyms
    r"|(?<![0-9A-Za-z])[0-9a-f]{24}-[0-9]{1,9}(?![0-9])"  # a run
    r"|(?<![0-9.])2\.25\.[0-9]{1,39}(?![0-9.])"
    r"|[0-9]{4}-[0-9]{2}-[0-9]{2}T[0-9]{2}:[0-9]{2}:[0-9]{2}\.[0-9]{6}Z"
    r"|(?<=/audit#)[0-9]+(?![0-9])|(?<![0-9a-f])[0-9a-f]{16}-[0-9]+-[0-9](?![0-9])"  # an entry after its log's name
)
_COUNTED: Final = re.compile(r'"(?:seq|tick_us)":[0-9]+|"(?:sequence|log-sequence)","valueString":"[0-9]+"')
"""How often a writer has written, and for how long it has run: numbers that grow into every form."""
_CODE: Final = re.compile(r'"code":"[0-9-]+"(?=,"unit")|\[[0-9-]+\](?= -?[0-9])')
_MEASURED: Final = re.compile(
    r'(?<=":)[0-9]+(?=[,}\]])|"value":"-?[0-9]+(?:\.[0-9]+)?"|\[[0-9-]+\] -?[0-9]+(?:\.[0-9]+)?'
    r'|"(?:instances|timing-ms-total)","valueString":"[0-9]+"'
)
"""Whole numbers of JSON and what a model measured: the rules look there; a patient's number may be any number."""
_ESCAPED: Final = re.compile(r"\\(?:u[0-9a-fA-F]{4}|.)|&(?:#[0-9]+|#x[0-9a-fA-F]+|[a-z]+);")
_DETAIL: Final = re.compile(r'<ParticipantObjectDetail type="([^"]*)" value="([A-Za-z0-9+/=]*)"')
_COUNTS: Final = frozenset({"log-index", "log-sequence", "instances", "timing-ms-total"})
_WEIGHTS: Final = (7, 9, 10, 5, 8, 4, 2, 1, 6, 3, 7, 9, 10, 5, 8, 4, 2)


@dataclass(frozen=True, slots=True)
class Hit:
    """Where, and by which rule."""

    rule: str
    member: str
    offset: int


def is_resident_id(text: str) -> bool:
    """Whether the last of 18 digits is the check digit of the others (GB 11643-1999)."""
    total = sum(weight * int(digit) for weight, digit in zip(_WEIGHTS, text, strict=False))
    return "10X98765432"[total % 11] == text[17].upper()


class Rules:
    """What has the form of a patient's data. `texts`: whole runs of Chinese and dates that are known to be none."""

    def __init__(self, texts: Iterable[str] = ()) -> None:
        self.known: set[str] = set()
        for text in texts:
            self.know(text)

    def know(self, text: str) -> None:
        """Take the text's runs of Chinese and its dates for known: of our own pages, or a reviewer's signed words."""
        self.known.update(RUN.findall(text))
        self.known.update(found.group() for found in _DATE.finditer(text))

    def find(self, text: str) -> Iterator[tuple[str, int]]:
        """Rule and place of each hit. The text is without what is ours."""
        for found in _RESIDENT.finditer(text):
            if is_resident_id(found.group()):
                yield "RESIDENT_ID", found.start()
        for found in _RESIDENT_OLD.finditer(text):
            if _is_day("19" + found.group()[6:8], found.group()[8:10], found.group()[10:12]):
                yield "RESIDENT_ID", found.start()
        yield from (("PHONE", found.start()) for found in _PHONE.finditer(text))
        for found in _DATE.finditer(text):
            if found.group() not in self.known and _is_date(found):
                yield "DATE", found.start()
        yield from (("FOREIGN_UID", found.start()) for found in _UID.finditer(text))
        yield from (("NAME", found.start()) for found in _NAME.finditer(text))
        for found in RUN.finditer(text):
            if found.group() not in self.known:
                yield "CHINESE_TEXT", found.start()


RULES: Final = (
    *("RESIDENT_ID", "PHONE", "DATE", "FOREIGN_UID", "NAME", "CHINESE_TEXT"),
    *("NOT_TEXT", "DICTIONARY", "CANARY"),
)
"""All of them, in the order of docs/audit-package.md."""


class Scan:
    """Takes every piece that goes into one package, and gives the verdict.

    `fixed(member)`: the fixed texts of our own that this member holds. `canaries`: strings that are looked for
    everywhere, as they are.
    """

    def __init__(
        self,
        words: Iterable[str] = (),
        *,
        canaries: Iterable[str] = (),
        fixed: Callable[[str], Iterable[str]] = lambda _: (),
        own_words: Iterable[str] = (),
    ) -> None:
        self._dictionary = Dictionary(words, own_words)
        self._canaries = tuple(canary for canary in canaries if canary)
        self._fixed = fixed
        self._approved: list[str] = []
        self._rules: dict[str, Rules] = {}
        self._clean: dict[str, set[str]] = {}
        self._wordless: set[str] = set()
        self._counts: Counter[str] = Counter()
        self._bytes = self._members = 0
        self._last = ""
        self.hits: list[Hit] = []

    def know(self, text: str) -> None:
        """A text of a signed approval: its dates and its Chinese are no patient's, wherever they stand."""
        self._approved.append(text)
        for rules in self._rules.values():
            rules.know(text)

    def look(self, member: str, offset: int, data: bytes) -> None:
        """Scan one piece; nothing that is looked for may be cut in two by where a piece ends."""
        self._bytes += len(data)
        self._members += member != self._last
        self._last = member
        encoding = "utf-8"
        try:
            text = data.decode(encoding)
        except UnicodeDecodeError as error:
            self._hit("NOT_TEXT", member, offset + error.start)
            encoding = "latin-1"
            text = data.decode(encoding)

        def place(rule: str, at: int) -> None:
            self._hit(rule, member, offset + len(text[:at].encode(encoding)))

        for canary in self._canaries:
            if canary in text:
                place("CANARY", text.index(canary))
        if "\\" in text or "&" in text:
            text = _ESCAPED.sub(_blank, text)
        self._pieces(member, text, place)
        if member.startswith("dicom-audit/"):
            self._details(member, text, place)

    @property
    def counts(self) -> dict[str, int]:
        """Hits by rule; every rule is there."""
        return {rule: self._counts[rule] for rule in RULES}

    def report(self) -> bytes:
        """`phi_scan.json`: what was looked for and where; nothing of what is in the dictionary or was found."""
        said = {
            "format": FORMAT,
            "rules": self.counts,
            "dictionary": self._dictionary.said,
            "canaries": len(self._canaries),
            "members": self._members,
            "bytes": self._bytes,
            "hits": [{"rule": hit.rule, "member": hit.member, "offset": hit.offset} for hit in self.hits],
            "not_scanned": ["README.md", "verifier.py", "tsa/", "phi_scan.json"],
        }
        return json.dumps(said, ensure_ascii=True, indent=1).encode() + b"\n"

    def refuse_hits(self) -> None:
        """Raise PatientDataFound if there was one."""
        if self.hits:
            raise PatientDataFound([(hit.rule, hit.member, hit.offset) for hit in self.hits], self._counts.total())

    def _hit(self, rule: str, member: str, offset: int) -> None:
        self._counts[rule] += 1
        if len(self.hits) < HITS_MAX:
            self.hits.append(Hit(rule, member, offset))

    def _of(self, member: str) -> tuple[Rules, set[str]]:
        folder = member.partition("/")[0]
        if folder not in self._rules:
            self._rules[folder] = Rules([*self._fixed(folder), *self._approved])
            self._clean[folder] = set()
        return self._rules[folder], self._clean[folder]

    def _pieces(self, member: str, text: str, place: Callable[[str, int], None]) -> None:
        """Each distinct text between quotes once: a quote ends whatever is looked for."""
        rules, clean = self._of(member)
        numbered = text.startswith("{") or member.startswith("tables/")
        counted = _COUNTED.sub(_blank, text) if numbered else text
        plain = _CODE.sub(_blank, counted) if numbered else text
        for piece in dict.fromkeys(plain.split('"')):
            if piece in clean or _PLAIN.fullmatch(piece):
                continue
            found = list(rules.find(_OWN.sub(_blank, piece)))
            for rule, at in found:
                place(rule, plain.index(piece) + at)
            if not found:
                _keep(clean, piece)
        if not self._dictionary.size:
            return
        words = _CODE.sub(_blank, _MEASURED.sub(_blank, counted)) if numbered else text
        for piece in dict.fromkeys(words.split('"')):
            if piece not in self._wordless:
                at = -1
                for at in self._dictionary.find(piece):
                    place("DICTIONARY", words.index(piece) + at)
                if at < 0:
                    _keep(self._wordless, piece)

    def _details(self, member: str, text: str, place: Callable[[str, int], None]) -> None:
        """What a DICOM audit message writes in base64, as text."""
        rules, _ = self._of(member)
        for found in _DETAIL.finditer(text):
            name, value = found.groups()
            try:
                plain = b64decode(value, validate=True).decode()
            except (NotBase64, UnicodeDecodeError):
                place("NOT_TEXT", found.start(2))
                continue
            if any(canary in plain for canary in self._canaries):
                place("CANARY", found.start(2))
            if name in _COUNTS and plain.isdecimal():
                continue
            for rule, _ in rules.find(_OWN.sub(_blank, plain)):
                place(rule, found.start(2))
            for _ in self._dictionary.find(plain):
                place("DICTIONARY", found.start(2))


def _keep(clean: set[str], piece: str) -> None:
    if len(piece) <= CLEAN_CHARS_MAX and len(clean) < CLEAN_MAX:
        clean.add(piece)


def _blank(found: re.Match[str]) -> str:
    return " " * len(found.group())


def _is_date(found: re.Match[str]) -> bool:
    year, mark, month, day, han_year, han_month, han_day = found.groups()
    if han_year is not None:
        return _is_day(han_year, han_month, han_day or "1")
    # Without marks only DICOM's form is a date: two digits each.
    return (mark != "" or len(month) == len(day) == 2) and _is_day(year, month, day)


def _is_day(year: str, month: str, day: str) -> bool:
    try:
        date(int(year), int(month), int(day))
    except ValueError:
        return False
    return True
