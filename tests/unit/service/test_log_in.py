"""The log-in for the whole HTTP port: every route and everybody who may ask, over the service's own application."""

import asyncio
import hashlib
import json
import socket
import threading
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
import structlog
import typer
from fastapi import FastAPI
from fastapi.routing import iter_route_contexts
from starlette.types import Message
from typer.testing import CliRunner

from audit.entry import Kind
from service.commands.pull import pull
from service.config import load
from service.errors import ConfigInvalid
from service.guesses import WRONG_MAX
from service.http_server import HttpServer
from service.log_in import MESSAGES, RULES, Guarded, LogIn, Rule, may, rule_of, settled
from service.sections import Http
from service.serving import Service, build
from service.sessions import COOKIE
from service.store import Run, State
from tests.simulators.browser import TestClient
from tests.simulators.readers import OPERATORS, TOKENS, TRAINING, bearer, operators, readers

STUDY = "1.2.840.99999.7.1"
CALL = "0" * 32
NOBODY = "x" * 40
HOST = "http://testserver"
IN, OUT, NOT_YOU, OWN = "let in", "401", "403", "asks by itself"

ROLES = (None, "wrong", "test-li", "test-eye", "test-hand")
"""Nobody, a token of nobody, a reader, a VIEWER, an OPERATOR: the columns of the table."""
ANYBODY = (IN, OUT, IN, IN, IN)
KNOWN = (OUT, OUT, IN, IN, IN)
READERS = (OUT, OUT, IN, NOT_YOU, NOT_YOU)
HANDS = (OUT, OUT, NOT_YOU, NOT_YOU, IN)
ITSELF = (OWN,) * 5
WANTED = {
    ("GET", "/health"): ANYBODY,
    ("GET", "/metrics"): KNOWN,
    ("GET", "/studies"): KNOWN,
    ("GET", "/studies/{study_uid}"): KNOWN,
    ("POST", "/studies/{study_uid}"): ITSELF,
    ("GET", "/studies/{study_uid}/pictures/{call}/{number}.png"): READERS,
    ("GET", "/models"): KNOWN,
    ("GET", "/audit/head"): KNOWN,
    ("GET", "/stops"): KNOWN,
    ("GET", "/pulls"): KNOWN,
    ("POST", "/pulls"): HANDS,
    ("GET", "/pulls/{job_id}"): KNOWN,
    ("GET", "/calls/{call}"): READERS,
    ("POST", "/calls/{call}/decision"): READERS,
    ("GET", "/decide/{call}"): KNOWN,
    ("POST", "/decide/{call}"): ITSELF,
    ("POST", "/dicom-web/studies"): ITSELF,
    ("POST", "/dicom-web/studies/{study_uid}"): ITSELF,
}
"""Written by hand, and not made of RULES: what is wrong there is wrong here only if somebody wants it so."""


@pytest.fixture(autouse=True, scope="module")
def logging_as_before() -> Iterator[None]:
    """Building a service sets up its log for the whole process; other tests of this one want their own."""
    yield
    structlog.reset_defaults()


def people() -> str:
    """The readers and operators of the simulators, as the file has them."""
    lines = []
    for reader in readers():
        lines.append(f'[[readers]]\nname = "{reader.name}"\nrole = "{reader.role}"\ntraining = "{TRAINING}"')
        lines.append(f'token_sha256 = "{reader.token_sha256}"')
    for one in operators():
        lines.append(f'[[operators]]\nname = "{one.name}"\nrole = "{one.role}"\ntoken_sha256 = "{one.token_sha256}"')
    return "\n".join(lines) + "\n"


