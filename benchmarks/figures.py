"""What all benchmarks share: where their figures go, and `--quick`, which tries that one runs.

With `--quick` a benchmark does all that it does, as small as it goes: its figures mean nothing, the last line that it
prints is their JSON, and no file is written. tests/story/test_benchmarks.py runs each of them so.
"""

import json
import sys
from pathlib import Path
from typing import Any

QUICK = "--quick"
RESULTS = Path(__file__).resolve().parent / "results"


def quick() -> bool:
    """Whether this run only tries the benchmark."""
    return QUICK in sys.argv[1:]


def words() -> list[str]:
    """The other arguments."""
    return [word for word in sys.argv[1:] if word != QUICK]


def publish(benchmark: str, result: dict[str, Any]) -> None:
    """Write results/NAME.json for the benchmark of this file name; a quick run prints it instead."""
    if quick():
        print(json.dumps(result))
        return
    RESULTS.mkdir(exist_ok=True)
    text = json.dumps(result, indent=2) + "\n"
    (RESULTS / f"{Path(benchmark).stem}.json").write_text(text, encoding="utf-8")
