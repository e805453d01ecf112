"""The time stamps that a site holds of its checkpoints, the queries that wait for a courier, and what an export takes.

::

    <data>/stamps/
      <size, 13 digits>/note        the checkpoint that was stamped: our signature, and the cosignatures known then
      <size, 13 digits>/<nn>.tsr    an authority's response (RFC 3161) over its three lines, verified when it was kept
      asked/<size>-<nonce>.json     a query that left as a file: the note that it is over, and its nonce
      lock                          held while something is written

Nothing that was kept is exchanged, but for a note by one with more cosignatures. What is read was verified when it was
kept; here its form, its checkpoint's signature and its imprint are looked at again, as whoever has the disk may write.
"""

import json
import re
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import datetime
from pathlib import Path

from audit import durable
from audit.canonical import canonical
from audit.checkpoint import Checkpoint
from audit.durable import Disk
from audit.errors import AuditCorrupt, NoteError
from audit.export import STAMPS_MAX, Evidence
from audit.lock import DirectoryLock
from audit.note import Verifier, parse_note
from service.errors import CommandRefused, NothingSuch
from service.timestamping import Query, Stamp, TimestampRefused, imprint_of, read

NOTE = "note"
ASKED = "asked"
ASKED_MAX = 64
"""Queries that wait for their answer; older ones go. Two months of a courier who comes every day."""
PACKAGE_MAX = 1000
"""Stamps in one package: six weeks of one each hour; a verifier takes some 20 ms for each. More are thinned out."""
_SIZE = re.compile(r"[0-9]{13}")
_NUMBER = re.compile(r"[0-9]{2}\.tsr")
_ASKED = re.compile(r"([0-9]{13})-[0-9a-f]{1,40}\.json")


@dataclass(frozen=True, slots=True)
class Held:
    """A stamp that is kept, and the checkpoint that it is over."""

    checkpoint: Checkpoint
    stamp: Stamp


@dataclass(frozen=True, slots=True)
class Asked:
    """A query that left as a file: over this checkpoint, bound by this nonce."""

    checkpoint: Checkpoint
    nonce: int


def text_of(checkpoint: Checkpoint) -> bytes:
    """What is stamped: the checkpoint's three lines, without signatures."""
    return parse_note(checkpoint.note).text.encode()


class Stamps:
    """The folder. Processes and threads may share it; see the module for what it holds.

    Methods raise AuditCorrupt for what is there and not ours, AuditUnavailable when another process does not let go,
    OSError.
    """

    def __init__(self, folder: Path, log: Verifier, origin: str, disk: Disk = durable) -> None:
        """`log`: the key that signs our checkpoints; `origin`: their first line."""
        self._folder, self._log, self._origin, self._disk = folder, log, origin, disk

    def keep(self, checkpoint: Checkpoint, stamp: Stamp) -> bool:
        """Keep a verified stamp; False if it is there already. Raises CommandRefused for too many of one checkpoint."""
        place = self._folder / f"{checkpoint.size:013d}"
        with self._alone():
            self._disk.make_dirs(place)
            self._keep_note(place / NOTE, checkpoint)
            names = _names(place, _NUMBER)
            if any((place / name).read_bytes() == stamp.response for name in names):
                return False
            number = int(names[-1][:2]) + 1 if names else 0
            if number >= STAMPS_MAX:
                raise CommandRefused(f"{STAMPS_MAX} stamps of one checkpoint are enough")
            self._disk.create_same(place / f"{number:02d}.tsr", stamp.response)
        return True

    def all(self) -> Iterator[Held]:
        """Every stamp, smallest checkpoint first."""
        for size in _names(self._folder, _SIZE):
            yield from self._of(size)

    def newest(self) -> Held | None:
        """The last stamp of the largest checkpoint that has one."""
        for size in reversed(_names(self._folder, _SIZE)):
            if _names(self._folder / size, _NUMBER):
                return list(self._of(size))[-1]
        return None

    # ---- queries that travel as files ----

    def ask(self, checkpoint: Checkpoint, query: Query) -> None:
        """Remember a query before it leaves."""
        record = canonical({"nonce": f"{query.nonce:x}", "note": checkpoint.note})
        with self._alone():
            self._disk.make_dirs(self._folder / ASKED)
            name = f"{checkpoint.size:013d}-{query.nonce:x}.json"
            self._disk.create_same(self._folder / ASKED / name, record)
            for old in _names(self._folder / ASKED, _ASKED)[:-ASKED_MAX]:
                if old != name:
                    self._disk.discard(self._folder / ASKED / old)

    def asked(self) -> list[Asked]:
        """The queries that wait."""
        return [self._waiting(f"{ASKED}/{name}") for name in _names(self._folder / ASKED, _ASKED)]

    def answered(self, asked: Asked) -> None:
        """It waits no more. Its file may come back after a power cut; an answer that comes twice is kept once."""
        with self._alone():
            name = f"{asked.checkpoint.size:013d}-{asked.nonce:x}.json"
            self._disk.discard(self._folder / ASKED / name)

    def asked_about(self, response: bytes) -> Asked | Held:
        """The query that this response answers, or what it was kept as before. Raises NothingSuch, TimestampRefused."""
        said = read(response)
        waiting = [one for one in self.asked() if imprint_of(text_of(one.checkpoint)) == said.imprint]
        kept = next((one for one in self.all() if one.stamp.response == response), None)
        if kept is not None:
            return kept
        if not waiting:
            raise NothingSuch("no query that left from here is over what this response stamps")
        # Several queries may be over one checkpoint: the nonce tells which, and is compared when it is verified.
        return next((one for one in waiting if one.nonce == said.nonce), waiting[-1])

    # ---- inside ----

    @contextmanager
    def _alone(self) -> Iterator[None]:
        self._disk.make_dirs(self._folder)
        lock = DirectoryLock(self._folder / "lock")
        try:
            with lock.held():
                yield
        finally:
            lock.close()

    def _keep_note(self, path: Path, checkpoint: Checkpoint) -> None:
        if path.exists():
            held = self._checkpoint(path.read_bytes(), f"{path.parent.name}/{NOTE}")
            if text_of(held) != text_of(checkpoint):
                raise AuditCorrupt(
                    f"stamps/{path.parent.name}/{NOTE}", "two checkpoints of one size in our name differ"
                )
            if not set(parse_note(held.note).signatures) < set(parse_note(checkpoint.note).signatures):
                return
        self._disk.replace(path, checkpoint.note.encode())

    def _of(self, size: str) -> Iterator[Held]:
        place = self._folder / size
        names = _names(place, _NUMBER)
        if not names:  # a crash came between note and stamp
            return
        checkpoint = self._checkpoint((place / NOTE).read_bytes(), f"{size}/{NOTE}")
        if f"{checkpoint.size:013d}" != size:
            raise AuditCorrupt(f"stamps/{size}/{NOTE}", "a checkpoint of another size")
        for name in names:
            try:
                said = read((place / name).read_bytes())
            except TimestampRefused:
                raise AuditCorrupt(f"stamps/{size}/{name}", "not a response of a time-stamp authority") from None
            if said.imprint != imprint_of(text_of(checkpoint)):
                raise AuditCorrupt(f"stamps/{size}/{name}", "stamps something else than its checkpoint")
            yield Held(checkpoint, said.stamp)

    def _waiting(self, name: str) -> Asked:
        data = (self._folder / name).read_bytes()
        try:
            said = json.loads(data)
            nonce, note = int(said["nonce"], 16), said["note"].encode()
        except (ValueError, TypeError, KeyError, AttributeError):
            raise AuditCorrupt(f"stamps/{name}", "not a query that left from here") from None
        return Asked(self._checkpoint(note, name), nonce)

    def _checkpoint(self, note: bytes, name: str) -> Checkpoint:
        try:
            checkpoint = Checkpoint.open(note.decode(), (self._log,))
        except (UnicodeDecodeError, NoteError):
            raise AuditCorrupt(f"stamps/{name}", "not a checkpoint that our log signed") from None
        if checkpoint.origin != self._origin:
            raise AuditCorrupt(f"stamps/{name}", "a checkpoint of another log")
        return checkpoint


