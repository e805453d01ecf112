"""From a physician's rejection to the suspension, and from the package a reviewer takes away to the same figures."""

from __future__ import annotations

import dataclasses
import json
import time
from pathlib import Path

import pytest
from fastapi import FastAPI
from prometheus_client import CollectorRegistry, generate_latest

from audit import verifier
from audit.entry import Entry, Kind, parse
from audit.export import export
from audit.package import CHUNK
from dicom_bridge.inbox import Inbox
from ethics_review.evaluation import Evaluation, Outcome, Plan, Reading
from ethics_review.facts import fact_of
from ethics_review.monitor import recompute
from ethics_review.parties import NOBODY
from ethics_review.register import Register
from ethics_review.states import Cause, State
from models.library import Library
from service.config import Config
from service.recomputing import Recomputed, run_again
from service.sections import Data, ReaderSection
from service.store import Store, connect
from service.watching import Watching
from tests.simulators.audit_log import SIGNER
from tests.simulators.audit_package import members
from tests.simulators.browser import TestClient
from tests.simulators.monitored import MODEL
from tests.simulators.readers import TOKENS, TRAINING, Door, bearer, readers
from tests.simulators.waiting import until
from tests.simulators.watched import FakeApproval, Ward


def judged(ward: Ward, door: Door, number: int, *, rejects: bool) -> None:
    """A call, and what a physician says of it through the API."""
    call = ward.call(sex="FM"[number % 2])
    ward.clock.passes(minutes=10)
    said = {"decision": "REJECT", "reasons": ["MISSED_FINDING"], "significant": "YES"} if rejects else {}
    answer = door.decide(
        call, "test-wang" if number % 3 else "test-li", **({"decision": "ACCEPT", "seconds": 30} | said)
    )
    assert answer.status_code == 201


def exported(ward: Ward, path: Path) -> list[Entry]:
    """The entries, as they lie in a package."""
    done = export(ward.log, path)
    parts = members(path.read_bytes())
    found = []
    for name in sorted(name for name in parts if name.startswith("entries/")):
        first = int(name.removeprefix("entries/"))
        leaves = verifier.leaves_of(parts[name], min(CHUNK, done.size - first))
        found += [parse(first + place, data) for place, (known, data) in enumerate(leaves) if known]
    assert len(found) == done.size
    return found


def plan_of(approval: FakeApproval) -> Plan:
    """As a reviewer makes it, from the approval that the reviewer signed."""
    return Plan.of(approval.model, approval.monitor, approval.on_breach, approval.id)


def reading_of(entry: Entry) -> Reading:
    """What an EVALUATION entry says."""
    body = entry.body
    return Reading(
        metric=str(body["metric"]),
        subgroup=None if body["subgroup"] is None else str(body["subgroup"]),
        first=int(str(body["first"])),
        last=int(str(body["last"])),
        n=int(str(body["n"])),
        value=None if body["value"] is None else str(body["value"]),
        limit=None if body["limit"] is None else str(body["limit"]),
        outcome=Outcome(str(body["outcome"])),
    )


@pytest.mark.slow
def test_from_a_rejection_to_the_suspension_and_back(ward: Ward, tmp_path: Path) -> None:
    """Planted disagreements suspend once; from the package alone every evaluation is made again, to the digit."""
    door, monitor = Door(ward, tmp_path), ward.monitoring()
    for number in range(40):
        judged(ward, door, number, rejects=number % 15 == 0)
        monitor()
    assert ward.register.suspended == []
    for number in range(12):
        judged(ward, door, number, rejects=True)
        monitor()
    ward.clock.passes(days=1)
    judged(ward, door, 1, rejects=True)
    monitor()

    # MISSED_FINDING has the smaller share, so that it is the first to be beyond doubt.
    causes = [cause for _, cause, _ in ward.register.suspended]
    assert causes == [Cause.PERFORMANCE]
    assert list(ward.states()).count("SUSPENDED") == 1
    entries = exported(ward, tmp_path / "package.zip")
    found = [entry for entry in entries if entry.kind is Kind.EVALUATION]
    assert {"DISAGREEMENT", "MISSED_FINDING"} <= {str(one.body["metric"]) for one in found}
    assert next(one.index for one in found if one.body["outcome"] == "SUSPEND") == ward.register.suspended[0][2]
    plan = plan_of(ward.register.known[0])
    facts = list(map(fact_of, entries))
    for entry in found:
        said = reading_of(entry)
        again = recompute(plan, facts, said)
        assert again is not None
        assert dict(Evaluation(MODEL, plan.approval, again).body()) == dict(entry.body)


