"""The monitor of one model: facts of the log in, evaluations out. It can warn, restrict and suspend; nothing else.

It speaks at once when a metric becomes worse than it has been that civil day, and at the end of each day about all. An
evaluation names the entries from which it was made: `recompute` over those alone gives the same, to the digit. Pure.
"""

import json
from collections import OrderedDict
from collections.abc import Iterable, Iterator, Mapping
from decimal import ROUND_CEILING, Decimal, localcontext
from fractions import Fraction
from typing import Final

from audit.entry import JsonValue
from ethics_review.charts import NOTHING, Chart, Cusum, Drift, Due, Latency, Share
from ethics_review.comparing import Comparisons
from ethics_review.duties import Duties
from ethics_review.errors import RequestInvalid
from ethics_review.evaluation import METRICS, SEVERITY, Evaluation, Outcome, Plan, Reading, Tier
from ethics_review.facts import EGRESS_BLOCKED, Decision, Fact, What
from ethics_review.gaps import Gaps, parts_of, slice_class
from ethics_review.sequential import EXACT, MILLION, text

DAY_US: Final = 86_400 * MILLION
CIVIL_US: Final = 8 * 3600 * MILLION
"""Civil days are of UTC+8."""
CALLS_MAX: Final = 10_000
"""Calls whose judgement may still come. Later than so many calls on, it does not count; it is overdue long before."""
HEARTBEAT_US: Final = 120 * MILLION
CLOCK_US: Final = 1 * MILLION
"""How far a later entry's time may lie before an earlier one's."""
FAST_S: Final = 3
"""Nobody has looked at a result that was accepted within this many seconds."""
LATE: Final = frozenset({"DEADLINE_EXCEEDED", "LOAD_DEADLINE_EXCEEDED"})
OUT_OF_SCOPE: Final = frozenset({"CONDITION_NOT_MET", "ATTRIBUTE_UNKNOWN", "AUTONOMY_EXCEEDED"})
MISSED: Final = "MISSED_FINDING"
FALSE_POSITIVE: Final = "FALSE_POSITIVE"
_INPUTS: Final = ("SEX", "AGE_YEARS", "MANUFACTURER", "SITE", "SLICE_SPACING_MM")
_LETTERS: Final = str.maketrans("0123456789", "ghijklmnop")
_SLICED: Final = "SLICE_SPACING_MM"
_UNFINISHED, _FINISHED, _BROKEN = 0, 1, 2


