"""What may be signed: approvals and acts, once each key; the note is the one that audit.note makes."""

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from audit.entry import canonical
from audit.note import Signer, open_note
from ethics_review.dossier import HEADER, draft_approval
from ethics_review.errors import ApprovalInvalid
from ethics_review.signing import ACT_HEADER, TEXT_CHARS_MAX, sign
from tests.simulators.reviewer import fields

ONE, TWO = Signer.generate("one.example/ai"), Signer.generate("two.example/ai")
ACT: dict[str, Any] = {"event": "BEGIN_REVIEW", "from": "SUBMITTED", "to": "UNDER_REVIEW", "after": None}


def act(value: object = ACT) -> str:
    """The text of an act."""
    return f"{ACT_HEADER}\n{canonical(value).decode()}\n"  # type: ignore[arg-type]


def test_terms_become_a_signed_approval() -> None:
    """JSON with an approval's keys is drafted and signed: the same note as by drafting and signing apart."""
    terms = json.dumps(fields(), ensure_ascii=False, indent=2).encode()

    made = sign(terms, ONE)

    assert made.note == ONE.sign(draft_approval(fields()))
    assert (made.kind, made.names, made.fields["approval"]) == (HEADER, ("one.example/ai",), "TEST-2026-0001")


@pytest.mark.parametrize("text", [draft_approval(fields()), act()], ids=["approval", "act"])
def test_a_text_and_then_a_second_signature(text: str) -> None:
    """A drafted text is signed as it is; a second key signs the same text, below the first."""
    first = sign(text.encode(), ONE)
    second = sign(first.note.encode(), TWO)

    assert first.note == ONE.sign(text)
    assert open_note(second.note, (ONE.verifier, TWO.verifier)) == (text, ("one.example/ai", "two.example/ai"))
    assert second.names == ("one.example/ai", "two.example/ai")
    assert second.note.startswith(first.note)


def test_one_key_signs_once() -> None:
    """Twice the same signer is not two signers."""
    note = sign(act().encode(), ONE).note
    with pytest.raises(ApprovalInvalid, match="already"):
        sign(note.encode(), ONE)
    both = sign(note.encode(), TWO).note
    with pytest.raises(ApprovalInvalid, match="already"):
        sign(both.encode(), ONE)


@pytest.mark.parametrize(
    "text",
    [
        "hospital.example/audit\n12\nCsUYapGGPo4dkMgIAUqom/Xajj7h2fB2MPA3j2jxq2I=\n",
        'zhiying.audit/restore/1\n{"reason":"BACKUP"}\n',
        "zhiying-act/2\n{}\n",
        f"{ACT_HEADER}\n{{}}",
        f"{ACT_HEADER}\n{{}}\n{{}}\n",
        f'{ACT_HEADER}\n{{"b":1,"a":2}}\n',
        f'{ACT_HEADER}\n{{"a": 1}}\n',
        f'{ACT_HEADER}\n{{"a":1,"a":1}}\n',
        f'{ACT_HEADER}\n{{"a":1.5}}\n',
        f"{ACT_HEADER}\n[]\n",
        f"{HEADER}\n{{}}\n",
        draft_approval(fields()).replace("zhiying-approval", "zhiying-act", 1).replace(":", ": ", 1),
        act({"statement": "x" * TEXT_CHARS_MAX}),
        "",
        "\n\n\n",
    ],
)
def test_other_texts_are_not_signed(text: str) -> None:
    """A checkpoint, a restore statement, an act that has two readings or none: no signature goes under them."""
    with pytest.raises(ApprovalInvalid):
        sign(text.encode(), ONE)


def test_a_note_of_another_kind_gets_no_second_signature() -> None:
    """That somebody has signed it already does not make it a text that is signed here."""
    with pytest.raises(ApprovalInvalid, match="an approval or an act"):
        sign(TWO.sign("hospital.example/audit\n12\nroot\n").encode(), ONE)


@pytest.mark.parametrize("data", [b"\xff\xfe", b"{", b"[" * 9999, b'{"approval":NaN}', b"zhiying-act/1\n{}\n\nx\n"])
def test_what_is_no_text_is_refused(data: bytes) -> None:
    """APPROVAL_INVALID for bytes that are neither terms, text nor note."""
    with pytest.raises(ApprovalInvalid):
        sign(data, ONE)


@given(st.binary(max_size=300))
def test_no_bytes_crash_it(data: bytes) -> None:
    """Whatever is laid before it: refused by name."""
    with pytest.raises(ApprovalInvalid):
        sign(data, ONE)
    with pytest.raises(ApprovalInvalid):
        sign(ACT_HEADER.encode() + b"\n" + data, ONE)
