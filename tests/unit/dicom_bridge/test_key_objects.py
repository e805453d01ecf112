"""Key object selections: which slices to look at, in words that are marked, accepted by four judges."""

from __future__ import annotations

import copy
import io
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import highdicom as hd
import numpy as np
import pytest
from pydicom import dcmread
from pydicom.dataset import Dataset
from pydicom.uid import UID

from dicom_bridge.assembly import RESULT_MODALITIES
from dicom_bridge.charset import person_name
from dicom_bridge.contour import key_outline
from dicom_bridge.key_kinds import CLASSES, KeyImage
from dicom_bridge.key_objects import write_key_objects
from dicom_bridge.key_objects_validity import check_key_objects
from dicom_bridge.offers import STORAGE_CLASSES
from dicom_bridge.result_context import DECIDE_AT, MARKING
from dicom_bridge.validity import OutputInvalid
from dicom_bridge.verdict import rejects
from inference.types import Findings
from tests.simulators import findings as phantom
from tests.simulators import validators
from tests.unit.dicom_bridge.test_report_matrix import DX, SOURCES, coded, flat, found, named, sources_of

SHAPE = (12, 32, 40)
LINK = "https://ai.example/decide/" + "5a" * 16
REPORT = phantom.context().uid("SR")


def made(findings: Findings, sources: list[Dataset], kind: str = "segments", **context: object) -> bytes | None:
    """The selection of these findings."""
    manifest = phantom.manifest(lesions=True, kind=kind)
    return write_key_objects(findings, manifest, phantom.REF, sources, phantom.context(**context))  # type: ignore[arg-type]


def usual() -> tuple[list[Dataset], bytes]:
    """A brain and a small lesion, and their selection."""
    sources = phantom.series(SHAPE)
    data = made(phantom.findings(phantom.ellipsoid(SHAPE), phantom.ellipsoid(SHAPE, 0.2, 0.15)), sources)
    assert data is not None
    return sources, data


@pytest.mark.parametrize("source", [*SOURCES, DX])
@pytest.mark.parametrize("kind", ["segments", "detections"])
@pytest.mark.parametrize(("language", "charset"), [("zh-CN", "GB18030"), ("zh-CN", "ISO_IR 192"), ("en-US", "GB18030")])
def test_two_judges_accept_the_whole_matrix(source, kind, language, charset, tmp_path: Path) -> None:
    """dciodvfy has neither error nor warning and dsrdump reads it, whatever source, language and character set."""
    if source == DX:
        kind = "detections"  # there is no segment without a place in space
    findings = flat(found(kind, "findings")) if source == DX else found(kind, "findings")
    path = tmp_path / "kos.dcm"
    path.write_bytes(made(findings, sources_of(source, tmp_path), kind, language=language, charset=charset) or b"")
    assert validators.dciodvfy(path) == []
    assert validators.dciodvfy_warnings(path) == []
    assert validators.dsrdump(path) == []
    ds = dcmread(path)
    assert phantom.NAME_ZH in person_name(ds)
    assert [coded(i) for i in named(ds, "121049")] == [language]
    (text,) = named(ds, "113012")
    assert text.TextValue.startswith(MARKING[language])


@pytest.mark.slow
@pytest.mark.parametrize("source", ["MR", "enhanced CT"])
def test_the_judge_of_templates_accepts_it(source: str, tmp_path: Path) -> None:
    """PixelMed, which knows TID 2010: no error; and one where an image has a concept name, which other writers set."""
    path = tmp_path / "kos.dcm"
    path.write_bytes(made(found("segments", "findings"), sources_of(source, tmp_path), decide_at=LINK) or b"")
    assert validators.sr_validator(path) == []
    ds = dcmread(path)
    image = next(item for item in ds.ContentSequence if item.ValueType == "IMAGE")
    image.ConceptNameCodeSequence = copy.deepcopy(ds.ConceptNameCodeSequence)
    ds.save_as(path)
    assert validators.sr_validator(path) != []


def test_it_names_the_key_slices_and_the_report() -> None:
    """Each slice once, in order, then the SR of the same call; all of that is its evidence, and nothing more."""
    sources, data = usual()
    ds = check_key_objects(data, sources, REPORT)
    keys = sorted({key_outline(phantom.ellipsoid(SHAPE, *more)).slice_index for more in ((), (0.2, 0.15))})
    assert len(keys) == 2
    places = [i.ReferencedSOPSequence[0].ReferencedSOPInstanceUID for i in ds.ContentSequence if i.ValueType == "IMAGE"]
    assert places == [sources[k].SOPInstanceUID for k in keys]
    (composite,) = (i for i in ds.ContentSequence if i.ValueType == "COMPOSITE")
    assert composite.ReferencedSOPSequence[0].ReferencedSOPInstanceUID == REPORT
    (study,) = ds.CurrentRequestedProcedureEvidenceSequence
    listed = {
        series.SeriesInstanceUID: {one.ReferencedSOPInstanceUID for one in series.ReferencedSOPSequence}
        for series in study.ReferencedSeriesSequence
    }
    assert listed == {sources[0].SeriesInstanceUID: set(places), phantom.context().uid("SR-SERIES"): {REPORT}}


