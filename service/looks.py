"""Who looked at what: one VIEWED entry for each person, study and civil day, in the log before anything is shown.

A person is a reader, or an operator who is shown a study all the same.

The entry's key is a digest of the pseudonyms, the role and the day, so that a refresh, a second window and a restart
add nothing: a day has at most one for each person and study. Where the log cannot take it, nothing is shown.
"""

import hashlib
from collections.abc import Callable
from datetime import date, datetime
from typing import Protocol

from audit.entry import Draft, Entry, Kind
from audit.errors import AuditUnavailable
from ethics_review.periods import CIVIL_TIME
from service.decisions import Desk, Known
from service.errors import PeriodErased
from service.identity import IdentityMap
from service.sessions import Person
from service.store import Run

KEY_HEX = 32  # of the digest: its first 128 bits


class Writer(Protocol):
    """Where looks go: audit.log.AuditLog. Raises AuditError."""

    def append(self, draft: Draft) -> Entry:
        """See AuditLog."""


class Runs(Protocol):
    """Which runs a study had; service.store.Store."""

    def of_study(self, study_uid: str) -> tuple[Run, ...]:
        """All attempts, oldest first. Raises SQLAlchemyError."""


def viewed(study: str, reader: str, role: str, day: date) -> Draft:
    """The entry of a look. `study`, `reader`: pseudonyms, the latter of who looks; `day`: the civil day (UTC+8)."""
    digest = hashlib.sha256(f"{study}:{reader}:{role}:{day.isoformat()}".encode()).hexdigest()
    body = {"study": study, "reader": reader, "role": role}
    return Draft(Kind.VIEWED, f"viewed:{digest[:KEY_HEX]}", body)


class Looks:
    """Logs looks. Thread-safe. When a method returns, the look is in the log; each raises AuditError if it is not."""

    def __init__(
        self, desk: Desk, writer: Writer, runs: Runs, identities: IdentityMap, now: Callable[[], datetime]
    ) -> None:
        self._desk, self._writer, self._runs = desk, writer, runs
        self._identities, self._now = identities, now

    def at_study(self, person: Person, study_uid: str) -> None:
        """The person is about to see what there is of a study. Raises SQLAlchemyError as well."""
        runs, now = self._runs.of_study(study_uid), self._now()
        try:
            study = self._identities.seen(runs[-1].created_at if runs else None, study_uid, now=now)
        except (OSError, PeriodErased) as error:
            raise AuditUnavailable("a study's name cannot be made") from error
        self._log(person, study, now)

    def at_call(self, person: Person, known: Known) -> None:
        """The person is about to see a call, which the log knows by its study's name."""
        if known.study is None:
            raise AuditUnavailable("the log does not say of which study the call is")
        self._log(person, known.study, self._now())

    def _log(self, person: Person, study: str, now: datetime) -> None:
        # Appended each time, though it may be there: only an append that returns makes sure that it is durable.
        day = now.astimezone(CIVIL_TIME).date()
        self._writer.append(viewed(study, self._desk.pseudonym(person), person.role, day))
