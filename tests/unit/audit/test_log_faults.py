"""Every write of the log fails once, and dies once, before and after taking effect; fsck judges what is left."""

import errno
import shutil
import subprocess
import sys
from contextlib import suppress
from pathlib import Path

import pytest

from audit.entry import Entry
from audit.errors import AuditUnavailable
from audit.log import AuditLog
from tests.simulators.audit_log import Died, FaultyDisk, draft, fill, healthy, open_log, staged_logs, twin

REPOSITORY = Path(__file__).parents[3]
STAGES = (0, 255)
"""Entries already there beyond the first: a young log, and one whose next entry completes a tile."""


@pytest.fixture(scope="module")
def logs(tmp_path_factory: pytest.TempPathFactory) -> dict[int, Path]:
    """A log of each stage, to be copied."""
    return staged_logs(tmp_path_factory, STAGES)


@pytest.mark.slow
@pytest.mark.parametrize("after", [False, True], ids=["not-persisted", "failed-but-persisted"])
@pytest.mark.parametrize("count", STAGES)
def test_each_write_of_an_append_fails_once(tmp_path: Path, logs: dict[int, Path], count: int, *, after: bool) -> None:
    """The caller is told; the directory is right at once; the retry gives one entry; others read the same."""
    at = 0
    while True:
        root = twin(logs[count], tmp_path / f"{at}")
        disk = FaultyDisk(root, at=at + 1, after=after)  # operation 0 is open's
        with open_log(root, disk=disk) as log:
            first, told = _append_stubbornly(log, 1, root, count + 1)
            second, told_later = _append_stubbornly(log, 2, root, count + 2)
            assert (first.index, second.index) == (count + 1, count + 2)
            assert told + told_later == disk.reached
            assert list(log.entries(count + 1)) == [first, second]
        assert healthy(root) == count + 3
        with open_log(root) as again:
            assert again.append(draft(1)) == first
        shutil.rmtree(root)
        if not disk.reached:
            break
        at += 1
    assert at > 10


def _append_stubbornly(log: AuditLog, number: int, root: Path, size: int) -> tuple[Entry, bool]:
    """Append, and once more if the first try fails: the entry, and whether it did."""
    try:
        return log.append(draft(number)), False
    except AuditUnavailable as error:
        if error.errno not in (errno.EIO, errno.ENOSPC):
            raise
    assert healthy(root) in (size, size + 1)
    return log.append(draft(number)), True


@pytest.mark.parametrize("after", [False, True], ids=["before", "after"])
@pytest.mark.parametrize("count", STAGES)
def test_killed_at_each_write_of_an_append(tmp_path: Path, logs: dict[int, Path], count: int, *, after: bool) -> None:
    """Whatever a kill leaves is right already, opens, and holds the entry once after the retry."""
    at = 0
    while True:
        root = twin(logs[count], tmp_path / f"{at}")
        disk = FaultyDisk(root, at=at + 1, after=after, dies=True)
        log = open_log(root, disk=disk)
        died = False
        try:
            log.append(draft(1))
        except Died:
            died = True
        log.close()
        assert healthy(root) in (count + 1, count + 2)
        with open_log(root, source="successor") as again:
            survived = again.find("assembled:1")
            assert survived is None or survived.source == "service"
            assert again.append(draft(1)).index == count + 1
            assert len(list(again.entries())) == count + 2
        assert healthy(root) == count + 2
        assert list((root / "staging").iterdir()) == []
        shutil.rmtree(root)
        if not died:
            break
        at += 1
    assert at > 5


@pytest.mark.parametrize("dies", [False, True], ids=["fails", "dies"])
@pytest.mark.parametrize("after", [False, True], ids=["before", "after"])
def test_each_write_of_a_new_log_fails(tmp_path: Path, *, after: bool, dies: bool) -> None:
    """A log whose birth is interrupted is born at the next opening, with one first entry."""
    at = 0
    while True:
        root = tmp_path / f"{at}"
        disk = FaultyDisk(root, at=at, after=after, dies=dies)
        with suppress(AuditUnavailable, Died):
            open_log(root, disk=disk).close()
        with open_log(root) as log:
            assert len(list(log.entries())) == 1
        assert healthy(root) == 1
        if not disk.reached:
            break
        at += 1
    assert at > 5


def test_recovery_itself_is_interrupted(tmp_path: Path, logs: dict[int, Path]) -> None:
    """A crash in the recovery from a crash, at each of its writes: recovered at the third opening."""
    crashed = twin(logs[255], tmp_path / "crashed")
    log = open_log(crashed, disk=FaultyDisk(crashed, at=3, dies=True))
    with pytest.raises(Died):
        log.append(draft(1))
    log.close()
    assert len(list((crashed / "staging").iterdir())) == 1
    at = 0
    while True:
        root = twin(crashed, tmp_path / f"{at}")
        died = False
        try:
            open_log(root, disk=FaultyDisk(root, at=at, dies=True, after=at % 2 == 1)).close()
        except Died:
            died = True
        assert healthy(root) == 257
        with open_log(root) as again:
            assert [entry.key for entry in again.entries(256)] == ["assembled:1"]
        assert healthy(root) == 257
        shutil.rmtree(root)
        if not died:
            break
        at += 1
    assert at > 5


