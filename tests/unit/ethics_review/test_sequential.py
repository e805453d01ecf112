"""The arithmetic of the sequential tests, against tables and libraries that we did not write."""

from decimal import Decimal, getcontext, localcontext
from fractions import Fraction
from statistics import NormalDist

import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from ethics_review.errors import RequestInvalid
from ethics_review.sequential import (
    allowed,
    decimal,
    design,
    gap_at_least,
    normal_quantile,
    percentile,
    text,
    wilson,
)


def test_steps_by_hand() -> None:
    """From 6 % to 12 %: ln 2 up, ln(0.94/0.88) down, in millionths of a nat; never below 0."""
    chart = design("0.06", "0.12", "6")
    assert (chart.up, chart.down, chart.limit) == (693147, 65958, 6_000_000)
    assert chart.step(0, event=False) == 0
    assert chart.step(65_957, event=False) == 0
    assert chart.step(65_959, event=False) == 1
    assert chart.step(7, event=True) == 693_154


@pytest.mark.parametrize(
    "figures", [("0.12", "0.06", "6"), ("0", "0.1", "6"), ("0.1", "1", "6"), ("0.1", "0.1", "6"), ("0.1", "0.2", "0")]
)
def test_no_such_chart(figures: tuple[str, str, str]) -> None:
    """A chart that could not work is refused."""
    with pytest.raises(RequestInvalid):
        design(*figures)


@pytest.mark.parametrize("written", ["", "x", "NaN", "Infinity", "-Infinity", "1e", "1,5"])
def test_no_decimal(written: str) -> None:
    """What is no finite decimal is refused."""
    with pytest.raises(RequestInvalid):
        decimal(written)


@given(st.fractions(min_value=Fraction(1, 10**9), max_value=Fraction(1, 2), max_denominator=10**9))
def test_quantiles(tail: Fraction) -> None:
    """The normal quantile agrees with the standard library's and with SciPy's."""
    ours = float(normal_quantile(tail))
    assert ours == pytest.approx(-NormalDist().inv_cdf(float(tail)), abs=2e-6)
    assert ours == pytest.approx(float(stats.norm.isf(float(tail))), abs=2e-6)


def test_no_quantile() -> None:
    """A tail of nothing, or of more than half, is refused."""
    for tail in (Fraction(0), Fraction(3, 5)):
        with pytest.raises(RequestInvalid):
            normal_quantile(tail)


@given(st.integers(1, 500).flatmap(lambda n: st.tuples(st.integers(0, n), st.just(n))))
def test_wilson(counted: tuple[int, int]) -> None:
    """Wilson's interval is SciPy's."""
    low, high = wilson(*counted, normal_quantile(Fraction(25, 1000)))
    theirs = stats.binomtest(*counted).proportion_ci(0.95, method="wilson")
    assert float(low) == pytest.approx(theirs.low, abs=1e-6)
    assert float(high) == pytest.approx(theirs.high, abs=1e-6)


@pytest.mark.parametrize(
    ("one", "other", "lower"),
    [
        ((56, 70), (48, 80), "0.0524"),
        ((9, 10), (3, 10), "0.1705"),
        ((6, 7), (2, 7), "0.0582"),
        ((5, 56), (0, 29), "-0.0381"),
        ((0, 10), (0, 20), "-0.1611"),
        ((0, 10), (0, 10), "-0.2775"),
        ((10, 10), (0, 20), "0.6791"),
        ((10, 10), (0, 10), "0.6075"),
    ],
)
def test_newcombe(one: tuple[int, int], other: tuple[int, int], lower: str) -> None:
    """The lower bound is that of the eight examples of Newcombe 1998 (Statistics in Medicine 17:873, method 10)."""
    assert gap_at_least(one, other, Fraction(25, 1000)).quantize(Decimal("0.0001")) == Decimal(lower)


@given(st.lists(st.integers(0, 10**6), min_size=1, max_size=200), st.integers(1, 100))
def test_percentile(values: list[int], percent: int) -> None:
    """Nearest rank: enough values are not above it, and with the next smaller value they would not be enough."""
    found = percentile(values, percent)
    assert found in values
    assert sum(value <= found for value in values) * 100 >= percent * len(values)
    assert sum(value < found for value in values) * 100 < percent * len(values)


def test_allowed() -> None:
    """2 % of 200 is 4, exactly, which binary fractions would not promise."""
    assert allowed(Decimal("0.02"), 200) == 4
    assert allowed(Decimal("0.29"), 100) == 29
    assert allowed(Decimal("0.019"), 200) == 3


def test_texts() -> None:
    """Six decimals, half to even, no minus zero."""
    assert text(Fraction(1, 3)) == "0.333333"
    assert text(Decimal("-0.0000001")) == "0.000000"
    assert text(Fraction(1, 2_000_000)) == "0.000000"
    assert text(Fraction(3, 2_000_000)) == "0.000002"
    assert text(120_000) == "120000.000000"


def test_no_matter_who_calls() -> None:
    """A caller's own decimal settings change no digit."""
    fine = [text(gap_at_least((17, 100), (23, 400), Fraction(1, 97))), text(normal_quantile(Fraction(1, 4001)))]
    chart = design("0.031", "0.077", "5.5")
    normal_quantile.cache_clear()
    with localcontext() as rough:
        rough.prec = 5
        assert getcontext().prec == 5
        again = [text(gap_at_least((17, 100), (23, 400), Fraction(1, 97))), text(normal_quantile(Fraction(1, 4001)))]
        assert again == fine
        assert design("0.031", "0.077", "5.5") == chart
