"""The catalogue of controls: what is demanded, what enforces it, what proves that, and what is not covered.

The data are in controls.toml alone. A control without code is not covered, one with code and a `why` is in part; no
row may be silent about what it lacks.
"""

import re
import tomllib
from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from functools import cache
from importlib import resources
from typing import Any, Final

from audit.entry import JsonValue

FILE: Final = "controls.toml"
_ID: Final = re.compile(r"[A-Z]{2}-[0-9]{2}")


class Covered(StrEnum):
    """How far a control is covered."""

    YES = "YES"
    PARTLY = "PARTLY"
    NO = "NO"


@dataclass(frozen=True, slots=True)
class Control:
    """One row.

    Attributes:
        id, theme, demand, source: as the law or the standard has it.
        code: "module:symbol" that enforces it. tests: "file::test" below tests/. evidence: what an export shows of it.
        why: what is not covered, and because of what; empty where nothing is missing.
    """

    id: str
    theme: str
    demand: str
    source: str
    evidence: str
    code: tuple[str, ...]
    tests: tuple[str, ...]
    why: str

    @property
    def covered(self) -> Covered:
        """YES, PARTLY or NO: it follows from the row."""
        if not self.code:
            return Covered.NO
        return Covered.PARTLY if self.why else Covered.YES

    def described(self) -> dict[str, JsonValue]:
        """For machines."""
        return {
            "id": self.id,
            "theme": self.theme,
            "demand": self.demand,
            "source": self.source,
            "covered": self.covered.value,
            "code": list(self.code),
            "tests": list(self.tests),
            "evidence": self.evidence,
            "why": self.why,
        }


@cache
def catalogue() -> tuple[Control, ...]:
    """All controls, in their order. A row that says too little is a ValueError: the file is ours."""
    text = resources.files(__package__ or "ethics_review").joinpath(FILE).read_text(encoding="utf-8")
    return read(text)


def read(text: str) -> tuple[Control, ...]:
    """The controls of a controls.toml. Raises ValueError."""
    found = tuple(_control(row) for row in tomllib.loads(text)["control"])
    if len({control.id for control in found}) != len(found):
        raise ValueError("a control is there twice")
    return found


def page(found: Sequence[Control]) -> str:
    """docs/controls.md."""
    yes, partly, no = (sum(control.covered is kind for control in found) for kind in Covered)
    lines = [
        "# Controls: what is demanded, what enforces it, what proves that",
        "",
        f"{len(found)} controls: {yes} covered, {partly} in part, {no} not.",
        "Made from `ethics_review/controls.toml` by `zhiying review controls --markdown`; a test checks that each",
        "symbol and each test that is named here exists. Covered means: by this software, not by people.",
        "",
        "The EU AI Act and others are named as good practice where they are no duty here; this is no legal advice.",
    ]
    for theme in dict.fromkeys(control.theme for control in found):
        lines += ["", f"## {theme.capitalize()}"]
        for control in found:
            if control.theme == theme:
                lines += ["", *_paragraph(control)]
    return "\n".join(lines) + "\n"


def _paragraph(control: Control) -> list[str]:
    said = {Covered.YES: "covered", Covered.PARTLY: "in part", Covered.NO: "not covered"}[control.covered]
    lines = [f"**{control.id}** ({said}) {control.demand}. *{control.source}*", ""]
    for name, items in (("Code", control.code), ("Test", control.tests)):
        lines += [f"- {name}: {', '.join(f'`{item}`' for item in items)}"] if items else []
    lines += [f"- Evidence: {control.evidence}"] if control.evidence else []
    lines += [f"- Not covered, because: {control.why}"] if control.why else []
    return lines


def _control(row: dict[str, Any]) -> Control:
    control = Control(**row | {"code": tuple(row["code"]), "tests": tuple(row["tests"])})
    if not _ID.fullmatch(control.id) or not (control.theme and control.demand and control.source):
        raise ValueError(f"{control.id}: id, theme, demand and source wanted")
    if bool(control.code) != bool(control.tests):
        raise ValueError(f"{control.id}: code and tests, or neither")
    if not control.code and not control.why:
        raise ValueError(f"{control.id}: not covered, and does not say why")
    return control
