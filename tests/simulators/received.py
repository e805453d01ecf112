"""Instances as the inbox gets them, and a clock that only moves when told."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

from pydicom.dataset import Dataset
from pydicom.uid import ExplicitVRLittleEndian

from dicom_bridge.inbox import Received
from tests.simulators.series import dataset_bytes, make_slice


class Clock:
    """`clock()` is a time; `tick` moves it."""

    def __init__(self) -> None:
        self.time = datetime(2026, 4, 1, 8, 0, 0, tzinfo=UTC)

    def __call__(self) -> datetime:
        """Return the time."""
        return self.time

    def tick(self, seconds: float = 1.0) -> None:
        """Move on."""
        self.time += timedelta(seconds=seconds)


def received(
    index: int = 0, ds: Dataset | None = None, syntax: str = ExplicitVRLittleEndian, **options: str
) -> Received:
    """Return slice `index` of the synthetic series, or `ds`, as a C-STORE brings it."""
    made = make_slice(index, **options) if ds is None else ds  # type: ignore[arg-type]
    return Received(dataset_bytes(made, syntax), syntax, made.SOPClassUID, made.SOPInstanceUID)
