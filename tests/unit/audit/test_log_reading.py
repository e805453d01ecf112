"""Reading needs no write: a full or read-only disk keeps nobody out of the log, and nothing is built upon a doubt."""

import errno
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest

from audit import durable
from audit.errors import AuditCorrupt, AuditUnavailable
from audit.layout import CHECKPOINT, HEAD, LOCK, STAGING
from audit.lock import DirectoryLock
from audit.log import AuditLog
from audit.sm3 import origin_of
from tests.simulators.audit_log import Died, FaultyDisk, draft, healthy, open_log, staged_logs, twin

LONG_S = 1000.0
NOBODY = 65534
STAGES = (0, 253)
"""Entries already there beyond the first: the four that follow go across a full tile in one of them."""


class FillingDisk(FaultyDisk):
    """A disk that takes no writes while it is ``full``; what is there can be read, and removed unless ``frozen``."""

    def __init__(self, root: Path, *, full: bool = False, frozen: bool = False) -> None:
        super().__init__(root)
        self.full, self._frozen = full, frozen

    def create_same(self, path: Path, data: bytes) -> bool:
        """See audit.durable."""
        self._refuse()
        return super().create_same(path, data)

    def replace(self, path: Path, data: bytes) -> None:
        """See audit.durable."""
        self._refuse()
        super().replace(path, data)

    def make_dirs(self, path: Path) -> None:
        """See audit.durable: one that is there needs no room."""
        if not path.is_dir():
            self._refuse()
        super().make_dirs(path)

    def discard(self, path: Path) -> None:
        """See audit.durable."""
        if self._frozen:
            self._refuse()
        super().discard(path)

    def _refuse(self) -> None:
        if self.full:
            raise OSError(errno.EROFS if self._frozen else errno.ENOSPC, "invented for this test")


@pytest.fixture(scope="module")
def logs(tmp_path_factory: pytest.TempPathFactory) -> dict[int, Path]:
    """A log of each stage, to be copied."""
    return staged_logs(tmp_path_factory, STAGES)


def abandoned(root: Path, numbers: range, *, sm3: bool = False) -> None:
    """Append to a log whose process then dies, with everything committed and nothing of it published."""
    disk = FaultyDisk(root)
    log = open_log(root, publish_s=LONG_S, clock=lambda: 0.0, disk=disk, sm3=sm3)
    for number in numbers:
        log.append(draft(number))
    disk.kill()
    with suppress(Died):
        log.close()


@pytest.mark.parametrize("frozen", [False, True], ids=["full", "read-only"])
@pytest.mark.parametrize("sm3", [False, True], ids=["sha256", "sm3"])
@pytest.mark.parametrize("count", STAGES)
def test_a_reader_on_a_disk_that_takes_no_writes(
    tmp_path: Path, logs: dict[int, Path], count: int, *, frozen: bool, sm3: bool
) -> None:
    """All that was committed is read, nothing is written or promised; then there is room, and all goes on."""
    root = twin(logs[count], tmp_path / "log")
    abandoned(root, range(4), sm3=sm3)
    before = {path: path.read_bytes() for path in root.rglob("*") if path.is_file()}
    disk = FillingDisk(root, full=True, frozen=frozen)
    with open_log(root, source="reader", disk=disk, sm3=sm3) as log:
        assert [entry.key for entry in log.entries(count + 1)] == [f"assembled:{n}" for n in range(4)]
        assert len(list(log.entries())) == log.head().size == count + 5
        found = log.find("assembled:3")
        assert found is not None
        assert found.index == count + 4
        for number in (3, 4):
            with pytest.raises(AuditUnavailable):
                log.append(draft(number))
        with pytest.raises(AuditUnavailable):
            log.publish()
        assert len(list(log.entries())) == log.head().size == count + 5
        assert {path: path.read_bytes() for path in root.rglob("*") if path.is_file()} == before
        assert disk.done[:1] == ["make_dirs staging"]
        disk.full = False
        assert log.append(draft(4)).index == count + 5
        assert log.append(draft(3)) == found
        assert [entry.index for entry in log.entries()] == list(range(count + 6))
    assert healthy(root) == count + 6
    assert list((root / STAGING).iterdir()) == []


def test_what_was_read_in_doubt_is_made_sure_before_anything_is_built_upon_it(tmp_path: Path) -> None:
    """The head whose last write may not be durable is written again first, and published, before an entry is staged."""
    root = tmp_path / "log"
    abandoned(root, range(2))
    disk = FillingDisk(root, full=True)
    with open_log(root, disk=disk) as log:
        assert log.head().size == 3
        disk.full, disk.done = False, []
        log.append(draft(9))
    verbs = [done.split("-")[0] for done in disk.done]
    assert verbs[0] == "replace head"
    assert verbs.index("replace checkpoint") < verbs.index("create_same staging/3")


def test_the_writer_itself_reads_on_when_the_disk_fills_up(tmp_path: Path) -> None:
    """A commit that failed after its head was written is read, and is the entry that the retry gets."""
    root = tmp_path / "log"
    open_log(root).close()
    disk = FillingDisk(root)
    with open_log(root, publish_s=LONG_S, clock=lambda: 0.0, disk=disk) as log:
        first = log.append(draft(1))
        disk.full = True
        with pytest.raises(AuditUnavailable):
            log.append(draft(2))
        assert [entry.key for entry in log.entries(1)] == ["assembled:1"]
        assert log.head().size == 2
        assert log.find(first.key) == first
        disk.full = False
        assert log.append(draft(2)).index == 2
    assert healthy(root) == 3


