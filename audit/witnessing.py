"""The hospital's side of witnessing: what we send, what we believe of the answers, what we keep.

A cosignature is verified before it is kept. ``witnessed`` is the newest checkpoint that a quorum cosigned: it is only
replaced by a larger one with a quorum, or by the same one with more lines; it never holds less than it held.

::

    <folder>/                  beside the log, not in it
      witnessed                a note: the checkpoint, the log's signature, a quorum (or more) of cosignatures
      collected/<size>         the same, of checkpoints with fewer; and the newest of witnesses that lag
      lock                     who holds its flock may read and write: the service, and commands beside it

::

    AuditError
    `- WitnessingError
       |- WitnessUnreachable  WITNESS_UNREACHABLE  network or witness: try again later
       |- WitnessAnswerBad    WITNESS_ANSWER_BAD   witness: an answer that proves nothing
       |- WitnessDeclined     WITNESS_DECLINED     us or witness: 400, 403, 404, 422; a person has to look
       |- SizeDiffers         WITNESS_SIZE         nobody: ask again from the size that it names
       |- WitnessAhead        WITNESS_AHEAD        site: our log is older than what was witnessed
       `- WitnessForked       WITNESS_FORKED       site: two histories in our name
"""

from __future__ import annotations

import re
import threading
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

from audit import durable
from audit.checkpoint import Checkpoint
from audit.cosignature import CosignatureVerifier, Cosigned, cosignatures, parse_lines
from audit.durable import Disk
from audit.errors import AuditCorrupt, AuditError, NoteError
from audit.growth import Leaves, TreeView
from audit.lock import DirectoryLock
from audit.note import Note, Verifier, parse_note
from audit.policy import Policy, WitnessAt
from audit.submission import Submission

WITNESSED = "witnessed"
COLLECTED = "collected"
LOCK = "lock"
COLLECTED_MAX = 16
"""Checkpoints above ``witnessed`` that are kept while a quorum is missing: two or three couriers' rounds."""
ATTEMPTS = 3
"""Requests to one witness in a row: the first answer may name its size, and another process may be faster once."""
REFUSALS = frozenset({400, 403, 404, 422})
_SIZE_LINE = re.compile(rb"(0|[1-9][0-9]{0,18})\n")
_SIZE = re.compile(r"0|[1-9][0-9]{0,18}")
_OK, _CONFLICT = 200, 409


class WitnessingError(AuditError):
    """Root of what can go wrong with one witness; the others are asked all the same."""

    code = "WITNESSING_ERROR"


class WitnessUnreachable(WitnessingError):
    """No answer, or one that is no yes and no no: try again later."""

    code = "WITNESS_UNREACHABLE"


class WitnessAnswerBad(WitnessingError):
    """An answer that is not of the standard, or whose cosignature does not verify. Nothing of it is kept."""

    code = "WITNESS_ANSWER_BAD"


class WitnessDeclined(WitnessingError):
    """The witness refused for good: a person has to look."""

    code = "WITNESS_DECLINED"


class SizeDiffers(WitnessingError):
    """The witness last cosigned ``size``: make the request from there."""

    code = "WITNESS_SIZE"

    def __init__(self, name: str, size: int) -> None:
        super().__init__(f"{name} has cosigned {size} entries: make the request from that size")
        self.size = size


class WitnessAhead(WitnessingError):
    """The witness has cosigned a larger tree of this log (``size``) than the one we sent."""

    code = "WITNESS_AHEAD"

    def __init__(self, name: str, size: int) -> None:
        super().__init__(
            f"{name} has cosigned {size} entries, more than were sent: an old request, a backup, or a fork"
        )
        self.size = size


class WitnessForked(WitnessingError):
    """The witness has cosigned another root at our size."""

    code = "WITNESS_FORKED"


@dataclass(frozen=True, slots=True)
class Reply:
    """What came back from a witness, believed by nobody yet."""

    status: int
    body: bytes

    @classmethod
    def of_file(cls, data: bytes) -> Reply:
        """An answer that came as a file: signature lines, or the size of a conflict. Raises WitnessAnswerBad."""
        if _SIZE_LINE.fullmatch(data):
            return cls(_CONFLICT, data)
        return cls(_OK, data)


@dataclass(frozen=True, slots=True)
class Witnessed:
    """A checkpoint of ours (its note holds every line), its verified cosignatures, and whether they are a quorum."""

    checkpoint: Checkpoint
    cosigned: tuple[Cosigned, ...]
    reached: bool


@dataclass(frozen=True, slots=True)
class Outcome:
    """What one witness did in a round: cosigned, or an error with its code."""

    witness: str
    error: WitnessingError | None = None


@dataclass(frozen=True, slots=True)
class Round:
    """One round of asking. ``reached``: the checkpoint that was sent has its quorum."""

    outcomes: tuple[Outcome, ...]
    reached: bool


