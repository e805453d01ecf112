"""The form on which a reader decides: GET and POST /decide/{call}. One page, in Chinese or English, without a script.

Looking needs no log-in unless the site wants one for all of this port (see `service.log_in`): a call's name has 128
bits, and the page names no patient. Deciding needs the reader's token, in the form itself, so that no other site's page
can send one; or the cookie of a reader who gave it before (see `service.sessions`) whose name the page has shown, so
that nobody decides as the colleague who sat here earlier. What is decided goes the same way as by the API, with the
channel FORM.
"""

import json
import re
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, Final

from fastapi import APIRouter, Request
from fastapi.responses import Response
from sqlalchemy.exc import SQLAlchemyError
from starlette.concurrency import run_in_threadpool

from audit.entry import Entry
from audit.errors import AuditError
from models.manifest import Manifest
from service import screen
from service.bodies import BODY_WAIT_S, BodyRefused, form_pairs, whole_body
from service.decision_api import STATUS, checked
from service.decisions import DIFFERENCES_MAX, FORM, REASONS, DecisionRefused, Desk, Known, Reader, parse_decision
from service.log_in_page import LOOK, log_in_page, opened
from service.looks import Looks
from service.screen import Language
from service.sessions import Sessions, TooManyTokens

CHOICES: Final = {
    "ACCEPT": {"zh": "采纳", "en": "Accept"},
    "MODIFY": {"zh": "修改后采纳", "en": "Modify"},
    "REJECT": {"zh": "不采纳", "en": "Reject"},
    "NOT_USED": {"zh": "未使用", "en": "Not used"},
}
PROBLEMS: Final = {
    "UNAUTHENTICATED": {
        "zh": "口令不对或缺失，什么也没有记录。",
        "en": "The token is missing or nobody's. Nothing was recorded.",
    },
    "TOO_MANY_TOKENS": {
        "zh": "此地址输入错误口令过多，请稍候再试。什么也没有记录。",
        "en": "Too many wrong tokens came from this address. Wait a minute. Nothing was recorded.",
    },
    "NOT_FOUND": {"zh": "没有这次调用。", "en": "There is no such call."},
    "CALL_WITHDRAWN": {"zh": "此结果已撤回或已被取代。", "en": "This result was withdrawn or superseded."},
    "CALL_NOT_RELEASED": {"zh": "没有已发布的结果可供决定。", "en": "There is no released result to decide on."},
    "DECISIONS_TOO_MANY": {
        "zh": "您对这次调用的决定次数已满，没有记录。",
        "en": "You have decided on this call too many times. Nothing was recorded.",
    },
    "DECISION_INVALID": {"zh": "表单不完整，没有记录。", "en": "The form is not complete. Nothing was recorded."},
    "TOO_SLOW": {"zh": "请求过慢，请重新发送。", "en": "The request came too slowly; send it again."},
    "TOO_LARGE": {"zh": "请求过大，没有记录。", "en": "The request is too large. Nothing was recorded."},
    "UNAVAILABLE": {
        "zh": "日志或数据库暂时不可用，没有确认记录，请稍后重新发送。",
        "en": "The log or the database is away, so that nothing is known to be recorded; send it again later.",
    },
}
HINTS: Final = {
    "decision": {"zh": "请选择一项决定。没有记录。", "en": "Choose a decision. Nothing was recorded."},
    "reasons": {
        "zh": "采纳时不选原因；其他决定至少选一项原因。没有记录。",
        "en": "An acceptance has no reason; any other decision has one or more. Nothing was recorded.",
    },
    "significant": {
        "zh": "修改或不采纳时，请说明差异是否有临床意义；其他决定不能选“是”。没有记录。",
        "en": "To modify or reject, say whether the difference is significant; else it is not. Nothing was recorded.",
    },
    "difference": {
        "zh": "修改的值须为数字（如 1890.0），且只用于“修改后采纳”。没有记录。",
        "en": "A value is a number such as 1890.0, and values are for Modify alone. Nothing was recorded.",
    },
}
"""What is wrong with a form, by the key that `parse_decision` names."""
_ONE: Final = frozenset({"token", "as", "decision", "significant"})
_PLACED: Final = re.compile(r"(after|gone)\.([0-9]{1,3})")

