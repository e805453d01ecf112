"""A rejection note: the Key Object Selection that tells a PACS that a result of ours counts no more (IHE IOCM).

It names every object of one call that the PACS holds, and is a new object: theirs stay as they are, byte for byte. What
a PACS makes of it is its own affair: one that knows IOCM hides what is named, another shows it as ever (hazards: V13).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from enum import StrEnum
from pathlib import Path
from types import MappingProxyType
from typing import Final, TypeAlias

from pydicom import dcmread
from pydicom.dataset import Dataset
from pydicom.uid import (
    GrayscaleSoftcopyPresentationStateStorage,
    KeyObjectSelectionDocumentStorage,
)

from dicom_bridge import content, uids
from dicom_bridge.composite import common_modules, part10, source_head
from dicom_bridge.key_objects import described, put_document
from dicom_bridge.key_objects_validity import check_selection
from dicom_bridge.report import document_context, referenced_request
from dicom_bridge.result_context import MARKING, Algorithm, Language, ResultContext, series_description
from dicom_bridge.unfit import OutputInvalid, require
from dicom_bridge.validity import read_common, readable
from models.codes import Code

Named: TypeAlias = Dataset
"""Class, instance and series of an object."""
_HEAD: Final = ("SOPClassUID", "SOPInstanceUID", "SeriesInstanceUID")


class Reason(StrEnum):
    """Why a result counts no more. SUPERSEDED: a later one of the same study stands in its place."""

    QUALITY = "QUALITY"
    SAFETY = "SAFETY"
    SUPERSEDED = "SUPERSEDED"


KIND: Final = "REJECTION"
SERIES_NUMBER: Final = 9007
_QUALITY: Final = Code("113001", "DCM", "Rejected for Quality Reasons")
_TITLES: Final[Mapping[Reason, Code]] = MappingProxyType(
    {
        Reason.QUALITY: _QUALITY,
        Reason.SAFETY: Code("113037", "DCM", "Rejected for Patient Safety Reasons"),
        Reason.SUPERSEDED: _QUALITY,
    }
)
_SAID: Final[Mapping[Reason, Mapping[Language, str]]] = MappingProxyType(
    {
        Reason.QUALITY: {
            "en-US": "This AI result was withdrawn for quality reasons.",
            "zh-CN": "此人工智能结果因质量原因已撤回。",
        },
        Reason.SAFETY: {
            "en-US": "This AI result was withdrawn for patient safety reasons.",
            "zh-CN": "此人工智能结果因患者安全原因已撤回。",
        },
        Reason.SUPERSEDED: {
            "en-US": "This AI result was superseded by a later one of the same study.",
            "zh-CN": "此人工智能结果已被同一检查的后续结果取代。",
        },
    }
)
_OBSERVER_TYPE = Code("121005", "DCM", "Observer Type")
_PERSON = Code("121006", "DCM", "Person")
_PERSON_NAME = Code("121008", "DCM", "Person Observer Name")
_PROCESSING = "109102"
# Reports are, and what is drawn over images; all else of ours is an image.
_NO_IMAGES: Final = frozenset({str(GrayscaleSoftcopyPresentationStateStorage), str(KeyObjectSelectionDocumentStorage)})
_DOCUMENTS: Final = "1.2.840.10008.5.1.4.1.1.88."


def rejection_uid(call: str) -> str:
    """The UID of the note about a call's result; there is one at most."""
    return uids.derive(KIND, call)


def write_rejection(
    report: Dataset, objects: Sequence[Named], reason: Reason, person: str | None, context: ResultContext
) -> bytes:
    """The note as a Part 10 file, already through our own check.

    `report`: the call's SR, of whose patient and study the note is; `objects`: what the PACS holds, each with class,
    instance and series. `person`: who withdrew it; None where a later result did. Raises OutputInvalid, CharsetRefused.
    """
    head = source_head([report])
    algorithm = _algorithm(report)
    ds = common_modules(head, context, algorithm)
    ds.SeriesInstanceUID = context.uid(f"{KIND}-SERIES")
    ds.SeriesNumber = SERIES_NUMBER
    ds.SeriesDescription = series_description(context, algorithm.name, "KOS")
    if request := referenced_request(head):
        ds.ReferencedRequestSequence = [request]
    about = document_context(algorithm.name, algorithm, context)
    if person is not None:
        # A name without a component after it is of a form that has been retired (PS3.5 6.2.1).
        about += [content.code(content.CONTEXT, _OBSERVER_TYPE, _PERSON), content.person(_PERSON_NAME, f"{person}^")]
    said = f"{_SAID[reason][context.site_language]} {MARKING[context.site_language]}"
    images = [one for one in objects if _image(one)]
    others = [one for one in objects if not _image(one)]
    put_document(ds, _TITLES[reason], [*about, described(said)], images, others, context.charset)
    data = part10(ds, str(KeyObjectSelectionDocumentStorage), context.uid(KIND))
    check_rejection(data, report, objects, reason)
    return data


def check_rejection(data: bytes, report: Dataset, objects: Sequence[Dataset], reason: Reason) -> Dataset:
    """Read a note's bytes and refuse what must not be sent; gives the data set read. Raises OutputInvalid.

    It is of the report's patient and study, has the title of its reason, and names these objects, each, and no other.
    """
    with readable():
        ds = read_common(data, str(KeyObjectSelectionDocumentStorage), [report])
        check_selection(ds, _TITLES[reason].value)
        named = [
            str(item.ReferencedSOPSequence[0].ReferencedSOPInstanceUID)
            for item in ds.ContentSequence
            if item.ValueType in ("IMAGE", "COMPOSITE")
        ]
        require(sorted(named) == sorted(str(one.SOPInstanceUID) for one in objects), "EVIDENCE_DIFFERS", "the objects")
        return ds


def named_of(files: Iterable[Path]) -> dict[str, Named]:
    """What may be named, by its UID, of those of the files that are here. Raises OSError."""
    read = (dcmread(path, specific_tags=list(_HEAD)) for path in files if path.exists())
    return {str(ds.SOPInstanceUID): ds for ds in read}


def predecessors(report: Path) -> list[str]:
    """The UIDs of the reports that a report says it replaces; none where it is not here. Raises OSError."""
    if not report.exists():
        return []
    return [
        str(instance.ReferencedSOPInstanceUID)
        for study in dcmread(report).get("PredecessorDocumentsSequence") or ()
        for series in study.ReferencedSeriesSequence
        for instance in series.ReferencedSOPSequence
    ]


def _image(ds: Dataset) -> bool:
    sop_class = str(ds.SOPClassUID)
    return sop_class not in _NO_IMAGES and not sop_class.startswith(_DOCUMENTS)


def _algorithm(report: Dataset) -> Algorithm:
    """The model as its own report names it: it need not be installed any more."""
    for item in report.get("ContributingEquipmentSequence") or ():
        if [code.CodeValue for code in item.PurposeOfReferenceCodeSequence] == [_PROCESSING]:
            return Algorithm(
                vendor=str(item.Manufacturer),
                name=str(item.ManufacturerModelName),
                version=str(item.SoftwareVersions),
                device_uid=str(item.DeviceUID),
                family=Code("123110", "DCM", "Artificial Intelligence"),
            )
    raise OutputInvalid("ALGORITHM_IDENTITY_DIFFERS", "the report names no algorithm")
