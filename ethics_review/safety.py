"""What a period of a model's use came to, counted from the log alone: the figures of a periodic safety report.

Calls are those that were asked for in service; the calls of a labelled set (they have a CASE) are counted apart, since
they say nothing about patients. Readers are never counted one by one. What happened too few times to mean anything
says so instead of giving a share. Pure.
"""

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from decimal import Decimal
from fractions import Fraction
from typing import Final

from audit.entry import JsonValue, parse_time
from ethics_review.facts import Decision, Logged
from ethics_review.metrics import N_MIN, TAIL
from ethics_review.sequential import normal_quantile, percentile, text, wilson

PERCENTILES: Final = {50: N_MIN, 95: 100, 99: 500}
"""Which percentiles of a time are told, and from how many results on: five of them then lie beyond."""
DRIFT: Final = ("INPUT_DRIFT", "OUTPUT_DRIFT")
OVERDUE: Final = ("DECISION_OVERDUE", "DECISIONS_MISSING")

Counts = tuple[tuple[tuple[str, ...], int], ...]
"""How often each combination of codes occurred, in the order of the codes."""


@dataclass(frozen=True, slots=True)
class Share:
    """`events` of `n`; without a value there were fewer than 30. low, high: Wilson's 95 % interval."""

    events: int
    n: int
    value: str | None
    low: str | None
    high: str | None

    @classmethod
    def of(cls, events: int, n: int) -> "Share":
        """The share."""
        if n < N_MIN:
            return cls(events, n, None, None, None)
        low, high = wilson(events, n, normal_quantile(TAIL))
        return cls(events, n, text(Fraction(events, n)), text(max(low, Decimal(0))), text(min(high, Decimal(1))))


@dataclass(frozen=True, slots=True)
class Figures:
    """A model's period. Every Counts is sorted.

    Attributes:
        first, last: the first and the last entry of the period, of whatever kind; -1 without any.
        calls, results, released: in service. cases: calls of labelled sets, which are in none of the others.
        refused: (code, condition). unassigned: refusals before a model was chosen, of the whole site, (code).
        failed: (stage, code). failures: of the calls that got a result or failed.
        decisions: (decision). reasons: (reason). disagreement: MODIFY and REJECT that were said, or not said not to
            be, significant, of all decisions but NOT_USED.
        due, undecided, late: results whose time for a decision ended in the period; of them without one, or too late.
        evaluations: (metric, outcome). drift, overdue: those of them that alerted, (metric).
        states: (event, reason) of the dossier. switches: STOP and RESUME of site or service (kind, level, reason).
        incidents: (event, category, severity). golden: (occasion, outcome).
        latency_ms: by percentile, of `total` in CALL_RESULT; None for too few. timed: how many results that is of.
    """

    first: int
    last: int
    calls: int
    cases: int
    results: int
    released: int
    refused: Counts
    unassigned: Counts
    failed: Counts
    failures: Share
    decisions: Counts
    reasons: Counts
    disagreement: Share
    due: int
    undecided: int
    late: int
    evaluations: Counts
    drift: Counts
    overdue: Counts
    states: Counts
    switches: Counts
    incidents: Counts
    golden: Counts
    timed: int
    latency_ms: tuple[tuple[int, int | None], ...]


def figures(
    entries: Iterable[Logged], model: str, begin: datetime, end: datetime, *, decision_h: int, cases: frozenset[str]
) -> Figures:
    """Count the entries of a log for one model.

    Args:
        entries: from the log's first entry on, in order; those after the period are passed over.
        model: its digest. begin, end: aware; begin <= time < end.
        decision_h: hours within which a result is to be decided on.
        cases: calls of labelled sets (`cases_of`); they may be told as such only later in the log.
    """
    count = _Count(model, begin, end, timedelta(hours=decision_h), cases)
    for entry in entries:
        count.add(entry)
    return count.figures()


def cases_of(entries: Iterable[Logged]) -> frozenset[str]:
    """The calls that were of labelled sets."""
    return frozenset(entry.call for entry in entries if str(entry.kind) == "CASE" and entry.call is not None)


