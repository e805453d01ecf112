"""When is a study complete? DICOM has no "last image"; this decides from what is known. Pure.

One table says for every combination of what is known (who still sends, what the PACS counts, what the images tell of
themselves) how long a silence is enough. A study is complete when the silence since its last image is that long:

    SETTLED        none at all: the PACS says, twice and some time apart, that it has exactly what we have
    EARLY          a short one: every series that we hold is whole, and its sender has hung up
    PACED          what this sender's own habits suggest (`pace`), never longer than the quiet timer
    QUIET          the quiet timer: something is missing, or may be
    LONG           the PACS says that a series which we hold in part has more: the one thing that may wait longer
    OPEN_...       the same, while an association that brought the study is open

A study that was called complete too early is healed by superseding: its late images open it again.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Final

# Objects that are made from images rather than acquired: ours come back from the PACS, reports arrive days later.
# Neither may keep a study waiting nor make it a new one (PS3.3 C.7.3.1.1.1 for the terms). OT: captured screens, our
# key images among them; whatever acquires images has a term of its own.
RESULT_MODALITIES: Final = frozenset({"SR", "SEG", "PR", "KO", "DOC", "REG", "RWV", "PLAN", "FID", "AU", "OT"})


class Action(StrEnum):
    """What to do with the study now."""

    WAIT = "WAIT"
    COMPLETE = "COMPLETE"


class Trigger(StrEnum):
    """What made the study complete; a code of the audit log."""

    COUNT_MATCHED = "COUNT_MATCHED"
    """The PACS has exactly what we have."""
    SERIES_MATCHED = "SERIES_MATCHED"
    """Of each series that we hold the PACS has exactly as much; others of its series were not sent to us."""
    EXPECTED_MET = "EXPECTED_MET"
    """The images themselves say that they are all there."""
    QUIET_TIMER = "QUIET_TIMER"
    """Nothing has arrived for so long that waiting longer helps nobody."""


class Sender(StrEnum):
    """Whether more may come."""

    ENDED = "ENDED"
    """Every association that brought the study has ended."""
    UNSEEN = "UNSEEN"
    """Nothing of it came since this process began: our own restart may have cut its sender off."""
    OPEN = "OPEN"
    """An association that brought it is open; it may bring more, or be one that a PACS keeps open for minutes."""


class Evidence(StrEnum):
    """What the images tell of themselves; see `evidence.of`."""

    WHOLE = "WHOLE"
    UNSURE = "UNSURE"
    BROKEN = "BROKEN"


class Counts(StrEnum):
    """What the PACS's counts say, beside ours; results left out on both sides."""

    EQUAL = "EQUAL"
    """The same series, the same numbers, in two answers."""
    OTHERS = "OTHERS"
    """The same numbers in two answers, and series that we hold nothing of: they may not be meant for us."""
    UNCONFIRMED = "UNCONFIRMED"
    """As one of those two, but said only once, too short apart, or too long ago."""
    AHEAD = "AHEAD"
    """We have more of a series than the PACS says: it is behind."""
    UNKNOWN = "UNKNOWN"
    """It does not say, or nobody can be asked."""
    PART = "PART"
    """It has more of a series that we hold some of."""


