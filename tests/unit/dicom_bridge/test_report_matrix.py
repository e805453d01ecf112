"""Every outcome of every kind of model, in both languages, from every kind of source: judged by others, read back."""

from __future__ import annotations

import copy
import io
import itertools
import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import highdicom as hd
import numpy as np
import pytest
from pydicom import dcmread
from pydicom.dataset import Dataset
from pydicom.uid import CTImageStorage, DigitalXRayImageStorageForPresentation

from dicom_bridge.peers import ReportGroups
from dicom_bridge.report import write_denial, write_sr
from dicom_bridge.result_context import DECIDE_AT, INCONCLUSIVE, PARTLY_FAILED
from dicom_bridge.validity import OutputInvalid, check_report
from dicom_bridge.volume import load
from inference.types import Classification, Detection, FailedOutput, Findings, SegmentMask
from models.manifest import Manifest
from tests.simulators import findings as phantom
from tests.simulators import validators
from tests.simulators.enhanced import make_enhanced
from tests.simulators.series import write_file
from tests.simulators.written import write_seg

BOX = Detection("nodule", (1.0, 4.0, 3.0), (3.0, 9.5, 8.25), 0.8125)
POINT = Detection("bleed", (4.0, 7.0, 5.0), (4.0, 7.0, 5.0), 0.5)
ABSENT, PRESENT, UNDETERMINED = "272519000", "52101004", "373068000"
NOTHING = Findings((), (), {}, "cpu")

PLANAR = "planar segments"
KINDS = ("segments", PLANAR, "detections", "classifications")
OUTCOMES = ("findings", "no findings", "inconclusive", "partly failed", "partly failed, nothing")
LANGUAGES = ("en-US", "zh-CN")
SOURCES = ("MR", "CT", "enhanced MR", "enhanced CT")
DX = "DX"
"""One radiograph: a plane without a position in space; there are detections and classifications of it, and no SEG."""
NOT_PERFORMED = "not performed"
CELLS = dict.fromkeys(SOURCES, 48) | {DX: 40}
"""How many cells of the whole matrix each kind of source has."""
MATRIX = tuple(itertools.product(CELLS, KINDS, (*OUTCOMES, NOT_PERFORMED), LANGUAGES))
IMPOSSIBLE = tuple(itertools.product((DX,), ("segments", PLANAR), ("findings", "partly failed"), LANGUAGES))
"""Where a segment would have to be drawn on a radiograph."""
SUMMARY = dict(zip(OUTCOMES, ("111242", "111241", "111241", "111244", "111243"), strict=True))
MISSING = {
    "segments": ("segment:2", "Hemorrhage"),
    "detections": ("detection:bleed", "Hemorrhage"),
    "classifications": ("classification:pneumothorax", "Pneumothorax"),
}
"""What of a model of each kind fails in part of it: its name, and what a reader calls it."""
LINK = "https://ai.example:8443/zhiying/decide/" + "5a" * 16


def failures(kind: str) -> tuple[FailedOutput, ...]:
    """An output of a model of this kind that failed, and one that the manifest does not name."""
    output, _ = MISSING[kind.removeprefix("planar ")]
    return FailedOutput(output, "OUTPUT_EMPTY"), FailedOutput("heat_map:x", "MODEL_OUTPUT_INVALID")


def sources_of(source: str, folder: Path) -> list[Dataset]:
    """Headers of the slices of one series of this kind."""
    if source.startswith("enhanced"):
        path = write_file(make_enhanced((3, 0, 5, 1, 4, 2), modality=source[-2:]), folder / "source.dcm")
        return list(load([path], "sha256:" + "0" * 64).headers)
    if source == DX:
        return [radiograph()]
    made = phantom.series((6, 16, 12), modality=source)
    for ds in made:
        ds.SOPClassUID = CTImageStorage if source == "CT" else ds.SOPClassUID
    return made


def radiograph() -> Dataset:
    """A chest of the size of the other sources' slices, as a digital X-ray for presentation (PS3.3 A.26)."""
    (ds,) = phantom.series((1, 16, 12), modality=DX)
    ds.SOPClassUID = DigitalXRayImageStorageForPresentation
    ds.BodyPartExamined = "CHEST"
    for keyword in (
        *("FrameOfReferenceUID", "ImagePositionPatient", "ImageOrientationPatient", "SliceThickness", "PixelSpacing"),
    ):
        delattr(ds, keyword)
    ds.ImagerPixelSpacing = [0.15, 0.15]
    return ds