class Monitor:
    """Dynamic assessment of one model under one plan. `feed` takes facts in the log's order, of all models."""

    def __init__(self, plan: Plan) -> None:
        self.plan = plan
        self.index, self.time_us, self.day = NOTHING, NOTHING, NOTHING
        self.beat: list[JsonValue] = []  # entry, boot and tick of the last heartbeat
        self.seen, self.seqs = NOTHING, dict[str, list[int]]()  # last entry; of each source: last entry and its number
        self.due = Due(plan.decision_h)  # outlives an epoch: a suspension does not forgive what is overdue
        self.duties, self.compared = Duties(), Comparisons()  # so do these
        self._begin()

    def _begin(self) -> None:
        plan = self.plan
        # call: begun, time, finish, judged bad, classes, has a result
        self.calls: OrderedDict[str, list[JsonValue]] = OrderedDict()
        self.readers: dict[str, tuple[Share, Share]] = {}
        self.told: dict[str, list[int]] = {}  # metric and subgroup: severity said today, last entry and n said
        self.disagree = Cusum("DISAGREEMENT", plan.disagree)
        self.missed = Cusum("MISSED_FINDING", plan.missed)
        self.false_positive = Cusum("FALSE_POSITIVE", plan.false_positive)
        self.failures = Share("FAILURE_RATE", limit=plan.failure_rate)
        self.in_a_row = Share("FAILURES_IN_A_ROW")
        self.late = Share("DEADLINE_MISSED")
        self.gaps = Gaps(plan.subgroup_gap, restrict_first=plan.restrict_first)
        self.latency = Latency(plan.p95_ms)
        self.denied = Share("CONDITION_DENIED")
        self.not_used = Share("NOT_USED")
        self.inputs = {name: Drift("INPUT_DRIFT", name) for name in _INPUTS}
        self.outcomes = Drift("OUTPUT_DRIFT", "OUTCOME")
        self.measures = Drift("OUTPUT_DRIFT", "MEASUREMENT", numbers=True)

    def _charts(self) -> dict[str, Chart]:
        fixed: dict[str, Chart] = {
            "disagree": self.disagree,
            "missed": self.missed,
            "false_positive": self.false_positive,
            "failures": self.failures,
            "in_a_row": self.in_a_row,
            "late": self.late,
            "gaps": self.gaps,
            "latency": self.latency,
            "denied": self.denied,
            "not_used": self.not_used,
            "due": self.due,
            "duties": self.duties,
            "compared": self.compared,
            "outcomes": self.outcomes,
            "measures": self.measures,
        }
        return fixed | {f"input {name}": chart for name, chart in self.inputs.items()}

    def feed(self, fact: Fact) -> tuple[Evaluation, ...]:
        """Take the next fact; the evaluations that are now to be logged. Raises RequestInvalid for one out of order."""
        if fact.index <= self.seen:
            raise RequestInvalid("facts come in the log's order")
        self.seen = fact.index
        gap = list(self._sequence(fact))
        if fact.what is What.OTHER:
            return tuple(self._evaluation(reading) for reading in gap)
        said = [*gap, *self._clock(fact)]
        self.index = fact.index
        self.compared.passes(fact)
        touched = [self.due, self.compared, *self._take(fact)]
        said += self._invariants(fact)
        if fact.what is What.EPOCH and fact.model == self.plan.model.digest:
            said += self._close()
            self._begin()
        else:
            said += [one for chart in touched if chart.loud for one in self._worse(chart.readings())]
        return tuple(self._evaluation(reading) for reading in said)

    def standing(self) -> tuple[Evaluation, ...]:
        """Where every metric stands now, whether or not it was said."""
        return tuple(self._evaluation(reading) for reading in self._readings())

    def under(self, plan: Plan) -> "Monitor":
        """This monitor under another approval of its model: judged anew from here on; what is overdue stays so."""
        if plan.model.digest != self.plan.model.digest:
            raise RequestInvalid("the approval of another model")
        other = Monitor(plan)
        other.index, other.time_us, other.day, other.beat = self.index, self.time_us, self.day, list(self.beat)
        other.seen, other.seqs = self.seen, {source: list(last) for source, last in self.seqs.items()}
        other.due.restore(self.due.state())
        other.duties.restore(self.duties.state())
        other.compared.restore(self.compared.state())
        return other

    def _evaluation(self, reading: Reading) -> Evaluation:
        return Evaluation(self.plan.model, self.plan.approval, reading)

    def _clock(self, fact: Fact) -> Iterator[Reading]:
        # A clock that goes back is itself an invariant broken; the monitor's own time then waits for it.
        if self.time_us != NOTHING and fact.time_us < self.time_us - CLOCK_US:
            seconds = Fraction(self.time_us - fact.time_us, MILLION)
            yield self._broken("CLOCK_OFFSET", self.index, fact.index, text(seconds), text(Fraction(CLOCK_US, MILLION)))
        self.time_us = max(self.time_us, fact.time_us)
        today = (self.time_us + CIVIL_US) // DAY_US
        if self.day != NOTHING and today > self.day:
            yield from self._close()
            self.due.new_day()
            for told in self.told.values():
                told[0] = 0
        self.day = today
        self.due.passes(fact.index, self.time_us)

    def _sequence(self, fact: Fact) -> Iterator[Reading]:
        # What must have come before, and did not: an entry of the same source, or the result that is released.
        begun = []
        if fact.source:
            last = self.seqs.get(fact.source)
            if last is not None and fact.seq != last[1] + 1:
                begun.append(last[0])
            self.seqs[fact.source] = [fact.index, fact.seq]
        call = self.calls.get(fact.call) if fact.call is not None and fact.what is What.RELEASED else None
        if call is not None and not call[5]:
            begun.append(int(str(call[0])))
        if begun:
            yield self._broken("SEQUENCE_GAP", min(begun), fact.index, text(len(begun)), "0.000000", len(begun))

    def _invariants(self, fact: Fact) -> Iterator[Reading]:
        late = self.duties.passes(fact)
        if late:
            yield self._broken("EVIDENCE_OVERDUE", min(late), fact.index, text(len(late)), "0.000000", len(late))
        if fact.model in {None, self.plan.model.digest}:
            self.duties.take(fact)
        if fact.what is What.INVARIANT and fact.model in {None, self.plan.model.digest}:
            yield self._broken(fact.code, fact.index, fact.index, "1.000000", "0.000000")
        call = self.calls.get(fact.call) if fact.call is not None and fact.code == EGRESS_BLOCKED else None
        if fact.what is What.FAILED and call is not None:
            yield self._broken(EGRESS_BLOCKED, int(str(call[0])), fact.index, "1.000000", "0.000000")
        if fact.what is What.RECONCILED:
            new, first = self.duties.unknown(fact, self.plan.model.digest)
            if new:
                yield self._broken("RELEASE_UNLOGGED", first, fact.index, text(new), "0.000000", new)
        if fact.what is What.HEARTBEAT:
            # A machine that was off made no calls: only silence within one run of the writer counts.
            if self.beat and self.beat[1] == fact.boot:
                silent = fact.tick_us - int(str(self.beat[2]))
                if silent > HEARTBEAT_US:
                    value, limit = text(Fraction(silent, MILLION)), text(Fraction(HEARTBEAT_US, MILLION))
                    yield self._broken("HEARTBEAT_GAP", int(str(self.beat[0])), fact.index, value, limit)
            self.beat = [fact.index, fact.boot, fact.tick_us]

    @staticmethod
    def _broken(metric: str, first: int, last: int, value: str, limit: str, n: int = 1) -> Reading:
        if metric not in METRICS or METRICS[metric].tier is not Tier.T0:
            raise RequestInvalid("not an invariant")
        return Reading(metric, None, first, last, n, value, limit, Outcome.SUSPEND)

    def _take(self, fact: Fact) -> list[Chart]:
        if fact.what in {What.INTENT, What.DENIED}:
            return self._asked(fact) if fact.model == self.plan.model.digest else []
        if fact.what is What.DECISION and fact.call is not None:
            self.due.decided(fact.call)
        call = self.calls.get(fact.call) if fact.call is not None else None
        if call is None or fact.call is None:
            return []  # of another model, or of an earlier epoch
        begun = int(str(call[0]))
        if fact.what is What.RELEASED:
            self.due.released(fact.call, begun, self.time_us)
            self.compared.released(begun, fact.time_us)
        elif fact.what in {What.RESULT, What.FAILED}:
            return self._finished(fact, call, begun)
        elif fact.what is What.DECISION:
            return self._judged(fact, call, begun)
        return []

    def _asked(self, fact: Fact) -> list[Chart]:
        if fact.what is What.DENIED:
            if fact.code in OUT_OF_SCOPE:
                self.denied.add(fact.index, fact.index, event=True)
            return [self.denied]
        if fact.call is None or fact.call in self.calls:
            return []
        self.denied.add(fact.index, fact.index, event=False)
        classes: list[JsonValue] = [[condition, seen] for condition, seen in fact.classes]
        self.calls[fact.call] = [fact.index, fact.time_us, _UNFINISHED, None, classes, 0]
        if len(self.calls) > CALLS_MAX:
            self.calls.popitem(last=False)
        touched: list[Chart] = [self.denied]
        for condition, seen in fact.classes:
            if condition in self.inputs:
                self.inputs[condition].add(fact.index, fact.index, slice_class(seen) if condition == _SLICED else seen)
                touched.append(self.inputs[condition])
        return touched

    def _finished(self, fact: Fact, call: list[JsonValue], begun: int) -> list[Chart]:
        failed = fact.what is What.FAILED
        call[5] = call[5] or int(not failed)
        # A call counts once; that it failed after all, when sent for instance, counts as well.
        if call[2] == _BROKEN or (call[2] == _FINISHED and not failed):
            return []
        call[2] = _BROKEN if failed else _FINISHED
        self.failures.add(fact.index, begun, event=failed)
        self.in_a_row.add(fact.index, begun, event=failed)
        self.late.add(fact.index, begun, event=failed and fact.code in LATE)
        touched: list[Chart] = [self.failures, self.in_a_row, self.late]
        if not failed:
            self.latency.add(fact.index, begun, max(0, fact.time_us - int(str(call[1]))) // 1000)
            self.outcomes.add(fact.index, begun, fact.outcome)
            touched += [self.latency, self.outcomes]
            if fact.measure is not None:
                self.measures.add(fact.index, begun, fact.measure)
                touched.append(self.measures)
        return touched

    def _judged(self, fact: Fact, call: list[JsonValue], begun: int) -> list[Chart]:
        used = fact.code != Decision.NOT_USED
        bad = fact.code in {Decision.MODIFY, Decision.REJECT} and fact.significant
        # The first judgement counts, and a later one only if it is worse: nobody is talked out of a disagreement.
        if call[3] is not None and not (bad and call[3] == 0):
            return []
        self.not_used.add(fact.index, begun, event=not used)
        if not used:
            return [self.not_used]
        call[3] = int(bad)
        self.disagree.add(fact.index, begun, event=bad)
        self.missed.add(fact.index, begun, event=bad and MISSED in fact.reasons)
        self.false_positive.add(fact.index, begun, event=bad and FALSE_POSITIVE in fact.reasons)
        pairs = call[4] if isinstance(call[4], list) else []
        classes = tuple((str(pair[0]), str(pair[1])) for pair in pairs if isinstance(pair, list))
        self.gaps.add(fact.index, begun, classes, event=bad)
        touched: list[Chart] = [self.not_used, self.disagree, self.missed, self.false_positive, self.gaps]
        if fact.reader is not None:
            every, fast = self._reader(fact.reader)
            every.add(fact.index, begun, event=fact.code == Decision.ACCEPT)
            quick = fact.seconds is not None and fact.seconds < FAST_S
            fast.add(fact.index, begun, event=fact.code == Decision.ACCEPT and quick)
            touched += [every, fast]
        return touched

    def _reader(self, reader: str) -> tuple[Share, Share]:
        if reader not in self.readers:
            # In letters: an entry takes no six digits on end from a person's name, and here they mean nothing.
            name = "reader:" + reader.translate(_LETTERS)
            size = honest_run(self.plan.disagree.p0)
            with localcontext(EXACT):
                all_but_one = (Decimal(size - 1) / size).quantize(Decimal("0.000001"), ROUND_CEILING)
            every = Share("ACCEPT_ALL", limit=all_but_one, size=size, subgroup=name)
            self.readers[reader] = every, Share("FAST_ACCEPT", subgroup=name)
        return self.readers[reader]

    def _readings(self) -> Iterator[Reading]:
        shown = set()
        for chart in (*self._charts().values(), *(one for pair in self.readers.values() for one in pair)):
            for reading in chart.readings():
                shown.add(reading.metric)
                yield reading
        for row in METRICS.values():
            # No call at all is too few as well, and is said: silence would pass for green.
            if row.tier is Tier.T1 and row.name not in shown and self.index != NOTHING:
                yield Reading(row.name, None, self.index, self.index, 0, None, None, Outcome.TOO_FEW)

    def _close(self) -> Iterator[Reading]:
        for reading in self._readings():
            if self._new(reading):
                self._tell(reading)
                yield reading

    def _worse(self, readings: Iterable[Reading]) -> Iterator[Reading]:
        for reading in readings:
            said = self.told.get(_key(reading), [0])[0]
            if SEVERITY[reading.outcome] > said and self._new(reading):
                self._tell(reading)
                yield reading

    def _new(self, reading: Reading) -> bool:
        return self.told.get(_key(reading), [])[1:] != [reading.last, reading.n]

    def _tell(self, reading: Reading) -> None:
        severity = SEVERITY[reading.outcome]
        self.told[_key(reading)] = [severity, reading.last, reading.n]

    def state(self) -> dict[str, JsonValue]:
        """Everything that `continued` needs, as plain JSON."""
        return {
            "model": self.plan.model.digest,
            "index": self.index,
            "seen": self.seen,
            "seqs": {source: list(last) for source, last in self.seqs.items()},
            "time_us": self.time_us,
            "day": self.day,
            "beat": list(self.beat),
            "calls": [[call, *json.loads(json.dumps(kept))] for call, kept in self.calls.items()],
            "told": {key: list(kept) for key, kept in self.told.items()},
            "charts": {name: chart.state() for name, chart in self._charts().items()},
            "readers": [[name, *(chart.state() for chart in pair)] for name, pair in self.readers.items()],
        }

    @classmethod
    def continued(cls, plan: Plan, state: Mapping[str, object]) -> "Monitor":
        """The monitor as it was when `state` was taken. Raises RequestInvalid for another model's."""
        if state["model"] != plan.model.digest:
            raise RequestInvalid("the state of another model's monitor")
        monitor = cls(plan)
        kept = json.loads(json.dumps(state))
        monitor.index, monitor.time_us, monitor.day = kept["index"], kept["time_us"], kept["day"]
        monitor.seen, monitor.seqs = kept["seen"], kept["seqs"]
        monitor.beat, monitor.told = kept["beat"], kept["told"]
        monitor.calls = OrderedDict((one[0], one[1:]) for one in kept["calls"])
        for name, chart in monitor._charts().items():
            chart.restore(kept["charts"][name])
        for name, *pair in kept["readers"]:
            for chart, one in zip(monitor._reader(name), pair, strict=True):
                chart.restore(one)
        return monitor


def evaluate(plan: Plan, facts: Iterable[Fact]) -> tuple[Evaluation, ...]:
    """All evaluations that these facts give, from nothing."""
    monitor = Monitor(plan)
    return tuple(one for fact in facts for one in monitor.feed(fact))


def recompute(plan: Plan, facts: Iterable[Fact], said: Reading) -> Reading | None:
    """The same reading made again from the facts of its entries alone; None if they give no such reading."""
    monitor = Monitor(plan)
    spoken: dict[str, Reading] = {}
    for fact in facts:
        if said.first <= fact.index <= said.last:
            spoken |= {_key(one.reading): one.reading for one in monitor.feed(fact)}
    again = {_key(one.reading): one.reading for one in monitor.standing()}
    at_once = spoken.get(_key(said))
    if METRICS[said.metric].tier is Tier.T0 and at_once is not None and at_once.last == said.last:
        return at_once
    return again.get(_key(said))


def cut_off(reading: Reading) -> tuple[str, str] | None:
    """The condition and the class that a RESTRICT takes out of the model's use."""
    return parts_of(reading.subgroup) if reading.outcome is Outcome.RESTRICT and reading.subgroup else None


def honest_run(p0: Decimal) -> int:
    """After how many acceptances on end a reader who disagrees in `p0` of calls is one in a hundred; 50 to 500."""
    with localcontext(EXACT):
        run = (Decimal("0.01").ln() / (1 - p0).ln()).to_integral_value(ROUND_CEILING)
    return min(500, max(50, int(run)))


def _key(reading: Reading) -> str:
    return f"{reading.metric} {reading.subgroup or ''}"
