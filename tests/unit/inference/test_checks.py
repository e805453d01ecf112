"""One step inside and one step outside each limit, of what goes in and of what comes out."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import numpy.typing as npt
import pytest

from inference import checks
from inference.errors import InputUnfit, OutputImplausible
from inference.types import Classification, Detection, Findings, Measurement, SegmentMask, Volume
from models.codes import Range
from models.manifest import Manifest
from tests.simulators import findings as phantom
from tests.simulators import tiny_model, volumes

MANIFEST = tiny_model.manifest()
BEST = (8, 10, 12)


def _code(volume: Volume, manifest: Manifest = MANIFEST) -> str | None:
    try:
        checks.fit(volume, manifest)
    except InputUnfit as unfit:
        return unfit.code
    return None


@pytest.mark.parametrize(
    ("shape", "spacing_mm", "code"),
    [
        (BEST, (1.0, 1.0, 1.0), None),
        ((4, 10, 12), (1.0, 1.0, 1.0), None),
        ((3, 10, 12), (1.0, 1.0, 1.0), "TOO_FEW_SLICES"),
        ((40, 10, 12), (1.0, 1.0, 1.0), None),
        ((41, 10, 12), (1.0, 1.0, 1.0), "TOO_MANY_SLICES"),
        ((8, 10, 12), (0.5, 1.0, 1.0), None),
        ((8, 10, 12), (0.49, 1.0, 1.0), "SLICE_SPACING_OUT_OF_RANGE"),
        ((8, 10, 12), (4.0, 1.0, 1.0), None),
        ((8, 10, 12), (4.01, 1.0, 1.0), "SLICE_SPACING_OUT_OF_RANGE"),
        ((8, 10, 12), (1.0, 0.5, 0.5), None),
        ((8, 10, 12), (1.0, 0.49, 1.0), "PIXEL_SPACING_OUT_OF_RANGE"),
        ((8, 10, 12), (1.0, 1.0, 0.49), "PIXEL_SPACING_OUT_OF_RANGE"),
        ((8, 10, 12), (1.0, 2.0, 2.0), None),
        ((8, 10, 12), (1.0, 2.01, 1.0), "PIXEL_SPACING_OUT_OF_RANGE"),
        ((8, 10, 12), (1.0, 1.0, 2.01), "PIXEL_SPACING_OUT_OF_RANGE"),
        ((8, 4, 12), (1.0, 1.0, 1.0), None),
        ((8, 3, 12), (1.0, 1.0, 1.0), "FOV_OUT_OF_RANGE"),
        ((8, 10, 60), (1.0, 1.0, 1.0), None),
        ((8, 10, 61), (1.0, 1.0, 1.0), "FOV_OUT_OF_RANGE"),
        ((20, 10, 12), (3.01, 1.0, 1.0), "FOV_OUT_OF_RANGE"),
    ],
)
def test_grid_limits(shape: tuple[int, int, int], spacing_mm: tuple[float, float, float], code: str | None) -> None:
    """A volume on a limit fits; one step beyond is refused with that limit's code."""
    assert _code(volumes.block(shape, volumes.axial(spacing_mm))) == code


def test_rounding_of_positions_is_no_refusal() -> None:
    """A spacing that is on the limit but for the decimal string's rounding fits."""
    assert _code(volumes.block(BEST, volumes.axial((0.49995, 2.00005, 1.0)))) is None


def test_limits_do_not_depend_on_orientation() -> None:
    """Spacing along the slice axis is what counts, wherever that axis points."""
    for affine in volumes.every_orientation():
        assert _code(volumes.block(BEST, affine)) is None
        assert _code(volumes.block(BEST, affine @ np.diag((5.0, 1.0, 1.0, 1.0)))) == "SLICE_SPACING_OUT_OF_RANGE"


def test_another_modality_is_refused() -> None:
    """A CT is not fed to a model for MR, whoever chose it."""
    assert _code(replace(volumes.block(), modality="CT")) == "MODALITY_MISMATCH"


@pytest.mark.parametrize(("value", "code"), [(np.nan, "NOT_FINITE"), (np.inf, "NOT_FINITE"), (-np.inf, "NOT_FINITE"),
                                              (3e38, None)])  # fmt: skip
