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
from audit.schema import NOTE_CHARS_MAX
from ethics_review.dossier import HEADER, Limits, draft_approval, load_approval
from ethics_review.errors import ApprovalError, ApprovalForged, ApprovalInvalid, ApprovalUntrusted
from ethics_review.vocabulary import Condition
from models.codes import AUTONOMY_LEVELS
from tests.simulators.reviewer import MODEL, TERMS, Reviewer, fields

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


def dotted(path: tuple[str | int, ...]) -> str:
    """A path as errors write it: acceptance[0].metric."""
    return "".join(f"[{key}]" if isinstance(key, int) else f".{key}" for key in path).removeprefix(".")


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
    assert (conditions.care_setting, conditions.reading_mode) == (("IP", "OP"), ("second_reader",))
    assert (conditions.max_calls_day, conditions.require) == (2000, ("opt_out_check", "pia:PIA-2026-03"))
    assert (approval.submission, approval.on_breach) == ("sha256:" + "1" * 64, "RESTRICT")
    assert (approval.follow_up_days, approval.listed) == (365, False)
    assert approval.monitor == TERMS["monitor"]
    assert list(approval.acceptance) == TERMS["acceptance"]
    assert approval.signers == (REVIEWER.verifier.name,)
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
        "zhiying-approval/1\n{}\n",
        draft_approval(fields()).replace("/2\n", "/1\n", 1),
        "{}\n",
        f"{HEADER}\n\n",
        f"{HEADER}\n[]\n",
        f"{HEADER}\nnull\n",
        f"{HEADER}\nnot json\n",
        draft_approval(fields()) + "{}\n",
        draft_approval(fields()).replace('","', '", "', 1),
        f"{HEADER}\n{json.dumps(fields(), ensure_ascii=False, indent=1)}\n",
        f"{HEADER}\n{json.dumps(fields(criteria_set='审查/1'), sort_keys=True, separators=(',', ':'))}\n",
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
    assert refused_at(document) == dotted(path)


@pytest.mark.parametrize(
    "path",
    [("x",), *((key, "x") for key in ("model", "valid", "follow_up", "conditions", "monitor")), ("acceptance", 0, "x")],
)
def test_an_unknown_key_is_refused(path: tuple[str | int, ...]) -> None:
    """A condition that this version does not know is one that it would not keep."""
    document = fields()
    parent(document, path)[path[-1]] = "x"
    assert refused_at(document) == dotted(path)


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
    same_kind = type(was) is type(value) and isinstance(was, int)
    may_be_nothing = (path[-1] == "require" and value == []) or (path[-1] == "subgroup" and value is None)
    if same_kind or (was is None and value is None) or may_be_nothing:
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
        ("max_autonomy", "*"), ("max_autonomy", "A5"), ("care_setting", ["ICU"]),
        ("care_setting", ["*", "IP"]), ("care_setting", ["ip"]),
        ("care_setting", []), ("reading_mode", ["second reader"]), ("reading_mode", ["*", "triage"]),
        ("reading_mode", "*"),
        ("max_calls_day", 0), ("max_calls_day", 100_000), ("max_calls_day", -1), ("max_calls_day", "10"),
        ("max_calls_day", [10]), ("require", ["opt_out"]), ("require", ["opt_out_check "]),
        ("require", ["OPT_OUT_CHECK"]),
        ("require", ["pia:"]), ("require", ["pia: x"]), ("require", ["pia:x y"]), ("require", ["minors:"]),
        ("require", ["registration:"]), ("require", ["registration:国械注准"]), ("require", ["registration:张三 1"]),
        ("require", ["notice:1"]), ("require", ["*"]), ("require", ["pia:a", "pia:a"]), ("require", "opt_out_check"),
        ("require", ["pia:" + "x" * 49]), ("require", [None]), ("max_autonomy", "a1"), ("max_autonomy", ["A1"]),
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
        {"submission": "sha256:00"}, {"submission": "sha256:" + "5B" * 32}, {"on_breach": "ALERT"}, {"on_breach": ""},
        {"follow_up": {"days": 0, "listed": False}}, {"follow_up": {"days": 366, "listed": False}},
        {"follow_up": {"days": 183, "listed": True}}, {"follow_up": {"days": 1, "listed": 0}},
        {"follow_up": {"days": True, "listed": True}}, {"follow_up": {"days": "90", "listed": True}},
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
    assert approval.signers == (REVIEWER.verifier.name,)


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


@pytest.mark.parametrize(
    ("under", "begins", "rule", "loads"),
    [
        (14, 14, False, True), (14, 13, False, False), (14, 13, True, True), (14, 0, False, False),
        (14, 0, True, True), (18, 17, False, False), (18, 18, False, True), (0, 0, False, True),
    ],
)  # fmt: skip
def test_ages_that_begin_among_minors_want_a_rule_for_them(under: int, begins: int, rule: bool, loads: bool) -> None:
    """Below the policy's age an approval names a special rule, or is not loadable; the age is the policy's."""
    limits = Limits(minors_under=under)
    document = fields(conditions={"age_years": [begins, 120], "require": ["minors:R-1"] if rule else []})
    if loads:
        text = draft_approval(document, limits)
        conditions = load_approval(REVIEWER.signer.sign(text), TRUSTED, limits).conditions
        assert (conditions.minors_under, conditions.age_years) == (under, (begins, 120))
    else:
        with pytest.raises(ApprovalInvalid) as caught:
            draft_approval(document, limits)
        assert caught.value.where == "conditions.require"


