"""A labelled local set through the parts of the real pipeline, without sending anything: the numbers before LIVE.

For each case, as for a study: the series that fits is read, the gate is asked, the intent is logged, the model runs,
SEG and SR are made and checked, the result is logged. Then a CASE entry, and after the last one an ACCEPTANCE entry.
Each entry has a key that is made of the dataset, the model and the approval: whatever is interrupted goes on where it
was, and what is done is not done again. Results stay in the data folder's `evaluation`, and go to no peer.
"""

import errno
import hashlib
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from datetime import datetime
from fractions import Fraction
from importlib import resources
from pathlib import Path
from typing import Final

import numpy as np

from audit.canonical import JsonValue, canonical
from audit.entry import Draft, Entry, Kind
from audit.errors import AuditUnavailable, Overtaken
from audit.log import AuditLog
from dicom_bridge import candidates, selection, volume
from dicom_bridge.errors import VolumeRefused
from dicom_bridge.patient import read_patient
from dicom_bridge.receipt import Receipt
from dicom_bridge.rules import Rule
from dicom_bridge.selection import NO_RULE_MATCHES, NoFit
from dicom_bridge.truth import TruthUnusable, read_mask
from dicom_bridge.validity import OutputInvalid
from dicom_bridge.volume import LoadedSeries
from ethics_review import acceptance, metrics
from ethics_review.acceptance import NO, REFUSED, UNDECIDED, YES, Acceptance, Claim
from ethics_review.dossier import Approval
from ethics_review.errors import Refused
from ethics_review.gate import NOT_KNOWN, NOT_MET, decide
from ethics_review.permit import Permit
from ethics_review.register import Register
from ethics_review.sequential import text
from inference import run as inference_run
from inference.checks import fit
from inference.errors import EngineDied, EngineError, InputUnfit, OutputImplausible
from inference.types import BoolArray, Findings
from models.library import VerifiedModel
from service import records
from service.dataset import Dataset, LabelledCase, files_of
from service.errors import DatasetInvalid, NothingFits
from service.faults import Fault, explain
from service.identity import IdentityMap
from service.keys import PeriodKeys, Pseudonyms
from service.permitting import LOOKS_MAX, OVERTAKEN, Practice, asked, names_of_images, rests_on
from service.pipeline import Device, Step
from service.reading import NoRuleMatches
from service.results import ResultWriter

KEY_HEX: Final = 32
OF_THE_CASE: Final = frozenset({NOT_KNOWN, NOT_MET, "OPTED_OUT", "SUBGROUP_CUT_OFF", "MINOR_NOT_COVERED"})
"""Refusals that say something of the case. Every other one (stopped, expired, no more calls today) says something of
the moment: the evaluation ends there, and goes on when it is started again."""

SOURCES: Final = (
    ("ethics_review", "acceptance.py"),
    ("ethics_review", "gaps.py"),
    ("ethics_review", "metrics.py"),
    ("ethics_review", "sequential.py"),
    ("ethics_review", "vocabulary.py"),
    ("dicom_bridge", "truth.py"),
    ("service", "evaluating.py"),
)
"""Everything that decides a number of an acceptance."""


@dataclass(frozen=True, slots=True)
class Parts:
    """What an evaluation needs of a site."""

    practice: Practice
    log: AuditLog
    register: Register
    engine: Device
    results: ResultWriter
    pseudonyms: Pseudonyms
    identities: IdentityMap
    rules: Sequence[Rule]
    now: Callable[[], datetime]


@dataclass(frozen=True, slots=True)
class _Read:
    """One case's images, whose they may be (as opt-outs name them), and the segment's mask where there is one."""

    study: str
    names: tuple[str, ...]
    loaded: LoadedSeries
    mask: BoolArray | None


