"""Writes the package that a reviewer takes away: all entries up to one checkpoint, in scope as bytes, else as hashes.

A filter can never hide that something was there, and some kinds it can never hide at all. What is written is compared
with the checkpoint's root before the file gets its name; a crash leaves a temporary file that the next sweep takes.
"""

from __future__ import annotations

import hashlib
import re
import secrets
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import datetime
from itertools import islice
from pathlib import Path
from typing import ClassVar, Final, Protocol

from audit import durable, verifier
from audit.canonical import JsonValue, canonical
from audit.checkpoint import Checkpoint
from audit.entry import Entry, format_time
from audit.errors import AuditError
from audit.merkle import Tree, leaf_hash
from audit.package import CHUNK, LENGTH_BYTES, README, PackageFull, Writer, pack_chunk

ALWAYS: Final = frozenset(
    {"APPROVAL", "CONFIG", "ERASURE", "EXPORT", "HEARTBEAT", "LOG_READ", "LOG_START", "RESTORE", "SEAL"}
    | {"STATE_CHANGE", "STOP", "RESUME", "OPT_OUT", "INCIDENT", "ACCEPTANCE", "EVALUATION", "GOLDEN", "SAFETY_REPORT"}
    | {"RECONCILED"}
)
"""Kinds that are in scope whatever is asked: what a call rests on, and what that rests on itself; and what shows
silence, copies, restored logs and calls past the log."""
STAMPS_MAX: Final = 100
"""Time stamps over one checkpoint: two digits name them."""
SCAN: Final = "phi_scan.json"
_UNSEEN: Final = frozenset({"README.md", "verifier.py", SCAN})
_RECONCILIATION: Final = re.compile(r"[a-z0-9][a-z0-9_-]{0,63}\.json")
_FOR_PEOPLE: Final = re.compile(
    r"summary\.html|tables/[a-z0-9][a-z0-9_-]{0,63}\.csv|fhir/[0-9]{13}\.ndjson|dicom-audit/[0-9]{13}\.xml"
)


class ExportInvalid(AuditError):
    """The package that was asked for cannot be: a checkpoint, stamp or name that does not fit the log."""

    code: ClassVar[str] = "EXPORT_INVALID"


class Log(Protocol):
    """What export needs of audit.log.AuditLog: entries in order from index 0, and a head that covers all before it."""

    def entries(self, start: int = 0) -> Iterator[Entry]:
        """The entries from index ``start`` on."""

    def head(self) -> Checkpoint:
        """The newest signed head."""


class Companion(Protocol):
    """Whoever adds members for people, and looks at all that goes in. Each may raise: then nothing is written."""

    def look(self, member: str, offset: int, data: bytes) -> None:
        """Called with everything that goes in, in pieces: an entry, or a part of a member; ``offset`` is within it.

        Not with README.md, verifier.py and time stamps, which are the same for all or hold nothing but digests.
        """

    def members(self, entries: Iterator[Entry]) -> Iterator[tuple[str, Iterable[bytes]]]:
        """Names and pieces of members, made from the entries in scope; asked once, and read to its end."""

    def verdict(self) -> bytes:
        """The member phi_scan.json; asked once, after everything was looked at."""


@dataclass(frozen=True, slots=True)
class Scope:
    """What is asked for. An entry is in scope if its time lies in the period and ``selects`` takes it.

    Attributes:
        begin, end: aware; ``end`` is excluded; None is open. filter: ``selects`` in words, for the reader.
    """

    begin: datetime | None = None
    end: datetime | None = None
    filter: Mapping[str, str] = field(default_factory=dict)
    selects: Callable[[Entry], bool] = lambda _: True

    @property
    def said(self) -> dict[str, JsonValue]:
        """The manifest's ``period`` and ``filter``."""
        period = {
            "from": None if self.begin is None else format_time(self.begin),
            "to": None if self.end is None else format_time(self.end),
        }
        return {"period": period, "filter": dict(self.filter)}

    @property
    def digest(self) -> str:
        """What an EXPORT entry names the scope by: SHA-256 of the canonical form of ``said``."""
        return f"sha256:{hashlib.sha256(canonical(self.said)).hexdigest()}"


