"""Drift of what goes in and comes out, by the population stability index (PSI). It can alert, and nothing more.

A window is compared with the epoch's first calls only when it is full: with 10 classes and nothing wrong, PSI exceeds
0.1 in nearly every window of 30 and in none of 500. Decimals, so that anybody repeats it to the digit. Pure.
"""

from collections.abc import Mapping, Sequence
from decimal import Decimal, localcontext
from typing import Final

from ethics_review.sequential import EXACT

WINDOW: Final = 500
REFERENCE: Final = 1000
"""Twice the window, so that the reference's own chance adds little."""
LIMIT: Final = Decimal("0.25")
BINS: Final = 10
FLOOR: Final = Decimal("0.0001")
"""Share that stands for an empty class, whose logarithm would have no end."""


def psi(reference: Mapping[str, int], window: Mapping[str, int]) -> Decimal:
    """PSI of two tables of counts; a class that only one of them has counts too. Both hold at least one call."""
    with localcontext(EXACT):
        before, after = Decimal(sum(reference.values())), Decimal(sum(window.values()))
        total = Decimal(0)
        for name in sorted({*reference, *window}):
            old = max(reference.get(name, 0) / before, FLOOR)
            new = max(window.get(name, 0) / after, FLOOR)
            total += (new - old) * (new / old).ln()
        return total


def cuts(values: Sequence[Decimal]) -> tuple[Decimal, ...]:
    """The cut points of ten classes that hold about as many of `values` each; fewer where values repeat."""
    ordered = sorted(values)
    return tuple(sorted({ordered[len(ordered) * k // BINS] for k in range(1, BINS)}))


def class_of(value: Decimal, points: Sequence[Decimal]) -> str:
    """The class of a value between the cut points, as "0" to "9"."""
    return str(sum(1 for point in points if value >= point))
