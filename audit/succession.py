"""One log succeeds another: after a restored backup, after corruption, for a new signing key. Each is a new origin.

Why it happened is said by a statement, a signed note that somebody outside signs (never the log's own key): the last
usable head of the old log, the newest that witnesses are known to have cosigned, the new origin and its key. The old
directory is frozen, never repaired. The new log's first entry commits to the old one's end, its second holds the note.

::

    <data>/
      audit/                     the log of today
      witnessing/                what witnesses said of it
      audit.frozen/
        <n>.note                 the signed statement by which generation n ended; here first: n takes nothing more
        <n>.end                  where it ended: origin, size, root, as the new log's first entry says it
        <n>/, <n>.witnessing/    the old folders, read-only

The note's text is a line ``zhiying.audit/restore/1`` and one of canonical JSON::

    {"key": VKEY, "predecessor": HEAD, "reason": CODE, "successor": ORIGIN, "time": TIME, "witnessed": HEAD or null}

where HEAD is {"origin", "root" (base64), "size"}. Every step of ``freeze`` may be repeated, and is after a crash.

::

    AuditError
    `- SuccessionError
       |- StatementBad      RESTORE_STATEMENT_BAD    sender: not such a note, or of other logs
       |- StatementForged   RESTORE_SIGNATURE_BAD    sender: a signature in a trusted name that does not verify
       |- StatementUnknown  RESTORE_SIGNER_UNKNOWN   sender or site: no key of [audit] restore_keys signed
       |- StatementOwn      RESTORE_SELF_SIGNED      site: the log's own key signed, or is among the trusted ones
       |- StatementStale    RESTORE_HEAD_DIFFERS     site: the log or its witnesses moved on: make the request again
       |- NothingUsable     RESTORE_NOTHING_USABLE   site: no head of the old log verifies
       `- Unfinished        RESTORE_UNFINISHED       site: a ceremony was begun: repeat its last command
"""

from __future__ import annotations

import base64
import os
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Protocol

from audit import durable
from audit.canonical import JsonValue, canonical, parse_canonical
from audit.checkpoint import Checkpoint
from audit.entry import Entry, parse, parse_time
from audit.errors import AuditCorrupt, AuditError, BadSignature, EntryInvalid, NoteError, UnknownSigner
from audit.layout import CHECKPOINT, HEAD, bundles, unpack
from audit.merkle import Tree
from audit.note import Verifier, open_note, parse_note
from audit.schema import INTEGER, ROOT, TOKEN

HEADER = "zhiying.audit/restore/1"
AUDIT = "audit"
WITNESSING = "witnessing"
FROZEN = "audit.frozen"
FILE_READ_ONLY = 0o440
FOLDER_READ_ONLY = 0o550
STATEMENT_CHARS_MAX = 8_000
"""A statement has a few hundred; it must fit an entry with its signatures."""
_NUMBER = re.compile(r"[1-9][0-9]{0,3}")
_FIELDS = frozenset({"key", "predecessor", "reason", "successor", "time", "witnessed"})
_HEAD_FIELDS = frozenset({"origin", "size", "root"})


class SuccessionError(AuditError):
    """Root of what can be wrong with a succession."""

    code = "RESTORE_ERROR"


class StatementBad(SuccessionError):
    """Not a signed statement to the byte, or one of other logs than ours."""

    code = "RESTORE_STATEMENT_BAD"


class StatementForged(SuccessionError):
    """A signature in the name of a trusted key that this key did not make."""

    code = "RESTORE_SIGNATURE_BAD"


class StatementUnknown(SuccessionError):
    """No key that the site trusts for this has signed."""

    code = "RESTORE_SIGNER_UNKNOWN"


class StatementOwn(SuccessionError):
    """The log's own key signed, or is trusted to: whoever has the disk must not be enough."""

    code = "RESTORE_SELF_SIGNED"


class StatementStale(SuccessionError):
    """The statement names another head than the log has now, or the witnesses have seen more."""

    code = "RESTORE_HEAD_DIFFERS"


class NothingUsable(SuccessionError):
    """No head, checkpoint or witnessed checkpoint of the old log verifies."""

    code = "RESTORE_NOTHING_USABLE"


class Unfinished(SuccessionError):
    """The old log was told to end, and the new one has not begun."""

    code = "RESTORE_UNFINISHED"


class Reason(StrEnum):
    """Why a log must end."""

    BACKUP = "BACKUP"
    CORRUPTION = "CORRUPTION"
    KEY_LOST = "KEY_LOST"
    KEY_ROTATION = "KEY_ROTATION"

    @property
    def sealable(self) -> bool:
        """Whether the old log can still be appended to."""
        return self in (Reason.BACKUP, Reason.KEY_ROTATION)


