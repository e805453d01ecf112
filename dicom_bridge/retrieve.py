"""Fetches one study from a peer, in whatever way that peer can, and says honestly what came of it.

    ask     what does the peer have of the study, series by series and instance by instance?
    fetch   what is not held: C-MOVE, C-GET, WADO-RS or Orthanc's REST API (`Peer.retrieve`)
    ask     again: what does it have now?
    compare with what is held durably; fetch what is missing once more, a few times; then say PULL_INCOMPLETE

What the peer says of its own transfer decides nothing. A study that is here whole already is success at once, so a
repeated or interrupted retrieval does no harm. A crash leaves instances that are held and a study that is not whole:
the next retrieval fetches the rest.
"""

from __future__ import annotations

import secrets
import sqlite3
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Final

from dicom_bridge import catalogue
from dicom_bridge.catalogue import Catalogue, Held, SeriesEntry, Wanted
from dicom_bridge.errors import BridgeError, InboxUnavailable
from dicom_bridge.inbox import Inbox
from dicom_bridge.incoming import InboxLimits
from dicom_bridge.keeping import Keeper
from dicom_bridge.patience import LOOK_S, Patience, RetrieveFailed, RetrieveLimits
from dicom_bridge.peers import Peer, Retrieve
from dicom_bridge.sources import Source, source
from dicom_bridge.uids import storable

_FINAL: Final = frozenset(
    {
        *("PULL_NOT_FOUND", "PULL_WRONG_STUDY", "PULL_ENDLESS", "PULL_TOO_LONG", "PULL_CANCELLED", "PULL_REDIRECTED"),
        *("PULL_DESTINATION_UNKNOWN", "PEER_NO_CONTEXT", "INSTANCE_TOO_LARGE"),
        *("SPOOL_FULL", "SPOOL_FAILED", "QUARANTINE_FULL", "STOPPING"),
    }
)
"""Another attempt a few seconds later would end the same."""


@dataclass(frozen=True, slots=True)
class Progress:
    """How far it is: `stored` of `expected` instances are held durably; `attempt` counts from 1."""

    expected: int
    stored: int
    attempt: int


@dataclass(frozen=True, slots=True)
class Retrieved:
    """How it ended. `code` is None exactly if everything that the peer has (and was asked for) is held durably.

    expected: by the peer's own last count; stored: of these, held. failed: instances that were not kept in the last
    attempt, by code: ours (InstanceRefused's), the peer's final status (0x....), or SUBOPERATION_FAILED.
    detail: a sentence for a person, without patient data.
    """

    expected: int
    stored: int
    failed: Mapping[str, int] = field(default_factory=dict)
    attempts: int = 0
    code: str | None = None
    detail: str = ""


def retrieve(
    peer: Peer,
    study_uid: str,
    inbox: Inbox,
    our_ae: str,
    *,
    wants: Callable[[str, SeriesEntry], bool] | None = None,
    limits: RetrieveLimits | None = None,
    progress: Callable[[Progress], None] | None = None,
    stop: threading.Event | None = None,
) -> Retrieved:
    """Fetch what the peer has of a study and the inbox does not hold; never raises for what peers, network or disk do.

    `wants` says of a series (UID and entry) whether it is to be fetched; without it, all are. `progress` is called from
    threads of the transfer, at most some times a second. `stop` ends it within about a second. ValueError: no UID.
    """
    if not storable(study_uid):
        raise ValueError("not a study's UID")
    return _Retrieval(peer, study_uid, inbox, our_ae, wants, limits, progress, stop).run()


