"""Several volumes in one series, told apart; and what is no volume at all. Pure.

Phases, echoes and b-values often share a series: each position is then held n times. The first of `KEYS` that makes n
full volumes of it divides the series (reference: geometry gates); nothing is divided by order of arrival or by number.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass, replace
from enum import StrEnum
from typing import Final, Protocol, TypeVar

from dicom_bridge.errors import VolumeRefused
from dicom_bridge.grid import Grid, Placed, find_grid, held_times, same_orientation

LOCALIZER_IMAGES_MAX: Final = 3
"""Images of another orientation beside a full volume that can only be its localizer; four might be a volume."""


class Key(StrEnum):
    """What tells one volume of a series from another, in the order in which it is asked.

    STACK and TEMPORAL_POSITION_INDEX are those of multi-frame images (PS3.3 C.7.6.16.2.2), which say themselves what
    belongs together; they come first.
    """

    STACK = "STACK"
    TEMPORAL_POSITION_INDEX = "TEMPORAL_POSITION_INDEX"
    ACQUISITION_NUMBER = "ACQUISITION_NUMBER"
    TEMPORAL_POSITION = "TEMPORAL_POSITION"
    TRIGGER_TIME = "TRIGGER_TIME"
    ECHO_TIME = "ECHO_TIME"
    ECHO_NUMBER = "ECHO_NUMBER"
    B_VALUE = "B_VALUE"
    CONTRAST_AGENT = "CONTRAST_AGENT"
    IMAGE_TYPE = "IMAGE_TYPE"
    KERNEL = "KERNEL"
    ACQUISITION_TIME = "ACQUISITION_TIME"


# Of these an empty value tells something: before the contrast agent none is named.
_MAY_BE_EMPTY: Final = frozenset({Key.CONTRAST_AGENT, Key.IMAGE_TYPE, Key.KERNEL})
_DECLARED: Final = (Key.STACK, Key.TEMPORAL_POSITION_INDEX)
_OBSERVED: Final = tuple(key for key in Key if key not in _DECLARED)


class Kind(StrEnum):
    """What an image is, as its SOP class and Image Type (0008,0008) say. Only VOLUME is ever read by a model, unless
    its manifest asks for another by `image_type_includes`.
    """

    VOLUME = "VOLUME"
    LOCALIZER = "LOCALIZER"
    DOSE_SHEET = "DOSE_SHEET"
    SECONDARY_CAPTURE = "SECONDARY_CAPTURE"
    PROJECTION = "PROJECTION"
    REFORMATTED = "REFORMATTED"
    DERIVED = "DERIVED"
    REPORT = "REPORT"
    NO_IMAGE = "NO_IMAGE"


_DOSE_SR: Final = frozenset({"1.2.840.10008.5.1.4.1.1.88.67", "1.2.840.10008.5.1.4.1.1.88.68"})
_SR: Final = "1.2.840.10008.5.1.4.1.1.88."
_SECONDARY_CAPTURE: Final = "1.2.840.10008.5.1.4.1.1.7"
_WORDS: Final[tuple[tuple[Kind, frozenset[str]], ...]] = (
    (Kind.LOCALIZER, frozenset({"LOCALIZER", "SCOUT", "TOPOGRAM"})),
    (Kind.DOSE_SHEET, frozenset({"DOSE", "DOSE_INFO", "DOSE REPORT", "SCREEN SAVE", "SCREEN_SAVE"})),
    (
        Kind.PROJECTION,
        frozenset({"MIP", "MAX_IP", "MINIP", "MIN_IP", "MNIP", "AVERAGE", "PROJECTION IMAGE", "PROJECTION", "VRT"}),
    ),
    (Kind.REFORMATTED, frozenset({"MPR", "CPR", "REFORMATTED", "CSA REFORMATTED", "CSAMPR", "RESAMPLED"})),
)


def kind_of(sop_class: str, image_type: Sequence[str], description: str = "") -> Kind:
    """Classify one image. The words are those that scanners write into values 1 and following of Image Type."""
    if sop_class in _DOSE_SR:
        return Kind.DOSE_SHEET
    if sop_class.startswith(_SR):
        return Kind.REPORT
    if sop_class == _SECONDARY_CAPTURE or sop_class.startswith(_SECONDARY_CAPTURE + "."):
        return Kind.DOSE_SHEET if "dose" in description.casefold() else Kind.SECONDARY_CAPTURE
    for kind, words in _WORDS:
        if words.intersection(image_type):
            return kind
    return Kind.DERIVED if tuple(image_type[:2]) == ("DERIVED", "SECONDARY") else Kind.VOLUME


def waived(kind: Kind, image_type: Sequence[str], includes: Sequence[str]) -> bool:
    """Whether a manifest asks by name (`image_type_includes`) for what makes this image of that kind."""
    words = dict(_WORDS).get(kind, frozenset({"DERIVED", "SECONDARY"}) if kind is Kind.DERIVED else frozenset())
    return bool(words.intersection(image_type).intersection(includes))


class Divisible(Placed, Protocol):
    """What dividing needs of a slice, beside its place."""

    @property
    def keys(self) -> Mapping[Key, str]: ...  # noqa: D102
    @property
    def kind(self) -> Kind: ...  # noqa: D102
    @property
    def shape(self) -> tuple[int, int]: ...  # noqa: D102


@dataclass(frozen=True, slots=True)
class Step:
    """One division: by which key, this part's value, its place among the values in their order (from 1), how many."""

    key: Key
    value: str
    index: int
    of: int


