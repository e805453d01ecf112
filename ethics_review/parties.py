"""The trust policy: which organisations and people there are, by their keys, and what the parties agreed upon.

A text file that hospital, vendor and reviewer exchange by a way that all trust; never taken out of the log. Pure.

    organisation <id> <hospital|vendor|reviewer|panel>
    person <C2SP verifier key> <organisation id> <ROLE>[,<ROLE>...]
    criteria <id>                       criteria sets that count today; none named: any
    signers <n>                         reviewers who must sign; 2 if not given, never fewer
    panel <n>                           members of an expert panel; 5 if not given, never fewer
    follow-up <days> <days if listed>   365 182 if not given, never more
    minors-under <years>                14 if not given, never fewer
"""

import hashlib
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Final

from audit.errors import NoteError
from audit.note import Verifier
from ethics_review.errors import TrustInvalid
from ethics_review.states import ADMINISTRATORS, EXCLUSIVE, HOMES, PANEL_MIN, REVIEWERS_MIN, Party, Person, Role

FOLLOW_UP_DAYS: Final = 365
FOLLOW_UP_DAYS_LISTED: Final = 182
"""AI ethics review rules of 2026, sections 19 and 30: at most 12 months, at most 6 for what is listed."""
MINORS_UNDER_YEARS: Final = 14
"""PIPL, article 31."""
PERSONS_MAX: Final = 10_000
COUNT_MAX: Final = 100
ADULT_YEARS: Final = 18

_ID: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
_CRITERIA: Final = re.compile(r"[!-~]{1,64}")
_NUMBER: Final = re.compile(r"0|[1-9][0-9]{0,5}")


@dataclass(frozen=True, slots=True)
class Trust:
    """A trust policy that was read. Empty: nobody is trusted, nothing can be approved.

    Attributes:
        organisations: kind by id. persons, verifiers: by the key's name.
        criteria: criteria sets that count; empty: any.
        signers, panel: how many must sign, be members. follow_up_days: at most; for what is listed, the second.
        minors_under: completed years below which a patient is a minor for whom an approval must say so.
        digest: "sha256:..." of the text.
    """

    organisations: Mapping[str, Party]
    persons: Mapping[str, Person]
    verifiers: Mapping[str, Verifier]
    criteria: frozenset[str]
    signers: int
    panel: int
    follow_up_days: tuple[int, int]
    minors_under: int
    digest: str

    def people(self, names: Sequence[str]) -> tuple[Person, ...]:
        """The persons of these names; those that nobody has are left out."""
        return tuple(self.persons[name] for name in names if name in self.persons)

    @property
    def keys(self) -> tuple[Verifier, ...]:
        """Everybody's key."""
        return tuple(self.verifiers.values())