class Patience(StrEnum):
    """How long a silence makes the study complete; `Timers.seconds`."""

    SETTLED = "SETTLED"
    EARLY = "EARLY"
    PACED = "PACED"
    QUIET = "QUIET"
    LONG = "LONG"
    OPEN_SETTLED = "OPEN_SETTLED"
    OPEN = "OPEN"
    OPEN_QUIET = "OPEN_QUIET"
    OPEN_LONG = "OPEN_LONG"


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
    quiet_s: seconds since the last store.
    """

    held: Mapping[str, SeriesCount]
    last: Answer | None
    before_last: Answer | None
    sender: Sender
    evidence: Evidence
    now_s: float
    quiet_s: float


@dataclass(frozen=True, slots=True)
class Policy:
    """What a site decides, in seconds; `pace` makes a study's `Timers` of it.

    quiet_s: the quiet timer, the last resort when nothing tells that all is there. What is learnt of a sender only
        shortens it.
    quiet_min_s: learning never shortens it below this.
    early_quiet_s: after the last image of a study whose series are all whole; more series may follow.
    short_quiet_s: while the PACS says that a series we hold in part has more: the transfer has stalled, and a truncated
        series is the one flaw that geometry cannot show.
    count_confirm_s: two equal answers must lie this far apart, or the PACS may still be storing.
    association_quiet_s: an association that has been silent for so long no longer holds a study back.
    """

    quiet_s: float = 60.0
    short_quiet_s: float = 600.0
    count_confirm_s: float = 0.3
    association_quiet_s: float = 60.0
    quiet_min_s: float = 3.0
    early_quiet_s: float = 3.0


FRESH_S: Final = 1.0
"""No study is called complete on an answer older than this: the PACS may have got more since."""


@dataclass(frozen=True, slots=True)
class Timers:
    """Seconds for one study: each `Patience` that stands alone, and `association_s`, below which no open one falls."""

    settled_s: float
    open_settled_s: float
    early_s: float
    paced_s: float
    quiet_s: float
    long_s: float
    association_s: float
    count_confirm_s: float

    def seconds(self, patience: Patience) -> float:
        """How long a silence that is."""
        return {
            Patience.SETTLED: self.settled_s,
            Patience.EARLY: self.early_s,
            Patience.PACED: self.paced_s,
            Patience.QUIET: self.quiet_s,
            Patience.LONG: self.long_s,
            Patience.OPEN_SETTLED: self.open_settled_s,
            Patience.OPEN: max(self.association_s, self.paced_s),
            Patience.OPEN_QUIET: max(self.association_s, self.quiet_s),
            Patience.OPEN_LONG: max(self.association_s, self.long_s),
        }[patience]


@dataclass(frozen=True, slots=True)
class Decision:
    """WAIT, or COMPLETE with its trigger. `patience` is what the table says; None while nothing is held."""

    action: Action
    patience: Patience | None = None
    trigger: Trigger | None = None


_S, _E, _P, _Q, _L = Patience.SETTLED, Patience.EARLY, Patience.PACED, Patience.QUIET, Patience.LONG
_OS, _O, _OQ, _OL = Patience.OPEN_SETTLED, Patience.OPEN, Patience.OPEN_QUIET, Patience.OPEN_LONG

TABLE: Final[Mapping[Counts, Mapping[Sender, tuple[Patience, Patience, Patience]]]] = {
    # Each triple: the images are WHOLE, one is UNSURE, something is BROKEN.
    Counts.EQUAL: {Sender.ENDED: (_S, _S, _S), Sender.UNSEEN: (_S, _S, _S), Sender.OPEN: (_OS, _OS, _OS)},
    Counts.OTHERS: {Sender.ENDED: (_E, _E, _E), Sender.UNSEEN: (_P, _P, _P), Sender.OPEN: (_O, _O, _O)},
    Counts.UNCONFIRMED: {Sender.ENDED: (_E, _P, _Q), Sender.UNSEEN: (_P, _P, _Q), Sender.OPEN: (_O, _O, _OQ)},
    Counts.AHEAD: {Sender.ENDED: (_E, _P, _Q), Sender.UNSEEN: (_P, _P, _Q), Sender.OPEN: (_O, _O, _OQ)},
    Counts.UNKNOWN: {Sender.ENDED: (_E, _P, _Q), Sender.UNSEEN: (_P, _P, _Q), Sender.OPEN: (_O, _O, _OQ)},
    Counts.PART: {Sender.ENDED: (_L, _L, _L), Sender.UNSEEN: (_L, _L, _L), Sender.OPEN: (_OL, _OL, _OL)},
}


def decide(known: Known, timers: Timers) -> Decision:
    """Decide from what is known; never reads a clock."""
    if not known.held:
        return Decision(Action.WAIT)
    counts = compare(known, timers.count_confirm_s)
    patience = TABLE[counts][known.sender][tuple(Evidence).index(known.evidence)]
    if known.quiet_s < timers.seconds(patience):
        return Decision(Action.WAIT, patience)
    return Decision(Action.COMPLETE, patience, _trigger(patience, counts))


def compare(known: Known, confirm_s: float) -> Counts:
    """Set the PACS's latest answers beside what is held."""
    held, last, before = images(known.held), known.last, known.before_last
    if last is None or not held:
        return Counts.UNKNOWN
    theirs = images(last.series)
    if any(count < theirs.get(uid, 0) for uid, count in held.items()):
        return Counts.PART
    if any(count > theirs.get(uid, 0) for uid, count in held.items()):
        return Counts.AHEAD
    twice = before is not None and images(before.series) == theirs and last.at_s - before.at_s >= confirm_s
    if not twice or known.now_s - last.at_s > FRESH_S:
        return Counts.UNCONFIRMED
    return Counts.EQUAL if held.keys() == theirs.keys() else Counts.OTHERS


def images(series: Mapping[str, SeriesCount]) -> dict[str, int]:
    """Return the counts of what was acquired, results left out; these are what two sides must agree on."""
    return {uid: one.count for uid, one in series.items() if one.modality not in RESULT_MODALITIES and one.count > 0}


def _trigger(patience: Patience, counts: Counts) -> Trigger:
    if counts is Counts.EQUAL:
        return Trigger.COUNT_MATCHED
    if counts is Counts.OTHERS:
        return Trigger.SERIES_MATCHED
    return Trigger.EXPECTED_MET if patience is Patience.EARLY else Trigger.QUIET_TIMER
