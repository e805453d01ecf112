"""Follows the audit log with one monitor for each approved model, writes down what they find, and acts on it at once.

What must hold:

- It only tightens: of the register it knows how to suspend and how to restrict, and nothing else.
- Everything that it says follows from the log's entries. What it keeps beside the log is a cache: without it, or where
  it does not fit the log, the code or the approvals, the log is read again from its beginning, and as every evaluation
  has a key of its own, nothing is said twice.
- Killed between an evaluation and the suspension that it asks for, it suspends when it comes to that entry again,
  unless the model was begun anew meanwhile: what people have judged since is not judged again.
"""

import hashlib
import json
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any, Final, Protocol

import structlog

from audit import durable
from audit.canonical import canonical
from audit.entry import Draft, Entry, JsonValue, Kind
from audit.errors import AuditError
from ethics_review.dossier import Approval
from ethics_review.errors import RequestInvalid, ReviewError
from ethics_review.evaluation import INVARIANTS, SEVERITY, Evaluation, Outcome, Plan, code_digest
from ethics_review.facts import What, fact_of
from ethics_review.monitor import Monitor, cut_off
from ethics_review.standing import Standing
from ethics_review.states import Cause, State
from models.ref import ModelRef

ENTRIES_AT_ONCE: Final = 10_000
"""In one round: a few seconds of work where an old log is read anew; the next round takes more."""
SAVE_S: Final = 60.0
"""Between two saves of the cache: what was read since is read again after a crash, and that takes no time."""
IN_USE: Final = frozenset({State.SHADOW, State.LIVE})
ENDED: Final = frozenset({State.RETIRED, State.REJECTED})
KEY_HEX: Final = 32
SCHEMA: Final = "zhiying.monitor/1"
"""Of the cache."""

_log = structlog.get_logger()


class Head(Protocol):
    """As much of a signed head as is asked for."""

    @property
    def size(self) -> int:
        """How many entries are under it."""


class Log(Protocol):
    """What is followed and written: audit.log.AuditLog. All raise AuditError."""

    def entries(self, start: int = 0) -> Iterator[Entry]:
        """All entries from this index, in order, proven."""

    def head(self) -> Head:
        """The newest signed head."""

    def find(self, key: str) -> Entry | None:
        """The entry with this idempotency key."""


class Writer(Protocol):
    """Where evaluations go; whoever stands before the log may make them wait. Raises AuditError."""

    def append(self, draft: Draft) -> Entry:
        """See AuditLog."""


class Register(Protocol):
    """What the monitor needs of ethics_review.register.Register: to look, and to tighten. Raises ReviewError."""

    def approvals(self) -> tuple[Approval, ...]:
        """All that verify today."""

    def standing(self, digest: str) -> Standing | None:
        """Where the dossier of this digest is, after everything that the log holds now."""

    def suspend(self, model: ModelRef, cause: Cause, evidence: int | None) -> object:
        """The model is not used from now on. `evidence`: index of the entry that says why."""

    def restrict(self, model: ModelRef, condition: str, observed: str, evidence: int | None) -> object:
        """The model is not used any more where `condition` is of the class `observed`."""


class Watched(Protocol):
    """Told what happens; see service.watching."""

    def evaluated(self, metric: str, outcome: str) -> None:
        """One evaluation went into the log."""

    def failed(self, code: str) -> None:
        """A round that could not be done, or an approval that cannot be monitored."""

    def behind(self, entries: int) -> None:
        """How many entries of the log were not looked at yet."""

    def suspended(self, models: int) -> None:
        """How many of the models that are looked after are suspended."""


def cause_of(metric: str) -> Cause:
    """Why a model is suspended whose reading of this metric says SUSPEND."""
    if metric in _CAUSES:
        return _CAUSES[metric]
    return Cause.INTEGRITY if metric in INVARIANTS else Cause.PERFORMANCE


_CAUSES: Final[Mapping[str, Cause]] = {
    "SUBGROUP_GAP": Cause.SUBGROUP_GAP,
    "INCIDENT": Cause.HARM,
    "EVIDENCE_OVERDUE": Cause.REPORT_UNSIGNED,
    # That a physician decides on each result is what the autonomy level of every approval rests on.
    "DECISIONS_MISSING": Cause.CONDITION_BREACH,
}


def draft_of(said: Evaluation) -> Draft:
    """The entry of an evaluation. The same calls judged by the same metric are one entry, whoever judges them again."""
    reading = said.reading
    named: dict[str, JsonValue] = {
        "model": said.model.digest,
        "metric": reading.metric,
        "subgroup": reading.subgroup,
        "first": reading.first,
        "last": reading.last,
        "n": reading.n,
    }
    digest = hashlib.sha256(canonical(named)).hexdigest()[:KEY_HEX]
    return Draft(Kind.EVALUATION, f"evaluation:{digest}", said.body())


