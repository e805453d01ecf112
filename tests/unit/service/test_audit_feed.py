"""The feed: each entry's messages reach the spool exactly once, in order, whatever fails, and nothing is skipped."""

from __future__ import annotations

import xml.etree.ElementTree as ET
from base64 import b64decode
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import pytest
from structlog.testing import capture_logs

from audit.checkpoint import Checkpoint
from audit.entry import Draft, Entry, Kind
from audit.errors import AuditCorrupt
from audit.log import AuditLog
from dicom_bridge.audit_event import Node, Reporter
from service.audit_feed import CALLS_MAX, ENTRIES_AT_ONCE, WINDOW, AuditFeed, Calls
from service.syslog import Header, Patience, Repository, SyslogSender
from service.syslog_spool import Spool
from tests.simulators.audit_events import REPORTER, entry
from tests.simulators.audit_log import ORIGIN, SIGNER, STUDY, body, draft, fill, open_log
from tests.simulators.certificates import Authority
from tests.simulators.syslog_server import LOOPBACK, Message, parsed, split
from tests.simulators.syslog_server import Repository as Server

HEADER = Header("ai.hospital.example")


class Outlet:
    """An Outlet over a real spool, that never sends; it may refuse for a while, or die after it kept."""

    def __init__(self, spool: Spool) -> None:
        self.spool = spool
        self.refuses_after = 10**9
        self.dies_after = 10**9
        self.offered = 0

    def mark(self, name: str) -> str | None:
        """See Outlet."""
        return self.spool.mark(name)

    def offer(self, frames: Sequence[bytes], mark: tuple[str, str] | None = None) -> bool:
        """See Outlet."""
        if self.offered >= self.refuses_after:
            return False
        self.offered += 1
        kept = self.spool.add(frames, mark)
        if self.offered >= self.dies_after:
            raise KeyboardInterrupt  # the process is gone between the commit and everything after it
        return kept

    @property
    def messages(self) -> list[Message]:
        """What waits."""
        found, rest = split(b"".join(content for _, content in self.spool.after(0, 10**6)))
        assert rest == b""
        return [parsed(one) for one in found]


def index(message: Message) -> int:
    """Of the log's entry that a message speaks of."""
    return int(told(message)["log-index"])


def told(message: Message) -> dict[str, str]:
    """All details of a message."""
    found = ET.fromstring(message.text).iter("ParticipantObjectDetail")  # noqa: S314 - our own
    return {one.attrib["type"]: b64decode(one.attrib["value"]).decode() for one in found}


@contextmanager
def opened(folder: Path) -> Iterator[tuple[AuditLog, Outlet]]:
    """A log and an outlet in the folder."""
    spool = Spool(folder / "syslog.sqlite")
    with open_log(folder / "audit") as log:
        yield log, Outlet(spool)
    spool.close()


def feed(log: AuditLog, outlet: Outlet) -> AuditFeed:
    """As the service makes one."""
    return AuditFeed(log, outlet, REPORTER, HEADER)


def call(log: AuditLog, number: int, *, result: bool = True, study: str = STUDY) -> str:
    """A whole call in the log; its name."""
    name = f"{number:032x}"
    kinds = (Kind.CALL_INTENT, Kind.CALL_RESULT, Kind.RELEASED) if result else (Kind.CALL_INTENT,)
    for kind in kinds:
        content = body(kind) | ({"study": study} if kind is Kind.CALL_INTENT else {})
        log.append(Draft(kind, f"{kind.lower()}:{number}", content, name))
    return name


def test_every_entry_once_in_order(tmp_path: Path) -> None:
    """All entries are handed over once, in order, with the entry's own time; then only what is new."""
    with opened(tmp_path) as (log, outlet):
        fill(log, range(5))
        followed = feed(log, outlet)
        assert followed.pump() == 6
        assert followed.pump() == 0
        call(log, 1)
        assert followed.pump() == 3
        assert [index(one) for one in outlet.messages] == list(range(9))
        assert [one.time for one in outlet.messages] == [one.time for one in log.entries()]


