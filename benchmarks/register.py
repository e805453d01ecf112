"""How long a start takes: the register's replay of a log of 100,000 entries, whole and from a snapshot.

Also what one transition costs, and one look at a register that is up to date, as each call takes one. Prints a table
and writes results/register.json. register.py [--quick] [ENTRIES]
"""

import os
import platform
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from concurrent.futures import ThreadPoolExecutor

from audit.entry import Draft, Kind
from audit.log import AuditLog
from audit.note import Signer
from benchmarks import figures
from ethics_review.register import Register
from ethics_review.states import Event, Party, Past, Person, Role, State, transition
from tests.simulators.audit_log import body
from tests.simulators.parties import Case, Parties
from tests.simulators.reviewer import MODEL, fields

ENTRIES = 200 if figures.quick() else 100_000
ROUNDS = 1 if figures.quick() else 3
AIM_WHOLE_S, AIM_SNAPSHOT_S = 5.0, 0.2
ORIGIN = "bench.example/audit"
START = datetime(2026, 12, 15, tzinfo=UTC)


class Clock:
    """A second for each entry: 100,000 are a little more than a day."""

    def __init__(self) -> None:
        self.at = START

    def __call__(self) -> datetime:
        """The next moment."""
        self.at += timedelta(seconds=1)
        return self.at


def fill(log: AuditLog, case: Case, entries: int) -> None:
    """A model's life to LIVE, then calls: an intent, a result, a release and a decision for each, and heartbeats."""
    case.live(fields(valid={"from": "2026-12-01", "to": "2027-11-30"}))
    kinds = (Kind.CALL_INTENT, Kind.CALL_RESULT, Kind.RELEASED, Kind.HUMAN_DECISION, Kind.HEARTBEAT)
    bodies = {kind: body(kind) for kind in kinds}
    bodies[Kind.CALL_INTENT] = bodies[Kind.CALL_INTENT] | {"model": case.named()}

    def one(number: int) -> None:
        kind = kinds[number % len(kinds)]
        call = None if kind is Kind.HEARTBEAT else f"{number // len(kinds):032x}"
        log.append(Draft(kind, f"bench:{number}", bodies[kind], call))

    with ThreadPoolExecutor(64) as crew:
        list(crew.map(one, range(entries - log.head().size)))


def seconds(do: Callable[[], Any]) -> float:
    """Median of the rounds."""
    taken = []
    for _ in range(ROUNDS):
        began = time.perf_counter()
        do()
        taken.append(time.perf_counter() - began)
    return statistics.median(taken)


def cost_of_a_transition() -> float:
    """Microseconds of the dearest ordinary one: two people, two seats."""
    roles = (Role.SAFETY_OFFICER, Role.CLINICAL_OWNER)
    people = [Person(role, "hospital", Party.HOSPITAL, frozenset({role})) for role in roles]
    past, times = Past(State.SHADOW), 10_000
    return seconds(lambda: [transition(past, Event.GO_LIVE, people) for _ in range(times)]) / times * 1e6


def main() -> None:
    """Measure, print, write."""
    entries = int(words[0]) if (words := figures.words()) else ENTRIES
    parties, operator = Parties(), Signer.generate(ORIGIN)
    trust = parties.trust()
    with tempfile.TemporaryDirectory() as folder:
        log = AuditLog.open(
            Path(folder) / "log", origin=ORIGIN, source="bench", signer=operator, now=Clock(), publish_s=60.0
        )
        fill(log, Case(parties, Register(log, trust, operator.verifier), log, MODEL), entries)
        log.publish()
        register = Register(log, trust, operator.verifier)
        register.standings()
        taken = register.snapshot()
        assert taken is not None
        note = operator.sign(taken[1])
        found = {
            "whole_s": seconds(lambda: Register(log, trust, operator.verifier).standings()),
            "entries_alone_s": seconds(lambda: [None for _ in log.leaves()]),
            "snapshot_s": seconds(lambda: Register(log, trust, operator.verifier, remembered=note).standings()),
            "snapshot_bytes": len(note),
            "look_us": seconds(lambda: [register.standings() for _ in range(1000)]) * 1000,
            "transition_us": cost_of_a_transition(),
        }
        log.close()
    machine = {"python": platform.python_version(), "cores": os.cpu_count(), "entries": entries}
    rows = (
        ("replay of the whole log", f"{found['whole_s']:.2f} s", f"{AIM_WHOLE_S} s"),
        ("  of which reading the log's entries", f"{found['entries_alone_s']:.2f} s", ""),
        (f"replay from a snapshot ({found['snapshot_bytes'] // 1000} kB)", f"{found['snapshot_s']:.3f} s", "0.2 s"),
        ("a look at a register that is up to date", f"{found['look_us']:.0f} us", ""),
        ("states.transition", f"{found['transition_us']:.1f} us", ""),
    )
    print(f"{entries:,} entries, median of {ROUNDS}")
    for what, value, aim in rows:
        print(f"  {what:44}{value:>12}{'   aim ' + aim if aim else ''}")
    figures.publish(__file__, machine | {key: round(value, 4) for key, value in found.items()})


if __name__ == "__main__":
    main()
