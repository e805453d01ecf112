"""When a transfer is given up: each reason by itself, and never for a peer that is merely slow."""

from __future__ import annotations

import threading

import pytest

from dicom_bridge.errors import InboxUnavailable
from dicom_bridge.patience import Patience, RetrieveFailed, RetrieveLimits

LIMITS = RetrieveLimits(stall_s=10, whole_s=100)


class Seconds:
    """A clock that only moves when told."""

    def __init__(self) -> None:
        self.at = 1000.0

    def __call__(self) -> float:
        """Return the time."""
        return self.at


def code(patience: Patience) -> str | None:
    """Return the code of the verdict."""
    verdict = patience.verdict()
    return None if verdict is None else verdict.code


def test_a_silent_peer_stalls_and_a_slow_one_does_not() -> None:
    """A sign of life each nine seconds is enough; eleven seconds of nothing are not."""
    clock = Seconds()
    patience = Patience(LIMITS, clock=clock)
    for _ in range(5):
        clock.at += 9
        assert code(patience) is None
        patience.alive()
    clock.at += 11
    assert code(patience) == "PULL_STALLED"


def test_the_whole_has_an_end_whatever_the_peer_does() -> None:
    """A peer that gives signs of life for ever is given up."""
    clock = Seconds()
    patience = Patience(LIMITS, clock=clock)
    for _ in range(11):
        clock.at += 9.5
        patience.alive()
    assert code(patience) == "PULL_TOO_LONG"


def test_it_can_be_called_off() -> None:
    """The event ends it at once, and ends a pause too."""
    stop = threading.Event()
    patience = Patience(LIMITS, stop)
    assert code(patience) is None
    stop.set()
    patience.pause(3600)
    with pytest.raises(RetrieveFailed) as caught:
        patience.check()
    assert caught.value.code == "PULL_CANCELLED"


def test_the_first_fatal_error_counts() -> None:
    """What is seen in a thread that can raise nothing is the verdict, whatever comes after."""
    patience = Patience(LIMITS)
    first = InboxUnavailable("SPOOL_FULL", "full")
    patience.fail(first)
    patience.fail(RetrieveFailed("PULL_ENDLESS", "later"))
    assert patience.verdict() is first


def test_what_arrives_elsewhere_is_a_sign_of_life() -> None:
    """Images of a C-MOVE come on another association: while their number grows, nothing stalls."""
    clock, arrived = Seconds(), [0]
    patience = Patience(LIMITS, look=lambda: arrived[0], clock=clock)
    for _ in range(4):
        clock.at += 9
        arrived[0] += 1
        assert code(patience) is None
    clock.at += 9
    assert code(patience) is None
    clock.at += 9
    assert code(patience) == "PULL_STALLED"


def test_an_inbox_that_cannot_be_read_ends_it() -> None:
    """Without the index nobody knows what has arrived."""

    def look() -> int:
        raise InboxUnavailable("SPOOL_FAILED", "the index cannot be read")

    clock = Seconds()
    patience = Patience(LIMITS, look=look, clock=clock)
    clock.at += 1
    assert code(patience) == "SPOOL_FAILED"


def test_looks_are_rare() -> None:
    """A hundred questions in one moment cost one look at the index at most."""
    clock, looks = Seconds(), [0]

    def look() -> int:
        looks[0] += 1
        return 0

    patience = Patience(LIMITS, look=look, clock=clock)
    for _ in range(100):
        patience.verdict()
    assert looks[0] == 0
    clock.at += 1
    for _ in range(100):
        patience.verdict()
    assert looks[0] == 1
