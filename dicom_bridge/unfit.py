"""The refusal of an object that must not be sent, and the one way to say it."""

from __future__ import annotations

from typing import ClassVar

from dicom_bridge.errors import BridgeError, Fault


class OutputInvalid(BridgeError):
    """A result that must not be sent. The codes name the rule; the message never holds patient data."""

    CODES: ClassVar[frozenset[str]] = frozenset(
        {
            "ALGORITHM_IDENTITY_DIFFERS",
            "CONTAINER_NOT_SEPARATE",
            "CONTENT_QUALIFICATION_MISSING",
            "DERIVATION_MISSING",
            "DETECTION_UNKNOWN",
            "DEVICE_OBSERVER_MISSING",
            "EVIDENCE_DIFFERS",
            "FLAGS_WRONG",
            "FRAME_REFERENCE_WRONG",
            "GRID_MISMATCH",
            "HEAT_MAP_SCALE",
            "HEAT_MAP_UNKNOWN",
            "IDENTITY_DIFFERS",
            "KINDS_MIXED",
            "KEY_IMAGE_PIXELS",
            "KEY_IMAGE_UNDECLARED",
            "LANGUAGE_MISSING",
            "MARKING_MISSING",
            "MEASUREMENT_UNKNOWN",
            "MEASUREMENT_WITHOUT_COORDINATES",
            "MODALITY_NOT_REPORTABLE",
            "NOT_ENCODABLE",
            "NOT_READABLE",
            "PROCEDURE_MISSING",
            "RESCALE_DIFFERS",
            "RESCALE_MIXED",
            "SEGMENTATION_EMPTY",
            "SEGMENTS_OVERLAP",
            "SEGMENT_DUPLICATE",
            "SEGMENT_EMPTY",
            "SEGMENT_NOT_MEASURED",
            "SEGMENT_REFERENCE_WRONG",
            "SEGMENT_UNKNOWN",
            "SERIES_REFERENCE_MISSING",
            "SOURCE_ATTRIBUTE_MISSING",
            "SOURCE_MISSING",
            "STATEMENT_CONTRADICTS",
            "STATEMENT_MISSING",
            "STATEMENT_UNKNOWN",
            "SUMMARY_MISSING",
            "TRACKING_DIFFERS",
            "TRACKING_MISSING",
        }
    )
    fault: ClassVar[Fault] = Fault.US


def require(holds: bool, code: str, detail: str) -> None:  # noqa: FBT001 - the rule reads best first
    """Raise OutputInvalid unless the rule holds."""
    if not holds:
        raise OutputInvalid(code, detail)
