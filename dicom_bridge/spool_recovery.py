"""Making the index true to the files again: after a crash, a power cut, a lost or a damaged index."""

from __future__ import annotations

import hashlib
import json
import mmap
import os
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

from dicom_bridge.errors import InstanceRefused
from dicom_bridge.identify import Identity, describe, identify
from dicom_bridge.quarantine import CONFLICT, Quarantine
from dicom_bridge.spool_disk import Disk
from dicom_bridge.spool_index import Instance, SpoolIndex, instance_path
from dicom_bridge.stream import Buffer, read_part10

MARK: Final = "assembled.json"
CORRUPT: Final = "SPOOL_CORRUPT"
"""Code of a held file that is no whole instance any more: the disk changed it after it was acknowledged."""
READ_BYTES: Final = 1 << 20
"""Read at a time, 1 MiB, so that the size of an instance is not the size of our memory."""

OUR_HEAD_BYTES: Final = 4096
"""More than the file meta information of a held file ever has: it is our own (see stream.part10_header)."""


@dataclass(frozen=True, slots=True)
class Recovered:
    """What opening the inbox found: files indexed again, index rows without a file, files moved to quarantine."""

    indexed: int = 0
    lost: int = 0
    quarantined: int = 0


def content_digest(transfer_syntax: str, pieces: Iterable[Buffer]) -> str:
    """Return the digest by which resends are recognised: of the transfer syntax and the data set as received."""
    hasher = hashlib.sha256(f"{transfer_syntax}\n".encode("ascii", "replace"))
    for piece in pieces:
        hasher.update(piece)
    return f"sha256:{hasher.hexdigest()}"


def file_digest(path: Path) -> str:
    """Return the digest of a held file, see `content_digest`. Raises InstanceRefused when it is none, OSError."""
    with path.open("rb") as file:
        meta = read_part10(file.read(OUR_HEAD_BYTES))
        return content_digest(meta.transfer_syntax, pieces(file.fileno(), meta.dataset_at))


def pieces(handle: int, start: int) -> Iterator[Buffer]:
    """Give the open file from `start` on, READ_BYTES at a time; each piece is gone with the next. Raises OSError."""
    buffer = memoryview(bytearray(READ_BYTES))
    while count := os.preadv(handle, [buffer], start):
        yield buffer[:count]
        start += count


def held_instance(
    identity: Identity, digest: str, sender: str, at: datetime, studies: Path, *, urgent: bool = False
) -> Instance:
    """Return the index row of an instance that lies, or will lie, under its name in `studies`.

    `urgent`: whoever sent it said so, whatever the data set says.
    """
    described = describe(identity)
    return Instance(
        sop_uid=identity.sop_uid,
        series_uid=identity.series_uid,
        study_uid=identity.study_uid,
        sop_class=identity.sop_class,
        modality=described.modality,
        path=instance_path(studies, identity.study_uid, identity.sop_uid),
        digest=digest,
        received_at=at,
        sender=sender,
        body_part=described.body_part,
        description=described.description,
        image_type=described.image_type,
        series_number=described.series_number,
        identity=described.patient,
        pixels=identity.pixels,
        urgent=urgent or described.urgent,
        frames=described.frames,
        acquisition_images=described.acquisition_images,
        instance_number=described.instance_number,
        acquisition_number=described.acquisition_number,
        temporal_position=described.temporal_position,
        position=described.position,
        orientation=described.orientation,
        rows=described.rows,
        columns=described.columns,
        pixel_spacing=described.pixel_spacing,
        protocol=described.protocol,
        contrast=described.contrast,
        station=described.station,
        manufacturer=described.manufacturer,
        study_description=described.study_description,
    )


def read_held(path: Path, studies: Path) -> Instance:
    """Return the index row of a held file. Raises InstanceRefused when it is not what its name says, OSError."""
    with path.open("rb") as file:
        handle = file.fileno()
        if os.fstat(handle).st_size == 0:
            raise InstanceRefused("DATASET_GARBLED", "not a Part 10 file")
        # Read before it is mapped: a bad sector is an error here, there it would kill the process.
        for _ in pieces(handle, 0):
            pass
        with mmap.mmap(handle, 0, access=mmap.ACCESS_READ) as data:
            meta = read_part10(data)
            identity = identify(data, meta.transfer_syntax, meta.dataset_at)
        digest = content_digest(meta.transfer_syntax, pieces(handle, meta.dataset_at))
        at = datetime.fromtimestamp(os.fstat(handle).st_mtime, UTC)
    held = held_instance(identity, digest, meta.source_ae, at, studies, urgent=meta.urgent)
    if held.path != path:
        raise InstanceRefused("UID_INVALID", "the file's name is not the instance's")
    return held


class Recovery:
    """One pass over the spool. `digest_of` gives the input digest of a study as the index holds it."""

    def __init__(
        self, index: SpoolIndex, studies: Path, quarantine: Quarantine, disk: Disk, digest_of: Callable[[str], str]
    ) -> None:
        self._index, self._studies, self._quarantine, self._disk = index, studies, quarantine, disk
        self._digest_of = digest_of
        self._counts = {"indexed": 0, "lost": 0, "quarantined": 0}

    def run(self) -> Recovered:
        """Compare files and index both ways, then restore the marks. Raises OSError, sqlite3.Error."""
        indexed = set(self._index.names())
        for folder in sorted(path for path in self._studies.iterdir() if path.is_dir()):
            files = {path.stem: path for path in folder.iterdir() if path.suffix == ".dcm"}
            for sop_uid, path in files.items():
                if (folder.name, sop_uid) not in indexed:
                    self._adopt(path)
            self._restore_mark(folder)
        for study_uid, sop_uid in indexed:
            if not instance_path(self._studies, study_uid, sop_uid).is_file():
                self._index.forget(sop_uid)
                self._counts["lost"] += 1
        return Recovered(**self._counts)

    def _adopt(self, path: Path) -> None:
        try:
            new = read_held(path, self._studies)
        except InstanceRefused:
            self._set_aside(path, CORRUPT)
            return
        if self._index.add(new):
            self._counts["indexed"] += 1
        else:
            # Its UID is held in another study: two processes raced, and a crash came before the loser was removed.
            self._set_aside(path, CONFLICT)

    def _set_aside(self, path: Path, code: str) -> None:
        at = datetime.fromtimestamp(path.stat().st_mtime, UTC)
        # Full quarantine: the file stays where it is, unindexed, for the next start.
        if self._quarantine.keep_file(path, code, "", at) is not None:
            self._counts["quarantined"] += 1

    def _restore_mark(self, folder: Path) -> None:
        mark, row = folder / MARK, self._index.study(folder.name)
        if row is None or not mark.is_file():
            return
        body = json.loads(mark.read_bytes())
        touches, digest = int(body["touches"]), str(body["input_digest"])
        if (row.assembled_touches, row.assembled_digest) == (touches, digest):
            return
        # The index is older than the mark. Same input: the run has seen it all; else one touch keeps the study open.
        seen_all = self._digest_of(folder.name) == digest
        now = max(row.touches, touches) if seen_all else max(row.touches, touches + 1)
        seen = now if seen_all else touches
        self._index.set_marks(folder.name, touches=now, assembled_touches=seen, assembled_digest=digest)
