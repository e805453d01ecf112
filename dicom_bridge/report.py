"""Findings -> Comprehensive 3D SR, TID 1500 Imaging Measurement Report (PS3.16), with what IHE AIR asks for.

Shape: one TID 1411 group per segment, pointing at the SEG; each of its numbers is INFERRED FROM a contour on the key
slice, because viewers in the field fail on a measurement group that reaches no coordinates. Study-level statements
stand in Qualitative Evaluations (TID 1500 row 12): validators misread a TID 1501 group beside TID 1411 groups.
Containers are SEPARATE, or viewers drop the names of numbers.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Final

from pydicom.dataset import Dataset
from pydicom.uid import Comprehensive3DSRStorage

from dicom_bridge import content, explicit
from dicom_bridge.composite import code_item, common_modules, part10, referenced_series, source_head
from dicom_bridge.contour import Outline, key_outline
from dicom_bridge.result_context import (
    MARKING,
    NOT_PERFORMED,
    SR_SERIES_NUMBER,
    Algorithm,
    Language,
    ResultContext,
    series_description,
    tracking,
)
from dicom_bridge.segmentation import DrawnSegment, drawn_segments, grid_shape
from dicom_bridge.validity import OutputInvalid, check_report
from inference.types import Findings, Measurement
from models.codes import Code
from models.manifest import Manifest, MeasurementSpec
from models.ref import ModelRef

# CID 100 as the validators know it; the specific procedure stays in the study's own attributes.
_PROCEDURES: Final[Mapping[str, Code]] = {
    "MR": Code("25056-3", "LN", "MRI unspecified body region"),
    "CT": Code("25045-6", "LN", "CT unspecified body region"),
}
_LANGUAGES: Final[Mapping[Language, Code]] = {
    "en-US": Code("en-US", "RFC5646", "English (United States)"),
    "zh-CN": Code("zh-CN", "RFC5646", "Chinese (China)"),
}
_REPORT = Code("126000", "DCM", "Imaging Measurement Report")
_LANGUAGE = Code("121049", "DCM", "Language of Content Item and Descendants")
_OBSERVER_TYPE = Code("121005", "DCM", "Observer Type")
_DEVICE = Code("121007", "DCM", "Device")
_OBSERVER_UID = Code("121012", "DCM", "Device Observer UID")
_OBSERVER_NAME = Code("121013", "DCM", "Device Observer Name")
_OBSERVER_MANUFACTURER = Code("121014", "DCM", "Device Observer Manufacturer")
_OBSERVER_MODEL = Code("121015", "DCM", "Device Observer Model Name")
_OBSERVER_SERIAL = Code("121016", "DCM", "Device Observer Serial Number")
_PROCEDURE_REPORTED = Code("121058", "DCM", "Procedure reported")
_IMAGE_LIBRARY = Code("111028", "DCM", "Image Library")
_IMAGE_LIBRARY_GROUP = Code("126200", "DCM", "Image Library Group")
_MEASUREMENTS = Code("126010", "DCM", "Imaging Measurements")
_GROUP = Code("125007", "DCM", "Measurement Group")
_TRACKING_ID = Code("112039", "DCM", "Tracking Identifier")
_TRACKING_UID = Code("112040", "DCM", "Tracking Unique Identifier")
_FINDING_CATEGORY = Code("276214006", "SCT", "Finding category")
_FINDING = Code("121071", "DCM", "Finding")
_FINDING_SITE = Code("363698007", "SCT", "Finding Site")
_METHOD = Code("370129005", "SCT", "Measurement Method")
_ALGORITHM_NAME = Code("111001", "DCM", "Algorithm Name")
_ALGORITHM_VERSION = Code("111003", "DCM", "Algorithm Version")
_REFERENCED_SEGMENT = Code("121191", "DCM", "Referenced Segment")
_SOURCE_SERIES = Code("121232", "DCM", "Source series for segmentation")
_QUALITATIVE = Code("C0034375", "UMLS", "Qualitative Evaluations")
_SUMMARY = Code("111017", "DCM", "CAD Processing and Findings Summary")
_WITH_FINDINGS = Code("111242", "DCM", "All algorithms succeeded; with findings")
_WITHOUT_FINDINGS = Code("111241", "DCM", "All algorithms succeeded; without findings")
_NONE_SUCCEEDED = Code("111245", "DCM", "No algorithms succeeded; without findings")
_COMMENT = Code("121106", "DCM", "Comment")
_PRESENT = Code("52101004", "SCT", "Present")
_ABSENT = Code("272519000", "SCT", "Absent")
# CID 7150: only of something abnormal is presence a statement worth making; an organ is simply there.
_ABNORMAL = "49755003"
_REFERENCED_SERIES = 0x00081115
_REFERENCED_SOPS = 0x00081199
_OUTLINE = Code("260753009", "SCT", "Source")


def write_sr(
    findings: Findings,
    manifest: Manifest,
    ref: ModelRef,
    sources: Sequence[Dataset],
    seg: Dataset | None,
    context: ResultContext,
) -> bytes:
    """The SR of one call as a Part 10 file, already through our own validity check.

    `seg` is the SEG written for the same call (`write_seg`), None when no segment has a pixel: then the report says
    "without findings" and holds no number. Raises OutputInvalid, CharsetRefused.
    """
    segments = drawn_segments(findings, manifest, grid_shape(sources))
    if bool(segments) != (seg is not None):
        raise OutputInvalid("SEGMENT_REFERENCE_WRONG", "a SEG exists exactly when a segment has a pixel")
    algorithm = Algorithm.of(manifest, ref)
    ds = _document(algorithm, sources, context, completion="COMPLETE")
    if context.predecessors:
        ds.PredecessorDocumentsSequence = _predecessors(context.predecessors)
    outlines = {s.number: key_outline(s.found.part, s.found.origin) for s in segments}
    key_slices = sorted({outline.slice_index for outline in outlines.values()}) or [len(sources) // 2]
    ds.CurrentRequestedProcedureEvidenceSequence = [_evidence(sources, seg, key_slices)]
    ds.ContentSequence = [
        *_document_context(manifest, algorithm, source_head(sources), context),
        _image_library([sources[k] for k in key_slices]),
    ]
    if seg is not None:
        groups = [
            _group(s, _measured(s, findings, manifest), outlines[s.number], seg, sources, algorithm, context)
            for s in segments
        ]
        ds.ContentSequence.append(content.container(_MEASUREMENTS, groups))
    ds.ContentSequence.append(_qualitative(segments, manifest, context))
    data = part10(ds, Comprehensive3DSRStorage, context.uid("SR"))
    check_report(data, sources, seg)
    return data


def write_denial(
    code: str, manifest: Manifest, ref: ModelRef, sources: Sequence[Dataset], context: ResultContext
) -> bytes:
    """The SR that says that the model did not run on these images, and the code of why; checked as `write_sr`'s is.

    The same document without a measurement: partial, since nothing was done, and no algorithm succeeded (CID 6047). It
    says nothing of the patient. `context.call` is whatever the refusal is named by. Raises OutputInvalid,
    CharsetRefused.
    """
    algorithm = Algorithm.of(manifest, ref)
    key_slices = [len(sources) // 2]
    ds = _document(algorithm, sources, context, completion="PARTIAL")
    ds.CurrentRequestedProcedureEvidenceSequence = [_evidence(sources, None, key_slices)]
    comments = [
        content.text(content.CONTAINS, _COMMENT, NOT_PERFORMED[context.site_language].format(code=code)),
        content.text(content.CONTAINS, _COMMENT, MARKING[context.site_language]),
    ]
    ds.ContentSequence = [
        *_document_context(manifest, algorithm, source_head(sources), context),
        _image_library([sources[k] for k in key_slices]),
        content.container(_QUALITATIVE, [content.code(content.CONTAINS, _SUMMARY, _NONE_SUCCEEDED), *comments]),
    ]
    data = part10(ds, Comprehensive3DSRStorage, context.uid("SR"))
    check_report(data, sources, None)
    return data


def _document(algorithm: Algorithm, sources: Sequence[Dataset], context: ResultContext, *, completion: str) -> Dataset:
    """The header of a report: everything but evidence and tree."""
    head = source_head(sources)
    ds = common_modules(head, context, algorithm)
    ds.Modality = "SR"
    ds.SeriesInstanceUID = context.uid("SR-SERIES")
    ds.SeriesNumber = SR_SERIES_NUMBER
    ds.SeriesDescription = series_description(context, algorithm.name, "SR")
    ds.ReferencedPerformedProcedureStepSequence = []
    ds.CompletionFlag = completion
    # A person verifies, never this code (I9); PRELIMINARY because ours is never the definitive report.
    ds.VerificationFlag = "UNVERIFIED"
    ds.PreliminaryFlag = "PRELIMINARY"
    ds.PerformedProcedureCodeSequence = []
    if request := _referenced_request(head):
        ds.ReferencedRequestSequence = [request]
    ds.ValueType = "CONTAINER"
    ds.ConceptNameCodeSequence = [code_item(_REPORT)]
    ds.ContinuityOfContent = "SEPARATE"
    ds.ContentTemplateSequence = [content.template("1500")]
    return ds


def _document_context(manifest: Manifest, algorithm: Algorithm, head: Dataset, context: ResultContext) -> list[Dataset]:
    """Language (TID 1204), device observer (TID 1002, 1004) and procedure reported: rows 2 to 4 of TID 1500."""
    procedure = _PROCEDURES.get(head.Modality)
    if procedure is None:
        raise OutputInvalid("MODALITY_NOT_REPORTABLE", "no procedure of CID 100 for this modality")
    return [
        content.code(content.MODIFIER, _LANGUAGE, _LANGUAGES[context.site_language]),
        content.code(content.CONTEXT, _OBSERVER_TYPE, _DEVICE),
        content.uid(content.CONTEXT, _OBSERVER_UID, algorithm.device_uid),
        content.text(content.CONTEXT, _OBSERVER_NAME, manifest.title[context.text_language]),
        content.text(content.CONTEXT, _OBSERVER_MANUFACTURER, algorithm.vendor),
        content.text(content.CONTEXT, _OBSERVER_MODEL, algorithm.name),
        content.text(content.CONTEXT, _OBSERVER_SERIAL, context.device_serial),
        content.code(content.MODIFIER, _PROCEDURE_REPORTED, procedure),
    ]


def _image_library(images: Sequence[Dataset]) -> Dataset:
    """TID 1600, kept small: the key slices alone, which is where a reader should look first."""
    entries = [content.slice_image(content.CONTAINS, ds) for ds in images]
    return content.container(_IMAGE_LIBRARY, [content.container(_IMAGE_LIBRARY_GROUP, entries)])


def _measured(
    segment: DrawnSegment, findings: Findings, manifest: Manifest
) -> list[tuple[MeasurementSpec, Measurement]]:
    """The numbers of one segment with their meaning. Raises OutputInvalid for a number that the manifest does not know.

    A segment without a number is refused: its group would reach no coordinates, and break the report in viewers.
    """
    specs = {spec.id: spec for spec in manifest.measurements}
    if any(m.id not in specs or not math.isfinite(m.value) for m in findings.measurements):
        raise OutputInvalid("MEASUREMENT_UNKNOWN", "a measurement is not in the manifest or not a number")
    if len({m.id for m in findings.measurements}) != len(findings.measurements):
        raise OutputInvalid("MEASUREMENT_UNKNOWN", "a measurement appears twice")
    found = [(specs[m.id], m) for m in findings.measurements if specs[m.id].segment == segment.spec.number]
    if not found:
        raise OutputInvalid("SEGMENT_NOT_MEASURED", f"segment {segment.spec.number} has no measurement")
    return found


def _group(
    segment: DrawnSegment,
    measured: Sequence[tuple[MeasurementSpec, Measurement]],
    outline: Outline,
    seg: Dataset,
    sources: Sequence[Dataset],
    algorithm: Algorithm,
    context: ResultContext,
) -> Dataset:
    """TID 1411 for one segment."""
    track = tracking(context, segment.spec.number, segment.spec.label)
    sites = list(dict.fromkeys(spec.site for spec, _ in measured))
    slice_ = sources[outline.slice_index]
    children = [
        content.text(content.CONTEXT, _TRACKING_ID, track.identifier),
        content.uid(content.CONTEXT, _TRACKING_UID, track.uid),
        content.code(content.CONTAINS, _FINDING_CATEGORY, segment.spec.category),
        content.code(content.CONTAINS, _FINDING, segment.spec.type),
        *(content.code(content.MODIFIER, _FINDING_SITE, site) for site in sites),
        content.text(content.MODIFIER, _ALGORITHM_NAME, algorithm.name),
        content.text(content.MODIFIER, _ALGORITHM_VERSION, algorithm.version),
        content.image(
            content.CONTAINS,
            str(seg.SOPClassUID),
            str(seg.SOPInstanceUID),
            name=_REFERENCED_SEGMENT,
            segment=segment.number,
        ),
        content.uid(content.CONTAINS, _SOURCE_SERIES, str(sources[0].SeriesInstanceUID)),
    ]
    for spec, measurement in measured:
        method = [content.code(content.MODIFIER, _METHOD, spec.method)] if spec.method else []
        on = content.slice_image(content.SELECTED, slice_)
        drawn = content.polyline(_OUTLINE, outline.points, on)
        # Decimal notation as the manifest sets it; at most 16 characters hold in DS (PS3.5 6.2).
        value = f"{measurement.value:.{spec.decimals}f}"
        children.append(content.number(spec.concept, value, spec.unit, [*method, drawn]))
    return content.container(_GROUP, children, tid="1411")


def _qualitative(segments: Sequence[DrawnSegment], manifest: Manifest, context: ResultContext) -> Dataset:
    """What is said of the study as a whole, and the marking that no viewer may drop (TID 1500 row 12)."""
    drawn = {segment.spec.number for segment in segments}
    presence = [
        content.code(content.CONTAINS, spec.type, _PRESENT if spec.number in drawn else _ABSENT)
        for spec in manifest.segments
        if spec.category.value == _ABNORMAL
    ]
    return content.container(
        _QUALITATIVE,
        [
            content.code(content.CONTAINS, _SUMMARY, _WITH_FINDINGS if segments else _WITHOUT_FINDINGS),
            *presence,
            content.text(content.CONTAINS, _COMMENT, MARKING[context.site_language]),
            content.text(content.CONTAINS, _COMMENT, manifest.limits_text[context.text_language]),
        ],
    )


def _evidence(sources: Sequence[Dataset], seg: Dataset | None, key_slices: Sequence[int]) -> Dataset:
    """Every instance that the tree refers to, each once (PS3.3 C.17.2.3).

    With a SEG the tree names the whole source series; without one, only the image library's slices.
    """
    used = sources if seg is not None else [sources[k] for k in key_slices]
    series = [referenced_series(used, _REFERENCED_SOPS)]
    if seg is not None:
        series.append(referenced_series([seg], _REFERENCED_SOPS))
    return _study_item(str(sources[0].StudyInstanceUID), series)


def _study_item(study_uid: str, series: Sequence[bytes]) -> Dataset:
    """One item of the hierarchical SOP instance reference macro (PS3.3 Table C.17-3)."""
    study = Dataset()
    explicit.put_sequence(study, _REFERENCED_SERIES, series)
    study.StudyInstanceUID = study_uid
    return study


def _referenced_request(head: Dataset) -> Dataset | None:
    """The request that the study answers, when the source knows its accession number (PS3.3 C.17.2)."""
    accession = str(head.get("AccessionNumber", "") or "")
    if not accession:
        return None
    item = Dataset()
    item.StudyInstanceUID = head.StudyInstanceUID
    item.ReferencedStudySequence = []
    item.AccessionNumber = accession
    for keyword in (
        "PlacerOrderNumberImagingServiceRequest",
        "FillerOrderNumberImagingServiceRequest",
        "RequestedProcedureID",
        "RequestedProcedureDescription",
    ):
        setattr(item, keyword, "")
    item.RequestedProcedureCodeSequence = []
    return item


def _predecessors(documents: Sequence[Dataset]) -> list[Dataset]:
    """The reports that this one supersedes, by study and series (PS3.3 C.17.2.3)."""
    studies: dict[str, dict[str, list[Dataset]]] = {}
    for ds in documents:
        studies.setdefault(str(ds.StudyInstanceUID), {}).setdefault(str(ds.SeriesInstanceUID), []).append(ds)
    return [
        _study_item(study_uid, [referenced_series(same, _REFERENCED_SOPS) for same in series.values()])
        for study_uid, series in studies.items()
    ]