def test_a_head_of_doubtful_durability_is_written_again(tmp_path: Path) -> None:
    """Whoever finds a head that its writer may not have synced syncs it before building upon it."""
    root = tmp_path / "log"
    open_log(root).close()
    log = open_log(root, disk=FaultyDisk(root, at=2, after=True, dies=True))
    with pytest.raises(Died):
        log.append(draft(1))
    log.close()
    disk = FaultyDisk(root)
    with open_log(root, disk=disk) as again:
        assert again.find("assembled:1") is not None
    assert disk.done[:2] == ["make_dirs staging", "replace head"]
    assert disk.done[-1].startswith("discard staging")
    assert disk.done[-2] == "replace checkpoint"


def test_all_callers_of_a_failed_commit_are_told(tmp_path: Path) -> None:
    """A full disk: every waiting caller gets AuditUnavailable, none hangs; all succeed when there is room."""
    root = tmp_path / "log"
    open_log(root).close()
    with open_log(root, disk=_Full(root)) as log:
        for number in range(20):
            with pytest.raises(AuditUnavailable) as error:
                log.append(draft(number))
            assert error.value.errno == errno.ENOSPC
            assert str(root) not in str(error.value)
        assert len(list(log.entries())) == 1
    with open_log(root) as log:
        fill(log, range(20))
    assert healthy(root) == 21


class _Full(FaultyDisk):
    """No room for any file, but what is there can be read and removed."""

    def create_same(self, path: Path, data: bytes) -> bool:
        """Refuses."""
        raise OSError(errno.ENOSPC, "invented for this test")


APPEND = """
import sys
from pathlib import Path
from audit import durable
from tests.simulators.audit_log import draft, open_log
with open_log(Path(sys.argv[1]), disk=durable) as log:
    log.append(draft(1))
    print("taken", flush=True)
"""
CALLS = {"fsync": 6, "rename,renameat,renameat2": 2, "link,linkat": 3, "unlink,unlinkat": 4, "write": 5}
"""Which calls are made to fail, and how often one append makes each at the least: fewer, and nothing was tried."""


@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.parametrize("fate", ["signal=KILL", "error=EIO", "error=ENOSPC"])
@pytest.mark.parametrize("call", CALLS)
def test_each_system_call_fails_or_kills(tmp_path: Path, logs: dict[int, Path], call: str, fate: str) -> None:
    """By strace, in a process of its own: whatever the system does at whichever call, the directory is right."""
    when = 1
    while True:
        reached = _injected(logs[255], tmp_path / f"{when}", f"inject={call}:{fate}:when={when}")
        if not reached:
            break
        when += 1
    assert when > CALLS[call]


OTHERS = {"openat": 8, "close": 8, "flock": 2, "read": 4}
"""The other calls with which an append touches the directory, each made to fail there as often as it is made."""


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.parametrize("call", OTHERS)
def test_each_other_call_on_the_directory_fails(tmp_path: Path, logs: dict[int, Path], call: str) -> None:
    """Opening, reading, locking, closing: none of it loses what was taken, or leaves what no judge understands."""
    root = twin(logs[255], tmp_path / "all")
    trace = _traced(root, f"trace={call}")[1].read_text().splitlines()
    made = [line for line in trace if f" {call}(" in line]
    touching = [when for when, line in enumerate(made, 1) if str(root) in line]
    assert len(touching) >= OTHERS[call]
    # The paths are of one length, so that the calls before them are the same ones.
    reached = [_injected(logs[255], tmp_path / f"{n:03}", f"inject={call}:error=EIO:when={n}") for n in touching]
    assert sum(reached) >= len(touching) - 1


def _traced(root: Path, *rules: str) -> tuple[bool, Path]:
    """One append in a process of its own, traced: whether the caller was told that it is taken; the trace."""
    trace = root.with_suffix(".trace")
    # Stopped at the calls that are asked for, not at the thousands of a start; but so strace 6.1 sends no signal.
    stops = [] if "signal=" in "".join(rules) else ["--seccomp-bpf"]
    command = ["strace", "-f", *stops, "-y", "-o", trace, *(word for rule in rules for word in ("-e", rule))]
    done = subprocess.run(
        [*command, sys.executable, "-B", "-c", APPEND, root],
        cwd=REPOSITORY,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        check=False,
        timeout=60,
    )
    return done.stdout == b"taken\n", trace


def _injected(log: Path, root: Path, rule: str) -> bool:
    """Whether the fault came; and assert that the directory is right after it, with every entry that was taken."""
    twin(log, root)
    taken, trace = _traced(root, f"trace={rule.split('=')[1].split(':')[0]}", rule)
    report = trace.read_text()
    assert healthy(root) in ((257,) if taken else (256, 257))
    with open_log(root, source="successor") as again:
        assert again.append(draft(1)).index == 256
    assert healthy(root) == 257
    shutil.rmtree(root)
    return "(INJECTED)" in report or "killed by SIGKILL" in report