@pytest.mark.parametrize("place", [(0, 0, 0), (4, 5, 6), (7, 9, 11)])
def test_one_bad_voxel_is_refused(place: tuple[int, int, int], value: float, code: str | None) -> None:
    """One voxel that is not a finite number, anywhere, refuses the volume."""
    voxels = volumes.block().voxels.copy()
    voxels[place] = value
    assert _code(replace(volumes.block(), voxels=voxels)) == code


@pytest.mark.parametrize("value", [0.0, -1024.0, 7.0])
def test_a_blank_image_is_refused(value: float) -> None:
    """A volume of one value is empty, whatever the value; one differing voxel makes an image."""
    voxels = np.full(BEST, value, np.float32)
    assert _code(replace(volumes.block(), voxels=voxels)) == "EMPTY_IMAGE"
    voxels = voxels.copy()
    voxels[0, 0, 0] += 1
    assert _code(replace(volumes.block(), voxels=voxels)) is None


def _mask() -> npt.NDArray[np.bool_]:
    mask = np.zeros(BEST, bool)
    mask[1:-1, 1:-1, 1:-1] = True
    return mask


def _findings(mask: npt.NDArray[np.bool_] | None = None, value: float = 1.0) -> Findings:
    return Findings(
        (SegmentMask(1, _mask() if mask is None else mask),), (Measurement("thing_volume", value),), {}, "cpu"
    )


def _verdict(findings: Findings, manifest: Manifest = MANIFEST) -> str | None:
    try:
        checks.plausible(findings, volumes.block(), manifest)
    except OutputImplausible as implausible:
        return implausible.code
    return None


@pytest.mark.parametrize(
    ("value", "code"),
    [
        (0.01, None),
        (0.0099, "OUTPUT_IMPLAUSIBLE"),
        (10.0, None),
        (10.0001, "OUTPUT_IMPLAUSIBLE"),
        (-1.0, "OUTPUT_IMPLAUSIBLE"),
        (float("nan"), "OUTPUT_NOT_FINITE"),
        (float("inf"), "OUTPUT_NOT_FINITE"),
    ],
)
def test_value_limits(value: float, code: str | None) -> None:
    """A value on the limit of what is believable passes; one step beyond is withheld."""
    assert _verdict(_findings(value=value)) == code


@pytest.mark.parametrize("axis", [0, 1, 2])
@pytest.mark.parametrize("side", [0, -1])
def test_one_voxel_on_a_face_is_the_border(axis: int, side: int) -> None:
    """A mask that touches any of the six faces is cut anatomy; one voxel inside is not."""
    mask = _mask()
    assert not checks.touches_border(mask)
    np.moveaxis(mask, axis, 0)[side, 3, 3] = True
    assert checks.touches_border(mask)
    assert _verdict(_findings(mask)) == "OUTPUT_TOUCHES_BORDER"
    allowed = replace(MANIFEST, segments=(replace(MANIFEST.segments[0], border="allow"),))
    assert _verdict(_findings(mask), allowed) is None


@pytest.mark.parametrize(("on_face", "cut"), [(0, False), (1, False), (4, False), (5, True), (400, True)])
@pytest.mark.parametrize("axis", [0, 1, 2])
@pytest.mark.parametrize("side", [0, -1])
def test_a_tip_may_reach_the_border(axis: int, side: int, on_face: int, cut: bool) -> None:
    """Up to a hundredth of the largest section may lie on a face: a brain stem's tip. More is cut anatomy."""
    mask = np.zeros((30, 30, 30), bool)
    mask[5:25, 5:25, 5:25] = True
    face = np.moveaxis(mask, axis, 0)[side]
    face[5:25, 5:25].flat[:on_face] = True
    assert checks.touches_border(mask) == cut


def test_an_empty_mask_is_withheld_unless_nothing_is_an_answer() -> None:
    """No brain is implausible; no bleeding, with a volume of 0 declared believable, is a finding."""
    empty = _findings(np.zeros(BEST, bool), value=0.0)
    assert _verdict(empty) == "OUTPUT_EMPTY"
    may_be_none = replace(MANIFEST.measurements[0], plausible=Range(0.0, 10.0))
    assert _verdict(empty, replace(MANIFEST, measurements=(may_be_none,))) is None
    assert _verdict(_findings(np.zeros(BEST, bool)), replace(MANIFEST, measurements=())) == "OUTPUT_SHAPE"


