"""Key images: the outline lies where the mask's is, nobody is named in the pixels, and only valid ones leave."""

from __future__ import annotations

import io
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from pydicom import dcmread
from pydicom.dataset import Dataset
from pydicom.uid import SecondaryCaptureImageStorage, SegmentationStorage

from audit.checkpoint import Checkpoint
from audit.note import Signer
from dicom_bridge import key_picture, receipt
from dicom_bridge.assembly import RESULT_MODALITIES
from dicom_bridge.charset import person_name
from dicom_bridge.contour import key_outline
from dicom_bridge.key_image_validity import check_key_image
from dicom_bridge.key_picture import MARKING_INK, SIDE_PX, Picture, draw, outline_colour, placed, rgb
from dicom_bridge.keyimage import picture_of, write_key_images
from dicom_bridge.offers import STORAGE_CLASSES
from dicom_bridge.receipt import Receipt
from dicom_bridge.result_context import DECIDE_AT, Algorithm
from dicom_bridge.segmentation import DrawnSegment, drawn_segments
from dicom_bridge.store_scu import send
from dicom_bridge.validity import OutputInvalid
from inference.types import Measurement
from tests.simulators import findings as phantom
from tests.simulators import validators
from tests.simulators.pacs import FakePacs
from tests.simulators.written import write_seg

SHAPE = (12, 32, 40)
RED = [34886, 53484, 50172]
GREY = (40000, 32896, 32896)


def voxels(shape: tuple[int, int, int] = SHAPE) -> NDArray[np.float32]:
    """A slope with noise: nothing is symmetrical, nothing is flat."""
    k, r, c = np.indices(shape)
    return (100.0 * k + 3.0 * r + c + np.random.default_rng(7).normal(0, 2, shape)).astype(np.float32)


def made(
    *masks: NDArray[np.bool_],
    sources: list[Dataset] | None = None,
    language: str = "en-US",
    charset: str = "ISO_IR 192",
    **changes: object,
) -> list[bytes]:
    """The key images of these masks on `sources`."""
    sources = phantom.series(SHAPE) if sources is None else sources
    context = phantom.context(language, charset, **changes)
    pictures = write_key_images(
        phantom.findings(*masks), phantom.manifest(lesions=True), phantom.REF, sources, voxels(), context
    )
    return [data for _, data in pictures]


def one(data: bytes) -> Dataset:
    """Read back."""
    return dcmread(io.BytesIO(data))


def saved(ds: Dataset) -> bytes:
    """The bytes of a data set that a test damaged."""
    buffer = io.BytesIO()
    ds.save_as(buffer)
    return buffer.getvalue()


def picture(mask: NDArray[np.bool_], **changes: object) -> Picture:
    """A picture of one slice of `voxels`."""
    fields: dict[str, object] = {
        "plane": voxels()[3],
        "mask": mask,
        "spacing": (1.25, 1.0),
        "window": None,
        "colour_lab": tuple(RED),
        "above": ["Not for diagnosis", "Finding: Brain"],
        "below": ["Model test 1"],
    }
    return Picture(**(fields | changes))  # type: ignore[arg-type]


@pytest.mark.parametrize("modality", ["MR", "CT"])
@pytest.mark.parametrize("source_charset", ["GB18030", "ISO_IR 192"])
@pytest.mark.parametrize("charset", ["GB18030", "ISO_IR 192"])
@pytest.mark.parametrize("language", ["zh-CN", "en-US"])
def test_the_judge_finds_no_error_and_the_name_is_readable(
    modality, source_charset, charset, language, tmp_path: Path
) -> None:
    """dciodvfy has neither error nor warning for MR and CT, and the Chinese name survives every character set."""
    sources = phantom.series(SHAPE, charset=source_charset, modality=modality)
    for data in made(
        phantom.ellipsoid(SHAPE),
        phantom.ellipsoid(SHAPE, size=0.15),
        sources=sources,
        language=language,
        charset=charset,
    ):
        path = tmp_path / "sc.dcm"
        path.write_bytes(data)
        assert validators.dciodvfy(path) == []
        assert validators.dciodvfy_warnings(path) == []
        assert person_name(dcmread(path)).rstrip("=") == phantom.NAME_ZH


