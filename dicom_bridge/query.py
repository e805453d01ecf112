"""Questions to a peer: is it there (C-ECHO), and how many instances of each series has it (C-FIND, PS3.4 annex C)?"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Final

from pydicom.dataset import Dataset
from pynetdicom import evt
from pynetdicom.sop_class import StudyRootQueryRetrieveInformationModelFind, Verification

from dicom_bridge.assembly import SeriesCount
from dicom_bridge.errors import PeerFailed
from dicom_bridge.network import new_entity, no_delay
from dicom_bridge.peers import Peer
from dicom_bridge.uids import storable

_SUCCESS: Final = 0x0000
_PENDING: Final = frozenset({0xFF00, 0xFF01})
SERIES_MAX: Final = 10_000
"""Answers to one query; no study has so many series, a broken peer answers for ever."""


@dataclass(frozen=True, slots=True)
class QueryLimits:
    """Seconds: to connect, to negotiate, and without a word inside an operation."""

    connect_s: float = 3.0
    acse_s: float = 5.0
    dimse_s: float = 10.0


def echo(peer: Peer, calling_ae: str, limits: QueryLimits | None = None) -> None:
    """Return when the peer has answered a C-ECHO with success. Raises PeerFailed."""
    with _association(peer, calling_ae, str(Verification), limits or QueryLimits()) as association:
        answer = association.send_c_echo()
        _check(answer)


def series_counts(
    peer: Peer, study_uid: str, calling_ae: str, limits: QueryLimits | None = None
) -> Mapping[str, SeriesCount] | None:
    """Return what the peer says it holds of a study, by Series Instance UID; None when it does not tell.

    None covers everything that assembly treats alike: unreachable, refused, failed, or answers without counts.
    An empty mapping means that it says it has nothing. Use `find_series` for the reason.
    """
    try:
        return find_series(peer, study_uid, calling_ae, limits)
    except PeerFailed:
        return None


def find_series(
    peer: Peer, study_uid: str, calling_ae: str, limits: QueryLimits | None = None
) -> Mapping[str, SeriesCount] | None:
    """As `series_counts`, but raises PeerFailed; None only when an answer has no count."""
    if not storable(study_uid):
        # A wildcard or a list here would ask the PACS for more than one study.
        raise ValueError("not a study's UID")
    found: dict[str, SeriesCount] = {}
    model = StudyRootQueryRetrieveInformationModelFind
    with _association(peer, calling_ae, str(model), limits or QueryLimits()) as association:
        for status, identifier in association.send_c_find(_series_query(study_uid), model):
            code = _code(status)
            if code not in _PENDING:
                _check(status)
                break
            if len(found) >= SERIES_MAX:
                raise PeerFailed("PEER_FAILURE_STATUS", "more answers than any study has series")
            entry = _entry(identifier)
            if entry is None:
                return None
            found[entry[0]] = entry[1]
    return found


def _series_query(study_uid: str) -> Dataset:
    query = Dataset()
    query.QueryRetrieveLevel = "SERIES"
    query.StudyInstanceUID = study_uid
    query.SeriesInstanceUID = ""
    query.Modality = ""
    query.NumberOfSeriesRelatedInstances = ""
    return query


def _entry(identifier: Dataset | None) -> tuple[str, SeriesCount] | None:
    if identifier is None:
        return None
    uid = str(identifier.get("SeriesInstanceUID", "") or "")
    count = str(identifier.get("NumberOfSeriesRelatedInstances", "") or "")
    if not storable(uid) or not count.isdecimal():
        return None
    return uid, SeriesCount(str(identifier.get("Modality", "") or "").strip().upper(), int(count))


@contextmanager
def _association(peer: Peer, calling_ae: str, sop_class: str, limits: QueryLimits) -> Iterator[Any]:
    entity = new_entity(calling_ae)
    entity.connection_timeout = limits.connect_s
    entity.acse_timeout = limits.acse_s
    entity.dimse_timeout = limits.dimse_s
    entity.network_timeout = limits.dimse_s
    entity.add_requested_context(sop_class)
    handlers = [(evt.EVT_CONN_OPEN, no_delay)]
    association = entity.associate(peer.host, peer.port, ae_title=peer.ae_title, evt_handlers=handlers)
    try:
        if association.is_rejected:
            raise PeerFailed("PEER_REJECTED", f"{peer.name} rejected our association")
        # pynetdicom aborts an association that was accepted without our context, so this is asked first.
        if association.rejected_contexts:
            raise PeerFailed("PEER_NO_CONTEXT", f"{peer.name} does not offer this service")
        if not association.is_established:
            raise PeerFailed("PEER_UNREACHABLE", f"{peer.name} does not answer at its address")
        yield association
    finally:
        if association.is_established:
            association.release()
        # A connection that was refused never had a thread.
        if association.ident is not None:
            association.join(limits.acse_s)
        entity.close_socket()


def _code(status: Dataset) -> int | None:
    return int(status.Status) if "Status" in status else None


def _check(status: Dataset) -> None:
    code = _code(status)
    if code is None:
        raise PeerFailed("PEER_NO_ANSWER", "the association ended, or no answer came in time")
    if code != _SUCCESS:
        raise PeerFailed("PEER_FAILURE_STATUS", f"the peer answered with status 0x{code:04X}")
