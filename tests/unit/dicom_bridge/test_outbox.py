"""The outbox: delivered, or visibly dead; never silent, never lost, whatever happens between two steps."""

from __future__ import annotations

import os
import signal
import sqlite3
import subprocess
import sys
import textwrap
from collections.abc import Callable, Iterator, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from dicom_bridge import commitment_scu, delivery, query
from dicom_bridge.delivery import PAUSE_MAX, Transport, pause
from dicom_bridge.ledger import Batch, OutboxRefused, OutboxUnavailable, Proof, State
from dicom_bridge.ledger_schema import open_ledger
from dicom_bridge.outbox import KEEP_TRYING, Outbox
from dicom_bridge.parcel import digest_of, head_of
from dicom_bridge.peers import Peer
from dicom_bridge.store_scu import SendResult, send
from tests.simulators import findings as phantom
from tests.simulators.pacs import FakePacs, Reporting
from tests.simulators.waiting import until

FRIDAY = datetime(2026, 11, 20, 18, 0, tzinfo=UTC)
NOWHERE = Peer(name="pacs", ae_title="TESTPACS", host="127.0.0.1", port=9)


class Clock:
    """Time that passes only when a test says so."""

    def __init__(self) -> None:
        self.time = FRIDAY

    def __call__(self) -> datetime:
        """Now."""
        return self.time

    def sleep(self, **span: float) -> None:
        """Let this much time pass."""
        self.time += timedelta(**span)


class Listener:
    """The caller's side: notes deliveries, and fails with OSError as often as it is told."""

    def __init__(self, failures: int = 0) -> None:
        self.failures = failures
        self.calls: list[Batch] = []

    def __call__(self, batch: Batch) -> None:
        """As the outbox calls back."""
        self.calls.append(batch)
        if self.failures:
            self.failures -= 1
            raise OSError(28, "no space left on device")


class Wire:
    """A transport without a network: answers from a list of results, then success; keeps what it was given."""

    def __init__(self, *results: Sequence[int | None] | str) -> None:
        self.results = list(results)
        self.sent: list[tuple[str, ...]] = []
        self.peers: list[Peer] = []

    def __call__(self, files: Sequence[Path], peer: Peer, calling_ae: str, *, go_on: Callable[[], bool]) -> SendResult:
        """As `store_scu.send`."""
        assert files, "an association for nothing"
        assert go_on()
        self.sent.append(tuple(path.name for path in files))
        self.peers.append(peer)
        result = self.results.pop(0) if self.results else [0] * len(files)
        if isinstance(result, str):
            return SendResult((None,) * len(files), result)
        assert len(result) == len(files)
        return SendResult(tuple(result), "PEER_NO_ANSWER" if None in result else None)


def store(transport: Callable[..., SendResult]) -> Transport:
    """The network, but for how files are sent."""
    return Transport(store=transport)


