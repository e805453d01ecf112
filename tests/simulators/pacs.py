"""A PACS that polices its contract: it parses what it is sent, and complains of anything that a good SCU never does."""

from __future__ import annotations

import io
import ssl
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from enum import StrEnum
from typing import Any, Self

from pydicom import dcmread
from pydicom.dataset import Dataset
from pydicom.filereader import read_dataset
from pynetdicom import AE, build_role, evt
from pynetdicom.sop_class import StudyRootQueryRetrieveInformationModelFind
from pynetdicom.transport import ThreadedAssociationServer

from dicom_bridge.calling import hold
from dicom_bridge.errors import PeerFailed
from dicom_bridge.peers import Peer

COMPREHENSIVE_3D_SR = "1.2.840.10008.5.1.4.1.1.88.34"
SEGMENTATION = "1.2.840.10008.5.1.4.1.1.66.4"
MR = "1.2.840.10008.5.1.4.1.1.4"
EXPLICIT = "1.2.840.10008.1.2.1"
COMMITMENT = "1.2.840.10008.1.20.1"
COMMITMENT_INSTANCE = "1.2.840.10008.1.20.1.1"


class Reporting(StrEnum):
    """When and where the PACS reports on a storage commitment: on the association of the request, on a new one that it
    opens to `reports_to`, or not before a test calls `report`."""

    SAME = "SAME"
    NEW = "NEW"
    SILENT = "SILENT"


