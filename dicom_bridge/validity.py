"""The last check before an object may be sent: valid, or not sent.

These are the rules that the public validators miss (tracking, marking, language, device observer, the five places that
name the algorithm) and the ones whose breach makes a right result look wrong in a viewer. They read the *bytes* that
will be sent, with no writer code, so an error of the writer cannot hide behind itself.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from io import BytesIO
from typing import Any, ClassVar

from pydicom import dcmread
from pydicom.dataelem import RawDataElement
from pydicom.dataset import Dataset
from pydicom.errors import InvalidDicomError
from pydicom.uid import Comprehensive3DSRStorage, SegmentationStorage

from dicom_bridge.errors import BridgeError, Fault


class OutputInvalid(BridgeError):
    """A result that must not be sent. The codes name the rule; the message never holds patient data."""

    CODES: ClassVar[frozenset[str]] = frozenset(
        {
            "ALGORITHM_IDENTITY_DIFFERS",
            "CONTAINER_NOT_SEPARATE",
            "CONTENT_QUALIFICATION_MISSING",
            "DERIVATION_MISSING",
            "DEVICE_OBSERVER_MISSING",
            "EVIDENCE_DIFFERS",
            "FLAGS_WRONG",
            "FRAME_REFERENCE_WRONG",
            "GRID_MISMATCH",
            "IDENTITY_DIFFERS",
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
            "SEGMENTATION_EMPTY",
            "SEGMENT_DUPLICATE",
            "SEGMENT_EMPTY",
            "SEGMENT_NOT_MEASURED",
            "SEGMENT_REFERENCE_WRONG",
            "SEGMENT_UNKNOWN",
            "SERIES_REFERENCE_MISSING",
            "SOURCE_ATTRIBUTE_MISSING",
            "SOURCE_MISSING",
            "SUMMARY_MISSING",
            "TRACKING_DIFFERS",
            "TRACKING_MISSING",
        }
    )
    fault: ClassVar[Fault] = Fault.US


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
_REFERENCED_SOPS = 0x00081199
_SOP_INSTANCE = 0x00081155
_FRAME_NUMBER = 0x00081160
_SERIES_UID = 0x0020000E
_STUDY_UID = 0x0020000D

_COPIED = ("PatientID", "PatientName", "PatientBirthDate", "PatientSex", "StudyInstanceUID", "AccessionNumber")
_MARKS = ("not for diagnosis", "非诊断用")
_NONE_SUCCEEDED = "111245"
_TEXT_MARKS = ("Not for diagnosis", "不得直接用于诊断")


def check_segmentation(data: bytes, sources: Sequence[Dataset]) -> Dataset:
    """Read a SEG's bytes and refuse what must not be sent; gives the data set read. Raises OutputInvalid."""
    with readable():
        return _segmentation(data, sources)


def check_report(data: bytes, sources: Sequence[Dataset], seg: Dataset | None) -> Dataset:
    """Read an SR's bytes and refuse what must not be sent; gives the data set read. Raises OutputInvalid."""
    with readable():
        return _report(data, sources, seg)


def read_common(data: bytes, sop_class: str, sources: Sequence[Dataset]) -> Dataset:
    """Read an object's bytes and check what all kinds have in common. Raises OutputInvalid."""
    ds = _read(data, sop_class)
    _check_header(ds, sources)
    _check_identities(ds, [])
    return ds


@contextmanager
def readable() -> Iterator[None]:
    """An attribute that a check expects and does not find, or finds in another form, is a reason not to send."""
    try:
        yield
    except (AttributeError, LookupError, ValueError, TypeError) as cause:
        raise OutputInvalid("NOT_READABLE", type(cause).__name__) from None


