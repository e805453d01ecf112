"""Golden cases in the service: run at the start, each day and after a change underneath, and written down.

A case that does not come out is an entry like any other; the monitor reads it and suspends (GOLDEN_MISMATCH). What
runs here is about no patient: see inference.golden, which reads the image itself.
"""

import secrets
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from itertools import islice
from pathlib import Path
from typing import Any, Final, Protocol

import structlog

from audit.canonical import JsonValue
from audit.checkpoint import Checkpoint
from audit.entry import Draft, Entry, Kind
from audit.errors import AuditError
from ethics_review.dossier import Approval
from inference import golden
from inference.errors import EngineCancelled, EngineDied, InferenceError
from inference.golden import Checked, GoldenCase
from inference.run import EnginePort
from models.errors import ModelError
from models.library import Installed, Library, VerifiedModel
from models.manifest import MeasurementSpec
from models.ref import ModelRef
from service import records

AGAIN: Final = timedelta(days=1)
AGAIN_UNLESS_MATCHED: Final = timedelta(hours=1)
"""A case that did not come out is run again sooner: whoever has repaired something sees it, and a model that was not in
use yet at the first run is suspended after the next."""
LOOK_BACK_MAX: Final = 100_000
"""Entries before the log's end among which the last run is looked for: days of a large hospital."""
FIGURE_MAX: Final = 9_999_999.0
_WINDOW: Final = 256

_log = structlog.get_logger()


class Log(Protocol):
    """Where the last run is looked for: audit.log.AuditLog. Both raise AuditError."""

    def entries(self, start: int = 0) -> Iterator[Entry]:
        """All entries from this index, in order, proven."""

    def head(self) -> Checkpoint:
        """The newest signed head."""


class Writer(Protocol):
    """Where runs go. Raises AuditError."""

    def append(self, draft: Draft) -> Entry:
        """See AuditLog."""


class Approvals(Protocol):
    """Which models the site has use for: ethics_review.register.Register."""

    def approvals(self) -> tuple[Approval, ...]:
        """All that verify today."""


class Device(EnginePort, Protocol):
    """What runs models: inference.engine.Engine."""

    def describe(self) -> Mapping[str, Any]:
        """'running', 'device' and 'runtime' (versions), among others."""


@dataclass(frozen=True, slots=True)
class _Run:
    at: datetime
    outcome: str
    underneath: tuple[str, Mapping[str, str]]


def case_of(model: VerifiedModel, site: Mapping[str, Path]) -> GoldenCase | None:
    """The model's own case, or the one that the site has for it (by name, or name/version); None without one.

    Raises GoldenInvalid, OSError.
    """
    folder = golden.own(model)
    for name in (f"{model.ref.name}/{model.ref.version}", model.ref.name):
        folder = folder or site.get(name)
    return None if folder is None else golden.load(folder)


def attempt(case: GoldenCase, model: VerifiedModel, engine: EnginePort) -> Checked:
    """Run the case; once more where the engine's process died, as with a study. Raises InferenceError."""
    try:
        return golden.check(case, model, engine)
    except EngineDied:
        return golden.check(case, model, engine)


