"""One file of unknown content on its way in, as STOW-RS and fetching bring it: its head first, then as `incoming`."""

from __future__ import annotations

from collections.abc import Callable

from dicom_bridge.errors import InstanceRefused
from dicom_bridge.incoming import Announced, Incoming, Spool, Stored
from dicom_bridge.spool_disk import Chunk
from dicom_bridge.stream import meta_is_whole, read_part10


class IncomingFile:
    """One file of unknown content, in pieces, that should be a Part 10 file; used as `Incoming`.

    Its own file meta information is read and dropped: what is held has ours.
    """

    def __init__(self, spool: Spool, sender: str, stored: Callable[[Stored], None]) -> None:
        self._spool, self._sender, self._stored = spool, sender, stored
        self._head = bytearray()
        self._look_at = 0
        self._rest: Incoming | None = None

    def write(self, chunk: Chunk) -> None:
        """See Incoming."""
        if self._rest is not None:
            self._rest.write(chunk)
            return
        self._head += chunk
        # Looked at each time it has doubled: an endless head in pieces of a few bytes must not cost their square.
        if len(self._head) >= self._look_at:
            self._look_at = 2 * len(self._head)
            if meta_is_whole(self._head):
                self._begin()

    def finish(self) -> Stored:
        """See Incoming."""
        return (self._rest or self._begin()).finish()

    def commit(self) -> None:
        """See Incoming."""
        (self._rest or self._begin()).commit()

    def settle(self) -> Stored:
        """See Incoming; only after `commit`."""
        return (self._rest or self._begin()).settle()

    def abandon(self) -> None:
        """See Incoming."""
        if self._rest is not None:
            self._rest.abandon()

    def _begin(self) -> Incoming:
        try:
            meta = read_part10(self._head)
        except InstanceRefused as refused:
            made = Incoming(self._spool, Announced("", "", ""), self._sender, self._stored, refused)
            start = 0
        else:
            announced = Announced(meta.transfer_syntax, meta.sop_class, meta.sop_instance)
            made = Incoming(self._spool, announced, self._sender, self._stored)
            start = meta.dataset_at
        head, self._head, self._rest = self._head, bytearray(), made
        if len(head) > start:
            made.write(memoryview(head)[start:])
        return made
