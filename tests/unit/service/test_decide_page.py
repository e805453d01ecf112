"""The form at /decide: who may send it, what may be said, what comes back, and what never does."""

from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from audit.entry import Draft, Entry, Kind
from audit.errors import AuditUnavailable
from models.errors import LibraryUnavailable
from models.library import Library
from models.manifest import parse_manifest
from service import screen
from service.bodies import BODY_BYTES_MAX
from service.decide_page import HINTS, PROBLEMS
from service.decision_api import STATUS
from service.decisions import DECISIONS, REASONS
from service.sessions import COOKIE, COOKIE_S
from tests.simulators import small_model
from tests.simulators.audit_log import body
from tests.simulators.readers import PSEUDONYMS, TOKENS, TRAINING, Door, bearer
from tests.simulators.small_model import as_json, manifest_fields
from tests.simulators.watched import Ward

HOST = "http://testserver"
UNKNOWN = "0" * 32
HOSTILE = '"><script>alert(1)</script>'
NAME = "ZHANG SAN 张三"
MODIFIED: dict[str, Any] = {"decision": "MODIFY", "reasons": ["MEASURE"], "significant": "YES"}


@pytest.fixture
def door(ward: Ward, tmp_path: Path) -> Door:
    """The service's API over it; the model is installed."""
    door = Door(ward, tmp_path)
    door.manifest = parse_manifest(as_json(manifest_fields()))
    return door


def send(door: Door, call: str, token: str | None = TOKENS["test-li"], lang: str = "en", **fields: Any) -> Any:
    """The form as a browser sends it, from our own page."""
    data = fields | ({} if token is None else {"token": token})
    return door.client.post(f"/decide/{call}?lang={lang}", data=data, headers={"Origin": HOST})


def test_what_the_form_shows(ward: Ward, door: Door) -> None:
    """Model, values and every choice and reason, in the site's language unless the link says another; nobody's name."""
    call = ward.call()
    for query, lang, title in (("", "zh", "小模型"), ("?lang=en", "en", "Small model"), ("?lang=fr", "zh", "小模型")):
        answer = door.client.get(f"/decide/{call}{query}")
        assert answer.status_code == 200
        assert f'<html lang="{"zh-CN" if lang == "zh" else "en"}">' in answer.text
        for words in (title, "brain 1.0.0", "Volume, Brain", "1951.3 cm3", *(one[lang] for one in REASONS.values())):
            assert words in answer.text
        assert all(f'name="decision" value="{one}"' in answer.text for one in DECISIONS)
        assert "test-li" not in answer.text
        assert ward.decisions() == []


def test_headers_of_every_page(ward: Ward, door: Door) -> None:
    """No script, nothing foreign, no frame, nothing kept, whatever comes back; the style is named by its digest."""
    call = ward.call()
    for answer in (
        door.client.get(f"/decide/{call}"),
        door.client.get(f"/decide/{UNKNOWN}"),
        send(door, call, "x" * 40, decision="ACCEPT"),
        send(door, call, decision="ACCEPT"),
        send(door, call, x="y" * BODY_BYTES_MAX),
    ):
        policy = answer.headers["content-security-policy"]
        assert policy.startswith("default-src 'none'; style-src 'sha256-")
        for word in ("form-action 'self'", "base-uri 'none'", "frame-ancestors 'none'"):
            assert word in policy
        assert "unsafe" not in policy
        assert answer.headers["cache-control"] == "no-store"
        assert answer.headers["x-content-type-options"] == "nosniff"
        assert answer.headers["referrer-policy"] == "same-origin"
        assert answer.headers["content-type"] == "text/html; charset=utf-8"
        assert "<script" not in answer.text