def flat(findings: Findings) -> Findings:
    """The same on the one plane that there is."""
    return replace(
        findings,
        segments=tuple(SegmentMask(one.number, one.mask[1:2]) for one in findings.segments),
        detections=tuple(
            replace(one, low=(0.0, *one.low[1:]), high=(0.0, *one.high[1:])) for one in findings.detections
        ),
    )


def found(kind: str, outcome: str) -> Findings:
    """What a model of this kind gives in this outcome."""
    made = _found(kind, outcome)
    return replace(made, failed=failures(kind)) if outcome.startswith("partly") else made


def _found(kind: str, outcome: str) -> Findings:
    if outcome == "inconclusive":
        said = (Classification("effusion", "UNDETERMINED"), Classification("pneumothorax", "UNDETERMINED", 0.5))
        return replace(NOTHING, classifications=said if kind == "classifications" else (), inconclusive="LOW_QUALITY")
    positive = outcome in ("findings", "partly failed")
    partly = outcome.startswith("partly")
    if kind in ("segments", PLANAR):
        brain, nothing = np.zeros((6, 16, 12), np.bool_), np.zeros((6, 16, 12), np.bool_)
        brain[1:4, 4:9, 3:8] = True
        made = phantom.findings(brain if positive else nothing, brain if positive else nothing)
        return replace(made, segments=made.segments[:1], measurements=made.measurements[:1]) if partly else made
    if kind == "detections":
        return replace(NOTHING, detections=((BOX,) if partly else (BOX, POINT, BOX)) if positive else ())
    effusion = Classification("effusion", "PRESENT" if positive else "ABSENT", 0.9 if positive else 0.0625)
    both = (effusion, Classification("pneumothorax", "ABSENT", 0.25))
    return replace(NOTHING, classifications=both[:1] if partly else both)


@dataclass(frozen=True, slots=True)
class Made:
    """A report with what it was made from."""

    findings: Findings
    manifest: Manifest
    sources: list[Dataset]
    seg: Dataset | None
    data: bytes

    @property
    def sr(self) -> Dataset:
        """The report as read."""
        return dcmread(io.BytesIO(self.data))


def make(
    kind: str, outcome: str, folder: Path, *, language: str = "en-US", source: str = "MR", **context: object
) -> Made:
    """The report of one cell of the matrix."""
    findings = flat(found(kind, outcome)) if source == DX else found(kind, outcome)
    return made_of(findings, kind, folder, language, source, **context)


def made_of(
    findings: Findings,
    kind: str,
    folder: Path,
    language: str = "en-US",
    source: str = "MR",
    **changes: object,
) -> Made:
    """The report of these findings; `changes` go to its context."""
    groups = ReportGroups.PLANAR if kind == PLANAR else ReportGroups.VOLUMETRIC
    manifest = phantom.manifest(lesions=True, kind=kind.removeprefix("planar "))
    context = phantom.context(language, report_groups=groups, **changes)
    sources = sources_of(source, folder)
    seg = None
    if any(segment.mask.any() for segment in findings.segments):
        seg = dcmread(io.BytesIO(write_seg(findings, manifest, phantom.REF, sources, context)))
    data = write_sr(findings, manifest, phantom.REF, sources, seg, context)
    return Made(findings, manifest, sources, seg, data)


def walk(item: Dataset) -> Iterator[Dataset]:
    """Every content item below `item`."""
    for child in item.get("ContentSequence", []):
        yield child
        yield from walk(child)


def named(item: Dataset, code: str) -> list[Dataset]:
    """Content items below `item` with this concept name."""
    return [i for i in walk(item) if "ConceptNameCodeSequence" in i and i.ConceptNameCodeSequence[0].CodeValue == code]


def coded(item: Dataset) -> str:
    """What a CODE item states."""
    return str(item.ConceptCodeSequence[0].CodeValue)


def presences(sr: Dataset) -> dict[str, str]:
    """Presence by the name of its target."""
    (container,) = named(sr, "C0034375")
    codes = [i for i in container.ContentSequence if i.ValueType == "CODE"]
    return {str(i.ConceptNameCodeSequence[0].CodeMeaning): coded(i) for i in codes[1:]}