class Port:
    """The application of a whole service that was built and not started, with one refused run."""

    def __init__(self, folder: Path, said: str) -> None:
        file = folder / "zhiying.toml"
        file.write_text(
            f"[data]\nfolder = {json.dumps(str(folder / 'data'))}\nfree_bytes_min = 0\n"
            f"[dicom]\nport = 0\n[http]\nport = 0\n{said}\n{people()}",
            encoding="utf-8",
        )
        self.service: Service = build(load(file))
        self.app: FastAPI = self.service._app()
        then = datetime(2026, 11, 23, 8, 0, tzinfo=UTC)
        self.service.store.add(
            Run(
                *("run-1", STUDY, "sha256:" + "0" * 64, 1, State.REFUSED),
                trigger="COUNT_MATCHED",
                created_at=then,
                updated_at=then,
                code="NO_APPROVAL",
            )
        )
        self._callers = 0

    def client(self) -> TestClient:
        """A browser or program at an address of its own, with no cookie."""
        self._callers += 1
        address = (f"192.0.2.{self._callers}", 50000)
        return TestClient(self.app, raise_server_exceptions=False, client=address, follow_redirects=False)

    def ask(self, method: str, path: str, who: str | None = None, **named: Any) -> Any:
        """One request from a new address; `who`: one of ROLES."""
        return self.client().request(method, path, headers=token_of(who), **named)

    def viewed(self) -> list[dict[str, Any]]:
        """What the log says of who looked."""
        return [dict(entry.body) for entry in self.service.log.entries() if entry.kind is Kind.VIEWED]

    def close(self) -> None:
        """Let go of files; nothing runs."""
        self.service.inbox.close()
        self.service.store.close()
        self.service.engine.close()
        self.service.log.close()
        self.service._lock.close()


def token_of(who: str | None) -> dict[str, str]:
    """The header of one of ROLES."""
    if who is None:
        return {}
    return {"Authorization": f"Bearer {NOBODY}"} if who == "wrong" else bearer(who)


def routes(app: FastAPI) -> set[tuple[str, str]]:
    """Method and path of all that an application answers, however its routers lie in each other."""
    return {(method, str(one.path)) for one in iter_route_contexts(app.routes) for method in one.methods or {"*"}}


@pytest.fixture(scope="module")
def closed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Port]:
    """With a log-in."""
    port = Port(tmp_path_factory.mktemp("closed"), "log_in = true")
    yield port
    port.close()


@pytest.fixture(scope="module")
def opened(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Port]:
    """Without one, as on loopback by default."""
    port = Port(tmp_path_factory.mktemp("open"), "")
    yield port
    port.close()


def real(path: str) -> str:
    """The path of a route, with values."""
    for name, value in (("study_uid", STUDY), ("call", CALL), ("number", "1"), ("job_id", "1")):
        path = path.replace(f"{{{name}}}", value)
    return path


def outcome(answer: Any) -> str:
    """What became of a request, in the words of the table."""
    if answer.status_code in {401, 403} and "json" in answer.headers["content-type"]:
        error = answer.json()["error"]
        assert answer.json() == {"error": {"code": error["code"], "message": MESSAGES[error["code"]]}}
        wanted = {401: "UNAUTHENTICATED", 403: "FORBIDDEN"}[answer.status_code]
        assert error["code"] == wanted
        assert (answer.headers.get("www-authenticate") == "Bearer") == (answer.status_code == 401)
        return str(answer.status_code)
    return IN


def test_every_route_has_a_rule(closed: Port) -> None:
    """A route that nobody has thought of fails here, and so does a rule of a route that is gone."""
    assert routes(closed.app) == WANTED.keys() == RULES.keys()
    with_more = FastAPI(openapi_url=None, docs_url=None, redoc_url=None)
    with_more.include_router(closed.app.router)

    @with_more.post("/erase")
    def erase() -> None:
        raise AssertionError("nobody asks")

    assert routes(with_more) - WANTED.keys() == {("POST", "/erase")}


@pytest.mark.parametrize(("method", "path"), WANTED)
@pytest.mark.parametrize("column", range(len(ROLES)))
def test_who_may_ask_for_what(closed: Port, method: str, path: str, column: int) -> None:
    """Every route, for everybody, as a program asks."""
    answer = closed.ask(method, real(path), ROLES[column])
    wanted = WANTED[method, path][column]
    if wanted is not OWN:
        assert outcome(answer) == wanted
        return
    # Its own answer to a request that brings nothing: a form, or a media type.
    if path.startswith("/dicom-web"):
        assert answer.status_code == 415
    else:
        assert (answer.status_code, answer.headers["content-type"]) == (401, "text/html; charset=utf-8")
        assert ('name="token"' in answer.text) or (column > 1 and path.startswith("/decide"))
        assert "NO_APPROVAL" not in answer.text


@pytest.mark.parametrize(("method", "path"), WANTED)
def test_without_a_log_in_nothing_is_asked(opened: Port, method: str, path: str) -> None:
    """As it always was: who asks for a reader is refused by the route itself, and nobody else is."""
    answer = opened.ask(method, real(path))
    if WANTED[method, path] is READERS:
        assert (answer.status_code, answer.json()["error"]["code"]) == (401, "UNAUTHENTICATED")
    elif WANTED[method, path] is not ITSELF:
        assert answer.status_code not in {401, 403}