Fields = Mapping[str, list[str]]


class _Blank(dict[str, list[str]]):
    """A form as it was sent; what was not sent is empty."""

    def __missing__(self, key: str) -> list[str]:
        return []


def decide_router(
    desk: Desk,
    sessions: Sessions,
    looks: Looks,
    models: Callable[[Mapping[str, Any]], Manifest | None],
    default: Language,
    *,
    closed: bool = False,
    wait_s: float = BODY_WAIT_S,
) -> APIRouter:
    """The two routes. `models`: manifests by a model as entries name it; `default`: language unless `?lang=` says.

    `closed`: looking needs a token as well (see `service.log_in`).
    """
    router = APIRouter(prefix="/decide")
    form = _Form(desk, sessions, looks, models, default, closed=closed)

    @router.get("/{call}")
    def get_form(call: str, request: Request) -> Response:
        return form.shown(request, call)

    @router.post("/{call}")
    async def post_form(call: str, request: Request) -> Response:
        try:
            data = await whole_body(request, wait_s)
        except BodyRefused as refused:
            return form.refused(request, refused.status, refused.code)
        return await run_in_threadpool(form.taken, request, call, data)

    return router


class _Form:
    def __init__(
        self,
        desk: Desk,
        sessions: Sessions,
        looks: Looks,
        models: Callable[[Mapping[str, Any]], Manifest | None],
        default: Language,
        *,
        closed: bool,
    ) -> None:
        self._desk, self._sessions, self._looks = desk, sessions, looks
        self._models, self._default, self._closed = models, default, closed

    def shown(self, request: Request, call: str) -> Response:
        """The empty form, or why there is none."""
        if self._sessions.stranger(request):
            return self.refused(request, 401, "UNAUTHENTICATED")
        person = self._sessions.looking(request)
        try:
            known = self._desk.look(checked(call))
            if person is not None:
                self._looks.at_call(person, known)
        except DecisionRefused as refused:
            return self.refused(request, STATUS[refused.code], refused.code)
        except (AuditError, SQLAlchemyError):
            return self.refused(request, 503, "UNAVAILABLE")
        return self._page(request, known, code=known.shut)

    def refused(self, request: Request, status: int, code: str) -> Response:
        """A page without a form."""
        return self._page(request, None, status=status, code=code)

    def taken(self, request: Request, call: str, data: bytes) -> Response:
        """What was sent goes to the desk, if it is a reader's."""
        sent = _fields(request, data)
        if sent[LOOK]:
            token = "".join(sent["token"]).strip()
            return opened(self._sessions, request, token, self._default, partial(self._asked, request))
        try:
            reader = self._reader(request, sent)
        except TooManyTokens as refused:
            return refused.told(self.refused(request, 429, refused.code))
        person = reader or self._sessions.looking(request)
        if person is None and self._closed:
            return self._asked(request, 401, "UNAUTHENTICATED")
        try:
            known = self._desk.look(checked(call))
            if person is not None:
                self._looks.at_call(person, known)
            if reader is None:
                return self._page(request, known, status=401, code="UNAUTHENTICATED", form=sent)
            return self._decided(request, known, reader, sent)
        except DecisionRefused as refused:
            return self.refused(request, *((401, "UNAUTHENTICATED") if reader is None else _told(refused)))
        except (AuditError, SQLAlchemyError):
            return self.refused(request, 503, "UNAVAILABLE")

    def _decided(self, request: Request, known: Known, reader: Reader, sent: Fields) -> Response:
        lang = screen.language(request, self._default)
        try:
            entry, new = self._desk.decide(known.call.id, reader, parse_decision(_json(sent, known)), FORM)
        except DecisionRefused as refused:
            hint = HINTS.get(re.split(r"\W", str(refused))[0], {}) if refused.code == "DECISION_INVALID" else {}
            status, code = _told(refused)
            return self._page(request, known, status=status, code=code, form=sent, problem=hint.get(lang))
        done = _done(entry, reader, lang, new=new)
        answer = self._page(request, known, status=201 if new else 200, done=done)
        self._sessions.give(request, answer, reader)
        return answer

    def _reader(self, request: Request, sent: Fields) -> Reader | None:
        """Whose form it is: a token that was typed in counts before the cookie of whoever was here last.

        Raises TooManyTokens.
        """
        token = "".join(sent["token"]).strip()
        if token:
            typed = self._sessions.typed(request, token)
            return typed if isinstance(typed, Reader) else None
        person = self._sessions.writing(request)
        return person if isinstance(person, Reader) and sent["as"] == [person.name] else None

    def _asked(self, request: Request, status: int, code: str) -> Response:
        return log_in_page(request, self._default, status, code)

    def _page(
        self,
        request: Request,
        known: Known | None,
        *,
        status: int = 200,
        code: str | None = None,
        form: Fields | None = None,
        problem: str | None = None,
        done: Mapping[str, Any] | None = None,
    ) -> Response:
        lang = screen.language(request, self._default)
        model = {} if known is None else known.call.body("CALL_INTENT").get("model", {})
        manifest = self._models(model)
        values = () if known is None else known.call.body("CALL_RESULT").get("measurements", ())
        answers = known is not None and known.open and done is None
        person = self._sessions.looking(request)
        return screen.page(
            "decide.html",
            lang,
            status,
            known=known,
            model=model,
            title=screen.title(model, manifest, lang),
            measured=screen.measured(values, manifest),
            choices=[(value, words[lang]) for value, words in CHOICES.items()],
            reasons=[(value, words[lang]) for value, words in REASONS.items()],
            form=_Blank(form or {"sent": []}) if answers else None,
            reader=person if isinstance(person, Reader) else None,
            problem=problem or (PROBLEMS[code][lang] if code else None),
            code=code,
            done=done,
        )


