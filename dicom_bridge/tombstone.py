"""What left the spool after its results were committed: a small file per study that remembers each instance.

So an instance that was acknowledged stays accounted for after its pixels are gone (`zhiying spool reconcile`), and a
study that comes in part again is not taken for a whole one.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import datetime
from pathlib import Path
from typing import Final, Protocol

from dicom_bridge.spool_index import Instance, StudyRow

TOMBSTONE: Final = "let_go.json"


@dataclass(frozen=True, slots=True)
class Gone:
    """One instance that was held once; `digest` as in the index, `at` when it was let go (ISO 8601, UTC)."""

    sop_uid: str
    series_uid: str
    modality: str
    digest: str
    at: str


class Replaces(Protocol):
    """The durable write that is needed; see audit.durable."""

    def replace(self, path: Path, data: bytes) -> None:
        """Put the bytes under the name, atomically. Raises OSError."""


def read(study_folder: Path) -> Mapping[str, Gone]:
    """Return what left this study's folder, by SOP Instance UID; empty where nothing did. Raises OSError."""
    try:
        body = json.loads((study_folder / TOMBSTONE).read_bytes())
    except FileNotFoundError:
        return {}
    return {one["sop_uid"]: Gone(**one) for one in body["instances"]}


def write(disk: Replaces, study_folder: Path, gone: Iterable[Gone]) -> None:
    """Remember `gone` beside what left before; durable when it returns. Raises OSError."""
    known = dict(read(study_folder)) | {one.sop_uid: one for one in gone}
    body = {"instances": [asdict(known[uid]) for uid in sorted(known)]}
    disk.replace(study_folder / TOMBSTONE, json.dumps(body).encode())


def last_at(study_folder: Path) -> datetime | None:
    """Return when something left this folder last; None where nothing did. Raises OSError."""
    times = [datetime.fromisoformat(one.at) for one in read(study_folder).values()]
    return max(times, default=None)


class Held(Protocol):
    """What the spool's index has to do; see spool_index."""

    def instances(self, study_uid: str) -> Sequence[Instance]:
        """What is held of a study."""

    def study(self, study_uid: str) -> StudyRow | None:
        """The study's marks."""

    def forget(self, sop_uid: str) -> None:
        """Drop an instance whose file is gone."""

    def set_marks(self, study_uid: str, *, touches: int, assembled_touches: int, assembled_digest: str) -> None:
        """Write what a run has seen."""


class Removes(Replaces, Protocol):
    """The durable writes that letting go needs."""

    def remove(self, path: Path) -> None:
        """Take the name away, durably. Raises OSError."""


def let_go(disk: Removes, index: Held, study_folder: Path, at: datetime) -> int:
    """Remove every image of one study, remembering each; gives how many. Raises OSError, sqlite3.Error.

    First the memory, then the files, then the rows: a crash in between leaves instances that are remembered and still
    held, or rows without a file, and the next round or the next start finishes. An instance that arrives meanwhile is
    not on the list and stays; a resend of one that is, is answered by what was held, and that was worked on.
    """
    study_uid = study_folder.name
    held = index.instances(study_uid)
    write(disk, study_folder, (_gone(one, at) for one in held))
    for one in held:
        disk.remove(one.path)
        index.forget(one.sop_uid)
    row = index.study(study_uid)
    if row is not None and row.touches > row.assembled_touches and not index.instances(study_uid):
        # Such a resend has opened the study again, and now there is nothing to look at.
        digest = row.assembled_digest or ""
        index.set_marks(study_uid, touches=0, assembled_touches=row.touches, assembled_digest=digest)
    return len(held)


def _gone(one: Instance, at: datetime) -> Gone:
    return Gone(one.sop_uid, one.series_uid, one.modality, one.digest, at.isoformat())
