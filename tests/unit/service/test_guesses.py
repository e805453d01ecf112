"""Wrong tokens by address: so many a minute, in so much memory, and nobody pays for another."""

from pathlib import Path

import pytest

from audit.entry import Kind
from service.guesses import WINDOW_S, WRONG_MAX, Guesses
from tests.simulators.browser import TestClient
from tests.simulators.readers import TOKENS, Door
from tests.simulators.watched import Ward

HOST = "http://testserver"


class Seconds:
    """A clock that a test moves."""

    def __init__(self) -> None:
        self.at = 1000.0

    def __call__(self) -> float:
        """Now."""
        return self.at


@pytest.fixture
def clock() -> Seconds:
    """The clock of the test."""
    return Seconds()


@pytest.fixture
def counted(clock: Seconds) -> Guesses:
    """Nobody was wrong yet."""
    return Guesses(clock)


def test_so_many_in_a_minute(clock: Seconds, counted: Guesses) -> None:
    """The last one that is allowed is; then that address waits until its first is a minute old, and no other does."""
    for number in range(WRONG_MAX):
        assert counted.wait_s("10.0.0.1") == 0
        counted.wrong("10.0.0.1")
        clock.at += 1 if number == 0 else 0
    assert counted.wait_s("10.0.0.1") == WINDOW_S - 1
    assert counted.wait_s("10.0.0.2") == 0
    clock.at += WINDOW_S - 1.5
    assert counted.wait_s("10.0.0.1") == 1
    clock.at += 0.5
    assert counted.wait_s("10.0.0.1") == 0
    counted.wrong("10.0.0.1")
    assert counted.wait_s("10.0.0.1") == 1


def test_a_slow_typist_never_waits(clock: Seconds, counted: Guesses) -> None:
    """Old ones do not count."""
    for _ in range(WRONG_MAX * 5):
        assert counted.wait_s("10.0.0.1") == 0
        counted.wrong("10.0.0.1")
        clock.at += WINDOW_S / WRONG_MAX


def test_memory_is_bounded(clock: Seconds) -> None:
    """Of more addresses than are remembered, the one that was wrong longest ago is forgotten."""
    counted = Guesses(clock, addresses_max=3)
    for address in ("a", *"bcd" * WRONG_MAX):
        counted.wrong(address)
    assert set(counted._wrong) == {"b", "c", "d"}
    assert [counted.wait_s(address) > 0 for address in "abcd"] == [False, True, True, True]
    assert all(len(times) == WRONG_MAX for times in counted._wrong.values())


def test_the_form_waits(ward: Ward, tmp_path: Path, clock: Seconds) -> None:
    """429 with Retry-After, also for a right token from there; elsewhere, and by cookie, readers decide as before."""
    door = Door(ward, tmp_path, guesses=Guesses(clock))
    here, there = (TestClient(door.app, client=(address, 50000)) for address in ("10.0.0.1", "10.0.0.2"))
    call = ward.call()

    def send(client: TestClient, token: str, name: str = "") -> int:
        data = {"decision": "ACCEPT", "token": token, "as": name}
        answer = client.post(f"/decide/{call}?lang=en", data=data, headers={"Origin": HOST})
        if answer.status_code == 429:
            assert int(answer.headers["retry-after"]) == WINDOW_S
            assert "TOO_MANY_TOKENS" in answer.text
            assert "<form" not in answer.text
        return int(answer.status_code)

    assert send(here, TOKENS["test-li"]) == 201
    assert [send(here, "") for _ in range(WRONG_MAX)] == [401] * WRONG_MAX
    assert [send(here, "x" * 40) for _ in range(WRONG_MAX)] == [401] * WRONG_MAX
    assert send(here, TOKENS["test-wang"]) == send(here, "x" * 40) == 429
    assert send(here, "", "test-li") == 200
    assert send(there, TOKENS["test-wang"]) == 201
    assert len([one for one in ward.log.entries() if one.kind is Kind.HUMAN_DECISION]) == 2
    clock.at += WINDOW_S
    assert send(here, TOKENS["test-wang"]) == 200
