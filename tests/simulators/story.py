"""The story's world in a folder: a real log, table, library and register, and neighbours that police their contracts.

The neighbours (reading, engine, results, outbox) complain by WrongOrder as soon as a step comes before the entry that
must precede it. WrongOrder is no Exception: the pipeline's wall must not hide it.
"""

import errno
import hashlib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
from sqlalchemy import create_engine

from audit.checkpoint import Checkpoint
from audit.entry import Draft, Entry, Kind
from audit.errors import AuditUnavailable
from audit.log import AuditLog
from audit.note import Signer
from audit.ticket import Proviso
from dicom_bridge import uids
from dicom_bridge.attributes import Attributes
from dicom_bridge.patient import Patient
from dicom_bridge.receipt import Receipt
from dicom_bridge.volume import LoadedSeries
from ethics_review.register import Register
from inference.types import Findings, Prediction, Volume
from models.library import Library, VerifiedModel
from models.ref import ModelRef
from service.identity import IdentityMap
from service.keys import PeriodKeys, Pseudonyms
from service.permitting import Evidence, Facts, Practice
from service.pipeline import Parts, Pipeline, Step
from service.reading import Chosen
from service.records import Written
from service.stopping import Door, Halt
from service.store import Run, State, Store
from tests.simulators import small_model
from tests.simulators.audit_log import QUICK
from tests.simulators.parties import Case, Parties
from tests.simulators.reviewer import DURING, fields

STUDY = "1.2.840.99999.7.1.20260401.1"
SERIES = "1.2.840.99999.7.1.20260401.1.3"
"""Foreign UIDs, which may never reach the log."""
PATIENT = "TEST-0001"
SITE = "test-site"
PACS = "pacs"
DEVICE = "cpu"
RUNTIME = {"torch": "2.13.0", "monai": "1.6.1"}
SHAPE = (6, 8, 10)
ASKED_MAX = 20
TIMING_MS = {"load": 0, "preprocess": 1, "forward": 2, "postprocess": 3, "total": 6}


class WrongOrder(BaseException):
    """Something was done before the entry that must come first."""


class Clock:
    """Moves a millisecond at each look, and as far as it is told."""

    def __init__(self, at: datetime = DURING) -> None:
        self.at = at.astimezone(UTC)

    def __call__(self) -> datetime:
        """The next moment."""
        self.at += timedelta(milliseconds=1)
        return self.at


def install(folder: Path, **changes: object) -> Library:
    """A library with the small model, whose measured cube of 8 mm3 is believable; `changes` go to its manifest."""
    fields = small_model.manifest_fields()
    fields["measurements"][0] |= {"plausible": [0.0, 1.0], "decimals": 3}
    library = Library(folder / "library")
    library.install(small_model.stage(folder / "staged", **({"measurements": fields["measurements"]} | changes)))
    return library


def loaded(
    *,
    shape: tuple[int, int, int] = SHAPE,
    digest: str = "sha256:" + "cd" * 32,
    age_years: float | None = 72.0,
    body_part: str | None = "BRAIN",
) -> LoadedSeries:
    """A series of 1 mm voxels, as volume.load gives it, of somebody whom the reviewer's terms cover."""
    voxels = np.arange(np.prod(shape), dtype=np.float32).reshape(shape)
    volume = Volume(voxels=voxels, affine=np.eye(4), source_digest=digest, modality="MR")
    attributes = Attributes("MR", body_part, age_years, "F", "UIH", 1.0)
    return LoadedSeries(volume, (), attributes, 1.0)


class ObservedLog:
    """The log, which refuses `refuse` appends: before they take effect, or after (failed but persisted)."""

    def __init__(self, log: AuditLog) -> None:
        self.inner = log
        self.refuse = 0
        self.after = False
        self.refused = 0
        self.broken: Exception | None = None
        self.before: tuple[Kind, Callable[[], object]] | None = None
        """What happens once, just before an entry of this kind is logged."""

    def append(self, draft: Draft, proviso: Proviso | None = None) -> Entry:
        """See AuditLog."""
        if self.broken is not None:
            self.refused += 1
            if self.refused > ASKED_MAX:
                raise WrongOrder("asked for ever, though the error is not one that passes")
            raise self.broken
        if self.refuse > 0:
            self.refuse -= 1
            self.refused += 1
            if self.after:
                self.inner.append(draft, proviso)
            raise AuditUnavailable("the disk refuses", errno.ENOSPC)
        if self.before is not None and draft.kind is self.before[0]:
            first, self.before = self.before[1], None
            first()
        return self.inner.append(draft, proviso)

    def entries(self, start: int = 0) -> Iterator[Entry]:
        """See AuditLog."""
        return self.inner.entries(start)

    def receipt(self, index: int) -> Checkpoint:
        """See AuditLog."""
        return self.inner.receipt(index)

    def has(self, kind: Kind, call: str | None = None, key: str | None = None) -> bool:
        """Whether such an entry is in."""
        return any(e.kind is kind and call in (None, e.call) and key in (None, e.key) for e in self.inner.entries())


