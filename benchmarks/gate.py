"""What the gate costs for one call: `gate.decide`, in microseconds of the core, with 1 dossier and with 50.

Nobody else has a gate to compare with; beside it stands what the same call's entry costs as canonical JSON, which is
made of the answer. Writes results/gate.json. gate.py [CALLS]: of each round.
"""

import json
import os
import platform
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from audit.canonical import canonical
from audit.entry import Kind
from ethics_review.errors import Refused
from ethics_review.gate import decide
from ethics_review.standing import Standing
from models.ref import ModelRef
from tests.simulators.audit_log import body
from tests.simulators.reviewer import DURING, Reviewer, in_use, request

CALLS = 50
ROUNDS = 200
DOSSIERS = (1, 50)
AIM_US = 100.0
RESULT = Path(__file__).resolve().parent / "results" / "gate.json"


def dossiers(count: int) -> tuple[Standing, ...]:
    """So many models in use, that of the request the last of them, each with a cut-off class and two approvals."""
    reviewer = Reviewer()
    refs = [ModelRef(f"model-{number}", "1.0", f"sha256:{number:064x}") for number in range(count - 1)]
    approvals = [reviewer.approve(ref, approval=f"T-{number}") for number, ref in enumerate(refs)]
    own = [reviewer.approve(approval="T-OLD", conditions={"sex": ["M"]}), reviewer.approve(approval="T-OWN")]
    return in_use(*approvals, *own, cut_off=frozenset({("SEX", "O"), ("AGE_YEARS", "0-19")}))


def microseconds(action: Callable[[], object], calls: int) -> float:
    """Of one call, the best of many short rounds: a core that others use too measures them as well."""
    rounds = []
    for _ in range(ROUNDS):
        began = time.thread_time()
        for _ in range(calls):
            action()
        rounds.append((time.thread_time() - began) / calls * 1e6)
    return min(rounds)


def refused(action: Callable[[], object]) -> None:
    """Ask for what is refused."""
    try:
        action()
    except Refused:
        return
    raise AssertionError("permitted")


def main() -> None:
    """Run, print, write."""
    calls = int(sys.argv[1]) if len(sys.argv) > 1 else CALLS
    found: dict[str, Any] = {}
    yes, no = request(), request(age_years=12.0)
    for count in DOSSIERS:
        standings = dossiers(count)
        found[str(count)] = {
            "permitted": round(microseconds(lambda s=standings: decide(yes, s, (), DURING), calls), 1),
            "refused": round(microseconds(lambda s=standings: refused(lambda: decide(no, s, (), DURING)), calls), 1),
        }
    entry = round(microseconds(lambda: canonical(body(Kind.CALL_INTENT)), calls), 1)
    for count, each in found.items():
        for answer, took in each.items():
            said = "ok" if took < AIM_US else "MISSED"
            print(f"{count:>3} dossiers  {answer:9} {took:8.1f} us   aim < {AIM_US:.0f} us: {said}")
    print(f"the entry as canonical JSON {entry:8.1f} us")
    result = {
        "us": found,
        "canonical_json_us": entry,
        "machine": {
            "processor": platform.processor() or platform.machine(),
            "cores": os.cpu_count(),
            "kernel": platform.release(),
        },
        "versions": {"python": platform.python_version()},
    }
    RESULT.write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
