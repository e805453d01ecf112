"""What the images of a study tell of themselves."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dicom_bridge import evidence
from dicom_bridge.assembly import Evidence
from tests.simulators.series import AXIAL, CORONAL, SAGITTAL, normal_of


@dataclass(frozen=True, slots=True)
class Image:
    """One instance as the index knows it."""

    series_uid: str = "1.2"
    modality: str = "CT"
    frames: int = 1
    acquisition_number: int | None = 1
    acquisition_images: int | None = None
    position: tuple[float, ...] = ()
    orientation: tuple[float, ...] = ()


def stack(
    count: int,
    *,
    expected: int | None = None,
    step_mm: float = 2.0,
    orientation: Sequence[float] = AXIAL,
    missing: Sequence[int] = (),
) -> list[Image]:
    """Return a series of `count` places but those that are missing, in no order."""
    normal = normal_of(orientation)
    images = [
        Image(
            position=tuple(float(v) for v in np.array((-100.0, 20.0, 7.5)) + k * step_mm * normal),
            orientation=tuple(orientation),
            acquisition_images=expected,
        )
        for k in range(count)
        if k not in missing
    ]
    random.Random(7).shuffle(images)
    return images


@pytest.mark.parametrize("orientation", [AXIAL, CORONAL, SAGITTAL])
def test_as_many_as_expected_and_no_hole_is_whole(orientation: tuple[float, ...]) -> None:
    """Whatever way the slices lie."""
    assert evidence.of(stack(12, expected=12, orientation=orientation)) is Evidence.WHOLE


def test_without_an_expected_number_nobody_can_be_sure() -> None:
    """The first half of a series has no hole either."""
    assert evidence.of(stack(12)) is Evidence.UNSURE


@pytest.mark.parametrize("missing", [[5], [1], [3, 4], [2, 9]])
def test_a_hole_is_seen(missing: list[int]) -> None:
    """An image that comes late leaves a place empty meanwhile."""
    assert evidence.of(stack(12, missing=missing)) is Evidence.BROKEN


def test_fewer_than_expected_is_broken_though_no_hole_is_seen() -> None:
    """The end of the series is still to come."""
    assert evidence.of(stack(12, expected=12, missing=[11])) is Evidence.BROKEN


def test_twice_the_expected_number_is_two_phases() -> None:
    """The same places again, each as often: vendors count one phase, one echo, one reconstruction."""
    assert evidence.of(stack(12, expected=12) * 2) is Evidence.WHOLE


def test_more_than_expected_but_no_multiple_is_broken() -> None:
    """Half of the second acquisition of the same number has come, and nothing but the number says so."""
    assert evidence.of(stack(18, expected=12)) is Evidence.BROKEN


def test_a_second_phase_that_has_begun_is_broken() -> None:
    """Some places hold two images, the others one: more is on its way, though the number is a multiple by chance."""
    second = stack(12, expected=4)[:4]
    assert evidence.of(stack(12, expected=4) + second) is Evidence.BROKEN


def test_acquisitions_are_counted_apart() -> None:
    """Two acquisitions in one series: each must have its own number."""
    first, second = stack(12, expected=6)[:6], stack(12, expected=6)[6:]
    assert evidence.of(first + [replace(one, acquisition_number=2) for one in second]) is Evidence.WHOLE
    mixed = [replace(one, acquisition_number=1 + (k < 5)) for k, one in enumerate(stack(12, expected=6))]
    assert evidence.of(mixed) is Evidence.BROKEN


def test_two_voices_say_nothing() -> None:
    """Images of one acquisition that expect different numbers expect none."""
    images = stack(12, expected=12)
    images[0] = replace(images[0], acquisition_images=11)
    assert evidence.of(images) is Evidence.UNSURE


@pytest.mark.parametrize("number", [0, -3])
def test_a_number_that_cannot_be_is_none(number: int) -> None:
    """Zero and less are written by broken senders; they must not divide by it."""
    assert evidence.of(stack(12, expected=number)) is Evidence.UNSURE


def test_a_multi_frame_object_is_whole_in_itself() -> None:
    """Its frames come together or not at all; places are inside it."""
    assert evidence.of([Image(frames=120)]) is Evidence.WHOLE
    assert evidence.of([Image(frames=120, acquisition_images=240)]) is Evidence.BROKEN
    assert evidence.of([Image(frames=120, acquisition_images=240)] * 2) is Evidence.WHOLE


@pytest.mark.parametrize(
    "spoil",
    [
        {"position": ()},
        {"position": (1.0, 2.0)},
        {"orientation": ()},
        {"orientation": SAGITTAL},
    ],
)
def test_places_that_cannot_be_compared_say_nothing(spoil: dict[str, tuple[float, ...]]) -> None:
    """A projection, a localizer in three directions, a broken header: neither whole nor broken."""
    images = stack(12, expected=12)
    images[3] = replace(images[3], **spoil)
    assert evidence.of(images) is Evidence.UNSURE


def test_two_places_have_no_usual_step() -> None:
    """Two slices can lie as far apart as they like."""
    assert evidence.of(stack(2, expected=2)) is Evidence.UNSURE


def test_slightly_uneven_steps_are_no_hole() -> None:
    """Rounded positions and a table that moves unevenly miss no image; whether to read them is not asked here."""
    images = [
        replace(one, position=(one.position[0], one.position[1], one.position[2] * 1.001 + 0.3 * (k % 2)))
        for k, one in enumerate(sorted(stack(30, expected=30), key=lambda one: one.position))
    ]
    assert evidence.of(images) is Evidence.WHOLE


def test_every_series_must_be_whole() -> None:
    """One series in doubt makes the study doubtful; one that lacks images makes it broken."""
    whole, unsure = stack(12, expected=12), [replace(one, series_uid="1.3") for one in stack(5)]
    broken = [replace(one, series_uid="1.4") for one in stack(9, missing=[4])]
    assert evidence.of(whole + unsure) is Evidence.UNSURE
    assert evidence.of(whole + unsure + broken) is Evidence.BROKEN


def test_results_are_not_asked() -> None:
    """A report among the images says nothing of them; a study of results alone has nothing to say."""
    report = Image(series_uid="1.9", modality="SR")
    assert evidence.of([*stack(12, expected=12), report]) is Evidence.WHOLE
    assert evidence.of([report]) is Evidence.UNSURE


@given(st.integers(4, 40), st.data())
def test_of_a_whole_series_no_true_part_is_whole(count: int, data: st.DataObject) -> None:
    """Whatever part of it has arrived, in whatever order, only all of it is called whole."""
    images = stack(count, expected=count)
    held = data.draw(st.lists(st.sampled_from(range(count)), unique=True, min_size=1))
    found = evidence.of([images[k] for k in held])
    assert (found is Evidence.WHOLE) is (len(held) == count)