def test_a_frame_of_an_enhanced_source_is_named_by_its_number(tmp_path: Path) -> None:
    """Two frames of one instance are two images in the tree, and one instance in the evidence."""
    sources = sources_of("enhanced CT", tmp_path)
    mask = np.zeros((6, 16, 12), dtype=np.bool_)
    other = mask.copy()
    mask[1, 4:9, 3:8], other[4, 2:5, 2:5] = True, True
    ds = dcmread(io.BytesIO(made(phantom.findings(mask, other), sources) or b""))
    images = [item.ReferencedSOPSequence[0] for item in ds.ContentSequence if item.ValueType == "IMAGE"]
    assert [one.ReferencedFrameNumber for one in images] == [sources[k].ReferencedFrameNumber for k in (1, 4)]
    (study,) = ds.CurrentRequestedProcedureEvidenceSequence
    assert sum(len(series.ReferencedSOPSequence) for series in study.ReferencedSeriesSequence) == 2


@pytest.mark.parametrize("language", ["zh-CN", "en-US"])
def test_the_header_and_the_words(language: str) -> None:
    """Title, series, research; the marking, the model's title, each finding with its number, and the address last."""
    mask = phantom.ellipsoid(SHAPE)
    data = made(phantom.findings(mask), phantom.series(SHAPE), language=language, decide_at=LINK)
    ds = dcmread(io.BytesIO(data or b""))
    assert (ds.SOPClassUID, ds.Modality, ds.SeriesNumber) == ("1.2.840.10008.5.1.4.1.1.88.59", "KO", 9004)
    assert ds.ConceptNameCodeSequence[0].CodeValue == "113000"
    assert ds.ContentQualification == "RESEARCH"
    assert ds.SOPInstanceUID == phantom.context().uid("KOS")
    assert ds.SeriesDescription.endswith("非诊断用" if language == "zh-CN" else "not for diagnosis")
    title = "测试脑体积" if language == "zh-CN" else "Test brain volume"
    volume = f"{phantom.findings(mask).measurements[0].value:.1f}"
    (text,) = named(ds, "113012")
    assert text.TextValue == f"{MARKING[language]} {title}. Brain: Volume: {volume} cm3. {DECIDE_AT[language]}: {LINK}"
    assert (ds.ReferencedRequestSequence[0].AccessionNumber, ds.SpecificCharacterSet) == ("TESTACC1", "ISO_IR 192")


def test_another_library_reads_it() -> None:
    """highdicom resolves every reference of it to its series."""
    sources, data = usual()
    document = hd.ko.KeyObjectSelectionDocument.from_dataset(dcmread(io.BytesIO(data)))
    key = sources[key_outline(phantom.ellipsoid(SHAPE)).slice_index].SOPInstanceUID
    study, series, instance = document.resolve_reference(key)
    assert (study, series, instance) == (
        sources[0].StudyInstanceUID,
        sources[0].SeriesInstanceUID,
        key,
    )


@pytest.mark.parametrize("kind", ["segments", "detections", "classifications"])
def test_where_nothing_is_marked_there_is_none(kind: str, tmp_path: Path) -> None:
    """No finding, or one of the whole study: no slice to look at."""
    outcome = "findings" if kind == "classifications" else "no findings"
    assert made(found(kind, outcome), sources_of("MR", tmp_path), kind) is None


def test_what_comes_back_is_a_result_and_no_verdict() -> None:
    """It makes no run, and nobody takes it for a reader's rejection; the same call gives the same bytes (I6)."""
    _, data = usual()
    ds = dcmread(io.BytesIO(data))
    assert ds.Modality in RESULT_MODALITIES
    assert CLASSES[KeyImage.KOS] in STORAGE_CLASSES
    everything = {
        i.ReferencedSOPSequence[0].ReferencedSOPInstanceUID
        for i in ds.ContentSequence
        if i.ValueType != "TEXT" and "ReferencedSOPSequence" in i
    }
    assert not rejects(ds, frozenset(everything))
    assert usual()[1] == data


# ---- the check before sending ---------------------------------------------------------------------------------------


def items(ds: Dataset, value_type: str) -> list[Dataset]:
    """The content items of this type."""
    return [item for item in ds.ContentSequence if item.ValueType == value_type]


def without(code: str) -> Callable[[Dataset], None]:
    """A damage: no content item of this name."""

    def damage(ds: Dataset) -> None:
        ds.ContentSequence = [i for i in ds.ContentSequence if i not in named(ds, code)]

    return damage


