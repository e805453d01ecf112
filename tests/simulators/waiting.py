"""Waiting for what another thread or process does."""

import time
from collections.abc import Callable
from typing import Any

LIMIT_S = 180.0
"""No test waits for this when all is well: it is for a machine that is slow, or does much else."""

SHORTEST_S, LONGEST_S = 0.005, 0.2
"""Between two looks: some of them cost what the awaited itself would like to have, and the more the longer it takes."""


def until(condition: Callable[[], Any], limit_s: float = LIMIT_S, what: str = "it is so") -> Any:
    """Ask again and again, and give the first answer that is true; fail with `what` after `limit_s` seconds."""
    ends = time.monotonic() + limit_s
    pause_s = SHORTEST_S
    while True:
        answer = condition()
        if answer:
            return answer
        if time.monotonic() > ends:
            raise TimeoutError(f"not within {limit_s:.0f} s: {what}")
        time.sleep(pause_s)
        pause_s = min(1.5 * pause_s, LONGEST_S)
