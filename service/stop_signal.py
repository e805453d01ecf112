"""Waits until the process is told to stop, whichever of its threads the signal reaches.

Python runs a handler in the main thread, and where that waits for a lock or an event, a signal wakes it only if the
kernel gave it to that very thread. Mostly it does; a thread that is traced or has another signal pending is passed
over, and then nobody would ever wake. The wakeup descriptor is written to by whichever thread it was.
"""

import signal
import socket
from typing import Self


class StopSignals:
    """Made in the main thread before anything that may be stopped; a signal that comes before `wait` is not lost."""

    def __init__(self, *numbers: signal.Signals) -> None:
        self._numbers = frozenset(numbers)
        self._seen, self._written = socket.socketpair()
        self._written.setblocking(False)
        signal.set_wakeup_fd(self._written.fileno(), warn_on_full_buffer=False)
        for number in numbers:
            signal.signal(number, lambda *_: None)  # the descriptor says it; a handler of Python's may come too late

    def __enter__(self) -> Self:
        """Itself."""
        return self

    def __exit__(self, *_: object) -> None:
        """Nobody waits any more."""
        signal.set_wakeup_fd(-1)
        self._seen.close()
        self._written.close()

    def wait(self) -> signal.Signals:
        """The first of the signals, as soon as it is there."""
        while True:
            number = self._seen.recv(1)[0]
            if number in self._numbers:
                return signal.Signals(number)
