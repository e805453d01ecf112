"""A modality that asks for storage commitment, on stock pynetdicom, and listens for the report on a port of its own.

What it sends and reads is written here by hand, so that both ends of a mistake of ours cannot agree.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Self

from pydicom.dataset import Dataset
from pynetdicom import AE, evt

from dicom_bridge.peers import Peer
from tests.simulators.pacs import quick_server

COMMITMENT = "1.2.840.10008.1.20.1"
COMMITMENT_INSTANCE = "1.2.840.10008.1.20.1.1"


def wanted(transaction: str, *references: tuple[str, str]) -> Dataset:
    """The Action Information of a request for these (class, instance)."""
    ds = Dataset()
    ds.TransactionUID = transaction
    ds.ReferencedSOPSequence = []
    for sop_class, sop_uid in references:
        item = Dataset()
        item.ReferencedSOPClassUID, item.ReferencedSOPInstanceUID = sop_class, sop_uid
        ds.ReferencedSOPSequence.append(item)
    return ds


class CommittedModality:
    """`ask` sends an N-ACTION; `reports` are (event type, Event Information) in the order of their arrival.

    `answers`: statuses for the next reports, then 0x0000. `roles`: of each association that we opened to it.
    """

    def __init__(self, ae_title: str = "TESTMODALITY") -> None:
        self.ae_title = ae_title
        self.reports: list[tuple[int, Dataset]] = []
        self.answers: list[int] = []
        self.roles: list[tuple[bool | None, bool | None]] = []
        self.port = 0
        self._server: Any = None
        self._came = threading.Condition()

    def __enter__(self) -> Self:
        self.up()
        return self

    def __exit__(self, *_: object) -> None:
        self.down()

    def up(self) -> None:
        """Listen, on the same port as before."""
        ae = AE(ae_title=self.ae_title)
        ae.require_called_aet = True
        ae.add_supported_context(COMMITMENT, scu_role=True, scp_role=True)
        handlers = [(evt.EVT_N_EVENT_REPORT, self._reported), (evt.EVT_ESTABLISHED, self._established)]
        self._server = quick_server(ae, self.port, handlers)
        self.port = self._server.server_address[1]

    def down(self) -> None:
        """Stop listening."""
        if self._server is not None:
            self._server.shutdown()
            self._server.server_close()
            self._server = None

    def peer(self) -> Peer:
        """How a configuration names it."""
        return Peer("modality", self.ae_title, "127.0.0.1", self.port)

    def _established(self, event: evt.Event) -> None:
        (context,) = event.assoc.accepted_contexts
        self.roles.append((context.as_scu, context.as_scp))

    def _reported(self, event: evt.Event) -> tuple[int, None]:
        with self._came:
            status = self.answers.pop(0) if self.answers else 0x0000
            self.reports.append((event.event_type, event.event_information))
            self._came.notify_all()
        return status, None

    def wait(self, count: int) -> None:
        """Wait until so many reports have come."""
        with self._came:
            assert self._came.wait_for(lambda: len(self.reports) >= count, 30), "no report came"

    @contextmanager
    def association(self, port: int, called: str = "ZHIYING") -> Iterator[Any]:
        """An association with us on which it can ask and hear."""
        ae = AE(ae_title=self.ae_title)
        ae.acse_timeout = ae.dimse_timeout = ae.network_timeout = 30
        ae.add_requested_context(COMMITMENT)
        handlers = [(evt.EVT_N_EVENT_REPORT, self._reported)]
        made = ae.associate("127.0.0.1", port, ae_title=called, evt_handlers=handlers)
        assert made.is_established
        try:
            yield made
        finally:
            if made.is_established:
                made.release()
            made.join(10)

    def ask(self, port: int, asked: Dataset | None, *, action: int = 1, instance: str = COMMITMENT_INSTANCE) -> int:
        """One request on an association of its own; the status of the answer."""
        with self.association(port) as association:
            return ask_on(association, asked, action=action, instance=instance)


def ask_on(association: Any, asked: Dataset | None, *, action: int = 1, instance: str = COMMITMENT_INSTANCE) -> int:
    """One request on this association; the status of the answer."""
    answer, _ = association.send_n_action(asked, action, COMMITMENT, instance)
    return int(answer.Status)


def said(report: tuple[int, Dataset]) -> tuple[int, list[str], dict[str, int]]:
    """Event type, committed instances, and failed ones with their reasons."""
    event_type, ds = report
    committed = [str(item.ReferencedSOPInstanceUID) for item in ds.get("ReferencedSOPSequence", ())]
    failed = {str(item.ReferencedSOPInstanceUID): int(item.FailureReason) for item in ds.get("FailedSOPSequence", ())}
    return event_type, committed, failed
