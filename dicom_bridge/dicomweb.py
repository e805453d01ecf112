"""A peer that is asked by QIDO-RS and sends by WADO-RS (PS3.18 sections 10.6 and 10.4): one instance at a time."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from typing import Any, Final
from urllib.parse import urlsplit

import requests
from dicomweb_client.api import DICOMwebClient

from dicom_bridge.catalogue import (
    Catalogue,
    SeriesEntry,
    StudyFound,
    Wanted,
    Window,
    number,
    study_time,
)
from dicom_bridge.errors import PeerFailed
from dicom_bridge.keeping import Keeper
from dicom_bridge.multipart import only_part
from dicom_bridge.patience import Patience, RetrieveFailed
from dicom_bridge.peers import Peer
from dicom_bridge.uids import storable
from dicom_bridge.web_session import NotThere, confine, timeouts

# It logs what is asked for: studies, and in a warning whatever the server writes.
logging.getLogger("dicomweb_client").setLevel(logging.CRITICAL)

_PAGE: Final = 1000
_CHUNK: Final = 1 << 18
_ANY_SYNTAX: Final = 'multipart/related; type="application/dicom"; transfer-syntax=*'
"""As it is stored: a server that transcodes could only make it slower, or lossy."""

_SOP_CLASS: Final = "00080016"
_SOP_INSTANCE: Final = "00080018"
_STUDY_DATE: Final = "00080020"
_STUDY_TIME: Final = "00080030"
_MODALITY: Final = "00080060"
_MODALITIES: Final = "00080061"
_STUDY: Final = "0020000D"
_SERIES: Final = "0020000E"
_STUDY_INSTANCES: Final = "00201208"
_SERIES_INSTANCES: Final = "00201209"

Page = Callable[[int, int], Any]
"""(limit, offset) -> DICOM JSON."""


class DicomWeb:
    """A session with the peer's DICOMweb root; close it."""

    def __init__(self, peer: Peer, patience: Patience, file_bytes_max: int) -> None:
        if peer.web is None:
            raise ValueError("the peer has no web root")
        root = peer.web.rstrip("/")
        self._root, self._patience = root, patience
        self._session = requests.Session()
        confine(self._session, peer, root, patience, file_bytes_max)
        self._client = DICOMwebClient(root, self._session, permissive_uid=True, timeout=timeouts(patience))
        # It writes a Host header of its own, without the port, and cannot read an IPv6 address.
        self._client.host = urlsplit(root).netloc
        self._client.set_http_retry_params(retry=False)

    def close(self) -> None:
        """End its connections."""
        self._session.close()

    def catalogue(self, study_uid: str) -> Catalogue:
        """QIDO-RS for series and for instances. Raises PeerFailed, RetrieveFailed; ValueError for what is no UID."""
        entries = self.series(study_uid)
        found: dict[str, dict[str, str]] = {uid: {} for uid in entries}

        def page(limit: int, offset: int) -> Any:
            return self._client.search_for_instances(study_uid, limit=limit, offset=offset)

        for answer in self._all(page, _SOP_INSTANCE):
            _same_study(answer, study_uid)
            sop_class = _text(answer, _SOP_CLASS)
            in_series = found.setdefault(_uid(answer, _SERIES), {})
            in_series[_uid(answer, _SOP_INSTANCE)] = sop_class if storable(sop_class) else ""
        unknown = SeriesEntry()
        return {uid: replace(entries.get(uid, unknown), instances=instances) for uid, instances in found.items()}

    def series(self, study_uid: str) -> Catalogue:
        """As `catalogue`, but without the instances of each series."""
        if not storable(study_uid):
            raise ValueError("not a study's UID")
        fields = ["NumberOfSeriesRelatedInstances"]

        def page(limit: int, offset: int) -> Any:
            return self._client.search_for_series(study_uid, fields=fields, limit=limit, offset=offset)

        found = {}
        for answer in self._all(page, _SERIES):
            _same_study(answer, study_uid)
            count = number(_text(answer, _SERIES_INSTANCES))
            found[_uid(answer, _SERIES)] = SeriesEntry(_text(answer, _MODALITY).upper(), count)
        return found

    def studies(self, window: Window) -> tuple[StudyFound, ...]:
        """QIDO-RS for the studies in a window. Raises PeerFailed, RetrieveFailed."""
        found: dict[str, StudyFound] = {}
        for modality in sorted(window.modalities) or [""]:
            filters = {"StudyDate": window.dates} | ({"ModalitiesInStudy": modality} if modality else {})
            fields = ["ModalitiesInStudy", "NumberOfStudyRelatedInstances"]

            def page(limit: int, offset: int, filters: Any = filters, fields: Any = fields) -> Any:
                return self._client.search_for_studies(
                    fields=fields, search_filters=filters, limit=limit, offset=offset
                )

            for answer in self._all(page, _STUDY):
                study = _study(answer)
                if window.holds(study):
                    found[study.study_uid] = study
        return tuple(found.values())

    def fetch(self, wanted: Wanted, keeper: Keeper) -> None:
        """WADO-RS for each instance that is missing; one that the peer cannot give is counted, the rest goes on.

        Raises PeerFailed when the peer is gone, RetrieveFailed, InboxUnavailable.
        """
        for series_uid, part in wanted.parts.items():
            for sop_uid in part.uids:
                url = f"{self._root}/studies/{wanted.study_uid}/series/{series_uid}/instances/{sop_uid}"
                try:
                    self._file(url, keeper)
                except PeerFailed as failed:
                    if failed.code != "PEER_FAILURE_STATUS":
                        raise
                    keeper.count_failed(failed.code)

    def _file(self, url: str, keeper: Keeper) -> None:
        headers = {"Accept": _ANY_SYNTAX}
        with self._session.get(url, headers=headers, stream=True, timeout=timeouts(self._patience)) as response:
            keeper.keep_file(only_part(response.headers.get("Content-Type", ""), response.iter_content(_CHUNK)))

    def _all(self, page: Page, key: str) -> Iterator[Mapping[str, Any]]:
        """Yield all answers, page after page; a server that knows no pages sends the same again, which ends it."""
        seen: set[str] = set()
        offset, most = 0, self._patience.limits.answers_max
        while True:
            try:
                answers = page(_PAGE, offset)
            except NotThere:
                # Some servers say so of a study without an answer (PS3.18 section 8.3.4 has 200 or 204).
                return
            except (requests.RequestException, ValueError):
                raise RetrieveFailed("PULL_ANSWER_INVALID", "the answer to a query is no DICOM JSON") from None
            fresh = 0
            for answer in _listed(answers):
                uid = _text(answer, key)
                if uid not in seen:
                    fresh += 1
                    seen.add(uid)
                    yield answer
            if not fresh:
                return
            self._patience.alive()
            if len(seen) > most:
                raise RetrieveFailed("PULL_ENDLESS", f"more than {most} answers to one query")
            offset += len(answers)