def test_the_header_says_what_it_is_and_what_it_shows() -> None:
    """Marking in the site's language, series number, research, captured, burnt in, and the one slice that is shown."""
    sources, mask = phantom.series(SHAPE), phantom.ellipsoid(SHAPE)
    ds = one(made(mask, sources=sources, language="zh-CN")[0])
    assert (ds.SOPClassUID, ds.Modality, ds.ConversionType) == ("1.2.840.10008.5.1.4.1.1.7", "OT", "WSD")
    assert (ds.SeriesDescription, ds.SeriesNumber) == ("AI test-brain SC - 非诊断用", 9005)
    assert (ds.ContentQualification, ds.BurnedInAnnotation, ds.BodyPartExamined) == ("RESEARCH", "YES", "HEAD")
    assert list(ds.ImageType[:2]) == ["DERIVED", "SECONDARY"]
    assert "不得直接用于诊断" in ds.DerivationDescription
    assert "测试脑体积: Brain. Volume: " in "".join(ds.ImageComments)
    (source,) = ds.SourceImageSequence
    key = int(mask.sum(axis=(1, 2)).argmax())
    assert source.ReferencedSOPInstanceUID == sources[key].SOPInstanceUID
    assert source.PurposeOfReferenceCodeSequence[0].CodeValue == "121322"
    assert ds.SOPInstanceUID == phantom.context().uid("SC", "1")
    assert ds.SeriesInstanceUID != sources[0].SeriesInstanceUID
    assert "FrameOfReferenceUID" not in ds


@pytest.mark.parametrize("language", ["zh-CN", "en-US"])
def test_the_link_is_burnt_in_and_described(language: str, tmp_path: Path) -> None:
    """One line more below the slice, away from the corners, and the address at the end of the comments; valid."""
    link, mask = "https://ai.example/decide/" + "5a" * 16, phantom.ellipsoid(SHAPE)
    (data,), (plain,) = made(mask, language=language, decide_at=link), made(mask, language=language)
    ds, before = one(data), one(plain)
    assert "".join(ds.ImageComments).endswith(f". {DECIDE_AT[language]}: {link}")
    assert "decide" not in "".join(before.ImageComments)
    line = ds.Rows - before.Rows
    assert line == key_picture.LINE_PX
    canvas, bare = ds.pixel_array, before.pixel_array
    assert (canvas[: before.Rows - line] == bare[: before.Rows - line]).all()
    assert canvas[-line - 8 :].any()
    path = tmp_path / "sc.dcm"
    path.write_bytes(data)
    assert validators.dciodvfy(path) == []
    assert validators.dciodvfy_warnings(path) == []


@pytest.mark.parametrize("host", range(10, 90, 8))
def test_a_link_of_any_length_leaves_the_corners_free(host: int) -> None:
    """Written in full size, smaller, or not at all: the check of our own finds nothing where viewers write."""
    link = f"https://{'m' * host}.example/decide/" + "5a" * 16
    ds = one(made(phantom.ellipsoid(SHAPE), decide_at=link)[0])
    corner, lines = round(ds.Columns * 0.15), key_picture.LINE_PX
    for band in (ds.pixel_array[:lines], ds.pixel_array[-lines:]):
        assert not band[:, :corner].any()
        assert not band[:, -corner:].any()


def test_a_link_too_long_to_be_read_is_described_alone() -> None:
    """An address that would be written smaller than can be read letter by letter is left to the comments."""
    link, mask = "https://" + "long." * 40 + "example/decide/" + "5a" * 16, phantom.ellipsoid(SHAPE)
    ds = one(made(mask, decide_at=link)[0])
    assert ds.pixel_array.shape == one(made(mask)[0]).pixel_array.shape
    assert "".join(ds.ImageComments).endswith(link)
    fits = "https://ai.example/" + "x" * 40
    assert key_picture.readable(fits)
    assert not key_picture.readable(fits * 3)


