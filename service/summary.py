"""The page for people: one file without script or anything from elsewhere, in Chinese and English, for A4."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from jinja2 import Environment, FileSystemLoader, StrictUndefined

from service.tally import Tally

PAGES: Final = Path(__file__).with_name("pages")
PAGE: Final = "summary.html"
STATES: Final = (
    ("RELEASED", "结果已发布", "its result was released"),
    ("SHADOW", "影子运行，结果不发布", "it ran in the shadow, and its result was not to be released"),
    ("NOT_RELEASED", "有结果，未发布", "it has a result, which was not released"),
    ("DENIED", "被规则拒绝", "a rule said no"),
    ("FAILED", "失败", "something failed"),
    ("NO_END", "无结局条目", "no entry says how it ended"),
)
DOSSIERS: Final = {
    "DRAFT": ("草稿", "draft"),
    "SELF_ASSESSED": ("已自评", "self-assessed"),
    "SUBMITTED": ("已提交", "submitted"),
    "UNDER_REVIEW": ("审查中", "under review"),
    "EXPERT_REREVIEW": ("专家复核中", "being examined again by experts"),
    "REVISE": ("须修改", "to be revised"),
    "REJECTED": ("已否决", "rejected"),
    "APPROVED": ("已批准", "approved"),
    "APPROVED_WITH_CONDITIONS": ("附条件批准", "approved with conditions"),
    "SHADOW": ("影子运行", "in the shadow"),
    "LIVE": ("正式使用", "in use"),
    "SUSPENDED": ("已暂停", "suspended"),
    "RETIRED": ("已退役", "retired"),
}
DECISIONS: Final = {
    "ACCEPT": ("采纳", "accepted"),
    "MODIFY": ("修改后采纳", "modified"),
    "REJECT": ("不采纳", "rejected"),
    "NOT_USED": ("未使用", "not used"),
}
OUTCOMES: Final = {
    "OK": ("正常", "nothing found"),
    "TOO_FEW": ("例数不足，不等于正常", "too few cases, which is not the same as fine"),
    "ALERT": ("提示人工查看", "a person is to look"),
    "RESTRICT": ("限制某一亚组", "a subgroup is taken out of use"),
    "SUSPEND": ("暂停使用", "the model is suspended"),
}


@dataclass(frozen=True, slots=True)
class About:
    """What the page is of: the log's origin; period and filter as the manifest has them; the EXPORT entry's words."""

    origin: str
    period: Mapping[str, Any]
    filter: Mapping[str, Any]
    recipient: Mapping[str, str]


def render(tally: Tally, about: About) -> bytes:
    """The page. All that comes from entries is escaped."""
    pages = Environment(
        loader=FileSystemLoader(PAGES), autoescape=True, undefined=StrictUndefined, keep_trailing_newline=True
    )
    # With separators: a count is then no long number that could be one of a person.
    pages.filters["n"] = lambda count: f"{count:,}"
    pages.filters["s"] = lambda seconds: f"{seconds:,.3f}"
    given = {"period": about.period, "filter": about.filter, "recipient": about.recipient, "origin": about.origin}
    words = {"states": STATES, "dossiers": DOSSIERS, "decided": DECISIONS, "found": OUTCOMES}
    return pages.get_template(PAGE).render(t=tally, **words, **given).encode()


def fixed_texts() -> list[str]:
    """All that this page says whatever the log holds."""
    words = [text for state in STATES for text in state]
    words += [
        text for table in (DOSSIERS, DECISIONS, OUTCOMES) for pair in table.items() for text in (pair[0], *pair[1])
    ]
    return [(PAGES / PAGE).read_text(encoding="utf-8"), *words]
