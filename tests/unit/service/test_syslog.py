"""Syslog over TLS: frames to the octet, and messages that reach the repository whatever happens on the way."""

from __future__ import annotations

import os
import random
import re
import signal
import socket
import sqlite3
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from itertools import pairwise
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from structlog.testing import capture_logs

from dicom_bridge.tls import TlsFiles
from service.demo.servers import free_port
from service.syslog import (
    MESSAGE_BYTES_MAX,
    WARNING,
    Header,
    Patience,
    Repository,
    SyslogInvalid,
    SyslogSender,
    frame,
)
from service.syslog_spool import Spool, SpoolUnavailable
from tests.simulators.certificates import Authority, pin
from tests.simulators.syslog_server import LOOPBACK, FrameBroken, parsed, split
from tests.simulators.syslog_server import Repository as Server
from tests.simulators.waiting import until

AT = "2026-11-23T16:07:12.123456Z"
HEADER = Header("ai.hospital.example", process="4711")
QUICK = Patience(first_s=0.05, most_s=0.2, settle_s=0.2)
WAIT_S = 30.0
TEXT = st.text(st.characters(exclude_categories=["Cs"]))


class House:
    """The certificates of a hospital."""

    def __init__(self, folder: Path) -> None:
        site = Authority(folder / "site")
        self.ours, self.repository = site.issue("zhiying"), site.issue("repository")
        self.elsewhere = site.issue("elsewhere", hosts=("other.example",))
        self.expired = site.issue("expired", until=-0.01)
        stranger = Authority(folder / "stranger", "TEST Elsewhere CA")
        foreign = stranger.issue("stranger")
        self.stranger = TlsFiles(foreign.certificate, foreign.key, site.file)


@pytest.fixture(scope="module")
def house(tmp_path_factory: pytest.TempPathFactory) -> House:
    """Made once."""
    return House(tmp_path_factory.mktemp("tls"))


@contextmanager
def sending(
    spool: Spool, files: TlsFiles, port: int, *, patience: Patience = QUICK, pinned: str | None = None
) -> Iterator[SyslogSender]:
    """Runs until the end of the block."""
    sender = SyslogSender(spool, Repository(LOOPBACK, files, port, pinned), patience)
    sender.start()
    try:
        yield sender
    finally:
        sender.stop()
        assert not sender.running


@contextmanager
def listening(files: TlsFiles, port: int = 0, *, dies_after: int | None = None, deaf: bool = False) -> Iterator[Server]:
    """Runs until the end of the block; what came was clean."""
    server = Server(files, port, dies_after=dies_after, deaf=deaf)
    try:
        yield server
    finally:
        server.stop()
        assert server.broken == []


def framed(text: str) -> bytes:
    """One message of these tests."""
    return frame(HEADER, text, at=AT)


def unrepeated(texts: list[str]) -> list[str]:
    """Each at its first coming."""
    return list(dict.fromkeys(texts))


# ---- frames ----------------------------------------------------------------------------------------------------------


def test_a_frame_to_the_octet() -> None:
    """A frame is what RFC 5425 and 5424 say, with the facility, the BOM and the MSGID of the audit profiles."""
    made = frame(Header("ai.hospital.example", "zhiying", "4711"), "<AuditMessage/>影", at=AT)
    line = (
        b"<85>1 2026-11-23T16:07:12.123456Z ai.hospital.example zhiying 4711 IHE+RFC-3881 - "
        b"\xef\xbb\xbf<AuditMessage/>\xe5\xbd\xb1"
    )
    assert made == str(len(line)).encode() + b" " + line
    assert frame(HEADER, "x", at=AT, priority=WARNING).split(b" ")[1] == b"<84>1"


@given(texts=st.lists(TEXT, max_size=8))
def test_any_text_comes_back(texts: list[str]) -> None:
    """Whatever the messages hold, line ends, digits, frames, nulls, the stream splits into them again."""
    frames, rest = split(b"".join(map(framed, texts)))
    assert rest == b""
    assert [parsed(one).text for one in frames] == texts


