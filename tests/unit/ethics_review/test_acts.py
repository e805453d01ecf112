"""Signed acts: exactly one text for each, and only what this version knows."""

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from audit.note import Note, Signer, parse_note
from ethics_review import acts
from ethics_review.acts import STATEMENTS, Act, Switch
from ethics_review.errors import ActRefused
from ethics_review.states import Cause, Event, State
from tests.simulators.parties import D1, Parties
from tests.simulators.reviewer import MODEL

PARTIES = Parties()
TRUST = PARTIES.trust()
OPERATOR = Signer.generate("hospital.example/log")
STATED: dict[Event, dict[str, Any]] = {
    Event.SELF_ASSESS: {"submission": D1},
    Event.SUBMIT: {"submission": D1, "coi": ["test-vendor"], "documents": {"model card": D1}},
    Event.REFER: {"panel": ["a.example", "b.example"]},
    Event.PANEL_CLEAR: {"panel": ["a.example"]},
    Event.PANEL_REJECT: {"panel": ["a.example"]},
    Event.GO_LIVE: {"notice": D1, "training": D1, "drill": 7, "acceptance": 8},
    Event.SUSPEND: {"cause": "HARM"},
    Event.RESUME: {"root_cause": D1, "correction": D1, "golden": 9},
    Event.RESTRICT: {"condition": "SEX", "observed": "F"},
    Event.RETIRE: {"archive": D1},
    Event.COUNTERSIGN: {"report": D1},
    Event.FOLLOW_UP: {"report": D1},
}
ACTS = [event for event in Event if event not in {Event.APPROVE, Event.RENEW}]


def act(event: Event = Event.DEPLOY, **changes: Any) -> Act:
    """A well-formed act."""
    values: dict[str, Any] = {
        "after": D1,
        "event": event,
        "start": State.APPROVED,
        "to": State.SHADOW,
        "model": MODEL,
        "reason": "HARM" if event is Event.SUSPEND else "TEST",
        "statement": STATED.get(event, {}),
    }
    return Act(**(values | changes))


def code(note: str) -> str:
    """Why it is not read."""
    with pytest.raises(ActRefused) as caught:
        acts.read(note)
    return caught.value.code