@dataclass(frozen=True, slots=True, eq=False)
class Part:
    """Some slices of a series (`members`: indices into it). `grid` orders `members`; without one `refused` says why.

    `steps` names the part among the volumes of its series, () where there is one. `apart`: the kind of images that
    were found among others of the series and are no part of its volumes, "" for the volumes themselves.
    """

    members: tuple[int, ...]
    kind: Kind
    steps: tuple[Step, ...]
    grid: Grid | None
    refused: VolumeRefused | None
    apart: str = ""

    @property
    def id(self) -> str:
        """Names the part for a machine, and says nothing of a patient: ECHO_TIME-2; "" where there is one volume."""
        return "/".join([*([self.apart] if self.apart else []), *(f"{step.key}-{step.index}" for step in self.steps)])

    @property
    def label(self) -> str:
        """Names the part for a person, by key and value: ECHO_TIME=4.6."""
        named = [f"{step.key}={step.value or 'none'}" for step in self.steps]
        return ", ".join([*([self.apart] if self.apart else []), *named])


_S = TypeVar("_S", bound=Divisible)


def divide(slices: Sequence[_S]) -> tuple[Part, ...]:
    """All parts of one series: images of another kind are set apart first, then the volumes are told apart.

    Raises nothing: a part that is no regular volume carries the VolumeRefused that says why.
    """
    by_kind = _group(range(len(slices)), lambda i: slices[i].kind)
    kinds = sorted(by_kind, key=lambda kind: (kind is not Kind.VOLUME, kind))
    parts: list[Part] = []
    for kind in kinds:
        found = _volumes(slices, by_kind[kind], kind, ())
        parts += found if kind is kinds[0] else [replace(one, apart=kind.value) for one in found]
    return tuple(parts)


def _volumes(slices: Sequence[_S], members: Sequence[int], kind: Kind, steps: tuple[Step, ...]) -> list[Part]:
    """Divide slices of one kind."""
    for key in _DECLARED:
        if any(step.key is key for step in steps):
            continue
        groups = _group(members, lambda i, key=key: slices[i].keys.get(key, ""))  # type: ignore[misc]
        if len(groups) > 1:
            return [part for step, some in _steps(key, groups) for part in _volumes(slices, some, kind, (*steps, step))]
    try:
        return [Part(tuple(members), kind, steps, _grid(slices, members), None)]
    except VolumeRefused as refused:
        why = refused
    if why.code == "DUPLICATE_POSITION":
        divided = _by_key(slices, members, kind, steps)
        if divided:
            return divided
        why = _incomplete(slices, members) or why
    elif why.code in ("MIXED_ORIENTATION", "MIXED_MATRIX"):
        divided = _beside_localizer(slices, members, kind, steps)
        if divided:
            return divided
    return [Part(tuple(members), kind, steps, None, why)]