def _segmentation(data: bytes, sources: Sequence[Dataset]) -> Dataset:
    ds = _read(data, SegmentationStorage)
    _check_header(ds, sources)
    slices = {_slice_of(s): tuple(float(v) for v in s.ImagePositionPatient) for s in sources}
    listed = [
        (series.get(_SERIES_UID), instance.get(_SOP_INSTANCE))
        for series in _items(ds, _REFERENCED_SERIES)
        for instance in series.get(_REFERENCED_INSTANCES, [])
    ]
    wanted = sorted({(str(s.SeriesInstanceUID), str(s.SOPInstanceUID)) for s in sources})
    _require(sorted(listed) == wanted, "SERIES_REFERENCE_MISSING", "the referenced series is not the source series")
    _require((ds.Rows, ds.Columns) == (sources[0].Rows, sources[0].Columns), "GRID_MISMATCH", "rows or columns differ")
    drawn: set[int] = set()
    frames = _items(ds, _FRAME_GROUPS)
    _require(len(frames) == int(ds.get("NumberOfFrames", 0)) > 0, "SEGMENTATION_EMPTY", "no frame")
    for frame in frames:
        drawn.add(_check_frame(frame, slices))
    numbers = [int(segment.SegmentNumber) for segment in ds.SegmentSequence]
    _require(numbers == list(range(1, len(numbers) + 1)), "SEGMENT_UNKNOWN", "numbers are not contiguous from 1")
    _require(drawn == set(numbers), "SEGMENT_EMPTY", "a described segment has no frame")
    size = (int(ds.NumberOfFrames) * ds.Rows * ds.Columns + 7) // 8
    _require(len(ds.PixelData) == size + size % 2, "GRID_MISMATCH", "pixel data are not as long as the frames")
    _require(any(ds.PixelData), "SEGMENT_EMPTY", "no pixel is set")
    for segment in ds.SegmentSequence:
        _require(bool(segment.get("TrackingUID") and segment.get("TrackingID")), "TRACKING_MISSING", "in SEG")
    _check_identities(ds, [_macro_identity(segment) for segment in ds.SegmentSequence])
    return ds


def _report(data: bytes, sources: Sequence[Dataset], seg: Dataset | None) -> Dataset:
    ds = _read(data, Comprehensive3DSRStorage)
    _check_header(ds, sources)
    flags = (ds.get("CompletionFlag"), ds.get("VerificationFlag"), ds.get("PreliminaryFlag"))
    # What ran is complete; what did not run is partial, and then nothing was found.
    refused = flags[0] == "PARTIAL" and seg is None
    flagged = flags[0] == "COMPLETE" or refused
    _require(
        flagged and flags[1:] == ("UNVERIFIED", "PRELIMINARY"), "FLAGS_WRONG", "completion, verification, preliminary"
    )
    _require(not ds.get("VerifyingObserverSequence"), "FLAGS_WRONG", "a verifying observer is present")
    items = list(_walk(ds))
    _require(
        all(i.ContinuityOfContent == "SEPARATE" for i in (ds, *items) if i.ValueType == "CONTAINER"),
        "CONTAINER_NOT_SEPARATE",
        "viewers drop the names of numbers",
    )
    top = list(ds.ContentSequence)
    _require(any(_named(i, "121049") for i in top), "LANGUAGE_MISSING", "no language")
    _require(any(_named(i, "121058") for i in top), "PROCEDURE_MISSING", "no procedure reported")
    observer = [_coded(i) for i in top if _named(i, "121005")]
    _require(observer == ["121007"] and any(_named(i, "121012") for i in top), "DEVICE_OBSERVER_MISSING", "no device")
    summary = [_coded(i) for i in items if _named(i, "111017")]
    _require(bool(summary), "SUMMARY_MISSING", "no processing summary")
    _require(refused == (summary == [_NONE_SUCCEEDED]), "FLAGS_WRONG", "the summary is not that of the completion flag")
    comments = [str(i.TextValue) for i in items if _named(i, "121106")]
    _require(any(m in c for c in comments for m in _TEXT_MARKS), "MARKING_MISSING", "no marking text in the tree")
    groups = [i for i in items if _named(i, "125007")]
    _check_identities(ds, [_observer_identity(top), *(_group_identity(g) for g in groups)])
    for group in groups:
        _check_group(group, seg)
    _require(seg is None or bool(groups), "SEGMENT_REFERENCE_WRONG", "a SEG exists that the report does not show")
    _require(not (refused and groups), "FLAGS_WRONG", "a measurement of what did not run")
    _check_evidence(ds, items, sources)
    _check_frames(items, sources)
    if seg is not None:
        _check_tracking(groups, seg)
    return ds


