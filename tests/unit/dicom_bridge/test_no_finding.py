"""A run without a finding as a picture: it says what the report says, in every outcome, and marks nothing."""

from __future__ import annotations

import io
import itertools
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import ImageFont
from pydicom import dcmread
from pydicom.dataset import Dataset

from dicom_bridge import key_images, key_picture
from dicom_bridge.charset import person_name
from dicom_bridge.key_image_validity import check_key_image
from dicom_bridge.key_kinds import KeyImage
from dicom_bridge.key_picture import readable, wrapped
from dicom_bridge.keyimage import spacing_of, write_key_images
from dicom_bridge.no_finding import write_no_finding
from dicom_bridge.report import write_sr
from dicom_bridge.result_context import DECIDE_AT, MARKING
from dicom_bridge.segmentation import grid_shape
from dicom_bridge.validity import OutputInvalid
from inference.types import Classification, Findings
from models.codes import Code
from models.manifest import Manifest
from tests.simulators import findings as phantom
from tests.simulators import validators
from tests.simulators.burnt import MARKING_SIZE, TEXT_SIZE, grey, lines, unsaid
from tests.unit.dicom_bridge.test_report_matrix import (
    DX,
    LANGUAGES,
    LINK,
    MISSING,
    NOTHING,
    found,
    make,
    named,
    radiograph,
    sources_of,
)

KINDS = ("segments", "detections", "classifications")
WITHOUT = ("no findings", "inconclusive", "partly failed, nothing")
SOURCES = ("CT", "MR", "enhanced MR", DX)
ABSENT, UNDETERMINED = "Absent", "Undetermined"
TITLE = {"en-US": "Test brain volume: no finding.", "zh-CN": "测试脑体积：人工智能未检出任何目标。"}


def voxels(shape: tuple[int, int, int]) -> NDArray[np.float32]:
    """Noise: no row of it is dark, so that it is no line of text."""
    return np.random.default_rng(7).normal(size=shape).astype(np.float32)


def picture(
    findings: Findings,
    manifest: Manifest,
    sources: list[Dataset],
    language: str = "en-US",
    **context: object,
) -> bytes:
    """The picture of these findings."""
    shown = voxels(grid_shape(sources))
    about = phantom.context(language, **context)
    data = write_no_finding(findings, manifest, phantom.REF, sources, shown, about)
    assert data is not None
    return data


def cell(kind: str, outcome: str, source: str, language: str, folder: Path, **context: object) -> tuple[Dataset, bytes]:
    """The report of one cell of the matrix, and its picture."""
    made = make(kind, outcome, folder, language=language, source=source, **context)
    return made.sr, picture(made.findings, made.manifest, made.sources, language, **context)


def read(data: bytes) -> Dataset:
    """Read back."""
    return dcmread(io.BytesIO(data))


def texts(sr: Dataset) -> list[str]:
    """The report's comments."""
    return [str(item.TextValue) for item in named(sr, "121106")]


def told(sr: Dataset, language: str) -> list[str]:
    """What a report says in words of the images as a whole, read from it alone: heading, then presences with names."""
    (container,) = named(sr, "C0034375")
    said: dict[str, list[str]] = {}
    for item in container.ContentSequence:
        if item.ValueType == "CODE" and item.ConceptNameCodeSequence[0].CodeValue != "111017":
            sites = [str(one.ConceptCodeSequence[0].CodeMeaning) for one in named(item, "363698007")]
            name = " ".join([str(item.ConceptNameCodeSequence[0].CodeMeaning), *(f"({site})" for site in sites)])
            said.setdefault(str(item.ConceptCodeSequence[0].CodeMeaning), []).append(name)
    # Before the marking stands why nothing more can be said.
    reasons = texts(sr)[: texts(sr).index(MARKING[language])]
    heading = reasons or [TITLE[language]]
    return [*heading, *(f"{presence}: {', '.join(names)}" for presence, names in said.items())]


