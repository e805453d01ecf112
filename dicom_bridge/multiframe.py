"""One enhanced multi-frame CT or MR instance -> slices that the gates judge like single images.

What a frame is and where it lies stands in the functional groups that all frames share or that are its own (PS3.3
C.7.6.16); the attributes of the same names at the top level are those of single-frame classes and do not count here.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, Final

from pydicom.dataset import Dataset
from pydicom.multival import MultiValue

from dicom_bridge import heads
from dicom_bridge.errors import VolumeRefused
from dicom_bridge.heads import UNREADABLE, Head
from dicom_bridge.slices import PixelFormat, Place, Slice, is_lossy, pixel_format, rescale, types_of
from dicom_bridge.split import Key, kind_of

MULTIFRAME_CLASSES: Final = frozenset(
    {
        "1.2.840.10008.5.1.4.1.1.2.1",  # Enhanced CT
        "1.2.840.10008.5.1.4.1.1.2.2",  # Legacy Converted Enhanced CT
        "1.2.840.10008.5.1.4.1.1.4.1",  # Enhanced MR
        "1.2.840.10008.5.1.4.1.1.4.4",  # Legacy Converted Enhanced MR
    }
)
FRAMES_MAX: Final = 65_536
"""Frames of one instance; the largest real ones, whole-body and dynamic, have some thousands."""

_FRAME_TYPES: Final = ("CTImageFrameTypeSequence", "MRImageFrameTypeSequence")


def read_frames(head: Head) -> tuple[Slice, ...]:
    """All frames of one instance, in the order of its pixel data. Raises VolumeRefused.

    MULTIFRAME_INVALID where the functional groups are not those of as many frames as there are.
    """
    form = pixel_format(head)
    if not 0 < form.frames <= FRAMES_MAX:
        raise VolumeRefused("MULTIFRAME_INVALID", "the number of frames is none that this service reads")
    try:
        header = head.full()
        shared = _items(header, "SharedFunctionalGroupsSequence")
        own = _items(header, "PerFrameFunctionalGroupsSequence")
        if len(shared) > 1 or len(own) != form.frames:
            raise VolumeRefused("MULTIFRAME_INVALID", "there are not as many functional groups as frames")
        common = _Groups(shared[0] if shared else Dataset())
        contrast = bool(_items(header, "ContrastBolusAgentSequence")) or bool(head.text(heads.CONTRAST_AGENT))
        return tuple(
            _frame(head, form, number, _Groups(item, common), contrast=contrast)
            for number, item in enumerate(own, start=1)
        )
    # Groups are parsed as they are asked for; what is wrong inside of them is raised only now.
    except UNREADABLE as error:
        raise VolumeRefused("MULTIFRAME_INVALID", f"functional groups ({type(error).__name__})") from error


class _Groups:
    """Functional groups of one frame: its own first, then those that all frames share."""

    def __init__(self, item: Dataset, common: _Groups | None = None) -> None:
        self._item = item
        self._common = common
        self._known: dict[str, Dataset | None] = {}

    def macro(self, sequence: str) -> Dataset | None:
        """The one item of a functional group, or None."""
        found = self._known.get(sequence)
        if found is None and sequence not in self._known:
            items = _items(self._item, sequence)
            found = self._known[sequence] = items[0] if items else None
        return self._common.macro(sequence) if found is None and self._common is not None else found

    def value(self, sequence: str, keyword: str) -> Any:
        """One attribute of a functional group, or None."""
        macro = self.macro(sequence)
        return None if macro is None else macro.get(keyword)

    def text(self, sequence: str, keyword: str) -> str:
        """The same as text, "" when absent."""
        value = self.value(sequence, keyword)
        if isinstance(value, MultiValue):
            return "\\".join(str(one) for one in value)
        return "" if value is None else str(value).strip()

    def numbers(self, sequence: str, keyword: str) -> tuple[float, ...]:
        """The same as numbers, () when absent; what is no number is NaN, so that the gates refuse it."""
        value = self.value(sequence, keyword)
        values = value if isinstance(value, (MultiValue, list)) else () if value is None else (value,)
        return tuple(_number(one) for one in values)


def _frame(head: Head, form: PixelFormat, number: int, groups: _Groups, *, contrast: bool) -> Slice:
    slope = groups.numbers("PixelValueTransformationSequence", "RescaleSlope")
    intercept = groups.numbers("PixelValueTransformationSequence", "RescaleIntercept")
    stated = [text for name in _FRAME_TYPES if (text := groups.text(name, "FrameType"))]
    image_type = types_of(stated[0] if stated else head.ascii(heads.IMAGE_TYPE))
    thickness = groups.numbers("PixelMeasuresSequence", "SliceThickness")
    return Slice(
        head=head,
        frame=number,
        place=Place(
            groups.numbers("PlanePositionSequence", "ImagePositionPatient"),
            groups.numbers("PlaneOrientationSequence", "ImageOrientationPatient"),
            groups.numbers("PixelMeasuresSequence", "PixelSpacing"),
        ),
        format=form,
        rescale=rescale(head, form, slope, intercept),
        image_type=image_type,
        keys=_keys(head, groups, image_type),
        kind=kind_of(head.ascii(heads.SOP_CLASS), image_type, head.text(heads.SERIES_DESCRIPTION)),
        contrast=contrast,
        lossy=is_lossy(head),
        body_part=_body_part(head, groups),
        thickness_mm=thickness[0] if thickness and math.isfinite(thickness[0]) else None,
        window=_window(groups),
    )


def _window(groups: _Groups) -> tuple[float, float] | None:
    """The first window of a frame, None where it has none that can be used; its function, if any, is linear."""
    if groups.text("FrameVOILUTSequence", "VOILUTFunction") not in ("", "LINEAR"):
        return None
    both = [groups.numbers("FrameVOILUTSequence", keyword)[:1] for keyword in ("WindowCenter", "WindowWidth")]
    found = tuple(value for one in both for value in one if math.isfinite(value))
    return (found[0], found[1]) if len(found) == 2 else None


# Anatomic regions as codes (PS3.16 annex L), SNOMED CT and its older notation: where a classic image has a word.
_REGIONS: Final[Mapping[str, str]] = {
    "69536005": "HEAD",
    "T-D1100": "HEAD",
    "12738006": "BRAIN",
    "T-A0100": "BRAIN",
    "774007": "HEADNECK",
    "T-D1000": "HEADNECK",
    "45048000": "NECK",
    "T-D1600": "NECK",
    "816094009": "CHEST",
    "51185008": "CHEST",
    "T-D3000": "CHEST",
    "818981001": "ABDOMEN",
    "113345001": "ABDOMEN",
    "T-D4000": "ABDOMEN",
    "12921003": "PELVIS",
    "T-D6000": "PELVIS",
}


def _body_part(head: Head, groups: _Groups) -> str:
    """Body Part Examined where it is said, as converted images do; else what the frame's anatomic region means."""
    stated = head.ascii(heads.BODY_PART) or groups.text(_UNASSIGNED[1], "BodyPartExamined")
    if stated:
        return stated.upper()
    region = groups.value("FrameAnatomySequence", "AnatomicRegionSequence")
    return _REGIONS.get(str(region[0].get("CodeValue", "")), "") if region else ""


