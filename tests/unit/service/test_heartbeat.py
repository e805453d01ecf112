"""Beats: often enough to keep the promise, once each, and again when the log could not take them."""

from itertools import pairwise
from pathlib import Path

import pytest

from audit.entry import Draft, Entry, Kind
from audit.errors import AuditUnavailable
from service.heartbeat import BEAT_S, INTERVAL_S, Heartbeat
from tests.simulators.audit_log import open_log


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