def _require(holds: bool, code: str, detail: str) -> None:  # noqa: FBT001 - the rule reads best first
    if not holds:
        raise OutputInvalid(code, detail)


def _read(data: bytes, sop_class: str) -> Dataset:
    try:
        ds = dcmread(BytesIO(data))
    except (InvalidDicomError, ValueError, EOFError) as cause:
        raise OutputInvalid("NOT_READABLE", type(cause).__name__) from None
    meta = ds.file_meta
    same = meta.MediaStorageSOPInstanceUID == ds.SOPInstanceUID and meta.MediaStorageSOPClassUID == ds.SOPClassUID
    _require(same and ds.SOPClassUID == sop_class, "NOT_READABLE", "file meta and data set differ")
    return ds


def _check_header(ds: Dataset, sources: Sequence[Dataset]) -> None:
    """Identity as the PACS holds it, the marking that worklists show, and what the object says of its standing."""
    _require(bool(sources), "SOURCE_MISSING", "nothing to compare with")
    _require(ds.StudyInstanceUID == sources[0].get("StudyInstanceUID"), "IDENTITY_DIFFERS", "study")
    for keyword in ("PatientID", "AccessionNumber"):
        same = str(ds.get(keyword) or "") == str(sources[0].get(keyword) or "")
        _require(same, "IDENTITY_DIFFERS", keyword)
    for keyword in _COPIED:
        _require(keyword in ds, "IDENTITY_DIFFERS", f"{keyword} is absent")
    description = str(ds.get("SeriesDescription", ""))
    marked = description.startswith("AI ") and any(description.endswith(mark) for mark in _MARKS)
    _require(marked, "MARKING_MISSING", "series description")
    _require(ds.get("ContentQualification") == "RESEARCH", "CONTENT_QUALIFICATION_MISSING", "not RESEARCH")


# One item of a sequence: values by tag, items for sequences. Sequences that repeat once per slice are read by hand:
# pydicom takes 0.1 s for those of 189 slices.
_Item = dict[int, Any]
_LONG_VRS = frozenset({b"SQ", b"OB", b"OW", b"OF", b"OD", b"OL", b"OV", b"UC", b"UN", b"UR", b"UT", b"SV", b"UV"})


def _items(ds: Dataset, tag: int) -> list[_Item]:
    """The items of a top-level sequence of a data set just read; empty when it is absent."""
    element = ds.get_item(tag)
    if element is None:
        return []
    _require(isinstance(element, RawDataElement) and isinstance(element.value, bytes), "NOT_READABLE", "sequence")
    try:
        return _parse_items(element.value, {})
    except (struct.error, IndexError, UnicodeDecodeError):
        raise OutputInvalid("NOT_READABLE", "a sequence is malformed") from None


def _parse_items(data: bytes, known: dict[bytes, list[_Item]]) -> list[_Item]:
    """`known`: sequences read before, by their bytes. Frames of 104 segments name the same 300 slices over and over."""
    items, at = [], 0
    while at < len(data):
        group, number, length = struct.unpack_from("<HHI", data, at)
        _require((group, number) == (0xFFFE, 0xE000), "NOT_READABLE", "no item where one should be")
        items.append(_parse_elements(data[at + 8 : at + 8 + length], known))
        at += 8 + length
    return items


def _parse_elements(data: bytes, known: dict[bytes, list[_Item]]) -> _Item:
    """Explicit VR Little Endian, defined lengths (PS3.5 7.1.2)."""
    item: _Item = {}
    at = 0
    while at < len(data):
        group, number, vr, length = struct.unpack_from("<HH2sH", data, at)
        at += 8
        if vr in _LONG_VRS:
            (length,) = struct.unpack_from("<I", data, at)
            at += 4
        value = data[at : at + length]
        _require(len(value) == length, "NOT_READABLE", "a value is cut short")
        at += length
        if vr == b"SQ":
            if value not in known:
                known[value] = _parse_items(value, known)
            item[group << 16 | number] = known[value]
        elif vr in (b"US", b"UL"):
            item[group << 16 | number] = struct.unpack(
                f"<{len(value) // 2}H" if vr == b"US" else f"<{len(value) // 4}I", value
            )
        else:
            item[group << 16 | number] = value.decode("ascii").rstrip("\x00 ")
    return item


