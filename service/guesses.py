"""How often one address may give a wrong token on a page: so many a minute. Then its tokens are not looked at."""

import math
import threading
import time
from collections import OrderedDict, deque
from collections.abc import Callable
from typing import Final

WRONG_MAX: Final = 10
"""Wrong tokens of one address within WINDOW_S: more than anybody mistypes, and far too few to find one of 128 bits."""
WINDOW_S: Final = 60.0
ADDRESSES_MAX: Final = 4096
"""Addresses that are remembered; of more, the one that was wrong longest ago is forgotten."""


class Guesses:
    """Counts wrong tokens by address, in bounded memory. Thread-safe. `clock`: seconds that never go back."""

    def __init__(self, clock: Callable[[], float] = time.monotonic, addresses_max: int = ADDRESSES_MAX) -> None:
        self._clock, self._addresses_max = clock, addresses_max
        self._lock = threading.Lock()
        self._wrong: OrderedDict[str, deque[float]] = OrderedDict()

    def wait_s(self, address: str) -> int:
        """Whole seconds until a token from this address is looked at again; 0: now."""
        with self._lock:
            times = self._wrong.get(address, deque())
            left = times[0] + WINDOW_S - self._clock() if len(times) == WRONG_MAX else 0.0
        return max(0, math.ceil(left))

    def wrong(self, address: str) -> None:
        """A token from this address was nobody's."""
        with self._lock:
            times = self._wrong.setdefault(address, deque(maxlen=WRONG_MAX))
            times.append(self._clock())
            self._wrong.move_to_end(address)
            if len(self._wrong) > self._addresses_max:
                self._wrong.popitem(last=False)
