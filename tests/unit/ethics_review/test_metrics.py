"""The metrics, against cases done by hand, published examples and SciPy."""

import random
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from audit.schema import CODE, DECIMAL, INTEGER, OBSERVED, Listing, Maybe, Record
from ethics_review.errors import RequestInvalid
from ethics_review.metrics import (
    MILLION,
    N_MIN,
    Case,
    Row,
    acceleration,
    auc,
    bootstrap,
    brier,
    dice_of,
    ece,
    fewest,
    mean,
    reliability,
    rows,
    unmet,
    volume_error_of,
)

RESULTS = Listing(
    Record(
        {
            "metric": CODE,
            "subgroup": Maybe(OBSERVED),
            "n": INTEGER,
            "value": Maybe(DECIMAL),
            "low": Maybe(DECIMAL),
            "high": Maybe(DECIMAL),
        }
    )
)
SPATIAL = [48, 36, 20, 29, 42, 42, 20, 42, 22, 41, 45, 14, 6, 0, 33, 28, 34, 4, 32, 24, 47, 41, 24, 26, 30, 41]
"""Test A of 26 children: Efron and Tibshirani 1993, table 14.1."""


def finding(
    truth: bool, positive: bool | None, score: str | None = None, *, sex: str = "F", failed: bool = False
) -> Case:
    """A case of a model that finds something or not."""
    exact = Fraction(score) if score is not None else None
    return Case(truth, positive, exact, classes=(("SEX", sex),), failed=failed)


def measured(seed: int, n: int) -> list[Case]:
    """Cases with everything, of two sexes, thick and thin slices."""
    rng, cases = random.Random(seed), []
    for number in range(n):
        truth = rng.random() < 0.4
        score = Fraction(round(min(1.0, max(0.0, rng.gauss(0.65 if truth else 0.35, 0.2))) * 1000), 1000)
        classes = (
            ("SEX", "FM"[number % 2]),
            ("AGE_YEARS", "60-64"),
            ("SLICE_SPACING_MM", ("0.8", "5.0")[number % 3 == 0]),
        )
        error = Fraction(round(rng.gauss(0, 80)), 1000)
        overlap = Fraction(round(800 + 150 * rng.random()), 1000)
        cases.append(Case(truth, score > Fraction(1, 2), score, overlap, error, classes))
    return cases


def named(found: tuple[Row, ...], metric: str, subgroup: str | None = None) -> Row:
    """The one row of that name."""
    [row] = [row for row in found if (row.metric, row.subgroup) == (metric, subgroup)]
    return row


def ones(values: list[int]) -> list[list[tuple[int, ...]]]:
    """One sample of whole numbers."""
    return [[(value * MILLION,) for value in values]]


def test_by_hand() -> None:
    """Four right of five with a finding, three of four without; a failure counts as wrong in its kind."""
    cases = [finding(truth=True, positive=True)] * 4 + [finding(truth=True, positive=None, failed=True)]
    cases += [finding(truth=False, positive=False)] * 3 + [finding(truth=False, positive=True)]
    found = rows(cases, seed="s", n_min=1)
    assert [(row.metric, row.n, row.value) for row in found if row.subgroup is None] == [
        ("SENSITIVITY", 5, "0.800000"),
        ("SPECIFICITY", 4, "0.750000"),
        ("FAILURES", 9, "0.111111"),
    ]


def test_what_is_left_open_is_wrong_whatever_the_truth() -> None:
    """It counts among the cases of its kind, and its score among the scores: nothing is better for leaving it out."""
    open_present = Case(True, None, Fraction(1, 2), undecided=True)
    open_absent = Case(False, None, Fraction(1, 2), undecided=True)
    told = [finding(truth=True, positive=True, score="0.9"), finding(truth=False, positive=False, score="0.1")]
    found = rows([*told * 3, open_present, open_absent], seed="s", n_min=1)
    assert (named(found, "SENSITIVITY").n, named(found, "SENSITIVITY").value) == (4, "0.750000")
    assert (named(found, "SPECIFICITY").n, named(found, "SPECIFICITY").value) == (4, "0.750000")
    assert (named(found, "AUC").n, named(found, "BRIER").n, named(found, "FAILURES").value) == (8, 8, "0.000000")
    assert named(found, "BRIER").value == f"{(6 * 0.01 + 2 * 0.25) / 8:.6f}"


