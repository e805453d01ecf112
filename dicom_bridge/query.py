"""Questions to a peer: is it there (C-ECHO), how much and what of a study has it (C-FIND, PS3.4 annex C)?"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, Final

from pydicom.dataset import Dataset
from pynetdicom.sop_class import StudyRootQueryRetrieveInformationModelFind, Verification

from dicom_bridge.assembly import SeriesCount
from dicom_bridge.calling import CallLimits, called, hold, keep_answers
from dicom_bridge.errors import PeerFailed
from dicom_bridge.peers import Peer
from dicom_bridge.uids import storable

_SUCCESS: Final = 0x0000
_PENDING: Final = frozenset({0xFF00, 0xFF01})
SERIES_MAX: Final = 10_000
"""Answers to one query; no study has so many series, a broken peer answers for ever."""


INSTANCES_MAX: Final = 100_000
"""Answers to one query for a series; the largest series have some tens of thousands."""

QueryLimits = CallLimits
_LIMITS: Final = CallLimits(connect_s=3.0, acse_s=5.0, dimse_s=10.0)


def echo(peer: Peer, calling_ae: str, limits: QueryLimits | None = None) -> None:
    """Return when the peer has answered a C-ECHO with success. Raises PeerFailed."""
    with _association(peer, calling_ae, str(Verification), limits or _LIMITS) as association:
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
    with _association(peer, calling_ae, str(model), limits or _LIMITS) as association:
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


def find_instances(
    peer: Peer, study_uid: str, series_uid: str, calling_ae: str, limits: CallLimits | None = None
) -> frozenset[str]:
    """Return the SOP Instance UIDs that the peer says it has of one series. Raises PeerFailed."""
    return find_held(peer, [(study_uid, series_uid)], calling_ae, limits)


def find_held(
    peer: Peer, series: Iterable[tuple[str, str]], calling_ae: str, limits: CallLimits | None = None
) -> frozenset[str]:
    """As `find_instances` for several series, each given as (study, series), over one association.

    At IMAGE level with the hierarchical unique keys (PS3.4 section C.4.1.2.1): each series is a query of its own.
    """
    wanted = list(series)
    if not all(storable(uid) for pair in wanted for uid in pair):
        # A wildcard or a list here would ask the PACS for what is not ours.
        raise ValueError("not a UID of a study or a series")
    found: set[str] = set()
    model = StudyRootQueryRetrieveInformationModelFind
    with _association(peer, calling_ae, str(model), limits or _LIMITS) as association:
        for study_uid, series_uid in wanted:
            hold(association)
            for number, (status, identifier) in enumerate(
                association.send_c_find(_image_query(study_uid, series_uid), model)
            ):
                if _code(status) not in _PENDING:
                    _check(status)
                    break
                if number >= INSTANCES_MAX:
                    raise PeerFailed("PEER_FAILURE_STATUS", "more answers than any series has instances")
                uid = "" if identifier is None else str(identifier.get("SOPInstanceUID", "") or "")
                # An answer for another series, or without a UID, says nothing of what was asked.
                if storable(uid) and _same_series(identifier, series_uid):
                    found.add(uid)
    return frozenset(found)


def _same_series(identifier: Dataset | None, series_uid: str) -> bool:
    answered = "" if identifier is None else str(identifier.get("SeriesInstanceUID", "") or "")
    return answered in ("", series_uid)


def _image_query(study_uid: str, series_uid: str) -> Dataset:
    query = Dataset()
    query.QueryRetrieveLevel = "IMAGE"
    query.StudyInstanceUID = study_uid
    query.SeriesInstanceUID = series_uid
    query.SOPInstanceUID = ""
    return query


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
def _association(peer: Peer, calling_ae: str, sop_class: str, limits: CallLimits) -> Iterator[Any]:
    with called(peer, calling_ae, [(sop_class, ())], limits) as association:
        keep_answers(association)
        yield association


def _code(status: Dataset) -> int | None:
    return int(status.Status) if "Status" in status else None


def _check(status: Dataset) -> None:
    code = _code(status)
    if code is None:
        raise PeerFailed("PEER_NO_ANSWER", "the association ended, or no answer came in time")
    if code != _SUCCESS:
        raise PeerFailed("PEER_FAILURE_STATUS", f"the peer answered with status 0x{code:04X}")
