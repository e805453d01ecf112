"""Months of civil time: over the end of a year, and what is no month."""

from datetime import UTC, datetime, timedelta

import pytest

from ethics_review.periods import months_of


@pytest.mark.parametrize(
    ("period", "months", "begin", "end"),
    [
        ("2026-01", 1, (2026, 1), (2026, 2)),
        ("2026-12", 1, (2026, 12), (2027, 1)),
        ("2026-07", 6, (2026, 7), (2027, 1)),
        ("2026-11", 24, (2026, 11), (2028, 11)),
    ],
)
def test_months_begin_at_midnight_in_china(
    period: str, months: int, begin: tuple[int, int], end: tuple[int, int]
) -> None:
    """The first instant, and the first that is no more of them: eight hours before UTC's."""
    wanted = tuple(datetime(*one, 1, tzinfo=UTC) - timedelta(hours=8) for one in (begin, end))
    assert months_of(period, months) == wanted


@pytest.mark.parametrize(
    "period", ["", "2026", "2026-00", "2026-13", "2026-1", "0000-01", "9990-01", "2026-01-01", "x"]
)
def test_what_is_no_month_is_refused(period: str) -> None:
    """Of our time, and in one form alone."""
    with pytest.raises(ValueError, match="YYYY-MM"):
        months_of(period, 1)


@pytest.mark.parametrize("months", [-1, 12 * 7964 + 1, 2**53 - 1])
def test_so_many_months_are_none(months: int) -> None:
    """What an entry may hold, a date cannot."""
    with pytest.raises(ValueError, match="months of our time"):
        months_of("2026-01", months)
