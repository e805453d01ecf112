"""The page of a study: what it tells to whom, and what it never shows."""

import io
import shutil
import sqlite3
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from pydicom import dcmread

from audit.entry import Kind
from audit.errors import AuditUnavailable
from service import screen
from service.decide_page import CHOICES
from service.decisions import FORM, ROLES, parse_decision, sent_back_key
from service.guesses import WINDOW_S, WRONG_MAX
from service.sessions import COOKIE
from service.store import State
from service.study_page import PROBLEMS, STATES, TRIGGERS
from service.study_page import ROLES as ROLE_WORDS
from service.verdicts import ROLE as ASSERTED
from service.views import RECEIVING
from tests.simulators import findings as simulated
from tests.simulators.audit_log import body
from tests.simulators.readers import OPERATORS, PSEUDONYMS, TOKENS, bearer
from tests.simulators.studied import Studied

HOSTILE = '"><script>alert(1)</script>'
UNKNOWN = "1.2.840.99999.7.3"


@pytest.fixture
def studied(tmp_path: Path) -> Iterator[Studied]:
    """A study and nothing run on it."""
    made = Studied(tmp_path)
    yield made
    made.close()


def decide(studied: Studied, call: str, data: bytes = b'{"decision": "ACCEPT"}') -> Any:
    """test-li decides by the form; the entry."""
    reader = studied.desk.named("test-li")
    assert reader is not None
    return studied.desk.decide(call, reader, parse_decision(data), FORM)[0]


def test_what_ran_why_and_what_it_found(studied: Studied) -> None:
    """Model, version, approval, state, trigger, rule, numbers with units, statements and limits, in both languages."""
    call = studied.read(rule="brain-of-scanner-2")
    value = studied.store.of_call(call)[0].measurements[0]["value"]
    for lang, words in (
        ("en", ("Test brain volume", "the PACS has the results", TRIGGERS["COUNT_MATCHED"]["en"], "No physician has")),
        ("zh", ("测试脑体积", "结果已送达PACS", TRIGGERS["COUNT_MATCHED"]["zh"], "尚无医师决定")),
    ):
        answer = studied.look(f"?lang={lang}")
        assert answer.status_code == 200
        assert f'<html lang="{"zh-CN" if lang == "zh" else "en"}">' in answer.text
        for said in (
            *(*words, "test-brain 1.2.0", simulated.REF.digest, "TEST-1", "brain-of-scanner-2", f"{value} cm3"),
            *("Volume, Brain", "All algorithms succeeded; with findings", "仅限成人，T1 加权。"),
            f'href="../decide/{call}?lang={lang}"',
        ):
            assert said in answer.text, said


def test_no_patient_is_named(studied: Studied) -> None:
    """Nothing of the patient that the images hold is on the page, for nobody and for a reader."""
    studied.read()
    head = dcmread(studied.paths[0])
    names = [str(head.get(keyword, "")) for keyword in ("PatientName", "PatientID", "PatientBirthDate")]
    assert all(names)
    for headers in ({}, bearer("test-li")):
        text = studied.look(**headers).text
        assert not [name for name in names if name in text]


def test_pictures_are_for_readers(studied: Studied) -> None:
    """Without a token: words, no picture, and 401 for its address. With one: the slice, outlined in colour."""
    call = studied.read()
    text = studied.look().text
    assert "<img" not in text
    assert "Pictures with outlines are for readers" in text
    assert 'name="token"' in text
    for headers in ({}, {"Authorization": "Bearer " + "x" * 40}, {"Cookie": f"{COOKIE}=test-li.9999999999.x"}):
        refused = studied.picture(call, **headers)
        assert (refused.status_code, refused.json()["error"]["code"]) == (401, "UNAUTHENTICATED")
    assert f'<img src="{studied.spool.study_uid}/pictures/{call}/1.png"' in studied.look(**bearer("test-li")).text
    answer = studied.picture(call, **bearer("test-li"))
    assert (answer.status_code, answer.headers["content-type"]) == (200, "image/png")
    assert (answer.headers["cache-control"], answer.headers["x-content-type-options"]) == ("no-store", "nosniff")
    shown = np.asarray(Image.open(io.BytesIO(answer.content)))[40:]
    assert (shown.max(axis=2) != shown.min(axis=2)).any()


