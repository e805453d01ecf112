"""One slice of a series, which is a whole instance or one frame of it: its place in space, its numbers, its source."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from pydicom.dataset import Dataset
from pydicom.valuerep import DSfloat

from dicom_bridge import heads
from dicom_bridge.errors import VolumeRefused
from dicom_bridge.heads import Head, read_head
from dicom_bridge.split import Key, Kind, kind_of
from dicom_bridge.transfer_syntaxes import ALWAYS_LOSSY, LOSSY_METHODS


@dataclass(frozen=True, slots=True)
class PixelFormat:
    """Image Pixel module (PS3.3 C.7.6.3); `rows`, `columns` in pixels, `allocated`, `stored`, `high_bit` in bits.

    `frames`: how many the instance holds.
    """

    rows: int
    columns: int
    samples: int
    photometric: str
    allocated: int
    stored: int
    high_bit: int
    signed: bool
    frames: int = 1


@dataclass(frozen=True, slots=True)
class Rescale:
    """Modality LUT as a line, and the stored values that mean "no pixel" (low, high), if any."""

    slope: float
    intercept: float
    padding: tuple[int, int] | None


@dataclass(frozen=True, slots=True)
class Place:
    """Where a slice lies: mm (LPS), direction cosines, mm between (rows, columns); () when absent."""

    position: tuple[float, ...]
    orientation: tuple[float, ...]
    spacing: tuple[float, ...]


@dataclass(frozen=True, slots=True, eq=False)
class Slice:
    """One image. `frame` is the number (from 1) of a multi-frame instance's frame, None of a single-frame instance.

    `patient` is compared, never shown: (Patient ID, birth date) as received. `keys`: what may tell its volume from
    others of its series. `body_part` upper case, "" when not stated. `thickness_mm` of a frame as stated,
    and its `window` (centre, width).
    """

    head: Head
    frame: int | None
    place: Place
    format: PixelFormat
    rescale: Rescale
    image_type: tuple[str, ...]
    keys: Mapping[Key, str]
    kind: Kind
    contrast: bool
    lossy: bool
    body_part: str
    thickness_mm: float | None = None
    window: tuple[float, float] | None = None

    @property
    def sop_uid(self) -> str:
        """SOP Instance UID."""
        return self.head.ascii(heads.SOP_INSTANCE)

    @property
    def study_uid(self) -> str:
        """Study Instance UID."""
        return self.head.ascii(heads.STUDY)

    @property
    def series_uid(self) -> str:
        """Series Instance UID."""
        return self.head.ascii(heads.SERIES)

    @property
    def modality(self) -> str:
        """Modality, as received."""
        return self.head.ascii(heads.MODALITY)

    @property
    def patient(self) -> tuple[bytes, bytes]:
        """Patient ID and birth date, to be compared."""
        values = self.head.values
        return values.get(heads.PATIENT_ID, b"").strip(b" \0"), values.get(heads.BIRTH_DATE, b"").strip(b" \0")

    @property
    def frame_of_reference(self) -> str:
        """Frame of Reference UID."""
        return self.head.ascii(heads.FRAME_OF_REFERENCE)

    @property
    def position(self) -> tuple[float, ...]:
        """See `Place`."""
        return self.place.position

    @property
    def orientation(self) -> tuple[float, ...]:
        """See `Place`."""
        return self.place.orientation

    @property
    def spacing(self) -> tuple[float, ...]:
        """See `Place`."""
        return self.place.spacing

    @property
    def shape(self) -> tuple[int, int]:
        """(rows, columns)."""
        return self.format.rows, self.format.columns

    def header(self, *, whole: bool) -> Dataset:
        """What a result may say of this slice: all of the header, or what is named of each slice (quick to make).

        A frame is described as if it were an image of its own, with its Referenced Frame Number (0008,1160).
        Raises VolumeRefused NOT_AN_IMAGE.
        """
        ds = self.head.full() if whole else self.head.light()
        if self.frame is not None:
            for tag in (heads.SHARED_GROUPS, heads.FRAME_GROUPS):
                if tag in ds:
                    del ds[tag]
            ds.ReferencedFrameNumber = self.frame
            ds.ImagePositionPatient = list(self.place.position)
            ds.ImageOrientationPatient = list(self.place.orientation)
            ds.PixelSpacing = list(self.place.spacing)
            if whole and self.body_part:
                ds.BodyPartExamined = self.body_part
            if self.thickness_mm is not None:
                ds.SliceThickness = self.thickness_mm
            self._say_values(ds)
        if self.lossy and ds.get("LossyImageCompression") != "01":
            ds.LossyImageCompression = "01"
            ds.LossyImageCompressionMethod = LOSSY_METHODS.get(self.head.transfer_syntax, "")
            ds.LossyImageCompressionRatio = self._ratio()
        return ds

    def _say_values(self, ds: Dataset) -> None:
        """What a frame's stored values mean and how they are shown; the top level says it of single images only."""
        ds.RescaleSlope = DSfloat(self.rescale.slope, auto_format=True)
        ds.RescaleIntercept = DSfloat(self.rescale.intercept, auto_format=True)
        for keyword in ("WindowCenter", "WindowWidth", "VOILUTFunction"):
            if keyword in ds:
                delattr(ds, keyword)
        if self.window is not None:
            ds.WindowCenter, ds.WindowWidth = (DSfloat(value, auto_format=True) for value in self.window)

    def _ratio(self) -> float:
        form, (_, length) = self.format, self.head.pixels or (0, 0)
        whole = form.frames * form.rows * form.columns * form.allocated // 8
        return max(1.0, round(whole / max(length, 1), 2))


