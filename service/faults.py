"""From an exception to what is recorded: a code, whose side it is on, and the condition that decided.

Only errors of our own trees keep their code. Anything else is a bug or a broken machine: INTERNAL_ERROR, with the type
of the exception as the only detail, since its message may hold patient data.
"""

import re
from dataclasses import dataclass

from audit.errors import AuditCorrupt
from dicom_bridge.errors import BridgeError
from ethics_review.errors import ReviewError
from inference.errors import InferenceError
from models.errors import ModelChanged, ModelError
from service.errors import AllRead, Halted, ImagesGone, InputSuperseded, NothingFits

TOKEN_MAX = 64
_NOT_TOKEN = re.compile(r"[^A-Za-z0-9 ._:/+-]")


@dataclass(frozen=True, slots=True)
class Fault:
    """`side` is INPUT, SITE, MODEL or US; `internal` is true where no rule refused but something broke."""

    code: str
    side: str
    condition: str | None = None
    observed: str | None = None
    internal: bool = False


INTERNAL = Fault("INTERNAL_ERROR", "US", internal=True)
"""When even the explanation cannot be recorded."""


def explain(error: Exception) -> Fault:
    """What the log, the screen and the operator are told about `error`."""
    if isinstance(error, ModelChanged):
        return Fault(error.code, "SITE", condition="digest", observed=token(error.file))
    if isinstance(error, ReviewError):
        condition, observed = getattr(error, "condition", None), getattr(error, "observed", None)
        return Fault(error.code, "SITE", condition=condition, observed=None if observed is None else token(observed))
    if isinstance(error, InferenceError):
        return Fault(error.code, error.fault, internal=error.fault == "US")
    if isinstance(error, BridgeError):
        condition, observed = getattr(error, "condition", None), getattr(error, "observed", None)
        return Fault(
            error.code, str(error.fault), condition=condition, observed=None if observed is None else token(observed)
        )
    if isinstance(error, ModelError | Halted):
        return Fault(error.code, "SITE")
    if isinstance(error, AuditCorrupt):
        return Fault(error.code, "SITE", internal=True)
    if isinstance(error, AllRead | ImagesGone | InputSuperseded | NothingFits):
        return Fault(error.code, "INPUT", condition=getattr(error, "condition", None))
    return Fault("INTERNAL_ERROR", "US", observed=token(type(error).__name__), internal=True)


def token(text: str) -> str:
    """`text` as the log's TOKEN type: anything outside its alphabet becomes a dash."""
    return _NOT_TOKEN.sub("-", text)[:TOKEN_MAX] or "-"