TARGETS = {
    "segments": ("Hemorrhage",),
    PLANAR: ("Hemorrhage",),
    "detections": ("Nodule", "Hemorrhage"),
    "classifications": ("Pleural effusion", "Pneumothorax"),
}
PRESENCES = {
    ("segments", "findings"): (PRESENT,),
    ("segments", "no findings"): (ABSENT,),
    ("segments", "partly failed"): (UNDETERMINED,),
    ("segments", "partly failed, nothing"): (UNDETERMINED,),
    ("detections", "findings"): (PRESENT, PRESENT),
    ("detections", "no findings"): (ABSENT, ABSENT),
    ("detections", "partly failed"): (PRESENT, UNDETERMINED),
    ("detections", "partly failed, nothing"): (UNDETERMINED, UNDETERMINED),
    ("classifications", "findings"): (PRESENT, ABSENT),
    ("classifications", "no findings"): (ABSENT, ABSENT),
    ("classifications", "partly failed"): (PRESENT, UNDETERMINED),
    ("classifications", "partly failed, nothing"): (ABSENT, UNDETERMINED),
}


@pytest.mark.parametrize(("kind", "outcome"), list(itertools.product(KINDS, OUTCOMES)))
def test_what_is_said_is_what_was_found(kind, outcome, tmp_path) -> None:
    """Flag, summary, a presence for each target by name, and the reasons in words, for every outcome of every kind."""
    sr = make(kind, outcome, tmp_path).sr
    partly = outcome.startswith("partly")
    assert sr.CompletionFlag == ("PARTIAL" if partly else "COMPLETE")
    assert sr.get("CompletionFlagDescription") == ("Partly failed: OUTPUT_EMPTY (+1)" if partly else None)
    assert [coded(i) for i in named(sr, "111017")] == [SUMMARY[outcome]]
    expected = PRESENCES.get((kind.removeprefix("planar "), outcome), (UNDETERMINED,) * len(TARGETS[kind]))
    assert presences(sr) == dict(zip(TARGETS[kind], expected, strict=True))
    comments = [i.TextValue for i in named(sr, "121106")]
    assert (INCONCLUSIVE["en-US"].format(code="LOW_QUALITY") in comments) == (outcome == "inconclusive")
    _, called = MISSING[kind.removeprefix("planar ")]
    codes = f"OUTPUT_EMPTY ({called}), MODEL_OUTPUT_INVALID (heat_map:x)"
    assert (PARTLY_FAILED["en-US"].format(codes=codes) in comments) == partly


@pytest.mark.parametrize(("kind", "outcome", "language"), list(itertools.product(KINDS, OUTCOMES, LANGUAGES)))
def test_two_judges_accept_the_whole_matrix(kind, outcome, language, tmp_path) -> None:
    """dciodvfy and dsrdump find no error in any cell; the source's kind goes round."""
    for source in SOURCES if outcome == "findings" else SOURCES[:1]:
        path = tmp_path / "sr.dcm"
        path.write_bytes(make(kind, outcome, tmp_path, language=language, source=source).data)
        assert validators.dciodvfy(path) == []
        assert validators.dsrdump(path) == []


@pytest.mark.parametrize(
    ("kind", "outcome", "language"), list(itertools.product(("detections", "classifications"), OUTCOMES, LANGUAGES))
)
def test_two_judges_accept_every_report_of_a_radiograph(kind, outcome, language, tmp_path) -> None:
    """One image without geometry: what is said is what was found, of a procedure that CID 100 has, and refers to it."""
    path = tmp_path / "sr.dcm"
    made = make(kind, outcome, tmp_path, language=language, source=DX)
    path.write_bytes(made.data)
    assert validators.dciodvfy(path) == []
    assert validators.dsrdump(path) == []
    sr = made.sr
    assert [coded(i) for i in named(sr, "111017")] == [SUMMARY[outcome]]
    assert [coded(i) for i in named(sr, "121058")] == ["363679005"]
    shown = {i.ReferencedSOPSequence[0].ReferencedSOPInstanceUID for i in walk(sr) if i.ValueType == "IMAGE"}
    assert shown == {made.sources[0].SOPInstanceUID}
    assert "FrameOfReferenceUID" not in sr


