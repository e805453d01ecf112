"""The log-in for the whole HTTP port, where `[http] log_in = true`: which route wants whom, and what others are told.

RULES is the whole of it, and closed: what it does not name is for an OPERATOR. It is asked before the request's body is
read. A bearer token counts everywhere, a cookie only where nothing is changed: no page of another site can send a
token, so that none can have anything done. Wrong tokens are counted by address (see `service.guesses`).
"""

from collections.abc import Mapping
from enum import StrEnum
from types import MappingProxyType
from typing import Final

from fastapi import Request
from fastapi.responses import JSONResponse, Response
from starlette.routing import compile_path
from starlette.types import ASGIApp, Receive, Scope, Send

from service.decisions import Reader
from service.errors import ConfigInvalid
from service.log_in_page import log_in_page
from service.screen import Language
from service.sections import Http
from service.sessions import Person, Sessions, TooManyTokens
from service.stow_api import loopback
from service.study_page import wants_page
from service.tokens import OPERATOR


class Rule(StrEnum):
    """Who may."""

    OPEN = "OPEN"
    """Anybody; who gives no token is told less."""
    OWN = "OWN"
    """It asks by itself: a form with the token in it, and STOW-RS, which knows its senders by their address."""
    LOOK = "LOOK"
    """Whoever has a token."""
    READ = "READ"
    """Readers: a patient's pixels, and decisions."""
    OPERATE = "OPERATE"
    """An OPERATOR."""


RULES: Final[Mapping[tuple[str, str], Rule]] = MappingProxyType(
    {
        ("GET", "/health"): Rule.OPEN,
        ("GET", "/metrics"): Rule.LOOK,
        ("GET", "/studies"): Rule.LOOK,
        ("GET", "/studies/{study_uid}"): Rule.LOOK,
        ("POST", "/studies/{study_uid}"): Rule.OWN,
        ("GET", "/studies/{study_uid}/pictures/{call}/{number}.png"): Rule.READ,
        ("GET", "/models"): Rule.LOOK,
        ("GET", "/audit/head"): Rule.LOOK,
        ("GET", "/stops"): Rule.LOOK,
        ("GET", "/pulls"): Rule.LOOK,
        ("POST", "/pulls"): Rule.OPERATE,
        ("GET", "/pulls/{job_id}"): Rule.LOOK,
        ("GET", "/calls/{call}"): Rule.READ,
        ("POST", "/calls/{call}/decision"): Rule.READ,
        ("GET", "/decide/{call}"): Rule.LOOK,
        ("POST", "/decide/{call}"): Rule.OWN,
        ("POST", "/dicom-web/studies"): Rule.OWN,
        ("POST", "/dicom-web/studies/{study_uid}"): Rule.OWN,
    }
)
PAGES: Final = frozenset({"/studies/{study_uid}", "/decide/{call}"})
"""Where a browser gets a form for the token instead of an error."""
MESSAGES: Final = {
    "UNAUTHENTICATED": "a token is wanted: Authorization: Bearer ...",
    "FORBIDDEN": "this token is not for that",
    "TOO_MANY_TOKENS": "too many wrong tokens came from this address",
}
_SAFE: Final = frozenset({"GET", "HEAD"})
_PATHS: Final = tuple((method, compile_path(path)[0], path) for method, path in RULES)


def rule_of(method: str, path: str) -> tuple[Rule, str | None]:
    """The rule for a request, and the path in RULES that it is for; None where none is."""
    for listed, pattern, template in _PATHS:
        if listed == method and pattern.fullmatch(path):
            return RULES[listed, template], template
    return Rule.OPERATE, None


def may(person: Person | None, rule: Rule) -> bool:
    """Whether this one may, who is None where nobody has given a token."""
    if rule in {Rule.OPEN, Rule.OWN}:
        return True
    if rule is Rule.READ:
        return isinstance(person, Reader)
    if rule is Rule.OPERATE:
        return person is not None and person.role == OPERATOR
    return person is not None


class LogIn:
    """Asks who comes. `default`: the language of the form for a token."""

    def __init__(self, sessions: Sessions, default: Language) -> None:
        self._sessions, self._default = sessions, default

    def knows(self, request: Request) -> bool:
        """Whether a token or cookie says who asks."""
        return self._sessions.looking(request) is not None

    def refused(self, request: Request) -> Response | None:
        """What whoever may not is told; None: they may."""
        rule, template = rule_of(request.method, str(request.scope["path"]))
        bears = self._sessions.bears(request)
        if rule is Rule.OWN or (rule is Rule.OPEN and not bears):
            return None
        try:
            # Only what changes nothing may be asked for by cookie, which a browser adds by itself.
            by_cookie = not bears and request.method in _SAFE
            person = self._sessions.looking(request) if by_cookie else self._sessions.bearing(request)
        except TooManyTokens as refused:
            return refused.told(self._answer(request, template, 429, refused.code))
        if person is None:
            answer = self._answer(request, template, 401, "UNAUTHENTICATED")
            answer.headers["WWW-Authenticate"] = "Bearer"
            return answer
        return None if may(person, rule) else self._answer(request, template, 403, "FORBIDDEN")

    def _answer(self, request: Request, template: str | None, status: int, code: str) -> Response:
        if template in PAGES and code != "FORBIDDEN" and wants_page(request):
            return log_in_page(request, self._default, status, code)
        return JSONResponse({"error": {"code": code, "message": MESSAGES[code]}}, status)


class Guarded:
    """An application behind the log-in: ASGI, so that nothing of a request is read before it may come in."""

    def __init__(self, app: ASGIApp, log_in: LogIn) -> None:
        self._app, self._log_in = app, log_in

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """See ASGI."""
        # Of the others, lifespan is the server's own, and there is no route for a websocket.
        refused = self._log_in.refused(Request(scope)) if scope["type"] == "http" else None
        await (self._app if refused is None else refused)(scope, receive, send)


def unsaid(http: Http) -> bool:
    """Whether others reach the port, and the file does not say if they have to log in."""
    return http.log_in is None and not local(http)


def local(http: Http) -> bool:
    """Whether only this machine reaches the port."""
    return http.host == "localhost" or loopback(http.host)


def settled(http: Http) -> None:
    """Raises ConfigInvalid where it is not said who may come in."""
    if unsaid(http):
        raise ConfigInvalid(UNSAID)


UNSAID: Final = (
    "http.log_in is not set, and http.host is not loopback: say log_in = true (with [[operators]]), or log_in = false "
    "to let in whoever reaches the port; see docs/running.md"
)