class Evaluation:
    """One dataset, one model, one approval."""

    def __init__(self, parts: Parts, model: VerifiedModel, approval: Approval, dataset: Dataset) -> None:
        """Raises DatasetInvalid where the labels are not of what the model answers; OSError."""
        if dataset.segment is not None and dataset.segment not in {one.number for one in model.manifest.segments}:
            raise DatasetInvalid(f"segment: the model has no segment {dataset.segment}")
        told = [one.id for one in model.manifest.classifications]
        if dataset.classification is not None and dataset.classification not in told:
            raise DatasetInvalid(f"classification: the model has no classification {dataset.classification}")
        if dataset.task == "CLASSIFICATION" and told and dataset.classification is None:
            # Guessed, the truth of one thing would be held against the answer to another.
            raise DatasetInvalid(f"classification: one of the model's wanted: {', '.join(told)}")
        self._p, self._model, self._approval, self._dataset = parts, model, approval, dataset
        self.digest = dataset.digest()
        self.claim = Claim(model.ref.digest, approval.id, self.digest, metrics.fewest(approval.acceptance))

    def run(self, progress: Callable[[int, int], object]) -> Acceptance:
        """Every case that has no CASE entry yet, then the numbers. `progress` is told (done, all) after each.

        Raises what stands in the way (Refused, EngineError, DatasetInvalid, AuditError, OSError): start it again.
        """
        calls = {case.id: self._call(case) for case in self._dataset.cases}
        ends = self._ends(frozenset(calls.values()))
        for done, case in enumerate(self._dataset.cases, 1):
            call = calls[case.id]
            ended = ends.get(call, {})
            if Kind.CASE not in ended:
                self._case(case, call, ended)
            progress(done, len(calls))
        if self._dataset.digest() != self.digest:
            raise DatasetInvalid("the dataset changed while it was read; leave it alone and start again")
        return acceptance.acceptance_of(self._p.log.entries(), self.claim)

    def conclude(self, found: Acceptance, unmet: int, report: str) -> Entry:
        """The ACCEPTANCE entry; the one that there is, where these numbers and this report were logged before."""
        if len(found.rows) > acceptance.ROWS_MAX:
            raise DatasetInvalid(f"{len(found.rows)} rows, {acceptance.ROWS_MAX} at most: split the dataset")
        body: dict[str, JsonValue] = {
            "model": records.model_body(self._model.ref),
            "approval": self._approval.id,
            "dataset": self.digest,
            "cases": found.cases,
            "rows": [row.body() for row in found.rows],
            "unmet": unmet,
            "report": report,
            "code": code_digest(),
        }
        key = hashlib.sha256(canonical(body)).hexdigest()[:KEY_HEX]
        return self._p.log.append(Draft(Kind.ACCEPTANCE, f"acceptance:{key}", body))

    def _call(self, case: LabelledCase) -> str:
        # Keyed, so that nobody tries out the ids of a hospital's cases; and never the name of a call in service.
        claim = self.claim
        return self._p.pseudonyms.of("evaluate", claim.dataset, claim.model, claim.approval, case.id)

    def _ends(self, calls: frozenset[str]) -> Mapping[str, Mapping[Kind, Entry]]:
        """What an earlier try has logged of these calls."""
        found: dict[str, dict[Kind, Entry]] = {}
        for entry in self._p.log.entries():
            if entry.call in calls:
                found.setdefault(str(entry.call), {})[entry.kind] = entry
        return found

    # ---- one case --------------------------------------------------------------------------------------------------

    def _case(self, case: LabelledCase, call: str, ended: Mapping[Kind, Entry]) -> None:
        # Cut off between the end of the call and its CASE: what the log says already is how it ended.
        if Kind.DENIED in ended:
            self._record(call, case, failed=REFUSED)
            return
        if Kind.FAILED in ended:
            self._failed(call, case)
            return
        study, paths = self._study(case)
        try:
            read = self._read(case, study, paths)
            permit, intent = self._permitted(call, read)
        except (NothingFits, VolumeRefused, InputUnfit, Refused) as error:
            fault = explain(error)
            if isinstance(error, Refused) and fault.code not in OF_THE_CASE:
                raise
            self._append(self._denied(call, study, fault))
            self._record(call, case, failed=REFUSED)
            return
        try:
            findings = self._inferred(call, permit, read)
            if findings.failed:
                # No whole answer: a model must not look better for what it leaves out where it fails.
                raise OutputImplausible(findings.failed[0].code, f"{findings.failed[0].output} did not pass its check")
            self._written(call, read, intent)
        except (OutputImplausible, EngineError, OutputInvalid) as error:
            fault = explain(error)
            if fault.internal:
                raise
            step = Step.WRITTEN if isinstance(error, OutputInvalid) else Step.INFERRED
            named = self._name(study)
            draft = records.failed(call, study=named, stage=step, code=fault.code, fault=fault.side, call=call)
            self._append(draft)
            self._failed(call, case)
            return
        self._record(call, case, failed=NO, **self._judged(case, read, findings))

    def _study(self, case: LabelledCase) -> tuple[str, Mapping[str, Sequence[Path]]]:
        folder = candidates.sort_files(files_of(case))
        if len(folder.studies) != 1:
            raise DatasetInvalid(f"case {case.id}: its folder holds {len(folder.studies)} studies, one wanted")
        [(study, series)] = folder.studies.items()
        return study, series

    def _read(self, case: LabelledCase, study: str, series: Mapping[str, Sequence[Path]]) -> _Read:
        """The one volume that fits, chosen as the service chooses; and the mask, before the model is asked."""
        read = {uid: candidates.read_series(paths, {}, {}) for uid, paths in series.items()}
        summaries = [one for found in read.values() for one in found.summaries]
        choice = selection.choose(summaries, {self._model.ref: self._model.manifest}, self._p.rules)
        if isinstance(choice, NoFit):
            farthest = choice.farthest
            refused = NoRuleMatches if choice.code == NO_RULE_MATCHES else NothingFits
            decided = farthest.decided_by if farthest else None
            raise refused(decided.value if decided else "NO_MODEL_OR_NO_SERIES")
        paths = series[choice.series_uid]
        slices = read[choice.series_uid].slices or volume.read_slices(paths)
        loaded = volume.build(slices, _input_digest(paths, choice.part), part=choice.part)
        fit(loaded.volume, self._model.manifest)
        try:
            mask = None if case.mask is None else read_mask(case.mask, loaded.volume)
        except TruthUnusable as error:
            raise DatasetInvalid(f"case {case.id}: {error}") from None
        patient = read_patient(paths[0], None)
        names = () if patient is None else names_of_images(self._p.pseudonyms, patient)
        return _Read(study, names, loaded, mask)

    def _permitted(self, call: str, read: _Read) -> tuple[Permit, Entry]:
        """The gate is asked as the pipeline asks it, about this one approval; its yes is logged first."""
        for _ in range(LOOKS_MAX):
            with suppress(Overtaken):
                return self._asked(call, read)
        raise AuditUnavailable(OVERTAKEN, errno.EBUSY)

    def _asked(self, call: str, read: _Read) -> tuple[Permit, Entry]:
        model, register, now = self._model, self._p.register, self._p.now()
        seen = register.size
        # Of this approval alone: another one's yes would not be what the reviewer asked about.
        standings = [
            replace(one, approvals=(self._approval,))
            for one in register.standings(now)
            if self._approval in one.approvals
        ]
        latest = register.latest_known()
        request = asked(
            self._p.practice,
            call,
            model,
            read.loaded,
            opted_out=any(map(register.opted_out, read.names)) if read.names else None,
            calls_today=register.calls_today(model.ref.digest, now),
            at=max(now, latest or now),
        )
        permit = decide(request, standings, register.stops(), now, latest_known=latest)
        self._p.engine.warm(model)
        state = self._p.engine.describe()
        subject = records.Subject(
            site=self._p.practice.site,
            requester=None,
            # Nobody needs to find a person behind a labelled case, so nothing is kept that could.
            patient=None,
            study=self._name(read.study),
            committed=self._names().of("input", read.study, read.loaded.volume.source_digest),
            instances=len({frame.sop_uid for frame in read.loaded.frames}),
        )
        runtime = {"device": str(state["device"])} | state["runtime"]
        card = records.card_digest(model)
        draft = records.call_intent(permit, subject, card=card, runtime=runtime, purpose=records.ACCEPTANCE)
        return permit, self._p.log.append(draft, rests_on(seen, model.ref, standings, max(now, latest or now)))

    def _inferred(self, call: str, permit: Permit, read: _Read) -> Findings:
        if not self._p.results.kept(call):
            try:
                findings = inference_run.run(permit, self._model, read.loaded.volume, self._p.engine, self._p.now())
            except EngineDied:  # something outside killed it: once more, as in service
                findings = inference_run.run(permit, self._model, read.loaded.volume, self._p.engine, self._p.now())
            self._p.results.keep(call, findings)
        return self._p.results.findings(call)

    def _written(self, call: str, read: _Read, intent: Entry) -> None:
        """SEG and SR as in service: an answer of which no valid object can be made would reach no reader either."""
        receipt = Receipt(intent.index, self._p.log.receipt(intent.index).note)
        made = self._p.results.write(call, self._model, read.loaded, intent.time, receipt, None)
        self._append(records.call_result(call, made))

    def _judged(self, case: LabelledCase, read: _Read, findings: Findings) -> dict[str, JsonValue]:
        """What the label says of the model's answer, each figure as it is logged."""
        found = {one.number: one.mask for one in findings.segments}
        said: dict[str, JsonValue] = {}
        if case.truth is not None:
            said |= self._told(findings)
        mine = found.get(self._dataset.segment or 0)
        if mine is None:
            return said
        voxels = int(np.count_nonzero(mine))
        error: Fraction | None = None
        if read.mask is not None:
            true = int(np.count_nonzero(read.mask))
            said["dice"] = text(metrics.dice_of(int(np.count_nonzero(mine & read.mask)), voxels, true))
            error = metrics.volume_error_of(Fraction(voxels), Fraction(true))
        if case.volume_cm3 is not None:
            measured = Fraction(voxels) * Fraction(read.loaded.volume.voxel_mm3) / 1000
            error = metrics.volume_error_of(measured, case.volume_cm3)
        if error is not None:
            said["volume_error"] = text(error)
        return said

    def _told(self, findings: Findings) -> dict[str, JsonValue]:
        """Whether it is there, by the model: the classification that the dataset names, or anything at all."""
        named = [one for one in findings.classifications if one.id == self._dataset.classification]
        if not named:
            return {"positive": YES if findings.detections or any(one.part.size for one in findings.segments) else NO}
        [one] = named
        positive = {"PRESENT": YES, "ABSENT": NO}.get(one.presence, UNDECIDED)
        return {"positive": positive, "score": None if one.score is None else text(Fraction(one.score))}

    def _failed(self, call: str, case: LabelledCase) -> None:
        """No answer is the worst one: nothing of the outline was found, all of the volume is missing."""
        said: dict[str, JsonValue] = {"dice": text(0)} if case.mask is not None else {}
        if case.mask is not None or case.volume_cm3 is not None:
            said["volume_error"] = text(-1)
        self._record(call, case, failed=YES, **said)

    def _record(self, call: str, case: LabelledCase, *, failed: str, **said: JsonValue) -> None:
        body: dict[str, JsonValue] = {
            "approval": self._approval.id,
            "dataset": self.digest,
            "truth": case.truth,
            "positive": None,
            "score": None,
            "dice": None,
            "volume_error": None,
            "failed": failed,
            **said,
        }
        self._append(Draft(Kind.CASE, f"case:{call}", body, call))

    def _denied(self, call: str, study: str, fault: Fault) -> Draft:
        return records.denied(
            call,
            study=self._name(study),
            stage=Step.PERMITTED,
            code=fault.code,
            condition=fault.condition,
            observed=fault.observed,
            ref=self._model.ref,
            call=call,
            purpose=records.ACCEPTANCE,
        )

    def _append(self, draft: Draft) -> Entry:
        return self._p.log.append(draft)

    def _name(self, study: str) -> str:
        now = self._p.now()
        return self._p.identities.study(now, study, now=now)

    def _names(self) -> Pseudonyms:
        return self._p.identities.keys.names(PeriodKeys.month(self._p.now()))


def code_digest() -> str:
    """ "sha256:..." over the sources that decide a number."""
    files = ((f"{folder}/{name}", resources.files(folder).joinpath(name).read_bytes()) for folder, name in SOURCES)
    return acceptance.digest_of_sources(files)


def _input_digest(paths: Sequence[Path], part: str) -> str:
    """Of the exact files, in no order, and of the volume that is meant."""
    each = sorted(hashlib.sha256(path.read_bytes()).hexdigest() for path in paths)
    return f"sha256:{hashlib.sha256(' '.join([*each, part]).encode()).hexdigest()}"
