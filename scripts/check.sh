#!/bin/sh
# The static checks, then every test; stops at the first check that fails, ends with pytest's own summary.
#   usage: scripts/check.sh [lint]
set -eu
cd "$(dirname "$0")/.."
.venv/bin/ruff check .
.venv/bin/ruff format --check .
.venv/bin/mypy
.venv/bin/lint-imports
if [ "${1:-}" = lint ]; then exit 0; fi
# Threads of a network that wait for each other sleep: spinning they take the core from the tests beside them.
export OMP_WAIT_POLICY=PASSIVE
# The tests start hundreds of processes: what one has compiled, no other need compile again, whatever the caller's wish.
unset PYTHONDONTWRITEBYTECODE
# The longest first, so that none of them is left over for one worker at the end.
# Drawn examples are the same each time here: what a new one finds is for whoever runs pytest by hand, not for a release.
exec .venv/bin/pytest --hypothesis-profile=ci -n 3 --dist loadfile --no-loadscope-reorder --durations=30 tests/faults tests/story tests/unit tests/house