def text_of(fields: object) -> str:
    """A text of any JSON."""
    line = json.dumps(fields, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    return f"{acts.HEADER}\n{line}\n"


@pytest.mark.parametrize("event", ACTS)
def test_what_is_drafted_is_read(event: Event) -> None:
    """Every event's act, and the same text again from what was read."""
    text = acts.draft(act(event))
    note = PARTIES.sign(text, "owner")
    read = acts.read(note)
    assert isinstance(read, Act)
    assert read == act(event, statement=read.statement)
    assert acts.draft(read) == text == parse_note(note).text


@pytest.mark.parametrize("event", ["STOP", "RESUME"])
def test_a_switch_is_read(event: str) -> None:
    """Of a site, and of the service."""
    for level, site in (("SITE", "test-site"), ("SERVICE", None)):
        switch = Switch(None, event, level, site, "DRILL")
        assert acts.read(PARTIES.sign(acts.draft(switch), "owner")) == switch


@pytest.mark.parametrize("event", ACTS)
def test_a_statement_has_its_keys_and_no_other(event: Event) -> None:
    """One key more, or one less, and it is no act."""
    assert set(STATED.get(event, {})) == set(STATEMENTS[event])
    stated = STATED.get(event, {})
    for wrong in [stated | {"more": D1}, *({k: v for k, v in stated.items() if k != key} for key in stated)]:
        with pytest.raises(ActRefused):
            acts.draft(act(event, statement=wrong))
        assert code(PARTIES.sign(text_of(act(event).fields() | {"statement": wrong}), "owner")) == "ACT_INVALID"


WRONG: list[dict[str, Any]] = [
    {"event": "APPROVE"},
    {"event": "RENEW"},
    {"event": "DANCE"},
    {"from": "LIMBO"},
    {"to": "NONE"},
    {"after": "sha256:1"},
    {"after": 5},
    {"reason": "a reason in words"},
    {"reason": "PATIENT_123456"},
    {"reason": ""},
    {"model": {"name": "x", "version": "1", "digest": "sha256:1"}},
    {"model": "small-model"},
    {"statement": None},
    {"more": 1},
]


@pytest.mark.parametrize("changes", WRONG)
def test_what_is_not_exactly_an_act_is_refused(changes: dict[str, Any]) -> None:
    """Unknown events, states, forms and keys."""
    assert code(PARTIES.sign(text_of(act().fields() | changes), "owner")) == "ACT_INVALID"
    assert acts.read(PARTIES.sign(text_of(act().fields()), "owner")) == act()


@pytest.mark.parametrize(
    ("event", "changes"),
    [
        (Event.SUBMIT, {"coi": "test-vendor"}),
        (Event.SUBMIT, {"coi": ["a", "a"]}),
        (Event.SUBMIT, {"coi": [5]}),
        (Event.SUBMIT, {"documents": {"a": "b"}}),
        (Event.SUBMIT, {"documents": {"": D1}}),
        (Event.SUBMIT, {"documents": []}),
        (Event.SUBMIT, {"documents": {str(n): D1 for n in range(65)}}),
        (Event.REFER, {"panel": ["a b"]}),
        (Event.REFER, {"panel": [f"p{n}" for n in range(101)]}),
        (Event.GO_LIVE, {"drill": -1}),
        (Event.GO_LIVE, {"drill": True}),
        (Event.GO_LIVE, {"drill": "7"}),
        (Event.GO_LIVE, {"drill": 2**53}),
        (Event.SUSPEND, {"cause": "WHIM"}),
        (Event.SUSPEND, {"cause": "DRILL"}),  # and the reason says HARM
        (Event.RESTRICT, {"condition": 5}),
        (Event.RESTRICT, {"observed": ""}),
        (Event.RETIRE, {"archive": "sha256:" + "A" * 64}),
    ],
)
def test_a_statement_of_another_form_is_refused(event: Event, changes: dict[str, Any]) -> None:
    """Digests, indexes, names and causes are what they are called."""
    with pytest.raises(ActRefused) as caught:
        acts.draft(act(event, statement=STATED[event] | changes))
    assert caught.value.code == "ACT_INVALID"


def test_one_act_has_one_text() -> None:
    """Spaces, order, another header, more lines, JSON that is none: not read."""
    text = acts.draft(act())
    line = text.split("\n")[1]
    other = json.dumps(json.loads(line), separators=(", ", ":"))
    turned = json.dumps(dict(reversed(json.loads(line).items())), separators=(",", ":"))
    for wrong in (other, turned, line + " ", line + "\n", line[:-1], line.replace('"reason"', '"reason":"A","reason"')):
        assert code(PARTIES.sign(f"{acts.HEADER}\n{wrong}\n", "owner")) == "ACT_INVALID"
    assert code(PARTIES.sign(text.replace("act/1", "act/2"), "owner")) == "ACT_INVALID"
    assert code("no note") == code("") == "ACT_INVALID"


@given(st.text(alphabet=st.characters(min_codepoint=32, max_codepoint=126), max_size=200))
def test_any_text_is_refused_with_a_code(line: str) -> None:
    """Nothing that is signed raises anything but a coded refusal."""
    assert code(PARTIES.sign(f"{acts.HEADER}\n{line}\n", "owner")) == "ACT_INVALID"


def test_a_text_that_the_log_could_not_take_is_not_drafted() -> None:
    """Sixty-four documents with long names are too many."""
    names = {"n" * 60 + f"{n:04d}": D1 for n in range(64)}
    stated = STATED[Event.SUBMIT] | {"documents": names, "coi": [f"{'c' * 60}{n}" for n in range(100)]}
    with pytest.raises(ActRefused):
        acts.draft(act(Event.SUBMIT, statement=stated))


@pytest.mark.parametrize(
    "switch",
    [
        Switch(None, "STOP", "SITE", None, "X"),
        Switch(None, "STOP", "SERVICE", "test-site", "X"),
        Switch(None, "PAUSE", "SERVICE", None, "X"),
        Switch(None, "STOP", "WORLD", None, "X"),
        Switch(None, "STOP", "SITE", "a site", "X"),
        Switch("x", "STOP", "SERVICE", None, "X"),
        Switch(None, "STOP", "SERVICE", None, "x"),
    ],
)
def test_a_switch_that_is_none_is_not_drafted(switch: Switch) -> None:
    """A site has its id, the service has none."""
    with pytest.raises(ActRefused):
        acts.draft(switch)


# ---- signatures -----------------------------------------------------------------------------------------------------


def signed_by(note: str) -> list[str]:
    """The names of those who signed."""
    return [person.name for person in acts.signed_by(note, TRUST, OPERATOR.verifier)]


def refusal(note: str) -> str:
    """Why its signatures do not count."""
    with pytest.raises(ActRefused) as caught:
        signed_by(note)
    return caught.value.code


def test_everybody_who_signed_is_named_once() -> None:
    """In the note's order; strangers count for nothing, and twice is once."""
    text = acts.draft(act())
    stranger = Signer.generate("stranger.example")
    ops, owner = PARTIES.signers["ops"], PARTIES.signers["owner"]
    assert signed_by(acts.sign(text, ops, stranger, owner, ops)) == ["ops.example", "owner.example"]
    assert refusal(acts.sign(text, stranger)) == "ACT_UNTRUSTED"


def test_a_forged_signature_refuses_the_whole() -> None:
    """Also beside good ones: somebody tried."""
    text = acts.draft(act())
    note = PARTIES.sign(text, "ops", "owner")
    assert refusal(note.replace('"TEST"', '"TESD"')) == "ACT_SIGNATURE"
    forged = parse_note(PARTIES.sign(acts.draft(act(reason="OTHER")), "owner")).signatures
    good = parse_note(PARTIES.sign(text, "ops")).signatures
    assert refusal(Note(text, (*good, *forged)).format()) == "ACT_SIGNATURE"
    assert refusal("no note") == "ACT_INVALID"


def test_the_logs_own_key_signs_nothing() -> None:
    """Beside whomever and under whatever name."""
    text = acts.draft(act())
    for own in (OPERATOR, OPERATOR.named("somebody.example")):
        assert refusal(acts.sign(text, PARTIES.signers["owner"], own)) == "ACT_UNTRUSTED"


def test_the_digest_is_of_the_whole_note() -> None:
    """Another signature is another note."""
    text = acts.draft(act())
    assert acts.digest(PARTIES.sign(text, "ops")) != acts.digest(PARTIES.sign(text, "ops", "owner"))
    assert set(Cause) >= {"HARM", "DRILL"}