class _Count:
    def __init__(self, model: str, begin: datetime, end: datetime, patience: timedelta, cases: frozenset[str]) -> None:
        self._model, self._begin, self._end = model, begin, end
        self._patience, self._cases = patience, cases
        self._mine: set[str] = set()
        self._released: dict[str, datetime] = {}
        self._decided: dict[str, datetime] = {}
        self._first = self._last = -1
        self._counts: dict[str, Counter[tuple[str, ...]]] = {}
        self._plain: Counter[str] = Counter()
        self._times: list[int] = []
        self._failed: set[str] = set()
        self._ended: set[str] = set()
        self._disagreed = self._judged = 0

    def add(self, entry: Logged) -> None:
        """One entry; what came before the period tells whose calls are still going on."""
        time = parse_time(entry.time)
        if time >= self._end:
            return
        kind, within = str(entry.kind), time >= self._begin
        if within:
            self._first = entry.index if self._first < 0 else self._first
            self._last = entry.index
        if kind == "CALL_INTENT" and self._ours(entry.body["model"]):
            self._called(entry, within)
        elif entry.call in self._mine and entry.call not in self._cases:
            self._of_call(kind, entry, time, within)
        elif within and entry.call not in self._mine:
            self._beside(kind, entry)

    def figures(self) -> Figures:
        due = {call for call, time in self._released.items() if self._begin <= time + self._patience < self._end}
        undecided = {call for call in due if call not in self._decided}
        late = {call for call in due - undecided if self._decided[call] > self._released[call] + self._patience}
        return Figures(
            first=self._first,
            last=self._last,
            calls=self._plain["calls"],
            cases=self._plain["cases"],
            results=self._plain["results"],
            released=self._plain["released"],
            refused=self._of("refused"),
            unassigned=self._of("unassigned"),
            failed=self._of("failed"),
            # Of calls, not of entries: a result that could not be delivered is a failure, and one call all the same.
            failures=Share.of(len(self._failed), len(self._failed | self._ended)),
            decisions=self._of("decisions"),
            reasons=self._of("reasons"),
            disagreement=Share.of(self._disagreed, self._judged),
            due=len(due),
            undecided=len(undecided),
            late=len(late),
            evaluations=self._of("evaluations"),
            drift=self._alerts(DRIFT),
            overdue=self._alerts(OVERDUE),
            states=self._of("states"),
            switches=self._of("switches"),
            incidents=self._of("incidents"),
            golden=self._of("golden"),
            timed=len(self._times),
            latency_ms=tuple(
                (percent, percentile(self._times, percent) if len(self._times) >= fewest else None)
                for percent, fewest in PERCENTILES.items()
            ),
        )

    def _ours(self, model: JsonValue) -> bool:
        return isinstance(model, Mapping) and model["digest"] == self._model

    def _called(self, entry: Logged, within: bool) -> None:  # noqa: FBT001
        # A second intent of a call that was cut off is no second call.
        new = entry.call not in self._mine
        self._mine.add(str(entry.call))
        if within and new:
            self._plain["cases" if entry.call in self._cases else "calls"] += 1

    def _of_call(self, kind: str, entry: Logged, time: datetime, within: bool) -> None:  # noqa: FBT001
        call, body = str(entry.call), entry.body
        if kind == "RELEASED":
            self._released.setdefault(call, time)
            self._plain["released"] += within
        elif kind == "HUMAN_DECISION":
            self._decided.setdefault(call, time)
            if within:
                self._decision(body)
        elif kind == "CALL_RESULT" and within:
            self._plain["results"] += 1
            self._ended.add(call)
            timing = body["timing_ms"]
            total = timing.get("total") if isinstance(timing, Mapping) else None
            self._times += [total] if isinstance(total, int) else []
        elif kind == "FAILED" and within:
            self._failed.add(call)
            self._tick("failed", body["stage"], body["code"])
        elif kind == "DENIED" and within:
            self._tick("refused", body["code"], body["condition"] or "")

    def _decision(self, body: Mapping[str, JsonValue]) -> None:
        said = str(body["decision"])
        self._tick("decisions", said)
        reasons = body["reasons"]
        for reason in reasons if isinstance(reasons, (list, tuple)) else ():
            self._tick("reasons", reason)
        if said != Decision.NOT_USED:
            self._judged += 1
            # What nobody said is not taken for harmless; so the monitor counts as well.
            self._disagreed += said in {Decision.MODIFY, Decision.REJECT} and body["significant"] != "NO"

    def _beside(self, kind: str, entry: Logged) -> None:
        """What is of no call that the model was given: refusals, and what people, monitor and golden cases say."""
        body = entry.body
        if kind == "DENIED" and entry.call not in self._cases:
            if body["model"] is None:
                self._tick("unassigned", body["code"])
            elif self._ours(body["model"]):
                self._tick("refused", body["code"], body["condition"] or "")
        elif kind in {"STOP", "RESUME"}:
            self._tick("switches", kind, body["level"], body["reason"])
        elif kind == "INCIDENT" and (body["model"] is None or self._ours(body["model"])):
            self._tick("incidents", body["event"], body["category"], body["severity"])
        elif not self._ours(body.get("model")):
            return
        elif kind == "EVALUATION":
            self._tick("evaluations", body["metric"], body["outcome"])
        elif kind == "STATE_CHANGE":
            self._tick("states", body["event"], body["reason"])
        elif kind == "GOLDEN":
            self._tick("golden", body["occasion"], body["outcome"])

    def _tick(self, what: str, *codes: JsonValue) -> None:
        self._counts.setdefault(what, Counter())[tuple(str(code) for code in codes)] += 1

    def _of(self, what: str) -> Counts:
        return tuple(sorted(self._counts.get(what, Counter()).items()))

    def _alerts(self, metrics: tuple[str, ...]) -> Counts:
        found = Counter[tuple[str, ...]]()
        for (metric, outcome), n in self._counts.get("evaluations", Counter()).items():
            if metric in metrics and outcome not in {"OK", "TOO_FEW"}:
                found[(metric,)] += n
        return tuple(sorted(found.items()))
