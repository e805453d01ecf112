"""The chore that fetches stamps: once in a while, for something new, from the pinned authority; never in the way."""

import socket
import time
from collections.abc import Callable, Iterator
from datetime import timedelta
from pathlib import Path

import pytest
from prometheus_client import CollectorRegistry
from structlog.testing import capture_logs

from audit.checkpoint import Checkpoint
from service import wire
from service.sections import Timestamps
from service.stamping import RETRY_S, Stamper, StampMetrics
from service.stamps import Stamps, text_of
from service.timestamping import TimestampRefused, query
from service.tsa_client import TimestampUnreachable, post
from tests.simulators.audit_log import SIGNER
from tests.simulators.tsa import LocalAuthority, TsaServer
from tests.simulators.witnessed_log import ORIGIN, head, leaves


class Site:
    """A chore with set clocks over a log that a test lets grow."""

    def __init__(self, folder: Path, authority: LocalAuthority, server: TsaServer) -> None:
        self.stamps = Stamps(folder / "stamps", SIGNER.verifier, ORIGIN)
        self.server, self.seconds, self.skew = server, 1000.0, timedelta()
        self.newest: Checkpoint | None = head(leaves(5))
        self.section = Timestamps(
            url=server.url, authority=authority.file, chain=authority.chain, every_s=3600.0, policy_oid="1.2.3.4.1"
        )
        self.begin()

    def begin(self) -> None:
        """A new process."""
        self.registry = CollectorRegistry()
        self.stamper = Stamper(
            self.section,
            self.stamps,
            lambda: self.newest,
            StampMetrics(self.registry),
            now=lambda: wire.now() + self.skew,
            clock=lambda: self.seconds,
        )

    def after(self, seconds: float) -> list[str]:
        """Call it so much later; the log lines."""
        self.seconds += seconds
        with capture_logs() as lines:
            self.stamper()
        return [f"{line['event']} {line.get('code', '')}".strip() for line in lines]

    def number(self, name: str, **labels: str) -> float | None:
        """A metric."""
        return self.registry.get_sample_value(name, labels)

    @property
    def sizes(self) -> list[int]:
        """What is stamped."""
        return [held.checkpoint.size for held in self.stamps.all()]


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> LocalAuthority:
    """One for all tests."""
    return LocalAuthority(tmp_path_factory.mktemp("tsa") / "a")


@pytest.fixture
def site(tmp_path: Path, authority: LocalAuthority) -> Iterator[Site]:
    """An authority that answers, a log of five entries."""
    with TsaServer(authority.answer) as server:
        yield Site(tmp_path, authority, server)


def test_at_most_one_in_so_many_seconds_and_only_for_something_new(site: Site) -> None:
    """At once after the start; then each hour if the log has grown, and as soon as it grows after a quiet hour."""
    assert site.after(0) == ["time_stamp_kept"]
    site.newest = head(leaves(6))
    assert [site.after(1200), site.after(1200), site.after(1199)] == [[], [], []]
    assert site.after(2) == ["time_stamp_kept"]
    assert site.after(3601) == []
    site.newest = head(leaves(7))
    assert site.after(RETRY_S) == ["time_stamp_kept"]
    assert (site.sizes, len(site.server.asked)) == ([5, 6, 7], 3)
    assert site.number("zhiying_time_stamps_total", code="OK") == 3
    assert site.number("zhiying_stamped_entries") == 7


def test_a_restart_does_not_begin_the_pause_anew(site: Site) -> None:
    """A service that restarts all day asks no more often; a clock that was set back delays one pause at most."""
    site.after(0)
    site.newest = head(leaves(6))
    for skew, pause in ((timedelta(), 3599), (timedelta(minutes=50), 600), (timedelta(days=-900), 3600)):
        site.skew = skew
        site.begin()
        assert site.number("zhiying_stamped_entries") == 0
        assert site.after(0) == []
        assert site.number("zhiying_stamped_entries") == 5
        assert site.after(pause - 10) == []
        assert site.sizes == [5]
    site.skew = timedelta(hours=2)
    site.begin()
    assert site.after(0)[-1] == "time_stamp_kept"


def test_an_empty_log_asks_nobody(site: Site) -> None:
    """There is nothing to stamp before the first checkpoint."""
    site.newest = None
    assert (site.after(0), site.server.asked) == ([], [])


def test_an_authority_that_is_away_is_a_warning_and_tried_again(site: Site) -> None:
    """Each minute, not each call; when it is back the newest is stamped."""
    site.server.status = 503
    assert site.after(0) == ["time_stamp_put_off TIMESTAMP_UNREACHABLE"]
    assert site.after(2) == []
    site.newest = head(leaves(9))
    site.server.status = 200
    assert site.after(RETRY_S) == ["time_stamp_kept"]
    assert site.sizes == [9]
    assert site.number("zhiying_time_stamps_total", code="TIMESTAMP_UNREACHABLE") == 1