@pytest.mark.parametrize("level", AUTONOMY_LEVELS)
@pytest.mark.parametrize("listed", [True, False])
def test_what_acts_without_a_physician_is_listed(level: str, listed: bool) -> None:
    """From A3 on an approval is loadable only where it says that it is on the list of what experts re-review."""
    document = fields(conditions={"max_autonomy": level}, follow_up={"days": 90, "listed": listed})
    if listed or level < "A3":
        assert draft_approval(document)
    else:
        assert refused_at(document) == "follow_up.listed"


def test_the_longest_follow_up_is_the_policys() -> None:
    """How long until a review comes from the site's policy, not from the reviewer."""
    limits = Limits(follow_up_days=30, follow_up_days_listed=10)
    for days, listed, loads in ((30, False, True), (31, False, False), (10, True, True), (11, True, False)):
        document = fields(follow_up={"days": days, "listed": listed})
        if loads:
            assert draft_approval(document, limits)
        else:
            with pytest.raises(ApprovalInvalid):
                draft_approval(document, limits)


def test_all_trusted_signers_are_named() -> None:
    """Two reviewers signed: both are named, in the note's order, and a stranger is not."""
    second, stranger = (Reviewer(Signer.generate(name)) for name in ("second.example/key", "stranger.example/key"))
    text = draft_approval(fields())
    lines = "".join(one.signer.sign(text).rpartition("\n\n")[2] for one in (REVIEWER, stranger, second))
    note = f"{text}\n{lines}"
    both = (REVIEWER.verifier.name, second.verifier.name)
    assert load_approval(note, (second.verifier, REVIEWER.verifier)).signers == both
    assert load_approval(note, (second.verifier,)).signers == both[1:]


def test_a_note_too_long_for_the_log_is_refused_when_loaded() -> None:
    """A note with so many signatures that no entry takes it is no approval; a panel's fit beside the longest text."""
    strangers = [Signer.generate(f"stranger-{number}.example/key") for number in range(40)]
    vendors = [f"VENDOR {number} ".ljust(64, "X") for number in range(155)]
    text = draft_approval(fields(conditions={"manufacturer": vendors}))
    assert len(text) > 11_500
    for count in (7, 40):
        note = REVIEWER.signer.sign(text) + "".join(one.sign(text).rpartition("\n\n")[2] for one in strangers[:count])
        if count == 7:
            assert load_approval(note, TRUSTED)
            continue
        assert len(note) > NOTE_CHARS_MAX
        with pytest.raises(ApprovalInvalid):
            load_approval(note, TRUSTED)


WORDS = st.text("ABCDEFGHIJKLMNOPQRSTUVWXYZ_", min_size=1, max_size=16)
TOKENS = ("opt_out_check", "pia:P-1", "minors:M-1", "registration:国械注准20253210001", "pia:", "x")


@settings(deadline=None)
@given(
    words=st.lists(WORDS, min_size=1, max_size=5, unique=True),
    ages=st.tuples(st.integers(-1, 151), st.integers(0, 150)),
    calls=st.integers(0, 100_000),
    days=st.integers(0, 366),
    require=st.lists(st.sampled_from(TOKENS), max_size=4),
    n=st.integers(0, 40),
    most=st.one_of(st.none(), st.decimals(-1, 1, places=3).map(str)),
)
def test_whatever_is_loaded_gives_the_same_bytes_again(
    words: list[str], ages: tuple[int, int], calls: int, days: int, require: list[str], n: int, most: str | None
) -> None:
    """For any document: it is refused, or its text, made again from what was read, is what was signed."""
    conditions = {
        "modality": words,
        "age_years": [min(ages), max(ages)],
        "max_calls_day": calls,
        "require": require,
    }
    bound = {"metric": "AUC", "subgroup": None, "n": n, "at_least": "-0.5", "at_most": most}
    document = fields(conditions=conditions, follow_up={"days": days, "listed": days < 183}, acceptance=[bound])
    line = canonical(document).decode()
    try:
        approval = load_approval(REVIEWER.signer.sign(f"{HEADER}\n{line}\n"), TRUSTED)
    except ApprovalInvalid:
        with pytest.raises(ApprovalInvalid):
            draft_approval(document)
        return
    read = {key: getattr(approval.conditions, key) for key in document["conditions"]}
    again = {
        "approval": approval.id,
        "criteria_set": approval.criteria_set,
        "model": {name: getattr(approval.model, name) for name in ("name", "version", "digest")},
        "reviewer_org": approval.reviewer_org,
        "submission": approval.submission,
        "valid": {"from": str(approval.valid_from), "to": str(approval.valid_to)},
        "follow_up": {"days": approval.follow_up_days, "listed": approval.listed},
        # Spacings are the one thing that is a number once it is read.
        "conditions": {key: list(value) if isinstance(value, tuple) else value for key, value in read.items()}
        | {"slice_spacing_mm": [str(one) for one in approval.conditions.slice_spacing_mm]},
        "monitor": dict(approval.monitor),
        "acceptance": [dict(bound) for bound in approval.acceptance],
        "on_breach": approval.on_breach,
    }
    assert canonical(again).decode() == line