def test_a_frame_of_a_multi_frame_image_is_named_by_its_number() -> None:
    """Where slices are frames of one instance, the picture says which frame it shows."""
    sources, mask = phantom.series(SHAPE), phantom.ellipsoid(SHAPE)
    for k, ds in enumerate(sources):
        ds.SOPInstanceUID = sources[0].SOPInstanceUID
        ds.ReferencedFrameNumber = k + 1
    (source,) = one(made(mask, sources=sources)[0]).SourceImageSequence
    assert source.ReferencedFrameNumber == int(mask.sum(axis=(1, 2)).argmax()) + 1


def test_a_series_without_body_part_gets_the_models() -> None:
    """Never empty, or a laterality would be wanted."""
    sources = phantom.series(SHAPE)
    for ds in sources:
        del ds.BodyPartExamined
    assert one(made(phantom.ellipsoid(SHAPE), sources=sources)[0]).BodyPartExamined == "HEAD"


def test_every_drawn_segment_has_its_picture_and_no_other() -> None:
    """Two segments: two objects of one series; a segment without a pixel has none, and numbers are the manifest's."""
    brain, bleed = phantom.ellipsoid(SHAPE), phantom.ellipsoid(SHAPE, size=0.15)
    both = [one(data) for data in made(brain, bleed)]
    assert [ds.SOPInstanceUID for ds in both] == [phantom.context().uid("SC", n) for n in ("1", "2")]
    assert len({ds.SeriesInstanceUID for ds in both}) == 1
    assert [ds.InstanceNumber for ds in both] == [1, 2]
    (alone,) = made(np.zeros_like(brain), bleed)
    assert one(alone).SOPInstanceUID == phantom.context().uid("SC", "2")


def test_same_findings_same_bytes() -> None:
    """A retry is the same file to the last byte; another call is another object."""
    mask = phantom.ellipsoid(SHAPE)
    assert made(mask) == made(mask)
    other = one(made(mask, call="f" * 32)[0])
    first = one(made(mask)[0])
    assert (other.SOPInstanceUID, other.SeriesInstanceUID) != (first.SOPInstanceUID, first.SeriesInstanceUID)
    assert other.PixelData == first.PixelData


def test_the_receipt_travels_in_it() -> None:
    """As SEG and SR do, the picture says where its call stands in the log."""
    log = Signer.generate("test-site.zhiying/audit")
    given = Receipt(7, Checkpoint.sign(log, log.name, 8, bytes(32)).note)
    (data,) = made(phantom.ellipsoid(SHAPE), receipt=given)
    assert receipt.read(receipt.read_bytes(data), log.verifier)[0] == given


def told(segment: DrawnSegment, sources: list[Dataset]) -> Picture:
    """What is drawn of a segment."""
    algorithm = Algorithm.of(phantom.manifest(), phantom.REF)
    k = key_outline(segment.found.part, segment.found.origin).slice_index
    return picture_of(segment, k, ["Volume: 1.0 cm3"], algorithm, sources, voxels())


def test_nothing_of_the_patient_is_in_the_pixels() -> None:
    """Another patient, with the same voxels, has the same pixels; and no value of the header is among the lines."""
    sources, others = phantom.series(SHAPE), phantom.series(SHAPE, name="TEST^Other=别人^测试", study="other")
    for ds in others:
        ds.PatientID, ds.PatientBirthDate, ds.PatientSex, ds.AccessionNumber = "TEST-0777", "20010203", "M", "TESTACC9"
        ds.StudyDate, ds.StudyTime, ds.StudyID = "20260102", "030405", "99"
    mask = phantom.ellipsoid(SHAPE)
    (first,), (second,) = made(mask, sources=sources), made(mask, sources=others)
    assert one(first).PixelData == one(second).PixelData
    (segment,) = drawn_segments(phantom.findings(mask), phantom.manifest(), SHAPE)
    drawn = told(segment, sources)
    lines = " ".join([*drawn.above, *drawn.below])
    for keyword in ("PatientName", "PatientID", "PatientBirthDate", "AccessionNumber", "StudyDate", "StudyInstanceUID"):
        assert str(sources[0].get(keyword)) not in lines
    assert list(drawn.above) == ["AI output. Not for diagnosis. Requires review by a physician."]
    assert list(drawn.below) == [
        "Finding: Brain",
        "Volume: 1.0 cm3",
        "Model test-brain 1.2.0+abababababab",
        "Slice 6 of 12, outline by AI",
    ]


