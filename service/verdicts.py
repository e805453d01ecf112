"""What comes back by DICOM from readers: an edited or verified report, or an edited segmentation, becomes a decision.

The object is held like all that is received, and no model ever reads it. It is looked at afterwards, by a chore:
compared with the very bytes that were released, and logged as one HUMAN_DECISION, numbered within its call, that names
the object by a pseudonym: the same again, tomorrow or after a crash, finds its entry. At each start all that is held is
looked through: what was not logged yet is logged then.

Who decided is what the object says of itself, and nobody proves it: the role is ASSERTED, and there is no training.
Only peers that the configuration allows (`verdicts = true`) are believed even that much.
"""

import hashlib
import queue
import sqlite3
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Final, Protocol

import structlog

from audit.canonical import JsonValue
from audit.entry import Draft, Entry, Kind
from audit.errors import EntryInvalid, KeyConflict
from dicom_bridge.errors import InboxUnavailable
from dicom_bridge.rejection import rejection_uid
from dicom_bridge.spool_index import Instance, StudyRow
from dicom_bridge.verdict_match import MODALITIES, Base, Judged, VerdictUnmatched, judge
from dicom_bridge.verdict_tree import VerdictUnusable
from service.decisions import AGAIN_MAX, Finds, sent_back, sent_back_key
from service.keys import Pseudonyms
from service.results import SEG, SR
from service.sections import PeerSection
from service.store import Run

ROLE: Final = "ASSERTED"
"""Not the role of a reader whom we know: a name that stands in an object."""
UNKNOWN: Final = "UNKNOWN"
"""Of the weight of a difference no object says anything; what nobody said the monitor takes for significant."""
CODE_CHARS_MAX: Final = 64
"""Characters of a code in an entry (audit.schema)."""
QUIET: Final = frozenset({"OWN_OBJECT", "NOTHING_SAID", "LOGGED_BEFORE", "NO_MATCH", "CLASS_UNSUPPORTED"})
"""Outcomes that need nobody's eye: a PACS sends our own back, a viewer saves what it shows, dose reports come along."""

_log = structlog.get_logger()


class Spool(Protocol):
    """What is asked of the inbox."""

    def studies(self) -> Sequence[StudyRow]:
        """Every study of which something is held."""

    def instances(self, study_uid: str) -> Sequence[Instance]:
        """What is held of a study."""


class Writer(Protocol):
    """Where decisions go. Raises AuditError."""

    def append(self, draft: Draft) -> Entry:
        """See AuditLog."""


class Runs(Protocol):
    """Which runs a study had; service.store.Store."""

    def of_study(self, study_uid: str) -> Sequence[Run]:
        """All runs of a study, oldest first."""


def believed(peers: Sequence[PeerSection]) -> frozenset[str]:
    """The AE titles whose objects are verdicts: of peers that may return them, and of no other peer as well."""
    return frozenset(one.ae_title for one in peers if one.verdicts) - {
        one.ae_title for one in peers if not one.verdicts
    }