@dataclass(frozen=True, slots=True)
class Held:
    """As much of an instance as the story looks at."""

    series_uid: str
    sender: str = "MODALITY"


class FakeReading:
    """The input side: three instances of two series, one of which fits. `broken` is raised by the method named."""

    def __init__(self, log: ObservedLog) -> None:
        self._log = log
        self.broken: dict[str, Exception] = {}
        self.series_of: Callable[[Run], LoadedSeries] = lambda run: loaded(digest=run.input_digest)
        self.forgotten: list[str] = []
        self.part = self.rule = ""
        self.models: tuple[str, ...] = ("small-model",)  # name or name/version of those that fit, in order
        self.who: Patient | None = Patient(PATIENT, "")

    def patient(self, _run: Run) -> Patient | None:
        """See Reading."""
        self._fail("patient")
        return self.who

    def instances(self, _run: Run) -> tuple[Held, ...]:
        """See Reading."""
        self._fail("instances")
        return Held(SERIES), Held(SERIES), Held(SERIES + ".9")

    def choose(self, run: Run, library: Library) -> tuple[Chosen, ...]:
        """See Reading."""
        if not self._log.has(Kind.ASSEMBLED, key=f"assembled:{run.run_id}"):
            raise WrongOrder("a series was chosen before ASSEMBLED was logged")
        self._fail("choose")
        fitting = (library.find(name, version or None) for name, _, version in (m.partition("/") for m in self.models))
        asked = [ref for ref in fitting if run.for_model in (None, ref.digest)]
        return tuple(Chosen(SERIES, ref, "MR", part=self.part, rule=self.rule) for ref in asked)

    def series(self, run: Run, series_uid: str, part: str = "") -> LoadedSeries:
        """See Reading."""
        if not self._log.has(Kind.SELECTED, key=f"selected:{run.run_id}") or (series_uid, part) != (SERIES, self.part):
            raise WrongOrder("a series was read before SELECTED was logged, or another one")
        self._fail("series")
        return self.series_of(run)

    def forget(self, run_id: str) -> None:
        """See Reading."""
        self.forgotten.append(run_id)

    def _fail(self, method: str) -> None:
        if method in self.broken:
            raise self.broken[method]


class FakeEngine:
    """One device. Answers a cube of 2 x 2 x 2 voxels; `failures` are raised first, one by one."""

    def __init__(self, log: ObservedLog) -> None:
        self._log = log
        self._warm: set[ModelRef] = set()
        self.failures: list[Exception] = []
        self.inferred = 0
        self.cube = True

    def warm(self, model: VerifiedModel) -> None:
        """See Device."""
        self._warm.add(model.ref)

    def describe(self) -> Mapping[str, Any]:
        """See Device."""
        if not self._warm:
            raise WrongOrder("a cold device cannot say on what it will run")
        return {"device": DEVICE, "runtime": RUNTIME, "pid": 1}

    def infer(self, _model: VerifiedModel, volume: Volume, deadline_s: float) -> Prediction:
        """See EnginePort."""
        if not self._log.has(Kind.CALL_INTENT):
            raise WrongOrder("the model saw voxels before CALL_INTENT was logged")
        if deadline_s != 30.0:
            raise WrongOrder("another deadline than the manifest's")
        self.inferred += 1
        if self.failures:
            raise self.failures.pop(0)
        labels = np.zeros(volume.shape, dtype=np.uint8)
        if self.cube:
            labels[2:4, 3:5, 4:6] = 1
        return Prediction(labels, TIMING_MS, DEVICE, RUNTIME)


