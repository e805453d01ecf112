"""The arithmetic of the sequential tests: whole numbers and decimals only, so that anybody repeats it to the digit.

CUSUM here is Page's, in its log-likelihood form (Steiner et al. 2000): after each call the level moves by the natural
logarithm of "how much likelier is this under p1 than under p0", never falls below 0, and signals when it reaches h.
Levels, steps and h are in whole millionths of a nat: the same rounding everywhere, and too fine to matter. Pure.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from decimal import ROUND_HALF_EVEN, Context, Decimal, InvalidOperation, localcontext
from fractions import Fraction
from functools import lru_cache
from typing import Final

from ethics_review.errors import RequestInvalid

EXACT: Final = Context(prec=40, rounding=ROUND_HALF_EVEN)
"""Every decimal is made in this context: what the caller's thread has set does not count."""
PLACES: Final = Decimal("0.000001")
MILLION: Final = 1_000_000

_QUANTILE_STEPS: Final = 60
"""Halvings of [0, 12]: 12 / 2**60 is far below the last place that is kept."""


def text(value: Decimal | Fraction | int) -> str:
    """The value as entries hold it: six decimals, half to even, never minus zero."""
    with localcontext(EXACT):
        exact = Decimal(value.numerator) / Decimal(value.denominator) if isinstance(value, Fraction) else Decimal(value)
        return str(exact.quantize(PLACES) + 0)


def decimal(written: str) -> Decimal:
    """A finite decimal from its text. Raises RequestInvalid."""
    try:
        value = Decimal(written)
    except InvalidOperation:
        raise RequestInvalid("not a decimal") from None
    if not value.is_finite():
        raise RequestInvalid("not a finite decimal")
    return value


@dataclass(frozen=True, slots=True)
class Design:
    """A Bernoulli CUSUM. Made by `design`.

    Attributes:
        p0, p1: share of events that is accepted, and that is to be detected; 0 < p0 < p1 < 1.
        up, down: steps after an event and after none, in millionths of a nat. limit: h, in millionths of a nat.
    """

    p0: Decimal
    p1: Decimal
    up: int
    down: int
    limit: int

    def step(self, level: int, *, event: bool) -> int:
        """The level after one more call."""
        return max(0, level + self.up if event else level - self.down)


def design(p0: str, p1: str, h: str) -> Design:
    """The CUSUM with these figures. Raises RequestInvalid unless 0 < p0 < p1 < 1 and h > 0."""
    low, high, nats = decimal(p0), decimal(p1), decimal(h)
    if not 0 < low < high < 1 or nats <= 0:
        raise RequestInvalid("a CUSUM wants 0 < p0 < p1 < 1 and h > 0")
    with localcontext(EXACT):
        up = ((high / low).ln() * MILLION).to_integral_value()
        down = (((1 - low) / (1 - high)).ln() * MILLION).to_integral_value()
        limit = (nats * MILLION).to_integral_value()
    return Design(low, high, int(up), int(down), int(limit))


def allowed(limit: Decimal, size: int) -> int:
    """How many events a full window of `size` may hold without exceeding the share `limit`."""
    return int(limit * size)


def percentile(values: Sequence[int], percent: int) -> int:
    """The nearest-rank percentile: the smallest value that at least `percent` in 100 do not exceed."""
    ordered = sorted(values)
    return ordered[max(0, -(-len(ordered) * percent // 100) - 1)]


@lru_cache(maxsize=4096)
def normal_quantile(tail: Fraction) -> Decimal:
    """z such that a standard normal exceeds it with probability `tail` (0 < tail <= 1/2), to six decimals."""
    if not 0 < tail <= Fraction(1, 2):
        raise RequestInvalid("a tail of more than 0 and at most 1/2 wanted")
    with localcontext(EXACT):
        low, high = Decimal(0), Decimal(12)
        wanted = Decimal(tail.numerator) / Decimal(tail.denominator)
        for _ in range(_QUANTILE_STEPS):
            middle = (low + high) / 2
            if _upper_tail(middle) > wanted:
                low = middle
            else:
                high = middle
        return high.quantize(PLACES)


def _upper_tail(z: Decimal) -> Decimal:
    # 1/2 - phi(z) (z + z^3/3 + z^5/(3*5) + ...): all terms are positive, so nothing cancels until the last step.
    if z > 10:
        return Decimal(0)
    term = total = z
    k = 1
    while term > total * Decimal("1e-38"):
        k += 2
        term = term * z * z / k
        total += term
    return Decimal("0.5") - total * (-(z * z) / 2).exp() / _ROOT_TWO_PI


with localcontext(EXACT):
    _ROOT_TWO_PI: Final = (2 * Decimal("3.141592653589793238462643383279502884197")).sqrt()


def wilson(events: int, n: int, z: Decimal) -> tuple[Decimal, Decimal]:
    """Wilson's score interval of a share; n > 0."""
    with localcontext(EXACT):
        share = Decimal(events) / n
        square = z * z
        middle = share + square / (2 * n)
        half = z * (share * (1 - share) / n + square / (4 * n * n)).sqrt()
        return (middle - half) / (1 + square / n), (middle + half) / (1 + square / n)


def gap_at_least(one: tuple[int, int], other: tuple[int, int], tail: Fraction) -> Decimal:
    """Lower bound of (share of `one` minus share of `other`), exceeded by chance with probability `tail`.

    Each is (events, n). Newcombe's hybrid score interval (1998, method 10): it holds at small shares, where the
    textbook interval does not.
    """
    z = normal_quantile(tail)
    with localcontext(EXACT):
        p, q = Decimal(one[0]) / one[1], Decimal(other[0]) / other[1]
        below = p - wilson(*one, z)[0]
        above = wilson(*other, z)[1] - q
        return p - q - (below * below + above * above).sqrt()