def _grid(slices: Sequence[_S], members: Sequence[int]) -> Grid:
    if len({slices[i].shape for i in members}) > 1:
        raise VolumeRefused("MIXED_MATRIX", "matrices differ")
    return find_grid([slices[i] for i in members])


def _by_key(slices: Sequence[_S], members: Sequence[int], kind: Kind, steps: tuple[Step, ...]) -> list[Part]:
    """The n volumes that the first key gives whose values each have every position once; [] if none does."""
    times = set(held_times([slices[i] for i in members]))
    if len(times) != 1:
        return []
    for key in _OBSERVED:
        groups = _group(members, lambda i, key=key: slices[i].keys.get(key, ""))  # type: ignore[misc]
        # As many values as each position is held: none of them can have a position twice, so each has every one.
        if len(groups) not in times or ("" in groups and key not in _MAY_BE_EMPTY):
            continue
        try:
            return [
                Part(tuple(some), kind, (*steps, step), _grid(slices, some), None) for step, some in _steps(key, groups)
            ]
        except VolumeRefused:
            continue
    return []


def _incomplete(slices: Sequence[_S], members: Sequence[int]) -> VolumeRefused | None:
    """Where a key gives one full volume and others that lack slices, say so: it is no riddle but a loss."""
    for key in _OBSERVED:
        groups = _group(members, lambda i, key=key: slices[i].keys.get(key, ""))  # type: ignore[misc]
        if len(groups) < 2 or ("" in groups and key not in _MAY_BE_EMPTY):
            continue
        full = 0
        for group in groups.values():
            try:
                _grid(slices, group)
                full += 1
            except VolumeRefused as refused:
                if refused.code not in ("SLICE_MISSING", "SINGLE_SLICE"):
                    break
        else:
            if full:
                return VolumeRefused("VOLUMES_INCOMPLETE", f"several volumes by {key}, and slices of them are missing")
    return None


def _beside_localizer(slices: Sequence[_S], members: Sequence[int], kind: Kind, steps: tuple[Step, ...]) -> list[Part]:
    """One full volume, and up to three images of another orientation: the volume, and its localizer set apart."""
    groups: list[list[int]] = []
    for i in members:
        home = next((g for g in groups if same_orientation(slices[g[0]], slices[i])), None)
        if home is None:
            groups.append([i])
        else:
            home.append(i)
    groups.sort(key=len, reverse=True)
    others = [i for group in groups[1:] for i in group]
    if not 0 < len(others) <= LOCALIZER_IMAGES_MAX < len(groups[0]):
        return []
    main = _volumes(slices, groups[0], kind, steps)
    if any(part.grid is None for part in main):
        return []
    why = VolumeRefused("MIXED_ORIENTATION", "images of another orientation beside a full volume: its localizer")
    return [*main, Part(tuple(others), Kind.LOCALIZER, (), None, why, apart=Kind.LOCALIZER.value)]


_G = TypeVar("_G", bound=Hashable)


def _group(members: Sequence[int], of: Callable[[int], _G]) -> dict[_G, list[int]]:
    groups: dict[_G, list[int]] = {}
    for i in members:
        groups.setdefault(of(i), []).append(i)
    return groups


def _steps(key: Key, groups: Mapping[str, list[int]]) -> list[tuple[Step, list[int]]]:
    """The groups in the order of their values: numbers as numbers, all else as text."""
    ordered = sorted(groups, key=lambda value: (_number(value), value))
    return [(Step(key, value, at, len(ordered)), groups[value]) for at, value in enumerate(ordered, start=1)]


def _number(value: str) -> float:
    try:
        number = float(value)
    except ValueError:
        return math.inf
    return number if math.isfinite(number) else math.inf
