"""Chores that nobody triggers: looked after every few seconds, in one thread."""

import threading
from collections.abc import Callable

import structlog
from sqlalchemy.exc import SQLAlchemyError

from audit.errors import AuditError
from dicom_bridge.errors import BridgeError

PAUSE_S = 2.0

_log = structlog.get_logger()


class Caretaker:
    """Runs `chores` each `pause_s` seconds; one that cannot be done now is done in the next round."""

    def __init__(self, *chores: Callable[[], None], pause_s: float = PAUSE_S) -> None:
        self._chores = chores
        self._pause_s = pause_s
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="caretaker", daemon=True)

    @property
    def running(self) -> bool:
        """For /health."""
        return self._thread.is_alive()

    def start(self) -> None:
        """Begin."""
        self._thread.start()

    def stop(self) -> None:
        """End after the chore under way."""
        self._stop.set()
        self._thread.join()

    def _run(self) -> None:
        while not self._stop.is_set():
            for chore in self._chores:
                try:
                    chore()
                except (AuditError, BridgeError, OSError, SQLAlchemyError) as error:
                    _log.error("chore_put_off", error_type=type(error).__name__, code=getattr(error, "code", None))
            self._stop.wait(self._pause_s)