@pytest.mark.parametrize(("source", "kind", "outcome", "language"), IMPOSSIBLE)
def test_a_radiograph_has_no_segmentation(source, kind, outcome, language, tmp_path) -> None:
    """Where it lies in space nobody knows: a SEG of it is refused by code, and never drawn somewhere."""
    with pytest.raises(OutputInvalid) as refused:
        cell(source, kind, outcome, language, tmp_path)
    assert refused.value.code == "SOURCE_ATTRIBUTE_MISSING"


def cell(source: str, kind: str, outcome: str, language: str, folder: Path) -> tuple[bytes, Dataset | None]:
    """The report of one cell of the whole matrix, and the SEG that it speaks of."""
    if outcome != NOT_PERFORMED:
        made = make(kind, outcome, folder, language=language, source=source)
        return made.data, made.seg
    manifest = phantom.manifest(lesions=True, kind=kind.removeprefix("planar "))
    groups = ReportGroups.PLANAR if kind == PLANAR else ReportGroups.VOLUMETRIC
    context = phantom.context(language, report_groups=groups)
    return write_denial("CONDITION_NOT_MET", manifest, phantom.REF, sources_of(source, folder), context), None


def test_no_cell_is_lost() -> None:
    """Five sources, four kinds, six outcomes (a model fails partly in two ways), two languages; eight cannot exist."""
    assert len(MATRIX) == len(set(MATRIX)) == 5 * 4 * 6 * 2
    assert len(IMPOSSIBLE) == len(set(IMPOSSIBLE)) == 2 * 2 * 2
    assert {source for source, *_ in IMPOSSIBLE} == {DX}


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.parametrize(("source", "cells"), CELLS.items())
def test_three_judges_accept_every_cell(source, cells, tmp_path) -> None:
    """dciodvfy, dsrdump and PixelMed, which knows the templates, find no error; dciodvfy none in any SEG either."""
    reports, segmentations = [], 0
    for _, *names in (one for one in MATRIX if one[0] == source and one not in IMPOSSIBLE):
        data, seg = cell(source, *names, tmp_path)
        reports.append(tmp_path / f"{', '.join(names)}.sr.dcm")
        reports[-1].write_bytes(data)
        assert validators.dciodvfy(reports[-1]) == [], names
        assert validators.dsrdump(reports[-1]) == [], names
        if seg is not None:
            segmentations += 1
            seg.save_as(tmp_path / "seg.dcm")
            assert validators.dciodvfy(tmp_path / "seg.dcm") == [], names
    # A segment is drawn in two of the outcomes, of two kinds, in two languages.
    assert (len(reports), segmentations) == (cells, 0 if source == DX else 2 * 2 * 2)
    said = {path: validators.sr_validator(path) for path in reports}
    assert len(said) == cells
    assert {path.name: errors for path, errors in said.items() if errors} == {}


@pytest.mark.slow
def test_the_judge_that_stays_tells_reports_apart(tmp_path) -> None:
    """One that breaks its template, one that is not there, no DICOM, the judge killed: each verdict is its own."""
    (tmp_path / "good.dcm").write_bytes(made_of(NOTHING, "detections", tmp_path).data)
    planar, broken = make(PLANAR, "findings", tmp_path).sr, make("segments", "findings", tmp_path).sr
    named(broken, "126010")[0].ContentSequence[0] = named(planar, "125007")[0]
    broken.save_as(tmp_path / "broken.dcm")
    (tmp_path / "none.dcm").write_bytes(b"no DICOM")
    for _ in range(2):
        assert validators.sr_validator(tmp_path / "good.dcm") == []
        assert any("Error" in line for line in validators.sr_validator(tmp_path / "broken.dcm"))
        assert "did not finish" in validators.sr_validator(tmp_path / "missing.dcm")[0]
        assert "Exception" in validators.sr_validator(tmp_path / "none.dcm")[0]
    judge = validators._report_judge()
    judge._process.kill()
    assert judge._process.wait(60) != 0
    assert "did not finish" in validators.sr_validator(tmp_path / "good.dcm")[0]
    assert validators.sr_validator(tmp_path / "good.dcm") == []


@pytest.mark.slow
def test_the_judge_of_templates_accepts_the_link(tmp_path) -> None:
    """PixelMed: no error in a report with the address of the form."""
    path = tmp_path / "sr.dcm"
    path.write_bytes(make("segments", "findings", tmp_path, language="zh-CN", decide_at=LINK).data)
    assert validators.sr_validator(path) == []


