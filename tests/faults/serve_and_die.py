"""`zhiying serve` that kills itself at a named step and moment: serve_and_die.py CONFIG [STEP MOMENT [SIGNAL]].

The signal is SIGKILL; SIGSTOP freezes it there instead, so that a test can change the world around it. With
ZHIYING_TEST_LEVERS in the environment it also obeys the levers in that folder; see tests.simulators.faults_levers.
"""

import os
import signal
import sys
import threading
from pathlib import Path

from service import wire
from service.serving import Service, build
from service.stop_signal import StopSignals
from tests.simulators import nursery


def main(config: str, step: str = "", moment: str = "", by: str = "SIGKILL") -> None:
    """Run until killed, by ourselves or by somebody else."""

    done = threading.Event()

    def observe(at: str, when: str, subject: str) -> None:
        if levers is not None:
            levers.observe(at, when, subject)
        if (at, when) == (step, moment) and not done.is_set():
            done.set()
            os.kill(os.getpid(), signal.Signals[by])

    stop = StopSignals(signal.SIGTERM)
    levers = None
    if "ZHIYING_TEST_LEVERS" in os.environ:
        from tests.simulators.faults_levers import Levers

        levers = Levers(Path(os.environ["ZHIYING_TEST_LEVERS"]))
        wire.now = levers.clock(wire.now)
    service: Service = build(wire.settings(Path(config)), observe)
    if nursery.SOCKET in os.environ:  # born there; so shall the engine's child be
        service.engine._launch = nursery.Popen
    if levers is not None:
        levers.fit(service)
    service.start()
    stop.wait()
    service.stop()
    os._exit(0)


if __name__ == "__main__":
    main(*sys.argv[1:])