def _listed(answers: Any) -> list[Mapping[str, Any]]:
    if not isinstance(answers, list) or not all(isinstance(one, dict) for one in answers):
        raise RetrieveFailed("PULL_ANSWER_INVALID", "the answer to a query is no list of data sets")
    return answers


def _values(answer: Mapping[str, Any], tag: str) -> list[str]:
    """PS3.18 annex F: {"vr": ..., "Value": [...]}; numbers may stand as numbers or as text."""
    element = answer.get(tag)
    values = element.get("Value") if isinstance(element, dict) else None
    if not isinstance(values, list):
        return []
    return [str(one).strip(" \0") for one in values if isinstance(one, str | int | float)]


def _text(answer: Mapping[str, Any], tag: str) -> str:
    return next(iter(_values(answer, tag)), "")


def _uid(answer: Mapping[str, Any], tag: str) -> str:
    uid = _text(answer, tag)
    if not storable(uid):
        raise RetrieveFailed("PULL_ANSWER_INVALID", "an answer to a query has no UID where it must")
    return uid


def _same_study(answer: Mapping[str, Any], study_uid: str) -> None:
    if _text(answer, _STUDY) not in ("", study_uid):
        raise RetrieveFailed("PULL_WRONG_STUDY", "the peer answers for another study than was asked for")


def _study(answer: Mapping[str, Any]) -> StudyFound:
    return StudyFound(
        study_uid=_uid(answer, _STUDY),
        at=study_time(_text(answer, _STUDY_DATE), _text(answer, _STUDY_TIME)),
        modalities=frozenset(one.upper() for one in _values(answer, _MODALITIES) if one),
        instances=number(_text(answer, _STUDY_INSTANCES)),
    )