@pytest.fixture(scope="module")
def originals(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """Two valid Part 10 files."""
    folder = tmp_path_factory.mktemp("results")
    for ds, name in zip(phantom.series((2, 8, 8)), ("a.dcm", "b.dcm"), strict=True):
        ds.save_as(folder / name)
    return folder / "a.dcm", folder / "b.dcm"


@pytest.fixture
def files(originals: tuple[Path, Path], tmp_path: Path) -> tuple[Path, Path]:
    """Copies that a test may damage."""
    copies = tuple(tmp_path / path.name for path in originals)
    for original, copy in zip(originals, copies, strict=True):
        copy.write_bytes(original.read_bytes())
    return copies[0], copies[1]


@pytest.fixture
def clock() -> Clock:
    """A Friday evening."""
    return Clock()


@pytest.fixture
def pacs() -> Iterator[FakePacs]:
    """A PACS that is up, and whose complaints fail the test."""
    with FakePacs() as fake:
        yield fake
    assert fake.complaints == []


@pytest.fixture
def outbox_of(tmp_path: Path, clock: Clock) -> Iterator[Callable[..., Outbox]]:
    """Makes outboxes on the same ledger, as restarts do; the one before is closed."""
    made: list[Outbox] = []

    def make(listener: Callable[[Batch], None] | None = None, **options: object) -> Outbox:
        if made:
            made[-1].stop()
        peer = options.pop("peer", NOWHERE)
        options.setdefault("peers", {peer.name: peer})  # type: ignore[attr-defined]
        made.append(Outbox(tmp_path / "outbox", clock, listener or Listener(), **options))  # type: ignore[arg-type]
        return made[-1]

    yield make
    for outbox in made:
        outbox.stop()


def test_a_batch_is_delivered_and_then_told_once(outbox_of, pacs, files) -> None:
    """Both files reach the PACS over one association, the callback sees them once, and only then it is DELIVERED."""
    listener = Listener()
    outbox = outbox_of(listener, peer=pacs.peer())
    outbox.enqueue("call-1", "pacs", files)
    assert outbox.state("call-1") is State.PENDING
    assert outbox.run_due("pacs") == 2
    assert outbox.state("call-1") is State.DELIVERED
    assert (pacs.associations, len(pacs.received), len(pacs.stored)) == (1, 2, 2)
    (batch,) = listener.calls
    assert (batch.id, batch.attempts, batch.peer, batch.proof) == ("call-1", 1, "pacs", Proof.ANSWERED)
    assert [output.status for output in batch.outputs] == [0, 0]
    assert outbox.run_due("pacs") == 0


def test_a_weekend_without_a_pacs_ends_in_one_delivery(outbox_of, pacs, files, clock) -> None:
    """From Friday evening to Monday morning nobody listens; then one delivery, within the longest pause."""
    down, tries = True, 0

    def transport(paths: Sequence[Path], peer: Peer, calling_ae: str, **_: object) -> SendResult:
        nonlocal tries
        tries += 1
        # Only the first try and those after the weekend go over the wire: a refused connection takes 0.1 s.
        return SendResult((None, None), "PEER_UNREACHABLE") if down and tries > 1 else send(paths, peer, calling_ae)

    listener = Listener()
    outbox = outbox_of(listener, transport=store(transport), peer=pacs.peer())
    pacs.down()
    outbox.enqueue("call-1", "pacs", files)
    while clock.time < FRIDAY + timedelta(hours=62):
        outbox.run_due("pacs")
        if tries == 1:
            assert outbox.pending()[0].code == "PEER_UNREACHABLE"
        clock.sleep(minutes=5)
    assert outbox.state("call-1") is State.PENDING
    assert 62 * 3 <= tries <= 62 * 4 + 12, "about one try in a quarter of an hour"
    pacs.up()
    down = False
    clock.time += PAUSE_MAX
    outbox.run_due("pacs")
    assert outbox.state("call-1") is State.DELIVERED
    assert len(pacs.received) == 2
    assert len(listener.calls) == 1


def test_out_of_resources_is_retried(outbox_of, pacs, files, clock) -> None:
    """0xA700 for one file: that file alone is sent again later, the stored one is not."""
    pacs.answer(0x0000, 0xA700, 0xA7FF)
    outbox = outbox_of(peer=pacs.peer())
    outbox.enqueue("call-1", "pacs", files)
    outbox.run_due("pacs")
    assert outbox.pending()[0].code == "STATUS_A700"
    assert len(pacs.received) == 2
    assert outbox.run_due("pacs") == 0, "not before the pause is over"
    clock.sleep(seconds=2)
    outbox.run_due("pacs")
    clock.sleep(seconds=4)
    outbox.run_due("pacs")
    assert outbox.state("call-1") is State.DELIVERED
    assert len(pacs.received) == 4
    assert pacs.received[1:] == [pacs.received[1]] * 3


def test_a_warning_means_stored(outbox_of, pacs, files) -> None:
    """0xB000 and its like are deliveries; the caller sees the status."""
    pacs.answer(0xB000, 0xB007)
    listener = Listener()
    outbox = outbox_of(listener, peer=pacs.peer())
    outbox.enqueue("call-1", "pacs", files)
    outbox.run_due("pacs")
    assert outbox.state("call-1") is State.DELIVERED
    assert [output.status for output in listener.calls[0].outputs] == [0xB000, 0xB007]


def test_a_refusal_is_a_visible_dead_letter_and_can_be_resent(outbox_of, pacs, files) -> None:
    """0xC000 ends the tries; the batch is listed with its status, and `resend` sends the whole batch again."""
    pacs.answer(0x0000, 0xC000)
    listener = Listener()
    outbox = outbox_of(listener, peer=pacs.peer())
    outbox.enqueue("call-1", "pacs", files)
    outbox.run_due("pacs")
    (dead,) = outbox.dead_letters()
    assert (dead.id, dead.code, dead.outputs[1].status) == ("call-1", "STATUS_C000", 0xC000)
    assert outbox.state("call-1") is State.DEAD
    assert outbox.run_due("pacs") == 0
    assert listener.calls == []
    pacs.forget()
    outbox.resend("call-1")
    outbox.run_due("pacs")
    assert outbox.state("call-1") is State.DELIVERED
    assert outbox.dead_letters() == ()
    assert len(pacs.stored) == 2


@pytest.mark.parametrize("status", [0xA900, 0xC001, 0x0122, 0x0124, 0x0110])
def test_what_will_never_work_is_not_tried_again(outbox_of, files, status) -> None:
    """A mismatch, a refusal of class or of us: retrying for days would only hide it."""
    outbox = outbox_of(transport=store(Wire([0, status])))
    outbox.enqueue("call-1", "pacs", files)
    outbox.run_due("pacs")
    assert outbox.dead_letters()[0].code == f"STATUS_{status:04X}"


def test_a_class_that_the_peer_does_not_take_is_a_dead_letter(outbox_of, files) -> None:
    """No presentation context for an MR: the letter is dead, and says so."""
    with FakePacs(classes=["1.2.840.10008.5.1.4.1.1.88.34"]) as narrow:
        outbox = outbox_of(peer=narrow.peer())
        outbox.enqueue("call-1", "pacs", files)
        outbox.run_due("pacs")
        assert narrow.received == []
    assert outbox.dead_letters()[0].code == "PEER_NO_CONTEXT"


def test_a_wrong_ae_title_is_retried_as_it_may_be_configured_any_minute(outbox_of, pacs, files, clock) -> None:
    """A rejected association waits; started again with the right title, it goes through: the ledger has only a name."""
    outbox = outbox_of(peer=Peer("pacs", "WRONGTITLE", "127.0.0.1", pacs.port))
    outbox.enqueue("call-1", "pacs", files)
    outbox.run_due("pacs")
    assert outbox.pending()[0].code == "PEER_REJECTED"
    again = outbox_of(peer=pacs.peer())
    clock.sleep(seconds=2)
    again.run_due("pacs")
    assert again.state("call-1") is State.DELIVERED


def test_nothing_leaves_to_a_peer_that_is_not_named(outbox_of, files, clock) -> None:
    """A batch whose peer the configuration no longer names is a dead letter; named again, it can be resent."""
    outbox = outbox_of()
    with pytest.raises(OutboxRefused, match="PEER_NOT_NAMED"):
        outbox.enqueue("call-1", "other", files)
    outbox.enqueue("call-1", "pacs", files)
    wire = Wire()
    again = outbox_of(transport=store(wire), peers={})
    again.run_due("pacs")
    assert [(batch.id, batch.code) for batch in again.dead_letters()] == [("call-1", "PEER_NOT_NAMED")]
    assert wire.sent == []
    named = outbox_of(transport=store(wire))
    named.resend("call-1")
    named.run_due("pacs")
    assert named.state("call-1") is State.DELIVERED


def test_what_was_delivered_is_told_though_the_peer_is_not_named_any_more(outbox_of, files, clock) -> None:
    """The callback needs no network: the log learns of what the PACS has."""
    outbox = outbox_of(Listener(failures=1), transport=store(Wire()))
    outbox.enqueue("call-1", "pacs", files)
    outbox.run_due("pacs")
    listener = Listener()
    again = outbox_of(listener, peers={})
    clock.sleep(seconds=2)
    again.run_due("pacs")
    assert again.state("call-1") is State.DELIVERED
    assert len(listener.calls) == 1


def test_too_old_is_a_dead_letter_and_resend_starts_its_age_anew(outbox_of, files, clock) -> None:
    """After seven days the batch is dead; resent, it has seven days again."""
    wire = Wire(*["PEER_UNREACHABLE"] * 3)
    outbox = outbox_of(transport=store(wire))
    outbox.enqueue("call-1", "pacs", files)
    outbox.run_due("pacs")
    clock.time += KEEP_TRYING
    outbox.run_due("pacs")
    assert outbox.state("call-1") is State.PENDING, "on its last day it is still tried"
    clock.sleep(hours=1)
    outbox.run_due("pacs")
    assert outbox.dead_letters()[0].code == "TOO_OLD"
    outbox.resend("call-1")
    clock.time += PAUSE_MAX
    outbox.run_due("pacs")
    assert outbox.state("call-1") is State.PENDING
    clock.time += PAUSE_MAX
    outbox.run_due("pacs")
    assert outbox.state("call-1") is State.DELIVERED


def test_a_failing_callback_repeats_without_sending_again(outbox_of, files, clock) -> None:
    """The audit disk is full: the objects are not sent twice, the callback comes until it returns."""
    listener, wire = Listener(failures=3), Wire()
    outbox = outbox_of(listener, transport=store(wire))
    outbox.enqueue("call-1", "pacs", files)
    for seconds in (0, 2, 4, 8):
        clock.sleep(seconds=seconds)
        assert outbox.state("call-1") is State.PENDING
        outbox.run_due("pacs")
    assert outbox.state("call-1") is State.DELIVERED
    assert (len(listener.calls), len(wire.sent)) == (4, 1)


def test_a_callback_waits_even_beyond_the_age_limit(outbox_of, files, clock) -> None:
    """What the PACS holds is never reported dead because our own log was unavailable for long."""
    listener = Listener(failures=1)
    outbox = outbox_of(listener, transport=store(Wire()))
    outbox.enqueue("call-1", "pacs", files)
    outbox.run_due("pacs")
    clock.time += 2 * KEEP_TRYING
    outbox.run_due("pacs")
    assert outbox.state("call-1") is State.DELIVERED


def test_enqueue_is_idempotent_and_refuses_other_content(outbox_of, files) -> None:
    """The same batch again is one delivery, before and after; other files or another peer under its id are refused."""
    wire, listener = Wire(), Listener()
    other = Peer("other", "OTHER", "127.0.0.1", 9)
    outbox = outbox_of(listener, transport=store(wire), peers={"pacs": NOWHERE, "other": other})
    for _ in range(3):
        outbox.enqueue("call-1", "pacs", files)
        outbox.run_due("pacs")
    assert (len(wire.sent), len(listener.calls)) == (1, 1)
    for peer, content in (("pacs", files[:1]), ("pacs", files[::-1]), ("other", files)):
        with pytest.raises(OutboxRefused) as refused:
            outbox.enqueue("call-1", peer, content)
        assert refused.value.code == "BATCH_CONFLICT"
    assert outbox.state("call-1") is State.DELIVERED


def test_what_cannot_be_a_batch_is_refused(outbox_of, tmp_path) -> None:
    """No files, a missing file, a file that is not DICOM, an unknown batch: each has its code, and nothing is kept."""
    outbox = outbox_of()
    (tmp_path / "text.dcm").write_text("not DICOM")
    for content, code in (
        ([], "BATCH_EMPTY"),
        ([tmp_path / "gone.dcm"], "FILE_UNREADABLE"),
        ([tmp_path / "text.dcm"], "FILE_UNREADABLE"),
    ):
        with pytest.raises(OutboxRefused) as refused:
            outbox.enqueue("call-1", "pacs", content)
        assert refused.value.code == code
    assert outbox.state("call-1") is None
    with pytest.raises(OutboxRefused, match="BATCH_UNKNOWN"):
        outbox.resend("call-1")


def test_only_the_dead_are_resent(outbox_of, files) -> None:
    """A batch that is on its way or delivered cannot be revived."""
    outbox = outbox_of(transport=store(Wire()))
    outbox.enqueue("call-1", "pacs", files)
    with pytest.raises(OutboxRefused, match="BATCH_NOT_DEAD"):
        outbox.resend("call-1")
    outbox.run_due("pacs")
    with pytest.raises(OutboxRefused, match="BATCH_NOT_DEAD"):
        outbox.resend("call-1")


@pytest.mark.parametrize("damage", ["changed", "removed"])
def test_bytes_that_are_not_those_enqueued_are_not_sent(outbox_of, files, damage) -> None:
    """What was validated and logged by digest is what goes out, or nothing does."""
    wire = Wire()
    outbox = outbox_of(transport=store(wire))
    outbox.enqueue("call-1", "pacs", files)
    if damage == "changed":
        data = bytearray(files[1].read_bytes())
        data[-1] ^= 1
        files[1].write_bytes(data)
    else:
        files[1].unlink()
    outbox.run_due("pacs")
    assert outbox.dead_letters()[0].code == "FILE_CHANGED"
    assert wire.sent == []


def test_a_broken_answer_keeps_what_was_answered(outbox_of, files, clock) -> None:
    """The association breaks after the first file: only the second is sent again."""
    wire = Wire([0, None])
    outbox = outbox_of(transport=store(wire))
    outbox.enqueue("call-1", "pacs", files)
    outbox.run_due("pacs")
    clock.sleep(seconds=2)
    outbox.run_due("pacs")
    assert wire.sent == [("a.dcm", "b.dcm"), ("b.dcm",)]
    assert outbox.state("call-1") is State.DELIVERED


def test_one_poisonous_object_does_not_hold_up_the_others(outbox_of, files, clock) -> None:
    """A batch on which the peer always breaks is tried ever more rarely; a later batch passes it."""
    poison, good = files

    def transport(paths: Sequence[Path], peer: Peer, calling_ae: str, **_: object) -> SendResult:
        if poison in paths:
            return SendResult((None,), "PEER_NO_ANSWER")
        return SendResult((0,), None)

    outbox = outbox_of(transport=store(transport))
    outbox.enqueue("poison", "pacs", [poison])
    for _ in range(20):
        outbox.run_due("pacs")
        clock.sleep(minutes=1)
    outbox.enqueue("good", "pacs", [good])
    clock.time += PAUSE_MAX
    outbox.run_due("pacs")
    clock.sleep(seconds=2)
    outbox.run_due("pacs")
    assert outbox.state("good") is State.DELIVERED
    assert outbox.state("poison") is State.PENDING


def test_wake_ends_all_pauses(outbox_of, files, clock) -> None:
    """Somebody repaired the PACS and does not want to wait a quarter of an hour."""
    outbox = outbox_of(transport=store(Wire("PEER_UNREACHABLE")))
    outbox.enqueue("call-1", "pacs", files)
    outbox.run_due("pacs")
    assert outbox.run_due("pacs") == 0
    outbox.wake()
    outbox.run_due("pacs")
    assert outbox.state("call-1") is State.DELIVERED


def test_a_clock_that_was_set_back_does_not_stop_delivery(outbox_of, files, clock) -> None:
    """An appointment years ahead was made by a wrong clock: it is due."""
    outbox = outbox_of(transport=store(Wire("PEER_UNREACHABLE")))
    clock.sleep(days=4000)
    outbox.enqueue("call-1", "pacs", files)
    outbox.run_due("pacs")
    clock.sleep(days=-4000)
    outbox.run_due("pacs")
    assert outbox.state("call-1") is State.DELIVERED


def test_a_restart_continues_with_its_pauses(outbox_of, files, clock) -> None:
    """A new process finds what is pending, keeps the pause, and delivers."""
    outbox = outbox_of(transport=store(Wire("PEER_UNREACHABLE", "PEER_UNREACHABLE")))
    outbox.enqueue("call-1", "pacs", files)
    outbox.run_due("pacs")
    clock.sleep(seconds=2)
    outbox.run_due("pacs")
    wire, listener = Wire(), Listener()
    again = outbox_of(listener, transport=store(wire))
    clock.sleep(seconds=3)
    assert again.run_due("pacs") == 0, "the second pause is 4 s"
    clock.sleep(seconds=1)
    again.run_due("pacs")
    assert again.state("call-1") is State.DELIVERED
    assert listener.calls[0].attempts == 3


def test_threads_deliver_to_two_peers_and_stop(outbox_of, files) -> None:
    """Started before or after enqueue, each peer has its sender; a peer that is down does not hold up the other."""
    listener = Listener()
    with FakePacs() as up:
        outbox = outbox_of(listener, peers={"one": up.peer("one"), "two": Peer("two", "TWO", "127.0.0.1", 9)})
        outbox.enqueue("call-1", "one", files[:1])
        outbox.start()
        outbox.enqueue("call-2", "two", files[:1])
        outbox.enqueue("call-3", "one", files[1:])
        until(lambda: outbox.state("call-3") is State.DELIVERED and outbox.batch("call-2").attempts > 0)
        assert outbox.healthy()
        assert outbox.state("call-1") is State.DELIVERED
        assert outbox.state("call-2") is State.PENDING
        with pytest.raises(OutboxUnavailable, match="ALREADY_STARTED"):
            outbox.start()
        outbox.stop()
        assert not outbox.healthy()


def test_a_full_disk_promises_nothing_and_loses_nothing(outbox_of, files, tmp_path) -> None:
    """While the ledger is locked or closed, enqueue raises; afterwards the same call works."""
    outbox = outbox_of(transport=store(Wire()))
    outbox.enqueue("call-1", "pacs", files)
    outbox.stop()
    with pytest.raises(OutboxUnavailable, match="LEDGER_UNAVAILABLE"):
        outbox.enqueue("call-2", "pacs", files)
    again = outbox_of(transport=store(Wire()))
    assert again.state("call-2") is None
    again.run_due("pacs")
    assert again.state("call-1") is State.DELIVERED
    (tmp_path / "bad").mkdir()
    (tmp_path / "bad" / "outbox.sqlite3").write_bytes(b"not a database, not at all" * 100)
    with pytest.raises(OutboxUnavailable, match="LEDGER_UNAVAILABLE"):
        Outbox(tmp_path / "bad", Clock(), Listener(), peers={})


def test_every_commit_is_synced(outbox_of, tmp_path) -> None:
    """The ledger runs with synchronous=FULL: a promise survives a power cut, not only a crash."""
    outbox = outbox_of()
    assert outbox._ledger._db.execute("PRAGMA synchronous").fetchone() == (2,)
    assert sqlite3.connect(tmp_path / "outbox" / "outbox.sqlite3").execute("PRAGMA journal_mode").fetchone() == ("wal",)


_CHILD = textwrap.dedent(
    """
    import os, signal, sys
    from datetime import UTC, datetime
    from pathlib import Path
    from dicom_bridge.commitment_scu import request
    from dicom_bridge.delivery import Transport
    from dicom_bridge.outbox import Outbox
    from dicom_bridge.peers import Peer
    from dicom_bridge.query import find_held
    from dicom_bridge.store_scu import send

    step, root, port, able = sys.argv[1], Path(sys.argv[2]), int(sys.argv[3]), sys.argv[4] == "able"
    files = [Path(f) for f in sys.argv[5:]]

    def die(at):
        if step == at:
            os.kill(os.getpid(), signal.SIGKILL)

    def told(batch):
        die("before the callback")
        with open(root / "told", "a") as file:
            file.write(batch.id + " " + batch.proof + "\\n")
        die("after the callback")

    def store(paths, peer, calling_ae, *, go_on):
        die("before sending")
        result = send(paths, peer, calling_ae, go_on=go_on)
        die("after sending")
        return result

    def ask(wanted, peer, calling_ae, heard, wait):
        def hear(report):
            die("before the report is noted")
            status = heard(report)
            die("after the report is noted")
            return status

        die("before asking")
        status = request(wanted, peer, calling_ae, hear, lambda: (die("while waiting"), wait()))
        die("after asking")
        return status

    def find(peer, series, calling_ae):
        die("before finding")
        found = find_held(peer, series, calling_ae)
        die("after finding")
        return found

    peers = {"pacs": Peer("pacs", "TESTPACS", "127.0.0.1", port, counts=able, commitment=able)}
    now = datetime(2026, 11, 20, tzinfo=UTC)
    outbox = Outbox(root, lambda: now, told, peers=peers, transport=Transport(store, ask, find))
    outbox.enqueue("call-1", "pacs", files)
    die("after enqueue")
    outbox.run_due("pacs")
    print(outbox.state("call-1"))
    """
)

STEPS = ["after enqueue", "before sending", "after sending", "before the callback", "after the callback"]
STEPS_ABLE = [
    *("before asking", "while waiting", "before the report is noted", "after the report is noted", "after asking"),
    *("before finding", "after finding", "after the callback"),
]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("step", "able"), [*((step, "unable") for step in STEPS), *((step, "able") for step in STEPS_ABLE)]
)
def test_kill_9_at_any_step_ends_in_one_object_and_one_story(step, able, pacs, files, tmp_path) -> None:
    """Killed at each step and started again: delivered, each object once in the PACS, told at most twice, one proof."""
    root = tmp_path / "outbox"
    pacs.reporting = Reporting.SAME
    arguments = [str(root), str(pacs.port), able, *map(str, files)]
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[3])}
    killed = subprocess.run([sys.executable, "-c", _CHILD, step, *arguments], env=environment, check=False)
    assert killed.returncode == -signal.SIGKILL
    again = subprocess.run(
        [sys.executable, "-c", _CHILD, "never", *arguments], env=environment, check=False, capture_output=True
    )
    assert again.stdout.decode().split() == ["DELIVERED"], again.stderr.decode()
    told = (root / "told").read_text().splitlines()
    proof = "COMMITMENT" if able == "able" else "ANSWERED"
    assert told == [f"call-1 {proof}"] * (2 if step == "after the callback" else 1)
    assert len(pacs.stored) == 2
    assert len(pacs.received) == (4 if step == "after sending" else 2)
    assert len({str(asked.TransactionUID) for asked in pacs.requests}) == (1 if able == "able" else 0)