def foreign(ds: Dataset) -> None:
    """A damage: an image of nobody's, in the tree and in the evidence."""
    items(ds, "IMAGE")[0].ReferencedSOPSequence[0].ReferencedSOPInstanceUID = "1.2.3"
    series = ds.CurrentRequestedProcedureEvidenceSequence[0].ReferencedSeriesSequence[0]
    series.ReferencedSOPSequence[0].ReferencedSOPInstanceUID = "1.2.3"


def another_report(ds: Dataset) -> None:
    """A damage: the report of another call."""
    items(ds, "COMPOSITE")[0].ReferencedSOPSequence[0].ReferencedSOPInstanceUID = "1.2.3"
    series = ds.CurrentRequestedProcedureEvidenceSequence[0].ReferencedSeriesSequence[1]
    series.ReferencedSOPSequence[0].ReferencedSOPInstanceUID = "1.2.3"


def twice(ds: Dataset) -> None:
    """A damage: a slice is named twice."""
    ds.ContentSequence.append(copy.deepcopy(items(ds, "IMAGE")[0]))


def with_name(ds: Dataset) -> None:
    """A damage: what TID 2010 forbids."""
    items(ds, "IMAGE")[0].ConceptNameCodeSequence = copy.deepcopy(ds.ConceptNameCodeSequence)


def less_evidence(ds: Dataset) -> None:
    """A damage: the report is not among the evidence."""
    del ds.CurrentRequestedProcedureEvidenceSequence[0].ReferencedSeriesSequence[1]


def of_another_study(ds: Dataset) -> None:
    """A damage: evidence of another study."""
    ds.CurrentRequestedProcedureEvidenceSequence[0].StudyInstanceUID = "1.2.3"


DAMAGES: dict[str, tuple[str, Callable[[Dataset], object]]] = {
    "modality": ("KEY_IMAGE_UNDECLARED", lambda ds: setattr(ds, "Modality", "SR")),
    "title": ("KEY_IMAGE_UNDECLARED", lambda ds: setattr(ds.ConceptNameCodeSequence[0], "CodeValue", "113001")),
    "template": (
        "KEY_IMAGE_UNDECLARED",
        lambda ds: setattr(ds.ContentTemplateSequence[0], "TemplateIdentifier", "1500"),
    ),
    "a name": ("KEY_IMAGE_UNDECLARED", with_name),
    "continuous": ("CONTAINER_NOT_SEPARATE", lambda ds: setattr(ds, "ContinuityOfContent", "CONTINUOUS")),
    "no language": ("LANGUAGE_MISSING", without("121049")),
    "nobody speaks": ("DEVICE_OBSERVER_MISSING", without("121005")),
    "no description": ("MARKING_MISSING", without("113012")),
    "no marking": ("MARKING_MISSING", lambda ds: setattr(named(ds, "113012")[0], "TextValue", "A bleed")),
    "foreign": ("FRAME_REFERENCE_WRONG", foreign),
    "another report": ("EVIDENCE_DIFFERS", another_report),
    "twice": ("EVIDENCE_DIFFERS", twice),
    "less evidence": ("EVIDENCE_DIFFERS", less_evidence),
    "of another study": ("EVIDENCE_DIFFERS", of_another_study),
    "series description": ("MARKING_MISSING", lambda ds: setattr(ds, "SeriesDescription", "AI test KOS")),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_the_check_before_sending_knows_each_rule(damage: str) -> None:
    """Each rule, broken alone in a selection that is right, stops it with the rule's own code."""
    code, break_it = DAMAGES[damage]
    sources, data = usual()
    ds = check_key_objects(data, sources, REPORT)
    break_it(ds)
    out = io.BytesIO()
    ds.save_as(out)
    with pytest.raises(OutputInvalid) as refused:
        check_key_objects(out.getvalue(), sources, REPORT)
    assert refused.value.code == code


def test_a_number_that_nobody_knows_stops_it() -> None:
    """What the SR refuses is not said here either."""
    findings = phantom.findings(phantom.ellipsoid(SHAPE))
    with pytest.raises(OutputInvalid) as refused:
        made(replace(findings, measurements=()), phantom.series(SHAPE))
    assert refused.value.code == "SEGMENT_NOT_MEASURED"


def test_the_classes_are_the_standards() -> None:
    """They are written out, so that the configuration alone loads no pydicom; they are those of its dictionary."""
    assert {kind: UID(uid).keyword for kind, uid in CLASSES.items()} == {
        KeyImage.SC: "SecondaryCaptureImageStorage",
        KeyImage.GSPS: "GrayscaleSoftcopyPresentationStateStorage",
        KeyImage.KOS: "KeyObjectSelectionDocumentStorage",
        KeyImage.NO_FINDING: "SecondaryCaptureImageStorage",
    }
