"""One caller's place in a commit that many share."""

from __future__ import annotations

from audit.entry import Draft, Entry
from audit.errors import AuditError, AuditUnavailable


class Ticket:
    """One caller's draft, and its answer."""

    __slots__ = ("_error", "done", "draft", "entry")

    def __init__(self, draft: Draft) -> None:
        self.draft = draft
        self.done = False
        self.entry: Entry | None = None
        self._error: AuditError | None = None

    def fail(self, error: AuditError) -> None:
        """Answer with an error, unless it is answered."""
        if not self.done:
            self._error, self.done = error, True

    def result(self) -> Entry:
        """The answer."""
        if self._error is not None:
            raise self._error
        if self.entry is None:
            raise AuditUnavailable("no answer; repeat with the same key")
        return self.entry