def test_a_token_opens_the_pictures(studied: Studied) -> None:
    """303 to the same page with a cookie, which shows them; a wrong token 401; too many wrong ones 429."""
    call = studied.read()
    path = f"/studies/{studied.spool.study_uid}"

    def give(token: str, **headers: str) -> Any:
        return studied.client.post(f"{path}?lang=en", data={"token": token}, headers=headers, follow_redirects=False)

    for token in ("", "x" * 40, HOSTILE):
        answer = give(token)
        assert (answer.status_code, "UNAUTHENTICATED" in answer.text) == (401, True)
        assert "set-cookie" not in answer.headers
        assert "<script" not in answer.text
    answer = give(TOKENS["test-li"])
    assert (answer.status_code, answer.headers["location"], answer.content) == (303, "?lang=en", b"")
    assert "HttpOnly" in answer.headers["set-cookie"]
    assert '<code id="as">test-li</code>' in studied.look().text
    assert studied.picture(call).status_code == 200
    assert [give("x" * 40).status_code for _ in range(WRONG_MAX)] == [401] * (WRONG_MAX - 2) + [429] * 2
    late = give(TOKENS["test-li"])
    assert (late.status_code, late.headers["retry-after"]) == (429, str(int(WINDOW_S)))
    assert PROBLEMS["TOO_MANY_TOKENS"]["en"] in late.text
    assert studied.client.post(path, content=b"token=" + b"x" * 20_000).status_code == 413
    assert studied.client.post(path, json={"token": TOKENS["test-li"]}).status_code == 401


def test_images_that_are_gone(studied: Studied) -> None:
    """When retention has taken them, the page says so, also to a reader, and the address of a picture is 404."""
    call = studied.read()
    studied.spool.images.clear()
    text = studied.look(**bearer("test-li")).text
    assert "The images have left this machine" in text
    assert "<img" not in text
    assert studied.picture(call, **bearer("test-li")).status_code == 404


def test_pictures_that_there_are_not(studied: Studied) -> None:
    """Another call's, another study's, another segment's: 404; what is no number 422; no file is looked for."""
    call = studied.read()
    # Files that lie there for a call which no run of this study has.
    shutil.copytree(studied.root / "results" / call, studied.root / "results" / ("f" * 32))
    for answer in (
        studied.picture("f" * 32, **bearer("test-li")),
        studied.picture("0" * 32, **bearer("test-li")),
        studied.picture("..%2f" + call, **bearer("test-li")),
        studied.picture(call, study=UNKNOWN, **bearer("test-li")),
        studied.picture(call, number=2, **bearer("test-li")),
        studied.picture(call, number=-1, **bearer("test-li")),
    ):
        assert (answer.status_code, answer.json()["error"]["code"]) == (404, "NOT_FOUND")
    path = f"/studies/{studied.spool.study_uid}/pictures/{call}/x.png"
    assert studied.client.get(path, headers=bearer("test-li")).status_code == 422


def test_who_decided_what(studied: Studied) -> None:
    """Choice, reasons, changed values, role, pseudonym, time and entry, in words; as JSON the same, in codes."""
    call = studied.read()
    said = b'{"decision": "MODIFY", "reasons": ["MEASURE"], "significant": "YES", "difference": ['
    entry = decide(studied, call, said + b'{"code": "118565006", "after": null}]}')
    text = studied.look().text
    who = PSEUDONYMS.of("reader", "test-li")
    for word in ("Modify", "a measured value is wrong", "118565006", "none cm3", "radiologist", who, "significant"):
        assert word in text
    assert f"log entry {entry.index}" in text
    assert "test-li" not in text
    assert "修改后采纳" in studied.look("?lang=zh").text
    (run,) = studied.client.get(f"/studies/{studied.spool.study_uid}").json()["runs"]
    assert run["decisions"] == [
        {
            "decision": "MODIFY",
            "role": "RADIOLOGIST",
            "reader": who,
            "significant": "YES",
            "channel": "FORM",
            "reasons": ["MEASURE"],
            "difference": [{"code": "118565006", "before": "1951.3", "after": None, "unit": "cm3"}],
            "time": entry.time,
            "index": entry.index,
        }
    ]