RULES: list[tuple[dict[str, Any], str | None]] = [
    ({"decision": "ACCEPT"}, None),
    ({"decision": "ACCEPT", "significant": "NO"}, None),
    ({"decision": "NOT_USED", "reasons": ["LATE", "OTHER"]}, None),
    ({"decision": "REJECT", "reasons": ["OUTLINE"], "significant": "NO"}, None),
    (MODIFIED, None),
    (MODIFIED | {"after.0": "1890.0"}, None),
    (MODIFIED | {"after.0": ""}, None),
    (MODIFIED | {"gone.0": "YES", "after.0": ""}, None),
    ({}, "decision"),
    ({"decision": "VERIFY"}, "decision"),
    ({"decision": "ACCEPT", "reasons": ["OTHER"]}, "reasons"),
    ({"decision": "NOT_USED"}, "reasons"),
    ({"decision": "REJECT", "significant": "YES"}, "reasons"),
    ({"decision": "REJECT", "significant": "YES", "reasons": [NAME]}, "reasons"),
    ({"decision": "REJECT", "reasons": ["OTHER"]}, "significant"),
    ({"decision": "ACCEPT", "significant": "YES"}, "significant"),
    (MODIFIED | {"significant": "MAYBE"}, "significant"),
    (MODIFIED | {"after.0": NAME}, "difference"),
    (MODIFIED | {"after.0": "19600106"}, "difference"),
    (MODIFIED | {"after.1": "1"}, "difference"),
    (MODIFIED | {"after.0": "1", "gone.0": "YES"}, "difference"),
    (MODIFIED | {"decision": "REJECT", "after.0": "1"}, "difference"),
    (MODIFIED | {"seconds": "1"}, ""),
    (MODIFIED | {NAME: "1"}, ""),
    (MODIFIED | {"significant": ["YES", "NO"]}, ""),
]  # fmt: skip


@pytest.mark.parametrize(("said", "wrong"), RULES)
@pytest.mark.parametrize("lang", ["zh", "en"])
def test_the_rules_of_decisions(ward: Ward, door: Door, said: dict[str, Any], wrong: str | None, lang: str) -> None:
    """What the API takes the form takes; else 422, the reason in the reader's language, and nothing in the log."""
    answer = send(door, ward.call(), lang=lang, **said)
    if wrong is None:
        assert answer.status_code == 201
        assert [entry.body["decision"] for entry in ward.decisions()] == [said["decision"]]
        return
    assert answer.status_code == 422
    assert "DECISION_INVALID" in answer.text
    hint = HINTS[wrong][lang] if wrong else PROBLEMS["DECISION_INVALID"][lang]
    assert hint in answer.text
    assert ward.decisions() == []


def test_the_entry_of_a_form(ward: Ward, door: Door) -> None:
    """All that was said, under the channel FORM; a value that there is not is null; the number of the entry is told."""
    call = ward.call()
    answer = send(door, call, **MODIFIED, **{"gone.0": "YES", "after.0": ""})
    (entry,) = ward.decisions()
    assert entry.call == call
    assert dict(entry.body) == {
        "decision": "MODIFY",
        "reasons": ("MEASURE",),
        "significant": "YES",
        "reader": PSEUDONYMS.of("reader", "test-li"),
        "role": "RADIOLOGIST",
        "training": TRAINING,
        "channel": "FORM",
        "seconds": None,
        "blinded": "NO",
        "difference": ({"code": "118565006", "before": "1951.3", "after": None, "unit": "cm3"},),
        "concordance": None,
    }
    assert "Recorded: Modify" in answer.text
    assert f"Log entry {entry.index}, {entry.time}" in answer.text
    assert "<form" not in answer.text
    assert door.told == ["MODIFY"]


@pytest.mark.parametrize("token", [None, "", " ", "x" * 40, TOKENS["test-li"] + "x", TOKENS["test-li"][1:], NAME])
def test_nobody_without_a_token(ward: Ward, door: Door, token: str | None) -> None:
    """401 and the form again with what was filled in, never with the token; nothing is logged, no cookie is given."""
    answer = send(door, ward.call(), token, **MODIFIED)
    assert answer.status_code == 401
    assert "UNAUTHENTICATED" in answer.text
    assert 'value="MODIFY" required checked' in answer.text
    assert "set-cookie" not in answer.headers
    assert not token or not token.strip() or token not in answer.text
    assert send(door, UNKNOWN, token, **MODIFIED).status_code == 401
    assert (ward.decisions(), door.told) == ([], [])


