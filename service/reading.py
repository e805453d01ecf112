"""What a run reads: exactly the instances that it was started for, the series that fits a model, its volume.

A loaded series is kept while its run goes on, so that the steps do not read the disk again; after a crash it is read
anew.
"""

import hashlib
import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from dicom_bridge import candidates, selection, volume
from dicom_bridge.assembly import RESULT_MODALITIES
from dicom_bridge.errors import VolumeRefused
from dicom_bridge.inbox import Inbox
from dicom_bridge.patient import Patient, read_patient
from dicom_bridge.rules import Predicate, Rule, SeriesSummary, ask, criteria_of
from dicom_bridge.selection import NO_RULE_MATCHES, NoFit
from dicom_bridge.slices import Slice
from dicom_bridge.spool_index import Instance
from dicom_bridge.volume import LoadedSeries
from models.library import Installed, Library
from models.manifest import Manifest
from models.ref import ModelRef
from service.errors import ImagesGone, InputSuperseded, NothingFits
from service.store import Run


@dataclass(frozen=True, slots=True)
class Chosen:
    """What to read and the model to read it with. `part`: which volume of the series, "" where there is one.

    `rule`: the name of the site's rule that decided, "" without rules; `urgent` as it says.
    """

    series_uid: str
    ref: ModelRef
    modality: str
    part: str = ""
    rule: str = ""
    urgent: bool = False


class NoRuleMatches(NothingFits):
    """No series of a study meets a rule and its model's manifest; `condition` is the predicate that decided."""

    code = NO_RULE_MATCHES


class Reading:
    """The input side of the story."""

    def __init__(self, inbox: Inbox, *, rules: Sequence[Rule] = (), charsets: Mapping[str, str] | None = None) -> None:
        """`rules`: the site's, in order. `charsets`: AE title -> the character set that it writes, under a false name
        or none (`Peer.assumed_charset`).
        """
        self._inbox = inbox
        self._rules = tuple(rules)
        self._charsets = dict(charsets or {})
        self._lock = threading.Lock()
        self._loaded: dict[str, LoadedSeries] = {}
        self._slices: dict[str, dict[str, tuple[Slice, ...]]] = {}

    def instances(self, run: Run) -> tuple[Instance, ...]:
        """The instances of the run's input; results are none. Raises InputSuperseded where more have arrived
        since, ImagesGone where others have been let go, InboxUnavailable.
        """
        held = self._inbox.instances(run.study_uid)
        # Asked after the list was taken, so that an image which comes in between is seen here.
        if self._inbox.input_digest(run.study_uid) != run.input_digest:
            raise InputSuperseded("images arrived after this run was started; a new run reads all of them")
        if any(one.modality not in RESULT_MODALITIES for one in self._inbox.gone(run.study_uid).values()):
            raise ImagesGone("images of this study have left the spool; have the PACS send all of it again")
        return tuple(one for one in held if one.modality not in RESULT_MODALITIES)

    def patient(self, run: Run) -> Patient | None:
        """Whose images the run's are; None where they do not say, or not all say the same."""
        found = self.instances(run)
        if not found or self._inbox.identities(run.study_uid) > 1:
            return None
        return read_patient(found[0].path, self._charsets.get(found[0].sender))

    def choose(self, run: Run, library: Library) -> tuple[Chosen, ...]:
        """Each model that fits, with its volume; of a run for one model that alone. There is at least one.

        Raises NothingFits or NoRuleMatches with the predicate that decided.
        """
        instances = self.instances(run)
        if self._inbox.identities(run.study_uid) > 1:
            raise VolumeRefused("IDENTITY_CONFLICT", "the study's images name different patients")
        manifests = {
            item.ref: item.manifest
            for item in library.list()
            if isinstance(item, Installed) and run.for_model in (None, item.ref.digest)
        }
        series = self._candidates(run, instances, manifests)
        found = selection.choose_all(series, manifests, self._rules)
        if isinstance(found, NoFit):
            refused = NoRuleMatches if found.code == NO_RULE_MATCHES else NothingFits
            raise refused(_decided_by(found))
        modality = {one.series_uid: one.modality for one in series}
        return tuple(
            Chosen(one.series_uid, one.model, modality[one.series_uid], one.part, one.rule, one.urgent) for one in found
        )

    def urgent(self, study_uid: str) -> bool:
        """Whether an urgent rule may concern the study, as far as the index knows: for its place in the queue."""
        return selection.urgent(self._inbox.instances(study_uid), self._rules)

    def series(self, run: Run, series_uid: str, part: str = "") -> LoadedSeries:
        """The series, or the named one of its volumes, as one regular volume. Raises VolumeRefused."""
        with self._lock:
            if run.run_id in self._loaded:
                return self._loaded[run.run_id]
        # Before the instances are checked, so that it is the digest of these and of no later one.
        digest = self._inbox.input_digest(run.study_uid, series_uid)
        members = [one for one in self.instances(run) if one.series_uid == series_uid]
        with self._lock:
            slices = self._slices.get(run.run_id, {}).get(series_uid, ())
        if not slices:
            slices = volume.read_slices([one.path for one in members], self._assumed(members))
        loaded = volume.build(slices, _of_part(digest, part), part=part)
        with self._lock:
            self._loaded[run.run_id] = loaded
            self._slices.pop(run.run_id, None)
        return loaded

    def forget(self, run_id: str) -> None:
        """The run is over."""
        with self._lock:
            self._loaded.pop(run_id, None)
            self._slices.pop(run_id, None)

    def _candidates(
        self, run: Run, instances: Sequence[Instance], manifests: Mapping[ModelRef, Manifest]
    ) -> list[SeriesSummary]:
        """Every volume of the study. A series that no manifest takes, by what the index knows, is not read."""
        found: list[SeriesSummary] = []
        slices: dict[str, tuple[Slice, ...]] = {}
        for known in selection.summarise(instances):
            if not any(_may_fit(known, manifest) for manifest in manifests.values()):
                found.append(known)
                continue
            members = [one for one in instances if one.series_uid == known.series_uid]
            senders = {one.path: one.sender for one in members}
            read = candidates.read_series([one.path for one in members], senders, self._charsets)
            found += read.summaries
            slices[known.series_uid] = read.slices
        with self._lock:
            # Kept until the series is loaded, so that no header is read twice.
            self._slices[run.run_id] = slices
        return found

    def _assumed(self, members: Sequence[Instance]) -> dict[Path, str]:
        return {one.path: self._charsets[one.sender] for one in members if one.sender in self._charsets}


def _may_fit(series: SeriesSummary, manifest: Manifest) -> bool:
    """Whether modality and class are those of the manifest; what is mixed in a series is told apart by reading it."""
    wanted = criteria_of(manifest.input)
    modality = ask(Predicate.MODALITY, series, wanted)
    sop_class = ask(Predicate.SOP_CLASS, series, wanted)
    return bool(modality and modality.holds) and (not series.sop_class or bool(sop_class and sop_class.holds))


def _of_part(digest: str, part: str) -> str:
    """The digest of one volume of a series: of the instances that hold it, and of its name."""
    return f"sha256:{hashlib.sha256(f'{digest} {part}'.encode()).hexdigest()}" if part else digest


def _decided_by(refusal: NoFit) -> str:
    """The predicate that stopped the series which came farthest: what a person would look at first."""
    farthest = refusal.farthest
    return farthest.decided_by.value if farthest and farthest.decided_by else "NO_MODEL_OR_NO_SERIES"