Post = Callable[[str, bytes], Reply]
"""POST a body to a URL, within a few seconds; raises WitnessUnreachable. Called from several threads."""


def make_request(leaves: Leaves, checkpoint: Checkpoint, old_size: int) -> Submission:
    """What to send to a witness that last cosigned ``old_size``. The checkpoint's tiles must be published.

    Raises AuditCorrupt if the tiles do not make the checkpoint's root, ProofInvalid for a larger old size, OSError.
    """
    tree = TreeView(leaves, checkpoint.size)
    if tree.root_at(checkpoint.size) != checkpoint.root:
        raise AuditCorrupt("tile", "the tiles do not make the checkpoint's root")
    return Submission(old_size, tree.consistency(old_size), checkpoint)


def judge(checkpoint: Checkpoint, witness: WitnessAt, reply: Reply) -> Cosigned:
    """The witness's cosignature of this checkpoint, verified; pure. Raises WitnessingError."""
    name = witness.verifier.name
    if reply.status == _OK:
        try:
            lines = parse_lines(reply.body.decode())
            found = cosignatures(Note(parse_note(checkpoint.note).text, lines), (witness.verifier,))
        except (UnicodeDecodeError, NoteError):
            raise WitnessAnswerBad(f"{name}: its answer is not a cosignature of this checkpoint") from None
        if not found:
            raise WitnessAnswerBad(f"{name}: its answer holds no cosignature by the key that we trust")
        return found[0]
    size = _SIZE_LINE.fullmatch(reply.body)
    if reply.status == _CONFLICT and size:
        if int(size[1]) > checkpoint.size:
            raise WitnessAhead(name, int(size[1]))
        raise SizeDiffers(name, int(size[1]))
    if reply.status in REFUSALS:
        raise WitnessDeclined(f"{name}: refused with status {reply.status}")
    raise WitnessUnreachable(f"{name}: answered with status {reply.status}")


def open_latest(note: bytes, log: Verifier, origin: str, witness: WitnessAt) -> Checkpoint:
    """What a witness serves as our newest checkpoint, with the log's signature and its own verified.

    For the opening check, as nobody here can make a witness forget. Raises WitnessAnswerBad.
    """
    try:
        checkpoint = Checkpoint.open(note.decode(), (log,))
        found = cosignatures(parse_note(checkpoint.note), (witness.verifier,))
    except (UnicodeDecodeError, NoteError):
        found = ()
    if not found or checkpoint.origin != origin:
        raise WitnessAnswerBad(f"{witness.verifier.name}: what it serves is no checkpoint of ours with its cosignature")
    return checkpoint


