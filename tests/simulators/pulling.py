"""What tests of retrieval have in common: an inbox, a listener of ours, small studies, and limits of seconds."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path

from pydicom.dataset import Dataset

from dicom_bridge import uids
from dicom_bridge.inbox import Inbox, InboxLimits
from dicom_bridge.listener import Listener
from dicom_bridge.patience import RetrieveLimits
from tests.simulators.received import Clock
from tests.simulators.series import make_slice

OURS = "ZHIYING"
STUDY = uids.derive("TEST", "one", "study")
SERIES = uids.derive("TEST", "one", "series")
QUICK = RetrieveLimits(connect_s=10, acse_s=10, stall_s=5, whole_s=60, settle_s=1, attempts=3, pause_s=0.05)


def small(count: int = 4, **options: object) -> list[Dataset]:
    """A series of small slices of STUDY."""
    return [make_slice(index, **options) for index in range(count)]  # type: ignore[arg-type]


def another_series(name: str, count: int, modality: str = "MR") -> list[Dataset]:
    """Slices of another series of STUDY."""
    made = []
    for index in range(count):
        ds = make_slice(index, modality="CT" if modality == "CT" else "MR")
        ds.Modality = modality
        ds.SeriesInstanceUID = uids.derive("TEST", "one", name)
        ds.SOPInstanceUID = uids.derive("TEST", "one", name, str(index))
        made.append(ds)
    return made


@contextmanager
def open_inbox(root: Path) -> Iterator[Inbox]:
    """A spool in a folder."""
    inbox = Inbox(root / "spool", Clock(), limits=InboxLimits(free_bytes_min=0))
    try:
        yield inbox
    finally:
        inbox.close()


@contextmanager
def listening(inbox: Inbox) -> Iterator[int]:
    """Our own listener; gives its port."""
    listener = Listener(OURS, "127.0.0.1", 0, inbox)
    listener.start()
    try:
        yield listener.port
    finally:
        listener.stop()


def local(text: str) -> datetime:
    """A time without a zone, as Study Date and Study Time are."""
    return datetime.fromisoformat(text)


def held(inbox: Inbox, study: str = STUDY) -> set[str]:
    """SOP Instance UIDs that are held."""
    return {one.sop_uid for one in inbox.instances(study)}
