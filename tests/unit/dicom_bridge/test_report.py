"""The SR: says what was measured, by whom, on what; valid for three judges, and marked as AI wherever one may look."""

from __future__ import annotations

import io
import itertools
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import highdicom as hd
import numpy as np
import pytest
from numpy.typing import NDArray
from pydicom import dcmread
from pydicom.dataset import Dataset

from dicom_bridge import uids
from dicom_bridge.contour import POINTS_MAX, key_outline
from dicom_bridge.report import write_denial, write_sr
from dicom_bridge.result_context import MARKING, NOT_PERFORMED
from dicom_bridge.validity import OutputInvalid, check_report
from inference.types import Findings, Measurement
from models.codes import snomed_check_digit_ok
from tests.simulators import findings as phantom
from tests.simulators import validators
from tests.simulators.written import write_seg

SHAPE = (12, 32, 40)


class Results:
    """SEG and SR of one call, with all that they were made from."""

    def __init__(
        self,
        *masks: NDArray[np.bool_],
        language: str = "en-US",
        charset: str = "ISO_IR 192",
        source_charset: str = "GB18030",
        lesions: bool = False,
        **context: object,
    ) -> None:
        masks = masks or (phantom.ellipsoid(SHAPE),)
        self.sources = phantom.series(masks[0].shape, charset=source_charset)
        self.manifest = phantom.manifest(lesions=lesions or len(masks) > 1)
        self.findings = phantom.findings(*masks)
        self.context = phantom.context(language, charset, **context)
        self.seg: Dataset | None = None
        if any(mask.any() for mask in masks):
            seg = write_seg(self.findings, self.manifest, phantom.REF, self.sources, self.context)
            self.seg = dcmread(io.BytesIO(seg))
        self.data = self.write(self.findings)
        self.sr = dcmread(io.BytesIO(self.data))

    def write(self, findings: Findings) -> bytes:
        """The SR of other findings on the same series."""
        return write_sr(findings, self.manifest, phantom.REF, self.sources, self.seg, self.context)


def walk(item: Dataset) -> Iterator[Dataset]:
    """Every content item below `item`."""
    for child in item.get("ContentSequence", []):
        yield child
        yield from walk(child)


def named(item: Dataset, code: str) -> list[Dataset]:
    """Content items below `item` with this concept name."""
    return [i for i in walk(item) if "ConceptNameCodeSequence" in i and i.ConceptNameCodeSequence[0].CodeValue == code]


def saved(ds: Dataset, path: Path) -> Path:
    """Write a data set that a test damaged."""
    ds.save_as(path)
    return path


@pytest.mark.parametrize(
    ("source_charset", "charset", "language"),
    [
        ("GB18030", "ISO_IR 192", "zh-CN"),
        ("GB18030", "GB18030", "en-US"),
        ("ISO_IR 192", "GB18030", "zh-CN"),
        ("ISO_IR 192", "ISO_IR 192", "en-US"),
    ],
)
def test_two_judges_find_no_error_and_the_name_is_readable(source_charset, charset, language, tmp_path) -> None:
    """dciodvfy and dsrdump accept every language and character set; DCMTK reads Chinese name and marking."""
    results = Results(source_charset=source_charset, charset=charset, language=language)
    path = tmp_path / "sr.dcm"
    path.write_bytes(results.data)
    assert validators.dciodvfy(path) == []
    assert validators.dciodvfy_warnings(path) == []
    assert validators.dsrdump(path) == []
    text = validators.dsrdump_text(path)
    assert phantom.NAME_ZH in text
    assert results.sr.SpecificCharacterSet == charset
    assert str(results.sr.PatientName) == phantom.NAME_ZH
    assert MARKING[language][:6] in text


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["plain, UTF-8", "plain, GB18030", "lesion", "nothing", "superseding"])
def test_all_three_judges_accept_every_kind_of_report(kind, tmp_path) -> None:
    """Plain in both character sets; with an abnormality; nothing found and so no SEG; superseding another."""
    brain, bleed, nothing = phantom.ellipsoid(SHAPE), phantom.ellipsoid(SHAPE, size=0.15), np.zeros(SHAPE, np.bool_)
    made = {
        "plain, UTF-8": lambda: Results(language="zh-CN", charset="ISO_IR 192"),
        "plain, GB18030": lambda: Results(language="en-US", charset="GB18030", source_charset="ISO_IR 192"),
        "lesion": lambda: Results(brain, bleed),
        "nothing": lambda: Results(nothing, nothing, language="zh-CN"),
        "superseding": lambda: Results(call="f" * 32, predecessors=(Results().sr,)),
    }[kind]()
    path = tmp_path / "sr.dcm"
    path.write_bytes(made.data)
    assert validators.dciodvfy(path) == []
    assert validators.sr_validator(path) == []
    assert validators.dsrdump(path) == []