def test_text_that_the_font_cannot_write_is_not_burnt_in() -> None:
    """A Chinese label: the concept's meaning stands for it, and boxes for nothing."""
    (segment,) = drawn_segments(phantom.findings(phantom.ellipsoid(SHAPE)), phantom.manifest(), SHAPE)
    label = replace(segment.spec, label="脑")
    both = replace(label, type=replace(label.type, meaning="脑"))
    for spec, expected in ((label, "Finding: Brain"), (both, "Finding: segment 1")):
        drawn = told(replace(segment, spec=spec), phantom.series(SHAPE))
        assert drawn.below[0] == expected
        assert all(line.isascii() for line in (*drawn.above, *drawn.below))


# ---- the pixels ----------------------------------------------------------------------------------------------------


def coloured(canvas: NDArray[np.uint8], colour: tuple[int, int, int]) -> NDArray[np.bool_]:
    """Where the canvas has exactly this colour."""
    return np.asarray((canvas == np.array(colour, dtype=np.uint8)).all(axis=2))


def enlarged(drawn: Picture) -> NDArray[np.bool_]:
    """The mask on the canvas's own grid, by arithmetic alone: pixel centres, nearest source pixel."""
    at = placed(drawn)
    rows, columns = drawn.mask.shape
    r = np.floor((np.arange(at.height) + 0.5) * rows / at.height).astype(int)
    c = np.floor((np.arange(at.width) + 0.5) * columns / at.width).astype(int)
    whole = np.zeros(draw(drawn).shape[:2], dtype=np.bool_)
    whole[at.top : at.top + at.height, at.left : at.left + at.width] = drawn.mask[np.ix_(r, c)]
    return whole


def near(mask: NDArray[np.bool_], reach: int) -> NDArray[np.bool_]:
    """Pixels within `reach` of the mask, by brute force."""
    out = np.zeros_like(mask)
    for r, c in np.argwhere(mask):
        out[max(0, r - reach) : r + reach + 1, max(0, c - reach) : c + reach + 1] = True
    return out


@pytest.mark.parametrize("spacing", [(1.25, 1.0), (1.0, 1.0), (0.5, 2.0), (3.0, 1.0)])
def test_the_outline_lies_around_the_mask(spacing) -> None:
    """The colour is on exactly the pixels that are at most the line's width outside of the enlarged mask."""
    drawn = picture(phantom.ellipsoid(SHAPE, shift=0.08)[5], spacing=spacing)
    mask = enlarged(drawn)
    line = coloured(draw(drawn), rgb(drawn.colour_lab))
    assert np.array_equal(line, near(mask, key_picture.OUTLINE_PX) & ~mask)


def test_single_voxels_and_the_border_are_outlined() -> None:
    """A mask of one voxel, and one that fills the slice, both have a closed line."""
    single = np.zeros(SHAPE[1:], dtype=np.bool_)
    single[4, 37] = True
    for mask in (single, np.ones_like(single)):
        drawn = picture(mask)
        line = coloured(draw(drawn), rgb(drawn.colour_lab))
        assert np.array_equal(line, near(enlarged(drawn), 2) & ~enlarged(drawn))
        assert line.any()


def test_the_file_holds_the_drawn_outline() -> None:
    """From findings to bytes: the coloured pixels of the file are those around the key slice's mask."""
    mask = phantom.ellipsoid(SHAPE)
    ds = one(made(np.zeros_like(mask), mask)[0])
    key = int(mask.sum(axis=(1, 2)).argmax())
    canvas = ds.pixel_array
    rows, columns = np.nonzero(coloured(canvas, rgb((RED[0], RED[1], RED[2]))))
    drawn = picture(mask[key], above=[""], below=["", "", "", ""])
    around = np.argwhere(near(enlarged(drawn), 2))
    assert (rows.min(), columns.min()) == tuple(around.min(axis=0))
    assert (rows.max(), columns.max()) == tuple(around.max(axis=0))
    assert canvas.shape == draw(drawn).shape


