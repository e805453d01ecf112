"""What a transfer does with each instance: checked to be of the study asked for, then held durably, or refused."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from itertools import chain
from typing import Any, Final

from pydicom.dataset import Dataset

from dicom_bridge import status
from dicom_bridge.errors import BridgeError, InboxUnavailable, InstanceRefused
from dicom_bridge.inbox import Inbox
from dicom_bridge.incoming import Announced
from dicom_bridge.patience import Patience, RetrieveFailed
from dicom_bridge.spool_disk import Chunk
from dicom_bridge.stream import meta_is_whole, read_part10

WRONG_STUDY: Final = "WRONG_STUDY"
"""The inbox's code, in quarantine too: sent by a peer that had been asked for another study."""
_SPARE: Final = 1000
"""A study may grow while it is fetched; a peer that sends its instances again and again is cut off somewhere."""
_NOT_THIS: Final = 0xA900
"""PS3.4 table B.2-1: the data set does not match what was negotiated; the nearest to "not what was asked for"."""
_NO_MORE: Final = 0xA700
"""PS3.4 table B.2-1: out of resources; nothing was stored."""
_FAULT: Final = "STORE_FAULT"


class Keeper:
    """Takes the instances of one transfer. `failed` counts those that were not kept, by code.

    `expected`: how many the peer said it would send. `carrier`: the name under which the inbox knows this transfer as
    an open association, so that no run begins before it ends.
    """

    def __init__(
        self,
        inbox: Inbox,
        study_uid: str,
        sender: str,
        *,
        expected: int,
        carrier: str,
        patience: Patience,
        instance_bytes_max: int,
    ) -> None:
        self.expected, self.instance_bytes_max = expected, instance_bytes_max
        self._inbox, self._study_uid, self._sender = inbox, study_uid, sender
        self._carrier, self._patience = carrier, patience
        self._left = 2 * expected + _SPARE
        self._failed: Counter[str] = Counter()
        self._over = False

    @property
    def failed(self) -> Mapping[str, int]:
        """Instances that were not kept, by code."""
        return dict(self._failed)

    def count_failed(self, code: str, number: int = 1) -> None:
        """Add what failed outside."""
        if number > 0:
            self._failed[code] += number

    def keep(self, announced: Announced, data_set: Iterable[Chunk]) -> None:
        """Return when the instance is durable; its data set comes in pieces.

        Raises InstanceRefused for this one alone; InboxUnavailable and RetrieveFailed end the whole transfer.
        """
        self._patience.alive()
        self._left -= 1
        if self._left < 0:
            raise RetrieveFailed("PULL_ENDLESS", "the peer sends far more than it said it has")
        incoming = self._inbox.incoming(announced, self._sender, self._carrier)
        try:
            for piece in data_set:
                incoming.write(piece)
            incoming.finish()
        except InstanceRefused as refused:
            if refused.code == WRONG_STUDY:
                raise RetrieveFailed("PULL_WRONG_STUDY", "the peer sent an instance of another study") from refused
            raise
        finally:
            incoming.abandon()

    def keep_file(self, pieces: Iterator[bytes]) -> None:
        """Keep a Part 10 file; a refusal is counted, not raised. Else as `keep`."""
        head = bytearray()
        for piece in pieces:
            head += piece
            if meta_is_whole(head):
                break
        try:
            meta = read_part10(head)
        except InstanceRefused as refused:
            # Whatever follows is not read: what is no file from its first bytes on can have any length.
            self._inbox.quarantine(bytes(head), refused.code, self._sender)
            self.count_failed(refused.code)
            return
        announced = self._announced(meta.transfer_syntax, meta.sop_class, meta.sop_instance)
        try:
            self.keep(announced, chain([memoryview(head)[meta.dataset_at :]], pieces))
        except InstanceRefused as refused:
            self.count_failed(refused.code)

    def on_store(self, event: Any) -> Dataset:
        """Answer a C-STORE of the peer on our own association (C-GET): 0x0000 only for what is durable."""
        done = False
        try:
            answer = self._answer(event)
            done = True
        finally:
            if not done:
                # pynetdicom answers 0xC211 for us; without this nobody here would know.
                self.count_failed(_FAULT)
        return answer

    def _answer(self, event: Any) -> Dataset:
        response = Dataset()
        response.Status = status.SUCCESS.status
        request = event.request
        if self._over:
            # The connection is being cut; what still comes is refused, so that the peer does not count it as stored.
            response.Status = _NO_MORE
            return response
        try:
            if request.DataSet is None:
                raise InstanceRefused("DATASET_GARBLED", "the request came without a data set")
            data_set = request.DataSet.getbuffer()
            if len(data_set) > self.instance_bytes_max:
                raise InstanceRefused("INSTANCE_TOO_LARGE", "larger than this service takes")
            announced = self._announced(
                str(event.context.transfer_syntax),
                str(request.AffectedSOPClassUID),
                str(request.AffectedSOPInstanceUID),
            )
            self.keep(announced, [data_set])
        except RetrieveFailed as failed:
            response.Status = _NOT_THIS
            self._ends(failed)
        except InboxUnavailable as unavailable:
            response.Status = status.answer(unavailable).status
            self._ends(unavailable)
        except InstanceRefused as refused:
            response.Status = status.answer(refused).status
            self.count_failed(refused.code)
        return response

    def _announced(self, transfer_syntax: str, sop_class: str, sop_uid: str) -> Announced:
        return Announced(transfer_syntax, sop_class, sop_uid, study_uid=self._study_uid)

    def _ends(self, error: BridgeError) -> None:
        self._over = True
        self.count_failed(error.code)
        self._patience.fail(error)