def test_the_tree_holds_what_the_templates_ask() -> None:
    """Language, device observer, procedure, tracking, finding, site, algorithm, number with unit, summary, marking."""
    results = Results(language="zh-CN")
    sr = results.sr
    (language,), (procedure,), (number,) = named(sr, "121049"), named(sr, "121058"), named(sr, "118565006")
    assert language.ConceptCodeSequence[0].CodeValue == "zh-CN"
    assert procedure.ConceptCodeSequence[0].CodeValue == "25056-3"
    assert named(sr, "121005")[0].ConceptCodeSequence[0].CodeValue == "121007"
    assert named(sr, "121013")[0].TextValue == "测试脑体积"
    assert named(sr, "121016")[0].TextValue == "TEST-SERIAL-1"
    assert named(sr, "363698007")[0].ConceptCodeSequence[0].CodeValue == "12738006"
    measured = number.MeasuredValueSequence[0]
    expected = results.findings.measurements[0].value
    assert str(measured.NumericValue) == f"{expected:.1f}"
    assert measured.MeasurementUnitsCodeSequence[0].CodeValue == "cm3"
    assert named(sr, "111017")[0].ConceptCodeSequence[0].CodeValue == "111242"
    assert [i.TextValue for i in named(sr, "121106")] == [MARKING["zh-CN"], "仅限成人，T1 加权。"]
    assert (sr.CompletionFlag, sr.VerificationFlag, sr.PreliminaryFlag) == ("COMPLETE", "UNVERIFIED", "PRELIMINARY")
    assert (sr.SeriesNumber, sr.SeriesDescription) == (9002, "AI test-brain SR - 非诊断用")
    assert sr.ReferencedRequestSequence[0].AccessionNumber == "TESTACC1"
    assert all(i.ContinuityOfContent == "SEPARATE" for i in (sr, *walk(sr)) if i.ValueType == "CONTAINER")


def test_sr_seg_and_algorithm_agree_in_all_five_places() -> None:
    """Vendor, model, version and device are the same in equipment, observer, TID 4019 and the SEG's macro."""
    results = Results()
    sr, seg = results.sr, results.seg
    assert seg is not None
    one, two = sr.ContributingEquipmentSequence[0], seg.ContributingEquipmentSequence[0]
    assert one == two
    assert one.DeviceUID == named(sr, "121012")[0].UID
    assert named(sr, "121014")[0].TextValue == one.Manufacturer
    assert named(sr, "121015")[0].TextValue == named(sr, "111001")[0].TextValue == one.ManufacturerModelName
    assert named(sr, "111003")[0].TextValue == one.SoftwareVersions


def test_the_number_is_inferred_from_a_closed_contour_on_the_largest_slice() -> None:
    """NUM <- SCOORD POLYLINE <- the slice of largest area; tracked like the SEG's segment."""
    mask = phantom.ellipsoid(SHAPE, shift=0.08)
    results = Results(mask)
    sr, seg = results.sr, results.seg
    assert seg is not None
    (number,) = named(sr, "118565006")
    (outline,) = number.ContentSequence
    assert (outline.RelationshipType, outline.GraphicType) == ("INFERRED FROM", "POLYLINE")
    (image,) = outline.ContentSequence
    assert image.RelationshipType == "SELECTED FROM"
    key = int(mask.sum(axis=(1, 2)).argmax())
    assert image.ReferencedSOPSequence[0].ReferencedSOPInstanceUID == results.sources[key].SOPInstanceUID
    points = np.array(outline.GraphicData).reshape(-1, 2)
    assert np.array_equal(points[0], points[-1])
    assert np.array_equal(inside(points, mask[key].shape), mask[key])
    assert named(sr, "112039")[0].TextValue == seg.SegmentSequence[0].TrackingID
    assert seg.SegmentSequence[0].TrackingUID == named(sr, "112040")[0].UID
    reference = named(sr, "121191")[0].ReferencedSOPSequence[0]
    assert (reference.ReferencedSOPInstanceUID, reference.ReferencedSegmentNumber) == (seg.SOPInstanceUID, 1)


