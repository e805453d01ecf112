"""What a review can object to. Every error has a `code` from a closed set; none ever holds patient data.

ReviewError
+-- ApprovalError                            a note that is no approval for us
|   +-- ApprovalInvalid     APPROVAL_INVALID     not exactly the text that this version knows (reviewer)
|   +-- ApprovalForged      APPROVAL_SIGNATURE   a trusted key's signature does not match the text (alarming)
|   +-- ApprovalUntrusted   APPROVAL_UNTRUSTED   signed, but by no key that the site trusts (site)
|   +-- SelfApproval        SELF_APPROVAL        signed with the key of the hospital's own log (site)
|   +-- ApprovalReused      APPROVAL_REUSED      another note has been recorded under this approval id (reviewer)
+-- TrustInvalid            TRUST_INVALID        the trust policy is not one, at a line (site)
|                           ROLES_EXCLUDED       one person has two roles that must stay apart
|                           ORGANISATION_UNKNOWN KEY_TWICE
+-- ActRefused                               a signed act that does not count; `code` is one of
|                           ACT_INVALID          not exactly the text that this version knows
|                           ACT_SIGNATURE        a trusted key's signature does not match the text (alarming)
|                           ACT_UNTRUSTED        signed by nobody whom the trust policy knows
|                           ACT_ORDER            not made after the newest note on this dossier: make it anew
|                           ACT_STATE            the event cannot happen in this state
|                           ACT_SIGNERS ACT_ADMINISTRATOR ACT_SUBMITTER ACT_CONFLICT ACT_ORGANISATION ACT_PANEL
|                           ACT_GUARD            something else that the log must show is not so
+-- Refused                 see gate.py          the model may not be used for this, now
+-- PermitForged            PERMIT_FORGED        a permit was made or copied outside the gate (us)
"""


class ReviewError(Exception):
    """Base of all errors of this folder."""

    code: str = "REVIEW_ERROR"


class ApprovalError(ReviewError):
    """A note that is not an approval which this site can honour."""

    code = "APPROVAL_ERROR"


class ApprovalInvalid(ApprovalError):
    """The text is not exactly what this version knows; `where` names the key."""

    code = "APPROVAL_INVALID"

    def __init__(self, where: str, what: str) -> None:
        super().__init__(f"{where}: {what}")
        self.where = where
        self.what = what


class ApprovalForged(ApprovalError):
    """A signature that claims to be a trusted key's does not match the text."""

    code = "APPROVAL_SIGNATURE"


class ApprovalUntrusted(ApprovalError):
    """No key that the site trusts has signed the note."""

    code = "APPROVAL_UNTRUSTED"


class SelfApproval(ApprovalError):
    """The hospital's own key, which signs its log, cannot also be a reviewer's."""

    code = "SELF_APPROVAL"


class ApprovalReused(ApprovalError):
    """Another note has been recorded under this approval id: a changed approval needs a new id."""

    code = "APPROVAL_REUSED"


class TrustInvalid(ReviewError):
    """The trust policy cannot be used; `line` is the line at fault, from 1, or 0 for the whole."""

    def __init__(self, code: str, line: int, what: str) -> None:
        super().__init__(f"line {line}: {what}" if line else what)
        self.code = code
        self.line = line


class ActRefused(ReviewError):
    """A signed act that does not count; the code says why."""

    def __init__(self, code: str, what: str) -> None:
        super().__init__(what)
        self.code = code


class Refused(ReviewError):
    """The gate's no: the model may not be used for this, now.

    Attributes:
        code: one of `gate.REFUSALS`.
        condition: CODE of what decided (a condition of the vocabulary, STOP, STATE, OPT_OUT, VALIDITY or MODEL_DIGEST),
            or None.
        observed: class of what was observed, never a patient's own datum, or None.
        approval: id of the nearest approval, or None if there is none for this model.
    """

    def __init__(self, code: str, condition: str | None, observed: str | None, approval: str | None = None) -> None:
        parts = [code]
        if condition is not None:
            parts.append(f"{condition} is {observed or 'unknown'}")
        if approval is not None:
            parts.append(f"nearest approval {approval}")
        super().__init__("; ".join(parts))
        self.code = code
        self.condition = condition
        self.observed = observed
        self.approval = approval


class RequestInvalid(ReviewError):
    """A request to the gate is not well formed. A programming error."""

    code = "REQUEST_INVALID"


class PermitForged(ReviewError):
    """A permit was made, copied or unpickled outside the gate. A programming error, or an attack."""

    code = "PERMIT_FORGED"