@given(text=TEXT, cut=st.integers(min_value=0))
def test_a_cut_frame_is_no_message(text: str, cut: int) -> None:
    """No beginning of a frame is taken for a frame."""
    made = framed(text)
    frames, _ = split(made[: cut % len(made)])
    assert frames == []


def test_the_longest_message() -> None:
    """32,768 octets are a message, one more is refused: a receiver might cut it."""
    room = MESSAGE_BYTES_MAX - (len(framed("")) - 3)  # the empty frame's length has two digits and a space
    frames, _ = split(framed("x" * room))
    assert [len(one) for one in frames] == [32_768]
    with pytest.raises(SyslogInvalid):
        framed("x" * (room + 1))


@pytest.mark.parametrize(
    "field",
    [
        *(
            {name: bad}
            for name in ("host", "app", "process", "msgid")
            for bad in ("", "a b", "a\n", "影", "\x7f", "x" * 256)
        ),
        {"app": "x" * 49},
        {"process": "x" * 129},
        {"msgid": "x" * 33},
    ],
    ids=repr,
)
def test_header_refuses(field: dict[str, str]) -> None:
    """A header field that RFC 5424 does not allow is refused when the sender is made, with a code."""
    with pytest.raises(SyslogInvalid) as caught:
        Header(**{"host": "h", **field})
    assert caught.value.code == "SYSLOG_MESSAGE_INVALID"


@pytest.mark.parametrize(
    "at", ["", "2026-11-23", "2026-11-23T16:07:12", "2026-11-23T16:07:12.1234567Z", f"{AT}\n", f"{AT} x"]
)
def test_time_refuses(at: str) -> None:
    """A time without an offset, or finer than RFC 5424 allows, is refused."""
    with pytest.raises(SyslogInvalid):
        frame(HEADER, "x", at=at)


def test_message_refuses() -> None:
    """Half a surrogate pair is no text; a priority has a range."""
    with pytest.raises(SyslogInvalid):
        framed("\ud800")
    for priority in (-1, 192):
        with pytest.raises(SyslogInvalid):
            frame(HEADER, "x", at=AT, priority=priority)


@pytest.mark.parametrize("bad", [b"x", b"0 ", b"01 a", b" 1 a", b"1x", b"100000 ", b"-1 ", b"5\n"])
def test_the_parser_judges(bad: bytes) -> None:
    """The tests' own server refuses what is no frame."""
    with pytest.raises(FrameBroken):
        split(bad)
    with pytest.raises(FrameBroken):
        parsed(b"<85>1 " + bad)


# ---- the spool -------------------------------------------------------------------------------------------------------


def test_spool_keeps_order_and_place(tmp_path: Path) -> None:
    """Frames come out as they went in, also after the file was opened again, and the mark is where it was put."""
    spool = Spool(tmp_path / "deep" / "spool.sqlite")
    assert spool.mark("m") is None
    assert spool.add([b"one", b"two"], ("m", "2"))
    assert spool.add([b"three"])
    spool.close()
    spool = Spool(tmp_path / "deep" / "spool.sqlite")
    assert [content for _, content in spool.after(0, 10)] == [b"one", b"two", b"three"]
    assert (spool.waiting, spool.waiting_bytes, spool.mark("m")) == (3, 11, "2")
    second = spool.after(0, 10)[1][0]
    spool.drop(second)
    assert [content for _, content in spool.after(0, 10)] == [b"three"]
    assert (spool.waiting, spool.waiting_bytes) == (1, 5)
    spool.drop(10**9)
    assert spool.add([b"four"])
    assert spool.after(second, 1)[0][1] == b"four"  # numbers only grow, also over an empty table
    spool.close()


def test_spool_is_bounded(tmp_path: Path) -> None:
    """What does not fit is refused whole, mark and all; a mark alone always fits."""
    spool = Spool(tmp_path / "spool.sqlite", bytes_max=10)
    assert spool.add([b"12345"], ("m", "1"))
    assert not spool.add([b"123", b"456"], ("m", "2"))
    assert spool.mark("m") == "1"
    assert spool.add([b"67890"], ("m", "3"))
    assert spool.add([], ("m", "4"))
    assert (spool.waiting, spool.mark("m")) == (2, "4")
    spool.close()