def test_what_came_back_by_dicom_is_a_decision_too(studied: Studied) -> None:
    """The page does not say that nobody has decided; whose name the object had, if any, nobody has proven."""
    call = studied.read()
    assert "No physician has decided" in studied.look().text
    said = body(Kind.HUMAN_DECISION) | {"role": ASSERTED, "reader": None, "object": "0f" * 16, "channel": "SR"}
    entry = studied.ward.put(Kind.HUMAN_DECISION, f"{sent_back_key(call)}:0", said, call)
    text = studied.look().text
    assert "No physician has decided" not in text
    assert "as an object that came back says, unproven" in text
    assert "None" not in text
    assert f"log entry {entry.index}" in text


def test_a_withdrawn_result_is_said_to_be_withdrawn(studied: Studied) -> None:
    """Why, when, by whom, in both languages, and no link to a form; the numbers stay: that is what the PACS shows."""
    call = studied.read()
    assert "withdrawn" not in studied.look().text
    entry = studied.ward.put(Kind.WITHDRAWN, f"withdrawn:{call}", body(Kind.WITHDRAWN), call)
    text = studied.look().text
    for word in ("This result was withdrawn: quality", "li.m", f"log entry {entry.index}", "were not changed"):
        assert word in text
    assert "/decide/" not in text
    assert "此结果已撤回: 质量原因" in studied.look("?lang=zh").text
    (run,) = studied.client.get(f"/studies/{studied.spool.study_uid}").json()["runs"]
    said = {"reason": "QUALITY", "person": "li.m", "by": None, "time": entry.time, "index": entry.index}
    assert run["withdrawn"] == said


def test_a_log_that_cannot_be_read(studied: Studied) -> None:
    """The study is shown all the same; of decisions it says that nobody knows, never that there are none."""
    call = studied.read()
    decide(studied, call)
    studied.log.broken = AuditUnavailable("the disk refuses", 5)
    text = studied.look().text
    assert "nobody knows what was decided" in text
    assert "No physician" not in text
    assert "/decide/" not in text
    assert studied.client.get(f"/studies/{studied.spool.study_uid}").json()["runs"][0]["decisions"] is None


def test_refused_and_failed_runs(studied: Studied) -> None:
    """The code and the condition that decided; no link to a form; newest first."""
    studied.run(code="NO_APPROVAL", condition="APPROVAL", observed="NONE", model=None)
    studied.run(state=State.FAILED, code="ENGINE_DIED", call="a" * 32)
    text = studied.look().text
    assert text.index("ENGINE_DIED") < text.index("NO_APPROVAL")
    for word in ("refused: the model did not run", "No model was chosen", "<code>APPROVAL</code> <code>NONE</code>"):
        assert word in text
    assert "/decide/" not in text
    assert "by its own manifest" in text


def test_a_study_that_arrives(studied: Studied) -> None:
    """No run yet: the state in words."""
    assert f'<p id="state">{STATES[RECEIVING]["en"]}</p>' in studied.look().text


def test_unknown_and_malformed(studied: Studied) -> None:
    """404 as a page with its code; nothing of what was asked is repeated."""
    for study in (UNKNOWN, "x", "%3Cscript%3E", "1" * 65, "1.2%00", "1.2 3"):
        answer = studied.look(study=study)
        assert answer.status_code == 404
        assert "NOT_FOUND" in answer.text
        assert "script" not in answer.text
        assert study not in answer.text or study == "x"
        assert studied.client.post(f"/studies/{study}", data={"token": "x" * 40}).status_code == 401


