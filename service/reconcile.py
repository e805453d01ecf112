"""Is every acknowledged instance accounted for? Compares files, index, runs and outbox; changes nothing.

Each instance must be in exactly one place where it ends in a result or in a reason that a person can see (I2). What is
not is a problem with a code:

    FILE_MISSING     the index names it, its file is gone, and nothing says that it was let go
    FILE_UNKNOWN     a file that the index does not know; the service indexes it when it starts
    FILE_CHANGED     its bytes are not those that were acknowledged (only with `deep`)
    NO_RUN           its study was handed on, yet no run read this input
    NOT_IN_OUTBOX    its run ended as WRITTEN for a peer, yet nothing is on its way there
    UNACCOUNTED      a sender says that we acknowledged it, and nothing here knows it
"""

from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path
from typing import Protocol

from dicom_bridge import tombstone
from dicom_bridge.assembly import RESULT_MODALITIES
from dicom_bridge.errors import InstanceRefused
from dicom_bridge.spool_index import Instance, StudyRow
from dicom_bridge.spool_recovery import read_held
from dicom_bridge.tombstone import Gone
from service.retention import ENDS
from service.store import Run, State, newest


class Fate(StrEnum):
    """Where an instance is. The first four are held in the spool."""

    ARRIVING = "ARRIVING"  # its study waits to be complete
    IN_PROGRESS = "IN_PROGRESS"  # a run reads it, or its results are on their way
    ENDED = "ENDED"  # its study's newest run is over: released, run in the shadow, refused or failed, with a code
    RESULT = "RESULT"  # a report or segmentation, which no model reads
    LET_GO = "LET_GO"  # its results were committed and its pixels have left the spool
    QUARANTINED = "QUARANTINED"  # kept for a person to look at


class Problem(StrEnum):
    """What is wrong; see the module."""

    FILE_MISSING = "FILE_MISSING"
    FILE_UNKNOWN = "FILE_UNKNOWN"
    FILE_CHANGED = "FILE_CHANGED"
    NO_RUN = "NO_RUN"
    NOT_IN_OUTBOX = "NOT_IN_OUTBOX"
    UNACCOUNTED = "UNACCOUNTED"


@dataclass(frozen=True, slots=True)
class Finding:
    """One problem with one instance, or with a whole study where `sop_uid` is None."""

    problem: Problem
    study_uid: str | None
    sop_uid: str | None


@dataclass(frozen=True, slots=True)
class Report:
    """`fates` counts instances; nothing is lost if `findings` is empty."""

    fates: Mapping[Fate, int]
    findings: tuple[Finding, ...]

    @property
    def ok(self) -> bool:
        """Whether everything is accounted for."""
        return not self.findings


class Index(Protocol):
    """The spool's index, for looking."""

    def names(self) -> Iterable[tuple[str, str]]:
        """(study UID, SOP Instance UID) of everything held."""

    def instances(self, study_uid: str) -> Sequence[Instance]:
        """What is held of a study."""

    def study(self, study_uid: str) -> StudyRow | None:
        """The study's marks."""


@dataclass(frozen=True, slots=True)
class Places:
    """Where to look. `runs_of`: a study's runs, oldest first. `sending`: whether the outbox knows the call.

    input_digest: what a run of the study as it is now would see; see Inbox.input_digest.
    delivers: whether results go to a peer at all. quarantined: how many instances are in quarantine.
    """

    studies: Path
    index: Index
    runs_of: Callable[[str], Sequence[Run]]
    sending: Callable[[str], bool]
    input_digest: Callable[[str], str]
    delivers: bool
    quarantined: int


@dataclass(slots=True)
class _Tally:
    fates: Counter[Fate] = field(default_factory=Counter)
    findings: list[Finding] = field(default_factory=list)
    seen: set[str] = field(default_factory=set)

    def problem(self, problem: Problem, study_uid: str | None, sop_uid: str | None = None) -> None:
        self.findings.append(Finding(problem, study_uid, sop_uid))


