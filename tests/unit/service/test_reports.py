"""Reports: exactly the entry's numbers, the same bytes each time, in two languages, from nowhere else."""

import re
import subprocess
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import pytest

from audit.entry import JsonValue
from ethics_review.acceptance import Acceptance, rows_said
from ethics_review.metrics import Bin, Row
from models.ref import ModelRef
from service.reports import charts, files, page, pdf
from service.reports.acceptance import METRICS, About, describe
from service.reports.document import LANGUAGES, Document, Dot, Heading, Language, Line, Paragraph, Table
from tests.simulators.audit_log import DIGEST, MODEL
from tests.simulators.told_log import APPROVAL, DATASET, found_in, labelled_run

REVIEWER = "Test Review Centre 测试审查中心"
DICE = {"metric": "DICE", "subgroup": None, "n": 30, "at_least": "0.50", "at_most": None}
NEVER = {"metric": "DICE", "subgroup": "SEX:O", "n": 30, "at_least": "0.80", "at_most": None}


@pytest.fixture(scope="module")
def found() -> Acceptance:
    """A run with scores, failures and refusals."""
    return found_in(labelled_run(cases=64, scored=True))


def about(*bounds: dict[str, JsonValue]) -> About:
    """What the reports are about."""
    ref = ModelRef(str(MODEL["name"]), str(MODEL["version"]), str(MODEL["digest"]))
    return About(ref, APPROVAL, REVIEWER, DATASET, "sha256:" + "5" * 64, "test-site", bounds, DIGEST)


class Cells(HTMLParser):
    """The tables of a page, and whatever it would load or run."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tables: list[list[list[str]]] = []
        self.tags: set[str] = set()
        self.addresses: list[str] = []
        self._cell: list[str] | None = None
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        """A table, a row or a cell begins."""
        self.tags.add(tag)
        self.addresses += [value or "" for name, value in attrs if name in {"src", "href", "xlink:href", "action"}]
        if tag == "table":
            self.tables.append([])
        elif tag == "tr":
            self.tables[-1].append([])
        elif tag in {"td", "th"}:
            self._cell = []

    def handle_data(self, data: str) -> None:
        """Text of a cell."""
        if self._cell is not None:
            self._cell.append(data)

    def handle_endtag(self, tag: str) -> None:
        """A cell ends."""
        if tag in {"td", "th"} and self._cell is not None:
            self.tables[-1][-1].append("".join(self._cell))
            self._cell = None


def rows_in(text: str, language: Language) -> list[tuple[str, str, str, str, str, str]]:
    """The rows of results of a page."""
    names = {words[LANGUAGES.index(language)] for words in METRICS.values()}
    tables = [table for table in Cells(text).tables if len(table[0]) == 6]
    assert len(tables) == 2
    return [tuple(row) for table in tables for row in table[1:] if row[0] in names]  # type: ignore[misc]


@pytest.mark.parametrize("language", LANGUAGES)
def test_exactly_the_entry_s_numbers(found: Acceptance, language: Language) -> None:
    """The page's results are the rows of the ACCEPTANCE entry, all of them, no other, digit by digit."""
    log = labelled_run(cases=64, scored=True)
    said = rows_said(log.acceptance(found).body)
    few, everybody = {"zh": ("病例过少", "全部"), "en": ("too few cases", "all")}[language]
    wanted = [
        (
            METRICS[row.metric][LANGUAGES.index(language)],
            row.subgroup or everybody,
            str(row.n),
            row.value or few,
            row.low or "-",
            row.high or "-",
        )
        for row in sorted(said, key=lambda row: row.subgroup is not None)
    ]
    assert rows_in(page.write(describe(found, about(DICE), language)).decode(), language) == wanted


@pytest.mark.parametrize("language", LANGUAGES)
def test_stands_alone(found: Acceptance, language: Language) -> None:
    """No script, no address, nothing to load; its style and pictures are inside, and it prints on A4."""
    text = page.write(describe(found, about(DICE), language)).decode()
    read = Cells(text)
    assert not read.tags & {"script", "link", "img", "iframe", "object", "embed", "form", "base"}
    assert {"style", "svg"} <= read.tags
    assert read.addresses == []
    assert not re.search(r"https?://|url\(|@import|on[a-z]+=", text)
    assert "size: A4" in text


def test_pictures(found: Acceptance) -> None:
    """One picture for each metric with values, and the reliability diagram; the same drawing in both languages."""
    pictures = {
        language: [block for kind, block in describe(found, about(), language).kinds if kind == "Picture"]
        for language in LANGUAGES
    }
    metrics = {row.metric for row in found.rows if row.value is not None}
    assert len(pictures["zh"]) == len(pictures["en"]) == len(metrics) + 1


def verdict(found: Acceptance, *bounds: dict[str, JsonValue]) -> str:
    """The first sentence of the report."""
    first = describe(found, about(*bounds), "en").blocks[0]
    assert isinstance(first, Paragraph)
    assert first.strong
    return first.text


def test_verdict(found: Acceptance) -> None:
    """What is met, what is not, and that nothing was asked."""
    assert verdict(found, DICE) == "Bounds that are met: 1 of 1."
    assert verdict(found, DICE, NEVER).startswith("Bounds that are NOT met: 1 of 2")
    assert verdict(found) == "The approval names no bounds: there is nothing to meet."
    [table] = [
        block
        for block in describe(found, about(DICE, NEVER), "en").blocks
        if isinstance(block, Table) and len(block.head) == 7
    ]
    assert [(row[1], row[-1]) for row in table.rows] == [("all", "met"), ("SEX:O", "NOT met")]
    assert table.rows[1][4:6] == ("0", "too few cases")