def test_spool_unusable(tmp_path: Path) -> None:
    """A file that is no database is refused with a code, at opening and later, and no path is told."""
    (tmp_path / "spool.sqlite").write_bytes(b"no database " * 100)
    with pytest.raises(SpoolUnavailable) as caught:
        Spool(tmp_path / "spool.sqlite")
    assert caught.value.code == "SYSLOG_SPOOL_UNAVAILABLE"
    assert str(tmp_path) not in str(caught.value)
    spool = Spool(tmp_path / "good.sqlite")
    spool.close()
    for use in (lambda: spool.add([b"x"]), lambda: spool.mark("m"), lambda: spool.after(0, 1), lambda: spool.drop(1)):
        with pytest.raises(SpoolUnavailable):
            use()


# ---- sending ---------------------------------------------------------------------------------------------------------


def test_messages_arrive(tmp_path: Path, house: House) -> None:
    """Messages of every size, up to the longest, arrive whole, once and in order over one connection."""
    texts = [f"{n} " + "影<&>\n" * (n * 13 % 200) for n in range(60)] + ["x" * 32_000, "last"]
    spool = Spool(tmp_path / "spool.sqlite")
    with listening(house.repository) as server, sending(spool, house.ours, server.port) as sender:
        for text in texts:
            assert sender.offer([framed(text)])
        server.wait(lambda: len(server.messages) >= len(texts))
        until(lambda: sender.state.waiting == 0)
        assert sender.state.settled == len(texts)
        assert sender.state.connected
        assert (sender.state.refused, sender.state.code) == (0, None)
    assert server.texts == texts
    assert server.connections == 1
    assert {(one.priority, one.host, one.app, one.process, one.msgid) for one in server.messages} == {
        (85, "ai.hospital.example", "zhiying", "4711", "IHE+RFC-3881")
    }
    spool.close()


def test_goodbye_settles(tmp_path: Path, house: House) -> None:
    """At a stop the repository's answer to our close_notify settles what it has read: nothing is sent twice."""
    spool = Spool(tmp_path / "spool.sqlite")
    slow = Patience(first_s=0.05, most_s=0.2, settle_s=1000)
    with listening(house.repository) as server:
        with sending(spool, house.ours, server.port, patience=slow) as sender:
            sender.offer([framed("one"), framed("two")])
            server.wait(lambda: len(server.messages) == 2)
            assert sender.state.waiting == 2
        assert spool.waiting == 0
    spool.close()


def test_server_down_at_start(tmp_path: Path, house: House) -> None:
    """Where nobody listens, callers go on, pauses grow, and everything arrives when somebody does."""
    spool, port = Spool(tmp_path / "spool.sqlite"), free_port()
    with capture_logs() as logs, sending(spool, house.ours, port) as sender:
        began = time.monotonic()
        for number in range(20):
            assert sender.offer([framed(str(number))])
        assert time.monotonic() - began < 5
        until(lambda: sum(one["event"] == "syslog_failed" for one in logs) >= 4)
        assert sender.state.code == "SYSLOG_UNREACHABLE"
        assert not sender.state.connected
        with listening(house.repository, port) as server:
            server.wait(lambda: len(server.messages) >= 20)
            until(lambda: sender.state.waiting == 0)
    assert server.texts == [str(number) for number in range(20)]
    pauses = [one["pause_s"] for one in logs if one["event"] == "syslog_failed"]
    assert pauses[:4] == [0.05, 0.1, 0.2, 0.2]
    spool.close()


