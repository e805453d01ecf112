"""Human decisions: who may say so, what may be said, once; and nothing sent comes back or is logged."""

import json
import threading
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from audit.entry import Draft, Entry, Kind
from audit.errors import AuditUnavailable
from ethics_review.facts import Decision as Judgement
from ethics_review.monitor import FALSE_POSITIVE, MISSED
from service import decisions
from service.bodies import BODY_BYTES_MAX
from service.config import Config
from service.decisions import DecisionRefused, Reader, parse_decision
from service.sections import ReaderSection
from service.store import Run, State
from tests.simulators.audit_log import body
from tests.simulators.readers import PSEUDONYMS, TOKENS, TRAINING, Door, bearer
from tests.simulators.watched import Ward

MODIFIED = {"decision": "MODIFY", "reasons": ["MEASURE"], "significant": "YES"}
UNKNOWN = "0" * 32
NAME = "ZHANG SAN 张三"


@pytest.fixture
def door(ward: Ward, tmp_path: Path) -> Door:
    """The service's API over it."""
    return Door(ward, tmp_path)


def error(answer: Any) -> tuple[int, str]:
    """Status and code of an error, which has the one shape of all of them."""
    said = answer.json()
    assert set(said) == {"error"}
    assert set(said["error"]) == {"code", "message"}
    return answer.status_code, said["error"]["code"]


def test_a_decision_is_an_entry(ward: Ward, door: Door) -> None:
    """All that was said, with the reader's pseudonym, role and training; the value before is the log's."""
    call = ward.call()
    answer = door.decide(
        call,
        **MODIFIED,
        seconds=41,
        blinded="YES",
        difference=[{"code": "118565006", "after": "1890.0"}],
        concordance="MINOR_DISCORDANT",
    )

    assert answer.status_code == 201
    (entry,) = ward.decisions()
    assert entry.call == call
    assert dict(entry.body) == {
        "decision": "MODIFY",
        "reasons": ("MEASURE",),
        "significant": "YES",
        "reader": PSEUDONYMS.of("reader", "test-li"),
        "role": "RADIOLOGIST",
        "training": TRAINING,
        "channel": "API",
        "seconds": 41,
        "blinded": "YES",
        "difference": ({"code": "118565006", "before": "1951.3", "after": "1890.0", "unit": "cm3"},),
        "concordance": "MINOR_DISCORDANT",
    }
    assert answer.json() == {"decision": "MODIFY", "role": "RADIOLOGIST", "index": entry.index, "time": entry.time}
    assert door.told == ["MODIFY"]


@pytest.mark.parametrize("code", ["ACCEPT", "NOT_USED"])
def test_the_shortest_decisions(ward: Ward, door: Door, code: str) -> None:
    """Accepting needs one word; leaving a result unused a reason beside it."""
    said = {"decision": code} | ({"reasons": ["LATE"]} if code == "NOT_USED" else {})
    assert door.decide(ward.call(), **said).status_code == 201
    (entry,) = ward.decisions()
    assert (entry.body["significant"], entry.body["seconds"], entry.body["blinded"]) == ("NO", None, "NO")


WRONG: list[tuple[str, dict[str, Any]]] = [
    ("no decision", {}),
    ("another word", {"decision": "VERIFY"}),
    ("no reason to modify", {"decision": "MODIFY", "significant": "NO"}),
    ("no reason to reject", {"decision": "REJECT", "significant": "YES", "reasons": []}),
    ("no reason not to use", {"decision": "NOT_USED"}),
    ("a reason to accept", {"decision": "ACCEPT", "reasons": ["OTHER"]}),
    ("a reason of one's own", {"decision": "REJECT", "significant": "YES", "reasons": [NAME]}),
    ("a reason twice", {"decision": "REJECT", "significant": "YES", "reasons": ["OTHER", "OTHER"]}),
    ("no weight", {"decision": "REJECT", "reasons": ["OTHER"]}),
    ("a grave acceptance", {"decision": "ACCEPT", "significant": "YES"}),
    ("a weight of one's own", MODIFIED | {"significant": "MAYBE"}),
    ("before it was opened", MODIFIED | {"seconds": -1}),
    ("after a day", MODIFIED | {"seconds": 86_401}),
    ("half a second", MODIFIED | {"seconds": 0.5}),
    ("seconds that are true", MODIFIED | {"seconds": True}),
    ("half blinded", MODIFIED | {"blinded": "HALF"}),
    ("a key of one's own", MODIFIED | {NAME: "x"}),
    ("a rejected difference", MODIFIED | {"decision": "REJECT", "difference": [{"code": "118565006", "after": None}]}),
    ("a code that is not measured", MODIFIED | {"difference": [{"code": NAME, "after": "1"}]}),
    ("a number that is none", MODIFIED | {"difference": [{"code": "118565006", "after": NAME}]}),
    ("a date for a number", MODIFIED | {"difference": [{"code": "118565006", "after": "19600106"}]}),
    ("a float", MODIFIED | {"difference": [{"code": "118565006", "after": 1890.0}]}),
    ("more of a difference", MODIFIED | {"difference": [{"code": "118565006", "after": "1", "unit": NAME}]}),
    ("a difference that is text", MODIFIED | {"difference": [NAME]}),
    ("a concordance of one's own", MODIFIED | {"concordance": NAME}),
]  # fmt: skip