def test_the_aspect_ratio_is_true() -> None:
    """A square of millimetres is a square of pixels, and the longer side is the one that is fixed."""
    at = placed(picture(np.ones(SHAPE[1:], dtype=np.bool_), spacing=(1.25, 1.0)))
    assert (at.height, at.width) == (SIDE_PX, SIDE_PX)
    at = placed(picture(np.ones(SHAPE[1:], dtype=np.bool_), spacing=(1.0, 4.0)))
    assert (at.height, at.width) == (round(SIDE_PX * 32 / 160), SIDE_PX)


def test_colours_are_those_of_the_segment() -> None:
    """CIELab of PS3.3 C.10.7.1.1 becomes sRGB; a grey one, which would not show, becomes the marking's colour."""
    assert rgb((65535, 32896, 32896)) == pytest.approx((255, 255, 255), abs=1)
    assert rgb((0, 32896, 32896)) == (0, 0, 0)
    red = rgb((RED[0], RED[1], RED[2]))
    assert red[0] > 180 > 60 > max(red[1:])
    assert outline_colour((RED[0], RED[1], RED[2])) == red
    assert outline_colour(GREY) == MARKING_INK


@pytest.mark.parametrize("lines", [["x" * 300], ["Not for diagnosis", "y" * 120]])
def test_text_stays_out_of_the_corners(lines) -> None:
    """However long a line is, it is written smaller and never near the corners, where viewers write."""
    canvas = draw(picture(np.ones(SHAPE[1:], dtype=np.bool_), above=lines, below=lines))
    side = round(canvas.shape[1] * 0.12)
    for band in (canvas[:40], canvas[-40:]):
        assert band.any()
        assert not band[:, :side].any()
        assert not band[:, -side:].any()


def test_the_window_is_robust_and_a_cts_own_is_used() -> None:
    """One bright voxel does not darken the slice; a CT's window decides what is black and white; MR ignores it."""
    mask = np.zeros(SHAPE[1:], dtype=np.bool_)
    mask[0, 0] = True
    plane = voxels()[3].copy()
    plane[20, 20] = 1e6
    assert draw(picture(mask, plane=plane)).mean() == pytest.approx(draw(picture(mask)).mean(), rel=0.05)
    flat = draw(picture(mask, plane=np.full(SHAPE[1:], 7.0, dtype=np.float32)))
    assert flat.shape == draw(picture(mask)).shape

    def windowed(modality: str, centre: object, width: object) -> bytes:
        sources = phantom.series(SHAPE, modality=modality)
        for ds in sources:
            ds.WindowCenter, ds.WindowWidth = centre, width
        return bytes(one(made(phantom.ellipsoid(SHAPE), sources=sources)[0]).PixelData)

    assert windowed("MR", 40, 80) == windowed("MR", 4000, 80)
    assert windowed("CT", 40, 80) != windowed("CT", 900, 80)
    assert windowed("CT", [40, 900], [80, 10]) == windowed("CT", 40, 80)
    for centre, width in (("", ""), (40, 0), (None, 80)):
        assert windowed("CT", centre, width) == windowed("MR", 40, 80)


# ---- what is refused -----------------------------------------------------------------------------------------------


def refusal(act: Callable[[], object]) -> str:
    """The code with which `act` is refused."""
    with pytest.raises(OutputInvalid) as refused:
        act()
    return refused.value.code