def test_pauses_double_to_a_quarter_of_an_hour() -> None:
    """2 s, 4 s, 8 s ... 15 min, and no overflow after thousands of failures."""
    assert [pause(n).total_seconds() for n in range(4)] == [2, 4, 8, 16]
    assert pause(9) == PAUSE_MAX == pause(100_000)


def test_the_default_transport_is_the_network() -> None:
    """Nobody forgets to wire it: files, requests for commitment and questions go over the network by default."""
    given = Transport()
    assert (given.store, given.ask, given.find) == (delivery.store, commitment_scu.request, query.find_held)


# ---- ledgers of before -----------------------------------------------------------------------------------------------

_SCHEMA_1 = """
CREATE TABLE IF NOT EXISTS peer (
    name TEXT PRIMARY KEY, ae_title TEXT NOT NULL, host TEXT NOT NULL, port INTEGER NOT NULL,
    failures INTEGER NOT NULL DEFAULT 0, next_at TEXT NOT NULL
) STRICT;
CREATE TABLE IF NOT EXISTS batch (
    id TEXT PRIMARY KEY, peer TEXT NOT NULL REFERENCES peer(name), state TEXT NOT NULL,
    created_at TEXT NOT NULL, next_at TEXT NOT NULL, attempts INTEGER NOT NULL DEFAULT 0,
    failures INTEGER NOT NULL DEFAULT 0, code TEXT
) STRICT;
CREATE TABLE IF NOT EXISTS file (
    batch TEXT NOT NULL REFERENCES batch(id), place INTEGER NOT NULL, path TEXT NOT NULL, digest TEXT NOT NULL,
    uid TEXT NOT NULL, status INTEGER, stored INTEGER NOT NULL DEFAULT 0, PRIMARY KEY (batch, place)
) STRICT;
CREATE INDEX IF NOT EXISTS batch_due ON batch(peer, state, next_at);
"""