def test_strangers_are_told_whether_it_is_well_and_no_more(closed: Port, opened: Port) -> None:
    """What watches the service needs no token; which part is not well is for those who have one."""
    told = closed.ask("GET", "/health")
    assert told.status_code == 503  # it was not started
    assert told.json() == {"status": "degraded"}
    for who in ("test-li", "test-eye", "test-hand"):
        assert closed.ask("GET", "/health", who).json()["checks"]["assembler"] == "stopped"
    assert opened.ask("GET", "/health").json()["checks"]["assembler"] == "stopped"


PATHS = ["/health/", "/HEALTH", "//studies", "/studies/", "/nowhere", "/docs", "/studies/1/2", "/.."]


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("method", ["GET", "HEAD", "POST", "PUT", "DELETE", "OPTIONS", "PROPFIND"])
def test_what_no_rule_names_is_for_an_operator(closed: Port, method: str, path: str) -> None:
    """A path that almost is one of ours, another method: nobody learns whether there is anything."""
    assert rule_of(method, path) == (Rule.OPERATE, None)
    assert [closed.ask(method, path, who).status_code for who in ROLES[:4]] == [401, 401, 403, 403]
    assert closed.ask(method, path, "test-hand").status_code in {404, 405, 307}


def test_a_path_with_a_line_end(closed: Port) -> None:
    """The router takes it for the path without; the rules do not, and what they do not know is an operator's."""
    assert [closed.ask("GET", "/studies%0a", who).status_code for who in ROLES] == [401, 401, 403, 403, 200]


def test_a_route_that_was_forgotten_is_closed(closed: Port) -> None:
    """The rule comes before the route, so that a new one is open to nobody by mistake."""
    app = FastAPI()
    app.get("/new")(lambda: {"patient": "TEST"})
    app.add_middleware(Guarded, log_in=LogIn(closed.service.watching.sessions, "zh"))
    for who, status in zip(ROLES, (401, 401, 403, 403, 200), strict=True):
        client = TestClient(app, client=(f"198.51.100.{status % 100}", 1))
        assert client.get("/new", headers=token_of(who)).status_code == status


def test_no_path_has_two_rules() -> None:
    """Which rule is found does not hang on the order in the table."""
    for method, path in RULES:
        assert rule_of(method, real(path)) == (RULES[method, path], path)


def test_rules_and_roles() -> None:
    """Who is not a reader never reads; who is not OPERATOR never operates, whatever their role is called."""
    (reader, *_), (viewer, operator) = readers(), operators()
    assert [may(None, rule) for rule in Rule] == [True, True, False, False, False]
    assert [may(reader, rule) for rule in Rule] == [True, True, True, True, False]
    assert [may(viewer, rule) for rule in Rule] == [True, True, True, False, False]
    assert [may(operator, rule) for rule in Rule] == [True, True, True, False, True]


def test_nothing_is_read_of_a_stranger(closed: Port) -> None:
    """A body is not taken in, and not looked at: 401, where whoever may gets 422 for it."""
    garbage = {"content": b"{", "headers": {"Content-Type": "application/json"}}
    assert closed.client().post("/pulls", **garbage).status_code == 401
    garbage["headers"] = {**garbage["headers"], **bearer("test-hand")}
    assert closed.client().post("/pulls", **garbage).status_code == 422

    sent: list[Message] = []

    async def receive() -> Message:
        raise AssertionError("the body was asked for")

    async def send(message: Message) -> None:
        sent.append(message)

    scope = {
        "type": "http",
        "method": "POST",
        "path": "/pulls",
        "query_string": b"",
        "headers": [],
        "client": ("192.0.2.250", 1),
    }
    asyncio.run(closed.app(scope, receive, send))
    assert sent[0]["status"] == 401


def test_an_operator_orders_a_pull(closed: Port) -> None:
    """Let in, the order is judged as ever."""
    order = {"study": STUDY, "from": "nobody"}
    answer = closed.ask("POST", "/pulls", "test-hand", json=order)
    assert (answer.status_code, answer.json()["error"]["code"]) == (404, "PEER_UNKNOWN")
    assert closed.ask("POST", "/pulls", "test-eye", json=order).json()["error"]["code"] == "FORBIDDEN"