@pytest.mark.parametrize("more", [{"positive": True}, {"positive": False}, {"failed": True}])
def test_nothing_is_left_open_and_answered(more: dict[str, bool]) -> None:
    """One of the three: answered, failed, left open."""
    with pytest.raises(RequestInvalid):
        Case(truth=True, undecided=True, **more)  # type: ignore[arg-type]


@given(st.lists(st.tuples(st.booleans(), st.sampled_from([True, False, None])), min_size=1, max_size=40))
def test_leaving_a_case_open_never_helps(cases: list[tuple[bool, bool | None]]) -> None:
    """Were it answered right instead, no share would be lower, and none has fewer cases."""
    as_said = rows([Case(t, p, undecided=p is None) for t, p in cases], seed="s", n_min=1)
    answered = rows([Case(t, t if p is None else p) for t, p in cases], seed="s", n_min=1)
    for one, other in zip(as_said, answered, strict=True):
        assert (one.metric, one.n) == (other.metric, other.n)
        assert float(one.value or 0) <= float(other.value or 0) or one.metric == "FAILURES"


def test_wilson_is_published() -> None:
    """81 of 263 has the interval 0.2553 to 0.3662 (Newcombe 1998, Statistics in Medicine 17:857, method 3)."""
    cases = [finding(truth=True, positive=number < 81) for number in range(263)]
    row = named(rows(cases, seed="s"), "SENSITIVITY")
    assert (round(float(row.low or 0), 4), round(float(row.high or 0), 4)) == (0.2553, 0.3662)


def test_all_right_is_not_certain() -> None:
    """50 right of 50 leave room for 93 %: a bootstrap would have said 100 %."""
    row = named(rows([finding(truth=True, positive=True)] * 50, seed="s"), "SENSITIVITY")
    assert (row.value, row.low, row.high) == ("1.000000", "0.928652", "1.000000")


def test_auc_published() -> None:
    """Hanley and McNeil 1982: 109 CT images rated 1 to 5 give an area of 0.893."""
    normal, abnormal = (33, 6, 6, 11, 2), (3, 2, 2, 11, 33)
    samples = [[(rating,) for rating, n in enumerate(counts) for _ in range(n)] for counts in (abnormal, normal)]
    assert round(float(auc(samples)), 3) == 0.893


_SCORES = st.lists(st.integers(0, 8), min_size=1, max_size=30)


@given(_SCORES, _SCORES)
def test_auc_with_ties(one: list[int], other: list[int]) -> None:
    """The area is the share of pairs in the right order, ties half, and Mann and Whitney's U as SciPy has it."""
    found = auc([[(score,) for score in one], [(score,) for score in other]])
    pairs = [Fraction(1 + (a > b) - (a < b), 2) for a in one for b in other]
    assert found == sum(pairs, Fraction(0)) / len(pairs)
    assert float(found) == pytest.approx(stats.mannwhitneyu(one, other).statistic / (len(one) * len(other)))


def test_calibration_by_hand() -> None:
    """Scores 0.9, 0.9, 0.2, 1.0 for true, false, false, true."""
    pairs = [("0.9", True), ("0.9", False), ("0.2", False), ("1", True)]
    samples = [[(int(Fraction(score) * MILLION), int(truth)) for score, truth in pairs]]
    assert brier(samples) == Fraction(1 + 81 + 4 + 0, 400)
    # Class 9 holds 0.9, 0.9 and 1.0 with two true: |2.8 - 2|; class 2 holds 0.2 with none true.
    assert ece(samples) == (Fraction(8, 10) + Fraction(2, 10)) / 4
    table = reliability([finding(truth=truth, positive=None, score=score) for score, truth in pairs])
    assert [(one.b, one.n, one.score, one.share) for one in table] == [
        (2, 1, "0.200000", "0.000000"),
        (9, 3, "0.933333", "0.666667"),
    ]