@dataclass(frozen=True, slots=True)
class Evidence:
    """What stands beside the entries; the log itself does not keep it.

    Attributes:
        checkpoint: the signed note to export up to, with its cosignatures; the log's head if None.
        older: signed notes of smaller sizes. stamps: (size of the checkpoint, DER of an RFC 3161 token or response),
            whose imprint is of the checkpoint's text. reconciliation: file name ending in .json, bytes. sm3: the file
            sm3/checkpoint of the log. companion: see Companion.
    """

    checkpoint: str | None = None
    older: Sequence[str] = ()
    stamps: Sequence[tuple[int, bytes]] = ()
    reconciliation: Mapping[str, bytes] = field(default_factory=dict)
    sm3: bytes | None = None
    companion: Companion | None = None


@dataclass(frozen=True, slots=True)
class Exported:
    """What was written: entries up to ``size``, ``counts`` of those in scope by kind, ``digest`` of the file."""

    path: Path
    size: int
    counts: Mapping[str, int]
    digest: str

    @property
    def in_scope(self) -> int:
        """Entries that are there as bytes."""
        return sum(self.counts.values())


def export(log: Log, path: Path, scope: Scope | None = None, evidence: Evidence | None = None) -> Exported:
    """Write the package; durable when it returns. The same package under this name already is fine.

    Raises ExportInvalid; NoteMalformed for a note that is none; ContentDiffers if ``path`` is taken by other bytes;
    what the log raises (AuditUnavailable, AuditCorrupt); OSError of the disk.
    """
    scope, evidence = scope or Scope(), evidence or Evidence()
    head = log.head() if evidence.checkpoint is None else Checkpoint.unverified(evidence.checkpoint)
    extras = _extras(head, evidence)
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(8)}{durable.TEMPORARY_SUFFIX}")
    try:
        with temporary.open("xb") as file:
            temporary.chmod(durable.FILE_MODE)
            with Writer(file) as writer:
                walk = _Walk(scope, writer, evidence.companion)
                walk.run(islice(log.entries(), head.size))
                walk.refuse_other_root(head)
                for name, data in extras:
                    walk.add(name, [data])
                walk.accompany(log, head)
                writer.add("MANIFEST.json", canonical(_manifest(head, scope, walk, writer.digests)))
        digest = _digest(temporary)
        durable.adopt(temporary, path)
    except PackageFull:
        raise ExportInvalid("package: larger than the format holds; ask for less") from None
    finally:
        # Gone already when it was adopted.
        with suppress(OSError):
            durable.discard(temporary)
    return Exported(path, head.size, walk.counts, digest)


