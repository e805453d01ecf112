"""The pictures of a report: intervals by subgroup, and the reliability diagram. Lines and words only. Pure."""

from collections.abc import Sequence
from decimal import Decimal
from typing import Final

from ethics_review.metrics import Bin, Row
from service.reports.document import Dot, Label, Line, Picture

WIDTH: Final = 480.0
"""Points: the width of A4 between the report's margins."""
LEFT: Final = 150.0
RIGHT: Final = 450.0
ROW: Final = 15.0
TOP: Final = 14.0
SQUARE: Final = 200.0
TICKS: Final = 5
GREY: Final = "#999999"
RED: Final = "#a61c00"


def intervals(title: str, rows: Sequence[Row], limits: Sequence[str], everybody: str) -> Picture:
    """Value and interval of each row that has them, one below the other; `limits`: bounds, as dashed lines.

    `everybody`: the name of the row of no subgroup. The scale goes from 0 to 1, or as far as the rows do.
    """
    shown = [row for row in rows if row.value is not None]
    top = _scale([row.high or row.value or "0" for row in shown] + list(limits))
    bottom = TOP + ROW * len(shown)
    shapes: list[Line | Dot | Label] = []
    for tick in range(TICKS + 1):
        x = _x(Decimal(tick) / TICKS)
        shapes += [
            Line(x, TOP - 6, x, bottom, 0.4, "#cccccc"),
            Label(x, bottom + 12, f"{top * tick / TICKS:.2f}", "middle"),
        ]
    for limit in limits:
        x = _x(Decimal(limit) / top)
        shapes.append(Line(x, TOP - 6, x, bottom, 1.0, RED, dashed=True))
    for place, row in enumerate(shown):
        y = TOP + ROW * place + ROW / 2
        shapes.append(Label(LEFT - 8, y + 3, f"{row.subgroup or everybody} (n {row.n})", "end"))
        if row.low is not None and row.high is not None:
            low, high = _x(Decimal(row.low) / top), _x(Decimal(row.high) / top)
            shapes += [Line(low, y, high, y, 1.4), Line(low, y - 3, low, y + 3), Line(high, y - 3, high, y + 3)]
        shapes.append(Dot(_x(Decimal(row.value or "0") / top), y))
    return Picture(title, WIDTH, bottom + 18, tuple(shapes))


def reliability(title: str, bins: Sequence[Bin], score: str, share: str) -> Picture:
    """Share of findings against mean score; on the grey line they would be the same. `score`, `share`: axes' names."""
    left, top = 60.0, 10.0
    shapes: list[Line | Dot | Label] = [Line(left, top + SQUARE, left + SQUARE, top, 0.8, GREY, dashed=True)]
    for tick in range(TICKS + 1):
        at = SQUARE * tick / TICKS
        shapes += [
            Line(left + at, top, left + at, top + SQUARE, 0.4, "#cccccc"),
            Line(left, top + at, left + SQUARE, top + at, 0.4, "#cccccc"),
            Label(left + at, top + SQUARE + 12, f"{tick / TICKS:.1f}", "middle"),
            Label(left - 5, top + SQUARE - at + 3, f"{tick / TICKS:.1f}", "end"),
        ]
    shapes.append(Label(left + SQUARE / 2, top + SQUARE + 26, score, "middle"))
    shapes.append(Label(left + SQUARE + 10, top + 10, share))
    for one in bins:
        x = round(left + SQUARE * float(one.score), 2)
        y = round(top + SQUARE * (1 - float(one.share)), 2)
        shapes += [Dot(x, y), Label(x + 5, y - 4, f"n {one.n}")]
    return Picture(title, WIDTH, top + SQUARE + 32, tuple(shapes))


def _scale(highest: Sequence[str]) -> Decimal:
    """The right end: 1, or a little more than the largest where that is beyond 1 or far below."""
    most = max((Decimal(one) for one in highest), default=Decimal(1))
    if Decimal("0.2") < most <= 1:
        return Decimal(1)
    return next((end for end in map(Decimal, ("0.05", "0.1", "0.2", "1", "2", "5", "10")) if most <= end), most)


def _x(share: Decimal) -> float:
    """Where a share of the scale lies, within the picture and to a hundredth of a point: the same on every machine."""
    within = min(Decimal(1), max(Decimal(0), share))
    return round(LEFT + (RIGHT - LEFT) * float(within), 2)