@pytest.mark.parametrize(
    ("kind", "language", "charset"),
    [
        ("segments", "en-US", "ISO_IR 192"),
        ("segments", "zh-CN", "GB18030"),
        ("detections", "en-US", "GB18030"),
        ("classifications", "zh-CN", "ISO_IR 192"),
    ],
)
def test_the_link_stands_alone_under_its_name(kind, language, charset, tmp_path) -> None:
    """The address is the whole text, in both languages; two judges accept it, and DCMTK shows it with its name."""
    made = make(kind, "findings", tmp_path, language=language, charset=charset, decide_at=LINK)
    (link,) = named(made.sr, "DECIDE_AT")
    assert (link.ValueType, link.RelationshipType, link.TextValue) == ("TEXT", "CONTAINS", LINK)
    name = link.ConceptNameCodeSequence[0]
    assert (name.CodingSchemeDesignator, name.CodeMeaning) == ("99ZHIYING", DECIDE_AT[language])
    assert made.sr.CodingSchemeIdentificationSequence[0].CodingSchemeDesignator == "99ZHIYING"
    assert named(made.sr, "C0034375")[0].ContentSequence[-1] == link
    path = tmp_path / "sr.dcm"
    path.write_bytes(made.data)
    assert validators.dciodvfy(path) == []
    assert validators.dsrdump(path) == []
    assert f'"{DECIDE_AT[language]}")="{LINK[:16]}' in validators.dsrdump_text(path)
    page = validators.dsr2html_text(path)
    assert DECIDE_AT[language] in page
    assert LINK in page


def test_without_an_address_there_is_no_link(tmp_path) -> None:
    """Neither the item nor a declaration of our own codes; and a refusal, on which nobody decides, has none ever."""
    sr = make("segments", "findings", tmp_path).sr
    assert named(sr, "DECIDE_AT") == []
    assert "CodingSchemeIdentificationSequence" not in sr
    manifest, context = phantom.manifest(), phantom.context(decide_at=LINK)
    denial = write_denial("NO_APPROVAL", manifest, phantom.REF, sources_of("MR", tmp_path), context)
    assert named(dcmread(io.BytesIO(denial)), "DECIDE_AT") == []
    assert LINK.encode() not in denial