class _Walk:
    """Once over the entries: writes chunks, grows the tree, counts. Once more for the companion, where there is one."""

    def __init__(self, scope: Scope, writer: Writer, companion: Companion | None) -> None:
        self._scope = scope
        self._companion = companion
        self._begin = "" if scope.begin is None else format_time(scope.begin)
        self._end = "~" if scope.end is None else format_time(scope.end)
        self._writer = writer
        self._tree = Tree()
        self.counts: dict[str, int] = {}
        self.first: int | None = None
        self.last: int | None = None

    def run(self, entries: Iterator[Entry]) -> None:
        records: list[tuple[bool, bytes]] = []
        for entry in entries:
            if len(records) == CHUNK:
                self._flush(records)
            data = entry.to_bytes()
            leaf = leaf_hash(data)
            self._tree.append(leaf)
            known = self._takes(entry)
            records.append((known, data if known else leaf))
            if known:
                self.counts[str(entry.kind)] = self.counts.get(str(entry.kind), 0) + 1
        if records:
            self._flush(records)

    def refuse_other_root(self, head: Checkpoint) -> None:
        if (self._tree.size, self._tree.root()) != (head.size, head.root):
            raise ExportInvalid("checkpoint: not of this log's entries")

    def add(self, name: str, pieces: Iterable[bytes]) -> None:
        """One member, which the companion looks at too."""
        if self._companion is None or name in _UNSEEN or name.startswith("tsa/"):
            self._writer.add(name, pieces)
        else:
            self._writer.add(name, _watched(name, pieces, self._companion))

    def accompany(self, log: Log, head: Checkpoint) -> None:
        """The members for people, and what the companion has seen."""
        if self._companion is None:
            return
        known = (entry for entry in islice(log.entries(), head.size) if self._asked(entry) or self._always(entry))
        for name, pieces in self._companion.members(known):
            if not _FOR_PEOPLE.fullmatch(name) or name in self._writer.digests:
                raise ExportInvalid("a member for people: a name that no package has, or twice")
            self.add(name, pieces)
        # All of the manifest but the line that names what is only written then.
        manifest = canonical(_manifest(head, self._scope, self, self._writer.digests))
        self._companion.look("MANIFEST.json", 0, manifest)
        self.add(SCAN, [self._companion.verdict()])

    def _takes(self, entry: Entry) -> bool:
        if self._asked(entry):
            self.first = entry.index if self.first is None else self.first
            self.last = entry.index
            return True
        return self._always(entry)

    def _asked(self, entry: Entry) -> bool:
        # Times are text of one width, so that they compare as text.
        return self._begin <= entry.time < self._end and self._scope.selects(entry)

    def _always(self, entry: Entry) -> bool:
        return str(entry.kind) in ALWAYS

    def _flush(self, records: list[tuple[bool, bytes]]) -> None:
        first = self._tree.size - len(records)
        name, offset = f"entries/{first:013d}", 0
        for known, data in records:
            offset += LENGTH_BYTES
            if known and self._companion is not None:
                self._companion.look(name, offset, data)
            offset += len(data)
        self._writer.add(name, pack_chunk(records))
        records.clear()


def _watched(name: str, pieces: Iterable[bytes], companion: Companion) -> Iterator[bytes]:
    offset = 0
    for piece in pieces:
        companion.look(name, offset, piece)
        offset += len(piece)
        yield piece


def _extras(head: Checkpoint, evidence: Evidence) -> list[tuple[str, bytes]]:
    """All members but entries and manifest, in order of their names. Refuses before anything is written."""
    members = {"checkpoint": head.note.encode(), "README.md": README.encode()}
    members["verifier.py"] = Path(verifier.__file__).read_bytes()
    if evidence.sm3 is not None:
        members["sm3/checkpoint"] = evidence.sm3
    sizes = {head.size}
    for note in evidence.older:
        older = Checkpoint.unverified(note)
        if older.origin != head.origin or older.size >= head.size or older.size in sizes:
            raise ExportInvalid("older checkpoint: of another log, of a size that is there, or not older")
        sizes.add(older.size)
        members[f"checkpoints/{older.size:013d}"] = note.encode()
    for size in sorted({size for size, _ in evidence.stamps}):
        tokens = sorted(token for stamped, token in evidence.stamps if stamped == size)
        if size not in sizes or len(tokens) > STAMPS_MAX:
            raise ExportInvalid("time stamp: of a checkpoint that is not in the package, or too many")
        members |= {f"tsa/{size:013d}.{number:02d}.tsr": token for number, token in enumerate(tokens)}
    for name, data in evidence.reconciliation.items():
        if not _RECONCILIATION.fullmatch(name):
            raise ExportInvalid("reconciliation: a name of small letters, digits, _ and - that ends in .json wanted")
        members[f"reconciliation/{name}"] = data
    return sorted(members.items())


def _manifest(head: Checkpoint, scope: Scope, walk: _Walk, digests: Mapping[str, str]) -> dict[str, JsonValue]:
    return {
        "format": verifier.FORMAT,
        "origin": head.origin,
        "size": head.size,
        **scope.said,
        "first": walk.first,
        "last": walk.last,
        "counts": dict(walk.counts),
        "members": dict(digests),
        "verifier": digests["verifier.py"],
        "does_not_prove": {language: list(texts) for language, texts in verifier.DOES_NOT_PROVE.items()},
    }


def _digest(path: Path) -> str:
    with path.open("rb") as file:
        return f"sha256:{hashlib.file_digest(file, 'sha256').hexdigest()}"
