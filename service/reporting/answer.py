"""What a receiver said to a message, and what that means."""

from dataclasses import dataclass
from enum import StrEnum


class Fate(StrEnum):
    """DELIVERED: it has taken it. REFUSED: it never will. LATER: nobody knows, and the same bytes are told again."""

    DELIVERED = "DELIVERED"
    REFUSED = "REFUSED"
    LATER = "LATER"


@dataclass(frozen=True, slots=True)
class Answer:
    """`code`: upper case, of our own words; what a receiver writes is not repeated, as it may quote the message."""

    fate: Fate
    code: str
