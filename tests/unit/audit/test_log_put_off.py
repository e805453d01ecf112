"""Publishing that is put off: what was committed is there for us and for whoever comes after us, whatever happens."""

import shutil
from contextlib import suppress
from pathlib import Path

import pytest

from audit import durable, fsck, layout
from audit.checkpoint import Checkpoint
from audit.entry import Entry
from audit.errors import AuditCorrupt, AuditUnavailable
from audit.layout import CHECKPOINT, HEAD, STAGING, StagedName
from audit.log import BATCH_MAX, AuditLog
from audit.merkle import Tree, leaf_hash
from tests.simulators.audit_log import (
    ORIGIN,
    SIGNER,
    Died,
    FaultyDisk,
    draft,
    healthy,
    open_log,
    staged_logs,
    twin,
)

LONG_S = 1000.0
STAGES = (0, 253)
"""Entries already there beyond the first: the four that follow go across a full tile in one of them."""


def public(root: Path) -> int:
    """The size that software which is not ours sees."""
    return Checkpoint.open((root / CHECKPOINT).read_text(), (SIGNER.verifier,)).size


def lazy(root: Path, disk: FaultyDisk | None = None) -> AuditLog:
    """A log that publishes when it must."""
    return open_log(root, publish_s=LONG_S, clock=lambda: 0.0, **({} if disk is None else {"disk": disk}))


@pytest.fixture(scope="module")
def logs(tmp_path_factory: pytest.TempPathFactory) -> dict[int, Path]:
    """A log of each stage, to be copied."""
    return staged_logs(tmp_path_factory, STAGES)


def test_a_commit_writes_two_files(tmp_path: Path) -> None:
    """Its entries and the head; everything else is put off, and nobody who reads notices."""
    root = tmp_path / "log"
    disk = FaultyDisk(root)
    with lazy(root, disk) as log:
        disk.done.clear()
        entries = [log.append(draft(number)) for number in range(5)]
        assert [done.split()[0] for done in disk.done] == ["create_same", "replace"] * 5
        assert public(root) == 1
        assert list(log.entries(1)) == entries
        assert log.find(entries[3].key) == entries[3]
        assert log.append(draft(3)) == entries[3]
        assert log.head().size == healthy(root) == 6
    assert public(root) == healthy(root) == 6
    assert list((root / STAGING).iterdir()) == []


def test_what_is_put_off_is_published_in_time(tmp_path: Path) -> None:
    """By the next append after `publish_s`, after a tile's worth of entries, and when somebody asks for it."""
    root, now = tmp_path / "log", [0.0]
    with open_log(root, publish_s=10.0, clock=lambda: now[0]) as log:
        log.append(draft(1))
        now[0] = 9.9
        log.append(draft(2))
        assert public(root) == 1
        now[0] = 10.0
        log.append(draft(3))
        assert public(root) == 4
        log.append(draft(4))
        now[0] = 19.9
        log.append(draft(5))
        assert public(root) == 4
        log.publish()
        assert public(root) == 6
        for number in range(6, 6 + BATCH_MAX):
            log.append(draft(number))
        assert public(root) == 6 + BATCH_MAX
        assert [entry.index for entry in log.entries(250)] == list(range(250, 6 + BATCH_MAX))
    assert healthy(root) == 6 + BATCH_MAX


@pytest.mark.slow
@pytest.mark.parametrize("fate", ["fails", "dies"])
@pytest.mark.parametrize("after", [False, True], ids=["not-persisted", "failed-but-persisted"])
@pytest.mark.parametrize("count", STAGES)
def test_each_write_fails_or_kills(
    tmp_path: Path, logs: dict[int, Path], count: int, fate: str, *, after: bool
) -> None:
    """Four appends that are published together, interrupted at each write: nothing that was answered is lost."""
    at = 0
    while True:
        root = twin(logs[count], tmp_path / f"{at}")
        disk = FaultyDisk(root, at=at + 1, after=after, dies=fate == "dies")
        answered: list[Entry] = []
        log = lazy(root, disk)
        died = False
        try:
            for number in range(1, 5):
                answered.append(stubbornly(log, number))
            with suppress(AuditUnavailable):
                log.publish()
        except Died:
            died = True
        assert healthy(root) >= count + 1 + len(answered)
        with suppress(Died):
            log.close()
        assert died == (disk.reached and fate == "dies")
        with open_log(root, source="successor") as again:
            assert list(again.entries(count + 1))[: len(answered)] == answered
            for number in range(1, 5):
                again.append(draft(number))
            assert len(list(again.entries())) == count + 5
        assert healthy(root) == public(root) == count + 5
        assert list((root / STAGING).iterdir()) == []
        shutil.rmtree(root)
        if not disk.reached:
            break
        at += 1
    assert at > 12


