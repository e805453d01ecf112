"""Findings -> Comprehensive 3D SR, TID 1500 Imaging Measurement Report (PS3.16), with what IHE AIR asks for.

Shape: one TID 1411 group per segment, pointing at the SEG, its numbers INFERRED FROM a contour on the key slice; or one
TID 1410 group per segment or detection, with its region (`groups.py`). Study-level statements stand in Qualitative
Evaluations (TID 1500 row 12, `statements.py`): validators misread a TID 1501 group beside TID 1411 groups. Containers
are SEPARATE, or viewers drop the names of numbers.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Final

from pydicom.dataset import Dataset
from pydicom.uid import Comprehensive3DSRStorage

from dicom_bridge import content, explicit, statements
from dicom_bridge.composite import code_item, common_modules, part10, referenced_series, source_head
from dicom_bridge.contour import key_outline
from dicom_bridge.groups import PRIVATE_SCHEME, detected, detection_group, measured, segment_group
from dicom_bridge.peers import ReportGroups
from dicom_bridge.result_context import (
    SR_SERIES_NUMBER,
    Algorithm,
    Language,
    ResultContext,
    series_description,
)
from dicom_bridge.segmentation import drawn_segments, grid_shape
from dicom_bridge.validity import OutputInvalid, check_report
from inference.types import Findings
from models.codes import Code
from models.manifest import Manifest
from models.ref import ModelRef

# CID 100 as the validators know it; the specific procedure stays in the study's own attributes.
_PROCEDURES: Final[Mapping[str, Code]] = {
    "MR": Code("25056-3", "LN", "MRI unspecified body region"),
    "CT": Code("25045-6", "LN", "CT unspecified body region"),
    # It has no narrower term for a radiograph, and another one would be an error to them.
    "DX": Code("363679005", "SCT", "Imaging procedure"),
    "CR": Code("363679005", "SCT", "Imaging procedure"),
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
_REFERENCED_SERIES = 0x00081115
_REFERENCED_SOPS = 0x00081199


def write_sr(
    findings: Findings,
    manifest: Manifest,
    ref: ModelRef,
    sources: Sequence[Dataset],
    seg: Dataset | None,
    context: ResultContext,
    heat: Dataset | None = None,
) -> bytes:
    """The SR of one call as a Part 10 file, already through our own validity check.

    `seg` is the SEG written for the same call (`make_seg`), None when no segment has a pixel. `heat`: the heat maps
    written for the same call, which the report leads to and does not show. Where an output of the model failed the
    report is PARTIAL, and what the findings do not speak of is undetermined, never absent.
    Raises OutputInvalid, CharsetRefused.
    """
    shape = grid_shape(sources)
    segments = drawn_segments(findings, manifest, shape)
    if bool(segments) != (seg is not None):
        raise OutputInvalid("SEGMENT_REFERENCE_WRONG", "a SEG exists exactly when a segment has a pixel")
    detections = detected(findings, manifest, shape)
    algorithm = Algorithm.of(manifest, ref)
    ds = _document(algorithm, sources, context, completion="PARTIAL" if findings.failed else "COMPLETE")
    if findings.failed:
        ds.CompletionFlagDescription = statements.completion_description(findings.failed)
    if context.predecessors:
        ds.PredecessorDocumentsSequence = _predecessors(context.predecessors)
    outlines = {s.number: key_outline(s.found.part, s.found.origin) for s in segments}
    shown = {outline.slice_index for outline in outlines.values()} | {d.slice_index for _, d in detections}
    key_slices = sorted(shown) or [len(sources) // 2]
    ds.CurrentRequestedProcedureEvidenceSequence = [_evidence(sources, seg, key_slices, context.report_groups, heat)]
    tree = [
        *_document_context(manifest, algorithm, source_head(sources), context),
        _image_library([sources[k] for k in key_slices]),
    ]
    groups = [
        detection_group(number, spec, detection, sources, algorithm, context)
        for number, (spec, detection) in enumerate(detections, start=1)
    ]
    if seg is not None:
        groups = [
            segment_group(s, measured(s, findings, manifest), outlines[s.number], seg, sources, algorithm, context)
            for s in segments
        ]
    if groups:
        tree.append(content.container(_MEASUREMENTS, groups))
    tree.append(statements.qualitative(findings, segments, manifest, context))
    content.put(ds, tree, context.charset)
    # What is named by a code of our own is declared.
    if _scored_by_us(manifest) or context.decide_at is not None:
        ds.CodingSchemeIdentificationSequence = [_private_scheme()]
    data = part10(ds, Comprehensive3DSRStorage, context.uid("SR"))
    check_report(data, sources, seg, heat)
    return data


def write_denial(
    code: str, manifest: Manifest, ref: ModelRef, sources: Sequence[Dataset], context: ResultContext
) -> bytes:
    """The SR that says that the model did not run on these images, and the code of why; checked as `write_sr`'s is.

    The same document without a measurement: partial, since nothing was done, and no algorithm succeeded (CID 6047). It
    says nothing of the patient, and there is nothing to decide on. `context.call` is whatever the refusal is named by.
    Raises OutputInvalid, CharsetRefused.
    """
    algorithm = Algorithm.of(manifest, ref)
    key_slices = [len(sources) // 2]
    ds = _document(algorithm, sources, context, completion="PARTIAL")
    ds.CurrentRequestedProcedureEvidenceSequence = [_evidence(sources, None, key_slices, context.report_groups)]
    tree = [
        *_document_context(manifest, algorithm, source_head(sources), context),
        _image_library([sources[k] for k in key_slices]),
        statements.not_performed(code, context),
    ]
    content.put(ds, tree, context.charset)
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
    if request := referenced_request(head):
        ds.ReferencedRequestSequence = [request]
    ds.ValueType = "CONTAINER"
    ds.ConceptNameCodeSequence = [code_item(_REPORT)]
    ds.ContinuityOfContent = "SEPARATE"
    content.put_template(ds, "1500")
    return ds


def _document_context(
    manifest: Manifest, algorithm: Algorithm, head: Dataset, context: ResultContext
) -> list[content.Item]:
    """Language, device observer and procedure reported: rows 2 to 4 of TID 1500."""
    procedure = _PROCEDURES.get(head.Modality)
    if procedure is None:
        raise OutputInvalid("MODALITY_NOT_REPORTABLE", "no procedure of CID 100 for this modality")
    about = document_context(manifest.title[context.text_language], algorithm, context)
    return [*about, content.code(content.MODIFIER, _PROCEDURE_REPORTED, procedure)]


def document_context(name: str, algorithm: Algorithm, context: ResultContext) -> list[content.Item]:
    """Language (TID 1204) and device observer (TID 1002, 1004), `name`: the model's title in the site's language."""
    return [
        content.code(content.MODIFIER, _LANGUAGE, _LANGUAGES[context.site_language]),
        content.code(content.CONTEXT, _OBSERVER_TYPE, _DEVICE),
        content.uid(content.CONTEXT, _OBSERVER_UID, algorithm.device_uid),
        content.text(content.CONTEXT, _OBSERVER_NAME, name),
        content.text(content.CONTEXT, _OBSERVER_MANUFACTURER, algorithm.vendor),
        content.text(content.CONTEXT, _OBSERVER_MODEL, algorithm.name),
        content.text(content.CONTEXT, _OBSERVER_SERIAL, context.device_serial),
    ]


def _image_library(images: Sequence[Dataset]) -> content.Item:
    """TID 1600, kept small: the key slices alone, which is where a reader should look first."""
    entries = [content.slice_image(content.CONTAINS, ds) for ds in images]
    return content.container(_IMAGE_LIBRARY, [content.container(_IMAGE_LIBRARY_GROUP, entries)])


def _evidence(
    sources: Sequence[Dataset],
    seg: Dataset | None,
    key_slices: Sequence[int],
    groups: ReportGroups,
    heat: Dataset | None = None,
) -> Dataset:
    """The SEG, the heat maps, and every instance that the tree refers to, each once (PS3.3 C.17.2.3).

    Volumetric groups name the SEG and the whole source series; all others, only the image library's slices. The SEG is
    listed all the same, as made for the same request: results that a report does not lead to count as unrelated.
    """
    whole = seg is not None and groups is ReportGroups.VOLUMETRIC
    used = sources if whole else [sources[k] for k in key_slices]
    series = [referenced_series(used, _REFERENCED_SOPS)]
    series += [referenced_series([one], _REFERENCED_SOPS) for one in (seg, heat) if one is not None]
    return study_item(str(sources[0].StudyInstanceUID), series)


def _scored_by_us(manifest: Manifest) -> bool:
    """Whether a score of this model may have to be named by our own code."""
    calibrated = [spec.calibrated for spec in manifest.detections]
    return not all(calibrated + [spec.calibrated for spec in manifest.classifications])


def _private_scheme() -> Dataset:
    """The declaration of our coding scheme (PS3.3 C.12.1.1.7)."""
    item = Dataset()
    item.CodingSchemeDesignator = PRIVATE_SCHEME
    item.CodingSchemeName = "Zhiying"
    item.CodingSchemeResponsibleOrganization = "Zhiying"
    return item


def study_item(study_uid: str, series: Sequence[bytes]) -> Dataset:
    """One item of the hierarchical SOP instance reference macro (PS3.3 Table C.17-3)."""
    study = Dataset()
    explicit.put_sequence(study, _REFERENCED_SERIES, series)
    study.StudyInstanceUID = study_uid
    return study


def referenced_request(head: Dataset) -> Dataset | None:
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
        study_item(study_uid, [referenced_series(same, _REFERENCED_SOPS) for same in series.values()])
        for study_uid, series in studies.items()
    ]