_OF_TAGS: Final = (
    (Key.ACQUISITION_NUMBER, heads.ACQUISITION_NUMBER),
    (Key.TEMPORAL_POSITION, heads.TEMPORAL_POSITION),
    (Key.TRIGGER_TIME, heads.TRIGGER_TIME),
    (Key.ECHO_TIME, heads.ECHO_TIME),
    (Key.ECHO_NUMBER, heads.ECHO_NUMBER),
    (Key.ACQUISITION_TIME, heads.ACQUISITION_TIME),
)


def read_single(head: Head) -> Slice:
    """The slice of a single-frame instance with pixels. Raises VolumeRefused."""
    form = pixel_format(head)
    image_type = types_of(head.ascii(heads.IMAGE_TYPE))
    b_value = head.double(heads.B_VALUE)
    agent = head.text(heads.CONTRAST_AGENT) or ("unreadable" if head.ascii(heads.CONTRAST_AGENT) else "")
    keys = {key: head.ascii(tag) for key, tag in _OF_TAGS}
    keys |= {
        Key.B_VALUE: "" if b_value is None else f"{b_value:g}",
        Key.CONTRAST_AGENT: agent,
        Key.IMAGE_TYPE: "\\".join(image_type[2:]),
        Key.KERNEL: head.ascii(heads.KERNEL),
    }
    if head.has(heads.MODALITY_LUT):
        raise VolumeRefused("RESCALE_MISSING", "a modality lookup table stands in place of slope and intercept")
    return Slice(
        head=head,
        frame=None,
        place=Place(head.decimals(heads.POSITION), head.decimals(heads.ORIENTATION), head.decimals(heads.SPACING)),
        format=form,
        rescale=rescale(head, form, head.decimals(heads.SLOPE), head.decimals(heads.INTERCEPT)),
        image_type=image_type,
        keys=keys,
        kind=kind_of(head.ascii(heads.SOP_CLASS), image_type, head.text(heads.SERIES_DESCRIPTION)),
        contrast=bool(agent),
        lossy=is_lossy(head),
        body_part=head.ascii(heads.BODY_PART).upper(),
    )


def open_head(path: Path, assumed: str | None = None) -> Head:
    """`heads.read_head` of a file that must be an image. Raises VolumeRefused NOT_AN_IMAGE; OSError."""
    head = read_head(path, assumed)
    if head.pixels is None:
        raise VolumeRefused("NOT_AN_IMAGE", "an instance has no pixel data")
    return head


def pixel_format(head: Head) -> PixelFormat:
    """The Image Pixel module. Raises VolumeRefused NOT_GRAYSCALE; PIXELS_UNDECODABLE where it contradicts itself."""
    frames = head.ascii(heads.FRAMES)
    form = PixelFormat(
        rows=head.integer(heads.ROWS),
        columns=head.integer(heads.COLUMNS),
        samples=head.integer(heads.SAMPLES),
        photometric=head.ascii(heads.PHOTOMETRIC),
        allocated=head.integer(heads.BITS_ALLOCATED),
        stored=head.integer(heads.BITS_STORED),
        high_bit=head.integer(heads.HIGH_BIT),
        signed=head.integer(heads.REPRESENTATION) == 1,
        frames=int(frames) if frames.isascii() and frames.isdecimal() and len(frames) <= 12 else 1,
    )
    if form.samples != 1 or form.photometric not in ("MONOCHROME1", "MONOCHROME2"):
        raise VolumeRefused("NOT_GRAYSCALE", "pixels are not monochrome")
    if not 0 < form.stored <= form.allocated or form.high_bit != form.stored - 1:
        raise VolumeRefused("PIXELS_UNDECODABLE", "bits allocated, bits stored and high bit contradict each other")
    return form


def is_lossy(head: Head) -> bool:
    """Whether pixels have lost something: the image says so (0028,2110), or its syntax may lose and it says nothing."""
    stated = head.ascii(heads.LOSSY)
    syntax = head.transfer_syntax
    return stated == "01" or syntax in ALWAYS_LOSSY or (stated != "00" and syntax in LOSSY_METHODS)


def rescale(head: Head, form: PixelFormat, slope: tuple[float, ...], intercept: tuple[float, ...]) -> Rescale:
    """Stored values to the modality's unit (PS3.3 C.11.1), () where the header does not say. Raises VolumeRefused."""
    if head.ascii(heads.MODALITY) == "CT" and not (slope and intercept):
        raise VolumeRefused("RESCALE_MISSING", "CT without rescale slope and intercept has no Hounsfield units")
    line = (slope or (1.0,)) + (intercept or (0.0,))
    if len(line) != 2 or not all(math.isfinite(number) for number in line) or line[0] == 0.0:
        raise VolumeRefused("RESCALE_MISSING", "rescale slope or intercept is no usable number")
    padding = None
    if len(head.values.get(heads.PADDING, b"")) == 2:
        edges = [head.integer(heads.PADDING, signed=form.signed)]
        if len(head.values.get(heads.PADDING_LIMIT, b"")) == 2:
            edges.append(head.integer(heads.PADDING_LIMIT, signed=form.signed))
        padding = (min(edges), max(edges))
    return Rescale(line[0], line[1], padding)


def types_of(text: str) -> tuple[str, ...]:
    """Values of Image Type or Frame Type, upper case, empty ones left out."""
    return tuple(part.strip().upper() for part in text.split("\\") if part.strip())
