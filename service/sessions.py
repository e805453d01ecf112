"""Who asks: by a bearer token, or by the cookie that a browser has after somebody gave their token on a page once.

The cookie names the person and when it ends, under a key that lives as long as the process: nothing is kept, and a
restart ends them all. It is HttpOnly and SameSite=Strict, and where something is written it counts only if the browser
says that the form came from this very host. An address that gives wrong tokens waits (see `service.guesses`); cookies
are looked at all the same, so that whoever sits behind the same proxy as a guesser goes on.
"""

import hmac
import secrets
from collections.abc import Callable, Sequence
from datetime import datetime
from typing import Final

from fastapi import Request
from fastapi.responses import Response

from service.decisions import Desk, Reader
from service.errors import ServiceError
from service.guesses import Guesses
from service.tokens import Operator, whose

COOKIE: Final = "zhiying_reader"
COOKIE_S: Final = 3600
"""Seconds from the last decision, or from the token that was given to see pictures: a sitting at one screen, not a
shift, as others use the screen as well."""

Person = Reader | Operator
"""Whom the configuration knows by a token."""


class TooManyTokens(ServiceError):
    """Too many wrong tokens came from one address; in `wait_s` seconds the next one is looked at."""

    code = "TOO_MANY_TOKENS"

    def __init__(self, wait_s: int) -> None:
        super().__init__("too many wrong tokens from this address")
        self.wait_s = wait_s

    def told(self, answer: Response) -> Response:
        """The answer, with when to come again (RFC 9110, 10.2.3)."""
        answer.headers["Retry-After"] = str(self.wait_s)
        return answer


class Sessions:
    """Gives cookies and knows them again. Thread-safe."""

    def __init__(
        self,
        desk: Desk,
        now: Callable[[], datetime],
        guesses: Guesses | None = None,
        operators: Sequence[Operator] = (),
    ) -> None:
        self._desk, self._now = desk, now
        self._guesses = guesses or Guesses()
        self._operators = tuple(operators)
        self._key = secrets.token_bytes(32)

    def typed(self, request: Request, token: str) -> Person | None:
        """Whose token was given; None if nobody's. Raises TooManyTokens."""
        address = "" if request.client is None else request.client.host
        if wait_s := self._guesses.wait_s(address):
            raise TooManyTokens(wait_s)
        person = self._whose(token)
        if person is None:
            self._guesses.wrong(address)
        return person

    def bears(self, request: Request) -> bool:
        """Whether a bearer token came, whosever it is."""
        return _bearer(request) is not None

    def bearing(self, request: Request) -> Person | None:
        """Whose bearer token came; None if none, or nobody's. Wrong ones are counted. Raises TooManyTokens."""
        token = _bearer(request)
        return None if token is None else self.typed(request, token)

    def looking(self, request: Request) -> Person | None:
        """Who looks, by bearer token or cookie; None if nobody that we know."""
        token = _bearer(request)
        return self._known(request.cookies.get(COOKIE, "")) if token is None else self._whose(token)

    def stranger(self, request: Request) -> bool:
        """Whether a bearer token was sent, and is nobody's."""
        return self.bears(request) and self.looking(request) is None

    def writing(self, request: Request) -> Person | None:
        """Who sends a form, by cookie: only one that came from a page of this host."""
        _, _, origin = request.headers.get("origin", "").partition("://")
        if not origin or origin != request.headers.get("host"):
            return None
        return self._known(request.cookies.get(COOKIE, ""))

    def give(self, request: Request, answer: Response, person: Person) -> None:
        """Have the browser remember this person for COOKIE_S."""
        ends = int(self._now().timestamp()) + COOKIE_S
        value = f"{person.name}.{ends}.{self._mac(person, ends)}"
        # What the browser sees counts: before us may stand a proxy that does TLS.
        secure = request.headers.get("origin", "").startswith("https://")
        answer.set_cookie(COOKIE, value, max_age=COOKIE_S, httponly=True, samesite="strict", secure=secure)

    def _whose(self, token: str) -> Person | None:
        # Both are looked through, so that the time tells nothing about which it was.
        reader, operator = self._desk.reader(token), whose(self._operators, token)
        return reader or operator

    def _named(self, name: str) -> Person | None:
        return self._desk.named(name) or next((one for one in self._operators if one.name == name), None)

    def _known(self, cookie: str) -> Person | None:
        name, _, rest = cookie.partition(".")
        ends, _, mac = rest.partition(".")
        person = self._named(name)
        if person is None or not (ends.isascii() and ends.isdecimal() and len(ends) <= len("9999999999")):
            return None
        whole = hmac.compare_digest(mac.encode(), self._mac(person, int(ends)).encode())
        return person if whole and self._now().timestamp() < int(ends) else None

    def _mac(self, person: Person, ends: int) -> str:
        return hmac.new(self._key, f"{person.name}.{person.token_sha256}.{ends}".encode(), "sha256").hexdigest()


def _bearer(request: Request) -> str | None:
    """The bearer token (RFC 6750), "" if it is empty; None where the request has none."""
    scheme, _, token = request.headers.get("authorization", "").partition(" ")
    return token.strip() if scheme.lower() == "bearer" else None
