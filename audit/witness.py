"""A witness: keeps the newest checkpoint of each log that it knows, and cosigns only what that one grew into.

C2SP tlog-witness v1.0.0, ``add-checkpoint``. What it cosigned is on its disk before it answers; checking and keeping
are one step for each log, among threads and among processes. A log is made known once, by hand. From then on its state
must be there, and whole: without it the witness refuses, it never starts again from nothing.

::

    <folder>/
      key                        the witness's private key, mode 0600
      logs/<SHA-256 of origin>/
        log                      "origin ORIGIN" and one or more "log VKEY": the log is known
        state                    "nothing of ORIGIN yet", or the newest checkpoint that we cosigned
        lock

::

    AuditError
    |- WitnessRefused         sender
    |  |- OriginUnknown       WITNESS_ORIGIN_UNKNOWN   404  nobody made this log known here
    |  |- SignerRefused       WITNESS_SIGNER_REFUSED   403  no signature by the log's key, or a bad one
    |  |- SubmissionRefused   WITNESS_SUBMISSION_BAD   400  not a request, or its old size is above the new
    |  |- Conflict            WITNESS_CONFLICT         409  the old size is not ours, or our size has another root
    |  `- Inconsistent        WITNESS_INCONSISTENT     422  the proof does not prove
    |- WitnessStateLost       WITNESS_STATE_LOST       500  site: the state of a known log is missing or damaged
    `- WitnessClockBehind     WITNESS_CLOCK_BEHIND     503  site: the clock is behind what was cosigned
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from audit import durable, merkle
from audit.checkpoint import Checkpoint
from audit.cosignature import Cosigned, Cosigner, cosignatures
from audit.durable import Disk
from audit.errors import AuditError, BadSignature, NoteError, ProofInvalid
from audit.lock import DirectoryLock
from audit.note import Note, Verifier, open_note, parse_note
from audit.submission import Submission, SubmissionMalformed

KEY = "key"
LOGS = "logs"
LOG = "log"
STATE = "state"
LOCK = "lock"
LOCK_WAIT_S = 5.0
"""For another process on the same state; one step takes milliseconds."""
TEXT = "text/plain; charset=utf-8"
SIZE_TYPE = "text/x.tlog.size"
"""Content type that C2SP tlog-witness prescribes for the size in a conflict."""
_HASH = re.compile(r"[0-9a-f]{64}")


class WitnessRefused(AuditError):
    """The witness does not cosign; what it holds is as it was. ``status`` is the HTTP status of the standard."""

    code = "WITNESS_REFUSED"
    status: ClassVar[int] = 400


class SubmissionRefused(WitnessRefused):
    """Not a request, or one from a larger size to a smaller."""

    code = "WITNESS_SUBMISSION_BAD"


class SignerRefused(WitnessRefused):
    """The checkpoint is not signed by a key of its log, or holds a false signature in that key's name."""

    code = "WITNESS_SIGNER_REFUSED"
    status = 403


class OriginUnknown(WitnessRefused):
    """A log that nobody made known here."""

    code = "WITNESS_ORIGIN_UNKNOWN"
    status = 404


class Conflict(WitnessRefused):
    """The old size is not the one that was cosigned last (``size``), or that size has another root."""

    code = "WITNESS_CONFLICT"
    status = 409

    def __init__(self, size: int, what: str) -> None:
        super().__init__(f"{what}; the size cosigned last is {size}")
        self.size = size


class Inconsistent(WitnessRefused):
    """The new tree is not shown to hold the old one as its beginning."""

    code = "WITNESS_INCONSISTENT"
    status = 422


class WitnessStateLost(AuditError):
    """What a known log's newest checkpoint was cannot be read: nothing is cosigned until a person has looked."""

    code = "WITNESS_STATE_LOST"


class WitnessClockBehind(AuditError):
    """The clock shows a time before the last cosignature's."""

    code = "WITNESS_CLOCK_BEHIND"


@dataclass(frozen=True, slots=True)
class Answer:
    """What goes back to the log, over HTTP or in a file."""

    status: int
    body: bytes
    content_type: str = TEXT
    code: str | None = None


