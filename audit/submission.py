"""What a log sends to a witness: the body of C2SP tlog-witness ``add-checkpoint``, byte for byte. Pure.

::

    old <size>              the size that the witness is thought to have cosigned last
    <base64 of 32 bytes>    a consistency proof from there, at most 63 lines
                            an empty line
    <signed note>           the checkpoint
"""

from __future__ import annotations

import base64
import binascii
import re
from dataclasses import dataclass

from audit.checkpoint import Checkpoint
from audit.errors import AuditError, NoteError
from audit.merkle import HASH_BYTES

PROOF_LINES_MAX = 63
"""As the standard has it: a tree of 2**63 leaves needs no more."""
BODY_BYTES_MAX = 64 * 1024
"""A proof (63 lines of 45 bytes) and a checkpoint with a hundred signature lines fit several times."""
_OLD = re.compile(r"old (0|[1-9][0-9]{0,18})")


class SubmissionMalformed(AuditError):
    """Not a body of add-checkpoint, to the byte."""

    code = "SUBMISSION_MALFORMED"


@dataclass(frozen=True, slots=True)
class Submission:
    """A request to cosign. Nothing in it is to be believed yet; ``checkpoint`` is read, not verified."""

    old_size: int
    proof: tuple[bytes, ...]
    checkpoint: Checkpoint

    @classmethod
    def parse(cls, body: bytes) -> Submission:
        """Read a body, strictly: what parses formats to the same bytes. Raises SubmissionMalformed."""
        if len(body) > BODY_BYTES_MAX:
            raise SubmissionMalformed("the request is too long")
        try:
            text = body.decode()
        except UnicodeDecodeError:
            raise SubmissionMalformed("the request is not text") from None
        head, blank, note = text.partition("\n\n")
        lines = head.split("\n")
        old = _OLD.fullmatch(lines[0])
        if not blank or old is None:
            raise SubmissionMalformed("the request has no line 'old SIZE', or no empty line")
        if len(lines) - 1 > PROOF_LINES_MAX:
            raise SubmissionMalformed(f"the proof has more than {PROOF_LINES_MAX} lines")
        try:
            checkpoint = Checkpoint.unverified(note)
        except NoteError as error:
            raise SubmissionMalformed(str(error)) from None
        return cls(int(old[1]), tuple(_parse_hash(line) for line in lines[1:]), checkpoint)

    def format(self) -> bytes:
        """The body."""
        proof = "".join(f"{base64.b64encode(value).decode('ascii')}\n" for value in self.proof)
        return f"old {self.old_size}\n{proof}\n{self.checkpoint.note}".encode()


def _parse_hash(line: str) -> bytes:
    try:
        value = base64.b64decode(line, validate=True)
    except (binascii.Error, ValueError):
        raise SubmissionMalformed("a proof line is not base64") from None
    if len(value) != HASH_BYTES or base64.b64encode(value).decode("ascii") != line:
        raise SubmissionMalformed("a proof line is not 32 bytes in canonical base64")
    return value