class Witnessing:
    """Asks, judges and keeps. Threads may share one, processes the folder: AuditUnavailable where another holds it."""

    def __init__(self, folder: Path, policy: Policy, log: Verifier, disk: Disk = durable) -> None:
        """``folder`` is ours alone. ``log``: the key that signs our checkpoints."""
        self._folder = folder
        self._policy = policy
        self._log = log
        self._disk = disk
        self._threads = threading.RLock()
        self._depth = 0

    def witnessed(self) -> Witnessed | None:
        """What ``witnessed`` holds, verified again; None if there never was one. Raises AuditCorrupt, OSError."""
        with self._held():
            return self._read(WITNESSED) if (self._folder / WITNESSED).exists() else None

    def newest(self) -> Checkpoint | None:
        """The largest checkpoint of ours that any witness cosigned, quorum or not, as far as we kept it."""
        with self._held():
            found = [held.checkpoint for held in self._all() if held.cosigned]
        return max(found, key=lambda one: one.size, default=None)

    def last_size(self, witness: CosignatureVerifier) -> int:
        """The largest size of which we hold this witness's cosignature; 0 for none. It may have cosigned more since."""
        with self._held():
            return max((held.checkpoint.size for held in self._all() if witness in _keys(held)), default=0)

    def take(self, checkpoint: Checkpoint, witness: WitnessAt, reply: Reply) -> bool:
        """Judge a reply about ``checkpoint``, and keep its cosignature. True if the checkpoint has its quorum now.

        Raises WitnessingError, AuditCorrupt (what we hold, or a second root of ours at one size), OSError.
        """
        line = judge(checkpoint, witness, reply)
        self._disk.make_dirs(self._folder / COLLECTED)
        with self._held():
            return self._keep(checkpoint, line)

    def push(self, leaves: Leaves, checkpoint: Checkpoint, post: Post) -> Round:
        """Ask every witness that has an address, all at once; keep what they give. Raises AuditCorrupt, OSError."""
        asked = [witness for witness in self._policy.witnesses if witness.url is not None]
        with ThreadPoolExecutor(max(1, len(asked))) as pool:
            outcomes = tuple(pool.map(lambda witness: self._ask(leaves, checkpoint, witness, post), asked))
        with self._held():
            same = [held for held in self._all() if _same_tree(held.checkpoint, checkpoint)]
        return Round(outcomes, any(held.reached for held in same))

    @contextmanager
    def _held(self) -> Iterator[None]:
        """Hold the folder, for this thread of this process. A folder that is not there yet holds nothing to guard."""
        with self._threads, ExitStack() as stack:
            if self._depth == 0 and self._folder.is_dir():
                lock = DirectoryLock(self._folder / LOCK)
                stack.callback(lock.close)
                stack.enter_context(lock.held())
            self._depth += 1
            try:
                yield
            finally:
                self._depth -= 1

    def _ask(self, leaves: Leaves, checkpoint: Checkpoint, witness: WitnessAt, post: Post) -> Outcome:
        name = witness.verifier.name
        old = min(self.last_size(witness.verifier), checkpoint.size)
        try:
            for _ in range(ATTEMPTS):
                reply = post(f"{witness.url}/add-checkpoint", make_request(leaves, checkpoint, old).format())
                try:
                    self.take(checkpoint, witness, reply)
                except SizeDiffers as other:
                    if other.size == old:
                        raise WitnessForked(f"{name} has cosigned another root at {old} entries") from None
                    old = other.size
                else:
                    return Outcome(name)
        except WitnessingError as error:
            return Outcome(name, error)
        return Outcome(name, WitnessUnreachable(f"{name} names another size each time"))

    def _keep(self, checkpoint: Checkpoint, line: Cosigned) -> bool:
        lines = {line.verifier: line}
        for held in self._all():
            if held.checkpoint.size == checkpoint.size:
                if not _same_tree(held.checkpoint, checkpoint):
                    raise AuditCorrupt(WITNESSED, f"two checkpoints of {checkpoint.size} entries in our name differ")
                # The first line of a witness stays: what was kept is not exchanged.
                lines.update((each.verifier, each) for each in held.cosigned)
        note = self._format(checkpoint, lines).encode()
        reached = self._policy.reached(lines)
        done = self.witnessed()
        if reached and (done is None or checkpoint.size >= done.checkpoint.size):
            if done is not None and done.checkpoint.size != checkpoint.size:
                # Kept first, so that a crash here leaves every witness's last size.
                self._disk.replace(self._place(done.checkpoint.size), done.checkpoint.note.encode())
            self._disk.replace(self._folder / WITNESSED, note)
        else:
            self._disk.replace(self._place(checkpoint.size), note)
        self._prune()
        return reached

    def _prune(self) -> None:
        """Drop what is no witness's newest, and not among the newest that may still reach a quorum."""
        done = self.witnessed()
        done_size = -1 if done is None else done.checkpoint.size
        sizes = self._collected()
        keep = {size for size in sizes if size > done_size}
        keep = set(sorted(keep)[-COLLECTED_MAX:]) | {self.last_size(key) for key in self._policy.verifiers}
        for size in sizes:
            if size not in keep or size == done_size:
                self._disk.discard(self._place(size))

    def _all(self) -> list[Witnessed]:
        done = self.witnessed()
        return ([done] if done else []) + [self._read(f"{COLLECTED}/{size}") for size in self._collected()]

    def _collected(self) -> list[int]:
        folder = self._folder / COLLECTED
        names = [path.name for path in folder.iterdir()] if folder.is_dir() else []
        return sorted(int(name) for name in names if _SIZE.fullmatch(name))

    def _place(self, size: int) -> Path:
        return self._folder / COLLECTED / str(size)

    def _read(self, name: str) -> Witnessed:
        try:
            note = (self._folder / name).read_bytes().decode()
            checkpoint = Checkpoint.open(note, (self._log,))
            found = cosignatures(parse_note(note), self._policy.verifiers)
        except (UnicodeDecodeError, NoteError):
            raise AuditCorrupt(name, "not a checkpoint of this log with cosignatures") from None
        return Witnessed(checkpoint, found, self._policy.reached(each.verifier for each in found))

    def _format(self, checkpoint: Checkpoint, lines: dict[CosignatureVerifier, Cosigned]) -> str:
        """The note: our own signature first, then the witnesses' in the policy's order."""
        parsed = parse_note(checkpoint.note)
        own = tuple(s for s in parsed.signatures if (s.name, s.key_id) == (self._log.name, self._log.key_id))
        given = (lines[key].signature for key in self._policy.verifiers if key in lines)
        return Note(parsed.text, (*own, *given)).format()


def _keys(held: Witnessed) -> Iterable[CosignatureVerifier]:
    return {each.verifier for each in held.cosigned}


def _same_tree(one: Checkpoint, other: Checkpoint) -> bool:
    return (one.origin, one.size, one.root) == (other.origin, other.size, other.root)