def test_goes_on_after_a_restart(tmp_path: Path) -> None:
    """A new process goes on where the last one was."""
    with opened(tmp_path) as (log, outlet):
        fill(log, range(3))
        assert feed(log, outlet).pump() == 4
    with opened(tmp_path) as (log, outlet):
        fill(log, range(3, 5))
        assert feed(log, outlet).pump() == 2
        assert [index(one) for one in outlet.messages] == list(range(6))


@pytest.mark.parametrize("dies_after", range(1, 8))
def test_killed_after_keeping(tmp_path: Path, dies_after: int) -> None:
    """Killed right after any commit of the spool, the next process repeats nothing and leaves nothing out."""
    with opened(tmp_path) as (log, outlet):
        fill(log, range(4))
        call(log, 1)
        outlet.dies_after = dies_after
        with pytest.raises(KeyboardInterrupt):
            feed(log, outlet).pump()
    with opened(tmp_path) as (log, outlet):
        feed(log, outlet).pump()
        assert [index(one) for one in outlet.messages] == list(range(8))


def test_full_outlet_waits(tmp_path: Path) -> None:
    """When nothing more is taken the place stays: the log is the queue, and later everything comes."""
    with opened(tmp_path) as (log, outlet):
        fill(log, range(9))
        outlet.refuses_after = 4
        followed = feed(log, outlet)
        assert followed.pump() == 4
        assert followed.pump() == 0
        outlet.refuses_after = 10**9
        assert followed.pump() == 6
        assert [index(one) for one in outlet.messages] == list(range(10))


def test_many_at_once_come_in_parts(tmp_path: Path) -> None:
    """A long log is handed over in parts, so that other chores have their turn."""
    with opened(tmp_path) as (log, outlet):
        fill(log, range(ENTRIES_AT_ONCE + 20))
        followed = feed(log, outlet)
        assert [followed.pump() for _ in range(3)] == [ENTRIES_AT_ONCE, 21, 0]


def test_release_knows_its_study(tmp_path: Path) -> None:
    """Result and release carry the study that only their intent names, also when it lies far back, after a restart."""
    with opened(tmp_path) as (log, outlet):
        name = call(log, 1, result=False, study="7" * 32)
        fill(log, range(2 * WINDOW))
        followed = feed(log, outlet)
        while followed.pump():
            pass
        log.append(Draft(Kind.RELEASED, "released:1", body(Kind.RELEASED), name))
        assert feed(log, outlet).pump() == 1
        assert 'ParticipantObjectID="' + "7" * 32 in outlet.messages[-1].text


def test_calls_are_forgotten_and_found_again(tmp_path: Path) -> None:
    """Memory of calls is bounded, and what is not remembered is read again; a call without its intent has no study."""
    with opened(tmp_path) as (log, _):
        call(log, 1)
        log.append(Draft(Kind.RELEASED, "stray", body(Kind.RELEASED), "f" * 32))
        entries = list(log.entries())
        calls = Calls(log)
        assert [calls.study_of(one) for one in entries] == [None, STUDY, STUDY, STUDY, None]
        for number in range(CALLS_MAX + 5):
            calls._studies[f"{number:032x}"] = "0" * 32
        calls._studies.pop(f"{1:032x}")
        assert calls.study_of(entries[3]) == STUDY
        assert Calls(log).study_of(entries[2]) == STUDY


def test_another_log_another_place(tmp_path: Path) -> None:
    """A log of another origin begins at its beginning, whatever the place in the last one."""
    with opened(tmp_path) as (log, outlet):
        fill(log, range(3))
        assert feed(log, outlet).pump() == 4
        other = Reporter("test-hospital", "zhiying", "hospital.example/audit2", Node())
        assert AuditFeed(log, outlet, other, HEADER).pump() == 4


@pytest.mark.parametrize("entries_after", [1, 10])
def test_restored_log_begins_again(tmp_path: Path, entries_after: int) -> None:
    """A log that lost entries and went on with others is noticed, shorter or longer, and nothing of it is left out."""
    with opened(tmp_path) as (log, outlet):
        fill(log, range(5))
        assert feed(log, outlet).pump() == 6
        with open_log(tmp_path / "restored") as restored, capture_logs() as logs:
            fill(restored, range(100, 100 + entries_after))
            followed = feed(restored, outlet)
            assert followed.pump() == 1 + entries_after
            assert followed.pump() == 0
        assert [one["code"] for one in logs] == ["AUDIT_FEED_LOG_CHANGED"]
        assert [index(one) for one in outlet.messages] == [*range(6), *range(1 + entries_after)]