@pytest.mark.parametrize("source", [*SOURCES, DX])
def test_detections_are_read_back_as_they_were(source, tmp_path) -> None:
    """highdicom reads place, slice, frame, finding, site and score of each, in order; dcmqi the scores, too."""
    made = make("detections", "findings", tmp_path, source=source)
    groups = hd.sr.srread(io.BytesIO(made.data)).content.get_planar_roi_measurement_groups()
    assert len({group.tracking_uid for group in groups}) == len(groups) == 3
    assert [group.tracking_identifier for group in groups] == ["nodule 1", "bleed 2", "nodule 3"]
    for group, detection in zip(groups, made.findings.detections, strict=True):
        spec = next(spec for spec in made.manifest.detections if spec.id == detection.id)
        assert (group.finding_type.value, group.finding_sites[0].value.value) == (spec.concept.value, spec.site.value)
        assert group.finding_category.value == spec.category.value
        points = np.asarray(group.roi.value) - 0.5
        assert np.allclose(points.min(axis=0), [detection.low[2], detection.low[1]])
        assert np.allclose(points.max(axis=0), [detection.high[2], detection.high[1]])
        assert group.roi.graphic_type.value == ("POINT" if detection.is_point else "POLYLINE")
        (image,) = group.roi.ContentSequence
        reference, on = image.ReferencedSOPSequence[0], made.sources[round(detection.low[0] + detection.high[0]) // 2]
        assert reference.ReferencedSOPInstanceUID == on.SOPInstanceUID
        assert reference.get("ReferencedFrameNumber") == on.get("ReferencedFrameNumber")
        (number,) = group.get_measurements()
        assert (number.name.value, number.unit.value, float(number.value)) == (
            ("111012", "%", 81.25) if detection.id == "nodule" else ("SCORE", "1", 0.5)
        )
    (tmp_path / "sr.dcm").write_bytes(made.data)
    validators.dcmqi("tid1500reader", "--inputDICOM", tmp_path / "sr.dcm", "--outputMetadata", tmp_path / "sr.json")
    said = json.loads((tmp_path / "sr.json").read_text(encoding="utf-8"))["Measurements"]
    numbers = [(i["quantity"]["CodeValue"], float(i["value"])) for one in said for i in one["measurementItems"]]
    assert numbers == [("111012", 81.25), ("SCORE", 0.5), ("111012", 81.25)]
    assert [one["TrackingUniqueIdentifier"] for one in said] == [group.tracking_uid for group in groups]


@pytest.mark.parametrize("source", SOURCES)
def test_planar_groups_say_what_volumetric_ones_say(source, tmp_path) -> None:
    """The same header, statements, tracking, codes, numbers and outlines; where they stand, and no more, differs."""
    usual, planar = (make(kind, "findings", tmp_path, source=source) for kind in ("segments", PLANAR))
    assert usual.seg == planar.seg
    assert usual.seg is not None
    kept = [{e.tag: e.value for e in made.sr if e.keyword != "ContentSequence"} for made in (usual, planar)]
    (usual_evidence,), (evidence,) = (one.pop(0x0040A375) for one in kept)
    assert kept[0] == kept[1]
    listed = {
        str(i.ReferencedSOPInstanceUID) for s in evidence.ReferencedSeriesSequence for i in s.ReferencedSOPSequence
    }
    shown = {
        str(i.ReferencedSOPSequence[0].ReferencedSOPInstanceUID) for i in walk(planar.sr) if i.ValueType == "IMAGE"
    }
    assert listed == shown | {str(usual.seg.SOPInstanceUID)}
    assert len(usual_evidence.ReferencedSeriesSequence) == 2
    content = hd.sr.srread(io.BytesIO(planar.data)).content
    assert content.get_volumetric_roi_measurement_groups() == []
    groups = content.get_planar_roi_measurement_groups()
    theirs = hd.sr.srread(io.BytesIO(usual.data)).content.get_volumetric_roi_measurement_groups()
    assert len(groups) == len(theirs) == len(usual.seg.SegmentSequence) == 2
    for group, other, segment in zip(groups, theirs, usual.seg.SegmentSequence, strict=True):
        assert (group.tracking_identifier, group.tracking_uid) == (segment.TrackingID, segment.TrackingUID)
        assert (group.finding_type, group.finding_category) == (other.finding_type, other.finding_category)
        assert [site.value for site in group.finding_sites] == [site.value for site in other.finding_sites]
        (number,), (same,) = group.get_measurements(), other.get_measurements()
        assert (number.name, number.value, number.unit) == (same.name, same.value, same.unit)
        outline = next(i for i in walk(same[0]) if i.ValueType == "SCOORD")
        assert list(group.roi.GraphicData) == list(outline.GraphicData)
        assert group.roi.GraphicType == "POLYLINE"
        assert group.roi.ContentSequence == outline.ContentSequence


def scored(number: Dataset) -> tuple[str, str, float]:
    """Name, unit and value of a NUM item."""
    (value,) = number.MeasuredValueSequence
    unit = value.MeasurementUnitsCodeSequence[0].CodeValue
    return number.ConceptNameCodeSequence[0].CodeValue, unit, float(value.NumericValue)


def test_a_score_stands_under_what_it_is_of(tmp_path) -> None:
    """A classification's score is a property of its statement; only a calibrated one is called a certainty."""
    sr = make("classifications", "findings", tmp_path).sr
    (effusion,), (pneumothorax,) = named(sr, "60046008"), named(sr, "36118008")
    assert [scored(i) for i in effusion.ContentSequence] == [("111012", "%", 90.0)]
    assert [scored(i) for i in pneumothorax.ContentSequence] == [("SCORE", "1", 0.25)]
    assert sr.CodingSchemeIdentificationSequence[0].CodingSchemeDesignator == "99ZHIYING"
    silent = replace(
        NOTHING, classifications=(Classification("effusion", "ABSENT"), Classification("pneumothorax", "ABSENT"))
    )
    assert not [i for i in walk(made_of(silent, "classifications", tmp_path).sr) if i.ValueType == "NUM"]


def test_a_negative_names_where_nothing_was_found(tmp_path) -> None:
    """An absent detection is absent at its site, not everywhere."""
    sr = make("detections", "no findings", tmp_path).sr
    for code, site in (("27925004", "39607008"), ("50960005", "12738006")):
        (statement,) = named(sr, code)
        assert [coded(i) for i in named(statement, "363698007")] == [site]


CONTRADICTORY: dict[str, tuple[str, str, Findings]] = {
    "below the threshold": (
        "DETECTION_UNKNOWN",
        "detections",
        replace(NOTHING, detections=(replace(BOX, score=0.49),)),
    ),
    "no such detection": ("DETECTION_UNKNOWN", "detections", replace(NOTHING, detections=(replace(BOX, id="x"),))),
    "off the grid": (
        "GRID_MISMATCH",
        "detections",
        replace(NOTHING, detections=(replace(BOX, high=(3.0, 9.0, 11.6)),)),
    ),
    "mixed": ("KINDS_MIXED", "mixed", replace(NOTHING, detections=(BOX,))),
    "no such class": (
        "STATEMENT_UNKNOWN",
        "classifications",
        replace(NOTHING, classifications=(Classification("x", "ABSENT"),)),
    ),
    "class not stated": ("STATEMENT_MISSING", "classifications", NOTHING),
    "segment not stated": ("STATEMENT_MISSING", "segments", NOTHING),
}


@pytest.mark.parametrize("case", CONTRADICTORY)
def test_findings_that_the_manifest_does_not_cover_are_refused(case, tmp_path) -> None:
    """What is unknown, unsaid, off the grid or of two kinds at once is refused by code, and never read as absent."""
    code, kind, findings = CONTRADICTORY[case]
    with pytest.raises(OutputInvalid) as refused:
        made_of(findings, kind, tmp_path)
    assert refused.value.code == code


def value_of(code: str) -> Callable[[Dataset], None]:
    """A damage: the summary states this code."""

    def damage(ds: Dataset) -> None:
        named(ds, "111017")[0].ConceptCodeSequence[0].CodeValue = code

    return damage


def presence(code: str) -> Callable[[Dataset], None]:
    """A damage: every nodule statement has this value."""

    def damage(ds: Dataset) -> None:
        named(ds, "27925004")[0].ConceptCodeSequence[0].CodeValue = code

    return damage


def twice(ds: Dataset) -> None:
    """A damage: one statement more on the same target."""
    (container,) = named(ds, "C0034375")
    container.ContentSequence.append(named(ds, "27925004")[0])


def without(code: str) -> Callable[[Dataset], None]:
    """A damage: the first group lacks what has this name."""

    def damage(ds: Dataset) -> None:
        group = named(ds, "125007")[0]
        group.ContentSequence = [i for i in group.ContentSequence if i.ConceptNameCodeSequence[0].CodeValue != code]

    return damage


DAMAGES: dict[str, tuple[str, str, Callable[[Dataset], object]]] = {
    "complete": ("FLAGS_WRONG", "partly failed", lambda ds: setattr(ds, "CompletionFlag", "COMPLETE")),
    "no description": ("FLAGS_WRONG", "partly failed", lambda ds: delattr(ds, "CompletionFlagDescription")),
    "partial without findings": ("FLAGS_WRONG", "partly failed", value_of("111243")),
    "nothing succeeded": ("FLAGS_WRONG", "partly failed, nothing", value_of("111245")),
    "with findings": ("FLAGS_WRONG", "no findings", value_of("111242")),
    "without findings": ("FLAGS_WRONG", "findings", value_of("111241")),
    "present, without findings": ("FLAGS_WRONG", "no findings", presence(PRESENT)),
    "not of CID 240": ("STATEMENT_UNKNOWN", "no findings", presence("2667000")),
    "said twice": ("STATEMENT_CONTRADICTS", "no findings", twice),
    "no region": ("MEASUREMENT_WITHOUT_COORDINATES", "findings", without("111030")),
    "no score": ("SEGMENT_NOT_MEASURED", "findings", without("111012")),
    "not tracked": ("TRACKING_MISSING", "findings", without("112040")),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_the_check_before_sending_knows_the_new_shapes(damage, tmp_path) -> None:
    """Each rule on outcome, statements and detections, broken alone, stops the report with the rule's own code."""
    code, outcome, break_it = DAMAGES[damage]
    made = make("detections", outcome, tmp_path)
    ds = made.sr
    break_it(ds)
    out = io.BytesIO()
    ds.save_as(out)
    with pytest.raises(OutputInvalid) as refused:
        check_report(out.getvalue(), made.sources, None)
    assert refused.value.code == code


def other_tracking(ds: Dataset) -> None:
    """A damage: two groups have changed places."""
    (container,) = named(ds, "126010")
    container.ContentSequence = list(reversed(container.ContentSequence))


def volumetric(ds: Dataset) -> None:
    """A damage: one group calls itself by the other template."""
    named(ds, "125007")[1].ContentTemplateSequence[0].TemplateIdentifier = "1411"


def referring(ds: Dataset) -> None:
    """A damage: a region in a group that also refers to a segment."""
    region = named(ds, "111030")[0]
    segment = copy.deepcopy(region.ContentSequence[0])
    segment.RelationshipType = "CONTAINS"
    segment.ConceptNameCodeSequence = copy.deepcopy(region.ConceptNameCodeSequence)
    segment.ConceptNameCodeSequence[0].CodeValue = "121191"
    named(ds, "125007")[0].ContentSequence.append(segment)


def one_group(ds: Dataset) -> None:
    """A damage: a segment of the SEG has no group."""
    (container,) = named(ds, "126010")
    del container.ContentSequence[1]


def without_seg(ds: Dataset) -> None:
    """A damage: no way from the report to the SEG."""
    series = ds.CurrentRequestedProcedureEvidenceSequence[0].ReferencedSeriesSequence
    del series[1]


PLANAR_DAMAGES: dict[str, tuple[str, Callable[[Dataset], object]]] = {
    "changed places": ("TRACKING_DIFFERS", other_tracking),
    "a segment without a group": ("TRACKING_DIFFERS", one_group),
    "two templates": ("MEASUREMENT_WITHOUT_COORDINATES", volumetric),
    "region and segment": ("KINDS_MIXED", referring),
    "no region": ("MEASUREMENT_WITHOUT_COORDINATES", without("111030")),
    "no number": ("SEGMENT_NOT_MEASURED", without("118565006")),
    "not tracked": ("TRACKING_MISSING", without("112040")),
    "no way to the SEG": ("EVIDENCE_DIFFERS", without_seg),
}


@pytest.mark.parametrize("damage", PLANAR_DAMAGES)
def test_the_check_before_sending_knows_planar_groups(damage, tmp_path) -> None:
    """Each rule on a segment's planar group, broken alone, stops the report with the rule's own code."""
    code, break_it = PLANAR_DAMAGES[damage]
    made = make(PLANAR, "findings", tmp_path)
    assert check_report(made.data, made.sources, made.seg)
    ds = made.sr
    break_it(ds)
    out = io.BytesIO()
    ds.save_as(out)
    with pytest.raises(OutputInvalid) as refused:
        check_report(out.getvalue(), made.sources, made.seg)
    assert refused.value.code == code


def test_two_templates_are_not_mixed(tmp_path) -> None:
    """A planar group beside a volumetric one, both right alone: validators misread such a report."""
    usual, planar = (make(kind, "findings", tmp_path) for kind in ("segments", PLANAR))
    ds = usual.sr
    named(ds, "126010")[0].ContentSequence[0] = named(planar.sr, "125007")[0]
    out = io.BytesIO()
    ds.save_as(out)
    with pytest.raises(OutputInvalid) as refused:
        check_report(out.getvalue(), usual.sources, usual.seg)
    assert refused.value.code == "KINDS_MIXED"


def test_detections_do_not_hide_a_segmentation(tmp_path) -> None:
    """A SEG beside groups that are not its segments' is refused: nobody would find out what it shows."""
    made, other = make("detections", "findings", tmp_path), make("segments", "findings", tmp_path)
    assert check_report(made.data, made.sources, None)
    with pytest.raises(OutputInvalid) as refused:
        check_report(made.data, made.sources, other.seg)
    assert refused.value.code == "TRACKING_DIFFERS"


def test_one_kind_of_abnormality_in_two_segments_is_spoken_of_once(tmp_path) -> None:
    """Two segments of one concept, one drawn and one empty: present, not present and absent."""
    made = make("segments", "findings", tmp_path)
    spec = made.manifest.segments[1]
    manifest = replace(made.manifest, segments=(*made.manifest.segments, replace(spec, number=3)))
    empty = SegmentMask(3, np.zeros((6, 16, 12), np.bool_))
    findings = replace(made.findings, segments=(*made.findings.segments, empty))
    data = write_sr(findings, manifest, phantom.REF, made.sources, made.seg, phantom.context())
    assert presences(dcmread(io.BytesIO(data))) == {"Hemorrhage": PRESENT}