@pytest.mark.parametrize("after", [False, True], ids=["not-persisted", "failed-but-persisted"])
def test_whichever_write_of_opening_fails_the_log_is_read(tmp_path: Path, *, after: bool) -> None:
    """Each write of an opening that recovers fails once: the log opens all the same, whole, and goes on."""
    crashed = tmp_path / "crashed"
    abandoned(crashed, range(3))
    at = 0
    while True:
        root = twin(crashed, tmp_path / f"{at}")
        disk = FaultyDisk(root, at=at, after=after)
        with open_log(root, source="reader", disk=disk) as log:
            reached = disk.reached
            assert len(list(log.entries())) == log.head().size == 4
            with suppress(AuditUnavailable):
                log.append(draft(3))
            assert log.append(draft(3)).index == 4
        assert healthy(root) == 5
        shutil.rmtree(root)
        if not reached:
            break
        at += 1
    assert at > 6


def test_what_is_wrong_is_found_without_writing(tmp_path: Path) -> None:
    """A full disk excuses nothing: harmed entries and a head that went back are corruption, for a reader too."""
    sound = tmp_path / "sound"
    abandoned(sound, range(3))
    harmed = twin(sound, tmp_path / "harmed")
    staged = sorted((harmed / STAGING).iterdir())[1]
    durable.replace(staged, staged.read_bytes().replace(b'"series":2', b'"series":3'))
    with pytest.raises(AuditCorrupt):
        open_log(harmed, disk=FillingDisk(harmed, full=True))
    disk = FillingDisk(sound, full=True)
    with open_log(sound, disk=disk) as log:
        durable.replace(sound / HEAD, (sound / CHECKPOINT).read_bytes())
        with pytest.raises(AuditCorrupt, match="went back"):
            log.head()


def test_a_new_log_needs_a_disk(tmp_path: Path) -> None:
    """Where there is nothing to read, opening says that the disk refuses."""
    root = tmp_path / "log"
    with pytest.raises(AuditUnavailable) as error:
        open_log(root, disk=FillingDisk(root, full=True))
    assert error.value.errno == errno.ENOSPC


@contextmanager
def unwritable(root: Path) -> Iterator[None]:
    """Nobody in this process may write under ``root``, as on a disk that is mounted read-only."""
    user = os.geteuid()
    for path in (root, *root.rglob("*")):
        path.chmod(0o555 if path.is_dir() else 0o444)
    try:
        if user == 0:
            os.seteuid(NOBODY)  # no permission stops root
        yield
    finally:
        if user == 0:
            os.seteuid(user)
        for path in (root, *root.rglob("*")):
            path.chmod(0o755 if path.is_dir() else 0o644)


@pytest.mark.parametrize("missing", [(), (LOCK,), (LOCK, STAGING)], ids=["whole", "no-lock", "no-lock-no-staging"])
def test_a_reader_in_a_directory_that_is_read_only(logs: dict[int, Path], missing: tuple[str, ...]) -> None:
    """By the system's own refusals: also a copy without the lock and the empty folder is read; then it is writable."""
    with tempfile.TemporaryDirectory(prefix="zhiying-read-only-") as name:
        top = Path(name)
        top.chmod(0o755)
        root = top / "log"
        shutil.copytree(logs[253], root)
        if not missing:
            abandoned(root, range(4))
        for each in missing:
            remove = (root / each).unlink if each == LOCK else (root / each).rmdir
            remove()
        size = 254 if missing else 258
        with unwritable(root):
            log = open_log(root, disk=durable, source="reader")
            assert len(list(log.entries())) == log.head().size == size
            with pytest.raises(AuditUnavailable):
                log.append(draft(9))
            assert len(list(log.entries())) == size
        assert log.append(draft(9)).index == size
        log.close()
        assert healthy(root) == size + 1


def test_readers_and_a_writer_without_a_file_for_the_lock(tmp_path: Path) -> None:
    """Only reading goes on without it, and only where it cannot be made; a lock that is closed stays closed."""
    lock = DirectoryLock(tmp_path / "gone" / LOCK)
    with lock.held(reading=True):
        pass
    with pytest.raises(FileNotFoundError), lock.held():
        pass
    (tmp_path / "gone").mkdir()
    with lock.held():
        assert (tmp_path / "gone" / LOCK).exists()
    lock.close()
    with pytest.raises(AuditUnavailable), lock.held(reading=True):
        pass


def test_publish_publishes_what_others_put_off(tmp_path: Path) -> None:
    """Whoever asks for it gets all that is committed, by whichever process."""
    root = tmp_path / "log"
    with open_log(root) as asks, open_log(root, source="other", publish_s=LONG_S, clock=lambda: 0.0) as other:
        other.append(draft(1))
        assert (root / CHECKPOINT).read_bytes() != (root / HEAD).read_bytes()
        asks.publish()
        assert (root / CHECKPOINT).read_bytes() == (root / HEAD).read_bytes()
    assert healthy(root) == 2


def test_closing_after_a_failed_commit_makes_its_head_durable_first(tmp_path: Path) -> None:
    """The public checkpoint never says more than a head that is known to be durable."""
    root = tmp_path / "log"
    open_log(root).close()
    # make_dirs; then stage and head of the first append, and of the second, whose head is written and not synced.
    disk = FaultyDisk(root, at=4, after=True)
    log: AuditLog = open_log(root, publish_s=LONG_S, clock=lambda: 0.0, disk=disk)
    log.append(draft(1))
    with pytest.raises(AuditUnavailable):
        log.append(draft(2))
    disk.done = [*disk.done[:5]]
    log.close()
    assert disk.done[5] == "replace head"
    assert "replace checkpoint" in disk.done[6:]
    assert healthy(root) == 3


def test_the_name_of_the_other_tree() -> None:
    """Its own origin, so that a head of one tree is never a head of the other."""
    assert origin_of("hospital.example/audit") == "hospital.example/audit/sm3"
