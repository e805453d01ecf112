"""Presentation states: outlines where the masks are, the source's own greys, the marking on every slice, judged."""

from __future__ import annotations

import io
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import highdicom as hd
import numpy as np
import pytest
from numpy.typing import NDArray
from pydicom import dcmread
from pydicom.dataset import Dataset
from skimage.draw import polygon2mask

from dicom_bridge.assembly import RESULT_MODALITIES
from dicom_bridge.charset import person_name
from dicom_bridge.contour import key_outline
from dicom_bridge.key_kinds import CLASSES, KeyImage
from dicom_bridge.key_picture import MARKING_INK, rgb
from dicom_bridge.marks import FIGURES_MAX, MARKING_LAB, marks_of
from dicom_bridge.offers import STORAGE_CLASSES
from dicom_bridge.presentation import write_presentation
from dicom_bridge.presentation_validity import check_presentation
from dicom_bridge.result_context import DECIDE_AT, MARKING
from dicom_bridge.validity import OutputInvalid
from dicom_bridge.volume import load
from inference.types import Findings, Measurement
from tests.simulators import findings as phantom
from tests.simulators import series, validators
from tests.unit.dicom_bridge.test_report_matrix import BOX, DX, NOTHING, POINT, SOURCES, flat, found, sources_of

SHAPE = (12, 32, 40)
RED = (34886, 53484, 50172)
LINK = "https://ai.example/decide/" + "5a" * 16


def made(
    findings: Findings,
    sources: Sequence[Dataset],
    kind: str = "segments",
    voxels: NDArray[np.float32] | None = None,
    **context: object,
) -> bytes | None:
    """The presentation state of these findings."""
    shape = (len(sources), int(sources[0].Rows), int(sources[0].Columns))
    values = np.random.default_rng(7).normal(500, 90, shape).astype(np.float32) if voxels is None else voxels
    manifest = phantom.manifest(lesions=True, kind=kind)
    return write_presentation(findings, manifest, phantom.REF, sources, values, phantom.context(**context))


def read(data: bytes | None) -> Dataset:
    """As read."""
    assert data is not None
    return dcmread(io.BytesIO(data))


def saved(ds: Dataset) -> bytes:
    """The bytes of a data set that a test damaged."""
    buffer = io.BytesIO()
    ds.save_as(buffer)
    return buffer.getvalue()


def points(figure: Dataset) -> NDArray[np.float64]:
    """(N, 2): column, row."""
    return np.array(figure.GraphicData, dtype=np.float64).reshape(-1, 2)


def filled(figures: Sequence[Dataset], shape: tuple[int, int]) -> NDArray[np.bool_]:
    """What a viewer finds inside of the outlines, holes left out: pixels whose centres lie within an odd number."""
    inside = np.zeros(shape, dtype=np.bool_)
    for figure in figures:
        inside ^= polygon2mask(shape, points(figure)[:, ::-1] - 0.5)
    return inside


def drawn(ds: Dataset) -> list[Dataset]:
    """Annotations with a figure."""
    return [item for item in ds.GraphicAnnotationSequence if "GraphicObjectSequence" in item]


@pytest.mark.parametrize("source", [*SOURCES, DX])
@pytest.mark.parametrize("kind", ["segments", "detections"])
@pytest.mark.parametrize(("language", "charset"), [("zh-CN", "GB18030"), ("zh-CN", "ISO_IR 192"), ("en-US", "GB18030")])
def test_two_judges_accept_the_whole_matrix(source, kind, language, charset, tmp_path: Path) -> None:
    """dciodvfy has neither error nor warning, dcmpschk no complaint, whatever the source, the language, the charset."""
    if source == DX and kind == "segments":
        kind = "detections"  # there is no segment without a place in space
    findings = flat(found(kind, "findings")) if source == DX else found(kind, "findings")
    sources = sources_of(source, tmp_path)
    path = tmp_path / "gsps.dcm"
    context = {"language": language, "charset": charset, "decide_at": LINK}
    path.write_bytes(made(findings, sources, kind, **context) or b"")
    assert validators.dciodvfy(path) == []
    assert validators.dciodvfy_warnings(path) == []
    assert validators.dcmpschk(path) == []
    ds = dcmread(path)
    assert phantom.NAME_ZH in person_name(ds)
    said = [str(text.UnformattedTextValue) for text in ds.GraphicAnnotationSequence[0].TextObjectSequence]
    assert said == [MARKING[language], f"{DECIDE_AT[language]}: {LINK}"]