@pytest.mark.parametrize(("source", "outcome", "language"), list(itertools.product(SOURCES, WITHOUT, LANGUAGES)))
def test_it_says_what_the_report_says(source: str, outcome: str, language: str, tmp_path: Path) -> None:
    """Letter by letter in the pixels, and in the site's language in the comments; the judge has nothing to say."""
    for kind in KINDS:
        report, data = cell(kind, outcome, source, language, tmp_path)
        english = make(kind, outcome, tmp_path, source=source).sr
        path = tmp_path / "sc.dcm"
        path.write_bytes(data)
        assert validators.dciodvfy(path) == []
        assert validators.dciodvfy_warnings(path) == []
        ds = read(data)
        assert phantom.NAME_ZH in person_name(ds)
        words = [line for text in told(english, "en-US") for line in wrapped(text)]
        below = [*words, "Model test-brain 1.2.0+abababababab"]
        assert unsaid(ds, [(MARKING["en-US"], MARKING_SIZE), *((line, TEXT_SIZE) for line in below)]) == []
        # Which slice it is comes after them, and no more.
        assert len(lines(grey(ds))) == 1 + len(below) + 1
        limits = texts(report)[-1]
        heading, *rest = told(report, language)
        assert "".join(ds.ImageComments) == " ".join([MARKING[language], limits, heading, *(f"{one}." for one in rest)])


@pytest.mark.parametrize(("kind", "outcome"), list(itertools.product(KINDS, WITHOUT)))
def test_no_finding_is_said_only_where_all_of_the_model_came_to_a_result(kind: str, outcome: str, tmp_path) -> None:
    """Inconclusive and partly failed runs say their code, and neither says "no finding"; nor is anything absent there
    that the report does not call absent."""
    ds = read(cell(kind, outcome, "MR", "en-US", tmp_path)[1])
    said = "".join(ds.ImageComments)
    assert ("no finding" in said) == (outcome == "no findings")
    assert ("AI inconclusive: LOW_QUALITY." in said) == (outcome == "inconclusive")
    assert (
        f"AI partly failed: OUTPUT_EMPTY ({MISSING[kind][1]}), MODEL_OUTPUT_INVALID (heat_map:x)." in said
    ) == outcome.startswith("partly")
    known = outcome == "no findings" or (outcome.startswith("partly") and kind == "classifications")
    assert (ABSENT in said) == known
    assert (UNDETERMINED in said) == (outcome != "no findings")


@pytest.mark.parametrize(("kind", "outcome"), list(itertools.product(KINDS, ("findings", "partly failed"))))
def test_a_run_with_a_finding_has_none(kind: str, outcome: str, tmp_path: Path) -> None:
    """Also where other things are absent, or a part of the model failed: what was found is what is shown."""
    made = make(kind, outcome, tmp_path)
    shown = voxels(grid_shape(made.sources))
    about = (made.findings, made.manifest, phantom.REF, made.sources, shown, phantom.context())
    assert write_no_finding(*about) is None
    names = [name for name, _ in key_images.write(tuple(KeyImage), *about)]
    assert "sc-000.dcm" not in names
    assert [name for name, _ in key_images.write((KeyImage.NO_FINDING,), *about)] == []


@pytest.mark.parametrize(("kind", "outcome"), list(itertools.product(KINDS, WITHOUT)))
def test_it_is_made_where_it_is_wanted_and_there_alone(kind: str, outcome: str, tmp_path: Path) -> None:
    """One file, beside which the other kinds have none; without it, they have none either."""
    findings, manifest = found(kind, outcome), phantom.manifest(lesions=True, kind=kind)
    sources = sources_of("MR", tmp_path)
    about = (findings, manifest, phantom.REF, sources, voxels(grid_shape(sources)), phantom.context())
    ((name, data),) = key_images.write(tuple(KeyImage), *about)
    assert (name, data) == ("sc-000.dcm", write_no_finding(*about))
    others = tuple(set(KeyImage) - {KeyImage.NO_FINDING})
    assert list(key_images.write(others, *about)) == []
    (tmp_path / name).write_bytes(data)
    assert key_images.files(tmp_path) == [tmp_path / name]
    assert read(data).SOPInstanceUID in key_images.names(phantom.CALL)
    assert read(data).SOPInstanceUID == phantom.context().uid("SC", *key_images.uid_parts("000"))


