"""A receiver as a process of its own, to be killed: listener and inbox on a free port, which it prints.

python -m tests.simulators.receiver ROOT
"""

from __future__ import annotations

import sys
import threading
from datetime import UTC, datetime
from pathlib import Path

from dicom_bridge.inbox import Inbox
from dicom_bridge.listener import Listener

TITLE = "ZHIYING"


def main(root: Path) -> None:
    """Receive until killed."""
    inbox = Inbox(root, lambda: datetime.now(UTC))
    listener = Listener(TITLE, "127.0.0.1", 0, inbox)
    listener.start()
    print(listener.port, flush=True)
    threading.Event().wait()


if __name__ == "__main__":
    main(Path(sys.argv[1]))
