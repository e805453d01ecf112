"""Approvals as texts: only what was signed, to the byte, and only what we wholly understand."""

import base64
import copy
import hashlib
import json
from collections.abc import Iterator
from datetime import UTC, date, datetime
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from audit.entry import canonical
from audit.errors import EntryInvalid
from audit.note import Signer
from ethics_review.dossier import HEADER, draft_approval, load_approval
from ethics_review.errors import ApprovalError, ApprovalForged, ApprovalInvalid, ApprovalUntrusted
from ethics_review.vocabulary import Condition
from tests.simulators.reviewer import MODEL, Reviewer, fields

REVIEWER = Reviewer()
NOTE = REVIEWER.note()
TRUSTED = (REVIEWER.verifier,)
CODES = {"APPROVAL_INVALID", "APPROVAL_SIGNATURE", "APPROVAL_UNTRUSTED"}


def paths(value: Any, path: tuple[str | int, ...] = ()) -> Iterator[tuple[str | int, ...]]:
    """The path of every value inside a JSON document, its root left out."""
    inner = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, item in inner:
        yield (*path, key)
        yield from paths(item, (*path, key))


def parent(document: Any, path: tuple[str | int, ...]) -> Any:
    """The object or list that holds the value at `path`."""
    for key in path[:-1]:
        document = document[key]
    return document


def test_an_approval_is_read_as_signed() -> None:
    """What the reviewer signed is what the gate will see, all of it."""
    approval = load_approval(NOTE, TRUSTED)
    assert (approval.id, approval.criteria_set, approval.model) == ("TEST-2026-0001", "TEST-AI-MED/1.0", MODEL)
    assert approval.reviewer_org == "test-review-centre"
    assert (approval.valid_from, approval.valid_to) == (date(2026, 12, 1), date(2027, 5, 31))
    assert approval.starts_at == datetime(2026, 11, 30, 16, tzinfo=UTC)
    assert approval.ends_at == datetime(2027, 5, 31, 16, tzinfo=UTC)
    conditions = approval.conditions
    assert (conditions.modality, conditions.body_part, conditions.sex) == (("MR",), ("BRAIN", "HEAD"), ("F", "M"))
    assert (conditions.age_years, conditions.slice_spacing_mm) == ((18, 120), (0.5, 2.0))
    assert (conditions.manufacturer, conditions.site) == (("UIH", "SIEMENS HEALTHINEERS"), ("test-site",))
    assert conditions.max_autonomy == "A1"
    assert approval.signer == REVIEWER.verifier.name
    assert approval.note_digest == "sha256:" + hashlib.sha256(NOTE.encode()).hexdigest()


def test_the_text_to_sign_is_canonical() -> None:
    """The same fields in any order give one text: a header line and one line of canonical JSON."""
    text = draft_approval(fields())
    assert text == draft_approval(dict(reversed(list(fields().items()))))
    assert text == f"{HEADER}\n{canonical(fields()).decode()}\n"


def test_the_policy_is_a_digest_of_validity_and_conditions() -> None:
    """Two approvals with the same limits have one policy; any other limit is another policy."""
    policy = REVIEWER.approve().policy
    document = {"valid": fields()["valid"], "conditions": fields()["conditions"]}
    assert policy == "sha256:" + hashlib.sha256(canonical(document)).hexdigest()
    assert REVIEWER.approve(approval="OTHER", criteria_set="OTHER/2").policy == policy
    assert REVIEWER.approve(conditions={"sex": ["F"]}).policy != policy
    assert REVIEWER.approve(valid={"from": "2026-12-01", "to": "2027-06-01"}).policy != policy