class _Reading:
    """What the lines read so far say."""

    def __init__(self) -> None:
        self.organisations: dict[str, Party] = {}
        self.persons: dict[str, Person] = {}
        self.verifiers: dict[str, Verifier] = {}
        self.criteria: set[str] = set()
        self.numbers: dict[str, tuple[int, ...]] = {}

    def line(self, number: int, words: Sequence[str]) -> None:
        """Take one line in."""
        readers: dict[str, tuple[int, Callable[[int, Sequence[str]], None]]] = {
            "organisation": (2, self._organisation),
            "person": (3, self._person),
            "criteria": (1, self._criteria),
            "signers": (1, self._number(words[0], ((REVIEWERS_MIN, COUNT_MAX),))),
            "panel": (1, self._number(words[0], ((PANEL_MIN, COUNT_MAX),))),
            "follow-up": (2, self._number(words[0], ((1, FOLLOW_UP_DAYS), (1, FOLLOW_UP_DAYS_LISTED)))),
            "minors-under": (1, self._number(words[0], ((MINORS_UNDER_YEARS, ADULT_YEARS),))),
        }
        if words[0] not in readers:
            raise TrustInvalid("TRUST_INVALID", number, "begins with no word that is known")
        wanted, read = readers[words[0]]
        if len(words) != 1 + wanted:
            raise TrustInvalid("TRUST_INVALID", number, f"{words[0]} is followed by {wanted} words")
        read(number, words[1:])

    def _organisation(self, number: int, words: Sequence[str]) -> None:
        name, kind = words
        if not _ID.fullmatch(name) or kind not in set(Party):
            raise TrustInvalid("TRUST_INVALID", number, "an id and one of hospital, vendor, reviewer, panel wanted")
        if name in self.organisations:
            raise TrustInvalid("TRUST_INVALID", number, "this organisation was named before")
        self.organisations[name] = Party(kind)

    def _person(self, number: int, words: Sequence[str]) -> None:
        try:
            verifier = Verifier.parse(words[0])
        except NoteError as wrong:
            raise TrustInvalid("TRUST_INVALID", number, str(wrong)) from None
        if verifier.name in self.verifiers:
            raise TrustInvalid("KEY_TWICE", number, "a person of this name was named before")
        if any(known.key == verifier.key for known in self.verifiers.values()):
            raise TrustInvalid("KEY_TWICE", number, "this key is another person's")
        party = self.organisations.get(words[1])
        if party is None:
            raise TrustInvalid("ORGANISATION_UNKNOWN", number, "the organisation must be named on a line before")
        self.persons[verifier.name] = Person(verifier.name, words[1], party, _roles(number, words[2], party))
        self.verifiers[verifier.name] = verifier
        if len(self.persons) > PERSONS_MAX:
            raise TrustInvalid("TRUST_INVALID", number, f"more than {PERSONS_MAX} persons")

    def _criteria(self, number: int, words: Sequence[str]) -> None:
        if not _CRITERIA.fullmatch(words[0]) or words[0] in self.criteria:
            raise TrustInvalid("TRUST_INVALID", number, "a criteria set wanted, each once")
        self.criteria.add(words[0])

    def _number(self, name: str, bounds: Sequence[tuple[int, int]]) -> Callable[[int, Sequence[str]], None]:
        def read(number: int, words: Sequence[str]) -> None:
            if name in self.numbers:
                raise TrustInvalid("TRUST_INVALID", number, f"{name} is given twice")
            for word, (low, high) in zip(words, bounds, strict=True):
                if not _NUMBER.fullmatch(word) or not low <= int(word) <= high:
                    raise TrustInvalid("TRUST_INVALID", number, f"{name}: a number wanted, {low} to {high}")
            self.numbers[name] = tuple(int(word) for word in words)

        return read


def _roles(number: int, text: str, party: Party) -> frozenset[Role]:
    words = text.split(",")
    if len(set(words)) != len(words) or any(word not in set(Role) for word in words):
        raise TrustInvalid("TRUST_INVALID", number, "roles wanted, each once, with commas and no spaces between")
    roles = frozenset(Role(word) for word in words)
    if any(party not in HOMES[role] for role in roles):
        raise TrustInvalid("TRUST_INVALID", number, f"a role that is not for people of a {party}")
    groups = sum(not group.isdisjoint(roles) for group in EXCLUSIVE)
    if groups > 1 or (roles & ADMINISTRATORS and len(roles) > 1):
        raise TrustInvalid("ROLES_EXCLUDED", number, "one person cannot have these roles together")
    return roles


def parse_trust(text: str) -> Trust:
    """Read a trust policy. Raises TrustInvalid, which names the line."""
    reading = _Reading()
    for number, line in enumerate(text.split("\n"), 1):
        if not line.isprintable():
            raise TrustInvalid("TRUST_INVALID", number, "holds a character that cannot be printed")
        words = line.partition("#")[0].split()
        if words:
            reading.line(number, words)
    return Trust(
        organisations=MappingProxyType(reading.organisations),
        persons=MappingProxyType(reading.persons),
        verifiers=MappingProxyType(reading.verifiers),
        criteria=frozenset(reading.criteria),
        signers=reading.numbers.get("signers", (REVIEWERS_MIN,))[0],
        panel=reading.numbers.get("panel", (PANEL_MIN,))[0],
        follow_up_days=_pair(reading.numbers.get("follow-up")),
        minors_under=reading.numbers.get("minors-under", (MINORS_UNDER_YEARS,))[0],
        digest="sha256:" + hashlib.sha256(text.encode("utf-8")).hexdigest(),
    )


def _pair(given: tuple[int, ...] | None) -> tuple[int, int]:
    return (FOLLOW_UP_DAYS, FOLLOW_UP_DAYS_LISTED) if given is None else (given[0], given[1])


NOBODY: Final = parse_trust("")
"""Where no policy is configured."""