@pytest.mark.parametrize(
    "findings",
    [
        replace(_findings(), segments=()),
        replace(_findings(), segments=(SegmentMask(2, _mask()),)),
        replace(_findings(), segments=(SegmentMask(1, _mask()), SegmentMask(1, _mask()))),
        replace(_findings(), segments=(SegmentMask(1, _mask()[1:]),)),
        replace(_findings(), segments=(SegmentMask(1, _mask().transpose(2, 1, 0)),)),
        replace(_findings(), measurements=()),
        replace(_findings(), measurements=(Measurement("other", 1.0),)),
        replace(_findings(), measurements=(Measurement("thing_volume", 1.0), Measurement("more", 1.0))),
    ],
)
def test_findings_must_be_all_that_the_manifest_promises(findings: Findings) -> None:
    """A segment or measurement too few, too many, or on another grid is withheld."""
    assert _verdict(findings) == "OUTPUT_SHAPE"


def test_messages_hold_numbers_only() -> None:
    """A refusal tells what was seen and what is allowed, for the person who must act on it."""
    with pytest.raises(InputUnfit, match=r"slice spacing 4\.500 mm, the model takes 0\.5 to 4 mm"):
        checks.fit(volumes.block(BEST, volumes.axial((4.5, 1.0, 1.0))), MANIFEST)
    with pytest.raises(OutputImplausible, match=r"thing_volume is 11\.0 cm3, believable are 0\.01 to 10"):
        checks.plausible(_findings(value=11.0), volumes.block(), MANIFEST)


LOOKS = phantom.manifest(kind="detections")
SAYS = phantom.manifest(kind="classifications")
GRID = volumes.block().shape


def _box(name: str, score: float, high: tuple[float, float, float] = (1.0, 2.0, 2.0)) -> Findings:
    return Findings((), (), {}, "cpu", detections=(Detection(name, (0.0, 0.0, 0.0), high, score),))


def _said(*names: str, inconclusive: str | None = None) -> Findings:
    said = tuple(Classification(name, "UNDETERMINED", None) for name in names)
    return Findings((), (), {}, "cpu", classifications=said, inconclusive=inconclusive)


def test_detections_are_of_the_manifest_on_the_grid_and_above_their_threshold() -> None:
    """One on each limit and one beyond it; that there is none is an answer."""
    kind = LOOKS.detections[0]
    corner = (GRID[0] - 1.0, GRID[1] - 1.0, GRID[2] - 1.0)
    outside = (GRID[0] + 1.0, GRID[1] - 1.0, GRID[2] - 1.0)
    assert _verdict(Findings((), (), {}, "cpu"), LOOKS) is None
    assert _verdict(_box(kind.id, kind.threshold, corner), LOOKS) is None
    assert _verdict(_box(kind.id, kind.threshold - 0.001), LOOKS) == "OUTPUT_IMPLAUSIBLE"
    assert _verdict(_box(kind.id, 1.0, outside), LOOKS) == "OUTPUT_SHAPE"
    assert _verdict(_box("other", 1.0), LOOKS) == "OUTPUT_SHAPE"


def test_classifications_are_those_of_the_manifest() -> None:
    """All of them, in its order: one that is missing would be read as absent."""
    names = [spec.id for spec in SAYS.classifications]
    assert _verdict(_said(*names), SAYS) is None
    for wrong in (names[:1], names[::-1], [*names, "other"], []):
        assert _verdict(_said(*wrong), SAYS) == "OUTPUT_SHAPE"


def test_an_inconclusive_whole_needs_no_segment_but_all_its_statements() -> None:
    """It says why it has no number; it may not leave out a statement either."""
    assert _verdict(Findings((), (), {}, "cpu", inconclusive="MOTION")) is None
    assert _verdict(Findings((), (), {}, "cpu")) == "OUTPUT_SHAPE"
    assert _verdict(_said(inconclusive="MOTION"), SAYS) == "OUTPUT_SHAPE"