def test_what_is_sent_comes_back_escaped(ward: Ward, door: Door) -> None:
    """A value with markup in it is text in the form that comes back, and other fields do not come back at all."""
    for token in (TOKENS["test-li"], "x" * 40):
        answer = send(door, ward.call(), token, **MODIFIED, **{"after.0": HOSTILE, "as": HOSTILE + "2"})
        assert "<script" not in answer.text
        assert "&#34;&gt;&lt;script&gt;alert(1)" in answer.text
        assert "script&gt;2" not in answer.text
    assert "<script" not in door.client.get("/decide/%3Cscript%3E?lang=%22%3E%3Cscript%3E").text
    assert ward.decisions() == []


def test_hostile_words_in_the_log_are_escaped() -> None:
    """Whatever an entry or a manifest holds, it is text on the page."""
    values = {"known": None, "problem": HOSTILE, "code": HOSTILE, "form": None}
    answer = screen.page(
        "decide.html", "en", done={"said": HOSTILE, "reader": HOSTILE, "index": 1, "time": ""}, **values
    )
    assert b"<script" not in answer.body
    assert answer.body.count(b"&lt;script&gt;") == 4


def test_unknown_calls(door: Door) -> None:
    """404 for a call that never was, and for what is no name of one; without a form, and without what was asked."""
    for call in (UNKNOWN, "UPPER", "1" * 33, "1.2.840.99999.1"):
        for answer in (door.client.get(f"/decide/{call}?lang=en"), send(door, call, decision="ACCEPT")):
            assert answer.status_code == 404
            assert PROBLEMS["NOT_FOUND"]["en"] in answer.text
            assert "<form" not in answer.text
            assert call not in answer.text


def test_a_withdrawn_result_has_no_form(ward: Ward, door: Door) -> None:
    """The page says so, in both languages, with the code; a form that was open before is 409."""
    call = ward.call()
    ward.put(Kind.WITHDRAWN, f"withdrawn:{call}", body(Kind.WITHDRAWN), call)
    for language, words in PROBLEMS["CALL_WITHDRAWN"].items():
        shown = door.client.get(f"/decide/{call}?lang={language}")
        assert (shown.status_code, words in shown.text, "<form" in shown.text) == (200, True, False)
    answer = send(door, call, decision="ACCEPT")
    assert (answer.status_code, "CALL_WITHDRAWN" in answer.text) == (409, True)
    assert ward.decisions() == []


def test_only_on_what_was_released(ward: Ward, door: Door) -> None:
    """Until the PACS has the result there is no form, and one that is sent is 409."""
    call = "a" * 32
    ward.put(Kind.CALL_INTENT, f"intent:{call}:0", body(Kind.CALL_INTENT), call)
    ward.put(Kind.CALL_RESULT, f"result:{call}", body(Kind.CALL_RESULT), call)
    for answer, status in ((door.client.get(f"/decide/{call}"), 200), (send(door, call, decision="ACCEPT"), 409)):
        assert answer.status_code == status
        assert "CALL_NOT_RELEASED" in answer.text
        assert "<form" not in answer.text
    assert ward.decisions() == []
    ward.put(Kind.RELEASED, f"released:{call}", body(Kind.RELEASED), call)
    assert "<form" in door.client.get(f"/decide/{call}").text
    assert send(door, call, decision="ACCEPT").status_code == 201


def test_the_same_again(ward: Ward, door: Door) -> None:
    """A form that is sent twice is one entry, and says so; also where the API took the first."""
    call, other = ward.call(), ward.call()
    assert send(door, call, decision="ACCEPT").status_code == 201
    again = send(door, call, decision="ACCEPT")
    assert (again.status_code, "Already said before: Accept" in again.text) == (200, True)
    assert door.decide(other, decision="ACCEPT").status_code == 201
    assert send(door, other, decision="ACCEPT").status_code == 200
    assert [one.body["channel"] for one in ward.decisions()] == ["FORM", "API"]


