"""An Orthanc by its REST API, through the Orthanc team's own client.

`OrthancSource` fetches studies from one that is a peer. `OrthancReader` reads back what one stores: for the demo and
for tests, where what a hospital sees is what the PACS gives back, not what we meant to send.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Final, Self

import orthanc_api_client
from orthanc_api_client import exceptions

from dicom_bridge.catalogue import (
    Catalogue,
    SeriesEntry,
    StudyFound,
    Wanted,
    Window,
    study_time,
)
from dicom_bridge.errors import BridgeError, Fault, PeerFailed
from dicom_bridge.keeping import Keeper
from dicom_bridge.patience import Patience, RetrieveFailed
from dicom_bridge.peers import Peer
from dicom_bridge.uids import storable
from dicom_bridge.web_session import confine, timeouts

_CHUNK: Final = 1 << 18
_ORTHANC_ID: Final = re.compile(r"[0-9a-f-]{1,64}")
REQUEST_LIMIT_S = 30.0  # a SEG of hundreds of frames is read in well under a second on one machine


class OrthancFailed(BridgeError):
    """Orthanc does not answer, or answers with an error."""

    CODES = frozenset({"ORTHANC_UNREACHABLE", "ORTHANC_ERROR"})
    fault = Fault.SITE


@dataclass(frozen=True, slots=True)
class StoredSeries:
    """One series as Orthanc has it: `instances` maps SOP Instance UID to Orthanc's own identifier."""

    series_uid: str
    modality: str
    description: str
    instances: Mapping[str, str]


class OrthancReader:
    """A connection to one Orthanc. A context manager: leaving it closes the connection."""

    def __init__(self, url: str) -> None:
        """`url`: root of the REST API, such as http://127.0.0.1:8042."""
        self._url = url
        self._client = orthanc_api_client.OrthancApiClient(url)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, value: BaseException | None, at: TracebackType | None) -> None:
        self.close()

    def close(self) -> None:
        """End the connection."""
        self._client.close()

    def version(self) -> str:
        """Orthanc's version, such as "1.10.1". Raises OrthancFailed."""
        return str(self._json("system")["Version"])

    def study_id(self, study_uid: str) -> str | None:
        """Orthanc's own identifier of a study, for a link to its pages; None when it has no such study."""
        try:
            found = self._client.lookup(study_uid, "Study")
        except exceptions.OrthancApiException as fault:
            raise self._failed(fault) from None
        return str(found[0]) if found else None

    def series(self, study_uid: str) -> tuple[StoredSeries, ...]:
        """All series of a study by series number and UID; empty when the study is not there. Raises OrthancFailed."""
        study = self.study_id(study_uid)
        if study is None:
            return ()
        found = []
        for series in self._json(f"studies/{study}/series"):
            tags = series["MainDicomTags"]
            instances = self._json(f"series/{series['ID']}/instances")
            uids = {str(one["MainDicomTags"]["SOPInstanceUID"]): str(one["ID"]) for one in instances}
            stored = StoredSeries(
                str(tags["SeriesInstanceUID"]),
                str(tags.get("Modality", "")),
                str(tags.get("SeriesDescription", "")),
                uids,
            )
            found.append((str(tags.get("SeriesNumber", "")), stored.series_uid, stored))
        return tuple(stored for _, _, stored in sorted(found, key=lambda one: one[:2]))

    def file(self, orthanc_id: str) -> bytes:
        """The Part 10 file of one instance, as Orthanc stored it. Raises OrthancFailed."""
        try:
            return bytes(self._client.instances.get_file(orthanc_id))
        except exceptions.OrthancApiException as fault:
            raise self._failed(fault) from None

    def jobs(self) -> Mapping[str, str]:
        """Orthanc's jobs (forwarding a series is one): identifier -> state. Raises OrthancFailed.

        States are Orthanc's: Pending, Running, Retry, Paused, Success, Failure.
        """
        return {str(job["ID"]): str(job["State"]) for job in self._json("jobs?expand")}

    def _json(self, path: str) -> Any:
        try:
            return self._client.get_json(path, timeout=REQUEST_LIMIT_S)
        except exceptions.OrthancApiException as fault:
            raise self._failed(fault) from None

    def _failed(self, fault: Exception) -> OrthancFailed:
        """Our error for one of the client's; its text is left out, for it may quote what was asked."""
        if isinstance(fault, exceptions.ConnectionError | exceptions.TimeoutError):
            return OrthancFailed("ORTHANC_UNREACHABLE", f"no answer from {self._url}")
        status = getattr(fault, "http_status_code", None)
        return OrthancFailed("ORTHANC_ERROR", f"{self._url} answered with HTTP status {status}")