@pytest.mark.parametrize("said", [one for _, one in WRONG], ids=[name for name, _ in WRONG])
def test_what_is_not_well_formed(ward: Ward, door: Door, said: dict[str, Any]) -> None:
    """422 in the one shape; nothing is logged, and nothing that was sent comes back."""
    answer = door.decide(ward.call(), **said)
    assert error(answer) == (422, "DECISION_INVALID")
    assert ward.decisions() == []
    assert "ZHANG" not in answer.text
    assert "张" not in answer.text


@pytest.mark.parametrize("data", [b"", b"[]", b"{", b"\xff", b'{"decision":"ACCEPT","decision":"REJECT"}', b"NaN"])
def test_what_is_no_json(ward: Ward, door: Door, data: bytes) -> None:
    """422 for bytes that are no object of ours, keys given twice included."""
    answer = door.client.post(f"/calls/{ward.call()}/decision", content=data, headers=bearer("test-li"))
    assert error(answer) == (422, "DECISION_INVALID")


@given(
    st.binary(max_size=300) | st.recursive(st.none() | st.text(max_size=9), st.lists).map(json.dumps).map(str.encode)
)
def test_any_bytes(data: bytes) -> None:
    """Whatever is sent is a decision or refused with a code; nothing else is raised."""
    codes = set()
    try:
        parse_decision(data)
    except DecisionRefused as refused:
        codes.add(refused.code)
    assert codes <= {"DECISION_INVALID"}


def test_too_much(ward: Ward, door: Door) -> None:
    """A body over the limit is 413 before anybody looks into it."""
    call = ward.call()
    for size, status in ((BODY_BYTES_MAX, 422), (BODY_BYTES_MAX + 1, 413)):
        answer = door.client.post(f"/calls/{call}/decision", content=b" " * size, headers=bearer("test-li"))
        assert answer.status_code == status
    assert error(answer) == (413, "TOO_LARGE")


@pytest.mark.parametrize(
    "header",
    [{}, {"Authorization": ""}, {"Authorization": "Bearer"}, {"Authorization": "Bearer " + "x" * 40},
     {"Authorization": "Basic " + TOKENS["test-li"]}, {"Authorization": TOKENS["test-li"]},
     {"Authorization": f"Bearer {TOKENS['test-li']}x"}],
)  # fmt: skip
def test_nobody_without_a_token(ward: Ward, door: Door, header: dict[str, str]) -> None:
    """401 for no token, another one, another scheme; for looking as for deciding, for calls that are there or not."""
    for call in (ward.call(), UNKNOWN):
        for answer in (
            door.client.post(f"/calls/{call}/decision", json={"decision": "ACCEPT"}, headers=header),
            door.client.get(f"/calls/{call}", headers=header),
        ):
            assert error(answer) == (401, "UNAUTHENTICATED")
            assert answer.headers["WWW-Authenticate"] == "Bearer"
    assert ward.decisions() == []


def test_a_token_that_can_be_guessed_is_nobodys(ward: Ward, tmp_path: Path) -> None:
    """A token below 32 characters does not count, though its digest is configured; the digest is no token either."""
    import hashlib

    short = hashlib.sha256(b"li1234").hexdigest()
    door = Door(ward, tmp_path)
    door.desk._readers = (Reader("test-li", "RADIOLOGIST", short, TRAINING),)
    assert door.desk.reader("li1234") is None
    assert door.desk.reader(short) is None


def test_unknown_calls(door: Door) -> None:
    """404 for a call that never was, and for what is no name of a call."""
    for call in (UNKNOWN, "UPPER", "1" * 33, "1.2.840.99999"):
        assert error(door.decide(call, decision="ACCEPT")) == (404, "NOT_FOUND")
        assert error(door.look(call)) == (404, "NOT_FOUND")