def stubbornly(log: AuditLog, number: int) -> Entry:
    """Append, and once more if the first try fails."""
    with suppress(AuditUnavailable):
        return log.append(draft(number))
    return log.append(draft(number))


def test_another_process_publishes_what_we_put_off(tmp_path: Path) -> None:
    """And appends; then we go on, and neither loses or repeats anything."""
    root = tmp_path / "log"
    with lazy(root) as log:
        mine = [log.append(draft(number)) for number in range(3)]
        with open_log(root, source="cli") as other:
            assert list(other.entries(1)) == mine
            assert public(root) == 4
            theirs = other.append(draft(3))
        later = log.append(draft(4))
        assert list(log.entries(1)) == [*mine, theirs, later]
        assert log.append(draft(3)) == theirs
    assert public(root) == healthy(root) == 6


def test_another_process_only_published(tmp_path: Path) -> None:
    """Its head is ours, so we notice nothing, and publish the same again with the next ones."""
    root = tmp_path / "log"
    with lazy(root) as log:
        for number in range(3):
            log.append(draft(number))
        open_log(root, source="cli").close()
        log.append(draft(3))
        assert [entry.index for entry in log.entries()] == list(range(5))
    assert public(root) == healthy(root) == 5


@pytest.mark.parametrize("harm", ["edited", "gone", "swapped"])
def test_staged_entries_that_are_harmed_are_found(tmp_path: Path, harm: str) -> None:
    """By fsck at once, by the writer when it publishes, and by whoever opens the log next."""
    root = tmp_path / "log"
    log = lazy(root)
    for number in range(3):
        log.append(draft(number))
    first, second, _ = sorted((root / STAGING).iterdir())
    if harm == "edited":
        durable.replace(first, first.read_bytes().replace(b'"series":2', b'"series":3'))
    elif harm == "gone":
        second.unlink()
    else:
        durable.replace(second, first.read_bytes())
    assert not fsck.check(root, SIGNER.verifier).ok
    with pytest.raises(AuditCorrupt):
        log.publish()
    log.close()
    with pytest.raises(AuditCorrupt):
        open_log(root)


def test_a_head_that_leaves_out_what_was_committed_is_refused(tmp_path: Path) -> None:
    """Signed by the operator's key, longer than ours, and whole: but not the history that we have answered for."""
    root = tmp_path / "log"
    with lazy(root) as log:
        start = [entry.to_bytes() for entry in log.entries()]
        log.append(draft(1))
        forged = twin(root, tmp_path / "forged")
        for path in (forged / STAGING).iterdir():
            path.unlink()
        durable.replace(forged / HEAD, (forged / CHECKPOINT).read_bytes())
        with open_log(forged) as other:
            leaves = [other.append(draft(number)).to_bytes() for number in (7, 8)]
        tree = Tree()
        for leaf in (*start, *leaves):
            tree.append(leaf_hash(leaf))
        name = StagedName(1, 3, tree.root())
        durable.replace(root / name.path, layout.pack(leaves))
        durable.replace(root / HEAD, Checkpoint.sign(SIGNER, ORIGIN, 3, tree.root()).note.encode())
        with pytest.raises(AuditCorrupt, match="does not follow"):
            log.append(draft(2))
        durable.replace(root / HEAD, Checkpoint.sign(SIGNER, ORIGIN, 1, leaf_hash(start[0])).note.encode())
        with pytest.raises(AuditCorrupt, match="went back"):
            log.append(draft(2))
