"""C-FIND in the study root model (PS3.4 section C.4.1): what a peer has of a study, and which studies are new.

Hierarchical queries only, one study, one series at a time: every peer answers those.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from pydicom.datadict import tag_for_keyword
from pydicom.dataset import Dataset
from pynetdicom.sop_class import StudyRootQueryRetrieveInformationModelFind

from dicom_bridge.catalogue import (
    Catalogue,
    SeriesEntry,
    StudyFound,
    Window,
    number,
    study_time,
)
from dicom_bridge.errors import PeerFailed
from dicom_bridge.patience import Patience, RetrieveFailed
from dicom_bridge.peers import Peer
from dicom_bridge.requesting import PENDING, SUCCESS, Requested, requested
from dicom_bridge.uids import storable

_FIND: Final = str(StudyRootQueryRetrieveInformationModelFind)


def find_catalogue(peer: Peer, study_uid: str, calling_ae: str, patience: Patience) -> Catalogue:
    """Ask for the study's series, and for the instances of each.

    Raises PeerFailed, RetrieveFailed; ValueError for what is no UID: a wildcard would ask for more than one study.
    """
    with requested(peer, calling_ae, [(_FIND, ())], patience) as call:
        found = _series_of(call, study_uid, patience)
        left = patience.limits.answers_max
        for series_uid, entry in found.items():
            instances = {}
            for answer in _answers(call, _image_query(study_uid, series_uid), patience, left):
                _same(answer, "SeriesInstanceUID", series_uid)
                sop_class = _text(answer, "SOPClassUID")
                instances[_uid(answer, "SOPInstanceUID")] = sop_class if storable(sop_class) else ""
                left -= 1
            found[series_uid] = SeriesEntry(entry.modality, entry.count, instances)
    return found


def find_series(peer: Peer, study_uid: str, calling_ae: str, patience: Patience) -> Catalogue:
    """As `find_catalogue`, but without the instances of each series."""
    with requested(peer, calling_ae, [(_FIND, ())], patience) as call:
        return _series_of(call, study_uid, patience)


def find_studies(peer: Peer, window: Window, calling_ae: str, patience: Patience) -> tuple[StudyFound, ...]:
    """Ask for the studies in a window; each once, in the order of the answers. Raises PeerFailed, RetrieveFailed."""
    found: dict[str, StudyFound] = {}
    with requested(peer, calling_ae, [(_FIND, ())], patience) as call:
        # One modality in each question: a list there is not something that every peer understands.
        for modality in sorted(window.modalities) or [""]:
            for answer in _answers(call, _study_query(window, modality), patience):
                study = _study(answer)
                if window.holds(study):
                    found[study.study_uid] = study
    return tuple(found.values())


def _series_of(call: Requested, study_uid: str, patience: Patience) -> dict[str, SeriesEntry]:
    if not storable(study_uid):
        raise ValueError("not a study's UID")
    found: dict[str, SeriesEntry] = {}
    for answer in _answers(call, _series_query(study_uid), patience):
        _same(answer, "StudyInstanceUID", study_uid)
        found[_uid(answer, "SeriesInstanceUID")] = _series(answer)
    return found


def _answers(call: Requested, query: Dataset, patience: Patience, left: int | None = None) -> Iterator[Dataset]:
    most = patience.limits.answers_max if left is None else left
    for before, (status, identifier) in enumerate(call.association.send_c_find(query, _FIND)):
        code = call.status(status)
        patience.alive()
        if code not in PENDING:
            if code != SUCCESS:
                raise PeerFailed("PEER_FAILURE_STATUS", f"the peer answered a query with status 0x{code:04X}")
            return
        if before >= most:
            raise RetrieveFailed("PULL_ENDLESS", f"more than {most} answers to one query")
        if identifier is None:
            raise RetrieveFailed("PULL_ANSWER_INVALID", "an answer to a query cannot be read")
        yield identifier


def _series_query(study_uid: str) -> Dataset:
    return _query("SERIES", ("SeriesInstanceUID", "Modality", "NumberOfSeriesRelatedInstances"), study_uid)


def _image_query(study_uid: str, series_uid: str) -> Dataset:
    query = _query("IMAGE", ("SOPInstanceUID", "SOPClassUID"), study_uid)
    query.SeriesInstanceUID = series_uid
    return query


def _study_query(window: Window, modality: str) -> Dataset:
    query = _query("STUDY", ("StudyInstanceUID", "StudyTime", "NumberOfStudyRelatedInstances"), "")
    query.StudyDate = window.dates
    query.ModalitiesInStudy = modality
    return query


def _query(level: str, wanted: tuple[str, ...], study_uid: str) -> Dataset:
    query = Dataset()
    query.QueryRetrieveLevel = level
    query.StudyInstanceUID = study_uid
    for keyword in wanted:
        setattr(query, keyword, "")
    return query


def _series(answer: Dataset) -> SeriesEntry:
    return SeriesEntry(_text(answer, "Modality").upper(), number(_text(answer, "NumberOfSeriesRelatedInstances")))


def _study(answer: Dataset) -> StudyFound:
    return StudyFound(
        study_uid=_uid(answer, "StudyInstanceUID"),
        at=study_time(_text(answer, "StudyDate"), _text(answer, "StudyTime")),
        modalities=frozenset(filter(None, (one.strip() for one in _text(answer, "ModalitiesInStudy").split("\\")))),
        instances=number(_text(answer, "NumberOfStudyRelatedInstances")),
    )


def _text(answer: Dataset, keyword: str) -> str:
    """The value as it stands in the answer, without padding; "" when it is absent.

    What we ask for is ASCII in every case. pydicom is not asked to make a number or a text of it: what a peer writes
    into an answer must not be able to raise anything here.
    """
    tag = tag_for_keyword(keyword)
    if tag is None or tag not in answer:
        return ""
    value = answer.get_item(tag).value
    text = value.decode("ascii", "replace") if isinstance(value, bytes) else str(value or "")
    return text.strip(" \0")


def _uid(answer: Dataset, keyword: str) -> str:
    uid = _text(answer, keyword)
    if not storable(uid):
        raise RetrieveFailed("PULL_ANSWER_INVALID", "an answer to a query has no UID where it must")
    return uid


def _same(answer: Dataset, keyword: str, asked: str) -> None:
    """Unique keys come back with each answer (PS3.4 section C.4.1.1.3.2); one that is another was not asked for."""
    if _text(answer, keyword) not in ("", asked):
        raise RetrieveFailed("PULL_WRONG_STUDY", "the peer answers for another study or series than was asked for")