def test_only_on_what_was_released(ward: Ward, door: Door) -> None:
    """409 while the PACS has not the result; then it can be decided on."""
    call = "a" * 32
    intent = body(Kind.CALL_INTENT)
    ward.put(Kind.CALL_INTENT, f"intent:{call}:0", intent, call)
    ward.put(Kind.CALL_RESULT, f"result:{call}", body(Kind.CALL_RESULT), call)
    assert error(door.decide(call, decision="ACCEPT")) == (409, "CALL_NOT_RELEASED")
    ward.put(Kind.RELEASED, f"released:{call}", body(Kind.RELEASED), call)
    assert door.decide(call, decision="ACCEPT").status_code == 201


def test_a_withdrawn_result_is_not_decided_on(ward: Ward, door: Door) -> None:
    """409 with a code of its own; what was decided before stands."""
    call = ward.call()
    assert door.decide(call, decision="ACCEPT").status_code == 201
    ward.put(Kind.WITHDRAWN, f"withdrawn:{call}", body(Kind.WITHDRAWN), call)
    assert error(door.decide(call, decision="REJECT", reasons=["OTHER"], significant="NO")) == (409, "CALL_WITHDRAWN")
    shown = door.look(call).json()
    assert (shown["open"], len(shown["decisions"])) == (False, 1)


def test_shadow_calls_are_decided_on(ward: Ward, door: Door) -> None:
    """A call in SHADOW has nothing to release, and its result is judged all the same."""
    call = ward.call(state="SHADOW")
    shown = door.look(call).json()
    assert (shown["shadow"], shown["open"], shown["state"]) == (True, True, "NOT_RELEASED")
    assert door.decide(call, decision="ACCEPT").status_code == 201


def test_the_same_again_changes_nothing(ward: Ward, door: Door) -> None:
    """A retry is 200 and the first entry; another decision is a second entry, and so is going back to the first."""
    call = ward.call()
    first = door.decide(call, **MODIFIED)
    again = door.decide(call, **MODIFIED)
    assert (first.status_code, again.status_code) == (201, 200)
    assert again.json() == first.json()
    assert door.decide(call, decision="ACCEPT").status_code == 201
    assert door.decide(call, **MODIFIED).status_code == 201
    assert [one.body["decision"] for one in ward.decisions()] == ["MODIFY", "ACCEPT", "MODIFY"]
    assert door.told == ["MODIFY", "ACCEPT", "MODIFY"]
    # Another reader's is another's, word for word the same.
    assert door.decide(call, "test-wang", **MODIFIED).status_code == 201
    assert len({one.body["reader"] for one in ward.decisions()}) == 2


def test_a_program_that_runs_wild(ward: Ward, door: Door) -> None:
    """After so many changes of mind the log takes no more of that reader on that call."""
    call = ward.call()
    for number in range(decisions.AGAIN_MAX):
        assert door.decide(call, decision="ACCEPT", seconds=number).status_code == 201
    assert error(door.decide(call, decision="ACCEPT", seconds=77)) == (409, "DECISIONS_TOO_MANY")
    assert door.decide(call, decision="ACCEPT", seconds=31).status_code == 200


def test_two_at_once(ward: Ward, door: Door) -> None:
    """One reader at two screens at the same moment: both decisions are entries, in some order."""
    call = ward.call()
    gate = threading.Barrier(2)

    def decide(seconds: int) -> None:
        gate.wait()
        door.desk.decide(call, door.desk._readers[0], parse_decision(b'{"decision":"ACCEPT","seconds":%d}' % seconds))

    both = [threading.Thread(target=decide, args=(seconds,)) for seconds in (1, 2)]
    for one in both:
        one.start()
    for one in both:
        one.join()
    assert {one.body["seconds"] for one in ward.decisions()} == {1, 2}


def test_a_value_that_two_things_have(ward: Ward, door: Door) -> None:
    """Where two measurements have one code, nobody can tell which was changed: there is no value before."""
    call = "b" * 32
    ward.put(Kind.CALL_INTENT, f"intent:{call}:0", body(Kind.CALL_INTENT), call)
    twice = [{"code": "v", "value": value, "unit": "cm3"} for value in ("1.5", "2.5")]
    ward.put(Kind.CALL_RESULT, f"result:{call}", body(Kind.CALL_RESULT) | {"measurements": twice}, call)  # type: ignore[dict-item]
    ward.put(Kind.RELEASED, f"released:{call}", body(Kind.RELEASED), call)
    said = {**MODIFIED, "difference": [{"code": "v", "after": None}]}
    assert door.decide(call, **said).status_code == 201
    assert ward.decisions()[0].body["difference"] == ({"code": "v", "before": None, "after": None, "unit": "cm3"},)