def _slice_of(source: Dataset) -> tuple[str, str]:
    """What a slice of the source is called: its instance, and its frame's number where it is one of several."""
    return str(source.SOPInstanceUID), str(source.get("ReferencedFrameNumber", ""))


def _check_frame(frame: _Item, slices: dict[tuple[str, str], tuple[float, ...]]) -> int:
    """A frame must name the one source slice whose position it has; gives its segment number."""
    images = [image for d in frame.get(_DERIVATION_IMAGE, []) for image in d.get(_SOURCE_IMAGE, [])]
    _require(len(images) == 1, "DERIVATION_MISSING", "a frame does not name its source slice")
    planes, segments = frame.get(_PLANE_POSITION, []), frame.get(_SEGMENT_IDENTIFICATION, [])
    _require(len(planes) == len(segments) == 1, "DERIVATION_MISSING", "a frame has no position or no segment")
    position = tuple(float(v) for v in str(planes[0].get(_IMAGE_POSITION, "0")).split("\\"))
    found = slices.get((str(images[0].get(_SOP_INSTANCE)), str(images[0].get(_FRAME_NUMBER, ""))))
    _require(found == position, "DERIVATION_MISSING", "a frame's position is not that of its source slice")
    (number,) = segments[0].get(_SEGMENT_NUMBER, (0,))
    return int(number)


def _macro_identity(segment: Dataset) -> dict[str, str]:
    items = segment.get("SegmentationAlgorithmIdentificationSequence") or []
    _require(len(items) == 1, "ALGORITHM_IDENTITY_DIFFERS", "a segment names no algorithm")
    _require(segment.SegmentAlgorithmName == items[0].AlgorithmName, "ALGORITHM_IDENTITY_DIFFERS", "segment name")
    return {
        "Manufacturer": str(items[0].get("AlgorithmSource", "")),
        "ManufacturerModelName": str(items[0].AlgorithmName),
        "SoftwareVersions": str(items[0].AlgorithmVersion),
    }


def _observer_identity(top: Sequence[Dataset]) -> dict[str, str]:
    return {
        "Manufacturer": _value(top, "121014"),
        "ManufacturerModelName": _value(top, "121015"),
        "DeviceUID": _value(top, "121012"),
    }


def _group_identity(group: Dataset) -> dict[str, str]:
    content = group.ContentSequence
    return {"ManufacturerModelName": _value(content, "111001"), "SoftwareVersions": _value(content, "111003")}


def _check_identities(ds: Dataset, stated: Sequence[Mapping[str, str]]) -> None:
    """IHE AIR Table 6.5.3.1-1: wherever the algorithm is named, it equals the Contributing Equipment item."""
    equipment = [
        item
        for item in ds.get("ContributingEquipmentSequence") or []
        if [code.CodeValue for code in item.PurposeOfReferenceCodeSequence] == ["109102"]
    ]
    _require(len(equipment) == 1, "ALGORITHM_IDENTITY_DIFFERS", "no single processing equipment")
    keywords = ("Manufacturer", "ManufacturerModelName", "SoftwareVersions", "DeviceUID")
    truth = {keyword: str(equipment[0].get(keyword) or "") for keyword in keywords}
    _require(all(truth.values()), "ALGORITHM_IDENTITY_DIFFERS", "the processing equipment is not fully named")
    for identity in stated:
        for keyword, value in identity.items():
            _require(value == truth[keyword], "ALGORITHM_IDENTITY_DIFFERS", f"two places disagree on {keyword}")


def _walk(item: Dataset) -> Iterator[Dataset]:
    for child in item.get("ContentSequence") or []:
        yield child
        yield from _walk(child)


def _named(item: Dataset, code: str) -> bool:
    return bool(item.get("ConceptNameCodeSequence")) and item.ConceptNameCodeSequence[0].CodeValue == code


def _coded(item: Dataset) -> str:
    return str(item.ConceptCodeSequence[0].CodeValue)


