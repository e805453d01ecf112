"""The last check before an object may be sent: valid, or not sent.

These are the rules that the public validators miss (tracking, marking, language, device observer, the five places that
name the algorithm) and the ones whose breach makes a right result look wrong in a viewer. They read the *bytes* that
will be sent, with no writer code, so an error of the writer cannot hide behind itself.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from io import BytesIO

from pydicom import dcmread
from pydicom.dataset import Dataset
from pydicom.errors import InvalidDicomError
from pydicom.uid import Comprehensive3DSRStorage, ExplicitVRLittleEndian, SegmentationStorage

from dicom_bridge import report_rules
from dicom_bridge.items import Item, items_of
from dicom_bridge.packed import any_blank
from dicom_bridge.report_rules import (
    CONTENT,
    CONTINUITY,
    FRAME_NUMBER,
    REFERENCED,
    SOP_INSTANCE,
    TEXT,
    UID,
    VALUE_TYPE,
    coded,
    named,
    value_of,
    walk,
)
from dicom_bridge.unfit import OutputInvalid, require

__all__ = [
    "TEXT_MARKS",
    "OutputInvalid",
    "check_identities",
    "check_report",
    "check_segmentation",
    "macro_identity",
    "read_common",
    "readable",
    "slice_of",
]

_FRAME_GROUPS = 0x52009230
_DERIVATION_IMAGE = 0x00089124
_SOURCE_IMAGE = 0x00082112
_PLANE_POSITION = 0x00209113
_IMAGE_POSITION = 0x00200032
_SEGMENT_IDENTIFICATION = 0x0062000A
_SEGMENT_NUMBER = 0x0062000B
_EVIDENCE = 0x0040A375
_REFERENCED_SERIES = 0x00081115
_REFERENCED_INSTANCES = 0x0008114A
_SERIES_UID = 0x0020000E
_STUDY_UID = 0x0020000D
# What stands before the length of Pixel Data (7FE0,0010), OB or OW, whose bytes are the same for one bit a pixel.
_PIXEL_HEADS = (b"\xe0\x7f\x10\x00OB\x00\x00", b"\xe0\x7f\x10\x00OW\x00\x00")
_PIXEL_HEAD_BYTES = 12

_COPIED = ("PatientID", "PatientName", "PatientBirthDate", "PatientSex", "StudyInstanceUID", "AccessionNumber")
_MARKS = ("not for diagnosis", "非诊断用")
TEXT_MARKS = ("Not for diagnosis", "不得直接用于诊断")


def check_segmentation(data: bytes, sources: Sequence[Dataset]) -> Dataset:
    """Read a SEG's bytes and refuse what must not be sent; gives the data set read, but for its pixels.

    Raises OutputInvalid.
    """
    with readable():
        return _segmentation(data, sources)


def check_report(data: bytes, sources: Sequence[Dataset], seg: Dataset | None, heat: Dataset | None = None) -> Dataset:
    """Read an SR's bytes and refuse what must not be sent; gives the data set read. Raises OutputInvalid."""
    with readable():
        return _report(data, sources, seg, heat)


def read_common(data: bytes, sop_class: str, sources: Sequence[Dataset]) -> Dataset:
    """Read an object's bytes and check what all kinds have in common. Raises OutputInvalid."""
    ds = _read(BytesIO(data), sop_class)
    _check_header(ds, sources)
    check_identities(ds, [])
    return ds


@contextmanager
def readable() -> Iterator[None]:
    """An attribute that a check expects and does not find, or finds in another form, is a reason not to send."""
    try:
        yield
    except (AttributeError, LookupError, ValueError, TypeError) as cause:
        raise OutputInvalid("NOT_READABLE", type(cause).__name__) from None


