"""Where a dossier stands, as the log says: what the gate is given. Frozen; made by the register."""

from dataclasses import dataclass
from datetime import datetime

from ethics_review.dossier import Approval
from ethics_review.states import Cause, State
from models.ref import ModelRef


@dataclass(frozen=True, slots=True)
class Step:
    """One thing that happened to a dossier: in the entry of this index, at its time; `by`: whose keys signed."""

    index: int
    time: str
    event: str
    start: State | None
    end: State | None
    reason: str
    by: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Standing:
    """One model's dossier now.

    Attributes:
        approvals: those recorded for this digest set that verify with today's keys, in the log's order. Of those whose
            validity has begun only the newest: a reviewer who renews more narrowly means it.
        cause, suspended_from, suspended_by: of the present suspension; the names of those who signed for it.
        cut_off: (CONDITION, class) pairs that were taken out of use; no approval gives them back.
        last_note: "sha256:..." of the newest signed note about it; the next act names it.
        submission: digest of what was submitted last.
        asked: evaluations that ask for a suspension which has not come: until it does, nothing is permitted.
        history: what counted, in the log's order. follow_up_at: when the next follow-up is overdue.
    """

    model: ModelRef
    state: State
    approvals: tuple[Approval, ...] = ()
    cause: Cause | None = None
    suspended_from: State | None = None
    suspended_by: tuple[str, ...] = ()
    cut_off: frozenset[tuple[str, str]] = frozenset()
    last_note: str | None = None
    submission: str | None = None
    asked: tuple[int, ...] = ()
    history: tuple[Step, ...] = ()
    follow_up_at: datetime | None = None


@dataclass(frozen=True, slots=True)
class Stop:
    """Everything stops: at one site, or in the whole service. `index`: the entry that says so."""

    level: str
    site: str | None
    index: int
