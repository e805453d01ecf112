"""The standing query: which studies of a peer that cannot push are new, have stopped growing, and are not here?

What is remembered between two rounds lives in memory and only saves questions: after a restart everything is asked
again, and what the inbox knows is found not to be missing.
"""

import threading
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta

from dicom_bridge.assembly import RESULT_MODALITIES
from dicom_bridge.catalogue import StudyFound, Window
from dicom_bridge.sources import Source

CONFIRM_S = 10.0  # between two counts that must be equal; a scanner sends its images faster than this
RETRY_S = 60.0  # before a study whose pull failed is tried again; doubles
RETRY_MAX_S = 3600.0  # a study that cannot be had is tried hourly, for as long as the window shows it


@dataclass(frozen=True, slots=True)
class Settings:
    """Ask every `every_s` seconds for studies of the last `look_back_h` hours that have one of `modalities` (() = any).

    confirm_s: two equal counts lie at least this far apart.
    """

    every_s: float = 60.0
    look_back_h: float = 24.0
    modalities: frozenset[str] = frozenset()
    confirm_s: float = CONFIRM_S


@dataclass(slots=True)
class _Seen:
    """What was last seen of one study, and what was done about it."""

    counts: Mapping[str, int]
    total: int | None
    settled: bool = False
    pulled: bool = False
    failures: int = 0
    not_before: float = float("-inf")


class Round:
    """The rounds of one peer's standing query, asked by one thread."""

    def __init__(
        self,
        settings: Settings,
        known: Callable[[str], Mapping[str, int]],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._settings, self._known, self._clock = settings, known, clock
        self._seen: dict[str, _Seen] = {}
        self._unsure = False

    @property
    def pause_s(self) -> float:
        """Seconds until the next round: soon, while a study must be seen once more with the same count."""
        return min(self._settings.every_s, self._settings.confirm_s) if self._unsure else self._settings.every_s

    def look(self, source: Source, now: datetime, stop: threading.Event) -> Iterator[tuple[str, frozenset[str]]]:
        """Yield the studies to pull now, the latest first, each with the series that lack something.

        Raises what the source and `known` raise.
        """
        self._unsure = False
        local = now.astimezone().replace(tzinfo=None)
        since = local - timedelta(hours=self._settings.look_back_h)
        studies = source.studies(Window(since, local, self._settings.modalities))
        for gone in self._seen.keys() - {study.study_uid for study in studies}:
            del self._seen[gone]
        for study in sorted(studies, key=lambda one: one.at or local, reverse=True):
            if stop.is_set():
                return
            lacking = self._lacking(source, study)
            if lacking:
                yield study.study_uid, lacking

    def pulled(self, study_uid: str, *, whole: bool) -> None:
        """Note how the pull of a study ended. It is not pulled again until it grows, or, if it failed, for a while."""
        seen = self._seen.get(study_uid)
        if seen is None:
            return
        seen.pulled = whole
        seen.failures = 0 if whole else seen.failures + 1
        if not whole:
            seen.not_before = self._clock() + min(RETRY_S * 2 ** (seen.failures - 1), RETRY_MAX_S)

    def _lacking(self, source: Source, study: StudyFound) -> frozenset[str]:
        """The series to pull now; empty: none, or not yet."""
        seen = self._seen.get(study.study_uid)
        if seen is not None and seen.settled and study.instances is not None and study.instances == seen.total:
            return frozenset()
        counts = self._counts(source, study.study_uid)
        if seen is None or seen.counts != counts:
            seen = self._seen[study.study_uid] = _Seen(counts, study.instances)
            fresh = True
        else:
            seen.total, fresh = study.instances, False
        known = self._known(study.study_uid)
        lacking = frozenset(uid for uid, count in counts.items() if known.get(uid, 0) < count)
        seen.settled = not lacking
        if not lacking or seen.pulled or self._clock() < seen.not_before:
            return frozenset()
        if fresh:
            # It may be growing: only a count that stays the same is one to go by.
            self._unsure = True
            seen.not_before = self._clock() + min(self._settings.every_s, self._settings.confirm_s) / 2
            return frozenset()
        return lacking

    def _counts(self, source: Source, study_uid: str) -> dict[str, int]:
        """Images by series. Never our own results, nor anybody else's; nothing, if no series is of a kind wanted."""
        series = source.series(study_uid)
        if any(entry.expected == 0 for entry in series.values()):
            series = source.catalogue(study_uid)
        images = {uid: one for uid, one in series.items() if one.modality not in RESULT_MODALITIES and one.expected > 0}
        wanted = self._settings.modalities
        if wanted and not any(one.modality in wanted for one in images.values()):
            return {}
        return {uid: one.expected for uid, one in images.items()}