@pytest.mark.slow
def test_the_whole_monitor_runs_again(ward: Ward, tmp_path: Path) -> None:
    """Over the package alone, resumptions, days and a renewal included: all of it comes out, and nothing else."""
    door, monitor = Door(ward, tmp_path), ward.monitoring()
    for day in range(4):
        for number in range(9):
            judged(ward, door, number, rejects=day == 1)
            monitor()
        if day == 1:
            assert list(ward.states())[-1] == "SUSPENDED"
            ward.register.people("RESUME", State.LIVE)
        if day == 2:
            ward.register.record(name="TEST-2", cusum_h="4")
        ward.clock.passes(days=1)
    judged(ward, door, 1, rejects=False)
    monitor()
    monitor()
    entries, approvals = exported(ward, tmp_path / "package.zip"), tuple(ward.register.known)
    said = [entry for entry in entries if entry.kind is Kind.EVALUATION]
    assert len({str(one.body["approval"]) for one in said}) == 2
    again = run_again(entries, approvals)  # type: ignore[arg-type]
    assert again == Recomputed(len(said), len(said), (), (), (), ())
    assert again.good

    # Without the one that suspended, with another value, by another version, by other thresholds: each is found.
    worst = next(one for one in said if one.body["outcome"] == "SUSPEND")
    hidden = [one for one in entries if one.index != worst.index]
    # Nor does what is cut out go without a trace: the numbers of its source have a hole.
    missing = run_again(hidden, approvals).missing  # type: ignore[arg-type]
    gap = f"SEQUENCE_GAP SUSPEND at {worst.index + 1}"
    assert set(missing) == {f"{worst.body['metric']} SUSPEND at {worst.body['last']}", gap}
    for changes, found in (
        ({"value": "0.500000"}, ((worst.index,), ())),
        ({"outcome": "OK"}, ((worst.index,), ())),
        ({"code": "sha256:" + "0" * 64}, ((), (worst.index,))),
    ):
        changed = [altered(one, changes) if one.index == worst.index else one for one in entries]
        again = run_again(changed, approvals)  # type: ignore[arg-type]
        assert (again.differ, again.other_code) == found
        assert not again.good
    assert len(run_again(entries, ()).differ) == len(said)


def altered(entry: Entry, changes: dict[str, str]) -> Entry:
    """The same entry, saying something else."""
    return dataclasses.replace(entry, body={**entry.body, **changes})


def test_another_figure_is_not_confirmed(ward: Ward, tmp_path: Path) -> None:
    """An evaluation that says another value than its entries give is found out by whoever makes it again."""
    door, monitor = Door(ward, tmp_path), ward.monitoring()
    for number in range(9):
        judged(ward, door, number, rejects=True)
    monitor()
    entries = exported(ward, tmp_path / "package.zip")
    facts = list(map(fact_of, entries))
    worst = next(one for one in entries if one.kind is Kind.EVALUATION and one.body["outcome"] == "SUSPEND")
    said = reading_of(worst)
    plan = plan_of(ward.register.known[0])
    assert recompute(plan, facts, said) == said
    fewer = [fact for fact in facts if fact.index != said.last]
    assert recompute(plan, fewer, said) != said
    looser = Plan.of(MODEL, {**ward.register.known[0].monitor, "cusum_h": "9"}, "SUSPEND", "TEST-1")
    assert recompute(looser, facts, said) != said


def test_wired_as_the_service_wires_it(tmp_path: Path) -> None:
    """Started beside the service's own parts, both watchers are well, both doors answer, and the numbers are there."""
    ward = Ward(tmp_path)
    sections = tuple(
        ReaderSection(name=one.name, role="RADIOLOGIST", token_sha256=one.token_sha256, training=TRAINING)
        for one in readers()
    )
    config = Config(data=Data(folder=tmp_path / "data"), readers=sections)
    store = Store(connect(f"sqlite:///{tmp_path / 'runs.sqlite'}"))
    registry = CollectorRegistry()

    class NoDevice:
        """Nothing runs here."""

        def infer(self, *_: object) -> None:
            """See EnginePort."""
            raise AssertionError("no model is installed")

        def describe(self) -> dict[str, object]:
            """See service.golden.Device."""
            return {"device": "", "running": False, "runtime": {}}

    watching = Watching(
        config,
        log=ward.log,
        writer=ward.log,
        register=Register(ward.log, NOBODY, SIGNER.verifier),
        library=Library(tmp_path / "models"),
        engine=NoDevice(),  # type: ignore[arg-type]
        store=store,
        inbox=Inbox(tmp_path / "spool", ward.clock),
        registry=registry,
    )
    assert watching.checks() == {"monitor": "stopped", "golden": "stopped", "verdicts": "stopped"}
    watching.start()
    call = ward.call()
    app = FastAPI()
    app.include_router(watching.router())
    with TestClient(app) as client:
        taken = client.post(f"/calls/{call}/decision", json={"decision": "ACCEPT"}, headers=bearer("test-li"))
        form = client.get(f"/decide/{call}")
    assert taken.status_code == 201
    assert (form.status_code, '<html lang="zh-CN">' in form.text) == (200, True)
    size = ward.log.head().size
    until(lambda: watching.monitor._next == size, what="the monitor has looked at everything")
    assert watching.checks() == {"monitor": "ok", "golden": "ok", "verdicts": "ok"}
    began = time.monotonic()
    watching.stop()
    assert time.monotonic() - began < 10
    numbers = generate_latest(registry).decode()
    for line in ('zhiying_decisions_total{decision="ACCEPT"} 1.0', "zhiying_monitor_behind_entries 0.0"):
        assert line in numbers
    assert "zhiying_models_suspended 0.0" in numbers
    assert not {"test-li", TOKENS["test-li"]} & set(json.dumps(numbers).split('"'))
    assert (tmp_path / "data" / "monitor" / "state").exists()
    store.close()
    ward.log.close()