@pytest.mark.parametrize("source", SOURCES)
def test_the_header_names_the_slice_of_the_report(source: str, tmp_path: Path) -> None:
    """The series of a finding's picture, first in it, and the image (or frame) that the report's library has."""
    report, data = cell("detections", "no findings", source, "zh-CN", tmp_path)
    ds = read(data)
    assert (ds.Modality, ds.ConversionType, ds.BurnedInAnnotation) == ("OT", "WSD", "YES")
    assert (ds.SeriesDescription, ds.SeriesNumber, ds.InstanceNumber) == ("AI test-brain SC - 非诊断用", 9005, 1)
    assert ds.SeriesInstanceUID == phantom.context().uid("SC-SERIES")
    assert ds.ContentQualification == "RESEARCH"
    assert "不得直接用于诊断" in ds.DerivationDescription
    assert "outlined" in ds.DerivationDescription
    (source_item,) = ds.SourceImageSequence
    (library,) = named(report, "126200")
    (shown,) = (item.ReferencedSOPSequence[0] for item in library.ContentSequence)
    for keyword in ("ReferencedSOPClassUID", "ReferencedSOPInstanceUID", "ReferencedFrameNumber"):
        assert source_item.get(keyword) == shown.get(keyword)
    assert source_item.PurposeOfReferenceCodeSequence[0].CodeValue == "121322"


def test_the_slice_is_from_the_middle(tmp_path: Path) -> None:
    """Slice 4 of 6 and no other gives the pixels."""
    findings, manifest, sources = found("detections", "no findings"), phantom.manifest(kind="detections"), None
    sources = sources_of("MR", tmp_path)
    shown = voxels(grid_shape(sources))

    def pixels(used: NDArray[np.float32]) -> bytes:
        data = write_no_finding(findings, manifest, phantom.REF, sources, used, phantom.context())
        assert data is not None
        return bytes(read(data).PixelData)

    for k in range(6):
        changed = shown.copy()
        changed[k] = -shown[k]
        assert (pixels(changed) != pixels(shown)) == (k == 3)
    ds = read(picture(findings, manifest, sources))
    last = lines(grey(ds))[-1]
    assert unsaid(ds_from(ds, last), [("Slice 4 of 6, nothing outlined by AI", TEXT_SIZE)]) == []


def ds_from(ds: Dataset, box: tuple[slice, slice]) -> Dataset:
    """The same picture with one line alone."""
    pixels = ds.pixel_array.copy()
    kept = np.zeros_like(pixels)
    kept[box] = pixels[box]
    ds.PixelData = kept.tobytes()
    return ds


def test_nothing_of_the_patient_is_in_the_pixels(tmp_path: Path) -> None:
    """Another patient's same slice gives the same pixels; the same input gives the same bytes."""
    about = found("detections", "no findings"), phantom.manifest(kind="detections")
    one, other = phantom.series((6, 16, 12)), phantom.series((6, 16, 12), name="OTHER^Phantom")
    for ds in other:
        ds.PatientID, ds.AccessionNumber, ds.StudyDate = "TEST-0002", "TESTACC2", "20261124"
    first = picture(*about, one)
    assert first == picture(*about, one)
    assert read(first).PixelData == read(picture(*about, other)).PixelData
    assert read(picture(*about, one, "zh-CN")).PixelData == read(first).PixelData


@pytest.mark.parametrize("language", LANGUAGES)
def test_the_link_is_burnt_in_and_described(language: str, tmp_path: Path) -> None:
    """The last line of the picture, and the end of the comments, after a sentence that has its own full stop."""
    _, data = cell("segments", "inconclusive", "MR", language, tmp_path, decide_at=LINK)
    _, plain = cell("segments", "inconclusive", "MR", language, tmp_path)
    said = "".join(read(data).ImageComments)
    assert said == "".join(read(plain).ImageComments) + f" {DECIDE_AT[language]}: {LINK}"
    ds, before = read(data), read(plain)
    last = lines(grey(ds))[-1]
    assert unsaid(ds_from(ds, last), [(LINK, TEXT_SIZE)]) == []
    assert read(data).Rows - before.Rows == 30