def logged_in(port: Port, who: str, path: str = f"/studies/{STUDY}") -> TestClient:
    """A browser in which somebody has given their token."""
    client = port.client()
    token = TOKENS[who] if who in TOKENS else OPERATORS[who][1]
    answer = client.post(path, data={"token": token, "look": "1"}, headers={"Origin": HOST})
    assert (answer.status_code, answer.headers["location"]) == (303, "?lang=zh")
    assert COOKIE in client.cookies
    return client


def test_a_cookie_looks_and_does_nothing(closed: Port) -> None:
    """No other site can have a browser order a pull, decide or be shown; not even a page of ours by cookie alone."""
    client = logged_in(closed, "test-hand")
    assert client.get("/pulls").status_code == 200
    for origin in (HOST, "https://evil.example", "null"):
        answer = client.post("/pulls", json={"study": STUDY, "from": "nobody"}, headers={"Origin": origin})
        assert (answer.status_code, answer.json()["error"]["code"]) == (401, "UNAUTHENTICATED")
    (cookie,) = [one for one in client.cookies.jar if one.name == COOKIE]
    assert cookie.has_nonstandard_attr("HttpOnly")
    assert str(cookie.get_nonstandard_attr("SameSite")).lower() == "strict"


def test_a_cookie_does_not_save_a_wrong_token(closed: Port) -> None:
    """Who sends a token is taken at it: a program with an old one notices, whatever else it has."""
    client = logged_in(closed, "test-hand")
    assert client.get("/studies", headers=token_of("wrong")).status_code == 401


def test_ten_wrong_tokens_wait(closed: Port) -> None:
    """429 with when to come again, for right tokens too, at that address alone; cookies and the open door go on."""
    client = logged_in(closed, "test-eye")
    for _ in range(WRONG_MAX):
        assert client.get("/metrics", headers=token_of("wrong")).status_code == 401
    for who in ("wrong", "test-eye"):
        answer = client.get("/metrics", headers=token_of(who))
        assert (answer.status_code, answer.json()["error"]["code"]) == (429, "TOO_MANY_TOKENS")
        assert 0 < int(answer.headers["retry-after"]) <= 60
    assert client.get("/metrics").status_code == 200
    assert client.get("/health").status_code == 503
    assert closed.ask("GET", "/metrics", "test-eye").status_code == 200


@pytest.mark.parametrize(
    "header",
    ["Bearer", "Bearer ", "Basic " + "h" * 40, "h" * 40, "Bearer " + "h" * 31, "Bearer " + "h" * 41, "Bearer é"],
)
def test_what_is_no_token(closed: Port, header: str) -> None:
    """Another scheme, none, a part of a token, more than it, and what is not ASCII: 401 and no error."""
    answer = closed.client().get("/studies", headers={"Authorization": header.encode("latin-1")})
    assert answer.status_code == 401


def test_a_short_token_is_nobodys(tmp_path: Path) -> None:
    """A digest in the file of a token that can be guessed lets nobody in."""
    short = "k" * 31
    digest = hashlib.sha256(short.encode()).hexdigest()
    more = f'log_in = true\n[[operators]]\nname = "test-short"\nrole = "OPERATOR"\ntoken_sha256 = "{digest}"'
    port = Port(tmp_path, more)
    try:
        answer = port.client().get("/studies", headers={"Authorization": f"Bearer {short}"})
        assert answer.status_code == 401
    finally:
        port.close()


def test_a_token_is_repeated_nowhere(closed: Port, capfd: pytest.CaptureFixture[str]) -> None:
    """Neither the answer nor what the service prints has the token or its digest, right or wrong."""
    said = []
    for who in ROLES[1:]:
        for method, path in WANTED:
            answer = closed.ask(method, real(path), who)
            said.append(answer.text + repr(answer.headers))
    text = "".join(said) + "".join(capfd.readouterr())
    secrets = [NOBODY, *TOKENS.values(), *(token for _, token in OPERATORS.values())]
    digests = [hashlib.sha256(token.encode()).hexdigest() for token in secrets]
    assert not [one for one in [*secrets, *digests] if one in text]