def inside(points: NDArray[np.float64], shape: tuple[int, ...]) -> NDArray[np.bool_]:
    """Which pixel centres (0.5, 1.5 ...) lie within the polygon, by crossing number: no code of ours."""
    columns, rows = np.meshgrid(np.arange(shape[1]) + 0.5, np.arange(shape[0]) + 0.5)
    hit = np.zeros(shape, dtype=np.bool_)
    for (x1, y1), (x2, y2) in itertools.pairwise(points):
        if y1 != y2:
            crosses = ((y1 > rows) != (y2 > rows)) & (columns < (x2 - x1) * (rows - y1) / (y2 - y1) + x1)
            hit ^= crosses
    return hit


def test_an_outline_stays_within_the_image_and_its_limit() -> None:
    """A mask that fills the slice is outlined at the image's edge; a ragged one is thinned to what SR can carry."""
    full = key_outline(np.ones((1, 20, 30), dtype=np.bool_))
    assert full.points.min() >= 0
    assert (full.points[:, 0].max(), full.points[:, 1].max()) == (30, 20)
    comb = np.zeros((2, 300, 300), dtype=np.bool_)
    comb[1, ::2, :290] = True
    comb[1, :, 0] = True
    ragged = key_outline(comb)
    assert ragged.slice_index == 1
    assert len(ragged.points) <= POINTS_MAX
    assert np.array_equal(ragged.points[0], ragged.points[-1])
    boxed = key_outline(comb[1:, :, :290], (1, 7, 11))
    assert boxed.slice_index == 1
    assert np.array_equal(boxed.points, ragged.points + np.float32([11, 7]))
    with pytest.raises(ValueError, match="empty"):
        key_outline(np.zeros((2, 3, 4), dtype=np.bool_))


def test_presence_is_stated_of_abnormalities_only() -> None:
    """Hemorrhage is Present or Absent by name; that a brain is there is no finding."""
    brain, bleed = phantom.ellipsoid(SHAPE), phantom.ellipsoid(SHAPE, size=0.15)
    found, clean = Results(brain, bleed), Results(brain, np.zeros(SHAPE, np.bool_))
    assert named(found.sr, "50960005")[0].ConceptCodeSequence[0].CodeValue == "52101004"
    assert named(clean.sr, "50960005")[0].ConceptCodeSequence[0].CodeValue == "272519000"
    assert named(found.sr, "12738006") == []
    assert len(named(found.sr, "125007")) == 2
    assert len(named(clean.sr, "125007")) == 1


def test_nothing_found_is_a_report_without_numbers_and_without_a_seg() -> None:
    """A negative run gives an SR all the same: all succeeded, without findings, absent by name."""
    nothing = np.zeros(SHAPE, np.bool_)
    results = Results(nothing, nothing)
    assert results.seg is None
    assert named(results.sr, "126010") == []
    assert named(results.sr, "111017")[0].ConceptCodeSequence[0].CodeValue == "111241"
    assert named(results.sr, "50960005")[0].ConceptCodeSequence[0].CodeValue == "272519000"


# ---- the AI did not run ----------------------------------------------------------------------------------------------

RUN_OF_DENIAL = "denied:0123456789abcdef01234567-1"


def denial(code: str = "CONDITION_NOT_MET", language: str = "en-US", charset: str = "ISO_IR 192") -> bytes:
    """The report of a refusal."""
    context = phantom.context(language, charset, call=RUN_OF_DENIAL)
    return write_denial(code, phantom.manifest(), phantom.REF, phantom.series(SHAPE), context)


@pytest.mark.slow
@pytest.mark.parametrize("charset", ["ISO_IR 192", "GB18030"])
@pytest.mark.parametrize("language", ["zh-CN", "en-US"])
def test_a_refusal_is_a_report_that_judges_accept(language, charset, tmp_path) -> None:
    """dciodvfy, dsrdump and PixelMed: no error; its text says that nothing was analysed, and the code of why."""
    path = tmp_path / "sr.dcm"
    path.write_bytes(denial("SUSPENDED", language, charset))
    assert validators.dciodvfy(path) == []
    assert validators.dciodvfy_warnings(path) == []
    assert validators.dsrdump(path) == []
    assert validators.sr_validator(path) == []
    text = validators.dsrdump_text(path)
    assert NOT_PERFORMED[language][:6] in text
    assert phantom.NAME_ZH in text
    comments = [item.TextValue for item in named(dcmread(path), "121106")]
    assert comments == [NOT_PERFORMED[language].format(code="SUSPENDED"), MARKING[language]]


