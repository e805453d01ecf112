"""Pixels leave the spool when nobody needs them any more; what they were stays known.

A study's images are kept while anything may still read them: while it arrives, while a run of it is under way, and for
a time after the end of its newest run, so that a person can look into a refusal. The PACS has them all along.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Protocol

import structlog

from dicom_bridge.spool_index import StudyRow
from service.store import Run, State, Store, newest

ENDS = frozenset({State.RELEASED, State.SHADOWED, State.REFUSED, State.FAILED, State.UNDELIVERED})
NEEDS_A_PERSON = frozenset({State.FAILED, State.UNDELIVERED})
STUDIES_A_ROUND = 20
"""Deleting thousands of files at once would slow the images that come in; the rest goes in the next round."""
ROUND_S = 60.0
"""Retention counts in hours: more often costs a look at every study for nothing."""

_log = structlog.get_logger()


@dataclass(frozen=True, slots=True)
class Keep:
    """How long after the end of a study's newest attempt, of all its runs, its images stay.

    done: after RELEASED, SHADOWED or REFUSED: the result is out, or is not to go out, or the refusal says what was
        wrong with the input.
    unsolved: after FAILED or UNDELIVERED, and where no peer is configured for results: somebody has to look.
    """

    done: timedelta
    unsolved: timedelta = timedelta(days=7)


class Spool(Protocol):
    """What retention needs of the inbox."""

    def studies(self) -> Sequence[StudyRow]:
        """Every study of which something is held."""

    def let_go(self, study_uid: str) -> int:
        """Remove a study's images, remembering them; gives how many. Raises InboxUnavailable."""


def due(study: StudyRow, runs: Sequence[Run], keep: Keep, now: datetime) -> bool:
    """Whether the study's images may go now; `runs` are all of the study's, oldest first."""
    if study.touches > study.assembled_touches:
        return False
    if not runs:
        # Nothing was ever to be run on it, as with reports that the PACS sends.
        return now - study.last_received_at >= keep.unsolved
    if any(run.state not in ENDS and run.state is not State.WRITTEN for run in runs):
        return False
    last = newest(runs)
    solved = all(run.state in (State.RELEASED, State.SHADOWED, State.REFUSED) for run in last)
    patience = keep.done if solved else keep.unsolved
    return now - max(study.last_received_at, *(run.updated_at for run in last)) >= patience


class Retention:
    """A chore: one look at every study, at most every `ROUND_S`."""

    def __init__(self, spool: Spool, store: Store, keep: Keep, now: Callable[[], datetime]) -> None:
        self._spool, self._store, self._keep, self._now = spool, store, keep, now
        self._looked_at: datetime | None = None

    def __call__(self) -> None:
        """Let go of what is due. Raises InboxUnavailable, SQLAlchemyError: then the next round tries again."""
        now = self._now()
        if self._looked_at is not None and timedelta(0) <= now - self._looked_at < timedelta(seconds=ROUND_S):
            return
        self._looked_at = now
        ripe = (row for row in self._spool.studies() if due(row, self._store.of_study(row.study_uid), self._keep, now))
        gone = 0
        for number, row in enumerate(ripe):
            if number == STUDIES_A_ROUND:
                # More is waiting: do not wait a whole minute for it.
                self._looked_at = None
                break
            gone += self._spool.let_go(row.study_uid)
        if gone:
            _log.info("images_let_go", instances=gone)