@pytest.mark.parametrize(
    "change", ["flip the lowest bit", "flip the sixth bit", "drop", "double", "newline", "em dash"]
)
def test_every_change_of_one_character_is_refused(change: str) -> None:
    """Whichever single character of the note is changed, dropped or doubled, the note is refused with a code."""
    for place, character in enumerate(NOTE):
        changed = {
            "flip the lowest bit": chr(ord(character) ^ 1),
            "flip the sixth bit": chr(ord(character) ^ 32),
            "drop": "",
            "double": character * 2,
            "newline": "\n",
            "em dash": "\u2014",
        }[change]
        if changed == character:
            continue
        with pytest.raises(ApprovalError) as caught:
            load_approval(NOTE[:place] + changed + NOTE[place + 1 :], TRUSTED)
        assert caught.value.code in CODES


def test_every_changed_byte_of_the_file_is_refused() -> None:
    """Whichever byte of the file is changed, it is no longer text, or the note is refused with a code."""
    data = NOTE.encode()
    for place in range(len(data)):
        changed = bytearray(data)
        changed[place] ^= 1
        try:
            text = changed.decode()
        except UnicodeDecodeError:
            continue
        with pytest.raises(ApprovalError) as caught:
            load_approval(text, TRUSTED)
        assert caught.value.code in CODES


def test_a_changed_text_under_an_intact_signature_is_a_forgery() -> None:
    """The code tells a forged text from a mere mistake."""
    with pytest.raises(ApprovalForged) as caught:
        load_approval(NOTE.replace('"A1"', '"A4"'), TRUSTED)
    assert caught.value.code == "APPROVAL_SIGNATURE"


def test_a_stranger_is_not_trusted() -> None:
    """A good signature by a key that the site does not trust counts for nothing, under the trusted name as well."""
    for name in ("stranger.example/key", REVIEWER.verifier.name):
        stranger = Reviewer(Signer.generate(name))
        with pytest.raises(ApprovalUntrusted) as caught:
            load_approval(stranger.note(), TRUSTED)
        assert caught.value.code == "APPROVAL_UNTRUSTED"
    with pytest.raises(ApprovalUntrusted):
        load_approval(NOTE, ())


@pytest.mark.parametrize("note", ["", "\n", "hello", f"{HEADER}\n", draft_approval(fields()), "\ud800\n\n\u2014 a b\n"])
def test_what_is_no_signed_note_is_refused(note: str) -> None:
    """A text without a signature is no approval."""
    with pytest.raises(ApprovalInvalid) as caught:
        load_approval(note, TRUSTED)
    assert caught.value.code == "APPROVAL_INVALID"


@pytest.mark.parametrize(
    "text",
    [
        "zhiying-approval/2\n{}\n",
        "{}\n",
        f"{HEADER}\n\n",
        f"{HEADER}\n[]\n",
        f"{HEADER}\nnull\n",
        f"{HEADER}\nnot json\n",
        draft_approval(fields()) + "{}\n",
        draft_approval(fields()).replace('","', '", "', 1),
        f"{HEADER}\n{json.dumps(fields(), ensure_ascii=False, indent=1)}\n",
        f"{HEADER}\n{json.dumps(fields(criteria_set='测试/1'), sort_keys=True, separators=(',', ':'))}\n",
        draft_approval(fields()).replace('"A1"', '"A0","max_autonomy":"A1"'),
        f"{HEADER}\n" + "[" * 100_000 + "\n",
    ],
)
def test_a_signed_text_of_another_form_is_refused(text: str) -> None:
    """A trusted key's signature does not help a text that is not the one form: order, spaces, escapes and all."""
    with pytest.raises(ApprovalInvalid):
        load_approval(REVIEWER.signer.sign(text), TRUSTED)


EVERY_PATH = list(paths(fields()))


def refused_at(document: dict[str, Any]) -> str:
    """The key at which both the draft and the loading of `document`, signed by the reviewer, are refused."""
    with pytest.raises(ApprovalInvalid) as drafted:
        draft_approval(document)
    try:
        line = canonical(document).decode()
    except EntryInvalid:  # what cannot be written canonically cannot be signed at all
        return drafted.value.where
    with pytest.raises(ApprovalInvalid) as loaded:
        load_approval(REVIEWER.signer.sign(f"{HEADER}\n{line}\n"), TRUSTED)
    assert loaded.value.where == drafted.value.where
    return loaded.value.where