def test_a_refusal_says_nothing_of_the_patient() -> None:
    """Partial, no algorithm succeeded, no number, no presence or absence, no segment; one slice to find the series."""
    report = dcmread(io.BytesIO(denial()))
    assert (report.CompletionFlag, report.VerificationFlag) == ("PARTIAL", "UNVERIFIED")
    assert [item.ConceptCodeSequence[0].CodeValue for item in named(report, "111017")] == ["111245"]
    assert not [item for item in walk(report) if item.ValueType in {"NUM", "SCOORD"}]
    assert not named(report, "126010")
    (qualitative,) = named(report, "C0034375")
    assert [child.ValueType for child in qualitative.ContentSequence] == ["CODE", "TEXT", "TEXT"]
    assert report.SOPInstanceUID == uids.derive("SR", RUN_OF_DENIAL)


def test_another_refusal_is_another_object() -> None:
    """Same entry, same bytes; a result of the same images has other UIDs."""
    assert denial() == denial()
    assert dcmread(io.BytesIO(denial())).SeriesInstanceUID != Results().sr.SeriesInstanceUID


@pytest.mark.parametrize(
    "damage",
    [
        lambda ds: setattr(ds, "CompletionFlag", "COMPLETE"),
        lambda ds: setattr(named(ds, "111017")[0].ConceptCodeSequence[0], "CodeValue", "111241"),
        lambda ds: setattr(ds, "VerificationFlag", "VERIFIED"),
    ],
)
def test_the_check_refuses_a_refusal_that_looks_like_a_result(damage) -> None:
    """A report of nothing must not be taken for "nothing found"."""
    ds = dcmread(io.BytesIO(denial()))
    damage(ds)
    out = io.BytesIO()
    ds.save_as(out)
    with pytest.raises(OutputInvalid) as caught:
        check_report(out.getvalue(), phantom.series(SHAPE), None)
    assert caught.value.code == "FLAGS_WRONG"


def test_a_result_that_calls_itself_partial_is_refused(good) -> None:
    """With or without a SEG: what was measured is whole."""
    for results in (good, Results(np.zeros(SHAPE, np.bool_))):
        ds = dcmread(io.BytesIO(results.data))
        ds.CompletionFlag = "PARTIAL"
        out = io.BytesIO()
        ds.save_as(out)
        with pytest.raises(OutputInvalid):
            check_report(out.getvalue(), results.sources, results.seg)


def test_evidence_lists_the_source_series_and_the_seg_each_once() -> None:
    """What the tree stands on, complete and without doubles, as highdicom reads it."""
    results = Results()
    report = hd.sr.srread(io.BytesIO(results.data))
    listed = [str(instance) for _, _, instance, _ in report.get_evidence()]
    assert results.seg is not None
    assert sorted(listed) == sorted([*(s.SOPInstanceUID for s in results.sources), results.seg.SOPInstanceUID])
    (group,) = report.content.get_volumetric_roi_measurement_groups()
    assert group.tracking_uid == results.seg.SegmentSequence[0].TrackingUID


def test_a_superseding_report_names_its_predecessor() -> None:
    """A new input gives a new SR that points at the one it replaces (PS3.3 C.17.2.3)."""
    old = Results()
    new = Results(call="f" * 32, predecessors=(old.sr,))
    (study,) = new.sr.PredecessorDocumentsSequence
    (series,) = study.ReferencedSeriesSequence
    assert series.SeriesInstanceUID == old.sr.SeriesInstanceUID
    assert series.ReferencedSOPSequence[0].ReferencedSOPInstanceUID == old.sr.SOPInstanceUID
    assert new.sr.SOPInstanceUID != old.sr.SOPInstanceUID


def test_same_context_same_bytes() -> None:
    """A retry is the same file to the last byte, on another second of the clock too."""
    one = Results(language="zh-CN").data
    time.sleep(0.01)
    assert Results(language="zh-CN").data == one


