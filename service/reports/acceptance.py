"""The report of a local acceptance: what the rows of its ACCEPTANCE entry say, in words, tables and pictures. Pure.

Every number is printed as the entry holds it, digit by digit. No case is named, and no patient could be.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Final

from audit.entry import JsonValue
from ethics_review import metrics
from ethics_review.acceptance import Acceptance
from ethics_review.metrics import N_MIN, Row
from models.ref import ModelRef
from service.reports import charts
from service.reports.document import Block, Document, Heading, Language, Paragraph, Picture, Table, Words, pick

METRICS: Final[Mapping[str, Words]] = MappingProxyType(
    {
        "SENSITIVITY": ("灵敏度", "Sensitivity"),
        "SPECIFICITY": ("特异度", "Specificity"),
        "AUC": ("ROC 曲线下面积", "Area under the ROC curve"),
        "DICE": ("Dice 系数（平均）", "Dice coefficient (mean)"),
        "VOLUME_ERROR": ("体积相对误差（绝对值平均）", "Relative volume error (mean of absolute values)"),
        "ECE": ("校准误差 ECE", "Expected calibration error"),
        "BRIER": ("Brier 分数", "Brier score"),
        "FAILURES": ("失败率", "Share of failures"),
    }
)
_NO_CLAIM: Final[Words] = (
    "本报告的每个数字都可由日志中的 CASE 与 CALL_INTENT 条目逐位重新计算；报告本身不是证明。",
    "Every number here can be made again, to the digit, from the log's CASE and CALL_INTENT entries; it is no proof.",
)
_HOW: Final[tuple[Words, ...]] = (
    (
        f"区间为 95 %：比例用 Wilson 区间，其余用 BCa 自助法（{metrics.DRAWS} 次）。少于 {N_MIN} 例者不给出数值"  # noqa: ISC004
        "（审评方签署更小下限者除外）。",
        f"Intervals are 95 %: Wilson's for shares, a BCa bootstrap ({metrics.DRAWS} draws) for the rest. "  # noqa: ISC004
        f"Below {N_MIN} cases nothing is said, but where the reviewer signed a bound of fewer.",
    ),
    (
        "失败病例计为最差：Dice 0，体积误差 -1，阳性与阴性均计为错误；模型判为“未定”者同样计为错误。"  # noqa: ISC004
        "被门控拒绝的病例不在任何一行内，另行计数。",
        "A failed case counts as the worst: Dice 0, volume error -1, wrong whatever its truth. "  # noqa: ISC004
        "What the model leaves open is wrong whatever its truth as well. "
        "A case that the gate refused is in no row, and counted apart.",
    ),
    ("AI 结果须经医师审核；任何验收都不改变这一点。", "AI results await a physician; no acceptance changes that."),
)
_TOO_FEW: Final[Words] = ("病例过少", "too few cases")
_ALL: Final[Words] = ("全部", "all")
_MET: Final[Words] = ("满足", "met")
_NOT_MET: Final[Words] = ("未满足", "NOT met")


@dataclass(frozen=True, slots=True)
class About:
    """What was accepted, under which approval, against which bounds, by which code."""

    model: ModelRef
    approval: str
    reviewer: str
    dataset: str
    rights: str
    site: str
    bounds: tuple[Mapping[str, JsonValue], ...]
    code: str


def describe(found: Acceptance, about: About, language: Language) -> Document:
    """The report in one language. The same acceptance gives the same document."""

    def say(words: Words) -> str:
        return pick(words, language)

    unmet = metrics.unmet(about.bounds, found.rows)
    blocks: list[Block] = [
        Paragraph(say(_verdict(len(about.bounds), len(unmet))), strong=True),
        _scope(found, about, language),
        Paragraph(say(_NO_CLAIM)),
        Heading(say(("批准界限", "The approval's bounds"))),
        *_bounds(found, about, unmet, language),
        Heading(say(("结果", "Results"))),
        *(Paragraph(say(words)) for words in _HOW),
        _rows([row for row in found.rows if row.subgroup is None], language),
        Heading(say(("按亚组", "By subgroup"))),
        _rows([row for row in found.rows if row.subgroup is not None], language),
        *_pictures(found, about, language),
        Heading(say(("失败与拒绝", "Failures and refusals"))),
        *_ends(found, language),
    ]
    return Document(language, say(("本地验收报告", "Local acceptance report")), tuple(blocks))


def _verdict(bounds: int, unmet: int) -> Words:
    if not bounds:
        return "批准未规定验收界限：没有可以满足的内容。", "The approval names no bounds: there is nothing to meet."
    if unmet:
        return (
            f"{bounds} 项界限中有 {unmet} 项未满足：不得上线。",
            f"Bounds that are NOT met: {unmet} of {bounds}. Not for LIVE.",
        )
    return f"全部 {bounds} 项界限均已满足。", f"Bounds that are met: {bounds} of {bounds}."


def _scope(found: Acceptance, about: About, language: Language) -> Table:
    named: tuple[tuple[Words, str], ...] = (
        (("模型", "Model"), f"{about.model.name} {about.model.version}"),
        (("模型摘要", "Model digest"), about.model.digest),
        (("批准", "Approval"), about.approval),
        (("审查机构", "Reviewer"), about.reviewer),
        (("机构", "Site"), about.site),
        (("数据集摘要", "Dataset digest"), about.dataset),
        (("使用依据摘要", "Digest of the rights statement"), about.rights),
        (("病例", "Cases"), str(found.cases)),
        (("其中被拒绝", "Refused among them"), str(found.refused)),
        (("其中失败", "Failed among them"), str(found.failed)),
        (("其中未定", "Left open among them"), str(found.undecided)),
        (("日志条目", "Log entries"), f"{found.first} - {found.last}"),
        (("计算代码摘要", "Digest of the code"), about.code),
    )
    return Table((), tuple((pick(words, language), value) for words, value in named))


def _bounds(
    found: Acceptance, about: About, unmet: Sequence[Mapping[str, JsonValue]], language: Language
) -> list[Block]:
    if not about.bounds:
        return [Paragraph(pick(("无。", "None."), language))]
    by_name = {(row.metric, row.subgroup): row for row in found.rows}
    rows = []
    for bound in about.bounds:
        subgroup = None if bound["subgroup"] is None else str(bound["subgroup"])
        row = by_name.get((str(bound["metric"]), subgroup))
        wanted = [f">= {bound['at_least']}"] if bound.get("at_least") is not None else []
        wanted += [f"<= {bound['at_most']}"] if bound.get("at_most") is not None else []
        cells = (
            pick(METRICS.get(str(bound["metric"]), (str(bound["metric"]),) * 2), language),
            subgroup or pick(_ALL, language),
            f"{bound['n']}",
            " ".join(wanted),
            str(row.n) if row is not None else "0",
            _interval(row, language),
            pick(_NOT_MET if bound in unmet else _MET, language),
        )
        rows.append(cells)
    head: tuple[Words, ...] = (
        ("指标", "Metric"),
        ("亚组", "Subgroup"),
        ("最少例数", "Cases wanted"),
        ("区间端点须", "End of the interval"),
        ("例数", "Cases"),
        ("区间", "Interval"),
        ("结论", "Outcome"),
    )
    return [Table(tuple(pick(words, language) for words in head), tuple(rows), frozenset({2, 4}))]


def _interval(row: Row | None, language: Language) -> str:
    if row is None or row.value is None:
        return pick(_TOO_FEW, language)
    # Without an end there is nothing that a bound could be held against: all cases gave the same figure.
    return pick(("无变异", "no spread"), language) if row.low is None else f"{row.low} - {row.high}"


def _rows(rows: Sequence[Row], language: Language) -> Table:
    head: tuple[Words, ...] = (
        ("指标", "Metric"),
        ("亚组", "Subgroup"),
        ("例数", "Cases"),
        ("数值", "Value"),
        ("下限", "Low"),
        ("上限", "High"),
    )
    cells = tuple(
        (
            pick(METRICS[row.metric], language),
            row.subgroup or pick(_ALL, language),
            str(row.n),
            row.value or pick(_TOO_FEW, language),
            row.low or "-",
            row.high or "-",
        )
        for row in rows
    )
    return Table(tuple(pick(words, language) for words in head), cells, frozenset({2, 3, 4, 5}))


def _pictures(found: Acceptance, about: About, language: Language) -> list[Picture]:
    made = []
    for metric in dict.fromkeys(row.metric for row in found.rows):
        rows = [row for row in found.rows if row.metric == metric]
        if not any(row.value is not None for row in rows):
            continue
        limits = [
            str(bound[key])
            for bound in about.bounds
            if (bound["metric"], bound["subgroup"]) == (metric, None)
            for key in ("at_least", "at_most")
            if bound.get(key) is not None
        ]
        title = pick(("：数值与 95 % 区间", ": value and 95 % interval"), language)
        made.append(charts.intervals(pick(METRICS[metric], language) + title, rows, limits, pick(_ALL, language)))
    if found.bins:
        words = pick(("校准图", "Calibration"), language)
        axes = pick(("平均分数", "mean score"), language), pick(("阳性比例", "share of findings"), language)
        made.append(charts.reliability(words, found.bins, *axes))
    return made


def _ends(found: Acceptance, language: Language) -> list[Block]:
    ends: list[Block] = []
    kind, code = pick(("类别", "Kind"), language), pick(("代码", "Code"), language)
    rows = [(pick(("失败", "failed"), language), code, "", str(n)) for code, n in found.failures]
    rows += [(pick(("拒绝", "refused"), language), code, why, str(n)) for code, why, n in found.refusals]
    if rows:
        head = (kind, code, pick(("条件", "Condition"), language), pick(("例数", "Cases"), language))
        ends.append(Table(head, tuple(rows), frozenset({3})))
    else:
        ends.append(Paragraph(pick(("无。", "None."), language)))
    if found.unbacked:
        words = (
            f"{found.unbacked} 个 CASE 条目没有相应的调用，未计入。",
            f"{found.unbacked} CASE entries have no call behind them and were not counted.",
        )
        ends.append(Paragraph(pick(words, language), strong=True))
    return ends
