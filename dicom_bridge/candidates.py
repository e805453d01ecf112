"""The volumes of a study that a model might be run on: series are read without pixels, and told apart.

What is left of a series when no model could take it, by modality and class alone, is not read at all.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

from dicom_bridge import heads, volume
from dicom_bridge.errors import VolumeRefused
from dicom_bridge.grid import orientation_name
from dicom_bridge.heads import Head, read_head
from dicom_bridge.rules import SeriesSummary
from dicom_bridge.selection import one_of
from dicom_bridge.slices import Slice, types_of
from dicom_bridge.split import Kind, Part, divide, kind_of

DIGITS_MAX: Final = 12
"""Characters of an IS value (PS3.5 section 6.2)."""


@dataclass(frozen=True, slots=True, eq=False)
class SeriesRead:
    """One series: its volumes as selection sees them, and its slices, to be loaded without reading them again."""

    summaries: tuple[SeriesSummary, ...]
    slices: tuple[Slice, ...]


def read_series(paths: Sequence[Path], senders: Mapping[Path, str], charsets: Mapping[str, str]) -> SeriesRead:
    """Read the files of one series. `senders`: AE title by file, "" or absent where it is not known; `charsets`: the
    assumed character set by AE title. Raises OSError; what cannot be a volume is a summary that says why.
    """
    assumed = {path: charsets[sender] for path, sender in senders.items() if sender in charsets}
    sent_by = frozenset(senders.get(path, "") for path in paths)
    try:
        slices = volume.read_slices(paths, assumed)
    except VolumeRefused as refused:
        return SeriesRead((_refused(paths, assumed, sent_by, refused.code),), ())
    parts = divide(slices)
    volumes = sum(not part.apart for part in parts)
    summaries, ordinal = [], 0
    for part in parts:
        ordinal += not part.apart
        placed = replace(_of_part(slices, part, sent_by), ordinal=ordinal, volumes=volumes)
        summaries.append(placed)
    return SeriesRead(tuple(summaries), slices)


def _of_part(slices: Sequence[Slice], part: Part, senders: frozenset[str]) -> SeriesSummary:
    members = [slices[i] for i in part.members]
    first = members[0]
    one_grid = part.grid is not None
    return replace(
        _of_heads([one.head for one in members], senders),
        body_part=one_of({one.body_part for one in members}),
        image_types=frozenset(one.image_type for one in members),
        count=len(members),
        kind=part.kind,
        contrast=frozenset(one.contrast for one in members),
        lossy=any(one.lossy for one in members),
        orientation=orientation_name(first.orientation) if one_grid else "",
        rows=first.shape[0] if one_grid else None,
        columns=first.shape[1] if one_grid else None,
        pixel_spacing_mm=first.spacing if one_grid else (),
        slice_spacing_mm=part.grid.slice_spacing_mm if part.grid is not None else None,
        refused=part.refused.code if part.refused is not None else "",
        part=part.id,
        label=part.label,
        steps=part.steps,
    )


def _refused(paths: Sequence[Path], assumed: Mapping[Path, str], senders: frozenset[str], code: str) -> SeriesSummary:
    """A series that is refused before its slices are looked at, by what its files say of themselves."""
    found = []
    for path in paths:
        try:
            found.append(read_head(path, assumed.get(path)))
        except VolumeRefused:
            continue
    summary = _of_heads(found, senders)
    kinds = {
        kind_of(one.ascii(heads.SOP_CLASS), types_of(one.ascii(heads.IMAGE_TYPE)), summary.description) for one in found
    }
    kind = kinds.pop() if len(kinds) == 1 else Kind.VOLUME
    if kind is Kind.VOLUME and not any(one.pixels for one in found):
        kind = Kind.NO_IMAGE
    return replace(summary, kind=kind, refused=code)


def _of_heads(found: Collection[Head], senders: frozenset[str]) -> SeriesSummary:
    # Frames of one instance share a head: each is looked at once.
    each = list(dict.fromkeys(found))
    numbers = [one.ascii(heads.SERIES_NUMBER) for one in each]
    return SeriesSummary(
        series_uid=one_of({one.ascii(heads.SERIES) for one in each}),
        modality=one_of({one.ascii(heads.MODALITY).upper() for one in each}),
        sop_class=one_of({one.ascii(heads.SOP_CLASS) for one in each}),
        body_part=one_of({one.ascii(heads.BODY_PART).upper() for one in each}),
        description=one_of({one.text(heads.SERIES_DESCRIPTION) for one in each}),
        image_types=frozenset(types_of(one.ascii(heads.IMAGE_TYPE)) for one in each),
        series_number=min((int(n) for n in numbers if n.isdecimal() and len(n) <= DIGITS_MAX), default=None),
        count=sum(one.pixels is not None for one in each),
        protocol=one_of({one.text(heads.PROTOCOL) for one in each}),
        senders=senders,
    )


@dataclass(frozen=True, slots=True)
class Folder:
    """Files by study and series; `skipped` counts those that are no DICOM instance."""

    studies: Mapping[str, Mapping[str, tuple[Path, ...]]]
    skipped: int


def sort_files(files: Sequence[Path]) -> Folder:
    """Look at loose files and put them where they belong. Raises OSError."""
    studies: dict[str, dict[str, tuple[Path, ...]]] = {}
    skipped = 0
    for path in files:
        try:
            head = read_head(path)
        except VolumeRefused:
            skipped += 1
            continue
        series = studies.setdefault(head.ascii(heads.STUDY), {})
        uid = head.ascii(heads.SERIES)
        series[uid] = (*series.get(uid, ()), path)
    return Folder(studies, skipped)
