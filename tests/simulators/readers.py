"""Physicians and operators with tokens, at the door for decisions of a ward's log."""

import hashlib
from pathlib import Path
from typing import Any

from fastapi import FastAPI
from prometheus_client import CollectorRegistry

from models.library import Library
from models.manifest import Manifest
from service.app import build_app
from service.decide_page import decide_router
from service.decision_api import decision_router
from service.decisions import Desk, Reader
from service.guesses import Guesses
from service.identity import IdentityMap
from service.keys import PeriodKeys, Pseudonyms
from service.looks import Looks
from service.sessions import Sessions
from service.store import Run
from service.tokens import OPERATOR, VIEWER, Operator
from tests.simulators.browser import TestClient
from tests.simulators.watched import SetClock, Ward

PSEUDONYMS = Pseudonyms(bytes(range(32)))
TRAINING = "sha256:" + "7" * 64
TOKENS = {"test-li": "l" * 40, "test-wang": "w" * 40}
OPERATORS = {"test-eye": (VIEWER, "e" * 40), "test-hand": (OPERATOR, "h" * 40)}


def readers() -> tuple[Reader, ...]:
    """Two physicians, as a configuration has them."""
    digests = {name: hashlib.sha256(token.encode()).hexdigest() for name, token in TOKENS.items()}
    return tuple(Reader(name, "RADIOLOGIST", digest, TRAINING) for name, digest in digests.items())


def operators() -> tuple[Operator, ...]:
    """One who looks and one who does, as a configuration has them."""
    return tuple(
        Operator(name, role, hashlib.sha256(token.encode()).hexdigest()) for name, (role, token) in OPERATORS.items()
    )


class Runs:
    """A table of runs, by call."""

    def __init__(self) -> None:
        self.by_call: dict[str, tuple[Run, ...]] = {}

    def of_call(self, call: str) -> tuple[Run, ...]:
        """See service.decisions.Runs."""
        return self.by_call.get(call, ())

    def of_study(self, study_uid: str) -> tuple[Run, ...]:
        """See service.looks.Runs."""
        return tuple(run for runs in self.by_call.values() for run in runs if run.study_uid == study_uid)

    def latest(self, limit: int = 1) -> tuple[Run, ...]:
        """See service.store.Store."""
        return ()[:limit]


class Well:
    """A service in health."""

    def checks(self) -> dict[str, str]:
        """See service.app.Health."""
        return {}


class Door:
    """The whole application's answers: its errors are those of the service."""

    def __init__(self, ward: Ward, root: Path, writer: Any = None, guesses: Guesses | None = None) -> None:
        self.ward, self.runs = ward, Runs()
        self.told: list[str] = []
        self.desk = Desk(ward.log, writer or ward.log, self.runs, readers(), PSEUDONYMS, self.told.append)
        self.clock = SetClock()
        self.sessions = Sessions(self.desk, self.clock, guesses)
        identities = IdentityMap(root / "identity", PeriodKeys(root / "keys"))
        self.looks = Looks(self.desk, writer or ward.log, self.runs, identities, self.clock)
        self.manifest: Manifest | None = None
        self.app: FastAPI = build_app(
            health=Well(),
            store=self.runs,  # type: ignore[arg-type]
            inbox=None,  # type: ignore[arg-type]
            library=Library(root / "models"),
            log=ward.log,
            metrics=CollectorRegistry(),
            routers=[
                decision_router(self.desk, self.looks),
                decide_router(self.desk, self.sessions, self.looks, lambda _model: self.manifest, "zh"),
            ],
        )
        self.client = TestClient(self.app, raise_server_exceptions=False)

    def decide(self, call: str, reader: str = "test-li", **said: Any) -> Any:
        """POST a decision; the answer."""
        return self.client.post(f"/calls/{call}/decision", json=said, headers=bearer(reader))

    def look(self, call: str, reader: str = "test-li") -> Any:
        """GET a call; the answer."""
        return self.client.get(f"/calls/{call}", headers=bearer(reader))


def bearer(name: str) -> dict[str, str]:
    """The header that a reader's or an operator's program sends."""
    token = TOKENS[name] if name in TOKENS else OPERATORS[name][1]
    return {"Authorization": f"Bearer {token}"}