@dataclass(frozen=True, slots=True)
class End:
    """A tree head without its signatures; ``root`` in base64, as a checkpoint writes it."""

    origin: str
    size: int
    root: str

    @classmethod
    def of(cls, checkpoint: Checkpoint) -> End:
        """The checkpoint's."""
        return cls(checkpoint.origin, checkpoint.size, base64.b64encode(checkpoint.root).decode("ascii"))

    @classmethod
    def parse(cls, value: JsonValue) -> End:
        """Raises EntryInvalid."""
        if not isinstance(value, Mapping) or set(value) != _HEAD_FIELDS:
            raise EntryInvalid("head: not origin, size and root")
        for rule, name in ((TOKEN, "origin"), (INTEGER, "size"), (ROOT, "root")):
            rule.check(value[name], name)
        origin, size, root = value["origin"], value["size"], value["root"]
        if not (isinstance(origin, str) and isinstance(size, int) and isinstance(root, str)):
            raise EntryInvalid("head: of the wrong types")
        return cls(origin, size, root)

    @property
    def body(self) -> dict[str, JsonValue]:
        """As entries and statements hold it."""
        return {"origin": self.origin, "size": self.size, "root": self.root}


@dataclass(frozen=True, slots=True)
class Statement:
    """What somebody outside is asked to sign. ``time`` as in entries; ``key``: the new log's vkey."""

    predecessor: End
    witnessed: End | None
    reason: Reason
    successor: str
    key: str
    time: str

    @property
    def text(self) -> str:
        """The note's text."""
        value: dict[str, JsonValue] = {
            "key": self.key,
            "predecessor": self.predecessor.body,
            "reason": self.reason.value,
            "successor": self.successor,
            "time": self.time,
            "witnessed": None if self.witnessed is None else self.witnessed.body,
        }
        return f"{HEADER}\n{canonical(value).decode()}\n"

    @classmethod
    def parse(cls, text: str) -> Statement:
        """Read it strictly: what parses has this very text. Raises StatementBad."""
        header, _, line = text.partition("\n")
        if header != HEADER or len(text) > STATEMENT_CHARS_MAX:
            raise StatementBad(f"not a statement: {HEADER} is its first line")
        try:
            value = parse_canonical(line.removesuffix("\n").encode())
            if not isinstance(value, Mapping) or set(value) != _FIELDS:
                raise EntryInvalid("statement: not its fields")
            reason, successor, key, time = (value[name] for name in ("reason", "successor", "key", "time"))
            TOKEN.check(successor, "successor")
            if not (isinstance(reason, str) and reason in Reason.__members__ and isinstance(successor, str)):
                raise EntryInvalid("reason: unknown")
            if not (isinstance(key, str) and isinstance(time, str)):
                raise EntryInvalid("statement: a field of the wrong type")
            parse_time(time)
            Verifier.parse(key)
            seen = None if value["witnessed"] is None else End.parse(value["witnessed"])
            made = cls(End.parse(value["predecessor"]), seen, Reason(reason), successor, key, time)
        except (EntryInvalid, NoteError) as wrong:
            raise StatementBad(f"not a statement: {wrong}") from None
        if made.text != text:
            raise StatementBad("not a statement: not in canonical form")
        return made


def open_statement(note: str, trusted: Sequence[Verifier], own: Sequence[Verifier]) -> Statement:
    """A statement that a trusted key signed, and none of ``own``: the old log's key and the new one's.

    Raises StatementBad, StatementForged, StatementUnknown, StatementOwn.
    """
    if {one.key for one in own} & {one.key for one in trusted}:
        raise StatementOwn("a key in [audit] restore_keys is this log's own")
    try:
        for signature in parse_note(note).signatures:
            if any(_made_by(key, parse_note(note).text, signature.data) for key in own):
                raise StatementOwn("the statement is signed with the log's own key")
        text = open_note(note, trusted)[0]
    except UnknownSigner:
        raise StatementUnknown("no key of [audit] restore_keys has signed the statement") from None
    except BadSignature:
        raise StatementForged("a trusted key's signature does not match the statement") from None
    except NoteError as wrong:
        raise StatementBad(str(wrong)) from None
    return Statement.parse(text)


def read_statement(note: str) -> Statement:
    """What a note says, believing nobody. Raises StatementBad."""
    try:
        return Statement.parse(parse_note(note).text)
    except NoteError as wrong:
        raise StatementBad(str(wrong)) from None


def usable_head(root: Path, origin: str, key: Verifier, others: Sequence[Checkpoint]) -> End:
    """The last head that can be named: the log's ``head``; if that is lost, the newest of all others that verify.

    ``others``: checkpoints of this log that witnesses cosigned. Raises NothingUsable.
    """
    head = _checkpoint(root / HEAD, origin, key)
    if head is not None:
        return End.of(head)
    public = _checkpoint(root / CHECKPOINT, origin, key)
    found = [*others, *([] if public is None else [public])]
    if not found:
        raise NothingUsable("no head of the old log verifies: name its key with --log-key, and its witnesses")
    return End.of(max(found, key=lambda one: one.size))


