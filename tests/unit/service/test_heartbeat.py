"""Beats: often enough to keep the promise, once each, and again when the log could not take them."""

import time
from itertools import pairwise
from pathlib import Path

import pytest

from audit.entry import Draft, Entry, Kind
from audit.errors import AuditUnavailable
from audit.layout import CHECKPOINT
from service.caretaker import Caretaker
from service.heartbeat import BEAT_S, INTERVAL_S, Heartbeat
from service.wire import PUBLISH_S
from tests.simulators.audit_log import draft, open_log
from tests.simulators.waiting import until


class Refusing:
    """A log whose disk is full, and that has kept what it was given last."""

    def __init__(self) -> None:
        self.asked: list[Draft] = []

    def append(self, draft: Draft) -> Entry:
        """Refuse."""
        self.asked.append(draft)
        raise AuditUnavailable("the disk refuses", 28)


def test_beats_keep_their_promise(tmp_path: Path) -> None:
    """Called every two seconds for ten minutes, no two beats are further apart than each of them says."""
    now = [0.0]
    with open_log(tmp_path / "log") as log:
        beat = Heartbeat(log, lambda: now[0])
        times: list[float] = []
        for _ in range(300):
            before = log.head().size
            beat()
            if log.head().size > before:
                times.append(now[0])
            now[0] += 2.0
        entries = [entry for entry in log.entries() if entry.kind is Kind.HEARTBEAT]
    assert times[0] == 0.0
    assert len(entries) == len(times) == 11
    assert all(later - earlier <= INTERVAL_S for earlier, later in pairwise(times))
    assert BEAT_S < INTERVAL_S
    assert {entry.body["interval_s"] for entry in entries} == {INTERVAL_S}


def test_two_processes_beat_apart(tmp_path: Path) -> None:
    """A restart begins its own count: nothing is taken for a repetition."""
    with open_log(tmp_path / "log") as log:
        Heartbeat(log)()
        Heartbeat(log)()
        assert [entry.kind for entry in log.entries()] == [Kind.LOG_START, Kind.HEARTBEAT, Kind.HEARTBEAT]


def test_a_beat_that_failed_is_the_next_one() -> None:
    """The same key: one that was persisted though it seemed to fail is not counted twice."""
    log = Refusing()
    beat = Heartbeat(log)
    for _ in range(3):
        with pytest.raises(AuditUnavailable):
            beat()
    assert len({draft.key for draft in log.asked}) == 1


def test_what_was_logged_is_public_within_about_a_second(tmp_path: Path) -> None:
    """The service puts publishing off, and the thread of the beats publishes though no further entry comes."""
    root = tmp_path / "log"
    with open_log(root, publish_s=PUBLISH_S) as log:
        pulse = Caretaker(Heartbeat(log), log.publish, pause_s=PUBLISH_S)
        pulse.start()
        until(lambda: log.head().size == 2)
        log.append(draft(1))
        began = time.monotonic()
        until(lambda: (root / CHECKPOINT).read_bytes() == log.head().note.encode())
        assert time.monotonic() - began < 2 * PUBLISH_S
        pulse.stop()