def _segmentation(data: bytes, sources: Sequence[Dataset]) -> Dataset:
    ds, pixels = _read_before_pixels(data, SegmentationStorage)
    _check_header(ds, sources)
    slices = {slice_of(s): tuple(float(v) for v in s.ImagePositionPatient) for s in sources}
    listed = [
        (series.get(_SERIES_UID), instance.get(SOP_INSTANCE))
        for series in items_of(ds, _REFERENCED_SERIES)
        for instance in series.get(_REFERENCED_INSTANCES, [])
    ]
    wanted = sorted({(str(s.SeriesInstanceUID), str(s.SOPInstanceUID)) for s in sources})
    require(sorted(listed) == wanted, "SERIES_REFERENCE_MISSING", "the referenced series is not the source series")
    require((ds.Rows, ds.Columns) == (sources[0].Rows, sources[0].Columns), "GRID_MISMATCH", "rows or columns differ")
    drawn: set[int] = set()
    frames = items_of(ds, _FRAME_GROUPS)
    require(len(frames) == int(ds.get("NumberOfFrames", 0)) > 0, "SEGMENTATION_EMPTY", "no frame")
    for frame in frames:
        drawn.add(_check_frame(frame, slices))
    numbers = [int(segment.SegmentNumber) for segment in ds.SegmentSequence]
    require(numbers == list(range(1, len(numbers) + 1)), "SEGMENT_UNKNOWN", "numbers are not contiguous from 1")
    require(drawn == set(numbers), "SEGMENT_EMPTY", "a described segment has no frame")
    size = (len(frames) * ds.Rows * ds.Columns + 7) // 8
    require(len(pixels) == size + size % 2, "GRID_MISMATCH", "pixel data are not as long as the frames")
    require(not any_blank(pixels, len(frames), ds.Rows * ds.Columns), "SEGMENT_EMPTY", "a frame without a pixel")
    for segment in ds.SegmentSequence:
        require(bool(segment.get("TrackingUID") and segment.get("TrackingID")), "TRACKING_MISSING", "in SEG")
    check_identities(ds, [macro_identity(segment) for segment in ds.SegmentSequence])
    return ds


def _report(data: bytes, sources: Sequence[Dataset], seg: Dataset | None, heat: Dataset | None) -> Dataset:
    ds = _read(BytesIO(data), Comprehensive3DSRStorage)
    _check_header(ds, sources)
    flags = (ds.get("VerificationFlag"), ds.get("PreliminaryFlag"))
    require(flags == ("UNVERIFIED", "PRELIMINARY"), "FLAGS_WRONG", "verification, preliminary")
    require(not ds.get("VerifyingObserverSequence"), "FLAGS_WRONG", "a verifying observer is present")
    top = items_of(ds, CONTENT)
    require(bool(top), "NOT_READABLE", "no tree")
    items = list(walk(top))
    continuity = [ds.ContinuityOfContent, *(i[CONTINUITY] for i in items if i[VALUE_TYPE] == "CONTAINER")]
    require(set(continuity) == {"SEPARATE"}, "CONTAINER_NOT_SEPARATE", "viewers drop the names of numbers")
    require(any(named(i, "121049") for i in top), "LANGUAGE_MISSING", "no language")
    require(any(named(i, "121058") for i in top), "PROCEDURE_MISSING", "no procedure reported")
    observer = [coded(i) for i in top if named(i, "121005")]
    require(observer == ["121007"] and any(named(i, "121012") for i in top), "DEVICE_OBSERVER_MISSING", "no device")
    comments = [str(i[TEXT]) for i in items if named(i, "121106")]
    require(any(m in c for c in comments for m in TEXT_MARKS), "MARKING_MISSING", "no marking text in the tree")
    groups = [i for i in items if named(i, "125007")]
    report_rules.check_outcome(ds, items, groups)
    check_identities(ds, [_observer_identity(top), *(_group_identity(g) for g in groups)])
    report_rules.check_groups(groups, seg)
    _check_evidence(ds, items, sources, [one for one in (seg, heat) if one is not None])
    _check_frames(items, sources)
    return ds