def _names(folder: Path, form: re.Pattern[str]) -> list[str]:
    return sorted(path.name for path in folder.iterdir() if form.fullmatch(path.name)) if folder.is_dir() else []


# ---- for a package ---------------------------------------------------------------------------------------------------


def choose(
    held: Sequence[Held], begin: datetime | None, end: datetime | None, most: int = PACKAGE_MAX
) -> tuple[Held, ...]:
    """Those of the period, the last before it, the first after it, and the newest of all; in order of time.

    Entries of the period then lie between two stamps wherever there are two. Where that is more than `most`, what is
    left is spread evenly, its first and its last kept.
    """
    timed = sorted(held, key=lambda one: (one.stamp.at, one.checkpoint.size))
    before = [one for one in timed if begin is not None and one.stamp.at < begin]
    after = [one for one in timed if end is not None and one.stamp.at >= end]
    inside = timed[len(before) : len(timed) - len(after)]
    chosen = [*before[-1:], *inside, *after[:1], *after[1:][-1:]]
    if len(chosen) <= most:
        return tuple(chosen)
    step = (len(chosen) - 1) / (most - 1)
    return tuple(chosen[round(number * step)] for number in range(most))


def with_stamps(
    evidence: Evidence, head: Checkpoint, stamps: Iterable[Held], begin: datetime | None, end: datetime | None
) -> Evidence:
    """The same evidence with the stamps that a period needs, and the checkpoints that they are over.

    `head` is the exported one: what is stamped beyond it is not in the package. Raises AuditCorrupt.
    """
    chosen = choose([one for one in stamps if one.checkpoint.size <= head.size], begin, end)
    held = {head.size: head}
    for note in evidence.older:
        older = Checkpoint.unverified(note)
        held[older.size] = older
    notes, tokens = list(evidence.older), list(evidence.stamps)
    for one in chosen:
        size = one.checkpoint.size
        if size not in held:
            held[size] = one.checkpoint
            notes.append(one.checkpoint.note)
        elif text_of(held[size]) != text_of(one.checkpoint):
            raise AuditCorrupt(f"stamps/{size:013d}/{NOTE}", "two checkpoints of one size in our name differ")
        tokens.append((size, one.stamp.response))
    return replace(evidence, older=tuple(notes), stamps=tuple(tokens))