def test_findings_that_do_not_fit_are_refused_by_code() -> None:
    """Other voxels, unknown or endless numbers, slices without pixel size: refused."""
    mask, manifest, context = phantom.ellipsoid(SHAPE), phantom.manifest(), phantom.context()

    def write(found=None, sources=None, grid=SHAPE) -> object:
        found = phantom.findings(mask) if found is None else found
        used = phantom.series(SHAPE) if sources is None else sources
        return list(write_key_images(found, manifest, phantom.REF, used, voxels(grid), context))

    assert write()
    assert refusal(lambda: write(grid=(12, 32, 41))) == "GRID_MISMATCH"
    assert refusal(lambda: write(sources=[])) == "SOURCE_MISSING"
    assert refusal(lambda: write(phantom.findings(mask[:-1]))) == "GRID_MISMATCH"
    for wrong in (Measurement("other", 1.0), Measurement("brain_volume", float("nan"))):
        found = replace(phantom.findings(mask), measurements=(wrong,))
        assert refusal(lambda found=found: write(found)) == "MEASUREMENT_UNKNOWN"
    sizeless = phantom.series(SHAPE)
    for ds in sizeless:
        ds.PixelSpacing = [0, 1]
    assert refusal(lambda: write(sources=sizeless)) == "GRID_MISMATCH"


def painted(ds: Dataset, rows: slice, columns: slice, value: int) -> None:
    """Paint a part of the picture."""
    canvas = ds.pixel_array.copy()
    canvas[rows, columns] = value
    ds.PixelData = canvas.tobytes()


def greyed(ds: Dataset) -> None:
    """Take the outline's colour away."""
    canvas = ds.pixel_array.copy()
    canvas[36:] = canvas[36:].min(axis=2, keepdims=True)
    ds.PixelData = canvas.tobytes()


