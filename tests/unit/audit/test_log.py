"""The log: one entry per key, durable when it returns, gapless, shared by threads and processes."""

import errno
import multiprocessing
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime
from pathlib import Path

import pytest

from audit import durable, fsck
from audit.entry import Draft, Entry, Kind
from audit.errors import AuditCorrupt, AuditUnavailable, EntryInvalid, KeyConflict, Overtaken
from audit.layout import CHECKPOINT, HEAD, pack
from audit.lock import DirectoryLock
from audit.log import AuditLog
from audit.merkle import leaf_hash, root
from audit.note import Signer
from audit.ticket import Proviso
from tests.simulators.audit_log import ORIGIN, SIGNER, FaultyDisk, body, draft, fill, open_log

REPOSITORY = Path(__file__).parents[3]


@pytest.fixture
def log(tmp_path: Path) -> Iterator[AuditLog]:
    """A new log."""
    with open_log(tmp_path / "log") as log:
        yield log


def clean(root: Path, size: int) -> None:
    """Assert that fsck finds this many entries and nothing wrong."""
    report = fsck.check(root, SIGNER.verifier)
    assert report.problems == ()
    assert (report.ok, report.size, report.signed) == (True, size, True)


def test_a_new_log_begins_with_its_start(tmp_path: Path, log: AuditLog) -> None:
    """The first entry says which log it is and which software began it."""
    (start,) = log.entries()
    assert (start.index, start.seq, start.kind, start.source) == (0, 0, Kind.LOG_START, "service")
    assert dict(start.body) == {"origin": ORIGIN, "software": "test", "predecessor": None}
    clean(tmp_path / "log", 1)


@pytest.mark.parametrize("publish_s", [0.0, 1000.0], ids=["published", "put-off"])
def test_a_receipt_is_the_head_of_then(tmp_path: Path, publish_s: float) -> None:
    """For every entry, across full tiles, published or not: the root of all up to it, signed, always the same."""
    with open_log(tmp_path / "log", publish_s=publish_s, clock=lambda: 0.0) as log:
        heads = [log.head()]
        for count in (3, 251, 2, 1, 250, 12):
            fill(log, range(heads[-1].size, heads[-1].size + count))
            heads.append(log.head())
        leaves = [leaf_hash(entry.to_bytes()) for entry in log.entries()]
        receipts = [log.receipt(index) for index in range(len(leaves))]

        assert [receipt.root for receipt in receipts] == [root(leaves[: n + 1]) for n in range(len(leaves))]
        assert [receipt.size for receipt in receipts] == list(range(1, len(leaves) + 1))
        assert [log.receipt(head.size - 1) for head in heads] == heads
        for index in (-1, len(leaves)):
            with pytest.raises(EntryInvalid):
                log.receipt(index)
    with open_log(tmp_path / "log") as again:
        fill(again, range(1000, 1007))
        assert [again.receipt(index) for index in range(len(leaves))] == receipts


def test_append_returns_the_entry_that_is_read_again(tmp_path: Path, log: AuditLog) -> None:
    """By key, by position, and after opening anew."""
    first, second = log.append(draft(1)), log.append(draft(2))
    assert (first.index, first.seq, second.index, second.seq) == (1, 1, 2, 2)
    assert first.time < second.time
    assert log.find("assembled:1") == first
    assert list(log.entries(1)) == [first, second]
    assert log.find("assembled:3") is None
    log.close()
    with open_log(tmp_path / "log") as again:
        assert list(again.entries(1)) == [first, second]
        assert again.append(draft(2)) == second
    clean(tmp_path / "log", 3)


def test_the_head_is_the_signed_root_of_the_entries(tmp_path: Path, log: AuditLog) -> None:
    """Head and public checkpoint are one note, by the log's key, over the hashes of the entries' bytes."""
    fill(log, range(10))
    head = log.head()
    assert (head.origin, head.size) == (ORIGIN, 11)
    assert head.root == root([leaf_hash(entry.to_bytes()) for entry in log.entries()])
    assert SIGNER.verifier.open(head.note).startswith(f"{ORIGIN}\n11\n")
    for name in (HEAD, CHECKPOINT):
        assert (tmp_path / "log" / name).read_text() == head.note


def test_same_key_same_content_is_one_entry(tmp_path: Path, log: AuditLog) -> None:
    """A retry gets the first entry, with its first time; nothing is logged."""
    first = log.append(draft(1))
    before = log.head()
    assert log.append(draft(1)) == first
    assert log.head() == before
    clean(tmp_path / "log", 2)


