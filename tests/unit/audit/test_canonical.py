"""Canonical JSON against RFC 8785."""

import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from audit.canonical import INTEGER_MAX, JsonValue, canonical, frozen, parse_canonical
from audit.errors import EntryInvalid

VALUES = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-INTEGER_MAX, INTEGER_MAX)
    | st.text(st.characters(exclude_categories=["Cs"]), max_size=8),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.text(st.characters(exclude_categories=["Cs"]), max_size=4), inner, max_size=3)
    ),
    max_leaves=8,
)


def test_rfc_8785_section_3_2_2_strings_and_literals() -> None:
    """The example of section 3.2.2, less its numbers, gives the bytes of section 3.2.4."""
    value = json.loads(
        r'{"string": "\u20ac$\u000F\u000aA' + "'" + r'\u0042\u0022\u005c\\\"\/", "literals": [null, true, false]}'
    )
    expected = '{"literals":[null,true,false],"string":"€$\\u000f\\nA\'B\\"\\\\\\\\\\"/"}'
    assert canonical(value) == expected.encode()


def test_rfc_8785_section_3_2_3_key_order() -> None:
    """Keys are sorted by UTF-16 code units: the smiley (a surrogate pair) comes before the Hebrew letter's block."""
    value: dict[str, JsonValue] = {
        "\u20ac": "Euro Sign",
        "\r": "Carriage Return",
        "\ufb33": "Hebrew Letter Dalet With Dagesh",
        "1": "One",
        "\U0001f600": "Emoji: Grinning Face",
        "\u0080": "Control",
        "\u00f6": "Latin Small Letter O With Diaeresis",
    }
    assert list(json.loads(canonical(value)).values()) == [
        "Carriage Return",
        "One",
        "Control",
        "Latin Small Letter O With Diaeresis",
        "Euro Sign",
        "Emoji: Grinning Face",
        "Hebrew Letter Dalet With Dagesh",
    ]


def test_every_control_character_is_escaped_as_the_rfc_says() -> None:
    """Short escapes where there are, else lower-case hexadecimal; DEL and beyond stay as they are."""
    short = {8: "\\b", 9: "\\t", 10: "\\n", 12: "\\f", 13: "\\r"}
    for code in range(0x20):
        escape = short.get(code, "\\u" + format(code, "04x"))
        assert canonical(chr(code)) == f'"{escape}"'.encode()
    assert canonical("\x7f\u2028/") == '"\x7f\u2028/"'.encode()


@pytest.mark.parametrize(
    "value",
    [1.5, 1e0, float("nan"), 2**53, -(2**53), "\ud800", {"\udc00": 1}, {1: 2}, b"x", {"a": {1, 2}}, object()],
)
def test_what_json_without_floats_lacks_is_refused(value: JsonValue) -> None:
    """Floats, integers that other readers round, lone surrogates, keys that are no strings, other types."""
    with pytest.raises(EntryInvalid):
        canonical(value)


def test_deep_nesting_is_refused_both_ways() -> None:
    """Hostile depth ends in a refusal, not in an exhausted stack."""
    value: JsonValue = 1
    for _ in range(40):
        value = [value]
    with pytest.raises(EntryInvalid):
        canonical(value)
    with pytest.raises(EntryInvalid):
        parse_canonical(b"[" * 60_000)


@pytest.mark.parametrize(
    "data",
    [
        b'{"a":1, "b":2}',
        b'{"b":1,"a":2}',
        b'{"a":1,"a":1}',
        b'"\\u0041"',
        b'"\\/"',
        b"1.0",
        b"1e3",
        b"-0",
        b"01",
        b"NaN",
        b"Infinity",
        b" 1",
        b"1\n",
        b"",
        b"\xff",
        b'"\\ud800"',
        b"\xef\xbb\xbf1",
        b"9007199254740992",
        b"1" * 5000,
    ],
)
def test_bytes_that_are_not_canonical_are_refused(data: bytes) -> None:
    """One value has one sequence of bytes; all others are refused."""
    with pytest.raises(EntryInvalid):
        parse_canonical(data)


@settings(max_examples=150, deadline=None)
@given(VALUES)
def test_both_ways(value: JsonValue) -> None:
    """What is formatted parses, and formats to the same bytes again."""
    data = canonical(value)
    assert canonical(parse_canonical(data)) == data
    assert json.loads(data) == value


@settings(max_examples=200, deadline=None)
@given(st.binary(max_size=12) | st.text(max_size=12).map(lambda text: text.encode("utf-8", "surrogatepass")))
def test_what_parses_reformats_to_the_same_bytes(data: bytes) -> None:
    """Arbitrary bytes are refused, or are exactly what we would write."""
    try:
        value = parse_canonical(data)
    except EntryInvalid:
        return
    assert canonical(value) == data


def test_frozen_is_deep() -> None:
    """A read-only copy has no mutable part, and is not changed through the original."""
    inner: list[JsonValue] = [1]
    copy = frozen({"a": inner})
    inner.append(2)
    assert canonical(copy) == b'{"a":[1]}'
    with pytest.raises(TypeError):
        copy["a"] = 1  # type: ignore[index, call-overload]
