"""Who writes, and when: the envelope that one run of a writer gives to its entries."""

from __future__ import annotations

import secrets
from collections.abc import Callable
from datetime import datetime

from audit.entry import Draft, Entry

BOOT_BYTES = 16
MICRO = 1_000_000


class Placer:
    """Places drafts for one source. ``now`` is aware; ``clock`` gives seconds that no setting of the clock moves."""

    def __init__(self, source: str, now: Callable[[], datetime], clock: Callable[[], float]) -> None:
        self.source = source
        self._now = now
        self._clock = clock
        self._boot = secrets.token_hex(BOOT_BYTES)

    def place(self, draft: Draft, index: int, seq: int) -> Entry:
        """The draft as the entry at this index, the ``seq``-th of the source."""
        tick_us = int(self._clock() * MICRO)
        return Entry.of(
            draft, index=index, source=self.source, seq=seq, now=self._now(), boot=self._boot, tick_us=tick_us
        )
