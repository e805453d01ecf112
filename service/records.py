"""What each step of the story writes into the audit log: drafts of entries, and the keys that make them happen once.

Pure. Nothing here may carry patient data: studies, series and inputs appear as keyed pseudonyms, observed values as
classes; `audit.entry` refuses anything else.
"""

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

from audit.canonical import JsonValue, canonical
from audit.entry import Draft, Kind
from audit.errors import EntryInvalid
from audit.schema import OBSERVED, Maybe
from ethics_review.permit import Permit
from models.library import VerifiedModel
from models.manifest import MANIFEST_NAME
from models.ref import ModelRef
from service.faults import Fault

SERIES_OF_A_CALL = 1  # a model reads one volume of one series
ACCEPTANCE: Final = "ACCEPTANCE"
"""Purpose of a call on a case of a labelled set: no monitoring counts it, and its result is never released."""
INTENT_KEY_HEX = 16  # of the body's digest: another approval makes another intent, a retry does not


def model_body(ref: ModelRef) -> dict[str, JsonValue]:
    """A model as entries name it."""
    return {"name": ref.name, "version": ref.version, "digest": ref.digest}


def model_ref(body: Mapping[str, Any]) -> ModelRef:
    """The inverse of `model_body`."""
    return ModelRef(name=body["name"], version=body["version"], digest=body["digest"])


def assembled(run_id: str, *, study: str, committed: str, instances: int, series: int, trigger: str) -> Draft:
    """A study was believed complete, and why."""
    body: dict[str, JsonValue] = {
        "study": study,
        "input": committed,
        "instances": instances,
        "series": series,
        "trigger": trigger,
    }
    return Draft(kind=Kind.ASSEMBLED, key=f"assembled:{run_id}", body=body)


def selected(run_id: str, *, study: str, series: str, ref: ModelRef, modality: str) -> Draft:
    """A manifest fits one series of the study."""
    body: dict[str, JsonValue] = {"study": study, "series": series, "model": model_body(ref), "modality": modality}
    return Draft(kind=Kind.SELECTED, key=f"selected:{run_id}", body=body)


@dataclass(frozen=True, slots=True)
class Subject:
    """What a call is about. `patient`, `study`, `committed`: pseudonyms; `requester`: the AE title that sent it all,
    None where more than one did or our configuration does not know it; `instances`: those that the model is given.
    """

    site: str
    requester: str | None
    patient: str | None
    study: str
    committed: str
    instances: int


def card_digest(model: VerifiedModel) -> str:
    """The digest of the model's card: of its manifest as it lies in the library."""
    return f"sha256:{hashlib.sha256((model.path / MANIFEST_NAME).read_bytes()).hexdigest()}"


def call_intent(
    permit: Permit, subject: Subject, *, card: str, runtime: Mapping[str, str], purpose: str | None = None
) -> Draft:
    """The permit, written down before the model sees a voxel. `purpose`: None for a study that somebody waits for."""
    body: dict[str, JsonValue] = {
        "site": subject.site,
        "requester": told(subject.requester),
        "patient": subject.patient,
        "study": subject.study,
        "series": SERIES_OF_A_CALL,
        "instances": subject.instances,
        "input": subject.committed,
        "card": card,
        "model": model_body(permit.model),
        "approval": permit.approval,
        "policy": permit.policy,
        "autonomy": permit.autonomy,
        "state": permit.state,
        "checks": [
            {"condition": c.condition.upper(), "outcome": c.outcome, "observed": c.observed} for c in permit.checks
        ],
        "runtime": dict(runtime),
        **_of(purpose),
    }
    digest = hashlib.sha256(canonical(body)).hexdigest()[:INTENT_KEY_HEX]
    return Draft(kind=Kind.CALL_INTENT, key=f"intent:{permit.call}:{digest}", call=permit.call, body=body)