def test_the_judge_of_presentation_states_can_complain(tmp_path: Path) -> None:
    """dcmpschk misses what is left out, and does not know a made-up term: its silence above means something."""
    ds = read(made(phantom.findings(phantom.ellipsoid(SHAPE)), phantom.series(SHAPE)))
    path = tmp_path / "gsps.dcm"
    area = ds.pop("DisplayedAreaSelectionSequence")
    ds.save_as(path)
    assert validators.dcmpschk(path) == ["displayedAreaSelectionSQ absent or empty in presentation state"]
    ds.add(area)
    ds.PresentationLUTShape = "as it is"
    ds.save_as(path)
    assert len(validators.dcmpschk(path)) == 2


def test_the_outlines_are_the_masks() -> None:
    """Filled, they give back the mask of the slice pixel for pixel: parts, a hole, and the border included."""
    mask = phantom.ellipsoid(SHAPE)
    mask[6, 12:20, 10:30] = True
    mask[6, 15:17, 18:21] = False
    mask[6, 0:3, 0:4] = True
    mask[6, 31, 39] = True
    sources, small = phantom.series(SHAPE), phantom.ellipsoid(SHAPE, size=0.15)
    ds = read(made(phantom.findings(mask, small), sources))
    for item, one in zip(drawn(ds), (mask, small), strict=True):
        k = key_outline(one).slice_index
        assert [r.ReferencedSOPInstanceUID for r in item.ReferencedImageSequence] == [sources[k].SOPInstanceUID]
        assert (filled(item.GraphicObjectSequence, SHAPE[1:]) == one[k]).all()
        # The largest is the one that the SR has, point for point.
        assert (points(item.GraphicObjectSequence[0]).astype(np.float32) == key_outline(one).points).all()
    assert len(drawn(ds)[0].GraphicObjectSequence) == 4


def test_a_ragged_mask_is_bounded() -> None:
    """A mask of single pixels has as many outlines as a viewer can draw, and the state is still valid."""
    mask = np.zeros(SHAPE, dtype=np.bool_)
    mask[5, ::2, ::2] = True
    ds = read(made(phantom.findings(mask), phantom.series(SHAPE)))
    assert len(drawn(ds)[0].GraphicObjectSequence) == FIGURES_MAX < 16 * 20


def test_a_frame_of_an_enhanced_source_is_named_by_its_number(tmp_path: Path) -> None:
    """One instance, the frames that are drawn on, and each annotation on its own frame, not on its slice's index."""
    sources = sources_of("enhanced MR", tmp_path)
    mask = np.zeros((6, 16, 12), dtype=np.bool_)
    other = mask.copy()
    mask[1, 4:9, 3:8], other[4, 2:5, 2:5] = True, True
    ds = read(made(phantom.findings(mask, other), sources))
    (image,) = ds.ReferencedSeriesSequence[0].ReferencedImageSequence
    frames = [sources[k].ReferencedFrameNumber for k in (1, 4)]
    assert list(image.ReferencedFrameNumber) == frames
    assert frames != [2, 5]
    assert [item.ReferencedImageSequence[0].ReferencedFrameNumber for item in drawn(ds)] == frames
    shown = [(float(i.WindowCenter), float(i.WindowWidth)) for i in ds.SoftcopyVOILUTSequence]
    assert shown == [(300.0, 600.0)] * 2
    named = [i.ReferencedImageSequence[0].ReferencedFrameNumber for i in ds.SoftcopyVOILUTSequence]
    assert named == frames