def test_every_snomed_code_has_a_right_check_digit() -> None:
    """Codes with a wrong check digit mean something else, or nothing (public software has some)."""
    brain, bleed = phantom.ellipsoid(SHAPE), phantom.ellipsoid(SHAPE, size=0.15)
    codes = set()
    for data in (Results(brain, bleed).sr, Results(brain, bleed).seg):
        for element in data.iterall():
            if element.keyword.endswith("CodeSequence"):
                codes |= {i.CodeValue for i in element.value if i.CodingSchemeDesignator == "SCT"}
    assert len(codes) >= 8
    assert all(snomed_check_digit_ok(code) for code in codes)


def test_findings_that_cannot_be_reported_are_refused_by_code() -> None:
    """An unknown, double, missing or infinite number, a modality without a procedure, a SEG too many or too few."""
    results = Results()

    def code(make: Callable[[], object]) -> str:
        with pytest.raises(OutputInvalid) as refused:
            make()
        return refused.value.code

    def with_numbers(*numbers: Measurement) -> Findings:
        found = results.findings
        return Findings(found.segments, numbers, found.timing_ms, found.device)

    right = results.findings.measurements[0]
    assert code(lambda: results.write(with_numbers(Measurement("other", 1.0)))) == "MEASUREMENT_UNKNOWN"
    assert code(lambda: results.write(with_numbers(right, right))) == "MEASUREMENT_UNKNOWN"
    assert code(lambda: results.write(with_numbers(Measurement(right.id, float("nan"))))) == "MEASUREMENT_UNKNOWN"
    assert code(lambda: results.write(with_numbers())) == "SEGMENT_NOT_MEASURED"
    arguments = (results.findings, results.manifest, phantom.REF)
    assert code(lambda: write_sr(*arguments, results.sources, None, results.context)) == "SEGMENT_REFERENCE_WRONG"
    other = phantom.series(SHAPE, modality="US")
    assert code(lambda: write_sr(*arguments, other, results.seg, results.context)) == "MODALITY_NOT_REPORTABLE"


def test_a_name_that_fits_no_character_set_is_not_written_as_question_marks() -> None:
    """A name beyond the output's repertoire stops the object; GB18030 and UTF-8 hold all of Unicode's Chinese."""
    rare = "𠮷田^测试"
    sources = phantom.series(SHAPE, charset="ISO_IR 192", name=rare)
    for charset in ("ISO_IR 192", "GB18030"):
        findings, context = phantom.findings(phantom.ellipsoid(SHAPE)), phantom.context(charset=charset)
        seg = dcmread(io.BytesIO(write_seg(findings, phantom.manifest(), phantom.REF, sources, context)))
        assert str(seg.PatientName) == rare


def drop(ds: Dataset, code: str) -> None:
    """Take every content item of this name out of the tree."""
    for item in (ds, *walk(ds)):
        if "ContentSequence" in item:
            item.ContentSequence = [
                child
                for child in item.ContentSequence
                if "ConceptNameCodeSequence" not in child or child.ConceptNameCodeSequence[0].CodeValue != code
            ]


def lessen(ds: Dataset) -> None:
    """Take one instance out of the evidence."""
    del ds.CurrentRequestedProcedureEvidenceSequence[0].ReferencedSeriesSequence[0].ReferencedSOPSequence[0]