class FakePacs:
    """A Storage SCP on a port of its own; it also answers C-FIND at IMAGE level and commits to what it has.

    `answer(*statuses)`: the next C-STOREs are answered so (then 0x0000 again); warnings store, failures do not.
    `down()` and `up()`: nobody listens, then the same port again. `forget()`: as after a restore from an old backup.
    `keeps`: False answers 0x0000 and throws the object away.
    `finds`: False answers C-FIND as if it had nothing yet; `find_status`: the final status of each C-FIND.
    `reporting`, `reports_to` (port, AE title), `reasons` (failure reason by SOP Instance UID, of what it has),
    `action_status`: how it answers a request for storage commitment; `requests` are those that it accepted.
    `complaints`: what the SCU did wrong: another object under a held UID, an object other than announced, a proposal
    for what it did not send, a wrong called AE title, a query for more than a series, a transaction that is used twice.
    """

    def __init__(self, ae_title: str = "TESTPACS", classes: Sequence[str] = (COMPREHENSIVE_3D_SR, SEGMENTATION, MR)):
        self.ae_title = ae_title
        self.stored: dict[str, bytes] = {}
        self.received: list[str] = []
        self.complaints: list[str] = []
        self.associations = 0
        self.keeps = self.finds = True
        self.find_status = 0x0000
        self.queries: list[Dataset] = []
        self.reporting = Reporting.SILENT
        self.reports_to = (0, "ZHIYING")
        self.reasons: dict[str, int] = {}
        self.action_status = 0x0000
        self.requests: list[Dataset] = []
        self.report_answers: list[int | None] = []
        self._answers: list[int] = []
        self._lock = threading.Lock()
        self._classes = tuple(classes)
        self._server: ThreadedAssociationServer | None = None
        self.port = 0
        self.before_answer: Callable[[], None] = lambda: None

    def __enter__(self) -> Self:
        self.up()
        return self

    def __exit__(self, *_: object) -> None:
        self.down()

    def peer(self, name: str = "pacs", **abilities: Any) -> Peer:
        """How a configuration names this PACS."""
        return Peer(name=name, ae_title=self.ae_title, host="127.0.0.1", port=self.port, **abilities)

    def answer(self, *statuses: int) -> None:
        """Answer the next C-STOREs with these statuses."""
        with self._lock:
            self._answers += statuses

    def held(self, sop_class: str) -> list[Dataset]:
        """What was stored of this class, read as the explicit little endian that it came in."""
        found = [read_dataset(io.BytesIO(body), False, True) for body in self.stored.values()]
        return [ds for ds in found if ds.SOPClassUID == sop_class]

    def forget(self) -> None:
        """Lose everything that was stored."""
        with self._lock:
            self.stored.clear()

    def down(self) -> None:
        """Stop listening."""
        if self._server is not None:
            self._server.shutdown()
            self._server.server_close()
            self._server = None

    def up(self) -> None:
        """Listen, on the same port as before."""
        ae = AE(ae_title=self.ae_title)
        ae.require_called_aet = True
        for sop_class in self._classes:
            ae.add_supported_context(sop_class, EXPLICIT)
        ae.add_supported_context(StudyRootQueryRetrieveInformationModelFind)
        ae.add_supported_context(COMMITMENT)
        handlers = [
            (evt.EVT_C_STORE, self._store),
            (evt.EVT_ESTABLISHED, self._established),
            (evt.EVT_C_FIND, self._find),
            (evt.EVT_N_ACTION, self._act),
        ]
        self._server = quick_server(ae, self.port, handlers)
        self.port = self._server.server_address[1]

    def _established(self, event: evt.Event) -> None:
        with self._lock:
            self.associations += 1

    def _store(self, event: evt.Event) -> int:
        self.before_answer()
        data: bytes = event.encoded_dataset()
        with self._lock:
            uid = str(event.request.AffectedSOPInstanceUID)
            ds = dcmread(io.BytesIO(data))
            if ds.SOPInstanceUID != uid or ds.SOPClassUID != event.request.AffectedSOPClassUID:
                self.complaints.append("the object is not the one announced")
            # Of this association: others may be open, for a query or a commitment.
            proposed = {str(c.abstract_syntax) for c in event.assoc.requestor.requested_contexts}
            if str(ds.SOPClassUID) not in proposed:
                self.complaints.append("the class was not proposed")
            body = event.request.DataSet.getvalue()
            if self.stored.get(uid, body) != body:
                self.complaints.append("another object under a held UID")
            self.received.append(uid)
            status = self._answers.pop(0) if self._answers else 0x0000
            if self.keeps and (status == 0x0000 or status >> 12 == 0xB):
                self.stored[uid] = body
            return status

    # ---- C-FIND --------------------------------------------------------------------------------------------------

    def _find(self, event: evt.Event) -> Iterator[tuple[int, Dataset | None]]:
        asked: Dataset = event.identifier
        with self._lock:
            self.queries.append(asked)
            if asked.QueryRetrieveLevel != "IMAGE" or not asked.StudyInstanceUID or not asked.SeriesInstanceUID:
                self.complaints.append("a query for more than a series")
            have = [_parsed(body) for body in self.stored.values()] if self.finds else []
        for ds in have:
            if (ds.StudyInstanceUID, ds.SeriesInstanceUID) == (asked.StudyInstanceUID, asked.SeriesInstanceUID):
                answer = Dataset()
                for keyword in ("StudyInstanceUID", "SeriesInstanceUID", "SOPInstanceUID"):
                    setattr(answer, keyword, ds[keyword].value)
                answer.QueryRetrieveLevel = "IMAGE"
                yield 0xFF00, answer
        yield self.find_status, None

    # ---- storage commitment --------------------------------------------------------------------------------------

    def _act(self, event: evt.Event) -> tuple[int, None]:
        asked: Dataset = event.action_information
        if (event.request.RequestedSOPInstanceUID, event.action_type) != (COMMITMENT_INSTANCE, 1):
            self.complaints.append("not a request for storage commitment")
        with self._lock:
            if self.action_status != 0x0000:
                return self.action_status, None
            for earlier in self.requests:
                if earlier.TransactionUID == asked.TransactionUID and earlier != asked:
                    self.complaints.append("a transaction that is used twice")
            self.requests.append(asked)
        if self.reporting is Reporting.SAME:
            threading.Thread(target=self._report_on, args=(event.assoc, asked), daemon=True).start()
        if self.reporting is Reporting.NEW:
            threading.Thread(target=self.report, args=(asked,), daemon=True).start()
        return 0x0000, None

    def _report_on(self, association: Any, asked: Dataset) -> None:
        time.sleep(0.1)  # after the answer to the request
        self.report_answers.append(self._send_report(association, asked))

    def report(self, asked: Dataset, ae_title: str | None = None) -> int | None:
        """Report what came of a request, on a new association in the SCP's role; the status of the answer, if any."""
        ae = AE(ae_title=ae_title or self.ae_title)
        ae.acse_timeout = ae.dimse_timeout = ae.network_timeout = 10
        ae.add_requested_context(COMMITMENT)
        port, called = self.reports_to
        role = build_role(COMMITMENT, scp_role=True)
        association = ae.associate("127.0.0.1", port, ae_title=called, ext_neg=[role])
        if not association.is_established:
            self.report_answers.append(None)
            return None
        (context,) = association.accepted_contexts
        if not context.as_scp:
            self.complaints.append("we did not get the SCP's role")
        status = self._send_report(association, asked)
        association.release()
        self.report_answers.append(status)
        return status

    def _send_report(self, association: Any, asked: Dataset) -> int | None:
        try:
            hold(association)
            answer, _ = association.send_n_event_report(*self.verdict(asked), COMMITMENT, COMMITMENT_INSTANCE)
        except (PeerFailed, RuntimeError):  # the requester has gone
            return None
        return int(answer.Status) if "Status" in answer else None

    def verdict(self, asked: Dataset) -> tuple[Dataset, int]:
        """The Event Information of a report, by what is stored now and `reasons`; and its event type."""
        report = Dataset()
        report.TransactionUID = asked.TransactionUID
        committed, failed = [], []
        for item in asked.ReferencedSOPSequence:
            uid = str(item.ReferencedSOPInstanceUID)
            with self._lock:
                body = self.stored.get(uid)
                reason = 0x0112 if body is None else self.reasons.get(uid)
            if body is not None and _parsed(body).SOPClassUID != item.ReferencedSOPClassUID:
                reason = 0x0119
            said = Dataset()
            said.ReferencedSOPClassUID, said.ReferencedSOPInstanceUID = (
                item.ReferencedSOPClassUID,
                item.ReferencedSOPInstanceUID,
            )
            if reason is not None:
                said.FailureReason = reason
            (committed if reason is None else failed).append(said)
        if committed:
            report.ReferencedSOPSequence = committed
        if failed:
            report.FailedSOPSequence = failed
        return report, 2 if failed else 1


def quick_server(
    ae: AE, port: int, handlers: Sequence[tuple[Any, Callable[..., Any]]], tls: ssl.SSLContext | None = None
) -> ThreadedAssociationServer:
    """As `ae.start_server`, but one whose `shutdown` returns at once: pynetdicom's looks twice a second."""
    server = ae.make_server(("127.0.0.1", port), evt_handlers=list(handlers), ssl_context=tls, server_class=_Server)
    ae._servers.append(server)
    threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
    return server


class _Server(ThreadedAssociationServer):
    """pynetdicom's, without its collection of garbage at each sixtieth look: that took most of a core."""

    def service_actions(self) -> None:
        """Nothing."""


def _parsed(body: bytes) -> Dataset:
    return dcmread(io.BytesIO(body), force=True, stop_before_pixels=True)
