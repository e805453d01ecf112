"""The page of one study, GET /studies/{uid} in a browser: what ran and why, what it found, and who decided.

Text needs no log-in unless the site wants one for all of this port (see `service.log_in`): what is told is what the
same address gives as JSON, and names no patient. Pixels are a patient's: pictures are for a reader, by bearer token or
by the cookie that giving a token here or on the form brings (see `service.sessions`). What a reader or an operator is
shown is in the log first (see `service.looks`).
"""

import re
import sqlite3
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any, Final

from fastapi import APIRouter, Request
from fastapi.responses import Response
from sqlalchemy.exc import SQLAlchemyError
from starlette.concurrency import run_in_threadpool
from starlette.exceptions import HTTPException

from audit.errors import AuditError
from dicom_bridge import quick_look, readback
from dicom_bridge.errors import BridgeError
from dicom_bridge.quick_look import LookRefused
from models.manifest import Manifest
from service import screen, views
from service.bodies import BODY_WAIT_S, BodyRefused, form_pairs, whole_body
from service.decide_page import CHOICES
from service.decisions import REASONS, DecisionRefused, Desk, Reader
from service.log_in_page import opened
from service.looks import Looks
from service.results import SEG, SR
from service.screen import Language
from service.sessions import Person, Sessions
from service.store import Store

PICTURES_MAX: Final = 12
"""Of one call on the page: each costs a look into the files. A hundred organs are for a viewer."""
FIELDS_MAX: Final = 4
"""Of the form that asks for a token."""
_UID: Final = re.compile(r"[0-9.]{1,64}")
STATES: Final = {
    "RECEIVING": {"zh": "正在接收", "en": "images are still arriving"},
    "ASSEMBLED": {"zh": "已收齐，等待处理", "en": "complete, waiting"},
    "SELECTED": {"zh": "已选定模型", "en": "a model was chosen"},
    "PERMITTED": {"zh": "已获准运行", "en": "permitted to run"},
    "INFERRED": {"zh": "模型已运行", "en": "the model has run"},
    "WRITTEN": {"zh": "结果已生成，正在发送", "en": "results are on their way to the PACS"},
    "RELEASED": {"zh": "结果已送达PACS", "en": "the PACS has the results"},
    "SHADOWED": {"zh": "影子运行：结果未发送给PACS", "en": "ran in the shadow: results were not sent to the PACS"},
    "REFUSED": {"zh": "未获准，模型没有运行", "en": "refused: the model did not run"},
    "FAILED": {"zh": "失败", "en": "failed"},
    "UNDELIVERED": {"zh": "结果未能送达PACS", "en": "the PACS did not take the results"},
}
TRIGGERS: Final = {
    "COUNT_MATCHED": {"zh": "影像数与PACS一致", "en": "the PACS has exactly the images that came"},
    "SERIES_MATCHED": {"zh": "各序列影像数与PACS一致", "en": "of each series that came the PACS has exactly as much"},
    "EXPECTED_MET": {"zh": "影像自身表明已收齐", "en": "the images say that they are all there"},
    "QUIET_TIMER": {"zh": "一段时间内没有新影像到达", "en": "nothing more arrived for a while"},
}
ROLES: Final = {
    "CLINICAL_OWNER": {"zh": "临床负责人", "en": "clinical owner"},
    "RADIOLOGIST": {"zh": "放射科医师", "en": "radiologist"},
    "ASSERTED": {"zh": "送回对象中的署名（未经证实）", "en": "as an object that came back says, unproven"},
}
WITHDRAWALS: Final = {
    "QUALITY": {"zh": "质量原因", "en": "quality"},
    "SAFETY": {"zh": "患者安全原因", "en": "patient safety"},
    "SUPERSEDED": {"zh": "已被同一检查的后续结果取代", "en": "a later result of the same study stands in its place"},
}
PROBLEMS: Final = {
    "NOT_FOUND": {"zh": "没有收到过这次检查。", "en": "No such study was received."},
    "UNAVAILABLE": {
        "zh": "运行记录暂时无法读取，请稍后再试。",
        "en": "The table of runs cannot be read now; try later.",
    },
    "AUDIT_UNAVAILABLE": {
        "zh": "日志暂时无法写入；不能记录谁查看过，因此不显示。请稍后再试。",
        "en": "The log cannot be written now. Who looked cannot be recorded, so that nothing is shown; try later.",
    },
    "UNAUTHENTICATED": {"zh": "口令不对或缺失。", "en": "The token is missing or nobody's."},
    "TOO_MANY_TOKENS": {
        "zh": "此地址输入错误口令过多，请稍候再试。",
        "en": "Too many wrong tokens came from this address. Wait a minute.",
    },
    "TOO_SLOW": {"zh": "请求过慢，请重新发送。", "en": "The request came too slowly; send it again."},
    "TOO_LARGE": {"zh": "请求过大。", "en": "The request is too large."},
}


