"""An evaluation's world in a folder: a real log, library, register and results; a device that labels what is bright."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from audit.entry import Draft, Entry, Kind
from audit.errors import AuditUnavailable
from audit.log import AuditLog
from audit.note import Signer
from audit.ticket import Proviso
from ethics_review.dossier import Approval
from ethics_review.register import Register
from inference.found import FoundBox
from inference.types import Prediction, Volume
from models.library import Library, VerifiedModel
from models.ref import ModelRef
from service import dataset
from service.evaluating import Evaluation, Parts
from service.identity import IdentityMap
from service.keys import PeriodKeys, Pseudonyms
from service.permitting import Evidence, Practice
from service.results import ResultStyle, ResultWriter
from tests.simulators import small_model
from tests.simulators.audit_log import QUICK
from tests.simulators.parties import Case, Parties
from tests.simulators.reviewer import fields
from tests.simulators.story import Clock, WrongOrder

SITE = "test-site"
ORIGIN = "test-site.zhiying/audit"
TIMING_MS = {"load": 0, "preprocess": 1, "forward": 2, "postprocess": 3, "total": 6}


class Refusing:
    """The log, which refuses the append of this number and every one after it; -1 never does."""

    def __init__(self, inner: AuditLog) -> None:
        self.inner, self.refuse_at, self.appended = inner, -1, 0
        self.before_intent: Callable[[], object] | None = None
        """What happens once, just before an intent is logged."""

    def append(self, draft: Draft, proviso: Proviso | None = None) -> Entry:
        """See AuditLog."""
        if self.appended == self.refuse_at:
            raise AuditUnavailable("the disk refuses")
        self.appended += 1
        if self.before_intent is not None and draft.kind is Kind.CALL_INTENT:
            happens, self.before_intent = self.before_intent, None
            happens()
        return self.inner.append(draft, proviso)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.inner, name)


class Bright:
    """A device. `failures` are raised first, one by one; complains where the model is asked before the log knows."""

    def __init__(self, log: Refusing) -> None:
        self._log = log
        self.failures: list[Exception] = []
        self.refuses_to_load: Exception | None = None
        self.inferred = 0
        self.scores: tuple[float, ...] = ()
        self.boxes: tuple[FoundBox, ...] | None = None
        self.answer: Callable[[np.ndarray[Any, Any]], np.ndarray[Any, Any]] = lambda voxels: voxels > 0.5

    def warm(self, _model: VerifiedModel) -> None:
        """See Device."""
        if self.refuses_to_load is not None:
            raise self.refuses_to_load

    def describe(self) -> Mapping[str, Any]:
        """See Device."""
        return {"device": "cpu", "runtime": {"torch": "2.13.0"}}

    def infer(self, _model: VerifiedModel, volume: Volume, _deadline_s: float) -> Prediction:
        """See EnginePort."""
        self.inferred += 1
        intents = sum(entry.kind is Kind.CALL_INTENT for entry in self._log.inner.entries())
        results = sum(entry.kind is Kind.CALL_RESULT for entry in self._log.inner.entries())
        if intents <= results:
            raise WrongOrder("the model saw voxels before CALL_INTENT was logged")
        if self.failures:
            raise self.failures.pop(0)
        labels = self.answer(volume.voxels).astype(np.uint8)
        return Prediction(labels, TIMING_MS, "cpu", {"torch": "2.13.0"}, scores=self.scores, boxes=self.boxes)


class Shadow:
    """Everything that an evaluation needs; `evaluation()` makes one, and a second one is the process after a crash."""

    def __init__(self, folder: Path, **changes: object) -> None:
        """`changes`: of the model's manifest."""
        self.folder, self.clock = folder, Clock()
        signer = Signer.generate(ORIGIN)
        opened = AuditLog.open(
            folder / "audit", origin=ORIGIN, source=SITE, signer=signer, now=self.clock, software="test", disk=QUICK
        )
        self.log = Refusing(opened)
        self.library = Library(folder / "library")
        fields = small_model.manifest_fields()
        contract = fields["input"] | {"slices": [8, 40], "fov_mm": [10.0, 100.0]}
        measured = [fields["measurements"][0] | {"plausible": [0.1, 50.0]}]
        self.ref: ModelRef = self.library.install(
            small_model.stage(folder / "staged", **{"input": contract, "measurements": measured} | changes)
        )
        self.parties = Parties()
        self.register = Register(opened, self.parties.trust(), signer.verifier)
        self.case = Case(self.parties, self.register, opened, self.ref)
        self.device = Bright(self.log)

    def approve(self, number: int = 1, **conditions: Any) -> Approval:
        """An approval that is in force, of a model that is tried in the shadow."""
        terms = {"manufacturer": ["*"], "sex": ["F", "M", "O"], "site": [SITE]} | conditions
        if self.case.state is None:
            self.case.submitted()
        note = self.case.approval(fields(self.ref, terms, approval=f"TEST-{number:04d}"))
        approval = self.register.record(note)
        if number == 1:
            self.case.deploy()
        return approval

    def evaluation(self, root: Path, approval: Approval) -> Evaluation:
        """One over the set in this folder."""
        style = ResultStyle(device_serial=SITE, version="0.1.0", language="zh-CN", charset="GB18030")
        parts = Parts(
            practice=Practice(SITE, "A1", "OP", "second_reader", (Evidence("pia:PIA-2026-03", None),)),
            log=self.log,  # type: ignore[arg-type]
            register=self.register,
            engine=self.device,
            results=ResultWriter(self.folder / "evaluation", style),
            pseudonyms=Pseudonyms.load(self.folder / "pseudonym.key"),
            identities=IdentityMap(self.folder / "identity", PeriodKeys(self.folder / "keys")),
            rules=(),
            now=self.clock,
        )
        return Evaluation(parts, self.library.open(self.ref), approval, dataset.read(root))

    def entries(self, *kinds: Kind) -> list[Entry]:
        """The log's entries of these kinds, or all."""
        told = kinds or tuple(set(Kind) - {Kind.STATE_CHANGE, Kind.APPROVAL})
        return [entry for entry in self.log.inner.entries() if entry.kind in told]

    def case_of(self, place: int) -> Mapping[str, Any]:
        """The body of a CASE, by its place in the log."""
        return self.entries(Kind.CASE)[place].body
