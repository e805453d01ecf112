"""What SEG and SR share: patient, study, series, equipment and SOP Common modules (PS3.3 C.7, C.12.1), and encoding.

Written on pydicom, not on highdicom's constructors: those read the clock, mint UIDs at random, copy the source's
character set and append equipment of their own (each would have to be undone), and cost 0.3 s for 189 slices.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Sequence
from datetime import datetime, timedelta, timezone
from io import BytesIO

from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import ExplicitVRLittleEndian

from dicom_bridge import explicit, receipt, uids
from dicom_bridge.charset import normalise
from dicom_bridge.result_context import (
    BRIDGE_MANUFACTURER,
    BRIDGE_MODEL_NAME,
    Algorithm,
    ResultContext,
)
from dicom_bridge.validity import OutputInvalid
from models.codes import Code

# Type 2 of the Patient and General Study modules: present even when empty, with the value that the PACS holds.
_REQUIRED_EVEN_EMPTY = (
    "PatientName",
    "PatientID",
    "PatientBirthDate",
    "PatientSex",
    "StudyDate",
    "StudyTime",
    "StudyID",
    "AccessionNumber",
    "ReferringPhysicianName",
)
_COPIED_WHEN_KNOWN = ("IssuerOfPatientID", "PatientAge", "PatientSize", "PatientWeight", "StudyDescription")

_SERIES_INSTANCE_UID = 0x0020000E
_PIXEL_DATA = 0x7FE00010
_PROCESSING_EQUIPMENT = Code("109102", "DCM", "Processing Equipment")


def code_item(code: Code) -> Dataset:
    """One item of a Code Sequence (PS3.3 Table 8.8-1)."""
    item = Dataset()
    item.CodeValue = code.value
    item.CodingSchemeDesignator = code.scheme
    item.CodeMeaning = code.meaning
    return item


def source_head(sources: Sequence[Dataset]) -> Dataset:
    """Patient and study of the first source as text in Unicode; the sources themselves stay untouched.

    Raises OutputInvalid SOURCE_MISSING without sources, SOURCE_ATTRIBUTE_MISSING without a study or series to belong
    to; CharsetRefused when the name or an identifier cannot be read for certain. A radiograph needs no Frame of
    Reference UID (PS3.3 table A.26-1): where there is none, it is empty.
    """
    if not sources:
        raise OutputInvalid("SOURCE_MISSING", "no source instance to describe")
    raw = Dataset()
    # Elements travel undecoded and with their character set, so that text is read once, by the one who knows how.
    for keyword in ("SpecificCharacterSet", *_REQUIRED_EVEN_EMPTY, *_COPIED_WHEN_KNOWN, "BodyPartExamined"):
        if keyword in sources[0]:
            raw[keyword] = sources[0].get_item(keyword)
    head = normalise(raw)
    for keyword in ("StudyInstanceUID", "SeriesInstanceUID", "SOPInstanceUID", "SOPClassUID"):
        if not sources[0].get(keyword):
            raise OutputInvalid("SOURCE_ATTRIBUTE_MISSING", f"the source has no {keyword}")
        setattr(head, keyword, str(sources[0].get(keyword)))
    head.FrameOfReferenceUID = str(sources[0].get("FrameOfReferenceUID", "") or "")
    head.Modality = str(sources[0].get("Modality", ""))
    head.TimezoneOffsetFromUTC = str(sources[0].get("TimezoneOffsetFromUTC", "") or "")
    return head


def common_modules(head: Dataset, context: ResultContext, algorithm: Algorithm) -> Dataset:
    """A new data set with the modules that SEG and SR have in common; kind, series and instance are the caller's."""
    ds = Dataset()
    ds.SpecificCharacterSet = context.charset
    for keyword in _REQUIRED_EVEN_EMPTY:
        setattr(ds, keyword, _text(head, keyword))
    for keyword in _COPIED_WHEN_KNOWN:
        if text := _text(head, keyword):
            setattr(ds, keyword, text)
    ds.StudyInstanceUID = head.StudyInstanceUID
    moment, offset = local_moment(head, context)
    for prefix in ("InstanceCreation", "Series", "Content"):
        setattr(ds, f"{prefix}Date", moment.strftime("%Y%m%d"))
        setattr(ds, f"{prefix}Time", moment.strftime("%H%M%S.%f"))
    ds.TimezoneOffsetFromUTC = offset
    ds.InstanceNumber = 1
    ds.Manufacturer = BRIDGE_MANUFACTURER
    ds.ManufacturerModelName = BRIDGE_MODEL_NAME
    ds.SoftwareVersions = context.bridge_version
    ds.DeviceSerialNumber = context.device_serial
    # Nothing we ship is cleared as a product yet; Type 3 on any IOD (PS3.3 C.12.1).
    ds.ContentQualification = "RESEARCH"
    ds.ContributingEquipmentSequence = [_processing_equipment(algorithm)]
    if context.receipt is not None:
        receipt.put(ds, context.receipt)
    return ds


