"""What an approval says of the time after it: the monitor's thresholds, bounds of the local acceptance. Strict, pure.

All figures are decimals as text, since signed texts and audit entries hold no floating-point numbers.
"""

import re
from collections.abc import Mapping
from decimal import Decimal
from types import MappingProxyType
from typing import Final

from audit.entry import JsonValue
from ethics_review.errors import RequestInvalid
from ethics_review.evaluation import Plan
from ethics_review.metrics import METRIC_NAMES
from ethics_review.vocabulary import Condition, token
from models.ref import ModelRef
from models.strict import Fields, Malformed

BREACHES: Final = ("RESTRICT", "SUSPEND")
CASES_MAX: Final = 99_999
"""Of a local acceptance: nobody labels more, and the audit log takes no six digits on end."""
P95_MS_MAX: Final = 24 * 3600 * 1000
DECISION_H_MAX: Final = 24 * 365

_FIGURES: Final = ("disagree_p0", "disagree_p1", "cusum_h", "failure_rate", "subgroup_gap")
_PAIRS: Final = (("missed_p0", "missed_p1"), ("false_positive_p0", "false_positive_p1"))
_FIGURE: Final = re.compile(r"(?:0|[1-9][0-9]{0,2})(?:\.[0-9]{1,6})?")
_SIGNED: Final = re.compile(r"-?(?:0|[1-9][0-9]{0,2})(?:\.[0-9]{1,6})?")


def monitor(top: Fields, model: ModelRef, on_breach: str) -> Mapping[str, JsonValue]:
    """The thresholds, read-only, of which `evaluation.Plan` can be made. Raises Malformed."""
    inner = top.fields(
        "monitor", (*_FIGURES, "p95_ms", "human_decision_h"), tuple(key for pair in _PAIRS for key in pair)
    )
    # A chart wants both its shares; which of a pair is missing is said as for any other key.
    pairs = [key for pair in _PAIRS if any(inner.has(key) for key in pair) for key in pair]
    found: dict[str, JsonValue] = {}
    for key in (*_FIGURES, *pairs):
        if not inner.has(key):
            raise Malformed(inner.path(key), "key missing")
        found[key] = _figure(inner.value(key), inner.path(key), _FIGURE)
    found["p95_ms"] = inner.integer("p95_ms", 1, P95_MS_MAX)
    found["human_decision_h"] = inner.integer("human_decision_h", 1, DECISION_H_MAX)
    try:
        Plan.of(model, found, on_breach)
    except RequestInvalid as wrong:
        raise Malformed("monitor", str(wrong)) from None
    return MappingProxyType(found)


def acceptance(top: Fields) -> tuple[Mapping[str, JsonValue], ...]:
    """The bounds that a local acceptance must show, at least one, read-only. Raises Malformed."""
    found = top.items("acceptance", _bound)
    if len({(bound["metric"], bound["subgroup"]) for bound in found}) != len(found):
        raise Malformed("acceptance", "two bounds for one metric and subgroup")
    return found


def _bound(value: object, path: str) -> Mapping[str, JsonValue]:
    inner = Fields(value, path, ("metric", "subgroup", "n", "at_least", "at_most"))
    least, most = (_limit(inner, key) for key in ("at_least", "at_most"))
    if least is None and most is None:
        raise Malformed(inner.path("at_least"), "a decimal here or in at_most wanted: this bounds nothing")
    if least is not None and most is not None and Decimal(least) > Decimal(most):
        raise Malformed(inner.path("at_most"), "not less than at_least wanted")
    return MappingProxyType(
        {
            "metric": inner.choice("metric", METRIC_NAMES),
            "subgroup": _subgroup(inner),
            "n": inner.integer("n", 1, CASES_MAX),
            "at_least": least,
            "at_most": most,
        }
    )


def _limit(inner: Fields, key: str) -> str | None:
    return None if inner.value(key) is None else _figure(inner.value(key), inner.path(key), _SIGNED)


def _subgroup(inner: Fields) -> str | None:
    if inner.value("subgroup") is None:
        return None
    text = inner.text("subgroup", longest=64)
    condition, colon, seen = text.partition(":")
    if condition not in Condition.__members__ or not colon or not seen or token(text) != text:
        raise Malformed(inner.path("subgroup"), 'a group as the monitor names it wanted, such as "AGE_YEARS:60-79"')
    return text


def _figure(value: object, path: str, form: re.Pattern[str]) -> str:
    if not isinstance(value, str) or not form.fullmatch(value):
        raise Malformed(path, 'a decimal as text wanted, such as "0.06", six decimals at most')
    return value