@pytest.mark.parametrize("path", [path for path in EVERY_PATH if isinstance(path[-1], str)])
def test_a_missing_key_is_refused(path: tuple[str | int, ...]) -> None:
    """Every key must be there, every condition above all: there is no silent "any"."""
    document = fields()
    del parent(document, path)[path[-1]]
    assert refused_at(document) == ".".join(str(key) for key in path)


@pytest.mark.parametrize(
    "path", [("x",), ("model", "x"), ("valid", "x"), ("conditions", "x"), ("conditions", "care_setting")]
)
def test_an_unknown_key_is_refused(path: tuple[str, ...]) -> None:
    """A condition that this version does not know is one that it would not keep."""
    document = fields()
    parent(document, path)[path[-1]] = "x"
    assert refused_at(document) == ".".join(path)


@settings(deadline=None)
@given(
    path=st.sampled_from(EVERY_PATH),
    value=st.one_of(
        st.none(), st.booleans(), st.integers(-9, 9), st.floats(), st.just({}), st.just([]), st.just(""), st.just(" x")
    ),
)
def test_a_value_of_the_wrong_kind_is_refused(path: tuple[str | int, ...], value: Any) -> None:
    """Whichever value is replaced by one of another kind, the approval is refused."""
    document = fields()
    was = parent(document, path)[path[-1]]
    if isinstance(was, int) and isinstance(value, int) and not isinstance(value, bool):
        return
    parent(document, path)[path[-1]] = value
    assert refused_at(document)


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("modality", ["*"]), ("modality", ["mr"]), ("modality", []), ("modality", ["MR", "MR"]), ("modality", "MR"),
        ("modality", ["M" * 17]), ("body_part", ["*"]), ("body_part", ["Brain"]), ("sex", ["*"]), ("sex", ["X"]),
        ("sex", ["f"]), ("age_years", [18]),
        ("age_years", [0, 10**400]), ("age_years", [18, 17]), ("age_years", [-1, 18]), ("age_years", [0, 151]),
        ("age_years", [18.0, 20.0]), ("age_years", ["18", "20"]), ("age_years", [False, True]), ("age_years", ["*"]),
        ("manufacturer", ["*", "UIH"]),
        ("manufacturer", ["uih"]), ("manufacturer", ["A  B"]), ("manufacturer", ["GE*"]),
        ("manufacturer", ["ＵＩＨ"]), ("site", ["*", "a"]), ("site", ["a b"]), ("site", ["测试"]), ("site", ["**"]),
        ("slice_spacing_mm", ["0", "1"]), ("slice_spacing_mm", ["2.0", "1.0"]), ("slice_spacing_mm", [1, 2]),
        ("slice_spacing_mm", ["1", "2", "3"]), ("slice_spacing_mm", [".5", "2"]), ("slice_spacing_mm", ["0.5", "2,0"]),
        ("slice_spacing_mm", ["0.5", "2.001"]), ("slice_spacing_mm", ["0.5", "1e1"]),
        ("slice_spacing_mm", ["00.5", "1"]),
        ("slice_spacing_mm", ["0.5", "１"]), ("slice_spacing_mm", ["0.5", "nan"]), ("slice_spacing_mm", ["-1", "1"]),
        ("max_autonomy", "*"), ("max_autonomy", "A5"), ("max_autonomy", "a1"), ("max_autonomy", ["A1"]),
    ],
)  # fmt: skip
def test_a_condition_that_is_not_plain_is_refused(key: str, value: Any) -> None:
    """Each condition has one plain form; the literal "*" stands alone, for manufacturer and site only."""
    assert refused_at(fields(conditions={key: value})).startswith(f"conditions.{key}")


