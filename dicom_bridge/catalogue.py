"""What a peer says it has of one study, and what of it is missing here. Pure.

A study counts as fetched when every instance that the peer lists is held, and when of each series as many are held as
the peer counts: a PACS that cuts its list short still gives the true count.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Final

INSTANCES_MAX: Final = 100_000
"""Instances of one study: the largest, perfusion and functional MR, have some 50 000; a broken peer lists for ever."""
_DIGITS_MAX: Final = 12
"""Characters of an IS value (PS3.5 section 6.2)."""


@dataclass(frozen=True, slots=True)
class SeriesEntry:
    """One series: its modality ("" if unknown), the peer's count of it, and SOP class ("" if unknown) by instance."""

    modality: str = ""
    count: int | None = None
    instances: Mapping[str, str] = field(default_factory=dict)

    @property
    def expected(self) -> int:
        """How many instances a whole copy has."""
        return max(len(self.instances), self.count or 0)


Catalogue = Mapping[str, SeriesEntry]
"""By Series Instance UID; empty: the peer has no such study."""
Held = Mapping[str, frozenset[str]]
"""SOP Instance UIDs by Series Instance UID."""


@dataclass(frozen=True, slots=True)
class Part:
    """What to fetch of one series: `uids`, those instances that are listed and absent; `whole`: simply all of it."""

    modality: str
    classes: frozenset[str]
    uids: tuple[str, ...]
    whole: bool


@dataclass(frozen=True, slots=True)
class Wanted:
    """What to fetch of one study. `whole`: every series that the peer has, and all of each."""

    study_uid: str
    parts: Mapping[str, Part]
    whole: bool

    def __bool__(self) -> bool:
        """Whether there is anything to fetch."""
        return bool(self.parts)


@dataclass(frozen=True, slots=True)
class StudyFound:
    """One study in a window of time. `instances`: the peer's count, results included; None when it does not tell."""

    study_uid: str
    at: datetime | None
    modalities: frozenset[str]
    instances: int | None


@dataclass(frozen=True, slots=True)
class Window:
    """Studies done since `since` (local time, without zone, as (0008,0020) and (0008,0030) are), up to `until`.

    `modalities`: of which one at least must be in the study; empty: any.
    """

    since: datetime
    until: datetime
    modalities: frozenset[str] = frozenset()

    @property
    def dates(self) -> str:
        """Range matching for Study Date (PS3.4 section C.2.2.2.5), a day wide on each side: clocks differ."""
        day = timedelta(days=1)
        return f"{self.since - day:%Y%m%d}-{self.until + day:%Y%m%d}"

    def holds(self, study: StudyFound) -> bool:
        """Whether an answer is one that was asked for; not every peer matches every key. Unknown counts as yes."""
        if self.modalities and study.modalities and not self.modalities & study.modalities:
            return False
        return study.at is None or study.at >= self.since


def missing(study_uid: str, catalogue: Catalogue, held: Held, offered: Iterable[str] | None = None) -> Wanted:
    """Return what of the catalogue is not held.

    `offered`: the series that the peer has in all, when the catalogue is a selection of them.
    """
    everywhere = frozenset[str]().union(*held.values())
    parts = {}
    for series_uid, entry in catalogue.items():
        absent = tuple(uid for uid in entry.instances if uid not in everywhere)
        short = entry.expected - _stored(series_uid, entry, held, everywhere)
        if not absent and short <= 0:
            continue
        classes = frozenset(name for name in entry.instances.values() if name)
        # What the list leaves out can only be had with the whole series.
        all_of_it = len(absent) == len(entry.instances) or entry.expected > len(entry.instances)
        parts[series_uid] = Part(entry.modality, classes, absent, all_of_it)
    whole = parts.keys() == set(catalogue if offered is None else offered) and all(p.whole for p in parts.values())
    return Wanted(study_uid, parts, whole)


def count(catalogue: Catalogue) -> int:
    """Return how many instances a whole copy has."""
    return sum(entry.expected for entry in catalogue.values())


def stored(catalogue: Catalogue, held: Held) -> int:
    """Return how many of the catalogue's instances are held; more than it lists are no surplus."""
    everywhere = frozenset[str]().union(*held.values())
    return sum(_stored(series_uid, entry, held, everywhere) for series_uid, entry in catalogue.items())


def _stored(series_uid: str, entry: SeriesEntry, held: Held, everywhere: frozenset[str]) -> int:
    # What is listed counts wherever it is held: a PACS may list an instance in another series than it is of.
    listed = len(entry.instances.keys() & everywhere)
    unlisted = len(held.get(series_uid, frozenset()) - entry.instances.keys())
    return min(entry.expected, listed + unlisted)


def selected(catalogue: Catalogue, wants: Callable[[str, SeriesEntry], bool]) -> Catalogue:
    """Return the series that `wants`, asked with Series Instance UID and entry, says yes to."""
    return {uid: entry for uid, entry in catalogue.items() if wants(uid, entry)}


def number(text: str) -> int | None:
    """Read a peer's count (VR IS); None for what is none, or larger than any can be."""
    usable = text.isascii() and text.isdecimal() and len(text) <= _DIGITS_MAX
    return int(text) if usable and int(text) <= INSTANCES_MAX else None


def study_time(date: str, time_of_day: str) -> datetime | None:
    """Read Study Date and Study Time (VR DA and TM, PS3.5 section 6.2); None when there is no usable date.

    Without a usable time it is the end of that day: a study is rather looked at twice than not at all.
    """
    digits = date.strip().replace(".", "").replace("-", "")
    clock = time_of_day.strip().replace(":", "").partition(".")[0]
    if not (clock.isascii() and clock.isdecimal() and len(clock) in (2, 4, 6)):
        clock = "235959"
    try:
        return datetime.strptime(f"{digits[:8]}{clock:0<6}", "%Y%m%d%H%M%S")  # noqa: DTZ007 - the standard has no zone
    except ValueError:
        return None