def test_an_organ_that_is_not_there_is_no_abnormality(tmp_path: Path) -> None:
    """The report states nothing of organs, and so does the picture: the model's title, and that nothing is outlined."""
    manifest, sources = phantom.manifest(), sources_of("MR", tmp_path)
    empty = phantom.findings(np.zeros((6, 16, 12), np.bool_))
    report = read(write_sr(empty, manifest, phantom.REF, sources, None, phantom.context()))
    assert told(report, "en-US") == [TITLE["en-US"]]
    ds = read(picture(empty, manifest, sources))
    words = [*told(report, "en-US"), "Model test-brain 1.2.0+abababababab", "Slice 4 of 6, nothing outlined by AI"]
    assert unsaid(ds, [(MARKING["en-US"], MARKING_SIZE), *((line, TEXT_SIZE) for line in words)]) == []
    assert len(lines(grey(ds))) == 1 + len(words)


def test_what_the_font_cannot_write_is_named_otherwise(tmp_path: Path) -> None:
    """A title that is not English by the model's name, a meaning by its code: never as boxes."""
    manifest = phantom.manifest(kind="classifications")
    effusion, pneumothorax = manifest.classifications
    chinese = replace(effusion, concept=Code("60046008", "SCT", "胸腔积液"))
    manifest = replace(
        manifest, title={"en": "胸部", "zh": "胸部"}, classifications=(chinese, replace(pneumothorax, id="other"))
    )
    said = (Classification("effusion", "ABSENT"), Classification("other", "ABSENT"))
    ds = read(picture(replace(NOTHING, classifications=said), manifest, sources_of("MR", tmp_path)))
    words = ["test-brain: no finding.", "Absent: SCT 60046008, Pneumothorax"]
    assert unsaid(ds, [(MARKING["en-US"], MARKING_SIZE), *((line, TEXT_SIZE) for line in words)]) == []


def test_many_targets_are_all_named_and_none_is_cut(tmp_path: Path) -> None:
    """A model of 40 things: each name stands in a line that fits at its full size, and the corners stay free."""
    manifest = phantom.manifest(kind="classifications")
    names = [f"Thing of the chest number {n}" for n in range(40)]
    specs = tuple(
        replace(manifest.classifications[0], id=f"c{n}", concept=Code(str(n), "99TEST", name))
        for n, name in enumerate(names)
    )
    findings = replace(NOTHING, classifications=tuple(Classification(spec.id, "ABSENT") for spec in specs))
    ds = read(picture(findings, replace(manifest, classifications=specs), [radiograph()]))
    words = wrapped(f"Absent: {', '.join(names)}")
    assert len(words) > 10
    expected = [TITLE["en-US"], *words]
    assert unsaid(ds, [(MARKING["en-US"], MARKING_SIZE), *((line, TEXT_SIZE) for line in expected)]) == []


@pytest.mark.parametrize(
    "text", ["", "word", "a b", "x" * 300, "much " * 60, "DEADLINE_EXCEEDED_AND_MORE_OF_THE_SAME_KIND, " * 9]
)
def test_lines_are_broken_at_blanks_only(text: str) -> None:
    """All words in their order; no line is wider than the middle of the picture, but for a word that alone is."""
    made = wrapped(text)
    assert " ".join(made) == " ".join(text.split())
    font = ImageFont.load_default(float(TEXT_SIZE))
    room = (key_picture.SIDE_PX + 2 * key_picture.MARGIN_PX) * key_picture.LINE_SHARE
    assert all(font.getlength(line) <= room or " " not in line for line in made)
    assert all(readable(line) or " " not in line for line in made)
    # As few as can be: the first word of each line would not fit into the one before.
    for before, after in itertools.pairwise(made):
        assert font.getlength(f"{before} {after.split()[0]}") > room


def test_a_radiograph_is_drawn_in_its_own_proportions() -> None:
    """By its spacing at the detector; where it has none, pixels are square; what is no size is refused."""
    ds = radiograph()
    assert spacing_of(ds) == (0.15, 0.15)
    ds.ImagerPixelSpacing = [0.2, 0.1]
    assert spacing_of(ds) == (0.2, 0.1)
    ds.PixelSpacing = [1.25, 1]
    assert spacing_of(ds) == (1.25, 1.0)
    del ds.PixelSpacing, ds.ImagerPixelSpacing
    assert spacing_of(ds) == (1.0, 1.0)
    ds.ImagerPixelSpacing = [0, 0.1]
    with pytest.raises(OutputInvalid):
        spacing_of(ds)