def test_same_key_other_content_is_a_conflict(tmp_path: Path, log: AuditLog) -> None:
    """Another body, another kind or another call under the key: refused, and the log goes on."""
    log.append(draft(1))
    others = [
        draft(1, instances=7),
        Draft(Kind.FAILED, "assembled:1", body(Kind.FAILED)),
        Draft(Kind.ASSEMBLED, "assembled:1", draft(1).body, "c" * 32),
    ]
    for other in others:
        with pytest.raises(KeyConflict) as error:
            log.append(other)
        assert error.value.code == "AUDIT_KEY_CONFLICT"
    log.append(draft(2))
    clean(tmp_path / "log", 3)


def test_sixteen_threads(tmp_path: Path, log: AuditLog) -> None:
    """Gapless, each once, in commits that are shared; what each got is what is there."""
    with ThreadPoolExecutor(16) as pool:
        # Every key twice, by different threads, as a retry beside a slow first try.
        entries = list(pool.map(lambda number: log.append(draft(number // 2)), range(320)))
    assert entries[::2] == entries[1::2]
    assert {entry.index for entry in entries} == set(range(1, 161))
    assert sorted(entries[::2], key=lambda entry: entry.index) == list(log.entries(1))
    clean(tmp_path / "log", 161)


class SlowDisk(FaultyDisk):
    """One on which others find time to queue up."""

    def replace(self, path: Path, data: bytes) -> None:
        """Takes its time."""
        time.sleep(0.005)
        super().replace(path, data)


def test_callers_that_wait_share_a_commit(tmp_path: Path) -> None:
    """Group commit: forty callers need far fewer writes of the head than forty."""
    disk = SlowDisk(tmp_path)
    with open_log(tmp_path / "log", disk=disk) as log:
        fill(log, range(40))
    assert 2 <= disk.done.count("replace log/head") <= 25
    clean(tmp_path / "log", 41)


def test_a_conflict_in_a_shared_commit_is_its_callers_alone(tmp_path: Path) -> None:
    """Of two contents for one new key one wins; callers beside them are served."""
    with open_log(tmp_path / "log") as log:
        outcomes: list[object] = []

        def append(number: int) -> None:
            try:
                outcomes.append(log.append(draft(number % 4, instances=number)))
            except KeyConflict as error:
                outcomes.append(error)

        with ThreadPoolExecutor(16) as pool:
            list(pool.map(append, range(16)))
        assert len([outcome for outcome in outcomes if isinstance(outcome, KeyConflict)]) == 12
    clean(tmp_path / "log", 5)


def test_across_full_tiles(tmp_path: Path, log: AuditLog) -> None:
    """Beyond 256 and 512 entries: full tiles, a level above, partial ones gone; all readable from anywhere."""
    fill(log, range(600))
    log.append(draft(600))
    entries = list(log.entries())
    assert [entry.index for entry in entries] == list(range(602))
    assert list(log.entries(511)) == entries[511:]
    assert log.find(entries[256].key) == entries[256]
    tiles = {path.name for path in (tmp_path / "log" / "tile" / "entries").iterdir()}
    assert tiles == {"000", "001", "002.p"}
    clean(tmp_path / "log", 602)
    log.close()
    with open_log(tmp_path / "log") as again:
        assert list(again.entries()) == entries
        again.append(draft(601))
    clean(tmp_path / "log", 603)


def test_two_logs_on_one_directory_see_each_other(tmp_path: Path, log: AuditLog) -> None:
    """What one process appends, the other reads, and each source counts for itself."""
    with open_log(tmp_path / "log", source="cli") as other:
        mine = log.append(draft(1))
        theirs = other.append(draft(2))
        assert other.find("assembled:1") == mine
        assert log.find("assembled:2") == theirs
        assert log.append(draft(2)) == theirs
        with pytest.raises(KeyConflict):
            other.append(draft(1, instances=7))
        assert log.head() == other.head()
        assert (theirs.source, theirs.seq, theirs.index) == ("cli", 0, 2)
        assert log.append(draft(3)).seq == 2
        assert list(log.entries()) == list(other.entries())
    clean(tmp_path / "log", 4)


WRITER = """
import sys
from pathlib import Path
from audit import durable
from tests.simulators.audit_log import draft, open_log
root, source = Path(sys.argv[1]), sys.argv[2]
with open_log(root, source=source, disk=durable) as log:
    for number in range(30):
        log.append(draft(number))                                    # the same in every process
        log.append(draft(1000 * int(source[-1]) + number))           # this one's own
"""


def test_two_processes_at_the_same_time(tmp_path: Path) -> None:
    """Concurrent processes, from an empty directory: gapless, one entry per key, both see all."""
    writers = [
        subprocess.Popen([sys.executable, "-c", WRITER, str(tmp_path / "log"), source], cwd=REPOSITORY)
        for source in ("p1", "p2")
    ]
    assert [writer.wait(timeout=60) for writer in writers] == [0, 0]
    clean(tmp_path / "log", 1 + 30 + 2 * 30)
    with open_log(tmp_path / "log") as log:
        entries = list(log.entries())
    assert {entry.source for entry in entries} == {"p1", "p2"}
    for source in ("p1", "p2"):
        numbers = [entry.seq for entry in entries if entry.source == source]
        assert numbers == list(range(len(numbers)))


def test_a_killed_writer_frees_the_log(tmp_path: Path, log: AuditLog) -> None:
    """The lock dies with the process that held it."""
    context = multiprocessing.get_context("spawn")
    held = context.Event()
    process = context.Process(target=_hold, args=(tmp_path / "log" / "lock", held), daemon=True)
    process.start()
    assert held.wait(30)
    process.kill()
    process.join()
    assert log.append(draft(1)).index == 1


def _hold(path: Path, held: object) -> None:
    with DirectoryLock(path).held():
        held.set()  # type: ignore[attr-defined]
        threading.Event().wait(60)


def test_a_lock_that_never_comes_free_is_unavailability(tmp_path: Path) -> None:
    """A stopped process must not stop us for ever."""
    holder, waiter = DirectoryLock(tmp_path / "lock"), DirectoryLock(tmp_path / "lock", wait_s=0.05)
    with holder.held():
        begin = time.monotonic()
        with pytest.raises(AuditUnavailable) as error, waiter.held():
            pass
        assert time.monotonic() - begin < 5
        assert error.value.errno == errno.EAGAIN
    with waiter.held():
        pass
    for lock in (holder, waiter):
        lock.close()
        lock.close()


def test_a_closed_log_refuses(tmp_path: Path) -> None:
    """After close nothing is written or read, and closing again is fine."""
    log = open_log(tmp_path / "log")
    log.close()
    log.close()
    for use in (lambda: log.append(draft(1)), log.head, lambda: log.find("x"), lambda: list(log.entries())):
        with pytest.raises(AuditUnavailable):
            use()
    clean(tmp_path / "log", 1)


def test_another_key_or_origin_does_not_open(tmp_path: Path, log: AuditLog) -> None:
    """A log belongs to one key and one origin; neither is changed by opening with another."""
    fill(log, range(3))
    with pytest.raises(AuditCorrupt, match=r"head: NOTE_SIGNER_UNKNOWN"):
        open_log(tmp_path / "log", signer=Signer.generate("stranger.example"))
    with pytest.raises(AuditCorrupt, match="another log"):
        AuditLog.open(tmp_path / "log", origin="other.example", source="s", signer=SIGNER, now=datetime.now)
    clean(tmp_path / "log", 4)


def test_bad_names_do_not_open(tmp_path: Path) -> None:
    """A source or origin that could hold free text is refused before anything is written."""
    for origin, source in (("two words^", "s"), ("o", "two words"), ("o", "测试")):
        with pytest.raises(EntryInvalid):
            AuditLog.open(tmp_path / "log", origin=origin, source=source, signer=SIGNER, now=datetime.now)
    assert not (tmp_path / "log").exists()


def test_a_naive_clock_logs_nothing(tmp_path: Path) -> None:
    """A time without a zone is nobody's time."""
    with pytest.raises(EntryInvalid):
        AuditLog.open(tmp_path / "log", origin=ORIGIN, source="s", signer=SIGNER, now=lambda: datetime(2026, 1, 1))  # noqa: DTZ001
    assert not (tmp_path / "log" / HEAD).exists()


def test_a_log_that_is_rolled_back_while_open_is_refused(tmp_path: Path, log: AuditLog) -> None:
    """Somebody puts back an older, genuine state: whoever remembers the newer one refuses to go on."""
    log.append(draft(1))
    old = (tmp_path / "log" / HEAD).read_bytes()
    log.append(draft(2))
    durable.replace(tmp_path / "log" / HEAD, old)
    for use in (lambda: log.append(draft(3)), log.head, lambda: log.find("assembled:1")):
        with pytest.raises(AuditCorrupt, match="went back"):
            use()


def test_entries_changed_under_an_open_log_are_refused(tmp_path: Path, log: AuditLog) -> None:
    """Reading proves each entry against the head, and appending never publishes what was changed since."""
    fill(log, range(300))
    for name in ("tile/entries/000", "tile/entries/001.p/45"):
        path = tmp_path / "log" / name
        good = path.read_bytes()
        changed = good.replace(b'"series":2', b'"series":3', 1)
        assert changed != good
        durable.replace(path, changed)
        with pytest.raises(AuditCorrupt, match=name):
            list(log.entries())
        if name.endswith("45"):
            with pytest.raises(AuditCorrupt, match=name):
                log.append(draft(301))
        durable.replace(path, good)
    log.append(draft(302))
    clean(tmp_path / "log", 302)


def test_nothing_is_signed_beside_a_forgery(tmp_path: Path, log: AuditLog) -> None:
    """Entries and their tile of hashes changed together agree with each other, but not with what was signed."""
    fill(log, range(10))
    folder, before = tmp_path / "log", log.head()
    leaves = [entry.to_bytes() for entry in log.entries()]
    leaves[5] = leaves[5].replace(b'"series":2', b'"series":3')
    durable.replace(folder / "tile/entries/000.p/11", pack(leaves))
    durable.replace(folder / "tile/0/000.p/11", b"".join(leaf_hash(leaf) for leaf in leaves))
    with pytest.raises(AuditCorrupt, match="signed"):
        log.append(draft(11))
    assert (folder / HEAD).read_text() == before.note
    with pytest.raises(AuditCorrupt, match="root"):
        open_log(folder)


# ---- an entry that is logged only if nothing came between ------------------------------------------------------------


class Told:
    """A proviso that writes down what it is given."""

    def __init__(self, holds: bool) -> None:
        self.holds, self.given = holds, list[tuple[int, list[int]]]()

    def __call__(self, placed: Entry, between: Sequence[Entry]) -> bool:
        """See Proviso.holds."""
        self.given.append((placed.index, [one.index for one in between]))
        return self.holds


@pytest.mark.parametrize("publish_s", [0.0, 1000.0], ids=["published", "put-off"])
def test_what_does_not_hold_is_not_logged(tmp_path: Path, publish_s: float) -> None:
    """It is asked with the entry as it would stand and all that came since; refused, the log is as it was."""
    with open_log(tmp_path / "log", publish_s=publish_s, clock=lambda: 0.0) as log:
        fill(log, range(300))
        head, no, yes = log.head(), Told(False), Told(True)
        with pytest.raises(Overtaken):
            log.append(draft(900), Proviso(298, no))
        assert (no.given, log.head(), log.find(draft(900).key)) == ([(301, [298, 299, 300])], head, None)
        assert log.append(draft(900), Proviso(298, yes)).index == 301
        assert yes.given == no.given
        # What is logged stays logged: a step that is repeated finds it, whatever came since.
        assert log.append(draft(900), Proviso(0, no)).index == 301
        assert log.append(draft(901), Proviso(1000, yes)).index == 302
        assert yes.given[1:] == [(302, [])]
    clean(tmp_path / "log", 303)


def test_another_process_may_have_come_between(tmp_path: Path) -> None:
    """Two that share the folder: what the other one logged is seen before the entry is placed."""
    with open_log(tmp_path / "log") as ours, open_log(tmp_path / "log") as theirs:
        ours.append(draft(1))
        seen = ours.head().size
        theirs.append(draft(2))
        told = Told(False)
        with pytest.raises(Overtaken):
            ours.append(draft(3), Proviso(seen, told))
        assert told.given == [(3, [2])]
    clean(tmp_path / "log", 3)


def test_in_one_commit_too_those_before_it_count(tmp_path: Path) -> None:
    """Of many who wait for one commit, each conditional on the other's absence, one alone is logged."""
    with open_log(tmp_path / "log") as log, ThreadPoolExecutor(32) as pool:
        seen, start = log.head().size, threading.Barrier(32)

        def enter(number: int) -> bool:
            start.wait()
            try:
                log.append(draft(number), Proviso(seen, lambda _, between: not between))
            except Overtaken:
                return False
            return True

        assert sum(pool.map(enter, range(32))) == 1
    clean(tmp_path / "log", 2)