def test_the_cookie(ward: Ward, door: Door) -> None:
    """It is HttpOnly and Strict and holds no token; its holder is named, and decides with two clicks for an hour."""
    given = send(door, ward.call(), decision="ACCEPT").headers["set-cookie"]
    assert TOKENS["test-li"] not in given
    assert "HttpOnly" in given
    assert "SameSite=strict" in given
    assert f"Max-Age={COOKIE_S}" in given
    assert "Secure" not in given
    call = ward.call()
    assert '<input type="hidden" name="as" value="test-li">' in door.client.get(f"/decide/{call}").text
    assert send(door, call, None, decision="ACCEPT", **{"as": "test-li"}).status_code == 201
    door.clock.now += timedelta(seconds=COOKIE_S)
    late = ward.call()
    assert "test-li" not in door.client.get(f"/decide/{late}").text
    assert send(door, late, None, decision="ACCEPT", **{"as": "test-li"}).status_code == 401
    assert len(ward.decisions()) == 2


def test_a_cookie_behind_tls_is_secure(ward: Ward, door: Door) -> None:
    """Where the reader's browser speaks TLS, the cookie goes no other way."""
    data = {"decision": "ACCEPT", "token": TOKENS["test-li"]}
    answer = door.client.post(f"/decide/{ward.call()}", data=data, headers={"Origin": "https://testserver"})
    assert "Secure" in answer.headers["set-cookie"]


def test_the_next_at_the_same_screen(ward: Ward, door: Door) -> None:
    """A token that is typed in counts, not the cookie; and the cookie only with the name that the page has shown."""
    send(door, ward.call(), decision="ACCEPT")
    call = ward.call()
    for shown in ({}, {"as": "test-wang"}, {"as": ["test-li", "test-wang"]}):
        assert send(door, call, None, decision="ACCEPT", **shown).status_code == 401
    assert send(door, call, "x" * 40, decision="ACCEPT", **{"as": "test-li"}).status_code == 401
    assert send(door, call, TOKENS["test-wang"], decision="ACCEPT", **{"as": "test-li"}).status_code == 201
    assert ward.decisions()[-1].body["reader"] == PSEUDONYMS.of("reader", "test-wang")
    assert 'value="test-wang"' in door.client.get(f"/decide/{call}").text


@pytest.mark.parametrize(
    "origin", [None, "", "null", "http://evil.example", "http://testserver.evil.example", "http://["]
)
def test_other_sites_forms(ward: Ward, door: Door, origin: str | None) -> None:
    """A cookie counts for no form that came from elsewhere, or from nobody knows where."""
    send(door, ward.call(), decision="ACCEPT")
    headers = {} if origin is None else {"Origin": origin}
    data = {"decision": "ACCEPT", "as": "test-li"}
    assert door.client.post(f"/decide/{ward.call()}", data=data, headers=headers).status_code == 401
    assert len(ward.decisions()) == 1


def test_forged_cookies(ward: Ward, door: Door, tmp_path: Path) -> None:
    """Another name, a later end, another process's key, or none of it: nobody's."""
    send(door, ward.call(), decision="ACCEPT")
    name, ends, mac = door.client.cookies[COOKIE].split(".")
    elsewhere = Door(ward, tmp_path)
    send(elsewhere, ward.call(), decision="ACCEPT")
    forged = [
        f"test-wang.{ends}.{mac}", f"{name}.{int(ends) + 1}.{mac}", f"{name}.{ends}.", f"{name}.{ends}", "", "..", "x",
        f"{name}.{'9' * 5000}.{mac}", f"{name}.-1.{mac}", f"nobody.{ends}.{mac}", elsewhere.client.cookies[COOKIE],
    ]  # fmt: skip
    call, before = ward.call(), len(ward.decisions())
    for cookie in forged:
        headers = {"Origin": HOST, "Cookie": f"{COOKIE}={cookie}"}
        door.client.cookies.clear()
        for claimed in ("test-li", "test-wang"):
            data = {"decision": "ACCEPT", "as": claimed}
            assert door.client.post(f"/decide/{call}", data=data, headers=headers).status_code == 401
    assert len(ward.decisions()) == before


