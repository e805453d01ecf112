"""How quickly each sender sends, learnt from what it has sent; and a study's timers, made of that and the policy.

A scanner that pushes a study in one go need not be waited for as long as one that reconstructs for half a minute
between two series. What is learnt only ever shortens the policy's waits, and never below the policy's floor. It lives
in memory: after a restart the policy's own waits hold until each sender has shown its habits again.
"""

from __future__ import annotations

from collections import OrderedDict, deque
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime
from itertools import pairwise
from typing import Final

from dicom_bridge.assembly import Policy, Timers

STUDIES_MIN: Final = 5
"""Studies of a sender before it is believed: one lucky transfer is no habit."""
STUDIES_KEPT: Final = 20
"""The latest studies of a sender that count: after a scanner was replaced, the new habits hold within a day."""
SENDERS_MAX: Final = 1024
"""Senders remembered; the one that has been silent longest goes first. AE titles can be made up without end."""
MARGIN: Final = 3.0
"""A silence this many times the longest one ever seen inside a study is believed to be its end."""
EARLY_MARGIN: Final = 1.5
"""The same, where all series that came are whole and only a further series could follow."""
USUAL_SHARE: Final = 0.95
"""Of the gaps between images, this share is no longer than the usual one; the rest are pauses between series."""
SETTLED_MAX_S: Final = 2.0
"""Where the PACS counts what we have: the longest wait for a sender that forwards each image as it is made, lest every
image of a slow scan become a study of its own."""
OPEN_SETTLED_MIN_S: Final = 0.4
"""Where the PACS counts what we have but an association is open: enough for one that is merely kept open."""
OPEN_SETTLED_S: Final = 2.0
"""The same, for a sender whose pace is not known: its association may be open because more is on its way."""
ASSOCIATION_MIN_S: Final = 10.0
"""An open association is believed idle no sooner: a stalled network comes back within this."""


@dataclass(frozen=True, slots=True)
class Habit:
    """Seconds between two images of one study: the longest of the usual gaps, and the longest of all.

    Gaps longer than the quiet timer are no part of it: no study is waited for so long, so such a one is superseded.
    """

    usual_s: float
    longest_s: float


def habit_of(received_at: Iterable[datetime], ceiling_s: float) -> Habit:
    """Return the pace at which the images of one study came; gaps above `ceiling_s` are left out."""
    gaps = [(later - earlier).total_seconds() for earlier, later in pairwise(sorted(received_at))]
    gaps = sorted(gap for gap in gaps if gap <= ceiling_s)
    return Habit(gaps[int(USUAL_SHARE * (len(gaps) - 1))], gaps[-1]) if gaps else Habit(0.0, 0.0)


class Pace:
    """What is known of the senders. For one thread."""

    def __init__(self) -> None:
        self._seen: OrderedDict[str, deque[Habit]] = OrderedDict()

    def learn(self, senders: Iterable[str], habit: Habit) -> None:
        """A study of these senders (AE titles), taken as complete, came at this pace."""
        for sender in senders:
            self._seen.setdefault(sender, deque(maxlen=STUDIES_KEPT)).append(habit)
            self._seen.move_to_end(sender)
        while len(self._seen) > SENDERS_MAX:
            self._seen.popitem(last=False)

    def of(self, senders: Iterable[str]) -> Habit | None:
        """Return the slowest habit of these senders; None when one of them is not known well enough."""
        studies: list[Habit] = []
        for sender in senders:
            seen: Sequence[Habit] = self._seen.get(sender, ())
            if len(seen) < STUDIES_MIN:
                return None
            studies += seen
        return _slowest(studies) if studies else None


def timers(policy: Policy, habit: Habit | None, own: Habit, fixed_quiet_s: float | None = None) -> Timers:
    """Return a study's timers.

    `habit`: what its senders are known for. `own`: the pace of this very study so far, which makes it wait longer than
    its senders' habit would, never shorter. `fixed_quiet_s`: the site's own word for a sender; nothing shortens it.
    """
    quiet_s = policy.quiet_s if fixed_quiet_s is None else fixed_quiet_s
    paced_s, association_s, open_settled_s = quiet_s, policy.association_quiet_s, min(OPEN_SETTLED_S, quiet_s)
    slow = _slowest([own] if habit is None else [own, habit])
    settled_s = min(MARGIN * slow.usual_s, SETTLED_MAX_S, quiet_s)
    if habit is not None:
        if fixed_quiet_s is None:
            paced_s = min(max(policy.quiet_min_s, MARGIN * slow.longest_s), quiet_s)
        association_s = min(max(ASSOCIATION_MIN_S, MARGIN * slow.longest_s), association_s)
        open_settled_s = min(max(OPEN_SETTLED_MIN_S, settled_s), open_settled_s)
    return Timers(
        settled_s=settled_s,
        open_settled_s=open_settled_s,
        early_s=min(max(policy.early_quiet_s, EARLY_MARGIN * slow.longest_s), paced_s),
        paced_s=paced_s,
        quiet_s=quiet_s,
        long_s=max(policy.short_quiet_s, quiet_s),
        association_s=association_s,
        count_confirm_s=policy.count_confirm_s,
    )


def _slowest(habits: Sequence[Habit]) -> Habit:
    return Habit(max(one.usual_s for one in habits), max(one.longest_s for one in habits))