def old_ledger(root: Path, files: Sequence[Path], states: Sequence[str]) -> None:
    """A ledger as version 1 left it, with one batch in each of the states, of one file each."""
    root.mkdir()
    db = sqlite3.connect(root / "outbox.sqlite3")
    db.executescript(_SCHEMA_1)
    stamp = FRIDAY.isoformat(timespec="microseconds")
    db.execute("INSERT INTO peer VALUES ('pacs', 'OLDTITLE', '192.0.2.1', 104, 3, ?)", (stamp,))
    for state, path in zip(states, files, strict=True):
        db.execute("INSERT INTO batch VALUES (?, 'pacs', ?, ?, ?, 2, 1, 'PEER_REJECTED')", (state, state, stamp, stamp))
        digest = digest_of(path) or "sha256:gone"
        head = head_of(path)
        uid = "1.2.3" if head is None else head.sop_uid
        db.execute("INSERT INTO file VALUES (?, 0, ?, ?, ?, NULL, 0)", (state, str(path), digest, uid))
    db.commit()
    db.close()


def test_an_old_ledger_goes_on_where_it_was(outbox_of, pacs, files, tmp_path) -> None:
    """What version 1 had waiting goes to today's address, is confirmed, and told with its proof."""
    old_ledger(tmp_path / "outbox", (*files, files[0], files[1]), ("PENDING", "SENT", "DELIVERED", "DEAD"))
    listener = Listener()
    outbox = outbox_of(listener, peer=pacs.peer(counts=True))
    outbox.run_due("pacs")
    assert [outbox.state(one) for one in ("PENDING", "SENT", "DELIVERED")] == [State.DELIVERED] * 3
    assert {batch.id: batch.proof for batch in listener.calls} == {"PENDING": Proof.FOUND, "SENT": Proof.ANSWERED}
    assert [batch.code for batch in outbox.dead_letters()] == ["PEER_REJECTED"]
    outbox.resend("DEAD")
    outbox.run_due("pacs")
    assert outbox.batch("DEAD").proof is Proof.FOUND
    assert outbox.batch("PENDING").attempts == 3