def test_what_ended_otherwise(found: Acceptance) -> None:
    """Failures and refusals by code; cases without a call are shouted about."""
    text = page.write(describe(found, about(), "en")).decode()
    assert "ENGINE_DIED" in text
    assert "CONDITION_NOT_MET" in text
    assert "have no call behind them" not in text
    assert (
        "3 CASE entries have no call behind them"
        in page.write(describe(replace(found, unbacked=3), about(), "en")).decode()
    )


def test_hostile_words() -> None:
    """Whatever stands in a name is text."""
    document = Document("en", "<script>", (Paragraph("<b>&"), Table(("<i>",), (("<u>",),)), Heading("<a href=x>")))
    text = page.write(document).decode()
    assert not Cells(text).tags & {"script", "b", "i", "u", "a"}
    assert pdf.write(document).startswith(b"%PDF")


def text_of(data: bytes, folder: Path) -> str:
    """What poppler reads out of a PDF."""
    path = folder / "report.pdf"
    path.write_bytes(data)
    done = subprocess.run(["pdftotext", "-layout", str(path), "-"], capture_output=True, check=True)
    assert not done.stderr
    return done.stdout.decode()


@pytest.mark.parametrize("language", LANGUAGES)
def test_pdf_reads_back(found: Acceptance, tmp_path: Path, language: Language) -> None:
    """Another program reads the same out of the PDF: Chinese as Chinese, and every value of the rows."""
    text = text_of(pdf.write(describe(found, about(DICE), language)), tmp_path)
    assert {"zh": "本地验收报告", "en": "Local acceptance report"}[language] in text
    assert "测试审查中心" in text
    values = [figure for row in found.rows for figure in (row.value, row.low, row.high) if figure is not None]
    assert values
    assert all(value in text for value in values)


def test_pdf_is_on_a4(found: Acceptance, tmp_path: Path) -> None:
    """Every page."""
    (tmp_path / "r.pdf").write_bytes(pdf.write(describe(found, about(), "zh")))
    done = subprocess.run(["pdfinfo", str(tmp_path / "r.pdf")], capture_output=True, text=True, check=True)
    assert "(A4)" in done.stdout
    assert re.search(r"Pages: +[2-9]", done.stdout)


def test_same_bytes(found: Acceptance, tmp_path: Path) -> None:
    """The same acceptance gives the same files on any day; SHA256SUMS is of them, as its own program says."""
    one, other = (files.make("acceptance", lambda language: describe(found, about(DICE), language)) for _ in range(2))
    assert dict(one.files) == dict(other.files)
    assert one.digest == other.digest
    assert [path.name for path in files.put(one, tmp_path / "new" / "folder")] == [
        "SHA256SUMS",
        *(f"acceptance.{language}.{kind}" for language in ("en", "zh") for kind in ("html", "pdf")),
    ]
    folder = tmp_path / "new" / "folder"
    subprocess.run(["sha256sum", "--check", "--strict", "SHA256SUMS"], cwd=folder, check=True, capture_output=True)
    said = subprocess.run(["sha256sum", "SHA256SUMS"], cwd=folder, check=True, capture_output=True, text=True).stdout
    assert f"sha256:{said.split()[0]}" == one.digest
    changed = files.make("acceptance", lambda language: describe(replace(found, cases=65), about(DICE), language))
    assert changed.digest != one.digest


def row(low: str | None, value: str | None, high: str | None, subgroup: str | None = None) -> Row:
    """A row of the chart."""
    return Row("DICE", subgroup, 40, value, low, high)


def test_intervals_are_where_they_should_be() -> None:
    """On a scale of 0 to 1 a value of one half lies in the middle; a row without a value is not drawn."""
    rows = [row("0.250000", "0.500000", "1.000000"), row(None, None, None, "SEX:F"), row(None, "0.5", None, "SEX:M")]
    drawn = charts.intervals("t", rows, ["0.75"], "all")
    middle = (charts.LEFT + charts.RIGHT) / 2
    assert [dot.x for dot in drawn.dots] == [middle, middle]
    [spread] = [line for line in drawn.lines if line.weight == 1.4]
    assert (spread.x, spread.x2) == (charts.LEFT + (charts.RIGHT - charts.LEFT) / 4, charts.RIGHT)
    [limit] = [line for line in drawn.lines if line.dashed]
    assert limit.x == charts.LEFT + (charts.RIGHT - charts.LEFT) * 0.75
    assert [label.text for label in drawn.labels if label.anchor == "end"] == ["all (n 40)", "SEX:M (n 40)"]


@pytest.mark.parametrize(
    ("high", "end"), [("0.04", "0.05"), ("0.15", "0.20"), ("0.30", "1.00"), ("1.7", "2.00"), ("40", "40.00")]
)
def test_scale(high: str, end: str) -> None:
    """Small errors are not drawn as a dot in the corner, and large ones not outside of the picture."""
    drawn = charts.intervals("t", [row("0", high, high)], [], "all")
    assert [label.text for label in drawn.labels if label.anchor == "middle"][-1] == end
    assert all(charts.LEFT <= shape.x <= charts.RIGHT for shape in drawn.shapes if isinstance(shape, Dot | Line))


def test_reliability_is_a_diagonal() -> None:
    """A calibrated model lies on the grey line."""
    drawn = charts.reliability("t", [Bin(2, 40, "0.250000", "0.250000"), Bin(7, 40, "0.750000", "0.750000")], "x", "y")
    [grey] = [line for line in drawn.lines if line.dashed]
    for dot in drawn.dots:
        share = (dot.x - grey.x) / (grey.x2 - grey.x)
        assert dot.y == pytest.approx(grey.y + share * (grey.y2 - grey.y))