def test_detections_are_boxes_and_points_on_their_middle_slice() -> None:
    """Corners where the SR has them; one layer for a kind; a score in words; a model's score is no certainty."""
    sources = phantom.series((6, 16, 12))
    ds = read(made(replace(NOTHING, detections=(BOX, POINT, BOX)), sources, "detections"))
    box, point, again = drawn(ds)
    assert points(box.GraphicObjectSequence[0]).tolist() == [[3.5, 4.5], [8.75, 4.5], [8.75, 10], [3.5, 10], [3.5, 4.5]]
    assert box.GraphicObjectSequence[0].GraphicType == "POLYLINE"
    assert (points(point.GraphicObjectSequence[0]).tolist(), point.GraphicObjectSequence[0].GraphicType) == (
        [[5.5, 7.5]],
        "POINT",
    )
    shown = [item.ReferencedImageSequence[0].ReferencedSOPInstanceUID for item in (box, point)]
    assert shown == [sources[k].SOPInstanceUID for k in (2, 4)]
    assert [box.GraphicLayer, point.GraphicLayer, again.GraphicLayer] == ["DETECTION_1", "DETECTION_2", "DETECTION_1"]
    said = [item.TextObjectSequence[0].UnformattedTextValue for item in (box, point)]
    assert said == ["Nodule: Certainty of Finding: 81.25 %", "Hemorrhage: Model score: 0.5000"]
    first, second = (item.TextObjectSequence[0].BoundingBoxTopLeftHandCorner[1] for item in (box, again))
    assert first < second


def test_the_header_and_the_layers() -> None:
    """Label, series, marking, research, no date of an image; the colour of the SEG, but never a grey."""
    sources, mask = phantom.series(SHAPE), phantom.ellipsoid(SHAPE)
    small = phantom.ellipsoid(SHAPE, size=0.15)
    ds = read(made(phantom.findings(mask, small), sources, language="zh-CN"))
    assert (ds.SOPClassUID, ds.Modality) == ("1.2.840.10008.5.1.4.1.1.11.1", "PR")
    assert (ds.SeriesNumber, ds.SeriesDescription) == (9003, "AI test-brain GSPS - 非诊断用")
    assert (ds.ContentLabel, ds.ContentQualification, ds.BodyPartExamined) == ("AI_OVERLAY", "RESEARCH", "HEAD")
    assert ds.SOPInstanceUID == phantom.context().uid("GSPS")
    assert "ContentDate" not in ds
    layers = {layer.GraphicLayer: layer for layer in ds.GraphicLayerSequence}
    assert set(layers) == {"MARKING", "SEGMENT_1", "SEGMENT_2"}
    colours = {name: tuple(one.GraphicLayerRecommendedDisplayCIELabValue) for name, one in layers.items()}
    assert colours == {"MARKING": MARKING_LAB, "SEGMENT_1": MARKING_LAB, "SEGMENT_2": RED}
    assert rgb(MARKING_LAB) == MARKING_INK
    assert layers["MARKING"].GraphicLayerOrder == 3
    volume = f"{phantom.findings(mask).measurements[0].value:.1f}"
    said = [item.TextObjectSequence[0].UnformattedTextValue for item in drawn(ds)]
    assert said[0] == f"Brain: Volume: {volume} cm3"
    (area,) = ds.DisplayedAreaSelectionSequence
    assert (list(area.DisplayedAreaBottomRightHandCorner), list(area.PresentationPixelSpacing)) == ([40, 32], [1.25, 1])


