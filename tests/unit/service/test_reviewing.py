"""The register's replay is kept for a quick start, and what is kept is never more than a help."""

from pathlib import Path

import pytest

from audit.entry import Draft, Kind
from ethics_review.register import Register
from ethics_review.states import Cause, State
from service import reviewing, wire
from service.config import Config
from service.reviewing import Reviewing
from tests.simulators.parties import Case, Parties
from tests.simulators.reviewer import MODEL, fields

PARTIES = Parties()
VALID = {"from": "2020-01-01", "to": "2099-12-31"}


@pytest.fixture
def config(tmp_path: Path) -> Config:
    """A site with a model that is LIVE."""
    policy = tmp_path / "trust.policy"
    policy.write_text(PARTIES.policy(), encoding="utf-8")
    made = Config.model_validate({"data": {"folder": tmp_path / "data"}, "review": {"trust": policy}})
    with wire.offline_of(made) as site:
        Case(PARTIES, site.register, site.log, MODEL).live(fields(valid=VALID))
    return made


def taken_in(register: Register) -> int:
    """How many entries a register knows before it has looked at the log."""
    return register._replay.next


def test_a_start_begins_where_the_last_one_ended(config: Config) -> None:
    """What was kept at the stop is what the next process begins with, and it stands where the log says."""
    with wire.offline_of(config) as site:
        assert taken_in(site.register) == 0
        Reviewing(config, site.register).keep()
        size = site.log.head().size
        standings = site.register.standings()
    with wire.offline_of(config) as site:
        assert taken_in(site.register) == size
        assert site.register.standings() == standings
        assert standings[0].state is State.LIVE


@pytest.mark.parametrize(
    "content", [b"", b"rubbish", b"\xff\xfe\x00", b"zhiying-register/1\n{}\n\n\xe2\x80\x94 a AAAAAAAA\n"]
)
def test_a_spoiled_file_is_no_harm(config: Config, content: bytes) -> None:
    """Then the whole log is read."""
    wire.remembered_path(config).write_bytes(content)
    with wire.offline_of(config) as site:
        assert taken_in(site.register) == 0
        assert site.register.standings()[0].state is State.LIVE


def test_it_is_kept_now_and_then(config: Config) -> None:
    """Not at each look, but when the log has grown by so many entries."""
    with wire.offline_of(config) as site:
        chore = Reviewing(config, site.register, every=5)
        chore()
        first = wire.remembered_path(config).read_bytes()
        for number in range(5):
            assert wire.remembered_path(config).read_bytes() == first
            site.log.append(Draft(Kind.HEARTBEAT, f"beat:{number}", {"interval_s": 60}))
            chore()
        assert wire.remembered_path(config).read_bytes() != first
    assert reviewing.REMEMBER_ENTRIES == 10_000


def test_criteria_that_do_not_count_are_written_down(config: Config) -> None:
    """The policy is not in the log, so that the suspension which follows from it has to be."""
    path = config.review.trust
    assert path is not None
    path.write_text(PARTIES.policy(more="criteria OTHER/1"), encoding="utf-8")
    with wire.offline_of(config) as site:
        chore = Reviewing(config, site.register)
        chore()
        chore()
        assert [entry.body["reason"] for entry in site.log.entries() if entry.body.get("event") == "SUSPEND"] == [
            "CRITERIA"
        ]
    path.write_text(PARTIES.policy(), encoding="utf-8")
    with wire.offline_of(config) as site:
        assert site.register.standings()[0].cause is Cause.CRITERIA
