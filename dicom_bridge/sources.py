"""The ways to ask a peer what it has and to have it send: C-FIND with C-MOVE or C-GET, DICOMweb, Orthanc's REST API."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final, Protocol

from dicom_bridge import finding, transfer
from dicom_bridge.catalogue import Catalogue, StudyFound, Wanted, Window
from dicom_bridge.dicomweb import DicomWeb
from dicom_bridge.incoming import InboxLimits
from dicom_bridge.keeping import Keeper
from dicom_bridge.orthanc import OrthancSource
from dicom_bridge.patience import Patience
from dicom_bridge.peers import Peer, Retrieve

_AROUND: Final = 1 << 20
"""Bytes of an HTTP answer around the instance in it: it is the inbox that says when an instance is too large."""


class Source(Protocol):
    """One way to ask a peer and to have it send. Raises PeerFailed and RetrieveFailed."""

    def catalogue(self, study_uid: str) -> Catalogue:
        """What it has of a study; empty for an unknown one."""

    def series(self, study_uid: str) -> Catalogue:
        """The same, without the instances of each series; with its count, where the peer tells it."""

    def studies(self, window: Window) -> tuple[StudyFound, ...]:
        """Which studies it has in a window of time."""

    def fetch(self, wanted: Wanted, keeper: Keeper, *, careful: bool) -> None:
        """Have it send what is wanted; what fails alone is counted in the keeper. `careful`: in small steps."""


class _Dimse:
    """C-FIND, and C-MOVE or C-GET."""

    def __init__(self, peer: Peer, our_ae: str, patience: Patience) -> None:
        self._peer, self._our_ae, self._patience = peer, our_ae, patience
        self._fetch = transfer.get if peer.retrieve is Retrieve.C_GET else transfer.move

    def catalogue(self, study_uid: str) -> Catalogue:
        return finding.find_catalogue(self._peer, study_uid, self._our_ae, self._patience)

    def series(self, study_uid: str) -> Catalogue:
        return finding.find_series(self._peer, study_uid, self._our_ae, self._patience)

    def studies(self, window: Window) -> tuple[StudyFound, ...]:
        return finding.find_studies(self._peer, window, self._our_ae, self._patience)

    def fetch(self, wanted: Wanted, keeper: Keeper, *, careful: bool) -> None:
        self._fetch(self._peer, wanted, self._our_ae, keeper, self._patience, careful=careful)


class _Web:
    """DICOMweb or Orthanc's REST API, which know one careful way only."""

    def __init__(self, session: DicomWeb | OrthancSource) -> None:
        self._session = session
        self.catalogue, self.series, self.studies = session.catalogue, session.series, session.studies

    def fetch(self, wanted: Wanted, keeper: Keeper, *, careful: bool) -> None:  # noqa: ARG002 - the protocol's
        self._session.fetch(wanted, keeper)


@contextmanager
def source(peer: Peer, our_ae: str, patience: Patience, file_bytes_max: int | None = None) -> Iterator[Source]:
    """How this peer is asked, by its `retrieve`; closed at the end. `our_ae`: AE title of our listener."""
    most = InboxLimits().instance_bytes_max if file_bytes_max is None else file_bytes_max
    if peer.retrieve in (Retrieve.C_MOVE, Retrieve.C_GET):
        yield _Dimse(peer, our_ae, patience)
        return
    session = (DicomWeb if peer.retrieve is Retrieve.WADO_RS else OrthancSource)(peer, patience, most + _AROUND)
    try:
        yield _Web(session)
    finally:
        session.close()
