"""Whatever goes wrong is explained in the log's own closed words, without a patient's data."""

import pytest

from audit.entry import Draft
from dicom_bridge.errors import VolumeRefused
from ethics_review.errors import Refused
from inference.errors import CODES, EngineDied, InferenceError, InputUnfit, OutputImplausible
from models.errors import ModelChanged, ModelNotFound
from service import records
from service.errors import InputSuperseded, NothingFits
from service.faults import explain, token

STUDY = "a" * 32


class Leaky(Exception):
    """An error of somebody else's, with a patient's name in its text."""


@pytest.mark.parametrize(
    ("error", "code", "side", "condition"),
    [
        (Refused("CONDITION_NOT_MET", "AGE_YEARS", "10-14"), "CONDITION_NOT_MET", "SITE", "AGE_YEARS"),
        (Refused("NO_APPROVAL", None, None), "NO_APPROVAL", "SITE", None),
        (VolumeRefused("SLICE_MISSING", "one gap"), "SLICE_MISSING", "INPUT", None),
        (InputUnfit("TOO_FEW_SLICES", "5"), "TOO_FEW_SLICES", "INPUT", None),
        (OutputImplausible("OUTPUT_EMPTY", "none"), "OUTPUT_EMPTY", "MODEL", None),
        (EngineDied("ENGINE_DIED", "gone"), "ENGINE_DIED", "SITE", None),
        (ModelChanged("models/model.pt", "changed"), "MODEL_FILE_CHANGED", "SITE", "digest"),
        (ModelNotFound("none"), "MODEL_NOT_FOUND", "SITE", None),
        (NothingFits("MODALITY"), "NO_MODEL_FITS", "INPUT", "MODALITY"),
        (InputSuperseded("late"), "INPUT_SUPERSEDED", "INPUT", None),
    ],
)
def test_our_own_errors_keep_their_code(error: Exception, code: str, side: str, condition: str | None) -> None:
    """Code, side and condition arrive; and none of them is called internal."""
    fault = explain(error)

    assert (fault.code, fault.side, fault.condition, fault.internal) == (code, side, condition, False)


@pytest.mark.parametrize("error", [Leaky("ZHANG^SAN 19600101"), ValueError("/spool/1.2.840.1/x"), KeyError("张三")])
def test_a_foreign_error_says_only_its_type(error: Exception) -> None:
    """The text of somebody else's exception may hold anything, so it is not repeated."""
    fault = explain(error)

    assert (fault.code, fault.side, fault.internal) == ("INTERNAL_ERROR", "US", True)
    assert fault.observed == type(error).__name__


@pytest.mark.parametrize("error", [Leaky("x"), ModelChanged("models/a b$.pt", "changed"), NothingFits("SLICES")])
def test_every_explanation_can_be_recorded(error: Exception) -> None:
    """The log takes what `explain` gives; Draft raises where it does not."""
    fault = explain(error)

    draft = records.denied(
        "run-1",
        study=STUDY,
        stage="SELECTED",
        code=fault.code,
        condition=fault.condition,
        observed=fault.observed,
        ref=None,
        call=None,
    )

    assert isinstance(draft, Draft)


@pytest.mark.parametrize("code", sorted(CODES))
def test_every_code_of_inference_is_a_code_of_the_log(code: str) -> None:
    """No refusal can fail to be written because of its name."""
    error = InferenceError(code, "")  # type: ignore[arg-type]

    draft = records.failed(
        "run-1", study=STUDY, stage="INFERRED", code=explain(error).code, fault=explain(error).side, call=None
    )

    assert draft.body["code"] == code


def test_a_token_keeps_to_its_alphabet() -> None:
    """Anything that the log would refuse becomes a dash, and nothing is longer than it may be."""
    assert token("a/b^张三") == "a/b---"
    assert len(token("x" * 200)) == 64
    assert token("") == "-"
