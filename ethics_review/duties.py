"""What is owed by a date that the log's own entries give, and what ran out: the chart behind EVIDENCE_OVERDUE.

And results that were found in a PACS and that the log does not know, behind RELEASE_UNLOGGED:

    each such result           once, in the first comparison that names it, whatever later ones say

    a clock of an incident     until it is told (NOTIFIED); the date stands in the entry that opened it
    a safety report            30 days to its countersignature, from its entry on; of a period that was over then
    a golden case              36 hours to the next run, where the model has had one; in one run of the service

Follow-up and expiry are dates as well: the replay itself suspends for them. What ran out is said once. Pure.
"""

from typing import Final

from ethics_review.charts import Chart
from ethics_review.facts import GOLDEN_MISMATCH, Fact, What
from ethics_review.sequential import MILLION

GOLDEN_US: Final = 36 * 3600 * MILLION
"""It is run each day; half a day more for a device that is busy, or did not begin."""


class Duties(Chart):
    """The duties of one model that are open, and the results past the log that were told."""

    keeps = ("owed", "golden", "unlogged")

    def __init__(self) -> None:
        self.owed: dict[str, list[int]] = {}  # name: due in microseconds since 1970, index of its entry
        self.golden: list[int | str] = []  # entry of the last run, and a boot and a tick since which none came
        self.unlogged: dict[str, int] = {}  # UID of a result that the log does not know: the entry that named it first

    def passes(self, fact: Fact) -> list[int]:
        """Time went on, as this entry says: the entries in which what ran out by it began. It is then owed no more."""
        # By the entry's own time: with the latest time of any entry before, its range alone would not give the same.
        late = [name for name, (due_us, _) in self.owed.items() if due_us < fact.time_us]
        found = [self.owed.pop(name)[1] for name in late]
        if fact.what is What.HEARTBEAT and self.golden:
            first, boot, since_us = self.golden
            # A machine that was off ran no cases, and no calls: its next run begins with a case.
            if boot != fact.boot:
                self.golden = [first, fact.boot, fact.tick_us]
            elif fact.tick_us - int(since_us) > GOLDEN_US:
                self.golden = []
                found.append(int(first))
        return found

    def take(self, fact: Fact) -> None:
        """What begins to be owed, and what is done."""
        for name, due_us in fact.owed:
            self.owed.setdefault(name, [due_us, fact.index])
        for name in fact.done:
            self.owed.pop(name, None)
        if fact.what is What.GOLDEN or fact.code == GOLDEN_MISMATCH:
            self.golden = [fact.index, fact.boot, fact.tick_us]

    def unknown(self, fact: Fact, model: str) -> tuple[int, int]:
        """Of results past the log that may be the model's: how many are new, and the entry that named the oldest.

        What stays in the PACS is found again each day: who resumes a model, resumes it knowing that.
        """
        mine = [uid for uid, of in fact.unlogged if of in {None, model}]
        known = [self.unlogged[uid] for uid in mine if uid in self.unlogged]
        new = len(mine) - len(known) + fact.beyond
        for uid in mine:
            self.unlogged.setdefault(uid, fact.index)
        return new, min(known, default=fact.index)