@dataclass(slots=True)
class _Watch:
    note: str  # digest of the approval's signed note
    monitor: Monitor


class Monitoring:
    """A chore for service.caretaker; each call looks at what is new in the log.

    Args:
        cache: the file of what is kept between runs. clock: seconds that only grow.
    """

    def __init__(
        self,
        log: Log,
        writer: Writer,
        register: Register,
        cache: Path,
        watched: Watched,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._log, self._writer, self._register = log, writer, register
        self._cache, self._watched, self._clock = cache, watched, clock
        self._watches: dict[str, _Watch] = {}  # by the model's digest
        self._notes: dict[str, bool] = {}  # digest of each approval's note so far, and whether it counted
        self._unplanned: set[str] = set()
        self._epochs: dict[str, int] = {}  # by the model's digest: the entry with which its present run began
        self._epochs_to = 0  # looked for in the entries before this one
        self._unsaid: deque[tuple[Evaluation, int]] = deque()  # with the index of the entry at which it was found
        self._next: int | None = None
        self._last = ""  # digest of the entry before `_next`
        self._saved_at = clock()
        self._trouble: str | None = None

    @property
    def state(self) -> str:
        """For /health: 'ok', or the code of what keeps it from looking, or the approvals that it cannot look after."""
        if self._trouble is not None:
            return self._trouble
        return f"NOT_MONITORED {', '.join(sorted(self._unplanned))}" if self._unplanned else "ok"

    def __call__(self) -> None:
        """Look at what is new, at most ENTRIES_AT_ONCE. What fails is told, and tried again in the next round."""
        try:
            self._round()
            self._trouble = None
        except (AuditError, ReviewError, OSError) as error:
            code = getattr(error, "code", type(error).__name__)
            if code != self._trouble:
                _log.error("monitor_put_off", code=code, error_type=type(error).__name__)
            self._trouble = code
            self._watched.failed(code)

    def close(self) -> None:
        """Keep where it stands, for the next start."""
        # A cache: without it the next start reads the log again.
        with suppress(OSError):
            self._save()

    # ---- following -----------------------------------------------------------------------------------------------

    def _round(self) -> None:
        if self._next is None:
            self._next = self._resumed()
        self._say_all()
        size = self._log.head().size
        if self._next < size:
            approvals = self._approvals()
            for entry in islice(self._log.entries(self._next), ENTRIES_AT_ONCE):
                self._look(entry, approvals)
                self._say_all()
                self._next, self._last = entry.index + 1, _digest(entry)
        self._watched.behind(max(0, self._log.head().size - self._next))
        standings = [self._register.standing(digest) for digest in self._watches]
        self._watched.suspended(sum(one is not None and one.state is State.SUSPENDED for one in standings))
        if self._clock() - self._saved_at >= SAVE_S:
            self._save()

    def _approvals(self) -> dict[str, Approval]:
        return {one.note_digest: one for one in self._register.approvals()}

    def _look(self, entry: Entry, approvals: Mapping[str, Approval]) -> None:
        """Have each monitor take the entry; a second time, after saying was broken off, changes nothing."""
        if entry.kind is Kind.APPROVAL:
            self._approved(str(entry.body["note_digest"]), approvals)
        if entry.kind is Kind.STATE_CHANGE:
            self._note_epoch(entry)
        fact = fact_of(entry)
        found = [
            (said, entry.index)
            for watch in self._watches.values()
            if watch.monitor.seen < entry.index
            for said in watch.monitor.feed(fact)
        ]
        # The worst first: nothing is written before what it asks for is done.
        self._unsaid.extend(sorted(found, key=lambda one: -SEVERITY[one[0].outcome]))
        if entry.kind is Kind.STATE_CHANGE and entry.body["to"] in ENDED:
            self._watches.pop(_model(entry), None)

    def _approved(self, note: str, approvals: Mapping[str, Approval]) -> None:
        approval = approvals.get(note)
        if note in self._notes:
            return
        self._notes[note] = approval is not None
        plan = None if approval is None else self._plan(approval)
        if plan is not None:
            before = self._watches.get(plan.model.digest)
            self._watches[plan.model.digest] = _Watch(
                note, Monitor(plan) if before is None else before.monitor.under(plan)
            )

    def _plan(self, approval: Approval) -> Plan | None:
        """Its thresholds; None, which is told, for one that the monitor does not understand."""
        try:
            return Plan.of(approval.model, approval.monitor, approval.on_breach, approval.id)
        except RequestInvalid as wrong:
            self._unplanned.add(approval.id)
            self._watched.failed(wrong.code)
            _log.error("approval_not_monitored", code=wrong.code)
            return None

    # ---- saying and doing ----------------------------------------------------------------------------------------

    def _say_all(self) -> None:
        while self._unsaid:
            said, since = self._unsaid[0]
            draft = draft_of(said)
            entry = self._log.find(draft.key)
            if entry is None:
                entry = self._writer.append(draft)
                self._watched.evaluated(said.reading.metric, said.outcome)
            if said.outcome in {Outcome.SUSPEND, Outcome.RESTRICT}:
                self._tighten(said, since, entry.index)
            self._unsaid.popleft()

    def _tighten(self, said: Evaluation, since: int, evidence: int) -> None:
        standing = self._register.standing(said.model.digest)
        if standing is None:
            return
        reading = said.reading
        if said.outcome is Outcome.SUSPEND:
            # The register knows whether it still asks for it: people may have begun the model anew since.
            if evidence in standing.asked:
                self._register.suspend(said.model, cause_of(reading.metric), evidence)
                _log.error("model_suspended", model=said.model.name, version=said.model.version, metric=reading.metric)
            return
        if standing.state not in IN_USE or self._began(said.model.digest) >= since:
            return
        part = cut_off(reading)
        if part is not None and part not in standing.cut_off:
            self._register.restrict(said.model, *part, evidence)
            _log.error("model_restricted", model=said.model.name, version=said.model.version, metric=reading.metric)

    def _began(self, digest: str) -> int:
        """The index of the entry with which the model's newest run began, up to the log's head; -1: none."""
        for entry in self._log.entries(self._epochs_to):
            self._note_epoch(entry)
            self._epochs_to = entry.index + 1
        return self._epochs.get(digest, -1)

    def _note_epoch(self, entry: Entry) -> None:
        fact = fact_of(entry) if entry.kind is Kind.STATE_CHANGE else None
        if fact is not None and fact.what is What.EPOCH and fact.model is not None:
            self._epochs[fact.model] = max(entry.index, self._epochs.get(fact.model, -1))

    # ---- the cache -----------------------------------------------------------------------------------------------

    def _save(self) -> None:
        self._saved_at = self._clock()
        if not self._next or self._unsaid:
            return  # nothing, or in the middle of an entry
        kept = {
            "schema": SCHEMA,
            "code": code_digest(),
            "next": self._next,
            "last": self._last,
            "notes": self._notes,
            "unplanned": sorted(self._unplanned),
            "epochs": self._epochs,
            "monitors": [[watch.note, watch.monitor.state()] for watch in self._watches.values()],
        }
        body = json.dumps(kept, separators=(",", ":")).encode()
        durable.make_dirs(self._cache.parent)
        durable.replace(self._cache, hashlib.sha256(body).hexdigest().encode() + b"\n" + body)

    def _resumed(self) -> int:
        """Where to go on: where the last run stood, if the log, the approvals and the code are still the same; or 0."""
        try:
            digest, _, body = self._cache.read_bytes().partition(b"\n")
        except OSError:
            return 0
        kept = json.loads(body) if hashlib.sha256(body).hexdigest().encode() == digest else {}
        approvals = self._approvals()
        if not self._fits(kept, approvals):
            _log.warning("monitor_begins_again")
            return 0
        self._notes, self._unplanned = kept["notes"], set(kept["unplanned"])
        self._epochs, self._epochs_to, self._last = kept["epochs"], kept["next"], kept["last"]
        for note, state in kept["monitors"]:
            plan = self._plan(approvals[note])
            if plan is not None:  # it is: the code that made it once is the same
                self._watches[plan.model.digest] = _Watch(note, Monitor.continued(plan, state))
        return int(kept["next"])

    def _fits(self, kept: Mapping[str, Any], approvals: Mapping[str, Approval]) -> bool:
        if kept.get("schema") != SCHEMA or kept["code"] != code_digest():
            return False
        if any((note in approvals) != counted for note, counted in kept["notes"].items()):
            return False
        place = int(kept["next"])
        last = next(self._log.entries(place - 1), None) if self._log.head().size >= place else None
        return last is not None and _digest(last) == kept["last"]


def _digest(entry: Entry) -> str:
    return hashlib.sha256(entry.to_bytes()).hexdigest()


def _model(entry: Entry) -> str:
    model = entry.body["model"]
    return str(model["digest"]) if isinstance(model, Mapping) else ""
