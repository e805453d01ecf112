"""Each benchmark runs, as small as it goes, and gives the figures that benchmarks/results has.

What is measured only now and then breaks unseen. How quick anything is, is not looked at here.
"""

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.simulators import nursery

ROOT = Path(__file__).resolve().parents[2]
BENCHMARKS = ROOT / "benchmarks"
RESULTS = BENCHMARKS / "results"
NAMES = sorted(path.stem for path in BENCHMARKS.glob("*.py") if path.stem != "figures")
MAY_BE_ZERO = frozenset(
    {
        # What went wrong, in all.
        ("hospital", "refused_or_failed"),
        ("hospital", "lost"),
        ("hospital", "duplicated"),
        # The machine's own.
        ("hospital", "load_average_before"),
        ("writing", "load_average_before"),
        # Less than a hundredth of a second, or than a millisecond, when it is little that is done.
        ("receive", "digests_taken_after_s"),
        ("verify", "sha256_in_a_loop cpu_seconds"),
        ("stages", "median_ms inferred: forward passes"),
        ("stages", "forward_ms"),
        ("hospital", "load_generator_late_ms p50"),
    }
)
pytestmark = [pytest.mark.slow, pytest.mark.timeout(300)]


def figures(value: Any, *path: str) -> Iterator[tuple[str, Any]]:
    """Each figure and its name. A number in a name is a size, and a quick run has others: `256` callers are `2`."""
    if isinstance(value, dict):
        for key, one in value.items():
            yield from figures(one, *path, *([] if key.isdecimal() else [key]))
    elif isinstance(value, list):
        for one in value:
            yield from figures(one, *path)
    else:
        yield " ".join(path), value


def run(name: str, word: str, **options: Any) -> subprocess.CompletedProcess[str]:
    """Run the benchmark as a script, with what it prints."""
    return nursery.run([sys.executable, BENCHMARKS / f"{name}.py", word], cwd=ROOT, **options)


def quick(name: str, folder: Path) -> dict[str, Any]:
    """Run the benchmark in a process of its own, whose temporary files go into the folder; gives its figures."""
    done = run(name, "--quick", env=os.environ | {"TMPDIR": str(folder)})
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
    lines = done.stdout.splitlines()
    assert len(lines) > 3, "a table for people, then the figures"
    return dict(json.loads(lines[-1]))


@pytest.mark.parametrize("name", NAMES)
def test_a_quick_run_has_every_figure(name: str, tmp_path: Path) -> None:
    """It ends well and changes no file; its figures are those of the file that README quotes, all above nothing."""
    kept = {path.name: path.read_bytes() for path in RESULTS.iterdir()}
    found = list(figures(quick(name, tmp_path)))

    assert {key for key, _ in found} == {key for key, _ in figures(json.loads(kept[f"{name}.json"]))}
    numbers = {key: value for key, value in found if not isinstance(value, str)}
    assert numbers
    assert not {key: value for key, value in numbers.items() if value <= 0 and (name, key) not in MAY_BE_ZERO}
    assert {path.name: path.read_bytes() for path in RESULTS.iterdir()} == kept


def test_each_file_of_results_has_its_benchmark() -> None:
    """No figure is kept that nothing here can measure again, and nothing is measured for no file."""
    assert sorted(path.stem for path in RESULTS.iterdir()) == NAMES


def test_a_mistyped_quick_measures_nothing() -> None:
    """The one benchmark that takes no number refuses a word too: `--quik` would download, and write a file."""
    done = run("stages", "--quik")
    assert done.returncode != 0
    assert "usage" in done.stderr
