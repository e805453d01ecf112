"""Chores that nobody triggers: done again and again, and one that fails holds up no other."""

import errno
import threading
import time

import pytest
from sqlalchemy.exc import OperationalError

from audit.errors import AuditUnavailable
from dicom_bridge.ledger import OutboxUnavailable
from service.caretaker import PAUSE_S, Caretaker


class Chore:
    """Counts its rounds; raises `error` in the first of them."""

    def __init__(self, error: Exception | None = None) -> None:
        self._error = error
        self.rounds = 0
        self.done = threading.Event()

    def __call__(self) -> None:
        """One round."""
        self.rounds += 1
        if self.rounds >= 2:
            self.done.set()
        if self._error is not None and self.rounds == 1:
            raise self._error


@pytest.mark.slow
def test_what_cannot_be_done_now_is_done_in_the_next_round() -> None:
    """Log, ledger, disk or table away: the chore is put off, those after it are not, and the thread lives on."""
    chores = [
        Chore(AuditUnavailable("the disk refuses", errno.ENOSPC)),
        Chore(OutboxUnavailable("LEDGER_UNAVAILABLE", "locked")),
        Chore(OSError(errno.EIO, "input/output error")),
        Chore(OperationalError("SELECT", {}, Exception("locked"))),
        Chore(),
    ]
    caretaker = Caretaker(*chores)
    caretaker.start()

    assert all(chore.done.wait(3 * PAUSE_S) for chore in chores)
    caretaker.stop()
    assert [chore.rounds for chore in chores] == [2] * 5


def test_it_ends_at_once() -> None:
    """`stop` does not wait for the pause between two rounds, and no chore runs after it."""
    chore = Chore()
    caretaker = Caretaker(chore)
    caretaker.start()

    began_s = time.monotonic()
    caretaker.stop()

    assert time.monotonic() - began_s < PAUSE_S / 2
    assert chore.rounds <= 1