class FakeResults:
    """The files of calls, in memory; `broken` is raised by write."""

    def __init__(self, log: ObservedLog) -> None:
        self._log = log
        self.findings: dict[str, Findings] = {}
        self.written: dict[str, tuple[Written, str, str | None]] = {}
        self.broken: Exception | None = None
        self.denied: list[tuple[str, str]] = []
        self.lacking: str | None = None

    def unmade(self, _call: str) -> str | None:
        """See ResultWriter: what `lacking` says."""
        return self.lacking

    def partly(self, call: str) -> bool:
        """See ResultWriter."""
        return call in self.findings and bool(self.findings[call].failed)

    def kept(self, call: str) -> bool:
        """See ResultWriter."""
        return call in self.findings

    def keep(self, call: str, findings: Findings) -> None:
        """See ResultWriter."""
        self.findings[call] = findings

    def files(self, call: str) -> list[Path]:
        """See ResultWriter."""
        return [Path(call) / "seg.dcm", Path(call) / "sr.dcm"]

    def write(
        self,
        call: str,
        model: VerifiedModel,
        _loaded: LoadedSeries,
        intended_at: str,
        receipt: Receipt,
        supersedes: str | None,
    ) -> Written:
        """See ResultWriter: same call, same bytes; the time is the intent's."""
        if self.broken is not None:
            raise self.broken
        if call not in self.findings:
            raise WrongOrder("results without findings")
        if intended_at not in [e.time for e in self._log.entries() if e.kind is Kind.CALL_INTENT and e.call == call]:
            raise WrongOrder("another time than the intent's")
        intent = list(self._log.entries())[receipt.index]
        if (intent.kind, intent.call) != (Kind.CALL_INTENT, call):
            raise WrongOrder("a receipt of another entry")
        if receipt.note != self._log.receipt(receipt.index).note:
            raise WrongOrder("a receipt that this log did not sign")
        if call not in self.written:
            outputs = [
                {"kind": kind, "uid": uids.derive(kind, call), "digest": _digest(f"{call}{kind}{intended_at}")}
                for kind in ("SEG", "SR")
            ]
            value = f"{self.findings[call].measurements[0].value:.3f}"
            measured = [{"code": "118565006", "value": value, "unit": "cm3"}]
            deadline_ms = round(1000 * model.manifest.deadline_s)
            outcome = self.findings[call].outcome
            failed = [{"output": one.output, "code": one.code} for one in self.findings[call].failed]
            made = Written(outputs, outcome, measured, dict(TIMING_MS), DEVICE, deadline_ms, "zhiying 0.1.0", failed)
            self.written[call] = made, intended_at, supersedes
        return self.written[call][0]

    def deny(
        self, denial: str, code: str, model: VerifiedModel, _loaded: LoadedSeries, denied_at: str, receipt: Receipt
    ) -> Path:
        """See ResultWriter: of the refusal's own entry, by its time."""
        if self.broken is not None:
            raise self.broken
        entry = list(self._log.entries())[receipt.index]
        if (entry.kind, entry.key, entry.time, entry.body["code"]) != (Kind.DENIED, denial, denied_at, code):
            raise WrongOrder("a report of another refusal")
        assert entry.body["model"] is not None
        assert model.ref.name in str(entry.body["model"])
        self.denied.append((denial, code))
        return Path(denial) / "sr.dcm"

    def supersedes(self, call: str) -> str | None:
        """The call that the report of `call` replaces."""
        return self.written[call][2]


class FakeOutbox:
    """Durable sends; a batch is taken once, and again only if it is the same. `quick`: a PACS that answers at once."""

    def __init__(self, log: ObservedLog) -> None:
        self._log = log
        self.batches: dict[str, tuple[str, tuple[Path, ...]]] = {}
        self.quick: Callable[[str], None] = lambda _call: None
        self.broken: Exception | None = None

    def enqueue(self, batch_id: str, peer: str, files: list[Path]) -> None:
        """See Outbox."""
        if batch_id.startswith("denied-"):
            if batch_id.replace("-", ":", 1) not in [one.key for one in self._log.entries() if one.kind is Kind.DENIED]:
                raise WrongOrder("a refusal was to be told before it was logged")
        elif not self._log.has(Kind.CALL_RESULT, batch_id):
            raise WrongOrder("a result was to be sent before CALL_RESULT was logged")
        if self.broken is not None:
            raise self.broken
        if self.batches.setdefault(batch_id, (peer, tuple(files))) != (peer, tuple(files)):
            raise WrongOrder("one call, two batches")
        self.quick(batch_id)


class FakeHalts:
    """What is halted: everything (`all`), or models by digest."""

    def __init__(self) -> None:
        self.all: Halt | None = None
        self.models: dict[str, Halt] = {}
        self.broken: Exception | None = None

    def halted(self, digest: str | None) -> Halt | None:
        """See stopping.Halts."""
        if self.broken is not None:
            raise self.broken
        return self.all or (None if digest is None else self.models.get(digest))


