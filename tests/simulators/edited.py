"""What a viewer makes of our results: a new instance, with a predecessor, changed by a person and verified, or not."""

from __future__ import annotations

import copy
import io
from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydicom import dcmread
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import ExplicitVRLittleEndian, generate_uid

READER = "INVENTED^Phantomreader=测试^阅片幻影"
OTHER_READER = "TEST^Other"


def copied(ours: Dataset) -> Dataset:
    """The same content under a new SOP Instance UID and series, as a viewer saves it."""
    ds = copy.deepcopy(ours)
    ds.SOPInstanceUID = ds.file_meta.MediaStorageSOPInstanceUID = generate_uid()
    ds.SeriesInstanceUID = generate_uid()
    if ds.Modality == "SR":
        ds.PredecessorDocumentsSequence = [hierarchy(ours)]
    return ds


def hierarchy(*named: Dataset) -> Dataset:
    """A reference to instances of one study, by series."""
    study = Dataset()
    study.StudyInstanceUID = named[0].StudyInstanceUID
    study.ReferencedSeriesSequence = []
    for ds in named:
        one, series = Dataset(), Dataset()
        one.ReferencedSOPClassUID, one.ReferencedSOPInstanceUID = ds.SOPClassUID, ds.SOPInstanceUID
        series.SeriesInstanceUID = ds.SeriesInstanceUID
        series.ReferencedSOPSequence = [one]
        study.ReferencedSeriesSequence.append(series)
    return study


def verify(ds: Dataset, name: str = READER, when: str = "20261129100000") -> Dataset:
    """A person verifies it."""
    item = Dataset()
    item.VerifyingObserverName, item.VerifyingOrganization = name, "TEST"
    item.VerificationDateTime = when
    item.VerifyingObserverIdentificationCodeSequence = []
    ds.VerifyingObserverSequence = [*(ds.get("VerifyingObserverSequence") or ()), item]
    ds.VerificationFlag, ds.CompletionFlag = "VERIFIED", "COMPLETE"
    return ds


def items(ds: Dataset, code: str) -> list[Dataset]:
    """All content items with this concept name."""
    return [i for i in walk(ds) if "ConceptNameCodeSequence" in i and i.ConceptNameCodeSequence[0].CodeValue == code]


def walk(item: Dataset) -> Iterator[Dataset]:
    """Every content item below."""
    for child in item.get("ContentSequence", []):
        yield child
        yield from walk(child)


def groups(ds: Dataset) -> list[Dataset]:
    """The measurement groups."""
    return items(ds, "125007")


def group_list(ds: Dataset) -> Any:
    """The sequence that holds them."""
    return items(ds, "126010")[0].ContentSequence


def drop(ds: Dataset, *codes: str) -> None:
    """Take the items of these names out, wherever they are."""
    for item in (ds, *walk(ds)):
        if "ContentSequence" in item:
            kept = [i for i in item.ContentSequence if items_name(i) not in codes]
            item.ContentSequence = kept


def items_name(item: Dataset) -> str:
    """Code value of an item's concept name."""
    return str(item.ConceptNameCodeSequence[0].CodeValue) if "ConceptNameCodeSequence" in item else ""


def measure(ds: Dataset, value: str, place: int = 0) -> None:
    """Put another number in the place of the `place`th volume."""
    items(ds, "118565006")[place].MeasuredValueSequence[0].NumericValue = value


def track(group: Dataset, uid: str) -> None:
    """Give a group, or a segment, another tracking UID."""
    if "SegmentNumber" in group:
        group.TrackingUID = uid
    for item in group.get("ContentSequence", []):
        if items_name(item) == "112040":
            item.UID = uid


def file_of(ds: Dataset) -> bytes:
    """The Part 10 file."""
    buffer = io.BytesIO()
    ds.save_as(buffer, enforce_file_format=True)
    return buffer.getvalue()


def reread(ds: Dataset) -> Dataset:
    """As it is after the network."""
    return dcmread(io.BytesIO(file_of(ds)))


def new_document(title: tuple[str, str, str], of: Dataset, modality: str, sop_class: str) -> Dataset:
    """A document with a title and nothing else, of the patient and study of another object."""
    ds = Dataset()
    for keyword in ("SpecificCharacterSet", "PatientID", "PatientName", "StudyInstanceUID"):
        if keyword in of:
            ds[keyword] = of[keyword]
    ds.SOPClassUID, ds.SOPInstanceUID, ds.SeriesInstanceUID = sop_class, generate_uid(), generate_uid()
    ds.Modality, ds.ValueType, ds.ContinuityOfContent = modality, "CONTAINER", "SEPARATE"
    name = Dataset()
    name.CodeValue, name.CodingSchemeDesignator, name.CodeMeaning = title
    ds.ConceptNameCodeSequence = [name]
    ds.ContentSequence = []
    ds.file_meta = FileMetaDataset()
    ds.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    ds.file_meta.MediaStorageSOPClassUID, ds.file_meta.MediaStorageSOPInstanceUID = sop_class, ds.SOPInstanceUID
    return ds


# ---- segmentations ---------------------------------------------------------------------------------------------------


def pixels(seg: Dataset) -> NDArray[np.uint8]:
    """(frames, rows, columns)."""
    shape = (int(seg.NumberOfFrames), int(seg.Rows), int(seg.Columns))
    bits = np.unpackbits(np.frombuffer(seg.PixelData, np.uint8), bitorder="little")
    return bits[: np.prod(shape)].reshape(shape).copy()


def draw(seg: Dataset, frames: NDArray[np.uint8]) -> None:
    """Put these pixels in."""
    packed = np.packbits(frames.ravel(), bitorder="little").tobytes()
    seg.PixelData = packed + b"\0" * (len(packed) % 2)
    seg["PixelData"].VR = "OB"


def keep_frames(seg: Dataset, kept: list[int]) -> None:
    """Leave these frames, in this order; a number may come twice."""
    frames = pixels(seg)[kept]
    seg.PerFrameFunctionalGroupsSequence = [copy.deepcopy(seg.PerFrameFunctionalGroupsSequence[i]) for i in kept]
    seg.NumberOfFrames = len(kept)
    draw(seg, frames)


def frames_of(seg: Dataset, number: int) -> list[int]:
    """Indices of the frames of one segment."""
    return [
        index
        for index, frame in enumerate(seg.PerFrameFunctionalGroupsSequence)
        if frame.SegmentIdentificationSequence[0].ReferencedSegmentNumber == number
    ]


def shrink(seg: Dataset, number: int = 1) -> float:
    """Rub out the first half of the rows of one segment; gives the Dice coefficient that this makes."""
    frames = pixels(seg)
    mine = frames_of(seg, number)
    before = int(frames[mine].sum())
    frames[mine, : int(seg.Rows) // 2] = 0
    draw(seg, frames)
    after = int(frames[mine].sum())
    return 2 * after / (before + after)