# ---- what is refused -----------------------------------------------------------------------------------------------


def refusal(act: Callable[[], object]) -> str:
    """The code with which `act` is refused."""
    with pytest.raises(OutputInvalid) as refused:
        act()
    return refused.value.code


def painted(ds: Dataset, rows: slice, value: tuple[int, int, int]) -> None:
    """Paint the middle of some rows."""
    pixels = ds.pixel_array.copy()
    pixels[rows, 400:600] = value
    ds.PixelData = pixels.tobytes()


DAMAGES: dict[str, tuple[str, Callable[[Dataset], object]]] = {
    "something outlined": ("KEY_IMAGE_PIXELS", lambda ds: painted(ds, slice(300, 301), (255, 196, 0))),
    "no words below": ("KEY_IMAGE_PIXELS", lambda ds: wiped(ds, slice(-36, None))),
    "no marking": ("MARKING_MISSING", lambda ds: wiped(ds, slice(36))),
    "no comment": ("MARKING_MISSING", lambda ds: delattr(ds, "ImageComments")),
    "no source": ("DERIVATION_MISSING", lambda ds: delattr(ds, "SourceImageSequence")),
    "as a slice": ("KEY_IMAGE_UNDECLARED", lambda ds: setattr(ds, "PixelSpacing", [1, 1])),
}


def wiped(ds: Dataset, rows: slice) -> None:
    """Blank some rows."""
    pixels = ds.pixel_array.copy()
    pixels[rows] = 0
    ds.PixelData = pixels.tobytes()


@pytest.mark.parametrize("damage", DAMAGES)
def test_the_check_before_sending_refuses(damage: str, tmp_path: Path) -> None:
    """Each rule on a picture that marks nothing, broken alone, stops it with the rule's own code."""
    code, break_it = DAMAGES[damage]
    sources = sources_of("MR", tmp_path)
    data = picture(found("detections", "no findings"), phantom.manifest(kind="detections"), sources)
    assert check_key_image(data, sources, outlined=False)
    ds = read(data)
    break_it(ds)
    buffer = io.BytesIO()
    ds.save_as(buffer)
    assert refusal(lambda: check_key_image(buffer.getvalue(), sources, outlined=False)) == code


def test_one_kind_of_picture_never_passes_for_the_other(tmp_path: Path) -> None:
    """A finding's picture is refused as one of no finding, and the other way round."""
    sources, mask = phantom.series((12, 32, 40)), phantom.ellipsoid((12, 32, 40))
    about = (phantom.manifest(), phantom.REF, sources, voxels((12, 32, 40)), phantom.context())
    ((_, outlined),) = write_key_images(phantom.findings(mask), *about)
    plain = write_no_finding(phantom.findings(np.zeros_like(mask)), *about)
    assert plain is not None
    assert refusal(lambda: check_key_image(outlined, sources, outlined=False)) == "KEY_IMAGE_PIXELS"
    assert refusal(lambda: check_key_image(plain, sources)) == "KEY_IMAGE_PIXELS"


def test_findings_that_do_not_fit_are_refused_by_code(tmp_path: Path) -> None:
    """Other voxels, no slices, and targets of which nothing is said although nothing failed."""
    manifest, sources = phantom.manifest(kind="classifications"), sources_of("MR", tmp_path)
    findings, context = found("classifications", "no findings"), phantom.context()

    def write(found: Findings = findings, used: list[Dataset] = sources, slices: int = 6) -> object:
        return write_no_finding(found, manifest, phantom.REF, used, voxels((slices, 16, 12)), context)

    assert write()
    assert refusal(lambda: write(slices=5)) == "GRID_MISMATCH"
    assert refusal(lambda: write(used=[])) == "SOURCE_MISSING"
    assert refusal(lambda: write(NOTHING)) == "STATEMENT_MISSING"
