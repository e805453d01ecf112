"""Key Object Selection documents (PS3.3 A.35.4, PS3.16 TID 2010): which objects somebody should look at, or should not.

"Of Interest" names the slices on which something was marked, and the report. A viewer opens them; it shows no drawing.
The tree of it is the caller's, the document around it is the same for every title: `document`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from pydicom.dataset import Dataset
from pydicom.uid import Comprehensive3DSRStorage

from dicom_bridge import content
from dicom_bridge.composite import code_item, common_modules, part10, referenced_series, source_head
from dicom_bridge.key_kinds import CLASSES, KeyImage
from dicom_bridge.key_objects_validity import check_key_objects
from dicom_bridge.marks import Mark, marks_of
from dicom_bridge.report import document_context, referenced_request, study_item
from dicom_bridge.result_context import (
    KOS_SERIES_NUMBER,
    MARKING,
    Algorithm,
    Charset,
    ResultContext,
    link,
    series_description,
)
from inference.types import Findings
from models.codes import Code
from models.manifest import Manifest
from models.ref import ModelRef

OF_INTEREST: Final = Code("113000", "DCM", "Of Interest")
DESCRIPTION: Final = Code("113012", "DCM", "Key Object Description")
_REFERENCED_SOPS: Final = 0x00081199


def write_key_objects(
    findings: Findings, manifest: Manifest, ref: ModelRef, sources: Sequence[Dataset], context: ResultContext
) -> bytes | None:
    """The selection of one call as a Part 10 file, already through our own check; None: nothing is marked.

    `sources` as for `write_sr`, whose report of the same call it names. Raises OutputInvalid, CharsetRefused.
    """
    marks = marks_of(findings, manifest, sources)
    if not marks:
        return None
    algorithm = Algorithm.of(manifest, ref)
    head = source_head(sources)
    shown = [sources[k] for k in sorted({mark.slice_index for mark in marks})]
    report = Dataset()
    report.SOPClassUID, report.SOPInstanceUID = Comprehensive3DSRStorage, context.uid("SR")
    report.SeriesInstanceUID = context.uid("SR-SERIES")
    ds = common_modules(head, context, algorithm)
    ds.SeriesInstanceUID = context.uid("KOS-SERIES")
    ds.SeriesNumber = KOS_SERIES_NUMBER
    ds.SeriesDescription = series_description(context, algorithm.name, KeyImage.KOS)
    if request := referenced_request(head):
        ds.ReferencedRequestSequence = [request]
    about = document_context(manifest.title[context.text_language], algorithm, context)
    put_document(
        ds, OF_INTEREST, [*about, described(_words(marks, manifest, context))], shown, [report], context.charset
    )
    data = part10(ds, CLASSES[KeyImage.KOS], context.uid(KeyImage.KOS))
    check_key_objects(data, sources, str(report.SOPInstanceUID))
    return data


def put_document(
    ds: Dataset,
    title: Code,
    about: Sequence[content.Item],
    images: Sequence[Dataset],
    others: Sequence[Dataset],
    charset: Charset,
) -> None:
    """The document's own modules: its title, what is said about it, and what it names.

    `images` (frames of one are several) and `others` are data sets with a class, an instance and a series.
    """
    ds.Modality = "KO"
    ds.ReferencedPerformedProcedureStepSequence = []
    series: dict[str, list[Dataset]] = {}
    for one in (*images, *others):
        series.setdefault(str(one.SeriesInstanceUID), []).append(one)
    evidence = [referenced_series(same, _REFERENCED_SOPS) for same in series.values()]
    ds.CurrentRequestedProcedureEvidenceSequence = [study_item(str(ds.StudyInstanceUID), evidence)]
    ds.ValueType = "CONTAINER"
    ds.ConceptNameCodeSequence = [code_item(title)]
    ds.ContinuityOfContent = "SEPARATE"
    content.put_template(ds, "2010")
    tree = [
        *about,
        # The template wants no concept name on what is named.
        *(content.slice_image(content.CONTAINS, one) for one in images),
        *(content.composite(content.CONTAINS, str(one.SOPClassUID), str(one.SOPInstanceUID)) for one in others),
    ]
    content.put(ds, tree, charset)


def described(words: str) -> content.Item:
    """The one text that a selection has."""
    return content.text(content.CONTAINS, DESCRIPTION, words)


def _words(marks: Sequence[Mark], manifest: Manifest, context: ResultContext) -> str:
    """The marking first, then what was found, and where one decides on it."""
    found = ". ".join(f"{mark.name}: {'; '.join(mark.numbers)}" for mark in marks)
    return f"{MARKING[context.site_language]} {manifest.title[context.text_language]}. {found}{link(context)}"
