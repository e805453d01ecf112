"""Who the patients are whose images are still kept: for searches inside the hospital that must not find them.

Read from the images' headers when asked, and given as plain strings; nothing of it is kept or written.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import closing
from pathlib import Path
from typing import Final

import pydicom
from pydicom.dataset import Dataset
from pydicom.errors import InvalidDicomError

from dicom_bridge import quiet  # noqa: F401 - for its settings
from dicom_bridge.charset import person_name
from dicom_bridge.errors import CharsetRefused
from dicom_bridge.spool_index import SpoolIndex

_NAMES: Final = ("PatientName", "OtherPatientNames", "PatientBirthName")
_TEXTS: Final = ("PatientID", "AccessionNumber", "PatientBirthDate", "OtherPatientIDs")


def identifiers(index: SpoolIndex, assumed: Mapping[str, str] | None = None) -> Iterator[str]:
    """Names, IDs, birth dates and accession numbers of one image of each series that is held, and the series' UIDs.

    `assumed`: AE title -> character set of a sender that does not say its own, or a false one. Strings come as they
    are written, more than once, also empty. An image that went meanwhile, or that cannot be read, gives nothing.
    """
    for study in index.held_studies():
        yield study.study_uid
        seen: set[tuple[str, str]] = set()
        for held in index.instances(study.study_uid):
            # An identity is of patients; two of one series are two patients.
            if (held.series_uid, held.identity) not in seen:
                seen.add((held.series_uid, held.identity))
                yield held.series_uid
                yield from _of_file(held.path, (assumed or {}).get(held.sender))


def _of_file(path: Path, assumed: str | None) -> Iterator[str]:
    try:
        header = pydicom.dcmread(path, stop_before_pixels=True, specific_tags=[*_NAMES, *_TEXTS])
    except (OSError, InvalidDicomError, ValueError, EOFError):
        return
    for keyword in _NAMES:
        try:
            yield from person_name(header, keyword, assumed).split("\\")
        except CharsetRefused:
            continue
    for keyword in _TEXTS:
        yield from _text(header, keyword).split("\\")


def _text(header: Dataset, keyword: str) -> str:
    value = header.get(keyword)
    return "" if value is None else "\\".join(value) if isinstance(value, (list, tuple)) else str(value)


def identifiers_in(index_file: Path, studies: Path, assumed: Mapping[str, str] | None = None) -> Iterator[str]:
    """As `identifiers`, of a spool beside which nothing need run; nothing if there is no index."""
    if not index_file.exists():
        return
    with closing(SpoolIndex(index_file, studies)) as index:
        yield from identifiers(index, assumed)