def _read_before_pixels(data: bytes, sop_class: str) -> tuple[Dataset, memoryview]:
    """What stands before the pixel data, and they: no copy, 234 MB of a whole body. Nothing may follow them."""
    file = BytesIO(data)
    ds = _read(file, sop_class, stop_before_pixels=True)
    require(ds.file_meta.TransferSyntaxUID == ExplicitVRLittleEndian, "NOT_READABLE", "not Explicit VR Little Endian")
    begin = file.tell() + _PIXEL_HEAD_BYTES
    head = data[file.tell() : begin]
    require(head[:-4] in _PIXEL_HEADS, "NOT_READABLE", "no pixel data where they should be")
    length = int.from_bytes(head[-4:], "little")
    require(begin + length == len(data), "GRID_MISMATCH", "pixel data do not end with the file")
    return ds, memoryview(data)[begin:]


def _read(file: BytesIO, sop_class: str, *, stop_before_pixels: bool = False) -> Dataset:
    try:
        ds = dcmread(file, stop_before_pixels=stop_before_pixels)
    except (InvalidDicomError, ValueError, EOFError) as cause:
        raise OutputInvalid("NOT_READABLE", type(cause).__name__) from None
    meta = ds.file_meta
    same = meta.MediaStorageSOPInstanceUID == ds.SOPInstanceUID and meta.MediaStorageSOPClassUID == ds.SOPClassUID
    require(same and ds.SOPClassUID == sop_class, "NOT_READABLE", "file meta and data set differ")
    return ds


def _check_header(ds: Dataset, sources: Sequence[Dataset]) -> None:
    """Identity as the PACS holds it, the marking that worklists show, and what the object says of its standing."""
    require(bool(sources), "SOURCE_MISSING", "nothing to compare with")
    require(ds.StudyInstanceUID == sources[0].get("StudyInstanceUID"), "IDENTITY_DIFFERS", "study")
    for keyword in ("PatientID", "AccessionNumber"):
        same = str(ds.get(keyword) or "") == str(sources[0].get(keyword) or "")
        require(same, "IDENTITY_DIFFERS", keyword)
    for keyword in _COPIED:
        require(keyword in ds, "IDENTITY_DIFFERS", f"{keyword} is absent")
    description = str(ds.get("SeriesDescription", ""))
    marked = description.startswith("AI ") and any(description.endswith(mark) for mark in _MARKS)
    require(marked, "MARKING_MISSING", "series description")
    require(ds.get("ContentQualification") == "RESEARCH", "CONTENT_QUALIFICATION_MISSING", "not RESEARCH")


def slice_of(source: Dataset) -> tuple[str, str]:
    """What a slice of the source is called: its instance, and its frame's number where it is one of several."""
    return str(source.SOPInstanceUID), str(source.get("ReferencedFrameNumber", ""))


def _check_frame(frame: Item, slices: dict[tuple[str, str], tuple[float, ...]]) -> int:
    """A frame must name the one source slice whose position it has; gives its segment number."""
    images = [image for d in frame.get(_DERIVATION_IMAGE, []) for image in d.get(_SOURCE_IMAGE, [])]
    require(len(images) == 1, "DERIVATION_MISSING", "a frame does not name its source slice")
    planes, segments = frame.get(_PLANE_POSITION, []), frame.get(_SEGMENT_IDENTIFICATION, [])
    require(len(planes) == len(segments) == 1, "DERIVATION_MISSING", "a frame has no position or no segment")
    position = tuple(float(v) for v in str(planes[0].get(_IMAGE_POSITION, "0")).split("\\"))
    found = slices.get((str(images[0].get(SOP_INSTANCE)), str(images[0].get(FRAME_NUMBER, ""))))
    require(found == position, "DERIVATION_MISSING", "a frame's position is not that of its source slice")
    (number,) = segments[0].get(_SEGMENT_NUMBER, (0,))
    return int(number)