def local_moment(head: Dataset, context: ResultContext) -> tuple[datetime, str]:
    """Content time in the source's declared zone or else the site's civil time, with its (0008,0201) text.

    One data set has one offset for all its times, the copied Study Time included (PS3.3 C.12.1.1.8).
    """
    zone = context.civil_time
    declared = head.TimezoneOffsetFromUTC
    if len(declared) == 5 and declared[0] in "+-" and declared[1:].isdigit() and int(declared[1:3]) <= 14:
        sign = -1 if declared[0] == "-" else 1
        zone = timezone(sign * timedelta(hours=int(declared[1:3]), minutes=int(declared[3:])))
    moment = context.content_time.astimezone(zone)
    return moment, moment.strftime("%z")[:5]


def reference_item(sop_class: str, sop_instance: str) -> Dataset:
    """One item of a Referenced SOP Sequence."""
    item = Dataset()
    item.ReferencedSOPClassUID = sop_class
    item.ReferencedSOPInstanceUID = sop_instance
    return item


def frame_number(source: Dataset) -> int | None:
    """The number (from 1) of the frame that a source's header describes; None for an image of its own."""
    number = source.get("ReferencedFrameNumber")
    return None if number is None else int(number)


def lossy_history(ds: Dataset, sources: Sequence[Dataset]) -> None:
    """Once lossy, always lossy (PS3.3 C.7.6.1.1.5): what was drawn on compressed pixels says so."""
    lossy = next((s for s in sources if s.get("LossyImageCompression") == "01"), None)
    ds.LossyImageCompression = "01" if lossy is not None else "00"
    if lossy is not None:
        for keyword in ("LossyImageCompressionRatio", "LossyImageCompressionMethod"):
            if lossy.get(keyword):
                setattr(ds, keyword, lossy.get(keyword))


def referenced_series(instances: Sequence[Dataset], references_tag: int) -> bytes:
    """One item of a Referenced Series Sequence: the series of these instances, and they under `references_tag`.

    Frames of one instance name it once.
    """
    different = dict.fromkeys((str(ds.SOPClassUID), str(ds.SOPInstanceUID)) for ds in instances)
    references = [explicit.reference_item(sop_class, sop_instance) for sop_class, sop_instance in different]
    listed = explicit.sequence(references_tag, references)
    series = explicit.text(_SERIES_INSTANCE_UID, "UI", str(instances[0].SeriesInstanceUID))
    # Elements of an item stand in ascending order of their tags.
    return listed + series if references_tag < _SERIES_INSTANCE_UID else series + listed


def part10(ds: Dataset, sop_class: str, sop_instance: str, pixels: Iterable[memoryview] | None = None) -> bytes:
    """The file, Explicit VR Little Endian. Raises OutputInvalid NOT_ENCODABLE: a value fits not its VR or charset.

    `pixels`: Pixel Data (7FE0,0010) as OB, piece by piece, where `ds` has none and nothing behind it: so a segmentation
    of a whole body, 234 MB, is copied once; pydicom would copy it three times.
    """
    ds.SOPClassUID = sop_class
    ds.SOPInstanceUID = sop_instance
    meta = FileMetaDataset()
    meta.FileMetaInformationVersion = b"\x00\x01"
    meta.MediaStorageSOPClassUID = sop_class
    meta.MediaStorageSOPInstanceUID = sop_instance
    meta.TransferSyntaxUID = ExplicitVRLittleEndian
    meta.ImplementationClassUID = uids.IMPLEMENTATION_CLASS_UID
    meta.ImplementationVersionName = uids.IMPLEMENTATION_VERSION_NAME
    ds.file_meta = meta
    ds.preamble = bytes(128)
    explicit.declare_encoding(ds)
    buffer = BytesIO()
    try:
        # pydicom only warns, and writes "???", when text does not fit the character set: for a name that is a lie.
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            ds.save_as(buffer, enforce_file_format=True, implicit_vr=False, little_endian=True)
    except (ValueError, TypeError, OverflowError, AttributeError, UserWarning) as cause:
        raise OutputInvalid("NOT_ENCODABLE", f"a value cannot be written ({type(cause).__name__})") from None
    if pixels is not None:
        _append_pixels(buffer, pixels)
    # As BytesIO is made, this is its own memory and no copy.
    return buffer.getvalue()


def _append_pixels(buffer: BytesIO, pixels: Iterable[memoryview]) -> None:
    begin = buffer.tell()
    buffer.write(explicit.head(_PIXEL_DATA, "OB", 0))
    length = sum(buffer.write(piece) for piece in pixels)
    buffer.write(b"\x00" * (length % 2))
    buffer.seek(begin)
    try:
        buffer.write(explicit.head(_PIXEL_DATA, "OB", length + length % 2))
    except ValueError:
        raise OutputInvalid("NOT_ENCODABLE", "the pixel data are too long") from None


def _text(head: Dataset, keyword: str) -> str:
    value = head.get(keyword)
    return "" if value is None else str(value)


def _processing_equipment(algorithm: Algorithm) -> Dataset:
    """The algorithm as IHE AIR §6.5.3.1 wants it: a contributing equipment with Device UID."""
    item = Dataset()
    item.PurposeOfReferenceCodeSequence = [code_item(_PROCESSING_EQUIPMENT)]
    item.Manufacturer = algorithm.vendor
    item.ManufacturerModelName = algorithm.name
    item.SoftwareVersions = algorithm.version
    item.DeviceUID = algorithm.device_uid
    return item