def reconcile(places: Places, *, acknowledged: Iterable[str] = (), deep: bool = False) -> Report:
    """Account for everything. `acknowledged`: SOP Instance UIDs that a sender was told are held.

    `deep` reads every file again and compares its digest. Raises OSError, sqlite3.Error, SQLAlchemyError.
    """
    tally = _Tally()
    folders = {path.name for path in places.studies.iterdir() if path.is_dir()} if places.studies.is_dir() else set()
    for study_uid in sorted({study for study, _ in places.index.names()} | folders):
        _study(places, study_uid, tally, deep=deep)
    tally.fates[Fate.QUARANTINED] += places.quarantined
    for sop_uid in sorted(set(acknowledged) - tally.seen):
        tally.problem(Problem.UNACCOUNTED, None, sop_uid)
    return Report(dict(tally.fates), tuple(tally.findings))


def _study(places: Places, study_uid: str, tally: _Tally, *, deep: bool) -> None:
    folder = places.studies / study_uid
    held = places.index.instances(study_uid)
    gone = tombstone.read(folder)
    names = {one.sop_uid for one in held}
    fate = _fate(places, study_uid, held, gone, tally)
    for one in held:
        tally.seen.add(one.sop_uid)
        tally.fates[Fate.RESULT if one.modality in RESULT_MODALITIES else fate] += 1
        wrong = None if _leaving(one, gone) and not one.path.exists() else _wrong(one, places.studies, deep=deep)
        if wrong is not None:
            tally.problem(wrong, study_uid, one.sop_uid)
    for sop_uid in gone.keys() - names:
        tally.seen.add(sop_uid)
        tally.fates[Fate.LET_GO] += 1
    files = {path.stem for path in folder.glob("*.dcm")} if folder.is_dir() else set()
    for sop_uid in sorted(files - names):
        tally.seen.add(sop_uid)
        tally.problem(Problem.FILE_UNKNOWN, study_uid, sop_uid)


def _leaving(one: Instance, gone: Mapping[str, Gone]) -> bool:
    """Whether it is being let go: remembered first, then its file is removed, then its row (see tombstone)."""
    left = gone.get(one.sop_uid)
    return left is not None and left.digest == one.digest


def _wrong(one: Instance, studies: Path, *, deep: bool) -> Problem | None:
    if not one.path.is_file():
        return Problem.FILE_MISSING
    if not deep:
        return None
    try:
        # A digest that was not taken yet says nothing; that the file is a whole instance is what can be said.
        same = read_held(one.path, studies).digest == one.digest or not one.digest
    except FileNotFoundError:
        # Let go between the two looks, beside a running service.
        return Problem.FILE_MISSING
    except InstanceRefused:
        same = False
    return None if same else Problem.FILE_CHANGED


def _fate(places: Places, study_uid: str, held: Sequence[Instance], gone: Mapping[str, Gone], tally: _Tally) -> Fate:
    """Where the study's images are, and whether its runs answer for them."""
    row = places.index.study(study_uid)
    if row is None or row.touches > row.assembled_touches:
        return Fate.ARRIVING
    runs = places.runs_of(study_uid)
    images = [one for one in held if one.modality not in RESULT_MODALITIES]
    if not images:
        return Fate.RESULT
    mine = [run for run in runs if run.input_digest == places.input_digest(study_uid)]
    if not mine and all(_leaving(one, gone) for one in images):
        # What is left of a study on its way out: no run ever read just these, and one has read them all.
        return Fate.ENDED
    if not mine:
        tally.problem(Problem.NO_RUN, study_uid)
        return Fate.IN_PROGRESS
    last = newest(mine)
    leaving = [run for run in last if run.state is State.WRITTEN and places.delivers]
    if any(run.call is None or not places.sending(run.call) for run in leaving):
        tally.problem(Problem.NOT_IN_OUTBOX, study_uid)
    ended = all(run.state in ENDS or run.state is State.WRITTEN for run in last)
    return Fate.ENDED if ended and not leaving else Fate.IN_PROGRESS
