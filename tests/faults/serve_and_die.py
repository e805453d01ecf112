"""`zhiying serve` that kills itself with SIGKILL at a named step and moment: serve_and_die.py CONFIG [STEP MOMENT]."""

import os
import signal
import sys
import threading
from pathlib import Path

from service import wire
from service.serving import build


def main(config: str, step: str = "", moment: str = "") -> None:
    """Run until killed, by ourselves or by somebody else."""

    def observe(at: str, when: str, _subject: str) -> None:
        if (at, when) == (step, moment):
            os.kill(os.getpid(), signal.SIGKILL)

    stop = threading.Event()
    signal.signal(signal.SIGTERM, lambda *_: stop.set())
    service = build(wire.settings(Path(config)), observe)
    service.start()
    stop.wait()
    service.stop()
    os._exit(0)


if __name__ == "__main__":
    main(*sys.argv[1:])