class World:
    """Everything but the pipeline; `pipeline()` makes one, and a second one is the process after a crash."""

    def __init__(self, folder: Path, library: Library) -> None:
        self.clock = Clock()
        signer = Signer.generate("test-site.zhiying/audit")
        inner = AuditLog.open(
            folder / "audit",
            origin="test-site.zhiying/audit",
            source=SITE,
            signer=signer,
            now=self.clock,
            software="test",
            disk=QUICK,
        )
        self.log = ObservedLog(inner)
        self.parties = Parties()
        self.library = library
        self.register = Register(inner, self.parties.trust(), signer.verifier)
        self.store = Store(create_engine("sqlite://"))  # in memory: what a disk keeps is test_store's matter
        self.reading = FakeReading(self.log)
        self.engine = FakeEngine(self.log)
        self.results = FakeResults(self.log)
        self.outbox = FakeOutbox(self.log)
        self.halts = FakeHalts()
        self.door = Door(self.halts, self.store.model_of_call)
        self.pseudonyms = Pseudonyms(b"k" * 32)
        self.identities = IdentityMap(folder / "identity", PeriodKeys(folder / "keys"))
        self.seen: list[tuple[str, str]] = []
        self.submitted: list[Run] = []
        self.autonomy = "A1"
        self.care_setting: str | None = "OP"
        self.evidence = (Evidence("pia:PIA-2026-03", None),)
        self.peer: str | None = PACS
        self.denials = False

    def close(self) -> None:
        """Let go of files."""
        self.store.close()
        self.log.inner.close()

    @property
    def names(self) -> Pseudonyms:
        """What names studies and inputs in the month of the test."""
        return self.identities.keys.names(PeriodKeys.month(self.clock.at))

    def approve(
        self,
        number: int = 1,
        *,
        conditions: dict[str, Any] | None = None,
        ref: ModelRef | None = None,
        **changes: object,
    ) -> None:
        """The whole life of the installed model's dossier, or of `ref`'s: from here on it may run LIVE."""
        ref = ref or self.library.find("small-model")
        terms = fields(ref, conditions, approval=f"TEST-2026-{number:04d}", **changes)
        Case(self.parties, self.register, self.log.inner, ref).live(terms)

    def pipeline(self) -> Pipeline:
        """The story's teller in a new process."""
        parts: dict[str, Any] = {
            "practice": Practice(SITE, self.autonomy, self.care_setting, "second_reader", self.evidence),
            "reading": self.reading,
            "log": self.log,
            "library": self.library,
            "register": self.register,
            "engine": self.engine,
            "results": self.results,
            "outbox": self.outbox,
            "peer": self.peer,
            "denials": self.denials,
            "store": self.store,
            "submit": self.submitted.append,
            "pseudonyms": self.pseudonyms,
            "identities": self.identities,
            "titles": frozenset({"MODALITY"}),
            "now": self.clock,
            "observe": lambda step, moment, _subject: self.seen.append((step, moment)),
            "guard": self.door.guard,
        }
        made = Pipeline(Parts(**parts))
        made._pause.set()  # a test does not sleep while the log is away
        return made

    def run(self, number: int = 1, *, digest: str = "0", study: str = STUDY) -> Run:
        """A new run in the table, as the assembler puts it there."""
        now = self.clock()
        run = Run(
            run_id=f"{digest[0] * 24}-{number}",
            study_uid=study,
            input_digest="sha256:" + digest[0] * 64,
            attempt=number,
            state=State.ASSEMBLED,
            trigger="COUNT_MATCHED",
            created_at=now,
            updated_at=now,
        )
        self.store.add(run)
        return run

    def tell(self, run: Run, *, until: Step = Step.RELEASED, crash: bool = False) -> Facts:
        """All steps up to `until`; with `crash` each one in a new process."""
        pipeline = self.pipeline()
        facts: Facts = {}
        for step, _ in pipeline.story:
            if crash:
                pipeline = self.pipeline()
            facts = pipeline.act(step, run.run_id, facts)
            if "ended" in facts or step is until:
                break
        return facts

    def entries(self, *kinds: Kind) -> list[Entry]:
        """The log's entries of these kinds; without any, all that tell of runs."""
        others = {Kind.LOG_START, Kind.CONFIG, Kind.LOG_READ, Kind.ERASURE, Kind.HEARTBEAT, Kind.EXPORT, Kind.APPROVAL}
        others |= {Kind.STATE_CHANGE, Kind.STOP, Kind.RESUME, Kind.ACCEPTANCE, Kind.GOLDEN}  # a dossier's life
        wanted = kinds or tuple(kind for kind in Kind if kind not in others)
        return [entry for entry in self.log.entries() if entry.kind in wanted]

    def kinds(self) -> list[str]:
        """The kinds of all entries that tell of runs, in order."""
        return [entry.kind.value for entry in self.entries()]


def _digest(text: str) -> str:
    return f"sha256:{hashlib.sha256(text.encode()).hexdigest()}"