_MACROS: Final[tuple[tuple[Key, str, str], ...]] = (
    (Key.STACK, "FrameContentSequence", "StackID"),
    (Key.TEMPORAL_POSITION_INDEX, "FrameContentSequence", "TemporalPositionIndex"),
    (Key.ACQUISITION_NUMBER, "FrameContentSequence", "FrameAcquisitionNumber"),
    (Key.TRIGGER_TIME, "CardiacSynchronizationSequence", "NominalCardiacTriggerDelayTime"),
    (Key.ECHO_TIME, "MREchoSequence", "EffectiveEchoTime"),
    (Key.B_VALUE, "MRDiffusionSequence", "DiffusionBValue"),
    (Key.CONTRAST_AGENT, "ContrastBolusUsageSequence", "ContrastBolusAgentNumber"),
    (Key.KERNEL, "CTReconstructionSequence", "ConvolutionKernel"),
    (Key.ACQUISITION_TIME, "FrameContentSequence", "FrameAcquisitionDateTime"),
)


# Converted images keep what had no place in a functional group under its old name (PS3.3 C.7.6.16.2.25).
_UNASSIGNED: Final = ("UnassignedPerFrameConvertedAttributesSequence", "UnassignedSharedConvertedAttributesSequence")
_CONVERTED: Final[Mapping[Key, str]] = {
    Key.ACQUISITION_NUMBER: "AcquisitionNumber",
    Key.TEMPORAL_POSITION: "TemporalPositionIdentifier",
    Key.TRIGGER_TIME: "TriggerTime",
    Key.ECHO_TIME: "EchoTime",
    Key.ECHO_NUMBER: "EchoNumbers",
    Key.B_VALUE: "DiffusionBValue",
    Key.CONTRAST_AGENT: "ContrastBolusAgent",
    Key.KERNEL: "ConvolutionKernel",
    Key.ACQUISITION_TIME: "AcquisitionTime",
}


def _keys(head: Head, groups: _Groups, image_type: tuple[str, ...]) -> Mapping[Key, str]:
    keys = {key: groups.text(sequence, keyword) for key, sequence, keyword in _MACROS}
    for key, keyword in _CONVERTED.items():
        for sequence in _UNASSIGNED:
            keys[key] = keys.get(key, "") or groups.text(sequence, keyword)
    # Several instances of one series: a phase each is common, and then it is the instance's own number that tells.
    keys[Key.ACQUISITION_NUMBER] = keys[Key.ACQUISITION_NUMBER] or head.ascii(heads.ACQUISITION_NUMBER)
    keys[Key.IMAGE_TYPE] = "\\".join(image_type[2:])
    return keys


def _items(ds: Dataset, keyword: str) -> list[Dataset]:
    value = ds.get(keyword)
    return list(value) if value else []


def _number(value: object) -> float:
    try:
        return float(str(value))
    except ValueError:
        return math.nan