@dataclass(frozen=True, slots=True)
class Written:
    """What a model found, and the exact objects that say so. `outcome`: as Findings.outcome; times in milliseconds.

    `failed`: of a result that lacks some of the model's outputs, which ("output"), and why ("code").
    """

    outputs: list[dict[str, str]]
    outcome: str
    measurements: list[dict[str, str]]
    timing_ms: dict[str, int]
    device: str
    deadline_ms: int
    software: str
    failed: list[dict[str, str]] = field(default_factory=list)


def call_result(call: str, written: Written) -> Draft:
    """What came of a call, before any of its objects is sent."""
    in_time = written.timing_ms["total"] <= written.deadline_ms
    body: dict[str, JsonValue] = {
        "outputs": [dict(o) for o in written.outputs],
        "outcome": written.outcome,
        "measurements": [dict(m) for m in written.measurements],
        "timing_ms": dict(written.timing_ms),
        "deadline_ms": written.deadline_ms,
        "deadline_met": "YES" if in_time else "NO",
        "device": written.device,
        "software": written.software,
        **({"failed": [dict(one) for one in written.failed]} if written.failed else {}),
    }
    return Draft(kind=Kind.CALL_RESULT, key=f"result:{call}", call=call, body=body)


def released(call: str, *, outputs: Sequence[Mapping[str, str]], peer: str, attempts: int, proof: str) -> Draft:
    """The PACS has them; `proof` says how we know: it committed them, it finds them, or it answered so."""
    body: dict[str, JsonValue] = {
        "outputs": [{"uid": o["uid"], "digest": o["digest"]} for o in outputs],
        "peer": peer,
        "attempts": attempts,
        "proof": proof,
    }
    return Draft(kind=Kind.RELEASED, key=f"released:{call}", call=call, body=body)


DENIAL: Final = "denied:"
"""How the key of a run's refusal begins."""


def denied(
    run_id: str,
    *,
    study: str,
    stage: str,
    code: str,
    condition: str | None,
    observed: str | None,
    ref: ModelRef | None,
    call: str | None,
    purpose: str | None = None,
) -> Draft:
    """The AI did not run, and which rule said so. `purpose`: as of `call_intent`."""
    body: dict[str, JsonValue] = {
        "study": study,
        "stage": stage,
        "code": code,
        "condition": condition,
        "observed": observed,
        "model": None if ref is None else model_body(ref),
        **_of(purpose),
    }
    return Draft(kind=Kind.DENIED, key=f"{DENIAL}{run_id}", call=call, body=body)


def _of(purpose: str | None) -> dict[str, JsonValue]:
    return {} if purpose is None else {"purpose": purpose}


def refused(run_id: str, step: str, study: str, facts: Mapping[str, Any], fault: Fault) -> Draft:
    """The entry of a run's refusal. The same refusal is one entry, whoever is the first to log it."""
    return denied(
        run_id,
        study=study,
        stage=step,
        code=fault.code,
        condition=fault.condition,
        observed=fault.observed,
        ref=model_ref(facts["model"]) if "model" in facts else None,
        call=facts.get("call"),
    )


def failed(run_id: str, *, study: str, stage: str, code: str, fault: str, call: str | None) -> Draft:
    """Something went wrong, and whose fault it is."""
    body: dict[str, JsonValue] = {"study": study, "stage": stage, "code": code, "fault": fault}
    return Draft(kind=Kind.FAILED, key=f"failed:{run_id}", call=call, body=body)


def withdrawn_key(call: str) -> str:
    """Under which key the log says that a call's result was withdrawn."""
    return f"withdrawn:{call}"


def told(observed: str | None) -> str | None:
    """What was observed, where the log may hold it: what looks like a person's data becomes None."""
    try:
        Maybe(OBSERVED).check(observed, "observed")
    except EntryInvalid:
        return None
    return observed


def decimal(value: float, decimals: int) -> str:
    """A measured value exactly as the report prints it: '1951.3'."""
    return f"{value:.{decimals}f}"
