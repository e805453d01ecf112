"""What a run reads: exactly the instances that it was started for, the series that fits a model, its volume.

A loaded series is kept while its run goes on, so that the steps do not read the disk again; after a crash it is read
anew.
"""

import threading
from dataclasses import dataclass

from dicom_bridge import selection, volume
from dicom_bridge.assembly import RESULT_MODALITIES
from dicom_bridge.errors import VolumeRefused
from dicom_bridge.inbox import Inbox
from dicom_bridge.selection import Choice, NoFit, Predicate
from dicom_bridge.spool_index import Instance
from dicom_bridge.volume import LoadedSeries
from models.library import Installed, Library
from models.ref import ModelRef
from service.errors import InputSuperseded, NothingFits
from service.store import Run


@dataclass(frozen=True, slots=True)
class Chosen:
    """The series to read and the model to read it with."""

    series_uid: str
    ref: ModelRef
    modality: str


class Reading:
    """The input side of the story."""

    def __init__(self, inbox: Inbox) -> None:
        self._inbox = inbox
        self._lock = threading.Lock()
        self._loaded: dict[str, LoadedSeries] = {}

    def instances(self, run: Run) -> tuple[Instance, ...]:
        """The instances of the run's input; results are none. Raises InputSuperseded where more have arrived since."""
        held = self._inbox.instances(run.study_uid)
        # Asked after the list was taken, so that an image which comes in between is seen here.
        if self._inbox.input_digest(run.study_uid) != run.input_digest:
            raise InputSuperseded("images arrived after this run was started; a new run reads all of them")
        return tuple(one for one in held if one.modality not in RESULT_MODALITIES)

    def choose(self, run: Run, library: Library) -> Chosen:
        """The one series and model that fit. Raises NothingFits with the predicate that decided."""
        series = selection.summarise(self.instances(run))
        if self._inbox.identities(run.study_uid) > 1:
            raise VolumeRefused("IDENTITY_CONFLICT", "the study's images name different patients")
        manifests = {item.ref: item.manifest for item in library.list() if isinstance(item, Installed)}
        choice: Choice | NoFit = selection.choose(series, manifests)
        if isinstance(choice, NoFit):
            raise NothingFits(_decided_by(choice))
        modality = next(one.modality for one in series if one.series_uid == choice.series_uid)
        return Chosen(choice.series_uid, choice.model, modality)

    def series(self, run: Run, series_uid: str) -> LoadedSeries:
        """The series as one regular volume. Raises VolumeRefused."""
        with self._lock:
            if run.run_id in self._loaded:
                return self._loaded[run.run_id]
        # Before the instances are checked, so that it is the digest of these and of no later one.
        digest = self._inbox.input_digest(run.study_uid, series_uid)
        paths = [one.path for one in self.instances(run) if one.series_uid == series_uid]
        loaded = volume.load(paths, digest)
        with self._lock:
            self._loaded[run.run_id] = loaded
        return loaded

    def forget(self, run_id: str) -> None:
        """The run is over."""
        with self._lock:
            self._loaded.pop(run_id, None)


def _decided_by(refusal: NoFit) -> str:
    """The predicate that stopped the series which came farthest: what a person would look at first."""
    order = list(Predicate)
    stops = [verdict.decided_by for verdict in refusal.verdicts if verdict.decided_by is not None]
    return max(stops, key=order.index).value if stops else "NO_MODEL_OR_NO_SERIES"