class OrthancSource:
    """An Orthanc that is asked, and sends, by its REST API; close it. For sites that open no DICOM port to us."""

    def __init__(self, peer: Peer, patience: Patience, file_bytes_max: int) -> None:
        if peer.orthanc is None:
            raise ValueError("the peer has no Orthanc")
        # The client joins addresses as a browser does: without the slash a path would lose its last part.
        root = f"{peer.orthanc.rstrip('/')}/"
        self._patience = patience
        self._client = orthanc_api_client.OrthancApiClient(root)
        confine(self._client._http_session, peer, root, patience, file_bytes_max)

    def close(self) -> None:
        """End its connections."""
        self._client.close()

    def catalogue(self, study_uid: str) -> Catalogue:
        """Everything that Orthanc has of the study. Raises PeerFailed, RetrieveFailed; ValueError for no UID."""
        return {uid: entry for uid, (entry, _) in self._series(study_uid).items()}

    def series(self, study_uid: str) -> Catalogue:
        """The same: it costs no more."""
        return self.catalogue(study_uid)

    def studies(self, window: Window) -> tuple[StudyFound, ...]:
        """The studies in a window. Raises PeerFailed, RetrieveFailed."""
        query = {"StudyDate": window.dates}
        asked = {"Level": "Study", "Expand": True, "Query": query}
        found: dict[str, StudyFound] = {}
        for study in self._things(self._ask("tools/find", asked)):
            uid, at = _tag(study, "StudyInstanceUID"), study_time(_tag(study, "StudyDate"), _tag(study, "StudyTime"))
            if not storable(uid):
                raise RetrieveFailed("PULL_ANSWER_INVALID", "Orthanc's answer has no UID where it must")
            if not window.holds(StudyFound(uid, at, frozenset(), None)):
                continue
            series = self._things(self._ask(f"studies/{_id(study)}/series"))
            modalities = frozenset(_tag(one, "Modality").upper() for one in series) - {""}
            entry = StudyFound(uid, at, modalities, None)
            if window.holds(entry):
                found[uid] = entry
        return tuple(found.values())

    def fetch(self, wanted: Wanted, keeper: Keeper) -> None:
        """Each missing instance as Orthanc stored it; one that it cannot give is counted, the rest goes on.

        Raises PeerFailed when Orthanc is gone, RetrieveFailed, InboxUnavailable.
        """
        identifiers = {sop: name for _, names in self._series(wanted.study_uid).values() for sop, name in names.items()}
        for part in wanted.parts.values():
            for sop_uid in part.uids:
                try:
                    if sop_uid not in identifiers:
                        raise PeerFailed("PEER_FAILURE_STATUS", "Orthanc does not list the instance any more")
                    self._file(identifiers[sop_uid], keeper)
                except PeerFailed as failed:
                    if failed.code != "PEER_FAILURE_STATUS":
                        raise
                    keeper.count_failed(failed.code)

    def _file(self, orthanc_id: str, keeper: Keeper) -> None:
        path = f"instances/{orthanc_id}/file"
        with self._client.get(path, stream=True, timeout=timeouts(self._patience)) as response:
            keeper.keep_file(response.iter_content(_CHUNK))

    def _series(self, study_uid: str) -> dict[str, tuple[SeriesEntry, dict[str, str]]]:
        """By Series Instance UID: what it holds, and Orthanc's identifier of each SOP Instance UID."""
        if not storable(study_uid):
            raise ValueError("not a study's UID")
        asked = {"Level": "Series", "Expand": True, "Query": {"StudyInstanceUID": study_uid}}
        found: dict[str, tuple[SeriesEntry, dict[str, str]]] = {}
        for series in self._things(self._ask("tools/find", asked)):
            names = {}
            for one in self._things(self._ask(f"series/{_id(series)}/instances")):
                sop_uid = _tag(one, "SOPInstanceUID")
                if not storable(sop_uid):
                    raise RetrieveFailed("PULL_ANSWER_INVALID", "Orthanc's answer has no UID where it must")
                names[sop_uid] = _id(one)
            entry = SeriesEntry(_tag(series, "Modality").upper(), len(names), dict.fromkeys(names, ""))
            found[_tag(series, "SeriesInstanceUID")] = (entry, names)
        return found

    def _ask(self, path: str, body: Any = None) -> Any:
        limits = timeouts(self._patience)
        try:
            if body is None:
                answer = self._client.get_json(path, timeout=limits)
            else:
                answer = self._client.post(path, json=body, timeout=limits).json()
        except (ValueError, exceptions.OrthancApiException):
            raise RetrieveFailed("PULL_ANSWER_INVALID", "Orthanc's answer is no JSON") from None
        self._patience.alive()
        return answer

    def _things(self, answer: Any) -> list[Mapping[str, Any]]:
        """Orthanc's list of resources, each with its identifier and its tags."""
        if not isinstance(answer, list) or not all(isinstance(one, dict) for one in answer):
            raise RetrieveFailed("PULL_ANSWER_INVALID", "Orthanc's answer is no list")
        if len(answer) > self._patience.limits.answers_max:
            raise RetrieveFailed("PULL_ENDLESS", "far more answers than any study or window has")
        return answer


def _id(thing: Mapping[str, Any]) -> str:
    """Orthanc's identifier, which becomes part of an address: hexadecimal digits in groups."""
    name = thing.get("ID")
    if not isinstance(name, str) or _ORTHANC_ID.fullmatch(name) is None:
        raise RetrieveFailed("PULL_ANSWER_INVALID", "Orthanc's answer has no identifier where it must")
    return name


def _tag(thing: Mapping[str, Any], name: str) -> str:
    tags = thing.get("MainDicomTags")
    value = tags.get(name, "") if isinstance(tags, dict) else ""
    return value.strip(" \0") if isinstance(value, str) else ""
