"""Who wants no AI, as the log's OPT_OUT entries say: under a name that nobody can turn back into a patient. Pure.

The newest choice of a name counts. A choice that changes nothing makes no entry.
"""

from collections.abc import Iterable
from enum import StrEnum
from typing import Final

from audit.entry import Draft, Entry, Kind


class Choice(StrEnum):
    """What a patient said."""

    OPTED_OUT = "OPTED_OUT"
    WITHDRAWN = "WITHDRAWN"


_NEVER: Final = (0, Choice.WITHDRAWN.value)


class OptOuts:
    """Replays a log's choices. Feed it every entry, in order; it looks at its own kind alone."""

    def __init__(self, entries: Iterable[Entry] = ()) -> None:
        self._said: dict[str, tuple[int, str]] = {}  # name: how often it chose, and what last
        for entry in entries:
            self.take(entry)

    def take(self, entry: Entry) -> None:
        """One entry more."""
        if entry.kind is Kind.OPT_OUT:
            name = str(entry.body["patient"])
            self._said[name] = self._said.get(name, _NEVER)[0] + 1, str(entry.body["choice"])

    def out(self, name: str) -> bool:
        """Whether this name's newest choice is anything but a withdrawal of what it chose before."""
        return self._said.get(name, _NEVER)[1] != Choice.WITHDRAWN

    def draft(self, name: str, choice: Choice) -> Draft | None:
        """The entry that says so; None where that is so already. `name`: 32 hexadecimal digits.

        Its key counts the name's choices: of two processes that write at once, the log takes one.
        """
        if self.out(name) is (choice is Choice.OPTED_OUT):
            return None
        count = self._said.get(name, _NEVER)[0]
        return Draft(Kind.OPT_OUT, f"opt-out:{name}:{count}", {"patient": name, "choice": choice.value})
