"""Entries: closed kinds, closed bodies, one sequence of bytes; and no way for a patient's data to get in."""

import json
import re
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta, timezone

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from audit.canonical import JsonValue
from audit.entry import BODIES, CALL_ABSENT, CALL_NEEDED, Draft, Entry, Kind, canonical, format_time, parse, parse_time
from audit.errors import EntryInvalid
from tests.simulators.audit_log import CALL, DIGEST, ORIGIN, SIGNER, STUDY, body

NULLABLE = {
    (Kind.DENIED, "condition"),
    (Kind.DENIED, "observed"),
    (Kind.DENIED, "model"),
    (Kind.CALL_INTENT, "requester"),
    (Kind.CALL_INTENT, "patient"),
    (Kind.LOG_START, "predecessor"),
    *((Kind.STATE_CHANGE, name) for name in ("condition", "observed", "evidence", "note", "note_digest")),
    (Kind.STOP, "site"),
    (Kind.RESUME, "site"),
    *((Kind.EVALUATION, name) for name in ("value", "limit", "subgroup")),
    *((Kind.HUMAN_DECISION, name) for name in ("reader", "training", "seconds", "concordance")),
    (Kind.GOLDEN, "difference"),
    *((Kind.CASE, name) for name in ("truth", "positive", "score", "dice", "volume_error")),
    (Kind.INCIDENT, "model"),
    *((Kind.WITHDRAWN, name) for name in ("person", "by")),
    *((Kind.RECONCILED, name) for name in ("peer", "from", "to")),
    *((Kind.LOOKBACK, name) for name in ("incident", "model", "approval", "condition", "observed", "from", "to")),
}
PURPOSEFUL = {Kind.CALL_INTENT, Kind.DENIED}
NOW = datetime(2026, 11, 23, 16, 7, 12, 123456, tzinfo=UTC)
BOOT = "b0" * 16
TICK_US = 1_234_567

# Each could come out of an image's header. None of them may find a place in any entry.
CANARIES = [
    "TEST^Phantom",
    "测试^幻影",
    "测试幻影",
    "Tést",
    "TEST=测试^幻影=",
    "P^0012345",
    "ID#4711",
    "19560229",
    "1956-02-29",
    "1956/02/29",
    "1956.2.9",
    "20261123160712",
    "110101195602291234",
    "A202611230001",
    "1.2.840.113619.2.55.3.604688119",
    "chest pain, since monday",
    "line\nbreak",
    "tab\there",
    "\u202ereversed",
    "",
    "x" * 65,
]
# Fields that hold names and versions of software, codes and our own measurements, never anything that was read from an
# image's header: digits are allowed there.
OURS = {
    "successor",
    "version",
    "approval",
    "code",
    "value",
    "device",
    "runtime",
    "software",
    "origin",
    "name",
    "unit",
    "timing_ms",
    "peer",
    "site",
}


def like_software(canary: str) -> bool:
    """Whether a canary is digits, letters, dots and dashes only, and no foreign UID: a version could look so."""
    return bool(re.fullmatch(r"[A-Za-z0-9./-]{1,64}", canary)) and canary.count(".") < 5


def draft(kind: Kind, content: dict[str, JsonValue] | None = None, **changes: str | None) -> Draft:
    """A good draft of a kind, but for the changes."""
    fields: dict[str, str | None] = {"key": f"{kind.lower()}:1", "call": CALL if kind in CALL_NEEDED else None}
    fields.update(changes)
    return Draft(kind, str(fields["key"]), body(kind) if content is None else content, fields["call"])


def places(value: JsonValue, path: tuple[str | int, ...] = ()) -> Iterator[tuple[str | int, ...]]:
    """The path of every string in a body."""
    if isinstance(value, str):
        yield path
    elif isinstance(value, dict):
        for key, item in value.items():
            yield from places(item, (*path, key))
    elif isinstance(value, list):
        for position, item in enumerate(value):
            yield from places(item, (*path, position))


def planted(value: JsonValue, path: tuple[str | int, ...], new: JsonValue) -> JsonValue:
    """The body with another value at a path."""
    copy: JsonValue = json.loads(json.dumps(value))
    inner = copy
    for step in path[:-1]:
        inner = inner[step]  # type: ignore[index, call-overload]
    inner[path[-1]] = new  # type: ignore[index, call-overload]
    return copy


