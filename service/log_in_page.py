"""The form that asks for a token, where a page is for those alone who have one; and what giving one there brings."""

from collections.abc import Callable
from typing import Final

from fastapi import Request
from fastapi.responses import Response

from service import screen
from service.screen import Language
from service.sessions import Sessions, TooManyTokens

LOOK: Final = "look"
"""The field by which this form is told from another one on the same address."""
PROBLEMS: Final = {
    "UNAUTHENTICATED": {"zh": "查看此页须先输入口令。", "en": "Give your token to see this page."},
    "TOO_MANY_TOKENS": {
        "zh": "此地址输入错误口令过多，请稍候再试。",
        "en": "Too many wrong tokens came from this address. Wait a minute.",
    },
}


def log_in_page(request: Request, default: Language, status: int, code: str) -> Response:
    """The form; it is sent to the address that was asked for."""
    lang = screen.language(request, default)
    answer = screen.page("log_in.html", lang, status, problem=PROBLEMS[code][lang], code=code)
    answer.headers["Vary"] = f"Accept, {screen.HEADERS['Vary']}"
    return answer


def opened(
    sessions: Sessions, request: Request, token: str, default: Language, refused: Callable[[int, str], Response]
) -> Response:
    """Whoever gave their token gets a cookie, and the page again; others what `refused` makes of status and code."""
    try:
        person = sessions.typed(request, token) if token else None
    except TooManyTokens as many:
        return many.told(refused(429, many.code))
    if person is None:
        return refused(401, "UNAUTHENTICATED")
    # The page is asked for again, with the cookie: a page that came by POST cannot be reloaded.
    here = f"?lang={screen.language(request, default)}"
    answer = Response(status_code=303, headers={**screen.HEADERS, "Location": here})
    sessions.give(request, answer, person)
    return answer
