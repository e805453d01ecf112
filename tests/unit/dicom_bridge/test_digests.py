"""Digests are taken after the answer and before anybody relies on them, and never for what has changed meanwhile."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import replace
from datetime import timedelta
from pathlib import Path

import pytest

from dicom_bridge.digests import UNREADABLE, Digests
from dicom_bridge.errors import InboxUnavailable
from dicom_bridge.inbox import Inbox, digest_of
from dicom_bridge.spool_index import UNDIGESTED_AT_ONCE, SpoolIndex
from dicom_bridge.spool_recovery import file_digest
from tests.simulators.failing_disk import FailingDisk
from tests.simulators.received import Clock, received
from tests.simulators.series import make_slice
from tests.simulators.waiting import until
from tests.unit.dicom_bridge.test_spool_index import row

STUDY = make_slice(0).StudyInstanceUID
WAIT_S = 20.0


class OnlyAsked(Digests):
    """Takes no digest by itself."""

    def want(self) -> None:
        """See Digests."""


@pytest.fixture
def inbox(tmp_path: Path) -> Iterator[Inbox]:
    """An inbox that takes no digest by itself."""
    made = Inbox(tmp_path / "inbox", Clock(), disk=FailingDisk())
    made._digests = OnlyAsked(made._index, lambda: 0)
    yield made
    made.close()


def expected(index: int) -> str:
    """The digest of slice `index`: of its transfer syntax and data set."""
    one = received(index)
    return f"sha256:{hashlib.sha256(one.transfer_syntax.encode() + bytes([10]) + one.dataset).hexdigest()}"


def test_whoever_asks_for_the_input_digest_gets_it(inbox: Inbox) -> None:
    """None is there before; all are after, and the input digest is of the true ones."""
    for index in range(3):
        inbox.store(received(index), "A")
    assert [one.digest for one in inbox.instances(STUDY)] == ["", "", ""]
    told = inbox.input_digest(STUDY)
    held = inbox.instances(STUDY)
    assert told == digest_of(held)
    assert {one.digest for one in held} == {expected(index) for index in range(3)}


def test_more_than_are_taken_at_once(tmp_path: Path) -> None:
    """All of a study, however many; and none of another one."""
    index = SpoolIndex(tmp_path / "index.sqlite", tmp_path)
    for number in range(UNDIGESTED_AT_ONCE + 3):
        index.add(row(tmp_path, number, digest=""))
    index.add(row(tmp_path, 999, study="1.2.9", digest=""))
    digests = Digests(index, lambda: 0, lambda path: f"of {path.stem}")
    digests.take("1.2")
    assert all(one.digest == f"of {one.sop_uid}" for one in index.instances("1.2"))
    assert [one.study_uid for one in index.undigested()] == ["1.2.9"]
    digests.close()
    index.close()


def test_they_are_taken_unasked(tmp_path: Path) -> None:
    """A moment after the last image."""
    inbox = Inbox(tmp_path / "inbox", Clock(), disk=FailingDisk())
    inbox.store(received(0), "A")
    until(lambda: inbox.instances(STUDY)[0].digest == expected(0))
    inbox.close()


def test_a_burst_is_received_first(tmp_path: Path) -> None:
    """While much comes nothing is taken; when it ends, everything is. Asking does not wait for that."""
    inbox = Inbox(tmp_path / "inbox", Clock(), disk=FailingDisk())
    came, burst, looks = [0], [True], [0]

    def come() -> int:
        looks[0] += 1
        came[0] += 10**9 if burst[0] else 0
        return came[0]

    inbox._digests = Digests(inbox._index, come, pause_s=0.01)
    inbox.store(received(0), "A")
    until(lambda: looks[0] > 10)
    assert inbox.instances(STUDY)[0].digest == ""
    inbox.input_digest(STUDY)
    assert inbox.instances(STUDY)[0].digest == expected(0)
    inbox.store(received(1), "A")
    seen = looks[0]
    until(lambda: looks[0] > seen + 10)
    assert len(inbox._index.undigested()) == 1
    burst[0] = False
    until(lambda: not inbox._index.undigested())
    inbox.close()


@pytest.mark.parametrize("harm", ["gone", "cut"])
def test_what_is_no_instance_any_more_has_no_digest(inbox: Inbox, harm: str) -> None:
    """It is asked for once, not for ever; its run meets the damage itself."""
    path = inbox.store(received(0), "A").held.path
    if harm == "gone":
        path.unlink()
    else:
        path.write_bytes(b"")
    inbox.input_digest(STUDY)
    assert inbox.instances(STUDY)[0].digest == UNREADABLE


class FailsOnce:
    """Reads as the real thing does, but not the first time."""

    def __init__(self) -> None:
        self.asked = 0

    def __call__(self, path: Path) -> str:
        """See file_digest."""
        self.asked += 1
        if self.asked == 1:
            raise OSError(5, "EIO")
        return file_digest(path)


def test_a_disk_that_fails_is_told_and_asked_again(inbox: Inbox) -> None:
    """InboxUnavailable, which the assembler puts off; nothing is written down."""
    inbox._digests = OnlyAsked(inbox._index, lambda: 0, FailsOnce())
    inbox.store(received(0), "A")
    with pytest.raises(InboxUnavailable, match="SPOOL_FAILED"):
        inbox.input_digest(STUDY)
    inbox.input_digest(STUDY)
    assert inbox.instances(STUDY)[0].digest == expected(0)


def test_the_thread_outlives_a_disk_that_fails(tmp_path: Path) -> None:
    """The next arrival tries again."""
    inbox, fails = Inbox(tmp_path / "inbox", Clock(), disk=FailingDisk()), FailsOnce()
    inbox._digests = Digests(inbox._index, lambda: 0, fails, pause_s=0.01)
    inbox.store(received(0), "A")
    until(lambda: fails.asked == 1)
    inbox.store(received(1), "A")
    until(lambda: not inbox._index.undigested())
    inbox.close()


def test_what_came_anew_meanwhile_is_left_alone(tmp_path: Path) -> None:
    """The digest of the one that was let go is not given to its successor."""
    index = SpoolIndex(tmp_path / "index.sqlite", tmp_path)
    old = row(tmp_path, 1, digest="")
    new = replace(old, received_at=old.received_at + timedelta(seconds=1))
    index.add(old)
    index.forget(old.sop_uid)
    index.add(new)
    index.flush()
    index.set_digests([(old, "sha256:old")])
    assert index.instances(new.study_uid) == (new,)
    index.set_digests([(new, "sha256:new")])
    assert index.instances(new.study_uid) == (replace(new, digest="sha256:new"),)
    index.close()


def test_what_is_let_go_is_remembered_with_its_digest(inbox: Inbox) -> None:
    """Though nobody had asked for it."""
    inbox.store(received(0), "A")
    inbox.let_go(STUDY)
    assert [one.digest for one in inbox.gone(STUDY).values()] == [expected(0)]
