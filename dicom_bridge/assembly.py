"""When is a study complete? DICOM has no "last image"; this decides from what is known. Pure.

Two triggers, in this order:

    COUNT_MATCHED   the PACS says, twice in a row and some time apart, that it has exactly what we have, and no
                    association is bringing more
    QUIET_TIMER     nothing has arrived for so long that waiting longer helps nobody

A study that was called complete too early is healed by superseding: its late images open it again.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Final

# Objects that are made from images rather than acquired: ours come back from the PACS, reports arrive days later.
# Neither may keep a study waiting nor make it a new one (PS3.3 C.7.3.1.1.1 for the terms).
RESULT_MODALITIES: Final = frozenset({"SR", "SEG", "PR", "KO", "DOC", "REG", "RWV", "PLAN", "FID", "AU"})


class Action(StrEnum):
    """What to do with the study now."""

    WAIT = "WAIT"
    COMPLETE = "COMPLETE"


class Trigger(StrEnum):
    """What made the study complete; a code of the audit log."""

    COUNT_MATCHED = "COUNT_MATCHED"
    QUIET_TIMER = "QUIET_TIMER"


class Reason(StrEnum):
    """Why the study waits, or why it does not."""

    NOTHING_HELD = "NOTHING_HELD"
    ASSOCIATION_OPEN = "ASSOCIATION_OPEN"
    COUNT_UNKNOWN = "COUNT_UNKNOWN"
    COUNT_SHORT = "COUNT_SHORT"
    COUNT_AHEAD = "COUNT_AHEAD"
    COUNT_UNCONFIRMED = "COUNT_UNCONFIRMED"
    COUNT_MATCHED = "COUNT_MATCHED"
    QUIET = "QUIET"


@dataclass(frozen=True, slots=True)
class SeriesCount:
    """Modality (0008,0060) of a series and its number of instances."""

    modality: str
    count: int


@dataclass(frozen=True, slots=True)
class Answer:
    """What the PACS answered at `at_s` (monotonic seconds): its count by Series Instance UID."""

    at_s: float
    series: Mapping[str, SeriesCount]


@dataclass(frozen=True, slots=True)
class Known:
    """All that is known of one study at `now_s` (monotonic seconds).

    held: what the inbox holds. last, before_last: the PACS's latest two answers, None where it gave none.
    open_associations: those that have carried this study and may bring more. quiet_s: seconds since the last store.
    """

    held: Mapping[str, SeriesCount]
    last: Answer | None
    before_last: Answer | None
    open_associations: int
    quiet_s: float


@dataclass(frozen=True, slots=True)
class Policy:
    """How long to wait, in seconds.

    quiet_s: the last resort, when the PACS tells nothing that matches.
    short_quiet_s: the same, while the PACS says that a series we hold in part has more images: the transfer has
        stalled, and a truncated series is the one flaw that geometry cannot show.
    count_confirm_s: two equal answers must lie this far apart, or the PACS may still be storing.
    association_quiet_s: an association that has been silent for so long no longer holds a study back.
    """

    quiet_s: float = 60.0
    short_quiet_s: float = 600.0
    count_confirm_s: float = 0.3
    association_quiet_s: float = 60.0


@dataclass(frozen=True, slots=True)
class Decision:
    """WAIT, or COMPLETE with its trigger; `reason` is the row of the table that decided."""

    action: Action
    reason: Reason
    trigger: Trigger | None = None


_COMPARED: Final = {
    # (short, ahead, confirmed) -> reason; short wins, since more is known to come.
    (True, False, False): Reason.COUNT_SHORT,
    (True, False, True): Reason.COUNT_SHORT,
    (True, True, False): Reason.COUNT_SHORT,
    (True, True, True): Reason.COUNT_SHORT,
    (False, True, False): Reason.COUNT_AHEAD,
    (False, True, True): Reason.COUNT_AHEAD,
    (False, False, False): Reason.COUNT_UNCONFIRMED,
    (False, False, True): Reason.COUNT_MATCHED,
}


def decide(known: Known, policy: Policy) -> Decision:
    """Decide from what is known; never reads a clock."""
    if not known.held:
        return Decision(Action.WAIT, Reason.NOTHING_HELD)
    if known.open_associations > 0 and known.quiet_s < policy.association_quiet_s:
        return Decision(Action.WAIT, Reason.ASSOCIATION_OPEN)
    reason = _compare(known, policy)
    if reason is Reason.COUNT_MATCHED:
        return Decision(Action.COMPLETE, reason, Trigger.COUNT_MATCHED)
    patience = policy.short_quiet_s if _partly_held(known) else policy.quiet_s
    if known.quiet_s >= patience:
        return Decision(Action.COMPLETE, Reason.QUIET, Trigger.QUIET_TIMER)
    return Decision(Action.WAIT, reason)


def images(series: Mapping[str, SeriesCount]) -> dict[str, int]:
    """Return the counts of what was acquired, results left out; these are what two sides must agree on."""
    return {uid: one.count for uid, one in series.items() if one.modality not in RESULT_MODALITIES and one.count > 0}


def _compare(known: Known, policy: Policy) -> Reason:
    held, last = images(known.held), known.last
    if last is None or not held:
        return Reason.COUNT_UNKNOWN
    theirs = images(last.series)
    short = any(held.get(uid, 0) < count for uid, count in theirs.items())
    ahead = any(theirs.get(uid, 0) < count for uid, count in held.items())
    before = known.before_last
    confirmed = (
        before is not None and images(before.series) == theirs and last.at_s - before.at_s >= policy.count_confirm_s
    )
    return _COMPARED[short, ahead, confirmed]


def _partly_held(known: Known) -> bool:
    """A series of which we hold some and the PACS has more. One that we hold nothing of may not be meant for us."""
    if known.last is None:
        return False
    held, theirs = images(known.held), images(known.last.series)
    return any(0 < held.get(uid, 0) < count for uid, count in theirs.items())
