"""What may be signed, on the hospital's side as on the reviewer's: an approval or an act, never any other text.

Somebody who signs whatever is laid before them would one day sign a checkpoint, or a statement that a log may go on.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from audit.entry import JsonValue, canonical
from audit.errors import EntryInvalid, NoteError
from audit.note import Signer, parse_note
from ethics_review.dossier import HEADER, draft_approval
from ethics_review.errors import ApprovalInvalid
from models.strict import Malformed, parse_json

ACT_HEADER: Final = "zhiying-act/1"
TEXT_CHARS_MAX: Final = 12_000
"""As in dossier.py: it becomes one entry of the log, with its signatures."""


@dataclass(frozen=True, slots=True)
class Signed:
    """A signed note. `kind`: its header. `fields`: what it says. `names`: who signed, in order."""

    note: str
    kind: str
    fields: Mapping[str, JsonValue]
    names: tuple[str, ...]


def sign(data: bytes, signer: Signer) -> Signed:
    """Sign an approval's terms (JSON), a drafted text, or a note that others have signed. Raises ApprovalInvalid."""
    text, signatures, names = _opened(data)
    header, _, line = text.partition("\n")
    fields = _fields(header, line)
    if any((one, key) == (signer.name, signer.verifier.key_id) for one, key in names):
        raise ApprovalInvalid("(note)", "this key has signed it already")
    ours = signer.sign(text).removeprefix(text)
    note = text + "\n" + signatures + ours.removeprefix("\n")
    return Signed(note, header, fields, (*(name for name, _ in names), signer.name))


def _opened(data: bytes) -> tuple[str, str, tuple[tuple[str, int], ...]]:
    """The text, the lines of signatures under it, and (name, key id) of each."""
    if data.lstrip()[:1] == b"{":
        try:
            return draft_approval(_object(parse_json(data))), "", ()
        except Malformed as wrong:
            raise ApprovalInvalid(wrong.where, wrong.what) from None
    try:
        text = data.decode()
    except UnicodeDecodeError:
        raise ApprovalInvalid("(document)", "not text") from None
    if "\n\n" not in text:
        return text, "", ()
    try:
        parsed = parse_note(text)
    except NoteError as wrong:
        raise ApprovalInvalid("(note)", str(wrong)) from None
    lines = "".join(signature.format() for signature in parsed.signatures)
    return parsed.text, lines, tuple((one.name, one.key_id) for one in parsed.signatures)


def _fields(header: str, line: str) -> Mapping[str, JsonValue]:
    if header not in {HEADER, ACT_HEADER} or len(line) > TEXT_CHARS_MAX:
        raise ApprovalInvalid("(document)", f"an approval or an act wanted: {HEADER} or {ACT_HEADER} is its first line")
    try:
        value = parse_json(line.encode())
        same = canonical(value) + b"\n" == line.encode()
    except (Malformed, EntryInvalid, UnicodeEncodeError):
        same = False
    if not same:
        raise ApprovalInvalid("(document)", "canonical JSON (RFC 8785) on one line wanted")
    fields = _object(value)
    if header == HEADER:
        draft_approval(fields)  # raises for what the gate could not check
    return fields


def _object(value: JsonValue) -> Mapping[str, JsonValue]:
    if not isinstance(value, Mapping):
        raise ApprovalInvalid("(document)", "an object wanted")
    return value