@pytest.mark.parametrize("dies_after", [1, 700, 5_001, 20_000])
def test_server_dies_in_a_frame(tmp_path: Path, house: House, dies_after: int) -> None:
    """A repository that dies, with messages read, half read and unread in its machine, gets all of those again."""
    texts = [f"{number} " + "x" * 900 for number in range(40)]
    spool = Spool(tmp_path / "spool.sqlite")
    first = Server(house.repository, dies_after=dies_after)
    with sending(spool, house.ours, first.port) as sender:
        for text in texts:
            assert sender.offer([framed(text)])
        assert first.dead.wait(WAIT_S)
        first.stop()
        with listening(house.repository, first.port) as second:
            second.wait(lambda: texts[-1] in second.texts)
            until(lambda: sender.state.waiting == 0)
    assert first.broken == []
    # In order and whole; of the two, the second has everything that the first did not take to the end.
    assert second.texts == texts[-len(second.texts) :]
    assert unrepeated(first.texts + second.texts) == texts
    spool.close()


def test_server_that_comes_and_goes(tmp_path: Path, house: House) -> None:
    """Over many deaths every message arrives whole, in order, none is lost, and none more often than deaths allow."""
    spool, port = Spool(tmp_path / "spool.sqlite"), free_port()
    texts = [f"{number} " + "y" * (number * 53 % 1500) for number in range(120)]
    came: list[str] = []
    chance = random.Random(5)
    with sending(spool, house.ours, port) as sender:
        for start in range(0, 120, 20):
            for text in texts[start : start + 20]:
                assert sender.offer([framed(text)])
            server = Server(house.repository, port, dies_after=chance.randrange(1, 15_000))
            server.dead.wait(0.8)
            server.stop()
            assert server.broken == []
            came += server.texts
        with listening(house.repository, port) as server:
            until(lambda: sender.state.waiting == 0)
        came += server.texts
    assert unrepeated(came) == texts
    assert max(map(came.count, texts)) <= 7
    spool.close()


def test_idle_server_dies(tmp_path: Path, house: House) -> None:
    """A connection that broke while nothing was to be said loses nothing of what is said then."""
    spool = Spool(tmp_path / "spool.sqlite")
    first = Server(house.repository)
    with sending(spool, house.ours, first.port) as sender:
        sender.offer([framed("before")])
        until(lambda: sender.state.settled == 1)
        first.stop()
        with listening(house.repository, first.port) as second:
            sender.offer([framed("after")])
            second.wait(lambda: second.texts == ["after"])
            until(lambda: sender.state.waiting == 0)
    spool.close()


def test_deaf_server_holds_nobody_up(tmp_path: Path, house: House) -> None:
    """A repository that reads nothing lets callers go on and the sender stop; nothing is taken for sent."""
    spool = Spool(tmp_path / "spool.sqlite", bytes_max=64 * 1024**2)
    with listening(house.repository, deaf=True) as server:
        with sending(spool, house.ours, server.port) as sender:
            until(lambda: sender.offer([framed("z" * 32_000)] * 300) and server.connections == 1)
            began = time.monotonic()
            assert sender.offer([framed("one more")])
            assert time.monotonic() - began < 2
            time.sleep(3 * QUICK.settle_s)
            waiting = sender.state.waiting
        assert waiting > 0
        assert time.monotonic() - began < 15
    spool.close()


def test_what_nobody_acknowledged_stays(tmp_path: Path, house: House) -> None:
    """What our own machine took to send, and the repository's has not acknowledged, is not taken for sent."""
    spool = Spool(tmp_path / "spool.sqlite")
    server = Server(house.repository, deaf=True, buffer=4096)
    with sending(spool, house.ours, server.port) as sender:
        assert sender.offer([framed("z" * 30_000)] * 8)  # far more than its buffer, far less than ours
        until(lambda: server.connections == 1)
        time.sleep(5 * QUICK.settle_s)
        assert (sender.state.waiting, sender.state.settled, sender.state.code) == (8, 0, None)
        server.stop()
        with listening(house.repository, server.port) as second:
            second.wait(lambda: len(second.messages) == 8)
            until(lambda: sender.state.waiting == 0)
    spool.close()