@dataclass(frozen=True, slots=True)
class KnownLog:
    """A log that this witness knows: its origin and the keys that may sign its checkpoints."""

    origin: str
    verifiers: tuple[Verifier, ...]

    @classmethod
    def parse(cls, text: str) -> KnownLog:
        """Read ``format`` back, strictly. Raises NoteMalformed, or ValueError."""
        first, *rest = text.split("\n")
        known = cls(
            first.removeprefix("origin "), tuple(Verifier.parse(line.removeprefix("log ")) for line in rest[:-1])
        )
        if known.format() != text or not known.verifiers:
            raise ValueError("not in the form that we write")
        return known

    def format(self) -> str:
        """The file ``log``."""
        return f"origin {self.origin}\n" + "".join(f"log {one.vkey}\n" for one in self.verifiers)


@dataclass(frozen=True, slots=True)
class Held:
    """The newest checkpoint that was cosigned: with the log's signatures that were verified, and our own."""

    checkpoint: Checkpoint
    cosigned: Cosigned


class Witness:
    """The state of a witness. Threads may share one; processes may share a folder."""

    def __init__(self, folder: Path, cosigner: Cosigner, now_s: Callable[[], int], disk: Disk = durable) -> None:
        """``now_s``: seconds since 1970. ``disk``: what writes the state, durably."""
        self._logs = folder / LOGS
        self._cosigner = cosigner
        self._now_s = now_s
        self._disk = disk

    @property
    def vkey(self) -> str:
        """The public key to hand to logs and to their readers."""
        return self._cosigner.vkey

    def add_log(self, origin: str, *verifiers: Verifier) -> None:
        """Make a log known, with a state of size 0; idempotent while nothing was cosigned.

        Raises WitnessStateLost or ContentDiffers for one that is known already: to forget is not a repair. OSError.
        """
        if not origin or "\n" in origin or not verifiers:
            raise SubmissionRefused("a log has an origin of one line, and at least one key")
        place = self._logs / origin_hash(origin)
        if (place / LOG).exists() and not (place / STATE).exists():
            raise WitnessStateLost(f"{LOGS}/{place.name}/{STATE} is missing: adding the log again cannot bring it back")
        self._disk.make_dirs(place)
        # The state first: a crash in between leaves a log that is not known, and this call can be repeated.
        self._disk.create_same(place / STATE, _nothing(origin).encode())
        self._disk.create_same(place / LOG, KnownLog(origin, verifiers).format().encode())

    def logs(self) -> tuple[tuple[KnownLog, Held | None], ...]:
        """Each known log and what is held of it. Raises WitnessStateLost, OSError."""
        places = sorted(self._logs.iterdir()) if self._logs.is_dir() else []
        found = ((self._known(place), place) for place in places)
        return tuple((known, self._held(known, place)) for known, place in found if known is not None)

    def answer(self, body: bytes) -> Answer:
        """``cosign``, with every refusal as the standard's answer. Only OSError passes through."""
        try:
            return Answer(200, self.cosign(body).encode())
        except Conflict as error:
            return Answer(error.status, f"{error.size}\n".encode(), SIZE_TYPE, error.code)
        except WitnessRefused as error:
            return Answer(error.status, _line(error), code=error.code)
        except WitnessStateLost as error:
            return Answer(500, _line(error), code=error.code)
        except WitnessClockBehind as error:
            return Answer(503, _line(error), code=error.code)

    def cosign(self, body: bytes) -> str:
        """The cosignature's line for the checkpoint in the request, kept before this returns.

        Raises WitnessRefused, WitnessStateLost, WitnessClockBehind, OSError; after an OSError it may be kept or not.
        """
        try:
            submission = Submission.parse(body)
        except SubmissionMalformed as error:
            raise SubmissionRefused(str(error)) from None
        place = self._logs / origin_hash(submission.checkpoint.origin)
        known = self._known(place)
        if known is None:
            raise OriginUnknown("this log is not known here")
        checkpoint = _signed(submission.checkpoint, known)
        if submission.old_size > checkpoint.size:
            raise SubmissionRefused("the old size is above the checkpoint's")
        with self._alone(place):
            held = self._held(known, place)
            _refuse_inconsistent(submission, held.checkpoint if held else None)
            if held is not None and held.checkpoint.size == checkpoint.size:
                return held.cosigned.signature.format()  # asked again, as after a lost answer: the same answer
            line = self._cosigner.cosign(parse_note(checkpoint.note).text, self._time(held)).format()
            # Crash before: nothing was said. Crash after: it is kept, and asking again gives the same line.
            self._disk.replace(place / STATE, f"{checkpoint.note}{line}".encode())
            return line

    def latest(self, hashed_origin: str) -> str | None:
        """The newest cosigned checkpoint, as a note, of the log whose origin has this SHA-256; or None.

        Raises WitnessStateLost, OSError.
        """
        if not _HASH.fullmatch(hashed_origin):
            return None
        place = self._logs / hashed_origin
        known = self._known(place)
        held = None if known is None else self._held(known, place)
        return None if held is None else held.checkpoint.note

    def _time(self, held: Held | None) -> int:
        now_s = self._now_s()
        if held is not None and now_s < held.cosigned.time_s:
            raise WitnessClockBehind("the witness's clock is behind its last cosignature; set it right")
        return now_s

    def _known(self, place: Path) -> KnownLog | None:
        try:
            text = (place / LOG).read_bytes().decode()
        except FileNotFoundError:
            return None
        except UnicodeDecodeError:
            raise WitnessStateLost(f"{LOGS}/{place.name}/{LOG} is damaged") from None
        try:
            known = KnownLog.parse(text)
        except (NoteError, ValueError):
            raise WitnessStateLost(f"{LOGS}/{place.name}/{LOG} is damaged") from None
        if origin_hash(known.origin) != place.name:
            raise WitnessStateLost(f"{LOGS}/{place.name}/{LOG} is of another log")
        return known

    def _held(self, known: KnownLog, place: Path) -> Held | None:
        """What was cosigned last; None only for the state that ``add_log`` wrote."""
        where = f"{LOGS}/{place.name}/{STATE}"
        try:
            text = (place / STATE).read_bytes().decode()
            if text == _nothing(known.origin):
                return None
            checkpoint = Checkpoint.open(text, known.verifiers)
            own = cosignatures(parse_note(text), (self._cosigner.verifier,))
        except FileNotFoundError:
            raise WitnessStateLost(f"{where} is missing; nothing is cosigned until a person has looked") from None
        except (UnicodeDecodeError, NoteError):
            raise WitnessStateLost(f"{where} is damaged; nothing is cosigned until a person has looked") from None
        if checkpoint.origin != known.origin or not own:
            raise WitnessStateLost(f"{where} is not a checkpoint of this log that this witness cosigned")
        return Held(checkpoint, own[0])

    @contextmanager
    def _alone(self, place: Path) -> Iterator[None]:
        # Opened anew each time, so that it holds between threads as it does between processes.
        lock = DirectoryLock(place / LOCK, wait_s=LOCK_WAIT_S)
        try:
            with lock.held():
                yield
        finally:
            lock.close()