class Restored:
    """A log of a later version: what was kept of the old one, a RESTORE entry, and what came after."""

    def __init__(self, kept: int, after: int) -> None:
        self._entries = [entry("ASSEMBLED", index=number) for number in range(kept)]
        self._entries.append(entry("RESTORE", index=kept))
        self._entries += [entry("FAILED", index=kept + 1 + number) for number in range(after)]

    def head(self) -> Checkpoint:
        """See Log."""
        return Checkpoint.sign(SIGNER, ORIGIN, len(self._entries), b"0" * 32)

    def entries(self, start: int = 0) -> Iterator[Entry]:
        """See Log."""
        yield from self._entries[start:]


@pytest.mark.parametrize(("kept", "after"), [(3, 0), (3, 9), (WINDOW + 3, 2 * WINDOW), (1, 3 * WINDOW)])
def test_restored_log_goes_on_from_its_restore_entry(tmp_path: Path, kept: int, after: int) -> None:
    """After a restore only what is new is sent: from the RESTORE entry on, however much has come since."""
    with opened(tmp_path) as (log, outlet):
        fill(log, range(5))
        assert feed(log, outlet).pump() == 6
        with capture_logs() as logs:
            followed = AuditFeed(Restored(kept, after), outlet, REPORTER, HEADER)
            while followed.pump():
                pass
        assert [(one["code"], one["begins"]) for one in logs] == [("AUDIT_FEED_LOG_CHANGED", kept)]
        assert [index(one) for one in outlet.messages][6:] == list(range(kept, kept + 1 + after))


class Rotten:
    """A log whose disk cannot be believed from one index on."""

    def __init__(self, log: AuditLog, bad: int) -> None:
        self._log, self._bad = log, bad
        self.head = log.head

    def entries(self, start: int = 0) -> Iterator[object]:
        """See Log."""
        for one in self._log.entries(start):
            if one.index >= self._bad:
                raise AuditCorrupt(f"entry {one.index}", "changed")
            yield one


def test_corrupt_log_is_told(tmp_path: Path) -> None:
    """What the log refuses to give is an error of the log's own, after what came before it, and skips nothing."""
    with opened(tmp_path) as (log, outlet):
        fill(log, range(5))
        followed = AuditFeed(Rotten(log, 3), outlet, REPORTER, HEADER)  # type: ignore[arg-type]
        for _ in range(2):
            with pytest.raises(AuditCorrupt):
                followed.pump()
        assert feed(log, outlet).pump() == 3
        assert [index(one) for one in outlet.messages] == list(range(6))


def test_all_the_way(tmp_path: Path) -> None:
    """From the log over TLS into a repository: every entry's message, matched by origin, index and key."""
    site = Authority(tmp_path / "tls")
    ours, theirs = site.issue("zhiying"), site.issue("repository")
    spool, server = Spool(tmp_path / "syslog.sqlite"), Server(theirs)
    sender = SyslogSender(spool, Repository(LOOPBACK, ours, server.port), Patience(0.05, 0.2, 0.2))
    sender.start()
    try:
        with open_log(tmp_path / "audit") as log:
            log.append(draft())
            call(log, 1)
            log.append(Draft(Kind.FAILED, "failed:1", body(Kind.FAILED)))
            assert AuditFeed(log, sender, REPORTER, HEADER).pump() == 6
            server.wait(lambda: len(server.messages) == 6)
            for message, logged in zip(server.messages, log.entries(), strict=True):
                details = told(message)
                assert (details["log-origin"], details["log-index"]) == (REPORTER.origin, str(logged.index))
                assert (details["log-key"], message.time) == (logged.key, logged.time)
            assert [one.priority for one in server.messages] == [85, 85, 85, 85, 85, 84]
    finally:
        sender.stop()
        server.stop()
        spool.close()
    assert server.broken == []
