"""A PACS on stock pynetdicom that answers C-FIND, C-MOVE and C-GET: as it should, or as broken ones do."""

from __future__ import annotations

import ssl
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import ExplicitVRLittleEndian
from pynetdicom import AE, AllStoragePresentationContexts, evt
from pynetdicom.sop_class import (
    StudyRootQueryRetrieveInformationModelFind,
    StudyRootQueryRetrieveInformationModelGet,
    StudyRootQueryRetrieveInformationModelMove,
)

from dicom_bridge.peers import Peer, Retrieve

TITLE = "QUERYPACS"
FIND = str(StudyRootQueryRetrieveInformationModelFind)
GET = str(StudyRootQueryRetrieveInformationModelGet)
MOVE = str(StudyRootQueryRetrieveInformationModelMove)

Sends = Callable[[int, list[Dataset]], list[Dataset]]
"""(number of the transfer, counted from 1; what was asked for) -> what is sent."""


class QueryPacs:
    """What it has is in `instances`. Everything else is how it misbehaves.

    sends: what goes out for what was asked for. counts: NumberOf...RelatedInstances by series UID, instead of the
    truth; None leaves the number out. lists: which instances C-FIND tells of. extra_answers: appended to every answer.
    final: status of transfers instead of the true one. pendings: answers that bring nothing, before a transfer.
    pause_s: before each of these and each instance. dies_after: instances after which the connection is dead.
    """

    def __init__(self, instances: Sequence[Dataset] = ()) -> None:
        self.instances = list(instances)
        self.sends: Sends = lambda _number, asked: asked
        self.counts: Callable[[str, int], int | None] = lambda _uid, count: count
        self.lists: Callable[[list[Dataset]], list[Dataset]] = lambda held: held
        self.extra_answers: Callable[[str], Iterator[Dataset]] = lambda _level: iter(())
        self.find_status = 0x0000
        self.final: int | None = None
        self.pendings = 0
        self.pause_s = 0.0
        self.dies_after: int | None = None
        self.asked: list[Dataset] = []
        self.transfers: list[Dataset] = []
        self.proposed: list[list[tuple[str, tuple[str, ...]]]] = []
        self.destinations: dict[str, tuple[str, int]] = {}
        self.released = threading.Event()

    # -- C-FIND -------------------------------------------------------------------------------------------------------

    def find(self, event: Any) -> Iterator[Any]:
        """Answer at STUDY, SERIES or IMAGE level."""
        query = event.identifier
        self.asked.append(query)
        level = query.QueryRetrieveLevel
        for answer in {"STUDY": self._studies, "SERIES": self._series, "IMAGE": self._images}[level](query):
            yield 0xFF00, answer
        for answer in self.extra_answers(level):
            yield 0xFF00, answer
        if self.find_status != 0x0000:
            yield self.find_status, None

    def _of(self, query: Dataset) -> list[Dataset]:
        return [one for one in self.instances if one.StudyInstanceUID == query.StudyInstanceUID]

    def _studies(self, query: Dataset) -> Iterator[Dataset]:
        for uid in dict.fromkeys(one.StudyInstanceUID for one in self.instances):
            inside = [one for one in self.instances if one.StudyInstanceUID == uid]
            modalities = sorted({one.Modality for one in inside})
            if query.ModalitiesInStudy and query.ModalitiesInStudy not in modalities:
                continue
            answer = _answer("STUDY", StudyInstanceUID=uid, ModalitiesInStudy=modalities)
            answer.StudyDate, answer.StudyTime = inside[0].StudyDate, inside[0].get("StudyTime", "")
            _number(answer, "NumberOfStudyRelatedInstances", self.counts(uid, len(inside)))
            yield answer

    def _series(self, query: Dataset) -> Iterator[Dataset]:
        for uid in dict.fromkeys(one.SeriesInstanceUID for one in self._of(query)):
            inside = [one for one in self._of(query) if one.SeriesInstanceUID == uid]
            answer = _answer("SERIES", StudyInstanceUID=query.StudyInstanceUID, SeriesInstanceUID=uid)
            answer.Modality = inside[0].Modality
            _number(answer, "NumberOfSeriesRelatedInstances", self.counts(uid, len(inside)))
            yield answer

    def _images(self, query: Dataset) -> Iterator[Dataset]:
        for one in self.lists([x for x in self._of(query) if x.SeriesInstanceUID == query.SeriesInstanceUID]):
            yield _answer(
                "IMAGE",
                StudyInstanceUID=query.StudyInstanceUID,
                SeriesInstanceUID=query.SeriesInstanceUID,
                SOPInstanceUID=one.SOPInstanceUID,
                SOPClassUID=one.SOPClassUID,
            )

    # -- C-MOVE and C-GET ---------------------------------------------------------------------------------------------

    def get(self, event: Any) -> Iterator[Any]:
        """Answer C-GET."""
        yield from self._transfer(event)

    def move(self, event: Any) -> Iterator[Any]:
        """Answer C-MOVE to a destination that is known."""
        address = self.destinations.get(str(event.move_destination).strip())
        yield (None, None) if address is None else address
        if address is not None:
            yield from self._transfer(event)

    def _transfer(self, event: Any) -> Iterator[Any]:
        wanted = event.identifier
        self.transfers.append(wanted)
        out = self.sends(len(self.transfers), [one for one in self._of(wanted) if _matches(one, wanted)])
        self._say_pending(event)
        yield len(out) + (self.final is not None)
        for number, one in enumerate(out):
            time.sleep(self.pause_s)
            if self.dies_after is not None and number >= self.dies_after:
                event.assoc.dul.socket.socket.close()
                return
            one.file_meta = FileMetaDataset()
            one.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
            yield 0xFF00, one
        if self.final is not None:
            yield self.final, None

    def _say_pending(self, event: Any) -> None:
        """Answers that say "pending" and bring nothing; pynetdicom itself would never send one."""
        request = event.request
        for _ in range(self.pendings):
            time.sleep(self.pause_s)
            if not event.assoc.is_established:
                return
            answer = type(request)()
            answer.MessageIDBeingRespondedTo = request.MessageID
            answer.AffectedSOPClassUID = request.AffectedSOPClassUID
            answer.Status = 0xFF00
            answer.NumberOfRemainingSuboperations = 1
            answer.NumberOfCompletedSuboperations = 0
            answer.NumberOfFailedSuboperations = answer.NumberOfWarningSuboperations = 0
            event.assoc.dimse.send_msg(answer, event.context.context_id)

    def note(self, event: Any) -> None:
        """Remember what was proposed."""
        contexts = event.assoc.requestor.requested_contexts
        self.proposed.append([(str(c.abstract_syntax), tuple(map(str, c.transfer_syntax))) for c in contexts])