def origin_hash(origin: str) -> str:
    """SHA-256 of a log's origin in lower-case hexadecimal, as the standard's monitoring address has it."""
    return hashlib.sha256(origin.encode()).hexdigest()


def _signed(checkpoint: Checkpoint, known: KnownLog) -> Checkpoint:
    """The checkpoint with only those signatures that the log's keys made; nobody else's are kept or passed on."""
    try:
        text, _ = open_note(checkpoint.note, known.verifiers)
    except BadSignature as error:
        raise SignerRefused(str(error)) from None
    trusted = {(one.name, one.key_id) for one in known.verifiers}
    kept = tuple(dict.fromkeys(s for s in parse_note(checkpoint.note).signatures if (s.name, s.key_id) in trusted))
    return Checkpoint(checkpoint.origin, checkpoint.size, checkpoint.root, Note(text, kept).format())


def _refuse_inconsistent(submission: Submission, held: Checkpoint | None) -> None:
    """The table of the standard, in its order."""
    old, new = submission.old_size, submission.checkpoint
    held_size, held_root = (0, merkle.EMPTY_ROOT) if held is None else (held.size, held.root)
    if old != held_size:
        raise Conflict(held_size, "the old size is not ours")
    if new.size == 0 and new.root != merkle.EMPTY_ROOT:
        raise Inconsistent("an empty tree has another root")
    if old == 0:
        if submission.proof:
            raise Inconsistent("a proof from the empty tree is empty")
        return
    if old == new.size and new.root != held_root:
        raise Conflict(held_size, "another root at the size that was cosigned")
    try:
        merkle.verify_consistency(old, new.size, submission.proof, held_root, new.root)
    except ProofInvalid as error:
        raise Inconsistent(str(error)) from None


def _nothing(origin: str) -> str:
    return f"nothing of {origin} yet\n"


def _line(error: AuditError) -> bytes:
    return f"{error.code}: {error}\n".encode()
