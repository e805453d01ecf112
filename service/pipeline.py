"""The story, step by step: received, assembled, selected, permitted, inferred, written, released.

Each step writes its entry into the audit log before the next one starts, and each may be repeated: after a crash the
workflow engine calls the step again that had not finished, and everything that a step does is either pure, or keyed so
that the second time finds the first. The order inside a step is always: make it durable, log it, show it.
"""

import itertools
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import StrEnum
from functools import partial
from typing import Any, Protocol, TypeVar

import structlog
from sqlalchemy.exc import OperationalError

from audit.entry import Draft, Entry
from audit.errors import AuditUnavailable
from audit.ticket import Proviso
from dicom_bridge.errors import BridgeError
from dicom_bridge.outbox import Outbox
from dicom_bridge.receipt import Receipt
from dicom_bridge.spool_index import Instance
from ethics_review import states as review
from ethics_review.permit import Permit
from ethics_review.register import Register
from inference import run as inference_run
from inference.checks import fit
from inference.errors import EngineDied
from models.errors import ModelError
from models.library import Library, VerifiedModel
from service import records
from service.errors import ServiceError
from service.faults import INTERNAL, Fault, explain
from service.heartbeat import CallLog
from service.identity import IdentityMap
from service.keys import Pseudonyms
from service.lacking import lacking, say_partly
from service.permitting import Device as Warmed
from service.permitting import Facts, Permitting, Practice, Sources
from service.reading import Reading
from service.results import ResultWriter, batch_of, is_denial
from service.sharing import Sharing
from service.store import Run, State, Store

RETRY_S = 1.0  # how often a step asks again whether the log and the database can be written

_log = structlog.get_logger()

T = TypeVar("T")


class Step(StrEnum):
    """The steps of the story, in order."""

    ASSEMBLED = "ASSEMBLED"
    SELECTED = "SELECTED"
    PERMITTED = "PERMITTED"
    INFERRED = "INFERRED"
    WRITTEN = "WRITTEN"
    RELEASED = "RELEASED"


BEFORE_THE_MODEL = frozenset({Step.ASSEMBLED, Step.SELECTED, Step.PERMITTED})


class Observer(Protocol):
    """Told about each step, before and after; used for metrics and by the crash tests."""

    def __call__(self, step: str, moment: str, subject: str) -> None:
        """`step` before and after (subject: the run); a kind of entry 'logged'; 'RELEASED' 'delivered' (the call)."""


Act = Callable[[Run, Facts], Facts]
Guard = Callable[[str, Act], Act]
"""Gives the act of a step, refused where the run's model is halted; see service.stopping."""


class Device(inference_run.EnginePort, Warmed, Protocol):
    """What runs models; `inference.engine.Engine`."""


@dataclass(frozen=True, slots=True)
class Parts:
    """Everything the story needs, made once in `wire`."""

    practice: Practice
    reading: Reading
    log: CallLog
    library: Library
    register: Register
    engine: Device
    results: ResultWriter
    outbox: Outbox
    peer: str | None  # its name in the configuration; the outbox knows the rest
    denials: bool  # whether the peer is told of the gate's refusals, too
    store: Store
    submit: Callable[[Run], object]  # into the line of what is to be run
    pseudonyms: Pseudonyms
    identities: IdentityMap
    titles: frozenset[str]  # AE titles of our configuration: others are whatever somebody typed
    now: Callable[[], datetime]
    observe: Observer
    guard: Guard