@pytest.mark.parametrize(
    ("content", "kind"),
    [(b"{}", "application/json"), (b"token=%ff&decision=ACCEPT", None), (b"token=\xe5", None), (b"", None),
     (b"&".join(b"a=1" for _ in range(500)), None),
     (b"decision=ACCEPT&token=" + TOKENS["test-li"].encode(), "text/plain")],
)  # fmt: skip
def test_what_is_no_form(ward: Ward, door: Door, content: bytes, kind: str | None) -> None:
    """Anything else is nobody's form."""
    headers = {"Content-Type": kind or "application/x-www-form-urlencoded", "Origin": HOST}
    assert door.client.post(f"/decide/{ward.call()}", content=content, headers=headers).status_code == 401
    assert ward.decisions() == []


def test_too_much(ward: Ward, door: Door) -> None:
    """A body over the limit is 413 before anybody looks into it."""
    answer = send(door, ward.call(), decision="ACCEPT", x="y" * BODY_BYTES_MAX)
    assert (answer.status_code, "TOO_LARGE" in answer.text) == (413, True)
    assert ward.decisions() == []


class Closed:
    """A log that takes nothing."""

    def append(self, draft: Draft) -> Entry:
        """See service.decisions.Writer."""
        raise AuditUnavailable(f"{draft.kind}: the disk refuses")


def test_a_log_that_takes_nothing(ward: Ward, tmp_path: Path) -> None:
    """503 as a page, and not a word that it was taken."""
    door = Door(ward, tmp_path, writer=Closed())
    answer = send(door, ward.call(), decision="ACCEPT")
    assert answer.status_code == 503
    assert PROBLEMS["UNAVAILABLE"]["en"] in answer.text
    assert "Recorded" not in answer.text
    assert door.told == []


def test_a_bearer_token_is_for_looking(ward: Ward, door: Door) -> None:
    """A program with a token is shown as its reader, but a form wants the token within."""
    call = ward.call()
    assert 'value="test-li"' in door.client.get(f"/decide/{call}", headers=bearer("test-li")).text
    answer = door.client.post(
        f"/decide/{call}", data={"decision": "ACCEPT", "as": "test-li"}, headers=bearer("test-li")
    )
    assert answer.status_code == 401


def test_models_by_their_digest(tmp_path: Path) -> None:
    """The manifest of exactly the model that ran; where codes differ from what was measured, bare codes are shown."""
    library = Library(tmp_path / "models")
    ref = library.install(small_model.stage(tmp_path / "staged"))
    find = screen.manifests(library)
    found = find({"digest": ref.digest})
    assert found is not None
    assert find({"digest": "sha256:" + "0" * 64}) is None
    values = [{"code": "118565006", "value": "1.0", "unit": "cm3"}]
    assert [one.name for one in screen.measured(values, found)] == ["Volume, Brain"]
    assert [one.name for one in screen.measured(values, None)] == ["118565006"]
    assert [one.name for one in screen.measured([values[0], values[0]], found)] == ["118565006", "118565006"]


class Unreadable:
    """A library on a disk that fails."""

    def list(self) -> tuple[()]:
        """See models.library.Library."""
        raise LibraryUnavailable("the disk refuses")


def test_a_library_that_cannot_be_read() -> None:
    """The page is shown with what the log has, as of a model that is gone."""
    assert screen.manifests(Unreadable())({"digest": "sha256:" + "0" * 64}) is None  # type: ignore[arg-type]


def test_a_model_that_is_gone(ward: Ward, door: Door) -> None:
    """It can still be decided on, by the name in the log."""
    door.manifest = None
    answer = door.client.get(f"/decide/{ward.call()}?lang=en")
    assert "<strong>brain</strong>" in answer.text
    assert "118565006" in answer.text


def test_every_refusal_has_its_words() -> None:
    """In both languages, for each code that the desk gives."""
    assert set(STATUS) <= set(PROBLEMS)
    assert all(set(one) == {"zh", "en"} and all(one.values()) for one in [*PROBLEMS.values(), *HINTS.values()])