@contextmanager
def serving(
    pacs: QueryPacs,
    *,
    models: Sequence[str] = (FIND, GET, MOVE),
    roles: bool = True,
    tls: ssl.SSLContext | None = None,
) -> Iterator[Peer]:
    """Run it on loopback; `roles`: it accepts that the caller is an SCP, as C-GET needs."""
    entity = AE(ae_title=TITLE)
    entity.require_called_aet = True
    for model in models:
        entity.add_supported_context(model)
    for context in AllStoragePresentationContexts:
        if roles:
            entity.add_supported_context(context.abstract_syntax, scu_role=True, scp_role=True)
        entity.add_requested_context(context.abstract_syntax) if len(entity.requested_contexts) < 120 else None
    handlers = [
        (evt.EVT_C_FIND, pacs.find),
        (evt.EVT_C_GET, pacs.get),
        (evt.EVT_C_MOVE, pacs.move),
        (evt.EVT_REQUESTED, pacs.note),
        (evt.EVT_RELEASED, lambda _event: pacs.released.set()),
    ]
    server = entity.start_server(("127.0.0.1", 0), block=False, evt_handlers=handlers, ssl_context=tls)
    try:
        yield Peer("querypacs", TITLE, "127.0.0.1", server.server_address[1], counts=True)
    finally:
        entity.shutdown()


def by(peer: Peer, retrieve: Retrieve) -> Peer:
    """The same peer, asked to send in this way."""
    return replace(peer, retrieve=retrieve)


def _matches(one: Dataset, wanted: Dataset) -> bool:
    series = wanted.get("SeriesInstanceUID", "")
    instances = wanted.get("SOPInstanceUID", "")
    names = [instances] if isinstance(instances, str) else list(instances)
    return series in ("", one.SeriesInstanceUID) and (names == [""] or one.SOPInstanceUID in names)


def _answer(level: str, **values: object) -> Dataset:
    answer = Dataset()
    answer.QueryRetrieveLevel = level
    for keyword, value in values.items():
        setattr(answer, keyword, value)
    return answer


def _number(answer: Dataset, keyword: str, value: int | None) -> None:
    if value is not None:
        setattr(answer, keyword, value)