def macro_identity(segment: Dataset) -> dict[str, str]:
    """How a segment names the algorithm that drew it."""
    items = segment.get("SegmentationAlgorithmIdentificationSequence") or []
    require(len(items) == 1, "ALGORITHM_IDENTITY_DIFFERS", "a segment names no algorithm")
    require(segment.SegmentAlgorithmName == items[0].AlgorithmName, "ALGORITHM_IDENTITY_DIFFERS", "segment name")
    return {
        "Manufacturer": str(items[0].get("AlgorithmSource", "")),
        "ManufacturerModelName": str(items[0].AlgorithmName),
        "SoftwareVersions": str(items[0].AlgorithmVersion),
    }


def _observer_identity(top: Sequence[Item]) -> dict[str, str]:
    return {
        "Manufacturer": value_of(top, "121014"),
        "ManufacturerModelName": value_of(top, "121015"),
        "DeviceUID": value_of(top, "121012"),
    }


def _group_identity(group: Item) -> dict[str, str]:
    content = group[CONTENT]
    return {"ManufacturerModelName": value_of(content, "111001"), "SoftwareVersions": value_of(content, "111003")}


def check_identities(ds: Dataset, stated: Sequence[Mapping[str, str]]) -> None:
    """IHE AIR Table 6.5.3.1-1: wherever the algorithm is named, it equals the Contributing Equipment item."""
    equipment = [
        item
        for item in ds.get("ContributingEquipmentSequence") or []
        if [code.CodeValue for code in item.PurposeOfReferenceCodeSequence] == ["109102"]
    ]
    require(len(equipment) == 1, "ALGORITHM_IDENTITY_DIFFERS", "no single processing equipment")
    keywords = ("Manufacturer", "ManufacturerModelName", "SoftwareVersions", "DeviceUID")
    truth = {keyword: str(equipment[0].get(keyword) or "") for keyword in keywords}
    require(all(truth.values()), "ALGORITHM_IDENTITY_DIFFERS", "the processing equipment is not fully named")
    for identity in stated:
        for keyword, value in identity.items():
            require(value == truth[keyword], "ALGORITHM_IDENTITY_DIFFERS", f"two places disagree on {keyword}")


def _check_frames(items: Sequence[Item], sources: Sequence[Dataset]) -> None:
    """An IMAGE item that names a source names one slice of it: the whole image, or the very frame."""
    slices = {slice_of(s) for s in sources}
    instances = {uid for uid, _ in slices}
    for item in items:
        for reference in item.get(REFERENCED, ()):
            uid = reference[SOP_INSTANCE]
            shown = (uid, reference.get(FRAME_NUMBER, ""))
            require(uid not in instances or shown in slices, "FRAME_REFERENCE_WRONG", "an image item's frame")


def _check_evidence(ds: Dataset, items: Sequence[Item], sources: Sequence[Dataset], made: Sequence[Dataset]) -> None:
    """Evidence = references: what the tree names, a series named by UID with all its instances (PS3.3 C.17.2).

    And in any case what was `made` with it: regions name no SEG, nothing names heat maps, and a report leads to all.
    """
    evidence: list[str] = []
    for study in items_of(ds, _EVIDENCE):
        require(study.get(_STUDY_UID) == ds.StudyInstanceUID, "EVIDENCE_DIFFERS", "evidence of another study")
        for series in study.get(_REFERENCED_SERIES, []):
            evidence += [str(instance.get(SOP_INSTANCE)) for instance in series.get(REFERENCED, [])]
    referred = {str(one.SOPInstanceUID) for one in made}
    for item in items:
        referred |= {str(reference[SOP_INSTANCE]) for reference in item.get(REFERENCED, ())}
    whole = {str(i[UID]) for i in items if named(i, "121232")}
    referred |= {str(s.SOPInstanceUID) for s in sources if str(s.SeriesInstanceUID) in whole}
    require(len(evidence) == len(set(evidence)), "EVIDENCE_DIFFERS", "an instance is listed twice")
    require(set(evidence) == referred, "EVIDENCE_DIFFERS", "the evidence is not what the tree refers to")
