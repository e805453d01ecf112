"""Findings -> one Secondary Capture (PS3.3 A.8.1) per drawn segment: for viewers that show neither SEG nor SR.

A fallback beside them, never in their place: it holds no number that the SR does not hold. It has no Frame of Reference
and no position, for it is a picture of a slice and no slice. Modality OT: it shows an MR or CT image, but is none, and
what is OT never becomes a model's input when the PACS sends it back (`assembly.RESULT_MODALITIES`).

The marking is burnt in in English, whatever the site's language (why: `key_picture`), and stands in the site's language
in Series Description, Derivation Description and Image Comments.

The address at which a reader decides on the result, where the site has one, is burnt in as far as it can be read, and
always stands at the end of Image Comments.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

import numpy as np
from numpy.typing import NDArray
from pydicom.dataset import Dataset
from pydicom.uid import SecondaryCaptureImageStorage

from dicom_bridge.composite import (
    code_item,
    common_modules,
    frame_number,
    lossy_history,
    part10,
    reference_item,
    source_head,
)
from dicom_bridge.contour import key_outline
from dicom_bridge.groups import worded
from dicom_bridge.key_image_validity import check_key_image
from dicom_bridge.key_picture import Picture, draw, readable
from dicom_bridge.result_context import (
    MARKING,
    SC_SERIES_NUMBER,
    Algorithm,
    ResultContext,
    link,
    series_description,
)
from dicom_bridge.segmentation import DrawnSegment, drawn_segments, grid_shape
from dicom_bridge.validity import OutputInvalid
from inference.types import Findings
from models.codes import Code
from models.manifest import Manifest
from models.ref import ModelRef

KIND = "SC"
_SOURCE_IMAGE = Code("121322", "DCM", "Source image for image processing operation")
_DERIVED_BY = "Key slice of an AI result, enlarged, with the outline and text burnt in. "
_WINDOW_MIN = 1.0  # PS3.3 C.11.2.1.2: a window's width is at least 1


def write_key_images(
    findings: Findings,
    manifest: Manifest,
    ref: ModelRef,
    sources: Sequence[Dataset],
    voxels: NDArray[np.float32],
    context: ResultContext,
) -> Iterator[tuple[int, bytes]]:
    """Number of the manifest's segment and its picture as a Part 10 file, already through our own validity check.

    `sources` as for `make_seg`; `voxels` (K, R, C): the same slices in the modality's own unit. One at a time: each
    has some 3 MB. A segment without a pixel has none. Raises OutputInvalid, CharsetRefused.
    """
    if voxels.shape != grid_shape(sources):
        raise OutputInvalid("GRID_MISMATCH", "the voxels are not those of the source's slices")
    algorithm = Algorithm.of(manifest, ref)
    marking = MARKING[context.site_language]
    for segment in drawn_segments(findings, manifest, voxels.shape):
        numbers = worded(segment, findings, manifest)
        # The slice that the SR's contour lies on, too.
        k = key_outline(segment.found.part, segment.found.origin).slice_index
        title = manifest.title[context.text_language]
        comments = f"{marking} {title}: {segment.spec.label}. {'; '.join(numbers)}{link(context)}"
        picture = picture_of(segment, k, numbers, algorithm, sources, voxels, context.decide_at)
        ds = captured(draw(picture), k, segment.number, manifest, algorithm, sources, context)
        ds.DerivationDescription = _DERIVED_BY + marking
        ds.ImageComments = comments
        data = part10(ds, SecondaryCaptureImageStorage, context.uid(KIND, *uid_parts(segment.spec.number)))
        check_key_image(data, sources)
        yield segment.spec.number, data


def captured(
    canvas: NDArray[np.uint8],
    k: int,
    number: int,
    manifest: Manifest,
    algorithm: Algorithm,
    sources: Sequence[Dataset],
    context: ResultContext,
) -> Dataset:
    """The object around a picture (H, W, 3) of slice k, `number` in its series; the caller says what it shows."""
    head = source_head(sources)
    ds = common_modules(head, context, algorithm)
    ds.Modality = "OT"
    ds.ConversionType = "WSD"
    ds.SeriesInstanceUID = context.uid("SC-SERIES")
    ds.SeriesNumber = SC_SERIES_NUMBER
    ds.SeriesDescription = series_description(context, algorithm.name, KIND)
    ds.InstanceNumber = number
    # Never empty, or a laterality would be wanted (PS3.3 C.7.3.1.1.2); what the model was made for, it was given.
    ds.BodyPartExamined = str(head.get("BodyPartExamined", "") or "") or manifest.input.body_part[0]
    ds.SourceImageSequence = [_source_item(sources[k])]
    _pixels(ds, canvas, sources)
    return ds


def uid_parts(segment: int) -> tuple[str, ...]:
    """What, after the call, the UID of segment `segment`'s picture is derived from."""
    return (str(segment),)