class Mover(Protocol):
    """The changes that a freeze makes; ``durable`` with ``protect``, or in tests one that dies. Each is durable."""

    def create_same(self, path: Path, data: bytes) -> bool:
        """See audit.durable."""

    def make_dirs(self, path: Path) -> None:
        """See audit.durable."""

    def move(self, source: Path, target: Path) -> None:
        """See audit.durable."""

    def protect(self, folder: Path) -> None:
        """Make it read-only, with all that it holds. May be repeated."""


class Hands:
    """The real one."""

    def create_same(self, path: Path, data: bytes) -> bool:
        """See audit.durable."""
        return durable.create_same(path, data)

    def make_dirs(self, path: Path) -> None:
        """See audit.durable."""
        durable.make_dirs(path)

    def move(self, source: Path, target: Path) -> None:
        """See audit.durable."""
        durable.move(source, target)

    def protect(self, folder: Path) -> None:
        """See Mover."""
        for here, _, names in os.walk(folder, topdown=False):
            for name in names:
                (Path(here) / name).chmod(FILE_READ_ONLY)
            Path(here).chmod(FOLDER_READ_ONLY)


@dataclass(frozen=True, slots=True)
class Generations:
    """A site's logs, the frozen ones and today's. ``base``: the first one's origin. Looks at the disk each time."""

    data: Path
    base: str

    @property
    def number(self) -> int:
        """Today's: 1 for a site whose log was never succeeded."""
        folder = self.data / FROZEN
        names = [path.name for path in folder.iterdir() if path.is_dir()] if folder.is_dir() else []
        return 1 + max((int(name) for name in names if _NUMBER.fullmatch(name)), default=0)

    def origin(self, number: int) -> str:
        """The origin of a generation."""
        return self.base if number == 1 else f"{self.base}/{number}"

    def note(self, number: int) -> str | None:
        """The statement by which generation ``number`` ended, or has to end; None if there is none."""
        path = self._place(number, ".note")
        return path.read_text(encoding="utf-8") if path.exists() else None

    def end(self, number: int) -> End:
        """Where a frozen generation ended. Raises StatementBad, OSError."""
        try:
            return End.parse(parse_canonical(self._place(number, ".end").read_bytes()))
        except EntryInvalid as wrong:
            raise StatementBad(f"{FROZEN}/{number}.end: {wrong}") from None

    def entries(self, number: int, end: End) -> list[Entry]:
        """A frozen generation's. ``end``: as the log after it names it. Raises AuditCorrupt, EntryInvalid, OSError."""
        tree, leaves = Tree(), list[bytes]()
        for name in bundles(0, end.size):
            path = self._place(number, "") / name.path
            try:
                leaves += unpack(path.read_bytes())
            except (FileNotFoundError, EntryInvalid):
                raise AuditCorrupt(str(path), "missing or cut short") from None
        for leaf in leaves:
            tree.add(leaf)
        if (tree.size, base64.b64encode(tree.root()).decode("ascii")) != (end.size, end.root):
            raise AuditCorrupt(str(self._place(number, "")), "is not the log that the next one succeeds")
        return [parse(index, leaf) for index, leaf in enumerate(leaves)]

    def refuse_ending(self) -> None:
        """Raise Unfinished if today's log has been told to end."""
        if self.note(self.number) is not None:
            raise Unfinished("the log has been told to end: repeat `zhiying audit succeed take` with the same file")

    def freeze(self, number: int, note: str, seal: Callable[[], End], hands: Mover) -> None:
        """End a generation; ``seal`` gives where, and may be asked again. The note has been verified. Idempotent."""
        hands.make_dirs(self.data / FROZEN)
        hands.create_same(self._place(number, ".note"), note.encode())
        if not self._place(number, ".end").exists():
            hands.create_same(self._place(number, ".end"), canonical(seal().body))
        frozen, witnessing = self._place(number, ""), self._place(number, f".{WITNESSING}")
        # The log's own folder last: by its place the generation is counted.
        if number == self.number:
            if (self.data / WITNESSING).exists():
                hands.move(self.data / WITNESSING, witnessing)
            if (self.data / AUDIT).exists():
                hands.move(self.data / AUDIT, frozen)
            else:
                hands.make_dirs(frozen)  # nothing was left of it but what its witnesses hold
        for folder in (frozen, witnessing):
            if folder.exists():
                hands.protect(folder)

    def _place(self, number: int, kind: str) -> Path:
        return self.data / FROZEN / f"{number}{kind}"


def _checkpoint(path: Path, origin: str, key: Verifier) -> Checkpoint | None:
    """The signed head in a file; None, whatever is wrong: its disk may be the reason for all this."""
    try:
        found = Checkpoint.open(path.read_bytes().decode(), (key,))
    except (OSError, UnicodeDecodeError, NoteError):
        return None
    return found if found.origin == origin else None


def _made_by(key: Verifier, text: str, signature: bytes) -> bool:
    try:
        key.verify(text, signature)
    except BadSignature:
        return False
    return True
