"""Reads back from an Orthanc what it stores of a study, through the Orthanc team's own client.

For the demo and for tests, where Orthanc is the PACS: what a hospital sees is what the PACS gives back, not what we
meant to send. The product itself speaks DIMSE to its PACS (store_scu.py, query.py).
"""

from collections.abc import Mapping
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Self

import orthanc_api_client
from orthanc_api_client import exceptions

from dicom_bridge.errors import BridgeError, Fault

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
