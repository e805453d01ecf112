"""The errors of this folder: each says whose fault it is, and whether trying again can help.

::

    AuditError
    |- EntryInvalid      ENTRY_INVALID         us: an entry that the schema refuses, or bytes that are no entry
    |- Overtaken         AUDIT_OVERTAKEN       us: what the entry rests on changed before it was logged; look again
    |- KeyConflict       AUDIT_KEY_CONFLICT    us: one idempotency key, two different contents
    |- AuditUnavailable  AUDIT_UNAVAILABLE     site: the disk refuses; try again later (also an OSError)
    |- AuditCorrupt      AUDIT_CORRUPT         site: what is on disk is not what was signed; trying again cannot help
    |- AuditSealed       AUDIT_SEALED          site: the log has ended, another one succeeds it (docs/restore.md)
    |- ContentDiffers    CONTENT_DIFFERS       us or site: the name is taken by other bytes (also a FileExistsError)
    |- ProofInvalid      PROOF_INVALID         sender: a Merkle proof that does not prove
    `- NoteError
       |- NoteMalformed  NOTE_MALFORMED        sender: not a signed note, key or checkpoint
       |- KeyUnsafe      KEY_UNSAFE            site: a private key that others can read
       `- BadSignature   NOTE_SIGNATURE_BAD    sender: a trusted key's signature that does not verify
          `- UnknownSigner  NOTE_SIGNER_UNKNOWN   sender: no signature by any key that we trust

No message holds data of a patient: messages are made of field names, file names inside the log and numbers.
"""

from __future__ import annotations

import errno
from typing import ClassVar


class AuditError(Exception):
    """Root of this folder's errors; ``code`` is stable and belongs to a closed set."""

    code: ClassVar[str] = "AUDIT_ERROR"


class EntryInvalid(AuditError):
    """An entry that the closed schema refuses, or bytes that are not one of our entries."""

    code = "ENTRY_INVALID"


class Overtaken(AuditError):
    """Something was logged first that changes what the entry rests on. Nothing was logged: look again."""

    code = "AUDIT_OVERTAKEN"


class KeyConflict(AuditError):
    """The idempotency key is in the log already, with other content."""

    code = "AUDIT_KEY_CONFLICT"


class AuditUnavailable(AuditError, OSError):
    """The log cannot be read or written now; ``errno`` tells why. Nothing is lost: repeat with the same key.

    It is an OSError as well, so that a retrying caller need not know this folder.
    """

    code = "AUDIT_UNAVAILABLE"

    def __init__(self, message: str, number: int = errno.EIO) -> None:
        """``number`` is the errno of what the system refused."""
        super().__init__(message)
        self.errno = number


class AuditCorrupt(AuditError):
    """What is on disk is not what was signed; ``where`` names the file (inside the log) or the entry."""

    code = "AUDIT_CORRUPT"

    def __init__(self, where: str, what: str) -> None:
        super().__init__(f"{where}: {what}")
        self.where = where
        self.what = what


class AuditSealed(AuditError):
    """The log holds its SEAL: nothing may be appended after it."""

    code = "AUDIT_SEALED"


class ContentDiffers(AuditError, FileExistsError):
    """A name that may be written only once is taken, by other bytes."""

    code = "CONTENT_DIFFERS"

    def __init__(self) -> None:
        super().__init__("the name is taken by other bytes")
        self.errno = errno.EEXIST


class ProofInvalid(AuditError):
    """An inclusion or consistency proof that does not prove what it says."""

    code = "PROOF_INVALID"


class NoteError(AuditError):
    """Root of what can be wrong with a signed note or with a key."""

    code = "NOTE_ERROR"


class NoteMalformed(NoteError):
    """Not a signed note, a key or a checkpoint, byte for byte as its standard writes it."""

    code = "NOTE_MALFORMED"


class KeyUnsafe(NoteError):
    """A private key file that somebody besides its owner can read or write."""

    code = "KEY_UNSAFE"


class BadSignature(NoteError):
    """A signature in the name of a trusted key that this key did not make."""

    code = "NOTE_SIGNATURE_BAD"


class UnknownSigner(BadSignature):
    """A note without a signature by any key that we trust."""

    code = "NOTE_SIGNER_UNKNOWN"