def test_a_file_of_an_old_ledger_that_is_gone_is_a_dead_letter(outbox_of, files, tmp_path) -> None:
    """It could not be read when the ledger was brought up, so nothing could be asked of it; it is seen, not sent."""
    old_ledger(tmp_path / "outbox", (tmp_path / "gone.dcm", files[0]), ("PENDING", "DEAD"))
    outbox = outbox_of(transport=store(Wire()))
    outbox.run_due("pacs")
    assert outbox.batch("PENDING").code == "FILE_CHANGED"


def test_a_ledger_without_stops_goes_on_where_it_was(outbox_of, files, tmp_path) -> None:
    """What version 2 had waiting is neither held nor let go, and is delivered."""
    outbox = outbox_of(transport=store(Wire()))
    outbox.enqueue("call-1", "pacs", files)
    outbox.stop()
    db = sqlite3.connect(tmp_path / "outbox" / "outbox.sqlite3")
    db.executescript(
        "ALTER TABLE batch DROP COLUMN aged_from; ALTER TABLE batch DROP COLUMN let_go; PRAGMA user_version = 2"
    )
    db.close()
    again = outbox_of(transport=store(Wire()))
    assert (again.batch("call-1").aged_from, again.batch("call-1").let_go) == (None, False)
    again.run_due("pacs")
    assert again.state("call-1") is State.DELIVERED


def test_a_ledger_of_a_later_version_is_left_alone(outbox_of, tmp_path) -> None:
    """An older program must not write into what it does not understand."""
    outbox_of().stop()
    db = open_ledger(tmp_path / "outbox" / "outbox.sqlite3")
    db.execute("PRAGMA user_version = 99")
    db.close()
    with pytest.raises(OutboxUnavailable, match="LEDGER_UNAVAILABLE"):
        outbox_of()