def test_many_lines_come_closer_and_stay_on_the_screen() -> None:
    """Forty numbers on one slice: every box lies within the display, none over the marking's or the address's."""
    mask = phantom.ellipsoid(SHAPE)
    manifest = phantom.manifest()
    spec = manifest.measurements[0]
    manifest = replace(manifest, measurements=tuple(replace(spec, id=f"m{n}") for n in range(40)))
    numbers = tuple(Measurement(f"m{n}", float(n)) for n in range(40))
    findings = replace(phantom.findings(mask), measurements=numbers)
    data = write_presentation(
        findings, manifest, phantom.REF, phantom.series(SHAPE), np.zeros(SHAPE, np.float32), phantom.context()
    )
    boxes = [text for item in drawn(read(data)) for text in item.TextObjectSequence]
    tops = [float(box.BoundingBoxTopLeftHandCorner[1]) for box in boxes]
    assert len(tops) == 40
    assert (min(tops), tops) == (pytest.approx(0.04), sorted(tops))
    assert max(float(box.BoundingBoxBottomRightHandCorner[1]) for box in boxes) <= 0.96 + 1e-6


def with_window(sources: Sequence[Dataset], **values: object) -> Sequence[Dataset]:
    """The same slices, saying this of their greys."""
    for ds in sources:
        for keyword, value in values.items():
            setattr(ds, keyword, value)
    return sources


def test_the_greys_are_the_sources_own() -> None:
    """A CT's rescale and first window; another's from its voxels; upside down where the image is."""
    findings = phantom.findings(phantom.ellipsoid(SHAPE))
    ct = with_window(
        phantom.series(SHAPE, modality="CT"),
        RescaleSlope="2",
        RescaleIntercept="-1024",
        WindowCenter=["40", "400"],
        WindowWidth=["80", "1500"],
    )
    ds = read(made(findings, ct))
    (item,) = ds.SoftcopyVOILUTSequence
    assert (ds.RescaleSlope, ds.RescaleIntercept, ds.RescaleType, ds.PresentationLUTShape) == (
        2,
        -1024,
        "HU",
        "IDENTITY",
    )
    assert (item.WindowCenter, item.WindowWidth) == (40, 80)
    voxels = np.full(SHAPE, 0.25, dtype=np.float32)
    voxels[:, 0] = 0.0
    (item,) = read(made(findings, phantom.series(SHAPE), voxels=voxels)).SoftcopyVOILUTSequence
    assert (float(item.WindowWidth) < 1, item.VOILUTFunction) == (True, "LINEAR_EXACT")
    curved = with_window(phantom.series(SHAPE), WindowCenter="40", WindowWidth="80", VOILUTFunction="SIGMOID")
    (item,) = read(made(findings, curved)).SoftcopyVOILUTSequence
    assert item.WindowCenter != 40
    inverse = with_window(phantom.series(SHAPE), PhotometricInterpretation="MONOCHROME1")
    assert read(made(findings, inverse)).PresentationLUTShape == "INVERSE"


def test_slices_that_are_rescaled_differently_are_shown_in_stored_values() -> None:
    """One state has one Modality LUT: without one, each window is of its own slice's stored values."""
    mask, other = np.zeros((2, *SHAPE), dtype=np.bool_)
    mask[2, 5:9, 5:9], other[7, 5:9, 5:9] = True, True
    sources = with_window(phantom.series(SHAPE), WindowCenter="100", WindowWidth="50", RescaleIntercept="20")
    for k, ds in enumerate(sources):
        ds.RescaleSlope = str(k + 1)
    ds = read(made(phantom.findings(mask, other), sources))
    assert "RescaleSlope" not in ds
    shown = [(float(i.WindowCenter), float(i.WindowWidth)) for i in ds.SoftcopyVOILUTSequence]
    assert shown == [(pytest.approx(80 / 3), pytest.approx(50 / 3)), (10.0, 6.25)]
    sources[2].RescaleSlope = "-1"
    with pytest.raises(OutputInvalid) as refused:
        made(phantom.findings(mask, other), sources)
    assert refused.value.code == "RESCALE_MIXED"