def test_full_spool(tmp_path: Path, house: House) -> None:
    """A full spool refuses, counted and logged, without an error for the caller; what was kept arrives."""
    one = framed("x" * 1000)
    spool, port = Spool(tmp_path / "spool.sqlite", bytes_max=5 * len(one)), free_port()
    with capture_logs() as logs, sending(spool, house.ours, port) as sender:
        assert [sender.offer([one]) for _ in range(10)] == [True] * 5 + [False] * 5
        assert sender.state.refused == 5
        assert sender.state.waiting_bytes == 5 * len(one)
        with listening(house.repository, port) as server:
            until(lambda: sender.state.waiting == 0)
            assert sender.offer([framed("again")])
            server.wait(lambda: "again" in server.texts)
    refusals = [entry for entry in logs if entry["event"] == "syslog_refused"]
    assert [entry["refused"] for entry in refusals] == [1, 2, 4]
    assert {entry["code"] for entry in refusals} == {"SYSLOG_SPOOL_FULL"}
    assert len(server.texts) == 6
    spool.close()


def test_disk_that_refuses(tmp_path: Path, house: House) -> None:
    """Where the spool's disk refuses, the caller hears False, never an error."""
    spool = Spool(tmp_path / "spool.sqlite")
    sender = SyslogSender(spool, Repository(LOOPBACK, house.ours, 1))
    spool.close()
    with capture_logs() as logs:
        assert sender.offer([framed("x")]) is False
    assert logs[0]["code"] == "SYSLOG_SPOOL_UNAVAILABLE"


def test_locked_spool_is_tried_again(tmp_path: Path, house: House) -> None:
    """A spool that another program locks for a while costs no message and does not end the thread."""
    spool = Spool(tmp_path / "spool.sqlite")
    with listening(house.repository) as server, sending(spool, house.ours, server.port) as sender:
        assert sender.offer([framed("one")])
        server.wait(lambda: server.texts != [])
        with sqlite3.connect(tmp_path / "spool.sqlite", isolation_level=None) as other:
            other.execute("BEGIN IMMEDIATE")
            time.sleep(6)  # longer than the sender waits for a lock
            other.execute("COMMIT")
        other.close()
        until(lambda: sender.state.waiting == 0)
        assert sender.running
        assert sender.offer([framed("two")])
        server.wait(lambda: "two" in server.texts)
    spool.close()


@pytest.mark.parametrize(
    ("shown", "code"),
    [
        ("stranger", "SYSLOG_CERTIFICATE_REFUSED"),
        ("expired", "SYSLOG_CERTIFICATE_REFUSED"),
        ("elsewhere", "SYSLOG_CERTIFICATE_REFUSED"),
    ],
)
def test_wrong_repository(tmp_path: Path, house: House, shown: str, code: str) -> None:
    """A repository with a stranger's, an ended, or another host's certificate gets not one octet of a message."""
    spool = Spool(tmp_path / "spool.sqlite")
    with listening(getattr(house, shown)) as server, sending(spool, house.ours, server.port) as sender:
        sender.offer([framed("secret")])
        until(lambda: sender.state.code == code)
        until(lambda: len(server.refused) >= 2)
        assert sender.state.waiting == 1
    assert (server.messages, server.octets) == ([], 0)
    spool.close()


def test_pinned_repository(tmp_path: Path, house: House) -> None:
    """With a fingerprint only that certificate will do, and its name does not matter."""
    spool = Spool(tmp_path / "spool.sqlite")
    pinned = pin(house.elsewhere.certificate)
    with listening(house.repository) as server, sending(spool, house.ours, server.port, pinned=pinned) as sender:
        sender.offer([framed("one")])
        until(lambda: sender.state.code == "SYSLOG_CERTIFICATE_REFUSED")
    assert server.octets == 0
    with listening(house.elsewhere) as server, sending(spool, house.ours, server.port, pinned=pinned):
        server.wait(lambda: server.texts == ["one"])
    spool.close()


