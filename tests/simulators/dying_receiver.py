"""A receiver as a process of its own that kills itself, as a power switch would, at one step of one store.

python -m tests.simulators.dying_receiver ROOT STEP WHEN NUMBER

STEP is a call of the disk, "row" (the index is told), or "answer"; WHEN is before or after; NUMBER counts from 1.
Prints its port.
"""

from __future__ import annotations

import os
import signal
import sys
import threading
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from dicom_bridge.inbox import Inbox
from dicom_bridge.listener import Listener
from tests.simulators.failing_disk import FailingDisk


class Doom:
    """Counts the steps, and strikes."""

    def __init__(self, step: str, when: str, number: int) -> None:
        self._at = (step, when)
        self._left = number

    def __call__(self, step: str, when: str) -> None:
        """A step is about to be made, or was."""
        if (step, when) == self._at:
            self._left -= 1
            if self._left == 0:
                os.kill(os.getpid(), signal.SIGKILL)


class DoomedDisk(FailingDisk):
    """The real disk, until it strikes; silent while the inbox opens."""

    doom: Doom | None = None

    def _do(self, name: str, *, after: bool) -> None:
        if self.doom is not None:
            self.doom(name, "after" if after else "before")
        super()._do(name, after=after)


class DoomedIndex:
    """The real index, until it strikes."""

    def __init__(self, index: Any, doom: Doom) -> None:
        self._index, self._doom = index, doom

    def __getattr__(self, name: str) -> Any:
        return getattr(self._index, name)

    def add(self, new: Any, absent_at: int | None = None) -> bool:
        """See SpoolIndex."""
        self._doom("row", "before")
        added: bool = self._index.add(new, absent_at)
        self._doom("row", "after")
        return added


def main(root: Path, doom: Doom) -> None:
    """Receive until struck."""
    disk = DoomedDisk()
    inbox = Inbox(root, lambda: datetime.now(UTC), disk=disk)
    disk.doom = doom
    inbox._spool.index = DoomedIndex(inbox._index, doom)  # type: ignore[assignment] # speaks like one
    listener = Listener("ZHIYING", "127.0.0.1", 0, inbox)
    listener.start()
    print(listener.port, flush=True)
    threading.Event().wait()


if __name__ == "__main__":
    main(Path(sys.argv[1]), Doom(sys.argv[2], sys.argv[3], int(sys.argv[4])))
