"""A document as a PDF for A4, by ReportLab: the same document gives the same bytes, on any day.

Chinese is set in STSong-Light, one of the fonts that every PDF reader knows by name (its Asian font pack, or the
machine's own Chinese font in its place); it is not inside the file. See docs/decisions/0001.
"""

import io
import re
from typing import Any, Final, Literal
from xml.sax.saxutils import escape

from reportlab import platypus
from reportlab.lib import colors
from reportlab.lib.pagesizes import A4
from reportlab.lib.styles import ParagraphStyle
from reportlab.lib.units import mm
from reportlab.pdfbase import pdfmetrics
from reportlab.pdfbase.cidfonts import UnicodeCIDFont
from reportlab.pdfgen.canvas import Canvas

from service.reports.document import Block, Document, Heading, Paragraph, Picture, Table

LATIN: Final = "Helvetica"
CHINESE: Final = "STSong-Light"
MARGIN: Final = 16 * mm
WIDTH: Final = A4[0] - 2 * MARGIN
SIZE: Final = 9.5
LABEL_SIZE: Final = 8
LATIN_MAX: Final = 0xFF
"""The last character that the Latin font has."""
_RUN: Final = re.compile("[\\x00-\\xff]+|[^\\x00-\\xff]+")
NUMBER_SHARE: Final = 0.6
"""How wide a column of numbers is beside one of words."""

Align = Literal["left", "right"]


def write(document: Document) -> bytes:
    """The PDF. Its dates are ReportLab's fixed ones, and its identifier is made of its content."""
    if CHINESE not in pdfmetrics.getRegisteredFontNames():
        pdfmetrics.registerFont(UnicodeCIDFont(CHINESE))
    file = io.BytesIO()
    made = platypus.SimpleDocTemplate(
        file,
        pagesize=A4,
        leftMargin=MARGIN,
        rightMargin=MARGIN,
        topMargin=MARGIN,
        bottomMargin=MARGIN,
        title=document.title,
        author="Zhiying",
        lang="zh-CN" if document.language == "zh" else "en",
        invariant=1,
    )
    story = [_text(document.title, size=16, after=8)]
    for block in document.blocks:
        story += _flowables(block)
    made.build(story, onFirstPage=_number, onLaterPages=_number)
    return file.getvalue()


def _flowables(block: Block) -> list[Any]:
    if isinstance(block, Heading):
        return [_text(block.text, size=12, before=10, after=3, keep=True)]
    if isinstance(block, Paragraph):
        return [_text(block.text, before=6 if block.strong else 0, after=8 if block.strong else 3, boxed=block.strong)]
    if isinstance(block, Table):
        return [_table(block), platypus.Spacer(1, 4)] if block.rows else []
    return [platypus.KeepTogether([_text(block.title, before=4, after=2, keep=True), _Drawn(block)])]


def _runs(text: str) -> list[tuple[str, str]]:
    """(font, words): numbers and Latin words are never set in a font that a reader may have to look for."""
    return [(CHINESE if ord(run[0]) > LATIN_MAX else LATIN, run) for run in _RUN.findall(text)]


def _text(
    text: str,
    *,
    size: float = SIZE,
    before: float = 0,
    after: float = 0,
    align: Align = "left",
    keep: bool = False,
    boxed: bool = False,
) -> Any:
    runs = _runs(text)
    chinese = any(font == CHINESE for font, _ in runs)
    style = ParagraphStyle(
        "text",
        fontName=LATIN,
        fontSize=size,
        leading=size * 1.4,
        spaceBefore=before,
        spaceAfter=after,
        alignment=2 if align == "right" else 0,
        keepWithNext=keep,
        # Chinese breaks anywhere, and so must a digest that stands beside it.
        wordWrap="CJK" if chinese else None,
        splitLongWords=True,
        **({"borderWidth": 1, "borderColor": colors.black, "borderPadding": 4} if boxed else {}),
    )
    marked = "".join(f'<font name="{font}">{escape(run)}</font>' for font, run in runs)
    return platypus.Paragraph(marked, style)


def _table(block: Table) -> Any:
    rows = ([block.head] if block.head else []) + list(block.rows)
    columns = len(rows[0])
    shares = [NUMBER_SHARE if column in block.numbers else 1.0 for column in range(columns)]
    if not block.head:
        shares = [0.5, *([1.0] * (columns - 1))]
    cells = [
        [_text(cell, size=8.5, align="right" if at in block.numbers else "left") for at, cell in enumerate(row)]
        for row in rows
    ]
    style = [
        ("GRID", (0, 0), (-1, -1), 0.4, colors.HexColor("#bbbbbb")),
        ("VALIGN", (0, 0), (-1, -1), "TOP"),
        ("TOPPADDING", (0, 0), (-1, -1), 2),
        ("BOTTOMPADDING", (0, 0), (-1, -1), 2),
        ("BACKGROUND", (0, 0), (-1, 0) if block.head else (0, -1), colors.HexColor("#eeeeee")),
    ]
    widths = [WIDTH * share / sum(shares) for share in shares]
    return platypus.Table(cells, widths, style=style, repeatRows=1 if block.head else 0)


class _Drawn(platypus.Flowable):  # type: ignore[misc]
    """A picture, with its own axes: y grows downwards."""

    def __init__(self, picture: Picture) -> None:
        super().__init__()
        self._picture = picture
        self.width, self.height = picture.width, picture.height

    def draw(self) -> None:
        """Called by ReportLab, with the origin at the lower left corner."""
        canvas, height = self.canv, self.height
        for line in self._picture.lines:
            canvas.setStrokeColor(colors.HexColor(line.colour))
            canvas.setLineWidth(line.weight)
            canvas.setDash([4, 3] if line.dashed else [])
            canvas.line(line.x, height - line.y, line.x2, height - line.y2)
        for dot in self._picture.dots:
            canvas.setFillColor(colors.HexColor(dot.colour))
            canvas.circle(dot.x, height - dot.y, dot.radius, stroke=0, fill=1)
        canvas.setFillColor(colors.black)
        for label in self._picture.labels:
            runs = _runs(label.text)
            wide = sum(pdfmetrics.stringWidth(run, font, LABEL_SIZE) for font, run in runs)
            x = label.x - {"start": 0.0, "middle": 0.5, "end": 1.0}[label.anchor] * wide
            for font, run in runs:
                canvas.setFont(font, LABEL_SIZE)
                canvas.drawString(x, height - label.y, run)
                x += pdfmetrics.stringWidth(run, font, LABEL_SIZE)


def _number(canvas: Canvas, _made: object) -> None:
    """The page's number at its foot."""
    canvas.setFont(LATIN, 8)
    canvas.drawCentredString(A4[0] / 2, MARGIN / 2, str(canvas.getPageNumber()))