def wants_page(request: Request) -> bool:
    """Whether a browser asks: it accepts text/html, and names it before JSON."""
    types = [part.partition(";")[0].strip().lower() for part in request.headers.get("accept", "").split(",")]
    return next((one for one in types if one in {"text/html", "application/json"}), "") == "text/html"


class StudyPage:
    """Makes the page and its pictures. `results`: the folder of calls' files; `inbox`: raises sqlite3.Error."""

    def __init__(
        self,
        *,
        store: Store,
        inbox: views.Held,
        results: Path,
        desk: Desk,
        sessions: Sessions,
        looks: Looks,
        models: Callable[[Mapping[str, Any]], Manifest | None],
        default: Language,
    ) -> None:
        self._store, self._inbox, self._results = store, inbox, results
        self._desk, self._sessions, self._looks = desk, sessions, looks
        self._models, self._default = models, default

    @property
    def decided(self) -> views.Decided:
        """What the log says of calls."""
        return self._desk

    def shown(self, request: Request, study_uid: str) -> Response:
        """The page, or why there is none."""
        if self._sessions.stranger(request):
            return self.refused(request, 401, "UNAUTHENTICATED")
        return self._page(request, study_uid)

    def looked(self, request: Request, study_uid: str) -> None:
        """The log has it if whom we know is about to see the study. Raises AuditError, SQLAlchemyError."""
        person = self._sessions.looking(request)
        if person is not None:
            self._looks.at_study(person, study_uid)

    def refused(self, request: Request, status: int, code: str) -> Response:
        """A page without a study."""
        return self._answer(request, status, code)

    def opened(self, request: Request, data: bytes) -> Response:
        """A token was given, to see the page or its pictures."""
        token = "".join(value for key, value in form_pairs(request, data, FIELDS_MAX) if key == "token").strip()
        return opened(self._sessions, request, token, self._default, partial(self.refused, request))

    def picture(self, request: Request, study_uid: str, call: str, number: int) -> Response:
        """A segment of a call as PNG, for readers.

        Raises HTTPException 401, 404; AuditError, SQLAlchemyError, sqlite3.Error.
        """
        reader = self._sessions.looking(request)
        if not isinstance(reader, Reader):
            raise HTTPException(401, "a reader's token is wanted")
        runs = [run for run in self._store.of_study(study_uid) if run.call == call]
        if not runs:
            raise HTTPException(404, "there is no such picture")
        held = {one.sop_uid: one.path for one in self._inbox.instances(study_uid)}
        try:
            data = quick_look.picture(self._results / call / SEG, number, held)
        except LookRefused as refused:
            raise HTTPException(404, refused.detail) from None
        self._looks.at_study(reader, study_uid)
        return Response(data, headers=screen.HEADERS, media_type="image/png")

    def _page(self, request: Request, study_uid: str) -> Response:
        if not _UID.fullmatch(study_uid):
            return self.refused(request, 404, "NOT_FOUND")
        person = self._sessions.looking(request)
        try:
            found = views.study(self._store, self._inbox, study_uid, self._desk)
            if found is None:
                return self.refused(request, 404, "NOT_FOUND")
            held = {one.series_uid for one in self._inbox.instances(study_uid)} if found["runs"] else set()
            if person is not None:
                self._looks.at_study(person, study_uid)
        except (SQLAlchemyError, sqlite3.Error):
            return self.refused(request, 503, "UNAVAILABLE")
        except AuditError:
            return self.refused(request, 503, "AUDIT_UNAVAILABLE")
        return self._answer(request, 200, None, found, held, person)

    def _answer(
        self,
        request: Request,
        status: int,
        code: str | None,
        found: Mapping[str, Any] | None = None,
        held: frozenset[str] | set[str] = frozenset(),
        person: Person | None = None,
    ) -> Response:
        lang = screen.language(request, self._default)
        runs = [] if found is None else [self._run(run, held, lang) for run in reversed(found["runs"])]
        answer = screen.page(
            "study.html",
            lang,
            status,
            study=found,
            runs=runs,
            person=person,
            reader=isinstance(person, Reader),
            states=_words(STATES, lang),
            triggers=_words(TRIGGERS, lang),
            roles=_words(ROLES, lang),
            choices=_words(CHOICES, lang),
            reasons=_words(REASONS, lang),
            withdrawals=_words(WITHDRAWALS, lang),
            problem=PROBLEMS[code][lang] if code else None,
            code=code,
        )
        answer.headers["Vary"] = f"Accept, {screen.HEADERS['Vary']}"
        return answer

    def _run(self, run: Mapping[str, Any], held: frozenset[str] | set[str], lang: Language) -> dict[str, Any]:
        """One attempt for the page."""
        model = run["model"] or {}
        manifest = self._models(model)
        folder = None if run["call"] is None else self._results / run["call"]
        drawn = () if folder is None else _segments(folder / SEG)
        return {
            **run,
            "title": screen.title(model, manifest, lang),
            "measured": screen.measured(run["measurements"], manifest),
            "said": () if folder is None or not run["outputs"] else _statements(folder / SR),
            "open": run["call"] is not None and self._open(run["call"]),
            "pictures": drawn[:PICTURES_MAX] if run["series_uid"] in held else (),
            "more": max(0, len(drawn) - PICTURES_MAX),
            "gone": bool(drawn) and run["series_uid"] not in held,
        }

    def _open(self, call: str) -> bool:
        try:
            return self._desk.look(call).open
        except (AuditError, DecisionRefused, SQLAlchemyError):
            return False


def study_router(page: StudyPage, *, wait_s: float = BODY_WAIT_S) -> APIRouter:
    """What the page needs besides itself: its pictures, and where a token is given for them."""
    router = APIRouter(prefix="/studies")

    @router.post("/{study_uid}")
    async def post_token(request: Request) -> Response:
        try:
            data = await whole_body(request, wait_s)
        except BodyRefused as refused:
            return page.refused(request, refused.status, refused.code)
        return await run_in_threadpool(page.opened, request, data)

    @router.get("/{study_uid}/pictures/{call}/{number}.png")
    def get_picture(study_uid: str, call: str, number: int, request: Request) -> Response:
        return page.picture(request, study_uid, call, number)

    return router


def _words(table: Mapping[str, Mapping[str, str]], lang: Language) -> dict[str, str]:
    return {code: words[lang] for code, words in table.items()}


def _segments(seg: Path) -> tuple[quick_look.Named, ...]:
    try:
        return quick_look.segments(seg)
    except LookRefused:
        return ()  # nothing was outlined


def _statements(report: Path) -> tuple[readback.Statement, ...]:
    try:
        return readback.read_statements(report)
    except (BridgeError, OSError):
        return ()  # the numbers are in the table all the same