DAMAGES: dict[str, tuple[str, Callable[[Dataset], object]]] = {
    "verified": ("FLAGS_WRONG", lambda ds: setattr(ds, "VerificationFlag", "VERIFIED")),
    "final": ("FLAGS_WRONG", lambda ds: setattr(ds, "PreliminaryFlag", "FINAL")),
    "partial": ("FLAGS_WRONG", lambda ds: setattr(ds, "CompletionFlag", "PARTIAL")),
    "no completion": ("FLAGS_WRONG", lambda ds: delattr(ds, "CompletionFlag")),
    "no language": ("LANGUAGE_MISSING", lambda ds: drop(ds, "121049")),
    "no procedure": ("PROCEDURE_MISSING", lambda ds: drop(ds, "121058")),
    "no observer": ("DEVICE_OBSERVER_MISSING", lambda ds: drop(ds, "121005")),
    "no observer uid": ("DEVICE_OBSERVER_MISSING", lambda ds: drop(ds, "121012")),
    "no summary": ("SUMMARY_MISSING", lambda ds: drop(ds, "111017")),
    "no marking": ("MARKING_MISSING", lambda ds: setattr(named(ds, "121106")[0], "TextValue", "ok")),
    "no series marking": ("MARKING_MISSING", lambda ds: setattr(ds, "SeriesDescription", "AI brain")),
    "continuous": ("CONTAINER_NOT_SEPARATE", lambda ds: setattr(ds, "ContinuityOfContent", "CONTINUOUS")),
    "no tracking": ("TRACKING_MISSING", lambda ds: drop(ds, "112040")),
    "other tracking": ("TRACKING_DIFFERS", lambda ds: setattr(named(ds, "112040")[0], "UID", "2.25.1")),
    "no contour": ("MEASUREMENT_WITHOUT_COORDINATES", lambda ds: delattr(named(ds, "118565006")[0], "ContentSequence")),
    "no number": ("SEGMENT_NOT_MEASURED", lambda ds: drop(ds, "118565006")),
    "no segment": ("SEGMENT_REFERENCE_WRONG", lambda ds: drop(ds, "121191")),
    "other vendor": ("ALGORITHM_IDENTITY_DIFFERS", lambda ds: setattr(named(ds, "121014")[0], "TextValue", "Else")),
    "other version": ("ALGORITHM_IDENTITY_DIFFERS", lambda ds: setattr(named(ds, "111003")[0], "TextValue", "9")),
    "no evidence": ("EVIDENCE_DIFFERS", lambda ds: delattr(ds, "CurrentRequestedProcedureEvidenceSequence")),
    "less evidence": ("EVIDENCE_DIFFERS", lessen),
    "no qualification": ("CONTENT_QUALIFICATION_MISSING", lambda ds: delattr(ds, "ContentQualification")),
    "other accession": ("IDENTITY_DIFFERS", lambda ds: setattr(ds, "AccessionNumber", "TESTACC2")),
    "no tree": ("NOT_READABLE", lambda ds: delattr(ds, "ContentSequence")),
}


@pytest.fixture(scope="module")
def good() -> Results:
    """One report that is right, for tests that damage copies of it."""
    return Results()


@pytest.mark.parametrize("damage", DAMAGES)
def test_the_check_before_sending_refuses(damage, good) -> None:
    """Each rule of the last check, broken alone, stops the report with the rule's own code."""
    code, break_it = DAMAGES[damage]
    ds = dcmread(io.BytesIO(good.data))
    break_it(ds)
    buffer = io.BytesIO()
    ds.save_as(buffer)
    with pytest.raises(OutputInvalid) as refused:
        check_report(buffer.getvalue(), good.sources, good.seg)
    assert refused.value.code == code


def verified_but_partial(ds: Dataset) -> None:
    """What no report may be: verified, and not complete."""
    ds.VerificationFlag, ds.CompletionFlag = "VERIFIED", "PARTIAL"


def no_unit(ds: Dataset) -> None:
    """A number without its unit."""
    del named(ds, "118565006")[0].MeasuredValueSequence[0].MeasurementUnitsCodeSequence


def inferred_at_the_root(ds: Dataset) -> None:
    """A relationship that the root container may not have."""
    ds.ContentSequence[-1].RelationshipType = "INFERRED FROM"


def segment_without_source(ds: Dataset) -> None:
    """A TID 1411 group whose segment names neither source images nor source series."""
    drop(ds, "121232")


@pytest.mark.parametrize(
    ("judge", "damage"),
    [
        (validators.dciodvfy, lambda ds: delattr(ds, "CompletionFlag")),
        (validators.dciodvfy, verified_but_partial),
        (validators.dciodvfy, lambda ds: delattr(ds, "CurrentRequestedProcedureEvidenceSequence")),
        (validators.dciodvfy, no_unit),
        (validators.dsrdump, inferred_at_the_root),
        pytest.param(validators.sr_validator, segment_without_source, marks=pytest.mark.slow),
    ],
)
def test_the_judges_are_awake(judge, damage, good, tmp_path) -> None:
    """Each judge sees the damage that only it is asked about: silence elsewhere means something."""
    ds = dcmread(io.BytesIO(good.data))
    damage(ds)
    assert judge(saved(ds, tmp_path / "sr.dcm")) != []
