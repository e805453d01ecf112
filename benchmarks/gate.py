"""What the gate costs for one call: `gate.decide`, in microseconds of the core, with 1 dossier and with 50.

Nobody else has a gate to compare with; beside it stands what the same call's entry costs as canonical JSON, which is
made of the answer. Writes results/gate.json. gate.py [--quick] [CALLS]: of each kind.
"""

import os
import platform
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from audit.canonical import canonical
from audit.entry import Kind
from benchmarks import figures
from ethics_review.errors import Refused
from ethics_review.gate import decide
from ethics_review.standing import Standing
from models.ref import ModelRef
from tests.simulators.audit_log import body
from tests.simulators.reviewer import DURING, Reviewer, in_use, request

CALLS = 20 if figures.quick() else 10_000
DOSSIERS = (1, 50)
AIM_US = 100.0


def dossiers(count: int) -> tuple[Standing, ...]:
    """So many models in use, that of the request the last of them, each with a cut-off class and two approvals."""
    reviewer = Reviewer()
    refs = [ModelRef(f"model-{number}", "1.0", f"sha256:{number:064x}") for number in range(count - 1)]
    approvals = [reviewer.approve(ref, approval=f"T-{number}") for number, ref in enumerate(refs)]
    own = [reviewer.approve(approval="T-OLD", conditions={"sex": ["M"]}), reviewer.approve(approval="T-OWN")]
    return in_use(*approvals, *own, cut_off=frozenset({("SEX", "O"), ("AGE_YEARS", "0-19")}))


def microseconds(action: Callable[[], object], calls: int) -> dict[str, float]:
    """Of one call: the best, as a core that others use too measures them as well, and the median."""
    took = []
    for _ in range(calls):
        began = time.thread_time()
        action()
        took.append((time.thread_time() - began) * 1e6)
    return {"best": round(min(took), 1), "median": round(statistics.median(took), 1)}


def refused(action: Callable[[], object]) -> None:
    """Ask for what is refused."""
    try:
        action()
    except Refused:
        return
    raise AssertionError("permitted")


def main() -> None:
    """Run, print, write."""
    calls = int(words[0]) if (words := figures.words()) else CALLS
    found: dict[str, Any] = {}
    yes, no = request(), request(age_years=12.0)
    for number in DOSSIERS:
        standings = dossiers(number)
        found[str(number)] = {
            "permitted": microseconds(lambda s=standings: decide(yes, s, (), DURING), calls),
            "refused": microseconds(lambda s=standings: refused(lambda: decide(no, s, (), DURING)), calls),
        }
    entry = microseconds(lambda: canonical(body(Kind.CALL_INTENT)), calls)
    for count, each in found.items():
        for answer, took in each.items():
            said = "ok" if took["best"] < AIM_US else "MISSED"
            print(f"{count:>3} dossiers  {answer:9} best {took['best']:7.1f} us, median {took['median']:7.1f}   {said}")
    print(f"aim < {AIM_US:.0f} us; the entry as canonical JSON: best {entry['best']:.1f} us")
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
    figures.publish(__file__, result)


if __name__ == "__main__":
    main()