@given(st.lists(st.tuples(st.integers(0, 1000), st.booleans()), min_size=1, max_size=60))
def test_calibration_is_numpys(pairs: list[tuple[int, bool]]) -> None:
    """Brier's score and the calibration error are what NumPy makes of their definitions."""
    samples = [[(score * 1000, int(truth)) for score, truth in pairs]]
    scores, truths = np.array([p[0] / 1000 for p in pairs]), np.array([p[1] for p in pairs], dtype=float)
    assert float(brier(samples)) == pytest.approx(float(np.mean((scores - truths) ** 2)))
    classes = np.minimum(np.array([p[0] for p in pairs]) // 100, 9)
    apart = sum(
        np.mean(classes == b) * abs(scores[classes == b].mean() - truths[classes == b].mean())
        for b in range(10)
        if (classes == b).any()
    )
    assert float(ece(samples)) == pytest.approx(float(apart))


def test_masks_by_hand() -> None:
    """Dice from voxel counts, and the error of a volume."""
    assert dice_of(3, 4, 5) == Fraction(6, 9)
    assert dice_of(0, 0, 0) == 1
    assert dice_of(0, 3, 0) == 0
    assert volume_error_of(Fraction(90), Fraction(100)) == Fraction(-1, 10)
    assert volume_error_of(Fraction(1), Fraction(0)) is None
    cases = [Case(volume_error=Fraction(sign, 10)) for sign in (-1, 1)]
    assert named(rows(cases, seed="s", n_min=2), "VOLUME_ERROR").value == "0.100000"


def test_acceleration_published() -> None:
    """For the variance of Efron and Tibshirani's 26 children the acceleration is 0.061."""

    def variance(samples: object) -> Fraction:
        values = [item[0] for item in samples[0]]  # type: ignore[index]
        middle = Fraction(sum(values), len(values))
        return sum(((value - middle) ** 2 for value in values), Fraction(0)) / len(values)

    sample = [[(value,) for value in SPATIAL]]
    assert round(float(variance(sample)), 1) == 171.5
    assert round(acceleration(sample, variance), 3) == 0.061


@pytest.mark.slow
@pytest.mark.parametrize("corrected", [True, False])
def test_bootstrap_is_scipys(corrected: bool) -> None:
    """On a skewed sample the interval is SciPy's, BCa and percentile, within the bootstrap's own scatter."""
    values = [round(1000 * x) for x in np.random.default_rng(1).exponential(1.0, 60)]
    ours = bootstrap(ones(values), mean, "seed", draws=8_000, corrected=corrected)
    theirs = stats.bootstrap(
        (np.array(values),),
        np.mean,
        n_resamples=20_000,
        method="BCa" if corrected else "percentile",
        rng=np.random.default_rng(2),
    ).confidence_interval
    width = theirs.high - theirs.low
    assert ours is not None
    assert float(ours[0]) == pytest.approx(theirs.low, abs=0.03 * width)
    assert float(ours[1]) == pytest.approx(theirs.high, abs=0.03 * width)


@pytest.mark.slow
def test_bootstrap_of_an_area_is_scipys() -> None:
    """So is that of an area under a curve, whose two samples are drawn apart."""
    cases = measured(3, 160)
    pair = [[(int((c.score or 0) * MILLION),) for c in cases if c.truth is kind] for kind in (True, False)]
    ours = bootstrap(pair, auc, "seed", draws=4_000)

    def area(one: object, other: object) -> float:
        compared = np.subtract.outer(np.asarray(one), np.asarray(other))
        return float(np.mean((compared > 0) + 0.5 * (compared == 0)))

    arrays = tuple(np.array([item[0] for item in sample]) for sample in pair)
    theirs = stats.bootstrap(
        arrays, area, vectorized=False, n_resamples=4_000, method="BCa", rng=np.random.default_rng(2)
    ).confidence_interval
    assert ours is not None
    assert float(ours[0]) == pytest.approx(theirs.low, abs=0.06 * (theirs.high - theirs.low))
    assert float(ours[1]) == pytest.approx(theirs.high, abs=0.06 * (theirs.high - theirs.low))


@pytest.mark.slow
def test_interval_covers() -> None:
    """In 300 skewed samples of 40, the 95 % interval of the mean holds the truth in 90 % or more."""
    rng, held = np.random.default_rng(4), 0
    for number in range(300):
        values = [round(1000 * x) for x in rng.exponential(1.0, 40)]
        interval = bootstrap(ones(values), mean, str(number), draws=500)
        held += interval is not None and interval[0] <= 1000 <= interval[1]
    assert 0.90 <= held / 300 <= 0.985


@pytest.mark.slow
def test_same_rows_for_ever() -> None:
    """The same cases and seed give these very figures, on any machine; another seed moves the intervals only."""
    cases = measured(5, 80)
    found = rows(cases, seed="sha256:0")
    assert found == rows(list(cases), seed="sha256:0")
    other = rows(cases, seed="sha256:1")
    assert [row.value for row in other] == [row.value for row in found]
    assert other != found
    row = named(found, "AUC")
    assert (row.n, row.value, row.low, row.high) == PINNED


PINNED = (80, "0.892903", "0.804348", "0.948849")


@pytest.mark.slow
def test_subgroups() -> None:
    """Each class of each condition has its rows, every metric the same cases, and all of it can be logged."""
    found = rows(measured(6, 240), seed="s")
    RESULTS.check([row.body() for row in found], "results")
    groups = {row.subgroup for row in found}
    assert groups == {None, "SEX:F", "SEX:M", "AGE_YEARS:60-79", "SLICE_SPACING_MM:to 1", "SLICE_SPACING_MM:to 5"}
    assert len(found) == len(groups) * 8
    for metric in ("DICE", "SENSITIVITY", "BRIER"):
        assert named(found, metric).n == sum(named(found, metric, f"SEX:{sex}").n for sex in "FM")
    for row in found:
        assert row.value is not None or row.insufficient
        if row.low is not None and row.value is not None and row.high is not None:
            assert float(row.low) <= float(row.value) <= float(row.high)


def test_too_few() -> None:
    """Below 30 cases, for an area 30 of each kind, there is n and no value; what does not vary has no interval."""
    cases = [finding(truth=number < 29, positive=True, score="0.5") for number in range(59)]
    found = rows(cases, seed="s")
    assert named(found, "SENSITIVITY").body() == {
        "metric": "SENSITIVITY",
        "subgroup": None,
        "n": 29,
        "value": None,
        "low": None,
        "high": None,
    }
    assert named(found, "AUC").insufficient
    assert not named(found, "SPECIFICITY").insufficient
    same = [Case(dice=Fraction(9, 10))] * 40
    assert named(rows(same, seed="s"), "DICE").body() | {"metric": None} == {
        "metric": None,
        "subgroup": None,
        "n": 40,
        "value": "0.900000",
        "low": None,
        "high": None,
    }


@pytest.mark.parametrize(
    ("bound", "met"),
    [
        ({"metric": "SENSITIVITY", "subgroup": None, "at_least": "0.80", "n": 100}, True),
        ({"metric": "SENSITIVITY", "subgroup": None, "at_least": "0.80", "at_most": None, "n": 100}, True),
        ({"metric": "SENSITIVITY", "subgroup": None, "at_least": "0.81", "n": 100}, False),
        ({"metric": "SENSITIVITY", "subgroup": None, "at_least": "0.80", "n": 101}, False),
        ({"metric": "SENSITIVITY", "subgroup": "SEX:F", "at_least": "0.10", "n": 1}, False),
        ({"metric": "FAILURES", "subgroup": None, "at_most": "0.20", "n": 50}, True),
        ({"metric": "FAILURES", "subgroup": None, "at_most": "0.05", "n": 50}, False),
        ({"metric": "SENSITIVITY", "subgroup": None, "n": 50}, False),
        ({"metric": "DICE", "subgroup": None, "at_least": "0.1", "n": 1}, False),
        ({"metric": "AUC", "subgroup": None, "at_least": "0.1", "n": 1}, False),
    ],
    ids=str,
)
def test_bounds(bound: dict[str, object], met: bool) -> None:
    """What counts is the end of the interval; missing, insufficient or bare rows and empty bounds meet nothing."""
    found = (
        Row("SENSITIVITY", None, 100, "0.900000", "0.800000", "0.950000"),
        Row("SENSITIVITY", "SEX:F", 10, None, None, None),
        Row("FAILURES", None, 100, "0.010000", "0.000000", "0.200000"),
        Row("DICE", None, 100, "0.900000", None, None),
    )
    assert (unmet([bound], found) == ()) is met  # type: ignore[list-item]


def test_no_such_case() -> None:
    """A share beyond 0 to 1, or an answer of a case that failed, is refused."""
    for bad in (
        lambda: Case(score=Fraction(3, 2)),
        lambda: Case(dice=Fraction(-1, 2)),
        lambda: Case(positive=True, failed=True),
        lambda: Case(score=Fraction(1, 2), failed=True),
    ):
        with pytest.raises(RequestInvalid):
            bad()


def test_only_a_signed_bound_lets_fewer_cases_speak() -> None:
    """Thirty, or as few as some bound of the approval asks for; a bound of more changes nothing."""
    assert fewest(()) == N_MIN
    assert fewest([{"n": 200}]) == N_MIN
    assert fewest([{"n": 200}, {"n": 5}, {"n": 12}]) == 5
    cases = [Case(truth=True, positive=True)] * 5
    assert all(row.insufficient for row in rows(cases, seed="a"))
    assert not any(row.insufficient for row in rows(cases, seed="a", n_min=fewest([{"n": 5}])))
