"""What can go wrong between a volume and its findings, and whose fault it is.

InferenceError                .code, .fault (INPUT | SITE | MODEL | US), .retry (may the very same call succeed later?)
├── VolumeInvalid     US      a Volume that breaks its own type: a bug of the caller
├── InputUnfit        INPUT   outside the model's input contract: refused, never repaired
├── OutputImplausible MODEL   an answer that no anatomy gives: withheld
├── PermitRefused     US      the permit is for something else, or is over
├── FindingsCorrupt   SITE    a findings file that is not what was saved
├── GoldenInvalid     SITE    a golden case that is not one, or is another model's
└── EngineError
    ├── ModelRefused  MODEL   the bundle's configuration asks for what we do not run
    ├── ModelFailed   MODEL   the model raised while it was loaded or run
    ├── EngineTimeout MODEL   the deadline passed; the child was killed
    ├── EngineDied    SITE    the child is gone (killed, crashed, out of memory)
    ├── EngineCancelled SITE  the model was stopped while it ran or waited; the child was killed
    └── EngineClosed  US      called after close()

Messages carry codes, shapes and numbers, never identifiers, digests of patient data or file paths.
"""

from __future__ import annotations

from typing import ClassVar, Final, Literal, get_args

Code = Literal[
    "VOLUME_INVALID",
    "TOO_FEW_SLICES",
    "TOO_MANY_SLICES",
    "SLICE_SPACING_OUT_OF_RANGE",
    "PIXEL_SPACING_OUT_OF_RANGE",
    "FOV_OUT_OF_RANGE",
    "EMPTY_IMAGE",
    "NOT_FINITE",
    "MODALITY_MISMATCH",
    "OUTPUT_NOT_FINITE",
    "OUTPUT_EMPTY",
    "OUTPUT_IMPLAUSIBLE",
    "OUTPUT_TOUCHES_BORDER",
    "OUTPUT_SHAPE",
    "PERMIT_MISSING",
    "PERMIT_MODEL_MISMATCH",
    "PERMIT_INPUT_MISMATCH",
    "PERMIT_EXPIRED",
    "FINDINGS_CORRUPT",
    "GOLDEN_INVALID",
    "MODEL_CONFIG_REFUSED",
    "MODEL_LOAD_FAILED",
    "MODEL_RUN_FAILED",
    "MODEL_OUTPUT_INVALID",
    "DEADLINE_EXCEEDED",
    "LOAD_DEADLINE_EXCEEDED",
    "ENGINE_DIED",
    "ENGINE_CANCELLED",
    "ENGINE_OUT_OF_MEMORY",
    "ENGINE_CLOSED",
    "EGRESS_BLOCKED",
]
"""Every code that this folder raises; closed, so that documents and dashboards can list them."""

CODES: Final[frozenset[str]] = frozenset(get_args(Code))


class InferenceError(Exception):
    """Root of the folder's errors.

    `code` is one of `CODES`; `fault` says who has to act (INPUT, SITE, MODEL or US); `retry` is true where the
    same call may succeed later without anybody changing anything.
    """

    fault: ClassVar[str] = "US"
    retry: ClassVar[bool] = False

    def __init__(self, code: Code, message: str) -> None:
        super().__init__(f"{code}: {message}")
        self.code: Code = code


class VolumeInvalid(InferenceError):
    """Shape, type or affine of a Volume or mask is not what its type promises."""


class InputUnfit(InferenceError):
    """The volume lies outside the model's input contract."""

    fault = "INPUT"


class OutputImplausible(InferenceError):
    """The model answered, but the answer must not reach a reader."""

    fault = "MODEL"


class PermitRefused(InferenceError):
    """The permit does not open this door: other model, other input, or expired."""


class FindingsCorrupt(InferenceError):
    """A findings file is truncated, altered or not ours."""

    fault = "SITE"
    retry = True  # the findings can be computed again


class GoldenInvalid(InferenceError):
    """A golden case that is malformed, or that expects other measurements than the model's."""

    fault = "SITE"


class EngineError(InferenceError):
    """The engine gave no answer."""

    fault = "SITE"


class ModelRefused(EngineError):
    """The bundle asks for something that we do not run (expressions, foreign classes)."""

    fault = "MODEL"


class ModelFailed(EngineError):
    """The model raised while it was loaded or run, or answered with the wrong shape."""

    fault = "MODEL"


class EngineTimeout(EngineError):
    """The deadline passed; the child was killed and the next call gets a new one."""

    fault = "MODEL"
    retry = True


class EngineDied(EngineError):
    """The child is gone; the next call gets a new one."""

    retry = True


class EngineCancelled(EngineError):
    """The model was stopped, or suspended, while the call ran or waited for its turn."""


class EngineClosed(EngineError):
    """The engine was closed before or during the call."""

    fault = "US"
    retry = True