class GoldenRuns:
    """A chore for service.caretaker: runs the cases of approved, installed models when they are due.

    Args:
        site: folders of cases for models that have none, by the model's name or name/version.
        told: hears of each run's outcome.
    """

    def __init__(
        self,
        log: Log,
        writer: Writer,
        register: Approvals,
        library: Library,
        engine: Device,
        site: Mapping[str, Path],
        now: Callable[[], datetime],
        told: Callable[[str], None],
    ) -> None:
        self._log, self._writer, self._register = log, writer, register
        self._library, self._engine, self._site, self._now = library, engine, site, now
        self._told = told
        self._boot = secrets.token_hex(8)
        self._count = 0
        self._runs: dict[str, _Run] = {}  # by digest
        self._without: set[str] = set()
        self._unsaid: list[tuple[ModelRef, Draft, _Run]] = []  # at most one
        self._troubles: dict[str, str] = {}

    @property
    def state(self) -> str:
        """For /health: 'ok', or for each model in trouble its name and a code."""
        return "; ".join(f"{code} {name}" for name, code in sorted(self._troubles.items())) or "ok"

    def __call__(self) -> None:
        """Run what is due. Raises AuditError; a run that could not be written down is written in the next round."""
        self._say()
        approved = {approval.model for approval in self._register.approvals()}
        try:
            installed = {item.ref for item in self._library.list() if isinstance(item, Installed)}
        except ModelError as error:
            self._fails("library", error.code)
            return
        self._troubles.pop("library", None)
        for ref in sorted(approved & installed, key=str):
            occasion = self._due(ref)
            if occasion is not None:
                self._attend(ref, occasion)

    def _due(self, ref: ModelRef) -> str | None:
        if ref.digest in self._without:
            return None
        last = self._runs.get(ref.digest)
        if last is None:
            return "START"
        state = self._engine.describe()
        if state["running"] and (str(state["device"]), dict(state["runtime"])) != last.underneath:
            return "DRIVER"
        wait = AGAIN if last.outcome == "MATCH" else AGAIN_UNLESS_MATCHED
        return "DAILY" if self._now() - last.at >= wait else None

    def _attend(self, ref: ModelRef, occasion: str) -> None:
        name = f"{ref.name} {ref.version}"
        try:
            model = self._library.open(ref)
            case = case_of(model, self._site)
            if case is None:
                self._without.add(ref.digest)  # neither its files nor the site's file can change while we run
                return
            found: Checked | InferenceError = self._run(case, model)
        except (ModelError, InferenceError, OSError) as error:
            if isinstance(error, AuditError):
                raise
            self._fails(name, getattr(error, "code", type(error).__name__))
            return
        state = self._engine.describe()
        underneath = (str(state["device"]), dict(state["runtime"]))
        if isinstance(found, Checked):
            underneath = (found.device, dict(found.runtime))
        if occasion == "START" and self._changed(ref, underneath):
            occasion = "DRIVER"
        draft = self._draft(occasion, case, model, found, underneath)
        outcome = str(draft.body["outcome"])
        self._unsaid.append((ref, draft, _Run(self._now(), outcome, underneath)))
        self._say()

    def _run(self, case: GoldenCase, model: VerifiedModel) -> Checked | InferenceError:
        """What came out, or why nothing did. Raises InferenceError where we ended it ourselves: that proves nothing."""
        try:
            return attempt(case, model, self._engine)
        except InferenceError as error:
            if error.fault == "US" or isinstance(error, EngineCancelled):
                raise
            return error

    def _say(self) -> None:
        while self._unsaid:
            ref, draft, run = self._unsaid[0]
            self._writer.append(draft)
            self._unsaid.pop()
            self._runs[ref.digest] = run
            self._told(run.outcome)
            name = f"{ref.name} {ref.version}"
            self._troubles.pop(name, None)
            if run.outcome != "MATCH":
                self._fails(name, f"GOLDEN_{run.outcome}")

    def _fails(self, name: str, code: str) -> None:
        if self._troubles.get(name) != code:
            _log.error("golden_case_failed", code=code)
        self._troubles[name] = code

    def _changed(self, ref: ModelRef, underneath: tuple[str, Mapping[str, str]]) -> bool:
        """Whether the last run in the log, of whichever process, was on something else."""
        stop = self._log.head().size
        least = max(0, stop - LOOK_BACK_MAX)
        while stop > least:
            start = max(least, (stop - 1) // _WINDOW * _WINDOW)
            found = [one for one in islice(self._log.entries(start), stop - start) if _is_of(one, ref)]
            if found:
                body = found[-1].body
                runtime = body["runtime"]
                return (body["device"], dict(runtime) if isinstance(runtime, Mapping) else {}) != underneath
            stop = start
        return False

    def _draft(
        self,
        occasion: str,
        case: GoldenCase,
        model: VerifiedModel,
        found: Checked | InferenceError,
        underneath: tuple[str, Mapping[str, str]],
    ) -> Draft:
        measurements: list[JsonValue] = []
        difference, outcome = None, "FAILED"
        if isinstance(found, Checked):
            outcome = "MATCH" if found.matches else "MISMATCH"
            difference = f"{min(found.difference, FIGURE_MAX):.{golden.PLACES}f}"
            measurements = [_measured(spec, found.measured[spec.id]) for spec in model.manifest.measurements]
        device, runtime = underneath
        body: dict[str, JsonValue] = {
            "model": records.model_body(model.ref),
            "case": case.digest,
            "occasion": occasion,
            "outcome": outcome,
            "measurements": measurements,
            "difference": difference,
            "tolerance": f"{case.tolerance:.{golden.PLACES}f}",
            "device": device or "none",
            "runtime": dict(runtime),
        }
        self._count += 1
        return Draft(Kind.GOLDEN, f"golden:{self._boot}:{self._count}", body)


def _measured(spec: MeasurementSpec, value: float) -> dict[str, JsonValue]:
    return {
        "code": spec.concept.value,
        "value": records.decimal(value, spec.decimals),
        "unit": spec.unit.value,
    }


def _is_of(entry: Entry, ref: ModelRef) -> bool:
    return entry.kind is Kind.GOLDEN and entry.body["model"] == records.model_body(ref)
