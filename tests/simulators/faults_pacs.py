"""A PACS with two more bad habits: it stores and is gone before it answers, and it is asked about studies of others."""

from __future__ import annotations

import socket
from collections import Counter
from collections.abc import Iterator
from typing import Any

from pydicom.dataset import Dataset
from pynetdicom import evt

from tests.simulators.pacs import FakePacs, _parsed


class FaultyPacs(FakePacs):
    """`cuts`: after so many of the next C-STOREs the object is kept and the connection cut, with no answer.

    It answers C-FIND at SERIES level, as assembly asks, for a study of which it has nothing: the modality sent to us.
    """

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self.cuts = 0

    def _store(self, event: evt.Event) -> int:
        status = super()._store(event)
        with self._lock:
            cut = self.cuts > 0
            self.cuts -= cut
        if cut:
            event.assoc.dul.socket.socket.shutdown(socket.SHUT_RDWR)
        return status

    def _find(self, event: evt.Event) -> Iterator[tuple[int, Dataset | None]]:
        if event.identifier.QueryRetrieveLevel == "SERIES":
            yield self.find_status, None
            return
        yield from super()._find(event)

    def results(self) -> Counter[tuple[str, str]]:
        """How many objects it keeps of each (StudyInstanceUID, Modality)."""
        with self._lock:
            kept = [_parsed(body) for body in self.stored.values()]
        return Counter((str(ds.StudyInstanceUID), str(ds.Modality)) for ds in kept)