@pytest.mark.parametrize(
    "changes",
    [
        {"approval": "a b"}, {"approval": ""}, {"approval": "x" * 65}, {"approval": "../x"},
        {"approval": "1.2.3.4.5.6"},
        {"criteria_set": "x" * 65}, {"reviewer_org": "a\nb"}, {"reviewer_org": "a\u200b"},
        {"valid": {"from": "2026-12-02", "to": "2026-12-01"}}, {"valid": {"from": "2026-12-1", "to": "2026-12-31"}},
        {"valid": {"from": "2026-02-29", "to": "2026-12-31"}}, {"valid": {"from": "20261201", "to": "20261231"}},
        {"valid": {"from": "2026-W49-1", "to": "2026-12-31"}}, {"valid": {"from": "0001-01-01", "to": "9999-12-31"}},
        {"valid": {"from": "2026-12-01", "to": "9999-12-31"}},
        {"valid": {"from": "２０２６-12-01", "to": "2027-01-01"}},
        {"model": {"name": "../x", "version": "1", "digest": MODEL.digest}},
        {"model": {"name": "x", "version": "1.2.3.4.5.6", "digest": MODEL.digest}},
        {"model": {"name": "x", "version": "1", "digest": "sha256:00"}},
    ],
)  # fmt: skip
def test_a_field_that_is_not_plain_is_refused(changes: dict[str, Any]) -> None:
    """Ids, days and models have one plain form, which the audit log and the file system can take."""
    assert refused_at(fields() | changes).startswith(next(iter(changes)))


def test_an_approval_too_long_for_the_log_is_refused_when_drafted() -> None:
    """An approval must fit in one entry of the audit log; the reviewer learns so before signing."""
    with pytest.raises(ApprovalInvalid):
        draft_approval(fields(conditions={"manufacturer": [f"VENDOR {n} ".ljust(64, "X") for n in range(250)]}))


def test_one_day_is_a_valid_validity() -> None:
    """Both ends of the validity are included, so that one day is enough."""
    approval = REVIEWER.approve(valid={"from": "2026-12-01", "to": "2026-12-01"})
    assert (approval.ends_at - approval.starts_at).total_seconds() == 86_400


def test_a_second_signature_by_a_stranger_changes_nothing_but_the_note() -> None:
    """Lines by unknown keys may stand beside the trusted one (C2SP signed-note), and are not believed."""
    stranger = Signer.generate("stranger.example/key")
    line = stranger.sign(draft_approval(fields())).rsplit("\n", 2)[1]
    approval = load_approval(f"{NOTE}{line}\n", TRUSTED)
    assert approval.signer == REVIEWER.verifier.name


def test_a_false_signature_beside_a_true_one_is_a_forgery() -> None:
    """A trusted name over a wrong signature refuses the note, even if another trusted key signed well."""
    second = Reviewer(Signer.generate("second.example/key"))
    line = second.note(approval="OTHER").rsplit("\n", 2)[1]
    with pytest.raises(ApprovalForged):
        load_approval(f"{NOTE}{line}\n", (REVIEWER.verifier, second.verifier))


def test_signatures_have_one_writing() -> None:
    """Base64 with spare bits or without padding is another writing of the same bytes, and refused."""
    head, _, last = NOTE.rstrip("\n").rpartition(" ")
    for other in (last.rstrip("="), last + "=", base64.urlsafe_b64encode(base64.b64decode(last)).decode() + " "):
        with pytest.raises(ApprovalError):
            load_approval(f"{head} {other}\n", TRUSTED)


def test_fields_are_not_changed_by_drafting() -> None:
    """Drafting only reads."""
    document = fields()
    before = copy.deepcopy(document)
    draft_approval(document)
    assert document == before
    assert set(document["conditions"]) == {condition.value for condition in Condition}