def test_a_table_that_cannot_be_read(studied: Studied) -> None:
    """503 as a page, which quotes nothing."""
    studied.read()
    studied.spool.broken = sqlite3.OperationalError(f"database is locked, {studied.spool.study_uid}")
    answer = studied.look()
    assert (answer.status_code, "UNAVAILABLE" in answer.text) == (503, True)
    assert studied.look(study="x").status_code == 404
    assert studied.spool.study_uid not in answer.text


@pytest.mark.parametrize(
    ("accept", "page"),
    [
        ("text/html,application/xhtml+xml,*/*;q=0.8", True),
        ("Text/HTML;q=0.9", True),
        ("text/html, application/json", True),
        ("application/json, text/html", False),
        ("application/json", False),
        ("*/*", False),
        ("", False),
        ("text/htmlx", False),
    ],
)
def test_who_gets_a_page(studied: Studied, accept: str, page: bool) -> None:
    """A browser; programs get JSON as before. Whatever keeps answers is told that they differ."""
    answer = studied.client.get(f"/studies/{studied.spool.study_uid}", headers={"Accept": accept})
    assert (answer.status_code, answer.headers["content-type"].startswith("text/html")) == (200, page)
    assert "Accept" in answer.headers["vary"]


def test_everything_is_escaped(studied: Studied) -> None:
    """Whatever stands in the table, the report or the manifest, it is text on the page; no script, nothing foreign."""
    call = studied.read(
        rule=HOSTILE,
        approval=HOSTILE,
        model={"name": HOSTILE, "version": HOSTILE, "digest": HOSTILE},
        code=HOSTILE,
        condition=HOSTILE,
        observed=HOSTILE,
        trigger=HOSTILE,
        measurements=[{"code": HOSTILE, "value": HOSTILE, "unit": HOSTILE}],
    )
    studied.manifest = None
    seg, _ = studied.results.files(call)
    ds = dcmread(seg)
    ds.SegmentSequence[0].SegmentLabel = HOSTILE
    ds.save_as(seg)
    answer = studied.look(**bearer("test-li"))
    assert "<script" not in answer.text
    assert answer.text.count("&lt;script&gt;") >= 12
    assert screen.HEADERS.items() - {("Vary", screen.HEADERS["Vary"])} <= {
        (name, answer.headers.get(name)) for name in screen.HEADERS
    }


def test_every_code_has_its_words() -> None:
    """In both languages: states, triggers, roles, decisions."""
    assert set(STATES) == {RECEIVING, *map(str, State)}
    assert set(ROLE_WORDS) == {*ROLES, ASSERTED}
    for table in (STATES, TRIGGERS, ROLE_WORDS, CHOICES, PROBLEMS):
        assert all(set(one) == {"zh", "en"} and all(one.values()) for one in table.values())


@pytest.fixture
def behind(tmp_path: Path) -> Iterator[Studied]:
    """The same behind a log-in."""
    made = Studied(tmp_path, closed=True)
    yield made
    made.close()


def sign_in(studied: Studied, path: str, token: str) -> Any:
    """The form for a token, as the browser sends it."""
    headers = {"Origin": "http://testserver"}
    return studied.client.post(path, data={"token": token, "look": "1"}, headers=headers, follow_redirects=False)


def test_an_operator_reads_words_and_sees_no_picture(behind: Studied) -> None:
    """A patient's pixels are for physicians; who looks after the service sees what ran, under their own name."""
    call = behind.read()
    for name in ("test-eye", "test-hand"):
        text = behind.look(**bearer(name)).text
        assert "the PACS has the results" in text
        assert f'<code id="as">{name}</code>' in text
        assert "<img" not in text
        refused = behind.picture(call, **bearer(name))
        assert (refused.status_code, refused.json()["error"]["code"]) == (403, "FORBIDDEN")
    assert [entry.body["role"] for entry in behind.looked()] == ["VIEWER", "OPERATOR"]
    assert behind.picture(call, **bearer("test-li")).status_code == 200


