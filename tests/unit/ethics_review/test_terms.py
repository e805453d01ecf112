"""What an approval says of the time after it: thresholds that can be monitored, bounds that can be looked at."""

from dataclasses import replace
from typing import Any

import pytest

from ethics_review.dossier import draft_approval
from ethics_review.errors import ApprovalInvalid
from ethics_review.evaluation import Plan
from ethics_review.metrics import METRIC_NAMES, Row, unmet
from tests.simulators.reviewer import MODEL, TERMS, Reviewer, fields

REVIEWER = Reviewer()
MONITOR = TERMS["monitor"]
BOUND = {"metric": "AUC", "subgroup": None, "n": 30, "at_least": "0.8", "at_most": None}


def refused_at(**changes: Any) -> str:
    """The key at which such an approval is refused."""
    with pytest.raises(ApprovalInvalid) as caught:
        draft_approval(fields(**changes))
    return caught.value.where


@pytest.mark.parametrize(
    "change",
    [
        {"disagree_p0": "0.12"}, {"disagree_p0": "0"}, {"disagree_p1": "1"}, {"disagree_p1": "0.05"}, {"cusum_h": "0"},
        {"missed_p0": "0.05"}, {"failure_rate": "1"}, {"failure_rate": "2e-2"}, {"failure_rate": "-0.1"},
        {"failure_rate": 0.02}, {"failure_rate": " 0.02"}, {"failure_rate": "NaN"}, {"failure_rate": "0.0200000"},
        {"subgroup_gap": "0"}, {"subgroup_gap": "1"}, {"subgroup_gap": ".1"}, {"p95_ms": 0}, {"p95_ms": "120000"},
        {"p95_ms": True}, {"p95_ms": 86_400_001}, {"human_decision_h": 0}, {"human_decision_h": 8_761},
        {"human_decision_h": "24"}, {"false_positive_p0": "0.01"}, {"false_positive_p1": "0.01"},
        {"false_positive_p0": "0.2", "false_positive_p1": "0.1"},
    ],
)  # fmt: skip
def test_thresholds_of_which_no_plan_can_be_made_are_refused(change: dict[str, Any]) -> None:
    """What is loaded can be monitored: every threshold is one that the monitor takes, written in one way."""
    assert refused_at(monitor=MONITOR | change).startswith("monitor")


def test_the_monitor_can_be_made_of_what_is_loaded() -> None:
    """The thresholds of an approval are the plan's, those left out too; nobody changes them."""
    slim = {key: value for key, value in MONITOR.items() if not key.startswith("missed")}
    for monitor, on_breach in ((MONITOR, "RESTRICT"), (slim, "SUSPEND")):
        approval = REVIEWER.approve(monitor=monitor, on_breach=on_breach)
        plan = Plan.of(MODEL, approval.monitor, approval.on_breach)
        assert approval.monitor == monitor
        assert (plan.missed is None) is (monitor is slim)
        assert plan.restrict_first is (on_breach == "RESTRICT")
        with pytest.raises(TypeError):
            approval.monitor["p95_ms"] = 1  # type: ignore[index]


@pytest.mark.parametrize(
    "bounds",
    [
        [], [BOUND, BOUND], [BOUND, BOUND | {"n": 31}], {}, [None], [BOUND | {"metric": "ACCURACY"}],
        [BOUND | {"metric": "auc"}], [BOUND | {"n": 0}], [BOUND | {"n": 100_000}], [BOUND | {"n": "30"}],
        [BOUND | {"at_least": None}], [BOUND | {"at_least": 0.8}], [BOUND | {"at_least": "0.80000000"}],
        [BOUND | {"at_least": "+0.8"}], [BOUND | {"at_most": "0.7"}], [BOUND | {"subgroup": "SEX"}],
        [BOUND | {"subgroup": "SEX:"}], [BOUND | {"subgroup": ":F"}], [BOUND | {"subgroup": "sex:F"}],
        [BOUND | {"subgroup": "NAME:F"}], [BOUND | {"subgroup": "SITE:330702"}], [BOUND | {"subgroup": ""}],
    ],
)  # fmt: skip
def test_a_bound_that_cannot_be_looked_at_is_refused(bounds: Any) -> None:
    """Each bound of the acceptance names a known metric, enough cases and a decimal; there is at least one."""
    assert refused_at(acceptance=bounds).startswith("acceptance")


@pytest.mark.parametrize("metric", METRIC_NAMES)
def test_every_metric_of_the_acceptance_can_be_bounded(metric: str) -> None:
    """There is no metric that a reviewer cannot ask for."""
    assert draft_approval(fields(acceptance=[BOUND | {"metric": metric}]))


def test_bounds_are_what_the_acceptance_takes() -> None:
    """A loaded bound is met or not by rows as the acceptance makes them; nobody changes it."""
    bounds = [BOUND, BOUND | {"subgroup": "AGE_YEARS:60-79", "at_least": "-0.1", "at_most": "0.1"}]
    loaded = REVIEWER.approve(acceptance=bounds).acceptance
    good = Row("AUC", None, 30, "0.90", "0.80", "0.95")
    assert unmet(loaded, [good]) == loaded[1:]
    assert unmet(loaded, [replace(good, low="0.79")]) == loaded
    with pytest.raises(TypeError):
        loaded[0]["n"] = 1  # type: ignore[index]