def test_whoever_is_shown_a_study_is_named(closed: Port) -> None:
    """By pseudonym and role, once a day, by page and by JSON; a list is no look at one; refused is nothing."""
    before = len(closed.viewed())
    for who in (None, "wrong"):
        closed.ask("GET", f"/studies/{STUDY}", who)
    closed.ask("GET", "/studies", "test-eye")
    assert len(closed.viewed()) == before
    for who in ("test-eye", "test-hand"):
        closed.ask("GET", f"/studies/{STUDY}", who)
        logged_in(closed, who).get(f"/studies/{STUDY}", headers={"Accept": "text/html"})
    names = {closed.service.watching.desk.pseudonym(one): one.role for one in operators()}
    viewed = [one for one in closed.viewed() if one["reader"] in names]
    assert {one["reader"]: one["role"] for one in viewed} == names
    assert len(viewed) == len(names)


def test_a_browser_gets_a_form(closed: Port) -> None:
    """Where people come by a link: 401, the form in their language, and no word of the study, call or run."""
    for path in (f"/studies/{STUDY}", f"/decide/{CALL}"):
        for lang, words in (("en", "Give your token"), ("zh", "须先输入口令")):
            answer = closed.client().get(f"{path}?lang={lang}", headers={"Accept": "text/html"})
            assert answer.status_code == 401
            assert words in answer.text
            assert f'action="?lang={lang}"' in answer.text
            assert answer.headers["cache-control"] == "no-store"
            assert "Accept" in answer.headers["vary"]
            assert not [one for one in (STUDY, CALL, "NO_APPROVAL") if one in answer.text]
        client = logged_in(closed, "test-eye", path)
        shown = client.get(path, headers={"Accept": "text/html"})
        assert shown.status_code == (200 if "studies" in path else 404)
        assert 'id="look"' not in shown.text


HOSTS = ["127.0.0.1", "127.8.8.8", "::1", "localhost", "::ffff:127.0.0.1"]
REACHED = ["0.0.0.0", "::", "10.0.0.5", "ai.example", "", "127.0.0.1.evil.example", "localhost.example"]  # noqa: S104


@pytest.mark.parametrize("host", HOSTS)
@pytest.mark.parametrize("log_in", [None, True, False])
def test_on_loopback_nothing_need_be_said(host: str, log_in: bool | None) -> None:
    """What runs goes on running after an upgrade."""
    settled(Http(host=host, log_in=log_in))


@pytest.mark.parametrize("host", REACHED)
def test_where_others_reach_the_port_it_must_be_said(host: str) -> None:
    """Neither way by default: open would show patients' studies to a network, closed would stop what works."""
    with pytest.raises(ConfigInvalid, match="log_in"):
        settled(Http(host=host))
    for said in (True, False):
        settled(Http(host=host, log_in=said))


def test_a_service_that_others_reach_does_not_start(tmp_path: Path) -> None:
    """Refused before anything is opened or made."""
    with pytest.raises(ConfigInvalid):
        Port(tmp_path, 'host = "0.0.0.0"')
    assert not (tmp_path / "data").exists()


@pytest.fixture
def called(closed: Port, tmp_path: Path) -> Iterator[Path]:
    """The application on a real port; a configuration that names it."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    file = tmp_path / "zhiying.toml"
    file.write_text(f'[http]\nhost = "127.0.0.1"\nport = {port}\n', encoding="utf-8")
    server = HttpServer(closed.app, Http(port=port))
    server.start()
    for _ in range(400):
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", port)) == 0:
                break
        threading.Event().wait(0.05)
    yield file
    server.stop()


def test_the_command_and_the_service_over_the_network(
    called: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    """`zhiying pull`: without a token, with one that only looks, and with the right one, from file and environment."""
    app = typer.Typer()
    app.command()(pull)
    words = ["--study", STUDY, "--from", "nobody", "--config", str(called)]
    file = tmp_path / "token"
    for token, by_file, code in (
        (None, False, "UNAUTHENTICATED"),
        (NOBODY, True, "UNAUTHENTICATED"),
        (OPERATORS["test-eye"][1], True, "FORBIDDEN"),
        (OPERATORS["test-hand"][1], True, "PEER_UNKNOWN"),
        (OPERATORS["test-hand"][1], False, "PEER_UNKNOWN"),
    ):
        file.write_text(f"{token}\n", encoding="ascii")
        env = {"ZHIYING_TOKEN": None if by_file else token}
        result = CliRunner().invoke(app, [*words, *(["--token-file", str(file)] if by_file else [])], env=env)
        assert result.exit_code == 1
        assert result.stderr.startswith(f"error {code}: ")
        assert token is None or token not in result.output + "".join(capfd.readouterr())
