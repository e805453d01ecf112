"""A PACS that polices its contract: it parses what it is sent, and complains of anything that a good SCU never does."""

from __future__ import annotations

import io
import threading
from collections.abc import Callable, Sequence
from typing import Self

from pydicom import dcmread
from pynetdicom import AE, evt
from pynetdicom.transport import ThreadedAssociationServer

from dicom_bridge.peers import Peer

COMPREHENSIVE_3D_SR = "1.2.840.10008.5.1.4.1.1.88.34"
SEGMENTATION = "1.2.840.10008.5.1.4.1.1.66.4"
MR = "1.2.840.10008.5.1.4.1.1.4"
EXPLICIT = "1.2.840.10008.1.2.1"


class FakePacs:
    """A Storage SCP on a port of its own.

    `answer(*statuses)`: the next C-STOREs are answered so (then 0x0000 again); warnings store, failures do not.
    `down()` and `up()`: nobody listens, then the same port again. `forget()`: as after a restore from an old backup.
    `complaints`: what the SCU did wrong: another object under a held UID, an object other than announced, a proposal
    for what it did not send, a wrong called AE title.
    """

    def __init__(self, ae_title: str = "TESTPACS", classes: Sequence[str] = (COMPREHENSIVE_3D_SR, SEGMENTATION, MR)):
        self.ae_title = ae_title
        self.stored: dict[str, bytes] = {}
        self.received: list[str] = []
        self.complaints: list[str] = []
        self.associations = 0
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

    def peer(self, name: str = "pacs") -> Peer:
        """How a configuration names this PACS."""
        return Peer(name=name, ae_title=self.ae_title, host="127.0.0.1", port=self.port)

    def answer(self, *statuses: int) -> None:
        """Answer the next C-STOREs with these statuses."""
        with self._lock:
            self._answers += statuses

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
        handlers = [(evt.EVT_C_STORE, self._store), (evt.EVT_ESTABLISHED, self._established)]
        server = ae.start_server(("127.0.0.1", self.port), block=False, evt_handlers=handlers)
        assert server is not None
        self._server = server
        self.port = server.server_address[1]

    def _established(self, event: evt.Event) -> None:
        with self._lock:
            self.associations += 1
            proposed = {str(c.abstract_syntax) for c in event.assoc.requestor.requested_contexts}
            self._proposed = proposed

    def _store(self, event: evt.Event) -> int:
        self.before_answer()
        data: bytes = event.encoded_dataset()
        with self._lock:
            uid = str(event.request.AffectedSOPInstanceUID)
            ds = dcmread(io.BytesIO(data))
            if ds.SOPInstanceUID != uid or ds.SOPClassUID != event.request.AffectedSOPClassUID:
                self.complaints.append("the object is not the one announced")
            if str(ds.SOPClassUID) not in self._proposed:
                self.complaints.append("the class was not proposed")
            body = event.request.DataSet.getvalue()
            if self.stored.get(uid, body) != body:
                self.complaints.append("another object under a held UID")
            self.received.append(uid)
            status = self._answers.pop(0) if self._answers else 0x0000
            if status == 0x0000 or status >> 12 == 0xB:
                self.stored[uid] = body
            return status