@pytest.mark.parametrize("kind", Kind)
def test_every_kind_both_ways(kind: Kind) -> None:
    """Each kind has a body's rule, and survives its bytes."""
    entry = Entry.of(draft(kind), index=7, source="service", seq=3, now=NOW, boot=BOOT, tick_us=TICK_US)
    data = entry.to_bytes()
    again = parse(7, data)
    assert again == entry
    assert again.to_bytes() == data
    assert again.draft.content == draft(kind).content
    assert json.loads(data)["schema"] == "zhiying.audit/1"


@pytest.mark.parametrize("kind", [kind for kind in Kind if "purpose" not in body(kind)])
def test_only_calls_and_denials_may_have_a_purpose(kind: Kind) -> None:
    """It may be left out, as in logs that were begun before there was one; it is a code, and no patient fits in."""
    purposeful = draft(kind, body(kind) | {"purpose": "ACCEPTANCE"}) if kind in PURPOSEFUL else draft(kind)
    assert parse(7, Entry.of(purposeful, index=7, source="s", seq=3, now=NOW, boot=BOOT, tick_us=TICK_US).to_bytes())
    wrong: list[JsonValue] = [None, 1, ["ACCEPTANCE"], *CANARIES] if kind in PURPOSEFUL else ["ACCEPTANCE"]
    for purpose in wrong:
        with pytest.raises(EntryInvalid):
            draft(kind, body(kind) | {"purpose": purpose})
    if kind in PURPOSEFUL:
        with pytest.raises(EntryInvalid, match=r"holds 1 unknown field"):
            draft(kind, body(kind) | {"purpose": "ACCEPTANCE", "purposes": "ACCEPTANCE"})


def test_a_result_may_say_which_outputs_it_lacks() -> None:
    """Each by its name and a code, and no patient fits in; results of logs from before there was this have none."""
    content = body(Kind.CALL_RESULT)
    lacks: JsonValue = [{"output": "segment:2", "code": "OUTPUT_EMPTY"}]
    assert draft(Kind.CALL_RESULT, content | {"failed": lacks}).content
    wrong: list[JsonValue] = [None, "segment:2", [{"output": "segment:2"}], [{"output": "segment:2", "code": "empty"}]]
    wrong += [[{"output": canary, "code": "OUTPUT_EMPTY"}] for canary in ("1.2.840.10008.5.1", "张伟", "A^B")]
    for failed in wrong:
        with pytest.raises(EntryInvalid):
            draft(Kind.CALL_RESULT, content | {"failed": failed})


def test_a_decision_may_name_an_object_by_a_pseudonym_alone() -> None:
    """One that came back by DICOM; the object's own UID has no place there."""
    content = body(Kind.HUMAN_DECISION)
    assert draft(Kind.HUMAN_DECISION, content | {"object": "0f" * 16}).body["object"] == "0f" * 16
    wrong: list[JsonValue] = [None, 7, "2.25.1", *CANARIES]
    for named in wrong:
        with pytest.raises(EntryInvalid):
            draft(Kind.HUMAN_DECISION, content | {"object": named})


def test_golden_bytes() -> None:
    """The bytes of an entry, once and for all: what is hashed today must be hashed the same in thirty years."""
    entry = Entry.of(
        draft(Kind.FAILED, call=CALL), index=0, source="service", seq=0, now=NOW, boot=BOOT, tick_us=TICK_US
    )
    assert entry.to_bytes() == (
        b'{"body":{"code":"ENGINE_DIED","fault":"MODEL","stage":"INFER","study":"' + STUDY.encode() + b'"},'
        b'"boot":"' + BOOT.encode() + b'","call":"' + CALL.encode() + b'","key":"failed:1","kind":"FAILED",'
        b'"schema":"zhiying.audit/1","seq":0,"source":"service","tick_us":1234567,"time":"2026-11-23T16:07:12.123456Z"}'
    )


@pytest.mark.parametrize("kind", Kind)
def test_bodies_are_closed(kind: Kind) -> None:
    """A missing field is refused, and a field more, and null or a list or a float in place of a field."""
    good = body(kind)
    for name in good:
        with pytest.raises(EntryInvalid, match=name):
            draft(kind, {key: value for key, value in good.items() if key != name})
        for wrong in (1.5, [1], {"a": None}, True, -1, *([] if (kind, name) in NULLABLE else [None])):
            with pytest.raises(EntryInvalid):
                draft(kind, {**good, name: wrong})  # type: ignore[dict-item]
    with pytest.raises(EntryInvalid, match="unknown") as error:
        draft(kind, {**good, "PatientName": "TEST^Phantom"})
    assert "Phantom" not in str(error.value)
    assert "PatientName" not in str(error.value)


