"""Whose signature counts: the reviewers' keys that the site trusts, never the hospital's own."""

from collections.abc import Sequence

from audit.errors import BadSignature, NoteError, UnknownSigner
from audit.note import Verifier, open_note, parse_note
from ethics_review.errors import ApprovalForged, ApprovalInvalid, ApprovalUntrusted, SelfApproval


def open_trusted(note: str, trusted: Sequence[Verifier]) -> tuple[str, tuple[str, ...]]:
    """The note's text, and the names of all trusted keys that signed it, in the note's order.

    Raises ApprovalForged, ApprovalUntrusted, or ApprovalInvalid if it is not a signed note at all.
    """
    try:
        text, names = open_note(note, trusted)
    except UnknownSigner:
        raise ApprovalUntrusted("no key that this site trusts has signed the approval") from None
    except BadSignature:
        raise ApprovalForged("a trusted key's signature does not match the approval's text") from None
    except NoteError as wrong:
        raise ApprovalInvalid("(note)", str(wrong)) from None
    return text, tuple(names)


def refuse_operator_key(trusted: Sequence[Verifier], operator: Verifier) -> None:
    """Raise SelfApproval if a reviewer's key is the operator's: the same key, under whatever name."""
    if any(verifier.key == operator.key for verifier in trusted):
        raise SelfApproval("a trusted reviewer's key is this hospital's own key")


def refuse_operator_signature(note: str, operator: Verifier) -> None:
    """Raise SelfApproval if the operator's key signed, under whatever name and beside whomever.

    A reviewer's signature beside the operator's does not help: who drafts and who decides must stay apart.
    """
    try:
        parsed = parse_note(note)
    except NoteError as wrong:
        raise ApprovalInvalid("(note)", str(wrong)) from None
    for signature in parsed.signatures:
        try:
            operator.verify(parsed.text, signature.data)
        except BadSignature:
            continue
        raise SelfApproval("the approval is signed with this hospital's own key")
