"""Makes a model's periodic safety report from the log, and puts it on record for a reviewer to countersign."""

import hashlib
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Final

from audit.canonical import JsonValue, canonical
from audit.entry import Draft, Kind
from ethics_review.periods import months_of
from ethics_review.safety import Figures, cases_of, figures
from models.library import Library
from models.ref import ModelRef
from service import records, wire
from service.config import Config
from service.errors import CommandRefused
from service.reports import files
from service.reports.safety import About, describe

MONTHS_MAX: Final = 24
"""Two years: longer than any follow-up."""
NAME: Final = "safety"
KEY_HEX: Final = 32
DECISION_H: Final = 24
"""Hours to a human decision of a model without an approval."""


@dataclass(frozen=True, slots=True)
class Made:
    """The figures, the SAFETY_REPORT entry's index, the digest that is countersigned, where the files lie."""

    found: Figures
    about: About
    entry: int
    report: str
    folder: Path


def span(period: str, months: int) -> tuple[datetime, datetime]:
    """The first instant of the month and of that after the last one, in China's civil time. Raises CommandRefused."""
    try:
        if 1 <= months <= MONTHS_MAX:
            return months_of(period, months)
    except ValueError as wrong:
        raise CommandRefused(str(wrong)) from None
    raise CommandRefused(f"1 to {MONTHS_MAX} months wanted")


def make(config: Config, name: str, period: str, months: int, out: Path) -> Made:
    """The report, its files and its entry; of a period that is over, the same each time. Raises CommandRefused."""
    begin, end = span(period, months)
    ref = Library(config.data.folder / "models").find(name)
    with wire.offline_of(config) as site:
        now = site.now()
        if begin > now:
            raise CommandRefused(f"{period} has not begun")
        about = About(ref, config.site.id, period, months, over=now >= end, decision_h=_decision_h(site, ref))
        cases = cases_of(site.log.entries())
        found = figures(site.log.entries(), ref.digest, begin, end, decision_h=about.decision_h, cases=cases)
        if found.first < 0:
            raise CommandRefused("the log has no entry in this period")
        report = files.make(NAME, lambda language: describe(found, about, language))
        body: dict[str, JsonValue] = {
            "model": records.model_body(ref),
            "period": period,
            "months": months,
            "first": found.first,
            "last": found.last,
            "report": report.digest,
        }
        key = hashlib.sha256(canonical(body)).hexdigest()[:KEY_HEX]
        entry = site.log.append(Draft(Kind.SAFETY_REPORT, f"safety:{key}", body))
    files.put(report, out)
    return Made(found, about, entry.index, report.digest, out)


def _decision_h(site: wire.Site, ref: ModelRef) -> int:
    """The shortest that any approval of the model asks for."""
    asked = [int(str(one.monitor["human_decision_h"])) for one in site.register.approvals() if one.model == ref]
    return min(asked, default=DECISION_H)