def test_the_headers_of_a_loaded_series_say_how_each_slice_is_shown(tmp_path: Path) -> None:
    """Rescale and window of every slice, not of the first alone, come from the files."""

    def spoil(index: int, ds: Dataset) -> None:
        ds.WindowCenter, ds.WindowWidth, ds.RescaleSlope, ds.RescaleIntercept = index + 10, 50, 1, -index

    headers = load(series.write_series(tmp_path, 4, spoil=spoil), "sha256:" + "0" * 64).headers
    shown = {(int(h.WindowCenter), int(h.WindowWidth), int(h.RescaleIntercept)) for h in headers}
    assert shown == {(10 + n, 50, -n) for n in range(4)}


@pytest.mark.parametrize("kind", ["segments", "detections", "classifications"])
def test_where_nothing_is_marked_there_is_none(kind: str, tmp_path: Path) -> None:
    """No finding, or one of the whole study: nothing to draw, and no empty state."""
    outcome = "findings" if kind == "classifications" else "no findings"
    assert made(found(kind, outcome), sources_of("MR", tmp_path), kind) is None


def test_the_same_call_gives_the_same_bytes() -> None:
    """Nothing of the clock and nothing random (I6)."""
    findings = phantom.findings(phantom.ellipsoid(SHAPE))
    assert made(findings, phantom.series(SHAPE)) == made(findings, phantom.series(SHAPE))


def test_what_comes_back_is_a_result() -> None:
    """Its modality is one of those that neither keep a study waiting nor become an input; its class is taken in."""
    ds = read(made(phantom.findings(phantom.ellipsoid(SHAPE)), phantom.series(SHAPE)))
    assert ds.Modality in RESULT_MODALITIES
    assert CLASSES[KeyImage.GSPS] in STORAGE_CLASSES


def test_another_library_reads_it() -> None:
    """highdicom takes its graphics for graphics, and its layers for layers."""
    sources = phantom.series(SHAPE)
    ds = read(made(phantom.findings(phantom.ellipsoid(SHAPE)), sources))
    (item,) = drawn(ds)
    figure = hd.pr.GraphicObject(
        graphic_type=hd.pr.GraphicTypeValues(item.GraphicObjectSequence[0].GraphicType),
        graphic_data=points(item.GraphicObjectSequence[0]),
        units=hd.pr.AnnotationUnitsValues(item.GraphicObjectSequence[0].GraphicAnnotationUnits),
    )
    assert figure.graphic_data.shape == (item.GraphicObjectSequence[0].NumberOfGraphicPoints, 2)
    ours = marks_of(phantom.findings(phantom.ellipsoid(SHAPE)), phantom.manifest(lesions=True), sources)
    assert (figure.graphic_data.astype(np.float32) == ours[0].figures[0]).all()


# ---- the check before sending ---------------------------------------------------------------------------------------


def annotation(index: int) -> Callable[[Dataset], Dataset]:
    """An annotation of the state: 0 the marking's, then the marks'."""
    return lambda ds: ds.GraphicAnnotationSequence[index]


def unmarked(ds: Dataset) -> None:
    """A damage: the marking is not over the slice."""
    annotation(0)(ds).TextObjectSequence[0].UnformattedTextValue = "A finding"


def elsewhere(ds: Dataset) -> None:
    """A damage: drawn on another slice."""
    annotation(1)(ds).ReferencedImageSequence[0].ReferencedSOPInstanceUID = phantom.series(SHAPE)[0].SOPInstanceUID


def foreign(ds: Dataset) -> None:
    """A damage: everything is on an image of nobody's."""
    for sequence in (ds.ReferencedSeriesSequence, ds.GraphicAnnotationSequence, ds.SoftcopyVOILUTSequence):
        for item in sequence:
            item.ReferencedImageSequence[0].ReferencedSOPInstanceUID = "1.2.3"


def beyond(ds: Dataset) -> None:
    """A damage: a point beyond the image."""
    figure = annotation(1)(ds).GraphicObjectSequence[0]
    figure.GraphicData = [41.0, *figure.GraphicData[1:-2], 41.0, figure.GraphicData[-1]]