def test_without_a_log_in_an_operator_sees_no_picture_either(studied: Studied) -> None:
    """Who is known and is no reader is no reader."""
    call = studied.read()
    assert "<img" not in studied.look(**bearer("test-hand")).text
    assert studied.picture(call, **bearer("test-hand")).status_code == 401


def test_a_log_that_takes_nothing_shows_nothing_to_an_operator(behind: Studied) -> None:
    """Whose look cannot be written down does not look: 503, by page and by JSON."""
    behind.read()
    behind.log.full = AuditUnavailable("the disk refuses")
    assert "the PACS has the results" not in behind.look(**bearer("test-eye")).text
    answer = behind.client.get(f"/studies/{behind.spool.study_uid}", headers=bearer("test-eye"))
    assert (answer.status_code, answer.json()["error"]["code"]) == (503, "AUDIT_UNAVAILABLE")


def test_strangers_see_a_form_and_no_word(behind: Studied) -> None:
    """Study and form alike, asked for or sent; who gives a token is shown what they came for."""
    call = behind.read()
    page = {"Accept": "text/html"}
    for path in (f"/studies/{behind.spool.study_uid}", f"/decide/{call}"):
        behind.client.cookies.clear()
        answers = [
            behind.client.get(path, headers=page),
            behind.client.get(path, headers={**page, "Authorization": "Bearer " + "x" * 40}),
            behind.client.get(path, headers={**page, "Cookie": f"{COOKIE}=test-eye.9999999999.x"}),
            behind.client.post(path, data={"token": "x" * 40, "decision": "ACCEPT"}),
            behind.client.post(
                path, data={"decision": "ACCEPT", "as": "test-li"}, headers={"Origin": "http://testserver"}
            ),
            sign_in(behind, path, "x" * 40),
            sign_in(behind, path, ""),
        ]
        for answer in answers:
            assert answer.status_code == 401
            assert 'name="token"' in answer.text
            assert not [one for one in ("测试脑体积", "test-brain", call, "1.2.0") if one in answer.text]
        assert sign_in(behind, path, OPERATORS["test-eye"][1]).status_code == 303
        shown = behind.client.get(path, headers=page)
        assert (shown.status_code, "测试脑体积" in shown.text) == (200, True)
    assert {entry.body["role"] for entry in behind.looked()} == {"VIEWER"}


def test_an_operator_decides_nothing(behind: Studied) -> None:
    """Neither by the token in the form nor by cookie, not even under a reader's name; a reader does."""
    call = behind.read()
    path, origin = f"/decide/{call}", {"Origin": "http://testserver"}
    said = {"decision": "ACCEPT"}
    assert sign_in(behind, path, OPERATORS["test-hand"][1]).status_code == 303
    for fields in ({"token": OPERATORS["test-hand"][1]}, {"as": "test-hand"}, {"as": "test-li"}):
        assert behind.client.post(path, data=said | fields, headers=origin).status_code == 401
    assert 'name="as"' not in behind.client.get(path, headers={"Accept": "text/html"}).text
    kinds = [entry.kind for entry in behind.ward.log.entries()]
    assert Kind.HUMAN_DECISION not in kinds
    answer = behind.client.post(path, data=said | {"token": TOKENS["test-li"]}, headers=origin)
    assert answer.status_code == 201


def test_too_many_tokens_on_the_form_for_looking(behind: Studied) -> None:
    """The eleventh waits, on each page, with the right token too."""
    call = behind.read()
    for path in (f"/studies/{behind.spool.study_uid}", f"/decide/{call}"):
        behind.guessed_at += WINDOW_S
        for _ in range(WRONG_MAX):
            assert sign_in(behind, path, "x" * 40).status_code == 401
        answer = sign_in(behind, path, TOKENS["test-li"])
        assert (answer.status_code, "TOO_MANY_TOKENS" in answer.text) == (429, True)
        assert int(answer.headers["retry-after"]) == WINDOW_S