def _value(items: Sequence[Dataset], code: str) -> str:
    """Text or UID of the one child with this concept name; empty when there is not exactly one."""
    found = [str(i.get("TextValue") or i.get("UID") or "") for i in items if _named(i, code)]
    return found[0] if len(found) == 1 else ""


def _check_group(group: Dataset, seg: Dataset | None) -> None:
    """TID 1411: tracking, a segment of the SEG, and numbers that reach the key slice (some viewers fail otherwise)."""
    content = list(group.ContentSequence)
    _require(bool(_value(content, "112039") and _value(content, "112040")), "TRACKING_MISSING", "in SR")
    numbers = [i for i in content if i.ValueType == "NUM"]
    _require(bool(numbers), "SEGMENT_NOT_MEASURED", "a group without a number")
    for number in numbers:
        outlines = [i for i in number.get("ContentSequence") or [] if i.ValueType == "SCOORD"]
        shown = [c for o in outlines for c in o.get("ContentSequence") or [] if c.ValueType == "IMAGE"]
        _require(bool(shown), "MEASUREMENT_WITHOUT_COORDINATES", "a number without a contour on a slice")
    segments = [i for i in content if _named(i, "121191")]
    _require(seg is not None and len(segments) == 1, "SEGMENT_REFERENCE_WRONG", "a group without its one segment")
    reference = segments[0].ReferencedSOPSequence[0]
    right = seg is not None and reference.ReferencedSOPInstanceUID == seg.SOPInstanceUID
    _require(right, "SEGMENT_REFERENCE_WRONG", "a group points at another object")


def _check_tracking(groups: Sequence[Dataset], seg: Dataset) -> None:
    """Every segment has its group, under the same tracking identifier and UID (I6 across objects)."""
    in_seg = {int(s.SegmentNumber): (str(s.TrackingID), str(s.TrackingUID)) for s in seg.SegmentSequence}
    in_sr: dict[int, tuple[str, str]] = {}
    for group in groups:
        content = list(group.ContentSequence)
        reference = next(i for i in content if _named(i, "121191")).ReferencedSOPSequence[0]
        in_sr[int(reference.ReferencedSegmentNumber)] = (_value(content, "112039"), _value(content, "112040"))
    _require(in_sr == in_seg, "TRACKING_DIFFERS", "SR and SEG do not track the same segments")


def _check_frames(items: Sequence[Dataset], sources: Sequence[Dataset]) -> None:
    """An IMAGE item that names a source names one slice of it: the whole image, or the very frame."""
    slices = {_slice_of(s) for s in sources}
    instances = {uid for uid, _ in slices}
    for item in items:
        for reference in item.get("ReferencedSOPSequence") or []:
            uid = str(reference.ReferencedSOPInstanceUID)
            named = (uid, str(reference.get("ReferencedFrameNumber", "")))
            _require(uid not in instances or named in slices, "FRAME_REFERENCE_WRONG", "an image item's frame")


def _check_evidence(ds: Dataset, items: Sequence[Dataset], sources: Sequence[Dataset]) -> None:
    """Evidence = references: what the tree names, a series named by UID with all its instances (PS3.3 C.17.2)."""
    evidence: list[str] = []
    for study in _items(ds, _EVIDENCE):
        _require(study.get(_STUDY_UID) == ds.StudyInstanceUID, "EVIDENCE_DIFFERS", "evidence of another study")
        for series in study.get(_REFERENCED_SERIES, []):
            evidence += [str(instance.get(_SOP_INSTANCE)) for instance in series.get(_REFERENCED_SOPS, [])]
    named: set[str] = set()
    for item in items:
        named |= {str(r.ReferencedSOPInstanceUID) for r in item.get("ReferencedSOPSequence") or []}
    whole = {str(i.UID) for i in items if _named(i, "121232")}
    named |= {str(s.SOPInstanceUID) for s in sources if str(s.SeriesInstanceUID) in whole}
    _require(len(evidence) == len(set(evidence)), "EVIDENCE_DIFFERS", "an instance is listed twice")
    _require(set(evidence) == named, "EVIDENCE_DIFFERS", "the evidence is not what the tree refers to")
