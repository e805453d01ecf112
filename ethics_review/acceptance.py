"""The numbers of a local acceptance, out of the log's entries alone: what anybody makes again, and what was forged.

A CASE entry says what one labelled case came to; the CALL_INTENT of its call says which classes the gate saw, for the
model and the approval that it names. The order of the CASE entries is part of the numbers, as the bootstrap draws by
place. A case that the gate refused is no failure and in no row: it is outside of what was approved, and is counted
apart, so that nobody makes a model better by leaving out what it is bad at. Pure.
"""

import hashlib
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from fractions import Fraction
from types import MappingProxyType
from typing import Final

from audit.entry import JsonValue
from ethics_review import metrics
from ethics_review.errors import RequestInvalid
from ethics_review.facts import Logged
from ethics_review.metrics import Bin, Case, Row

SUBGROUPS: Final = ("SEX", "AGE_YEARS", "MANUFACTURER", "SITE", "SLICE_SPACING_MM")
"""The conditions whose classes make subgroups: sex, age band, vendor, site, slice thickness."""
ROWS_MAX: Final = 256
"""What an ACCEPTANCE entry holds; see audit.schema.LIST_MAX."""

YES: Final = "YES"
NO: Final = "NO"
REFUSED: Final = "REFUSED"
"""Of CASE.failed: the case was refused before the model saw it; nothing else is said of it but its truth."""
UNDECIDED: Final = "UNDETERMINED"
"""Of CASE.positive: the model's answer leaves it open."""
POSITIVES: Final[Mapping[JsonValue, bool | None]] = MappingProxyType(
    {YES: True, NO: False, UNDECIDED: None, None: None}
)
TRUTHS: Final[Mapping[JsonValue, bool]] = MappingProxyType({"PRESENT": True, "ABSENT": False})


@dataclass(frozen=True, slots=True)
class Claim:
    """Whose acceptance: the digest of the model, the approval's id, the digest of the dataset.

    `n_min`: cases below which nothing is said; fewer than usual only where the reviewer signed a bound of so few.
    """

    model: str
    approval: str
    dataset: str
    n_min: int = metrics.N_MIN


@dataclass(frozen=True, slots=True)
class Acceptance:
    """What the entries say.

    Attributes:
        cases: all CASE entries of the claim; refused and failed ones are among them.
        rows, bins: see metrics. first, last: the first and the last entry that counted; -1 without any.
        failures: how many failed, by code. refusals: how many were refused, by code and condition ("" for none).
        unbacked: CASE entries that no call of this model and approval stands behind, or whose figures are none.
        undecided: in how many of the cases in the rows the model left open what is there.
    """

    cases: int
    refused: int
    failed: int
    rows: tuple[Row, ...]
    bins: tuple[Bin, ...]
    first: int
    last: int
    failures: tuple[tuple[str, int], ...]
    refusals: tuple[tuple[str, str, int], ...]
    unbacked: int
    undecided: int = 0

    @property
    def judged(self) -> int:
        """The cases that the rows speak of."""
        return self.cases - self.refused - self.unbacked


@dataclass(frozen=True, slots=True)
class Difference:
    """One thing that the ACCEPTANCE entry at `index` says, and what the entries before it give."""

    index: int
    what: str
    said: str
    found: str


def acceptance_of(entries: Iterable[Logged], claim: Claim) -> Acceptance:
    """The acceptance that these entries of a log, in their order, hold."""
    gathered = _Gathered()
    for entry in entries:
        gathered.add(entry)
    return gathered.acceptance(claim)


def differences(
    entries: Iterable[Logged], bounds: Mapping[str, Sequence[Mapping[str, JsonValue]]], *, code: str | None = None
) -> tuple[Difference, ...]:
    """Where ACCEPTANCE entries say other than the entries before them give; none means that all can be made again.

    Args:
        bounds: the `acceptance` of each approval, by its id. The entry of an approval that is not there is checked but
            for its `unmet`.
        code: digest of the code that makes the numbers here; where an entry names another one, that is a difference.
    """
    gathered, found = _Gathered(), list[Difference]()
    for entry in entries:
        if str(entry.kind) == "ACCEPTANCE":
            found += _compared(entry, gathered, bounds, code)
        gathered.add(entry)
    return tuple(found)


def rows_said(body: Mapping[str, JsonValue]) -> tuple[Row, ...]:
    """The rows of an ACCEPTANCE entry's body."""
    listed = body["rows"]
    said = [row for row in listed if isinstance(row, Mapping)] if isinstance(listed, (list, tuple)) else []
    return tuple(
        Row(
            str(row["metric"]),
            _text(row["subgroup"]),
            int(str(row["n"])),
            _text(row["value"]),
            _text(row["low"]),
            _text(row["high"]),
        )
        for row in said
    )


def claim_of(body: Mapping[str, JsonValue]) -> Claim:
    """What an ACCEPTANCE entry is about."""
    return Claim(_digest(body["model"]), str(body["approval"]), str(body["dataset"]))


@dataclass(frozen=True, slots=True)
class _Call:
    """What the log said of a call before its CASE: of its newest intent, its end, its refusal."""

    model: str = ""
    approval: str = ""
    classes: tuple[tuple[str, str], ...] = ()
    result: bool = False
    failed: str = ""
    denied: tuple[str, str] | None = None