def bad_answers(folder: Path, honest: LocalAuthority) -> dict[str, Callable[[bytes], bytes]]:
    """What an authority, or somebody in between, may send instead."""
    foreign = LocalAuthority(folder / "foreign")
    twin = LocalAuthority(folder / "twin", twin=honest)
    lesser = LocalAuthority(folder / "lesser", policy="1.2.3.4.9")
    replayed = honest.answer(query(b"another checkpoint").der)
    return {
        "nothing": lambda _: b"",
        "a page": lambda _: b"<html>log in first</html>",
        "another authority": foreign.answer,
        "the same names": lambda der: twin.answer(der, honest.file),
        "another policy": lesser.answer,
        "a replay": lambda _: replayed,
        "an older stamp of the same": lambda _: honest.answer(query(text_of(head(leaves(5)))).der),
        "too long": lambda _: b"0" * 70_000,
        "cut": lambda der: honest.answer(der)[:-3],
        "a refusal": lambda _: bytes.fromhex("300530030201023000"),
    }


def test_a_bad_answer_keeps_nothing(site: Site, tmp_path: Path, authority: LocalAuthority) -> None:
    """It is told with a code, counted, and tried again a minute later; the folder stays empty."""
    cases = bad_answers(tmp_path, authority)
    for answers in cases.values():
        site.server.answers = answers
        assert site.after(RETRY_S) == ["time_stamp_refused TIMESTAMP_REFUSED"]
        assert site.sizes == []
    assert site.number("zhiying_time_stamps_total", code="TIMESTAMP_REFUSED") == len(cases)
    site.server.answers = authority.answer
    assert site.after(RETRY_S) == ["time_stamp_kept"]


def test_another_policy_is_refused_for_its_policy_alone(tmp_path: Path, authority: LocalAuthority) -> None:
    """The same authority is good where no policy is named."""
    lesser = LocalAuthority(tmp_path / "lesser", root=authority, policy="1.2.3.4.9")
    with TsaServer(lesser.answer) as server:
        site = Site(tmp_path, lesser, server)
        assert site.after(0) == ["time_stamp_refused TIMESTAMP_REFUSED"]
        site.section = site.section.model_copy(update={"policy_oid": None})
        site.begin()
        assert site.after(0) == ["time_stamp_kept"]


def test_a_clock_that_is_wrong_is_told(site: Site) -> None:
    """The stamp is kept, as it is true; the operator hears that our own time is not."""
    site.skew = timedelta(minutes=-3)
    assert site.after(0) == ["clock_differs CLOCK_DIFFERS", "time_stamp_kept"]


def test_a_disk_that_refuses_is_an_error_that_the_caretaker_knows(site: Site, tmp_path: Path) -> None:
    """Tried again a minute later; nothing else stops."""
    (tmp_path / "stamps").write_bytes(b"in the way")
    with pytest.raises(OSError):  # noqa: PT011 - which one is the system's choice
        site.after(0)
    (tmp_path / "stamps").unlink()
    assert site.after(2) == []
    assert site.after(RETRY_S) == ["time_stamp_kept"]


def test_certificates_that_pin_nothing_stop_the_start(site: Site, tmp_path: Path) -> None:
    """The configuration is wrong now, not in an hour."""
    (tmp_path / "bad.pem").write_bytes(b"x")
    for update in ({"authority": tmp_path / "bad.pem"}, {"chain": None}):
        site.section = site.section.model_copy(update=update)
        with pytest.raises(TimestampRefused):
            site.begin()


# ---- the wire --------------------------------------------------------------------------------------------------------


def test_the_query_is_posted_as_the_standard_says(authority: LocalAuthority) -> None:
    """The server answers nothing but application/timestamp-query (RFC 3161, 3.4)."""
    asked = query(b"x")
    with TsaServer(authority.answer) as server:
        assert post(server.url, asked.der)
        assert server.asked == [asked.der]


@pytest.mark.parametrize("status", [204, 301, 302, 307, 308, 400, 404, 500])
def test_nothing_but_a_plain_yes_is_an_answer(status: int) -> None:
    """No redirect is followed: nothing leaves but to the address that was named."""
    with TsaServer(lambda _: b"") as elsewhere, TsaServer(lambda _: b"") as server:
        server.status, server.headers = status, {"Location": elsewhere.url}
        with pytest.raises(TimestampUnreachable):
            post(server.url, b"x")
        assert (len(server.asked), elsewhere.asked) == (1, [])


def test_what_is_no_address_or_no_server_is_unreachable() -> None:
    """Nobody listens; somebody hangs up; the address is none."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
    for url in (f"http://127.0.0.1:{port}/", "http://[/", "https://127.0.0.1:1/"):
        began = time.monotonic()
        with pytest.raises(TimestampUnreachable):
            post(url, b"x")
        assert time.monotonic() - began < 5


def test_an_answer_is_not_read_for_ever() -> None:
    """It is refused at the first byte too many."""
    with TsaServer(lambda _: b"0" * 3_000_000) as server, pytest.raises(TimestampRefused):
        post(server.url, b"x")