class Verdicts:
    """A chore. `titles`: who is believed; `results`: the folder of service.results.

    `decided` is told each new decision, `seen` what became of each object: LOGGED, or why it is no decision.
    """

    def __init__(
        self,
        *,
        spool: Spool,
        runs: Runs,
        log: Finds,
        writer: Writer,
        pseudonyms: Pseudonyms,
        results: Path,
        titles: frozenset[str],
        decided: Callable[[str], None] = lambda _decision: None,
        seen: Callable[[str], None] = lambda _outcome: None,
    ) -> None:
        self._spool, self._runs, self._log, self._writer = spool, runs, log, writer
        self._pseudonyms, self._results, self._titles = pseudonyms, results, titles
        self._decided, self._seen = decided, seen
        self._arrived: queue.SimpleQueue[Instance] = queue.SimpleQueue()
        self._open: dict[str, Instance] = {}
        self._waits_for: dict[str, str] = {}
        self._began = False

    def heard(self, instance: Instance, sender: str) -> None:
        """Something was stored by this AE title. Quick, and safe for the threads that receive."""
        if sender in self._titles and instance.modality in MODALITIES:
            self._arrived.put(instance)

    def __call__(self) -> None:
        """Look at what has come. Raises AuditError, InboxUnavailable, SQLAlchemyError, OSError: later, then."""
        if not self._began:
            self._look_through()
            self._began = True
        while not self._arrived.empty():
            instance = self._arrived.get()
            self._open[instance.sop_uid] = instance
        for uid, instance in list(self._open.items()):
            outcome = self._outcome(instance)
            if outcome is None:
                continue
            del self._open[uid]
            self._waits_for.pop(uid, None)
            self._seen(outcome)
            if outcome == "LOGGED":
                _log.info("verdict_logged")
            elif outcome not in QUIET:
                # It is held, and it is no decision: somebody may want to ask the reader.
                _log.warning("verdict_not_taken", code=outcome, peer=instance.sender, kind=instance.modality)

    def _look_through(self) -> None:
        """After a start: what was received and not looked at before the end of the last process."""
        try:
            for study in self._spool.studies():
                for one in self._spool.instances(study.study_uid):
                    if one.sender in self._titles and one.modality in MODALITIES:
                        self._open[one.sop_uid] = one
        except sqlite3.Error as error:
            raise InboxUnavailable("SPOOL_FAILED", f"the index cannot be read ({type(error).__name__})") from error

    def _outcome(self, instance: Instance) -> str | None:
        """What became of it; None while its call is not released, which may take its time."""
        waits_for = self._waits_for.get(instance.sop_uid)
        if waits_for is not None and self._log.find(f"released:{waits_for}") is None:
            return None
        calls = {run.call: None for run in self._runs.of_study(instance.study_uid) if run.call is not None}
        name = self._pseudonyms.of("verdict", instance.sop_uid)
        if any(one.body["object"] == name for call in calls for one in sent_back(self._log, call)):
            return "LOGGED_BEFORE"
        try:
            bases = list(self._bases(calls))
            if any(instance.sop_uid in {*base.own, rejection_uid(base.call)} for base in bases):
                return "OWN_OBJECT"
            judged = judge(instance.path, instance.sop_class, bases)
        except (VerdictUnmatched, VerdictUnusable) as refused:
            return refused.code
        except FileNotFoundError:
            return "GONE"
        if judged.verdict.decision is None:
            return "NOTHING_SAID"
        if self._log.find(f"released:{judged.call}") is None:
            self._waits_for[instance.sop_uid] = judged.call
            return None
        return self._logged(name, judged, judged.verdict.decision)

    def _bases(self, calls: Iterable[str]) -> Iterator[Base]:
        """What these calls made, where it lies here as the log has it: else there is nothing to compare with."""
        for call in calls:
            result = self._log.find(f"result:{call}")
            folder = self._results / call
            if result is None:
                continue
            digests = {str(one["kind"]): str(one["digest"]) for one in _outputs(result)}
            if _is(folder / SR, digests.get("SR")):
                seg = folder / SEG if _is(folder / SEG, digests.get("SEG")) else None
                yield Base(call, folder / SR, seg, frozenset(str(one["uid"]) for one in _outputs(result)))

    def _logged(self, name: str, judged: Judged, decision: str) -> str:
        number = sum(1 for _ in sent_back(self._log, judged.call))
        if number >= AGAIN_MAX:
            return "DECISIONS_TOO_MANY"
        key, body = f"{sent_back_key(judged.call)}:{number}", self._body(name, judged, decision)
        try:
            self._writer.append(Draft(Kind.HUMAN_DECISION, key, body, judged.call))
        except (EntryInvalid, KeyConflict) as refused:
            return refused.code  # no second try can help
        self._decided(decision)
        return "LOGGED"

    def _body(self, name: str, judged: Judged, decision: str) -> dict[str, JsonValue]:
        verdict = judged.verdict
        who = self._pseudonyms.of("observer", verdict.observer) if verdict.observer else None
        return {
            "decision": decision,
            "reasons": list(verdict.reasons),
            "significant": "NO" if decision == "ACCEPT" else UNKNOWN,
            "reader": who,
            "role": ROLE,
            "training": None,
            "channel": judged.channel,
            "seconds": None,
            "blinded": "NO",
            "difference": [
                {"code": _place(one.code, one.tracking), "before": one.before, "after": one.after, "unit": one.unit}
                for one in verdict.changes
            ],
            "concordance": None,
            "object": name,
        }


def _outputs(result: Entry) -> Sequence[dict[str, JsonValue]]:
    outputs = result.body["outputs"]
    return outputs if isinstance(outputs, (list, tuple)) else ()


def _is(path: Path, digest: str | None) -> bool:
    try:
        return digest == f"sha256:{hashlib.sha256(path.read_bytes()).hexdigest()}"
    except FileNotFoundError:
        return False


def _place(code: str, tracking: str) -> str:
    """Which value it is: what was measured, of which of our findings."""
    both = f"{code} {tracking}"
    return both if len(both) <= CODE_CHARS_MAX else code
