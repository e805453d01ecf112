"""Whom we trust to witness, and how many of them must: lines of text, read strictly. Pure.

::

    log <vkey>              optional: the log's own key, for readers of the same file
    witness <vkey> [url]    a witness; with the address to which a log sends its checkpoints
    quorum <k>              how many of the witnesses must have cosigned; one such line, the last

Lines that begin with "#" and empty lines are for people. No witness is not a policy: a quorum is at least 1.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass

from audit.cosignature import CosignatureVerifier
from audit.errors import AuditError, NoteError
from audit.note import Verifier

WITNESSES_MAX = 32
"""As C2SP tlog-policy recommends to support."""
_QUORUM = re.compile(r"[1-9][0-9]?")
_URL = re.compile(r"https?://[!-~]+[^/]")


class PolicyInvalid(AuditError):
    """A policy that cannot be used; the message names the line."""

    code = "WITNESS_POLICY_INVALID"


@dataclass(frozen=True, slots=True)
class WitnessAt:
    """A trusted witness, and its address (the standard's submission prefix); None for one behind an air gap."""

    verifier: CosignatureVerifier
    url: str | None = None


@dataclass(frozen=True, slots=True)
class Policy:
    """k of n. ``logs`` are the log keys that the text names, if any."""

    witnesses: tuple[WitnessAt, ...]
    quorum: int
    logs: tuple[Verifier, ...] = ()

    def __post_init__(self) -> None:
        keys = [one.verifier.key for one in self.witnesses]
        names = [one.verifier.name for one in self.witnesses]
        if not 1 <= self.quorum <= len(keys) <= WITNESSES_MAX:
            raise PolicyInvalid(f"the quorum must be 1 to the number of witnesses, of which at most {WITNESSES_MAX}")
        # One organisation with two names must not count twice.
        if len(set(keys)) != len(keys) or len(set(names)) != len(names):
            raise PolicyInvalid("two witnesses share a key or a name")
        if set(keys) & {log.key for log in self.logs}:
            raise PolicyInvalid("a log cannot be its own witness")

    @classmethod
    def parse(cls, text: str) -> Policy:
        """Read the lines above. Raises PolicyInvalid."""
        logs: list[Verifier] = []
        witnesses: list[WitnessAt] = []
        quorum: int | None = None
        for number, line in enumerate(text.removesuffix("\n").split("\n"), 1):
            if not line or line.startswith("#"):
                continue
            word, *rest = line.split(" ")
            if quorum is not None:
                raise PolicyInvalid(f"line {number}: something after the quorum")
            try:
                if word == "log" and len(rest) == 1:
                    logs.append(Verifier.parse(rest[0]))
                elif word == "witness" and len(rest) in (1, 2):
                    witnesses.append(WitnessAt(CosignatureVerifier.parse(rest[0]), _url(rest[1:], number)))
                elif word == "quorum" and len(rest) == 1 and _QUORUM.fullmatch(rest[0]):
                    quorum = int(rest[0])
                else:
                    raise PolicyInvalid(f"line {number}: not 'log VKEY', 'witness VKEY [URL]' or 'quorum K'")
            except NoteError as error:
                raise PolicyInvalid(f"line {number}: {error}") from None
        if quorum is None:
            raise PolicyInvalid("no line 'quorum K'")
        return cls(tuple(witnesses), quorum, tuple(logs))

    def for_readers(self) -> str:
        """The same policy without addresses, for whoever verifies."""
        logs = "".join(f"log {log.vkey}\n" for log in self.logs)
        return f"{logs}{''.join(f'witness {key.vkey}{chr(10)}' for key in self.verifiers)}quorum {self.quorum}\n"

    @property
    def verifiers(self) -> tuple[CosignatureVerifier, ...]:
        """The witnesses' keys, in the policy's order."""
        return tuple(one.verifier for one in self.witnesses)

    def named(self, name: str) -> WitnessAt:
        """The witness with this key name. Raises PolicyInvalid."""
        for one in self.witnesses:
            if one.verifier.name == name:
                return one
        raise PolicyInvalid("no witness of that name in the policy")

    def reached(self, cosigned_by: Iterable[CosignatureVerifier]) -> bool:
        """Whether these are a quorum; keys that the policy does not name count for nothing."""
        return len(set(cosigned_by) & set(self.verifiers)) >= self.quorum


def _url(rest: list[str], number: int) -> str | None:
    if not rest:
        return None
    if not _URL.fullmatch(rest[0]):
        raise PolicyInvalid(f"line {number}: the address is not http(s)://..., without a slash at its end")
    return rest[0]