@pytest.mark.parametrize("canary", CANARIES)
@pytest.mark.parametrize("kind", Kind)
def test_no_patient_data_in_any_field(kind: Kind, canary: str) -> None:
    """Names in any script, patients' numbers, dates, foreign UIDs, free text: no field takes them or repeats them."""
    good = body(kind)
    for path in places(good):
        if OURS & set(path) and like_software(canary):
            continue
        with pytest.raises(EntryInvalid) as error:
            draft(kind, planted(good, path, canary))  # type: ignore[arg-type]
        assert not canary or canary not in str(error.value)


@pytest.mark.parametrize("canary", CANARIES)
def test_no_patient_data_as_a_key_of_a_table(canary: str) -> None:
    """The free keys of runtime and timing obey the rule as well."""
    if like_software(canary):
        return
    for kind, name, value in ((Kind.CALL_INTENT, "runtime", "1"), (Kind.CALL_RESULT, "timing_ms", 1)):
        with pytest.raises(EntryInvalid) as error:
            draft(kind, {**body(kind), name: {canary: value}})
        assert not canary or canary not in str(error.value)


@pytest.mark.parametrize("key", ["", "A", "a b", "测试", "a" * 129, "a^b", "a/b", "store:1.2.840.113619.2.55.3", "a\n"])
def test_bad_idempotency_keys_are_refused(key: str) -> None:
    """Lower case, digits and four marks; no foreign UID."""
    with pytest.raises(EntryInvalid) as error:
        draft(Kind.FAILED, key=key)
    assert not key or key not in str(error.value)


def test_call_is_there_where_it_must_be() -> None:
    """Calls name themselves; what belongs to no call does not; and a call is 32 hexadecimal digits."""
    for kind in CALL_NEEDED:
        with pytest.raises(EntryInvalid, match="call"):
            draft(kind, call=None)
    for kind in CALL_ABSENT:
        with pytest.raises(EntryInvalid, match="call"):
            draft(kind, call=CALL)
    for call in ("", "C" * 32, "c" * 31, "1.2.840", "TEST^Phantom"):
        with pytest.raises(EntryInvalid, match="call"):
            draft(Kind.FAILED, call=call)


def test_the_sites_own_id_may_be_a_number() -> None:
    """An institution's number is of our configuration; the same digits under any other condition are refused."""
    number = "12330100470051726F"
    for condition in ("SITE", "AGE_YEARS"):
        check: JsonValue = [{"condition": condition, "outcome": "MET", "observed": number}]
        for kind, change in (
            (Kind.CALL_INTENT, {"checks": check}),
            (Kind.DENIED, {"condition": condition.lower(), "observed": number}),
        ):
            content: dict[str, JsonValue] = {**body(kind), **change}
            if condition == "SITE":
                draft(kind, content)
            else:
                with pytest.raises(EntryInvalid, match="observed"):
                    draft(kind, content)


def test_own_uids_and_decimals_are_canonical() -> None:
    """Only UIDs that we mint, as we mint them; decimals without exponent, plus or leading zeroes."""
    result = body(Kind.CALL_RESULT)
    for uid in ("1.2.3", "2.25", "2.25.01", "2.25.1.2", "2.25." + "9" * 40, "2.25.x"):
        with pytest.raises(EntryInvalid):
            draft(Kind.CALL_RESULT, {**result, "outputs": [{"kind": "SR", "uid": uid, "digest": DIGEST}]})
    for value in ("1e3", "+1", "01", ".5", "5.", "", "NaN", "-", "1,5"):
        with pytest.raises(EntryInvalid):
            draft(Kind.CALL_RESULT, {**result, "measurements": [{"code": "a", "value": value, "unit": "cm3"}]})
    for value in ("0", "-0.5", "1951.3", "12"):
        draft(Kind.CALL_RESULT, {**result, "measurements": [{"code": "a", "value": value, "unit": "cm3"}]})


def test_an_approval_is_a_signed_note() -> None:
    """Free text does not pass as an approval."""
    for note in ("", "TEST^Phantom", "text\n", SIGNER.sign("a\n")[:-1], SIGNER.sign("a" * 16_000 + "\n")):
        with pytest.raises(EntryInvalid):
            draft(Kind.APPROVAL, {"note": note, "note_digest": DIGEST})