def _fields(request: Request, data: bytes) -> Fields:
    """What was sent; nothing if it is no form."""
    found = _Blank()
    # Two fields for each measurement, reasons, and some.
    for key, value in form_pairs(request, data, 4 * DIFFERENCES_MAX):
        found.setdefault(key, []).append(value)
    return found


def _json(sent: Fields, known: Known) -> bytes:
    """The form as the API would have it. Raises DecisionRefused for fields that are not ours, or given twice."""
    values = known.call.body("CALL_RESULT").get("measurements", ())
    said: dict[str, Any] = {"decision": "".join(sent["decision"]), "reasons": sent["reasons"]}
    if sent["significant"]:
        said["significant"] = sent["significant"][0]
    changed: dict[int, str | None] = {}
    for key, given in sent.items():
        placed = _PLACED.fullmatch(key)
        if (key != "reasons" and len(given) != 1) or not (key in _ONE or key == "reasons" or placed):
            raise DecisionRefused("DECISION_INVALID", "a field that is not of this form")
        if placed is None or given[0] == "":
            continue
        place = int(placed[2])
        if place >= len(values) or place in changed:
            raise DecisionRefused("DECISION_INVALID", "difference: a value of no measurement, or two of one")
        changed[place] = given[0].strip() if placed[1] == "after" else None
    if changed:
        said["difference"] = [{"code": values[place]["code"], "after": changed[place]} for place in sorted(changed)]
    return json.dumps(said).encode()


def _told(refused: DecisionRefused) -> tuple[int, str]:
    return STATUS[refused.code], refused.code


def _done(entry: Entry, reader: Reader, lang: Language, *, new: bool) -> dict[str, Any]:
    what = CHOICES[str(entry.body["decision"])][lang]
    said = {"zh": "已记录", "en": "Recorded"} if new else {"zh": "此前已记录，未重复", "en": "Already said before"}
    return {"said": f"{said[lang]}: {what}", "reader": reader.name, "index": entry.index, "time": entry.time}
