"""China's civil time: days, in which approvals are valid, and months, of which safety reports are made. Pure."""

import re
from datetime import datetime, timedelta, timezone
from typing import Final

CIVIL_TIME: Final = timezone(timedelta(hours=8), "UTC+8")
"""One zone, and no summer time since 1991."""
_PERIOD: Final = re.compile(r"([0-9]{4})-(0[1-9]|1[0-2])")
_YEAR_MAX: Final = 9990
"""Some way before the last year that a datetime knows."""


def months_of(period: str, months: int) -> tuple[datetime, datetime]:
    """The first instant of the month YYYY-MM and that after so many months. Raises ValueError for no such month."""
    found = _PERIOD.fullmatch(period)
    if found is None or not 0 < int(found[1]) < _YEAR_MAX:
        raise ValueError("a first month YYYY-MM of our time wanted")
    first = int(found[1]) * 12 + int(found[2]) - 1
    if not 0 <= months <= 12 * (_YEAR_MAX - int(found[1])):
        raise ValueError("months of our time wanted")
    begin, end = (datetime(month // 12, month % 12 + 1, 1, tzinfo=CIVIL_TIME) for month in (first, first + months))
    return begin, end