def test_too_large_bodies_are_refused() -> None:
    """An entry's length fits 16 bits, and lists have an end."""
    check: JsonValue = {"condition": "A" * 40, "outcome": "MET", "observed": "x" * 64}
    draft(Kind.CALL_INTENT, {**body(Kind.CALL_INTENT), "checks": [check] * 256})
    with pytest.raises(EntryInvalid):
        draft(Kind.CALL_INTENT, {**body(Kind.CALL_INTENT), "checks": [check] * 257})
    with pytest.raises(EntryInvalid):
        parse(0, b'"' + b"a" * 65_534 + b'"')
    wide: dict[str, JsonValue] = {f"{number:064d}": "1" * 64 for number in range(256)}
    large: JsonValue = {"condition": "A" * 64, "outcome": "B" * 64, "observed": "x" * 64}
    with pytest.raises(EntryInvalid, match="too large"):
        draft(Kind.CALL_INTENT, {**body(Kind.CALL_INTENT), "checks": [large] * 256, "runtime": wide})


def test_drafts_are_read_only() -> None:
    """What was checked cannot be changed afterwards."""
    content = body(Kind.CALL_INTENT)
    made = draft(Kind.CALL_INTENT, content)
    before = made.content
    content["study"] = "TEST^Phantom"
    content["checks"].append({})  # type: ignore[union-attr]
    assert made.content == before
    with pytest.raises(TypeError):
        made.body["study"] = "x"  # type: ignore[index]
    with pytest.raises(AttributeError):
        made.body["checks"].append({})  # type: ignore[union-attr]


def test_envelopes_are_closed() -> None:
    """Unknown or missing fields, other schemas and kinds, wrong types, bytes that are not canonical: refused."""
    data = Entry.of(
        draft(Kind.FAILED), index=0, source="service", seq=0, now=NOW, boot=BOOT, tick_us=TICK_US
    ).to_bytes()
    good = json.loads(data)
    wrong: list[dict[str, JsonValue]] = [
        {key: value for key, value in good.items() if key != "call"},
        {**good, "comment": "x"},
        {**good, "schema": "zhiying.audit/2"},
        {**good, "kind": "OTHER"},
        {**good, "kind": 1},
        {**good, "key": None},
        {**good, "seq": -1},
        {**good, "seq": True},
        {**good, "seq": "0"},
        {**good, "source": "two words"},
        {**good, "source": "测试"},
        {**good, "time": "2026-11-23T16:07:12Z"},
        {**good, "time": "2026-11-23T16:07:12.123456+00:00"},
        {**good, "time": "2026-02-30T16:07:12.123456Z"},
        {**good, "time": 0},
        {**good, "body": []},
        {**good, "call": 1},
        {**good, "boot": None},
        {**good, "boot": "B0" * 16},
        {**good, "tick_us": -1},
        {**good, "tick_us": True},
        {**good, "tick_us": 1.5},
    ]
    for value in wrong:
        with pytest.raises(EntryInvalid):
            parse(0, canonical(value))
    for raw in (data + b"\n", data.replace(b'":', b'": ', 1), b"", b"[]", b"null", data[:-1]):
        with pytest.raises(EntryInvalid):
            parse(0, raw)


@settings(max_examples=300, deadline=None)
@given(st.integers(0, 10_000), st.integers(0, 255))
def test_what_parses_reformats_to_the_same_bytes(at: int, value: int) -> None:
    """Whatever one changed byte makes of an entry: refused, or exactly what we would have written."""
    data = bytearray(
        Entry.of(draft(Kind.CALL_INTENT), index=0, source="s", seq=0, now=NOW, boot=BOOT, tick_us=TICK_US).to_bytes()
    )
    data[at % len(data)] = value
    try:
        entry = parse(0, bytes(data))
    except EntryInvalid:
        return
    assert entry.to_bytes() == bytes(data)


def test_times_are_utc_with_microseconds() -> None:
    """Another zone is converted; a naive time is refused; both ways."""
    china = NOW.astimezone(timezone(timedelta(hours=8)))
    assert format_time(china) == format_time(NOW) == "2026-11-23T16:07:12.123456Z"
    assert parse_time("2026-11-23T16:07:12.123456Z") == NOW
    assert format_time(NOW.replace(microsecond=0)).endswith(".000000Z")
    with pytest.raises(EntryInvalid):
        format_time(NOW.replace(tzinfo=None))


def test_every_kind_has_a_rule_and_a_sample() -> None:
    """The table of bodies and the tests' samples cover all kinds."""
    assert set(BODIES) == set(Kind)
    assert body(Kind.LOG_START)["origin"] == ORIGIN
    with pytest.raises(EntryInvalid):
        Draft("FAILED", "k", body(Kind.FAILED))  # type: ignore[arg-type]
