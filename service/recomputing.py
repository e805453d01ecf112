"""The monitor runs again over an export: every evaluation in it must come out as it stands there, and none be missing.

For the reviewer, who has the package, the trust policy and the log's public key from the parties themselves, and this
software. Let `verifier.py` judge the package first: here its entries are taken as they are.
"""

import tempfile
import zipfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from audit import verifier
from audit.canonical import parse_canonical
from audit.entry import Draft, Entry, Kind, parse
from audit.errors import AuditError
from audit.note import Verifier
from audit.package import CHUNK
from ethics_review.dossier import Approval
from ethics_review.evaluation import code_digest
from ethics_review.parties import Trust
from ethics_review.replay import Replay
from ethics_review.standing import Standing
from ethics_review.states import Cause
from models.ref import ModelRef
from service.errors import CommandRefused
from service.monitoring import Monitoring

SHOWN_MAX: Final = 20


@dataclass(frozen=True, slots=True)
class Recomputed:
    """What came out.

    Attributes:
        evaluations: EVALUATION entries in the package. agree: those that came out to the letter.
        differ: indices of those that did not. other_code: indices of those that another version of the monitor made:
            only that version can make them again. missing: what should stand there too, as "METRIC OUTCOME at INDEX".
        set_aside: (index, code) of approvals and acts that do not count by this trust policy.
    """

    evaluations: int
    agree: int
    differ: tuple[int, ...]
    other_code: tuple[int, ...]
    missing: tuple[str, ...]
    set_aside: tuple[tuple[int, str], ...]

    @property
    def good(self) -> bool:
        """Whether all came out, and nothing else did."""
        return self.agree == self.evaluations and not self.missing


def entries_of(package: Path) -> list[Entry]:
    """All entries of a whole package. Raises CommandRefused for one that is filtered or begins later; OSError."""
    try:
        with zipfile.ZipFile(package) as members:
            manifest = parse_canonical(members.read("MANIFEST.json"))
            size = int(str(manifest["size"]))  # type: ignore[call-overload, index]
            found = []
            for first in range(0, size, CHUNK):
                leaves = verifier.leaves_of(members.read(f"entries/{first:013}"), min(CHUNK, size - first))
                for place, (known, data) in enumerate(leaves, first):
                    if not known:
                        raise CommandRefused(f"entry {place} is there as a hash alone; a whole export is needed")
                    found.append(parse(place, data))
            return found
    except (zipfile.BadZipFile, KeyError, ValueError, AuditError) as wrong:
        raise CommandRefused(f"{package}: no whole package: {type(wrong).__name__}") from None


def recompute(entries: Sequence[Entry], trust: Trust, operator: Verifier) -> Recomputed:
    """Run the monitor over the entries. `operator`: the log's own key, whose signature makes no approval."""
    replay = Replay(trust, operator)
    for entry in entries:
        replay.feed_leaf(entry.index, entry.to_bytes())
    return run_again(entries, tuple(replay.ids.values()), tuple(replay.set_aside))


def run_again(
    entries: Sequence[Entry], approvals: tuple[Approval, ...], set_aside: tuple[tuple[int, str], ...] = ()
) -> Recomputed:
    """Run the monitor over the entries, by these approvals. Raises CommandRefused where it stops."""
    paper = _Paper(entries, approvals)
    with tempfile.TemporaryDirectory() as folder:
        # It keeps nothing: there is no next start.
        monitoring = Monitoring(paper, paper, paper, Path(folder) / "cache", paper, clock=lambda: 0.0)
        while paper.left:
            monitoring()
            if paper.wrong:
                raise CommandRefused(f"the monitor cannot run over these entries: {paper.wrong[-1]}")
    said = {entry.key: entry for entry in entries if entry.kind is Kind.EVALUATION}
    agree = {key for key, entry in said.items() if key in paper.made and paper.made[key].body == entry.body}
    others = [entry for key, entry in said.items() if key not in agree]
    foreign = tuple(entry.index for entry in others if entry.body["code"] != code_digest())
    # What was found at the very end may not have been written when the package was made.
    last = max((entry.index for entry in said.values()), default=-1)
    missing = [draft for key, draft in paper.made.items() if key not in said and int(str(draft.body["last"])) < last]
    return Recomputed(
        evaluations=len(said),
        agree=len(agree),
        differ=tuple(entry.index for entry in others if entry.index not in foreign),
        other_code=foreign,
        missing=tuple(f"{one.body['metric']} {one.body['outcome']} at {one.body['last']}" for one in missing),
        set_aside=set_aside,
    )


@dataclass(frozen=True, slots=True)
class _Head:
    size: int


class _Paper:
    """A log that cannot grow, a register that knows approvals alone, and a watcher: for one run of the monitor."""

    def __init__(self, entries: Sequence[Entry], approvals: tuple[Approval, ...]) -> None:
        self._entries, self._approvals = entries, approvals
        self.made: dict[str, Draft] = {}
        self.left = len(entries)
        self.wrong: list[str] = []

    def entries(self, start: int = 0) -> Iterator[Entry]:
        """Those of the package."""
        return iter(self._entries[start:])

    def head(self) -> _Head:
        """Of the package's entries."""
        return _Head(len(self._entries))

    def find(self, key: str) -> Entry | None:
        """Nothing was said before, by this run of the monitor."""
        del key
        return None

    def append(self, draft: Draft) -> Entry:
        """What the monitor says this time."""
        self.made.setdefault(draft.key, draft)
        return self._entries[0]  # whose index nobody asks for: no standing, nothing to suspend

    def approvals(self) -> tuple[Approval, ...]:
        """Those that count."""
        return self._approvals

    def standing(self, digest: str) -> Standing | None:
        """What is on paper is not suspended."""
        del digest
        return None

    def suspend(self, model: ModelRef, cause: Cause, evidence: int | None) -> None:
        """Never asked for: see `standing`."""

    def restrict(self, model: ModelRef, condition: str, observed: str, evidence: int | None) -> None:
        """Never asked for: see `standing`."""

    def evaluated(self, metric: str, outcome: str) -> None:
        """It is in `made`."""

    def failed(self, code: str) -> None:
        """Why it stops, or which approval it does not understand."""
        self.wrong.append(code)

    def behind(self, entries: int) -> None:
        """How much is left to do."""
        self.left = entries

    def suspended(self, models: int) -> None:
        """None: see `standing`."""
