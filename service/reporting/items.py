"""A report as a list of things said, each under a slot of its own: what HL7 and FHIR have in common. Pure.

A slot says which place in the report a thing has; name and slot together are what a newer report replaces. What the
newer report does not say any more is withdrawn by both.

    O           the outcome
    S1, S1.1    the first statement, and its first score
    G1          the first measurement group: its finding, sites and label
    G1.1        its first number
    T1          the first text: always the marking
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from dicom_bridge.reported import Measured, Quantity, Reported, Stated
from dicom_bridge.result_context import MARKING
from models.codes import Code

OUTCOME: Final = Code("111017", "DCM", "CAD Processing and Findings Summary")
COMMENT: Final = Code("121106", "DCM", "Comment")
FINDING: Final = Code("121071", "DCM", "Finding")
SITE: Final = Code("363698007", "SCT", "Finding Site")
LABEL: Final = Code("112039", "DCM", "Tracking Identifier")
_CHINESE: Final[Mapping[str, str]] = {
    "111241": "全部算法成功；无发现",
    "111242": "全部算法成功；有发现",
    "111243": "部分算法成功；无发现",
    "111244": "部分算法成功；有发现",
    "111245": "无算法成功；无发现",
    "52101004": "存在",
    "272519000": "不存在",
    "373068000": "无法确定",
}
"""Of the codes that say what the model says; a concept's own name is the manifest's."""
SUBJECT_HEX: Final = 16

Value = Code | Quantity | str
Key = tuple[str, str, str]
"""Scheme and value of the name, and the slot."""


@dataclass(frozen=True, slots=True)
class Item:
    """One thing said. `site`: where, of a statement; `words`: a coded value in the site's language, or ""."""

    slot: str
    name: Code
    value: Value
    site: Code | None = None
    words: str = ""

    @property
    def key(self) -> Key:
        """What a newer report replaces it by."""
        return self.name.scheme, self.name.value, self.slot


def items_of(report: Reported) -> tuple[Item, ...]:
    """Everything that a report says, in order, the marking always among it."""
    return (
        _coded("O", OUTCOME, report.summary, report),
        *(item for n, one in enumerate(report.statements, start=1) for item in _stated(f"S{n}", one, report)),
        *(item for n, one in enumerate(report.groups, start=1) for item in _measured(f"G{n}", one)),
        *(Item(f"T{n}", COMMENT, text) for n, text in enumerate(texts_of(report), start=1)),
    )


def texts_of(report: Reported) -> Sequence[str]:
    """The report's comments, the marking first: whoever reads one line has read that."""
    marking = marking_of(report)
    return [marking, *(text for text in report.comments if text != marking)]


def marking_of(report: Reported) -> str:
    """What no form may leave out, in the report's language."""
    return MARKING[report.language if report.language in MARKING else "en-US"]


def subject_of(report: Reported) -> str:
    """What a newer report on the same study by the same model, of whatever version, replaces: 18 plain characters."""
    said = f"{report.study_uid}\n{report.equipment.name}".encode()
    return f"AI{hashlib.sha256(said).hexdigest()[:SUBJECT_HEX]}"


def _stated(slot: str, said: Stated, report: Reported) -> Iterator[Item]:
    yield _coded(slot, said.name, said.value, report, said.site)
    if said.site is not None:
        yield Item(slot, SITE, said.site)
    yield from (Item(f"{slot}.{n}", one.name, one, said.site) for n, one in enumerate(said.numbers, start=1))


def _measured(slot: str, group: Measured) -> Iterator[Item]:
    yield Item(slot, FINDING, group.finding)
    yield Item(slot, LABEL, group.label)
    # A group of several sites is rare, and each needs a slot, as they have one name.
    yield from (Item(f"{slot}.S{n}" if n else slot, SITE, site) for n, site in enumerate(group.sites))
    yield from (Item(f"{slot}.{n}", one.name, one) for n, one in enumerate(group.numbers, start=1))


def _coded(slot: str, name: Code, value: Code, report: Reported, site: Code | None = None) -> Item:
    words = _CHINESE.get(value.value, "") if report.language == "zh-CN" else ""
    return Item(slot, name, value, site, words)
