"""Bearer tokens: whose one is, by the digest that the configuration holds; and who is known by one besides readers."""

import hashlib
import hmac
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, Protocol, TypeVar

TOKEN_MIN: Final = 32
"""Characters of a token; a shorter one can be guessed, so that it counts for nobody."""
VIEWER: Final = "VIEWER"
OPERATOR: Final = "OPERATOR"


class Holder(Protocol):
    """Who has a token."""

    @property
    def name(self) -> str:
        """In the configuration; nobody else has it."""

    @property
    def token_sha256(self) -> str:
        """64 hexadecimal digits."""


@dataclass(frozen=True, slots=True)
class Operator:
    """A person or program that looks after the service. role: VIEWER looks; OPERATOR also has it do things."""

    name: str
    role: str
    token_sha256: str


_Held = TypeVar("_Held", bound=Holder)


def whose(holders: Sequence[_Held], token: str) -> _Held | None:
    """Whose token it is; None if nobody's."""
    digest = hashlib.sha256(token.encode()).hexdigest()
    # All are compared, so that the time tells nothing about who was nearly right.
    found = [one for one in holders if hmac.compare_digest(one.token_sha256, digest)]
    return found[0] if found and len(token) >= TOKEN_MIN else None