class _Gathered:
    def __init__(self) -> None:
        self._calls: dict[str, _Call] = {}
        self._cases: list[tuple[Logged, _Call]] = []
        self._told: set[str] = set()

    def add(self, entry: Logged) -> None:
        kind, body, before = str(entry.kind), entry.body, self._calls.get(entry.call or "", _Call())
        if entry.call is None:
            return
        if kind == "CALL_INTENT":
            classes = tuple(_classes(body["checks"]))
            self._calls[entry.call] = _Call(_digest(body["model"]), str(body["approval"]), classes)
        elif kind == "CALL_RESULT":
            self._calls[entry.call] = _changed(before, result=True)
        elif kind == "FAILED":
            self._calls[entry.call] = _changed(before, failed=str(body["code"]))
        elif kind == "DENIED":
            refusal = str(body["code"]), _text(body["condition"]) or ""
            self._calls[entry.call] = _Call(_digest(body["model"]), denied=refusal)
        elif kind == "CASE":
            # A call is one case: told a second time, it has nothing behind it.
            self._cases.append((entry, before if entry.call not in self._told else _Call(before.model)))
            self._told.add(entry.call)

    def acceptance(self, claim: Claim) -> Acceptance:
        mine = [
            (entry, call)
            for entry, call in self._cases
            if (entry.body["approval"], entry.body["dataset"]) == (claim.approval, claim.dataset)
            and call.model in {claim.model, ""}
        ]
        cases: list[Case] = []
        failures, refusals, unbacked = Counter[str](), Counter[tuple[str, str]](), 0
        for entry, call in mine:
            case = _case(entry.body, call, claim)
            if isinstance(case, Case):
                cases.append(case)
                failures.update([call.failed] if case.failed else [])
            elif case is None:
                unbacked += 1
            else:
                refusals[case] += 1
        places = [entry.index for entry, _ in mine]
        return Acceptance(
            cases=len(mine),
            refused=refusals.total(),
            failed=failures.total(),
            rows=metrics.rows(cases, seed=claim.dataset, n_min=claim.n_min),
            bins=metrics.reliability(cases),
            first=min(places, default=-1),
            last=max(places, default=-1),
            failures=tuple(sorted(failures.items())),
            refusals=tuple((*key, count) for key, count in sorted(refusals.items())),
            unbacked=unbacked,
            undecided=sum(case.undecided for case in cases),
        )


def _changed(call: _Call, *, result: bool = False, failed: str = "") -> _Call:
    return _Call(call.model, call.approval, call.classes, result or call.result, failed or call.failed, call.denied)


def _case(body: Mapping[str, JsonValue], call: _Call, claim: Claim) -> Case | tuple[str, str] | None:
    """The case, why it was refused, or None where nothing stands behind it."""
    if body["failed"] == REFUSED:
        return call.denied
    failed = body["failed"] == YES
    # A result without a permitted call, or a failure that nobody logged, is somebody's word and no more.
    if (call.model, call.approval) != (claim.model, claim.approval) or not (call.failed if failed else call.result):
        return None
    positive = body["positive"]
    if positive not in POSITIVES:
        return None
    try:
        return Case(
            truth=TRUTHS.get(body["truth"]),
            positive=POSITIVES[positive],
            score=_figure(body["score"]),
            dice=_figure(body["dice"]),
            volume_error=_figure(body["volume_error"]),
            classes=call.classes,
            failed=failed,
            undecided=positive == UNDECIDED,
        )
    except RequestInvalid:
        return None


def _compared(
    entry: Logged,
    gathered: _Gathered,
    bounds: Mapping[str, Sequence[Mapping[str, JsonValue]]],
    code: str | None,
) -> Iterable[Difference]:
    body, claim = entry.body, claim_of(entry.body)
    claim = replace(claim, n_min=metrics.fewest(bounds.get(claim.approval, ())))
    found = gathered.acceptance(claim)
    said = rows_said(body)
    pairs = [("cases", str(body["cases"]), str(found.cases)), ("unbacked cases", "0", str(found.unbacked))]
    if code is not None:
        pairs.append(("code", str(body["code"]), code))
    if claim.approval in bounds:
        pairs.append(("unmet", str(body["unmet"]), str(len(metrics.unmet(bounds[claim.approval], found.rows)))))
    mine, theirs = _by_name(found.rows), _by_name(said)
    for name in sorted({*mine, *theirs}):
        pairs.append((f"row {name}", theirs.get(name, "none"), mine.get(name, "none")))
    if len(said) == len(theirs) and not any(one != other for _, one, other in pairs) and said != found.rows:
        pairs.append(("order of rows", "another", "as metrics.rows gives them"))
    if len(said) != len(theirs):
        pairs.append(("rows", f"{len(said) - len(theirs)} twice", "each once"))
    return [Difference(entry.index, what, one, other) for what, one, other in pairs if one != other]


def _by_name(rows: Iterable[Row]) -> dict[str, str]:
    return {f"{row.metric} {row.subgroup or 'ALL'}": f"n {row.n}, {row.value} [{row.low}, {row.high}]" for row in rows}


def _classes(checks: JsonValue) -> Iterable[tuple[str, str]]:
    found = {
        str(check["condition"]): str(check["observed"])
        for check in (checks if isinstance(checks, (list, tuple)) else ())
        if isinstance(check, Mapping)
    }
    return [(name, found[name]) for name in SUBGROUPS if name in found]


def _figure(value: JsonValue) -> Fraction | None:
    return None if value is None else Fraction(str(value))


def _digest(model: JsonValue) -> str:
    return str(model["digest"]) if isinstance(model, Mapping) else ""


def _text(value: JsonValue) -> str | None:
    return None if value is None else str(value)


def digest_of_sources(sources: Iterable[tuple[str, bytes]]) -> str:
    """ "sha256:..." over what decides a number: for each file its name, a line feed, and its bytes."""
    total = hashlib.sha256()
    for name, data in sources:
        total.update(name.encode() + b"\n" + data)
    return f"sha256:{total.hexdigest()}"
