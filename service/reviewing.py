"""A chore for the register: what its criteria suspended is written down, and its replay is kept for a quick start."""

from typing import Final

from ethics_review.register import Register
from service import wire
from service.config import Config

REMEMBER_ENTRIES: Final = 10_000
"""A start replays at most so many entries more than it must, which takes about a second."""


class Reviewing:
    """Called every few seconds, and `keep` when the service stops."""

    def __init__(self, config: Config, register: Register, every: int = REMEMBER_ENTRIES) -> None:
        self._config, self._register, self._every = config, register, every
        self._kept = 0

    def __call__(self) -> None:
        """Raises AuditError, OSError: tried again at the next call."""
        self._register.settle()
        if self._register.size - self._kept >= self._every:
            self.keep()

    def keep(self) -> None:
        """Keep the replay now. Raises AuditError, OSError."""
        self._kept = wire.remember(self._config, self._register)
