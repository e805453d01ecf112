"""The periodic safety report: the figures of a model's months in words and tables, for a reviewer to sign. Pure."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from ethics_review.metrics import N_MIN
from ethics_review.safety import Counts, Figures, Share
from models.ref import ModelRef
from service.reports.document import Block, Document, Heading, Language, Paragraph, Table, Words, pick

_NONE: Final[Words] = ("无。", "None.")
_CODES: Final[dict[str, Words]] = {
    "code": ("代码", "Code"),
    "condition": ("条件", "Condition"),
    "stage": ("步骤", "Step"),
    "decision": ("决定", "Decision"),
    "reason": ("原因", "Reason"),
    "metric": ("指标", "Metric"),
    "outcome": ("结论", "Outcome"),
    "event": ("事件", "Event"),
    "level": ("层级", "Level"),
    "category": ("类别", "Category"),
    "severity": ("严重程度", "Severity"),
    "occasion": ("时机", "Occasion"),
    "n": ("次数", "Times"),
}


@dataclass(frozen=True, slots=True)
class About:
    """Which model, which months (`period`: the first one, YYYY-MM), whether they are over, hours to a decision."""

    model: ModelRef
    site: str
    period: str
    months: int
    over: bool
    decision_h: int


_Part = tuple[Words, Callable[[Figures], Counts], tuple[str, ...]]
_OF_CALLS: Final[tuple[_Part, ...]] = (
    (("拒绝", "Refusals"), lambda f: f.refused, ("code", "condition")),
    (
        ("选定模型前的拒绝（全院）", "Refusals before a model was chosen (whole site)"),
        lambda f: f.unassigned,
        ("code",),
    ),
    (("失败", "Failures"), lambda f: f.failed, ("stage", "code")),
    (("医师决定", "Physicians' decisions"), lambda f: f.decisions, ("decision",)),
    (("决定的原因", "Reasons of decisions"), lambda f: f.reasons, ("reason",)),
)
_OF_THE_MODEL: Final[tuple[_Part, ...]] = (
    (("监测评估", "Evaluations by the monitor"), lambda f: f.evaluations, ("metric", "outcome")),
    (("漂移警报", "Drift alerts"), lambda f: f.drift, ("metric",)),
    (("逾期警报", "Alerts of overdue decisions"), lambda f: f.overdue, ("metric",)),
    (
        ("状态变更（含暂停与恢复）", "Changes of state (suspensions, resumptions)"),
        lambda f: f.states,
        ("event", "reason"),
    ),
    (
        ("停用与恢复（机构或服务）", "Stops and resumptions (site or service)"),
        lambda f: f.switches,
        ("event", "level", "reason"),
    ),
    (("事件", "Incidents"), lambda f: f.incidents, ("event", "category", "severity")),
    (("标准病例自检", "Golden runs"), lambda f: f.golden, ("occasion", "outcome")),
)
_SHARES: Final[tuple[tuple[Words, Callable[[Figures], Share]], ...]] = (
    (("失败率", "Share of failures"), lambda f: f.failures),
    (
        ("不一致（有临床意义的修改与否决）", "Disagreement (significant changes and rejections)"),
        lambda f: f.disagreement,
    ),
)
_NOT_OVER: Final[Words] = ("期间尚未结束：以下为部分数据。", "The period is not over: this is a part of it.")
_COUNTED: Final[Words] = (
    "所有数字均由日志条目计数得出，可由任何人重新计数；验收数据集的调用单独列出。",
    "All numbers are counted from the log's entries, and anybody can count again; labelled sets are apart.",
)


def describe(found: Figures, about: About, language: Language) -> Document:
    """The report in one language. The same figures give the same document."""

    def parts(listed: tuple[_Part, ...]) -> list[Block]:
        made: list[Block] = []
        for title, counts, columns in listed:
            made += _part(pick(title, language), counts(found), columns, language)
        return made

    blocks: list[Block] = [_scope(found, about, language)]
    if not about.over:
        blocks.append(Paragraph(pick(_NOT_OVER, language), strong=True))
    blocks += [Paragraph(pick(_COUNTED, language)), Heading(pick(("调用", "Calls"), language)), _calls(found, language)]
    blocks += [_share(pick(title, language), share(found), language) for title, share in _SHARES]
    blocks += [Heading(pick(("逾期决定", "Overdue decisions"), language)), _overdue(found, about, language)]
    blocks += parts(_OF_CALLS) + parts(_OF_THE_MODEL)
    blocks += [Heading(pick(("得出结果的时间（毫秒）", "Time to a result (ms)"), language)), _latency(found, language)]
    return Document(language, pick(("定期安全报告", "Periodic safety report"), language), tuple(blocks))


def _scope(found: Figures, about: About, language: Language) -> Table:
    named: tuple[tuple[Words, str], ...] = (
        (("模型", "Model"), f"{about.model.name} {about.model.version}"),
        (("模型摘要", "Model digest"), about.model.digest),
        (("机构", "Site"), about.site),
        (("首月（UTC+8）", "First month (UTC+8)"), about.period),
        (("月数", "Months"), str(about.months)),
        (("日志条目", "Log entries"), f"{found.first} - {found.last}"),
    )
    return Table((), tuple((pick(words, language), value) for words, value in named))


def _calls(found: Figures, language: Language) -> Table:
    named: tuple[tuple[Words, int], ...] = (
        (("许可的调用", "Permitted calls"), found.calls),
        (("有结果", "With a result"), found.results),
        (("已发布", "Released"), found.released),
        (("拒绝", "Refused"), sum(n for _, n in found.refused)),
        (("失败", "Failed"), sum(n for _, n in found.failed)),
        (("验收数据集的调用", "Calls of labelled sets"), found.cases),
    )
    return Table((), tuple((pick(words, language), str(n)) for words, n in named))


def _part(title: str, counts: Counts, columns: tuple[str, ...], language: Language) -> list[Block]:
    if not counts:
        return [Heading(title), Paragraph(pick(_NONE, language))]
    head = tuple(pick(_CODES[name], language) for name in (*columns, "n"))
    rows = tuple((*codes, str(n)) for codes, n in counts)
    return [Heading(title), Table(head, rows, frozenset({len(columns)}))]


def _share(title: str, share: Share, language: Language) -> Paragraph:
    if share.value is None:
        few = (f"少于 {N_MIN} 次，不给出比例", f"fewer than {N_MIN}, too few for a share")
        return Paragraph(f"{title}: {share.events} / {share.n}, {pick(few, language)}")
    return Paragraph(f"{title}: {share.value} [{share.low}, {share.high}] ({share.events} / {share.n})")


def _overdue(found: Figures, about: About, language: Language) -> Table:
    named: tuple[tuple[Words, int], ...] = (
        ((f"到期（{about.decision_h} 小时）", f"Due (within {about.decision_h} h)"), found.due),
        (("无决定", "Without a decision"), found.undecided),
        (("决定过晚", "Decided too late"), found.late),
    )
    return Table((), tuple((pick(words, language), str(n)) for words, n in named))


def _latency(found: Figures, language: Language) -> Table:
    few = pick(("结果过少", "too few results"), language)
    rows = [(f"p{percent}", few if ms is None else str(ms)) for percent, ms in found.latency_ms]
    return Table((), ((pick(("结果数", "Results"), language), str(found.timed)), *rows))
