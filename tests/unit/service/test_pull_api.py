"""The API of pulls: an order is taken or refused with a code, and what became of it can be read."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from typing import Any

import pytest
from fastapi import FastAPI

from dicom_bridge.peers import Peer
from dicom_bridge.retrieve import Retrieved
from service.pull_api import STATUS, build_router
from service.puller import WAITING_MAX, Puller
from tests.simulators.browser import TestClient


@contextmanager
def no_source(_peer: Peer, _stop: threading.Event) -> Iterator[Any]:
    """No standing query is set, so nobody asks."""
    raise AssertionError("nobody asks")
    yield


class Desk:
    """The API over a puller that does not run: orders wait."""

    def __init__(self) -> None:
        self.puller = Puller(
            peers={"pacs": Peer("pacs", "PACS", "127.0.0.1", 104)},
            fetch=lambda *_args, **_named: Retrieved(2, 2, attempts=1),
            source=no_source,
            known=lambda _uid: {},
            now=lambda: datetime(2026, 4, 1, tzinfo=UTC),
        )
        app = FastAPI()
        app.include_router(build_router(self.puller))
        self.client = TestClient(app)

    def order(self, **body: object) -> Any:
        """POST /pulls."""
        return self.client.post("/pulls", json=body)


@pytest.fixture
def desk() -> Desk:
    """A new one."""
    return Desk()


def test_an_order_is_taken(desk: Desk) -> None:
    """202 and a name under which it is found."""
    taken = desk.order(study="1.2.3", **{"from": "pacs"})
    assert taken.status_code == 202
    job = taken.json()
    assert (job["study"], job["from"], job["state"]) == ("1.2.3", "pacs", "WAITING")
    assert desk.client.get(f"/pulls/{job['id']}").json() == job
    assert desk.client.get("/pulls").json() == [job]


def test_its_end_is_shown(desk: Desk) -> None:
    """DONE with counts."""
    job = desk.order(study="1.2.3", **{"from": "pacs"}).json()
    desk.puller.start()
    ended = threading.Event()
    for _ in range(3000):
        if desk.client.get(f"/pulls/{job['id']}").json()["state"] == "DONE":
            ended.set()
            break
        ended.wait(0.01)
    desk.puller.stop()
    assert ended.is_set()
    assert desk.client.get("/pulls").json()[0]["stored"] == 2


@pytest.mark.parametrize(
    ("body", "status", "code"),
    [
        ({"study": "1.2.3", "from": "nobody"}, 404, "PEER_UNKNOWN"),
        ({"study": "1.2.*", "from": "pacs"}, 422, "STUDY_UID_INVALID"),
        ({"study": "../..", "from": "pacs"}, 422, "STUDY_UID_INVALID"),
    ],
)
def test_an_order_that_is_none_is_refused(desk: Desk, body: dict[str, str], status: int, code: str) -> None:
    """One shape for every error, with a code; what was sent is not repeated."""
    refused = desk.order(**body)
    assert refused.status_code == status
    error = refused.json()["error"]
    assert error["code"] == code
    assert body["study"] not in error["message"]
    assert desk.client.get("/pulls").json() == []


@pytest.mark.parametrize(
    "body", [{}, {"study": "1.2.3"}, {"study": 7, "from": "pacs"}, {"study": "1" * 300, "from": "pacs"}]
)
def test_a_body_that_is_none_is_refused(desk: Desk, body: dict[str, object]) -> None:
    """422, as everywhere."""
    assert desk.order(**body).status_code == 422
    more = {"study": "1.2.3", "from": "pacs", "priority": "now"}
    assert desk.order(**more).status_code == 422


def test_too_many_orders_are_refused_for_now(desk: Desk) -> None:
    """503: the same order may be taken later."""
    for number in range(WAITING_MAX):
        desk.puller.order(f"1.2.{number}", "pacs")
    assert desk.order(study="1.3", **{"from": "pacs"}).status_code == 503


def test_an_unknown_pull_is_not_found(desk: Desk) -> None:
    """404 with a code."""
    answer = desk.client.get("/pulls/0123")
    assert (answer.status_code, answer.json()["error"]["code"]) == (404, "NOT_FOUND")


def test_every_refusal_has_a_status() -> None:
    """The codes of PullRefused, as its docstring lists them."""
    assert STATUS.keys() == {"PEER_UNKNOWN", "STUDY_UID_INVALID", "PULL_QUEUE_FULL", "STOPPING"}