def picture_of(
    segment: DrawnSegment,
    k: int,
    numbers: Sequence[str],
    algorithm: Algorithm,
    sources: Sequence[Dataset],
    voxels: NDArray[np.float32],
    decide_at: str | None = None,
) -> Picture:
    """All that is drawn of a segment on slice k. Of the headers only pixel spacing and a CT's window are read.

    `decide_at`: the address at which a reader decides; it is left out where it would be too small to read.
    """
    return Picture(
        plane=voxels[k],
        mask=segment.found.plane(k),
        spacing=spacing_of(sources[k]),
        window=window_of(sources),
        colour_lab=segment.spec.colour_lab,
        # All words but the marking stand below: OHIF opens its cine player over what is at the top of a series of OT.
        above=[MARKING["en-US"]],
        below=[
            f"Finding: {_words(segment)}",
            *numbers,
            f"Model {algorithm.name} {algorithm.version}",
            f"Slice {k + 1} of {len(sources)}, outline by AI",
            *link_lines(decide_at),
        ],
    )


def link_lines(decide_at: str | None) -> list[str]:
    """The address at which a reader decides as a line, where there is one that can be read."""
    return [] if decide_at is None or not readable(decide_at) else [decide_at]


def _pixels(ds: Dataset, canvas: NDArray[np.uint8], sources: Sequence[Dataset]) -> None:
    """General Image and Image Pixel modules."""
    ds.ImageType = ["DERIVED", "SECONDARY", "OTHER"]
    ds.PatientOrientation = None
    ds.BurnedInAnnotation = "YES"
    ds.Rows, ds.Columns, ds.SamplesPerPixel = canvas.shape
    ds.PhotometricInterpretation = "RGB"
    ds.PlanarConfiguration = 0
    ds.BitsAllocated = ds.BitsStored = 8
    ds.HighBit, ds.PixelRepresentation = 7, 0
    lossy_history(ds, sources)
    data = canvas.tobytes()
    ds.PixelData = data + b"\x00" * (len(data) % 2)
    ds["PixelData"].VR = "OB"


def _source_item(source: Dataset) -> Dataset:
    """The slice, or the frame, that is shown (PS3.3 C.7.6.1.1.4)."""
    item = reference_item(str(source.SOPClassUID), str(source.SOPInstanceUID))
    if (number := frame_number(source)) is not None:
        item.ReferencedFrameNumber = number
    item.PurposeOfReferenceCodeSequence = [code_item(_SOURCE_IMAGE)]
    return item


def _words(segment: DrawnSegment) -> str:
    """What was found, in letters that the font has: the label, the concept's meaning, or at least its number."""
    named = (segment.spec.label, segment.spec.type.meaning)
    return next((text for text in named if text.isascii()), f"segment {segment.spec.number}")


def spacing_of(source: Dataset) -> tuple[float, float]:
    """Between rows and between columns: mm in the patient, or a radiograph's at its detector, or of pixels alike."""
    said = (source.get(keyword) for keyword in ("PixelSpacing", "ImagerPixelSpacing"))
    rows, columns = (float(v) for v in next((one for one in said if one), (1.0, 1.0)))
    if not (0 < rows < math.inf and 0 < columns < math.inf):
        raise OutputInvalid("GRID_MISMATCH", "the source's pixels have no size")
    return rows, columns


def window_of(sources: Sequence[Dataset]) -> tuple[float, float] | None:
    """Lowest and highest value of a CT series' own window; None elsewhere: others' units are arbitrary."""
    if sources[0].get("Modality") != "CT":
        return None
    try:
        centre, width = (_first(sources[0].get(keyword)) for keyword in ("WindowCenter", "WindowWidth"))
    except (TypeError, ValueError):
        return None
    if not (math.isfinite(centre) and _WINDOW_MIN <= width < math.inf):
        return None
    return centre - width / 2, centre + width / 2


def _first(value: object) -> float:
    """The first of one or several windows. Raises TypeError, ValueError where there is none."""
    several = isinstance(value, Sequence) and not isinstance(value, str)
    return float(str(value[0] if several and value else value))  # type: ignore[index]