class Pipeline:
    """Runs the story for one run of one study."""

    def __init__(self, parts: Parts) -> None:
        self._p = parts
        self._permitting = Permitting(
            Sources(
                practice=parts.practice,
                register=parts.register,
                device=parts.engine,
                pseudonyms=parts.pseudonyms,
                patient=parts.reading.patient,
                record=self._record,
                denied=lambda run, facts, why: records.refused(
                    run.run_id, Step.PERMITTED, facts["study"], facts, explain(why)
                ),
                now=parts.now,
            )
        )
        self._sharing = Sharing(parts.store, parts.submit, parts.register, parts.pseudonyms, parts.now)
        self._permits: dict[str, Permit] = {}
        self._models: dict[str, VerifiedModel] = {}
        self._steps_ms: dict[str, dict[str, int]] = {}
        self._pause = threading.Event()  # never set: waiting on it is a sleep
        self.story = (
            (Step.ASSEMBLED, self.assembled),
            (Step.SELECTED, self.selected),
            (Step.PERMITTED, self.permitted),
            (Step.INFERRED, self.inferred),
            (Step.WRITTEN, self.written),
            (Step.RELEASED, self.sent),
        )

    def act(self, step: Step, run_id: str, facts: Facts) -> Facts:
        """One step behind the wall: gives its facts, or {'ended': state} when the run ends here.

        Nothing is raised: whatever goes wrong becomes an entry, a state and a code that a person can see.
        """
        act = self._p.guard(step, dict(self.story)[step])
        run = self._patiently(step, partial(self._p.store.get, run_id))
        self._p.observe(step, "before", run.run_id)
        began_s = time.monotonic()
        fault: Fault | None = None
        while True:
            try:
                ending = partial(act, run, facts) if fault is None else partial(self._end, run, step, facts, fault)
                new = self._patiently(step, ending)
                break
            except Exception as error:  # the pipeline's wall: recorded and reported, never swallowed
                if fault == INTERNAL:
                    # Not even the failure can be logged (a corrupt log): a person must see it all the same (I2).
                    self._show(run, State.FAILED, stage=step, code=explain(error).code, fault=explain(error).side)
                    raise
                _log.error("step_failed", step=step, run=run_id, error_type=type(error).__name__)
                fault = explain(error) if fault is None else INTERNAL
        self._steps_ms.setdefault(run_id, {})[step.value] = round((time.monotonic() - began_s) * 1000)
        self._p.observe(step, "after", run.run_id)
        if "ended" in new or step is Step.RELEASED:
            self._patiently(step, partial(self._forget, run_id))
        return facts | new

    def _patiently(self, step: Step, act: Callable[[], T]) -> T:
        """Ask again for as long as the log or the database is away: the AI stops, nothing is lost."""
        while True:
            try:
                return act()
            except (AuditUnavailable, OperationalError) as error:
                _log.error("step_waits", step=step, error_type=type(error).__name__)
                self._pause.wait(RETRY_S)

    # ---- the steps -----------------------------------------------------------------------------------------------

    def assembled(self, run: Run, _facts: Facts) -> Facts:
        """The study is complete: say what it holds."""
        instances = self._p.reading.instances(run)
        who = self._p.reading.patient(run)
        named = self._p.identities.name(run.created_at, run.study_uid, run.input_digest, who, now=self._p.now())
        self._record(
            records.assembled(
                run.run_id,
                study=named.study,
                committed=named.input,
                instances=len(instances),
                series=len({i.series_uid for i in instances}),
                trigger=run.trigger,
            )
        )
        return {
            "study": named.study,
            "committed": named.input,
            "patient": named.patient,
            "requester": self._requester(instances),
        }

    def selected(self, run: Run, facts: Facts) -> Facts:
        """One series fits one model's manifest, or nothing does and the reason is kept. Other models get other runs."""
        choice = self._sharing.own(run, self._p.reading.choose(run, self._p.library))
        ref, call = choice.ref, self._sharing.call_of(run, choice)
        series = self._p.identities.series(run.created_at, choice.series_uid, now=self._p.now())
        self._record(
            records.selected(run.run_id, study=facts["study"], series=series, ref=ref, modality=choice.modality)
        )
        model = records.model_body(ref)
        chosen = {"series_uid": choice.series_uid, "model": model, "call": call, "rule": choice.rule or None}
        self._show(run, State.SELECTED, **chosen)
        return {"series": choice.series_uid, "part": choice.part, "model": model, "call": call}

    def permitted(self, run: Run, facts: Facts) -> Facts:
        """The input is fit, and a third party's approval covers this call; the intent is in the log."""
        model = self._p.library.open(records.model_ref(facts["model"]))
        loaded = self._p.reading.series(run, facts["series"], facts["part"])
        fit(loaded.volume, model.manifest)
        permit, intent = self._permitting.permit(run, facts, model, loaded)
        self._permits[run.run_id] = permit
        self._show(run, State.PERMITTED, approval=permit.approval)
        # The intent's time is the one time that the results carry, whatever is repeated: same call, same bytes.
        # So is its receipt, and it is kept: a log key that is changed later must not change the objects.
        return {
            "approval": permit.approval,
            "state": permit.state,
            "intended_at": intent.time,
            "receipt": {"index": intent.index, "note": self._p.log.receipt(intent.index).note},
        }

    def inferred(self, run: Run, facts: Facts) -> Facts:
        """The model ran on one device; its findings are on disk."""
        shadow: Facts = {}
        if not self._p.results.kept(facts["call"]):
            # The files are hashed again: nobody may change a weight between the permit and the run.
            model = self._p.library.open(records.model_ref(facts["model"]))
            self._models[run.run_id] = model
            loaded = self._p.reading.series(run, facts["series"], facts["part"])
            # After a crash there is no permit in memory: the gate is asked again, with the clock of now.
            permit = self._permits.get(run.run_id)
            permit = permit or self._permitting.permit(run, facts, model, loaded, intended=True)[0]
            if not permit.released:
                shadow = {"state": permit.state}  # the two permits may differ: the closer one counts
            try:
                findings = inference_run.run(permit, model, loaded.volume, self._p.engine, self._p.now())
            except EngineDied:  # something outside killed it (memory, driver): once more, with a new child
                findings = inference_run.run(permit, model, loaded.volume, self._p.engine, self._p.now())
            self._p.results.keep(facts["call"], findings)
        self._show(run, State.INFERRED)
        return shadow

    def written(self, run: Run, facts: Facts) -> Facts:
        """SR and SEG exist, are valid and hashed; what they say is in the log."""
        # Only the manifest is needed now, and it is the one that ran.
        model = self._models.get(run.run_id) or self._p.library.open(records.model_ref(facts["model"]))
        loaded = self._p.reading.series(run, facts["series"], facts["part"])
        supersedes = self._superseded(run, facts["call"])
        receipt = Receipt(**facts["receipt"])
        written = self._p.results.write(facts["call"], model, loaded, facts["intended_at"], receipt, supersedes)
        self._record(records.call_result(facts["call"], written))
        self._show(
            run,
            # Of a shadow run this is the end: never WRITTEN, which says that something is on its way to the PACS.
            State.SHADOWED if _is_shadow(facts) else State.WRITTEN,
            outputs=written.outputs,
            measurements=written.measurements,
            timing_ms=written.timing_ms,
            **say_partly(Step.WRITTEN, written.failed),
        )
        return {"outputs": written.outputs}

    def sent(self, _run: Run, facts: Facts) -> Facts:
        """Handed to the outbox, which tries for days; `delivered` ends the story. What ran in the shadow stays here."""
        if _is_shadow(facts):
            return {"ended": State.SHADOWED}
        if self._p.peer is None:
            return {}
        self._p.outbox.enqueue(facts["call"], self._p.peer, self._p.results.files(facts["call"]))
        return {}

    def delivered(
        self, call: str, peer: str, attempts: int, proof: str, left_out: Mapping[str, str] | None = None
    ) -> None:
        """The PACS has every object but those `left_out`, UID and code. Called by the outbox, again after a crash."""
        if is_denial(call):
            return  # no result has left: the refusal's own entry is all that is to be said
        runs = self._p.store.of_call(call)
        outputs = [one for one in (runs[-1].outputs if runs else []) if one["uid"] not in (left_out or {})]
        self._p.observe(Step.RELEASED, "delivered", call)
        self._record(records.released(call, outputs=outputs, peer=peer, attempts=attempts, proof=proof))
        for run in runs[-1:]:
            waited = self._p.now() - run.updated_at
            steps_ms = {**run.steps_ms, "DELIVERED": waited // timedelta(milliseconds=1)}
            # Sent again by a person after it was UNDELIVERED: what was wrong then is over.
            unmade, partly = self._p.results.unmade(call), self._p.results.partly(call)
            what = lacking(left_out or {}, unmade, partly=partly)
            stage, code, fault = (None, None, None) if what is None else (Step.RELEASED, what.code, what.side)
            self._show(run, State.RELEASED, stage=stage, code=code, fault=fault, steps_ms=steps_ms)

    def undelivered(self, call: str, code: str) -> None:
        """The PACS refused an object for good, or stayed away too long."""
        for run in self._p.store.of_call(call)[-1:]:
            if run.state is not State.WRITTEN:
                continue
            study = self._study(run)
            draft = records.failed(run.run_id, study=study, stage=Step.RELEASED, code=code, fault="SITE", call=call)
            self._record(draft)
            self._show(run, State.UNDELIVERED, stage=Step.RELEASED, code=code, fault="SITE")

    # ---- what the steps share ------------------------------------------------------------------------------------

    def _superseded(self, run: Run, call: str) -> str | None:
        """The newest earlier call of this study and model that has a report: late images make another one (I6)."""
        model = run.model or {}
        runs = self._p.store.of_study(run.study_uid)
        # A run that was overtaken must not take the place of the newer report: only what began before it counts.
        before = itertools.takewhile(lambda other: other.run_id != run.run_id, runs)
        earlier = [
            other
            for other in before
            if other.state in (State.WRITTEN, State.RELEASED)
            # Another version beside this one, on the same images, is no earlier result.
            and (other.input_digest, other.attempt) != (run.input_digest, run.attempt)
            and other.call not in (None, call)
            and (other.model or {}).get("name") == model.get("name")
        ]
        same = [other for other in earlier if (other.model or {}).get("digest") == model.get("digest")]
        return (same or earlier)[-1].call if earlier else None

    def _end(self, run: Run, step: Step, facts: Facts, fault: Fault) -> Facts:
        refused = step in BEFORE_THE_MODEL and not fault.internal
        call = facts.get("call")
        study = facts.get("study") or self._study(run)
        if refused:
            draft = records.refused(run.run_id, step, study, facts, fault)
            entry = self._record(draft)
            if step is Step.PERMITTED and self._p.denials:
                self._show_denial(run, facts, fault.code, entry)
        else:
            draft = records.failed(run.run_id, study=study, stage=step, code=fault.code, fault=fault.side, call=call)
            self._record(draft)
        state = State.REFUSED if refused else State.FAILED
        seen = {"condition": fault.condition, "observed": fault.observed}
        self._show(run, state, stage=step, code=fault.code, fault=fault.side, **seen)
        _log.warning("run_ended", run=run.run_id, state=state, stage=step, code=fault.code, fault=fault.side)
        return {"ended": state}

    def _show_denial(self, run: Run, facts: Facts, code: str, entry: Entry) -> None:
        """Tell the PACS. It is a courtesy: where it cannot be made, the entry and the table of runs have said it."""
        if self._p.peer is None:
            return
        try:
            model = self._p.library.open(records.model_ref(facts["model"]))
            loaded = self._p.reading.series(run, facts["series"], facts["part"])
            receipt = Receipt(entry.index, self._p.log.receipt(entry.index).note)
            report = self._p.results.deny(entry.key, code, model, loaded, entry.time, receipt)
            self._p.outbox.enqueue(batch_of(entry.key), self._p.peer, [report])
        except AuditUnavailable:
            raise
        except (BridgeError, ModelError, ServiceError, OSError) as error:
            why = getattr(error, "code", type(error).__name__)
            _log.warning("denial_not_shown", run=run.run_id, code=why)

    def _record(self, draft: Draft, proviso: Proviso | None = None) -> Entry:
        """Append; for as long as the log cannot be written AuditUnavailable leaves the step, which is then repeated."""
        entry = self._p.log.append(draft, proviso)
        self._p.observe(draft.kind, "logged", draft.call or "")
        return entry

    def _forget(self, run_id: str) -> None:
        """The workflow is over: let go of what was kept in memory for it."""
        self._p.reading.forget(run_id)
        self._permits.pop(run_id, None)
        self._models.pop(run_id, None)
        # A quick PACS has it already: what `delivered` wrote meanwhile stays.
        steps_ms = {**self._p.store.get(run_id).steps_ms, **self._steps_ms.get(run_id, {})}
        self._p.store.update(run_id, self._p.now(), steps_ms=steps_ms)
        self._steps_ms.pop(run_id, None)

    def _study(self, run: Run) -> str:
        return self._p.identities.study(run.created_at, run.study_uid, now=self._p.now())

    def _requester(self, instances: Sequence[Instance]) -> str | None:
        """The AE title that sent all of it, where our configuration knows it."""
        senders = {one.sender for one in instances}
        return senders.pop() if len(senders) == 1 and senders <= self._p.titles else None

    def _show(self, run: Run, state: State, **changes: Any) -> None:
        self._p.store.update(run.run_id, self._p.now(), state=state, **changes)


def _is_shadow(facts: Facts) -> bool:
    """Whether readers may not see the results: whatever is not plainly LIVE."""
    return bool(facts["state"] != review.State.LIVE)