class Closed:
    """A log that takes nothing."""

    def append(self, draft: Draft) -> Entry:
        """See service.decisions.Writer."""
        raise AuditUnavailable(f"{draft.kind}: the disk refuses")


def test_a_log_that_takes_nothing(ward: Ward, tmp_path: Path) -> None:
    """503, and not a word that it was taken: the reader's program sends it again."""
    door = Door(ward, tmp_path, writer=Closed())
    assert error(door.decide(ward.call(), decision="ACCEPT")) == (503, "AUDIT_UNAVAILABLE")
    assert door.told == []


def test_what_is_known_of_a_call(ward: Ward, door: Door) -> None:
    """Its entries by kind and place, state, model, our objects' UIDs, values, and what was decided."""
    call = ward.call()
    door.decide(call, "test-wang", decision="ACCEPT")
    shown = door.look(call).json()
    assert [one["kind"] for one in shown["entries"]] == ["CALL_INTENT", "CALL_RESULT", "RELEASED"]
    assert (shown["call"], shown["state"], shown["open"]) == (call, "RELEASED", True)
    assert shown["outputs"] == [{"kind": "SR", "uid": "2.25.1234567890123456789012345"}]
    assert shown["model"]["name"] == "brain"
    assert shown["measurements"][0]["value"] == "1951.3"
    assert [one["decision"] for one in shown["decisions"]] == ["ACCEPT"]
    assert "study" not in json.dumps(shown)


def test_a_call_that_failed(ward: Ward, door: Door) -> None:
    """What only the table of runs ties to the call is shown too, by its entries in the log."""
    call = "d" * 32
    then = datetime(2026, 12, 1, tzinfo=UTC)
    run = Run("run-1", "1.2.840.99999.1", "x", 1, State.FAILED, "COUNT_MATCHED", then, then, call=call)
    door.runs.by_call[call] = (run,)
    ward.put(Kind.CALL_INTENT, f"intent:{call}:0", body(Kind.CALL_INTENT), call)
    ward.put(Kind.FAILED, "failed:run-1", body(Kind.FAILED), call)
    shown = door.look(call).json()
    assert [one["kind"] for one in shown["entries"]] == ["CALL_INTENT", "FAILED"]
    assert (shown["state"], shown["open"]) == ("FAILED", False)
    assert "1.2.840" not in json.dumps(shown)
    assert error(door.decide(call, decision="ACCEPT")) == (409, "CALL_NOT_RELEASED")


def test_every_reason_has_its_words() -> None:
    """The closed list is codes that the log takes, in both languages, with the two that the monitor counts apart."""
    assert {MISSED, FALSE_POSITIVE} <= set(decisions.REASONS)
    for code, names in decisions.REASONS.items():
        assert set(names) == {"en", "zh"}
        assert all(names.values())
        assert code == code.upper()
    assert set(decisions.DECISIONS) == {one.value for one in Judgement}


@pytest.mark.parametrize(
    "wrong",
    [
        {"role": "SYSTEM_ADMIN"},
        {"role": "OPS"},
        {"token_sha256": "l" * 40},
        {"token": "l" * 40},
        {"training": "yes"},
        {"name": "Zhang San"},
    ],
)
def test_only_trained_physicians_are_readers(wrong: dict[str, str]) -> None:
    """A role from the closed list, a digest for a token, a digest of what they were taught: else there is no start."""
    good = {"name": "test-li", "role": "RADIOLOGIST", "token_sha256": "0" * 64, "training": TRAINING}
    assert ReaderSection(**good).role == "RADIOLOGIST"  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=r".+"):
        ReaderSection(**good | wrong)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="same token"):
        Config(readers=(ReaderSection(**good), ReaderSection(**good | {"name": "test-wang"})))  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="same name"):
        Config(readers=(ReaderSection(**good), ReaderSection(**good | {"token_sha256": "1" * 64})))  # type: ignore[arg-type]


def test_roles_are_one_list() -> None:
    """What the configuration takes is what the desk says it takes."""
    assert set(decisions.ROLES) == set(ReaderSection.model_fields["role"].annotation.__args__)  # type: ignore[union-attr]