def open_figure(ds: Dataset) -> None:
    """A damage: an outline with a gap."""
    figure = annotation(1)(ds).GraphicObjectSequence[0]
    figure.GraphicData = list(figure.GraphicData)[:-2]
    figure.NumberOfGraphicPoints -= 1


DAMAGES: dict[str, tuple[str, Callable[[Dataset], object]]] = {
    "modality": ("KEY_IMAGE_UNDECLARED", lambda ds: setattr(ds, "Modality", "OT")),
    "label": ("KEY_IMAGE_UNDECLARED", lambda ds: setattr(ds, "ContentLabel", "OVERLAY")),
    "no body part": ("KEY_IMAGE_UNDECLARED", lambda ds: setattr(ds, "BodyPartExamined", "")),
    "no layer": ("KEY_IMAGE_UNDECLARED", lambda ds: setattr(annotation(1)(ds), "GraphicLayer", "NOWHERE")),
    "no colour": (
        "KEY_IMAGE_UNDECLARED",
        lambda ds: delattr(ds.GraphicLayerSequence[0], "GraphicLayerRecommendedDisplayCIELabValue"),
    ),
    "box off the screen": (
        "KEY_IMAGE_UNDECLARED",
        lambda ds: setattr(annotation(1)(ds).TextObjectSequence[0], "BoundingBoxBottomRightHandCorner", [0.8, 1.01]),
    ),
    "no text": (
        "KEY_IMAGE_UNDECLARED",
        lambda ds: setattr(annotation(1)(ds).TextObjectSequence[0], "UnformattedTextValue", ""),
    ),
    "unmarked": ("MARKING_MISSING", unmarked),
    "nothing drawn": ("KEY_IMAGE_PIXELS", lambda ds: delattr(annotation(1)(ds), "GraphicObjectSequence")),
    "elsewhere": ("FRAME_REFERENCE_WRONG", elsewhere),
    "of nobody's image": ("FRAME_REFERENCE_WRONG", foreign),
    "another series": (
        "SERIES_REFERENCE_MISSING",
        lambda ds: setattr(ds.ReferencedSeriesSequence[0], "SeriesInstanceUID", "1.2.3"),
    ),
    "half of the image": (
        "GRID_MISMATCH",
        lambda ds: setattr(ds.DisplayedAreaSelectionSequence[0], "DisplayedAreaBottomRightHandCorner", [20, 32]),
    ),
    "stretched": (
        "GRID_MISMATCH",
        lambda ds: setattr(ds.DisplayedAreaSelectionSequence[0], "PresentationPixelSpacing", [1, 1]),
    ),
    "beyond the image": ("GRID_MISMATCH", beyond),
    "not closed": ("GRID_MISMATCH", open_figure),
    "other units": ("RESCALE_DIFFERS", lambda ds: setattr(ds, "RescaleIntercept", "0")),
    "no units": ("RESCALE_DIFFERS", lambda ds: delattr(ds, "RescaleSlope")),
    "empty window": ("RESCALE_DIFFERS", lambda ds: setattr(ds.SoftcopyVOILUTSequence[0], "WindowWidth", "0")),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_the_check_before_sending_knows_each_rule(damage: str) -> None:
    """Each rule, broken alone in a state that is right, stops it with the rule's own code."""
    code, break_it = DAMAGES[damage]
    sources = with_window(phantom.series(SHAPE, modality="CT"), RescaleSlope="1", RescaleIntercept="-1024")
    data = made(phantom.findings(phantom.ellipsoid(SHAPE)), sources)
    assert data is not None
    ds = check_presentation(data, sources)
    break_it(ds)
    with pytest.raises(OutputInvalid) as refused:
        check_presentation(saved(ds), sources)
    assert refused.value.code == code


def test_voxels_of_another_grid_are_refused() -> None:
    """The window would be another series'."""
    with pytest.raises(OutputInvalid) as refused:
        made(NOTHING, phantom.series(SHAPE), voxels=np.zeros((1, 2, 3), np.float32))
    assert refused.value.code == "GRID_MISMATCH"