@pytest.mark.parametrize("ours", ["stranger", "expired"])
def test_repository_refuses_us(tmp_path: Path, house: House, ours: str) -> None:
    """Where the repository refuses our certificate, which TLS 1.3 tells only after our first write, nothing is lost."""
    spool = Spool(tmp_path / "spool.sqlite")
    with capture_logs() as logs, listening(house.repository) as server:
        with sending(spool, getattr(house, ours), server.port) as sender:
            sender.offer([framed("one")])
            until(lambda: len(server.refused) >= 2)
            assert sender.state.settled == 0
        assert spool.waiting == 1
        with sending(spool, house.ours, server.port):
            server.wait(lambda: server.texts == ["one"])
    assert {one["code"] for one in logs if one["event"] == "syslog_failed"} <= {
        "SYSLOG_TLS_FAILED",
        "SYSLOG_UNREACHABLE",
    }
    spool.close()


def test_certificate_comes_later(tmp_path: Path, house: House) -> None:
    """TLS files are read at each connection: one that is put right needs no restart; the code says what is wrong."""
    spool, later = Spool(tmp_path / "spool.sqlite"), tmp_path / "later.pem"
    files = TlsFiles(later, house.ours.key, house.ours.authority)
    with listening(house.repository) as server, sending(spool, files, server.port) as sender:
        sender.offer([framed("one")])
        until(lambda: sender.state.code == "TLS_FILE_UNREADABLE")
        later.write_bytes(house.ours.certificate.read_bytes())
        server.wait(lambda: server.texts == ["one"])
    spool.close()


def test_server_that_is_no_tls(tmp_path: Path, house: House) -> None:
    """A port that hangs up, or speaks something else, is a failure like any other."""
    spool = Spool(tmp_path / "spool.sqlite")
    with ExitStack() as stack:
        listener = stack.enter_context(socket.create_server((LOOPBACK, 0)))
        sender = stack.enter_context(sending(spool, house.ours, listener.getsockname()[1]))
        sender.offer([framed("one")])
        for _ in range(2):
            raw, _ = listener.accept()
            raw.sendall(b"220 mail.example ESMTP\r\n")
            raw.close()
        until(lambda: sender.state.code is not None)
        assert sender.state.waiting == 1
    spool.close()


def test_killed_sender(tmp_path: Path, house: House) -> None:
    """Whatever was kept when the process was killed, again and again, arrives whole and in order after a new start."""
    kept: list[int] = []
    chance = random.Random(11)
    files = [str(one) for one in (house.ours.certificate, house.ours.key, house.ours.authority)]
    with listening(house.repository) as server:
        command = [
            sys.executable,
            "-m",
            "tests.simulators.syslog_process",
            str(tmp_path / "s.sqlite"),
            str(server.port),
        ]
        for _ in range(4):
            first = kept[-1] + 1 if kept else 0
            given_args = [*command, *files, str(first), str(first + 4000)]
            with subprocess.Popen(given_args, stdout=subprocess.PIPE, text=True) as process:
                assert process.stdout is not None
                for _ in range(chance.randrange(5, 60)):
                    process.stdout.readline()
                os.kill(process.pid, signal.SIGKILL)
                process.stdout.read()
                process.wait()
            # The one that was killed between keeping and saying so is kept as well: look where it stands.
            with sqlite3.connect(tmp_path / "s.sqlite") as look:
                rows = look.execute("SELECT content FROM frame").fetchall()
            look.close()
            waiting = [int(re.search(rb"\xbf([0-9]+) ", row[0]).group(1)) for row in rows]  # type: ignore[union-attr]
            seen = [int(text.split()[0]) for text in server.texts]
            kept = list(range(max([*waiting, *seen], default=-1) + 1))
        assert len(kept) > 20
        spool = Spool(tmp_path / "s.sqlite")
        with sending(spool, house.ours, server.port):
            until(lambda: spool.waiting == 0)
        spool.close()
        server.wait(lambda: len(set(server.texts)) >= len(kept))
    numbers = [int(text.split()[0]) for text in server.texts]
    assert list(dict.fromkeys(numbers)) == kept
    assert max(numbers.count(number) for number in kept) <= 5
    assert all(text == f"{n} " + "x" * (n * 37 % 2000) for n, text in zip(numbers, server.texts, strict=True))
    within = [(one, other) for one, other in pairwise(server.messages) if one.connection == other.connection]
    assert all(int(one.text.split()[0]) + 1 == int(other.text.split()[0]) for one, other in within)