ALL = slice(None)
DAMAGES = {
    "no marking": ("MARKING_MISSING", lambda ds: setattr(ds, "SeriesDescription", "brain")),
    "no marking derived": ("MARKING_MISSING", lambda ds: setattr(ds, "DerivationDescription", "x")),
    "no marking comment": ("MARKING_MISSING", lambda ds: delattr(ds, "ImageComments")),
    "no marking burnt": ("MARKING_MISSING", lambda ds: painted(ds, slice(36), ALL, 0)),
    "corner top left": ("KEY_IMAGE_PIXELS", lambda ds: painted(ds, slice(5, 9), slice(5, 9), 200)),
    "corner top right": ("KEY_IMAGE_PIXELS", lambda ds: painted(ds, slice(5, 9), slice(-9, -5), 200)),
    "corner bottom left": ("KEY_IMAGE_PIXELS", lambda ds: painted(ds, slice(-9, -5), slice(5, 9), 200)),
    "corner bottom right": ("KEY_IMAGE_PIXELS", lambda ds: painted(ds, slice(-9, -5), slice(-9, -5), 200)),
    "no outline": ("KEY_IMAGE_PIXELS", greyed),
    "short": ("GRID_MISMATCH", lambda ds: setattr(ds, "PixelData", ds.PixelData[:-2])),
    "no source": ("DERIVATION_MISSING", lambda ds: delattr(ds, "SourceImageSequence")),
    "two sources": ("DERIVATION_MISSING", lambda ds: ds.SourceImageSequence.append(ds.SourceImageSequence[0])),
    "strange source": (
        "DERIVATION_MISSING",
        lambda ds: setattr(ds.SourceImageSequence[0], "ReferencedSOPInstanceUID", "2.25.1"),
    ),
    "strange frame": ("DERIVATION_MISSING", lambda ds: setattr(ds.SourceImageSequence[0], "ReferencedFrameNumber", 2)),
    "annotation": ("KEY_IMAGE_UNDECLARED", lambda ds: setattr(ds, "BurnedInAnnotation", "NO")),
    "modality": ("KEY_IMAGE_UNDECLARED", lambda ds: setattr(ds, "Modality", "MR")),
    "conversion": ("KEY_IMAGE_UNDECLARED", lambda ds: setattr(ds, "ConversionType", "DI")),
    "original": ("KEY_IMAGE_UNDECLARED", lambda ds: setattr(ds, "ImageType", ["ORIGINAL", "PRIMARY"])),
    "palette": ("KEY_IMAGE_UNDECLARED", lambda ds: setattr(ds, "PhotometricInterpretation", "YBR_FULL")),
    "body part": ("KEY_IMAGE_UNDECLARED", lambda ds: delattr(ds, "BodyPartExamined")),
    "frame of reference": ("KEY_IMAGE_UNDECLARED", lambda ds: setattr(ds, "FrameOfReferenceUID", "2.25.1")),
    "spacing": ("KEY_IMAGE_UNDECLARED", lambda ds: setattr(ds, "PixelSpacing", [1, 1])),
    "product": ("CONTENT_QUALIFICATION_MISSING", lambda ds: setattr(ds, "ContentQualification", "PRODUCT")),
    "other patient": ("IDENTITY_DIFFERS", lambda ds: setattr(ds, "PatientID", "TEST-0002")),
    "other study": ("IDENTITY_DIFFERS", lambda ds: setattr(ds, "StudyInstanceUID", "2.25.1")),
    "no equipment": ("ALGORITHM_IDENTITY_DIFFERS", lambda ds: delattr(ds, "ContributingEquipmentSequence")),
    "no pixels": ("NOT_READABLE", lambda ds: delattr(ds, "PixelData")),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_the_check_before_sending_refuses(damage) -> None:
    """Each rule of the last check, broken alone, stops the object with the rule's own code."""
    code, break_it = DAMAGES[damage]
    sources = phantom.series(SHAPE)
    ds = one(made(phantom.ellipsoid(SHAPE), sources=sources)[0])
    check_key_image(saved(ds), sources)
    break_it(ds)
    assert refusal(lambda: check_key_image(saved(ds), sources)) == code


def test_what_is_no_key_image_is_refused() -> None:
    """Garbage, half a file and another kind of object are refused, never a crash."""
    sources, mask = phantom.series(SHAPE), phantom.ellipsoid(SHAPE)
    (data,) = made(mask, sources=sources)
    seg = write_seg(phantom.findings(mask), phantom.manifest(), phantom.REF, sources, phantom.context())
    for wrong in (b"", b"garbage" * 100, data[: len(data) // 3], seg):
        assert refusal(lambda wrong=wrong: check_key_image(wrong, sources)) in ("NOT_READABLE", "GRID_MISMATCH")


def test_what_was_drawn_on_lossy_pixels_says_so() -> None:
    """Once lossy, always lossy (PS3.3 C.7.6.1.1.5)."""
    sources = phantom.series(SHAPE)
    sources[3].LossyImageCompression, sources[3].LossyImageCompressionRatio = "01", 12.5
    sources[3].LossyImageCompressionMethod = "ISO_10918_1"
    ds = one(made(phantom.ellipsoid(SHAPE), sources=sources)[0])
    assert (ds.LossyImageCompression, ds.LossyImageCompressionRatio) == ("01", 12.5)


# ---- to the PACS and back ------------------------------------------------------------------------------------------


def test_a_peer_without_secondary_capture_still_gets_the_seg(tmp_path: Path) -> None:
    """The class is proposed beside the others; where it is not taken, the others are stored and the reason is told."""
    sources, mask = phantom.series(SHAPE), phantom.ellipsoid(SHAPE)
    seg, sc = tmp_path / "seg.dcm", tmp_path / "sc.dcm"
    seg.write_bytes(write_seg(phantom.findings(mask), phantom.manifest(), phantom.REF, sources, phantom.context()))
    sc.write_bytes(made(mask, sources=sources)[0])
    with FakePacs(classes=[SegmentationStorage, SecondaryCaptureImageStorage]) as wide:
        result = send([seg, sc], wide.peer(), "ZHIYING")
        assert (result.statuses, result.error) == ((0, 0), None)
    with FakePacs(classes=[SegmentationStorage]) as narrow:
        result = send([seg, sc], narrow.peer(), "ZHIYING")
        assert (result.statuses, result.error) == ((0, None), "PEER_NO_CONTEXT")


def test_what_comes_back_is_a_result_and_makes_no_new_run() -> None:
    """The picture's modality is one of those that neither keep a study waiting nor become an input."""
    (data,) = made(phantom.ellipsoid(SHAPE))
    assert one(data).Modality in RESULT_MODALITIES
    assert str(SecondaryCaptureImageStorage) in STORAGE_CLASSES
