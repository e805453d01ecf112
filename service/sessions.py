"""Who has opened a page: by a bearer token, or by the cookie that a browser has after its reader gave the token once.

The cookie names the reader and when it ends, under a key that lives as long as the process: nothing is kept, and a
restart ends them all. It is HttpOnly and SameSite=Strict, and where something is written it counts only if the browser
says that the form came from this very host. An address that gives wrong tokens waits (see `service.guesses`); cookies
are looked at all the same, so that whoever sits behind the same proxy as a guesser goes on.
"""

import hmac
import secrets
from collections.abc import Callable
from datetime import datetime
from typing import Final

from fastapi import Request
from fastapi.responses import Response

from service.decisions import Desk, Reader
from service.errors import ServiceError
from service.guesses import Guesses

COOKIE: Final = "zhiying_reader"
COOKIE_S: Final = 3600
"""Seconds from the last decision, or from the token that was given to see pictures: a sitting at one screen, not a
shift, as others use the screen as well."""


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

    def __init__(self, desk: Desk, now: Callable[[], datetime], guesses: Guesses | None = None) -> None:
        self._desk, self._now = desk, now
        self._guesses = guesses or Guesses()
        self._key = secrets.token_bytes(32)

    def typed(self, request: Request, token: str) -> Reader | None:
        """Whose token was typed into a form; None if nobody's. Raises TooManyTokens."""
        address = "" if request.client is None else request.client.host
        if wait_s := self._guesses.wait_s(address):
            raise TooManyTokens(wait_s)
        reader = self._desk.reader(token)
        if reader is None:
            self._guesses.wrong(address)
        return reader

    def looking(self, request: Request) -> Reader | None:
        """Who looks, by bearer token or cookie; None if nobody that we know."""
        scheme, _, token = request.headers.get("authorization", "").partition(" ")
        if scheme.lower() == "bearer":
            return self._desk.reader(token.strip())
        return self._known(request.cookies.get(COOKIE, ""))

    def stranger(self, request: Request) -> bool:
        """Whether a bearer token was sent, and is nobody's."""
        scheme, _, _ = request.headers.get("authorization", "").partition(" ")
        return scheme.lower() == "bearer" and self.looking(request) is None

    def writing(self, request: Request) -> Reader | None:
        """Who sends a form, by cookie: only one that came from a page of this host."""
        _, _, origin = request.headers.get("origin", "").partition("://")
        if not origin or origin != request.headers.get("host"):
            return None
        return self._known(request.cookies.get(COOKIE, ""))

    def give(self, request: Request, answer: Response, reader: Reader) -> None:
        """Have the browser remember this reader for COOKIE_S."""
        ends = int(self._now().timestamp()) + COOKIE_S
        value = f"{reader.name}.{ends}.{self._mac(reader, ends)}"
        # What the browser sees counts: before us may stand a proxy that does TLS.
        secure = request.headers.get("origin", "").startswith("https://")
        answer.set_cookie(COOKIE, value, max_age=COOKIE_S, httponly=True, samesite="strict", secure=secure)

    def _known(self, cookie: str) -> Reader | None:
        name, _, rest = cookie.partition(".")
        ends, _, mac = rest.partition(".")
        reader = self._desk.named(name)
        if reader is None or not (ends.isascii() and ends.isdecimal() and len(ends) <= len("9999999999")):
            return None
        whole = hmac.compare_digest(mac.encode(), self._mac(reader, int(ends)).encode())
        return reader if whole and self._now().timestamp() < int(ends) else None

    def _mac(self, reader: Reader, ends: int) -> str:
        return hmac.new(self._key, f"{reader.name}.{reader.token_sha256}.{ends}".encode(), "sha256").hexdigest()