class _Retrieval:
    """One call of `retrieve`."""

    def __init__(
        self,
        peer: Peer,
        study_uid: str,
        inbox: Inbox,
        our_ae: str,
        wants: Callable[[str, SeriesEntry], bool] | None,
        limits: RetrieveLimits | None,
        progress: Callable[[Progress], None] | None,
        stop: threading.Event | None,
    ) -> None:
        self._peer, self._study_uid, self._inbox, self._our_ae = peer, study_uid, inbox, our_ae
        self._wants, self._progress = wants or (lambda _uid, _entry: True), progress
        self._patience = Patience(limits, stop, self._look)
        self._limits = self._patience.limits
        self._carrier = f"pull-{secrets.token_hex(8)}"
        self._catalogue: Catalogue = {}
        self._offered: frozenset[str] = frozenset()
        self._failed: Mapping[str, int] = {}
        self._attempt = 0
        self._total = 0

    def run(self) -> Retrieved:
        # As an open association: assembly waits for it, as it does for a modality that is still sending.
        self._inbox.activity.opened(self._carrier, self._peer.ae_title)
        try:
            return self._attempts()
        finally:
            self._inbox.activity.closed(self._carrier)
            self._inbox.wake()

    def _attempts(self) -> Retrieved:
        pause_s = self._limits.pause_s
        while True:
            self._attempt += 1
            error: BridgeError | None = None
            try:
                error = self._once()
            except BridgeError as raised:
                error = raised
            if error is None or error.code in _FINAL or self._attempt >= self._limits.attempts:
                return self._result(error)
            self._patience.pause(pause_s)
            pause_s *= 2

    def _once(self) -> BridgeError | None:
        self._patience.check()
        with source(self._peer, self._our_ae, self._patience) as peer:
            self._ask(peer)
            if not self._offered:
                return RetrieveFailed("PULL_NOT_FOUND", f"{self._peer.name} has no such study")
            wanted = self._missing()
            if not wanted:
                return None
            keeper = self._keeper()
            try:
                peer.fetch(wanted, keeper, careful=self._attempt > 1)
            finally:
                self._failed = keeper.failed
            self._patience.check()
            if self._peer.retrieve is Retrieve.C_MOVE and not keeper.failed:
                self._settle()
            self._ask(peer)
        if not self._missing():
            return None
        return RetrieveFailed(
            "PULL_INCOMPLETE", f"{self._peer.name} has instances that did not arrive, or were refused"
        )

    def _ask(self, peer: Source) -> None:
        found = peer.catalogue(self._study_uid)
        self._offered = frozenset(found)
        self._catalogue = catalogue.selected(found, self._wants)
        self._look()

    def _keeper(self) -> Keeper:
        return Keeper(
            self._inbox,
            self._study_uid,
            self._peer.ae_title,
            expected=catalogue.count(self._catalogue),
            carrier=self._carrier,
            patience=self._patience,
            instance_bytes_max=InboxLimits().instance_bytes_max,
        )

    def _settle(self) -> None:
        """Some PACS answer a C-MOVE before they have sent everything: wait while instances still come."""
        quiet_s, before = 0.0, -1
        while quiet_s < self._limits.settle_s and self._missing():
            now_held = catalogue.stored(self._catalogue, self._held())
            quiet_s, before = (quiet_s + LOOK_S if now_held == before else 0.0), now_held
            self._patience.pause(LOOK_S)
            self._patience.check()

    def _missing(self) -> Wanted:
        return catalogue.missing(self._study_uid, self._catalogue, self._held(), self._offered)

    def _held(self) -> Held:
        found: dict[str, set[str]] = {}
        try:
            for instance in self._inbox.instances(self._study_uid):
                found.setdefault(instance.series_uid, set()).add(instance.sop_uid)
        except (OSError, sqlite3.Error) as error:
            raise InboxUnavailable("SPOOL_FAILED", f"the index cannot be read ({type(error).__name__})") from error
        return {series_uid: frozenset(uids) for series_uid, uids in found.items()}

    def _look(self) -> int:
        held = self._held()
        stored = catalogue.stored(self._catalogue, held)
        total = sum(len(uids) for uids in held.values())
        if total != self._total:
            # Only what arrives makes assembly wait: a transfer that hangs must not hold back what is here.
            self._total = total
            self._inbox.activity.carried(self._carrier, self._study_uid)
        if self._progress is not None:
            self._progress(Progress(catalogue.count(self._catalogue), stored, self._attempt))
        return total

    def _result(self, error: BridgeError | None) -> Retrieved:
        expected = catalogue.count(self._catalogue)
        try:
            stored = catalogue.stored(self._catalogue, self._held())
        except InboxUnavailable:
            stored = 0
        code, detail = (None, "") if error is None else (error.code, error.detail)
        return Retrieved(expected, stored, {} if code is None else self._failed, self._attempt, code, detail)
